//! `make sim SEEDS=n [SEED=s]`: runs seeds one after another and says what they did.
//!
//! ```text
//! sim [--seed S] [--seeds N] [--minutes M] [--policy strict|lease] [--bug NAME] [--clocks-stop] [--trace]
//!     [--jobs J] [--reports DIR --date YYYY-MM-DD]
//! ```
//!
//! With `--reports` the figures are added to those of the day in that directory, and seeds go on behind the last one.
//!
//! `--clocks-stop` also suspends machines together with their clocks when reads go by lease, which is beyond what leases
//! claim to bear.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use kvnode_server::config::ReadPolicy;
use kvnode_server::sim::BUGS;
use kvnode_sim::plan::Plan;
use kvnode_sim::run::run;
use kvnode_sim::tally::Ledger;

struct Options {
    seed: u64,
    seeds: u64,
    minutes: Option<u64>,
    policy: Option<ReadPolicy>,
    bug: Option<&'static str>,
    clocks_stop: bool,
    trace: bool,
    jobs: usize,
    reports: Option<PathBuf>,
    date: String,
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
        reports: None,
        date: "undated".to_owned(),
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
            "--reports" => options.reports = Some(value.into()),
            "--date" => options.date = value,
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

fn one(options: &Options, seed: u64, ledger: &Mutex<Ledger>) -> Result<()> {
    let mut plan = Plan::of(seed);
    if let Some(policy) = options.policy {
        plan = plan.reading_by(policy);
    }
    plan.clocks_stop |= options.clocks_stop;
    plan.planted = options.bug;
    let begin = Instant::now();
    let ended = run(&plan);
    let took_ms = u64::try_from(begin.elapsed().as_millis())?;
    let trace = match &ended {
        Ok(report) => &report.trace,
        Err(failure) => {
            println!("seed {seed} FAILED {failure}");
            &failure.trace
        }
    };
    if options.trace {
        print!("{trace}");
    }
    let mut ledger = lock(ledger);
    ledger.tally.add(&plan, ended.as_ref().map_err(|failure| failure.to_string()), took_ms);
    if options.reports.is_some() { ledger.save() } else { Ok(()) }
}

fn lock(ledger: &Mutex<Ledger>) -> MutexGuard<'_, Ledger> {
    ledger.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One thread: takes seeds until there is no more to do.
fn work(options: &Options, begin: Instant, next: &AtomicU64, ledger: &Mutex<Ledger>) -> Result<()> {
    let limit = options.minutes.map(|minutes| Duration::from_secs(minutes * 60));
    loop {
        let seed = next.fetch_add(1, Ordering::Relaxed);
        let over = limit.map_or(seed >= options.seed + options.seeds, |limit| begin.elapsed() >= limit);
        // With a bug planted, the question is when it is found.
        let found = options.bug.is_some() && !lock(ledger).tally.failures.is_empty();
        if over || found {
            return Ok(());
        }
        one(options, seed, ledger)?;
    }
}

fn main() -> Result<ExitCode> {
    let mut options = options()?;
    let begin = Instant::now();
    let ledger = match &options.reports {
        Some(dir) => Ledger::open(dir, &options.date)?,
        None => Ledger::default(),
    };
    if options.reports.is_some() {
        options.seed = options.seed.max(ledger.total().next_seed);
    }
    let failed_before = ledger.tally.failures.len();
    let (next, ledger) = (AtomicU64::new(options.seed), Mutex::new(ledger));
    let work = || work(&options, begin, &next, &ledger);
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..options.jobs.max(1)).map(|_| scope.spawn(work)).collect();
        threads
            .into_iter()
            .try_for_each(|thread| thread.join().unwrap_or_else(|_| bail!("a thread panicked")))
    })?;
    let ledger = lock(&ledger);
    println!(
        "from seed {} in {:.0} s: {}",
        options.seed,
        begin.elapsed().as_secs_f64(),
        ledger.tally.summary()
    );
    if options.reports.is_some() {
        println!("all reports: {}", ledger.total().summary());
    }
    let held = ledger.tally.failures.len() == failed_before;
    Ok(if held { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
