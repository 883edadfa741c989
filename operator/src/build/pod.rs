//! The pod template: one container, restricted, without credentials.
//!
//! Life of a pod: starts unformed or replays its log (`/startupz`, up to 10 minutes) -> ready when it is a member that
//! keeps up (`/readyz`) -> on deletion 3 s in which endpoints forget it (preStop), then SIGTERM: it hands leadership
//! over, drains its clients and flushes, within 60 s.

use k8s_openapi::DeepMerge as _;
use k8s_openapi::api::core::v1::PodTemplateSpec;
use serde_json::{Value, json};

use super::{config_map, hash, labels, put, typed};
use crate::backup::duty::job;
use crate::crd::Spread;
use crate::crd::tls::ClientTls;
use crate::observed::SetRole;
use crate::validate::Cluster;

/// User and group of the server in its image.
const USER: i64 = 65532;
/// Seconds between the decision to stop a pod and SIGTERM.
const PRE_STOP_SECONDS: i64 = 3;
/// Seconds between the decision to stop a pod and SIGKILL.
const GRACE_SECONDS: i64 = 60;
const DATA_DIR: &str = "/data";
/// Loading a backup of a terabyte takes hours; a restart would only begin anew.
const RESTORE_SECONDS_MAX: i32 = 6 * 3600;
/// Where the founder's backup lies.
const RESTORE_DIR: &str = "/data/restore";
/// Where the fetching container sees the configuration.
const RESTORE_CONFIG_DIR: &str = "/etc/kvnode/config";

/// What the user's spec asks of pods, as a hash. Two operators of different versions agree on it.
pub(super) fn intent(cluster: &Cluster, role: SetRole) -> String {
    let spec = &cluster.spec;
    let mut intent = json!({
        "role": role.as_str(),
        "image": spec.image,
        "imagePullPolicy": spec.image_pull_policy,
        "imagePullSecrets": spec.image_pull_secrets,
        "config": config_map::restart_settings(cluster),
        "scheduling": spec.scheduling,
        "resources": spec.resources,
        "podTemplate": spec.pod_template,
    });
    if let Some(secret) = cluster.tls_secret() {
        put(&mut intent, "tls", json!([secret, config_map::tls_settings(cluster)]));
    }
    if let Some(asked) = cluster.client_auth() {
        put(&mut intent, "clients", json!(asked.secret_name));
    }
    if cluster.spec.auth.enabled {
        put(&mut intent, "auth", json!(true));
    }
    if config_map::has_users(cluster) {
        put(&mut intent, "users", json!(true));
    }
    hash(&intent)
}

/// The template as this version of the operator makes it, overlay applied.
pub(super) fn template(cluster: &Cluster, role: SetRole) -> PodTemplateSpec {
    let set_labels = labels::set_selector(&cluster.name, role);
    let mut pod_labels = set_labels.clone();
    pod_labels.extend(labels::common(&cluster.name));
    let mut pod: PodTemplateSpec = typed(json!({
        "metadata": {
            "labels": pod_labels,
            "annotations": {
                labels::CONFIG: hash(&json!(config_map::restart_settings(cluster))),
                "kubectl.kubernetes.io/default-container": labels::CONTAINER,
            },
        },
        "spec": pod_spec(cluster, role),
    }));
    if let Some(overlay) = &cluster.overlay {
        pod.merge_from(overlay.clone());
    }
    let shape = shape(&pod);
    let notes = pod.metadata.get_or_insert_default().annotations.get_or_insert_default();
    notes.insert(labels::POD_SHAPE.to_owned(), shape);
    pod
}

/// Hash of what cannot be changed without a restart.
fn shape(pod: &PodTemplateSpec) -> String {
    let mut pod = pod.clone();
    let containers = pod.spec.iter_mut().flat_map(|spec| &mut spec.containers);
    for server in containers.filter(|container| container.name == labels::CONTAINER) {
        server.resources = None;
    }
    hash(&json!(pod))
}

