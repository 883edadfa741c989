//! Medians and ratios as Markdown.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::time::Duration;

use crate::Plan;
use crate::cells::{Cell, KEY_BYTES};
use crate::load::Measured;
use crate::systems::Kind;

/// One run of one cell.
#[derive(Clone, Copy)]
struct Sample {
    per_second: f64,
    p50_ms: f64,
    p99_ms: f64,
    cpu_per_100k: f64,
}

/// All samples.
#[derive(Default)]
pub(crate) struct Results {
    cells: BTreeMap<(Kind, Cell), Vec<Sample>>,
    bulk: BTreeMap<Kind, Vec<f64>>,
    restart: BTreeMap<Kind, Vec<f64>>,
}

impl Results {
    /// Adds one run of a cell.
    #[expect(clippy::cast_precision_loss, reason = "counts and microseconds are far below 2^52")]
    pub(crate) fn add(&mut self, kind: Kind, cell: Cell, measured: &Measured, cpu_seconds: f64) {
        let requests = measured.requests as f64;
        let ms = |quantile| measured.latency_us.value_at_quantile(quantile) as f64 / 1000.0;
        let sample = Sample {
            per_second: requests / measured.elapsed.as_secs_f64(),
            p50_ms: ms(0.5),
            p99_ms: ms(0.99),
            cpu_per_100k: cpu_seconds * 100_000.0 / requests,
        };
        self.cells.entry((kind, cell)).or_default().push(sample);
    }

    /// Adds a bulk load, commands per second.
    pub(crate) fn add_bulk(&mut self, kind: Kind, per_second: f64) {
        self.bulk.entry(kind).or_default().push(per_second);
    }

    /// Adds a restart.
    pub(crate) fn add_restart(&mut self, kind: Kind, time: Duration) {
        self.restart.entry(kind).or_default().push(time.as_secs_f64());
    }

    fn median(&self, kind: Kind, cell: Cell, field: fn(&Sample) -> f64) -> Option<f64> {
        let samples = self.cells.get(&(kind, cell))?;
        Some(median(samples.iter().map(field).collect()))
    }
}

pub(crate) fn median(mut numbers: Vec<f64>) -> f64 {
    numbers.sort_by(f64::total_cmp);
    let middle = numbers.len() / 2;
    if numbers.len() % 2 == 1 { numbers[middle] } else { f64::midpoint(numbers[middle - 1], numbers[middle]) }
}

/// Pairs whose ratio is a target or says something.
const RATIOS: [(Kind, Kind); 6] = [
    (Kind::Ours(3), Kind::OtherBuild),
    (Kind::Ours(3), Kind::Etcd(3)),
    (Kind::Ours(3), Kind::RedisAlways),
    (Kind::Ours(3), Kind::RedisMemory),
    (Kind::Ours(1), Kind::RedisAlways),
    (Kind::Ours(1), Kind::Etcd(1)),
];

/// The report.
pub(crate) fn markdown(results: &Results, systems: &[Kind], plan: &Plan, command: &str) -> String {
    let mut out = format!("{}\n\n", machine(plan, command));
    let ratios: Vec<(Kind, Kind)> =
        RATIOS.into_iter().filter(|(a, b)| systems.contains(a) && systems.contains(b)).collect();
    throughput(&mut out, results, &plan.cells, systems, &ratios);
    let shown = (plan.cells.as_slice(), systems);
    detail(&mut out, "p50 / p99 of a pipeline, ms", shown, |kind, cell| {
        let (p50, p99) = (
            results.median(kind, cell, |sample| sample.p50_ms)?,
            results.median(kind, cell, |sample| sample.p99_ms)?,
        );
        Some(format!("{p50:.2} / {p99:.1}"))
    });
    detail(&mut out, "CPU seconds of all server processes per 100,000 requests", shown, |kind, cell| {
        Some(format!("{:.2}", results.median(kind, cell, |sample| sample.cpu_per_100k)?))
    });
    let mut line = |title: &str, values: &BTreeMap<Kind, Vec<f64>>, unit: fn(f64) -> String| {
        if values.is_empty() {
            return;
        }
        let text: Vec<String> =
            values.iter().map(|(kind, v)| format!("{} {}", kind.name(), unit(median(v.clone())))).collect();
        let _ = writeln!(out, "{title}: {}.\n", text.join(", "));
    };
    line("Bulk load by `redis-cli --pipe`, 16 B keys and values", &results.bulk, |v| {
        format!("{:.1} k/s", v / 1000.0)
    });
    line("kill -9 of all processes to the first answer", &results.restart, |v| format!("{v:.2} s"));
    out
}

fn head(out: &mut String, systems: &[Kind], more: &[String]) {
    let names: Vec<String> = systems.iter().map(|kind| kind.name()).chain(more.iter().cloned()).collect();
    let _ = writeln!(out, "| op | clients | pipeline | value B | {} |", names.join(" | "));
    let _ = writeln!(out, "|{}", "---|".repeat(4 + names.len()));
}

fn throughput(
    out: &mut String,
    results: &Results,
    cells: &[Cell],
    systems: &[Kind],
    ratios: &[(Kind, Kind)],
) {
    let _ = writeln!(out, "Thousand requests per second, medians (keys of {KEY_BYTES} B); then ratios.\n");
    let titles: Vec<String> = ratios.iter().map(|(a, b)| format!("{} : {}", a.name(), b.name())).collect();
    head(out, systems, &titles);
    let rate = |kind, cell| results.median(kind, cell, |sample| sample.per_second);
    for &cell in cells {
        let mut columns: Vec<String> = Vec::new();
        for &kind in systems {
            columns.push(rate(kind, cell).map_or("-".into(), |value| format!("{:.1}", value / 1000.0)));
        }
        for &(a, b) in ratios {
            let ratio = rate(a, cell).zip(rate(b, cell)).map(|(a, b)| a / b);
            columns.push(ratio.map_or("-".into(), |value| format!("{value:.2}")));
        }
        let _ = writeln!(out, "| {cell} | {} |", columns.join(" | "));
    }
    out.push('\n');
}

fn detail(
    out: &mut String,
    title: &str,
    (cells, systems): (&[Cell], &[Kind]),
    text: impl Fn(Kind, Cell) -> Option<String>,
) {
    let _ = writeln!(out, "{title}\n");
    head(out, systems, &[]);
    for &cell in cells {
        let columns: Vec<String> =
            systems.iter().map(|&kind| text(kind, cell).unwrap_or_else(|| "-".into())).collect();
        let _ = writeln!(out, "| {cell} | {} |", columns.join(" | "));
    }
    out.push('\n');
}

fn machine(plan: &Plan, command: &str) -> String {
    let cpu = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpu.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or_default();
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    format!(
        "`{command}`: {} rounds, {:?} a cell, {} keys; {cores} cores{}, Linux {}; clients, servers and all nodes share them.",
        plan.rounds,
        plan.cell,
        plan.keys,
        model.trim_start_matches([' ', '\t', ':']).split_once('@').map_or_else(
            || format!(" ({})", model.trim_start_matches([' ', '\t', ':'])),
            |(name, _)| format!(" ({})", name.trim())
        ),
        kernel.trim()
    )
}
