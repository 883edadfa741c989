//! The order of all rules: which one step comes next.
//!
//! ```text
//! a name is taken | data is not what it should be   -> stop
//! hibernate                                         -> no pods
//! pods on lost hosts, dead pods of an old revision  -> away with them (takes nobody out)
//! never formed                                      -> formation
//! no leader                                         -> wait; nothing is removed, nothing is deleted
//! membership -> fewer pods -> old volumes -> claim template -> rollout -> wait for the rest -> settled
//! ```

use jiff::Timestamp;

use super::formation::{self, Identity};
use super::step::{Blocker, Step, Wait};
use super::view::{View, list};
use super::{membership, rollout, storage};
use crate::build::{Built, Sizes, labels};
use crate::crd::reason::Reason;
use crate::crd::status::{ChangeKind, Formation, Phase};
use crate::observed::SetRole;

/// What was decided.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Decision {
    /// The one step.
    pub(super) step: Step,
    /// The change that it belongs to.
    pub(super) kind: Option<ChangeKind>,
    /// What the data is.
    pub(super) identity: Identity,
    /// A new write-ahead record.
    pub(super) formation: Option<Formation>,
    /// Only a person can get it on: reason and text.
    pub(super) stalled: Option<(Reason, String)>,
    /// Nothing is done, on purpose.
    pub(super) held: Option<&'static str>,
}

impl Decision {
    fn new(kind: Option<ChangeKind>, step: Step) -> Self {
        Self { step, kind, identity: Identity::Ok, formation: None, stalled: None, held: None }
    }

    fn wait(kind: Option<ChangeKind>, wait: Wait) -> Self {
        Self::new(kind, Step::Wait(wait))
    }

    /// Does nothing, and says what would be done.
    pub(super) fn hold(&mut self, why: &'static str) {
        let message = format!("{why}; next would be: {}", self.step);
        self.step = Step::Wait(Wait { blocker: Blocker::Paused, message });
        self.held = Some(why);
        self.formation = None;
    }
}

/// Decides.
pub(super) fn decide(view: &View<'_>, built: &Built, now: Timestamp) -> Decision {
    if let Some(stop) = refused(view) {
        return stop;
    }
    if view.cluster.spec.hibernate {
        return hibernate(view);
    }
    let waking = is_waking(view);
    let kind = |kind| Some(if waking { ChangeKind::Wake } else { kind });
    if let Some(step) = storage::stuck_pod(view, now) {
        return Decision::new(kind(ChangeKind::Replace), step);
    }
    if let Some(step) = rollout::broken(view) {
        return Decision::new(kind(ChangeKind::Rollout), step);
    }
    if !view.formed() {
        return form(view);
    }
    if view.leader.is_none() {
        let kind = waking.then_some(ChangeKind::Wake).or(recorded_kind(view));
        return Decision::wait(kind, no_leader(view, waking));
    }
    if let Some((found, step)) = membership::step(view) {
        return Decision::new(kind(found), step);
    }
    if let Some(step) = shrink(view) {
        return Decision::new(Some(ChangeKind::Scale), step);
    }
    if let Some(step) = storage::clean_up(view) {
        return Decision::new(kind(ChangeKind::Replace), step);
    }
    if let Some(step) = storage::recreate(view) {
        return Decision::new(Some(ChangeKind::GrowVolumes), step);
    }
    rest(view, built, waking, now)
}

/// What is left when the membership is as asked for: revisions, pods that come up, volumes that grow.
fn rest(view: &View<'_>, built: &Built, waking: bool, now: Timestamp) -> Decision {
    let kind = |kind| Some(if waking { ChangeKind::Wake } else { kind });
    if let Some(name) = unapplied(view, built) {
        let message = format!("StatefulSet {name} gets a new revision");
        return Decision::wait(kind(ChangeKind::Rollout), Wait { blocker: Blocker::InProgress, message });
    }
    let stalled = rollout::stalled(view).map(|wait| (Reason::RolloutStalled, wait.message));
    if let Some(step) = rollout::step(view, now) {
        return Decision { stalled, ..Decision::new(kind(ChangeKind::Rollout), step) };
    }
    if let Some((found, wait)) = membership::missing(view) {
        let found = match recorded_kind(view) {
            Some(recorded @ (ChangeKind::Rollout | ChangeKind::Create | ChangeKind::Scale)) => recorded,
            _ => found,
        };
        return Decision { stalled, ..Decision::wait(kind(found), wait) };
    }
    if let Some(wait) = storage::growing(view) {
        return Decision::wait(Some(ChangeKind::GrowVolumes), wait);
    }
    if let Some(name) = surplus_pods(view) {
        let message = format!("waiting for {name} to go");
        return Decision::wait(Some(ChangeKind::Scale), Wait { blocker: Blocker::InProgress, message });
    }
    Decision::new(None, Step::Settled)
}

