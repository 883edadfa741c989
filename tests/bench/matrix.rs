//! The table: all cells of all systems, round after round.

use anyhow::{Context, Result};
use serde_json::json;

use crate::Plan;
use crate::cells::Operation;
use crate::report::Report;
use crate::sample::{Sample, raw};
use crate::systems::{Kind, System};
use crate::table::{self, Results};

/// Measures all, prints the table, adds it to the report.
pub(crate) async fn run(plan: &Plan, systems: &[Kind], command: &str, report: &mut Report) -> Result<()> {
    let mut results = Results::default();
    for round in 0..plan.rounds {
        for turn in 0..systems.len() {
            let kind = systems[(turn + round) % systems.len()];
            eprintln!("round {} of {}: {}", round + 1, plan.rounds, kind.name());
            measure(kind, round, plan, &mut results, report).await.with_context(|| kind.name())?;
        }
    }
    print!(
        "{}",
        table::markdown(&results, systems, plan, &table::conditions(plan, command, report.machine()))
    );
    report.add(table::section(&results, systems, plan))
}

/// Starts a system; the first time it is described in the report.
pub(crate) async fn start(kind: Kind, report: &mut Report) -> Result<System> {
    let mut system = System::start(kind).await.with_context(|| kind.name())?;
    if !report.knows(&kind.name()) {
        // It leads, so it is up, and its processes are those that serve.
        system.leader().await?;
        report.describe(system.describe(kind).await?)?;
    }
    Ok(system)
}

/// One round of one system.
async fn measure(
    kind: Kind,
    round: usize,
    plan: &Plan,
    results: &mut Results,
    report: &mut Report,
) -> Result<()> {
    let mut system = start(kind, report).await?;
    let mut loaded = None;
    for &cell in plan.cells.iter().filter(|cell| kind.is_measured_by(cell.operation)) {
        // Before the first cell of a kind, so that a GET reads values of its size.
        let wanted = Some((cell.operation, cell.value_bytes));
        if loaded != wanted {
            system.preload(0..plan.keys, cell.value_bytes).await?;
        }
        loaded = wanted;
        let (measured, cpu_seconds) = system.run(cell, plan.keys, plan.cell).await?;
        let mut fields = json!({
            "system": kind.name(),
            "round": round + 1,
            "operation": cell.operation.name(),
            "clients": cell.clients,
            "pipeline": cell.pipeline,
            "value_bytes": cell.value_bytes,
            "keys": plan.keys,
        });
        crate::sample::merge(&mut fields, raw(&measured, cpu_seconds));
        report.record("cell", fields)?;
        results.add(kind, cell, Sample::new(&measured, cpu_seconds));
    }
    if !plan.is_whole || !kind.is_measured_by(Operation::Set) {
        return Ok(());
    }
    if let Some(rate) = system.bulk_load(plan.bulk).await? {
        report.record(
            "bulk",
            json!({"system": kind.name(), "round": round + 1, "commands": plan.bulk, "per_second": rate}),
        )?;
        results.add_bulk(kind, rate);
    }
    if let Some(time) = system.restart().await? {
        let seconds = time.as_secs_f64();
        report.record("restart", json!({"system": kind.name(), "round": round + 1, "seconds": seconds}))?;
        results.add_restart(kind, time);
    }
    Ok(())
}
