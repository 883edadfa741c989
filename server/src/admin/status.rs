//! `GET /v1/status`, and the one place where the group's picture becomes the contract's.

use axum::Json;
use axum::extract::State;
use kvnode_api::status::{
    Addresses, DiskState, LeaderInfo, LogPositions, MemberInfo, Membership, NodeStatus, Phase, Role,
};
use kvnode_api::watch::LeaderEvent;
use kvnode_api::{CONTRACT, Id};

use super::Admin;
use crate::raft;

pub(super) async fn get(State(admin): State<Admin>) -> Json<NodeStatus> {
    Json(admin.node.status())
}

/// What the group does not know of its node.
#[derive(Clone, Debug)]
pub struct NodeFacts {
    /// A stop was asked for.
    pub stopping: bool,
    /// Disk.
    pub disk: DiskState,
    /// Where the node can be reached.
    pub addresses: Addresses,
    /// Milliseconds since the process started.
    pub uptime_ms: u64,
    /// Which passwords and users are in force.
    pub logins: Option<String>,
}

/// The status of a node whose files are not open yet.
#[must_use]
pub fn starting(facts: NodeFacts) -> NodeStatus {
    NodeStatus {
        contract: CONTRACT,
        version: env!("CARGO_PKG_VERSION").into(),
        node_id: None,
        cluster_id: None,
        phase: Phase::Starting,
        role: Role::Unformed,
        term: 0,
        leader: None,
        last_contact_ms: None,
        log: LogPositions::default(),
        membership: Membership::default(),
        disk: facts.disk,
        addresses: facts.addresses,
        uptime_ms: facts.uptime_ms,
        logins: facts.logins,
    }
}

/// The status of a node with an open group.
#[must_use]
pub fn describe(group: &raft::Status, facts: NodeFacts) -> NodeStatus {
    let index = |id: Option<crate::store::LogId>| id.map(|id| id.index);
    // Index 0 is an entry: none applied is one less than entry 0.
    let count = |index: Option<u64>| index.map_or(0, |index| index.saturating_add(1));
    let text = |id: Option<crate::store::LogId>| id.map(|id| id.to_string());
    let leader = group.leader.as_ref();
    let members = group.members.iter().map(|member| MemberInfo {
        id: Id(member.id),
        addr: member.addr.clone(),
        peer_addr: member.peer_addr.clone(),
        voter: member.voter,
        leader: leader.is_some_and(|leader| leader.id == member.id),
        matched_index: member.matched_index,
        lag_entries: member.lag_entries,
        last_ack_ms: member.last_ack_ms,
        diverged_at: text(member.diverged_at),
    });
    NodeStatus {
        node_id: Some(Id(group.node_id)),
        cluster_id: group.cluster_id.map(Id),
        phase: phase(group, facts.stopping),
        role: role(group.role),
        term: group.term,
        leader: leader.map(leader_info),
        last_contact_ms: group.last_contact_ms,
        log: LogPositions {
            last_index: group.last_log.map(|id| id.index),
            committed: text(group.committed),
            applied: text(group.applied),
            durable: text(group.durable),
            purged: text(group.purged),
            equal: text(group.equal_at),
            undecided: text(group.undecided_at),
            apply_lag_entries: count(index(group.committed)).saturating_sub(count(index(group.applied))),
        },
        membership: Membership {
            log_id: text(group.membership_log_id),
            change_in_progress: group.change_in_progress,
            members: members.collect(),
        },
        ..starting(facts)
    }
}

/// What `/v1/watch` tells of a group.
#[must_use]
pub fn leader_event(group: &raft::Status) -> LeaderEvent {
    LeaderEvent {
        cluster_id: group.cluster_id.map(Id),
        node_id: Id(group.node_id),
        role: role(group.role),
        term: group.term,
        leader: group.leader.as_ref().map(leader_info),
    }
}

fn leader_info(leader: &raft::Leader) -> LeaderInfo {
    LeaderInfo { id: Id(leader.id), addr: leader.addr.clone() }
}

fn phase(group: &raft::Status, stopping: bool) -> Phase {
    if stopping {
        Phase::Stopping
    } else if group.role == raft::Role::Unformed || group.cluster_id.is_none() {
        Phase::Unformed
    } else if !group.recovered {
        Phase::Recovering
    } else {
        Phase::Running
    }
}

fn role(role: raft::Role) -> Role {
    match role {
        raft::Role::Leader => Role::Leader,
        raft::Role::Follower => Role::Follower,
        raft::Role::Candidate => Role::Candidate,
        raft::Role::Learner => Role::Learner,
        raft::Role::Unformed => Role::Unformed,
        raft::Role::Shutdown => Role::Shutdown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::LogId;

    fn group() -> raft::Status {
        let id = |index| Some(LogId { term: 3, node: 0x1f, index });
        raft::Status {
            node_id: 0x1f,
            cluster_id: Some(7),
            role: raft::Role::Leader,
            term: 3,
            leader: Some(raft::Leader { id: 0x1f, addr: "a:1".into() }),
            membership_log_id: id(0),
            members: vec![raft::MemberStatus {
                id: 0x1f,
                addr: "a:1".into(),
                peer_addr: "a:2".into(),
                voter: true,
                matched_index: Some(9),
                lag_entries: Some(0),
                last_ack_ms: None,
                diverged_at: None,
            }],
            last_log: id(9),
            committed: id(9),
            applied: id(7),
            durable: None,
            purged: None,
            last_contact_ms: Some(1),
            change_in_progress: true,
            equal_at: None,
            undecided_at: None,
            recovered: true,
        }
    }

    fn facts(stopping: bool) -> NodeFacts {
        NodeFacts {
            stopping,
            disk: DiskState::Ok,
            addresses: Addresses::default(),
            uptime_ms: 1,
            logins: None,
        }
    }

    #[test]
    fn positions_and_members_keep_their_meaning() {
        let status = describe(&group(), facts(false));
        assert_eq!(status.phase, Phase::Running);
        assert_eq!(status.log.applied.as_deref(), Some("3-1f-7"));
        assert_eq!(status.log.apply_lag_entries, 2);
        assert_eq!(status.membership.log_id.as_deref(), Some("3-1f-0"));
        assert!(status.membership.change_in_progress && status.membership.members[0].leader);
        assert_eq!(leader_event(&group()).leader, status.leader);
    }

    #[test]
    fn an_empty_node_lags_by_every_committed_entry() {
        let mut empty = group();
        empty.applied = None;
        assert_eq!(describe(&empty, facts(false)).log.apply_lag_entries, 10);
        empty.committed = None;
        assert_eq!(describe(&empty, facts(false)).log.apply_lag_entries, 0);
    }

    #[test]
    fn the_phase_follows_the_group() {
        assert_eq!(describe(&group(), facts(true)).phase, Phase::Stopping);
        let mut other = group();
        other.recovered = false;
        assert_eq!(describe(&other, facts(false)).phase, Phase::Recovering);
        other.cluster_id = None;
        assert_eq!(describe(&other, facts(false)).phase, Phase::Unformed);
        assert_eq!(starting(facts(false)).phase, Phase::Starting);
    }
}
