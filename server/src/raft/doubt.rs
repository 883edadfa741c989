//! A node that may have lost entries which it acknowledged (`life`): until that is settled it votes for nobody and
//! takes nothing from a leader, because its word of before can no longer be relied on.
//!
//! ```text
//! in doubt --ask every member--> a leader that a quorum confirms      new id, learner, promoted in the place of the old
//!                                every voter answers, no leader       go on under the old id, with a floor
//!                                a majority lost nothing, no leader   wait: they elect one
//!                                somebody does not answer             wait, and say for whom
//! ```
//!
//! **Why a floor.** After a power cut of the whole cluster every log is a prefix of what it was. Take the greatest last
//! log id of all voters: the log that holds it holds every committed entry that any voter still has (same leader: one
//! log is a prefix of the other; later leader: it had all entries committed before). So no more is lost than every disk
//! has lost, and no state that was applied from a lost entry's survivor is ever contradicted, if only a log that
//! reaches there can win. Each node that goes on therefore grants votes to no shorter log. That needs the last log id
//! of *all* voters, from themselves, while none of those in doubt moves: hence nobody goes on before all have answered.
//! The rule only narrows Raft's own, so a floor that is too high can cost time, never safety. It is kept on disk until a
//! leader has brought this log up to it.
//!
//! **Why a leader must be confirmed.** One that has lost its quorum cannot admit anybody. It holds every committed entry,
//! so if all voters answer, those in doubt go on and follow it.
//!
//! A node alone in its cluster goes on at once: nobody knows more than it does.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use futures_util::future::join_all;
use openraft::async_runtime::WatchReceiver as _;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use super::codec::{self, DecodeError, Reader};
use super::core::Core;
use super::identity::{IdentityError, Rejoin};
use super::life::Life;
use super::members::{self, identify};
use super::peer::client::{PeerClient, id_text};
use super::peer::messages::STANDING;
use super::reader::leader_read_index;
use super::types::Members;
use crate::store::LogId;

/// Between two rounds of questions.
const ASK_EVERY: Duration = Duration::from_millis(200);
/// Longer than a leader needs to find out that it has no quorum.
const ANSWER_MAX: Duration = Duration::from_secs(3);

/// What a node still has to make up for.
pub(super) struct Doubt {
    life: Life,
    /// True until the doubt is settled.
    open: watch::Sender<bool>,
}

impl Doubt {
    pub(super) fn new(life: Life) -> Self {
        let open = watch::Sender::new(life.in_doubt());
        Self { life, open }
    }

    /// True while this node must neither vote nor take entries.
    pub(super) fn is_open(&self) -> bool {
        *self.open.borrow()
    }

    /// Returns once the doubt is settled.
    pub(super) async fn settled(&self) {
        // The sender lives as long as `self`.
        let _ = self.open.subscribe().wait_for(|open| !open).await;
    }

    /// This node votes only for logs that reach to here.
    pub(super) fn floor(&self) -> Option<LogId> {
        self.life.floor()
    }

    /// A leader has brought the log to the floor.
    pub(super) fn reached(&self) -> Result<(), IdentityError> {
        self.life.resolve(None)
    }

    /// See [`Life::failed`].
    pub(super) fn failed(&self) {
        self.life.failed();
    }

    fn go_on(&self, floor: Option<LogId>) -> Result<(), IdentityError> {
        self.life.resolve(floor)?;
        self.open.send_replace(false);
        Ok(())
    }
}

/// What a node says of itself to one that is in doubt.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "independent facts; bits on the wire")]
pub(super) struct Standing {
    /// In doubt itself, or going on after a doubt and not led yet.
    doubtful: bool,
    /// Leads, and a quorum has just confirmed it.
    leads: bool,
    /// The asker is a member, as far as this node knows.
    member: bool,
    /// What the asker has applied is in this node's log.
    holds: bool,
    last: Option<LogId>,
}

impl Standing {
    pub(super) fn encode(self) -> Bytes {
        let bit = |set: bool, at: u8| u8::from(set) << at;
        let mut out = BytesMut::with_capacity(32);
        out.put_u8(bit(self.doubtful, 0) | bit(self.leads, 1) | bit(self.member, 2) | bit(self.holds, 3));
        codec::put_optional_log_id(&mut out, self.last);
        out.freeze()
    }

