//! Reads: whose state answers, and what is asked of it.

use super::*;

#[tokio::test]
async fn the_leader_answers_for_a_node_that_is_behind() {
    let mut bench = Bench::new(|_| {});
    let behind = ReadError::Behind { index: 9 };
    bench.group.0.refuse_reads.lock().extend([behind.clone(), behind]);
    // A deadline that seems to have come there is for the log to decide, as here.
    assert_eq!(bench.reply("GET k").await, bulk("the leader's"));
    let asked = [Asked::Barrier(Consistency::High), Asked::Propose(1)];
    assert_eq!(bench.asked(), asked, "nothing of the local state");
    let refused = bench.reply("WATCH k").await;
    assert_eq!(refused, error("LOADING the node has not caught up with its leader; nothing was done"));
}

#[tokio::test]
async fn each_random_key_has_a_seed_of_its_own() {
    let mut bench = Bench::new(|_| {});
    let replies = bench.replies(&["RANDOMKEY", "RANDOMKEY"]).await;
    assert_ne!(replies[0], replies[1]);
}
