//! Bodies of the peer protocol's frames.

use bytes::{BufMut, Bytes, BytesMut};
use openraft::raft::{AppendEntriesRequest, AppendEntriesResponse, VoteRequest, VoteResponse};

use super::super::codec::{self, DecodeError, Reader};
use super::super::types::{RaftLogId, TypeConfig, from_raft, to_raft, vote_from_raft, vote_to_raft};
use super::frame::FRAME_BYTES_MAX;
use super::{GROUP, PROTOCOL_VERSION};
use crate::store::codec as store_codec;
use crate::store::{Answer, LogId, Outcome, Query};

pub(in crate::raft) const HELLO: u8 = 0;
pub(in crate::raft) const APPEND: u8 = 1;
pub(in crate::raft) const VOTE: u8 = 2;
pub(in crate::raft) const PRE_VOTE: u8 = 3;
pub(in crate::raft) const TRANSFER: u8 = 4;
pub(in crate::raft) const FORWARD: u8 = 5;
pub(in crate::raft) const READ_INDEX: u8 = 6;
pub(in crate::raft) const MEMBER: u8 = 7;
pub(in crate::raft) const CHECKPOINT_BEGIN: u8 = 8;
pub(in crate::raft) const CHECKPOINT_CHUNK: u8 = 9;
pub(in crate::raft) const CHECKPOINT_END: u8 = 10;
pub(in crate::raft) const INVITE: u8 = 11;
/// A node in doubt asks where the others stand (`doubt`).
pub(in crate::raft) const STANDING: u8 = 12;
/// A leader asks whether the receiver's vote is still for it (`confirm`).
pub(in crate::raft) const CONFIRM: u8 = 13;
/// A message for subscribers on the other node.
pub(in crate::raft) const PUBLISH: u8 = 14;
/// A membership verb as [`MEMBER`], run on the leader wherever that is: a node that asks to be taken in.
pub(in crate::raft) const JOIN: u8 = 15;
/// A message for subscribers of a shard channel on the other node.
pub(in crate::raft) const PUBLISH_TO_SHARD: u8 = 16;
/// Asks whether a node is a member, and where it is (`admission`).
pub(in crate::raft) const VOUCH: u8 = 17;
/// A question about what the other node has in memory only (`broadcast`).
pub(in crate::raft) const QUESTION: u8 = 18;
/// A leader asks for digests of the content (`divergence`).
pub(in crate::raft) const DIGESTS: u8 = 19;
/// A leader says that the receiver's content is not that of the majority (`divergence`).
pub(in crate::raft) const DIVERGED: u8 = 20;
/// A node whose state lags has the leader answer a query (`remote`).
pub(in crate::raft) const READ: u8 = 21;
/// Added to a request's kind in its answer.
pub(in crate::raft) const ANSWER: u8 = 0x80;
/// Kind of a frame that says: the request of this id is still being worked at. Not an answer.
pub(in crate::raft) const WORKING: u8 = 0xfe;
/// Kind of an answer that is an error text.
pub(in crate::raft) const REFUSED: u8 = 0xff;

/// `to` of a hello that asks who is there.
pub(in crate::raft) const WHOEVER: u64 = 0;

const MAGIC: &[u8] = b"kvnode-peer";

/// First message of a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::raft) struct Hello {
    pub(in crate::raft) version: u16,
    pub(in crate::raft) group: u32,
    pub(in crate::raft) cluster_id: u64,
    pub(in crate::raft) from: u64,
    pub(in crate::raft) to: u64,
}

impl Hello {
    pub(in crate::raft) fn new(cluster_id: u64, from: u64, to: u64) -> Self {
        Self { version: PROTOCOL_VERSION, group: GROUP, cluster_id, from, to }
    }

    pub(in crate::raft) fn encode(&self) -> Bytes {
        let mut out = BytesMut::with_capacity(48);
        out.put_slice(MAGIC);
        out.put_u16_le(self.version);
        out.put_u32_le(self.group);
        out.put_u64_le(self.cluster_id);
        out.put_u64_le(self.from);
        out.put_u64_le(self.to);
        out.freeze()
    }

    pub(in crate::raft) fn decode(body: Bytes) -> Result<Self, DecodeError> {
        let mut reader = Reader::new("peer hello", body);
        if reader.bytes(MAGIC.len())? != MAGIC {
            return Err(reader.error("not a kvnode peer"));
        }
        Ok(Self {
            version: reader.u16()?,
            group: reader.u32()?,
            cluster_id: reader.u64()?,
            from: reader.u64()?,
            to: reader.u64()?,
        })
    }
}

/// What a node says of itself to a hello that is for [`WHOEVER`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::raft) struct Introduction {
    pub(in crate::raft) node_id: u64,
    pub(in crate::raft) cluster_id: Option<u64>,
    pub(in crate::raft) addr: String,
    pub(in crate::raft) peer_addr: String,
}

