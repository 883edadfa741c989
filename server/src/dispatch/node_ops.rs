//! Verbs and questions that concern the node or its group: INFO, CONFIG, RAFT*, CLUSTER, SLOWLOG, SHUTDOWN.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::oneshot;

use super::fault::Fault;
use super::replica::Replica;
use super::{Connection, Dispatcher, config_table, info, latency, memory, process, views};
use crate::clock::{UnixMs, monotonic, wall};
use crate::command::{self, MemoryOp, NodeOp};
use crate::config::Durability;
use crate::machine::spawn_blocking;
use crate::net::Flow;
use crate::raft::{MemberError, Role, Status};
use crate::resp::{Reply, Request};
use crate::store::{Fatal, Visible};

/// How often WAIT looks again.
const WAIT_POLL: Duration = Duration::from_millis(10);

fn count(n: usize) -> Reply {
    Reply::Integer(i64::try_from(n).unwrap_or(i64::MAX))
}

fn seconds(at: UnixMs) -> Reply {
    Reply::Integer(i64::try_from(at.0 / 1000).unwrap_or(i64::MAX))
}

impl<R: Replica> Dispatcher<R> {
    /// Performs one; no reply means that the connection just closes.
    pub(super) async fn node_op(
        &self,
        connection: &Connection,
        op: NodeOp,
        request: Option<&Request>,
    ) -> (Option<Reply>, Flow) {
        let group = &self.parts.group;
        let reply = match op {
            NodeOp::Shutdown => {
                self.parts.shutdown.cancel();
                return (None, Flow::Close);
            }
            NodeOp::AddPeer(addr) => self.verb(group.add_peer(addr).await, request),
            NodeOp::RemovePeer(target) => self.verb(group.remove_peer(target).await, request),
            NodeOp::Transfer(to) => self.verb(group.transfer_leader(to).await, request),
            NodeOp::ShrinkLog => self.verb(group.shrink_log().await, request),
            NodeOp::Snapshot => self.snapshot().await,
            NodeOp::Wait { replicas, timeout_ms } => {
                match self.wait(connection, replicas, timeout_ms).await {
                    Some(reply) => reply,
                    None => return (None, Flow::Close),
                }
            }
            NodeOp::WaitSynced { local, replicas, timeout_ms } => {
                match self.wait_synced(connection, (local, replicas), timeout_ms).await {
                    Some(reply) => reply,
                    None => return (None, Flow::Close),
                }
            }
            NodeOp::Acl(op) => self.acl_op(connection, op),
            NodeOp::Cluster(op) => {
                let (reply, flow) = self.cluster(connection, op).await;
                return (Some(reply), flow);
            }
            NodeOp::Memory(op) => match self.memory(op).await {
                Ok(reply) => reply,
                Err(fatal) => return self.stopped_by(fatal),
            },
            NodeOp::Info(sections) => match self.info(&sections).await {
                Ok(text) => Reply::Verbatim(text.into()),
                Err(fatal) => return self.stopped_by(fatal),
            },
            op => self.question(op),
        };
        (Some(reply), Flow::Continue)
    }

    fn verb(&self, result: Result<(), MemberError>, request: Option<&Request>) -> Reply {
        match result {
            Ok(()) => Reply::Ok,
            Err(error) => self.refuse(&Fault::from(error), request),
        }
    }

