//! Reading the log back: which files belong to it, what they hold, and where it ends.
//!
//! Every byte is checked at every start. Three things can stand behind the last whole batch:
//!
//! ```text
//! in the last segment   zeros                                       the preallocated rest; normal
//!                       a torn batch, nothing newer behind it       a crash in the middle of a write: dropped, zeroed
//!                       anything, and behind it a BATCH_END that    damage of what was durable: refuse to start
//!                       says this place had been synced
//! in an older segment   anything before the end that the next       damage: refuse to start
//!                       head names
//! ```
//!
//! The order of files is that of their sequence numbers. A gap in them is the trace of an unfinished purge if everything
//! before the gap is behind the purge point (those files are unlinked now), else a segment is missing.

use std::collections::VecDeque;
use std::io::IoSlice;
use std::path::PathBuf;
use std::sync::Arc;

use super::disk::{Disk, DiskFile, read_up_to, write_all};
use super::error::{LogError, REBUILD};
use super::frame::{BatchEnd, Frame, Kind, get_id, get_vote};
use super::index::{Ids, Place, Places};
use super::segment::{HEADER_BYTES, Header, Marks, Segment, UNFINISHED, index_of, parse_name};
use crate::store::LogId;

/// What the files held.
pub(super) struct Replayed {
    pub(super) marks: Marks,
    pub(super) ids: Ids,
    pub(super) places: Places,
    /// Ascending; the last one is the one to write to.
    pub(super) segments: VecDeque<Segment>,
    /// The last frame is a CLEAN.
    pub(super) clean: bool,
    /// Bytes of a torn batch that were dropped.
    pub(super) dropped_bytes: u64,
}

impl Replayed {
    /// The committed id as far as it is one of this log; everything purged was committed.
    pub(super) fn committed(&self) -> Option<LogId> {
        let known =
            |id: &LogId| Some(id.index) > index_of(self.marks.purged) && self.ids.get(id.index) == Some(*id);
        self.marks.committed.filter(known).or(self.marks.purged)
    }
}

/// A segment whose head has been read.
struct Opened {
    name: String,
    file: Arc<dyn DiskFile>,
    header: Header,
}

/// Reads the log of `group`; `None` if there is none yet. Removes unfinished files, zeroes a torn tail.
pub(super) fn replay(disk: &dyn Disk, group: u32) -> Result<Option<Replayed>, LogError> {
    let (left_over, run) = split_at_gap(inventory(disk, group)?);
    let mut opened = Vec::new();
    for (sequence, name) in run {
        opened.push(open_segment(disk, group, sequence, name)?);
    }
    let Some(first) = opened.first() else { return Ok(None) };
    let marks = first.header.marks;
    let mut replay = Replay {
        disk,
        marks,
        ids: Ids::new(marks.purged, marks.last),
        places: Places::default(),
        clean: false,
        buffer: Vec::new(),
    };
    let mut segments = VecDeque::new();
    let mut torn_bytes = 0;
    for (at, segment) in opened.iter().enumerate() {
        let end = match opened.get(at + 1) {
            Some(next) => replay.sealed(segment, next)?,
            None => replay.newest(segment, &mut torn_bytes)?,
        };
        segments.push_back(Segment {
            sequence: segment.header.sequence,
            name: segment.name.clone(),
            salt: segment.header.salt,
            file: Arc::clone(&segment.file),
            end,
        });
    }
    replay.check_start(&opened)?;
    // Nothing was touched until here: what is refused stays as it was found.
    for (_, name) in left_over {
        disk.remove(&name).map_err(|error| LogError::io("remove", disk.path(&name), &error))?;
    }
    if let Some(segment) = segments.back().filter(|_| torn_bytes > 0) {
        clear_tail(disk, segment, torn_bytes)?;
    }
    let Replay { marks, ids, places, clean, .. } = replay;
    Ok(Some(Replayed { marks, ids, places, segments, clean, dropped_bytes: torn_bytes as u64 }))
}

