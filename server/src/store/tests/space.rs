//! Space comes back after large deletions.

use super::*;

const KEYS: u32 = 20_000;

fn fill(node: &mut Node) -> u64 {
    // Hard to compress, so that the tables have a size.
    let value = |n: u32| -> Vec<u8> {
        (0..16)
            .flat_map(|part| xxhash_rust::xxh3::xxh3_64_with_seed(&n.to_le_bytes(), part).to_le_bytes())
            .collect()
    };
    for start in (0..KEYS).step_by(1000) {
        let pairs = (start..start + 1000).map(|n| (bytes(&format!("key{n:08}")), value(n).into())).collect();
        node.apply(vec![Op::MSet { db: 0, pairs }]);
    }
    node.applier.flush(true).unwrap();
    size(node)
}

fn size(node: &Node) -> u64 {
    node.store.engine_property("rocksdb.live-sst-files-size").unwrap()
}

fn comes_back(op: Op) {
    let mut node = Node::new();
    let full = fill(&mut node);
    assert!(full > u64::from(KEYS) * 100, "{full}");
    node.apply(vec![op, set("key-after", "1")]);
    node.applier.flush(true).unwrap();
    node.applier.reclaimer.settle();
    assert!(size(&node) < full / 20, "{} of {full} bytes are left", size(&node));
    assert_eq!(content(&node.store).len(), 1);
    let node = node.crash();
    assert_eq!(content(&node.store).len(), 1);
}

#[test]
fn after_flushdb() {
    comes_back(Op::FlushDb { db: 0 });
}

#[test]
fn after_pdel() {
    comes_back(Op::PDel { db: 0, pattern: bytes("key0*") });
}

/// Needs a small file system of its own, whose directory is in `KVNODE_TEST_SMALL_DISK`; says so where there is none.
#[test]
fn a_full_disk_stops_writes_not_reads_and_is_left_by_itself() {
    let Some(small) = std::env::var_os("KVNODE_TEST_SMALL_DISK") else {
        println!("skipped: KVNODE_TEST_SMALL_DISK names no small file system");
        return;
    };
    let small = std::path::PathBuf::from(small);
    let (store, mut applier) = open(&small.join("state")).unwrap();
    let value = Bytes::from(vec![b'v'; 1000]);
    let mset = |n: u64| Op::MSet { db: 0, pairs: vec![(bytes(&format!("k{n}")), value.clone())] };
    applier.apply(&[entry(0, 0, vec![mset(0)])]).unwrap();
    applier.flush(true).unwrap();

    let filler = small.join("filler");
    let mut file = std::fs::File::create(&filler).unwrap();
    while std::io::Write::write(&mut file, &[7; 4096]).is_ok() {}
    drop(file);
    applier.apply(&[entry(1, 0, vec![mset(1)])]).unwrap();
    applier.flush(false).unwrap();
    until(|| store.disk_error().is_some());
    assert_eq!(store.durable(), Some(id(0)));
    let reading = Query::Get { db: 0, key: bytes("k1") };
    assert_eq!(store.query(&reading).unwrap(), Answer::Value(Some(value.clone())));

    // The next write waits; it goes on when there is space again.
    let writer = std::thread::spawn(move || {
        let outcomes = applier.apply(&[entry(2, 0, vec![set("k2", "2")])]).unwrap();
        applier.flush(true).unwrap();
        (applier, outcomes)
    });
    std::fs::remove_file(&filler).unwrap();
    let (_applier, outcomes) = writer.join().unwrap();
    assert_eq!(outcomes, [[Outcome::Ok]]);
    assert_eq!((store.durable(), store.disk_error()), (Some(id(2)), None));
    assert_eq!(content(&store).len(), 3);
}

fn until(condition: impl Fn() -> bool) {
    let deadline = crate::clock::monotonic() + std::time::Duration::from_mins(1);
    while !condition() {
        assert!(crate::clock::monotonic() < deadline);
        std::thread::yield_now();
    }
}
