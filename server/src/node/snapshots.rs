//! RAFTSNAPSHOT: from a read barrier over a point-in-time view to a directory on disk.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_util::future::BoxFuture;
use kvnode_api::members::Done;
use tokio::sync::Mutex;

use crate::admin::{Answer, ControlError, SnapshotControl, SnapshotFile};
use crate::clock::{self, UnixMs};
use crate::config::{Config, Consistency};
use crate::dispatch::{Saved, SnapshotService};
use crate::machine::{behind, spawn_blocking};
use crate::metrics::Latency;
use crate::raft::Group;
use crate::snapshot::{self, Catalog, ExportContext, Meta, SnapshotError};
use crate::store;

/// Counts for metrics.
#[derive(Debug, Default)]
pub struct Counts {
    /// Snapshots written.
    pub written: AtomicU64,
    /// Attempts that failed.
    pub failed: AtomicU64,
    /// Size of the newest, bytes.
    pub last_bytes: AtomicU64,
    /// Wall clock of the newest, 0 = none since the start.
    pub last_at_ms: AtomicU64,
    /// Log index of its content.
    pub last_index: AtomicU64,
    /// How long it took.
    pub last_took_ms: AtomicU64,
}

/// Takes, lists and removes snapshots of this node.
#[derive(Clone)]
pub struct Snapshots {
    group: Group,
    config: Arc<Config>,
    catalog: Arc<Catalog>,
    /// One at a time: a second request waits, then writes its own.
    turn: Arc<Mutex<()>>,
    counts: Arc<Counts>,
    duration: Latency,
}

fn failed(error: impl std::fmt::Display) -> ControlError {
    ControlError::Failed(error.to_string())
}

fn control_error(error: SnapshotError) -> ControlError {
    match error {
        SnapshotError::NotFound { .. } => ControlError::NotFound(error.to_string()),
        other => failed(other),
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, SnapshotError> + Send + 'static,
) -> Result<T, ControlError> {
    spawn_blocking(work).await.map_err(failed)?.map_err(control_error)
}

impl Snapshots {
    pub(super) fn new(group: Group, config: Arc<Config>, duration: Latency) -> Self {
        let catalog = Arc::new(Catalog::new(config.log_dir.join("snapshots")));
        Self { group, config, catalog, turn: Arc::default(), counts: Arc::default(), duration }
    }

    /// Counts since the start.
    #[must_use]
    pub fn counts(&self) -> &Counts {
        &self.counts
    }

    /// Removes what a crash in the middle of an export left behind.
    pub(super) fn clear_leftovers(&self) {
        match self.catalog.remove_stale() {
            Ok(0) => {}
            Ok(removed) => tracing::info!(removed, "unfinished snapshots removed"),
            Err(error) => tracing::warn!(%error, "unfinished snapshots not removed"),
        }
    }

    /// Writes one snapshot: everything acknowledged before the call, or without a quorum the local state.
    ///
    /// # Errors
    /// [`ControlError::Failed`]: not formed, or what the disk said.
    pub async fn take(&self) -> Result<(PathBuf, kvnode_api::snapshot::SnapshotMeta), ControlError> {
        let Some(cluster_id) = self.group.cluster_id() else {
            return Err(ControlError::Conflict("this node is not part of a cluster yet".into()));
        };
        let _turn = self.turn.lock().await;
        let started = clock::monotonic();
        let quorum = self.group.read_barrier(Consistency::High).await.is_ok();
        let context = ExportContext {
            cluster_id,
            node_id: self.group.node_id(),
            server_version: env!("CARGO_PKG_VERSION").to_owned(),
            created: clock::wall(),
            quorum,
            parent: None,
            hash: store::record_hash,
            bytes_per_second: 0,
        };
        let (group, catalog, keep) = (self.group.clone(), self.catalog.clone(), self.config.snapshots_keep);
        let write = move || {
            let view = group.store().view()?;
            let meta = view.meta();
            let (path, meta) = snapshot::export(&meta, view.records(), &context, catalog.dir())?;
            catalog.prune(keep, Some(&meta.id))?;
            Ok((path, meta))
        };
        let dir = self.catalog.dir().to_path_buf();
        let result = blocking(move || {
            behind("kvnode-snapshot", write).map_err(SnapshotError::io("start a thread for", &dir))?
        })
        .await;
        let counts = &self.counts;
        match &result {
            Ok((_, meta)) => {
                let took = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
                self.duration.observe(started.elapsed());
                counts.last_bytes.store(meta.size_bytes, Ordering::Relaxed);
                counts.last_at_ms.store(clock::wall().0, Ordering::Relaxed);
                counts.last_index.store(meta.index, Ordering::Relaxed);
                counts.last_took_ms.store(took, Ordering::Relaxed);
                counts.written.fetch_add(1, Ordering::Relaxed);
                tracing::info!(id = %meta.id, bytes = meta.size_bytes, ms = took, "snapshot written");
            }
            Err(error) => {
                counts.failed.fetch_add(1, Ordering::Relaxed);
                tracing::error!(%error, "snapshot not written");
            }
        }
        result
    }
}

impl SnapshotService for Snapshots {
    fn snapshot(&self) -> BoxFuture<'static, Result<(), String>> {
        let this = self.clone();
        Box::pin(async move { this.take().await.map(|_| ()).map_err(|error| error.to_string()) })
    }

    fn saved(&self) -> Saved {
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        let at = read(&self.counts.last_at_ms);
        Saved {
            count: read(&self.counts.written),
            at: (at > 0).then_some(UnixMs(at)),
            index: read(&self.counts.last_index),
            took: Duration::from_millis(read(&self.counts.last_took_ms)),
        }
    }
}

