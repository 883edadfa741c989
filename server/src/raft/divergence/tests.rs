//! Who is wrong by what the members say, and how it is said.

use super::*;
use crate::raft::types::Node;

fn at(index: u64) -> LogId {
    LogId { term: 2, node: 1, index }
}

fn members(voters: &[u64], learners: &[u64]) -> Members {
    let nodes = voters.iter().chain(learners).map(|id| (*id, Node::default())).collect();
    Members { configs: vec![voters.to_vec()], nodes }
}

fn table(rows: &[(u64, u64, u128)]) -> Table {
    let mut table = Table::default();
    for &(node, index, content) in rows {
        table.add(node, &[Digest { at: at(index), content }]);
    }
    table
}

/// Who is wrong, and where that was seen first.
fn diverged(rows: &[(u64, u64, u128)], members: &Members) -> Vec<(u64, LogId)> {
    table(rows).judge(members, &BTreeMap::new()).comparison.diverged.into_iter().collect()
}

#[test]
fn a_majority_of_the_voters_is_right() {
    let three = members(&[1, 2, 3], &[4]);
    let judged = table(&[(1, 64, 7), (2, 64, 7), (3, 70, 9)]).judge(&three, &BTreeMap::new());
    let comparison = Comparison { equal_at: Some(at(64)), ..Comparison::default() };
    assert_eq!(judged, Judgement { comparison, ..Judgement::default() });
    let judged = table(&[(1, 64, 7), (2, 64, 7), (3, 64, 8), (4, 64, 7)]).judge(&three, &BTreeMap::new());
    assert_eq!(judged.comparison.diverged, BTreeMap::from([(3, at(64))]));
    assert_eq!(
        judged.wrong,
        BTreeMap::from([(3, vec![Digest { at: at(64), content: 7 }])]),
        "what would be right"
    );
    assert_eq!(diverged(&[(1, 64, 8), (2, 64, 7), (3, 64, 7)], &three), [(1, at(64))], "the leader itself");
    assert_eq!(diverged(&[(1, 64, 7), (2, 64, 7), (4, 64, 8)], &three), [(4, at(64))], "a learner");
}

#[test]
fn without_a_majority_nobody_is_wrong() {
    let (three, two) = (members(&[1, 2, 3], &[4]), members(&[1, 2], &[]));
    let undecided = |rows: &[(u64, u64, u128)], members: &Members| {
        let judged = table(rows).judge(members, &BTreeMap::new());
        assert!(judged.wrong.is_empty() && judged.comparison.diverged.is_empty());
        judged.comparison.undecided_at
    };
    let differs = Some(at(64));
    assert_eq!(undecided(&[(1, 64, 7), (2, 64, 8)], &three), differs);
    assert_eq!(undecided(&[(1, 64, 7), (2, 64, 8), (4, 64, 7)], &three), differs, "learners do not count");
    assert_eq!(undecided(&[(1, 64, 7), (2, 64, 8), (3, 64, 9)], &three), differs);
    assert_eq!(undecided(&[(1, 64, 7), (2, 64, 8)], &two), differs);
}

#[test]
fn of_two_voter_sets_both_must_agree() {
    let joint = |other: &[u64]| Members {
        configs: vec![vec![1, 2, 3], other.to_vec()],
        ..members(&[1, 2, 3, 4, 5], &[])
    };
    let rows = [(1, 64, 7), (2, 64, 7), (3, 64, 8)];
    assert_eq!(diverged(&rows, &joint(&[1, 2])), [(3, at(64))]);
    assert_eq!(diverged(&rows, &joint(&[3, 4, 5])), []);
    assert_eq!(diverged(&rows, &Members::default()), [], "no members, no majority");
}

/// A difference may heal: the key is written again. Were each row judged alone, two of three could stop.
#[test]
fn who_was_wrong_once_has_no_word_any_more() {
    let three = members(&[1, 2, 3], &[]);
    let rows = [(1, 64, 7), (2, 64, 8), (3, 64, 7), (1, 128, 9), (2, 128, 9), (3, 128, 4)];
    assert_eq!(diverged(&rows, &three), [(2, at(64))]);
    let known = BTreeMap::from([(2, at(1))]);
    let judged = table(&rows[3..]).judge(&three, &known);
    assert!(judged.wrong.is_empty(), "found by an earlier round");
    assert_eq!(judged.comparison.undecided_at, Some(at(128)), "and the two that are left differ");
}

