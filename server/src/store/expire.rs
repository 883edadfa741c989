//! The order of deadlines: which keys are due, and how many have expired and are not removed yet.
//!
//! ```text
//! family expire, one database:   | deadline | deadline | ...  log time  ... | deadline |
//!                                  expired, not to be seen  <----|----> to come
//! ```
//!
//! Rows come and go with those of `data`, in the same batch (`gathered.rs`), so the family is a function of the state.
//! A state of 0.1.0 has none: it is made once, at open. Removal itself is an op in the log ([`super::Op::Reap`]); nothing
//! here changes what can be seen.

use std::sync::Arc;

use bytes::Bytes;
use rocksdb::{WriteBatch, WriteOptions};

use super::engine::{Cursor, DATA, EXPIRE, Live, META, Pinned, SCAN, split_key, split_value};
use super::meta::{self, State};
use super::{DbIndex, Fatal, Store, key, value};
use crate::clock::UnixMs;

/// Bytes of one batch while the family is made.
const MAKE_BYTES: usize = 4 << 20;
/// Deadlines up to which the mean is that of all.
const TTL_EXACT_MAX: u64 = 1000;
/// Keys that are looked at where there are more.
const TTL_SAMPLES: usize = 300;

/// How many keys of a database have expired and are not removed yet, and the first deadline to come.
pub(crate) fn overdue(
    pinned: &Arc<Pinned>,
    state: &State,
    db: DbIndex,
) -> Result<(u64, Option<UnixMs>), Fatal> {
    let mut rows = pinned.iterate(EXPIRE, &[db], Some(key::after_db(db).to_vec()), true)?;
    rows.rewind(false);
    let mut count = 0;
    while let Some((raw, _)) = rows.item()? {
        let deadline = UnixMs(split(raw)?.0);
        if deadline > state.log_time {
            return Ok((count, Some(deadline)));
        }
        count += 1;
        rows.step(false);
    }
    Ok((count, None))
}

fn split(raw: &[u8]) -> Result<(u64, &[u8]), Fatal> {
    key::split_scan(raw).ok_or_else(|| Fatal::new("decode an expire key", super::layout::REMEDY))
}

impl Store {
    /// Keys whose deadline is not later than `now`, those that are due longest first in each database; at most
    /// `keys_max` of together about `bytes_max`. May wait for what is gathered to reach the engine: no call for async
    /// code.
    ///
    /// # Errors
    /// [`Fatal`] on I/O or corruption.
    pub fn due(
        &self,
        now: UnixMs,
        keys_max: usize,
        bytes_max: usize,
    ) -> Result<Vec<(DbIndex, Bytes)>, Fatal> {
        if !self.live().state().databases.iter().any(|database| database.stats.expires > 0) {
            return Ok(Vec::new());
        }
        let (pinned, state) = self.live().pin(&|| self.given_up())?;
        let (mut keys, mut bytes) = (Vec::new(), 0);
        for (db, database) in (0..=u8::MAX).zip(&state.databases) {
            if database.stats.expires == 0 {
                continue;
            }
            let to = key::expire(db, now.0.saturating_add(1), b"");
            let mut rows = pinned.iterate(EXPIRE, &[db], Some(to), true)?;
            rows.rewind(false);
            while let Some((raw, _)) = rows.item()? {
                let (_, user_key) = split(raw)?;
                if keys.len() >= keys_max || (bytes + user_key.len() > bytes_max && !keys.is_empty()) {
                    return Ok(keys);
                }
                bytes += user_key.len();
                keys.push((db, Bytes::copy_from_slice(user_key)));
                rows.step(false);
            }
        }
        Ok(keys)
    }

    /// What can be seen of a database. `seed` chooses the keys whose deadlines stand for those of all, where there are many.
    /// As [`Store::due`] no call for async code.
    ///
    /// # Errors
    /// [`Fatal`] on I/O or corruption.
    pub fn visible(&self, db: DbIndex, seed: u64) -> Result<Visible, Fatal> {
        let known = self.stats(db);
        if known.expires == 0 {
            return Ok(Visible { keys: known.keys, ..Visible::default() });
        }
        let (pinned, state) = self.live().pin(&|| self.given_up())?;
        let here = state.databases.get(usize::from(db)).map(|database| database.stats).unwrap_or_default();
        let (overdue, _) = overdue(&pinned, &state, db)?;
        let expires = here.expires.saturating_sub(overdue);
        let deadlines = if expires > TTL_EXACT_MAX {
            sampled_deadlines(&pinned, db, seed)?
        } else {
            next_deadlines(&pinned, &state, db)?
        };
        Ok(Visible {
            keys: here.keys.saturating_sub(overdue),
            expires,
            ttl_mean_ms: mean_ttl_ms(&deadlines, state.log_time),
        })
    }
}

