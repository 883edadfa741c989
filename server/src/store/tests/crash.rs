//! What survives a crash, a checkpoint, an install; what is refused.

use std::fs;

use super::*;

fn wait_durable(node: &Node, wanted: LogId) {
    let deadline = crate::clock::monotonic() + std::time::Duration::from_mins(1);
    while node.store.durable() != Some(wanted) {
        assert!(crate::clock::monotonic() < deadline, "durable is {:?}", node.store.durable());
        std::thread::yield_now();
    }
}

#[test]
fn nothing_is_durable_before_a_flush_and_all_of_it_after() {
    let mut node = Node::new();
    node.apply(vec![set("a", "1")]);
    let node = node.crash();
    assert_eq!((node.store.applied(), node.get("a")), (None, None), "closing must not flush");

    let mut node = node;
    node.apply(vec![set("a", "1")]);
    assert_eq!(node.store.durable(), None);
    node.applier.flush(false).unwrap();
    wait_durable(&node, id(0));
    node.apply(vec![set("a", "2")]);
    assert_eq!(node.store.durable(), Some(id(0)), "what came after the flush began is not durable");
    let node = node.crash();
    assert_eq!((node.store.applied(), node.store.durable()), (Some(id(0)), Some(id(0))));
    assert_eq!(node.get("a"), Some(bytes("1")));
}

#[test]
fn a_flush_is_due_by_size_and_at_most_one_runs() {
    let mut node = Node::new();
    let mut flushes = 0;
    while flushes < 5 {
        let value = "v".repeat(1000);
        let key = format!("k{}", node.next);
        node.apply(vec![set(&key, &value)]);
        if node.applier.flush_due() {
            node.applier.flush(false).unwrap();
            assert!(!node.applier.flush_due());
            flushes += 1;
        }
    }
    node.applier.flush(true).unwrap();
    assert_eq!(node.store.durable(), node.store.applied());
    let keys = node.next;
    assert_eq!(content(&node.crash().store).len() as u64, keys);
}

#[test]
fn entries_below_the_applied_id_are_skipped_and_gaps_are_fatal() {
    let mut node = Node::new();
    let entries: Vec<Committed> = (0..3).map(|n| entry(n, 0, vec![set("a", &n.to_string())])).collect();
    assert_eq!(node.applier.apply(&entries).unwrap(), vec![vec![Outcome::Ok]; 3]);
    let again = node.applier.apply(&[entries[1].clone(), entries[2].clone(), entry(3, 0, vec![])]).unwrap();
    assert_eq!(again, vec![vec![]; 3]);
    assert_eq!(node.get("a"), Some(bytes("2")));
    let error = node.applier.apply(&[entry(5, 0, vec![])]).unwrap_err().to_string();
    assert!(error.contains("entries from index 4 on are missing"), "{error}");
    assert!(node.applier.apply(&[entry(4, 0, vec![])]).is_err(), "a failed applier stays failed");
}

#[test]
fn an_entry_that_is_no_batch_is_fatal() {
    let mut node = Node::new();
    let bad = Committed { id: id(0), payload: Payload::Batch(Bytes::from_static(&[9])) };
    let error = node.applier.apply(&[bad]).unwrap_err().to_string();
    assert!(error.contains("decode entry 1-abc-0") && error.contains("version 9"), "{error}");
    assert_eq!(node.store.applied(), None);
}

#[test]
fn membership_is_kept_beside_the_applied_id() {
    let mut node = Node::new();
    let membership = Committed { id: id(0), payload: Payload::Membership(bytes("who")) };
    let blank = Committed { id: id(1), payload: Payload::Blank };
    assert_eq!(node.applier.apply(&[membership, blank]).unwrap(), vec![vec![]; 2]);
    let expected = (Some(id(1)), Some((id(0), bytes("who"))));
    assert_eq!(node.applier.position(), expected);
    assert_eq!(node.store.view().unwrap().meta().membership, expected.1);
    node.applier.flush(true).unwrap();
    assert_eq!(node.crash().applier.position(), expected);
}

