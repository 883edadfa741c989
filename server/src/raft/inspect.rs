//! What the simulation sees of a node beside what it says of itself: log ids, votes, what is on disk, the digest of its
//! content, the index up to which it would let a read go.

use openraft::async_runtime::WatchReceiver as _;

use super::group::Group;
use super::reader;
use super::types::vote_from_raft;
use crate::store::LogId;

/// A node at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Inspection {
    /// This node.
    pub node_id: u64,
    /// Term of its vote.
    pub term: u64,
    /// It was elected for that term and has not stepped down.
    pub leads: bool,
    /// Term and node of the vote that is saved, or being saved.
    pub vote: Option<(u64, u64)>,
    /// Term and node of the vote that others may have been told: it is said to be on disk.
    pub given: (u64, u64),
    /// Last applied entry.
    pub applied: Option<LogId>,
    /// Content at that entry, as [`crate::store::Digest`] has it.
    pub content: u128,
    /// Last entry whose effect is durable.
    pub durable: Option<LogId>,
    /// Last entry of the log.
    pub last: Option<LogId>,
    /// Last entry of the log that is on disk.
    pub synced: Option<LogId>,
    /// Entries up to here are gone.
    pub purged: Option<LogId>,
}

impl Group {
    /// A picture of this moment; applied id and content belong together.
    #[must_use]
    pub fn inspect(&self) -> Inspection {
        let core = &self.core;
        let (leads, vote) = {
            let metrics = core.raft.server_metrics();
            let metrics = metrics.borrow_watched();
            (metrics.state.is_leader(), vote_from_raft(&metrics.vote))
        };
        let live = core.store.live();
        let state = live.state();
        let bounds = core.log.bounds();
        Inspection {
            node_id: core.local.node_id,
            term: vote.term,
            leads: leads && vote.committed && vote.node == core.local.node_id,
            vote: bounds.vote.map(|vote| (vote.term, vote.node)),
            given: (vote.term, vote.node),
            applied: state.applied,
            content: state.content(),
            durable: live.durable(),
            last: bounds.last,
            synced: core.log.flushed(),
            purged: bounds.purged,
        }
    }

    /// Id of the log entry at an index.
    #[must_use]
    pub fn log_id_at(&self, index: u64) -> Option<LogId> {
        self.core.log.id_at(index)
    }

    /// Index from which on this node, as leader, would let a read go that arrives now; `None` if it cannot confirm that
    /// it leads.
    pub async fn read_index(&self) -> Option<u64> {
        reader::leader_read_index(&self.core).await.map(|id| id.index)
    }
}
