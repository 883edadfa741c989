//! ACL LOG: the newest refusals, equal ones counted together, in bounded memory.
//!
//! Invariant: an entry owns short copies, and never a password.

use std::collections::VecDeque;

use bytes::Bytes;

use crate::clock::UnixMs;
use crate::resp::Reply;

/// Entries kept (Redis: acllog-max-len).
pub const ENTRIES_MAX: usize = 128;
/// Newest entries among which an equal one is looked for.
const LOOKED_AT: usize = 10;
/// Time within which equal refusals are one entry.
const TOGETHER_MS: u64 = 60_000;
/// Bytes of a user's name or an object.
const WORD_BYTES_MAX: usize = 256;

/// Where a refusal happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// A request by itself.
    TopLevel,
    /// Between MULTI and EXEC.
    Multi,
    /// A command of a script.
    Script,
}

impl Place {
    fn name(self) -> &'static str {
        match self {
            Self::TopLevel => "toplevel",
            Self::Multi => "multi",
            Self::Script => "lua",
        }
    }
}

/// A refusal to be noted.
#[derive(Clone, Debug)]
pub struct Refusal<'a> {
    /// `command`, `key`, `channel`, `auth` or `tls-cert`.
    pub reason: &'static str,
    /// Where.
    pub place: Place,
    /// What was refused.
    pub object: &'a [u8],
    /// To whom, or under which name the login was tried.
    pub user: &'a [u8],
    /// Line of CLIENT LIST.
    pub client: String,
}

#[derive(Clone, Debug)]
struct Entry {
    id: i64,
    count: i64,
    reason: &'static str,
    place: Place,
    object: Bytes,
    user: Bytes,
    client: String,
    created: UnixMs,
    updated: UnixMs,
}

/// The log of this node.
#[derive(Debug, Default)]
pub struct AclLog {
    next: i64,
    /// Newest first.
    entries: VecDeque<Entry>,
}

fn short(word: &[u8]) -> Bytes {
    Bytes::copy_from_slice(word.get(..WORD_BYTES_MAX).unwrap_or(word))
}

impl AclLog {
    /// Notes a refusal at `now`.
    pub fn note(&mut self, refusal: Refusal<'_>, now: UnixMs) {
        let (object, user) = (short(refusal.object), short(refusal.user));
        let equal = self.entries.iter().take(LOOKED_AT).position(|entry| {
            entry.reason == refusal.reason
                && entry.place == refusal.place
                && entry.object == object
                && entry.user == user
                && now.0.saturating_sub(entry.updated.0) <= TOGETHER_MS
        });
        if let Some(mut entry) = equal.and_then(|at| self.entries.remove(at)) {
            entry.count += 1;
            entry.updated = now;
            entry.client = refusal.client;
            self.entries.push_front(entry);
            return;
        }
        self.entries.push_front(Entry {
            id: self.next,
            count: 1,
            reason: refusal.reason,
            place: refusal.place,
            object,
            user,
            client: refusal.client,
            created: now,
            updated: now,
        });
        self.next += 1;
        self.entries.truncate(ENTRIES_MAX);
    }

    /// ACL LOG: the newest `count`.
    #[must_use]
    pub fn get(&self, count: usize, now: UnixMs) -> Reply {
        Reply::Array(self.entries.iter().take(count).map(|entry| entry.reply(now)).collect())
    }

    /// ACL LOG RESET; ids go on.
    pub fn reset(&mut self) {
        self.entries.clear();
    }
}

impl Entry {
    #[expect(clippy::cast_precision_loss, reason = "an age in seconds is shown to the millisecond")]
    fn reply(&self, now: UnixMs) -> Reply {
        let word = |text: &'static str| Reply::Bulk(Bytes::from_static(text.as_bytes()));
        let number = |at: u64| Reply::Integer(i64::try_from(at).unwrap_or(i64::MAX));
        let age = now.0.saturating_sub(self.created.0) as f64 / 1000.0;
        Reply::Map(vec![
            (word("count"), Reply::Integer(self.count)),
            (word("reason"), word(self.reason)),
            (word("context"), word(self.place.name())),
            (word("object"), Reply::Bulk(self.object.clone())),
            (word("username"), Reply::Bulk(self.user.clone())),
            (word("age-seconds"), Reply::Double(age)),
            (word("client-info"), Reply::Bulk(self.client.clone().into())),
            (word("entry-id"), Reply::Integer(self.id)),
            (word("timestamp-created"), number(self.created.0)),
            (word("timestamp-last-updated"), number(self.updated.0)),
        ])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(object: &'static [u8]) -> Refusal<'static> {
        Refusal { reason: "key", place: Place::TopLevel, object, user: b"u", client: "id=1".into() }
    }

    fn counts(log: &AclLog) -> Vec<i64> {
        log.entries.iter().map(|entry| entry.count).collect()
    }

    #[test]
    fn equal_refusals_within_a_minute_are_one_entry() {
        let mut log = AclLog::default();
        log.note(refusal(b"a"), UnixMs(1000));
        log.note(refusal(b"b"), UnixMs(1000));
        log.note(refusal(b"a"), UnixMs(61_000));
        assert_eq!(counts(&log), [2, 1]);
        log.note(refusal(b"a"), UnixMs(121_001));
        assert_eq!(counts(&log), [1, 2, 1]);
        let Reply::Array(entries) = log.get(1, UnixMs(121_501)) else { panic!() };
        let Reply::Map(fields) = &entries[0] else { panic!() };
        assert_eq!(fields[5].1, Reply::Double(0.5));
        assert_eq!(fields[7].1, Reply::Integer(2), "ids count entries");
    }

    #[test]
    fn it_is_bounded_in_number_and_bytes() {
        let mut log = AclLog::default();
        for n in 0..1000 {
            let object = vec![b'x'; 5000 + n];
            log.note(Refusal { object: &object, ..refusal(b"") }, UnixMs(n as u64 * 100_000));
        }
        assert_eq!(log.entries.len(), ENTRIES_MAX);
        assert!(log.entries.iter().all(|entry| entry.object.len() == WORD_BYTES_MAX));
        log.reset();
        assert_eq!(log.get(9, UnixMs(0)), Reply::Array(Vec::new()));
    }
}
