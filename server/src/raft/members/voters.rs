//! `PUT /v1/voters`: these members and no others are the voters, by one joint change.
//!
//! ```text
//! refused unless   all named are members, those that are learners have caught up, and a majority of the named answers
//! leader not named hands over to a named voter first; that one does the rest
//! then             joint consensus: old voters and new ones decide together, old ones that are not named leave
//! ```
//!
//! One change takes 3 voters to 5, or swaps a wiped one, without ever resting at an even number.

use std::collections::BTreeSet;
use std::sync::Arc;

use openraft::ChangeMembers;
use tokio::time::{Instant, sleep};

use super::{
    PROMOTE_LAG_ENTRIES, RETRY_PAUSE, Verb, change, is_live, last_log_index, matched, newest, run, transfer,
};
use crate::raft::core::Core;
use crate::raft::group::MemberError;
use crate::raft::peer::client::id_text;
use crate::raft::types::Members;
use crate::store::LogId;

/// Runs the verb on the leader.
pub(super) async fn set(
    core: &Arc<Core>,
    voters: &BTreeSet<u64>,
    expect: Option<LogId>,
) -> Result<(), MemberError> {
    let (_, members) = newest(core);
    if !members.is_joint() && members.voters().iter().copied().collect::<BTreeSet<u64>>() == *voters {
        return Ok(());
    }
    await_settable(core, voters).await?;
    if !voters.contains(&core.local.node_id) {
        let successor = successor(core, &members, voters)?;
        transfer(core, successor).await?;
        let verb = Verb::SetVoters { voters: voters.clone(), expect };
        return Box::pin(run(core, &verb)).await;
    }
    let _one_at_a_time = core.change.lock().await;
    change(core, ChangeMembers::ReplaceAllVoters(voters.clone()), false, expect).await
}

/// A leader that has just been elected has not heard its voters yet; it gets a few heartbeats before it refuses.
async fn await_settable(core: &Core, voters: &BTreeSet<u64>) -> Result<(), MemberError> {
    let deadline = Instant::now() + core.lease() * 3;
    loop {
        let (_, members) = newest(core);
        let result = settable(core, &members, voters);
        if result.is_ok() || Instant::now() >= deadline {
            return result;
        }
        sleep(RETRY_PAUSE).await;
    }
}

fn settable(core: &Core, members: &Members, voters: &BTreeSet<u64>) -> Result<(), MemberError> {
    let refused = |text: String| Err(MemberError::Refused(text));
    if voters.is_empty() {
        return refused("a cluster needs a voter; name at least one".into());
    }
    if let Some(stranger) = voters.iter().find(|id| !members.nodes.contains_key(id)) {
        return refused(format!("{} is not a member; add it as a learner first", id_text(*stranger)));
    }
    let last = last_log_index(core);
    for id in voters.iter().filter(|id| !members.is_voter(**id)) {
        let at = matched(core, *id).unwrap_or(0);
        if at + PROMOTE_LAG_ENTRIES < last {
            return refused(format!("{} has not caught up: it has entry {at} of {last}", id_text(*id)));
        }
    }
    let live = voters.iter().filter(|id| is_live(core, **id)).count();
    if live * 2 <= voters.len() {
        return refused(format!(
            "only {live} of the {} named voters answer; it would stop the cluster",
            voters.len()
        ));
    }
    Ok(())
}

/// The named voter with most of the log among those that answer. A learner cannot lead before it is a voter.
fn successor(core: &Core, members: &Members, voters: &BTreeSet<u64>) -> Result<u64, MemberError> {
    let able = voters.iter().copied().filter(|id| members.is_voter(*id) && is_live(core, *id));
    able.max_by_key(|id| matched(core, *id)).ok_or_else(|| {
        let text = "the leader is not named, and none of the named is a voter that could take over";
        MemberError::Refused(text.into())
    })
}
