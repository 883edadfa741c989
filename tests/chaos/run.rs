//! One run: a cluster, clients, faults one after the other, then healing, a last look at every key, and the verdict.

use std::fs;
use std::io::{BufWriter, Write as _};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use kvnode_tests::binary;
use kvnode_tests::nemesis::Progress as _;
use kvnode_tests::tool;
use kvnode_tests::wait::SOON;

use crate::clock;
use crate::judge::{Verdict, judge};
use crate::load::{Load, Shared, look_again};
use crate::options::Options;
use crate::plan::{self, Fault, Kind};
use crate::report::{Ledger, Tally};
use crate::site::{Site, Wound, progress};
use crate::slow::{self, Watch};

/// How long a fault may last when the clients do not get on.
const FAULT_MAX: Duration = Duration::from_millis(2500);
/// The same where nobody can get on.
const HOPELESS_MAX: Duration = Duration::from_millis(700);
/// A pause between writes that counts as time without writes.
const PAUSE_NS: u64 = 100_000_000;
/// Histories kept; older ones are removed.
const HISTORIES: usize = 5;
/// Violations that are printed; all are counted.
const PRINTED: usize = 5;

/// Runs it; true if everything held.
pub(crate) async fn run(options: &Options, dir: &Path) -> Result<bool> {
    let mut ledger = match &options.reports {
        Some(reports) => Ledger::open(reports, &options.date)?,
        None => Ledger::default(),
    };
    let seed = options.seed.unwrap_or_else(|| ledger.total().next_seed.max(1));
    let has_clock = clock::is_possible();
    let kinds = options.kinds(has_clock)?;
    let plan = plan::draw(seed, options.faults, &kinds, options.nodes);
    let version = versions(options)?;
    println!("chaos seed {seed}: {version}, {}, {} clients", options.setting(), options.clients);
    if !has_clock {
        println!("no clock jumps: there is no C compiler on PATH (cc)");
    }
    let mut site = Site::found(dir, options).await.context("found the cluster")?;
    let addrs = site.cluster.nodes.iter().map(|node| node.addr().to_owned()).collect();
    let mut load = Load::start(addrs, options.clients, seed);
    let mut tally = Tally { runs: 1, next_seed: seed + 1, ..Tally::default() };
    let tormented = torment(&mut site, &load.shared, &plan, options.calm, &mut tally).await;
    load.stop().await?;
    tally.run_ms = load.shared.record.now() / 1_000_000;
    let mut violations: Vec<String> = tormented.err().map(|error| format!("{error:#}")).into_iter().collect();
    if violations.is_empty() {
        violations.extend(heal(&mut site, &load.shared).await.err().map(|error| format!("{error:#}")));
    }
    violations.extend(site.panics());
    violations.append(&mut site.complaints);
    let verdict = weigh(&site, &load.shared, &mut tally);
    violations.extend(load.shared.record.contradictions());
    violations.extend(verdict.violations);
    tally.node_power_cuts = site.power_cuts;
    tally.reads_refused = site.reads_refused;
    tally.settings.insert(options.setting(), 1);
    let history = write_history(&load.shared, seed)?;
    println!("history: {}", history.display());
    for violation in violations.iter().take(PRINTED) {
        println!("VIOLATION {violation}");
    }
    if !violations.is_empty() {
        println!("{} violations in all; to repeat: {}", violations.len(), options.command(seed));
        let kept = keep(&mut site, dir, seed, &history).await?;
        println!("history, logs and data of the nodes are kept in {}", kept.display());
        tally.failures.push((seed, format!("{} in all: {}", violations.len(), violations[0])));
    }
    println!("this run:\n{}", tally.summary());
    // A run that is meant to fail is no figure of the product.
    if options.reports.is_some() && !options.is_proof() {
        let verdict = if violations.is_empty() { "held" } else { "VIOLATED" };
        let figures = format!(
            "{} operations, {} faults, {} % of the time without writes",
            tally.operations,
            tally.faults.values().sum::<u64>(),
            tally.without_writes_ms * 100 / tally.run_ms.max(1)
        );
        tally.comments.push(format!("{verdict}, {figures}, {version}: {}", options.command(seed)));
        ledger.tally.merge(tally);
        ledger.save()?;
        println!("all runs:\n{}", ledger.total().summary());
    }
    println!("again: {}", options.command(seed));
    Ok(violations.is_empty())
}

/// What is run, and what nodes become.
fn versions(options: &Options) -> Result<String> {
    let programs = [Some(binary::server()), options.other.as_deref()];
    let ask = |program: &Path| Ok(tool::run(Command::new(program).arg("--version"))?.trim().to_owned());
    Ok(programs.into_iter().flatten().map(ask).collect::<Result<Vec<_>>>()?.join(" and "))
}

async fn torment(
    site: &mut Site,
    shared: &Shared,
    plan: &[Fault],
    calm: Duration,
    tally: &mut Tally,
) -> Result<()> {
    progress(shared, 400, SOON).await.context("before the first fault")?;
    for (index, fault) in plan.iter().enumerate() {
        let number = index + 1;
        let named = || format!("fault {number} of {}: {} {}", plan.len(), fault.kind, fault.role);
        one(site, shared, fault, number, tally).await.with_context(named)?;
        rest(shared, calm).await.with_context(named)?;
    }
    Ok(())
}

/// Nothing happens, and the clients get on.
async fn rest(shared: &Shared, time: Duration) -> Result<()> {
    let end = Instant::now() + time;
    while Instant::now() < end {
        progress(shared, 100, SOON).await.context("between two faults")?;
    }
    Ok(())
}

