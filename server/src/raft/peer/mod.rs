//! The peer transport: what nodes of one cluster say to each other, on a port of its own.
//!
//! ```text
//! frame      len u32 | crc32c u32 (of what follows) | kind u8 | request id u64 | body
//! hello      first frame of a connection, kind 0: magic "kvnode-peer" | version u16 | group u32 | cluster id u64 |
//!            from node u64 | to node u64 (0 = whoever is there: asks for an introduction)
//! welcome    its answer, kind 0x80: status u8 (0 = accepted, 1 = refused, 2 = introduction) | text u16+utf8
//!            introduction: then node id u64 | cluster id u64 (0 = none) | client address | peer address, u16+utf8 each;
//!            the connection ends with it
//! request    kind 1..=0x7f, answered by kind | 0x80 with the same request id, or by 0xff with a text
//! working    kind 0xfe, no body: the request of that id takes long, its answer is still to come (a checkpoint that is
//!            being installed); any number of them may come before the answer
//! ```
//!
//! Several requests may be open on a connection; they are answered in any order, but begin in the order sent.
//! Invariants: nothing but a hello is read before the hello is accepted; a hello names the cluster and both nodes, so
//! a frame never reaches a node of another cluster, nor a new node at an old address; with TLS the certificate of a
//! member is for the host at which it is one (`admission`).

pub(super) mod admission;
pub(super) mod checkpoint;
pub(super) mod client;
pub(super) mod frame;
pub(super) mod messages;
pub(super) mod network;
pub(super) mod service;
pub(super) mod transport;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use arc_swap::ArcSwap;
use parking_lot::Mutex;

use admission::Known;
use transport::Transport;

use crate::clock;

/// Version of the peer protocol; a hello with another one is refused with a text that says both.
pub(super) const PROTOCOL_VERSION: u16 = 1;
/// The only Raft group of this version.
pub(super) const GROUP: u32 = 0;

/// Who this node is towards its peers. The cluster id is 0 while the node is unformed.
#[derive(Debug)]
pub(super) struct Local {
    pub(super) node_id: u64,
    transport: Transport,
    cluster_id: AtomicU64,
    /// Where the members are.
    known: ArcSwap<Known>,
    /// When the members were asked for an unknown caller last.
    asked_at: Mutex<Option<Instant>>,
    /// Whence members have connected to us last: the way to one whose name is gone or belongs to its successor already,
    /// as that of a pod that was deleted by force and has not ended yet.
    seen_at: Mutex<BTreeMap<u64, IpAddr>>,
}

impl Local {
    pub(super) fn new(node_id: u64, cluster_id: Option<u64>, transport: Transport) -> Self {
        Self {
            node_id,
            transport,
            cluster_id: AtomicU64::new(cluster_id.unwrap_or(0)),
            known: ArcSwap::default(),
            asked_at: Mutex::default(),
            seen_at: Mutex::default(),
        }
    }

    /// This node as a guest in a cluster that it is not part of yet: what its hello says while it asks to be taken in.
    pub(super) fn as_guest_of(&self, cluster_id: u64) -> Self {
        Self::new(self.node_id, Some(cluster_id), self.transport.clone())
    }

    /// Whether nothing is said to a peer port in the clear.
    pub(super) fn speaks_only_tls(&self) -> bool {
        self.transport.is_tls_only()
    }

    /// A node of this cluster has connected from there.
    pub(super) fn saw(&self, id: u64, ip: IpAddr) {
        let known = self.known.load();
        let mut seen_at = self.seen_at.lock();
        // As many entries as members at most.
        seen_at.retain(|id, _| known.members.contains_key(id));
        if known.members.contains_key(&id) {
            seen_at.insert(id, ip);
        }
    }

    /// Whence a member has connected last.
    pub(super) fn seen_at(&self, id: u64) -> Option<IpAddr> {
        self.seen_at.lock().get(&id).copied()
    }

    /// Where a member is now. The library keeps a connection's maker for as long as it replicates to a member, also
    /// when that member has moved to another address.
    pub(super) fn peer_addr_of(&self, id: u64) -> Option<String> {
        self.known.load().members.get(&id).cloned()
    }

    /// Notes where the members are, if that is something new. There are members for ever once there are some: none is
    /// what the Raft core says before it has begun.
    pub(super) fn set_peer_addrs(&self, addrs: BTreeMap<u64, String>) {
        if !addrs.is_empty() && self.known.load().members != addrs {
            self.known.store(Arc::new(Known::of(addrs)));
        }
    }

