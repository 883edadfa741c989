//! Rows brought into order beyond memory: runs that were sorted in memory, one behind the other in a file, then merged.
//!
//! ```text
//! push --> in memory, up to a bound --> sorted, of equal keys the last --> file:  run | run | run
//!                                                                                   \    |    /
//!                                               next <-- the smallest key, of equal ones that of the newest run
//!
//! row in the file   key length u32 le | value length u32 le | key | value
//! ```
//!
//! The file is scratch of one process: it has no name once it is open, no version, and no other process reads it.
//!
//! Memory: one run while rows come in, then a buffer per run, which shrink as runs get more, down to a page each.

use std::cmp::Ordering;
use std::collections::BinaryHeap;
use std::collections::binary_heap::PeekMut;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufReader, BufWriter, ErrorKind, Read, Write};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

/// Memory of all buffers of a merge, about.
const MERGE_BYTES: u64 = 16 << 20;
const BUFFER_BYTES_MIN: u64 = 4 << 10;
const BUFFER_BYTES_MAX: u64 = 1 << 20;
/// Bytes of a key that are compared as one number.
const HEAD_BYTES: usize = 16;

/// Takes rows in any order.
pub(crate) struct Sorter {
    file: BufWriter<File>,
    written: u64,
    runs: Vec<Range<u64>>,
    run_bytes: usize,
    /// Keys and values of the run in memory.
    bytes: Vec<u8>,
    rows: Vec<Place>,
}

/// Where a row of the run in memory is.
#[derive(Clone, Copy)]
struct Place {
    head: u128,
    at: usize,
    key: u32,
    value: u32,
}

impl Place {
    fn key<'a>(&self, bytes: &'a [u8]) -> &'a [u8] {
        &bytes[self.at..][..self.key as usize]
    }

    /// By key, then by the order of coming in.
    fn compare(&self, other: &Place, bytes: &[u8]) -> Ordering {
        self.head
            .cmp(&other.head)
            .then_with(|| self.key(bytes).cmp(other.key(bytes)))
            .then(self.at.cmp(&other.at))
    }
}

/// The first bytes of a key; orders as the keys do, and equal ones need a look at the rest.
fn head(key: &[u8]) -> u128 {
    let mut head = [0; HEAD_BYTES];
    let known = key.len().min(HEAD_BYTES);
    head[..known].copy_from_slice(&key[..known]);
    u128::from_be_bytes(head)
}

fn length(field: &[u8]) -> io::Result<u32> {
    u32::try_from(field.len()).map_err(|_| io::Error::new(ErrorKind::InvalidInput, "a row of 4 GiB or more"))
}

impl Sorter {
    /// A sorter that holds about `run_bytes` in memory, with its file at `path`, which is unlinked at once.
    pub(crate) fn new(path: &Path, run_bytes: usize) -> io::Result<Sorter> {
        let file = OpenOptions::new().read(true).write(true).create_new(true).open(path)?;
        fs::remove_file(path)?;
        Ok(Sorter {
            file: BufWriter::with_capacity(1 << 20, file),
            written: 0,
            runs: Vec::new(),
            run_bytes,
            bytes: Vec::new(),
            rows: Vec::new(),
        })
    }

    /// Takes a row; of rows with equal keys the last counts.
    pub(crate) fn push(&mut self, key: &[u8], value: &[u8]) -> io::Result<()> {
        let added = key.len() + value.len() + size_of::<Place>();
        if !self.rows.is_empty()
            && self.bytes.len() + self.rows.len() * size_of::<Place>() + added > self.run_bytes
        {
            self.spill()?;
        }
        let place = Place { head: head(key), at: self.bytes.len(), key: length(key)?, value: length(value)? };
        self.rows.push(place);
        self.bytes.extend_from_slice(key);
        self.bytes.extend_from_slice(value);
        Ok(())
    }

    fn spill(&mut self) -> io::Result<()> {
        let Self { file, bytes, rows, .. } = self;
        rows.sort_unstable_by(|one, two| one.compare(two, bytes));
        let from = self.written;
        for (number, row) in rows.iter().enumerate() {
            let key = row.key(bytes);
            if rows.get(number + 1).is_some_and(|next| next.key(bytes) == key) {
                continue;
            }
            let value = &bytes[row.at + key.len()..][..row.value as usize];
            file.write_all(&row.key.to_le_bytes())?;
            file.write_all(&row.value.to_le_bytes())?;
            file.write_all(key)?;
            file.write_all(value)?;
            self.written += 8 + u64::from(row.key) + u64::from(row.value);
        }
        self.runs.push(from..self.written);
        rows.clear();
        bytes.clear();
        Ok(())
    }

