//! The openraft type configuration, and the conversions between its ids and ours.
//!
//! No openraft type is ever serialised: `codec` writes our own forms (decision 1), so that a new version of the
//! library is never a migration.

use std::collections::BTreeMap;
use std::fmt;

use bytes::Bytes;
use openraft::impls::leader_id_adv;
use openraft::{StoredMembership, type_config::alias};
use tokio::sync::oneshot;

use super::log::Vote;
use crate::store::{LogId, Outcome};

/// Ties the library to our payload, node and answer types.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct TypeConfig {}

#[allow(deprecated, reason = "the re-export saves a second pinned crate of the same release")]
impl openraft::RaftTypeConfig for TypeConfig {
    type D = EntryData;
    type R = Applied;
    type NodeId = u64;
    type Node = Node;
    type Term = u64;
    type LeaderId = LeaderId;
    type Vote = openraft::impls::Vote<LeaderId>;
    type Payload = openraft::EntryPayload<EntryData, u64, Node>;
    type Entry = openraft::Entry<LeaderId, Self::Payload>;
    type AsyncRuntime = openraft::impls::TokioRuntime;
    type Responder<T>
        = Responder<T>
    where
        T: openraft::OptionalSend + 'static;
    type Batch<T>
        = openraft::impls::InlineBatch<T>
    where
        T: openraft::OptionalSend + 'static;
    type ErrorSource = openraft::impls::BoxedErrorSource;
}

/// Takes the library's word on a proposal to whoever still waits for it.
///
/// Most proposals are answered earlier, by the apply thread (`resolver`), so that nobody waits is the normal case.
pub(super) struct Responder<T>(oneshot::Sender<T>);

impl<T> Responder<T> {
    pub(super) fn new() -> (Self, oneshot::Receiver<T>) {
        let (tx, rx) = oneshot::channel();
        (Self(tx), rx)
    }
}

impl<T: openraft::OptionalSend + 'static> openraft::raft::responder::Responder<TypeConfig, T>
    for Responder<T>
{
    fn on_complete(self, result: T) {
        let _ = self.0.send(result);
    }
}

pub(super) type Entry = alias::EntryOf<TypeConfig>;
pub(super) type RaftLogId = alias::LogIdOf<TypeConfig>;
pub(super) type RaftVote = alias::VoteOf<TypeConfig>;
pub(super) type RaftMembership = openraft::Membership<u64, Node>;
pub(super) type RaftStoredMembership = alias::StoredMembershipOf<TypeConfig>;
pub(super) type RaftSnapshotMeta = alias::SnapshotMetaOf<TypeConfig>;
pub(super) type LeaderId = leader_id_adv::LeaderId<u64, u64>;
pub(super) type Raft = openraft::Raft<TypeConfig, super::state_machine::StateMachine>;

/// An encoded batch as it lies in the log: `codec::ENTRY_BATCH` and the encoding of `store::Batch`.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct EntryData(pub(super) Bytes);

impl fmt::Debug for EntryData {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "EntryData({} bytes)", self.0.len())
    }
}

impl fmt::Display for EntryData {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.0.len())
    }
}

/// The machine's answers to one entry, one per op; empty for entries without ops.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Applied(pub(super) Vec<Outcome>);

/// What the membership entry keeps of a member.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Node {
    /// Client address, `host:port`.
    pub(super) addr: String,
    /// Peer address, `host:port`.
    pub(super) peer_addr: String,
    /// A learner with this mark becomes a voter by itself once it has caught up.
    pub(super) wants_vote: bool,
}

pub(super) fn to_raft(id: LogId) -> RaftLogId {
    RaftLogId { leader_id: LeaderId { term: id.term, node_id: id.node }, index: id.index }
}

pub(super) fn from_raft(id: &RaftLogId) -> LogId {
    LogId { term: id.leader_id.term, node: id.leader_id.node_id, index: id.index }
}

pub(super) fn vote_to_raft(vote: Vote) -> RaftVote {
    RaftVote { leader_id: LeaderId { term: vote.term, node_id: vote.node }, committed: vote.committed }
}

pub(super) fn vote_from_raft(vote: &RaftVote) -> Vote {
    Vote { term: vote.leader_id.term, node: vote.leader_id.node_id, committed: vote.committed }
}

/// A membership in our own shape: voter sets (two while a joint change runs) and all nodes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Members {
    pub(super) configs: Vec<Vec<u64>>,
    pub(super) nodes: BTreeMap<u64, Node>,
}

impl Members {
    pub(super) fn from_raft(membership: &RaftMembership) -> Self {
        let configs = membership.get_joint_config().iter().map(|set| set.iter().copied().collect()).collect();
        let nodes = membership.nodes().map(|(id, node)| (*id, node.clone())).collect();
        Self { configs, nodes }
    }

    /// # Errors
    /// A text, when a voter has no node.
    pub(super) fn to_raft(&self) -> Result<RaftMembership, String> {
        if self.configs.is_empty() && self.nodes.is_empty() {
            return Ok(RaftMembership::default());
        }
        let configs = self.configs.iter().map(|ids| ids.iter().copied().collect()).collect();
        RaftMembership::new(configs, self.nodes.clone()).map_err(|error| error.to_string())
    }

    pub(super) fn is_voter(&self, id: u64) -> bool {
        self.configs.iter().any(|config| config.contains(&id))
    }

    pub(super) fn is_joint(&self) -> bool {
        self.configs.len() > 1
    }

    /// Ids of the newest voter set.
    pub(super) fn voters(&self) -> &[u64] {
        self.configs.last().map_or(&[], Vec::as_slice)
    }
}

pub(super) fn stored_membership(
    log_id: Option<LogId>,
    members: &Members,
) -> Result<RaftStoredMembership, String> {
    Ok(StoredMembership::new(log_id.map(to_raft), members.to_raft()?))
}
