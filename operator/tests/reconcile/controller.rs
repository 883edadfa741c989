//! The controller as it runs: watches, triggers, streams of nodes, labels.

use std::time::Duration;

use kvnode_operator::controller::{self, Scope};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::bed::{Bed, cart};
use super::kubelet::{PODS, text};
use super::objects::{Key, Objects};
use super::server::Fault;

/// The rest of Kubernetes, as a loop that follows every change until `stop`.
async fn kubernetes(bed: &Bed, stop: CancellationToken) {
    let mut changed = bed.server.objects.lock().changed.subscribe();
    loop {
        bed.turn();
        tokio::select! {
            () = stop.cancelled() => return,
            came = changed.changed() => came.unwrap(),
        }
    }
}

fn is_ready(objects: &Objects) -> bool {
    let cluster = objects.get(&cart()).unwrap();
    cluster["status"]["phase"] == "Ready" && cluster["status"]["ready"] == "3/3"
}

fn labelled(objects: &Objects) -> Vec<String> {
    let leads = [("kvnode.dev/leader".to_owned(), "true".to_owned())];
    objects.list(PODS, "shop", &leads).iter().map(|pod| text(&pod["metadata"]["name"])).collect()
}

#[tokio::test]
async fn a_cluster_comes_up_its_leader_dies_and_the_label_follows() {
    let bed = Bed::new(&json!({}));
    let operator = bed.operator(true);
    let stop = CancellationToken::new();
    let test = async {
        bed.server.until("the cluster is Ready", is_ready).await;
        bed.server.until("one pod has the label", |objects| labelled(objects).len() == 1).await;
        let old = labelled(&bed.server.objects.lock())[0].clone();
        let pods = Key::new(PODS, "shop", &old);
        let host = text(&bed.server.objects.lock().get(&pods).unwrap()["status"]["podIP"]);
        // Its process dies; the pod is still there, and the API server says nothing.
        bed.nodes.stop(&host);
        let follows = |objects: &Objects| labelled(objects).len() == 1 && labelled(objects)[0] != old;
        let following = bed.server.until("the label follows", follows);
        assert!(tokio::time::timeout(Duration::from_secs(1), following).await.is_ok(), "within a second");
        assert_eq!(operator.metrics.leader_changes.get(), 2);
        bed.server.objects.lock().delete(&pods, &json!(null)).unwrap();
        let well = |objects: &Objects| {
            let leader = text(&objects.get(&cart()).unwrap()["status"]["leader"]["pod"]);
            is_ready(objects) && leader != old && objects.get(&pods).is_ok()
        };
        bed.server.until("the pod is back and the status knows the new leader", well).await;
        stop.cancel();
    };
    let running = controller::run(operator.clone(), Scope::All, stop.clone());
    tokio::join!(running, kubernetes(&bed, stop.clone()), test);
    assert!(bed.events().iter().any(|reason| reason == "LeaderChanged"), "{:?}", bed.events());
    bed.stop.cancel();
    operator.watches.ended().await;
}

#[tokio::test]
async fn only_the_namespaces_asked_for_are_cared_for() {
    let bed = Bed::new(&json!({}));
    let operator = bed.operator(false);
    let stop = CancellationToken::new();
    let test = async {
        // The lists that watches begin with: KvClusters, six kinds of children, pods, volumes, in two namespaces.
        bed.server.wire.until(18).await;
        stop.cancel();
    };
    let scope = Scope::Only(vec!["blog".into(), "news".into()]);
    let running = controller::run(operator, scope, stop.clone());
    tokio::join!(running, test);
    assert!(bed.cluster().get("status").is_none(), "{:#}", bed.cluster());
    let elsewhere = bed.server.wire.calls().into_iter().filter(|call| !call.path.contains("/namespaces/"));
    assert_eq!(elsewhere.count(), 0, "rights in the namespaces are enough");
}

#[tokio::test]
async fn a_stop_is_obeyed_while_the_api_server_is_away() {
    let bed = Bed::new(&json!({}));
    let operator = bed.operator(false);
    bed.server.wire.start(Some(Box::new(|_| Some(Fault::LostBefore))));
    let stop = CancellationToken::new();
    let test = async {
        bed.server.wire.until(5).await;
        stop.cancel();
    };
    let running = controller::run(operator, Scope::All, stop.clone());
    let both = async { tokio::join!(running, test) };
    assert!(tokio::time::timeout(Duration::from_secs(5), both).await.is_ok());
}
