//! Frames: the unit that is checked, and batches of them: the unit that is kept or dropped.
//!
//! ```text
//! frame   crc32c u32 | body length u32 | kind u8 | 7 x 0 | body | 0..7 x 0      (little endian, starts at a multiple of 8)
//!         the crc covers: salt of the segment, offset of the frame in the file, then everything behind the crc field
//!
//! kind 1  ENTRY      term u64 | node u64 | index u64 | payload
//!      2  VOTE       flags u64 (1 = present, 2 = committed) | term u64 | node u64
//!      3  COMMITTED  id?
//!      4  TRUNCATE   id?              the last id that stays
//!      5  PURGE      id?
//!      6  CLEAN      -                the log was closed; counts only as the last frame of the log
//!      7  OPENED     -                takes the CLEAN mark back
//!      8  BATCH_END  start u64 | synced u64 | count u32 | crc32c u32
//!      9  SEAL       sequence of the next segment u64; stands alone, behind the last batch
//! id?     present u64 (0 or 1) | term u64 | node u64 | index u64
//! ```
//!
//! In the end of a batch, `start` is the offset of its first frame, `count` the number of frames before the end,
//! the crc that over their crc fields. `synced` is the offset up to which this file was known to be synced when the batch
//! was written: what tells a tail that a power cut tore (nothing behind it was written after a sync of it) from
//! damage of something that was durable.
//!
//! Salt and offset in the crc make a frame valid in one place of one file only: bytes of an older file in recycled blocks,
//! or a frame inside of a payload, are never taken for ours.

use std::io::IoSlice;

use bytes::Bytes;

use super::{LogEntry, Vote};
use crate::store::LogId;

pub(super) const HEAD_BYTES: usize = 16;
pub(super) const ENTRY_HEAD_BYTES: usize = 24;
const ID_BYTES: usize = 32;
const VOTE_BYTES: usize = 24;
const END_BYTES: usize = 24;
/// Size of a `BATCH_END` frame.
pub(super) const BATCH_END_BYTES: u64 = (HEAD_BYTES + END_BYTES) as u64;
/// Size of a SEAL frame.
pub(super) const SEAL_BYTES: u64 = (HEAD_BYTES + 8) as u64;
/// No log gets there. An index beyond it is no index, so counting on from one that was read cannot overflow.
pub(super) const INDEX_MAX: u64 = u64::MAX / 2;
/// Payloads from this size on are handed to the kernel where they are; smaller ones are copied next to their head.
const SHARE_BYTES_MIN: usize = 4096;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Kind {
    Entry = 1,
    Vote = 2,
    Committed = 3,
    Truncate = 4,
    Purge = 5,
    Clean = 6,
    Opened = 7,
    BatchEnd = 8,
    Seal = 9,
}

impl Kind {
    pub(super) fn from_u8(byte: u8) -> Option<Self> {
        Some(match byte {
            1 => Self::Entry,
            2 => Self::Vote,
            3 => Self::Committed,
            4 => Self::Truncate,
            5 => Self::Purge,
            6 => Self::Clean,
            7 => Self::Opened,
            8 => Self::BatchEnd,
            9 => Self::Seal,
            _ => return None,
        })
    }
}

/// Bytes that a frame with this body takes.
pub(super) fn frame_bytes(body: usize) -> u64 {
    (HEAD_BYTES + body.next_multiple_of(8)) as u64
}

/// Bytes that an entry takes, with its ids and head.
pub(super) fn entry_bytes(payload: usize) -> u64 {
    frame_bytes(ENTRY_HEAD_BYTES + payload)
}

/// Largest frame of those that are not entries.
pub(super) const CONTROL_BYTES_MAX: u64 = (HEAD_BYTES + ID_BYTES) as u64;

pub(super) fn put_id(out: &mut Vec<u8>, id: Option<LogId>) {
    let LogId { term, node, index } = id.unwrap_or_default();
    for word in [u64::from(id.is_some()), term, node, index] {
        out.extend_from_slice(&word.to_le_bytes());
    }
}

pub(super) fn put_vote(out: &mut Vec<u8>, vote: Option<Vote>) {
    let (flags, term, node) =
        vote.map_or((0, 0, 0), |vote| (1 | (u64::from(vote.committed) << 1), vote.term, vote.node));
    for word in [flags, term, node] {
        out.extend_from_slice(&word.to_le_bytes());
    }
}

/// The u64 at `at`; 0 behind the end (callers check lengths first).
pub(super) fn word(bytes: &[u8], at: usize) -> u64 {
    bytes.get(at..).and_then(<[u8]>::first_chunk).map_or(0, |chunk| u64::from_le_bytes(*chunk))
}

