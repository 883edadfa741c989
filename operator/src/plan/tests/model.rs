//! A fake Kubernetes with fake nodes: small, but with the truths that the plan must not hurt.
//!
//! Every step that is carried out is checked against the truth, not against what was observed: who is up, who is a
//! member, whose data is on which volume. A tick is a moment in which controllers and nodes get on by one stage.

mod steps;

use std::collections::{BTreeMap, BTreeSet};

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::apps::v1::StatefulSet;
use kvnode_api::Id;
use kvnode_api::status::{
    Addresses, DiskState, LeaderInfo, LogPositions, MemberInfo, Membership, NodeStatus, Phase, Role,
};

use crate::backup::duty::job::Images;
use crate::build::{Children, labels};
use crate::crd::status::KvClusterStatus;
use crate::crd::{KvCluster, KvClusterSpec};
use crate::observed::{
    HostSeen, NodeView, Observed, PodSeen, PodState, SetRole, SetSeen, SizeSeen, VolumeSeen, amounts,
};
use crate::plan::{Plan, plan};
use crate::validate::{Cluster, Operator, validate};

pub(super) const NAME: &str = "cart";
pub(super) const SPACE: &str = "shop";
/// Image that never starts.
pub(super) const BAD_IMAGE: &str = "bad";

/// What is on a volume.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Data {
    pub(super) node_id: Id,
    pub(super) cluster_id: Option<Id>,
    pub(super) matched: Option<u64>,
}

#[derive(Clone, Debug)]
pub(super) struct Volume {
    pub(super) seen: VolumeSeen,
    pub(super) data: Option<Data>,
}

#[derive(Clone, Debug)]
pub(super) struct Pod {
    pub(super) uid: String,
    pub(super) role: SetRole,
    pub(super) ordinal: i32,
    revision: String,
    image: String,
    pub(super) host: String,
    pub(super) deleting: bool,
    age: u32,
    /// Ticks until the process is back.
    pub(super) down: u32,
    created: Timestamp,
    labels: BTreeMap<String, String>,
    annotations: BTreeMap<String, String>,
    size: SizeSeen,
}

/// What the Raft group has agreed on.
#[derive(Clone, Debug, Default)]
pub(super) struct Group {
    pub(super) cluster_id: Option<Id>,
    /// Address and vote.
    pub(super) members: BTreeMap<Id, (String, bool)>,
    version: u64,
    pub(super) leader: Option<Id>,
    pub(super) term: u64,
    pub(super) last: u64,
}

pub(super) struct Model {
    pub(super) spec: KvClusterSpec,
    pub(super) operator: Operator,
    pub(super) annotations: BTreeMap<String, String>,
    pub(super) recorded: KvClusterStatus,
    generation: i64,
    sets: BTreeMap<SetRole, (SetSeen, String)>,
    pub(super) pods: BTreeMap<String, Pod>,
    pub(super) volumes: BTreeMap<String, Volume>,
    pub(super) hosts: BTreeSet<String>,
    pub(super) group: Group,
    pub(super) founded: u32,
    serial: u64,
    pub(super) now: Timestamp,
    /// Objects as they were one tick ago.
    old: Option<Box<Observed>>,
    pub(super) log: Vec<String>,
    /// Why no pod is resized in place, if so.
    pub(super) no_resize: Option<&'static str>,
}

impl Model {
    pub(super) fn new(spec: KvClusterSpec) -> Self {
        Self {
            spec,
            operator: Operator {
                image: "kvnode-server:1".into(),
                namespace: "kvnode-system".into(),
                images: Images::default(),
            },
            annotations: BTreeMap::new(),
            recorded: KvClusterStatus::default(),
            generation: 1,
            sets: BTreeMap::new(),
            pods: BTreeMap::new(),
            volumes: BTreeMap::new(),
            hosts: (0..4).map(|n| format!("host-{n}")).collect(),
            group: Group::default(),
            founded: 0,
            serial: 0,
            now: Timestamp::UNIX_EPOCH,
            old: None,
            log: Vec::new(),
            no_resize: None,
        }
    }

