//! Many callers, one queue, few entries: everything that is pending becomes the next log entry.
//!
//! ```text
//! propose() --> [queue, bounded by bytes] --> batch (one entry) --> leader here:  raft.write(..).with_leader(term)
//!                                               in flight <= 8      leader there: FORWARD frame to it
//! ```
//!
//! No timer: the first command leaves at once; while entries are in flight, the next one gathers until it is worth as
//! much as all of them, or one of them ends. What an entry costs beside its ops (wake-ups, frames, syncs on every node)
//! is then paid a few times per round trip at most, and entries that are large in bytes still follow each other closely. What a lost leader
//! leaves open is settled by the local apply (`resolver`), so a client of a surviving node sees a pause, not an error.
//!
//! Invariants
//! - An op is proposed again only when its batch is known not to be, and never to become, part of the log.
//! - The ops of one call stay together, in one entry. Batches of one node are sent in order; after one was not proposed,
//!   nothing is sent before all in flight are settled and the rejected ones are back at the head of the queue. This
//!   keeps the queue fair; it is no order between calls: a batch that a refusal overtook may land behind a later one.
//!   A connection's order rests on its having one call open at a time.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use bytes::{BufMut, Bytes, BytesMut};
use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use openraft::errors::ClientWriteError;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot, watch};
use tokio::time::{sleep, sleep_until, timeout};

use super::codec::ENTRY_BATCH;
use super::core::{Core, LeaderView};
use super::group::ProposeError;
use super::peer::client::{CallError, PeerClient};
use super::peer::messages::{FORWARD, Forward, Forwarded};
use super::resolver::Resolution;
use super::stages::{Moments, Stages};
use super::types::{EntryData, LeaderId, Responder};
use crate::clock;
use crate::config::Redirect;
use crate::store::codec::{self as store_codec, BatchHead};
use crate::store::{Op, Outcome};

/// Calls that wait in the channel; their bytes are bounded by the semaphore.
const CALLS_MAX: usize = 16 * 1024;
/// After a rejection that the leader watch does not explain, wait this long before trying again.
const RETRY_PAUSE: Duration = Duration::from_millis(10);
/// Pending bytes that leave as long as there is room in flight: what an entry costs beside its bytes is small then.
const STREAM_BYTES: usize = 128 * 1024;
/// An unresolved batch is given up after this long.
const RESOLVE_MAX: Duration = Duration::from_secs(10);

type Answer = Result<(Vec<Outcome>, Stages), ProposeError>;

struct Call {
    ops: Vec<Op>,
    size_bytes: usize,
    asked: Instant,
    deadline: Instant,
    reply: oneshot::Sender<Answer>,
    /// Given back when the call is answered.
    _permit: OwnedSemaphorePermit,
}

/// What became of a batch.
enum Fate {
    Applied(Vec<Outcome>, Stages),
    NotProposed,
    DiskFull(String),
    Unknown(String),
}

struct Settled {
    sequence: u64,
    calls: Vec<Call>,
    /// When the entry left.
    sent: Instant,
    fate: Fate,
}

/// Calls that are not in an entry yet.
#[derive(Default)]
struct Pending {
    calls: VecDeque<Call>,
    ops: usize,
    size_bytes: usize,
}

impl Pending {
    fn push_back(&mut self, call: Call) {
        self.ops += call.ops.len();
        self.size_bytes += call.size_bytes;
        self.calls.push_back(call);
    }

    fn push_front(&mut self, call: Call) {
        self.ops += call.ops.len();
        self.size_bytes += call.size_bytes;
        self.calls.push_front(call);
    }

    fn pop_front(&mut self) -> Option<Call> {
        let call = self.calls.pop_front()?;
        self.ops -= call.ops.len();
        self.size_bytes -= call.size_bytes;
        Some(call)
    }

    fn drain(&mut self) -> VecDeque<Call> {
        std::mem::take(self).calls
    }
}

/// Entry of the proposer, shared by all connections.
#[derive(Clone)]
pub(super) struct Proposer {
    calls: mpsc::Sender<Call>,
    permits: Arc<Semaphore>,
    bytes_max: usize,
    hold: Duration,
    entry_bytes_hard_max: usize,
    core: Arc<Core>,
}

