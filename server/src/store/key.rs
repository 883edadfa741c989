//! The keys of the four column families.
//!
//! ```text
//! data   db u8 | user key                              -> value (see `value.rs`)
//! scan   db u8 | position u64 big-endian | user key    -> nothing
//! expire db u8 | deadline u64 big-endian | user key    -> nothing, one per key with a deadline
//! meta   name                                          -> see `meta.rs`
//! ```
//!
//! `data` sorts as (database, user key) in plain byte order, so KEYS, a prefix and an export are one range each.
//!
//! `scan` orders the keys of a database by a keyed hash, which gives SCAN a cursor that is one number and means the
//! same on every node and for ever: the position of the next key. Positions are 1 to 2^63 - 1; 0 is the cursor that
//! starts and ends. The hash key is part of the state (`meta.rs`), so all nodes agree on it and a client cannot choose
//! keys that share a position without knowing it.

use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::DbIndex;

/// Highest scan position.
pub(crate) const POSITION_MAX: u64 = u64::MAX >> 1;

/// Bytes of a scan key before the user key.
const SCAN_HEAD: usize = 1 + 8;

/// Writes the `data` key into `out`, whose former content is dropped.
pub(crate) fn write_data(out: &mut Vec<u8>, db: DbIndex, key: &[u8]) {
    out.clear();
    out.push(db);
    out.extend_from_slice(key);
}

/// A `data` key of its own.
pub(crate) fn data(db: DbIndex, key: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(1 + key.len());
    write_data(&mut out, db, key);
    out
}

/// Database and user key of a `data` key; `None` if it is empty, which no release writes.
pub(crate) fn split_data(raw: &[u8]) -> Option<(DbIndex, &[u8])> {
    raw.split_first().map(|(db, key)| (*db, key))
}

/// Writes the `scan` key into `out`, whose former content is dropped.
pub(crate) fn write_scan(out: &mut Vec<u8>, db: DbIndex, position: u64, key: &[u8]) {
    out.clear();
    out.push(db);
    out.extend_from_slice(&position.to_be_bytes());
    out.extend_from_slice(key);
}

/// The first `scan` key at or behind a position.
pub(crate) fn scan_start(db: DbIndex, position: u64) -> Vec<u8> {
    let mut out = Vec::with_capacity(SCAN_HEAD);
    write_scan(&mut out, db, position, b"");
    out
}

/// Position and user key of a `scan` key; `None` if it is too short, which no release writes.
pub(crate) fn split_scan(raw: &[u8]) -> Option<(u64, &[u8])> {
    let (head, key) = raw.split_at_checked(SCAN_HEAD)?;
    let position = head[1..].try_into().ok()?;
    Some((u64::from_be_bytes(position), key))
}

/// The `expire` key of a key with a deadline, as the value header keeps it.
pub(crate) fn expire(db: DbIndex, deadline: u64, key: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(SCAN_HEAD + key.len());
    write_scan(&mut out, db, deadline, key);
    out
}

/// Where SCAN meets a key: 1 to [`POSITION_MAX`].
pub(crate) fn position(seed: u64, key: &[u8]) -> u64 {
    (xxh3_64_with_seed(key, seed) >> 1).max(1)
}

/// The first key of a column family behind a database. Database 255 cannot exist: the count of databases is a `u8`.
pub(crate) fn after_db(db: DbIndex) -> [u8; 1] {
    [db.saturating_add(1)]
}

/// The first key behind all that begin with `prefix`; `None` if that is the end of the column family.
pub(crate) fn after_prefix(prefix: &[u8]) -> Option<Vec<u8>> {
    let last = prefix.iter().rposition(|byte| *byte != u8::MAX)?;
    let mut end = prefix[..=last].to_vec();
    end[last] += 1;
    Some(end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_keys_sort_by_database_then_key() {
        let keys = [data(0, b""), data(0, b"a"), data(0, b"a\0"), data(0, b"\xff\xff"), data(1, b"")];
        assert!(keys.is_sorted());
        assert_eq!(split_data(&keys[2]), Some((0, &b"a\0"[..])));
        assert_eq!(split_data(b""), None);
    }

    #[test]
    fn scan_keys_sort_by_position() {
        let mut low = Vec::new();
        write_scan(&mut low, 3, 255, b"z");
        assert_eq!(low, [&[3, 0, 0, 0, 0, 0, 0, 0, 255][..], b"z"].concat());
        assert!(low < scan_start(3, 256) && scan_start(3, 255) < low);
        assert_eq!(split_scan(&low), Some((255, &b"z"[..])));
        assert_eq!(split_scan(&low[..8]), None);
    }

    /// A position is on disk and in clients' hands: it must never change.
    #[test]
    fn positions_are_pinned() {
        assert_eq!(position(0, b""), 0x2d06_8005_38d3_94c2 >> 1);
        assert_eq!(position(1, b"key"), position(1, b"key"));
        assert_ne!(position(1, b"key"), position(2, b"key"));
        assert!((1..=POSITION_MAX).contains(&position(7, b"key")));
    }

    #[test]
    fn range_ends() {
        assert_eq!(after_prefix(b"\x00ab"), Some(b"\x00ac".to_vec()));
        assert_eq!(after_prefix(b"\x00\xff\xff"), Some(b"\x01".to_vec()));
        assert_eq!(after_prefix(b"\xff\xff"), None);
        assert_eq!(after_db(0), [1]);
    }
}
