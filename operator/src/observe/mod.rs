//! One look at a cluster: its object, children, pods and volumes, what they stand on, and what each node says.
//!
//! ```text
//! get KvCluster
//!   | in parallel
//! list sets, pods, claims, and the metadata of the other children      by label
//!   | in parallel
//! /v1/status of every pod with an address (1 s)    hosts, volumes, classes (kept for a while)
//! ```
//!
//! Invariants
//! - No writes.
//! - Lists are consistent reads, not of a cache of this process: what a plan is made of is as new as the pass.
//! - A node that does not answer within a second is [`NodeView::Unreachable`]; it never holds a pass up longer. An
//!   answer that is of another pod (an address that was given to somebody else) is none.

mod children;
mod origin;
pub mod read;
pub mod surroundings;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use futures_util::future::join_all;
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use kube::api::ListParams;
use kube::{Api, ResourceExt as _};

pub use children::{ChildSeen, Children, mark};
pub use surroundings::Look;

use crate::build::labels;
use crate::context::Context;
use crate::crd::KvCluster;
use crate::error::{Error, asked, asked_opt};
use crate::name::ClusterName;
use crate::observed::{NodeView, Observed, PodSeen, SetRole, VolumeSeen};

/// What one look found.
#[derive(Debug)]
pub struct Sight {
    /// The KvCluster as it is now.
    pub object: Arc<KvCluster>,
    /// What plans are made of.
    pub observed: Observed,
    /// The children that exist, for the comparison with what should.
    pub children: Children,
    /// `host:port` of the admin API of each pod that has an address.
    pub addresses: BTreeMap<String, String>,
}

/// Looks. `None` if there is no such KvCluster (any more).
///
/// # Errors
/// The API server refused something that is needed, or did not answer.
pub async fn observe(ctx: &Context, name: &ClusterName, look: Look) -> Result<Option<Sight>, Error> {
    let api: Api<KvCluster> = Api::namespaced(ctx.client.clone(), &name.namespace);
    let object = asked_opt(format!("get KvCluster {}", name.name), api.get(&name.name)).await?;
    let Some(mut object) = object else { return Ok(None) };
    origin::resolve(ctx, name, &mut object).await?;
    let object = Arc::new(object);
    ctx.probes.api_answered();
    let labelled = ListParams::default().labels(&labels::selector_text(&labels::selector(&name.name)));
    let sets: Api<StatefulSet> = Api::namespaced(ctx.client.clone(), &name.namespace);
    let pods: Api<Pod> = Api::namespaced(ctx.client.clone(), &name.namespace);
    let claims: Api<PersistentVolumeClaim> = Api::namespaced(ctx.client.clone(), &name.namespace);
    let (sets, pods, claims, mut children) = tokio::try_join!(
        asked("list StatefulSets", sets.list(&labelled)),
        asked("list pods", pods.list(&labelled)),
        asked("list volume claims", claims.list(&labelled)),
        children::others(ctx, &object, name, &labelled),
    )?;
    children.add_sets(ctx, &object, name, &sets.items).await?;
    let uid = object.metadata.uid.clone().unwrap_or_default();
    let addresses = addresses(name, &pods.items);
    let seen = pods.items.iter().filter_map(|pod| read::pod(&name.name, pod));
    let (seen, volumes) =
        tokio::join!(ask_nodes(ctx, name, seen.collect(), &addresses), volumes(ctx, &uid, &claims.items));
    let volumes = volumes?;
    let hosts: BTreeSet<String> = seen
        .values()
        .filter_map(|pod| pod.host.clone())
        .chain(volumes.values().filter_map(|volume| volume.bound_to_host.clone()))
        .collect();
    let hosts = ctx.surroundings.hosts(&ctx.client, hosts, look).await?;
    let observed = Observed {
        recorded: object.status.clone().unwrap_or_default(),
        annotations: read::annotations(&object.metadata),
        sets: ours(&object, name, &sets.items),
        pods: seen,
        volumes,
        hosts,
        taken: children.taken(),
        handover: ctx.watches.handover(name),
    };
    Ok(Some(Sight { object, observed, children, addresses }))
}

/// The StatefulSets that are this cluster's, or nobody's.
fn ours(
    object: &KvCluster,
    name: &ClusterName,
    sets: &[StatefulSet],
) -> BTreeMap<SetRole, crate::observed::SetSeen> {
    let mut found = BTreeMap::new();
    for role in SetRole::ALL {
        let wanted = labels::stateful_set(&name.name, role);
        let set = sets.iter().find(|set| set.name_any() == wanted);
        if let Some(set) = set.filter(|set| !children::is_anothers(&set.metadata, object)) {
            found.insert(role, read::set(set));
        }
    }
    found
}

/// Where the admin APIs of the pods listen. A pod keeps its address until its end, so this is never of another life
/// of the same name.
fn addresses(name: &ClusterName, pods: &[Pod]) -> BTreeMap<String, String> {
    let with_address = pods.iter().filter_map(|pod| {
        labels::parse_pod(&name.name, &pod.name_any())?;
        let ip = pod.status.as_ref()?.pod_ip.clone().filter(|ip| !ip.is_empty())?;
        let host = if ip.contains(':') { format!("[{ip}]") } else { ip };
        Some((pod.name_any(), format!("{host}:{}", labels::ADMIN_PORT)))
    });
    with_address.collect()
}

/// Asks all nodes at once.
async fn ask_nodes(
    ctx: &Context,
    name: &ClusterName,
    pods: Vec<PodSeen>,
    addresses: &BTreeMap<String, String>,
) -> BTreeMap<String, PodSeen> {
    let asking = pods.into_iter().map(async |mut pod| {
        if let Some(addr) = addresses.get(&pod.name) {
            pod.node = ask(ctx, name, &pod.name, addr).await;
        }
        (pod.name.clone(), pod)
    });
    join_all(asking).await.into_iter().collect()
}

async fn ask(ctx: &Context, name: &ClusterName, pod: &str, addr: &str) -> NodeView {
    let status = match ctx.nodes.status(addr).await {
        Ok(status) => status,
        Err(error) => {
            ctx.metrics.node_errors.with_label_values(&[error.kind()]).inc();
            return NodeView::Unreachable { why: error.to_string() };
        }
    };
    let named = labels::pod_of_addr(&name.name, &name.namespace, &status.addresses.client);
    if named == Some(pod) {
        return NodeView::Answered(Box::new(status));
    }
    NodeView::Unreachable { why: format!("{} answers at the address of {pod}", status.addresses.client) }
}

async fn volumes(
    ctx: &Context,
    cluster_uid: &str,
    claims: &[PersistentVolumeClaim],
) -> Result<BTreeMap<String, VolumeSeen>, Error> {
    let mut found = BTreeMap::new();
    for claim in claims {
        let Some(mut volume) = read::volume(cluster_uid, claim) else { continue };
        volume.bound_to_host = ctx.surroundings.bound_to_host(&ctx.client, claim).await?;
        volume.expandable = ctx.surroundings.expandable(&ctx.client, claim).await?;
        found.insert(volume.name.clone(), volume);
    }
    Ok(found)
}
