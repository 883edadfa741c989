//! Replicas compare their contents all the time; one that differs stops.
//!
//! ```text
//! leader, each second --DIGESTS since--> every member: contents at each 64th entry, and at its last one
//!          |                                 (store::Digest: log id, content)
//!          +-- equal wherever two nodes have the same log id: compared up to here
//!          `-- not equal: what a majority of the voters has is right
//!                 a node has something else --DIVERGED node, right contents--> all members
//!                                      that node looks, writes diverged.json, stops; the others remember it
//!                 no majority, for a while     nobody can tell who is right: said loudly, nobody stops
//! ```
//!
//! Nodes that apply the same entries have the same contents, or one of them is broken: a bug, or memory while it applied.
//! Going on, it would serve wrong answers, and as the next leader pass them on in checkpoints. `diverged.json` keeps it from
//! starting again, so that what it holds can be looked at; an empty directory makes a new member of it.
//!
//! Invariants
//! - A node is wrong only by the word of a majority of the voters, and one that was found wrong has no word any more: so
//!   never more than a minority stops by this.
//! - Entries are the same by their whole log id, not by the index alone.
//! - A node believes no accusation that its own digests do not bear out, and takes it from its leader only.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use futures_util::future::join_all;
use kvnode_api::status::DIVERGED;
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use super::codec::{self, DecodeError, Reader};
use super::core::Core;
use super::identity::replace_file;
use super::peer::client::{CallError, id_text};
use super::peer::messages;
use super::start::StartError;
use super::types::Members;
use crate::store::{Digest, LogId};

const FILE: &str = "diverged.json";
/// Between two comparisons.
const EVERY: Duration = Duration::from_secs(1);
/// Time for a member to answer.
const ANSWER_MAX: Duration = Duration::from_secs(1);
/// Log ids that are remembered with what each member has there.
const ROWS_MAX: usize = 2048;
/// Right contents in one accusation, the newest ones.
const PROOFS_MAX: usize = 128;
/// Rounds after which contents that differ are called undecided: until then whoever decides may only not have told yet.
const UNDECIDED_ROUNDS: u32 = 5;
/// What goes into a digest, and what an entry does to the content. Nodes of another version are not compared, so a release
/// that changes the effect of any entry raises this.
const VERSION: u8 = 1;

/// What the comparison has found, as long as this node leads.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Comparison {
    /// Last entry at which the contents of all that had it were equal, two nodes at least.
    pub(super) equal_at: Option<LogId>,
    /// Members whose content is not that of the majority, and the first entry at which that was seen. Followers remember what
    /// their leader said, for when they lead.
    pub(super) diverged: BTreeMap<u64, LogId>,
    /// The first entry at which contents differ and no majority says which is right.
    pub(super) undecided_at: Option<LogId>,
}

/// This node's part: what it has found as the leader, and whether it has to stop itself.
pub(super) struct Divergence {
    path: PathBuf,
    found: Mutex<Comparison>,
    /// Why this node stops.
    stops: watch::Sender<Option<String>>,
}

impl Divergence {
    /// # Errors
    /// [`StartError::Diverged`] where this node has stopped for its content before.
    pub(super) fn open(data: &Path) -> Result<Self, StartError> {
        let path = data.join(FILE);
        match fs::read_to_string(&path) {
            Ok(text) => {
                Err(StartError::Diverged(format!("{DIVERGED}: {} says {}", path.display(), text.trim())))
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                Ok(Self { path, found: Mutex::default(), stops: watch::Sender::new(None) })
            }
            Err(error) => Err(StartError::Io { doing: format!("read {}", path.display()), error }),
        }
    }

    /// See [`Comparison`].
    pub(super) fn found(&self) -> Comparison {
        self.found.lock().clone()
    }

    /// Resolves with the reason when this node has to stop for its content.
    pub(super) async fn stops(&self) -> String {
        let mut stops = self.stops.subscribe();
        // The sender lives as long as `self`.
        stops.wait_for(Option::is_some).await.ok().and_then(|why| why.clone()).unwrap_or_default()
    }