/// The u32 at `at`; 0 behind the end (callers check lengths first).
pub(super) fn half(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..).and_then(<[u8]>::first_chunk).map_or(0, |chunk| u32::from_le_bytes(*chunk))
}

/// Reads an optional id; `None` if the bytes are not one.
#[allow(clippy::option_option, reason = "outer: is it an id at all; inner: the optional id")]
pub(super) fn get_id(bytes: &[u8]) -> Option<Option<LogId>> {
    let id = LogId { term: word(bytes, 8), node: word(bytes, 16), index: word(bytes, 24) };
    match (bytes.len() >= ID_BYTES, word(bytes, 0)) {
        (true, 0) => Some(None),
        (true, 1) if id.index <= INDEX_MAX => Some(Some(id)),
        _ => None,
    }
}

/// Reads an optional vote; `None` if the bytes are not one.
#[allow(clippy::option_option, reason = "outer: is it a vote at all; inner: the optional vote")]
pub(super) fn get_vote(bytes: &[u8]) -> Option<Option<Vote>> {
    let flags = word(bytes, 0);
    let vote = Vote { term: word(bytes, 8), node: word(bytes, 16), committed: flags & 2 != 0 };
    match (bytes.len() >= VOTE_BYTES, flags) {
        (true, 0) => Some(None),
        (true, 1 | 3) => Some(Some(vote)),
        _ => None,
    }
}

fn crc_of(salt: u64, offset: u64, parts: &[&[u8]]) -> u32 {
    let crc = crc32c::crc32c(&salt.to_le_bytes());
    let crc = crc32c::crc32c_append(crc, &offset.to_le_bytes());
    parts.iter().fold(crc, |crc, part| crc32c::crc32c_append(crc, part))
}

/// A frame whose crc is right.
#[derive(Clone, Copy, Debug)]
pub(super) struct Frame<'a> {
    pub(super) kind: Kind,
    pub(super) body: &'a [u8],
    pub(super) crc: u32,
    /// Bytes from the start of this frame to the start of the next one.
    pub(super) bytes: usize,
}

impl<'a> Frame<'a> {
    /// Reads the frame at the start of `bytes`, which stands at `offset` of its file; says what is wrong with it.
    pub(super) fn decode(bytes: &'a [u8], offset: u64, salt: u64) -> Result<Self, &'static str> {
        let Some(head) = bytes.get(..HEAD_BYTES) else { return Err("the file ends inside of a frame head") };
        let length = half(head, 4) as usize;
        let Some(kind) = Kind::from_u8(head[8]) else { return Err("no frame") };
        let total = HEAD_BYTES + length.next_multiple_of(8);
        let Some(body) = bytes.get(HEAD_BYTES..HEAD_BYTES + length) else {
            return Err("the file ends inside of a frame");
        };
        let Some(pad) = bytes.get(HEAD_BYTES + length..total) else {
            return Err("the file ends inside of a frame");
        };
        let crc = half(head, 0);
        if crc != crc_of(salt, offset, &[&head[4..], body]) && !planted!("checksum-not-checked") {
            return Err("wrong checksum of a frame");
        }
        if pad.iter().any(|byte| *byte != 0) {
            return Err("bytes between two frames");
        }
        Ok(Self { kind, body, crc, bytes: total })
    }

    /// The id of an ENTRY.
    pub(super) fn entry_id(&self) -> Option<LogId> {
        (self.kind == Kind::Entry && self.body.len() >= ENTRY_HEAD_BYTES).then(|| LogId {
            term: word(self.body, 0),
            node: word(self.body, 8),
            index: word(self.body, 16),
        })
    }
}

/// What a `BATCH_END` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct BatchEnd {
    pub(super) start: u64,
    pub(super) synced: u64,
    pub(super) count: u32,
    pub(super) crc: u32,
}

impl BatchEnd {
    /// Reads the body of a `BATCH_END`.
    pub(super) fn decode(body: &[u8]) -> Option<Self> {
        (body.len() == END_BYTES).then(|| Self {
            start: word(body, 0),
            synced: word(body, 8),
            count: half(body, 16),
            crc: half(body, 20),
        })
    }

    /// Quick look whether a `BATCH_END` may stand here, before the crc is computed.
    pub(super) fn may_start(bytes: &[u8]) -> bool {
        bytes.len() as u64 >= BATCH_END_BYTES
            && bytes[8] == Kind::BatchEnd as u8
            && half(bytes, 4) as usize == END_BYTES
    }
}

enum Part {
    /// A range of the scratch buffer.
    Copied(usize, usize),
    Shared(Bytes),
}

