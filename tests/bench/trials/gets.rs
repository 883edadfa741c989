//! GET over a million keys, each as likely as the other, so that most of them were not read a moment ago.

use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::json;

use crate::cells::{Cell, Operation};
use crate::matrix::start;
use crate::options::Options;
use crate::report::{Report, Section};
use crate::sample::{Sample, median_of, merge, raw};
use crate::systems::Kind;

/// Keys unless KEYS says otherwise.
const KEYS: usize = 1_000_000;
const VALUE_BYTES: usize = 64;
/// Clients and pipeline.
const LOADS: [(usize, usize); 3] = [(50, 1), (50, 16), (512, 1)];
const SYSTEMS: [Kind; 6] =
    [Kind::Ours(1), Kind::Ours(3), Kind::OursByLease, Kind::RedisAlways, Kind::RedisMemory, Kind::Etcd(3)];

pub(super) async fn run(options: &Options, report: &mut Report, section: &mut Section) -> Result<()> {
    let keys = options.keys.unwrap_or(if options.is_quick { 100_000 } else { KEYS });
    let (rounds, time) = if options.is_quick { (1, 1) } else { (5, 3) };
    let rounds = options.rounds.unwrap_or(rounds);
    section.say(format!(
        "GET of one of {keys} keys, uniform, values of {VALUE_BYTES} B, {rounds} runs of {time} s each"
    ));
    let mut rows = Vec::new();
    for kind in SYSTEMS.into_iter().filter(|kind| kind.is_here() && options.names(&kind.name())) {
        // Loading is most of the time, so one start of each system serves all its runs.
        let mut system = start(kind, report).await?;
        system.preload(0..keys, VALUE_BYTES).await.with_context(|| kind.name())?;
        for (clients, pipeline) in LOADS {
            let cell = Cell { operation: Operation::Get, clients, pipeline, value_bytes: VALUE_BYTES };
            let mut samples = Vec::new();
            for round in 0..rounds {
                let (measured, cpu) = system.run(cell, keys, Duration::from_secs(time)).await?;
                let mut fields = json!({"system": kind.name(), "round": round + 1, "clients": clients,
                    "pipeline": pipeline, "value_bytes": VALUE_BYTES, "keys": keys});
                merge(&mut fields, raw(&measured, cpu));
                report.record("gets", fields)?;
                samples.push(Sample::new(&measured, cpu));
            }
            let show = |field: fn(&Sample) -> f64| median_of(&samples, field).unwrap_or(f64::NAN);
            rows.push(vec![
                kind.name(),
                clients.to_string(),
                pipeline.to_string(),
                format!("{:.1}", show(|sample| sample.per_second) / 1000.0),
                format!("{:.2}", show(|sample| sample.p50_ms)),
                format!("{:.2}", show(|sample| sample.p99_ms)),
                format!("{:.2}", show(|sample| sample.cpu_per_100k)),
            ]);
        }
    }
    let head = ["system", "clients", "pipeline", "k/s", "p50 ms", "p99 ms", "CPU s / 100 k"];
    section.show(head.map(str::to_owned).to_vec(), rows);
    Ok(())
}
