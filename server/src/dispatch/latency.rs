//! The latency monitor: when this node was slow, and in which part of its work. Bounded memory.
//!
//! ```text
//! a request took longer than latency-monitor-threshold
//!   -> command, or fast-command for one of constant time
//!   -> of its parts (slowlog::Times) those that did too: queue, fsync, replicate, apply, leader, confirm
//! ```
//!
//! Invariants
//! - Event names are ours, so there are as many series as the code has names.
//! - A series has one sample a second, the worst of it, and `SAMPLES_MAX` of them.

use std::collections::{BTreeMap, VecDeque};
use std::fmt::Write as _;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;

use super::counters::{BUCKETS_US, Counters};
use super::slowlog::Times;
use crate::clock::UnixMs;
use crate::command::LatencyOp;
use crate::command::args::printable;
use crate::resp::Reply;

/// Samples of one event, as Redis keeps.
const SAMPLES_MAX: usize = 160;
/// Columns of a graph.
const COLUMNS_MAX: usize = 80;
/// Rows of a graph.
const ROWS: u64 = 4;

/// One second in which an event was slow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Sample {
    at_seconds: u64,
    worst_ms: u64,
}

#[derive(Debug, Default)]
struct Series {
    /// Oldest first.
    samples: VecDeque<Sample>,
    /// Of all times, also of samples that are gone.
    worst_ms: u64,
}

impl Series {
    fn add(&mut self, at_seconds: u64, ms: u64) {
        self.worst_ms = self.worst_ms.max(ms);
        if let Some(sample) = self.samples.back_mut().filter(|sample| sample.at_seconds == at_seconds) {
            sample.worst_ms = sample.worst_ms.max(ms);
            return;
        }
        if self.samples.len() == SAMPLES_MAX {
            self.samples.pop_front();
        }
        self.samples.push_back(Sample { at_seconds, worst_ms: ms });
    }
}

/// What was slow on this node.
#[derive(Debug, Default)]
pub struct Monitor {
    series: Mutex<BTreeMap<&'static str, Series>>,
}

/// What LATENCY needs to know beside the series.
pub struct Facts<'a> {
    /// For LATENCY HISTOGRAM.
    pub counters: &'a Counters,
    /// Milliseconds; 0 = nothing is noted.
    pub threshold_ms: u64,
    /// Wall clock.
    pub now: UnixMs,
}

fn bulk(text: impl Into<String>) -> Reply {
    Reply::Bulk(Bytes::from(text.into()))
}

