//! What clients saw of a run, and the file that keeps it for other checkers.
//!
//! One JSON object a line, in the order of time; the fields are those of a Jepsen operation, so that elle and knossos
//! take them after a rename of the keys:
//!
//! ```text
//! {"process":3,"type":"invoke","f":"write","key":"r12","value":77,"time":1200345}
//! {"process":3,"type":"ok","f":"write","key":"r12","value":77,"time":1834110}
//! {"process":"nemesis","type":"info","f":"power","value":"n2 goes dark","time":2000000}
//! ```
//!
//! | field | meaning |
//! | --- | --- |
//! | process | a client; one whose operation ended in `info` is never used again, its client goes on under another |
//! | type | `invoke`, then one of `ok`, `fail` (not done), `info` (takes effect at any time after its call, or never) |
//! | f | `read`, `write`, `delete` of a register; `add` (INCR); `cas`; `acquire` and `release` of a lock |
//! | key | r register, p pair of keys written together and read together, c counter, x compare-and-set, l lock |
//! | value | by `f`, see below |
//! | time | nanoseconds since the clients started |
//!
//! The value of a read is what it saw or null; of a write what it wrote; of a deletion whether the key was there; of
//! an addition the place reached (a missing key is 0); of a cas `[old, new]` (a missing key is 0); of a lock its
//! owner's token.

use std::io::{self, Write};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use kvnode_tests::nemesis::Progress;
use tokio::sync::Notify;

use crate::keys::Key;

/// What a client asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Deed {
    Read,
    Write(u64),
    Delete,
    Add,
    /// From the first value to the second one; 0 is a missing key.
    Swap(u64, u64),
    Acquire(u64),
    Release(u64),
}

/// What came back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// Done. Of a read the value, of a deletion 1 if the key was there, of an addition the place reached.
    Ok(Option<u64>),
    /// Looked, and did nothing: the content was another one.
    Refused,
    /// Not done, and nothing was looked at.
    Failed,
    Unknown,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Operation {
    pub(crate) process: u32,
    /// Index into the keys of the run.
    pub(crate) key: u32,
    pub(crate) deed: Deed,
    pub(crate) outcome: Outcome,
    /// Nanoseconds since the start.
    pub(crate) call: u64,
    /// When the answer came, or was given up.
    pub(crate) end: u64,
}

/// Something that was done to the cluster.
#[derive(Clone, Debug)]
pub(crate) struct Event {
    pub(crate) time: u64,
    pub(crate) what: &'static str,
    pub(crate) text: String,
}

/// Written by all clients.
pub(crate) struct Record {
    start: Instant,
    finished: AtomicUsize,
    /// Told of every operation that succeeds.
    moves: Notify,
    operations: Mutex<Vec<Operation>>,
    /// Ends of acknowledged writes.
    writes: Mutex<Vec<u64>>,
    events: Mutex<Vec<Event>>,
    /// Contradictions that a client saw at once.
    wrong: Mutex<Vec<String>>,
}

impl Default for Record {
    fn default() -> Self {
        Self {
            start: Instant::now(),
            finished: AtomicUsize::new(0),
            moves: Notify::new(),
            operations: Mutex::default(),
            writes: Mutex::default(),
            events: Mutex::default(),
            wrong: Mutex::default(),
        }
    }
}

impl Progress for Record {
    /// Operations that succeeded.
    fn finished(&self) -> usize {
        self.finished.load(Ordering::Relaxed)
    }
}

