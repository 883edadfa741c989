//! Passwords that change while clients use them. Pure.
//!
//! ```text
//! annotation kvnode.dev/rotate   password   passwords (valid)
//! (none)                         a          a
//! begin                          a          a b       by a person
//! spreading <time>               a          a b       until the pods have read it for sure
//! moving                         b          b a       the Secret hands the new one out; clients move
//! finish                         b          b         by a person
//! (none)                         b          b
//! ```
//!
//! Nodes log in at each other with the first valid one, so the new one comes first only when all of them know it.

use jiff::{SignedDuration, Timestamp};

/// The kubelet brings a Secret into a pod within its sync period and the life of its cache, two minutes at most; the
/// node reads the file a few seconds later.
const SPREAD: SignedDuration = SignedDuration::from_mins(3);

/// What a Secret with a password holds.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Keys {
    /// What clients are handed.
    pub(super) password: String,
    /// What the pods accept.
    pub(super) valid: Vec<String>,
}

/// The next state, and the annotation that goes with it; `None` while there is nothing to do.
pub(super) fn next(
    word: &str,
    now: Keys,
    time: Timestamp,
    fresh: impl FnOnce() -> String,
) -> Option<(Keys, Option<String>)> {
    let Keys { password, mut valid } = now;
    let (word, since) = word.split_once(' ').unwrap_or((word, ""));
    match word {
        "begin" => {
            valid.retain(|other| *other != password);
            valid.insert(0, password.clone());
            valid.push(fresh());
            Some((Keys { password, valid }, Some(format!("spreading {time}"))))
        }
        "spreading" => {
            let since: Timestamp = since.parse().unwrap_or(Timestamp::UNIX_EPOCH);
            if time.duration_since(since) < SPREAD {
                return None;
            }
            let newest = valid.pop().unwrap_or(password);
            valid.insert(0, newest.clone());
            Some((Keys { password: newest, valid }, Some("moving".to_owned())))
        }
        "finish" => Some((Keys { valid: vec![password.clone()], password }, None)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(password: &str, valid: &[&str]) -> Keys {
        Keys { password: password.into(), valid: valid.iter().map(|&word| word.into()).collect() }
    }

    #[test]
    fn both_are_valid_until_a_person_says_that_the_clients_have_moved() {
        let start = Timestamp::UNIX_EPOCH;
        let late = start + SignedDuration::from_mins(3);
        let take = |word: &str, keys: Keys, time| next(word, keys, time, || "b".to_owned());
        let (both, word) = take("begin", keys("a", &["a"]), start).unwrap();
        assert!(both == keys("a", &["a", "b"]));
        let word = word.unwrap();
        assert!(take(&word, both.clone(), start + SignedDuration::from_mins(2)).is_none(), "pods are behind");
        let (moved, word) = take(&word, both.clone(), late).unwrap();
        assert!(moved == keys("b", &["b", "a"]));
        assert!(take(&word.unwrap(), moved.clone(), late).is_none(), "clients are behind");
        let (done, word) = take("finish", moved, late).unwrap();
        assert!(done == keys("b", &["b"]) && word.is_none());
        // Taken back while it spreads.
        let (back, _) = take("finish", both, start).unwrap();
        assert!(back == keys("a", &["a"]));
        // What a person has added is not taken away before the end.
        let (kept, _) = take("begin", keys("a", &["c", "a"]), start).unwrap();
        assert!(kept == keys("a", &["a", "c", "b"]));
        assert!(take("perhaps", keys("a", &["a"]), late).is_none());
    }
}