    /// Writes down that this node differs, and has it stop. Once.
    fn stop(&self, own: Digest, right: u128) {
        if self.stops.borrow().is_some() {
            return;
        }
        let why = format!(
            "{DIVERGED}: at entry {} its digest is {:032x}, and that of the majority {right:032x}",
            own.at, own.content
        );
        let record = serde_json::json!({
            "format": 1,
            "entry": own.at.to_string(),
            "digest": format!("{:032x}", own.content),
            "majority": format!("{right:032x}"),
        });
        if let Err(error) = replace_file(&self.path, format!("{record}\n").as_bytes()) {
            // It stops all the same, and is found again after the next start.
            tracing::error!(%error, file = %self.path.display(), "cannot note that this node has diverged");
        }
        tracing::error!("{why}");
        self.stops.send_replace(Some(why));
    }

    /// Forgets what only a leader knows, and members that have left.
    fn follow(&self, members: &Members) {
        let mut found = self.found.lock();
        (found.equal_at, found.undecided_at) = (None, None);
        found.diverged.retain(|node, _| members.nodes.contains_key(node));
    }
}

/// What the members have at the newest log ids.
#[derive(Default)]
struct Table {
    rows: BTreeMap<LogId, BTreeMap<u64, u128>>,
    /// Index up to which each node has told what it has.
    told: BTreeMap<u64, u64>,
    /// Rounds in a row in which contents differed without a decision.
    undecided: u32,
}

/// What the rows say.
#[derive(Debug, Default, PartialEq, Eq)]
struct Judgement {
    comparison: Comparison,
    /// Of each node that is wrong: what would be right where it is wrong, oldest first.
    wrong: BTreeMap<u64, Vec<Digest>>,
}

impl Table {
    /// From where on to ask a node again. With its last one: it may have started anew, with other contents.
    fn asks_from(&self, node: u64) -> u64 {
        self.told.get(&node).map_or(0, |told| told.saturating_sub(1))
    }

    fn add(&mut self, node: u64, digests: &[Digest]) {
        for digest in digests {
            self.rows.entry(digest.at).or_default().insert(node, digest.content);
            let told = self.told.entry(node).or_default();
            *told = digest.at.index.max(*told);
        }
        while self.rows.len() > ROWS_MAX {
            self.rows.pop_first();
        }
    }

    fn keep(&mut self, members: &Members) {
        self.told.retain(|node, _| members.nodes.contains_key(node));
        for row in self.rows.values_mut() {
            row.retain(|node, _| members.nodes.contains_key(node));
        }
    }

    /// What a node has told does not hold any more: it is asked for everything anew.
    fn forget(&mut self, node: u64) {
        self.told.remove(&node);
        for row in self.rows.values_mut() {
            row.remove(&node);
        }
    }

    /// Judges all rows, oldest first. `known` have been found wrong before.
    fn judge(&self, members: &Members, known: &BTreeMap<u64, LogId>) -> Judgement {
        let mut judged = Judgement::default();
        let mut silent: BTreeSet<u64> = known.keys().copied().collect();
        for (&at, row) in self.rows.iter().filter(|(_, row)| row.len() > 1) {
            let Some(right) = majority(row, members, &silent) else { continue };
            for (&node, _) in row.iter().filter(|(_, content)| **content != right) {
                silent.insert(node);
                judged.comparison.diverged.entry(node).or_insert(at);
                judged.wrong.entry(node).or_default().push(Digest { at, content: right });
            }
        }
        for (&at, row) in &self.rows {
            let mut contents =
                row.iter().filter(|(node, _)| !silent.contains(node)).map(|(_, content)| content);
            let Some(first) = contents.next() else { continue };
            match contents.clone().next() {
                None => {}
                Some(_) if contents.all(|content| content == first) => judged.comparison.equal_at = Some(at),
                Some(_) => {
                    judged.comparison.undecided_at.get_or_insert(at);
                }
            }
        }
        judged
    }
}