impl Proposer {
    /// Starts the proposer's task.
    pub(super) fn spawn(core: &Arc<Core>) -> Self {
        let (calls, queue) = mpsc::channel(CALLS_MAX);
        let limits = &core.config.limits;
        let bytes_max = limits.queue_bytes_max.min(Semaphore::MAX_PERMITS);
        let permits = Arc::new(Semaphore::new(bytes_max));
        let task = Task {
            core: core.clone(),
            queue,
            pending: Pending::default(),
            rejected: Vec::new(),
            in_flight: FuturesUnordered::new(),
            in_flight_ops: 0,
            leader: core.leader_watch(),
            paused: core.hold_proposals.subscribe(),
            forward: None,
            next_sequence: 1,
            retry_at: None,
        };
        core.tasks.spawn(task.run());
        Self {
            calls,
            permits,
            bytes_max,
            hold: core.config.timing.hold_without_leader,
            entry_bytes_hard_max: limits.request_bytes_max,
            core: core.clone(),
        }
    }

    /// See `Group::propose`.
    pub(super) async fn propose(&self, ops: Vec<Op>) -> Answer {
        let counters = &self.core.counters;
        counters.proposals.fetch_add(1, Ordering::Relaxed);
        let answer = self.answer(ops).await;
        if let Err(error) = &answer {
            counters.proposal_error(error);
        }
        answer
    }

    /// Bytes of ops that are not answered yet.
    pub(super) fn open_bytes(&self) -> u64 {
        self.bytes_max.saturating_sub(self.permits.available_permits()) as u64
    }

    async fn answer(&self, ops: Vec<Op>) -> Answer {
        if ops.is_empty() {
            return Ok((Vec::new(), Stages::default()));
        }
        let size_bytes: usize = ops.iter().map(Op::size_bytes).sum();
        if size_bytes > self.entry_bytes_hard_max {
            return Err(ProposeError::TooLarge { size_bytes, limit_bytes: self.entry_bytes_hard_max });
        }
        if self.core.stop_proposer.is_cancelled() {
            return Err(ProposeError::ShuttingDown);
        }
        let asked = clock::monotonic();
        let deadline = asked + self.hold;
        let weight = u32::try_from(size_bytes).unwrap_or(u32::MAX);
        let permit = match timeout(self.hold, self.permits.clone().acquire_many_owned(weight)).await {
            Ok(Ok(permit)) => permit,
            Ok(Err(_)) => return Err(ProposeError::ShuttingDown),
            Err(_) => return Err(ProposeError::Busy),
        };
        let (reply, answer) = oneshot::channel();
        let call = Call { ops, size_bytes, asked, deadline, reply, _permit: permit };
        self.calls.send(call).await.map_err(|_| ProposeError::ShuttingDown)?;
        answer.await.unwrap_or_else(|_| Err(ProposeError::Unknown("the node stopped".into())))
    }
}

struct Task {
    core: Arc<Core>,
    queue: mpsc::Receiver<Call>,
    pending: Pending,
    /// Batches to put back, until nothing is in flight.
    rejected: Vec<(u64, Vec<Call>)>,
    in_flight: FuturesUnordered<BoxFuture<'static, Settled>>,
    in_flight_ops: usize,
    leader: watch::Receiver<LeaderView>,
    paused: watch::Receiver<bool>,
    forward: Option<(u64, PeerClient)>,
    next_sequence: u64,
    retry_at: Option<Instant>,
}

impl Task {
    async fn run(mut self) {
        let stop = self.core.stop_proposer.clone();
        loop {
            self.send_what_can_be_sent().await;
            let wake_at = self.wake_at();
            tokio::select! {
                biased;
                Some(settled) = self.in_flight.next() => self.settle(settled),
                call = self.queue.recv(), if self.pending.calls.len() < CALLS_MAX => match call {
                    Some(call) => self.pending.push_back(call),
                    None => return,
                },
                changed = self.leader.changed() => if changed.is_err() { return },
                _ = self.paused.changed() => {}
                () = sleep_until(wake_at.into()) => self.expire(),
                () = stop.cancelled() => return self.refuse_all(),
            }
            while self.pending.calls.len() < CALLS_MAX
                && let Ok(call) = self.queue.try_recv()
            {
                self.pending.push_back(call);
            }
        }
    }

