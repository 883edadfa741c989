//! The group's status as RAFT* commands and ROLE show it. Pure: a status in, a reply out.

use bytes::Bytes;

use crate::config::Redirect;
use crate::raft::{MemberStatus, Role, Status};
use crate::resp::Reply;

pub(super) fn bulk(text: impl Into<String>) -> Reply {
    Reply::Bulk(Bytes::from(text.into()))
}

pub(super) fn integer(n: u64) -> Reply {
    Reply::Integer(i64::try_from(n).unwrap_or(i64::MAX))
}

/// Field and value, field and value, as the ancestor answers.
fn pairs(list: Vec<(&'static str, String)>) -> Reply {
    Reply::Array(list.into_iter().flat_map(|(field, value)| [bulk(field), bulk(value)]).collect())
}

/// RAFTSTATE's word for a role.
#[must_use]
pub fn role(role: Role) -> &'static str {
    match role {
        Role::Leader => "Leader",
        Role::Follower => "Follower",
        Role::Candidate => "Candidate",
        Role::Learner => "Learner",
        Role::Unformed => "Unformed",
        Role::Shutdown => "Shutdown",
    }
}

/// RAFTLEADER.
#[must_use]
pub fn leader(status: &Status) -> Reply {
    status.leader.as_ref().map_or(Reply::Nil, |leader| bulk(leader.addr.clone()))
}

/// RAFTSTATE.
#[must_use]
pub fn state(status: &Status) -> Reply {
    bulk(role(status.role))
}

/// RAFTSTATS: the ancestor's eleven fields. `last_snapshot_*` is the state on disk: what a restart begins with and up to
/// where the log may be purged.
#[must_use]
pub fn statistics(status: &Status) -> Reply {
    let commit = status.committed.map_or(0, |id| id.index);
    let applied = status.applied.map_or(0, |id| id.index);
    let others = status.members.iter().filter(|member| member.id != status.node_id).count();
    pairs(vec![
        ("applied_index", applied.to_string()),
        ("commit_index", commit.to_string()),
        ("fsm_pending", commit.saturating_sub(applied).to_string()),
        ("last_contact", last_contact(status)),
        ("last_log_index", status.last_log.map_or(0, |id| id.index).to_string()),
        ("last_log_term", status.last_log.map_or(0, |id| id.term).to_string()),
        ("last_snapshot_index", status.durable.map_or(0, |id| id.index).to_string()),
        ("last_snapshot_term", status.durable.map_or(0, |id| id.term).to_string()),
        ("num_peers", others.to_string()),
        ("state", role(status.role).to_owned()),
        ("term", status.term.to_string()),
    ])
}

/// `0` on the leader, `never`, or a duration as Go writes it.
fn last_contact(status: &Status) -> String {
    if status.role == Role::Leader {
        return "0".to_owned();
    }
    status.last_contact_ms.map_or_else(|| "never".to_owned(), go_duration)
}

/// A duration of whole milliseconds as Go's `time.Duration` prints it: `35ms`, `1.5s`, `2m0.25s`, `1h0m1s`.
fn go_duration(millis: u64) -> String {
    match millis {
        0 => return "0s".to_owned(),
        1..1000 => return format!("{millis}ms"),
        _ => {}
    }
    let (hours, minutes) = (millis / 3_600_000, millis / 60_000 % 60);
    let fraction = format!("{:03}", millis % 1000);
    let fraction = fraction.trim_end_matches('0');
    let point = if fraction.is_empty() { "" } else { "." };
    let seconds = format!("{}{point}{fraction}s", millis / 1000 % 60);
    match (hours, minutes) {
        (0, 0) => seconds,
        (0, minutes) => format!("{minutes}m{seconds}"),
        (hours, minutes) => format!("{hours}h{minutes}m{seconds}"),
    }
}