#[test]
fn a_checkpoint_carries_the_whole_state_to_another_node() {
    let mut from = Node::new();
    let membership = Committed { id: id(0), payload: Payload::Membership(bytes("who")) };
    from.applier.apply(&[membership]).unwrap();
    from.next = 1;
    from.apply_at(5, vec![set("a", "1"), set("b", "2")]);
    let path = from.dir.path().join("out/checkpoint");
    let info = from.applier.checkpoint(&path).unwrap();
    assert_eq!((info.applied, info.membership), (id(1), Some((id(0), bytes("who")))));
    let on_disk: u64 = info.files.iter().map(|(_, size)| size).sum();
    assert!(info.files.is_sorted() && on_disk > 0);
    assert_eq!(from.store.durable(), Some(id(1)));
    from.apply(vec![set("a", "after")]);

    let mut to = Node::new();
    to.apply(vec![set("old", "1")]);
    let old_view = to.store.view().unwrap();
    to.applier.install(&path).unwrap();
    assert!(!path.exists(), "moved");
    let databases = fs::read_dir(to.dir.path().join("state")).unwrap().count();
    assert_eq!(databases, 3, "the old database lives as long as its view, beside the new one and ACTIVE");
    assert_eq!(old_view.records().count(), 1);
    drop(old_view);
    assert_eq!(fs::read_dir(to.dir.path().join("state")).unwrap().count(), 2);
    assert_eq!(to.get("a"), Some(bytes("1")));
    assert_eq!((to.store.applied(), to.store.durable()), (Some(id(1)), Some(id(1))));
    assert_eq!(to.store.log_time(), UnixMs(5));
    assert_eq!(scan(&to.store, 0, 10), vec_of_scan(&from, &["a", "b"]), "cursors mean the same");

    // It goes on from there like the original, and after a restart as well.
    let rest = entry(2, 6, vec![set("a", "after")]);
    to.applier.apply(&[rest]).unwrap();
    assert_eq!(content(&to.store), content(&from.store));
    let to = to.crash();
    assert_eq!((to.store.applied(), to.get("a")), (Some(id(1)), Some(bytes("1"))));
}

/// The keys in the order in which `node` scans them.
fn vec_of_scan(node: &Node, keys: &[&str]) -> Vec<Bytes> {
    scan(&node.store, 0, 10).into_iter().filter(|key| keys.iter().any(|k| key == k.as_bytes())).collect()
}

#[test]
fn an_older_or_damaged_checkpoint_is_refused_without_harm() {
    let mut node = Node::new();
    node.apply(vec![set("a", "1")]);
    let path = node.dir.path().join("checkpoint");
    node.applier.checkpoint(&path).unwrap();
    let damaged = node.dir.path().join("damaged");
    node.applier.checkpoint(&damaged).unwrap();
    fs::remove_file(damaged.join("CURRENT")).unwrap();
    node.apply(vec![set("a", "2")]);

    let error = node.applier.install(&path).unwrap_err().to_string();
    assert!(error.contains("it holds 1-abc-0, but 1-abc-1 is applied here"), "{error}");
    let error = node.applier.install(&damaged).unwrap_err().to_string();
    assert!(error.contains("CURRENT is missing"), "{error}");
    assert_eq!(node.get("a"), Some(bytes("2")));
    node.applier.flush(true).unwrap();
    let node = node.crash();
    assert_eq!(node.get("a"), Some(bytes("2")));
    assert_eq!(fs::read_dir(node.dir.path().join("state")).unwrap().count(), 2, "left-overs are removed");
}

#[test]
fn damage_is_found_at_open_or_read_and_names_the_remedy() {
    let mut node = Node::new();
    node.apply(vec![set("a", &"v".repeat(10_000))]);
    node.applier.flush(true).unwrap();
    let state = node.dir.path().join("state");
    let database = state.join("db-0000000000000001");
    let Node { dir, store, applier, .. } = node;
    assert!(open(&state).is_err(), "one process at a time");
    drop((store, applier));

    let tables = fs::read_dir(&database).unwrap().map(|entry| entry.unwrap().path());
    let tables: Vec<_> = tables.filter(|path| path.extension().is_some_and(|ext| ext == "sst")).collect();
    for table in &tables {
        let mut content = fs::read(table).unwrap();
        // The first bytes are in the first data block.
        content[20] ^= 1;
        fs::write(table, content).unwrap();
    }
    let failure = match open(&state) {
        Err(fatal) => fatal,
        Ok((store, _applier)) => store.query(&Query::Get { db: 0, key: bytes("a") }).unwrap_err(),
    };
    let message = failure.to_string();
    assert!(message.contains("db-0000000000000001") && message.contains("join"), "{message}");

    fs::remove_file(&tables[0]).unwrap();
    let message = open(&state).err().unwrap().to_string();
    assert!(message.contains("db-0000000000000001") && message.contains("join"), "{message}");
    drop(dir);
}
