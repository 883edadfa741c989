//! The store against a `BTreeMap`, through random entries, groupings, flushes, crashes and checkpoints.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

/// (database, key) -> (value, deadline).
type Content = BTreeMap<(DbIndex, Bytes), (Bytes, Option<UnixMs>)>;

/// The obvious machine.
#[derive(Clone, Debug, Default)]
struct Model {
    content: Content,
    log_time: UnixMs,
}

impl Model {
    fn apply(&mut self, at: UnixMs, ops: &[Op]) -> Vec<Outcome> {
        self.log_time = self.log_time.max(at);
        ops.iter().map(|op| self.op(op)).collect()
    }

    fn op(&mut self, op: &Op) -> Outcome {
        match op.clone() {
            Op::Set { db, key, value, deadline } => {
                self.content.insert((db, key), (value, deadline.map(|deadline| UnixMs(deadline.0.max(1)))));
                Outcome::Ok
            }
            Op::MSet { db, pairs } => {
                self.content.extend(pairs.into_iter().map(|(key, value)| ((db, key), (value, None))));
                Outcome::Ok
            }
            Op::Del { db, keys } => self.delete(keys.into_iter().map(|key| (db, key)).collect()),
            Op::DelIf { db, part, keys } => {
                let contains = |value: &[u8]| part.is_empty() || value.windows(part.len()).any(|w| w == part);
                let fits = |key: &(DbIndex, Bytes)| self.visible(key).is_some_and(|value| contains(&value));
                let keys = keys.into_iter().map(|key| (db, key)).filter(fits).collect();
                self.delete(keys)
            }
            Op::PDel { db, pattern } => {
                let fits = |(of, key): &(DbIndex, Bytes)| *of == db && glob::matches(&pattern, key);
                let keys = self.content.keys().filter(|key| fits(key)).cloned().collect();
                self.delete(keys)
            }
            Op::FlushDb { db } => {
                self.content.retain(|(of, _), _| *of != db);
                Outcome::Ok
            }
            Op::FlushAll => {
                self.content.clear();
                Outcome::Ok
            }
        }
    }

    fn delete(&mut self, keys: Vec<(DbIndex, Bytes)>) -> Outcome {
        let mut count = 0;
        for key in keys {
            count += i64::from(self.visible(&key).is_some());
            self.content.remove(&key);
        }
        Outcome::Int(count)
    }

    fn visible(&self, key: &(DbIndex, Bytes)) -> Option<Bytes> {
        let (value, deadline) = self.content.get(key)?;
        (!deadline.is_some_and(|deadline| deadline <= self.log_time)).then(|| value.clone())
    }

    fn keys(&self, db: DbIndex) -> Vec<Bytes> {
        let of_db = self.content.keys().filter(|(of, _)| *of == db);
        of_db.filter(|key| self.visible(key).is_some()).map(|(_, key)| key.clone()).collect()
    }

    fn page(&self, query: &Query) -> Answer {
        let Query::Keys { db, pattern, pivot, limit, descending, with_values, .. } = query else {
            panic!("not KEYS")
        };
        let mut keys = self.keys(*db);
        keys.retain(|key| glob::matches(pattern, key));
        if *descending {
            keys.reverse();
        }
        if let Some(Pivot { key: pivot, inclusive }) = pivot {
            keys.retain(|key| {
                (*inclusive && key == pivot) || if *descending { key < pivot } else { key > pivot }
            });
        }
        keys.truncate(limit.map_or(usize::MAX, |limit| usize::try_from(limit).unwrap()));
        let value = |key: &Bytes| with_values.then(|| self.visible(&(*db, key.clone())).unwrap());
        Answer::Keys(keys.into_iter().map(|key| (key.clone(), value(&key))).collect())
    }

    fn records(&self) -> Vec<Record> {
        let record = |((db, key), (value, deadline)): (&(DbIndex, Bytes), &(Bytes, Option<UnixMs>))| Record {
            db: *db,
            key: key.clone(),
            tag: TypeTag::String,
            deadline: *deadline,
            value: value.clone(),
        };
        self.content.iter().map(record).collect()
    }
}

/// What happens to a node.
#[derive(Clone, Debug)]
enum Step {
    /// New entries, applied in one call.
    Apply(Vec<(u64, Vec<Op>)>),
    Flush(bool),
    /// Everything since the last finished flush is lost, then replayed from the log in calls of this many entries.
    Crash(usize),
    /// A new node takes over from a checkpoint of this one.
    Move,
    Keys(Query),
}

