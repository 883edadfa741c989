//! `meta.json` of a snapshot: what a user, the operator and a backup know of a `state.bin` without reading it.
//!
//! One line of JSON beside `state.bin` in `snapshots/<term>-<index>-<unix ms>/`. Ids and digests are hex text, because
//! many JSON readers lose digits of numbers above 2^53. Fields that a reader does not know are to be ignored; a
//! `format_version` that it does not know is to be refused.

use serde::{Deserialize, Serialize};

/// Value of [`SnapshotMeta::format`].
pub const FORMAT: &str = "kvnode-snapshot";

/// Value of [`SnapshotMeta::format_version`] that this crate writes; equal to the version inside `state.bin`.
pub const FORMAT_VERSION: u16 = 1;

/// Content of `meta.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotMeta {
    /// Always [`FORMAT`]; tells our file from the ancestor's `meta.json`.
    pub format: String,
    /// Version of `state.bin` and of this file.
    pub format_version: u16,
    /// Name of the directory: `<term>-<index>-<unix ms>`.
    pub id: String,
    /// Cluster that the content belongs to, 16 hex digits.
    pub cluster_id: String,
    /// Node that wrote the files, 16 hex digits.
    pub node_id: String,
    /// Raft group (hash slot range) of the content; only group 0 exists.
    pub group: u32,
    /// Term of the last applied entry; 0 with a null `index_range` if nothing was applied.
    pub term: u64,
    /// Index of the last applied entry; 0 with a null `index_range` if nothing was applied.
    pub index: u64,
    /// Log time that the content is seen at, Unix milliseconds. A key is expired if its deadline is not above it.
    pub log_time_ms: u64,
    /// Wall clock when the snapshot was begun, RFC 3339 in UTC with milliseconds.
    pub created_at: String,
    /// The same as Unix milliseconds.
    pub created_at_ms: u64,
    /// Bytes of `state.bin`.
    pub size_bytes: u64,
    /// SHA-256 of `state.bin`, 64 hex digits.
    pub sha256: String,
    /// Keys per database; position = database number.
    pub keys: Vec<u64>,
    /// Order-free content digest over all databases, 32 hex digits; equal contents have equal digests.
    pub digest: String,
    /// Version of the server that wrote the files.
    pub server_version: String,
    /// Snapshot that a log archive chains from; `None` for one that stands alone.
    pub parent: Option<String>,
    /// True: holds every write acknowledged before the request. False: the local state of a node that had no quorum,
    /// which may lack the newest writes.
    pub quorum: bool,
    /// Entries whose effects are in the content; `None` if none was applied.
    pub index_range: Option<IndexRange>,
}

/// Inclusive range of log indexes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IndexRange {
    /// First index; 0 for a full snapshot.
    pub first: u64,
    /// Last index.
    pub last: u64,
}

impl SnapshotMeta {
    /// Keys of all databases together.
    #[must_use]
    pub fn keys_total(&self) -> u64 {
        self.keys.iter().fold(0, |sum, &keys| sum.saturating_add(keys))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A file as version 0.1.0 writes it; later versions must read it.
    const V1: &str = r#"{"format":"kvnode-snapshot","format_version":1,"id":"3-900-1795332236779","cluster_id":"00000000000000c1","node_id":"000000000000001f","group":0,"term":3,"index":900,"log_time_ms":1795332236700,"created_at":"2026-11-22T13:03:56.779Z","created_at_ms":1795332236779,"size_bytes":4096,"sha256":"e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855","keys":[2,0,1],"digest":"000000000000000000000000000000ff","server_version":"0.1.0","parent":null,"quorum":true,"index_range":{"first":0,"last":900}}"#;

    #[test]
    fn version_1_is_read_and_written_unchanged() {
        let meta: SnapshotMeta = serde_json::from_str(V1).unwrap();
        assert_eq!(meta.keys_total(), 3);
        assert_eq!(meta.index_range, Some(IndexRange { first: 0, last: 900 }));
        assert_eq!(serde_json::to_string(&meta).unwrap(), V1);
    }
}
