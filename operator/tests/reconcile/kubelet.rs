//! The rest of Kubernetes, as far as a cluster needs it: StatefulSets make pods and claims (OnDelete, Parallel), pods
//! come up at once and get an address, a node runs on each, readiness follows from it.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::nodes::Nodes;
use super::objects::{Key, Objects};

const SETS: &str = "apps/statefulsets";
pub(crate) const PODS: &str = "/pods";
pub(crate) const CLAIMS: &str = "/persistentvolumeclaims";

/// Kubernetes nodes, before anything else.
pub(crate) fn machines(objects: &mut Objects) {
    for number in 0..3 {
        let name = format!("machine-{number}");
        let node = json!({
            "metadata": { "labels": { "topology.kubernetes.io/zone": format!("zone-{number}") } },
            "status": { "conditions": [{ "type": "Ready", "status": "True" }] },
        });
        objects.create(&Key::new("/nodes", "", &name), node).expect("a new node");
    }
}

/// Everything that has to happen, happens. What stays as it is costs no copy.
pub(crate) fn turn(objects: &mut Objects, nodes: &Nodes) {
    for pod in not_owned(objects) {
        objects.delete(&pod, &Value::Null).expect("the pod is there");
    }
    for (set, ordinal) in missing(objects) {
        let set = objects.get(&set).expect("seen above");
        start(objects, nodes, &set, ordinal);
    }
    stop_gone(objects, nodes);
    for (pod, status) in pod_statuses(objects, nodes) {
        let mut changed = objects.get(&pod).expect("seen above");
        changed["status"] = status;
        objects.replace(&pod, &changed, true).expect("the newest version");
    }
    for (set, status) in set_statuses(objects) {
        let mut changed = objects.get(&set).expect("seen above");
        changed["status"] = status;
        objects.replace(&set, &changed, true).expect("the newest version");
    }
}

fn replicas(set: &Value) -> i64 {
    set["spec"]["replicas"].as_i64().unwrap_or(1)
}

/// The StatefulSet that a pod is of, and its ordinal.
fn owner(pod: &Key) -> Option<(Key, i64)> {
    let (set, ordinal) = pod.name.rsplit_once('-')?;
    Some((Key::new(SETS, &pod.namespace, set), ordinal.parse().ok()?))
}

/// Pods beyond the replicas of their sets, or of no set. Without any set nothing goes: a test deletes those by hand.
fn not_owned(objects: &Objects) -> Vec<Key> {
    let sets: BTreeMap<&Key, i64> = objects.each(SETS).map(|(key, set)| (key, replicas(set))).collect();
    let owned =
        |pod: &Key| owner(pod).is_some_and(|(set, at)| sets.get(&set).is_some_and(|replicas| at < *replicas));
    let pods = objects.each(PODS).map(|(key, _)| key);
    pods.filter(|pod| !sets.is_empty() && !owned(pod)).cloned().collect()
}

/// Ordinals whose pod or claim is not there.
fn missing(objects: &Objects) -> Vec<(Key, i64)> {
    let all =
        objects.each(SETS).flat_map(|(key, set)| (0..replicas(set)).map(move |ordinal| (key, set, ordinal)));
    let absent = all.filter(|(key, set, ordinal)| {
        !objects.has(&pod_key(key, *ordinal)) || !objects.has(&claim_key(key, set, *ordinal))
    });
    absent.map(|(key, _, ordinal)| (key.clone(), ordinal)).collect()
}

fn pod_key(set: &Key, ordinal: i64) -> Key {
    Key::new(PODS, &set.namespace, &format!("{}-{ordinal}", set.name))
}

fn claim_key(set: &Key, of: &Value, ordinal: i64) -> Key {
    let template = of["spec"]["volumeClaimTemplates"][0]["metadata"]["name"].as_str().unwrap_or_default();
    Key::new(CLAIMS, &set.namespace, &format!("{template}-{}-{ordinal}", set.name))
}

pub(crate) fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

fn revision(set: &Value) -> String {
    let digest = Sha256::digest(set["spec"]["template"].to_string());
    format!("{}-{:02x}{:02x}{:02x}", text(&set["metadata"]["name"]), digest[0], digest[1], digest[2])
}