/// First byte of the body of a welcome.
pub(in crate::raft) const ACCEPTED: u8 = 0;
pub(in crate::raft) const NOT_ACCEPTED: u8 = 1;
pub(in crate::raft) const INTRODUCED: u8 = 2;

impl Introduction {
    /// The whole body of the welcome.
    pub(in crate::raft) fn encode(&self) -> Bytes {
        let mut out = BytesMut::new();
        out.put_u8(INTRODUCED);
        codec::put_text(&mut out, "");
        out.put_u64_le(self.node_id);
        out.put_u64_le(self.cluster_id.unwrap_or(0));
        codec::put_text(&mut out, &self.addr);
        codec::put_text(&mut out, &self.peer_addr);
        out.freeze()
    }

    pub(in crate::raft) fn decode(body: Bytes) -> Result<Self, DecodeError> {
        let mut reader = Reader::new("introduction", body);
        if reader.u8()? != INTRODUCED {
            return Err(reader.error("the node there does not introduce itself"));
        }
        reader.text()?;
        let (node_id, cluster_id) = (reader.u64()?, reader.u64()?);
        let (addr, peer_addr) = (reader.text()?, reader.text()?);
        Ok(Self { node_id, cluster_id: Some(cluster_id).filter(|id| *id != 0), addr, peer_addr })
    }
}

pub(in crate::raft) fn encode_append(request: &AppendEntriesRequest<TypeConfig>) -> Bytes {
    let entries: Vec<_> = request.entries.iter().map(codec::encode_entry).collect();
    let size: usize = entries.iter().map(|entry| 28 + entry.bytes.len()).sum();
    let mut out = BytesMut::with_capacity(96 + size);
    codec::put_vote(&mut out, vote_from_raft(&request.vote));
    codec::put_optional_log_id(&mut out, request.prev_log_id.as_ref().map(from_raft));
    codec::put_optional_log_id(&mut out, request.leader_commit.as_ref().map(from_raft));
    out.put_u32_le(u32::try_from(entries.len()).unwrap_or(u32::MAX));
    for entry in &entries {
        codec::put_log_id(&mut out, entry.id);
        codec::put_blob(&mut out, &entry.bytes);
    }
    out.freeze()
}

pub(in crate::raft) fn decode_append(body: Bytes) -> Result<AppendEntriesRequest<TypeConfig>, DecodeError> {
    let mut reader = Reader::new("append request", body);
    let vote = vote_to_raft(reader.vote()?);
    let prev_log_id = reader.optional(Reader::log_id)?.map(to_raft);
    let leader_commit = reader.optional(Reader::log_id)?.map(to_raft);
    let mut entries = Vec::new();
    for _ in 0..reader.u32()? {
        let id = reader.log_id()?;
        let bytes = reader.blob()?;
        entries.push(codec::decode_entry(id, bytes)?);
    }
    reader.end()?;
    Ok(AppendEntriesRequest { vote, prev_log_id, entries, leader_commit })
}

/// Answer to an append: what Raft says, and the follower's wall clock.
pub(in crate::raft) fn encode_append_answer(
    answer: &AppendEntriesResponse<TypeConfig>,
    wall_ms: u64,
) -> Bytes {
    let mut out = BytesMut::with_capacity(48);
    match answer {
        AppendEntriesResponse::Success => out.put_u8(0),
        AppendEntriesResponse::PartialSuccess(matched) => {
            out.put_u8(1);
            codec::put_optional_log_id(&mut out, matched.as_ref().map(from_raft));
        }
        AppendEntriesResponse::Conflict => out.put_u8(2),
        AppendEntriesResponse::HigherVote(vote) => {
            out.put_u8(3);
            codec::put_vote(&mut out, vote_from_raft(vote));
        }
    }
    out.put_u64_le(wall_ms);
    out.freeze()
}

pub(in crate::raft) fn decode_append_answer(
    body: Bytes,
) -> Result<(AppendEntriesResponse<TypeConfig>, u64), DecodeError> {
    let mut reader = Reader::new("append answer", body);
    let answer = match reader.u8()? {
        0 => AppendEntriesResponse::Success,
        1 => AppendEntriesResponse::PartialSuccess(reader.optional(Reader::log_id)?.map(to_raft)),
        2 => AppendEntriesResponse::Conflict,
        3 => AppendEntriesResponse::HigherVote(vote_to_raft(reader.vote()?)),
        other => return Err(reader.error(format!("status {other}"))),
    };
    let wall_ms = reader.u64()?;
    reader.end()?;
    Ok((answer, wall_ms))
}

