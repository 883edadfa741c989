//! How long nobody can write: the leader is killed, or hands over.

use std::time::Duration;

use anyhow::Result;
use kvnode_tests::cluster::Cluster;
use kvnode_tests::writer::Writer;

use crate::report::Section;

const REPEATS: usize = 20;

/// Median and largest.
fn spread(mut pauses: Vec<Duration>) -> String {
    pauses.sort_unstable();
    let (middle, last) = (pauses.get(pauses.len() / 2), pauses.last());
    let ms = |pause: Option<&Duration>| pause.map_or(0, Duration::as_millis);
    format!("{} times: median {} ms, longest {} ms", pauses.len(), ms(middle), ms(last))
}

/// kill -9 of the leader, over and over.
pub(super) async fn failover(section: &mut Section) -> Result<()> {
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
    section.say(format!("kill -9 of the leader, a writer on a follower, without writes {}", spread(pauses)));
    Ok(())
}

/// RAFTTRANSFER and SIGTERM in turn.
pub(super) async fn hand_over(section: &mut Section) -> Result<()> {
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
    section.say(format!("RAFTTRANSFER, without writes {}", spread(moved)));
    section.say(format!("SIGTERM of the leader, without writes {}", spread(stopped)));
    section.say(format!(
        "commands that failed: {}{}",
        failed.len(),
        failed.first().map_or(String::new(), |e| format!(", {e}"))
    ));
    Ok(())
}
