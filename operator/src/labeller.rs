//! The fast way from a new leader to the label that its Service selects by: without waiting for a whole pass, which
//! asks every node and may wait a second for one that has just died.
//!
//! ```text
//! Watches::next  ->  list the cluster's pods  ->  plan::exposure (pure)  ->  patch: new leader first  ->  a pass
//! ```
//!
//! Invariants
//! - The labels decide nothing: any node serves any command, a stale label costs a hop.
//! - A word of an older term than the one that a pod's labels were decided by changes nothing
//!   ([`crate::build::labels::TERM`]), whoever hears it.
//! - At most [`AT_ONCE`] clusters are labelled at once; the others keep their newest word in [`crate::watch::Watches`].

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::ListParams;
use kvnode_api::Id;
use tokio::sync::mpsc::Sender;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::build::labels;
use crate::context::Context;
use crate::error::{Error, asked};
use crate::name::ClusterName;
use crate::observe::read;
use crate::observed::PodSeen;
use crate::plan::LabelChange;
use crate::watch::Heard;
use crate::{apply, clock};

/// Clusters that are labelled at once.
pub const AT_ONCE: usize = 16;

/// Where passes are asked for: per namespace, or for all.
pub type News = Vec<(Option<String>, Sender<ClusterName>)>;

/// Labels until `stop` is cancelled.
pub async fn run(ctx: Arc<Context>, news: News, stop: CancellationToken) {
    let news = Arc::new(news);
    let mut running = JoinSet::new();
    loop {
        while running.len() >= AT_ONCE {
            let _ = running.join_next().await;
        }
        let heard = tokio::select! {
            () = stop.cancelled() => break,
            heard = ctx.watches.next() => heard,
            Some(_) = running.join_next() => continue,
        };
        let ctx = ctx.clone();
        let news = news.clone();
        running.spawn(async move {
            if let Err(error) = follow(&ctx, &heard).await {
                // The pass that follows labels, too.
                tracing::warn!(cluster = %heard.cluster, %error, "label the leader");
            }
            tell(&news, &heard.cluster).await;
        });
    }
    running.shutdown().await;
}

/// Asks for a pass. The queue is bounded: a full one makes this wait, not the nodes.
async fn tell(news: &News, cluster: &ClusterName) {
    let of = |namespace: &Option<String>| namespace.as_ref().is_none_or(|one| *one == cluster.namespace);
    if let Some((_, tell)) = news.iter().find(|(namespace, _)| of(namespace)) {
        // A receiver that is gone means that we stop.
        let _ = tell.send(cluster.clone()).await;
    }
}

/// Puts the labels where the word says that they belong.
///
/// # Errors
/// The API server refused, or did not answer.
pub async fn follow(ctx: &Context, heard: &Heard) -> Result<(), Error> {
    let name = &heard.cluster;
    let api: Api<Pod> = Api::namespaced(ctx.client.clone(), &name.namespace);
    let labelled = ListParams::default().labels(&labels::selector_text(&labels::selector(&name.name)));
    let pods = asked("list pods", api.list(&labelled)).await?;
    let pods: Vec<PodSeen> = pods.items.iter().filter_map(|pod| read::pod(&name.name, pod)).collect();
    let changes = changes(&pods, heard.id, heard.leader.term, &heard.leader.pod);
    if changes.is_empty() {
        return Ok(());
    }
    for change in &changes {
        apply::label(ctx, name, change).await?;
    }
    let took = clock::monotonic().saturating_duration_since(heard.at);
    ctx.metrics.leader_label_seconds.observe(took.as_secs_f64());
    ctx.metrics.leader_changes.inc();
    let (pod, term) = (&heard.leader.pod, heard.leader.term);
    tracing::info!(cluster = %name, pod, term, took_ms = took.as_millis(), "leader labelled");
    Ok(())
}