pub(in crate::raft) fn encode_vote(request: &VoteRequest<TypeConfig>) -> Bytes {
    let mut out = BytesMut::with_capacity(64);
    codec::put_vote(&mut out, vote_from_raft(&request.vote));
    codec::put_optional_log_id(&mut out, request.last_log_id.as_ref().map(from_raft));
    out.put_u8(u8::from(request.leadership_transfer));
    out.freeze()
}

pub(in crate::raft) fn decode_vote(body: Bytes) -> Result<VoteRequest<TypeConfig>, DecodeError> {
    let mut reader = Reader::new("vote request", body);
    let vote = vote_to_raft(reader.vote()?);
    let last_log_id = reader.optional(Reader::log_id)?.map(to_raft);
    let leadership_transfer = reader.u8()? != 0;
    reader.end()?;
    let mut request = VoteRequest::new(vote, last_log_id);
    request.leadership_transfer = leadership_transfer;
    Ok(request)
}

pub(in crate::raft) fn encode_vote_answer(answer: &VoteResponse<TypeConfig>) -> Bytes {
    let mut out = BytesMut::with_capacity(64);
    codec::put_vote(&mut out, vote_from_raft(&answer.vote));
    out.put_u8(u8::from(answer.vote_granted));
    codec::put_optional_log_id(&mut out, answer.last_log_id.as_ref().map(from_raft));
    out.freeze()
}

pub(in crate::raft) fn decode_vote_answer(body: Bytes) -> Result<VoteResponse<TypeConfig>, DecodeError> {
    let mut reader = Reader::new("vote answer", body);
    let vote = vote_to_raft(reader.vote()?);
    let granted = reader.u8()? != 0;
    let last: Option<RaftLogId> = reader.optional(Reader::log_id)?.map(to_raft);
    reader.end()?;
    Ok(VoteResponse::new(vote, last, granted))
}

/// What a follower asks the leader to propose: only in this term of this leader, so that a delayed frame can never be
/// proposed later.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::raft) struct Forward {
    pub(in crate::raft) term: u64,
    pub(in crate::raft) leader: u64,
    pub(in crate::raft) batch: Bytes,
}

impl Forward {
    pub(in crate::raft) fn encode(&self) -> Bytes {
        let mut out = BytesMut::with_capacity(16 + self.batch.len());
        out.put_u64_le(self.term);
        out.put_u64_le(self.leader);
        out.put_slice(&self.batch);
        out.freeze()
    }

    pub(in crate::raft) fn decode(body: Bytes) -> Result<Self, DecodeError> {
        let mut reader = Reader::new("forwarded batch", body);
        Ok(Self { term: reader.u64()?, leader: reader.u64()?, batch: reader.rest() })
    }
}

/// The leader's answer to a forwarded batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::raft) enum Forwarded {
    /// Applied; the encoded outcomes.
    Done(Bytes),
    /// Not proposed: the receiver does not lead in that term. Safe to send elsewhere.
    NotProposed,
    /// Not proposed: the leader's disk has no room for it.
    DiskFull(String),
    /// May or may not be applied.
    Unknown,
}

impl Forwarded {
    pub(in crate::raft) fn encode(&self) -> Bytes {
        let mut out = BytesMut::new();
        match self {
            Forwarded::Done(outcomes) => {
                out.put_u8(0);
                out.put_slice(outcomes);
            }
            Forwarded::NotProposed => out.put_u8(1),
            Forwarded::DiskFull(text) => {
                out.put_u8(2);
                codec::put_text(&mut out, text);
            }
            Forwarded::Unknown => out.put_u8(3),
        }
        out.freeze()
    }

    pub(in crate::raft) fn decode(body: Bytes) -> Result<Self, DecodeError> {
        let mut reader = Reader::new("answer to a forwarded batch", body);
        match reader.u8()? {
            0 => Ok(Forwarded::Done(reader.rest())),
            1 => Ok(Forwarded::NotProposed),
            2 => Ok(Forwarded::DiskFull(reader.text()?)),
            3 => Ok(Forwarded::Unknown),
            other => Err(reader.error(format!("status {other}"))),
        }
    }
}

/// Answer to `READ_INDEX`: the log id that the reader's apply must reach, or `None` when the receiver cannot confirm
/// that it leads.
pub(in crate::raft) fn encode_read_index(id: Option<LogId>) -> Bytes {
    let mut out = BytesMut::with_capacity(32);
    codec::put_optional_log_id(&mut out, id);
    out.freeze()
}

pub(in crate::raft) fn decode_read_index(body: Bytes) -> Result<Option<LogId>, DecodeError> {
    let mut reader = Reader::new("read index", body);
    let id = reader.optional(Reader::log_id)?;
    reader.end()?;
    Ok(id)
}

