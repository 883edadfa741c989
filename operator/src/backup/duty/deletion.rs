//! A KvBackup that goes: with `deletionPolicy: Delete` what it stored is deleted first.
//!
//! ```text
//! made, Delete       -> our finalizer            Retain -> no finalizer, at any time: the way out
//! deleted meanwhile  -> its run is stopped, pods included -> delete Job -> finalizer off, and it is gone
//!                                                               `-> fails: condition, Event, again in a minute
//! namespace goes     -> no Job may be made there: finalizer off, objects kept, so that nothing hangs
//! ```
//!
//! It needs no KvCluster: bucket, credentials and cluster id are in the KvBackup's own status, written before its run
//! began. One that never began stored nothing.
//!
//! The Job has no owner: garbage collection of a KvBackup that is deleted in the foreground would take it away.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::batch::v1::Job;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions};
use kube::{Api, ResourceExt as _};
use serde_json::json;

use super::job::{self, Bucket};
use super::look::look;
use super::pass::write;
use super::state::{self, deleting, is_active};
use super::{Duty, job::delete_name};
use crate::clock;
use crate::crd::backup::{DeletionPolicy, KvBackup, KvBackupStatus};
use crate::crd::reason::{DeletionReason, EventReason};
use crate::error::{Error, asked, asked_opt};
use crate::plan::Note;

/// Holds a KvBackup until its objects are gone.
pub const FINALIZER: &str = "kvnode.dev/delete-objects";
/// Of an error, so that what can be done fits behind it.
const ERROR_CHARS_MAX: usize = 700;
/// While something is awaited.
const PACE: Duration = Duration::from_secs(2);
/// While it does not get on.
const PACE_BLOCKED: Duration = Duration::from_secs(10);

/// One pass; when to look again at the latest, `None` = on change.
///
/// # Errors
/// The API server refused, or did not answer.
pub async fn pass(duty: &Arc<Duty>, backup: &KvBackup) -> Result<Option<Duration>, Error> {
    let held = backup.finalizers().iter().any(|name| name == FINALIZER);
    let goes = backup.metadata.deletion_timestamp.is_some();
    let here =
        Here { duty, backup, name: backup.name_any(), namespace: backup.namespace().unwrap_or_default() };
    match (backup.spec.deletion_policy, held) {
        (DeletionPolicy::Delete, true) if goes => here.remove().await,
        (DeletionPolicy::Delete, false) if !goes => here.hold(true).await.map(|()| None),
        (DeletionPolicy::Retain, true) => here.hold(false).await.map(|()| None),
        _ => Ok(None),
    }
}

/// What one pass looks at.
struct Here<'a> {
    duty: &'a Arc<Duty>,
    backup: &'a KvBackup,
    name: String,
    namespace: String,
}

