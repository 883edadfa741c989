//! Clusters with TLS, passwords and users: who has the Secret gets in, nobody else does, and everything still works.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use kvnode_tests::pki::Authority;
use kvnode_tests::wait::{eventually, until};
use serde_json::{Value as Json, json};

use crate::cluster::{Kv, PATIENCE};
use crate::load::Load;
use crate::scenarios::backups::{by_hand, complete, s3, store};
use crate::stage::Stage;

/// Until a Secret that changed is in every pod that mounts it, and these have said so.
const SPREAD: Duration = Duration::from_mins(6);

fn spec() -> Json {
    json!({
        "storage": { "size": "1Gi" },
        "tls": { "clients": "Required" },
        "auth": { "users": [{ "name": "reader", "acl": "~w:* +@read +ping" }] },
    })
}

/// A pod that has mounted the Secret of a user.
fn bound(cart: &Kv, stage: &Stage, pod: &str, secret: &str) -> Result<()> {
    let words = [("BOUND_NAME", pod), ("BOUND_SECRET", secret)];
    cart.kubectl.apply(&stage.manifest("bound.yaml", &words)?)?;
    cart.kubectl.run(&["wait", &format!("pod/{pod}"), "--for=condition=Ready", "--timeout=180s"]).map(drop)
}

/// A stock client with nothing but the URI and the authority of the Secret.
fn redis(cart: &Kv, pod: &str, words: &str) -> Result<String> {
    let script =
        format!("redis-cli --no-auth-warning -u \"$(cat /bind/uri)\" --cacert /bind/ca.crt {words} 2>&1");
    Ok(cart.kubectl.exec(pod, &["sh", "-c", &script])?.trim().to_owned())
}

/// What somebody gets who has no password, or another one.
fn stranger(cart: &Kv, login: &str) -> Result<String> {
    let script = format!("redis-cli --no-auth-warning --tls --insecure -h cart -p 6380 {login} GET w:1 2>&1");
    Ok(cart.kubectl.exec("clients", &["sh", "-c", &script])?.trim().to_owned())
}

/// Ready with TLS and passwords; stock clients get in by the Secret; scaling, a rollout and a backup as ever.
pub(crate) async fn doors_are_locked(stage: &Stage) -> Result<()> {
    stage.operator().await?;
    s3(stage, "backups").await?;
    let mut with_backups = spec();
    with_backups["backup"] = json!({ "s3": store("backups", "kv-backup") });
    let cart = Kv::create(stage, "cart", &with_backups).await?;
    stage.clients()?;
    cart.reason("TlsValid", "Served").await?;
    let load = Load::start(stage, "cart").await?;
    bound(&cart, stage, "owner", "cart-auth")?;
    bound(&cart, stage, "reader", "cart-user-reader")?;
    ensure!(redis(&cart, "owner", "SET k v")? == "OK" && redis(&cart, "owner", "GET k")? == "v");
    ensure!(redis(&cart, "reader", "PING")? == "PONG");
    ensure!(redis(&cart, "reader", "GET w:1")? == "1", "{}", redis(&cart, "reader", "GET w:1")?);
    for words in ["GET k", "SET w:1 x", "FLUSHALL"] {
        let said = redis(&cart, "reader", words)?;
        ensure!(said.starts_with("NOPERM"), "{words}: {said}");
    }
    let said = stranger(&cart, "")?;
    ensure!(said.starts_with("NOAUTH"), "{said}");
    let said = stranger(&cart, "-a wrong")?;
    ensure!(said.contains("WRONGPASS"), "{said}");
    // There is no door in the clear, neither at the Service nor at a pod.
    let service = cart.kubectl.get("service cart")?;
    ensure!(service["spec"]["ports"].as_array().is_some_and(|ports| ports.len() == 1), "{service}");
    let plain = ["redis-cli", "-h", "cart-0.cart-raft", "-p", "4920", "PING"];
    let said = cart.kubectl.exec("clients", &plain).unwrap_or_else(|error| error.to_string());
    ensure!(!said.contains("PONG"), "{said}");
    let url = "https://cart-0.cart-raft:24920/v1/status";
    let said = cart.kubectl.exec("clients", &["curl", "-sk", "--max-time", "5", url])?;
    ensure!(said.contains("asks for a client certificate") && !said.contains("node_id"), "{said}");

    for size in [5, 3] {
        cart.scale(size).await?;
        load.progress(100).await?;
        load.mark()?.without_failure()?;
    }
    cart.change(&json!({ "config": { "clients_max": "5000" } }))?;
    cart.ready(3).await?;
    let phase = load.mark()?;
    say!("rolled: {phase:?}");
    phase.without_failure()?;
    by_hand(&cart.kubectl, "by-hand", None)?;
    let status = complete(&cart.kubectl, "by-hand").await?;
    ensure!(status["verified"] == "Content" || status["verified"] == "Restored", "{status}");
    load.verify()?;
    Ok(())
}

