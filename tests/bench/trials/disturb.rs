//! Latency of SETs at 40 % of the peak, open loop, while something else goes on in the cluster of three.
//!
//! Each disturbance is measured right after a quiet time of its own, and its p99 is told as a multiple of that. Every
//! round is a cluster of its own: a learner that joined or keys that were deleted are not undone.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use kvnode_tests::client::Client;
use kvnode_tests::cluster::{Cluster, stat};
use kvnode_tests::resp;
use kvnode_tests::wait::eventually;
use serde_json::json;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use super::{PEAK, counter};
use crate::cells::{Cell, Operation};
use crate::load::{self, Measured};
use crate::matrix::start;
use crate::open::{self, For, Stream, Until, While};
use crate::options::Options;
use crate::report::{Report, Section};
use crate::sample::{median, merge, quantile_ms, raw, real};
use crate::systems::{Kind, System};

/// What goes on, in the order in which it is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Disturbance {
    /// RAFTSNAPSHOT on a follower.
    FollowerSnapshot,
    /// RAFTSNAPSHOT on the leader.
    LeaderSnapshot,
    /// One client that writes values of 16 MiB, one after the other.
    LargeValues,
    /// PDEL of as many keys as were loaded.
    Deletion,
    /// RAFTSHRINKLOG on all nodes: flush, checkpoint, purge, and the compaction of what the deletion emptied.
    Compaction,
    /// A learner that joins, gets a checkpoint and becomes a voter.
    Joining,
}

/// All.
pub(super) const ALL: [Disturbance; 6] = [
    Disturbance::FollowerSnapshot,
    Disturbance::LeaderSnapshot,
    Disturbance::LargeValues,
    Disturbance::Deletion,
    Disturbance::Compaction,
    Disturbance::Joining,
];
/// Those about snapshots.
pub(super) const SNAPSHOTS: [Disturbance; 2] = [Disturbance::FollowerSnapshot, Disturbance::LeaderSnapshot];

/// Part of the peak that the stream takes.
const PART: f64 = 0.4;
/// Longest time for one disturbance.
const PATIENCE: Duration = Duration::from_mins(5);
const LARGE_BYTES: usize = 16 << 20;
/// Large values are written over and over to so many keys.
const LARGE_KEYS: usize = 4;

impl Disturbance {
    fn name(self) -> &'static str {
        match self {
            Self::FollowerSnapshot => "a follower writes a snapshot",
            Self::LeaderSnapshot => "the leader writes a snapshot",
            Self::LargeValues => "a client writes values of 16 MiB",
            Self::Deletion => "PDEL of all loaded keys",
            Self::Compaction => "log purged, emptied ranges compacted",
            Self::Joining => "a learner joins and becomes a voter",
        }
    }
}

/// What one run of one disturbance gave.
struct Run {
    of: Disturbance,
    took: Duration,
    quiet: Measured,
    during: Measured,
}

pub(super) async fn run(
    disturbances: &[Disturbance],
    options: &Options,
    report: &mut Report,
    section: &mut Section,
) -> Result<()> {
    let keys = options.keys.unwrap_or(if options.is_quick { 100_000 } else { 1_000_000 });
    let time = Duration::from_secs(if options.is_quick { 2 } else { 5 });
    let rounds = options.rounds.unwrap_or(if options.is_quick { 1 } else { 3 });
    let mut runs = Vec::new();
    let mut rate = None;
    for round in 0..rounds {
        let System::Ours(mut cluster) = start(Kind::Ours(3), report).await? else { bail!("not ours") };
        let stream = prepare(&mut cluster, keys, time, &mut rate).await?;
        if round == 0 {
            section.say(format!(
                "{keys} keys; SET of {} B with {} clients at {:.0} a second, 40 % of the peak, open loop; {rounds} \
                 rounds",
                stream.value_bytes, stream.clients, stream.rate
            ));
        }
        for &of in disturbances {
            let run = measure(&mut cluster, of, stream, keys, time).await.with_context(|| of.name())?;
            let mut fields = json!({"disturbance": of.name(), "round": round + 1, "keys": keys,
                "rate": stream.rate, "took_s": run.took.as_secs_f64()});
            fields["quiet"] = raw(&run.quiet, 0.0);
            merge(&mut fields, raw(&run.during, 0.0));
            report.record("disturb", fields)?;
            runs.push(run);
        }
    }
    show(disturbances, &runs, section);
    Ok(())
}

/// Loads two ranges of keys, one that is written over and one that is deleted later; measures the peak once.
async fn prepare(
    cluster: &mut Cluster,
    keys: usize,
    time: Duration,
    rate: &mut Option<f64>,
) -> Result<Stream> {
    let leader = cluster.leader().await?;
    let addr = cluster.nodes[leader].addr().to_owned();
    load::preload(&addr, 0..keys, PEAK.value_bytes).await?;
    load_deleted(&addr, keys).await?;
    cluster.await_applied().await?;
    if rate.is_none() {
        let peak = load::run(&addr, PEAK, keys, time).await?;
        *rate = Some(PART * real(peak.requests) / peak.elapsed.as_secs_f64());
    }
    let Cell { clients, value_bytes, .. } = PEAK;
    let rate = rate.context("it was measured")?;
    Ok(Stream { operation: Operation::Set, rate, clients, keys, value_bytes, is_etcd: false })
}

