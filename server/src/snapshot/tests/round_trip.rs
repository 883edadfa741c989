//! What goes in comes out.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::super::format::{FRAME_RAW_BYTES, Header};
use super::super::writer::Writer;
use super::*;

#[test]
fn the_sample_comes_back_with_its_counts() {
    let (records, totals) = read(&write(&header(), &sample())).unwrap();
    assert_eq!(records, sample());
    let keys: Vec<_> = totals.databases.iter().map(|db| (db.keys, db.expires)).collect();
    assert_eq!(keys, [(3, 0), (2, 2), (0, 0), (1, 1)]);
    assert_eq!((totals.records, totals.frames), (6, 1));
    let sum = sample().iter().fold(0u128, |sum, record| sum.wrapping_add(hash(record)));
    assert_eq!(totals.digest(), sum);
}

#[test]
fn an_empty_content_is_a_snapshot() {
    let header = Header { applied: None, databases: 16, ..header() };
    let bytes = write(&header, &[]);
    assert_eq!(read(&bytes).unwrap(), (vec![], Totals::new(16)));
    let (_dir, path) = file("state.bin", &bytes);
    let (out, summary) = print(&path, false);
    assert_eq!(out, b"");
    assert_eq!((summary.unwrap().records, path.exists()), (0, true));
}

#[test]
fn frames_are_bounded_and_a_larger_record_stands_alone() {
    let sizes = [10, FRAME_RAW_BYTES - 100, 300, 3 * FRAME_RAW_BYTES, 5, 5];
    let records: Vec<_> =
        (0..6u8).zip(sizes).map(|(n, size)| record(0, &[n], None, &noise(u64::from(n), size))).collect();
    let (back, totals) = read(&write(&header(), &records)).unwrap();
    assert_eq!(back, records);
    // 10 + the long one | 300 | the huge one | 5 + 5
    assert_eq!(totals.frames, 4);
}

#[test]
fn the_writer_refuses_what_a_reader_would() {
    let cases = [
        ([record(0, b"b", None, b""), record(0, b"a", None, b"")], "out of order"),
        ([record(0, b"a", None, b"1"), record(0, b"a", None, b"2")], "out of order"),
        ([record(1, b"a", None, b""), record(0, b"b", None, b"")], "out of order"),
        ([record(0, b"a", None, b""), record(4, b"a", None, b"")], "database 4 of 4"),
    ];
    for ([first, second], text) in cases {
        let mut writer = Writer::new(Vec::new(), &header(), hash).unwrap();
        writer.append(&first).unwrap();
        let error = writer.append(&second).unwrap_err().to_string();
        assert!(error.contains(text), "{error}");
    }
}

#[test]
fn an_error_of_the_output_is_passed_on() {
    let room = write(&header(), &six_frames()).len() - 1;
    for room in [0, 127, 128, 200, room] {
        let mut bytes = vec![0; room];
        let result =
            Writer::new(&mut bytes[..], &header(), hash).map_err(SnapshotError::Output).and_then(|mut w| {
                six_frames().iter().try_for_each(|record| w.append(record))?;
                w.finish().map(drop).map_err(SnapshotError::Output)
            });
        assert!(matches!(result, Err(SnapshotError::Output(_))), "{room}: {result:?}");
    }
}

#[test]
fn a_long_version_is_cut_between_characters() {
    let long = Header { server_version: "\u{e4}".repeat(40), ..header() };
    let bytes = write(&long, &[]);
    let reader = Reader::new(&bytes[..], Path::new("test"), hash).unwrap();
    assert_eq!(reader.header().server_version, "\u{e4}".repeat(25));
}

fn content() -> impl Strategy<Value = Vec<Record>> {
    let key = (0..4u8, prop::collection::vec(any::<u8>(), 0..12));
    let value = (prop::option::of(any::<u64>()), prop::collection::vec(any::<u8>(), 0..40), 0..3usize);
    prop::collection::btree_map(key, value, 0..60).prop_map(|map: BTreeMap<_, _>| {
        map.into_iter()
            // Some values are repeated to more than a frame.
            .map(|((db, key), (deadline, value, long))| {
                let times = if long == 2 { 1 + FRAME_RAW_BYTES / 64 } else { 1 };
                record(db, &key, deadline, &value.repeat(times))
            })
            .collect()
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_content_round_trips(records in content()) {
        let bytes = write(&header(), &records);
        let (back, totals) = read(&bytes).unwrap();
        prop_assert_eq!(&back, &records);
        prop_assert_eq!(totals.records, records.len() as u64);
        let (_dir, path) = file("state.bin", &bytes);
        let (out, summary) = print(&path, false);
        prop_assert_eq!(summary.unwrap().damage, None);
        prop_assert_eq!(replay(&out), records);
    }
}
