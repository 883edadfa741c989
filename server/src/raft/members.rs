//! Membership verbs: add, remove, promote, transfer. They run on the leader; any node forwards them.
//!
//! ```text
//! add     ask who is there (`identify`) -> invite it (it adopts the cluster id) -> committed learner: done
//!         promotion loop: caught up -> joint consensus -> voter; a voter that it replaces (same client address, other
//!         node id) leaves in the same joint change, so the number of healthy voters never drops
//! remove  joint consensus without it; a leader that is to go hands over first
//! ```
//!
//! All verbs are idempotent, and compare-and-set on the membership's log id when the caller gives one.

mod hand_over;
mod identify;
mod voters;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use openraft::ChangeMembers;
use openraft::Instant as _;
use openraft::async_runtime::WatchReceiver as _;
use openraft::errors::{ChangeMembershipError, ClientWriteError, RaftError};
use openraft::raft::Precondition;
use tokio::time::{Instant, sleep, timeout, timeout_at};

use super::codec::{self, DecodeError, Reader};
use super::core::Core;
use super::group::MemberError;
use super::peer::client::{CallError, PeerClient, id_text};
use super::peer::messages::{INVITE, JOIN, MEMBER};
use super::types::{Members, Node, TypeConfig, from_raft, to_raft};
use crate::store::LogId;

pub(super) use hand_over::{await_successor, pick_successor, transfer};
use identify::ASK_TIMEOUT;
pub(super) use identify::{Stranger, identify};

/// A learner this close to the leader's last entry is promoted.
const PROMOTE_LAG_ENTRIES: u64 = 64;
/// The promotion loop's pace.
const PROMOTE_EVERY: Duration = Duration::from_millis(100);
/// One membership change, start to committed end.
pub(super) const CHANGE_TIMEOUT: Duration = Duration::from_secs(10);
const RETRY_PAUSE: Duration = Duration::from_millis(25);

/// What can be asked of the membership.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Verb {
    Add {
        addr: String,
        wants_vote: bool,
        expect: Option<LogId>,
    },
    /// As `Add`, for the node that asks itself, and says where it is.
    Join {
        addr: String,
        peer_addr: String,
        node_id: u64,
        wants_vote: bool,
    },
    Remove {
        target: String,
        expect: Option<LogId>,
    },
    Promote {
        target: String,
        expect: Option<LogId>,
    },
    Transfer {
        to: Option<String>,
    },
    SetVoters {
        voters: BTreeSet<u64>,
        expect: Option<LogId>,
    },
}

impl Verb {
    pub(super) fn encode(&self) -> Bytes {
        let mut out = BytesMut::new();
        let named;
        let (kind, text, flag, expect) = match self {
            Verb::Add { addr, wants_vote, expect } => (1, addr.as_str(), *wants_vote, *expect),
            Verb::Remove { target, expect } => (2, target.as_str(), false, *expect),
            Verb::Promote { target, expect } => (3, target.as_str(), false, *expect),
            Verb::Transfer { to } => (4, to.as_deref().unwrap_or(""), false, None),
            Verb::SetVoters { voters, expect } => {
                named = voters.iter().map(|id| id_text(*id)).collect::<Vec<_>>().join(",");
                (5, named.as_str(), false, *expect)
            }
            Verb::Join { addr, wants_vote, .. } => (6, addr.as_str(), *wants_vote, None),
        };
        out.put_u8(kind);
        codec::put_text(&mut out, text);
        out.put_u8(u8::from(flag));
        codec::put_optional_log_id(&mut out, expect);
        if let Verb::Join { peer_addr, node_id, .. } = self {
            codec::put_text(&mut out, peer_addr);
            out.put_u64_le(*node_id);
        }
        out.freeze()
    }

