//! Who a caller of the peer port is, and what it may ask.
//!
//! ```text
//! hello says: node id ----------+
//! membership: id -> peer address+-- rank --> member     its certificate is for the host of its address: everything
//! TLS proved: certificate ------+         |  unknown    no member that this node knows: to be taken in, to be told where
//!                                         |             the others stand; a member that this node knows may vouch for it
//!                                         `- impostor   a member's id, a certificate for another host: nothing
//! ```
//!
//! A dialler has checked our name by then. That every caller has a certificate of the cluster's own authority, and has
//! named the cluster and this node, is proved before it gets here (`tls`, `service`).
//!
//! **Why members are asked.** A newcomer is known to nobody. And a node that was away while members changed or moved knows
//! too little: the leader itself may be unknown to it, and refusing that one for ever would cost a member. So it asks the
//! members that it knows (or whoever has proved to be at their addresses now) whether they know the caller, and at which
//! address; the caller's certificate must be for that host then.
//!
//! Invariants
//! - A node that knows no membership yet takes the word of its authority: it has nothing to compare with.
//! - In the clear (`peer_tls` off or optional) nobody proves a name, and everybody is a member, as ever.
//! - A rank is worked out again when the membership changes, before the next frame.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::future::join_all;
use tokio::time::timeout;

use super::super::codec::{self, DecodeError, Reader};
use super::super::core::Core;
use super::Local;
use super::client::{PeerClient, ask_who, id_text};
use super::messages::{JOIN, STANDING, VOUCH};
use super::transport::host;
use crate::tls::Certificate;

/// Nodes vouched for between two changes of the membership.
const VOUCHED_MAX: usize = 16;
/// Time for a member to answer whether it knows a node.
const ANSWER_MAX: Duration = Duration::from_secs(1);
/// Between two rounds of that question.
pub(super) const ASK_EVERY: Duration = Duration::from_millis(500);

/// Where nodes are, as far as this one knows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Known {
    /// Peer addresses of the members, by node id.
    pub(super) members: BTreeMap<u64, String>,
    /// Of nodes for which a member has vouched since the members changed.
    vouched: BTreeMap<u64, String>,
}

/// What a caller is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Rank {
    Member,
    Unknown,
    /// Why.
    Impostor(String),
}

impl Known {
    pub(super) fn of(members: BTreeMap<u64, String>) -> Self {
        Self { members, vouched: BTreeMap::new() }
    }

    /// With one more that was vouched for; as it is when there are too many.
    pub(super) fn with(&self, id: u64, peer_addr: String) -> Self {
        let mut more = self.clone();
        if more.vouched.len() < VOUCHED_MAX {
            more.vouched.insert(id, peer_addr);
        }
        more
    }

    fn rank(&self, id: u64, is_for: impl Fn(&str) -> bool) -> Rank {
        if self.members.is_empty() {
            return Rank::Member;
        }
        // A member may have moved while this node was away: what it was vouched for counts as well.
        let mut addrs = self.members.get(&id).into_iter().chain(self.vouched.get(&id)).peekable();
        let Some(&addr) = addrs.peek() else { return Rank::Unknown };
        if addrs.any(|addr| is_for(host(addr))) {
            return Rank::Member;
        }
        Rank::Impostor(format!("its certificate is not for {}, where node {} is", host(addr), id_text(id)))
    }
}

impl Rank {
    /// Whether this frame is served.
    ///
    /// # Errors
    /// Why not.
    pub(super) fn permits(&self, kind: u8, from: u64) -> Result<(), String> {
        match self {
            Rank::Member => Ok(()),
            Rank::Unknown if matches!(kind, JOIN | STANDING) => Ok(()),
            Rank::Unknown => Err(format!("node {} is no member that this node knows of", id_text(from))),
            Rank::Impostor(why) => Err(why.clone()),
        }
    }
}

/// The other side of an accepted connection.
pub(super) struct Caller {
    /// As its hello said.
    pub(super) from: u64,
    certificate: Option<Certificate>,
    /// Under which it was found to be a member.
    proved: Option<Arc<Known>>,
}

impl Caller {
    pub(super) fn new(from: u64, certificate: Option<Certificate>) -> Self {
        Self { from, certificate, proved: None }
    }

    /// What it is now.
    pub(super) fn rank(&mut self, local: &Local) -> Rank {
        let Some(certificate) = &self.certificate else { return Rank::Member };
        let known = local.known();
        if self.proved.as_ref().is_some_and(|proved| Arc::ptr_eq(proved, &known)) {
            return Rank::Member;
        }
        let rank = known.rank(self.from, |host| certificate.is_for(host));
        if rank == Rank::Member {
            self.proved = Some(known);
        }
        rank
    }
}

/// Asks the members that this node knows for a caller whose rank is too low, unless that was just done.
pub(super) fn ask_for(core: &Arc<Core>, id: u64) {
    if !core.local.takes_turn_to_ask() {
        return;
    }
    let asking = core.clone();
    core.tasks.spawn(async move {
        let stop = asking.shutdown.clone();
        let _ = stop.run_until_cancelled(ask_members(&asking, id)).await;
    });
}

async fn ask_members(core: &Arc<Core>, id: u64) {
    let known = core.local.known();
    let others = known.members.iter().filter(|(member, _)| **member != core.local.node_id);
    let answers = join_all(others.map(|(_, addr)| ask_member(core, addr, id))).await;
    let Some(addr) = answers.into_iter().flatten().next() else { return };
    tracing::info!(peer = %id_text(id), %addr, "a member vouches for the node");
    core.local.vouch(&known, id, addr);
}

