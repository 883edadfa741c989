//! Ways in and out: the quick start, kubectl, Helm.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use kvnode_tests::binary::repository;
use kvnode_tests::tool;
use kvnode_tests::wait::until;
use serde_json::{Value as Json, json};

use super::runbook::{Shell, blocks};
use crate::cluster::Kv;
use crate::stage::Stage;

/// `deploy/install.yaml`, the chart's copies and its schema are what `make manifests` would write.
pub(crate) async fn manifests_are_fresh(_: &Stage) -> Result<()> {
    let script = repository().join("tests/kube/manifests.sh");
    tool::run(std::process::Command::new(script).arg("--check")).map(drop)
}

/// The section `On Kubernetes` of the README, typed as it stands there.
pub(crate) async fn quick_start_by_kubectl(stage: &Stage) -> Result<()> {
    if stage.has_registry() {
        tool::skip_without_rights("the quick start names the images of the bed");
        return Ok(());
    }
    let kubectl = stage.kubectl();
    let _ = stage.helm(&["uninstall", "kvnode-operator", "--namespace", crate::stage::SYSTEM, "--wait"]);
    stage.make_room()?;
    let shell = Shell::new(stage)?;
    let text = std::fs::read_to_string(repository().join("README.md"))?;
    let start: Vec<&str> = blocks(&text)
        .into_iter()
        .filter_map(|(title, block)| (title == "On Kubernetes").then_some(block))
        .collect();
    ensure!(start.len() == 1, "{} blocks under the heading", start.len());
    let table = shell.run(start[0]).context("the quick start of the README")?;
    say!("{}", table.trim_end());
    ensure!(table.contains("3/3"), "{table}");
    let uri = format!("cart.{}.svc:6380", stage.namespace());
    ensure!(table.contains("rediss://default:") && table.contains(&uri), "the URI is not told: {table}");
    let cart = Kv { name: "cart".into(), kubectl: kubectl.clone() };
    cart.admit(stage)?;
    ensure!(cart.redis("SET fruit pear")? == "OK" && cart.redis("GET fruit")? == "pear");
    children(&cart)?;
    let explained = kubectl.run(&["explain", "kvc.spec.replicas"])?;
    ensure!(explained.contains("Default: 3"), "{explained}");
    kubectl.run(&["delete", "kvcluster/cart", "--wait=true"])?;
    until("the pods are gone", Duration::from_mins(2), async || {
        cart.pods().is_ok_and(|pods| pods.is_empty())
    })
    .await?;
    ensure!(kubectl.list("pvc")?.len() == 3, "the volumes outlive the KvCluster");
    stage.make_room()
}

/// Every child that a user may rely on is there, and pods are spread.
fn children(cart: &Kv) -> Result<()> {
    for child in
        ["statefulset cart", "service cart", "service cart-leader", "service cart-read", "service cart-raft"]
    {
        cart.kubectl.get(child).with_context(|| child.to_owned())?;
    }
    let budget = cart.kubectl.get("poddisruptionbudget cart")?;
    ensure!(budget["spec"]["maxUnavailable"] == 1, "{budget}");
    cart.kubectl.get("networkpolicy cart")?;
    let pods = cart.pods()?;
    let mut nodes: Vec<&str> = pods.iter().filter_map(|pod| pod["spec"]["nodeName"].as_str()).collect();
    nodes.sort_unstable();
    nodes.dedup();
    let all = cart.kubectl.list("nodes")?.len();
    ensure!(nodes.len() == all.min(3), "three pods on {nodes:?} of {all} nodes");
    for pod in &pods {
        let token = pod["spec"]["automountServiceAccountToken"].as_bool();
        ensure!(token == Some(false), "a data pod has credentials: {}", pod["metadata"]["name"]);
    }
    Ok(())
}

