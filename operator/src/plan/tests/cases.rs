//! The life of a cluster, case by case.

use super::model::{BAD_IMAGE, Model, NAME};
use crate::build::labels;
use crate::crd::reason::{ConditionType, EventReason};
use crate::crd::status::{ChangeKind, Phase};
use crate::crd::{KeepOrDelete, KvClusterSpec, OnNodeGone, RolloutMode};
use crate::observed::SetRole;
use crate::plan::{Blocker, Plan, Step};

/// Passes and ticks until nothing is to do; the plan that says so.
pub(super) fn settle(model: &mut Model, ticks: u32) -> Plan {
    for _ in 0..ticks {
        let made = model.pass(false, None);
        if made.step == Step::Settled && model.planned().status == model.recorded {
            return made;
        }
        model.tick();
    }
    panic!("not settled after {ticks} ticks: {:?}; {:#?}", model.planned().step, model.log);
}

pub(super) fn made(spec: KvClusterSpec) -> Model {
    let mut model = Model::new(spec);
    settle(&mut model, 40);
    model
}

pub(super) fn of(replicas: i32, learners: i32) -> KvClusterSpec {
    KvClusterSpec { replicas, learners, ..KvClusterSpec::default() }
}

fn condition(model: &Model, kind: ConditionType) -> (String, String) {
    let found = model.recorded.conditions.iter().find(|condition| condition.type_ == kind.as_str()).unwrap();
    (found.status.clone(), found.reason.clone())
}

/// Passes until the step is as wanted; everything before is carried out.
pub(super) fn until(model: &mut Model, wanted: impl Fn(&Step) -> bool) -> Step {
    for _ in 0..60 {
        let step = model.planned().step;
        if wanted(&step) {
            return step;
        }
        model.pass(false, None);
        model.tick();
    }
    panic!("never came: {:?}; {:#?}", model.planned().step, model.log);
}

#[test]
fn three_voters_are_founded_once_and_rest_without_a_write() {
    let mut model = made(KvClusterSpec::default());
    assert_eq!(model.founded, 1);
    assert_eq!(model.voters().len(), 3);
    assert_eq!(model.recorded.ready.as_deref(), Some("3/3"));
    assert_eq!(model.recorded.phase, Some(Phase::Ready));
    assert_eq!(condition(&model, ConditionType::Ready).0, "True");
    for _ in 0..5 {
        model.tick();
        let again = model.planned();
        assert_eq!(again.status, model.recorded);
        assert!(
            again.events.is_empty()
                && again.labels.is_empty()
                && again.volumes.is_empty()
                && again.live.is_empty()
        );
    }
    let lines: Vec<&str> = model.log.iter().map(String::as_str).collect();
    assert!(lines[0].starts_with("record the cluster id"), "{lines:?}");
    assert!(lines[1].starts_with("found cluster"), "{lines:?}");
    assert_eq!(lines[4], "cart-1 and cart-2 become voters: 3 voters");
}

#[test]
fn a_cluster_that_had_data_is_never_founded_again() {
    let mut model = made(KvClusterSpec::default());
    for ordinal in 0..3 {
        let pod = labels::pod(NAME, SetRole::Voter, ordinal);
        model.lose_volume(&pod);
    }
    for _ in 0..10 {
        model.pass(false, None);
        model.tick();
    }
    assert_eq!(model.founded, 1);
    assert_eq!(condition(&model, ConditionType::DataSafe), ("False".into(), "AllMembersEmpty".into()));
    assert_eq!(condition(&model, ConditionType::Stalled).0, "True");
    assert_eq!(model.recorded.phase, Some(Phase::Failed));
}

#[test]
fn founding_stops_when_the_founders_volume_was_exchanged() {
    let mut model = Model::new(KvClusterSpec::default());
    until(&mut model, |step| matches!(step, Step::Initialize { .. }));
    model.lose_volume("cart-0");
    for _ in 0..6 {
        model.tick();
        let step = model.planned().step;
        assert!(!matches!(step, Step::Initialize { .. } | Step::RecordClusterId { .. }), "{step:?}");
    }
    assert!(matches!(model.planned().step, Step::Wait(wait) if wait.blocker == Blocker::Identity));
}

