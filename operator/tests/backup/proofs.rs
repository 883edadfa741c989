//! Verification bites: each fault that a store, a person or a program can make ends as Failed, in words.

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use kvnode_operator::backup::catalog::Backup;
use kvnode_operator::backup::layout::{META_FILE, VERIFIED_FILE};
use kvnode_operator::backup::meta::{BackupMeta, VerifiedMark, sha256};
use kvnode_operator::backup::progress::Reporter;
use kvnode_operator::backup::run::Order;
use kvnode_operator::backup::verify::{Proof, verify};
use kvnode_operator::crd::backup::Verify;
use kvnode_tests::cluster::Cluster;

use crate::bed::{Bed, CLUSTER, key};

async fn proved(bed: &Bed, backup: &Backup, mode: Verify) -> Result<VerifiedMark> {
    Ok(verify(&bed.store, &backup.place, &bed.proof(mode), &Reporter::default()).await?)
}

/// Writes a changed meta.json, proves, and puts the old one back.
async fn with_meta(
    bed: &Bed,
    backup: &Backup,
    mode: Verify,
    change: impl FnOnce(&mut BackupMeta),
) -> Result<String> {
    let mut meta = backup.meta.clone();
    change(&mut meta);
    let key = format!("{}{META_FILE}", backup.place.dir);
    bed.store.put(&key, Bytes::from(meta.write())).await?;
    let mark = proved(bed, backup, mode).await?;
    bed.store.put(&key, backup.meta_bytes.clone()).await?;
    ensure!(!mark.ok, "{mode:?} did not bite");
    let error = mark.error.context("why")?;
    println!("VERIFIED=Failed by {mode:?}: {error}");
    Ok(error)
}