impl Here<'_> {
    /// Puts our finalizer on, or takes it off.
    async fn hold(&self, on: bool) -> Result<(), Error> {
        let mut names = self.backup.finalizers().to_vec();
        names.retain(|name| name != FINALIZER);
        if on {
            names.push(FINALIZER.into());
        }
        // The version guards what others put there meanwhile.
        let version = &self.backup.metadata.resource_version;
        let patch = json!({ "metadata": { "resourceVersion": version, "finalizers": names } });
        let api: Api<KvBackup> = Api::namespaced(self.duty.ctx.client.clone(), &self.namespace);
        let (params, patch) = (PatchParams::default(), Patch::Merge(&patch));
        let call = api.patch(&self.name, &params, &patch);
        asked_opt(format!("change the finalizers of KvBackup {}", self.name), call).await?;
        Ok(())
    }

    async fn remove(&self) -> Result<Option<Duration>, Error> {
        let status = self.backup.status.clone().unwrap_or_default();
        let (Some(s3), Some(cluster_id)) = (&status.destination, &status.cluster_id) else {
            self.hold(false).await?;
            return Ok(None);
        };
        if !self.stopped().await? {
            self.say(&status, DeletionReason::Deleting, "its run is being stopped").await?;
            return Ok(Some(PACE));
        }
        let work = look(&self.duty.ctx, &self.namespace, &self.backup.spec.cluster).await?;
        let job = delete_name(&self.name, &self.backup.uid().unwrap_or_default());
        let Some(seen) = work.seen(&job, None).await else {
            let bucket = Bucket { cluster: &self.backup.spec.cluster, cluster_id, s3 };
            let job = job::delete(&self.namespace, &job, &self.name, &bucket, &self.duty.images);
            return self.begin(&status, &job).await;
        };
        let end = seen.end.unwrap_or_default();
        match seen.ended {
            Some(true) => {
                let message = format!("{}: {}", self.name, end.text.unwrap_or_default());
                self.tell(EventReason::BackupDeleted, false, message).await;
                self.hold(false).await?;
                Ok(None)
            }
            ended => {
                // Told at once: a Job takes its time to give up. The remains of one that gave up go within a minute.
                let given_up = ended.map(|_| seen.message.unwrap_or_else(|| "the Job failed".into()));
                match end.error.or(seen.stuck).or(given_up) {
                    Some(error) => self.blocked(&status, &error).await,
                    None => self.working(&status).await,
                }
            }
        }
    }

    /// Whether its run, pods included, is no more at work; asks it to stop if not. What a run writes after the objects
    /// were listed would stay.
    async fn stopped(&self) -> Result<bool, Error> {
        let jobs: Api<Job> = Api::namespaced(self.duty.ctx.client.clone(), &self.namespace);
        let name = job::name(&self.name);
        let found = asked_opt(format!("get Job {name}"), jobs.get(&name)).await?;
        let ours = found.filter(|job| {
            let owners = job.owner_references();
            owners.iter().any(|owner| Some(&owner.uid) == self.backup.metadata.uid.as_ref())
        });
        let Some(run) = ours else { return Ok(true) };
        if run.metadata.deletion_timestamp.is_none() {
            // In the foreground: it is there until its pods are gone.
            let precondition = Preconditions { uid: run.uid(), resource_version: None };
            let params = DeleteParams::foreground().preconditions(precondition);
            asked_opt(format!("delete Job {name}"), jobs.delete(&name, &params)).await?;
        }
        Ok(false)
    }

    async fn begin(&self, status: &KvBackupStatus, job: &Job) -> Result<Option<Duration>, Error> {
        let jobs: Api<Job> = Api::namespaced(self.duty.ctx.client.clone(), &self.namespace);
        let name = job.name_any();
        match asked(format!("create Job {name}"), jobs.create(&PostParams::default(), job)).await {
            Err(error) if error.is_terminating_namespace() => {
                let (backup, uri) = (&self.name, status.uri.clone().unwrap_or_default());
                tracing::warn!(backup, uri, "the namespace goes: what a KvBackup stored is kept");
                self.hold(false).await?;
                return Ok(None);
            }
            Err(error) if !error.is_conflict() => return Err(error),
            _ => {}
        }
        self.working(status).await
    }

    async fn working(&self, status: &KvBackupStatus) -> Result<Option<Duration>, Error> {
        // What blocked the last try is true until this one ends.
        if !state::is_blocked(status) {
            self.say(status, DeletionReason::Deleting, "its objects are being deleted").await?;
        }
        Ok(Some(PACE))
    }

    async fn blocked(&self, status: &KvBackupStatus, error: &str) -> Result<Option<Duration>, Error> {
        let error: String = error.chars().take(ERROR_CHARS_MAX).collect();
        let message = format!(
            "{error}. It is tried again until it succeeds; spec.deletionPolicy: Retain lets this KvBackup go and keeps \
             what it stored"
        );
        if !state::says(status, &message) {
            let told = format!("{} cannot be deleted from its bucket: {message}", self.name);
            self.tell(EventReason::BackupNotDeleted, true, told).await;
        }
        self.say(status, DeletionReason::Blocked, &message).await?;
        Ok(Some(PACE_BLOCKED))
    }

    /// Writes the condition, and the end of a run that was stopped.
    async fn say(&self, status: &KvBackupStatus, reason: DeletionReason, message: &str) -> Result<(), Error> {
        let now = clock::wall();
        let mut new = status.clone();
        let generation = self.backup.metadata.generation.unwrap_or_default();
        new.conditions = vec![deleting(&status.conditions, (reason, message), generation, now)];
        if is_active(new.phase) {
            new = state::failed(&new, "the KvBackup was deleted while it ran", now);
        }
        let api: Api<KvBackup> = Api::namespaced(self.duty.ctx.client.clone(), &self.namespace);
        write(self.duty, &api, self.backup, &new).await
    }

    async fn tell(&self, reason: EventReason, warning: bool, message: String) {
        self.duty.ctx.recorder.tell(self.backup, &[Note { reason, warning, message }]).await;
    }
}
