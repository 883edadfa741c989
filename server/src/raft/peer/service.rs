//! The peer listener: what other nodes ask of this one.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use openraft::errors::ClientWriteError;
use openraft::raft::{AppendEntriesResponse, TransferLeaderRequest};
use openraft::storage::Snapshot;
use tokio::io::AsyncWriteExt;
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::time::timeout;

use super::super::codec::{self, DecodeError, ENTRY_BATCH, Reader};
use super::super::core::Core;
use super::super::reader::leader_read_index;
use super::super::state_machine::Checkpoint;
use super::super::types::{
    Applied, EntryData, LeaderId, Members, RaftSnapshotMeta, Responder, TypeConfig, from_raft,
    stored_membership, to_raft, vote_from_raft, vote_to_raft,
};
use super::super::{confirm, divergence, doubt, members, remote};
use super::admission::{self, Caller, Rank};
use super::client::{id_text, write_whole};
use super::frame::{FRAME_BYTES_MAX, Frame, FrameReader, HELLO_BYTES_MAX, put_frame};
use super::messages::{
    self, ACCEPTED, ANSWER, Forward, Forwarded, HELLO, Hello, Introduction, NOT_ACCEPTED, REFUSED, WHOEVER,
    WORKING,
};
use super::transport::{Accepted, PeerWrite};
use super::{GROUP, PROTOCOL_VERSION};
use crate::clock;
use crate::machine::{TcpListener, TcpStream, spawn_blocking};
use crate::store::codec::{self as store_codec, BatchHead};
use crate::store::{Batch, Op};

/// Peer connections at once; a cluster of seven needs about forty.
const CONNECTIONS_MAX: usize = 512;
/// Requests of one connection in work.
const REQUESTS_MAX: usize = 1024;
/// A request that takes long is said to be worked at this often; a caller hangs up after five seconds of silence.
const WORKING_EVERY: Duration = Duration::from_secs(1);
const HELLO_TIMEOUT: Duration = Duration::from_secs(2);
/// A peer that does not take its answers for this long is cut off.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);
/// After a failed accept (out of file descriptors).
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Accepts peers until the node stops.
pub(in crate::raft) async fn serve(core: Arc<Core>, listener: TcpListener) {
    let permits = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let accepted = tokio::select! {
            () = core.stop_proposer.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        let (stream, from) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "peer connection not accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let Ok(permit) = permits.clone().try_acquire_owned() else {
            tracing::warn!(%from, "too many peer connections");
            continue;
        };
        let core_of_peer = core.clone();
        core.tasks.spawn(async move {
            let stop = core_of_peer.stop_proposer.clone();
            tokio::select! {
                () = stop.cancelled() => {}
                result = connection(core_of_peer, stream) => if let Err(error) = result {
                    tracing::debug!(%from, %error, "peer connection ended");
                }
            }
            drop(permit);
        });
    }
}

