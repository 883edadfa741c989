//! A restore killed while it fetches and while a server loads. A run killed at every request it makes of the store and of the node: before the request arrives, and after it was
//! done but before the answer came. The repeat under the same name ends with one complete, verified backup, whatever
//! was left; and so do two that work at once.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use futures_util::future::try_join_all;
use kvnode_operator::admin_client::AdminClient;
use kvnode_operator::backup::catalog::list;
use kvnode_operator::backup::fetch::fetch;
use kvnode_operator::backup::layout::Layout;
use kvnode_operator::backup::progress::Reporter;
use kvnode_operator::backup::run::{Order, run};
use kvnode_operator::crd::backup::{Verified, Verify};
use kvnode_tests::cluster::content;
use kvnode_tests::node::Node;
use kvnode_tests::proxy::{Deed, Proxy, Seen};
use kvnode_tests::wait::until;
use tokio::sync::Notify;

use crate::bed::{Bed, settings};

const PATIENCE: Duration = Duration::from_mins(1);

/// Each point has a place of its own: a run lists what is there, so that the requests of one would grow with the others.
fn order(bed: &Bed, name: &str) -> Order {
    Order { layout: Layout::new(name), ..bed.order(name) }
}

/// Kills a run at request `number` of the store (or of the node); false if it ended before.
async fn killed_at(bed: &Bed, name: &str, number: usize, after: bool, of_store: bool) -> Result<bool> {
    let reached = Arc::new(Notify::new());
    let rule = {
        let reached = reached.clone();
        move |seen: &Seen| match (seen.number == number, after) {
            (true, true) => Deed::HoldAnswer(reached.clone()),
            (true, false) => Deed::Hold(reached.clone()),
            (false, _) => Deed::Pass,
        }
    };
    let (mut order, mut settings) = (order(bed, name), settings(&bed.s3));
    let target = if of_store { bed.s3.addr.clone() } else { order.nodes[0].clone() };
    let proxy = Proxy::start(&target, rule).await?;
    if of_store {
        settings.endpoint = Some(format!("http://{}", proxy.addr));
    } else {
        order = Order { nodes: vec![proxy.addr.clone()], ..order };
    }
    let store = settings.open().await?;
    let (admin, reporter, proof) = (AdminClient::tcp(), Reporter::default(), bed.proof(Verify::Content));
    let running = run(&store, &admin, &order, &proof, &reporter);
    tokio::select! {
        done = running => {
            ensure!(done?.verified == Verified::Content);
            Ok(false)
        }
        // Dropping the future is the kill: no word to the store, nothing cleaned up.
        () = reached.notified() => Ok(true),
        () = tokio::time::sleep(PATIENCE) => anyhow::bail!("request {number} never came"),
    }
}

async fn check(bed: &Bed, name: &str) -> Result<()> {
    let point = name;
    let order = order(bed, name);
    let report = bed.run(&order).await?;
    ensure!(report.verified == Verified::Content && report.keys == 20, "{point}: {report:?}");
    let listing = list(&bed.store, &order.layout, order.layout.root()).await?;
    ensure!(listing.backups.len() == 1 && listing.backups[0].meta.run == name, "{point}: {listing:?}");
    ensure!(listing.unfinished.is_empty() && listing.faults.is_empty(), "{point}: {listing:?}");
    ensure!(bed.store.pending_uploads(order.layout.root()).await?.is_empty(), "{point}: an upload is left");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_at_every_request_a_repeat_ends_with_one_good_backup() -> Result<()> {
    let Some(mut bed) = Bed::start(1).await? else { return Ok(()) };
    // Two parts.
    bed.fill("k", 20, 600_000).await?;
    let bed = &bed;
    let series = [(true, false), (true, true), (false, false), (false, true)].map(
        async |(of_store, after)| -> Result<usize> {
            for number in 0.. {
                let name = format!("run-{of_store}-{after}-{number}");
                let killed = killed_at(bed, &name, number, after, of_store).await?;
                check(bed, &name).await?;
                if !killed {
                    return Ok(number);
                }
            }
            unreachable!("a run ends")
        },
    );
    let points: usize = try_join_all(series).await?.into_iter().sum();
    println!("killed at {points} points");
    ensure!(points >= 30, "only {points} points");
    Ok(())
}

/// Bytes below a directory.
fn bytes_in(dir: &Path) -> u64 {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    entries
        .map(|entry| match entry.metadata() {
            Ok(meta) if meta.is_dir() => bytes_in(&entry.path()),
            Ok(meta) => meta.len(),
            Err(_) => 0,
        })
        .sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restore_killed_while_it_fetches_and_while_it_loads_ends_whole() -> Result<()> {
    const POINTS: u64 = 25;
    let Some(mut bed) = Bed::start(1).await? else { return Ok(()) };
    bed.fill("k", 20, 600_000).await?;
    let before = bed.cluster.same_content().await?;
    bed.run(&bed.order("r")).await?;
    let backup = bed.listing().await?.backups.pop().context("a backup")?;
    let dir = bed.scratch("into");
    let mut killed = 0;
    for point in 0..POINTS {
        let reporter = Reporter::default();
        let mut progress = reporter.subscribe();
        let least = backup.meta.object.size_bytes * point / POINTS;
        tokio::select! {
            // First the kill: what is ready at once must not win against it.
            biased;
            moved = progress.wait_for(|now| now.bytes > least) => {
                moved?;
                killed += 1;
            }
            fetched = fetch(&bed.store, &backup, None, &dir, &reporter) => drop(fetched?),
        }
        let state = dir.join("state.bin");
        ensure!(!state.exists() || state.metadata()?.len() == backup.meta.snapshot.size_bytes, "half a file");
    }
    ensure!(killed >= POINTS / 2, "killed only {killed} times");
    let state = fetch(&bed.store, &backup, None, &dir, &Reporter::default()).await?;

    let flags = ["--restore".to_owned(), state.display().to_string()];
    let mut restored = Node::new(bed.dir.path(), "restored", &flags);
    let data = bed.dir.path().join("restored");
    for point in 0..POINTS {
        restored.spawn()?;
        let least = backup.meta.snapshot.size_bytes * point / POINTS;
        until("it has loaded so much, or all", PATIENCE, async || {
            bytes_in(&data) >= least || data.join("restored.json").exists()
        })
        .await?;
        restored.kill()?;
    }
    restored.start().await?;
    ensure!(content(&mut restored.client().await?).await? == before, "the content differs");
    println!("killed {killed} times while it fetched, {POINTS} times while it loaded");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn two_at_once_end_with_good_backups_only() -> Result<()> {
    let Some(mut bed) = Bed::start(1).await? else { return Ok(()) };
    bed.fill("k", 20, 1_500_000).await?;
    let order = bed.order("twice");
    let (one, two) = tokio::join!(bed.run(&order), bed.run(&order));
    // Either may take the other's upload for a remain of a dead attempt; then it fails, and says so.
    ensure!(one.is_ok() || two.is_ok(), "{one:?} {two:?}");
    check_all_good(&bed).await?;
    let again = bed.run(&order).await?;
    ensure!(again.verified == Verified::Content);
    check_all_good(&bed).await
}

async fn check_all_good(bed: &Bed) -> Result<()> {
    let listing = bed.listing().await?;
    ensure!(!listing.backups.is_empty() && listing.faults.is_empty());
    for backup in &listing.backups {
        let size = bed.store.size_bytes(&backup.object_key()).await?;
        ensure!(size == Some(backup.meta.object.size_bytes), "{size:?}");
    }
    Ok(())
}
