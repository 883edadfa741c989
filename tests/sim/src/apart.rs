//! One simulation, one process.
//!
//! Some of what a run must not depend on is counted for the whole process: tokio seeds each runtime, and with it the
//! order in which `select!` looks and a `watch` wakes, from the number of runtimes before it; what is made once per
//! process draws the keys of its hash tables from the thread that comes first. A second simulation would find all of
//! that changed. So who runs several starts a process for each, and reads what it prints:
//!
//! ```text
//! next_seed 8        figures of the run, as `tally` has them
//! ...
//!                    an empty line
//!    1 node 0 ...    what happened, if asked for
//! ```

use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result};

use crate::plan::Plan;
use crate::run::run;
use crate::tally::Tally;

/// What tells the program to be the process of one seed.
pub const ALONE: &str = "--alone";

/// What one process did.
pub struct Done {
    /// Its figures; a process that died is a failure like any other.
    pub tally: Tally,
    /// What happened, line by line, if it was asked for.
    pub trace: String,
}

/// Runs a plan here, and returns what is to be printed.
#[must_use]
pub fn perform(plan: &Plan, trace: bool) -> String {
    let ended = run(plan);
    let lines = match &ended {
        Ok(report) => report.trace.as_str(),
        Err(failure) => failure.trace.as_str(),
    };
    let mut tally = Tally::default();
    let told = ended.as_ref().map_err(|failure| failure.to_string());
    // How long it took differs from run to run, so who waits for it looks.
    tally.add(plan, told, 0);
    format!("{}\n{}", tally.text(), if trace { lines } else { "" })
}

/// Has a process of `program`, which is `sim`, run a seed by these words of its command line.
///
/// # Errors
/// It cannot be started, or says what nobody understands.
pub fn start(program: &Path, seed: u64, words: &[String]) -> Result<Done> {
    let mut command = Command::new(program);
    // Of a planted bug it is expected that something panics; the tally says what was found.
    let is_planted = words.iter().any(|word| word == "--bug");
    let stderr = if is_planted { Stdio::null() } else { Stdio::inherit() };
    command.arg(ALONE).arg("--seed").arg(seed.to_string()).args(words).stderr(stderr);
    let output = command.output().with_context(|| format!("start {}", program.display()))?;
    if !output.status.success() {
        let failures = vec![(seed, format!("its process ended with {}", output.status))];
        let tally = Tally { seeds: 1, next_seed: seed + 1, failures, ..Tally::default() };
        return Ok(Done { tally, trace: String::new() });
    }
    let text = String::from_utf8(output.stdout)?;
    let (figures, trace) = text.split_once("\n\n").context("no empty line")?;
    Ok(Done { tally: Tally::parse(figures)?, trace: trace.to_owned() })
}

/// Milliseconds of a core that all processes of seeds took which have ended so far; 0 where the system does not say.
#[must_use]
pub fn cpu_ms() -> u64 {
    // Behind the name, which may hold anything: state, and 12 figures before those of the children (proc(5)), in
    // hundredths of a second.
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let figures = stat.rsplit(')').next().unwrap_or_default().split_whitespace().skip(13).take(2);
    figures.filter_map(|figure| figure.parse::<u64>().ok()).sum::<u64>() * 10
}
