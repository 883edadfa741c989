//! The suite against a real Kubernetes: whatever `KUBECONFIG` names, or the bed that `make kube-up` makes.
//!
//! ```text
//! make kube-test [ONLY=word]     or     cargo test -p kvnode-tests --test kube -- [word]
//! ```
//!
//! Scenarios run one after the other, in this order, each in a namespace of its own: they time things, and a machine that
//! does two things at once times neither. At the end stands a table of what was promised and what was measured; a promise
//! that is missed by more than a factor of three fails the suite.
//!
//! The images are `kvnode-server`, `kvnode-operator` and `kvnode-clients` at the version of the workspace, and the server
//! again as `<version>-next`; on a Kubernetes of your own set `KVNODE_KUBE_REGISTRY` to the prefix under which you pushed
//! them. Faults that need the machine under the nodes are only made in the bed, and said to be skipped elsewhere.

mod bed;
mod cluster;
mod kubectl;
mod load;
mod promises;
mod scenarios;
mod stage;

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use kvnode_tests::tool;

use crate::scenarios::{SCENARIOS, Scenario};
use crate::stage::Stage;

/// Longest time of one scenario on a busy machine.
const DEADLINE: Duration = Duration::from_mins(12);

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).filter(|word| !word.starts_with('-')).collect();
    if std::env::args().any(|word| word == "--list") {
        for scenario in SCENARIOS {
            println!("{}: test", scenario.name);
        }
        return ExitCode::SUCCESS;
    }
    let stage = match Stage::find() {
        Ok(stage) => stage,
        Err(why) => {
            tool::skip(&format!("{why:#}"));
            return ExitCode::SUCCESS;
        }
    };
    let chosen = SCENARIOS.iter().filter(|scenario| {
        words.is_empty() || words.iter().any(|word| scenario.name.contains(word.as_str()))
    });
    let (mut passed, mut failed) = (0, Vec::new());
    for scenario in chosen {
        println!("--- {}", scenario.name);
        let began = Instant::now();
        match play(&stage, scenario) {
            Ok(()) => {
                passed += 1;
                println!("--- {}: ok, {:.1} s", scenario.name, began.elapsed().as_secs_f64());
            }
            Err(error) => {
                println!("--- {}: FAILED: {error:#}", scenario.name);
                stage.explain();
                failed.push(scenario.name);
            }
        }
        stage.clear();
    }
    let missed = stage.promises.table();
    if !failed.is_empty() {
        println!("failed: {}", failed.join(", "));
    }
    println!("{passed} passed, {} failed", failed.len() + missed);
    if failed.is_empty() && missed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn play(stage: &Stage, scenario: &Scenario) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(async {
        stage.enter(scenario.name)?;
        let outcome = tokio::time::timeout(DEADLINE, (scenario.play)(stage)).await;
        outcome.with_context(|| format!("took longer than {DEADLINE:?}"))?
    })
}
