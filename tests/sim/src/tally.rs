//! Figures of many runs, and the files that keep them: one a day, all of them added up.
//!
//! ```text
//! <date>-sim.txt    next_seed 513          where the next call goes on
//!                   seeds 512
//!                   simulated_ms 19083211
//!                   ...
//!                   fault PowerCut 1422    how often it began
//!                   pair Kill Isolate 31   how often the second followed the first in one run
//!                   failure 77 at 8123 ms: key r1 is not linearizable ...
//! ```

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::faults::KINDS;
use crate::plan::Plan;
use crate::run::Report;

const SUFFIX: &str = "-sim.txt";

/// What runs did, added up.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Seeds that were run.
    pub seeds: u64,
    /// Those of them that read by lease.
    pub lease_seeds: u64,
    /// Simulated milliseconds.
    pub simulated_ms: u64,
    /// Those of them that read by lease.
    pub lease_ms: u64,
    /// Milliseconds that it took, over all jobs: also those in which the machine did other work.
    pub took_ms: u64,
    /// Milliseconds of a core. Days before 2026-12-01 lack it.
    pub cpu_ms: u64,
    /// Operations of clients.
    pub operations: u64,
    /// Those of them whose outcome is known.
    pub known: u64,
    /// Leaders that were elected.
    pub elected: u64,
    /// Contents compared at the same entry.
    pub compared: u64,
    /// Leaders that said up to where they would let a read go.
    pub probed: u64,
    /// Slowest healing.
    pub healed_max_ms: u64,
    /// Seed after the last one.
    pub next_seed: u64,
    /// Faults by kind.
    pub faults: BTreeMap<String, u64>,
    /// Faults by the one before them in the same run: `Kill Isolate`.
    pub pairs: BTreeMap<String, u64>,
    /// Seeds that failed, and why.
    pub failures: Vec<(u64, String)>,
}

/// How two figures become one.
type Join = fn(u64, u64) -> u64;

impl Tally {
    fn numbers(&mut self) -> [(&'static str, Join, &mut u64); 13] {
        let (sum, max): (Join, Join) = (|one, other| one + other, u64::max);
        [
            ("next_seed", max, &mut self.next_seed),
            ("seeds", sum, &mut self.seeds),
            ("lease_seeds", sum, &mut self.lease_seeds),
            ("simulated_ms", sum, &mut self.simulated_ms),
            ("lease_ms", sum, &mut self.lease_ms),
            ("took_ms", sum, &mut self.took_ms),
            ("cpu_ms", sum, &mut self.cpu_ms),
            ("operations", sum, &mut self.operations),
            ("known", sum, &mut self.known),
            ("elected", sum, &mut self.elected),
            ("compared", sum, &mut self.compared),
            ("probed", sum, &mut self.probed),
            ("healed_max_ms", max, &mut self.healed_max_ms),
        ]
    }

    /// Adds a run.
    pub fn add(&mut self, plan: &Plan, ended: Result<&Report, String>, took_ms: u64) {
        self.seeds += 1;
        self.took_ms += took_ms;
        self.next_seed = self.next_seed.max(plan.seed + 1);
        let by_lease = u64::from(plan.reads_by_lease());
        self.lease_seeds += by_lease;
        let report = match ended {
            Ok(report) => report,
            Err(why) => return self.failures.push((plan.seed, why)),
        };
        self.simulated_ms += report.simulated_ms;
        self.lease_ms += by_lease * report.simulated_ms;
        self.operations += report.operations as u64;
        self.known += report.known as u64;
        self.elected += report.elected as u64;
        self.compared += report.compared;
        self.probed += report.probed;
        self.healed_max_ms = self.healed_max_ms.max(report.healed_ms);
        for (fault, count) in &report.faults {
            *self.faults.entry(fault.to_string()).or_default() += count;
        }
        for ((first, second), count) in &report.pairs {
            *self.pairs.entry(format!("{first} {second}")).or_default() += count;
        }
    }

    /// Adds the runs of another tally.
    pub fn merge(&mut self, mut other: Self) {
        for ((_, join, number), (_, _, others)) in self.numbers().into_iter().zip(other.numbers()) {
            *number = join(*number, *others);
        }
        for (mine, theirs) in [(&mut self.faults, other.faults), (&mut self.pairs, other.pairs)] {
            for (name, count) in theirs {
                *mine.entry(name).or_default() += count;
            }
        }
        self.failures.extend(other.failures);
    }

    /// The lines of the file.
    #[must_use]
    pub fn text(&self) -> String {
        let mut copy = self.clone();
        let mut text = String::new();
        // Writing to a string cannot fail.
        for (name, _, number) in copy.numbers() {
            let _ = writeln!(text, "{name} {number}");
        }
        for (kind, counts) in [("fault", &self.faults), ("pair", &self.pairs)] {
            for (name, count) in counts {
                let _ = writeln!(text, "{kind} {name} {count}");
            }
        }
        for (seed, why) in &self.failures {
            let _ = writeln!(text, "failure {seed} {}", why.replace('\n', " "));
        }
        text
    }

    /// Reads the lines of a file.
    ///
    /// # Errors
    /// A line that is not ours.
    pub fn parse(text: &str) -> Result<Self> {
        let mut tally = Self::default();
        for line in text.lines() {
            let (name, rest) = line.split_once(' ').with_context(|| format!("line {line:?}"))?;
            let counted = || -> Result<(String, u64)> {
                let (name, count) = rest.rsplit_once(' ').with_context(|| format!("line {line:?}"))?;
                Ok((name.to_owned(), count.parse()?))
            };
            match name {
                "fault" => tally.faults.extend([counted()?]),
                "pair" => tally.pairs.extend([counted()?]),
                "failure" => {
                    let (seed, why) = rest.split_once(' ').with_context(|| format!("line {line:?}"))?;
                    tally.failures.push((seed.parse()?, why.to_owned()));
                }
                _ => match tally.numbers().into_iter().find(|(known, _, _)| *known == name) {
                    Some((_, _, number)) => *number = rest.parse()?,
                    None => bail!("line {line:?}"),
                },
            }
        }
        Ok(tally)
    }

    /// A few lines for whoever waits for the end.
    #[must_use]
    pub fn summary(&self) -> String {
        let hours = |ms: u64| std::time::Duration::from_millis(ms).as_secs_f64() / 3600.0;
        let failed: Vec<String> = self.failures.iter().map(|(seed, _)| seed.to_string()).collect();
        let verdict =
            if failed.is_empty() { "all held".to_owned() } else { format!("FAILED: {}", failed.join(" ")) };
        let faults: Vec<String> = self.faults.iter().map(|(name, count)| format!("{name} {count}")).collect();
        format!(
            "  {} seeds ({} by lease): {verdict}\n  \
             {:.2} simulated hours ({:.2} by lease), {} s over all jobs, {} s of a core\n  \
             {} operations, {} of unknown outcome; {} contents compared, {} leaders asked\n  \
             {} elections, slowest healing {} ms\n  \
             {} faults ({} of {} pairs in a row): {}",
            self.seeds,
            self.lease_seeds,
            hours(self.simulated_ms),
            hours(self.lease_ms),
            self.took_ms / 1000,
            self.cpu_ms / 1000,
            self.operations,
            self.operations - self.known,
            self.compared,
            self.probed,
            self.elected,
            self.healed_max_ms,
            self.faults.values().sum::<u64>(),
            self.pairs.len(),
            KINDS * KINDS,
            faults.join(", "),
        )
    }
}

/// The files of a directory.
#[derive(Debug, Default)]
pub struct Ledger {
    today: PathBuf,
    /// All other days.
    before: Tally,
    /// This day's.
    pub tally: Tally,
}

impl Ledger {
    /// Reads them; what is added belongs to the day `date`.
    ///
    /// # Errors
    /// A file cannot be read, or is not ours.
    pub fn open(dir: &Path, date: &str) -> Result<Self> {
        std::fs::create_dir_all(dir)?;
        let today = dir.join(format!("{date}{SUFFIX}"));
        let mut ledger = Self { today, before: Tally::default(), tally: Tally::default() };
        for entry in std::fs::read_dir(dir)? {
            let path = entry?.path();
            if !path.file_name().is_some_and(|name| name.to_string_lossy().ends_with(SUFFIX)) {
                continue;
            }
            let read = || Tally::parse(&std::fs::read_to_string(&path)?);
            let tally = read().with_context(|| format!("read {}", path.display()))?;
            if path == ledger.today {
                ledger.tally = tally;
            } else {
                ledger.before.merge(tally);
            }
        }
        Ok(ledger)
    }

