//! The bytes of our `state.bin`, version 1. [`super::writer`] and [`super::reader`] stream them.
//!
//! ```text
//! file      = header, frame*, trailer                        all numbers little endian
//!
//! header, 128 bytes
//!   0  8  magic          89 'K' 'V' 'N' 'S' 0d 0a 1a          a transfer as text breaks it at once
//!   8  2  version        1
//!  10  2  flags          0; a set bit is refused as newer
//!  12  4  group          Raft group, 0
//!  16  8  cluster id
//!  24  8  created        Unix ms
//!  32  8  log time       Unix ms, as applied
//!  40  1  applied        1: the three numbers at 48 hold, 0: nothing applied yet
//!  41  1  databases      every record's database is below it
//!  42  6  zero
//!  48  8  applied term
//!  56  8  applied node
//!  64  8  applied index
//!  72  1  length of the server version, 0 to 51
//!  73 51  server version, UTF-8, padded with zeros
//! 124  4  crc32c of bytes 0 to 123; this number is the file's tag
//!
//! frame, 32 bytes + stored block
//!   0  4  "KVFR"
//!   4  4  tag            of this file: a frame inside a value or of another file is never taken for ours
//!   8  4  number         from 0, without gaps
//!  12  4  raw length     of the block before compression
//!  16  4  stored length
//!  20  4  records        at least 1
//!  24  4  crc32c of the stored block
//!  28  4  crc32c of bytes 0 to 27
//!  32  .  stored block   one zstd frame of records
//!
//! record, in the raw block
//!   0  1  database
//!   1  1  type tag       1 string; a new type comes with a new format version
//!   2  1  flags          bit 0: has a deadline
//!   3  4  key length
//!   7  4  value length
//!  11  8  deadline       Unix ms, only with bit 0
//!   .  .  key, value
//!
//! trailer, 68 bytes + 32 per database
//!   0  4  "KVTR"
//!   4  4  tag            of this file
//!   8  4  frames
//!  12  4  databases      n
//!  16  8  records
//!  24  8  raw bytes      of all blocks
//!  32  8  offset         of this trailer in the file
//!  40 16  digest         sum modulo 2^128 of the databases' digests
//!  56 32n per database: keys 8, keys with a deadline 8, digest 16
//!   .  4  crc32c of the trailer up to here
//!   .  8  "KVNSEND\n"    and then the file ends
//! ```
//!
//! Invariants
//! - Records rise strictly by (database, key): no key occurs twice.
//! - A frame's raw block is at most [`FRAME_RAW_BYTES`], or one larger record. A reader holds one frame at a time.
//! - Every byte of the file is covered by a checksum or compared with a constant.
//! - The digest is made with the store's own record hash, passed in as [`RecordHash`], so a snapshot's digest equals
//!   the digest that the nodes keep for the same content.

use bytes::{Buf, Bytes};

use crate::clock::UnixMs;
use crate::store::{DbStats, LogId, Record, TypeTag};

/// 128-bit hash of one record over database, type, key, value and deadline. It must be the store's.
pub type RecordHash = fn(&Record) -> u128;

/// Version that is written, and the highest that is read.
pub const VERSION: u16 = 1;
/// First bytes of the file.
pub const MAGIC: [u8; 8] = [0x89, b'K', b'V', b'N', b'S', 0x0d, 0x0a, 0x1a];
/// Raw bytes gathered in a frame before it is closed.
pub const FRAME_RAW_BYTES: usize = 256 * 1024;
/// Longest key, longest value (Redis: 512 MB).
pub const FIELD_BYTES_MAX: usize = 512 * 1024 * 1024;

pub(super) const HEADER_BYTES: usize = 128;
pub(super) const FRAME_HEAD_BYTES: usize = 32;
pub(super) const FRAME_MARK: [u8; 4] = *b"KVFR";
pub(super) const TRAILER_MARK: [u8; 4] = *b"KVTR";
pub(super) const TRAILER_HEAD_BYTES: usize = 56;
pub(super) const TRAILER_TAIL_BYTES: usize = 12;
const TRAILER_DB_BYTES: usize = 32;
const END_MAGIC: [u8; 8] = *b"KVNSEND\n";
const RECORD_HEAD_BYTES: usize = 11;
const DEADLINE_BYTES: usize = 8;
const FLAG_DEADLINE: u8 = 1;
const SERVER_VERSION_BYTES_MAX: usize = 51;
/// Largest raw block: one record with the longest key and value.
const BLOCK_BYTES_MAX: usize = RECORD_HEAD_BYTES + DEADLINE_BYTES + 2 * FIELD_BYTES_MAX;

