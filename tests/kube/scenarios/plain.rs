//! The bed and the server without the operator.

use std::time::Duration;

use anyhow::{Result, ensure};
use kvnode_tests::wait::until;
use serde_json::json;

use crate::cluster::pod_ready;
use crate::load::Load;
use crate::stage::Stage;

/// Volumes, names, Services and probes carry a cluster that nobody operates; a planned end of its leader loses nothing.
pub(crate) async fn plain_pods_form_a_cluster(stage: &Stage) -> Result<()> {
    let kubectl = stage.kubectl();
    stage.clients()?;
    kubectl.apply(&stage.manifest("plain.yaml", &[])?)?;
    let running = async || {
        let pods = kubectl.list("pods --selector app=plain").unwrap_or_default();
        pods.len() == 3 && pods.iter().all(|pod| pod["status"]["phase"] == "Running")
    };
    until("three pods run", Duration::from_mins(2), running).await?;

    let namespace = stage.namespace();
    let member = |n: u8| format!("plain-{n}.plain-raft.{namespace}.svc:4920");
    let body = json!({ "members": [member(0), member(1), member(2)] }).to_string();
    let url = "http://plain-0.plain-raft:24920/v1/initialize";
    let form = ["curl", "-sf", "-m", "20", "-H", "content-type: application/json", "-d", &body, url];
    until("the cluster is founded", Duration::from_mins(1), async || kubectl.exec("clients", &form).is_ok())
        .await?;
    let all_ready = async || {
        let pods = kubectl.list("pods --selector app=plain").unwrap_or_default();
        pods.len() == 3 && pods.iter().all(pod_ready)
    };
    until("three pods are ready", Duration::from_mins(1), all_ready).await?;

    let load = Load::plain(stage, "plain:6379").await?;
    let said = kubectl.exec("clients", &["redis-cli", "-h", "plain", "RAFTLEADER"])?;
    let leader = said.split('.').next().unwrap_or_default();
    ensure!(leader.starts_with("plain-"), "{said}");
    kubectl.run(&["delete", "pod", leader])?;
    load.progress(200).await?;
    let phase = load.mark()?;
    say!("planned end of {leader}: {phase:?}");
    phase.without_failure()?;
    until("three pods are ready again", Duration::from_mins(1), all_ready).await?;
    load.verify()?;
    Ok(())
}
