//! The S3 client against a real server.

use anyhow::{Result, ensure};
use kvnode_operator::backup::layout::Layout;
use kvnode_operator::s3::multipart::Multipart;
use kvnode_operator::s3::{Checksums, Chunks, Credentials, S3ErrorKind, Settings};
use kvnode_tests::proxy::{Deed, Proxy};
use kvnode_tests::s3::{ACCESS_KEY, READER_KEY, S3Server, SECRET_KEY};

use crate::bed::settings;

#[tokio::test(flavor = "multi_thread")]
async fn the_probe_tells_access_errors_apart() -> Result<()> {
    let Some(s3) = S3Server::start().await? else { return Ok(()) };
    let good = settings(&s3);
    s3.make_bucket(&good.bucket).await?;
    let layout = Layout::new("prod");
    let probe = async |settings: Settings| settings.open().await?.probe(&layout, "nonce").await;
    let allowed = probe(good.clone()).await?;
    ensure!(allowed.delete);
    ensure!(good.open().await?.list("").await?.is_empty(), "the probe leaves nothing");
    let kind = async |settings: Settings| probe(settings).await.map(|_| ()).unwrap_err().kind;
    ensure!(
        kind(Settings { bucket: "nobody-made-it".into(), ..good.clone() }).await == S3ErrorKind::NoBucket
    );
    let wrong = Credentials::Directory(s3.credentials_of(ACCESS_KEY, "wrong")?);
    ensure!(kind(Settings { credentials: wrong, ..good.clone() }).await == S3ErrorKind::BadCredentials);
    let unknown = Credentials::Directory(s3.credentials_of("nobody", SECRET_KEY)?);
    ensure!(kind(Settings { credentials: unknown, ..good.clone() }).await == S3ErrorKind::BadCredentials);
    let reader = Credentials::Directory(s3.credentials_of(READER_KEY, SECRET_KEY)?);
    ensure!(kind(Settings { credentials: reader, ..good.clone() }).await == S3ErrorKind::AccessDenied);
    let nobody = Settings { endpoint: Some("http://127.0.0.1:9".into()), ..good.clone() };
    ensure!(kind(nobody).await == S3ErrorKind::Unreachable);
    let missing = Credentials::Directory("/does/not/exist".into());
    ensure!(kind(Settings { credentials: missing, ..good.clone() }).await == S3ErrorKind::BadCredentials);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bucket_where_nothing_may_be_deleted_and_a_full_one_are_told() -> Result<()> {
    let Some(s3) = S3Server::start().await? else { return Ok(()) };
    let good = settings(&s3);
    s3.make_bucket(&good.bucket).await?;
    let layout = Layout::new("");
    let denied = "<Error><Code>AccessDenied</Code><Message>no</Message></Error>";
    let keeper = Proxy::start(&s3.addr, move |seen| match seen.method.as_str() {
        "DELETE" => Deed::Answer(403, denied.into()),
        _ => Deed::Pass,
    })
    .await?;
    let through =
        |proxy: &Proxy| Settings { endpoint: Some(format!("http://{}", proxy.addr)), ..good.clone() };
    // The signature covers the host, so the proxy's own is the one that counts.
    let allowed = through(&keeper).open().await?.probe(&layout, "a").await?;
    ensure!(!allowed.delete);
    let full = "<Error><Code>QuotaExceeded</Code><Message>full</Message></Error>";
    let full = Proxy::start(&s3.addr, move |seen| match seen.method.as_str() {
        "PUT" => Deed::Answer(403, full.into()),
        _ => Deed::Pass,
    })
    .await?;
    let error = through(&full).open().await?.probe(&layout, "b").await.unwrap_err();
    ensure!(error.kind == S3ErrorKind::Full, "{error}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn large_objects_survive_cut_connections_both_ways() -> Result<()> {
    let Some(s3) = S3Server::start().await? else { return Ok(()) };
    let good = settings(&s3);
    s3.make_bucket(&good.bucket).await?;
    let content: Vec<u8> = (0..20_000_000_u32).map(|at| u8::try_from(at * 7 % 251).unwrap_or(0)).collect();
    for checksums in [Checksums::WhenRequired, Checksums::Sha256] {
        // The first try of each part is cut, or answered by a busy server.
        let hurt = Proxy::start(&s3.addr, move |seen| match (seen.number, seen.method.as_str()) {
            (1, "PUT") => Deed::Cut,
            (2, "PUT") => Deed::Answer(503, "<Error><Code>SlowDown</Code></Error>".into()),
            (3, "PUT") => Deed::CutAnswer(10),
            _ => Deed::Pass,
        })
        .await?;
        let settings =
            Settings { endpoint: Some(format!("http://{}", hurt.addr)), checksums, ..good.clone() };
        let store = settings.open().await?;
        let upload = Multipart::begin(&store, "large").await?;
        ensure!(store.pending_uploads("lar").await?.len() == 1);
        let mut parts = Vec::new();
        for (number, part) in (1..).zip(content.chunks(8 * 1024 * 1024)) {
            let mut chunks = Chunks::default();
            part.chunks(100_000).for_each(|chunk| chunks.push(bytes::Bytes::copy_from_slice(chunk)));
            parts.push(upload.put(number, chunks).await?);
        }
        upload.complete(parts).await?;
        ensure!(store.pending_uploads("").await?.is_empty());
        ensure!(store.size_bytes("large").await? == Some(content.len() as u64));
    }
    // The first part, and then those that come side by side.
    let cut = Proxy::start(&s3.addr, |seen| match seen.number {
        0 | 2 | 4 => Deed::CutAnswer(1_000_000),
        1 | 5 => Deed::Cut,
        _ => Deed::Pass,
    })
    .await?;
    let store = Settings { endpoint: Some(format!("http://{}", cut.addr)), ..good }.open().await?;
    let (mut download, mut read) = (store.download("large"), Vec::new());
    while let Some(chunk) = download.next().await? {
        read.extend_from_slice(&chunk);
    }
    ensure!(read == content, "{} bytes of {}", read.len(), content.len());
    ensure!(cut.seen() >= 8, "nothing was cut: {} connections", cut.seen());
    store.put("empty", bytes::Bytes::new()).await?;
    ensure!(store.download("empty").next().await?.is_none());
    let absent = store.download("absent").next().await;
    ensure!(absent.as_ref().is_err_and(|error| error.kind == S3ErrorKind::NotFound), "{absent:?}");
    Ok(())
}
