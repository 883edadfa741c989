//! Commands that move values between keys, databases and servers: COPY MOVE RENAME RENAMENX SWAPDB DUMP RESTORE, and
//! TOUCH.

use super::args::{Deadline, strict_int};
use super::string::{too_long, update};
use super::{
    Action, Args, Arity, CommandError, Context, Flags, Group, KeyRange, Parsed, ReplyShape, Spec, View, rdb,
};
use crate::store::change::WriteAnswer;
use crate::store::{Change, Condition, DbIndex, Expiry, Op, Query, Transfer};

const WRITES: Flags = Flags::WRITE.with(Flags::KEYSPACE);
const ROW: Spec = Spec { flags: WRITES, reply: ReplyShape::Integer, group: Group::Generic, ..Spec::ROW };

fn text(text: &str) -> CommandError {
    CommandError::Text(format!("ERR {text}"))
}

/// Checks the number of a database.
fn database(number: i64, context: &Context) -> Result<DbIndex, CommandError> {
    let db = DbIndex::try_from(number).ok().filter(|db| *db < context.databases);
    db.ok_or_else(|| text("DB index is out of range"))
}

pub(crate) static COPY: Spec = Spec {
    name: "COPY",
    arity: Arity::AtLeast(3),
    flags: WRITES.with(Flags::DENYOOM),
    keys: KeyRange::one(1, &["RO", "access"]),
    more_keys: KeyRange::one(2, &["OW", "update"]),
    since: "6.2.0",
    usage: "COPY source destination [DB destination-db] [REPLACE]",
    summary: "Copies the value and the deadline of a key",
    parse: copy,
    ..ROW
};

fn copy(args: &mut Args<'_>, context: &Context) -> Parsed {
    let (from, to) = (args.bytes()?, args.new_key(context)?);
    let (mut to_db, mut replaces) = (context.db, false);
    while args.left() > 0 {
        if args.keyword("REPLACE") {
            replaces = true;
        } else if args.left() >= 2 && args.keyword("DB") {
            to_db = database(args.int()?, context)?;
        } else {
            return Err(CommandError::Syntax);
        }
    }
    if to_db == context.db && from == to {
        return Err(text("source and destination objects are the same"));
    }
    let how = Transfer { replaces, ..Transfer::default() };
    Ok(Action::Write(Op::Transfer { from_db: context.db, from, to_db, to, how }))
}

pub(crate) static DUMP: Spec = Spec {
    name: "DUMP",
    arity: Arity::Exactly(2),
    flags: Flags::READONLY.with(Flags::KEYSPACE),
    keys: KeyRange::one(1, &["RO", "access"]),
    reply: ReplyShape::BulkOrNil,
    since: "2.6.0",
    usage: "DUMP key",
    summary: "Returns a value in the form that RESTORE takes, here and in Redis",
    difference: "in the form of Redis 7.0 (RDB version 10), which later ones and Valkey take too; never compressed",
    parse: |args, context| Ok(Action::Read(Query::Get { db: context.db, key: args.bytes()? }, View::Dump)),
    ..ROW
};

pub(crate) static RESTORE: Spec = Spec {
    name: "RESTORE",
    arity: Arity::AtLeast(4),
    flags: WRITES.with(Flags::DENYOOM).with(Flags::DANGEROUS),
    keys: KeyRange::one(1, &["OW", "update"]),
    reply: ReplyShape::Ok,
    since: "2.6.0",
    usage: "RESTORE key ttl serialized-value [REPLACE] [ABSTTL] [IDLETIME seconds] [FREQ frequency]",
    summary: "Sets a key to a value that DUMP gave, here or in Redis; ttl is in milliseconds, 0 is for ever",
    difference: "strings of any RDB version; the payload is checked before the key is looked at; IDLETIME and FREQ change \
                 nothing",
    parse: restore,
    ..ROW
};

fn restore(args: &mut Args<'_>, context: &Context) -> Parsed {
    let (key, ttl, payload) = (args.new_key(context)?, args.bytes()?, args.bytes()?);
    let (mut replaces, mut absolute, mut idle, mut frequency) = (false, false, false, false);
    while args.left() > 0 {
        if args.keyword("REPLACE") {
            replaces = true;
        } else if args.keyword("ABSTTL") {
            absolute = true;
        } else if args.left() >= 2 && !frequency && args.keyword("IDLETIME") {
            idle = true;
            if args.int()? < 0 {
                return Err(text("Invalid IDLETIME value, must be >= 0"));
            }
        } else if args.left() >= 2 && !idle && args.keyword("FREQ") {
            frequency = true;
            if !(0..=255).contains(&args.int()?) {
                return Err(text("Invalid FREQ value, must be >= 0 and <= 255"));
            }
        } else {
            return Err(CommandError::Syntax);
        }
    }
    let ttl = strict_int(&ttl).ok_or(CommandError::NotInteger)?;
    if ttl < 0 {
        return Err(text("Invalid TTL value, must be >= 0"));
    }
    let unit = if absolute { Deadline::AtMilliseconds } else { Deadline::Milliseconds };
    let expiry = if ttl == 0 { Some(Expiry::Never) } else { unit.expiry(ttl) };
    let expiry = expiry.ok_or_else(|| text("invalid expire time in 'restore' command"))?;
    let value = rdb::load(&payload, context.value_bytes_max).map_err(refused)?;
    let (condition, answer) = if replaces {
        (Condition::Always, WriteAnswer::Done)
    } else {
        (Condition::Missing, WriteAnswer::Claim)
    };
    update(context, key, Change::Write { value, expiry, condition, answer })
}

