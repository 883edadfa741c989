//! What stock tools ask beside data: each command answers in its form, on a node of a cluster as on one alone.

use anyhow::{Result, ensure};
use kvnode_tests::resp::Value;
use kvnode_tests::scenario::scenario;

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
