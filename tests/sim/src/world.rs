//! The cluster, the network, the clients, and the rounds in which they run.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Result, bail};
use kvnode_server::raft::Group;
use kvnode_server::sim::net::Net;

use crate::client::Clients;
use crate::invariants::Invariants;
use crate::node::{self, Crash, SimNode};
use crate::plan::Plan;
use crate::probe::Probes;
use crate::trace::Trace;

/// Rounds between two looks at every node.
const LOOK_EVERY_MS: u64 = 2;

/// Rounds between two comparisons of all nodes.
const AGREE_EVERY_MS: u64 = 10;

/// What a node says of files whose bytes are not those that it wrote.
const DAMAGED: &str = "the node must not start from this log";

/// Rounds between two lines that only say whether two runs are still the same.
const DIGEST_EVERY_MS: u64 = 500;

/// Everything that runs.
pub struct World {
    /// What all lines go to.
    pub trace: Trace,
    /// Between all machines.
    pub net: Arc<Net>,
    /// By number.
    pub nodes: Vec<SimNode>,
    /// Their machine.
    pub clients: Clients,
    /// What was seen so far.
    pub invariants: Invariants,
    /// What those who lead are asked.
    pub probes: Probes,
    /// When nodes that are down start again.
    restarts: BTreeMap<usize, u64>,
    leader: Option<usize>,
    /// Vote of each node, as others may have been told.
    votes: BTreeMap<usize, (u64, u64)>,
    voted: Option<usize>,
}

impl World {
    /// A cluster that is about to form: node 0 founds it, the others join.
    ///
    /// # Errors
    /// A node cannot be started.
    pub fn new(plan: &Plan, files: &Path) -> Result<Self> {
        let trace = Trace::default();
        let net = Net::new(plan.seed);
        let seed_of = |number: usize| plan.seed.wrapping_mul(1009).wrapping_add(number as u64);
        let clients = Clients::start(&net, plan.nodes, seed_of(99), trace.clone())?;
        let new = |number| SimNode::new(number, &net, seed_of(number), files, plan.read_policy);
        let mut nodes: Vec<_> = (0..plan.nodes).map(new).collect();
        for (number, node) in nodes.iter_mut().enumerate() {
            node.set_drift(plan.drift_ppm.get(number).copied().unwrap_or_default());
            if let Some(bug) = plan.planted {
                node.host.plant(bug);
            }
            if number > 0 {
                node.set_join(vec![node::addr(0).to_string()]);
            }
            node.start(0)?;
        }
        Ok(Self {
            trace,
            net,
            nodes,
            clients,
            invariants: Invariants::default(),
            probes: Probes::default(),
            restarts: BTreeMap::new(),
            leader: None,
            votes: BTreeMap::new(),
            voted: None,
        })
    }

    /// Global milliseconds since the start.
    #[must_use]
    pub fn now_ms(&self) -> u64 {
        self.trace.now_ms()
    }

    /// One round of a millisecond.
    ///
    /// # Errors
    /// What must never be was seen.
    pub fn round(&mut self) -> Result<()> {
        let now = self.now_ms() + 1;
        self.trace.set_now(now);
        self.net.deliver(now);
        let due: Vec<usize> = self.restarts.iter().filter(|(_, at)| **at <= now).map(|(n, _)| *n).collect();
        for number in due {
            self.restarts.remove(&number);
            if !self.nodes[number].runs() {
                self.start(number)?;
            }
        }
        for node in &mut self.nodes {
            node.run_to(now);
        }
        self.clients.run_to(now);
        if now.is_multiple_of(LOOK_EVERY_MS) {
            self.look()?;
        }
        if now.is_multiple_of(DIGEST_EVERY_MS) {
            self.note_digests();
        }
        let committed = self.invariants.committed().map(|id| id.index);
        self.probes.round(now, &self.nodes, committed)
    }

    /// Notes what two runs of one seed must have in common, packet by packet and state by state.
    pub fn note_digests(&self) {
        self.trace.note(format_args!("network {:x?}, states {:x}", self.net.trace(), self.invariants.digest));
    }

