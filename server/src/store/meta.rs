//! The column family `meta`: what the state says of itself, in the same write batch as the effects.
//!
//! ```text
//! "format"        u16 le, version of all layouts in this directory
//! "seed"          u64 le, key of the scan positions; set with the first applied entry
//! "applied"       log id | log time u64 le
//! "membership"    log id | bytes, opaque
//! "deadlines"     u8 = 1: the family `expire` holds every deadline (missing in a state of 0.1.0)
//! "db" | db u8    keys u64 le | expires u64 le | digest u128 le | emptied u64 le (log index of the last FLUSHDB)
//!
//! log id = term u64 le | node u64 le | index u64 le
//! ```
//!
//! Invariants
//! - "applied" is written with every batch that ends an entry; a database's record is written when it changes.
//! - The seed is a hash of the first applied log id (which carries a random node id), so it is the same on every node;
//!   it travels with checkpoints and never changes.

use bytes::Bytes;
use xxhash_rust::xxh3::xxh3_64;

use super::{DbStats, Fatal, LogId, ViewMeta, digests};
use crate::clock::UnixMs;

/// Version of the layouts that this build writes and the newest that it reads.
pub(crate) const FORMAT: u16 = 1;

pub(crate) const FORMAT_KEY: &[u8] = b"format";
pub(crate) const SEED_KEY: &[u8] = b"seed";
pub(crate) const APPLIED_KEY: &[u8] = b"applied";
pub(crate) const DEADLINES_KEY: &[u8] = b"deadlines";
pub(crate) const MEMBERSHIP_KEY: &[u8] = b"membership";

/// The key of a database's record.
pub(crate) fn database_key(db: u8) -> [u8; 3] {
    [b'd', b'b', db]
}

/// Everything in `meta` but the format.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct State {
    /// Last applied entry.
    pub(crate) applied: Option<LogId>,
    /// Log time applied.
    pub(crate) log_time: UnixMs,
    /// Key of the scan positions; 0 before the first entry.
    pub(crate) seed: u64,
    /// Membership and where it was written.
    pub(crate) membership: Option<(LogId, Bytes)>,
    /// One per database, also for those never written.
    pub(crate) databases: Vec<Database>,
}

/// What is kept of one database.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Database {
    /// What others may see.
    pub(crate) stats: DbStats,
    /// Log index of the last FLUSHDB or FLUSHALL; 0 if there was none.
    pub(crate) emptied: u64,
}

impl State {
    /// The state before the first entry.
    pub(crate) fn new(databases: u8) -> State {
        State { databases: vec![Database::default(); usize::from(databases)], ..State::default() }
    }

    /// See [`super::Digest::content`].
    pub(crate) fn content(&self) -> u128 {
        digests::content(&self.databases)
    }

    /// What a view says of itself.
    pub(crate) fn view_meta(&self) -> ViewMeta {
        ViewMeta {
            applied: self.applied,
            log_time: self.log_time,
            membership: self.membership.clone(),
            databases: self.databases.iter().map(|database| database.stats).collect(),
        }
    }

    /// Reads the state through `get`. Databases beyond `databases` that hold keys stay readable: the list is as long as
    /// the highest of them needs.
    pub(crate) fn load(
        databases: u8,
        mut get: impl FnMut(&[u8]) -> Result<Option<Vec<u8>>, Fatal>,
    ) -> Result<State, Fatal> {
        let mut state = State::new(databases);
        let Some(format) = get(FORMAT_KEY)? else {
            return Err(damaged("format", "record is missing"));
        };
        check_format(&format)?;
        if let Some(raw) = get(SEED_KEY)? {
            state.seed = Reader(&raw).u64().ok_or_else(|| damaged("seed", "record is too short"))?;
        }
        if let Some(raw) = get(APPLIED_KEY)? {
            let mut reader = Reader(&raw);
            let record = reader.log_id().zip(reader.u64());
            let (id, time) = record.ok_or_else(|| damaged("applied", "record is too short"))?;
            (state.applied, state.log_time) = (Some(id), UnixMs(time));
        }
        if let Some(raw) = get(MEMBERSHIP_KEY)? {
            let mut reader = Reader(&raw);
            let id = reader.log_id().ok_or_else(|| damaged("membership", "record is too short"))?;
            state.membership = Some((id, Bytes::copy_from_slice(reader.0)));
        }
        for db in 0..=u8::MAX {
            let Some(raw) = get(&database_key(db))? else { continue };
            let database = decode_database(&raw).ok_or_else(|| damaged("database", "record is too short"))?;
            let at = usize::from(db);
            if at >= state.databases.len() {
                state.databases.resize(at + 1, Database::default());
            }
            state.databases[at] = database;
        }
        Ok(state)
    }
}

