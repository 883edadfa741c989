//! Medians and ratios of the cells: as Markdown for the terminal, as tables and pictures for the report.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::time::Duration;

use crate::Plan;
use crate::cells::{Cell, KEY_BYTES, Operation};
use crate::report::Section;
use crate::report::machine::Machine;
use crate::report::svg;
use crate::sample::{Sample, median, median_of};
use crate::systems::Kind;

/// All samples.
#[derive(Default)]
pub(crate) struct Results {
    cells: BTreeMap<(Kind, Cell), Vec<Sample>>,
    bulk: BTreeMap<Kind, Vec<f64>>,
    restart: BTreeMap<Kind, Vec<f64>>,
}

impl Results {
    /// Adds one run of a cell.
    pub(crate) fn add(&mut self, kind: Kind, cell: Cell, sample: Sample) {
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
        median_of(self.cells.get(&(kind, cell))?, field)
    }

    /// Median of the ratios within each round: both have seen the same weather.
    fn ratio(&self, (a, b): (Kind, Kind), cell: Cell) -> Option<f64> {
        let (a, b) = (self.cells.get(&(a, cell))?, self.cells.get(&(b, cell))?);
        let ratios: Vec<f64> = a.iter().zip(b).map(|(a, b)| a.per_second / b.per_second).collect();
        (!ratios.is_empty()).then(|| median(ratios))
    }
}

/// Pairs whose ratio is a target or says something.
const RATIOS: [(Kind, Kind); 8] = [
    (Kind::Ours(3), Kind::OtherBuild),
    (Kind::Ours(3), Kind::Etcd(3)),
    (Kind::Ours(3), Kind::RedisAlways),
    (Kind::Ours(3), Kind::RedisMemory),
    (Kind::OursByLease, Kind::RedisAlways),
    (Kind::OursByLease, Kind::RedisMemory),
    (Kind::Ours(1), Kind::RedisAlways),
    (Kind::Ours(1), Kind::Etcd(1)),
];

fn ratios(systems: &[Kind]) -> Vec<(Kind, Kind)> {
    RATIOS.into_iter().filter(|(a, b)| systems.contains(a) && systems.contains(b)).collect()
}

/// One table of figures: title, head, rows.
struct Figures {
    title: String,
    head: Vec<String>,
    rows: Vec<Vec<String>>,
}

/// All of them.
fn figures(results: &Results, systems: &[Kind], plan: &Plan) -> Vec<Figures> {
    let ratios = ratios(systems);
    let rate = |kind, cell| results.median(kind, cell, |sample| sample.per_second);
    let table = |title: String, ratios: &[(Kind, Kind)], text: &dyn Fn(Kind, Cell) -> Option<String>| {
        let mut head: Vec<String> = ["op", "clients", "pipeline", "value B"].map(str::to_owned).to_vec();
        head.extend(systems.iter().map(|kind| kind.name()));
        head.extend(ratios.iter().map(|(a, b)| format!("{} : {}", a.name(), b.name())));
        let row = |&cell: &Cell| {
            let mut row: Vec<String> = cell.to_string().split(" | ").map(str::to_owned).collect();
            row.extend(systems.iter().map(|&kind| text(kind, cell).unwrap_or_else(|| "-".into())));
            let ratio = |&pair| results.ratio(pair, cell).map_or("-".into(), |ratio| format!("{ratio:.2}"));
            row.extend(ratios.iter().map(ratio));
            row
        };
        Figures { title, head, rows: plan.cells.iter().map(row).collect() }
    };
    let title = format!(
        "Thousand requests per second, medians (keys of {KEY_BYTES} B); then medians of the ratios within each round."
    );
    vec![
        table(title, &ratios, &|kind, cell| Some(format!("{:.1}", rate(kind, cell)? / 1000.0))),
        table("p50 / p99 of a pipeline, ms".into(), &[], &|kind, cell| {
            let p50 = results.median(kind, cell, |sample| sample.p50_ms)?;
            let p99 = results.median(kind, cell, |sample| sample.p99_ms)?;
            Some(format!("{p50:.2} / {p99:.1}"))
        }),
        table("CPU seconds of all server processes per 100,000 requests".into(), &[], &|kind, cell| {
            Some(format!("{:.2}", results.median(kind, cell, |sample| sample.cpu_per_100k)?))
        }),
    ]
}

