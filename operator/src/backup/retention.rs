//! What of the backups of one cluster may go: pure, the time is an argument.
//!
//! ```text
//! good (Complete, not found wrong)    kept if one of keepLast, keepDaily, keepWeekly, keepMonthly wants it,
//!                                     or none of the four is set; then what is older than maxAge goes
//! found wrong                         goes after a week: it is evidence, not a backup
//! newest verified, else newest good   stays whatever the rules say
//! ```
//!
//! Days, ISO weeks and months are those of UTC. Of a day the newest counts, and a day without a backup does not count.
//!
//! Invariant: while there is a verified backup, the newest verified one is never in the result.

use std::collections::BTreeSet;

use jiff::Timestamp;
use jiff::tz::TimeZone;

/// Time for which a backup that was found wrong is kept.
const EVIDENCE: jiff::SignedDuration = jiff::SignedDuration::from_hours(7 * 24);

/// What is to be kept. A zero asks for nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    /// The newest ones.
    pub last: u32,
    /// Days of which the newest is kept.
    pub daily: u32,
    /// Weeks of which the newest is kept.
    pub weekly: u32,
    /// Months of which the newest is kept.
    pub monthly: u32,
    /// Nothing older than this is kept, but for the newest verified one.
    pub age_max: Option<jiff::SignedDuration>,
}

/// How far a backup is proved, as far as retention cares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Proof {
    /// Not looked at.
    None,
    /// Proved to be good.
    Good,
    /// Proved to be wrong.
    Wrong,
}

/// One Complete backup, as its `meta.json` and `verified.json` describe it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item {
    /// Its directory.
    pub dir: String,
    /// When its snapshot was begun.
    pub created: Timestamp,
    /// Proof.
    pub proof: Proof,
}

/// Directories of the backups that may be deleted, oldest first.
#[must_use]
pub fn surplus(items: &[Item], policy: &Policy, now: Timestamp) -> Vec<String> {
    if *policy == Policy::default() {
        return Vec::new();
    }
    let mut sorted: Vec<&Item> = items.iter().collect();
    sorted.sort_by(|a, b| (b.created, &b.dir).cmp(&(a.created, &a.dir)));
    let good: Vec<&Item> = sorted.iter().copied().filter(|item| item.proof != Proof::Wrong).collect();
    let saved = good.iter().find(|item| item.proof == Proof::Good).or(good.first()).map(|item| &item.dir);
    let kept = kept(&good, policy);
    let too_old = |item: &Item| policy.age_max.is_some_and(|max| now.duration_since(item.created) > max);
    let goes = |item: &&Item| match item.proof {
        _ if Some(&item.dir) == saved => false,
        Proof::Wrong => now.duration_since(item.created) > EVIDENCE,
        Proof::None | Proof::Good => too_old(item) || !kept.contains(&item.dir),
    };
    let mut gone: Vec<String> = sorted.into_iter().filter(goes).map(|item| item.dir.clone()).collect();
    gone.reverse();
    gone
}

