//! New revisions of the pods: the broken ones at once, then one at a time, followers first, the leader last.
//!
//! StatefulSets have the strategy OnDelete; a pod gets the newest revision by being deleted. Deleted, not evicted: an
//! eviction is refused by the budget while a new pod is unready, and would stop a rollout that could be repaired.
//!
//! ```text
//! an outdated pod does not serve  -> delete it, no waiting: a bad revision is superseded by the next one
//! a new pod is not ready          -> wait; if it fails, stop (RolloutStalled), old pods stay
//! outdated learner, then follower -> delete it, if every other voter answers and keeps up
//! outdated leader                 -> hand over to the best follower; then it is one
//! outdated only in its resources  -> resized in place where Kubernetes does that (resize.rs), one at a time as well
//! ```

use jiff::Timestamp;

use super::membership::lag_text;
use super::resize::{self, InPlace};
use super::step::{Blocker, Step, Wait};
use super::view::{Member, Slot, View, why_not_up};
use crate::build::labels;
use crate::crd::RolloutMode;
use crate::crd::reason::{ConditionType, Reason};
use crate::observed::{PodSeen, PodState, SetRole};

/// Starts of the server that may fail before a rollout counts as stalled.
const FAILED_STARTS_MAX: i32 = 2;

/// An outdated pod on which nothing runs, or that no leader hears: deleting it takes nobody out.
pub(super) fn broken(view: &View<'_>) -> Option<Step> {
    let mut candidates: Vec<&PodSeen> = view
        .observed
        .pods
        .values()
        .filter(|pod| !pod.deleting && view.outdated(pod) && !serves(view, pod))
        .collect();
    // Dead before starting before alive, the highest ordinal first.
    candidates.sort_by_key(|pod| (life(pod), pod.role, std::cmp::Reverse(pod.ordinal)));
    let pod = candidates.first()?;
    let why = format!("it has an old revision and does not serve ({})", why_not_up(Some(pod)).1);
    Some(Step::DeletePod { pod: pod.name.clone(), uid: pod.uid.clone(), force: false, why })
}

fn life(pod: &PodSeen) -> u8 {
    match pod.state {
        PodState::Failing { .. } | PodState::Pending { .. } | PodState::Ended => 0,
        PodState::Starting => 1,
        PodState::Running => 2,
    }
}

/// Takes part: it answers us, or a voter of its address answers the leader. Without a leader everything that runs
/// might, so only pods without a running server do not.
fn serves(view: &View<'_>, pod: &PodSeen) -> bool {
    if pod.node.status().is_some_and(|status| status.cluster_id.is_some()) {
        return true;
    }
    let slot = Slot { set: pod.role, ordinal: pod.ordinal };
    let heard = view.members_at(slot).any(|member| member.live);
    heard || (view.leader.is_none() && view.formed() && pod.state == PodState::Running)
}

/// The next step of a rollout; `None` if all pods have the newest revision. Needs a leader.
pub(super) fn step(view: &View<'_>, now: Timestamp) -> Option<Step> {
    let outdated: Vec<&PodSeen> = view.observed.pods.values().filter(|pod| view.outdated(pod)).collect();
    if outdated.is_empty() {
        return None;
    }
    if let Some(wait) = unfinished(view) {
        return Some(Step::Wait(wait));
    }
    let pod = next(view, &outdated)?;
    let member = view.member_in(pod);
    let closed = || member.filter(|member| member.voter()).and_then(|_| gate(view, pod));
    let tried = match resize::in_place(view, pod, now) {
        InPlace::Take(step) => return Some(closed().map_or(step, Step::Wait)),
        InPlace::Wait(message) => return Some(Step::Wait(Wait { blocker: Blocker::InProgress, message })),
        InPlace::Restart(tried) => tried,
    };
    let leads = member.is_some_and(|member| member.info.leader);
    let last_voter = pod.role == SetRole::Voter && outdated.len() == 1 && view.voters().count() > 1;
    if (leads || last_voter)
        && let Some(wait) = approval(view)
    {
        return Some(Step::Wait(wait));
    }
    if let Some(wait) = closed() {
        return Some(Step::Wait(wait));
    }
    if leads && let Some(step) = hand_over(view, pod, "rollout") {
        return Some(step);
    }
    let why = match tried {
        Some(tried) => format!("it has an old revision, and cannot be resized in place ({tried})"),
        None => "it has an old revision".to_owned(),
    };
    Some(Step::DeletePod { pod: pod.name.clone(), uid: pod.uid.clone(), force: false, why })
}

