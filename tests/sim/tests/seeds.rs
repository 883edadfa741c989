//! Seeds twice, a few seeds that must hold, and planted bugs that must be found; `make sim` runs more of each.

use std::path::Path;

use kvnode_server::sim::BUGS;
use kvnode_sim::apart::{self, Done};

/// Runs a seed with short faults, traced.
fn run(seed: u64, chaos_ms: u64) -> Done {
    let words = ["--trace", "--chaos-ms", &chaos_ms.to_string()].map(str::to_owned);
    apart::start(Path::new(env!("CARGO_BIN_EXE_sim")), seed, &words).expect("the simulation can be run")
}

fn holds(seed: u64) {
    let done = run(seed, 10_000);
    let lines: Vec<&str> = done.trace.lines().collect();
    let tail = lines[lines.len().saturating_sub(60)..].join("\n");
    assert!(done.tally.failures.is_empty(), "{:?}\n{tail}", done.tally.failures);
    assert_eq!(done.tally.seeds, 1);
}

/// The same line by line, and at the end of all lines the same digests of all packets and states.
fn repeats(seed: u64) {
    let [first, second] = [(), ()].map(|()| run(seed, 4_000));
    let (one, other) = (first.trace, second.trace);
    assert!(one.len() > 10_000, "{} bytes prove little", one.len());
    let differs = one.lines().zip(other.lines()).find(|(one, other)| one != other);
    assert_eq!(differs, None, "seed {seed}");
    assert_eq!(one.len(), other.len(), "seed {seed}");
    assert_eq!(first.tally, second.tally, "seed {seed}");
}

#[test]
fn one_seed_twice_gives_the_same_trace_byte_by_byte() {
    (1..=10).for_each(repeats);
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
    holds(2);
}

/// Seeds within which each of these bugs was found with room to spare (`tests/reports/`).
const SEEDS_MAX: u64 = 30;

/// One that is not found here would not be found in the server either.
fn is_found(bug: &str) {
    assert!(BUGS.iter().any(|(name, _)| *name == bug), "{bug} is none");
    let words = ["--bug", bug].map(str::to_owned);
    let found = (1..=SEEDS_MAX).any(|seed| {
        let done = apart::start(Path::new(env!("CARGO_BIN_EXE_sim")), seed, &words);
        let failures = done.expect("the simulation can be run").tally.failures;
        // A process that dies has found nothing.
        failures.iter().any(|(_, why)| !why.starts_with("its process ended with"))
    });
    assert!(found, "{bug} is not found by the seeds 1 to {SEEDS_MAX}");
}

fn are_found(bugs: &[&str]) {
    bugs.iter().copied().for_each(is_found);
}

#[test]
fn bugs_of_the_disk_are_found() {
    are_found(&[
        "sync-left-out",
        "vote-not-synced",
        "truncation-not-written",
        "segment-name-not-synced",
        "checksum-not-checked",
    ]);
}

#[test]
fn bugs_of_the_order_of_writes_are_found() {
    are_found(&[
        "reply-before-commit",
        "lost-batch-proposed-again",
        "applied-id-one-ahead",
        "purge-before-flush",
    ]);
}

#[test]
fn bugs_of_reads_are_found() {
    are_found(&[
        "read-before-apply",
        "follower-reads-unconfirmed",
        "read-without-quorum",
        "fresh-leader-confirms",
    ]);
}
