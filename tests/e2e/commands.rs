//! The ancestor's commands answer as it did (without its bugs), on the leader and through any follower.

use anyhow::{Result, ensure};
use kvnode_tests::client::Client;
use kvnode_tests::scenario::scenario;

/// Request words, then the reply as `Value` shows it.
const CONVERSATION: &[(&str, &str)] = &[
    ("SET k v", "+OK"),
    ("GET k", r#""v""#),
    ("GET missing", "nil"),
    ("set K2 v2", "+OK"),
    ("MSET a 1 b 2 a 3", "+OK"),
    ("MGET a b nothing", r#"*["3", "2", nil]"#),
    ("MSET a 1 b", "-ERR wrong number of arguments for 'MSET' command"),
    ("EXISTS a b nothing a", ":3"),
    ("TYPE a", "+string"),
    ("TYPE nothing", "+none"),
    ("DBSIZE", ":4"),
    ("DEL a a b", ":2"),
    ("DEL a", ":0"),
    ("SET x hello", "+OK"),
    ("SET y yellow", "+OK"),
    ("SET z zoo", "+OK"),
    ("DELIF ello x y z none", ":2"),
    ("KEYS *", r#"*["K2", "k", "z"]"#),
    ("PDEL k", ":1"),
    ("PDEL nothing*", ":0"),
    ("PDEL ?", ":1"),
    ("KEYS *", r#"*["K2"]"#),
    ("FLUSHDB", "+OK"),
    ("KEYS *", "*[]"),
    ("ECHO hello", r#""hello""#),
    ("PING", "+PONG"),
    ("PING hi", r#""hi""#),
    ("GET", "-ERR wrong number of arguments for 'GET' command"),
    ("gEt", "-ERR wrong number of arguments for 'gEt' command"),
    ("SELECT 3", "+OK"),
    ("SET other db", "+OK"),
    ("SELECT 0", "+OK"),
    ("GET other", "nil"),
    ("SELECT 16", "-ERR DB index is out of range"),
    ("FLUSHALL", "+OK"),
    ("SELECT 3", "+OK"),
    ("DBSIZE", ":0"),
    ("SELECT 0", "+OK"),
];

async fn converse(client: &mut Client) -> Result<()> {
    for (words, expected) in CONVERSATION {
        let reply = format!("{:?}", client.run(words).await?);
        ensure!(reply == *expected, "{words}: expected {expected}, got {reply}");
    }
    let unknown = client.run("NOSUCH a b").await?;
    let text = unknown.as_error().unwrap_or_default();
    ensure!(text.starts_with("ERR unknown command 'NOSUCH'"), "{unknown:?}");
    Ok(())
}

#[test]
fn one_node_answers_as_the_ancestor() {
    scenario(1, &[], async |cluster| converse(&mut cluster.leader_client().await?).await);
}

#[test]
fn a_follower_answers_the_same_by_forwarding() {
    scenario(3, &[], async |cluster| {
        let follower = cluster.followers().await?[0];
        converse(&mut cluster.nodes[follower].client().await?).await
    });
}

#[test]
fn keys_and_values_are_binary_safe_and_may_be_empty() {
    scenario(1, &[], async |cluster| {
        let mut client = cluster.leader_client().await?;
        let every_byte: Vec<u8> = (0..=255).collect();
        for key in [&b""[..], b"\r\n", b"\0", &every_byte, b"\xff\xfe"] {
            for value in [&b""[..], b"\r\n$-1\r\n", &every_byte] {
                ensure!(client.call(&[b"SET", key, value]).await?.is_ok());
                let got = client.call(&[&b"GET"[..], key]).await?;
                ensure!(got.as_bytes() == Some(value), "{}: {got:?}", key.escape_ascii());
            }
        }
        ensure!(client.int("DBSIZE").await? == 5);
        Ok(())
    });
}

#[test]
fn an_echoed_name_cannot_split_a_reply() {
    scenario(1, &[], async |cluster| {
        let mut client = cluster.leader_client().await?;
        let reply = client.call(&[&b"foo\r\n+INJECTED\r\n"[..]]).await?;
        ensure!(reply.as_error().is_some(), "{reply:?}");
        ensure!(client.run("PING").await?.as_text() == Some("PONG"), "the replies stay in step");
        Ok(())
    });
}

#[test]
fn quit_answers_ok_after_what_came_before_it() {
    scenario(1, &[], async |cluster| {
        let mut client = cluster.leader_client().await?;
        client.send(b"*3\r\n$3\r\nSET\r\n$1\r\na\r\n$1\r\n1\r\n*1\r\n$4\r\nQUIT\r\n").await?;
        ensure!(client.receive().await?.is_ok() && client.receive().await?.is_ok());
        ensure!(client.closed().await?);
        Ok(())
    });
}

#[test]
fn raft_commands_tell_the_state() {
    scenario(3, &[], async |cluster| {
        let leader = cluster.leader().await?;
        let addr = cluster.nodes[leader].addr().to_owned();
        for index in 0..3 {
            let mut client = cluster.nodes[index].client().await?;
            ensure!(client.text("RAFTLEADER").await?.as_deref() == Some(addr.as_str()));
            let state = client.text("RAFTSTATE").await?;
            ensure!(
                state.as_deref() == Some(if index == leader { "Leader" } else { "Follower" }),
                "{state:?}"
            );
            let names: Vec<String> =
                client.run("RAFTSTATS").await?.texts().iter().step_by(2).cloned().collect();
            for name in ["applied_index", "commit_index", "last_log_index", "num_peers", "state", "term"] {
                ensure!(names.iter().any(|n| n == name), "RAFTSTATS lacks {name}: {names:?}");
            }
        }
        let peers = cluster.peers(leader).await?;
        let addrs: Vec<&str> = cluster.nodes.iter().map(kvnode_tests::node::Node::addr).collect();
        ensure!(addrs.iter().all(|addr| peers.contains_key(*addr)), "{peers:?} against {addrs:?}");
        Ok(())
    });
}

#[test]
fn shrinking_the_log_keeps_the_data() {
    scenario(3, &[], async |cluster| {
        let mut client = cluster.leader_client().await?;
        for n in 0..500 {
            client.ok(&format!("SET key{n} {n}")).await?;
        }
        for node in &cluster.nodes {
            node.client().await?.ok("RAFTSHRINKLOG").await?;
        }
        cluster.kill_and_restart_all().await?;
        ensure!(cluster.leader_client().await?.int("DBSIZE").await? == 500);
        ensure!(cluster.same_content().await?.len() == 500);
        Ok(())
    });
}
