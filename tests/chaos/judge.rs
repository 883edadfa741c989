//! The verdict on a history: each key by itself, by what its class promises.
//!
//! | class | judged by |
//! | --- | --- |
//! | register, pair | the search of [`checker`]: linearizable, unknown outcomes as unknown |
//! | counter, compare-and-set | [`chain`]: the one order that their values leave is looked at |
//! | lock | who has it, has it until he gives it back: nobody else acquires it, every read in between shows him |
//!
//! An acknowledged write that is lost shows as a read of what was before it; the last read of every key, after all
//! faults, sees to that there is one.
//!
//! Where a majority lost its power at a durability that does not promise to keep everything, an epoch ends: up to that
//! moment its keys are judged as ever, with what was pending then as unknown. Of the reads after it only this is
//! asked: what they show must have been written by somebody. Keys that show less than was acknowledged are counted.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use kvnode_tests::chain::{self, Deed as Turn, Step, Swap};
use kvnode_tests::checker;
use kvnode_tests::history::{self, Action};

use crate::keys::{Class, Key};
use crate::record::{Deed, Operation, Outcome};

/// What a judgement found.
#[derive(Debug, Default)]
pub(crate) struct Verdict {
    /// One text for each key that contradicts its promise.
    pub(crate) violations: Vec<String>,
    /// Operations of known outcome that were looked at.
    pub(crate) checked: usize,
    pub(crate) unknown: usize,
    /// Keys that lost acknowledged writes where the durability allows it.
    pub(crate) lost: usize,
}

/// Judges all keys; `ends` are the times at which epochs ended, on so many threads.
pub(crate) fn judge(keys: &[Key], operations: &[Operation], ends: &[u64], threads: usize) -> Verdict {
    let mut of_key: Vec<Vec<Operation>> = vec![Vec::new(); keys.len()];
    for operation in operations {
        of_key[operation.key as usize].push(*operation);
    }
    let next = AtomicUsize::new(0);
    let verdict = Mutex::new(Verdict::default());
    let work = || {
        loop {
            let index = next.fetch_add(1, Ordering::Relaxed);
            let (Some(key), Some(list)) = (keys.get(index), of_key.get(index)) else { return };
            let found = of(key, list, ends.get(key.epoch).copied());
            let mut all = verdict.lock().unwrap_or_else(PoisonError::into_inner);
            all.violations.extend(found.violations);
            all.checked += found.checked;
            all.unknown += found.unknown;
            all.lost += found.lost;
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..threads.max(1) {
            scope.spawn(work);
        }
    });
    verdict.into_inner().unwrap_or_else(PoisonError::into_inner)
}

fn of(key: &Key, list: &[Operation], end: Option<u64>) -> Verdict {
    let count = |wanted: fn(&Outcome) -> bool| list.iter().filter(|one| wanted(&one.outcome)).count();
    let mut verdict = Verdict {
        checked: count(|outcome| matches!(outcome, Outcome::Ok(_) | Outcome::Refused)),
        unknown: count(|outcome| *outcome == Outcome::Unknown),
        ..Verdict::default()
    };
    let judged = match end {
        None => linearizable(key.class, list),
        Some(end) => {
            let before = until(list, end);
            verdict.lost = usize::from(linearizable(key.class, &with_rest(&before, list, end)).is_err());
            linearizable(key.class, &before).and_then(|()| was_written(key.class, list, end))
        }
    };
    verdict.violations.extend(judged.err().map(|why| format!("key {}: {why}", key.name)));
    verdict
}

fn linearizable(class: Class, list: &[Operation]) -> Result<(), String> {
    match class {
        Class::Register | Class::Pair => register(list),
        Class::Counter => chain::check(&counter(list)),
        Class::Swapped => chain::check_swaps(&swaps(list)),
        Class::Lock => lock(list),
    }
}

/// The history as it stood at this time: what had not ended then may have taken effect or not.
fn until(list: &[Operation], end: u64) -> Vec<Operation> {
    let called = list.iter().filter(|one| one.call < end);
    let known = called.filter(|one| one.end <= end || one.deed != Deed::Read);
    known
        .map(|one| if one.end <= end { *one } else { Operation { outcome: Outcome::Unknown, ..*one } })
        .collect()
}

/// With the reads of afterwards, and writes that were on their way.
fn with_rest(before: &[Operation], list: &[Operation], end: u64) -> Vec<Operation> {
    let mut all = before.to_vec();
    for one in list.iter().filter(|one| one.call >= end) {
        let is_read = one.deed == Deed::Read;
        all.push(if is_read { *one } else { Operation { outcome: Outcome::Unknown, ..*one } });
    }
    all
}

