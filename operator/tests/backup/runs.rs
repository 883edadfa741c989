//! Whole runs.

use anyhow::{Context as _, Result, ensure};
use kvnode_operator::admin_client::AdminClient;
use kvnode_operator::backup::progress::Reporter;
use kvnode_operator::backup::retention::Policy;
use kvnode_operator::backup::run::{Order, run};
use kvnode_operator::crd::backup::{Verified, Verify};
use kvnode_operator::s3::Settings;
use kvnode_tests::proxy::{Deed, Proxy};
use kvnode_tests::wait::{SOON, until};

use crate::bed::{Bed, key, settings};

#[tokio::test(flavor = "multi_thread")]
async fn a_run_is_stored_read_back_and_counted_and_a_repeat_is_the_same_run() -> Result<()> {
    let Some(mut bed) = Bed::start(3).await? else { return Ok(()) };
    bed.fill("k", 500, 1000).await?;
    let order = bed.order("cart-hourly-1");
    let reporter = Reporter::default();
    let progress = reporter.subscribe();
    let report = run(&bed.store, &AdminClient::tcp(), &order, &bed.proof(Verify::Content), &reporter).await?;
    ensure!(report.verified == Verified::Content && report.keys == 500, "{report:?}");
    ensure!(progress.borrow().per_cent() == Some(100), "{:?}", progress.borrow());
    let leader = bed.cluster.leader().await?;
    ensure!(report.source != bed.cluster.nodes[leader].http(), "a follower is the source");
    let listing = bed.listing().await?;
    ensure!(listing.backups.len() == 1 && listing.unfinished.is_empty() && listing.faults.is_empty());
    ensure!(bed.store.pending_uploads("").await?.is_empty());
    ensure!(report.uri == bed.store.uri(&listing.backups[0].place.dir));
    let again = bed.run(&order).await?;
    ensure!(again.uri == report.uri && again.verified == Verified::Content);
    // Without any node a complete run is still known.
    let alone =
        Order { nodes: vec!["127.0.0.1:9".into()], cluster_id: report.cluster_id.parse().ok(), ..order };
    ensure!(bed.run(&alone).await?.uri == report.uri);
    ensure!(bed.listing().await?.backups.len() == 1, "no run happens twice");
    // The node does not keep what nobody needs.
    let snapshots = kvnode_tests::http::get(&report.source, "/v1/snapshots").await?.json()?;
    ensure!(snapshots.as_array().is_some_and(Vec::is_empty), "{snapshots}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn all_ways_to_prove_and_encryption() -> Result<()> {
    let Some(mut bed) = Bed::start(1).await? else { return Ok(()) };
    bed.fill("k", 300, 2000).await?;
    for (mode, verified) in [
        (Verify::Restore, Verified::Restored),
        (Verify::Checksum, Verified::Checksum),
        (Verify::Off, Verified::No),
    ] {
        for secret in [None, Some(key(3))] {
            let name = format!("run-{mode:?}-{}", secret.is_some()).to_lowercase();
            let order = Order { key: secret, ..bed.order(&name) };
            let proof = kvnode_operator::backup::verify::Proof { key: order.key.as_ref(), ..bed.proof(mode) };
            let report = run(&bed.store, &AdminClient::tcp(), &order, &proof, &Reporter::default()).await?;
            ensure!(report.verified == verified, "{mode:?}: {report:?}");
        }
    }
    for backup in bed.listing().await?.backups {
        let object = bed.store.get(&backup.object_key(), 10_000_000).await?;
        let plain = object.starts_with(b"\x89KVNS");
        ensure!(plain == backup.meta.encryption.is_none(), "{}", backup.meta.run);
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn sources_that_break_off_or_die_are_replaced() -> Result<()> {
    let Some(mut bed) = Bed::start(3).await? else { return Ok(()) };
    bed.fill("k", 30, 1_000_000).await?;
    // A stream that is cut goes on at the same byte.
    let follower = bed.cluster.followers().await?[0];
    let cutter = Proxy::start(bed.cluster.nodes[follower].http(), |seen| {
        let stream = seen.path.ends_with("state.bin");
        if stream && seen.number < 12 { Deed::CutAnswer(5_000_000) } else { Deed::Pass }
    })
    .await?;
    let order = Order { nodes: vec![cutter.addr.clone()], ..bed.order("cut") };
    let report = bed.run(&order).await?;
    ensure!(report.attempts == 1 && report.verified == Verified::Content && report.keys == 30, "{report:?}");
    ensure!(cutter.seen() > 6, "nothing was cut");
    // A node that dies in the middle: another one, under a new key, and no remains.
    let order = bed.order("dies");
    let reporter = Reporter::default();
    let progress = reporter.subscribe();
    let (store, proof) = (bed.store.clone(), bed.dir.path().to_owned());
    let proof = kvnode_operator::backup::verify::Proof {
        mode: Verify::Content,
        key: None,
        server: None,
        scratch: &proof,
    };
    let admin = AdminClient::tcp();
    let running = run(&store, &admin, &order, &proof, &reporter);
    tokio::pin!(running);
    let begun = until("bytes have moved", SOON, async || progress.borrow().bytes > 0);
    tokio::select! {
        done = &mut running => anyhow::bail!("too quick: {done:?}"),
        begun = begun => begun?,
    }
    let source = progress.borrow().source.clone().context("a source")?;
    let index = bed.cluster.nodes.iter().position(|node| node.http() == source).context("known")?;
    bed.cluster.nodes[index].kill()?;
    let report = running.await?;
    ensure!(report.verified == Verified::Content && report.keys == 30, "{report:?}");
    ensure!(report.source != source || report.attempts == 1, "{report:?}");
    let listing = bed.listing().await?;
    ensure!(listing.backups.len() == 2 && listing.unfinished.is_empty(), "{listing:?}");
    ensure!(bed.store.pending_uploads("").await?.is_empty());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn retention_deletes_what_it_may_and_finishes_what_broke_off() -> Result<()> {
    let Some(mut bed) = Bed::start(1).await? else { return Ok(()) };
    bed.fill("k", 10, 100).await?;
    for number in 0..4 {
        bed.fill(&format!("more{number}"), 1, 10).await?;
        bed.run(&bed.order(&format!("r{number}"))).await?;
    }
    // Deleting breaks off behind the first object: the tombstone brings it to its end.
    let first = Proxy::start(&bed.s3.addr, {
        let deletes = std::sync::atomic::AtomicUsize::new(0);
        move |seen| {
            let delete = seen.method == "DELETE" && seen.path.contains("snap");
            if delete && deletes.fetch_add(1, std::sync::atomic::Ordering::SeqCst) >= 1 {
                return Deed::Answer(403, "<Error><Code>AccessDenied</Code></Error>".into());
            }
            Deed::Pass
        }
    })
    .await?;
    let hurt =
        Settings { endpoint: Some(format!("http://{}", first.addr)), ..settings(&bed.s3) }.open().await?;
    let keep = Order { retention: Policy { last: 2, ..Policy::default() }, ..bed.order("r4") };
    let report =
        run(&hurt, &AdminClient::tcp(), &keep, &bed.proof(Verify::Content), &Reporter::default()).await?;
    ensure!(report.verified == Verified::Content, "the run is good all the same");
    ensure!(
        report.retention_error.as_deref().is_some_and(|error| error.contains("AccessDenied")),
        "{report:?}"
    );
    ensure!(bed.listing().await?.deleting.len() == 1);
    let report = bed.run(&Order { run: "r5".into(), ..keep }).await?;
    ensure!(report.retention_error.is_none() && report.deleted == 3, "{report:?}");
    let listing = bed.listing().await?;
    let runs: Vec<&str> = listing.backups.iter().map(|backup| backup.meta.run.as_str()).collect();
    ensure!(runs == ["r4", "r5"], "{runs:?}");
    ensure!(bed.store.list("").await?.len() == 6, "no object is left of the others");
    Ok(())
}