/// What differs, the new leader first. Pure.
fn changes(pods: &[PodSeen], cluster: Id, term: u64, leader: &str) -> Vec<LabelChange> {
    if pods.iter().filter_map(|pod| decided_by(pod, cluster)).any(|newer| newer > term) {
        return Vec::new();
    }
    let Some(new) = pods.iter().find(|pod| pod.name == leader) else { return Vec::new() };
    let stamp = format!("{cluster}/{term}");
    let change = |pod: &PodSeen, wanted: [(&str, Option<&str>); 3]| {
        let own = |(key, value): (&str, Option<&str>)| (key.to_owned(), value.map(str::to_owned));
        let wanted = wanted.map(own).into_iter();
        let labels: BTreeMap<_, _> =
            wanted.filter(|(key, value)| pod.labels.get(key) != value.as_ref()).collect();
        (!labels.is_empty()).then(|| LabelChange {
            pod: pod.name.clone(),
            uid: pod.uid.clone(),
            labels,
            annotations: [(labels::TERM.to_owned(), Some(stamp.clone()))].into(),
        })
    };
    let yes = Some(labels::TRUE);
    // Reads go elsewhere if there is an elsewhere.
    let alone = !pods.iter().any(|pod| pod.name != leader && pod.ready);
    let read = if alone { yes } else { None };
    let leads = [(labels::LEADER, yes), (labels::READ, read), (labels::ROLE, Some("leader"))];
    let follows = [(labels::LEADER, None), (labels::READ, yes), (labels::ROLE, Some("follower"))];
    let old = pods.iter().filter(|pod| pod.name != leader && pod.labels.contains_key(labels::LEADER));
    change(new, leads).into_iter().chain(old.filter_map(|pod| change(pod, follows))).collect()
}

/// Term that a pod's labels were decided by, if it is one of this cluster id.
fn decided_by(pod: &PodSeen, cluster: Id) -> Option<u64> {
    let (id, term) = pod.annotations.get(labels::TERM)?.split_once('/')?;
    (id.parse() == Ok(cluster)).then(|| term.parse().ok())?
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(name: &str, labels: &serde_json::Value, term: Option<&str>) -> PodSeen {
        let mut annotations = json!({});
        if let Some(term) = term {
            annotations[labels::TERM] = json!(term);
        }
        let pod = json!({
            "metadata": { "name": name, "uid": format!("u-{name}"), "labels": labels, "annotations": annotations },
            "spec": { "nodeName": "n", "containers": [] },
            "status": { "conditions": [{ "type": "Ready", "status": "True" }] },
        });
        read::pod("cart", &serde_json::from_value(pod).unwrap()).unwrap()
    }

    fn told(changes: &[LabelChange]) -> Vec<String> {
        let line = |change: &LabelChange| {
            let labels = change.labels.iter().map(|(key, value)| {
                format!(" {}={}", key.trim_start_matches("kvnode.dev/"), value.as_deref().unwrap_or("-"))
            });
            change.pod.clone() + &labels.collect::<String>()
        };
        changes.iter().map(line).collect()
    }

    #[test]
    fn the_new_leader_is_labelled_before_the_old_one_is_not_any_more() {
        let leads = json!({ "kvnode.dev/leader": "true", "kvnode.dev/role": "leader" });
        let follows = json!({ "kvnode.dev/read": "true", "kvnode.dev/role": "follower" });
        let pods = [
            pod("cart-0", &leads, Some("00000000000000c1/3")),
            pod("cart-1", &follows, Some("00000000000000c1/3")),
            pod("cart-2", &follows, None),
        ];
        let moved = changes(&pods, Id(0xc1), 4, "cart-1");
        let expected = ["cart-1 leader=true read=- role=leader", "cart-0 leader=- read=true role=follower"];
        assert_eq!(told(&moved), expected);
        assert_eq!(moved[0].uid, "u-cart-1");
        assert_eq!(moved[0].annotations[labels::TERM].as_deref(), Some("00000000000000c1/4"));
        assert!(changes(&pods, Id(0xc1), 2, "cart-1").is_empty(), "an older term");
        assert!(changes(&pods, Id(0xc1), 5, "cart-0").is_empty(), "labelled already");
        assert_eq!(changes(&pods, Id(0xc2), 1, "cart-1").len(), 2, "terms of another cluster do not count");
        assert!(changes(&pods, Id(0xc1), 4, "cart-7").is_empty(), "no such pod");
    }

    #[test]
    fn a_single_node_serves_reads_too() {
        let moved = changes(&[pod("cart-0", &json!({}), None)], Id(1), 1, "cart-0");
        assert_eq!(told(&moved), ["cart-0 leader=true read=true role=leader"]);
    }
}
