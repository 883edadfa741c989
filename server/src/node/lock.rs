//! One process per data directory: an advisory lock on `LOCK`, held as long as the node lives.

use std::fs::{self, File};
use std::path::Path;
use std::time::Duration;

use rustix::fs::{FlockOperation, flock};
use tokio::time::{Instant, sleep};

use crate::error::{ErrorKind, NodeError};

/// How long another process may take to end. A pod that was deleted by force runs on for two or three seconds while its
/// successor starts already; giving up at once would cost it the back-off of a crash.
const PATIENCE: Duration = Duration::from_secs(5);
const RETRY_PAUSE: Duration = Duration::from_millis(50);

/// Held lock; released when it is dropped or the process ends, however it ends.
pub(super) struct DirLock {
    _file: File,
}

impl DirLock {
    /// Takes the lock, waits a while for whoever has it, or says who cannot have it.
    pub(super) async fn take(data: &Path) -> Result<Self, NodeError> {
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
        let begun = Instant::now();
        while flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
            if begun.elapsed() >= PATIENCE {
                return Err(NodeError::new(
                    ErrorKind::Locked,
                    format!("data directory {} is in use by another process", data.display()),
                    "stop that process, or choose another --data",
                ));
            }
            sleep(RETRY_PAUSE).await;
        }
        Ok(Self { _file: file })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_directory_is_waited_for_but_not_without_end() {
        let dir = tempfile::tempdir().unwrap();
        let first = DirLock::take(dir.path()).await.unwrap();
        let refused = DirLock::take(dir.path()).await.map(drop).unwrap_err();
        assert!(refused.to_string().contains("in use by another process"), "{refused}");
        let next = async { DirLock::take(dir.path()).await.map(drop) };
        let end = async {
            sleep(PATIENCE / 2).await;
            drop(first);
        };
        let (taken, ()) = tokio::join!(next, end);
        taken.unwrap();
    }
}
