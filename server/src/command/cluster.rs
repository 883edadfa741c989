//! CLUSTER: the Redis Cluster view of the group, one shard with all slots.

use bytes::Bytes;

use super::{Action, Args, Arity, CommandError, Flags, Group, NodeOp, Parsed, ReplyShape, Spec, slot};

/// CLUSTER subcommands that are answered with `--redirect moved`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClusterOp {
    /// CLUSTER INFO.
    Info,
    /// CLUSTER MYID.
    MyId,
    /// CLUSTER MYSHARDID.
    MyShardId,
    /// CLUSTER SLOTS.
    Slots,
    /// CLUSTER SHARDS.
    Shards,
    /// CLUSTER NODES.
    Nodes,
    /// CLUSTER REPLICAS of the node with this id.
    Replicas(Bytes),
    /// CLUSTER LINKS.
    Links,
    /// CLUSTER COUNT-FAILURE-REPORTS of the node with this id.
    FailureReports(Bytes),
    /// CLUSTER KEYSLOT.
    KeySlot(Bytes),
    /// CLUSTER COUNTKEYSINSLOT.
    CountKeys(u16),
    /// CLUSTER GETKEYSINSLOT.
    GetKeys {
        /// Slot.
        slot: u16,
        /// Keys at most.
        count: usize,
    },
    /// One that would change the cluster.
    Refused,
}

pub(crate) static CLUSTER: Spec = Spec {
    name: "CLUSTER",
    group: Group::Cluster,
    since: "3.0.0",
    usage: "CLUSTER subcommand",
    summary: "Container of the Redis Cluster view, answered with --redirect moved",
    difference: "one range of slots, owned by the leader; refused unless --redirect is moved",
    subcommands: &[
        &ADDSLOTS,
        &ADDSLOTSRANGE,
        &BUMPEPOCH,
        &COUNT_FAILURE_REPORTS,
        &COUNTKEYSINSLOT,
        &DELSLOTS,
        &DELSLOTSRANGE,
        &FAILOVER,
        &FLUSHSLOTS,
        &FORGET,
        &GETKEYSINSLOT,
        &HELP,
        &INFO,
        &KEYSLOT,
        &LINKS,
        &MEET,
        &MYID,
        &MYSHARDID,
        &NODES,
        &REPLICAS,
        &REPLICATE,
        &RESET,
        &SAVECONFIG,
        &SET_CONFIG_EPOCH,
        &SETSLOT,
        &SHARDS,
        &SLAVES,
        &SLOTS,
    ],
    ..Spec::CONTAINER
};

/// What the rows share.
const ROW: Spec = Spec {
    arity: Arity::Exactly(2),
    flags: Flags::ALWAYS,
    group: Group::Cluster,
    since: "3.0.0",
    difference: "refused unless --redirect is moved",
    ..Spec::ROW
};

/// What the rows share that would change the cluster.
const REFUSED: Spec = Spec {
    arity: Arity::AtLeast(2),
    flags: Flags::ADMIN_ALWAYS,
    summary: "Refused: members change by RAFTADDPEER and RAFTREMOVEPEER, the leader by RAFTTRANSFER",
    difference: "always refused",
    parse: |_, _| cluster(ClusterOp::Refused),
    ..ROW
};

static ADDSLOTS: Spec = Spec {
    name: "CLUSTER|ADDSLOTS",
    arity: Arity::AtLeast(3),
    usage: "CLUSTER ADDSLOTS slot [slot ...]",
    ..REFUSED
};

static ADDSLOTSRANGE: Spec = Spec {
    name: "CLUSTER|ADDSLOTSRANGE",
    arity: Arity::AtLeast(4),
    since: "7.0.0",
    usage: "CLUSTER ADDSLOTSRANGE start-slot end-slot [start-slot end-slot ...]",
    ..REFUSED
};

static BUMPEPOCH: Spec =
    Spec { name: "CLUSTER|BUMPEPOCH", arity: Arity::Exactly(2), usage: "CLUSTER BUMPEPOCH", ..REFUSED };

