//! Founding: at most once, and never over data.
//!
//! ```text
//! every voter pod answers, all empty  -> write the cluster id and the volumes down -> found on the first pod
//! some node has data, id not recorded -> all have the same id: take over; else IdentityConflict
//! id recorded, a node is formed       -> formed for ever
//! id recorded, all empty              -> same volumes, never formed: found (again); else AllMembersEmpty
//! ```
//!
//! The id follows from the uid of the KvCluster, so that two operators, or one that was killed, mean the same cluster.

use std::collections::BTreeSet;

use kvnode_api::Id;
use kvnode_api::status::Phase;
use sha2::{Digest as _, Sha256};

use super::step::{Blocker, Step, Wait};
use super::view::{Slot, View, why_not_up};
use crate::build::labels;
use crate::crd::status::Formation;
use crate::observed::{PodSeen, SetRole};

/// What is wrong with the data, if something is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Identity {
    Ok,
    /// Nodes of several clusters, or of another one than recorded.
    Conflict(String),
    /// There was data and there is none.
    Empty(String),
}

/// Id of the cluster that a KvCluster founds.
pub(super) fn derived_id(uid: &str) -> Id {
    let digest = Sha256::digest(format!("kvnode cluster {uid}").as_bytes());
    let mut bytes = [0; 8];
    bytes.copy_from_slice(&digest[..8]);
    // 0 means "none" on the wire.
    Id(u64::from_le_bytes(bytes).max(1))
}

/// Cluster ids that the nodes hold.
fn ids(view: &View<'_>) -> BTreeSet<Id> {
    view.observed.pods.values().filter_map(|pod| pod.node.status()?.cluster_id).collect()
}

/// Compares what the nodes hold with what is recorded.
pub(super) fn identity(view: &View<'_>) -> Identity {
    let ids = ids(view);
    let list = |ids: &BTreeSet<Id>| ids.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    if let Some(recorded) = view.cluster_id {
        let foreign: Vec<String> = view
            .observed
            .pods
            .values()
            .filter(|pod| pod.node.status().and_then(|s| s.cluster_id).is_some_and(|id| id != recorded))
            .map(|pod| pod.name.clone())
            .collect();
        if !foreign.is_empty() {
            return Identity::Conflict(format!(
                "this is cluster {recorded}, but {} hold data of {}; nothing is touched. Move their volumes away, or \
                 delete this KvCluster and make one for the other data",
                foreign.join(", "),
                list(&ids)
            ));
        }
    } else if ids.len() > 1 {
        return Identity::Conflict(format!(
            "the volumes hold data of several clusters ({}); nothing is touched. Leave only those of one",
            list(&ids)
        ));
    }
    if let Some(why) = all_empty(view) {
        return Identity::Empty(format!(
            "{why}, and all nodes are empty; the cluster is not founded anew, which would hide the loss. If the data \
             is really gone, delete this KvCluster with its volumes and make it again, or restore a backup"
        ));
    }
    Identity::Ok
}

/// Why there should be data, if every voter answers and none has any.
fn all_empty(view: &View<'_>) -> Option<String> {
    let pods = voter_pods(view)?;
    // Also those that nobody asks for any more: they may hold the data of a lost one.
    let voters = || view.observed.pods.values().filter(|pod| pod.role == SetRole::Voter);
    if pods.is_empty() || !voters().all(is_empty) {
        return None;
    }
    if view.formed() {
        return Some("the cluster was formed".to_owned());
    }
    let marked = view.observed.volumes.values().find(|volume| volume.cluster_id.is_some());
    if let Some(volume) = marked {
        return Some(format!("volume {} held data of this cluster", volume.name));
    }
    let recorded = view.observed.recorded.formation.as_ref()?;
    // The founder's volume decides: nobody else can hold data before the founder is formed.
    let founder = founding_volumes(&pods[..1], view);
    let same = view.cluster_id.is_none() || founder.iter().all(|uid| recorded.volumes.contains(uid));
    (!same).then(|| "the founder's volume was exchanged after founding had begun".to_owned())
}

/// The pods of all wanted voters, if each answers.
fn voter_pods<'a>(view: &View<'a>) -> Option<Vec<&'a PodSeen>> {
    (0..view.target(SetRole::Voter))
        .map(|ordinal| {
            let pod = view.pod(Slot { set: SetRole::Voter, ordinal })?;
            let status = pod.node.status()?;
            (status.phase != Phase::Starting && status.node_id.is_some()).then_some(pod)
        })
        .collect()
}

fn is_empty(pod: &PodSeen) -> bool {
    pod.node.status().is_some_and(|status| status.phase == Phase::Unformed && status.cluster_id.is_none())
}

fn founding_volumes(pods: &[&PodSeen], view: &View<'_>) -> Vec<String> {
    pods.iter().filter_map(|pod| view.volume_of(&pod.name)).map(|volume| volume.uid.clone()).collect()
}

/// The step towards a formed cluster, and the record that goes with it. Only called while it was never seen formed.
pub(super) fn step(view: &View<'_>) -> (Step, Option<Formation>) {
    let wait = |blocker, message| (Step::Wait(Wait { blocker, message }), None);
    let ids = ids(view);
    if let (Some(_), Some(_)) = (view.cluster_id, ids.first()) {
        // Seen formed: the record of it is written with this pass.
        return wait(Blocker::InProgress, "the founder is formed".to_owned());
    }
    let Some(pods) = voter_pods(view) else {
        let mut slots = view.slots().filter(|slot| slot.set == SetRole::Voter);
        let missing = slots.find(|slot| {
            let status = view.pod(*slot).and_then(|pod| pod.node.status());
            !status.is_some_and(|status| status.phase != Phase::Starting && status.node_id.is_some())
        });
        let name = missing.map(|slot| view.pod_name(slot)).unwrap_or_default();
        let (person, why) = why_not_up(missing.and_then(|slot| view.pod(slot)));
        let blocker = if person { Blocker::Person } else { Blocker::InProgress };
        return wait(blocker, format!("waiting for {name}: {why}"));
    };
    if let (None, Some(id)) = (view.cluster_id, ids.first()) {
        let formation = Formation { adopted: true, ..Formation::default() };
        return (Step::RecordClusterId { id: *id, adopted: true }, Some(formation));
    }
    if view.cluster.spec.bootstrap.is_some() && view.cluster_id.is_none() {
        // It founds itself from what was fetched, under an id of its own; then it is taken over.
        let founder = &pods[0].name;
        let message = format!("waiting for {founder} to load the backup");
        return wait(Blocker::InProgress, message);
    }
    let volumes = founding_volumes(&pods, view);
    if volumes.len() < pods.len() {
        return wait(Blocker::InProgress, "waiting for the volumes of the pods to be known".to_owned());
    }
    let Some(id) = view.cluster_id else {
        let formation = Formation { volumes, ..Formation::default() };
        return (
            Step::RecordClusterId { id: derived_id(&view.cluster.uid), adopted: false },
            Some(formation),
        );
    };
    let founder = pods[0].name.clone();
    // Founded alone; the others follow as learners and become voters in one change, so that there are never two.
    let members = vec![labels::client_addr(&view.cluster.name, &view.cluster.namespace, &founder)];
    (Step::Initialize { pod: founder, cluster_id: id, members }, None)
}
