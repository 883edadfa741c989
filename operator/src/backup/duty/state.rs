//! What becomes of a KvBackup, and what its KvCluster says of its backups: pure.
//!
//! ```text
//! (none) -> Pending --its turn--> Running -> Uploading -> Verifying -> Complete
//!              |                     |           |            |
//!              +---------------------+-----------+------------+----> Failed: deadline, Job failed, proved wrong
//! ```

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

use crate::backup::announce::End;
use crate::backup::preview::age;
use crate::backup::progress::{Progress, Report};
use crate::backup::schedule::Schedule;
use crate::crd::backup::{BackupPhase, KvBackup, KvBackupStatus, Verified, Verify};
use crate::crd::bucket::{Backup, RestoreTest};
use crate::crd::reason::{BackupCondition, BackupReason, DeletionCondition, DeletionReason};
use crate::crd::status::BackupStatus;

/// Time after which another restore test is due.
const RESTORE_TEST: SignedDuration = SignedDuration::from_hours(24);

/// What is known of the Job of a run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct JobSeen {
    /// Ended well, ended badly, or still at work.
    pub ended: Option<bool>,
    /// What its newest pod left behind.
    pub end: Option<End>,
    /// Why Kubernetes calls it failed.
    pub message: Option<String>,
    /// What its pod says now.
    pub progress: Option<Progress>,
    /// A container that cannot start: image, Secret.
    pub stuck: Option<String>,
    /// Why nothing will be heard of its pod: its Kubernetes node does not answer, or it was deleted as it ended.
    pub lost: Option<String>,
}

/// True while a run works.
#[must_use]
pub fn is_active(phase: Option<BackupPhase>) -> bool {
    matches!(phase, Some(BackupPhase::Running | BackupPhase::Uploading | BackupPhase::Verifying))
}

/// True once nothing more will happen.
#[must_use]
pub fn is_final(phase: Option<BackupPhase>) -> bool {
    matches!(phase, Some(BackupPhase::Complete | BackupPhase::Failed))
}

/// When a run is given up.
#[must_use]
pub fn deadline(backup: &KvBackup, now: Timestamp) -> Timestamp {
    let created = backup.metadata.creation_timestamp.as_ref().map_or(now, |time| time.0);
    let minutes = i64::from(backup.spec.deadline_minutes);
    created.checked_add(SignedDuration::from_mins(minutes)).unwrap_or(now)
}

/// Given up.
#[must_use]
pub fn failed(old: &KvBackupStatus, error: &str, now: Timestamp) -> KvBackupStatus {
    KvBackupStatus {
        phase: Some(BackupPhase::Failed),
        completed_at: Some(Time(now)),
        duration: took(old, now),
        progress: None,
        error: Some(error.chars().take(1000).collect()),
        verified: old.verified.or(Some(Verified::No)),
        ..old.clone()
    }
}

fn took(old: &KvBackupStatus, now: Timestamp) -> Option<String> {
    old.started_at.as_ref().map(|started| age(now.duration_since(started.0)))
}

fn number(value: u64) -> Option<i64> {
    i64::try_from(value).ok()
}

/// The status of a run whose Job exists.
#[must_use]
pub fn followed(old: &KvBackupStatus, job: &JobSeen, now: Timestamp) -> KvBackupStatus {
    if let Some(report) = job.end.as_ref().and_then(|end| end.report.as_ref()).filter(|_| job.ended.is_some())
    {
        return reported(old, report, now);
    }
    match job.ended {
        Some(true) => failed(old, "the Job ended without a report", now),
        Some(false) => {
            let said = job.end.as_ref().and_then(|end| end.error.clone());
            let error = said.or_else(|| job.message.clone()).unwrap_or_else(|| "the Job failed".into());
            failed(old, &error, now)
        }
        None => running(old, job),
    }
}

