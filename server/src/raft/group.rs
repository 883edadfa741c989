//! The replicated group as the rest of the node sees it: propose, read barrier, status, membership.
//!
//! No openraft type appears in this interface.

use std::sync::Arc;

use crate::config::Consistency;
use crate::store::{LogId, Op, Outcome, Store};

/// Why a proposal has no outcomes.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProposeError {
    /// No leader was known for as long as a command is held. Nothing was proposed; safe to repeat.
    #[error("leader not known")]
    NoLeader,
    /// `--redirect moved|try` and another node leads. Nothing was proposed.
    #[error("leader is at {addr}")]
    NotLeader {
        /// Client address of the leader.
        addr: String,
    },
    /// It may or may not have been applied; must never be repeated by itself.
    #[error("outcome unknown: {0}")]
    Unknown(String),
    /// The disk of the leader is full or over its quota and the op needs space. Nothing was proposed.
    #[error("{0}")]
    DiskFull(String),
    /// The queue is full for longer than a command is held. Nothing was proposed.
    #[error("the node is overloaded")]
    Busy,
    /// An op is larger than a log entry may be. Nothing was proposed.
    #[error("{size_bytes} bytes are more than the {limit_bytes} that one log entry may hold")]
    TooLarge {
        /// Size of the op.
        size_bytes: usize,
        /// Limit.
        limit_bytes: usize,
    },
    /// The node is not part of a formed cluster yet.
    #[error("the node is not formed")]
    Unformed,
    /// The node is stopping. Nothing was proposed.
    #[error("the node is shutting down")]
    ShuttingDown,
}

/// Why a read cannot be served at its level.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// No leader with a quorum for as long as a command is held.
    #[error("leader not known")]
    NoLeader,
    /// `--redirect moved|try` and another node leads.
    #[error("leader is at {addr}")]
    NotLeader {
        /// Client address of the leader.
        addr: String,
    },
    /// The node is not part of a formed cluster yet.
    #[error("the node is not formed")]
    Unformed,
    /// The node is stopping.
    #[error("the node is shutting down")]
    ShuttingDown,
}

/// Why a membership verb was refused or failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MemberError {
    /// The request cannot be right; says what and what to do.
    #[error("{0}")]
    Refused(String),
    /// No leader known.
    #[error("leader not known")]
    NoLeader,
    /// The membership is no longer the one that the caller saw.
    #[error("the membership changed: expected log id {expected}, found {found}")]
    Stale {
        /// The caller's.
        expected: String,
        /// The current one.
        found: String,
    },
    /// Started, but the end was not seen in time.
    #[error("outcome unknown: {0}")]
    Unknown(String),
}

/// Raft role of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Leads.
    Leader,
    /// Votes and follows.
    Follower,
    /// Campaigns.
    Candidate,
    /// Follows without a vote.
    Learner,
    /// Not part of a cluster.
    Unformed,
    /// Stopped.
    Shutdown,
}

/// One member as the membership entry and the leader know it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberStatus {
    /// Node id.
    pub id: u64,
    /// Client address, `host:port`.
    pub addr: String,
    /// Peer address, `host:port`.
    pub peer_addr: String,
    /// Counts towards the quorum.
    pub voter: bool,
    /// Known on the leader only: index of the last entry on that member's disk.
    pub matched_index: Option<u64>,
    /// Known on the leader only: entries behind the leader's last one.
    pub lag_entries: Option<u64>,
    /// Known on the leader only: milliseconds since it answered last.
    pub last_ack_ms: Option<u64>,
}

/// A cheap picture of the group, never older than one metrics tick.
#[derive(Clone, Debug)]
pub struct Status {
    /// This node.
    pub node_id: u64,
    /// Random id of the cluster, `None` while unformed.
    pub cluster_id: Option<u64>,
    /// Role of this node.
    pub role: Role,
    /// Current term.
    pub term: u64,
    /// Leader of the term, if known.
    pub leader: Option<Leader>,
    /// Log id of the newest membership entry.
    pub membership_log_id: Option<LogId>,
    /// All members, sorted by client address.
    pub members: Vec<MemberStatus>,
    /// Index of the last entry in the local log.
    pub last_log_index: Option<u64>,
    /// Last committed entry known here.
    pub committed: Option<LogId>,
    /// Last applied entry.
    pub applied: Option<LogId>,
    /// State on disk reaches to here.
    pub durable: Option<LogId>,
    /// Log entries up to here are gone.
    pub purged: Option<LogId>,
    /// Milliseconds since a quorum (leader) or the leader (follower) was heard; `None` = never.
    pub last_contact_ms: Option<u64>,
    /// True from the start of a membership change until its final entry is committed.
    pub change_in_progress: bool,
    /// The local replay after start has reached what was committed before the stop.
    pub recovered: bool,
}

/// Who leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leader {
    /// Node id.
    pub id: u64,
    /// Client address.
    pub addr: String,
}

/// One replicated group of this node.
#[derive(Clone)]
pub struct Group {
    store: Arc<Store>,
}

impl Group {
    /// Proposes ops as (part of) one log entry, in order; one outcome per op. Follows or forwards to the leader by
    /// itself and holds the call while none is known, up to `Timing::hold_without_leader`.
    ///
    /// Cancel safety: dropping the future does not withdraw the proposal.
    ///
    /// # Errors
    /// See [`ProposeError`].
    pub async fn propose(&self, _ops: Vec<Op>) -> Result<Vec<Outcome>, ProposeError> {
        todo!("raft room")
    }

    /// Returns when a read of the local store is allowed at `level`: high waits for a ReadIndex round shared with all
    /// waiting reads and for the local apply to reach it; medium returns on the leader; low returns at once.
    ///
    /// # Errors
    /// See [`ReadError`].
    pub async fn read_barrier(&self, _level: Consistency) -> Result<(), ReadError> {
        todo!("raft room")
    }

    /// The local state machine, for reads behind a barrier.
    #[must_use]
    pub fn store(&self) -> &Arc<Store> {
        &self.store
    }

    /// A picture of the group.
    #[must_use]
    pub fn status(&self) -> Status {
        todo!("raft room")
    }

    /// RAFTADDPEER: adds the node that answers at this client address as a learner, promoted to voter by itself once
    /// it has caught up. Idempotent. Forwarded to the leader.
    ///
    /// # Errors
    /// See [`MemberError`].
    pub async fn add_peer(&self, _addr: String) -> Result<(), MemberError> {
        todo!("raft room")
    }

    /// RAFTREMOVEPEER: removes a member by client address or node id (hex). Idempotent. Forwarded to the leader.
    ///
    /// # Errors
    /// See [`MemberError`].
    pub async fn remove_peer(&self, _target: String) -> Result<(), MemberError> {
        todo!("raft room")
    }

    /// RAFTTRANSFER: hands leadership to a voter (client address or id), or to the most caught-up one.
    ///
    /// # Errors
    /// See [`MemberError`].
    pub async fn transfer_leader(&self, _to: Option<String>) -> Result<(), MemberError> {
        todo!("raft room")
    }

    /// RAFTSHRINKLOG: makes the state durable and purges the log behind it.
    ///
    /// # Errors
    /// [`MemberError::Unknown`] when the flush did not finish in time.
    pub async fn shrink_log(&self) -> Result<(), MemberError> {
        todo!("raft room")
    }
}
