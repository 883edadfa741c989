//! Which children exist, whose they are, and whether they are as they were applied.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;
use std::sync::Arc;

use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::PartialObjectMeta;
use kube::runtime::reflector::Store;
use kube::{Api, Resource, ResourceExt as _};
use serde::de::DeserializeOwned;

use super::{Listed, Source};
use crate::apply::memory::ChildKey;
use crate::build::labels;
use crate::context::Context;
use crate::crd::KvCluster;
use crate::error::{Error, asked};
use crate::name::ClusterName;
use crate::observed::SetRole;
use crate::stores::Scoped;

/// A child that exists.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChildSeen {
    /// Uid.
    pub uid: String,
    /// Annotation [`labels::INTENT`].
    pub intent: Option<String>,
    /// Moves when somebody changes it: its generation, or its resource version for kinds without one.
    pub mark: String,
    /// Whether it is somebody else's: controlled by another object, or by none and without our label.
    pub anothers: bool,
    /// Has a deletionTimestamp.
    pub deleting: bool,
}

/// All children that exist, by kind and name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Children(BTreeMap<ChildKey, ChildSeen>);

impl Children {
    /// One.
    #[must_use]
    pub fn get(&self, key: &ChildKey) -> Option<&ChildSeen> {
        self.0.get(key)
    }

    /// Those that are not ours, as `kind/name`.
    #[must_use]
    pub fn taken(&self) -> BTreeSet<String> {
        let taken = self.0.iter().filter(|(_, child)| child.anothers);
        taken.map(|((kind, name), _)| format!("{kind}/{name}")).collect()
    }

    fn add<K: Resource<DynamicType = ()>>(&mut self, kind: &'static str, object: &K, cluster: &KvCluster) {
        let meta = object.meta();
        let child = ChildSeen {
            uid: meta.uid.clone().unwrap_or_default(),
            intent: meta.annotations.as_ref().and_then(|all| all.get(labels::INTENT)).cloned(),
            mark: mark(meta),
            anothers: is_anothers(meta, cluster),
            deleting: meta.deletion_timestamp.is_some(),
        };
        self.0.insert((kind, object.name_any()), child);
    }

    /// Adds the StatefulSets, which are listed in full elsewhere, and looks for names that something else has.
    pub(super) async fn add_sets(
        &mut self,
        ctx: &Context,
        cluster: &KvCluster,
        name: &ClusterName,
        listed: &[Arc<StatefulSet>],
    ) -> Result<(), Error> {
        for set in listed {
            self.add("StatefulSet", set.as_ref(), cluster);
        }
        let mut wanted = vec![labels::stateful_set(&name.name, SetRole::Voter)];
        if cluster.spec.learners > 0 {
            wanted.push(labels::stateful_set(&name.name, SetRole::Learner));
        }
        self.look_for::<StatefulSet>(ctx, cluster, name, "StatefulSet", wanted).await
    }

    /// Gets those of `wanted` that the list by label did not have: somebody else may have the name.
    async fn look_for<K>(
        &mut self,
        ctx: &Context,
        cluster: &KvCluster,
        name: &ClusterName,
        kind: &'static str,
        wanted: Vec<String>,
    ) -> Result<(), Error>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + DeserializeOwned + Debug,
    {
        let api: Api<K> = Api::namespaced(ctx.client.clone(), &name.namespace);
        for child in wanted {
            if !self.0.contains_key(&(kind, child.clone())) {
                let found = asked(format!("get {kind} {child}"), api.get_metadata_opt(&child)).await?;
                if let Some(found) = found {
                    self.add(kind, &found, cluster);
                }
            }
        }
        Ok(())
    }
}

/// What moves when somebody changes an object. Kinds without a generation have no status that moves by itself, but for
/// the Service of a load balancer; a useless write now and then is the price there.
#[must_use]
pub fn mark(meta: &ObjectMeta) -> String {
    let generation = meta.generation.map(|generation| format!("g{generation}"));
    generation.unwrap_or_else(|| meta.resource_version.clone().unwrap_or_default())
}

/// Controlled by another object; or by none, and without our label, so that it is not one that we lost.
#[must_use]
pub fn is_anothers(meta: &ObjectMeta, cluster: &KvCluster) -> bool {
    let mut owners = meta.owner_references.iter().flatten();
    if let Some(owner) = owners.find(|owner| owner.controller == Some(true)) {
        return Some(&owner.uid) != cluster.metadata.uid.as_ref();
    }
    let label = meta.labels.as_ref().and_then(|all| all.get(labels::CLUSTER));
    label != cluster.metadata.name.as_ref()
}

/// The children that are no StatefulSets.
pub(super) async fn others(source: &Source<'_>, cluster: &KvCluster) -> Result<Children, Error> {
    let mut all = Children::default();
    let base = source.name.name.clone();
    let spec = &cluster.spec;
    let if_wanted = |wanted: bool, name: String| wanted.then_some(name);
    let services = [
        Some(labels::raft_service(&base)),
        if_wanted(spec.services.any.enabled, base.clone()),
        if_wanted(spec.services.leader.enabled, labels::leader_service(&base)),
        if_wanted(spec.services.read.enabled, labels::read_service(&base)),
    ];
    let services = services.into_iter().flatten().collect();
    let policy: Vec<String> = if_wanted(spec.network_policy.enabled, base.clone()).into_iter().collect();
    let budget: Vec<String> = if_wanted(spec.replicas > 1, base.clone()).into_iter().collect();
    let map = vec![labels::config_map(&base)];
    let (accounts, maps, services, policies, budgets) = tokio::try_join!(
        kind(source, cluster, "ServiceAccount", vec![base], |kept| &kept.accounts),
        kind(source, cluster, "ConfigMap", map, |kept| &kept.maps),
        kind(source, cluster, "Service", services, |kept| &kept.services),
        kind(source, cluster, "NetworkPolicy", policy, |kept| &kept.policies),
        kind(source, cluster, "PodDisruptionBudget", budget, |kept| &kept.budgets),
    )?;
    for some in [accounts, maps, services, policies, budgets] {
        all.0.extend(some.0);
    }
    Ok(all)
}

async fn kind<K: Listed>(
    source: &Source<'_>,
    cluster: &KvCluster,
    kind: &'static str,
    wanted: Vec<String>,
    store: impl Fn(&Scoped) -> &Store<PartialObjectMeta<K>>,
) -> Result<Children, Error> {
    let mut found = Children::default();
    for object in source.list_metadata(&format!("{kind}s"), store).await? {
        found.add(kind, object.as_ref(), cluster);
    }
    found.look_for::<K>(source.ctx, cluster, source.name, kind, wanted).await?;
    Ok(found)
}
