//! Tests of the encoding of batches.

use proptest::prelude::*;

use super::*;

fn bytes(text: &'static str) -> Bytes {
    Bytes::from_static(text.as_bytes())
}

/// One op of every kind, with empty and long fields.
fn sample() -> Batch {
    let long = Bytes::from(vec![b'x'; 200]);
    Batch {
        at: UnixMs(1_795_332_236_779),
        origin: 0x0123_4567_89ab_cdef,
        sequence: 7,
        ops: vec![
            Op::Set { db: 0, key: bytes("key"), value: bytes("value"), deadline: None },
            Op::Set { db: 15, key: bytes(""), value: long, deadline: Some(UnixMs(9)) },
            Op::MSet { db: 1, pairs: vec![(bytes("a"), bytes("1")), (bytes("b"), bytes(""))] },
            Op::Del { db: 2, keys: vec![bytes("a"), bytes("b")] },
            Op::DelIf { db: 3, part: bytes("art"), keys: vec![bytes("a")] },
            Op::PDel { db: 4, pattern: bytes("un*") },
            Op::FlushDb { db: 5 },
            Op::FlushAll,
        ],
    }
}

fn encoded(batch: &Batch) -> Bytes {
    let mut out = BytesMut::new();
    batch.encode_into(&mut out);
    out.freeze()
}

fn from_hex(text: &str) -> Bytes {
    let digits: Vec<u8> = text.bytes().filter(|b| !b.is_ascii_whitespace()).collect();
    let pair = |p: &[u8]| u8::from_str_radix(std::str::from_utf8(p).unwrap(), 16).unwrap();
    digits.chunks(2).map(pair).collect::<Vec<u8>>().into()
}

#[test]
fn bytes_of_version_1_never_change() {
    let golden = from_hex(include_str!("../testdata/batch-v1.hex"));
    let hex = |bytes: &Bytes| bytes.iter().fold(String::new(), |text, byte| format!("{text}{byte:02x}"));
    assert_eq!(hex(&encoded(&sample())), hex(&golden));
    assert_eq!(Batch::decode(golden).unwrap(), sample());
}

#[test]
fn decoded_values_are_slices_of_the_entry() {
    let entry = encoded(&sample());
    let batch = Batch::decode(entry.clone()).unwrap();
    let Op::Set { value, .. } = &batch.ops[1] else { panic!("not a set") };
    let range = entry.as_ptr_range();
    assert!(range.contains(&value.as_ptr()));
}

#[test]
fn every_cut_is_truncated_and_every_tail_is_trailing() {
    let entry = encoded(&sample());
    for end in 0..entry.len() {
        assert_eq!(Batch::decode(entry.slice(..end)), Err(DecodeError::Truncated), "cut at {end}");
    }
    let mut longer = entry.to_vec();
    longer.push(0);
    assert_eq!(Batch::decode(longer.into()), Err(DecodeError::Trailing(1)));
}

#[test]
fn announced_lengths_do_not_allocate() {
    let huge = [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f];
    assert_eq!(decode_ops(&mut Bytes::from(huge.to_vec())), Err(DecodeError::Truncated));
    let mut key = vec![1, PDEL, 0];
    key.extend_from_slice(&huge);
    assert_eq!(decode_ops(&mut key.into()), Err(DecodeError::Truncated));
    let eleven = vec![0xff; 11];
    assert_eq!(decode_ops(&mut eleven.into()), Err(DecodeError::Number));
}

#[test]
fn unknown_tags_and_versions_are_named() {
    assert_eq!(decode_ops(&mut Bytes::from_static(&[1, 9])), Err(DecodeError::Tag("op", 9)));
    assert_eq!(decode_ops(&mut Bytes::from_static(&[1, 0])), Err(DecodeError::Tag("op", 0)));
    let foreign = vec![1, FLUSHDB, 255];
    assert_eq!(decode_ops(&mut foreign.into()), Err(DecodeError::Tag("database", 255)));
    assert_eq!(decode_outcomes(&mut Bytes::from_static(&[1, 4])), Err(DecodeError::Tag("outcome", 4)));
    assert_eq!(Batch::decode(Bytes::from_static(&[2; 40])), Err(DecodeError::Version(2)));
}

#[test]
fn peek_reads_the_head_only() {
    let entry = encoded(&sample());
    let head = Batch::peek(&entry.slice(..25)).unwrap();
    assert_eq!(head, (0x0123_4567_89ab_cdef, 7, UnixMs(1_795_332_236_779)));
    assert_eq!(Batch::peek(&entry.slice(..24)), Err(DecodeError::Truncated));
}

#[test]
fn outcomes_round_trip_and_leave_what_follows() {
    let outcomes = vec![Outcome::Ok, Outcome::Int(-1), Outcome::Int(i64::MAX), Outcome::WrongType];
    let mut out = BytesMut::new();
    encode_outcomes(&outcomes, &mut out);
    out.put_u8(42);
    let mut bytes = out.freeze();
    assert_eq!(decode_outcomes(&mut bytes).unwrap(), outcomes);
    assert_eq!(&bytes[..], [42]);
}

fn any_bytes() -> impl Strategy<Value = Bytes> {
    prop::collection::vec(any::<u8>(), 0..40).prop_map(Bytes::from)
}

fn any_op() -> impl Strategy<Value = Op> {
    let keys = || prop::collection::vec(any_bytes(), 0..5);
    prop_oneof![
        (0..DB_NEVER, any_bytes(), any_bytes(), prop::option::of(any::<u64>())).prop_map(
            |(db, key, value, deadline)| Op::Set { db, key, value, deadline: deadline.map(UnixMs) }
        ),
        (0..DB_NEVER, prop::collection::vec((any_bytes(), any_bytes()), 0..5))
            .prop_map(|(db, pairs)| Op::MSet { db, pairs }),
        (0..DB_NEVER, keys()).prop_map(|(db, keys)| Op::Del { db, keys }),
        (0..DB_NEVER, any_bytes(), keys()).prop_map(|(db, part, keys)| Op::DelIf { db, part, keys }),
        (0..DB_NEVER, any_bytes()).prop_map(|(db, pattern)| Op::PDel { db, pattern }),
        (0..DB_NEVER).prop_map(|db| Op::FlushDb { db }),
        Just(Op::FlushAll),
    ]
}

proptest! {
    #[test]
    fn any_batch_round_trips(
        at in any::<u64>(), origin in any::<u64>(), sequence in any::<u64>(),
        ops in prop::collection::vec(any_op(), 0..20),
    ) {
        let batch = Batch { at: UnixMs(at), origin, sequence, ops };
        prop_assert_eq!(Batch::decode(encoded(&batch)).unwrap(), batch);
    }

    #[test]
    fn any_bytes_decode_or_fail_without_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = decode_ops(&mut Bytes::from(bytes.clone()));
        let _ = decode_outcomes(&mut Bytes::from(bytes));
    }
}
