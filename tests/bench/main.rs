//! `make bench`: ours with one and three nodes against redis-server and etcd, interleaved, medians and ratios.
//!
//! How it is made fair, and what it cannot be:
//! - Every round starts each system afresh, loads the same keys, measures all cells, stops it; the order rotates. So all
//!   share the weather of the machine, and no idle rival takes CPU.
//! - One closed-loop load generator for all, on one thread, as redis-benchmark is: each client has one connection and waits
//!   for its whole pipeline. RESP and
//!   gRPC differ only in framing; etcd's pipeline is that many streams at once on one connection, as its clients do it.
//! - All connections go to the leader. Everything, generator included, shares the machine's cores and one disk.
//! - Latency is that of a whole pipeline: from its first byte sent to its last reply.

mod cells;
mod etcd;
mod load;
mod systems;
mod table;
mod trials;

use std::time::Duration;

use anyhow::Result;

/// How long and how often.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    /// Rounds over all systems; the table shows medians.
    pub(crate) rounds: usize,
    /// Time per cell.
    pub(crate) cell: Duration,
    /// Keys loaded before, and the range that cells draw from.
    pub(crate) keys: usize,
    /// Commands of the bulk load.
    pub(crate) bulk: usize,
}

const FULL: Plan = Plan { rounds: 5, cell: Duration::from_secs(2), keys: 100_000, bulk: 500_000 };
const QUICK: Plan = Plan { rounds: 1, cell: Duration::from_millis(700), keys: 20_000, bulk: 100_000 };

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let quick = arguments.iter().any(|argument| argument == "--quick");
    let only = arguments.iter().find_map(|argument| argument.strip_prefix("--only=")).map(str::to_owned);
    if let Some(names) = arguments.iter().find_map(|argument| argument.strip_prefix("--trials=")) {
        for name in names.split(',') {
            trials::run(name).await?;
        }
        return Ok(());
    }
    let plan = if quick { QUICK } else { FULL };
    let systems: Vec<systems::Kind> = systems::available()
        .into_iter()
        .filter(|kind| only.as_deref().is_none_or(|o| kind.name().contains(o)))
        .collect();
    let mut results = table::Results::default();
    for round in 0..plan.rounds {
        for turn in 0..systems.len() {
            let kind = systems[(turn + round) % systems.len()];
            eprintln!("round {} of {}: {}", round + 1, plan.rounds, kind.name());
            systems::measure(kind, plan, &mut results).await?;
        }
    }
    let command = if quick { "make bench QUICK=1" } else { "make bench" };
    print!("{}", table::markdown(&results, &systems, plan, command));
    Ok(())
}
