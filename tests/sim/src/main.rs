//! `make sim SEEDS=n [SEED=s]`: runs seeds one after another and says what they did.
//!
//! ```text
//! sim [--seed S] [--seeds N] [--minutes M] [--policy strict|lease] [--bug NAME] [--clocks-stop] [--trace]
//!     [--jobs J]
//! ```
//!
//! `--clocks-stop` also suspends machines together with their clocks when reads go by lease, which is beyond what leases
//! claim to bear.

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use kvnode_server::config::ReadPolicy;
use kvnode_server::sim::BUGS;
use kvnode_sim::faults::Fault;
use kvnode_sim::plan::Plan;
use kvnode_sim::run::{Failure, Report, run};

struct Options {
    seed: u64,
    seeds: u64,
    minutes: Option<u64>,
    policy: Option<ReadPolicy>,
    bug: Option<&'static str>,
    clocks_stop: bool,
    trace: bool,
    jobs: usize,
}

fn options() -> Result<Options> {
    let mut options = Options {
        seed: 1,
        seeds: 1,
        minutes: None,
        policy: None,
        bug: None,
        clocks_stop: false,
        trace: false,
        jobs: 1,
    };
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        match word.as_str() {
            "--trace" => {
                options.trace = true;
                continue;
            }
            "--clocks-stop" => {
                options.clocks_stop = true;
                continue;
            }
            _ => {}
        }
        let value = words.next().with_context(|| format!("{word} needs a value"))?;
        match word.as_str() {
            "--seed" => options.seed = value.parse()?,
            "--seeds" => options.seeds = value.parse()?,
            "--minutes" => options.minutes = Some(value.parse()?),
            "--jobs" => options.jobs = value.parse()?,
            "--policy" if value == "lease" => options.policy = Some(ReadPolicy::Lease),
            "--policy" if value == "strict" => options.policy = Some(ReadPolicy::Strict),
            "--bug" => {
                let known = BUGS.iter().find(|(name, _)| *name == value);
                options.bug = Some(known.with_context(|| format!("no bug {value:?}; there are {BUGS:?}"))?.0);
            }
            _ => bail!("unknown word {word} {value}"),
        }
    }
    Ok(options)
}

#[derive(Default)]
struct Sum {
    seeds: u64,
    simulated_ms: u64,
    operations: usize,
    known: usize,
    terms: usize,
    compared: u64,
    healed_max_ms: u64,
    faults: BTreeMap<Fault, u64>,
    failures: Vec<(u64, Failure)>,
}

impl Sum {
    fn add(&mut self, report: &Report) {
        self.simulated_ms += report.simulated_ms;
        self.operations += report.operations;
        self.known += report.known;
        self.terms += report.terms;
        self.compared += report.compared;
        self.healed_max_ms = self.healed_max_ms.max(report.healed_ms);
        for (fault, count) in &report.faults {
            *self.faults.entry(*fault).or_default() += count;
        }
    }
}

fn one(options: &Options, seed: u64, sum: &Mutex<Sum>) {
    let mut plan = Plan::of(seed);
    if let Some(policy) = options.policy {
        plan = plan.reading_by(policy);
    }
    plan.clocks_stop |= options.clocks_stop;
    plan.planted = options.bug;
    let ended = run(&plan);
    let mut sum = sum.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    sum.seeds += 1;
    match ended {
        Ok(report) => {
            sum.add(&report);
            if options.trace {
                print!("{}", report.trace);
            }
        }
        Err(failure) => {
            println!("seed {seed} FAILED {failure}");
            if options.trace {
                print!("{}", failure.trace);
            }
            sum.failures.push((seed, *failure));
        }
    }
}

fn main() -> Result<ExitCode> {
    let options = options()?;
    let begin = Instant::now();
    let limit = options.minutes.map(|minutes| Duration::from_secs(minutes * 60));
    let (next, sum) = (AtomicU64::new(0), Mutex::new(Sum::default()));
    std::thread::scope(|scope| {
        for _ in 0..options.jobs.max(1) {
            scope.spawn(|| {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    let over = limit.map_or(number >= options.seeds, |limit| begin.elapsed() >= limit);
                    // With a bug planted, the question is when it is found.
                    let found = options.bug.is_some()
                        && !sum.lock().unwrap_or_else(std::sync::PoisonError::into_inner).failures.is_empty();
                    if over || found {
                        return;
                    }
                    one(&options, options.seed + number, &sum);
                }
            });
        }
    });
    let sum = sum.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    let faults: u64 = sum.faults.values().sum();
    println!(
        "{} seeds from {}: {:.2} simulated hours in {:.0} s, {} operations ({} of known outcome), {} terms, {} contents \
         compared, slowest healing {} ms, {faults} faults {:?}, {} failures {:?}",
        sum.seeds,
        options.seed,
        Duration::from_millis(sum.simulated_ms).as_secs_f64() / 3600.0,
        begin.elapsed().as_secs_f64(),
        sum.operations,
        sum.known,
        sum.terms,
        sum.compared,
        sum.healed_max_ms,
        sum.faults,
        sum.failures.len(),
        sum.failures.iter().map(|(seed, _)| seed).collect::<Vec<_>>(),
    );
    Ok(if sum.failures.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
