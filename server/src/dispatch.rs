//! Step 4: the one `match` on an action, and the only effects.
//!
//! A turn takes what a connection has decoded and answers it in order:
//!
//! ```text
//! requests   SET SET PING SET | GET GET GET | INFO | SET
//! runs       one proposal     | one barrier | alone| one proposal
//! ```
//!
//! GETs may stand among writes of other keys, so that a mixed pipeline costs one proposal too.
//! Consecutive writes become one proposal (bounded by `entry_ops_max` and `entry_bytes_max`), consecutive reads share
//! one read barrier; what needs neither rides along in its place. A run begins only when everything before it has been
//! answered, so a connection reads its own writes.
//!
//! Invariants
//! - One reply per request, in order, whatever fails (CLIENT REPLY, QUIT and SHUTDOWN aside).
//! - An error that a client repeats by itself is given only to what was not proposed (`dispatch::fault`).
//! - When `output_bytes_pause` bytes of replies are waiting, a turn stops and leaves the rest in `requests`; the caller
//!   writes and calls again. So one pipeline of large reads never holds more than one reply beyond that; of reads among
//!   writes a few (`run`).
//! - A [`Fatal`] of the store is told to the node, which stops; the client gets an error.

pub mod access;
mod audited;
pub mod clients;
mod cluster;
pub mod config_table;
pub mod counters;
mod elsewhere;
pub mod fault;
mod handler;
pub mod info;
pub mod latency;
mod log_clock;
pub mod memory;
mod monitor;
mod node_ops;
mod pause;
pub mod process;
mod pubsub;
mod questions;
mod read;
pub mod render;
pub mod replica;
mod run;
mod script;
mod session_ops;
pub mod slowlog;
#[cfg(test)]
mod tests;
mod transaction;
mod values;
pub mod views;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::clock::{UnixMs, monotonic};
use crate::command::{self, Action, Context, SessionOp, slot, table};
use crate::config::{Config, Redirect};
use crate::net::{self, Ends, Flow};
use crate::raft::Stages;
use crate::resp::{Protocol, Reply, Request, reply};
use crate::session::Session;
use crate::store::{Fatal, Op, Outcome};
use clients::{Client, Clients};
use counters::{CommandCount, Counters, Rate};
use elsewhere::Source;
use fault::Fault;
use log_clock::LogClock;
use replica::Replica;
use run::{Run, Step, Tally, is_short};
use slowlog::{SlowLog, Times};

/// Point reads answered in a row before other tasks of this thread get their turn.
const READS_PER_YIELD: usize = 256;

/// Where replies go: bytes for a socket, values for callers in this process.
pub trait ReplySink: Send {
    /// Takes the next reply.
    fn put(&mut self, reply: &Reply, protocol: Protocol);
    /// Bytes waiting.
    fn waiting_bytes(&self) -> usize;
}

impl ReplySink for BytesMut {
    fn put(&mut self, reply: &Reply, protocol: Protocol) {
        reply::append(reply, protocol, self);
    }

    fn waiting_bytes(&self) -> usize {
        self.len()
    }
}

/// Writes snapshots (RAFTSNAPSHOT); given by the node.
pub trait SnapshotService: Send + Sync + 'static {
    /// Writes one; done when the files are complete. The error is a text for the client without a code.
    fn snapshot(&self) -> BoxFuture<'static, Result<(), String>>;
    /// What it has written.
    fn saved(&self) -> Saved;
}

/// Snapshots that this process has written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Saved {
    /// How many.
    pub count: u64,
    /// When the newest one was complete; `None` if there is none.
    pub at: Option<UnixMs>,
    /// Log index of its content.
    pub index: u64,
    /// How long it took.
    pub took: Duration,
}

