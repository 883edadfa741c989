//! What stands behind a key in the column family `data`, and the digest of one record.
//!
//! ```text
//! +--------+-----------------+------------------+---------
//! | tag u8 | deadline u64 le | log index u64 le | payload
//! +--------+-----------------+------------------+---------
//!   type     ms since 1970,    entry that wrote   of a string: its bytes
//!            0 = none          the value last
//! ```
//!
//! A type tag names the type and its encoding: a new encoding of an old type gets a tag of its own.
//!
//! The log index is of use to WATCH and to debugging; it is not in the digest, so a restored cluster has the digest of
//! the one it was made from.

use xxhash_rust::xxh3::xxh3_128;

use super::{DbIndex, Record, TypeTag};
use crate::clock::UnixMs;

/// Bytes before the payload.
pub(crate) const HEADER: usize = 1 + 8 + 8;

/// The decoded head of a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    /// Type.
    pub(crate) tag: TypeTag,
    /// When the key stops to be visible.
    pub(crate) deadline: Option<UnixMs>,
    /// Log index of the entry that wrote it.
    pub(crate) index: u64,
}

impl Header {
    /// True if a key with this header is not to be seen at `log_time`.
    pub(crate) fn expired(&self, log_time: UnixMs) -> bool {
        expired(self.deadline, log_time)
    }

    /// Writes header and payload into `out`, whose former content is dropped.
    pub(crate) fn write(&self, payload: &[u8], out: &mut Vec<u8>) {
        out.clear();
        out.push(self.tag as u8);
        out.extend_from_slice(&raw_deadline(self.deadline).to_le_bytes());
        out.extend_from_slice(&self.index.to_le_bytes());
        out.extend_from_slice(payload);
    }

    /// Header and payload of a stored value; `None` if no release has written it.
    pub(crate) fn split(raw: &[u8]) -> Option<(Header, &[u8])> {
        let (head, payload) = raw.split_at_checked(HEADER)?;
        let tag = (head[0] == TypeTag::String as u8).then_some(TypeTag::String)?;
        let deadline = u64::from_le_bytes(head[1..9].try_into().ok()?);
        let index = u64::from_le_bytes(head[9..].try_into().ok()?);
        Some((Header { tag, deadline: (deadline != 0).then_some(UnixMs(deadline)), index }, payload))
    }
}

/// The deadline in a stored value, 0 = none, without looking at the rest.
pub(crate) fn stored_deadline(raw: &[u8]) -> u64 {
    raw.get(1..9).and_then(|bytes| bytes.try_into().ok()).map_or(0, u64::from_le_bytes)
}

/// The rule of decision 10: expired if and only if the deadline is not later than the log time applied.
pub(crate) fn expired(deadline: Option<UnixMs>, log_time: UnixMs) -> bool {
    deadline.is_some_and(|deadline| deadline <= log_time)
}

/// 0 means "none" on disk, so a deadline of 1970 itself is kept as one millisecond later: both are long past.
pub(crate) fn raw_deadline(deadline: Option<UnixMs>) -> u64 {
    deadline.map_or(0, |deadline| deadline.0.max(1))
}

/// What one record adds to the digest of its database. `scratch` is only a buffer.
///
/// ```text
/// xxh3-128 of: db u8 | tag u8 | deadline u64 le | key length u64 le | key | payload
/// ```
pub(crate) fn digest(
    scratch: &mut Vec<u8>,
    db: DbIndex,
    tag: TypeTag,
    deadline: Option<UnixMs>,
    key: &[u8],
    payload: &[u8],
) -> u128 {
    scratch.clear();
    scratch.extend_from_slice(&[db, tag as u8]);
    scratch.extend_from_slice(&raw_deadline(deadline).to_le_bytes());
    scratch.extend_from_slice(&(key.len() as u64).to_le_bytes());
    scratch.extend_from_slice(key);
    scratch.extend_from_slice(payload);
    xxh3_128(scratch)
}

/// What a record adds to the content digest of its database ([`super::DbStats::digest`]); the same for a record read
/// from a snapshot.
#[must_use]
pub fn record_hash(record: &Record) -> u128 {
    let mut scratch = Vec::with_capacity(32 + record.key.len() + record.value.len());
    digest(&mut scratch, record.db, record.tag, record.deadline, &record.key, &record.value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_pinned() {
        let header = Header { tag: TypeTag::String, deadline: Some(UnixMs(0x0102)), index: 3 };
        let mut raw = Vec::new();
        header.write(b"v", &mut raw);
        assert_eq!(raw, [1, 2, 1, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0, b'v']);
        assert_eq!(Header::split(&raw), Some((header, &b"v"[..])));
    }

    #[test]
    fn foreign_values_are_refused() {
        assert_eq!(Header::split(&[1; HEADER - 1]), None);
        assert_eq!(Header::split(&[9; HEADER]), None);
    }

    #[test]
    fn a_deadline_of_zero_is_not_none() {
        let header = Header { tag: TypeTag::String, deadline: Some(UnixMs(0)), index: 0 };
        let mut raw = Vec::new();
        header.write(b"", &mut raw);
        assert_eq!(Header::split(&raw).unwrap().0.deadline, Some(UnixMs(1)));
        assert!(header.expired(UnixMs(0)));
    }

    #[test]
    fn digest_separates_key_and_value() {
        let of = |db, key: &[u8], value: &[u8], deadline: Option<u64>| {
            digest(&mut Vec::new(), db, TypeTag::String, deadline.map(UnixMs), key, value)
        };
        let digests = [
            of(0, b"ab", b"c", None),
            of(0, b"a", b"bc", None),
            of(1, b"ab", b"c", None),
            of(0, b"ab", b"c", Some(5)),
        ];
        for (at, digest) in digests.iter().enumerate() {
            assert!(!digests[..at].contains(digest));
        }
        assert_eq!(of(0, b"a", b"b", None), 193_405_318_726_863_450_972_602_653_780_059_568_549, "pinned");
    }
}