fn running(old: &KvBackupStatus, job: &JobSeen) -> KvBackupStatus {
    let mut status = old.clone();
    // A pod that failed and is tried again has left why.
    status.error = job.stuck.clone().or_else(|| job.end.as_ref().and_then(|end| end.error.clone()));
    let Some(progress) = &job.progress else { return status };
    status.phase = Some(match progress.phase {
        BackupPhase::Uploading => BackupPhase::Uploading,
        BackupPhase::Verifying => BackupPhase::Verifying,
        BackupPhase::Pending | BackupPhase::Running | BackupPhase::Complete | BackupPhase::Failed => {
            BackupPhase::Running
        }
    });
    status.progress = progress.per_cent().map(|per_cent| format!("{per_cent}%"));
    status.size_bytes = number(progress.bytes_total).filter(|bytes| *bytes > 0);
    status.source_pod = progress.source.clone().or(status.source_pod);
    status.attempts = i32::try_from(progress.attempts).ok().filter(|attempts| *attempts > 0);
    status
}

fn reported(old: &KvBackupStatus, report: &Report, now: Timestamp) -> KvBackupStatus {
    let wrong = report.verified == Verified::Failed;
    KvBackupStatus {
        phase: Some(if wrong { BackupPhase::Failed } else { BackupPhase::Complete }),
        completed_at: Some(Time(now)),
        duration: took(old, now),
        progress: None,
        uri: Some(report.uri.clone()),
        cluster_id: Some(report.cluster_id.clone()),
        term: number(report.term),
        index: number(report.index),
        keys: number(report.keys),
        size_bytes: number(report.size_bytes),
        sha256: Some(report.sha256.clone()),
        server_version: Some(report.server_version.clone()),
        source_pod: Some(report.source.split('.').next().unwrap_or_default().to_owned()),
        attempts: i32::try_from(report.attempts).ok(),
        verified: Some(report.verified),
        error: report.error.clone().or_else(|| report.retention_error.clone()),
        ..old.clone()
    }
}

/// How a run is proved that does not say so itself.
#[must_use]
pub fn verify_of(spec: &Backup, version: Option<&str>, past: &[KvBackup], now: Timestamp) -> Verify {
    if spec.verify != Verify::Content || spec.restore_test == RestoreTest::Off {
        return spec.verify;
    }
    let fresh = past.iter().filter_map(|backup| backup.status.as_ref()).any(|status| {
        let restored = status.verified == Some(Verified::Restored);
        let same = version.is_none() || status.server_version.as_deref() == version;
        let recent = status.completed_at.as_ref().is_some_and(|at| now.duration_since(at.0) < RESTORE_TEST);
        restored && same && recent
    });
    if fresh { Verify::Content } else { Verify::Restore }
}

/// What the newest runs add to the cluster's status; the rest of `old` stays.
#[must_use]
pub fn summary(old: &BackupStatus, backups: &[KvBackup]) -> BackupStatus {
    let mut new = old.clone();
    let done = |backup: &KvBackup| -> Option<Time> { backup.status.as_ref()?.completed_at.clone() };
    new.running = None;
    for backup in backups {
        let Some(status) = &backup.status else { continue };
        let name = backup.metadata.name.clone().unwrap_or_default();
        if is_active(status.phase) {
            new.running = Some(name);
            continue;
        }
        let Some(time) = done(backup) else { continue };
        let later = |than: Option<&Time>| than.is_none_or(|than| time.0 >= than.0);
        match status.phase {
            Some(BackupPhase::Complete) => {
                if later(new.last_success.as_ref().map(|last| &last.time)) {
                    new.last_success = Some(crate::crd::status::LastBackup { name, time: time.clone() });
                }
                let proved = matches!(
                    status.verified,
                    Some(Verified::Content | Verified::Checksum | Verified::Restored)
                );
                if proved && later(new.last_verified.as_ref()) {
                    new.last_verified = Some(time.clone());
                }
                if status.verified == Some(Verified::Restored) && later(new.last_restored.as_ref()) {
                    new.last_restored = Some(time);
                }
            }
            Some(BackupPhase::Failed) if later(new.last_failure.as_ref().map(|last| &last.time)) => {
                let error = status.error.clone();
                new.last_failure = Some(crate::crd::status::FailedBackup { name, time, error });
            }
            _ => {}
        }
    }
    let success = new.last_success.as_ref().map(|last| last.time.0);
    new.last_failure =
        new.last_failure.filter(|failure| success.is_none_or(|success| failure.time.0 > success));
    new
}