    pub(super) fn decode(body: Bytes) -> Result<Self, DecodeError> {
        let mut reader = Reader::new("standing", body);
        let flags = reader.u8()?;
        let bit = |at: u8| flags & (1 << at) != 0;
        let last = reader.optional(Reader::log_id)?;
        reader.end()?;
        Ok(Self { doubtful: bit(0), leads: bit(1), member: bit(2), holds: bit(3), last })
    }
}

/// Answers node `from`, which is in doubt.
pub(super) async fn stand(core: &Core, from: u64, body: Bytes) -> Result<Bytes, String> {
    let mut reader = Reader::new("question of a node in doubt", body);
    let applied = reader.optional(Reader::log_id).map_err(|error| error.to_string())?;
    if core.is_leader() {
        // Its log may be shorter than what it acknowledged; the library takes that for a fault unless it is told.
        // An answer of "no such member" needs nothing done.
        let _ = core.raft.trigger().allow_next_revert(&from, true).await;
    }
    let leads = core.is_leader() && leader_read_index(core).await.is_some();
    let standing = Standing {
        doubtful: core.doubt.is_open() || core.doubt.floor().is_some(),
        leads,
        member: members::newest(core).1.nodes.contains_key(&from),
        holds: applied.is_none_or(|id| core.log.id_at(id.index) == Some(id)),
        last: core.log.bounds().last,
    };
    Ok(standing.encode())
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Verdict {
    GoOn {
        floor: Option<LogId>,
    },
    /// Under a new id.
    Rejoin {
        wipe: bool,
    },
    Wait(String),
}

/// Judges by the answers of the members themselves, by id, and by those of nodes that stand in their places now.
fn judge(
    own: u64,
    last: Option<LogId>,
    members: &Members,
    answers: &BTreeMap<u64, Standing>,
    strangers: &[Standing],
) -> Verdict {
    let all = || answers.values().chain(strangers);
    if let Some(leader) = all().find(|standing| standing.leads) {
        return if leader.member {
            Verdict::Rejoin { wipe: !leader.holds }
        } else {
            Verdict::Wait("the cluster has removed this node; it takes no part, to add it anew empty its data directory".into())
        };
    }
    let others = || members.configs.iter().flatten().filter(|id| **id != own);
    let mut missing: Vec<String> = others()
        .filter(|id| !answers.contains_key(id))
        .map(|id| format!("{} at {}", id_text(*id), members.nodes.get(id).map_or("?", |node| &node.addr)))
        .collect();
    missing.sort();
    missing.dedup();
    if !missing.is_empty() {
        return Verdict::Wait(format!(
            "no leader is found, and these voters do not answer: {}",
            missing.join(", ")
        ));
    }
    if !members.is_voter(own) {
        return Verdict::Wait("no leader is found yet".into());
    }
    let clean = |id: &u64| answers.get(id).is_some_and(|standing| !standing.doubtful);
    let majority = |config: &Vec<u64>| config.iter().filter(|id| clean(id)).count() * 2 > config.len();
    if members.configs.is_empty() || members.configs.iter().all(majority) {
        return Verdict::Wait("the voters that lost nothing have no leader yet".into());
    }
    let floor = others().filter_map(|id| answers.get(id)?.last).chain(last).max();
    Verdict::GoOn { floor }
}

/// The clients of one doubt, by node id.
struct Asking {
    core: Arc<Core>,
    clients: BTreeMap<u64, PeerClient>,
}

impl Asking {
    async fn ask(client: PeerClient, question: Bytes) -> Option<Standing> {
        let answer = timeout(ANSWER_MAX, client.call(STANDING, question)).await.ok()?.ok()?;
        Standing::decode(answer).ok()
    }

    fn client(&mut self, id: u64, peer_addr: &str) -> PeerClient {
        let core = &self.core;
        let make = || PeerClient::new(core.local.clone(), id, peer_addr.to_owned(), &core.tasks);
        self.clients.entry(id).or_insert_with(make).clone()
    }

    async fn round(&mut self, members: &Members) -> Verdict {
        let own = self.core.local.node_id;
        if !members.is_joint() && members.voters() == [own] {
            return Verdict::GoOn { floor: None };
        }
        let mut question = BytesMut::new();
        codec::put_optional_log_id(&mut question, self.core.store.applied());
        let question = question.freeze();
        let others: Vec<_> = members.nodes.iter().filter(|(id, _)| **id != own).collect();
        let asked: Vec<_> = others
            .iter()
            .map(|(id, node)| Self::ask(self.client(**id, &node.peer_addr), question.clone()))
            .collect();
        let mut answers = BTreeMap::new();
        let mut strangers = Vec::new();
        for ((id, node), standing) in others.iter().zip(join_all(asked).await) {
            if let Some(standing) = standing {
                answers.insert(**id, standing);
            } else if let Ok(stranger) = identify(&self.core, &node.addr, Some(&node.peer_addr)).await
                && stranger.cluster_id == self.core.local.cluster_id()
                && stranger.node_id != **id
            {
                // That member came back under a new id; it may lead now.
                let client = self.client(stranger.node_id, &stranger.peer_addr);
                strangers.extend(Self::ask(client, question.clone()).await);
            }
        }
        judge(own, self.core.log.bounds().last, members, &answers, &strangers)
    }
}

/// Settles the doubt of this node, if there is one.
pub(super) async fn settle(core: Arc<Core>) {
    if !core.doubt.is_open() {
        return;
    }
    tracing::warn!(
        "this node stopped without notice at a lower durability and may have lost acknowledged entries; it does not vote until that is settled"
    );
    let mut asking = Asking { core: core.clone(), clients: BTreeMap::new() };
    let mut said = String::new();
    loop {
        let (_, members) = members::newest(&core);
        let verdict = tokio::select! {
            () = core.shutdown.cancelled() => return,
            verdict = asking.round(&members) => verdict,
        };
        match carry_out(&core, &members, verdict, &mut said) {
            Ok(true) => return,
            Ok(false) => {}
            Err(error) => tracing::warn!(%error, "the doubt is not settled"),
        }
        tokio::select! {
            () = core.shutdown.cancelled() => return,
            () = sleep(ASK_EVERY) => {}
        }
    }
}

/// True if nothing is left to do.
fn carry_out(
    core: &Core,
    members: &Members,
    verdict: Verdict,
    said: &mut String,
) -> Result<bool, IdentityError> {
    match verdict {
        Verdict::GoOn { floor } => {
            core.doubt.go_on(floor)?;
            let floor = floor.map(|id| id.to_string());
            tracing::warn!(
                floor,
                "no voter knows more than the longest log here: this node goes on under its id; what no disk holds is lost"
            );
            Ok(true)
        }
        Verdict::Rejoin { wipe } => {
            let own = core.local.node_id;
            let known = members.nodes.get(&own);
            let wants_vote = members.is_voter(own) || known.is_none_or(|node| node.wants_vote);
            let others = members.nodes.iter().filter(|(id, _)| **id != own);
            let addrs = others.map(|(_, node)| node.addr.clone()).collect();
            core.identity.renew(Rejoin { replaces: own, wants_vote, members: addrs, wipe })?;
            crash_point!("renewed-not-restarted");
            let new = core.identity.node_id();
            tracing::warn!(
                old = %id_text(own), new = %id_text(new), wipe,
                "the cluster has a leader: this node comes back as a learner with a new id"
            );
            core.renewed.cancel();
            Ok(true)
        }
        Verdict::Wait(why) => {
            if *said != why {
                tracing::warn!("waiting, without a vote: {why}");
                *said = why;
            }
            Ok(false)
        }
    }
}

/// Lets this node campaign when it may: not while it is in doubt, not before one lease has passed (openraft forgets the
/// lease that it had granted, so a leader that still holds it could be replaced), not with a log below the floor. A
/// node that is alone need not wait, and one without members cannot campaign.
pub(super) async fn wait_to_campaign(core: Arc<Core>) {
    core.doubt.settled().await;
    let voters =
        core.raft.server_metrics().borrow_watched().membership_config.membership().voter_ids().count();
    let runtime = core.raft.runtime_config();
    if voters > 1 {
        runtime.elect(false);
        sleep(core.lease()).await;
    }
    let Some(floor) = core.doubt.floor() else { return runtime.elect(true) };
    let mut metrics = core.raft.metrics();
    let reached = || core.log.bounds().last >= Some(floor);
    while !reached() {
        if metrics.changed().await.is_err() {
            return;
        }
    }
    runtime.elect(true);
    let mut leader = core.leader_watch();
    // Only a log that reaches the floor can lead; from here on Raft's own rule is enough.
    if leader.wait_for(|view| view.id.is_some()).await.is_ok()
        && let Err(error) = core.doubt.reached()
    {
        tracing::warn!(%error, "the end of a doubt is not noted");
    }
}

#[cfg(test)]
mod tests {
    use super::super::types::Node;
    use super::*;

    fn at(index: u64) -> Option<LogId> {
        Some(LogId { term: 2, node: 1, index })
    }

    fn members(voters: &[u64]) -> Members {
        let nodes = voters.iter().map(|id| (*id, Node { addr: format!("h:{id}"), ..Node::default() }));
        Members { configs: vec![voters.to_vec()], nodes: nodes.collect() }
    }

    fn clean(index: u64) -> Standing {
        Standing { member: true, holds: true, last: at(index), ..Standing::default() }
    }

    fn doubtful(index: u64) -> Standing {
        Standing { doubtful: true, ..clean(index) }
    }

    fn leading(index: u64) -> Standing {
        Standing { leads: true, ..clean(index) }
    }

    /// The verdict of node 1, whose log ends at 10, over answers of nodes 2, 3, ...
    fn verdict(voters: &[u64], answers: &[(u64, Standing)]) -> Verdict {
        judge(1, at(10), &members(voters), &answers.iter().copied().collect(), &[])
    }

    #[test]
    fn a_confirmed_leader_takes_the_node_back_under_a_new_id() {
        assert_eq!(verdict(&[1, 2, 3], &[(2, leading(20))]), Verdict::Rejoin { wipe: false });
        let other = Standing { holds: false, ..leading(20) };
        assert_eq!(verdict(&[1, 2, 3], &[(3, other)]), Verdict::Rejoin { wipe: true });
        let stranger = judge(1, at(10), &members(&[1, 2]), &BTreeMap::new(), &[leading(20)]);
        assert_eq!(stranger, Verdict::Rejoin { wipe: false }, "a leader that has a new id itself");
        let removed = Standing { member: false, ..leading(20) };
        assert!(matches!(verdict(&[1, 2, 3], &[(2, removed)]), Verdict::Wait(_)), "never back by itself");
    }

    #[test]
    fn all_go_on_only_when_every_voter_has_answered() {
        let Verdict::Wait(why) = verdict(&[1, 2, 3], &[(2, doubtful(12))]) else {
            panic!("node 3 may know more")
        };
        assert!(why.contains("h:3") && !why.contains("h:2"), "{why}");
        let all = [(2, doubtful(12)), (3, doubtful(9))];
        assert_eq!(verdict(&[1, 2, 3], &all), Verdict::GoOn { floor: at(12) });
        let all = [(2, doubtful(8)), (3, doubtful(9))];
        assert_eq!(verdict(&[1, 2, 3], &all), Verdict::GoOn { floor: at(10) }, "its own log is the longest");
        let one_clean = [(2, clean(30)), (3, doubtful(9))];
        assert_eq!(verdict(&[1, 2, 3], &one_clean), Verdict::GoOn { floor: at(30) }, "nobody else can elect");
        let two_clean = [(2, clean(30)), (3, clean(30))];
        assert!(matches!(verdict(&[1, 2, 3], &two_clean), Verdict::Wait(_)), "they elect a leader");
    }

    #[test]
    fn of_a_joint_membership_both_halves_count() {
        let mut joint = members(&[1, 2, 3, 4]);
        joint.configs = vec![vec![1, 2], vec![2, 3, 4]];
        let answers = BTreeMap::from([(2, clean(5)), (3, clean(5)), (4, clean(5))]);
        let verdict = judge(1, at(10), &joint, &answers, &[]);
        assert_eq!(
            verdict,
            Verdict::GoOn { floor: at(10) },
            "the old half has no majority without this node"
        );
        let answers = BTreeMap::from([(2, clean(5)), (3, clean(5))]);
        assert!(matches!(judge(1, at(10), &joint, &answers, &[]), Verdict::Wait(_)), "node 4 is missing");
    }

    #[test]
    fn a_standing_survives_the_round_trip() {
        for standing in [clean(3), doubtful(4), leading(5), Standing::default()] {
            assert_eq!(Standing::decode(standing.encode()), Ok(standing));
        }
    }
}
