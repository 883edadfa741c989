//! The replicated group as the rest of the node sees it: propose, read barrier, status, membership.
//!
//! No openraft type appears in this interface.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use openraft::Instant as _;
use openraft::ServerState;
use openraft::async_runtime::WatchReceiver as _;

use super::core::{Core, Counters, LeaderView};
use super::divergence::Comparison;
use super::members::{self, Verb};
use super::peer::client::id_text;
use super::proposer::Proposer;
use super::reader::Reader;
pub use super::refusal::{MemberError, ProposeError, ReadError};
use super::stages::Stages;
use super::types::from_raft;
use super::{housekeeping, log, remote};
use crate::config::Consistency;
use crate::machine;
use crate::store::{Answer, Fatal, LogId, Op, Outcome, Query, Store};

/// Tasks of a group that stops are awaited for this long; all of them end by a token.
const TASKS_STOP: Duration = Duration::from_secs(1);

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
    /// Known on the leader only: its content is not that of the majority at this entry.
    pub diverged_at: Option<LogId>,
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
    /// Last entry of the local log; the last purged one when it holds none.
    pub last_log: Option<LogId>,
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
    /// Known on the leader only: up to where the contents of members were found equal.
    pub equal_at: Option<LogId>,
    /// Known on the leader only: contents of members differ here, and no majority says which is right.
    pub undecided_at: Option<LogId>,
    /// The local replay after start has reached what was committed before the stop.
    pub recovered: bool,
}

/// Checkpoints sent to and received from other members since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CheckpointCounts {
    /// Sent and installed.
    pub sent: u64,
    /// Transfers that broke off.
    pub sent_failed: u64,
    /// Bytes sent.
    pub sent_bytes: u64,
    /// Received whole.
    pub received: u64,
    /// Requests of a transfer that were refused.
    pub received_failed: u64,
    /// Bytes received.
    pub received_bytes: u64,
}

/// Who leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leader {
    /// Node id.
    pub id: u64,
    /// Client address.
    pub addr: String,
}

/// One replicated group of this node. Cheap to clone.
#[derive(Clone)]
pub struct Group {
    pub(super) core: Arc<Core>,
    pub(super) proposer: Proposer,
    pub(super) reader: Reader,
}

/// How the node left its cluster's service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stopped {
    /// It was asked to.
    Shutdown,
    /// It has taken a new id (it may have lost acknowledged entries): stop it in order, then start it again.
    NewId,
    /// Its content is not that of the majority, which this says; the process must end at once and not start again.
    Diverged(String),
    /// The Raft core died; the process must end with a non-zero code.
    Fatal(String),
}

impl Group {
    /// Proposes ops as (part of) one log entry, in order; one outcome per op. Follows or forwards to the leader by
    /// itself and holds the call while none is known, up to `Timing::hold_without_leader`.
    ///
    /// Cancel safety: dropping the future does not withdraw the proposal.
    ///
    /// # Errors
    /// See [`ProposeError`].
    pub async fn propose(&self, ops: Vec<Op>) -> Result<Vec<Outcome>, ProposeError> {
        self.propose_timed(ops).await.map(|(outcomes, _)| outcomes)
    }

    /// As [`Group::propose`], and tells where the time went.
    ///
    /// # Errors
    /// See [`ProposeError`].
    pub async fn propose_timed(&self, ops: Vec<Op>) -> Result<(Vec<Outcome>, Stages), ProposeError> {
        self.proposer.propose(ops).await
    }

    /// Returns when a read of the local store is allowed at `level`: high waits for a ReadIndex round shared with all
    /// waiting reads and for the local apply to reach it; medium returns on the leader; low returns at once.
    ///
    /// # Errors
    /// See [`ReadError`].
    pub async fn read_barrier(&self, level: Consistency) -> Result<(), ReadError> {
        self.reader.barrier(level).await
    }

