//! The leader's proof that it still leads, for reads: a question to as many voters as a majority needs, and no more.
//!
//! ```text
//! leader (term T)                                   voter
//!   index = what anyone can have been told of
//!   CONFIRM T, own id ----------------------------->  is my saved vote for that leader in that term?
//!   <------------------------------------------- yes / no
//!   majority said yes, own vote unchanged: everything acknowledged before the question is at or below index
//! ```
//!
//! Raft's ReadIndex (dissertation, section 6.4) with less on the way than a heartbeat: neither side's Raft core is asked.
//! Why it holds:
//! - A vote is saved ([`super::log::RaftLog::save_vote`]) before it is given. A voter that says yes has not yet given a
//!   vote in a later term, so with a majority of them no later leader existed when the question was put.
//! - An acknowledgement is sent by a node that has applied the entry: by this leader, then `applied` shows it, or by a
//!   follower, which knows that the entry is committed only from an append of this leader, then [`Told::commit`] shows it.
//!   Entries of earlier leaders lie below the first entry of this term, which must be applied here.
//! - The node was elected for that term since it started, so `applied` is not what an earlier life has left on disk.
//! - The voters are those of the newest membership in the log. While it is joint, or newer than what the Raft core
//!   shows ([`Told::members`]), there is no answer from here and the caller asks the core.
//!
//! A "no", a lost leadership, silence: no answer from here either. The caller's slower way finds out what is the matter.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use openraft::Instant as _;
use openraft::async_runtime::WatchReceiver as _;
use parking_lot::Mutex;
use tokio::time::{Instant, sleep};

use super::codec::{DecodeError, Reader};
use super::core::Core;
use super::log::Vote;
use super::peer::client::PeerClient;
use super::peer::messages::CONFIRM;
use super::types::{RaftMembership, RaftStoredMembership, RaftVote, vote_from_raft};
use crate::store::LogId;

/// After this long the voters that were not needed are asked as well.
const PATIENCE: Duration = Duration::from_millis(2);
/// They have this long; then the Raft core is asked.
const ATTEMPT_MAX: Duration = Duration::from_millis(300);

/// What others may know from this node: both only ever grow.
#[derive(Debug, Default)]
pub(super) struct Told {
    commit: AtomicU64,
    members: AtomicU64,
}

impl Told {
    /// Before an append that carries this commit index leaves for a follower.
    pub(super) fn commit(&self, index: u64) {
        self.commit.fetch_max(index, Ordering::SeqCst);
    }

    /// Before the membership entry at this index can reach a follower.
    pub(super) fn members(&self, index: u64) {
        self.members.fetch_max(index, Ordering::SeqCst);
    }
}

/// Connections to the voters, those first that have answered last.
#[derive(Default)]
pub(super) struct Confirm {
    /// `None` once the node stops.
    peers: Mutex<Option<Vec<(u64, PeerClient)>>>,
}

/// The voters other than this node, and how many of them make a majority with it.
#[derive(Debug, PartialEq, Eq)]
struct Electorate {
    others: Vec<u64>,
    needed: usize,
}

impl Electorate {
    /// `None` while the membership is joint or without this node.
    fn of(membership: &RaftMembership, own: u64) -> Option<Self> {
        let [voters] = membership.get_joint_config().as_slice() else { return None };
        let others: Vec<u64> = voters.iter().copied().filter(|id| *id != own).collect();
        let needed = if planted!("read-without-quorum") { 0 } else { voters.len() / 2 };
        (others.len() < voters.len()).then_some(Self { others, needed })
    }
}

impl Confirm {
    pub(super) fn new() -> Self {
        Self { peers: Mutex::new(Some(Vec::new())) }
    }

    /// Lets the connections go.
    pub(super) fn close(&self) {
        *self.peers.lock() = None;
    }

