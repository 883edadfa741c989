//! EXEC of a transaction that runs scripts: all of it is rehearsed on one state, and becomes one entry of the log.
//!
//! ```text
//! MULTI SET EVALSHA GET EXEC -> parts -> rehearsed in order, each sees what the ones before it did -> Op::Transaction
//! ```
//!
//! What cannot be rehearsed (ranges of keys, FLUSHDB and its kin) is refused before anything happens.

use std::sync::Arc;

use super::super::render;
use super::{Connection, Dispatcher, Replica, lua, unknown_script};
use crate::clock::UnixMs;
use crate::command::{Action, ScriptOp, SessionOp, View};
use crate::net::Flow;
use crate::resp::Reply;
use crate::session::Queued;
use crate::store::rehearsal::{Fetch, Rehearsal};
use crate::store::{Op, Query, Watched};

/// One queued command that concerns data or scripts.
enum Part {
    Write(Op),
    Read(Query, View),
    Script(Box<lua::Job>),
    Ready(Reply),
}

/// True if EXEC has to rehearse.
pub(in crate::dispatch) fn runs_scripts(queue: &[Queued]) -> bool {
    queue.iter().any(|queued| matches!(queued.action, Action::Script(ScriptOp::Eval(_))))
}

/// The name of a queued command that cannot stand beside a script.
fn misfit(queue: &[Queued]) -> Option<&'static str> {
    let fits = |queued: &&Queued| match &queued.action {
        Action::Write(op) => !Rehearsal::takes_op(op),
        Action::Read(query, _) => !Rehearsal::takes_query(query),
        _ => false,
    };
    let slot = queue.iter().find(fits)?.slot;
    crate::command::table::rows().nth(slot).map(|spec| spec.name)
}

impl<R: Replica> Dispatcher<R> {
    /// The replies of all writes, reads and scripting commands of a queue, in order, as one array; nil if a watched key has
    /// changed.
    pub(in crate::dispatch) async fn exec_with_scripts(
        &self,
        connection: &mut Connection,
        queue: &[Queued],
        watched: &[Watched],
    ) -> (Reply, Flow) {
        if let Some(name) = misfit(queue) {
            let text = format!("EXECABORT Transaction discarded because {name} cannot stand beside a script");
            return (Reply::Error(text), Flow::Continue);
        }
        let (parts, keys) = self.parts_of(connection, queue).await;
        let parts = Arc::new(parts);
        let reply_bytes_max = self.parts.config.limits.reply_bytes_max;
        self.until_it_stands(connection, &keys, watched, |now| {
            let parts = Arc::clone(&parts);
            Box::new(move |fetch| rehearse(&parts, now, reply_bytes_max, fetch))
        })
        .await
    }

    /// What there is to rehearse, and the keys of the scripts. SCRIPT LOAD and its kin are done on the way: they concern
    /// no data, and a script may be called by what one before it has loaded.
    async fn parts_of(&self, connection: &Connection, queue: &[Queued]) -> (Vec<Part>, Vec<bytes::Bytes>) {
        let mut context = self.context(&connection.session);
        let (mut parts, mut keys) = (Vec::with_capacity(queue.len()), Vec::new());
        for Queued { action, .. } in queue {
            parts.push(match action {
                Action::Write(op) => Part::Write(op.clone()),
                Action::Read(query, view) => Part::Read(query.clone(), view.clone()),
                Action::Script(ScriptOp::Eval(eval)) => match self.script_of(&eval.script).await {
                    Some(script) => {
                        keys.extend(eval.keys.iter().cloned());
                        Part::Script(Box::new(self.job(connection, context, script, eval.clone())))
                    }
                    None => Part::Ready(unknown_script()),
                },
                Action::Script(op) => Part::Ready(self.keep_scripts(op.clone()).await),
                Action::Session(SessionOp::Select(db)) => {
                    context.db = *db;
                    continue;
                }
                Action::Reply(_) | Action::Session(_) | Action::Node(_) | Action::PubSub(_) => continue,
            });
        }
        (parts, keys)
    }
}

fn rehearse(parts: &[Part], now: UnixMs, reply_bytes_max: u64, fetch: Fetch<'static>) -> lua::Ended {
    let mut rehearsal = Rehearsal::new(now, fetch);
    let (mut replies, mut messages, mut denials) = (Vec::with_capacity(parts.len()), Vec::new(), Vec::new());
    for part in parts {
        let (reply, stop) = match part {
            Part::Ready(reply) => (reply.clone(), None),
            Part::Write(op) => match rehearsal.perform(op) {
                Ok(outcome) => (render::outcome(&outcome), None),
                Err(stop) => (Reply::Nil, Some(stop)),
            },
            Part::Read(query, view) => match rehearsal.read(query) {
                Ok(answer) => (render::answer(answer, view, reply_bytes_max), None),
                Err(stop) => (Reply::Nil, Some(stop)),
            },
            Part::Script(job) => {
                let mut played = lua::play(job, now, rehearsal);
                rehearsal = played.rehearsal;
                messages.append(&mut played.messages);
                denials.append(&mut played.denials);
                (played.reply, played.stop)
            }
        };
        replies.push(reply);
        if stop.is_some() {
            return lua::Ended::of(stop, || lua::Ended::Due);
        }
    }
    let (watched, steps) = rehearsal.finish();
    lua::Ended::Done { reply: Reply::Array(replies), watched, steps, messages, denials }
}
