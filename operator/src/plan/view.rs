//! One picture of the group, put together from what the nodes said.
//!
//! The leader's word counts: it alone knows who acknowledges what. A node leads if it says so, belongs to the recorded
//! cluster and has heard a quorum just now; of two that say so the higher term wins.

use std::collections::BTreeSet;

use kvnode_api::Id;
use kvnode_api::status::{MemberInfo, NodeStatus, Phase, Role};

use super::resize;
use crate::build::labels;
use crate::observed::{Observed, PodSeen, PodState, SetRole, VolumeSeen};
use crate::validate::Cluster;

/// A quorum or a member that was heard within this many milliseconds is there.
const HEARD_MS_MAX: u64 = 2_000;
/// A member that is at most this many entries behind keeps up.
pub(super) const LAG_ENTRIES_MAX: u64 = 1_000;

/// Part of the cluster that a member or pod has by its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Slot {
    pub(super) set: SetRole,
    pub(super) ordinal: i32,
}

/// A member, with what the leader knows of it and the pod at its address.
#[derive(Clone, Copy, Debug)]
pub(super) struct Member<'a> {
    pub(super) info: &'a MemberInfo,
    /// `None` for an address that no pod of this cluster can have.
    pub(super) slot: Option<Slot>,
    pub(super) pod: Option<&'a PodSeen>,
    /// It acknowledged just now, or it leads.
    pub(super) live: bool,
}

impl Member<'_> {
    pub(super) fn id(&self) -> Id {
        self.info.id
    }

    pub(super) fn voter(&self) -> bool {
        self.info.voter
    }

    pub(super) fn lag(&self) -> u64 {
        if self.info.leader { 0 } else { self.info.lag_entries.unwrap_or(u64::MAX) }
    }

    pub(super) fn keeps_up(&self) -> bool {
        self.live && self.lag() <= LAG_ENTRIES_MAX
    }

    /// Another node answers at its address: the data of this one is gone.
    pub(super) fn is_ghost(&self) -> bool {
        let answered = self.pod.and_then(|pod| pod.node.status());
        answered.is_some_and(|status| status.node_id.is_some_and(|id| id != self.info.id))
    }

    /// Name for people: the pod, or the address.
    pub(super) fn name(&self, view: &View<'_>) -> String {
        let pod = labels::pod_of_addr(&view.cluster.name, &view.cluster.namespace, &self.info.addr);
        pod.unwrap_or(&self.info.addr).to_owned()
    }
}

/// The picture.
pub(super) struct View<'a> {
    pub(super) cluster: &'a Cluster,
    pub(super) observed: &'a Observed,
    /// Recorded id.
    pub(super) cluster_id: Option<Id>,
    /// Pod and status of the leader.
    pub(super) leader: Option<(&'a PodSeen, &'a NodeStatus)>,
    /// Members by the leader's word; without a leader by the word of the node with the newest membership.
    pub(super) members: Vec<Member<'a>>,
}

impl<'a> View<'a> {
    pub(super) fn new(cluster: &'a Cluster, observed: &'a Observed) -> Self {
        let cluster_id = observed.recorded.cluster_id.as_deref().and_then(|text| text.parse().ok());
        let answered = observed.pods.values().filter_map(|pod| Some((pod, pod.node.status()?)));
        let ours =
            answered.filter(|(_, status)| status.cluster_id.is_some() && status.cluster_id == cluster_id);
        let leads = |status: &NodeStatus| {
            status.role == Role::Leader
                && status.phase != Phase::Stopping
                && status.last_contact_ms.is_some_and(|age| age <= HEARD_MS_MAX)
        };
        let leader = ours.clone().filter(|(_, status)| leads(status)).max_by_key(|(_, status)| status.term);
        let source = leader.or_else(|| ours.max_by_key(|(_, status)| newest_membership(status)));
        let mut view = Self { cluster, observed, cluster_id, leader, members: Vec::new() };
        view.members = source
            .map(|(_, status)| status.membership.members.iter())
            .into_iter()
            .flatten()
            .map(|info| view.member(info))
            .collect();
        view
    }

    fn member(&self, info: &'a MemberInfo) -> Member<'a> {
        let name = labels::pod_of_addr(&self.cluster.name, &self.cluster.namespace, &info.addr);
        let slot = name.and_then(|name| labels::parse_pod(&self.cluster.name, name));
        let leads = self.leader.is_some_and(|(_, status)| status.node_id == Some(info.id));
        Member {
            info,
            slot: slot.map(|(set, ordinal)| Slot { set, ordinal }),
            pod: name.and_then(|name| self.observed.pods.get(name)),
            live: leads || (self.leader.is_some() && info.last_ack_ms.is_some_and(|age| age <= HEARD_MS_MAX)),
        }
    }

    pub(super) fn voters(&self) -> impl Iterator<Item = &Member<'a>> {
        self.members.iter().filter(|member| member.voter())
    }

    pub(super) fn voter_ids(&self) -> BTreeSet<Id> {
        self.voters().map(Member::id).collect()
    }

    pub(super) fn is_member(&self, id: Id) -> bool {
        self.members.iter().any(|member| member.id() == id)
    }

