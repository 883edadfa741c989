//! What the watches have brought so far: objects of clusters, kept so that a cluster at rest costs no list.
//!
//! ```text
//! controller: watches  --reflect-->  Stores  --of a namespace-->  observe, while the cluster rests
//!                                                                 (else, and before danger, it asks the API server)
//! ```
//!
//! Invariants
//! - A store may lag, so it is only believed about a cluster whose own object, freshly read, says that nothing is under
//!   way. What is decided on it and could do harm is decided again on fresh reads.
//! - Pods, StatefulSets and claims without their managed fields, of all other kinds the metadata only.

use std::fmt::Debug;
use std::hash::Hash;
use std::sync::Arc;

use futures_util::FutureExt as _;
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{ConfigMap, PersistentVolumeClaim, Pod, Service, ServiceAccount};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::api::PartialObjectMeta;
use kube::runtime::reflector::{Lookup, Store};
use kube::{Resource, ResourceExt as _};
use parking_lot::RwLock;

use crate::build::labels;
use crate::name::ClusterName;

/// The stores of one watched namespace, or of all. Cheap to clone.
#[derive(Clone)]
pub struct Scoped {
    /// `None` = all.
    pub namespace: Option<String>,
    /// In full.
    pub sets: Store<StatefulSet>,
    /// In full.
    pub pods: Store<Pod>,
    /// In full.
    pub claims: Store<PersistentVolumeClaim>,
    /// Metadata.
    pub accounts: Store<PartialObjectMeta<ServiceAccount>>,
    /// Metadata.
    pub maps: Store<PartialObjectMeta<ConfigMap>>,
    /// Metadata.
    pub services: Store<PartialObjectMeta<Service>>,
    /// Metadata.
    pub policies: Store<PartialObjectMeta<NetworkPolicy>>,
    /// Metadata.
    pub budgets: Store<PartialObjectMeta<PodDisruptionBudget>>,
}

impl Scoped {
    /// Whether the first list of each kind has come.
    fn is_ready(&self) -> bool {
        is_ready(&self.sets)
            && is_ready(&self.pods)
            && is_ready(&self.claims)
            && is_ready(&self.accounts)
            && is_ready(&self.maps)
            && is_ready(&self.services)
            && is_ready(&self.policies)
            && is_ready(&self.budgets)
    }
}

fn is_ready<K>(store: &Store<K>) -> bool
where
    K: Lookup + Clone + 'static,
    K::DynamicType: Eq + Hash + Clone,
{
    matches!(store.wait_until_ready().now_or_never(), Some(Ok(())))
}

/// All stores.
#[derive(Default)]
pub struct Stores(RwLock<Vec<Scoped>>);

impl Stores {
    /// Adds those of a namespace.
    pub fn add(&self, scoped: Scoped) {
        self.0.write().push(scoped);
    }

    /// Those that hold the objects of a namespace, once they hold all of them.
    #[must_use]
    pub fn of(&self, namespace: &str) -> Option<Scoped> {
        let all = self.0.read();
        let here = |scoped: &&Scoped| scoped.namespace.as_deref().is_none_or(|one| one == namespace);
        all.iter().find(here).filter(|scoped| scoped.is_ready()).cloned()
    }
}

/// The objects of a store that belong to a cluster, by name.
#[must_use]
pub fn of_cluster<K>(store: &Store<K>, name: &ClusterName) -> Vec<Arc<K>>
where
    K: Resource<DynamicType = ()> + Lookup<DynamicType = ()> + Clone + Debug + 'static,
{
    let wanted = labels::selector(&name.name);
    let mut found: Vec<Arc<K>> = store
        .state()
        .into_iter()
        .filter(|object| {
            let has = object.labels();
            object.namespace().as_deref() == Some(name.namespace.as_str())
                && wanted.iter().all(|(key, value)| has.get(key) == Some(value))
        })
        .collect();
    found.sort_by_key(|object| object.name_any());
    found
}
