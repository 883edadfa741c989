//! The group in the words of Redis Cluster: one shard with all slots, the leader its master. Pure.

use bytes::Bytes;

use crate::command::args::printable;
use crate::command::slot::SLOTS;
use crate::dispatch::views::{bulk, integer, split};
use crate::raft::{MemberStatus, Status};
use crate::resp::Reply;

/// A node id in the 40 hex digits of Redis Cluster.
fn padded(id: u64) -> String {
    format!("{id:040x}")
}

/// The leader first, then the others by address. Empty without a leader.
fn leader_first(status: &Status) -> Vec<&MemberStatus> {
    let Some(leader) = &status.leader else { return Vec::new() };
    let mut members: Vec<&MemberStatus> = status.members.iter().collect();
    members.sort_by_key(|member| (member.id != leader.id, member.addr.clone()));
    members
}

/// CLUSTER MYID.
pub(super) fn my_id(status: &Status) -> Reply {
    bulk(padded(status.node_id))
}

/// CLUSTER INFO.
pub(super) fn info(status: &Status) -> Reply {
    let up = status.leader.is_some();
    let slots = if up { SLOTS } else { 0 };
    Reply::Verbatim(Bytes::from(format!(
        "cluster_state:{}\r\ncluster_slots_assigned:{SLOTS}\r\ncluster_slots_ok:{slots}\r\ncluster_slots_pfail:0\r\n\
         cluster_slots_fail:{}\r\ncluster_known_nodes:{}\r\ncluster_size:1\r\ncluster_current_epoch:{term}\r\n\
         cluster_my_epoch:{term}\r\n\
         cluster_stats_messages_sent:0\r\ncluster_stats_messages_received:0\r\ntotal_cluster_links_buffer_limit_exceeded:0\r\n",
        if up { "ok" } else { "fail" },
        SLOTS - slots,
        status.members.len(),
        term = status.term,
    )))
}

/// CLUSTER SLOTS: one range; the leader, then its replicas. Empty without a leader.
pub(super) fn slots(status: &Status) -> Reply {
    let members = leader_first(status);
    if members.is_empty() {
        return Reply::Array(Vec::new());
    }
    let node = |member: &MemberStatus| {
        let (host, port) = split(&member.addr);
        Reply::Array(vec![bulk(host), integer(port), bulk(padded(member.id)), Reply::Array(Vec::new())])
    };
    let mut range = vec![Reply::Integer(0), Reply::Integer(i64::from(SLOTS) - 1)];
    range.extend(members.into_iter().map(node));
    Reply::Array(vec![Reply::Array(range)])
}

/// CLUSTER SHARDS: the one shard. Empty without a leader.
pub(super) fn shards(status: &Status) -> Reply {
    let members = leader_first(status);
    if members.is_empty() {
        return Reply::Array(Vec::new());
    }
    let node = |(place, member): (usize, &MemberStatus)| {
        let (host, port) = split(&member.addr);
        let offset = if member.id == status.node_id {
            status.applied.map(|id| id.index)
        } else {
            member.matched_index
        };
        Reply::Map(vec![
            (bulk("id"), bulk(padded(member.id))),
            (bulk("port"), integer(port)),
            (bulk("ip"), bulk(host)),
            (bulk("endpoint"), bulk(host)),
            (bulk("role"), bulk(if place == 0 { "master" } else { "replica" })),
            (bulk("replication-offset"), integer(offset.unwrap_or(0))),
            (bulk("health"), bulk("online")),
        ])
    };
    let slots = Reply::Array(vec![Reply::Integer(0), Reply::Integer(i64::from(SLOTS) - 1)]);
    let nodes = Reply::Array(members.into_iter().enumerate().map(node).collect());
    Reply::Array(vec![Reply::Map(vec![(bulk("slots"), slots), (bulk("nodes"), nodes)])])
}

/// CLUSTER NODES: one line per member; without a leader none owns slots.
pub(super) fn nodes(status: &Status) -> Reply {
    let lines = status.members.iter().map(|member| line(status, member) + "\n");
    Reply::Verbatim(lines.collect::<String>().into())
}

