//! Full load while syncs stall for longer than an election timeout.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use kvnode_tests::cluster::{Cluster, stat};
use kvnode_tests::{binary, tool};

use super::{LOG_SYNCS, PEAK, counter};
use crate::load;
use crate::report::Section;

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
    let stalls = counter(&cluster, LOG_SYNCS).await?.iter().sum::<u64>() / 100;
    section.say(format!(
        "{} minutes, {requests} SETs (slowest {slowest} ms), about {stalls} stalls of 300 ms \
         on three nodes, term {term} from start to end: no election",
        time.as_secs() / 60
    ));
    Ok(())
}