/// What a dispatcher is made of.
pub struct DispatcherParts<R> {
    /// The replicated group.
    pub group: R,
    /// Configuration.
    pub config: Arc<Config>,
    /// Users.
    pub access: Arc<access::Access>,
    /// Writer of snapshots.
    pub snapshots: Arc<dyn SnapshotService>,
    /// What the client listener counts.
    pub net: Arc<net::Stats>,
    /// Cancelled by SHUTDOWN.
    pub shutdown: CancellationToken,
    /// Told of an error after which the node must stop.
    pub fatal: Arc<dyn Fn(Fatal) + Send + Sync>,
    /// Wall clock at start.
    pub started: UnixMs,
    /// Client address told to others, `host:port`.
    pub addr: String,
    /// Peer address told to others, `host:port`.
    pub peer_addr: String,
}

/// Performs actions for all connections of a node.
pub struct Dispatcher<R> {
    parts: DispatcherParts<R>,
    live: config_table::Live,
    clients: Clients,
    counters: Counters,
    rate: Rate,
    slow_log: SlowLog,
    latency: latency::Monitor,
    log_clock: LogClock,
    scripts: script::Scripts,
    registry: pubsub::Registry,
    monitors: monitor::Monitors,
    pause: pause::Pause,
    run_id: String,
    epoch: Instant,
    /// When the BGSAVE that runs began.
    saving: Arc<Mutex<Option<UnixMs>>>,
    last_save_ok: Arc<AtomicBool>,
    background: TaskTracker,
}

/// One connection: its own state, and its entry among the clients.
#[derive(Debug)]
pub struct Connection {
    session: Session,
    client: Arc<Client>,
    subscriptions: pubsub::Subscriptions,
    standing: access::Standing,
    /// Parts of the time that the last request took.
    times: Times,
}

impl Connection {
    /// Lets others see what this one chose.
    fn follow(&self) {
        self.client.follow(&self.session, &self.subscriptions);
    }
}

impl<R: Replica> Dispatcher<R> {
    /// Puts the parts together.
    #[must_use]
    pub fn new(parts: DispatcherParts<R>) -> Self {
        let (head, tail): (u128, u32) = (rand::random(), rand::random());
        let run_id = format!("{head:032x}{tail:08x}");
        Self {
            live: config_table::Live::new(&parts.config),
            clients: Clients::default(),
            counters: Counters::default(),
            rate: Rate::default(),
            slow_log: SlowLog::default(),
            latency: latency::Monitor::default(),
            log_clock: LogClock::default(),
            scripts: script::Scripts::default(),
            registry: pubsub::Registry::default(),
            monitors: monitor::Monitors::default(),
            pause: pause::Pause::default(),
            run_id,
            epoch: monotonic(),
            saving: Arc::default(),
            last_save_ok: Arc::new(AtomicBool::new(true)),
            background: TaskTracker::new(),
            parts,
        }
    }