fn recorded_kind(view: &View<'_>) -> Option<ChangeKind> {
    view.observed.recorded.change.as_ref().map(|change| change.kind)
}

/// States in which nothing at all may be done.
fn refused(view: &View<'_>) -> Option<Decision> {
    let taken: Vec<String> = view.observed.taken.iter().cloned().collect();
    if !taken.is_empty() {
        let message = format!(
            "{} exist and belong to something else; nothing is applied. Rename or remove them, or give this \
             KvCluster another name",
            list(&taken)
        );
        let wait = Wait { blocker: Blocker::Person, message: message.clone() };
        return Some(Decision { stalled: Some((Reason::NameTaken, message)), ..Decision::wait(None, wait) });
    }
    let identity = formation::identity(view);
    let (reason, message) = match &identity {
        Identity::Ok => return None,
        Identity::Conflict(text) => (Reason::IdentityConflict, text.clone()),
        Identity::Empty(text) => (Reason::AllMembersEmpty, text.clone()),
    };
    let wait = Wait { blocker: Blocker::Identity, message: message.clone() };
    Some(Decision { identity, stalled: Some((reason, message)), ..Decision::wait(None, wait) })
}

/// First formation, up to the moment in which it is seen.
fn form(view: &View<'_>) -> Decision {
    let (step, formation) = formation::step(view);
    if let Some(step) = shrink(view)
        && view.cluster_id.is_none()
    {
        return Decision::new(Some(ChangeKind::Create), step);
    }
    Decision { formation, ..Decision::new(Some(ChangeKind::Create), step) }
}

/// All pods go, learners first; volumes and membership stay.
fn hibernate(view: &View<'_>) -> Decision {
    for role in [SetRole::Learner, SetRole::Voter] {
        if let Some(set) = view.observed.sets.get(&role).filter(|set| set.replicas > 0) {
            let why = "the cluster hibernates; volumes and membership are kept".to_owned();
            let step = Step::Shrink { set: role, name: set.name.clone(), from: set.replicas, to: 0, why };
            return Decision::new(Some(ChangeKind::Hibernate), step);
        }
    }
    match view.observed.pods.values().next() {
        None => Decision::new(None, Step::Settled),
        Some(pod) => {
            let message = format!("waiting for {} to stop", pod.name);
            Decision::wait(Some(ChangeKind::Hibernate), Wait { blocker: Blocker::InProgress, message })
        }
    }
}

fn is_waking(view: &View<'_>) -> bool {
    let recorded = &view.observed.recorded;
    recorded.phase == Some(Phase::Hibernated)
        || matches!(recorded_kind(view), Some(ChangeKind::Wake | ChangeKind::Hibernate))
}

/// Who does not answer, and what the others have.
pub(super) fn no_leader(view: &View<'_>, waking: bool) -> Wait {
    let mut there = Vec::new();
    let mut silent = Vec::new();
    for voter in view.voters() {
        let status = voter.pod.and_then(|pod| pod.node.status());
        match status.filter(|status| status.node_id == Some(voter.id())) {
            Some(status) => {
                let applied = status.log.applied.as_deref().unwrap_or("nothing");
                there.push(format!("{} (applied {applied})", voter.name(view)));
            }
            None => silent.push(voter.name(view)),
        }
    }
    if there.len() * 2 > there.len() + silent.len() || (waking && silent.is_empty()) {
        let message = if silent.is_empty() {
            "no leader: all voters answer and elect one".to_owned()
        } else {
            format!("no leader: {}; the others are a majority and elect one", silence(&silent))
        };
        return Wait { blocker: Blocker::InProgress, message };
    }
    if there.is_empty() && silent.is_empty() {
        let message = "no node of the cluster answers; nothing is changed until one does".to_owned();
        let blocker = if waking { Blocker::InProgress } else { Blocker::NoQuorum };
        return Wait { blocker, message };
    }
    let answer = if there.is_empty() {
        "no other voter answers".to_owned()
    } else {
        let verb = if there.len() == 1 { "answers" } else { "answer" };
        format!("{} {verb}", list(&there))
    };
    let message = format!(
        "no quorum: {}, {answer}; nothing is removed or deleted until a majority is back. Bring back \
         their Kubernetes nodes or volumes",
        silence(&silent)
    );
    Wait { blocker: Blocker::NoQuorum, message }
}

