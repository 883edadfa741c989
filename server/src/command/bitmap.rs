//! Bits of strings: SETBIT GETBIT BITCOUNT BITPOS BITOP BITFIELD.

use bytes::Bytes;

use super::args::strict_int;
use super::string::{READ_ROW, WRITE_ROW, update};
use super::{Action, Args, Arity, CommandError, Context, Flags, Group, KeyRange, ReplyShape, Spec, View};
use crate::store::bits::BitOperation;
use crate::store::change::{Field, FieldStep, Overflow};
use crate::store::{Change, Op, Query};

const WRITES: Flags = Flags::WRITE.with(Flags::DENYOOM).with(Flags::BITMAP);
const READS: Flags = Flags::READONLY.with(Flags::BITMAP);

const BIT_READ: Spec = Spec { flags: READS, reply: ReplyShape::Integer, group: Group::Bitmap, ..READ_ROW };
const BIT_WRITE: Spec = Spec { flags: WRITES, group: Group::Bitmap, ..WRITE_ROW };

fn text(text: &str) -> CommandError {
    CommandError::Text(format!("ERR {text}"))
}

/// Takes the offset of a bit within the longest value.
fn bit_offset(args: &mut Args<'_>, context: &Context) -> Result<u64, CommandError> {
    let offset = args.int().ok().and_then(|offset| u64::try_from(offset).ok());
    offset
        .filter(|offset| offset / 8 < context.value_bytes_max)
        .ok_or_else(|| text("bit offset is not an integer or out of range"))
}

pub(crate) static SETBIT: Spec = Spec {
    name: "SETBIT",
    arity: Arity::Exactly(4),
    since: "2.2.0",
    usage: "SETBIT key offset value",
    summary: "Sets a bit of a value and returns the one before",
    parse: |args, context| {
        let (key, offset) = (args.new_key(context)?, bit_offset(args, context)?);
        let bit = match &args.bytes()?[..] {
            b"0" => false,
            b"1" => true,
            _ => return Err(text("bit is not an integer or out of range")),
        };
        update(context, key, Change::SetBit { offset, bit })
    },
    ..BIT_WRITE
};

pub(crate) static GETBIT: Spec = Spec {
    name: "GETBIT",
    arity: Arity::Exactly(3),
    flags: READS.with(Flags::FAST),
    since: "2.2.0",
    usage: "GETBIT key offset",
    summary: "Returns a bit of a value",
    parse: |args, context| {
        let (key, offset) = (args.bytes()?, bit_offset(args, context)?);
        Ok(Action::Read(Query::Get { db: context.db, key }, View::Bit(offset)))
    },
    ..BIT_READ
};

/// Takes BYTE or BIT, if there is one: true for BIT.
fn in_bits(args: &mut Args<'_>) -> Result<bool, CommandError> {
    let bits = args.keyword("BIT");
    if !bits {
        args.keyword("BYTE");
    }
    args.finish()?;
    Ok(bits)
}

pub(crate) static BITCOUNT: Spec = Spec {
    name: "BITCOUNT",
    arity: Arity::AtLeast(2),
    since: "2.6.0",
    usage: "BITCOUNT key [start end [BYTE|BIT]]",
    summary: "Counts the bits of a value that are 1",
    parse: |args, context| {
        let query = Query::Get { db: context.db, key: args.bytes()? };
        let span = match args.left() {
            0 => None,
            1 => return Err(CommandError::Syntax),
            _ => Some((args.span()?, in_bits(args)?)),
        };
        Ok(Action::Read(query, View::BitCount(span)))
    },
    ..BIT_READ
};

pub(crate) static BITPOS: Spec = Spec {
    name: "BITPOS",
    arity: Arity::AtLeast(3),
    since: "2.8.7",
    usage: "BITPOS key bit [start [end [BYTE|BIT]]]",
    summary: "Finds the first bit of a value that is 0 or 1",
    parse: |args, context| {
        let query = Query::Get { db: context.db, key: args.bytes()? };
        let bit = match args.int()? {
            0 => false,
            1 => true,
            _ => return Err(text("The bit argument must be 1 or 0.")),
        };
        let from = if args.left() > 0 { args.int()? } else { 0 };
        let to = if args.left() > 0 { Some(args.int()?) } else { None };
        let in_bits = in_bits(args)?;
        Ok(Action::Read(query, View::BitPosition { bit, from, to, in_bits }))
    },
    ..BIT_READ
};

pub(crate) static BITOP: Spec = Spec {
    name: "BITOP",
    arity: Arity::AtLeast(4),
    keys: KeyRange::one(2, &["OW", "update"]),
    more_keys: KeyRange::from(3, 1, &["RO", "access"]),
    since: "2.6.0",
    usage: "BITOP operation destkey key [key ...]",
    summary: "Combines values bit by bit and stores the result; returns its length",
    parse: |args, context| {
        let known = [
            ("AND", BitOperation::And),
            ("OR", BitOperation::Or),
            ("XOR", BitOperation::Xor),
            ("NOT", BitOperation::Not),
        ];
        let found = known.into_iter().find(|(word, _)| args.keyword(word));
        let (_, operation) = found.ok_or(CommandError::Syntax)?;
        let (to, keys) = (args.new_key(context)?, args.rest());
        if operation == BitOperation::Not && keys.len() != 1 {
            return Err(text("BITOP NOT must be called with a single source key."));
        }
        Ok(Action::Write(Op::BitOp { db: context.db, operation, to, keys }))
    },
    ..BIT_WRITE
};