async fn load_deleted(addr: &str, keys: usize) -> Result<()> {
    const BATCH: usize = 1000;
    let mut stream = TcpStream::connect(addr).await?;
    let (value, mut input) = ("d".repeat(PEAK.value_bytes), Vec::new());
    for first in (0..keys).step_by(BATCH) {
        let (mut out, last) = (Vec::new(), keys.min(first + BATCH));
        for number in first..last {
            resp::encode(&["SET", &format!("del:{number:012}"), &value], &mut out);
        }
        stream.write_all(&out).await?;
        load::receive(&mut stream, &mut input, last - first).await?;
    }
    Ok(())
}

async fn measure(
    cluster: &mut Cluster,
    of: Disturbance,
    stream: Stream,
    keys: usize,
    time: Duration,
) -> Result<Run> {
    let leader = cluster.leader().await?;
    let addr = cluster.nodes[leader].addr().to_owned();
    if of == Disturbance::Joining {
        // The log is gone then, so that the learner needs a checkpoint.
        cluster.nodes[leader].client().await?.with_patience(PATIENCE).ok("RAFTSHRINKLOG").await?;
    }
    let quiet = open::run(&addr, stream, For(time)).await?;
    let began = Instant::now();
    let disturbance = disturb(cluster, of, leader, keys, time);
    let during = open::run(&addr, stream, While(disturbance)).await?;
    let took = during.elapsed.min(began.elapsed());
    ensure!(cluster.leader().await? == leader, "the leader changed; nothing can be said");
    Ok(Run { of, took, quiet, during })
}

async fn disturb(
    cluster: &mut Cluster,
    of: Disturbance,
    leader: usize,
    keys: usize,
    time: Duration,
) -> Result<()> {
    let follower = (leader + 1) % cluster.nodes.len();
    let client = async |node: usize| -> Result<Client> {
        Ok(cluster.nodes[node].client().await?.with_patience(PATIENCE))
    };
    match of {
        Disturbance::FollowerSnapshot => client(follower).await?.ok("RAFTSNAPSHOT").await,
        Disturbance::LeaderSnapshot => client(leader).await?.ok("RAFTSNAPSHOT").await,
        Disturbance::LargeValues => write_large(client(leader).await?, time).await,
        Disturbance::Deletion => {
            let deleted = client(leader).await?.int("PDEL del:*").await?;
            ensure!(usize::try_from(deleted)? == keys, "PDEL deleted {deleted} of {keys} keys");
            Ok(())
        }
        Disturbance::Compaction => {
            let before = counter(cluster, "kvnode_store_files_bytes").await?;
            for node in 0..cluster.nodes.len() {
                client(node).await?.ok("RAFTSHRINKLOG").await?;
            }
            // The range that was emptied is compacted after that flush, by and by.
            For(time).end().await?;
            let after = counter(cluster, "kvnode_store_files_bytes").await?;
            eprintln!("bytes of state files of each node: {before:?} before, {after:?} after");
            Ok(())
        }
        Disturbance::Joining => {
            let target = stat(&mut client(leader).await?, "last_log_index").await?;
            let join = cluster.nodes[leader].addr().to_owned();
            let added = cluster.add(Some(&join)).await?;
            eventually("the new node has applied what there was", PATIENCE, async || {
                let mut client = cluster.nodes[added].client().await?;
                Ok((stat(&mut client, "applied_index").await? >= target).then_some(()))
            })
            .await?;
            cluster.await_voters(added + 1).await
        }
    }
}

async fn write_large(mut client: Client, time: Duration) -> Result<()> {
    let value = vec![b'L'; LARGE_BYTES];
    let end = Instant::now() + time;
    let mut written = 0_usize;
    while Instant::now() < end {
        let key = format!("large:{}", written % LARGE_KEYS);
        let reply = client.call(&[b"SET".as_slice(), key.as_bytes(), &value]).await?;
        ensure!(reply.is_ok(), "a value of {LARGE_BYTES} bytes: {reply:?}");
        written += 1;
    }
    eprintln!("{written} values of 16 MiB written");
    Ok(())
}

fn show(disturbances: &[Disturbance], runs: &[Run], section: &mut Section) {
    let mut rows = Vec::new();
    for &of in disturbances {
        let own = || runs.iter().filter(|run| run.of == of);
        let middle = |value: &dyn Fn(&Run) -> f64| median(own().map(value).collect());
        let quantile = |part: &'static str, quantile: f64| {
            middle(&|run| {
                let measured = if part == "quiet" { &run.quiet } else { &run.during };
                quantile_ms(&measured.latency_us, quantile)
            })
        };
        let ratio = middle(&|run| {
            quantile_ms(&run.during.latency_us, 0.99) / quantile_ms(&run.quiet.latency_us, 0.99)
        });
        let mut row = vec![of.name().to_owned(), format!("{:.1}", middle(&|run| run.took.as_secs_f64()))];
        for part in ["quiet", "during"] {
            row.extend([0.5, 0.99, 0.999].map(|q| format!("{:.2}", quantile(part, q))));
        }
        row.extend([
            format!("{:.1}", middle(&|run| quantile_ms(&run.during.latency_us, 1.0))),
            format!("{ratio:.2}"),
            own().map(|run| run.during.refused).sum::<u64>().to_string(),
        ]);
        rows.push(row);
    }
    section
        .say("ms from the moment at which a request was due, medians of the rounds; quiet is right before");
    let head = [
        "while",
        "took s",
        "quiet p50",
        "quiet p99",
        "quiet p99.9",
        "p50",
        "p99",
        "p99.9",
        "longest",
        "p99 : quiet p99",
        "not served",
    ];
    section.show(head.map(str::to_owned).to_vec(), rows);
}