/// RAFTPEERS: address and state, sorted by address. A member that the leader has not heard for `silent_ms` is
/// `Timeout`; a follower knows the membership but not who is alive. An address has one line: while a wiped node is being
/// replaced it has two members, and the one that is not a voter yet is the one that stands there.
#[must_use]
pub fn peers(status: &Status, silent_ms: u64) -> Reply {
    let mut members: Vec<&MemberStatus> = status.members.iter().collect();
    members.sort_by(|a, b| a.addr.cmp(&b.addr).then(a.voter.cmp(&b.voter)));
    members.dedup_by(|later, kept| later.addr == kept.addr);
    let lines = members
        .into_iter()
        .flat_map(|member| [bulk(member.addr.clone()), bulk(member_state(status, member, silent_ms))]);
    Reply::Array(lines.collect())
}

fn member_state(status: &Status, member: &MemberStatus, silent_ms: u64) -> &'static str {
    if member.id == status.node_id {
        return role(status.role);
    }
    if status.leader.as_ref().is_some_and(|leader| leader.id == member.id) {
        return role(Role::Leader);
    }
    let silent = member.last_ack_ms.is_none_or(|ms| ms > silent_ms);
    if status.role == Role::Leader && silent {
        return "Timeout";
    }
    role(if member.voter { Role::Follower } else { Role::Learner })
}

/// RAFTIDENTITY.
#[must_use]
pub fn identity(status: &Status, addr: &str, peer_addr: &str) -> Reply {
    pairs(vec![
        ("node_id", format!("{:016x}", status.node_id)),
        ("cluster_id", status.cluster_id.map(|id| format!("{id:016x}")).unwrap_or_default()),
        ("addr", addr.to_owned()),
        ("peer_addr", peer_addr.to_owned()),
        ("role", role(status.role).to_owned()),
        ("version", env!("CARGO_PKG_VERSION").to_owned()),
    ])
}

/// True if clients may send writes to this node: it leads, or it forwards.
#[must_use]
pub fn takes_writes(status: &Status, redirect: Redirect) -> bool {
    redirect == Redirect::Forward || status.role == Role::Leader
}

/// Host and port of an address; brackets of IPv6 are taken off.
#[must_use]
pub fn split(addr: &str) -> (&str, u64) {
    let (host, port) = addr.rsplit_once(':').unwrap_or((addr, "0"));
    (host.trim_start_matches('[').trim_end_matches(']'), port.parse().unwrap_or(0))
}

