//! Deadlines of keys: the EXPIRE family, TTL and its kin, PERSIST.

use super::args::{Deadline, printable};
use super::{
    Action, Args, Arity, CommandError, Context, Flags, Group, KeyRange, Parsed, ReplyShape, Spec, View,
};
use crate::store::change::ExpireRule;
use crate::store::{Change, Op, Query};

const WRITES: Flags = Flags::WRITE.with(Flags::FAST).with(Flags::KEYSPACE);

const EXPIRE_ROW: Spec = Spec {
    arity: Arity::AtLeast(3),
    flags: WRITES,
    keys: KeyRange::one(1, &["RW", "update"]),
    reply: ReplyShape::Integer,
    group: Group::Generic,
    ..Spec::ROW
};

pub(crate) static EXPIRE: Spec = Spec {
    name: "EXPIRE",
    since: "1.0.0",
    usage: "EXPIRE key seconds [NX|XX|GT|LT]",
    summary: "Sets the time after which a key expires, in seconds",
    parse: |args, context| expire(args, context, Deadline::Seconds, "expire"),
    ..EXPIRE_ROW
};

pub(crate) static PEXPIRE: Spec = Spec {
    name: "PEXPIRE",
    since: "2.6.0",
    usage: "PEXPIRE key milliseconds [NX|XX|GT|LT]",
    summary: "Sets the time after which a key expires, in milliseconds",
    parse: |args, context| expire(args, context, Deadline::Milliseconds, "pexpire"),
    ..EXPIRE_ROW
};

pub(crate) static EXPIREAT: Spec = Spec {
    name: "EXPIREAT",
    since: "1.2.0",
    usage: "EXPIREAT key unix-time-seconds [NX|XX|GT|LT]",
    summary: "Sets the moment at which a key expires, in seconds since 1970",
    parse: |args, context| expire(args, context, Deadline::AtSeconds, "expireat"),
    ..EXPIRE_ROW
};

pub(crate) static PEXPIREAT: Spec = Spec {
    name: "PEXPIREAT",
    since: "2.6.0",
    usage: "PEXPIREAT key unix-time-milliseconds [NX|XX|GT|LT]",
    summary: "Sets the moment at which a key expires, in milliseconds since 1970",
    parse: |args, context| expire(args, context, Deadline::AtMilliseconds, "pexpireat"),
    ..EXPIRE_ROW
};

fn expire(args: &mut Args<'_>, context: &Context, unit: Deadline, command: &str) -> Parsed {
    let (key, number) = (args.bytes()?, args.bytes()?);
    // Redis looks at the options before the number.
    let rule = rule(args)?;
    let number = super::args::strict_int(&number).ok_or(CommandError::NotInteger)?;
    let expiry = unit
        .expiry(number)
        .ok_or_else(|| CommandError::Text(format!("ERR invalid expire time in '{command}' command")))?;
    Ok(Action::Write(Op::Update { db: context.db, key, change: Change::Expire { expiry, rule } }))
}

fn rule(args: &mut Args<'_>) -> Result<ExpireRule, CommandError> {
    let mut rule = ExpireRule::default();
    let text = |text: &str| CommandError::Text(format!("ERR {text}"));
    while let Some(word) = args.peek() {
        if args.keyword("NX") {
            rule.missing = true;
        } else if args.keyword("XX") {
            rule.present = true;
        } else if args.keyword("GT") {
            rule.later = true;
        } else if args.keyword("LT") {
            rule.earlier = true;
        } else {
            return Err(text(&format!("Unsupported option {}", printable(word))));
        }
    }
    if rule.missing && (rule.present || rule.later || rule.earlier) {
        return Err(text("NX and XX, GT or LT options at the same time are not compatible"));
    }
    if rule.later && rule.earlier {
        return Err(text("GT and LT options at the same time are not compatible"));
    }
    Ok(rule)
}

pub(crate) static PERSIST: Spec = Spec {
    name: "PERSIST",
    arity: Arity::Exactly(2),
    since: "2.2.0",
    usage: "PERSIST key",
    summary: "Removes the deadline of a key",
    parse: |args, context| {
        let (db, key) = (context.db, args.bytes()?);
        Ok(Action::Write(Op::Update { db, key, change: Change::Persist }))
    },
    ..EXPIRE_ROW
};

const TTL_ROW: Spec = Spec {
    arity: Arity::Exactly(2),
    flags: Flags::READONLY.with(Flags::FAST).with(Flags::KEYSPACE),
    keys: KeyRange::one(1, &["RO", "access"]),
    reply: ReplyShape::Integer,
    group: Group::Generic,
    ..Spec::ROW
};

pub(crate) static TTL: Spec = Spec {
    name: "TTL",
    since: "1.0.0",
    usage: "TTL key",
    summary: "Returns the seconds until a key expires, -1 if it does not, -2 if it is missing",
    parse: |args, context| deadline(args, context, true, false),
    ..TTL_ROW
};

pub(crate) static PTTL: Spec = Spec {
    name: "PTTL",
    since: "2.6.0",
    usage: "PTTL key",
    summary: "Returns the milliseconds until a key expires, -1 if it does not, -2 if it is missing",
    parse: |args, context| deadline(args, context, false, false),
    ..TTL_ROW
};

pub(crate) static EXPIRETIME: Spec = Spec {
    name: "EXPIRETIME",
    since: "7.0.0",
    usage: "EXPIRETIME key",
    summary: "Returns the moment at which a key expires in seconds since 1970, -1 if never, -2 if it is missing",
    parse: |args, context| deadline(args, context, true, true),
    ..TTL_ROW
};

pub(crate) static PEXPIRETIME: Spec = Spec {
    name: "PEXPIRETIME",
    since: "7.0.0",
    usage: "PEXPIRETIME key",
    summary: "Returns the moment at which a key expires in milliseconds since 1970, -1 if never, -2 if it is missing",
    parse: |args, context| deadline(args, context, false, true),
    ..TTL_ROW
};

fn deadline(args: &mut Args<'_>, context: &Context, seconds: bool, absolute: bool) -> Parsed {
    let query = Query::Deadline { db: context.db, key: args.bytes()? };
    Ok(Action::Read(query, View::Deadline { seconds, absolute }))
}
