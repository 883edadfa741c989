//! Backups to an S3 server in the same namespace, and clusters that begin with one.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use kvnode_tests::wait::{eventually, until};
use serde_json::{Value as Json, json};

use crate::cluster::{Kv, PATIENCE};
use crate::kubectl::Kubectl;
use crate::load::Load;
use crate::stage::Stage;

/// Errors of a bucket are told within this.
const TOLD: Duration = Duration::from_secs(20);
/// Content of the scenarios with faults: a run takes long enough to be hit.
const MEBIBYTES: &str = "256";

/// The bucket as specs name it.
pub(crate) fn store(bucket: &str, secret: &str) -> Json {
    json!({
        "bucket": bucket, "prefix": "prod", "endpoint": "http://s3:8333", "pathStyle": true, "credentialsSecret": secret,
    })
}

/// Starts the S3 server and makes the bucket.
pub(crate) async fn s3(stage: &Stage, bucket: &str) -> Result<()> {
    let kubectl = stage.kubectl();
    stage.clients()?;
    kubectl.apply(&stage.manifest("s3.yaml", &[])?)?;
    kubectl.run(&["wait", "pod/s3", "--for=condition=Ready", "--timeout=180s"])?;
    make_bucket(&kubectl, bucket).await
}

async fn make_bucket(kubectl: &Kubectl, bucket: &str) -> Result<()> {
    // The server can be asked before it can store: its first object says that it can.
    let first = format!("http://s3:8888/buckets/{bucket}/first");
    until("the S3 server stores", PATIENCE, async || {
        kubectl.exec("clients", &["curl", "-sf", "-F", "file=@/etc/passwd", &first]).is_ok()
    })
    .await
}

/// A run by hand.
pub(crate) fn by_hand(kubectl: &Kubectl, name: &str, verify: Option<&str>) -> Result<()> {
    by_hand_of(kubectl, "cart", name, verify)
}

fn by_hand_of(kubectl: &Kubectl, cluster: &str, name: &str, verify: Option<&str>) -> Result<()> {
    let mut spec = json!({ "cluster": cluster });
    if let Some(verify) = verify {
        spec["verify"] = json!(verify);
    }
    let object = json!({
        "apiVersion": "kvnode.dev/v1alpha1", "kind": "KvBackup", "metadata": { "name": name }, "spec": spec,
    });
    kubectl.apply(&object.to_string())
}

/// Waits until a run is complete; its status.
pub(crate) async fn complete(kubectl: &Kubectl, name: &str) -> Result<Json> {
    let status = eventually(&format!("{name} is complete"), PATIENCE * 2, async || {
        let status = kubectl.get(&format!("kvb {name}"))?["status"].clone();
        let is_over = matches!(status["phase"].as_str(), Some("Complete" | "Failed"));
        Ok(is_over.then_some(status))
    })
    .await?;
    ensure!(status["phase"] == "Complete", "{name} failed: {status}");
    Ok(status)
}

/// A file of a stored backup, past S3.
fn stored(status: &Json, file: &str) -> Result<String> {
    let uri = status["uri"].as_str().context("uri")?;
    let path = uri.strip_prefix("s3://").context("uri")?;
    Ok(format!("http://s3:8888/buckets/{path}{file}"))
}

fn stored_meta(kubectl: &Kubectl, status: &Json) -> Result<Json> {
    let text = kubectl.exec("clients", &["curl", "-sf", &stored(status, "meta.json")?])?;
    serde_json::from_str(&text).context(text)
}

/// Keys of all databases and the digest of what a node holds now.
fn held(cluster: &Kv) -> Result<(u64, String)> {
    let meta = cluster.admin(&format!("{}-0", cluster.name), "/v1/snapshots", &["-X", "POST", "-m", "60"])?;
    let keys = meta["keys"].as_array().context("keys")?.iter().filter_map(Json::as_u64).sum();
    Ok((keys, meta["digest"].as_str().context("digest")?.to_owned()))
}

