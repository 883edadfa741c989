//! The checker against brute force on thousands of small histories, and on planted violations in large ones.

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::{check, step};
use crate::history::{Action, Content, Operation};

fn op(client: usize, action: Action, call: u64, end: impl Into<Option<u64>>) -> Operation {
    Operation { client, key: 0, action, call, end: end.into() }
}

/// Every order of every choice of optional operations, straight from the definition.
fn brute_force(content: Content, left: &[Operation]) -> bool {
    if left.iter().all(|operation| operation.end.is_none()) {
        return true;
    }
    // An operation may be first if no other one ended before it was called.
    (0..left.len()).any(|first| {
        let candidate = left[first];
        if left.iter().any(|other| other.end.is_some_and(|end| end < candidate.call)) {
            return false;
        }
        let Some(after) = step(content, candidate.action) else { return false };
        let mut rest = left.to_vec();
        rest.remove(first);
        brute_force(after, &rest)
    })
}

/// A small history with random replies: about as often wrong as right.
fn random_history(random: &mut StdRng) -> Vec<Operation> {
    let count = random.random_range(1..=7);
    let mut values = 0;
    (0..count)
        .map(|client| {
            let call = random.random_range(0..20);
            let end = random.random_bool(0.75).then(|| call + random.random_range(0..8));
            let action = match random.random_range(0..4) {
                0 => {
                    values += 1;
                    Action::Set(values)
                }
                1 => Action::Del(end.map(|_| random.random_bool(0.5))),
                _ => Action::Get(random.random_bool(0.8).then(|| random.random_range(1..4))),
            };
            op(client, action, call, end)
        })
        .filter(|operation| !matches!((operation.action, operation.end), (Action::Get(_), None)))
        .collect()
}

#[test]
fn agrees_with_brute_force_on_small_histories() {
    let mut random = StdRng::seed_from_u64(1);
    let (mut right, mut wrong) = (0, 0);
    for round in 0..20_000 {
        let history = random_history(&mut random);
        let expected = brute_force(None, &history);
        assert_eq!(check(None, &history).is_ok(), expected, "round {round}: {history:#?}");
        if expected { right += 1 } else { wrong += 1 }
    }
    assert!(right > 2000 && wrong > 2000, "one-sided sample: {right} right, {wrong} wrong");
}

/// A history of `clients` clients that is linearizable by construction: each operation takes effect at a drawn instant
/// between its call and its end; one in forty has no reply, and half of those never take effect.
fn long_history(seed: u64, clients: usize, count: usize) -> Vec<Operation> {
    let mut random = StdRng::seed_from_u64(seed);
    let mut planned: Vec<(u64, Operation, bool)> = Vec::new();
    let mut free_at = vec![0_u64; clients];
    for index in 0..count {
        let client = index % clients;
        let call = free_at[client] + random.random_range(1..50);
        let effect = call + random.random_range(1..100);
        let end = effect + random.random_range(1..100);
        free_at[client] = end;
        let action = match random.random_range(0..10) {
            0..4 => Action::Set(index as u64 + 1),
            4 => Action::Del(None),
            _ => Action::Get(None),
        };
        let lost = random.random_bool(0.025);
        let happens = !lost || random.random_bool(0.5);
        planned.push((effect, op(client, action, call, (!lost).then_some(end)), happens));
    }
    planned.sort_by_key(|(effect, ..)| *effect);
    let mut content: Content = None;
    let mut history = Vec::new();
    for (_, mut operation, happens) in planned {
        let known = operation.end.is_some();
        operation.action = match operation.action {
            Action::Get(_) => Action::Get(content),
            Action::Del(_) => Action::Del(known.then_some(content.is_some())),
            set @ Action::Set(_) => set,
        };
        if happens {
            content = step(content, operation.action).expect("the replies were made from the content");
        }
        if known || !matches!(operation.action, Action::Get(_)) {
            history.push(operation);
        }
    }
    history
}

#[test]
fn long_histories_with_lost_replies_pass() {
    for seed in 0..20 {
        let history = long_history(seed, 8, 3000);
        assert!(check(None, &history).is_ok(), "seed {seed}");
    }
}

#[test]
fn one_stale_read_in_a_long_history_is_found() {
    for seed in 0..20 {
        let mut history = long_history(seed, 8, 3000);
        // The last acknowledged SET before the middle, and a read called long after it that returns an older value.
        let ends: Vec<(u64, u64)> = history
            .iter()
            .filter_map(|operation| match (operation.action, operation.end) {
                (Action::Set(value), Some(end)) => Some((end, value)),
                _ => None,
            })
            .collect();
        let old = ends[ends.len() / 4].1;
        let late = ends[ends.len() / 2].0 + 10_000;
        history.push(op(9, Action::Get(Some(old)), late, late + 10));
        let violation = check(None, &history).expect_err("a stale read");
        assert!(violation.explained > 0 && !violation.around.is_empty(), "seed {seed}");
    }
}

#[test]
fn a_lost_acknowledged_write_is_found() {
    let history = [op(0, Action::Set(1), 0, 5), op(1, Action::Get(None), 10, 12)];
    assert!(check(None, &history).is_err());
    let unknown = [op(0, Action::Set(1), 0, None), op(1, Action::Get(None), 10, 12)];
    assert!(check(None, &unknown).is_ok(), "an unknown write may be lost");
}

#[test]
fn an_unknown_write_may_come_late_but_only_once() {
    let late =
        [op(0, Action::Set(1), 0, None), op(1, Action::Set(2), 10, 12), op(1, Action::Get(Some(1)), 20, 22)];
    assert!(check(None, &late).is_ok());
    let twice = [
        op(0, Action::Set(1), 0, None),
        op(1, Action::Get(Some(1)), 10, 12),
        op(1, Action::Set(2), 20, 22),
        op(1, Action::Get(Some(1)), 30, 32),
    ];
    assert!(check(None, &twice).is_err(), "it was seen before the second write and cannot return after it");
}

#[test]
fn a_read_from_the_future_is_found() {
    let history = [op(0, Action::Get(Some(1)), 0, 2), op(1, Action::Set(1), 5, 7)];
    assert!(check(None, &history).is_err());
    let unknown = [op(0, Action::Get(Some(1)), 0, 2), op(1, Action::Set(1), 5, None)];
    assert!(check(None, &unknown).is_err());
}

#[test]
fn many_unknown_writes_do_not_blow_up() {
    let mut history: Vec<Operation> =
        (0..40).map(|n| op(n, Action::Set(n as u64 + 1), n as u64, None)).collect();
    history.push(op(50, Action::Set(1000), 100, 110));
    history.extend((0..30).map(|n| op(51, Action::Get(Some(1000)), 200 + n * 10, 205 + n * 10)));
    history.push(op(52, Action::Get(None), 600, 605));
    assert!(check(None, &history).is_err(), "no DEL explains the missing key");
    history.push(op(53, Action::Del(None), 550, None));
    assert!(check(None, &history).is_ok());
}