/// Collects the frames of one batch at its place in the file.
pub(super) struct BatchEncoder {
    salt: u64,
    start: u64,
    at: u64,
    count: u32,
    crc: u32,
    scratch: Vec<u8>,
    parts: Vec<Part>,
}

impl BatchEncoder {
    /// An empty batch that will stand at `start` of the file with this salt.
    pub(super) fn new(salt: u64, start: u64) -> Self {
        Self { salt, start, at: start, count: 0, crc: 0, scratch: Vec::new(), parts: Vec::new() }
    }

    /// Offset behind the last frame.
    pub(super) fn end(&self) -> u64 {
        self.at
    }

    /// Frames so far.
    pub(super) fn count(&self) -> u32 {
        self.count
    }

    fn copy(&mut self, bytes: &[u8]) {
        let from = self.scratch.len();
        self.scratch.extend_from_slice(bytes);
        match self.parts.last_mut() {
            Some(Part::Copied(_, end)) if *end == from => *end = self.scratch.len(),
            _ => self.parts.push(Part::Copied(from, self.scratch.len())),
        }
    }

    pub(super) fn frame(&mut self, kind: Kind, fixed: &[u8], payload: &Bytes) {
        let length = fixed.len() + payload.len();
        // An entry is far smaller than 4 GiB (`RaftLog::append` refuses more), so the length fits.
        let mut head = [0; HEAD_BYTES];
        head[4..8].copy_from_slice(&u32::try_from(length).unwrap_or(u32::MAX).to_le_bytes());
        head[8] = kind as u8;
        let crc = crc_of(self.salt, self.at, &[&head[4..], fixed, payload]);
        head[..4].copy_from_slice(&crc.to_le_bytes());
        self.copy(&head);
        self.copy(fixed);
        if payload.len() >= SHARE_BYTES_MIN {
            self.parts.push(Part::Shared(payload.clone()));
        } else {
            self.copy(payload);
        }
        let pad = length.next_multiple_of(8) - length;
        if pad > 0 {
            self.copy(&[0; 8][..pad]);
        }
        self.at += frame_bytes(length);
        self.crc = crc32c::crc32c_append(self.crc, &crc.to_le_bytes());
        self.count += 1;
    }

    /// Adds an entry; returns the offset of its frame.
    pub(super) fn entry(&mut self, entry: &LogEntry) -> u64 {
        let offset = self.at;
        let mut fixed = [0; ENTRY_HEAD_BYTES];
        for (chunk, word) in fixed.chunks_exact_mut(8).zip([entry.id.term, entry.id.node, entry.id.index]) {
            chunk.copy_from_slice(&word.to_le_bytes());
        }
        self.frame(Kind::Entry, &fixed, &entry.bytes);
        offset
    }

    /// Adds a VOTE.
    pub(super) fn vote(&mut self, vote: Vote) {
        let mut body = Vec::with_capacity(VOTE_BYTES);
        put_vote(&mut body, Some(vote));
        self.frame(Kind::Vote, &body, &Bytes::new());
    }

    /// Adds a frame that holds an optional id.
    pub(super) fn id(&mut self, kind: Kind, id: Option<LogId>) {
        let mut body = Vec::with_capacity(ID_BYTES);
        put_id(&mut body, id);
        self.frame(kind, &body, &Bytes::new());
    }

    /// Adds a frame without a body.
    pub(super) fn mark(&mut self, kind: Kind) {
        self.frame(kind, &[], &Bytes::new());
    }

    /// Closes the batch: everything before `synced` is known to be on disk.
    pub(super) fn finish(&mut self, synced: u64) {
        let mut body = Vec::with_capacity(END_BYTES);
        body.extend_from_slice(&self.start.to_le_bytes());
        body.extend_from_slice(&synced.to_le_bytes());
        body.extend_from_slice(&self.count.to_le_bytes());
        body.extend_from_slice(&self.crc.to_le_bytes());
        self.frame(Kind::BatchEnd, &body, &Bytes::new());
    }

    /// The bytes of a SEAL frame at `offset`, naming the next segment.
    pub(super) fn seal(salt: u64, offset: u64, next: u64) -> Vec<u8> {
        let mut encoder = Self::new(salt, offset);
        encoder.frame(Kind::Seal, &next.to_le_bytes(), &Bytes::new());
        encoder.scratch
    }

    /// The batch as the kernel wants it.
    pub(super) fn slices(&self) -> Vec<IoSlice<'_>> {
        self.parts
            .iter()
            .map(|part| match part {
                Part::Copied(from, to) => IoSlice::new(&self.scratch[*from..*to]),
                Part::Shared(bytes) => IoSlice::new(bytes),
            })
            .collect()
    }
}
