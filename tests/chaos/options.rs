//! What a run is asked for.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use crate::plan::{self, Kind};

/// A fault every ten seconds is still far more than any cluster sees.
const CALM: Duration = Duration::from_secs(10);
const CALM_MAX: Duration = Duration::from_mins(10);

pub(crate) const USAGE: &str = "usage: chaos [--seed N] [--faults N] [--nodes 3|5] [--durability low|medium|high] \
[--consistency low|medium|high] [--claim low|medium|high] [--kinds 'kill power ...'] [--clients N] [--calm SECONDS] \
[--plant rollback] [--other PATH] [--reports DIR --date YYYY-MM-DD]";

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Options {
    /// None: the one after the last that was run.
    pub(crate) seed: Option<u64>,
    pub(crate) faults: usize,
    pub(crate) nodes: usize,
    pub(crate) durability: String,
    pub(crate) consistency: String,
    /// The durability whose promise is asked for; another one than that of the nodes proves that the checks bite.
    pub(crate) claim: String,
    /// As typed.
    pub(crate) kinds: String,
    pub(crate) clients: usize,
    /// Time after each fault in which nothing is the matter, at least.
    pub(crate) calm: Duration,
    /// Power cuts put older disks back: the lie of a disk that does not sync.
    pub(crate) plants_rollback: bool,
    /// Another build of the server, which nodes become and cease to be.
    pub(crate) other: Option<PathBuf>,
    pub(crate) reports: Option<PathBuf>,
    pub(crate) date: String,
}

impl Options {
    pub(crate) fn read(words: &[String]) -> Result<Self> {
        let mut options = Self {
            seed: None,
            faults: 20,
            nodes: 3,
            durability: "high".to_owned(),
            consistency: "high".to_owned(),
            claim: String::new(),
            kinds: String::new(),
            clients: 24,
            calm: CALM,
            plants_rollback: false,
            other: None,
            reports: None,
            date: "undated".to_owned(),
        };
        let mut words = words.iter();
        while let Some(word) = words.next() {
            let value = words.next().with_context(|| format!("{word} needs a value; {USAGE}"))?;
            options.set(word, value).with_context(|| format!("{word} {value}"))?;
        }
        if options.claim.is_empty() {
            options.claim.clone_from(&options.durability);
        }
        ensure!(matches!(options.nodes, 3 | 5), "NODES is 3 or 5");
        ensure!((1..=1000).contains(&options.clients), "CLIENTS is 1 to 1000");
        ensure!(options.calm <= CALM_MAX, "CALM is at most {} seconds", CALM_MAX.as_secs());
        let is_named = plan::kinds(&options.kinds)?.iter().any(|kind| kind.needs_other());
        ensure!(
            options.kinds.is_empty() || options.other.is_some() || !is_named,
            "{} needs another build of kvnode-server: OTHER=path",
            options.kinds
        );
        Ok(options)
    }

    fn set(&mut self, word: &str, value: &str) -> Result<()> {
        let level = || -> Result<String> {
            ensure!(matches!(value, "low" | "medium" | "high"), "a level is low, medium or high");
            Ok(value.to_owned())
        };
        match word {
            "--seed" => self.seed = Some(value.parse()?),
            "--faults" => self.faults = value.parse()?,
            "--nodes" => self.nodes = value.parse()?,
            "--durability" => self.durability = level()?,
            "--consistency" => self.consistency = level()?,
            "--claim" => self.claim = level()?,
            "--kinds" => value.clone_into(&mut self.kinds),
            "--calm" => self.calm = Duration::from_secs(value.parse()?),
            "--clients" => self.clients = value.parse()?,
            "--plant" if value == "rollback" => self.plants_rollback = true,
            "--other" => self.other = Some(std::fs::canonicalize(value)?),
            "--reports" => self.reports = Some(value.into()),
            "--date" => value.clone_into(&mut self.date),
            _ => bail!("unknown; {USAGE}"),
        }
        Ok(())
    }

    /// The kinds of this run; without a compiler no clock jumps, without another build no node becomes one.
    pub(crate) fn kinds(&self, has_clock: bool) -> Result<Vec<Kind>> {
        let mut kinds = plan::kinds(&self.kinds)?;
        kinds.retain(|kind| has_clock || *kind != Kind::Clock);
        kinds.retain(|kind| self.other.is_some() || !kind.needs_other());
        ensure!(!kinds.is_empty(), "clock jumps need a C compiler on PATH (cc)");
        Ok(kinds)
    }

    /// A run that is meant to fail.
    pub(crate) fn is_proof(&self) -> bool {
        self.claim != self.durability || self.consistency != "high" || self.plants_rollback
    }

    /// What runs alike have in common.
    pub(crate) fn setting(&self) -> String {
        format!("{}-nodes-durability-{}", self.nodes, self.durability)
    }

    /// How to have the same plan of faults again.
    pub(crate) fn command(&self, seed: u64) -> String {
        let mut typed = format!(
            "make chaos SEED={seed} FAULTS={} NODES={} DURABILITY={} CLIENTS={}",
            self.faults, self.nodes, self.durability, self.clients
        );
        for (name, value, usual) in [
            ("CONSISTENCY", &self.consistency, "high"),
            ("CLAIM", &self.claim, &self.durability),
            ("KINDS", &self.kinds, ""),
        ] {
            if value != usual {
                // Writing to a string cannot fail.
                let _ = write!(typed, " {name}='{value}'");
            }
        }
        if self.calm != CALM {
            let _ = write!(typed, " CALM={}", self.calm.as_secs());
        }
        if let Some(name) = self.other.as_ref().and_then(|other| other.file_name()) {
            // Where it lay says nothing to others.
            let _ = write!(typed, " OTHER='{}'", name.display());
        }
        typed + if self.plants_rollback { " PLANT=rollback" } else { "" }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(line: &str) -> Result<Options> {
        Options::read(&line.split(' ').map(str::to_owned).collect::<Vec<_>>())
    }

    #[test]
    fn what_is_asked_can_be_asked_again() {
        let options =
            read("--seed 4 --durability low --claim high --kinds power --nodes 5 --calm 0").unwrap();
        assert!(options.is_proof());
        let command =
            "make chaos SEED=4 FAULTS=20 NODES=5 DURABILITY=low CLIENTS=24 CLAIM='high' KINDS='power' CALM=0";
        assert_eq!(options.command(4), command);
        assert_eq!(read("--durability medium").unwrap().claim, "medium");
        assert!(!read("--durability medium").unwrap().is_proof());
    }

    #[test]
    fn nonsense_is_refused() {
        for line in [
            "--nodes 4",
            "--kinds lightning",
            "--durability full",
            "--seed",
            "--plant tree",
            "--x y",
            "--kinds upgrade",
            "--calm 3600",
            "--other /no/such/file",
        ] {
            assert!(read(line).is_err(), "{line}");
        }
        let without = read("--seed 1").unwrap().kinds(true).unwrap();
        assert!(!without.iter().any(|kind| kind.needs_other()));
        let other = read("--other /bin/sh --kinds upgrade").unwrap();
        assert_eq!(other.kinds(true).unwrap(), [Kind::Upgrade, Kind::UpgradeAll]);
        assert!(
            other.command(1).contains(" OTHER='") && !other.command(1).contains('/'),
            "{}",
            other.command(1)
        );
    }
}
