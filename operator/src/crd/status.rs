//! `KvCluster.status`: what the operator saw last and what it is doing. Written by `report` only.
//!
//! Status is a cache of what was observed, with exceptions that are records: [`KvClusterStatus::cluster_id`] and
//! [`KvClusterStatus::formation`] are written before the cluster is founded and never change afterwards,
//! [`KvClusterStatus::change`] names the pod of a running change, so that a stale view never picks a second one, and
//! [`KvClusterStatus::doors`] remembers which locks a cluster was made with.
//!
//! Nothing here moves while the cluster rests (positions are left out, lag is rounded and only told when it matters),
//! so that a healthy cluster causes no API writes.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::doors::Doors;
use super::tls::TlsStatus;

/// Status of a KvCluster.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct KvClusterStatus {
    /// metadata.generation of the spec that this status speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// The conditions in one word.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phase: Option<Phase>,
    /// What goes on, in one line.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub summary: Option<String>,
    /// Ready pods of those asked for, voters and learners, as "3/3".
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ready: Option<String>,
    /// Voter pods that exist; read by the scale subresource.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replicas: Option<i32>,
    /// Ready pods, voters and learners.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ready_replicas: Option<i32>,
    /// Pods of the newest revision, voters and learners.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub updated_replicas: Option<i32>,
    /// Label selector of the voter pods; read by the scale subresource.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub selector: Option<String>,
    /// Id of the cluster, 16 hex digits. Recorded before the cluster is founded, never changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster_id: Option<String>,
    /// How the cluster was founded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub formation: Option<Formation>,
    /// What spec.bootstrap was found to mean when the cluster began; a KvBackup may be deleted later.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bootstrap: Option<super::bucket::Bootstrap>,
    /// Version that all members run; the lowest one during a rollout.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// Image of new pods.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// Who leads.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub leader: Option<LeaderStatus>,
    /// Pods and members, by pod name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["pod".into()]))]
    pub members: Vec<MemberStatus>,
    /// The change that is under way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub change: Option<ChangeStatus>,
    /// With the annotation kvnode.dev/plan=show: the next steps, none of which is done.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub plan: Vec<String>,
    /// Where clients connect.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoints: Option<Endpoints>,
    /// Backups, once they are configured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backup: Option<BackupStatus>,
    /// The locks in effect: of a cluster that is older than the defaults of spec.tls and spec.auth, those it was made with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub doors: Option<Doors>,
    /// How the content that the cluster begins with comes in, with spec.bootstrap.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restore: Option<RestoreStatus>,
    /// The certificate in use, with spec.tls.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<TlsStatus>,
    /// Conditions in the standard form; types and reasons are closed lists.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
}

/// The conditions in one word, worst first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Phase {
    /// Something must be changed by hand: see condition Stalled.
    Failed,
    /// `spec.hibernate`, and all pods are gone.
    Hibernated,
    /// Being founded.
    Creating,
    /// No leader or no quorum: commands wait or fail.
    Unavailable,
    /// `spec.paused`.
    Paused,
    /// Members come or go.
    Scaling,
    /// Pods are replaced one by one.
    RollingOut,
    /// A lost member is replaced.
    Replacing,
    /// Serves, but tolerates fewer failures than it should.
    Degraded,
    /// Another change is under way.
    Changing,
    /// As asked for.
    Ready,
}

/// The write-ahead record of founding.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Formation {
    /// Uids of the volumes that were empty when the cluster id was recorded. Founding is only tried again on the same
    /// volumes: on others it could throw data away that these held.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub volumes: Vec<String>,
    /// When the cluster was first seen formed. From then on it is never founded again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub formed_at: Option<Time>,
    /// True: the volumes were taken over with their data.
    #[serde(default)]
    pub adopted: bool,
}

/// Who leads.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LeaderStatus {
    /// Name of the pod.
    pub pod: String,
    /// Node id, 16 hex digits.
    pub node_id: String,
    /// Raft term.
    pub term: i64,
    /// Since when this operator has known it.
    pub since: Time,
}

/// Part that a member has in the group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum MemberRole {
    /// Leads.
    Leader,
    /// Votes and follows.
    Follower,
    /// Follows without a vote.
    Learner,
    /// Not a member (yet, or any more).
    None,
}

