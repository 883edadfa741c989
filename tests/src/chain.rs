//! Linearizability of a key whose contents form a chain: each write takes the content one step on.
//!
//! A counter (INCR) is one: its content is its place. A register that is only compared and set to values of its own is
//! another: a value's place is the number of values before it. So every write and every read of such a history has a
//! place, and the one order that can explain it is the order of the places, a write before the reads of its value. It
//! does, if nobody saw a later place before an earlier one was called.
//!
//! A write of unknown outcome has no place. Each place that somebody saw beyond and no acknowledged write has needs one
//! of them, called before the first operation with a later or equal place ended; by Hall's theorem it is enough to count.

use std::collections::{BTreeMap, BTreeSet, HashMap};

/// One operation on a chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    /// What it did.
    pub deed: Deed,
    /// Nanoseconds from the start of the history to the call.
    pub call: u64,
    /// Nanoseconds to the reply; `None` = unknown outcome.
    pub end: Option<u64>,
}

/// What an operation on a chain did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deed {
    /// Took the content to this place.
    Write(u64),
    /// Saw this place; 0 is the beginning.
    Read(u64),
    /// A write that may have taken place or not.
    Unknown,
}

impl Step {
    fn place(&self) -> u64 {
        match self.deed {
            Deed::Write(place) | Deed::Read(place) => place,
            Deed::Unknown => 0,
        }
    }
}

/// Checks the history of one chain.
///
/// # Errors
/// What cannot be: two writes of one place, an operation that saw less than one that ended before it was called, or a
/// place that no write explains.
pub fn check(history: &[Step]) -> Result<(), String> {
    let known: Vec<Step> = history.iter().filter(|step| step.deed != Deed::Unknown).copied().collect();
    check_order(&known)?;
    let mut written = BTreeSet::new();
    for step in known.iter().filter(|step| matches!(step.deed, Deed::Write(_))) {
        if step.place() == 0 || !written.insert(step.place()) {
            return Err(format!("place {} was written twice, or is the beginning: {step:?}", step.place()));
        }
    }
    check_gaps(history, &known, &written)
}

/// Whoever is called after another has ended sees at least its place; a write comes after all that it follows.
fn check_order(known: &[Step]) -> Result<(), String> {
    let mut by_call: Vec<&Step> = known.iter().collect();
    by_call.sort_by_key(|step| step.call);
    let mut by_end: Vec<&Step> = known.iter().filter(|step| step.end.is_some()).collect();
    by_end.sort_by_key(|step| step.end);
    let mut ended = by_end.into_iter().peekable();
    let mut highest: Option<&Step> = None;
    for step in by_call {
        while let Some(before) = ended.next_if(|before| before.end.is_some_and(|end| end < step.call)) {
            if highest.is_none_or(|highest| before.place() > highest.place()) {
                highest = Some(before);
            }
        }
        let Some(highest) = highest else { continue };
        let goes_back = match step.deed {
            Deed::Write(place) => place <= highest.place(),
            _ => step.place() < highest.place(),
        };
        if goes_back {
            return Err(format!("{step:?} was called after {highest:?} had ended"));
        }
    }
    Ok(())
}

fn check_gaps(history: &[Step], known: &[Step], written: &BTreeSet<u64>) -> Result<(), String> {
    let mut calls: Vec<u64> =
        history.iter().filter(|step| step.deed == Deed::Unknown).map(|step| step.call).collect();
    calls.sort_unstable();
    // The first end among the operations of a place, or of a later one.
    let mut first_end: BTreeMap<u64, u64> = BTreeMap::new();
    for step in known {
        let end = step.end.unwrap_or(u64::MAX);
        first_end.entry(step.place()).and_modify(|first| *first = end.min(*first)).or_insert(end);
    }
    let highest = first_end.keys().next_back().copied().unwrap_or(0);
    let mut gaps = Vec::new();
    let mut until = u64::MAX;
    for place in (1..=highest).rev() {
        until = until.min(first_end.get(&place).copied().unwrap_or(u64::MAX));
        if !written.contains(&place) {
            gaps.push((place, until));
        }
    }
    for (count, (place, until)) in gaps.iter().rev().enumerate() {
        if calls.get(count).is_none_or(|call| call > until) {
            return Err(format!("nobody can have written place {place}, which was seen by {until}"));
        }
    }
    Ok(())
}