    /// Proposals in flight that a hand-over must wait for.
    fn publish_in_flight(&self) {
        self.core.in_flight.send_if_modified(|count| {
            let now = self.in_flight.len();
            std::mem::replace(count, now) != now
        });
    }

    fn wake_at(&self) -> Instant {
        let far = clock::monotonic() + Duration::from_hours(1);
        let oldest = self.pending.calls.front().map_or(far, |call| call.deadline);
        self.retry_at.map_or(oldest, |at| at.min(oldest))
    }

    /// Answers calls that waited too long for a leader. Only what was never sent is in `pending`.
    fn expire(&mut self) {
        let now = clock::monotonic();
        if self.retry_at.is_some_and(|at| at <= now) {
            self.retry_at = None;
        }
        while self.pending.calls.front().is_some_and(|call| call.deadline <= now) {
            if let Some(call) = self.pending.pop_front() {
                let unformed = self.core.local.cluster_id().is_none();
                let error = if unformed { ProposeError::Unformed } else { ProposeError::NoLeader };
                let _ = call.reply.send(Err(error));
            }
        }
    }

    fn refuse_all(&mut self) {
        for call in self.pending.drain() {
            let _ = call.reply.send(Err(ProposeError::ShuttingDown));
        }
    }

    async fn send_what_can_be_sent(&mut self) {
        while !self.pending.calls.is_empty()
            && self.rejected.is_empty()
            && self.retry_at.is_none()
            && !*self.paused.borrow()
            && self.is_worth_an_entry()
        {
            let leader = self.leader.borrow_and_update().clone();
            if leader.id == Some(self.core.local.node_id) {
                self.send_here(leader.term).await;
            } else if let Some((id, term)) = leader.id.map(|id| (id, leader.term)) {
                if self.core.config.redirect != Redirect::Forward {
                    let addr = leader.addr.clone();
                    for call in self.pending.drain() {
                        let _ = call.reply.send(Err(ProposeError::NotLeader { addr: addr.clone() }));
                    }
                    return;
                }
                self.send_there(id, term, &leader.peer_addr);
            } else {
                break;
            }
        }
        self.publish_in_flight();
    }

    fn is_worth_an_entry(&self) -> bool {
        let limits = &self.core.config.limits;
        let worth = self.pending.ops >= self.in_flight_ops || self.pending.size_bytes >= STREAM_BYTES;
        self.in_flight.is_empty() || worth && self.in_flight.len() < limits.entries_in_flight_max
    }

    /// Takes the next entry's worth of calls off the queue.
    fn take_calls(&mut self) -> Vec<Call> {
        let limits = &self.core.config.limits;
        let (mut ops, mut bytes, mut calls) = (0, 0, Vec::new());
        while let Some(call) = self.pending.calls.front() {
            ops += call.ops.len();
            bytes += call.size_bytes;
            if !calls.is_empty() && (ops > limits.entry_ops_max || bytes > limits.entry_bytes_max) {
                break;
            }
            calls.extend(self.pending.pop_front());
        }
        calls
    }

    fn encode(&mut self, calls: &[Call]) -> (u64, Bytes) {
        let sequence = self.next_sequence;
        self.next_sequence += 1;
        let mut out =
            BytesMut::with_capacity(64 + calls.iter().map(|call| call.size_bytes + 8).sum::<usize>());
        out.put_u8(ENTRY_BATCH);
        let head = BatchHead { at: self.core.log_time(), origin: self.core.resolver.origin(), sequence };
        let ops = calls.iter().flat_map(|call| &call.ops);
        store_codec::encode_batch(head, ops, &mut out);
        self.core.counters.batch(count_ops(calls));
        (sequence, out.freeze())
    }

