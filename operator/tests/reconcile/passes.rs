//! Passes one after the other, without faults.

use serde_json::json;

use super::bed::Bed;
use super::kubelet::{PODS, text};
use super::objects::{Key, Refusal};
use super::server::{Call, Fault};

fn addresses(pods: &[&str]) -> Vec<String> {
    pods.iter().map(|pod| format!("{pod}.cart-raft.shop.svc:4920")).collect()
}

fn sorted(mut all: Vec<Vec<String>>) -> Vec<Vec<String>> {
    for some in &mut all {
        some.sort();
    }
    all
}

#[tokio::test]
async fn an_empty_spec_becomes_three_voters_and_then_nothing_is_written() {
    let bed = Bed::new(&json!({}));
    let operator = bed.operator(false);
    bed.settle(&operator).await;
    assert_eq!(sorted(bed.nodes.voters()), [addresses(&["cart-0", "cart-1", "cart-2"])]);
    let status = &bed.cluster()["status"];
    assert_eq!((&status["ready"], &status["phase"]), (&json!("3/3"), &json!("Ready")), "{status:#}");
    let events = bed.events();
    for told in ["ClusterIdRecorded", "ClusterInitialized", "Available"] {
        assert_eq!(events.iter().filter(|reason| *reason == told).count(), 1, "{told} in {events:?}");
    }
    let leads = json!("true");
    let pods = bed.server.objects.lock().list(PODS, "shop", &[("kvnode.dev/leader".into(), "true".into())]);
    assert_eq!(pods.len(), 1);
    assert_eq!(pods[0]["metadata"]["labels"]["kvnode.dev/leader"], leads);
    // The same operator, and one that has just started.
    for operator in [operator, bed.operator(false)] {
        bed.server.wire.start(None);
        for _ in 0..3 {
            bed.pass(&operator).await.unwrap();
        }
        let writes: Vec<Call> = bed.server.wire.calls().into_iter().filter(Call::is_write).collect();
        assert!(writes.is_empty(), "{writes:?}");
    }
}

#[tokio::test]
async fn scaling_up_and_down_ends_with_the_members_asked_for() {
    let bed = Bed::new(&json!({ "replicas": 1 }));
    let operator = bed.operator(false);
    bed.settle(&operator).await;
    for (replicas, expected) in [
        (3, &["cart-0", "cart-1", "cart-2"][..]),
        (5, &["cart-0", "cart-1", "cart-2", "cart-3", "cart-4"]),
        (3, &["cart-0", "cart-1", "cart-2"]),
        (1, &["cart-0"]),
    ] {
        bed.edit(&json!({ "replicas": replicas }));
        bed.settle(&operator).await;
        assert_eq!(sorted(bed.nodes.voters()), [addresses(expected)]);
        assert_eq!(bed.server.objects.lock().list(PODS, "shop", &[]).len(), expected.len());
    }
}

#[tokio::test]
async fn a_change_of_the_pods_replaces_each_once() {
    let bed = Bed::new(&json!({}));
    let operator = bed.operator(false);
    bed.settle(&operator).await;
    let uids = || {
        let pods = bed.server.objects.lock().list(PODS, "shop", &[]);
        pods.iter().map(|pod| text(&pod["metadata"]["uid"])).collect::<Vec<_>>()
    };
    let before = uids();
    bed.server.wire.start(None);
    bed.edit(&json!({ "image": "kvnode-server:0.2.0" }));
    bed.settle(&operator).await;
    assert!(uids().iter().all(|uid| !before.contains(uid)), "all are new");
    let deletes = bed.server.wire.calls();
    let deletes: Vec<&Call> = deletes.iter().filter(|call| call.method == "DELETE").collect();
    assert_eq!(deletes.len(), 3, "{deletes:?}");
    assert_eq!(sorted(bed.nodes.voters()), [addresses(&["cart-0", "cart-1", "cart-2"])]);
}

#[tokio::test]
async fn a_child_that_somebody_changed_is_put_right() {
    let bed = Bed::new(&json!({}));
    let operator = bed.operator(false);
    bed.settle(&operator).await;
    let service = Key::new("/services", "shop", "cart-leader");
    let selector = |bed: &Bed| bed.server.objects.lock().get(&service).unwrap()["spec"]["selector"].clone();
    let right = selector(&bed);
    let wrong = json!({ "spec": { "selector": { "kvnode.dev/leader": "false" } } });
    bed.server.objects.lock().merge(&service, &wrong, false).unwrap();
    bed.settle(&operator).await;
    assert_eq!(selector(&bed), right);
    bed.server.objects.lock().delete(&service, &json!(null)).unwrap();
    bed.settle(&operator).await;
    assert_eq!(selector(&bed), right);
}