async fn connection(core: Arc<Core>, stream: TcpStream) -> io::Result<()> {
    let from = stream.peer_addr()?.ip();
    let mut frames = FrameReader::new(HELLO_BYTES_MAX);
    let greeting = async {
        let Some(mut accepted) = core.local.transport.accept(stream, from).await? else {
            return Ok(None);
        };
        let first = frames.next(&mut accepted.read).await?;
        io::Result::Ok(first.map(|first| (accepted, first)))
    };
    let Some((accepted, first)) = timeout(HELLO_TIMEOUT, greeting).await?? else { return Ok(()) };
    let Accepted { mut read, mut write, certificate } = accepted;
    let hello = match welcome(&core, first) {
        Ok(hello) if hello.to == WHOEVER => return introduce(&core, &mut write).await,
        Ok(hello) => hello,
        Err(problem) => return turn_away(&mut write, problem).await,
    };
    let mut caller = Caller::new(hello.from, certificate);
    match caller.rank(&core.local) {
        Rank::Impostor(why) => {
            core.local.refuse(from, &why);
            admission::ask_for(&core, hello.from);
            return turn_away(&mut write, why).await;
        }
        Rank::Member if core.local.cluster_id() == Some(hello.cluster_id) => core.local.saw(hello.from, from),
        Rank::Member | Rank::Unknown => {}
    }
    send_welcome(&mut write, ACCEPTED, "").await?;
    frames.raise_limit(FRAME_BYTES_MAX);
    let (answers, queue) = mpsc::channel::<(u8, u64, Bytes)>(REQUESTS_MAX);
    core.tasks.spawn(write_answers(write, queue));
    let open = Arc::new(Semaphore::new(REQUESTS_MAX));
    while let Some(frame) = frames.next(&mut read).await? {
        let Ok(permit) = open.clone().acquire_owned().await else { return Ok(()) };
        let rank = caller.rank(&core.local);
        let peer = Peer { core: core.clone(), from: caller.from, cluster_id: hello.cluster_id, rank };
        let (kind, id) = (frame.kind, frame.id);
        if kind == messages::CONFIRM {
            // Cheaper to answer than to spawn, and the leader's readers wait for it.
            let answer = match peer.confirm(frame.body) {
                Ok(body) => (kind | ANSWER, id, body),
                Err(problem) => (REFUSED, id, Bytes::from(problem)),
            };
            let _ = answers.send(answer).await;
            continue;
        }
        let work = peer.begin(frame).await;
        let answers = answers.clone();
        core.tasks.spawn(async move {
            let signs = answers.clone();
            let working = || {
                let signs = signs.clone();
                async move { signs.send((WORKING, id, Bytes::new())).await.is_ok() }
            };
            let takes_long = matches!(kind, messages::CHECKPOINT_BEGIN | messages::CHECKPOINT_END);
            let done = if takes_long { saying_so(work, WORKING_EVERY, working).await } else { work.await };
            let answer = match done {
                Ok(body) => (kind | ANSWER, id, body),
                Err(problem) => (REFUSED, id, Bytes::from(problem)),
            };
            // The connection may be gone; the peer then counts the request as lost.
            let _ = answers.send(answer).await;
            drop(permit);
        });
    }
    Ok(())
}

/// Does the work, and says every now and then that it goes on; no longer once nobody listens.
async fn saying_so<T, Said>(
    work: impl Future<Output = T>,
    every: Duration,
    mut say: impl FnMut() -> Said,
) -> T
where
    Said: Future<Output = bool>,
{
    tokio::pin!(work);
    loop {
        tokio::select! {
            done = &mut work => return done,
            () = tokio::time::sleep(every) => if !say().await {
                return work.await;
            }
        }
    }
}

fn welcome(core: &Core, frame: Frame) -> Result<Hello, String> {
    if frame.kind != HELLO {
        return Err("the first frame must be a hello".into());
    }
    let hello = Hello::decode(frame.body).map_err(|error| error.to_string())?;
    if hello.version != PROTOCOL_VERSION || hello.group != GROUP {
        return Err(format!(
            "this node speaks peer protocol {PROTOCOL_VERSION} for group {GROUP}, not {} for {}",
            hello.version, hello.group
        ));
    }
    if hello.to == WHOEVER {
        return Ok(hello);
    }
    if hello.to != core.local.node_id {
        return Err(format!(
            "node {} is at this address, not {}",
            id_text(core.local.node_id),
            id_text(hello.to)
        ));
    }
    match core.local.cluster_id() {
        Some(own) if own != hello.cluster_id => {
            Err(format!("this node belongs to cluster {}, not {}", id_text(own), id_text(hello.cluster_id)))
        }
        _ => Ok(hello),
    }
}

/// Says who this node is: what RAFTIDENTITY says at the client address, to those who may speak to this port.
async fn introduce(core: &Core, write: &mut PeerWrite) -> io::Result<()> {
    let introduction = Introduction {
        node_id: core.local.node_id,
        cluster_id: core.local.cluster_id(),
        addr: core.addr.clone(),
        peer_addr: core.peer_addr.clone(),
    };
    let mut out = BytesMut::new();
    put_frame(&mut out, HELLO | ANSWER, 0, &introduction.encode());
    write_whole(write, &out).await
}

