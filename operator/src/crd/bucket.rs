//! Where backups go and where restores come from: the parts of KvCluster's spec that name a bucket.

#![allow(unreachable_pub, reason = "kube's KubeSchema repeats structs inside a function")]
#![allow(
    clippy::doc_markdown,
    clippy::doc_link_with_quotes,
    reason = "kubectl explain shows these texts as they are"
)]

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::backup::Verify;

/// A bucket of S3 or of a store that speaks S3.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("!(has(self.credentialsSecret) && has(self.serviceAccountName))")
        .message("s3: give credentialsSecret or serviceAccountName, not both"),
    validation = Rule::new("!has(self.endpoint) || self.endpoint.startsWith('https://') || self.endpoint.startsWith('http://')")
        .message("s3.endpoint must begin with https:// or http://")
)]
pub struct S3 {
    /// Name of the bucket. It must exist. Example: acme-kv.
    #[schemars(length(min = 3, max = 63))]
    pub bucket: String,
    /// Prefix of all keys. Below it each cluster has a place of its own. Example: prod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 256))]
    pub prefix: Option<String>,
    /// Region. Default: us-east-1. Example: eu-central-1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 64))]
    pub region: Option<String>,
    /// Endpoint of a store other than AWS. Loopback, link-local and metadata addresses are refused. Example:
    /// https://minio.storage.svc:9000.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 8, max = 512))]
    pub endpoint: Option<String>,
    /// ENDPOINT/BUCKET/KEY instead of BUCKET.ENDPOINT/KEY, as most stores other than AWS want it. Default: false.
    #[serde(default)]
    pub path_style: bool,
    /// Secret with AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and perhaps AWS_SESSION_TOKEN. Only the Jobs that move
    /// backups see it. Example: kv-backup.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub credentials_secret: Option<String>,
    /// ServiceAccount of the Jobs, for web identity instead of a Secret. Example: kv-backup.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub service_account_name: Option<String>,
    /// Secret with ca.crt: CAs to trust beside the system's. Example: minio-ca.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub ca_secret: Option<String>,
    /// Encryption by the store: AES256, aws:kms or aws:kms:KEY-ID. Example: aws:kms.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 2048), regex(pattern = "^(AES256|aws:kms(:.+)?)$"))]
    pub sse: Option<String>,
    /// Storage class of the content. Example: STANDARD_IA.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 64))]
    pub storage_class: Option<String>,
    /// Checksums that the store checks: WhenRequired, or Sha256 with every part. Default: WhenRequired.
    #[serde(default)]
    pub checksums: S3Checksums,
}

/// Checksums sent along.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum S3Checksums {
    /// None where the service requires none.
    #[default]
    WhenRequired,
    /// SHA-256 with every object and part.
    Sha256,
}

/// A key of a Secret.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SecretKey {
    /// Name of the Secret. Example: kv-backup-key.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// Key in it. Default: key. Example: key.
    #[serde(default = "key")]
    #[schemars(length(min = 1, max = 253))]
    pub key: String,
}

fn key() -> String {
    "key".into()
}

/// Backups of a cluster.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Backup {
    /// Where to.
    pub s3: S3,
    /// When. None: only KvBackups made by hand. Example: [{name: hourly, cron: "0 * * * *"}].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub schedules: Vec<Schedule>,
    /// What is kept. Without it everything is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retention: Option<Retention>,
    /// How each run is proved: Content (read back, parsed, counted), Restore (also loaded by a server), Checksum or
    /// Off. Default: Content.
    #[serde(default)]
    pub verify: Verify,
    /// With Content: which runs are loaded by a server all the same. Daily is the first run, the first after a change
    /// of the server's version, and one each day. Default: Daily.
    #[serde(default)]
    pub restore_test: RestoreTest,
    /// Key of 32 bytes (raw, hex or base64) that backups are encrypted with before they leave. Who loses it loses the
    /// backups. Example: {name: kv-backup-key}.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub encryption_key: Option<SecretKey>,
    /// What happens before the KvCluster goes: Nothing, or FinalBackup, which holds it and its pods until one more backup
    /// is complete. May be changed at any time, also while it is held. Default: Nothing.
    #[serde(default)]
    pub on_delete: OnDelete,
    /// No runs by schedule while true. Default: false.
    #[serde(default)]
    pub suspend: bool,
}

