//! Events: what changed between the recorded status and the new one. The same pair gives the same events; equal ones
//! give none.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;

use super::Note;
use crate::crd::reason::{ConditionType, EventReason, Reason};
use crate::crd::status::LeaderStatus;
use crate::crd::status::{ChangeKind, KvClusterStatus, Phase};
use crate::observed::{NodeView, Observed};

/// The events of one pass.
pub(super) fn since(old: &KvClusterStatus, new: &KvClusterStatus, observed: &Observed) -> Vec<Note> {
    let mut notes = Vec::new();
    conditions(old, new, &mut notes);
    leader(old, new, observed, &mut notes);
    changes(old, new, &mut notes);
    notes
}

fn find(status: &KvClusterStatus, kind: ConditionType) -> Option<&Condition> {
    status.conditions.iter().find(|condition| condition.type_ == kind.as_str())
}

/// The condition, if its status or reason is another one than before.
fn turned(
    old: &KvClusterStatus,
    new: &KvClusterStatus,
    kind: ConditionType,
) -> Option<(String, String, String)> {
    let now = find(new, kind)?;
    let before = find(old, kind);
    let same = before.is_some_and(|before| before.status == now.status && before.reason == now.reason);
    (!same).then(|| (now.status.clone(), now.reason.clone(), now.message.clone()))
}

fn conditions(old: &KvClusterStatus, new: &KvClusterStatus, notes: &mut Vec<Note>) {
    let warn = |reason, message: &str| Note { reason, warning: true, message: capital(message) };
    let tell = |reason, message: &str| Note { reason, warning: false, message: capital(message) };
    let was = |kind, status: &str| find(old, kind).is_some_and(|condition| condition.status == status);
    if let Some((status, reason, message)) = turned(old, new, ConditionType::Available) {
        match status.as_str() {
            "True" if !was(ConditionType::Available, "True") => {
                notes.push(tell(EventReason::Available, &message));
            }
            "True" => {}
            _ if was(ConditionType::Available, "True") && reason != Reason::Hibernated.as_str() => {
                notes.push(warn(EventReason::Unavailable, &message));
            }
            _ if reason == Reason::QuorumLost.as_str() => {
                notes.push(warn(EventReason::Unavailable, &message));
            }
            _ => {}
        }
    }
    if let Some((status, _, message)) = turned(old, new, ConditionType::Degraded) {
        match status.as_str() {
            "True" => notes.push(warn(EventReason::Degraded, &message)),
            _ if was(ConditionType::Degraded, "True") => notes.push(tell(EventReason::Recovered, &message)),
            _ => {}
        }
    }
    if let Some((status, reason, message)) = turned(old, new, ConditionType::Stalled)
        && status == "True"
    {
        let reason = match Reason::ALL.iter().find(|known| known.as_str() == reason) {
            Some(Reason::RolloutStalled) => EventReason::RolloutStalled,
            Some(Reason::IdentityConflict) => EventReason::IdentityConflict,
            Some(Reason::AllMembersEmpty) => EventReason::AllMembersEmpty,
            Some(Reason::InvalidSpec) => EventReason::InvalidSpec,
            _ => EventReason::Blocked,
        };
        notes.push(warn(reason, &message));
    }
    if let Some((_, reason, message)) = turned(old, new, ConditionType::Progressing)
        && (reason == Reason::Blocked.as_str() || reason == Reason::WaitingForApproval.as_str())
    {
        notes.push(warn(EventReason::Blocked, &message));
    }
}

fn leader(old: &KvClusterStatus, new: &KvClusterStatus, observed: &Observed, notes: &mut Vec<Note>) {
    let Some(now) = &new.leader else { return };
    let Some(before) = &old.leader else { return };
    if now.node_id == before.node_id {
        return;
    }
    let cause = planned(old).map_or_else(|| unplanned(before, observed), str::to_owned);
    let seen = observed.handover.as_ref();
    let seen = seen.filter(|seen| i64::try_from(seen.term) == Ok(now.term) && seen.to == now.pod);
    let cost = seen.map(|seen| format!(", writes paused {} ms", seen.gap_ms)).unwrap_or_default();
    let message = format!("{} to {}, {cause}{cost}.", before.pod, now.pod);
    notes.push(Note { reason: EventReason::LeaderChanged, warning: false, message });
}

/// Why we asked for another leader, if we did.
fn planned(old: &KvClusterStatus) -> Option<&'static str> {
    let change = old.change.as_ref().filter(|change| change.step.starts_with("hand leadership over"))?;
    Some(match change.kind {
        ChangeKind::Rollout => "planned (rollout)",
        ChangeKind::Scale => "planned (scale down)",
        _ => "planned",
    })
}

/// What can be seen of the node that led before.
fn unplanned(before: &LeaderStatus, observed: &Observed) -> String {
    let name = &before.pod;
    let Some(pod) = observed.pods.get(name) else { return format!("pod {name} is gone") };
    let id = pod.node.status().and_then(|status| status.node_id).map(|id| id.to_string());
    let younger = pod.created.is_some_and(|created| created >= before.since.0);
    match &pod.node {
        _ if pod.deleting => format!("pod {name} was deleted"),
        NodeView::Answered(_) if id.is_some_and(|id| id != before.node_id) => {
            format!("{name} came back without its data")
        }
        _ if younger => format!("pod {name} was made anew"),
        NodeView::Answered(_) => format!("{name} lost its leadership to an election"),
        NodeView::Unreachable { .. } | NodeView::NotAsked => format!("{name} does not answer"),
    }
}

fn changes(old: &KvClusterStatus, new: &KvClusterStatus, notes: &mut Vec<Note>) {
    let kind = |status: &KvClusterStatus| status.change.as_ref().map(|change| change.kind);
    let tell = |reason, message: String| Note { reason, warning: false, message };
    let (before, now) = (kind(old), kind(new));
    if before != now {
        match now {
            Some(ChangeKind::Rollout) => {
                notes.push(tell(
                    EventReason::RolloutStarted,
                    "The pods get a new revision, one at a time.".into(),
                ));
            }
            Some(ChangeKind::GrowVolumes) => {
                notes.push(tell(EventReason::VolumeGrowing, "The volumes are enlarged.".into()));
            }
            Some(ChangeKind::Wake) => {
                notes.push(tell(EventReason::Woken, "The pods start again with their data.".into()));
            }
            _ => {}
        }
        if before == Some(ChangeKind::Rollout) && now.is_none() {
            notes.push(tell(EventReason::RolloutComplete, "All pods have the newest revision.".into()));
        }
        if before == Some(ChangeKind::Scale) && now.is_none() {
            let ready = new.ready.clone().unwrap_or_default();
            notes.push(tell(EventReason::ScaledUp, format!("Scaling is complete, {ready} ready.")));
        }
    }
    if new.phase == Some(Phase::Hibernated) && old.phase != Some(Phase::Hibernated) {
        notes.push(tell(
            EventReason::Hibernated,
            "All pods are stopped; volumes and membership are kept.".into(),
        ));
    }
}

/// Sentences of conditions begin in lower case, those of events do not; names of pods stay as they are.
fn capital(text: &str) -> String {
    let mut letters = text.chars();
    let first_word = text.split(' ').next().unwrap_or_default();
    let name = first_word.bytes().any(|b| b.is_ascii_digit());
    match letters.next() {
        Some(first) if !name => first.to_uppercase().chain(letters).chain(['.']).collect(),
        _ => format!("{text}."),
    }
}
