//! Streams records out of the bytes of [`super::format`]. Strict: the first thing that does not fit ends the reading.
//!
//! Memory is one frame. No buffer is allocated by an announced length: it grows with the bytes that really arrive, up to
//! the announced length, which was checked against the limits before.

use std::io::{self, Read};
use std::path::{Path, PathBuf};

use bytes::Bytes;

use super::SnapshotError;
use super::format::{
    FRAME_HEAD_BYTES, FRAME_MARK, FRAME_RAW_BYTES, FrameHead, HEADER_BYTES, Header, HeaderFault, RecordHash,
    TRAILER_HEAD_BYTES, TRAILER_MARK, Totals, decode_record, decode_trailer, trailer_bytes,
};
use crate::store::Record;

/// Reads up to `n` bytes into `buf` (cleared first); fewer only at the end of the input.
pub(super) fn read_up_to(input: &mut impl Read, n: u64, buf: &mut Vec<u8>) -> io::Result<usize> {
    buf.clear();
    input.by_ref().take(n).read_to_end(buf)
}

/// Decompresses a stored block that was announced to have `raw_bytes`.
pub(super) fn inflate(stored: &[u8], raw_bytes: u32) -> Result<Bytes, String> {
    let mut raw = Vec::new();
    zstd::stream::read::Decoder::with_buffer(stored)
        .and_then(|decoder| decoder.take(u64::from(raw_bytes) + 1).read_to_end(&mut raw))
        .map_err(|error| format!("a frame cannot be decompressed: {error}"))?;
    if raw.len() as u64 != u64::from(raw_bytes) {
        return Err("a frame decompresses to another length than announced".into());
    }
    Ok(raw.into())
}

/// All records of one `state.bin`. The iterator ends with `None` only after the trailer was read, everything it
/// says was found to be so, and the input ended behind it. After an `Err` it ends.
pub struct Reader<R> {
    input: R,
    path: PathBuf,
    hash: RecordHash,
    header: Header,
    tag: u32,
    offset: u64,
    frame_at: u64,
    block: Bytes,
    block_records: u32,
    stored: Vec<u8>,
    totals: Totals,
    last: Option<(u8, Bytes)>,
    ended: bool,
}

impl<R: Read> Reader<R> {
    /// Reads the header. `path` names the input in errors.
    ///
    /// # Errors
    /// [`SnapshotError`] if the input does not begin with a header that this version reads.
    pub fn new(mut input: R, path: &Path, hash: RecordHash) -> Result<Self, SnapshotError> {
        let mut bytes = Vec::new();
        read_up_to(&mut input, HEADER_BYTES as u64, &mut bytes).map_err(SnapshotError::io("read", path))?;
        let bytes: [u8; HEADER_BYTES] = bytes
            .try_into()
            .map_err(|_| SnapshotError::damaged(path, 0, "the file ends inside its header"))?;
        let (header, tag) = Header::decode(&bytes).map_err(|fault| match fault {
            HeaderFault::NotOurs => {
                SnapshotError::NotASnapshot { path: path.to_owned(), what: "the first bytes differ".into() }
            }
            HeaderFault::Newer(what) => SnapshotError::Newer { path: path.to_owned(), what },
            HeaderFault::Damaged(what) => SnapshotError::damaged(path, 0, what),
        })?;
        let totals = Totals::new(header.databases);
        Ok(Self {
            input,
            path: path.to_owned(),
            hash,
            header,
            tag,
            offset: HEADER_BYTES as u64,
            frame_at: 0,
            block: Bytes::new(),
            block_records: 0,
            stored: Vec::new(),
            totals,
            last: None,
            ended: false,
        })
    }

    /// The header.
    #[must_use]
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// What was counted so far; all of it once the iterator has ended without an error.
    #[must_use]
    pub fn totals(&self) -> &Totals {
        &self.totals
    }

    /// The input, e.g. to look at what it counted.
    pub(super) fn into_input(self) -> R {
        self.input
    }

    fn damaged(&self, what: impl Into<String>) -> SnapshotError {
        let what = what.into();
        let what = match self.frame_at {
            0 => what,
            _ => format!("frame {}: {what}", self.totals.frames.saturating_sub(1)),
        };
        SnapshotError::damaged(&self.path, if self.frame_at == 0 { self.offset } else { self.frame_at }, what)
    }