#[test]
fn volumes_of_an_earlier_cluster_are_taken_over() {
    let mut model = made(KvClusterSpec::default());
    let id = model.group.cluster_id;
    model.recorded = crate::crd::status::KvClusterStatus::default();
    model.tick();
    assert!(
        matches!(model.planned().step, Step::RecordClusterId { adopted: true, id: found } if Some(found) == id)
    );
    settle(&mut model, 20);
    assert_eq!(model.founded, 1);
    assert!(model.recorded.formation.as_ref().unwrap().adopted);
}

#[test]
fn data_of_another_cluster_stops_everything() {
    let mut model = made(KvClusterSpec::default());
    model.recorded.cluster_id = Some("00000000000000aa".into());
    model.edit(|spec| spec.replicas = 1);
    for _ in 0..5 {
        let plan = model.pass(false, None);
        assert!(matches!(plan.step, Step::Wait(wait) if wait.blocker == Blocker::Identity));
        model.tick();
    }
    assert_eq!(condition(&model, ConditionType::DataSafe), ("False".into(), "IdentityConflict".into()));
}

#[test]
fn scaling_up_waits_for_all_newcomers_and_makes_one_change() {
    let mut model = made(KvClusterSpec::default());
    model.edit(|spec| spec.replicas = 5);
    let before = model.log.len();
    settle(&mut model, 40);
    assert_eq!(model.voters().len(), 5);
    let changes: Vec<&String> =
        model.log[before..].iter().filter(|line| line.contains("become voters")).collect();
    assert_eq!(changes, ["cart-3 and cart-4 become voters: 5 voters"]);
}

#[test]
fn a_scale_up_is_cancelled_by_lowering_replicas() {
    let mut model = made(KvClusterSpec::default());
    model.edit(|spec| spec.replicas = 5);
    until(&mut model, |step| matches!(step, Step::SetVoters { .. }));
    model.edit(|spec| spec.replicas = 3);
    settle(&mut model, 40);
    assert_eq!(model.voters().len(), 3);
    assert!(!model.log.iter().any(|line| line.contains("5 voters")), "{:#?}", model.log);
    assert_eq!(model.pods.len(), 3);
}

#[test]
fn scaling_down_hands_over_removes_then_stops_and_keeps_the_volumes() {
    let mut model = made(of(5, 0));
    let leader =
        model.group.members.iter().find(|(_, (addr, _))| addr.starts_with("cart-4.")).map(|(id, _)| *id);
    model.group.leader = leader;
    model.edit(|spec| spec.replicas = 3);
    let before = model.log.len();
    settle(&mut model, 40);
    let lines = &model.log[before..];
    assert!(lines[0].starts_with("hand leadership over from cart-4"), "{lines:#?}");
    assert_eq!(lines[1], "cart-3 and cart-4 leave the membership: 3 voters");
    assert!(lines[2].starts_with("scale StatefulSet cart from 5 to 3"), "{lines:#?}");
    assert!(model.volumes["data-cart-4"].seen.retired.is_some());
    // The old data is never used again.
    model.edit(|spec| spec.replicas = 5);
    settle(&mut model, 60);
    assert_eq!(model.voters().len(), 5);
    assert!(model.log.iter().any(|line| line.starts_with("delete volume data-cart-4")), "{:#?}", model.log);
}

#[test]
fn scaling_down_waits_for_a_voter_that_stays() {
    let mut model = made(of(5, 0));
    model.crash("cart-1", 8);
    model.edit(|spec| spec.replicas = 3);
    model.tick();
    let Step::Wait(wait) = model.planned().step else { panic!("{:?}", model.planned().step) };
    assert_eq!(wait.blocker, Blocker::Gate);
    assert!(wait.message.contains("cart-1"), "{}", wait.message);
    settle(&mut model, 40);
    assert_eq!(model.voters().len(), 3);
}

#[test]
fn volumes_go_with_their_members_if_asked_for() {
    let mut spec = of(3, 1);
    spec.storage.when_scaled = KeepOrDelete::Delete;
    let mut model = made(spec);
    model.edit(|spec| {
        spec.replicas = 1;
        spec.learners = 0;
    });
    settle(&mut model, 60);
    assert_eq!(model.volumes.keys().collect::<Vec<_>>(), ["data-cart-0"]);
    assert_eq!(model.group.members.len(), 1);
}