/// The authority of the cluster is exchanged under a client that writes all the time: nobody is shown a certificate that they
/// were not told to trust before.
pub(crate) async fn authority_exchanged_under_load(stage: &Stage) -> Result<()> {
    stage.operator().await?;
    let cart = Kv::create(stage, "cart", &json!({ "storage": { "size": "1Gi" } })).await?;
    cart.reason("TlsValid", "Served").await?;
    let load = Load::start(stage, "cart").await?;
    let began = Instant::now();
    let rotate = |word: &str| {
        let word = format!("kvnode.dev/rotate={word}");
        cart.kubectl.run(&["annotate", "--overwrite", "secret", "cart-ca", &word]).map(drop)
    };
    let reached = async |word: &str| {
        let what = format!("the authority is {word:?}");
        until(&what, SPREAD, async || annotation(&cart, "cart-ca").is_ok_and(|now| now.starts_with(word)))
            .await?;
        say!("{what} after {:.0} s", began.elapsed().as_secs_f64());
        load.progress(100).await?;
        load.mark()?.without_failure()
    };
    let told = |pod: &str| cart.kubectl.exec(pod, &["cat", "/bind/ca.crt"]);
    let before = told("load")?;
    rotate("begin")?;
    reached("trusted").await?;
    until("the client is told of both", SPREAD, async || {
        told("load")
            .is_ok_and(|now| now.matches("BEGIN CERTIFICATE").count() == 2 && now.contains(before.trim()))
    })
    .await?;
    rotate("move")?;
    reached("moving").await?;
    rotate("finish")?;
    until("the old authority is forgotten", SPREAD, async || {
        annotation(&cart, "cart-ca").is_ok_and(|word| word.is_empty())
    })
    .await?;
    cart.reason("TlsValid", "Served").await?;
    say!("another authority after {:.0} s", began.elapsed().as_secs_f64());
    // A client that begins now trusts the new one alone, and every connection is made anew.
    cart.admit(stage)?;
    let now = told(&cart.client())?;
    ensure!(now.matches("BEGIN CERTIFICATE").count() == 1 && now != before, "{now}");
    ensure!(cart.redis("SET k v")? == "OK" && cart.redis("GET k")? == "v");
    let leader = cart.object()?["status"]["leader"]["pod"].as_str().context("a leader")?.to_owned();
    cart.kubectl.run(&["delete", "pod", &leader])?;
    cart.ready(3).await?;
    load.progress(100).await?;
    load.mark()?.without_failure()?;
    load.verify().map(drop)
}

fn annotation(cart: &Kv, secret: &str) -> Result<String> {
    let found = cart.kubectl.get(&format!("secret {secret}"))?;
    Ok(found["metadata"]["annotations"]["kvnode.dev/rotate"].as_str().unwrap_or_default().to_owned())
}

