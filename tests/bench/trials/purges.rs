//! Full load of values of 1 KiB while the log is purged under it: what broke the Raft library (openraft issue 2116), whose
//! core ended when a purge overtook an entry that waited to be applied.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use kvnode_tests::cluster::{Cluster, stat};

use super::counter;
use crate::cells::{Cell, Operation};
use crate::load;
use crate::open::{For, Until};
use crate::report::Section;

const LOAD: Cell = Cell { operation: Operation::Set, clients: 50, pipeline: 4, value_bytes: 1024 };
const KEYS: usize = 50_000;
/// Between two purges of everything: about 50,000 writes.
const PURGE_EVERY: Duration = Duration::from_secs(3);
/// Between two looks at the processes.
const SLICE: Duration = Duration::from_mins(1);
const PURGED: &str = "kvnode_raft_purged_index";
/// Small segments, none of which is kept: the node purges by itself as often as it can, too.
const SETTINGS: &str = "log_segment_bytes: 1MiB\nlog_keep_bytes: 0\n";

/// Load for so long; fails if a process ended, a log was not purged, or contents differ in the end.
pub(super) async fn run(time: Duration, section: &mut Section) -> Result<()> {
    let dir = tempfile::tempdir()?;
    let file = dir.path().join("config.yaml");
    std::fs::write(&file, SETTINGS)?;
    let mut cluster = Cluster::start(3, &["--config", &file.display().to_string()]).await?;
    let leader = cluster.leader().await?;
    let addr = cluster.nodes[leader].addr().to_owned();
    let (end, mut requests, mut purges) = (Instant::now() + time, 0, 0);
    while Instant::now() < end {
        let (measured, more) = tokio::try_join!(
            load::run(&addr, LOAD, KEYS, SLICE.min(time)),
            purging(&cluster, SLICE.min(time))
        )
        .with_context(|| cluster.logs())?;
        requests += measured.requests;
        purges += more;
        for node in &mut cluster.nodes {
            ensure!(node.is_running(), "a process ended\n{}", node.tail());
        }
        eprintln!("{requests} SETs, {purges} purges, up to entries {:?}", counter(&cluster, PURGED).await?);
    }
    let entries = stat(&mut cluster.leader_client().await?, "last_log_index").await?;
    let up_to = counter(&cluster, PURGED).await?;
    ensure!(up_to.iter().all(|&index| index > 0), "purged up to {up_to:?}");
    let keys = cluster.same_content().await?.len();
    section.say(format!(
        "{} minutes, {requests} SETs of {} B in {entries} entries, {purges} times RAFTSHRINKLOG beside the purges of the \
         nodes' own (up to entries {up_to:?}): no process ended, all three have the same {keys} keys",
        time.as_secs() / 60,
        LOAD.value_bytes
    ));
    Ok(())
}

/// Has all nodes purge all that they may, over and over for so long; how often one did.
async fn purging(cluster: &Cluster, time: Duration) -> Result<u64> {
    let (end, mut purges) = (Instant::now() + time, 0);
    while Instant::now() + PURGE_EVERY < end {
        for node in &cluster.nodes {
            node.client().await?.with_patience(SLICE).ok("RAFTSHRINKLOG").await?;
            purges += 1;
        }
        For(PURGE_EVERY).end().await?;
    }
    Ok(purges)
}
