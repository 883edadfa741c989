//! How a cluster that begins with a backup gets on, until it is formed: what the founder's pod says becomes
//! `status.restore` and the condition Restored.
//!
//! ```text
//! pod <name>-0    container restore: progress over HTTP, end as a message --+--> Fetching 43% -> Loading -> Complete
//!                 the server: waits, or its last words                    --+--> an error, by whoever said it
//! ```
//!
//! It only tells: the founder itself refuses what is damaged or foreign, and tries again what may get better.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ContainerStatus, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::Api;
use kube::Resource as _;
use kube::api::{Patch, PatchParams};
use serde_json::json;

use super::Duty;
use super::look;
use super::pass::forget;
use crate::backup::announce::End;
use crate::backup::preview::Preview;
use crate::backup::progress::Progress;
use crate::build::labels;
use crate::clock;
use crate::crd::KvCluster;
use crate::crd::reason::{RestoreCondition, RestoreReason};
use crate::crd::status::{RestorePhase, RestoreStatus};
use crate::error::{Error, asked, asked_opt};
use crate::name::ClusterName;
use crate::observed::SetRole;

const MANAGER: &str = "kvnode-operator-restore";
const PACE: Duration = Duration::from_secs(2);
/// Container that fetches.
const FETCHES: &str = "restore";
const ERROR_CHARS_MAX: usize = 600;

/// One pass; when to look again at the latest, `None` = on change.
///
/// # Errors
/// The API server refused, or did not answer.
pub async fn pass(duty: &Arc<Duty>, name: &ClusterName) -> Result<Option<Duration>, Error> {
    let clusters: Api<KvCluster> = Api::namespaced(duty.ctx.client.clone(), &name.namespace);
    let found = asked_opt(format!("get KvCluster {}", name.name), clusters.get(&name.name)).await?;
    let Some(cluster) = found.filter(|cluster| cluster.metadata.deletion_timestamp.is_none()) else {
        return Ok(None);
    };
    if cluster.spec.bootstrap.is_none() {
        forget(duty, &cluster, MANAGER, |status| status.restore.is_some()).await?;
        return Ok(None);
    }
    let recorded = cluster.status.clone().unwrap_or_default();
    let old = recorded.restore.clone().unwrap_or_default();
    if old.phase == RestorePhase::Complete {
        return Ok(None);
    }
    let formed = recorded.formation.as_ref().is_some_and(|formation| formation.formed_at.is_some());
    let pods: Api<Pod> = Api::namespaced(duty.ctx.client.clone(), &name.namespace);
    let founder = labels::pod(&name.name, SetRole::Voter, 0);
    let pod = asked_opt(format!("get pod {founder}"), pods.get(&founder)).await?;
    let progress = match &pod {
        Some(pod) if !formed && is_running(fetcher(pod)) => look::progress(pod).await,
        _ => None,
    };
    let new = followed(&old, pod.as_ref(), progress.as_ref(), formed);
    let generation = cluster.metadata.generation.unwrap_or_default();
    let condition = condition(&recorded.conditions, &new, generation, clock::wall());
    if recorded.restore.as_ref() != Some(&new) || !recorded.conditions.contains(&condition) {
        let patch = json!({
            "apiVersion": KvCluster::api_version(&()),
            "kind": KvCluster::kind(&()),
            "metadata": { "name": name.name, "uid": cluster.metadata.uid },
            "status": { "restore": new, "conditions": [condition] },
        });
        let params = PatchParams::apply(MANAGER).force();
        let patch = Patch::Apply(&patch);
        let call = clusters.patch_status(&name.name, &params, &patch);
        asked(format!("write the restore of KvCluster {}", name.name), call).await?;
        duty.ctx.metrics.status_writes.inc();
    }
    Ok((new.phase != RestorePhase::Complete).then_some(PACE))
}

fn fetcher(pod: &Pod) -> Option<&ContainerStatus> {
    let statuses = pod.status.as_ref()?.init_container_statuses.as_ref()?;
    statuses.iter().find(|status| status.name == FETCHES)
}

fn is_running(status: Option<&ContainerStatus>) -> bool {
    status.and_then(|status| status.state.as_ref()).is_some_and(|state| state.running.is_some())
}