    fn look(&mut self) -> Result<()> {
        let mut leader = None;
        for number in 0..self.nodes.len() {
            if let Some(group) = self.nodes[number].group() {
                let now = match self.invariants.check(number, &group) {
                    Ok(now) => now,
                    Err(broken) => {
                        self.trace.note(&broken);
                        bail!("{broken}");
                    }
                };
                if self.votes.insert(number, now.given).is_some_and(|before| before < now.given) {
                    self.voted = Some(number);
                }
                if now.leads && leader.is_none_or(|(_, term)| term < now.term) {
                    leader = Some((number, now.term));
                }
            }
            self.look_for_end(number)?;
        }
        if leader.map(|(number, _)| number) != self.leader {
            self.leader = leader.map(|(number, _)| number);
            self.trace.note(format_args!("leader {leader:?}"));
            self.note_digests();
        }
        Ok(())
    }

    fn look_for_end(&mut self, number: usize) -> Result<()> {
        let node = &mut self.nodes[number];
        let (dying, Some(end)) = (node.dying, node.take_end()) else { return Ok(()) };
        if dying {
            // Its disk has failed it; the next process gets one that works, with what was on it.
            node.host.cut_power(0.5);
        }
        self.trace.note(format_args!("node {number} has ended: {end:?}"));
        self.invariants.restarted(number);
        match end {
            // It says so, and is a new one next.
            Err(why) if node.rotten && why.contains(DAMAGED) => {
                node.refused = true;
                return Ok(());
            }
            Err(why) if !dying => bail!("node {number} ended by itself: {why}"),
            Ok(()) | Err(_) => {}
        }
        let again = self.now_ms() + 100;
        self.restarts.entry(number).or_insert(again);
        Ok(())
    }

    /// Node that leads, by what was seen last.
    #[must_use]
    pub fn leader(&self) -> Option<usize> {
        self.leader
    }

    /// A node that has given a vote since this was asked last.
    pub fn voted(&mut self) -> Option<usize> {
        self.voted.take()
    }

    /// Whether a bit of some node's log has flipped.
    #[must_use]
    pub fn has_rotten(&self) -> bool {
        self.nodes.iter().any(|node| node.rotten)
    }

    /// Whether the leader knows that all nodes are voters, for good.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        let leader = self.leader.and_then(|leader| self.nodes[leader].group());
        leader.is_some_and(|group| is_whole(&group, self.nodes.len()))
    }

    /// Ends a node's process; it starts again later.
    pub fn crash(&mut self, number: usize, how: Crash, keep: f64, back_at_ms: u64) {
        self.nodes[number].crash(how, keep);
        self.invariants.restarted(number);
        self.restarts.insert(number, back_at_ms);
    }

    /// Asks a node to stop in order; it starts again later.
    pub fn stop(&mut self, number: usize, back_at_ms: u64) {
        self.nodes[number].stop();
        self.restarts.insert(number, back_at_ms);
    }

    /// Starts a node that is down.
    ///
    /// # Errors
    /// No runtime.
    pub fn start(&mut self, number: usize) -> Result<()> {
        let now = self.now_ms();
        self.trace.note(format_args!("node {number} starts"));
        self.nodes[number].start(now)
    }

    /// Has every node that is down start now.
    pub fn restart_all(&mut self) {
        let now = self.now_ms();
        for (number, node) in self.nodes.iter_mut().enumerate() {
            node.wake();
            if !node.runs() {
                self.restarts.insert(number, now);
            }
        }
        self.restarts.values_mut().for_each(|at| *at = now);
    }

    /// Whether all nodes serve, have the same voters, and have applied the same.
    #[must_use]
    pub fn agrees(&self) -> bool {
        if !self.now_ms().is_multiple_of(AGREE_EVERY_MS) || self.nodes.iter().any(SimNode::stops) {
            return false;
        }
        let groups: Vec<_> = self.nodes.iter().filter_map(SimNode::group).collect();
        let Some(first) = groups.first().filter(|_| groups.len() == self.nodes.len()) else { return false };
        let (wanted, applied) = (self.nodes.len(), first.inspect());
        let leads = groups.iter().filter(|group| group.inspect().leads).count();
        let same = |group: &Group| {
            let now = group.inspect();
            now.applied == applied.applied && now.content == applied.content
        };
        leads == 1
            && applied.applied >= self.invariants.committed()
            && groups.iter().all(|group| is_whole(group, wanted))
            && groups.iter().all(same)
    }
}

/// Whether so many nodes are members and all of them voters, and no change is under way.
fn is_whole(group: &Group, wanted: usize) -> bool {
    let status = group.status();
    let voters = status.members.iter().filter(|member| member.voter).count();
    voters == wanted && status.members.len() == wanted && !status.change_in_progress
}