/// The certificate and then the passwords change under clients that write all the time, and they notice nothing.
pub(crate) async fn secrets_rotate_under_load(stage: &Stage) -> Result<()> {
    stage.operator().await?;
    let mut with_writer = spec();
    with_writer["auth"]["users"] = json!([{ "name": "writer", "acl": "~w:* +@all -@dangerous" }]);
    let cart = Kv::create(stage, "cart", &with_writer).await?;
    stage.clients()?;
    cart.reason("TlsValid", "Served").await?;
    let loads = [Load::start(stage, "cart").await?, Load::start_as(stage, "cart", "writer").await?];
    let unharmed = async |what: &str| {
        for load in &loads {
            load.progress(100).await?;
            let phase = load.mark()?;
            say!("{what}: {phase:?}");
            phase.without_failure()?;
        }
        Ok::<_, anyhow::Error>(())
    };
    bound(&cart, stage, "owner", "cart-auth")?;
    let ends = |cart: &Kv| Ok::<_, anyhow::Error>(cart.object()?["status"]["tls"]["notAfter"].clone());
    let (before, began) = (ends(&cart)?, Instant::now());
    cart.kubectl.run(&["delete", "secret", "cart-tls"])?;
    eventually("every pod shows another certificate", SPREAD, async || {
        let valid = Kv::holds(&cart.object()?, "TlsValid");
        Ok((valid && ends(&cart)? != before).then_some(()))
    })
    .await?;
    say!("another certificate served after {:.0} s", began.elapsed().as_secs_f64());
    unharmed("certificate changed").await?;
    passwords_rotate(&cart).await?;
    unharmed("passwords rotated").await?;
    loads.iter().try_for_each(|load| load.verify().map(drop))
}

/// That of the user default, and that of a user with a name.
async fn passwords_rotate(cart: &Kv) -> Result<()> {
    let users = [("cart-auth", ["owner", "load"].as_slice()), ("cart-user-writer", &["load-writer"])];
    let password = |pod: &str| cart.kubectl.exec(pod, &["cat", "/bind/password"]);
    let rotate = |word: &str| {
        let word = format!("kvnode.dev/rotate={word}");
        users.iter().try_for_each(|(secret, _)| {
            cart.kubectl.run(&["annotate", "--overwrite", "secret", secret, &word]).map(drop)
        })
    };
    let old = [password("owner")?, password("load-writer")?];
    rotate("begin")?;
    let began = Instant::now();
    for ((secret, pods), old) in users.iter().zip(&old) {
        until(&format!("{secret} hands the new password out"), SPREAD, async || {
            annotation(cart, secret).is_ok_and(|word| word.starts_with("moving"))
        })
        .await?;
        until("clients have the new password", SPREAD, async || {
            pods.iter().all(|pod| password(pod).is_ok_and(|now| now != *old))
        })
        .await?;
    }
    say!("other passwords handed out after {:.0} s", began.elapsed().as_secs_f64());
    let logins = [format!("-a {}", old[0]), format!("--user writer --pass {}", old[1])];
    for login in &logins {
        let said = stranger(cart, login)?;
        ensure!(said == "1", "the old password is refused before the new one is everywhere: {said}");
    }
    ensure!(redis(cart, "owner", "PING")? == "PONG", "and the new one is");
    // Every connection is made anew, by the new password.
    let leader = cart.object()?["status"]["leader"]["pod"].as_str().context("a leader")?.to_owned();
    cart.kubectl.run(&["delete", "pod", &leader])?;
    cart.ready(3).await?;
    rotate("finish")?;
    for login in &logins {
        until("the old password is refused", PATIENCE * 2, async || {
            stranger(cart, login).is_ok_and(|said| said.contains("WRONGPASS"))
        })
        .await?;
    }
    Ok(())
}

