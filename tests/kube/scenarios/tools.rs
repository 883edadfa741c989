//! What other tools make of a KvCluster: kubectl's describe, explain and diff, Flux and Argo CD.

use anyhow::{Context, Result, ensure};
use kvnode_tests::wait::eventually;
use serde_json::{Value as Json, json};

use crate::cluster::{Kv, PATIENCE};
use crate::stage::Stage;

/// The rules of kstatus, which Flux and others use for kinds that they do not know: a word, and why.
fn kstatus(object: &Json) -> (&'static str, String) {
    let meta = &object["metadata"];
    if !meta["deletionTimestamp"].is_null() {
        return ("Terminating", String::new());
    }
    let observed = &object["status"]["observedGeneration"];
    if !observed.is_null() && *observed != meta["generation"] {
        return ("InProgress", format!("generation {observed} was seen"));
    }
    let condition = |kind: &str| {
        let conditions = object["status"]["conditions"].as_array();
        conditions.into_iter().flatten().find(|one| one["type"] == kind).cloned().unwrap_or_default()
    };
    let text = |condition: &Json| condition["message"].as_str().unwrap_or_default().to_owned();
    if condition("Reconciling")["status"] == "True" {
        return ("InProgress", text(&condition("Reconciling")));
    }
    if condition("Stalled")["status"] == "True" {
        return ("Failed", text(&condition("Stalled")));
    }
    let ready = condition("Ready");
    match ready["status"].as_str() {
        // Without a condition Ready, kstatus believes that a kind has none and calls the object current.
        Some("True") | None => ("Current", text(&ready)),
        Some(_) => ("InProgress", text(&ready)),
    }
}

/// Flux and Argo CD wait as long as they should, see faults, and find no difference to repair afterwards.
pub(crate) async fn gitops_sees_it_right(stage: &Stage) -> Result<()> {
    stage.operator().await?;
    let kubectl = stage.kubectl();
    let shop = Kv { name: "shop".into(), kubectl: kubectl.clone() };
    let manifest = json!({
        "apiVersion": "kvnode.dev/v1alpha1", "kind": "KvCluster", "metadata": { "name": "shop" },
        "spec": { "storage": { "size": "1Gi" }, "config": { "clients_max": "7000" }, "services": { "read": { "enabled": false } } },
    })
    .to_string();
    let apply = ["apply", "--server-side", "--field-manager", "gitops", "--filename", "-"];
    kubectl.feed(&apply, &manifest)?;
    let current = async |what: &str| {
        eventually(what, PATIENCE, async || {
            let object = shop.object()?;
            let (word, why) = kstatus(&object);
            ensure!(word != "Failed", "{why}");
            ensure!(
                word != "Current"
                    || object["status"]["ready"].is_null()
                    || object["status"]["ready"] == "3/3"
            );
            Ok((word == "Current" && object["status"]["ready"] == "3/3").then_some(object))
        })
        .await
    };
    let object = current("kstatus calls it current").await?;
    let diff = ["diff", "--server-side", "--field-manager", "gitops", "--filename", "-"];
    kubectl.feed(&diff, &manifest).context("a difference to what was applied")?;
    let explained = kubectl.run(&["describe", "kvc", "shop"])?;
    for word in ["ClusterInitialized", "all members are well", "every voter answers"] {
        ensure!(explained.contains(word), "kubectl describe does not say {word:?}:\n{explained}");
    }
    let wide = kubectl.run(&["get", "kvc", "shop", "--output", "wide"])?;
    ensure!(wide.contains("all members are well"), "{wide}");

    // A spec that cannot be: what is wrong is said, nothing runs into it, and it is over when it is corrected.
    shop.change(&json!({ "config": { "no_such_setting": "1" } }))?;
    eventually("kstatus calls it failed", PATIENCE, async || {
        let object = shop.object()?;
        let (word, why) = kstatus(&object);
        ensure!(word != "Current", "a wrong spec is current");
        Ok((word == "Failed" && why.contains("no_such_setting")).then_some(()))
    })
    .await?;
    shop.change(&json!({ "config": { "no_such_setting": null } }))?;
    let after = current("kstatus calls it current again").await?;
    ensure!(after["status"]["clusterId"] == object["status"]["clusterId"], "{}", after["status"]);
    kubectl.feed(&diff, &manifest).context("a difference to what was applied")?;
    kubectl.run(&["wait", "kvc/shop", "--for=condition=Ready", "--timeout=10s"])?;
    kubectl.run(&["wait", "kvc/shop", "--for=jsonpath={.status.phase}=Ready", "--timeout=10s"]).map(drop)
}

/// The annotation `kvnode.dev/plan: show` tells every step and does none.
pub(crate) async fn a_plan_is_shown(stage: &Stage) -> Result<()> {
    stage.operator().await?;
    let cart = Kv::create(stage, "cart", &json!({ "storage": { "size": "1Gi" } })).await?;
    let before = cart.lives()?;
    cart.kubectl.run(&["annotate", "kvc/cart", "kvnode.dev/plan=show"])?;
    cart.change(&json!({ "replicas": 5, "image": stage.next_image() }))?;
    let plan = eventually("the plan is in the status", PATIENCE, async || {
        let object = cart.object()?;
        let fresh = object["status"]["observedGeneration"] == object["metadata"]["generation"];
        Ok(object["status"]["plan"].as_array().filter(|plan| fresh && !plan.is_empty()).cloned())
    })
    .await?;
    let plan: Vec<&str> = plan.iter().filter_map(Json::as_str).collect();
    say!("{}", plan.join("\n"));
    for wanted in ["start 2 more voter pods", "make 5 voters", "hand leadership over", "restart cart-0"] {
        ensure!(plan.iter().any(|line| line.contains(wanted)), "{wanted:?} is not in {plan:#?}");
    }
    ensure!(cart.lives()? == before, "a plan that is shown was carried out");
    cart.kubectl.run(&["annotate", "kvc/cart", "kvnode.dev/plan-"])?;
    cart.ready(5).await?;
    let images = cart.pods()?;
    ensure!(images.iter().all(|pod| pod["spec"]["containers"][0]["image"] == stage.next_image().as_str()));
    Ok(())
}