    async fn send_here(&mut self, term: u64) {
        if let Some(problem) = self.core.disk.full() {
            self.refuse_growth(&problem);
            if self.pending.calls.is_empty() {
                return;
            }
        }
        let calls = self.take_calls();
        self.in_flight_ops += count_ops(&calls);
        let (sequence, bytes) = self.encode(&calls);
        let resolved = self.core.resolver.register(sequence, (term, self.core.local.node_id));
        let sent = clock::monotonic();
        let (responder, answer) = Responder::new();
        let leader = LeaderId { term, node_id: self.core.local.node_id };
        let written = self.core.raft.write(EntryData(bytes)).with_leader(leader).responder(responder).await;
        crash_point!("proposed-not-answered");
        let stopped = written.is_err();
        let core = self.core.clone();
        self.in_flight.push(Box::pin(async move {
            if planted!("reply-before-commit") {
                core.resolver.forget(sequence);
                let outcomes = vec![Outcome::Ok; count_ops(&calls)];
                return Settled { sequence, calls, sent, fate: Fate::Applied(outcomes, Stages::default()) };
            }
            let rejected = async move {
                match answer.await {
                    Ok(Err(ClientWriteError::ForwardToLeader(_))) => true,
                    // Success is seen by the resolver; a discarded entry and a stopped core are settled by it too.
                    _ => std::future::pending().await,
                }
            };
            let fate = settle(&core, sequence, sent, resolved, rejected, stopped).await;
            Settled { sequence, calls, sent, fate }
        }));
    }

    fn send_there(&mut self, leader: u64, term: u64, peer_addr: &str) {
        let client = match &self.forward {
            Some((id, client)) if *id == leader => client.clone(),
            _ => {
                let client =
                    PeerClient::new(self.core.local.clone(), leader, peer_addr.to_owned(), &self.core.tasks);
                self.forward = Some((leader, client.clone()));
                client
            }
        };
        let calls = self.take_calls();
        self.in_flight_ops += count_ops(&calls);
        let (sequence, bytes) = self.encode(&calls);
        let resolved = self.core.resolver.register(sequence, (term, leader));
        let sent = clock::monotonic();
        let forward = Forward { term, leader, batch: bytes.slice(1..) };
        let answer = client.call(FORWARD, forward.encode());
        crash_point!("forwarded-not-answered");
        let core = self.core.clone();
        self.in_flight.push(Box::pin(async move {
            let fate = settle_forwarded(&core, sequence, sent, resolved, answer).await;
            Settled { sequence, calls, sent, fate }
        }));
    }

    /// With a full disk only what frees space goes on.
    fn refuse_growth(&mut self, problem: &str) {
        let (freeing, growing): (VecDeque<Call>, VecDeque<Call>) =
            self.pending.drain().into_iter().partition(|call| call.ops.iter().all(Op::frees_space));
        for call in freeing {
            self.pending.push_back(call);
        }
        for call in growing {
            let _ = call.reply.send(Err(ProposeError::DiskFull(problem.to_owned())));
        }
    }

    fn settle(&mut self, settled: Settled) {
        self.in_flight_ops -= count_ops(&settled.calls);
        match settled.fate {
            Fate::Applied(outcomes, stages) => {
                crash_point!("outcome-known-not-replied");
                answer_calls(settled.calls, outcomes, settled.sent, stages);
            }
            Fate::NotProposed => {
                self.rejected.push((settled.sequence, settled.calls));
            }
            Fate::DiskFull(problem) => {
                let (freeing, growing): (Vec<Call>, Vec<Call>) =
                    settled.calls.into_iter().partition(|call| call.ops.iter().all(Op::frees_space));
                for call in growing {
                    let _ = call.reply.send(Err(ProposeError::DiskFull(problem.clone())));
                }
                if !freeing.is_empty() {
                    self.rejected.push((settled.sequence, freeing));
                }
            }
            Fate::Unknown(text) => {
                for call in settled.calls {
                    let _ = call.reply.send(Err(ProposeError::Unknown(text.clone())));
                }
            }
        }
        if self.in_flight.is_empty() && !self.rejected.is_empty() {
            self.rejected.sort_by_key(|(sequence, _)| *sequence);
            for (_, calls) in self.rejected.drain(..).rev() {
                for call in calls.into_iter().rev() {
                    self.pending.push_front(call);
                }
            }
            self.retry_at = Some(clock::monotonic() + RETRY_PAUSE);
        }
        self.publish_in_flight();
    }
}

