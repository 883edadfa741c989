//! Proposals, reads, hand-over, restarts.

use std::sync::Arc;

use tokio::task::JoinSet;

use super::*;
use crate::raft::{ProposeError, ReadError};

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn an_unformed_node_refuses_and_founding_is_idempotent() {
    let node = TestNode::fresh().await;
    assert_eq!(node.group.propose(vec![set("k", 1)]).await, Err(ProposeError::Unformed));
    assert_eq!(node.group.read_barrier(Consistency::High).await, Err(ReadError::Unformed));
    let id = node.group.found(None).await.unwrap();
    assert_eq!(node.group.found(None).await, Ok(id));
    assert_eq!(node.group.found(Some(id)).await, Ok(id));
    assert!(node.group.found(Some(id ^ 1)).await.is_err(), "another cluster");
    node.set("k", 1).await;
    let node = node.stop().await.start().await;
    assert_eq!(node.group.found(None).await, Ok(id));
    assert_eq!(node.get("k").await, Some(1));
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_one_node_writes_every_node_reads() {
    let nodes = cluster(3).await;
    for value in 1..=90 {
        let at = usize::try_from(value).unwrap();
        nodes[at % 3].set("k", value).await;
        assert_eq!(nodes[(at + 1) % 3].get("k").await, Some(value));
    }
    same_content(&nodes).await;
}

/// One writer per key counts up through all nodes in turn while leadership moves. No write may fail or be lost, and no
/// older one may come back: what is read after an acknowledgement is what was acknowledged.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_hand_over_is_not_noticed_by_writers() {
    const WRITES: u64 = 150;
    let nodes = Arc::new(cluster(3).await);
    let mut writers = JoinSet::new();
    for writer in 0..6_usize {
        let nodes = nodes.clone();
        writers.spawn(async move {
            let key = format!("key{writer}");
            for value in 1..=WRITES {
                let at = writer + usize::try_from(value).unwrap();
                nodes[at % 3].set(&key, value).await;
                if value % 10 == 0 {
                    assert_eq!(nodes[(at + 1) % 3].get(&key).await, Some(value));
                }
            }
        });
    }
    let mut moved = 0;
    while moved < 4 && !writers.is_empty() {
        let from = leader(&nodes).await;
        // An election may come in between on a slow machine; what counts is that the writers see nothing of it.
        moved += usize::from(nodes[from].group.transfer_leader(None).await.is_ok());
        while let Some(ended) = writers.try_join_next() {
            ended.expect("a writer without error");
        }
    }
    assert!(moved >= 1);
    while let Some(ended) = writers.join_next().await {
        ended.expect("a writer without error");
    }
    for node in nodes.iter() {
        for writer in 0..6 {
            assert_eq!(node.get(&format!("key{writer}")).await, Some(WRITES));
        }
    }
    same_content(&nodes).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_restart_of_all_nodes_keeps_everything() {
    let nodes = cluster(3).await;
    for value in 0..50 {
        nodes[0].set(&format!("key{value}"), value).await;
    }
    same_content(&nodes).await;
    let digest = nodes[0].digest();
    let mut stopped = Vec::new();
    for node in nodes {
        stopped.push(node.stop().await);
    }
    let mut nodes = Vec::new();
    for node in stopped {
        nodes.push(node.start().await);
    }
    settled(&nodes).await;
    same_content(&nodes).await;
    assert_eq!(nodes[2].digest(), digest);
    nodes[1].set("after", 1).await;
    assert_eq!(nodes[2].get("after").await, Some(1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_node_that_has_sent_messages_stops_without_leaving_a_task() {
    let nodes = cluster(2).await;
    let (sent, mut seen) = tokio::sync::mpsc::channel(1);
    nodes[1].group.on_message(move |_, channel: &Bytes, _: &Bytes| {
        sent.try_send(channel.clone()).expect("one message");
    });
    nodes[0].group.broadcast(false, &Bytes::from_static(b"news"), &Bytes::from_static(b"text"));
    assert_eq!(seen.recv().await, Some(Bytes::from_static(b"news")));
    assert!(nodes[0].group.read_barrier(Consistency::High).await.is_ok(), "asks the other for its vote");
    for node in nodes {
        let core = node.group.core.clone();
        node.group.shutdown().await.expect("stops");
        assert_eq!(core.tasks.len(), 0);
    }
}

/// Committing runs ahead of applying all the time; a Service must not lose a node for that.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_node_that_writes_is_not_recovering() {
    let nodes = cluster(1).await;
    {
        let writes = async {
            for value in 0..500 {
                nodes[0].set("k", value).await;
            }
        };
        let writes = tokio::time::timeout(WAIT, writes);
        tokio::pin!(writes);
        let mut looks = 0;
        while futures_util::poll!(&mut writes).is_pending() {
            assert!(nodes[0].group.status().recovered, "after {looks} looks");
            looks += 1;
            tokio::task::yield_now().await;
        }
        assert!(looks > 500, "{looks}");
    }
    // After a restart it is, until it has applied again what it had committed.
    let [node] = <[TestNode; 1]>::try_from(nodes).ok().expect("one");
    let restarted = node.stop().await.start().await;
    eventually("recovered", || restarted.group.status().recovered).await;
    assert_eq!(restarted.get("k").await, Some(499));
}