/// The scan key that follows from the first applied entry.
pub(crate) fn seed_from(first: LogId) -> u64 {
    xxh3_64(&encode_log_id(first))
}

/// The value of "format".
pub(crate) fn encode_format() -> [u8; 2] {
    FORMAT.to_le_bytes()
}

/// The value of "applied".
pub(crate) fn encode_applied(id: LogId, log_time: UnixMs) -> [u8; 32] {
    let mut out = [0; 32];
    out[..24].copy_from_slice(&encode_log_id(id));
    out[24..].copy_from_slice(&log_time.0.to_le_bytes());
    out
}

/// The value of "membership".
pub(crate) fn encode_membership(id: LogId, bytes: &[u8]) -> Vec<u8> {
    [&encode_log_id(id), bytes].concat()
}

/// The value of a database's record.
pub(crate) fn encode_database(database: &Database) -> [u8; 40] {
    let mut out = [0; 40];
    out[..8].copy_from_slice(&database.stats.keys.to_le_bytes());
    out[8..16].copy_from_slice(&database.stats.expires.to_le_bytes());
    out[16..32].copy_from_slice(&database.stats.digest.to_le_bytes());
    out[32..].copy_from_slice(&database.emptied.to_le_bytes());
    out
}

fn decode_database(raw: &[u8]) -> Option<Database> {
    let mut reader = Reader(raw);
    let (keys, expires) = (reader.u64()?, reader.u64()?);
    let (low, high) = (reader.u64()?, reader.u64()?);
    let digest = u128::from(high) << 64 | u128::from(low);
    Some(Database { stats: DbStats { keys, expires, digest }, emptied: reader.u64()? })
}

fn encode_log_id(id: LogId) -> [u8; 24] {
    let mut out = [0; 24];
    out[..8].copy_from_slice(&id.term.to_le_bytes());
    out[8..16].copy_from_slice(&id.node.to_le_bytes());
    out[16..].copy_from_slice(&id.index.to_le_bytes());
    out
}

fn check_format(raw: &[u8]) -> Result<(), Fatal> {
    let raw: [u8; 2] = raw.try_into().map_err(|_| damaged("format", "record is not two bytes"))?;
    let found = u16::from_le_bytes(raw);
    if found > FORMAT {
        return Err(Fatal::new(
            "read state format",
            format!(
                "version {found} was written by a newer release, this one reads up to {FORMAT}; start that release"
            ),
        ));
    }
    Ok(())
}

fn damaged(record: &str, what: &str) -> Fatal {
    Fatal::new(format!("read state record {record:?}"), what)
}

/// Takes numbers off the front of a record.
struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn u64(&mut self) -> Option<u64> {
        let (head, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(u64::from_le_bytes(*head))
    }

    fn log_id(&mut self) -> Option<LogId> {
        Some(LogId { term: self.u64()?, node: self.u64()?, index: self.u64()? })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn load(records: &BTreeMap<Vec<u8>, Vec<u8>>) -> Result<State, Fatal> {
        State::load(2, |key| Ok(records.get(key).cloned()))
    }

    #[test]
    fn records_round_trip() {
        let id = LogId { term: 3, node: u64::MAX, index: 900 };
        let facts = DbStats { keys: 1, expires: 2, digest: u128::MAX - 7 };
        let database = Database { stats: facts, emptied: 5 };
        let mut records = BTreeMap::from([
            (FORMAT_KEY.to_vec(), encode_format().to_vec()),
            (SEED_KEY.to_vec(), 77_u64.to_le_bytes().to_vec()),
            (APPLIED_KEY.to_vec(), encode_applied(id, UnixMs(12)).to_vec()),
            (MEMBERSHIP_KEY.to_vec(), encode_membership(id, b"who")),
            (database_key(3).to_vec(), encode_database(&database).to_vec()),
        ]);
        let state = load(&records).unwrap();
        assert_eq!((state.applied, state.log_time, state.seed), (Some(id), UnixMs(12), 77));
        assert_eq!(state.membership, Some((id, Bytes::from_static(b"who"))));
        assert_eq!(state.databases.len(), 4, "a database above the configured number is kept");
        assert_eq!(state.databases[3], database);

        records.insert(FORMAT_KEY.to_vec(), vec![2, 0]);
        let message = load(&records).unwrap_err().to_string();
        assert!(message.contains("version 2 was written by a newer release"), "{message}");
        records.remove(FORMAT_KEY);
        assert!(load(&records).is_err());
    }
}