/// How a pod and its member are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum MemberState {
    /// Member in its role, answers, keeps up.
    Ready,
    /// Copies data or replays its log.
    CatchingUp,
    /// Runs, and waits to be made a member.
    Joining,
    /// The pod is being started.
    Starting,
    /// The pod cannot be placed on a Kubernetes node.
    Unschedulable,
    /// The pod does not start: image or crash.
    Failing,
    /// Stops.
    Stopping,
    /// Does not answer.
    Unreachable,
    /// In the membership, but there is no pod with its data.
    Lost,
    /// Its data belongs to another cluster.
    Foreign,
}

/// One pod and the member on it.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MemberStatus {
    /// Pod. For a member without a pod, the name that the pod had.
    pub pod: String,
    /// Node id, 16 hex digits. Random, made with the data directory, never used again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_id: Option<String>,
    /// Part in the group.
    pub role: MemberRole,
    /// How it is.
    pub state: MemberState,
    /// Version of the server.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// Entries behind the leader, rounded to two digits; absent below 1000.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lag: Option<i64>,
    /// Kubernetes node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// Zone of that Kubernetes node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub zone: Option<String>,
    /// What is wrong, in the words of Kubernetes or the node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}

/// Kind of a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ChangeKind {
    /// First formation.
    Create,
    /// More or fewer members.
    Scale,
    /// New revision of the pods.
    Rollout,
    /// A lost member.
    Replace,
    /// Larger volumes.
    GrowVolumes,
    /// All pods stop.
    Hibernate,
    /// All pods start.
    Wake,
}

/// The change that is under way.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ChangeStatus {
    /// What for.
    pub kind: ChangeKind,
    /// The newest step, as a sentence.
    pub step: String,
    /// Pod that the newest step was about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<String>,
    /// Uid of the pod that the newest step deleted; no other pod is deleted while it still exists.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod_uid: Option<String>,
    /// Revision that a rollout goes to; the value that approves it in manual mode.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<String>,
    /// When the change began.
    pub started_at: Time,
    /// When the newest step was first planned.
    pub step_since: Time,
}

/// Where clients connect.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Endpoints {
    /// Any node: what clients should use. Example: rediss://cart.shop.svc:6380.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub any: Option<String>,
    /// The leader.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub leader: Option<String>,
    /// Followers and learners.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub read: Option<String>,
}

/// Backups of the cluster. Written by the part of the operator that runs them.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BackupStatus {
    /// The newest good one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_success: Option<LastBackup>,
    /// The newest that failed, if it is newer than that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_failure: Option<FailedBackup>,
    /// When a good one was proved last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_verified: Option<Time>,
    /// When a server loaded one last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_restored: Option<Time>,
    /// When the next one is due.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_run: Option<Time>,
    /// The run that works.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub running: Option<String>,
    /// From when on each schedule counts: fire times up to it are not owed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub since: Vec<ScheduleSince>,
    /// What the bucket allowed when it was tried last, by the hash of its settings.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub probe: Option<ProbeStatus>,
}

/// The restore that the cluster begins with. Written by the part of the operator that runs backups.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RestoreStatus {
    /// Part of its life.
    #[serde(default)]
    pub phase: RestorePhase,
    /// How much is fetched, in per cent. Example: 43%.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub progress: Option<String>,
    /// Name of the run that is restored; absent for a bare state.bin.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backup: Option<String>,
    /// Time of the last write in it: nothing later will be there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<Time>,
    /// Index of the last entry in it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub index: Option<i64>,
    /// Keys of all databases.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keys: Option<i64>,
    /// Bytes of state.bin.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size_bytes: Option<i64>,
    /// What else one must know of it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
    /// Why it does not get on, one line.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// Part of its life that a restore is in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum RestorePhase {
    /// The founder's pod has not begun.
    #[default]
    Waiting,
    /// It is fetched and proved.
    Fetching,
    /// The founder loads it and counts what it then holds.
    Loading,
    /// The cluster was founded with it.
    Complete,
}

/// One good backup.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LastBackup {
    /// Name of the KvBackup.
    pub name: String,
    /// When it was complete.
    pub time: Time,
}

/// One that failed.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FailedBackup {
    /// Name of the KvBackup.
    pub name: String,
    /// When it was given up.
    pub time: Time,
    /// Why it failed, one line.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// Since when a schedule counts.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ScheduleSince {
    /// Name of the schedule.
    pub name: String,
    /// Since when.
    pub time: Time,
}

/// What the preflight probe found.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ProbeStatus {
    /// Hash of the settings that were tried.
    pub settings: String,
    /// What is not possible.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// True: retention can delete.
    #[serde(default)]
    pub may_delete: bool,
}
