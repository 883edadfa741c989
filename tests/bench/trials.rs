//! `make bench TRIALS=...`: what a node promises beside throughput, measured on a cluster of three.
//!
//! - `failover`: kill -9 of the leader, over and over; how long nobody could write.
//! - `handover`: RAFTTRANSFER, and SIGTERM of the leader; how long one client waited, and whether it saw a failure.
//! - `scan`: what SCAN's order over the keys costs an insert and an overwrite.
//! - `snapshots`: latency of SETs at 40 % of the peak, open loop, while nobody, a follower, the leader writes a snapshot.
//! - `stalls=MINUTES`: full load while fsyncs stall for 300 ms; whether anybody was elected. Needs strace.
//! - `volume=GIB`: memory of the nodes while a large snapshot is written, joined from, and read.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use hdrhistogram::Histogram;
use kvnode_tests::cluster::{Cluster, stat};
use kvnode_tests::writer::Writer;
use kvnode_tests::{binary, http, tool};

use crate::cells::{Cell, Operation};
use crate::load;

mod open_loop;
mod scan;
mod volume;

const REPEATS: usize = 20;
const PEAK: Cell = Cell { operation: Operation::Set, clients: 50, pipeline: 1, value_bytes: 16 };

/// Runs the trial of this name, `name` or `name=number`.
pub(crate) async fn run(trial: &str) -> Result<()> {
    let (name, number) = trial.split_once('=').unwrap_or((trial, ""));
    let number = || number.parse::<u64>().with_context(|| format!("{trial}: a number belongs behind the ="));
    match name {
        "failover" => failover().await,
        "handover" => hand_over().await,
        "scan" => scan::run(),
        "snapshots" => snapshots().await,
        "stalls" => stalls(Duration::from_secs(60 * number()?)).await,
        "volume" => volume::run(number()?).await,
        _ => bail!("no trial {name}: failover, handover, scan, snapshots, stalls=MINUTES, volume=GIB"),
    }
}

/// Median and largest.
fn spread(mut pauses: Vec<Duration>) -> String {
    pauses.sort_unstable();
    let (middle, last) = (pauses.get(pauses.len() / 2), pauses.last());
    let ms = |pause: Option<&Duration>| pause.map_or(0, Duration::as_millis);
    format!("{} times: median {} ms, longest {} ms", pauses.len(), ms(middle), ms(last))
}

async fn failover() -> Result<()> {
    let mut cluster = Cluster::start(3, &[]).await?;
    let mut pauses = Vec::new();
    for _ in 0..REPEATS {
        let leader = cluster.leader().await?;
        let addrs = (0..3).filter(|at| *at != leader).map(|at| cluster.nodes[at].addr().to_owned()).collect();
        let writer = Writer::start(addrs);
        writer.progress(20).await?;
        cluster.nodes[leader].kill()?;
        writer.progress(20).await?;
        let report = writer.stop().await?;
        pauses.push(report.longest_gap);
        report.verify(&mut cluster.leader_client().await?).await?;
        cluster.nodes[leader].start().await?;
        cluster.await_voters(3).await?;
        cluster.await_applied().await?;
    }
    println!("kill -9 of the leader, a writer on a follower, without writes {}", spread(pauses));
    Ok(())
}

async fn hand_over() -> Result<()> {
    let mut cluster = Cluster::start(3, &[]).await?;
    let (mut moved, mut stopped) = (Vec::new(), Vec::new());
    let mut failed = Vec::new();
    for round in 0..2 * REPEATS {
        let leader = cluster.leader().await?;
        let follower = (leader + 1) % 3;
        let writer = Writer::start(vec![cluster.nodes[follower].addr().to_owned()]);
        writer.progress(20).await?;
        if round % 2 == 0 {
            cluster.nodes[leader].client().await?.ok("RAFTTRANSFER").await?;
        } else {
            cluster.nodes[leader].terminate().await?;
        }
        writer.progress(50).await?;
        let report = writer.stop().await?;
        if report.without_failure().is_err() {
            failed.push(format!("{:?} {:?}", report.errors, report.unknown));
        }
        report.verify(&mut cluster.leader_client().await?).await?;
        if round % 2 == 0 {
            moved.push(report.longest_gap);
        } else {
            stopped.push(report.longest_gap);
            cluster.nodes[leader].start().await?;
        }
        cluster.await_voters(3).await?;
        cluster.await_applied().await?;
    }
    println!("RAFTTRANSFER, without writes {}", spread(moved));
    println!("SIGTERM of the leader, without writes {}", spread(stopped));
    println!(
        "commands that failed: {}{}",
        failed.len(),
        failed.first().map_or(String::new(), |e| format!(", {e}"))
    );
    Ok(())
}

#[expect(clippy::cast_precision_loss, reason = "microseconds")]
fn p99_ms(latency_us: &Histogram<u64>) -> f64 {
    latency_us.value_at_quantile(0.99) as f64 / 1000.0
}

