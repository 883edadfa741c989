//! The conditions, the phase and the one-line summary: what the decision means to a reader.
//!
//! Each message answers: what is wrong, what the operator does about it, what the reader can do. `phase` follows from
//! the same facts; it is never read back to decide about data.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kvnode_api::status::{DIVERGED, DiskState};

use super::decide::{Decision, no_leader, silence};
use super::formation::Identity;
use super::membership::lag_text;
use super::step::{Blocker, Step};
use super::view::{Member, View};
use crate::crd::reason::{BackupCondition, ConditionType, Reason, RestoreCondition};
use crate::crd::status::{ChangeKind, MemberRole, MemberState, MemberStatus, Phase};
use crate::observed::{PodSeen, PodState};

/// A majority that has been silent for this long is called lost: shorter silences are restarts and elections.
const LOST_AFTER: SignedDuration = SignedDuration::from_secs(60);

/// What the conditions are made from.
pub(super) struct Facts<'a, 'v> {
    pub(super) view: &'a View<'v>,
    pub(super) decision: &'a Decision,
    pub(super) members: &'a [MemberStatus],
    pub(super) update_available: bool,
}

/// Status, reason, message.
pub(super) type Verdict = (Truth, Reason, String);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Truth {
    Yes,
    No,
    Unknown,
}

impl Truth {
    fn as_str(self) -> &'static str {
        match self {
            Self::Yes => "True",
            Self::No => "False",
            Self::Unknown => "Unknown",
        }
    }
}

/// All conditions, the phase, the summary.
pub(super) fn all(facts: &Facts<'_, '_>, now: Timestamp) -> (Vec<Condition>, Phase, String) {
    let mut verdicts = vec![
        (ConditionType::Ready, ready(facts)),
        (ConditionType::Available, available(facts, now)),
        (ConditionType::Progressing, progressing(facts)),
        (ConditionType::Degraded, degraded(facts)),
        (ConditionType::DataSafe, data_safe(facts)),
        (ConditionType::UpdateAvailable, update(facts)),
        (ConditionType::Paused, paused(facts)),
        (ConditionType::Stalled, stalled(facts)),
    ];
    let tls = facts.view.observed.tls.as_ref();
    verdicts.extend(tls.map(|seen| (ConditionType::TlsValid, super::tls::valid(seen, now))));
    let phase = phase(facts, &verdicts);
    let summary = summary(facts, phase, &verdicts);
    let old = &facts.view.observed.recorded.conditions;
    let generation = facts.view.cluster.generation;
    let conditions =
        verdicts.into_iter().map(|(kind, verdict)| condition(old, kind, verdict, generation, now));
    // Conditions of backups are written by who runs them; they go with spec.backup and spec.bootstrap.
    let spec = &facts.view.cluster.spec;
    let theirs = |condition: &&Condition| {
        let is = |kind: &str| kind == condition.type_;
        spec.backup.is_some() && BackupCondition::ALL.iter().any(|kind| is(kind.as_str()))
            || spec.bootstrap.is_some() && RestoreCondition::ALL.iter().any(|kind| is(kind.as_str()))
    };
    (conditions.chain(old.iter().filter(theirs).cloned()).collect(), phase, summary)
}

/// The conditions of a spec that is wrong. What the pods do is not looked at, so what was said of them stays.
pub(super) fn invalid(
    old: &[Condition],
    generation: i64,
    faults: &[String],
    now: Timestamp,
) -> (Vec<Condition>, Phase, String) {
    let message =
        format!("the spec has faults, nothing is changed until they are corrected: {}", faults.join("; "));
    let wrong = |truth| (truth, Reason::InvalidSpec, message.clone());
    let mut conditions: Vec<Condition> = old.to_vec();
    for (kind, verdict) in [
        (ConditionType::Ready, wrong(Truth::No)),
        (ConditionType::Progressing, wrong(Truth::No)),
        (ConditionType::Stalled, wrong(Truth::Yes)),
    ] {
        let new = condition(old, kind, verdict, generation, now);
        conditions.retain(|condition| condition.type_ != new.type_);
        conditions.push(new);
    }
    let place =
        |condition: &Condition| ConditionType::ALL.iter().position(|kind| kind.as_str() == condition.type_);
    conditions.sort_by_key(place);
    (conditions, Phase::Failed, message)
}

/// Whether the conditions say already that Kubernetes refuses this.
#[must_use]
pub fn is_refused(conditions: &[Condition], refusal: Option<&str>) -> bool {
    let stalled = conditions.iter().find(|condition| condition.type_ == ConditionType::Stalled.as_str());
    stalled.is_some_and(|stalled| {
        stalled.reason == Reason::ChangeRefused.as_str() && Some(stalled.message.as_str()) == refusal
    })
}

