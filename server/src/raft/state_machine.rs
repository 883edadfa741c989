//! `RaftStateMachine` over the apply thread.
//!
//! The library's "snapshot" is our checkpoint, and it is lazy: [`StateMachine::get_current_snapshot`] only names a
//! position that is durable; the files are linked when a peer is really sent one (`peer::checkpoint`), at a position
//! that may be later. That is what purging needs: a position that is on disk, not a copy of the state.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{FutureExt, Stream, StreamExt};
use openraft::storage::{EntryResponder, RaftSnapshotBuilder, RaftStateMachine, Snapshot};
use openraft::{EntryPayload, OptionalSend};
use parking_lot::Mutex;

use super::apply::{ApplyHandle, Position};
use super::codec;
use super::peer::checkpoint::Received;
use super::types::{
    Applied, Entry, Members, RaftLogId, RaftSnapshotMeta, RaftStoredMembership, TypeConfig, from_raft,
    stored_membership, to_raft,
};
use crate::clock;
use crate::store::{Committed, Fatal, LogId, Store};

/// Entries and bytes handed to the apply thread at once.
const CHUNK_ENTRIES_MAX: usize = 1024;
/// Between two looks at a flush that has failed.
const LOOK_AFTER_FLUSH: Duration = Duration::from_secs(1);
const CHUNK_BYTES_MAX: usize = 4 * 1024 * 1024;

/// What stands for a snapshot in the library's hands.
#[derive(Debug)]
pub(super) enum Checkpoint {
    /// Can be linked from the local state at any time.
    Local,
    /// Received from a peer, complete and verified, in this directory.
    Received(Received),
}

/// The library's view of the state.
pub(super) struct StateMachine {
    apply: ApplyHandle,
    store: Arc<Store>,
    position: Position,
    reported: Arc<Mutex<Position>>,
}

fn io_error(fatal: Fatal) -> io::Error {
    io::Error::other(fatal)
}

fn membership(stored: Option<&(LogId, Bytes)>) -> io::Result<RaftStoredMembership> {
    let result = match stored {
        None => stored_membership(None, &Members::default()),
        Some((id, bytes)) => stored_membership(Some(*id), &codec::decode_members(bytes.clone())?),
    };
    result.map_err(io::Error::other)
}

fn snapshot_meta(position: &Position) -> io::Result<RaftSnapshotMeta> {
    Ok(RaftSnapshotMeta {
        last_log_id: position.0.map(to_raft),
        last_membership: membership(position.1.as_ref())?,
    })
}

impl StateMachine {
    /// `position` is what the store had at open, which is durable by definition.
    pub(super) fn new(apply: ApplyHandle, store: Arc<Store>, position: Position) -> Self {
        Self { apply, store, reported: Arc::new(Mutex::new(position.clone())), position }
    }

    fn note(&mut self, entry: &Entry) {
        self.position.0 = Some(from_raft(&entry.log_id));
        if let EntryPayload::Membership(m) = &entry.payload {
            let bytes = codec::encode_members(&Members::from_raft(m));
            self.position.1 = Some((from_raft(&entry.log_id), bytes));
        }
    }
}

impl RaftStateMachine<TypeConfig> for StateMachine {
    type SnapshotData = Checkpoint;
    type SnapshotBuilder = Builder;

    async fn applied_state(&mut self) -> Result<(Option<RaftLogId>, RaftStoredMembership), io::Error> {
        Ok((self.position.0.map(to_raft), membership(self.position.1.as_ref())?))
    }

    async fn apply<Strm>(&mut self, mut entries: Strm) -> Result<(), io::Error>
    where
        Strm: Stream<Item = Result<EntryResponder<TypeConfig>, io::Error>> + Unpin + OptionalSend,
    {
        while let Some(first) = entries.next().await {
            let mut next = Some(first);
            let (mut chunk, mut responders, mut size_bytes) = (Vec::new(), Vec::new(), 0);
            while let Some(item) = next {
                let (entry, responder) = item?;
                self.note(&entry);
                if let EntryPayload::Normal(data) = &entry.payload {
                    size_bytes += data.0.len();
                }
                chunk.push(Committed { id: from_raft(&entry.log_id), payload: codec::store_payload(&entry) });
                responders.push(responder);
                let full = chunk.len() >= CHUNK_ENTRIES_MAX || size_bytes >= CHUNK_BYTES_MAX;
                // Only what is ready: a chunk never waits for more.
                next = if full { None } else { entries.next().now_or_never().flatten() };
            }
            let outcomes = self.apply.apply(chunk).await.map_err(io_error)?;
            for (responder, outcomes) in responders.into_iter().zip(outcomes) {
                if let Some(responder) = responder {
                    responder.send(Applied(outcomes));
                }
            }
        }
        Ok(())
    }