#[test]
fn learners_and_voters_scale_without_touching_each_other() {
    let mut model = made(of(3, 2));
    let voters = model.voters();
    model.edit(|spec| spec.learners = 1);
    settle(&mut model, 40);
    assert_eq!(model.voters(), voters);
    let learner = model.group.members.iter().find(|(_, (_, voter))| !voter).map(|(id, _)| *id);
    model.edit(|spec| spec.replicas = 5);
    settle(&mut model, 60);
    assert!(learner.is_some_and(|id| !model.group.members[&id].1), "the learner has no vote");
    assert_eq!(model.voters().len(), 5);
    model.edit(|spec| spec.learners = 0);
    settle(&mut model, 40);
    assert_eq!(model.voters().len(), 5);
}

#[test]
fn a_rollout_goes_followers_first_and_the_leader_last() {
    let mut model = made(KvClusterSpec::default());
    let leader = model.recorded.leader.clone().unwrap().pod;
    model.edit(|spec| spec.image = Some("kvnode-server:2".into()));
    let before = model.log.len();
    settle(&mut model, 60);
    let lines = &model.log[before..];
    assert_eq!(lines.len(), 4, "{lines:#?}");
    assert!(lines[2].starts_with(&format!("hand leadership over from {leader}")), "{lines:#?}");
    assert!(lines[3].starts_with(&format!("restart {leader}")), "{lines:#?}");
}

#[test]
fn a_bad_image_stalls_at_the_first_pod_and_the_next_one_supersedes_it() {
    let mut model = made(KvClusterSpec::default());
    model.edit(|spec| spec.image = Some(BAD_IMAGE.into()));
    for _ in 0..10 {
        model.pass(false, None);
        model.tick();
    }
    assert_eq!(condition(&model, ConditionType::Stalled), ("True".into(), "RolloutStalled".into()));
    assert_eq!(model.pods.keys().filter(|pod| model.is_up(pod)).count(), 2);
    model.edit(|spec| spec.image = Some("kvnode-server:3".into()));
    settle(&mut model, 60);
    assert_eq!(condition(&model, ConditionType::Stalled).0, "False");
}

#[test]
fn a_bad_image_from_the_start_is_corrected_by_an_edit() {
    let mut spec = KvClusterSpec { image: Some(BAD_IMAGE.into()), ..KvClusterSpec::default() };
    spec.replicas = 1;
    let mut model = Model::new(spec);
    for _ in 0..5 {
        model.pass(false, None);
        model.tick();
    }
    assert_eq!(model.recorded.phase, Some(Phase::Creating));
    model.edit(|spec| spec.image = None);
    settle(&mut model, 40);
}

#[test]
fn a_manual_rollout_stops_before_the_leader_until_approved() {
    let mut model = made(KvClusterSpec::default());
    model.edit(|spec| {
        spec.rollout.mode = RolloutMode::Manual;
        spec.image = Some("kvnode-server:2".into());
    });
    until(&mut model, |step| matches!(step, Step::Wait(wait) if wait.blocker == Blocker::Person));
    model.pass(false, None);
    assert_eq!(condition(&model, ConditionType::Progressing), ("False".into(), "WaitingForApproval".into()));
    let revision = model.recorded.change.clone().unwrap().revision.unwrap();
    model.annotations.insert(labels::APPROVE.into(), revision);
    settle(&mut model, 40);
}

#[test]
fn a_new_operator_leaves_pods_alone_until_the_user_changes_something() {
    let mut model = made(KvClusterSpec::default());
    let pods: Vec<String> = model.pods.values().map(|pod| pod.uid.clone()).collect();
    model.operator.image = "kvnode-server:9".into();
    settle(&mut model, 10);
    assert_eq!(model.pods.values().map(|pod| pod.uid.clone()).collect::<Vec<_>>(), pods);
    assert_eq!(condition(&model, ConditionType::UpdateAvailable).0, "True");
    assert_eq!(model.recorded.image.as_deref(), Some("kvnode-server:1"));
    model.edit(|spec| {
        spec.config.insert("clients_max".into(), crate::crd::ConfigValue("5".into()));
    });
    settle(&mut model, 60);
    assert_eq!(model.recorded.image.as_deref(), Some("kvnode-server:9"));
    assert_eq!(condition(&model, ConditionType::UpdateAvailable).0, "False");
}

