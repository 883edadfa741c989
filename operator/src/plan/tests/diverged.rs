//! A member whose data is another one than the others'.

use kvnode_api::status::DIVERGED;

use super::cases::made;
use super::model::{Model, NAME};
use crate::crd::KvClusterSpec;
use crate::crd::reason::ConditionType;
use crate::observed::{NodeView, Observed, PodState};
use crate::plan::{Step, plan};

/// Reason and message of Degraded; such a plan changes nothing.
fn degraded(model: &Model, seen: &Observed) -> (String, String) {
    let plan = plan(&model.cluster(), seen, model.now);
    assert!(matches!(plan.step, Step::Settled | Step::Wait(_)), "{:?}", plan.step);
    let kind = ConditionType::Degraded.as_str();
    let found = plan.status.conditions.into_iter().find(|condition| condition.type_ == kind).unwrap();
    assert_eq!(found.status, "True");
    (found.reason, found.message)
}

#[test]
fn it_is_told_by_the_leader_and_by_its_own_last_words() {
    let model = made(KvClusterSpec::default());
    let victim = format!("{NAME}-1");
    let mut seen = model.observe();
    let id = seen.pods[&victim].node.status().unwrap().node_id.unwrap();
    for pod in seen.pods.values_mut() {
        let NodeView::Answered(status) = &mut pod.node else { continue };
        for member in status.membership.members.iter_mut().filter(|member| member.id == id) {
            member.diverged_at = Some("3-1f-9".into());
        }
    }
    let (reason, message) = degraded(&model, &seen);
    assert_eq!(reason, "MemberDiverged");
    assert!(message.starts_with(&format!("the data of {victim} is not")), "{message}");

    // The next leader has not compared yet.
    let mut seen = model.observe();
    let why =
        format!("CrashLoopBackOff: exit code 65, kvnode-server: {DIVERGED}: data/diverged.json says {{}}");
    let pod = seen.pods.get_mut(&victim).unwrap();
    (pod.state, pod.ready) = (PodState::Failing { why }, false);
    let (reason, message) = degraded(&model, &seen);
    assert_eq!(reason, "MemberDiverged");
    assert!(message.starts_with(&format!("the data of {victim} is not")), "{message}");
}

#[test]
fn nothing_is_to_be_deleted_while_another_one_is_down() {
    let mut model = made(KvClusterSpec { replicas: 5, ..KvClusterSpec::default() });
    let victim = format!("{NAME}-1");
    model.crash(&format!("{NAME}-2"), 6);
    model.tick();
    let mut seen = model.observe();
    let why = format!("CrashLoopBackOff: exit code 65, kvnode-server: {DIVERGED}: at entry 3-1f-9");
    seen.pods.get_mut(&victim).unwrap().state = PodState::Failing { why };
    let (reason, message) = degraded(&model, &seen);
    assert_eq!(reason, "MemberDiverged");
    assert!(message.contains(&format!("Delete nothing before {NAME}-2 answers")), "{message}");
}

#[test]
fn a_new_member_in_its_place_is_not_blamed() {
    let mut model = made(KvClusterSpec::default());
    let victim = format!("{NAME}-1");
    let seen = model.observe();
    let id = seen.pods[&victim].node.status().unwrap().node_id.unwrap();
    model.lose_volume(&victim);
    model.tick();
    model.tick();
    model.tick();
    let mut seen = model.observe();
    assert_ne!(seen.pods[&victim].node.status().and_then(|status| status.node_id), Some(id));
    for pod in seen.pods.values_mut() {
        let NodeView::Answered(status) = &mut pod.node else { continue };
        for member in status.membership.members.iter_mut().filter(|member| member.id == id) {
            member.diverged_at = Some("3-1f-9".into());
        }
    }
    let plan = plan(&model.cluster(), &seen, model.now);
    let reasons: Vec<String> = plan.status.conditions.into_iter().map(|condition| condition.reason).collect();
    assert!(!reasons.contains(&"MemberDiverged".to_owned()), "{reasons:?}");
}

#[test]
fn without_a_majority_both_are_told() {
    let model = made(KvClusterSpec::default());
    let mut seen = model.observe();
    for pod in seen.pods.values_mut() {
        if let NodeView::Answered(status) = &mut pod.node {
            status.log.undecided = Some("3-1f-9".into());
        }
    }
    let (reason, message) = degraded(&model, &seen);
    assert_eq!(reason, "ContentsDiffer");
    assert!(message.contains("at entry 3-1f-9"), "{message}");
}