fn integer(number: u64) -> Reply {
    Reply::Integer(i64::try_from(number).unwrap_or(i64::MAX))
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

impl Monitor {
    /// Notes a request that took at least `threshold`, and those of its parts that did.
    pub fn note(
        &self,
        is_fast: bool,
        (latency, times): (Duration, &Times),
        threshold: Duration,
        now: UnixMs,
    ) {
        let command = if is_fast { "fast-command" } else { "command" };
        let parts = times.parts().into_iter().filter_map(|(name, time)| Some((name, time?)));
        let mut series = self.series.lock();
        for (name, time) in std::iter::once((command, latency)).chain(parts) {
            if time >= threshold {
                series.entry(name).or_default().add(now.0 / 1000, millis(time));
            }
        }
    }

    /// Answers a LATENCY subcommand.
    #[must_use]
    pub fn answer(&self, op: &LatencyOp, facts: &Facts<'_>) -> Reply {
        match op {
            LatencyOp::Latest => self.latest(),
            LatencyOp::History(event) => self.history(event),
            LatencyOp::Graph(event) => self.graph(event, facts.now),
            LatencyOp::Reset(events) => self.reset(events),
            LatencyOp::Doctor => Reply::Verbatim(self.doctor(facts.threshold_ms).into()),
            LatencyOp::Histogram(commands) => histogram(facts.counters, commands),
        }
    }

    fn latest(&self) -> Reply {
        let series = self.series.lock();
        let rows = series.iter().filter_map(|(name, series)| {
            let last = series.samples.back()?;
            Some(Reply::Array(vec![
                bulk(*name),
                integer(last.at_seconds),
                integer(last.worst_ms),
                integer(series.worst_ms),
            ]))
        });
        Reply::Array(rows.collect())
    }

    fn history(&self, event: &[u8]) -> Reply {
        let series = self.series.lock();
        let samples = find(&series, event).into_iter().flat_map(|(_, series)| &series.samples);
        let pair = |sample: &Sample| Reply::Array(vec![integer(sample.at_seconds), integer(sample.worst_ms)]);
        Reply::Array(samples.map(pair).collect())
    }

    fn reset(&self, events: &[Bytes]) -> Reply {
        let mut series = self.series.lock();
        let before = series.len();
        if events.is_empty() {
            series.clear();
        } else {
            series.retain(|name, _| !events.iter().any(|event| event.eq_ignore_ascii_case(name.as_bytes())));
        }
        integer((before - series.len()) as u64)
    }

    fn graph(&self, event: &[u8], now: UnixMs) -> Reply {
        let series = self.series.lock();
        match find(&series, event) {
            Some((name, series)) => Reply::Verbatim(draw(name, series, now).into()),
            None => Reply::Error(format!("ERR No samples available for event '{}'", printable(event))),
        }
    }

    fn doctor(&self, threshold_ms: u64) -> String {
        let series = self.series.lock();
        if threshold_ms == 0 && series.is_empty() {
            return "Nothing is noted. CONFIG SET latency-monitor-threshold <milliseconds> begins; SLOWLOG GET WITHTIMES \
                    and /metrics tell more.\n"
                .to_owned();
        }
        if series.is_empty() {
            return format!("Nothing took {threshold_ms} ms or longer.\n");
        }
        let mut text = String::new();
        for (name, series) in series.iter() {
            let count = series.samples.len() as u64;
            let sum: u64 = series.samples.iter().map(|sample| sample.worst_ms).sum();
            let _ = writeln!(
                text,
                "{name}: slow in {count} of the seconds noted, {} ms on average, {} ms at most. {}",
                sum / count.max(1),
                series.worst_ms,
                advice(name)
            );
        }
        text
    }
}

fn find<'a>(series: &'a BTreeMap<&'static str, Series>, event: &[u8]) -> Option<(&'static str, &'a Series)> {
    let found = series.iter().find(|(name, _)| event.eq_ignore_ascii_case(name.as_bytes()));
    found.map(|(name, series)| (*name, series))
}

fn advice(event: &str) -> &'static str {
    match event {
        "command" => "Large replies, KEYS, PDEL and SCAN with a high COUNT: see SLOWLOG.",
        "fast-command" => "One of constant time waits for a part of the node: look at the other events.",
        "queue" => "Writes wait for room or for a leader: more than the disks take, or an election.",
        "fsync" => "The disk of the log is slow: give it a volume of its own (--log-dir).",
        "replicate" => "A majority was slow to sync: see the other nodes' disks and the network.",
        "apply" => "The state is written slowly, or a large DEL, PDEL or transaction was applied.",
        "leader" => "The leader, or the way there, is slow: see LATENCY DOCTOR of the leader.",
        _ => "Confirming reads takes a round to a majority: see the network, or read_policy lease.",
    }
}

/// The samples as columns, the worst as high as all rows, and beneath each how long ago it was.
fn draw(name: &str, series: &Series, now: UnixMs) -> String {
    let skipped = series.samples.len().saturating_sub(COLUMNS_MAX);
    let samples: Vec<Sample> = series.samples.iter().skip(skipped).copied().collect();
    let high = samples.iter().map(|sample| sample.worst_ms).max().unwrap_or(0);
    let low = samples.iter().map(|sample| sample.worst_ms).min().unwrap_or(0);
    let mut text = format!("{name} - high {high} ms, low {low} ms (all time high {} ms)\n", series.worst_ms);
    text.push_str(&"-".repeat(COLUMNS_MAX));
    text.push('\n');
    let height = |sample: &Sample| (sample.worst_ms * ROWS).div_ceil(high.max(1));
    for row in (1..=ROWS).rev() {
        text.extend(samples.iter().map(|sample| if height(sample) >= row { '#' } else { ' ' }));
        text.push('\n');
    }
    text.push('\n');
    let ages: Vec<Vec<char>> =
        samples.iter().map(|sample| age(now.0 / 1000 - sample.at_seconds.min(now.0 / 1000))).collect();
    for row in 0..ages.iter().map(Vec::len).max().unwrap_or(0) {
        text.extend(ages.iter().map(|age| age.get(row).copied().unwrap_or(' ')));
        text.push('\n');
    }
    text
}

