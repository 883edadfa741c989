//! Backups where more goes wrong: a lost Kubernetes node, two operators, an object that somebody changed, and a cluster
//! that is deleted.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use kvnode_tests::tool;
use kvnode_tests::wait::{eventually, until};
use serde_json::{Value as Json, json};

use super::backups::{by_hand, complete, s3, store};
use super::operators::with_second;
use crate::cluster::{Kv, PATIENCE};
use crate::kubectl::{Kubectl, text};
use crate::stage::Stage;

/// A node counts as silent after 40 s, its pods go after 30 more, and the run begins anew after another minute.
const LOST: Duration = Duration::from_mins(6);
const RUNS: usize = 3;

/// The Kubernetes node that a run works on is gone for good: the run is done on another one.
pub(crate) async fn a_run_on_a_lost_node(stage: &Stage) -> Result<()> {
    let Some(bed) = &stage.bed else {
        tool::skip_without_rights("the network of this Kubernetes is not ours to cut");
        return Ok(());
    };
    stage.operator().await?;
    let kubectl = stage.kubectl();
    let names = kubectl.list("nodes")?.iter().map(|node| text(&node["metadata"]["name"])).collect::<Vec<_>>();
    // The first node has the API server; the last is kept free of everything but the run.
    let (victim, others) = names.split_last().context("nodes")?;
    ensure!(!others.is_empty(), "one node cannot be lost");
    let outcome = lost(stage, bed, victim, others).await;
    for node in &names {
        kubectl.run(&["uncordon", node])?;
    }
    // The next scenario spreads its pods over all of them.
    until("every node takes pods again", PATIENCE, async || {
        kubectl.list("nodes").is_ok_and(|all| all.iter().all(|node| node["spec"]["taints"].is_null()))
    })
    .await?;
    outcome
}

async fn lost(stage: &Stage, bed: &crate::bed::Bed, victim: &str, others: &[String]) -> Result<()> {
    let kubectl = stage.kubectl();
    kubectl.run(&["cordon", victim])?;
    s3(stage, "backups").await?;
    let spec = json!({ "storage": { "size": "1Gi" }, "backup": { "s3": store("backups", "kv-backup") } });
    let cart = Kv::create(stage, "cart", &spec).await?;
    for number in 0..50 {
        ensure!(cart.redis(&format!("SET fruit:{number} pear"))? == "OK");
    }
    cart.reason("BackupHealthy", "OnDemand").await?;
    kubectl.run(&["uncordon", victim])?;
    others.iter().try_for_each(|node| kubectl.run(&["cordon", node]).map(drop))?;
    // Loaded by a server as well: long enough to be hit.
    by_hand(&kubectl, "lost", Some("Restore"))?;
    let hit = eventually("the run is on the node that goes", PATIENCE, async || {
        let pods = kubectl.list("pods --selector batch.kubernetes.io/job-name=lost")?;
        let there = pods.iter().find(|pod| pod["spec"]["nodeName"] == victim);
        Ok(there.map(|pod| text(&pod["metadata"]["name"])))
    })
    .await?;
    let before = kubectl.get("job lost")?["metadata"]["uid"].clone();
    let cut = bed.cut(victim)?;
    others.iter().try_for_each(|node| kubectl.run(&["uncordon", node]).map(drop))?;
    say!("{hit} is on {victim}, which is cut off");
    let status = eventually("the run is done elsewhere", LOST, async || {
        let status = kubectl.get("kvb lost")?["status"].clone();
        ensure!(status["phase"] != "Failed", "{status}");
        Ok((status["phase"] == "Complete").then_some(status))
    })
    .await?;
    drop(cut);
    say!("lost: {} keys in {}, {}", status["keys"], status["duration"], status["verified"]);
    ensure!(status["verified"] == "Restored" && status["keys"] == 50, "{status}");
    ensure!(kubectl.get("job lost")?["metadata"]["uid"] != before, "the Job was not made anew");
    cart.ready(3).await
}

/// Two operators that know nothing of each other, one of them killed again and again: each run is made once.
pub(crate) async fn backups_by_two_operators(stage: &Stage) -> Result<()> {
    stage.operator().await?;
    s3(stage, "backups").await?;
    with_second(stage, by_two(stage)).await
}

async fn by_two(stage: &Stage) -> Result<()> {
    let kubectl = stage.kubectl();
    let spec = json!({
        "storage": { "size": "1Gi" },
        "backup": {
            "s3": store("backups", "kv-backup"),
            "schedules": [{ "name": "often", "cron": "* * * * *" }],
            "restoreTest": "Off",
        },
    });
    Kv::create(stage, "cart", &spec).await?;
    let done = |runs: &[Json]| runs.iter().filter(|run| run["status"]["phase"] == "Complete").count();
    let runs = eventually("runs are made", PATIENCE * 3, async || {
        let selector = "app.kubernetes.io/name=kvnode-operator";
        let all = kubectl.list("kvb")?;
        if done(&all) < RUNS {
            stage.system().run(&["delete", "pod", "--selector", selector, "--force", "--grace-period=0"])?;
            stage.operator_leads().await?;
            return Ok(None);
        }
        Ok(Some(all))
    })
    .await?;
    ensure!(runs.iter().all(|run| run["status"]["phase"] != "Failed"), "a run failed: {runs:?}");
    // One directory of the bucket for each run, and no more: none was stored twice.
    let first = text(
        &runs.iter().find(|run| run["status"]["phase"] == "Complete").context("a run")?["status"]["uri"],
    );
    let stored = directories_beside(&kubectl, &first)?;
    let runs = kubectl.list("kvb")?;
    ensure!(
        stored.len() >= done(&runs).min(RUNS) && stored.len() <= runs.len(),
        "{stored:?} of {} runs",
        runs.len()
    );
    say!("{} runs by two operators, {} stored", runs.len(), stored.len());
    Ok(())
}

