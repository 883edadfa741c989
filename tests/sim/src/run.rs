//! One run of a plan, from the first round to the verdict.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use kvnode_tests::checker;
use kvnode_tests::history::{Action, Operation};

use crate::client::{CLIENTS, COUNTER, KEYS, Reply, content};
use crate::counter;
use crate::entropy;
use crate::faults::{Fault, Faults};
use crate::plan::Plan;
use crate::world::World;

/// In this time the cluster has to form, and to heal.
const PATIENCE_MS: u64 = 60_000;
const FINAL_READ_MAX: Duration = Duration::from_secs(10);

/// What a run did.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Simulated milliseconds.
    pub simulated_ms: u64,
    /// Operations of clients: all, and those whose outcome is known.
    pub operations: usize,
    /// See `operations`.
    pub known: usize,
    /// Faults by kind.
    pub faults: BTreeMap<Fault, u64>,
    /// How often the second fault followed the first.
    pub pairs: BTreeMap<(Fault, Fault), u64>,
    /// Leaders that were elected.
    pub elected: usize,
    /// Contents compared at the same entry.
    pub compared: u64,
    /// Leaders that said up to where they would let a read go.
    pub probed: u64,
    /// Milliseconds that healing took.
    pub healed_ms: u64,
    /// What happened, line by line.
    pub trace: String,
}

/// Why a run failed, and what led to it.
#[derive(Clone, Debug)]
pub struct Failure {
    /// What was broken.
    pub why: String,
    /// When.
    pub at_ms: u64,
    /// What happened, line by line.
    pub trace: String,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "at {} ms: {}", self.at_ms, self.why)
    }
}

/// Runs a plan on a thread of its own, once in a process: see [`crate::apart`].
///
/// # Errors
/// What was broken.
///
/// # Panics
/// If the simulation itself does, or is not the first; the program's panics end their tasks, and what follows from that
/// is judged.
pub fn run(plan: &Plan) -> Result<Report, Box<Failure>> {
    static RAN: AtomicBool = AtomicBool::new(false);
    assert!(!RAN.swap(true, Ordering::Relaxed), "a second simulation in one process would not repeat");
    let plan = plan.clone();
    // Before chance is that of the seed: the name must not be.
    let files = files().map_err(|error| failure(&error, None))?;
    let body = move || {
        entropy::seed(plan.seed);
        let mut world = World::new(&plan, files.path()).map_err(|error| failure(&error, None))?;
        let done = perform(&plan, &mut world);
        done.map_err(|error| failure(&error, Some(&world)))
    };
    let thread = std::thread::Builder::new().name("sim".to_owned()).stack_size(8 << 20).spawn(body);
    thread.expect("a thread can be started").join().expect("the simulation does not panic")
}

fn failure(error: &anyhow::Error, world: Option<&World>) -> Box<Failure> {
    let (at_ms, trace) = world.map_or((0, String::new()), |world| (world.now_ms(), world.trace.text()));
    Box::new(Failure { why: format!("{error:#}"), at_ms, trace })
}

/// In memory if there is such a file system: nothing here outlives the run.
fn files() -> Result<tempfile::TempDir> {
    let memory = Path::new("/dev/shm");
    let made = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() };
    made.context("make a directory for the nodes")
}

fn perform(plan: &Plan, world: &mut World) -> Result<Report> {
    while !world.agrees() {
        ensure!(world.now_ms() < PATIENCE_MS, "no cluster within {PATIENCE_MS} ms");
        world.round()?;
    }
    world.trace.note("formed");
    let mut faults = Faults::new(plan, world.now_ms());
    let end = world.now_ms() + plan.chaos_ms;
    while world.now_ms() < end {
        world.round()?;
        faults.round(world)?;
    }
    let healed_ms = heal(world, &mut faults)?;
    final_reads(world)?;
    let history = world.clients.history();
    judge(&history)?;
    let increments = world.clients.increments();
    let known = history.iter().filter(|operation| operation.end.is_some()).count();
    world.note_digests();
    Ok(Report {
        simulated_ms: world.now_ms(),
        operations: history.len() + increments.len(),
        known: known + increments.iter().filter(|one| one.told.is_some()).count(),
        faults: faults.counts,
        pairs: faults.pairs,
        elected: world.invariants.elected(),
        compared: world.invariants.compared,
        probed: world.probes.answered,
        healed_ms,
        trace: world.trace.text(),
    })
}

/// All faults end; then the cluster has to serve and to agree.
fn heal(world: &mut World, faults: &mut Faults) -> Result<u64> {
    let begin = world.now_ms();
    world.trace.note("heal");
    faults.heal(world)?;
    world.clients.stop();
    while !(faults.is_settled() && world.agrees()) {
        if world.now_ms() >= begin + PATIENCE_MS {
            bail!("not healed after {PATIENCE_MS} ms: {}", state(world));
        }
        world.round()?;
        faults.heal_on(world)?;
    }
    Ok(world.now_ms() - begin)
}

fn state(world: &World) -> String {
    let describe = |(number, node): (usize, &crate::node::SimNode)| {
        node.group().map_or_else(
            || format!("node {number}: runs {}, serves not", node.runs()),
            |group| {
                let status = group.status();
                let members: Vec<_> = status
                    .members
                    .iter()
                    .map(|m| format!("{}{}", m.addr, if m.voter { "" } else { "?" }))
                    .collect();
                format!(
                    "node {number}: {:?} term {} applied {:?} last {:?} purged {:?} members {members:?}",
                    status.role, status.term, status.applied, status.last_log, status.purged
                )
            },
        )
    };
    world.nodes.iter().enumerate().map(describe).collect::<Vec<_>>().join("; ")
}

/// Every node is asked for every key once more.
fn final_reads(world: &mut World) -> Result<()> {
    for (number, key) in (0..world.nodes.len()).flat_map(|number| (0..KEYS).map(move |key| (number, key))) {
        let call = world.trace.moment();
        let answer = read(world, number, format!("r{key}"))?;
        let seen = content(&answer).with_context(|| format!("healed node {number}"))?;
        let (action, end) = (Action::Get(seen), Some(world.trace.moment()));
        world.clients.add(Operation { client: CLIENTS, key, action, call, end });
    }
    let increments = world.clients.increments();
    for number in 0..world.nodes.len() {
        let last = match read(world, number, COUNTER.to_owned())? {
            Reply::Bulk(Some(text)) => text.parse()?,
            _ => 0,
        };
        counter::judge(&increments, last).with_context(|| format!("the counter at node {number}"))?;
    }
    Ok(())
}

fn read(world: &mut World, number: usize, key: String) -> Result<Reply> {
    let order = world.clients.order(number, &["GET".to_owned(), key], FINAL_READ_MAX);
    loop {
        world.round()?;
        if let Some(answer) = world.clients.answer(order) {
            return answer.map_err(|error| anyhow::anyhow!("healed node {number} does not serve: {error}"));
        }
    }
}

/// Judges the history key by key.
///
/// # Errors
/// A key whose history no order of its operations explains.
pub fn judge(history: &[Operation]) -> Result<()> {
    for key in 0..KEYS {
        let of_key: Vec<Operation> =
            history.iter().filter(|operation| operation.key == key).copied().collect();
        if let Err(violation) = checker::check(None, &of_key) {
            bail!(
                "key r{key} is not linearizable after {} explained operations: content {:?}, cannot place {:?}",
                violation.explained,
                violation.content,
                violation.stuck
            );
        }
    }
    Ok(())
}
