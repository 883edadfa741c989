//! The suite against a real Kubernetes: whatever `KUBECONFIG` names, or the bed that `make kube-up` makes.
//!
//! ```text
//! make kube-test [ONLY=word]     or     cargo test -p kvnode-tests --test kube -- [word]
//! ```
//!
//! Scenarios play in acts, each in a namespace of its own. What times something plays alone; the rest plays side by side,
//! [`AT_ONCE`] at once, because most of its time is waiting. At the end stands a table of what was promised and what was
//! measured; a promise that is missed by more than a factor of three fails the suite.
//!
//! The images are `kvnode-server`, `kvnode-operator` and `kvnode-clients` at the version of the workspace, and the server
//! again as `<version>-next`; on a Kubernetes of your own set `KVNODE_KUBE_REGISTRY` to the prefix under which you pushed
//! them. Faults that need the machine under the nodes are only made in the bed, and said to be skipped elsewhere.

/// Prints a line with the name of the scenario in front.
macro_rules! say {
    ($($arg:tt)*) => { $crate::say(&format!($($arg)*)) };
}

mod bed;
mod cluster;
mod kubectl;
mod load;
mod promises;
mod scenarios;
mod stage;

use std::cell::Cell;
use std::process::ExitCode;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use kvnode_tests::tool;

use crate::scenarios::{ACTS, Scenario};
use crate::stage::Stage;

/// Longest time of one scenario on a busy machine.
const DEADLINE: Duration = Duration::from_mins(15);
/// Scenarios of one act that play at once.
const AT_ONCE: usize = 4;

thread_local! {
    /// The scenario that this thread plays.
    static TITLE: Cell<&'static str> = const { Cell::new("") };
}

/// See [`say!`].
fn say(text: &str) {
    let title = TITLE.get();
    let lines: Vec<String> = text.lines().map(|line| format!("    {title}: {line}\n")).collect();
    // One call, so that scenarios that play side by side do not cut each other's lines.
    print!("{}", lines.concat());
}

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).filter(|word| !word.starts_with('-')).collect();
    if std::env::args().any(|word| word == "--list") {
        for scenario in ACTS.iter().copied().flatten() {
            println!("{}: test", scenario.name);
        }
        return ExitCode::SUCCESS;
    }
    if let Some(why) = Stage::lacks() {
        tool::skip(why);
        return ExitCode::SUCCESS;
    }
    let stage = match Stage::find() {
        Ok(stage) => stage,
        Err(error) => {
            println!("FAILED: {error:#}");
            return ExitCode::FAILURE;
        }
    };
    let chosen = |scenario: &Scenario| {
        words.is_empty() || words.iter().any(|word| scenario.name.contains(word.as_str()))
    };
    let began = Instant::now();
    let (mut passed, mut failed) = (0, Vec::new());
    for act in ACTS {
        let act: Vec<&Scenario> = act.iter().filter(|scenario| chosen(scenario)).collect();
        let lost = perform(&stage, &act);
        passed += act.len() - lost.len();
        failed.extend(lost);
    }
    let missed = stage.promises.table();
    // Once more and last: whoever keeps only the end of a log still learns why.
    for failure in &failed {
        println!("failed: {failure}");
    }
    let took = began.elapsed().as_secs_f64() / 60.0;
    println!("{passed} passed, {} failed, {took:.1} min", failed.len() + missed);
    if failed.is_empty() && missed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Plays an act; for each scenario that failed a line with its name and the reason.
fn perform(stage: &Stage, act: &[&Scenario]) -> Vec<String> {
    let next = AtomicUsize::new(0);
    let failed = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE.min(act.len()) {
            scope.spawn(|| {
                while let Some(scenario) = act.get(next.fetch_add(1, Ordering::Relaxed)) {
                    if let Err(error) = perform_one(stage, scenario) {
                        let line = format!("{}: {error:#}", scenario.name);
                        failed.lock().unwrap_or_else(PoisonError::into_inner).push(line);
                    }
                }
            });
        }
    });
    failed.into_inner().unwrap_or_else(PoisonError::into_inner)
}

/// Plays one scenario and says how it went.
fn perform_one(stage: &Stage, scenario: &Scenario) -> Result<()> {
    TITLE.set(scenario.name);
    println!("--- {}", scenario.name);
    let began = Instant::now();
    let stage = stage.of(scenario.name);
    let outcome = play(&stage, scenario);
    let took = began.elapsed().as_secs_f64();
    let Err(error) = outcome else {
        println!("--- {}: ok, {took:.1} s", scenario.name);
        stage.clear();
        return Ok(());
    };
    println!("--- {}: FAILED after {took:.1} s: {error:#}\n{}", scenario.name, stage.explain());
    let pods = stage.pods_in_short();
    stage.clear();
    Err(anyhow!("{error:#} (after {took:.1} s; restarts and last ends: {pods})"))
}

fn play(stage: &Stage, scenario: &Scenario) -> Result<()> {
    // One thread, which calls kubectl and waits for it: scenarios that play at once have a thread each.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        stage.enter()?;
        let outcome = tokio::time::timeout(DEADLINE, (scenario.play)(stage)).await;
        outcome.with_context(|| format!("took longer than {DEADLINE:?}"))?
    })
}
