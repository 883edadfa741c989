//! The read barrier: one ReadIndex round serves all reads that wait for it.
//!
//! A read that arrives while a round runs joins the next one: the running round may have fixed its index before the
//! read came. The next one leaves when the last has come back, so that under load each carries what has gathered
//! meanwhile; over a slow network it leaves beside the last, a little later. After the round each read waits until the local
//! apply has reached the index, so any node can serve it; where that takes too long the leader answers (`remote`). Nothing
//! is written to the log (Raft dissertation, section 6.4).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use openraft::ReadPolicy as RaftReadPolicy;
use tokio::sync::watch;
use tokio::time::{sleep, sleep_until, timeout};

use super::confirm;
use super::core::{Core, LeaderView};
use super::group::ReadError;
use super::peer::messages::{self, READ_INDEX};
use super::remote::LeaderClient;
use super::round::{Gate, Leaving, Outcome};
use super::types::from_raft;
use crate::clock;
use crate::config::{Consistency, ReadPolicy, Redirect};
use crate::store::LogId;

/// Rounds at once.
const OPEN_MAX: usize = 8;
/// A round that has been on its way for this long holds up no other. Longer than a round takes on a local network: there
/// more rounds would only cost more.
const OVERLAP_AFTER: Duration = Duration::from_millis(1);
/// Between two attempts to find a leader that can confirm itself.
const RETRY_PAUSE: Duration = Duration::from_millis(10);
/// One round to the leader and its quorum.
const ROUND_MAX: Duration = Duration::from_millis(1500);
/// A follower's state that has not reached the index after this long is left to catch up: the leader can answer.
const CATCH_UP_MAX: Duration = Duration::from_millis(500);
/// The same where the round before was not reached either.
const STILL_BEHIND_MAX: Duration = Duration::from_millis(20);

/// Entry of the reader, shared by all connections.
#[derive(Clone)]
pub(super) struct Reader {
    gate: Arc<Gate>,
    core: Arc<Core>,
    leader: watch::Receiver<LeaderView>,
}

impl Reader {
    /// Starts the reader's task.
    pub(super) fn spawn(core: &Arc<Core>) -> Self {
        let gate = Arc::new(Gate::new());
        let leader = core.leader_watch();
        let rounds = Rounds {
            core: core.clone(),
            gate: gate.clone(),
            leader: leader.clone(),
            client: LeaderClient::default(),
            is_behind: AtomicBool::new(false),
        };
        core.tasks.spawn(rounds.run());
        Self { gate, core: core.clone(), leader }
    }

    /// See `Group::read_barrier`.
    pub(super) async fn barrier(&self, level: Consistency) -> Result<(), ReadError> {
        let begun = clock::monotonic();
        let behind = match self.brief_barrier(level).await {
            Err(ReadError::Behind { index }) => index,
            result => return result,
        };
        // Confirmed is the index already; only the state has to come.
        let mut applied = self.core.apply.applied();
        let reached = applied.wait_for(|at| at.is_some_and(|at| at.index >= behind));
        let left = self
            .core
            .config
            .timing
            .hold_without_leader
            .saturating_sub(clock::monotonic().duration_since(begun));
        tokio::select! {
            reached = timeout(left, reached) => match reached {
                Ok(Ok(_)) => Ok(()),
                _ => Err(ReadError::Behind { index: behind }),
            },
            () = self.core.stop_proposer.cancelled() => Err(ReadError::ShuttingDown),
        }
    }

    /// See `Group::brief_read_barrier`.
    pub(super) async fn brief_barrier(&self, level: Consistency) -> Result<(), ReadError> {
        if self.core.local.cluster_id().is_none() {
            return Err(ReadError::Unformed);
        }
        match level {
            Consistency::Low => Ok(()),
            _ if planted!("follower-reads-unconfirmed") => Ok(()),
            Consistency::Medium if self.leader.borrow().id == Some(self.core.local.node_id) => {
                let term = self.leader.borrow().term;
                let hold = self.core.config.timing.hold_without_leader;
                // What earlier leaders have acknowledged may still be on its way into the state of a fresh one.
                if applied_in_term(self.core.apply.applied(), term, hold).await {
                    return Ok(());
                }
                self.confirmed().await
            }
            // On a follower, medium would have to trust a leader unseen; confirming costs the same round.
            Consistency::Medium | Consistency::High => self.confirmed().await,
        }
    }

    async fn confirmed(&self) -> Result<(), ReadError> {
        // The task of the rounds ends with the group, and closes the gate.
        if self.gate.is_closed() {
            return Err(ReadError::ShuttingDown);
        }
        let trusts_lease = self.core.config.read_policy == ReadPolicy::Lease;
        if confirm::is_alone(&self.core) || trusts_lease && confirm::by_lease(&self.core).is_some() {
            self.core.counters.read_round(1);
            return Ok(());
        }
        match self.gate.join() {
            Some(round) => round.outcome().await,
            None => Err(ReadError::ShuttingDown),
        }
    }
}

/// Returns true once an entry of this term is applied: then everything committed in the terms before is. A leader's first
/// entry comes with its election, so only a fresh one waits.
async fn applied_in_term(mut applied: watch::Receiver<Option<LogId>>, term: u64, hold: Duration) -> bool {
    let reached = |at: &Option<LogId>| at.is_some_and(|at| at.term >= term);
    if reached(&applied.borrow()) {
        return true;
    }
    matches!(timeout(hold, applied.wait_for(reached)).await, Ok(Ok(_)))
}

