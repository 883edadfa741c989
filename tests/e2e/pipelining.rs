//! Pipelines: order of replies, cut anywhere, `redis-cli --pipe` into three nodes.

use anyhow::ensure;
use kvnode_tests::resp::{self, Value};
use kvnode_tests::scenario::scenario;
use kvnode_tests::tool::{self, run};

#[test]
fn replies_keep_the_order_of_a_mixed_pipeline() {
    scenario(3, &[], async |cluster| {
        for index in 0..3 {
            let mut client = cluster.nodes[index].client().await?;
            let mut commands: Vec<Vec<String>> = Vec::new();
            let mut expected: Vec<Value> = Vec::new();
            for n in 0..1000 {
                let (key, value) = (format!("k{}", n % 7), format!("{index}-{n}"));
                commands.push(vec!["SET".into(), key.clone(), value.clone()]);
                expected.push(Value::Simple("OK".into()));
                commands.push(vec!["GET".into(), key]);
                expected.push(Value::Bulk(value.clone().into_bytes()));
                commands.push(vec!["ECHO".into(), value.clone()]);
                expected.push(Value::Bulk(value.into_bytes()));
            }
            let replies = client.pipeline(&commands).await?;
            let first_wrong = replies.iter().zip(&expected).position(|(reply, wanted)| reply != wanted);
            ensure!(first_wrong.is_none(), "node {}: reply {first_wrong:?} is wrong", index + 1);
        }
        Ok(())
    });
}

#[test]
fn a_request_may_be_cut_at_every_byte() {
    scenario(1, &[], async |cluster| {
        let mut bytes = Vec::new();
        resp::encode(&[&b"SET"[..], b"k\r\n", b"v\0\r\n"], &mut bytes);
        bytes.extend_from_slice(b"PING\r\n");
        let mut client = cluster.leader_client().await?;
        for cut in 1..bytes.len() {
            client.send(&bytes[..cut]).await?;
            // A round trip on another connection lets the server meet the cut.
            cluster.nodes[0].client().await?.run("PING").await?;
            client.send(&bytes[cut..]).await?;
            ensure!(client.receive().await?.is_ok(), "cut {cut}");
            ensure!(client.receive().await?.as_text() == Some("PONG"), "cut {cut}");
        }
        Ok(())
    });
}

#[test]
fn redis_cli_pipe_loads_through_a_follower() {
    const COUNT: usize = 20_000;
    let Some(redis_cli) = tool::need("redis-cli") else { return };
    scenario(3, &[], async |cluster| {
        let follower = cluster.followers().await?[0];
        let addr = cluster.nodes[follower].addr().to_owned();
        let (host, port) = addr.rsplit_once(':').unwrap_or_default();
        let mut bytes = Vec::new();
        for n in 0..COUNT {
            resp::encode(&["SET", &format!("bulk:{n}"), &"x".repeat(n % 100)], &mut bytes);
        }
        let file = cluster.path().join("load.resp");
        std::fs::write(&file, bytes)?;
        let mut command = std::process::Command::new(redis_cli);
        command.args(["-h", host, "-p", port, "--pipe"]).stdin(std::fs::File::open(&file)?);
        let printed = tokio::task::spawn_blocking(move || run(&mut command)).await??;
        ensure!(printed.contains(&format!("errors: 0, replies: {COUNT}")), "{printed}");
        ensure!(cluster.same_content().await?.len() == COUNT);
        Ok(())
    });
}

#[test]
fn inline_commands_work_as_typed_into_a_terminal() {
    scenario(1, &[], async |cluster| {
        let mut client = cluster.leader_client().await?;
        client.send(b"\r\n\nSET \"a b\" 'c d'\r\nGET \"a b\"\nPING\r\n").await?;
        ensure!(client.receive().await?.is_ok());
        ensure!(client.receive().await?.as_text() == Some("c d"));
        ensure!(client.receive().await?.as_text() == Some("PONG"));
        Ok(())
    });
}

#[test]
fn two_hundred_clients_are_served_at_once() {
    scenario(3, &[], async |cluster| {
        let addrs: Vec<String> = cluster.nodes.iter().map(|node| node.addr().to_owned()).collect();
        let mut tasks = tokio::task::JoinSet::new();
        for n in 0..200_usize {
            let addr = addrs[n % addrs.len()].clone();
            tasks.spawn(async move {
                let mut client = kvnode_tests::client::Client::connect(&addr).await?;
                for round in 0..20 {
                    client.ok(&format!("SET c{n} {round}")).await?;
                    let value = client.text(&format!("GET c{n}")).await?;
                    ensure!(value == Some(round.to_string()), "client {n} read {value:?} after {round}");
                }
                Ok::<(), anyhow::Error>(())
            });
        }
        while let Some(done) = tasks.join_next().await {
            done??;
        }
        ensure!(cluster.leader_client().await?.int("DBSIZE").await? == 200);
        Ok::<(), anyhow::Error>(())
    });
}
