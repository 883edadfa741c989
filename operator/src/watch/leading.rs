//! Who leads one cluster, from the words of all its nodes. Pure.
//!
//! Nodes tell what they know when they know it, so words arrive late and out of order. The newest is the one with the
//! highest (term, node id of the leader): that is the order in which the group itself decides. A word about another
//! cluster id than the recorded one is none about this cluster.

use std::time::Instant;

use kvnode_api::Id;
use kvnode_api::watch::LeaderEvent;

use crate::observed::Handover;

/// A leader.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leader {
    /// Its term.
    pub term: u64,
    /// Its node id.
    pub id: Id,
    /// Its pod, the first label of its stable name.
    pub pod: String,
}

/// What is known of one cluster's leadership.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Leading {
    cluster: Option<Id>,
    leader: Option<Leader>,
    /// Since when the newest word has been that nobody leads.
    lost: Option<Instant>,
    handover: Option<Handover>,
}

impl Leading {
    /// Of which cluster words are believed. Another id than before forgets everything.
    pub fn expect(&mut self, cluster: Option<Id>) {
        if self.cluster != cluster {
            *self = Self { cluster, ..Self::default() };
        }
    }

    /// The cluster whose words are believed.
    #[must_use]
    pub fn cluster(&self) -> Option<Id> {
        self.cluster
    }

    /// The newest leader known; it may be gone meanwhile.
    #[must_use]
    pub fn leader(&self) -> Option<&Leader> {
        self.leader.as_ref()
    }

    /// The newest change of leader.
    #[must_use]
    pub fn handover(&self) -> Option<&Handover> {
        self.handover.as_ref()
    }

    /// Takes a word in. True if it names another leader, or the same one in a newer term.
    pub fn hear(&mut self, event: &LeaderEvent, now: Instant) -> bool {
        if self.cluster.is_none() || event.cluster_id != self.cluster {
            return false;
        }
        let Some(named) = &event.leader else {
            // A node that knows no leader of a term that has one is only late.
            let known = self.leader.as_ref().map_or(0, |leader| leader.term);
            if event.term > known && self.leader.is_some() {
                self.lost.get_or_insert(now);
            }
            return false;
        };
        let current = self.leader.as_ref().map(|leader| (leader.term, leader.id));
        if current.is_some_and(|current| (event.term, named.id) <= current) {
            return false;
        }
        let pod = named.addr.split(['.', ':']).next().unwrap_or_default().to_owned();
        let leader = Leader { term: event.term, id: named.id, pod };
        let lost = self.lost.take();
        if let Some(before) = self.leader.replace(leader.clone())
            && before.id != leader.id
        {
            let gap = lost.map_or(0, |lost| now.saturating_duration_since(lost).as_millis());
            self.handover = Some(Handover {
                from: before.pod,
                to: leader.pod,
                term: leader.term,
                gap_ms: u64::try_from(gap).unwrap_or(u64::MAX),
            });
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use kvnode_api::status::{LeaderInfo, Role};
    use proptest::prelude::*;

    use super::*;
    use crate::clock;

    fn word(cluster: u64, term: u64, leader: Option<u64>) -> LeaderEvent {
        LeaderEvent {
            cluster_id: Some(Id(cluster)),
            node_id: Id(9),
            role: Role::Follower,
            term,
            leader: leader
                .map(|id| LeaderInfo { id: Id(id), addr: format!("cart-{id}.cart-raft.shop.svc:4920") }),
        }
    }

    fn expecting(cluster: u64) -> Leading {
        let mut leading = Leading::default();
        leading.expect(Some(Id(cluster)));
        leading
    }

    #[test]
    fn a_change_is_told_once_with_its_gap() {
        let start = clock::monotonic();
        let at = |ms| start + Duration::from_millis(ms);
        let mut leading = expecting(1);
        assert!(leading.hear(&word(1, 3, Some(0)), at(0)));
        assert!(!leading.hear(&word(1, 3, Some(0)), at(1)), "the second node says the same");
        assert_eq!(leading.handover(), None, "the first leader is no change");
        assert!(!leading.hear(&word(1, 4, None), at(1000)));
        assert!(!leading.hear(&word(1, 4, None), at(1100)), "a gap begins with its first word");
        assert!(!leading.hear(&word(1, 3, Some(0)), at(1150)), "late");
        assert!(leading.hear(&word(1, 4, Some(2)), at(1300)));
        let expected = Handover { from: "cart-0".into(), to: "cart-2".into(), term: 4, gap_ms: 300 };
        assert_eq!(leading.handover(), Some(&expected));
        assert!(!leading.hear(&word(1, 4, None), at(1301)), "late");
        assert!(leading.hear(&word(1, 6, Some(2)), at(1400)), "elected again: the label carries the term");
        assert_eq!(leading.handover(), Some(&expected), "the same leader is no change");
    }

    #[test]
    fn words_about_another_cluster_are_not_heard() {
        let now = clock::monotonic();
        let mut leading = Leading::default();
        assert!(!leading.hear(&word(1, 3, Some(0)), now), "nothing is recorded yet");
        leading.expect(Some(Id(1)));
        assert!(!leading.hear(&word(2, 9, Some(1)), now));
        assert!(!leading.hear(&LeaderEvent { cluster_id: None, ..word(1, 9, Some(1)) }, now));
        assert!(leading.hear(&word(1, 3, Some(0)), now));
        leading.expect(Some(Id(1)));
        assert!(leading.leader().is_some(), "the same expectation forgets nothing");
        leading.expect(Some(Id(2)));
        assert_eq!(leading.leader(), None);
    }

    proptest! {
        #[test]
        fn the_order_of_words_does_not_matter(words in prop::collection::vec((0u64..5, prop::option::of(0u64..3)), 1..12), turn in 0usize..12) {
            let now = clock::monotonic();
            let end = |words: &[(u64, Option<u64>)]| {
                let mut leading = expecting(1);
                for &(term, leader) in words {
                    leading.hear(&word(1, term, leader), now);
                }
                leading.leader().cloned()
            };
            let mut turned = words.clone();
            turned.rotate_left(turn % words.len());
            let newest = words.iter().filter_map(|&(term, leader)| leader.map(|id| (term, Id(id)))).max();
            prop_assert_eq!(end(&words).map(|leader| (leader.term, leader.id)), newest);
            prop_assert_eq!(end(&turned).map(|leader| (leader.term, leader.id)), newest);
        }
    }
}
