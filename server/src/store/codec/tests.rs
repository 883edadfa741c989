//! Tests of the encoding of batches.

use proptest::prelude::*;

use super::*;
use crate::store::bits::BitOperation;
use crate::store::change::{
    Bounded, Change, Condition, ExpireRule, Expiry, Field, FieldStep, Overflow, WriteAnswer,
};
use crate::store::op::{Answer, Pivot, Query, Row, Step, Transfer, TypeTag, Watched};

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
    assert_eq!(decode_ops(&mut Bytes::from_static(&[1, 99])), Err(DecodeError::Tag("op", 99)));
    assert_eq!(decode_ops(&mut Bytes::from_static(&[1, 0])), Err(DecodeError::Tag("op", 0)));
    let foreign = vec![1, FLUSHDB, 255];
    assert_eq!(decode_ops(&mut foreign.into()), Err(DecodeError::Tag("database", 255)));
    assert_eq!(decode_outcomes(&mut Bytes::from_static(&[1, 99])), Err(DecodeError::Tag("outcome", 99)));
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

fn place(text: &'static str) -> (u8, Bytes) {
    (3, bytes(text))
}

/// One op of every kind that came after version 0.1.0.
fn later_sample() -> Batch {
    let field = |signed, bits, offset| Field { signed, bits, offset };
    let changes = vec![
        Change::Write {
            value: bytes("v"),
            expiry: Expiry::In(-7),
            condition: Condition::Equals(bytes("w")),
            answer: WriteAnswer::Previous,
        },
        Change::Remove { condition: Condition::DigestDiffers(9), answer: WriteAnswer::Count },
        Change::Expire {
            expiry: Expiry::At(UnixMs(5)),
            rule: ExpireRule { missing: false, present: true, later: true, earlier: false },
        },
        Change::Retrieve { expiry: Expiry::Keep },
        Change::Persist,
        Change::Append(bytes("tail")),
        Change::Overwrite { offset: 1 << 33, value: bytes("x") },
        Change::Add(-1),
        Change::AddFloat(bytes("1.5")),
        Change::SetBit { offset: 7, bit: true },
        Change::Fields(vec![
            FieldStep::Get(field(false, 63, 0)),
            FieldStep::Set(field(true, 64, 8), -2, Overflow::Saturate),
            FieldStep::Add(field(true, 1, 99), 3, Overflow::Fail),
        ]),
        Change::AddBounded {
            step: Bounded::Float { by: bytes("1"), low: None, high: Some(bytes("9")) },
            saturate: true,
            expiry: Expiry::Never,
            only_first_expiry: true,
        },
        Change::AddBounded {
            step: Bounded::Int { by: 1, low: i64::MIN, high: i64::MAX },
            saturate: false,
            expiry: Expiry::Keep,
            only_first_expiry: false,
        },
    ];
    let mut ops: Vec<Op> =
        changes.into_iter().map(|change| Op::Update { db: 2, key: bytes("k"), change }).collect();
    ops.extend([
        Op::MSetIf {
            db: 1,
            pairs: vec![(bytes("a"), bytes("1"))],
            condition: Condition::Missing,
            expiry: Expiry::Never,
        },
        Op::Transfer {
            from_db: 0,
            from: bytes("a"),
            to_db: 1,
            to: bytes("b"),
            how: Transfer { removes: true, replaces: false, must_exist: true },
        },
        Op::SwapDb { one: 0, two: 7 },
        Op::BitOp { db: 0, operation: BitOperation::Xor, to: bytes("t"), keys: vec![bytes("a"), bytes("b")] },
        Op::Reap { keys: vec![place("x"), place("")] },
        Op::Transaction {
            watched: vec![
                Watched { db: 0, key: bytes("w"), version: Some(12) },
                Watched { db: 1, key: bytes(""), version: None },
            ],
            steps: queries().into_iter().map(Step::Read).chain([Step::Write(Op::FlushAll)]).collect(),
        },
    ]);
    Batch { at: UnixMs(77), origin: 1, sequence: 2, ops }
}

fn queries() -> Vec<Query> {
    let pivot = Pivot { key: bytes("p"), inclusive: true };
    vec![
        Query::Get { db: 0, key: bytes("k") },
        Query::MGet { db: 0, keys: vec![bytes("a")], size_bytes_max: 5 },
        Query::Exists { db: 0, keys: vec![bytes("a"), bytes("b")] },
        Query::Type { db: 0, key: bytes("k") },
        Query::DbSize { db: 3 },
        Query::Keys {
            db: 0,
            pattern: bytes("*"),
            pivot: Some(pivot),
            limit: Some(3),
            descending: true,
            with_values: false,
            size_bytes_max: 9,
        },
        Query::Scan { db: 0, cursor: 5, pattern: None, count: 10, only: Some(TypeTag::String) },
        Query::RandomKey { db: 0, seed: 99 },
        Query::Deadline { db: 0, key: bytes("k") },
        Query::Versions { keys: vec![place("v")] },
    ]
}

