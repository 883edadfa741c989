//! Numbers in strings: INCR and its kin, INCRBYFLOAT, INCREX. The sum is worked out where the entry is applied.

use bytes::Bytes;

use super::string::{WRITE_ROW, update};
use super::{Args, Arity, CommandError, Context, Flags, Parsed, ReplyShape, Spec};
use crate::store::change::Bounded;
use crate::store::{Change, Expiry, is_float};

const FAST_WRITE: Flags = Flags::WRITE.with(Flags::DENYOOM).with(Flags::FAST).with(Flags::STRING);

pub(crate) static INCR: Spec = Spec {
    name: "INCR",
    arity: Arity::Exactly(2),
    flags: FAST_WRITE,
    since: "1.0.0",
    usage: "INCR key",
    summary: "Adds 1 to the integer value of a key",
    parse: |args, context| update(context, args.new_key(context)?, Change::Add(1)),
    ..WRITE_ROW
};

pub(crate) static DECR: Spec = Spec {
    name: "DECR",
    arity: Arity::Exactly(2),
    flags: FAST_WRITE,
    since: "1.0.0",
    usage: "DECR key",
    summary: "Subtracts 1 from the integer value of a key",
    parse: |args, context| update(context, args.new_key(context)?, Change::Add(-1)),
    ..WRITE_ROW
};

pub(crate) static INCRBY: Spec = Spec {
    name: "INCRBY",
    arity: Arity::Exactly(3),
    flags: FAST_WRITE,
    since: "1.0.0",
    usage: "INCRBY key increment",
    summary: "Adds to the integer value of a key",
    parse: |args, context| {
        let key = args.new_key(context)?;
        update(context, key, Change::Add(args.int()?))
    },
    ..WRITE_ROW
};

pub(crate) static DECRBY: Spec = Spec {
    name: "DECRBY",
    arity: Arity::Exactly(3),
    flags: FAST_WRITE,
    since: "1.0.0",
    usage: "DECRBY key decrement",
    summary: "Subtracts from the integer value of a key",
    parse: |args, context| {
        let (key, by) = (args.new_key(context)?, args.int()?);
        let by =
            by.checked_neg().ok_or_else(|| CommandError::Text("ERR decrement would overflow".to_owned()))?;
        update(context, key, Change::Add(by))
    },
    ..WRITE_ROW
};

pub(crate) static INCRBYFLOAT: Spec = Spec {
    name: "INCRBYFLOAT",
    arity: Arity::Exactly(3),
    flags: FAST_WRITE,
    reply: ReplyShape::Bulk,
    since: "2.6.0",
    usage: "INCRBYFLOAT key increment",
    summary: "Adds to the number in a key",
    difference: "decimal arithmetic, exact to 17 places, where Redis shows the rounding of 80-bit floating point",
    parse: |args, context| {
        let key = args.new_key(context)?;
        update(context, key, Change::AddFloat(float(args)?))
    },
    ..WRITE_ROW
};

/// Takes a finite decimal number, as text.
fn float(args: &mut Args<'_>) -> Result<Bytes, CommandError> {
    let word = args.bytes()?;
    if is_float(&word) {
        return Ok(word);
    }
    let bare = word.strip_prefix(b"-").or_else(|| word.strip_prefix(b"+")).unwrap_or(&word);
    let infinite = bare.eq_ignore_ascii_case(b"inf") || bare.eq_ignore_ascii_case(b"infinity");
    let text =
        if infinite { "increment would produce NaN or Infinity" } else { "value is not a valid float" };
    Err(CommandError::Text(format!("ERR {text}")))
}

pub(crate) static INCREX: Spec = Spec {
    name: "INCREX",
    arity: Arity::AtLeast(2),
    flags: FAST_WRITE,
    reply: ReplyShape::Array,
    since: "8.8.0",
    usage: "INCREX key [BYINT increment] [BYFLOAT increment] [LBOUND lowerbound] [UBOUND upperbound] [SATURATE] \
            [EX seconds] [PX milliseconds] [EXAT unix-time-seconds] [PXAT unix-time-milliseconds] [PERSIST] [ENX]",
    summary: "Adds to a number within bounds and sets its deadline; returns the number and what was added",
    parse: increx,
    ..WRITE_ROW
};

fn increx(args: &mut Args<'_>, context: &Context) -> Parsed {
    let key = args.new_key(context)?;
    let (mut by_int, mut by_float, mut low, mut high, mut expiry) = (None, None, None, None, None);
    let (mut saturate, mut only_first_expiry) = (false, false);
    while args.left() > 0 {
        if args.keyword("SATURATE") {
            saturate = true;
        } else if args.keyword("ENX") {
            only_first_expiry = true;
        } else if by_int.is_none() && by_float.is_none() && args.keyword("BYINT") {
            by_int = Some(args.int()?);
        } else if by_int.is_none() && by_float.is_none() && args.keyword("BYFLOAT") {
            by_float = Some(float(args)?);
        } else if low.is_none() && args.keyword("LBOUND") {
            low = Some(args.bytes()?);
        } else if high.is_none() && args.keyword("UBOUND") {
            high = Some(args.bytes()?);
        } else {
            let persist = args.keyword("PERSIST");
            let found =
                if persist { Expiry::Never } else { args.expiry("increx")?.ok_or(CommandError::Syntax)? };
            if expiry.replace(found).is_some() {
                return Err(CommandError::Syntax);
            }
        }
    }
    if only_first_expiry && !matches!(expiry, Some(Expiry::In(_) | Expiry::At(_))) {
        return Err(CommandError::Syntax);
    }
    let step = match by_float {
        Some(by) => {
            Bounded::Float { by, low: low.map(checked).transpose()?, high: high.map(checked).transpose()? }
        }
        None => bounded_int(by_int.unwrap_or(1), low.as_deref(), high.as_deref())?,
    };
    let expiry = expiry.unwrap_or(Expiry::Keep);
    update(context, key, Change::AddBounded { step, saturate, expiry, only_first_expiry })
}

fn bounded_int(by: i64, low: Option<&[u8]>, high: Option<&[u8]>) -> Result<Bounded, CommandError> {
    let bound = |word: Option<&[u8]>, none: i64| {
        word.map_or(Ok(none), |word| super::args::strict_int(word).ok_or(CommandError::NotInteger))
    };
    let (low, high) = (bound(low, i64::MIN)?, bound(high, i64::MAX)?);
    if low > high {
        return Err(CommandError::Text("ERR LBOUND can't be greater than UBOUND".to_owned()));
    }
    Ok(Bounded::Int { by, low, high })
}

fn checked(word: Bytes) -> Result<Bytes, CommandError> {
    let text = || CommandError::Text("ERR value is not a valid float".to_owned());
    if is_float(&word) { Ok(word) } else { Err(text()) }
}
