//! From a cluster to the objects that it is made of. Pure: the same input gives the same bytes.
//!
//! Invariants
//! - The pod template depends on the user's spec and on the image only; what another version of the operator would do
//!   differently reaches running pods with the user's next change, or with `rollout.operatorUpgrade: RollPods`.
//! - Data pods hold no Kubernetes credentials and fit the restricted Pod Security profile.
//! - A StatefulSet never deletes a volume: its retention policy is always Retain for both cases.

pub mod acl;
pub mod config_map;
pub mod labels;
mod pod;
mod policy;
mod service;
mod stateful_set;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{ConfigMap, Service, ServiceAccount};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::observed::{SetRole, SetSeen};
use crate::validate::Cluster;

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

/// Pods of each set that the manifests ask for. Decided by the plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sizes {
    /// Pods of the voters' set.
    pub voters: i32,
    /// Pods of the learners' set; `None` = the set is not wanted and has no pods any more.
    pub learners: Option<i32>,
}

/// The children, and what the plan wants to know of them.
#[derive(Clone, Debug, PartialEq)]
pub struct Built {
    /// The objects.
    pub children: Children,
    /// This operator would make other pods than those that run.
    pub update_available: bool,
    /// Image of the server in the template.
    pub image: String,
}

/// Builds all children.
#[must_use]
pub fn build(cluster: &Cluster, sets: &BTreeMap<SetRole, SetSeen>, sizes: Sizes) -> Built {
    let template = |role| stateful_set::template(cluster, role, sets.get(&role));
    let set =
        |role, template, replicas| stateful_set::build(cluster, role, sets.get(&role), &template, replicas);
    let voters = template(SetRole::Voter);
    let update_available = voters.kept;
    let image = server_image(&voters.pod);
    let children = Children {
        service_account: service::account(cluster),
        config_map: config_map::build(cluster),
        raft_service: service::raft(cluster),
        any_service: service::any(cluster),
        leader_service: service::leader(cluster),
        read_service: service::read(cluster),
        network_policy: policy::network(cluster),
        disruption_budget: policy::disruption_budget(cluster),
        voters: set(SetRole::Voter, voters, sizes.voters),
        learners: Named {
            name: labels::stateful_set(&cluster.name, SetRole::Learner),
            manifest: sizes.learners.map(|size| set(SetRole::Learner, template(SetRole::Learner), size)),
        },
    };
    Built { children, update_available, image }
}

fn server_image(pod: &k8s_openapi::api::core::v1::PodTemplateSpec) -> String {
    let containers = pod.spec.iter().flat_map(|spec| &spec.containers);
    let mut server = containers.filter(|container| container.name == labels::CONTAINER);
    server.next().and_then(|container| container.image.clone()).unwrap_or_default()
}

/// `kind/name` of every object that a cluster may have, as in [`crate::observed::Observed::taken`].
#[must_use]
pub fn names(cluster: &str) -> Vec<String> {
    let raft = labels::raft_service(cluster);
    let (leader, read) = (labels::leader_service(cluster), labels::read_service(cluster));
    let (ca, tls) = (labels::ca_secret(cluster), labels::tls_secret(cluster));
    let (auth, acl) = (labels::auth_secret(cluster), labels::acl_secret(cluster));
    let (config, learners) = (labels::config_map(cluster), labels::stateful_set(cluster, SetRole::Learner));
    [
        ("ServiceAccount", cluster),
        ("ConfigMap", &config),
        ("Secret", &ca),
        ("Secret", &tls),
        ("Secret", &auth),
        ("Secret", &acl),
        ("Service", &raft),
        ("Service", cluster),
        ("Service", &leader),
        ("Service", &read),
        ("NetworkPolicy", cluster),
        ("PodDisruptionBudget", cluster),
        ("StatefulSet", cluster),
        ("StatefulSet", &learners),
    ]
    .map(|(kind, name)| format!("{kind}/{name}"))
    .to_vec()
}

/// Metadata of a child.
fn metadata(cluster: &Cluster, name: &str) -> Value {
    json!({
        "name": name,
        "namespace": cluster.namespace,
        "labels": labels::common(&cluster.name),
        "ownerReferences": [{
            "apiVersion": format!("{}/v1alpha1", crate::crd::GROUP),
            "kind": "KvCluster",
            "name": cluster.name,
            "uid": cluster.uid,
            "controller": true,
            "blockOwnerDeletion": true,
        }],
    })
}

/// Adds a field to an object.
fn put(object: &mut Value, key: &str, value: Value) {
    if let Value::Object(fields) = object {
        fields.insert(key.to_owned(), value);
    }
}

/// A manifest as its type. The literals of this module have the shape of their types; the golden files show it, and in
/// tests a field that the type does not know is found here.
fn typed<T: DeserializeOwned + Serialize>(value: Value) -> T {
    if cfg!(debug_assertions) {
        let read: Result<T, _> = serde_json::from_value(value.clone());
        let back =
            read.as_ref().map(|read| serde_json::to_value(read).unwrap_or_default()).unwrap_or_default();
        if let Some(lost) = crate::validate::lost_path(&value, &back) {
            panic!("manifest: {lost} is not known to the type: {value}");
        }
    }
    #[expect(clippy::expect_used, reason = "literals of this module; each is built in the golden tests")]
    serde_json::from_value(value).expect("a manifest literal has the shape of its type")
}

/// SHA-256 of the JSON, whose maps are sorted, in 16 hex digits.
pub(crate) fn hash(value: &Value) -> String {
    let digest = Sha256::digest(value.to_string().as_bytes());
    let mut start = [0; 8];
    start.copy_from_slice(&digest[..8]);
    format!("{:016x}", u64::from_be_bytes(start))
}
