//! Versioned bytes of entries, memberships and peer messages. Little-endian; every length is checked against the
//! bytes that are really there, so nothing is allocated by an announced length.
//!
//! ```text
//! entry in the log    kind u8 (0 blank, 1 membership, 2 batch) | body
//! membership (kind 1) version u8 = 1 | configs u8 | per config: ids u16, id u64 .. | nodes u16 |
//!                     per node: id u64, flags u8 (bit 0 wants vote), addr u16+utf8, peer addr u16+utf8
//! log id              term u64 | node u64 | index u64            optional values: present u8 (0, 1) before them
//! vote                term u64 | node u64 | committed u8
//! ```

use bytes::{Buf, BufMut, Bytes, BytesMut};
use openraft::EntryPayload;

use super::log::{LogEntry, Vote};
use super::types::{Entry, EntryData, Members, Node, from_raft, to_raft};
use crate::store::{LogId, Payload};

pub(super) const ENTRY_BLANK: u8 = 0;
pub(super) const ENTRY_MEMBERSHIP: u8 = 1;
pub(super) const ENTRY_BATCH: u8 = 2;
const MEMBERSHIP_VERSION: u8 = 1;

/// Bytes that are not what this version understands.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("decode {what}: {problem}")]
pub(super) struct DecodeError {
    pub(super) what: &'static str,
    pub(super) problem: String,
}

impl From<DecodeError> for std::io::Error {
    fn from(error: DecodeError) -> Self {
        std::io::Error::new(std::io::ErrorKind::InvalidData, error)
    }
}

/// Reads fields off the front of a message.
pub(super) struct Reader {
    what: &'static str,
    bytes: Bytes,
}

impl Reader {
    pub(super) fn new(what: &'static str, bytes: Bytes) -> Self {
        Self { what, bytes }
    }

    pub(super) fn error(&self, problem: impl Into<String>) -> DecodeError {
        DecodeError { what: self.what, problem: problem.into() }
    }

    fn need(&self, count: usize) -> Result<(), DecodeError> {
        if self.bytes.len() < count {
            return Err(self.error(format!("{count} bytes expected, {} left", self.bytes.len())));
        }
        Ok(())
    }

    pub(super) fn u8(&mut self) -> Result<u8, DecodeError> {
        self.need(1)?;
        Ok(self.bytes.get_u8())
    }

    pub(super) fn u16(&mut self) -> Result<u16, DecodeError> {
        self.need(2)?;
        Ok(self.bytes.get_u16_le())
    }

    pub(super) fn u32(&mut self) -> Result<u32, DecodeError> {
        self.need(4)?;
        Ok(self.bytes.get_u32_le())
    }

    pub(super) fn u64(&mut self) -> Result<u64, DecodeError> {
        self.need(8)?;
        Ok(self.bytes.get_u64_le())
    }

    pub(super) fn bytes(&mut self, count: usize) -> Result<Bytes, DecodeError> {
        self.need(count)?;
        Ok(self.bytes.split_to(count))
    }

    pub(super) fn blob(&mut self) -> Result<Bytes, DecodeError> {
        let count = self.u32()? as usize;
        self.bytes(count)
    }

    pub(super) fn text(&mut self) -> Result<String, DecodeError> {
        let count = self.u16()? as usize;
        let bytes = self.bytes(count)?;
        String::from_utf8(bytes.to_vec()).map_err(|_| self.error("text is not UTF-8"))
    }

    pub(super) fn optional<T>(
        &mut self,
        read: impl FnOnce(&mut Self) -> Result<T, DecodeError>,
    ) -> Result<Option<T>, DecodeError> {
        match self.u8()? {
            0 => Ok(None),
            1 => read(self).map(Some),
            other => Err(self.error(format!("presence byte {other}"))),
        }
    }

    pub(super) fn log_id(&mut self) -> Result<LogId, DecodeError> {
        Ok(LogId { term: self.u64()?, node: self.u64()?, index: self.u64()? })
    }

    pub(super) fn vote(&mut self) -> Result<Vote, DecodeError> {
        Ok(Vote { term: self.u64()?, node: self.u64()?, committed: self.u8()? != 0 })
    }

    pub(super) fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    pub(super) fn rest(self) -> Bytes {
        self.bytes
    }

    pub(super) fn end(self) -> Result<(), DecodeError> {
        if self.bytes.is_empty() {
            Ok(())
        } else {
            Err(self.error(format!("{} bytes too many", self.bytes.len())))
        }
    }
}

pub(super) fn put_log_id(out: &mut BytesMut, id: LogId) {
    out.put_u64_le(id.term);
    out.put_u64_le(id.node);
    out.put_u64_le(id.index);
}

pub(super) fn put_optional_log_id(out: &mut BytesMut, id: Option<LogId>) {
    match id {
        None => out.put_u8(0),
        Some(id) => {
            out.put_u8(1);
            put_log_id(out, id);
        }
    }
}

pub(super) fn put_vote(out: &mut BytesMut, vote: Vote) {
    out.put_u64_le(vote.term);
    out.put_u64_le(vote.node);
    out.put_u8(u8::from(vote.committed));
}

/// Writes a text of at most 65,535 bytes; longer ones are cut at a character boundary (only error texts are that long).
pub(super) fn put_text(out: &mut BytesMut, text: &str) {
    let mut end = text.len().min(usize::from(u16::MAX));
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    out.put_u16_le(u16::try_from(end).unwrap_or(u16::MAX));
    out.put_slice(&text.as_bytes()[..end]);
}

