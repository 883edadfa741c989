//! `make bench`: ours with one and three nodes against redis-server, etcd and named peers, interleaved.
//!
//! How it is made fair, and what it cannot be:
//! - Every round starts each system afresh, loads the same keys, measures all cells, stops it; the order rotates. So
//!   all share the weather of the machine, and no idle rival takes CPU.
//! - One closed-loop load generator for all, on one thread, as redis-benchmark is: each client has one connection and
//!   waits for its whole pipeline. RESP and gRPC differ only in framing; etcd's pipeline is that many streams at once
//!   on one connection, as its clients do it.
//! - `KVNODE_OTHER_BIN` names another build of ours (or a script that becomes one), and joins with three nodes.
//! - All connections go to the leader. Everything, generator included, shares the machine's cores and one disk.
//! - Latency is that of a whole pipeline: from its first byte sent to its last reply. The trials with an [`open`] loop
//!   measure from the moment at which a request was due.
//!
//! Order of use: [`options`] what is asked, [`systems`] and [`peers`] what runs, [`load`], [`etcd`] and [`open`] make
//! the load, [`matrix`], [`curves`], [`trials`] and [`guard`] say what is measured, [`report`] keeps it.

mod cells;
mod curves;
mod etcd;
mod guard;
mod links;
mod load;
mod matrix;
mod open;
mod options;
mod peers;
mod report;
mod sample;
mod systems;
mod table;
mod throttle;
mod trials;

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Result, ensure};
use cells::Cell;
use options::{Mode, Options};
use report::Report;

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
    fn new(options: &Options) -> Self {
        let is_quick = options.is_quick;
        let is_among = |cell: &Cell| options.cells.as_ref().is_none_or(|choices| cell.is_among(choices));
        Self {
            rounds: options.rounds.unwrap_or(if is_quick { 1 } else { 5 }),
            cell: Duration::from_millis(if is_quick { 700 } else { 2000 }),
            keys: options.keys.unwrap_or(if is_quick { 20_000 } else { 100_000 }),
            bulk: if is_quick { 100_000 } else { 500_000 },
            cells: cells::all().into_iter().filter(is_among).collect(),
            is_whole: options.cells.is_none(),
        }
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    run(&arguments).await.unwrap_or_else(|error| {
        eprintln!("FAILED: {error:#}");
        ExitCode::FAILURE
    })
}

async fn run(arguments: &[String]) -> Result<ExitCode> {
    let options = Options::parse(arguments)?;
    load::raise_open_files();
    match options.mode {
        Mode::Guard => {
            let is_kept = guard::compare(&options).await?;
            return Ok(if is_kept { ExitCode::SUCCESS } else { ExitCode::FAILURE });
        }
        Mode::Accept => guard::accept(&options).await?,
        Mode::Measure => measure(&options).await?,
    }
    Ok(ExitCode::SUCCESS)
}

/// What is asked for, into a report.
async fn measure(options: &Options) -> Result<()> {
    let mut systems = systems::available()?;
    systems.retain(|kind| options.names(&kind.name()));
    ensure!(!systems.is_empty(), "ONLY names no system; one is 'kvnode, 3'");
    let mut report = Report::create(&options.command)?;
    let file = report.dir().join("report.html").display().to_string();
    eprintln!("report: {file}");
    if options.wants_table() {
        let plan = Plan::new(options);
        ensure!(
            !plan.cells.is_empty(),
            "CELLS names no cell; one is SET,50,1,64: operation,clients,pipeline,value bytes"
        );
        matrix::run(&plan, &systems, &options.command, &mut report).await?;
    }
    for name in &options.curves {
        curves::run(name, options, &mut report).await?;
    }
    for name in &options.trials {
        trials::run(name, options, &mut report).await?;
    }
    println!("report: {file}");
    Ok(())
}