    /// All days together.
    #[must_use]
    pub fn total(&self) -> Tally {
        let mut total = self.before.clone();
        total.merge(self.tally.clone());
        total
    }

    /// Writes this day's file.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn save(&self) -> Result<()> {
        let unfinished = self.today.with_extension("tmp");
        std::fs::write(&unfinished, self.tally.text())?;
        std::fs::rename(&unfinished, &self.today).with_context(|| format!("write {}", self.today.display()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::faults::Fault;

    fn report() -> Report {
        Report {
            simulated_ms: 40_000,
            operations: 900,
            known: 880,
            faults: [(Fault::Kill, 2)].into(),
            pairs: [((Fault::Kill, Fault::Kill), 1)].into(),
            healed_ms: 12,
            ..Report::default()
        }
    }

    #[test]
    fn a_day_goes_on_where_it_ended_and_days_add_up() {
        let dir = tempfile::tempdir().unwrap();
        let mut first = Ledger::open(dir.path(), "2026-01-01").unwrap();
        first.tally.add(&Plan::of(6), Ok(&report()), 3000);
        first.tally.add(&Plan::of(7), Err("at 5 ms:\nbroken".to_owned()), 1000);
        first.save().unwrap();
        let again = Ledger::open(dir.path(), "2026-01-01").unwrap();
        assert_eq!(again.tally.failures, [(7, "at 5 ms: broken".to_owned())]);
        assert_eq!((again.tally.seeds, again.tally.next_seed), (2, 8));
        let mut next = Ledger::open(dir.path(), "2026-01-02").unwrap();
        assert_eq!(next.total().next_seed, 8);
        next.tally.add(&Plan::of(8), Ok(&report()), 3000);
        next.save().unwrap();
        let total = Ledger::open(dir.path(), "2026-01-02").unwrap().total();
        assert_eq!((total.seeds, total.simulated_ms, total.faults["Kill"]), (3, 80_000, 4));
        assert_eq!((total.pairs["Kill Kill"], total.healed_max_ms, total.next_seed), (2, 12, 9));
        assert!(Tally::parse("stranger 1").is_err());
    }
}
