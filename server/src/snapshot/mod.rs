//! User-level snapshots: RAFTSNAPSHOT exports of the content, `state.bin` and `meta.json`, and reading them back.
//!
//! "checkpoint" is the Raft transfer of RocksDB files (`store`, `raft`); "snapshot" is always this export.
