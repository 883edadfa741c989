//! Founding and joining: who may found a cluster, and that a refused join never founds a second one.

use anyhow::ensure;
use kvnode_tests::http;
use kvnode_tests::node::Node;
use kvnode_tests::reference::free_address;
use kvnode_tests::scenario::scenario;
use kvnode_tests::wait::{SOON, eventually};
use serde_json::json;

#[test]
fn three_processes_form_one_cluster_and_each_serves_every_client() {
    scenario(3, &[], async |cluster| {
        for index in 0..3 {
            cluster.nodes[index].client().await?.ok(&format!("SET k{index} {index}")).await?;
        }
        for index in 0..3 {
            let reply = cluster.nodes[index].client().await?.run("MGET k0 k1 k2").await?;
            ensure!(reply.texts() == ["0", "1", "2"], "{reply:?}");
        }
        ensure!(cluster.same_content().await?.len() == 3);
        Ok(())
    });
}

#[test]
fn a_join_through_a_follower_is_led_to_the_leader() {
    scenario(3, &[], async |cluster| {
        let follower = cluster.followers().await?[0];
        let addr = cluster.nodes[follower].addr().to_owned();
        cluster.add(Some(&addr)).await?;
        cluster.await_voters(4).await
    });
}

#[test]
fn a_join_waits_for_a_member_that_is_not_there_yet() {
    scenario(0, &[], async |cluster| {
        // The joiner is first: nobody answers at the address until the founder comes.
        let founder_addr = free_address()?;
        let flags = ["--join".to_owned(), founder_addr.clone()];
        cluster.nodes.push(Node::new(cluster.path(), "joiner", &flags));
        cluster.nodes[0].spawn()?;
        cluster.nodes.push(Node::new(cluster.path(), "founder", &[]).at(&founder_addr));
        cluster.nodes[1].spawn()?;
        cluster.nodes[1].await_ready().await?;
        cluster.nodes[0].await_ready().await?;
        cluster.await_voters(2).await
    });
}

#[test]
fn a_refused_join_never_founds_a_second_cluster() {
    scenario(0, &[], async |cluster| {
        let nobody = free_address()?;
        let flags = vec!["--join".to_owned(), nobody];
        cluster.nodes.push(Node::new(cluster.path(), "lonely", &flags));
        cluster.nodes[0].spawn()?;
        // It cannot join. Whether it is killed early or late, with or without --join, it must never lead by itself.
        let data = cluster.nodes[0].data.clone();
        eventually("the data directory is formatted", SOON, async || {
            Ok(data.join("identity.json").exists().then_some(()))
        })
        .await?;
        cluster.nodes[0].kill()?;
        cluster.nodes[0].flags.clear();
        if cluster.nodes[0].start().await.is_err() {
            return Ok(()); // refusing to start is as good
        }
        let mut client = cluster.nodes[0].client().await?;
        let reply = client.run("SET k v").await?;
        ensure!(reply.as_error().is_some(), "a second cluster was founded: {reply:?}");
        ensure!(client.text("RAFTSTATE").await?.as_deref() != Some("Leader"));
        Ok(())
    });
}

#[test]
fn formation_wait_stays_unformed_until_told() {
    scenario(0, &["--formation", "wait"], async |cluster| {
        for _ in 0..3 {
            cluster.add(None).await?;
        }
        let reply = cluster.nodes[0].client().await?.run("SET k v").await?;
        ensure!(reply.as_error().is_some(), "an unformed node took a write: {reply:?}");
        ensure!(http::get(cluster.nodes[0].http(), "/livez").await?.status == 200);
        ensure!(http::get(cluster.nodes[0].http(), "/readyz").await?.status == 503);
        let formed = http::post(cluster.nodes[0].http(), "/v1/initialize", &json!({})).await?;
        ensure!(formed.status < 300, "{}", formed.text());
        let leader = cluster.leader_among(&[0]).await?;
        for index in 1..3 {
            let addr = cluster.nodes[index].addr().to_owned();
            cluster.nodes[leader].client().await?.ok(&format!("RAFTADDPEER {addr}")).await?;
        }
        cluster.await_voters(3).await?;
        cluster.nodes[2].client().await?.ok("SET k v").await?;
        for node in &cluster.nodes {
            let http_addr = node.http().to_owned();
            eventually("ready", SOON, async || {
                Ok((http::get(&http_addr, "/readyz").await?.status == 200).then_some(()))
            })
            .await?;
        }
        Ok(())
    });
}

#[test]
fn a_member_that_starts_again_with_join_does_not_join_again() {
    scenario(3, &[], async |cluster| {
        let id = cluster.nodes[2].ready().node_id.clone();
        cluster.nodes[2].kill()?;
        cluster.nodes[2].start().await?;
        ensure!(cluster.nodes[2].ready().node_id == id, "the node id changed over a restart");
        cluster.await_voters(3).await
    });
}
