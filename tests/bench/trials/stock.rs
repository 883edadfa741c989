//! SET and GET as redis-benchmark counts them: the tool that everybody has, in all systems that speak RESP.
//!
//! It takes more CPU per request than the load generator of the table, so it is the limit sooner where a system leaves it
//! a core of its own. The table says what the systems can do, this says what a user sees who looks with that tool.

use std::collections::BTreeMap;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use kvnode_tests::tool;
use serde_json::json;

use crate::cells::Operation;
use crate::matrix::start;
use crate::options::Options;
use crate::report::{Report, Section};
use crate::sample::median;
use crate::systems::{self, Kind, System};

/// Operation and pipeline, and the requests of one run: one to five seconds.
const LOADS: [(Operation, usize, usize); 4] = [
    (Operation::Set, 1, 100_000),
    (Operation::Set, 16, 600_000),
    (Operation::Get, 1, 300_000),
    (Operation::Get, 16, 2_000_000),
];
const CLIENTS: usize = 50;
const VALUE_BYTES: usize = 64;
/// Keys unless KEYS says otherwise.
const KEYS: usize = 100_000;

/// Requests per second by operation, pipeline and system, one of each round.
type Rates = BTreeMap<(Operation, usize, Kind), Vec<f64>>;

pub(super) async fn run(options: &Options, report: &mut Report, section: &mut Section) -> Result<()> {
    let keys = options.keys.unwrap_or(KEYS);
    let rounds = options.rounds.unwrap_or(if options.is_quick { 1 } else { 5 });
    let kinds: Vec<Kind> = systems::available()?
        .into_iter()
        .filter(|kind| kind.speaks_resp() && options.names(&kind.name()))
        .collect();
    ensure!(!kinds.is_empty(), "ONLY names no system that speaks RESP");
    section.say(format!(
        "redis-benchmark -c {CLIENTS} -d {VALUE_BYTES} -r {keys} -P 1|16 -t set|get, {rounds} rounds over all systems"
    ));
    let mut rates = Rates::new();
    for round in 0..rounds {
        for turn in 0..kinds.len() {
            let kind = kinds[(turn + round) % kinds.len()];
            let mut system = start(kind, report).await?;
            system.preload(0..keys, VALUE_BYTES).await.with_context(|| kind.name())?;
            for (operation, pipeline, requests) in LOADS {
                if !kind.is_measured_by(operation) {
                    continue;
                }
                let requests = if options.is_quick { requests / 10 } else { requests };
                let rate = measure(&mut system, operation, pipeline, requests, keys).await?;
                report.record(
                    "stock",
                    json!({"system": kind.name(), "round": round + 1, "operation": operation.name(), "clients": CLIENTS,
                        "pipeline": pipeline, "value_bytes": VALUE_BYTES, "requests": requests, "per_second": rate}),
                )?;
                rates.entry((operation, pipeline, kind)).or_default().push(rate);
            }
        }
    }
    show(&rates, &kinds, section);
    Ok(())
}

async fn measure(
    system: &mut System,
    operation: Operation,
    pipeline: usize,
    requests: usize,
    keys: usize,
) -> Result<f64> {
    let program =
        tool::find("redis-benchmark").context("no redis-benchmark; make setup-bench installs it")?;
    let addr = system.leader().await?;
    let (host, port) = addr.rsplit_once(':').context("an address")?;
    let mut tool = Command::new(program);
    tool.args(["-h", host, "-p", port, "-t", &operation.name().to_lowercase(), "--csv"]);
    for (flag, number) in
        [("-c", CLIENTS), ("-P", pipeline), ("-n", requests), ("-r", keys), ("-d", VALUE_BYTES)]
    {
        tool.args([flag, &number.to_string()]);
    }
    let printed = tokio::task::spawn_blocking(move || tool::run(&mut tool)).await??;
    per_second(&printed, operation).with_context(|| format!("redis-benchmark printed {printed:?}"))
}

/// The rate of an operation in what `redis-benchmark --csv` prints: `"GET","104712.04","0.391",...`.
fn per_second(printed: &str, operation: Operation) -> Option<f64> {
    let name = format!("\"{}\",\"", operation.name());
    printed.lines().find_map(|line| line.strip_prefix(&name)?.split('"').next()?.parse().ok())
}

fn show(rates: &Rates, kinds: &[Kind], section: &mut Section) {
    let redis: Vec<Kind> =
        [Kind::RedisAlways, Kind::RedisMemory].into_iter().filter(|kind| kinds.contains(kind)).collect();
    let mut rows = Vec::new();
    for (operation, pipeline, _) in LOADS {
        for &kind in kinds {
            let Some(own) = rates.get(&(operation, pipeline, kind)) else { continue };
            let mut row = vec![operation.name().to_owned(), pipeline.to_string(), kind.name()];
            row.push(format!("{:.1}", median(own.clone()) / 1000.0));
            row.extend(redis.iter().map(|&peer| {
                let peer = rates.get(&(operation, pipeline, peer)).into_iter().flatten();
                format!("{:.2}x", median(peer.zip(own).map(|(peer, own)| own / peer).collect()))
            }));
            rows.push(row);
        }
    }
    let mut head: Vec<String> = ["command", "pipeline", "system", "k/s"].map(str::to_owned).to_vec();
    head.extend(redis.iter().map(|peer| format!("of {}", peer.name())));
    section.show(head, rows);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_is_read_from_the_line_of_its_command() {
        let printed = "\"test\",\"rps\",\"avg_latency_ms\"\n\"GET\",\"104712.04\",\"0.391\"\n";
        assert_eq!(per_second(printed, Operation::Get), Some(104_712.04));
        assert_eq!(per_second(printed, Operation::Set), None);
    }
}