    /// As [`Group::read_barrier`], for who can have the leader answer instead: where the state of this node does not
    /// come within half a second, [`ReadError::Behind`] says so.
    ///
    /// # Errors
    /// See [`ReadError`].
    pub async fn brief_read_barrier(&self, level: Consistency) -> Result<(), ReadError> {
        self.reader.brief_barrier(level).await
    }

    /// Has the leader answer a query, for a node whose barrier says [`ReadError::Behind`]; waits for a leader as long as
    /// a command is held. `by_clock`: as [`Store::query_at`] with the leader's clock, else by the log time alone.
    ///
    /// # Errors
    /// [`ReadError::NoLeader`], [`ReadError::ShuttingDown`]; [`ReadError::Behind`] if the leader refuses, as it does
    /// where the answer is larger than a frame between nodes.
    pub async fn query_leader(&self, query: &Query, by_clock: bool) -> Result<Answer, ReadError> {
        // Boxed: large, and seldom.
        Box::pin(remote::ask(&self.core, query, by_clock)).await
    }

    /// The local state machine, for reads behind a barrier.
    #[must_use]
    pub fn store(&self) -> &Arc<Store> {
        &self.core.store
    }

    /// This node's id.
    #[must_use]
    pub fn node_id(&self) -> u64 {
        self.core.local.node_id
    }

    /// The cluster's id, `None` while unformed.
    #[must_use]
    pub fn cluster_id(&self) -> Option<u64> {
        self.core.local.cluster_id()
    }

    /// Client address that others reach this node at.
    #[must_use]
    pub fn addr(&self) -> &str {
        &self.core.addr
    }

    /// Peer address that others reach this node at.
    #[must_use]
    pub fn peer_addr(&self) -> &str {
        &self.core.peer_addr
    }

    /// A picture of the group.
    #[must_use]
    pub fn status(&self) -> Status {
        let core = &self.core;
        // A copy: the borrow is a read lock, and a second one below would deadlock with the Raft core that waits between
        // the two to publish.
        let metrics = core.raft.metrics().borrow_watched().clone();
        let bounds = core.log.bounds();
        let cluster_id = core.local.cluster_id();
        let view = core.leader.borrow().clone();
        let joint = metrics.membership_config.membership().get_joint_config().len() > 1;
        let uncommitted = metrics.membership_config != metrics.committed_membership_config;
        let role = match metrics.state {
            _ if cluster_id.is_none() => Role::Unformed,
            ServerState::Leader => Role::Leader,
            ServerState::Follower => Role::Follower,
            ServerState::Candidate => Role::Candidate,
            ServerState::Learner => Role::Learner,
            ServerState::Shutdown => Role::Shutdown,
        };
        let leads = role == Role::Leader;
        // A leader that is the only voter is its own quorum; the library notes no acknowledgement for it.
        let members = core.members.load();
        let alone = !members.is_joint() && members.voters() == [core.local.node_id];
        let quorum_age = metrics.last_quorum_acked.as_ref().map(|at| millis(at.elapsed()));
        let quorum_age = if alone { Some(0) } else { quorum_age };
        let applied = core.store.applied();
        let compared = if leads { core.divergence.found() } else { Comparison::default() };
        Status {
            node_id: core.local.node_id,
            cluster_id,
            role,
            term: metrics.current_term,
            leader: leader_of(&view),
            membership_log_id: metrics.membership_config.log_id().as_ref().map(from_raft),
            members: self.member_statuses(leads, bounds.last, &compared.diverged),
            last_log: bounds.last.or(bounds.purged),
            committed: metrics.cluster_committed.as_ref().map(from_raft).max(applied),
            applied,
            durable: core.store.durable(),
            purged: bounds.purged,
            last_contact_ms: if leads { quorum_age } else { core.heard.age_ms() },
            change_in_progress: joint || uncommitted,
            equal_at: compared.equal_at,
            undecided_at: compared.undecided_at,
            recovered: core.committed_at_start <= applied,
        }
    }