fn age(seconds: u64) -> Vec<char> {
    let text = match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{}m", seconds / 60),
        3600..86_400 => format!("{}h", seconds / 3600),
        _ => format!("{}d", seconds / 86_400),
    };
    text.chars().collect()
}

/// Calls per command that took up to each bound; bounds at which nothing was added are left out.
fn histogram(counters: &Counters, commands: &[Bytes]) -> Reply {
    let is_wanted = |name: &str| {
        let container = name.split('|').next().unwrap_or(name);
        commands.is_empty()
            || commands.iter().any(|wanted| {
                wanted.eq_ignore_ascii_case(name.as_bytes())
                    || wanted.eq_ignore_ascii_case(container.as_bytes())
            })
    };
    let rows = counters
        .commands_since_reset()
        .into_iter()
        .filter(|(name, count)| count.calls > 0 && is_wanted(name));
    let row = |(name, count): (&'static str, super::counters::CommandCount)| {
        let mut total = 0;
        let mut bounds = Vec::new();
        for (bound, calls) in BUCKETS_US.iter().zip(count.buckets) {
            total += calls;
            if calls > 0 {
                bounds.push((integer(*bound), integer(total)));
            }
        }
        let told = vec![(bulk("calls"), integer(count.calls)), (bulk("histogram_usec"), Reply::Map(bounds))];
        (bulk(name.to_ascii_lowercase()), Reply::Map(told))
    };
    Reply::Map(rows.map(row).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::table;
    use crate::raft::Stages;

    const MS: fn(u64) -> Duration = Duration::from_millis;

    fn facts(counters: &Counters) -> Facts<'_> {
        Facts { counters, threshold_ms: 10, now: UnixMs(200_000) }
    }

    fn ask(monitor: &Monitor, op: &LatencyOp) -> Reply {
        monitor.answer(op, &facts(&Counters::default()))
    }

    fn row(name: &str, numbers: &[i64]) -> Reply {
        let numbers = numbers.iter().map(|number| Reply::Integer(*number));
        Reply::Array(std::iter::once(bulk(name)).chain(numbers).collect())
    }

    #[test]
    fn a_slow_request_is_noted_with_its_slow_parts_and_the_worst_of_a_second_stays() {
        let monitor = Monitor::default();
        let stages = Stages { fsync: Some(MS(30)), apply: Some(MS(1)), ..Stages::default() };
        let times = Times { propose: Some(stages), confirm: None };
        monitor.note(false, (MS(40), &times), MS(10), UnixMs(100_000));
        monitor.note(false, (MS(20), &Times::default()), MS(10), UnixMs(100_900));
        monitor.note(true, (MS(15), &Times::default()), MS(10), UnixMs(101_000));
        let expected = [
            row("command", &[100, 40, 40]),
            row("fast-command", &[101, 15, 15]),
            row("fsync", &[100, 30, 30]),
        ];
        assert_eq!(ask(&monitor, &LatencyOp::Latest), Reply::Array(expected.to_vec()));
        let pair = Reply::Array(vec![Reply::Integer(100), Reply::Integer(40)]);
        assert_eq!(ask(&monitor, &LatencyOp::History("COMMAND".into())), Reply::Array(vec![pair]));
        assert_eq!(ask(&monitor, &LatencyOp::History("apply".into())), Reply::Array(Vec::new()));
        assert_eq!(ask(&monitor, &LatencyOp::Reset(vec!["fsync".into(), "nope".into()])), Reply::Integer(1));
        assert_eq!(ask(&monitor, &LatencyOp::Reset(Vec::new())), Reply::Integer(2));
        assert_eq!(ask(&monitor, &LatencyOp::Latest), Reply::Array(Vec::new()));
    }

    #[test]
    fn a_series_is_bounded_and_its_worst_is_remembered() {
        let monitor = Monitor::default();
        monitor.note(false, (MS(900), &Times::default()), MS(10), UnixMs(0));
        for second in 1..=200 {
            monitor.note(false, (MS(20), &Times::default()), MS(10), UnixMs(second * 1000));
        }
        let Reply::Array(history) = ask(&monitor, &LatencyOp::History("command".into())) else { panic!() };
        assert_eq!(history.len(), SAMPLES_MAX);
        assert_eq!(ask(&monitor, &LatencyOp::Latest), Reply::Array(vec![row("command", &[200, 20, 900])]));
    }

    #[test]
    fn a_graph_has_a_column_for_each_sample() {
        let monitor = Monitor::default();
        for (second, ms) in [(80, 100), (140, 25), (199, 50)] {
            monitor.note(false, (MS(ms), &Times::default()), MS(10), UnixMs(second * 1000));
        }
        let Reply::Verbatim(text) = ask(&monitor, &LatencyOp::Graph("command".into())) else { panic!() };
        let text = String::from_utf8(text.to_vec()).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], "command - high 100 ms, low 25 ms (all time high 100 ms)");
        assert_eq!(lines[2..], ["#  ", "#  ", "# #", "###", "", "211", "mms"]);
        let text = "ERR No samples available for event 'nope'";
        assert_eq!(ask(&monitor, &LatencyOp::Graph("nope".into())), Reply::Error(text.to_owned()));
        let Reply::Verbatim(text) = ask(&monitor, &LatencyOp::Doctor) else { panic!() };
        assert!(
            text.starts_with(b"command: slow in 3 of the seconds noted, 58 ms on average, 100 ms at most.")
        );
    }

    #[test]
    fn the_doctor_tells_how_to_begin() {
        let monitor = Monitor::default();
        let counters = Counters::default();
        let off = Facts { threshold_ms: 0, ..facts(&counters) };
        let Reply::Verbatim(text) = monitor.answer(&LatencyOp::Doctor, &off) else { panic!() };
        assert!(text.starts_with(b"Nothing is noted. CONFIG SET latency-monitor-threshold"));
        let text = Reply::Verbatim("Nothing took 10 ms or longer.\n".into());
        assert_eq!(ask(&monitor, &LatencyOp::Doctor), text);
    }

    #[test]
    fn a_histogram_is_cumulative_and_of_the_commands_asked_for() {
        let counters = Counters::default();
        let slot = |name: &[u8]| table::find_full(name).unwrap().slot;
        counters.executed(slot(b"get"), 3, 0, Duration::from_micros(20));
        counters.executed(slot(b"get"), 1, 0, Duration::from_micros(300));
        counters.executed(slot(b"config|get"), 1, 0, Duration::from_micros(30));
        let monitor = Monitor::default();
        let ask = |commands: &[&'static str]| {
            let commands = commands.iter().map(|name| Bytes::from_static(name.as_bytes())).collect();
            monitor.answer(&LatencyOp::Histogram(commands), &facts(&counters))
        };
        let told = |name: &str, calls: i64, bounds: &[(i64, i64)]| {
            let bounds = bounds.iter().map(|(us, n)| (Reply::Integer(*us), Reply::Integer(*n))).collect();
            let told =
                vec![(bulk("calls"), Reply::Integer(calls)), (bulk("histogram_usec"), Reply::Map(bounds))];
            (bulk(name), Reply::Map(told))
        };
        let get = told("get", 4, &[(25, 3), (500, 4)]);
        let config = told("config|get", 1, &[(50, 1)]);
        assert_eq!(ask(&[]), Reply::Map(vec![config.clone(), get.clone()]));
        assert_eq!(ask(&["GET", "nope"]), Reply::Map(vec![get]));
        assert_eq!(ask(&["config"]), Reply::Map(vec![config]));
        counters.reset();
        assert_eq!(ask(&[]), Reply::Map(Vec::new()));
        counters.executed(slot(b"get"), 1, 0, Duration::from_micros(300));
        assert_eq!(ask(&[]), Reply::Map(vec![told("get", 1, &[(500, 1)])]));
    }
}
