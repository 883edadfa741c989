//! Commands on keys of any type: DEL UNLINK PDEL EXISTS TYPE KEYS SCAN RANDOMKEY DBSIZE FLUSHDB FLUSHALL OBJECT.

use bytes::Bytes;

use super::args::lenient_count;
use super::spec::Access;
use super::{
    Action, Args, Arity, CommandError, Context, Flags, Group, KeyRange, Parsed, ReplyShape, Spec, View,
};
use crate::resp::Reply;
use crate::store::op::Pivot;
use crate::store::{Op, Query, TypeTag};

/// Default LIMIT of the ancestor's paging form of KEYS.
const PAGE_KEYS: u64 = 500;

/// Largest COUNT of SCAN: keeps one page's memory bounded, whatever is asked for. COUNT is a hint in Redis too.
const SCAN_COUNT_MAX: u64 = 100_000;

pub(crate) static DEL: Spec = Spec {
    name: "DEL",
    arity: Arity::AtLeast(2),
    flags: Flags::WRITE.with(Flags::KEYSPACE),
    keys: KeyRange::from(1, 1, &["RM", "delete"]),
    reply: ReplyShape::Integer,
    group: Group::Generic,
    since: "1.0.0",
    usage: "DEL key [key ...]",
    summary: "Deletes keys and returns how many existed",
    parse: del,
    ..Spec::ROW
};

fn del(args: &mut Args<'_>, context: &Context) -> Parsed {
    Ok(Action::Write(Op::Del { db: context.db, keys: args.rest() }))
}

pub(crate) static UNLINK: Spec = Spec {
    name: "UNLINK",
    flags: Flags::WRITE.with(Flags::FAST).with(Flags::KEYSPACE),
    since: "4.0.0",
    usage: "UNLINK key [key ...]",
    summary: "The same as DEL",
    arity: Arity::AtLeast(2),
    keys: KeyRange::from(1, 1, &["RM", "delete"]),
    reply: ReplyShape::Integer,
    group: Group::Generic,
    parse: del,
    ..Spec::ROW
};

pub(crate) static PDEL: Spec = Spec {
    name: "PDEL",
    glob: Some(|_| Access { read: false, write: true }),
    arity: Arity::Exactly(2),
    flags: Flags::WRITE.with(Flags::KEYSPACE).with(Flags::DANGEROUS),
    reply: ReplyShape::Integer,
    group: Group::Generic,
    since: "0.1.0",
    usage: "PDEL pattern",
    summary: "Deletes all keys that match a glob, all at once, and returns how many",
    difference: "not in Redis",
    parse: pdel,
    ..Spec::ROW
};

fn pdel(args: &mut Args<'_>, context: &Context) -> Parsed {
    Ok(Action::Write(Op::PDel { db: context.db, pattern: args.bytes()? }))
}

pub(crate) static EXISTS: Spec = Spec {
    name: "EXISTS",
    arity: Arity::AtLeast(2),
    flags: Flags::READONLY.with(Flags::FAST).with(Flags::KEYSPACE),
    keys: KeyRange::from(1, 1, &["RO"]),
    reply: ReplyShape::Integer,
    group: Group::Generic,
    since: "1.0.0",
    usage: "EXISTS key [key ...]",
    summary: "Counts the keys that exist; a key named twice counts twice",
    parse: exists,
    ..Spec::ROW
};

fn exists(args: &mut Args<'_>, context: &Context) -> Parsed {
    Ok(Action::Read(Query::Exists { db: context.db, keys: args.rest() }, View::Plain))
}

pub(crate) static TYPE: Spec = Spec {
    name: "TYPE",
    arity: Arity::Exactly(2),
    flags: Flags::READONLY.with(Flags::FAST).with(Flags::KEYSPACE),
    keys: KeyRange::one(1, &["RO"]),
    reply: ReplyShape::Simple,
    group: Group::Generic,
    since: "1.0.0",
    usage: "TYPE key",
    summary: "Returns the type of a key: string, or none",
    parse: key_type,
    ..Spec::ROW
};

fn key_type(args: &mut Args<'_>, context: &Context) -> Parsed {
    Ok(Action::Read(Query::Type { db: context.db, key: args.bytes()? }, View::Plain))
}

pub(crate) static DBSIZE: Spec = Spec {
    name: "DBSIZE",
    arity: Arity::Exactly(1),
    flags: Flags::READONLY.with(Flags::FAST).with(Flags::KEYSPACE),
    reply: ReplyShape::Integer,
    group: Group::Server,
    since: "1.0.0",
    usage: "DBSIZE",
    summary: "Returns the number of keys in the selected database",
    parse: |_, context| Ok(Action::Read(Query::DbSize { db: context.db }, View::Plain)),
    ..Spec::ROW
};

