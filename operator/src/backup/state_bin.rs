//! A second reader of the server's `state.bin`, fed byte by byte: it checks every frame, counts every key and computes
//! the content digest.
//!
//! The server has a reader of its own (`server/src/snapshot/format.rs` draws the bytes). This one was written from that
//! drawing and shares no code with it: a fault that writer and reader of the server have in common would pass there for
//! ever. It also keeps RocksDB out of the operator.
//!
//! Memory: one frame, 256 KiB of records or one larger record.

use std::fmt;

use bytes::{Buf as _, BytesMut};
use xxhash_rust::xxh3::{Xxh3, xxh3_128};
use zstd::bulk::Decompressor;

const MAGIC: [u8; 8] = [0x89, b'K', b'V', b'N', b'S', 0x0d, 0x0a, 0x1a];
const END: [u8; 8] = *b"KVNSEND\n";
const VERSION: u16 = 1;
const HEADER_BYTES: usize = 128;
const FRAME_HEAD_BYTES: usize = 32;
const TRAILER_HEAD_BYTES: usize = 56;
const DB_BYTES: usize = 32;
const TRAILER_TAIL_BYTES: usize = 12;
/// One record with the longest key and value, 512 MiB each.
const BLOCK_BYTES_MAX: usize = 19 + 2 * 512 * 1024 * 1024;
/// A larger frame gives its memory back.
const PLAIN_BYTES_KEPT: usize = 1024 * 1024;
/// A larger value is hashed where it lies: a copy would cost more than the hash's state.
const COPIED_BYTES_MAX: usize = 4096;
const TAG_STRING: u8 = 1;

/// What a `state.bin` was found to hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Content {
    /// Cluster id.
    pub cluster_id: u64,
    /// Term of the last entry in it; 0 if there is none.
    pub term: u64,
    /// Index of the last entry in it; 0 if there is none.
    pub index: u64,
    /// Keys per database.
    pub keys: Vec<u64>,
    /// Sum of the databases' digests.
    pub digest: u128,
}

impl Content {
    /// Keys of all databases.
    #[must_use]
    pub fn keys_total(&self) -> u64 {
        self.keys.iter().sum()
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Db {
    keys: u64,
    expires: u64,
    digest: u128,
}

#[derive(Debug, PartialEq, Eq)]
enum State {
    Header,
    Frames,
    Ended,
}

/// The reader.
pub struct Parser {
    state: State,
    buffer: BytesMut,
    offset: u64,
    tag: u32,
    content: Content,
    dbs: Vec<Db>,
    frames: u32,
    records: u64,
    raw_bytes: u64,
    last: Option<(u8, Vec<u8>)>,
    scratch: Vec<u8>,
    /// Made for the first frame.
    inflate: Option<Decompressor<'static>>,
    /// Memory for the next frame.
    plain: Vec<u8>,
}

impl fmt::Debug for Parser {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Parser")
            .field("state", &self.state)
            .field("offset", &self.offset)
            .finish_non_exhaustive()
    }
}

impl Default for Parser {
    fn default() -> Self {
        Self {
            state: State::Header,
            buffer: BytesMut::new(),
            offset: 0,
            tag: 0,
            content: Content::default(),
            dbs: Vec::new(),
            frames: 0,
            records: 0,
            raw_bytes: 0,
            last: None,
            scratch: Vec::new(),
            inflate: None,
            plain: Vec::new(),
        }
    }
}

fn u32_le(bytes: &[u8], at: usize) -> u32 {
    (&bytes[at..]).get_u32_le()
}

fn u64_le(bytes: &[u8], at: usize) -> u64 {
    (&bytes[at..]).get_u64_le()
}

impl Parser {
    /// Takes the next bytes.
    ///
    /// # Errors
    /// The first thing that does not fit, with its place; the parser is of no use afterwards.
    pub fn push(&mut self, bytes: &[u8]) -> Result<(), String> {
        self.buffer.extend_from_slice(bytes);
        while self.step().map_err(|what| format!("state.bin, byte {}: {what}", self.offset))? {}
        Ok(())
    }

    /// Says what the file holds, once all of its bytes were pushed.
    ///
    /// # Errors
    /// It is cut off.
    pub fn finish(mut self) -> Result<Content, String> {
        if self.state != State::Ended {
            return Err(format!(
                "state.bin is cut off after {} bytes",
                self.offset + self.buffer.len() as u64
            ));
        }
        self.content.keys = self.dbs.iter().map(|db| db.keys).collect();
        self.content.digest = digest(&self.dbs);
        Ok(self.content)
    }

    /// Takes one piece off the buffer; false if more bytes are needed.
    fn step(&mut self) -> Result<bool, String> {
        match self.state {
            State::Header if self.buffer.len() >= HEADER_BYTES => {
                let header = self.take(HEADER_BYTES);
                self.header(&header)?;
                Ok(true)
            }
            State::Frames if self.buffer.len() >= FRAME_HEAD_BYTES => match &self.buffer[..4] {
                b"KVFR" => self.frame(),
                b"KVTR" => self.trailer(),
                _ => Err("neither a frame nor the trailer begins here".into()),
            },
            State::Ended if !self.buffer.is_empty() => Err("more bytes follow behind the end".into()),
            State::Header | State::Frames | State::Ended => Ok(false),
        }
    }