fn meta_value(meta: &Meta) -> serde_json::Value {
    match meta {
        Meta::Kvnode(meta) => serde_json::to_value(meta),
        Meta::Ancestor(meta) => serde_json::to_value(meta),
    }
    .unwrap_or_default()
}

impl SnapshotControl for Snapshots {
    fn create(&self) -> Answer<(String, serde_json::Value)> {
        let this = self.clone();
        Box::pin(async move {
            let (_, meta) = this.take().await?;
            Ok((meta.id.clone(), serde_json::to_value(&meta).map_err(failed)?))
        })
    }

    fn list(&self) -> Answer<Vec<serde_json::Value>> {
        let catalog = self.catalog.clone();
        Box::pin(async move {
            let mut entries = blocking(move || catalog.list()).await?;
            entries.reverse();
            Ok(entries.iter().map(|entry| meta_value(&entry.meta)).collect())
        })
    }

    fn open(&self, id: String) -> Answer<SnapshotFile> {
        let catalog = self.catalog.clone();
        Box::pin(async move {
            let entry = blocking(move || catalog.find(&id)).await?;
            let size_bytes = std::fs::metadata(entry.state()).map_err(failed)?.len();
            let sha256 = match &entry.meta {
                Meta::Kvnode(meta) => Some(meta.sha256.clone()),
                Meta::Ancestor(_) => None,
            };
            let meta = meta_value(&entry.meta).to_string();
            Ok(SnapshotFile { state: entry.state(), meta, size_bytes, sha256, crc64: None })
        })
    }

    fn remove(&self, id: String) -> Answer<Done> {
        let catalog = self.catalog.clone();
        Box::pin(async move {
            let removed = blocking(move || match catalog.find(&id) {
                Ok(entry) => std::fs::remove_dir_all(&entry.dir).map(|()| true).map_err(|error| {
                    SnapshotError::Io { doing: "remove", path: entry.dir.clone(), source: error }
                }),
                Err(SnapshotError::NotFound { .. }) => Ok(false),
                Err(error) => Err(error),
            })
            .await?;
            Ok(Done { changed: removed })
        })
    }
}
