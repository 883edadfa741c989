//! Orderly ends: SIGTERM and SHUTDOWN hand over, drain and exit 0.

use anyhow::ensure;
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
