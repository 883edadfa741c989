//! What can be wrong with a snapshot, in words that say which file, where, and what to do.

use std::io;
use std::path::{Path, PathBuf};

use crate::store::Fatal;

/// Why a snapshot could not be written, read or found.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// The file system answered with an error.
    #[error("{doing} {}: {source}", path.display())]
    Io {
        /// What was being done, e.g. "sync".
        doing: &'static str,
        /// File or directory.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// The bytes are not those that were written.
    #[error("{}: damaged at byte {offset}: {what}", path.display())]
    Damaged {
        /// File.
        path: PathBuf,
        /// Byte of the file (for the ancestor's gzip: of the stream inside) at which the damaged part begins.
        offset: u64,
        /// What does not fit.
        what: String,
    },
    /// The file is something else.
    #[error("{}: not a kvnode snapshot: {what}; give the state.bin of a snapshot directory", path.display())]
    NotASnapshot {
        /// File.
        path: PathBuf,
        /// What was found.
        what: String,
    },
    /// Written by a later version in a way that this one does not know.
    #[error("{}: {what}; read it with the server version that wrote it, or a later one", path.display())]
    Newer {
        /// File.
        path: PathBuf,
        /// What is not known.
        what: String,
    },
    /// `state.bin` is not the file that the `meta.json` beside it describes.
    #[error(
        "{}: does not fit the meta.json beside it: {what}; if the file is known to be right, move it away from \
         meta.json and read it there",
        path.display()
    )]
    MetaMismatch {
        /// `state.bin`.
        path: PathBuf,
        /// What differs.
        what: String,
    },
    /// An ancestor's file with keys that are not user keys.
    #[error("{}: {count} keys do not begin with the letter k of user keys", path.display())]
    ForeignKeys {
        /// File.
        path: PathBuf,
        /// How many.
        count: u64,
    },
    /// A record cannot be written into a snapshot.
    #[error("snapshot refused: {what}")]
    Refused {
        /// Why.
        what: String,
    },
    /// The content read from the store is not what its own counters say: a bug or silent corruption of the store.
    #[error(
        "snapshot refused: {what}; the store of this node is inconsistent: replace the node from another member, and \
         keep its data directory for a report"
    )]
    StoreMismatch {
        /// Which counter.
        what: String,
    },
    /// The store failed while it was read.
    #[error(transparent)]
    Store(#[from] Fatal),
    /// No snapshot of that name.
    #[error("no snapshot {id}")]
    NotFound {
        /// The name asked for.
        id: String,
    },
    /// The reader of the commands went away or its disk is full.
    #[error("write commands: {0}")]
    Output(#[source] io::Error),
}

impl SnapshotError {
    /// What to do when `--parse-snapshot` did not print everything. Only with [`SnapshotError::Output`] it printed a part.
    #[must_use]
    pub fn remedy(&self) -> &'static str {
        match self {
            Self::Damaged { .. } => "take another snapshot file, or salvage what is readable with --partial",
            Self::ForeignKeys { .. } => "--partial skips them",
            Self::Io { .. } => "check the file's name and its owner",
            Self::Output(_) => {
                "what was printed is not all of it: run it again with a reader that stays, or a disk with room"
            }
            _ => "nothing was printed",
        }
    }

    /// For `map_err`: keeps what was being done and to which path.
    pub(crate) fn io(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { doing, path: path.to_owned(), source }
    }

    pub(super) fn damaged(path: &Path, offset: u64, what: impl Into<String>) -> Self {
        Self::Damaged { path: path.to_owned(), offset, what: what.into() }
    }
}
