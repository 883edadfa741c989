//! Transactions: MULTI EXEC DISCARD WATCH UNWATCH. What stands between MULTI and EXEC is one entry of the log.

use super::{Action, Arity, Flags, Group, KeyRange, ReplyShape, SessionOp, Spec};

const ROW: Spec = Spec {
    arity: Arity::Exactly(1),
    flags: Flags::ALWAYS.with(Flags::NOSCRIPT).with(Flags::FAST).with(Flags::TRANSACTION),
    reply: ReplyShape::Ok,
    group: Group::Transactions,
    ..Spec::ROW
};

pub(crate) static MULTI: Spec = Spec {
    name: "MULTI",
    since: "1.2.0",
    usage: "MULTI",
    summary: "Begins a transaction",
    parse: |_, _| Ok(Action::Session(SessionOp::Multi)),
    ..ROW
};

pub(crate) static EXEC: Spec = Spec {
    name: "EXEC",
    flags: Flags::ALWAYS.with(Flags::NOSCRIPT).with(Flags::TRANSACTION),
    reply: ReplyShape::ArrayOrNil,
    since: "1.2.0",
    usage: "EXEC",
    summary: "Performs the commands of a transaction, all at once and at one time, unless a watched key changed",
    parse: |_, _| Ok(Action::Session(SessionOp::Exec)),
    ..ROW
};

pub(crate) static DISCARD: Spec = Spec {
    name: "DISCARD",
    since: "2.0.0",
    usage: "DISCARD",
    summary: "Gives up a transaction",
    parse: |_, _| Ok(Action::Session(SessionOp::Discard)),
    ..ROW
};

pub(crate) static WATCH: Spec = Spec {
    name: "WATCH",
    arity: Arity::AtLeast(2),
    flags: Flags::NOSCRIPT.with(Flags::FAST).with(Flags::NO_MULTI).with(Flags::TRANSACTION),
    keys: KeyRange::from(1, 1, &["RO"]),
    since: "2.2.0",
    usage: "WATCH key [key ...]",
    summary: "Lets the next EXEC fail if one of these keys has changed by then",
    difference: "a missing key that came and went again has not changed",
    parse: |args, context| {
        Ok(Action::Session(SessionOp::Watch(args.rest().into_iter().map(|key| (context.db, key)).collect())))
    },
    ..ROW
};

pub(crate) static UNWATCH: Spec = Spec {
    name: "UNWATCH",
    since: "2.2.0",
    usage: "UNWATCH",
    summary: "Forgets the watched keys",
    parse: |_, _| Ok(Action::Session(SessionOp::Unwatch)),
    ..ROW
};
