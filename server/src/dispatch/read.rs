//! Reads of the local state behind a barrier, and the log time that they need.

use std::time::Instant;

use super::elsewhere::Source;
use super::fault::Fault;
use super::replica::Replica;
use super::run::{Run, is_short};
use super::slowlog::Times;
use super::{Connection, Dispatcher, render};
use crate::clock::{UnixMs, monotonic};
use crate::command::View;
use crate::config::Consistency;
use crate::machine;
use crate::net::Flow;
use crate::resp::Reply;
use crate::store::{Answer, Fatal, Op, Outcome, Query};

impl<R: Replica> Dispatcher<R> {
    /// Answers a query from the local state, or has the leader answer it.
    pub(super) async fn read(&self, query: Query, view: &View, now: UnixMs, source: Source) -> (Reply, Flow) {
        let asked = match source {
            // Boxed: large, and seldom.
            Source::Leader => Box::pin(self.ask_leader(query)).await,
            Source::Fresh | Source::Stale => self.ask(query, now, source == Source::Stale).await,
        };
        match asked {
            Ok(answer) => {
                self.count_lookups(&answer);
                (render::answer(answer, view, self.parts.config.limits.reply_bytes_max), Flow::Continue)
            }
            Err(refused) => refused,
        }
    }

    /// Asks the local state, long queries off the async threads. Where a deadline seems to have come, the log decides
    /// first, except for who reads stale data.
    pub(super) async fn ask(&self, query: Query, now: UnixMs, stale: bool) -> Result<Answer, (Reply, Flow)> {
        let query = match query {
            Query::RandomKey { db, .. } => Query::RandomKey { db, seed: rand::random() },
            query => query,
        };
        let low = stale || self.parts.config.consistency == Consistency::Low;
        let answer = self.ask_at(&query, if low { UnixMs(0) } else { now }).await?;
        if answer != Answer::Due {
            return Ok(answer);
        }
        self.bring_time_forward().await.map_err(|fault| (self.refuse(&fault, None), Flow::Continue))?;
        let level = self.parts.config.consistency;
        let barrier = self.parts.group.read_barrier(level).await.map_err(Fault::from);
        barrier.map_err(|fault| (self.refuse(&fault, None), Flow::Continue))?;
        // By the log time alone: what it has not reached is still to be seen, whatever this node's clock says.
        self.ask_at(&query, UnixMs(0)).await
    }

    async fn ask_at(&self, query: &Query, now: UnixMs) -> Result<Answer, (Reply, Flow)> {
        let answer = if is_short(query) {
            self.parts.group.query(query, now)
        } else {
            let (group, query) = (self.parts.group.clone(), query.clone());
            match machine::spawn_blocking(move || group.query(&query, now)).await {
                Ok(answer) => answer,
                Err(error) => Err(Fatal::new("answer a query", error)),
            }
        };
        answer.map_err(|fatal| {
            let text = format!("ERR the node stops: {fatal}");
            (self.parts.fatal)(fatal);
            (Reply::Error(text), Flow::Close)
        })
    }

    /// Commits an entry that carries nothing but the leader's time; one for all that wait for it.
    pub(super) async fn bring_time_forward(&self) -> Result<(), Fault> {
        let met = monotonic();
        let _asking = self.log_clock.asking.lock().await;
        if !self.log_clock.is_newer_than(met) {
            self.propose(vec![Op::Reap { keys: Vec::new() }]).await?;
            self.log_clock.note(self.parts.group.log_time());
        }
        Ok(())
    }

    /// The proposal of a run, if it has writes, and how long it took.
    pub(super) async fn timed_proposal(
        &self,
        run: &mut Run,
        times: &mut Times,
    ) -> Result<Vec<Outcome>, Fault> {
        if run.ops.is_empty() {
            return Ok(Vec::new());
        }
        let (outcomes, stages) = self.propose(std::mem::take(&mut run.ops)).await?;
        times.propose = Some(stages);
        Ok(outcomes)
    }

    /// The barrier of a run, and how long it took.
    pub(super) async fn timed_barrier(
        &self,
        connection: &Connection,
        started: Instant,
        times: &mut Times,
    ) -> Result<(), Fault> {
        // A run of reads alone begins with it.
        let begun = if times.propose.is_some() { monotonic() } else { started };
        let result = self.brief_barrier(&connection.session).await;
        times.confirm = Some(monotonic().saturating_duration_since(begun));
        result
    }

    fn count_lookups(&self, answer: &Answer) {
        let (hits, keys) = match answer {
            Answer::Value(value) => (usize::from(value.is_some()), 1),
            Answer::Values(values) => (values.iter().flatten().count(), values.len()),
            _ => return,
        };
        let count = |n: usize| u64::try_from(n).unwrap_or(u64::MAX);
        self.counters.looked_up(count(hits), count(keys - hits));
    }
}