#[tokio::test]
async fn nothing_is_taken_from_somebody_else() {
    let bed = Bed::new(&json!({}));
    let service = Key::new("/services", "shop", "cart");
    let users =
        json!({ "metadata": { "labels": { "app": "shop" } }, "spec": { "selector": { "app": "shop" } } });
    let before = bed.server.objects.lock().create(&service, users).unwrap();
    let operator = bed.operator(false);
    for _ in 0..3 {
        bed.pass(&operator).await.unwrap();
    }
    assert_eq!(bed.server.objects.lock().get(&service).unwrap(), before);
    assert_eq!(bed.condition("Stalled"), "True", "{:#}", bed.cluster()["status"]);
    assert!(bed.cluster()["status"].to_string().contains("Service/cart"));
    bed.server.objects.lock().delete(&service, &json!(null)).unwrap();
    bed.settle(&operator).await;
}

#[tokio::test]
async fn a_wrong_spec_is_told_and_nothing_is_touched() {
    let bed = Bed::new(&json!({ "storage": { "size": "ten" } }));
    let operator = bed.operator(false);
    bed.server.wire.start(None);
    for _ in 0..3 {
        bed.pass(&operator).await.unwrap();
    }
    let status = bed.cluster()["status"].to_string();
    assert!(status.contains("InvalidSpec") && status.contains("spec.storage.size"), "{status}");
    let writes: Vec<Call> = bed.server.wire.calls().into_iter().filter(Call::is_write).collect();
    let status_writes = writes.iter().filter(|call| call.path.ends_with("/kvclusters/cart/status")).count();
    let events = writes.iter().filter(|call| call.path.ends_with("/events")).count();
    assert_eq!((status_writes, events + status_writes), (1, writes.len()), "{writes:?}");
}

#[tokio::test]
async fn another_size_needs_no_restart_unless_it_is_refused() {
    let size = |cpu: &str| json!({ "resources": { "limits": { "cpu": cpu, "memory": "1Gi" } } });
    let bed = Bed::new(&size("1"));
    let operator = bed.operator(false);
    bed.settle(&operator).await;
    let pods = || bed.server.objects.lock().list(PODS, "shop", &[]);
    let uids = || pods().iter().map(|pod| text(&pod["metadata"]["uid"])).collect::<Vec<_>>();
    let before = uids();
    bed.server.wire.start(None);
    bed.edit(&size("2"));
    bed.settle(&operator).await;
    assert_eq!(uids(), before, "nobody was restarted");
    for pod in pods() {
        let resources = &pod["status"]["containerStatuses"][0]["resources"];
        assert_eq!(resources["requests"]["cpu"], "2", "{pod:#}");
        assert_eq!(
            pod["metadata"]["annotations"]["kvnode.dev/resize"].as_str().map(|note| &note[..5]),
            Some("done ")
        );
    }
    assert_eq!(bed.events().iter().filter(|reason| *reason == "PodResized").count(), 3);
    let calls = bed.server.wire.calls();
    assert_eq!(calls.iter().filter(|call| call.path.ends_with("/resize")).count(), 3);
    bed.server.wire.start(None);
    for _ in 0..3 {
        bed.pass(&operator).await.unwrap();
    }
    let writes: Vec<Call> = bed.server.wire.calls().into_iter().filter(Call::is_write).collect();
    assert!(writes.is_empty(), "{writes:?}");
    // An older Kubernetes.
    bed.server.wire.start(Some(Box::new(|call| {
        let message = "the server could not find the requested resource";
        call.path.ends_with("/resize").then(|| Fault::Answer(Refusal::new(404, "NotFound", message)))
    })));
    bed.edit(&size("1"));
    bed.settle(&operator).await;
    assert!(uids().iter().all(|uid| !before.contains(uid)), "restarted");
    assert_eq!(bed.events().iter().filter(|reason| *reason == "PodResized").count(), 3);
    assert_eq!(bed.condition("Stalled"), "False");
}
