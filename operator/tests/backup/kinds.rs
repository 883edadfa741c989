//! Kinds of stores: those that encrypt, have classes, refuse trailers, are full or may only be read.

use std::sync::{Arc, Mutex};

use anyhow::{Context as _, Result, ensure};
use kvnode_operator::admin_client::AdminClient;
use kvnode_operator::backup::progress::Reporter;
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

/// The server here has no keys of its own and none of a key service: what is asked for is looked at, and refused for it.
#[tokio::test(flavor = "multi_thread")]
async fn encryption_by_the_store_and_a_storage_class_are_asked_for() -> Result<()> {
    let Some(mut bed) = Bed::start(1).await? else { return Ok(()) };
    bed.fill("k", 50, 1000).await?;
    let refused = "<Error><Code>KMS.NotFoundException</Code><Message>no such key</Message></Error>";
    for (sse, kind, key) in [
        (Sse::Aes256, "AES256", None),
        (Sse::Kms(None), "aws:kms", None),
        (Sse::Kms(Some("key-7".into())), "aws:kms", Some("key-7")),
    ] {
        let (proxy, calls) = watched(&bed.s3.addr, move |seen| {
            let is_asked = seen.header("x-amz-server-side-encryption").is_some();
            if is_asked { Deed::Answer(400, refused.into()) } else { Deed::Pass }
        })
        .await?;
        let asking =
            Settings { sse: Some(sse), storage_class: Some("STANDARD_IA".into()), ..through(&bed, &proxy) };
        let error = run_by(&bed, &asking, &bed.order("sealed")).await.err().context("no key")?;
        ensure!(error.to_string().contains("KMS.NotFoundException") && !error.is_transient(), "{error}");
        let begins = |call: &Seen| call.method == "POST" && call.path.contains("?uploads");
        let begun = seen(&calls).into_iter().find(begins).context("begun")?;
        ensure!(begun.header("x-amz-server-side-encryption") == Some(kind), "{begun:?}");
        ensure!(begun.header("x-amz-server-side-encryption-aws-kms-key-id") == key, "{begun:?}");
        ensure!(begun.header("x-amz-storage-class") == Some("STANDARD_IA"), "{begun:?}");
    }
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
        let left = bed.listing().await?.unfinished;
        let of_this = |dir: &&String| dir.trim_end_matches('/').ends_with(&format!("-{name}"));
        ensure!(!left.keys().any(|dir| of_this(&dir)), "remains: {left:?}");
        bed.store.delete(&format!("{}meta.json", bed.listing().await?.backups[0].place.dir)).await?;
    }
    let reader = Credentials::Directory(bed.s3.credentials_of(READER_KEY, SECRET_KEY)?);
    let settings = Settings { credentials: reader, ..settings(&bed.s3) };
    let error = run_by(&bed, &settings, &bed.order("reader")).await.err().context("read-only")?;
    ensure!(!error.is_transient() && error.to_string().contains("AccessDenied"), "{error}");
    Ok(())
}
