//! Every crash point of the server, in a real cluster: the process kills itself there, comes back, and nothing is lost.
//!
//! ```text
//! cargo test -p kvnode-tests --test crash                      each point once in each of its scenes
//! cargo test -p kvnode-tests --test crash -- purge             what has this in its point or scene
//! KVNODE_CRASH_ROUNDS=10 cargo test ...                        each point ten times: scenes and passings in turn
//! KVNODE_CRASH_JOBS=2                                          so many clusters at once
//! KVNODE_CRASH_REPORT=file                                     the figures go there, too (`make crash`)
//! ```
//!
//! The cases are the rows of the table in the server (`server/src/crash/points.rs`), which a debug build prints. A row
//! whose scene never reaches it fails; so does one without a scene. What a case asserts is in `stage.rs`, what is
//! played in `scenes.rs`. A build without crash points (a release build) is skipped loudly.

mod scenes;
mod stage;
mod table;

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use kvnode_tests::tool;

use crate::scenes::{SCENES, Seed};
use crate::stage::Stage;
use crate::table::{Case, Point, cases};

/// Longest time of one case on a busy machine.
const DEADLINE: Duration = Duration::from_mins(4);
/// Clusters at once, for each core: most of a case is waiting for timers.
const AT_ONCE: usize = 2;

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).filter(|word| !word.starts_with('-')).collect();
    let points = match table::read() {
        Ok(Some(points)) => points,
        Ok(None) => {
            tool::skip("the server under test is a build without crash points");
            return ExitCode::SUCCESS;
        }
        Err(error) => return failed(&error),
    };
    let rounds = number("KVNODE_CRASH_ROUNDS");
    let mut chosen = cases(&points, rounds);
    if std::env::args().any(|word| word == "--list") {
        for case in &chosen {
            println!("{case}: test");
        }
        return ExitCode::SUCCESS;
    }
    if let Err(error) = is_complete(&points) {
        return failed(&error);
    }
    chosen
        .retain(|case| words.is_empty() || words.iter().any(|word| case.to_string().contains(word.as_str())));
    println!("\nrunning {} deaths at {} crash points", chosen.len(), points.len());
    let began = Instant::now();
    let reported = all(chosen).and_then(|outcomes| report(&points, &outcomes, began.elapsed()));
    reported.unwrap_or_else(|error| failed(&error))
}

fn failed(error: &anyhow::Error) -> ExitCode {
    println!("FAILED: {error:#}");
    ExitCode::FAILURE
}

fn number(variable: &str) -> Option<usize> {
    let text = std::env::var(variable).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{variable}={text:?} is not a number")))
}

/// Every scene that the table names is here, every scene here is named, and what is not a point is refused.
fn is_complete(points: &[Point]) -> Result<()> {
    let named: BTreeSet<&str> = points.iter().flat_map(|point| &point.scenes).map(String::as_str).collect();
    let here = BTreeSet::from(SCENES);
    ensure!(named == here, "the table names scenes {named:?}; tests/crash has {here:?}");
    table::refuses_strangers(points)
}

/// A case and how long it took, or why it failed.
type Outcome = (Case, Result<Duration, String>);

/// Plays all cases, some at once, in their order.
fn all(cases: Vec<Case>) -> Result<Vec<Outcome>> {
    let dir = tempfile::tempdir()?;
    let seed = runtime()?.block_on(Seed::make(dir.path())).context("make a snapshot to restore")?;
    let cores = std::thread::available_parallelism().map_or(2, std::num::NonZero::get);
    let jobs = number("KVNODE_CRASH_JOBS").unwrap_or(cores * AT_ONCE);
    let queue = Mutex::new(cases.into_iter());
    let outcomes = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..jobs.max(1) {
            scope.spawn(|| {
                loop {
                    let next = queue.lock().unwrap_or_else(PoisonError::into_inner).next();
                    let Some(case) = next else { return };
                    let outcome = one(&case, &seed);
                    say(&case, &outcome);
                    outcomes.lock().unwrap_or_else(PoisonError::into_inner).push((case, outcome));
                }
            });
        }
    });
    Ok(outcomes.into_inner().unwrap_or_else(PoisonError::into_inner))
}

