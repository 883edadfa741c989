//! Answers to reads. Everything here reads one point in time.
//!
//! ```text
//! one key                 the layers, then the database; no snapshot: one value is one point in time
//! several keys            Live::look: what the layers have of them, a snapshot beneath, the log time of that moment
//! ranges                  Live::pin: a snapshot that holds all that is applied, and its log time
//! ```
//!
//! Invariants
//! - A key whose deadline is not later than the log time of the same point is not there (README decision 10).
//! - KEYS is in byte order; a pattern without wildcard finds the key itself; a pivot outside the pattern's range changes
//!   nothing at the range's other bound; patterns and ranges are bytes, valid UTF-8 or not.
//! - SCAN returns every key that is there from its first to its last page, whatever else changes: a key's position
//!   never changes, and all keys of one position are in the same page.
//! - No answer is larger than its limit and about one item.

use std::sync::Arc;

use bytes::Bytes;

use super::engine::{Cursor, DATA, Found, Live, Pinned, SCAN, split_value};
use super::gathered::{Above, Look};
use super::meta::State;
use super::op::{Pivot, Row};
use super::value::Header;
use super::{Answer, DbIndex, Fatal, Query, TypeTag, expire, glob, key};
use crate::clock::UnixMs;

/// Bytes that an item of a list costs besides its own.
const ITEM_OVERHEAD: u64 = 16;
/// Most keys that one page of a scan looks at, whatever the client asks for.
const SCAN_COUNT_MAX: u64 = 100_000;
/// Bytes of keys at which a page of a scan ends early.
const SCAN_BYTES_MAX: usize = 16 << 20;
/// Keys that RANDOMKEY looks at before it gives up finding one that has not expired.
const RANDOM_TRIES: usize = 10_000;

/// Why a read ends early.
enum Stop {
    Fatal(Fatal),
    /// A deadline lies between the log time and `now`.
    Due,
}

impl From<Fatal> for Stop {
    fn from(fatal: Fatal) -> Self {
        Self::Fatal(fatal)
    }
}

type Read<T> = Result<T, Stop>;

fn settled(read: Read<Answer>) -> Result<Answer, Fatal> {
    match read {
        Ok(answer) => Ok(answer),
        Err(Stop::Due) => Ok(Answer::Due),
        Err(Stop::Fatal(fatal)) => Err(fatal),
    }
}

/// True if a key with this header can be seen. One that is due at `now` and has not expired by the log time is for the
/// log to decide.
fn is_seen(header: Header, log_time: UnixMs, now: UnixMs) -> Read<bool> {
    match header.deadline {
        Some(deadline) if deadline <= log_time => Ok(false),
        Some(deadline) if deadline <= now => Err(Stop::Due),
        Some(_) | None => Ok(true),
    }
}

/// Answers a query from the newest state. With a deadline between the log time and `now` it is [`Answer::Due`].
pub(crate) fn answer(
    live: &Arc<Live>,
    query: &Query,
    now: UnixMs,
    given_up: &impl Fn() -> bool,
) -> Result<Answer, Fatal> {
    settled(answer_or_stop(live, query, now, given_up))
}

/// Answers a query from one point that the caller holds.
pub(crate) fn answer_at(pinned: Arc<Pinned>, state: Arc<State>, query: &Query) -> Result<Answer, Fatal> {
    let now = state.log_time;
    settled(Point { pinned, state, now }.answer(query))
}

