//! Counters (INCR), compare-and-set (SET IFEQ, and WATCH with MULTI and EXEC on the same keys) and locks (SET NX PX, given
//! back by DELIFEQ or by the script of the lock libraries), under the same faults.
//!
//! Locks last longer than the test, so that two holders at once are a violation whatever the clocks do.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use kvnode_tests::chain::{self, Deed, Step, Swap};
use kvnode_tests::client::{CallError, Client};
use kvnode_tests::cluster::Cluster;
use kvnode_tests::history::was_never_proposed;
use kvnode_tests::nemesis::{self, Progress};
use kvnode_tests::resp::Value;
use kvnode_tests::scenario::scenario;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::task::JoinSet;

const CLIENTS: usize = 8;
const COUNTERS: usize = 4;
const REGISTERS: usize = 4;
/// Many: one whose holder is not known stays held.
const LOCKS: usize = 32;
const FAULTS: usize = 5;
const LEASE_MS: &str = "240000";
const UNLOCK: &str =
    "if redis.call('get', KEYS[1]) == ARGV[1] then return redis.call('del', KEYS[1]) else return 0 end";

/// Somebody held a lock at least from the first moment to the second one.
#[derive(Clone, Copy, Debug)]
struct Hold {
    from: u64,
    to: u64,
}

struct Record {
    start: Instant,
    finished: AtomicUsize,
    values: AtomicU64,
    counters: Vec<Mutex<Vec<Step>>>,
    registers: Vec<Mutex<Vec<(Swap, Step)>>>,
    holds: Vec<Mutex<Vec<Hold>>>,
}

fn many<T>(count: usize) -> Vec<Mutex<Vec<T>>> {
    (0..count).map(|_| Mutex::default()).collect()
}

impl Record {
    fn now(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    fn add<T>(&self, list: &Mutex<Vec<T>>, item: T) {
        list.lock().expect("no client panics while adding").push(item);
        self.finished.fetch_add(1, Ordering::Relaxed);
    }
}

impl Progress for Record {
    fn finished(&self) -> usize {
        self.finished.load(Ordering::Relaxed)
    }
}

#[test]
fn counters_swaps_and_locks_are_linearizable() {
    const SEED: u64 = 5;
    scenario(3, &[], async |cluster| {
        let record = Arc::new(Record {
            start: Instant::now(),
            finished: AtomicUsize::new(0),
            values: AtomicU64::new(1),
            counters: many(COUNTERS),
            registers: many(REGISTERS),
            holds: many(LOCKS),
        });
        let mut client = cluster.leader_client().await?;
        for register in 0..REGISTERS {
            client.ok(&format!("SET x{register} 0")).await?;
        }
        let stop = Arc::new(AtomicBool::new(false));
        let addrs: Vec<String> = cluster.nodes.iter().map(|node| node.addr().to_owned()).collect();
        let mut clients = JoinSet::new();
        for number in 0..CLIENTS {
            let random = StdRng::seed_from_u64(SEED * 1000 + number as u64);
            let worker = Worker { addrs: addrs.clone(), record: Arc::clone(&record), random };
            clients.spawn(worker.run(Arc::clone(&stop)));
        }
        let tormented = nemesis::torment(cluster, record.as_ref(), SEED, FAULTS).await;
        stop.store(true, Ordering::Relaxed);
        while let Some(ended) = clients.join_next().await {
            ended??;
        }
        let faults = tormented?;
        cluster.await_voters(3).await?;
        cluster.same_content().await?;
        look_again(cluster, &record).await?;
        judge(&record)?;
        println!("seed {SEED}: {} operations, faults {faults:?}", record.finished());
        Ok(())
    });
}

async fn look_again(cluster: &mut Cluster, record: &Record) -> Result<()> {
    let mut client = cluster.leader_client().await?;
    for (key, list) in record.counters.iter().enumerate() {
        let call = record.now();
        let place = number(&client.run(&format!("GET c{key}")).await?)?;
        record.add(list, Step { deed: Deed::Read(place), call, end: Some(record.now()) });
    }
    for (key, list) in record.registers.iter().enumerate() {
        let call = record.now();
        let value = number(&client.run(&format!("GET x{key}")).await?)?;
        record.add(list, (Swap::Saw(value), seen(call, record.now())));
    }
    Ok(())
}

fn judge(record: &Record) -> Result<()> {
    let (mut steps, mut swaps, mut sections) = (0, 0, 0);
    for (key, list) in record.counters.iter().enumerate() {
        let list = list.lock().expect("all clients have ended");
        chain::check(&list).map_err(|why| anyhow::anyhow!("counter c{key}: {why}"))?;
        steps += list.iter().filter(|step| matches!(step.deed, Deed::Write(_))).count();
    }
    for (key, list) in record.registers.iter().enumerate() {
        let list = list.lock().expect("all clients have ended");
        chain::check_swaps(&list).map_err(|why| anyhow::anyhow!("register x{key}: {why}"))?;
        let is_done = |(swap, step): &&(Swap, Step)| matches!(swap, Swap::From(..)) && step.end.is_some();
        swaps += list.iter().filter(is_done).count();
    }
    for (key, list) in record.holds.iter().enumerate() {
        let mut list = list.lock().expect("all clients have ended").clone();
        list.sort_by_key(|hold| hold.from);
        for pair in list.windows(2) {
            ensure!(pair[0].to <= pair[1].from, "lock l{key}: held twice, {pair:?}");
        }
        sections += list.len();
    }
    ensure!(
        steps > 300 && swaps > 100 && sections > 30,
        "{steps} increments, {swaps} swaps, {sections} locked sections: the history proves little"
    );
    Ok(())
}

/// The number that a GET's reply shows; a missing key is 0.
fn number(reply: &Value) -> Result<u64> {
    match reply {
        Value::Nil => Ok(0),
        other => Ok(other.as_text().with_context(|| format!("{other:?}"))?.parse()?),
    }
}

fn seen(call: u64, end: u64) -> Step {
    Step { deed: Deed::Unknown, call, end: Some(end) }
}

/// What became of a write.
enum Became<'a> {
    Answered(&'a Value),
    NotDone,
    Unknown,
}

fn became(reply: Option<&Value>) -> Became<'_> {
    match reply {
        Some(reply) if reply.as_error().is_some_and(was_never_proposed) => Became::NotDone,
        Some(reply) if reply.as_error().is_none() => Became::Answered(reply),
        _ => Became::Unknown,
    }
}

