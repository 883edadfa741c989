//! MONITOR: what the clients of this node ask, told to those that watch, without waiting for any of them.
//!
//! ```text
//! requests served -> show -> nobody watches: one atomic load
//!                       `--> +1763877000.123000 [0 127.0.0.1:50412] "SET" "k" "v" -> mailbox of each watcher
//! ```
//!
//! Invariants
//! - While nobody watches, a run of requests costs one load.
//! - A watcher that lags by [`LAG_BYTES_MAX`] is closed; who is watched never waits for it.
//! - As in Redis, passwords are hidden, and what administrators ask is not shown at all. Nor is what was refused.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use parking_lot::Mutex;

use super::clients::Client;
use super::pubsub::{Letter, Mailbox};
use super::replica::Replica;
use super::{Connection, Dispatcher, slowlog};
use crate::acl::{self, Users};
use crate::clock::{UnixMs, wall};
use crate::command::{self, Flags, table};
use crate::resp::{Reply, Request};

/// Bytes that may wait for one watcher.
const LAG_BYTES_MAX: usize = 8 << 20;
/// Words of a request that are shown, and bytes of each.
const WORDS_MAX: usize = 128;
const WORD_BYTES_MAX: usize = 1024;

type Watchers = BTreeMap<u64, (Arc<Mailbox>, Arc<Client>)>;

/// Who watches.
#[derive(Debug, Default)]
pub(super) struct Monitors {
    count: AtomicUsize,
    watchers: Mutex<Watchers>,
}

impl Monitors {
    fn is_idle(&self) -> bool {
        self.count.load(Ordering::Relaxed) == 0
    }

    fn change(&self, change: impl FnOnce(&mut Watchers)) {
        let mut watchers = self.watchers.lock();
        change(&mut watchers);
        self.count.store(watchers.len(), Ordering::Relaxed);
    }

    /// Forgets a watcher, if it is one.
    pub(super) fn remove(&self, client: u64) {
        if !self.is_idle() {
            self.change(|watchers| drop(watchers.remove(&client)));
        }
    }

    fn put(&self, line: &Bytes) {
        for (mailbox, client) in self.watchers.lock().values() {
            if !mailbox.put(Letter::Line(line.clone()), LAG_BYTES_MAX) {
                tracing::info!(client = client.id, "monitor lags, connection closes");
                client.close();
            }
        }
    }

    /// Closes the watchers that may not watch any more.
    pub(super) fn close_those_refused(&self, users: &Users) {
        let Some(row) = table::find(b"MONITOR") else { return };
        let words = [Bytes::from_static(b"MONITOR")];
        for (_, client) in self.watchers.lock().values() {
            let login = client.login().renewed_or_parting(users);
            if login.user().is_none_or(|user| acl::permits(user, &row, &words).is_err()) {
                tracing::info!(client = client.id, "monitor is not permitted any more, connection closes");
                client.close();
            }
        }
    }
}

impl<R: Replica> Dispatcher<R> {
    /// MONITOR.
    pub(super) fn monitor(&self, connection: &Connection) -> Reply {
        let client = &connection.client;
        let watcher = (Arc::clone(&connection.subscriptions.mailbox), Arc::clone(client));
        self.monitors.change(|watchers| drop(watchers.insert(client.id, watcher)));
        client.set_monitors(true);
        Reply::Ok
    }

    /// Tells those that watch what has been asked.
    pub(super) fn show(&self, connection: &Connection, requests: &[Request]) {
        if self.monitors.is_idle() {
            return;
        }
        for Request { args } in requests {
            let Ok(found) = command::resolve(args) else { continue };
            if found.spec.flags.has(Flags::ADMIN) || Self::admit(connection, &found, args).is_err() {
                continue;
            }
            let words = slowlog::redacted(args);
            self.monitors.put(&line(wall(), connection.session.db, &connection.client.peer(), &words));
        }
    }
}

/// A line as Redis writes it.
fn line(at: UnixMs, db: u8, peer: &str, words: &[Bytes]) -> Bytes {
    let mut text =
        String::with_capacity(64 + words.iter().take(WORDS_MAX).map(|word| word.len() + 3).sum::<usize>());
    // Writing to a string cannot fail.
    let _ = write!(text, "+{}.{:06} [{db} {peer}]", at.0 / 1000, at.0 % 1000 * 1000);
    for word in words.iter().take(WORDS_MAX) {
        text.push_str(" \"");
        for byte in word.iter().take(WORD_BYTES_MAX) {
            match byte {
                b'\\' | b'"' => text.extend(['\\', char::from(*byte)]),
                b'\n' => text.push_str("\\n"),
                b'\r' => text.push_str("\\r"),
                b'\t' => text.push_str("\\t"),
                0x07 => text.push_str("\\a"),
                0x08 => text.push_str("\\b"),
                b' '..=b'~' => text.push(char::from(*byte)),
                _ => {
                    let _ = write!(text, "\\x{byte:02x}");
                }
            }
        }
        text.push('"');
        if word.len() > WORD_BYTES_MAX {
            let _ = write!(text, "... ({} more bytes)", word.len() - WORD_BYTES_MAX);
        }
    }
    if words.len() > WORDS_MAX {
        let _ = write!(text, " ... ({} more arguments)", words.len() - WORDS_MAX);
    }
    text.push_str("\r\n");
    text.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(words: &[&'static [u8]]) -> String {
        let words: Vec<Bytes> = words.iter().map(|word| Bytes::from_static(word)).collect();
        String::from_utf8(line(UnixMs(1_500), 3, "1.2.3.4:5", &words).to_vec()).unwrap()
    }

    #[test]
    fn a_line_is_that_of_redis_and_ends_once() {
        assert_eq!(shown(&[b"set", b"k", b"v"]), "+1.500000 [3 1.2.3.4:5] \"set\" \"k\" \"v\"\r\n");
        assert_eq!(
            shown(&[b"x", b"a\r\n+OK\t\x07\x08\"\\\x00\xff"]),
            "+1.500000 [3 1.2.3.4:5] \"x\" \"a\\r\\n+OK\\t\\a\\b\\\"\\\\\\x00\\xff\"\r\n"
        );
    }

    #[test]
    fn a_line_is_bounded() {
        let word = Bytes::from(vec![0; 1 << 20]);
        let long = line(UnixMs(0), 0, "a:1", &vec![word; 1000]);
        assert!(long.len() < WORDS_MAX * (4 * WORD_BYTES_MAX + 32) + 100, "{}", long.len());
        assert!(long.ends_with(b" ... (872 more arguments)\r\n"));
    }
}