#[expect(clippy::cast_precision_loss, reason = "counts are far below 2^52")]
async fn snapshots() -> Result<()> {
    const KEYS: usize = 1_000_000;
    let mut cluster = Cluster::start(3, &[]).await?;
    let leader = cluster.leader().await?;
    let addr = cluster.nodes[leader].addr().to_owned();
    load::preload(&addr, KEYS, PEAK.value_bytes).await?;
    cluster.await_applied().await?;
    let peak = load::run(&addr, PEAK, KEYS, Duration::from_secs(5)).await?;
    let rate = 0.4 * peak.requests as f64 / peak.elapsed.as_secs_f64();
    println!(
        "1 M keys; SET with {} clients at {rate:.0} a second, 40 % of the peak, open loop",
        PEAK.clients
    );
    let (mut follower_ratios, mut leader_ratios) = (Vec::new(), Vec::new());
    for round in 0..5 {
        let before = open_loop::run(&addr, rate, KEYS, open_loop::For(Duration::from_secs(5))).await?;
        let mut p99 = [0.0; 2];
        let mut took = [Duration::ZERO; 2];
        for (at, node) in [(leader + 1) % 3, leader].into_iter().enumerate() {
            let mut client = cluster.nodes[node].client().await?.with_patience(Duration::from_mins(5));
            let began = Instant::now();
            let snapshot = async move { client.ok("RAFTSNAPSHOT").await };
            p99[at] = p99_ms(&open_loop::run(&addr, rate, KEYS, open_loop::While(snapshot)).await?);
            took[at] = began.elapsed();
        }
        let quiet = p99_ms(&before);
        ensure!(cluster.leader().await? == leader, "the leader changed; nothing can be said");
        println!(
            "round {round}: p99 {quiet:.1} ms; while a follower snapshots ({:.1} s) {:.1} ms; the leader ({:.1} s) {:.1} ms",
            took[0].as_secs_f64(),
            p99[0],
            took[1].as_secs_f64(),
            p99[1]
        );
        follower_ratios.push(p99[0] / quiet);
        leader_ratios.push(p99[1] / quiet);
    }
    let median = crate::table::median;
    println!(
        "p99 against before, medians: follower {:.2}x, leader {:.2}x",
        median(follower_ratios),
        median(leader_ratios)
    );
    Ok(())
}

/// A program that runs the server with each hundredth sync of each thread 300 ms longer, and with small segments, so that
/// rotations and purges, which sync as well, are met all the time.
fn stalling_server(dir: &Path) -> Result<PathBuf> {
    let script = dir.join("stalling-server");
    let server = binary::server().display().to_string();
    std::fs::write(
        &script,
        format!(
            "#!/bin/sh\nexport KVNODE_LOG_SEGMENT_BYTES=4MiB KVNODE_LOG_KEEP_BYTES=4MiB\n\
             exec strace -D -f -qq --seccomp-bpf -o /dev/null -e trace=fdatasync,fsync \
             -e inject=fdatasync,fsync:delay_exit=300000:when=100+100 {server} \"$@\"\n"
        ),
    )?;
    std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755))?;
    Ok(script)
}

async fn stalls(time: Duration) -> Result<()> {
    ensure!(tool::find("strace").is_some(), "strace is not installed");
    let dir = tempfile::tempdir()?;
    let program = stalling_server(dir.path())?;
    let mut cluster = Cluster::empty(&[])?;
    for _ in 0..3 {
        let join = cluster.nodes.first().map(|node| node.addr().to_owned());
        cluster.add_by(&program, join.as_deref()).await?;
    }
    cluster.await_voters(3).await?;
    let leader = cluster.leader().await?;
    let addr = cluster.nodes[leader].addr().to_owned();
    let term = stat(&mut cluster.leader_client().await?, "term").await?;
    let end = Instant::now() + time;
    let (mut requests, mut slowest) = (0, 0);
    while Instant::now() < end {
        let measured = load::run(&addr, PEAK, 1_000_000, Duration::from_mins(1).min(time)).await?;
        requests += measured.requests;
        slowest = slowest.max(measured.latency_us.max() / 1000);
        let now = stat(&mut cluster.leader_client().await?, "term").await?;
        eprintln!("{requests} SETs, slowest {slowest} ms, term {now}");
        ensure!(now == term, "elected in between: term {term} became {now}\n{}", cluster.logs());
    }
    let stalls = syncs(&cluster).await? / 100;
    println!(
        "{} minutes, {requests} SETs (slowest {slowest} ms), about {stalls} stalls of 300 ms on three nodes, term {term} from start to end: no election",
        time.as_secs() / 60
    );
    Ok(())
}

/// Log syncs of all nodes.
async fn syncs(cluster: &Cluster) -> Result<u64> {
    let mut sum = 0;
    for node in &cluster.nodes {
        let text = http::get(node.http(), "/metrics").await?.text();
        let line = text.lines().find(|line| line.starts_with("kvnode_log_sync_duration_seconds_count{"));
        let count = line.and_then(|line| line.rsplit(' ').next()).context("the counter of syncs")?;
        sum += count.parse::<u64>()?;
    }
    Ok(sum)
}

/// Resident memory of a process in MiB: now, and at its highest.
fn memory_mib(pid: rustix::process::Pid) -> Result<(u64, u64)> {
    let status = std::fs::read_to_string(format!("/proc/{}/status", pid.as_raw_nonzero()))?;
    let field = |name: &str| -> Result<u64> {
        let line = status.lines().find_map(|line| line.strip_prefix(name)).context("a line of its status")?;
        Ok(line.trim().trim_end_matches(" kB").parse::<u64>()? / 1024)
    };
    Ok((field("VmRSS:")?, field("VmHWM:")?))
}
