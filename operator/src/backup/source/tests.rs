//! The order of sources, and whose turn it is while some are silent.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use axum::routing::get;
use axum::{Json, Router};
use futures_util::future::BoxFuture;
use kvnode_api::status::{Addresses, DiskState, LogPositions, MemberInfo, Membership};

use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::admin_client::{Deadlines, Dial, Io, Tcp};

fn node(name: &str, role: Role, lag: u64, contact: Option<u64>) -> (String, NodeStatus) {
    let status = NodeStatus {
        contract: 1,
        version: "0.1.0".into(),
        node_id: Some(Id(1)),
        cluster_id: (role != Role::Unformed).then_some(Id(0xc1)),
        phase: Phase::Running,
        role,
        term: 1,
        leader: None,
        last_contact_ms: contact,
        log: LogPositions { apply_lag_entries: lag, ..LogPositions::default() },
        membership: Membership::default(),
        disk: DiskState::Ok,
        addresses: Addresses::default(),
        uptime_ms: 1,
        logins: None,
    };
    (name.to_owned(), status)
}

fn member(id: u64) -> MemberInfo {
    MemberInfo {
        id: Id(id),
        addr: String::new(),
        peer_addr: String::new(),
        voter: true,
        leader: id == 1,
        matched_index: None,
        lag_entries: None,
        last_ack_ms: None,
        diverged_at: None,
    }
}

#[test]
fn learners_first_then_the_most_caught_up_follower_then_the_leader() {
    let nodes = [
        node("a", Role::Leader, 0, Some(1)),
        node("b", Role::Follower, 7, Some(1)),
        node("c", Role::Follower, 2, Some(1)),
        node("d", Role::Learner, 100, Some(20)),
        node("e", Role::Learner, 0, Some(60_000)),
        node("f", Role::Unformed, 0, None),
    ];
    let sources = order(&nodes, Some(Id(0xc1))).unwrap();
    assert_eq!(sources.order, ["d", "c", "b", "a", "e"]);
    assert_eq!(sources.cluster_id, Id(0xc1));
    assert!(!sources.burdens_leader);
}

#[test]
fn a_leader_that_has_others_is_a_burdened_source() {
    let mut nodes = vec![node("a", Role::Leader, 0, Some(1))];
    assert!(!order(&nodes, None).unwrap().burdens_leader, "the only member");
    nodes[0].1.membership.members = vec![member(1), member(2)];
    assert!(order(&nodes, None).unwrap().burdens_leader);
    nodes.push(node("b", Role::Follower, 900, Some(1)));
    assert!(!order(&nodes, None).unwrap().burdens_leader);
    nodes[1].1.phase = Phase::Stopping;
    assert!(order(&nodes, None).unwrap().burdens_leader, "not ready");
}

#[test]
fn other_clusters_and_nobody_are_refused() {
    let nodes = [node("a", Role::Leader, 0, Some(1))];
    assert!(order(&nodes, Some(Id(2))).unwrap_err().contains("not to 0000000000000002"));
    let mut two = vec![nodes[0].clone(), node("b", Role::Follower, 0, Some(1))];
    two[1].1.cluster_id = Some(Id(9));
    assert!(order(&two, None).unwrap_err().contains("another one"));
    assert!(order(&[], None).is_err());
    assert!(order(&[node("f", Role::Unformed, 0, None)], None).is_err());
    two.pop();
    two[0].1.phase = Phase::Stopping;
    assert!(order(&two, None).unwrap_err().contains("ready"));
}

/// Reaches "leader" and "follower" of [`serve`]; the follower's name is not known before the leader was asked twice.
struct LateName {
    leader: String,
    follower: String,
    asked: AtomicUsize,
}

impl Dial for LateName {
    fn dial<'a>(&'a self, to: &'a str) -> BoxFuture<'a, io::Result<Box<dyn Io>>> {
        Box::pin(async move {
            if to == "leader" {
                self.asked.fetch_add(1, Ordering::SeqCst);
                return Tcp.dial(&self.leader).await;
            }
            if self.asked.load(Ordering::SeqCst) <= 2 {
                return Err(io::Error::other("no such name"));
            }
            Tcp.dial(&self.follower).await
        })
    }
}

async fn serve(tasks: &mut JoinSet<()>, status: NodeStatus) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap().to_string();
    let routes = Router::new().route("/v1/status", get(move || async move { Json(status) }));
    tasks.spawn(crate::health::serve(listener, routes, CancellationToken::new()));
    addr
}

#[tokio::test]
async fn the_leader_is_spared_while_the_others_may_still_answer() {
    let mut tasks = JoinSet::new();
    let (_, mut leads) = node("leader", Role::Leader, 0, Some(1));
    leads.membership.members = vec![member(1), member(2)];
    let leader = serve(&mut tasks, leads).await;
    let follower = serve(&mut tasks, node("follower", Role::Follower, 3, Some(1)).1).await;
    let dial = Arc::new(LateName { leader, follower, asked: AtomicUsize::new(0) });
    let admin = AdminClient::new(dial, Deadlines::default());
    let nodes = ["leader".to_owned(), "follower".to_owned()];
    let hasty = find(&admin, &nodes, None).await.unwrap();
    assert!(hasty.burdens_leader && hasty.order == ["leader"]);
    let sources = find_sparing(&admin, &nodes, None).await.unwrap();
    assert_eq!(sources.order, ["follower", "leader"]);
}