/// ROLE.
#[must_use]
pub fn redis_role(status: &Status, redirect: Redirect) -> Reply {
    let offset = integer(status.applied.map_or(0, |id| id.index));
    if takes_writes(status, redirect) {
        let known = status.members.iter().filter(|member| member.id != status.node_id);
        let replicas = known.filter_map(|member| {
            let matched = member.matched_index?;
            let (host, port) = split(&member.addr);
            Some(Reply::Array(vec![bulk(host), bulk(port.to_string()), bulk(matched.to_string())]))
        });
        return Reply::Array(vec![bulk("master"), offset, Reply::Array(replicas.collect())]);
    }
    let (host, port, link) = match &status.leader {
        Some(leader) => {
            let (host, port) = split(&leader.addr);
            (host, port, "connected")
        }
        None => ("", 0, "connect"),
    };
    Reply::Array(vec![bulk("slave"), bulk(host), integer(port), bulk(link), offset])
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::raft::Leader;
    use crate::store::LogId;

    /// Three members; node 1 (this one) has the role asked for, node 2 leads unless this one does.
    pub(crate) fn status(role: Role) -> Status {
        let leads = role == Role::Leader;
        let member = |id: u64, voter: bool, ack: Option<u64>| MemberStatus {
            id,
            addr: format!("10.0.0.{id}:4920"),
            peer_addr: format!("10.0.0.{id}:14920"),
            voter,
            matched_index: leads.then_some(8),
            lag_entries: leads.then_some(2),
            last_ack_ms: if leads { ack } else { None },
            diverged_at: None,
        };
        let leader = if leads { 1 } else { 2 };
        let at = |index| Some(LogId { term: 3, node: leader, index });
        Status {
            node_id: 1,
            cluster_id: Some(0xabc),
            role,
            term: 4,
            leader: Some(Leader { id: leader, addr: format!("10.0.0.{leader}:4920") }),
            membership_log_id: at(1),
            members: vec![member(3, false, Some(9_999)), member(1, true, None), member(2, true, Some(5))],
            last_log: Some(LogId { term: 2, node: leader, index: 10 }),
            committed: at(9),
            applied: at(7),
            durable: at(5),
            purged: at(2),
            last_contact_ms: Some(1500),
            change_in_progress: false,
            equal_at: None,
            undecided_at: None,
            recovered: true,
        }
    }

    pub(crate) fn words(reply: &Reply) -> Vec<String> {
        let Reply::Array(list) = reply else { panic!("{reply:?}") };
        let word = |reply: &Reply| match reply {
            Reply::Bulk(bytes) => String::from_utf8(bytes.to_vec()).unwrap(),
            other => format!("{other:?}"),
        };
        list.iter().map(word).collect()
    }

    #[test]
    fn statistics_are_the_ancestors_eleven_pairs_sorted() {
        let list = words(&statistics(&status(Role::Follower)));
        let fields: Vec<&String> = list.iter().step_by(2).collect();
        assert_eq!(fields.len(), 11);
        assert!(fields.is_sorted());
        let values: Vec<&str> = list.iter().skip(1).step_by(2).map(String::as_str).collect();
        assert_eq!(values, ["7", "9", "2", "1.5s", "10", "2", "5", "3", "2", "Follower", "4"]);
        assert_eq!(words(&statistics(&status(Role::Leader)))[7], "0");
    }

    #[test]
    fn durations_are_written_as_go_writes_them() {
        let cases = [
            (0, "0s"),
            (7, "7ms"),
            (1000, "1s"),
            (1500, "1.5s"),
            (120_250, "2m0.25s"),
            (3_601_000, "1h0m1s"),
        ];
        for (millis, text) in cases {
            assert_eq!(go_duration(millis), text);
        }
    }

    #[test]
    fn peers_are_sorted_and_silent_ones_are_timeouts_on_the_leader() {
        let expected = ["10.0.0.1:4920", "Leader", "10.0.0.2:4920", "Follower", "10.0.0.3:4920", "Timeout"];
        assert_eq!(words(&peers(&status(Role::Leader), 600)), expected);
        let expected = ["10.0.0.1:4920", "Follower", "10.0.0.2:4920", "Leader", "10.0.0.3:4920", "Learner"];
        assert_eq!(words(&peers(&status(Role::Follower), 600)), expected);
    }

    #[test]
    fn an_address_whose_node_is_being_replaced_is_listed_once() {
        let mut group = status(Role::Leader);
        let old = group.members.iter().find(|member| member.addr == "10.0.0.2:4920").unwrap().clone();
        group.members.push(MemberStatus { id: 99, voter: false, last_ack_ms: Some(1), ..old });
        let expected = ["10.0.0.1:4920", "Leader", "10.0.0.2:4920", "Learner", "10.0.0.3:4920", "Timeout"];
        assert_eq!(words(&peers(&group, 600)), expected);
        group.members.rotate_right(1);
        assert_eq!(words(&peers(&group, 600)), expected, "in whatever order they come");
    }

    #[test]
    fn a_follower_that_redirects_is_a_slave() {
        let follower = status(Role::Follower);
        assert_eq!(words(&redis_role(&follower, Redirect::Forward))[0], "master");
        let role = words(&redis_role(&follower, Redirect::Moved));
        assert_eq!(role, ["slave", "10.0.0.2", "Integer(4920)", "connected", "Integer(7)"]);
        let Reply::Array(role) = redis_role(&status(Role::Leader), Redirect::Moved) else { panic!() };
        assert_eq!(words(&role[2]).len(), 2);
    }

    #[test]
    fn addresses_are_split_at_the_last_colon() {
        assert_eq!(split("h:1"), ("h", 1));
        assert_eq!(split("[::1]:4920"), ("::1", 4920));
        assert_eq!(split("h"), ("h", 0));
    }

    #[test]
    fn an_unformed_node_has_no_cluster_id() {
        let mut group = status(Role::Unformed);
        group.cluster_id = None;
        let list = words(&identity(&group, "a:1", "a:2"));
        assert_eq!(list[..4], ["node_id", "0000000000000001", "cluster_id", ""]);
        assert_eq!(list[4..10], ["addr", "a:1", "peer_addr", "a:2", "role", "Unformed"]);
    }
}