/// Asks whoever is at a member's address, which its certificate proves: it may have a new id itself.
async fn ask_member(core: &Arc<Core>, addr: &str, id: u64) -> Option<String> {
    let there = ask_who(&core.local, addr).await.ok()?;
    if there.cluster_id != core.local.cluster_id() {
        return None;
    }
    let client = PeerClient::new(core.local.clone(), there.node_id, addr.to_owned(), &core.tasks);
    let call = client.call(VOUCH, Bytes::copy_from_slice(&id.to_le_bytes()));
    decode_answer(timeout(ANSWER_MAX, call).await.ok()?.ok()?).ok()?
}

/// Answers that question: the peer address, if the node is a member.
pub(super) fn answer(local: &Local, body: Bytes) -> Result<Bytes, DecodeError> {
    let mut reader = Reader::new("question for a node", body);
    let id = reader.u64()?;
    reader.end()?;
    let mut out = BytesMut::new();
    match local.peer_addr_of(id) {
        None => out.extend_from_slice(&[0]),
        Some(addr) => {
            out.extend_from_slice(&[1]);
            codec::put_text(&mut out, &addr);
        }
    }
    Ok(out.freeze())
}

fn decode_answer(body: Bytes) -> Result<Option<String>, DecodeError> {
    let mut reader = Reader::new("answer for a node", body);
    let addr = reader.optional(Reader::text)?;
    reader.end()?;
    Ok(addr)
}

#[cfg(test)]
mod tests {
    use super::super::messages::{APPEND, PRE_VOTE, VOTE};
    use super::super::transport::Transport;
    use super::*;

    fn known() -> Known {
        Known::of([(1, "a.example:14920".to_owned()), (2, "[::1]:7".to_owned())].into())
    }

    #[test]
    fn a_member_proves_the_host_of_its_own_address() {
        assert_eq!(known().rank(1, |host| host == "a.example"), Rank::Member);
        assert_eq!(known().rank(2, |host| host == "::1"), Rank::Member);
        let Rank::Impostor(why) = known().rank(2, |host| host == "a.example") else { panic!() };
        assert_eq!(why, "its certificate is not for ::1, where node 0000000000000002 is");
    }

    #[test]
    fn a_newcomer_may_ask_to_be_taken_in_and_nothing_else() {
        let rank = known().rank(3, |_| true);
        assert_eq!(rank, Rank::Unknown);
        assert_eq!(rank.permits(JOIN, 3), Ok(()));
        assert_eq!(rank.permits(STANDING, 3), Ok(()));
        for kind in (0..=u8::MAX).filter(|kind| !matches!(*kind, JOIN | STANDING)) {
            assert!(rank.permits(kind, 3).is_err(), "{kind}");
        }
        for kind in [APPEND, VOTE, PRE_VOTE, JOIN, STANDING] {
            assert!(Rank::Impostor("no".into()).permits(kind, 1).is_err());
        }
    }

    #[test]
    fn who_knows_nobody_believes_its_authority() {
        assert_eq!(Known::default().rank(9, |_| false), Rank::Member);
    }

    #[test]
    fn a_node_is_vouched_for_until_the_members_change_and_proves_that_host() {
        let local = Local::new(1, Some(7), Transport::default());
        local.set_peer_addrs(known().members);
        local.vouch(&local.known(), 3, "c.example:1".into());
        assert_eq!(local.known().rank(3, |host| host == "c.example"), Rank::Member);
        local.vouch(&local.known(), 2, "moved.example:7".into());
        for there in ["::1", "moved.example"] {
            assert_eq!(local.known().rank(2, |host| host == there), Rank::Member, "{there}");
        }
        assert!(matches!(local.known().rank(3, |host| host == "a.example"), Rank::Impostor(_)));
        let before = local.known();
        local.set_peer_addrs(known().members);
        assert!(Arc::ptr_eq(&before, &local.known()), "the same members again are no change");
        local.set_peer_addrs([(1, "a.example:1".to_owned())].into());
        assert_eq!(local.known().rank(3, |_| true), Rank::Unknown);
        local.vouch(&before, 3, "c.example:1".into());
        assert_eq!(local.known().rank(3, |_| true), Rank::Unknown, "that was under other members");
        for id in 100..200 {
            local.vouch(&local.known(), id, String::new());
        }
        assert_eq!(local.known().vouched.len(), VOUCHED_MAX);
    }

    #[test]
    fn the_question_is_answered_with_the_address_of_a_member() {
        let local = Local::new(1, Some(7), Transport::default());
        local.set_peer_addrs(known().members);
        let ask = |id: u64| answer(&local, Bytes::copy_from_slice(&id.to_le_bytes())).unwrap();
        assert_eq!(decode_answer(ask(1)), Ok(Some("a.example:14920".into())));
        assert_eq!(decode_answer(ask(9)), Ok(None));
        assert!(answer(&local, Bytes::from_static(b"short")).is_err());
    }

    #[test]
    fn members_are_asked_once_in_a_while() {
        let local = Local::new(1, Some(7), Transport::default());
        assert!(local.takes_turn_to_ask());
        assert!(!local.takes_turn_to_ask());
    }
}
