//! Gets what is readable out of a damaged `state.bin` (`--partial`): every frame whose checksums fit.
//!
//! ```text
//! header | frame 0 | fr?me 1 | frame 2 | frame 3 | trai
//!            |         |          |         |       `- lost: how many records there were is then unknown
//!            |         |          `- found again by its mark, its head's checksum, the file's tag and a rising number
//!            |         `- lost whole: a frame that fails its checksum gives no record
//!            `- given
//! ```
//!
//! A record that is given is one that was written: damage inside a frame never reaches the output.

use std::io::{self, Read};

use bytes::Bytes;

use super::format::{
    FRAME_HEAD_BYTES, FRAME_MARK, FrameHead, HEADER_BYTES, Header, TRAILER_HEAD_BYTES, TRAILER_MARK,
    decode_record, decode_trailer, trailer_bytes,
};
use super::reader::{inflate, read_up_to};
use crate::store::Record;

/// What a damaged file no longer gives.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Loss {
    /// Frames known to be missing; more may have stood at the end if `records` is `None`.
    pub frames: u64,
    /// Records missing; `None` if the trailer is lost too, so that nothing says how many there were.
    pub records: Option<u64>,
    /// Bytes of the file that could not be used.
    pub bytes: u64,
    /// Reading stopped before the end of the file for this reason.
    pub stopped: Option<String>,
}

/// Input that can be given bytes back, to look for a frame inside what a damaged head had claimed.
struct Rewind<R> {
    back: Vec<u8>,
    at: usize,
    inner: R,
}

impl<R> Rewind<R> {
    /// The bytes given back are the last ones read. Those that came from `back` are only stepped over again, so that
    /// searching a large piece stays linear.
    fn give_back(&mut self, bytes: &[u8]) {
        if self.at >= bytes.len() && self.back[self.at - bytes.len()..self.at] == *bytes {
            self.at -= bytes.len();
            return;
        }
        let mut back = bytes.to_vec();
        back.extend_from_slice(&self.back[self.at..]);
        (self.back, self.at) = (back, 0);
    }
}

impl<R: Read> Read for Rewind<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if self.at == self.back.len() {
            return self.inner.read(buf);
        }
        let n = (&self.back[self.at..]).read(buf)?;
        self.at += n;
        Ok(n)
    }
}

/// Records of a damaged file. Never fails: what cannot be read is told by [`Salvage::loss`] after the end.
pub struct Salvage<R> {
    input: Rewind<R>,
    tag: Option<u32>,
    next_number: u64,
    records: u64,
    announced: Option<u64>,
    block: Bytes,
    loss: Loss,
    ended: bool,
}

impl<R: Read> Salvage<R> {
    /// Begins at the first byte of the file. `input` should be buffered: gaps are searched byte by byte.
    pub fn new(input: R) -> Self {
        let mut salvage = Self {
            input: Rewind { back: Vec::new(), at: 0, inner: input },
            tag: None,
            next_number: 0,
            records: 0,
            announced: None,
            block: Bytes::new(),
            loss: Loss::default(),
            ended: false,
        };
        let bytes = salvage.pull(HEADER_BYTES);
        match <[u8; HEADER_BYTES]>::try_from(bytes) {
            Ok(header) => match Header::decode(&header) {
                Ok((_, tag)) => salvage.tag = Some(tag),
                Err(_) => salvage.input.give_back(&header),
            },
            Err(short) => salvage.input.give_back(&short),
        }
        salvage
    }

    /// True once anything in the file proved that it is, or was, one of ours.
    #[must_use]
    pub fn recognised(&self) -> bool {
        self.tag.is_some()
    }

    /// What is missing; complete after the iterator has ended.
    #[must_use]
    pub fn loss(&self) -> Loss {
        let records = self.announced.map(|announced| announced.saturating_sub(self.records));
        Loss { records, ..self.loss.clone() }
    }

    /// Up to `n` bytes; an I/O error ends the input there.
    fn pull(&mut self, n: usize) -> Vec<u8> {
        let mut bytes = Vec::new();
        if let Err(error) = read_up_to(&mut self.input, n as u64, &mut bytes) {
            self.loss.stopped = Some(error.to_string());
        }
        bytes
    }

