//! LATENCY: what was slow on this node, and how latencies are distributed. Parsing only; see `dispatch::latency`.

use bytes::Bytes;

use super::server::ADMIN;
use super::{Action, Arity, Flags, NodeOp, ReplyShape, Spec};

/// What a LATENCY subcommand asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LatencyOp {
    /// LATENCY DOCTOR.
    Doctor,
    /// LATENCY GRAPH.
    Graph(Bytes),
    /// LATENCY HISTOGRAM of these commands; none = all.
    Histogram(Vec<Bytes>),
    /// LATENCY HISTORY.
    History(Bytes),
    /// LATENCY LATEST.
    Latest,
    /// LATENCY RESET of these events; none = all.
    Reset(Vec<Bytes>),
}

const EVENTS: &str = "events: command and fast-command, and of a slow one the parts queue, fsync, replicate, apply, leader \
                      and confirm (see SLOWLOG GET WITHTIMES)";

pub(crate) static LATENCY: Spec = Spec {
    name: "LATENCY",
    since: "2.8.13",
    usage: "LATENCY subcommand",
    summary: "Container of the latency monitor of this node, which CONFIG SET latency-monitor-threshold begins",
    difference: EVENTS,
    subcommands: &[
        &LATENCY_DOCTOR,
        &LATENCY_GRAPH,
        &LATENCY_HELP,
        &LATENCY_HISTOGRAM,
        &LATENCY_HISTORY,
        &LATENCY_LATEST,
        &LATENCY_RESET,
    ],
    ..Spec::CONTAINER
};

/// What the rows share.
const ROW: Spec = Spec { since: "2.8.13", reply: ReplyShape::Array, ..ADMIN };

static LATENCY_DOCTOR: Spec = Spec {
    name: "LATENCY|DOCTOR",
    reply: ReplyShape::Bulk,
    usage: "LATENCY DOCTOR",
    summary: "Tells in words what was slow and what to look at",
    difference: "in our words",
    parse: |_, _| Ok(Action::Node(NodeOp::Latency(LatencyOp::Doctor))),
    ..ROW
};

static LATENCY_GRAPH: Spec = Spec {
    name: "LATENCY|GRAPH",
    arity: Arity::Exactly(3),
    reply: ReplyShape::Bulk,
    usage: "LATENCY GRAPH event",
    summary: "Draws the history of an event",
    difference: "drawn another way",
    parse: |args, _| Ok(Action::Node(NodeOp::Latency(LatencyOp::Graph(args.bytes()?)))),
    ..ROW
};

static LATENCY_HELP: Spec = Spec {
    name: "LATENCY|HELP",
    flags: Flags::ALWAYS,
    usage: "LATENCY HELP",
    summary: "Prints this help",
    parse: |_, _| Ok(Action::Reply(super::help(&LATENCY))),
    ..ROW
};

static LATENCY_HISTOGRAM: Spec = Spec {
    name: "LATENCY|HISTOGRAM",
    arity: Arity::AtLeast(2),
    reply: ReplyShape::Map,
    since: "7.0.0",
    usage: "LATENCY HISTOGRAM [command [command ...]]",
    summary: "Returns how often commands took up to how many microseconds, since CONFIG RESETSTAT",
    difference: "the bounds are those of /metrics, from 25 us to 300 s; calls that took longer are in none",
    parse: |args, _| Ok(Action::Node(NodeOp::Latency(LatencyOp::Histogram(args.rest())))),
    ..ROW
};

static LATENCY_HISTORY: Spec = Spec {
    name: "LATENCY|HISTORY",
    arity: Arity::Exactly(3),
    usage: "LATENCY HISTORY event",
    summary: "Returns the seconds in which an event was slow, and how slow, 160 at most",
    difference: EVENTS,
    parse: |args, _| Ok(Action::Node(NodeOp::Latency(LatencyOp::History(args.bytes()?)))),
    ..ROW
};

static LATENCY_LATEST: Spec = Spec {
    name: "LATENCY|LATEST",
    usage: "LATENCY LATEST",
    summary: "Returns each event that was slow: when last, how slow then, how slow at most, in milliseconds",
    difference: EVENTS,
    parse: |_, _| Ok(Action::Node(NodeOp::Latency(LatencyOp::Latest))),
    ..ROW
};

static LATENCY_RESET: Spec = Spec {
    name: "LATENCY|RESET",
    arity: Arity::AtLeast(2),
    reply: ReplyShape::Integer,
    usage: "LATENCY RESET [event [event ...]]",
    summary: "Forgets events, and returns of how many there was something to forget",
    parse: |args, _| Ok(Action::Node(NodeOp::Latency(LatencyOp::Reset(args.rest())))),
    ..ROW
};