    fn member_statuses(
        &self,
        leading: bool,
        last: Option<LogId>,
        diverged: &BTreeMap<u64, LogId>,
    ) -> Vec<MemberStatus> {
        let core = &self.core;
        let members = core.members.load();
        let replication = core.raft.metrics().borrow_watched().replication.clone().unwrap_or_default();
        let last_index = last.map_or(0, |id| id.index);
        let describe = |(id, node): (&u64, &super::types::Node)| {
            let own = *id == core.local.node_id;
            let matched = if own {
                core.log.flushed().map(|id| id.index)
            } else {
                replication.get(id).and_then(|id| id.as_ref()).map(|id| id.index)
            };
            let acked = if own { Some(Duration::ZERO) } else { members::last_ack(core, *id) };
            MemberStatus {
                id: *id,
                addr: node.addr.clone(),
                peer_addr: node.peer_addr.clone(),
                voter: members.is_voter(*id),
                matched_index: matched.filter(|_| leading),
                lag_entries: leading.then(|| last_index.saturating_sub(matched.unwrap_or(0))),
                last_ack_ms: acked.filter(|_| leading).map(millis),
                diverged_at: diverged.get(id).copied(),
            }
        };
        let mut known: Vec<_> = members.nodes.iter().map(describe).collect();
        known.sort_by(|a, b| a.addr.cmp(&b.addr).then(a.id.cmp(&b.id)));
        known
    }

    /// Changes of leader: id, term and address.
    #[must_use]
    pub fn leader(&self) -> Option<Leader> {
        leader_of(&self.core.leader.borrow())
    }

    /// Resolves each time the leader changes, with the new one.
    pub async fn leader_changed(&self, known: Option<&Leader>) -> Option<Leader> {
        let mut watch = self.core.leader_watch();
        match watch.wait_for(|view| leader_of(view).as_ref() != known).await {
            Ok(view) => leader_of(&view),
            Err(_) => None,
        }
    }

    /// Founds a one-node cluster with this node as its only voter. Idempotent for the same id.
    ///
    /// # Errors
    /// [`MemberError::Refused`] if the node belongs to another cluster or was told to join one.
    pub async fn found(&self, cluster_id: Option<u64>) -> Result<u64, MemberError> {
        super::start::found(&self.core, cluster_id).await
    }

    /// RAFTADDPEER: adds the node that answers at this client address as a learner; with `wants_vote` it becomes a
    /// voter by itself once it has caught up. Idempotent. Forwarded to the leader.
    ///
    /// # Errors
    /// See [`MemberError`].
    pub async fn add_peer(
        &self,
        addr: String,
        wants_vote: bool,
        expect: Option<LogId>,
    ) -> Result<(), MemberError> {
        members::run(&self.core, &Verb::Add { addr, wants_vote, expect }).await
    }

    /// RAFTREMOVEPEER: removes a member by client address or node id (hex). Idempotent. Forwarded to the leader.
    ///
    /// # Errors
    /// See [`MemberError`].
    pub async fn remove_peer(&self, target: String, expect: Option<LogId>) -> Result<(), MemberError> {
        members::run(&self.core, &Verb::Remove { target, expect }).await
    }

    /// Lets a learner become a voter once it has caught up. Idempotent. Forwarded to the leader.
    ///
    /// # Errors
    /// See [`MemberError`].
    pub async fn promote(&self, target: String, expect: Option<LogId>) -> Result<(), MemberError> {
        members::run(&self.core, &Verb::Promote { target, expect }).await
    }

    /// Makes these members, and no others, the voters by one joint change. Idempotent. Forwarded to the leader.
    ///
    /// # Errors
    /// See [`MemberError`].
    pub async fn set_voters(&self, voters: BTreeSet<u64>, expect: Option<LogId>) -> Result<(), MemberError> {
        members::run(&self.core, &Verb::SetVoters { voters, expect }).await
    }

