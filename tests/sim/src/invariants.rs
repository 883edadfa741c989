//! What must hold of all nodes at every moment, whatever happens to them.

use std::collections::{BTreeMap, BTreeSet};

use kvnode_server::raft::{Group, Inspection};
use kvnode_server::store::LogId;

/// Log entries below the newest committed one that a new leader is checked for.
const LOOK_BACK: usize = 2000;

/// What is known of all terms and entries so far.
#[derive(Default)]
pub struct Invariants {
    /// Who was elected, as term and node: of two in one term the greater node id wins, and the other is deposed.
    leaders: BTreeSet<(u64, u64)>,
    /// Entries that some node has applied.
    committed: BTreeMap<u64, LogId>,
    /// The content after an entry, and which node had it first.
    contents: BTreeMap<u64, (u128, usize)>,
    /// By node: its id, and up to where its log was compared, which is what was applied then.
    seen: BTreeMap<usize, (u64, LogId)>,
    /// Looks at a node.
    pub checks: u64,
    /// Comparisons of contents at an entry that another node had applied before.
    pub compared: u64,
}

impl Invariants {
    /// A node begins anew: its log and state may lie behind what was seen of it.
    pub fn restarted(&mut self, node: usize) {
        self.seen.remove(&node);
    }

    /// Leaders that were elected.
    #[must_use]
    pub fn elected(&self) -> usize {
        self.leaders.len()
    }

    /// Newest entry that is known to be committed.
    #[must_use]
    pub fn committed(&self) -> Option<LogId> {
        self.committed.values().next_back().copied()
    }

    /// Looks at one node.
    ///
    /// # Errors
    /// What is broken.
    pub fn check(&mut self, node: usize, group: &Group) -> Result<(), String> {
        let now = group.inspect();
        self.checks += 1;
        if now.leads {
            self.check_leader(node, group, &now)?;
        }
        let Some(applied) = now.applied else { return Ok(()) };
        // Under a new id it begins with nothing.
        let before = self.seen.insert(node, (now.node_id, applied));
        let before = before.and_then(|(id, applied)| (id == now.node_id).then_some(applied));
        if before == Some(applied) {
            return Ok(());
        }
        if before > Some(applied) {
            return Err(format!("node {node} went back from {before:?} to {applied}"));
        }
        let purged = now.purged.map_or(0, |id| id.index);
        let from = before.map_or(0, |id| id.index).max(purged) + 1;
        for index in from..=applied.index {
            let Some(id) = group.log_id_at(index) else {
                if group.inspect().purged.is_some_and(|purged| purged.index >= index) {
                    continue;
                }
                return Err(format!("node {node} has applied {applied}, but its log has no entry {index}"));
            };
            self.note_committed(node, id)?;
        }
        self.note_committed(node, applied)?;
        match self.contents.get(&applied.index) {
            Some((content, first)) if *content != now.content => Err(format!(
                "node {node} and node {first} differ in content after entry {applied}: {:x} and {content:x}",
                now.content
            )),
            Some(_) => {
                self.compared += 1;
                Ok(())
            }
            None => {
                self.contents.insert(applied.index, (now.content, node));
                Ok(())
            }
        }
    }

    fn note_committed(&mut self, node: usize, id: LogId) -> Result<(), String> {
        let known = *self.committed.entry(id.index).or_insert(id);
        if known == id {
            return Ok(());
        }
        Err(format!("node {node} has committed {id} where {known} was committed"))
    }

    /// A new leader has everything that was committed by those before it.
    fn check_leader(&mut self, node: usize, group: &Group, now: &Inspection) -> Result<(), String> {
        let leader = (now.term, now.node_id);
        if !self.leaders.insert(leader) {
            return Ok(());
        }
        for (index, id) in self.committed.iter().rev().take(LOOK_BACK) {
            // A later leader may have committed already, if this one has not noticed that it is one no more.
            if (id.term, id.node) > leader || now.purged.is_some_and(|purged| purged.index >= *index) {
                continue;
            }
            let own = group.log_id_at(*index);
            if own != Some(*id) {
                return Err(format!(
                    "node {node} leads term {} without committed entry {id}: it has {own:?}",
                    now.term
                ));
            }
        }
        Ok(())
    }
}
