//! One pass over the backups of one cluster.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::api::{DeleteParams, ListParams, ObjectMeta, Patch, PatchParams, PostParams, Preconditions};
use kube::{Api, Resource as _, ResourceExt as _};
use serde_json::json;

use super::Duty;
use super::farewell;
use super::job::{self, probe_name, settings_hash};
use super::look::{Work, look};
use super::state::{
    self, JobSeen, condition, deadline, failed, followed, healthy, is_active, is_final, summary, verified,
};
use crate::backup::command::PROBE_ALL;
use crate::backup::schedule::{Cron, Decision, Schedule, Seen, decide};
use crate::clock;
use crate::crd::KvCluster;
use crate::crd::backup::{BackupPhase, DeletionPolicy, KvBackup, KvBackupSpec, KvBackupStatus, Verified};
use crate::crd::bucket::Backup;
use crate::crd::reason::{BackupCondition, EventReason};
use crate::crd::status::{BackupStatus, KvClusterStatus, ProbeStatus, ScheduleSince};
use crate::error::{Error, asked, asked_opt};
use crate::name::ClusterName;
use crate::observe::secrets::mounted;
use crate::plan::Note;

/// Field manager of what is written here.
const MANAGER: &str = "kvnode-operator-backup";
pub(super) const PACE_ACTIVE: Duration = Duration::from_secs(2);
const PACE_STEADY: Duration = Duration::from_mins(1);

/// One pass; when to look again at the latest, `None` = on change.
///
/// # Errors
/// The API server refused, or did not answer. What was done up to there is not done again.
pub async fn pass(duty: &Arc<Duty>, name: &ClusterName) -> Result<Option<Duration>, Error> {
    let ctx = &duty.ctx;
    let clusters: Api<KvCluster> = Api::namespaced(ctx.client.clone(), &name.namespace);
    let found = asked_opt(format!("get KvCluster {}", name.name), clusters.get(&name.name)).await?;
    let going = |cluster: &KvCluster| cluster.metadata.deletion_timestamp.is_some();
    let Some(cluster) = found.filter(|cluster| !going(cluster) || farewell::is_held(cluster)) else {
        duty.judged(name, None);
        return Ok(None);
    };
    let api: Api<KvBackup> = Api::namespaced(ctx.client.clone(), &name.namespace);
    let listed = asked("list KvBackups", api.list(&ListParams::default())).await?;
    let mut backups: Vec<KvBackup> =
        listed.items.into_iter().filter(|backup| backup.spec.cluster == name.name).collect();
    backups.sort_by_key(|backup| (backup.creation_timestamp().map(|at| at.0), backup.name_any()));
    let Some(spec) = cluster.spec.backup.clone() else {
        duty.judged(name, None);
        forget(duty, &cluster, MANAGER, |status| status.backup.is_some()).await?;
        return refuse(duty, &cluster, &api, &backups).await;
    };
    if cluster.spec.paused && !going(&cluster) {
        return Ok(None);
    }
    let here = Here { duty, name, cluster: &cluster, spec: &spec, api: &api, now: clock::wall() };
    let work = look(ctx, &name.namespace, &name.name).await?;
    if going(&cluster) {
        return here.farewell(backups, &work).await;
    }
    let schedules = schedules(&spec);
    let old = cluster.status.as_ref().and_then(|status| status.backup.clone()).unwrap_or_default();
    let mut status = BackupStatus { since: since(&old, &spec, here.now), ..old };
    let decision = here.decided(&schedules, &status, &backups);
    for due in &decision.due {
        here.create(&due.schedule, &due.name, &backups).await?;
    }
    for backup in backups.iter_mut().filter(|backup| !goes(backup)) {
        here.advance(backup, &work).await?;
    }
    let turn = backups.iter().any(|backup| is_active(phase(backup)));
    if !turn && status.probe.as_ref().is_none_or(|probe| probe.error.is_none()) {
        here.start_next(&mut backups).await?;
    }
    status.probe = here.probed(status.probe, &work).await?;
    // What is being deleted from the bucket is no backup any more.
    let lost: Vec<String> =
        backups.iter().filter(|backup| goes_whole(backup)).map(kube::ResourceExt::name_any).collect();
    status.last_success = status.last_success.filter(|last| !lost.contains(&last.name));
    let busy = backups.iter().any(|backup| !is_final(phase(backup))) || status.probe.is_none();
    backups.retain(|backup| !goes_whole(backup));
    status = summary(&status, &backups);
    status.next_run = decision.next.map(Time);
    here.report(&status, &schedules, &backups).await?;
    let until = decision.next.map(|next| next.duration_since(here.now)).filter(SignedDuration::is_positive);
    let until = until.and_then(|until| Duration::try_from(until).ok()).unwrap_or(PACE_STEADY);
    Ok(Some(if busy { PACE_ACTIVE } else { until.clamp(Duration::from_millis(200), PACE_STEADY) }))
}

