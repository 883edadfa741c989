//! Compare-and-act in one step, for locks and caches: DELEX, DELIFEQ, DIGEST, MSETEX (SET IFEQ is in `string.rs`).

use super::string::{READ_ROW, WRITE_ROW, update};
use super::{Action, Args, Arity, CommandError, Context, Flags, KeyRange, Parsed, ReplyShape, Spec, View};
use crate::store::change::WriteAnswer;
use crate::store::{Change, Condition, Expiry, Op, Query};

const REMOVES: Flags = Flags::WRITE.with(Flags::FAST).with(Flags::STRING);

pub(crate) static DELEX: Spec = Spec {
    name: "DELEX",
    arity: Arity::AtLeast(2),
    flags: REMOVES,
    keys: KeyRange::one(1, &["RW", "access", "delete"]),
    since: "8.4.0",
    usage: "DELEX key [IFEQ match-value] [IFNE match-value] [IFDEQ digest] [IFDNE digest]",
    summary: "Deletes a key if a condition holds of its value",
    parse: |args, context| {
        let key = args.bytes()?;
        let condition = args.comparison()?.unwrap_or(Condition::Always);
        args.finish()?;
        update(context, key, Change::Remove { condition, answer: WriteAnswer::Count })
    },
    ..WRITE_ROW
};

pub(crate) static DELIFEQ: Spec = Spec {
    name: "DELIFEQ",
    arity: Arity::Exactly(3),
    flags: REMOVES,
    keys: KeyRange::one(1, &["RW", "access", "delete"]),
    since: "9.0.0",
    usage: "DELIFEQ key value",
    summary: "Deletes a key that has this value",
    difference: "from Valkey 9.0",
    parse: |args, context| {
        let (key, condition) = (args.bytes()?, Condition::Equals(args.bytes()?));
        update(context, key, Change::Remove { condition, answer: WriteAnswer::Count })
    },
    ..WRITE_ROW
};

pub(crate) static DIGEST: Spec = Spec {
    name: "DIGEST",
    arity: Arity::Exactly(2),
    flags: Flags::READONLY.with(Flags::FAST).with(Flags::STRING),
    reply: ReplyShape::BulkOrNil,
    since: "8.4.0",
    usage: "DIGEST key",
    summary: "Returns the XXH3 digest of a value, 16 hex digits",
    parse: |args, context| Ok(Action::Read(Query::Get { db: context.db, key: args.bytes()? }, View::Digest)),
    ..READ_ROW
};

pub(crate) static MSETEX: Spec = Spec {
    name: "MSETEX",
    arity: Arity::AtLeast(4),
    keys: KeyRange::counted(2, 2, &["OW", "update"]),
    since: "8.4.0",
    usage: "MSETEX numkeys key value [key value ...] [NX|XX] [EX seconds] [PX milliseconds] [EXAT unix-time-seconds] \
            [PXAT unix-time-milliseconds] [KEEPTTL]",
    summary: "Sets keys to values with one deadline, all at once, if all or none of them exist",
    parse: msetex,
    ..WRITE_ROW
};

fn msetex(args: &mut Args<'_>, context: &Context) -> Parsed {
    let invalid = || CommandError::Text("ERR invalid numkeys value".to_owned());
    let count = args.int().ok().and_then(|count| usize::try_from(count).ok()).filter(|count| *count > 0);
    let count = count.ok_or_else(invalid)?;
    if args.left() / 2 < count {
        return Err(CommandError::Text("ERR wrong number of key-value pairs".to_owned()));
    }
    let mut pairs = Vec::with_capacity(count);
    for _ in 0..count {
        pairs.push((args.new_key(context)?, args.bytes()?));
    }
    let (mut condition, mut expiry) = (None, None);
    while args.left() > 0 {
        if condition.is_none() && args.keyword("NX") {
            condition = Some(Condition::Missing);
        } else if condition.is_none() && args.keyword("XX") {
            condition = Some(Condition::Present);
        } else {
            let keep = args.keyword("KEEPTTL");
            let found =
                if keep { Expiry::Keep } else { args.expiry("msetex")?.ok_or(CommandError::Syntax)? };
            if expiry.replace(found).is_some() {
                return Err(CommandError::Syntax);
            }
        }
    }
    let (condition, expiry) = (condition.unwrap_or(Condition::Always), expiry.unwrap_or(Expiry::Never));
    Ok(Action::Write(Op::MSetIf { db: context.db, pairs, condition, expiry }))
}