#[tokio::test(flavor = "multi_thread")]
async fn each_fault_ends_as_failed() -> Result<()> {
    let Some(mut bed) = Bed::start(1).await? else { return Ok(()) };
    bed.fill("k", 200, 500).await?;
    bed.run(&bed.order("good")).await?;
    let backup = bed.listing().await?.backups.pop().context("a backup")?;
    let object = bed.store.get(&backup.object_key(), 10_000_000).await?;

    // A changed byte, a missing end, bytes behind the end, a missing object: found by every mode that reads.
    for mode in [Verify::Checksum, Verify::Content, Verify::Restore] {
        let mut changed = object.to_vec();
        let middle = changed.len() / 2;
        changed[middle] ^= 1;
        for wrong in [changed, object[..object.len() - 1].to_vec(), [&object[..], b"x"].concat()] {
            bed.store.put(&backup.object_key(), Bytes::from(wrong)).await?;
            let mark = proved(&bed, &backup, mode).await?;
            println!("VERIFIED=Failed by {mode:?}: {}", mark.error.clone().unwrap_or_default());
            ensure!(!mark.ok, "{mode:?} did not bite");
        }
        bed.store.delete(&backup.object_key()).await?;
        ensure!(!proved(&bed, &backup, mode).await?.ok, "{mode:?}: nothing is there");
        bed.store.put(&backup.object_key(), object.clone()).await?;
        ensure!(proved(&bed, &backup, mode).await?.ok, "{mode:?}: it is good again");
    }

    // A count off by one and a digest off by one: whoever counts finds them.
    for mode in [Verify::Content, Verify::Restore] {
        let error = with_meta(&bed, &backup, mode, |meta| meta.snapshot.keys[0] += 1).await?;
        ensure!(error.contains("200") && error.contains("201"), "{error}");
        let error = with_meta(&bed, &backup, mode, |meta| {
            let last = if meta.snapshot.digest.ends_with('0') { "1" } else { "0" };
            meta.snapshot.digest.replace_range(31.., last);
        })
        .await?;
        ensure!(error.contains("digest"), "{error}");
    }
    let error = with_meta(&bed, &backup, Verify::Content, |meta| meta.run = "other".into()).await?;
    ensure!(error.contains("belongs elsewhere"), "{error}");

    // The mark is about one meta.json: it does not count for another.
    let marked = bed.store.get(&format!("{}{VERIFIED_FILE}", backup.place.dir), 10_000).await?;
    ensure!(VerifiedMark::read(&marked, b"another").map_err(anyhow::Error::msg)?.is_none());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_object_of_another_cluster_ends_as_failed() -> Result<()> {
    let Some(mut bed) = Bed::start(1).await? else { return Ok(()) };
    bed.fill("k", 50, 100).await?;
    bed.run(&bed.order("ours")).await?;
    let other = Cluster::start(1, &[]).await?;
    let nodes = vec![other.nodes[0].http().to_owned()];
    bed.run(&Order { nodes, cluster: "other".into(), ..bed.order("theirs") }).await?;
    let listing = bed.listing().await?;
    let find = |run: &str| listing.backups.iter().find(|b| b.meta.run == run).cloned().context("listed");
    let (ours, theirs) = (find("ours")?, find("theirs")?);
    // Their object and their description under our name.
    let foreign = bed.store.get(&theirs.object_key(), 10_000_000).await?;
    bed.store.put(&ours.object_key(), foreign.clone()).await?;
    ensure!(!proved(&bed, &ours, Verify::Content).await?.ok, "another object");
    let key = format!("{}{META_FILE}", ours.place.dir);
    bed.store.put(&key, theirs.meta_bytes.clone()).await?;
    let mark = proved(&bed, &ours, Verify::Content).await?;
    ensure!(!mark.ok && mark.error.as_deref().is_some_and(|e| e.contains("belongs elsewhere")), "{mark:?}");
    // Even a description that was made to fit: the content itself says whose it is.
    let mut forged = ours.meta.clone();
    forged.object.sha256 = sha256(&foreign);
    forged.object.size_bytes = foreign.len() as u64;
    (forged.snapshot.sha256, forged.snapshot.size_bytes) =
        (forged.object.sha256.clone(), forged.object.size_bytes);
    bed.store.put(&key, Bytes::from(forged.write())).await?;
    let mark = proved(&bed, &ours, Verify::Content).await?;
    ensure!(!mark.ok && mark.error.as_deref().is_some_and(|e| e.contains("of cluster")), "{mark:?}");
    println!("VERIFIED=Failed: {}", mark.error.unwrap_or_default());
    // A run asked to back one cluster up never takes another's nodes.
    let wrong = Order { cluster_id: theirs.meta.snapshot.cluster_id.parse().ok(), ..bed.order("mixed") };
    ensure!(bed.run(&wrong).await.is_err_and(|error| error.to_string().contains("belongs to cluster")));
    ensure!(bed.store.list(&bed.layout.cluster(CLUSTER)).await?.len() == 3, "and leaves nothing");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_key_is_told_before_anything_is_read_and_marks_nothing() -> Result<()> {
    let Some(mut bed) = Bed::start(1).await? else { return Ok(()) };
    bed.fill("k", 50, 100).await?;
    let secret = key(1);
    bed.run(&Order { key: Some(secret.clone()), ..bed.order("sealed") }).await?;
    let backup = bed.listing().await?.backups.pop().context("a backup")?;
    let (other, reporter) = (key(2), Reporter::default());
    for wrong in [None, Some(&other)] {
        let proof = Proof { key: wrong, ..bed.proof(Verify::Content) };
        let error = verify(&bed.store, &backup.place, &proof, &reporter).await.unwrap_err();
        ensure!(error.to_string().contains("key"), "{error}");
    }
    ensure!(bed.listing().await?.backups[0].mark.as_ref().is_some_and(|mark| mark.ok), "the good mark stays");
    // A changed byte of a sealed object is not a wrong key.
    let mut object = bed.store.get(&backup.object_key(), 10_000_000).await?.to_vec();
    object[100] ^= 1;
    bed.store.put(&backup.object_key(), Bytes::from(object)).await?;
    let proof = Proof { key: Some(&secret), ..bed.proof(Verify::Content) };
    let mark = verify(&bed.store, &backup.place, &proof, &reporter).await?;
    ensure!(!mark.ok && mark.error.as_deref().is_some_and(|e| e.contains("changed")), "{mark:?}");
    Ok(())
}
