//! Many clusters under one operator: what they cost in calls while they rest, and in memory. The API server, the kubelet
//! and the nodes are those of the suite `reconcile`.

#![allow(dead_code, reason = "the bed of another suite, of which this one needs a part")]

#[path = "../reconcile/bed.rs"]
mod bed;
mod doors;
#[path = "../reconcile/kubelet.rs"]
mod kubelet;
mod memory;
#[path = "../reconcile/nodes.rs"]
mod nodes;
#[path = "../reconcile/objects.rs"]
mod objects;
#[path = "../reconcile/server.rs"]
mod server;

use std::time::Duration;

use kvnode_operator::controller::{self, Scope};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use crate::bed::{Bed, CLUSTERS};
use crate::objects::Key;

const COUNT: usize = 20;

/// The rest of Kubernetes, a few times a second: with so many objects each turn has a price.
async fn kubernetes(bed: &Bed, stop: CancellationToken) {
    let mut pace = tokio::time::interval(Duration::from_millis(200));
    while !stop.is_cancelled() {
        bed.turn();
        pace.tick().await;
    }
}

/// Waits for a condition of a world that moves by itself.
async fn until(what: &str, condition: impl Fn() -> bool) {
    let mut pace = tokio::time::interval(Duration::from_millis(100));
    let waiting = async {
        while !condition() {
            pace.tick().await;
        }
    };
    assert!(tokio::time::timeout(Duration::from_mins(8), waiting).await.is_ok(), "never: {what}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clusters_at_rest_cost_one_read_a_pass_and_no_write() {
    // Those with locks cost four more reads a minute: their Secrets are in no watch.
    let open = json!({ "tls": { "mode": "Disabled" }, "auth": { "enabled": false } });
    let bed = Bed::new(&open);
    for number in 1..COUNT {
        let cluster = json!({ "apiVersion": "kvnode.dev/v1alpha1", "kind": "KvCluster", "spec": open });
        let key = Key::new(CLUSTERS, "shop", &format!("cart-of-{number}"));
        bed.server.objects.lock().create(&key, cluster).expect("a new cluster");
    }
    let operator = bed.operator(true);
    let stop = CancellationToken::new();
    let test = async {
        until("all are Ready", || {
            let all = bed.server.objects.lock().list(CLUSTERS, "shop", &[]);
            all.iter()
                .all(|cluster| cluster["status"]["phase"] == "Ready" && cluster["status"]["ready"] == "3/3")
        })
        .await;
        // A pass over each, and one more, at the pace of clusters that rest.
        let passes = || operator.metrics.reconciles.with_label_values(&["ok"]).get();
        let first = passes() + COUNT as u64;
        until("they come to rest", || passes() >= first).await;
        bed.server.wire.start(None);
        let begun = passes();
        until("a pass over each", || passes() >= begun + COUNT as u64).await;
        let calls = bed.server.wire.calls();
        let done = passes() - begun;
        stop.cancel();
        let writes: Vec<_> =
            calls.iter().filter(|call| call.is_write() && !call.path.starts_with("/v1/")).collect();
        assert!(writes.is_empty(), "written at rest: {writes:#?}");
        let api = calls.iter().filter(|call| call.path.starts_with("/api"));
        let lists =
            api.clone().filter(|call| !call.path.contains("/kvclusters/") && !call.path.contains("/nodes/"));
        assert_eq!(lists.clone().count(), 0, "{:#?}", lists.collect::<Vec<_>>());
        let reads = api.count();
        assert!(reads as u64 <= 2 * done, "{reads} reads in {done} passes");
    };
    let running = controller::run(operator.clone(), Scope::All, stop.clone());
    tokio::join!(running, kubernetes(&bed, stop.clone()), test);
    bed.stop.cancel();
    operator.watches.ended().await;
}