/// Every read after the end shows the beginning, or what somebody wrote.
fn was_written(class: Class, list: &[Operation], end: u64) -> Result<(), String> {
    let additions = list.iter().filter(|one| one.deed == Deed::Add && one.outcome != Outcome::Failed).count();
    for read in list.iter().filter(|one| one.call >= end && one.deed == Deed::Read) {
        let Outcome::Ok(Some(seen)) = read.outcome else { continue };
        let is_written = if class == Class::Counter {
            seen <= additions as u64
        } else {
            list.iter().any(|one| match one.deed {
                Deed::Write(value) | Deed::Swap(_, value) | Deed::Acquire(value) => value == seen,
                _ => false,
            })
        };
        if !is_written {
            return Err(format!("after the power came back it shows {seen}, which nobody wrote"));
        }
    }
    Ok(())
}

fn register(list: &[Operation]) -> Result<(), String> {
    let operations: Vec<history::Operation> = list
        .iter()
        .filter_map(|one| {
            let (action, end) = match (one.deed, one.outcome) {
                (Deed::Write(value), Outcome::Ok(_)) => (Action::Set(value), Some(one.end)),
                (Deed::Write(value), Outcome::Unknown) => (Action::Set(value), None),
                (Deed::Delete, Outcome::Ok(found)) => (Action::Del(Some(found == Some(1))), Some(one.end)),
                (Deed::Delete, Outcome::Unknown) => (Action::Del(None), None),
                (Deed::Read, Outcome::Ok(seen)) => (Action::Get(seen), Some(one.end)),
                _ => return None,
            };
            let (client, key) = (one.process as usize, one.key as usize);
            Some(history::Operation { client, key, action, call: one.call, end })
        })
        .collect();
    checker::check(None, &operations).map_err(|violation| {
        format!(
            "not linearizable after {} of {} operations; the content is {:?} then, and cannot be placed: {:?}",
            violation.explained,
            operations.len(),
            violation.content,
            violation.stuck
        )
    })
}

fn step(one: &Operation, deed: Turn) -> Step {
    let is_known = one.outcome != Outcome::Unknown;
    Step { deed, call: one.call, end: is_known.then_some(one.end) }
}

fn counter(list: &[Operation]) -> Vec<Step> {
    let steps = list.iter().filter_map(|one| {
        let deed = match (one.deed, one.outcome) {
            (Deed::Add, Outcome::Ok(Some(place))) => Turn::Write(place),
            (Deed::Add, Outcome::Unknown) => Turn::Unknown,
            (Deed::Read, Outcome::Ok(seen)) => Turn::Read(seen.unwrap_or(0)),
            _ => return None,
        };
        Some(step(one, deed))
    });
    steps.collect()
}

fn swaps(list: &[Operation]) -> Vec<(Swap, Step)> {
    let swaps = list.iter().filter_map(|one| {
        let swap = match (one.deed, one.outcome) {
            (Deed::Swap(old, new), Outcome::Ok(_) | Outcome::Unknown) => Swap::From(old, new),
            (Deed::Swap(old, _), Outcome::Refused) => Swap::NotFrom(old),
            (Deed::Read, Outcome::Ok(seen)) => Swap::Saw(seen.unwrap_or(0)),
            _ => return None,
        };
        Some((swap, step(one, Turn::Unknown)))
    });
    swaps.collect()
}

