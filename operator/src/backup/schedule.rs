//! When a run is due, and under which name: pure, the time is an argument.
//!
//! ```text
//! cron line + zone --next(after)--> fire times --decide(now, runs seen)--> at most one due run per schedule
//!                                                                         name = <cluster>-<schedule>-<unix minute>
//! ```
//!
//! Invariants
//! - A run's name follows from its cluster, its schedule and the minute it was due, so that two operators, or one that
//!   died between deciding and writing, can only make the same object.
//! - Of several missed fire times only the newest is made up, once.
//! - Clock changes: a line whose hour begins with `*` goes by real time, hour after hour; any other goes by the wall
//!   clock: a time that the clock jumps over runs at the first moment after it, a time that comes twice runs once
//!   (the rule of Vixie's cron).

use std::collections::BTreeMap;
use std::fmt;

use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;

const MINUTE_S: i64 = 60;

/// How far back a missed fire time is looked for, in steps that each bound the work.
const LOOK_BACK_S: [i64; 5] = [2 * 3600, 2 * 86_400, 40 * 86_400, 400 * 86_400, 5 * 366 * 86_400];

/// A checked cron line in its time zone.
pub struct Cron {
    line: String,
    zone: TimeZone,
    /// On civil time written as UTC.
    civil: cronexpr::Crontab,
    /// In the zone, for lines that go by real time.
    real: Option<cronexpr::Crontab>,
}

impl fmt::Debug for Cron {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Cron({:?} in {:?})", self.line, self.zone.iana_name())
    }
}

/// Expands the named forms; any other text is returned as it is.
fn expanded(line: &str) -> Result<&str, String> {
    match line {
        "@hourly" => Ok("0 * * * *"),
        "@daily" | "@midnight" => Ok("0 0 * * *"),
        "@weekly" => Ok("0 0 * * 0"),
        "@monthly" => Ok("0 0 1 * *"),
        "@yearly" | "@annually" => Ok("0 0 1 1 *"),
        other if other.starts_with('@') => Err(format!(
            "{other:?} is not known: @hourly, @daily, @weekly, @monthly and @yearly are, or five fields"
        )),
        other => Ok(other),
    }
}

impl Cron {
    /// Reads five fields (minute, hour, day of month, month, day of week) or `@hourly`, `@daily`, `@midnight`,
    /// `@weekly`, `@monthly`, `@yearly`, `@annually`; `zone` is an IANA name, UTC if absent.
    ///
    /// # Errors
    /// One line that says what is wrong, e.g. a sixth field, an hour 25, an unknown zone, a day that never comes.
    pub fn parse(line: &str, zone: Option<&str>) -> Result<Self, String> {
        let line = line.trim();
        let five = expanded(line)?;
        let fields: Vec<&str> = five.split_ascii_whitespace().collect();
        let &[_, hour, ..] = fields.as_slice() else {
            return Err(format!("{line:?} is not a cron line: five fields belong there"));
        };
        if fields.len() != 5 {
            return Err(format!("{line:?} has {} fields: five belong there", fields.len()));
        }
        let name = zone.unwrap_or("UTC");
        let zone =
            TimeZone::get(name).map_err(|_| format!("{name:?} is not a time zone of the IANA database"))?;
        let parse = |zone: &str| {
            cronexpr::parse_crontab(&format!("{} {zone}", fields.join(" ")))
                .map_err(|error| format!("{line:?} is not a cron line: {}", first_line(&error.to_string())))
        };
        let civil = parse("UTC")?;
        let real = if hour.starts_with('*') { Some(parse(name)?) } else { None };
        let cron = Self { line: line.to_owned(), zone, civil, real };
        // The 31st of February: found here, not at the first night without a backup.
        match cron.next(Timestamp::UNIX_EPOCH) {
            Some(_) => Ok(cron),
            None => Err(format!("{line:?} names a day that never comes")),
        }
    }

    /// First fire time after `after`; `None` if there is none within four years.
    #[must_use]
    pub fn next(&self, after: Timestamp) -> Option<Timestamp> {
        if let Some(real) = &self.real {
            return real.find_next(cronexpr::MakeTimestamp(after)).ok().map(|next| next.timestamp());
        }
        let as_utc = |at: DateTime| at.to_zoned(TimeZone::UTC).ok().map(|at| at.timestamp());
        let mut civil = as_utc(after.to_zoned(self.zone.clone()).datetime())?;
        loop {
            let next = self.civil.find_next(cronexpr::MakeTimestamp(civil)).ok()?;
            civil = next.timestamp();
            // In a gap the moment after it, in a fold the first of the two.
            let at = self.zone.to_ambiguous_zoned(next.datetime()).compatible().ok()?.timestamp();
            if at > after {
                return Some(at);
            }
        }
    }