    fn take(&mut self, count: usize) -> BytesMut {
        self.offset += count as u64;
        self.buffer.split_to(count)
    }

    fn header(&mut self, header: &[u8]) -> Result<(), String> {
        if header[..8] != MAGIC {
            return Err("this is not a snapshot of kvnode: the first bytes differ".into());
        }
        self.tag = u32_le(header, 124);
        if crc32c::crc32c(&header[..124]) != self.tag {
            return Err("the header's checksum does not fit".into());
        }
        let version = (&header[8..]).get_u16_le();
        if version != VERSION || header[10..16] != [0; 6] {
            return Err(format!("format version {version} with flags or group is newer than this operator"));
        }
        self.content.cluster_id = u64_le(header, 16);
        if header[40] == 1 {
            (self.content.term, self.content.index) = (u64_le(header, 48), u64_le(header, 64));
        }
        self.dbs = vec![Db::default(); usize::from(header[41])];
        self.state = State::Frames;
        Ok(())
    }

    fn frame(&mut self) -> Result<bool, String> {
        let head = &self.buffer[..FRAME_HEAD_BYTES];
        if crc32c::crc32c(&head[..28]) != u32_le(head, 28) {
            return Err("the checksum of a frame's head does not fit".into());
        }
        let [tag, number, raw, stored, records, crc] = [4, 8, 12, 16, 20, 24].map(|at| u32_le(head, at));
        if tag != self.tag || number != self.frames {
            return Err(format!(
                "frame {number} of another file or place where frame {} belongs",
                self.frames
            ));
        }
        let (raw, stored) = (raw as usize, stored as usize);
        if raw > BLOCK_BYTES_MAX || stored > raw + raw / 128 + 1024 {
            return Err(format!("frame {number} announces {raw} bytes in {stored}"));
        }
        if self.buffer.len() < FRAME_HEAD_BYTES + stored {
            return Ok(false);
        }
        let _ = self.take(FRAME_HEAD_BYTES);
        let block = self.take(stored);
        if crc32c::crc32c(&block) != crc {
            return Err(format!("the checksum of frame {number} does not fit"));
        }
        let plain = self.inflated(&block, raw).map_err(|what| format!("frame {number} {what}"))?;
        self.block(&plain, records).map_err(|what| format!("frame {number}: {what}"))?;
        if plain.capacity() <= PLAIN_BYTES_KEPT {
            self.plain = plain;
        }
        self.frames += 1;
        self.raw_bytes += raw as u64;
        Ok(true)
    }

    /// The plain bytes of a frame. What is announced but does not come out is never touched, and costs no memory.
    fn inflated(&mut self, block: &[u8], raw: usize) -> Result<Vec<u8>, String> {
        let fault = |error| format!("cannot be decompressed: {error}");
        let mut plain = std::mem::take(&mut self.plain);
        plain.clear();
        plain.try_reserve_exact(raw).map_err(|error| format!("announces {raw} bytes: {error}"))?;
        let inflate = match &mut self.inflate {
            Some(inflate) => inflate,
            none => none.insert(Decompressor::new().map_err(fault)?),
        };
        inflate.decompress_to_buffer(block, &mut plain).map_err(fault)?;
        if plain.len() == raw {
            Ok(plain)
        } else {
            Err("decompresses to another length than announced".into())
        }
    }

    fn block(&mut self, mut rest: &[u8], records: u32) -> Result<(), String> {
        for _ in 0..records {
            if rest.len() < 11 {
                return Err("a record is cut off".into());
            }
            let (db, tag, flags) = (rest.get_u8(), rest.get_u8(), rest.get_u8());
            let (key_bytes, value_bytes) = (rest.get_u32_le() as usize, rest.get_u32_le() as usize);
            if tag != TAG_STRING || flags > 1 {
                return Err(format!("a record of type {tag} with flags {flags} is newer than this operator"));
            }
            if rest.len() < usize::from(flags) * 8 {
                return Err("a record is cut off".into());
            }
            let deadline = if flags == 1 { Some(rest.get_u64_le()) } else { None };
            let Some((key, behind)) = rest.split_at_checked(key_bytes) else {
                return Err("a record is cut off".into());
            };
            let Some((value, behind)) = behind.split_at_checked(value_bytes) else {
                return Err("a record is cut off".into());
            };
            rest = behind;
            self.record(db, tag, deadline, key, value)?;
        }
        if rest.is_empty() { Ok(()) } else { Err("bytes are left behind the last record".into()) }
    }