fn pod_spec(cluster: &Cluster, role: SetRole) -> Value {
    let spec = &cluster.spec;
    let mut pod = json!({
        "serviceAccountName": cluster.name,
        "automountServiceAccountToken": false,
        // Else a Service named kvnode would give the server settings that it refuses.
        "enableServiceLinks": false,
        "terminationGracePeriodSeconds": GRACE_SECONDS,
        "securityContext": {
            "runAsNonRoot": true,
            "runAsUser": USER,
            "runAsGroup": USER,
            "fsGroup": USER,
            "fsGroupChangePolicy": "OnRootMismatch",
            "seccompProfile": { "type": "RuntimeDefault" },
        },
        "containers": [container(cluster, role)],
        "volumes": [
            { "name": "config", "configMap": { "name": labels::config_map(&cluster.name) } },
        ],
    });
    if let Some(secret) = cluster.tls_secret()
        && let Some(Value::Array(volumes)) = pod.get_mut("volumes")
    {
        // Readable for the group that the server runs in, and for nobody else.
        volumes.push(
            json!({ "name": labels::TLS_VOLUME, "secret": { "secretName": secret, "defaultMode": 0o440 } }),
        );
    }
    if let Some(asked) = cluster.client_auth()
        && let Some(Value::Array(volumes)) = pod.get_mut("volumes")
    {
        let items = json!([{ "key": "ca.crt", "path": "ca.crt" }]);
        volumes.push(json!({ "name": "clients", "secret": { "secretName": asked.secret_name, "defaultMode": 0o440, "items": items } }));
    }
    if cluster.spec.auth.enabled
        && let Some(Value::Array(volumes)) = pod.get_mut("volumes")
    {
        let items = json!([{ "key": "passwords", "path": "passwords" }]);
        let secret = labels::auth_secret(&cluster.name);
        volumes.push(json!({ "name": labels::AUTH_VOLUME, "secret": { "secretName": secret, "defaultMode": 0o440, "items": items } }));
    }
    if config_map::has_users(cluster)
        && let Some(Value::Array(volumes)) = pod.get_mut("volumes")
    {
        let secret = labels::acl_secret(&cluster.name);
        volumes.push(json!({ "name": "acl", "secret": { "secretName": secret, "defaultMode": 0o440 } }));
    }
    if !spec.image_pull_secrets.is_empty() {
        put(&mut pod, "imagePullSecrets", json!(spec.image_pull_secrets));
    }
    if !spec.scheduling.node_selector.is_empty() {
        put(&mut pod, "nodeSelector", json!(spec.scheduling.node_selector));
    }
    if !spec.scheduling.tolerations.is_empty() {
        put(&mut pod, "tolerations", json!(spec.scheduling.tolerations));
    }
    if let Some(class) = &spec.scheduling.priority_class_name {
        put(&mut pod, "priorityClassName", json!(class));
    }
    spread(cluster, role, &mut pod);
    if role == SetRole::Voter {
        restore(cluster, &mut pod);
    }
    pod
}

/// The container that fetches what the founder begins with. On other pods, and once the cluster is formed, it ends at
/// once. Only it sees the credentials of the bucket.
fn restore(cluster: &Cluster, pod: &mut Value) {
    let Some(bootstrap) = &cluster.spec.bootstrap else { return };
    let Some(source) = &bootstrap.s3 else { return };
    let mut what = vec![
        "--pod=$(POD_NAME)".to_owned(),
        format!("--for-pod={}", labels::pod(&cluster.name, SetRole::Voter, 0)),
        format!("--while-file={}/{}", RESTORE_CONFIG_DIR, config_map::RESTORE_FILE),
        format!("--unless-formed={DATA_DIR}"),
        format!("--into={RESTORE_DIR}"),
        "--report-file=/dev/termination-log".to_owned(),
        format!("--progress-addr=0.0.0.0:{}", job::PROGRESS_PORT),
    ];
    what.extend(source.cluster.iter().map(|name| format!("--cluster={name}")));
    what.extend(source.backup.iter().map(|name| format!("--backup={name}")));
    what.extend(source.key.iter().map(|key| format!("--key={key}")));
    what.extend(bootstrap.target_time.iter().map(|time| format!("--at={}", time.0)));
    let images = job::Images {
        pull_policy: cluster.spec.image_pull_policy.as_str().into(),
        ..cluster.operator.images.clone()
    };
    let key = bootstrap.encryption_key.as_ref();
    let (mut init, volumes) = job::restore(&source.store, key, &what, &images);
    put(&mut init, "env", json!([pod_name()]));
    put(pod, "initContainers", json!([init]));
    if let Some(Value::Array(all)) = pod.get_mut("volumes") {
        all.extend(volumes);
    }
    if let Some(account) = &source.store.service_account_name {
        put(pod, "serviceAccountName", json!(account));
    }
}