/// What is one line instead of a table.
fn remarks(results: &Results) -> Vec<String> {
    let mut lines = Vec::new();
    let mut line = |title: &str, values: &BTreeMap<Kind, Vec<f64>>, unit: fn(f64) -> String| {
        let text: Vec<String> =
            values.iter().map(|(kind, v)| format!("{} {}", kind.name(), unit(median(v.clone())))).collect();
        if !text.is_empty() {
            lines.push(format!("{title}: {}.", text.join(", ")));
        }
    };
    line("Bulk load by `redis-cli --pipe`, 16 B keys and values", &results.bulk, |v| {
        format!("{:.1} k/s", v / 1000.0)
    });
    line("kill -9 of all processes to the first answer", &results.restart, |v| format!("{v:.2} s"));
    lines
}

/// For the terminal.
pub(crate) fn markdown(results: &Results, systems: &[Kind], plan: &Plan, conditions: &str) -> String {
    let mut out = format!("{conditions}\n\n");
    for table in figures(results, systems, plan) {
        // Writing into a String does not fail.
        let _ = writeln!(out, "{}\n\n| {} |", table.title, table.head.join(" | "));
        let _ = writeln!(out, "|{}", "---|".repeat(table.head.len()));
        for row in table.rows {
            let _ = writeln!(out, "| {} |", row.join(" | "));
        }
        out.push('\n');
    }
    for line in remarks(results) {
        let _ = writeln!(out, "{line}\n");
    }
    out
}

/// For the report: pictures of the throughput, then the tables.
pub(crate) fn section(results: &Results, systems: &[Kind], plan: &Plan) -> Section {
    let mut section = Section::new("Cells");
    section.note(format!(
        "{} rounds over all systems, {:?} a cell, {} keys. Every client waits for its whole pipeline.",
        plan.rounds, plan.cell, plan.keys
    ));
    let names: Vec<String> = systems.iter().map(|kind| kind.name()).collect();
    let mut groups: BTreeMap<(usize, Operation, usize), Vec<Cell>> = BTreeMap::new();
    for &cell in &plan.cells {
        groups.entry((cell.value_bytes, cell.operation, cell.pipeline)).or_default().push(cell);
    }
    for ((value_bytes, operation, pipeline), cells) in groups {
        let title = format!("{}, values of {value_bytes} B, pipeline {pipeline}", operation.name());
        let frame = svg::Frame { title: &title, x: "clients", y: "requests per second" };
        let bars: Vec<(String, Vec<Option<f64>>)> = cells
            .iter()
            .map(|&cell| {
                let rate = |&kind: &Kind| results.median(kind, cell, |sample| sample.per_second);
                (cell.clients.to_string(), systems.iter().map(rate).collect())
            })
            .collect();
        section.picture(svg::bars(&frame, &names, &bars));
    }
    for table in figures(results, systems, plan) {
        section.note(table.title);
        section.table(table.head, table.rows);
    }
    for line in remarks(results) {
        section.note(line);
    }
    section
}

/// One line over the table: what was measured, on what.
pub(crate) fn conditions(plan: &Plan, command: &str, machine: &Machine) -> String {
    let facts: Vec<String> = machine.facts.iter().map(|(name, value)| format!("{name} {value}")).collect();
    format!(
        "`{command}`: {} rounds, {:?} a cell, {} keys; {}; clients, servers and all nodes share them.",
        plan.rounds,
        plan.cell,
        plan.keys,
        facts.join(", ")
    )
}