/// Puts into the conditions that Kubernetes refuses a change; whether that is what the cluster waits for.
pub(super) fn refuse(
    conditions: &mut [Condition],
    old: &[Condition],
    generation: i64,
    (message, now): (String, Timestamp),
) -> bool {
    let kind = ConditionType::Stalled;
    let Some(stalled) = conditions.iter_mut().find(|one| one.type_ == kind.as_str()) else { return false };
    if stalled.status == Truth::Yes.as_str() {
        return false;
    }
    *stalled = condition(old, kind, (Truth::Yes, Reason::ChangeRefused, message), generation, now);
    true
}

fn condition(
    old: &[Condition],
    kind: ConditionType,
    (truth, reason, message): Verdict,
    generation: i64,
    now: Timestamp,
) -> Condition {
    let before = old.iter().find(|condition| condition.type_ == kind.as_str());
    let same = before.filter(|condition| condition.status == truth.as_str());
    Condition {
        type_: kind.as_str().to_owned(),
        status: truth.as_str().to_owned(),
        reason: reason.as_str().to_owned(),
        message,
        observed_generation: Some(generation),
        last_transition_time: same.map_or(Time(now), |condition| condition.last_transition_time.clone()),
    }
}

fn hibernated(facts: &Facts<'_, '_>) -> bool {
    facts.view.cluster.spec.hibernate
}

fn ready(facts: &Facts<'_, '_>) -> Verdict {
    if let Some((reason, message)) = &facts.decision.stalled {
        return (Truth::No, *reason, message.clone());
    }
    if hibernated(facts) {
        return (
            Truth::No,
            Reason::Hibernated,
            "spec.hibernate is set: no pods run, the data is kept".into(),
        );
    }
    match &facts.decision.step {
        Step::Settled => {
            (Truth::Yes, Reason::AllMembersReady, "every member is ready and of the newest revision".into())
        }
        step => {
            let missing = super::membership::missing(facts.view);
            let reason = if missing.is_some() { Reason::WaitingForMembers } else { Reason::ChangeUnderWay };
            (Truth::No, reason, step.to_string())
        }
    }
}

fn available(facts: &Facts<'_, '_>, now: Timestamp) -> Verdict {
    let view = facts.view;
    if let Some((pod, _)) = view.leader {
        return (Truth::Yes, Reason::QuorumPresent, format!("{} leads and hears a quorum", pod.name));
    }
    if hibernated(facts) {
        return (Truth::No, Reason::Hibernated, "spec.hibernate is set".into());
    }
    if !view.formed() {
        return (Truth::No, Reason::NotFormed, "the cluster is not founded yet".into());
    }
    let wait = no_leader(view, false);
    let anybody = view.observed.pods.values().any(|pod| pod.node.status().is_some());
    match wait.blocker {
        Blocker::InProgress => (Truth::No, Reason::NoLeader, wait.message),
        _ if !anybody && !view.observed.pods.is_empty() => (Truth::Unknown, Reason::Unknown, wait.message),
        _ if unavailable_for(facts, now) < LOST_AFTER => (Truth::No, Reason::NoLeader, wait.message),
        _ => (Truth::No, Reason::QuorumLost, wait.message),
    }
}

/// Since when the recorded status has said that commands are not served.
fn unavailable_for(facts: &Facts<'_, '_>, now: Timestamp) -> SignedDuration {
    let mut recorded = facts.view.observed.recorded.conditions.iter();
    let since = recorded
        .find(|condition| condition.type_ == ConditionType::Available.as_str() && condition.status == "False")
        .map(|condition| condition.last_transition_time.0);
    since.map_or(SignedDuration::ZERO, |since| now.duration_since(since))
}

fn progressing(facts: &Facts<'_, '_>) -> Verdict {
    let decision = facts.decision;
    let text = decision.step.to_string();
    match (&decision.step, decision.held) {
        (_, Some("plan only")) => return (Truth::No, Reason::PlanOnly, text),
        (_, Some(_)) => return (Truth::No, Reason::PausedBySpec, text),
        (Step::Settled, None) => return (Truth::No, Reason::Settled, "nothing to do".into()),
        _ => {}
    }
    if let Some((reason, message)) = &decision.stalled {
        return (Truth::No, *reason, message.clone());
    }
    let Step::Wait(wait) = &decision.step else { return (Truth::Yes, kind_reason(decision.kind), text) };
    match wait.blocker {
        Blocker::InProgress => (Truth::Yes, kind_reason(decision.kind), text),
        Blocker::Person if wait.message.contains(crate::build::labels::APPROVE) => {
            (Truth::No, Reason::WaitingForApproval, text)
        }
        Blocker::Gate | Blocker::NoQuorum | Blocker::Person | Blocker::Identity | Blocker::Paused => {
            (Truth::Yes, Reason::Blocked, text)
        }
    }
}

