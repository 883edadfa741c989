//! Commands on string values: GET and SET with their kin, ranges, MSET and MGET, LCS, DELIF.

use bytes::Bytes;

use super::args::Deadline;
use super::{
    Action, Args, Arity, CommandError, Context, Flags, Group, KeyRange, Lcs, Parsed, ReplyShape, Spec, View,
};
use crate::store::change::WriteAnswer;
use crate::store::{Change, Condition, Expiry, Op, Query};

/// What rows that change one string share.
pub(crate) const WRITE_ROW: Spec = Spec {
    flags: Flags::WRITE.with(Flags::DENYOOM).with(Flags::STRING),
    keys: KeyRange::one(1, &["RW", "access", "update"]),
    reply: ReplyShape::Integer,
    group: Group::String,
    ..Spec::ROW
};

/// What rows that read one string share.
pub(crate) const READ_ROW: Spec = Spec {
    flags: Flags::READONLY.with(Flags::STRING),
    keys: KeyRange::one(1, &["RO", "access"]),
    reply: ReplyShape::Bulk,
    group: Group::String,
    ..Spec::ROW
};

/// A change of one key.
pub(crate) fn update(context: &Context, key: Bytes, change: Change) -> Parsed {
    Ok(Action::Write(Op::Update { db: context.db, key, change }))
}

/// Redis' error for a value that would be too long.
pub(crate) fn too_long() -> CommandError {
    CommandError::Text("ERR string exceeds maximum allowed size (proto-max-bulk-len)".to_owned())
}

pub(crate) static GET: Spec = Spec {
    name: "GET",
    arity: Arity::Exactly(2),
    flags: Flags::READONLY.with(Flags::FAST).with(Flags::STRING),
    keys: KeyRange::one(1, &["RO", "access"]),
    reply: ReplyShape::BulkOrNil,
    group: Group::String,
    since: "1.0.0",
    usage: "GET key",
    summary: "Returns the value of a key",
    parse: get,
    ..Spec::ROW
};

fn get(args: &mut Args<'_>, context: &Context) -> Parsed {
    Ok(Action::Read(Query::Get { db: context.db, key: args.bytes()? }, View::Plain))
}

pub(crate) static STRLEN: Spec = Spec {
    name: "STRLEN",
    arity: Arity::Exactly(2),
    flags: Flags::READONLY.with(Flags::FAST).with(Flags::STRING),
    keys: KeyRange::one(1, &["RO"]),
    reply: ReplyShape::Integer,
    group: Group::String,
    since: "2.2.0",
    usage: "STRLEN key",
    summary: "Returns the length of a value in bytes",
    parse: strlen,
    ..Spec::ROW
};

fn strlen(args: &mut Args<'_>, context: &Context) -> Parsed {
    Ok(Action::Read(Query::Get { db: context.db, key: args.bytes()? }, View::Length))
}

pub(crate) static MGET: Spec = Spec {
    name: "MGET",
    arity: Arity::AtLeast(2),
    flags: Flags::READONLY.with(Flags::FAST).with(Flags::STRING),
    keys: KeyRange::from(1, 1, &["RO", "access"]),
    reply: ReplyShape::Array,
    group: Group::String,
    since: "1.0.0",
    usage: "MGET key [key ...]",
    summary: "Returns the values of keys, all from one point in time",
    parse: mget,
    ..Spec::ROW
};

fn mget(args: &mut Args<'_>, context: &Context) -> Parsed {
    let query = Query::MGet { db: context.db, keys: args.rest(), size_bytes_max: context.reply_bytes_max };
    Ok(Action::Read(query, View::Plain))
}

pub(crate) static SET: Spec = Spec {
    name: "SET",
    arity: Arity::AtLeast(3),
    flags: Flags::WRITE.with(Flags::DENYOOM).with(Flags::STRING),
    keys: KeyRange::one(1, &["RW", "access", "update", "variable_flags"]),
    access: Some(set_access),
    reply: ReplyShape::OkOrBulkOrNil,
    group: Group::String,
    since: "1.0.0",
    usage: "SET key value [NX|XX] [IFEQ match-value] [IFNE match-value] [IFDEQ digest] [IFDNE digest] [GET] [EX seconds] \
            [PX milliseconds] [EXAT unix-time-seconds] [PXAT unix-time-milliseconds] [KEEPTTL]",
    summary: "Sets the value of a key, if a condition holds",
    difference: "IFEQ, IFNE, IFDEQ and IFDNE are those of Redis 8.4",
    parse: set,
    ..Spec::ROW
};

