//! The fuzzer's way into what nodes say to each other.

use bytes::{Bytes, BytesMut};
use futures_util::FutureExt as _;

use super::broadcast::{decode_words, encode_words};
use super::codec;
use super::divergence::{decode_accusation, decode_digests, encode_accusation, encode_digests};
use super::doubt::Standing;
use super::members::Verb;
use super::peer::frame::{FrameReader, put_frame};
use super::peer::messages::{self, Forward, Forwarded, Hello, Introduction};
#[cfg(test)]
use crate::store::Digest;
use crate::store::LogId;

pub(crate) use super::log::fuzz::log_frames;

const FRAME_BYTES_MAX: usize = 4096;

/// Any bytes as a stream of frames; and a kind with any bytes as the body of one whose checksum fits.
pub(crate) fn peer_frames(data: &[u8]) {
    let _ = frames(data);
    let Some((kind, body)) = data.split_first().filter(|(_, body)| body.len() < FRAME_BYTES_MAX - 64) else {
        return;
    };
    let mut out = BytesMut::new();
    put_frame(&mut out, *kind, 7, body);
    let got = frames(&out).expect("a whole frame");
    assert!(got.len() == 1 && got[0] == (*kind, Bytes::copy_from_slice(body)));
    decode(*kind, &Bytes::copy_from_slice(body));
}

fn frames(mut bytes: &[u8]) -> std::io::Result<Vec<(u8, Bytes)>> {
    let mut reader = FrameReader::new(FRAME_BYTES_MAX);
    let mut got = Vec::new();
    while let Some(frame) = reader.next(&mut bytes).now_or_never().expect("a slice never waits")? {
        got.push((frame.kind, frame.body));
    }
    Ok(got)
}

/// The body as whatever it may be; what is understood is encoded to the same again.
fn decode(kind: u8, body: &Bytes) {
    if let Ok(hello) = Hello::decode(body.clone()) {
        assert_eq!(Hello::decode(hello.encode()), Ok(hello));
    }
    match kind {
        messages::APPEND => {
            if let Ok(request) = messages::decode_append(body.clone()) {
                let back = messages::decode_append(messages::encode_append(&request)).expect("encoded");
                assert_eq!(back.entries, request.entries);
            }
        }
        messages::VOTE | messages::PRE_VOTE => {
            if let Ok(request) = messages::decode_vote(body.clone()) {
                let back = messages::decode_vote(messages::encode_vote(&request)).expect("encoded");
                assert_eq!((back.vote, back.last_log_id), (request.vote, request.last_log_id));
            }
        }
        messages::FORWARD => {
            if let Ok(forward) = Forward::decode(body.clone()) {
                let _ = crate::store::Batch::decode(forward.batch);
            }
        }
        messages::READ_INDEX => {
            if let Ok(id) = messages::decode_read_index(body.clone()) {
                assert_eq!(messages::decode_read_index(messages::encode_read_index(id)), Ok(id));
            }
        }
        messages::READ => {
            if let Ok((query, by_clock)) = messages::decode_read(body.clone()) {
                let encoded = messages::encode_read(&query, by_clock);
                assert_eq!(messages::decode_read(encoded), Ok((query, by_clock)));
            }
        }
        messages::MEMBER | messages::JOIN => {
            if let Ok(verb) = Verb::decode(body.clone()) {
                assert_eq!(Verb::decode(verb.encode()), Ok(verb));
            }
        }
        messages::QUESTION => {
            if let Ok(words) = decode_words(body.clone()) {
                assert_eq!(encode_words(&words), *body);
            }
        }
        messages::DIGESTS => {
            if let Ok(digests) = decode_digests(body.clone()) {
                assert_eq!(encode_digests(&digests), *body);
            }
        }
        messages::DIVERGED => {
            if let Ok((node, right)) = decode_accusation(body.clone()) {
                assert_eq!(encode_accusation(node, &right), *body);
            }
        }
        messages::HELLO => {
            if let Ok(told) = Introduction::decode(body.clone()) {
                assert_eq!(Introduction::decode(told.encode()), Ok(told));
            }
        }
        _ => answers(body),
    }
}