/// The content that a majority of the voters has, of each voter set while there are two. The `silent` have no word.
fn majority(row: &BTreeMap<u64, u128>, members: &Members, silent: &BTreeSet<u64>) -> Option<u128> {
    let has = |content: u128, config: &[u64]| {
        let votes = config.iter().filter(|voter| row.get(voter) == Some(&content) && !silent.contains(voter));
        votes.count() > config.len() / 2
    };
    let is_right = |content: u128| members.configs.iter().all(|config| has(content, config));
    row.values().copied().find(|content| !members.configs.is_empty() && is_right(*content))
}

/// Compares for as long as the node runs, whenever it leads.
pub(super) async fn compare(core: Arc<Core>) {
    let mut table = Table::default();
    loop {
        tokio::select! {
            () = core.stop_proposer.cancelled() => return,
            () = sleep(EVERY) => {}
        }
        if core.is_leader() {
            round(&core, &mut table).await;
        } else {
            table = Table::default();
            core.divergence.follow(&core.members.load());
        }
    }
}

async fn round(core: &Core, table: &mut Table) {
    let own = core.local.node_id;
    let calls =
        core.messages.call_others(core, messages::DIGESTS, &|id| Some(encode_question(table.asks_from(id))));
    let answers = calls.into_iter().map(|(id, call)| async move {
        // A node of before does not know the question; it is compared when it is renewed.
        let body = timeout(ANSWER_MAX, call).await.ok()?.ok()?;
        Some((id, decode_digests(body).ok()?))
    });
    let answers: BTreeMap<_, _> = join_all(answers).await.into_iter().flatten().collect();
    let mine = core.store.digests_since(table.asks_from(own));
    table.add(own, &mine);
    for (id, digests) in &answers {
        table.add(*id, digests);
    }
    let members = core.members.load_full();
    table.keep(&members);
    let mut before = core.divergence.found();
    before.diverged.retain(|node, _| members.nodes.contains_key(node));
    let Judgement { mut comparison, wrong } = table.judge(&members, &before.diverged);
    // One that answers, and is wrong nowhere, is another one than it was: it has begun anew.
    let is_well = |node: &u64| answers.contains_key(node) && !wrong.contains_key(node);
    comparison.diverged.extend(before.diverged.iter().filter(|(node, _)| !is_well(node)));
    table.undecided = if comparison.undecided_at.is_some() { table.undecided + 1 } else { 0 };
    comparison.undecided_at = comparison.undecided_at.filter(|_| table.undecided >= UNDECIDED_ROUNDS);
    if let Some(at) = comparison.undecided_at
        && before.undecided_at.is_none()
    {
        tracing::error!(entry = %at, "contents of members differ, and no majority says which is right");
    }
    *core.divergence.found.lock() = comparison;
    for (node, right) in wrong {
        if !before.diverged.contains_key(&node) {
            tracing::error!(node = %id_text(node), entry = %right[0].at, "content differs from the majority's");
        }
        // One that has stopped need not hear it again.
        if node == own || answers.contains_key(&node) || !before.diverged.contains_key(&node) {
            accuse(core, table, node, &right).await;
        }
    }
}

/// Tells all members that one of them differs; this node itself if it is the one.
async fn accuse(core: &Core, table: &mut Table, node: u64, right: &[Digest]) {
    let newest = &right[right.len().saturating_sub(PROOFS_MAX)..];
    let body = encode_accusation(node, newest);
    let calls = core.messages.call_others(core, messages::DIVERGED, &|_| Some(body.clone()));
    let answers = calls.into_iter().map(|(id, call)| async move { (id, timeout(ANSWER_MAX, call).await) });
    for (id, answer) in join_all(answers).await {
        if id == node
            && let Ok(Err(CallError::Refused(why))) = answer
        {
            tracing::warn!(node = %id_text(node), why, "content is compared anew");
            table.forget(node);
        }
    }
    if node == core.local.node_id
        && let Err(why) = hear_of_itself(core, newest)
    {
        tracing::warn!(why, "own content is compared anew");
        table.forget(node);
    }
}

