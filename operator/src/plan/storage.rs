//! Volumes: what is on them, growth, and when one may go.
//!
//! A volume is deleted only when a leader with a quorum says that the node whose data it holds is no member. Which node
//! that is stands on the volume itself, written when the node was first seen on it.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use kvnode_api::Id;

use super::VolumeChange;
use super::membership::is_stray;
use super::step::{Blocker, Step, Wait};
use super::view::{Slot, View};
use crate::build::labels;
use crate::crd::KeepOrDelete;
use crate::observed::{PodSeen, PodState, SetRole, VolumeSeen};

/// Time after which a pod that hangs on a volume which was deleted under it is made anew (kubernetes #89910).
const HANGS_AFTER: SignedDuration = SignedDuration::from_secs(30);

/// Changes of volumes that are not deletions.
pub(super) fn changes(view: &View<'_>) -> Vec<VolumeChange> {
    let volumes = view.observed.volumes.values().filter(|volume| !volume.deleting);
    volumes.filter_map(|volume| change(view, volume)).collect()
}

fn change(view: &View<'_>, volume: &VolumeSeen) -> Option<VolumeChange> {
    let mut annotations: BTreeMap<String, Option<String>> = BTreeMap::new();
    let mut set = |key: &str, old: &Option<String>, new: Option<String>| {
        if *old != new {
            annotations.insert(key.to_owned(), new);
        }
    };
    let status =
        view.observed.pods.get(&volume.pod).filter(|pod| !pod.deleting).and_then(|pod| pod.node.status());
    let ours = status.filter(|status| status.cluster_id.is_some() && status.cluster_id == view.cluster_id);
    let mut node_id = volume.node_id.clone();
    if let Some(status) = ours {
        node_id = status.node_id.map(|id| id.to_string());
        set(labels::NODE_ID, &volume.node_id, node_id.clone());
        set(labels::CLUSTER_ID, &volume.cluster_id, status.cluster_id.map(|id| id.to_string()));
    }
    if view.leader.is_some() {
        set(labels::RETIRED, &volume.retired, node_id.filter(|id| is_removed(view, id)));
    }
    let request = grows(view, volume).then(|| view.cluster.spec.storage.size.0.clone());
    let goes = view.cluster.spec.storage.when_deleted == KeepOrDelete::Delete;
    let owned = (volume.owned != goes).then_some(goes);
    let nothing = annotations.is_empty() && request.is_none() && owned.is_none();
    (!nothing).then(|| VolumeChange {
        name: volume.name.clone(),
        uid: volume.uid.clone(),
        annotations,
        request,
        owned,
    })
}

fn is_removed(view: &View<'_>, node_id: &str) -> bool {
    node_id.parse::<Id>().is_ok_and(|id| !view.is_member(id))
}

fn grows(view: &View<'_>, volume: &VolumeSeen) -> bool {
    volume.request_bytes < view.cluster.storage_bytes && volume.expandable != Some(false)
}

/// A volume that may be deleted: its node is known, and no member.
fn disposable(view: &View<'_>, volume: &VolumeSeen) -> bool {
    let removed = volume.node_id.as_deref().is_some_and(|id| is_removed(view, id));
    view.leader.is_some() && !view.changing() && removed && !volume.deleting
}

fn delete(volume: &VolumeSeen, why: String) -> Step {
    Step::DeleteVolume {
        volume: volume.name.clone(),
        uid: volume.uid.clone(),
        node_id: volume.node_id.clone(),
        why,
    }
}

/// Ordinal and set of the pod that a volume belongs to.
pub(super) fn slot(view: &View<'_>, volume: &VolumeSeen) -> Option<Slot> {
    let (set, ordinal) = labels::parse_pod(&view.cluster.name, &volume.pod)?;
    Some(Slot { set, ordinal })
}

/// A deletion that is due: old data in a place that is wanted, or volumes of removed members.
pub(super) fn clean_up(view: &View<'_>) -> Option<Step> {
    stray(view).or_else(|| in_the_way(view)).or_else(|| left_over(view))
}

/// The volume, then the pod, of a node that was removed but stands in a wanted place.
fn stray(view: &View<'_>) -> Option<Step> {
    view.slots().find_map(|slot| {
        let pod = view.pod(slot).filter(|pod| !pod.deleting && is_stray(view, pod))?;
        let volume = view.volume_of(&pod.name)?;
        if disposable(view, volume) {
            let why = "it holds data of a member that was removed; a new member starts empty".to_owned();
            return Some(delete(volume, why));
        }
        let why = "its volume is being deleted".to_owned();
        volume.deleting.then(|| Step::DeletePod {
            pod: pod.name.clone(),
            uid: pod.uid.clone(),
            force: false,
            why,
        })
    })
}