const _: () = assert!(BLOCK_BYTES_MAX < u32::MAX as usize, "a block's length fits its field");
const _: () = assert!(FRAME_RAW_BYTES < BLOCK_BYTES_MAX);

/// What a snapshot says of itself before its first record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// Cluster that the content belongs to.
    pub cluster_id: u64,
    /// Last applied entry.
    pub applied: Option<LogId>,
    /// Log time applied.
    pub log_time: UnixMs,
    /// Wall clock when the snapshot was begun.
    pub created: UnixMs,
    /// Number of databases.
    pub databases: u8,
    /// Server that wrote it; longer texts are cut at 51 bytes.
    pub server_version: String,
}

/// What is counted over all records.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Frames.
    pub frames: u32,
    /// Records.
    pub records: u64,
    /// Bytes of all blocks before compression.
    pub raw_bytes: u64,
    /// Per database, position = database number.
    pub databases: Vec<DbStats>,
}

impl Totals {
    pub(super) fn new(databases: u8) -> Self {
        Self { databases: vec![DbStats::default(); usize::from(databases)], ..Self::default() }
    }

    /// Digest of the whole content.
    #[must_use]
    pub fn digest(&self) -> u128 {
        self.databases.iter().fold(0, |sum, db| sum.wrapping_add(db.digest))
    }

    /// Counts a record. Databases are grown as needed, for files that do not announce their number.
    pub(super) fn count(&mut self, record: &Record, hash: RecordHash) {
        let db = usize::from(record.db);
        if self.databases.len() <= db {
            self.databases.resize(db + 1, DbStats::default());
        }
        let stats = &mut self.databases[db];
        stats.keys += 1;
        stats.expires += u64::from(record.deadline.is_some());
        stats.digest = stats.digest.wrapping_add(hash(record));
        self.records += 1;
    }
}

/// The 32 bytes before a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct FrameHead {
    pub(super) tag: u32,
    pub(super) number: u32,
    pub(super) raw_bytes: u32,
    pub(super) stored_bytes: u32,
    pub(super) records: u32,
    pub(super) stored_crc: u32,
}

/// Why a header cannot be used.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum HeaderFault {
    NotOurs,
    Newer(String),
    Damaged(String),
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    (&bytes[at..]).get_u16_le()
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    (&bytes[at..]).get_u32_le()
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    (&bytes[at..]).get_u64_le()
}

impl Header {
    /// The header's bytes; the last four are the file's tag.
    pub(super) fn encode(&self) -> [u8; HEADER_BYTES] {
        let applied = self.applied.unwrap_or_default();
        let mut cut = self.server_version.len().min(SERVER_VERSION_BYTES_MAX);
        while !self.server_version.is_char_boundary(cut) {
            cut -= 1;
        }
        let mut out = Vec::with_capacity(HEADER_BYTES);
        out.extend_from_slice(&MAGIC);
        out.extend_from_slice(&VERSION.to_le_bytes());
        out.extend_from_slice(&[0; 6]);
        for number in [self.cluster_id, self.created.0, self.log_time.0] {
            out.extend_from_slice(&number.to_le_bytes());
        }
        out.extend_from_slice(&[u8::from(self.applied.is_some()), self.databases, 0, 0, 0, 0, 0, 0]);
        for number in [applied.term, applied.node, applied.index] {
            out.extend_from_slice(&number.to_le_bytes());
        }
        out.push(u8::try_from(cut).unwrap_or_default());
        out.extend_from_slice(&self.server_version.as_bytes()[..cut]);
        out.resize(HEADER_BYTES - 4, 0);
        out.extend_from_slice(&crc32c::crc32c(&out).to_le_bytes());
        let mut fixed = [0; HEADER_BYTES];
        fixed.copy_from_slice(&out);
        fixed
    }