/// What can be seen of a database.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Visible {
    /// Keys.
    pub keys: u64,
    /// Of these, keys with a deadline.
    pub expires: u64,
    /// Time that these have left, on average; of many of them estimated.
    pub ttl_mean_ms: u64,
}

/// The deadlines to come, the nearest [`TTL_EXACT_MAX`] of them.
fn next_deadlines(pinned: &Arc<Pinned>, state: &State, db: DbIndex) -> Result<Vec<u64>, Fatal> {
    let from = key::expire(db, state.log_time.0.saturating_add(1), b"");
    let mut rows = pinned.iterate(EXPIRE, &from, Some(key::after_db(db).to_vec()), true)?;
    let mut deadlines = Vec::new();
    rows.rewind(false);
    while let Some((raw, _)) = rows.item()? {
        deadlines.push(split(raw)?.0);
        if deadlines.len() as u64 >= TTL_EXACT_MAX {
            break;
        }
        rows.step(false);
    }
    Ok(deadlines)
}

/// The deadlines of some keys from a random position on, where keys lie by their hash.
fn sampled_deadlines(pinned: &Arc<Pinned>, db: DbIndex, seed: u64) -> Result<Vec<u64>, Fatal> {
    let start = key::scan_start(db, seed & key::POSITION_MAX);
    let around = [(start.clone(), key::after_db(db).to_vec()), (vec![db], start)];
    let (mut deadlines, mut left) = (Vec::new(), TTL_SAMPLES);
    for (from, to) in around {
        let mut rows = pinned.iterate(SCAN, &from, Some(to), true)?;
        rows.rewind(false);
        while let Some((raw, _)) = rows.item()?
            && left > 0
        {
            left -= 1;
            if let Some(raw) = pinned.get(&key::data(db, split(raw)?.1))? {
                deadlines.extend(split_value(&raw)?.0.deadline.map(|deadline| deadline.0));
            }
            rows.step(false);
        }
    }
    Ok(deadlines)
}

/// Of those that are still to come.
fn mean_ttl_ms(deadlines: &[u64], log_time: UnixMs) -> u64 {
    let left =
        deadlines.iter().filter_map(|deadline| deadline.checked_sub(log_time.0)).filter(|left| *left > 0);
    let (count, sum) = left.fold((0_u128, 0_u128), |(count, sum), left| (count + 1, sum + u128::from(left)));
    u64::try_from(sum.checked_div(count).unwrap_or(0)).unwrap_or(u64::MAX)
}

impl Live {
    /// Says that the family `expire` is whole.
    pub(crate) fn mark_indexed(&self) -> Result<(), Fatal> {
        let meta = self.family(META)?;
        let put = self.db.put_cf_opt(meta, meta::DEADLINES_KEY, [1], &no_wal());
        put.map_err(|error| self.failed("mark deadlines", &error))
    }

    /// Fills the family `expire` from `data` if that has not been done. Nothing of it is durable before the next flush,
    /// and then all of it is: a crash before begins anew.
    pub(crate) fn index_deadlines(&self, state: &State) -> Result<(), Fatal> {
        let meta = self.family(META)?;
        let done = self.db.get_cf(meta, meta::DEADLINES_KEY);
        if done.map_err(|error| self.failed("read meta", &error))?.is_some() {
            return Ok(());
        }
        let expire = self.family(EXPIRE)?;
        let write = |batch| {
            self.db.write_opt(batch, &no_wal()).map_err(|error| self.failed("index deadlines", &error))
        };
        for (db, database) in (0..=u8::MAX).zip(&state.databases) {
            if database.stats.expires == 0 {
                continue;
            }
            let mut rows = Cursor::now(self, DATA, &[db], Some(key::after_db(db).to_vec()))?;
            let mut batch = WriteBatch::default();
            rows.rewind(false);
            while let Some((raw_key, raw_value)) = rows.item()? {
                let (header, _) = split_value(raw_value)?;
                if header.deadline.is_some() {
                    let (db, user_key) = split_key(raw_key)?;
                    batch.put_cf(
                        expire,
                        key::expire(db, value::raw_deadline(header.deadline), user_key),
                        b"",
                    );
                }
                if batch.size_in_bytes() >= MAKE_BYTES {
                    write(std::mem::take(&mut batch))?;
                }
                rows.step(false);
            }
            write(batch)?;
        }
        self.mark_indexed()
    }
}

fn no_wal() -> WriteOptions {
    let mut options = WriteOptions::default();
    options.disable_wal(true);
    options
}
