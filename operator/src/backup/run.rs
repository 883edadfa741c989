//! One run, from the question which node to the proof in the bucket.
//!
//! ```text
//! is this run complete already? ---yes---> prove it
//!        | no
//! clear what an earlier attempt left -> source -> RAFTSNAPSHOT -> stream to S3 -> meta.json   <- the commit mark
//!                 ^                                    |             |
//!                 +-------- the next node, a new key --+             +-> prove -> verified.json -> retention
//! ```
//!
//! Killed anywhere, a repeat under the same name ends with exactly one complete backup: before `meta.json` it starts
//! anew under a new key and clears what was left, after it only the proof is repeated.

use kvnode_api::Id;
use kvnode_api::snapshot::SnapshotMeta;

use super::catalog::{Backup, list};
use super::cleanup;
use super::crypt::{ALGORITHM, Key};
use super::layout::{Layout, META_FILE, Name, STATE_ENCRYPTED_FILE, STATE_FILE};
use super::meta::{BackupMeta, Encryption, FORMAT, FORMAT_VERSION};
use super::progress::{Report, Reporter};
use super::retention::Policy;
use super::source::{self, State};
use super::upload::{UploadError, upload};
use super::verify::{Proof, verify};
use crate::admin_client::AdminClient;
use crate::clock;
use crate::crd::backup::{BackupPhase, Verified, Verify};
use crate::s3::{S3Error, S3ErrorKind, Store};

/// Sources tried before a run gives up; what starts it may start it again.
const ATTEMPTS_MAX: u32 = 6;

/// What to back up, as which run.
#[derive(Clone, Debug)]
pub struct Order {
    /// Name of the cluster: part of the path.
    pub cluster: String,
    /// Name of the run: the same name is the same run.
    pub run: String,
    /// Admin addresses of the nodes.
    pub nodes: Vec<String>,
    /// The cluster that they must belong to.
    pub cluster_id: Option<Id>,
    /// Where in the bucket.
    pub layout: Layout,
    /// Encrypt with this key.
    pub key: Option<Key>,
    /// What is kept of older runs.
    pub retention: Policy,
}

/// Why a run failed.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// No node can give a snapshot, or they belong to another cluster.
    #[error("{0}")]
    Source(String),
    /// The store.
    #[error("{0}")]
    Store(#[from] S3Error),
}

impl RunError {
    /// Another try with the same settings may do.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Source(_) => true,
            Self::Store(error) => error.is_transient(),
        }
    }
}

/// Runs.
///
/// # Errors
/// [`RunError`]; a backup that is proved to be wrong is not an error but stands in the report.
pub async fn run(
    store: &Store,
    admin: &AdminClient,
    order: &Order,
    proof: &Proof<'_>,
    reporter: &Reporter,
) -> Result<Report, RunError> {
    let sources = source::find(admin, &order.nodes, order.cluster_id).await;
    let cluster_id = match (&sources, order.cluster_id) {
        (Ok(sources), _) => sources.cluster_id,
        // A run that is complete needs no node any more.
        (Err(_), Some(known)) => known,
        (Err(what), None) => return Err(RunError::Source(what.clone())),
    };
    let snaps = order.layout.snaps(&order.cluster, &cluster_id.to_string());
    let listing = list(store, &order.layout, &snaps).await?;
    let done = listing.backups.iter().find(|backup| backup.meta.run == order.run).cloned();
    let backup = if let Some(backup) = done {
        backup
    } else {
        sources.map_err(RunError::Source)?;
        cleanup::clear(store, &snaps, &order.layout, &listing, &order.run, Some(clock::wall())).await?;
        make(store, admin, order, reporter).await?
    };
    let mut report = described(store, &backup, reporter);
    if proof.mode == Verify::Off {
        return Ok(report);
    }
    if backup.verified() == Verified::No {
        let mark = verify(store, &backup.place, proof, reporter).await?;
        let judged = Backup { mark: Some(mark), ..backup };
        report.verified = judged.verified();
        report.error = judged.mark.and_then(|mark| mark.error);
    }
    if report.verified != Verified::Failed {
        match cleanup::retain(store, &order.layout, &snaps, &order.retention, clock::wall()).await {
            Ok(deleted) => report.deleted = deleted,
            Err(error) => report.retention_error = Some(error.to_string()),
        }
    }
    Ok(report)
}

