//! The bytes of every reply, and that an independent decoder reads them back.

use bytes::{Bytes, BytesMut};
use proptest::collection::vec;
use proptest::prelude::*;
use redis_protocol::resp2::decode::decode as decode_resp2;
use redis_protocol::resp2::types::OwnedFrame as Frame2;
use redis_protocol::resp3::decode::complete::decode as decode_resp3;
use redis_protocol::resp3::types::OwnedFrame as Frame3;

use super::{Protocol, Reply, append, double_digits};

fn bytes_of(reply: &Reply, protocol: Protocol) -> BytesMut {
    let mut out = BytesMut::new();
    append(reply, protocol, &mut out);
    out
}

fn bulk(text: &'static str) -> Reply {
    Reply::Bulk(Bytes::from_static(text.as_bytes()))
}

#[test]
fn every_reply_has_the_bytes_of_redis() {
    let pairs = || vec![(bulk("b"), Reply::Integer(2)), (bulk("a"), Reply::Nil)];
    let cases: Vec<(Reply, &str, &str)> = vec![
        (Reply::Ok, "+OK\r\n", "+OK\r\n"),
        (Reply::Simple("PONG"), "+PONG\r\n", "+PONG\r\n"),
        (Reply::Error("ERR no".into()), "-ERR no\r\n", "-ERR no\r\n"),
        (Reply::Integer(0), ":0\r\n", ":0\r\n"),
        (Reply::Integer(1), ":1\r\n", ":1\r\n"),
        (Reply::Integer(i64::MIN), ":-9223372036854775808\r\n", ":-9223372036854775808\r\n"),
        (bulk(""), "$0\r\n\r\n", "$0\r\n\r\n"),
        (bulk("a\r\nb"), "$4\r\na\r\nb\r\n", "$4\r\na\r\nb\r\n"),
        (Reply::Nil, "$-1\r\n", "_\r\n"),
        (Reply::NilArray, "*-1\r\n", "_\r\n"),
        (Reply::Array(vec![]), "*0\r\n", "*0\r\n"),
        (Reply::Array(vec![Reply::Ok, Reply::Nil]), "*2\r\n+OK\r\n$-1\r\n", "*2\r\n+OK\r\n_\r\n"),
        (
            Reply::Map(pairs()),
            "*4\r\n$1\r\nb\r\n:2\r\n$1\r\na\r\n$-1\r\n",
            "%2\r\n$1\r\nb\r\n:2\r\n$1\r\na\r\n_\r\n",
        ),
        (
            Reply::Set(vec![bulk("b"), bulk("a")]),
            "*2\r\n$1\r\nb\r\n$1\r\na\r\n",
            "~2\r\n$1\r\nb\r\n$1\r\na\r\n",
        ),
        (Reply::Push(vec![bulk("m")]), "*1\r\n$1\r\nm\r\n", ">1\r\n$1\r\nm\r\n"),
        (Reply::Double(1.5), "$3\r\n1.5\r\n", ",1.5\r\n"),
        (Reply::Boolean(true), ":1\r\n", "#t\r\n"),
        (Reply::Boolean(false), ":0\r\n", "#f\r\n"),
        (Reply::Verbatim(Bytes::from_static(b"a\nb")), "$3\r\na\nb\r\n", "=7\r\ntxt:a\nb\r\n"),
    ];
    for (reply, resp2, resp3) in cases {
        assert_eq!(bytes_of(&reply, Protocol::Resp2), resp2.as_bytes(), "{reply:?}");
        assert_eq!(bytes_of(&reply, Protocol::Resp3), resp3.as_bytes(), "{reply:?}");
    }
}

#[test]
fn append_keeps_what_is_there() {
    let mut out = BytesMut::from(&b"+OK\r\n"[..]);
    append(&Reply::Error("ERR x".into()), Protocol::Resp2, &mut out);
    append(&Reply::Simple("QUEUED"), Protocol::Resp2, &mut out);
    assert_eq!(out, &b"+OK\r\n-ERR x\r\n+QUEUED\r\n"[..]);
}

#[test]
fn error_text_cannot_end_its_line() {
    let reply = Reply::Error("ERR unknown command 'a\r\n+OK\r\n\0\x1b[2J\u{85}'".into());
    assert_eq!(bytes_of(&reply, Protocol::Resp3), &b"-ERR unknown command 'a  +OK    [2J '\r\n"[..]);
}

#[test]
fn doubles_print_as_in_redis() {
    let cases: &[(f64, &str)] = &[
        (0.0, "0"),
        (-0.0, "-0"),
        (3.0, "3"),
        (-17.25, "-17.25"),
        (0.1, "0.1"),
        (0.1 + 0.2, "0.30000000000000004"),
        (1e15, "1000000000000000"),
        (4e18, "4000000000000000000"),
        (5e18, "5e+18"),
        (1e19, "1e+19"),
        (-1.5e300, "-1.5e+300"),
        (123_456_789_012_345_680_000.0, "123456789012345680000"),
        (0.000_01, "0.00001"),
        (0.000_001, "0.000001"),
        (0.000_000_1, "1e-7"),
        (0.001_234_567_89, "0.00123456789"),
        (0.000_123_456_789, "1.23456789e-4"),
        (0.000_012_345_678_9, "1.23456789e-5"),
        (5e-324, "5e-324"),
        (f64::MAX, "1.7976931348623157e+308"),
        (f64::INFINITY, "inf"),
        (f64::NEG_INFINITY, "-inf"),
        (f64::NAN, "nan"),
        (-f64::NAN, "nan"),
    ];
    for (number, text) in cases {
        assert_eq!(double_digits(*number), *text);
    }
}

