//! `make sim SEEDS=n [SEED=s]`: runs seeds one after another, each in a process of its own, and says what they did.
//!
//! ```text
//! sim [--seed S] [--seeds N] [--minutes M] [--policy strict|lease] [--bug NAME] [--clocks-stop] [--chaos-ms MS] [--trace]
//!     [--jobs J] [--reports DIR --date YYYY-MM-DD]
//! ```
//!
//! With `--reports` the figures are added to those of the day in that directory, and seeds go on behind the last one.
//!
//! `--clocks-stop` also suspends machines together with their clocks when reads go by lease, which is beyond what
//! leases claim to bear.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use kvnode_server::config::ReadPolicy;
use kvnode_server::sim::BUGS;
use kvnode_sim::apart::{self, ALONE};
use kvnode_sim::plan::Plan;
use kvnode_sim::tally::Ledger;

/// The server's, as its `main.rs` has it; RocksDB's, too.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

#[derive(Default)]
struct Options {
    seed: u64,
    seeds: u64,
    minutes: Option<u64>,
    policy: Option<ReadPolicy>,
    bug: Option<&'static str>,
    clocks_stop: bool,
    chaos_ms: Option<u64>,
    trace: bool,
    jobs: usize,
    reports: Option<PathBuf>,
    date: String,
    /// This is the process of one seed.
    alone: bool,
    /// What the process of a seed is to be told as well.
    words: Vec<String>,
}

fn options() -> Result<Options> {
    let mut options =
        Options { seed: 1, seeds: 1, jobs: 1, date: "undated".to_owned(), ..Options::default() };
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        match word.as_str() {
            "--trace" => options.trace = true,
            "--clocks-stop" => options.clocks_stop = true,
            ALONE => options.alone = true,
            _ => {
                let value = words.next().with_context(|| format!("{word} needs a value"))?;
                let is_of_plan = matches!(word.as_str(), "--policy" | "--bug" | "--chaos-ms");
                options.set(&word, &value)?;
                if is_of_plan {
                    options.words.extend([word, value]);
                }
                continue;
            }
        }
        options.words.push(word);
    }
    Ok(options)
}

impl Options {
    fn set(&mut self, word: &str, value: &str) -> Result<()> {
        match word {
            "--seed" => self.seed = value.parse()?,
            "--seeds" => self.seeds = value.parse()?,
            "--minutes" => self.minutes = Some(value.parse()?),
            "--jobs" => self.jobs = value.parse()?,
            "--chaos-ms" => self.chaos_ms = Some(value.parse()?),
            "--reports" => self.reports = Some(value.into()),
            "--date" => value.clone_into(&mut self.date),
            "--policy" if value == "lease" => self.policy = Some(ReadPolicy::Lease),
            "--policy" if value == "strict" => self.policy = Some(ReadPolicy::Strict),
            "--bug" => {
                let known = BUGS.iter().find(|(name, _)| *name == value);
                let names: Vec<&str> = BUGS.iter().map(|(name, _)| *name).collect();
                let unknown = || format!("no bug {value:?}; there are {}", names.join(", "));
                self.bug = Some(known.with_context(unknown)?.0);
            }
            _ => bail!("unknown word {word} {value}"),
        }
        Ok(())
    }

    fn plan(&self) -> Plan {
        let mut plan = Plan::of(self.seed);
        if let Some(policy) = self.policy {
            plan = plan.reading_by(policy);
        }
        plan.clocks_stop |= self.clocks_stop;
        plan.chaos_ms = self.chaos_ms.unwrap_or(plan.chaos_ms);
        plan.planted = self.bug;
        plan
    }
}

/// What was run so far, and what it had cost when that was last looked at.
struct Ran {
    ledger: Ledger,
    cpu_ms: u64,
}

/// Has one seed run, and adds what it did.
fn one(options: &Options, seed: u64, ran: &Mutex<Ran>) -> Result<()> {
    let begin = Instant::now();
    let mut done = apart::start(&std::env::current_exe()?, seed, &options.words)?;
    done.tally.took_ms = u64::try_from(begin.elapsed().as_millis())?;
    let Ran { ledger, cpu_ms } = &mut *lock(ran);
    let now_ms = apart::cpu_ms();
    done.tally.cpu_ms = now_ms.saturating_sub(std::mem::replace(cpu_ms, now_ms));
    for (seed, why) in &done.tally.failures {
        println!("seed {seed} FAILED {why}");
    }
    print!("{}", done.trace);
    ledger.tally.merge(done.tally);
    if options.reports.is_some() { ledger.save() } else { Ok(()) }
}

fn lock(ran: &Mutex<Ran>) -> MutexGuard<'_, Ran> {
    ran.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One thread: takes seeds until there is no more to do.
fn work(options: &Options, begin: Instant, next: &AtomicU64, ran: &Mutex<Ran>) -> Result<()> {
    let limit = options.minutes.map(|minutes| Duration::from_secs(minutes * 60));
    loop {
        let seed = next.fetch_add(1, Ordering::Relaxed);
        let over = limit.map_or(seed >= options.seed + options.seeds, |limit| begin.elapsed() >= limit);
        // With a bug planted, the question is when it is found.
        let found = options.bug.is_some() && !lock(ran).ledger.tally.failures.is_empty();
        if over || found {
            return Ok(());
        }
        one(options, seed, ran)?;
    }
}

fn main() -> Result<ExitCode> {
    let mut options = options()?;
    if options.alone {
        if let Ok(filter) = std::env::var("KVNODE_LOG_FILTER") {
            kvnode_server::telemetry::install(&filter, kvnode_server::config::LogFormat::Text)
                .map_err(anyhow::Error::msg)?;
        }
        print!("{}", apart::perform(&options.plan(), options.trace));
        return Ok(ExitCode::SUCCESS);
    }
    let begin = Instant::now();
    let ledger = match &options.reports {
        Some(dir) => Ledger::open(dir, &options.date)?,
        None => Ledger::default(),
    };
    if options.reports.is_some() {
        options.seed = options.seed.max(ledger.total().next_seed);
    }
    let failed_before = ledger.tally.failures.len();
    let (next, ran) = (AtomicU64::new(options.seed), Mutex::new(Ran { ledger, cpu_ms: 0 }));
    let work = || work(&options, begin, &next, &ran);
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..options.jobs.max(1)).map(|_| scope.spawn(work)).collect();
        threads
            .into_iter()
            .try_for_each(|thread| thread.join().unwrap_or_else(|_| bail!("a thread panicked")))
    })?;
    let ledger = &lock(&ran).ledger;
    let took_s = begin.elapsed().as_secs();
    let whose = if options.reports.is_some() { ", all of this day" } else { "" };
    println!("from seed {} in {took_s} s{whose}:\n{}", options.seed, ledger.tally.summary());
    if options.reports.is_some() {
        println!("all days:\n{}", ledger.total().summary());
    }
    let held = ledger.tally.failures.len() == failed_before;
    let is_well = match options.bug {
        // One that is planted is to be found.
        Some(bug) => {
            println!("{bug}: {}", if held { "NOT FOUND" } else { "found" });
            !held
        }
        None => held,
    };
    Ok(if is_well { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
