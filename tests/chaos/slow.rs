//! What explains a healing that takes long: from the fifth second on what it waits for and how every node sees itself,
//! once a second, and afterwards the logs of the nodes.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use kvnode_tests::node::Node;
use kvnode_tests::{http, tool};
use serde_json::Value as Json;
use tokio::sync::{oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;

/// Longer than any healing whose parts all work at once.
const SLOW: Duration = Duration::from_secs(5);
const EVERY: Duration = Duration::from_secs(1);
/// A node that does not answer for this long is said not to.
const ANSWER_MAX: Duration = Duration::from_millis(300);
/// Slow healings whose logs stay.
const KEPT: usize = 5;

/// Watches one healing; nothing is printed while it is quick.
pub(crate) struct Watch {
    ended: oneshot::Sender<()>,
    telling: JoinSet<bool>,
}

impl Watch {
    /// `stage`: what is waited for.
    pub(crate) fn begin(nodes: &[Node], stage: watch::Receiver<String>) -> Self {
        let (ended, end) = oneshot::channel();
        let nodes = nodes.iter().enumerate().map(|(at, node)| (at + 1, node.http().to_owned())).collect();
        let mut telling = JoinSet::new();
        telling.spawn(tell(nodes, stage, end));
        Self { ended, telling }
    }

    /// It is over; true if it took long.
    pub(crate) async fn end(mut self) -> Result<bool> {
        drop(self.ended);
        Ok(self.telling.join_next().await.transpose()?.unwrap_or_default())
    }
}

async fn tell(
    nodes: Vec<(usize, String)>,
    stage: watch::Receiver<String>,
    mut end: oneshot::Receiver<()>,
) -> bool {
    let begin = Instant::now();
    if timeout(SLOW, &mut end).await.is_ok() {
        return false;
    }
    loop {
        let waits_for = stage.borrow().clone();
        println!("{} slow healing, {:.1} s: waits for {waits_for}", time(), begin.elapsed().as_secs_f64());
        for (number, addr) in &nodes {
            let told = timeout(ANSWER_MAX, state(addr)).await;
            let told = told.unwrap_or_else(|_| Ok("does not answer".to_owned()));
            println!("  n{number} {}", told.unwrap_or_else(|error| format!("{error:#}")));
        }
        if timeout(EVERY, &mut end).await.is_ok() {
            return true;
        }
    }
}

/// The time of day as the logs of the nodes have it.
fn time() -> String {
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    format!("{:02}:{:02}:{:02}Z", seconds / 3600 % 24, seconds / 60 % 60, seconds % 60)
}

async fn state(addr: &str) -> Result<String> {
    Ok(describe(&http::get(addr, "/v1/status").await?.json()?))
}

/// The status of a node in one line, members as their leader sees them.
fn describe(status: &Json) -> String {
    let text = |value: &Json| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let log = &status["log"];
    let members = status["membership"]["members"].as_array().map_or(&[][..], Vec::as_slice);
    let member = |member: &Json| {
        let role = if member["voter"] == true { "voter" } else { "learner" };
        let (addr, id) = (text(&member["addr"]), text(&member["id"]));
        let (matched, ack) = (&member["matched_index"], &member["last_ack_ms"]);
        format!("{addr} {id} {role} matched {matched} acked {ack} ms ago")
    };
    format!(
        "{} is {} {}, term {}, leader {}, heard {} ms ago; log to {}, committed {}, applied {}, purged {}; \
         change {}; {}",
        text(&status["node_id"]),
        text(&status["phase"]),
        text(&status["role"]),
        status["term"],
        text(&status["leader"]["id"]),
        status["last_contact_ms"],
        log["last_index"],
        text(&log["committed"]),
        text(&log["applied"]),
        text(&log["purged"]),
        status["membership"]["change_in_progress"],
        members.iter().map(member).collect::<Vec<_>>().join(", "),
    )
}

/// Copies the logs of the nodes into the cache, where those of the last few slow healings stay.
pub(crate) fn keep_logs(nodes: &[Node], name: &str) -> Result<PathBuf> {
    let all = tool::cache_dir().join("chaos-slow");
    let dir = all.join(name);
    fs::create_dir_all(&dir)?;
    for node in nodes {
        fs::copy(&node.log, dir.join(node.log.file_name().context("a log without a name")?))?;
    }
    prune(&all, KEPT)?;
    Ok(dir)
}

/// Removes all but the newest directories.
fn prune(all: &Path, keep: usize) -> Result<()> {
    let mut known = Vec::new();
    for entry in fs::read_dir(all)? {
        let entry = entry?;
        known.push((entry.metadata()?.modified()?, entry.path()));
    }
    known.sort();
    for (_, old) in known.iter().rev().skip(keep) {
        fs::remove_dir_all(old)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_quick_healing_is_not_slow() {
        let (stage, seen) = watch::channel(String::new());
        assert!(!Watch::begin(&[], seen).end().await.unwrap());
        drop(stage);
    }

    #[test]
    fn a_status_becomes_one_line() {
        let status = serde_json::json!({
            "node_id": "1f", "phase": "running", "role": "leader", "term": 3, "leader": {"id": "1f"},
            "last_contact_ms": 7, "log": {"last_index": 9, "committed": "3-1f-9", "applied": "3-1f-8"},
            "membership": {"change_in_progress": false, "members": [
                {"id": "2a", "addr": "a:1", "voter": true, "matched_index": 4, "last_ack_ms": 20000}]},
        });
        assert_eq!(
            describe(&status),
            "1f is running leader, term 3, leader 1f, heard 7 ms ago; log to 9, committed 3-1f-9, applied 3-1f-8, \
             purged null; change false; a:1 2a voter matched 4 acked 20000 ms ago"
        );
    }

    #[test]
    fn only_the_newest_are_kept() {
        let all = tempfile::tempdir().unwrap();
        for name in ["1", "2", "3"] {
            fs::create_dir(all.path().join(name)).unwrap();
        }
        prune(all.path(), 2).unwrap();
        assert_eq!(fs::read_dir(all.path()).unwrap().count(), 2);
    }
}