/// Hosts by anti-affinity over all pods of the cluster, zones by topology spread within the set.
fn spread(cluster: &Cluster, role: SetRole, pod: &mut Value) {
    let term = json!({
        "topologyKey": "kubernetes.io/hostname",
        "labelSelector": { "matchLabels": labels::selector(&cluster.name) },
    });
    let affinity = match cluster.spec.scheduling.per_node {
        Spread::Off => None,
        Spread::Required => Some(json!({ "requiredDuringSchedulingIgnoredDuringExecution": [term] })),
        Spread::Preferred => Some(json!({
            "preferredDuringSchedulingIgnoredDuringExecution": [{ "weight": 100, "podAffinityTerm": term }],
        })),
    };
    if let Some(affinity) = affinity {
        put(pod, "affinity", json!({ "podAntiAffinity": affinity }));
    }
    let unsatisfiable = match cluster.spec.scheduling.per_zone {
        Spread::Off => return,
        Spread::Required => "DoNotSchedule",
        Spread::Preferred => "ScheduleAnyway",
    };
    let constraint = json!({
        "topologyKey": "topology.kubernetes.io/zone",
        "maxSkew": 1,
        "whenUnsatisfiable": unsatisfiable,
        "labelSelector": { "matchLabels": labels::set_selector(&cluster.name, role) },
    });
    put(pod, "topologySpreadConstraints", json!([constraint]));
}

/// The name of the pod; and, where clients have no password and the spec says nothing else, that they may come from other
/// pods all the same. In the environment, since an older server ignores there what it does not know.
fn env(cluster: &Cluster) -> Vec<Value> {
    let open = json!({ "name": "KVNODE_PROTECTED_MODE", "value": "false" });
    let is_told = cluster.spec.auth.enabled || cluster.spec.config.contains_key("protected_mode");
    std::iter::once(pod_name()).chain((!is_told).then_some(open)).collect()
}

fn container(cluster: &Cluster, role: SetRole) -> Value {
    let spec = &cluster.spec;
    let mut container = json!({
        "name": labels::CONTAINER,
        "image": spec.image.as_ref().unwrap_or(&cluster.operator.image),
        "imagePullPolicy": spec.image_pull_policy.as_str(),
        "args": args(cluster, role),
        "env": env(cluster),
        "ports": ports(cluster),
        // What the server says when it refuses to start becomes the message of the condition Stalled.
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "securityContext": {
            "allowPrivilegeEscalation": false,
            "readOnlyRootFilesystem": true,
            "capabilities": { "drop": ["ALL"] },
        },
        // A big store may take minutes to apply its log again; a restart would only begin anew.
        "startupProbe": probe(cluster, "/startupz", 1, 600, 2),
        "readinessProbe": probe(cluster, "/readyz", 1, 2, 2),
        "livenessProbe": probe(cluster, "/livez", 10, 6, 5),
        "lifecycle": { "preStop": { "sleep": { "seconds": PRE_STOP_SECONDS } } },
        "volumeMounts": [
            { "name": labels::VOLUME, "mountPath": DATA_DIR },
            { "name": "config", "mountPath": config_map::DIR, "readOnly": true },
        ],
    });
    if cluster.tls_secret().is_some()
        && let Some(Value::Array(mounts)) = container.get_mut("volumeMounts")
    {
        mounts
            .push(json!({ "name": labels::TLS_VOLUME, "mountPath": config_map::TLS_DIR, "readOnly": true }));
    }
    if cluster.client_auth().is_some()
        && let Some(Value::Array(mounts)) = container.get_mut("volumeMounts")
    {
        mounts.push(json!({ "name": "clients", "mountPath": config_map::CLIENTS_DIR, "readOnly": true }));
    }
    if cluster.spec.auth.enabled
        && let Some(Value::Array(mounts)) = container.get_mut("volumeMounts")
    {
        mounts.push(
            json!({ "name": labels::AUTH_VOLUME, "mountPath": config_map::AUTH_DIR, "readOnly": true }),
        );
    }
    if config_map::has_users(cluster)
        && let Some(Value::Array(mounts)) = container.get_mut("volumeMounts")
    {
        mounts.push(json!({ "name": "acl", "mountPath": config_map::ACL_DIR, "readOnly": true }));
    }
    if restores(cluster, role) {
        // All pods have the same flags, but only the founder gets the file: the others wait to be told, as always.
        let mut env = env(cluster);
        env.push(json!({ "name": "KVNODE_RESTORE_MISSING", "value": "wait" }));
        put(&mut container, "env", json!(env));
        put(&mut container, "startupProbe", probe(cluster, "/startupz", 1, RESTORE_SECONDS_MAX, 2));
    }
    if let Some(resources) = &spec.resources {
        put(&mut container, "resources", json!(resources));
    }
    container
}

