//! What SCAN's order over the keys costs: the same SETs applied with and without it, in turn.

use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use kvnode_tests::binary;
use kvnode_tests::tool::run as output;

use crate::report::Section;
use crate::sample::median;

/// Runs of each kind; medians are compared.
const ROUNDS: usize = 5;
/// What a SET of a new key, and one of a key that is there, may cost with the order, of what it costs without.
const INSERT_MAX: f64 = 1.5;
const OVERWRITE_MAX: f64 = 1.1;

/// Microseconds of CPU per insert and per overwrite.
fn measure(kind: &str) -> Result<[f64; 2]> {
    let program = binary::server().with_file_name("examples").join("scan_cost");
    ensure!(program.exists(), "{} is missing: cargo build --release --example scan_cost", program.display());
    let printed = output(Command::new(program).arg(kind))?;
    let numbers: Vec<f64> = printed.split_whitespace().map(str::parse).collect::<Result<_, _>>()?;
    numbers.try_into().ok().with_context(|| printed.clone())
}

/// Measures, prints, and fails beyond the limits.
pub(super) fn run(section: &mut Section) -> Result<()> {
    let (mut with, mut without) = ([Vec::new(), Vec::new()], [Vec::new(), Vec::new()]);
    for round in 0..ROUNDS {
        // The order turns, so that neither is always the first after a pause.
        let kinds = if round % 2 == 0 { ["with", "without"] } else { ["without", "with"] };
        for kind in kinds {
            let measured = measure(kind)?;
            eprintln!(
                "round {round}, {kind:7}: insert {:.2} us, overwrite {:.2} us of CPU",
                measured[0], measured[1]
            );
            let kept = if kind == "with" { &mut with } else { &mut without };
            for (all, one) in kept.iter_mut().zip(measured) {
                all.push(one);
            }
        }
    }
    let [insert, overwrite] = [0, 1].map(|at| (median(with[at].clone()), median(without[at].clone())));
    let ratio = |(with, without): (f64, f64)| with / without;
    section.say(format!(
        "SCAN's order, 1 M keys, medians of {ROUNDS}: insert {:.2} us of CPU with, {:.2} without, {:.2}x (limit \
         {INSERT_MAX}x); overwrite {:.2} with, {:.2} without, {:.2}x (limit {OVERWRITE_MAX}x)",
        insert.0,
        insert.1,
        ratio(insert),
        overwrite.0,
        overwrite.1,
        ratio(overwrite)
    ));
    if ratio(insert) > INSERT_MAX || ratio(overwrite) > OVERWRITE_MAX {
        bail!("SCAN's order costs more than it may");
    }
    Ok(())
}
