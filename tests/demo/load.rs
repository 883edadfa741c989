//! Clients that write without end, and remember enough to notice a lost write.
//!
//! ```text
//! writer w, write n  ->  SET demo:<w>:<n mod SLOTS> n        n counts up, so a slot's values only grow
//! ledger of w            slot -> newest acknowledged n; values whose outcome is unknown
//! check                  a slot that reads lower than its acknowledged n, and not one of the unknown: lost
//! ```
//!
//! So the newest `WRITERS * SLOTS` acknowledged writes can be read back at any time, however long the demo runs.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use hdrhistogram::Histogram;
use kvnode_tests::client::{CallError, Client};
use tokio::task::JoinSet;

/// Connections.
const WRITERS: usize = 16;
/// Keys of each.
const SLOTS: usize = 2048;
/// Keys of one MGET.
const PAGE: usize = 512;
/// A write that takes longer is given up as unknown.
const PATIENCE: Duration = Duration::from_secs(10);

/// What all writers have seen.
pub(crate) struct Stats {
    /// Writes acknowledged.
    pub(crate) acknowledged: u64,
    /// Writes refused: known not to be done.
    pub(crate) refused: u64,
    /// Writes without a reply: the writer's own node died.
    pub(crate) unknown: u64,
    /// Longest time without an acknowledgement since [`Load::forget_gap`].
    pub(crate) longest_gap: Duration,
    last: Instant,
    latency_us: Histogram<u64>,
}

/// What one writer knows of each of its slots.
#[derive(Default)]
struct Ledger {
    acknowledged: BTreeMap<usize, u64>,
    unknown: BTreeMap<usize, Vec<u64>>,
}

/// The running writers.
pub(crate) struct Load {
    stats: Arc<Mutex<Stats>>,
    ledgers: Vec<Arc<Mutex<Ledger>>>,
    _tasks: JoinSet<()>,
}

/// Result of reading back.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Checked {
    /// Acknowledged writes read back.
    pub(crate) writes: usize,
    /// Those that are not there.
    pub(crate) lost: usize,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn key(writer: usize, slot: usize) -> String {
    format!("demo:{writer}:{slot}")
}

impl Load {
    /// Starts writing to these nodes, each writer to another one first.
    pub(crate) fn start(addrs: &[String]) -> Result<Self> {
        let stats = Stats {
            acknowledged: 0,
            refused: 0,
            unknown: 0,
            longest_gap: Duration::ZERO,
            last: Instant::now(),
            latency_us: Histogram::new_with_bounds(1, 60_000_000, 3)?,
        };
        let stats = Arc::new(Mutex::new(stats));
        let mut tasks = JoinSet::new();
        let mut ledgers = Vec::new();
        for writer in 0..WRITERS {
            let ledger = Arc::new(Mutex::new(Ledger::default()));
            tasks.spawn(write(writer, addrs.to_vec(), Arc::clone(&stats), Arc::clone(&ledger)));
            ledgers.push(ledger);
        }
        Ok(Self { stats, ledgers, _tasks: tasks })
    }

    /// A look at the counts.
    pub(crate) fn stats(&self) -> MutexGuard<'_, Stats> {
        lock(&self.stats)
    }

    /// Begins to measure the longest gap anew.
    pub(crate) fn forget_gap(&self) {
        self.stats().longest_gap = Duration::ZERO;
    }

    /// 99th percentile of the latencies since the last call.
    pub(crate) fn take_p99(&self) -> Duration {
        let mut stats = self.stats();
        let p99 = Duration::from_micros(stats.latency_us.value_at_quantile(0.99));
        stats.latency_us.reset();
        p99
    }

    /// Reads every slot back while the writers go on: values only grow.
    pub(crate) async fn check(&self, addr: &str) -> Result<Checked> {
        let mut client = Client::connect(addr).await?.with_patience(PATIENCE);
        let mut checked = Checked::default();
        for (writer, ledger) in self.ledgers.iter().enumerate() {
            let acknowledged: Vec<(usize, u64)> = lock(ledger).acknowledged.clone().into_iter().collect();
            for page in acknowledged.chunks(PAGE) {
                let mut command = vec!["MGET".to_owned()];
                command.extend(page.iter().map(|&(slot, _)| key(writer, slot)));
                let reply = client.call(&command).await?;
                let values = reply.items();
                ensure!(values.len() == page.len(), "MGET answered {reply:?}");
                for (&(slot, newest), value) in page.iter().zip(values) {
                    let found = value.as_text().and_then(|text| text.parse::<u64>().ok());
                    let there = found.is_some_and(|found| {
                        let ledger = lock(ledger);
                        found >= newest
                            || ledger.unknown.get(&slot).is_some_and(|values| values.contains(&found))
                    });
                    checked.writes += 1;
                    checked.lost += usize::from(!there);
                }
            }
        }
        Ok(checked)
    }
}

async fn write(writer: usize, addrs: Vec<String>, stats: Arc<Mutex<Stats>>, ledger: Arc<Mutex<Ledger>>) {
    let mut client: Option<Client> = None;
    let mut turn = writer;
    let mut number: u64 = 0;
    loop {
        let Some(connected) = client.as_mut() else {
            client = connect(&addrs[turn % addrs.len()]).await.ok();
            turn += 1;
            tokio::task::yield_now().await;
            continue;
        };
        number += 1;
        let slot = usize::try_from(number).unwrap_or(0) % SLOTS;
        let begun = Instant::now();
        match connected.call(&["SET", &key(writer, slot), &number.to_string()]).await {
            Ok(reply) if reply.is_ok() => {
                // First the ledger: a check may only ever expect too little.
                lock(&ledger).acknowledged.insert(slot, number);
                note(&mut lock(&stats), begun);
            }
            Ok(reply) if !format!("{reply:?}").contains("outcome unknown") => lock(&stats).refused += 1,
            outcome => {
                lock(&stats).unknown += 1;
                lock(&ledger).unknown.entry(slot).or_default().push(number);
                if outcome.is_err() {
                    client = None;
                }
            }
        }
    }
}

async fn connect(addr: &str) -> Result<Client, CallError> {
    Ok(Client::connect(addr).await?.with_patience(PATIENCE))
}

fn note(stats: &mut Stats, begun: Instant) {
    let now = Instant::now();
    stats.acknowledged += 1;
    stats.longest_gap = stats.longest_gap.max(now.duration_since(stats.last));
    stats.last = now;
    let micros = u64::try_from(now.duration_since(begun).as_micros()).unwrap_or(u64::MAX);
    stats.latency_us.saturating_record(micros);
}

/// Facts of one node, asked again and again on one connection.
pub(crate) async fn ask(client: &mut Client) -> Result<(BTreeMap<String, String>, i64)> {
    client.ok("READONLY").await?;
    let texts = client.run("RAFTSTATS").await?.texts();
    let stats = texts.chunks_exact(2).map(|pair| (pair[0].clone(), pair[1].clone())).collect();
    let keys = client.int("DBSIZE").await.context("DBSIZE")?;
    Ok((stats, keys))
}