/// A compare-and-set, or a read, of a register; every write brings a value of its own, and the beginning is 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Swap {
    /// From the first value to the second one; acknowledged or of unknown outcome.
    From(u64, u64),
    /// The value was seen.
    Saw(u64),
    /// Refused: the content was another value than this one.
    NotFrom(u64),
}

/// Turns a register's history into that of a chain, and checks it.
///
/// # Errors
/// As [`check`]; also two successors of one value, a value that nobody wrote, and a refusal while nothing had changed.
pub fn check_swaps(history: &[(Swap, Step)]) -> Result<(), String> {
    let mut from: HashMap<u64, (u64, Step)> = HashMap::new();
    for (swap, step) in history {
        if let Swap::From(old, new) = swap {
            from.insert(*new, (*old, *step));
        }
    }
    let seen = history.iter().map(|(swap, step)| match swap {
        Swap::Saw(value) | Swap::NotFrom(value) => *value,
        Swap::From(old, new) => {
            if step.end.is_some() {
                *new
            } else {
                *old
            }
        }
    });
    // A write took place if it was acknowledged, or if its value was seen or built upon.
    let mut next: HashMap<u64, u64> = HashMap::new();
    for value in seen {
        let mut value = value;
        while value != 0 {
            let Some((old, _)) = from.get(&value) else { return Err(format!("nobody wrote {value}")) };
            match next.insert(*old, value) {
                Some(other) if other == value => break,
                Some(other) => return Err(format!("{old} was replaced by {other} and by {value}")),
                None => value = *old,
            }
        }
    }
    let mut places = HashMap::from([(0, 0)]);
    let mut chain = vec![0];
    while let Some(value) = chain.last().and_then(|last| next.get(last)) {
        places.insert(*value, chain.len() as u64);
        chain.push(*value);
    }
    let steps: Vec<Step> = history
        .iter()
        .filter_map(|(swap, step)| {
            let deed = match swap {
                Swap::Saw(value) => Deed::Read(*places.get(value)?),
                // It was there: a write is known to follow what it replaced, and an unknown one has a place by now.
                Swap::From(_, new) => Deed::Write(*places.get(new)?),
                Swap::NotFrom(_) => return None,
            };
            Some(Step { deed, ..*step })
        })
        .collect();
    check(&steps)?;
    check_refusals(history, &places, &steps)
}

