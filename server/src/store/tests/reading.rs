//! What readers see while the state moves under them.

use super::*;

#[test]
fn a_view_keeps_its_point_in_time_and_may_go_to_another_thread() {
    let mut node = Node::new();
    node.apply(vec![set("a", "1"), set("b", "2")]);
    let view = node.store.view().unwrap();
    let (meta, before) = (view.meta(), content(&node.store));
    node.apply(vec![set("a", "3"), Op::FlushAll, set("c", "4")]);
    node.applier.flush(true).unwrap();
    let seen =
        std::thread::spawn(move || (view.meta(), view.records().map(Result::unwrap).collect::<Vec<_>>()));
    assert_eq!(seen.join().unwrap(), (meta, before));
    assert_eq!(content(&node.store).len(), 1);
}

/// Two keys are always set to the same value in one entry and deleted together by one PDEL large enough to need several
/// writes. A reader of both must never see one without the other, by no query and by no view.
#[test]
fn readers_never_see_half_an_entry() {
    let mut node = Node::new();
    let store = node.store.clone();
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let mut looks = 0_u64;
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                let keys = vec![bytes("x-first"), bytes("x-zlast")];
                let Answer::Values(values) =
                    store.query(&Query::MGet { db: 0, keys, size_bytes_max: u64::MAX }).unwrap()
                else {
                    panic!()
                };
                assert_eq!(values[0], values[1], "MGET");
                let first = single(&store, "x-first");
                let last = single(&store, "x-zlast");
                // Rounds only go up, so two reads in a row may differ only forwards.
                assert!(first <= last || last.is_none(), "GET: {first:?} then {last:?}");
                if looks.is_multiple_of(16) {
                    content(&store);
                }
                looks += 1;
            }
            looks
        });
        for round in 0..20 {
            let value = Bytes::from(vec![b'v'; 1 << 20]);
            let round = bytes(&format!("{round:03}"));
            let mut pairs = vec![(bytes("x-first"), round.clone()), (bytes("x-zlast"), round)];
            pairs.extend((0..6).map(|n| (bytes(&format!("x-middle{n}")), value.clone())));
            node.apply(vec![Op::MSet { db: 0, pairs }]);
            // The keys are long so that their deletions do not fit in one write.
            let long = |n: u32| (Bytes::from(format!("x-n{n:03}{}", "k".repeat(60_000))), bytes(""));
            node.apply(vec![Op::MSet { db: 0, pairs: (0..100).map(long).collect() }]);
            assert_eq!(
                node.apply(vec![set("y", "1"), Op::PDel { db: 0, pattern: bytes("x*") }])[1],
                Outcome::Int(108)
            );
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        assert!(reader.join().unwrap() > 0);
    });
    assert_eq!(content(&node.store).len(), 1);
}

/// One writer counts a few keys up, empties the database now and then, and has the gathered rows written all the time,
/// while readers fill the cache of values. What a reader has seen of a key is the least that it may see from then on;
/// once it has seen a key gone, an older value is stale.
#[test]
fn a_read_never_goes_back() {
    use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

    let mut node = Node::new();
    let store = node.store.clone();
    let names: Vec<String> = (0..4).map(|n| format!("k{n}")).collect();
    let stop = AtomicBool::new(false);
    let read = |reader: usize| {
        let mut least = vec![0_u64; names.len()];
        let mut looks = 0_u64;
        while !stop.load(Relaxed) {
            let values = if looks % 2 == reader as u64 {
                names.iter().map(|name| single(&store, name)).collect()
            } else {
                let keys = names.iter().map(|name| bytes(name)).collect();
                match store.query(&Query::MGet { db: 0, keys, size_bytes_max: u64::MAX }).unwrap() {
                    Answer::Values(values) => values,
                    other => panic!("{other:?}"),
                }
            };
            for (at, value) in values.into_iter().enumerate() {
                let value = value.map(|v| std::str::from_utf8(&v).unwrap().parse::<u64>().unwrap());
                assert!(value.is_none_or(|value| value >= least[at]), "{value:?} after {}", least[at]);
                least[at] = value.unwrap_or(least[at] + 1);
            }
            looks += 1;
        }
        looks
    };
    let read = &read;
    std::thread::scope(|scope| {
        let readers: Vec<_> = (0..2).map(|reader| scope.spawn(move || read(reader))).collect();
        // A value counts by more than the readers' `+ 1` while a key is gone.
        let value = |round: u64| (round << 32).to_string();
        for round in 1..3000 {
            let name = &names[usize::try_from(round).unwrap() % names.len()];
            node.apply(vec![set(name, &value(round))]);
            match round % 250 {
                0 => {
                    node.apply(vec![Op::FlushAll]);
                }
                _ if round % 3 == 0 => drop(node.store.view().unwrap()),
                _ => {}
            }
        }
        stop.store(true, Relaxed);
        assert!(readers.into_iter().all(|reader| reader.join().unwrap() > 0));
    });
    assert!(node.store.value_cache().hits > 0);
}

fn single(store: &Store, key: &str) -> Option<Bytes> {
    match store.query(&Query::Get { db: 0, key: bytes(key) }).unwrap() {
        Answer::Value(value) => value,
        other => panic!("{other:?}"),
    }
}

#[test]
fn pages_of_keys_visit_each_key_once_in_both_directions() {
    let mut node = Node::new();
    let pairs = (0..250).map(|n| (bytes(&format!("k{n:04}")), bytes("v"))).collect();
    node.apply(vec![Op::MSet { db: 0, pairs }]);
    for descending in [false, true] {
        let (mut seen, mut pivot) = (Vec::new(), None);
        loop {
            let query = Query::Keys {
                db: 0,
                pattern: bytes("k*"),
                pivot: pivot.take().map(|key| Pivot { key, inclusive: false }),
                limit: Some(7),
                descending,
                with_values: false,
                size_bytes_max: 1 << 20,
            };
            let Answer::Keys(page) = node.store.query(&query).unwrap() else { panic!("not keys") };
            let Some((last, _)) = page.last() else { break };
            pivot = Some(last.clone());
            seen.extend(page.into_iter().map(|(key, _)| key));
        }
        assert_eq!(seen.len(), 250);
        let in_order = |pair: &[Bytes]| if descending { pair[0] > pair[1] } else { pair[0] < pair[1] };
        assert!(seen.windows(2).all(in_order));
    }
}

#[test]
fn facts_in_memory_follow_each_apply() {
    let mut node = Node::new();
    assert_eq!((node.store.applied(), node.store.durable()), (None, None));
    node.apply_at(7, vec![set("a", "1")]);
    assert_eq!(node.store.applied(), Some(id(0)));
    assert_eq!(node.store.log_time(), UnixMs(7));
    assert_eq!(node.store.stats(0).keys, 1);
    assert_eq!(node.store.stats(200), DbStats::default());
    assert_eq!(node.store.disk_error(), None);
    assert!(node.store.engine_property("rocksdb.block-cache-capacity").unwrap() > 0);
    assert_eq!(node.store.engine_property("rocksdb.no-such-thing"), None);
}