pub(super) fn put_blob(out: &mut BytesMut, bytes: &[u8]) {
    out.put_u32_le(u32::try_from(bytes.len()).unwrap_or(u32::MAX));
    out.put_slice(bytes);
}

pub(super) fn encode_members(members: &Members) -> Bytes {
    let mut out = BytesMut::with_capacity(64 + members.nodes.len() * 64);
    out.put_u8(MEMBERSHIP_VERSION);
    out.put_u8(u8::try_from(members.configs.len()).unwrap_or(u8::MAX));
    for config in &members.configs {
        out.put_u16_le(u16::try_from(config.len()).unwrap_or(u16::MAX));
        for id in config {
            out.put_u64_le(*id);
        }
    }
    out.put_u16_le(u16::try_from(members.nodes.len()).unwrap_or(u16::MAX));
    for (id, node) in &members.nodes {
        out.put_u64_le(*id);
        out.put_u8(u8::from(node.wants_vote));
        put_text(&mut out, &node.addr);
        put_text(&mut out, &node.peer_addr);
    }
    out.freeze()
}

pub(super) fn decode_members(bytes: Bytes) -> Result<Members, DecodeError> {
    let mut reader = Reader::new("membership", bytes);
    let version = reader.u8()?;
    if version != MEMBERSHIP_VERSION {
        return Err(reader.error(format!("version {version} is newer than this program understands")));
    }
    let mut members = Members::default();
    for _ in 0..reader.u8()? {
        let count = reader.u16()?;
        let mut config = Vec::new();
        for _ in 0..count {
            config.push(reader.u64()?);
        }
        members.configs.push(config);
    }
    for _ in 0..reader.u16()? {
        let id = reader.u64()?;
        let wants_vote = reader.u8()? & 1 == 1;
        let node = Node { addr: reader.text()?, peer_addr: reader.text()?, wants_vote };
        members.nodes.insert(id, node);
    }
    reader.end()?;
    Ok(members)
}

/// An entry's bytes in the log and on the wire.
pub(super) fn entry_bytes(entry: &Entry) -> Bytes {
    match &entry.payload {
        EntryPayload::Blank => Bytes::from_static(&[ENTRY_BLANK]),
        EntryPayload::Normal(data) => data.0.clone(),
        EntryPayload::Membership(membership) => {
            let members = encode_members(&Members::from_raft(membership));
            let mut out = BytesMut::with_capacity(1 + members.len());
            out.put_u8(ENTRY_MEMBERSHIP);
            out.put_slice(&members);
            out.freeze()
        }
    }
}

pub(super) fn encode_entry(entry: &Entry) -> LogEntry {
    LogEntry { id: from_raft(&entry.log_id), bytes: entry_bytes(entry) }
}

pub(super) fn decode_entry(id: LogId, bytes: Bytes) -> Result<Entry, DecodeError> {
    let payload = match bytes.first() {
        Some(&ENTRY_BLANK) => EntryPayload::Blank,
        Some(&ENTRY_BATCH) => EntryPayload::Normal(EntryData(bytes)),
        Some(&ENTRY_MEMBERSHIP) => {
            let members = decode_members(bytes.slice(1..))?.to_raft();
            EntryPayload::Membership(members.map_err(|problem| DecodeError { what: "membership", problem })?)
        }
        other => {
            let problem = format!("entry {id} has kind {other:?}, newer than this program understands");
            return Err(DecodeError { what: "log entry", problem });
        }
    };
    Ok(Entry { log_id: to_raft(id), payload })
}

/// The form in which the store takes an entry.
pub(super) fn store_payload(entry: &Entry) -> Payload {
    match &entry.payload {
        EntryPayload::Blank => Payload::Blank,
        EntryPayload::Normal(data) => Payload::Batch(data.0.slice(1..)),
        EntryPayload::Membership(membership) => {
            Payload::Membership(encode_members(&Members::from_raft(membership)))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Members {
        let node = |n: u64| Node {
            addr: format!("host-{n}:4920"),
            peer_addr: format!("host-{n}:14920"),
            wants_vote: n == 3,
        };
        Members { configs: vec![vec![1, 2], vec![1, 2, 3]], nodes: (1..=3).map(|n| (n, node(n))).collect() }
    }

    #[test]
    fn members_survive_the_round_trip() {
        assert_eq!(decode_members(encode_members(&sample())), Ok(sample()));
        assert_eq!(Members::from_raft(&sample().to_raft().unwrap()), sample());
    }

    /// These bytes are on disks and wires: they may only change together with the version byte.
    #[test]
    fn members_have_golden_bytes() {
        let one = Members {
            configs: vec![vec![7]],
            nodes: [(7, Node { addr: "a:1".into(), peer_addr: "b:2".into(), wants_vote: true })].into(),
        };
        let expected = b"\x01\x01\x01\0\x07\0\0\0\0\0\0\0\x01\0\x07\0\0\0\0\0\0\0\x01\x03\0a:1\x03\0b:2";
        assert_eq!(&encode_members(&one)[..], &expected[..]);
    }

    #[test]
    fn every_cut_is_refused() {
        let bytes = encode_members(&sample());
        for end in 0..bytes.len() {
            assert!(decode_members(bytes.slice(..end)).is_err(), "cut at {end}");
        }
        let mut longer = bytes.to_vec();
        longer.push(0);
        assert!(decode_members(longer.into()).is_err());
    }
}
