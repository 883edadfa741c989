//! Orderly ends: SIGTERM and SHUTDOWN hand over, drain and exit 0.

use std::net::TcpListener;
use std::time::{Duration, Instant};

use anyhow::ensure;
use kvnode_tests::node::{Node, loopback};
use kvnode_tests::scenario::scenario;
use kvnode_tests::wait::SOON;
use kvnode_tests::writer::Writer;

#[test]
fn sigterm_of_the_leader_under_load_loses_nothing() {
    scenario(3, &[], async |cluster| {
        for _ in 0..3 {
            let leader = cluster.leader().await?;
            let others = cluster.followers().await?;
            let writers: Vec<Writer> = others
                .iter()
                .map(|&index| Writer::start(vec![cluster.nodes[index].addr().to_owned()]))
                .collect();
            for writer in &writers {
                writer.progress(200).await?;
            }
            let status = cluster.nodes[leader].terminate().await?;
            ensure!(status.code() == Some(0), "SIGTERM ended the leader with {status}");
            for writer in &writers {
                writer.progress(200).await?;
            }
            for writer in writers {
                let report = writer.stop().await?;
                println!("longest gap through a follower: {:?}", report.longest_gap);
                report.without_failure()?;
            }
            cluster.nodes[leader].start().await?;
            cluster.await_voters(3).await?;
        }
        Ok(())
    });
}

#[test]
fn sigterm_answers_what_its_own_clients_have_sent() {
    scenario(3, &[], async |cluster| {
        let leader = cluster.leader().await?;
        let addrs: Vec<String> = (0..3).map(|n| cluster.nodes[(leader + n) % 3].addr().to_owned()).collect();
        let writer = Writer::start(addrs);
        writer.progress(300).await?;
        let status = cluster.nodes[leader].terminate().await?;
        ensure!(status.code() == Some(0), "{status}");
        writer.progress(300).await?;
        let report = writer.stop().await?;
        ensure!(report.errors.is_empty(), "{:?}", report.errors);
        ensure!(
            report.unknown.len() <= 1,
            "only the write in flight at the close may be unknown: {:?}",
            report.unknown
        );
        report.verify(&mut cluster.leader_client().await?).await
    });
}

#[test]
fn a_node_alone_keeps_everything_over_sigterm() {
    scenario(1, &[], async |cluster| {
        for round in 1..=3 {
            cluster.leader_client().await?.ok(&format!("SET k{round} v")).await?;
            let status = cluster.nodes[0].terminate().await?;
            ensure!(status.code() == Some(0), "{status}");
            cluster.nodes[0].start().await?;
            ensure!(cluster.leader_client().await?.int("DBSIZE").await? == round);
        }
        Ok(())
    });
}

#[test]
fn shutdown_ends_the_node_it_is_sent_to() {
    scenario(3, &[], async |cluster| {
        let victim = cluster.followers().await?[0];
        let mut client = cluster.nodes[victim].client().await?;
        client.send(b"SHUTDOWN\r\n").await?;
        ensure!(client.closed().await?);
        let status = cluster.nodes[victim].await_exit(SOON).await?;
        ensure!(status.code() == Some(0), "{status}");
        cluster.leader_client().await?.ok("SET k v").await
    });
}

#[test]
fn a_node_that_nobody_takes_in_ends_at_once() {
    /// Less than it waits for an answer, and than it holds a command.
    const AT_ONCE: Duration = Duration::from_secs(2);
    scenario(0, &[], async |cluster| {
        // Takes connections, and never says anything.
        let silent = TcpListener::bind((loopback(), 0))?;
        let flags = ["--join".to_owned(), silent.local_addr()?.to_string()];
        let mut node = Node::new(cluster.path(), "node1", &flags);
        node.start().await?;
        let mut client = node.client().await?;
        client.send(b"SET held value\r\n").await?;
        // It answers, and so it has taken up the command as well.
        node.client().await?.run("RAFTIDENTITY").await?;
        let told = Instant::now();
        let ended = node.terminate().await;
        let took = told.elapsed();
        let reply = client.receive().await?;
        let status = ended?;
        ensure!(status.code() == Some(0) && took < AT_ONCE, "{status} after {took:?}");
        ensure!(
            reply.as_error().is_some_and(|error| error.starts_with("LOADING the node is shutting")),
            "{reply:?}"
        );
        Ok(())
    });
}