#[test]
fn what_is_decided_is_not_called_undecided() {
    let three = members(&[1, 2, 3], &[]);
    // At 70 only the wrong one and one other have told.
    let rows = [(1, 64, 7), (2, 64, 7), (3, 64, 8), (2, 70, 5), (3, 70, 6)];
    let comparison = table(&rows).judge(&three, &BTreeMap::new()).comparison;
    assert_eq!((comparison.undecided_at, comparison.equal_at), (None, Some(at(64))));
}

#[test]
fn a_node_believes_what_its_own_digests_bear_out() {
    let of = |rows: &[(u64, u128)]| -> Vec<Digest> {
        rows.iter().map(|(index, content)| Digest { at: at(*index), content: *content }).collect()
    };
    let own = of(&[(64, 7), (128, 8), (130, 9)]);
    assert_eq!(contradiction(&own, &of(&[(1, 5), (64, 7), (130, 4)])), Ok((own[2], 4)));
    let refused = |right: &[(u64, u128)]| contradiction(&own, &of(right)).unwrap_err();
    assert!(refused(&[(64, 7), (128, 8)]).contains("has the same content"));
    assert!(refused(&[(1, 5)]).contains("does not remember"));
    let other_term = [Digest { at: LogId { term: 3, ..at(64) }, content: 5 }];
    assert!(contradiction(&own, &other_term).unwrap_err().contains("does not remember"));
}

#[test]
fn who_is_compared_anew_is_asked_for_everything() {
    let mut table = table(&[(1, 64, 7), (2, 64, 7), (3, 64, 8)]);
    assert_eq!(table.asks_from(3), 63);
    table.forget(3);
    assert_eq!(table.asks_from(3), 0);
    assert!(table.judge(&members(&[1, 2, 3], &[]), &BTreeMap::new()).wrong.is_empty());
}

#[test]
fn a_node_that_has_left_is_forgotten_and_the_table_stays_small() {
    let mut table = table(&[(1, 64, 7), (2, 64, 7), (3, 64, 8)]);
    table.keep(&members(&[1, 2], &[]));
    let judged = table.judge(&members(&[1, 2], &[]), &BTreeMap::new());
    assert_eq!(judged.comparison.equal_at, Some(at(64)));
    assert_eq!((table.asks_from(2), table.asks_from(3)), (63, 0));
    for index in 0..=ROWS_MAX as u64 {
        table.add(1, &[Digest { at: at(100 + index), content: 0 }]);
    }
    assert_eq!(table.rows.len(), ROWS_MAX);
}

#[test]
fn what_is_said_is_understood_and_half_of_it_is_not() {
    let digests = [Digest { at: at(64), content: u128::MAX - 1 }, Digest { at: at(71), content: 3 }];
    let body = encode_digests(&digests);
    assert_eq!(decode_digests(body.clone()).unwrap(), digests);
    assert!(decode_digests(body.slice(..body.len() - 1)).is_err());
    assert_eq!(decode_question(encode_question(9)), Ok(9));
    assert_eq!(decode_accusation(encode_accusation(5, &digests)), Ok((5, digests.to_vec())));
    let mut other = encode_question(9).to_vec();
    other[0] = VERSION + 1;
    assert_eq!(
        decode_question(other.into()).unwrap_err().to_string(),
        "decode question for digests: digests of version 2"
    );
}

#[test]
fn a_node_that_has_diverged_does_not_start_again() {
    let dir = tempfile::tempdir().unwrap();
    let divergence = Divergence::open(dir.path()).unwrap();
    divergence.stop(Digest { at: at(64), content: 1 }, 2);
    assert!(divergence.stops.borrow().as_ref().is_some_and(|why| why.contains(": at entry ")));
    let refused = Divergence::open(dir.path()).err().unwrap();
    assert!(
        matches!(&refused, StartError::Diverged(text) if text.contains("\"majority\":\"000")),
        "{refused}"
    );
}
