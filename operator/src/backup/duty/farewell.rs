//! The last backup of a KvCluster that goes, with `spec.backup.onDelete: FinalBackup`: the object is held until it is
//! complete, and its pods with it.
//!
//! ```text
//! kubectl delete kvc --> held by our finalizer --> KvBackup <cluster>-final-<uid> --its turn, its Job--> Complete --> let go
//!                                                       ^                                                  Failed --> told, held
//!                                                       +--- deleted by somebody: another try
//! ```
//!
//! A way out is always there: `onDelete: Nothing`. A cluster that was never formed, and one whose namespace goes, is let
//! go at once.

use std::time::Duration;

use kube::api::{ObjectMeta, Patch, PatchParams, PostParams};
use kube::{Api, ResourceExt as _};
use serde_json::json;

use super::Duty;
use super::look::Work;
use super::pass::{Here, PACE_ACTIVE, goes, phase};
use super::state::is_active;
use crate::backup::meta::sha256;
use crate::crd::KvCluster;
use crate::crd::backup::{BackupPhase, KvBackup, KvBackupSpec};
use crate::crd::bucket::OnDelete;
use crate::crd::reason::EventReason;
use crate::error::{Error, asked, asked_opt};
use crate::plan::Note;

/// Holds a KvCluster until its last backup is complete.
pub const FINALIZER: &str = "kvnode.dev/final-backup";
/// While the last backup does not get on.
const PACE_HELD: Duration = Duration::from_secs(10);
/// Longest name of a KvBackup, less what is put behind the cluster's.
const NAME_MAX: usize = 45;

/// Our finalizer is on it.
pub(super) fn is_held(cluster: &KvCluster) -> bool {
    cluster.finalizers().iter().any(|name| name == FINALIZER)
}

fn is_wanted(cluster: &KvCluster) -> bool {
    cluster.spec.backup.as_ref().is_some_and(|backup| backup.on_delete == OnDelete::FinalBackup)
}

/// Puts our finalizer on a cluster that is to be backed up before it goes, and takes it off another one.
///
/// # Errors
/// The API server refused, or did not answer.
pub async fn prepare(duty: &Duty, cluster: &KvCluster) -> Result<(), Error> {
    let goes = cluster.metadata.deletion_timestamp.is_some();
    match (is_wanted(cluster), is_held(cluster)) {
        (true, false) if !goes => hold(duty, cluster, true).await,
        (false, true) => hold(duty, cluster, false).await,
        _ => Ok(()),
    }
}

async fn hold(duty: &Duty, cluster: &KvCluster, on: bool) -> Result<(), Error> {
    let mut names = cluster.finalizers().to_vec();
    names.retain(|name| name != FINALIZER);
    if on {
        names.push(FINALIZER.into());
    }
    // The version guards what others put there meanwhile.
    let version = &cluster.metadata.resource_version;
    let patch = json!({ "metadata": { "resourceVersion": version, "finalizers": names } });
    let namespace = cluster.namespace().unwrap_or_default();
    let api: Api<KvCluster> = Api::namespaced(duty.ctx.client.clone(), &namespace);
    let name = cluster.name_any();
    let (params, patch) = (PatchParams::default(), Patch::Merge(&patch));
    asked_opt(format!("change the finalizers of KvCluster {name}"), api.patch(&name, &params, &patch))
        .await?;
    Ok(())
}

/// Name of the last backup: of this cluster, not of another one of the same name.
#[must_use]
pub fn last_name(cluster: &KvCluster) -> String {
    let mark = sha256(cluster.uid().unwrap_or_default().as_bytes());
    let name: String = cluster.name_any().chars().take(NAME_MAX).collect();
    format!("{name}-final-{}", mark.get(..8).unwrap_or_default())
}

impl Here<'_> {
    /// One pass over a cluster that goes and is held.
    pub(super) async fn farewell(
        &self,
        mut backups: Vec<KvBackup>,
        work: &Work,
    ) -> Result<Option<Duration>, Error> {
        let formed = self.cluster.status.as_ref().and_then(|status| status.formation.as_ref());
        if !is_wanted(self.cluster) || formed.is_none_or(|formation| formation.formed_at.is_none()) {
            hold(self.duty, self.cluster, false).await?;
            return Ok(None);
        }
        if self.cluster.spec.hibernate {
            // Nothing wakes what is being deleted.
            let message = "it is being deleted, and hibernated: no pod runs that a last backup could be taken from. It is held: \
                           set spec.backup.onDelete: Nothing to let it go without";
            self.held(message.to_owned()).await;
            return Ok(Some(PACE_HELD));
        }
        let last = last_name(self.cluster);
        if !backups.iter().any(|backup| backup.name_any() == last) {
            return self.order_last(&last).await;
        }
        for backup in backups.iter_mut().filter(|backup| !goes(backup)) {
            self.advance(backup, work).await?;
        }
        if !backups.iter().any(|backup| is_active(phase(backup))) {
            self.start_next(&mut backups).await?;
        }
        let last = backups.iter().find(|backup| backup.name_any() == last);
        match last.and_then(phase) {
            Some(BackupPhase::Complete) => {
                hold(self.duty, self.cluster, false).await?;
                Ok(None)
            }
            Some(BackupPhase::Failed) => {
                let status = last.and_then(|last| last.status.clone()).unwrap_or_default();
                let message = format!(
                    "it is being deleted, and its last backup failed: {}. It is held: delete KvBackup {} for another \
                     try, or set spec.backup.onDelete: Nothing to let it go without",
                    status.error.unwrap_or_default(),
                    last_name(self.cluster),
                );
                self.held(message).await;
                Ok(Some(PACE_HELD))
            }
            _ => Ok(Some(PACE_ACTIVE)),
        }
    }

    async fn held(&self, message: String) {
        let note = Note { reason: EventReason::DeletionHeld, warning: true, message };
        self.duty.ctx.recorder.tell(self.cluster, &[note]).await;
    }

    async fn order_last(&self, name: &str) -> Result<Option<Duration>, Error> {
        let backup = KvBackup {
            metadata: ObjectMeta { name: Some(name.to_owned()), ..ObjectMeta::default() },
            spec: KvBackupSpec {
                cluster: self.name.name.clone(),
                verify: Some(self.spec.verify),
                deadline_minutes: 360,
                ..KvBackupSpec::default()
            },
            status: None,
        };
        let params = PostParams::default();
        let made = self.api.create(&params, &backup);
        match asked(format!("create KvBackup {name}"), made).await {
            Err(error) if error.is_terminating_namespace() => {
                tracing::warn!(cluster = %self.name, "its namespace goes: there is no last backup");
                hold(self.duty, self.cluster, false).await?;
                Ok(None)
            }
            Err(error) if !error.is_conflict() => Err(error),
            _ => Ok(Some(PACE_ACTIVE)),
        }
    }
}
