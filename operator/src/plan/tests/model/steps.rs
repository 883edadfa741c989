//! Steps, each checked against the truth; and the faults.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::ResourceRequirements;
use kvnode_api::Id;

use super::{Data, Group, Model, NAME};
use crate::build::labels;
use crate::observed::{SetRole, amounts};
use crate::plan::Step;

/// Steps, each checked against the truth.
impl Model {
    pub(super) fn act(&mut self, step: &Step) {
        let quorum = self.has_quorum();
        let single = self.voters().len() <= 1;
        self.carry_out(step);
        let sleeps = self.spec.hibernate;
        if quorum && !single && !sleeps {
            assert!(self.has_quorum(), "{step:?} cost the quorum; {:#?}", self.log);
        }
    }

    fn current(&self, if_membership: Option<&String>) -> bool {
        if_membership == Some(&format!("1-1-{}", self.group.version))
    }

    fn carry_out(&mut self, step: &Step) {
        match step {
            Step::Settled | Step::Wait(_) => unreachable!("not an act"),
            Step::RecordClusterId { .. } => {}
            Step::Initialize { pod, cluster_id, members } => self.initialize(pod, *cluster_id, members),
            Step::AddLearner { pod, addr, if_membership, .. } => {
                if self.current(if_membership.as_ref()) && self.is_up(pod) {
                    let id = self.data(pod).unwrap().node_id;
                    self.group.members.retain(|_, (old, voter)| *voter || old != addr);
                    self.group.members.insert(id, (addr.clone(), false));
                    self.group.version += 1;
                }
            }
            Step::SetVoters { voters, if_membership, .. } => self.set_voters(voters, if_membership.as_ref()),
            Step::RemoveMember { id, if_membership, .. } => {
                if self.current(if_membership.as_ref()) {
                    assert!(!self.voters().contains(id), "voters leave by a joint change only");
                    self.group.members.remove(id);
                    self.group.version += 1;
                }
            }
            Step::Transfer { to, .. } => {
                assert!(self.voters().contains(to) && self.up(*to), "the successor is a voter that is up");
                self.group.leader = Some(*to);
                self.group.term += 1;
            }
            Step::DeletePod { pod, uid, force, .. } => self.delete_pod(pod, uid, *force),
            Step::ResizePod { pod, uid, revision, resources, .. } => {
                self.resize(pod, uid, revision, resources);
            }
            Step::DeleteVolume { volume, uid, .. } => self.delete_volume(volume, uid),
            Step::Shrink { set, from, to, .. } => self.shrink(*set, *from, *to),
            Step::RecreateSet { set, uid, .. } => {
                if self.sets.get(set).is_some_and(|(seen, _)| seen.uid == *uid) {
                    self.sets.remove(set);
                }
            }
        }
    }

    fn initialize(&mut self, pod: &str, cluster_id: Id, members: &[String]) {
        assert_eq!(self.recorded.cluster_id, Some(cluster_id.to_string()), "written down before");
        assert_eq!(self.founded, 0, "founded a second time; {:#?}", self.log);
        self.founded += 1;
        let claim = labels::claim(pod);
        let data = self.volumes.get_mut(&claim).unwrap().data.as_mut().unwrap();
        assert_eq!(data.cluster_id, None, "founded over data");
        *data = Data { cluster_id: Some(cluster_id), matched: Some(1), ..data.clone() };
        let members = members.iter().map(|addr| (data.node_id, (addr.clone(), true))).collect();
        let leader = Some(data.node_id);
        self.group = Group { cluster_id: Some(cluster_id), members, version: 1, leader, term: 1, last: 1 };
    }

    fn set_voters(&mut self, voters: &BTreeSet<Id>, if_membership: Option<&String>) {
        if !self.current(if_membership) {
            return;
        }
        let old = self.voters();
        let removed: Vec<Id> = old.difference(voters).copied().collect();
        let alive = removed.iter().any(|id| self.up(*id));
        if alive {
            assert!(voters.iter().all(|id| self.up(*id)), "a voter was removed while one that stays is away");
        }
        let lost_host = removed.iter().any(|id| self.pod_of(*id).is_none_or(|pod| !self.is_up(&pod)));
        assert!(voters.len() % 2 == 1 || lost_host, "an even number of voters: {voters:?}");
        for id in voters.difference(&old) {
            let lag = self.group.last - self.pod_of(*id).and_then(|pod| self.data(&pod)?.matched).unwrap();
            assert!(lag <= 1000, "{id} became a voter {lag} entries behind");
        }
        self.group.members.retain(|id, (_, voter)| voters.contains(id) || !*voter);
        for id in voters {
            self.group.members.get_mut(id).unwrap().1 = true;
        }
        self.group.version += 1;
        if self.group.leader.is_some_and(|id| !voters.contains(&id)) {
            self.group.leader = None;
            self.raft();
        }
    }