    fn serial(&mut self) -> u64 {
        self.serial += 1;
        self.serial
    }

    pub(super) fn edit(&mut self, change: impl FnOnce(&mut KvClusterSpec)) {
        change(&mut self.spec);
        self.generation += 1;
    }

    pub(super) fn cluster(&self) -> Cluster {
        let mut object = KvCluster::new(NAME, self.spec.clone());
        object.metadata.namespace = Some(SPACE.into());
        object.metadata.uid = Some("7d1f".into());
        object.metadata.generation = Some(self.generation);
        object.status = Some(self.recorded.clone());
        validate(&object, &self.operator).unwrap()
    }

    // ---- truth ----

    fn data(&self, pod: &str) -> Option<&Data> {
        self.volumes.get(&labels::claim(pod))?.data.as_ref()
    }

    pub(super) fn is_up(&self, pod: &str) -> bool {
        self.pods.get(pod).is_some_and(|pod| {
            pod.age >= 2
                && pod.down == 0
                && !pod.deleting
                && pod.image != BAD_IMAGE
                && self.hosts.contains(&pod.host)
        })
    }

    fn pod_of(&self, id: Id) -> Option<String> {
        let holds = |pod: &&String| self.data(pod).is_some_and(|data| data.node_id == id);
        self.pods.keys().find(holds).cloned()
    }

    pub(super) fn up(&self, id: Id) -> bool {
        self.pod_of(id).is_some_and(|pod| self.is_up(&pod))
    }

    pub(super) fn voters(&self) -> BTreeSet<Id> {
        self.group.members.iter().filter(|(_, (_, voter))| *voter).map(|(id, _)| *id).collect()
    }

    pub(super) fn has_quorum(&self) -> bool {
        let voters = self.voters();
        voters.iter().filter(|id| self.up(**id)).count() * 2 > voters.len()
    }

    // ---- time ----

    pub(super) fn tick(&mut self) {
        self.old = Some(Box::new(self.objects()));
        self.now += SignedDuration::from_secs(1);
        self.stop_pods();
        self.start_pods();
        self.raft();
    }

    fn stop_pods(&mut self) {
        let hosts = self.hosts.clone();
        self.pods.retain(|_, pod| !pod.deleting || !hosts.contains(&pod.host));
        let named: BTreeSet<String> = self.pods.keys().map(|pod| labels::claim(pod)).collect();
        self.volumes.retain(|name, volume| !volume.seen.deleting || named.contains(name));
        let sets = &self.sets;
        self.pods.retain(|_, pod| {
            // A StatefulSet that exists and is smaller takes its pods away; without one they stay.
            sets.get(&pod.role).is_none_or(|(set, _)| pod.ordinal < set.replicas)
        });
        for pod in self.pods.values_mut() {
            pod.age += 1;
            pod.down = pod.down.saturating_sub(1);
            pod.deleting |= !hosts.contains(&pod.host);
            pod.size.has.clone_from(&pod.size.asked);
        }
        for volume in self.volumes.values_mut() {
            volume.seen.capacity_bytes = Some(volume.seen.request_bytes);
        }
    }

    fn start_pods(&mut self) {
        let sets: Vec<(SetRole, SetSeen, String)> =
            self.sets.iter().map(|(role, (set, image))| (*role, set.clone(), image.clone())).collect();
        for (role, set, image) in sets {
            for ordinal in 0..set.replicas {
                let name = labels::pod(NAME, role, ordinal);
                if self.pods.contains_key(&name) {
                    continue;
                }
                let uid = format!("pod-{}", self.serial());
                let host = self
                    .hosts
                    .iter()
                    .nth(usize::try_from(ordinal).unwrap() % self.hosts.len())
                    .unwrap()
                    .clone();
                let pod = Pod {
                    uid,
                    role,
                    ordinal,
                    revision: set.update_revision.clone().unwrap(),
                    image: image.clone(),
                    host,
                    deleting: false,
                    age: 0,
                    down: 0,
                    created: self.now,
                    labels: BTreeMap::new(),
                    annotations: notes_of(&set),
                    size: size_of(&set),
                };
                self.claim(&name, set.claim_bytes.unwrap());
                self.pods.insert(name, pod);
            }
        }
        // A running server formats an empty volume.
        let empty: Vec<String> =
            self.pods.keys().filter(|pod| self.is_up(pod) && self.data(pod).is_none()).cloned().collect();
        for pod in empty {
            let node_id = Id(0x1000 + self.serial());
            if let Some(volume) = self.volumes.get_mut(&labels::claim(&pod)) {
                volume.data = Some(Data { node_id, cluster_id: None, matched: None });
            }
        }
    }

