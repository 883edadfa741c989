//! Linearizability of one register's history, unknown outcomes included.
//!
//! The search of Wing and Gong with Lowe's memo of configurations: walk the calls and ends in the order of time; try to
//! let a pending operation take effect, go back when the end of one that has not yet taken effect is met.
//! (J. M. Wing, C. Gong, "Testing and verifying concurrent objects", 1993; G. Lowe, "Testing for linearizability", 2017.)
//!
//! Operations of unknown outcome have no end, so they may take effect late or never. Four facts keep the search small:
//! - An unknown SET whose value somebody read took effect before that read ended: it gets that end and is no longer unknown.
//! - The rest (values that nobody read; DELs) are interchangeable within their kind, so they are tried in the order of
//!   their calls only: whatever a later one could explain, an earlier one of the same kind explains too. Nobody sees them
//!   but by a key being there or not, so such a SET is tried only on a missing key and such a DEL only on a present one.
//! - Of two ways to the same configuration the one that used up fewer unknown operations can do all that the other can.
//! - An operation that changes nothing and may take effect now is best let to do so at once: no alternative is kept.

use std::collections::HashMap;

use crate::history::{Action, Content, Operation};

/// Stands for all values that no GET returned.
const UNSEEN: u64 = u64::MAX;

/// Why no order of the operations explains the history.
#[derive(Clone, Debug)]
pub struct Violation {
    /// How many operations of known outcome the longest explained prefix holds.
    pub explained: usize,
    /// The content after it.
    pub content: Content,
    /// The operation that ended next and cannot be explained.
    pub stuck: Operation,
    /// The operations that ended before it or were pending with it, for the message.
    pub around: Vec<Operation>,
}

/// Checks the history of one key that was `initial` before.
///
/// # Errors
/// The history is not linearizable.
pub fn check(initial: Content, history: &[Operation]) -> Result<(), Violation> {
    Search::new(initial, history).run()
}

struct Search {
    /// Operations that ended, by call.
    known: Vec<Operation>,
    /// Calls of the unknown SETs and of the unknown DELs, ascending.
    unknown: [Vec<u64>; 2],
    /// How many of them have taken effect.
    used: [usize; 2],
    /// Calls and ends in the order of time, as a doubly linked list; 0 is its head.
    events: Vec<Event>,
    content: Content,
    done: Bits,
    left: usize,
    /// Configurations from which no way on was found, each with what they had used (none of them below another).
    seen: HashMap<(Bits, Content), Vec<[usize; 2]>>,
}

/// One step of the search, to be undone.
#[derive(Clone, Copy)]
struct Taken {
    choice: Choice,
    before: Content,
    /// No alternative to this step needs to be tried.
    forced: bool,
}

/// What to try next.
#[derive(Clone, Copy)]
enum Choice {
    /// The operation called at this event, or what comes after it.
    Event(usize),
    /// An unknown SET (0) or DEL (1).
    Unknown(usize),
    /// Nothing is left to try.
    Nothing,
}

#[derive(Clone, Copy, Debug)]
struct Event {
    operation: usize,
    time: u64,
    /// Index of the end's event; `None` of an end itself.
    end: Option<usize>,
    previous: usize,
    next: usize,
}

#[derive(Clone, PartialEq, Eq, Hash)]
struct Bits(Vec<u64>);

impl Bits {
    fn new(count: usize) -> Self {
        Self(vec![0; count.div_ceil(64)])
    }
    fn set(&mut self, index: usize) {
        self.0[index / 64] |= 1 << (index % 64);
    }
    fn clear(&mut self, index: usize) {
        self.0[index / 64] &= !(1 << (index % 64));
    }
}

/// Applies one operation to the register: the content after it, `None` if its reply contradicts the content.
fn step(content: Content, action: Action) -> Option<Content> {
    match action {
        Action::Set(value) => Some(Some(value)),
        Action::Del(None) => Some(None),
        Action::Del(Some(found)) => (content.is_some() == found).then_some(None),
        Action::Get(seen) => (content == seen).then_some(content),
    }
}