    /// All rows in order of their keys, each key once.
    pub(crate) fn merge(mut self) -> io::Result<Merged> {
        if !self.rows.is_empty() {
            self.spill()?;
        }
        // A row may have been larger than a run.
        (self.bytes, self.rows) = (Vec::new(), Vec::new());
        let file = Arc::new(self.file.into_inner().map_err(io::IntoInnerError::into_error)?);
        let share = MERGE_BYTES / (self.runs.len() as u64).max(1);
        let buffer = usize::try_from(share.clamp(BUFFER_BYTES_MIN, BUFFER_BYTES_MAX)).unwrap_or(usize::MAX);
        let mut fronts = BinaryHeap::with_capacity(self.runs.len());
        for (run, range) in self.runs.into_iter().enumerate() {
            let section = Section { file: file.clone(), range };
            let mut front =
                Front { row: Row::default(), run, rest: BufReader::with_capacity(buffer, section) };
            if front.advance()? {
                fronts.push(front);
            }
        }
        Ok(Merged { fronts, row: Row::default() })
    }
}

/// Rows in order.
pub(crate) struct Merged {
    fronts: BinaryHeap<Front>,
    row: Row,
}

#[derive(Default)]
struct Row {
    key: Vec<u8>,
    value: Vec<u8>,
}

impl Merged {
    /// Key and value of the next row.
    pub(crate) fn next(&mut self) -> io::Result<Option<(&[u8], &[u8])>> {
        let Some(mut first) = self.fronts.peek_mut() else { return Ok(None) };
        std::mem::swap(&mut self.row, &mut first.row);
        step(first)?;
        // What older runs have of the same key.
        while let Some(front) = self.fronts.peek_mut() {
            if front.row.key != self.row.key {
                break;
            }
            step(front)?;
        }
        Ok(Some((&self.row.key, &self.row.value)))
    }
}

fn step(mut front: PeekMut<'_, Front>) -> io::Result<()> {
    if !front.advance()? {
        PeekMut::pop(front);
    }
    Ok(())
}

/// The next row of one run.
struct Front {
    row: Row,
    run: usize,
    rest: BufReader<Section>,
}

impl Front {
    /// Reads the next row; false at the end of the run.
    fn advance(&mut self) -> io::Result<bool> {
        let mut lengths = [[0; 4]; 2];
        if self.rest.buffer().is_empty() && self.rest.get_ref().range.is_empty() {
            return Ok(false);
        }
        self.rest.read_exact(lengths.as_flattened_mut())?;
        let [key, value] = lengths.map(u32::from_le_bytes);
        self.fill(key, |row| &mut row.key)?;
        self.fill(value, |row| &mut row.value)?;
        Ok(true)
    }

    fn fill(&mut self, length: u32, field: impl Fn(&mut Row) -> &mut Vec<u8>) -> io::Result<()> {
        let field = field(&mut self.row);
        field.clear();
        let read = self.rest.by_ref().take(u64::from(length)).read_to_end(field)?;
        if read == length as usize { Ok(()) } else { Err(ErrorKind::UnexpectedEof.into()) }
    }
}

/// The heap gives its greatest: the smallest key, and of equal ones the newest run.
impl Ord for Front {
    fn cmp(&self, other: &Self) -> Ordering {
        other.row.key.cmp(&self.row.key).then(self.run.cmp(&other.run))
    }
}

impl PartialOrd for Front {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Front {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Front {}

/// One run in the file.
struct Section {
    file: Arc<File>,
    range: Range<u64>,
}

impl Read for Section {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let left = usize::try_from(self.range.end - self.range.start).unwrap_or(usize::MAX);
        let wanted = buf.len().min(left);
        let read = self.file.read_at(&mut buf[..wanted], self.range.start)?;
        self.range.start += read as u64;
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    type Rows = Vec<(Vec<u8>, Vec<u8>)>;

    fn sorted(rows: &Rows, run_bytes: usize) -> Rows {
        let dir = tempfile::tempdir().unwrap();
        let mut sorter = Sorter::new(&dir.path().join("rows"), run_bytes).unwrap();
        for (key, value) in rows {
            sorter.push(key, value).unwrap();
        }
        let (mut merged, mut out) = (sorter.merge().unwrap(), Rows::new());
        while let Some((key, value)) = merged.next().unwrap() {
            out.push((key.to_vec(), value.to_vec()));
        }
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0, "nothing is left behind");
        out
    }

    proptest! {
        #[test]
        fn rows_come_back_in_order_and_the_last_of_a_key_counts(
            rows in prop::collection::vec(
                (prop::collection::vec(0_u8..3, 0..20), prop::collection::vec(any::<u8>(), 0..40)), 0..200),
            run_bytes in 1_usize..4000,
        ) {
            let expected: BTreeMap<Vec<u8>, Vec<u8>> = rows.iter().cloned().collect();
            prop_assert_eq!(sorted(&rows, run_bytes), expected.into_iter().collect::<Rows>());
        }
    }

    #[test]
    fn a_row_larger_than_a_run_is_a_run() {
        let rows = vec![(vec![2; 3], vec![0; 5000]), (vec![1; 9000], vec![]), (vec![], vec![7])];
        let mut expected = rows.clone();
        expected.sort();
        assert_eq!(sorted(&rows, 100), expected);
    }
}