    /// What is answered at once.
    fn question(&self, op: NodeOp) -> Reply {
        let config = &self.parts.config;
        let status = || self.parts.group.status();
        match op {
            NodeOp::ConfigGet(patterns) => config_table::get(config, &self.live, &patterns),
            NodeOp::ConfigSet(pairs) => config_table::set(config, &self.live, &pairs),
            NodeOp::ResetStatistics => {
                self.counters.reset();
                self.clients.reset();
                self.parts.access.reset();
                Reply::Ok
            }
            NodeOp::Leader => views::leader(&status()),
            NodeOp::State => views::state(&status()),
            NodeOp::Statistics => views::statistics(&status()),
            NodeOp::Peers => {
                let silent = config.timing.election_timeout_max.as_millis();
                views::peers(&status(), u64::try_from(silent).unwrap_or(u64::MAX))
            }
            NodeOp::Identity => views::identity(&status(), &self.parts.addr, &self.parts.peer_addr),
            NodeOp::Time => {
                let now = wall().0;
                let word = |n: u64| Reply::Bulk(Bytes::from(n.to_string()));
                Reply::Array(vec![word(now / 1000), word(now % 1000 * 1000)])
            }
            NodeOp::LastSave => seconds(self.parts.snapshots.saved().at.unwrap_or(self.parts.started)),
            NodeOp::Role => views::redis_role(&status(), config.redirect),
            NodeOp::BackgroundSnapshot => self.background_snapshot(),
            NodeOp::Latency(op) => {
                let threshold_ms = self.live.latency_threshold_ms.load(Ordering::Relaxed).unsigned_abs();
                let facts = latency::Facts { counters: &self.counters, threshold_ms, now: wall() };
                self.latency.answer(&op, &facts)
            }
            NodeOp::SlowLogGet { count, with_times } => self.slow_log.get(count, with_times),
            NodeOp::SlowLogLength => count(self.slow_log.length()),
            NodeOp::SlowLogReset => {
                self.slow_log.reset();
                Reply::Ok
            }
            // Served by `node_op`, which gives away only the rest.
            NodeOp::Shutdown
            | NodeOp::AddPeer(_)
            | NodeOp::RemovePeer(_)
            | NodeOp::Transfer(_)
            | NodeOp::ShrinkLog
            | NodeOp::Snapshot
            | NodeOp::Acl(_)
            | NodeOp::Cluster(_)
            | NodeOp::Memory(_)
            | NodeOp::Info(_)
            | NodeOp::Wait { .. }
            | NodeOp::WaitSynced { .. } => Reply::Error("ERR not a question".to_owned()),
        }
    }

    /// What can be seen of each database.
    async fn visible(&self) -> Result<Vec<Visible>, Fatal> {
        let (group, count) = (self.parts.group.clone(), self.parts.config.databases);
        let counted =
            spawn_blocking(move || (0..count).map(|db| group.visible(db, rand::random())).collect()).await;
        counted.unwrap_or_else(|error| Err(Fatal::new("count keys", error)))
    }

    async fn info(&self, sections: &[String]) -> Result<String, Fatal> {
        let status = self.parts.group.status();
        let databases = self.visible().await?;
        let second = monotonic().saturating_duration_since(self.epoch).as_secs();
        let facts = info::Facts {
            config: &self.parts.config,
            status: &status,
            counters: &self.counters,
            clients: &self.clients,
            listened: command::pubsub::Kind::ALL.map(|kind| self.registry.names(kind)),
            net: &self.parts.net,
            refusals: self.parts.access.refusals_since_reset(),
            databases: &databases,
            expired_keys: self.parts.group.expired_keys(),
            scripts: self.scripts.sizes(),
            slow_requests: self.slow_log.length(),
            log_bytes: self.parts.group.log_bytes(),
            checkpoints_sent: self.parts.group.checkpoints_sent(),
            usage: process::usage(),
            run_id: &self.run_id,
            addr: &self.parts.addr,
            now: wall(),
            started: self.parts.started,
            ops_per_second: self.rate.per_second(second),
            saved: self.parts.snapshots.saved(),
            saving_since: *self.saving.lock(),
            last_save_ok: self.last_save_ok.load(Ordering::Relaxed),
        };
        Ok(info::render(&facts, sections))
    }

    async fn memory(&self, op: MemoryOp) -> Result<Reply, Fatal> {
        let facts = memory::Facts {
            limits: &self.parts.config.limits,
            usage: process::usage(),
            scripts_bytes: self.scripts.sizes().1,
            keys: self.visible().await?.iter().map(|database| database.keys).sum(),
            data_bytes: self.parts.group.data_bytes(),
        };
        Ok(match op {
            MemoryOp::Stats => memory::stats(&facts),
            MemoryOp::Doctor => memory::doctor(&facts),
        })
    }

    /// The node stops because of this error, and the client is told.
    fn stopped_by(&self, fatal: Fatal) -> (Option<Reply>, Flow) {
        let text = format!("ERR the node stops: {fatal}");
        (self.parts.fatal)(fatal);
        (Some(Reply::Error(text)), Flow::Close)
    }

    async fn snapshot(&self) -> Reply {
        match self.parts.snapshots.snapshot().await {
            Ok(()) => Reply::Ok,
            Err(text) => Reply::Error(format!("ERR {text}")),
        }
    }