/// Clients prove themselves by certificates of an authority that somebody else keeps, and the password of the user default is
/// somebody else's as well. Both are named before they are there.
pub(crate) async fn what_others_keep(stage: &Stage) -> Result<()> {
    stage.operator().await?;
    let cart = Kv { name: "cart".into(), kubectl: stage.kubectl() };
    cart.apply(&json!({
        "replicas": 1,
        "storage": { "size": "1Gi" },
        "tls": { "clients": "Required", "clientAuth": { "secretName": "cart-clients", "user": "CommonName" } },
        "auth": {
            "passwordSecret": { "name": "cart-password" },
            "users": [{ "name": "reader", "acl": "~w:* +@read +ping +acl|whoami" }],
        },
    }))?;
    let authority = Authority::new("clients")?;
    let secret = |name: &str, data: Json| {
        let secret =
            json!({ "apiVersion": "v1", "kind": "Secret", "metadata": { "name": name }, "stringData": data });
        cart.kubectl.apply(&secret.to_string())
    };
    let lacks = async |what: &str| {
        let what = format!("there is no Secret {what}");
        until(&format!("it says that {what}"), PATIENCE, async || {
            cart.kubectl.run(&["describe", "kvc", "cart"]).is_ok_and(|text| text.contains(&what))
        })
        .await
    };
    let touch =
        |why: &str| cart.kubectl.run(&["annotate", "kvc/cart", &format!("touched={why}"), "--overwrite"]);
    lacks("cart-password").await?;
    secret("cart-password", json!({ "key": "first/one\n" }))?;
    touch("password")?;
    lacks("cart-clients").await?;
    secret("cart-clients", json!({ "ca.crt": authority.pem() }))?;
    touch("clients")?;
    let reader = authority.named("reader", &["reader"])?;
    secret("own-certificate", json!({ "tls.crt": reader.cert, "tls.key": reader.key }))?;
    cart.ready(1).await?;
    bound(&cart, stage, "owner", "cart-auth")?;
    let call = |login: &str, words: &str| {
        let script = format!("redis-cli --no-auth-warning --cacert /bind/ca.crt {login} {words} 2>&1");
        cart.kubectl.exec("owner", &["sh", "-c", &script]).map(|said| said.trim().to_owned())
    };
    let (own, bare) = ("--cert /own/tls.crt --key /own/tls.key", "--tls -h cart.$NAMESPACE.svc -p 6380");
    let bare = bare.replace("$NAMESPACE", stage.namespace());
    until("the certificate is the login of its user", PATIENCE, async || {
        call(&format!("{bare} {own}"), "ACL WHOAMI").is_ok_and(|said| said == "reader")
    })
    .await?;
    let said = call(&format!("{bare} {own}"), "SET w:1 x")?;
    ensure!(said.starts_with("NOPERM"), "{said}");
    let by_uri = format!("-u \"$(cat /bind/uri)\" {own}");
    ensure!(call(&by_uri, "SET w:1 x")? == "OK", "a password is another login: {}", call(&by_uri, "PING")?);
    let said = call("-u \"$(cat /bind/uri)\"", "PING").unwrap_or_else(|error| error.to_string());
    ensure!(!said.contains("PONG"), "without a certificate nobody is let in: {said}");
    // Another password: the old one goes on until it is told to end.
    let old = cart.kubectl.exec("owner", &["cat", "/bind/password"])?;
    ensure!(old == "first/one", "{old}");
    secret("cart-password", json!({ "key": "second" }))?;
    until("the Secret hands the new password out", SPREAD, async || {
        annotation(&cart, "cart-auth").is_ok_and(|word| word.starts_with("moving"))
    })
    .await?;
    until("the client has it", SPREAD, async || {
        cart.kubectl.exec("owner", &["cat", "/bind/password"]).is_ok_and(|now| now == "second")
    })
    .await?;
    ensure!(call(&by_uri, "PING")? == "PONG" && call(&format!("{bare} {own} -a {old}"), "PING")? == "PONG");
    cart.kubectl.run(&["annotate", "--overwrite", "secret", "cart-auth", "kvnode.dev/rotate=finish"])?;
    until("the old password is refused", PATIENCE * 2, async || {
        call(&format!("{bare} {own} -a {old}"), "PING").is_ok_and(|said| said.contains("WRONGPASS"))
    })
    .await
}

