//! `PUT /v1/voters`: from three to five and back to three other ones, each by one change, while a client writes.

use std::collections::BTreeSet;

use anyhow::{Context, Result, ensure};
use kvnode_tests::cluster::Cluster;
use kvnode_tests::http;
use kvnode_tests::scenario::scenario;
use kvnode_tests::wait::{SOON, eventually};
use kvnode_tests::writer::Writer;
use serde_json::json;

/// Ids of the members with and without a vote, as a node sees them.
async fn members(cluster: &Cluster, node: usize) -> Result<(BTreeSet<String>, BTreeSet<String>)> {
    let answer = http::get(cluster.nodes[node].http(), "/v1/members").await?.json()?;
    let all = answer["members"].as_array().context("members")?.clone();
    let ids = |voter: bool| {
        let chosen = all.iter().filter(|member| member["voter"] == voter);
        chosen
            .filter_map(|member| member["node_id"].as_str().or(member["id"].as_str()))
            .map(str::to_owned)
            .collect()
    };
    Ok((ids(true), ids(false)))
}

async fn set(cluster: &Cluster, node: usize, voters: &BTreeSet<String>) -> Result<u16> {
    let body = json!({ "voters": voters }).to_string();
    let json = "content-type: application/json\r\n";
    Ok(http::request(cluster.nodes[node].http(), "PUT", "/v1/voters", json, &body).await?.status)
}

#[test]
fn one_change_takes_three_voters_to_five_and_to_three_others() {
    scenario(3, &[], async |cluster| {
        let leader = cluster.leader().await?;
        let follower = cluster.followers().await?[0];
        let writer = Writer::start(vec![cluster.nodes[follower].addr().to_owned()]);
        writer.progress(100).await?;
        // Else an empty directory on loopback founds a cluster of its own.
        cluster.flags = vec!["--formation".into(), "wait".into()];
        for _ in 0..2 {
            let new = cluster.add(None).await?;
            let body = json!({ "addr": cluster.nodes[new].addr(), "promote": false });
            let answer = http::post(cluster.nodes[leader].http(), "/v1/members", &body).await?;
            ensure!(answer.status == 200, "{}", answer.text());
        }
        let (old, added) = members(cluster, leader).await?;
        ensure!(old.len() == 3 && added.len() == 2, "{old:?} {added:?}");
        let five: BTreeSet<String> = old.union(&added).cloned().collect();
        eventually("five vote", SOON, async || Ok((set(cluster, 0, &five).await? == 200).then_some(())))
            .await?;
        ensure!(members(cluster, leader).await?.0 == five);
        ensure!(set(cluster, 0, &five).await? == 200, "a repeat is a success");

        // The leader is not among the next three, nor is the node that is asked the leader.
        let own = cluster.nodes[leader].ready().node_id.clone();
        let three: BTreeSet<String> = five.iter().filter(|id| **id != own).skip(1).cloned().collect();
        ensure!(three.len() == 3);
        let asked = cluster.followers().await?[0];
        eventually("three others vote", SOON, async || {
            Ok((set(cluster, asked, &three).await? == 200).then_some(()))
        })
        .await?;
        let stays =
            (0..5).find(|n| three.contains(&cluster.nodes[*n].ready().node_id)).context("one stays")?;
        eventually("the others have left", SOON, async || {
            let (voters, learners) = members(cluster, stays).await?;
            Ok((voters == three && learners.is_empty()).then_some(()))
        })
        .await?;
        let report = writer.stop().await?;
        ensure!(report.errors.is_empty(), "{:?}", report.errors);
        let mut client = cluster.nodes[stays].client().await?;
        report.verify(&mut client).await
    });
}

#[test]
fn voters_that_are_strangers_or_nobody_are_refused() {
    scenario(3, &[], async |cluster| {
        let (before, _) = members(cluster, 0).await?;
        for wrong in [BTreeSet::new(), BTreeSet::from([String::from("00000000000000aa")])] {
            let status = set(cluster, 0, &wrong).await?;
            ensure!(status == 409, "{wrong:?} was answered with {status}");
        }
        ensure!(members(cluster, 0).await?.0 == before);
        Ok(())
    });
}