static COUNT_FAILURE_REPORTS: Spec = Spec {
    name: "CLUSTER|COUNT-FAILURE-REPORTS",
    arity: Arity::Exactly(3),
    flags: Flags::ADMIN_ALWAYS,
    reply: ReplyShape::Integer,
    usage: "CLUSTER COUNT-FAILURE-REPORTS node-id",
    summary: "Returns 0: no node reports the failure of another one",
    difference: "always 0; refused unless --redirect is moved",
    parse: |args, _| cluster(ClusterOp::FailureReports(args.bytes()?)),
    ..ROW
};

static COUNTKEYSINSLOT: Spec = Spec {
    name: "CLUSTER|COUNTKEYSINSLOT",
    arity: Arity::Exactly(3),
    flags: Flags::NONE,
    reply: ReplyShape::Integer,
    usage: "CLUSTER COUNTKEYSINSLOT slot",
    summary: "Counts the keys of a hash slot",
    difference: "walks all keys; refused unless --redirect is moved",
    parse: |args, _| cluster(ClusterOp::CountKeys(slot_number(args)?)),
    ..ROW
};

static DELSLOTS: Spec = Spec {
    name: "CLUSTER|DELSLOTS",
    arity: Arity::AtLeast(3),
    usage: "CLUSTER DELSLOTS slot [slot ...]",
    ..REFUSED
};

static DELSLOTSRANGE: Spec = Spec {
    name: "CLUSTER|DELSLOTSRANGE",
    arity: Arity::AtLeast(4),
    since: "7.0.0",
    usage: "CLUSTER DELSLOTSRANGE start-slot end-slot [start-slot end-slot ...]",
    ..REFUSED
};

static FAILOVER: Spec =
    Spec { name: "CLUSTER|FAILOVER", usage: "CLUSTER FAILOVER [FORCE|TAKEOVER]", ..REFUSED };

static FLUSHSLOTS: Spec =
    Spec { name: "CLUSTER|FLUSHSLOTS", arity: Arity::Exactly(2), usage: "CLUSTER FLUSHSLOTS", ..REFUSED };

static FORGET: Spec =
    Spec { name: "CLUSTER|FORGET", arity: Arity::Exactly(3), usage: "CLUSTER FORGET node-id", ..REFUSED };

static GETKEYSINSLOT: Spec = Spec {
    name: "CLUSTER|GETKEYSINSLOT",
    arity: Arity::Exactly(4),
    flags: Flags::NONE,
    reply: ReplyShape::Array,
    usage: "CLUSTER GETKEYSINSLOT slot count",
    summary: "Returns keys of a hash slot",
    difference: "walks the keys until it has enough; refused unless --redirect is moved",
    parse: |args, _| {
        let slot = slot_number(args)?;
        let count = args.int()?;
        let count = usize::try_from(count).map_err(|_| text("Invalid number of keys"))?;
        cluster(ClusterOp::GetKeys { slot, count })
    },
    ..ROW
};

static HELP: Spec = Spec {
    name: "CLUSTER|HELP",
    reply: ReplyShape::Array,
    since: "5.0.0",
    usage: "CLUSTER HELP",
    summary: "Prints this help",
    parse: |_, _| Ok(Action::Reply(super::help(&CLUSTER))),
    ..ROW
};

static INFO: Spec = Spec {
    name: "CLUSTER|INFO",
    reply: ReplyShape::Bulk,
    usage: "CLUSTER INFO",
    summary: "Returns facts of the group in the words of Redis Cluster",
    difference: "the epoch is the Raft term; no messages of a cluster bus are counted; refused unless --redirect is moved",
    parse: |_, _| cluster(ClusterOp::Info),
    ..ROW
};

static KEYSLOT: Spec = Spec {
    name: "CLUSTER|KEYSLOT",
    arity: Arity::Exactly(3),
    reply: ReplyShape::Integer,
    usage: "CLUSTER KEYSLOT key",
    summary: "Returns the hash slot of a key",
    parse: |args, _| cluster(ClusterOp::KeySlot(args.bytes()?)),
    ..ROW
};

static LINKS: Spec = Spec {
    name: "CLUSTER|LINKS",
    reply: ReplyShape::Array,
    since: "7.0.0",
    usage: "CLUSTER LINKS",
    summary: "Returns a map for each other member: direction and node",
    difference: "ages and buffers are not known and left out; refused unless --redirect is moved",
    parse: |_, _| cluster(ClusterOp::Links),
    ..ROW
};

static MEET: Spec = Spec {
    name: "CLUSTER|MEET",
    arity: Arity::AtLeast(4),
    usage: "CLUSTER MEET ip port [cluster-bus-port]",
    ..REFUSED
};

