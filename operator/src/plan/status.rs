//! From a decision to the status that is written. Equal to the recorded one while nothing changes.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kvnode_api::status::{Phase as NodePhase, Role};

use super::conditions::{self, Facts};
use super::decide::Decision;
use super::step::Step;
use super::view::{LAG_ENTRIES_MAX, Member, Slot, View, why_not_up};
use crate::build::{Built, labels};
use crate::crd::status::{
    ChangeKind, ChangeStatus, Endpoints, Formation, KvClusterStatus, LeaderStatus, MemberRole, MemberState,
    MemberStatus, Phase,
};
use crate::crd::tls::{ClientTls, TlsStatus};
use crate::observed::{PodSeen, PodState, SetRole, TlsSeen};

/// The whole status.
pub(super) fn status(view: &View<'_>, built: &Built, decision: &Decision, now: Timestamp) -> KvClusterStatus {
    let old = &view.observed.recorded;
    let members = members(view);
    let pods = view.observed.pods.values();
    let ready = pods.clone().filter(|pod| pod.ready && !pod.deleting);
    let asked =
        if view.cluster.spec.hibernate { 0 } else { view.cluster.spec.replicas + view.cluster.spec.learners };
    let ready_members = view.slots().filter(|slot| is_ready(view, *slot)).count();
    let change = change(view, decision, now);
    let facts = Facts { view, decision, members: &members, update_available: built.update_available };
    let (conditions, phase, summary) = conditions::all(&facts, now);
    KvClusterStatus {
        observed_generation: Some(view.cluster.generation),
        phase: Some(phase),
        summary: Some(summary),
        ready: Some(format!("{ready_members}/{asked}")),
        replicas: Some(count(pods.clone().filter(|pod| pod.role == SetRole::Voter))),
        ready_replicas: Some(count(ready)),
        updated_replicas: Some(count(pods.filter(|pod| !view.outdated(pod) && pod.revision.is_some()))),
        selector: Some(labels::selector_text(&labels::set_selector(&view.cluster.name, SetRole::Voter))),
        cluster_id: match decision.step {
            Step::RecordClusterId { id, .. } => Some(id.to_string()),
            _ => old.cluster_id.clone(),
        },
        formation: formation(view, decision, now),
        bootstrap: old.bootstrap.clone().or_else(|| view.cluster.spec.bootstrap.clone()),
        version: version(&members).or_else(|| old.version.clone()),
        image: Some(built.image.clone()),
        leader: leader(view, now),
        members,
        change,
        plan: Vec::new(),
        endpoints: Some(endpoints(view)),
        backup: old.backup.clone().filter(|_| view.cluster.spec.backup.is_some()),
        doors: view.observed.doors.map(|seen| seen.doors).or(old.doors),
        restore: old.restore.clone().filter(|_| view.cluster.spec.bootstrap.is_some()),
        tls: view.observed.tls.as_ref().map(tls),
        conditions,
    }
}

fn tls(seen: &TlsSeen) -> TlsStatus {
    TlsStatus {
        not_after: seen.not_after.map(Time),
        served: (seen.running > 0).then(|| format!("{}/{}", seen.served, seen.running)),
        fault: seen.fault.clone(),
    }
}

/// The status of a spec that is wrong: what was known stays, the conditions say it.
pub(super) fn invalid(
    old: &KvClusterStatus,
    generation: i64,
    faults: &[String],
    now: Timestamp,
) -> KvClusterStatus {
    let (conditions, phase, summary) = conditions::invalid(&old.conditions, generation, faults, now);
    KvClusterStatus {
        observed_generation: Some(generation),
        phase: Some(phase),
        summary: Some(summary),
        conditions,
        ..old.clone()
    }
}

/// The status of a pass that could not do all that it was to do: the generation is not carried out yet; with a `refusal`,
/// what Kubernetes said, it waits for somebody.
#[must_use]
pub fn hindered(
    mut status: KvClusterStatus,
    recorded: &KvClusterStatus,
    refusal: Option<String>,
    now: Timestamp,
) -> KvClusterStatus {
    let generation = status.observed_generation.unwrap_or_default();
    status.observed_generation = recorded.observed_generation;
    let old = &recorded.conditions;
    if let Some(message) = refusal
        && conditions::refuse(&mut status.conditions, old, generation, (message.clone(), now))
    {
        status.phase = Some(Phase::Failed);
        status.summary = Some(message);
    }
    status
}

