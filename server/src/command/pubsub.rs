//! Messages: SUBSCRIBE and its kin, PUBLISH, PUBSUB.

use bytes::Bytes;

use super::spec::Channels;
use super::{Action, Args, Arity, CommandError, Flags, Group, Parsed, ReplyShape, Spec};

/// What a messaging command asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PubSubOp {
    /// SUBSCRIBE and PSUBSCRIBE.
    Subscribe {
        /// Names are globs.
        patterns: bool,
        /// Channels or patterns.
        names: Vec<Bytes>,
    },
    /// UNSUBSCRIBE and PUNSUBSCRIBE; without names, from all.
    Unsubscribe {
        /// Names are globs.
        patterns: bool,
        /// Channels or patterns.
        names: Vec<Bytes>,
    },
    /// PUBLISH.
    Publish {
        /// Channel.
        channel: Bytes,
        /// Message.
        message: Bytes,
    },
    /// PUBSUB CHANNELS.
    Channels(Option<Bytes>),
    /// PUBSUB NUMSUB.
    Subscribers(Vec<Bytes>),
    /// PUBSUB NUMPAT.
    Patterns,
}

const ROW: Spec = Spec {
    arity: Arity::AtLeast(2),
    flags: Flags::ALWAYS.with(Flags::NOSCRIPT).with(Flags::NO_MULTI).with(Flags::PUBSUB),
    // One push per name, which takes the place of a reply.
    reply: ReplyShape::Any,
    group: Group::PubSub,
    since: "2.0.0",
    ..Spec::ROW
};

pub(crate) static SUBSCRIBE: Spec = Spec {
    name: "SUBSCRIBE",
    channels: Channels::Listened,
    usage: "SUBSCRIBE channel [channel ...]",
    summary: "Listens to channels, on whichever node they are published",
    difference: "not inside MULTI",
    parse: |args, _| subscribe(args, false),
    ..ROW
};

pub(crate) static PSUBSCRIBE: Spec = Spec {
    name: "PSUBSCRIBE",
    channels: Channels::Patterns,
    usage: "PSUBSCRIBE pattern [pattern ...]",
    summary: "Listens to the channels that match a glob",
    difference: "not inside MULTI",
    parse: |args, _| subscribe(args, true),
    ..ROW
};

fn subscribe(args: &mut Args<'_>, patterns: bool) -> Parsed {
    Ok(Action::PubSub(PubSubOp::Subscribe { patterns, names: args.rest() }))
}

pub(crate) static UNSUBSCRIBE: Spec = Spec {
    name: "UNSUBSCRIBE",
    arity: Arity::AtLeast(1),
    usage: "UNSUBSCRIBE [channel [channel ...]]",
    summary: "Stops to listen to channels, or to all",
    difference: "not inside MULTI",
    parse: |args, _| Ok(Action::PubSub(PubSubOp::Unsubscribe { patterns: false, names: args.rest() })),
    ..ROW
};

pub(crate) static PUNSUBSCRIBE: Spec = Spec {
    name: "PUNSUBSCRIBE",
    arity: Arity::AtLeast(1),
    usage: "PUNSUBSCRIBE [pattern [pattern ...]]",
    summary: "Stops to listen to patterns, or to all",
    difference: "not inside MULTI",
    parse: |args, _| Ok(Action::PubSub(PubSubOp::Unsubscribe { patterns: true, names: args.rest() })),
    ..ROW
};

pub(crate) static PUBLISH: Spec = Spec {
    name: "PUBLISH",
    channels: Channels::Published,
    arity: Arity::Exactly(3),
    flags: Flags::ALWAYS.with(Flags::FAST).with(Flags::PUBSUB),
    reply: ReplyShape::Integer,
    usage: "PUBLISH channel message",
    summary: "Sends a message to the subscribers of a channel on all nodes, at most once",
    difference: "returns the number of receivers on this node, as in a Redis Cluster",
    parse: |args, context| {
        let (channel, message) = (args.bytes()?, args.bytes()?);
        if message.len() as u64 > context.value_bytes_max {
            return Err(CommandError::Text("ERR the message is too large".to_owned()));
        }
        Ok(Action::PubSub(PubSubOp::Publish { channel, message }))
    },
    ..ROW
};

pub(crate) static PUBSUB: Spec = Spec {
    name: "PUBSUB",
    group: Group::PubSub,
    since: "2.8.0",
    usage: "PUBSUB subcommand",
    summary: "Container of the questions about this node's subscribers",
    subcommands: &[&PUBSUB_CHANNELS, &PUBSUB_HELP, &PUBSUB_NUMPAT, &PUBSUB_NUMSUB],
    ..Spec::CONTAINER
};

const SUB: Spec = Spec {
    flags: Flags::ALWAYS.with(Flags::PUBSUB),
    reply: ReplyShape::Array,
    group: Group::PubSub,
    since: "2.8.0",
    difference: "of this node, as in a Redis Cluster",
    ..Spec::ROW
};

static PUBSUB_CHANNELS: Spec = Spec {
    name: "PUBSUB|CHANNELS",
    arity: Arity::AtLeast(2),
    usage: "PUBSUB CHANNELS [pattern]",
    summary: "Lists the channels that have subscribers",
    parse: |args, _| {
        let pattern = if args.left() > 0 { Some(args.bytes()?) } else { None };
        args.finish()?;
        Ok(Action::PubSub(PubSubOp::Channels(pattern)))
    },
    ..SUB
};

static PUBSUB_HELP: Spec = Spec {
    name: "PUBSUB|HELP",
    arity: Arity::Exactly(2),
    flags: Flags::ALWAYS,
    since: "6.2.0",
    usage: "PUBSUB HELP",
    summary: "Prints this help",
    difference: "",
    parse: |_, _| Ok(Action::Reply(super::help(&PUBSUB))),
    ..SUB
};

static PUBSUB_NUMPAT: Spec = Spec {
    name: "PUBSUB|NUMPAT",
    arity: Arity::Exactly(2),
    reply: ReplyShape::Integer,
    usage: "PUBSUB NUMPAT",
    summary: "Counts the patterns that are listened to",
    parse: |_, _| Ok(Action::PubSub(PubSubOp::Patterns)),
    ..SUB
};

static PUBSUB_NUMSUB: Spec = Spec {
    name: "PUBSUB|NUMSUB",
    arity: Arity::AtLeast(2),
    usage: "PUBSUB NUMSUB [channel [channel ...]]",
    summary: "Counts the subscribers of channels",
    parse: |args, _| Ok(Action::PubSub(PubSubOp::Subscribers(args.rest()))),
    ..SUB
};