pub(crate) static RANDOMKEY: Spec = Spec {
    name: "RANDOMKEY",
    arity: Arity::Exactly(1),
    flags: Flags::READONLY.with(Flags::KEYSPACE),
    reply: ReplyShape::BulkOrNil,
    group: Group::Generic,
    since: "1.0.0",
    usage: "RANDOMKEY",
    summary: "Returns some key of the selected database",
    // The seed is drawn by dispatch: parsing is pure.
    parse: |_, context| Ok(Action::Read(Query::RandomKey { db: context.db, seed: 0 }, View::Plain)),
    ..Spec::ROW
};

pub(crate) static KEYS: Spec = Spec {
    name: "KEYS",
    glob: Some(keys_access),
    arity: Arity::AtLeast(2),
    flags: Flags::READONLY.with(Flags::KEYSPACE).with(Flags::DANGEROUS),
    reply: ReplyShape::Array,
    group: Group::Generic,
    since: "1.0.0",
    usage: "KEYS pattern [PIVOT key] [LIMIT count] [DESC] [WITHVALUES] [INCL] [EXCL]",
    summary: "Returns the keys that match a glob, sorted by bytes",
    difference: "sorted; PIVOT starts after a key (at it with INCL), LIMIT bounds the page, DESC turns the order, \
                 WITHVALUES puts each value behind its key; with any of these four LIMIT is 500 by default; EXCL is the \
                 default and changes nothing",
    parse: keys,
    ..Spec::ROW
};

/// Names alone are shown to whoever may call it, as in Redis; values only to whoever may read them.
fn keys_access(words: &[Bytes]) -> Access {
    Access { read: words.iter().skip(2).any(|word| word.eq_ignore_ascii_case(b"WITHVALUES")), write: false }
}

fn keys(args: &mut Args<'_>, context: &Context) -> Parsed {
    let pattern = args.bytes()?;
    let (mut pivot, mut limit, mut descending, mut with_values, mut inclusive) =
        (None, None, false, false, false);
    while args.left() > 0 {
        // PIVOT and LIMIT take the next word whatever it is; of an option given twice the last one wins.
        if args.keyword("PIVOT") {
            pivot = Some(args.bytes()?);
        } else if args.keyword("LIMIT") {
            limit = Some(lenient_count(&args.bytes()?).ok_or(CommandError::Syntax)?);
        } else if args.keyword("DESC") {
            descending = true;
        } else if args.keyword("WITHVALUES") {
            with_values = true;
        } else if args.keyword("INCL") {
            inclusive = true;
        } else if args.keyword("EXCL") {
            inclusive = false;
        } else {
            return Err(CommandError::Syntax);
        }
    }
    let paging = pivot.is_some() || limit.is_some() || descending || with_values;
    let default = if paging { PAGE_KEYS } else { context.keys_default_limit };
    let limit = limit.or_else(|| (default > 0).then_some(default));
    Ok(Action::Read(
        Query::Keys {
            db: context.db,
            pattern,
            pivot: pivot.map(|key| Pivot { key, inclusive }),
            limit,
            descending,
            with_values,
            size_bytes_max: context.reply_bytes_max,
        },
        View::Plain,
    ))
}

pub(crate) static SCAN: Spec = Spec {
    name: "SCAN",
    arity: Arity::AtLeast(2),
    flags: Flags::READONLY.with(Flags::KEYSPACE),
    reply: ReplyShape::Array,
    group: Group::Generic,
    since: "2.8.0",
    usage: "SCAN cursor [MATCH pattern] [COUNT count] [TYPE type]",
    summary: "Walks the keys page by page; a key present all the time is returned at least once",
    difference: "a cursor is valid on every node and after a change of leader; COUNT above 100000 counts as 100000",
    parse: scan,
    ..Spec::ROW
};

fn scan(args: &mut Args<'_>, context: &Context) -> Parsed {
    let cursor = std::str::from_utf8(&args.bytes()?)
        .ok()
        .and_then(|word| word.parse::<u64>().ok())
        .ok_or_else(|| CommandError::Text("ERR invalid cursor".to_owned()))?;
    let (mut pattern, mut count, mut only, mut possible) = (None, 10, None, true);
    while args.left() > 0 {
        if args.keyword("MATCH") {
            pattern = Some(args.bytes()?);
        } else if args.keyword("COUNT") {
            let asked = args.int()?;
            count = u64::try_from(asked).ok().filter(|n| *n > 0).ok_or(CommandError::Syntax)?;
        } else if args.keyword("TYPE") {
            let name = args.bytes()?;
            possible = name.eq_ignore_ascii_case(b"string");
            only = possible.then_some(TypeTag::String);
        } else {
            return Err(CommandError::Syntax);
        }
    }
    if !possible {
        // No key of another type exists, so the walk is over before it begins.
        return Ok(Action::Reply(Reply::Array(vec![Reply::Bulk("0".into()), Reply::Array(Vec::new())])));
    }
    let count = count.min(SCAN_COUNT_MAX);
    Ok(Action::Read(Query::Scan { db: context.db, cursor, pattern, count, only }, View::Plain))
}