/// "cart-0 does not answer", "cart-0, cart-1 do not answer".
pub(super) fn silence(names: &[String]) -> String {
    let verb = if names.len() == 1 { "does" } else { "do" };
    format!("{} {verb} not answer", list(names))
}

/// Highest ordinal plus one of a set's members.
fn members_need(view: &View<'_>, set: SetRole) -> i32 {
    let slots = view.members.iter().filter_map(|member| member.slot);
    slots.filter(|slot| slot.set == set).map(|slot| slot.ordinal + 1).max().unwrap_or(0)
}

/// Fewer pods, once their members are out.
fn shrink(view: &View<'_>) -> Option<Step> {
    SetRole::ALL.into_iter().find_map(|role| {
        let set = view.observed.sets.get(&role)?;
        let to = view.target(role).max(members_need(view, role));
        let why = "their members are not in the membership".to_owned();
        (to < set.replicas).then(|| Step::Shrink {
            set: role,
            name: set.name.clone(),
            from: set.replicas,
            to,
            why,
        })
    })
}

/// Pods per set that the manifests ask for: never fewer than there are; more than the spec if members are still there.
pub(super) fn sizes(view: &View<'_>) -> Sizes {
    let voters = size(view, SetRole::Voter);
    let learners = size(view, SetRole::Learner);
    let has_learners = learners > 0
        || view.cluster.spec.learners > 0
        || view.observed.pods.values().any(|pod| pod.role == SetRole::Learner);
    Sizes { voters, learners: has_learners.then_some(learners) }
}

fn size(view: &View<'_>, role: SetRole) -> i32 {
    let set = view.observed.sets.get(&role);
    let seen = set.map_or(0, |set| set.replicas);
    if view.cluster.spec.hibernate {
        return seen;
    }
    let highest = |names: &mut dyn Iterator<Item = &str>| {
        let parsed = names.filter_map(|name| labels::parse_pod(&view.cluster.name, name));
        parsed.filter(|(set, _)| *set == role).map(|(_, ordinal)| ordinal + 1).max().unwrap_or(0)
    };
    // Asleep, the volumes tell who has to wake up; without its StatefulSet, the pods tell how large it was.
    let asleep = seen == 0;
    let mut kept =
        view.observed.volumes.values().filter(|v| asleep && v.retired.is_none() && v.node_id.is_some());
    let volumes = highest(&mut kept.by_ref().map(|volume| volume.pod.as_str()));
    let pods = if set.is_none() { highest(&mut view.observed.pods.keys().map(String::as_str)) } else { 0 };
    let in_use = [members_need(view, role), seen, volumes, pods].into_iter().max().unwrap_or(0);
    storage::room(view, role, in_use)
}

/// A StatefulSet that does not have the template of this plan yet, or has not said which revision that is.
fn unapplied(view: &View<'_>, built: &Built) -> Option<String> {
    let wanted = [Some(&built.children.voters), built.children.learners.manifest.as_ref()];
    wanted.into_iter().flatten().find_map(|manifest| {
        let name = manifest.metadata.name.clone().unwrap_or_default();
        let annotation = |key: &str| manifest.metadata.annotations.as_ref()?.get(key).cloned();
        let seen = view.observed.sets.values().find(|set| set.name == name);
        let same = seen.is_some_and(|set| {
            set.update_revision.is_some()
                && set.pod_intent == annotation(labels::POD_INTENT)
                && set.template_hash == annotation(labels::POD_TEMPLATE)
        });
        (!same).then_some(name)
    })
}

fn surplus_pods(view: &View<'_>) -> Option<String> {
    let mut pods = view.observed.pods.values();
    pods.find(|pod| pod.ordinal >= view.target(pod.role)).map(|pod| pod.name.clone())
}