/// Answers a leader's question for digests.
pub(super) fn tell(core: &Core, body: Bytes) -> Result<Bytes, DecodeError> {
    let since = decode_question(body)?;
    Ok(encode_digests(&core.store.digests_since(since)))
}

/// Hears that a member differs.
///
/// # Errors
/// Why it does not believe it.
pub(super) fn hear(core: &Core, from: u64, body: Bytes) -> Result<Bytes, String> {
    let (node, right) = decode_accusation(body).map_err(|error| error.to_string())?;
    if core.leader.borrow().id != Some(from) {
        return Err("only the leader can say that a node has diverged".into());
    }
    if node == core.local.node_id {
        hear_of_itself(core, &right)?;
    } else if let Some(first) = right.first() {
        core.divergence.found.lock().diverged.entry(node).or_insert(first.at);
    }
    Ok(Bytes::new())
}

fn hear_of_itself(core: &Core, right: &[Digest]) -> Result<(), String> {
    let (own, right) = contradiction(&core.store.digests_since(0), right)?;
    core.divergence.stop(own, right);
    Ok(())
}

/// Where this node has told another content than the right one.
fn contradiction(own: &[Digest], right: &[Digest]) -> Result<(Digest, u128), String> {
    let own: BTreeMap<LogId, Digest> = own.iter().map(|digest| (digest.at, *digest)).collect();
    let mut both = right.iter().filter_map(|right| Some((*own.get(&right.at)?, right.content))).peekable();
    if both.peek().is_none() {
        return Err("this node does not remember its content at any of these entries".into());
    }
    both.find(|(own, right)| own.content != *right)
        .ok_or_else(|| "this node has the same content there".into())
}

fn encode_question(since: u64) -> Bytes {
    let mut out = BytesMut::with_capacity(9);
    out.put_u8(VERSION);
    out.put_u64_le(since);
    out.freeze()
}

fn decode_question(body: Bytes) -> Result<u64, DecodeError> {
    let mut reader = Reader::new("question for digests", body);
    check_version(&mut reader)?;
    let since = reader.u64()?;
    reader.end()?;
    Ok(since)
}

/// Version u8 | per digest: log id, content u128.
pub(super) fn encode_digests(digests: &[Digest]) -> Bytes {
    let mut out = BytesMut::with_capacity(1 + 40 * digests.len());
    out.put_u8(VERSION);
    for digest in digests {
        codec::put_log_id(&mut out, digest.at);
        out.put_u128_le(digest.content);
    }
    out.freeze()
}

pub(super) fn decode_digests(body: Bytes) -> Result<Vec<Digest>, DecodeError> {
    let mut reader = Reader::new("digests", body);
    check_version(&mut reader)?;
    let mut digests = Vec::new();
    while !reader.is_empty() {
        digests.push(Digest { at: reader.log_id()?, content: content(&mut reader)? });
    }
    Ok(digests)
}

/// Node u64 | the right contents, as [`encode_digests`] has them.
pub(super) fn encode_accusation(node: u64, right: &[Digest]) -> Bytes {
    let mut out = BytesMut::new();
    out.put_u64_le(node);
    out.put_slice(&encode_digests(right));
    out.freeze()
}

pub(super) fn decode_accusation(body: Bytes) -> Result<(u64, Vec<Digest>), DecodeError> {
    let mut reader = Reader::new("accusation", body);
    let node = reader.u64()?;
    Ok((node, decode_digests(reader.rest())?))
}

fn check_version(reader: &mut Reader) -> Result<(), DecodeError> {
    match reader.u8()? {
        VERSION => Ok(()),
        other => Err(reader.error(format!("digests of version {other}"))),
    }
}

fn content(reader: &mut Reader) -> Result<u128, DecodeError> {
    let (low, high) = (reader.u64()?, reader.u64()?);
    Ok(u128::from(high) << 64 | u128::from(low))
}

#[cfg(test)]
mod tests;