fn ports(cluster: &Cluster) -> Vec<Value> {
    let port = |name: &str, port: i32| json!({ "name": name, "containerPort": port, "protocol": "TCP" });
    let mut ports = match cluster.client_tls() {
        ClientTls::Disabled => vec![port("redis", labels::CLIENT_PORT)],
        ClientTls::Optional => vec![port("redis", labels::CLIENT_PORT), port("redis-tls", labels::TLS_PORT)],
        ClientTls::Required => vec![port("redis-tls", labels::CLIENT_PORT)],
    };
    ports.extend([port("peer", labels::PEER_PORT), port("admin", labels::ADMIN_PORT)]);
    ports
}

fn pod_name() -> Value {
    json!({ "name": "POD_NAME", "valueFrom": { "fieldRef": { "fieldPath": "metadata.name" } } })
}

fn restores(cluster: &Cluster, role: SetRole) -> bool {
    role == SetRole::Voter && cluster.spec.bootstrap.is_some()
}

fn args(cluster: &Cluster, role: SetRole) -> Vec<String> {
    let addr = match cluster.client_tls() {
        ClientTls::Required => "off".to_owned(),
        ClientTls::Disabled | ClientTls::Optional => format!("0.0.0.0:{}", labels::CLIENT_PORT),
    };
    let host = labels::pod_host(&cluster.name, &cluster.namespace, "$(POD_NAME)");
    let mut args = vec![
        format!("--addr={addr}"),
        format!("--peer-addr=0.0.0.0:{}", labels::PEER_PORT),
        format!("--http-addr=0.0.0.0:{}", labels::ADMIN_PORT),
        format!("--advertise-addr={host}:{}", labels::CLIENT_PORT),
        format!("--advertise-peer-addr={host}:{}", labels::PEER_PORT),
        format!("--data={DATA_DIR}"),
        // Only the operator founds a cluster: an empty volume never does by itself.
        "--formation=wait".to_owned(),
        format!("--config={}/{}", config_map::DIR, config_map::FILE),
    ];
    if restores(cluster, role) {
        args.push(format!("--restore={RESTORE_DIR}/state.bin"));
    }
    args
}

/// By TLS the kubelet shows no certificate and checks none; the probes are open to it.
fn probe(cluster: &Cluster, path: &str, period_seconds: i32, failures: i32, timeout_seconds: i32) -> Value {
    let mut get = json!({ "path": path, "port": "admin" });
    if cluster.tls_secret().is_some() {
        put(&mut get, "scheme", json!("HTTPS"));
    }
    json!({
        "httpGet": get,
        "periodSeconds": period_seconds,
        "failureThreshold": failures,
        "timeoutSeconds": timeout_seconds,
    })
}
