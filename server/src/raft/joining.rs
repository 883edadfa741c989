//! What a node does by itself to be known to its cluster: ask to be added, and have a new address noted.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{sleep, timeout};

use super::core::Core;
use super::group::MemberError;
use super::identity::Rejoin;
use super::members::{CHANGE_TIMEOUT, Verb, act, forward, identify};
use super::types::Members;
use crate::resp::ask::{self, Answer};

/// Between two attempts to be known.
const ASK_AGAIN: Duration = Duration::from_millis(500);

/// Keeps asking the members at `seeds` to add this node, until it is in the membership. Never founds a cluster.
pub(super) async fn join_loop(core: Arc<Core>, seeds: Vec<String>) {
    let mut pause = Duration::from_millis(50);
    let mut targets = seeds.clone();
    while !core.members.load().nodes.contains_key(&core.local.node_id) {
        for target in std::mem::take(&mut targets) {
            if core.shutdown.is_cancelled() {
                return;
            }
            let answer = timeout(CHANGE_TIMEOUT, ask::ask(&target, &["RAFTADDPEER", &core.addr])).await;
            match answer {
                Ok(Ok(Answer::Ok)) => tracing::info!(member = %target, "joined as learner"),
                Ok(Ok(Answer::Error(text))) => {
                    if let Some(leader) = redirect_target(&text) {
                        targets.push(leader);
                        continue;
                    }
                    tracing::warn!(member = %target, reply = %text, "join refused, will ask again");
                }
                Ok(Ok(other)) => tracing::warn!(member = %target, reply = ?other, "join not understood"),
                Ok(Err(error)) => {
                    tracing::warn!(member = %target, %error, "member not reached, will ask again");
                }
                Err(_) => tracing::warn!(member = %target, "member did not answer, will ask again"),
            }
        }
        if targets.is_empty() {
            tokio::select! {
                () = core.shutdown.cancelled() => return,
                () = sleep(pause) => {}
            }
            pause = (pause * 2).min(Duration::from_secs(2));
            targets.clone_from(&seeds);
        }
    }
}

/// Keeps asking the members that this node knew to add it in the place of its old id, with the role that it had.
pub(super) async fn rejoin_loop(core: Arc<Core>, rejoin: Rejoin) {
    let verb = Verb::Add { addr: core.addr.clone(), wants_vote: rejoin.wants_vote, expect: None };
    let seeds: Vec<String> = rejoin.members.iter().chain(&core.config.join).cloned().collect();
    while !core.members.load().nodes.contains_key(&core.local.node_id) {
        for seed in seeds.iter().filter(|seed| **seed != core.addr) {
            // Who stands there now: it may have a new id itself.
            let told = match identify(seed).await {
                Ok(member) => forward(&core, member.node_id, member.peer_addr, &verb).await,
                Err(error) => Err(error),
            };
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
    if let Err(error) = core.identity.rejoined() {
        tracing::warn!(%error, "that this node is back is not noted");
    }
}

/// `MOVED slot host:port` and the ancestor's `TRY host:port` name the leader.
fn redirect_target(text: &str) -> Option<String> {
    let mut words = text.split_ascii_whitespace();
    match words.next()? {
        "MOVED" => words.nth(1).map(str::to_owned),
        "TRY" => words.next().map(str::to_owned),
        _ => None,
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
                let verb = Verb::Add { addr: core.addr.clone(), wants_vote: node.wants_vote, expect: None };
                if let Err(error) = tell_any(&core, &members, &verb).await {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redirects_are_followed() {
        assert_eq!(redirect_target("MOVED 1234 h:1"), Some("h:1".into()));
        assert_eq!(redirect_target("TRY h:2"), Some("h:2".into()));
        assert_eq!(redirect_target("LOADING leader not known"), None);
    }
}
