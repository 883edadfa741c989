//! Handing leadership over: who takes over, and how no command is lost or failed on the way.
//!
//! ```text
//! hold proposals -> what is in flight ends -> the successor has the whole log -> it is told to campaign -> let go
//! ```

use std::sync::Arc;
use std::time::Duration;

use openraft::async_runtime::WatchReceiver as _;
use tokio::time::{Instant, sleep, timeout};

use super::{RETRY_PAUSE, find, is_live, last_log_index, matched};
use crate::raft::core::Core;
use crate::raft::group::MemberError;
use crate::raft::peer::client::id_text;

/// A hand-over, from the first held command to the new leader.
const TRANSFER_TIMEOUT: Duration = Duration::from_secs(3);

/// The voter to lead next: the named one, or the one that has most of the log among those that answer.
pub(in crate::raft) fn pick_successor(core: &Core, to: Option<&str>) -> Result<u64, MemberError> {
    let members = core.members.load();
    if let Some(target) = to {
        return match find(&members, target) {
            Some(id) if members.is_voter(id) && is_live(core, id) => Ok(id),
            Some(id) if members.is_voter(id) => Err(MemberError::Refused(format!(
                "{target} does not answer this leader; nothing was changed"
            ))),
            Some(_) => Err(MemberError::Refused(format!("{target} is a learner; only a voter can lead"))),
            None => Err(MemberError::Refused(format!("{target} is not a member"))),
        };
    }
    let others = members.voters().iter().copied().filter(|id| *id != core.local.node_id);
    let live = others.filter(|id| is_live(core, *id));
    live.max_by_key(|id| matched(core, *id))
        .ok_or_else(|| MemberError::Refused("no other voter can take over".into()))
}

/// As [`pick_successor`], for a leader that may have been elected a moment ago: it gets a few heartbeats to hear from
/// its voters.
pub(in crate::raft) async fn await_successor(core: &Core) -> Result<u64, MemberError> {
    let deadline = Instant::now() + core.lease() * 3;
    loop {
        let picked = pick_successor(core, None);
        let alone = core.members.load().voters().len() <= 1;
        if picked.is_ok() || alone || !core.is_leader() || Instant::now() >= deadline {
            return picked;
        }
        sleep(RETRY_PAUSE).await;
    }
}

/// Hands leadership over: holds new proposals, waits until the successor has the whole log, lets it elect itself. Returns
/// the node that leads then, which is another one than asked for if that one was lost at the last moment.
///
/// Once the library was told to hand over, this leader proposes nothing and sends no heartbeat any more, whatever becomes
/// of the successor; so the others elect one of them within a lease and an election timeout, or this node again.
pub(in crate::raft) async fn transfer(core: &Arc<Core>, to: u64) -> Result<u64, MemberError> {
    if to == core.local.node_id {
        return Ok(to);
    }
    let _one_at_a_time = core.transfer.lock().await;
    if !core.is_leader() {
        // The hand-over before this one, or an election, was faster.
        return Err(MemberError::NoLeader);
    }
    core.suspend_lease();
    let _hold = Hold::new(core);
    let result = timeout(TRANSFER_TIMEOUT, transfer_held(core, to)).await;
    core.suspend_lease();
    result.unwrap_or_else(|_| Err(MemberError::Unknown("the successor did not take over in time".into())))
}

/// Proposals are held as long as this lives, also if the hand-over is dropped half-way.
struct Hold<'a>(&'a Core);

impl<'a> Hold<'a> {
    fn new(core: &'a Core) -> Self {
        core.hold_proposals.send_replace(true);
        Self(core)
    }
}

impl Drop for Hold<'_> {
    fn drop(&mut self) {
        self.0.hold_proposals.send_replace(false);
    }
}

async fn transfer_held(core: &Arc<Core>, to: u64) -> Result<u64, MemberError> {
    let own = core.local.node_id;
    let term = core.leader.borrow().term;
    let mut metrics = core.raft.metrics();
    // Held proposals stand still, so the end of the log does too, but for what was under way.
    while matched(core, to).is_none_or(|index| index < last_log_index(core)) {
        if !is_live(core, to) {
            let text = format!("{} stopped answering", id_text(to));
            return Err(MemberError::Refused(text));
        }
        // Heartbeats do not change the metrics at once, so silence is looked for as well.
        if let Ok(Err(_)) = timeout(RETRY_PAUSE, metrics.changed()).await {
            return Err(MemberError::Unknown("the Raft core stopped".into()));
        }
    }
    crash_point!("hand-over-held-not-told");
    core.raft.trigger().transfer_leader(to).await.map_err(|error| MemberError::Unknown(error.to_string()))?;
    crash_point!("hand-over-told");
    let mut leader = core.leader_watch();
    let next = leader.wait_for(|view| view.id.is_some_and(|id| id != own || view.term > term)).await;
    let next = next.map_err(|_| MemberError::Unknown("the node stopped".into()))?.id;
    next.filter(|id| *id != own).ok_or_else(|| {
        MemberError::Refused(format!("{} did not take over; this node was elected again", id_text(to)))
    })
}