/// By schedule, by hand, and back into a new cluster while the old one is written to.
pub(crate) async fn backups_and_restore(stage: &Stage) -> Result<()> {
    stage.operator().await?;
    s3(stage, "backups").await?;
    let kubectl = stage.kubectl();
    let spec = json!({
        "storage": { "size": "1Gi" },
        "backup": {
            "s3": store("backups", "kv-backup"),
            "schedules": [{ "name": "often", "cron": "* * * * *" }],
            "retention": { "keepLast": 3 },
        },
    });
    let cart = Kv::create(stage, "cart", &spec).await?;
    let load = Load::start(stage, "cart").await?;
    // The first run of a cluster is loaded by a server.
    let first = eventually("a run by schedule", PATIENCE, async || {
        let all = kubectl.list("kvb")?;
        Ok(all.first().and_then(|run| run["metadata"]["name"].as_str()).map(str::to_owned))
    })
    .await?;
    ensure!(first.starts_with("cart-often-"), "{first}");
    let status = complete(&kubectl, &first).await?;
    ensure!(status["verified"] == "Restored", "{status}");
    say!("{first}: {} keys in {}, {}", status["keys"], status["duration"], status["verified"]);
    cart.reason("BackupHealthy", "Recent").await?;
    cart.reason("BackupVerified", "Verified").await?;
    cart.change(&json!({ "backup": { "suspend": true } }))?;
    by_hand(&kubectl, "by-hand", None)?;
    let status = complete(&kubectl, "by-hand").await?;
    ensure!(status["verified"] == "Content" && status["sourcePod"] != cart.leader()?.as_str(), "{status}");
    let table = kubectl.run(&["get", "kvb"])?;
    say!("{}", table.trim_end());
    let meta = stored_meta(&kubectl, &status)?;
    restored(stage, &status, &meta, &load).await?;
    deleted_with_its_objects(&kubectl, &status).await?;
    // The old cluster noticed nothing of all that.
    load.mark()?.without_failure()?;
    load.verify()?;
    Ok(())
}

/// A KvBackup that goes takes its objects along if it is asked to, and says so while the bucket cannot be reached.
async fn deleted_with_its_objects(kubectl: &Kubectl, status: &Json) -> Result<()> {
    kubectl.patch("kvb/by-hand", &json!({ "spec": { "deletionPolicy": "Delete" } }))?;
    until("it is held", PATIENCE, async || {
        kubectl.get("kvb by-hand").is_ok_and(|found| found["metadata"]["finalizers"].is_array())
    })
    .await?;
    let secret = kubectl.get("secret kv-backup")?;
    kubectl.run(&["delete", "secret", "kv-backup"])?;
    kubectl.run(&["delete", "kvb", "by-hand", "--wait=false"])?;
    let told = eventually("it is told why it stays", PATIENCE, async || {
        let found = kubectl.get("kvb by-hand")?;
        let condition = &found["status"]["conditions"][0];
        Ok((condition["reason"] == "Blocked").then(|| condition["message"].to_string()))
    })
    .await?;
    say!("{told}");
    ensure!(told.contains("kv-backup") && told.contains("deletionPolicy: Retain"), "{told}");
    let again = json!({
        "apiVersion": "v1", "kind": "Secret", "metadata": { "name": "kv-backup" }, "data": secret["data"],
    });
    kubectl.apply(&again.to_string())?;
    until("it is gone", PATIENCE * 2, async || kubectl.get("kvb by-hand").is_err()).await?;
    let path = status["uri"].as_str().and_then(|uri| uri.strip_prefix("s3://")).context("uri")?;
    let meta = format!("http://s3:8888/buckets/{path}meta.json");
    ensure!(kubectl.exec("clients", &["curl", "-sf", &meta]).is_err(), "its objects are still there");
    Ok(())
}