    /// BGSAVE: one at a time, in a task that shutdown waits for.
    fn background_snapshot(&self) -> Reply {
        if self.saving.lock().replace(wall()).is_some() {
            return Reply::Error("ERR Background save already in progress".to_owned());
        }
        let work = self.parts.snapshots.snapshot();
        let (saving, ok) = (Arc::clone(&self.saving), Arc::clone(&self.last_save_ok));
        self.background.spawn(async move {
            let result = work.await;
            if let Err(text) = &result {
                tracing::warn!(error = %text, "background snapshot failed");
            }
            ok.store(result.is_ok(), Ordering::Relaxed);
            *saving.lock() = None;
        });
        Reply::Simple("Background saving started")
    }

    /// WAIT: until enough other nodes are known to hold what is committed, or the time is over; `None` when the
    /// connection was cancelled.
    async fn wait(&self, connection: &Connection, replicas: i64, timeout_ms: u64) -> Option<Reply> {
        let held = || i64::try_from(holders(&self.parts.group.status())).unwrap_or(i64::MAX);
        let ended = self.wait_until(connection, timeout_ms, || held() >= replicas).await;
        ended.map_or_else(|refused| refused, |()| Some(Reply::Integer(held())))
    }

    /// WAITAOF: as WAIT, and until this node has synced too. With less than durability high no sync is waited for before a
    /// write is acknowledged, so nobody is known to have synced it.
    async fn wait_synced(
        &self,
        connection: &Connection,
        (local, replicas): (i64, i64),
        timeout_ms: u64,
    ) -> Option<Reply> {
        let pair =
            |local: i64, others: i64| Reply::Array(vec![Reply::Integer(local), Reply::Integer(others)]);
        if self.parts.config.durability != Durability::High {
            let text = "ERR WAITAOF cannot be used when numlocal is set but durability is not high";
            return Some(if local > 0 { Reply::Error(text.to_owned()) } else { pair(0, 0) });
        }
        let group = &self.parts.group;
        // All that this connection was told to be done is at or below it.
        let upto = group.status().committed.map(|id| id.index);
        let here = || i64::from(group.synced_index() >= upto);
        let others = || i64::try_from(holders(&group.status())).unwrap_or(i64::MAX);
        let enough = || here() >= local && others() >= replicas;
        let ended = self.wait_until(connection, timeout_ms, enough).await;
        ended.map_or_else(|refused| refused, |()| Some(pair(here(), others())))
    }

    /// Until there is enough, the time is over (0 = never), CLIENT UNBLOCK ends it, or the node stops.
    ///
    /// # Errors
    /// The reply of one that CLIENT UNBLOCK ended with an error; none when the connection was cancelled.
    async fn wait_until(
        &self,
        connection: &Connection,
        timeout_ms: u64,
        enough: impl Fn() -> bool,
    ) -> Result<(), Option<Reply>> {
        let mut unblocked = connection.client.begins_to_wait();
        let ended = self.wait_or_unblock(connection, timeout_ms, enough, &mut unblocked).await;
        connection.client.has_waited();
        ended
    }

    async fn wait_or_unblock(
        &self,
        connection: &Connection,
        timeout_ms: u64,
        enough: impl Fn() -> bool,
        unblocked: &mut oneshot::Receiver<bool>,
    ) -> Result<(), Option<Reply>> {
        let started = monotonic();
        let patience = Duration::from_millis(timeout_ms);
        loop {
            let over = timeout_ms > 0 && monotonic().saturating_duration_since(started) >= patience;
            if over || enough() {
                return Ok(());
            }
            tokio::select! {
                () = tokio::time::sleep(WAIT_POLL) => {}
                Ok(with_error) = &mut *unblocked => {
                    let text = "UNBLOCKED client unblocked via CLIENT UNBLOCK";
                    return if with_error { Err(Some(Reply::Error(text.to_owned()))) } else { Ok(()) };
                }
                () = connection.client.cancelled() => return Err(None),
                () = self.parts.shutdown.cancelled() => return Ok(()),
            }
        }
    }
}

/// Other nodes that hold every acknowledged write: what the leader has heard, and never below the majority that an
/// acknowledgement takes.
fn holders(status: &Status) -> usize {
    let voters = status.members.iter().filter(|member| member.voter).count();
    let quorum_others = voters / 2;
    let committed = status.committed.map_or(0, |id| id.index);
    let heard = status
        .members
        .iter()
        .filter(|member| {
            member.id != status.node_id && member.matched_index.is_some_and(|index| index >= committed)
        })
        .count();
    if status.role == Role::Leader { heard.max(quorum_others) } else { quorum_others }
}
