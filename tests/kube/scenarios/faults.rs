//! What goes wrong, and what may not.

use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use kvnode_tests::tool;
use kvnode_tests::wait::{eventually, until};
use serde_json::json;

use crate::bed::Bed;
use crate::cluster::{Kv, PATIENCE};
use crate::kubectl::text;
use crate::load::Load;
use crate::stage::Stage;

const GRACEFUL: Duration = Duration::from_millis(300);
const FORCED: Duration = Duration::from_millis(1500);
const LABEL: Duration = Duration::from_secs(1);

/// The leader's pod is deleted, gracefully and by force; clients go on and the leader Service follows.
pub(crate) async fn leader_pod_deleted(stage: &Stage) -> Result<()> {
    stage.operator().await?;
    let cart = Kv::create(stage, "cart", &json!({ "storage": { "size": "1Gi" } })).await?;
    let load = Load::start(stage, "cart").await?;
    let graceful = ended(&cart, &load, &[]).await?;
    graceful.without_failure()?;
    stage.promises.measured("leader pod deleted: time without writes", GRACEFUL, graceful.gap);

    let watch = Watch::endpoints(&cart, "cart-leader")?;
    let forced = ended(&cart, &load, &["--force", "--grace-period=0"]).await?;
    stage.promises.measured("leader pod killed by force: time without writes", FORCED, forced.gap);
    ensure!(forced.errors == 0, "{forced:?}");
    let leader = cart.leader()?;
    let seen =
        eventually("the leader Service follows", PATIENCE, async || watch.saw(&leader).map(Some)).await?;
    // What a node writes reaches its log a moment later.
    let elected =
        eventually("the leader's word", PATIENCE, async || elected(&cart, &leader).map(Some)).await?;
    let late = Duration::from_millis(seen.saturating_sub(elected));
    stage.promises.measured("leader Service follows the election", LABEL, late);
    if let Some(bed) = &stage.bed {
        killed(stage, &cart, &load, bed).await?;
    }
    cart.ready(3).await?;
    load.verify()?;
    Ok(())
}

/// The leader's process is gone from one moment to the next.
async fn killed(stage: &Stage, cart: &Kv, load: &Load, bed: &Bed) -> Result<()> {
    let leader = cart.leader()?;
    let pod = cart.kubectl.get(&format!("pod {leader}"))?;
    load.mark()?;
    bed.kill(&pod)?;
    eventually("another node leads", PATIENCE, async || Ok((cart.leader()? != leader).then_some(()))).await?;
    load.progress(200).await?;
    let phase = load.mark()?;
    say!("{leader} killed: {phase:?}");
    ensure!(phase.errors == 0, "{phase:?}");
    stage.promises.measured("leader killed with SIGKILL: time without writes", FORCED, phase.gap);
    Ok(())
}

async fn ended(cart: &Kv, load: &Load, how: &[&str]) -> Result<crate::load::Phase> {
    let leader = cart.leader()?;
    let uid = cart.uid(&leader)?;
    load.mark()?;
    cart.kubectl.run(&[&["delete", "pod", leader.as_str(), "--wait=false"], how].concat())?;
    eventually("another node leads", PATIENCE, async || Ok((cart.leader()? != leader).then_some(()))).await?;
    load.progress(200).await?;
    let phase = load.mark()?;
    say!("{leader} deleted {how:?}: {phase:?}");
    cart.reborn(&leader, &uid).await?;
    cart.ready(3).await?;
    Ok(phase)
}

/// When the leader began to lead, Unix milliseconds: its own word, with the time that the kubelet put to it.
fn elected(cart: &Kv, leader: &str) -> Result<u64> {
    let log = cart.kubectl.run(&["logs", leader, "--timestamps"])?;
    let own = format!("addr={leader}.");
    let told = |line: &&str| line.contains(" leader leader=") && line.contains(&own);
    let line = log.lines().rfind(told).with_context(|| format!("{leader} does not tell of it: {log}"))?;
    let time = line.split(' ').next().unwrap_or_default();
    let text = tool::run(Command::new("date").args(["--date", time, "+%s%3N"]))?;
    text.trim().parse().with_context(|| line.to_owned())
}

/// A stream of the endpoints of a Service, each line with the time at which it came.
struct Watch {
    child: Child,
    lines: std::sync::Arc<std::sync::Mutex<Vec<(u64, String)>>>,
}

impl Watch {
    fn endpoints(cart: &Kv, service: &str) -> Result<Self> {
        let selector = format!("kubernetes.io/service-name={service}");
        let path = "jsonpath={.endpoints[*].targetRef.name}{\"\\n\"}";
        let mut child = Command::new(&cart.kubectl.program)
            .args(["--namespace", &cart.kubectl.namespace, "get", "endpointslices", "--selector", &selector])
            .args(["--watch", "--output", path])
            .stdout(Stdio::piped())
            .spawn()?;
        let stdout = child.stdout.take().context("stdout")?;
        let lines = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
        let into = std::sync::Arc::clone(&lines);
        // Ends with the child.
        std::thread::spawn(move || {
            for line in std::io::BufRead::lines(std::io::BufReader::new(stdout)).map_while(Result::ok) {
                let now =
                    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
                let now = u64::try_from(now.as_millis()).unwrap_or(u64::MAX);
                into.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push((now, line));
            }
        });
        Ok(Self { child, lines })
    }