/// GET shows the old value, a comparison tells of it.
fn set_access(words: &[Bytes]) -> &'static [&'static str] {
    let looks =
        |word: &Bytes| ["GET", "IFEQ", "IFNE", "IFDEQ", "IFDNE"].iter().any(|option| is(word, option));
    if words.iter().skip(3).any(looks) { &["RW", "access", "update"] } else { &["OW", "update"] }
}

fn is(word: &Bytes, option: &str) -> bool {
    word.eq_ignore_ascii_case(option.as_bytes())
}

fn set(args: &mut Args<'_>, context: &Context) -> Parsed {
    let (key, value) = (args.new_key(context)?, args.bytes()?);
    // By far the most frequent form has a short way through the log.
    if args.left() == 0 {
        return Ok(Action::Write(Op::Set { db: context.db, key, value, deadline: None }));
    }
    let (mut condition, mut expiry, mut get) = (None, None, false);
    while args.left() > 0 {
        if let Some(found) = lock_condition(args)? {
            if condition.replace(found).is_some() {
                return Err(CommandError::Syntax);
            }
        } else if args.keyword("GET") {
            get = true;
        } else {
            let keep = args.keyword("KEEPTTL");
            let found = if keep { Expiry::Keep } else { args.expiry("set")?.ok_or(CommandError::Syntax)? };
            if expiry.replace(found).is_some() {
                return Err(CommandError::Syntax);
            }
        }
    }
    let answer = if get { WriteAnswer::Previous } else { WriteAnswer::Done };
    let condition = condition.unwrap_or(Condition::Always);
    let expiry = expiry.unwrap_or(Expiry::Never);
    update(context, key, Change::Write { value, expiry, condition, answer })
}

/// NX, XX, or a comparison with the value or its digest.
fn lock_condition(args: &mut Args<'_>) -> Result<Option<Condition>, CommandError> {
    if args.keyword("NX") {
        Ok(Some(Condition::Missing))
    } else if args.keyword("XX") {
        Ok(Some(Condition::Present))
    } else {
        args.comparison()
    }
}

pub(crate) static SETNX: Spec = Spec {
    name: "SETNX",
    arity: Arity::Exactly(3),
    flags: Flags::WRITE.with(Flags::DENYOOM).with(Flags::FAST).with(Flags::STRING),
    keys: KeyRange::one(1, &["OW", "insert"]),
    since: "1.0.0",
    usage: "SETNX key value",
    summary: "Sets the value of a key that does not exist",
    parse: |args, context| {
        let (key, value) = (args.new_key(context)?, args.bytes()?);
        let (condition, answer) = (Condition::Missing, WriteAnswer::Count);
        update(context, key, Change::Write { value, expiry: Expiry::Never, condition, answer })
    },
    ..WRITE_ROW
};

pub(crate) static SETEX: Spec = Spec {
    name: "SETEX",
    arity: Arity::Exactly(4),
    keys: KeyRange::one(1, &["OW", "update"]),
    reply: ReplyShape::Ok,
    since: "2.0.0",
    usage: "SETEX key seconds value",
    summary: "Sets the value of a key that expires after some seconds",
    parse: |args, context| set_expiring(args, context, Deadline::Seconds),
    ..WRITE_ROW
};

pub(crate) static PSETEX: Spec = Spec {
    name: "PSETEX",
    arity: Arity::Exactly(4),
    keys: KeyRange::one(1, &["OW", "update"]),
    reply: ReplyShape::Ok,
    since: "2.6.0",
    usage: "PSETEX key milliseconds value",
    summary: "Sets the value of a key that expires after some milliseconds",
    parse: |args, context| set_expiring(args, context, Deadline::Milliseconds),
    ..WRITE_ROW
};

fn set_expiring(args: &mut Args<'_>, context: &Context, unit: Deadline) -> Parsed {
    let key = args.new_key(context)?;
    let expiry = args.positive_expiry(unit, if unit == Deadline::Seconds { "setex" } else { "psetex" })?;
    let (value, condition, answer) = (args.bytes()?, Condition::Always, WriteAnswer::Done);
    update(context, key, Change::Write { value, expiry, condition, answer })
}

