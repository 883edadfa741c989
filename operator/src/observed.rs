//! What one look at a cluster found: the value that `observe` returns and everything below it decides by.
//!
//! ```text
//! Observed
//!   recorded        status of the KvCluster as read, among it the write-ahead records
//!   sets            the two StatefulSets: <name> (voters), <name>-learner (learners)
//!   pods            by name; each with what its node answered to GET /v1/status in this pass
//!   volumes         PersistentVolumeClaims by name
//!   hosts           Kubernetes nodes that pods run on or volumes are bound to; one that is not here is gone
//!   taken           names that the cluster needs and something else has
//! ```
//!
//! Plain values: no client, no clock. What could not be read is `None` or [`NodeView::Unreachable`], never a guess.
//! Objects of Kubernetes may come from a cache that lags; answers of nodes are of this pass.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{PodTemplateSpec, ResourceRequirements};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use kvnode_api::status::NodeStatus;

use crate::crd::doors::Doors;
use crate::crd::status::KvClusterStatus;

/// Role that a pod is made for. Each has a StatefulSet of its own, so that scaling one never changes the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SetRole {
    /// Pods `<name>-<ordinal>`.
    Voter,
    /// Pods `<name>-learner-<ordinal>`.
    Learner,
}

impl SetRole {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Voter, Self::Learner];

    /// Value of the label `kvnode.dev/set`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Voter => "voter",
            Self::Learner => "learner",
        }
    }
}

impl fmt::Display for SetRole {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// One look at a cluster.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Observed {
    /// `status` of the KvCluster as read with its spec.
    pub recorded: KvClusterStatus,
    /// Annotations of the KvCluster that steer the operator (`kvnode.dev/...`), others may be left out.
    pub annotations: BTreeMap<String, String>,
    /// The StatefulSets that exist and are controlled by this KvCluster, or by nobody (then they are adopted).
    pub sets: BTreeMap<SetRole, SetSeen>,
    /// Pods by name: all with the labels of this cluster, also those that no StatefulSet controls at the moment.
    pub pods: BTreeMap<String, PodSeen>,
    /// Volumes (PersistentVolumeClaims) by name: all with the labels of this cluster, also those without a pod.
    pub volumes: BTreeMap<String, VolumeSeen>,
    /// Kubernetes nodes by name. `None` if they may not be read (namespaced mode): then no node counts as gone.
    pub hosts: Option<BTreeMap<String, HostSeen>>,
    /// Objects with the name of a child, as `kind/name`, that another object controls. Nothing is applied over them.
    pub taken: BTreeSet<String>,
    /// The locks in effect; the spec of the pass says the same.
    pub doors: Option<DoorsSeen>,
    /// Certificates, with `spec.tls`.
    pub tls: Option<TlsSeen>,
    /// The newest change of leader, if the watch streams saw one.
    pub handover: Option<Handover>,
}

/// The locks in effect, and whether the spec asks for others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DoorsSeen {
    /// In effect.
    pub doors: Doors,
    /// The spec has locks by default that the cluster was made without.
    pub kept_open: bool,
}

/// The certificate of a cluster, and how many pods showed it to the operator.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TlsSeen {
    /// Beginning of the certificate in the Secret.
    pub not_before: Option<Timestamp>,
    /// Its end.
    pub not_after: Option<Timestamp>,
    /// Pods that showed it in a handshake.
    pub served: usize,
    /// Pods that answered.
    pub running: usize,
    /// Pods that there are and that are not going.
    pub pods: usize,
    /// Why the operator cannot talk to them.
    pub fault: Option<String>,
}

/// A StatefulSet.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SetSeen {
    /// Name.
    pub name: String,
    /// Uid; precondition of its deletion.
    pub uid: String,
    /// `spec.replicas`.
    pub replicas: i32,
    /// `status.updateRevision`, only if `status.observedGeneration` is its generation; else the revision is not known.
    pub update_revision: Option<String>,
    /// `spec.template` as the API server has it, with its defaults.
    pub template: Option<PodTemplateSpec>,
    /// Annotation [`crate::build::labels::POD_INTENT`]: what the user's spec asks of pods, as a hash.
    pub pod_intent: Option<String>,
    /// Annotation [`crate::build::labels::POD_TEMPLATE`]: hash of the template as an operator built it.
    pub template_hash: Option<String>,
    /// `spec.volumeClaimTemplates[0].spec.resources.requests.storage`, bytes.
    pub claim_bytes: Option<u64>,
    /// Has a deletionTimestamp.
    pub deleting: bool,
}

/// How far a pod has come, in the order of its life.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PodState {
    /// Not placed on a Kubernetes node; the scheduler's message if it has one.
    Pending {
        /// Message of the condition `PodScheduled`.
        unschedulable: Option<String>,
    },
    /// Placed; images are pulled, containers start.
    Starting,
    /// Waits after a failure: reason and message, such as `ImagePullBackOff: ...` or `CrashLoopBackOff: ...`.
    Failing {
        /// One line.
        why: String,
    },
    /// The server container runs.
    Running,
    /// Phase Succeeded or Failed: no container will run in it again.
    Ended,
}