    pub(super) fn decode(body: Bytes) -> Result<Self, DecodeError> {
        let mut reader = Reader::new("membership verb", body);
        let kind = reader.u8()?;
        let text = reader.text()?;
        let flag = reader.u8()? != 0;
        let expect = reader.optional(Reader::log_id)?;
        match kind {
            1 => Ok(Verb::Add { addr: text, wants_vote: flag, expect }),
            2 => Ok(Verb::Remove { target: text, expect }),
            3 => Ok(Verb::Promote { target: text, expect }),
            4 => Ok(Verb::Transfer { to: (!text.is_empty()).then_some(text) }),
            5 => {
                let ids = text.split(',').filter(|id| !id.is_empty()).map(|id| u64::from_str_radix(id, 16));
                let voters = ids.collect::<Result<_, _>>();
                let voters = voters.map_err(|_| reader.error(format!("node ids {text:?}")))?;
                Ok(Verb::SetVoters { voters, expect })
            }
            6 => {
                let (peer_addr, node_id) = (reader.text()?, reader.u64()?);
                Ok(Verb::Join { addr: text, peer_addr, node_id, wants_vote: flag })
            }
            other => Err(reader.error(format!("verb {other}"))),
        }
    }
}

fn encode_result(result: &Result<(), MemberError>) -> Bytes {
    let mut out = BytesMut::new();
    match result {
        Ok(()) => out.put_u8(0),
        Err(MemberError::Refused(text)) => {
            out.put_u8(1);
            codec::put_text(&mut out, text);
        }
        Err(MemberError::NoLeader) => out.put_u8(2),
        Err(MemberError::Stale { expected, found }) => {
            out.put_u8(3);
            codec::put_text(&mut out, expected);
            codec::put_text(&mut out, found);
        }
        Err(MemberError::Unknown(text)) => {
            out.put_u8(4);
            codec::put_text(&mut out, text);
        }
    }
    out.freeze()
}

fn decode_result(body: Bytes) -> Result<Result<(), MemberError>, DecodeError> {
    let mut reader = Reader::new("answer to a membership verb", body);
    Ok(match reader.u8()? {
        0 => Ok(()),
        1 => Err(MemberError::Refused(reader.text()?)),
        2 => Err(MemberError::NoLeader),
        3 => Err(MemberError::Stale { expected: reader.text()?, found: reader.text()? }),
        4 => Err(MemberError::Unknown(reader.text()?)),
        other => return Err(reader.error(format!("status {other}"))),
    })
}

/// Serves a verb that another node forwarded.
pub(super) async fn serve_verb(core: &Arc<Core>, body: Bytes) -> Result<Bytes, String> {
    let verb = Verb::decode(body).map_err(|error| error.to_string())?;
    let result = if core.is_leader() { act(core, &verb).await } else { Err(MemberError::NoLeader) };
    Ok(encode_result(&result))
}

/// Serves a verb of node `from`, which does not know who leads.
pub(super) async fn serve_join(core: &Arc<Core>, from: u64, body: Bytes) -> Result<Bytes, String> {
    let verb = Verb::decode(body).map_err(|error| error.to_string())?;
    if !matches!(verb, Verb::Join { node_id, .. } if node_id == from) {
        return Err("a newcomer may only ask to be taken in itself".into());
    }
    Ok(encode_result(&run(core, &verb).await))
}

/// Runs a verb on the leader, wherever that is; waits for a leader as long as a command is held.
pub(super) async fn run(core: &Arc<Core>, verb: &Verb) -> Result<(), MemberError> {
    if core.local.cluster_id().is_none() {
        return Err(MemberError::Refused("this node is not part of a cluster yet".into()));
    }
    let deadline = Instant::now() + core.config.timing.hold_without_leader;
    loop {
        let leader = core.leader.borrow().clone();
        let result = if leader.id == Some(core.local.node_id) {
            act(core, verb).await
        } else if let Some(id) = leader.id {
            forward(core, id, leader.peer_addr, verb).await
        } else {
            Err(MemberError::NoLeader)
        };
        let is_stopping = core.stop_proposer.is_cancelled();
        if result != Err(MemberError::NoLeader) || is_stopping || Instant::now() >= deadline {
            return result;
        }
        sleep(RETRY_PAUSE).await;
    }
}

