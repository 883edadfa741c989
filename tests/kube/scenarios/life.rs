//! The life of a cluster without faults.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use kvnode_tests::tool;
use kvnode_tests::wait::{eventually, until};
use serde_json::json;

use crate::cluster::{Kv, PATIENCE};
use crate::load::Load;
use crate::stage::Stage;

/// From nothing to a cluster that serves a stock client in another pod and in another namespace.
pub(crate) async fn created_and_served(stage: &Stage) -> Result<()> {
    stage.operator().await?;
    let cart = Kv { name: "cart".into(), kubectl: stage.kubectl() };
    cart.apply(&json!({}))?;
    let mut running = None;
    let took = eventually("Ready after the last pod runs", PATIENCE, async || {
        let pods = cart.pods()?;
        let all = pods.len() == 3 && pods.iter().all(|pod| pod["status"]["phase"] == "Running");
        if all && running.is_none() {
            running = Some(Instant::now());
        }
        let ready = Kv::holds(&cart.object()?, "Ready");
        Ok(running.filter(|_| ready).map(|since| since.elapsed()))
    })
    .await?;
    stage.promises.measured("three nodes Ready after the last pod runs", Duration::from_secs(5), took);

    cart.admit(stage)?;
    ensure!(cart.redis("SET k v")? == "OK" && cart.redis("GET k")? == "v");
    for service in ["cart", "cart-leader", "cart-read"] {
        let far = format!("{service}.{}.svc.cluster.local", stage.namespace());
        until(&format!("{far} serves"), Duration::from_secs(20), async || {
            cart.redis_at(&far, "GET k").is_ok_and(|said| said == "v")
        })
        .await?;
    }
    let object = cart.object()?;
    ensure!(object["status"]["leader"]["pod"] == cart.leader()?.as_str(), "{}", object["status"]["leader"]);
    ensure!(object["status"]["members"].as_array().is_some_and(|all| all.len() == 3), "{}", object["status"]);
    // Nothing happens to a cluster at rest: its object is not written while clients write. A machine that is too busy to
    // answer probes is not at rest.
    let load = Load::start(stage, "cart").await?;
    eventually("nothing is written to the object in a steady state", PATIENCE, async || {
        let before = cart.object()?["metadata"]["resourceVersion"].clone();
        load.progress(2000).await?;
        Ok((cart.object()?["metadata"]["resourceVersion"] == before).then_some(()))
    })
    .await?;
    load.mark()?.without_failure()
}

/// 1, 3, 5, 3, 1 with a writer all the time.
pub(crate) async fn scaled_up_and_down(stage: &Stage) -> Result<()> {
    stage.operator().await?;
    let cart = Kv::create(stage, "cart", &json!({ "replicas": 1, "storage": { "size": "1Gi" } })).await?;
    let load = Load::start(stage, "cart").await?;
    for size in [3, 5, 3, 1] {
        let took = cart.scale(size).await?;
        let phase = load.mark()?;
        say!("to {size} in {:.1} s: {phase:?}", took.as_secs_f64());
        ensure!(phase.acknowledged > 0, "nothing was written");
        phase.without_failure()?;
        let members = cart.members()?;
        ensure!(members.len() as u64 == size, "{members:?}");
        until("surplus pods are gone", PATIENCE, async || {
            cart.pods().is_ok_and(|pods| pods.len() as u64 == size)
        })
        .await?;
    }
    load.verify()?;
    Ok(())
}

/// Hibernation ends all pods and keeps all data and the membership.
pub(crate) async fn hibernated_and_woken(stage: &Stage) -> Result<()> {
    stage.operator().await?;
    let cart = Kv::create(stage, "cart", &json!({ "storage": { "size": "1Gi" } })).await?;
    ensure!(cart.redis("SET kept yes")? == "OK");
    let before = cart.members()?;
    cart.change(&json!({ "hibernate": true }))?;
    cart.reason("Ready", "Hibernated").await?;
    until("no pod is left", PATIENCE, async || cart.pods().is_ok_and(|pods| pods.is_empty())).await?;
    ensure!(cart.kubectl.list("pvc")?.len() == 3, "volumes were deleted");
    cart.change(&json!({ "hibernate": false }))?;
    let began = Instant::now();
    cart.ready(3).await?;
    say!("awake in {:.1} s", began.elapsed().as_secs_f64());
    ensure!(cart.redis("GET kept")? == "yes", "the data is gone");
    let addrs =
        |members: &[(String, String)]| members.iter().map(|(addr, _)| addr.clone()).collect::<Vec<_>>();
    ensure!(addrs(&cart.members()?) == addrs(&before), "the membership changed");
    Ok(())
}

