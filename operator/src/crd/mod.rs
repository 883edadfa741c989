//! `KvCluster` as users write it: shape, defaults, rules, columns. `kubectl explain kvc.spec` shows these comments.
//!
//! ```text
//! crd/mod.rs     spec of KvCluster        what the user wants; every field has a default, `spec: {}` is complete
//! crd/status.rs  status of KvCluster      what the operator saw and does; written in one place (`report`)
//! crd/auth.rs    spec.auth
//! crd/tls.rs     spec.tls, status.tls
//! crd/doors.rs   status.doors: what of both is in effect
//! crd/reason.rs  condition types, reasons, event reasons: the closed lists
//! crd/bucket.rs  spec.backup, spec.bootstrap of KvCluster: buckets, schedules, what a cluster begins with
//! crd/backup.rs  KvBackup                 one run of a backup
//! ```
//!
//! Invariants
//! - All validation that the API server can do is in the schema (CEL); there is no webhook. What it cannot do is in
//!   [`crate::validate`].
//! - Every optional field is left out of the JSON when absent: CEL's `has` is true for an explicit null.
//! - Each list, map and string that a rule walks over has a limit, which keeps the rules inside the API server's budget.

#![allow(unreachable_pub, reason = "kube's KubeSchema repeats structs inside a function")]
#![allow(clippy::duplicated_attributes, reason = "printer columns share words")]
#![allow(
    clippy::doc_markdown,
    clippy::doc_link_with_quotes,
    rustdoc::bare_urls,
    rustdoc::broken_intra_doc_links,
    reason = "kubectl explain shows these texts as they are"
)]

