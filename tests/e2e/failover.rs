//! A node dies or hangs: nothing acknowledged is lost, nothing stale is read, the others go on.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use kvnode_tests::cluster::Cluster;
use kvnode_tests::resp::Value;
use kvnode_tests::scenario::scenario;
use kvnode_tests::writer::Writer;

/// The issue asks for 1.5 s at most on an idle machine; suites run in parallel on two cores, so this is a bound for
/// "works at all". The measured time is printed.
const FAILOVER_MAX: Duration = Duration::from_secs(10);

fn survivors(cluster: &Cluster, dead: usize) -> Vec<String> {
    let alive = cluster.nodes.iter().enumerate().filter(|(index, _)| *index != dead);
    alive.map(|(_, node)| node.addr().to_owned()).collect()
}

#[test]
fn killing_the_leader_loses_no_acknowledged_write() {
    scenario(3, &[], async |cluster| {
        for round in 0..3 {
            cluster.leader_client().await?.ok("FLUSHALL").await?;
            let leader = cluster.leader().await?;
            let writer = Writer::start(survivors(cluster, leader));
            writer.progress(200).await?;
            let killed = Instant::now();
            cluster.nodes[leader].kill()?;
            writer.progress(200).await?;
            let report = writer.stop().await?;
            println!(
                "round {round}: longest gap {:?}, 200 writes after {:?}",
                report.longest_gap,
                killed.elapsed()
            );
            ensure!(report.longest_gap < FAILOVER_MAX, "no write for {:?}", report.longest_gap);
            report.verify(&mut cluster.leader_client().await?).await?;
            cluster.nodes[leader].start().await?;
            cluster.await_voters(3).await?;
            cluster.same_content().await?;
        }
        Ok(())
    });
}

#[test]
fn killing_a_follower_is_not_noticed() {
    scenario(3, &[], async |cluster| {
        let leader = cluster.leader().await?;
        let victim = cluster.followers().await?[0];
        let writer = Writer::start(vec![cluster.nodes[leader].addr().to_owned()]);
        writer.progress(200).await?;
        cluster.nodes[victim].kill()?;
        writer.progress(300).await?;
        cluster.nodes[victim].start().await?;
        writer.progress(300).await?;
        let report = writer.stop().await?;
        report.without_failure()?;
        ensure!(cluster.leader().await? == leader, "the leader changed");
        report.verify(&mut cluster.leader_client().await?).await?;
        cluster.same_content().await?;
        Ok(())
    });
}

#[test]
fn a_paused_leader_serves_nothing_stale_when_it_wakes() {
    scenario(3, &[], async |cluster| {
        for round in 0..5 {
            let leader = cluster.leader().await?;
            let others: Vec<usize> = (0..3).filter(|&index| index != leader).collect();
            // Connected before the pause, so that the woken leader finds the question already in its socket.
            let mut stale = cluster.nodes[leader].client().await?;
            stale.ok(&format!("SET k old{round}")).await?;
            cluster.nodes[leader].pause()?;
            let elected = cluster.leader_among(&others).await;
            let written = match elected {
                Ok(new) => cluster.nodes[new].client().await?.ok(&format!("SET k new{round}")).await,
                Err(error) => Err(error),
            };
            // Asked after the new write was acknowledged: the old value would be a stale read.
            stale.send(b"GET k\r\n").await?;
            cluster.nodes[leader].resume()?;
            written?;
            let reply = stale.receive().await?;
            let fresh = Value::Bulk(format!("new{round}").into_bytes());
            ensure!(reply == fresh || reply.as_error().is_some(), "round {round}: stale {reply:?}");
            cluster.await_voters(3).await?;
        }
        Ok(())
    });
}

#[test]
fn without_a_quorum_nothing_is_acknowledged_and_low_reads_go_on() {
    scenario(3, &[], async |cluster| {
        cluster.leader_client().await?.ok("SET k v").await?;
        cluster.await_applied().await?;
        let leader = cluster.leader().await?;
        for index in 0..3 {
            if index != leader {
                cluster.nodes[index].kill()?;
            }
        }
        let mut client = cluster.nodes[leader].client().await?;
        let reply = client.run("SET k lost").await?;
        ensure!(reply.as_error().is_some(), "acknowledged without a quorum: {reply:?}");
        let reply = client.run("GET k").await?;
        ensure!(reply.as_error().is_some(), "a linearizable read without a quorum: {reply:?}");
        client.ok("READONLY").await?;
        ensure!(client.text("GET k").await?.as_deref() == Some("v"));
        for index in 0..3 {
            if index != leader {
                cluster.nodes[index].start().await?;
            }
        }
        cluster.await_voters(3).await?;
        // The refused write may have been in the log: its outcome is unknown, but all agree on it.
        let content = cluster.same_content().await?;
        let value = content.get(&b"k"[..]).map(Vec::as_slice);
        ensure!(value == Some(b"v") || value == Some(b"lost"), "{value:?}");
        Ok(())
    });
}

#[test]
fn all_nodes_killed_at_once_come_back_with_everything() {
    scenario(3, &[], async |cluster| {
        for _ in 0..3 {
            let addrs = cluster.nodes.iter().map(|node| node.addr().to_owned()).collect();
            let writer = Writer::start(addrs);
            writer.progress(300).await?;
            for index in 0..3 {
                cluster.nodes[index].kill()?;
            }
            let report = writer.stop().await?;
            cluster.start_all().await?;
            report.verify(&mut cluster.leader_client().await?).await?;
            cluster.same_content().await?;
            cluster.leader_client().await?.ok("FLUSHALL").await?;
        }
        Ok(())
    });
}

#[test]
fn one_node_alone_survives_kill_nine() {
    scenario(1, &[], async |cluster| {
        let mut acknowledged = 0;
        for round in 0..5 {
            let writer = Writer::start(vec![cluster.nodes[0].addr().to_owned()]);
            writer.progress(200).await?;
            cluster.nodes[0].kill()?;
            let report = writer.stop().await?;
            cluster.nodes[0].start().await?;
            report.verify(&mut cluster.leader_client().await?).await?;
            acknowledged += report.acknowledged.len();
            println!("round {round}: {acknowledged} acknowledged writes so far");
        }
        Ok(())
    });
}

async fn reads_follow_writes(cluster: &mut Cluster) -> Result<()> {
    for n in 0..200 {
        let writer = n % 3;
        cluster.nodes[writer].client().await?.ok(&format!("SET seen {n}")).await?;
        let value = cluster.nodes[(n + 1) % 3].client().await?.text("GET seen").await?;
        ensure!(value == Some(n.to_string()), "after SET {n} on node {writer} the next node read {value:?}");
    }
    Ok(())
}

#[test]
fn a_read_on_any_node_sees_the_write_acknowledged_by_another() {
    scenario(3, &[], reads_follow_writes);
}