fn count<T>(items: impl Iterator<Item = T>) -> i32 {
    i32::try_from(items.count()).unwrap_or(i32::MAX)
}

/// A ready pod whose node is a member in its role.
pub(super) fn is_ready(view: &View<'_>, slot: Slot) -> bool {
    let pod = view.pod(slot).filter(|pod| pod.ready && !pod.deleting);
    let member = pod.and_then(|pod| view.member_in(pod));
    member.is_some_and(|member| member.voter() == (slot.set == SetRole::Voter))
}

/// The record of founding: once seen formed, for ever.
fn formation(view: &View<'_>, decision: &Decision, now: Timestamp) -> Option<Formation> {
    if decision.formation.is_some() {
        return decision.formation.clone();
    }
    let old = view.observed.recorded.formation.clone();
    let seen = view.cluster_id.is_some() && !view.members.is_empty();
    if view.formed() || !seen {
        return old;
    }
    Some(Formation { formed_at: Some(Time(now)), ..old.unwrap_or_default() })
}

fn version(members: &[MemberStatus]) -> Option<String> {
    let number = |version: &str| -> Vec<u64> {
        version.split(['.', '-', '+']).map(|part| part.parse().unwrap_or(0)).collect()
    };
    let known = members.iter().filter(|member| member.role != MemberRole::None);
    known.filter_map(|member| member.version.clone()).min_by_key(|version| number(version))
}

fn leader(view: &View<'_>, now: Timestamp) -> Option<LeaderStatus> {
    let (pod, status) = view.leader?;
    let node_id = status.node_id?.to_string();
    let term = i64::try_from(status.term).unwrap_or(i64::MAX);
    let old = view.observed.recorded.leader.as_ref();
    let same = old.filter(|old| old.node_id == node_id && old.term == term && old.pod == pod.name);
    let since = same.map_or(Time(now), |old| old.since.clone());
    Some(LeaderStatus { pod: pod.name.clone(), node_id, term, since })
}

fn endpoints(view: &View<'_>) -> Endpoints {
    let (scheme, port) = match view.cluster.client_tls() {
        ClientTls::Disabled => ("redis", labels::SERVICE_PORT),
        ClientTls::Optional | ClientTls::Required => ("rediss", labels::SERVICE_TLS_PORT),
    };
    let url = |name: String| format!("{scheme}://{name}.{}.svc:{port}", view.cluster.namespace);
    let services = &view.cluster.spec.services;
    let name = &view.cluster.name;
    Endpoints {
        any: services.any.enabled.then(|| url(name.clone())),
        leader: services.leader.enabled.then(|| url(labels::leader_service(name))),
        read: services.read.enabled.then(|| url(labels::read_service(name))),
    }
}

/// All pods, and members that have none; by pod name, one line each.
fn members(view: &View<'_>) -> Vec<MemberStatus> {
    let mut lines: Vec<MemberStatus> = view.observed.pods.values().map(|pod| line(view, pod)).collect();
    for member in &view.members {
        let pod = member.name(view);
        let in_pod = member.pod.and_then(|pod| pod.node.status()).and_then(|status| status.node_id)
            == Some(member.id());
        let there = lines.iter_mut().find(|line| line.pod == pod);
        match there {
            Some(line) if line.node_id.is_none() => {
                line.node_id = Some(member.id().to_string());
                line.role = role(member);
            }
            Some(_) => {}
            None if in_pod => {}
            None => lines.push(MemberStatus {
                pod,
                node_id: Some(member.id().to_string()),
                role: role(member),
                state: MemberState::Lost,
                version: None,
                lag: None,
                node: None,
                zone: None,
                message: Some("there is no pod for this member".to_owned()),
            }),
        }
    }
    lines.sort_by_key(|line| order(view, &line.pod));
    lines
}

fn order(view: &View<'_>, pod: &str) -> (bool, Option<(SetRole, i32)>, String) {
    let slot = labels::parse_pod(&view.cluster.name, pod);
    (slot.is_none(), slot, pod.to_owned())
}

fn role(member: &Member<'_>) -> MemberRole {
    match (member.info.leader, member.voter()) {
        (true, _) => MemberRole::Leader,
        (false, true) => MemberRole::Follower,
        (false, false) => MemberRole::Learner,
    }
}