    /// Counters of every command row since the start, for metrics: name as in the table, counts, latency buckets of
    /// [`counters::BUCKETS_US`].
    pub fn command_counters(&self) -> impl Iterator<Item = (&'static str, CommandCount)> + '_ {
        self.counters.commands()
    }

    /// All counters.
    #[must_use]
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Connections now.
    #[must_use]
    pub fn client_count(&self) -> usize {
        self.clients.count()
    }

    /// Registers a connection; one from inside this process needs no password.
    pub(crate) fn open_as(
        &self,
        id: u64,
        (peer, local): (SocketAddr, SocketAddr),
        ends: Ends,
        inside: bool,
    ) -> Connection {
        let standing = self.standing(inside);
        let client = self.clients.open(id, peer, local, ends, standing.login.clone());
        Connection {
            session: Session::default(),
            client,
            subscriptions: pubsub::Subscriptions::default(),
            standing,
            times: Times::default(),
        }
    }

    /// Waits for a BGSAVE that still runs. Called at shutdown, after the last connection is closed.
    pub async fn drain(&self) {
        self.background.close();
        self.background.wait().await;
    }

    /// Answers requests in order, as [`net::Handler::turn`], into any sink.
    pub async fn answer(
        &self,
        connection: &mut Connection,
        requests: &mut Vec<Request>,
        sink: &mut impl ReplySink,
    ) -> Flow {
        let mut taken = 0;
        let mut flow = Flow::Continue;
        let mut begun = monotonic();
        while taken < requests.len() && flow == Flow::Continue {
            if sink.waiting_bytes() >= self.parts.config.limits.output_bytes_pause {
                break;
            }
            let rest = requests.get(taken..).unwrap_or_default();
            let Some(free) = self.await_pause(connection, rest).await else {
                flow = Flow::Close;
                break;
            };
            if taken > 0 {
                begun = monotonic();
            }
            let served;
            (served, flow) = self.step(connection, rest.get(..free).unwrap_or_default(), begun, sink).await;
            if served == 0 {
                break;
            }
            self.show(connection, rest.get(..served).unwrap_or_default());
            taken += served;
        }
        if flow == Flow::Close {
            requests.clear();
        } else {
            requests.drain(..taken);
        }
        let second = begun.saturating_duration_since(self.epoch).as_secs();
        let taken = u64::try_from(taken).unwrap_or(u64::MAX);
        self.counters.taken(taken);
        self.rate.add(second, taken);
        flow
    }

    /// Answers the first of `requests`, or a run of them; returns how many.
    async fn step(
        &self,
        connection: &mut Connection,
        requests: &[Request],
        started: Instant,
        sink: &mut impl ReplySink,
    ) -> (usize, Flow) {
        self.renew(connection);
        let Some(first) = requests.first() else { return (0, Flow::Continue) };
        if connection.session.multi.is_some()
            && let Some((slot, reply)) = self.queue(connection, first)
        {
            self.queued(connection, slot, &reply, first, sink);
            return (1, Flow::Continue);
        }
        if connection.subscriptions.count() > 0
            && let Some(reply) = Self::answer_among_messages(connection, first)
        {
            self.queued(connection, None, &reply, first, sink);
            return (1, Flow::Continue);
        }
        let (run, alone) = self.plan(connection, requests);
        if !run.items.is_empty() {
            return self.serve(connection, run, requests, started, sink).await;
        }
        let Some((slot, action)) = alone else { return (0, Flow::Continue) };
        (1, self.perform(connection, slot, action, first, sink).await)
    }

    /// Gathers the longest run from the first of `requests` on, or the one action that must stand alone.
    fn plan(&self, connection: &Connection, requests: &[Request]) -> (Run, Option<(usize, Action)>) {
        let context = self.context(&connection.session);
        let mut run = Run::default();
        for request in requests {
            let (slot, parsed) = match command::resolve(&request.args) {
                Ok(found) => {
                    if let Err(refused) = Self::admit(connection, &found, &request.args) {
                        run.push_refused(refused);
                        continue;
                    }
                    (Some(found.slot), command::parse(found.spec, &request.args, &context))
                }
                Err(error) => (None, Err(error)),
            };
            match (slot, parsed) {
                (Some(slot), Ok(Action::Write(op))) => {
                    if !run.admits_write(&op, &self.parts.config) {
                        break;
                    }
                    run.push_write(slot, op);
                }
                (Some(slot), Ok(Action::Read(query, view))) => {
                    if !run.admits_read(&query) {
                        break;
                    }
                    run.push_read(slot, query, view);
                }
                (slot, Ok(Action::Reply(reply))) => {
                    if !run.admits_ready(&reply) {
                        break;
                    }
                    run.push_ready(slot, reply);
                }
                (Some(slot), Ok(action)) => {
                    let alone = run.items.is_empty().then_some((slot, action));
                    return (run, alone);
                }
                (_, Err(error)) => {
                    run.push_ready(None, error.reply());
                }
                (None, Ok(_)) => break,
            }
        }
        (run, None)
    }

    fn context(&self, session: &Session) -> Context {
        let config = &self.parts.config;
        Context {
            db: session.db,
            databases: config.databases,
            key_bytes_max: config.limits.key_bytes_max,
            value_bytes_max: config.limits.bulk_bytes_max as u64,
            reply_bytes_max: config.limits.reply_bytes_max,
            keys_default_limit: self.live.keys_default_limit.load(Ordering::Relaxed),
        }
    }

    /// Serves a run, which begins with the first of `requests`; returns how many were answered.
    async fn serve(
        &self,
        connection: &mut Connection,
        mut run: Run,
        requests: &[Request],
        started: Instant,
        sink: &mut impl ReplySink,
    ) -> (usize, Flow) {
        // What stands behind the last write can be asked again.
        let last_write = run.items.iter().rposition(|item| matches!(item.step, Step::Write));
        let repeatable_from = last_write.map_or(1, |at| at + 1);
        let mut times = Times::default();
        let outcomes = self.timed_proposal(&mut run, &mut times).await;
        let barrier =
            if run.reads { self.timed_barrier(connection, started, &mut times).await } else { Ok(()) };
        let source = Source::of(&barrier, connection.session.stale_reads);
        let mut outcomes = outcomes.map(Vec::into_iter);
        let mut tally = Tally::default();
        let (mut answered, mut flow) = (0, Flow::Continue);
        // The end of the barrier is the present moment where there was one.
        let since = || monotonic().saturating_duration_since(started);
        let mut latency = times.confirm.filter(|_| times.propose.is_none()).unwrap_or_else(since);
        let now = if run.reads { self.log_clock.at(started + latency) } else { UnixMs(0) };
        let first = run.items.first().and_then(|item| item.slot).or_else(|| slot_of(requests.first()));
        for item in run.items {
            let full = sink.waiting_bytes() >= self.parts.config.limits.output_bytes_pause;
            if full && answered >= repeatable_from {
                break;
            }
            let request = requests.get(answered);
            let reply = match item.step {
                Step::Ready(reply) => reply,
                Step::Refused(refused) => match request {
                    Some(request) => self.refusal(connection, &refused, request),
                    None => refused.reply(),
                },
                Step::Write => match &mut outcomes {
                    Ok(outcomes) => {
                        outcomes.next().map_or_else(lost_outcome, |outcome| render::outcome(&outcome))
                    }
                    Err(fault) => self.refuse(fault, request),
                },
                Step::Read(query, view) => match &barrier {
                    Ok(()) | Err(Fault::Behind) => {
                        // A short one takes about as long as a look at the clock.
                        let is_short = is_short(&query);
                        let (reply, after) = self.read(query, &view, now, source).await;
                        flow = after;
                        latency = if is_short { latency } else { since() };
                        reply
                    }
                    Err(fault) => self.refuse(fault, request),
                },
            };
            let failed = matches!(reply, Reply::Error(_));
            if let Some((slot, request)) = item.slot.zip(request) {
                Self::audit(connection, slot, &request.args, Some(&reply));
            }
            if item.slot.is_none() {
                self.counters.rejected(slot_of(request));
            }
            tally.add(&self.counters, item.slot, failed, latency);
            self.emit(connection, item.slot, &reply, sink);
            answered += 1;
            if answered % READS_PER_YIELD == 0 {
                tokio::task::yield_now().await;
            }
            if flow == Flow::Close {
                break;
            }
        }
        let latency = if run.reads { since() } else { latency };
        tally.flush(&self.counters, latency);
        connection.times = times;
        if let Some(slot) = first {
            connection.client.touch(started, slot);
        }
        self.note(connection, requests.first(), latency);
        (answered, flow)
    }

    /// One proposal; an answer of the wrong length would shift replies, so it is an unknown outcome for all.
    async fn propose(&self, ops: Vec<Op>) -> Result<(Vec<Outcome>, Stages), Fault> {
        let expected = ops.len();
        let (outcomes, stages) = self.parts.group.propose(ops).await.map_err(Fault::from)?;
        if outcomes.len() == expected {
            Ok((outcomes, stages))
        } else {
            Err(Fault::Unknown(format!("{} outcomes for {expected} writes", outcomes.len())))
        }
    }

    fn refuse(&self, fault: &Fault, request: Option<&Request>) -> Reply {
        fault.reply(self.parts.config.redirect, request.map_or(0, |request| first_slot(&request.args)))
    }

    /// Performs what stands alone.
    async fn perform(
        &self,
        connection: &mut Connection,
        slot: usize,
        action: Action,
        request: &Request,
        sink: &mut impl ReplySink,
    ) -> Flow {
        let started = monotonic();
        connection.times = Times::default();
        let is_reset = matches!(action, Action::Node(command::NodeOp::ResetStatistics));
        let (reply, mut flow) = match action {
            Action::Session(SessionOp::Exec) => {
                let (reply, flow) = self.exec(connection).await;
                (Some(reply), flow)
            }
            Action::Session(SessionOp::Watch(keys)) => {
                (Some(self.watch(connection, keys).await), Flow::Continue)
            }
            Action::Session(op) => self.session_op(connection, op),
            Action::Node(op) => self.node_op(connection, op, Some(request)).await,
            Action::Script(op) => {
                let (reply, flow) = self.script_op(connection, op).await;
                (Some(reply), flow)
            }
            Action::PubSub(op) => {
                let mut replies = Box::pin(self.pub_sub(connection, op)).await;
                let last = replies.pop();
                for reply in &replies {
                    self.emit(connection, Some(slot), reply, sink);
                }
                (last, Flow::Continue)
            }
            Action::Reply(_) | Action::Read(..) | Action::Write(_) => (None, Flow::Close),
        };
        let latency = monotonic().saturating_duration_since(started);
        let failed = matches!(reply, Some(Reply::Error(_)));
        Self::audit(connection, slot, &request.args, reply.as_ref());
        if !is_reset {
            self.counters.executed(slot, 1, u64::from(failed), latency);
        }
        if self.delay(connection).await == Flow::Close {
            flow = Flow::Close;
        }
        if let Some(reply) = reply {
            self.emit(connection, Some(slot), &reply, sink);
        }
        connection.follow();
        connection.client.touch(started, slot);
        self.note(connection, Some(request), latency);
        flow
    }

    /// Accounts for a request that a transaction has queued or refused.
    fn queued(
        &self,
        connection: &mut Connection,
        slot: Option<usize>,
        reply: &Reply,
        request: &Request,
        sink: &mut impl ReplySink,
    ) {
        if slot.is_none() {
            self.counters.rejected(command::row_of(&request.args).map(|found| found.slot));
        }
        connection.follow();
        // Not with its row: QUEUED is of no row's shape.
        self.emit(connection, None, reply, sink);
    }

    /// Hands a reply to the sink, in order, unless the client asked for silence.
    fn emit(
        &self,
        connection: &mut Connection,
        slot: Option<usize>,
        reply: &Reply,
        sink: &mut impl ReplySink,
    ) {
        if let Reply::Error(text) = reply {
            self.counters.error(text);
        }
        debug_assert!(
            has_declared_shape(slot, reply),
            "{reply:?} is not what the row of slot {slot:?} declares"
        );
        if connection.session.sends_reply() {
            sink.put(reply, connection.session.protocol);
        }
    }
}

/// The row of a request, as far as its name is known.
fn slot_of(request: Option<&Request>) -> Option<usize> {
    command::row_of(&request?.args).map(|found| found.slot)
}

/// Slot of the first key of a request; 0 without keys.
fn first_slot(words: &[Bytes]) -> u16 {
    let Ok(found) = command::resolve(words) else { return 0 };
    found.spec.keys_of(words).next().map_or(0, |key| slot::of(key))
}

/// Not reached: the number of outcomes was checked.
fn lost_outcome() -> Reply {
    Fault::Unknown("no outcome came back".to_owned()).reply(Redirect::Forward, 0)
}

fn has_declared_shape(slot: Option<usize>, reply: &Reply) -> bool {
    let spec = slot.and_then(|slot| table::rows().nth(slot));
    spec.is_none_or(|spec| spec.reply.admits(reply))
}
