//! Another size of the servers: in place where Kubernetes does that, else by restarts.

use jiff::SignedDuration;
use k8s_openapi::api::core::v1::ResourceRequirements;
use serde_json::json;

use super::cases::{made, of, settle, until};
use super::model::Model;
use crate::build::labels;
use crate::crd::KvClusterSpec;
use crate::plan::{Step, plan};

fn with_cpu(cpu: &str) -> Option<ResourceRequirements> {
    Some(serde_json::from_value(json!({ "limits": { "cpu": cpu, "memory": "1Gi" } })).unwrap())
}

fn uids(model: &Model) -> Vec<String> {
    model.pods.values().map(|pod| pod.uid.clone()).collect()
}

fn restarted(model: &Model, before: &[String]) -> bool {
    uids(model).iter().all(|uid| !before.contains(uid))
}

#[test]
fn another_size_is_given_in_place_one_pod_at_a_time_and_back_again() {
    let mut model = made(KvClusterSpec { resources: with_cpu("1"), ..of(3, 1) });
    let before = uids(&model);
    let first = model.log.len();
    for cpu in ["2", "1000m", "500m"] {
        model.edit(|spec| spec.resources = with_cpu(cpu));
        settle(&mut model, 40);
        assert_eq!(uids(&model), before, "nobody was restarted");
        assert_eq!(model.recorded.updated_replicas, Some(4));
    }
    let lines = &model.log[first..];
    assert_eq!(lines.len(), 12, "{lines:#?}");
    assert!(lines[0].starts_with("resize cart-learner-0 in place: limits cpu 2, memory 1Gi"), "{}", lines[0]);
    // Whatever else changes is a restart, also together with another size.
    model.edit(|spec| {
        spec.image = Some("image:2".into());
        spec.resources = with_cpu("1");
    });
    settle(&mut model, 60);
    assert!(restarted(&model, &before));
    // What was limited and is no more cannot be taken away from a pod that runs.
    let before = uids(&model);
    model.edit(|spec| spec.resources = None);
    settle(&mut model, 60);
    assert!(restarted(&model, &before));
}

#[test]
fn where_resizing_is_refused_the_pods_are_restarted_and_it_is_told_why() {
    let mut model = made(KvClusterSpec { resources: with_cpu("1"), ..of(3, 0) });
    let before = uids(&model);
    model.no_resize = Some("the server could not find the requested resource");
    model.edit(|spec| spec.resources = with_cpu("2"));
    let restart = until(&mut model, |step| matches!(step, Step::DeletePod { .. }));
    assert!(restart.to_string().contains("could not find the requested resource"), "{restart}");
    settle(&mut model, 60);
    assert!(restarted(&model, &before));
    // The new pods have no record of it: the next change is tried in place again.
    model.no_resize = None;
    let before = uids(&model);
    model.edit(|spec| spec.resources = with_cpu("1"));
    settle(&mut model, 60);
    assert_eq!(uids(&model), before);
}

#[test]
fn a_node_without_room_is_waited_for_and_then_left() {
    let mut model = made(KvClusterSpec { resources: with_cpu("1"), ..of(3, 0) });
    model.edit(|spec| spec.resources = with_cpu("64"));
    until(&mut model, |step| matches!(step, Step::ResizePod { .. }));
    model.pass(false, None);
    let soon = model.now + SignedDuration::from_secs(30);
    let late = model.now + SignedDuration::from_mins(3);
    for (waits, now, restarts) in [
        (None, soon, false),
        (Some("Deferred: no room"), soon, false),
        (Some("Deferred: no room"), late, true),
        (Some("Infeasible: 64 CPUs"), soon, true),
        (None, late, true),
    ] {
        let mut seen = model.observe();
        let asked = |pod: &&mut crate::observed::PodSeen| {
            pod.annotations.get(labels::RESIZE).is_some_and(|note| note.starts_with("asked"))
        };
        seen.pods.values_mut().find(asked).unwrap().size.waits = waits.map(str::to_owned);
        let step = plan(&model.cluster(), &seen, now).step;
        assert_eq!(matches!(step, Step::DeletePod { .. }), restarts, "{waits:?}: {step:?}");
        let told = waits.is_none_or(|why| step.to_string().contains(why));
        assert!(told && (restarts || matches!(step, Step::Wait(_))), "{step:?}");
    }
    // A person who asks for less meanwhile gets it at once.
    model.edit(|spec| spec.resources = with_cpu("2"));
    let before = uids(&model);
    settle(&mut model, 60);
    assert_eq!(uids(&model), before);
}