    /// The member that runs in a pod.
    pub(super) fn member_in(&self, pod: &PodSeen) -> Option<&Member<'a>> {
        let id = pod.node.status()?.node_id?;
        self.members.iter().find(|member| member.id() == id)
    }

    /// Members at the address of a slot: one, or a ghost and its successor.
    pub(super) fn members_at(&self, slot: Slot) -> impl Iterator<Item = &Member<'a>> {
        self.members.iter().filter(move |member| member.slot == Some(slot))
    }

    /// Whether the spec asks for a slot.
    pub(super) fn wanted(&self, slot: Slot) -> bool {
        slot.ordinal < self.target(slot.set)
    }

    /// Pods of a set that the spec asks for.
    pub(super) fn target(&self, set: SetRole) -> i32 {
        match set {
            SetRole::Voter => self.cluster.spec.replicas,
            SetRole::Learner => self.cluster.spec.learners,
        }
    }

    /// All slots that the spec asks for, voters first.
    pub(super) fn slots(&self) -> impl Iterator<Item = Slot> + use<> {
        let (voters, learners) = (self.target(SetRole::Voter), self.target(SetRole::Learner));
        let slots = |set, count| (0..count).map(move |ordinal| Slot { set, ordinal });
        slots(SetRole::Voter, voters).chain(slots(SetRole::Learner, learners))
    }

    pub(super) fn pod_name(&self, slot: Slot) -> String {
        labels::pod(&self.cluster.name, slot.set, slot.ordinal)
    }

    pub(super) fn pod(&self, slot: Slot) -> Option<&'a PodSeen> {
        self.observed.pods.get(&self.pod_name(slot))
    }

    pub(super) fn volume_of(&self, pod: &str) -> Option<&'a VolumeSeen> {
        self.observed.volumes.get(&labels::claim(pod))
    }

    /// The pod to send verbs to, and the membership to name in them.
    pub(super) fn via(&self) -> Option<(String, Option<String>)> {
        let (pod, status) = self.leader?;
        Some((pod.name.clone(), status.membership.log_id.clone()))
    }

    /// A membership change is being committed.
    pub(super) fn changing(&self) -> bool {
        self.leader.is_some_and(|(_, status)| status.membership.change_in_progress)
    }

    /// The Kubernetes node of this name does not exist any more. Never true if nodes may not be read.
    pub(super) fn host_gone(&self, name: &str) -> bool {
        self.observed.hosts.as_ref().is_some_and(|hosts| !hosts.contains_key(name))
    }

    /// A pod whose Kubernetes node is gone, or is vouched to be off.
    pub(super) fn on_lost_host(&self, pod: &PodSeen) -> bool {
        let Some(name) = &pod.host else { return false };
        let off = |hosts: &std::collections::BTreeMap<String, crate::observed::HostSeen>| {
            hosts.get(name).is_some_and(|host| host.out_of_service)
        };
        self.host_gone(name) || self.observed.hosts.as_ref().is_some_and(off)
    }

    /// The cluster was seen formed at some time.
    pub(super) fn formed(&self) -> bool {
        self.observed.recorded.formation.as_ref().is_some_and(|formation| formation.formed_at.is_some())
    }

    /// Pods of a revision other than the newest one. Unknown while the StatefulSet has not said which that is.
    pub(super) fn outdated(&self, pod: &PodSeen) -> bool {
        let set = self.observed.sets.get(&pod.role);
        let newest = set.and_then(|set| set.update_revision.as_ref());
        newest.is_some() && resize::revision(pod) != newest.map(String::as_str)
    }

    /// The newest revision of the voters.
    pub(super) fn revision(&self) -> Option<&'a str> {
        self.observed.sets.get(&SetRole::Voter)?.update_revision.as_deref()
    }
}

/// Order of memberships by term and index of their log id.
fn newest_membership(status: &NodeStatus) -> (u64, u64) {
    let mut parts = status.membership.log_id.as_deref().unwrap_or_default().split('-');
    let term = parts.next().and_then(|text| text.parse().ok()).unwrap_or(0);
    let index = parts.nth(1).and_then(|text| text.parse().ok()).unwrap_or(0);
    (term, index)
}

/// What keeps a pod that is asked for from being a member, as a sentence without the pod's name.
pub(super) fn why_not_up(pod: Option<&PodSeen>) -> (bool, String) {
    let Some(pod) = pod else { return (false, "the pod does not exist yet".to_owned()) };
    if pod.deleting {
        return (false, "the pod is stopping".to_owned());
    }
    match &pod.state {
        PodState::Pending { unschedulable: Some(why) } => {
            (true, format!("the pod cannot be scheduled: {why}"))
        }
        PodState::Pending { unschedulable: None } => (false, "the pod is not scheduled yet".to_owned()),
        PodState::Starting => (false, "the pod is starting".to_owned()),
        PodState::Failing { why } => (true, format!("the pod does not start: {why}")),
        PodState::Ended => (false, "the pod has ended".to_owned()),
        PodState::Running => match &pod.node {
            crate::observed::NodeView::Answered(status) => (false, phase_text(status)),
            crate::observed::NodeView::Unreachable { why } => {
                (false, format!("the node does not answer: {why}"))
            }
            crate::observed::NodeView::NotAsked => (false, "the pod has no address yet".to_owned()),
        },
    }
}

fn phase_text(status: &NodeStatus) -> String {
    match status.phase {
        Phase::Starting => "the node opens its files".to_owned(),
        Phase::Unformed => "the node waits to be let in".to_owned(),
        Phase::Recovering => {
            format!(
                "the node applies its log again, {} entries to go",
                thousands(status.log.apply_lag_entries)
            )
        }
        Phase::Running => "the node is not ready yet".to_owned(),
        Phase::Stopping => "the node is stopping".to_owned(),
    }
}

/// 12331 as 12,331.
pub(super) fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// "a", "a and b", "a, b and c".
pub(super) fn list(names: &[String]) -> String {
    match names {
        [] => String::new(),
        [one] => one.clone(),
        [rest @ .., last] => format!("{} and {last}", rest.join(", ")),
    }
}
