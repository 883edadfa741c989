//! The library's network over peer connections. Each client it asks for (replication, heartbeat, snapshot) gets a
//! connection of its own, so a long append or checkpoint never delays a heartbeat.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use openraft::errors::{NetworkError, RPCError, ReplicationClosed, StreamingError, Unreachable};
use openraft::network::{RPCOption, RaftNetworkFactory, RaftNetworkV2};
use openraft::raft::TransferLeaderResponse;
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, TransferLeaderRequest, VoteRequest,
    VoteResponse,
};
use openraft::type_config::alias::SnapshotOf;
use tokio::time::timeout;
use tokio_util::task::TaskTracker;

use super::super::codec::{self, DecodeError};
use super::super::confirm::Told;
use super::super::election_timeout::Answers;
use super::super::state_machine::Checkpoint;
use super::super::types::{Node, RaftVote, TypeConfig, from_raft, vote_from_raft, vote_to_raft};
use super::checkpoint::{Outgoing, send_checkpoint};
use super::client::{CallError, PeerClient};
use super::{Local, PeerClocks, Reach, messages};
use crate::clock;

/// An append may wait behind a stalled fsync of the follower for this long before it is sent again.
const APPEND_TIMEOUT: Duration = Duration::from_secs(4);

/// Makes clients for the library.
#[derive(Clone)]
pub(in crate::raft) struct NetworkFactory {
    pub(in crate::raft) local: Arc<Local>,
    pub(in crate::raft) clocks: Arc<PeerClocks>,
    pub(in crate::raft) outgoing: Arc<Outgoing>,
    pub(in crate::raft) told: Arc<Told>,
    pub(in crate::raft) reach: Arc<Reach>,
    pub(in crate::raft) answers: Arc<Answers>,
    pub(in crate::raft) tasks: TaskTracker,
}

impl NetworkFactory {
    pub(in crate::raft) fn new(local: Arc<Local>, outgoing: Arc<Outgoing>, tasks: TaskTracker) -> Self {
        let (clocks, told, reach, answers) = Default::default();
        Self { local, clocks, outgoing, told, reach, answers, tasks }
    }
}

impl RaftNetworkFactory<TypeConfig> for NetworkFactory {
    type Network = Network;

    async fn new_client(&mut self, target: u64, node: &Node) -> Network {
        Network {
            target,
            client: PeerClient::new(self.local.clone(), target, node.peer_addr.clone(), &self.tasks),
            clocks: self.clocks.clone(),
            outgoing: self.outgoing.clone(),
            told: self.told.clone(),
            reach: self.reach.clone(),
            answers: self.answers.clone(),
        }
    }
}

/// One client of the library to one peer.
pub(in crate::raft) struct Network {
    target: u64,
    client: PeerClient,
    clocks: Arc<PeerClocks>,
    outgoing: Arc<Outgoing>,
    told: Arc<Told>,
    reach: Arc<Reach>,
    answers: Arc<Answers>,
}

#[expect(clippy::needless_pass_by_value, reason = "for map_err; the library copies what it needs")]
fn rpc_error(error: CallError) -> RPCError<TypeConfig> {
    match error {
        // The library backs off from an unreachable peer and repeats at once after any other error.
        CallError::NotSent(_) => RPCError::Unreachable(Unreachable::new(&error)),
        CallError::Lost(_) | CallError::Refused(_) => RPCError::Network(NetworkError::new(&error)),
    }
}

/// A node that refuses an append (it starts, is in doubt, belongs to another cluster) refuses the next one as well: as
/// with one that cannot be reached, there is no hurry.
fn append_error(error: CallError) -> RPCError<TypeConfig> {
    match error {
        CallError::Refused(_) => RPCError::Unreachable(Unreachable::new(&error)),
        other => rpc_error(other),
    }
}

#[expect(clippy::needless_pass_by_value, reason = "for map_err; the library copies what it needs")]
fn decode_error(error: DecodeError) -> RPCError<TypeConfig> {
    RPCError::Network(NetworkError::new(&error))
}