/// What happens before a cluster goes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum OnDelete {
    /// Nothing.
    #[default]
    Nothing,
    /// One more backup.
    FinalBackup,
}

/// When a run is due.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Schedule {
    /// Name, part of the runs' names. Example: hourly.
    #[schemars(length(min = 1, max = 32), regex(pattern = "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"))]
    pub name: String,
    /// Five fields (minute, hour, day of month, month, day of week), or @hourly, @daily, @weekly, @monthly, @yearly.
    /// Example: 0 * * * *.
    #[schemars(length(min = 1, max = 128))]
    pub cron: String,
    /// IANA time zone. Default: UTC. Example: Europe/Berlin.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 64))]
    pub time_zone: Option<String>,
    /// Time that a run has, waiting and proof included, in minutes. Default: 360. Example: 60.
    #[serde(default = "six_hours")]
    #[schemars(range(min = 1, max = 10080))]
    pub deadline_minutes: i32,
    /// No runs of this schedule while true. Default: false.
    #[serde(default)]
    pub suspend: bool,
}

fn six_hours() -> i32 {
    360
}

/// What is kept; a backup stays if one of the rules wants it, and the newest verified one always does.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Retention {
    /// The newest ones. Example: 24.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 10000))]
    pub keep_last: Option<u32>,
    /// Days of which the newest is kept. Example: 14.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 10000))]
    pub keep_daily: Option<u32>,
    /// Weeks of which the newest is kept. Example: 8.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 10000))]
    pub keep_weekly: Option<u32>,
    /// Months of which the newest is kept. Example: 6.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 10000))]
    pub keep_monthly: Option<u32>,
    /// Nothing older is kept. Example: 90d.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 2, max = 8), regex(pattern = "^[1-9][0-9]*[hdw]$"))]
    pub max_age: Option<String>,
}

/// Which runs are loaded by a server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum RestoreTest {
    /// The first, the first of a version, and one each day.
    #[default]
    Daily,
    /// None.
    Off,
}

/// What a new cluster begins with.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("has(self.backupRef) != has(self.s3)")
        .message("bootstrap: give exactly one of backupRef and s3"),
    validation = Rule::new("!has(self.backupRef) || !has(self.targetTime)")
        .message("bootstrap.targetTime needs s3: a backupRef names one backup")
)]
pub struct Bootstrap {
    /// A KvBackup of this namespace that is Complete. Example: orders-hourly-29372100.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub backup_ref: Option<String>,
    /// A bucket, also when nothing of the old cluster is left in Kubernetes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub s3: Option<BootstrapS3>,
    /// The newest backup whose content is not younger. Default: the newest. Example: 2026-11-21T14:05:00Z.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target_time: Option<Time>,
    /// Key of encrypted backups.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub encryption_key: Option<SecretKey>,
}

/// Which backup in a bucket.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("has(self.cluster) || has(self.key)")
        .message("bootstrap.s3: give cluster, or key for a bare state.bin")
)]
pub struct BootstrapS3 {
    /// Bucket that they are in.
    pub store: S3,
    /// Name of the cluster that wrote them. Example: orders.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 45))]
    pub cluster: Option<String>,
    /// One backup, by the name of its run. Default: the newest that is verified. Example: orders-hourly-29372100.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub backup: Option<String>,
    /// Key of a bare state.bin without our meta.json, of this server or of the ancestor. Example: old/state.bin.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 1024))]
    pub key: Option<String>,
}
