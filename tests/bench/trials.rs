//! `make bench TRIALS=...`: what a node promises beside throughput, most of it on a cluster of three.
//!
//! - `disturb`: latency at 40 % of the peak, open loop, while a snapshot is written, large values come, many keys are
//!   deleted, their space is given back, a learner joins. `snapshots` is the part of it that is about those.
//! - `failover`: kill -9 of the leader, over and over; how long nobody could write.
//! - `gets`: GET over a million keys, each as likely as the other, in all systems.
//! - `hardship=MINUTES`: as `stalls`, with round trips of 10 ms, and a tenth of a core for one node: half of the time for
//!   a follower, half of it for the leader. Needs root.
//! - `handover`: RAFTTRANSFER, and SIGTERM of the leader; how long one client waited, and whether it saw a failure.
//! - `idle`: CPU, context switches and memory of nodes that nobody asks anything.
//! - `latency`: open loop at 25, 50 and 75 % of the peak, ours and etcd at the same rates.
//! - `links`: SET and GET with round trips of 0.5, 2 and 10 ms between the nodes.
//! - `purges=MINUTES`: full load of values of 1 KiB while the log is purged under it; whether all nodes live.
//! - `restart`: kill -9 of everything, with a million keys; the time until it is ready and until it answers.
//! - `scan`: what SCAN's order over the keys costs an insert and an overwrite.
//! - `soak=MINUTES`: a moderate load with clients that come and go, snapshots and hand-overs; whether memory and open files
//!   of the nodes stay what they were.
//! - `stalls=MINUTES`: full load while fsyncs stall for 300 ms; whether anybody was elected. Needs strace.
//! - `stock`: SET and GET by redis-benchmark, in all systems that speak RESP.
//! - `volume=GIB`: memory of the nodes while a large snapshot is written, joined from, and read.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use kvnode_tests::cluster::Cluster;
use kvnode_tests::http;

use crate::cells::{Cell, Operation};
use crate::options::Options;
use crate::report::{Report, Section};

mod disturb;
mod gets;
mod idle;
mod latency;
mod links;
mod purges;
mod restart;
mod scan;
mod soak;
mod stalls;
mod stock;
mod takeover;
mod volume;

pub(crate) use idle::switches;

/// The load that peaks are measured with.
const PEAK: Cell = Cell { operation: Operation::Set, clients: 50, pipeline: 1, value_bytes: 64 };
/// Counter of the syncs of a log.
pub(crate) const LOG_SYNCS: &str = "kvnode_log_syncs_total";

/// Runs the trial of this name, `name` or `name=number`, and adds what it says to the report, also if it fails.
pub(crate) async fn run(trial: &str, options: &Options, report: &mut Report) -> Result<()> {
    eprintln!("trial {trial}");
    let mut section = Section::new(format!("Trial {trial}"));
    let done = run_into(trial, options, report, &mut section).await;
    if let Err(error) = &done {
        section.note(format!("FAILED: {error:#}"));
    }
    report.add(section)?;
    done.with_context(|| format!("trial {trial}"))
}

async fn run_into(trial: &str, options: &Options, report: &mut Report, section: &mut Section) -> Result<()> {
    let (name, number) = trial.split_once('=').unwrap_or((trial, ""));
    let number = || number.parse::<u64>().with_context(|| format!("{trial}: a number belongs behind the ="));
    match name {
        "disturb" => disturb::run(&disturb::ALL, options, report, section).await,
        "failover" => takeover::failover(section).await,
        "gets" => gets::run(options, report, section).await,
        "hardship" => stalls::hardship(Duration::from_secs(60 * number()?), section).await,
        "handover" => takeover::hand_over(section).await,
        "idle" => idle::run(options, report, section).await,
        "latency" => latency::run(options, report, section).await,
        "links" => links::run(options, report, section).await,
        "purges" => purges::run(Duration::from_secs(60 * number()?), section).await,
        "restart" => restart::run(options, report, section).await,
        "scan" => scan::run(section),
        "snapshots" => disturb::run(&disturb::SNAPSHOTS, options, report, section).await,
        "soak" => soak::run(Duration::from_secs(60 * number()?), report, section).await,
        "stalls" => stalls::run(Duration::from_secs(60 * number()?), section).await,
        "stock" => stock::run(options, report, section).await,
        "volume" => volume::run(number()?, section).await,
        _ => bail!(
            "no trial {name}: disturb, failover, gets, handover, hardship=MINUTES, idle, latency, links, purges=MINUTES, \
             restart, scan, snapshots, soak=MINUTES, stalls=MINUTES, stock, volume=GIB"
        ),
    }
}

/// A counter or gauge of each node, by its name in `/metrics`; the first one of that name.
pub(crate) async fn counter(cluster: &Cluster, name: &str) -> Result<Vec<u64>> {
    let mut values = Vec::new();
    for node in &cluster.nodes {
        let text = http::get(node.http(), "/metrics").await?.text();
        values.push(metric(&text, name).with_context(|| format!("/metrics has no {name}"))?);
    }
    Ok(values)
}

fn metric(text: &str, name: &str) -> Option<u64> {
    let is_of = |line: &&str| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' ']));
    text.lines().find(is_of)?.rsplit(' ').next()?.parse().ok()
}

/// Resident memory of a process in MiB: now, and at its highest.
fn memory_mib(pid: rustix::process::Pid) -> Result<(u64, u64)> {
    resident_kib(pid).map(|(now, highest)| (now / 1024, highest / 1024))
}

/// The same in KiB.
fn resident_kib(pid: rustix::process::Pid) -> Result<(u64, u64)> {
    let status = std::fs::read_to_string(format!("/proc/{}/status", pid.as_raw_nonzero()))?;
    let field = |name: &str| -> Result<u64> {
        let line = status.lines().find_map(|line| line.strip_prefix(name)).context("a line of its status")?;
        Ok(line.trim().trim_end_matches(" kB").parse()?)
    };
    Ok((field("VmRSS:")?, field("VmHWM:")?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_metric_is_found_by_its_whole_name() {
        let text = "# HELP a_total x\na_total_more{g=\"0\"} 1\na_total{g=\"0\"} 22\nb 3\n";
        assert_eq!(metric(text, "a_total"), Some(22));
        assert_eq!((metric(text, "b"), metric(text, "a")), (Some(3), None));
    }
}
