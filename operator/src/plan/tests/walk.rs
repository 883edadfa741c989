//! Random walks: edits, losses, old views, an operator that is killed between any two writes. The model asserts what
//! must never happen at each step; when the faults stop, the cluster must settle as the spec asks.

use proptest::prelude::*;

use super::cases::settle;
use super::model::{BAD_IMAGE, Model};
use crate::crd::{KeepOrDelete, KvClusterSpec};
use crate::plan::Step;

/// Passes in which the cluster settles once faults have stopped.
const TICKS_MAX: u32 = 400;

#[derive(Clone, Debug)]
enum Event {
    Scale(i32, i32),
    Image(u8),
    BadImage,
    Grow(u32),
    Sleep(bool),
    Paused(bool),
    /// An operator of another version.
    Upgrade(u8),
    Crash(usize, u32),
    Kill(usize),
    LoseVolume(usize),
    LoseHost(usize),
    /// A pass of the operator that is killed after some writes.
    Killed(u32),
    /// Another size of the servers, in GiB; 0 = none is asked for.
    Memory(u8),
    /// Kubernetes resizes in place, or does not.
    Resizes(bool),
    /// A pass on objects of the tick before.
    Stale,
    Passes(u8),
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        4 => (0..3_i32, 0..3_i32).prop_map(|(half, learners)| Event::Scale(half * 2 + 1, learners)),
        2 => any::<u8>().prop_map(|n| Event::Image(n % 4)),
        1 => Just(Event::BadImage),
        2 => any::<u8>().prop_map(|n| Event::Memory(n % 3)),
        1 => any::<bool>().prop_map(Event::Resizes),
        1 => (10..14_u32).prop_map(Event::Grow),
        1 => any::<bool>().prop_map(Event::Sleep),
        1 => any::<bool>().prop_map(Event::Paused),
        1 => any::<u8>().prop_map(|n| Event::Upgrade(n % 3)),
        3 => (any::<usize>(), 1..6_u32).prop_map(|(n, ticks)| Event::Crash(n, ticks)),
        2 => any::<usize>().prop_map(Event::Kill),
        2 => any::<usize>().prop_map(Event::LoseVolume),
        1 => any::<usize>().prop_map(Event::LoseHost),
        4 => (0..9_u32).prop_map(Event::Killed),
        4 => Just(Event::Stale),
        6 => (1..12_u8).prop_map(Event::Passes),
    ]
}

fn nth(model: &Model, n: usize) -> Option<String> {
    let count = model.pods.len();
    (count > 0).then(|| model.pods.keys().nth(n % count).cloned())?
}

/// Every member is up and has most of the log: losing one volume loses nothing that others do not have.
fn all_well(model: &Model) -> bool {
    let ids: Vec<_> = model.group.members.keys().copied().collect();
    !ids.is_empty() && ids.iter().all(|id| model.up(*id)) && model.voters().len() >= 3
}

fn happen(model: &mut Model, event: &Event) {
    match event {
        Event::Scale(replicas, learners) if !model.spec.hibernate => model.edit(|spec| {
            spec.replicas = *replicas;
            spec.learners = *learners;
        }),
        Event::Scale(..) => {}
        Event::Image(n) => model.edit(|spec| spec.image = Some(format!("image:{n}"))),
        Event::Memory(gib) => model.edit(|spec| spec.resources = memory(*gib)),
        Event::Resizes(on) => model.no_resize = (!on).then_some("not known"),
        Event::BadImage => model.edit(|spec| spec.image = Some(BAD_IMAGE.into())),
        Event::Grow(size) => {
            let old: u32 = model.spec.storage.size.0.trim_end_matches("Gi").parse().unwrap();
            model.edit(|spec| spec.storage.size.0 = format!("{}Gi", old.max(*size)));
        }
        Event::Sleep(on) => model.edit(|spec| spec.hibernate = *on),
        Event::Paused(on) => model.edit(|spec| spec.paused = *on),
        Event::Upgrade(n) => model.operator.image = format!("operator:{n}"),
        Event::Crash(n, ticks) => {
            if let Some(pod) = nth(model, *n) {
                model.crash(&pod, *ticks);
            }
        }
        Event::Kill(n) => {
            if let Some(pod) = nth(model, *n) {
                model.kill(&pod);
            }
        }
        Event::LoseVolume(n) => {
            if let Some(pod) = nth(model, *n).filter(|_| all_well(model)) {
                model.lose_volume(&pod);
            }
        }
        Event::LoseHost(n) => {
            if model.hosts.len() > 3 {
                let host = model.hosts.iter().nth(n % model.hosts.len()).unwrap().clone();
                model.hosts.remove(&host);
            }
        }
        Event::Killed(writes) => {
            model.pass(false, Some(*writes));
            model.tick();
        }
        Event::Stale => {
            model.pass(true, None);
            model.tick();
        }
        Event::Passes(count) => {
            for _ in 0..*count {
                model.pass(false, None);
                model.tick();
            }
        }
    }
}

