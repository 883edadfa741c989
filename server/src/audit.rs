//! The audit trail: who was refused, and who changed something, as events of the one log target `audit`.
//!
//! Each event is one log line. `log_format: json` gives one object per line; `log_filter: ...,audit=info` keeps them
//! where others are hidden. Fields that an event has not are left out.
//!
//! | event | level | when | fields |
//! | --- | --- | --- | --- |
//! | `login_failed` | warn | AUTH, HELLO AUTH, or a certificate that names no user | user, peer, client, by |
//! | `denied` | warn | the rules of a user forbid a request | user, peer, client, command, reason |
//! | `command` | info | a command that changes the node, its users, its members or all data was carried out | user, peer, client, command, object, outcome |
//! | `admin_api` | info | a request of the admin API that is no question | peer, subject, method, path, status |
//! | `membership` | info | the members or their roles have changed | voters, learners |
//!
//! | field | what |
//! | --- | --- |
//! | user | name of the user, or the one that was tried |
//! | peer | address of the client; of the admin API without its port |
//! | client | CLIENT ID |
//! | by | `password` or `certificate` |
//! | command | name as in the command table, `config\|set` |
//! | reason | `command`, `key` or `channel` |
//! | object | of a membership verb its target, of CONFIG SET the names of the parameters |
//! | outcome | `done`, `refused` |
//! | subject | name in the caller's certificate |
//! | voters, learners | node ids |
//! | `held_back` | events of this kind since the last line that were only counted |
//!
//! Invariants
//! - No event holds a password, a key, a value or an argument other than those named above.
//! - Of each kind at most `BURST` lines come at once and one in `PAUSE` after that, whatever strangers do.

use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::clock::monotonic;

/// Lines of one kind that may come at once.
const BURST: u32 = 20;
/// After them, one line in this time.
const PAUSE: Duration = Duration::from_millis(500);

/// A client of the Redis port.
#[derive(Clone, Debug)]
pub struct Caller<'a> {
    /// Name of its user.
    pub user: &'a str,
    /// Its address.
    pub peer: String,
    /// CLIENT ID.
    pub client: u64,
}

/// What happened; see the table of the module.
#[derive(Clone, Debug)]
pub enum Event<'a> {
    /// See the table.
    LoginFailed {
        /// Who.
        caller: Caller<'a>,
        /// `password` or `certificate`.
        by: &'static str,
    },
    /// See the table.
    Denied {
        /// Who.
        caller: Caller<'a>,
        /// Name of the row.
        command: &'a str,
        /// What of it.
        reason: &'static str,
    },
    /// See the table.
    Command {
        /// Who.
        caller: Caller<'a>,
        /// Name of the row.
        command: &'a str,
        /// What it was about.
        object: &'a str,
        /// Whether it was answered without an error.
        done: bool,
    },
    /// See the table.
    AdminApi {
        /// Address.
        peer: &'a str,
        /// Name in the certificate.
        subject: &'a str,
        /// HTTP method.
        method: &'a str,
        /// Path without the query.
        path: &'a str,
        /// HTTP status.
        status: u16,
    },
    /// See the table.
    Membership {
        /// Node ids.
        voters: &'a str,
        /// Node ids.
        learners: &'a str,
    },
}

impl Event<'_> {
    const KINDS: usize = 5;

    fn kind(&self) -> usize {
        match self {
            Self::LoginFailed { .. } => 0,
            Self::Denied { .. } => 1,
            Self::Command { .. } => 2,
            Self::AdminApi { .. } => 3,
            Self::Membership { .. } => 4,
        }
    }
}

/// What may still be told of one kind.
#[derive(Debug)]
struct Bucket {
    /// Lines told within the burst that is not paid for yet; `until` is when it will be.
    until: Option<Instant>,
    held_back: u64,
}

impl Bucket {
    const fn new() -> Self {
        Self { until: None, held_back: 0 }
    }

    /// How many were held back before this one, if this one may be told.
    fn pass(&mut self, now: Instant) -> Option<u64> {
        let from = self.until.map_or(now, |until| until.max(now));
        if from.saturating_duration_since(now) >= PAUSE * BURST {
            self.held_back += 1;
            return None;
        }
        self.until = Some(from + PAUSE);
        Some(std::mem::take(&mut self.held_back))
    }
}

/// Of the process, as its log is.
static BUCKETS: [Mutex<Bucket>; Event::KINDS] = [const { Mutex::new(Bucket::new()) }; Event::KINDS];

/// Tells an event, or counts it.
pub fn note(event: &Event<'_>) {
    let Some(held_back) = BUCKETS.get(event.kind()).and_then(|bucket| bucket.lock().pass(monotonic())) else {
        return;
    };
    match event {
        Event::LoginFailed { caller: Caller { user, peer, client }, by } => {
            tracing::warn!(target: "audit", event = "login_failed", user, peer, client, by, held_back, "login failed");
        }
        Event::Denied { caller: Caller { user, peer, client }, command, reason } => tracing::warn!(
            target: "audit", event = "denied", user, peer, client, command, reason, held_back, "permission denied"
        ),
        Event::Command { caller: Caller { user, peer, client }, command, object, done } => {
            let outcome = if *done { "done" } else { "refused" };
            tracing::info!(
                target: "audit", event = "command", user, peer, client, command, object, outcome, held_back,
                "administrative command"
            );
        }
        Event::AdminApi { peer, subject, method, path, status } => tracing::info!(
            target: "audit", event = "admin_api", peer, subject, method, path, status, held_back, "admin API"
        ),
        Event::Membership { voters, learners } => {
            tracing::info!(target: "audit", event = "membership", voters, learners, held_back, "members changed");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_told_in_a_bounded_number_of_lines_and_counted() {
        let (mut bucket, start) = (Bucket::new(), monotonic());
        let told = (0..1000).filter(|_| bucket.pass(start).is_some()).count();
        assert_eq!(told, 20);
        assert_eq!(bucket.pass(start + PAUSE), Some(980), "the next line tells how many were not");
        assert_eq!(bucket.pass(start + PAUSE), None);
        // Silence earns no more than the burst again.
        let later = start + Duration::from_hours(1);
        assert_eq!((0..1000).filter(|_| bucket.pass(later).is_some()).count(), 20);
    }

    #[test]
    fn each_kind_has_its_own_measure() {
        let caller = || Caller { user: "u", peer: String::new(), client: 1 };
        let events = [
            Event::LoginFailed { caller: caller(), by: "password" },
            Event::Denied { caller: caller(), command: "get", reason: "key" },
            Event::Command { caller: caller(), command: "shutdown", object: "", done: true },
            Event::AdminApi { peer: "", subject: "", method: "POST", path: "/", status: 200 },
            Event::Membership { voters: "", learners: "" },
        ];
        let kinds: std::collections::BTreeSet<usize> = events.iter().map(Event::kind).collect();
        assert_eq!(kinds, (0..Event::KINDS).collect());
    }
}
