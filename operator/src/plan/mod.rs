//! From what is wanted and what is seen to what is done: children, at most one dangerous step, status. Pure.
//!
//! ```text
//! Cluster + Observed + now
//!    |  view.rs        one picture of the group: who leads, who is a member, who answers
//!    |  formation.rs   found once, adopt, never found again
//!    |  membership.rs  join, promote, remove, replace
//!    |  rollout.rs     new revisions, followers first, the leader last
//!    |  storage.rs     grow, retire, give up
//!    |  exposure.rs    labels behind the leader and read Services
//!    |  conditions.rs, status.rs, events.rs   what users read
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

mod step;

use std::collections::BTreeMap;
use std::time::Duration;

pub use step::{Blocker, Step, Wait};

use jiff::Timestamp;

use crate::build::Children;
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
    /// Labels of pods that differ from what they should be, in the order to write them: the new leader first.
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
    let _ = (cluster, now);
    idle(observed)
}

/// The plan for a spec that is wrong: nothing is touched, the status lists the faults.
#[must_use]
pub fn invalid(object: &KvCluster, observed: &Observed, faults: &Invalid, now: Timestamp) -> Plan {
    let _ = (object, faults, now);
    idle(observed)
}

fn idle(observed: &Observed) -> Plan {
    Plan {
        children: None,
        volumes: Vec::new(),
        labels: Vec::new(),
        live: Vec::new(),
        step: Step::Settled,
        status: observed.recorded.clone(),
        events: Vec::new(),
        requeue: Duration::from_secs(15),
    }
}
