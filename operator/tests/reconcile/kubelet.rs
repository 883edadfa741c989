//! The rest of Kubernetes, as far as a cluster needs it: StatefulSets make pods and claims (OnDelete, Parallel), pods
//! come up at once and get an address, a node runs on each, readiness follows from it.

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

/// Everything that has to happen, happens.
pub(crate) fn turn(objects: &mut Objects, nodes: &Nodes) {
    let sets = objects.list(SETS, "", &[]);
    for pod in objects.list(PODS, "", &[]) {
        let pod_name = text(&pod["metadata"]["name"]);
        let owned = sets.iter().any(|set| {
            let replicas = set["spec"]["replicas"].as_i64().unwrap_or(1);
            let ordinal = ordinal(set["metadata"]["name"].as_str().unwrap_or_default(), &pod_name);
            ordinal.is_some_and(|ordinal| ordinal < replicas)
        });
        if !owned && !sets.is_empty() {
            objects.delete(&key(PODS, &pod), &Value::Null).expect("the pod is there");
        }
    }
    for set in &sets {
        for ordinal in 0..set["spec"]["replicas"].as_i64().unwrap_or(1) {
            start(objects, nodes, set, ordinal);
        }
    }
    let mut pods = objects.list(PODS, "", &[]);
    stop_gone(&pods, nodes);
    for pod in &mut pods {
        ready(objects, nodes, pod);
        sized(objects, pod);
    }
    for set in &sets {
        set_status(objects, set, &pods);
    }
}

fn ordinal(set: &str, pod: &str) -> Option<i64> {
    pod.strip_prefix(set)?.strip_prefix('-')?.parse().ok()
}

pub(crate) fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

fn key(resource: &str, object: &Value) -> Key {
    Key::new(resource, &text(&object["metadata"]["namespace"]), &text(&object["metadata"]["name"]))
}

fn revision(set: &Value) -> String {
    let digest = Sha256::digest(set["spec"]["template"].to_string());
    format!("{}-{:02x}{:02x}{:02x}", text(&set["metadata"]["name"]), digest[0], digest[1], digest[2])
}

/// A pod and its claim, unless they are there.
fn start(objects: &mut Objects, nodes: &Nodes, set: &Value, ordinal: i64) {
    let namespace = text(&set["metadata"]["namespace"]);
    let name = format!("{}-{ordinal}", text(&set["metadata"]["name"]));
    let template = &set["spec"]["volumeClaimTemplates"][0];
    let claim_key = Key::new(CLAIMS, &namespace, &format!("{}-{name}", text(&template["metadata"]["name"])));
    if objects.get(&claim_key).is_err() {
        let mut claim = template.clone();
        let labels = set["spec"]["selector"]["matchLabels"].as_object().cloned().unwrap_or_default();
        for (label, value) in labels {
            claim["metadata"]["labels"][&label] = value;
        }
        let size = claim["spec"]["resources"]["requests"]["storage"].clone();
        claim["status"] = json!({ "phase": "Bound", "capacity": { "storage": size } });
        objects.create(&claim_key, claim).expect("a new claim");
    }
    let pod_key = Key::new(PODS, &namespace, &name);
    if objects.get(&pod_key).is_ok() {
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
    nodes.start(&host, &format!("{name}.{service}.{namespace}.svc:4920"), &claim_uid);
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
fn stop_gone(pods: &[Value], nodes: &Nodes) {
    let alive: Vec<String> = pods.iter().map(|pod| text(&pod["status"]["podIP"])).collect();
    for host in nodes.hosts() {
        if !alive.contains(&host) {
            nodes.stop(&host);
        }
    }
}

fn ready(objects: &mut Objects, nodes: &Nodes, pod: &mut Value) {
    let ready = if nodes.is_ready(&text(&pod["status"]["podIP"])) { "True" } else { "False" };
    let condition = json!({ "type": "Ready", "status": ready, "lastTransitionTime": "2026-11-22T12:00:00Z" });
    let conditions = json!([condition]);
    if pod["status"]["conditions"] != conditions {
        pod["status"]["conditions"] = conditions;
        objects.replace(&key(PODS, pod), pod, true).expect("the newest version");
    }
}

/// A container gets what it asks for.
fn sized(objects: &mut Objects, pod: &Value) {
    let mut pod = objects.get(&key(PODS, pod)).expect("the pod is there");
    let asked = pod["spec"]["containers"][0]["resources"].clone();
    if asked.is_object() && pod["status"]["containerStatuses"][0]["resources"] != asked {
        pod["status"]["containerStatuses"][0]["resources"] = asked;
        objects.replace(&key(PODS, &pod), &pod, true).expect("the newest version");
    }
}

fn set_status(objects: &mut Objects, of: &Value, pods: &[Value]) {
    let (name, namespace) = (text(&of["metadata"]["name"]), &of["metadata"]["namespace"]);
    let own = pods.iter().filter(|pod| {
        pod["metadata"]["namespace"] == *namespace
            && ordinal(&name, &text(&pod["metadata"]["name"])).is_some()
    });
    let ready = own.clone().filter(|pod| pod["status"]["conditions"][0]["status"] == "True");
    let status = json!({
        "observedGeneration": of["metadata"]["generation"],
        "replicas": own.clone().count(),
        "readyReplicas": ready.count(),
        "updateRevision": revision(of),
    });
    if of["status"] != status {
        let mut changed = of.clone();
        changed["status"] = status;
        objects.replace(&key(SETS, of), &changed, true).expect("the newest version");
    }
}
