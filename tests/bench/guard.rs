//! `make bench-guard`: quiet figures of a few cells against the accepted ones; `make bench-accept` accepts new ones.
//!
//! Rates and latencies depend on the machine and its weather; what a command costs does much less:
//! - CPU seconds of all nodes per command, as a multiple of what redis-server (`appendfsync always`) takes for the same
//!   cell in the same round, since seconds of CPU differ from machine to machine;
//! - syncs of the logs per 1000 SETs, by our own counter. With one client that is one for each node, exactly;
//! - context switches of all nodes per command.
//!
//! All systems are up at once, idle but for the one that is asked, and take turns second by second, so that a ratio is
//! of figures that saw the same weather.
//!
//! `accepted.json` holds for each figure its median and a tolerance: 1.8 times what the middle half of the rounds
//! spans, which is three standard deviations of the difference of two such medians, but at least [`TOLERANCE_MIN`]. A
//! figure is worse if its median is above the accepted one by more than that; then all is measured once more, and the
//! median of all rounds decides.
//!
//! Not here: system calls per command. Counting them needs a tracer, which changes what it counts.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value as Json, json};

use crate::cells::{Cell, Operation};
use crate::options::Options;
use crate::report::machine::Machine;
use crate::sample::{median, real};
use crate::systems::{Kind, System};
use crate::trials::{self, switches};

/// What a figure may be above the accepted one at least, as part of it.
const TOLERANCE_MIN: f64 = 0.10;
/// And at most: a figure that is noisier guards nothing.
const TOLERANCE_MAX: f64 = 0.50;
/// Half of the rounds of a normal distribution span 1.35 standard deviations; medians of five differ by 0.79 of one.
const SPANS: f64 = 1.8;
const ROUNDS: usize = 5;
const ROUNDS_TO_ACCEPT: usize = 11;
const KEYS: usize = 20_000;
const TIME: Duration = Duration::from_secs(1);
const VALUE_BYTES: usize = 64;

/// Cells whose costs are compared.
const CELLS: [Cell; 4] = [
    Cell { operation: Operation::Set, clients: 50, pipeline: 1, value_bytes: VALUE_BYTES },
    Cell { operation: Operation::Set, clients: 50, pipeline: 16, value_bytes: VALUE_BYTES },
    Cell { operation: Operation::Get, clients: 50, pipeline: 1, value_bytes: VALUE_BYTES },
    Cell { operation: Operation::Get, clients: 50, pipeline: 16, value_bytes: VALUE_BYTES },
];
/// One client: each SET is an entry and a sync of its own.
const ALONE: Cell = Cell { operation: Operation::Set, clients: 1, pipeline: 1, value_bytes: VALUE_BYTES };

/// Values of each round, by the name of the figure.
type Figures = BTreeMap<String, Vec<f64>>;

/// Whether no figure is worse than accepted; prints all of them.
pub(crate) async fn compare(options: &Options) -> Result<bool> {
    let file = accepted_file();
    let text =
        std::fs::read(&file).with_context(|| format!("{}: make bench-accept writes it", file.display()))?;
    let accepted: Json = serde_json::from_slice(&text).with_context(|| file.display().to_string())?;
    let machine = Machine::look(&std::env::temp_dir())?.json();
    for fact in ["processor", "cores", "file system of the data"] {
        if machine[fact] != accepted["machine"][fact] {
            eprintln!(
                "note: {fact} is {}, and was {} when accepted",
                machine[fact], accepted["machine"][fact]
            );
        }
    }
    let mut figures = Figures::new();
    let rounds = options.rounds.unwrap_or(ROUNDS);
    measure(rounds, &mut figures).await?;
    let mut verdicts = judge(&figures, &accepted)?;
    if verdicts.iter().any(|verdict| verdict.is_worse) {
        eprintln!("worse at first sight; {rounds} more rounds decide");
        measure(rounds, &mut figures).await?;
        verdicts = judge(&figures, &accepted)?;
    }
    println!("| figure | now | accepted | tolerance | |\n|---|---|---|---|---|");
    for verdict in &verdicts {
        println!("{}", verdict.row());
    }
    let worse: Vec<&str> =
        verdicts.iter().filter(|verdict| verdict.is_worse).map(|verdict| verdict.name.as_str()).collect();
    if !worse.is_empty() {
        eprintln!("worse than accepted: {}; if that is meant: make bench-accept", worse.join("; "));
    }
    Ok(worse.is_empty())
}