impl Search {
    fn new(initial: Content, history: &[Operation]) -> Self {
        let (mut known, unknown): (Vec<Operation>, Vec<Operation>) =
            prepare(initial, history).into_iter().partition(|operation| operation.end.is_some());
        known.sort_by_key(|operation| operation.call);
        let calls = |wanted: fn(Action) -> bool| {
            let mut calls: Vec<u64> =
                unknown.iter().filter(|op| wanted(op.action)).map(|op| op.call).collect();
            calls.sort_unstable();
            calls
        };
        Self {
            unknown: [calls(|a| matches!(a, Action::Set(_))), calls(|a| matches!(a, Action::Del(_)))],
            used: [0, 0],
            events: events(&known),
            content: initial,
            done: Bits::new(known.len()),
            left: known.len(),
            seen: HashMap::new(),
            known,
        }
    }

    fn run(mut self) -> Result<(), Violation> {
        let mut taken: Vec<Taken> = Vec::new();
        let mut worst: Option<Violation> = None;
        let mut choice = Choice::Event(self.events[0].next);
        while self.left > 0 {
            choice = match choice {
                Choice::Event(at) if self.events[at].end.is_some() => self.try_known(at, &mut taken),
                Choice::Event(at) => {
                    self.note_dead_end(at, &mut worst);
                    Choice::Unknown(0)
                }
                Choice::Unknown(class) => self.try_unknown(class, &mut taken),
                Choice::Nothing => match taken.pop() {
                    Some(step) => self.undo(step),
                    None => return Err(worst.expect("the first dead end was noted")),
                },
            };
        }
        Ok(())
    }

    fn try_known(&mut self, at: usize, taken: &mut Vec<Taken>) -> Choice {
        let event = self.events[at];
        let Some(after) = step(self.content, self.known[event.operation].action) else {
            return Choice::Event(event.next);
        };
        let forced = after == self.content && !matches!(self.known[event.operation].action, Action::Set(_));
        self.done.set(event.operation);
        if !self.is_new(after) {
            self.done.clear(event.operation);
            return if forced { Choice::Nothing } else { Choice::Event(event.next) };
        }
        taken.push(Taken { choice: Choice::Event(at), before: self.content, forced });
        self.content = after;
        self.lift(at);
        Choice::Event(self.events[0].next)
    }

    fn try_unknown(&mut self, class: usize, taken: &mut Vec<Taken>) -> Choice {
        let otherwise = if class == 0 { Choice::Unknown(1) } else { Choice::Nothing };
        let useful = if class == 0 { self.content.is_none() } else { self.content.is_some() };
        let Some(&call) = self.unknown[class].get(self.used[class]) else { return otherwise };
        if !useful || call > self.first_end() {
            return otherwise;
        }
        let after = if class == 0 { Some(UNSEEN) } else { None };
        self.used[class] += 1;
        if !self.is_new(after) {
            self.used[class] -= 1;
            return otherwise;
        }
        taken.push(Taken { choice: Choice::Unknown(class), before: self.content, forced: false });
        self.content = after;
        Choice::Event(self.events[0].next)
    }

    /// Takes a step back; returns what to try instead of it.
    fn undo(&mut self, step: Taken) -> Choice {
        self.content = step.before;
        let instead = match step.choice {
            Choice::Event(at) => {
                self.unlift(at);
                self.done.clear(self.events[at].operation);
                Choice::Event(self.events[at].next)
            }
            Choice::Unknown(class) => {
                self.used[class] -= 1;
                if class == 0 { Choice::Unknown(1) } else { Choice::Nothing }
            }
            Choice::Nothing => Choice::Nothing,
        };
        if step.forced { Choice::Nothing } else { instead }
    }

    /// Notes the configuration with this content; false if it was met before with as few unknown operations used.
    fn is_new(&mut self, content: Content) -> bool {
        let used = self.used;
        let ways = self.seen.entry((self.done.clone(), content)).or_default();
        if ways.iter().any(|way| way[0] <= used[0] && way[1] <= used[1]) {
            return false;
        }
        ways.retain(|way| !(used[0] <= way[0] && used[1] <= way[1]));
        ways.push(used);
        true
    }

