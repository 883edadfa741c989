//! One seed twice, and a few seeds that must hold; `make sim` runs more of them. Not part of `make test`.

use kvnode_sim::plan::Plan;
use kvnode_sim::run::run;

fn holds(seed: u64) {
    if let Err(failure) = run(&Plan::of(seed)) {
        panic!("seed {seed} {failure}\n{}", tail(&failure.trace));
    }
}

fn tail(trace: &str) -> String {
    let lines: Vec<&str> = trace.lines().collect();
    lines[lines.len().saturating_sub(60)..].join("\n")
}

#[test]
fn one_seed_twice_gives_the_same_trace_byte_by_byte() {
    let plan = Plan { chaos_ms: 10_000, ..Plan::of(11) };
    let [first, second] = [(), ()].map(|()| run(&plan).unwrap_or_else(|failure| panic!("{failure}")).trace);
    assert!(first.len() > 10_000, "{} bytes prove little", first.len());
    let differs = first.lines().zip(second.lines()).find(|(one, other)| one != other);
    assert_eq!(differs, None);
    assert_eq!(first.len(), second.len());
}

#[test]
fn three_nodes_that_confirm_reads_hold() {
    holds(4);
}

#[test]
fn three_nodes_that_read_by_lease_hold() {
    holds(1);
}

#[test]
fn five_nodes_hold() {
    holds(5);
}