fn memory(gib: u8) -> Option<k8s_openapi::api::core::v1::ResourceRequirements> {
    let limits = serde_json::json!({ "limits": { "memory": format!("{gib}Gi") } });
    (gib > 0).then(|| serde_json::from_value(limits).unwrap())
}

fn heal(model: &mut Model) {
    model.edit(|spec| {
        spec.hibernate = false;
        spec.paused = false;
        if spec.image.as_deref() == Some(BAD_IMAGE) {
            spec.image = Some("image:good".into());
        }
    });
    for pod in model.pods.values_mut() {
        pod.down = 0;
    }
}

/// Walks of one run; `KVNODE_WALKS` asks for more.
fn cases() -> u32 {
    std::env::var("KVNODE_WALKS").ok().and_then(|count| count.parse().ok()).unwrap_or(300)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), max_shrink_iters: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_happens_nothing_is_lost_and_it_settles(
        start in (0..3_i32, 0..2_i32, any::<bool>()),
        events in prop::collection::vec(event(), 1..40),
    ) {
        walk(start, &events)?;
    }
}

fn walk(start: (i32, i32, bool), events: &[Event]) -> Result<(), TestCaseError> {
    let mut spec = KvClusterSpec { replicas: start.0 * 2 + 1, learners: start.1, ..KvClusterSpec::default() };
    if start.2 {
        spec.storage.when_scaled = KeepOrDelete::Delete;
    }
    let mut model = Model::new(spec);
    for event in events {
        happen(&mut model, event);
    }
    heal(&mut model);
    let last = settle(&mut model, TICKS_MAX);
    // As asked for, and at rest.
    prop_assert_eq!(last.step, Step::Settled);
    prop_assert_eq!(model.voters().len(), usize::try_from(model.spec.replicas).unwrap());
    let members = usize::try_from(model.spec.replicas + model.spec.learners).unwrap();
    prop_assert_eq!(model.group.members.len(), members);
    prop_assert_eq!(model.pods.len(), members);
    prop_assert_eq!(model.founded, 1);
    // The same again: nothing.
    let again = model.planned();
    prop_assert_eq!(&again.step, &Step::Settled);
    prop_assert_eq!(&again.status, &model.recorded);
    prop_assert!(again.events.is_empty() && again.volumes.is_empty() && again.labels.is_empty());
    prop_assert_eq!(model.planned(), again);
    Ok(())
}

/// Found by a walk: down to one voter and up to five and two learners, on volumes of removed members, with an image that is
/// bad for a while. It settles, after more than 150 ticks.
#[test]
fn a_long_way_settles_too() {
    let events = [
        Event::Passes(11),
        Event::Killed(0),
        Event::Killed(2),
        Event::Crash(173_717_971_790_656, 1),
        Event::Scale(1, 1),
        Event::Crash(33_793_798_142_666, 1),
        Event::Stale,
        Event::Paused(true),
        Event::Killed(0),
        Event::Crash(5_805_248_900_780, 5),
        Event::Stale,
        Event::Crash(2_944_763_303_138_069_281, 4),
        Event::Scale(5, 2),
        Event::Passes(3),
        Event::Crash(3_603_420_430_262_260_201, 4),
        Event::Passes(13),
        Event::BadImage,
        Event::Passes(10),
    ];
    walk((2, 0, false), &events).unwrap();
}