    /// Reads a header and the file's tag.
    pub(super) fn decode(bytes: &[u8; HEADER_BYTES]) -> Result<(Self, u32), HeaderFault> {
        if bytes[..8] != MAGIC {
            return Err(HeaderFault::NotOurs);
        }
        let tag = u32_at(bytes, HEADER_BYTES - 4);
        if crc32c::crc32c(&bytes[..HEADER_BYTES - 4]) != tag {
            return Err(HeaderFault::Damaged("the header's checksum does not fit".into()));
        }
        let (version, flags, group) = (u16_at(bytes, 8), u16_at(bytes, 10), u32_at(bytes, 12));
        if version != VERSION {
            return Err(HeaderFault::Newer(format!("format version {version}, this server reads {VERSION}")));
        }
        if flags != 0 || group != 0 {
            return Err(HeaderFault::Newer(format!(
                "flags {flags:#06x} and Raft group {group} are not known"
            )));
        }
        let applied = match bytes[40] {
            0 => None,
            1 => Some(LogId { term: u64_at(bytes, 48), node: u64_at(bytes, 56), index: u64_at(bytes, 64) }),
            other => return Err(HeaderFault::Damaged(format!("{other} where 0 or 1 belongs"))),
        };
        let text = bytes.get(73..73 + usize::from(bytes[72])).filter(|t| t.len() <= SERVER_VERSION_BYTES_MAX);
        let Some(Ok(server_version)) = text.map(std::str::from_utf8) else {
            return Err(HeaderFault::Damaged("the server version is not text".into()));
        };
        let header = Self {
            cluster_id: u64_at(bytes, 16),
            created: UnixMs(u64_at(bytes, 24)),
            log_time: UnixMs(u64_at(bytes, 32)),
            applied,
            databases: bytes[41],
            server_version: server_version.to_owned(),
        };
        Ok((header, tag))
    }
}

impl FrameHead {
    pub(super) fn encode(&self) -> [u8; FRAME_HEAD_BYTES] {
        let mut out = [0; FRAME_HEAD_BYTES];
        out[..4].copy_from_slice(&FRAME_MARK);
        let fields =
            [self.tag, self.number, self.raw_bytes, self.stored_bytes, self.records, self.stored_crc];
        for (at, field) in (4..).step_by(4).zip(fields) {
            out[at..at + 4].copy_from_slice(&field.to_le_bytes());
        }
        let crc = crc32c::crc32c(&out[..28]);
        out[28..].copy_from_slice(&crc.to_le_bytes());
        out
    }

    /// Reads a head. After this, no length in it is beyond the limits.
    pub(super) fn decode(bytes: &[u8; FRAME_HEAD_BYTES]) -> Result<Self, String> {
        if bytes[..4] != FRAME_MARK {
            return Err("neither a frame nor the trailer begins here".into());
        }
        if crc32c::crc32c(&bytes[..28]) != u32_at(bytes, 28) {
            return Err("the checksum of a frame's head does not fit".into());
        }
        let head = Self {
            tag: u32_at(bytes, 4),
            number: u32_at(bytes, 8),
            raw_bytes: u32_at(bytes, 12),
            stored_bytes: u32_at(bytes, 16),
            records: u32_at(bytes, 20),
            stored_crc: u32_at(bytes, 24),
        };
        let (raw, stored) = (head.raw_bytes as usize, head.stored_bytes as usize);
        if raw > BLOCK_BYTES_MAX || stored > zstd::zstd_safe::compress_bound(raw) {
            return Err(format!("a frame announces {raw} bytes in {stored}, more than a frame may hold"));
        }
        if head.records == 0 || (head.records as usize).saturating_mul(RECORD_HEAD_BYTES) > raw {
            return Err(format!("a frame announces {} records in {raw} bytes", head.records));
        }
        Ok(head)
    }
}

/// Bytes that a record takes in a raw block.
pub(super) fn record_bytes(record: &Record) -> usize {
    let deadline = if record.deadline.is_some() { DEADLINE_BYTES } else { 0 };
    RECORD_HEAD_BYTES + deadline + record.key.len() + record.value.len()
}

/// Appends a record to a raw block.
///
/// # Errors
/// The reason, if the key or the value is longer than [`FIELD_BYTES_MAX`].
pub(super) fn encode_record(record: &Record, block: &mut Vec<u8>) -> Result<(), String> {
    let length = |name: &str, field: &Bytes| match u32::try_from(field.len()) {
        Ok(bytes) if field.len() <= FIELD_BYTES_MAX => Ok(bytes.to_le_bytes()),
        _ => Err(format!(
            "a {name} of {} bytes in database {} is longer than {FIELD_BYTES_MAX}",
            field.len(),
            record.db
        )),
    };
    let (key_bytes, value_bytes) = (length("key", &record.key)?, length("value", &record.value)?);
    block.extend_from_slice(&[record.db, record.tag as u8, u8::from(record.deadline.is_some())]);
    block.extend_from_slice(&key_bytes);
    block.extend_from_slice(&value_bytes);
    if let Some(deadline) = record.deadline {
        block.extend_from_slice(&deadline.0.to_le_bytes());
    }
    block.extend_from_slice(&record.key);
    block.extend_from_slice(&record.value);
    Ok(())
}

