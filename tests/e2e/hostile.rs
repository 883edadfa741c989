//! Bad input: a clear error for its sender, nothing for anyone else, bounded memory, no crash.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use kvnode_tests::client::Client;
use kvnode_tests::cluster::Cluster;
use kvnode_tests::scenario::scenario;
use kvnode_tests::wait::{SOON, until};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

/// Resident memory of the first node in MiB.
fn resident_mib(cluster: &Cluster) -> Result<u64> {
    let status =
        std::fs::read_to_string(format!("/proc/{}/status", cluster.nodes[0].pid()?.as_raw_nonzero()))?;
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).context("VmRSS")?;
    let kib: u64 = line.split_whitespace().nth(1).context("VmRSS")?.parse()?;
    Ok(kib / 1024)
}

async fn still_serves(cluster: &mut Cluster) -> Result<()> {
    ensure!(cluster.nodes[0].is_running(), "the node died");
    let mut client = cluster.nodes[0].client().await?;
    client.ok("SET alive yes").await?;
    ensure!(client.text("GET alive").await?.as_deref() == Some("yes"));
    Ok(())
}

#[test]
fn protocol_errors_are_answered_and_close_the_connection() {
    scenario(1, &[], async |cluster| {
        for bad in [
            &b"*1000000000\r\n"[..],
            b"*9223372036854775807\r\n",
            b"*1\r\n$9223372036854775807\r\n",
            b"*1\r\n$-2\r\n",
            b"*1\r\n:5\r\n",
            b"*x\r\n",
            b"*1\r\n$abc\r\n",
            b"GET \"unbalanced\r\n",
        ] {
            let mut client = cluster.nodes[0].client().await?;
            client.send(bad).await?;
            let reply = client.receive().await.with_context(|| format!("{}", bad.escape_ascii()))?;
            let text = reply.as_error().unwrap_or_default().to_owned();
            ensure!(text.starts_with("ERR Protocol error"), "{}: {reply:?}", bad.escape_ascii());
            ensure!(client.closed().await?, "{}: still open", bad.escape_ascii());
        }
        still_serves(cluster).await
    });
}

#[test]
fn commands_before_a_protocol_error_are_run_and_answered() {
    scenario(1, &[], async |cluster| {
        let mut client = cluster.nodes[0].client().await?;
        client.send(b"SET before error\r\n*1\r\n!bad\r\n").await?;
        ensure!(client.receive().await?.is_ok());
        ensure!(client.receive().await?.as_error().is_some());
        ensure!(cluster.nodes[0].client().await?.text("GET before").await?.as_deref() == Some("error"));
        Ok(())
    });
}

#[test]
fn nested_arrays_by_the_ten_thousand_do_no_harm() {
    scenario(1, &[], async |cluster| {
        let mut client = cluster.nodes[0].client().await?;
        let _ = client.send("*1\r\n".repeat(100_000).as_bytes()).await;
        let reply = client.receive().await;
        ensure!(!matches!(&reply, Ok(value) if value.as_error().is_none()), "{reply:?}");
        still_serves(cluster).await
    });
}

#[test]
fn random_bytes_from_many_connections_do_no_harm() {
    scenario(1, &[], async |cluster| {
        let mut random = StdRng::seed_from_u64(7);
        for round in 0..300_usize {
            let mut bytes = vec![0; 1 + round * 7];
            random.fill_bytes(&mut bytes);
            if round % 2 == 0 {
                bytes[0] = b"*$\r"[round % 3];
            }
            let mut client = cluster.nodes[0].client().await?.with_patience(Duration::from_millis(200));
            let _ = client.send(&bytes).await;
        }
        still_serves(cluster).await
    });
}

#[test]
fn random_bytes_at_the_peer_and_admin_ports_do_no_harm() {
    scenario(3, &[], async |cluster| {
        let mut random = StdRng::seed_from_u64(8);
        let ready = cluster.nodes[0].ready().clone();
        for addr in [&ready.peer_addr, &ready.http_addr] {
            for round in 0..100_usize {
                let mut bytes = vec![0; 1 + round * 31];
                random.fill_bytes(&mut bytes);
                let mut client = Client::connect(addr).await?.with_patience(Duration::from_millis(200));
                let _ = client.send(&bytes).await;
            }
        }
        still_serves(cluster).await?;
        cluster.await_voters(3).await
    });
}

#[test]
fn replies_that_nobody_reads_hold_only_their_own_client() {
    scenario(1, &[], async |cluster| {
        let value = "x".repeat(1 << 20);
        cluster.nodes[0].client().await?.ok(&format!("SET big {value}")).await?;
        let before = resident_mib(cluster)?;
        let mut greedy = cluster.nodes[0].client().await?.with_patience(Duration::from_secs(3));
        // 3,000 MiB of replies are asked for and none is read; sending may block, which is the point.
        let _ = greedy.send("GET big\r\n".repeat(3000).as_bytes()).await;
        for _ in 0..100 {
            still_serves(cluster).await?;
        }
        let after = resident_mib(cluster)?;
        ensure!(after < before + 256, "memory grew from {before} to {after} MiB");
        drop(greedy);
        Ok(())
    });
}

#[test]
fn a_huge_announced_bulk_takes_no_memory_before_it_comes() {
    scenario(1, &[], async |cluster| {
        let before = resident_mib(cluster)?;
        let mut held = Vec::new();
        for _ in 0..100 {
            let mut client = cluster.nodes[0].client().await?;
            client.send(b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$60000000\r\nabc").await?;
            held.push(client);
        }
        still_serves(cluster).await?;
        let after = resident_mib(cluster)?;
        ensure!(after < before + 256, "memory grew from {before} to {after} MiB");
        Ok(())
    });
}

#[test]
fn oversize_keys_and_values_are_refused_with_an_error() {
    scenario(1, &[], async |cluster| {
        let mut client = cluster.nodes[0].client().await?;
        let key = vec![b'k'; (64 << 10) + 1];
        let reply = client.call(&[&b"SET"[..], &key, b"v"]).await?;
        ensure!(reply.as_error().is_some_and(|text| text.starts_with("ERR")), "{reply:?}");
        client.ok("SET k v").await?;
        let value = vec![b'v'; 1 << 20];
        ensure!(client.call(&[&b"SET"[..], b"mib", &value]).await?.is_ok(), "1 MiB is a normal value");
        ensure!(client.call(&[&b"GET"[..], b"mib"]).await?.as_bytes() == Some(&value[..]));
        still_serves(cluster).await
    });
}

#[test]
fn connections_that_come_and_go_are_forgotten() {
    scenario(1, &[], async |cluster| {
        for _ in 0..20 {
            let mut held = Vec::new();
            for _ in 0..100 {
                held.push(cluster.nodes[0].client().await?);
            }
            for client in &mut held {
                client.run("PING").await?;
            }
        }
        until("the connections are forgotten", SOON, async || {
            let Ok(mut client) = cluster.nodes[0].client().await else { return false };
            let info = client.text("INFO clients").await.ok().flatten().unwrap_or_default();
            info.lines().any(|line| line.trim() == "connected_clients:1")
        })
        .await
    });
}