async fn one(
    site: &mut Site,
    shared: &Shared,
    fault: &Fault,
    number: usize,
    tally: &mut Tally,
) -> Result<()> {
    let record = &shared.record;
    let begin = record.now();
    let (first, mut said) = site.hurt(fault.kind, fault.role, shared, true).await?;
    said = format!("{} {} {said}", fault.kind, fault.role);
    last(fault.kind, fault.operations, shared).await;
    let mut wounds = vec![first];
    let is_only = fault.second.is_none();
    *tally.faults.entry(fault.kind.name().to_owned()).or_default() += 1;
    if let Some((kind, role)) = fault.second {
        let (second, whom) = site.hurt(kind, role, shared, false).await?;
        said = format!("{said}, meanwhile {kind} {role} {whom}");
        last(kind, fault.operations, shared).await;
        // Room comes first: nobody promises to start on a full disk.
        let at = usize::from(fault.in_order || matches!(wounds[0], Wound::Full(_)));
        wounds.insert(at, second);
        *tally.faults.entry(kind.name().to_owned()).or_default() += 1;
    }
    let healing = Instant::now();
    record.note(fault.kind.name(), "healing begins".to_owned());
    heal_watched(site, wounds, shared, number).await?;
    record.note(fault.kind.name(), "healed".to_owned());
    let healed_ms = u64::try_from(healing.elapsed().as_millis())?;
    // A stretch in which nothing is the matter, so that the next fault finds something to take.
    progress(shared, fault.operations, SOON).await.context("after healing")?;
    let gap_ms = record.gap(begin, record.now()) / 1_000_000;
    tally.healed_max_ms = tally.healed_max_ms.max(healed_ms);
    let name = if is_only { format!("{}.{}", fault.kind, fault.role) } else { "double".to_owned() };
    tally.gaps_ms.entry(name).or_default().push(gap_ms);
    let seconds = record.now() / 1_000_000_000;
    let operations = record.finished();
    println!(
        "{seconds:5} s  {number:3} {said}: {gap_ms} ms without writes, healed in {healed_ms} ms; \
         {operations} operations so far"
    );
    Ok(())
}

/// Heals what the fault left, and explains itself if that takes long.
async fn heal_watched(site: &mut Site, wounds: Vec<Wound>, shared: &Shared, number: usize) -> Result<()> {
    let is_only = wounds.len() == 1;
    let watch = Watch::begin(&site.cluster.nodes, site.stage.subscribe());
    let healed = async {
        for wound in wounds {
            site.heal(wound, is_only).await?;
        }
        site.settle(shared).await
    }
    .await;
    if watch.end().await? {
        let run = site.dir.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let kept = slow::keep_logs(&site.cluster.nodes, &format!("{run}-fault-{number}"))?;
        println!("the logs of the nodes are in {}", kept.display());
    }
    healed
}

/// A fault lasts until the clients have got on, or clearly cannot.
async fn last(kind: Kind, operations: usize, shared: &Shared) {
    let most = match kind {
        Kind::Pulse | Kind::Transfer | Kind::Clock | Kind::Member | Kind::KillAll | Kind::PowerAll => return,
        Kind::PowerMost => HOPELESS_MAX,
        _ => FAULT_MAX,
    };
    let _ = progress(shared, operations, most).await;
}

/// Everything is over: all hold the same, and a last read of each key joins the history.
async fn heal(site: &mut Site, shared: &Shared) -> Result<()> {
    let nodes = site.cluster.nodes.len();
    site.cluster.await_voters(nodes).await?;
    site.cluster.same_content().await.context("the nodes differ")?;
    let mut client = site.cluster.leader_client().await?;
    look_again(&mut client, shared).await
}

fn weigh(site: &Site, shared: &Shared, tally: &mut Tally) -> Verdict {
    let begin = Instant::now();
    let keys = shared.keys.all();
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let verdict = judge(&keys, &shared.record.operations(), &site.epochs, threads);
    tally.judged_ms = u64::try_from(begin.elapsed().as_millis()).unwrap_or(u64::MAX);
    tally.operations = verdict.checked as u64;
    tally.unknown = verdict.unknown as u64;
    tally.keys = keys.len() as u64;
    tally.keys_with_allowed_loss = verdict.lost as u64;
    tally.without_writes_ms = shared.record.time_in_gaps(PAUSE_NS) / 1_000_000;
    verdict
}

/// Writes the history into the cache, where the last ones stay.
fn write_history(shared: &Shared, seed: u64) -> Result<PathBuf> {
    let dir = tool::cache_dir().join("chaos");
    fs::create_dir_all(&dir)?;
    let path = dir.join(format!("history-{seed}.jsonl"));
    let mut out = BufWriter::new(fs::File::create(&path)?);
    shared.record.write_lines(&shared.keys.all(), &mut out)?;
    out.flush()?;
    let mut histories = Vec::new();
    for entry in fs::read_dir(&dir)? {
        let entry = entry?;
        histories.push((entry.metadata()?.modified()?, entry.path()));
    }
    histories.sort();
    for (_, old) in histories.iter().rev().skip(HISTORIES) {
        fs::remove_file(old)?;
    }
    Ok(path)
}

/// Keeps what is needed to look into a violation.
async fn keep(site: &mut Site, dir: &Path, seed: u64, history: &Path) -> Result<PathBuf> {
    let name = dir.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let kept = dir.with_file_name(name.replace("chaos-", &format!("chaos-kept-{seed}-")));
    fs::create_dir_all(&kept)?;
    fs::copy(history, kept.join("history.jsonl"))?;
    site.keep(&kept).await?;
    Ok(kept)
}