fn answer_or_stop(
    live: &Arc<Live>,
    query: &Query,
    now: UnixMs,
    given_up: &impl Fn() -> bool,
) -> Read<Answer> {
    match query {
        Query::Get { db, key } => {
            let value = with_key(live, (*db, key), now, |found| {
                found.map(|(_, payload)| Bytes::copy_from_slice(payload))
            });
            value.map(Answer::Value)
        }
        Query::Type { db, key } => {
            with_key(live, (*db, key), now, |found| found.map(|(header, _)| header.tag)).map(Answer::Type)
        }
        Query::Deadline { db, key } => {
            let deadline = with_key(live, (*db, key), now, |found| found.map(|(header, _)| header.deadline))?;
            Ok(Answer::Deadline { deadline, now: now.max(live.state().log_time) })
        }
        Query::Row { db, key } => {
            let row = with_key(live, (*db, key), now, |found| {
                found.map(|(header, value)| Row {
                    value: Bytes::copy_from_slice(value),
                    deadline: header.deadline,
                    version: header.index,
                })
            });
            row.map(Answer::Row)
        }
        Query::MGet { db, keys, size_bytes_max } => {
            let mut page = Values::new(*size_bytes_max);
            // One key needs no snapshot.
            if let [key] = &keys[..] {
                let fits = with_key(live, (*db, key), now, |found| page.push(found.map(|(_, value)| value)))?;
                return Ok(if fits { page.answer() } else { Answer::TooLarge });
            }
            let raw_keys: Vec<_> = keys.iter().map(|key| key::data(*db, key)).collect();
            let look = live.look(&raw_keys);
            for at in 0..keys.len() {
                let fits = found(&look, &raw_keys, at, now, |_, value| page.push(Some(value)))?;
                if !fits.unwrap_or_else(|| page.push(None)) {
                    return Ok(Answer::TooLarge);
                }
            }
            Ok(page.answer())
        }
        Query::Exists { db, keys } => {
            let raw_keys: Vec<_> = keys.iter().map(|key| key::data(*db, key)).collect();
            let look = live.look(&raw_keys);
            let mut count = 0;
            for at in 0..keys.len() {
                count += i64::from(found(&look, &raw_keys, at, now, |_, _| ())?.is_some());
            }
            Ok(Answer::Int(count))
        }
        Query::Versions { keys } => {
            let raw_keys: Vec<_> = keys.iter().map(|(db, key)| key::data(*db, key)).collect();
            let look = live.look(&raw_keys);
            let versions =
                (0..keys.len()).map(|at| found(&look, &raw_keys, at, now, |header, _| header.index));
            Ok(Answer::Versions(versions.collect::<Read<_>>()?))
        }
        Query::DbSize { db } => {
            let stats = live.state().databases.get(usize::from(*db)).map(|database| database.stats);
            match stats.unwrap_or_default() {
                stats if stats.expires == 0 => Ok(count(stats.keys)),
                _ => Point::new(live, now, given_up)?.answer(query),
            }
        }
        Query::Keys { .. } | Query::Scan { .. } | Query::RandomKey { .. } => {
            Point::new(live, now, given_up)?.answer(query)
        }
    }
}

fn count(keys: u64) -> Answer {
    Answer::Int(i64::try_from(keys).unwrap_or(i64::MAX))
}

/// Shows `take` one key as it can be seen now. Only one that seems to have expired needs the log time of the same point,
/// so only such a key costs a snapshot.
fn with_key<T>(
    live: &Arc<Live>,
    (db, user_key): (DbIndex, &[u8]),
    now: UnixMs,
    mut take: impl FnMut(Option<(Header, &[u8])>) -> T,
) -> Read<T> {
    let raw_keys = [key::data(db, user_key)];
    match live.get_now(&raw_keys[0])? {
        Found::Nothing => return Ok(take(None)),
        Found::Held(raw) => {
            let (header, payload) = split_value(&raw)?;
            // Looked at after the value: what has not expired now had not then. What has may have been set anew.
            if header.deadline.is_none() || is_seen(header, live.state().log_time, now)? {
                return Ok(take(Some((header, payload))));
            }
        }
        Found::Value(raw) => {
            let (header, payload) = split_value(&raw)?;
            // Looked at after the value: what has not expired now had not then. What has may have been set anew.
            if header.deadline.is_none() || is_seen(header, live.state().log_time, now)? {
                return Ok(take(Some((header, payload))));
            }
        }
        Found::Unknown => {}
    }
    let look = live.look(&raw_keys);
    let shown = found(&look, &raw_keys, 0, now, |header, payload| take(Some((header, payload))))?;
    Ok(shown.unwrap_or_else(|| take(None)))
}

/// Shows `take` one of the keys that were looked at, unless it cannot be seen.
fn found<T>(
    look: &Look,
    raw_keys: &[Vec<u8>],
    at: usize,
    now: UnixMs,
    take: impl FnOnce(Header, &[u8]) -> T,
) -> Read<Option<T>> {
    let show = |raw: &[u8]| -> Read<Option<T>> {
        let (header, payload) = split_value(raw)?;
        Ok(is_seen(header, look.state.log_time, now)?.then(|| take(header, payload)))
    };
    match &look.rows[at] {
        Above::Value(raw) => show(raw),
        Above::Deleted => Ok(None),
        Above::Nothing => look.get(&raw_keys[at])?.map_or(Ok(None), |raw| show(&raw)),
    }
}

/// A snapshot with what it says of itself.
struct Point {
    pinned: Arc<Pinned>,
    state: Arc<State>,
    /// The time to ask the log for, see [`Stop::Due`].
    now: UnixMs,
}

