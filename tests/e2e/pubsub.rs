//! Messages reach the subscribers of every node, in order, and a subscriber that does not read is let go.

use anyhow::{Result, ensure};
use kvnode_tests::client::Client;
use kvnode_tests::resp::Value;
use kvnode_tests::scenario::scenario;
use kvnode_tests::wait::{SOON, eventually};

async fn subscriber(addr: &str, resp3: bool, request: &str) -> Result<Client> {
    let mut client = Client::connect(addr).await?;
    if resp3 {
        client.run("HELLO 3").await?;
    }
    client.run(request).await?;
    Ok(client)
}

fn words(value: &Value) -> Vec<String> {
    match value {
        Value::Push(items) => Value::Array(items.clone()).texts(),
        other => other.texts(),
    }
}

/// Publishes a probe until the way from node to node is open: the first message to a peer opens the connection.
async fn await_heard(publisher: &mut Client, listener: &mut Client) -> Result<()> {
    let mut quick = 0;
    eventually("messages arrive", SOON, async || {
        publisher.run("PUBLISH news probe").await?;
        quick += 1;
        Ok(Some(()))
    })
    .await?;
    ensure!(words(&listener.receive().await?).last().map(String::as_str) == Some("probe"));
    Ok(())
}

#[test]
fn a_message_reaches_the_subscribers_of_all_nodes_in_order() {
    scenario(3, &[], async |cluster| {
        let mut listeners = vec![
            subscriber(cluster.nodes[0].addr(), false, "SUBSCRIBE news").await?,
            subscriber(cluster.nodes[1].addr(), true, "SUBSCRIBE news").await?,
            subscriber(cluster.nodes[2].addr(), true, "PSUBSCRIBE ne*").await?,
        ];
        let mut publisher = cluster.nodes[1].client().await?;
        for listener in &mut listeners {
            await_heard(&mut publisher, listener).await?;
        }
        for n in 0..100 {
            publisher.run(&format!("PUBLISH news m{n}")).await?;
        }
        publisher.run("PUBLISH other x").await?;
        for listener in &mut listeners {
            let mut expected = 0;
            while expected < 100 {
                let message = words(&listener.receive().await?);
                let last = message.last().cloned().unwrap_or_default();
                if last == "probe" {
                    continue;
                }
                ensure!(last == format!("m{expected}"), "{message:?} in place of m{expected}");
                expected += 1;
            }
        }
        Ok(())
    });
}

#[test]
fn a_message_in_a_transaction_and_from_a_script_is_sent_too() {
    scenario(3, &[], async |cluster| {
        let mut listener = subscriber(cluster.nodes[2].addr(), true, "SUBSCRIBE news").await?;
        let mut client = cluster.nodes[0].client().await?;
        await_heard(&mut client, &mut listener).await?;
        client.ok("MULTI").await?;
        client.run("SETEX result 100 done").await?;
        client.run("PUBLISH news from-multi").await?;
        ensure!(client.run("EXEC").await?.items().len() == 2);
        client.call(&[&b"EVAL"[..], b"return redis.call('publish', 'news', 'from-script')", b"0"]).await?;
        for expected in ["from-multi", "from-script"] {
            let message = words(&listener.receive().await?);
            ensure!(message == ["message", "news", expected], "{message:?}");
        }
        Ok(())
    });
}

