//! Messages: SUBSCRIBE and its kin, PUBLISH, PUBSUB.
//!
//! The shard channels of Redis Cluster are a space of names of their own; there is one shard, so they reach as far as the
//! others.

use bytes::Bytes;

use super::spec::Channels;
use super::{Action, Args, Arity, CommandError, Context, Flags, Group, KeyRange, Parsed, ReplyShape, Spec};

/// What a name that is listened to means.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// A channel.
    Channel,
    /// A glob over channels.
    Pattern,
    /// A shard channel.
    Shard,
}

impl Kind {
    /// All, in the order of their values.
    pub const ALL: [Self; 3] = [Self::Channel, Self::Pattern, Self::Shard];
}

/// What a messaging command asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PubSubOp {
    /// SUBSCRIBE, PSUBSCRIBE and SSUBSCRIBE.
    Subscribe {
        /// What the names mean.
        kind: Kind,
        /// Channels or patterns.
        names: Vec<Bytes>,
    },
    /// UNSUBSCRIBE, PUNSUBSCRIBE and SUNSUBSCRIBE; without names, from all.
    Unsubscribe {
        /// What the names mean.
        kind: Kind,
        /// Channels or patterns.
        names: Vec<Bytes>,
    },
    /// PUBLISH and SPUBLISH.
    Publish {
        /// To the listeners of a shard channel.
        to_shard: bool,
        /// Channel.
        channel: Bytes,
        /// Message.
        message: Bytes,
    },
    /// PUBSUB CHANNELS and SHARDCHANNELS.
    Channels(Kind, Option<Bytes>),
    /// PUBSUB NUMSUB and SHARDNUMSUB.
    Subscribers(Kind, Vec<Bytes>),
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
    parse: |args, _| subscribe(args, Kind::Channel),
    ..ROW
};

pub(crate) static PSUBSCRIBE: Spec = Spec {
    name: "PSUBSCRIBE",
    channels: Channels::Patterns,
    usage: "PSUBSCRIBE pattern [pattern ...]",
    summary: "Listens to the channels that match a glob",
    difference: "not inside MULTI",
    parse: |args, _| subscribe(args, Kind::Pattern),
    ..ROW
};

fn subscribe(args: &mut Args<'_>, kind: Kind) -> Parsed {
    Ok(Action::PubSub(PubSubOp::Subscribe { kind, names: args.rest() }))
}

/// What the rows of shard channels share. A cluster client sends them to the node of the channel's slot.
const SHARD: Spec = Spec { since: "7.0.0", keys: KeyRange::from(1, 1, &["not_key"]), ..ROW };

pub(crate) static SSUBSCRIBE: Spec = Spec {
    name: "SSUBSCRIBE",
    channels: Channels::Listened,
    usage: "SSUBSCRIBE shardchannel [shardchannel ...]",
    summary: "Listens to shard channels, on whichever node they are published",
    difference: "there is one shard: all nodes; not inside MULTI",
    parse: |args, _| subscribe(args, Kind::Shard),
    ..SHARD
};

pub(crate) static SUNSUBSCRIBE: Spec = Spec {
    name: "SUNSUBSCRIBE",
    arity: Arity::AtLeast(1),
    usage: "SUNSUBSCRIBE [shardchannel [shardchannel ...]]",
    summary: "Stops to listen to shard channels, or to all",
    difference: "not inside MULTI",
    parse: |args, _| Ok(Action::PubSub(PubSubOp::Unsubscribe { kind: Kind::Shard, names: args.rest() })),
    ..SHARD
};

pub(crate) static SPUBLISH: Spec = Spec {
    name: "SPUBLISH",
    channels: Channels::Published,
    arity: Arity::Exactly(3),
    keys: KeyRange::one(1, &["not_key"]),
    flags: Flags::ALWAYS.with(Flags::FAST).with(Flags::PUBSUB),
    reply: ReplyShape::Integer,
    usage: "SPUBLISH shardchannel message",
    summary: "Sends a message to the subscribers of a shard channel on all nodes, at most once",
    difference: "returns the number of receivers on this node",
    parse: |args, context| publish(args, context, true),
    ..SHARD
};