/// These bytes are in logs of the releases after 0.1.0: they never change either.
#[test]
fn bytes_of_the_later_ops_never_change() {
    let golden = from_hex(include_str!("../testdata/batch-v1-later.hex"));
    let hex = |bytes: &Bytes| bytes.iter().fold(String::new(), |text, byte| format!("{text}{byte:02x}"));
    assert_eq!(hex(&encoded(&later_sample())), hex(&golden));
    assert_eq!(Batch::decode(golden).unwrap(), later_sample());
}

/// What RESTORE without REPLACE writes.
#[test]
fn bytes_of_a_claim_never_change() {
    let (expiry, condition) = (Expiry::At(UnixMs(5)), Condition::Missing);
    let change = Change::Write { value: bytes("v"), expiry, condition, answer: WriteAnswer::Claim };
    let ops = vec![Op::Update { db: 2, key: bytes("k"), change }];
    let mut out = BytesMut::new();
    encode_ops(&ops, &mut out);
    let golden = from_hex("01 09 02 01 6b 01 01 76 03 0500000000000000 01 03");
    assert_eq!(out, golden);
    assert_eq!(decode_ops(&mut golden.clone()).unwrap(), ops);
    let mut outcome = BytesMut::new();
    encode_outcomes(&[Outcome::Failed(Failure::KeyTaken)], &mut outcome);
    assert_eq!(outcome, from_hex("01 09 07"));
}

#[test]
fn every_cut_of_the_later_ops_is_an_error() {
    let entry = encoded(&later_sample());
    for end in 0..entry.len() {
        assert_eq!(Batch::decode(entry.slice(..end)), Err(DecodeError::Truncated), "cut at {end}");
    }
}

#[test]
fn what_an_older_build_does_not_know_is_refused_by_its_tag() {
    let mut later = encoded(&later_sample()).to_vec();
    later[26] = 99;
    assert_eq!(Batch::decode(later.into()), Err(DecodeError::Tag("op", 99)));
    let mut nested = BytesMut::new();
    let inner = Op::Transaction { watched: Vec::new(), steps: Vec::new() };
    let outer = Op::Transaction { watched: Vec::new(), steps: vec![Step::Write(inner)] };
    encode_ops(&[outer], &mut nested);
    assert_eq!(decode_ops(&mut nested.freeze()), Err(DecodeError::Tag("step", 15)));
}

#[test]
fn outcomes_come_back() {
    let answers = vec![
        Answer::Value(None),
        Answer::Value(Some(bytes("v"))),
        Answer::Values(vec![None, Some(bytes("v"))]),
        Answer::Int(-1),
        Answer::Type(None),
        Answer::Type(Some(TypeTag::String)),
        Answer::Keys(vec![(bytes("k"), Some(bytes("v"))), (bytes("l"), None)]),
        Answer::Scan { cursor: 7, keys: vec![bytes("k")] },
        Answer::Key(Some(bytes("k"))),
        Answer::TooLarge,
        Answer::WrongType,
        Answer::Deadline { deadline: None, now: UnixMs(1) },
        Answer::Deadline { deadline: Some(None), now: UnixMs(1) },
        Answer::Deadline { deadline: Some(Some(UnixMs(2))), now: UnixMs(1) },
        Answer::Versions(vec![None, Some(7)]),
        Answer::Due,
        Answer::Row(None),
        Answer::Row(Some(Row { value: bytes("v"), deadline: Some(UnixMs(5)), version: 9 })),
    ];
    let mut outcomes = vec![
        Outcome::Ok,
        Outcome::Int(i64::MIN),
        Outcome::WrongType,
        Outcome::Nil,
        Outcome::Bulk(bytes("v")),
        Outcome::Double(bytes("0.3")),
        Outcome::List(vec![Outcome::List(vec![Outcome::Int(1)]), Outcome::Nil]),
    ];
    outcomes.extend(answers.into_iter().map(Outcome::Answer));
    outcomes.extend(Failure::ALL.map(Outcome::Failed));
    let mut out = BytesMut::new();
    encode_outcomes(&outcomes, &mut out);
    let whole = out.freeze();
    assert_eq!(decode_outcomes(&mut whole.clone()).unwrap(), outcomes);
    for end in 0..whole.len() {
        assert!(decode_outcomes(&mut whole.slice(..end)).is_err(), "cut at {end}");
    }
    let deep = Bytes::from(vec![1, 7, 1, 7, 1, 7, 1, 7, 0]);
    assert_eq!(decode_outcomes(&mut deep.clone()), Err(DecodeError::Tag("outcome", 7)));
}
