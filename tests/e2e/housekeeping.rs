//! What stock tools ask beside data: each command answers in its form, on a node of a cluster as on one alone.

use anyhow::{Result, ensure};
use kvnode_tests::resp::Value;
use kvnode_tests::scenario::scenario;
use kvnode_tests::wait::{SOON, eventually};

/// The form of a reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    Ok,
    Int,
    /// A string with this in it.
    Text(&'static str),
    Nil,
    Array,
    /// An error that begins so.
    Error(&'static str),
}

use Form::{Array, Error, Int, Nil, Ok as Done, Text};

/// Requests in order; `k` holds `value` from the second one on.
const REQUESTS: &[(&str, Form)] = &[
    ("RESET", Text("RESET")),
    ("SET k value", Done),
    ("STRLEN k", Int),
    ("STRLEN missing", Int),
    ("RANDOMKEY", Text("k")),
    ("AUTH nobody", Error("ERR ")),
    ("AUTH default anything", Done),
    ("ACL WHOAMI", Text("default")),
    ("ACL HELP", Array),
    ("CLIENT SETNAME tester", Done),
    ("CLIENT GETNAME", Text("tester")),
    ("CLIENT SETINFO LIB-NAME lib", Done),
    ("CLIENT SETINFO LIB-VER 1.0", Done),
    ("CLIENT ID", Int),
    ("CLIENT INFO", Text("name=tester")),
    ("CLIENT LIST", Text("lib-name=lib")),
    ("CLIENT KILL ID 999999999", Int),
    ("CLIENT KILL 1.2.3.4:5", Error("ERR No such client")),
    ("CLIENT REPLY ON", Done),
    ("CLIENT HELP", Array),
    ("OBJECT ENCODING k", Text("embstr")),
    ("OBJECT ENCODING missing", Nil),
    ("OBJECT REFCOUNT k", Int),
    ("OBJECT IDLETIME k", Error("ERR idle time not tracked")),
    ("OBJECT FREQ k", Error("ERR An LFU maxmemory policy is not selected")),
    ("OBJECT HELP", Array),
    ("MEMORY USAGE k", Int),
    ("MEMORY USAGE missing", Nil),
    ("MEMORY DOCTOR", Text("")),
    ("MEMORY HELP", Array),
    ("COMMAND COUNT", Int),
    ("COMMAND LIST", Array),
    ("COMMAND INFO GET nothing", Array),
    ("COMMAND DOCS SET", Array),
    ("COMMAND GETKEYS MSET a 1 b 2", Array),
    ("COMMAND HELP", Array),
    ("CONFIG GET maxmemory*", Array),
    ("CONFIG SET slowlog-log-slower-than 10000", Done),
    ("CONFIG SET no-such-parameter 1", Error("ERR Unknown option")),
    ("CONFIG RESETSTAT", Done),
    ("CONFIG REWRITE", Error("ERR ")),
    ("CONFIG HELP", Array),
    ("LATENCY LATEST", Array),
    ("LATENCY HISTORY command", Array),
    ("LATENCY RESET", Int),
    ("LATENCY HELP", Array),
    ("MODULE LIST", Array),
    ("MODULE HELP", Array),
    ("SLOWLOG GET", Array),
    ("SLOWLOG LEN", Int),
    ("SLOWLOG RESET", Done),
    ("SLOWLOG HELP", Array),
    ("CLUSTER INFO", Error("ERR This instance has cluster support disabled")),
    ("CLUSTER MYID", Error("ERR This instance has cluster support disabled")),
    ("CLUSTER SLOTS", Error("ERR This instance has cluster support disabled")),
    ("CLUSTER SHARDS", Error("ERR This instance has cluster support disabled")),
    ("CLUSTER NODES", Error("ERR This instance has cluster support disabled")),
    ("CLUSTER KEYSLOT k", Error("ERR This instance has cluster support disabled")),
    ("CLUSTER HELP", Array),
    ("RAFTIDENTITY", Array),
    ("LASTSAVE", Int),
    ("BGSAVE", Text("Background saving started")),
];

fn has_form(reply: &Value, form: Form) -> bool {
    match (reply, form) {
        (Value::Simple(text), Done) => text == "OK",
        (Value::Simple(text), Text(part)) => text.contains(part),
        (Value::Bulk(bytes), Text(part)) => String::from_utf8_lossy(bytes).contains(part),
        (Value::Error(text), Error(prefix)) => text.starts_with(prefix),
        (Value::Int(_), Int) | (Value::Nil, Nil) | (Value::Array(_), Array) => true,
        _ => false,
    }
}

#[test]
fn every_housekeeping_command_answers_in_its_form() {
    scenario(3, &[], async |cluster| -> Result<()> {
        cluster.await_voters(3).await?;
        for node in &cluster.nodes {
            let mut client = node.client().await?;
            let mut wrong = Vec::new();
            for (words, form) in REQUESTS {
                let reply = client.run(words).await?;
                if !has_form(&reply, *form) {
                    wrong.push(format!("{words}: {form:?} expected, {reply:?} came"));
                }
            }
            ensure!(wrong.is_empty(), "{wrong:#?}");
            client.ok("FLUSHALL").await?;
        }
        Ok(())
    });
}

#[test]
fn with_moved_the_cluster_is_described_to_cluster_clients() {
    scenario(3, &["--redirect", "moved"], async |cluster| -> Result<()> {
        cluster.await_voters(3).await?;
        let mut client = cluster.nodes[0].client().await?;
        for words in ["CLUSTER INFO", "CLUSTER MYID", "CLUSTER NODES"] {
            let reply = client.run(words).await?;
            ensure!(matches!(reply, Value::Bulk(_)), "{words}: {reply:?}");
        }
        for words in ["CLUSTER SLOTS", "CLUSTER SHARDS"] {
            let reply = client.run(words).await?;
            ensure!(matches!(&reply, Value::Array(parts) if !parts.is_empty()), "{words}: {reply:?}");
        }
        ensure!(client.int("CLUSTER KEYSLOT foo").await? == 12182);
        let followers = cluster.followers().await?;
        let reply = cluster.nodes[followers[0]].client().await?.run("SET foo 1").await?;
        let leader = cluster.leader().await?;
        let moved = format!("MOVED 12182 {}", cluster.nodes[leader].addr());
        ensure!(reply.as_error() == Some(moved.as_str()), "{reply:?}");
        Ok(())
    });
}

/// The parts of the time that a write took, by name, from the slow log of this node.
async fn parts(client: &mut kvnode_tests::client::Client) -> Result<Vec<(String, i64)>> {
    client.ok("CONFIG SET slowlog-log-slower-than 0").await?;
    client.ok("SET slow write").await?;
    client.ok("CONFIG SET slowlog-log-slower-than -1").await?;
    let entries = client.run("SLOWLOG GET -1 WITHTIMES").await?;
    let is_write = |entry: &&Value| {
        entry.items().get(3).is_some_and(|words| words.texts().starts_with(&["SET".to_owned()]))
    };
    let entry = entries.items().into_iter().find(is_write).cloned();
    let Some(entry) = entry else { anyhow::bail!("the write is not noted: {entries:?}") };
    ensure!(entry.items().len() == 7, "{entry:?}");
    let whole = entry.items()[2].as_int().unwrap_or(0);
    let map = entry.items()[6].clone();
    let items = map.items();
    let pair = |pair: &[&Value]| Some((pair[0].as_text()?.to_owned(), pair[1].as_int()?));
    let parts: Vec<(String, i64)> = items.chunks(2).filter_map(pair).collect();
    let sum: i64 = parts.iter().map(|(_, micros)| micros).sum();
    ensure!(sum <= whole, "{parts:?} are more than {whole}");
    Ok(parts)
}

#[test]
fn a_slow_write_tells_where_its_time_went() {
    scenario(3, &[], async |cluster| {
        let names = |parts: &[(String, i64)]| parts.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>();
        let mut leader = cluster.leader_client().await?;
        // A majority of the others may be quicker than the disk here; then nothing is known of the sync.
        let here = eventually("a write waits for the disk here", SOON, async || {
            let here = parts(&mut leader).await?;
            Ok((names(&here) == ["queue", "fsync", "replicate", "apply"] && here[1].1 > 0).then_some(()))
        });
        here.await?;
        let follower = cluster.followers().await?[0];
        let there = parts(&mut cluster.nodes[follower].client().await?).await?;
        ensure!(names(&there) == ["queue", "leader"], "{there:?}");
        let plain = leader.run("SLOWLOG GET 1").await?;
        ensure!(plain.items().first().is_some_and(|entry| entry.items().len() == 6), "{plain:?}");
        Ok(())
    });
}
