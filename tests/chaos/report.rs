//! Figures of runs, and the files that keep them: one a day, all of them added up.
//!
//! ```text
//! <date>-chaos.txt    # comments: version, command and setting of each run
//!                     next_seed 13           where the next call goes on
//!                     runs 12
//!                     operations 1900000     of known outcome, judged
//!                     ...
//!                     setting 3-nodes-durability-high 10     runs by setting
//!                     fault power-all 31                     how often
//!                     gaps_ms kill.leader 512 488 ...        time without writes around each fault that was alone
//!                     failure 7 key r12: not linearizable ...
//! ```

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

const SUFFIX: &str = "-chaos.txt";
/// Kinds that leave a quorum and take it its leader.
const FAILOVERS: [&str; 6] =
    ["kill.leader", "pause.leader", "part-alone.leader", "part-aside.leader", "power.leader", "io.leader"];
/// Those of a planned hand-over.
const HAND_OVERS: [&str; 2] = ["stop.leader", "transfer.leader"];

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    pub(crate) next_seed: u64,
    pub(crate) runs: u64,
    /// From the first client to the last.
    pub(crate) run_ms: u64,
    pub(crate) operations: u64,
    /// Writes of unknown outcome.
    pub(crate) unknown: u64,
    /// Keys, each with a history of its own.
    pub(crate) keys: u64,
    /// Time in pauses of 100 ms and more between acknowledged writes.
    pub(crate) without_writes_ms: u64,
    /// Power cuts of a node, each of a cut of several counted.
    pub(crate) node_power_cuts: u64,
    /// Longest time from the end of a fault until all vote and clients have got on.
    pub(crate) healed_max_ms: u64,
    /// Keys that lost acknowledged writes where the durability allows it.
    pub(crate) keys_with_allowed_loss: u64,
    /// Reads that a node with a full disk refused, as not done.
    pub(crate) reads_refused: u64,
    pub(crate) judged_ms: u64,
    pub(crate) settings: BTreeMap<String, u64>,
    pub(crate) faults: BTreeMap<String, u64>,
    pub(crate) gaps_ms: BTreeMap<String, Vec<u64>>,
    pub(crate) failures: Vec<(u64, String)>,
    pub(crate) comments: Vec<String>,
}

/// How two figures become one.
type Join = fn(u64, u64) -> u64;

impl Tally {
    fn numbers(&mut self) -> [(&'static str, Join, &mut u64); 12] {
        let (sum, max): (Join, Join) = (|one, other| one + other, u64::max);
        [
            ("next_seed", max, &mut self.next_seed),
            ("runs", sum, &mut self.runs),
            ("run_ms", sum, &mut self.run_ms),
            ("operations", sum, &mut self.operations),
            ("unknown", sum, &mut self.unknown),
            ("keys", sum, &mut self.keys),
            ("without_writes_ms", sum, &mut self.without_writes_ms),
            ("node_power_cuts", sum, &mut self.node_power_cuts),
            ("healed_max_ms", max, &mut self.healed_max_ms),
            ("keys_with_allowed_loss", sum, &mut self.keys_with_allowed_loss),
            ("reads_refused", sum, &mut self.reads_refused),
            ("judged_ms", sum, &mut self.judged_ms),
        ]
    }

    pub(crate) fn merge(&mut self, mut other: Self) {
        for ((_, join, number), (_, _, others)) in self.numbers().into_iter().zip(other.numbers()) {
            *number = join(*number, *others);
        }
        for (mine, theirs) in [(&mut self.settings, other.settings), (&mut self.faults, other.faults)] {
            for (name, count) in theirs {
                *mine.entry(name).or_default() += count;
            }
        }
        for (name, gaps) in other.gaps_ms {
            self.gaps_ms.entry(name).or_default().extend(gaps);
        }
        self.failures.extend(other.failures);
        self.comments.extend(other.comments);
    }

    /// The lines of the file.
    pub(crate) fn text(&self) -> String {
        let mut copy = self.clone();
        let mut text = String::new();
        // Writing to a string cannot fail.
        for comment in &self.comments {
            let _ = writeln!(text, "# {comment}");
        }
        for (name, _, number) in copy.numbers() {
            let _ = writeln!(text, "{name} {number}");
        }
        for (kind, counts) in [("setting", &self.settings), ("fault", &self.faults)] {
            for (name, count) in counts {
                let _ = writeln!(text, "{kind} {name} {count}");
            }
        }
        for (name, gaps) in &self.gaps_ms {
            let gaps: Vec<String> = gaps.iter().map(u64::to_string).collect();
            let _ = writeln!(text, "gaps_ms {name} {}", gaps.join(" "));
        }
        for (seed, why) in &self.failures {
            let _ = writeln!(text, "failure {seed} {}", why.replace('\n', " "));
        }
        text
    }

    pub(crate) fn parse(text: &str) -> Result<Self> {
        let mut tally = Self::default();
        for line in text.lines() {
            let (name, rest) = line.split_once(' ').with_context(|| format!("line {line:?}"))?;
            let (first, others) = rest.split_once(' ').unwrap_or((rest, ""));
            match name {
                "#" => tally.comments.push(rest.to_owned()),
                "setting" => tally.settings.extend([(first.to_owned(), others.parse()?)]),
                "fault" => tally.faults.extend([(first.to_owned(), others.parse()?)]),
                "gaps_ms" => {
                    let gaps: Result<Vec<u64>, _> = others.split(' ').map(str::parse).collect();
                    tally.gaps_ms.extend([(first.to_owned(), gaps?)]);
                }
                "failure" => tally.failures.push((first.parse()?, others.to_owned())),
                _ => match tally.numbers().into_iter().find(|(known, _, _)| *known == name) {
                    Some((_, _, number)) => *number = rest.parse()?,
                    None => bail!("line {line:?}"),
                },
            }
        }
        Ok(tally)
    }

    /// A few lines for whoever waits for the end.
    pub(crate) fn summary(&self) -> String {
        let list = |counts: &BTreeMap<String, u64>| {
            counts.iter().map(|(name, count)| format!("{name} {count}")).collect::<Vec<_>>().join(", ")
        };
        let failed: Vec<String> = self.failures.iter().map(|(seed, _)| seed.to_string()).collect();
        let verdict = if failed.is_empty() {
            "all held".to_owned()
        } else {
            format!("VIOLATED by {}", failed.join(" "))
        };
        let minutes = std::time::Duration::from_millis(self.run_ms).as_secs_f64() / 60.0;
        format!(
            "  {} runs ({}): {verdict}\n  \
             {minutes:.1} min of load, {} operations on {} keys judged in {} s, {} writes of unknown outcome\n  \
             {} faults, {} power cuts of a node: {}\n  \
             time without writes: failover {}, hand-over {}; in all {} % of the time\n  \
             slowest healing {} ms; keys that lost what their durability does not keep: {}; \
             reads refused by a full node: {}",
            self.runs,
            list(&self.settings),
            self.operations,
            self.keys,
            self.judged_ms / 1000,
            self.unknown,
            self.faults.values().sum::<u64>(),
            self.node_power_cuts,
            list(&self.faults),
            spread(&self.of(&FAILOVERS)),
            spread(&self.of(&HAND_OVERS)),
            self.without_writes_ms * 100 / self.run_ms.max(1),
            self.healed_max_ms,
            self.keys_with_allowed_loss,
            self.reads_refused,
        )
    }

    fn of(&self, kinds: &[&str]) -> Vec<u64> {
        kinds.iter().filter_map(|kind| self.gaps_ms.get(*kind)).flatten().copied().collect()
    }
}

/// Median and maximum, in words.
fn spread(gaps: &[u64]) -> String {
    let mut gaps = gaps.to_vec();
    gaps.sort_unstable();
    match (gaps.get(gaps.len() / 2), gaps.last()) {
        (Some(median), Some(longest)) => format!("p50 {median} ms, max {longest} ms ({} times)", gaps.len()),
        _ => "none".to_owned(),
    }
}

/// The files of a directory.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    today: PathBuf,
    before: Tally,
    pub(crate) tally: Tally,
}