pub(crate) static BITFIELD: Spec = Spec {
    name: "BITFIELD",
    arity: Arity::AtLeast(2),
    keys: KeyRange::one(1, &["RW", "access", "update", "variable_flags"]),
    access: Some(bitfield_access),
    reply: ReplyShape::Array,
    since: "3.2.0",
    usage: "BITFIELD key [GET encoding offset] [OVERFLOW WRAP|SAT|FAIL] [SET encoding offset value] \
            [INCRBY encoding offset increment]",
    summary: "Reads, sets and increments numbers of any width within a value",
    parse: |args, context| {
        let (key, steps) = (args.new_key(context)?, field_steps(args, context)?);
        let reads = !steps.is_empty() && steps.iter().all(|step| matches!(step, FieldStep::Get(_)));
        if reads {
            return Ok(Action::Read(Query::Get { db: context.db, key }, View::Fields(steps)));
        }
        update(context, key, Change::Fields(steps))
    },
    ..BIT_WRITE
};

/// Only SET and INCRBY write.
fn bitfield_access(words: &[Bytes]) -> &'static [&'static str] {
    let writes = |word: &Bytes| word.eq_ignore_ascii_case(b"SET") || word.eq_ignore_ascii_case(b"INCRBY");
    if words.iter().skip(2).any(writes) { &["RW", "access", "update"] } else { &["RO", "access"] }
}

pub(crate) static BITFIELD_RO: Spec = Spec {
    name: "BITFIELD_RO",
    arity: Arity::AtLeast(2),
    flags: READS.with(Flags::FAST),
    reply: ReplyShape::Array,
    since: "6.0.0",
    usage: "BITFIELD_RO key [GET encoding offset [GET encoding offset ...]]",
    summary: "Reads numbers of any width within a value",
    parse: |args, context| {
        let (key, steps) = (args.bytes()?, field_steps(args, context)?);
        if !steps.iter().all(|step| matches!(step, FieldStep::Get(_))) {
            return Err(text("BITFIELD_RO only supports the GET subcommand"));
        }
        Ok(Action::Read(Query::Get { db: context.db, key }, View::Fields(steps)))
    },
    ..BIT_READ
};

fn field_steps(args: &mut Args<'_>, context: &Context) -> Result<Vec<FieldStep>, CommandError> {
    let (mut steps, mut overflow) = (Vec::new(), Overflow::Wrap);
    while args.left() > 0 {
        if args.keyword("OVERFLOW") {
            overflow = if args.keyword("WRAP") {
                Overflow::Wrap
            } else if args.keyword("SAT") {
                Overflow::Saturate
            } else if args.keyword("FAIL") {
                Overflow::Fail
            } else if args.left() == 0 {
                return Err(CommandError::Syntax);
            } else {
                return Err(text("Invalid OVERFLOW type specified"));
            };
        } else if args.left() >= 3 && args.keyword("GET") {
            steps.push(FieldStep::Get(field(args, context)?));
        } else if args.left() >= 4 && args.keyword("SET") {
            steps.push(FieldStep::Set(field(args, context)?, args.int()?, overflow));
        } else if args.left() >= 4 && args.keyword("INCRBY") {
            steps.push(FieldStep::Add(field(args, context)?, args.int()?, overflow));
        } else {
            return Err(CommandError::Syntax);
        }
    }
    Ok(steps)
}

/// Takes a width and an offset, which `#` counts in widths.
fn field(args: &mut Args<'_>, context: &Context) -> Result<Field, CommandError> {
    let kind = args.bytes()?;
    let (signed, bits) = width(&kind).ok_or_else(|| {
        text("Invalid bitfield type. Use something like i16 u8. Note that u64 is not supported but i64 is.")
    })?;
    let word: Bytes = args.bytes()?;
    let (digits, factor) = word.strip_prefix(b"#").map_or((&word[..], 1), |digits| (digits, u64::from(bits)));
    let offset = strict_int(digits)
        .and_then(|offset| u64::try_from(offset).ok())
        .and_then(|offset| offset.checked_mul(factor))
        .filter(|offset| offset.saturating_add(u64::from(bits)) / 8 < context.value_bytes_max)
        .ok_or_else(|| text("bit offset is not an integer or out of range"))?;
    Ok(Field { signed, bits, offset })
}

fn width(kind: &[u8]) -> Option<(bool, u8)> {
    let (sign, digits) = kind.split_first()?;
    let signed = match sign {
        b'i' => true,
        b'u' => false,
        _ => return None,
    };
    let bits = u8::try_from(strict_int(digits)?).ok()?;
    let most = if signed { 64 } else { 63 };
    (1..=most).contains(&bits).then_some((signed, bits))
}