struct Worker {
    addrs: Vec<String>,
    record: Arc<Record>,
    random: StdRng,
}

/// A connection that is lost is no failure, a contradiction is.
enum Trouble {
    Lost,
    Wrong(anyhow::Error),
}

impl From<CallError> for Trouble {
    fn from(_: CallError) -> Self {
        Self::Lost
    }
}

impl Worker {
    async fn run(mut self, stop: Arc<AtomicBool>) -> Result<()> {
        let mut connection: Option<Client> = None;
        while !stop.load(Ordering::Relaxed) {
            let Some(mut client) = connection.take() else {
                let addr = &self.addrs[self.random.random_range(0..self.addrs.len())];
                connection = Client::connect(addr).await.ok();
                connection = connection.map(|client| client.with_patience(Duration::from_secs(8)));
                tokio::task::yield_now().await;
                continue;
            };
            let done = match self.random.random_range(0..10) {
                0..4 => self.count(&mut client).await,
                4..6 => self.swap(&mut client).await,
                6..8 => self.transact(&mut client).await,
                _ => self.lock(&mut client).await,
            };
            match done {
                Ok(()) if self.random.random_bool(0.98) => connection = Some(client),
                Ok(()) | Err(Trouble::Lost) => {}
                Err(Trouble::Wrong(error)) => return Err(error),
            }
        }
        Ok(())
    }

    async fn count(&mut self, client: &mut Client) -> Result<(), Trouble> {
        let key = self.random.random_range(0..COUNTERS);
        let name = format!("c{key}");
        let list = &self.record.counters[key];
        let call = self.record.now();
        if self.random.random_bool(0.4) {
            let reply = client.call(&["GET", &name]).await?;
            if let Ok(place) = number(&reply) {
                self.record.add(list, Step { deed: Deed::Read(place), call, end: Some(self.record.now()) });
            }
            return Ok(());
        }
        let result = client.call(&["INCR", &name]).await;
        let step = match became(result.as_ref().ok()) {
            Became::Answered(Value::Int(place)) => {
                let place = u64::try_from(*place).map_err(|error| Trouble::Wrong(error.into()))?;
                Step { deed: Deed::Write(place), call, end: Some(self.record.now()) }
            }
            Became::NotDone => return Ok(()),
            Became::Answered(_) | Became::Unknown => Step { deed: Deed::Unknown, call, end: None },
        };
        self.record.add(list, step);
        Ok(result.map(drop)?)
    }

