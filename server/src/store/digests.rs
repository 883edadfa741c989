//! What replicas compare: the content at entries that are the same ones on every node.
//!
//! ```text
//! Applier, after each 64th entry -> Digests (the newest 1024) -> Store::digests_since -> another node
//! ```
//!
//! Content is the running digest and the counts of all databases, so a digest costs an addition per database. What a
//! damaged file changes is found only as the key is written or deleted again: what was read then goes into the digest.
//! (`RocksDB`'s checksums find damaged files; this finds nodes that have applied something else.)

use std::collections::VecDeque;

use parking_lot::Mutex;

use super::LogId;
use super::meta::{Database, State};

/// Entries from one digest to the next. Part of the peer protocol: nodes with other distances have little to compare.
const EVERY: u64 = 64;
/// Digests that are kept: entries of several seconds at the highest rate.
pub(crate) const KEPT: usize = 1024;

/// Content at one entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Digest {
    /// Last entry that is in the content.
    pub at: LogId,
    /// Digest, keys and keys with a deadline, mixed over all databases; a database without keys adds nothing.
    pub content: u128,
}

/// The newest digests of this node.
#[derive(Debug, Default)]
pub(crate) struct Digests(Mutex<VecDeque<Digest>>);

impl Digests {
    /// Takes the state as it is after an entry, if one is due here.
    pub(super) fn note(&self, at: LogId, databases: &[Database]) {
        if !at.index.is_multiple_of(EVERY) {
            return;
        }
        push(&mut self.0.lock(), Digest { at, content: content(databases) });
    }

    /// Digests behind this index, and the content of `now`, which is remembered: what has been told must not be unknown
    /// later.
    pub(super) fn since(&self, index: u64, now: &State) -> Vec<Digest> {
        let mut digests = self.0.lock();
        if let Some(at) = now.applied
            && digests.iter().rev().all(|digest| digest.at != at)
        {
            push(&mut digests, Digest { at, content: now.content() });
        }
        digests.iter().filter(|digest| digest.at.index > index).copied().collect()
    }

    /// The content is another one from now on, whatever entries it went through before.
    pub(super) fn clear(&self) {
        self.0.lock().clear();
    }
}

fn push(digests: &mut VecDeque<Digest>, digest: Digest) {
    if digests.len() == KEPT {
        digests.pop_front();
    }
    digests.push_back(digest);
}

/// See [`Digest::content`].
pub(crate) fn content(databases: &[Database]) -> u128 {
    let mut sum = 0_u128;
    for (number, database) in (0_u32..).zip(databases) {
        let facts = &database.stats;
        let counts = u128::from(facts.keys) << 64 | u128::from(facts.expires);
        sum = sum.wrapping_add(facts.digest.wrapping_add(counts).rotate_left(7 * number % 128));
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::DbStats;

    fn database(keys: u64, digest: u128) -> Database {
        Database { stats: DbStats { keys, expires: 0, digest }, ..Database::default() }
    }

    #[test]
    fn contents_differ_by_digest_count_and_place_but_not_by_empty_databases() {
        let of = |databases: &[Database]| content(databases);
        let one = of(&[database(1, 7)]);
        assert_eq!(one, of(&[database(1, 7), database(0, 0)]), "another number of databases");
        assert_ne!(one, of(&[database(1, 8)]));
        assert_ne!(one, of(&[database(2, 7)]));
        assert_ne!(one, of(&[database(0, 0), database(1, 7)]));
    }

    #[test]
    fn the_newest_are_kept_and_the_present_is_told() {
        let digests = Digests::default();
        let at = |index| LogId { term: 1, node: 1, index };
        for index in 1..=(KEPT as u64 + 2) * EVERY + 1 {
            digests.note(at(index), &[database(index, 0)]);
        }
        let last = (KEPT as u64 + 2) * EVERY + 1;
        let now = State { applied: Some(at(last)), databases: vec![database(last, 0)], ..State::default() };
        let all = digests.since(0, &now);
        assert_eq!(all.len(), KEPT);
        assert_eq!((all[0].at.index, all[KEPT - 1].at.index), (4 * EVERY, last));
        assert_eq!(digests.since(last - 2, &now).len(), 2, "the present, and the one just before it");
        assert_eq!(digests.since(last, &now), []);
        // Told once, known later, when the content has gone on.
        let later = State { applied: Some(at(last + 5)), ..now };
        assert_eq!(digests.since(last - 1, &later).len(), 2);
        digests.clear();
        assert_eq!(digests.since(0, &later).len(), 1);
    }
}