#[test]
fn live_settings_reach_running_nodes_without_a_restart() {
    let mut model = made(KvClusterSpec::default());
    let before = model.log.len();
    model.edit(|spec| drop(spec.config.insert("log_filter".into(), crate::crd::ConfigValue("debug".into()))));
    let plan = model.pass(false, None);
    assert_eq!(plan.live.len(), 3);
    assert_eq!(plan.live[0].log_filter, "debug");
    settle(&mut model, 10);
    assert_eq!(model.log.len(), before);
}

#[test]
fn a_lost_volume_is_replaced_by_one_joint_swap() {
    let mut model = made(KvClusterSpec::default());
    let old = model.voters();
    model.lose_volume("cart-1");
    let before = model.log.len();
    settle(&mut model, 60);
    assert_eq!(model.voters().len(), 3);
    assert_eq!(old.intersection(&model.voters()).count(), 2);
    let lines = &model.log[before..];
    assert_eq!(lines.len(), 2, "{lines:#?}");
    assert!(lines[1].contains("takes the place of") && lines[1].ends_with("in cart-1"), "{lines:#?}");
}

#[test]
fn a_lost_pod_is_only_reported() {
    let mut model = made(KvClusterSpec::default());
    model.crash("cart-2", 6);
    let before = model.log.len();
    model.tick();
    let plan = model.pass(false, None);
    assert_eq!(condition(&model, ConditionType::Degraded), ("True".into(), "MemberDown".into()));
    assert!(plan.events.iter().any(|note| note.reason == EventReason::Degraded && note.warning));
    settle(&mut model, 40);
    assert_eq!(model.log.len(), before);
}

#[test]
fn a_pod_is_forced_away_only_when_its_host_is_gone() {
    let mut model = made(KvClusterSpec::default());
    let host = model.pods["cart-1"].host.clone();
    model.hosts.remove(&host);
    let step = until(&mut model, |step| matches!(step, Step::DeletePod { .. }));
    assert!(matches!(step, Step::DeletePod { pod, force: true, .. } if pod == "cart-1"));
    settle(&mut model, 60);
}

#[test]
fn a_volume_on_a_gone_host_is_replaced_only_if_asked_for() {
    let mut model = made(KvClusterSpec::default());
    let host = model.pods["cart-1"].host.clone();
    let volume = model.volumes.get_mut("data-cart-1").unwrap();
    volume.seen.bound_to_host = Some(host.clone());
    model.hosts.remove(&host);
    // The pod cannot be placed anywhere else.
    model.pods.get_mut("cart-1").unwrap().down = 1000;
    for _ in 0..10 {
        let step = model.planned().step;
        assert!(!matches!(step, Step::SetVoters { .. } | Step::DeleteVolume { .. }), "{step:?}");
        model.pass(false, None);
        model.tick();
        if let Some(pod) = model.pods.get_mut("cart-1") {
            pod.down = 1000;
        }
    }
    model.edit(|spec| spec.storage.on_node_gone = OnNodeGone::Replace);
    let step = until(&mut model, |step| matches!(step, Step::SetVoters { .. }));
    assert!(step.to_string().contains("leaves the voters"), "{step}");
    settle(&mut model, 80);
    assert_eq!(model.voters().len(), 3);
}

#[test]
fn without_a_quorum_nothing_is_removed_or_deleted() {
    let mut model = made(KvClusterSpec::default());
    model.crash("cart-0", 90);
    model.crash("cart-1", 90);
    model.edit(|spec| spec.replicas = 1);
    let before = model.log.len();
    let mut run = |seconds: u32| {
        for _ in 0..seconds {
            model.tick();
            model.pass(false, None);
        }
        condition(&model, ConditionType::Available)
    };
    assert_eq!(run(20), ("False".into(), "NoLeader".into()), "it may be two restarts");
    assert_eq!(run(60), ("False".into(), "QuorumLost".into()));
    assert_eq!(model.log.len(), before, "{:#?}", &model.log[before..]);
    let message = model.recorded.summary.clone().unwrap();
    assert!(message.contains("cart-0 and cart-1 do not answer"), "{message}");
    settle(&mut model, 60);
}

