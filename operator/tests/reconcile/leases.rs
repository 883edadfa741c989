//! The lease against the fake API server, in paused time.

use std::time::Duration;

use k8s_openapi::api::coordination::v1::Lease;
use kube::Api;
use kvnode_operator::lease::Timing;
use kvnode_operator::lease::keeper::{Keeper, Lost};
use tokio::time::{Instant, timeout};

use super::objects::{Key, Refusal};
use super::server::{Call, Fault, Server};

fn keeper(server: &Server, me: &str) -> Keeper {
    let api: Api<Lease> = Api::namespaced(server.client(), "kvnode");
    Keeper::new(api, "kvnode-operator", me, Timing::default())
}

fn holder(server: &Server) -> String {
    let lease =
        server.objects.lock().get(&Key::new("coordination.k8s.io/leases", "kvnode", "kvnode-operator"));
    super::kubelet::text(&lease.unwrap()["spec"]["holderIdentity"])
}

#[tokio::test(start_paused = true)]
async fn the_second_waits_and_takes_over_at_once_after_a_release() {
    let server = Server::default();
    let (mut one, mut two) = (keeper(&server, "op-1"), keeper(&server, "op-2"));
    one.acquire(|| ()).await;
    assert_eq!(holder(&server), "op-1");
    // The holder renews; the other sees each renewal and keeps waiting.
    let both = async {
        tokio::select! {
            lost = one.keep() => panic!("{lost}"),
            () = two.acquire(|| ()) => panic!("two hold it"),
        }
    };
    assert!(timeout(Duration::from_mins(1), both).await.is_err());
    one.release().await;
    assert_eq!(holder(&server), "");
    let begun = Instant::now();
    two.acquire(|| ()).await;
    assert!(begun.elapsed() <= Duration::from_secs(2), "{:?}", begun.elapsed());
    one.release().await;
    assert_eq!(holder(&server), "op-2", "only the own lease is released");
}

#[tokio::test(start_paused = true)]
async fn a_holder_that_has_died_is_followed_after_the_duration() {
    let server = Server::default();
    keeper(&server, "op-1").acquire(|| ()).await;
    let begun = Instant::now();
    keeper(&server, "op-2").acquire(|| ()).await;
    let took = begun.elapsed();
    assert!((Duration::from_secs(15)..=Duration::from_secs(17)).contains(&took), "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn a_holder_that_cannot_renew_gives_up_before_anybody_else_may_begin() {
    let server = Server::default();
    let mut one = keeper(&server, "op-1");
    one.acquire(|| ()).await;
    let refusal = Refusal::new(500, "InternalError", "etcdserver: no leader");
    server.wire.start(Some(Box::new(move |_: &Call| Some(Fault::Answer(refusal.clone())))));
    let begun = Instant::now();
    let lost = one.keep().await;
    assert!(matches!(&lost, Lost::NotRenewed { last } if last.contains("no leader")), "{lost}");
    assert!(begun.elapsed() <= Duration::from_secs(11), "{:?}", begun.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_short_trouble_is_survived_and_a_lost_answer_is_found_again() {
    let server = Server::default();
    let mut one = keeper(&server, "op-1");
    one.acquire(|| ()).await;
    server.wire.start(Some(Box::new(|call: &Call| match call.position {
        0 => Some(Fault::LostAfter),
        1 | 2 => Some(Fault::LostBefore),
        _ => None,
    })));
    assert!(timeout(Duration::from_mins(1), one.keep()).await.is_err(), "still held");
    assert!(server.wire.calls().len() > 20);
    assert_eq!(holder(&server), "op-1");
}

#[tokio::test(start_paused = true)]
async fn a_lease_that_another_has_taken_ends_the_holder() {
    let server = Server::default();
    let mut one = keeper(&server, "op-1");
    one.acquire(|| ()).await;
    let key = Key::new("coordination.k8s.io/leases", "kvnode", "kvnode-operator");
    let taken = serde_json::json!({ "spec": { "holderIdentity": "op-9" } });
    server.objects.lock().merge(&key, &taken, false).unwrap();
    assert_eq!(one.keep().await, Lost::Taken { by: "op-9".into() });
}