pub(crate) static GETSET: Spec = Spec {
    name: "GETSET",
    arity: Arity::Exactly(3),
    flags: Flags::WRITE.with(Flags::DENYOOM).with(Flags::FAST).with(Flags::STRING),
    reply: ReplyShape::BulkOrNil,
    since: "1.0.0",
    usage: "GETSET key value",
    summary: "Sets the value of a key and returns the one before",
    parse: |args, context| {
        let (key, value) = (args.new_key(context)?, args.bytes()?);
        let (condition, answer) = (Condition::Always, WriteAnswer::Previous);
        update(context, key, Change::Write { value, expiry: Expiry::Never, condition, answer })
    },
    ..WRITE_ROW
};

pub(crate) static GETDEL: Spec = Spec {
    name: "GETDEL",
    arity: Arity::Exactly(2),
    flags: Flags::WRITE.with(Flags::FAST).with(Flags::STRING),
    keys: KeyRange::one(1, &["RW", "access", "delete"]),
    reply: ReplyShape::BulkOrNil,
    since: "6.2.0",
    usage: "GETDEL key",
    summary: "Returns the value of a key and deletes it",
    parse: |args, context| {
        let (condition, answer) = (Condition::Always, WriteAnswer::Previous);
        update(context, args.bytes()?, Change::Remove { condition, answer })
    },
    ..WRITE_ROW
};

pub(crate) static GETEX: Spec = Spec {
    name: "GETEX",
    arity: Arity::AtLeast(2),
    flags: Flags::WRITE.with(Flags::FAST).with(Flags::STRING),
    reply: ReplyShape::BulkOrNil,
    since: "6.2.0",
    usage: "GETEX key [EX seconds] [PX milliseconds] [EXAT unix-time-seconds] [PXAT unix-time-milliseconds] [PERSIST]",
    summary: "Returns the value of a key and sets or removes its deadline",
    parse: |args, context| {
        let (key, mut expiry) = (args.bytes()?, None);
        while args.left() > 0 {
            let persist = args.keyword("PERSIST");
            let found =
                if persist { Expiry::Never } else { args.expiry("getex")?.ok_or(CommandError::Syntax)? };
            if expiry.replace(found).is_some() {
                return Err(CommandError::Syntax);
            }
        }
        update(context, key, Change::Retrieve { expiry: expiry.unwrap_or(Expiry::Keep) })
    },
    ..WRITE_ROW
};

pub(crate) static APPEND: Spec = Spec {
    name: "APPEND",
    arity: Arity::Exactly(3),
    flags: Flags::WRITE.with(Flags::DENYOOM).with(Flags::FAST).with(Flags::STRING),
    keys: KeyRange::one(1, &["RW", "insert"]),
    since: "2.0.0",
    usage: "APPEND key value",
    summary: "Appends to the value of a key and returns its new length",
    parse: |args, context| {
        let key = args.new_key(context)?;
        update(context, key, Change::Append(args.bytes()?))
    },
    ..WRITE_ROW
};

pub(crate) static SETRANGE: Spec = Spec {
    name: "SETRANGE",
    arity: Arity::Exactly(4),
    keys: KeyRange::one(1, &["RW", "update"]),
    since: "2.2.0",
    usage: "SETRANGE key offset value",
    summary: "Overwrites part of a value and returns its length",
    parse: |args, context| {
        let (key, offset, value) = (args.new_key(context)?, args.int()?, args.bytes()?);
        let offset =
            u64::try_from(offset).map_err(|_| CommandError::Text("ERR offset is out of range".to_owned()))?;
        if !value.is_empty() && offset.saturating_add(value.len() as u64) > context.value_bytes_max {
            return Err(too_long());
        }
        update(context, key, Change::Overwrite { offset, value })
    },
    ..WRITE_ROW
};

pub(crate) static GETRANGE: Spec = Spec {
    name: "GETRANGE",
    arity: Arity::Exactly(4),
    since: "2.4.0",
    usage: "GETRANGE key start end",
    summary: "Returns part of a value",
    parse: get_range,
    ..READ_ROW
};

pub(crate) static SUBSTR: Spec = Spec {
    name: "SUBSTR",
    arity: Arity::Exactly(4),
    since: "1.0.0",
    usage: "SUBSTR key start end",
    summary: "The same as GETRANGE",
    parse: get_range,
    ..READ_ROW
};

