//! Where a backup is taken from, and its bytes through dead connections.
//!
//! ```text
//! ask all nodes --> order: learners, followers by what they have applied, the leader --> first that makes a snapshot
//! stream        --> cut --> the same snapshot from the same byte on --> 30 s without a byte --> the next node
//! ```

use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use kvnode_api::Id;
use kvnode_api::snapshot::SnapshotMeta;
use kvnode_api::status::{NodeStatus, Phase, Role};

use crate::admin_client::snapshots::StateStream;
use crate::admin_client::{AdminClient, NodeError};
use crate::clock;

/// Time without progress after which a source is given up.
const STALL: Duration = Duration::from_secs(30);
const LOOK: Duration = Duration::from_secs(3);
const PAUSE: Duration = Duration::from_millis(300);
/// A learner that has not heard of the leader for this long is behind by an unknown amount.
const LEARNER_CONTACT_MS: u64 = 10_000;

/// Nodes that a backup can be taken from, best first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sources {
    /// Their cluster.
    pub cluster_id: Id,
    /// Admin addresses.
    pub order: Vec<String>,
}

/// Asks all nodes and orders them.
///
/// # Errors
/// One line: nobody answers, or they are of several clusters, or of another one than `expected`.
pub async fn find(admin: &AdminClient, nodes: &[String], expected: Option<Id>) -> Result<Sources, String> {
    let asked = nodes.iter().map(|node| async move { (node.clone(), admin.status(node).await) });
    let answers = join_all(asked).await;
    let mut silent = Vec::new();
    let mut found = Vec::new();
    for (node, answer) in answers {
        match answer {
            Ok(status) => found.push((node, status)),
            Err(error) => silent.push(error.to_string()),
        }
    }
    order(&found, expected).map_err(|what| {
        silent.truncate(3);
        if silent.is_empty() { what } else { format!("{what} ({})", silent.join("; ")) }
    })
}

/// The order among nodes that answered: pure.
///
/// # Errors
/// As [`find`].
pub fn order(found: &[(String, NodeStatus)], expected: Option<Id>) -> Result<Sources, String> {
    let formed = || found.iter().filter(|(_, status)| status.cluster_id.is_some());
    if let Some(expected) = expected
        && let Some((node, status)) = formed().find(|(_, status)| status.cluster_id != Some(expected))
    {
        let is = status.cluster_id.map(|id| id.to_string()).unwrap_or_default();
        return Err(format!("{node} belongs to cluster {is}, not to {expected}: is that the right cluster?"));
    }
    let Some(cluster_id) = formed().find_map(|(_, status)| status.cluster_id) else {
        return Err("no node of a cluster answers".into());
    };
    if let Some((node, status)) = formed().find(|(_, status)| status.cluster_id != Some(cluster_id)) {
        let is = status.cluster_id.map(|id| id.to_string()).unwrap_or_default();
        return Err(format!("{node} belongs to cluster {is}, another one to {cluster_id}"));
    }
    let mut ranked: Vec<_> = formed()
        .filter(|(_, status)| status.phase == Phase::Running)
        .filter_map(|(node, status)| Some((rank(status)?, node.clone())))
        .collect();
    ranked.sort();
    if ranked.is_empty() {
        return Err("no node that answers is ready to give a snapshot".into());
    }
    Ok(Sources { cluster_id, order: ranked.into_iter().map(|(_, node)| node).collect() })
}

/// Smaller is better; `None` for a node that cannot give one.
fn rank(status: &NodeStatus) -> Option<(u8, u64)> {
    let fresh = status.last_contact_ms.is_some_and(|ms| ms < LEARNER_CONTACT_MS);
    let class = match status.role {
        Role::Learner if fresh => 0,
        Role::Follower => 1,
        Role::Leader => 2,
        Role::Learner | Role::Candidate => 3,
        Role::Unformed | Role::Shutdown => return None,
    };
    Some((class, status.log.apply_lag_entries))
}

/// Asks for a snapshot and waits for it, watching that the node lives: writing one may take minutes, and a dead machine
/// sends no word.
///
/// # Errors
/// The node refused, or did not answer for 30 s.
pub async fn snapshot(admin: &AdminClient, node: &str) -> Result<SnapshotMeta, NodeError> {
    let watching = async {
        let mut heard = clock::monotonic();
        loop {
            tokio::time::sleep(LOOK).await;
            match admin.status(node).await {
                Ok(_) => heard = clock::monotonic(),
                Err(error) if clock::monotonic().saturating_duration_since(heard) > STALL => return error,
                Err(_) => {}
            }
        }
    };
    tokio::select! {
        made = admin.create_snapshot(node) => made,
        dead = watching => Err(dead),
    }
}

