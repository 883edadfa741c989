//! What dispatch needs of the replicated group, as a trait: the running node gives a [`Group`], tests a scripted one.

use std::future::Future;

use bytes::Bytes;

use crate::clock::UnixMs;
use crate::config::Consistency;
use crate::raft::{Group, MemberError, ProposeError, ReadError, Stages, Status};
use crate::store::{Answer, Fatal, Op, Outcome, Query, Visible};

/// The replicated group and its local state. Semantics and errors are those of [`Group`].
pub trait Replica: Clone + Send + Sync + 'static {
    /// See [`Group::propose_timed`].
    fn propose(
        &self,
        ops: Vec<Op>,
    ) -> impl Future<Output = Result<(Vec<Outcome>, Stages), ProposeError>> + Send;
    /// See [`Group::read_barrier`].
    fn read_barrier(&self, level: Consistency) -> impl Future<Output = Result<(), ReadError>> + Send;
    /// See [`Group::brief_read_barrier`].
    fn brief_read_barrier(&self, level: Consistency) -> impl Future<Output = Result<(), ReadError>> + Send {
        self.read_barrier(level)
    }
    /// See [`Group::query_leader`].
    fn query_leader(
        &self,
        query: &Query,
        by_clock: bool,
    ) -> impl Future<Output = Result<Answer, ReadError>> + Send;
    /// See [`crate::store::Store::query_at`].
    ///
    /// # Errors
    /// [`Fatal`]: the node must stop.
    fn query(&self, query: &Query, now: UnixMs) -> Result<Answer, Fatal>;
    /// See [`crate::store::Store::log_time`].
    fn log_time(&self) -> UnixMs;
    /// What can be seen of a database ([`crate::store::Store::visible`]). No call for async code.
    ///
    /// # Errors
    /// [`Fatal`]: the node must stop.
    fn visible(&self, db: u8, seed: u64) -> Result<Visible, Fatal>;
    /// Bytes of the newest data on disk, about; `None` if the engine does not tell.
    fn data_bytes(&self) -> Option<u64>;
    /// Index of the last entry that is synced to the local log.
    fn synced_index(&self) -> Option<u64>;
    /// Bytes of the local log.
    fn log_bytes(&self) -> u64;
    /// Checkpoints sent to nodes that were too far behind.
    fn checkpoints_sent(&self) -> u64;
    /// See [`crate::store::Store::reaped`].
    fn expired_keys(&self) -> u64;
    /// See [`Group::broadcast`].
    fn broadcast(&self, to_shard: bool, channel: &Bytes, message: &Bytes);
    /// See [`Group::ask`].
    fn ask(&self, question: &[Bytes]) -> impl Future<Output = Vec<Vec<Bytes>>> + Send;
    /// See [`Group::status`].
    fn status(&self) -> Status;
    /// See [`Group::add_peer`].
    fn add_peer(&self, addr: String) -> impl Future<Output = Result<(), MemberError>> + Send;
    /// See [`Group::remove_peer`].
    fn remove_peer(&self, target: String) -> impl Future<Output = Result<(), MemberError>> + Send;
    /// See [`Group::transfer_leader`].
    fn transfer_leader(&self, to: Option<String>) -> impl Future<Output = Result<(), MemberError>> + Send;
    /// See [`Group::shrink_log`].
    fn shrink_log(&self) -> impl Future<Output = Result<(), MemberError>> + Send;
}

impl Replica for Group {
    async fn propose(&self, ops: Vec<Op>) -> Result<(Vec<Outcome>, Stages), ProposeError> {
        Group::propose_timed(self, ops).await
    }

    async fn read_barrier(&self, level: Consistency) -> Result<(), ReadError> {
        Group::read_barrier(self, level).await
    }

    async fn brief_read_barrier(&self, level: Consistency) -> Result<(), ReadError> {
        Group::brief_read_barrier(self, level).await
    }

    async fn query_leader(&self, query: &Query, by_clock: bool) -> Result<Answer, ReadError> {
        Group::query_leader(self, query, by_clock).await
    }

    fn query(&self, query: &Query, now: UnixMs) -> Result<Answer, Fatal> {
        self.store().query_at(query, now)
    }

    fn log_time(&self) -> UnixMs {
        self.store().log_time()
    }

    fn visible(&self, db: u8, seed: u64) -> Result<Visible, Fatal> {
        self.store().visible(db, seed)
    }

    fn data_bytes(&self) -> Option<u64> {
        self.store().engine_property("rocksdb.estimate-live-data-size")
    }

    fn synced_index(&self) -> Option<u64> {
        self.synced().map(|id| id.index)
    }

    fn log_bytes(&self) -> u64 {
        Group::log_bytes(self)
    }

    fn checkpoints_sent(&self) -> u64 {
        self.checkpoints().sent
    }

    fn expired_keys(&self) -> u64 {
        self.store().reaped()
    }

    fn broadcast(&self, to_shard: bool, channel: &Bytes, message: &Bytes) {
        Group::broadcast(self, to_shard, channel, message);
    }

    async fn ask(&self, question: &[Bytes]) -> Vec<Vec<Bytes>> {
        Group::ask(self, question).await
    }

    fn status(&self) -> Status {
        Group::status(self)
    }

    async fn add_peer(&self, addr: String) -> Result<(), MemberError> {
        Group::add_peer(self, addr, true, None).await
    }

    async fn remove_peer(&self, target: String) -> Result<(), MemberError> {
        Group::remove_peer(self, target, None).await
    }

    async fn transfer_leader(&self, to: Option<String>) -> Result<(), MemberError> {
        Group::transfer_leader(self, to).await
    }

    async fn shrink_log(&self) -> Result<(), MemberError> {
        Group::shrink_log(self).await
    }
}
