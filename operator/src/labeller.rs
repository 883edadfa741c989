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
use tokio::sync::mpsc::Sender;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::build::labels;
use crate::context::Context;
use crate::error::{Error, asked};
use crate::name::ClusterName;
use crate::observe::read;
use crate::observed::PodSeen;
use crate::plan::exposure::{self, Leading};
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
    let pods = pods.items.iter().filter_map(|pod| read::pod(&name.name, pod));
    let pods: BTreeMap<String, PodSeen> = pods.map(|pod| (pod.name.clone(), pod)).collect();
    let leading = Leading { cluster_id: heard.id, term: heard.leader.term, pod: &heard.leader.pod };
    let changes = exposure::on_change(&pods, leading);
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
