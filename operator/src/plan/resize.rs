//! Another size of the server's container without a restart: where only `resources` differ, a pod is resized in place.
//!
//! ```text
//! outdated, same shape -> ResizePod: annotation "asked <revision> <time>", then the subresource pods/resize
//!    refused by the API server (an older Kubernetes, another QoS class, ...)   "refused <revision> <why>" -> restart
//!    the node cannot (Infeasible), or it takes too long (Deferred)                                        -> restart
//!    the container has it                                       "done <revision>": the pod has that revision
//! ```
//!
//! The label `controller-revision-hash` of such a pod stays that of the template that it was made from; which one it has
//! now is told by the annotation, and only by that.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Container, PodTemplateSpec, ResourceRequirements};
use serde_json::json;

use super::LabelChange;
use super::step::Step;
use super::view::View;
use crate::build::labels;
use crate::observed::{Amounts, PodSeen, PodState, amounts};
use crate::validate::same_quantity;

/// A resize that takes longer is given up for a restart.
const PATIENCE: SignedDuration = SignedDuration::from_mins(2);

/// What the annotation [`labels::RESIZE`] says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Note<'a> {
    Asked(&'a str, Timestamp),
    Done(&'a str),
    Refused(&'a str, &'a str),
}

fn note(pod: &PodSeen) -> Option<Note<'_>> {
    let mut parts = pod.annotations.get(labels::RESIZE)?.splitn(3, ' ');
    let (word, revision) = (parts.next()?, parts.next()?);
    let rest = parts.next().unwrap_or_default();
    match word {
        "asked" => Some(Note::Asked(revision, rest.parse().unwrap_or(Timestamp::UNIX_EPOCH))),
        "done" => Some(Note::Done(revision)),
        "refused" => Some(Note::Refused(revision, rest)),
        _ => None,
    }
}

/// The revision that a pod has; `None` if that is not known, or between two.
pub(super) fn revision(pod: &PodSeen) -> Option<&str> {
    match note(pod) {
        None => pod.revision.as_deref(),
        Some(Note::Done(revision)) => Some(revision),
        Some(Note::Asked(..) | Note::Refused(..)) => None,
    }
}

/// Whether it has been asked for the newest revision.
pub(super) fn is_under_way(view: &View<'_>, pod: &PodSeen) -> bool {
    let newest = newest(view, pod);
    matches!(note(pod), Some(Note::Asked(asked, _)) if Some(asked) == newest)
}

/// How an outdated pod gets the newest revision.
pub(super) enum InPlace {
    /// By this step.
    Take(Step),
    /// It is being resized.
    Wait(String),
    /// By a restart; and why so, if resizing was tried.
    Restart(Option<String>),
}

pub(super) fn in_place(view: &View<'_>, pod: &PodSeen, now: Timestamp) -> InPlace {
    let restart = InPlace::Restart(None);
    let Some((newest, template)) = newest(view, pod).zip(template(view, pod)) else { return restart };
    let Some((container, wanted)) = wanted(pod, template) else { return restart };
    let fits = pod.size.asked.keys().all(|key| wanted.contains_key(key));
    if pod.deleting || pod.state != PodState::Running || !fits {
        return restart;
    }
    let tried = |why: &str| InPlace::Restart(Some(why.to_owned()));
    let asked = match note(pod) {
        Some(Note::Refused(refused, why)) if refused == newest => return tried(why),
        Some(Note::Asked(asked, since)) if asked == newest => Some(since),
        _ => None,
    };
    if let Some(since) = asked {
        let said = pod.size.waits.as_deref();
        if said.is_some_and(|why| why.starts_with("Infeasible")) {
            return tried(said.unwrap_or_default());
        }
        if now.duration_since(since) > PATIENCE {
            return tried(said.unwrap_or("it was not done within two minutes"));
        }
        if covers(&pod.size.asked, &wanted) {
            let why = said.map(|why| format!(": {why}")).unwrap_or_default();
            return InPlace::Wait(format!("{} is being resized in place{why}", pod.name));
        }
    }
    InPlace::Take(Step::ResizePod {
        pod: pod.name.clone(),
        uid: pod.uid.clone(),
        revision: newest.to_owned(),
        asked: asked.is_some(),
        container,
        resources: nested(&wanted),
    })
}

/// Pods that have what they were asked to have.
pub(super) fn done(view: &View<'_>) -> Vec<LabelChange> {
    let pods = view.observed.pods.values().filter(|pod| {
        let wanted = template(view, pod).and_then(|template| wanted(pod, template));
        let has = wanted.is_some_and(|(_, wanted)| {
            covers(&pod.size.asked, &wanted) && covers(&pod.size.has, &wanted) && pod.size.waits.is_none()
        });
        has && !pod.deleting && is_under_way(view, pod)
    });
    let change = |pod: &PodSeen| LabelChange {
        pod: pod.name.clone(),
        uid: pod.uid.clone(),
        annotations: [(
            labels::RESIZE.to_owned(),
            newest(view, pod).map(|revision| format!("done {revision}")),
        )]
        .into(),
        labels: BTreeMap::new(),
    };
    pods.map(change).collect()
}

fn newest<'a>(view: &View<'a>, pod: &PodSeen) -> Option<&'a str> {
    view.observed.sets.get(&pod.role)?.update_revision.as_deref()
}

fn template<'a>(view: &View<'a>, pod: &PodSeen) -> Option<&'a PodTemplateSpec> {
    view.observed.sets.get(&pod.role)?.template.as_ref()
}

/// The server's container and its amounts, if nothing else differs between the pod and the template. One that Kubernetes
/// would restart for it is restarted by us, with a hand-over.
fn wanted(pod: &PodSeen, template: &PodTemplateSpec) -> Option<(String, Amounts)> {
    let shape = template.metadata.as_ref()?.annotations.as_ref()?.get(labels::POD_SHAPE)?;
    let server = server(template).filter(|_| pod.annotations.get(labels::POD_SHAPE) == Some(shape))?;
    let restarts =
        server.resize_policy.iter().flatten().any(|policy| policy.restart_policy == "RestartContainer");
    let resources = server.resources.clone().filter(|_| !restarts)?;
    Some((server.name.clone(), amounts(&with_defaults(resources))))
}

fn server(template: &PodTemplateSpec) -> Option<&Container> {
    template.spec.iter().flat_map(|spec| &spec.containers).find(|one| one.name == labels::CONTAINER)
}

/// What the API server does to a pod, but not to a template: what is limited and not asked for is asked for.
fn with_defaults(mut resources: ResourceRequirements) -> ResourceRequirements {
    let requests = resources.requests.get_or_insert_default();
    for (name, limit) in resources.limits.iter().flatten() {
        requests.entry(name.clone()).or_insert_with(|| limit.clone());
    }
    resources
}

/// `all` has the wanted amounts.
fn covers(all: &Amounts, wanted: &Amounts) -> bool {
    wanted.iter().all(|(key, amount)| all.get(key).is_some_and(|has| same_quantity(has, amount)))
}

/// `limits.cpu: 1` as `{limits: {cpu: 1}}`.
fn nested(amounts: &Amounts) -> serde_json::Value {
    let mut value = json!({});
    for (key, amount) in amounts {
        if let Some((kind, name)) = key.split_once('.') {
            value[kind][name] = json!(amount.0);
        }
    }
    value
}