#[test]
fn a_cluster_hibernates_and_wakes_with_its_members() {
    let mut model = made(of(3, 1));
    let members = model.group.members.clone();
    model.edit(|spec| spec.hibernate = true);
    settle(&mut model, 20);
    assert!(model.pods.is_empty());
    assert_eq!(model.recorded.phase, Some(Phase::Hibernated));
    assert_eq!(model.recorded.ready.as_deref(), Some("0/0"));
    // Fewer are asked for while it sleeps: all wake, then the surplus leaves in order.
    model.edit(|spec| {
        spec.replicas = 1;
        spec.learners = 0;
    });
    settle(&mut model, 10);
    model.edit(|spec| spec.hibernate = false);
    let plan = model.pass(false, None);
    assert_eq!(plan.status.change.unwrap().kind, ChangeKind::Wake);
    settle(&mut model, 60);
    assert_eq!(model.founded, 1);
    assert_eq!(model.group.members.len(), 1);
    assert!(members.contains_key(model.group.members.keys().next().unwrap()));
}

#[test]
fn volumes_grow_and_the_sets_are_made_anew_without_a_restart() {
    let mut model = made(of(3, 1));
    let pods: Vec<String> = model.pods.values().map(|pod| pod.uid.clone()).collect();
    model.edit(|spec| spec.storage.size.0 = "20Gi".into());
    settle(&mut model, 40);
    assert!(model.volumes.values().all(|volume| volume.seen.capacity_bytes == Some(20 << 30)));
    assert_eq!(model.pods.values().map(|pod| pod.uid.clone()).collect::<Vec<_>>(), pods);
    assert_eq!(model.log.iter().filter(|line| line.starts_with("make StatefulSet")).count(), 2);
}

#[test]
fn paused_and_plan_only_change_nothing_and_say_what_they_would() {
    let mut model = made(KvClusterSpec::default());
    model.edit(|spec| {
        spec.paused = true;
        spec.replicas = 5;
    });
    let before = model.log.len();
    for _ in 0..5 {
        let plan = model.pass(false, None);
        assert!(plan.children.is_none() && plan.volumes.is_empty() && plan.live.is_empty());
        model.tick();
    }
    assert_eq!(model.recorded.phase, Some(Phase::Paused));
    assert_eq!(condition(&model, ConditionType::Paused).0, "True");
    model.edit(|spec| spec.paused = false);
    model.annotations.insert(labels::PLAN.into(), "show".into());
    let plan = model.pass(false, None);
    assert!(plan.children.is_none());
    assert!(
        plan.status.plan.iter().any(|line| line.contains("make 5 voters by one joint change")),
        "{:?}",
        plan.status.plan
    );
    assert_eq!(condition(&model, ConditionType::Progressing).1, "PlanOnly");
    assert_eq!(model.log.len(), before);
    model.annotations.clear();
    settle(&mut model, 40);
    assert!(model.recorded.plan.is_empty());
}

#[test]
fn labels_follow_the_leader_and_an_old_term_never_wins() {
    let mut model = made(KvClusterSpec::default());
    let observed = model.observe();
    let leader = model.recorded.leader.clone().unwrap().pod;
    let labelled = |key: &str| -> Vec<String> {
        let pods = observed.pods.values().filter(|pod| pod.labels.contains_key(key));
        pods.map(|pod| pod.name.clone()).collect()
    };
    assert_eq!(labelled(labels::LEADER), std::slice::from_ref(&leader));
    assert_eq!(labelled(labels::READ).len(), 2);
    let cluster_id = model.group.cluster_id.unwrap();
    let other = observed.pods.keys().find(|pod| **pod != leader).unwrap();
    let change = |term| {
        super::super::exposure::on_change(
            &observed.pods,
            super::super::exposure::Leading { cluster_id, term, pod: other },
        )
    };
    assert!(change(model.group.term - 1).is_empty());
    let moved = change(model.group.term + 1);
    assert_eq!(&moved[0].pod, other, "the new leader is labelled first");
    assert_eq!(moved[0].labels.get(labels::LEADER), Some(&Some(labels::TRUE.into())));
    assert_eq!(moved[1].labels.get(labels::LEADER), Some(&None));
    model.edit(|spec| spec.replicas = 1);
    settle(&mut model, 40);
    let alone = &model.observe().pods["cart-0"];
    assert!(alone.labels.contains_key(labels::READ) && alone.labels.contains_key(labels::LEADER));
}