fn key() -> impl Strategy<Value = Bytes> {
    let letters = prop::sample::select(b"ab\xff\x00".to_vec());
    prop::collection::vec(letters, 0..3).prop_map(Bytes::from)
}

fn value() -> impl Strategy<Value = Bytes> {
    prop_oneof![
        8 => prop::collection::vec(prop::sample::select(b"xy".to_vec()), 0..4).prop_map(Bytes::from),
        1 => (20_000_usize..40_000).prop_map(|size| Bytes::from(vec![b'z'; size])),
    ]
}

fn pattern() -> impl Strategy<Value = Bytes> {
    let letters = prop::sample::select(b"ab*?*\xff".to_vec());
    prop::collection::vec(letters, 0..4).prop_map(Bytes::from)
}

fn op() -> impl Strategy<Value = Op> {
    let keys = || prop::collection::vec(key(), 0..4);
    let db = 0..3_u8;
    prop_oneof![
        6 => (db.clone(), key(), value(), prop::option::weighted(0.2, 0..60_u64)).prop_map(
            |(db, key, value, deadline)| Op::Set { db, key, value, deadline: deadline.map(UnixMs) }),
        2 => (db.clone(), prop::collection::vec((key(), value()), 0..4)).prop_map(|(db, pairs)| Op::MSet { db, pairs }),
        3 => (db.clone(), keys()).prop_map(|(db, keys)| Op::Del { db, keys }),
        1 => (db.clone(), value(), keys()).prop_map(|(db, part, keys)| Op::DelIf { db, part, keys }),
        1 => (db.clone(), pattern()).prop_map(|(db, pattern)| Op::PDel { db, pattern }),
        1 => db.prop_map(|db| Op::FlushDb { db }),
        1 => Just(Op::FlushAll),
    ]
}

fn page() -> impl Strategy<Value = Query> {
    let pivot =
        prop::option::of((key(), any::<bool>()).prop_map(|(key, inclusive)| Pivot { key, inclusive }));
    let options = (prop::option::of(0..5_u64), any::<bool>(), any::<bool>());
    (0..3_u8, pattern(), pivot, options).prop_map(|(db, pattern, pivot, (limit, descending, with_values))| {
        Query::Keys { db, pattern, pivot, limit, descending, with_values, size_bytes_max: u64::MAX }
    })
}

fn step() -> impl Strategy<Value = Step> {
    let entries = prop::collection::vec((0..50_u64, prop::collection::vec(op(), 0..6)), 1..6);
    prop_oneof![
        8 => entries.prop_map(Step::Apply),
        2 => any::<bool>().prop_map(Step::Flush),
        2 => (1..5_usize).prop_map(Step::Crash),
        1 => Just(Step::Move),
        4 => page().prop_map(Step::Keys),
    ]
}

/// The node, the log of all entries, and the model after each of them.
struct World {
    node: Option<Node>,
    log: Vec<Committed>,
    outcomes: Vec<Vec<Outcome>>,
    models: Vec<Model>,
}

impl World {
    fn new() -> World {
        World {
            node: Some(Node::new()),
            log: Vec::new(),
            outcomes: Vec::new(),
            models: vec![Model::default()],
        }
    }

    fn node(&mut self) -> &mut Node {
        self.node.as_mut().unwrap()
    }