/// From a KvBackup, and from the bucket alone.
async fn restored(stage: &Stage, status: &Json, meta: &Json, load: &Load) -> Result<()> {
    let kubectl = stage.kubectl();
    let by_ref = json!({ "backupRef": "by-hand" });
    let by_bucket = json!({ "s3": {
        "cluster": "cart", "backup": "by-hand", "store": store("backups", "kv-backup"),
    }});
    for (name, bootstrap) in [("copy", by_ref), ("again", by_bucket)] {
        let copy = Kv { name: name.to_owned(), kubectl: kubectl.clone() };
        let began = Instant::now();
        copy.apply(&json!({ "storage": { "size": "1Gi" }, "bootstrap": bootstrap }))?;
        copy.admit(stage)?;
        copy.ready(3).await?;
        load.progress(100).await?;
        let (keys, digest) = held(&copy)?;
        ensure!(Some(keys) == status["keys"].as_u64(), "{name} holds {keys} keys: {status}");
        ensure!(meta["snapshot"]["digest"] == digest.as_str(), "{name} holds {digest}: {meta}");
        say!("{name}: {keys} keys and digest {digest} after {:.1} s", began.elapsed().as_secs_f64());
        ensure!(copy.redis("SET new yes")? == "OK");
        // Its id is its own: nobody takes one cluster's nodes for the other's.
        let id = copy.object()?["status"]["clusterId"].clone();
        ensure!(id.is_string() && id != status["clusterId"], "{id}");
    }
    // Once formed, a restored cluster lives as any other.
    let copy = Kv { name: "copy".to_owned(), kubectl };
    let uid = copy.uid("copy-0")?;
    copy.kubectl.run(&["delete", "pod", "copy-0", "--wait=false"])?;
    copy.reborn("copy-0", &uid).await?;
    copy.ready(3).await?;
    ensure!(copy.redis("GET new")? == "yes");
    Ok(())
}

/// What is wrong with a bucket is told within seconds, in words, and what is corrected is taken up.
pub(crate) async fn buckets_that_refuse(stage: &Stage) -> Result<()> {
    stage.operator().await?;
    s3(stage, "backups").await?;
    let kubectl = stage.kubectl();
    let secret = |name: &str, key: &str, secret: &str| {
        kubectl.apply(
            &json!({
                "apiVersion": "v1", "kind": "Secret", "metadata": { "name": name },
                "stringData": { "AWS_ACCESS_KEY_ID": key, "AWS_SECRET_ACCESS_KEY": secret },
            })
            .to_string(),
        )
    };
    secret("wrong", "kube-writer", "wrong")?;
    secret("reader", "kube-reader", "kube-secret")?;
    let cart = Kv::create(stage, "cart", &json!({ "replicas": 1, "storage": { "size": "1Gi" } })).await?;
    for (bucket, secret, word) in [
        ("nobody-made-it", "kv-backup", "NoSuchBucket"),
        ("backups", "reader", "AccessDenied"),
        ("backups", "missing", "missing"),
        ("backups", "wrong", "SignatureDoesNotMatch"),
    ] {
        cart.change(&json!({ "backup": { "s3": store(bucket, secret) } }))?;
        let began = Instant::now();
        let told = eventually(&format!("{word} is told"), PATIENCE, async || {
            let told = cart.reason("BackupHealthy", "BucketUnusable").await?;
            Ok(told.contains(word).then_some(told))
        })
        .await?;
        say!("{told}");
        stage.promises.measured(&format!("a bucket that refuses ({word}) is told"), TOLD, began.elapsed());
        ensure!(!told.contains("kube-secret"), "a secret is told");
    }
    // A run by hand waits meanwhile, and works once the Secret is right: nobody touches the object.
    by_hand(&kubectl, "waits", Some("Checksum"))?;
    secret("wrong", "kube-writer", "kube-secret")?;
    let status = complete(&kubectl, "waits").await?;
    ensure!(status["verified"] == "Checksum", "{status}");
    until("no credentials are in any object but Secrets", PATIENCE, async || {
        let all = kubectl.run(&["get", "kvc,kvb,jobs,pods,sts,events", "--output", "yaml"]);
        all.is_ok_and(|text| !text.contains("kube-secret"))
    })
    .await
}

