//! One look at a cluster: its object, children, pods and volumes, what they stand on, and what each node says.
//!
//! ```text
//! get KvCluster
//!   | in parallel; of a cluster at rest taken from what the watches have brought
//! list sets, pods, claims, and the metadata of the other children      by label
//!   | in parallel
//! /v1/status of every pod with an address (1 s)    hosts, volumes, classes (kept for a while)
//! ```
//!
//! Invariants
//! - No writes.
//! - While something is under way, and before every dangerous step, lists are consistent reads: what a plan is made of is
//!   as new as the pass. Only about a cluster whose object, freshly read, says that it rests the watches are believed.
//! - A node that does not answer within a second is [`NodeView::Unreachable`]; it never holds a pass up longer. An
//!   answer that is of another pod (an address that was given to somebody else) is none.

mod children;
mod doors;
mod origin;
pub mod read;
pub mod secrets;
pub mod surroundings;
mod trust;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;
use std::sync::Arc;

use futures_util::future::join_all;
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use kube::api::{ListParams, PartialObjectMeta};
use kube::runtime::reflector::Store;
use kube::{Api, Resource, ResourceExt as _};
use serde::de::DeserializeOwned;

pub use children::{ChildSeen, Children, is_anothers, mark};
pub use secrets::Secrets;
pub use surroundings::Look;

use crate::build::labels;
use crate::context::Context;
use crate::crd::KvCluster;
use crate::crd::status::Phase;
use crate::error::{Error, asked, asked_opt};
use crate::name::ClusterName;
use crate::observed::{NodeView, Observed, PodSeen, SetRole, VolumeSeen};
use crate::stores::{self, Scoped};

/// What one look found.
#[derive(Debug)]
pub struct Sight {
    /// The KvCluster as it is now; its spec says which backup it begins with and which locks are in effect.
    pub object: Arc<KvCluster>,
    /// What plans are made of.
    pub observed: Observed,
    /// The children that exist, for the comparison with what should.
    pub children: Children,
    /// Certificates and passwords.
    pub secrets: Arc<Secrets>,
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
    let doors = doors::resolve(ctx, name, &mut object).await?;
    let object = Arc::new(object);
    ctx.probes.api_answered();
    let labelled = ListParams::default().labels(&labels::selector_text(&labels::selector(&name.name)));
    let kept = (look == Look::Usual && rests(&object)).then(|| ctx.stores.of(&name.namespace)).flatten();
    let source = Source { ctx, name, labelled: &labelled, kept: kept.as_ref() };
    let (sets, pods, claims, mut children, secrets) = tokio::try_join!(
        source.list("StatefulSets", |kept| &kept.sets),
        source.list("pods", |kept| &kept.pods),
        source.list("volume claims", |kept| &kept.claims),
        children::others(&source, &object),
        secrets::read(ctx, name, &object, look == Look::Usual && rests(&object)),
    )?;
    children.add_sets(ctx, &object, name, &sets).await?;
    let uid = object.metadata.uid.clone().unwrap_or_default();
    let addresses = addresses(name, &pods);
    let fault = trust::prepare(ctx, name, &object, &secrets, &addresses);
    let seen = pods.iter().filter_map(|pod| read::pod(&name.name, pod));
    let (seen, volumes) =
        tokio::join!(ask_nodes(ctx, name, seen.collect(), &addresses), volumes(ctx, &uid, &claims));
    let volumes = volumes?;
    let hosts: BTreeSet<String> = seen
        .values()
        .filter_map(|pod| pod.host.clone())
        .chain(volumes.values().filter_map(|volume| volume.bound_to_host.clone()))
        .collect();
    let hosts = ctx.surroundings.hosts(&ctx.client, hosts, look).await?;
    let tls = trust::seen(ctx, &object, &secrets, &seen, &addresses, fault);
    let observed = Observed {
        recorded: object.status.clone().unwrap_or_default(),
        annotations: read::annotations(&object.metadata),
        sets: ours(&object, name, &sets),
        pods: seen,
        volumes,
        hosts,
        taken: children.taken().into_iter().chain(secrets.taken(name)).collect(),
        doors: Some(doors),
        tls,
        handover: ctx.watches.handover(name),
    };
    Ok(Some(Sight { object, observed, children, secrets, addresses }))
}

/// Whether the status says that nothing is under way, for the spec as it is.
fn rests(object: &KvCluster) -> bool {
    object.status.as_ref().is_some_and(|status| {
        status.phase == Some(Phase::Ready)
            && status.change.is_none()
            && status.observed_generation == object.metadata.generation
    })
}

/// Where a look takes the objects of a cluster from.
struct Source<'a> {
    ctx: &'a Context,
    name: &'a ClusterName,
    labelled: &'a ListParams,
    /// `None`: the API server is asked.
    kept: Option<&'a Scoped>,
}

/// What can be listed or taken from a store.
trait Listed:
    Resource<DynamicType = (), Scope = NamespaceResourceScope>
    + Clone
    + Debug
    + DeserializeOwned
    + Send
    + Sync
    + 'static
{
}

impl<K> Listed for K where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
        + Clone
        + Debug
        + DeserializeOwned
        + Send
        + Sync
        + 'static
{
}

impl Source<'_> {
    fn api<K: Listed>(&self) -> Api<K> {
        Api::namespaced(self.ctx.client.clone(), &self.name.namespace)
    }

    async fn list<K: Listed>(
        &self,
        kinds: &str,
        store: impl Fn(&Scoped) -> &Store<K>,
    ) -> Result<Vec<Arc<K>>, Error> {
        if let Some(kept) = self.kept {
            return Ok(stores::of_cluster(store(kept), self.name));
        }
        let found = asked(format!("list {kinds}"), self.api::<K>().list(self.labelled)).await?;
        Ok(found.items.into_iter().map(Arc::new).collect())
    }

    async fn list_metadata<K: Listed>(
        &self,
        kinds: &str,
        store: impl Fn(&Scoped) -> &Store<PartialObjectMeta<K>>,
    ) -> Result<Vec<Arc<PartialObjectMeta<K>>>, Error> {
        if let Some(kept) = self.kept {
            return Ok(stores::of_cluster(store(kept), self.name));
        }
        let found = asked(format!("list {kinds}"), self.api::<K>().list_metadata(self.labelled)).await?;
        Ok(found.items.into_iter().map(Arc::new).collect())
    }
}

/// The StatefulSets that are this cluster's, or nobody's.
fn ours(
    object: &KvCluster,
    name: &ClusterName,
    sets: &[Arc<StatefulSet>],
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
fn addresses(name: &ClusterName, pods: &[Arc<Pod>]) -> BTreeMap<String, String> {
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
    claims: &[Arc<PersistentVolumeClaim>],
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
