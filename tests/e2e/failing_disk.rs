//! A disk that fails: the process ends by itself with its code and its line, and recovers when it is started again.

use std::fs;

use anyhow::{Result, ensure};
use kvnode_tests::cluster::Cluster;
use kvnode_tests::node::Node;
use kvnode_tests::wait::SOON;
use kvnode_tests::{preload, scenario, tool};

const SOURCE: &str = include_str!("failing_disk.c");
/// Of a fatal failure: see `server/src/error.rs`.
const FATAL: i32 = 70;

/// A node alone, with a disk that fails when this file is made.
async fn start(cluster: &mut Cluster) -> Result<std::path::PathBuf> {
    let fails = cluster.path().join("fails");
    let mut node = Node::new(cluster.path(), "node1", &[]);
    node.env = vec![
        preload::compile(SOURCE, cluster.path(), "failing_disk")?,
        ("KVNODE_TEST_DISK_FAILS".to_owned(), fails.display().to_string()),
    ];
    node.start().await?;
    cluster.nodes.push(node);
    Ok(fails)
}

#[test]
fn a_disk_that_fails_ends_the_process_with_its_code_and_its_line() {
    if tool::need(preload::COMPILER).is_none() {
        return;
    }
    scenario::scenario(0, &[], async |cluster| {
        let fails = start(cluster).await?;
        for round in 1..=3 {
            let mut client = cluster.leader_client().await?;
            client.ok(&format!("SET kept:{round} value")).await?;
            fs::write(&fails, b"")?;
            // Whether it is answered is open; it is what the disk fails at.
            client.send(b"SET open value\r\n").await?;
            let node = &mut cluster.nodes[0];
            let status = node.await_exit(SOON).await?;
            let log = node.log_text();
            let last = log.lines().last().unwrap_or_default();
            ensure!(status.code() == Some(FATAL), "it ended with {status} after {last:?}");
            ensure!(last.starts_with("kvnode-server: ") && last.contains("start the node again"), "{last:?}");
            fs::remove_file(&fails)?;
            node.start().await?;
            let kept = cluster.leader_client().await?.text(&format!("GET kept:{round}")).await?;
            ensure!(kept.as_deref() == Some("value"), "{kept:?}");
        }
        Ok(())
    });
}
