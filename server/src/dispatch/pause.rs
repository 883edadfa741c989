//! CLIENT PAUSE: requests of this node's clients wait, all of them or what may write.
//!
//! A request waits before anything of it is done, so a pause holds nobody's write halfway; what was proposed before the
//! pause is answered in it. Requests in front of one that waits are served.
//!
//! Invariants
//! - While nothing is paused, a run of requests costs one load.
//! - CLIENT PAUSE and CLIENT UNPAUSE never wait; a client that is closed, and a node that stops, end the wait without
//!   doing what waited.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use super::replica::Replica;
use super::{Connection, Dispatcher};
use crate::command::{self, Action, Flags};
use crate::resp::Request;

/// A pause.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Paused {
    until: Instant,
    writes_only: bool,
}

/// Whether requests wait.
#[derive(Debug)]
pub(super) struct Pause {
    /// Set while `state` may be something.
    active: AtomicBool,
    state: watch::Sender<Option<Paused>>,
}

impl Default for Pause {
    fn default() -> Self {
        Self { active: AtomicBool::new(false), state: watch::Sender::new(None) }
    }
}

impl Pause {
    /// Begins a pause; beside another one the longer and the stricter counts, as in Redis.
    pub(super) fn begin(&self, time: Duration, writes_only: bool) {
        let now = Instant::now();
        self.state.send_modify(|state| {
            let wanted = Paused { until: now + time, writes_only };
            let held = state.filter(|paused| paused.until > now).unwrap_or(wanted);
            *state = Some(Paused {
                until: held.until.max(wanted.until),
                writes_only: held.writes_only && writes_only,
            });
        });
        self.active.store(true, Ordering::Release);
    }

    /// Ends it.
    pub(super) fn end(&self) {
        self.active.store(false, Ordering::Release);
        self.state.send_replace(None);
    }

    fn now(&self) -> Option<Paused> {
        if !self.active.load(Ordering::Acquire) {
            return None;
        }
        let paused = *self.state.borrow();
        paused.filter(|paused| paused.until > Instant::now())
    }
}

impl Paused {
    fn holds(self, connection: &Connection, request: &Request) -> bool {
        // What is no command is told so at once.
        let Some(found) = command::row_of(&request.args) else { return false };
        let name = found.spec.name;
        if matches!(name, "CLIENT|PAUSE" | "CLIENT|UNPAUSE") {
            return false;
        }
        // Scripts may write, and messages go to other nodes, where a client of this node would see an effect.
        let may_write = found.spec.flags.has(Flags::WRITE)
            || matches!(name, "EVAL" | "EVALSHA" | "PUBLISH" | "SPUBLISH")
            || name == "EXEC"
                && connection.session.multi.as_ref().is_some_and(|multi| {
                    multi
                        .queue
                        .iter()
                        .any(|queued| matches!(queued.action, Action::Write(_) | Action::PubSub(_)))
                });
        !self.writes_only || may_write
    }
}

impl<R: Replica> Dispatcher<R> {
    /// How many of the requests may be served now. Waits while the first may not; `None` if the connection is to close.
    pub(super) async fn await_pause(&self, connection: &Connection, requests: &[Request]) -> Option<usize> {
        loop {
            let Some(paused) = self.pause.now() else { return Some(requests.len()) };
            let free = requests.iter().take_while(|request| !paused.holds(connection, request)).count();
            if free > 0 || requests.is_empty() {
                return Some(free);
            }
            let mut state = self.pause.state.subscribe();
            // Changed since it was read above: look again.
            if *state.borrow_and_update() != Some(paused) {
                continue;
            }
            tokio::select! {
                _ = state.changed() => {}
                () = sleep_until(paused.until) => {}
                () = connection.client.cancelled() => return None,
                () = self.parts.shutdown.cancelled() => return None,
            }
        }
    }
}
