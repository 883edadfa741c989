//! Full load while syncs stall for longer than an election timeout.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use kvnode_tests::cluster::{Cluster, stat};
use kvnode_tests::{binary, tool};

use super::{LOG_SYNCS, PEAK, counter};
use crate::cells::Cell;
use crate::links::Link;
use crate::load;
use crate::report::Section;
use crate::throttle::Throttled;

/// What links add to each round trip between the nodes.
const ROUND_TRIP: Duration = Duration::from_millis(10);
/// Over such links it takes this many clients until CPU is what is short.
const MANY: Cell = Cell { clients: 1000, ..PEAK };
/// What the starved node gets of one core.
const SHARE_PERCENT: u64 = 10;

/// A program that runs the server with each hundredth sync of each thread 300 ms longer, and with small segments, so
/// that rotations and purges, which sync as well, are met all the time.
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

/// Full load for so long; fails if anybody was elected.
pub(super) async fn run(time: Duration, section: &mut Section) -> Result<()> {
    let (dir, program) = stalling()?;
    let mut cluster = Cluster::empty(&[])?;
    for _ in 0..3 {
        let join = cluster.nodes.first().map(|node| node.addr().to_owned());
        cluster.add_by(&program, join.as_deref()).await?;
    }
    cluster.await_voters(3).await?;
    let said = steady(&mut cluster, PEAK, time).await?;
    drop((cluster, dir));
    section.say(said);
    Ok(())
}

/// The same with nodes that are far from each other, one of which has next to no CPU: a follower, then the leader.
pub(super) async fn hardship(time: Duration, section: &mut Section) -> Result<()> {
    let (dir, program) = stalling()?;
    let links: Vec<Link> = (0..3).map(|_| Link::start(ROUND_TRIP)).collect::<Result<_>>()?;
    let mut cluster = super::links::behind(&links, &program).await?;
    for role in ["a follower", "the leader"] {
        let leader = cluster.leader().await?;
        let node = if role == "the leader" { leader } else { (leader + 1) % cluster.nodes.len() };
        let throttled = Throttled::start(cluster.nodes[node].pid()?, SHARE_PERCENT)?;
        let said = steady(&mut cluster, MANY, time / 2).await.with_context(|| format!("{role} throttled"))?;
        let (times, stood_ms) = throttled.stood()?;
        section.say(format!(
            "{role} with {SHARE_PERCENT} % of a core (it stood {times} times, {} s in all), round trips of {} ms: {said}",
            stood_ms / 1000,
            ROUND_TRIP.as_millis()
        ));
    }
    drop((cluster, links, dir));
    Ok(())
}

fn stalling() -> Result<(tempfile::TempDir, PathBuf)> {
    ensure!(tool::find("strace").is_some(), "strace is not installed");
    let dir = tempfile::tempdir()?;
    let program = stalling_server(dir.path())?;
    Ok((dir, program))
}

/// Full load for so long, and what came of it; fails if anybody was elected.
async fn steady(cluster: &mut Cluster, cell: Cell, time: Duration) -> Result<String> {
    let leader = cluster.leader().await?;
    let addr = cluster.nodes[leader].addr().to_owned();
    let term = stat(&mut cluster.leader_client().await?, "term").await?;
    let syncs =
        async |cluster: &Cluster| Ok::<u64, anyhow::Error>(counter(cluster, LOG_SYNCS).await?.iter().sum());
    let before = syncs(cluster).await?;
    let end = Instant::now() + time;
    let (mut requests, mut slowest) = (0, 0);
    while Instant::now() < end {
        let measured = load::run(&addr, cell, 1_000_000, Duration::from_mins(1).min(time)).await?;
        requests += measured.requests;
        slowest = slowest.max(measured.latency_us.max() / 1000);
        let now = stat(&mut cluster.leader_client().await?, "term").await?;
        eprintln!("{requests} SETs, slowest {slowest} ms, term {now}");
        ensure!(now == term, "elected in between: term {term} became {now}\n{}", cluster.logs());
    }
    let stalls = (syncs(cluster).await? - before) / 100;
    Ok(format!(
        "{} minutes, {requests} SETs (slowest {slowest} ms), about {stalls} stalls of 300 ms on three nodes, term {term} \
         from start to end: no election",
        time.as_secs() / 60
    ))
}
