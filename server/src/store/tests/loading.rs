//! Bulk loading: the same rows as writing, more than one table and run of each kind, and what a failure leaves.

use std::collections::HashSet;
use std::fs;

use proptest::prelude::*;

use super::super::engine::{Cursor, FAMILIES};
use super::super::meta::DEADLINES_KEY;
use super::RecordOrder::{Any, Rising};
use super::*;

fn record(db: DbIndex, key: &str, value: &[u8], deadline: Option<u64>) -> Record {
    let value = Bytes::copy_from_slice(value);
    Record { db, key: bytes(key), tag: TypeTag::String, deadline: deadline.map(UnixMs), value }
}

fn load(node: &mut Node, records: &[Record], order: RecordOrder) -> Result<ViewMeta, Fatal> {
    node.applier.seed(records.iter().cloned().map(Ok), order, id(40), (id(0), bytes("who")))
}

/// Every row of every family as it is stored.
fn rows(node: &Node) -> Vec<(&'static str, Vec<u8>, Vec<u8>)> {
    let live = node.store.live();
    let mut all = Vec::new();
    for family in FAMILIES {
        let mut cursor = Cursor::now(&live, family, b"", None).unwrap();
        cursor.rewind(false);
        while let Some((key, value)) = cursor.item().unwrap() {
            all.push((family, key.to_vec(), value.to_vec()));
            cursor.step(false);
        }
    }
    all
}

/// The state that writing the records one by one leads to.
fn written(records: &[Record]) -> Node {
    let mut node = Node::new();
    node.next = 1;
    let set = |record: &Record| {
        let Record { db, key, value, deadline, .. } = record.clone();
        Op::Set { db, key, value, deadline }
    };
    let membership = Committed { id: id(1), payload: Payload::Membership(bytes("who")) };
    node.applier.apply(&[membership, entry(2, 0, records.iter().map(set).collect())]).unwrap();
    node.applier.flush(true).unwrap();
    node
}

/// Equal but for what names the entry: the ids in `meta`, the positions that hang on the first of them, the index in
/// each value.
fn comparable(node: &Node) -> Vec<(&'static str, Vec<u8>, Vec<u8>)> {
    let seed = node.store.live().state().seed;
    let mut all = rows(node);
    all.retain(|(family, key, _)| *family != "meta" || key.starts_with(b"db") || key == DEADLINES_KEY);
    for (family, key, value) in &mut all {
        match *family {
            "data" => value[9..17].fill(0),
            "scan" => {
                let (position, user_key) = key::split_scan(key).unwrap();
                assert_eq!(position, key::position(seed, user_key));
                key[1..9].fill(0);
            }
            _ => {}
        }
    }
    all.sort();
    all
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn loaded_rows_are_those_that_writing_makes(
        records in prop::collection::vec(
            (0_u8..3, "[a-d]{0,5}", 0_usize..20_000, prop::option::of(0_u64..5)), 0..60),
        rising: bool,
    ) {
        let mut records: Vec<Record> = records
            .iter()
            .map(|(db, key, size, deadline)| {
                let value: Vec<u8> = (0..*size).map(|_| rand::random::<u8>()).collect();
                record(*db, key, &value, *deadline)
            })
            .collect();
        if rising {
            records.sort_by(|a, b| (a.db, &a.key).cmp(&(b.db, &b.key)));
            records.dedup_by(|a, b| (a.db, &a.key) == (b.db, &b.key));
        }
        let mut node = Node::new();
        let meta = load(&mut node, &records, if rising { Rising } else { Any }).unwrap();
        prop_assert_eq!(&meta, &node.store.view().unwrap().meta());
        prop_assert_eq!((meta.applied, meta.membership), (Some(id(40)), Some((id(0), bytes("who")))));
        let expected = comparable(&written(&records));
        prop_assert_eq!(comparable(&node), expected.clone());
        // All of it is on disk.
        prop_assert_eq!(comparable(&node.crash()), expected);
    }
}

#[test]
fn a_loaded_store_goes_on_like_any_other() {
    let records: Vec<Record> = (0..20_000_u32)
        .map(|number| {
            let value: [u8; 32] = rand::random();
            record(0, &format!("key:{number:06}"), &value, Some(u64::from(number) + 9))
        })
        .collect();
    let mut node = Node::new();
    load(&mut node, &records, Rising).unwrap();
    let live = node.store.live().db.live_files().unwrap();
    for family in ["data", "scan"] {
        // Level 0 has what the opening of a database leaves there.
        let lasting = live.iter().filter(|file| file.column_family_name == family && file.level > 0).count();
        assert!(lasting > 1, "several tables of {family}, in the last level: {live:?}");
    }
    assert!(
        fs::read_dir(node.store.live().path()).unwrap().all(|entry| entry.unwrap().file_name() != "loading")
    );

    let mut node = node.crash();
    node.next = 41;
    assert_eq!(content(&node.store), records);
    assert_eq!(scan(&node.store, 0, 100).into_iter().collect::<HashSet<_>>().len(), records.len());
    assert_eq!(
        node.store.due(UnixMs(10), 100, 1000).unwrap(),
        [(0, bytes("key:000000")), (0, bytes("key:000001"))]
    );
    node.apply(vec![Op::Del { db: 0, keys: vec![bytes("key:000007")] }, set("key:000008", "new")]);
    assert_eq!((node.get("key:000007"), node.get("key:000008")), (None, Some(bytes("new"))));
    assert_eq!(content(&node.store).len(), records.len() - 1);
    assert!(load(&mut node, &records, Rising).is_err(), "only an empty store");
}

#[test]
fn a_load_that_fails_leaves_the_store_empty_and_can_be_done_again() {
    let records: Vec<Record> =
        (0..2000_u32).map(|number| record(1, &format!("{number:05}"), &[7; 200], None)).collect();
    let mut node = Node::new();
    for order in [Rising, Any] {
        for good in [0, 1, 1000, 2000] {
            let broken = Err(Fatal::new("read a record", "checksum"));
            let broken = records[..good].iter().cloned().map(Ok).chain([broken]);
            assert!(node.applier.seed(broken, order, id(40), (id(0), bytes("who"))).is_err());
            assert!(content(&node.store).is_empty() && node.store.applied().is_none());
        }
    }
    let mut twice = records.clone();
    twice.push(records[0].clone());
    let error = load(&mut node, &twice, Rising).unwrap_err().to_string();
    assert!(error.contains("build a table"), "records that do not rise: {error}");
    load(&mut node, &twice, Any).unwrap();
    assert_eq!(content(&node.store), records);
}