pub(super) async fn forward(
    core: &Arc<Core>,
    leader: u64,
    peer_addr: String,
    verb: &Verb,
) -> Result<(), MemberError> {
    let client = PeerClient::new(core.local.clone(), leader, peer_addr, &core.tasks);
    tell(&client, MEMBER, verb).await
}

/// Asks a member of another cluster, or of none yet as far as this node is concerned, to have a verb run.
pub(super) async fn ask_member(
    core: &Arc<Core>,
    member: &Stranger,
    cluster_id: u64,
    verb: &Verb,
) -> Result<(), MemberError> {
    let guest = Arc::new(core.local.as_guest_of(cluster_id));
    let client = PeerClient::new(guest, member.node_id, member.peer_addr.clone(), &core.tasks);
    tell(&client, JOIN, verb).await
}

async fn tell(client: &PeerClient, kind: u8, verb: &Verb) -> Result<(), MemberError> {
    match timeout(CHANGE_TIMEOUT, client.call(kind, verb.encode())).await {
        Ok(Ok(body)) => decode_result(body).unwrap_or_else(|e| Err(MemberError::Unknown(e.to_string()))),
        Ok(Err(CallError::NotSent(_))) => Err(MemberError::NoLeader),
        Ok(Err(error)) => Err(MemberError::Unknown(error.to_string())),
        Err(_) => Err(MemberError::Unknown("the leader did not answer in time".into())),
    }
}

pub(super) async fn act(core: &Arc<Core>, verb: &Verb) -> Result<(), MemberError> {
    match verb {
        Verb::Transfer { to } => {
            let target = match to {
                Some(to) => pick_successor(core, Some(to))?,
                None => await_successor(core).await?,
            };
            let leads = transfer(core, target).await?;
            if to.is_some() && leads != target {
                let text = format!("{} was lost on the way; {} leads now", id_text(target), id_text(leads));
                return Err(MemberError::Refused(text));
            }
            Ok(())
        }
        Verb::Add { addr, wants_vote, expect } => {
            let stranger = identify(core, addr, None).await?;
            add(core, stranger, *wants_vote, *expect).await
        }
        Verb::Join { addr, peer_addr, node_id, wants_vote } => {
            let (addr, peer_addr) = (addr.clone(), peer_addr.clone());
            let stranger = Stranger { node_id: *node_id, cluster_id: None, addr, peer_addr };
            add(core, stranger, *wants_vote, None).await
        }
        Verb::Promote { target, expect } => promote_mark(core, target, *expect).await,
        Verb::Remove { target, expect } => remove(core, target, *expect).await,
        Verb::SetVoters { voters, expect } => voters::set(core, voters, *expect).await,
    }
}

async fn add(
    core: &Arc<Core>,
    stranger: Stranger,
    wants_vote: bool,
    expect: Option<LogId>,
) -> Result<(), MemberError> {
    let addr = stranger.addr.as_str();
    let own = core.local.cluster_id();
    if stranger.cluster_id.is_some() && stranger.cluster_id != own {
        let text = format!("the node at {addr} belongs to another cluster; empty its data directory first");
        return Err(MemberError::Refused(text));
    }
    let _one_at_a_time = core.change.lock().await;
    let members = core.members.load_full();
    let id = stranger.node_id;
    let node = Node { addr: addr.to_owned(), peer_addr: stranger.peer_addr, wants_vote };
    match members.nodes.get(&id) {
        Some(known) if known.addr == node.addr && known.peer_addr == node.peer_addr => {
            if known.wants_vote || !wants_vote {
                return Ok(());
            }
            change(core, ChangeMembers::SetNodes(BTreeMap::from([(id, node)])), true, expect).await
        }
        Some(_) => change(core, ChangeMembers::SetNodes(BTreeMap::from([(id, node)])), true, expect).await,
        None => {
            invite(core, id, &node.peer_addr).await?;
            crash_point!("newcomer-invited-not-added");
            let expect = remove_ghosts(core, &members, addr, expect).await?;
            change(core, ChangeMembers::AddNodes(BTreeMap::from([(id, node)])), true, expect).await
        }
    }
}

