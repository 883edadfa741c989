//! Planned hand-overs that meet something unplanned.

use std::time::Duration;

use anyhow::{Result, ensure};
use kvnode_tests::cluster::Cluster;
use kvnode_tests::scenario::scenario;
use kvnode_tests::wait::{SOON, eventually};
use kvnode_tests::writer::Writer;
use tokio::task::JoinSet;

fn writers(cluster: &Cluster) -> Vec<Writer> {
    cluster.nodes.iter().map(|node| Writer::start(vec![node.addr().to_owned()])).collect()
}

async fn no_failure(writers: Vec<Writer>, gap_max: Duration) -> Result<()> {
    for writer in writers {
        let report = writer.stop().await?;
        report.without_failure()?;
        ensure!(report.longest_gap < gap_max, "a gap of {:?}", report.longest_gap);
    }
    Ok(())
}

#[test]
fn hand_overs_asked_for_at_the_same_time_follow_one_another() {
    scenario(3, &[], async |cluster| {
        let writers = writers(cluster);
        for _ in 0..6 {
            let mut asked = JoinSet::new();
            for node in &cluster.nodes {
                let mut client = node.client().await?;
                asked.spawn(async move { client.run("RAFTTRANSFER").await });
            }
            let mut done = 0;
            while let Some(reply) = asked.join_next().await {
                done += usize::from(reply??.is_ok());
            }
            ensure!(done >= 1, "none of them was carried out");
            for writer in &writers {
                writer.progress(30).await?;
            }
        }
        no_failure(writers, Duration::from_secs(5)).await
    });
}

#[test]
fn a_successor_that_is_lost_costs_an_election_and_no_write() {
    scenario(3, &[], async |cluster| {
        let lost = cluster.followers().await?[0];
        let others: Vec<usize> = (0..3).filter(|&at| at != lost).collect();
        let addr = cluster.nodes[lost].addr().to_owned();
        let writers: Vec<Writer> =
            others.iter().map(|&at| Writer::start(vec![cluster.nodes[at].addr().to_owned()])).collect();
        for writer in &writers {
            writer.progress(50).await?;
        }
        let mut client = cluster.nodes[others[0]].client().await?;
        cluster.nodes[lost].pause()?;
        // Nobody can know yet that it is gone.
        let reply = client.run(&format!("RAFTTRANSFER {addr}")).await?;
        ensure!(reply.as_error().is_some(), "{reply:?}");
        for writer in &writers {
            writer.progress(50).await?;
        }
        let leader = cluster.leader_among(&others).await?;
        eventually("the leader misses it", SOON, async || {
            let peers = cluster.peers(leader).await?;
            Ok((peers.get(&addr).map(String::as_str) == Some("Timeout")).then_some(()))
        })
        .await?;
        let reply = client.run(&format!("RAFTTRANSFER {addr}")).await?;
        ensure!(reply.as_error().is_some_and(|text| text.contains("does not answer")), "{reply:?}");
        for writer in &writers {
            writer.progress(50).await?;
        }
        cluster.nodes[lost].resume()?;
        no_failure(writers, Duration::from_secs(5)).await
    });
}

#[test]
fn a_leader_that_is_stopped_right_after_its_election_finds_a_successor() {
    scenario(3, &[], async |cluster| {
        for round in 0..3 {
            let next = cluster.followers().await?[0];
            let addr = cluster.nodes[next].addr().to_owned();
            cluster.nodes[round].client().await?.ok(&format!("RAFTTRANSFER {addr}")).await?;
            ensure!(cluster.nodes[next].terminate().await?.success());
            let log = cluster.nodes[next].log_text();
            ensure!(!log.contains("stopping as leader") && !log.contains("not handed over"), "{log}");
            cluster.nodes[next].start().await?;
            cluster.await_voters(3).await?;
        }
        Ok(())
    });
}
