//! From what is wanted and what is seen to what is done: children, at most one dangerous step, status. Pure.
//!
//! ```text
//! Cluster + Observed + now
//!    |  view.rs        one picture of the group: who leads, who is a member, who answers
//!    |  formation.rs   found once, adopt, never found again
//!    |  membership.rs  join, promote, remove, replace
//!    |  rollout.rs     new revisions, followers first, the leader last
//!    |  resize.rs      of these, other sizes of the server without a restart
//!    |  storage.rs     grow, retire, give up
//!    |  decide.rs      the order of all these; the one step
//!    |  exposure.rs    labels behind the leader and read Services
//!    |  conditions.rs, tls.rs, status.rs, events.rs, outline.rs   what users read
//!    v
//! Plan { children, volumes, labels, live, step, status, events, requeue }
//! ```
//!
//! What `apply` does with a plan, in this order: children, volumes, labels, live settings (all idempotent, none of them
//! takes a member out), then the step. **Before a step that [`Step::is_dangerous`], it observes once more with reads
//! that are not cached, plans again, and acts only if the same step comes out.** A step that fails is not repeated
//! within the pass; the next pass observes anew.
//!
//! Invariants (each is a property test)
//! - At most one member is out by our hand at any time, and none unless the rest have a quorum.
//! - The membership never rests at an even number of voters.
//! - A cluster is founded at most once; one that had data is never founded again.
//! - A volume is deleted only if the node whose data it holds is no member.
//! - The same plan comes out of the same input; a settled cluster gives no step.

mod conditions;
mod decide;
mod events;
pub mod exposure;
mod formation;
mod membership;
mod outline;
mod resize;
mod rollout;
mod status;
mod step;
mod storage;
mod tls;
mod view;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::time::Duration;

pub use self::conditions::is_refused;
pub use self::status::hindered;
pub use self::step::{Blocker, Step, Wait};
use jiff::Timestamp;
use kvnode_api::status::Phase as NodePhase;

use self::decide::decide;
use self::view::View;
use crate::build::{Children, build, config_map, labels};
use crate::crd::KvCluster;
use crate::crd::reason::EventReason;
use crate::crd::status::KvClusterStatus;
use crate::observed::Observed;
use crate::validate::{Cluster, Invalid};

/// Everything that one pass does and says.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// Objects to apply; `None` = leave all as they are (paused, plan only, or a name is taken).
    pub children: Option<Box<Children>>,
    /// Changes of volumes: size, records, ownership. Never a deletion.
    pub volumes: Vec<VolumeChange>,
    /// Labels and records of pods that differ from what they should be, in the order to write them: the new leader first.
    pub labels: Vec<LabelChange>,
    /// Settings to apply to running nodes.
    pub live: Vec<LiveChange>,
    /// The one step.
    pub step: Step,
    /// The status to write, complete. Equal to the recorded one if nothing changed: then nothing is written.
    pub status: KvClusterStatus,
    /// What changed since the recorded status. Events of the step itself come from [`Step::event`], once it is done.
    pub events: Vec<Note>,
    /// When to look again at the latest.
    pub requeue: Duration,
}

/// A change of one PersistentVolumeClaim. Idempotent; written with the uid as precondition.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VolumeChange {
    /// Name.
    pub name: String,
    /// Uid.
    pub uid: String,
    /// Annotations to set; `None` removes one.
    pub annotations: BTreeMap<String, Option<String>>,
    /// New `spec.resources.requests.storage`.
    pub request: Option<String>,
    /// Set (true) or remove (false) the ownerReference to the KvCluster.
    pub owned: Option<bool>,
}

/// Labels and annotations of one pod. Idempotent; written with the uid as precondition.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LabelChange {
    /// Pod.
    pub pod: String,
    /// Its uid.
    pub uid: String,
    /// Labels to set; `None` removes one.
    pub labels: BTreeMap<String, Option<String>>,
    /// Annotations to set; `None` removes one.
    pub annotations: BTreeMap<String, Option<String>>,
}

/// Settings to apply to one running node: `PUT /v1/log-filter`, then the annotation
/// [`crate::build::labels::LIVE_CONFIG`] of the pod is set to `hash`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LiveChange {
    /// Pod.
    pub pod: String,
    /// Its uid.
    pub uid: String,
    /// The log filter, [`kvnode_api::LogFilter`].
    pub log_filter: String,
    /// Value of the annotation afterwards.
    pub hash: String,
}