/// Learners, then followers from the highest ordinal, the leader last; what is being resized is finished first. A pod whose deletion was recorded comes before
/// all: if it is still there, the deletion did not get through, or this view is old.
fn next<'a>(view: &View<'_>, outdated: &[&'a PodSeen]) -> Option<&'a PodSeen> {
    let recorded = view.observed.recorded.change.as_ref().and_then(|change| change.pod_uid.as_deref());
    if let Some(same) = outdated.iter().find(|pod| recorded == Some(&pod.uid)) {
        return Some(same);
    }
    let rank = |pod: &PodSeen| {
        let leads = view.member_in(pod).is_some_and(|member| member.info.leader);
        let under_way = resize::is_under_way(view, pod);
        (!under_way, leads, pod.role == SetRole::Voter, std::cmp::Reverse(pod.ordinal))
    };
    outdated.iter().copied().min_by_key(|pod| rank(pod))
}

/// A pod that is on its way, of any revision, or a new one that does not come up.
fn unfinished(view: &View<'_>) -> Option<Wait> {
    if let Some(failing) = stalled(view) {
        return Some(failing);
    }
    let wait = |message| Some(Wait { blocker: Blocker::InProgress, message });
    if let Some(pod) = view.observed.pods.values().find(|pod| pod.deleting) {
        return wait(format!("waiting for {}: the pod is stopping", pod.name));
    }
    let missing = view.slots().find(|slot| view.pod(*slot).is_none());
    if let Some(slot) = missing {
        return wait(format!("waiting for {}: the pod does not exist yet", view.pod_name(slot)));
    }
    let young = view.observed.pods.values().find(|pod| !pod.ready && !view.outdated(pod));
    young.and_then(|pod| wait(format!("waiting for {}: {}", pod.name, why_not_up(Some(pod)).1)))
}

/// A pod of the newest revision that fails.
pub(super) fn stalled(view: &View<'_>) -> Option<Wait> {
    let failing = view.observed.pods.values().find_map(|pod| match &pod.state {
        PodState::Failing { why }
            if !view.outdated(pod) && (pod.restarts >= FAILED_STARTS_MAX || is_image(why)) =>
        {
            Some((pod, why))
        }
        _ => None,
    });
    let message = failing.map(|(pod, why)| {
        format!(
            "{} does not start with the new revision: {why}; the other pods stay as they are. Correct the spec: the \
             next revision replaces this one",
            pod.name
        )
    });
    let message = message.or_else(|| told_before(view))?;
    Some(Wait { blocker: Blocker::Person, message })
}

/// What was said of a failing pod holds while it makes its next attempt, until its node answers.
fn told_before(view: &View<'_>) -> Option<String> {
    let mut recorded = view.observed.recorded.conditions.iter();
    let told = recorded.find(|condition| {
        condition.type_ == ConditionType::Stalled.as_str()
            && condition.status == "True"
            && condition.reason == Reason::RolloutStalled.as_str()
    })?;
    let attempts = view.observed.pods.values().any(|pod| {
        told.message.starts_with(&format!("{} ", pod.name))
            && !view.outdated(pod)
            && !pod.ready
            && pod.node.status().is_none()
    });
    attempts.then(|| told.message.clone())
}

fn is_image(why: &str) -> bool {
    ["ImagePull", "ErrImage", "InvalidImage", "CreateContainer"].iter().any(|word| why.starts_with(word))
}

/// Every voter but the one that is to go must answer and keep up, and the membership must be at rest.
fn gate(view: &View<'_>, pod: &PodSeen) -> Option<Wait> {
    let own = view.member_in(pod).map(Member::id);
    let weak = view.voters().find(|voter| Some(voter.id()) != own && !voter.keeps_up())?;
    Some(Wait {
        blocker: Blocker::Gate,
        message: format!(
            "{} is not restarted while {} is not well: {}",
            pod.name,
            weak.name(view),
            lag_text(weak)
        ),
    })
}

fn approval(view: &View<'_>) -> Option<Wait> {
    if view.cluster.spec.rollout.mode == RolloutMode::Auto {
        return None;
    }
    let revision = view.revision().unwrap_or_default();
    let given = view.observed.annotations.get(labels::APPROVE).map(String::as_str);
    (given != Some(revision)).then(|| Wait {
        blocker: Blocker::Person,
        message: format!(
            "all pods but the leader have the new revision; finish with: kubectl annotate kvc {} {}={revision} \
             --overwrite",
            view.cluster.name,
            labels::APPROVE
        ),
    })
}

/// A hand-over to the best other voter; `None` if there is none: a single voter restarts without.
pub(super) fn hand_over(view: &View<'_>, leader: &PodSeen, why: &'static str) -> Option<Step> {
    let own = view.member_in(leader).map(Member::id);
    let others = view.voters().filter(|voter| Some(voter.id()) != own && voter.keeps_up());
    let best = others.min_by_key(|voter| {
        // One of the newest revision keeps it; an old one would have to hand over again.
        let old = voter.pod.is_none_or(|pod| view.outdated(pod) || pod.deleting);
        (old, voter.lag(), voter.slot)
    })?;
    let (via, _) = view.via()?;
    Some(Step::Transfer { from: leader.name.clone(), to: best.id(), to_pod: best.name(view), via, why })
}