/// Removes learners of an address at which another node answers now: they were wiped and never come back. A voter is
/// left to the promotion of its successor. Returns what is left to compare with: nothing, after a change of our own.
async fn remove_ghosts(
    core: &Core,
    members: &Members,
    addr: &str,
    expect: Option<LogId>,
) -> Result<Option<LogId>, MemberError> {
    let ghosts = members.nodes.iter().filter(|(id, node)| node.addr == addr && !members.is_voter(**id));
    let ghosts: BTreeSet<u64> = ghosts.map(|(id, _)| *id).collect();
    if ghosts.is_empty() {
        return Ok(expect);
    }
    change(core, ChangeMembers::RemoveNodes(ghosts), true, expect).await?;
    Ok(None)
}

/// Tells a node which cluster it is to be part of; proves that its peer port answers.
async fn invite(core: &Arc<Core>, id: u64, peer_addr: &str) -> Result<(), MemberError> {
    if id == core.local.node_id {
        return Ok(());
    }
    let client = PeerClient::new(core.local.clone(), id, peer_addr.to_owned(), &core.tasks);
    let cluster_id = core.local.cluster_id().unwrap_or(0);
    let call = client.call(INVITE, Bytes::copy_from_slice(&cluster_id.to_le_bytes()));
    match timeout(ASK_TIMEOUT, call).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(error)) => Err(MemberError::Refused(format!("peer address {peer_addr}: {error}"))),
        Err(_) => Err(MemberError::Refused(format!("peer address {peer_addr} does not answer"))),
    }
}

fn find(members: &Members, target: &str) -> Option<u64> {
    let by_id = u64::from_str_radix(target, 16).ok().filter(|id| members.nodes.contains_key(id));
    // An address may for a moment have two members: a wiped voter and its successor. The older one is meant.
    let mut by_addr = members.nodes.iter().filter(|(_, node)| node.addr == target).map(|(id, _)| *id);
    by_id.or_else(|| by_addr.clone().find(|id| members.is_voter(*id)).or_else(|| by_addr.next()))
}

async fn promote_mark(core: &Arc<Core>, target: &str, expect: Option<LogId>) -> Result<(), MemberError> {
    let _one_at_a_time = core.change.lock().await;
    let members = core.members.load_full();
    let Some(id) = find(&members, target) else {
        return Err(MemberError::Refused(format!("{target} is not a member")));
    };
    if members.is_voter(id) || members.nodes[&id].wants_vote {
        return Ok(());
    }
    let node = Node { wants_vote: true, ..members.nodes[&id].clone() };
    change(core, ChangeMembers::SetNodes(BTreeMap::from([(id, node)])), true, expect).await
}

async fn remove(core: &Arc<Core>, target: &str, expect: Option<LogId>) -> Result<(), MemberError> {
    let members = core.members.load_full();
    let Some(id) = find(&members, target) else { return Ok(()) };
    if members.is_voter(id) {
        await_removable(core, &members, id).await?;
    }
    if id == core.local.node_id {
        let successor = await_successor(core).await?;
        transfer(core, successor).await?;
        // The new leader does the rest.
        let verb = Verb::Remove { target: id_text(id), expect };
        return Box::pin(run(core, &verb)).await;
    }
    let _one_at_a_time = core.change.lock().await;
    let ids = BTreeSet::from([id]);
    let changes =
        if members.is_voter(id) { ChangeMembers::RemoveVoters(ids) } else { ChangeMembers::RemoveNodes(ids) };
    change(core, changes, false, expect).await
}

/// A leader that has just been elected has not heard its voters yet; it gets a few heartbeats before it refuses.
async fn await_removable(core: &Core, members: &Members, id: u64) -> Result<(), MemberError> {
    let deadline = Instant::now() + core.lease() * 3;
    loop {
        let result = check_removable(core, members, id);
        if result.is_ok() || members.voters().len() <= 1 || Instant::now() >= deadline {
            return result;
        }
        sleep(RETRY_PAUSE).await;
    }
}

