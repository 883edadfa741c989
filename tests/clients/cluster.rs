//! Cluster clients against `--redirect moved`: the cluster is one shard, whose leader has all slots.

use anyhow::{Context, Result};
use kvnode_tests::scenario::scenario;

use super::{node_script, passes, python_script};

/// The script through each of three nodes, leader or not.
fn through_each_node(make: impl Fn() -> Result<Option<std::process::Command>>) {
    let Some(_) = make().expect("the client can be installed") else { return };
    scenario(3, &["--redirect", "moved"], async |cluster| {
        cluster.await_voters(3).await?;
        for node in &cluster.nodes {
            let command = make()?.context("it was there a moment ago")?;
            passes(command, node.addr()).await?;
        }
        Ok(())
    });
}

#[test]
fn redis_py_finds_the_one_shard() {
    through_each_node(python_script("cluster.py"));
}

#[test]
fn ioredis_and_node_redis_find_the_one_shard() {
    through_each_node(node_script("cluster.cjs"));
}