/// An Event to publish.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    /// From the closed list.
    pub reason: EventReason,
    /// Type Warning instead of Normal. Every warning says what to do.
    pub warning: bool,
    /// One or two sentences.
    pub message: String,
}

/// Plans one pass.
#[must_use]
pub fn plan(cluster: &Cluster, observed: &Observed, now: Timestamp) -> Plan {
    let view = View::new(cluster, observed);
    let built = build(cluster, &observed.sets, decide::sizes(&view));
    let mut decision = decide(&view, &built, now);
    let only_shown = observed.annotations.get(labels::PLAN).map(String::as_str) == Some("show");
    let held = cluster.spec.paused || only_shown;
    let outline = if only_shown { outline::steps(&view, &built, &decision) } else { Vec::new() };
    if held && decision.step != Step::Settled {
        decision.hold(if cluster.spec.paused { "paused" } else { "plan only" });
    }
    let mut status = status::status(&view, &built, &decision, now);
    status.plan = outline;
    let events = events::since(&observed.recorded, &status, observed);
    let untouched = held || !observed.taken.is_empty();
    let requeue = pace(&decision.step);
    Plan {
        children: (!untouched).then(|| Box::new(built.children)),
        volumes: if untouched { Vec::new() } else { storage::changes(&view) },
        labels: changes_of_pods(&view, untouched),
        live: if untouched { Vec::new() } else { live(cluster, observed) },
        step: decision.step,
        status,
        events,
        requeue,
    }
}

/// Labels always; records of what was done to pods only where something may be done.
fn changes_of_pods(view: &View<'_>, untouched: bool) -> Vec<LabelChange> {
    let mut changes = exposure::labels(view.cluster, view.observed);
    if !untouched {
        changes.extend(resize::done(view));
    }
    changes
}

/// The plan for a spec that is wrong: nothing is touched, the status lists the faults.
#[must_use]
pub fn invalid(object: &KvCluster, observed: &Observed, faults: &Invalid, now: Timestamp) -> Plan {
    let generation = object.metadata.generation.unwrap_or_default();
    let status = status::invalid(&observed.recorded, generation, &faults.faults, now);
    let events = events::since(&observed.recorded, &status, &Observed::default());
    let message = "the spec is wrong".to_owned();
    Plan {
        children: None,
        volumes: Vec::new(),
        labels: Vec::new(),
        live: Vec::new(),
        step: Step::Wait(Wait { blocker: Blocker::Person, message }),
        status,
        events,
        requeue: PACE_STEADY,
    }
}

const PACE_STEADY: Duration = Duration::from_secs(15);
const PACE_GATE: Duration = Duration::from_secs(2);
const PACE_PROGRESS: Duration = Duration::from_secs(1);

/// When to look again. Changes of objects and of leaders come through watches, earlier.
fn pace(step: &Step) -> Duration {
    match step {
        Step::Settled => PACE_STEADY,
        Step::Wait(wait) => match wait.blocker {
            Blocker::InProgress => PACE_PROGRESS,
            Blocker::Gate | Blocker::NoQuorum => PACE_GATE,
            Blocker::Person | Blocker::Identity | Blocker::Paused => PACE_STEADY,
        },
        _ => Duration::ZERO,
    }
}

/// Running nodes that do not have the live settings yet.
fn live(cluster: &Cluster, observed: &Observed) -> Vec<LiveChange> {
    let (log_filter, hash) = config_map::live(cluster);
    let runs = |phase| matches!(phase, NodePhase::Running | NodePhase::Recovering | NodePhase::Unformed);
    let pods = observed.pods.values().filter(|pod| {
        let old = pod.annotations.get(labels::LIVE_CONFIG) != Some(&hash);
        old && !pod.deleting && pod.node.status().is_some_and(|status| runs(status.phase))
    });
    pods.map(|pod| LiveChange {
        pod: pod.name.clone(),
        uid: pod.uid.clone(),
        log_filter: log_filter.clone(),
        hash: hash.clone(),
    })
    .collect()
}
