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
