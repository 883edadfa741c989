//! `GET /v1/status`: one node as it sees itself and its group.

use serde::{Deserialize, Serialize};

use crate::Id;

/// With this the last line of a node begins that has stopped because its content is not that of the majority, and each
/// line with which it refuses to start again.
pub const DIVERGED: &str = "the content of this node has diverged";

/// Part of its life that a node is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Opens its files; nothing is served.
    Starting,
    /// Has an empty data directory and waits for `/v1/initialize` or to be added.
    Unformed,
    /// Replays its log up to what was committed before it stopped.
    Recovering,
    /// Serves.
    Running,
    /// Hands over, drains and flushes.
    Stopping,
}

/// Raft role.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
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
    /// Its Raft core has stopped.
    Shutdown,
}

/// Who leads.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaderInfo {
    /// Node id.
    pub id: Id,
    /// Client address, `host:port`.
    pub addr: String,
}

/// State of a node's disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DiskState {
    /// Writes are admitted.
    Ok,
    /// Below the reserve or over the quota: what grows is refused, what frees space is admitted.
    Quota,
    /// The volume is full: no write is admitted.
    Full,
}

/// One member.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberInfo {
    /// Node id.
    pub id: Id,
    /// Client address, `host:port`.
    pub addr: String,
    /// Peer address, `host:port`.
    pub peer_addr: String,
    /// Counts towards the quorum.
    pub voter: bool,
    /// Leads, as far as the answering node knows.
    pub leader: bool,
    /// Index of the last entry on that member's disk; only the leader knows it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub matched_index: Option<u64>,
    /// Entries behind the leader's last one; only the leader knows it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lag_entries: Option<u64>,
    /// Milliseconds since it answered last; only the leader knows it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_ack_ms: Option<u64>,
    /// Its content is not that of the majority at this entry, so it stops; only the leader knows it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub diverged_at: Option<String>,
}

/// The group's members, as the newest membership entry in the node's log has them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Membership {
    /// Log id of that entry, for `if_membership`; absent while unformed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub log_id: Option<String>,
    /// A change is running: the entry is joint, or its last step is not committed.
    pub change_in_progress: bool,
    /// Sorted by client address.
    pub members: Vec<MemberInfo>,
}

/// Positions in the log.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogPositions {
    /// Index of the last entry.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_index: Option<u64>,
    /// Last committed entry known here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub committed: Option<String>,
    /// Last applied entry.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub applied: Option<String>,
    /// The state on disk reaches to here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub durable: Option<String>,
    /// Entries up to here are gone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub purged: Option<String>,
    /// The contents of members were found equal up to here; only the leader knows it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub equal: Option<String>,
    /// The contents of members differ here, and no majority says which is right; only the leader knows it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub undecided: Option<String>,
    /// Committed entries that are not applied yet.
    pub apply_lag_entries: u64,
}

/// The addresses that others are told.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Addresses {
    /// For clients.
    pub client: String,
    /// For peers.
    pub peer: String,
    /// Where this API listens.
    pub http: String,
}

/// One node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeStatus {
    /// [`crate::CONTRACT`] of the node.
    pub contract: u32,
    /// Version of the server, `0.1.0`.
    pub version: String,
    /// This node; absent only in the first moments of [`Phase::Starting`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_id: Option<Id>,
    /// The cluster, absent while unformed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster_id: Option<Id>,
    /// Part of its life.
    pub phase: Phase,
    /// Raft role.
    pub role: Role,
    /// Raft term.
    pub term: u64,
    /// Leader of the term, absent while none is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub leader: Option<LeaderInfo>,
    /// Milliseconds since the leader (on a follower) or a quorum (on the leader) was heard; absent = never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_contact_ms: Option<u64>,
    /// Positions in the log.
    pub log: LogPositions,
    /// Members.
    pub membership: Membership,
    /// Disk.
    pub disk: DiskState,
    /// Where it can be reached.
    pub addresses: Addresses,
    /// Milliseconds since the process started.
    pub uptime_ms: u64,
    /// Which passwords and users are in force, as [`crate::logins::mark`]; absent where they come from no file,
    /// and where the admin API asks nobody for a certificate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub logins: Option<String>,
}
