//! A node whose content is not what the others have: here by a value that changed on its disk while it was stopped.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use kvnode_tests::cluster::Cluster;
use kvnode_tests::http;
use kvnode_tests::node::Node;
use kvnode_tests::scenario::scenario;
use kvnode_tests::wait::eventually;

/// Bytes before what the client wrote: type, deadline, log index.
const HEADER: usize = 1 + 8 + 8;
/// Exit code for files that cannot be used, as sysexits.h has it.
const DATA_ERROR: i32 = 65;
/// The comparison is each second, and under load each round sees other entries.
const COMPARED_MAX: Duration = Duration::from_mins(1);

/// Changes the value of a key of database 0 in the files of a stopped node, and nothing else.
fn change(node: &Node, key: &str, value: &str) -> Result<()> {
    let state = node.data.join("group-0/state");
    let newest = std::fs::read_dir(&state)?.filter_map(Result::ok).map(|entry| entry.path());
    let db = newest.filter(|path| path.is_dir()).max().context("a database")?;
    let options = rocksdb::Options::default();
    let db = rocksdb::DB::open_cf(&options, &db, rocksdb::DB::list_cf(&options, &db)?)?;
    let family = db.cf_handle("data").context("the family data")?;
    let key = [b"\0", key.as_bytes()].concat();
    let mut stored = db.get_cf(family, &key)?.context("the key")?;
    stored.truncate(HEADER);
    stored.extend_from_slice(value.as_bytes());
    db.put_cf(family, &key, stored)?;
    Ok(db.flush_cf(family)?)
}

/// The value of a metric of this node for that peer.
async fn peer_metric(node: &Node, name: &str, peer: &str) -> Result<Option<String>> {
    let text = http::get(node.http(), "/metrics").await?.text();
    let is_of = |line: &&str| line.starts_with(name) && line.contains(&format!("peer=\"{peer}\""));
    Ok(text.lines().find(is_of).and_then(|line| line.rsplit(' ').next()).map(str::to_owned))
}

/// Writes until the process of the node ends; its exit code.
async fn write_until_it_ends(cluster: &mut Cluster, victim: usize) -> Result<Option<i32>> {
    let mut client = cluster.leader_client().await?;
    let writer = async {
        for number in 0_u64.. {
            client.ok(&format!("SET victim {number}")).await?;
        }
        Ok(())
    };
    tokio::select! {
        status = cluster.nodes[victim].await_exit(COMPARED_MAX) => Ok(status?.code()),
        ended = writer => ended.map(|()| None),
    }
}

#[test]
fn a_value_that_changed_on_a_disk_stops_that_node_and_no_other() {
    scenario(3, &[], async |cluster| {
        let mut client = cluster.leader_client().await?;
        client.ok("SET victim right").await?;
        client.ok("SET bystander same").await?;
        cluster.await_applied().await?;
        let victim = cluster.followers().await?[0];
        let id = cluster.nodes[victim].ready().node_id.clone();
        cluster.nodes[victim].terminate().await?;
        change(&cluster.nodes[victim], "victim", "wrong")?;
        cluster.nodes[victim].start().await?;
        // The digest is kept up with each change, not counted anew: it tells when what changed is written over.
        let code = write_until_it_ends(cluster, victim).await?;
        ensure!(code == Some(DATA_ERROR), "exit code {code:?}");
        let told = cluster.nodes[victim].log_text();
        ensure!(told.contains("the content of this node has diverged"), "{told}");

        let leader = cluster.leader().await?;
        let metric = || peer_metric(&cluster.nodes[leader], "kvnode_raft_peer_diverged", &id);
        eventually("the leader's metric tells it", COMPARED_MAX, async || {
            Ok((metric().await?.as_deref() == Some("1")).then_some(()))
        })
        .await?;
        // It would only come back with what it has: it says what to do, each time.
        let refused = cluster.nodes[victim].start().await.err().map(|error| format!("{error:#}"));
        let said = cluster.nodes[victim].log_text();
        ensure!(refused.is_some() && said.contains("empty it"), "{refused:?}\n{said}");
        ensure!(cluster.leader_client().await?.text("GET bystander").await?.as_deref() == Some("same"));

        replaced(cluster, victim).await
    });
}

/// What the line says to do: an empty directory, and `--join`; a new member stands in the place of the one that differed.
async fn replaced(cluster: &mut Cluster, victim: usize) -> Result<()> {
    let leader = cluster.leader().await?;
    let join = cluster.nodes[leader].addr().to_owned();
    cluster.nodes[victim].wipe()?;
    cluster.nodes[victim].flags = vec!["--join".into(), join];
    cluster.nodes[victim].start().await?;
    cluster.await_voters(3).await?;
    ensure!(cluster.same_content().await?.len() == 2);
    Ok(())
}
