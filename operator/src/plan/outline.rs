//! `kvnode.dev/plan: show`: what would be done, step by step, as far as it can be told without doing it.

use super::decide::Decision;
use super::step::Step;
use super::view::{Slot, View, list};
use crate::build::{Built, labels};
use crate::crd::KeepOrDelete;
use crate::crd::status::ChangeKind;
use crate::observed::{PodSeen, SetRole};

/// The next steps in their order; empty = nothing to do.
pub(super) fn steps(view: &View<'_>, built: &Built, decision: &Decision) -> Vec<String> {
    if decision.step == Step::Settled {
        return Vec::new();
    }
    let mut lines = vec![decision.step.to_string()];
    let mut say = |line: String| {
        if !lines.contains(&line) {
            lines.push(line);
        }
    };
    if decision.stalled.is_some() {
        return lines;
    }
    if view.cluster.spec.hibernate {
        hibernate(view, &mut say);
        return lines;
    }
    if decision.kind == Some(ChangeKind::Wake) {
        say("start the pods with their data, and wait for a leader".to_owned());
    }
    if !view.formed() {
        found(view, &mut say);
        return lines;
    }
    replace(view, &mut say);
    resize(view, &mut say);
    volumes(view, &mut say);
    restarts(view, built, &mut say);
    lines
}

fn hibernate(view: &View<'_>, say: &mut impl FnMut(String)) {
    for role in [SetRole::Learner, SetRole::Voter] {
        let running = view.observed.pods.values().filter(|pod| pod.role == role).count();
        if running > 0 {
            say(format!("stop {running} {role} pods; volumes and membership are kept"));
        }
    }
}

/// From nothing to a cluster.
fn found(view: &View<'_>, say: &mut impl FnMut(String)) {
    let (voters, learners) = (view.target(SetRole::Voter), view.target(SetRole::Learner));
    say(format!("start {} pods, each with a volume of its own", voters + learners));
    if view.cluster_id.is_none() {
        say("record a new cluster id, or that of the volumes that are there".to_owned());
    }
    say(format!("found the cluster with {voters} voters, once all of them reach each other"));
    for ordinal in 0..learners {
        say(format!("add {} as a learner", view.pod_name(Slot { set: SetRole::Learner, ordinal })));
    }
}

/// Members whose data is gone.
fn replace(view: &View<'_>, say: &mut impl FnMut(String)) {
    for ghost in view.members.iter().filter(|member| member.is_ghost()) {
        let name = ghost.name(view);
        if ghost.voter() {
            say(format!("copy the data to {name}, which lost it, then swap it in by one joint change"));
        } else {
            say(format!("remove learner {}, let {name} in as a new one", ghost.id()));
        }
    }
}

fn resize(view: &View<'_>, say: &mut impl FnMut(String)) {
    for role in SetRole::ALL {
        let seen = view.observed.sets.get(&role).map_or(0, |set| set.replicas);
        let target = view.target(role);
        if target > seen && (role == SetRole::Voter || target > 0) {
            say(format!("start {} more {role} pods, let them in as learners", target - seen));
            if role == SetRole::Voter && seen > 0 {
                say(format!("make {target} voters by one joint change, once all have caught up"));
            }
        } else if target < seen {
            let going: Vec<String> =
                (target..seen).map(|ordinal| view.pod_name(Slot { set: role, ordinal })).collect();
            if view.leader.is_some_and(|(pod, _)| going.contains(&pod.name)) {
                say("hand leadership over to a member that stays".to_owned());
            }
            say(format!("take {} out of the membership, then stop {} pods", list(&going), seen - target));
            if view.cluster.spec.storage.when_scaled == KeepOrDelete::Delete {
                say(format!("delete {} volumes", seen - target));
            }
        }
    }
}

fn volumes(view: &View<'_>, say: &mut impl FnMut(String)) {
    let small =
        view.observed.volumes.values().filter(|volume| volume.request_bytes < view.cluster.storage_bytes);
    let count = small.count();
    if count > 0 {
        say(format!("grow {count} volumes to {}", view.cluster.spec.storage.size.0));
        say("make the StatefulSets anew for their volume size, pods untouched".to_owned());
    }
}

/// Pods that do not have the template of this plan, in the order of the rollout.
fn restarts(view: &View<'_>, built: &Built, say: &mut impl FnMut(String)) {
    let wanted =
        built.children.voters.metadata.annotations.as_ref().and_then(|notes| notes.get(labels::POD_TEMPLATE));
    let set = view.observed.sets.get(&SetRole::Voter);
    let template = built.children.voters.spec.as_ref().and_then(|spec| spec.template.metadata.as_ref());
    let shape = template.and_then(|meta| meta.annotations.as_ref()?.get(labels::POD_SHAPE));
    let new_template = set.is_some_and(|set| set.template_hash.as_ref() != wanted);
    let leads = |pod: &PodSeen| view.leader.is_some_and(|(leader, _)| leader.name == pod.name);
    let mut pods: Vec<&PodSeen> =
        view.observed.pods.values().filter(|pod| new_template || view.outdated(pod)).collect();
    pods.sort_by_key(|pod| (leads(pod), pod.role == SetRole::Voter, std::cmp::Reverse(pod.ordinal)));
    for pod in pods {
        if shape.is_some() && pod.annotations.get(labels::POD_SHAPE) == shape {
            say(format!("resize {} in place, or restart it if that is refused", pod.name));
            continue;
        }
        if leads(pod) && view.voters().count() > 1 {
            say(format!("hand leadership over from {}", pod.name));
        }
        say(format!("restart {} with the new revision", pod.name));
    }
}