/// Directories that one of the four rules wants; all if none is set. `good` is sorted, newest first.
fn kept<'a>(good: &[&'a Item], policy: &Policy) -> BTreeSet<&'a String> {
    if policy.last == 0 && policy.daily == 0 && policy.weekly == 0 && policy.monthly == 0 {
        return good.iter().map(|item| &item.dir).collect();
    }
    let count = |number: u32| usize::try_from(number).unwrap_or(usize::MAX);
    let mut kept: BTreeSet<&String> = good.iter().take(count(policy.last)).map(|item| &item.dir).collect();
    let date = |item: &Item| item.created.to_zoned(TimeZone::UTC).date();
    let day = |item: &Item| date(item).to_string();
    let week = |item: &Item| {
        let week = date(item).iso_week_date();
        format!("{}-{}", week.year(), week.week())
    };
    let month = |item: &Item| format!("{}-{}", date(item).year(), date(item).month());
    let mut newest_of_each = |number: u32, period: &dyn Fn(&Item) -> String| {
        let mut seen = BTreeSet::new();
        for item in good {
            if seen.len() >= count(number) {
                break;
            }
            if seen.insert(period(item)) {
                kept.insert(&item.dir);
            }
        }
    };
    newest_of_each(policy.daily, &day);
    newest_of_each(policy.weekly, &week);
    newest_of_each(policy.monthly, &month);
    kept
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn item(created: &str, proof: Proof) -> Item {
        Item { dir: created.to_owned(), created: created.parse().unwrap(), proof }
    }

    fn hours_of_weeks(weeks: i64) -> (Vec<Item>, Timestamp) {
        let start: Timestamp = "2026-10-01T00:00:00Z".parse().unwrap();
        let at = |hour| start.checked_add(jiff::SignedDuration::from_hours(hour)).unwrap();
        let items = (0..weeks * 168)
            .map(|hour| Item { dir: at(hour).to_string(), created: at(hour), proof: Proof::Good })
            .collect();
        (items, at(weeks * 168))
    }

    #[test]
    fn hourly_backups_over_weeks_leave_what_the_rules_ask_for() {
        let policy = Policy { last: 24, daily: 14, weekly: 4, monthly: 6, age_max: None };
        let (mut items, now) = hours_of_weeks(10);
        let gone: BTreeSet<String> = surplus(&items, &policy, now).into_iter().collect();
        items.retain(|item| !gone.contains(&item.dir));
        let left: Vec<&str> = items.iter().map(|item| item.dir.as_str()).collect();
        // The newest 24 of 2026-12-09, the last hour of each of 14 days, of 4 weeks (Sundays), of the months.
        let mut want: Vec<String> = (0..24).map(|hour| format!("2026-12-09T{hour:02}:00:00Z")).collect();
        want.extend((1..=8).map(|day| format!("2026-12-0{day}T23:00:00Z")));
        want.extend((26..=30).map(|day| format!("2026-11-{day}T23:00:00Z")));
        want.extend(
            ["2026-11-29", "2026-11-22", "2026-11-30", "2026-10-31"].map(|d| format!("{d}T23:00:00Z")),
        );
        want.sort();
        want.dedup();
        assert_eq!(left, want);
        assert!(surplus(&items, &policy, now).is_empty(), "what is left is stable");
    }

    #[test]
    fn only_good_ones_count_and_the_newest_verified_stays() {
        let now = "2026-11-22T00:00:00Z".parse().unwrap();
        let items = [
            item("2026-11-01T00:00:00Z", Proof::Good),
            item("2026-11-02T00:00:00Z", Proof::Wrong),
            item("2026-11-19T00:00:00Z", Proof::None),
            item("2026-11-20T00:00:00Z", Proof::None),
            item("2026-11-21T00:00:00Z", Proof::Wrong),
        ];
        let one = Policy { last: 1, ..Policy::default() };
        assert_eq!(surplus(&items, &one, now), ["2026-11-02T00:00:00Z", "2026-11-19T00:00:00Z"]);
        let old = Policy { age_max: Some(jiff::SignedDuration::from_hours(1)), ..Policy::default() };
        let gone = surplus(&items, &old, now);
        assert_eq!(gone, ["2026-11-02T00:00:00Z", "2026-11-19T00:00:00Z", "2026-11-20T00:00:00Z"]);
        // Without any verified one the newest good one stays.
        assert_eq!(surplus(&items[2..4], &old, now), ["2026-11-19T00:00:00Z"]);
        assert!(surplus(&items, &Policy::default(), now).is_empty(), "no rule, no deletion");
    }

    proptest! {
        #[test]
        fn the_invariants_hold_for_any_past(
            ages in proptest::collection::vec((0_i64..24 * 400, 0_u8..3), 0..120),
            (last, daily, weekly, monthly) in (0_u32..9, 0_u32..9, 0_u32..9, 0_u32..9),
            age_max in proptest::option::of(1_i64..24 * 300),
        ) {
            let now: Timestamp = "2026-11-22T10:11:12Z".parse().unwrap();
            let items: Vec<Item> = ages.iter().enumerate().map(|(number, (age, proof))| Item {
                dir: number.to_string(),
                created: now.checked_sub(jiff::SignedDuration::from_hours(*age)).unwrap(),
                proof: [Proof::None, Proof::Good, Proof::Wrong][usize::from(*proof)],
            }).collect();
            let age_max = age_max.map(jiff::SignedDuration::from_hours);
            let policy = Policy { last, daily, weekly, monthly, age_max };
            let gone: BTreeSet<String> = surplus(&items, &policy, now).into_iter().collect();
            let left: Vec<&Item> = items.iter().filter(|item| !gone.contains(&item.dir)).collect();
            let newest = |proof: Proof| {
                items.iter().filter(|item| item.proof == proof).max_by_key(|item| (item.created, item.dir.clone()))
            };
            if let Some(newest) = newest(Proof::Good) {
                prop_assert!(!gone.contains(&newest.dir), "the newest verified one is gone");
            } else if let Some(newest) = newest(Proof::None) {
                prop_assert!(!gone.contains(&newest.dir), "the newest good one is gone");
            }
            let good = |proof: Proof| proof != Proof::Wrong;
            let total = items.iter().filter(|item| good(item.proof)).count();
            let young = left.iter().filter(|item| good(item.proof)).count();
            if age_max.is_none() {
                prop_assert!(young >= total.min(last as usize), "keepLast is not kept");
            }
            if last + daily + weekly + monthly > 0 {
                prop_assert!(young <= (last + daily + weekly + monthly) as usize + 1, "too many are left");
            }
            // A second pass finds nothing more to do.
            let left: Vec<Item> = left.into_iter().cloned().collect();
            prop_assert!(surplus(&left, &policy, now).is_empty());
        }
    }
}