/// Says why the caller is not welcome, and ends.
async fn turn_away(write: &mut PeerWrite, why: String) -> io::Result<()> {
    send_welcome(write, NOT_ACCEPTED, &why).await?;
    Err(io::Error::other(why))
}

async fn send_welcome(write: &mut PeerWrite, status: u8, text: &str) -> io::Result<()> {
    let mut body = BytesMut::new();
    body.put_u8(status);
    codec::put_text(&mut body, text);
    let mut out = BytesMut::new();
    put_frame(&mut out, HELLO | ANSWER, 0, &body);
    write_whole(write, &out).await
}

async fn write_answers(mut write: PeerWrite, mut queue: mpsc::Receiver<(u8, u64, Bytes)>) {
    let mut out = BytesMut::new();
    while let Some((kind, id, body)) = queue.recv().await {
        put_frame(&mut out, kind, id, &body);
        while let Ok((kind, id, body)) = queue.try_recv() {
            put_frame(&mut out, kind, id, &body);
        }
        if !matches!(timeout(WRITE_TIMEOUT, write_whole(&mut write, &out)).await, Ok(Ok(()))) {
            break;
        }
        out.clear();
    }
    // The half of a TLS connection says nothing when it is dropped. A peer that takes nothing is not waited for.
    let _ = timeout(HELLO_TIMEOUT, write.shutdown()).await;
}

type Work = futures_util::future::BoxFuture<'static, Result<Bytes, String>>;

/// One request's context.
struct Peer {
    core: Arc<Core>,
    from: u64,
    /// As the hello said; 0 = unformed.
    cluster_id: u64,
    rank: Rank,
}

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}

impl Peer {
    /// Does what must happen in the order of arrival, and returns the rest.
    async fn begin(self, frame: Frame) -> Work {
        let body = frame.body;
        if let Err(problem) = self.admit(frame.kind) {
            return Box::pin(async move { Err(problem) });
        }
        if frame.kind == messages::INVITE {
            return Box::pin(async move { self.invite(body) });
        }
        match frame.kind {
            messages::APPEND => Box::pin(self.append(body)),
            messages::VOTE => Box::pin(self.vote(body, false)),
            messages::PRE_VOTE => Box::pin(self.vote(body, true)),
            messages::TRANSFER => Box::pin(self.transfer(body)),
            messages::FORWARD => self.forward(body).await,
            messages::READ_INDEX => {
                Box::pin(async move { Ok(messages::encode_read_index(leader_read_index(&self.core).await)) })
            }
            messages::READ => Box::pin(async move { remote::serve(&self.core, body).await }),
            kind @ (messages::PUBLISH | messages::PUBLISH_TO_SHARD) => {
                // Here, not in the work that is returned: messages are delivered in the order of arrival.
                let delivered =
                    self.core.messages.arrived(kind == messages::PUBLISH_TO_SHARD, body).map_err(text);
                Box::pin(async move { delivered.map(|()| Bytes::new()) })
            }
            messages::QUESTION => {
                let answer = self.core.messages.answer(body).map_err(text);
                Box::pin(async move { answer })
            }
            messages::DIGESTS => Box::pin(async move { divergence::tell(&self.core, body).map_err(text) }),
            messages::DIVERGED => Box::pin(async move { divergence::hear(&self.core, self.from, body) }),
            messages::STANDING => Box::pin(async move { doubt::stand(&self.core, self.from, body).await }),
            messages::MEMBER => Box::pin(async move { members::serve_verb(&self.core, body).await }),
            messages::JOIN => Box::pin(async move { members::serve_join(&self.core, self.from, body).await }),
            messages::VOUCH => {
                Box::pin(async move { admission::answer(&self.core.local, body).map_err(text) })
            }
            messages::CHECKPOINT_BEGIN => Box::pin(self.checkpoint_begin(body)),
            messages::CHECKPOINT_CHUNK => self.checkpoint_chunk(body).await,
            messages::CHECKPOINT_END => Box::pin(self.checkpoint_end(body)),
            other => Box::pin(async move { Err(format!("unknown request kind {other}")) }),
        }
    }