    /// Newest fire time in `(after, until]`.
    #[must_use]
    pub fn last(&self, after: Timestamp, until: Timestamp) -> Option<Timestamp> {
        for back in LOOK_BACK_S {
            let from = until.checked_sub(jiff::SignedDuration::from_secs(back)).unwrap_or(after).max(after);
            let mut found = None;
            let mut at = from;
            while let Some(next) = self.next(at).filter(|next| *next <= until) {
                found = Some(next);
                at = next;
            }
            if found.is_some() || from == after {
                return found;
            }
        }
        None
    }

    /// A time between two fire times around `now`, for "is the newest backup older than two periods".
    #[must_use]
    pub fn period(&self, now: Timestamp) -> jiff::SignedDuration {
        let day = jiff::SignedDuration::from_hours(24);
        let Some(first) = self.next(now) else { return day };
        self.next(first).map_or(day, |second| second.duration_since(first))
    }
}

fn first_line(text: &str) -> String {
    text.lines().map(str::trim).find(|line| !line.is_empty()).unwrap_or_default().to_owned()
}

/// A schedule as far as deciding needs it.
#[derive(Debug)]
pub struct Schedule {
    /// Its name.
    pub name: String,
    /// Its cron line.
    pub cron: Cron,
    /// Held back by itself.
    pub suspend: bool,
}

/// A run that exists as an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// Name of the object.
    pub name: String,
    /// Schedule that made it; `None` if made by hand.
    pub schedule: Option<String>,
    /// Neither complete nor failed.
    pub active: bool,
}

/// A run that is to be made now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Due {
    /// Schedule.
    pub schedule: String,
    /// Fire time.
    pub at: Timestamp,
    /// Name of the object.
    pub name: String,
}

/// What [`decide`] found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Decision {
    /// To be made now, at most one per schedule, in the order of their fire times.
    pub due: Vec<Due>,
    /// Next fire time of any schedule that is not suspended.
    pub next: Option<Timestamp>,
}

/// Name of the run of `schedule` that was due at `at`.
#[must_use]
pub fn run_name(cluster: &str, schedule: &str, at: Timestamp) -> String {
    format!("{cluster}-{schedule}-{}", at.as_second().div_euclid(MINUTE_S))
}

/// The fire time in a run's name; `None` if the name is not of that cluster and schedule.
#[must_use]
pub fn fire_time(cluster: &str, schedule: &str, name: &str) -> Option<Timestamp> {
    let digits = name.strip_prefix(cluster)?.strip_prefix('-')?.strip_prefix(schedule)?.strip_prefix('-')?;
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    Timestamp::from_second(digits.parse::<i64>().ok()?.checked_mul(MINUTE_S)?).ok()
}