    async fn try_create_snapshot_builder(&mut self, _force: bool) -> Option<Builder> {
        Some(self.get_snapshot_builder().await)
    }

    async fn get_snapshot_builder(&mut self) -> Builder {
        Builder { apply: self.apply.clone(), store: self.store.clone(), reported: self.reported.clone() }
    }

    async fn install_snapshot(&mut self, meta: &RaftSnapshotMeta, data: Checkpoint) -> Result<(), io::Error> {
        let Checkpoint::Received(received) = data else {
            // The local position is never ahead of the local state, so the library has nothing to install from it.
            return Err(io::Error::other("asked to install the local state over itself"));
        };
        let position = self.apply.install(received.dir().to_owned()).await.map_err(io_error)?;
        crash_point!("installed-log-not-reset");
        if position.0 != meta.last_log_id.as_ref().map(from_raft) {
            return Err(io::Error::other(
                "the installed checkpoint is not at the position it was announced for",
            ));
        }
        self.position = position.clone();
        *self.reported.lock() = position;
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<Snapshot4>, io::Error> {
        let reported = self.reported.lock().clone();
        if reported.0.is_none() {
            return Ok(None);
        }
        Ok(Some(Snapshot { meta: snapshot_meta(&reported)?, snapshot: Checkpoint::Local }))
    }
}

type Snapshot4 = openraft::type_config::alias::SnapshotOf<TypeConfig, Checkpoint>;

/// A checkpoint may have been installed while the flush ran; what is reported never goes back behind it, or the library
/// would take a peer that was sent a checkpoint to be where the log is already purged.
fn raise(reported: &mut Position, to: &Position) {
    if reported.0 < to.0 {
        reported.clone_from(to);
    }
}

/// Makes the state durable and reports how far it reaches.
pub(super) struct Builder {
    apply: ApplyHandle,
    store: Arc<Store>,
    reported: Arc<Mutex<Position>>,
}

impl RaftSnapshotBuilder<TypeConfig> for Builder {
    type SnapshotData = Checkpoint;

    async fn build_snapshot(&mut self) -> Result<Snapshot4, io::Error> {
        if planted!("purge-before-flush") {
            let position = (self.store.applied(), self.reported.lock().1.clone());
            raise(&mut self.reported.lock(), &position);
            return Ok(Snapshot { meta: snapshot_meta(&position)?, snapshot: Checkpoint::Local });
        }
        let position = self.apply.flush().await.map_err(io_error)?;
        let mut poll = tokio::time::interval(Duration::from_millis(5));
        // The flush runs in the engine's own threads; its end is seen as a position.
        let mut looked = clock::monotonic();
        while self.store.durable() < position.0 {
            poll.tick().await;
            if self.store.disk_error().is_some()
                && clock::monotonic().duration_since(looked) >= LOOK_AFTER_FLUSH
            {
                // Want of space is waited for; any other failure ends the node here, not at some later flush.
                self.apply.check_flush().await.map_err(io_error)?;
                looked = clock::monotonic();
            }
        }
        raise(&mut self.reported.lock(), &position);
        Ok(Snapshot { meta: snapshot_meta(&position)?, snapshot: Checkpoint::Local })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reported_position_never_goes_back() {
        let at = |index| -> Position { (Some(LogId { term: 1, node: 1, index }), None) };
        let mut reported = at(10);
        raise(&mut reported, &at(5));
        assert_eq!(reported, at(10));
        raise(&mut reported, &at(11));
        assert_eq!(reported, at(11));
    }
}
