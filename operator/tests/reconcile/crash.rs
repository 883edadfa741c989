//! The operator killed between any two calls, and an API server that refuses.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use kvnode_operator::context::Context;
use parking_lot::Mutex;
use serde_json::json;

use super::bed::Bed;
use super::kubelet::PODS;
use super::objects::Refusal;
use super::server::{Call, Fault};

/// Runs a life without faults: its end, and how many calls it took.
async fn undisturbed(life: impl AsyncFn(&Bed)) -> (Vec<String>, usize) {
    let bed = Bed::new(&json!({}));
    bed.server.wire.start(None);
    life(&bed).await;
    (bed.state(), bed.server.wire.calls().len())
}

/// Create, then another image: formation, three deletes, at least one hand-over.
async fn create_and_roll(bed: &Bed) {
    bed.settle(&bed.operator(false)).await;
    bed.edit(&json!({ "image": "kvnode-server:0.2.0" }));
    bed.settle(&bed.operator(false)).await;
}

async fn create(bed: &Bed) {
    bed.settle(&bed.operator(false)).await;
}

/// Lets the operator work until its n-th call, and kills it there, before or after the call is carried out.
async fn kill(bed: &Bed, victim: &Arc<Context>, n: usize, after: bool) {
    bed.server.wire.start(Some(Box::new(move |call: &Call| match call.position {
        position if position < n => None,
        position if position == n && after => Some(Fault::LostAfter),
        _ => Some(Fault::LostBefore),
    })));
    while bed.server.wire.calls().len() <= n {
        // It may end in an error, or in a plan on what it could still read; it is dead either way.
        let _ = bed.pass(victim).await;
    }
    bed.server.wire.start(None);
}

#[tokio::test]
async fn killed_between_any_two_calls_of_a_creation_the_end_is_the_same() {
    let (expected, calls) = undisturbed(create).await;
    assert!(calls > 50, "{calls} calls: is that a whole creation?");
    for n in 0..calls {
        for after in [false, true] {
            let bed = Bed::new(&json!({}));
            kill(&bed, &bed.operator(false), n, after).await;
            create(&bed).await;
            assert_eq!(bed.state(), expected, "killed at call {n} of {calls}, carried out: {after}");
            assert_eq!(bed.nodes.voters().len(), 1, "founded once, killed at call {n}");
        }
    }
}

/// From five voters with an old image to three with a new one: removals, deletes of pods, hand-overs.
async fn shrink_and_roll(bed: &Bed, operator: &Arc<Context>) {
    bed.edit(&json!({ "replicas": 3, "image": "kvnode-server:0.2.0" }));
    bed.settle(operator).await;
}

async fn five() -> Bed {
    let bed = Bed::new(&json!({ "replicas": 5 }));
    bed.settle(&bed.operator(false)).await;
    bed.server.wire.start(None);
    bed
}

#[tokio::test]
async fn killed_in_the_middle_of_scaling_and_rolling_the_end_is_as_asked() {
    let bed = five().await;
    shrink_and_roll(&bed, &bed.operator(false)).await;
    let calls = bed.server.wire.calls().len();
    assert!(calls > 200, "{calls} calls: is that a whole change?");
    // Every call would take minutes; two primes apart, the two ways meet different calls.
    let points = (0..calls).step_by(11).map(|n| (n, false)).chain((0..calls).step_by(13).map(|n| (n, true)));
    for (n, after) in points {
        let bed = five().await;
        bed.edit(&json!({ "replicas": 3, "image": "kvnode-server:0.2.0" }));
        let victim = bed.operator(false);
        kill(&bed, &victim, n, after).await;
        shrink_and_roll(&bed, &bed.operator(false)).await;
        let end = bed.nodes.voters();
        assert_eq!((end.len(), end[0].len()), (1, 3), "killed at call {n}, carried out: {after}");
        let pods = bed.server.objects.lock().list(PODS, "shop", &[]);
        let images = pods.iter().filter(|pod| pod.to_string().contains("kvnode-server:0.2.0"));
        assert_eq!((pods.len(), images.count()), (3, 3), "killed at call {n}, carried out: {after}");
    }
}

#[tokio::test]
async fn every_write_refused_once_in_every_way_the_end_is_the_same() {
    let (expected, _) = undisturbed(create_and_roll).await;
    let ways = [
        Refusal::new(409, "Conflict", "the object has been modified"),
        Refusal::new(429, "TooManyRequests", "slow down"),
        Refusal::new(500, "InternalError", "etcdserver: request timed out"),
    ];
    for way in ways {
        let bed = Bed::new(&json!({}));
        let refused = Arc::new(AtomicUsize::new(0));
        let (count, code) = (refused.clone(), way.code);
        // Every second write of each kind and name, so that its repeat passes.
        let seen = Mutex::new(BTreeMap::new());
        bed.server.wire.start(Some(Box::new(move |call: &Call| {
            if !call.is_write() || !call.path.starts_with("/api") {
                return None;
            }
            let mut seen = seen.lock();
            let times = seen.entry(format!("{} {}", call.method, call.path)).or_insert(0);
            *times += 1;
            let refuse = *times % 2 == 1;
            count.fetch_add(usize::from(refuse), Ordering::Relaxed);
            refuse.then(|| Fault::Answer(way.clone()))
        })));
        create_and_roll(&bed).await;
        assert!(refused.load(Ordering::Relaxed) > 20);
        assert_eq!(bed.state(), expected, "{code}");
        assert_eq!(bed.nodes.voters().len(), 1);
    }
}

#[tokio::test]
async fn two_operators_at_once_end_at_the_same_place() {
    let (expected, _) = undisturbed(create).await;
    let bed = Bed::new(&json!({}));
    let (one, two) = (bed.operator(false), bed.operator(false));
    for _ in 0..30 {
        let _ = tokio::join!(bed.pass(&one), bed.pass(&two));
    }
    bed.settle(&one).await;
    assert_eq!(bed.state(), expected);
    assert_eq!(bed.nodes.voters().len(), 1);
}

#[tokio::test]
async fn a_missing_permission_is_named_with_its_remedy() {
    let bed = Bed::new(&json!({}));
    let operator = bed.operator(false);
    bed.server.wire.start(Some(Box::new(|call: &Call| {
        let message = "statefulsets.apps \"cart\" is forbidden: User \"system:serviceaccount:kvnode:operator\" \
                       cannot patch resource \"statefulsets\" in API group \"apps\" in the namespace \"shop\"";
        let hit = call.method == "PATCH" && call.path.contains("/statefulsets/");
        hit.then(|| Fault::Answer(Refusal::new(403, "Forbidden", message)))
    })));
    let error = bed.pass(&operator).await.unwrap_err();
    assert_eq!(error.kind(), "forbidden");
    let text = error.to_string();
    assert!(text.starts_with("apply StatefulSet cart: the operator lacks a permission"), "{text}");
    assert!(text.contains("cannot patch resource") && text.contains("deploy/install.yaml"), "{text}");
    for _ in 0..3 {
        bed.pass(&operator).await.unwrap_err();
    }
    let told = bed.events().iter().filter(|reason| *reason == "StepFailed").count();
    assert_eq!(told, 1, "kubectl describe shows it, once");
    bed.server.wire.start(None);
    bed.settle(&operator).await;
}