/// A compare-and-set is refused wrongly if its value was there from before its call until after its end.
fn check_refusals(
    history: &[(Swap, Step)],
    places: &HashMap<u64, u64>,
    steps: &[Step],
) -> Result<(), String> {
    for (swap, refused) in history {
        let Swap::NotFrom(value) = swap else { continue };
        let (Some(place), Some(end)) = (places.get(value), refused.end) else { continue };
        let came = *place == 0
            || steps
                .iter()
                .any(|step| step.place() >= *place && step.end.is_some_and(|end| end < refused.call));
        let goes = steps.iter().any(|step| step.deed == Deed::Write(place + 1) && step.call < end)
            || history.iter().any(|(swap, step)| {
                step.end.is_none() && step.call < end && matches!(swap, Swap::From(old, _) if old == value)
            });
        if came && !goes {
            return Err(format!("{swap:?} {refused:?} was refused, but nothing had replaced the value"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(deed: Deed, call: u64, end: u64) -> Step {
        Step { deed, call, end: Some(end) }
    }

    fn unknown(call: u64) -> Step {
        Step { deed: Deed::Unknown, call, end: None }
    }

    use Deed::{Read, Write};

    #[test]
    fn concurrent_steps_may_take_effect_in_any_order_and_others_may_not() {
        check(&[step(Write(2), 0, 10), step(Write(1), 1, 9), step(Read(1), 2, 8), step(Read(2), 11, 12)])
            .unwrap();
        check(&[step(Write(1), 0, 1), step(Write(2), 2, 3), step(Read(1), 4, 5)]).unwrap_err();
        check(&[step(Write(2), 0, 1), step(Write(1), 2, 3)]).unwrap_err();
        check(&[step(Read(1), 0, 1), step(Write(1), 2, 3)]).unwrap_err();
        check(&[step(Write(1), 0, 1), step(Read(0), 2, 3)]).unwrap_err();
    }

    #[test]
    fn a_step_is_taken_once() {
        check(&[step(Write(1), 0, 9), step(Write(1), 0, 9)]).unwrap_err();
    }

    #[test]
    fn a_gap_needs_an_unknown_write_that_was_called_in_time() {
        check(&[unknown(0), step(Write(2), 1, 2)]).unwrap();
        check(&[unknown(0), unknown(1), step(Write(1), 2, 3)]).unwrap();
        check(&[step(Write(2), 1, 2)]).unwrap_err();
        check(&[step(Write(2), 1, 2), unknown(3)]).unwrap_err();
        check(&[unknown(0), step(Write(3), 1, 2)]).unwrap_err();
        check(&[unknown(0), step(Read(1), 1, 2), step(Read(2), 3, 4), unknown(5)]).unwrap_err();
        check(&[unknown(0), step(Read(1), 1, 2), step(Read(2), 3, 6), unknown(5)]).unwrap();
    }

    fn swap(old: u64, new: u64, call: u64, end: Option<u64>) -> (Swap, Step) {
        (Swap::From(old, new), Step { deed: Deed::Unknown, call, end })
    }

    fn other(swap: Swap, call: u64, end: u64) -> (Swap, Step) {
        (swap, step(Deed::Unknown, call, end))
    }

    #[test]
    fn swaps_follow_each_other() {
        check_swaps(&[swap(0, 7, 0, Some(1)), swap(7, 5, 2, Some(3)), other(Swap::Saw(5), 4, 5)]).unwrap();
        check_swaps(&[swap(0, 7, 0, Some(1)), swap(0, 5, 2, Some(3))]).unwrap_err();
        check_swaps(&[swap(0, 7, 0, Some(1)), swap(7, 5, 2, Some(3)), other(Swap::Saw(7), 4, 5)])
            .unwrap_err();
        check_swaps(&[other(Swap::Saw(7), 4, 5)]).unwrap_err();
    }

    #[test]
    fn an_unknown_swap_counts_once_it_is_seen() {
        check_swaps(&[swap(0, 7, 0, None), swap(0, 5, 2, Some(3))]).unwrap();
        check_swaps(&[swap(0, 7, 0, None), swap(7, 5, 2, Some(3))]).unwrap();
        check_swaps(&[swap(0, 7, 0, None), other(Swap::Saw(7), 2, 3), swap(0, 5, 4, Some(5))]).unwrap_err();
        check_swaps(&[other(Swap::Saw(7), 2, 3), swap(0, 7, 4, None)]).unwrap_err();
    }

    #[test]
    fn a_refusal_needs_a_change() {
        let wrong = other(Swap::NotFrom(0), 2, 3);
        check_swaps(&[wrong]).unwrap_err();
        check_swaps(&[wrong, swap(0, 7, 0, None)]).unwrap();
        check_swaps(&[wrong, swap(0, 7, 4, None)]).unwrap_err();
        check_swaps(&[wrong, swap(0, 7, 0, Some(5))]).unwrap();
        check_swaps(&[wrong, swap(0, 7, 4, Some(5))]).unwrap_err();
    }
}