    fn delete_pod(&mut self, name: &str, uid: &str, force: bool) {
        let Some(pod) = self.pods.get(name).filter(|pod| pod.uid == uid) else { return };
        let host = pod.host.clone();
        if force {
            assert!(!self.hosts.contains(&host), "forced on a Kubernetes node that is there");
            self.pods.remove(name);
            return;
        }
        let voters = self.voters();
        if let Some(id) =
            self.data(name).map(|data| data.node_id).filter(|id| voters.contains(id) && self.is_up(name))
        {
            let others = voters.iter().filter(|other| **other != id);
            for other in others {
                assert!(self.up(*other), "two members out by our hand; {:#?}", self.log);
            }
            assert!(
                self.group.leader != Some(id) || voters.len() == 1,
                "the leader was deleted without handing over"
            );
        }
        self.pods.get_mut(name).unwrap().deleting = true;
        self.raft();
    }

    fn resize(&mut self, name: &str, uid: &str, revision: &str, resources: &serde_json::Value) {
        let (now, refuses) = (self.now, self.no_resize);
        let Some(pod) = self.pods.get_mut(name).filter(|pod| pod.uid == uid) else { return };
        let shape = super::notes_of(&self.sets[&pod.role].0).remove(labels::POD_SHAPE);
        assert_eq!(pod.annotations.get(labels::POD_SHAPE), shape.as_ref(), "another pod, not another size");
        let note = match refuses {
            Some(why) => format!("refused {revision} {why}"),
            None => format!("asked {revision} {now}"),
        };
        pod.annotations.insert(labels::RESIZE.into(), note);
        if refuses.is_none() {
            let resources: ResourceRequirements = serde_json::from_value(resources.clone()).unwrap();
            pod.size.asked = amounts(&resources);
        }
    }

    fn delete_volume(&mut self, name: &str, uid: &str) {
        let Some(volume) = self.volumes.get_mut(name).filter(|volume| volume.seen.uid == uid) else { return };
        if let Some(data) = &volume.data {
            assert!(
                !self.group.members.contains_key(&data.node_id),
                "a member's volume was deleted; {:#?}",
                self.log
            );
        }
        volume.seen.deleting = true;
        let in_use = self.pods.contains_key(&volume.seen.pod);
        if !in_use {
            self.volumes.remove(name);
        }
    }

    fn shrink(&mut self, role: SetRole, from: i32, to: i32) {
        let Some((set, _)) = self.sets.get_mut(&role).filter(|(set, _)| set.replicas == from) else { return };
        set.replicas = to;
        if !self.spec.hibernate {
            for ordinal in to..from {
                let id = self.data(&labels::pod(NAME, role, ordinal)).map(|data| data.node_id);
                assert!(
                    id.is_none_or(|id| !self.group.members.contains_key(&id)),
                    "a member's pod was scaled away; {:#?}",
                    self.log
                );
            }
        }
    }
}

/// Faults.
impl Model {
    /// The process is away for some ticks.
    pub(in crate::plan::tests) fn crash(&mut self, pod: &str, ticks: u32) {
        if let Some(pod) = self.pods.get_mut(pod) {
            pod.down = ticks;
        }
        self.raft();
    }

    /// Somebody deletes the pod.
    pub(in crate::plan::tests) fn kill(&mut self, pod: &str) {
        if let Some(pod) = self.pods.get_mut(pod) {
            pod.deleting = true;
        }
        self.raft();
    }

    /// Pod and volume are gone, with the data.
    pub(in crate::plan::tests) fn lose_volume(&mut self, pod: &str) {
        self.pods.remove(pod);
        self.volumes.remove(&labels::claim(pod));
        self.raft();
    }
}