    fn claim(&mut self, pod: &str, bytes: u64) {
        let name = labels::claim(pod);
        if self.volumes.contains_key(&name) {
            return;
        }
        let uid = format!("volume-{}", self.serial());
        let seen = VolumeSeen {
            name: name.clone(),
            uid,
            pod: pod.into(),
            request_bytes: bytes,
            ..VolumeSeen::default()
        };
        self.volumes.insert(name, Volume { seen, data: None });
    }

    fn raft(&mut self) {
        if !self.has_quorum() {
            self.group.leader = None;
            return;
        }
        if self.group.leader.is_none_or(|id| !self.up(id) || !self.voters().contains(&id)) {
            let voters: Vec<Id> = self.voters().into_iter().filter(|id| self.up(*id)).collect();
            let best = voters.into_iter().max_by_key(|id| {
                self.pod_of(*id).and_then(|pod| self.data(&pod).and_then(|data| data.matched))
            });
            self.group.leader = best;
            self.group.term += 1;
        }
        self.group.last += 3000;
        let (last, cluster_id) = (self.group.last, self.group.cluster_id);
        for id in self.group.members.keys().copied().collect::<Vec<_>>() {
            if let Some(pod) = self.pod_of(id).filter(|pod| self.is_up(pod))
                && let Some(data) =
                    self.volumes.get_mut(&labels::claim(&pod)).and_then(|volume| volume.data.as_mut())
            {
                // A newcomer copies for a while.
                let matched = data.matched.unwrap_or(0);
                data.matched = Some(last.min(matched + 9000));
                data.cluster_id = cluster_id;
            }
        }
    }

    // ---- observation ----

    pub(super) fn observe(&self) -> Observed {
        let mut observed = self.objects();
        self.ask(&mut observed);
        observed
    }

    /// Objects of one tick ago, answers of now.
    pub(super) fn observe_stale(&self) -> Observed {
        let mut observed = self.old.as_deref().cloned().unwrap_or_else(|| self.objects());
        self.ask(&mut observed);
        observed
    }

    fn ask(&self, observed: &mut Observed) {
        for (name, pod) in &mut observed.pods {
            pod.node = match self.status(name) {
                Some(status) => NodeView::Answered(Box::new(status)),
                None => NodeView::Unreachable { why: "no answer within 1 s".into() },
            };
        }
    }

    fn objects(&self) -> Observed {
        let pods = self.pods.iter().map(|(name, pod)| (name.clone(), self.pod_seen(name, pod)));
        let host = |name: &String| (name.clone(), HostSeen { ready: true, ..HostSeen::default() });
        Observed {
            recorded: self.recorded.clone(),
            annotations: self.annotations.clone(),
            sets: self.sets.iter().map(|(role, (set, _))| (*role, set.clone())).collect(),
            pods: pods.collect(),
            volumes: self.volumes.iter().map(|(name, volume)| (name.clone(), volume.seen.clone())).collect(),
            hosts: Some(self.hosts.iter().map(host).collect()),
            taken: BTreeSet::new(),
            doors: None,
            tls: None,
            handover: None,
        }
    }