    fn record(
        &mut self,
        db: u8,
        tag: u8,
        deadline: Option<u64>,
        key: &[u8],
        value: &[u8],
    ) -> Result<(), String> {
        if let Some((last_db, last_key)) = &mut self.last {
            if (*last_db, last_key.as_slice()) >= (db, key) {
                return Err("records are out of order".into());
            }
            *last_db = db;
            last_key.clear();
            last_key.extend_from_slice(key);
        } else {
            self.last = Some((db, key.to_vec()));
        }
        let count = self.dbs.len();
        let Some(stats) = self.dbs.get_mut(usize::from(db)) else {
            return Err(format!("a record of database {db} of {count}"));
        };
        self.scratch.clear();
        self.scratch.extend_from_slice(&[db, tag]);
        // 0 means none in the digest, so a deadline of 1970 itself counts as a millisecond later.
        self.scratch.extend_from_slice(&deadline.map_or(0, |deadline| deadline.max(1)).to_le_bytes());
        self.scratch.extend_from_slice(&(key.len() as u64).to_le_bytes());
        self.scratch.extend_from_slice(key);
        let digest = if value.len() <= COPIED_BYTES_MAX {
            self.scratch.extend_from_slice(value);
            xxh3_128(&self.scratch)
        } else {
            let mut hash = Xxh3::new();
            hash.update(&self.scratch);
            hash.update(value);
            hash.digest128()
        };
        stats.keys += 1;
        stats.expires += u64::from(deadline.is_some());
        stats.digest = stats.digest.wrapping_add(digest);
        self.records += 1;
        Ok(())
    }

    fn trailer(&mut self) -> Result<bool, String> {
        if self.buffer.len() < TRAILER_HEAD_BYTES {
            return Ok(false);
        }
        let databases = u32_le(&self.buffer, 12) as usize;
        if databases != self.dbs.len() {
            return Err(format!("the trailer counts {databases} databases, the header {}", self.dbs.len()));
        }
        let whole = TRAILER_HEAD_BYTES + databases * DB_BYTES + TRAILER_TAIL_BYTES;
        if self.buffer.len() < whole {
            return Ok(false);
        }
        let at = self.offset;
        let trailer = self.take(whole);
        let sum_at = whole - TRAILER_TAIL_BYTES;
        if crc32c::crc32c(&trailer[..sum_at]) != u32_le(&trailer, sum_at) || trailer[sum_at + 4..] != END {
            return Err("the trailer's checksum or end mark does not fit".into());
        }
        let said: Vec<Db> = trailer[TRAILER_HEAD_BYTES..sum_at]
            .chunks_exact(DB_BYTES)
            .map(|db| Db { keys: u64_le(db, 0), expires: u64_le(db, 8), digest: (&db[16..]).get_u128_le() })
            .collect();
        if u32_le(&trailer, 4) != self.tag || u64_le(&trailer, 32) != at {
            return Err("the trailer belongs to another file or place".into());
        }
        let counted = (self.frames, self.records, self.raw_bytes, digest(&self.dbs));
        let announced = (
            u32_le(&trailer, 8),
            u64_le(&trailer, 16),
            u64_le(&trailer, 24),
            (&trailer[40..56]).get_u128_le(),
        );
        if counted != announced || said != self.dbs {
            return Err(format!(
                "the trailer counts {} keys, digest {:032x}, but the file holds {}, {:032x}",
                announced.1, announced.3, counted.1, counted.3
            ));
        }
        self.state = State::Ended;
        Ok(true)
    }
}

fn digest(dbs: &[Db]) -> u128 {
    dbs.iter().fold(0, |sum, db| sum.wrapping_add(db.digest))
}

#[cfg(test)]
mod tests {
    use kvnode_api::snapshot::SnapshotMeta;
    use proptest::prelude::*;

    use super::*;

    /// Written by kvnode-server 0.1.0.
    const STATE: &[u8] = include_bytes!("../../../tests/fixtures/0.1.0/snapshot/state.bin");
    const META: &str = include_str!("../../../tests/fixtures/0.1.0/snapshot/meta.json");

    fn parse(bytes: &[u8], step: usize) -> Result<Content, String> {
        let mut parser = Parser::default();
        bytes.chunks(step).try_for_each(|part| parser.push(part))?;
        parser.finish()
    }

    #[test]
    fn a_file_of_the_server_counts_and_digests_to_what_the_server_said() {
        let meta: SnapshotMeta = serde_json::from_str(META).unwrap();
        for step in [1, 33, STATE.len()] {
            let content = parse(STATE, step).unwrap();
            assert_eq!(content.keys, meta.keys);
            assert!(content.keys_total() > 0);
            assert_eq!(format!("{:032x}", content.digest), meta.digest);
            assert_eq!(format!("{:016x}", content.cluster_id), meta.cluster_id);
            assert_eq!((content.term, content.index), (meta.term, meta.index));
        }
        assert!(parse(&[STATE, b"x"].concat(), 100).unwrap_err().contains("behind the end"));
        assert!(parse(b"H4sI-something-else-that-is-long-enough".repeat(4).as_slice(), 9).is_err());
    }

    proptest! {
        #[test]
        fn any_changed_or_cut_byte_is_found(at in 0..STATE.len(), flip in 1_u8..=255, cut: bool) {
            let mut bytes = STATE.to_vec();
            if cut { bytes.truncate(at) } else { bytes[at] ^= flip }
            prop_assert!(parse(&bytes, 1000).is_err(), "byte {at}");
        }
    }
}
