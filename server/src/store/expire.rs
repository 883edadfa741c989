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

use super::engine::{Cursor, DATA, EXPIRE, Live, META, Pinned, split_key, split_value};
use super::meta::{self, State};
use super::{DbIndex, Fatal, Store, key, value};
use crate::clock::UnixMs;

/// Bytes of one batch while the family is made.
const MAKE_BYTES: usize = 4 << 20;

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

    /// Keys of a database that can be seen, and those of them with a deadline. As [`Store::due`] no call for async code.
    ///
    /// # Errors
    /// [`Fatal`] on I/O or corruption.
    pub fn visible(&self, db: DbIndex) -> Result<(u64, u64), Fatal> {
        let known = self.stats(db);
        if known.expires == 0 {
            return Ok((known.keys, 0));
        }
        let (pinned, state) = self.live().pin(&|| self.given_up())?;
        let here = state.databases.get(usize::from(db)).map(|database| database.stats).unwrap_or_default();
        let (expired, _) = overdue(&pinned, &state, db)?;
        Ok((here.keys.saturating_sub(expired), here.expires.saturating_sub(expired)))
    }
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