#[test]
fn a_name_that_is_taken_stops_before_anything_is_applied() {
    let model = Model::new(KvClusterSpec::default());
    let mut observed = model.observe();
    observed.taken.insert("Service/cart-leader".into());
    let plan = crate::plan::plan(&model.cluster(), &observed, model.now);
    assert!(plan.children.is_none());
    assert!(plan.status.summary.unwrap().contains("Service/cart-leader"));
}

#[test]
fn a_wrong_spec_says_all_its_faults_and_touches_nothing() {
    let mut model = made(KvClusterSpec::default());
    model.edit(|spec| {
        spec.replicas = 4;
        spec.storage.size.0 = "lots".into();
    });
    let mut object = crate::crd::KvCluster::new(NAME, model.spec.clone());
    object.metadata.generation = Some(7);
    let faults = crate::validate::validate(&object, &model.operator).unwrap_err();
    assert_eq!(faults.faults.len(), 2, "{faults:?}");
    let plan = crate::plan::invalid(&object, &model.observe(), &faults, model.now);
    assert!(plan.children.is_none() && !plan.step.is_act());
    assert_eq!(plan.status.observed_generation, Some(7));
    assert_eq!(plan.status.phase, Some(Phase::Failed));
    assert_eq!(plan.status.members, model.recorded.members);
    assert!(plan.events.iter().any(|note| note.reason == EventReason::InvalidSpec));
}

#[test]
fn a_cluster_that_begins_with_a_backup_is_never_founded_empty() {
    let bootstrap = serde_json::json!({ "s3": { "cluster": "old", "store": { "bucket": "kvs" } } });
    let bootstrap = serde_json::from_value(bootstrap).unwrap();
    let mut model = Model::new(KvClusterSpec { bootstrap: Some(bootstrap), ..KvClusterSpec::default() });
    for _ in 0..40 {
        let made = model.pass(false, None);
        assert!(
            !matches!(made.step, Step::Initialize { .. } | Step::RecordClusterId { .. }),
            "{}",
            made.step
        );
        model.tick();
    }
    assert_eq!(model.founded, 0);
    let waits = model.planned().step;
    assert!(waits.to_string().contains("to load the backup"), "{waits}");
}

/// The plan as the annotation `kvnode.dev/plan: show` lists it; nothing of it is done.
fn shown(model: &mut Model) -> Vec<String> {
    model.annotations.insert(labels::PLAN.into(), "show".into());
    let before = model.log.len();
    model.pass(false, None);
    assert_eq!(model.log.len(), before, "a plan that is shown is not carried out");
    assert_eq!(condition(model, ConditionType::Progressing).1, "PlanOnly");
    model.annotations.remove(labels::PLAN);
    model.recorded.plan.clone()
}

fn has(plan: &[String], wanted: &[&str]) {
    let found: Vec<usize> = wanted
        .iter()
        .map(|part| {
            plan.iter().position(|line| line.contains(part)).unwrap_or_else(|| panic!("{part} in {plan:#?}"))
        })
        .collect();
    assert!(found.is_sorted(), "{plan:#?}");
}

#[test]
fn a_plan_that_is_shown_names_every_step() {
    let mut model = Model::new(of(3, 1));
    model.pass(false, None);
    has(&shown(&mut model), &["start 4 pods", "found the cluster with 3 voters", "add cart-learner-0"]);
    settle(&mut model, 60);
    model.edit(|spec| spec.replicas = 5);
    has(&shown(&mut model), &["start 2 more voter pods", "make 5 voters by one joint change"]);
    settle(&mut model, 60);
    model.edit(|spec| {
        spec.replicas = 1;
        spec.storage.when_scaled = KeepOrDelete::Delete;
        spec.storage.size.0 = "20Gi".into();
    });
    has(
        &shown(&mut model),
        &["take cart-1, cart-2, cart-3 and cart-4 out", "delete 4 volumes", "grow 6 volumes"],
    );
    model.edit(|spec| spec.replicas = 5);
    settle(&mut model, 80);
    model.edit(|spec| spec.image = Some("kvnode-server:next".into()));
    let leader = model.recorded.leader.clone().unwrap().pod;
    let last = format!("restart {leader} with");
    has(&shown(&mut model), &["restart cart-learner-0", "hand leadership over", &last]);
    settle(&mut model, 120);
    model.edit(|spec| spec.hibernate = true);
    has(&shown(&mut model), &["stop 1 learner pods", "stop 5 voter pods"]);
}
