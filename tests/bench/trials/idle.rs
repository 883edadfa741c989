//! What nodes cost that nobody asks anything: heartbeats and timers, and the memory of what they hold.

use std::time::Duration;

use anyhow::{Context, Result};
use rustix::process::Pid;
use serde_json::json;

use super::memory_mib;
use crate::matrix::start;
use crate::open::{For, Until};
use crate::options::Options;
use crate::report::{Report, Section};
use crate::sample::real;
use crate::systems::{Kind, System};

const VALUE_BYTES: usize = 64;

pub(super) async fn run(options: &Options, report: &mut Report, section: &mut Section) -> Result<()> {
    let time = Duration::from_secs(if options.is_quick { 5 } else { 30 });
    let keys = options.keys.unwrap_or(if options.is_quick { 20_000 } else { 1_000_000 });
    let mut rows = Vec::new();
    let systems = [Kind::Ours(3), Kind::RedisAlways, Kind::Etcd(3)];
    for kind in systems.into_iter().filter(|kind| kind.is_here() && options.names(&kind.name())) {
        let mut system = start(kind, report).await?;
        rows.extend(watch(kind, &system, "empty", time, report).await?);
        system.preload(0..keys, VALUE_BYTES).await.with_context(|| kind.name())?;
        if let System::Ours(cluster) = &mut system {
            cluster.await_applied().await?;
        }
        // What the load has left to do (flushes, compactions) is not idleness.
        For(time / 3).end().await?;
        rows.extend(watch(kind, &system, &format!("{keys} keys"), time, report).await?);
    }
    let head = [
        "system",
        "holds",
        "process",
        "CPU, share of a core",
        "context switches/s",
        "resident MiB",
        "at most",
    ];
    section.say(format!("Nodes that nobody asks, over {time:?}"));
    section.show(head.map(str::to_owned).to_vec(), rows);
    Ok(())
}

async fn watch(
    kind: Kind,
    system: &System,
    holds: &str,
    time: Duration,
    report: &mut Report,
) -> Result<Vec<Vec<String>>> {
    let pids = system.pids()?;
    let cost = |pid: &Pid| Ok((kvnode_tests::node::cpu_seconds(*pid)?, switches(*pid)?));
    let before: Vec<(f64, u64)> = pids.iter().map(cost).collect::<Result<_>>()?;
    For(time).end().await?;
    let mut rows = Vec::new();
    for (number, (pid, (cpu, switched))) in pids.iter().zip(before).enumerate() {
        let (now_cpu, now_switched) = cost(pid)?;
        let share = (now_cpu - cpu) / time.as_secs_f64();
        let rate = real(now_switched.saturating_sub(switched)) / time.as_secs_f64();
        let (resident, highest) = memory_mib(*pid)?;
        report.record(
            "idle",
            json!({"system": kind.name(), "holds": holds, "process": number + 1, "seconds": time.as_secs_f64(),
                "cpu_share": share, "context_switches_per_second": rate, "resident_mib": resident,
                "highest_mib": highest}),
        )?;
        rows.push(vec![
            kind.name(),
            holds.to_owned(),
            (number + 1).to_string(),
            format!("{:.2} %", share * 100.0),
            format!("{rate:.0}"),
            resident.to_string(),
            highest.to_string(),
        ]);
    }
    Ok(rows)
}

/// Context switches of all living threads of a process so far.
pub(crate) fn switches(pid: Pid) -> Result<u64> {
    let mut sum = 0;
    for task in std::fs::read_dir(format!("/proc/{}/task", pid.as_raw_nonzero()))? {
        // A thread may end meanwhile.
        let status = std::fs::read_to_string(task?.path().join("status")).unwrap_or_default();
        sum += switched(&status);
    }
    Ok(sum)
}

/// Both kinds of switches in a thread's status: it waited, or it had to give way.
fn switched(status: &str) -> u64 {
    let lines = status.lines().filter(|line| line.contains("voluntary_ctxt_switches:"));
    lines.filter_map(|line| line.rsplit('\t').next()?.trim().parse::<u64>().ok()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn switches_of_both_kinds_count() {
        let status = "Name:\tx\nThreads:\t7\nvoluntary_ctxt_switches:\t40\nnonvoluntary_ctxt_switches:\t2\n";
        assert_eq!(switched(status), 42);
        assert!(switches(rustix::process::getpid()).unwrap() > 0);
    }
}