    /// A log id at or above all that was acknowledged anywhere before this call, or `None` if that cannot be told from
    /// here. Cancel safe.
    pub(super) async fn read_index(&self, core: &Core) -> Option<LogId> {
        let own = core.local.node_id;
        let vote = core.log.vote().filter(|vote| vote.node == own)?;
        let applied = core.apply.applied_now()?;
        if (applied.term, applied.node) != (vote.term, own) && !planted!("fresh-leader-confirms") {
            return None;
        }
        let told =
            if planted!("told-commit-forgotten") { 0 } else { core.told.commit.load(Ordering::SeqCst) };
        let index = applied.index.max(told);
        let electorate = electorate(core, vote)?;
        if !self.agreed(core, vote, &electorate).await || core.log.vote() != Some(vote) {
            return None;
        }
        Some(LogId { index, ..applied })
    }

    async fn agreed(&self, core: &Core, vote: Vote, electorate: &Electorate) -> bool {
        let mut open = FuturesUnordered::new();
        let Some(peers) = self.peers_of(core, &electorate.others) else { return false };
        let mut peers = peers.into_iter();
        let mut ask = |open: &mut FuturesUnordered<_>, count: usize| {
            for (id, client) in peers.by_ref().take(count) {
                let answer = client.call(CONFIRM, encode(vote.term, vote.node));
                open.push(async move { (id, answer.await.is_ok_and(|body| body.as_ref() == [1])) });
            }
        };
        ask(&mut open, electorate.needed);
        let mut agreed = 0;
        let (mut has_asked_all, timer) = (false, sleep(PATIENCE));
        tokio::pin!(timer);
        while agreed < electorate.needed {
            tokio::select! {
                biased;
                answer = open.next() => match answer {
                    Some((id, true)) => {
                        agreed += 1;
                        self.prefer(id);
                    }
                    Some((_, false)) => ask(&mut open, 1),
                    None => return false,
                },
                () = timer.as_mut() => {
                    if std::mem::replace(&mut has_asked_all, true) {
                        return false;
                    }
                    ask(&mut open, usize::MAX);
                    timer.as_mut().reset(Instant::now() + ATTEMPT_MAX);
                }
            }
        }
        true
    }

    /// Connections to these voters, in the order in which to ask them.
    fn peers_of(&self, core: &Core, voters: &[u64]) -> Option<Vec<(u64, PeerClient)>> {
        let mut peers = self.peers.lock();
        let peers = peers.as_mut()?;
        peers.retain(|(id, _)| voters.contains(id));
        for id in voters {
            if peers.iter().all(|(known, _)| known != id) {
                let addr = core.local.peer_addr_of(*id)?;
                peers.push((*id, PeerClient::new(core.local.clone(), *id, addr, &core.tasks)));
            }
        }
        Some(peers.clone())
    }

    fn prefer(&self, id: u64) {
        if let Some(peers) = self.peers.lock().as_mut()
            && let Some(at) = peers.iter().position(|(known, _)| *known == id)
            && at > 0
        {
            let peer = peers.remove(at);
            peers.insert(0, peer);
        }
    }
}

/// Whether this node leads as the only voter and has applied all that it can have told anyone: then its state is the
/// newest there is, without a question.
pub(super) fn is_alone(core: &Core) -> bool {
    core.members.load().voters() == [core.local.node_id]
        && settled(core)
            .is_some_and(|(vote, _)| electorate(core, vote).is_some_and(|voters| voters.needed == 0))
}

/// What this node has applied, if it leads, has applied all that it can have told anyone, and holds a lease: a majority of
/// the voters has answered what was sent so short a time ago that none of them has given another node its vote since.
/// Then its state is the newest there is, as long as monotonic clocks run at the same speed; for `read_policy: lease`.
pub(super) fn by_lease(core: &Core) -> Option<LogId> {
    let (vote, applied) = settled(core).filter(|_| core.lease_is_safe())?;
    // What a majority has answered counts under the membership of the same look only.
    let metrics = core.raft.metrics();
    let metrics = metrics.borrow_watched();
    electorate_of(core, vote, (metrics.state.is_leader(), &metrics.vote), &metrics.membership_config)?;
    let sent = metrics.last_quorum_acked.as_ref()?;
    (sent.elapsed() < core.lease_trusted()).then_some(applied)
}

