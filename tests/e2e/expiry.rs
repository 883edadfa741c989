//! Deadlines: an expired key is seen nowhere, is removed in the background in few entries, and never comes back.

use std::process::Command;

use anyhow::{Context, Result, ensure};
use kvnode_tests::binary;
use kvnode_tests::client::Client;
use kvnode_tests::cluster::{Cluster, stat};
use kvnode_tests::resp::Value;
use kvnode_tests::scenario::scenario;
use kvnode_tests::wait::{SOON, eventually};

async fn clients(cluster: &Cluster) -> Result<Vec<Client>> {
    let mut clients = Vec::new();
    for node in &cluster.nodes {
        clients.push(node.client().await?);
    }
    Ok(clients)
}

async fn soon(what: &str, mut probe: impl AsyncFnMut() -> Result<bool>) -> Result<()> {
    eventually(what, SOON, async || Ok(probe().await?.then_some(()))).await
}

/// Waits until a key is gone on one node; then every node must agree from that moment on.
async fn await_gone(clients: &mut [Client], key: &str) -> Result<()> {
    soon("the key expires", async || Ok(clients[0].text(&format!("GET {key}")).await?.is_none())).await?;
    for _ in 0..3 {
        for client in clients.iter_mut() {
            ensure!(client.text(&format!("GET {key}")).await?.is_none(), "{key} came back");
            ensure!(client.int(&format!("EXISTS {key}")).await? == 0);
            ensure!(client.int(&format!("TTL {key}")).await? == -2);
            ensure!(client.run(&format!("KEYS {key}")).await?.items().is_empty());
        }
    }
    Ok(())
}

#[test]
fn an_expired_key_is_seen_on_no_node() {
    scenario(3, &[], async |cluster| {
        let mut clients = clients(cluster).await?;
        for round in 0..6 {
            let key = format!("k{round}");
            let writer = round % 3;
            clients[writer].ok(&format!("SET {key} v PX 300")).await?;
            for client in &mut clients {
                let left = client.int(&format!("PTTL {key}")).await?;
                ensure!((0..=300).contains(&left) || left == -2, "{left} ms left");
            }
            clients.rotate_left(1);
            await_gone(&mut clients, &key).await?;
            ensure!(clients[1].int("DBSIZE").await? == 0);
            let info = clients[2].text("INFO keyspace").await?.context("INFO")?;
            ensure!(!info.contains("db0:"), "{info}");
            // A key that has expired is none to a write either.
            ensure!(clients[0].run(&format!("SET {key} w XX")).await? == Value::Nil);
            ensure!(clients[0].int(&format!("INCR {key}")).await? == 1);
            clients[0].run("FLUSHALL").await?;
        }
        Ok(())
    });
}

#[test]
fn deadlines_survive_restarts_and_changes_of_leader() {
    scenario(3, &[], async |cluster| {
        let mut client = cluster.leader_client().await?;
        client.ok("SET long v PXAT 33177117420123").await?;
        client.ok("SET short v PX 400").await?;
        client.ok("SET plain v").await?;
        cluster.kill_and_restart_all().await?;
        cluster.leader().await?;
        await_gone(&mut clients(cluster).await?, "short").await?;
        for client in &mut clients(cluster).await? {
            ensure!(client.int("PEXPIRETIME long").await? == 33_177_117_420_123);
            ensure!(client.int("DBSIZE").await? == 2);
        }
        let leader = cluster.leader().await?;
        cluster.nodes[leader].kill()?;
        cluster.leader().await?;
        let survivor = (leader + 1) % 3;
        let mut client = cluster.nodes[survivor].client().await?;
        ensure!(client.int("PEXPIRETIME long").await? == 33_177_117_420_123);
        ensure!(client.text("GET short").await?.is_none());
        client.ok("SET next v PX 200").await?;
        soon("the new leader lets it expire", async || Ok(client.int("EXISTS next").await? == 0)).await
    });
}

#[test]
fn what_has_expired_is_removed_in_few_entries() {
    const KEYS: usize = 5000;
    scenario(3, &[], async |cluster| {
        let mut client = cluster.leader_client().await?;
        let sets: Vec<Vec<String>> = (0..KEYS)
            .map(|n| ["SET", &format!("k{n}"), "v", "PX", "150"].map(str::to_owned).to_vec())
            .collect();
        for reply in client.pipeline(&sets).await? {
            ensure!(reply.is_ok(), "{reply:?}");
        }
        client.ok("SET stays v").await?;
        let before = stat(&mut client, "applied_index").await?;
        let removed = |info: &str| {
            let line = info.lines().find_map(|line| line.strip_prefix("expired_keys:"));
            line.and_then(|count| count.trim().parse::<usize>().ok()).unwrap_or(0)
        };
        soon("all are removed", async || {
            Ok(removed(&client.text("INFO stats").await?.unwrap_or_default()) >= KEYS)
        })
        .await?;
        let entries = stat(&mut client, "applied_index").await? - before;
        ensure!(entries <= 30, "{entries} entries for {KEYS} keys");
        for client in &mut clients(cluster).await? {
            ensure!(client.int("DBSIZE").await? == 1);
        }
        Ok(())
    });
}

#[test]
fn a_snapshot_keeps_deadlines() {
    scenario(1, &[], async |cluster| {
        let mut client = cluster.leader_client().await?;
        client.ok("SET a v PXAT 33177117420123").await?;
        client.ok("SET b w").await?;
        client.ok("RAFTSNAPSHOT").await?;
        let snapshots = cluster.nodes[0].data.join("snapshots");
        let newest = std::fs::read_dir(snapshots)?.next().context("a snapshot")??.path();
        let printed =
            Command::new(binary::server()).arg("--parse-snapshot").arg(newest.join("state.bin")).output()?;
        let text = String::from_utf8_lossy(&printed.stdout).into_owned();
        ensure!(text.contains("PXAT\r\n$14\r\n33177117420123"), "{text}");
        ensure!(text.matches("PXAT").count() == 1, "{text}");
        Ok(())
    });
}

/// A reader may be between two nodes: what it saw gone on one must be gone on the next.
#[test]
fn time_goes_on_while_nothing_is_written() {
    scenario(3, &[], async |cluster| {
        let mut clients = clients(cluster).await?;
        clients[0].ok("SET idle v PX 1200").await?;
        soon("TTL counts down", async || Ok(clients[1].int("PTTL idle").await? < 900)).await?;
        await_gone(&mut clients, "idle").await
    });
}
