//! Who should be a member, and the next change towards it.
//!
//! ```text
//! a pod of a wanted slot is empty         -> add its node as a learner (does not count, cannot hurt)
//! all newcomers of a change have caught up -> one joint change of the voters: add, swap or remove, never to an even number
//! a member without a vote is not wanted   -> remove it
//! ```
//!
//! A pod that lost its volume comes back under the same address as another node. It is let in as a learner, and when it
//! has caught up it takes the place of the lost one in one joint change; removing first would only add a risk.
//! The exception is a volume that is bound to a Kubernetes node which is gone (`storage.onNodeGone: Replace`): nothing
//! can start in that place before the volume is deleted, and no volume of a member is ever deleted. There the dead
//! voter leaves first; the number of failures that are tolerated is the same with and without it.

use std::collections::BTreeSet;

use kvnode_api::Id;
use kvnode_api::status::Phase;

use super::step::{Blocker, Step, Wait};
use super::view::{LAG_ENTRIES_MAX, Member, Slot, View, list, thousands, why_not_up};
use crate::build::labels;
use crate::crd::OnNodeGone;
use crate::crd::status::ChangeKind;
use crate::observed::{PodSeen, SetRole};

/// A step, and the kind of change that it belongs to.
pub(super) type Move = (ChangeKind, Step);

/// The next membership change, a wait that must come before everything else, or nothing.
pub(super) fn step(view: &View<'_>) -> Option<Move> {
    if view.changing() {
        return Some((
            ChangeKind::Scale,
            wait(Blocker::InProgress, "a membership change is being committed".into()),
        ));
    }
    join(view)
        .or_else(|| swap(view))
        .or_else(|| remove_surplus_learner(view))
        .or_else(|| give_up_dead_voter(view))
        .or_else(|| resize(view))
}

fn wait(blocker: Blocker, message: String) -> Step {
    Step::Wait(Wait { blocker, message })
}

/// Whether a member lost its data and another takes its place, or somebody is new.
fn kind_of(view: &View<'_>, slot: Slot) -> ChangeKind {
    if view.members_at(slot).any(|member| member.voter() || slot.set == SetRole::Learner) {
        ChangeKind::Replace
    } else if view.voters().count() == 1
        && view.observed.recorded.change.as_ref().is_some_and(|c| c.kind == ChangeKind::Create)
    {
        ChangeKind::Create
    } else {
        ChangeKind::Scale
    }
}

/// Lets the node of a wanted slot in.
fn join(view: &View<'_>) -> Option<Move> {
    let (via, if_membership) = view.via()?;
    view.slots().find_map(|slot| {
        let pod = view.pod(slot).filter(|pod| !pod.deleting)?;
        if view.member_in(pod).is_some() || !may_join(view, pod) {
            return None;
        }
        let addr = labels::client_addr(&view.cluster.name, &view.cluster.namespace, &pod.name);
        let step = Step::AddLearner {
            pod: pod.name.clone(),
            addr,
            via: via.clone(),
            if_membership: if_membership.clone(),
        };
        Some((kind_of(view, slot), step))
    })
}

/// An empty node, or one that was invited and holds nothing yet. A node with data that is no member was removed.
fn may_join(view: &View<'_>, pod: &PodSeen) -> bool {
    pod.node.status().is_some_and(|status| {
        let invited = status.cluster_id == view.cluster_id && status.log.last_index.is_none();
        status.node_id.is_some() && (status.phase == Phase::Unformed || invited)
    })
}

/// A node with data of this cluster that is no member any more.
pub(super) fn is_stray(view: &View<'_>, pod: &PodSeen) -> bool {
    view.leader.is_some()
        && view.member_in(pod).is_none()
        && pod.node.status().is_some_and(|status| {
            status.cluster_id == view.cluster_id
                && status.log.last_index.is_some()
                && status.phase != Phase::Starting
        })
}

/// The learner in a wanted voter slot that has caught up.
fn newcomer<'v, 'a>(view: &'v View<'a>, slot: Slot) -> Option<&'v Member<'a>> {
    let in_pod = view.pod(slot).filter(|pod| !pod.deleting).and_then(|pod| view.member_in(pod))?;
    (!in_pod.voter()).then_some(in_pod)
}

fn voter_slots(view: &View<'_>) -> impl Iterator<Item = Slot> + use<> {
    view.slots().filter(|slot| slot.set == SetRole::Voter)
}

