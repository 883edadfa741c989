//! The fuzzer's way into segments: any bytes behind a good head, and frames of any kind and body whose checksums fit.

use std::io::{self, IoSlice};
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;

use super::disk::{Disk, DiskFile};
use super::frame::{BatchEncoder, INDEX_MAX, Kind};
use super::recovery::replay;
use super::segment::{Header, Marks, file_name};
use crate::store::LogId;

const SALT: u64 = 0x5eed;

/// One file in memory.
#[derive(Clone, Default)]
struct OneFile(Arc<Mutex<Vec<u8>>>);

impl DiskFile for OneFile {
    fn len(&self) -> io::Result<u64> {
        Ok(self.0.lock().len() as u64)
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let bytes = self.0.lock();
        let from = usize::try_from(offset).unwrap_or(usize::MAX).min(bytes.len());
        let part = &bytes[from..];
        let length = part.len().min(buffer.len());
        buffer[..length].copy_from_slice(&part[..length]);
        Ok(length)
    }

    fn write_at(&self, parts: &[IoSlice<'_>], offset: u64) -> io::Result<usize> {
        let mut bytes = self.0.lock();
        let mut at = usize::try_from(offset).unwrap_or(usize::MAX);
        let mut written = 0;
        for part in parts {
            let end = at.saturating_add(part.len());
            let room = bytes.get_mut(at..end).ok_or(io::ErrorKind::StorageFull)?;
            room.copy_from_slice(part);
            written += part.len();
            at = end;
        }
        Ok(written)
    }

    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }

    fn sync_all(&self) -> io::Result<()> {
        Ok(())
    }

    fn set_len(&self, _bytes: u64) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

impl Disk for OneFile {
    fn path(&self, name: &str) -> PathBuf {
        name.into()
    }

    fn list(&self) -> io::Result<Vec<String>> {
        Ok(vec![file_name(0, 1, 0)])
    }

    fn create(&self, _name: &str, _bytes: u64) -> io::Result<Arc<dyn DiskFile>> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn open(&self, _name: &str) -> io::Result<Arc<dyn DiskFile>> {
        Ok(Arc::new(self.clone()))
    }

    fn rename(&self, _from: &str, _to: &str) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn remove(&self, _name: &str) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn sync_dir(&self) -> io::Result<()> {
        Ok(())
    }

    fn salt(&self) -> u64 {
        SALT
    }
}

fn head(marks: Marks) -> Vec<u8> {
    Header { group: 0, sequence: 1, salt: SALT, previous_end: 0, marks }.encode()
}

/// The first byte says what the rest is: a whole file, what stands behind a head, or a list of frames.
pub(crate) fn log_frames(data: &[u8]) {
    let Some((choice, rest)) = data.split_first() else { return };
    let file = match choice % 3 {
        0 => rest.to_vec(),
        1 => [head(Marks::default()), rest.to_vec()].concat(),
        _ => sealed(rest),
    };
    let disk = OneFile(Arc::new(Mutex::new(file)));
    let Ok(Some(first)) = replay(&disk, 0) else { return };
    // What was found once is found again: a torn tail was cleared, and nothing else was touched.
    let again = replay(&disk, 0).expect("what was read once is read again").expect("there is a log");
    assert_eq!((again.marks, again.clean, again.dropped_bytes), (first.marks, first.clean, 0));
    assert_eq!(again.committed(), first.committed());
}

/// `last index u8 x 2 | (kind u8 | length u8 | body) ...`; kind 0 ends a batch, whose `synced` is its length.
fn sealed(input: &[u8]) -> Vec<u8> {
    let [index, has_last, frames @ ..] = input else { return head(Marks::default()) };
    // The ends of the numbers are where additions go wrong: the last index there is, and one that is none.
    let index = match *index {
        u8::MAX => INDEX_MAX,
        254 => u64::MAX - 1,
        index => u64::from(index),
    };
    let last = (has_last & 1 == 1).then_some(LogId { term: 1, node: 1, index });
    let mut out = head(Marks { last, purged: last, ..Marks::default() });
    let mut encoder = BatchEncoder::new(SALT, out.len() as u64);
    let mut rest = frames;
    while let [kind, length, behind @ ..] = rest {
        let (body, behind) = behind.split_at(usize::from(*length).min(behind.len()));
        rest = behind;
        if let Some(kind) = Kind::from_u8(*kind) {
            encoder.frame(kind, body, &Bytes::new());
            continue;
        }
        encoder.finish(u64::from(*length));
        let next = encoder.end();
        for slice in encoder.slices() {
            out.extend_from_slice(&slice);
        }
        encoder = BatchEncoder::new(SALT, next);
    }
    for slice in encoder.slices() {
        out.extend_from_slice(&slice);
    }
    out
}

#[cfg(test)]
pub(in crate::raft) fn seeds() -> Vec<(&'static str, &'static str, Vec<u8>)> {
    let id = |index: u64| [1_u64, 1, index].iter().flat_map(|word| word.to_le_bytes()).collect::<Vec<u8>>();
    let mut frames = vec![2, 0, 0];
    for index in 0..3 {
        frames.extend([1, 27]);
        frames.extend(id(index));
        frames.extend(b"abc");
    }
    frames.extend([3, 32, 1, 0, 0, 0, 0, 0, 0, 0]);
    frames.extend(id(1));
    frames.extend([0, 0, 6, 0, 0, 0]);
    let file = sealed(&frames[1..]);
    vec![
        ("log_frames", "sealed", frames),
        ("log_frames", "behind_head", [vec![1], file[256..].to_vec()].concat()),
        ("log_frames", "file", [&[0][..], include_bytes!("testdata/v1-first.log")].concat()),
    ]
}
