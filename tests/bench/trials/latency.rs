//! Latency at a fixed rate, from the moment at which each request was due: ours, and etcd at the same rates.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::Result;
use serde_json::json;

use super::PEAK;
use crate::cells::{Cell, Operation};
use crate::matrix::start;
use crate::open::{self, For, Stream};
use crate::options::Options;
use crate::report::{Report, Section, svg};
use crate::sample::{Sample, median_of, merge, raw, real};
use crate::systems::{Kind, System};

/// Percent of a peak.
const PARTS: [u32; 3] = [25, 50, 75];
/// A peak is the median of so many runs.
const PEAK_RUNS: usize = 3;

/// Runs by operation, system and rate.
type Runs = BTreeMap<(Operation, Kind, u64), Vec<Sample>>;

pub(super) async fn run(options: &Options, report: &mut Report, section: &mut Section) -> Result<()> {
    let keys = options.keys.unwrap_or(if options.is_quick { 20_000 } else { 100_000 });
    let time = Duration::from_secs(if options.is_quick { 2 } else { 10 });
    let rounds = options.rounds.unwrap_or(if options.is_quick { 1 } else { 3 });
    let mut kinds = vec![Kind::Ours(3), Kind::Etcd(3)];
    kinds.retain(|kind| kind.is_here() && options.names(&kind.name()));
    let mut runs = Runs::new();
    for operation in [Operation::Set, Operation::Get] {
        let cell = Cell { operation, ..PEAK };
        let mut peaks = Vec::new();
        for &kind in &kinds {
            let mut system = start(kind, report).await?;
            system.preload(0..keys, cell.value_bytes).await?;
            let mut rates = Vec::new();
            for _ in 0..if options.is_quick { 1 } else { PEAK_RUNS } {
                let (measured, cpu) = system.run(cell, keys, time / 2).await?;
                rates.push(Sample::new(&measured, cpu).per_second);
            }
            peaks.push(crate::sample::median(rates));
        }
        let told: Vec<String> =
            kinds.iter().zip(&peaks).map(|(kind, peak)| format!("{} {peak:.0}", kind.name())).collect();
        section.say(format!(
            "{}: peaks of a closed loop of {} clients, requests per second: {}",
            operation.name(),
            cell.clients,
            told.join(", ")
        ));
        for round in 0..rounds {
            for turn in 0..kinds.len() {
                let at = (turn + round) % kinds.len();
                let mut system = start(kinds[at], report).await?;
                system.preload(0..keys, cell.value_bytes).await?;
                for rate in rates(&peaks, at) {
                    let sample = once(&mut system, kinds[at], (cell, keys, rate, time), report).await?;
                    runs.entry((operation, kinds[at], rate)).or_default().push(sample);
                }
            }
        }
    }
    show(&runs, section);
    Ok(())
}

/// The rates for the system at this place: parts of its own peak, and those parts of every other's that it can carry.
fn rates(peaks: &[f64], at: usize) -> Vec<u64> {
    let mut rates = Vec::new();
    for peak in peaks.iter().filter(|peak| **peak <= peaks[at]) {
        for part in PARTS {
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "a rate is a small count"
            )]
            rates.push((peak * f64::from(part) / 100.0).round().max(1.0) as u64);
        }
    }
    rates.sort_unstable();
    rates.dedup();
    rates
}

async fn once(
    system: &mut System,
    kind: Kind,
    (cell, keys, rate, time): (Cell, usize, u64, Duration),
    report: &mut Report,
) -> Result<Sample> {
    let stream = Stream {
        operation: cell.operation,
        rate: real(rate),
        clients: cell.clients,
        keys,
        value_bytes: cell.value_bytes,
        is_etcd: system.is_etcd(),
    };
    let addr = system.leader().await?;
    let before = system.cpu_seconds()?;
    let measured = open::run(&addr, stream, For(time)).await?;
    let cpu = system.cpu_seconds()? - before;
    let mut fields = json!({"system": kind.name(), "operation": cell.operation.name(), "rate": rate,
        "clients": cell.clients, "value_bytes": cell.value_bytes, "keys": keys});
    merge(&mut fields, raw(&measured, cpu));
    report.record("latency", fields)?;
    Ok(Sample::new(&measured, cpu))
}

fn show(runs: &Runs, section: &mut Section) {
    section
        .say("Open loop, ms from the moment at which a request was due, medians; answered: part of the rate");
    let mut rows = Vec::new();
    let mut lines: BTreeMap<(Operation, String), Vec<(f64, f64)>> = BTreeMap::new();
    for ((operation, kind, rate), samples) in runs {
        let show = |field: fn(&Sample) -> f64| median_of(samples, field).unwrap_or(f64::NAN);
        let [p50, p99, p999] =
            [show(|sample| sample.p50_ms), show(|sample| sample.p99_ms), show(|sample| sample.p999_ms)];
        let answered = 100.0 * show(|sample| sample.per_second) / real(*rate);
        rows.push(vec![
            operation.name().to_owned(),
            kind.name(),
            rate.to_string(),
            format!("{answered:.0} %"),
            format!("{p50:.2}"),
            format!("{p99:.2}"),
            format!("{p999:.2}"),
        ]);
        for (name, value) in [("p50", p50), ("p99", p99), ("p99.9", p999)] {
            let line = lines.entry((*operation, format!("{}, {name}", kind.name()))).or_default();
            line.push((real(*rate), value));
        }
    }
    let head = ["op", "system", "requests/s", "answered", "p50", "p99", "p99.9"];
    section.show(head.map(str::to_owned).to_vec(), rows);
    for operation in [Operation::Set, Operation::Get] {
        let title = format!("{}, open loop", operation.name());
        let frame = svg::Frame { title: &title, x: "requests per second", y: "ms" };
        let own: Vec<svg::Line> = lines
            .iter()
            .filter(|((of, _), _)| *of == operation)
            .map(|((_, name), points)| (name.clone(), points.clone()))
            .collect();
        section.picture(svg::lines(&frame, &own));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_faster_system_runs_at_the_rates_of_the_slower_one_too() {
        let peaks = [20_000.0, 4_000.0];
        assert_eq!(rates(&peaks, 0), [1000, 2000, 3000, 5000, 10_000, 15_000]);
        assert_eq!(rates(&peaks, 1), [1000, 2000, 3000]);
    }
}
