//! The slow log: the newest requests that took longer than a threshold, in bounded memory.
//!
//! Invariant: an entry owns copies, cut as Redis cuts them (32 words, 128 bytes each), so that it never keeps a client's
//! read buffer alive.

use std::collections::VecDeque;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;

use super::replica::Replica;
use super::{Connection, Dispatcher};
use crate::clock::{UnixMs, wall};
use crate::command::{self, Flags};
use crate::raft::Stages;
use crate::resp::{Reply, Request};

const WORDS_MAX: usize = 32;
const WORD_BYTES_MAX: usize = 128;

/// Parts of the time that a request took, as far as they are known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Times {
    /// Of its writes.
    pub propose: Option<Stages>,
    /// Until a majority had confirmed that its reads see everything acknowledged.
    pub confirm: Option<Duration>,
}

impl Times {
    /// The parts by name.
    pub(super) fn parts(&self) -> [(&'static str, Option<Duration>); 6] {
        let stages = self.propose.as_ref();
        [
            ("queue", stages.map(|stages| stages.queue)),
            ("fsync", stages.and_then(|stages| stages.fsync)),
            ("replicate", stages.and_then(|stages| stages.replicate)),
            ("apply", stages.and_then(|stages| stages.apply)),
            ("leader", stages.and_then(|stages| stages.leader)),
            ("confirm", self.confirm),
        ]
    }

    /// Microseconds by name.
    fn reply(&self) -> Reply {
        let known = self
            .parts()
            .into_iter()
            .filter_map(|(name, time)| Some((Reply::Bulk(name.into()), micros(time?))));
        Reply::Map(known.collect())
    }
}

fn micros(time: Duration) -> Reply {
    Reply::Integer(i64::try_from(time.as_micros()).unwrap_or(i64::MAX))
}

/// A noted request.
#[derive(Clone, Debug)]
struct Entry {
    id: i64,
    at: UnixMs,
    latency: Duration,
    times: Times,
    words: Vec<Bytes>,
    client: String,
    name: Bytes,
}

#[derive(Debug, Default)]
struct Inner {
    next: i64,
    entries: VecDeque<Entry>,
}

/// The slow log of this node.
#[derive(Debug, Default)]
pub struct SlowLog {
    inner: Mutex<Inner>,
}

impl SlowLog {
    /// Notes a request; keeps the newest `length_max`.
    pub fn note(
        &self,
        request: &[Bytes],
        (latency, times): (Duration, Times),
        at: UnixMs,
        client: (String, Bytes),
        length_max: usize,
    ) {
        let mut inner = self.inner.lock();
        let entry = Entry {
            id: inner.next,
            at,
            latency,
            times,
            words: shorten(&redacted(request)),
            client: client.0,
            name: client.1,
        };
        inner.next += 1;
        inner.entries.push_front(entry);
        inner.entries.truncate(length_max);
    }

    /// SLOWLOG GET: newest first; each entry is id, Unix seconds, microseconds, words, address, name, and the parts of the
    /// time if they are asked for. There are clients that cannot read more than six elements.
    #[must_use]
    pub fn get(&self, count: Option<usize>, with_times: bool) -> Reply {
        let inner = self.inner.lock();
        let entries = inner.entries.iter().take(count.unwrap_or(usize::MAX));
        Reply::Array(entries.map(|entry| entry.reply(with_times)).collect())
    }

    /// SLOWLOG LEN.
    #[must_use]
    pub fn length(&self) -> usize {
        self.inner.lock().entries.len()
    }