pub mod auth;
pub mod backup;
pub mod bucket;
pub mod doors;
pub mod reason;
pub mod status;
pub mod tls;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{LocalObjectReference, ResourceRequirements, Toleration};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use kube::{CustomResource, CustomResourceExt as _, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use self::auth::AuthSpec;
use self::status::KvClusterStatus;
use self::tls::TlsSpec;

/// API group of all kinds.
pub const GROUP: &str = "kvnode.dev";

/// A kvnode cluster: one Raft group of a few pods that serves the Redis protocol and keeps each acknowledged write.
#[derive(CustomResource, KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "kvnode.dev",
    version = "v1alpha1",
    kind = "KvCluster",
    plural = "kvclusters",
    singular = "kvcluster",
    shortname = "kvc",
    category = "all",
    namespaced,
    cel,
    status = "KvClusterStatus",
    derive = "PartialEq",
    doc = "A kvnode cluster: one Raft group of a few pods that serves the Redis protocol and keeps each acknowledged write. An empty spec is a complete, highly available cluster of three.",
    scale(
        spec_replicas_path = ".spec.replicas",
        status_replicas_path = ".status.replicas",
        label_selector_path = ".status.selector"
    ),
    printcolumn(name = "Ready", type_ = "string", json_path = ".status.ready", description = "Ready pods of those asked for, voters and learners"),
    printcolumn(name = "Leader", type_ = "string", json_path = ".status.leader.pod", description = "Pod that leads"),
    printcolumn(name = "Phase", type_ = "string", json_path = ".status.phase"),
    printcolumn(name = "Version", type_ = "string", json_path = ".status.version", description = "Version that all members run; the lowest one during a rollout"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(name = "Last-Backup", type_ = "date", json_path = ".status.backup.lastSuccess.time", priority = 1, description = "Age of the newest good backup"),
    printcolumn(name = "Term", type_ = "integer", json_path = ".status.leader.term", priority = 1),
    printcolumn(name = "Summary", type_ = "string", json_path = ".status.summary", priority = 1, description = "What goes on, in one line"),
    validation = Rule::new("self.metadata.name.size() <= 45 && self.metadata.name.matches('^[a-z]([-a-z0-9]*[a-z0-9])?$')")
        .message("metadata.name must be at most 45 characters of a-z, 0-9 and '-', and begin with a letter: pods and Services are named after it"),
    validation = Rule::new("!(self.metadata.name.endsWith('-leader') || self.metadata.name.endsWith('-read') || self.metadata.name.endsWith('-raft') || self.metadata.name.endsWith('-learner') || self.metadata.name.endsWith('-config'))")
        .message("metadata.name must not end in -leader, -read, -raft, -learner or -config: objects of another cluster could have that name"),
    validation = Rule::new("self.spec.tls.mode == oldSelf.spec.tls.mode || (has(self.status) && has(self.status.doors) && self.status.doors.tls == self.spec.tls.mode)")
        .message("spec.tls.mode cannot be changed: pods in the clear and pods with TLS would not find each other. Where the manifest does not name it, name the one in status.doors, and auth.enabled beside it: both are on by default")
)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("self.replicas % 2 == 1")
        .message("replicas must be odd: an even number of voters tolerates no more failures than one less"),
    validation = Rule::new("self.hibernate == oldSelf.hibernate || (self.replicas == oldSelf.replicas && self.learners == oldSelf.learners)")
        .message("replicas or learners and hibernate cannot change in the same edit: wake the cluster first, then scale it"),
    validation = Rule::new("has(self.bootstrap) == has(oldSelf.bootstrap) && (!has(self.bootstrap) || self.bootstrap == oldSelf.bootstrap)")
        .message("bootstrap cannot be changed, added or removed: it says what the cluster began with")
)]
pub struct KvClusterSpec {
    /// Voters: pods that hold all data and decide by majority. Of 3 one may be lost without an interruption, of 5 two.
    /// Odd, 1 to 9. Example: 5. Default: 3.
    #[serde(default = "three")]
    #[schemars(range(min = 1, max = 9))]
    pub replicas: i32,
    /// Learners: pods that hold all data, serve reads and forward writes, but have no vote. They make reads scale and
    /// are the preferred source of backups. 0 to 16. Example: 1. Default: 0.
    #[serde(default)]
    #[schemars(range(min = 0, max = 16))]
    pub learners: i32,
    /// Image of the server. Default: the image that belongs to the operator's version when the cluster is made; a newer
    /// operator changes it only as rollout.operatorUpgrade says. Example: registry.example/kvnode-server:0.1.0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512))]
    pub image: Option<String>,
    /// When the image is pulled: Always, IfNotPresent or Never. Default: IfNotPresent.
    #[serde(default)]
    pub image_pull_policy: PullPolicy,
    /// Secrets with the credentials of a private registry. Example: [{name: registry}].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8))]
    pub image_pull_secrets: Vec<LocalObjectReference>,
    /// Volumes of the pods.
    #[serde(default)]
    pub storage: Storage,
    /// Settings of the server, by the keys of its configuration file (`kvnode-server config-example` lists them).
    /// log_filter applies without a restart, others by a rolling one. Keys that the operator owns (addresses, paths,
    /// formation) are refused. Values are text. Example: {durability: high, clients_max: "20000"}.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 128))]
    #[x_kube(validation = Rule::new("!('addr' in self || 'peer_addr' in self || 'http_addr' in self || 'advertise_addr' in self || 'advertise_peer_addr' in self || 'data' in self || 'log_dir' in self || 'join' in self || 'restore' in self || 'formation' in self || 'requirepass_file' in self || self.exists(key, key.startsWith('tls_') || key.startsWith('peer_tls') || key.startsWith('http_tls_')))")
        .message("addr, peer_addr, http_addr, advertise_addr, advertise_peer_addr, data, log_dir, join, restore, formation, requirepass_file and what spec.tls decides belong to the operator"))]
    pub config: BTreeMap<String, ConfigValue>,
    /// Services. `<name>` (all ready nodes) is the one that clients need; any node serves any command.
    #[serde(default)]
    pub services: Services,
    /// Where pods may run.
    #[serde(default)]
    pub scheduling: Scheduling,
    /// Processor and memory of the server container. Without it the pod has no limits and may be evicted first. A change
    /// is made in place, without a restart, where Kubernetes can (1.33 and later), else by a rolling one.
    /// Example: {requests: {cpu: "1", memory: 2Gi}, limits: {memory: 2Gi}}.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resources: Option<ResourceRequirements>,
    /// How changes of image, settings or resources reach the pods: one pod at a time, the leader last.
    #[serde(default)]
    pub rollout: Rollout,
    /// Backups to S3: where to, when, what is kept, how each is proved.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backup: Option<bucket::Backup>,
    /// What the cluster begins with: a backup instead of nothing. Cannot be changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bootstrap: Option<bucket::Bootstrap>,
    /// Who may reach the pods.
    #[serde(default)]
    pub network_policy: NetworkPolicySpec,
    /// Passwords of clients. On unless turned off.
    #[serde(default)]
    pub auth: AuthSpec,
    /// Certificates and encryption. On unless turned off.
    #[serde(default)]
    pub tls: TlsSpec,
    /// Stops all pods and keeps volumes and membership; false starts them again with all data. Default: false.
    #[serde(default)]
    pub hibernate: bool,
    /// The operator observes and reports, but changes nothing: not one object, not one pod, not the membership. The
    /// labels behind the leader and read Services are still kept. Default: false.
    #[serde(default)]
    pub paused: bool,
    /// Laid over the pod template of the operator, as a strategic merge: containers, volumes and env by name. For what
    /// has no field of its own. The server's container is `server`. Example:
    /// {spec: {containers: [{name: server, env: [{name: TZ, value: UTC}]}]}}.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "free_object")]
    pub pod_template: Option<serde_json::Value>,
}