/// Takes the next record off a raw block; key and value share the block's memory.
pub(super) fn decode_record(block: &mut Bytes) -> Result<Record, String> {
    if block.len() < RECORD_HEAD_BYTES {
        return Err("a record's head is cut off by the end of its frame".into());
    }
    let (db, tag, flags) = (block.get_u8(), block.get_u8(), block.get_u8());
    let (key_bytes, value_bytes) = (block.get_u32_le() as usize, block.get_u32_le() as usize);
    let tag = if tag == TypeTag::String as u8 {
        TypeTag::String
    } else {
        return Err(format!("value type {tag} is not known to this server"));
    };
    if flags & !FLAG_DEADLINE != 0 {
        return Err(format!("record flags {flags:#04x} are not known to this server"));
    }
    let deadline_bytes = if flags & FLAG_DEADLINE == 0 { 0 } else { DEADLINE_BYTES };
    if block.len() < deadline_bytes || block.len() - deadline_bytes < key_bytes.saturating_add(value_bytes) {
        return Err("a record is cut off by the end of its frame".into());
    }
    let deadline = (deadline_bytes > 0).then(|| UnixMs(block.get_u64_le()));
    let key = block.split_to(key_bytes);
    let value = block.split_to(value_bytes);
    Ok(Record { db, key, tag, deadline, value })
}

/// The trailer's bytes for a file with this tag, at this offset.
pub(super) fn encode_trailer(totals: &Totals, tag: u32, offset: u64) -> Vec<u8> {
    let mut out = TRAILER_MARK.to_vec();
    out.extend_from_slice(&tag.to_le_bytes());
    out.extend_from_slice(&totals.frames.to_le_bytes());
    // At most 256: a database number is a byte.
    out.extend_from_slice(&u32::try_from(totals.databases.len()).unwrap_or(u32::MAX).to_le_bytes());
    for number in [totals.records, totals.raw_bytes, offset] {
        out.extend_from_slice(&number.to_le_bytes());
    }
    out.extend_from_slice(&totals.digest().to_le_bytes());
    for db in &totals.databases {
        out.extend_from_slice(&db.keys.to_le_bytes());
        out.extend_from_slice(&db.expires.to_le_bytes());
        out.extend_from_slice(&db.digest.to_le_bytes());
    }
    out.extend_from_slice(&crc32c::crc32c(&out).to_le_bytes());
    out.extend_from_slice(&END_MAGIC);
    out
}

/// Length of the whole trailer, from its first [`TRAILER_HEAD_BYTES`].
pub(super) fn trailer_bytes(head: &[u8]) -> Result<usize, String> {
    let databases = u32_at(head, 12) as usize;
    if databases > usize::from(u8::MAX) + 1 {
        return Err(format!("the trailer announces {databases} databases"));
    }
    Ok(TRAILER_HEAD_BYTES + databases * TRAILER_DB_BYTES + TRAILER_TAIL_BYTES)
}

/// Reads a whole trailer: totals, tag, and the offset at which it claims to be.
pub(super) fn decode_trailer(bytes: &[u8]) -> Result<(Totals, u32, u64), String> {
    let sum_at = bytes.len() - TRAILER_TAIL_BYTES;
    if crc32c::crc32c(&bytes[..sum_at]) != u32_at(bytes, sum_at) {
        return Err("the trailer's checksum does not fit".into());
    }
    if bytes[sum_at + 4..] != END_MAGIC {
        return Err("the end mark does not fit".into());
    }
    let databases = bytes[TRAILER_HEAD_BYTES..sum_at]
        .chunks_exact(TRAILER_DB_BYTES)
        .map(|db| DbStats { keys: u64_at(db, 0), expires: u64_at(db, 8), digest: (&db[16..]).get_u128_le() })
        .collect();
    let totals = Totals {
        frames: u32_at(bytes, 8),
        records: u64_at(bytes, 16),
        raw_bytes: u64_at(bytes, 24),
        databases,
    };
    if totals.digest() != (&bytes[40..56]).get_u128_le() {
        return Err("the trailer's digest is not the sum of its databases' digests".into());
    }
    Ok((totals, u32_at(bytes, 4), u64_at(bytes, 32)))
}