    /// Reads exactly `n` bytes into `self.stored`, behind the `kept` bytes already there.
    fn fill(&mut self, kept: usize, n: usize) -> Result<(), SnapshotError> {
        self.stored.truncate(kept);
        let read = self.input.by_ref().take(n as u64).read_to_end(&mut self.stored);
        if read.map_err(SnapshotError::io("read", &self.path))? < n {
            return Err(self.damaged("the file ends too early"));
        }
        Ok(())
    }

    /// Reads the next frame into `self.block`; false after a trailer that fits.
    fn next_block(&mut self) -> Result<bool, SnapshotError> {
        self.frame_at = 0;
        self.fill(0, 4)?;
        if self.stored == TRAILER_MARK {
            self.check_trailer()?;
            return Ok(false);
        }
        if self.stored != FRAME_MARK {
            return Err(self.damaged("neither a frame nor the trailer begins here"));
        }
        self.fill(4, FRAME_HEAD_BYTES - 4)?;
        let mut head = [0; FRAME_HEAD_BYTES];
        head.copy_from_slice(&self.stored);
        let head = FrameHead::decode(&head).map_err(|what| self.damaged(what))?;
        if head.tag != self.tag || head.number != self.totals.frames {
            return Err(self.damaged(format!(
                "frame {} of file {:08x} stands where frame {} of file {:08x} belongs",
                head.number, head.tag, self.totals.frames, self.tag
            )));
        }
        self.fill(0, head.stored_bytes as usize)?;
        if crc32c::crc32c(&self.stored) != head.stored_crc {
            return Err(self.damaged(format!("the checksum of frame {} does not fit", head.number)));
        }
        self.block = inflate(&self.stored, head.raw_bytes).map_err(|what| self.damaged(what))?;
        self.stored.shrink_to(4 * FRAME_RAW_BYTES);
        self.block_records = head.records;
        self.totals.frames = self.totals.frames.saturating_add(1);
        self.totals.raw_bytes += u64::from(head.raw_bytes);
        self.frame_at = self.offset;
        self.offset += FRAME_HEAD_BYTES as u64 + u64::from(head.stored_bytes);
        Ok(true)
    }

    fn check_trailer(&mut self) -> Result<(), SnapshotError> {
        self.fill(4, TRAILER_HEAD_BYTES - 4)?;
        let whole = trailer_bytes(&self.stored).map_err(|what| self.damaged(what))?;
        self.fill(TRAILER_HEAD_BYTES, whole - TRAILER_HEAD_BYTES)?;
        let (totals, tag, at) = decode_trailer(&self.stored).map_err(|what| self.damaged(what))?;
        if tag != self.tag || at != self.offset {
            return Err(self.damaged("the trailer belongs to another file or place"));
        }
        if totals != self.totals {
            return Err(self.damaged(format!(
                "the trailer counts {} records in {} frames, digest {:032x}, but the file holds {} in {}, {:032x}",
                totals.records,
                totals.frames,
                totals.digest(),
                self.totals.records,
                self.totals.frames,
                self.totals.digest(),
            )));
        }
        self.offset += whole as u64;
        let mut more = Vec::new();
        if read_up_to(&mut self.input, 1, &mut more).map_err(SnapshotError::io("read", &self.path))? > 0 {
            return Err(self.damaged("more bytes follow behind the end"));
        }
        Ok(())
    }

    fn next_record(&mut self) -> Result<Option<Record>, SnapshotError> {
        if self.block_records == 0 {
            if !self.block.is_empty() {
                return Err(self.damaged("bytes are left behind the last record"));
            }
            if !self.next_block()? {
                return Ok(None);
            }
        }
        let record = decode_record(&mut self.block).map_err(|what| self.damaged(what))?;
        self.block_records -= 1;
        if record.db >= self.header.databases {
            return Err(
                self.damaged(format!("a record of database {} of {}", record.db, self.header.databases))
            );
        }
        if let Some((db, key)) = &self.last
            && (*db, key) >= (record.db, &record.key)
        {
            return Err(self.damaged("records are out of order"));
        }
        self.last = Some((record.db, record.key.clone()));
        self.totals.count(&record, self.hash);
        Ok(Some(record))
    }
}

impl<R: Read> Iterator for Reader<R> {
    type Item = Result<Record, SnapshotError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.ended {
            return None;
        }
        let next = self.next_record().transpose();
        self.ended = !matches!(next, Some(Ok(_)));
        next
    }
}