/// Files of the log by sequence; unlinks what a crash left unfinished.
fn inventory(disk: &dyn Disk, group: u32) -> Result<Names, LogError> {
    let failed = |error| LogError::io("list", disk.path(""), &error);
    let mut found = Vec::new();
    for name in disk.list().map_err(failed)? {
        if name.starts_with("raft-") && name.ends_with(UNFINISHED) {
            disk.remove(&name).map_err(|error| LogError::io("remove", disk.path(&name), &error))?;
            continue;
        }
        let Some((its_group, sequence)) = parse_name(&name) else { continue };
        if its_group != group {
            let what = format!("a segment of group {its_group} in the directory of group {group}");
            return Err(LogError::Damaged {
                path: disk.path(&name),
                offset: 0,
                what,
                remedy: "move the file to the directory of its group",
            });
        }
        found.push((sequence, name));
    }
    found.sort_unstable();
    if let Some(pair) = found.windows(2).find(|pair| pair[0].0 == pair[1].0) {
        let what = format!("same sequence number as {}", pair[0].1);
        return Err(LogError::damaged(disk.path(&pair[1].1), 0, what));
    }
    Ok(found)
}

fn open_segment(disk: &dyn Disk, group: u32, sequence: u64, name: String) -> Result<Opened, LogError> {
    let path = || disk.path(&name);
    let file = disk.open(&name).map_err(|error| LogError::io("open", path(), &error))?;
    let mut head = vec![0; 256];
    let read =
        read_up_to(file.as_ref(), &mut head, 0).map_err(|error| LogError::io("read", path(), &error))?;
    let header = Header::decode(&head[..read]).map_err(|what| LogError::damaged(path(), 0, what))?;
    if (header.group, header.sequence) != (group, sequence) {
        let what = format!("the head says group {} sequence {}", header.group, header.sequence);
        return Err(LogError::damaged(path(), 0, what));
    }
    Ok(Opened { name, file, header })
}

/// Sequence and name of segments.
type Names = Vec<(u64, String)>;

/// Splits what is before the last gap in the sequence from the run behind it.
fn split_at_gap(mut found: Names) -> (Names, Names) {
    let gap = found.windows(2).rposition(|pair| pair[1].0 != pair[0].0 + 1);
    let run = found.split_off(gap.map_or(0, |gap| gap + 1));
    (found, run)
}

/// Overwrites a torn tail, so that its frames never stand behind newer, shorter batches.
fn clear_tail(disk: &dyn Disk, segment: &Segment, bytes: usize) -> Result<(), LogError> {
    let failed = |error| LogError::io("clear the torn tail of", disk.path(&segment.name), &error);
    let zeros = vec![0; bytes];
    write_all(segment.file.as_ref(), &mut [IoSlice::new(&zeros)], segment.end).map_err(failed)?;
    segment.file.sync_all().map_err(failed)
}

/// Why reading batches stopped.
struct Stop {
    /// End of the last whole batch.
    end: u64,
    /// Offset and name of what is wrong behind it.
    offset: u64,
    what: &'static str,
    /// A SEAL stands at `end`.
    sealed: bool,
}

struct Replay<'a> {
    disk: &'a dyn Disk,
    marks: Marks,
    ids: Ids,
    places: Places,
    clean: bool,
    buffer: Vec<u8>,
}