    /// Moves to the next frame that can be used, or to the end.
    fn next_block(&mut self) -> Option<()> {
        let mut head = self.pull(FRAME_HEAD_BYTES);
        loop {
            if head.starts_with(&TRAILER_MARK) && self.trailer(&head) {
                return None;
            }
            let Ok(fixed) = <[u8; FRAME_HEAD_BYTES]>::try_from(&*head) else {
                // Fewer bytes than a head are left; a trailer is longer than that.
                self.loss.bytes += head.len() as u64;
                return None;
            };
            match FrameHead::decode(&fixed) {
                Ok(found) if self.belongs(&found) => {
                    if self.open(&found) {
                        return Some(());
                    }
                    self.loss.bytes += FRAME_HEAD_BYTES as u64;
                    head = self.pull(FRAME_HEAD_BYTES);
                }
                _ => head = self.skip(&fixed),
            }
        }
    }

    /// Drops bytes up to the next place where a mark may begin, at least one.
    fn skip(&mut self, head: &[u8]) -> Vec<u8> {
        let mark = |rest: &[u8]| {
            let n = rest.len().min(4);
            FRAME_MARK.starts_with(&rest[..n]) || TRAILER_MARK.starts_with(&rest[..n])
        };
        let at = (1..head.len()).find(|&at| mark(&head[at..])).unwrap_or(head.len());
        self.loss.bytes += at as u64;
        let mut next = head[at..].to_vec();
        let more = self.pull(FRAME_HEAD_BYTES - next.len());
        next.extend_from_slice(&more);
        next
    }

    /// Of this file, and not before a frame that was given already.
    fn belongs(&self, head: &FrameHead) -> bool {
        self.tag.is_none_or(|tag| tag == head.tag) && u64::from(head.number) >= self.next_number
    }

    /// Reads the block behind a head; false if it does not fit, with its bytes given back to be searched.
    fn open(&mut self, head: &FrameHead) -> bool {
        let stored = self.pull(head.stored_bytes as usize);
        let whole = stored.len() == head.stored_bytes as usize && crc32c::crc32c(&stored) == head.stored_crc;
        let raw = if whole { inflate(&stored, head.raw_bytes).ok() } else { None };
        let Some(raw) = raw.filter(|raw| decodes(raw.clone(), head.records)) else {
            self.input.give_back(&stored);
            return false;
        };
        self.tag = Some(head.tag);
        self.loss.frames += u64::from(head.number) - self.next_number;
        self.next_number = u64::from(head.number) + 1;
        self.block = raw;
        true
    }

    /// Takes the totals of an intact trailer; false if it is none, with its bytes given back.
    fn trailer(&mut self, head: &[u8]) -> bool {
        let mut bytes = head.to_vec();
        let more = self.pull(TRAILER_HEAD_BYTES.saturating_sub(head.len()));
        bytes.extend_from_slice(&more);
        if bytes.len() == TRAILER_HEAD_BYTES
            && let Ok(whole) = trailer_bytes(&bytes)
        {
            let more = self.pull(whole - TRAILER_HEAD_BYTES);
            bytes.extend_from_slice(&more);
            if bytes.len() == whole
                && let Ok((totals, tag, _)) = decode_trailer(&bytes)
                && self.tag.is_none_or(|known| known == tag)
            {
                self.tag = Some(tag);
                self.announced = Some(totals.records);
                self.loss.frames += u64::from(totals.frames).saturating_sub(self.next_number);
                return true;
            }
        }
        self.input.give_back(&bytes[head.len()..]);
        false
    }
}

/// True if a block holds exactly `records` records.
fn decodes(mut block: Bytes, records: u32) -> bool {
    (0..records).all(|_| decode_record(&mut block).is_ok()) && block.is_empty()
}

impl<R: Read> Iterator for Salvage<R> {
    type Item = Record;

    fn next(&mut self) -> Option<Record> {
        if self.ended {
            return None;
        }
        if self.block.is_empty() && self.next_block().is_none() {
            self.ended = true;
            return None;
        }
        let record = decode_record(&mut self.block).ok();
        self.records += u64::from(record.is_some());
        self.ended = record.is_none();
        record
    }
}