    fn pod_seen(&self, name: &str, pod: &Pod) -> PodSeen {
        let state = match pod.age {
            _ if pod.image == BAD_IMAGE => {
                PodState::Failing { why: "ImagePullBackOff: no such image".into() }
            }
            0 => PodState::Pending { unschedulable: None },
            1 => PodState::Starting,
            _ => PodState::Running,
        };
        let member = self.data(name).is_some_and(|data| self.group.members.contains_key(&data.node_id));
        PodSeen {
            name: name.into(),
            uid: pod.uid.clone(),
            role: pod.role,
            ordinal: pod.ordinal,
            revision: Some(pod.revision.clone()),
            state,
            ready: self.is_up(name) && member && self.group.leader.is_some(),
            unready_since: None,
            created: Some(pod.created),
            deleting: pod.deleting,
            host: Some(pod.host.clone()),
            labels: pod.labels.clone(),
            annotations: pod.annotations.clone(),
            restarts: 0,
            size: pod.size.clone(),
            node: NodeView::NotAsked,
        }
    }

    fn status(&self, pod: &str) -> Option<NodeStatus> {
        let data = self.data(pod).filter(|_| self.is_up(pod))?;
        let formed = data.cluster_id.is_some();
        let member = self.group.members.get(&data.node_id);
        let leads = self.group.leader == Some(data.node_id);
        let role = match member {
            _ if !formed => Role::Unformed,
            _ if leads => Role::Leader,
            Some((_, true)) => Role::Follower,
            _ => Role::Learner,
        };
        let members = self.group.members.iter().map(|(id, (addr, voter))| self.info(*id, addr, *voter));
        let known = formed && data.matched.is_some();
        let leader = self.group.leader.filter(|_| known);
        Some(NodeStatus {
            contract: kvnode_api::CONTRACT,
            version: "1.0.0".into(),
            node_id: Some(data.node_id),
            cluster_id: data.cluster_id,
            phase: if formed { Phase::Running } else { Phase::Unformed },
            role,
            term: self.group.term,
            leader: leader.map(|id| LeaderInfo { id, addr: String::new() }),
            last_contact_ms: leader.map(|_| 10),
            log: LogPositions { last_index: data.matched, ..LogPositions::default() },
            membership: Membership {
                log_id: known.then(|| format!("1-1-{}", self.group.version)),
                change_in_progress: false,
                members: if known { members.collect() } else { Vec::new() },
            },
            disk: DiskState::Ok,
            addresses: Addresses::default(),
            uptime_ms: 1,
            logins: None,
        })
    }

    fn info(&self, id: Id, addr: &str, voter: bool) -> MemberInfo {
        let matched = self.pod_of(id).and_then(|pod| self.data(&pod)?.matched);
        MemberInfo {
            id,
            addr: addr.into(),
            peer_addr: String::new(),
            voter,
            leader: self.group.leader == Some(id),
            matched_index: matched,
            lag_entries: Some(self.group.last - matched.unwrap_or(0).min(self.group.last)),
            last_ack_ms: self.up(id).then_some(20),
            diverged_at: None,
        }
    }

    // ---- the operator ----

    pub(super) fn planned(&self) -> Plan {
        plan(&self.cluster(), &self.observe(), self.now)
    }

    /// One pass. `killed_after`: writes that get through before the operator is killed.
    pub(super) fn pass(&mut self, stale: bool, killed_after: Option<u32>) -> Plan {
        let seen = if stale { self.observe_stale() } else { self.observe() };
        let made = plan(&self.cluster(), &seen, self.now);
        let mut left = killed_after.unwrap_or(u32::MAX);
        let mut write = || {
            let alive = left > 0;
            left = left.saturating_sub(1);
            alive
        };
        if let Some(children) = made.children.as_ref().filter(|_| write()) {
            self.apply(children);
        }
        for change in made.volumes.iter().take_while(|_| write()) {
            self.change_volume(change);
        }
        for change in made.labels.iter().take_while(|_| write()) {
            if let Some(pod) = self.pods.get_mut(&change.pod).filter(|pod| pod.uid == change.uid) {
                merge(&mut pod.labels, &change.labels);
                merge(&mut pod.annotations, &change.annotations);
            }
        }
        for change in made.live.iter().take_while(|_| write()) {
            if let Some(pod) = self.pods.get_mut(&change.pod) {
                pod.annotations.insert(labels::LIVE_CONFIG.into(), change.hash.clone());
            }
        }
        // A dangerous step is planned again on what is true now.
        let sure =
            !made.step.is_dangerous() || plan(&self.cluster(), &self.observe(), self.now).step == made.step;
        if made.step.is_act() && sure && write() {
            self.log.push(made.step.to_string());
            self.act(&made.step);
        }
        if write() {
            self.recorded = made.status.clone();
        }
        made
    }