/// The voter at a slot: the one whose node is there, else one that may come back.
fn voter_at<'v, 'a>(view: &'v View<'a>, slot: Slot) -> Option<&'v Member<'a>> {
    let voters = || view.members_at(slot).filter(|member| member.voter());
    voters().find(|voter| !voter.is_ghost()).or_else(|| voters().next())
}

/// Puts newcomers into the places of voters whose data is gone. The number of voters stays.
fn swap(view: &View<'_>) -> Option<Move> {
    let (via, if_membership) = view.via()?;
    let mut voters = view.voter_ids();
    let mut said = Vec::new();
    for slot in voter_slots(view) {
        let Some(new) = newcomer(view, slot).filter(|new| new.keeps_up()) else { continue };
        for ghost in view.members_at(slot).filter(|member| member.voter() && member.is_ghost()) {
            voters.remove(&ghost.id());
            voters.insert(new.id());
            said.push(format!("{} takes the place of {} in {}", new.id(), ghost.id(), view.pod_name(slot)));
        }
    }
    if said.is_empty() {
        return None;
    }
    if let Some(blocked) = lacks_quorum(view, &voters) {
        return Some((ChangeKind::Replace, blocked));
    }
    let why = list(&said);
    Some((ChangeKind::Replace, Step::SetVoters { voters, via, if_membership, why, replaces: true }))
}

/// A wait, if the voters to be would not have a majority that answers.
fn lacks_quorum(view: &View<'_>, voters: &BTreeSet<Id>) -> Option<Step> {
    let live = view.members.iter().filter(|member| voters.contains(&member.id()) && member.live).count();
    (live * 2 <= voters.len())
        .then(|| wait(Blocker::Gate, format!("only {live} of the {} voters to be answer", voters.len())))
}

/// Takes out members without a vote that nobody asks for.
fn remove_surplus_learner(view: &View<'_>) -> Option<Move> {
    let (via, if_membership) = view.via()?;
    let surplus = view.members.iter().find(|member| {
        let wanted = member.slot.is_some_and(|slot| view.wanted(slot));
        !member.voter() && (!wanted || member.is_ghost())
    })?;
    let step = Step::RemoveMember { id: surplus.id(), pod: surplus.name(view), via, if_membership };
    Some((ChangeKind::Scale, step))
}

/// A voter whose volume can never be mounted again leaves, so that its place can be made anew.
fn give_up_dead_voter(view: &View<'_>) -> Option<Move> {
    if view.cluster.spec.storage.on_node_gone != OnNodeGone::Replace {
        return None;
    }
    let (via, if_membership) = view.via()?;
    let dead = view.voters().find(|voter| !voter.live && volume_host_gone(view, voter).is_some())?;
    let host = volume_host_gone(view, dead)?;
    let mut voters = view.voter_ids();
    voters.remove(&dead.id());
    if voters.is_empty() {
        let message = format!(
            "the only voter's volume is on node {host}, which is gone; bring the node back, or restore a backup"
        );
        return Some((ChangeKind::Replace, wait(Blocker::Person, message)));
    }
    if let Some(blocked) = lacks_quorum(view, &voters) {
        return Some((ChangeKind::Replace, blocked));
    }
    let why = format!(
        "{} leaves the voters: its volume is on node {host}, which is gone; a new member takes its place",
        dead.name(view)
    );
    Some((ChangeKind::Replace, Step::SetVoters { voters, via, if_membership, why, replaces: true }))
}

/// The Kubernetes node that a member's volume is bound to, if that is gone.
fn volume_host_gone<'v>(view: &'v View<'_>, member: &Member<'_>) -> Option<&'v str> {
    let volume = view.volume_of(&member.name(view))?;
    let holds_it = volume.node_id.as_deref() == Some(member.id().to_string().as_str());
    volume.bound_to_host.as_deref().filter(|host| holds_it && view.host_gone(host))
}

