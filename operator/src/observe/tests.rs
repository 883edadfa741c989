//! Objects of the API server as values.

use kube::api::ObjectMeta;
use serde_json::{Value, from_value, json};

use super::children::is_anothers;
use super::*;
use crate::crd::KvClusterSpec;
use crate::observed::PodState;

fn pod(name: &str, change: impl FnOnce(&mut Value)) -> Option<PodSeen> {
    let mut pod = json!({
        "metadata": {
            "name": name, "uid": "u1", "creationTimestamp": "2026-11-22T12:00:00Z",
            "labels": { "controller-revision-hash": "r1", "kvnode.dev/role": "leader", "app": "x" },
            "annotations": { "kvnode.dev/term": "c1/3", "other.io/a": "b" },
        },
        "spec": { "nodeName": "n1", "containers": [] },
        "status": {
            "phase": "Running", "podIP": "10.0.0.9",
            "conditions": [{ "type": "Ready", "status": "True", "lastTransitionTime": "2026-11-22T12:00:05Z" }],
            "containerStatuses": [{
                "name": "server", "ready": true, "restartCount": 2, "image": "i", "imageID": "i",
                "state": { "running": {} },
            }],
        },
    });
    change(&mut pod);
    read::pod("cart", &from_value(pod).unwrap())
}

#[test]
fn a_running_pod() {
    let seen = pod("cart-1", |_| {}).unwrap();
    assert_eq!((seen.role, seen.ordinal, seen.restarts, seen.ready), (SetRole::Voter, 1, 2, true));
    assert_eq!((seen.state, seen.unready_since), (PodState::Running, None));
    assert_eq!(seen.labels.keys().collect::<Vec<_>>(), ["kvnode.dev/role"]);
    assert_eq!(seen.annotations.keys().collect::<Vec<_>>(), ["kvnode.dev/term"]);
    assert_eq!(pod("cart-learner-0", |_| {}).unwrap().role, SetRole::Learner);
    assert!(pod("cart-backup-7", |_| {}).is_none(), "no set makes such a pod");
}