/// Writes the figures of this run as the accepted ones.
pub(crate) async fn accept(options: &Options) -> Result<()> {
    let mut figures = Figures::new();
    let rounds = options.rounds.unwrap_or(ROUNDS_TO_ACCEPT);
    ensure!(rounds >= 5, "ROUNDS is at least 5: fewer say nothing about how much the rounds differ");
    let machine = Machine::look(&std::env::temp_dir())?;
    measure(rounds, &mut figures).await?;
    let mut accepted = serde_json::Map::new();
    println!("| figure | accepted | half of the rounds span | tolerance |\n|---|---|---|---|");
    for (name, values) in &figures {
        let (value, spread) = (median(values.clone()), spread(values));
        let tolerance = tolerance(spread);
        if SPANS * spread > TOLERANCE_MAX {
            eprintln!("note: {name} differs too much between rounds; accept it on a quieter machine");
        }
        println!("| {name} | {value:.3} | {:.0} % | {:.0} % |", spread * 100.0, tolerance * 100.0);
        let three = |value: f64| (value * 1000.0).round() / 1000.0;
        let figure = json!({"value": three(value), "spread": three(spread), "tolerance": three(tolerance)});
        accepted.insert(name.clone(), figure);
    }
    let whole = json!({"rounds": rounds, "machine": machine.json(), "figures": accepted});
    let file = accepted_file();
    std::fs::write(&file, format!("{whole:#}\n")).with_context(|| format!("write {}", file.display()))?;
    println!("written: {}", file.display());
    Ok(())
}

/// Beside this file, wherever the harness was built: checkouts may share a target directory.
fn accepted_file() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("bench/accepted.json")
}

/// What the middle half of the rounds spans, as part of the median.
fn spread(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let quarter = sorted.len() / 4;
    (sorted[sorted.len() - 1 - quarter] - sorted[quarter]) / median(sorted)
}

fn tolerance(spread: f64) -> f64 {
    (SPANS * spread).clamp(TOLERANCE_MIN, TOLERANCE_MAX)
}

/// One figure beside its accepted one.
struct Verdict {
    name: String,
    now: f64,
    accepted: f64,
    tolerance: f64,
    is_worse: bool,
}

impl Verdict {
    fn row(&self) -> String {
        let word = if self.is_worse {
            "WORSE"
        } else if self.now < self.accepted * (1.0 - self.tolerance) {
            "better: make bench-accept keeps it"
        } else {
            "as accepted"
        };
        let (now, accepted) = (self.now, self.accepted);
        format!("| {} | {now:.3} | {accepted:.3} | {:.0} % | {word} |", self.name, self.tolerance * 100.0)
    }
}

/// Fails if the figures of both are not the same ones.
fn judge(figures: &Figures, accepted: &Json) -> Result<Vec<Verdict>> {
    let accepted = accepted["figures"].as_object().context("accepted.json holds no figures")?;
    if let Some(gone) = accepted.keys().find(|name| !figures.contains_key(*name)) {
        bail!("{gone} is accepted and was not measured: make bench-accept");
    }
    let mut verdicts = Vec::new();
    for (name, values) in figures {
        let figure =
            accepted.get(name).with_context(|| format!("{name}: not accepted yet: make bench-accept"))?;
        let number = |field: &str| figure[field].as_f64().with_context(|| format!("{name} has no {field}"));
        let (now, accepted, tolerance) = (median(values.clone()), number("value")?, number("tolerance")?);
        let is_worse = now.is_nan() || now > accepted * (1.0 + tolerance);
        verdicts.push(Verdict { name: name.clone(), now, accepted, tolerance, is_worse });
    }
    Ok(verdicts)
}

async fn measure(rounds: usize, figures: &mut Figures) -> Result<()> {
    ensure!(Kind::RedisAlways.is_here(), "redis-server is not installed; CPU is compared with its");
    let mut systems = Vec::new();
    for kind in [Kind::RedisAlways, Kind::Ours(1), Kind::Ours(3)] {
        let mut system = System::start(kind).await.with_context(|| kind.name())?;
        system.preload(0..KEYS, VALUE_BYTES).await?;
        systems.push((kind, system));
    }
    for round in 0..rounds {
        eprintln!("round {} of {rounds}", round + 1);
        // The order turns, so that none is always the first after another.
        systems.rotate_left(1);
        for cell in CELLS.into_iter().chain([ALONE]) {
            let mut costs = BTreeMap::new();
            for (kind, system) in &mut systems {
                let cost = cost(system, cell).await.with_context(|| kind.name())?;
                costs.insert(*kind, cost);
            }
            add(cell, &costs, figures)?;
        }
    }
    Ok(())
}