fn lock<T>(list: &Mutex<T>) -> MutexGuard<'_, T> {
    list.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Record {
    /// Nanoseconds since the start.
    pub(crate) fn now(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    pub(crate) fn add(&self, operation: Operation) {
        if matches!(operation.outcome, Outcome::Ok(_)) {
            self.finished.fetch_add(1, Ordering::Relaxed);
            self.moves.notify_waiters();
            if operation.deed != Deed::Read {
                lock(&self.writes).push(operation.end);
            }
        }
        lock(&self.operations).push(operation);
    }

    /// Returns once an operation succeeds.
    pub(crate) async fn moved(&self) {
        self.moves.notified().await;
    }

    pub(crate) fn note(&self, what: &'static str, text: String) {
        lock(&self.events).push(Event { time: self.now(), what, text });
    }

    pub(crate) fn contradiction(&self, text: String) {
        lock(&self.wrong).push(text);
    }

    pub(crate) fn contradictions(&self) -> Vec<String> {
        lock(&self.wrong).clone()
    }

    pub(crate) fn operations(&self) -> Vec<Operation> {
        lock(&self.operations).clone()
    }

    /// The longest time without an acknowledged write that touches the span from `from` to `to`.
    pub(crate) fn gap(&self, from: u64, to: u64) -> u64 {
        let mut ends = lock(&self.writes);
        ends.sort_unstable();
        longest_gap(&ends, from, to)
    }

    /// Time in pauses of at least `least` between acknowledged writes.
    pub(crate) fn time_in_gaps(&self, least: u64) -> u64 {
        let mut ends = lock(&self.writes);
        ends.sort_unstable();
        ends.windows(2).map(|pair| pair[1] - pair[0]).filter(|gap| *gap >= least).sum()
    }

    /// Writes the history, see the head of this module.
    pub(crate) fn write_lines(&self, keys: &[Key], out: &mut impl Write) -> io::Result<()> {
        let operations = lock(&self.operations);
        let events = lock(&self.events);
        let mut order: Vec<(u64, u8, usize)> = Vec::with_capacity(operations.len() * 2 + events.len());
        for (index, operation) in operations.iter().enumerate() {
            order.push((operation.call, 1, index));
            order.push((operation.end, 2, index));
        }
        order.extend(events.iter().enumerate().map(|(index, event)| (event.time, 0, index)));
        order.sort_unstable();
        for (time, kind, index) in order {
            if kind == 0 {
                let Event { what, text, .. } = &events[index];
                let text = serde_json::Value::from(text.as_str());
                writeln!(
                    out,
                    r#"{{"process":"nemesis","type":"info","f":"{what}","value":{text},"time":{time}}}"#
                )?;
            } else {
                write_operation(&operations[index], keys, kind == 1, out)?;
            }
        }
        Ok(())
    }
}

/// Over ascending times: the longest of the gaps of which a part lies between `from` and `to`.
fn longest_gap(ends: &[u64], from: u64, to: u64) -> u64 {
    let first = ends.partition_point(|end| *end <= from).saturating_sub(1);
    let spans = ends[first..].windows(2).take_while(|pair| pair[0] < to);
    spans.map(|pair| pair[1] - pair[0]).max().unwrap_or(0)
}

fn write_operation(
    operation: &Operation,
    keys: &[Key],
    is_call: bool,
    out: &mut impl Write,
) -> io::Result<()> {
    let Operation { process, key, deed, outcome, call, end } = *operation;
    let name = &keys[key as usize].name;
    let (kind, time) = match outcome {
        _ if is_call => ("invoke", call),
        Outcome::Ok(_) => ("ok", end),
        Outcome::Refused | Outcome::Failed => ("fail", end),
        Outcome::Unknown => ("info", end),
    };
    let answer = match outcome {
        Outcome::Ok(answer) if !is_call => answer,
        _ => None,
    };
    let (f, value) = match deed {
        Deed::Read => ("read", number(answer)),
        Deed::Write(value) => ("write", value.to_string()),
        Deed::Delete => {
            ("delete", answer.map_or("null", |found| if found == 1 { "true" } else { "false" }).into())
        }
        Deed::Add => ("add", number(answer)),
        Deed::Swap(old, new) => ("cas", format!("[{old},{new}]")),
        Deed::Acquire(token) => ("acquire", token.to_string()),
        Deed::Release(token) => ("release", token.to_string()),
    };
    writeln!(
        out,
        r#"{{"process":{process},"type":"{kind}","f":"{f}","key":"{name}","value":{value},"time":{time}}}"#
    )
}

fn number(value: Option<u64>) -> String {
    value.map_or_else(|| "null".to_owned(), |value| value.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keys::Class;

    fn operation(deed: Deed, outcome: Outcome, call: u64, end: u64) -> Operation {
        Operation { process: 1, key: 0, deed, outcome, call, end }
    }

    #[test]
    fn the_history_is_one_object_a_line_in_the_order_of_time() {
        let record = Record::default();
        record.add(operation(Deed::Write(7), Outcome::Ok(None), 10, 30));
        record.add(operation(Deed::Read, Outcome::Ok(Some(7)), 20, 40));
        record.add(operation(Deed::Swap(0, 8), Outcome::Unknown, 50, 60));
        record.add(operation(Deed::Delete, Outcome::Ok(Some(0)), 70, 80));
        let key = Key { class: Class::Register, name: "r0".to_owned(), epoch: 0 };
        let mut out = Vec::new();
        record.write_lines(&[key], &mut out).unwrap();
        let text = String::from_utf8(out).unwrap();
        let lines: Vec<serde_json::Value> =
            text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let times: Vec<u64> = lines.iter().map(|line| line["time"].as_u64().unwrap()).collect();
        assert_eq!(times, [10, 20, 30, 40, 50, 60, 70, 80]);
        let kinds: Vec<&str> = lines.iter().map(|line| line["type"].as_str().unwrap()).collect();
        assert_eq!(kinds, ["invoke", "invoke", "ok", "ok", "invoke", "info", "invoke", "ok"]);
        assert_eq!((&lines[3]["value"], &lines[1]["value"]), (&7.into(), &serde_json::Value::Null));
        assert_eq!(lines[5]["value"], serde_json::json!([0, 8]));
        assert_eq!(lines[7]["value"], false);
        assert_eq!((record.finished(), lock(&record.writes).len()), (3, 2));
    }

    #[test]
    fn a_gap_counts_where_it_touches_the_span() {
        let ends = [10, 20, 100, 110, 300];
        assert_eq!(longest_gap(&ends, 50, 60), 80);
        assert_eq!(longest_gap(&ends, 15, 105), 80);
        assert_eq!(longest_gap(&ends, 101, 120), 190);
        assert_eq!(longest_gap(&ends, 0, 15), 10);
        assert_eq!(longest_gap(&[], 0, 15), 0);
    }
}