#[test]
fn states_of_pods() {
    let waiting = |reason: &str, message: &str| {
        let state = json!({ "waiting": { "reason": reason, "message": message } });
        pod("cart-0", |pod| pod["status"]["containerStatuses"][0]["state"] = state).unwrap().state
    };
    assert_eq!(waiting("ContainerCreating", ""), PodState::Starting);
    let why = "ImagePullBackOff: Back-off pulling image".to_owned();
    assert_eq!(waiting("ImagePullBackOff", "Back-off pulling image\nmore"), PodState::Failing { why });
    let crashed = pod("cart-0", |pod| {
        let container = &mut pod["status"]["containerStatuses"][0];
        container["state"] =
            json!({ "waiting": { "reason": "CrashLoopBackOff", "message": "back-off 5m0s" } });
        container["lastState"] = json!({ "terminated": { "exitCode": 78, "message": "kvnode-server: durability: what is \"hihg\"?\n" } });
    });
    let why = "CrashLoopBackOff: exit code 78, kvnode-server: durability: what is \"hihg\"?".to_owned();
    assert_eq!(
        crashed.unwrap().state,
        PodState::Failing { why },
        "the last words help, the back-off does not"
    );
    let pending = pod("cart-0", |pod| {
        pod["spec"] = json!({ "containers": [] });
        let message = "0/3 nodes are available: 3 Insufficient memory.";
        pod["status"] = json!({ "phase": "Pending", "conditions": [
            { "type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message },
        ] });
    });
    let unschedulable = Some("0/3 nodes are available: 3 Insufficient memory.".to_owned());
    let pending = pending.unwrap();
    assert_eq!(pending.state, PodState::Pending { unschedulable });
    assert_eq!(pending.unready_since, pending.created);
    let ended = pod("cart-0", |pod| pod["status"]["phase"] = json!("Failed"));
    assert_eq!(ended.unwrap().state, PodState::Ended);
}

#[test]
fn the_revision_of_an_old_generation_is_not_known() {
    let set = |observed: i64| {
        let set = json!({
            "metadata": { "name": "cart", "uid": "s1", "generation": 4, "annotations": { "kvnode.dev/pod-intent": "h" } },
            "spec": {
                "replicas": 3, "serviceName": "x", "selector": {}, "template": {},
                "volumeClaimTemplates": [{ "spec": { "resources": { "requests": { "storage": "10Gi" } } } }],
            },
            "status": { "replicas": 3, "observedGeneration": observed, "updateRevision": "r2" },
        });
        read::set(&from_value(set).unwrap())
    };
    assert_eq!(set(4).update_revision.as_deref(), Some("r2"));
    assert_eq!(set(3).update_revision, None);
    assert_eq!((set(4).claim_bytes, set(4).pod_intent.as_deref()), (Some(10 << 30), Some("h")));
}

#[test]
fn volumes() {
    let claim = json!({
        "metadata": {
            "name": "data-cart-2", "uid": "v1", "ownerReferences": [
                { "apiVersion": "kvnode.dev/v1alpha1", "kind": "KvCluster", "name": "cart", "uid": "k1" },
            ],
            "annotations": { "kvnode.dev/node-id": "00aa", "kvnode.dev/retired": "00aa" },
        },
        "spec": { "resources": { "requests": { "storage": "1500Mi" } } },
        "status": {
            "capacity": { "storage": "1Gi" },
            "conditions": [{ "type": "ControllerResizeError", "status": "True", "message": "no space" }],
        },
    });
    let claim = from_value(claim).unwrap();
    let seen = read::volume("k1", &claim).unwrap();
    assert_eq!((seen.pod.as_str(), seen.request_bytes), ("cart-2", 1500 << 20));
    assert_eq!((seen.capacity_bytes, seen.owned), (Some(1 << 30), true));
    assert_eq!((seen.node_id.as_deref(), seen.retired.as_deref()), (Some("00aa"), Some("00aa")));
    assert_eq!(seen.resize_error.as_deref(), Some("no space"));
    assert!(!read::volume("k2", &claim).unwrap().owned, "another cluster of that name");
}

#[test]
fn addresses_are_of_our_pods_only() {
    let pod = |name: &str, ip: &str| -> Pod {
        from_value(json!({ "metadata": { "name": name }, "status": { "podIP": ip } })).unwrap()
    };
    let name = ClusterName { namespace: "shop".into(), name: "cart".into() };
    let pods =
        [pod("cart-0", "10.0.0.1"), pod("cart-1", ""), pod("cart-2", "fd00::2"), pod("other-0", "10.0.0.9")]
            .map(Arc::new);
    let expected = [("cart-0", "10.0.0.1:24920"), ("cart-2", "[fd00::2]:24920")];
    let expected = expected.map(|(pod, addr)| (pod.to_owned(), addr.to_owned())).into();
    assert_eq!(addresses(&name, &pods), expected);
}

#[test]
fn whose_a_child_is() {
    let mut cluster = KvCluster::new("cart", KvClusterSpec::default());
    cluster.metadata.uid = Some("k1".into());
    let meta = |owner: Option<&str>, label: Option<&str>| -> ObjectMeta {
        let owner = owner.map(
            |uid| json!([{ "apiVersion": "v1", "kind": "K", "name": "n", "uid": uid, "controller": true }]),
        );
        let labels = label.map(|label| json!({ "kvnode.dev/cluster": label }));
        from_value(json!({ "ownerReferences": owner, "labels": labels })).unwrap()
    };
    assert!(!is_anothers(&meta(Some("k1"), None), &cluster));
    assert!(is_anothers(&meta(Some("k0"), Some("cart")), &cluster), "of an earlier cluster of that name");
    assert!(!is_anothers(&meta(None, Some("cart")), &cluster), "orphaned, and ours by label: adopted");
    assert!(is_anothers(&meta(None, None), &cluster), "a user's own");
}