pub(super) fn phase(backup: &KvBackup) -> Option<BackupPhase> {
    backup.status.as_ref().and_then(|status| status.phase)
}

/// What goes is somebody else's: [`super::deletion`] or the garbage collector.
pub(super) fn goes(backup: &KvBackup) -> bool {
    backup.metadata.deletion_timestamp.is_some()
}

/// What it stored goes with it.
fn goes_whole(backup: &KvBackup) -> bool {
    goes(backup) && backup.spec.deletion_policy == DeletionPolicy::Delete
}

fn schedules(spec: &Backup) -> Result<Vec<Schedule>, String> {
    let read = spec.schedules.iter().map(|schedule| {
        let cron = Cron::parse(&schedule.cron, schedule.time_zone.as_deref())
            .map_err(|what| format!("schedule {}: {what}", schedule.name))?;
        Ok(Schedule { name: schedule.name.clone(), cron, suspend: schedule.suspend || spec.suspend })
    });
    read.collect()
}

/// From when on each schedule counts. One that is suspended owes nothing of that time.
fn since(old: &BackupStatus, spec: &Backup, now: Timestamp) -> Vec<ScheduleSince> {
    let counts = spec.schedules.iter().filter(|schedule| !schedule.suspend && !spec.suspend);
    let from = |name: &str| old.since.iter().find(|since| since.name == name).map(|since| since.time.clone());
    counts
        .map(|schedule| ScheduleSince {
            name: schedule.name.clone(),
            time: from(&schedule.name).unwrap_or(Time(now)),
        })
        .collect()
}

/// Takes away what a field manager of ours has written into the status of a cluster whose spec does not ask for it any
/// more.
pub(super) async fn forget(
    duty: &Duty,
    cluster: &KvCluster,
    manager: &str,
    written: impl Fn(&KvClusterStatus) -> bool,
) -> Result<(), Error> {
    if !cluster.status.as_ref().is_some_and(written) {
        return Ok(());
    }
    let (name, namespace) = (cluster.name_any(), cluster.namespace().unwrap_or_default());
    let api: Api<KvCluster> = Api::namespaced(duty.ctx.client.clone(), &namespace);
    let patch = json!({
        "apiVersion": KvCluster::api_version(&()),
        "kind": KvCluster::kind(&()),
        "metadata": { "name": name, "uid": cluster.metadata.uid },
        "status": {},
    });
    let (params, patch) = (PatchParams::apply(manager).force(), Patch::Apply(&patch));
    let call = api.patch_status(&name, &params, &patch);
    asked_opt(format!("clear a part of the status of KvCluster {name}"), call).await?;
    duty.ctx.metrics.status_writes.inc();
    Ok(())
}

/// KvBackups of a cluster that has no bucket.
async fn refuse(
    duty: &Duty,
    cluster: &KvCluster,
    api: &Api<KvBackup>,
    backups: &[KvBackup],
) -> Result<Option<Duration>, Error> {
    let error =
        format!("KvCluster {} has no spec.backup: there is no bucket to write to", cluster.name_any());
    for backup in backups.iter().filter(|backup| !is_final(phase(backup)) && !goes(backup)) {
        let status = failed(&backup.status.clone().unwrap_or_default(), &error, clock::wall());
        write(duty, api, backup, &status).await?;
    }
    Ok(None)
}

pub(super) async fn write(
    duty: &Duty,
    api: &Api<KvBackup>,
    backup: &KvBackup,
    status: &KvBackupStatus,
) -> Result<(), Error> {
    if backup.status.as_ref() == Some(status) {
        return Ok(());
    }
    let name = backup.name_any();
    let patch = json!({
        "apiVersion": KvBackup::api_version(&()),
        "kind": KvBackup::kind(&()),
        "metadata": { "name": name, "uid": backup.metadata.uid },
        "status": status,
    });
    let params = PatchParams::apply(MANAGER).force();
    asked(
        format!("write the status of KvBackup {name}"),
        api.patch_status(&name, &params, &Patch::Apply(&patch)),
    )
    .await?;
    duty.ctx.metrics.status_writes.inc();
    Ok(())
}