/// Refuses to remove a voter when those that stay could not decide anything.
fn check_removable(core: &Core, members: &Members, id: u64) -> Result<(), MemberError> {
    let rest: Vec<u64> = members.voters().iter().copied().filter(|voter| *voter != id).collect();
    if rest.is_empty() {
        return Err(MemberError::Refused("it is the last voter; add another one first".into()));
    }
    let live = rest.iter().filter(|voter| is_live(core, **voter)).count();
    if live * 2 <= rest.len() {
        let text = format!(
            "only {live} of the {} voters that would stay answer; removing it would stop the cluster",
            rest.len()
        );
        return Err(MemberError::Refused(text));
    }
    Ok(())
}

/// True if a voter answered within two leases.
fn is_live(core: &Core, id: u64) -> bool {
    if id == core.local.node_id {
        return true;
    }
    last_ack(core, id).is_some_and(|age| age < core.lease() * 2)
}

/// Time since a member answered the leader last.
pub(super) fn last_ack(core: &Core, id: u64) -> Option<Duration> {
    let metrics = core.raft.metrics();
    let metrics = metrics.borrow_watched();
    let at = metrics.heartbeat.as_ref()?.get(&id)?.as_ref()?;
    Some(at.elapsed())
}

fn matched(core: &Core, id: u64) -> Option<u64> {
    let metrics = core.raft.metrics();
    let metrics = metrics.borrow_watched();
    metrics.replication.as_ref()?.get(&id)?.as_ref().map(|log_id| log_id.index)
}

fn last_log_index(core: &Core) -> u64 {
    core.log.bounds().last.map_or(0, |id| id.index)
}

/// Commits a membership change; compare-and-set if the caller gave the log id that it saw.
async fn change(
    core: &Core,
    changes: ChangeMembers<u64, Node>,
    retain: bool,
    expect: Option<LogId>,
) -> Result<(), MemberError> {
    let deadline = Instant::now() + CHANGE_TIMEOUT;
    loop {
        let precondition =
            expect.map(|id| Precondition::LastMembershipLogId { last_membership_log_id: Some(to_raft(id)) });
        let change = core.raft.change_membership_if(changes.clone(), retain, precondition);
        let Ok(result) = timeout_at(deadline, change).await else {
            return Err(MemberError::Unknown("the change was not committed in time".into()));
        };
        match result {
            Ok(_) => {
                crash_point!("membership-committed-not-answered");
                return Ok(());
            }
            Err(error) => match classify(error, expect) {
                Verdict::Final(error) => return Err(error),
                Verdict::Retry => sleep(RETRY_PAUSE).await,
            },
        }
    }
}

enum Verdict {
    Final(MemberError),
    Retry,
}

fn classify(error: RaftError<TypeConfig, ClientWriteError<TypeConfig>>, expect: Option<LogId>) -> Verdict {
    match error {
        RaftError::APIError(ClientWriteError::ForwardToLeader(_)) => Verdict::Final(MemberError::NoLeader),
        RaftError::APIError(ClientWriteError::PreconditionFailed(found)) => {
            Verdict::Final(MemberError::Stale {
                expected: expect.map_or_else(String::new, |id| id.to_string()),
                found: found.to_string(),
            })
        }
        RaftError::APIError(ClientWriteError::ChangeMembershipError(
            ChangeMembershipError::InProgress(_) | ChangeMembershipError::UncommittedLeaderLog(_),
        )) => Verdict::Retry,
        RaftError::APIError(ClientWriteError::ChangeMembershipError(other)) => {
            Verdict::Final(MemberError::Refused(other.to_string()))
        }
        RaftError::APIError(other @ ClientWriteError::LogEntryDiscarded(_)) => {
            Verdict::Final(MemberError::Unknown(other.to_string()))
        }
        RaftError::Fatal(error) => Verdict::Final(MemberError::Unknown(error.to_string())),
    }
}

