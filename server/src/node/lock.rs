//! One process per data directory: an advisory lock on `LOCK`, held as long as the node lives.

use std::fs::{self, File};
use std::path::Path;

use rustix::fs::{FlockOperation, flock};

use crate::error::{ErrorKind, NodeError};

/// Held lock; released when it is dropped or the process ends, however it ends.
pub(super) struct DirLock {
    _file: File,
}

impl DirLock {
    /// Takes the lock, or says who cannot have it.
    pub(super) fn take(data: &Path) -> Result<Self, NodeError> {
        let unusable = |error: std::io::Error| {
            NodeError::new(
                ErrorKind::CannotCreate,
                format!("use data directory {}: {error}", data.display()),
                "check that it is a directory that this user may write to, or choose another --data",
            )
        };
        fs::create_dir_all(data).map_err(unusable)?;
        let file = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(data.join("LOCK"))
            .map_err(unusable)?;
        flock(&file, FlockOperation::NonBlockingLockExclusive).map_err(|_| {
            NodeError::new(
                ErrorKind::Locked,
                format!("data directory {} is in use by another process", data.display()),
                "stop that process, or choose another --data",
            )
        })?;
        Ok(Self { _file: file })
    }
}