#[test]
fn subscribers_are_counted_on_all_nodes() {
    scenario(3, &[], async |cluster| {
        let mut listeners = Vec::new();
        for (at, node) in cluster.nodes.iter().enumerate() {
            listeners.push(subscriber(node.addr(), true, "SUBSCRIBE news").await?);
            listeners.push(subscriber(node.addr(), true, &format!("SUBSCRIBE of-{at}")).await?);
            listeners.push(subscriber(node.addr(), true, "PSUBSCRIBE n*").await?);
            listeners.push(subscriber(node.addr(), true, &format!("PSUBSCRIBE p-{at}*")).await?);
            listeners.push(subscriber(node.addr(), true, "SSUBSCRIBE shard").await?);
        }
        for node in &cluster.nodes {
            let mut client = node.client().await?;
            let counts = client.run("PUBSUB NUMSUB news of-1 none").await?;
            ensure!(words(&counts) == ["news", ":3", "of-1", ":1", "none", ":0"], "{counts:?}");
            let channels = words(&client.run("PUBSUB CHANNELS").await?);
            ensure!(channels == ["news", "of-0", "of-1", "of-2"], "{channels:?}");
            let channels = words(&client.run("PUBSUB CHANNELS of-*").await?);
            ensure!(channels == ["of-0", "of-1", "of-2"], "{channels:?}");
            let patterns = client.run("PUBSUB NUMPAT").await?;
            ensure!(patterns.as_int() == Some(4), "one pattern of all and one of each: {patterns:?}");
            let shards = words(&client.run("PUBSUB SHARDNUMSUB shard").await?);
            ensure!(shards == ["shard", ":3"], "{shards:?}");
        }
        drop(listeners);
        Ok(())
    });
}

#[test]
fn a_subscriber_that_does_not_read_is_closed_and_others_go_on() {
    scenario(1, &[], async |cluster| {
        let _deaf = subscriber(cluster.nodes[0].addr(), true, "SUBSCRIBE flood").await?;
        let mut publisher = cluster.nodes[0].client().await?;
        let message = vec![b'x'; 1 << 20];
        eventually("the deaf one is closed", SOON, async || {
            publisher.call(&[&b"PUBLISH"[..], b"flood", &message]).await?;
            let left = publisher.run("PUBSUB NUMSUB flood").await?;
            Ok((left.items().last().and_then(|count| count.as_int()) == Some(0)).then_some(()))
        })
        .await
    });
}

#[test]
fn a_shard_channel_reaches_all_nodes_and_is_no_other_channel() {
    scenario(3, &[], async |cluster| {
        let mut shard = subscriber(cluster.nodes[2].addr(), true, "SSUBSCRIBE news").await?;
        let mut other = subscriber(cluster.nodes[2].addr(), true, "SUBSCRIBE news").await?;
        let mut client = cluster.nodes[0].client().await?;
        await_heard(&mut client, &mut other).await?;
        client.run("SPUBLISH news to-the-shard").await?;
        let message = words(&shard.receive().await?);
        ensure!(message == ["smessage", "news", "to-the-shard"], "{message:?}");
        client.run("PUBLISH news to-all").await?;
        let message = words(&other.receive().await?);
        ensure!(message == ["message", "news", "to-all"], "{message:?}");
        client.run("SPUBLISH news again").await?;
        let message = words(&shard.receive().await?);
        ensure!(message == ["smessage", "news", "again"], "{message:?}");
        Ok(())
    });
}

#[test]
fn a_monitor_sees_the_requests_of_its_node() {
    scenario(1, &[], async |cluster| {
        let mut monitor = cluster.nodes[0].client().await?;
        monitor.ok("MONITOR").await?;
        let mut client = cluster.nodes[0].client().await?;
        client.ok("SET k v").await?;
        let Value::Simple(line) = monitor.receive().await? else { anyhow::bail!("no status line") };
        ensure!(line.ends_with("] \"SET\" \"k\" \"v\"") && line.contains(" [0 127.0.0.1:"), "{line}");
        client.ok("CLIENT PAUSE 60000 WRITE").await?;
        client.send(b"SET k w\r\nGET k\r\n").await?;
        let mut other = cluster.nodes[0].client().await?;
        ensure!(other.text("GET k").await?.as_deref() == Some("v"), "a pause holds the write back");
        other.ok("CLIENT UNPAUSE").await?;
        ensure!(client.receive().await?.is_ok());
        ensure!(client.receive().await?.as_text() == Some("w"));
        Ok(())
    });
}