fn kind_reason(kind: Option<ChangeKind>) -> Reason {
    match kind {
        Some(ChangeKind::Create) => Reason::Creating,
        Some(ChangeKind::Scale) => Reason::Scaling,
        Some(ChangeKind::Rollout) => Reason::RollingOut,
        Some(ChangeKind::Replace) => Reason::ReplacingMember,
        Some(ChangeKind::GrowVolumes) => Reason::GrowingVolumes,
        Some(ChangeKind::Hibernate) => Reason::Hibernating,
        Some(ChangeKind::Wake) => Reason::Waking,
        None => Reason::Blocked,
    }
}

fn degraded(facts: &Facts<'_, '_>) -> Verdict {
    let view = facts.view;
    if hibernated(facts) || !view.formed() {
        return (Truth::No, Reason::Healthy, "no members are expected to run".into());
    }
    let down: Vec<String> = view.voters().filter(|voter| !voter.live).map(|voter| voter.name(view)).collect();
    if let Some(diverged) = diverged(view, &down) {
        return diverged;
    }
    if view.leader.is_some() && !down.is_empty() {
        let left = view.voters().count().div_ceil(2).saturating_sub(1).saturating_sub(down.len());
        let message = format!(
            "{}; the cluster serves and survives {left} more failures. A pod comes back by itself with its \
             data; see status.members for what holds it up",
            silence(&down)
        );
        return (Truth::Yes, Reason::MemberDown, message);
    }
    let full = view
        .observed
        .pods
        .values()
        .find(|pod| pod.node.status().is_some_and(|status| status.disk != DiskState::Ok));
    if let Some(pod) = full {
        let message = format!(
            "the volume of {} is full: writes that grow the data are refused; enlarge storage.size, or delete keys",
            pod.name
        );
        return (Truth::Yes, Reason::VolumeFull, message);
    }
    let behind = view.voters().find(|voter| view.leader.is_some() && !voter.keeps_up());
    if let Some(voter) = behind {
        let message = format!("{}: {}; it is catching up", voter.name(view), lag_text(voter));
        return (Truth::Yes, Reason::MemberLagging, message);
    }
    if view.leader.is_none() {
        return (Truth::Yes, Reason::MemberDown, no_leader(view, false).message);
    }
    (Truth::No, Reason::Healthy, "every voter answers".into())
}

/// Members whose data is another one than the majority's: by the leader's word, or by their own last one.
fn diverged(view: &View<'_>, down: &[String]) -> Option<Verdict> {
    let (_, leader) = view.leader?;
    let says = |pod: &PodSeen| matches!(&pod.state, PodState::Failing { why } if why.contains(DIVERGED));
    // Of a ghost the data is gone, and its successor is well.
    let is_one = |member: &&Member<'_>| {
        !member.is_ghost() && (member.info.diverged_at.is_some() || member.pod.is_some_and(says))
    };
    let names: Vec<String> = view.members.iter().filter(is_one).map(|member| member.name(view)).collect();
    let others: Vec<&String> = down.iter().filter(|name| !names.contains(name)).collect();
    if !names.is_empty() {
        let advice = if others.is_empty() {
            "Keep a copy of its volume for a bug report, then delete its claim and its pod: a new member takes its place \
             (runbook, recipe 7)"
                .to_owned()
        } else {
            let others = others.into_iter().map(String::as_str).collect::<Vec<_>>().join(", ");
            format!("Delete nothing before {others} answers again (runbook, recipe 7)")
        };
        let message =
            format!("the data of {} is not that of the majority: it stops. {advice}", names.join(", "));
        return Some((Truth::Yes, Reason::MemberDiverged, message));
    }
    // A voter that is down decides when it is back.
    let at = leader.log.undecided.as_ref().filter(|_| down.is_empty())?;
    let message = format!(
        "the data of members differs at entry {at}, and no majority says which is right: compare them before anything \
         else (runbook, recipe 7)"
    );
    Some((Truth::Yes, Reason::ContentsDiffer, message))
}

fn data_safe(facts: &Facts<'_, '_>) -> Verdict {
    match &facts.decision.identity {
        Identity::Ok => (Truth::Yes, Reason::IdentityOk, "the nodes hold the data of this cluster".into()),
        Identity::Conflict(text) => (Truth::No, Reason::IdentityConflict, text.clone()),
        Identity::Empty(text) => (Truth::No, Reason::AllMembersEmpty, text.clone()),
    }
}

