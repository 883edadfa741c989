//! Power cuts: what a disk had not got yet is gone, and the kernel is another one.

use anyhow::{Context, Result, ensure};
use kvnode_tests::cluster::Cluster;
use kvnode_tests::node::Node;
use kvnode_tests::power::{cut, image};
use kvnode_tests::scenario::scenario;
use kvnode_tests::wait::{SOON, eventually};

const LOW: &[&str] = &["--durability", "low"];

async fn fill(cluster: &mut Cluster, keys: std::ops::Range<usize>) -> Result<()> {
    let mut client = cluster.leader_client().await?;
    let sets: Vec<Vec<String>> =
        keys.map(|n| vec!["SET".into(), format!("key:{n:05}"), format!("{n}")]).collect();
    for reply in client.pipeline(&sets).await? {
        ensure!(reply.is_ok(), "{reply:?}");
    }
    cluster.await_applied().await
}

async fn identity(node: &Node) -> Result<String> {
    let texts = node.client().await?.run("RAFTIDENTITY").await?.texts();
    let id = texts.chunks(2).find(|pair| pair[0] == "node_id").and_then(|pair| pair.get(1));
    Ok(id.context("no node_id")?.clone())
}

async fn identities(cluster: &Cluster) -> Result<Vec<String>> {
    let mut ids = Vec::new();
    for node in &cluster.nodes {
        ids.push(identity(node).await?);
    }
    Ok(ids)
}

async fn logged(node: &Node, text: &str) -> Result<()> {
    eventually(&format!("the log says {text:?}"), SOON, async || {
        Ok(node.log_text().contains(text).then_some(()))
    })
    .await
}

#[test]
fn a_killed_process_keeps_its_id_and_so_does_one_that_stopped_in_order() {
    scenario(3, LOW, async |cluster| {
        fill(cluster, 0..500).await?;
        let before = identities(cluster).await?;
        cluster.kill_and_restart_all().await?;
        cluster.await_voters(3).await?;
        ensure!(identities(cluster).await? == before, "the page cache outlives a process");
        let victim = cluster.followers().await?[0];
        cluster.nodes[victim].terminate().await?;
        cut(&cluster.nodes[victim], None)?;
        cluster.nodes[victim].start().await?;
        cluster.await_voters(3).await?;
        ensure!(identities(cluster).await? == before, "an orderly stop synced everything");
        ensure!(cluster.same_content().await?.len() == 500);
        Ok(())
    });
}

#[test]
fn a_node_that_lost_acknowledged_entries_comes_back_under_a_new_id() {
    scenario(3, LOW, async |cluster| {
        fill(cluster, 0..300).await?;
        let before = identities(cluster).await?;
        let victim = cluster.followers().await?[0];
        let disk = image(&cluster.nodes[victim])?;
        fill(cluster, 300..600).await?;
        cluster.nodes[victim].kill()?;
        cut(&cluster.nodes[victim], Some(&disk))?;
        cluster.nodes[victim].start().await?;
        let node = &cluster.nodes[victim];
        eventually("it has a new id", SOON, async || {
            Ok((identity(node).await? != before[victim]).then_some(()))
        })
        .await?;
        cluster.await_voters(3).await?;
        let members = cluster.peers(victim).await?;
        ensure!(members.len() == 3 && members.contains_key(cluster.nodes[victim].addr()), "{members:?}");
        ensure!(cluster.same_content().await?.len() == 600, "nothing is lost");
        let after = identities(cluster).await?;
        ensure!((0..3).all(|at| (after[at] == before[at]) == (at != victim)), "{before:?} {after:?}");
        // The new id is kept, and it votes: without it no leader can be elected in the end.
        cluster.nodes[victim].terminate().await?;
        cluster.nodes[victim].start().await?;
        cluster.await_voters(3).await?;
        ensure!(identities(cluster).await? == after);
        let leader = cluster.leader().await?;
        cluster.nodes[leader].kill()?;
        ensure!(cluster.leader_client().await?.int("DBSIZE").await? == 600);
        Ok(())
    });
}

#[test]
fn a_cluster_that_lost_power_as_a_whole_comes_back_with_what_its_longest_log_holds() {
    scenario(3, LOW, async |cluster| {
        fill(cluster, 0..200).await?;
        let before = identities(cluster).await?;
        let mut disks = Vec::new();
        for (at, keys) in [200..300, 300..400, 400..500].into_iter().enumerate() {
            disks.push(image(&cluster.nodes[at])?);
            fill(cluster, keys).await?;
        }
        for node in &mut cluster.nodes {
            node.kill()?;
        }
        for (node, disk) in cluster.nodes.iter().zip(&disks) {
            cut(node, Some(disk))?;
        }
        // The longest log is on the third node: without it nobody may go on, though two are a majority.
        for at in [0, 1] {
            cluster.nodes[at].start().await?;
        }
        let missing = format!("these voters do not answer: {} at {}", before[2], cluster.nodes[2].addr());
        for at in [0, 1] {
            logged(&cluster.nodes[at], &missing).await?;
        }
        for at in [0, 1] {
            let state = cluster.nodes[at].client().await?.text("RAFTSTATE").await?;
            ensure!(state.as_deref() == Some("Follower"), "node {} in doubt is {state:?}", at + 1);
        }
        cluster.nodes[2].start().await?;
        cluster.await_voters(3).await?;
        ensure!(identities(cluster).await? == before, "all go on under their ids");
        let left = cluster.same_content().await?.len();
        ensure!(left == 400, "{left} keys; the third disk had 400");
        fill(cluster, 500..600).await?;
        cluster.kill_and_restart_all().await?;
        cluster.await_voters(3).await?;
        ensure!(cluster.same_content().await?.len() == 500);
        Ok(())
    });
}

#[test]
fn a_leader_that_lost_its_followers_power_leads_them_on_without_loss() {
    scenario(3, LOW, async |cluster| {
        fill(cluster, 0..200).await?;
        let leader = cluster.leader().await?;
        let followers = cluster.followers().await?;
        let mut disks = Vec::new();
        for &at in &followers {
            disks.push(image(&cluster.nodes[at])?);
        }
        fill(cluster, 200..400).await?;
        for &at in &followers {
            cluster.nodes[at].kill()?;
        }
        for (&at, disk) in followers.iter().zip(&disks) {
            cut(&cluster.nodes[at], Some(disk))?;
            cluster.nodes[at].start().await?;
        }
        cluster.await_voters(3).await?;
        ensure!(cluster.same_content().await?.len() == 400, "node {} has everything", leader + 1);
        fill(cluster, 400..500).await?;
        ensure!(cluster.same_content().await?.len() == 500);
        Ok(())
    });
}

#[test]
fn a_node_that_is_alone_goes_on() {
    scenario(1, LOW, async |cluster| {
        fill(cluster, 0..100).await?;
        let before = identities(cluster).await?;
        let disk = image(&cluster.nodes[0])?;
        fill(cluster, 100..200).await?;
        cluster.nodes[0].kill()?;
        cut(&cluster.nodes[0], Some(&disk))?;
        cluster.nodes[0].start().await?;
        fill(cluster, 200..300).await?;
        ensure!(identities(cluster).await? == before);
        ensure!(cluster.same_content().await?.len() == 200);
        Ok(())
    });
}
