//! One segment file: its name, its head, and how it comes into being.
//!
//! ```text
//! name    raft-GROUP-SEQUENCE-FIRST.log      decimal; FIRST = index of the first entry it was made for
//!
//! head    0  magic "kvnlog\r\n"     8  version u32      12  group u32
//!        16  sequence u64          24  first index u64  32  salt u64
//!        40  end of the batches of the previous segment u64 (0: this is the first segment ever)
//!        48  last id?     80  purged id?     112  committed id?     144  vote?      (all as they were when it was made)
//!       168  zeros       252  crc32c of bytes 0..252
//! 256    batches, then SEAL once the next segment exists, then zeros
//! ```
//!
//! Because the head repeats vote, purge point and committed id, old segments can be unlinked without losing them. Because
//! it names the end of the segment before it, a sealed segment that lost its tail is noticed.

use std::sync::Arc;

use super::Vote;
use super::disk::{Disk, DiskFile, write_all};
use super::frame::{get_id, get_vote, half, put_id, put_vote, word};
use crate::store::LogId;

pub(super) const HEADER_BYTES: u64 = 256;
pub(super) const VERSION: u32 = 1;
const MAGIC: &[u8; 8] = b"kvnlog\r\n";
const CRC_AT: usize = 252;
/// Extension of a segment that is being made.
pub(super) const UNFINISHED: &str = ".new";

/// What the log knows beside its entries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Marks {
    /// Last entry; the purge point when there is none behind it.
    pub(super) last: Option<LogId>,
    pub(super) purged: Option<LogId>,
    pub(super) committed: Option<LogId>,
    pub(super) vote: Option<Vote>,
}

impl Marks {
    /// Index that the next entry must have.
    pub(super) fn next_index(&self) -> u64 {
        self.last.map_or(0, |last| last.index + 1)
    }

    /// The log ends at `last` (or at the purge point, if that is further on).
    pub(super) fn truncate(&mut self, last: Option<LogId>) {
        let keep = if index_of(last) < index_of(self.purged) { self.purged } else { last };
        if index_of(keep) < index_of(self.last) {
            self.last = keep;
        }
    }

    /// The log starts behind `upto`.
    pub(super) fn purge(&mut self, upto: LogId) {
        if index_of(self.purged) < Some(upto.index) {
            self.purged = Some(upto);
        }
        if index_of(self.last) < index_of(self.purged) {
            self.last = self.purged;
        }
    }
}

/// Index of an optional id; `None`, before the first entry, is below all.
pub(super) fn index_of(id: Option<LogId>) -> Option<u64> {
    id.map(|id| id.index)
}

/// Head of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) group: u32,
    pub(super) sequence: u64,
    pub(super) salt: u64,
    pub(super) previous_end: u64,
    pub(super) marks: Marks,
}

impl Header {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(256);
        out.extend_from_slice(MAGIC);
        out.extend_from_slice(&VERSION.to_le_bytes());
        out.extend_from_slice(&self.group.to_le_bytes());
        for value in [self.sequence, self.marks.next_index(), self.salt, self.previous_end] {
            out.extend_from_slice(&value.to_le_bytes());
        }
        put_id(&mut out, self.marks.last);
        put_id(&mut out, self.marks.purged);
        put_id(&mut out, self.marks.committed);
        put_vote(&mut out, self.marks.vote);
        out.resize(CRC_AT, 0);
        let crc = crc32c::crc32c(&out);
        out.extend_from_slice(&crc.to_le_bytes());
        out
    }

    /// Reads a head; says what is wrong with it.
    pub(super) fn decode(bytes: &[u8]) -> Result<Self, String> {
        if bytes.len() < 256 {
            return Err("the file ends inside of its head".into());
        }
        if &bytes[..8] != MAGIC {
            return Err("not a log segment (wrong magic)".into());
        }
        if half(bytes, CRC_AT) != crc32c::crc32c(&bytes[..CRC_AT]) {
            return Err("wrong checksum of the head".into());
        }
        let version = half(bytes, 8);
        if version != VERSION {
            return Err(format!("version {version}, this program reads version {VERSION}"));
        }
        let ids =
            (get_id(&bytes[48..]), get_id(&bytes[80..]), get_id(&bytes[112..]), get_vote(&bytes[144..]));
        let (Some(last), Some(purged), Some(committed), Some(vote)) = ids else {
            return Err("unreadable ids in the head".into());
        };
        let header = Self {
            group: half(bytes, 12),
            sequence: word(bytes, 16),
            salt: word(bytes, 32),
            previous_end: word(bytes, 40),
            marks: Marks { last, purged, committed, vote },
        };
        if word(bytes, 24) != header.marks.next_index() {
            return Err("first index and last id of the head disagree".into());
        }
        Ok(header)
    }
}