    /// Whether this node may take part in what is asked.
    fn admit(&self, kind: u8) -> Result<(), String> {
        if let Err(problem) = self.rank.permits(kind, self.from) {
            admission::ask_for(&self.core, self.from);
            return Err(problem);
        }
        if kind == messages::INVITE {
            // It may be what makes this node part of a cluster.
            return Ok(());
        }
        // Compared with each request: a connection may be older than this node's cluster.
        if self.cluster_id == 0 || self.core.local.cluster_id() != Some(self.cluster_id) {
            return Err("this node is not part of that cluster".into());
        }
        let binding = matches!(
            kind,
            messages::APPEND
                | messages::VOTE
                | messages::PRE_VOTE
                | messages::TRANSFER
                | messages::CONFIRM
                | messages::CHECKPOINT_BEGIN
                | messages::CHECKPOINT_CHUNK
                | messages::CHECKPOINT_END
        );
        if binding && self.core.doubt.is_open() {
            return Err("this node may have lost entries and takes no part yet".into());
        }
        Ok(())
    }

    fn confirm(&self, body: Bytes) -> Result<Bytes, String> {
        self.admit(messages::CONFIRM)?;
        confirm::answer(&self.core, body).map_err(text)
    }

    async fn append(self, body: Bytes) -> Result<Bytes, String> {
        let request = messages::decode_append(body).map_err(text)?;
        let (term, came) = (request.vote.leader_id.term, clock::monotonic());
        let answer = self.core.raft.append_entries(request).await.map_err(text)?;
        if !matches!(answer, AppendEntriesResponse::HigherVote(_)) {
            self.core.heard.note();
            self.core.election_timeout.heard(term, came);
        }
        Ok(messages::encode_append_answer(&answer, clock::wall().0))
    }

    async fn vote(self, body: Bytes, pre_vote: bool) -> Result<Bytes, String> {
        let mut request = messages::decode_vote(body).map_err(text)?;
        // The library honours the lease of the leader unless the vote is for a hand-over.
        request.leadership_transfer |= planted!("lease-not-honoured");
        if !self.core.may_vote() && !request.leadership_transfer {
            return Err("restarted less than one lease ago".into());
        }
        if self.core.doubt.floor() > request.last_log_id.as_ref().map(from_raft) {
            return Err("the candidate's log is shorter than what another voter still has".into());
        }
        let raft = &self.core.raft;
        let answer = if pre_vote { raft.pre_vote(request).await } else { raft.vote(request).await };
        let answer = answer.map_err(text)?;
        crash_point!("vote-saved-not-sent", !pre_vote && answer.vote_granted);
        Ok(messages::encode_vote_answer(&answer))
    }

    async fn transfer(self, body: Bytes) -> Result<Bytes, String> {
        let decode = |body| -> Result<TransferLeaderRequest<TypeConfig>, DecodeError> {
            let mut reader = Reader::new("transfer request", body);
            let vote = vote_to_raft(reader.vote()?);
            let to = reader.u64()?;
            let last = reader.optional(Reader::log_id)?.map(to_raft);
            reader.end()?;
            Ok(TransferLeaderRequest::new(vote, to, last))
        };
        self.core.suspend_lease();
        self.core
            .raft
            .handle_transfer_leader(decode(body).map_err(text)?)
            .await
            .map_err(text)?
            .map_err(text)?;
        Ok(Bytes::new())
    }

    fn invite(&self, body: Bytes) -> Result<Bytes, String> {
        let id = Reader::new("invitation", body).u64().map_err(text)?;
        self.core.identity.adopt(id, false).map_err(text)?;
        crash_point!("invited-not-answered");
        self.core.local.set_cluster_id(id);
        Ok(Bytes::new())
    }

