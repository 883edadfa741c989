//! Kinds of stores: those that encrypt, have classes, refuse trailers, keep everything, are full or may only be read.

use std::sync::{Arc, Mutex};

use anyhow::{Context as _, Result, ensure};
use kvnode_operator::admin_client::AdminClient;
use kvnode_operator::backup::progress::Reporter;
use kvnode_operator::backup::retention::Policy;
use kvnode_operator::backup::run::{Order, RunError, run};
use kvnode_operator::crd::backup::{Verified, Verify};
use kvnode_operator::s3::{Checksums, Credentials, S3ErrorKind, Settings, Sse};
use kvnode_tests::proxy::{Deed, Proxy, Seen};
use kvnode_tests::s3::{READER_KEY, SECRET_KEY};

use crate::bed::{Bed, settings};

type Calls = Arc<Mutex<Vec<Seen>>>;

/// A proxy that remembers every head.
async fn watched(
    server: &str,
    rule: impl Fn(&Seen) -> Deed + Send + Sync + 'static,
) -> Result<(Proxy, Calls)> {
    let calls = Calls::default();
    let all = calls.clone();
    let proxy = Proxy::start(server, move |seen| {
        all.lock().map(|mut all| all.push(seen.clone())).ok();
        rule(seen)
    })
    .await?;
    Ok((proxy, calls))
}

fn seen(calls: &Calls) -> Vec<Seen> {
    calls.lock().map(|all| all.clone()).unwrap_or_default()
}

fn through(bed: &Bed, proxy: &Proxy) -> Settings {
    Settings { endpoint: Some(format!("http://{}", proxy.addr)), ..settings(&bed.s3) }
}

async fn run_by(bed: &Bed, settings: &Settings, order: &Order) -> Result<Verified, RunError> {
    let (store, proof) = (settings.open().await?, bed.proof(Verify::Content));
    let report = run(&store, &AdminClient::tcp(), order, &proof, &Reporter::default()).await?;
    Ok(report.verified)
}