fn three() -> i32 {
    3
}

fn yes() -> bool {
    true
}

/// An object that the API server keeps as it is.
fn free_object(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    schemars::json_schema!({ "type": "object", "x-kubernetes-preserve-unknown-fields": true })
}

impl Default for KvClusterSpec {
    fn default() -> Self {
        Self {
            replicas: three(),
            learners: 0,
            image: None,
            image_pull_policy: PullPolicy::default(),
            image_pull_secrets: Vec::new(),
            storage: Storage::default(),
            config: BTreeMap::new(),
            services: Services::default(),
            scheduling: Scheduling::default(),
            resources: None,
            rollout: Rollout::default(),
            backup: None,
            bootstrap: None,
            network_policy: NetworkPolicySpec::default(),
            auth: AuthSpec::default(),
            tls: TlsSpec::default(),
            hibernate: false,
            paused: false,
            pod_template: None,
        }
    }
}

/// One value of `spec.config`, as text.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct ConfigValue(#[schemars(length(max = 1024))] pub String);

/// `imagePullPolicy` of the server container.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum PullPolicy {
    /// Ask the registry at each start.
    Always,
    /// Only when the node does not have it.
    #[default]
    IfNotPresent,
    /// The node has it, or the pod does not start.
    Never,
}

impl PullPolicy {
    /// The word of the core API.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Always => "Always",
            Self::IfNotPresent => "IfNotPresent",
            Self::Never => "Never",
        }
    }
}

/// Volumes of the pods, one each.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("quantity(string(self.size)).compareTo(quantity('1Gi')) >= 0")
        .message("storage.size must be at least 1Gi: the log alone takes several segments of 64 MiB and a reserve of 256 MiB"),
    validation = Rule::new("quantity(string(self.size)).compareTo(quantity(string(oldSelf.size))) >= 0")
        .message("storage.size can only grow: volumes cannot shrink"),
    validation = Rule::new("has(self.storageClassName) == has(oldSelf.storageClassName) && (!has(self.storageClassName) || self.storageClassName == oldSelf.storageClassName)")
        .message("storage.storageClassName cannot be changed, added or removed: volumes keep the class they were made with")
)]
pub struct Storage {
    /// Size of each volume, as a Kubernetes quantity of bytes. May grow later, never shrink. At least 1Gi. Example:
    /// 50Gi. Default: 10Gi.
    #[serde(default = "ten_gibibytes")]
    pub size: Quantity,
    /// Storage class of the volumes. Cannot be changed. Example: fast. Default: the default class of the Kubernetes
    /// cluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub storage_class_name: Option<String>,
    /// What happens to the volume of a member after it was removed by scaling down: Retain keeps it until its place is
    /// needed again, Delete deletes it at once. A volume is only ever deleted after the removal of its member is
    /// committed. Default: Retain.
    #[serde(default)]
    pub when_scaled: KeepOrDelete,
    /// What happens to the volumes when the KvCluster is deleted. Retain keeps them: a new KvCluster of the same name
    /// takes them over with all data. Default: Retain.
    #[serde(default)]
    pub when_deleted: KeepOrDelete,
    /// What happens when a volume is bound to a Kubernetes node that no longer exists (local disks): Wait for the node
    /// to come back, or Replace the member with an empty one that copies the data from the others. Default: Wait.
    #[serde(default)]
    pub on_node_gone: OnNodeGone,
}