/// The figures of one cell in one round.
fn add(cell: Cell, costs: &BTreeMap<Kind, Cost>, figures: &mut Figures) -> Result<()> {
    let redis = costs.get(&Kind::RedisAlways).context("redis-server was measured")?;
    let typed = cell.to_string().replace(" | ", ",");
    for (kind, cost) in costs.iter().filter(|(kind, _)| **kind != Kind::RedisAlways) {
        let mut add = |what: &str, value: f64| {
            let name = format!("{}: {what} of {typed}", kind.name());
            figures.entry(name).or_default().push(value);
        };
        // A client alone asks so little in a second that ticks of the CPU's clock say nothing.
        if cell != ALONE {
            add("CPU : redis-server's", cost.cpu / redis.cpu);
        }
        // Reads and pipelines: a switch serves many commands, and how many is chance.
        if cell.operation == Operation::Set && cell.pipeline == 1 {
            if cell != ALONE {
                add("context switches per command", cost.switches);
            }
            add("log syncs per 1000 commands", cost.syncs * 1000.0);
        }
    }
    Ok(())
}

/// What one command costs on all nodes together.
#[derive(Clone, Copy, Debug)]
struct Cost {
    cpu: f64,
    switches: f64,
    syncs: f64,
}

async fn cost(system: &mut System, cell: Cell) -> Result<Cost> {
    let before = counted(system).await?;
    let (measured, cpu) = system.run(cell, KEYS, TIME).await?;
    let after = counted(system).await?;
    let commands = real(measured.requests);
    ensure!(commands > 0.0, "{cell}: nothing was answered");
    let each = |at: usize| real(after[at].saturating_sub(before[at])) / commands;
    Ok(Cost { cpu: cpu / commands, switches: each(0), syncs: each(1) })
}

/// Context switches of all its processes, and syncs of the logs of ours.
async fn counted(system: &System) -> Result<[u64; 2]> {
    let mut sum = 0;
    for pid in system.pids()? {
        sum += switches(pid)?;
    }
    let syncs = match system {
        System::Ours(cluster) => trials::counter(cluster, trials::LOG_SYNCS).await?.iter().sum(),
        System::Redis(_) | System::Etcd(_) | System::Peer(_) => 0,
    };
    Ok([sum, syncs])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(values: &[f64]) -> Result<Vec<Verdict>> {
        let accepted = json!({"figures": {"a": {"value": 2.0, "tolerance": 0.1}}});
        judge(&Figures::from([("a".to_owned(), values.to_vec())]), &accepted)
    }

    #[test]
    fn a_figure_is_worse_beyond_its_tolerance_only() {
        let is_worse = |values: &[f64]| judged(values).unwrap()[0].is_worse;
        assert!(!is_worse(&[2.19, 2.19, 9.0]), "the median counts");
        assert!(is_worse(&[2.21, 2.21, 1.0]));
        assert!(!is_worse(&[0.1]) && judged(&[0.1]).unwrap()[0].row().contains("better"));
        assert!(is_worse(&[f64::NAN]));
    }

    #[test]
    fn figures_that_were_never_accepted_are_a_failure() {
        let new = Figures::from([("a".to_owned(), vec![2.0]), ("b".to_owned(), vec![1.0])]);
        let accepted = json!({"figures": {"a": {"value": 2.0, "tolerance": 0.1}}});
        assert!(judge(&new, &accepted).is_err() && judge(&Figures::new(), &accepted).is_err());
    }

    #[test]
    fn the_tolerance_follows_the_spread_of_the_rounds_within_limits() {
        let near = |value: f64, wanted: f64| (value - wanted).abs() < 1e-9;
        assert!(
            near(tolerance(spread(&[1.0, 1.1, 0.9, 1.0, 9.0])), SPANS * 0.1),
            "what is outside the middle is chance"
        );
        assert!(near(tolerance(spread(&[1.0, 1.01, 1.0])), TOLERANCE_MIN));
        assert!(near(tolerance(spread(&[1.0, 3.0, 1.0])), TOLERANCE_MAX));
    }
}