/// The definition that cert-manager would bring.
const CERTIFICATES: &str = "certificates.cert-manager.io";

/// There is no cert-manager to be had here: the scenario plays its part, writes the Secret that the operator asks it for, and
/// renews it.
pub(crate) async fn cert_manager_is_asked(stage: &Stage) -> Result<()> {
    stage.operator().await?;
    let kubectl = stage.kubectl();
    let missing = kubectl.run(&["get", "crd", CERTIFICATES]).is_err();
    let cart = Kv { name: "cart".into(), kubectl: kubectl.clone() };
    let issuer = json!({ "mode": "CertManager", "issuerRef": { "name": "cart" } });
    cart.apply(&json!({ "storage": { "size": "1Gi" }, "tls": issuer }))?;
    if missing {
        until("it is told that there is no cert-manager", PATIENCE, async || {
            kubectl.run(&["describe", "kvc", "cart"]).is_ok_and(|text| text.contains("install cert-manager"))
        })
        .await?;
        kubectl.apply(&stage.manifest("certificate.yaml", &[])?)?;
        kubectl.run(&["wait", "crd", CERTIFICATES, "--for=condition=Established", "--timeout=30s"])?;
        // It tries again by itself, at longer and longer intervals; whoever touches the object need not wait for it.
        kubectl.run(&["annotate", "kvc/cart", "cert-manager=there"])?;
    }
    let outcome = with_certificates(stage, &cart).await;
    if missing {
        kubectl.run(&["delete", "crd", CERTIFICATES])?;
    }
    outcome
}

async fn with_certificates(stage: &Stage, cart: &Kv) -> Result<()> {
    let asked = eventually("the operator asks for a certificate", PATIENCE * 2, async || {
        Ok(cart.kubectl.get("certificate cart-tls").ok())
    })
    .await?;
    let names = [&asked["spec"]["dnsNames"], &asked["spec"]["ipAddresses"]];
    let names: Vec<&str> =
        names.iter().flat_map(|list| list.as_array()).flatten().filter_map(Json::as_str).collect();
    ensure!(asked["spec"]["issuerRef"]["kind"] == "Issuer" && names.contains(&"localhost"), "{asked}");
    let authority = Authority::new("cart")?;
    let write = |year: i32| {
        let leaf = authority.leaf_until(&names, year)?;
        let secret = json!({
            "apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/tls", "metadata": { "name": "cart-tls" },
            "stringData": { "tls.crt": leaf.cert, "tls.key": leaf.key, "ca.crt": authority.pem() },
        });
        cart.kubectl.apply(&secret.to_string())
    };
    write(2100)?;
    cart.admit(stage)?;
    cart.ready(3).await?;
    cart.reason("TlsValid", "Served").await?;
    let load = Load::start(stage, "cart").await?;
    ensure!(cart.redis("SET k v")? == "OK" && cart.redis("GET k")? == "v");
    // Renewed: the pods show the new one, and nobody notices.
    write(2101)?;
    let began = Instant::now();
    eventually("every pod shows the renewed certificate", SPREAD, async || {
        let object = cart.object()?;
        let ends = object["status"]["tls"]["notAfter"].as_str().unwrap_or_default().to_owned();
        Ok((Kv::holds(&object, "TlsValid") && ends.starts_with("2101")).then_some(()))
    })
    .await?;
    say!("a renewed certificate served after {:.0} s", began.elapsed().as_secs_f64());
    load.progress(100).await?;
    load.mark()?.without_failure()?;
    load.verify().map(drop)
}