fn ten_gibibytes() -> Quantity {
    Quantity("10Gi".into())
}

impl Default for Storage {
    fn default() -> Self {
        Self {
            size: ten_gibibytes(),
            storage_class_name: None,
            when_scaled: KeepOrDelete::default(),
            when_deleted: KeepOrDelete::default(),
            on_node_gone: OnNodeGone::default(),
        }
    }
}

/// Fate of a volume.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum KeepOrDelete {
    /// Keep.
    #[default]
    Retain,
    /// Delete.
    Delete,
}

/// What to do about a volume on a vanished node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum OnNodeGone {
    /// Wait for the node.
    #[default]
    Wait,
    /// Give the volume up and replace the member.
    Replace,
}

/// The Services beside the headless `<name>-raft`, which always exists.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Services {
    /// `<name>`: all ready nodes, port 6379. Writes that arrive at a follower are forwarded to the leader.
    #[serde(default)]
    pub any: ServiceSpec,
    /// `<name>-leader`: the leader only, port 6379. Saves the forwarding hop.
    #[serde(default)]
    pub leader: ServiceSpec,
    /// `<name>-read`: followers and learners, port 6379; with one voter and no learner the leader. Takes reads off the
    /// leader; they are as consistent as anywhere.
    #[serde(default)]
    pub read: ServiceSpec,
}

/// One Service.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("self.type == 'LoadBalancer' || !(has(self.loadBalancerClass) || has(self.loadBalancerSourceRanges))")
        .message("loadBalancerClass and loadBalancerSourceRanges need type LoadBalancer")
)]
pub struct ServiceSpec {
    /// False removes the Service. Default: true.
    #[serde(default = "yes")]
    pub enabled: bool,
    /// ClusterIP, NodePort or LoadBalancer. Before it leaves the Kubernetes cluster, set tls.clients to Required: else the
    /// port in the clear leaves with it, and passwords cross it readable. Default: ClusterIP.
    #[serde(default, rename = "type")]
    pub type_: ServiceType,
    /// Annotations of the Service, for a cloud's load balancer, say. Example:
    /// {service.beta.kubernetes.io/aws-load-balancer-scheme: internal}.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 64))]
    pub annotations: BTreeMap<String, String>,
    /// Class of the load balancer. Example: service.k8s.aws/nlb.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub load_balancer_class: Option<String>,
    /// Client networks that the load balancer admits, as CIDR. Example: ["10.0.0.0/8"].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub load_balancer_source_ranges: Vec<String>,
    /// Where connections go first: PreferClose and PreferSameZone to pods of the client's zone, PreferSameNode to one on
    /// its Kubernetes node, if there is one. Saves the way between zones; all clients of a zone are then served by the
    /// pods there. PreferClose needs Kubernetes 1.31, the others 1.34. Default: evenly to all pods.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub traffic_distribution: Option<TrafficDistribution>,
}

/// Where connections to a Service go first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum TrafficDistribution {
    /// The client's zone.
    PreferClose,
    /// The client's zone, by its newer name.
    PreferSameZone,
    /// The client's Kubernetes node.
    PreferSameNode,
}

impl Default for ServiceSpec {
    fn default() -> Self {
        Self {
            enabled: true,
            type_: ServiceType::default(),
            annotations: BTreeMap::new(),
            load_balancer_class: None,
            load_balancer_source_ranges: Vec::new(),
            traffic_distribution: None,
        }
    }
}

