//! Finds out what became of a batch whose outcome a lost leader left open.
//!
//! Every batch carries (origin, sequence) of the proposer that made it and is proposed for one leader term only
//! (`with_leader`). So the node that made it can tell from its own apply:
//!
//! - the batch is applied here: these are its outcomes;
//! - an entry of a later leader is applied here first: the batch is not in the log and can never get into it, since the
//!   log before that entry is settled and no later leader accepts a batch meant for an earlier one. Leaders are ordered
//!   by (term, node): the library lets a term have more than one, each with a greater node id than the one before;
//! - a checkpoint replaced the state: entries were skipped, the outcome stays unknown.
//!
//! Invariant: a batch is registered before it is sent, so its apply cannot be missed.

use std::collections::BTreeMap;

use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::stages::Moments;
use crate::store::{LogId, Outcome};

/// What the local apply says of a batch.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Resolution {
    /// Applied, one outcome per op.
    Applied(Vec<Outcome>, Moments),
    /// Not in the log, and never will be: safe to propose again.
    Never,
    /// Nobody can tell any more.
    Unknown,
}

struct Waiting {
    /// Term and node of the only leader that may put it into the log.
    leader: (u64, u64),
    tx: oneshot::Sender<Resolution>,
}

/// The batches of this process that are not resolved yet.
pub(super) struct Resolver {
    origin: u64,
    waiting: Mutex<BTreeMap<u64, Waiting>>,
}

impl Resolver {
    pub(super) fn new(origin: u64) -> Self {
        Self { origin, waiting: Mutex::new(BTreeMap::new()) }
    }

    pub(super) fn origin(&self) -> u64 {
        self.origin
    }

    /// Starts watching for a batch that is about to be proposed to the leader of this term and node.
    pub(super) fn register(&self, sequence: u64, leader: (u64, u64)) -> oneshot::Receiver<Resolution> {
        let (tx, rx) = oneshot::channel();
        self.waiting.lock().insert(sequence, Waiting { leader, tx });
        rx
    }

    /// Stops watching: the batch is known not to have been proposed.
    pub(super) fn forget(&self, sequence: u64) {
        self.waiting.lock().remove(&sequence);
    }

    /// A batch was applied. Gives the outcomes back if it is not one of ours.
    pub(super) fn applied(
        &self,
        origin: u64,
        sequence: u64,
        outcomes: Vec<Outcome>,
        moments: impl FnOnce() -> Moments,
    ) -> Option<Vec<Outcome>> {
        if origin != self.origin {
            return Some(outcomes);
        }
        let waiting = self.waiting.lock().remove(&sequence);
        if let Some(waiting) = waiting {
            // The caller may be gone (its client hung up); the batch is applied all the same.
            let _ = waiting.tx.send(Resolution::Applied(outcomes, moments()));
        }
        None
    }

    /// Everything up to `id` is applied: batches meant for earlier leaders that were not seen by now do not exist.
    pub(super) fn passed(&self, id: LogId) {
        let leader = (id.term, id.node);
        let mut waiting = self.waiting.lock();
        if waiting.values().all(|batch| batch.leader >= leader) {
            return;
        }
        let settled: Vec<u64> = waiting
            .iter()
            .filter(|(_, batch)| batch.leader < leader)
            .map(|(sequence, _)| *sequence)
            .collect();
        for sequence in settled {
            if let Some(batch) = waiting.remove(&sequence) {
                let _ = batch.tx.send(Resolution::Never);
            }
        }
    }

    /// The state was replaced by a checkpoint; entries in between were never seen here.
    pub(super) fn skipped(&self) {
        for (_, batch) in std::mem::take(&mut *self.waiting.lock()) {
            let _ = batch.tx.send(Resolution::Unknown);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(term: u64, index: u64) -> LogId {
        LogId { term, node: 1, index }
    }

    #[test]
    fn an_applied_batch_is_resolved_with_its_outcomes() {
        let resolver = Resolver::new(9);
        let mut rx = resolver.register(1, (5, 1));
        let now = crate::clock::monotonic();
        let moments = Moments { synced: None, committed: now, applied: now };
        assert_eq!(resolver.applied(9, 1, vec![Outcome::Ok], || moments), None);
        assert_eq!(rx.try_recv(), Ok(Resolution::Applied(vec![Outcome::Ok], moments)));
    }

    #[test]
    fn a_foreign_batch_is_handed_back() {
        let resolver = Resolver::new(9);
        assert_eq!(resolver.applied(8, 1, vec![Outcome::Ok], || unreachable!()), Some(vec![Outcome::Ok]));
    }

    #[test]
    fn an_entry_of_a_later_term_settles_earlier_batches_only() {
        let resolver = Resolver::new(9);
        let mut old = resolver.register(1, (5, 1));
        let mut new = resolver.register(2, (6, 1));
        resolver.passed(id(5, 10));
        assert!(old.try_recv().is_err(), "an entry of the same term settles nothing");
        resolver.passed(id(6, 11));
        assert_eq!(old.try_recv(), Ok(Resolution::Never));
        assert!(new.try_recv().is_err());
    }

    #[test]
    fn a_later_leader_of_the_same_term_settles_too() {
        let resolver = Resolver::new(9);
        let mut old = resolver.register(1, (5, 1));
        let mut new = resolver.register(2, (5, 2));
        resolver.passed(LogId { term: 5, node: 2, index: 10 });
        assert_eq!(old.try_recv(), Ok(Resolution::Never));
        assert!(new.try_recv().is_err());
    }

    #[test]
    fn a_checkpoint_leaves_outcomes_unknown() {
        let resolver = Resolver::new(9);
        let mut rx = resolver.register(1, (5, 1));
        resolver.skipped();
        assert_eq!(rx.try_recv(), Ok(Resolution::Unknown));
    }
}