    fn run(&mut self, step: Step) {
        match step {
            Step::Apply(entries) => {
                let first = self.log.len();
                for (at, ops) in entries {
                    let mut model = self.models.last().unwrap().clone();
                    self.outcomes.push(model.apply(UnixMs(at), &ops));
                    self.models.push(model);
                    self.log.push(entry(self.log.len() as u64, at, ops));
                }
                let outcomes = self.node.as_mut().unwrap().applier.apply(&self.log[first..]).unwrap();
                assert_eq!(outcomes, self.outcomes[first..]);
            }
            Step::Flush(wait) => {
                self.node().applier.flush(wait).unwrap();
                if wait {
                    assert_eq!(self.node().store.durable(), self.node().store.applied());
                }
            }
            Step::Crash(calls_of) => {
                let durable = self.node().store.durable();
                let node = self.node.take().unwrap().crash();
                assert!(node.store.applied() >= durable, "what was durable is still there");
                let from = usize::try_from(node.next).unwrap();
                self.node = Some(node);
                self.check(from);
                for (calls, entries) in self.log[from..].chunks(calls_of).enumerate() {
                    let at = from + calls * calls_of;
                    let outcomes = self.node.as_mut().unwrap().applier.apply(entries).unwrap();
                    assert_eq!(outcomes, self.outcomes[at..at + entries.len()], "replayed");
                }
            }
            Step::Move if self.log.is_empty() => {}
            Step::Move => {
                let mut to = Node::new();
                let path = to.dir.path().join("checkpoint");
                self.node().applier.checkpoint(&path).unwrap();
                to.applier.install(&path).unwrap();
                self.node = Some(to);
            }
            Step::Keys(query) => {
                let expected = self.models.last().unwrap().page(&query);
                assert_eq!(self.node().store.query(&query).unwrap(), expected, "{query:?}");
            }
        }
        self.check(self.log.len());
    }

    /// The node holds exactly the state after `entries` entries.
    fn check(&mut self, entries: usize) {
        let model = &self.models[entries];
        let store = &self.node.as_ref().unwrap().store;
        assert_eq!(store.applied(), entries.checked_sub(1).map(|last| id(last as u64)));
        assert_eq!(store.log_time(), model.log_time);
        assert_eq!(content(store), model.records());
        for db in 0..3 {
            let mut scanned = scan(store, db, 2);
            scanned.sort();
            assert_eq!(scanned, model.keys(db), "SCAN of database {db}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, max_shrink_iters: 400, ..ProptestConfig::default() })]

    #[test]
    fn the_store_is_the_model(steps in prop::collection::vec(step(), 1..25)) {
        let mut world = World::new();
        for step in steps {
            world.run(step);
        }
    }

    /// SCAN's promise: a key that is there from the first page to the last is returned, whatever else happens.
    #[test]
    fn a_scan_returns_what_stays(
        stays in prop::collection::btree_set(key(), 1..12),
        count in 1..5_u64,
        between in prop::collection::vec((key(), any::<bool>()), 0..40),
    ) {
        let mut node = Node::new();
        let pairs = stays.iter().map(|key| (key.clone(), bytes("v"))).collect();
        node.apply(vec![Op::MSet { db: 0, pairs }]);
        let (mut seen, mut cursor) = (Vec::new(), 0);
        let mut between = between.into_iter();
        loop {
            let query = Query::Scan { db: 0, cursor, pattern: None, count, only: None };
            let Answer::Scan { cursor: next, keys } = node.store.query(&query).unwrap() else { panic!("not a page") };
            seen.extend(keys);
            if next == 0 {
                break;
            }
            cursor = next;
            if let Some((key, comes)) = between.next() {
                let deleted = Op::Del { db: 0, keys: vec![key.clone()] };
                let op = if comes || stays.contains(&key) { set_key(&key) } else { deleted };
                node.apply(vec![op]);
            }
        }
        for key in &stays {
            prop_assert!(seen.contains(key), "{key:?} is missing");
        }
    }

    /// Two nodes that group the same entries differently are the same, to the bytes of each record and the digest.
    #[test]
    fn grouping_changes_nothing(
        entries in prop::collection::vec((0..50_u64, prop::collection::vec(op(), 0..5)), 1..20),
        calls_of in 1..7_usize,
    ) {
        let log: Vec<Committed> =
            (0..).zip(entries).map(|(index, (at, ops))| entry(index, at, ops)).collect();
        let (mut one, mut other) = (Node::new(), Node::new());
        let whole = one.applier.apply(&log).unwrap();
        let mut parts = Vec::new();
        for part in log.chunks(calls_of) {
            parts.extend(other.applier.apply(part).unwrap());
        }
        prop_assert_eq!(whole, parts);
        prop_assert_eq!(content(&one.store), content(&other.store));
        prop_assert_eq!(one.store.view().unwrap().meta(), other.store.view().unwrap().meta());
        prop_assert_eq!(scan(&one.store, 0, 3), scan(&other.store, 0, 3));
    }
}

fn set_key(key: &Bytes) -> Op {
    Op::Set { db: 0, key: key.clone(), value: bytes("w"), deadline: None }
}
