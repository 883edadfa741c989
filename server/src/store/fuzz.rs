//! The fuzzer's way into the machine: what is applied may be anything that a client can ask for, and a panic here would stop
//! every node of a cluster at the same entry.

use std::cell::RefCell;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::BytesMut;

use super::{Applier, Batch, Committed, LogId, Op, Outcome, Payload, Query, Store, StoreOptions};
use crate::clock::UnixMs;

/// Small, so that limits are met.
const OPTIONS: StoreOptions = StoreOptions {
    databases: 16,
    memtable_bytes: 64 << 10,
    block_cache_bytes: 1 << 20,
    value_cache_bytes: 1 << 20,
};
/// Milliseconds that pass from one entry to the next.
const PACE_MS: u64 = 40;

/// What is asked of the machine.
pub(crate) enum Asked {
    /// A change.
    Op(Op),
    /// A question.
    Query(Query),
}

/// One machine for all inputs; each begins with an empty one.
struct Machine {
    store: Arc<Store>,
    applier: Applier,
    next: u64,
    dir: PathBuf,
}

impl Drop for Machine {
    fn drop(&mut self) {
        // It is in a directory for what may be lost.
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

impl Machine {
    fn open() -> Self {
        let dir = std::env::temp_dir().join(format!("kvnode-fuzz-{}", std::process::id()));
        let (store, applier) = Store::open(&dir, OPTIONS).expect("a store in an empty directory");
        Self { store, applier, next: 0, dir }
    }

    fn apply(&mut self, ops: Vec<Op>) -> Vec<Outcome> {
        let (index, count) = (self.next, ops.len());
        self.next += 1;
        let mut out = BytesMut::new();
        let at = UnixMs(index * PACE_MS);
        Batch { at, origin: 1, sequence: index + 1, ops }.encode_into(&mut out);
        let payload = Payload::Batch(out.freeze());
        let entry = Committed { id: LogId { term: 1, node: 1, index }, payload };
        let mut outcomes = self.applier.apply(&[entry]).expect("an entry that was proposed is applied");
        if self.applier.flush_due() {
            self.applier.flush(true).expect("there is a disk");
        }
        let outcomes = outcomes.pop().unwrap_or_default();
        assert_eq!(outcomes.len(), count, "an outcome for each op");
        outcomes
    }

    fn run(&mut self, asked: Vec<Asked>) {
        self.apply(vec![Op::FlushAll]);
        for one in asked {
            match one {
                Asked::Op(op) => drop(self.apply(vec![op])),
                Asked::Query(query) => drop(self.store.query(&query).expect("a question has an answer")),
            }
        }
        self.check();
    }

    /// The running counts and digests are those of the content.
    fn check(&self) {
        let view = self.store.view().expect("a view");
        let mut found = vec![(0_u64, 0_u64, 0_u128); usize::from(OPTIONS.databases)];
        for record in view.records() {
            let record = record.expect("a record");
            let db = &mut found[usize::from(record.db)];
            db.0 += 1;
            db.1 += u64::from(record.deadline.is_some());
            db.2 = db.2.wrapping_add(super::record_hash(&record));
        }
        let counted: Vec<_> =
            view.meta().databases.iter().map(|db| (db.keys, db.expires, db.digest)).collect();
        assert_eq!(counted, found);
    }
}

/// Carries out what was asked, in order.
pub(crate) fn apply(asked: Vec<Asked>) {
    thread_local!(static MACHINE: RefCell<Machine> = RefCell::new(Machine::open()));
    MACHINE.with(|machine| machine.borrow_mut().run(asked));
}