/// `state.bin` of one snapshot, through cut connections.
pub struct State<'a> {
    admin: &'a AdminClient,
    node: &'a str,
    id: &'a str,
    size_bytes: u64,
    at: u64,
    stream: Option<StateStream>,
}

impl<'a> State<'a> {
    /// The content of `meta` at `node`.
    #[must_use]
    pub fn new(admin: &'a AdminClient, node: &'a str, meta: &'a SnapshotMeta) -> Self {
        Self { admin, node, id: &meta.id, size_bytes: meta.size_bytes, at: 0, stream: None }
    }

    /// The next bytes; `None` after the last.
    ///
    /// # Errors
    /// The snapshot is gone, or no byte came for 30 s.
    pub async fn next(&mut self) -> Result<Option<Bytes>, NodeError> {
        let begun = clock::monotonic();
        loop {
            if self.at >= self.size_bytes {
                return Ok(None);
            }
            let error = match self.attempt().await {
                Ok(chunk) => {
                    self.at += chunk.len() as u64;
                    return Ok(Some(chunk));
                }
                Err(error) => error,
            };
            self.stream = None;
            let refused = matches!(&error, NodeError::Refused { status, .. } if *status != 503);
            if refused || clock::monotonic().saturating_duration_since(begun) > STALL {
                return Err(error);
            }
            tracing::info!(node = self.node, at = self.at, %error, "the source broke off");
            tokio::time::sleep(PAUSE).await;
        }
    }

    async fn attempt(&mut self) -> Result<Bytes, NodeError> {
        if self.stream.is_none() {
            self.stream = Some(self.admin.open_state(self.node, self.id, self.at).await?);
        }
        let broken = |what: &str| NodeError::Broken {
            doing: "read state.bin".into(),
            to: self.node.to_owned(),
            what: what.into(),
        };
        let Some(stream) = &mut self.stream else { return Err(broken("no stream")) };
        let chunk = stream.next().await?.ok_or_else(|| broken("it ended too early"))?;
        if self.at + chunk.len() as u64 > self.size_bytes {
            return Err(broken("more bytes than meta.json says"));
        }
        Ok(chunk)
    }
}

#[cfg(test)]
mod tests {
    use kvnode_api::status::{Addresses, DiskState, LogPositions, Membership};

    use super::*;

    fn node(name: &str, role: Role, lag: u64, contact: Option<u64>) -> (String, NodeStatus) {
        let status = NodeStatus {
            contract: 1,
            version: "0.1.0".into(),
            node_id: Some(Id(1)),
            cluster_id: (role != Role::Unformed).then_some(Id(0xc1)),
            phase: Phase::Running,
            role,
            term: 1,
            leader: None,
            last_contact_ms: contact,
            log: LogPositions { apply_lag_entries: lag, ..LogPositions::default() },
            membership: Membership::default(),
            disk: DiskState::Ok,
            addresses: Addresses::default(),
            uptime_ms: 1,
        };
        (name.to_owned(), status)
    }

    #[test]
    fn learners_first_then_the_most_caught_up_follower_then_the_leader() {
        let nodes = [
            node("a", Role::Leader, 0, Some(1)),
            node("b", Role::Follower, 7, Some(1)),
            node("c", Role::Follower, 2, Some(1)),
            node("d", Role::Learner, 100, Some(20)),
            node("e", Role::Learner, 0, Some(60_000)),
            node("f", Role::Unformed, 0, None),
        ];
        let sources = order(&nodes, Some(Id(0xc1))).unwrap();
        assert_eq!(sources.order, ["d", "c", "b", "a", "e"]);
        assert_eq!(sources.cluster_id, Id(0xc1));
    }

    #[test]
    fn other_clusters_and_nobody_are_refused() {
        let nodes = [node("a", Role::Leader, 0, Some(1))];
        assert!(order(&nodes, Some(Id(2))).unwrap_err().contains("not to 0000000000000002"));
        let mut two = vec![nodes[0].clone(), node("b", Role::Follower, 0, Some(1))];
        two[1].1.cluster_id = Some(Id(9));
        assert!(order(&two, None).unwrap_err().contains("another one"));
        assert!(order(&[], None).is_err());
        assert!(order(&[node("f", Role::Unformed, 0, None)], None).is_err());
        two.pop();
        two[0].1.phase = Phase::Stopping;
        assert!(order(&two, None).unwrap_err().contains("ready"));
    }
}