/// This node's vote for itself and what it has applied, if that is of the same term, and no less than it can have told
/// anyone.
fn settled(core: &Core) -> Option<(Vote, LogId)> {
    let own = core.local.node_id;
    let vote = core.log.vote().filter(|vote| vote.node == own)?;
    let applied = core.apply.applied_now()?;
    let is_settled = (applied.term, applied.node) == (vote.term, own)
        && applied.index >= core.told.commit.load(Ordering::SeqCst);
    is_settled.then_some((vote, applied))
}

/// The voters by the newest membership that this node's log has, if the Raft core shows that one and that it leads.
fn electorate(core: &Core, vote: Vote) -> Option<Electorate> {
    let metrics = core.raft.server_metrics();
    let metrics = metrics.borrow_watched();
    electorate_of(core, vote, (metrics.state.is_leader(), &metrics.vote), &metrics.membership_config)
}

/// The same, by what the Raft core shows: whether it leads, its vote, its membership.
fn electorate_of(
    core: &Core,
    vote: Vote,
    (leads, shown_vote): (bool, &RaftVote),
    stored: &RaftStoredMembership,
) -> Option<Electorate> {
    // Elected in this life of the process. One that has restarted finds its vote, and entries of its own term, on disk, but
    // has yet to apply again what it had acknowledged.
    if !leads || vote_from_raft(shown_vote).term != vote.term {
        return None;
    }
    let shown = stored.log_id().as_ref().map_or(0, |id| id.index);
    if shown < core.told.members.load(Ordering::SeqCst) {
        return None;
    }
    Electorate::of(stored.membership(), core.local.node_id)
}

fn encode(term: u64, leader: u64) -> Bytes {
    let mut out = BytesMut::with_capacity(16);
    out.put_u64_le(term);
    out.put_u64_le(leader);
    out.freeze()
}

/// A voter's answer: 1 = its vote is for that leader in that term, 0 = it is not.
pub(super) fn answer(core: &Core, body: Bytes) -> Result<Bytes, DecodeError> {
    let mut reader = Reader::new("confirmation", body);
    let asked = (reader.u64()?, reader.u64()?);
    reader.end()?;
    let is_so = planted!("confirm-without-a-look")
        || core.log.vote().is_some_and(|vote| (vote.term, vote.node) == asked);
    Ok(Bytes::from_static(if is_so { &[1] } else { &[0] }))
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::*;
    use crate::raft::types::Node;

    fn membership(configs: &[&[u64]]) -> RaftMembership {
        let sets: Vec<BTreeSet<u64>> = configs.iter().map(|ids| ids.iter().copied().collect()).collect();
        let nodes: BTreeMap<u64, Node> = (1..=5).map(|id| (id, Node::default())).collect();
        RaftMembership::new(sets, nodes).unwrap()
    }

    #[test]
    fn a_majority_is_counted_with_the_leader() {
        let of = |configs: &[&[u64]], own| Electorate::of(&membership(configs), own);
        assert_eq!(of(&[&[1]], 1), Some(Electorate { others: vec![], needed: 0 }));
        assert_eq!(of(&[&[1, 2]], 1), Some(Electorate { others: vec![2], needed: 1 }));
        assert_eq!(of(&[&[1, 2, 3]], 2), Some(Electorate { others: vec![1, 3], needed: 1 }));
        assert_eq!(of(&[&[1, 2, 3, 4]], 2), Some(Electorate { others: vec![1, 3, 4], needed: 2 }));
        assert_eq!(of(&[&[1, 2, 3, 4, 5]], 5), Some(Electorate { others: vec![1, 2, 3, 4], needed: 2 }));
        assert_eq!(of(&[&[1, 2, 3]], 4), None, "a leader that is no voter any more");
        assert_eq!(of(&[&[1, 2, 3], &[1, 2]], 1), None, "joint");
    }
}
