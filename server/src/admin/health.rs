//! `/livez`, `/readyz`, `/startupz`: what each means.
//!
//! - **livez**: the process can still answer. Never looks at the quorum, the disk or the load: a restart would cure
//!   none of them, and would make a lost quorum worse. A dead Raft core or a failed sync end the process by themselves.
//! - **startupz**: the files are open and what was committed before the stop is applied again, or the node is unformed
//!   and waits to be told. A big store may take minutes for it.
//! - **readyz**: the node belongs in a Service: formed, recovered, a leader known (or lost less than 5 s ago: endpoints
//!   must not flap in an election), not far behind, not stopping. A leader must have heard a quorum within the same
//!   5 s. Learners that keep up are ready, since any node serves any client. A full disk does not make a node
//!   unready: it still reads and deletes.

use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use kvnode_api::health::Health;
use kvnode_api::status::{NodeStatus, Phase, Role};

use super::Admin;

/// How long a node stays ready without a leader, or a leader without its quorum.
const ELECTION_GRACE: Duration = Duration::from_secs(5);

/// Committed entries that may wait to be applied on a ready node. In steady state a handful do.
const LAG_ENTRIES_MAX: u64 = 1000;

type Verdict = (StatusCode, Json<Health>);

fn verdict(reasons: Vec<String>) -> Verdict {
    let status = if reasons.is_empty() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(Health { ok: reasons.is_empty(), reasons }))
}

pub(super) async fn livez() -> Verdict {
    verdict(Vec::new())
}

pub(super) async fn startupz(State(admin): State<Admin>) -> Verdict {
    verdict(why_not_started(&admin.node.status()))
}

pub(super) async fn readyz(State(admin): State<Admin>) -> Verdict {
    verdict(why_not_ready(&admin.node.status()))
}

/// Why start-up is not over; empty = it is.
#[must_use]
pub fn why_not_started(status: &NodeStatus) -> Vec<String> {
    match status.phase {
        Phase::Starting => vec!["opening files".into()],
        Phase::Recovering => {
            vec![format!("applying the log again, {} entries to go", status.log.apply_lag_entries)]
        }
        Phase::Unformed | Phase::Running | Phase::Stopping => Vec::new(),
    }
}

/// Why the node should get no traffic; empty = it should.
#[must_use]
pub fn why_not_ready(status: &NodeStatus) -> Vec<String> {
    let mut reasons = why_not_started(status);
    match status.phase {
        Phase::Unformed => return vec!["not formed: waits to be initialized or added".into()],
        Phase::Stopping => return vec!["shutting down".into()],
        Phase::Starting => return reasons,
        Phase::Recovering | Phase::Running => {}
    }
    if status.role == Role::Shutdown {
        reasons.push("the Raft core has stopped".into());
    }
    let heard = status.last_contact_ms.map(Duration::from_millis);
    let lost = heard.is_none_or(|age| age > ELECTION_GRACE);
    let ago = heard.map_or_else(|| "ever".to_owned(), |age| format!("for {} ms", age.as_millis()));
    if status.role == Role::Leader {
        if lost {
            reasons.push(format!("leads without a quorum heard {ago}"));
        }
    } else if status.leader.is_none() && lost {
        reasons.push(format!("no leader known or heard {ago}"));
    } else if status.leader.is_some() && heard.is_some() && lost {
        // The name of a leader stays known after it has died; only contact proves one.
        reasons.push(format!("the leader was not heard {ago}"));
    }
    if status.log.apply_lag_entries > LAG_ENTRIES_MAX {
        reasons.push(format!("{} committed entries behind", status.log.apply_lag_entries));
    }
    reasons
}

#[cfg(test)]
mod tests {
    use super::super::tests::status;
    use super::*;

    fn with(change: impl FnOnce(&mut NodeStatus)) -> NodeStatus {
        let mut status = status();
        change(&mut status);
        status
    }

    #[test]
    fn a_running_node_with_a_leader_is_ready() {
        assert!(why_not_ready(&status()).is_empty());
        assert!(why_not_started(&status()).is_empty());
        assert!(why_not_ready(&with(|s| s.role = Role::Learner)).is_empty());
    }

    #[test]
    fn readiness_survives_an_election_but_not_a_long_silence() {
        let silent = |role, leader_known: bool, ms| {
            with(|s| {
                s.role = role;
                s.last_contact_ms = ms;
                if !leader_known {
                    s.leader = None;
                }
            })
        };
        assert!(why_not_ready(&silent(Role::Candidate, false, Some(4999))).is_empty());
        for lost in [
            silent(Role::Follower, false, Some(5001)),
            silent(Role::Follower, false, None),
            silent(Role::Follower, true, Some(5001)),
            silent(Role::Leader, true, Some(5001)),
            silent(Role::Leader, true, None),
        ] {
            assert_eq!(why_not_ready(&lost).len(), 1, "{lost:?}");
            assert!(why_not_started(&lost).is_empty());
        }
    }

    #[test]
    fn phases() {
        let ready = |phase| why_not_ready(&with(|s| s.phase = phase)).is_empty();
        let started = |phase| why_not_started(&with(|s| s.phase = phase)).is_empty();
        let table = [
            (Phase::Starting, false, false),
            (Phase::Unformed, false, true),
            (Phase::Recovering, false, false),
            (Phase::Running, true, true),
            (Phase::Stopping, false, true),
        ];
        for (phase, is_ready, is_started) in table {
            assert_eq!((ready(phase), started(phase)), (is_ready, is_started), "{phase:?}");
        }
    }

    #[test]
    fn a_node_far_behind_is_not_ready_and_a_full_disk_is() {
        assert!(why_not_ready(&with(|s| s.log.apply_lag_entries = 1000)).is_empty());
        assert_eq!(
            why_not_ready(&with(|s| s.log.apply_lag_entries = 1001)),
            ["1001 committed entries behind"]
        );
        assert!(why_not_ready(&with(|s| s.disk = kvnode_api::status::DiskState::Full)).is_empty());
    }
}
