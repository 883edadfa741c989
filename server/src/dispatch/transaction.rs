//! Transactions of a connection: what is queued after MULTI, and EXEC as one entry of the log.
//!
//! ```text
//! MULTI   queue opens          SET k v -> QUEUED      EXEC -> Op::Transaction { watched, steps } -> one proposal
//! WATCH   versions are read    (parsed already; an error spoils the transaction)   outcomes -> one array
//! ```
//!
//! With scripts in the queue the entry is rehearsed first (`script::transaction`). What does not concern the data (PING,
//! CLIENT, INFO ..) is performed in its place in the order of replies, after the entry. Whether a watched key has changed
//! is decided where the entry is applied.

use super::replica::Replica;
use super::script::runs_scripts;
use super::{Connection, Dispatcher, render};
use crate::clock::monotonic;
use crate::command::{self, Action, Flags, SessionOp, View};
use crate::net::Flow;
use crate::resp::{Reply, Request};
use crate::session::{Multi, Queued};
use crate::store::{Answer, DbIndex, Op, Outcome, Query, Step, Watched};

/// Keys that one connection may watch.
const WATCHED_MAX: usize = 64 * 1024;

impl<R: Replica> Dispatcher<R> {
    /// Queues a request of an open transaction; `None` if it is one that acts at once. Gives the row, if it was queued,
    /// and the reply.
    pub(super) fn queue(
        &self,
        connection: &mut Connection,
        request: &Request,
    ) -> Option<(Option<usize>, Reply)> {
        let found = command::resolve(&request.args);
        if let Ok(found) = &found
            && let Err(refused) = Self::admit(connection, found, &request.args)
            && found.spec.name != "EXEC"
        {
            return Some((None, self.refusal(connection, &refused, request)));
        }
        let mut context = self.context(&connection.session);
        let bytes_max = self.parts.config.limits.request_bytes_max;
        let multi = connection.session.multi.as_mut()?;
        context.db = multi.db;
        let parsed =
            found.and_then(|found| Ok((found, command::parse(found.spec, &request.args, &context)?)));
        let (found, action) = match parsed {
            Ok(parsed) => parsed,
            Err(error) => {
                multi.spoiled = true;
                return Some((None, error.reply()));
            }
        };
        match action {
            Action::Session(
                SessionOp::Multi
                | SessionOp::Exec
                | SessionOp::Discard
                | SessionOp::Watch(_)
                | SessionOp::Quit
                | SessionOp::Reset,
            ) => return None,
            _ if found.spec.flags.has(Flags::NO_MULTI) => {
                multi.spoiled = true;
                return Some((None, Reply::Error("ERR Command not allowed inside a transaction".to_owned())));
            }
            Action::Session(SessionOp::Select(db)) => multi.db = db,
            _ => {}
        }
        multi.size_bytes += request.args.iter().map(|word| 16 + word.len()).sum::<usize>();
        if multi.size_bytes > bytes_max {
            multi.spoiled = true;
            multi.queue.clear();
            let text =
                format!("ERR the transaction has more than {bytes_max} bytes (limits.request_bytes_max)");
            return Some((None, Reply::Error(text)));
        }
        multi.queue.push(Queued { slot: found.slot, action });
        Some((Some(found.slot), Reply::Simple("QUEUED")))
    }

    /// MULTI, DISCARD, UNWATCH.
    pub(super) fn transaction_op(connection: &mut Connection, op: &SessionOp) -> Reply {
        let session = &mut connection.session;
        match op {
            SessionOp::Multi if session.multi.is_some() => {
                Reply::Error("ERR MULTI calls can not be nested".to_owned())
            }
            SessionOp::Multi => {
                let users_seen = connection.standing.seen;
                session.multi = Some(Multi { db: session.db, users_seen, ..Multi::default() });
                Reply::Ok
            }
            SessionOp::Discard if session.multi.is_none() => {
                Reply::Error("ERR DISCARD without MULTI".to_owned())
            }
            _ => {
                session.multi = session.multi.take().filter(|_| matches!(op, SessionOp::Unwatch));
                session.watched.clear();
                Reply::Ok
            }
        }
    }

    /// WATCH: keeps the versions of the keys as they are now.
    pub(super) async fn watch(
        &self,
        connection: &mut Connection,
        keys: Vec<(DbIndex, bytes::Bytes)>,
    ) -> Reply {
        let session = &mut connection.session;
        if session.multi.is_some() {
            return Reply::Error("ERR WATCH inside MULTI is not allowed".to_owned());
        }
        let is_new = |(db, key): &(DbIndex, bytes::Bytes)| {
            !session.watched.iter().any(|watched| watched.db == *db && watched.key == *key)
        };
        let keys: Vec<_> = keys.into_iter().filter(is_new).collect();
        if session.watched.len() + keys.len() > WATCHED_MAX {
            return Reply::Error(format!("ERR a connection watches at most {WATCHED_MAX} keys"));
        }
        let stale = session.stale_reads;
        if let Err(fault) = self.barrier(&connection.session).await {
            return self.refuse(&fault, None);
        }
        let now = self.log_clock.at(monotonic());
        match self.ask(Query::Versions { keys: keys.clone() }, now, stale).await {
            Ok(Answer::Versions(versions)) => {
                let watched = keys.into_iter().zip(versions);
                connection.session.watched.extend(watched.map(|((db, key), version)| Watched {
                    db,
                    key,
                    version,
                }));
                Reply::Ok
            }
            Ok(other) => render::answer(other, &command::View::Plain, 0),
            Err((reply, _)) => reply,
        }
    }