    /// SLOWLOG RESET; ids go on.
    pub fn reset(&self) {
        self.inner.lock().entries.clear();
    }
}

impl<R: Replica> Dispatcher<R> {
    /// Tells the slow log and the latency monitor of a slow request; of a run the first one stands for all.
    pub(super) fn note(&self, connection: &Connection, request: Option<&Request>, latency: Duration) {
        let threshold = self.live.latency_threshold_ms.load(Ordering::Relaxed).unsigned_abs();
        if threshold > 0 && latency.as_millis() >= u128::from(threshold) {
            let found = request.and_then(|request| command::row_of(&request.args));
            let is_fast = found.is_some_and(|found| found.spec.flags.has(Flags::FAST));
            let threshold = Duration::from_millis(threshold);
            self.latency.note(is_fast, (latency, &connection.times), threshold, wall());
        }
        let threshold = self.live.slowlog_slower_than_us.load(Ordering::Relaxed);
        let Ok(threshold) = u128::try_from(threshold) else { return };
        if latency.as_micros() < threshold {
            return;
        }
        if let Some(request) = request {
            let length = self.live.slowlog_max_len.load(Ordering::Relaxed);
            let length = usize::try_from(length).unwrap_or(0);
            let client = (connection.client.peer(), connection.client.name());
            let times = connection.times;
            self.slow_log.note(&request.args, (latency, times), wall(), client, length);
        }
    }
}

/// Without passwords: of commands that carry one, nothing but the name is kept (as Redis). The values of CONFIG SET are
/// hidden all: a name that we do not know may be that of a secret elsewhere. So is what stands behind the name in other ACL
/// commands, where it does not belong.
pub(super) fn redacted(request: &[Bytes]) -> Vec<Bytes> {
    let is = |at: usize, word: &str| {
        request.get(at).is_some_and(|typed| typed.eq_ignore_ascii_case(word.as_bytes()))
    };
    let names = if is(0, "AUTH") {
        1
    } else if is(0, "HELLO") || is(0, "ACL") && is(1, "SETUSER") {
        2
    } else if is(0, "ACL") || is(0, "CONFIG") && is(1, "SET") {
        3
    } else {
        return request.to_vec();
    };
    let hidden = Bytes::from_static(b"(redacted)");
    let hide = |(at, word): (usize, &Bytes)| if at < names { word.clone() } else { hidden.clone() };
    request.iter().enumerate().map(hide).collect()
}

impl Entry {
    fn reply(&self, with_times: bool) -> Reply {
        let seconds = i64::try_from(self.at.0 / 1000).unwrap_or(i64::MAX);
        let mut parts = vec![
            Reply::Integer(self.id),
            Reply::Integer(seconds),
            micros(self.latency),
            Reply::Array(self.words.iter().cloned().map(Reply::Bulk).collect()),
            Reply::Bulk(self.client.clone().into()),
            Reply::Bulk(self.name.clone()),
        ];
        parts.extend(with_times.then(|| self.times.reply()));
        Reply::Array(parts)
    }
}

/// Copies at most 32 words of at most 128 bytes, and says what is missing in Redis' words.
fn shorten(words: &[Bytes]) -> Vec<Bytes> {
    let kept = if words.len() > WORDS_MAX { WORDS_MAX - 1 } else { words.len() };
    let mut list: Vec<Bytes> = words.iter().take(kept).map(|word| shorten_word(word)).collect();
    if kept < words.len() {
        list.push(format!("... ({} more arguments)", words.len() - kept).into());
    }
    list
}

fn shorten_word(word: &[u8]) -> Bytes {
    match word.get(..WORD_BYTES_MAX) {
        Some(head) if word.len() > WORD_BYTES_MAX => {
            let mut text = head.to_vec();
            text.extend_from_slice(format!("... ({} more bytes)", word.len() - WORD_BYTES_MAX).as_bytes());
            text.into()
        }
        _ => Bytes::copy_from_slice(word),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn note(log: &SlowLog, words: &[Bytes], length_max: usize) {
        let propose = Stages { leader: Some(Duration::from_millis(3)), ..Stages::default() };
        let times = Times { propose: Some(propose), confirm: None };
        log.note(
            words,
            (Duration::from_millis(20), times),
            UnixMs(5_000),
            ("a:1".to_owned(), Bytes::new()),
            length_max,
        );
    }

    #[test]
    fn the_newest_come_first_and_the_length_is_bounded() {
        let log = SlowLog::default();
        for word in ["a", "b", "c"] {
            note(&log, &[Bytes::from_static(word.as_bytes())], 2);
        }
        assert_eq!(log.length(), 2);
        let Reply::Array(entries) = log.get(Some(1), false) else { panic!() };
        let expected = Reply::Array(vec![
            Reply::Integer(2),
            Reply::Integer(5),
            Reply::Integer(20_000),
            Reply::Array(vec![Reply::Bulk("c".into())]),
            Reply::Bulk("a:1".into()),
            Reply::Bulk(Bytes::new()),
        ]);
        assert_eq!(entries, [expected]);
        let Reply::Array(entries) = log.get(Some(1), true) else { panic!() };
        let Some(Reply::Array(parts)) = entries.first() else { panic!() };
        let times = [("queue", 0), ("leader", 3000)];
        let times = times.map(|(name, time)| (Reply::Bulk(name.into()), Reply::Integer(time)));
        assert_eq!(parts.get(6), Some(&Reply::Map(times.to_vec())));
        log.reset();
        assert_eq!(log.get(None, true), Reply::Array(Vec::new()));
    }

    #[test]
    fn long_requests_are_cut() {
        let many: Vec<Bytes> = (0..40).map(|n| Bytes::from(n.to_string())).collect();
        let short = shorten(&many);
        assert_eq!(short.len(), 32);
        assert_eq!(short[31], "... (9 more arguments)");
        assert_eq!(shorten(&many[..32]), &many[..32]);
        let long = shorten_word(&[b'x'; 200]);
        assert!(long.ends_with(b"... (72 more bytes)") && long.len() == 128 + 19);
        assert_eq!(shorten_word(&[b'x'; 128]).len(), 128);
    }
}