/// A stored backup in which something is wrong is called Failed, whatever it is: the proof does not believe what stands
/// beside the object, nor the object. A run whose backup is stored already only proves it.
pub(crate) async fn a_wrong_backup_is_called_failed(stage: &Stage) -> Result<()> {
    stage.operator().await?;
    s3(stage, "backups").await?;
    let kubectl = stage.kubectl();
    let spec = json!({
        "replicas": 1, "storage": { "size": "1Gi" }, "backup": { "s3": store("backups", "kv-backup") },
    });
    for name in ["cart", "shop"] {
        let cluster = Kv::create(stage, name, &spec).await?;
        ensure!(cluster.redis(&format!("MSET name {name} 1 a 2 b 3 c"))? == "OK");
    }
    by_hand_of(&kubectl, "shop", "theirs", Some("Off"))?;
    let theirs = complete(&kubectl, "theirs").await?;
    for (name, word) in [
        ("a-changed-byte", "state.bin, byte 128"),
        ("of-another-cluster", "of cluster"),
        ("one-key-more", "meta.json says 5"),
    ] {
        by_hand(&kubectl, name, Some("Off"))?;
        let ours = complete(&kubectl, name).await?;
        match name {
            "a-changed-byte" => {
                let object = stored(&ours, "state.bin")?;
                // Eight bytes, so that at least one of them was another one.
                let changed =
                    format!("curl -sf -r 0-129 {object}; printf 'CHANGED!'; curl -sf -r 138- {object}");
                put(&kubectl, &changed, &object)?;
            }
            "of-another-cluster" => {
                let foreign = format!("curl -sf {}", stored(&theirs, "state.bin")?);
                put(&kubectl, &foreign, &stored(&ours, "state.bin")?)?;
                // Described so that it fits: only the content itself says whose it is.
                let (mut meta, of) = (stored_meta(&kubectl, &ours)?, stored_meta(&kubectl, &theirs)?);
                meta["object"] = of["object"].clone();
                for key in ["sha256", "size_bytes"] {
                    meta["snapshot"][key] = of["snapshot"][key].clone();
                }
                describe(&kubectl, &ours, &meta)?;
            }
            _ => {
                let mut meta = stored_meta(&kubectl, &ours)?;
                meta["snapshot"]["keys"][0] = json!(5);
                describe(&kubectl, &ours, &meta)?;
            }
        }
        kubectl.run(&["delete", "kvb", name, "--wait=true"])?;
        by_hand(&kubectl, name, Some("Content"))?;
        let told = eventually(&format!("{name} is called wrong"), PATIENCE, async || {
            let status = kubectl.get(&format!("kvb {name}"))?["status"].clone();
            Ok((status["verified"] == "Failed").then_some(status))
        })
        .await?;
        say!("{}", kubectl.run(&["get", "kvb", name, "--output", "wide"])?.trim_end());
        ensure!(told["phase"] == "Failed" && told["uri"] == ours["uri"], "{told}");
        ensure!(told["error"].as_str().is_some_and(|error| error.contains(word)), "{told}");
        let cart = Kv { name: "cart".to_owned(), kubectl: kubectl.clone() };
        let told = format!("the cluster tells of {name}");
        eventually(&told, PATIENCE, async || {
            let told = cart.reason("BackupVerified", "VerificationFailed").await?;
            Ok(told.contains(name).then_some(()))
        })
        .await?;
    }
    Ok(())
}

/// Stores what these commands print.
fn put(kubectl: &Kubectl, printing: &str, url: &str) -> Result<()> {
    let script = format!("{{ {printing}; }} | curl -sf -F 'file=@-;filename=changed' {url}");
    kubectl.exec("clients", &["sh", "-c", &script]).map(drop)
}

/// Stores another `meta.json`.
fn describe(kubectl: &Kubectl, status: &Json, meta: &Json) -> Result<()> {
    let url = stored(status, "meta.json")?;
    let put = ["exec", "--stdin", "clients", "--", "curl", "-sf", "-F", "file=@-;filename=meta.json", &url];
    kubectl.feed(&put, &meta.to_string()).map(drop)
}

