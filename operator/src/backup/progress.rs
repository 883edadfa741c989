//! How far a run is, for whoever looks: a terminal, the status of a KvBackup.

use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use super::preview::Preview;
use crate::crd::backup::{BackupPhase, Verified};

/// A moment of a run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// Part of its life.
    pub phase: BackupPhase,
    /// Bytes of the content done in this phase.
    pub bytes: u64,
    /// Bytes of the content; 0 while unknown.
    pub bytes_total: u64,
    /// Attempts so far, the running one included.
    pub attempts: u32,
    /// Node that it is taken from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// What is being restored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub preview: Option<Preview>,
}

impl Default for Progress {
    fn default() -> Self {
        Self {
            phase: BackupPhase::Running,
            bytes: 0,
            bytes_total: 0,
            attempts: 0,
            source: None,
            preview: None,
        }
    }
}

impl Progress {
    /// Per cent done in this phase; `None` while the total is unknown.
    #[must_use]
    pub fn per_cent(&self) -> Option<u8> {
        let done = u128::from(self.bytes.min(self.bytes_total)) * 100;
        u8::try_from(done.checked_div(u128::from(self.bytes_total))?).ok()
    }
}

/// Where a run tells its progress.
#[derive(Clone, Debug)]
pub struct Reporter(watch::Sender<Progress>);

impl Default for Reporter {
    fn default() -> Self {
        Self(watch::Sender::new(Progress::default()))
    }
}

impl Reporter {
    /// Follows the progress.
    #[must_use]
    pub fn subscribe(&self) -> watch::Receiver<Progress> {
        self.0.subscribe()
    }

    /// A new phase begins.
    pub fn phase(&self, phase: BackupPhase, bytes_total: u64) {
        self.0.send_modify(|progress| {
            (progress.phase, progress.bytes, progress.bytes_total) = (phase, 0, bytes_total);
        });
    }

    /// A new attempt begins at a source.
    pub fn attempt(&self, source: &str) {
        self.0.send_modify(|progress| {
            progress.attempts += 1;
            progress.source = Some(source.to_owned());
            (progress.phase, progress.bytes, progress.bytes_total) = (BackupPhase::Running, 0, 0);
        });
    }

    /// What is being restored.
    pub fn previewed(&self, preview: &Preview) {
        self.0.send_modify(|progress| progress.preview = Some(preview.clone()));
    }

    /// More bytes are done.
    pub fn add(&self, bytes: u64) {
        self.0.send_modify(|progress| progress.bytes += bytes);
    }

    /// Attempts so far.
    #[must_use]
    pub fn attempts(&self) -> u32 {
        self.0.borrow().attempts
    }
}

/// Result of a run: what a Job leaves behind, and what the status of a KvBackup is made of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// `s3://bucket/.../` of the backup.
    pub uri: String,
    /// Cluster id, 16 hex digits.
    pub cluster_id: String,
    /// Term of the last entry in it.
    pub term: u64,
    /// Index of the last entry in it.
    pub index: u64,
    /// Log time of the content, Unix ms.
    pub log_time_ms: u64,
    /// Keys of all databases.
    pub keys: u64,
    /// Bytes of state.bin.
    pub size_bytes: u64,
    /// SHA-256 of state.bin.
    pub sha256: String,
    /// Version of the server that wrote it.
    pub server_version: String,
    /// Node that it was taken from.
    pub source: String,
    /// Attempts.
    pub attempts: u32,
    /// How far it is proved.
    pub verified: Verified,
    /// Why it is proved to be wrong.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// Backups that retention deleted.
    #[serde(default)]
    pub deleted: u32,
    /// Why retention could not delete.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retention_error: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn per_cent_is_whole_and_bounded() {
        let at = |bytes, bytes_total| Progress { bytes, bytes_total, ..Progress::default() }.per_cent();
        assert_eq!((at(0, 0), at(0, 3), at(2, 3), at(9, 3)), (None, Some(0), Some(66), Some(100)));
        assert_eq!(at(u64::MAX, u64::MAX), Some(100));
    }
}
