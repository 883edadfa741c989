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
    /// Entries that some node has applied, and the vote that the first one had then: no later leader has committed them.
    committed: BTreeMap<u64, (LogId, Option<(u64, u64)>)>,
    /// The content after an entry, and which node had it first.
    contents: BTreeMap<u64, (u128, usize)>,
    /// By node id: its last vote that others may have been told. A restart must not take it back.
    votes: BTreeMap<u64, (u64, u64)>,
    /// By node: its id, and up to where its log was compared, which is what was applied then.
    seen: BTreeMap<usize, (u64, LogId)>,
    /// Looks at a node.
    pub checks: u64,
    /// Comparisons of contents at an entry that another node had applied before.
    pub compared: u64,
    /// Of all that was seen, in order.
    pub digest: u64,
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
        self.committed.values().next_back().map(|(id, _)| *id)
    }

    /// Looks at one node, and says what it saw.
    ///
    /// # Errors
    /// What is broken.
    pub fn check(&mut self, node: usize, group: &Group) -> Result<Inspection, String> {
        let now = group.inspect();
        self.checks += 1;
        self.note(&now);
        self.check_vote(node, &now)?;
        check_disk(node, group, &now)?;
        if now.leads {
            self.check_leader(node, group, &now)?;
        }
        self.check_applied(node, group, &now)?;
        Ok(now)
    }

    /// What was applied stays applied, is the same at every node, and gives the same content.
    fn check_applied(&mut self, node: usize, group: &Group, now: &Inspection) -> Result<(), String> {
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
            self.note_committed(node, id, now)?;
        }
        self.note_committed(node, applied, now)?;
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

    fn note(&mut self, now: &Inspection) {
        let (index, contents) = (|id: Option<LogId>| id.map_or(0, |id| id.index), now.content.to_le_bytes());
        let (low, high) = contents.split_at(8);
        let word = |half: &[u8]| half.iter().fold(0, |word, byte| word << 8 | u64::from(*byte));
        let facts = [
            now.given.0,
            now.given.1,
            index(now.applied),
            index(now.last),
            index(now.durable),
            word(low),
            word(high),
        ];
        // As FNV-1a, but by words.
        self.digest =
            facts.iter().fold(self.digest, |digest, fact| (digest ^ fact).wrapping_mul(0x0100_0000_01b3));
    }

    /// Who has given its vote remembers that, whatever happens to it.
    fn check_vote(&mut self, node: usize, now: &Inspection) -> Result<(), String> {
        let given = self.votes.entry(now.node_id).or_default();
        *given = now.given.max(*given);
        // One that has not voted shows term 0 with its own id.
        if given.0 > 0 && now.vote < Some(*given) {
            return Err(format!(
                "node {node} has given its vote to {given:?}, and knows only of {:?}",
                now.vote
            ));
        }
        Ok(())
    }

    fn note_committed(&mut self, node: usize, id: LogId, now: &Inspection) -> Result<(), String> {
        let (known, _) = *self.committed.entry(id.index).or_insert((id, now.vote));
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
        for (index, (id, by)) in self.committed.iter().rev().take(LOOK_BACK) {
            // A later leader may have committed already, entries of its own or of those before it, if this one has not
            // noticed that it is one no more.
            if (id.term, id.node) > leader
                || *by > Some(leader)
                || now.purged.is_some_and(|purged| purged.index >= *index)
            {
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

/// The state on disk is never ahead of the log on disk, and no log is purged before its effects are on disk.
fn check_disk(node: usize, group: &Group, now: &Inspection) -> Result<(), String> {
    let (index, durable) = (|id: Option<LogId>| id.map_or(0, |id| id.index), now.durable);
    if index(now.purged) > index(durable) {
        return Err(format!(
            "node {node} has purged its log up to {:?}, its durable state is at {durable:?}",
            now.purged
        ));
    }
    // One that was taken over from a checkpoint was never in this log.
    let is_from_log =
        durable.is_some_and(|id| now.purged < Some(id) && group.log_id_at(id.index) == Some(id));
    if is_from_log && index(now.synced) < index(durable) {
        return Err(format!(
            "node {node} has durable state at {durable:?}, its log on disk ends at {:?}",
            now.synced
        ));
    }
    Ok(())
}