fn get_range(args: &mut Args<'_>, context: &Context) -> Parsed {
    let (key, span) = (args.bytes()?, args.span()?);
    Ok(Action::Read(Query::Get { db: context.db, key }, View::Range(span)))
}

pub(crate) static LCS: Spec = Spec {
    name: "LCS",
    arity: Arity::AtLeast(3),
    keys: KeyRange { first: 1, last: 2, step: 1, access: &["RO", "access"] },
    reply: ReplyShape::BulkOrIntegerOrMap,
    since: "7.0.0",
    usage: "LCS key key [LEN] [IDX] [MINMATCHLEN length] [WITHMATCHLEN]",
    summary: "Finds the longest common subsequence of two values",
    difference: "the lengths of both multiplied are at most 16 Mi",
    parse: lcs,
    ..READ_ROW
};

fn lcs(args: &mut Args<'_>, context: &Context) -> Parsed {
    let (keys, mut view) = (vec![args.bytes()?, args.bytes()?], Lcs::default());
    while args.left() > 0 {
        if args.keyword("LEN") {
            view.length = true;
        } else if args.keyword("IDX") {
            view.places = true;
        } else if args.keyword("WITHMATCHLEN") {
            view.with_lengths = true;
        } else if args.keyword("MINMATCHLEN") {
            view.shortest = u64::try_from(args.int()?).unwrap_or(0);
        } else {
            return Err(CommandError::Syntax);
        }
    }
    if view.length && view.places {
        let text = "ERR If you want both the length and indexes, please just use IDX.";
        return Err(CommandError::Text(text.to_owned()));
    }
    let query = Query::MGet { db: context.db, keys, size_bytes_max: context.reply_bytes_max };
    Ok(Action::Read(query, View::Lcs(view)))
}

pub(crate) static MSET: Spec = Spec {
    name: "MSET",
    arity: Arity::AtLeast(3),
    flags: Flags::WRITE.with(Flags::DENYOOM).with(Flags::STRING),
    keys: KeyRange::from(1, 2, &["OW", "update"]),
    reply: ReplyShape::Ok,
    group: Group::String,
    since: "1.0.1",
    usage: "MSET key value [key value ...]",
    summary: "Sets keys to values, all at once; of a key named twice the last value stays",
    parse: mset,
    ..Spec::ROW
};

fn mset(args: &mut Args<'_>, context: &Context) -> Parsed {
    Ok(Action::Write(Op::MSet { db: context.db, pairs: pairs(args, context)? }))
}

pub(crate) static MSETNX: Spec = Spec {
    name: "MSETNX",
    arity: Arity::AtLeast(3),
    keys: KeyRange::from(1, 2, &["OW", "insert"]),
    since: "1.0.1",
    usage: "MSETNX key value [key value ...]",
    summary: "Sets keys to values, all at once, if none of them exists",
    parse: |args, context| {
        let (pairs, condition) = (pairs(args, context)?, Condition::Missing);
        Ok(Action::Write(Op::MSetIf { db: context.db, pairs, condition, expiry: Expiry::Never }))
    },
    ..WRITE_ROW
};

fn pairs(args: &mut Args<'_>, context: &Context) -> Result<Vec<(Bytes, Bytes)>, CommandError> {
    if !args.left().is_multiple_of(2) {
        return Err(args.arity());
    }
    let mut pairs: Vec<(Bytes, Bytes)> = Vec::with_capacity(args.left() / 2);
    while args.left() > 0 {
        pairs.push((args.new_key(context)?, args.bytes()?));
    }
    Ok(pairs)
}

pub(crate) static DELIF: Spec = Spec {
    name: "DELIF",
    arity: Arity::AtLeast(3),
    flags: Flags::WRITE.with(Flags::STRING),
    keys: KeyRange::from(2, 1, &["RM", "delete"]),
    reply: ReplyShape::Integer,
    group: Group::String,
    since: "0.1.0",
    usage: "DELIF part key [key ...]",
    summary: "Deletes those keys whose value contains the bytes of part; an empty part matches any value",
    difference: "not in Redis",
    parse: delif,
    ..Spec::ROW
};

fn delif(args: &mut Args<'_>, context: &Context) -> Parsed {
    let part = args.bytes()?;
    let keys = args.rest();
    if keys.is_empty() {
        return Err(CommandError::Syntax);
    }
    Ok(Action::Write(Op::DelIf { db: context.db, part, keys }))
}
