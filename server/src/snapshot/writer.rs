//! Streams records into the bytes of [`super::format`], one frame in memory at a time.

use std::io::{self, Write};

use bytes::Bytes;

use super::SnapshotError;
use super::format::{
    FRAME_RAW_BYTES, FrameHead, HEADER_BYTES, Header, RecordHash, Totals, encode_record, encode_trailer,
    record_bytes,
};
use crate::store::Record;

/// zstd level: 1 keeps up with the disk; each level above costs more time than it saves bytes here.
const LEVEL: i32 = 1;

/// Writes one `state.bin` to `out`, sequentially. Without [`Writer::finish`] the file has no trailer and is refused.
pub struct Writer<W> {
    out: W,
    hash: RecordHash,
    databases: u8,
    tag: u32,
    offset: u64,
    totals: Totals,
    compressor: zstd::bulk::Compressor<'static>,
    block: Vec<u8>,
    block_records: u32,
    frame: Vec<u8>,
    last: Option<(u8, Bytes)>,
}

impl<W: Write> Writer<W> {
    /// Writes the header.
    ///
    /// # Errors
    /// The I/O error of `out`.
    pub fn new(mut out: W, header: &Header, hash: RecordHash) -> io::Result<Self> {
        let bytes = header.encode();
        out.write_all(&bytes)?;
        Ok(Self {
            out,
            hash,
            databases: header.databases,
            tag: u32::from_le_bytes([bytes[124], bytes[125], bytes[126], bytes[127]]),
            offset: HEADER_BYTES as u64,
            totals: Totals::new(header.databases),
            compressor: zstd::bulk::Compressor::new(LEVEL)?,
            block: Vec::new(),
            block_records: 0,
            frame: Vec::new(),
            last: None,
        })
    }

    /// Adds the next record; they must rise strictly by (database, key).
    ///
    /// # Errors
    /// [`SnapshotError::Refused`] if the record is out of order, too long or of a database beyond the header's number;
    /// [`SnapshotError::Output`] for an I/O error of `out`. After an error the file must be given up.
    pub fn append(&mut self, record: &Record) -> Result<(), SnapshotError> {
        let refused = |what| SnapshotError::Refused { what };
        if record.db >= self.databases {
            return Err(refused(format!("a record of database {} of {}", record.db, self.databases)));
        }
        if let Some((db, key)) = &self.last
            && (*db, key) >= (record.db, &record.key)
        {
            return Err(refused(format!("records of database {} are out of order", record.db)));
        }
        if !self.block.is_empty() && self.block.len() + record_bytes(record) > FRAME_RAW_BYTES {
            self.close_frame().map_err(SnapshotError::Output)?;
        }
        encode_record(record, &mut self.block).map_err(refused)?;
        self.block_records += 1;
        self.totals.count(record, self.hash);
        self.last = Some((record.db, record.key.clone()));
        Ok(())
    }

    /// Closes the last frame, writes the trailer and gives `out` back, flushed but not synced.
    ///
    /// # Errors
    /// The I/O error of `out`.
    pub fn finish(mut self) -> io::Result<(W, Totals)> {
        self.close_frame()?;
        self.out.write_all(&encode_trailer(&self.totals, self.tag, self.offset))?;
        self.out.flush()?;
        Ok((self.out, self.totals))
    }

    /// Head and block leave in one write. A frame that held one huge record gives its memory back.
    fn close_frame(&mut self) -> io::Result<()> {
        if self.block.is_empty() {
            return Ok(());
        }
        let stored = self.compressor.compress(&self.block)?;
        let beyond = |_| io::Error::new(io::ErrorKind::InvalidData, "a frame beyond 4 GiB");
        let head = FrameHead {
            tag: self.tag,
            number: self.totals.frames,
            raw_bytes: u32::try_from(self.block.len()).map_err(beyond)?,
            stored_bytes: u32::try_from(stored.len()).map_err(beyond)?,
            records: self.block_records,
            stored_crc: crc32c::crc32c(&stored),
        };
        self.frame.clear();
        self.frame.extend_from_slice(&head.encode());
        self.frame.extend_from_slice(&stored);
        self.out.write_all(&self.frame)?;
        self.offset += self.frame.len() as u64;
        self.totals.raw_bytes += self.block.len() as u64;
        self.totals.frames = self
            .totals
            .frames
            .checked_add(1)
            .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "more than 2^32 frames"))?;
        self.block.clear();
        self.block.shrink_to(2 * FRAME_RAW_BYTES);
        self.frame.shrink_to(2 * FRAME_RAW_BYTES);
        self.block_records = 0;
        Ok(())
    }
}