/// A pod, and the node on it.
#[derive(Clone, Debug, PartialEq)]
pub struct PodSeen {
    /// Name.
    pub name: String,
    /// Uid; precondition of its deletion.
    pub uid: String,
    /// StatefulSet that it belongs to, by label.
    pub role: SetRole,
    /// Ordinal in it.
    pub ordinal: i32,
    /// Label `controller-revision-hash`.
    pub revision: Option<String>,
    /// How far it is.
    pub state: PodState,
    /// Condition Ready.
    pub ready: bool,
    /// Since when it has not been ready, or since when it exists.
    pub unready_since: Option<Timestamp>,
    /// Creation.
    pub created: Option<Timestamp>,
    /// Has a deletionTimestamp.
    pub deleting: bool,
    /// Kubernetes node.
    pub host: Option<String>,
    /// Labels that begin with `kvnode.dev/`.
    pub labels: BTreeMap<String, String>,
    /// Annotations that begin with `kvnode.dev/`.
    pub annotations: BTreeMap<String, String>,
    /// Restarts of the server container.
    pub restarts: i32,
    /// Processor and memory of the server container.
    pub size: SizeSeen,
    /// What its node said.
    pub node: NodeView,
}

/// Amounts of a container by `limits.<what>` and `requests.<what>`.
pub type Amounts = BTreeMap<String, Quantity>;

/// Processor and memory as [`Amounts`].
#[must_use]
pub fn amounts(resources: &ResourceRequirements) -> Amounts {
    let kinds = [("limits", &resources.limits), ("requests", &resources.requests)];
    let each = kinds.into_iter().flat_map(|(kind, all)| {
        all.iter().flatten().map(move |(what, amount)| (format!("{kind}.{what}"), amount.clone()))
    });
    each.collect()
}

/// Processor and memory of a pod's server container.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SizeSeen {
    /// What it asks for.
    pub asked: Amounts,
    /// What it runs with.
    pub has: Amounts,
    /// Why it does not have yet what it asks for: `Deferred: ...`, `Infeasible: ...`, `InProgress`.
    pub waits: Option<String>,
}

/// What a node said in this pass.
#[derive(Clone, Debug, PartialEq)]
pub enum NodeView {
    /// It answered. Boxed: it is large.
    Answered(Box<NodeStatus>),
    /// It was asked and did not answer in time.
    Unreachable {
        /// One line.
        why: String,
    },
    /// It was not asked: the pod has no address.
    NotAsked,
}

impl NodeView {
    /// The answer, if there is one.
    #[must_use]
    pub fn status(&self) -> Option<&NodeStatus> {
        match self {
            Self::Answered(status) => Some(status),
            Self::Unreachable { .. } | Self::NotAsked => None,
        }
    }
}

/// A PersistentVolumeClaim.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VolumeSeen {
    /// Name, `data-<pod>`.
    pub name: String,
    /// Uid; precondition of its deletion.
    pub uid: String,
    /// Name of the pod that mounts it, or did.
    pub pod: String,
    /// `spec.resources.requests.storage`, bytes.
    pub request_bytes: u64,
    /// `status.capacity.storage`, bytes; `None` until bound.
    pub capacity_bytes: Option<u64>,
    /// Annotation [`crate::build::labels::NODE_ID`]: node whose data it holds.
    pub node_id: Option<String>,
    /// Annotation [`crate::build::labels::CLUSTER_ID`]: cluster whose data it holds.
    pub cluster_id: Option<String>,
    /// Annotation [`crate::build::labels::RETIRED`]: node id of a removed member whose data it still holds.
    pub retired: Option<String>,
    /// Has an ownerReference to this KvCluster (then it goes with it).
    pub owned: bool,
    /// Has a deletionTimestamp.
    pub deleting: bool,
    /// Kubernetes node that its PersistentVolume can only be used on, from the node affinity of local volumes.
    pub bound_to_host: Option<String>,
    /// Whether its class can grow volumes; `None` if that may not be read.
    pub expandable: Option<bool>,
    /// Why growing it does not get on, from its conditions.
    pub resize_error: Option<String>,
}

/// A Kubernetes node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HostSeen {
    /// Condition Ready.
    pub ready: bool,
    /// Has the taint `node.kubernetes.io/out-of-service`: somebody vouches that it is off.
    pub out_of_service: bool,
    /// Label `topology.kubernetes.io/zone`.
    pub zone: Option<String>,
}

/// A change of leader, as the watch streams saw it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Handover {
    /// Pod that led before.
    pub from: String,
    /// Pod that leads.
    pub to: String,
    /// Its term.
    pub term: u64,
    /// Milliseconds without a known leader.
    pub gap_ms: u64,
}
