//! More than one operator, and one with few rights.

use std::time::Duration;

use anyhow::{Result, ensure};
use kvnode_tests::wait::until;
use serde_json::json;

use crate::cluster::Kv;
use crate::load::Load;
use crate::stage::{SYSTEM, Stage};

/// Where the second operator lives.
const SECOND: &str = "kvnode-second";

/// Two operators that know nothing of each other scale one cluster; then the one whose rights end at the namespace does
/// it alone, and leaves other namespaces alone.
pub(crate) async fn two_operators_at_once(stage: &Stage) -> Result<()> {
    stage.operator().await?;
    let cart = Kv::create(stage, "cart", &json!({ "storage": { "size": "1Gi" } })).await?;
    let load = Load::start(stage, "cart").await?;
    with_second(stage, together_and_alone(stage, &cart, &load)).await
}

/// A second operator, which cares for the namespace of the scenario alone, while that runs.
pub(super) async fn with_second(stage: &Stage, play: impl Future<Output = Result<()>>) -> Result<()> {
    let only = format!("watchNamespaces={{{}}}", stage.namespace());
    let values = ["crds.install=false", "rbac.clusterReads=false", "replicas=1", &only];
    let outcome = match stage.install_as("second", SECOND, &values) {
        Ok(()) => play.await,
        Err(error) => Err(error),
    };
    // Whatever happened, the next scenario wants one operator.
    let _ = stage.helm(&["uninstall", "second", "--namespace", SECOND, "--wait"]);
    stage.system().run(&["delete", "namespace", SECOND, "--ignore-not-found", "--wait=false"])?;
    outcome
}

async fn together_and_alone(stage: &Stage, cart: &Kv, load: &Load) -> Result<()> {
    for size in [5, 3] {
        let took = cart.scale(size).await?;
        let phase = load.mark()?;
        say!("two operators scaled to {size} in {:.1} s: {phase:?}", took.as_secs_f64());
        phase.without_failure()?;
        ensure!(cart.members()?.len() as u64 == size, "{:?}", cart.members()?);
    }
    let account = format!("system:serviceaccount:{SECOND}:second-kvnode-operator");
    for (verb, what) in
        [("list", "pods"), ("patch", "statefulsets.apps"), ("get", "nodes"), ("get", "secrets")]
    {
        let may = ["auth", "can-i", verb, what, "--all-namespaces", "--as", &account];
        let said = stage.system().run(&may).map_or_else(|error| error.to_string(), |said| said);
        ensure!(!said.trim().starts_with("yes"), "the second operator may {verb} {what} everywhere");
    }
    stage.helm(&["uninstall", "kvnode-operator", "--namespace", SYSTEM, "--wait"])?;
    let next = stage.next_image();
    cart.change(&json!({ "image": next }))?;
    cart.ready(3).await?;
    let pods = cart.pods()?;
    ensure!(
        pods.iter().all(|pod| pod["spec"]["containers"][0]["image"] == next.as_str()),
        "nothing was rolled"
    );
    let phase = load.mark()?;
    say!("the operator of one namespace rolled an image: {phase:?}");
    phase.without_failure()?;
    let elsewhere = Kv { name: "elsewhere".into(), kubectl: stage.system() };
    elsewhere.apply(&json!({}))?;
    cart.scale(1).await?;
    let untouched = elsewhere.object()?["status"].is_null();
    elsewhere.kubectl.run(&["delete", "kvcluster/elsewhere"])?;
    ensure!(untouched, "the second operator cares for another namespace");
    load.verify()?;
    until("its surplus pods are gone", Duration::from_mins(1), async || {
        cart.pods().is_ok_and(|pods| pods.len() == 1)
    })
    .await
}
