//! Reads that the leader answers for a node whose state does not reach what is committed: its disk takes nothing more,
//! it replays a long log, it is still being caught up.
//!
//! ```text
//! reader   index confirmed, local apply not there in time -> ReadError::Behind
//! here     READ (query) --> the leader: confirms itself, waits for its own apply, answers from its state
//! ```
//!
//! As fresh as a read that is served here, and nothing enters a log, so it works where no log can grow. It costs the
//! leader what the reading node is spared, hence it is never the first choice.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::time::{sleep, timeout};

use super::core::{Core, LeaderView};
use super::group::ReadError;
use super::peer::client::{CallError, PeerClient};
use super::peer::messages::{self, READ};
use super::reader::leader_read_index;
use crate::clock::{self, UnixMs};
use crate::machine::spawn_blocking;
use crate::store::{Answer, LogId, Query};

/// Between two attempts to find a leader that answers.
const RETRY_PAUSE: Duration = Duration::from_millis(10);
/// A leader's own apply may take this long.
const APPLY_MAX: Duration = Duration::from_secs(1);
/// One question, with the confirmation of the leader and a long query.
const QUESTION_MAX: Duration = Duration::from_secs(4);

/// A connection to the node that leads, kept while it is the same one.
#[derive(Default)]
pub(super) struct LeaderClient(Mutex<Option<(u64, PeerClient)>>);

impl LeaderClient {
    pub(super) fn to(&self, core: &Core, id: u64, addr: &str) -> PeerClient {
        let mut client = self.0.lock();
        match &*client {
            Some((known, client)) if *known == id => client.clone(),
            _ => {
                let new = PeerClient::new(core.local.clone(), id, addr.to_owned(), &core.tasks);
                *client = Some((id, new.clone()));
                new
            }
        }
    }
}

/// Has the leader answer a query, as long as a command is held. `by_clock`: a deadline that has come by the leader's
/// clock and not by the log time gives [`Answer::Due`].
pub(super) async fn ask(core: &Arc<Core>, query: &Query, by_clock: bool) -> Result<Answer, ReadError> {
    let deadline = clock::monotonic() + core.config.timing.hold_without_leader;
    let mut seen = core.leader_watch();
    loop {
        if core.stop_proposer.is_cancelled() {
            return Err(ReadError::ShuttingDown);
        }
        let leader = seen.borrow_and_update().clone();
        let answer = if leader.id == Some(core.local.node_id) {
            answer_here(core, query.clone(), by_clock).await.ok().flatten()
        } else {
            ask_there(core, &leader, query, by_clock).await?
        };
        if let Some(answer) = answer {
            return Ok(answer);
        }
        if clock::monotonic() >= deadline {
            return Err(ReadError::NoLeader);
        }
        tokio::select! {
            () = core.stop_proposer.cancelled() => {}
            _ = seen.changed() => {}
            () = sleep(RETRY_PAUSE) => {}
        }
    }
}

/// `None`: ask again. A leader that refuses (the answer is larger than a frame, it is of an older version) would do so again.
async fn ask_there(
    core: &Core,
    leader: &LeaderView,
    query: &Query,
    by_clock: bool,
) -> Result<Option<Answer>, ReadError> {
    let Some(id) = leader.id else { return Ok(None) };
    let client = core.remote.to(core, id, &leader.peer_addr);
    let asked = client.call(READ, messages::encode_read(query, by_clock));
    match timeout(QUESTION_MAX, asked).await {
        Ok(Ok(body)) => Ok(messages::decode_read_answer(body).ok().flatten()),
        Ok(Err(CallError::Refused(why))) => {
            tracing::debug!(%why, "the leader does not answer for this node");
            // At least what follows the last entry here.
            Err(ReadError::Behind { index: core.apply.applied_now().map_or(0, |at| at.index + 1) })
        }
        Ok(Err(_)) | Err(_) => Ok(None),
    }
}

/// Answers another node.
pub(super) async fn serve(core: &Arc<Core>, body: Bytes) -> Result<Bytes, String> {
    let (query, by_clock) = messages::decode_read(body).map_err(|error| error.to_string())?;
    messages::encode_read_answer(answer_here(core, query, by_clock).await?)
}

/// `None` if this node cannot confirm that it leads, or its state is behind as well.
async fn answer_here(core: &Arc<Core>, query: Query, by_clock: bool) -> Result<Option<Answer>, String> {
    let Some(index) = leader_read_index(core).await else { return Ok(None) };
    let mut applied = core.apply.applied();
    let reached = |at: &Option<LogId>| at.is_some_and(|at| at.index >= index.index);
    if !matches!(timeout(APPLY_MAX, applied.wait_for(reached)).await, Ok(Ok(_))) {
        return Ok(None);
    }
    let now = if by_clock { core.log_time() } else { UnixMs(0) };
    let store = core.store.clone();
    // Whatever it is: a short one is not worth a thread, but this path is rare.
    let answer =
        spawn_blocking(move || store.query_at(&query, now)).await.map_err(|error| error.to_string())?;
    answer.map(Some).map_err(|fatal| fatal.to_string())
}