fn say(case: &Case, outcome: &Result<Duration, String>) {
    match outcome {
        Ok(took) => println!("{case} ... ok, {:.1} s", took.as_secs_f64()),
        // Once more at the end.
        Err(_) => println!("{case} ... FAILED"),
    }
}

fn runtime() -> Result<tokio::runtime::Runtime> {
    Ok(tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?)
}

/// One death and what comes after it.
fn one(case: &Case, seed: &Seed) -> Result<Duration, String> {
    let began = Instant::now();
    let runtime = runtime().map_err(|error| format!("{error:#}"))?;
    let mut stage = Stage::new(case, scenes::armed(&case.scene)).map_err(|error| format!("{error:#}"))?;
    let played = catch_unwind(AssertUnwindSafe(|| {
        runtime.block_on(async {
            let whole = async {
                scenes::play(&mut stage, case, seed).await?;
                stage.judge().await
            };
            let ended = tokio::time::timeout(DEADLINE, whole).await;
            ended.with_context(|| format!("it took longer than {DEADLINE:?}"))?
        })
    }));
    let error = match played {
        Ok(Ok(())) => return Ok(began.elapsed()),
        Ok(Err(error)) => format!("{error:#}"),
        Err(panic) => panic.downcast_ref::<String>().cloned().unwrap_or_else(|| "panic".into()),
    };
    let text = format!("{}\n{error}", stage.cluster.logs());
    stage.cluster.keep_files();
    Err(text)
}

/// What failed, in full; then the figures, which go into the report as well.
fn report(points: &[Point], outcomes: &[Outcome], took: Duration) -> Result<ExitCode> {
    for (case, outcome) in outcomes {
        if let Err(text) = outcome {
            println!("\n---- {case} ----\n{text}");
        }
    }
    let failures = outcomes.iter().filter(|(_, outcome)| outcome.is_err()).count();
    let figures = figures(points, outcomes, took);
    if number("KVNODE_CRASH_ROUNDS").is_some() {
        println!("\n{figures}");
    }
    if let Some(path) = std::env::var_os("KVNODE_CRASH_REPORT") {
        std::fs::write(&path, &figures).with_context(|| path.display().to_string())?;
    }
    println!(
        "\ncrash result: {}. {} deaths survived, {failures} failed; {:.0} s\n",
        if failures == 0 { "ok" } else { "FAILED" },
        outcomes.len() - failures,
        took.as_secs_f64()
    );
    Ok(if failures == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// One line of what was run, then one for each point: its name, deaths survived, deaths that ended badly, its scenes.
fn figures(points: &[Point], outcomes: &[Outcome], took: Duration) -> String {
    let failures = outcomes.iter().filter(|(_, outcome)| outcome.is_err()).count();
    let rounds = number("KVNODE_CRASH_ROUNDS").map(|rounds| format!("make crash ROUNDS={rounds}"));
    let command = rounds.unwrap_or_else(|| "make test".into());
    let mut text = format!(
        "# {}, {} deaths at {} crash points, {failures} failed, {:.0} s, {}: {command}\n",
        if failures == 0 { "held" } else { "FAILED" },
        outcomes.len(),
        points.len(),
        took.as_secs_f64(),
        table::version()
    );
    for point in points {
        let of_it = || outcomes.iter().filter(|(case, _)| case.point == point.name);
        let survived = of_it().filter(|(_, outcome)| outcome.is_ok()).count();
        let scenes: BTreeSet<&str> = of_it().map(|(case, _)| case.scene.as_str()).collect();
        let scenes: Vec<&str> = scenes.into_iter().collect();
        let failed = of_it().count() - survived;
        let _ =
            writeln!(text, "{} {survived} {failed} in {}: {}", point.name, scenes.join(", "), point.window);
    }
    text
}