fn line(status: &Status, member: &MemberStatus) -> String {
    let leader = status.leader.as_ref().map(|leader| leader.id);
    let leads = leader == Some(member.id);
    format!(
        "{} {}@{} {}{} {} 0 0 {} connected{}",
        padded(member.id),
        member.addr,
        split(&member.peer_addr).1,
        if member.id == status.node_id { "myself," } else { "" },
        if leads { "master" } else { "slave" },
        leader.filter(|_| !leads).map_or_else(|| "-".to_owned(), padded),
        status.term,
        if leads { " 0-16383" } else { "" },
    )
}

/// The member with this id, or Redis' error.
fn member<'a>(status: &'a Status, id: &[u8]) -> Result<&'a MemberStatus, Reply> {
    let found = status.members.iter().find(|member| id.eq_ignore_ascii_case(padded(member.id).as_bytes()));
    found.ok_or_else(|| Reply::Error(format!("ERR Unknown node {}", printable(id))))
}

/// CLUSTER REPLICAS: the lines of those that follow the leader.
pub(super) fn replicas(status: &Status, id: &[u8]) -> Reply {
    match member(status, id) {
        Err(refused) => refused,
        Ok(named) if status.leader.as_ref().is_none_or(|leader| leader.id != named.id) => {
            Reply::Error("ERR The specified node is not a master".to_owned())
        }
        Ok(named) => {
            let others = status.members.iter().filter(|member| member.id != named.id);
            Reply::Array(others.map(|member| bulk(line(status, member))).collect())
        }
    }
}

/// CLUSTER COUNT-FAILURE-REPORTS: members report nothing to each other.
pub(super) fn failure_reports(status: &Status, id: &[u8]) -> Reply {
    member(status, id).map_or_else(|refused| refused, |_| Reply::Integer(0))
}

/// CLUSTER LINKS: this node dials each other member.
pub(super) fn links(status: &Status) -> Reply {
    let others = status.members.iter().filter(|member| member.id != status.node_id);
    let link = |member: &MemberStatus| {
        Reply::Map(vec![(bulk("direction"), bulk("to")), (bulk("node"), bulk(padded(member.id)))])
    };
    Reply::Array(others.map(link).collect())
}

/// CLUSTER MYSHARDID.
pub(super) fn my_shard_id(status: &Status) -> Reply {
    bulk(padded(status.cluster_id.unwrap_or(0)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dispatch::views::tests::{status, words};
    use crate::raft::Role;

    #[test]
    fn the_cluster_view_puts_the_leader_first_and_is_empty_without_one() {
        let mut group = status(Role::Follower);
        let Reply::Array(ranges) = slots(&group) else { panic!() };
        let Reply::Array(range) = &ranges[0] else { panic!() };
        assert_eq!(range[..2], [Reply::Integer(0), Reply::Integer(16383)]);
        assert_eq!(words(&range[2])[..2], ["10.0.0.2".to_owned(), "Integer(4920)".to_owned()]);
        assert_eq!(range.len(), 5);
        let Reply::Verbatim(text) = nodes(&group) else { panic!() };
        let nodes = String::from_utf8(text.to_vec()).unwrap();
        assert!(
            nodes.contains(" 10.0.0.1:4920@14920 myself,slave 0000000000000000000000000000000000000002 "),
            "{nodes}"
        );
        assert!(nodes.lines().any(|line| line.ends_with("connected 0-16383")), "{nodes}");
        group.leader = None;
        assert_eq!(slots(&group), Reply::Array(Vec::new()));
        assert_eq!(shards(&group), Reply::Array(Vec::new()));
    }

    #[test]
    fn replicas_are_those_of_the_leader_and_every_other_member_is_a_link() {
        let group = status(Role::Leader);
        let id = |id: u64| padded(id);
        let lines = words(&replicas(&group, id(1).as_bytes()));
        assert_eq!(lines.len(), 2);
        assert!(
            lines[0].starts_with(&id(3)) && lines[0].contains(&format!(" slave {} 0 0 4", id(1))),
            "{lines:?}"
        );
        let refused = Reply::Error("ERR The specified node is not a master".to_owned());
        assert_eq!(replicas(&group, id(2).as_bytes()), refused);
        let unknown = Reply::Error("ERR Unknown node x".to_owned());
        assert_eq!((replicas(&group, b"x"), failure_reports(&group, b"x")), (unknown.clone(), unknown));
        assert_eq!(failure_reports(&group, id(2).as_bytes()), Reply::Integer(0));
        let Reply::Array(list) = links(&group) else { panic!() };
        assert_eq!(list.len(), 2);
        assert_eq!(my_shard_id(&group), bulk(id(0xabc)));
    }
}
