//! `make bench`: ours with one and three nodes against redis-server and etcd, interleaved, medians and ratios.
//!
//! How it is made fair, and what it cannot be:
//! - Every round starts each system afresh, loads the same keys, measures all cells, stops it; the order rotates. So all
//!   share the weather of the machine, and no idle rival takes CPU.
//! - One closed-loop load generator for all, on one thread, as redis-benchmark is: each client has one connection and waits
//!   for its whole pipeline. RESP and
//!   gRPC differ only in framing; etcd's pipeline is that many streams at once on one connection, as its clients do it.
//! - `KVNODE_OTHER_BIN` names another build of ours (or a script that becomes one), which joins the run with three nodes.
//! - All connections go to the leader. Everything, generator included, shares the machine's cores and one disk.
//! - Latency is that of a whole pipeline: from its first byte sent to its last reply.

mod cells;
mod etcd;
mod load;
mod systems;
mod table;
mod trials;

use std::fmt::Write as _;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use cells::Cell;

/// How long and how often.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    /// Rounds over all systems; the table shows medians.
    pub(crate) rounds: usize,
    /// Time per cell.
    pub(crate) cell: Duration,
    /// Keys loaded before, and the range that cells draw from.
    pub(crate) keys: usize,
    /// Commands of the bulk load.
    pub(crate) bulk: usize,
    /// What is measured.
    pub(crate) cells: Vec<Cell>,
    /// Whether bulk load and restart are measured too.
    pub(crate) is_whole: bool,
}

impl Plan {
    fn new(is_quick: bool, rounds: Option<usize>, cells: Option<&str>) -> Self {
        let is_among = |cell: &Cell| cells.is_none_or(|choices| cell.is_among(choices));
        Self {
            rounds: rounds.unwrap_or(if is_quick { 1 } else { 5 }),
            cell: Duration::from_millis(if is_quick { 700 } else { 2000 }),
            keys: if is_quick { 20_000 } else { 100_000 },
            bulk: if is_quick { 100_000 } else { 500_000 },
            cells: cells::all().into_iter().filter(is_among).collect(),
            is_whole: cells.is_none(),
        }
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let option = |name: &str| {
        arguments
            .iter()
            .find_map(|argument| argument.strip_prefix(name)?.strip_prefix('='))
            .filter(|value| !value.is_empty())
    };
    if let Some(names) = option("--trials") {
        for name in names.split(',') {
            trials::run(name).await?;
        }
        return Ok(());
    }
    let is_quick = arguments.iter().any(|argument| argument == "--quick");
    let rounds = option("--rounds").map(str::parse).transpose().context("ROUNDS is a number")?;
    let plan = Plan::new(is_quick, rounds, option("--cells"));
    ensure!(
        !plan.cells.is_empty(),
        "CELLS names no cell; one is SET,50,1,16: operation,clients,pipeline,value bytes"
    );
    let only = option("--only").unwrap_or_default();
    let systems: Vec<systems::Kind> =
        systems::available().into_iter().filter(|kind| is_named(only, &kind.name())).collect();
    ensure!(!systems.is_empty(), "ONLY names no system; one is 'kvnode, 3'");
    let mut results = table::Results::default();
    for round in 0..plan.rounds {
        for turn in 0..systems.len() {
            let kind = systems[(turn + round) % systems.len()];
            eprintln!("round {} of {}: {}", round + 1, plan.rounds, kind.name());
            systems::measure(kind, &plan, &mut results).await?;
        }
    }
    print!("{}", table::markdown(&results, &systems, &plan, &command(&arguments)));
    Ok(())
}

/// How this run is typed.
fn command(arguments: &[String]) -> String {
    let mut typed = String::from("make bench");
    for argument in arguments {
        let (name, value) = argument.split_once('=').unwrap_or((argument, "1"));
        if !value.is_empty() {
            let name = name.trim_start_matches('-').to_uppercase();
            let quote = if value.contains([' ', ';']) { "'" } else { "" };
            // Writing into a String does not fail.
            let _ = write!(typed, " {name}={quote}{value}{quote}");
        }
    }
    typed
}

/// Whether one of the words between the semicolons is part of the name; no words name all.
fn is_named(words: &str, name: &str) -> bool {
    words.is_empty() || words.split(';').any(|word| name.contains(word.trim()))
}
