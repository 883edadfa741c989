//! The one step of a plan, and why there is none.

use std::collections::BTreeSet;
use std::fmt;

use kvnode_api::Id;
use serde_json::Value;

use super::Note;
use crate::crd::reason::EventReason;
use crate::observed::SetRole;

/// One act. Every act can be repeated: it names what it expects, and does nothing if that is not there any more.
///
/// | step | carried out as |
/// | --- | --- |
/// | [`RecordClusterId`](Self::RecordClusterId) | nothing more: the id is in [`super::Plan::status`], and the write of it is the step |
/// | [`Initialize`](Self::Initialize) | `POST /v1/initialize` on `pod`; only if the status with the id was written |
/// | [`AddLearner`](Self::AddLearner) | `POST /v1/members` with `promote: false`, on `via` |
/// | [`SetVoters`](Self::SetVoters) | `PUT /v1/voters` ([`kvnode_api::members::SetVoters`]), on `via` |
/// | [`RemoveMember`](Self::RemoveMember) | `DELETE /v1/members/{id}?if_membership=`, on `via` |
/// | [`Transfer`](Self::Transfer) | `POST /v1/transfer` on `via` |
/// | [`DeletePod`](Self::DeletePod) | DELETE with the uid as precondition, grace 0 if `force` |
/// | [`ResizePod`](Self::ResizePod) | annotation, then PATCH of `pods/resize`; a refusal becomes the annotation |
/// | [`DeleteVolume`](Self::DeleteVolume) | DELETE of the claim with the uid as precondition |
/// | [`Shrink`](Self::Shrink) | `spec.replicas` of the StatefulSet, only if it is `from` |
/// | [`RecreateSet`](Self::RecreateSet) | DELETE of the StatefulSet with the uid as precondition, dependents orphaned; the next pass applies it anew |
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Nothing to do.
    Settled,
    /// Something to do, not now.
    Wait(Wait),
    /// Write the cluster id down before founding.
    RecordClusterId {
        /// The id.
        id: Id,
        /// Nodes with this id exist already: their data is taken over.
        adopted: bool,
    },
    /// Found the cluster.
    Initialize {
        /// Pod that founds it.
        pod: String,
        /// The recorded id.
        cluster_id: Id,
        /// Client addresses of the first voters, the pod's own first.
        members: Vec<String>,
    },
    /// Let a node in, without a vote.
    AddLearner {
        /// Pod of the newcomer.
        pod: String,
        /// Its client address.
        addr: String,
        /// Pod to ask.
        via: String,
        /// Membership that the step was planned on.
        if_membership: Option<String>,
    },
    /// Make these, and no others, the voters: one joint change. Voters that are not named leave the membership.
    SetVoters {
        /// Node ids.
        voters: BTreeSet<Id>,
        /// Pod to ask.
        via: String,
        /// Membership that the step was planned on.
        if_membership: Option<String>,
        /// What it does, as a sentence: "cart-3 and cart-4 become voters".
        why: String,
        /// A member without data is exchanged for another.
        replaces: bool,
    },
    /// Take a member without a vote out.
    RemoveMember {
        /// Node id.
        id: Id,
        /// Pod that it is or was on.
        pod: String,
        /// Pod to ask.
        via: String,
        /// Membership that the step was planned on.
        if_membership: Option<String>,
    },
    /// Hand leadership over.
    Transfer {
        /// Pod that leads.
        from: String,
        /// Node id of the successor.
        to: Id,
        /// Pod of the successor.
        to_pod: String,
        /// Pod to ask.
        via: String,
        /// What for: "rollout", "scale down".
        why: &'static str,
    },
    /// Delete a pod, so that its StatefulSet makes it anew.
    DeletePod {
        /// Pod.
        pod: String,
        /// Its uid.
        uid: String,
        /// Without waiting for the kubelet: only when its Kubernetes node is known to be gone.
        force: bool,
        /// What for, as a sentence.
        why: String,
    },
    /// Give the server of a pod another size without a restart; if that is refused, the next pass restarts it.
    ResizePod {
        /// Pod.
        pod: String,
        /// Its uid.
        uid: String,
        /// Revision that it has then.
        revision: String,
        /// The record that it was asked is there already.
        asked: bool,
        /// Container.
        container: String,
        /// Its `resources`.
        resources: Value,
    },
    /// Delete a volume whose data is not needed.
    DeleteVolume {
        /// Claim.
        volume: String,
        /// Its uid.
        uid: String,
        /// Node id of the data that it holds, if known; it is not in the membership.
        node_id: Option<String>,
        /// What for, as a sentence.
        why: String,
    },
    /// Fewer pods of a set: the highest ordinals go. Their members are out already.
    Shrink {
        /// Set.
        set: SetRole,
        /// Name of the StatefulSet.
        name: String,
        /// `spec.replicas` now.
        from: i32,
        /// `spec.replicas` to be.
        to: i32,
        /// What for, as a sentence.
        why: String,
    },
    /// Make a StatefulSet anew without touching its pods: its volume claim template cannot be changed.
    RecreateSet {
        /// Set.
        set: SetRole,
        /// Name of the StatefulSet.
        name: String,
        /// Its uid.
        uid: String,
    },
}