fn refused(refusal: rdb::Refusal) -> CommandError {
    match refusal {
        rdb::Refusal::Checksum => text("DUMP payload version or checksum are wrong"),
        rdb::Refusal::Format => text("Bad data format"),
        rdb::Refusal::Type(tag) => {
            text(&format!("Bad data format: the value has RDB type {tag}, and there are only strings (0)"))
        }
        rdb::Refusal::TooLong => too_long(),
    }
}

pub(crate) static MOVE: Spec = Spec {
    name: "MOVE",
    arity: Arity::Exactly(3),
    flags: WRITES.with(Flags::FAST),
    keys: KeyRange::one(1, &["RW", "access", "update"]),
    since: "1.0.0",
    usage: "MOVE key db",
    summary: "Moves a key to another database",
    parse: |args, context| {
        let (key, to_db) = (args.bytes()?, database(args.int()?, context)?);
        if to_db == context.db {
            return Err(text("source and destination objects are the same"));
        }
        let how = Transfer { removes: true, ..Transfer::default() };
        Ok(Action::Write(Op::Transfer { from_db: context.db, from: key.clone(), to_db, to: key, how }))
    },
    ..ROW
};

pub(crate) static RENAME: Spec = Spec {
    name: "RENAME",
    arity: Arity::Exactly(3),
    keys: KeyRange::one(1, &["RW", "access", "delete"]),
    more_keys: KeyRange::one(2, &["OW", "update"]),
    reply: ReplyShape::Ok,
    since: "1.0.0",
    usage: "RENAME key newkey",
    summary: "Renames a key; one of the new name is replaced",
    parse: |args, context| rename(args, context, true),
    ..ROW
};

pub(crate) static RENAMENX: Spec = Spec {
    name: "RENAMENX",
    arity: Arity::Exactly(3),
    flags: WRITES.with(Flags::FAST),
    keys: KeyRange::one(1, &["RW", "access", "delete"]),
    more_keys: KeyRange::one(2, &["OW", "insert"]),
    since: "1.0.0",
    usage: "RENAMENX key newkey",
    summary: "Renames a key unless the new name is taken",
    parse: |args, context| rename(args, context, false),
    ..ROW
};

fn rename(args: &mut Args<'_>, context: &Context, replaces: bool) -> Parsed {
    let (from, to) = (args.bytes()?, args.new_key(context)?);
    let how = Transfer { removes: true, replaces, must_exist: true };
    Ok(Action::Write(Op::Transfer { from_db: context.db, from, to_db: context.db, to, how }))
}

pub(crate) static SWAPDB: Spec = Spec {
    name: "SWAPDB",
    arity: Arity::Exactly(3),
    flags: WRITES.with(Flags::FAST).with(Flags::DANGEROUS),
    reply: ReplyShape::Ok,
    group: Group::Server,
    since: "4.0.0",
    usage: "SWAPDB index index",
    summary: "Exchanges the content of two databases",
    difference: "rewrites every key of both, so it takes time in proportion to them",
    parse: |args, context| {
        let index = |args: &mut Args<'_>, which: &str| {
            args.int().map_err(|_| text(&format!("invalid {which} DB index")))
        };
        let (one, two) = (index(args, "first")?, index(args, "second")?);
        Ok(Action::Write(Op::SwapDb { one: database(one, context)?, two: database(two, context)? }))
    },
    ..ROW
};

pub(crate) static TOUCH: Spec = Spec {
    name: "TOUCH",
    arity: Arity::AtLeast(2),
    flags: Flags::READONLY.with(Flags::FAST).with(Flags::KEYSPACE),
    keys: KeyRange::from(1, 1, &["RO"]),
    since: "3.2.1",
    usage: "TOUCH key [key ...]",
    summary: "Counts the keys that exist",
    difference: "no access times are kept",
    parse: |args, context| Ok(Action::Read(Query::Exists { db: context.db, keys: args.rest() }, View::Plain)),
    ..ROW
};