    /// EXEC.
    pub(super) async fn exec(&self, connection: &mut Connection) -> (Reply, Flow) {
        let Some(multi) = connection.session.multi.take() else {
            return (Reply::Error("ERR EXEC without MULTI".to_owned()), Flow::Continue);
        };
        let watched = std::mem::take(&mut connection.session.watched);
        if multi.spoiled {
            let text = "EXECABORT Transaction discarded because of previous errors.";
            return (Reply::Error(text.to_owned()), Flow::Continue);
        }
        let is_unlimited = connection.standing.login.user().is_some_and(|user| user.is_unlimited());
        if multi.users_seen != connection.standing.seen && !is_unlimited {
            let text = "EXECABORT Transaction discarded because of: NOPERM ACLs rules changed between the moment the \
                        transaction was accumulated and the EXEC call";
            return (Reply::Error(text.to_owned()), Flow::Continue);
        }
        if runs_scripts(&multi.queue) {
            let (reply, flow) = self.exec_with_scripts(connection, &multi.queue, &watched).await;
            return match reply {
                Reply::Array(replies) if flow == Flow::Continue => {
                    self.exec_replies(connection, multi.queue, Answers::Replies(replies.into_iter())).await
                }
                other => (other, flow),
            };
        }
        let steps: Vec<Step> = multi.queue.iter().filter_map(|queued| step(&queued.action)).collect();
        let outcomes = if steps.is_empty() && watched.is_empty() {
            Vec::new()
        } else {
            let proposed = self.propose(vec![Op::Transaction { watched, steps }]).await;
            match proposed.map(|(mut all, stages)| {
                connection.times.propose = Some(stages);
                all.pop()
            }) {
                Ok(Some(Outcome::List(outcomes))) => outcomes,
                Ok(Some(Outcome::Nil)) => return (Reply::NilArray, Flow::Continue),
                Ok(other) => {
                    let text = format!("ERR outcome unknown: {other:?} is no answer to a transaction");
                    return (Reply::Error(text), Flow::Continue);
                }
                Err(fault) => return (self.refuse(&fault, None), Flow::Continue),
            }
        };
        self.exec_replies(connection, multi.queue, Answers::Outcomes(outcomes.into_iter())).await
    }

    /// The replies of the queued commands: outcomes in their places, the rest performed now.
    async fn exec_replies(
        &self,
        connection: &mut Connection,
        queue: Vec<Queued>,
        mut answers: Answers,
    ) -> (Reply, Flow) {
        let started = monotonic();
        let (mut replies, mut flow) = (Vec::with_capacity(queue.len()), Flow::Continue);
        let reply_bytes_max = self.parts.config.limits.reply_bytes_max;
        for Queued { slot, action } in queue {
            let reply = match action {
                Action::Reply(reply) => reply,
                Action::Write(_) => answers.next(&View::Plain, reply_bytes_max),
                Action::Read(_, view) => answers.next(&view, reply_bytes_max),
                // Done on the way to the entry, or here where no script runs.
                Action::Script(_) if matches!(answers, Answers::Replies(_)) => {
                    answers.next(&View::Plain, reply_bytes_max)
                }
                Action::Script(op) => Box::pin(self.script_op(connection, op)).await.0,
                Action::Session(op) => {
                    let (reply, after) = self.session_op(connection, op);
                    flow = if after == Flow::Close { after } else { flow };
                    reply.unwrap_or(Reply::Nil)
                }
                Action::PubSub(op) => {
                    Box::pin(self.pub_sub(connection, op)).await.pop().unwrap_or(Reply::Nil)
                }
                Action::Node(op) => {
                    let (reply, after) = Box::pin(self.node_op(connection, op, None)).await;
                    flow = if after == Flow::Close { after } else { flow };
                    reply.unwrap_or(Reply::Nil)
                }
            };
            let failed = matches!(reply, Reply::Error(_));
            Self::audit(connection, slot, &[], Some(&reply));
            self.counters.executed(
                slot,
                1,
                u64::from(failed),
                monotonic().saturating_duration_since(started),
            );
            replies.push(reply);
        }
        (Reply::Array(replies), flow)
    }
}

/// What the queued commands that concern data came to, in order.
enum Answers {
    /// Where the entry was applied.
    Outcomes(std::vec::IntoIter<Outcome>),
    /// In a rehearsal of it; of scripting commands too.
    Replies(std::vec::IntoIter<Reply>),
}

impl Answers {
    fn next(&mut self, view: &View, reply_bytes_max: u64) -> Reply {
        let outcome = match self {
            Self::Replies(replies) => return replies.next().unwrap_or(Reply::Nil),
            Self::Outcomes(outcomes) => outcomes.next(),
        };
        match outcome.unwrap_or(Outcome::Answer(Answer::Due)) {
            Outcome::Answer(answer) => render::answer(answer, view, reply_bytes_max),
            other => render::outcome(&other),
        }
    }
}

/// What an action asks of the data.
fn step(action: &Action) -> Option<Step> {
    match action {
        Action::Write(op) => Some(Step::Write(op.clone())),
        Action::Read(Query::RandomKey { db, .. }, _) => {
            Some(Step::Read(Query::RandomKey { db: *db, seed: rand::random() }))
        }
        Action::Read(query, _) => Some(Step::Read(query.clone())),
        Action::Reply(_) | Action::Session(_) | Action::Node(_) | Action::Script(_) | Action::PubSub(_) => {
            None
        }
    }
}
