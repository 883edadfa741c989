//! Fetching: what a server takes and what is refused.

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use kvnode_operator::backup::catalog::{Target, choose};
use kvnode_operator::backup::fetch::{FetchError, fetch, fetch_bare};
use kvnode_operator::backup::preview::Preview;
use kvnode_operator::backup::progress::Reporter;
use kvnode_operator::backup::run::Order;
use kvnode_operator::s3::Settings;
use kvnode_tests::cluster::content;
use kvnode_tests::node::Node;
use kvnode_tests::proxy::{Deed, Proxy};

use crate::bed::{Bed, key, settings};

#[tokio::test(flavor = "multi_thread")]
async fn a_restored_cluster_holds_what_the_old_one_held_while_that_writes_on() -> Result<()> {
    let Some(mut bed) = Bed::start(3).await? else { return Ok(()) };
    bed.fill("k", 300, 3000).await?;
    let before = bed.cluster.same_content().await?;
    let secret = key(5);
    bed.run(&Order { key: Some(secret.clone()), ..bed.order("r") }).await?;
    bed.fill("later", 50, 100).await?;
    let listing = bed.listing().await?;
    let (backup, warning) = choose(&listing.backups, &Target::Newest).map_err(anyhow::Error::msg)?;
    ensure!(warning.is_none());
    let told = Preview::of(backup, warning).told(jiff::Timestamp::now());
    ensure!(told.contains("300 keys") && told.contains("nothing after"), "{told}");
    // The way is cut twice; then it is there, and a repeat does not fetch it again.
    let cut = Proxy::start(&bed.s3.addr, |seen| match seen.number {
        0 => Deed::CutAnswer(100_000),
        1 => Deed::Cut,
        _ => Deed::Pass,
    })
    .await?;
    let store =
        Settings { endpoint: Some(format!("http://{}", cut.addr)), ..settings(&bed.s3) }.open().await?;
    let dir = bed.scratch("fetched");
    let reporter = Reporter::default();
    let state = fetch(&store, backup, Some(secret.clone()), &dir, &reporter).await?;
    let requests = cut.seen();
    ensure!(fetch(&store, backup, Some(secret), &dir, &reporter).await? == state && cut.seen() == requests);
    let flags = ["--restore".to_owned(), state.display().to_string()];
    let mut restored = Node::new(bed.dir.path(), "restored", &flags);
    restored.start().await?;
    ensure!(content(&mut restored.client().await?).await? == before, "the content differs");
    // Started again it goes on with what it has.
    restored.client().await?.ok("SET after restore").await?;
    restored.terminate().await?;
    restored.start().await?;
    ensure!(content(&mut restored.client().await?).await?.len() == before.len() + 1);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn damaged_foreign_and_locked_ones_leave_no_state_bin() -> Result<()> {
    let Some(mut bed) = Bed::start(1).await? else { return Ok(()) };
    bed.fill("k", 100, 1000).await?;
    bed.run(&bed.order("r")).await?;
    let backup = bed.listing().await?.backups.pop().context("a backup")?;
    let object = bed.store.get(&backup.object_key(), 10_000_000).await?;
    let mut changed = object.to_vec();
    changed[5000] ^= 4;
    let reporter = Reporter::default();
    for (name, wrong) in [("changed", changed), ("cut", object[..9000].to_vec())] {
        bed.store.put(&backup.object_key(), Bytes::from(wrong)).await?;
        let dir = bed.scratch(name);
        let refused = fetch(&bed.store, &backup, None, &dir, &reporter).await;
        ensure!(matches!(refused, Err(FetchError::Wrong(_))), "{refused:?}");
        ensure!(!dir.join("state.bin").exists());
    }
    let mut foreign = backup.clone();
    foreign.place.cluster_id = "00000000000000aa".into();
    let refused = fetch(&bed.store, &foreign, None, &bed.scratch("foreign"), &reporter).await;
    ensure!(matches!(refused, Err(FetchError::Wrong(_))));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bare_state_bin_of_either_program_is_taken() -> Result<()> {
    let Some(bed) = Bed::start(1).await? else { return Ok(()) };
    let fixture = include_bytes!("../../../tests/fixtures/0.1.0/snapshot/state.bin");
    bed.store.put("somewhere/state.bin", Bytes::from_static(fixture)).await?;
    let (state, found) =
        fetch_bare(&bed.store, "somewhere/state.bin", &bed.scratch("bare"), &Reporter::default()).await?;
    ensure!(found.plain.size_bytes == fixture.len() as u64);
    let flags = ["--restore".to_owned(), state.display().to_string()];
    let mut restored = Node::new(bed.dir.path(), "restored", &flags);
    restored.start().await?;
    ensure!(!content(&mut restored.client().await?).await?.is_empty());
    Ok(())
}
