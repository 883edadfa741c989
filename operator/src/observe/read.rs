//! Objects of the API server to the plain values of [`crate::observed`]. Pure.

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{
    ContainerStatus, PersistentVolumeClaim, Pod, PodCondition, PodSpec, PodStatus,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::build::labels;
use crate::observed::{NodeView, PodSeen, PodState, SetSeen, SizeSeen, VolumeSeen, amounts};
use crate::validate::quantity_bytes;

/// Reasons for which a container waits after something went wrong.
const FAILURES: &[&str] = &[
    "CrashLoopBackOff",
    "CreateContainerConfigError",
    "CreateContainerError",
    "ErrImageNeverPull",
    "ErrImagePull",
    "ImageInspectError",
    "ImagePullBackOff",
    "InvalidImageName",
    "RunContainerError",
];

/// Labels or annotations of ours.
fn ours(all: Option<&BTreeMap<String, String>>) -> BTreeMap<String, String> {
    let all = all.into_iter().flatten().filter(|(key, _)| key.starts_with("kvnode.dev/"));
    all.map(|(key, value)| (key.clone(), value.clone())).collect()
}

/// Annotations of the KvCluster that steer the operator.
#[must_use]
pub fn annotations(meta: &ObjectMeta) -> BTreeMap<String, String> {
    ours(meta.annotations.as_ref())
}

/// A StatefulSet.
#[must_use]
pub fn set(set: &StatefulSet) -> SetSeen {
    let meta = &set.metadata;
    let spec = set.spec.as_ref();
    let status = set.status.as_ref();
    // The revision of an older generation would make new pods look outdated or old ones up to date.
    let current = status.filter(|status| status.observed_generation == meta.generation);
    let claim = spec.and_then(|spec| spec.volume_claim_templates.as_ref()).and_then(|claims| claims.first());
    let note = |key: &str| meta.annotations.as_ref().and_then(|all| all.get(key)).cloned();
    SetSeen {
        name: meta.name.clone().unwrap_or_default(),
        uid: meta.uid.clone().unwrap_or_default(),
        replicas: spec.and_then(|spec| spec.replicas).unwrap_or(1),
        update_revision: current.and_then(|status| status.update_revision.clone()),
        template: spec.map(|spec| spec.template.clone()),
        pod_intent: note(labels::POD_INTENT),
        template_hash: note(labels::POD_TEMPLATE),
        claim_bytes: claim.and_then(requested),
        deleting: meta.deletion_timestamp.is_some(),
    }
}

fn requested(claim: &PersistentVolumeClaim) -> Option<u64> {
    quantity_bytes(claim.spec.as_ref()?.resources.as_ref()?.requests.as_ref()?.get("storage")?)
}

/// A pod of `cluster`; `None` if no set of it makes such a name.
#[must_use]
pub fn pod(cluster: &str, pod: &Pod) -> Option<PodSeen> {
    let meta = &pod.metadata;
    let name = meta.name.clone()?;
    let (role, ordinal) = labels::parse_pod(cluster, &name)?;
    let host = pod.spec.as_ref().and_then(|spec| spec.node_name.clone());
    let status = pod.status.clone().unwrap_or_default();
    let created = meta.creation_timestamp.as_ref().map(|time| time.0);
    let ready = condition(&status, "Ready");
    Some(PodSeen {
        uid: meta.uid.clone().unwrap_or_default(),
        role,
        ordinal,
        revision: meta.labels.as_ref().and_then(|all| all.get("controller-revision-hash")).cloned(),
        state: state(&status, host.is_some()),
        ready: ready.is_some_and(|ready| ready.status == "True"),
        unready_since: unready_since(ready, created),
        created,
        deleting: meta.deletion_timestamp.is_some(),
        host,
        labels: ours(meta.labels.as_ref()),
        annotations: ours(meta.annotations.as_ref()),
        restarts: server(&status).map_or(0, |server| server.restart_count),
        size: size(pod.spec.as_ref(), &status),
        node: NodeView::NotAsked,
        name,
    })
}

fn condition<'a>(status: &'a PodStatus, kind: &str) -> Option<&'a PodCondition> {
    status.conditions.as_deref().unwrap_or_default().iter().find(|condition| condition.type_ == kind)
}

fn unready_since(ready: Option<&PodCondition>, created: Option<Timestamp>) -> Option<Timestamp> {
    match ready {
        Some(ready) if ready.status == "True" => None,
        Some(ready) => ready.last_transition_time.as_ref().map(|time| time.0).or(created),
        None => created,
    }
}