/// The Job's pod, the source and the operator are killed while a run works, and the founder while it loads.
pub(crate) async fn backups_under_faults(stage: &Stage) -> Result<()> {
    stage.operator().await?;
    s3(stage, "backups").await?;
    let kubectl = stage.kubectl();
    let spec = json!({ "storage": { "size": "2Gi" }, "backup": { "s3": store("backups", "kv-backup") } });
    let cart = Kv::create(stage, "cart", &spec).await?;
    cart.kubectl.exec(&cart.client(), &["kube-load", "fill", "bind:/bind@cart-leader", MEBIBYTES])?;
    let killed = ["pod", "source", "operator"];
    for what in killed {
        let name = format!("kill-{what}");
        by_hand(&kubectl, &name, None)?;
        // As soon as it works, and again when it is under way.
        for moment in ["Running", "Uploading"] {
            let reached = eventually(&format!("{name} is {moment} or further"), PATIENCE, async || {
                let phase = kubectl.get(&format!("kvb {name}"))?["status"]["phase"].clone();
                let phase = phase.as_str().unwrap_or("Pending").to_owned();
                Ok((phase != "Pending" && (moment == "Running" || phase != "Running")).then_some(phase))
            })
            .await?;
            say!("{name}: killed while {reached}");
            kill(stage, what, &name).await?;
        }
        let status = complete(&kubectl, &name).await?;
        ensure!(status["verified"] == "Content", "{status}");
        say!("{name}: {} keys, attempts {}, {}", status["keys"], status["attempts"], status["duration"]);
        cart.ready(3).await?;
    }
    let uploads = "http://s3:8888/buckets/backups/.uploads/";
    let left = kubectl.exec("clients", &["curl", "-s", "-H", "Accept: application/json", uploads])?;
    let entries = serde_json::from_str::<Json>(&left).unwrap_or_default()["Entries"].clone();
    ensure!(entries.as_array().is_none_or(Vec::is_empty), "an upload is left: {left}");
    // The founder is killed while it fetches and while it loads.
    let copy = Kv { name: "copy".to_owned(), kubectl: kubectl.clone() };
    copy.apply(&json!({ "storage": { "size": "2Gi" }, "bootstrap": { "backupRef": "kill-operator" } }))?;
    for part in ["init", "pod"] {
        until(&format!("copy-0 has begun: {part}"), PATIENCE, async || {
            let found = kubectl.get("pod copy-0").unwrap_or_default();
            let init = &found["status"]["initContainerStatuses"][0]["state"];
            let main = &found["status"]["containerStatuses"][0]["state"];
            let wanted = if part == "init" { init } else { main };
            wanted["running"].is_object() || main["running"].is_object()
        })
        .await?;
        kubectl.run(&["delete", "pod", "copy-0", "--force", "--grace-period=0"])?;
    }
    copy.admit(stage)?;
    copy.ready(3).await?;
    let (keys, digest) = held(&copy)?;
    let status = kubectl.get("kvb kill-operator")?["status"].clone();
    let meta = stored_meta(&kubectl, &status)?;
    ensure!(
        Some(keys) == status["keys"].as_u64() && meta["snapshot"]["digest"] == digest.as_str(),
        "{digest}"
    );
    Ok(())
}

async fn kill(stage: &Stage, what: &str, run: &str) -> Result<()> {
    let kubectl = stage.kubectl();
    let now = ["--force", "--grace-period=0", "--ignore-not-found"];
    match what {
        "pod" => {
            let selector = format!("batch.kubernetes.io/job-name={run}");
            kubectl.run(&[&["delete", "pod", "--selector", &selector], &now[..]].concat())?;
        }
        "source" => {
            let source = kubectl.get(&format!("kvb {run}"))?["status"]["sourcePod"].clone();
            let Some(pod) = source.as_str().and_then(|source| source.split('.').next()) else {
                return Ok(());
            };
            kubectl.run(&[&["delete", "pod", pod], &now[..]].concat())?;
        }
        _ => {
            let selector = "app.kubernetes.io/name=kvnode-operator";
            stage.system().run(&[&["delete", "pod", "--selector", selector], &now[..]].concat())?;
            stage.operator_leads().await?;
        }
    }
    Ok(())
}