impl Network {
    async fn call(&self, kind: u8, body: Bytes, limit: Duration) -> Result<Bytes, RPCError<TypeConfig>> {
        let begin = clock::monotonic();
        let result = timeout(limit, self.client.call(kind, body)).await;
        match &result {
            Ok(Err(CallError::NotSent(_))) => {}
            _ => self.answers.note(clock::monotonic().saturating_duration_since(begin)),
        }
        match result {
            Ok(result) => result.map_err(rpc_error),
            Err(_) => Err(rpc_error(CallError::Lost(format!("no answer within {} ms", limit.as_millis())))),
        }
    }
}

impl RaftNetworkV2<TypeConfig> for Network {
    type SnapshotData = Checkpoint;

    async fn append_entries(
        &mut self,
        rpc: AppendEntriesRequest<TypeConfig>,
        _option: RPCOption,
    ) -> Result<AppendEntriesResponse<TypeConfig>, RPCError<TypeConfig>> {
        if let Some(commit) = &rpc.leader_commit {
            self.told.commit(commit.index);
        }
        let (sent_at, begin) = (clock::wall(), clock::monotonic());
        let call = self.client.call(messages::APPEND, messages::encode_append(&rpc));
        let answer = timeout(APPEND_TIMEOUT, call)
            .await
            .unwrap_or_else(|_| Err(CallError::Lost(format!("no answer within {APPEND_TIMEOUT:?}"))));
        self.reach.note(self.target, answer.as_ref().map(drop).map_err(|error| error as _));
        let body = answer.map_err(append_error)?;
        self.answers.note(clock::monotonic().saturating_duration_since(begin));
        let (answer, peer_wall_ms) = messages::decode_append_answer(body).map_err(decode_error)?;
        let half_way = sent_at.0.midpoint(clock::wall().0);
        self.clocks.note(self.target, peer_wall_ms.cast_signed().saturating_sub(half_way.cast_signed()));
        Ok(answer)
    }

    async fn vote(
        &mut self,
        rpc: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RPCError<TypeConfig>> {
        let body = self.call(messages::VOTE, messages::encode_vote(&rpc), option.hard_ttl()).await?;
        messages::decode_vote_answer(body).map_err(decode_error)
    }

    async fn pre_vote(
        &mut self,
        rpc: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RPCError<TypeConfig>> {
        let body = self.call(messages::PRE_VOTE, messages::encode_vote(&rpc), option.hard_ttl()).await;
        match body {
            Ok(body) => messages::decode_vote_answer(body).map_err(decode_error),
            // The library counts "unreachable" as a grant; a dead peer must not grant anything.
            Err(RPCError::Unreachable(error)) => Err(RPCError::Network(NetworkError::new(&error))),
            Err(other) => Err(other),
        }
    }

    async fn full_snapshot(
        &mut self,
        vote: RaftVote,
        snapshot: SnapshotOf<TypeConfig, Checkpoint>,
        cancel: impl Future<Output = ReplicationClosed> + Send + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<TypeConfig>, StreamingError<TypeConfig>> {
        let at_least = snapshot.meta.last_log_id.as_ref().map(from_raft);
        let send = send_checkpoint(&self.client, &self.outgoing, vote_from_raft(&vote), at_least);
        tokio::select! {
            closed = cancel => Err(StreamingError::Closed(closed)),
            result = send => match result {
                Ok(vote) => Ok(SnapshotResponse::new(vote_to_raft(vote))),
                Err(error) => {
                    tracing::warn!(peer = %super::client::id_text(self.target), %error, "checkpoint not sent");
                    Err(StreamingError::Unreachable(Unreachable::new(&error)))
                }
            }
        }
    }

    async fn transfer_leader(
        &mut self,
        request: TransferLeaderRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<TransferLeaderResponse<TypeConfig>, RPCError<TypeConfig>> {
        let mut out = bytes::BytesMut::new();
        codec::put_vote(&mut out, vote_from_raft(request.from_leader()));
        bytes::BufMut::put_u64_le(&mut out, *request.to_node_id());
        codec::put_optional_log_id(&mut out, request.last_log_id().map(from_raft));
        self.call(messages::TRANSFER, out.freeze(), option.hard_ttl()).await?;
        Ok(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_library_backs_off_from_a_peer_that_refuses_appends() {
        let unreachable = |error| matches!(append_error(error), RPCError::Unreachable(_));
        assert!(unreachable(CallError::Refused("not now".into())));
        assert!(unreachable(CallError::NotSent("gone".into())));
        assert!(!unreachable(CallError::Lost("broken".into())));
    }
}