fn update(facts: &Facts<'_, '_>) -> Verdict {
    let newer = "this version of the operator would make other pods; the next change of the spec takes it along, or set \
                 rollout.operatorUpgrade to RollPods";
    if facts.view.observed.doors.is_some_and(|seen| seen.kept_open) {
        let message = "the cluster was made before TLS and passwords were the default, and stays open where \
                       status.doors says so: for passwords set auth.enabled to false and then to true, for TLS restore \
                       a backup into a new cluster; or say in the spec that it is meant to be open";
        let more = if facts.update_available { format!(". Also, {newer}") } else { String::new() };
        (Truth::Yes, Reason::KeptOpen, format!("{message}{more}"))
    } else if facts.update_available {
        (Truth::Yes, Reason::NewerTemplate, newer.into())
    } else {
        (Truth::No, Reason::UpToDate, "the pods are as this operator makes them".into())
    }
}

fn paused(facts: &Facts<'_, '_>) -> Verdict {
    if facts.view.cluster.spec.paused {
        (Truth::Yes, Reason::PausedBySpec, "spec.paused is set: nothing is changed".into())
    } else {
        (Truth::No, Reason::Running, "the operator works on this cluster".into())
    }
}

fn stalled(facts: &Facts<'_, '_>) -> Verdict {
    match &facts.decision.stalled {
        Some((reason, message)) => (Truth::Yes, *reason, message.clone()),
        None => (Truth::No, Reason::NotStalled, "nothing waits for a change by hand".into()),
    }
}

fn phase(facts: &Facts<'_, '_>, verdicts: &[(ConditionType, Verdict)]) -> Phase {
    let truth = |wanted: ConditionType| {
        verdicts
            .iter()
            .find(|(kind, _)| *kind == wanted)
            .is_some_and(|(_, (truth, _, _))| *truth == Truth::Yes)
    };
    let changing = facts.decision.kind;
    if truth(ConditionType::Stalled) {
        return Phase::Failed;
    }
    if hibernated(facts) {
        return if facts.view.observed.pods.is_empty() { Phase::Hibernated } else { Phase::Changing };
    }
    match changing {
        _ if truth(ConditionType::Paused) => Phase::Paused,
        _ if !facts.view.formed() => Phase::Creating,
        Some(ChangeKind::Wake) => Phase::Changing,
        _ if !truth(ConditionType::Available) => Phase::Unavailable,
        Some(ChangeKind::Create) => Phase::Creating,
        Some(ChangeKind::Scale) => Phase::Scaling,
        Some(ChangeKind::Rollout) => Phase::RollingOut,
        Some(ChangeKind::Replace) if has_replacement(facts) => Phase::Replacing,
        _ if truth(ConditionType::Degraded) => Phase::Degraded,
        Some(ChangeKind::Replace) => Phase::Degraded,
        None if truth(ConditionType::Ready) => Phase::Ready,
        Some(ChangeKind::GrowVolumes | ChangeKind::Hibernate) | None => Phase::Changing,
    }
}

/// A newcomer copies data for a lost member; else the member itself is coming back.
fn has_replacement(facts: &Facts<'_, '_>) -> bool {
    facts.members.iter().any(|line| {
        line.state == MemberState::Joining
            || (line.state == MemberState::CatchingUp && line.role == MemberRole::Learner)
    })
}

fn summary(facts: &Facts<'_, '_>, phase: Phase, verdicts: &[(ConditionType, Verdict)]) -> String {
    let text_of = |wanted: ConditionType| {
        let found = verdicts.iter().find(|(kind, _)| *kind == wanted);
        found.map(|(_, (_, _, text))| text.clone()).unwrap_or_default()
    };
    let step = facts.decision.step.to_string();
    match phase {
        Phase::Ready => "all members are well".to_owned(),
        Phase::Hibernated => "hibernated, data kept".to_owned(),
        Phase::Failed => text_of(ConditionType::Stalled),
        Phase::Unavailable => text_of(ConditionType::Available),
        Phase::Degraded if facts.decision.kind.is_none() => text_of(ConditionType::Degraded),
        Phase::RollingOut => {
            let pods = facts.view.observed.pods.values();
            let done = pods.clone().filter(|pod| !facts.view.outdated(pod) && pod.ready).count();
            format!("rolling {done}/{}, {step}", pods.count())
        }
        Phase::Creating
        | Phase::Paused
        | Phase::Scaling
        | Phase::Replacing
        | Phase::Degraded
        | Phase::Changing => step,
    }
}