/// Somebody has a lock from the answer to his acquisition to the call of his release, or for ever.
fn lock(list: &[Operation]) -> Result<(), String> {
    let releases: HashMap<u64, &Operation> = list
        .iter()
        .filter_map(|one| if let Deed::Release(token) = one.deed { Some((token, one)) } else { None })
        .collect();
    let mut holds: Vec<(u64, u64, u64)> = list
        .iter()
        .filter_map(|one| match (one.deed, one.outcome) {
            (Deed::Acquire(token), Outcome::Ok(_)) => {
                Some((one.end, releases.get(&token).map_or(u64::MAX, |release| release.call), token))
            }
            _ => None,
        })
        .collect();
    holds.sort_unstable();
    for pair in holds.windows(2) {
        if pair[0].1 > pair[1].0 {
            return Err(format!("held twice (from, to, owner): {:?} and {:?}", pair[0], pair[1]));
        }
    }
    if let Some((token, release)) = releases.iter().find(|(_, one)| one.outcome == Outcome::Refused) {
        return Err(format!("{token} had it and it was not his any more at {release:?}"));
    }
    for read in list.iter().filter(|one| one.deed == Deed::Read) {
        let Outcome::Ok(seen) = read.outcome else { continue };
        let at = holds.partition_point(|(from, _, _)| *from < read.call);
        let Some(&(_, to, token)) = at.checked_sub(1).and_then(|at| holds.get(at)) else { continue };
        if read.end <= to && seen != Some(token) {
            return Err(format!("{token} had it, but a read showed {seen:?}: {read:?}"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn did(deed: Deed, outcome: Outcome, call: u64, end: u64) -> Operation {
        Operation { process: 0, key: 0, deed, outcome, call, end }
    }

    fn violations(class: Class, list: &[Operation], ends: &[u64]) -> usize {
        let key = Key { class, name: "k".into(), epoch: 0 };
        judge(&[key], list, ends, 1).violations.len()
    }

    const DONE: Outcome = Outcome::Ok(None);

    #[test]
    fn a_lost_write_is_found_in_each_class() {
        let saw = |value| did(Deed::Read, Outcome::Ok(value), 5, 6);
        let lost: [(Class, &[Operation]); 5] = [
            (Class::Register, &[did(Deed::Write(1), DONE, 1, 2), saw(None)]),
            (Class::Pair, &[did(Deed::Write(1), DONE, 1, 2), did(Deed::Write(2), DONE, 3, 4), saw(Some(1))]),
            (Class::Counter, &[did(Deed::Add, Outcome::Ok(Some(1)), 1, 2), saw(None)]),
            (Class::Swapped, &[did(Deed::Swap(0, 9), DONE, 1, 2), saw(None)]),
            (Class::Lock, &[did(Deed::Acquire(9), DONE, 1, 2), saw(None)]),
        ];
        for (class, list) in lost {
            assert_eq!(violations(class, list, &[]), 1, "{class:?}");
            // Lost by a cut at 4 that may take it: nothing was promised, and what is left was written by somebody.
            assert_eq!(violations(class, list, &[4]), 0, "{class:?}");
            let key = Key { class, name: "k".into(), epoch: 0 };
            assert_eq!(judge(&[key], list, &[4], 1).lost, 1, "{class:?}");
        }
    }

    #[test]
    fn an_epoch_is_judged_up_to_its_end_and_shows_nothing_new_after_it() {
        let stale = [
            did(Deed::Write(1), DONE, 1, 2),
            did(Deed::Write(2), DONE, 3, 4),
            did(Deed::Read, Outcome::Ok(Some(1)), 5, 6),
        ];
        assert_eq!(violations(Class::Register, &stale, &[10]), 1);
        assert_eq!(violations(Class::Register, &stale, &[5]), 0);
        let strange = [did(Deed::Write(1), DONE, 1, 2), did(Deed::Read, Outcome::Ok(Some(7)), 5, 6)];
        assert_eq!(violations(Class::Register, &strange, &[3]), 1);
        let early = [did(Deed::Add, Outcome::Ok(Some(1)), 1, 2), did(Deed::Read, Outcome::Ok(Some(2)), 5, 6)];
        assert_eq!(violations(Class::Counter, &early, &[3]), 1);
    }

    #[test]
    fn what_was_pending_at_the_end_of_an_epoch_may_have_taken_effect_or_not() {
        let pending = did(Deed::Write(2), DONE, 2, 9);
        for seen in [Some(1), Some(2)] {
            let list = [
                did(Deed::Write(1), DONE, 0, 1),
                pending,
                did(Deed::Read, Outcome::Ok(seen), 3, 4),
                did(Deed::Read, Outcome::Ok(seen), 20, 21),
            ];
            assert_eq!(violations(Class::Register, &list, &[5]), 0, "{seen:?}");
        }
    }

    #[test]
    fn a_lock_has_one_owner() {
        let had = [did(Deed::Acquire(1), DONE, 1, 2), did(Deed::Release(1), DONE, 5, 6)];
        let other = |from| did(Deed::Acquire(2), DONE, from, from + 1);
        let with = |one| [&had[..], &[one]].concat();
        assert_eq!(violations(Class::Lock, &with(other(5)), &[]), 0);
        assert_eq!(violations(Class::Lock, &with(other(3)), &[]), 1);
        let read = |value| did(Deed::Read, Outcome::Ok(value), 3, 4);
        assert_eq!(violations(Class::Lock, &with(read(Some(1))), &[]), 0);
        assert_eq!(violations(Class::Lock, &with(read(Some(2))), &[]), 1);
        let gone = [did(Deed::Acquire(1), DONE, 1, 2), did(Deed::Release(1), Outcome::Refused, 5, 6)];
        assert_eq!(violations(Class::Lock, &gone, &[]), 1);
    }
}