pub(crate) static UNSUBSCRIBE: Spec = Spec {
    name: "UNSUBSCRIBE",
    arity: Arity::AtLeast(1),
    usage: "UNSUBSCRIBE [channel [channel ...]]",
    summary: "Stops to listen to channels, or to all",
    difference: "not inside MULTI",
    parse: |args, _| Ok(Action::PubSub(PubSubOp::Unsubscribe { kind: Kind::Channel, names: args.rest() })),
    ..ROW
};

pub(crate) static PUNSUBSCRIBE: Spec = Spec {
    name: "PUNSUBSCRIBE",
    arity: Arity::AtLeast(1),
    usage: "PUNSUBSCRIBE [pattern [pattern ...]]",
    summary: "Stops to listen to patterns, or to all",
    difference: "not inside MULTI",
    parse: |args, _| Ok(Action::PubSub(PubSubOp::Unsubscribe { kind: Kind::Pattern, names: args.rest() })),
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
    parse: |args, context| publish(args, context, false),
    ..ROW
};

fn publish(args: &mut Args<'_>, context: &Context, to_shard: bool) -> Parsed {
    let (channel, message) = (args.bytes()?, args.bytes()?);
    if message.len() as u64 > context.value_bytes_max {
        return Err(CommandError::Text("ERR the message is too large".to_owned()));
    }
    Ok(Action::PubSub(PubSubOp::Publish { to_shard, channel, message }))
}

pub(crate) static PUBSUB: Spec = Spec {
    name: "PUBSUB",
    group: Group::PubSub,
    since: "2.8.0",
    usage: "PUBSUB subcommand",
    summary: "Container of the questions about subscribers",
    subcommands: &[
        &PUBSUB_CHANNELS,
        &PUBSUB_HELP,
        &PUBSUB_NUMPAT,
        &PUBSUB_NUMSUB,
        &PUBSUB_SHARDCHANNELS,
        &PUBSUB_SHARDNUMSUB,
    ],
    ..Spec::CONTAINER
};

const SUB: Spec = Spec {
    flags: Flags::ALWAYS.with(Flags::PUBSUB),
    reply: ReplyShape::Array,
    group: Group::PubSub,
    since: "2.8.0",
    difference: "of all members that can be reached; in a Redis Cluster of one node",
    ..Spec::ROW
};

static PUBSUB_CHANNELS: Spec = Spec {
    name: "PUBSUB|CHANNELS",
    arity: Arity::AtLeast(2),
    usage: "PUBSUB CHANNELS [pattern]",
    summary: "Lists the channels that have subscribers",
    parse: |args, _| channels(args, Kind::Channel),
    ..SUB
};

fn channels(args: &mut Args<'_>, kind: Kind) -> Parsed {
    let pattern = if args.left() > 0 { Some(args.bytes()?) } else { None };
    args.finish()?;
    Ok(Action::PubSub(PubSubOp::Channels(kind, pattern)))
}

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
    parse: |args, _| Ok(Action::PubSub(PubSubOp::Subscribers(Kind::Channel, args.rest()))),
    ..SUB
};

static PUBSUB_SHARDCHANNELS: Spec = Spec {
    name: "PUBSUB|SHARDCHANNELS",
    arity: Arity::AtLeast(2),
    since: "7.0.0",
    usage: "PUBSUB SHARDCHANNELS [pattern]",
    summary: "Lists the shard channels that have subscribers",
    parse: |args, _| channels(args, Kind::Shard),
    ..SUB
};

static PUBSUB_SHARDNUMSUB: Spec = Spec {
    name: "PUBSUB|SHARDNUMSUB",
    arity: Arity::AtLeast(2),
    since: "7.0.0",
    usage: "PUBSUB SHARDNUMSUB [shardchannel [shardchannel ...]]",
    summary: "Counts the subscribers of shard channels",
    parse: |args, _| Ok(Action::PubSub(PubSubOp::Subscribers(Kind::Shard, args.rest()))),
    ..SUB
};