/// What comes back, and what stands in entries and checkpoints.
fn answers(body: &Bytes) {
    let _ = messages::decode_append_answer(body.clone());
    let _ = messages::decode_vote_answer(body.clone());
    if let Ok(standing) = Standing::decode(body.clone()) {
        assert_eq!(Standing::decode(standing.encode()), Ok(standing));
    }
    if let Ok(answer) = Forwarded::decode(body.clone()) {
        assert_eq!(Forwarded::decode(answer.encode()), Ok(answer));
    }
    let _ = messages::decode_read_answer(body.clone());
    if let Ok(members) = codec::decode_members(body.clone()) {
        assert_eq!(codec::decode_members(codec::encode_members(&members)), Ok(members));
    }
    let _ = codec::decode_entry(LogId { term: 1, node: 2, index: 3 }, body.clone());
}

#[cfg(test)]
pub(crate) fn seeds() -> Vec<(&'static str, &'static str, Vec<u8>)> {
    let with_kind = |kind: u8, body: &[u8]| [&[kind][..], body].concat();
    let mut hello = BytesMut::new();
    put_frame(&mut hello, messages::HELLO, 0, &Hello::new(5, 6, 7).encode());
    let told = Introduction {
        node_id: 1,
        cluster_id: Some(2),
        addr: "a.example:1".into(),
        peer_addr: "a.example:2".into(),
    };
    let id = LogId { term: 3, node: 4, index: 5 };
    let members = super::types::Members {
        configs: vec![vec![1, 2]],
        nodes: [(1, super::types::Node { addr: "a:1".into(), peer_addr: "a:2".into(), wants_vote: true })]
            .into(),
    };
    let (addr, peer_addr) = ("a:1".to_owned(), "a:2".to_owned());
    let join = Verb::Join { addr, peer_addr, node_id: 1, wants_vote: true };
    let mut seeds = vec![
        ("peer_frames", "hello", hello.to_vec()),
        ("peer_frames", "introduction", with_kind(messages::HELLO, &told.encode())),
        (
            "peer_frames",
            "read_index",
            with_kind(messages::READ_INDEX, &messages::encode_read_index(Some(id))),
        ),
        ("peer_frames", "members", with_kind(99, &codec::encode_members(&members))),
        ("peer_frames", "verb", with_kind(messages::JOIN, &join.encode())),
        (
            "peer_frames",
            "question",
            with_kind(messages::QUESTION, &encode_words(&[Bytes::from_static(b"patterns")])),
        ),
        (
            "peer_frames",
            "digests",
            with_kind(messages::DIGESTS, &encode_digests(&[Digest { at: id, content: 6 }])),
        ),
        (
            "peer_frames",
            "accusation",
            with_kind(messages::DIVERGED, &encode_accusation(1, &[Digest { at: id, content: 6 }])),
        ),
        ("peer_frames", "append", with_kind(messages::APPEND, &append_seed())),
    ];
    seeds.extend(super::log::fuzz::seeds());
    seeds
}

#[cfg(test)]
fn append_seed() -> Bytes {
    use super::types::{TypeConfig, from_raft, to_raft, vote_to_raft};
    let id = |index| to_raft(LogId { term: 3, node: 4, index });
    let blank = codec::decode_entry(from_raft(&id(8)), Bytes::from_static(&[codec::ENTRY_BLANK])).unwrap();
    messages::encode_append(&openraft::raft::AppendEntriesRequest::<TypeConfig> {
        vote: vote_to_raft(super::log::Vote { term: 3, node: 4, committed: true }),
        prev_log_id: Some(id(7)),
        entries: vec![blank],
        leader_commit: None,
    })
}