/// What one pass looks at.
pub(super) struct Here<'a> {
    pub(super) duty: &'a Duty,
    pub(super) name: &'a ClusterName,
    pub(super) cluster: &'a KvCluster,
    pub(super) spec: &'a Backup,
    pub(super) api: &'a Api<KvBackup>,
    now: Timestamp,
}

impl Here<'_> {
    fn decided(
        &self,
        schedules: &Result<Vec<Schedule>, String>,
        status: &BackupStatus,
        backups: &[KvBackup],
    ) -> Decision {
        let Ok(schedules) = schedules else { return Decision::default() };
        let seen: Vec<Seen> = backups
            .iter()
            .map(|backup| Seen {
                name: backup.name_any(),
                schedule: backup.spec.schedule.clone(),
                active: !is_final(phase(backup)),
            })
            .collect();
        let since: BTreeMap<String, Timestamp> =
            status.since.iter().map(|since| (since.name.clone(), since.time.0)).collect();
        decide(&self.name.name, schedules, &since, &seen, self.now)
    }

    /// A KvBackup that is due; one that exists already is the same one.
    async fn create(&self, schedule: &str, name: &str, past: &[KvBackup]) -> Result<(), Error> {
        let known = self.spec.schedules.iter().find(|known| known.name == schedule);
        let version = self.cluster.status.as_ref().and_then(|status| status.version.clone());
        let backup = KvBackup {
            metadata: ObjectMeta { name: Some(name.to_owned()), ..ObjectMeta::default() },
            spec: KvBackupSpec {
                cluster: self.name.name.clone(),
                schedule: Some(schedule.to_owned()),
                verify: Some(state::verify_of(self.spec, version.as_deref(), past, self.now)),
                deletion_policy: DeletionPolicy::default(),
                deadline_minutes: known.map_or(360, |known| known.deadline_minutes),
            },
            status: None,
        };
        let made =
            asked(format!("create KvBackup {name}"), self.api.create(&PostParams::default(), &backup)).await;
        match made {
            Err(error) if !error.is_conflict() => Err(error),
            _ => Ok(()),
        }
    }

    /// Takes one run as far as it has come by itself.
    pub(super) async fn advance(&self, backup: &mut KvBackup, work: &Work) -> Result<(), Error> {
        let old = backup.status.clone().unwrap_or_default();
        let (now, job, uid) = (self.now, job::name(&backup.name_any()), backup.uid());
        let new = match old.phase {
            Some(phase) if is_final(Some(phase)) => return Ok(()),
            Some(phase) if is_active(Some(phase)) => match work.seen(&job, uid.as_deref()).await {
                Some(JobSeen { lost: Some(why), .. }) => {
                    self.give_up(backup, &why).await?;
                    old.clone()
                }
                Some(job) => followed(&old, &job, now),
                None if now > deadline(backup, now) => failed(&old, "DeadlineExceeded", now),
                // Somebody deleted it, or it was never made, or the one of an earlier KvBackup of this name is still in
                // the way: a repeat under the same name does no harm.
                None => {
                    self.start(backup).await?;
                    old.clone()
                }
            },
            _ if now > deadline(backup, now) => {
                failed(&old, "DeadlineExceeded: it had to wait for other runs, or for the cluster", now)
            }
            _ => KvBackupStatus { phase: Some(BackupPhase::Pending), ..old.clone() },
        };
        self.told(backup, &old, &new).await;
        write(self.duty, self.api, backup, &new).await?;
        backup.status = Some(new);
        Ok(())
    }

    /// The oldest that waits, if the cluster is there to be asked.
    pub(super) async fn start_next(&self, backups: &mut [KvBackup]) -> Result<(), Error> {
        let formed = self.cluster.status.as_ref().is_some_and(|status| status.cluster_id.is_some());
        let waits = |backup: &&mut KvBackup| phase(backup) == Some(BackupPhase::Pending) && !goes(backup);
        let Some(backup) = backups.iter_mut().find(waits).filter(|_| formed) else { return Ok(()) };
        let old = backup.status.clone().unwrap_or_default();
        let status = KvBackupStatus {
            phase: Some(BackupPhase::Running),
            started_at: Some(old.started_at.clone().unwrap_or(Time(self.now))),
            destination: Some(self.spec.s3.clone()),
            encryption_key: self.spec.encryption_key.clone(),
            cluster_id: self.cluster.status.as_ref().and_then(|status| status.cluster_id.clone()),
            ..old
        };
        // Written ahead: whoever sees it makes the Job, and makes it once by its name.
        write(self.duty, self.api, backup, &status).await?;
        backup.status = Some(status);
        self.start(backup).await
    }

    async fn start(&self, backup: &KvBackup) -> Result<(), Error> {
        let status = self.cluster.status.clone().unwrap_or_default();
        let spec = &self.cluster.spec;
        let tls_secret = mounted(self.cluster);
        let cluster = job::Cluster {
            tls_secret: tls_secret.as_deref(),
            name: &self.name.name,
            namespace: &self.name.namespace,
            cluster_id: status.cluster_id.as_deref().unwrap_or_default(),
            members: (spec.replicas, spec.learners),
            server_image: spec
                .image
                .as_ref()
                .or(status.image.as_ref())
                .unwrap_or(&self.duty.ctx.operator.image),
        };
        let (name, uid) = (backup.name_any(), backup.uid().unwrap_or_default());
        let seconds = deadline(backup, self.now).duration_since(self.now).as_secs();
        let verify = backup.spec.verify.unwrap_or(self.spec.verify);
        let images = self.images();
        let job = job::run(&cluster, self.spec, (&name, &uid), (verify, seconds), &images);
        self.make(&job).await
    }

    /// Deletes the Job of a run of whose pod nothing will be heard; the next pass makes it anew. On a lost Kubernetes node
    /// the Job itself would wait for the end of that pod, since its failures count by their exit codes. If the pod still
    /// works somewhere, two work at one run, which ends with one good backup; a run that is complete only reports again.
    async fn give_up(&self, backup: &KvBackup, why: &str) -> Result<(), Error> {
        let name = job::name(&backup.name_any());
        let jobs: Api<Job> = Api::namespaced(self.duty.ctx.client.clone(), &self.name.namespace);
        let found = asked_opt(format!("get Job {name}"), jobs.get(&name)).await?;
        let Some(found) = found.filter(|job| job.metadata.deletion_timestamp.is_none()) else {
            return Ok(());
        };
        tracing::warn!(cluster = %self.name, job = name, why, "the run begins anew");
        // By its uid: not the one that the other operator has made since.
        let precondition = Preconditions { uid: found.uid(), resource_version: None };
        let params = DeleteParams::background().preconditions(precondition);
        match asked_opt(format!("delete Job {name}"), jobs.delete(&name, &params)).await {
            Err(error) if !error.is_conflict() => Err(error),
            _ => Ok(()),
        }
    }

    fn images(&self) -> job::Images {
        let pull_policy = self.cluster.spec.image_pull_policy.as_str().to_owned();
        job::Images { pull_policy, ..self.duty.images.clone() }
    }

    async fn make(&self, job: &Job) -> Result<(), Error> {
        let jobs: Api<Job> = Api::namespaced(self.duty.ctx.client.clone(), &self.name.namespace);
        let made =
            asked(format!("create Job {}", job.name_any()), jobs.create(&PostParams::default(), job)).await;
        match made {
            Err(error) if !error.is_conflict() => Err(error),
            _ => Ok(()),
        }
    }

    /// Tries the bucket whenever its settings are new.
    async fn probed(&self, old: Option<ProbeStatus>, work: &Work) -> Result<Option<ProbeStatus>, Error> {
        let settings = settings_hash(self.spec);
        // A bucket that could not be used is tried again while its Job's remains are gone.
        if let Some(old) = old.as_ref().filter(|old| old.settings == settings && old.error.is_none()) {
            return Ok(Some(old.clone()));
        }
        let name = probe_name(&self.name.name, &settings);
        let uid = self.cluster.uid().unwrap_or_default();
        let Some(seen) = work.seen(&name, Some(&uid)).await else {
            let owner = (self.name.name.as_str(), &*uid);
            self.make(&job::probe(&self.name.namespace, owner, self.spec, &self.images())).await?;
            return Ok(old.filter(|old| old.settings == settings));
        };
        let end = seen.end.unwrap_or_default();
        let error = match seen.ended {
            Some(true) => None,
            // Told at once: a Job takes its time to give up.
            Some(false) => {
                Some(end.error.clone().or(seen.message).unwrap_or_else(|| "the probe failed".into()))
            }
            None => match end.error.clone().or(seen.stuck) {
                Some(error) => Some(error),
                None => return Ok(old.filter(|old| old.settings == settings)),
            },
        };
        Ok(Some(ProbeStatus { settings, error, may_delete: end.text.as_deref() == Some(PROBE_ALL) }))
    }

    async fn told(&self, backup: &KvBackup, old: &KvBackupStatus, new: &KvBackupStatus) {
        if old.phase == new.phase || !is_final(new.phase) {
            return;
        }
        let name = backup.name_any();
        let error = new.error.clone().unwrap_or_default();
        let metrics = &self.duty.ctx.metrics;
        let (result, note) = match (new.phase, new.verified) {
            (Some(BackupPhase::Complete), _) => {
                let keys = new.keys.unwrap_or_default();
                let message =
                    format!("{name}: {keys} keys, verified: {:?}", new.verified.unwrap_or(Verified::No));
                ("complete", Note { reason: EventReason::BackupComplete, warning: false, message })
            }
            (_, Some(Verified::Failed)) => {
                let message = format!(
                    "{name} was stored and proved wrong: {error}. Look at the disks and at the store"
                );
                ("wrong", Note { reason: EventReason::BackupWrong, warning: true, message })
            }
            _ => {
                let message = format!("{name} failed: {error}. The next one is made as scheduled");
                ("failed", Note { reason: EventReason::BackupFailed, warning: true, message })
            }
        };
        metrics.backup_runs.with_label_values(&[result]).inc();
        if let (Some(from), Some(to)) = (&new.started_at, &new.completed_at) {
            metrics.backup_seconds.observe(to.0.duration_since(from.0).as_secs_f64());
        }
        self.duty.ctx.recorder.tell(self.cluster, &[note]).await;
    }

    async fn report(
        &self,
        status: &BackupStatus,
        schedules: &Result<Vec<Schedule>, String>,
        backups: &[KvBackup],
    ) -> Result<(), Error> {
        let recorded = self.cluster.status.clone().unwrap_or_default();
        let generation = self.cluster.metadata.generation.unwrap_or_default();
        let (health, proof) = (healthy(self.spec, status, schedules, self.now), verified(backups));
        self.duty.judged(self.name, Some((health.0 != "False", proof.0 != "False")));
        if health.1 == crate::crd::reason::BackupReason::BucketUnusable {
            let before =
                recorded.backup.as_ref().and_then(|old| old.probe.as_ref()).and_then(|old| old.error.clone());
            if before.as_ref() != Some(&health.2) {
                let message = format!("{}. Backups wait until it can be used", health.2);
                let note = Note { reason: EventReason::BucketUnusable, warning: true, message };
                self.duty.ctx.recorder.tell(self.cluster, &[note]).await;
            }
        }
        let conditions = [
            condition(&recorded.conditions, BackupCondition::BackupHealthy, health, generation, self.now),
            condition(&recorded.conditions, BackupCondition::BackupVerified, proof, generation, self.now),
        ];
        let same = conditions.iter().all(|new| recorded.conditions.contains(new));
        if same && recorded.backup.as_ref() == Some(status) {
            return Ok(());
        }
        let clusters: Api<KvCluster> = Api::namespaced(self.duty.ctx.client.clone(), &self.name.namespace);
        let patch = json!({
            "apiVersion": KvCluster::api_version(&()),
            "kind": KvCluster::kind(&()),
            "metadata": { "name": self.name.name, "uid": self.cluster.metadata.uid },
            "status": { "backup": status, "conditions": conditions },
        });
        let params = PatchParams::apply(MANAGER).force();
        let patch = Patch::Apply(&patch);
        let call = clusters.patch_status(&self.name.name, &params, &patch);
        asked(format!("write the backups of KvCluster {}", self.name.name), call).await?;
        self.duty.ctx.metrics.status_writes.inc();
        Ok(())
    }
}