impl Replay<'_> {
    fn path(&self, segment: &Opened) -> PathBuf {
        self.disk.path(&segment.name)
    }

    /// Reads a file into the buffer (which is used again for the next one).
    fn load(&mut self, segment: &Opened) -> Result<(), LogError> {
        let failed = |error| LogError::io("read", self.disk.path(&segment.name), &error);
        let length = segment.file.len().map_err(failed)?;
        self.buffer.resize(usize::try_from(length).unwrap_or(usize::MAX), 0);
        let read = read_up_to(segment.file.as_ref(), &mut self.buffer, 0).map_err(failed)?;
        self.buffer.truncate(read);
        Ok(())
    }

    /// Replays a segment that has a successor: its batches must reach exactly where the next head says.
    fn sealed(&mut self, segment: &Opened, next: &Opened) -> Result<u64, LogError> {
        self.load(segment)?;
        let end = next.header.previous_end;
        self.buffer.truncate(usize::try_from(end).unwrap_or(usize::MAX));
        let stop = self.batches(segment)?;
        if stop.end != end {
            let what = format!("{} (the batches of this segment end at byte {end})", stop.what);
            return Err(LogError::damaged(self.path(segment), stop.offset, what));
        }
        if self.marks != next.header.marks {
            let what = format!("the head does not continue {}", self.path(segment).display());
            return Err(LogError::damaged(self.path(next), 0, what));
        }
        Ok(end)
    }

    /// Replays the newest segment and decides what the bytes behind its last whole batch are.
    fn newest(&mut self, segment: &Opened, torn_bytes: &mut usize) -> Result<u64, LogError> {
        self.load(segment)?;
        let stop = self.batches(segment)?;
        if stop.sealed {
            return Err(LogError::Damaged {
                path: self.path(segment),
                offset: stop.end,
                what: format!("sealed, but segment {} is missing", segment.header.sequence + 1),
                remedy: REBUILD,
            });
        }
        let at = usize::try_from(stop.end).unwrap_or(usize::MAX).min(self.buffer.len());
        let rest = &self.buffer[at..];
        let Some(last) = rest.iter().rposition(|byte| *byte != 0) else { return Ok(stop.end) };
        if let Some(proof) = newer_batch(rest, stop.end, segment.header.salt) {
            let what = format!(
                "{}, and what was written at byte {proof} proves that it had been on disk",
                stop.what
            );
            return Err(LogError::damaged(self.path(segment), stop.offset, what));
        }
        *torn_bytes = last + 1;
        Ok(stop.end)
    }

    /// Replays whole batches from the head on until something else stands there.
    fn batches(&mut self, segment: &Opened) -> Result<Stop, LogError> {
        let buffer = std::mem::take(&mut self.buffer);
        let salt = segment.header.salt;
        let mut end = HEADER_BYTES;
        let stop = loop {
            let frames = match batch_at(&buffer, end, salt) {
                Ok(frames) => frames,
                Err((offset, what, sealed)) => break Stop { end, offset, what, sealed },
            };
            let mut offset = end;
            self.clean = false;
            for frame in &frames {
                self.apply(frame, offset, segment.header.sequence)
                    .map_err(|what| LogError::damaged(self.path(segment), offset, what))?;
                offset += frame.bytes as u64;
            }
            end = offset;
        };
        self.buffer = buffer;
        Ok(stop)
    }

    fn apply(&mut self, frame: &Frame<'_>, offset: u64, sequence: u64) -> Result<(), String> {
        let id = || get_id(frame.body).ok_or("unreadable id");
        match frame.kind {
            Kind::Entry => self.entry(frame, offset, sequence)?,
            Kind::Vote => self.marks.vote = get_vote(frame.body).ok_or("unreadable vote")?,
            Kind::Committed => self.marks.committed = id()?,
            Kind::Truncate => {
                self.marks.truncate(id()?);
                self.ids.truncate(self.marks.next_index());
                self.places.truncate(self.marks.next_index());
                self.ids.set_last(self.marks.last);
            }
            Kind::Purge => {
                if let Some(upto) = id()?.filter(|upto| Some(upto.index) > index_of(self.marks.purged)) {
                    self.marks.purge(upto);
                    self.ids.purge(upto);
                    self.places.purge(upto.index);
                    self.ids.set_last(self.marks.last);
                }
            }
            Kind::Clean => self.clean = true,
            Kind::Opened | Kind::BatchEnd => {}
            Kind::Seal => return Err("a seal inside of a batch".into()),
        }
        Ok(())
    }

    fn entry(&mut self, frame: &Frame<'_>, offset: u64, sequence: u64) -> Result<(), String> {
        let id = frame.entry_id().ok_or("unreadable entry")?;
        let expected = self.marks.next_index();
        if id.index != expected {
            return Err(format!("entry {} where entry {expected} should be", id.index));
        }
        let bytes =
            u32::try_from(frame.body.len() - super::frame::ENTRY_HEAD_BYTES).map_err(|_| "huge entry")?;
        let offset = u32::try_from(offset).map_err(|_| "huge segment")?;
        self.places.push(id.index, sequence, Place { offset, bytes });
        self.ids.push(id);
        self.marks.last = Some(id);
        Ok(())
    }

    /// The oldest live entry must stand right behind the purge point.
    fn check_start(&self, opened: &[Opened]) -> Result<(), LogError> {
        let first = self.marks.purged.map_or(0, |id| id.index + 1);
        let have = self.places.first_index().unwrap_or_else(|| self.marks.next_index());
        let ends_behind = index_of(self.marks.last) >= index_of(self.marks.purged);
        let whole = have == first && self.places.next_index() == self.marks.next_index();
        let empty = self.places.first_index().is_none() && self.marks.last == self.marks.purged;
        if !(ends_behind && (whole || empty)) {
            let what = format!(
                "entry {first} is missing: the oldest segment that can be used starts with entry {have}"
            );
            // Not empty: a log without segments is not replayed.
            return Err(LogError::damaged(self.path(&opened[0]), 0, what));
        }
        Ok(())
    }
}

