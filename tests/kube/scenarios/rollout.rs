//! Changes that replace pods.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use kvnode_tests::wait::until;
use serde_json::json;

use crate::cluster::{Kv, PATIENCE};
use crate::load::Load;
use crate::stage::Stage;

/// A setting that needs a restart, then another image: each pod once, the leader last, and no command fails.
pub(crate) async fn settings_and_image_roll(stage: &Stage) -> Result<()> {
    stage.operator().await?;
    let cart = Kv::create(stage, "cart", &json!({ "storage": { "size": "1Gi" } })).await?;
    let load = Load::start(stage, "cart").await?;
    let next = stage.next_image();
    for (what, change) in
        [("setting", json!({ "config": { "clients_max": "5000" } })), ("image", json!({ "image": next }))]
    {
        let before = cart.lives()?;
        let began = Instant::now();
        cart.change(&change)?;
        cart.ready(3).await?;
        let phase = load.mark()?;
        say!("{what} rolled in {:.1} s: {phase:?}", began.elapsed().as_secs_f64());
        phase.without_failure()?;
        let after = cart.lives()?;
        let kept: Vec<_> = after.iter().filter(|life| before.contains(life)).collect();
        ensure!(kept.is_empty(), "{kept:?} did not restart");
    }
    let pods = cart.pods()?;
    let images: Vec<_> = pods.iter().map(|pod| pod["spec"]["containers"][0]["image"].clone()).collect();
    ensure!(images.iter().all(|image| *image == next.as_str()), "{images:?}");
    load.verify()?;
    Ok(())
}

/// Another size of the servers needs no restart where Kubernetes can do that, and only a rolling one where it cannot.
pub(crate) async fn resized_in_place(stage: &Stage) -> Result<()> {
    stage.operator().await?;
    let size = |cpu: &str| json!({ "requests": { "cpu": cpu, "memory": "64Mi" }, "limits": { "cpu": "2" } });
    let spec = json!({ "storage": { "size": "1Gi" }, "resources": size("50m") });
    let cart = Kv::create(stage, "cart", &spec).await?;
    let load = Load::start(stage, "cart").await?;
    let (before, began) = (cart.lives()?, Instant::now());
    cart.change(&json!({ "resources": size("60m") }))?;
    cart.ready(3).await?;
    let phase = load.mark()?;
    say!("resized in {:.1} s: {phase:?}", began.elapsed().as_secs_f64());
    phase.without_failure()?;
    for pod in cart.pods()? {
        let asked = &pod["spec"]["containers"][0]["resources"]["requests"]["cpu"];
        ensure!(asked == "60m", "{asked}: {}", pod["metadata"]);
    }
    if cart.lives()? == before {
        ensure!(phase.connects == 0, "{phase:?}");
    } else {
        let events = cart.kubectl.run(&["get", "events", "--output", "yaml"])?;
        ensure!(events.contains("cannot be resized in place"), "restarted, and nobody says why");
        say!("this Kubernetes does not resize in place: the pods were restarted");
    }
    load.verify()?;
    Ok(())
}

/// The first pod of an image that does not exist stops the rollout; the others serve on, and the next change goes through.
pub(crate) async fn a_bad_image_is_superseded(stage: &Stage) -> Result<()> {
    stage.operator().await?;
    let cart = Kv::create(stage, "cart", &json!({ "storage": { "size": "1Gi" } })).await?;
    let load = Load::start(stage, "cart").await?;
    let before = cart.lives()?;
    cart.change(&json!({ "image": "kvnode-server:no-such-version", "imagePullPolicy": "Never" }))?;
    until("one pod cannot start", PATIENCE, async || {
        cart.pods().is_ok_and(|pods| {
            let waits = |pod: &serde_json::Value| {
                pod["status"]["containerStatuses"][0]["state"]["waiting"].is_object()
            };
            pods.iter().any(waits)
        })
    })
    .await?;
    load.progress(500).await?;
    let after = cart.lives()?;
    let kept = after.iter().filter(|life| before.contains(life)).count();
    ensure!(kept == 2, "{kept} of three pods were left alone");
    cart.change(&json!({ "image": stage.next_image(), "imagePullPolicy": "IfNotPresent" }))?;
    cart.ready(3).await?;
    load.mark()?.without_failure()?;
    load.verify()?;
    Ok(())
}

/// Each Kubernetes node is drained in turn, as for an upgrade of the machines.
pub(crate) async fn nodes_are_drained(stage: &Stage) -> Result<()> {
    stage.operator().await?;
    let cart = Kv::create(stage, "cart", &json!({ "storage": { "size": "1Gi" } })).await?;
    let load = Load::start(stage, "cart").await?;
    let mut longest = Duration::ZERO;
    for node in cart.kubectl.list("nodes")? {
        let node = node["metadata"]["name"].as_str().unwrap_or_default().to_owned();
        let drained = drain(&cart, &node);
        // Whatever happened, the next scenario needs the node.
        cart.kubectl.run(&["uncordon", &node])?;
        drained?;
        cart.ready(3).await?;
        let phase = load.mark()?;
        say!("{node} drained: {phase:?}");
        phase.without_failure()?;
        longest = longest.max(phase.gap);
    }
    say!("longest time without a write: {:.2} s", longest.as_secs_f64());
    load.verify()?;
    Ok(())
}

/// Drains the data pods of one node; the pods of the suite stay where they are.
fn drain(cart: &Kv, node: &str) -> Result<()> {
    let selector = format!("kvnode.dev/cluster={}", cart.name);
    let mut args = vec!["drain", node, "--pod-selector", &selector, "--timeout=120s"];
    args.extend(["--ignore-daemonsets", "--delete-emptydir-data"]);
    cart.kubectl.run(&args)?;
    let left = cart.pods()?.iter().filter(|pod| pod["spec"]["nodeName"] == node).count();
    ensure!(left == 0, "{left} pods are still on {node}");
    Ok(())
}
