//! Answers and outcomes of the machine become replies.

use bytes::Bytes;

use super::values;
use crate::command::View;
use crate::command::args::strict_int;
use crate::resp::Reply;
use crate::store::{Answer, Failure, Outcome, TypeTag};

const WRONG_TYPE: &str = "WRONGTYPE Operation against a key holding the wrong kind of value";

/// Bytes that a stored record adds to its key and value: database number, type, deadline, log index of the change.
const RECORD_HEAD_BYTES: usize = 1 + 1 + 8 + 8;

/// Longest value that Redis stores as embstr.
const EMBSTR_BYTES_MAX: usize = 44;

fn count(n: usize) -> Reply {
    Reply::Integer(i64::try_from(n).unwrap_or(i64::MAX))
}

fn bulk_or_nil(value: Option<Bytes>) -> Reply {
    value.map_or(Reply::Nil, Reply::Bulk)
}

/// Reply to a write.
#[must_use]
pub fn outcome(outcome: &Outcome) -> Reply {
    match outcome {
        Outcome::Ok => Reply::Ok,
        Outcome::Int(n) => Reply::Integer(*n),
        Outcome::WrongType => Reply::Error(WRONG_TYPE.to_owned()),
        Outcome::Nil => Reply::Nil,
        Outcome::Bulk(value) => Reply::Bulk(value.clone()),
        Outcome::Double(text) => {
            let number = std::str::from_utf8(text).ok().and_then(|text| text.parse().ok());
            number.map_or_else(|| Reply::Bulk(text.clone()), Reply::Double)
        }
        Outcome::List(list) => Reply::Array(list.iter().map(self::outcome).collect()),
        // Reads in a transaction are shown by `answer`, with their view.
        Outcome::Answer(answer) => self::answer(answer.clone(), &View::Plain, u64::MAX),
        Outcome::Failed(failure) => Reply::Error(failure_text(*failure).to_owned()),
    }
}

fn failure_text(failure: Failure) -> &'static str {
    match failure {
        Failure::NotInteger => "ERR value is not an integer or out of range",
        Failure::Overflow => "ERR increment or decrement would overflow",
        Failure::NotFloat => "ERR value is not a valid float",
        Failure::NanOrInfinity => "ERR increment would produce NaN or Infinity",
        Failure::TooLong => "ERR string exceeds maximum allowed size (proto-max-bulk-len)",
        Failure::NoSuchKey => "ERR no such key",
        Failure::KeyTaken => "BUSYKEY Target key name already exists.",
    }
}

/// Reply to a read. `reply_bytes_max` is told when the answer was refused for its size.
#[must_use]
pub fn answer(answer: Answer, view: &View, reply_bytes_max: u64) -> Reply {
    match answer {
        Answer::Value(value) => self::value(value, view),
        Answer::Values(values) if matches!(view, View::Lcs(_)) => values::lcs(&values, view),
        Answer::Values(values) => Reply::Array(values.into_iter().map(bulk_or_nil).collect()),
        Answer::Int(n) => Reply::Integer(n),
        Answer::Type(None) if *view == View::Sorted => Reply::Array(Vec::new()),
        Answer::Type(Some(_)) if *view == View::Sorted => Reply::Error(WRONG_TYPE.to_owned()),
        Answer::Type(None) => Reply::Simple("none"),
        Answer::Type(Some(TypeTag::String)) => Reply::Simple("string"),
        Answer::Keys(pairs) => {
            // WITHVALUES is flat in RESP3 too: key, value, key, value, as the ancestor's clients read it.
            let words = pairs.into_iter().flat_map(|(key, value)| std::iter::once(key).chain(value));
            Reply::Array(words.map(Reply::Bulk).collect())
        }
        Answer::Scan { cursor, keys } => Reply::Array(vec![
            Reply::Bulk(cursor.to_string().into()),
            Reply::Array(keys.into_iter().map(Reply::Bulk).collect()),
        ]),
        Answer::Key(key) => bulk_or_nil(key),
        Answer::TooLarge => Reply::Error(format!(
            "ERR the reply would be larger than {reply_bytes_max} bytes (limits.reply_bytes_max); ask for less: KEYS with \
             LIMIT and PIVOT, SCAN, or fewer keys"
        )),
        Answer::WrongType => Reply::Error(WRONG_TYPE.to_owned()),
        Answer::Deadline { deadline, now } => values::deadline(deadline, now, view),
        // Asked by dispatch for itself alone.
        Answer::Versions(_) | Answer::Row(_) | Answer::Due => {
            Reply::Error("ERR the log time stands still, try again".to_owned())
        }
    }
}

