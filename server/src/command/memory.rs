//! MEMORY: what keys and this node take. Parsing only; see `dispatch::memory`.

use super::server::QUESTION;
use super::{
    Action, Args, Arity, CommandError, Context, Flags, KeyRange, NodeOp, Parsed, ReplyShape, Spec, View,
};
use crate::resp::Reply;
use crate::store::Query;

/// What a MEMORY subcommand asks of the node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MemoryOp {
    /// MEMORY DOCTOR.
    Doctor,
    /// MEMORY STATS.
    Stats,
}

pub(crate) static MEMORY: Spec = Spec {
    name: "MEMORY",
    since: "4.0.0",
    usage: "MEMORY subcommand",
    summary: "Container of commands on memory",
    subcommands: &[
        &MEMORY_DOCTOR,
        &MEMORY_HELP,
        &MEMORY_MALLOC_STATS,
        &MEMORY_PURGE,
        &MEMORY_STATS,
        &MEMORY_USAGE,
    ],
    ..Spec::CONTAINER
};

/// What the rows share.
const ROW: Spec = Spec { arity: Arity::Exactly(2), since: "4.0.0", ..QUESTION };

static MEMORY_DOCTOR: Spec = Spec {
    name: "MEMORY|DOCTOR",
    reply: ReplyShape::Bulk,
    usage: "MEMORY DOCTOR",
    summary: "Compares what this node takes with what it is configured to take",
    difference: "in our words: the data is on disk, memory holds caches",
    parse: |_, _| Ok(Action::Node(NodeOp::Memory(MemoryOp::Doctor))),
    ..ROW
};

static MEMORY_HELP: Spec = Spec {
    name: "MEMORY|HELP",
    reply: ReplyShape::Array,
    usage: "MEMORY HELP",
    summary: "Prints this help",
    parse: |_, _| Ok(Action::Reply(super::help(&MEMORY))),
    ..ROW
};

static MEMORY_MALLOC_STATS: Spec = Spec {
    name: "MEMORY|MALLOC-STATS",
    reply: ReplyShape::Bulk,
    usage: "MEMORY MALLOC-STATS",
    summary: "Says that the allocator tells nothing",
    difference: "always the same",
    parse: |_, _| Ok(Action::Reply(Reply::Bulk("Stats not supported for the current allocator".into()))),
    ..ROW
};

static MEMORY_PURGE: Spec = Spec {
    name: "MEMORY|PURGE",
    usage: "MEMORY PURGE",
    summary: "Does nothing: the allocator gives memory back by itself",
    difference: "always the same",
    parse: |_, _| Ok(Action::Reply(Reply::Ok)),
    ..ROW
};

static MEMORY_STATS: Spec = Spec {
    name: "MEMORY|STATS",
    reply: ReplyShape::Map,
    usage: "MEMORY STATS",
    summary: "Returns what this node takes, in bytes",
    difference: "a fact that is not known is left out; dataset.bytes are on disk; the limits of the caches are ours",
    parse: |_, _| Ok(Action::Node(NodeOp::Memory(MemoryOp::Stats))),
    ..ROW
};

static MEMORY_USAGE: Spec = Spec {
    name: "MEMORY|USAGE",
    arity: Arity::AtLeast(3),
    flags: Flags::READONLY,
    keys: KeyRange::one(2, &["RO"]),
    reply: ReplyShape::IntegerOrNil,
    since: "4.0.0",
    usage: "MEMORY USAGE key [SAMPLES count]",
    summary: "Returns about how many bytes a key and its value take, before compression",
    difference: "bytes on disk, not in memory",
    parse: memory_usage,
    ..Spec::ROW
};

fn memory_usage(args: &mut Args<'_>, context: &Context) -> Parsed {
    let key = args.bytes()?;
    if args.keyword("SAMPLES") && args.int()? < 0 {
        return Err(CommandError::Syntax);
    }
    args.finish()?;
    let view = View::Memory(key.len());
    Ok(Action::Read(Query::Get { db: context.db, key }, view))
}