/// The values of an MGET, and how many bytes more they may be.
pub(crate) struct Values {
    values: Vec<Option<Bytes>>,
    left: u64,
}

impl Values {
    pub(crate) fn new(size_bytes_max: u64) -> Self {
        Self { values: Vec::new(), left: size_bytes_max }
    }

    pub(crate) fn answer(self) -> Answer {
        Answer::Values(self.values)
    }

    /// Adds a value, unless the answer would be too large with it: then false.
    pub(crate) fn push(&mut self, value: Option<&[u8]>) -> bool {
        let size = ITEM_OVERHEAD + value.map_or(0, <[u8]>::len) as u64;
        let Some(left) = self.left.checked_sub(size) else { return false };
        self.left = left;
        self.values.push(value.map(Bytes::copy_from_slice));
        true
    }
}

/// Which keys a KEYS wants.
struct KeyRange<'a> {
    db: DbIndex,
    pattern: &'a [u8],
    pivot: Option<&'a Pivot>,
    descending: bool,
}

/// How much of them.
struct Page {
    limit: Option<u64>,
    with_values: bool,
    size_bytes_max: u64,
}

/// Which keys a SCAN wants.
struct Wanted<'a> {
    pattern: Option<&'a [u8]>,
    only: Option<TypeTag>,
}

impl Point {
    fn new(live: &Arc<Live>, now: UnixMs, given_up: &impl Fn() -> bool) -> Read<Point> {
        let (pinned, state) = live.pin(given_up)?;
        Ok(Point { pinned, state, now })
    }

    /// Answers what one snapshot can answer: counts and ranges.
    fn answer(&self, query: &Query) -> Read<Answer> {
        match query {
            Query::DbSize { db } => self.count(*db),
            Query::Keys { db, pattern, pivot, limit, descending, with_values, size_bytes_max } => {
                let range = KeyRange { db: *db, pattern, pivot: pivot.as_ref(), descending: *descending };
                let page = Page { limit: *limit, with_values: *with_values, size_bytes_max: *size_bytes_max };
                self.keys(&range, &page)
            }
            Query::Scan { db, cursor, pattern, count, only } => {
                let wanted = Wanted { pattern: pattern.as_deref(), only: *only };
                self.scan(*db, *cursor, *count, &wanted)
            }
            Query::RandomKey { db, seed } => self.random_key(*db, *seed),
            Query::Get { .. }
            | Query::MGet { .. }
            | Query::Exists { .. }
            | Query::Type { .. }
            | Query::Deadline { .. }
            | Query::Row { .. }
            | Query::Versions { .. } => {
                Err(Fatal::new("answer a read of single keys", "it was taken for one of a range").into())
            }
        }
    }

    /// The keys that can be seen: those that there are, less those that have expired and are not removed yet.
    fn count(&self, db: DbIndex) -> Read<Answer> {
        let stats = self.state.databases.get(usize::from(db)).map(|database| database.stats);
        let (expired, next) = expire::overdue(&self.pinned, &self.state, db)?;
        if next.is_some_and(|next| next <= self.now) {
            return Err(Stop::Due);
        }
        Ok(count(stats.unwrap_or_default().keys.saturating_sub(expired)))
    }

    fn is_seen(&self, header: Header) -> Read<bool> {
        is_seen(header, self.state.log_time, self.now)
    }

    fn with_key<T>(
        &self,
        db: DbIndex,
        user_key: &[u8],
        take: impl FnOnce(Header, &[u8]) -> T,
    ) -> Read<Option<T>> {
        let Some(raw) = self.pinned.get(&key::data(db, user_key))? else { return Ok(None) };
        let (header, payload) = split_value(&raw)?;
        Ok(self.is_seen(header)?.then(|| take(header, payload)))
    }

    fn keys(&self, range: &KeyRange, page: &Page) -> Read<Answer> {
        let limit = page.limit.unwrap_or(u64::MAX);
        let Some(mut cursor) = self.range(range)? else { return Ok(Answer::Keys(Vec::new())) };
        let mut keys = Vec::new();
        let mut size = 0_u64;
        cursor.rewind(range.descending);
        while (keys.len() as u64) < limit {
            let Some((raw_key, raw_value)) = cursor.item()? else { break };
            let user_key = &raw_key[1..];
            if glob::matches(range.pattern, user_key) {
                let (header, payload) = split_value(raw_value)?;
                if self.is_seen(header)? {
                    let value = page.with_values.then_some(payload);
                    size += ITEM_OVERHEAD + user_key.len() as u64 + value.map_or(0, <[u8]>::len) as u64;
                    if size > page.size_bytes_max {
                        return Ok(Answer::TooLarge);
                    }
                    keys.push((Bytes::copy_from_slice(user_key), value.map(Bytes::copy_from_slice)));
                }
            }
            cursor.step(range.descending);
        }
        Ok(Answer::Keys(keys))
    }