    /// Proposes a batch of another node, in this leader's term only. The proposal itself happens in order.
    async fn forward(self, body: Bytes) -> Work {
        let done = |answer: Forwarded| -> Work { Box::pin(async move { Ok(answer.encode()) }) };
        let (forward, batch) = match Forward::decode(body).map_err(text).and_then(|forward| {
            Batch::decode(forward.batch.clone()).map_err(text).map(|batch| (forward, batch))
        }) {
            Ok(decoded) => decoded,
            Err(problem) => return Box::pin(async move { Err(problem) }),
        };
        let core = &self.core;
        if forward.leader != core.local.node_id || !core.is_leader() || *core.hold_proposals.borrow() {
            return done(Forwarded::NotProposed);
        }
        if let Some(problem) = core.disk.full()
            && !batch.ops.iter().all(Op::frees_space)
        {
            return done(Forwarded::DiskFull(problem));
        }
        // Encoded anew, with this leader's log time; so only bytes that decode here get into the log.
        let head = BatchHead { at: core.log_time(), origin: batch.origin, sequence: batch.sequence };
        let mut out = BytesMut::with_capacity(64 + forward.batch.len());
        out.put_u8(ENTRY_BATCH);
        store_codec::encode_batch(head, batch.ops.iter(), &mut out);
        let (responder, answer) = Responder::new();
        let leader = LeaderId { term: forward.term, node_id: forward.leader };
        let sent = core.raft.write(EntryData(out.freeze())).with_leader(leader).responder(responder).await;
        if sent.is_err() {
            return done(Forwarded::Unknown);
        }
        Box::pin(async move {
            let answer = match answer.await {
                Ok(Ok(response)) => {
                    crash_point!("forward-committed-not-answered");
                    let Applied(outcomes) = response.data;
                    let mut out = BytesMut::new();
                    store_codec::encode_outcomes(&outcomes, &mut out);
                    Forwarded::Done(out.freeze())
                }
                Ok(Err(ClientWriteError::ForwardToLeader(_))) => Forwarded::NotProposed,
                Ok(Err(_)) | Err(_) => Forwarded::Unknown,
            };
            Ok(answer.encode())
        })
    }

    async fn checkpoint_begin(self, body: Bytes) -> Result<Bytes, String> {
        let from = self.from;
        let incoming = self.core.incoming.clone();
        spawn_blocking(move || incoming.counted(incoming.begin(from, body)))
            .await
            .map_err(text)?
            .map_err(text)
    }

    /// Chunks are written one after another, in the order of arrival.
    async fn checkpoint_chunk(self, body: Bytes) -> Work {
        let from = self.from;
        let incoming = self.core.incoming.clone();
        let (tx, rx) = oneshot::channel();
        let written = spawn_blocking(move || incoming.counted(incoming.chunk(from, body))).await;
        let result = written.map_err(text).and_then(|result| result.map_err(text));
        self.core.heard.note();
        let _ = tx.send(result);
        Box::pin(async move { rx.await.map_err(text)? })
    }

    async fn checkpoint_end(self, body: Bytes) -> Result<Bytes, String> {
        let from = self.from;
        let incoming = self.core.incoming.clone();
        let (vote, begin, received) =
            spawn_blocking(move || incoming.end(from, body)).await.map_err(text)?.map_err(text)?;
        let (membership_id, members) = match begin.membership {
            Some((id, bytes)) => (Some(id), codec::decode_members(bytes).map_err(text)?),
            None => (None, Members::default()),
        };
        let meta = RaftSnapshotMeta {
            last_log_id: Some(to_raft(begin.applied)),
            last_membership: stored_membership(membership_id, &members)?,
        };
        let snapshot = Snapshot { meta, snapshot: Checkpoint::Received(received) };
        let answer =
            self.core.raft.install_full_snapshot(vote_to_raft(vote), snapshot).await.map_err(text)?;
        let mut out = BytesMut::new();
        codec::put_vote(&mut out, vote_from_raft(&answer.vote));
        Ok(out.freeze())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn long_work_is_said_to_go_on_until_it_ends_or_nobody_listens() {
        for (listens, signs) in [(true, 3), (false, 1)] {
            let mut said = 0;
            let (tx, rx) = oneshot::channel();
            let mut tx = Some(tx);
            let say = || {
                said += 1;
                if said == signs {
                    let _ = tx.take().map(|tx| tx.send("done"));
                }
                std::future::ready(listens)
            };
            assert_eq!(saying_so(rx, Duration::from_millis(1), say).await, Ok("done"), "it is not given up");
            assert!(if listens { said >= signs } else { said == 1 }, "{said}");
        }
    }
}
