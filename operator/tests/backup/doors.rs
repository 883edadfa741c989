//! Who a store is to us, and who we are to it.

use std::process::{Command, Output, Stdio};
use std::sync::Arc;

use anyhow::{Context as _, Result, ensure};
use axum::Router;
use axum::extract::Request;
use axum::http::Method;
use kvnode_operator::admin_client::AdminClient;
use kvnode_operator::backup::progress::{Report, Reporter};
use kvnode_operator::backup::run::{RunError, run};
use kvnode_operator::crd::backup::{Verified, Verify};
use kvnode_operator::s3::{Settings, Store};
use kvnode_tests::pki::{Authority, Front};
use parking_lot::Mutex;
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use crate::bed::{Bed, settings};

const ROLE: &str = "arn:aws:iam::123456789012:role/kv-backup";
const NOTHING: &str = "<ListBucketResult><Name>backups</Name><KeyCount>0</KeyCount><IsTruncated>false</IsTruncated></ListBucketResult>";
const GRANTED: &str = "<AssumeRoleWithWebIdentityResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\"><AssumeRoleWithWebIdentityResult>\
    <Credentials><AccessKeyId>ASIAGRANTED</AccessKeyId><SecretAccessKey>granted</SecretAccessKey>\
    <SessionToken>session-of-the-role</SessionToken><Expiration>2100-01-01T00:00:00Z</Expiration></Credentials>\
    <AssumedRoleUser><Arn>arn:aws:sts::123456789012:assumed-role/kv-backup/run</Arn><AssumedRoleId>A:run</AssumedRoleId>\
    </AssumedRoleUser></AssumeRoleWithWebIdentityResult></AssumeRoleWithWebIdentityResponse>";

#[tokio::test(flavor = "multi_thread")]
async fn a_store_with_an_authority_of_its_own_is_trusted_by_its_file() -> Result<()> {
    let Some(mut bed) = Bed::start(1).await? else { return Ok(()) };
    bed.fill("k", 20, 600_000).await?;
    let (ours, other) = (Authority::new("store")?, Authority::new("other")?);
    let front = Front::open(&bed.s3.addr, &ours.leaf(&["127.0.0.1"])?).await?;
    let by = |name: &str, authority: Option<&Authority>| -> Result<Settings> {
        let file = bed.scratch(name);
        authority.map(|authority| std::fs::write(&file, authority.pem())).transpose()?;
        let ca_file = authority.map(|_| file);
        Ok(Settings { endpoint: Some(format!("https://{}", front.addr)), ca_file, ..settings(&bed.s3) })
    };
    for (name, authority) in [("none", None), ("other", Some(&other))] {
        let store = by(name, authority)?.open().await?;
        let ended = backed_up(&bed, &store, name).await;
        let RunError::Store(error) = ended.err().context("trusted")? else { anyhow::bail!("no store") };
        ensure!(error.to_string().contains("certificate"), "{error}");
    }
    ensure!(bed.listing().await?.backups.is_empty());
    let store = by("ours", Some(&ours))?.open().await?;
    let report = backed_up(&bed, &store, "good").await?;
    ensure!(report.verified == Verified::Content && report.keys == 20, "{report:?}");
    Ok(())
}

async fn backed_up(bed: &Bed, store: &Store, name: &str) -> Result<Report, RunError> {
    let proof = bed.proof(Verify::Content);
    run(store, &AdminClient::tcp(), &bed.order(name), &proof, &Reporter::default()).await
}

/// No store here takes the credentials of a token service, so both are played: the service is asked with the token of the file,
/// and the store by what it granted.
#[tokio::test(flavor = "multi_thread")]
async fn web_identity_is_exchanged_for_credentials() -> Result<()> {
    let calls = Arc::new(Mutex::new(Vec::new()));
    let (addr, _serving) = played(calls.clone()).await?;
    let dir = tempfile::tempdir()?;
    let token = dir.path().join("token");
    std::fs::write(&token, "token-of-the-pod")?;
    let listed = list(&addr, &token)?;
    let said =
        format!("{}{}", String::from_utf8_lossy(&listed.stdout), String::from_utf8_lossy(&listed.stderr));
    ensure!(listed.status.success(), "{said}");
    let seen = calls.lock().clone();
    let [(asked, body), (used, _)] = seen.as_slice() else { anyhow::bail!("{seen:?}") };
    ensure!(asked.starts_with("POST"), "{asked}");
    for part in ["Action=AssumeRoleWithWebIdentity", "WebIdentityToken=token-of-the-pod", "role%2Fkv-backup"]
    {
        ensure!(body.contains(part), "{part}: {body}");
    }
    ensure!(used.contains("Credential=ASIAGRANTED/") && used.contains("session-of-the-role"), "{used}");
    std::fs::remove_file(&token)?;
    let refused = list(&addr, &token)?;
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    ensure!(!refused.status.success() && said.lines().count() == 1, "{said}");
    ensure!(calls.lock().len() == 2, "without a token nobody is asked");
    Ok(())
}

/// The program as a Job of that ServiceAccount starts it.
fn list(addr: &str, token: &std::path::Path) -> Result<Output> {
    let endpoint = format!("http://{addr}");
    let mut command = Command::new(env!("CARGO_BIN_EXE_kvnode-operator"));
    command
        .args(["list", "--bucket", "backups", "--path-style", "--endpoint", &endpoint])
        .env_clear()
        .env("AWS_WEB_IDENTITY_TOKEN_FILE", token)
        .env("AWS_ROLE_ARN", ROLE)
        .env("AWS_ENDPOINT_URL_STS", &endpoint)
        .env("AWS_EC2_METADATA_DISABLED", "true")
        .stdin(Stdio::null());
    Ok(command.output()?)
}

/// Token service and empty bucket at one address, until the set is dropped.
async fn played(calls: Arc<Mutex<Vec<(String, String)>>>) -> Result<(String, JoinSet<()>)> {
    let answer = move |request: Request| {
        let calls = calls.clone();
        async move {
            let (head, body) = request.into_parts();
            let body = axum::body::to_bytes(body, 1 << 16).await.unwrap_or_default();
            let told = format!("{} {} {:?}", head.method, head.uri, head.headers);
            calls.lock().push((told, String::from_utf8_lossy(&body).into_owned()));
            if head.method == Method::POST { GRANTED } else { NOTHING }
        }
    };
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let addr = listener.local_addr()?.to_string();
    let mut serving = JoinSet::new();
    serving.spawn(async move {
        // It serves until the test is over.
        let _ = axum::serve(listener, Router::new().fallback(answer)).await;
    });
    Ok((addr, serving))
}
