//! Passwords that change while clients use them. Pure.
//!
//! ```text
//! annotation kvnode.dev/rotate   password   passwords (valid)
//! (none)                         a          a
//! begin                          a          a b       by a person, or by age
//! spreading <time>               a          a b       until every pod says that it has read it
//! moving <time>                  b          b a       the Secret hands the new one out; clients move
//! finish                         b          b         by a person, or after the overlap
//! (none)                         b          b
//! ```
//!
//! Nodes log in at each other with the first valid one, so the new one comes first only when all of them know it.
//!
//! A password that somebody else keeps (`spec.auth.passwordSecret`) takes the same way as soon as it is another one; there is
//! nothing to make then, so `begin` and age do nothing.
//!
//! Words of people are taken as far as they make sense: `begin` said again and again ends at [`VALID_MAX`] passwords, and
//! `spreading` without a time begins now, or is taken away where there is nothing to spread.

use jiff::{SignedDuration, Timestamp};

use crate::backup::arguments::span;
use crate::crd::auth::Rotation;

/// For pods that do not tell what they have read: the kubelet brings a Secret into a pod within its sync period and the life
/// of its cache, two minutes at most; the node reads the file a few seconds later.
const SPREAD: SignedDuration = SignedDuration::from_mins(3);
/// Passwords of one user that are valid at once by our hand. Each is one more to guess, and one more to forget.
const VALID_MAX: usize = 4;

/// What a Secret with a password holds.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Keys {
    /// What clients are handed.
    pub(super) password: String,
    /// What the pods accept.
    pub(super) valid: Vec<String>,
}

/// How far what the Secrets hold has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Spread {
    /// Every pod says that it has read all of it.
    Everywhere,
    /// One says that it has not.
    Behind,
    /// None says that it has not, but one does not answer, or is too old to tell.
    Untold,
}

impl Spread {
    /// By what each pod says: `None` where it does not answer, or cannot tell.
    pub(super) fn of(told: &[Option<bool>]) -> Self {
        if told.contains(&Some(false)) {
            Self::Behind
        } else if told.is_empty() || told.contains(&None) {
            Self::Untold
        } else {
            Self::Everywhere
        }
    }
}

/// `spec.auth.rotation`, read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Policy {
    every: SignedDuration,
    overlap: SignedDuration,
}

impl Policy {
    /// `None` where there is none, or one that `validate` refuses.
    pub(super) fn of(rotation: Option<&Rotation>) -> Option<Self> {
        let rotation = rotation?;
        Some(Self { every: span(&rotation.every).ok()?, overlap: span(&rotation.overlap).ok()? })
    }
}

/// What a turn is decided by, beside the Secret.
#[derive(Clone, Copy)]
pub(super) struct Moment {
    /// Now.
    pub(super) time: Timestamp,
    /// Since when the password has been handed out.
    pub(super) since: Option<Timestamp>,
    pub(super) spread: Spread,
    pub(super) policy: Option<Policy>,
}

/// What happened to a password.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Turned {
    /// There is a second one.
    Began,
    /// There are too many for another one.
    Full,
    /// The Secret hands the newest one out.
    HandedOut,
    /// One is left.
    Done,
    /// Nothing but the annotation.
    Put,
}

/// The next state.
pub(super) struct Turn {
    pub(super) keys: Keys,
    /// The annotation that goes with it.
    pub(super) word: Option<String>,
    pub(super) turned: Turned,
}