/// Install, upgrade, uninstall: no data pod restarts, and clusters outlive the operator.
pub(crate) async fn helm_installs_upgrades_and_leaves(stage: &Stage) -> Result<()> {
    stage.operator().await?;
    let namespace = stage.namespace();
    let made = ["--namespace", namespace, "--set", "spec.storage.size=1Gi"];
    stage.helm(&[&["install", "shop", "charts/kvnode-cluster"][..], &made].concat())?;
    let shop = Kv { name: "shop".into(), kubectl: stage.kubectl() };
    shop.admit(stage)?;
    shop.ready(3).await?;
    ensure!(shop.redis("SET a 1")? == "OK");
    let before = shop.lives()?;
    let definition = monitored(stage, &shop)?;

    // Another operator: it brings another server along, as a newer version does, and tells so.
    let newer = format!("serverImage={}", stage.next_image());
    stage.install(&["log.filter=debug", "podLabels.round=two", &newer])?;
    stage.operator_leads().await?;
    shop.reason("UpdateAvailable", "NewerTemplate").await?;
    shop.ready(3).await?;
    ensure!(shop.lives()? == before, "an upgrade of the operator replaced data pods");

    stage.helm(&["uninstall", "kvnode-operator", "--namespace", crate::stage::SYSTEM, "--wait"])?;
    ensure!(shop.redis("GET a")? == "1" && shop.lives()? == before, "the cluster needs the operator to live");
    shop.object().context("helm uninstall took the KvClusters along")?;

    stage.operator().await?;
    shop.change(&json!({ "storage": { "whenDeleted": "Delete" } }))?;
    shop.ready(3).await?;
    ensure!(shop.lives()? == before, "data pods were replaced");
    stage.helm(&["uninstall", "shop", "--namespace", namespace, "--wait"])?;
    ensure!(shop.kubectl.list("podmonitors")?.is_empty(), "helm uninstall left the PodMonitor");
    if let Some(definition) = definition {
        shop.kubectl.run(&["delete", "crd", definition])?;
    }
    until("the pods are gone", Duration::from_mins(2), async || shop.pods().is_ok_and(|pods| pods.is_empty()))
        .await
}

/// The chart's PodMonitor selects the pods, and what it names answers. Says which definition it had to bring.
fn monitored(stage: &Stage, shop: &Kv) -> Result<Option<&'static str>> {
    const DEFINITION: &str = "podmonitors.monitoring.coreos.com";
    let kubectl = &shop.kubectl;
    let missing = kubectl.run(&["get", "crd", DEFINITION]).is_err();
    if missing {
        kubectl.apply(&stage.manifest("pod-monitor.yaml", &[])?)?;
        kubectl.run(&["wait", "crd", DEFINITION, "--for=condition=Established", "--timeout=30s"])?;
    }
    let change = ["--namespace", stage.namespace(), "--reuse-values", "--set", "monitoring.podMonitor=true"];
    stage.helm(&[&["upgrade", "shop", "charts/kvnode-cluster"][..], &change].concat())?;
    let monitor = kubectl.get("podmonitor shop")?;
    let labels = monitor["spec"]["selector"]["matchLabels"].as_object().context("labels")?;
    let labels: Vec<String> =
        labels.iter().map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default())).collect();
    let pods = kubectl.list(&format!("pods --selector {}", labels.join(",")))?;
    ensure!(pods.len() == 3, "{} pods have {labels:?}", pods.len());
    let endpoint = &monitor["spec"]["podMetricsEndpoints"][0];
    ensure!(endpoint["relabelings"][0]["targetLabel"] == "cluster", "{monitor}");
    for pod in &pods {
        let ports = pod["spec"]["containers"][0]["ports"].as_array().context("ports")?;
        let port =
            ports.iter().find(|port| port["name"] == endpoint["port"]).context("the port by its name")?;
        let (port, path) = (&port["containerPort"], endpoint["path"].as_str().context("path")?);
        let said = scraped(shop, endpoint, path, pod["status"]["podIP"].as_str(), port)?;
        ensure!(said.contains("\nkvnode_raft_term"), "{endpoint}: {said}");
    }
    Ok(missing.then_some(DEFINITION))
}

/// What a Prometheus gets that follows the endpoint: at the address of the pod, by the name and with the certificate that
/// the endpoint names. These are the Secret that the client has mounted.
fn scraped(shop: &Kv, endpoint: &Json, path: &str, ip: Option<&str>, port: &Json) -> Result<String> {
    ensure!(endpoint["scheme"] == "https", "{endpoint}");
    let tls = &endpoint["tlsConfig"];
    for (secret, key) in [
        (&tls["ca"]["secret"], "ca.crt"),
        (&tls["cert"]["secret"], "tls.crt"),
        (&tls["keySecret"], "tls.key"),
    ] {
        ensure!(secret["name"] == "shop-tls" && secret["key"] == key, "{endpoint}");
    }
    let name = tls["serverName"].as_str().context("serverName")?;
    let (url, at) =
        (format!("https://{name}:{port}{path}"), format!("{name}:{port}:{}", ip.context("address")?));
    let mut args = vec!["curl", "-sf", "-m", "5", "--resolve", &at, "--cacert", "/admin/ca.crt"];
    args.extend(["--cert", "/admin/tls.crt", "--key", "/admin/tls.key", &url]);
    shop.kubectl.exec(&shop.client(), &args)
}
