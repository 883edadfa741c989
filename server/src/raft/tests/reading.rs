//! The leader's own read index (`confirm`): when it is given, when it must not be.

use openraft::async_runtime::WatchReceiver as _;

use super::*;
use crate::raft::log::Vote;
use crate::store::LogId;

async fn read_index(node: &TestNode) -> Option<LogId> {
    let core = &node.group.core;
    core.confirm.read_index(core).await
}

/// As if the node had given its vote to somebody else, in the next term.
async fn vote_for_another(node: &TestNode) -> Vote {
    let log = &node.group.core.log;
    let before = log.vote().expect("a vote");
    save_vote(node, Vote { term: before.term + 1, node: before.node ^ 1, committed: false }).await;
    before
}

async fn save_vote(node: &TestNode, vote: Vote) {
    let (done, saved) = tokio::sync::oneshot::channel();
    node.group.core.log.save_vote(vote, Box::new(move |result| done.send(result).expect("awaited")));
    saved.await.expect("told").expect("saved");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_read_index_covers_what_any_node_has_acknowledged() {
    let nodes = cluster(3).await;
    let at = leader(&nodes).await;
    for value in 1..=60 {
        let through = &nodes[usize::try_from(value).unwrap() % 3];
        through.set("k", value).await;
        let acknowledged = through.group.core.apply.applied_now().expect("applied");
        let confirmed = read_index(&nodes[at]).await.expect("this leader is not disputed");
        assert!(confirmed.index >= acknowledged.index, "{confirmed} but {acknowledged} is known");
    }
    for other in (0..3).filter(|other| *other != at) {
        assert_eq!(read_index(&nodes[other]).await, None, "a follower cannot tell");
    }
    // A follower may know from an append what this leader has not applied yet.
    let core = &nodes[at].group.core;
    let beyond = core.apply.applied_now().expect("applied").index + 5;
    core.told.commit(beyond);
    assert_eq!(read_index(&nodes[at]).await.map(|id| id.index), Some(beyond));
    core.told.members(u64::MAX);
    assert_eq!(read_index(&nodes[at]).await, None, "a membership that the Raft core does not show yet");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn voters_that_gave_their_vote_away_confirm_nothing() {
    let nodes = cluster(3).await;
    let at = leader(&nodes).await;
    nodes[at].set("k", 1).await;
    let followers: Vec<usize> = (0..3).filter(|other| *other != at).collect();
    assert!(read_index(&nodes[at]).await.is_some());
    for gone in &followers {
        let before = vote_for_another(&nodes[*gone]).await;
        assert!(read_index(&nodes[at]).await.is_some(), "the other follower makes the majority");
        save_vote(&nodes[*gone], before).await;
    }
    let mut before = Vec::new();
    for gone in &followers {
        before.push(vote_for_another(&nodes[*gone]).await);
    }
    assert_eq!(read_index(&nodes[at]).await, None, "a new leader may exist");
    for (gone, vote) in followers.iter().zip(before) {
        save_vote(&nodes[*gone], vote).await;
    }
    vote_for_another(&nodes[at]).await;
    assert_eq!(read_index(&nodes[at]).await, None, "it has itself voted for another");
}

/// Its vote, and an applied entry of its own term, are on disk; what it had acknowledged since may have to be applied again.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_leader_that_restarted_answers_only_once_elected_again() {
    let nodes = cluster(3).await;
    let at = leader(&nodes).await;
    nodes[at].set("k", 1).await;
    same_content(&nodes).await;
    let id = nodes[at].group.node_id();
    let mut followers = nodes;
    let leader = followers.remove(at);
    let mut stopped = Vec::new();
    // The followers first: nobody else can be elected, and every vote on disk stays with the leader.
    for node in followers.into_iter().chain([leader]) {
        stopped.push(node.stop().await);
    }
    let mut nodes = Vec::new();
    for node in stopped {
        nodes.push(node.start_quiet().await);
    }
    let core = &nodes[2].group.core;
    let vote = core.log.vote().expect("a vote");
    let applied = core.apply.applied_now().expect("applied");
    assert_eq!((vote.node, applied.node, applied.term), (id, id, vote.term), "all else speaks for it");
    for follower in &nodes[..2] {
        assert_eq!(follower.group.core.log.vote().map(|vote| vote.node), Some(id), "and they would say yes");
    }
    eventually("the addresses of the voters are known", || !core.members.load().voters().is_empty()).await;
    assert_eq!(read_index(&nodes[2]).await, None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_lease_is_held_by_a_leader_that_a_majority_has_just_heard() {
    let has_lease = |node: &TestNode| crate::raft::confirm::by_lease(&node.group.core).is_some();
    let mut nodes = cluster(3).await;
    let at = leader(&nodes).await;
    let node = nodes.remove(at);
    // A fresh node trusts no lease for two of them.
    eventually("the leader holds a lease", || has_lease(&node)).await;
    assert!(!has_lease(&nodes[0]) && !has_lease(&nodes[1]), "followers hold none");
    node.group.core.suspend_lease();
    assert!(!has_lease(&node), "a hand-over has begun");
    eventually("the leader holds a lease again", || has_lease(&node)).await;

    for other in nodes {
        other.stop().await;
    }
    eventually("the lease has run out", || !has_lease(&node)).await;
    let leads = node.group.core.raft.metrics().borrow_watched().state.is_leader();
    assert!(leads, "it leads still, and cannot know whether another one does");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_lease_alone_is_not_enough() {
    let has_lease = |node: &TestNode| crate::raft::confirm::by_lease(&node.group.core).is_some();
    let nodes = cluster(3).await;
    let node = &nodes[leader(&nodes).await];
    node.set("k", 1).await;
    eventually("the leader holds a lease", || has_lease(node)).await;
    let core = &node.group.core;
    core.told.commit(core.apply.applied_now().expect("applied").index + 5);
    assert!(!has_lease(node), "a follower may know of more than is applied here");

    let nodes = cluster(3).await;
    let node = &nodes[leader(&nodes).await];
    eventually("the leader holds a lease", || has_lease(node)).await;
    node.group.core.told.members(u64::MAX);
    assert!(!has_lease(node), "a membership that the Raft core does not show yet");

    let nodes = cluster(3).await;
    let node = &nodes[leader(&nodes).await];
    eventually("the leader holds a lease", || has_lease(node)).await;
    vote_for_another(node).await;
    assert!(!has_lease(node), "it has itself voted for another");
}