/// The next state; `None` while there is nothing to do.
pub(super) fn next(
    word: Option<&str>,
    keys: Keys,
    moment: Moment,
    fresh: impl FnOnce() -> String,
) -> Option<Turn> {
    let Moment { time, since, spread, policy } = moment;
    let (word, at) = word.map(|word| word.split_once(' ').unwrap_or((word, ""))).unzip();
    let at: Option<Timestamp> = at.and_then(|at| at.parse().ok());
    let over = |from: Option<Timestamp>, limit: SignedDuration| {
        from.is_some_and(|from| time.duration_since(from) >= limit)
    };
    match (word, policy) {
        (None, Some(policy)) if over(since, policy.every) => Some(begin(keys, time, fresh)),
        (Some("begin"), _) => Some(begin(keys, time, fresh)),
        (Some("spreading"), _) if at.is_none() => {
            let spreads = keys.valid.last().is_some_and(|newest| *newest != keys.password);
            let word = spreads.then(|| format!("spreading {time}"));
            Some(Turn { keys, word, turned: Turned::Put })
        }
        (Some("spreading"), _) => {
            let is_read = match spread {
                Spread::Everywhere => true,
                Spread::Behind => false,
                Spread::Untold => over(at, SPREAD),
            };
            is_read.then(|| hand_out(keys, time))
        }
        (Some("moving"), Some(_)) if at.is_none() => {
            Some(Turn { keys, word: Some(format!("moving {time}")), turned: Turned::Put })
        }
        (Some("moving"), Some(policy)) if over(at, policy.overlap) => Some(finish(keys)),
        (Some("finish"), _) => Some(finish(keys)),
        _ => None,
    }
}

/// The next state of a password that somebody else keeps, which is `given` now; `None` while there is nothing to do.
pub(super) fn next_given(word: Option<&str>, keys: Keys, moment: Moment, given: &str) -> Option<Turn> {
    let time = moment.time;
    let first = word.and_then(|word| word.split(' ').next());
    let newest = if first == Some("spreading") { keys.valid.last() } else { Some(&keys.password) };
    let is_newest = newest.is_some_and(|newest| newest == given);
    let is_handed_out = given == keys.password;
    let moving = format!("moving {time}");
    match first {
        // Who ends the old ones means it; another one comes after that.
        Some("finish") if !is_handed_out => Some(finish(keys)),
        // It spreads already, or it waits for room, which somebody must make.
        _ if !is_newest && !is_handed_out => {
            let Keys { password, mut valid } = keys;
            valid.retain(|other| other != given);
            let waits = first == Some("moving") && valid.len() >= VALID_MAX;
            (!waits).then(|| begin(Keys { password, valid }, time, || given.to_owned()))
        }
        // There is nothing to make; or the one that is handed out has come back while another one spread.
        _ if first == Some("begin") || !is_newest => {
            let word = (keys.valid.len() > 1).then_some(moving);
            Some(Turn { keys, word, turned: Turned::Put })
        }
        // Without a word nothing begins: age is for passwords that are made here.
        None => None,
        Some(_) => next(word, keys, moment, String::new),
    }
}

fn begin(keys: Keys, time: Timestamp, fresh: impl FnOnce() -> String) -> Turn {
    let Keys { password, mut valid } = keys;
    valid.retain(|other| *other != password);
    valid.insert(0, password.clone());
    let mut keys = Keys { password, valid };
    if keys.valid.len() >= VALID_MAX {
        return Turn { keys, word: Some(format!("moving {time}")), turned: Turned::Full };
    }
    keys.valid.push(fresh());
    Turn { keys, word: Some(format!("spreading {time}")), turned: Turned::Began }
}

fn hand_out(keys: Keys, time: Timestamp) -> Turn {
    let Keys { password, mut valid } = keys;
    let newest = valid.pop().unwrap_or(password);
    valid.insert(0, newest.clone());
    let keys = Keys { password: newest, valid };
    Turn { keys, word: Some(format!("moving {time}")), turned: Turned::HandedOut }
}

