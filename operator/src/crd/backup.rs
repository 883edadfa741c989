//! `KvBackup`: one run of a backup of one cluster, and its result.
//!
//! Made by a schedule of a KvCluster under a name that follows from the minute it was due, or by hand. It has no owner:
//! it outlives its KvCluster, as the backup does.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// One run of a backup.
#[derive(CustomResource, KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "kvnode.dev",
    version = "v1alpha1",
    kind = "KvBackup",
    plural = "kvbackups",
    singular = "kvbackup",
    shortname = "kvb",
    category = "all",
    namespaced,
    cel,
    status = "KvBackupStatus",
    derive = "PartialEq",
    doc = "One run of a backup of a KvCluster, and its result. Made by the schedules of spec.backup, or by hand.",
    printcolumn(name = "Cluster", type_ = "string", json_path = ".spec.cluster"),
    printcolumn(name = "Phase", type_ = "string", json_path = ".status.phase"),
    printcolumn(name = "Progress", type_ = "string", json_path = ".status.progress"),
    printcolumn(name = "Verified", type_ = "string", json_path = ".status.verified"),
    printcolumn(name = "Keys", type_ = "integer", json_path = ".status.keys"),
    printcolumn(name = "Bytes", type_ = "integer", json_path = ".status.sizeBytes"),
    printcolumn(name = "Took", type_ = "string", json_path = ".status.duration"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(name = "Uri", type_ = "string", json_path = ".status.uri", priority = 1),
    printcolumn(name = "Error", type_ = "string", json_path = ".status.error", priority = 1)
)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("self.cluster == oldSelf.cluster")
        .message("cluster cannot be changed: make another KvBackup"),
    validation = Rule::new("has(self.schedule) == has(oldSelf.schedule) && (!has(self.schedule) || self.schedule == oldSelf.schedule)")
        .message("schedule cannot be changed: it says what made this KvBackup")
)]
pub struct KvBackupSpec {
    /// Name of the KvCluster, in the same namespace. Cannot be changed. Example: cart.
    #[schemars(length(min = 1, max = 45))]
    pub cluster: String,
    /// Schedule of the KvCluster that made this run; absent for one made by hand. Cannot be changed. Example: hourly.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 32))]
    pub schedule: Option<String>,
    /// How the result is proved: Content reads it back, parses it and compares count and digest of the keys, Restore
    /// loads it with a real server and compares the same, Checksum only compares its bytes, Off proves nothing.
    /// Default: that of the KvCluster's spec.backup.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verify: Option<Verify>,
    /// What happens to the objects in the bucket when this KvBackup is deleted: Retain keeps them, Delete deletes them
    /// first, by a Job, and holds the KvBackup until they are gone. May be changed at any time: Retain lets a KvBackup
    /// go whose bucket cannot be reached. Default: Retain.
    #[serde(default)]
    pub deletion_policy: DeletionPolicy,
    /// Time that the run has, waiting and proof included, in minutes. Default: 360.
    #[serde(default = "six_hours")]
    #[schemars(range(min = 1, max = 10080))]
    pub deadline_minutes: i32,
}

fn six_hours() -> i32 {
    360
}

/// Fate of the objects of a KvBackup that is deleted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum DeletionPolicy {
    /// They stay.
    #[default]
    Retain,
    /// They go first.
    Delete,
}

/// How a backup is proved.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Verify {
    /// Read back, parsed, counted, digested and compared.
    #[default]
    Content,
    /// That, and then loaded by a real server and compared again.
    Restore,
    /// Read back, and its bytes compared.
    Checksum,
    /// Not proved.
    Off,
}

/// Part of its life that a run is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum BackupPhase {
    /// Waits for its turn.
    Pending,
    /// The snapshot is taken.
    Running,
    /// The snapshot is stored.
    Uploading,
    /// What was stored is proved.
    Verifying,
    /// Done.
    Complete,
    /// Given up.
    Failed,
}

/// How far a result is proved.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Verified {
    /// Not.
    No,
    /// Its bytes were read back and are equal.
    Checksum,
    /// It was read back, parsed and counted, and is equal.
    Content,
    /// A server loaded it, and it is equal.
    Restored,
    /// Proved to be wrong.
    Failed,
}

/// Result of a run.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct KvBackupStatus {
    /// Part of its life.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phase: Option<BackupPhase>,
    /// When the first attempt began.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<Time>,
    /// When it was complete or given up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub completed_at: Option<Time>,
    /// Time between them. Example: 38s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub duration: Option<String>,
    /// Where it is. Example: `s3://acme-kv/prod/orders/1f/snap/900-20261122T130356Z/`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uri: Option<String>,
    /// Cluster that the content belongs to, 16 hex digits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster_id: Option<String>,
    /// Term of the last entry in it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub term: Option<i64>,
    /// Index of the last entry in it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub index: Option<i64>,
    /// Keys of all databases.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keys: Option<i64>,
    /// Bytes of state.bin.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size_bytes: Option<i64>,
    /// SHA-256 of state.bin, 64 hex digits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
    /// Pod that it was taken from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source_pod: Option<String>,
    /// How far the phase is, in per cent. Example: 43%.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub progress: Option<String>,
    /// Version of the server that wrote it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server_version: Option<String>,
    /// Where it is and as whom it was written, for bootstrap.backupRef.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub destination: Option<super::bucket::S3>,
    /// Key that it is encrypted with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub encryption_key: Option<super::bucket::SecretKey>,
    /// Attempts so far.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attempts: Option<i32>,
    /// How far it is proved.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verified: Option<Verified>,
    /// Why it failed, one line.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// Conditions in the standard form.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
}
