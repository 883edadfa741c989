//! Where a backup is taken from, and its bytes through dead connections.
//!
//! ```text
//! ask all nodes --> order: learners, followers by what they have applied, the leader --> first that makes a snapshot
//!   ^--- again, for up to 10 s, while only the leader answers although it names other members
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
/// So long it may take until a fresh pod's name is known to the Job's resolver, which keeps "no such name" for a while.
const SPARE_THE_LEADER: Duration = Duration::from_secs(10);
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
    /// The best is the leader, though the cluster has other members: they did not answer, or are not ready.
    pub burdens_leader: bool,
}

/// Asks all nodes and orders them, as they are now.
///
/// # Errors
/// One line: nobody answers, or they are of several clusters, or of another one than `expected`.
pub async fn find(admin: &AdminClient, nodes: &[String], expected: Option<Id>) -> Result<Sources, String> {
    Ok(ask(admin, nodes, expected).await?.0)
}

/// [`find`], which spares the leader, as it has more to do than the others: while it alone answers, the others are asked
/// again, for a while.
///
/// # Errors
/// As [`find`].
pub async fn find_sparing(
    admin: &AdminClient,
    nodes: &[String],
    expected: Option<Id>,
) -> Result<Sources, String> {
    let begun = clock::monotonic();
    loop {
        let (sources, silent) = ask(admin, nodes, expected).await?;
        if !sources.burdens_leader {
            return Ok(sources);
        }
        if clock::monotonic().saturating_duration_since(begun) >= SPARE_THE_LEADER {
            tracing::warn!(silent, "no other node than the leader is ready to give a snapshot");
            return Ok(sources);
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// One question to all nodes; beside the order, what was heard of those that did not answer.
async fn ask(
    admin: &AdminClient,
    nodes: &[String],
    expected: Option<Id>,
) -> Result<(Sources, String), String> {
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
    silent.truncate(3);
    let silent = silent.join("; ");
    match order(&found, expected) {
        Ok(sources) => Ok((sources, silent)),
        Err(what) if silent.is_empty() => Err(what),
        Err(what) => Err(format!("{what} ({silent})")),
    }
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
    let best = &ranked[0].1;
    let burdens_leader = found.iter().any(|(node, status)| {
        node == best && status.role == Role::Leader && status.membership.members.len() > 1
    });
    Ok(Sources { cluster_id, order: ranked.into_iter().map(|(_, node)| node).collect(), burdens_leader })
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
mod tests;
