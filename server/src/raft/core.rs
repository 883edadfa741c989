//! What the tasks of one group share.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use arc_swap::{ArcSwap, ArcSwapOption};
use openraft::async_runtime::WatchReceiver as _;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::apply::ApplyHandle;
use super::broadcast::Messages;
use super::confirm::{Confirm, Told};
use super::divergence::Divergence;
use super::doubt::Doubt;
use super::election_timeout::ElectionTimeout;
use super::group::ProposeError;
use super::identity::Identity;
use super::log::RaftLog;
use super::peer::checkpoint::{Incoming, Outgoing};
use super::peer::{Local, PeerClocks};
use super::remote::LeaderClient;
use super::resolver::Resolver;
use super::types::{Members, Raft};
use crate::clock::{self, UnixMs};
use crate::config::Config;
use crate::store::{LogId, Store};

/// Who leads, as the tasks need it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct LeaderView {
    pub(super) id: Option<u64>,
    /// Term of that leader.
    pub(super) term: u64,
    pub(super) addr: String,
    pub(super) peer_addr: String,
}

/// Shared parts of a group.
pub(super) struct Core {
    pub(super) config: Arc<Config>,
    pub(super) local: Arc<Local>,
    pub(super) identity: Identity,
    pub(super) doubt: Doubt,
    pub(super) divergence: Divergence,
    /// The node has taken a new id: it is to stop and to start again with it.
    pub(super) renewed: CancellationToken,
    /// Client and peer address that others reach this node at.
    pub(super) addr: String,
    pub(super) peer_addr: String,
    pub(super) raft: Raft,
    pub(super) store: Arc<Store>,
    pub(super) log: Arc<RaftLog>,
    pub(super) apply: ApplyHandle,
    pub(super) resolver: Arc<Resolver>,
    pub(super) clocks: Arc<PeerClocks>,
    pub(super) outgoing: Arc<Outgoing>,
    pub(super) incoming: Arc<Incoming>,
    pub(super) told: Arc<Told>,
    pub(super) confirm: Confirm,
    pub(super) leader: watch::Sender<LeaderView>,
    pub(super) members: ArcSwap<Members>,
    /// Last entry known to be committed when the node started; until it is applied the state is of the past.
    pub(super) committed_at_start: Option<LogId>,
    pub(super) disk: Disk,
    pub(super) heard: Contact,
    pub(super) election_timeout: ElectionTimeout,
    pub(super) counters: Counters,
    pub(super) tasks: TaskTracker,
    /// The node is to stop: nothing new is begun, but what clients have sent is still served.
    pub(super) shutdown: CancellationToken,
    /// Clients are drained: proposer, reader and peer service end.
    pub(super) stop_proposer: CancellationToken,
    /// While true, nothing is proposed; calls wait (a hand-over is running).
    pub(super) hold_proposals: watch::Sender<bool>,
    pub(super) in_flight: watch::Sender<usize>,
    pub(super) log_time_ms: AtomicU64,
    /// Messages of PUBLISH.
    pub(super) messages: Messages,
    pub(super) remote: LeaderClient,
    pub(super) started: Instant,
    /// Until then reads are confirmed by a round, not by a lease.
    pub(super) no_lease_until: ArcSwapOption<Instant>,
    /// One hand-over at a time: they share `hold_proposals`.
    pub(super) transfer: tokio::sync::Mutex<()>,
    /// One membership change at a time on this node.
    pub(super) change: tokio::sync::Mutex<()>,
}

impl Core {
    pub(super) fn leader_watch(&self) -> watch::Receiver<LeaderView> {
        self.leader.subscribe()
    }

    pub(super) fn is_leader(&self) -> bool {
        self.leader.borrow().id == Some(self.local.node_id)
    }

    /// Log time for the next entry: this clock, moved to the median of the voters' clocks, never backwards.
    pub(super) fn log_time(&self) -> UnixMs {
        let offset = self.clocks.median_ms(self.members.load().voters());
        let now = clock::wall().0.saturating_add_signed(offset);
        let before = self.log_time_ms.fetch_max(now, Ordering::AcqRel);
        UnixMs(before.max(now))
    }

    /// Length of the leader lease: what a follower grants a leader from which it heard.
    pub(super) fn lease(&self) -> Duration {
        self.config.timing.election_timeout_max
    }

    /// For how long the leader trusts it; the rest is for the difference between two monotonic clocks.
    pub(super) fn lease_trusted(&self) -> Duration {
        self.lease().mul_f32(if planted!("lease-too-long") { 3.0 } else { 0.8 })
    }

