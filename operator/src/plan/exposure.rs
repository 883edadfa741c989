//! Labels of the pods behind `<name>-leader` and `<name>-read`: a speed-up, never a truth.
//!
//! Any node serves any command, so a label that is late costs a forwarding hop and nothing else. A decision is marked
//! with the term that it was made by; an older term never overwrites a newer one, so two operators, or a slow watch,
//! cannot fight.

use std::collections::BTreeMap;

use kvnode_api::Id;

use super::LabelChange;
use super::view::View;
use crate::build::labels::{LEADER, READ, ROLE, TERM, TRUE};
use crate::observed::{Observed, PodSeen};
use crate::validate::Cluster;

/// Who leads, as far as is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Leading<'a> {
    /// The cluster.
    pub cluster_id: Id,
    /// The term.
    pub term: u64,
    /// The leader's pod.
    pub pod: &'a str,
}

/// Labels that differ from what a pass saw. Nothing is moved without a leader, but a leader that is known to be none
/// any more loses the label.
#[must_use]
pub fn labels(cluster: &Cluster, observed: &Observed) -> Vec<LabelChange> {
    let view = View::new(cluster, observed);
    let leading = view.leader.zip(view.cluster_id).map(|((pod, status), cluster_id)| Leading {
        cluster_id,
        term: status.term,
        pod: &pod.name,
    });
    let role = |pod: &PodSeen| match view.member_in(pod) {
        Some(member) if member.voter() => Part::Follower,
        Some(_) => Part::Learner,
        None if pod.node.status().is_some() => Part::None,
        None => Part::Unknown,
    };
    match leading {
        Some(leading) => decide(&observed.pods, leading, role),
        None => drop_silent(observed),
    }
}

/// The same at once, on the word of a watch stream: only the two pods of the change, parts of the others unchanged.
#[must_use]
pub fn on_change(pods: &BTreeMap<String, PodSeen>, leading: Leading<'_>) -> Vec<LabelChange> {
    decide(pods, leading, |pod| match pod.labels.get(ROLE).map(String::as_str) {
        Some("leader" | "follower") => Part::Follower,
        Some("learner") => Part::Learner,
        _ => Part::Unknown,
    })
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Part {
    Follower,
    Learner,
    None,
    /// Nothing was heard: the labels stay, except that it does not lead.
    Unknown,
}

fn decide(
    pods: &BTreeMap<String, PodSeen>,
    leading: Leading<'_>,
    part: impl Fn(&PodSeen) -> Part,
) -> Vec<LabelChange> {
    let newer = pods.values().filter_map(|pod| term_of(pod, leading.cluster_id)).max();
    if newer.is_some_and(|term| term > leading.term) {
        return Vec::new();
    }
    let reads =
        |pod: &PodSeen| pod.name != leading.pod && matches!(part(pod), Part::Follower | Part::Learner);
    let alone = !pods.values().any(reads);
    let mark = format!("{}/{}", leading.cluster_id, leading.term);
    let mut changes: Vec<LabelChange> = pods
        .values()
        .filter_map(|pod| {
            let leads = pod.name == leading.pod;
            let role = match part(pod) {
                _ if leads => Some("leader"),
                Part::Follower => Some("follower"),
                Part::Learner => Some("learner"),
                Part::None => None,
                Part::Unknown => pod.labels.get(ROLE).map(String::as_str).filter(|role| *role != "leader"),
            };
            let read = reads(pod) || (leads && alone);
            change(pod, role, leads, read, &mark)
        })
        .collect();
    // The new leader first: the Service is never empty longer than it must be.
    changes.sort_by_key(|change| change.pod != leading.pod);
    changes
}

fn term_of(pod: &PodSeen, cluster_id: Id) -> Option<u64> {
    let (id, term) = pod.annotations.get(TERM)?.split_once('/')?;
    (id == cluster_id.to_string()).then(|| term.parse().ok())?
}

fn change(pod: &PodSeen, role: Option<&str>, leads: bool, read: bool, mark: &str) -> Option<LabelChange> {
    let wanted = [
        (ROLE, role.map(str::to_owned)),
        (LEADER, leads.then(|| TRUE.to_owned())),
        (READ, read.then(|| TRUE.to_owned())),
    ];
    let differs = wanted.into_iter().filter(|(key, value)| pod.labels.get(*key) != value.as_ref());
    let labels: BTreeMap<String, Option<String>> =
        differs.map(|(key, value)| (key.to_owned(), value)).collect();
    // The term is noted where the decision is seen; one that changed nothing needs no note.
    let note = leads && pod.annotations.get(TERM).map(String::as_str) != Some(mark);
    if labels.is_empty() && !note {
        return None;
    }
    let annotations = [(TERM.to_owned(), Some(mark.to_owned()))].into();
    Some(LabelChange { pod: pod.name.clone(), uid: pod.uid.clone(), labels, annotations })
}

/// Without a known leader: a pod that is labelled as the leader, but does not answer or says that it is none.
fn drop_silent(observed: &Observed) -> Vec<LabelChange> {
    let labelled = observed.pods.values().filter(|pod| pod.labels.contains_key(LEADER));
    let silent = labelled
        .filter(|pod| pod.node.status().is_none_or(|status| status.role != kvnode_api::status::Role::Leader));
    silent
        .map(|pod| LabelChange {
            pod: pod.name.clone(),
            uid: pod.uid.clone(),
            labels: [(LEADER.to_owned(), None)].into(),
            annotations: BTreeMap::new(),
        })
        .collect()
}
