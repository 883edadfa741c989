//! Commands on string values: SET GET MSET MGET STRLEN DELIF.

use bytes::Bytes;

use super::{
    Action, Args, Arity, CommandError, Context, Flags, Group, KeyRange, Parsed, ReplyShape, Spec, View,
};
use crate::store::{Op, Query};

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
    keys: KeyRange::one(1, &["OW", "update"]),
    reply: ReplyShape::Ok,
    group: Group::String,
    since: "1.0.0",
    usage: "SET key value",
    summary: "Sets the value of a key",
    difference: "no options yet: they are a syntax error",
    parse: set,
    ..Spec::ROW
};

fn set(args: &mut Args<'_>, context: &Context) -> Parsed {
    let (key, value) = (args.new_key(context)?, args.bytes()?);
    args.finish()?;
    Ok(Action::Write(Op::Set { db: context.db, key, value, deadline: None }))
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
    if !args.left().is_multiple_of(2) {
        return Err(args.arity());
    }
    let mut pairs: Vec<(Bytes, Bytes)> = Vec::with_capacity(args.left() / 2);
    while args.left() > 0 {
        pairs.push((args.new_key(context)?, args.bytes()?));
    }
    Ok(Action::Write(Op::MSet { db: context.db, pairs }))
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