fn value(value: Option<Bytes>, view: &View) -> Reply {
    match (view, value) {
        (View::Plain, value) => bulk_or_nil(value),
        (View::Length, value) => count(value.map_or(0, |value| value.len())),
        (View::Encoding, Some(value)) => Reply::Bulk(Bytes::from_static(encoding(&value).as_bytes())),
        (View::RefCount, Some(_)) => Reply::Integer(1),
        (View::NotTracked(text), Some(_)) => Reply::Error((*text).to_owned()),
        (View::Memory(key_bytes), Some(value)) => count(key_bytes + value.len() + RECORD_HEAD_BYTES),
        (View::Encoding | View::RefCount | View::NotTracked(_) | View::Memory(_), None) => Reply::Nil,
        (view, value) => values::show(value, view),
    }
}

/// What Redis would call the encoding of a freshly set value.
fn encoding(value: &[u8]) -> &'static str {
    if strict_int(value).is_some() {
        "int"
    } else if value.len() <= EMBSTR_BYTES_MAX {
        "embstr"
    } else {
        "raw"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bulk(text: &'static str) -> Reply {
        Reply::Bulk(Bytes::from_static(text.as_bytes()))
    }

    #[test]
    fn a_value_is_shown_as_its_view_says() {
        let stored = || Some(Bytes::from_static(b"hello"));
        let show = |value, view| answer(Answer::Value(value), &view, 0);
        assert_eq!(show(stored(), View::Plain), bulk("hello"));
        assert_eq!(show(None, View::Plain), Reply::Nil);
        assert_eq!(show(stored(), View::Length), Reply::Integer(5));
        assert_eq!(show(None, View::Length), Reply::Integer(0));
        assert_eq!(show(stored(), View::RefCount), Reply::Integer(1));
        assert_eq!(show(None, View::RefCount), Reply::Nil);
        assert_eq!(show(stored(), View::NotTracked("ERR no")), Reply::Error("ERR no".to_owned()));
        assert_eq!(show(None, View::NotTracked("ERR no")), Reply::Nil);
        assert_eq!(show(stored(), View::Memory(3)), Reply::Integer(26));
    }

    #[test]
    fn encodings_are_named_as_redis_names_them() {
        for (value, name) in
            [("1", "int"), ("-7", "int"), ("01", "embstr"), ("", "embstr"), ("9223372036854775808", "embstr")]
        {
            assert_eq!(encoding(value.as_bytes()), name, "{value:?}");
        }
        assert_eq!(encoding(&[b'x'; 44]), "embstr");
        assert_eq!(encoding(&[b'x'; 45]), "raw");
    }

    #[test]
    fn keys_with_values_are_one_flat_array() {
        let pairs = vec![
            (Bytes::from_static(b"a"), Some(Bytes::from_static(b"1"))),
            (Bytes::from_static(b"b"), None),
        ];
        let reply = answer(Answer::Keys(pairs), &View::Plain, 0);
        assert_eq!(reply, Reply::Array(vec![bulk("a"), bulk("1"), bulk("b")]));
        assert!(
            matches!(answer(Answer::TooLarge, &View::Plain, 77), Reply::Error(text) if text.contains("77 bytes"))
        );
    }
}