/// Makes the backup, from one node after the other.
async fn make(
    store: &Store,
    admin: &AdminClient,
    order: &Order,
    reporter: &Reporter,
) -> Result<Backup, RunError> {
    let started = clock::wall();
    let mut failed: Vec<String> = Vec::new();
    loop {
        let sources = if failed.is_empty() {
            source::find_sparing(admin, &order.nodes, order.cluster_id).await
        } else {
            source::find(admin, &order.nodes, order.cluster_id).await
        };
        let sources = sources.map_err(RunError::Source)?;
        // Those that have failed come last.
        let fresh = sources.order.iter().find(|node| !failed.contains(node));
        let Some(node) = fresh.or(sources.order.first()).cloned() else {
            return Err(RunError::Source("no node can give a snapshot".into()));
        };
        reporter.attempt(&node);
        let error = match attempt(store, admin, order, (&node, started), reporter).await {
            Ok(backup) => return Ok(backup),
            Err(UploadError::Store(error)) => return Err(error.into()),
            Err(error) => error,
        };
        tracing::warn!(node, %error, "a source failed");
        failed.push(node);
        if reporter.attempts() >= ATTEMPTS_MAX {
            return Err(RunError::Source(error.to_string()));
        }
    }
}

async fn attempt(
    store: &Store,
    admin: &AdminClient,
    order: &Order,
    (node, started): (&str, jiff::Timestamp),
    reporter: &Reporter,
) -> Result<Backup, UploadError> {
    let snapshot = source::snapshot(admin, node).await?;
    let made = stored(store, admin, order, (node, started, &snapshot), reporter).await;
    // The node keeps only a few by itself; this one is of no more use there.
    if let Err(error) = admin.remove_snapshot(node, &snapshot.id).await {
        tracing::info!(node, id = snapshot.id, %error, "the node keeps its snapshot");
    }
    made
}

async fn stored(
    store: &Store,
    admin: &AdminClient,
    order: &Order,
    (node, started, snapshot): (&str, jiff::Timestamp, &SnapshotMeta),
    reporter: &Reporter,
) -> Result<Backup, UploadError> {
    let name = Name {
        index: snapshot.index,
        created_ms: i64::try_from(snapshot.created_at_ms).unwrap_or(i64::MAX),
        run: order.run.clone(),
    };
    let dir = order.layout.dir(&order.cluster, &snapshot.cluster_id, &name);
    let unusable = || {
        S3Error::new(S3ErrorKind::Settings, format!("name {dir}"), "cluster or run cannot be part of a path")
    };
    let place = order.layout.parse(&format!("{dir}{META_FILE}")).ok_or_else(unusable)?;
    let file = if order.key.is_some() { STATE_ENCRYPTED_FILE } else { STATE_FILE };
    reporter.phase(BackupPhase::Uploading, snapshot.size_bytes);
    let mut state = State::new(admin, node, snapshot);
    let key = format!("{dir}{file}");
    let object = upload(store, &key, file, (snapshot, &mut state), order.key.as_ref(), reporter).await?;
    let second = |at: jiff::Timestamp| at.round(jiff::Unit::Second).unwrap_or(at).to_string();
    let meta = BackupMeta {
        format: FORMAT.into(),
        format_version: FORMAT_VERSION,
        run: order.run.clone(),
        cluster: order.cluster.clone(),
        snapshot: snapshot.clone(),
        object,
        encryption: order
            .key
            .as_ref()
            .map(|key| Encryption { algorithm: ALGORITHM.into(), key_id: key.id() }),
        source: node.to_owned(),
        started_at: second(started),
        finished_at: second(clock::wall()),
        operator_version: env!("CARGO_PKG_VERSION").into(),
    };
    let meta_bytes = cleanup::commit(store, &dir, &meta).await?;
    Ok(Backup { place, meta, meta_bytes, mark: None })
}

/// A report of a backup as it stands.
pub(super) fn described(store: &Store, backup: &Backup, reporter: &Reporter) -> Report {
    let snapshot = &backup.meta.snapshot;
    Report {
        uri: store.uri(&backup.place.dir),
        cluster_id: snapshot.cluster_id.clone(),
        term: snapshot.term,
        index: snapshot.index,
        log_time_ms: snapshot.log_time_ms,
        keys: snapshot.keys_total(),
        size_bytes: snapshot.size_bytes,
        sha256: snapshot.sha256.clone(),
        server_version: snapshot.server_version.clone(),
        source: backup.meta.source.clone(),
        attempts: reporter.attempts().max(1),
        verified: backup.verified(),
        error: backup.mark.as_ref().and_then(|mark| mark.error.clone()),
        deleted: 0,
        retention_error: None,
    }
}
