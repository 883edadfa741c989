//! What the admin API asks of the node. Implemented by `node`, and by a fake in the tests.

use std::path::PathBuf;

use futures_util::future::BoxFuture;
use kvnode_api::members::{
    AddMember, Done, Initialize, Initialized, MembershipChanged, PromoteMember, RemoveMember, SetVoters,
    Transfer,
};
use kvnode_api::status::NodeStatus;
use kvnode_api::watch::LeaderEvent;
use tokio::sync::watch;

use crate::raft::MemberError;

/// An answer to wait for. Dropping it does not undo what was asked for.
pub type Answer<T> = BoxFuture<'static, Result<T, ControlError>>;

/// Why a verb was not carried out. Each has one HTTP status.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ControlError {
    /// 400: cannot be right, whatever the state.
    #[error("{0}")]
    Invalid(String),
    /// 404: no such member or snapshot.
    #[error("{0}")]
    NotFound(String),
    /// 409: the state of the node or the cluster forbids it.
    #[error("{0}")]
    Conflict(String),
    /// 412: the membership is another one than `if_membership`.
    #[error("the membership changed: expected log id {expected}, found {found}")]
    Stale {
        /// The caller's.
        expected: String,
        /// The current one.
        found: String,
    },
    /// 421: another node leads and this one does not forward. Not a redirect: `addr` is where the leader serves
    /// clients, its admin port is not known here.
    #[error("another node leads")]
    NotLeader {
        /// Client address of the leader.
        addr: String,
    },
    /// 503: no leader is known.
    #[error("leader not known")]
    NoLeader,
    /// 503: too much at once.
    #[error("{0}")]
    Busy(String),
    /// 504: started, the end was not seen in time.
    #[error("outcome unknown: {0}")]
    Unknown(String),
    /// 500: the node failed at it.
    #[error("{0}")]
    Failed(String),
}

impl From<MemberError> for ControlError {
    fn from(error: MemberError) -> Self {
        match error {
            MemberError::Refused(text) => ControlError::Conflict(text),
            MemberError::NoLeader => ControlError::NoLeader,
            MemberError::Stale { expected, found } => ControlError::Stale { expected, found },
            MemberError::Unknown(text) => ControlError::Unknown(text),
        }
    }
}

/// The node. All verbs are idempotent; those of the membership are carried out by the leader, wherever they arrive.
pub trait NodeControl: Send + Sync + 'static {
    /// The node as it sees itself. Cheap: reads memory only.
    fn status(&self) -> NodeStatus;

    /// Who leads, now and from now on.
    fn watch(&self) -> watch::Receiver<LeaderEvent>;

    /// Founds a cluster on this node.
    fn initialize(&self, request: Initialize) -> Answer<Initialized>;

    /// Adds a member.
    fn add_member(&self, request: AddMember) -> Answer<MembershipChanged>;

    /// Removes a member.
    fn remove_member(&self, request: RemoveMember) -> Answer<MembershipChanged>;

    /// Makes a learner a voter.
    fn promote(&self, request: PromoteMember) -> Answer<MembershipChanged>;

    /// Makes these members the voters.
    fn set_voters(&self, request: SetVoters) -> Answer<MembershipChanged>;

    /// Hands leadership over.
    fn transfer(&self, request: Transfer) -> Answer<Done>;

    /// Makes the state durable and purges the log behind it.
    fn shrink_log(&self) -> Answer<Done>;
}

/// One snapshot on disk, as far as streaming it needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotFile {
    /// Path of `state.bin`.
    pub state: PathBuf,
    /// Text of `meta.json`.
    pub meta: String,
    /// Size of `state.bin` according to `meta.json`.
    pub size_bytes: u64,
    /// SHA-256 of `state.bin` in hex; the ancestor's snapshots have none.
    pub sha256: Option<String>,
    /// CRC-64/XZ of `state.bin` in hex.
    pub crc64: Option<String>,
}

/// The snapshots of the node. An id is checked to be of the form `[0-9a-z-]+` before it arrives here.
pub trait SnapshotControl: Send + Sync + 'static {
    /// RAFTSNAPSHOT: takes one; its id and the content of its `meta.json`.
    fn create(&self) -> Answer<(String, serde_json::Value)>;

    /// The contents of all `meta.json`, newest first.
    fn list(&self) -> Answer<Vec<serde_json::Value>>;

    /// Looks one up; [`ControlError::NotFound`] if there is none.
    fn open(&self, id: String) -> Answer<SnapshotFile>;

    /// Removes one; `changed: false` if there is none.
    fn remove(&self, id: String) -> Answer<Done>;
}