    /// RAFTTRANSFER: hands leadership to a voter (client address or id), or to the most caught-up one.
    ///
    /// # Errors
    /// See [`MemberError`].
    pub async fn transfer_leader(&self, to: Option<String>) -> Result<(), MemberError> {
        members::run(&self.core, &Verb::Transfer { to }).await
    }

    /// RAFTSHRINKLOG: makes the state durable and purges the whole log behind it.
    ///
    /// # Errors
    /// [`MemberError::Unknown`] when the Raft core has stopped.
    pub async fn shrink_log(&self) -> Result<(), MemberError> {
        let stopped = || MemberError::Unknown("the Raft core stopped".into());
        let applied = self.core.store.applied();
        // Only what is synced is purged. What is applied need not be: at a lower durability, or where the others were faster.
        let log = self.core.log.clone();
        if !matches!(machine::spawn_blocking(move || log.sync()).await, Ok(Ok(()))) {
            return Err(stopped());
        }
        housekeeping::purge_when_due(&self.core, 0).await;
        let mut metrics = self.core.raft.metrics();
        let wanted = applied.map(|id| id.index);
        let purged = metrics.wait_until(|m| m.purged.as_ref().map(|id| id.index) >= wanted);
        match tokio::time::timeout(Duration::from_secs(10), purged).await {
            Ok(Ok(_)) | Err(_) => Ok(()),
            Ok(Err(_)) => Err(stopped()),
        }
    }

    /// Sends a message to all other members, at most once: one that cannot be reached, or has too much waiting, misses it.
    /// What one node sends arrives in order. `to_shard`: to the listeners of a shard channel.
    pub fn broadcast(&self, to_shard: bool, channel: &Bytes, message: &Bytes) {
        self.core.messages.broadcast(&self.core, to_shard, channel, message);
    }

    /// Says what becomes of messages that other members send. Only the first call counts.
    pub fn on_message(&self, deliver: impl Fn(bool, &Bytes, &Bytes) + Send + Sync + 'static) {
        self.core.messages.on_message(Box::new(deliver));
    }

    /// Asks all other members something that the log does not know, in words; the answers of those that can be reached and
    /// are quick. A version that does not know questions gives none.
    pub async fn ask(&self, question: &[Bytes]) -> Vec<Vec<Bytes>> {
        self.core.messages.ask(&self.core, question).await
    }

    /// Says how questions of other members are answered. Only the first call counts.
    pub fn on_question(&self, answer: impl Fn(Vec<Bytes>) -> Vec<Bytes> + Send + Sync + 'static) {
        self.core.messages.on_question(Box::new(answer));
    }