/// File name of a segment.
pub(super) fn file_name(group: u32, sequence: u64, first: u64) -> String {
    format!("raft-{group}-{sequence:010}-{first:020}.log")
}

/// Group and sequence in a file name; `None` if it is not the name of a segment.
pub(super) fn parse_name(name: &str) -> Option<(u32, u64)> {
    let mut parts = name.strip_prefix("raft-")?.strip_suffix(".log")?.split('-');
    let (group, sequence, first) = (parts.next()?, parts.next()?, parts.next()?);
    let _: u64 = first.parse().ok()?;
    parts.next().is_none().then_some(())?;
    Some((group.parse().ok()?, sequence.parse().ok()?))
}

/// One segment that is part of the log.
#[derive(Clone)]
pub(super) struct Segment {
    pub(super) sequence: u64,
    pub(super) name: String,
    pub(super) salt: u64,
    pub(super) file: Arc<dyn DiskFile>,
    /// End of its batches.
    pub(super) end: u64,
}

/// What a new segment failed at.
pub(super) enum Step {
    /// Allocation, head or name; may be tried again when it was for want of space.
    Make,
    /// A sync: final.
    Sync,
}

/// The step, the final name, the cause.
type NotMade = (Step, String, std::io::Error);

/// Makes a segment: allocate, write the head, sync, give it its name, sync the directory.
pub(super) fn create_segment(
    disk: &dyn Disk,
    header: &Header,
    capacity: u64,
) -> Result<(String, Arc<dyn DiskFile>), NotMade> {
    let name = file_name(header.group, header.sequence, header.marks.next_index());
    let unfinished = format!("{name}{UNFINISHED}");
    let make = |error| (Step::Make, name.clone(), error);
    let sync = |error| (Step::Sync, name.clone(), error);
    let file = disk.create(&unfinished, capacity).map_err(make)?;
    write_all(file.as_ref(), &mut [std::io::IoSlice::new(&header.encode())], 0).map_err(make)?;
    file.sync_all().map_err(sync)?;
    crash_point!("segment-made-not-named");
    disk.rename(&unfinished, &name).map_err(make)?;
    crash_point!("segment-named-not-synced");
    if !planted!("segment-name-not-synced") {
        disk.sync_dir().map_err(sync)?;
    }
    Ok((name, file))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The next index is counted on from the last: it must not overflow, whatever a file says.
    #[test]
    fn an_index_that_no_log_reaches_is_refused() {
        let last = Some(LogId { term: 1, node: 1, index: 5 });
        let marks = Marks { last, ..Marks::default() };
        let good = Header { group: 0, sequence: 1, salt: 1, previous_end: 0, marks }.encode();
        assert!(Header::decode(&good).is_ok());
        for index in [u64::MAX, u64::MAX - 1, 1 << 63] {
            let mut bytes = good.clone();
            bytes[72..80].copy_from_slice(&index.to_le_bytes());
            bytes[24..32].copy_from_slice(&index.wrapping_add(1).to_le_bytes());
            let crc = crc32c::crc32c(&bytes[..CRC_AT]);
            bytes[CRC_AT..CRC_AT + 4].copy_from_slice(&crc.to_le_bytes());
            assert_eq!(Header::decode(&bytes), Err("unreadable ids in the head".into()), "{index}");
        }
    }
}