/// The frames of the whole batch at `start`, or (offset, what is wrong, a seal is there).
type NoBatch = (u64, &'static str, bool);

fn batch_at(buffer: &[u8], start: u64, salt: u64) -> Result<Vec<Frame<'_>>, NoBatch> {
    let mut frames = Vec::new();
    let mut offset = start;
    let mut crc = 0;
    loop {
        let rest = usize::try_from(offset).ok().and_then(|at| buffer.get(at..)).unwrap_or_default();
        let frame = Frame::decode(rest, offset, salt).map_err(|what| (offset, what, false))?;
        match frame.kind {
            Kind::Seal if frames.is_empty() => return Err((offset, "a seal", true)),
            Kind::Seal => return Err((offset, "a seal inside of a batch", false)),
            Kind::BatchEnd => {
                let end = BatchEnd::decode(frame.body).ok_or((offset, "unreadable end of a batch", false))?;
                if (end.start, end.count as usize, end.crc) != (start, frames.len(), crc) {
                    return Err((offset, "end of another batch", false));
                }
                frames.push(frame);
                return Ok(frames);
            }
            _ => {
                offset += frame.bytes as u64;
                crc = crc32c::crc32c_append(crc, &frame.crc.to_le_bytes());
                frames.push(frame);
            }
        }
    }
}

/// Offset of a frame behind `bad` which proves that the bytes at `bad` had been synced: a batch that says so, or a
/// seal (written only after a sync of everything).
fn newer_batch(rest: &[u8], bad: u64, salt: u64) -> Option<u64> {
    // Frames start at multiples of 8, and so does `bad`.
    (0..rest.len()).step_by(8).find_map(|at| {
        let bytes = &rest[at..];
        let seal = bytes.get(8) == Some(&(Kind::Seal as u8));
        if !(seal || BatchEnd::may_start(bytes)) {
            return None;
        }
        let offset = bad + at as u64;
        let frame = Frame::decode(bytes, offset, salt).ok()?;
        let proves = frame.kind == Kind::Seal
            || frame.kind == Kind::BatchEnd
                && BatchEnd::decode(frame.body).is_some_and(|end| end.synced > bad);
        proves.then_some(offset)
    })
}

/// Bytes of an entry as they stand in a file, checked.
pub(super) fn check_entry(bytes: &[u8], offset: u64, salt: u64, id: LogId) -> Result<(), &'static str> {
    let frame = Frame::decode(bytes, offset, salt)?;
    match frame.entry_id() {
        Some(found) if found == id => Ok(()),
        Some(_) => Err("another entry stands here"),
        None => Err("no entry stands here"),
    }
}
