//! EVAL: a script runs on the node that was asked, against the state behind a read barrier, and what it wants becomes one
//! transaction of the log.
//!
//! ```text
//! barrier -> lua::run (a rehearsal) -> Op::Transaction { watched: all it looked at, steps: all it wrote } -> reply
//!    ^                                      | something changed meanwhile
//!    `--------------------------------------'  the script runs again
//! ```
//!
//! So all nodes agree whatever the interpreter does, and nothing of Lua is part of the log's form: its version may change
//! with any release. The price is a second run when another node changes the same keys at the same moment; scripts of
//! one node with the same keys take turns.
//!
//! A client that was told to load a script may come back to any node behind the same address: SCRIPT LOAD tells the others,
//! and a node that does not know a script asks them before it says so.

mod json;
mod lua;
mod pattern;
#[cfg(test)]
mod tests;
mod transaction;

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::{MutexGuard, Semaphore};

use super::fault::Fault;
use super::questions::Question;
use super::replica::Replica;
use super::{Connection, Dispatcher};
use crate::acl::log::Place;
use crate::clock::{UnixMs, monotonic};
use crate::command::{Context, Eval, ScriptOp, Source};
use crate::machine;
use crate::net::Flow;
use crate::resp::Reply;
use crate::store::rehearsal::Fetch;
use crate::store::{Answer, Op, Outcome, Query, Watched};

pub(super) use transaction::runs_scripts;

/// Runs of one script before it is given up.
const RUNS_MAX: usize = 100;
/// Scripts that a node remembers, and bytes of their texts.
const SCRIPTS_MAX: usize = 10_000;
const SCRIPT_BYTES_MAX: usize = 64 << 20;
/// Digits of a SHA-1.
const SHA_BYTES: usize = 40;
/// Bytes of one reply to a script.
const REPLY_BYTES_MAX: u64 = 64 << 20;
/// Scripts that run at once: each may take a thread and 64 MiB.
const RUNNING_MAX: usize = 16;
/// Turns that scripts take by their keys.
const TURNS: usize = 64;

/// A rehearsal, over the state that it is given.
type Run = Box<dyn FnOnce(Fetch<'static>) -> lua::Ended + Send>;

/// The scripts that this node has seen.
pub(super) struct Scripts {
    known: Mutex<Known>,
    turns: Vec<tokio::sync::Mutex<()>>,
    running: Semaphore,
    hasher: RandomState,
}

#[derive(Default)]
struct Known {
    texts: HashMap<String, Bytes>,
    /// Oldest first.
    order: VecDeque<String>,
    size_bytes: usize,
}

impl Default for Scripts {
    fn default() -> Self {
        let turns = (0..TURNS).map(|_| tokio::sync::Mutex::default()).collect();
        Self {
            known: Mutex::default(),
            turns,
            running: Semaphore::new(RUNNING_MAX),
            hasher: RandomState::new(),
        }
    }
}

impl Scripts {
    /// Remembers a script; the oldest are forgotten beyond the limits.
    pub(super) fn load(&self, text: &Bytes) -> String {
        let sha = lua::sha1_hex(text);
        let mut known = self.known.lock();
        if !known.texts.contains_key(&sha) {
            known.size_bytes += text.len();
            // A copy: a slice would keep the whole request's buffer.
            known.texts.insert(sha.clone(), Bytes::copy_from_slice(text));
            known.order.push_back(sha.clone());
            while known.order.len() > SCRIPTS_MAX || known.size_bytes > SCRIPT_BYTES_MAX {
                let Some(oldest) = known.order.pop_front() else { break };
                let length = known.texts.remove(&oldest).map_or(0, |text| text.len());
                known.size_bytes -= length;
            }
        }
        sha
    }

    /// Scripts that are remembered, and bytes of their texts.
    pub(super) fn sizes(&self) -> (usize, usize) {
        let known = self.known.lock();
        (known.texts.len(), known.size_bytes)
    }

    fn find(&self, sha: &[u8]) -> Option<(String, Bytes)> {
        let sha = String::from_utf8_lossy(sha).to_ascii_lowercase();
        let text = self.known.lock().texts.get(&sha).cloned()?;
        Some((sha, text))
    }

    /// The text of a script that is remembered.
    pub(super) fn text(&self, sha: &[u8]) -> Option<Bytes> {
        self.find(sha).map(|(_, text)| text)
    }

    pub(super) fn forget(&self) {
        *self.known.lock() = Known::default();
    }

    /// Waits until no other script with one of these keys runs here.
    async fn turn(&self, keys: &[Bytes]) -> Vec<MutexGuard<'_, ()>> {
        let places =
            keys.iter().map(|key| usize::try_from(self.hasher.hash_one(key) % TURNS as u64).unwrap_or(0));
        // In order, so that two never wait for each other.
        let places: BTreeSet<usize> = places.collect();
        let mut held = Vec::with_capacity(places.len());
        for place in places {
            if let Some(turn) = self.turns.get(place) {
                held.push(turn.lock().await);
            }
        }
        held
    }
}

