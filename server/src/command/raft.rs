//! Commands on the Raft group: the ancestor's RAFT* family and ours.

use super::args::printable;
use super::{Action, Args, Arity, CommandError, Flags, Group, NodeOp, ReplyShape, Spec};

/// What the questions share: answered by any node from what it knows.
const QUESTION: Spec = Spec {
    arity: Arity::Exactly(1),
    flags: Flags::ALWAYS.with(Flags::NOSCRIPT).with(Flags::DANGEROUS),
    group: Group::Raft,
    since: "0.1.0",
    difference: "not in Redis",
    ..Spec::ROW
};

/// What the verbs share.
const VERB: Spec = Spec { flags: Flags::ADMIN_ALWAYS, ..QUESTION };

pub(crate) static RAFTLEADER: Spec = Spec {
    name: "RAFTLEADER",
    reply: ReplyShape::BulkOrNil,
    usage: "RAFTLEADER",
    summary: "Returns the client address of the leader, nil if none is known",
    parse: |_, _| Ok(Action::Node(NodeOp::Leader)),
    ..QUESTION
};

pub(crate) static RAFTSTATE: Spec = Spec {
    name: "RAFTSTATE",
    reply: ReplyShape::Bulk,
    usage: "RAFTSTATE",
    summary: "Returns the role of this node: Leader, Follower, Candidate, Learner, Unformed or Shutdown",
    parse: |_, _| Ok(Action::Node(NodeOp::State)),
    ..QUESTION
};

pub(crate) static RAFTSTATS: Spec = Spec {
    name: "RAFTSTATS",
    reply: ReplyShape::Array,
    usage: "RAFTSTATS",
    summary: "Returns eleven facts of the Raft core as field and value, sorted",
    parse: |_, _| Ok(Action::Node(NodeOp::Statistics)),
    ..QUESTION
};

pub(crate) static RAFTPEERS: Spec = Spec {
    name: "RAFTPEERS",
    reply: ReplyShape::Array,
    usage: "RAFTPEERS",
    summary: "Returns the members as client address and state, sorted, this node included",
    parse: |_, _| Ok(Action::Node(NodeOp::Peers)),
    ..QUESTION
};

pub(crate) static RAFTIDENTITY: Spec = Spec {
    name: "RAFTIDENTITY",
    reply: ReplyShape::Array,
    usage: "RAFTIDENTITY",
    summary: "Returns who this node is as field and value: node_id, cluster_id (empty while unformed), addr, \
              peer_addr, role, version",
    parse: |_, _| Ok(Action::Node(NodeOp::Identity)),
    ..QUESTION
};

pub(crate) static RAFTADDPEER: Spec = Spec {
    name: "RAFTADDPEER",
    arity: Arity::Exactly(2),
    usage: "RAFTADDPEER addr",
    summary: "Adds the node at a client address; OK when it is a learner, it becomes a voter by itself",
    parse: |args, _| Ok(Action::Node(NodeOp::AddPeer(address(args)?))),
    ..VERB
};

pub(crate) static RAFTREMOVEPEER: Spec = Spec {
    name: "RAFTREMOVEPEER",
    arity: Arity::Exactly(2),
    usage: "RAFTREMOVEPEER addr|id",
    summary: "Removes a member, named by its client address or its node id in hex",
    parse: |args, _| Ok(Action::Node(NodeOp::RemovePeer(target(args)?))),
    ..VERB
};

pub(crate) static RAFTTRANSFER: Spec = Spec {
    name: "RAFTTRANSFER",
    arity: Arity::AtLeast(1),
    usage: "RAFTTRANSFER [addr|id]",
    summary: "Hands leadership to a voter, or to the one that is most caught up",
    parse: |args, _| {
        let to = if args.left() == 0 { None } else { Some(target(args)?) };
        if args.left() > 0 {
            return Err(args.arity());
        }
        Ok(Action::Node(NodeOp::Transfer(to)))
    },
    ..VERB
};

pub(crate) static RAFTSNAPSHOT: Spec = Spec {
    name: "RAFTSNAPSHOT",
    usage: "RAFTSNAPSHOT",
    summary: "Writes a snapshot of the content to this node's disk; OK when the files are complete",
    parse: |_, _| Ok(Action::Node(NodeOp::Snapshot)),
    ..VERB
};

pub(crate) static RAFTSHRINKLOG: Spec = Spec {
    name: "RAFTSHRINKLOG",
    usage: "RAFTSHRINKLOG",
    summary: "Makes this node's state durable and deletes the log behind it",
    parse: |_, _| Ok(Action::Node(NodeOp::ShrinkLog)),
    ..VERB
};

/// Takes `host:port`. Only the form is checked here; the leader dials the node before it adds it.
fn address(args: &mut Args<'_>) -> Result<String, CommandError> {
    let word = args.bytes()?;
    let text = std::str::from_utf8(&word).ok().filter(|text| is_address(text));
    text.map(str::to_owned).ok_or_else(|| {
        CommandError::Text(format!("ERR invalid address '{}': it must be host:port", printable(&word)))
    })
}

fn is_address(text: &str) -> bool {
    let Some((host, port)) = text.rsplit_once(':') else { return false };
    let port_fits = port.parse::<u16>().is_ok_and(|port| port > 0);
    let bracketed = host.starts_with('[') && host.ends_with(']') && host.len() > 2;
    let plain = !host.is_empty()
        && host.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '.' || c == '_');
    port_fits && (plain || bracketed)
}

/// Takes `host:port` or a node id.
fn target(args: &mut Args<'_>) -> Result<String, CommandError> {
    let is_id = args
        .peek()
        .is_some_and(|word| (1..=16).contains(&word.len()) && word.iter().all(u8::is_ascii_hexdigit));
    if is_id { args.text() } else { address(args) }
}

#[cfg(test)]
mod tests {
    use super::is_address;

    #[test]
    fn only_host_and_port_make_an_address() {
        for good in ["127.0.0.1:4920", "localhost:1", "kv-0.kv.default.svc:65535", "[::1]:4920"] {
            assert!(is_address(good), "{good}");
        }
        for bad in
            ["", ":4920", "host", "host:", "host:0", "host:65536", "ho st:1", "::1:4920", "[]:1", "h\n:1"]
        {
            assert!(!is_address(bad), "{bad:?}");
        }
    }
}