/// Promotes learners that have caught up, while this node leads.
pub(super) async fn promotion_loop(core: Arc<Core>) {
    loop {
        tokio::select! {
            () = core.shutdown.cancelled() => return,
            () = sleep(PROMOTE_EVERY) => {}
        }
        if !core.is_leader() {
            continue;
        }
        if let Err(error) = promote_one(&core).await {
            tracing::warn!(%error, "promotion not done yet");
        }
    }
}

async fn promote_one(core: &Arc<Core>) -> Result<(), MemberError> {
    // A change that runs on this node is left to finish.
    let Ok(_one_at_a_time) = core.change.try_lock() else { return Ok(()) };
    let (expect, members) = newest(core);
    if members.is_joint() {
        // Whoever began this change is gone, or gave up waiting: half done it needs two quorums and stops all others.
        tracing::info!("finish a membership change that was left half done");
        return change(core, ChangeMembers::AddVoterIds(BTreeSet::new()), false, expect).await;
    }
    let caught_up = |id: &u64| {
        is_live(core, *id)
            && matched(core, *id).is_some_and(|index| index + PROMOTE_LAG_ENTRIES >= last_log_index(core))
    };
    let mut ready =
        members.nodes.iter().filter(|(id, node)| node.wants_vote && !members.is_voter(**id) && caught_up(id));
    let Some((id, node)) = ready.next() else { return Ok(()) };
    let replaced = members
        .voters()
        .iter()
        .copied()
        .find(|voter| members.nodes.get(voter).is_some_and(|n| n.addr == node.addr));
    tracing::info!(node = %id_text(*id), addr = %node.addr, replaces = ?replaced.map(id_text), "promote learner");
    match replaced {
        None => change(core, ChangeMembers::AddVoterIds(BTreeSet::from([*id])), true, expect).await,
        Some(old) => {
            let mut voters: BTreeSet<u64> =
                members.voters().iter().copied().filter(|voter| *voter != old).collect();
            voters.insert(*id);
            change(core, ChangeMembers::ReplaceAllVoters(voters), false, expect).await
        }
    }
}

/// The newest membership and its log id, of one moment.
pub(super) fn newest(core: &Core) -> (Option<LogId>, Members) {
    let metrics = core.raft.server_metrics();
    let metrics = metrics.borrow_watched();
    let stored = &metrics.membership_config;
    (stored.log_id().as_ref().map(from_raft), Members::from_raft(stored.membership()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn verbs_and_results_survive_the_round_trip() {
        let expect = Some(LogId { term: 1, node: 2, index: 3 });
        for verb in [
            Verb::Add { addr: "a:1".into(), wants_vote: true, expect },
            Verb::Join { addr: "a:1".into(), peer_addr: "a:2".into(), node_id: u64::MAX, wants_vote: false },
            Verb::Remove { target: "a:1".into(), expect: None },
            Verb::Promote { target: "00ff".into(), expect },
            Verb::Transfer { to: None },
            Verb::Transfer { to: Some("b:2".into()) },
            Verb::SetVoters { voters: [1, u64::MAX].into(), expect },
        ] {
            assert_eq!(Verb::decode(verb.encode()), Ok(verb));
        }
        for result in [
            Ok(()),
            Err(MemberError::Refused("no".into())),
            Err(MemberError::NoLeader),
            Err(MemberError::Stale { expected: "1".into(), found: "2".into() }),
            Err(MemberError::Unknown("?".into())),
        ] {
            assert_eq!(decode_result(encode_result(&result)), Ok(result));
        }
    }

    #[test]
    fn of_two_members_at_one_address_the_voter_is_meant() {
        let node = Node { addr: "a:1".into(), ..Node::default() };
        let members = Members { configs: vec![vec![9]], nodes: [(5, node.clone()), (9, node)].into() };
        assert_eq!(find(&members, "a:1"), Some(9));
        assert_eq!(find(&members, "0000000000000005"), Some(5));
        assert_eq!(find(&members, "b:1"), None);
    }
}