fn count_ops(calls: &[Call]) -> usize {
    calls.iter().map(|call| call.ops.len()).sum()
}

fn answer_calls(calls: Vec<Call>, outcomes: Vec<Outcome>, sent: Instant, stages: Stages) {
    let mut outcomes = outcomes.into_iter();
    for call in calls {
        let mine: Vec<Outcome> = outcomes.by_ref().take(call.ops.len()).collect();
        let answer = if mine.len() == call.ops.len() {
            Ok((mine, stages.after(sent.saturating_duration_since(call.asked))))
        } else {
            Err(ProposeError::Unknown("the entry was applied before this node started".into()))
        };
        // The client may have hung up meanwhile.
        let _ = call.reply.send(answer);
    }
}

/// Waits for the local apply, or for the news that the batch was not proposed.
async fn settle(
    core: &Core,
    sequence: u64,
    sent: Instant,
    resolved: oneshot::Receiver<Resolution>,
    rejected: impl Future<Output = bool>,
    stopped: bool,
) -> Fate {
    if stopped {
        core.resolver.forget(sequence);
        return Fate::Unknown("the Raft core stopped".into());
    }
    tokio::select! {
        biased;
        resolution = resolved => fate_of(resolution, |moments| Stages::here(sent, moments)),
        _ = rejected => {
            core.resolver.forget(sequence);
            Fate::NotProposed
        }
        () = core.stopped() => Fate::Unknown("the Raft core stopped".into()),
        () = sleep(RESOLVE_MAX) => {
            core.resolver.forget(sequence);
            Fate::Unknown("no quorum confirmed it in time".into())
        }
    }
}

async fn settle_forwarded(
    core: &Core,
    sequence: u64,
    sent: Instant,
    mut resolved: oneshot::Receiver<Resolution>,
    answer: impl Future<Output = Result<Bytes, CallError>>,
) -> Fate {
    let there = |_: Moments| Stages::there(sent, clock::monotonic());
    let answer = tokio::select! {
        biased;
        resolution = &mut resolved => return fate_of(resolution, there),
        answer = answer => answer,
    };
    let forwarded = answer.map(Forwarded::decode);
    match forwarded {
        Ok(Ok(Forwarded::Done(outcomes))) => {
            core.resolver.forget(sequence);
            match store_codec::decode_outcomes(&mut outcomes.clone()) {
                Ok(outcomes) => Fate::Applied(outcomes, Stages::there(sent, clock::monotonic())),
                Err(error) => Fate::Unknown(format!("the leader's answer cannot be read: {error}")),
            }
        }
        Ok(Ok(Forwarded::NotProposed)) | Err(CallError::NotSent(_)) => {
            core.resolver.forget(sequence);
            Fate::NotProposed
        }
        Ok(Ok(Forwarded::DiskFull(problem))) => {
            core.resolver.forget(sequence);
            Fate::DiskFull(problem)
        }
        // It may be in the log: only the local apply can tell.
        Ok(Ok(Forwarded::Unknown) | Err(_)) | Err(CallError::Lost(_) | CallError::Refused(_)) => {
            if planted!("lost-batch-proposed-again") {
                core.resolver.forget(sequence);
                return Fate::NotProposed;
            }
            if let Ok(resolution) = timeout(RESOLVE_MAX, resolved).await {
                return fate_of(resolution, there);
            }
            core.resolver.forget(sequence);
            Fate::Unknown("the leader was lost and no other one settled it in time".into())
        }
    }
}

fn fate_of(
    resolution: Result<Resolution, oneshot::error::RecvError>,
    stages: impl FnOnce(Moments) -> Stages,
) -> Fate {
    match resolution {
        Ok(Resolution::Applied(outcomes, moments)) => Fate::Applied(outcomes, stages(moments)),
        Ok(Resolution::Never) => Fate::NotProposed,
        Ok(Resolution::Unknown) if planted!("skipped-batch-proposed-again") => Fate::NotProposed,
        Ok(Resolution::Unknown) => Fate::Unknown("the state was replaced by a checkpoint meanwhile".into()),
        Err(_) => Fate::Unknown("the node is stopping".into()),
    }
}