/// What a restore has come to: pure.
#[must_use]
pub fn followed(
    old: &RestoreStatus,
    pod: Option<&Pod>,
    progress: Option<&Progress>,
    formed: bool,
) -> RestoreStatus {
    let mut new = RestoreStatus { progress: None, error: None, ..old.clone() };
    let fetches = pod.and_then(fetcher);
    let state = fetches.and_then(|status| status.state.as_ref());
    let end = fetches.and_then(ended);
    let seen = progress.and_then(|progress| progress.preview.as_ref());
    if let Some(preview) = seen.or_else(|| end.as_ref().and_then(|(end, _)| end.preview.as_ref())) {
        describe(&mut new, preview);
    }
    // A small one may be over before anybody looks; what the container said at its end is still there.
    if formed {
        new.phase = RestorePhase::Complete;
        return new;
    }
    let failure = end.as_ref().and_then(|(end, _)| end.error.clone());
    if state.is_some_and(|state| state.running.is_some()) {
        let begun = progress.filter(|progress| progress.bytes > 0);
        new.phase = RestorePhase::Fetching;
        new.progress = begun.and_then(Progress::per_cent).map(|per_cent| format!("{per_cent}%"));
        // What the try before it ended with is true until this one gets further.
        new.error = failure.filter(|_| begun.is_none());
    } else if end.is_some_and(|(_, code)| code == 0) {
        new.phase = RestorePhase::Loading;
        new.error = pod.and_then(server_error);
    } else if failure.is_some() {
        new.phase = RestorePhase::Fetching;
        new.error = failure;
    } else {
        new.phase = RestorePhase::Waiting;
    }
    new
}

fn describe(status: &mut RestoreStatus, preview: &Preview) {
    let number = |value: u64| i64::try_from(value).ok();
    status.backup = Some(preview.backup.clone());
    status.index = number(preview.index);
    status.until = Some(Time(preview.until));
    status.keys = number(preview.keys);
    status.size_bytes = number(preview.size_bytes);
    status.warnings.clone_from(&preview.warnings);
}

/// The last end of a container and its code: of this try, or of the one before.
fn ended(status: &ContainerStatus) -> Option<(End, i32)> {
    let now = status.state.as_ref().and_then(|state| state.terminated.as_ref());
    let before = status.last_state.as_ref().and_then(|state| state.terminated.as_ref());
    let ended = now.or(before)?;
    let text = ended.message.clone().unwrap_or_default();
    let end = serde_json::from_str::<End>(&text).unwrap_or_else(|_| {
        let error = format!("{} ended with code {}: {}", status.name, ended.exit_code, text.trim());
        End { error: (ended.exit_code != 0).then(|| short(&error)), ..End::default() }
    });
    Some((end, ended.exit_code))
}

/// Why the server, which loads what was fetched, has ended: the last thing that it said.
fn server_error(pod: &Pod) -> Option<String> {
    let statuses = pod.status.as_ref()?.container_statuses.as_ref()?;
    let (end, code) = statuses.iter().find(|status| status.name == labels::CONTAINER).and_then(ended)?;
    end.error.filter(|_| code != 0)
}

fn short(text: &str) -> String {
    let from = text.chars().count().saturating_sub(ERROR_CHARS_MAX);
    text.chars().skip(from).collect()
}

/// The condition; its transition time is kept while its status stays.
fn condition(old: &[Condition], restore: &RestoreStatus, generation: i64, now: Timestamp) -> Condition {
    let what = summary(restore);
    let (status, reason, message) = match (&restore.phase, &restore.error) {
        (RestorePhase::Complete, _) => ("True", RestoreReason::RestoreComplete, what),
        (_, Some(error)) => ("False", RestoreReason::RestoreFailed, format!("{error}. It is tried again")),
        (RestorePhase::Waiting | RestorePhase::Fetching | RestorePhase::Loading, None) => {
            // Not the progress: the object would change with every look.
            ("Unknown", RestoreReason::Restoring, format!("{:?}: {what}", restore.phase))
        }
    };
    let kind = RestoreCondition::Restored.as_str();
    let before = old.iter().find(|condition| condition.type_ == kind && condition.status == status);
    Condition {
        type_: kind.to_owned(),
        status: status.to_owned(),
        reason: reason.as_str().to_owned(),
        message,
        observed_generation: Some(generation),
        last_transition_time: before.map_or(Time(now), |before| before.last_transition_time.clone()),
    }
}

