//! kill -9 of all processes of a system that holds a million keys; the time until it serves again.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde_json::json;

use crate::matrix::start;
use crate::options::Options;
use crate::report::{Report, Section};
use crate::sample::median;
use crate::systems::{Kind, System};

const KEYS: usize = 1_000_000;
const VALUE_BYTES: usize = 64;

pub(super) async fn run(options: &Options, report: &mut Report, section: &mut Section) -> Result<()> {
    let keys = options.keys.unwrap_or(if options.is_quick { 50_000 } else { KEYS });
    let rounds = options.rounds.unwrap_or(if options.is_quick { 1 } else { 5 });
    let mut rows = Vec::new();
    let systems = [Kind::Ours(1), Kind::Ours(3), Kind::RedisAlways, Kind::Etcd(3)];
    for kind in systems.into_iter().filter(|kind| kind.is_here() && options.names(&kind.name())) {
        let mut system = start(kind, report).await?;
        system.preload(0..keys, VALUE_BYTES).await.with_context(|| kind.name())?;
        let (mut ready, mut answered) = (Vec::new(), Vec::new());
        for round in 0..rounds {
            let (until_ready, until_answer) = once(&mut system).await.with_context(|| kind.name())?;
            let seconds = until_ready.map(|time| time.as_secs_f64());
            report.record(
                "restart",
                json!({"system": kind.name(), "round": round + 1, "keys": keys, "ready_s": seconds,
                    "answer_s": until_answer.as_secs_f64()}),
            )?;
            ready.extend(seconds);
            answered.push(until_answer.as_secs_f64());
        }
        let show = |times: Vec<f64>| {
            if times.is_empty() {
                return "-".into();
            }
            let slowest = times.iter().copied().fold(0.0, f64::max);
            format!("{:.2} s (slowest {slowest:.2} s)", median(times))
        };
        rows.push(vec![kind.name(), show(ready), show(answered)]);
    }
    section.say(format!("kill -9 of all processes with {keys} keys, medians of {rounds} times"));
    let head = ["system", "all nodes ready", "first answer that needs all data"];
    section.show(head.map(str::to_owned).to_vec(), rows);
    Ok(())
}

/// Times from the kill until all nodes say that they are ready, where they do, and until the first answer.
async fn once(system: &mut System) -> Result<(Option<Duration>, Duration)> {
    if let System::Ours(cluster) = system {
        let start = Instant::now();
        cluster.kill_and_restart_all().await?;
        let ready = start.elapsed();
        cluster.leader_client().await?.int("DBSIZE").await?;
        return Ok((Some(ready), start.elapsed()));
    }
    let answer = system.restart().await?.context("a system that can be restarted")?;
    Ok((None, answer))
}
