//! Members come, go, are wiped and move.

use std::collections::BTreeSet;
use std::sync::atomic::Ordering;

use openraft::ChangeMembers;

use super::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_node_that_the_log_cannot_help_gets_a_checkpoint() {
    let mut nodes = cluster(3).await;
    for value in 0..200 {
        nodes[0].set(&format!("key{value}"), value).await;
    }
    for node in &nodes {
        node.group.read_barrier(Consistency::High).await.unwrap();
        node.group.shrink_log().await.unwrap();
        let status = node.group.status();
        assert!(status.purged.is_some_and(|purged| purged.index > 200), "{status:?}");
    }
    let sent = |nodes: &[TestNode]| -> u64 {
        nodes.iter().map(|node| node.group.core.outgoing.sent.load(Ordering::Relaxed)).sum()
    };
    assert_eq!(sent(&nodes), 0);
    let node = TestNode::fresh().await;
    nodes[1].group.add_peer(node.clients.to_string(), true, None).await.unwrap();
    nodes.push(node);
    settled(&nodes).await;
    assert!(sent(&nodes) >= 1, "through a checkpoint");
    same_content(&nodes).await;
    nodes[3].set("after", 1).await;
    assert_eq!(nodes[0].get("after").await, Some(1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_removed_node_can_be_added_again_and_a_leader_can_be_removed() {
    let mut nodes = cluster(3).await;
    let at = leader(&nodes).await;
    let gone = nodes.remove(at);
    nodes[0].group.remove_peer(gone.clients.to_string(), None).await.unwrap();
    settled(&nodes).await;
    nodes[0]
        .group
        .remove_peer(gone.clients.to_string(), None)
        .await
        .expect("removing it again changes nothing");
    nodes[1].set("k", 1).await;
    nodes[0].group.add_peer(gone.clients.to_string(), true, None).await.unwrap();
    nodes.push(gone);
    settled(&nodes).await;
    assert_eq!(nodes[2].get("k").await, Some(1));
    same_content(&nodes).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_wiped_node_takes_the_place_of_the_one_it_was() {
    let mut nodes = cluster(3).await;
    nodes[0].set("k", 1).await;
    let at = (leader(&nodes).await + 1) % 3;
    let old = nodes.remove(at).stop().await;
    let empty = || Arc::new(TempDir::new().unwrap());
    // Wiped twice: the one in between was a learner at most, and must not stay behind as a ghost.
    let again = TestNode::open(empty(), Some(old.clients), Some(old.peers)).await;
    nodes[0].group.add_peer(old.clients.to_string(), false, None).await.unwrap();
    let again = again.stop().await;
    let new = TestNode::open(empty(), Some(again.clients), Some(again.peers)).await;
    nodes[0].group.add_peer(again.clients.to_string(), true, None).await.unwrap();
    nodes.push(new);
    settled(&nodes).await;
    assert_eq!(nodes[2].get("k").await, Some(1));
    same_content(&nodes).await;
}

/// It knows only who led when it stopped, itself, and the new leader looks for it at its old address.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_former_leader_at_a_new_address_is_found() {
    let mut nodes = cluster(3).await;
    nodes[0].set("k", 1).await;
    let at = leader(&nodes).await;
    let old = nodes.remove(at).stop().await;
    leader(&nodes).await;
    nodes[0].set("k", 2).await;
    let moved = TestNode::open(old.dir, None, None).await;
    assert_ne!(moved.peers, old.peers);
    let addr = moved.clients.to_string();
    nodes.push(moved);
    eventually("the cluster knows the address", || {
        nodes.iter().all(|node| node.group.status().members.iter().any(|member| member.addr == addr))
    })
    .await;
    settled(&nodes).await;
    assert_eq!(nodes[2].get("k").await, Some(2));
}

/// A leader that dies between the two steps of a change leaves both voter sets in force.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_change_that_was_left_half_done_is_finished() {
    let mut nodes = cluster(3).await;
    let at = leader(&nodes).await;
    let gone = (at + 1) % 3;
    let ids = BTreeSet::from([nodes[gone].group.node_id()]);
    let change = nodes[at].group.core.raft.change_membership(ChangeMembers::RemoveVoters(ids), false);
    // The first poll proposes the joint membership; dropped then, nobody proposes the second step.
    assert!(futures_util::FutureExt::now_or_never(change).is_none());
    let _gone = nodes.remove(gone);
    settled(&nodes).await;
    nodes[0].set("k", 1).await;
}