fn server(status: &PodStatus) -> Option<&ContainerStatus> {
    status.container_statuses.as_deref().unwrap_or_default().iter().find(|one| one.name == labels::CONTAINER)
}

fn size(spec: Option<&PodSpec>, status: &PodStatus) -> SizeSeen {
    let mut containers = spec.into_iter().flat_map(|spec| &spec.containers);
    let container = containers.find(|one| one.name == labels::CONTAINER);
    let words = |condition: &PodCondition| {
        let reason = condition.reason.clone().unwrap_or_else(|| "InProgress".into());
        let message = condition.message.as_deref().and_then(|text| text.lines().next());
        message.map_or(reason.clone(), |message| format!("{reason}: {message}"))
    };
    let waits = ["PodResizePending", "PodResizeInProgress"]
        .into_iter()
        .filter_map(|kind| condition(status, kind))
        .find(|condition| condition.status == "True");
    SizeSeen {
        asked: container.and_then(|one| one.resources.as_ref()).map(amounts).unwrap_or_default(),
        has: server(status).and_then(|one| one.resources.as_ref()).map(amounts).unwrap_or_default(),
        waits: waits.map(words),
    }
}

fn state(status: &PodStatus, placed: bool) -> PodState {
    if matches!(status.phase.as_deref(), Some("Succeeded" | "Failed")) {
        return PodState::Ended;
    }
    if !placed {
        let scheduled = condition(status, "PodScheduled").filter(|scheduled| scheduled.status == "False");
        return PodState::Pending {
            unschedulable: scheduled.and_then(|scheduled| scheduled.message.clone()),
        };
    }
    let containers = [&status.init_container_statuses, &status.container_statuses];
    let mut containers = containers.into_iter().flat_map(|all| all.as_deref().unwrap_or_default());
    if let Some(why) = containers.find_map(failure) {
        return PodState::Failing { why };
    }
    let state = server(status).and_then(|server| server.state.as_ref());
    if state.is_some_and(|state| state.running.is_some()) { PodState::Running } else { PodState::Starting }
}

/// "ImagePullBackOff: Back-off pulling image ...", in one line; for a crash with what the process left behind.
fn failure(container: &ContainerStatus) -> Option<String> {
    let waiting = container.state.as_ref()?.waiting.as_ref()?;
    let reason = waiting.reason.as_deref().filter(|reason| FAILURES.contains(reason))?;
    let last = container.last_state.as_ref().and_then(|last| last.terminated.as_ref());
    let exit = last.map(|last| {
        let words = last.message.as_deref().and_then(|text| text.lines().rev().find(|line| !line.is_empty()));
        format!("exit code {}{}", last.exit_code, words.map(|words| format!(", {words}")).unwrap_or_default())
    });
    let message = exit.or_else(|| waiting.message.clone()).unwrap_or_default();
    let line: String = message.lines().next().unwrap_or_default().chars().take(300).collect();
    Some(if line.is_empty() { reason.to_owned() } else { format!("{reason}: {line}") })
}

/// A volume claim of the cluster with this uid; `None` if its name is none of ours. What it stands on is added later.
#[must_use]
pub fn volume(cluster_uid: &str, claim: &PersistentVolumeClaim) -> Option<VolumeSeen> {
    let meta = &claim.metadata;
    let name = meta.name.clone()?;
    let pod = name.strip_prefix(labels::VOLUME)?.strip_prefix('-')?.to_owned();
    let note = |key: &str| meta.annotations.as_ref().and_then(|all| all.get(key)).cloned();
    let status = claim.status.as_ref();
    let capacity = status.and_then(|status| status.capacity.as_ref()).and_then(|all| all.get("storage"));
    let conditions = status.and_then(|status| status.conditions.as_deref()).unwrap_or_default();
    let failed = conditions.iter().find(|condition| condition.type_.ends_with("ResizeError"));
    Some(VolumeSeen {
        uid: meta.uid.clone().unwrap_or_default(),
        pod,
        request_bytes: requested(claim).unwrap_or(0),
        capacity_bytes: capacity.and_then(quantity_bytes),
        node_id: note(labels::NODE_ID),
        cluster_id: note(labels::CLUSTER_ID),
        retired: note(labels::RETIRED),
        owned: meta.owner_references.iter().flatten().any(|owner| owner.uid == cluster_uid),
        deleting: meta.deletion_timestamp.is_some(),
        bound_to_host: None,
        expandable: None,
        resize_error: failed.map(|condition| condition.message.clone().unwrap_or_default()),
        name,
    })
}