/// Replies as deep as ours get, without doubles that do not equal themselves.
fn any_reply() -> impl Strategy<Value = Reply> {
    let data = || vec(any::<u8>(), 0..20).prop_map(Bytes::from);
    let leaf = prop_oneof![
        Just(Reply::Ok),
        Just(Reply::Simple("PONG")),
        "[ -~]{1,20}".prop_map(|text| Reply::Error(format!("ERR {text}"))),
        any::<i64>().prop_map(Reply::Integer),
        data().prop_map(Reply::Bulk),
        Just(Reply::Nil),
        Just(Reply::NilArray),
        any::<bool>().prop_map(Reply::Boolean),
        proptest::num::f64::NORMAL.prop_map(Reply::Double),
        data().prop_map(Reply::Verbatim),
    ];
    leaf.prop_recursive(4, 40, 6, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..6).prop_map(Reply::Array),
            vec((inner.clone(), inner), 0..4).prop_map(|mut pairs| {
                // A map has each key once; so that the decoder's map shows every pair, number them.
                for (index, pair) in pairs.iter_mut().enumerate() {
                    pair.0 = Reply::Integer(i64::try_from(index).unwrap());
                }
                Reply::Map(pairs)
            }),
        ]
    })
}

fn assert_resp2(reply: &Reply, frame: &Frame2) {
    match (reply, frame) {
        (Reply::Ok, Frame2::SimpleString(text)) => assert_eq!(text, b"OK"),
        (Reply::Simple(text), Frame2::SimpleString(data)) => assert_eq!(data, text.as_bytes()),
        (Reply::Error(text), Frame2::Error(data)) => assert_eq!(data, text),
        (Reply::Integer(number), Frame2::Integer(data)) => assert_eq!(data, number),
        (Reply::Boolean(truth), Frame2::Integer(data)) => assert_eq!(*data, i64::from(*truth)),
        (Reply::Bulk(data) | Reply::Verbatim(data), Frame2::BulkString(read)) => assert_eq!(read, data),
        (Reply::Nil | Reply::NilArray, Frame2::Null) => {}
        (Reply::Double(number), Frame2::BulkString(read)) => {
            assert_eq!(
                std::str::from_utf8(read).unwrap().parse::<f64>().unwrap().to_bits(),
                number.to_bits()
            );
        }
        (Reply::Array(items), Frame2::Array(frames)) => {
            assert_eq!(items.len(), frames.len());
            items.iter().zip(frames).for_each(|(item, frame)| assert_resp2(item, frame));
        }
        (Reply::Map(pairs), Frame2::Array(frames)) => {
            assert_eq!(pairs.len() * 2, frames.len());
            let items = pairs.iter().flat_map(|(key, value)| [key, value]);
            items.zip(frames).for_each(|(item, frame)| assert_resp2(item, frame));
        }
        _ => panic!("{reply:?} was read back as {frame:?}"),
    }
}

fn assert_resp3(reply: &Reply, frame: &Frame3) {
    match (reply, frame) {
        (Reply::Ok, Frame3::SimpleString { data, .. }) => assert_eq!(data, b"OK"),
        (Reply::Simple(text), Frame3::SimpleString { data, .. }) => assert_eq!(data, text.as_bytes()),
        (Reply::Error(text), Frame3::SimpleError { data, .. }) => assert_eq!(data, text),
        (Reply::Integer(number), Frame3::Number { data, .. }) => assert_eq!(data, number),
        (Reply::Boolean(truth), Frame3::Boolean { data, .. }) => assert_eq!(data, truth),
        (Reply::Bulk(bulk), Frame3::BlobString { data, .. }) => assert_eq!(data, bulk),
        (Reply::Verbatim(text), Frame3::VerbatimString { data, .. }) => assert_eq!(data, text),
        (Reply::Nil | Reply::NilArray, Frame3::Null) => {}
        (Reply::Double(number), Frame3::Double { data, .. }) => assert_eq!(data.to_bits(), number.to_bits()),
        (Reply::Array(items), Frame3::Array { data, .. }) => {
            assert_eq!(items.len(), data.len());
            items.iter().zip(data).for_each(|(item, frame)| assert_resp3(item, frame));
        }
        (Reply::Map(pairs), Frame3::Map { data, .. }) => {
            assert_eq!(pairs.len(), data.len());
            for (key, value) in pairs {
                let Reply::Integer(number) = key else { panic!("keys are numbers here") };
                assert_resp3(value, &data[&Frame3::Number { data: *number, attributes: None }]);
            }
        }
        _ => panic!("{reply:?} was read back as {frame:?}"),
    }
}

proptest! {
    #[test]
    fn an_independent_decoder_reads_every_reply_back(reply in any_reply()) {
        let out = bytes_of(&reply, Protocol::Resp2);
        let (frame, length) = decode_resp2(&out).unwrap().expect("a whole frame");
        prop_assert_eq!(length, out.len());
        assert_resp2(&reply, &frame);

        let out = bytes_of(&reply, Protocol::Resp3);
        let (frame, length) = decode_resp3(&out).unwrap().expect("a whole frame");
        prop_assert_eq!(length, out.len());
        assert_resp3(&reply, &frame);
    }

    #[test]
    fn any_double_reads_back(bits in any::<u64>()) {
        let number = f64::from_bits(bits);
        prop_assume!(!number.is_nan());
        prop_assert_eq!(double_digits(number).parse::<f64>().unwrap().to_bits(), bits);
    }
}