/// A retired volume where a new pod is wanted, or one on a Kubernetes node that is gone.
fn in_the_way(view: &View<'_>) -> Option<Step> {
    view.slots().find_map(|slot| {
        let pod = view.pod(slot);
        let volume = view.volume_of(&view.pod_name(slot))?;
        let unusable = volume.bound_to_host.as_deref().is_some_and(|host| view.host_gone(host));
        if disposable(view, volume) && (pod.is_none() || unusable) {
            let why = if unusable {
                "it is on a Kubernetes node that is gone, and its member was removed"
            } else {
                "it holds data of a member that was removed; a new member starts empty"
            };
            return Some(delete(volume, why.to_owned()));
        }
        // The claim goes only after the pod that names it.
        let pod = pod.filter(|pod| volume.deleting && !pod.deleting && pod.node.status().is_none())?;
        let why = "its volume is being deleted".to_owned();
        Some(Step::DeletePod { pod: pod.name.clone(), uid: pod.uid.clone(), force: false, why })
    })
}

/// With `whenScaled: Delete`, volumes of removed members whose pods are gone.
fn left_over(view: &View<'_>) -> Option<Step> {
    if view.cluster.spec.storage.when_scaled == KeepOrDelete::Retain {
        return None;
    }
    let mut volumes = view.observed.volumes.values();
    let volume = volumes.find(|volume| {
        let unwanted = slot(view, volume).is_some_and(|slot| !view.wanted(slot));
        unwanted && !view.observed.pods.contains_key(&volume.pod) && disposable(view, volume)
    })?;
    Some(delete(volume, "its member was removed by scaling down (storage.whenScaled: Delete)".to_owned()))
}

/// How many pods a set may have, at least `from`: up to the first place where a new pod would mount an old volume.
pub(super) fn room(view: &View<'_>, set: SetRole, from: i32) -> i32 {
    let old = |ordinal: &i32| {
        let pod = view.pod_name(Slot { set, ordinal: *ordinal });
        let volume = view.volume_of(&pod).filter(|_| view.formed());
        volume.is_some_and(|volume| {
            let removed = volume.node_id.as_deref().is_some_and(|id| is_removed(view, id));
            volume.deleting || volume.retired.is_some() || (view.leader.is_some() && removed)
        })
    };
    let target = view.target(set);
    (from..target).find(old).unwrap_or_else(|| target.max(from))
}

/// Pods that Kubernetes cannot bring back by itself.
pub(super) fn stuck_pod(view: &View<'_>, now: Timestamp) -> Option<Step> {
    view.observed.pods.values().find_map(|pod| lost_host(view, pod).or_else(|| hangs(view, pod, now)))
}

/// On a Kubernetes node that is gone or vouched to be off: nobody will confirm the deletion.
fn lost_host(view: &View<'_>, pod: &PodSeen) -> Option<Step> {
    let host = pod.host.as_ref().filter(|_| view.on_lost_host(pod) && pod.node.status().is_none())?;
    let slot = Slot { set: pod.role, ordinal: pod.ordinal };
    if view.members_at(slot).any(|member| member.live) {
        return None;
    }
    let why = format!("node {host} is gone or out of service");
    Some(Step::DeletePod { pod: pod.name.clone(), uid: pod.uid.clone(), force: true, why })
}

fn hangs(view: &View<'_>, pod: &PodSeen, now: Timestamp) -> Option<Step> {
    let old = pod.created.is_some_and(|created| now.duration_since(created) >= HANGS_AFTER);
    let pending = matches!(pod.state, PodState::Pending { .. });
    let orphan = view.volume_of(&pod.name).is_none_or(|volume| volume.deleting);
    (old && pending && orphan && !pod.deleting).then(|| Step::DeletePod {
        pod: pod.name.clone(),
        uid: pod.uid.clone(),
        force: false,
        why: "it waits for a volume that was deleted under it".to_owned(),
    })
}

/// A StatefulSet whose claim template has the old size, once every volume has asked for the new one.
pub(super) fn recreate(view: &View<'_>) -> Option<Step> {
    SetRole::ALL.into_iter().find_map(|role| {
        let set = view.observed.sets.get(&role).filter(|set| !set.deleting)?;
        let differs = set.claim_bytes.is_some_and(|bytes| bytes != view.cluster.storage_bytes);
        let of_set = |volume: &&VolumeSeen| slot(view, volume).is_some_and(|slot| slot.set == role);
        let asked = view.observed.volumes.values().filter(of_set).all(|volume| !grows(view, volume));
        (differs && asked).then(|| Step::RecreateSet {
            set: role,
            name: set.name.clone(),
            uid: set.uid.clone(),
        })
    })
}

/// A volume whose growth does not get on.
pub(super) fn growing(view: &View<'_>) -> Option<Wait> {
    let want = view.cluster.storage_bytes;
    let mut small =
        view.observed.volumes.values().filter(|volume| !volume.deleting && volume.retired.is_none());
    let volume = small.find(|volume| volume.capacity_bytes.is_some_and(|bytes| bytes < want))?;
    if volume.expandable == Some(false) {
        let message = format!(
            "volume {} cannot grow: its storage class does not allow it; set allowVolumeExpansion in the class, or move \
             to a new cluster",
            volume.name
        );
        return Some(Wait { blocker: Blocker::Person, message });
    }
    if let Some(error) = &volume.resize_error {
        return Some(Wait {
            blocker: Blocker::Person,
            message: format!("volume {} does not grow: {error}", volume.name),
        });
    }
    Some(Wait { blocker: Blocker::InProgress, message: format!("volume {} is growing", volume.name) })
}