    /// The range that a KEYS must look at; `None` if it is empty.
    fn range(&self, range: &KeyRange) -> Result<Option<Cursor<'_>>, Fatal> {
        let (prefix, whole) = glob::literal_prefix(range.pattern);
        let mut from = key::data(range.db, &prefix);
        let mut to = if whole { Some(successor(&from)) } else { key::after_prefix(&from) };
        if let Some(pivot) = range.pivot {
            let at = key::data(range.db, &pivot.key);
            // Which side of the pivot's key the bound is on: ascending from it or behind it, descending likewise.
            let bound = if pivot.inclusive == range.descending { successor(&at) } else { at };
            if range.descending {
                to = Some(to.map_or(bound.clone(), |to| to.min(bound)));
            } else {
                from = from.max(bound);
            }
        }
        if to.as_ref().is_some_and(|to| *to <= from) {
            return Ok(None);
        }
        self.pinned.iterate(DATA, &from, to, true).map(Some)
    }

    /// One page. A value is looked at only if it could make a difference: some key may have expired, or a type is asked
    /// for.
    fn scan(&self, db: DbIndex, cursor: u64, count: u64, wanted: &Wanted) -> Read<Answer> {
        let end = || Answer::Scan { cursor: 0, keys: Vec::new() };
        if cursor > key::POSITION_MAX {
            return Ok(end());
        }
        let Some(database) = self.state.databases.get(usize::from(db)) else { return Ok(end()) };
        let look = database.stats.expires > 0 || wanted.only.is_some();
        let count = count.clamp(1, SCAN_COUNT_MAX);
        let to = key::after_db(db).to_vec();
        let mut entries = self.pinned.iterate(SCAN, &key::scan_start(db, cursor), Some(to), true)?;
        let (mut keys, mut bytes, mut looked, mut last) = (Vec::new(), 0, 0, 0);
        entries.rewind(false);
        while let Some((raw, _)) = entries.item()? {
            let (position, user_key) = split_scan(raw)?;
            // Keys of one position are never torn apart: the next page begins at a position.
            if position != last && (looked >= count || bytes >= SCAN_BYTES_MAX) {
                return Ok(Answer::Scan { cursor: position, keys });
            }
            (last, looked) = (position, looked + 1);
            if wanted.pattern.is_none_or(|pattern| glob::matches(pattern, user_key)) {
                let fits = |header: Header, _: &[u8]| wanted.only.is_none_or(|only| only == header.tag);
                if !look || self.with_key(db, user_key, fits)? == Some(true) {
                    bytes += user_key.len();
                    keys.push(Bytes::copy_from_slice(user_key));
                }
            }
            entries.step(false);
        }
        Ok(Answer::Scan { cursor: 0, keys })
    }

    /// The first key at or behind a random position that has not expired, going round once.
    fn random_key(&self, db: DbIndex, seed: u64) -> Read<Answer> {
        let start = key::scan_start(db, seed & key::POSITION_MAX);
        let around = [(start.clone(), key::after_db(db).to_vec()), (vec![db], start)];
        let mut tries = RANDOM_TRIES;
        for (from, to) in around {
            let mut entries = self.pinned.iterate(SCAN, &from, Some(to), true)?;
            entries.rewind(false);
            while let Some((raw, _)) = entries.item()? {
                let (_, user_key) = split_scan(raw)?;
                if self.with_key(db, user_key, |_, _| ())?.is_some() {
                    return Ok(Answer::Key(Some(Bytes::copy_from_slice(user_key))));
                }
                tries -= 1;
                if tries == 0 {
                    return Ok(Answer::Key(None));
                }
                entries.step(false);
            }
        }
        Ok(Answer::Key(None))
    }
}

/// The first key behind one key.
fn successor(key: &[u8]) -> Vec<u8> {
    [key, &[0]].concat()
}

fn split_scan(raw: &[u8]) -> Result<(u64, &[u8]), Fatal> {
    key::split_scan(raw).ok_or_else(|| Fatal::new("decode a scan key", super::layout::REMEDY))
}