static MYID: Spec = Spec {
    name: "CLUSTER|MYID",
    reply: ReplyShape::Bulk,
    usage: "CLUSTER MYID",
    summary: "Returns the node id, padded to 40 hex digits",
    parse: |_, _| cluster(ClusterOp::MyId),
    ..ROW
};

static MYSHARDID: Spec = Spec {
    name: "CLUSTER|MYSHARDID",
    reply: ReplyShape::Bulk,
    since: "7.2.0",
    usage: "CLUSTER MYSHARDID",
    summary: "Returns the cluster id, padded to 40 hex digits: there is one shard",
    parse: |_, _| cluster(ClusterOp::MyShardId),
    ..ROW
};

static NODES: Spec = Spec {
    name: "CLUSTER|NODES",
    reply: ReplyShape::Bulk,
    usage: "CLUSTER NODES",
    summary: "Returns the members, one line each",
    difference: "the epoch is the Raft term; times of pings are 0; refused unless --redirect is moved",
    parse: |_, _| cluster(ClusterOp::Nodes),
    ..ROW
};

static REPLICAS: Spec = Spec {
    name: "CLUSTER|REPLICAS",
    arity: Arity::Exactly(3),
    flags: Flags::ADMIN_ALWAYS,
    reply: ReplyShape::Array,
    since: "5.0.0",
    usage: "CLUSTER REPLICAS node-id",
    summary: "Returns the lines of the followers of the leader that is named",
    parse: |args, _| cluster(ClusterOp::Replicas(args.bytes()?)),
    ..ROW
};

static REPLICATE: Spec = Spec {
    name: "CLUSTER|REPLICATE",
    arity: Arity::Exactly(3),
    usage: "CLUSTER REPLICATE node-id",
    ..REFUSED
};

static RESET: Spec = Spec { name: "CLUSTER|RESET", usage: "CLUSTER RESET [HARD|SOFT]", ..REFUSED };

static SAVECONFIG: Spec =
    Spec { name: "CLUSTER|SAVECONFIG", arity: Arity::Exactly(2), usage: "CLUSTER SAVECONFIG", ..REFUSED };

static SET_CONFIG_EPOCH: Spec = Spec {
    name: "CLUSTER|SET-CONFIG-EPOCH",
    arity: Arity::Exactly(3),
    usage: "CLUSTER SET-CONFIG-EPOCH config-epoch",
    ..REFUSED
};

static SETSLOT: Spec = Spec {
    name: "CLUSTER|SETSLOT",
    arity: Arity::AtLeast(4),
    usage: "CLUSTER SETSLOT slot IMPORTING|MIGRATING|NODE|STABLE [node-id]",
    ..REFUSED
};

static SHARDS: Spec = Spec {
    name: "CLUSTER|SHARDS",
    reply: ReplyShape::Array,
    since: "7.0.0",
    usage: "CLUSTER SHARDS",
    summary: "Returns the one shard with its nodes",
    parse: |_, _| cluster(ClusterOp::Shards),
    ..ROW
};

static SLAVES: Spec = Spec {
    name: "CLUSTER|SLAVES",
    arity: Arity::Exactly(3),
    flags: Flags::ADMIN_ALWAYS,
    reply: ReplyShape::Array,
    usage: "CLUSTER SLAVES node-id",
    summary: "The same as CLUSTER REPLICAS",
    parse: |args, _| cluster(ClusterOp::Replicas(args.bytes()?)),
    ..ROW
};

static SLOTS: Spec = Spec {
    name: "CLUSTER|SLOTS",
    reply: ReplyShape::Array,
    usage: "CLUSTER SLOTS",
    summary: "Returns the one range of slots with its nodes, the leader first",
    parse: |_, _| cluster(ClusterOp::Slots),
    ..ROW
};

fn cluster(op: ClusterOp) -> Parsed {
    Ok(Action::Node(NodeOp::Cluster(op)))
}

fn text(text: &str) -> CommandError {
    CommandError::Text(format!("ERR {text}"))
}

fn slot_number(args: &mut Args<'_>) -> Result<u16, CommandError> {
    let number = args.int()?;
    u16::try_from(number).ok().filter(|number| *number < slot::SLOTS).ok_or_else(|| text("Invalid slot"))
}