impl Ledger {
    /// Reads them; what is added belongs to the day `date`.
    pub(crate) fn open(dir: &Path, date: &str) -> Result<Self> {
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
    pub(crate) fn total(&self) -> Tally {
        let mut total = self.before.clone();
        total.merge(self.tally.clone());
        total
    }

    /// Writes this day's file.
    pub(crate) fn save(&self) -> Result<()> {
        let unfinished = self.today.with_extension("tmp");
        std::fs::write(&unfinished, self.tally.text())?;
        std::fs::rename(&unfinished, &self.today).with_context(|| format!("write {}", self.today.display()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(seed: u64, gap: u64) -> Tally {
        Tally {
            next_seed: seed + 1,
            runs: 1,
            run_ms: 60_000,
            operations: 1000,
            healed_max_ms: gap,
            faults: [("kill".to_owned(), 2)].into(),
            gaps_ms: [("kill.leader".to_owned(), vec![gap])].into(),
            comments: vec![format!("seed {seed}")],
            ..Tally::default()
        }
    }

    #[test]
    fn a_day_goes_on_where_it_ended_and_days_add_up() {
        let dir = tempfile::tempdir().unwrap();
        let mut first = Ledger::open(dir.path(), "2026-01-01").unwrap();
        first.tally.merge(run(6, 300));
        first.tally.failures.push((6, "key r1:\nnot linearizable".to_owned()));
        first.save().unwrap();
        let again = Ledger::open(dir.path(), "2026-01-01").unwrap();
        assert_eq!(again.tally.failures, [(6, "key r1: not linearizable".to_owned())]);
        assert_eq!((again.tally.comments.len(), again.tally.next_seed), (1, 7));
        let mut next = Ledger::open(dir.path(), "2026-01-02").unwrap();
        assert_eq!(next.total().next_seed, 7);
        next.tally.merge(run(7, 500));
        next.save().unwrap();
        let total = Ledger::open(dir.path(), "2026-01-02").unwrap().total();
        assert_eq!((total.runs, total.operations, total.faults["kill"]), (2, 2000, 4));
        assert_eq!((total.next_seed, total.healed_max_ms), (8, 500));
        assert_eq!(total.of(&FAILOVERS).len(), 2);
        assert!(total.summary().contains("VIOLATED by 6"), "{}", total.summary());
        assert!(Tally::parse("stranger 1").is_err());
    }

    #[test]
    fn a_spread_is_a_median_and_a_maximum() {
        assert_eq!(spread(&[30, 10, 20]), "p50 20 ms, max 30 ms (3 times)");
        assert_eq!(spread(&[]), "none");
    }
}
