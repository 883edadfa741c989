//! The election as tables and as a random walk of several candidates over one lease.

use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::*;
use crate::clock;

fn record(holder: Option<&str>, seconds: u64) -> Record {
    Record {
        holder: holder.map(str::to_owned),
        duration: Duration::from_secs(seconds),
        transitions: 4,
        stamp: "t".into(),
    }
}

#[test]
fn every_case_has_one_move() {
    let since = clock::monotonic();
    let seen = |record| Some(Seen { record, since });
    let at = |ms| since + Duration::from_millis(ms);
    let left = |ms| Move::Yield { at_most: Duration::from_millis(ms) };
    let taken = Move::Take { transitions: 5 };
    let table = [
        (None, 0, Move::Create),
        (seen(record(None, 15)), 0, taken.clone()),
        (seen(record(Some("me"), 15)), 0, Move::Renew),
        // Ours, though it has run out: nobody took it meanwhile, or the record would be another one.
        (seen(record(Some("me"), 15)), 99_000, Move::Renew),
        (seen(record(Some("you"), 15)), 0, left(15_000)),
        (seen(record(Some("you"), 15)), 14_999, left(1)),
        (seen(record(Some("you"), 15)), 15_000, taken.clone()),
        (seen(record(Some("you"), 0)), 0, taken),
    ];
    for (seen, ms, expected) in table {
        assert_eq!(evaluate(seen.as_ref(), "me", at(ms)), expected, "{seen:?} after {ms} ms");
    }
}

#[test]
fn senseless_leases_read_as_free() {
    assert_eq!(Record::of(&Lease::default()).holder, None);
    let spec = LeaseSpec {
        holder_identity: Some(String::new()),
        lease_duration_seconds: Some(-3),
        ..LeaseSpec::default()
    };
    let record = Record::of(&Lease { spec: Some(spec), ..Lease::default() });
    assert_eq!((record.holder, record.duration), (None, Duration::ZERO));
}

#[test]
fn only_a_change_makes_a_sight_new() {
    let start = clock::monotonic();
    let first = Seen::update(None, record(Some("you"), 15), start);
    let same = Seen::update(Some(first.clone()), record(Some("you"), 15), start + Duration::from_secs(9));
    assert_eq!(same, first);
    let renewed = Record { stamp: "u".into(), ..record(Some("you"), 15) };
    let again = Seen::update(Some(first), renewed, start + Duration::from_secs(9));
    assert_eq!(again.since, start + Duration::from_secs(9));
}

/// One candidate of the walk: what it has seen, and until when it may believe that it leads.
#[derive(Clone, Default)]
struct Candidate {
    seen: Option<Seen>,
    /// Version that its view is of; a write is only accepted for the newest.
    version: u64,
    leads_until: Option<Instant>,
}

/// The lease in the API server.
#[derive(Default)]
struct Shared {
    record: Option<Record>,
    version: u64,
}

#[derive(Clone, Debug)]
enum Act {
    Look(usize),
    /// Decides on what it saw last, and writes; `lost` = the answer does not arrive.
    Write {
        who: usize,
        lost: bool,
    },
    Release(usize),
    Pass(u64),
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let act = prop_oneof![
        3 => (0usize..3).prop_map(Act::Look),
        3 => (0usize..3, prop::bool::weighted(0.2)).prop_map(|(who, lost)| Act::Write { who, lost }),
        1 => (0usize..3).prop_map(Act::Release),
        3 => (100u64..6000).prop_map(Act::Pass),
    ];
    prop::collection::vec(act, 1..120)
}

fn write(shared: &mut Shared, candidate: &mut Candidate, who: usize, lost: bool, now: Instant) {
    let me = format!("c{who}");
    let timing = Timing::default();
    let transitions = match evaluate(candidate.seen.as_ref(), &me, now) {
        Move::Yield { .. } => return,
        Move::Create => 0,
        Move::Take { transitions } => transitions,
        Move::Renew => candidate.seen.as_ref().map_or(0, |seen| seen.record.transitions),
    };
    if candidate.version != shared.version || candidate.seen.is_some() != shared.record.is_some() {
        candidate.leads_until = None;
        return;
    }
    shared.version += 1;
    let stamp = shared.version.to_string();
    shared.record = Some(Record { holder: Some(me), duration: timing.duration, transitions, stamp });
    if !lost {
        candidate.version = shared.version;
        candidate.seen = shared.record.clone().map(|record| Seen::update(None, record, now));
        candidate.leads_until = Some(now + timing.renew_deadline);
    }
}

proptest! {
    #[test]
    fn never_two_that_believe_to_lead(acts in acts()) {
        let mut now = clock::monotonic();
        let mut shared = Shared::default();
        let mut candidates = vec![Candidate::default(); 3];
        for act in acts {
            match act {
                Act::Look(who) => {
                    let before = candidates[who].seen.take();
                    let record = shared.record.clone();
                    candidates[who].seen = record.map(|record| Seen::update(before, record, now));
                    candidates[who].version = shared.version;
                }
                Act::Write { who, lost } => write(&mut shared, &mut candidates[who], who, lost, now),
                Act::Release(who) => {
                    let ours = shared.record.as_ref().is_some_and(|r| r.holder == Some(format!("c{who}")));
                    if ours && candidates[who].version == shared.version {
                        candidates[who].leads_until = None;
                        shared.version += 1;
                        shared.record = Some(Record { stamp: shared.version.to_string(), ..record(None, 1) });
                    }
                }
                Act::Pass(ms) => now += Duration::from_millis(ms),
            }
            let leading = candidates.iter().filter(|c| c.leads_until.is_some_and(|until| now < until));
            prop_assert!(leading.count() <= 1);
        }
        // Whatever happened, a candidate that looks every two seconds leads within the duration and two looks.
        let patient = 2;
        let end = now + Duration::from_secs(15 + 4);
        while now <= end {
            let before = candidates[patient].seen.take();
            let record = shared.record.clone();
            candidates[patient].seen = record.map(|record| Seen::update(before, record, now));
            candidates[patient].version = shared.version;
            write(&mut shared, &mut candidates[patient], patient, false, now);
            now += Duration::from_secs(2);
        }
        prop_assert_eq!(shared.record.and_then(|r| r.holder), Some("c2".to_owned()));
    }
}
