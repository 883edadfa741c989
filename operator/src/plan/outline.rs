//! `kvnode.dev/plan: show`: what would be done, step by step, as far as it can be told without doing it.

use super::decide::Decision;
use super::step::Step;
use super::view::View;
use crate::build::{Built, labels};
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
    if decision.stalled.is_some() || view.cluster.spec.hibernate {
        return lines;
    }
    resize(view, &mut say);
    volumes(view, &mut say);
    restarts(view, built, &mut say);
    lines
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
            say(format!("take {} {role}s out of the membership, then stop their pods", seen - target));
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
    let new_template = set.is_some_and(|set| set.template_hash.as_ref() != wanted);
    let leads = |pod: &PodSeen| view.leader.is_some_and(|(leader, _)| leader.name == pod.name);
    let mut pods: Vec<&PodSeen> =
        view.observed.pods.values().filter(|pod| new_template || view.outdated(pod)).collect();
    pods.sort_by_key(|pod| (leads(pod), pod.role == SetRole::Voter, std::cmp::Reverse(pod.ordinal)));
    for pod in pods {
        if leads(pod) && view.voters().count() > 1 {
            say(format!("hand leadership over from {}", pod.name));
        }
        say(format!("restart {} with the new revision", pod.name));
    }
}