    /// Runs a task that ends with the group.
    pub fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.core.tasks.spawn(task);
    }

    /// Counters of the Raft log.
    #[must_use]
    pub fn log_stats(&self) -> log::LogStats {
        self.core.log.stats()
    }

    /// Last entry of the local log that is synced.
    #[must_use]
    pub fn synced(&self) -> Option<LogId> {
        self.core.log.flushed()
    }

    /// Bytes of Raft log on disk.
    #[must_use]
    pub fn log_bytes(&self) -> u64 {
        self.core.log.retained_bytes()
    }

    /// Counters of the group's tasks.
    #[must_use]
    pub fn counters(&self) -> &Counters {
        &self.core.counters
    }

    /// Bytes of proposals that are not answered yet.
    #[must_use]
    pub fn open_bytes(&self) -> u64 {
        self.proposer.open_bytes()
    }

    /// Members' wall clocks minus this node's, in milliseconds, as their acknowledgements to this leader say; empty on
    /// any other node.
    #[must_use]
    pub fn clock_offsets_ms(&self) -> Vec<(u64, i64)> {
        let core = &self.core;
        if !core.is_leader() {
            return Vec::new();
        }
        let own = core.local.node_id;
        let offset = |id| if id == own { Some(0) } else { core.clocks.offset_ms(id) };
        core.members.load().nodes.keys().filter_map(|id| Some((*id, offset(*id)?))).collect()
    }

    /// Counts of checkpoints since the start.
    #[must_use]
    pub fn checkpoints(&self) -> CheckpointCounts {
        let get = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
        let (outgoing, incoming) = (&self.core.outgoing, &self.core.incoming);
        CheckpointCounts {
            sent: get(&outgoing.sent),
            sent_failed: get(&outgoing.failed),
            sent_bytes: get(&outgoing.sent_bytes),
            received: get(&incoming.received),
            received_failed: get(&incoming.failed),
            received_bytes: get(&incoming.received_bytes),
        }
    }

    /// Free bytes on the volume of the Raft log, never older than one round of housekeeping.
    #[must_use]
    pub fn disk_free_bytes(&self) -> u64 {
        self.core.disk.free_bytes()
    }

    /// Why writes that need space are refused, if they are.
    #[must_use]
    pub fn disk_problem(&self) -> Option<String> {
        self.core.disk.full()
    }

    /// Resolves when the Raft core has ended.
    pub async fn stopped(&self) -> Stopped {
        let mut metrics = self.core.raft.metrics();
        let died = async {
            loop {
                if let Err(fatal) = &metrics.borrow_and_update().running_state {
                    return fatal.to_string();
                }
                if metrics.changed().await.is_err() {
                    return "the Raft core is gone".to_owned();
                }
            }
        };
        tokio::select! {
            () = self.core.renewed.cancelled() => Stopped::NewId,
            why = self.core.divergence.stops() => Stopped::Diverged(why),
            why = died => {
                if self.core.shutdown.is_cancelled() {
                    return Stopped::Shutdown;
                }
                self.core.doubt.failed();
                Stopped::Fatal(why)
            }
        }
    }

    /// Hands leadership over if this node has it and another voter can take it.
    pub async fn hand_over(&self) {
        if !self.core.is_leader() {
            return;
        }
        match members::await_successor(&self.core).await {
            Ok(successor) => {
                let handed = members::transfer(&self.core, successor).await;
                if let Err(error) = handed
                    && self.core.is_leader()
                {
                    tracing::warn!(%error, to = %id_text(successor), "leadership not handed over");
                }
            }
            Err(error) => tracing::info!(%error, "stopping as leader"),
        }
    }

    /// Refuses what waits for a leader, and all that comes from now on, as [`ProposeError::ShuttingDown`]: nothing of
    /// it was done. What is on its way to a leader already is answered as unknown. For a node that stops and can serve
    /// nothing until then.
    pub fn refuse(&self) {
        self.core.stop_proposer.cancel();
    }

    /// Ends the group: answers what is open, makes state and log durable. Call after the clients are gone.
    ///
    /// # Errors
    /// [`Fatal`] when the last flush or sync failed; everything acknowledged is in the log at durability high.
    pub async fn shutdown(&self) -> Result<(), Fatal> {
        let core = &self.core;
        core.shutdown.cancel();
        core.stop_proposer.cancel();
        core.confirm.close();
        core.messages.close();
        if let Err(error) = core.raft.shutdown().await {
            tracing::warn!(%error, "Raft core did not stop cleanly");
        }
        crash_point!("stop-core-ended");
        // A full disk must not keep the node from stopping; the log has everything.
        core.store.give_up_waiting();
        core.apply.stop().await?;
        crash_point!("stop-flushed");
        let log = core.log.clone();
        let closed = machine::spawn_blocking(move || log.close()).await;
        core.tasks.close();
        // Then the files are free, so that a program that embeds a node can open them again.
        if tokio::time::timeout(TASKS_STOP, core.tasks.wait()).await.is_err() {
            tracing::warn!(tasks = core.tasks.len(), "tasks still run at the stop");
        }
        match closed {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => {
                core.doubt.failed();
                Err(Fatal::new("close the Raft log", error))
            }
            Err(error) => Err(Fatal::new("close the Raft log", error)),
        }
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn leader_of(view: &LeaderView) -> Option<Leader> {
    view.id.map(|id| Leader { id, addr: view.addr.clone() })
}