fn unknown_script() -> Reply {
    Reply::Error("NOSCRIPT No matching script. Please use EVAL.".to_owned())
}

impl<R: Replica> Dispatcher<R> {
    /// Performs a scripting command.
    pub(super) async fn script_op(&self, connection: &mut Connection, op: ScriptOp) -> (Reply, Flow) {
        match op {
            ScriptOp::Eval(eval) => self.eval(connection, eval).await,
            op => (self.keep_scripts(op).await, Flow::Continue),
        }
    }

    /// LOAD, EXISTS, FLUSH: on all members that can be reached.
    async fn keep_scripts(&self, op: ScriptOp) -> Reply {
        match op {
            ScriptOp::Load(text) => {
                let sha = self.scripts.load(&text);
                self.ask_members(&Question::Remember(text)).await;
                Reply::Bulk(sha.into())
            }
            ScriptOp::Exists(shas) => {
                self.fetch_scripts(&shas).await;
                let known = |sha: &Bytes| Reply::Integer(i64::from(self.scripts.find(sha).is_some()));
                Reply::Array(shas.iter().map(known).collect())
            }
            ScriptOp::Flush => {
                self.scripts.forget();
                self.ask_members(&Question::Forget).await;
                Reply::Ok
            }
            // Runs; keeps nothing.
            ScriptOp::Eval(_) => unknown_script(),
        }
    }

    /// SHA-1 and text of a script; `None` of one that no member knows.
    async fn script_of(&self, script: &Source) -> Option<(String, Bytes)> {
        match script {
            Source::Text(text) => Some((self.scripts.load(text), text.clone())),
            Source::Sha(sha) => {
                if self.scripts.find(sha).is_none() {
                    self.fetch_scripts(std::slice::from_ref(sha)).await;
                }
                self.scripts.find(sha)
            }
        }
    }

    /// Learns from the other members those of the scripts that this node does not know: a client has told them to another.
    async fn fetch_scripts(&self, shas: &[Bytes]) {
        let is_sha = |sha: &Bytes| sha.len() == SHA_BYTES && sha.iter().all(u8::is_ascii_hexdigit);
        let missing: Vec<Bytes> =
            shas.iter().filter(|sha| is_sha(sha) && self.scripts.find(sha).is_none()).cloned().collect();
        if missing.is_empty() {
            return;
        }
        // Each is remembered under what its text hashes to, whatever the answer claims.
        for text in self.ask_members(&Question::Scripts(missing)).await.iter().flatten() {
            self.scripts.load(text);
        }
    }

    async fn eval(&self, connection: &mut Connection, eval: Eval) -> (Reply, Flow) {
        let Some((sha, text)) = self.script_of(&eval.script).await else {
            return (unknown_script(), Flow::Continue);
        };
        let context = self.context(&connection.session);
        let keys = eval.keys.clone();
        let job = Arc::new(self.job(connection, context, (sha, text), eval));
        self.until_it_stands(connection, &keys, &[], |now| {
            let job = Arc::clone(&job);
            Box::new(move |fetch| lua::run(&job, now, fetch))
        })
        .await
    }

