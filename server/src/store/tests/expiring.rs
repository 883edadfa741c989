//! Deadlines: what is due, what can be seen, and how a state without their order gains one.

use super::super::engine::{EXPIRE, META};
use super::super::meta::DEADLINES_KEY;
use super::*;

fn set_until(key: &str, deadline: u64) -> Op {
    Op::Set { db: 0, key: bytes(key), value: bytes("v"), deadline: Some(UnixMs(deadline)) }
}

fn ask(node: &Node, key: &str, now: u64) -> Answer {
    node.store.query_at(&Query::Get { db: 0, key: bytes(key) }, UnixMs(now)).unwrap()
}

#[test]
fn a_deadline_between_the_log_time_and_now_is_for_the_log_to_decide() {
    let mut node = Node::new();
    node.apply_at(100, vec![set_until("k", 200), set("stays", "v")]);
    assert_eq!(ask(&node, "k", 150), Answer::Value(Some(bytes("v"))));
    assert_eq!(ask(&node, "k", 200), Answer::Due);
    assert_eq!(ask(&node, "stays", 200), Answer::Value(Some(bytes("v"))));
    let all = [
        Query::MGet { db: 0, keys: vec![bytes("stays"), bytes("k")], size_bytes_max: 1000 },
        Query::Exists { db: 0, keys: vec![bytes("k")] },
        Query::Type { db: 0, key: bytes("k") },
        Query::Deadline { db: 0, key: bytes("k") },
        Query::DbSize { db: 0 },
        Query::Scan { db: 0, cursor: 0, pattern: None, count: 10, only: None },
        Query::Versions { keys: vec![(0, bytes("k"))] },
        Query::Row { db: 0, key: bytes("k") },
    ];
    for query in &all {
        assert_eq!(node.store.query_at(query, UnixMs(250)).unwrap(), Answer::Due, "{query:?}");
        assert_ne!(node.store.query_at(query, UnixMs(150)).unwrap(), Answer::Due, "{query:?}");
    }
    node.apply_at(210, vec![Op::Reap { keys: Vec::new() }]);
    assert_eq!(ask(&node, "k", 250), Answer::Value(None));
    for query in &all {
        assert_ne!(node.store.query_at(query, UnixMs(250)).unwrap(), Answer::Due, "{query:?}");
    }
    assert_eq!(node.store.visible(0, 0).unwrap(), Visible { keys: 1, ..Visible::default() });
    assert_eq!(content(&node.store).len(), 2, "hidden, not removed");
    let keys = node.store.due(UnixMs(210), 10, 1000).unwrap();
    assert_eq!(node.apply_at(211, vec![Op::Reap { keys }]), [Outcome::Int(1)]);
    assert_eq!(content(&node.store).len(), 1);
    assert_eq!(node.store.reaped(), 1);
}

#[test]
fn what_is_due_comes_in_bounded_batches_the_oldest_first() {
    let mut node = Node::new();
    node.apply((0..50).map(|n| set_until(&format!("k{n:02}"), 100 + n)).collect());
    let due = |now, keys, size| node.store.due(UnixMs(now), keys, size).unwrap();
    assert!(due(99, 10, 1000).is_empty());
    assert_eq!(due(100, 10, 1000), [(0, bytes("k00"))]);
    let batch = due(1000, 3, 1000);
    assert_eq!(batch, [(0, bytes("k00")), (0, bytes("k01")), (0, bytes("k02"))]);
    assert_eq!(due(1000, 10, 7).len(), 2, "bounded in bytes");
    assert_eq!(due(1000, 10, 1).len(), 1, "never empty while something is due");
}

/// A state directory of 0.1.0 has the values, and no family `expire`.
#[test]
fn a_state_without_an_order_of_deadlines_gains_one_at_open() {
    let mut node = Node::new();
    node.apply(vec![set_until("a", 300), set_until("b", 200), set("c", "v")]);
    node.applier.flush(true).unwrap();
    {
        let live = node.store.live();
        let (meta, expire) = (live.family(META).unwrap(), live.family(EXPIRE).unwrap());
        live.db.delete_cf(meta, DEADLINES_KEY).unwrap();
        live.db.delete_range_cf(expire, [0], [255]).unwrap();
        live.db.flush_cf(meta).unwrap();
        live.db.flush_cf(expire).unwrap();
    }
    assert!(node.store.due(UnixMs(1000), 10, 1000).unwrap().is_empty(), "it is gone");
    let node = node.crash();
    assert_eq!(node.store.due(UnixMs(1000), 10, 1000).unwrap(), [(0, bytes("b")), (0, bytes("a"))]);
    let node = node.crash();
    assert_eq!(node.store.due(UnixMs(250), 10, 1000).unwrap(), [(0, bytes("b"))], "made again after a crash");
}

#[test]
fn a_watched_key_is_told_by_its_version() {
    let mut node = Node::new();
    node.apply_at(10, vec![set("k", "v"), set_until("short", 20)]);
    let versions = |node: &Node, key: &str| {
        let query = Query::Versions { keys: vec![(0, bytes(key))] };
        let Answer::Versions(versions) = node.store.query(&query).unwrap() else { panic!("no versions") };
        versions[0]
    };
    let exec = |key: &str, version| Op::Transaction {
        watched: vec![Watched { db: 0, key: bytes(key), version }],
        steps: vec![Step::Write(set("done", "v"))],
    };
    let seen = versions(&node, "k");
    assert_eq!(node.apply_at(10, vec![exec("k", seen)]), [Outcome::List(vec![Outcome::Ok])]);
    // Changed by an op of the same entry, before it.
    assert_eq!(node.apply_at(10, vec![set("k", "w"), exec("k", seen)])[1], Outcome::Nil);
    assert_eq!(versions(&node, "none"), None);
    assert_eq!(node.apply_at(10, vec![set("none", "v"), exec("none", None)])[1], Outcome::Nil);
    let short = versions(&node, "short");
    assert_eq!(node.apply_at(20, vec![exec("short", short)]), [Outcome::Nil], "expired since");
    assert_eq!(node.apply_at(20, vec![exec("short", None)]), [Outcome::List(vec![Outcome::Ok])]);
}

#[test]
fn the_mean_time_left_is_that_of_all_or_of_a_sample_of_many() {
    let mut node = Node::new();
    node.apply_at(
        1000,
        vec![set("stays", "v"), set_until("gone", 900), set_until("a", 1100), set_until("b", 1300)],
    );
    assert_eq!(node.store.visible(0, 7).unwrap(), Visible { keys: 3, expires: 2, ttl_mean_ms: 200 });
    // Half of many keys have 1000 ms left, half 3000 ms: every sample lies between.
    let many = |n: u64| set_until(&format!("k{n}"), 2000 + 2000 * (n % 2));
    node.apply_at(1000, (0..2000).map(many).collect());
    for seed in [0, 1, u64::MAX] {
        let seen = node.store.visible(0, seed).unwrap();
        assert_eq!((seen.keys, seen.expires), (2003, 2002));
        assert!((1700..2300).contains(&seen.ttl_mean_ms), "{seen:?}");
    }
}
