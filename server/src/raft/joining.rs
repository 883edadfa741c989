//! What a node does by itself to be known to its cluster: ask to be added, and have a new address noted.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::sleep;

use super::core::Core;
use super::group::MemberError;
use super::identity::Rejoin;
use super::members::{Verb, act, ask_member, forward, identify};
use super::types::Members;

/// Between two attempts to be known.
const ASK_AGAIN: Duration = Duration::from_millis(500);

/// This node, as it asks to be taken in.
fn join_verb(core: &Core, wants_vote: bool) -> Verb {
    let (addr, peer_addr) = (core.addr.clone(), core.peer_addr.clone());
    Verb::Join { addr, peer_addr, node_id: core.local.node_id, wants_vote }
}

/// Asks the node at one address to have this one taken in.
async fn ask_to_join(core: &Arc<Core>, seed: &str) -> Result<(), MemberError> {
    let member = identify(core, seed, None).await?;
    let Some(cluster_id) = member.cluster_id else {
        return Err(MemberError::Refused("the node there is not part of a cluster yet".into()));
    };
    if let Some(own) = core.local.cluster_id()
        && own != cluster_id
    {
        return Err(MemberError::Refused("the node there belongs to another cluster".into()));
    }
    ask_member(core, &member, cluster_id, &join_verb(core, true)).await
}

/// Keeps asking the members at `seeds` to add this node, until it is in the membership. Never founds a cluster.
pub(super) async fn join_loop(core: Arc<Core>, seeds: Vec<String>) {
    let mut pause = Duration::from_millis(50);
    while !core.members.load().nodes.contains_key(&core.local.node_id) {
        for seed in &seeds {
            let asked = core.shutdown.run_until_cancelled(ask_to_join(&core, seed)).await;
            match asked {
                None => return,
                Some(Ok(())) => {
                    crash_point!("joined-not-promoted");
                    tracing::info!(member = %seed, "joined as learner");
                    break;
                }
                Some(Err(error)) => tracing::warn!(member = %seed, %error, "not taken in, will ask again"),
            }
        }
        tokio::select! {
            () = core.shutdown.cancelled() => return,
            () = sleep(pause) => {}
        }
        pause = (pause * 2).min(Duration::from_secs(2));
    }
}

/// Asks the node at one address to have this one back.
async fn ask_back(core: &Arc<Core>, seed: &str, verb: &Verb) -> Result<(), MemberError> {
    // Who stands there now: it may have a new id itself.
    let member = identify(core, seed, None).await?;
    let cluster_id = member.cluster_id.ok_or(MemberError::NoLeader)?;
    ask_member(core, &member, cluster_id, verb).await
}

/// Keeps asking the members that this node knew to add it in the place of its old id, with the role that it had.
pub(super) async fn rejoin_loop(core: Arc<Core>, rejoin: Rejoin) {
    let verb = join_verb(&core, rejoin.wants_vote);
    let seeds: Vec<String> = rejoin.members.iter().chain(&core.config.join).cloned().collect();
    while !core.members.load().nodes.contains_key(&core.local.node_id) {
        for seed in seeds.iter().filter(|seed| **seed != core.addr) {
            let asked = core.shutdown.run_until_cancelled(ask_back(&core, seed, &verb)).await;
            let Some(told) = asked else { return };
            match told {
                Ok(()) => tracing::info!(member = %seed, "back as a learner"),
                Err(MemberError::NoLeader) => continue,
                Err(error) => {
                    tracing::warn!(member = %seed, %error, "not taken back yet");
                    continue;
                }
            }
            break;
        }
        tokio::select! {
            () = core.shutdown.cancelled() => return,
            () = sleep(ASK_AGAIN) => {}
        }
    }
    crash_point!("readmitted-not-noted");
    if let Err(error) = core.identity.rejoined() {
        tracing::warn!(%error, "that this node is back is not noted");
    }
}

/// Runs a verb on the leader though this node may not know it: asks all members, of whom only the leader acts. A node
/// that the leader cannot find learns of no new leader.
async fn tell_any(core: &Arc<Core>, members: &Members, verb: &Verb) -> Result<(), MemberError> {
    if core.is_leader() {
        return act(core, verb).await;
    }
    let mut result = Err(MemberError::NoLeader);
    for (id, node) in members.nodes.iter().filter(|(id, _)| **id != core.local.node_id) {
        match forward(core, *id, node.peer_addr.clone(), verb).await {
            Ok(()) => return Ok(()),
            Err(MemberError::NoLeader) => {}
            Err(error) => result = Err(error),
        }
    }
    result
}

/// After a start under other addresses: has the membership corrected.
pub(super) async fn refresh_address(core: Arc<Core>) {
    loop {
        let members = core.members.load_full();
        match members.nodes.get(&core.local.node_id) {
            Some(node) if node.addr != core.addr || node.peer_addr != core.peer_addr => {
                let verb = join_verb(&core, node.wants_vote);
                let told = core.shutdown.run_until_cancelled(tell_any(&core, &members, &verb)).await;
                if let Some(Err(error)) = told {
                    tracing::warn!(%error, "new address not known to the cluster yet");
                }
            }
            _ => {}
        }
        tokio::select! {
            () = core.shutdown.cancelled() => return,
            () = sleep(ASK_AGAIN) => {}
        }
    }
}