/// A KvCluster of the same name takes the volumes of the deleted one over.
pub(crate) async fn deleted_and_adopted(stage: &Stage) -> Result<()> {
    stage.operator().await?;
    let cart = Kv::create(stage, "cart", &json!({ "storage": { "size": "1Gi" } })).await?;
    ensure!(cart.redis("SET kept yes")? == "OK");
    let id = cart.object()?["status"]["clusterId"].clone();
    cart.kubectl.run(&["delete", "kvcluster/cart", "--wait=true"])?;
    until("no pod is left", PATIENCE, async || cart.pods().is_ok_and(|pods| pods.is_empty())).await?;
    cart.apply(&json!({ "storage": { "size": "1Gi" } }))?;
    // Its Secrets went with it: the volumes are taken over, the password is another one.
    cart.admit(stage)?;
    cart.ready(3).await?;
    ensure!(cart.redis("GET kept")? == "yes", "the data is gone");
    ensure!(cart.object()?["status"]["clusterId"] == id, "another cluster was founded");
    Ok(())
}

/// Two more voters are copied a gigabyte while clients write.
pub(crate) async fn scaled_with_a_gigabyte(stage: &Stage) -> Result<()> {
    stage.operator().await?;
    let cart = Kv::create(stage, "cart", &json!({ "storage": { "size": "8Gi" } })).await?;
    let began = Instant::now();
    cart.kubectl.exec(&cart.client(), &["kube-load", "fill", "bind:/bind@cart-leader", "1024"])?;
    say!("1 GiB written in {:.1} s", began.elapsed().as_secs_f64());
    let load = Load::start(stage, "cart").await?;
    let took = cart.scale(5).await?;
    stage.promises.measured("3 to 5 voters with 1 GiB", Duration::from_mins(1), took);
    let phase = load.mark()?;
    say!("meanwhile: {phase:?}");
    phase.without_failure()?;
    load.verify()?;
    Ok(())
}

/// Volumes grow under running pods: no pod restarts, no command fails, and the template of later volumes follows.
pub(crate) async fn volumes_grow(stage: &Stage) -> Result<()> {
    stage.operator().await?;
    let cart = Kv::create(stage, "cart", &json!({ "storage": { "size": "1Gi" } })).await?;
    let classes = cart.kubectl.list("storageclasses")?;
    let default = "storageclass.kubernetes.io/is-default-class";
    let class = classes.iter().find(|class| class["metadata"]["annotations"][default] == "true");
    if class.is_none_or(|class| class["allowVolumeExpansion"] != true) {
        tool::skip_without_rights("the default storage class of this Kubernetes cannot grow volumes");
        return Ok(());
    }
    let load = Load::start(stage, "cart").await?;
    let before = cart.lives()?;
    cart.change(&json!({ "storage": { "size": "2Gi" } }))?;
    until("three volumes have grown", PATIENCE, async || {
        let claims = cart.kubectl.list("pvc").unwrap_or_default();
        claims.len() == 3 && claims.iter().all(|claim| claim["status"]["capacity"]["storage"] == "2Gi")
    })
    .await?;
    // The set is replaced for it, its pods left alone, in a step of its own.
    until("later volumes will be as large", PATIENCE, async || {
        let set = cart.kubectl.get("statefulset cart").unwrap_or_default();
        set["spec"]["volumeClaimTemplates"][0]["spec"]["resources"]["requests"]["storage"] == "2Gi"
    })
    .await?;
    cart.ready(3).await?;
    ensure!(cart.lives()? == before, "pods were replaced");
    let smaller = cart.change(&json!({ "storage": { "size": "1Gi" } }));
    let refused = smaller.err().map(|error| error.to_string()).unwrap_or_default();
    ensure!(refused.contains("can only grow"), "a volume may shrink: {refused}");
    load.mark()?.without_failure()?;
    load.verify().map(drop)
}