/// A condition's status, reason and message.
pub type Verdict = (&'static str, BackupReason, String);

/// Whether backups are as they should be.
#[must_use]
pub fn healthy(
    spec: &Backup,
    status: &BackupStatus,
    schedules: &Result<Vec<Schedule>, String>,
    now: Timestamp,
) -> Verdict {
    let schedules = match schedules {
        Err(fault) => return ("False", BackupReason::InvalidSchedule, fault.clone()),
        Ok(schedules) => schedules,
    };
    if let Some(error) = status.probe.as_ref().and_then(|probe| probe.error.clone()) {
        return ("False", BackupReason::BucketUnusable, error);
    }
    if let Some(failure) = &status.last_failure {
        let error = failure.error.clone().unwrap_or_default();
        return ("False", BackupReason::Failing, format!("{} failed: {error}", failure.name));
    }
    let working: Vec<&Schedule> =
        schedules.iter().filter(|schedule| !schedule.suspend && !spec.suspend).collect();
    let last = status.last_success.as_ref().map(|last| last.time.0);
    // A time, not an age: an age would change the object with every look.
    let told = |last: Timestamp| format!("the newest good backup is of {last}: two were due since");
    let Some(shortest) = working.iter().map(|schedule| schedule.cron.period(now)).min() else {
        let reason = if schedules.is_empty() { BackupReason::OnDemand } else { BackupReason::Suspended };
        return ("True", reason, "nothing runs by schedule".to_owned());
    };
    let limit = shortest.checked_mul(2).unwrap_or(shortest);
    let since = status.since.iter().map(|since| since.time.0).min();
    match last {
        Some(last) if now.duration_since(last) <= limit => {
            ("True", BackupReason::Recent, "the newest good backup is recent".to_owned())
        }
        Some(last) => ("False", BackupReason::Stale, told(last)),
        None if since.is_some_and(|since| now.duration_since(since) > limit) => {
            ("False", BackupReason::Stale, "there is no good backup yet, and two were due".to_owned())
        }
        None => ("Unknown", BackupReason::NeverRun, "none was due yet".to_owned()),
    }
}

/// Whether the newest backup is proved.
#[must_use]
pub fn verified(backups: &[KvBackup]) -> Verdict {
    let done = |backup: &&KvBackup| {
        backup.status.as_ref().is_some_and(|status| is_final(status.phase) && status.uri.is_some())
    };
    let at = |backup: &&KvBackup| {
        backup.status.as_ref().and_then(|status| status.completed_at.clone()).map(|at| at.0)
    };
    let Some(newest) = backups.iter().filter(done).max_by_key(at) else {
        return ("Unknown", BackupReason::NotVerified, "there is no backup yet".to_owned());
    };
    let name = newest.metadata.name.clone().unwrap_or_default();
    let status = newest.status.clone().unwrap_or_default();
    match status.verified {
        Some(Verified::Failed) => {
            let error = status.error.unwrap_or_default();
            ("False", BackupReason::VerificationFailed, format!("{name} is wrong: {error}"))
        }
        Some(Verified::Content | Verified::Checksum | Verified::Restored) => {
            ("True", BackupReason::Verified, format!("{name} was read back"))
        }
        Some(Verified::No) | None => {
            ("Unknown", BackupReason::NotVerified, format!("{name} was not verified"))
        }
    }
}

/// How the deletion of what a KvBackup stored gets on; its transition time is kept while its reason stays.
#[must_use]
pub fn deleting(
    old: &[Condition],
    (reason, message): (DeletionReason, &str),
    generation: i64,
    now: Timestamp,
) -> Condition {
    let before = old.iter().find(|condition| condition.reason == reason.as_str());
    Condition {
        type_: DeletionCondition::ObjectsDeleted.as_str().to_owned(),
        status: "False".to_owned(),
        reason: reason.as_str().to_owned(),
        message: message.chars().take(1000).collect(),
        observed_generation: Some(generation),
        last_transition_time: before.map_or(Time(now), |before| before.last_transition_time.clone()),
    }
}

/// The deletion does not get on.
#[must_use]
pub fn is_blocked(status: &KvBackupStatus) -> bool {
    status.conditions.iter().any(|condition| condition.reason == DeletionReason::Blocked.as_str())
}

/// A condition has this message already.
#[must_use]
pub fn says(status: &KvBackupStatus, message: &str) -> bool {
    status.conditions.iter().any(|condition| condition.message == message)
}

/// A verdict as a condition; its transition time is kept while its status stays.
#[must_use]
pub fn condition(
    old: &[Condition],
    kind: BackupCondition,
    verdict: Verdict,
    generation: i64,
    now: Timestamp,
) -> Condition {
    let (status, reason, message) = verdict;
    let before = old.iter().find(|condition| condition.type_ == kind.as_str() && condition.status == status);
    Condition {
        type_: kind.as_str().to_owned(),
        status: status.to_owned(),
        reason: reason.as_str().to_owned(),
        message: message.chars().take(1000).collect(),
        observed_generation: Some(generation),
        last_transition_time: before.map_or(Time(now), |before| before.last_transition_time.clone()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::backup::schedule::Cron;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    fn backup(name: &str, status: serde_json::Value) -> KvBackup {
        let mut made = KvBackup::new(name, serde_json::from_value(json!({ "cluster": "cart" })).unwrap());
        made.metadata.creation_timestamp = Some(Time(at("2026-11-22T12:00:00Z")));
        made.status = Some(serde_json::from_value(status).unwrap());
        made
    }

    fn report(verified: &str) -> Report {
        serde_json::from_value(json!({
            "uri": "s3://b/x/", "cluster_id": "00000000000000c1", "term": 1, "index": 9, "log_time_ms": 5, "keys": 3,
            "size_bytes": 100, "sha256": "ab", "server_version": "0.1.0", "source": "cart-1.cart-raft.shop.svc:24920",
            "attempts": 2, "verified": verified, "error": (verified == "Failed").then_some("a count"),
        }))
        .unwrap()
    }

    #[test]
    fn a_run_goes_from_its_job_to_its_end() {
        let now = at("2026-11-22T12:10:00Z");
        let old = KvBackupStatus {
            phase: Some(BackupPhase::Running),
            started_at: Some(Time(at("2026-11-22T12:09:22Z"))),
            ..KvBackupStatus::default()
        };
        let progress = Progress {
            phase: BackupPhase::Uploading,
            bytes: 43,
            bytes_total: 100,
            attempts: 1,
            source: None,
            preview: None,
        };
        let seen = followed(&old, &JobSeen { progress: Some(progress), ..JobSeen::default() }, now);
        assert_eq!((seen.phase, seen.progress.as_deref()), (Some(BackupPhase::Uploading), Some("43%")));
        let end = |report| Some(End { report: Some(report), ..End::default() });
        // A report is believed when the Job has ended: a pod that was replaced may have left an older one.
        let early = JobSeen { end: end(report("Content")), ..JobSeen::default() };
        assert_eq!(followed(&seen, &early, now).phase, Some(BackupPhase::Uploading));
        let done = followed(&seen, &JobSeen { ended: Some(true), ..early }, now);
        assert_eq!((done.phase, done.verified), (Some(BackupPhase::Complete), Some(Verified::Content)));
        assert_eq!((done.source_pod.as_deref(), done.duration.as_deref()), (Some("cart-1"), Some("38s")));
        let wrong = JobSeen { ended: Some(false), end: end(report("Failed")), ..JobSeen::default() };
        let wrong = followed(&seen, &wrong, now);
        assert_eq!((wrong.phase, wrong.verified), (Some(BackupPhase::Failed), Some(Verified::Failed)));
        assert_eq!(wrong.error.as_deref(), Some("a count"));
        let error = Some(End { error: Some("AccessDenied".into()), ..End::default() });
        let dead = followed(&seen, &JobSeen { ended: Some(false), end: error, ..JobSeen::default() }, now);
        assert_eq!((dead.phase, dead.error.as_deref()), (Some(BackupPhase::Failed), Some("AccessDenied")));
    }

    #[test]
    fn restore_tests_are_for_the_first_a_new_version_and_each_day() {
        let spec = Backup::default();
        let now = at("2026-11-22T12:00:00Z");
        let past = |hours_ago: i64, verified: &str, version: &str| {
            let at = now.checked_sub(SignedDuration::from_hours(hours_ago)).unwrap();
            backup(
                "b",
                json!({ "completedAt": at.to_string(), "verified": verified, "serverVersion": version }),
            )
        };
        assert_eq!(verify_of(&spec, Some("1"), &[], now), Verify::Restore);
        assert_eq!(verify_of(&spec, Some("1"), &[past(2, "Restored", "1")], now), Verify::Content);
        assert_eq!(verify_of(&spec, Some("2"), &[past(2, "Restored", "1")], now), Verify::Restore);
        assert_eq!(verify_of(&spec, Some("1"), &[past(25, "Restored", "1")], now), Verify::Restore);
        assert_eq!(verify_of(&spec, Some("1"), &[past(2, "Content", "1")], now), Verify::Restore);
        let off = Backup { restore_test: RestoreTest::Off, ..Backup::default() };
        assert_eq!(verify_of(&off, Some("1"), &[], now), Verify::Content);
    }

    #[test]
    fn health_tells_what_one_must_know_at_3_a_m() {
        let now = at("2026-11-22T12:30:00Z");
        let spec = Backup::default();
        let hourly = || {
            Ok(vec![Schedule {
                name: "hourly".into(),
                cron: Cron::parse("@hourly", None).unwrap(),
                suspend: false,
            }])
        };
        let complete = |time: &str| {
            backup(
                "a",
                json!({ "phase": "Complete", "completedAt": time, "uri": "s3://", "verified": "Content" }),
            )
        };
        let wrong = backup(
            "w",
            json!({ "phase": "Failed", "completedAt": "2026-11-22T12:20:00Z", "uri": "s3://", "verified": "Failed", "error": "a count" }),
        );
        let reason = |backups: &[KvBackup], probe: Option<&str>| {
            let mut status = summary(&BackupStatus::default(), backups);
            status.probe = probe.map(|error| crate::crd::status::ProbeStatus {
                error: Some(error.into()),
                ..Default::default()
            });
            healthy(&spec, &status, &hourly(), now).1
        };
        assert_eq!(reason(&[complete("2026-11-22T12:00:05Z")], None), BackupReason::Recent);
        assert_eq!(reason(&[complete("2026-11-22T10:00:05Z")], None), BackupReason::Stale);
        assert_eq!(reason(&[complete("2026-11-22T12:00:05Z"), wrong.clone()], None), BackupReason::Failing);
        assert_eq!(reason(&[wrong.clone(), complete("2026-11-22T12:25:00Z")], None), BackupReason::Recent);
        assert_eq!(reason(&[], None), BackupReason::NeverRun);
        assert_eq!(
            reason(&[complete("2026-11-22T12:00:05Z")], Some("AccessDenied")),
            BackupReason::BucketUnusable
        );
        let bad = Err("schedule hourly: five".to_owned());
        assert_eq!(healthy(&spec, &BackupStatus::default(), &bad, now).1, BackupReason::InvalidSchedule);
        assert_eq!(verified(&[complete("2026-11-22T12:00:05Z"), wrong]).1, BackupReason::VerificationFailed);
        assert_eq!(verified(&[complete("2026-11-22T12:00:05Z")]).1, BackupReason::Verified);
        assert_eq!(verified(&[]).1, BackupReason::NotVerified);
    }

    #[test]
    fn a_deadline_counts_from_the_making_of_the_object() {
        let made = backup("b", json!({}));
        assert_eq!(deadline(&made, at("2027-01-01T00:00:00Z")), at("2026-11-22T18:00:00Z"));
        let given_up = failed(&KvBackupStatus::default(), "DeadlineExceeded", at("2026-11-22T18:00:00Z"));
        assert!(is_final(given_up.phase) && !is_active(given_up.phase));
    }
}