fn line(view: &View<'_>, pod: &PodSeen) -> MemberStatus {
    let status = pod.node.status();
    let member = view.member_in(pod);
    let state = state(view, pod, member);
    let zone = pod.host.as_ref().and_then(|host| view.observed.hosts.as_ref()?.get(host)?.zone.clone());
    let steady = matches!(state, MemberState::Ready);
    MemberStatus {
        pod: pod.name.clone(),
        node_id: status.and_then(|status| status.node_id).map(|id| id.to_string()),
        role: member.map_or(MemberRole::None, role),
        state,
        version: status.map(|status| status.version.clone()),
        lag: member.map(Member::lag).filter(|lag| *lag > LAG_ENTRIES_MAX && *lag < u64::MAX).map(two_digits),
        node: pod.host.clone(),
        zone,
        message: (!steady).then(|| why_not_up(Some(pod)).1),
    }
}

fn state(view: &View<'_>, pod: &PodSeen, member: Option<&Member<'_>>) -> MemberState {
    if pod.deleting {
        return MemberState::Stopping;
    }
    match &pod.state {
        PodState::Pending { unschedulable: Some(_) } => return MemberState::Unschedulable,
        PodState::Pending { .. } | PodState::Starting | PodState::Ended => return MemberState::Starting,
        PodState::Failing { .. } => return MemberState::Failing,
        PodState::Running => {}
    }
    let Some(status) = pod.node.status() else { return MemberState::Unreachable };
    if status.cluster_id.is_some() && status.cluster_id != view.cluster_id {
        return MemberState::Foreign;
    }
    let wrong_role = member.is_some_and(|member| !member.voter()) && pod.role == SetRole::Voter;
    match (status.phase, member) {
        (NodePhase::Stopping, _) => MemberState::Stopping,
        (NodePhase::Starting, _) => MemberState::Starting,
        (NodePhase::Unformed, _) | (_, None) => MemberState::Joining,
        (NodePhase::Recovering, _) => MemberState::CatchingUp,
        (NodePhase::Running, Some(_)) if status.role == Role::Shutdown => MemberState::Failing,
        (NodePhase::Running, Some(member)) if wrong_role || (view.leader.is_some() && !member.keeps_up()) => {
            MemberState::CatchingUp
        }
        (NodePhase::Running, Some(_)) if !pod.ready => MemberState::Starting,
        (NodePhase::Running, Some(_)) => MemberState::Ready,
    }
}

/// 12331 as 12000: a number that moves all the time is written less often.
fn two_digits(number: u64) -> i64 {
    let mut scale = 1;
    while number / scale >= 100 {
        scale *= 10;
    }
    i64::try_from(number / scale * scale).unwrap_or(i64::MAX)
}

/// What goes on, with the times of the recorded one while it is the same.
fn change(view: &View<'_>, decision: &Decision, now: Timestamp) -> Option<ChangeStatus> {
    let old = view.observed.recorded.change.as_ref();
    if decision.held.is_some() {
        return old.cloned();
    }
    let kind = decision.kind?;
    // A restart that was begun as one kind is not renamed by the wait for it.
    let same = old.filter(|old| old.kind == kind);
    let step = decision.step.to_string();
    let (pod, mut pod_uid) = match &decision.step {
        Step::DeletePod { pod, uid, .. } => (Some(pod.clone()), Some(uid.clone())),
        Step::AddLearner { pod, .. }
        | Step::Initialize { pod, .. }
        | Step::RemoveMember { pod, .. }
        | Step::ResizePod { pod, .. } => (Some(pod.clone()), None),
        Step::Transfer { to_pod, .. } => (Some(to_pod.clone()), None),
        _ => (same.and_then(|old| old.pod.clone()), None),
    };
    if pod_uid.is_none() {
        let exists = |uid: &String| view.observed.pods.values().any(|pod| pod.uid == *uid);
        pod_uid = old.and_then(|old| old.pod_uid.clone()).filter(exists);
    }
    let step_since = same.filter(|old| old.step == step).map_or(Time(now), |old| old.step_since.clone());
    let rollout = kind == ChangeKind::Rollout;
    Some(ChangeStatus {
        kind,
        step,
        pod,
        pod_uid,
        revision: view.revision().filter(|_| rollout).map(str::to_owned),
        started_at: same.map_or(Time(now), |old| old.started_at.clone()),
        step_since,
    })
}