fn summary(restore: &RestoreStatus) -> String {
    let Some(backup) = &restore.backup else {
        let unknown = match restore.phase {
            RestorePhase::Complete => "it holds what it was begun with; what that was nobody has seen",
            _ => "what is restored is not known yet",
        };
        return unknown.to_owned();
    };
    let number = |value: Option<i64>| value.unwrap_or_default();
    let until = restore.until.as_ref().map(|until| until.0.to_string()).unwrap_or_default();
    let mut text = format!(
        "{backup}: {} keys, {} bytes; nothing after {until}, index {}",
        number(restore.keys),
        number(restore.size_bytes),
        number(restore.index),
    );
    restore.warnings.iter().for_each(|warning| {
        text.push_str("; ");
        text.push_str(warning);
    });
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(fetches: &serde_json::Value, server: &serde_json::Value) -> Pod {
        serde_json::from_value(json!({
            "status": {
                "initContainerStatuses": [with(fetches, "restore")],
                "containerStatuses": [with(&json!({}), "sidecar"), with(server, labels::CONTAINER)],
            },
        }))
        .unwrap()
    }

    fn with(states: &serde_json::Value, name: &str) -> serde_json::Value {
        let mut all = json!({
            "name": name, "image": "i", "imageID": "i", "ready": false, "restartCount": 0,
        });
        for (key, value) in states.as_object().unwrap() {
            all[key] = value.clone();
        }
        all
    }

    fn preview() -> Preview {
        Preview {
            backup: "cart-hourly-1".into(),
            index: 912_331,
            until: "2026-11-21T14:05:02Z".parse().unwrap(),
            keys: 40,
            size_bytes: 1000,
            warnings: Vec::new(),
        }
    }

    fn over(code: i32, end: &End) -> serde_json::Value {
        json!({ "terminated": { "exitCode": code, "message": serde_json::to_string(end).unwrap() } })
    }

    #[test]
    fn a_restore_is_told_from_its_beginning_to_its_end() {
        let idle = json!({ "state": { "waiting": { "reason": "PodInitializing" } } });
        let running = json!({ "state": { "running": {} } });
        let none = RestoreStatus::default();
        assert_eq!(followed(&none, None, None, false).phase, RestorePhase::Waiting);
        assert_eq!(followed(&none, Some(&pod(&idle, &idle)), None, false).phase, RestorePhase::Waiting);

        let progress =
            Progress { bytes: 430, bytes_total: 1000, preview: Some(preview()), ..Progress::default() };
        let fetching = followed(&none, Some(&pod(&running, &idle)), Some(&progress), false);
        assert_eq!((fetching.phase, fetching.progress.as_deref()), (RestorePhase::Fetching, Some("43%")));
        let told = condition(&[], &fetching, 1, Timestamp::UNIX_EPOCH);
        assert_eq!((told.status.as_str(), told.reason.as_str()), ("Unknown", "Restoring"));
        assert!(told.message.contains("40 keys") && !told.message.contains("43"), "{}", told.message);
        assert!(told.message.contains("nothing after 2026-11-21T14:05:02Z, index 912331"));

        let end = End { preview: Some(preview()), text: Some("proved".into()), ..End::default() };
        let fetched = pod(&json!({ "state": over(0, &end) }), &running);
        // Also where nobody looked while it was fetched.
        let loading = followed(&none, Some(&fetched), None, false);
        assert_eq!((loading.phase, loading.keys), (RestorePhase::Loading, Some(40)));
        for before in [&loading, &none] {
            let done = followed(before, Some(&fetched), None, true);
            assert_eq!((done.phase, done.index), (RestorePhase::Complete, Some(912_331)));
        }
        let done = followed(&loading, None, None, true);
        let told = condition(std::slice::from_ref(&told), &done, 1, Timestamp::UNIX_EPOCH);
        assert_eq!((told.status.as_str(), told.reason.as_str()), ("True", "RestoreComplete"));
    }

    #[test]
    fn what_is_refused_is_told_until_it_gets_better() {
        let idle = json!({ "state": { "waiting": { "reason": "PodInitializing" } } });
        let end =
            End { error: Some("the content is of cluster 2, meta.json says 1".into()), ..End::default() };
        let refused =
            json!({ "state": { "waiting": { "reason": "CrashLoopBackOff" } }, "lastState": over(65, &end) });
        let again = json!({ "state": { "running": {} }, "lastState": over(65, &end) });
        for fetches in [&json!({ "state": over(65, &end) }), &refused, &again] {
            let seen = followed(&RestoreStatus::default(), Some(&pod(fetches, &idle)), None, false);
            let told = condition(&[], &seen, 1, Timestamp::UNIX_EPOCH);
            assert_eq!((told.status.as_str(), told.reason.as_str()), ("False", "RestoreFailed"), "{fetches}");
            assert!(told.message.contains("of cluster 2"), "{}", told.message);
        }
        let moves = Progress { bytes: 1, bytes_total: 2, ..Progress::default() };
        let seen = followed(&RestoreStatus::default(), Some(&pod(&again, &idle)), Some(&moves), false);
        assert_eq!((seen.error, seen.progress.as_deref()), (None, Some("50%")));
        // The server's last words.
        let fetched = json!({ "state": over(0, &End::default()) });
        let died = json!({
            "state": { "waiting": { "reason": "CrashLoopBackOff" } },
            "lastState": { "terminated": { "exitCode": 1, "message": "cannot restore: database 0 differs" } },
        });
        let seen = followed(&RestoreStatus::default(), Some(&pod(&fetched, &died)), None, false);
        assert!(seen.error.is_some_and(|error| error.contains("database 0 differs")));
    }
}