    /// When the Service began to lead to this pod alone, Unix milliseconds.
    fn saw(&self, pod: &str) -> Result<u64> {
        let lines = self.lines.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let from = lines.iter().rposition(|(_, line)| line.trim() != pod).map_or(0, |last| last + 1);
        lines.get(from).map(|(when, _)| *when).with_context(|| format!("not to {pod}: {lines:?}"))
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A volume is gone for good: the member comes back empty under a new id, and is swapped in.
pub(crate) async fn volume_lost(stage: &Stage) -> Result<()> {
    stage.operator().await?;
    let cart = Kv::create(stage, "cart", &json!({ "storage": { "size": "1Gi" } })).await?;
    let load = Load::start(stage, "cart").await?;
    let leader = cart.leader()?;
    let victim = (0..3).map(|n| format!("cart-{n}")).find(|pod| *pod != leader).context("a follower")?;
    let (uid, before) = (cart.uid(&victim)?, node_id(&cart, &victim)?);
    cart.kubectl.run(&["delete", "pvc", &format!("data-{victim}"), "--wait=false"])?;
    cart.kubectl.run(&["delete", "pod", &victim])?;
    cart.reborn(&victim, &uid).await?;
    cart.ready(3).await?;
    let after = node_id(&cart, &victim)?;
    ensure!(before != after, "an empty node kept the id {before}");
    ensure!(cart.members()?.len() == 3, "{:?}", cart.members()?);
    let phase = load.mark()?;
    say!("{victim} replaced: {phase:?}");
    ensure!(phase.errors == 0, "{phase:?}");
    load.verify()?;
    Ok(())
}

fn node_id(cart: &Kv, pod: &str) -> Result<String> {
    let status = cart.admin(pod, "/v1/status", &[])?;
    status["node_id"].as_str().map(str::to_owned).with_context(|| status.to_string())
}

/// The operator's pods are killed again and again while it scales; it goes on where it was.
pub(crate) async fn operator_killed_while_scaling(stage: &Stage) -> Result<()> {
    stage.operator().await?;
    let cart = Kv::create(stage, "cart", &json!({ "storage": { "size": "1Gi" } })).await?;
    let load = Load::start(stage, "cart").await?;
    let system = stage.system();
    for (size, kills) in [(5_u64, 4), (3, 4)] {
        cart.kubectl.run(&["scale", "kvcluster/cart", &format!("--replicas={size}")])?;
        for _ in 0..kills {
            let selector = "app.kubernetes.io/name=kvnode-operator";
            system.run(&["delete", "pod", "--selector", selector, "--force", "--grace-period=0"])?;
            stage.operator_leads().await?;
        }
        cart.ready(size).await?;
        let members = cart.members()?;
        ensure!(members.len() as u64 == size, "{members:?}");
    }
    let phase = load.mark()?;
    say!("{phase:?}");
    phase.without_failure()?;
    load.verify()?;
    Ok(())
}

/// Without an API server clients notice nothing, not even when the leader changes; afterwards the operator catches up.
pub(crate) async fn api_server_away(stage: &Stage) -> Result<()> {
    let Some(bed) = &stage.bed else {
        tool::skip_without_rights("the API server of this Kubernetes is not ours to stop");
        return Ok(());
    };
    stage.operator().await?;
    let cart = Kv::create(stage, "cart", &json!({ "storage": { "size": "1Gi" } })).await?;
    let load = Load::start(stage, "cart").await?;
    let door = cart.door()?;
    let frozen = bed.freeze("apiserver")?;
    let began = std::time::Instant::now();
    let mut writes = 0_u64;
    until("a minute without an API server", Duration::from_mins(2), async || {
        writes += u64::from(door.redis(5, &["SET", "away", "1"]).is_ok_and(|said| said == "OK"));
        began.elapsed() > Duration::from_mins(1)
    })
    .await?;
    drop(frozen);
    ensure!(writes > 100, "only {writes} commands were served without an API server");
    until("the API server is back", PATIENCE, async || cart.object().is_ok()).await?;
    let phase = load.mark()?;
    say!("a minute without an API server: {phase:?}");
    phase.without_failure()?;
    stage.operator_leads().await?;
    cart.scale(5).await?;
    cart.scale(3).await?;
    load.verify()?;
    Ok(())
}

/// A Kubernetes node loses its network: no pod is forced, clients go on, and everything is whole when it is back.
pub(crate) async fn node_cut_off(stage: &Stage) -> Result<()> {
    let Some(bed) = &stage.bed else {
        tool::skip_without_rights("the network of this Kubernetes is not ours to cut");
        return Ok(());
    };
    stage.operator().await?;
    let cart = Kv::create(stage, "cart", &json!({ "storage": { "size": "1Gi" } })).await?;
    let pods = cart.pods()?;
    // The first node has the API server and stays.
    let victim = pods.iter().find(|pod| pod["spec"]["nodeName"] != "n1").context("a pod on another node")?;
    let (pod, node) = (text(&victim["metadata"]["name"]), text(&victim["spec"]["nodeName"]));
    let door = cart.door()?;
    let cut = bed.cut(&node)?;
    let told = cart.reason("Degraded", "MemberDown").await?;
    say!("{told}");
    ensure!(told.contains(&pod), "the message does not name {pod}: {told}");
    until("the cluster serves", Duration::from_secs(30), async || {
        door.redis(2, &["SET", "cut", "1"]).is_ok_and(|said| said == "OK")
    })
    .await?;
    drop(cut);
    cart.ready(3).await?;
    until("all is whole again", PATIENCE, async || cart.redis("GET cut").is_ok_and(|said| said == "1")).await
}