    fn known(&self) -> Arc<Known> {
        self.known.load_full()
    }

    /// A member has said where this node is, while these were the members.
    fn vouch(&self, among: &Arc<Known>, id: u64, peer_addr: String) {
        let more = Arc::new(among.with(id, peer_addr));
        // If the members have changed meanwhile, the next round asks others.
        self.known.compare_and_swap(among, more);
    }

    /// Whether members are to be asked now.
    fn takes_turn_to_ask(&self) -> bool {
        let (mut asked_at, now) = (self.asked_at.lock(), clock::monotonic());
        let is_due = asked_at.is_none_or(|at| now.duration_since(at) >= admission::ASK_EVERY);
        if is_due {
            *asked_at = Some(now);
        }
        is_due
    }

    /// Counts and tells a caller that was refused by its name.
    fn refuse(&self, from: IpAddr, why: &str) {
        self.transport.refuse(from, why);
    }

    pub(super) fn cluster_id(&self) -> Option<u64> {
        match self.cluster_id.load(Ordering::Acquire) {
            0 => None,
            id => Some(id),
        }
    }

    pub(super) fn set_cluster_id(&self, id: u64) {
        self.cluster_id.store(id, Ordering::Release);
    }
}

/// How far each voter's wall clock is from ours, in milliseconds, as its acknowledgements say.
///
/// Log time follows the median of the voters' clocks (decision 10): one deviating clock, even the leader's, moves it
/// by nothing.
#[derive(Debug, Default)]
pub(super) struct PeerClocks {
    offsets_ms: Mutex<BTreeMap<u64, i64>>,
}

impl PeerClocks {
    pub(super) fn note(&self, node: u64, offset_ms: i64) {
        self.offsets_ms.lock().insert(node, offset_ms);
    }

    /// Offset of one node, if it was ever heard.
    pub(super) fn offset_ms(&self, node: u64) -> Option<i64> {
        self.offsets_ms.lock().get(&node).copied()
    }

    /// Median offset over `voters`; this node and voters that were never heard count as 0.
    pub(super) fn median_ms(&self, voters: &[u64]) -> i64 {
        let offsets = self.offsets_ms.lock();
        let mut known: Vec<i64> = voters.iter().map(|id| offsets.get(id).copied().unwrap_or(0)).collect();
        known.sort_unstable();
        // The lower median: with two voters the clock that is behind, which never expires anything early.
        known.get(known.len().saturating_sub(1) / 2).copied().unwrap_or(0)
    }
}

/// Which peers answer appends: one log line for each change, where the library would repeat itself with each heartbeat.
#[derive(Debug, Default)]
pub(super) struct Reach {
    silent: Mutex<BTreeSet<u64>>,
}

impl Reach {
    /// The peer answered, or did not for this reason. True when that is a change.
    pub(super) fn note(&self, peer: u64, answered: Result<(), &dyn std::fmt::Display>) -> bool {
        let mut silent = self.silent.lock();
        match answered {
            Ok(()) => {
                let changed = !silent.is_empty() && silent.remove(&peer);
                if changed {
                    tracing::info!(peer = %client::id_text(peer), "the peer answers again");
                }
                changed
            }
            Err(why) => {
                let changed = silent.insert(peer);
                if changed {
                    tracing::warn!(peer = %client::id_text(peer), %why, "no answer from the peer; it is tried on");
                }
                changed
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_deviating_clock_moves_nothing() {
        let clocks = PeerClocks::default();
        clocks.note(2, 5);
        clocks.note(3, 86_400_000);
        assert_eq!(clocks.median_ms(&[1, 2, 3]), 5);
        clocks.note(3, -86_400_000);
        assert_eq!(clocks.median_ms(&[1, 2, 3]), 0);
    }

    #[test]
    fn only_a_change_of_a_peers_reach_is_said() {
        let reach = Reach::default();
        assert!(!reach.note(2, Ok(())), "it was never silent");
        assert!(reach.note(2, Err(&"refused")));
        assert!(!reach.note(2, Err(&"refused")), "said already");
        assert!(reach.note(3, Err(&"refused")), "another peer");
        assert!(reach.note(2, Ok(())));
        assert!(!reach.note(2, Ok(())));
    }

    #[test]
    fn a_leader_a_day_ahead_is_outvoted() {
        let clocks = PeerClocks::default();
        clocks.note(2, -86_400_000);
        clocks.note(3, -86_399_990);
        assert_eq!(clocks.median_ms(&[1, 2, 3]), -86_399_990);
    }
}