/// Which runs are due at `now`.
///
/// `since` says from when on each schedule counts: fire times up to it are no longer owed (the schedule was made then,
/// its suspension ended then, or its run of then is known though its object is gone).
#[must_use]
pub fn decide(
    cluster: &str,
    schedules: &[Schedule],
    since: &BTreeMap<String, Timestamp>,
    seen: &[Seen],
    now: Timestamp,
) -> Decision {
    let mut decision = Decision::default();
    for schedule in schedules.iter().filter(|schedule| !schedule.suspend) {
        let name = schedule.name.as_str();
        let own = || seen.iter().filter(|run| run.schedule.as_deref() == Some(name));
        let newest = own().filter_map(|run| fire_time(cluster, name, &run.name)).max();
        let from = since.get(name).copied().into_iter().chain(newest).max().unwrap_or(now);
        // One that waits or works already is enough: the newest missed time is made up when it has ended.
        if let Some(at) = schedule.cron.last(from, now)
            && !own().any(|run| run.active)
        {
            let name = run_name(cluster, name, at);
            decision.due.push(Due { schedule: schedule.name.clone(), at, name });
        }
        let next = schedule.cron.next(now);
        decision.next = decision.next.into_iter().chain(next).min();
    }
    decision.due.sort_by(|a, b| (a.at, &a.schedule).cmp(&(b.at, &b.schedule)));
    decision
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    fn fires(line: &str, zone: &str, after: &str, count: usize) -> Vec<String> {
        let cron = Cron::parse(line, Some(zone)).unwrap();
        let mut out = Vec::new();
        let mut now = at(after);
        while out.len() < count {
            now = cron.next(now).unwrap();
            out.push(now.to_string());
        }
        out
    }

    #[test]
    fn lines_are_read_in_all_forms() {
        assert_eq!(
            fires("5 4 * * *", "UTC", "2026-11-22T04:05:00Z", 2),
            ["2026-11-23T04:05:00Z", "2026-11-24T04:05:00Z"]
        );
        assert_eq!(fires("@hourly", "UTC", "2026-11-22T04:05:00Z", 1), ["2026-11-22T05:00:00Z"]);
        assert_eq!(fires("@daily", "Europe/Berlin", "2026-11-22T04:05:00Z", 1), ["2026-11-22T23:00:00Z"]);
        assert_eq!(fires("@weekly", "UTC", "2026-11-22T00:00:00Z", 1), ["2026-11-29T00:00:00Z"]);
        assert_eq!(fires("@monthly", "UTC", "2026-11-22T00:00:00Z", 1), ["2026-12-01T00:00:00Z"]);
        assert_eq!(fires("@yearly", "UTC", "2026-11-22T00:00:00Z", 1), ["2027-01-01T00:00:00Z"]);
        assert_eq!(
            fires("*/20 9-10 * * MON-FRI", "UTC", "2026-11-20T10:30:00Z", 3),
            ["2026-11-20T10:40:00Z", "2026-11-23T09:00:00Z", "2026-11-23T09:20:00Z"]
        );
        // A day of month and a day of week, both given: either.
        assert_eq!(
            fires("0 0 1 * 5", "UTC", "2026-11-22T00:00:00Z", 2),
            ["2026-11-27T00:00:00Z", "2026-12-01T00:00:00Z"]
        );
        assert_eq!(fires("0 0 29 2 *", "UTC", "2025-01-01T00:00:00Z", 1), ["2028-02-29T00:00:00Z"]);
        for (line, zone, says) in [
            ("* * * *", None, "five"),
            ("0 0 * * * *", None, "6 fields"),
            ("61 * * * *", None, "not a cron line"),
            ("0 0 31 2 *", None, "never comes"),
            ("@often", None, "@daily"),
            ("", None, "five"),
            ("0 0 * * *", Some("Europe/Atlantis"), "time zone"),
        ] {
            let error = Cron::parse(line, zone).unwrap_err();
            assert!(error.contains(says), "{line}: {error}");
            assert!(!error.contains('\n'));
        }
    }

    #[test]
    fn clock_changes_lose_no_run_and_double_none() {
        // Berlin 2027-03-28: 02:00 becomes 03:00. Berlin 2026-10-25: 03:00 becomes 02:00.
        assert_eq!(
            fires("30 2 * * *", "Europe/Berlin", "2027-03-27T12:00:00Z", 2),
            ["2027-03-28T01:30:00Z", "2027-03-29T00:30:00Z"]
        );
        assert_eq!(
            fires("30 2 * * *", "Europe/Berlin", "2026-10-24T12:00:00Z", 2),
            ["2026-10-25T00:30:00Z", "2026-10-26T01:30:00Z"]
        );
        assert_eq!(
            fires("0 * * * *", "Europe/Berlin", "2026-10-24T23:30:00Z", 4),
            ["2026-10-25T00:00:00Z", "2026-10-25T01:00:00Z", "2026-10-25T02:00:00Z", "2026-10-25T03:00:00Z"]
        );
        assert_eq!(
            fires("0 * * * *", "Europe/Berlin", "2027-03-27T23:30:00Z", 3),
            ["2027-03-28T00:00:00Z", "2027-03-28T01:00:00Z", "2027-03-28T02:00:00Z"]
        );
    }

    fn hourly() -> Vec<Schedule> {
        vec![Schedule {
            name: "hourly".into(),
            cron: Cron::parse("0 * * * *", None).unwrap(),
            suspend: false,
        }]
    }

    fn since(text: &str) -> BTreeMap<String, Timestamp> {
        BTreeMap::from([("hourly".to_owned(), at(text))])
    }

    fn run(name: &str, active: bool) -> Seen {
        Seen { name: name.into(), schedule: Some("hourly".into()), active }
    }

    #[test]
    fn a_missed_run_is_made_up_once_and_names_are_the_same_for_all() {
        let schedules = hourly();
        let now = at("2026-11-22T13:07:00Z");
        let first = decide("cart", &schedules, &since("2026-11-20T00:00:00Z"), &[], now);
        // Sixty were missed: one is made up.
        assert_eq!(first.due.len(), 1);
        assert_eq!(first.due[0].at, at("2026-11-22T13:00:00Z"));
        assert_eq!(first.due[0].name, format!("cart-hourly-{}", at("2026-11-22T13:00:00Z").as_second() / 60));
        assert_eq!(first.next, Some(at("2026-11-22T14:00:00Z")));
        let later = at("2026-11-22T13:59:59Z");
        let again = decide("cart", &schedules, &since("2026-11-20T00:00:00Z"), &[], later);
        assert_eq!(again.due, first.due, "two operators decide the same");
        let seen = [run(&first.due[0].name, false)];
        assert!(decide("cart", &schedules, &since("2026-11-20T00:00:00Z"), &seen, later).due.is_empty());
        let next =
            decide("cart", &schedules, &since("2026-11-20T00:00:00Z"), &seen, at("2026-11-22T14:00:00Z"));
        assert_eq!(next.due.len(), 1);
    }

    #[test]
    fn nothing_is_due_while_one_works_while_suspended_or_before_it_counts() {
        let mut schedules = hourly();
        let now = at("2026-11-22T13:07:00Z");
        let counts = since("2026-11-22T10:30:00Z");
        let old = [run("cart-hourly-29739540", true)];
        assert!(decide("cart", &schedules, &counts, &old, now).due.is_empty());
        // One of another schedule, or by hand, does not hold it back: it waits for its turn as an object.
        let other = [Seen { name: "by-hand".into(), schedule: None, active: true }];
        assert_eq!(decide("cart", &schedules, &counts, &other, now).due.len(), 1);
        assert!(decide("cart", &schedules, &since("2026-11-22T13:00:00Z"), &[], now).due.is_empty());
        assert!(decide("cart", &schedules, &BTreeMap::new(), &[], now).due.is_empty(), "unknown start: now");
        schedules[0].suspend = true;
        let held = decide("cart", &schedules, &counts, &[], now);
        assert_eq!(held, Decision::default());
    }

    #[test]
    fn names_belong_to_one_cluster_and_schedule() {
        let time = at("2026-11-22T13:00:00Z");
        let name = run_name("a-b", "c", time);
        assert_eq!(fire_time("a-b", "c", &name), Some(time));
        assert_eq!(fire_time("a", "b", &name), None);
        assert_eq!(fire_time("a", "b-c", &name), Some(time), "ambiguous by itself: the spec's words decide");
        for wrong in ["a-b-c-", "a-b-c-x1", "a-b-c--1", "a-b-c-99999999999999999999"] {
            assert_eq!(fire_time("a-b", "c", wrong), None, "{wrong}");
        }
    }

    #[test]
    fn simulated_weeks_run_each_hour_exactly_once_through_outages() {
        use proptest::prelude::*;
        let schedules = hourly();
        let start = at("2026-10-20T00:30:00Z");
        proptest!(ProptestConfig::with_cases(64), |(gaps in proptest::collection::vec(1_i64..400, 50..300))| {
            let counts = BTreeMap::from([("hourly".to_owned(), start)]);
            let mut seen: Vec<Seen> = Vec::new();
            let mut now = start;
            for gap in gaps {
                // The operator looks, is away for some minutes, and looks again; what it made has ended by then.
                for run in &mut seen {
                    run.active = false;
                }
                now = now.checked_add(jiff::SignedDuration::from_mins(gap)).unwrap();
                let decision = decide("cart", &schedules, &counts, &seen, now);
                for due in decision.due {
                    prop_assert!(due.at <= now && now.duration_since(due.at).as_mins() < 60);
                    prop_assert!(!seen.iter().any(|run| run.name == due.name), "twice: {}", due.name);
                    seen.push(run(&due.name, true));
                }
                prop_assert!(decision.next.is_some_and(|next| next > now));
                // After each look, no hour that has come is still owed.
                let again = decide("cart", &schedules, &counts, &seen, now);
                prop_assert!(again.due.is_empty());
            }
        });
    }
}
