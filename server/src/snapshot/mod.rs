//! User-level snapshots: RAFTSNAPSHOT exports of the content, `state.bin` and `meta.json`, and reading them back.
//!
//! "checkpoint" is the Raft transfer of `RocksDB` files (`store`, `raft`); "snapshot" is always this export.
//!
//! ```text
//! store::View --> export --> <snapshots>/<term>-<index>-<unix ms>/{state.bin, meta.json}      catalog: list, prune
//!                 (writer)                     |
//!                                              +--> parse: verify, open_records (restore), write_redis_commands
//!                                                   (reader, salvage; ancestor for the Go program's files)
//! ```
//!
//! Invariants
//! - A directory without `.tmp` behind its name is complete and on disk: files and directories are synced before and
//!   after the rename.
//! - Nothing is given to a reader before the whole file was proved, except by `--partial`, which says so.
//! - Memory is flat in the size of the content, on every path: one frame, or one record where that is larger.
//!
//! It deliberately neither schedules, confirms quorum nor uploads: the caller tells what it knows in an
//! [`ExportContext`]. All functions block; call them from a blocking thread.

pub mod ancestor;
pub mod catalog;
mod error;
pub mod export;
pub mod format;
#[cfg(any(test, feature = "fuzz"))]
pub(crate) mod fuzz;
pub mod parse;
pub mod reader;
pub mod salvage;
pub mod writer;

pub use catalog::{Catalog, Entry, Meta};
pub use error::SnapshotError;
pub use export::{ExportContext, export};
pub use format::{Header, RecordHash, Totals};
pub use parse::{Damage, Kind, ParseOptions, Summary, Verified, open_records, verify, write_redis_commands};
pub use salvage::Loss;

/// Name of the content file in a snapshot directory.
pub const STATE_FILE: &str = "state.bin";
/// Name of the description beside it.
pub const META_FILE: &str = "meta.json";

/// Lower-case hex text.
fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
        // Writing to a String cannot err.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests;
