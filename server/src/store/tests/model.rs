//! The store against a `BTreeMap`, through random entries, groupings, flushes, crashes and checkpoints.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::change::WriteAnswer;
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
            Op::Update { db, key, change } => self.update((db, key), &change),
            op @ (Op::MSetIf { .. } | Op::SwapDb { .. } | Op::Reap { .. }) => self.several(op),
            Op::Transfer { from_db, from, to_db, to, how } => {
                self.transfer(&(from_db, from), (to_db, to), how)
            }
            Op::Transaction { steps, .. } => {
                Outcome::List(steps.iter().map(|step| self.step(step)).collect())
            }
            Op::BitOp { .. } => panic!("not among the ops of the model"),
        }
    }

    /// Changes of several keys.
    fn several(&mut self, op: Op) -> Outcome {
        match op {
            Op::MSetIf { db, pairs, condition, expiry } => {
                let fits = |(key, _): &(Bytes, Bytes)| match condition {
                    Condition::Missing => self.visible(&(db, key.clone())).is_none(),
                    Condition::Present => self.visible(&(db, key.clone())).is_some(),
                    _ => true,
                };
                if !pairs.iter().all(fits) {
                    return Outcome::Int(0);
                }
                for (key, value) in pairs {
                    let place = (db, key);
                    let deadline = self.deadline(&place, expiry);
                    self.put(place, value, deadline);
                }
                Outcome::Int(1)
            }
            Op::SwapDb { one, two } => {
                let swapped = |db| {
                    if db == one {
                        two
                    } else if db == two {
                        one
                    } else {
                        db
                    }
                };
                let content = std::mem::take(&mut self.content);
                self.content =
                    content.into_iter().map(|((db, key), row)| ((swapped(db), key), row)).collect();
                Outcome::Ok
            }
            Op::Reap { keys } => {
                let expired = |place: &(DbIndex, Bytes)| {
                    self.content.contains_key(place) && self.visible(place).is_none()
                };
                let places: Vec<_> = keys.into_iter().filter(expired).collect();
                let mut count = 0;
                for place in places {
                    count += i64::from(self.content.remove(&place).is_some());
                }
                Outcome::Int(count)
            }
            other => panic!("{other:?} is no change of several keys"),
        }
    }

    fn step(&mut self, step: &Step) -> Outcome {
        match step {
            Step::Write(op) => self.op(op),
            Step::Read(Query::Get { db, key }) => {
                Outcome::Answer(Answer::Value(self.visible(&(*db, key.clone()))))
            }
            Step::Read(Query::DbSize { db }) => {
                Outcome::Answer(Answer::Int(i64::try_from(self.keys(*db).len()).unwrap()))
            }
            Step::Read(query) => Outcome::Answer(self.page(query)),
        }
    }

    fn deadline(&self, place: &(DbIndex, Bytes), expiry: Expiry) -> Option<UnixMs> {
        let before = self.visible(place).and_then(|_| self.content[place].1);
        match expiry {
            Expiry::Never => None,
            Expiry::Keep => before,
            Expiry::At(deadline) => Some(deadline),
            Expiry::In(ms) => Some(UnixMs(self.log_time.0.saturating_add_signed(ms))),
        }
    }

    fn put(&mut self, place: (DbIndex, Bytes), value: Bytes, deadline: Option<UnixMs>) {
        if deadline.is_some_and(|deadline| deadline <= self.log_time) {
            self.content.remove(&place);
        } else {
            self.content.insert(place, (value, deadline));
        }
    }

    /// The changes that the generator makes, each in its own words.
    fn update(&mut self, place: (DbIndex, Bytes), change: &Change) -> Outcome {
        let before = self.visible(&place);
        match change {
            Change::Write { value, expiry, condition, answer } => {
                let holds = match condition {
                    Condition::Missing => before.is_none(),
                    Condition::Present => before.is_some(),
                    Condition::Equals(wanted) => before.as_ref() == Some(wanted),
                    _ => true,
                };
                if holds {
                    let deadline = self.deadline(&place, *expiry);
                    // What was there and expired goes unseen; a write that is past leaves it alone.
                    let unseen =
                        before.is_none() && deadline.is_some_and(|deadline| deadline <= self.log_time);
                    if !unseen
                        || (*condition == Condition::Always && *expiry != Expiry::Keep)
                            && *answer == WriteAnswer::Done
                    {
                        self.put(place, value.clone(), deadline);
                    }
                }
                match answer {
                    WriteAnswer::Done | WriteAnswer::Claim if holds => Outcome::Ok,
                    WriteAnswer::Done => Outcome::Nil,
                    WriteAnswer::Count => Outcome::Int(i64::from(holds)),
                    WriteAnswer::Claim => Outcome::Failed(Failure::KeyTaken),
                    WriteAnswer::Previous => before.map_or(Outcome::Nil, Outcome::Bulk),
                }
            }
            Change::Append(tail) => {
                let value: Bytes = [&before.unwrap_or_default()[..], tail].concat().into();
                let (deadline, length) = (self.deadline(&place, Expiry::Keep), value.len());
                self.put(place, value, deadline);
                Outcome::Int(i64::try_from(length).unwrap())
            }
            Change::Expire { expiry, .. } => {
                let Some(value) = before else { return Outcome::Int(0) };
                let deadline = self.deadline(&place, *expiry);
                self.put(place, value, deadline);
                Outcome::Int(1)
            }
            Change::Remove { .. } => {
                if before.is_some() {
                    self.content.remove(&place);
                }
                before.map_or(Outcome::Nil, Outcome::Bulk)
            }
            other => self.touch(place, before, other),
        }
    }

    /// Changes that keep a value or count with it.
    fn touch(&mut self, place: (DbIndex, Bytes), before: Option<Bytes>, change: &Change) -> Outcome {
        match (change, before) {
            (Change::Retrieve { .. }, None) => Outcome::Nil,
            (Change::Retrieve { expiry }, Some(value)) => {
                let deadline = self.deadline(&place, *expiry);
                self.put(place, value.clone(), deadline);
                Outcome::Bulk(value)
            }
            (Change::Persist, Some(value)) if self.content[&place].1.is_some() => {
                self.put(place, value, None);
                Outcome::Int(1)
            }
            (Change::Persist, _) => Outcome::Int(0),
            (Change::Add(by), before) => {
                let text = before.as_deref().map_or("0", |text| std::str::from_utf8(text).unwrap_or(""));
                let Ok(number) = text.parse::<i64>() else { return Outcome::Failed(Failure::NotInteger) };
                let deadline = self.deadline(&place, Expiry::Keep);
                self.put(place, (number + by).to_string().into(), deadline);
                Outcome::Int(number + by)
            }
            (other, _) => panic!("{other:?} is not among the changes of the model"),
        }
    }

    fn transfer(&mut self, from: &(DbIndex, Bytes), to: (DbIndex, Bytes), how: Transfer) -> Outcome {
        let Some(value) = self.visible(from) else {
            return if how.must_exist { Outcome::Failed(Failure::NoSuchKey) } else { Outcome::Int(0) };
        };
        if !how.replaces && self.visible(&to).is_some() {
            return Outcome::Int(0);
        }
        let deadline = self.content[from].1;
        if how.removes {
            self.content.remove(from);
        }
        self.content.insert(to, (value, deadline));
        if how.must_exist && how.replaces { Outcome::Ok } else { Outcome::Int(1) }
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
        let seen = |key: &&(DbIndex, Bytes)| key.0 == db && self.visible(key).is_some();
        self.content.keys().filter(seen).map(|(_, key)| key.clone()).collect()
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
enum Event {
    /// New entries, applied in one call.
    Apply(Vec<(u64, Vec<Op>)>),
    Flush(bool),
    /// Everything since the last finished flush is lost, then replayed from the log in calls of this many entries.
    Crash(usize),
    /// A new node takes over from a checkpoint of this one.
    Move,
    /// Another node is filled with the records of a snapshot of this one, and restarted.
    Restore,
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

fn expiry() -> impl Strategy<Value = Expiry> {
    prop_oneof![
        Just(Expiry::Never),
        Just(Expiry::Keep),
        (-5..20_i64).prop_map(Expiry::In),
        (1..60_u64).prop_map(|deadline| Expiry::At(UnixMs(deadline))),
    ]
}

fn change() -> impl Strategy<Value = Change> {
    let condition = prop_oneof![
        3 => Just(Condition::Always),
        1 => Just(Condition::Missing),
        1 => Just(Condition::Present),
        1 => value().prop_map(Condition::Equals),
    ];
    let answers = [WriteAnswer::Done, WriteAnswer::Count, WriteAnswer::Previous, WriteAnswer::Claim];
    let answer = prop::sample::select(answers.to_vec());
    prop_oneof![
        4 => (value(), expiry(), condition, answer).prop_map(|(value, expiry, condition, answer)| {
            Change::Write { value, expiry, condition, answer }
        }),
        2 => value().prop_map(Change::Append),
        2 => (-5..20_i64).prop_map(|ms| Change::Expire { expiry: Expiry::In(ms), rule: change::ExpireRule::default() }),
        1 => Just(Change::Remove { condition: Condition::Always, answer: WriteAnswer::Previous }),
        1 => expiry().prop_map(|expiry| Change::Retrieve { expiry }),
        1 => Just(Change::Persist),
        2 => (-3..3_i64).prop_map(Change::Add),
    ]
}

/// Ops that look before they write.
fn looking_op() -> impl Strategy<Value = Op> {
    let db = 0..3_u8;
    let condition = prop::sample::select(vec![Condition::Missing, Condition::Present, Condition::Always]);
    let pairs = prop::collection::vec((key(), value()), 1..4);
    let how = (any::<bool>(), any::<bool>(), any::<bool>());
    prop_oneof![
        8 => (db.clone(), key(), change()).prop_map(|(db, key, change)| Op::Update { db, key, change }),
        1 => (db.clone(), pairs, condition, expiry()).prop_map(
            |(db, pairs, condition, expiry)| Op::MSetIf { db, pairs, condition, expiry }),
        2 => (db.clone(), key(), db.clone(), key(), how).prop_map(
            |(from_db, from, to_db, to, (removes, replaces, must_exist))| {
                Op::Transfer { from_db, from, to_db, to, how: Transfer { removes, replaces, must_exist } }
            }),
        1 => (db.clone(), db.clone()).prop_map(|(one, two)| Op::SwapDb { one, two }),
        2 => prop::collection::vec((db, key()), 0..5).prop_map(|keys| Op::Reap { keys }),
    ]
}

fn any_op() -> impl Strategy<Value = Op> {
    let read = prop_oneof![
        4 => (0..3_u8, key()).prop_map(|(db, key)| Query::Get { db, key }),
        1 => (0..3_u8).prop_map(|db| Query::DbSize { db }),
        1 => page(),
    ];
    let step = prop_oneof![
        2 => prop_oneof![op(), looking_op()].prop_map(Step::Write),
        2 => read.prop_map(Step::Read),
    ];
    let steps = prop::collection::vec(step, 0..6);
    prop_oneof![
        4 => op(),
        4 => looking_op(),
        1 => steps.prop_map(|steps| Op::Transaction { watched: Vec::new(), steps }),
    ]
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

fn event() -> impl Strategy<Value = Event> {
    let entries = prop::collection::vec((0..50_u64, prop::collection::vec(any_op(), 0..6)), 1..6);
    prop_oneof![
        8 => entries.prop_map(Event::Apply),
        2 => any::<bool>().prop_map(Event::Flush),
        2 => (1..5_usize).prop_map(Event::Crash),
        1 => Just(Event::Move),
        1 => Just(Event::Restore),
        4 => page().prop_map(Event::Keys),
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

    fn run(&mut self, event: Event) {
        match event {
            Event::Apply(entries) => {
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
            Event::Flush(wait) => {
                self.node().applier.flush(wait).unwrap();
                if wait {
                    assert_eq!(self.node().store.durable(), self.node().store.applied());
                }
            }
            Event::Crash(calls_of) => {
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
            Event::Move if self.log.is_empty() => {}
            Event::Move => {
                let mut to = Node::new();
                let path = to.dir.path().join("checkpoint");
                self.node().applier.checkpoint(&path).unwrap();
                to.applier.install(&path).unwrap();
                self.node = Some(to);
            }
            Event::Restore => {
                let view = self.node().store.view().unwrap();
                let mut to = Node::new();
                to.applier
                    .seed(view.records(), RecordOrder::Rising, id(0), (id(0), bytes("members")))
                    .unwrap();
                let to = to.crash();
                assert_eq!(content(&to.store), content(&self.node().store), "restored");
            }
            Event::Keys(query) => {
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
        let now = model.log_time;
        let due = model.content.iter().filter(|(_, (_, deadline))| deadline.is_some_and(|at| at <= now));
        let mut due: Vec<_> = due.map(|(place, _)| place.clone()).collect();
        let mut found = store.due(now, usize::MAX, usize::MAX).unwrap();
        due.sort();
        found.sort();
        assert_eq!(found, due, "the order of deadlines");
        for db in 0..3 {
            let counted = store.query(&Query::DbSize { db }).unwrap();
            let visible = model.keys(db).len();
            assert_eq!(counted, Answer::Int(i64::try_from(visible).unwrap()), "DBSIZE of database {db}");
            let seen = store.visible(db, 0).unwrap();
            let expires =
                model.keys(db).into_iter().filter(|key| model.content[&(db, key.clone())].1.is_some());
            assert_eq!((seen.keys, seen.expires), (visible as u64, expires.count() as u64));
            let mut scanned = scan(store, db, 2);
            scanned.sort();
            assert_eq!(scanned, model.keys(db), "SCAN of database {db}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, max_shrink_iters: 400, ..ProptestConfig::default() })]

    #[test]
    fn the_store_is_the_model(events in prop::collection::vec(event(), 1..25)) {
        let mut world = World::new();
        for event in events {
            world.run(event);
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
        entries in prop::collection::vec((0..50_u64, prop::collection::vec(any_op(), 0..5)), 1..20),
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