/// The read index of this node as leader, or `None` if it cannot confirm that it leads.
pub(super) async fn leader_read_index(core: &Core) -> Option<LogId> {
    if core.config.read_policy == ReadPolicy::Lease
        && let Some(id) = confirm::by_lease(core)
    {
        return Some(id);
    }
    if let Some(id) = core.confirm.read_index(core).await {
        return Some(id);
    }
    match timeout(ROUND_MAX, core.raft.get_read_log_id(RaftReadPolicy::ReadIndex)).await {
        Ok(Ok((id, _))) => Some(from_raft(id.log_id())),
        _ => None,
    }
}

struct Rounds {
    core: Arc<Core>,
    gate: Arc<Gate>,
    leader: watch::Receiver<LeaderView>,
    /// Not the one of [`remote`](super::remote): a large answer there would hold a round up.
    client: LeaderClient,
    /// The last round was not reached in time.
    is_behind: AtomicBool,
}

impl Drop for Rounds {
    fn drop(&mut self) {
        self.gate.close();
    }
}

impl Rounds {
    async fn run(self) {
        let mut open = FuturesUnordered::new();
        let (mut is_asked, mut left_at) = (false, clock::monotonic());
        // Handles of a stopped group may live on; this task, which holds the state open, must not.
        let stop = self.core.stop_proposer.clone();
        loop {
            let (is_open, is_full) = (!open.is_empty(), open.len() >= OPEN_MAX);
            tokio::select! {
                biased;
                Some(()) = open.next(), if is_open => {}
                () = self.gate.rung(), if !is_asked => is_asked = true,
                () = async { sleep_until((left_at + OVERLAP_AFTER).into()).await }, if is_asked && is_open && !is_full => {}
                () = stop.cancelled() => return,
            }
            // Looked at here as well: under load the first two are always ready.
            if stop.is_cancelled() {
                return;
            }
            let may_leave = open.is_empty()
                || open.len() < OPEN_MAX && clock::monotonic().duration_since(left_at) >= OVERLAP_AFTER;
            if is_asked
                && may_leave
                && let Some(round) = self.gate.leave()
            {
                (is_asked, left_at) = (false, clock::monotonic());
                open.push(self.serve(round));
            }
        }
    }

    /// Runs rounds until the reads are answered or have waited too long.
    async fn serve(&self, round: Leaving) {
        let deadline = round.since + self.core.config.timing.hold_without_leader;
        let mut seen = self.leader.clone();
        loop {
            let leader = seen.borrow_and_update().clone();
            let here = leader.id == Some(self.core.local.node_id);
            let result = if !here && leader.id.is_some() && self.core.config.redirect != Redirect::Forward {
                Some(Err(ReadError::NotLeader { addr: leader.addr }))
            } else {
                let index = if here { leader_read_index(&self.core).await } else { self.ask(&leader).await };
                self.outcome(index, deadline, here).await
            };
            if let Some(result) = result {
                self.core.counters.read_round(round.reads);
                return round.answer(result);
            }
            tokio::select! {
                _ = seen.changed() => {}
                () = sleep(RETRY_PAUSE) => {}
            }
        }
    }

    /// What to tell the reads of a round, or `None` to try again.
    async fn outcome(&self, index: Option<LogId>, deadline: Instant, here: bool) -> Option<Outcome> {
        if let Some(id) = index {
            let is_behind = !self.wait_applied(id, deadline, here).await;
            self.is_behind.store(is_behind, Ordering::Relaxed);
            if !is_behind {
                return Some(Ok(()));
            }
        }
        if self.core.stop_proposer.is_cancelled() {
            return Some(Err(ReadError::ShuttingDown));
        }
        if let Some(id) = index.filter(|_| !here) {
            return Some(Err(ReadError::Behind { index: id.index }));
        }
        (deadline <= clock::monotonic()).then_some(Err(ReadError::NoLeader))
    }

    async fn ask(&self, leader: &LeaderView) -> Option<LogId> {
        let client = self.client.to(&self.core, leader.id?, &leader.peer_addr);
        let answer = timeout(ROUND_MAX, client.call(READ_INDEX, bytes::Bytes::new())).await.ok()?.ok()?;
        messages::decode_read_index(answer).ok()?
    }

    async fn wait_applied(&self, id: LogId, deadline: Instant, here: bool) -> bool {
        if planted!("read-before-apply") {
            return true;
        }
        let mut applied = self.core.apply.applied();
        let reached = applied.wait_for(|at| at.is_some_and(|at| at.index >= id.index));
        let left = deadline.saturating_duration_since(clock::monotonic());
        let limit = match (here, self.is_behind.load(Ordering::Relaxed)) {
            (true, _) => left,
            (false, false) => left.min(CATCH_UP_MAX),
            (false, true) => left.min(STILL_BEHIND_MAX),
        };
        matches!(timeout(limit, reached).await, Ok(Ok(_)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_fresh_leader_waits_for_the_first_entry_of_its_term() {
        let at = |term, index| Some(LogId { term, node: 1, index });
        let (applied, seen) = watch::channel(at(3, 10));
        assert!(applied_in_term(seen.clone(), 3, Duration::ZERO).await);
        assert!(!applied_in_term(seen.clone(), 4, Duration::from_millis(1)).await, "bounded");
        let waits = applied_in_term(seen.clone(), 4, Duration::from_mins(1));
        tokio::pin!(waits);
        assert!(futures_util::poll!(&mut waits).is_pending());
        applied.send_replace(at(3, 11));
        assert!(futures_util::poll!(&mut waits).is_pending(), "an entry of the leader before");
        applied.send_replace(at(4, 12));
        assert!(waits.await);
    }
}