    /// False from the start of a hand-over until one lease later.
    pub(super) fn lease_is_safe(&self) -> bool {
        planted!("lease-kept-over-transfer")
            || self.no_lease_until.load().as_ref().is_none_or(|until| **until <= clock::monotonic())
    }

    pub(super) fn suspend_lease(&self) {
        self.no_lease_until.store(Some(Arc::new(clock::monotonic() + self.lease() * 2)));
    }

    /// openraft forgets over a restart the lease that it had granted, so a restarted voter waits one lease before it
    /// votes: a leader that still holds that lease cannot be replaced meanwhile.
    pub(super) fn may_vote(&self) -> bool {
        let alone = self.members.load().nodes.len() <= 1;
        alone
            || planted!("vote-right-after-restart")
            || clock::monotonic().duration_since(self.started) >= self.lease()
    }

    /// Returns when the Raft core has stopped, by shutdown or by an error.
    pub(super) async fn stopped(&self) {
        let mut metrics = self.raft.server_metrics();
        while metrics.changed().await.is_ok() {}
    }
}

/// When the leader of the present term was heard last.
pub(super) struct Contact {
    since: Instant,
    /// Milliseconds from `since`, plus one; 0 = never.
    at_ms: AtomicU64,
}

impl Default for Contact {
    fn default() -> Self {
        Self { since: clock::monotonic(), at_ms: AtomicU64::new(0) }
    }
}

impl Contact {
    fn elapsed_ms(&self) -> u64 {
        u64::try_from(clock::monotonic().duration_since(self.since).as_millis()).unwrap_or(u64::MAX)
    }

    /// It was heard now.
    pub(super) fn note(&self) {
        self.at_ms.fetch_max(self.elapsed_ms().saturating_add(1), Ordering::Relaxed);
    }

    /// Milliseconds since, or `None` if it was never heard.
    pub(super) fn age_ms(&self) -> Option<u64> {
        let at = self.at_ms.load(Ordering::Relaxed).checked_sub(1)?;
        Some(self.elapsed_ms().saturating_sub(at))
    }
}

/// Whether the disk has room for growth.
#[derive(Default)]
pub(super) struct Disk {
    problem: ArcSwapOption<String>,
    free_bytes: AtomicU64,
}

impl Disk {
    /// What to tell a client whose write needs space, or `None` while there is room.
    pub(super) fn full(&self) -> Option<String> {
        self.problem.load().as_deref().cloned()
    }

    /// Free bytes on the volume of the Raft log when housekeeping looked last.
    pub(super) fn free_bytes(&self) -> u64 {
        self.free_bytes.load(Ordering::Relaxed)
    }

    pub(super) fn set_free_bytes(&self, bytes: u64) {
        self.free_bytes.store(bytes, Ordering::Relaxed);
    }

    pub(super) fn set(&self, problem: Option<String>) {
        self.problem.store(problem.map(Arc::new));
    }
}

/// Counts for metrics and INFO.
#[derive(Debug, Default)]
pub struct Counters {
    /// Calls that propose.
    pub proposals: AtomicU64,
    /// Of these, refused or lost: per reason of [`ProposeError::REASONS`].
    pub proposal_errors: [AtomicU64; ProposeError::REASONS.len()],
    /// Entries proposed by this node (also forwarded ones).
    pub batches: AtomicU64,
    /// Ops in them.
    pub batch_ops: AtomicU64,
    /// ReadIndex rounds.
    pub read_rounds: AtomicU64,
    /// Reads served by them.
    pub reads_confirmed: AtomicU64,
    /// Changes of leader seen.
    pub leader_changes: AtomicU64,
}

impl Counters {
    pub(super) fn proposal_error(&self, error: &ProposeError) {
        let at = ProposeError::REASONS.iter().position(|reason| *reason == error.reason());
        if let Some(counter) = at.and_then(|at| self.proposal_errors.get(at)) {
            counter.fetch_add(1, Ordering::Relaxed);
        }
    }

    pub(super) fn batch(&self, ops: usize) {
        self.batches.fetch_add(1, Ordering::Relaxed);
        self.batch_ops.fetch_add(ops as u64, Ordering::Relaxed);
    }

    pub(super) fn read_round(&self, reads: usize) {
        self.read_rounds.fetch_add(1, Ordering::Relaxed);
        self.reads_confirmed.fetch_add(reads as u64, Ordering::Relaxed);
    }
}
