//! Members come and go: replace, grow, shrink, transfer, refuse garbage.

use anyhow::{Context, Result, ensure};
use kvnode_tests::cluster::{Cluster, stat};
use kvnode_tests::http;
use kvnode_tests::scenario::scenario;
use kvnode_tests::wait::{SOON, eventually};
use kvnode_tests::writer::Writer;

async fn fill(cluster: &mut Cluster, count: usize) -> Result<()> {
    let mut client = cluster.leader_client().await?;
    let sets: Vec<Vec<String>> = (0..count)
        .map(|n| vec!["SET".into(), format!("key:{n}"), format!("{n}:{}", "x".repeat(100))])
        .collect();
    for reply in client.pipeline(&sets).await? {
        ensure!(reply.is_ok(), "{reply:?}");
    }
    Ok(())
}

fn addrs(cluster: &Cluster) -> Vec<String> {
    cluster.nodes.iter().map(|node| node.addr().to_owned()).collect()
}

#[test]
fn a_wiped_node_comes_back_with_a_new_id_at_the_same_address() {
    scenario(3, &[], async |cluster| {
        fill(cluster, 2000).await?;
        let victim = cluster.followers().await?[0];
        let old = cluster.nodes[victim].ready().clone();
        let other = cluster.leader().await?;
        cluster.nodes[victim].kill()?;
        cluster.nodes[victim].wipe()?;
        let join = cluster.nodes[other].addr().to_owned();
        cluster.nodes[victim].flags = vec!["--join".into(), join];
        cluster.nodes[victim].start().await?;
        let new = cluster.nodes[victim].ready().clone();
        ensure!(new.addr == old.addr && new.node_id != old.node_id, "{old:?} {new:?}");
        cluster.await_voters(3).await?;
        ensure!(cluster.same_content().await?.len() == 2000);
        Ok(())
    });
}

#[test]
fn a_learner_joins_after_the_whole_log_was_purged() {
    scenario(1, &[], async |cluster| {
        fill(cluster, 5000).await?;
        let mut client = cluster.leader_client().await?;
        client.ok("RAFTSHRINKLOG").await?;
        let purged = client.run("INFO raft").await?;
        println!("{purged:?}");
        cluster.grow(3).await?;
        ensure!(cluster.same_content().await?.len() == 5000);
        let leader = cluster.leader().await?;
        cluster.nodes[leader].kill()?;
        ensure!(
            cluster.leader_client().await?.int("DBSIZE").await? == 5000,
            "the joined nodes hold everything"
        );
        Ok(())
    });
}

#[test]
fn a_log_whose_end_is_not_synced_yet_is_shrunk_as_a_whole() {
    scenario(1, &["--durability", "low"], async |cluster| {
        fill(cluster, 500).await?;
        let mut client = cluster.leader_client().await?;
        let last = stat(&mut client, "last_log_index").await?;
        client.ok("RAFTSHRINKLOG").await?;
        let status = http::get(cluster.nodes[0].http(), "/v1/status").await?.json()?;
        let purged = status["log"]["purged"].as_str().context("nothing is purged")?;
        let index: i64 = purged.rsplit('-').next().unwrap_or_default().parse()?;
        ensure!(index >= last, "purged to {purged}, the log reached to {last}");
        Ok(())
    });
}

#[test]
fn three_grow_to_five_and_shrink_to_three_under_writes() {
    scenario(3, &[], async |cluster| {
        let writer = Writer::start(addrs(cluster)[..1].to_vec());
        writer.progress(100).await?;
        cluster.grow(5).await?;
        writer.progress(100).await?;
        for index in [4, 3] {
            let addr = cluster.nodes[index].addr().to_owned();
            let leader = cluster.leader().await?;
            if leader == index {
                cluster.nodes[leader].client().await?.ok("RAFTTRANSFER").await?;
                eventually("another node leads", SOON, async || {
                    Ok(cluster.leader_among(&[0, 1, 2]).await.ok())
                })
                .await?;
            }
            cluster.nodes[0].client().await?.ok(&format!("RAFTREMOVEPEER {addr}")).await?;
            let gone = &cluster.nodes[0];
            eventually("the member is gone", SOON, async || {
                let peers = gone.client().await?.run("RAFTPEERS").await?.texts();
                Ok((!peers.contains(&addr)).then_some(()))
            })
            .await?;
            cluster.nodes[index].kill()?;
        }
        cluster.await_voters(3).await?;
        writer.progress(100).await?;
        let report = writer.stop().await?;
        report.without_failure()?;
        report.verify(&mut cluster.leader_client().await?).await?;
        cluster.same_content().await?;
        Ok(())
    });
}

#[test]
fn a_transfer_under_load_fails_no_command() {
    scenario(3, &[], async |cluster| {
        let writers: Vec<Writer> = addrs(cluster).into_iter().map(|addr| Writer::start(vec![addr])).collect();
        for round in 0..5 {
            for writer in &writers {
                writer.progress(100).await?;
            }
            let before = cluster.leader().await?;
            let to = (before + 1) % 3;
            let addr = cluster.nodes[to].addr().to_owned();
            cluster.nodes[round % 3].client().await?.ok(&format!("RAFTTRANSFER {addr}")).await?;
            eventually("the chosen node leads", SOON, async || {
                let state = cluster.nodes[to].client().await?.text("RAFTSTATE").await?;
                Ok((state.as_deref() == Some("Leader")).then_some(()))
            })
            .await?;
        }
        for (index, writer) in writers.into_iter().enumerate() {
            let report = writer.stop().await?;
            println!(
                "node {}: {} writes, longest gap {:?}",
                index + 1,
                report.acknowledged.len(),
                report.longest_gap
            );
            report.without_failure().with_context(|| format!("node {}", index + 1))?;
        }
        Ok(())
    });
}

#[test]
fn garbage_addresses_are_refused_without_harm() {
    scenario(1, &[], async |cluster| {
        let mut client = cluster.leader_client().await?;
        for bad in ["no-such-host", "no-such-host.invalid:4920", "127.0.0.1:1", "127.0.0.1:99999", ":", "x:y"]
        {
            let reply = client.run(&format!("RAFTADDPEER {bad}")).await?;
            ensure!(reply.as_error().is_some(), "RAFTADDPEER {bad}: {reply:?}");
            client.ok("SET still served").await?;
        }
        let reply = client.run("RAFTREMOVEPEER 127.0.0.1:1").await?;
        println!("removing a stranger: {reply:?}");
        let own = cluster.nodes[0].addr().to_owned();
        let reply = client.run(&format!("RAFTREMOVEPEER {own}")).await?;
        ensure!(reply.as_error().is_some(), "the last voter was removed: {reply:?}");
        client.ok("SET still served").await?;
        ensure!(cluster.peers(0).await?.len() == 1);
        Ok(())
    });
}

#[test]
fn adding_a_member_twice_is_adding_it_once() {
    scenario(3, &[], async |cluster| {
        let addr = cluster.nodes[2].addr().to_owned();
        cluster.nodes[0].client().await?.ok(&format!("RAFTADDPEER {addr}")).await?;
        cluster.nodes[1].client().await?.ok(&format!("RAFTADDPEER {addr}")).await?;
        cluster.await_voters(3).await
    });
}
