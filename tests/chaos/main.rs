//! `make chaos`: the release binary under faults of processes, networks, disks, clocks and membership; what clients
//! saw is judged afterwards.
//!
//! ```text
//! chaos [--seed N] [--faults N] [--nodes 3|5] [--durability LEVEL] [--consistency LEVEL] [--claim LEVEL]
//!       [--kinds 'kill power ...'] [--clients N] [--calm SECONDS] [--plant rollback] [--other PATH]
//!       [--reports DIR --date YYYY-MM-DD]
//!
//! options -> plan (faults by seed) -> run: site (network, disk, clock: the cluster) -> judge -> report
//!                                          load (clients) -> record <- keys            `-> history
//! ```
//!
//! What is asked, with `--claim` at the durability of the nodes (its default):
//!
//! - every key's history is linearizable, whatever happens; at durability medium and low, a power cut (or failing
//!   disks) of a majority before all were well again ends an epoch: see `judge`;
//! - after each fault all nodes run and vote again by themselves, and clients get on, in 30 s each;
//! - a process whose disk fails ends by itself with code 70 and its line; SIGTERM ends with code 0;
//! - full disks refuse growth with OOM and reads go on, nobody restarts for it;
//! - no node ends by itself for another reason, and no log holds a panic;
//! - in the end all nodes hold the same content.
//!
//! A healing that takes more than 5 s is told second by second, and the logs of the nodes are kept (`slow`).
//!
//! Exit codes: 0 held, 1 violated, 2 could not run, 77 this machine lacks something, 130 told to end.
//!
//! That the checks bite: `--durability low --claim high --kinds power` (what was not synced is gone),
//! `--consistency low` (reads of whatever a node has), `--plant rollback` (disks that lie: after a power cut they hold
//! what they held before).

mod apart;
mod clock;
mod disk;
mod judge;
mod keys;
mod load;
mod network;
mod options;
mod plan;
mod record;
mod report;
mod run;
mod site;
mod slow;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use options::Options;

const VIOLATED: u8 = 1;
const COULD_NOT_RUN: u8 = 2;
const INTERRUPTED: u8 = 130;

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let code = runtime.context("start a runtime").and_then(|runtime| {
        let code = runtime.block_on(perform(&words));
        // Whoever still reads the standard input is not waited for.
        runtime.shutdown_background();
        code
    });
    ExitCode::from(code.unwrap_or_else(|error| {
        eprintln!("chaos: {error:#}");
        COULD_NOT_RUN
    }))
}

async fn perform(words: &[String]) -> Result<u8> {
    let Some((first, rest)) = words.split_first().filter(|(first, _)| *first == apart::INSIDE) else {
        Options::read(words)?;
        return apart::run(words).await;
    };
    let (dir, words) = rest.split_first().with_context(|| format!("{first} needs a directory"))?;
    let options = Options::read(words)?;
    let dir = PathBuf::from(dir);
    apart::prepare()?;
    tokio::select! {
        biased;
        () = apart::told_to_end() => Ok(INTERRUPTED),
        held = run::run(&options, &dir) => Ok(if held? { 0 } else { VIOLATED }),
    }
}
