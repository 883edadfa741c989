//! What the simulation sees of a node beside what it says of itself: log ids, votes, the digest of its content.

use openraft::async_runtime::WatchReceiver as _;

use super::group::Group;
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
    /// Last applied entry.
    pub applied: Option<LogId>,
    /// Content at that entry: digest, keys, keys with a deadline, mixed over all databases.
    pub content: u128,
    /// Last entry of the log.
    pub last: Option<LogId>,
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
        let content = state.databases.iter().fold(0_u128, |sum, database| {
            let facts = &database.stats;
            let counts = u128::from(facts.keys) << 64 | u128::from(facts.expires);
            sum.rotate_left(7).wrapping_add(facts.digest).wrapping_add(counts)
        });
        let bounds = core.log.bounds();
        Inspection {
            node_id: core.local.node_id,
            term: vote.term,
            leads: leads && vote.committed && vote.node == core.local.node_id,
            applied: state.applied,
            content,
            last: bounds.last,
            purged: bounds.purged,
        }
    }

    /// Id of the log entry at an index.
    #[must_use]
    pub fn log_id_at(&self, index: u64) -> Option<LogId> {
        self.core.log.id_at(index)
    }
}