    fn job(
        &self,
        connection: &Connection,
        mut context: Context,
        (sha, text): (String, Bytes),
        eval: Eval,
    ) -> lua::Job {
        let write_bytes_max = self.parts.config.limits.request_bytes_max;
        context.reply_bytes_max = context.reply_bytes_max.min(REPLY_BYTES_MAX);
        let user = connection.standing.login.user().filter(|user| !user.is_unlimited()).cloned();
        lua::Job { text, sha, eval, context, write_bytes_max, user }
    }

    /// Rehearses on the state behind a barrier until what was looked at is still so where it is applied, with the keys in
    /// `before` as the caller saw them; nil if those have changed.
    async fn until_it_stands(
        &self,
        connection: &mut Connection,
        keys: &[Bytes],
        before: &[Watched],
        rehearse: impl Fn(UnixMs) -> Run,
    ) -> (Reply, Flow) {
        let _turn = self.scripts.turn(keys).await;
        for _ in 0..RUNS_MAX {
            if let Err(fault) = self.barrier(&connection.session).await {
                return (self.refuse(&fault, None), Flow::Continue);
            }
            let now = self.log_clock.at(monotonic()).max(self.parts.group.log_time());
            match self.run_once(connection, before, now, rehearse(now)).await {
                Ok(Some(ended)) => return ended,
                Ok(None) => {}
                Err(fault) => return (self.refuse(&fault, None), Flow::Continue),
            }
        }
        let text = "BUSY the keys of the script changed each time that it ran; nothing was written";
        (Reply::Error(text.to_owned()), Flow::Continue)
    }

    /// One run; `None` if it must be repeated.
    async fn run_once(
        &self,
        connection: &mut Connection,
        before: &[Watched],
        now: UnixMs,
        run: Run,
    ) -> Result<Option<(Reply, Flow)>, Fault> {
        let group = self.parts.group.clone();
        let run = move || run(Box::new(move |query| group.query(query, now)));
        // Never closed, so an error cannot come; what it writes is proposed without the permit.
        let permit = self.scripts.running.acquire().await;
        let ended = machine::spawn_blocking(run).await;
        drop(permit);
        let ended = ended.map_err(|error| Fault::Refused(format!("the script panicked: {error}")))?;
        match ended {
            lua::Ended::Due => {
                self.bring_time_forward().await?;
                Ok(None)
            }
            lua::Ended::Fatal(fatal) => {
                let text = format!("ERR the node stops: {fatal}");
                (self.parts.fatal)(fatal);
                Ok(Some((Reply::Error(text), Flow::Close)))
            }
            lua::Ended::Done { reply, watched, steps, messages, denials } => {
                let watched: Vec<Watched> = before.iter().cloned().chain(watched).collect();
                let stands = if steps.is_empty() {
                    (watched.len() < 2 && before.is_empty()) || self.still_so(&watched).await?
                } else {
                    let (outcomes, stages) = self.propose(vec![Op::Transaction { watched, steps }]).await?;
                    connection.times.propose = Some(stages);
                    !matches!(outcomes.first(), None | Some(Outcome::Nil))
                };
                if !stands {
                    let was_changed = !before.is_empty() && !self.still_so(before).await?;
                    return Ok(was_changed.then_some((Reply::NilArray, Flow::Continue)));
                }
                for denial in &denials {
                    self.denied(connection, denial, Place::Script);
                }
                for (to_shard, channel, message) in messages {
                    self.publish(to_shard, &channel, &message);
                }
                Ok(Some((reply, Flow::Continue)))
            }
        }
    }

    /// True if everything that a script has read was so at one moment.
    async fn still_so(&self, watched: &[Watched]) -> Result<bool, Fault> {
        let keys = watched.iter().map(|watched| (watched.db, watched.key.clone())).collect();
        let (group, now) = (self.parts.group.clone(), self.log_clock.at(monotonic()));
        let look = move || group.query(&Query::Versions { keys }, now);
        match machine::spawn_blocking(look).await {
            Ok(Ok(Answer::Versions(versions))) => {
                Ok(versions.iter().eq(watched.iter().map(|watched| &watched.version)))
            }
            Ok(Ok(_)) => {
                self.bring_time_forward().await?;
                Ok(false)
            }
            Ok(Err(fatal)) => Err(Fault::Refused(fatal.to_string())),
            Err(error) => Err(Fault::Refused(error.to_string())),
        }
    }
}