#[tokio::test(flavor = "multi_thread")]
async fn encryption_by_the_store_and_a_storage_class_are_asked_for() -> Result<()> {
    let Some(mut bed) = Bed::start(1).await? else { return Ok(()) };
    bed.fill("k", 50, 1000).await?;
    let (proxy, calls) = watched(&bed.s3.addr, |_| Deed::Pass).await?;
    let aes = Settings {
        sse: Some(Sse::Aes256),
        storage_class: Some("STANDARD_IA".into()),
        ..through(&bed, &proxy)
    };
    ensure!(run_by(&bed, &aes, &bed.order("aes")).await? == Verified::Content);
    let writes: Vec<Seen> = seen(&calls)
        .into_iter()
        .filter(|call| {
            call.method == "PUT" && !call.path.contains("partNumber") || call.path.contains("?uploads")
        })
        .collect();
    ensure!(writes.len() == 3, "begin, meta.json, verified.json: {writes:?}");
    for write in &writes {
        ensure!(write.header("x-amz-server-side-encryption") == Some("AES256"), "{write:?}");
    }
    let begun = writes.iter().find(|write| write.path.contains("?uploads")).context("a multipart upload")?;
    ensure!(begun.header("x-amz-storage-class") == Some("STANDARD_IA"), "{begun:?}");

    // The server here has no keys of a key service: what is asked for is looked at, and answered for it.
    let refused = "<Error><Code>KMS.NotFoundException</Code><Message>no such key</Message></Error>";
    let (proxy, calls) = watched(&bed.s3.addr, move |seen| {
        if seen.header("x-amz-server-side-encryption").is_some() {
            Deed::Answer(400, refused.into())
        } else {
            Deed::Pass
        }
    })
    .await?;
    let kms = Settings { sse: Some(Sse::Kms(Some("key-7".into()))), ..through(&bed, &proxy) };
    let error = run_by(&bed, &kms, &bed.order("kms")).await.err().context("no key")?;
    ensure!(error.to_string().contains("KMS.NotFoundException") && !error.is_transient(), "{error}");
    let begun = seen(&calls).into_iter().find(|call| call.path.contains("?uploads")).context("begun")?;
    ensure!(begun.header("x-amz-server-side-encryption") == Some("aws:kms"), "{begun:?}");
    ensure!(begun.header("x-amz-server-side-encryption-aws-kms-key-id") == Some("key-7"), "{begun:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn stores_that_refuse_trailers_work_with_and_without_checksums() -> Result<()> {
    let Some(mut bed) = Bed::start(1).await? else { return Ok(()) };
    bed.fill("k", 20, 600_000).await?;
    let refuses = "<Error><Code>NotImplemented</Code><Message>trailers are not implemented</Message></Error>";
    let (proxy, calls) = watched(&bed.s3.addr, move |seen| {
        let chunked = seen.header("content-encoding").is_some_and(|value| value.contains("aws-chunked"));
        let trailer = seen.header("x-amz-trailer").is_some() || seen.header("transfer-encoding").is_some();
        if chunked || trailer { Deed::Answer(501, refuses.into()) } else { Deed::Pass }
    })
    .await?;
    for checksums in [Checksums::WhenRequired, Checksums::Sha256] {
        let settings = Settings { checksums, ..through(&bed, &proxy) };
        let name = format!("{checksums:?}").to_lowercase();
        ensure!(run_by(&bed, &settings, &bed.order(&name)).await? == Verified::Content, "{checksums:?}");
    }
    let sums = |call: &Seen| call.header("x-amz-checksum-sha256").is_some();
    let parts: Vec<bool> =
        seen(&calls).iter().filter(|call| call.path.contains("partNumber")).map(sums).collect();
    ensure!(parts.iter().any(|sum| *sum) && parts.iter().any(|sum| !*sum), "{parts:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bucket_that_gets_full_or_may_only_be_read_ends_a_run_in_words_and_leaves_nothing() -> Result<()> {
    let Some(mut bed) = Bed::start(1).await? else { return Ok(()) };
    bed.fill("k", 30, 600_000).await?;
    let full = "<Error><Code>QuotaExceeded</Code><Message>the quota is used up</Message></Error>";
    // The first part still fits; meta.json does not, in a second run.
    for (name, place) in [("part", "partNumber=2"), ("mark", "meta.json")] {
        let (proxy, _) = watched(&bed.s3.addr, move |seen| {
            let hit = seen.method == "PUT" && seen.path.contains(place);
            if hit { Deed::Answer(403, full.into()) } else { Deed::Pass }
        })
        .await?;
        let error = run_by(&bed, &through(&bed, &proxy), &bed.order(name)).await.err().context("full")?;
        let RunError::Store(error) = error else { anyhow::bail!("{error}") };
        ensure!(error.kind == S3ErrorKind::Full && error.to_string().contains("QuotaExceeded"), "{error}");
        println!("{error}");
        ensure!(bed.store.pending_uploads("").await?.is_empty(), "an upload is left");
        ensure!(bed.listing().await?.backups.is_empty(), "half a backup counts");
        // With room again the same run is done, and clears what the cut one left.
        ensure!(run_by(&bed, &settings(&bed.s3), &bed.order(name)).await? == Verified::Content);
        ensure!(bed.listing().await?.unfinished.is_empty(), "remains");
        bed.store.delete(&format!("{}meta.json", bed.listing().await?.backups[0].place.dir)).await?;
    }
    let reader = Credentials::Directory(bed.s3.credentials_of(READER_KEY, SECRET_KEY)?);
    let settings = Settings { credentials: reader, ..settings(&bed.s3) };
    let error = run_by(&bed, &settings, &bed.order("reader")).await.err().context("read-only")?;
    ensure!(!error.is_transient() && error.to_string().contains("AccessDenied"), "{error}");
    Ok(())
}

/// A bucket whose objects are locked: nothing that was written can be destroyed by who writes.
#[tokio::test(flavor = "multi_thread")]
async fn a_locked_bucket_keeps_what_retention_deletes() -> Result<()> {
    let Some(_) = kvnode_tests::tool::need("curl") else { return Ok(()) };
    let Some(mut bed) = Bed::start(1).await? else { return Ok(()) };
    bed.fill("k", 20, 1000).await?;
    bed.s3.make_locked_bucket("locked")?;
    let locked = Settings { bucket: "locked".into(), checksums: Checksums::Sha256, ..settings(&bed.s3) };
    let keep = Policy { last: 1, ..Policy::default() };
    let store = locked.open().await?;
    let mut deleted = 0;
    for name in ["first", "second"] {
        let order = Order { retention: keep, ..bed.order(name) };
        let proof = bed.proof(Verify::Content);
        let report = run(&store, &AdminClient::tcp(), &order, &proof, &Reporter::default()).await?;
        ensure!(report.verified == Verified::Content && report.retention_error.is_none(), "{report:?}");
        deleted += report.deleted;
    }
    ensure!(deleted == 1, "one is hidden: {deleted}");
    let versions = bed.s3.versions("locked", "prod/kv/")?;
    let kept = |file: &str| versions.iter().filter(|key| key.ends_with(file)).count();
    ensure!(kept("/state.bin") == 2 && kept("/meta.json") == 2, "the lock holds: {versions:?}");
    Ok(())
}