    fn apply(&mut self, children: &Children) {
        self.apply_set(SetRole::Voter, Some(&children.voters));
        self.apply_set(SetRole::Learner, children.learners.manifest.as_ref());
    }

    fn apply_set(&mut self, role: SetRole, manifest: Option<&StatefulSet>) {
        let Some(manifest) = manifest else {
            self.sets.remove(&role);
            return;
        };
        let spec = manifest.spec.as_ref().unwrap();
        let notes = manifest.metadata.annotations.clone().unwrap_or_default();
        let old = self.sets.get(&role).map(|(set, _)| set.clone());
        let claim = &spec.volume_claim_templates.as_ref().unwrap()[0];
        let request =
            &claim.spec.as_ref().unwrap().resources.as_ref().unwrap().requests.as_ref().unwrap()["storage"];
        let bytes = crate::validate::quantity_bytes(request).unwrap();
        if let Some(old) = &old {
            assert_eq!(old.claim_bytes, Some(bytes), "a claim template cannot be changed");
            assert!(spec.replicas.unwrap() >= old.replicas, "applying never shrinks a set");
        }
        let uid = old.as_ref().map_or_else(|| format!("set-{}", self.serial()), |old| old.uid.clone());
        let image = spec.template.spec.as_ref().unwrap().containers[0].image.clone().unwrap();
        let revision = crate::build::hash(&serde_json::json!(spec.template));
        let set = SetSeen {
            name: manifest.metadata.name.clone().unwrap(),
            uid,
            replicas: spec.replicas.unwrap(),
            update_revision: Some(revision),
            template: Some(spec.template.clone()),
            pod_intent: notes.get(labels::POD_INTENT).cloned(),
            template_hash: notes.get(labels::POD_TEMPLATE).cloned(),
            claim_bytes: Some(bytes),
            deleting: false,
        };
        self.sets.insert(role, (set, image));
    }

    fn change_volume(&mut self, change: &crate::plan::VolumeChange) {
        let Some(volume) = self.volumes.get_mut(&change.name).filter(|volume| volume.seen.uid == change.uid)
        else {
            return;
        };
        for (key, value) in &change.annotations {
            match key.as_str() {
                labels::NODE_ID => volume.seen.node_id.clone_from(value),
                labels::CLUSTER_ID => volume.seen.cluster_id.clone_from(value),
                labels::RETIRED => volume.seen.retired.clone_from(value),
                other => panic!("annotation {other}"),
            }
        }
        if let Some(request) = &change.request {
            let bytes = crate::validate::quantity_bytes(
                &k8s_openapi::apimachinery::pkg::api::resource::Quantity(request.clone()),
            );
            assert!(bytes.unwrap() > volume.seen.request_bytes);
            volume.seen.request_bytes = bytes.unwrap();
        }
        volume.seen.owned = change.owned.unwrap_or(volume.seen.owned);
    }
}

fn notes_of(set: &SetSeen) -> BTreeMap<String, String> {
    let template = set.template.as_ref().and_then(|template| template.metadata.as_ref());
    let notes = template.and_then(|meta| meta.annotations.clone()).unwrap_or_default();
    notes.into_iter().filter(|(key, _)| key.starts_with("kvnode.dev/")).collect()
}

fn size_of(set: &SetSeen) -> SizeSeen {
    let spec = set.template.as_ref().and_then(|template| template.spec.as_ref());
    let resources = spec.and_then(|spec| spec.containers[0].resources.clone()).unwrap_or_default();
    SizeSeen { asked: amounts(&resources), ..SizeSeen::default() }
}

fn merge(into: &mut BTreeMap<String, String>, changes: &BTreeMap<String, Option<String>>) {
    for (key, value) in changes {
        match value {
            Some(value) => into.insert(key.clone(), value.clone()),
            None => into.remove(key),
        };
    }
}