pub(crate) static FLUSHDB: Spec = Spec {
    name: "FLUSHDB",
    arity: Arity::AtLeast(1),
    flags: Flags::WRITE.with(Flags::KEYSPACE).with(Flags::DANGEROUS),
    reply: ReplyShape::Ok,
    group: Group::Server,
    since: "1.0.0",
    usage: "FLUSHDB [ASYNC|SYNC]",
    summary: "Deletes all keys of the selected database",
    difference: "ASYNC and SYNC are the same: done when answered",
    parse: |args, context| {
        flush_mode(args)?;
        Ok(Action::Write(Op::FlushDb { db: context.db }))
    },
    ..Spec::ROW
};

pub(crate) static FLUSHALL: Spec = Spec {
    name: "FLUSHALL",
    arity: Arity::AtLeast(1),
    flags: Flags::WRITE.with(Flags::KEYSPACE).with(Flags::DANGEROUS),
    reply: ReplyShape::Ok,
    group: Group::Server,
    since: "1.0.0",
    usage: "FLUSHALL [ASYNC|SYNC]",
    summary: "Deletes all keys of all databases",
    difference: "ASYNC and SYNC are the same: done when answered",
    parse: |args, _| {
        flush_mode(args)?;
        Ok(Action::Write(Op::FlushAll))
    },
    ..Spec::ROW
};

fn flush_mode(args: &mut Args<'_>) -> Result<(), CommandError> {
    let _ = args.keyword("ASYNC") || args.keyword("SYNC");
    args.finish()
}

pub(crate) static OBJECT: Spec = Spec {
    name: "OBJECT",
    group: Group::Generic,
    since: "2.2.3",
    usage: "OBJECT subcommand",
    summary: "Container of questions about a stored value",
    subcommands: &[&OBJECT_ENCODING, &OBJECT_FREQ, &OBJECT_HELP, &OBJECT_IDLETIME, &OBJECT_REFCOUNT],
    ..Spec::CONTAINER
};

/// What the rows of OBJECT share.
const OBJECT_ROW: Spec = Spec {
    arity: Arity::Exactly(3),
    flags: Flags::READONLY.with(Flags::KEYSPACE),
    keys: KeyRange::one(2, &["RO"]),
    group: Group::Generic,
    since: "2.2.3",
    ..Spec::ROW
};

static OBJECT_ENCODING: Spec = Spec {
    name: "OBJECT|ENCODING",
    reply: ReplyShape::BulkOrNil,
    usage: "OBJECT ENCODING key",
    summary: "Returns the encoding that Redis would choose: int, embstr or raw",
    difference: "that of a value just set, however it came to be",
    parse: |args, context| object(args, context, View::Encoding),
    ..OBJECT_ROW
};

static OBJECT_FREQ: Spec = Spec {
    name: "OBJECT|FREQ",
    reply: ReplyShape::IntegerOrNil,
    since: "4.0.0",
    usage: "OBJECT FREQ key",
    summary: "Access frequencies are not tracked: an error for a key that exists",
    parse: |args, context| {
        object(
            args,
            context,
            View::NotTracked(
                "ERR An LFU maxmemory policy is not selected, access frequency not tracked. Please note that when \
                 switching between policies at runtime LRU and LFU data will take some time to adjust.",
            ),
        )
    },
    ..OBJECT_ROW
};

static OBJECT_IDLETIME: Spec = Spec {
    name: "OBJECT|IDLETIME",
    reply: ReplyShape::IntegerOrNil,
    usage: "OBJECT IDLETIME key",
    summary: "Idle times are not tracked: an error for a key that exists",
    difference: "not tracked",
    parse: |args, context| object(args, context, View::NotTracked("ERR idle time not tracked")),
    ..OBJECT_ROW
};

static OBJECT_REFCOUNT: Spec = Spec {
    name: "OBJECT|REFCOUNT",
    reply: ReplyShape::IntegerOrNil,
    usage: "OBJECT REFCOUNT key",
    summary: "Returns 1 for a key that exists",
    parse: |args, context| object(args, context, View::RefCount),
    ..OBJECT_ROW
};

static OBJECT_HELP: Spec = Spec {
    name: "OBJECT|HELP",
    arity: Arity::Exactly(2),
    flags: Flags::ALWAYS.with(Flags::KEYSPACE),
    reply: ReplyShape::Array,
    group: Group::Generic,
    since: "6.2.0",
    usage: "OBJECT HELP",
    summary: "Prints this help",
    parse: |_, _| Ok(Action::Reply(super::help(&OBJECT))),
    ..Spec::ROW
};

fn object(args: &mut Args<'_>, context: &Context, view: View) -> Parsed {
    Ok(Action::Read(Query::Get { db: context.db, key: args.bytes()? }, view))
}