    /// Reads a register; `None` if there was no value.
    async fn look(&self, client: &mut Client, key: usize) -> Result<Option<u64>, Trouble> {
        let call = self.record.now();
        let Ok(value) = number(&client.call(&["GET", &format!("x{key}")]).await?) else { return Ok(None) };
        self.record.add(&self.record.registers[key], (Swap::Saw(value), seen(call, self.record.now())));
        Ok(Some(value))
    }

    async fn swap(&mut self, client: &mut Client) -> Result<(), Trouble> {
        let key = self.random.random_range(0..REGISTERS);
        let Some(old) = self.look(client, key).await? else { return Ok(()) };
        let new = self.record.values.fetch_add(1, Ordering::Relaxed);
        let call = self.record.now();
        let words = ["SET", &format!("x{key}"), &new.to_string(), "IFEQ", &old.to_string()];
        let result = client.call(&words).await;
        let end = self.record.now();
        let item = match became(result.as_ref().ok()) {
            Became::Answered(Value::Nil) => (Swap::NotFrom(old), seen(call, end)),
            Became::Answered(reply) if reply.is_ok() => (Swap::From(old, new), seen(call, end)),
            Became::NotDone => return Ok(()),
            Became::Answered(_) | Became::Unknown => {
                (Swap::From(old, new), Step { deed: Deed::Unknown, call, end: None })
            }
        };
        self.record.add(&self.record.registers[key], item);
        Ok(result.map(drop)?)
    }

    async fn transact(&mut self, client: &mut Client) -> Result<(), Trouble> {
        let key = self.random.random_range(0..REGISTERS);
        let name = format!("x{key}");
        if !client.call(&["WATCH", &name]).await?.is_ok() {
            return Ok(());
        }
        let Some(old) = self.look(client, key).await? else { return Err(Trouble::Lost) };
        let new = self.record.values.fetch_add(1, Ordering::Relaxed);
        let words = |line: &str| line.split(' ').map(str::to_owned).collect::<Vec<String>>();
        let transaction = [words("MULTI"), words(&format!("SET {name} {new}")), words("EXEC")];
        let call = self.record.now();
        let result = client.pipeline(&transaction).await;
        let end = self.record.now();
        let step = match became(result.as_ref().ok().and_then(|replies| replies.last())) {
            Became::Answered(Value::Nil) | Became::NotDone => return Ok(()),
            Became::Answered(reply) if reply.items().iter().all(|item| item.is_ok()) => seen(call, end),
            Became::Answered(_) | Became::Unknown => Step { deed: Deed::Unknown, call, end: None },
        };
        self.record.add(&self.record.registers[key], (Swap::From(old, new), step));
        Ok(result.map(drop)?)
    }

    async fn lock(&mut self, client: &mut Client) -> Result<(), Trouble> {
        let key = self.random.random_range(0..LOCKS);
        let (name, token) = (format!("l{key}"), self.record.values.fetch_add(1, Ordering::Relaxed));
        let owner = token.to_string();
        if !client.call(&["SET", &name, &owner, "NX", "PX", LEASE_MS]).await?.is_ok() {
            return Ok(());
        }
        let from = self.record.now();
        let held = client.call(&["GET", &name]).await;
        if let Ok(other) = &held
            && other.as_error().is_none()
            && other.as_text() != Some(&owner)
        {
            return Err(Trouble::Wrong(anyhow::anyhow!("{name} was taken with {owner} and holds {other:?}")));
        }
        let to = self.record.now();
        self.record.add(&self.record.holds[key], Hold { from, to });
        held?;
        let freed = if self.random.random_bool(0.5) {
            client.call(&["DELIFEQ", &name, &owner]).await?
        } else {
            client.call(&["EVAL", UNLOCK, "1", &name, &owner]).await?
        };
        match freed {
            Value::Int(0) => Err(Trouble::Wrong(anyhow::anyhow!("{name} was not {owner}'s any more"))),
            _ => Ok(()),
        }
    }
}