/// The directories of a bucket among which that of a backup is, read past S3.
fn directories_beside(kubectl: &Kubectl, uri: &str) -> Result<BTreeSet<String>> {
    let path = uri.strip_prefix("s3://").context("uri")?.trim_end_matches('/');
    let (parent, _) = path.rsplit_once('/').context("a directory")?;
    let url = format!("http://s3:8888/buckets/{parent}/?limit=1000");
    let said = kubectl.exec("clients", &["curl", "-sf", "-H", "Accept: application/json", &url])?;
    let listing: Json = serde_json::from_str(&said).with_context(|| said.clone())?;
    let entries = listing["Entries"].as_array().context("Entries")?;
    Ok(entries.iter().map(|entry| text(&entry["FullPath"])).collect())
}

/// What somebody changed in the bucket is refused by a restore, in words, and nothing is founded.
pub(crate) async fn a_changed_object_is_refused(stage: &Stage) -> Result<()> {
    stage.operator().await?;
    s3(stage, "backups").await?;
    let kubectl = stage.kubectl();
    let spec = json!({
        "replicas": 1, "storage": { "size": "1Gi" }, "backup": { "s3": store("backups", "kv-backup") },
    });
    let cart = Kv::create(stage, "cart", &spec).await?;
    ensure!(cart.redis("SET fruit pear")? == "OK");
    by_hand(&kubectl, "good", None)?;
    by_hand(&kubectl, "changed", None)?;
    let status = complete(&kubectl, "good").await?;
    let changed = complete(&kubectl, "changed").await?;
    let path = text(&changed["uri"]).strip_prefix("s3://").map(str::to_owned).context("uri")?;
    let object = format!("http://s3:8888/buckets/{path}state.bin");
    kubectl.exec("clients", &["curl", "-sf", "-F", "file=@/etc/passwd", &object])?;

    let copy = Kv { name: "copy".to_owned(), kubectl: kubectl.clone() };
    let from = |backup: &str| {
        json!({ "replicas": 1, "storage": { "size": "1Gi" }, "bootstrap": { "s3": {
            "cluster": "cart", "backup": backup, "store": store("backups", "kv-backup"),
        }}})
    };
    copy.apply(&from("changed"))?;
    let told = copy.reason("Restored", "RestoreFailed").await?;
    say!("{told}");
    ensure!(told.contains("state.bin is cut off"), "{told}");
    ensure!(copy.object()?["status"]["formation"]["formedAt"].is_null(), "it was founded all the same");
    kubectl.run(&["delete", "kvcluster/copy"])?;
    until("its pod is gone", PATIENCE, async || kubectl.get("pod copy-0").is_err()).await?;
    kubectl.run(&["delete", "pvc", "--selector", "kvnode.dev/cluster=copy"])?;

    copy.apply(&from("good"))?;
    let told = copy.reason("Restored", "RestoreComplete").await?;
    say!("{told}");
    ensure!(told.contains("nothing after") && told.contains("1 keys"), "{told}");
    let restore = copy.object()?["status"]["restore"].clone();
    ensure!(restore["phase"] == "Complete" && restore["index"] == status["index"], "{restore}");
    copy.admit(stage)?;
    copy.ready(1).await?;
    copy.served().await?;
    ensure!(copy.redis("GET fruit")? == "pear");
    Ok(())
}

/// `onDelete: FinalBackup`: a cluster that is deleted is backed up first, and can be had again from that.
pub(crate) async fn a_last_backup_before_deletion(stage: &Stage) -> Result<()> {
    stage.operator().await?;
    s3(stage, "backups").await?;
    let kubectl = stage.kubectl();
    let spec = json!({
        "storage": { "size": "1Gi" },
        "backup": { "s3": store("backups", "kv-backup"), "onDelete": "FinalBackup" },
    });
    let cart = Kv::create(stage, "cart", &spec).await?;
    until("it is to be held", PATIENCE, async || {
        cart.object().is_ok_and(|object| object["metadata"]["finalizers"].is_array())
    })
    .await?;
    ensure!(cart.redis("SET fruit pear")? == "OK");
    kubectl.run(&["delete", "kvcluster/cart", "--wait=false"])?;
    until("it is gone", PATIENCE * 2, async || cart.object().is_err()).await?;
    let last = last(&kubectl)?;
    say!("{}: {}", last["metadata"]["name"], last["status"]["verified"]);
    ensure!(last["status"]["phase"] == "Complete" && last["status"]["verified"] == "Content", "{last}");

    let again = Kv { name: "again".to_owned(), kubectl };
    again.apply(&json!({
        "storage": { "size": "1Gi" }, "bootstrap": { "backupRef": last["metadata"]["name"] },
    }))?;
    again.admit(stage)?;
    again.ready(3).await?;
    again.served().await?;
    ensure!(again.redis("GET fruit")? == "pear");
    Ok(())
}

fn last(kubectl: &Kubectl) -> Result<Json> {
    let mut all = kubectl.list("kvb")?;
    all.retain(|run| text(&run["metadata"]["name"]).starts_with("cart-final-"));
    ensure!(all.len() == 1, "{all:?}");
    all.pop().context("a last backup")
}