/// Kind of a Service.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ServiceType {
    /// Inside the Kubernetes cluster.
    #[default]
    #[serde(rename = "ClusterIP")]
    ClusterIp,
    /// A port of each Kubernetes node.
    NodePort,
    /// A load balancer of the cloud.
    LoadBalancer,
}

impl ServiceType {
    /// The word of the core API.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ClusterIp => "ClusterIP",
            Self::NodePort => "NodePort",
            Self::LoadBalancer => "LoadBalancer",
        }
    }
}

/// Where pods may run.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Scheduling {
    /// One pod of the cluster per Kubernetes node: Preferred, Required (a pod without a node of its own stays pending)
    /// or Off. Default: Preferred.
    #[serde(default)]
    pub per_node: Spread,
    /// Pods evenly over zones (topology.kubernetes.io/zone): Preferred, Required or Off. Default: Preferred.
    #[serde(default)]
    pub per_zone: Spread,
    /// Labels that a Kubernetes node must have. Example: {disk: nvme}.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 32))]
    pub node_selector: BTreeMap<String, String>,
    /// Taints that the pods tolerate. Example: [{key: dedicated, operator: Equal, value: kv, effect: NoSchedule}].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    pub tolerations: Vec<Toleration>,
    /// PriorityClass of the pods. Example: system-cluster-critical.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub priority_class_name: Option<String>,
}

/// How strictly pods are spread.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Spread {
    /// If it can be done.
    #[default]
    Preferred,
    /// Or the pod stays pending.
    Required,
    /// Not asked for.
    Off,
}

/// How a change reaches the pods.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Rollout {
    /// Auto goes through; Manual stops before the leader and waits for the annotation kvnode.dev/approve-rollout with
    /// the value of status.change.revision. Default: Auto.
    #[serde(default)]
    pub mode: RolloutMode,
    /// What a newer operator may do by itself: KeepPods leaves running pods as they are (condition UpdateAvailable
    /// tells that there is something newer; the next change of the spec takes it along), RollPods rolls them. Default:
    /// KeepPods.
    #[serde(default)]
    pub operator_upgrade: OperatorUpgrade,
}

/// Whether a rollout goes through.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum RolloutMode {
    /// To the end.
    #[default]
    Auto,
    /// Up to the leader.
    Manual,
}

/// What an upgrade of the operator does to running pods.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum OperatorUpgrade {
    /// Nothing.
    #[default]
    KeepPods,
    /// A rolling restart, if its pod template is another one.
    RollPods,
}

/// The NetworkPolicy of the pods.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NetworkPolicySpec {
    /// The client port is open to all, the peer port to the cluster's own pods, the admin port to them and to the
    /// operator. False removes the policy. Default: true.
    #[serde(default = "yes")]
    pub enabled: bool,
    /// Namespaces whose pods may reach the admin port too, for /metrics; by kubernetes.io/metadata.name. Example:
    /// [monitoring].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub scrape_namespaces: Vec<String>,
}

impl Default for NetworkPolicySpec {
    fn default() -> Self {
        Self { enabled: true, scrape_namespaces: Vec::new() }
    }
}

/// Quotes the items of lists that are booleans to readers of YAML 1.1, as kubectl and helm are: without it an enum with
/// `Off` allows `false` and refuses the word.
fn old_readers(yaml: &str) -> String {
    let quoted = yaml.lines().map(|line| match line.split_once("- ") {
        Some((indent, word @ ("Off" | "On" | "No" | "Yes"))) if indent.trim().is_empty() => {
            format!("{indent}- '{word}'\n")
        }
        _ => format!("{line}\n"),
    });
    quoted.collect()
}

/// Both CustomResourceDefinitions as one YAML stream, `deploy/crd.yaml`.
///
/// # Errors
/// If a schema cannot be written, which a test excludes.
pub fn yaml() -> Result<String, serde_yaml::Error> {
    let head = "# Generated by `kvnode-operator crd`; do not edit.\n";
    let cluster = old_readers(&serde_yaml::to_string(&KvCluster::crd())?);
    let backup = old_readers(&serde_yaml::to_string(&backup::KvBackup::crd())?);
    Ok(format!("{head}---\n{cluster}---\n{backup}"))
}
