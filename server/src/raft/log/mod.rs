//! The Raft log on disk: append-only segments, one writer thread, one `fdatasync` per drained batch.
//!
//! Bytes, ids and u64 indexes only; openraft is not named here.
