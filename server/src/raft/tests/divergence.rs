//! A node whose content is another one than the others'.

use super::*;
use crate::raft::{StartError, Stopped as End};
use crate::store::{Store, StoreOptions};

/// Gives a stopped node a row that no entry has.
fn skew(node: &Stopped) {
    let sizes = StoreOptions {
        databases: Config::default().databases,
        memtable_bytes: 1 << 20,
        block_cache_bytes: 8 << 20,
        value_cache_bytes: 0,
    };
    let (_store, mut applier) = Store::open(&node.dir.path().join("group-0/state"), sizes).unwrap();
    applier.write_past_the_log(b"skewed");
}

/// Waits for the node to stop for its content, and drops it.
async fn diverges(mut node: TestNode) -> Stopped {
    let end = tokio::time::timeout(WAIT, node.group.stopped()).await.expect("it stops");
    assert!(matches!(&end, End::Diverged(why) if why.contains("that of the majority")), "{end:?}");
    node.tasks.shutdown().await;
    node.stop().await
}

async fn is_refused(node: &Stopped) {
    let addresses = Addresses { addr: node.clients.to_string(), peer_addr: node.peers.to_string() };
    let (config, peers) = (Arc::new(config(node.dir.path())), listen(Some(node.peers)).await);
    let refused = start(config, addresses, peers, None, None, CancellationToken::new()).await.err();
    assert!(matches!(&refused, Some(StartError::Diverged(_))), "{refused:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_follower_that_differs_stops_and_the_others_go_on() {
    let mut nodes = cluster(3).await;
    for value in 1..=200 {
        nodes[0].set("k", value).await;
    }
    same_content(&nodes).await;
    let leads = leader(&nodes).await;
    let equal = || nodes[leads].group.status().equal_at >= nodes[leads].group.store().applied();
    eventually("the contents are equal", equal).await;
    let victim = (leads + 1) % 3;
    let stopped = nodes.remove(victim).stop().await;
    skew(&stopped);
    let skewed = stopped.start().await;
    let id = skewed.group.node_id();
    // While somebody writes, each round of the comparison sees other entries.
    let writer = async {
        for value in 0.. {
            nodes[0].set("k", value).await;
        }
    };
    let stopped = tokio::select! {
        stopped = diverges(skewed) => stopped,
        () = writer => unreachable!("it writes for ever"),
    };
    is_refused(&stopped).await;
    nodes[0].set("k", 1).await;
    let leads = leader(&nodes).await;
    let told = nodes[leads].group.status();
    let diverged: Vec<u64> =
        told.members.iter().filter(|member| member.diverged_at.is_some()).map(|member| member.id).collect();
    assert_eq!(diverged, [id]);
    nodes[leads].group.remove_peer(format!("{id:016x}"), None).await.expect("removed");
    eventually("nobody differs any more", || {
        let status = nodes[leads].group.status();
        status.members.len() == 2 && status.members.iter().all(|member| member.diverged_at.is_none())
    })
    .await;
}

/// Two of three are the majority, whoever leads; the one that differs may.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_three_that_start_the_one_that_differs_stops() {
    let mut nodes = cluster(3).await;
    nodes[0].set("k", 1).await;
    same_content(&nodes).await;
    let mut stopped = Vec::new();
    for node in nodes.drain(..) {
        stopped.push(node.stop().await);
    }
    skew(&stopped[0]);
    let skewed = stopped.remove(0).start().await;
    for node in stopped {
        nodes.push(node.start().await);
    }
    let stopped = diverges(skewed).await;
    is_refused(&stopped).await;
    nodes[0].set("k", 2).await;
    assert_eq!(nodes[1].get("k").await, Some(2));
}
