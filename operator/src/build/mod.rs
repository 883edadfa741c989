//! From a cluster to the objects that it is made of. Pure: the same input gives the same bytes.
//!
//! Invariants
//! - The pod template depends on the user's spec and on the image only; what another version of the operator would do
//!   differently reaches running pods with the user's next change, or with `rollout.operatorUpgrade: RollPods`.
//! - Data pods hold no Kubernetes credentials and fit the restricted Pod Security profile.
//! - A StatefulSet never deletes a volume: its retention policy is always Retain for both cases.

pub mod labels;

use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{ConfigMap, Service, ServiceAccount};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;

/// Every object that the operator keeps for a cluster, in the order to apply them. `None` = must not exist: delete it
/// if this KvCluster controls it. All have an ownerReference to the KvCluster; none has the annotation
/// [`labels::INTENT`] yet, which `apply` adds from the manifest.
///
/// `apply` takes this apart without `..`, so that a new child cannot be forgotten.
#[derive(Clone, Debug, PartialEq)]
pub struct Children {
    /// `<name>`: no permissions, no token.
    pub service_account: ServiceAccount,
    /// `<name>-config`: the server's configuration file.
    pub config_map: ConfigMap,
    /// `<name>-raft`: headless, with addresses that are not ready. Before the pods: they need their names.
    pub raft_service: Service,
    /// `<name>`: any ready node.
    pub any_service: Named<Service>,
    /// `<name>-leader`.
    pub leader_service: Named<Service>,
    /// `<name>-read`.
    pub read_service: Named<Service>,
    /// `<name>`.
    pub network_policy: Named<NetworkPolicy>,
    /// `<name>`; absent for a single voter: it would block every drain.
    pub disruption_budget: Named<PodDisruptionBudget>,
    /// `<name>`. Its `replicas` are never fewer than what runs: shrinking is a step.
    pub voters: StatefulSet,
    /// `<name>-learner`.
    pub learners: Named<StatefulSet>,
}

/// An object that may be not wanted; its name is needed to delete it.
#[derive(Clone, Debug, PartialEq)]
pub struct Named<T> {
    /// Name.
    pub name: String,
    /// The manifest, or that there should be none.
    pub manifest: Option<T>,
}