/// Makes the voters those of the wanted slots, in one change.
fn resize(view: &View<'_>) -> Option<Move> {
    let (via, if_membership) = view.via()?;
    let current = view.voter_ids();
    let mut target = BTreeSet::new();
    let mut new_names = Vec::new();
    let mut lagging = None;
    for slot in voter_slots(view) {
        if let Some(voter) = voter_at(view, slot) {
            target.insert(voter.id());
        } else if let Some(new) = newcomer(view, slot) {
            if new.keeps_up() {
                target.insert(new.id());
                new_names.push(view.pod_name(slot));
            } else if lagging.is_none() {
                lagging = Some(format!("waiting for {}: {}", view.pod_name(slot), lag_text(new)));
            }
        }
    }
    let gone: Vec<&Member<'_>> = view.voters().filter(|voter| !target.contains(&voter.id())).collect();
    let kind = if gone.is_empty() {
        voter_slots(view).last().map_or(ChangeKind::Scale, |slot| kind_of(view, slot))
    } else {
        ChangeKind::Scale
    };
    if target == current {
        return lagging.map(|message| (kind, wait(Blocker::InProgress, message)));
    }
    if i32::try_from(target.len()) != Ok(view.target(SetRole::Voter)) {
        // Not all are there. An odd number rests where it is; newcomers join together once all have caught up.
        return lagging.map(|message| (kind, wait(Blocker::InProgress, message)));
    }
    if let Some(step) = removal_gate(view, &target, &gone) {
        return Some((ChangeKind::Scale, step));
    }
    if let Some(step) = lacks_quorum(view, &target) {
        return Some((kind, step));
    }
    let why = resize_text(view, &new_names, &gone, target.len());
    Some((kind, Step::SetVoters { voters: target, via, if_membership, why, replaces: false }))
}

/// What must be done or awaited before voters may leave.
fn removal_gate(view: &View<'_>, target: &BTreeSet<Id>, gone: &[&Member<'_>]) -> Option<Step> {
    if gone.is_empty() {
        return None;
    }
    let mut rest = view.members.iter().filter(|member| target.contains(&member.id()));
    if let Some(weak) = rest.find(|member| !member.keeps_up()) {
        let message = format!("scale down waits for {}, which stays: {}", weak.name(view), lag_text(weak));
        return Some(wait(Blocker::Gate, message));
    }
    let leader = gone.iter().find(|member| member.info.leader && member.live)?;
    let stay = view.voters().filter(|member| target.contains(&member.id()));
    let successor = stay.min_by_key(|member| (member.lag(), member.slot))?;
    let (via, _) = view.via()?;
    Some(Step::Transfer {
        from: leader.name(view),
        to: successor.id(),
        to_pod: successor.name(view),
        via,
        why: "scale down",
    })
}

fn resize_text(view: &View<'_>, new: &[String], gone: &[&Member<'_>], voters: usize) -> String {
    let mut said = Vec::new();
    if !new.is_empty() {
        said.push(format!("{} become voters", list(new)));
    }
    if !gone.is_empty() {
        let names: Vec<String> = gone.iter().map(|member| member.name(view)).collect();
        said.push(format!("{} leave the membership", list(&names)));
    }
    format!("{}: {voters} voters", list(&said))
}

/// Why a member does not keep up.
pub(super) fn lag_text(member: &Member<'_>) -> String {
    match member.info.lag_entries {
        _ if !member.live => "it does not answer the leader".to_owned(),
        Some(lag) if lag > LAG_ENTRIES_MAX => format!("{} entries behind", thousands(lag)),
        Some(_) => "it keeps up".to_owned(),
        None => "the leader does not know yet how far it is".to_owned(),
    }
}

/// The first wanted slot without a well member in its role, and why. Nothing else waits for it but Ready.
pub(super) fn missing(view: &View<'_>) -> Option<(ChangeKind, Wait)> {
    view.slots().find_map(|slot| {
        let pod = view.pod(slot);
        let member = pod.and_then(|pod| view.member_in(pod));
        let in_role = member.is_some_and(|member| member.voter() == (slot.set == SetRole::Voter));
        if in_role && pod.is_some_and(|pod| pod.ready && !pod.deleting) {
            return None;
        }
        let (person, why) = match member {
            Some(member) if !in_role => (false, lag_text(member)),
            _ => why_not_up(pod),
        };
        let known = view.members_at(slot).next().is_some();
        let kind = if known { ChangeKind::Replace } else { kind_of(view, slot) };
        let blocker = if person { Blocker::Person } else { Blocker::InProgress };
        Some((kind, Wait { blocker, message: format!("waiting for {}: {why}", view.pod_name(slot)) }))
    })
}