/// A pod and its claim, unless they are there.
fn start(objects: &mut Objects, nodes: &Nodes, set: &Value, ordinal: i64) {
    let namespace = text(&set["metadata"]["namespace"]);
    let set_key = Key::new(SETS, &namespace, &text(&set["metadata"]["name"]));
    let (claim_key, pod_key) = (claim_key(&set_key, set, ordinal), pod_key(&set_key, ordinal));
    let template = &set["spec"]["volumeClaimTemplates"][0];
    if !objects.has(&claim_key) {
        let mut claim = template.clone();
        let labels = set["spec"]["selector"]["matchLabels"].as_object().cloned().unwrap_or_default();
        for (label, value) in labels {
            claim["metadata"]["labels"][&label] = value;
        }
        let size = claim["spec"]["resources"]["requests"]["storage"].clone();
        claim["status"] = json!({ "phase": "Bound", "capacity": { "storage": size } });
        objects.create(&claim_key, claim).expect("a new claim");
    }
    if objects.has(&pod_key) {
        return;
    }
    let claim_uid = text(&objects.get(&claim_key).expect("made above")["metadata"]["uid"]);
    let host = objects.address();
    let mut pod = set["spec"]["template"].clone();
    pod["metadata"]["labels"]["controller-revision-hash"] = json!(revision(set));
    defaults(&mut pod["spec"]["containers"][0]["resources"]);
    pod["spec"]["nodeName"] = json!(format!("machine-{}", ordinal % 3));
    pod["status"] = json!({
        "phase": "Running", "podIP": host,
        "containerStatuses": [{
            "name": "server", "ready": true, "restartCount": 0, "image": "i", "imageID": "i", "state": { "running": {} },
        }],
    });
    objects.create(&pod_key, pod).expect("a new pod");
    let service = text(&set["spec"]["serviceName"]);
    nodes.start(&host, &format!("{}.{service}.{namespace}.svc:4920", pod_key.name), &claim_uid);
}

/// What is limited and not asked for is asked for.
fn defaults(resources: &mut Value) {
    for (name, limit) in resources["limits"].as_object().cloned().unwrap_or_default() {
        if resources["requests"][&name].is_null() {
            resources["requests"][&name] = limit;
        }
    }
}

/// Nodes end with their pods.
fn stop_gone(objects: &Objects, nodes: &Nodes) {
    let alive: BTreeSet<&str> =
        objects.each(PODS).filter_map(|(_, pod)| pod["status"]["podIP"].as_str()).collect();
    for host in nodes.hosts() {
        if !alive.contains(host.as_str()) {
            nodes.stop(&host);
        }
    }
}

/// Of pods whose status changes: readiness follows from the node, and a container gets what it asks for.
fn pod_statuses(objects: &Objects, nodes: &Nodes) -> Vec<(Key, Value)> {
    let changes = objects.each(PODS).filter_map(|(key, pod)| {
        let ready = if nodes.is_ready(pod["status"]["podIP"].as_str()?) { "True" } else { "False" };
        let asked = &pod["spec"]["containers"][0]["resources"];
        let is_sized = !asked.is_object() || pod["status"]["containerStatuses"][0]["resources"] == *asked;
        if pod["status"]["conditions"][0]["status"] == ready && is_sized {
            return None;
        }
        let mut status = pod["status"].clone();
        let condition =
            json!({ "type": "Ready", "status": ready, "lastTransitionTime": "2026-11-22T12:00:00Z" });
        status["conditions"] = json!([condition]);
        if asked.is_object() {
            status["containerStatuses"][0]["resources"] = asked.clone();
        }
        Some((key.clone(), status))
    });
    changes.collect()
}

/// Of StatefulSets whose status changes.
fn set_statuses(objects: &Objects) -> Vec<(Key, Value)> {
    let mut counts: BTreeMap<Key, (usize, usize)> = BTreeMap::new();
    for (key, pod) in objects.each(PODS) {
        let Some((set, _)) = owner(key) else { continue };
        let (pods, ready) = counts.entry(set).or_default();
        *pods += 1;
        *ready += usize::from(pod["status"]["conditions"][0]["status"] == "True");
    }
    let statuses = objects.each(SETS).filter_map(|(key, set)| {
        let (pods, ready) = counts.get(key).copied().unwrap_or_default();
        let status = json!({
            "observedGeneration": set["metadata"]["generation"],
            "replicas": pods,
            "readyReplicas": ready,
            "updateRevision": revision(set),
        });
        (set["status"] != status).then(|| (key.clone(), status))
    });
    statuses.collect()
}