    /// Time of the first end that is left: what was called later cannot take effect now.
    fn first_end(&self) -> u64 {
        let mut at = self.events[0].next;
        while at != 0 && self.events[at].end.is_some() {
            at = self.events[at].next;
        }
        if at == 0 { u64::MAX } else { self.events[at].time }
    }

    fn lift(&mut self, call: usize) {
        self.unlink(call);
        if let Some(end) = self.events[call].end {
            self.unlink(end);
        }
        self.left -= 1;
    }

    fn unlift(&mut self, call: usize) {
        if let Some(end) = self.events[call].end {
            self.relink(end);
        }
        self.relink(call);
        self.left += 1;
    }

    fn unlink(&mut self, index: usize) {
        let Event { previous, next, .. } = self.events[index];
        self.events[previous].next = next;
        self.events[next].previous = previous;
    }

    fn relink(&mut self, index: usize) {
        let Event { previous, next, .. } = self.events[index];
        self.events[previous].next = index;
        self.events[next].previous = index;
    }

    /// The end of an operation that has not taken effect is reached: this prefix needs an unknown operation or a way back.
    fn note_dead_end(&self, at: usize, worst: &mut Option<Violation>) {
        let explained = self.known.len() - self.left;
        if worst.as_ref().is_some_and(|violation| violation.explained >= explained) {
            return;
        }
        let stuck = self.known[self.events[at].operation];
        let end = stuck.end.unwrap_or(u64::MAX);
        let from = stuck.call.saturating_sub(50_000_000);
        let near = |op: &&Operation| op.call <= end && op.end.is_none_or(|other| other >= from);
        let around = self.known.iter().filter(near).copied().collect();
        *worst = Some(Violation { explained, content: self.content, stuck, around });
    }
}

/// Gives seen unknown SETs the end of the first read that saw them, and one name to all values never seen.
fn prepare(initial: Content, history: &[Operation]) -> Vec<Operation> {
    let mut first_seen: HashMap<u64, u64> = HashMap::new();
    for operation in history {
        if let (Action::Get(Some(value)), Some(end)) = (operation.action, operation.end) {
            first_seen.entry(value).and_modify(|first| *first = end.min(*first)).or_insert(end);
        }
    }
    let prepared = history.iter().filter(|op| !matches!((op.action, op.end), (Action::Get(_), None)));
    prepared
        .map(|&operation| match operation.action {
            Action::Set(value) if Some(value) == initial => operation,
            Action::Set(value) => match first_seen.get(&value) {
                // A read that ended before the call is a violation that the search has to find: the end stays behind it.
                Some(&seen) => {
                    let end = operation.end.unwrap_or(seen.max(operation.call));
                    Operation { end: Some(end), ..operation }
                }
                None => Operation { action: Action::Set(UNSEEN), ..operation },
            },
            Action::Del(_) | Action::Get(_) => operation,
        })
        .collect()
}

/// The linked events: event 0 is the head; calls come before ends of the same instant (the more lenient reading).
fn events(operations: &[Operation]) -> Vec<Event> {
    let mut times: Vec<(u64, bool, usize)> = Vec::new();
    for (index, operation) in operations.iter().enumerate() {
        times.push((operation.call, false, index));
        times.push((operation.end.unwrap_or(u64::MAX), true, index));
    }
    times.sort_unstable();
    let count = times.len() + 1;
    let head = Event { operation: usize::MAX, time: 0, end: None, previous: count - 1, next: 1 % count };
    let mut events = vec![head];
    let mut call_of = vec![0; operations.len()];
    for (position, (time, is_end, operation)) in times.into_iter().enumerate() {
        let index = position + 1;
        let next = if index + 1 == count { 0 } else { index + 1 };
        events.push(Event { operation, time, end: None, previous: index - 1, next });
        if is_end {
            events[call_of[operation]].end = Some(index);
        } else {
            call_of[operation] = index;
        }
    }
    events
}

#[cfg(test)]
mod tests;