/// What a plan waits for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wait {
    /// Kind of the blocker.
    pub blocker: Blocker,
    /// What is awaited, as a sentence: "waiting for cart-1: 12,331 entries behind".
    pub message: String,
}

/// What stands in the way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blocker {
    /// Pods come up, data is copied, a change is being committed: gets on by itself.
    InProgress,
    /// A safety gate is closed: a voter does not answer, or lags.
    Gate,
    /// No leader, or no quorum.
    NoQuorum,
    /// Waits for a person: approval, a wrong spec, a pod that cannot start.
    Person,
    /// Data that is not what it should be: nothing that could lose it is done.
    Identity,
    /// `spec.paused` or plan only.
    Paused,
}

impl Step {
    /// Whether the step can cost availability or data if it was planned on an old view. `apply` plans such a step a
    /// second time on reads that are not cached.
    #[must_use]
    pub fn is_dangerous(&self) -> bool {
        match self {
            Self::Settled | Self::Wait(_) | Self::RecordClusterId { .. } | Self::AddLearner { .. } => false,
            Self::Initialize { .. }
            | Self::SetVoters { .. }
            | Self::RemoveMember { .. }
            | Self::Transfer { .. }
            | Self::DeletePod { .. }
            | Self::ResizePod { .. }
            | Self::DeleteVolume { .. }
            | Self::Shrink { .. }
            | Self::RecreateSet { .. } => true,
        }
    }

    /// Whether there is something to carry out.
    #[must_use]
    pub fn is_act(&self) -> bool {
        !matches!(self, Self::Settled | Self::Wait(_))
    }

