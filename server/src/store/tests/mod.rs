//! Behaviour of the whole module: scripts, a model with crashes, and what survives what.

mod crash;
mod expiring;
mod flushing;
mod loading;
mod model;
mod reading;
mod scripts;
mod space;

use std::path::Path;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};

use super::*;
use crate::clock::UnixMs;

/// Small sizes, so that limits are met.
pub(super) const OPTIONS: StoreOptions = StoreOptions {
    databases: 4,
    memtable_bytes: 64 << 10,
    block_cache_bytes: 1 << 20,
    value_cache_bytes: 1 << 20,
};

/// A store in a directory of its own, and the log that it applies.
pub(super) struct Node {
    pub(super) dir: tempfile::TempDir,
    pub(super) store: Arc<Store>,
    pub(super) applier: Applier,
    /// Index of the next entry.
    pub(super) next: u64,
}

impl Node {
    pub(super) fn new() -> Node {
        let dir = tempfile::tempdir().unwrap();
        let (store, applier) = Store::open(&dir.path().join("state"), OPTIONS).unwrap();
        Node { dir, store, applier, next: 0 }
    }

    /// Drops everything as a crash would: nothing is flushed on the way.
    pub(super) fn crash(self) -> Node {
        let Node { dir, store, applier, .. } = self;
        drop(applier);
        drop(store);
        let (store, applier) = open(&dir.path().join("state")).unwrap();
        let next = store.applied().map_or(0, |id| id.index + 1);
        Node { dir, store, applier, next }
    }

    /// Applies one entry of these ops.
    pub(super) fn apply(&mut self, ops: Vec<Op>) -> Vec<Outcome> {
        self.apply_at(0, ops)
    }

    pub(super) fn apply_at(&mut self, at: u64, ops: Vec<Op>) -> Vec<Outcome> {
        let entry = entry(self.next, at, ops);
        self.next += 1;
        self.applier.apply(&[entry]).unwrap().remove(0)
    }

    pub(super) fn get(&self, key: &str) -> Option<Bytes> {
        match self.store.query(&Query::Get { db: 0, key: bytes(key) }).unwrap() {
            Answer::Value(value) => value,
            other => panic!("{other:?}"),
        }
    }
}

pub(super) fn open(path: &Path) -> Result<(Arc<Store>, Applier), Fatal> {
    Store::open(path, OPTIONS)
}

pub(super) fn bytes(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

pub(super) fn id(index: u64) -> LogId {
    LogId { term: 1, node: 0xabc, index }
}

pub(super) fn entry(index: u64, at: u64, ops: Vec<Op>) -> Committed {
    let mut out = BytesMut::new();
    Batch { at: UnixMs(at), origin: 1, sequence: index + 1, ops }.encode_into(&mut out);
    Committed { id: id(index), payload: Payload::Batch(out.freeze()) }
}

pub(super) fn set(key: &str, value: &str) -> Op {
    Op::Set { db: 0, key: bytes(key), value: bytes(value), deadline: None }
}

/// The digest of records, worked out afresh.
pub(super) fn digest_of(records: &[Record], db: DbIndex) -> u128 {
    let mut scratch = Vec::new();
    records.iter().filter(|record| record.db == db).fold(0, |sum: u128, record| {
        let Record { db, key, tag, deadline, value } = record;
        sum.wrapping_add(value::digest(&mut scratch, *db, *tag, *deadline, key, value))
    })
}

/// All records, after checking that counts and digests of the view fit them.
pub(super) fn content(store: &Store) -> Vec<Record> {
    let view = store.view().unwrap();
    let meta = view.meta();
    let records: Vec<Record> = view.records().map(Result::unwrap).collect();
    for (db, stats) in (0..).zip(&meta.databases) {
        let of_db = || records.iter().filter(|record| record.db == db);
        let expires = of_db().filter(|record| record.deadline.is_some()).count();
        let expected = DbStats {
            keys: of_db().count() as u64,
            expires: expires as u64,
            digest: digest_of(&records, db),
        };
        assert_eq!(*stats, expected, "running facts of database {db}");
    }
    records
}

/// Keys of a database as a whole SCAN returns them, in pages of `count`.
pub(super) fn scan(store: &Store, db: DbIndex, count: u64) -> Vec<Bytes> {
    let (mut all, mut cursor) = (Vec::new(), 0);
    loop {
        let query = Query::Scan { db, cursor, pattern: None, count, only: None };
        let Answer::Scan { cursor: next, keys } = store.query(&query).unwrap() else { panic!("not a page") };
        all.extend(keys);
        assert!(next == 0 || next > cursor, "the cursor goes forward");
        if next == 0 {
            return all;
        }
        cursor = next;
    }
}