fn finish(keys: Keys) -> Turn {
    let Keys { password, .. } = keys;
    let keys = Keys { valid: vec![password.clone()], password };
    Turn { keys, word: None, turned: Turned::Done }
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: Timestamp = Timestamp::UNIX_EPOCH;

    fn keys(password: &str, valid: &[&str]) -> Keys {
        Keys { password: password.into(), valid: valid.iter().map(|&word| word.into()).collect() }
    }

    fn at(minutes: i64, spread: Spread) -> Moment {
        let time = START + SignedDuration::from_mins(minutes);
        Moment { time, since: Some(START), spread, policy: None }
    }

    fn take(word: &str, keys: Keys, moment: Moment) -> Option<(Keys, Option<String>, Turned)> {
        next(Some(word), keys, moment, || "b".to_owned()).map(|turn| (turn.keys, turn.word, turn.turned))
    }

    #[test]
    fn both_are_valid_until_a_person_says_that_the_clients_have_moved() {
        let (both, word, _) = take("begin", keys("a", &["a"]), at(0, Spread::Everywhere)).unwrap();
        assert!(
            both == keys("a", &["a", "b"]),
            "handed out when the pods have read it, not when they had read the old"
        );
        let word = word.unwrap();
        assert!(take(&word, both.clone(), at(60, Spread::Behind)).is_none(), "a pod is behind");
        assert!(take(&word, both.clone(), at(2, Spread::Untold)).is_none(), "a pod may be behind");
        assert!(take(&word, both.clone(), at(3, Spread::Untold)).is_some());
        let (moved, word, turned) = take(&word, both.clone(), at(1, Spread::Everywhere)).unwrap();
        assert!(moved == keys("b", &["b", "a"]) && turned == Turned::HandedOut);
        assert!(
            take(&word.unwrap(), moved.clone(), at(9000, Spread::Everywhere)).is_none(),
            "clients are behind"
        );
        let (done, word, _) = take("finish", moved, at(5, Spread::Everywhere)).unwrap();
        assert!(done == keys("b", &["b"]) && word.is_none());
        // Taken back while it spreads.
        let (back, _, _) = take("finish", both, at(0, Spread::Behind)).unwrap();
        assert!(back == keys("a", &["a"]));
        // What a person has added is not taken away before the end.
        let (kept, _, _) = take("begin", keys("a", &["c", "a"]), at(0, Spread::Behind)).unwrap();
        assert!(kept == keys("a", &["a", "c", "b"]));
        assert!(take("perhaps", keys("a", &["a"]), at(9000, Spread::Everywhere)).is_none());
    }

    #[test]
    fn begin_again_and_again_ends_at_a_limit() {
        let mut now = keys("a", &["a"]);
        for _ in 1..VALID_MAX {
            let (more, _, turned) = take("begin", now, at(0, Spread::Behind)).unwrap();
            assert_eq!(turned, Turned::Began);
            now = more;
        }
        let (full, word, turned) = take("begin", now.clone(), at(7, Spread::Behind)).unwrap();
        assert!(full == now && turned == Turned::Full);
        assert_eq!(word.as_deref(), Some("moving 1970-01-01T00:07:00Z"), "so that it is not said again");
    }

    #[test]
    fn spreading_without_a_time_hands_nothing_out() {
        for word in ["spreading", "spreading soon"] {
            let (same, word, _) = take(word, keys("a", &["a", "b"]), at(5, Spread::Everywhere)).unwrap();
            assert!(same == keys("a", &["a", "b"]));
            assert_eq!(word.as_deref(), Some("spreading 1970-01-01T00:05:00Z"));
        }
        let (same, word, _) = take("spreading", keys("a", &["a"]), at(5, Spread::Everywhere)).unwrap();
        assert!(same == keys("a", &["a"]) && word.is_none(), "there is nothing to spread");
    }

    #[test]
    fn a_password_of_somebody_else_takes_the_same_way() {
        let give = |word: Option<&str>, keys: Keys, moment, given: &str| {
            next_given(word, keys, moment, given).map(|turn| (turn.keys, turn.word))
        };
        let read = at(0, Spread::Everywhere);
        assert!(give(None, keys("a", &["a"]), read, "a").is_none());
        let (both, word) = give(None, keys("a", &["a"]), read, "b").unwrap();
        assert!(both == keys("a", &["a", "b"]));
        let word = word.unwrap();
        assert!(give(Some(&word), both.clone(), at(9, Spread::Behind), "b").is_none(), "a pod is behind");
        // Another one while that one spreads; what it was before stays valid.
        let (three, _) = give(Some(&word), both.clone(), at(1, Spread::Behind), "c").unwrap();
        assert!(three == keys("a", &["a", "b", "c"]));
        // The old one again: it is handed out as it is.
        let (back, put) = give(Some(&word), both.clone(), at(1, Spread::Behind), "a").unwrap();
        assert!(back == both && put.unwrap().starts_with("moving"));
        let (moved, word) = give(Some(&word), both, at(1, Spread::Everywhere), "b").unwrap();
        assert!(moved == keys("b", &["b", "a"]));
        assert!(give(word.as_deref(), moved.clone(), at(9000, Spread::Everywhere), "b").is_none());
        let (done, word) = give(Some("finish"), moved, at(5, Spread::Everywhere), "b").unwrap();
        assert!(done == keys("b", &["b"]) && word.is_none());
        // There is nothing to make.
        let (same, word) = give(Some("begin"), done, read, "b").unwrap();
        assert!(same == keys("b", &["b"]) && word.is_none());
        let policy = Policy::of(Some(&Rotation { every: "2h".into(), overlap: "1h".into() }));
        let old = Moment { policy, ..at(600, Spread::Everywhere) };
        assert!(give(None, keys("b", &["b"]), old, "b").is_none());
        assert!(give(Some("moving 1970-01-01T00:00:00Z"), keys("b", &["b", "a"]), old, "b").is_some());
        // One that was valid before is the newest again.
        let (again, _) = give(None, keys("b", &["b", "a"]), read, "a").unwrap();
        assert!(again == keys("b", &["b", "a"]));
        // Who ends the old one means it, whatever comes next.
        let (ended, word) = give(Some("finish"), keys("a", &["a", "z"]), read, "b").unwrap();
        assert!(ended == keys("a", &["a"]) && word.is_none());
        // There is a limit: nothing that is valid ends by itself, and nothing is written again and again.
        let (mut now, mut word) = (keys("a", &["a"]), None);
        for given in ["b", "c", "d"] {
            let (next, spreading) = give(word.as_deref(), now, read, given).unwrap();
            (now, word) = give(spreading.as_deref(), next, read, given).unwrap();
            assert!(now.password == given);
        }
        assert!(now == keys("d", &["d", "c", "b", "a"]));
        assert!(give(word.as_deref(), now.clone(), read, "e").is_none(), "there is no room");
        let full = next_given(None, now.clone(), read, "e").unwrap();
        assert!(full.turned == Turned::Full && full.keys == now && full.word.is_some());
        let (ended, word) = give(Some("finish"), now, read, "e").unwrap();
        assert!(give(word.as_deref(), ended, read, "e").unwrap().0 == keys("d", &["d", "e"]));
    }

    #[test]
    fn with_a_policy_a_password_changes_without_a_person() {
        let rotation = Rotation { every: "90d".into(), overlap: "12h".into() };
        let policy = Policy::of(Some(&rotation));
        let at = |hours: i64| Moment { policy, ..at(60 * hours, Spread::Everywhere) };
        let turn = |word: Option<&str>, keys: Keys, moment| next(word, keys, moment, || "b".to_owned());
        assert!(turn(None, keys("a", &["a"]), at(90 * 24 - 1)).is_none());
        let begun = turn(None, keys("a", &["a"]), at(90 * 24)).unwrap();
        assert!(begun.turned == Turned::Began && begun.keys == keys("a", &["a", "b"]));
        let moved = turn(begun.word.as_deref(), begun.keys, at(90 * 24)).unwrap();
        assert_eq!(moved.turned, Turned::HandedOut);
        let word = moved.word.unwrap();
        assert!(turn(Some(&word), moved.keys.clone(), at(90 * 24 + 11)).is_none());
        assert!(turn(Some(&word), moved.keys, at(90 * 24 + 12)).unwrap().keys == keys("b", &["b"]));
        // Begun by a person of an older version, who has not finished.
        let put = turn(Some("moving"), keys("b", &["b", "a"]), at(1)).unwrap();
        assert_eq!((put.word.as_deref(), put.turned), (Some("moving 1970-01-01T01:00:00Z"), Turned::Put));
        // One that nobody knows the age of is left alone.
        assert!(turn(None, keys("a", &["a"]), Moment { since: None, ..at(1_000_000) }).is_none());
    }
}