/// `READ`: whether the leader's clock counts u8, query.
pub(in crate::raft) fn encode_read(query: &Query, by_clock: bool) -> Bytes {
    let mut out = BytesMut::with_capacity(16 + query.size_bytes());
    out.put_u8(u8::from(by_clock));
    store_codec::encode_query(query, &mut out);
    out.freeze()
}

pub(in crate::raft) fn decode_read(body: Bytes) -> Result<(Query, bool), DecodeError> {
    let mut reader = Reader::new("read", body);
    let by_clock = reader.u8()? != 0;
    let query = store_codec::decode_query(&mut reader.rest());
    Ok((query.map_err(|error| unreadable("read", error))?, by_clock))
}

/// Answer to `READ`: one outcome, or none when the receiver cannot confirm that it leads.
///
/// # Errors
/// It is larger than a frame may be.
pub(in crate::raft) fn encode_read_answer(answer: Option<Answer>) -> Result<Bytes, String> {
    let mut out = BytesMut::new();
    let outcomes: Vec<Outcome> = answer.map(Outcome::Answer).into_iter().collect();
    store_codec::encode_outcomes(&outcomes, &mut out);
    // Room for the head.
    if out.len() + 64 > FRAME_BYTES_MAX {
        return Err(format!("the answer is too large for a frame: {} bytes", out.len()));
    }
    Ok(out.freeze())
}

pub(in crate::raft) fn decode_read_answer(mut body: Bytes) -> Result<Option<Answer>, DecodeError> {
    let what = "answer to a read";
    let outcomes = store_codec::decode_outcomes(&mut body).map_err(|error| unreadable(what, error))?;
    let mut outcomes = outcomes.into_iter();
    match (outcomes.next(), outcomes.next()) {
        (None, _) => Ok(None),
        (Some(Outcome::Answer(answer)), None) => Ok(Some(answer)),
        (Some(_), _) => Err(unreadable(what, "not one answer")),
    }
}

fn unreadable(what: &'static str, error: impl std::fmt::Display) -> DecodeError {
    Reader::new(what, Bytes::new()).error(error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_survive_the_round_trip() {
        let hello = Hello::new(5, 6, 7);
        assert_eq!(Hello::decode(hello.encode()), Ok(hello));
        let forward = Forward { term: 1, leader: 2, batch: Bytes::from_static(b"b") };
        assert_eq!(Forward::decode(forward.encode()), Ok(forward));
        let query = Query::Get { db: 1, key: Bytes::from_static(b"k") };
        assert_eq!(decode_read(encode_read(&query, true)), Ok((query, true)));
        for answer in [None, Some(Answer::Int(4))] {
            let encoded = encode_read_answer(answer.clone()).unwrap();
            assert_eq!(decode_read_answer(encoded), Ok(answer));
        }
        for answer in [
            Forwarded::Done(Bytes::from_static(b"o")),
            Forwarded::NotProposed,
            Forwarded::DiskFull("full".into()),
            Forwarded::Unknown,
        ] {
            assert_eq!(Forwarded::decode(answer.encode()), Ok(answer));
        }
        let id = LogId { term: 3, node: 4, index: 5 };
        assert_eq!(decode_read_index(encode_read_index(Some(id))), Ok(Some(id)));
        assert!(Hello::decode(Bytes::from_static(b"GET / HTTP/1.1\r\n")).is_err());
    }

    /// The handshake of version 1: later versions must understand it.
    #[test]
    fn the_hello_has_golden_bytes() {
        let expected = b"kvnode-peer\x01\0\0\0\0\0\x05\0\0\0\0\0\0\0\x06\0\0\0\0\0\0\0\x07\0\0\0\0\0\0\0";
        assert_eq!(&Hello::new(5, 6, 7).encode()[..], &expected[..]);
    }

    #[test]
    fn append_survives_the_round_trip() {
        let id = |index| to_raft(LogId { term: 3, node: 4, index });
        let blank =
            codec::decode_entry(from_raft(&id(8)), Bytes::from_static(&[codec::ENTRY_BLANK])).unwrap();
        let request = AppendEntriesRequest::<TypeConfig> {
            vote: vote_to_raft(super::super::super::log::Vote { term: 3, node: 4, committed: true }),
            prev_log_id: Some(id(7)),
            entries: vec![blank],
            leader_commit: None,
        };
        let back = decode_append(encode_append(&request)).unwrap();
        assert_eq!(back.vote, request.vote);
        assert_eq!(back.prev_log_id, request.prev_log_id);
        assert_eq!(back.entries, request.entries);
        let answer = AppendEntriesResponse::<TypeConfig>::PartialSuccess(Some(id(9)));
        assert_eq!(decode_append_answer(encode_append_answer(&answer, 42)).unwrap(), (answer, 42));
    }
}