    /// Bounded label for metrics.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Settled => "settled",
            Self::Wait(_) => "wait",
            Self::RecordClusterId { .. } => "record_cluster_id",
            Self::Initialize { .. } => "initialize",
            Self::AddLearner { .. } => "add_learner",
            Self::SetVoters { .. } => "set_voters",
            Self::RemoveMember { .. } => "remove_member",
            Self::Transfer { .. } => "transfer",
            Self::DeletePod { .. } => "delete_pod",
            Self::ResizePod { .. } => "resize_pod",
            Self::DeleteVolume { .. } => "delete_volume",
            Self::Shrink { .. } => "shrink",
            Self::RecreateSet { .. } => "recreate_set",
        }
    }

    /// The event of the step, to be published once it was carried out.
    #[must_use]
    pub fn event(&self) -> Option<Note> {
        let note = |reason, message: String| Some(Note { reason, warning: false, message });
        match self {
            Self::Settled | Self::Wait(_) => None,
            Self::RecordClusterId { id, adopted: false } => {
                note(EventReason::ClusterIdRecorded, format!("The cluster will be {id}; it is founded next."))
            }
            Self::RecordClusterId { id, adopted: true } => note(
                EventReason::AdoptedExistingData,
                format!("The volumes hold cluster {id}; it goes on with its data."),
            ),
            Self::Initialize { cluster_id, members, .. } => note(
                EventReason::ClusterInitialized,
                format!("Cluster {cluster_id} was founded with {} voters.", members.len()),
            ),
            Self::AddLearner { .. } => note(EventReason::LearnerAdded, sentence(self)),
            Self::SetVoters { replaces: true, .. } => note(EventReason::MemberReplaced, sentence(self)),
            Self::SetVoters { .. } => note(EventReason::VotersChanged, sentence(self)),
            Self::RemoveMember { .. } => note(EventReason::MemberRemoved, sentence(self)),
            Self::Transfer { .. } => note(EventReason::HandoverRequested, sentence(self)),
            Self::DeletePod { force: true, .. } => note(EventReason::PodForceDeleted, sentence(self)),
            Self::DeletePod { .. } => note(EventReason::PodRestarted, sentence(self)),
            Self::ResizePod { .. } => note(EventReason::PodResized, sentence(self)),
            Self::DeleteVolume { .. } => note(EventReason::VolumeDeleted, sentence(self)),
            Self::Shrink { .. } => note(EventReason::ScaledDown, sentence(self)),
            Self::RecreateSet { .. } => note(EventReason::StatefulSetRecreated, sentence(self)),
        }
    }
}

fn sentence(step: &Step) -> String {
    let text = step.to_string();
    let mut letters = text.chars();
    // Names of pods begin sentences as they are.
    match letters.next() {
        Some(first) if !text.contains(" become ") && !text.contains(" takes ") => {
            first.to_uppercase().chain(letters).chain(['.']).collect()
        }
        _ => format!("{text}."),
    }
}

/// "limits cpu 2, memory 4Gi, requests cpu 1".
fn amounts_text(resources: &Value) -> String {
    let kinds = resources.as_object().into_iter().flatten();
    let kind = |(kind, amounts): (&String, &Value)| {
        let amounts = amounts.as_object().into_iter().flatten();
        let each: Vec<String> =
            amounts.map(|(what, amount)| format!("{what} {}", amount.as_str().unwrap_or_default())).collect();
        format!("{kind} {}", each.join(", "))
    };
    kinds.map(kind).collect::<Vec<_>>().join(", ")
}

/// One line, as `status.plan`, the condition Progressing and the log show it.
impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Settled => write!(f, "nothing to do"),
            Self::Wait(wait) => write!(f, "{}", wait.message),
            Self::RecordClusterId { id, adopted: false } => write!(f, "record the cluster id {id}"),
            Self::RecordClusterId { id, adopted: true } => write!(f, "take over the data of cluster {id}"),
            Self::Initialize { cluster_id, members, .. } => {
                write!(f, "found cluster {cluster_id} with {} voters", members.len())
            }
            Self::AddLearner { pod, .. } => write!(f, "add {pod} as a learner"),
            Self::SetVoters { why, .. } => write!(f, "{why}"),
            Self::RemoveMember { id, pod, .. } => write!(f, "remove member {id} ({pod})"),
            Self::Transfer { from, to_pod, why, .. } => {
                write!(f, "hand leadership over from {from} to {to_pod} ({why})")
            }
            Self::DeletePod { pod, force, why, .. } => {
                let how = if *force { "give up" } else { "restart" };
                write!(f, "{how} {pod}: {why}")
            }
            Self::ResizePod { pod, resources, .. } => {
                write!(f, "resize {pod} in place: {}", amounts_text(resources))
            }
            Self::DeleteVolume { volume, why, .. } => write!(f, "delete volume {volume}: {why}"),
            Self::Shrink { name, from, to, why, .. } => {
                write!(f, "scale StatefulSet {name} from {from} to {to}: {why}")
            }
            Self::RecreateSet { name, .. } => {
                write!(f, "make StatefulSet {name} anew for its volume size, pods untouched")
            }
        }
    }
}
