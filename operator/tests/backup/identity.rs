//! Web identity: a pod's ServiceAccount token becomes credentials at a token service, without any Secret.

use std::process::{Command, Output, Stdio};
use std::sync::{Arc, Mutex};

use anyhow::{Result, ensure};
use kvnode_tests::proxy::{Deed, Proxy, Seen};
use kvnode_tests::s3::{ACCESS_KEY, S3Server, SECRET_KEY};

use crate::bed::settings;

const ROLE: &str = "arn:aws:iam::123456789012:role/backup";

fn answer(token: &str) -> String {
    format!(
        "<AssumeRoleWithWebIdentityResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\">\
         <AssumeRoleWithWebIdentityResult><Credentials><AccessKeyId>{ACCESS_KEY}</AccessKeyId>\
         <SecretAccessKey>{SECRET_KEY}</SecretAccessKey><SessionToken>{token}</SessionToken>\
         <Expiration>2099-01-01T00:00:00Z</Expiration></Credentials></AssumeRoleWithWebIdentityResult>\
         </AssumeRoleWithWebIdentityResponse>"
    )
}

/// A pod as the webhook of web identity makes it: two variables, a projected token, nothing else of AWS.
fn probe(s3: &str, sts: &str, token_file: &std::path::Path) -> Result<Output> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kvnode-operator"));
    command
        .args(["probe", "--bucket", "backups", "--path-style", "--endpoint", &format!("http://{s3}")])
        .env_clear()
        .env("AWS_ROLE_ARN", ROLE)
        .env("AWS_WEB_IDENTITY_TOKEN_FILE", token_file)
        .env("AWS_ENDPOINT_URL_STS", format!("http://{sts}"))
        .env("AWS_EC2_METADATA_DISABLED", "true")
        .stdin(Stdio::null());
    Ok(command.output()?)
}

fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_account_token_opens_the_bucket_and_a_refusal_is_told() -> Result<()> {
    let Some(s3) = S3Server::start().await? else { return Ok(()) };
    s3.make_bucket(&settings(&s3).bucket).await?;
    let dir = tempfile::tempdir()?;
    let file = dir.path().join("token");
    std::fs::write(&file, "header.payload.signature")?;
    let asked: Arc<Mutex<Vec<Seen>>> = Arc::default();
    let sts = {
        let asked = asked.clone();
        Proxy::start(&s3.addr, move |seen| {
            asked.lock().map(|mut all| all.push(seen.clone())).ok();
            Deed::Answer(200, answer("temporary"))
        })
        .await?
    };
    let calls: Arc<Mutex<Vec<Seen>>> = Arc::default();
    let bucket = {
        let calls = calls.clone();
        Proxy::start(&s3.addr, move |seen| {
            calls.lock().map(|mut all| all.push(seen.clone())).ok();
            Deed::Pass
        })
        .await?
    };
    let done = probe(&bucket.addr, &sts.addr, &file)?;
    let asked = asked.lock().map_err(|_| anyhow::anyhow!("poisoned"))?.clone();
    ensure!(asked.len() == 1, "one exchange serves all requests: {} ({})", asked.len(), said(&done));
    let calls = calls.lock().map_err(|_| anyhow::anyhow!("poisoned"))?.clone();
    ensure!(calls.len() >= 5, "{}", said(&done));
    for call in &calls {
        ensure!(call.header("x-amz-security-token") == Some("temporary"), "{call:?}");
        ensure!(call.header("authorization").is_some_and(|line| line.contains(ACCESS_KEY)), "{call:?}");
    }
    ensure!(done.status.success(), "{}", said(&done));

    // The token service refuses, and a missing token: settings to be corrected, in one line.
    let denied = "<ErrorResponse><Error><Code>InvalidIdentityToken</Code><Message>no such provider</Message></Error></ErrorResponse>";
    let refuses = Proxy::start(&s3.addr, move |_| Deed::Answer(400, denied.into())).await?;
    for (sts, file) in [(&refuses, file.clone()), (&sts, dir.path().join("missing"))] {
        let refused = probe(&s3.addr, &sts.addr, &file)?;
        ensure!(refused.status.code() == Some(78), "{}", said(&refused));
        ensure!(said(&refused).lines().count() == 1, "{}", said(&refused));
        println!("{}", said(&refused).trim_end());
    }
    Ok(())
}
