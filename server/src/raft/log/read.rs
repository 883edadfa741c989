//! Reading entries: from the cache, else from the files, checked.

use std::sync::Arc;

use bytes::Bytes;

use super::disk::read_exact;
use super::error::LogError;
use super::frame::{ENTRY_HEAD_BYTES, HEAD_BYTES, entry_bytes};
use super::index::Place;
use super::recovery::check_entry;
use super::segment::Segment;
use super::state::{Inner, Shared};
use super::{LogEntry, RaftLog};
use crate::store::LogId;

/// Where an entry's bytes are.
enum Found {
    Cached(LogEntry),
    InFile { id: LogId, segment: Arc<Segment>, place: Place },
}

impl RaftLog {
    /// Reads entries from `from` on, up to `to_exclusive` or the end of the log, until `bytes_max` payload bytes are
    /// reached; at least one entry if `from` is there, none if `from` is behind the end. Blocks on the disk for entries
    /// that are not cached.
    ///
    /// # Errors
    /// [`LogError::Purged`] if `from` is behind the purge point; [`LogError::Damaged`], [`LogError::Io`].
    pub fn read(&self, from: u64, to_exclusive: u64, bytes_max: u64) -> Result<Vec<LogEntry>, LogError> {
        let found = {
            let inner = self.shared.inner.lock();
            find(&inner, from, to_exclusive, bytes_max)?
        };
        let mut entries = Vec::with_capacity(found.len());
        let mut rest = found.as_slice();
        while let Some(first) = rest.first() {
            let taken = match first {
                Found::Cached(entry) => {
                    entries.push(entry.clone());
                    1
                }
                Found::InFile { segment, .. } => read_run(&self.shared, segment, rest, &mut entries)?,
            };
            rest = &rest[taken..];
        }
        Ok(entries)
    }
}

fn find(inner: &Inner, from: u64, to_exclusive: u64, bytes_max: u64) -> Result<Vec<Found>, LogError> {
    let to = to_exclusive.min(inner.ids.next_index());
    if let Some(purged) = inner.ids.purged().filter(|purged| from <= purged.index && from < to) {
        return Err(LogError::Purged { index: from, upto: purged.index });
    }
    let mut found = Vec::new();
    let mut bytes = 0;
    let mut segment: Option<Arc<Segment>> = None;
    for index in from..to {
        let lost = || LogError::Misuse(format!("entry {index} has no place (a bug)"));
        let id = inner.ids.get(index).ok_or_else(lost)?;
        let (item, length) = if let Some(cached) = inner.cache.get(index) {
            (Found::Cached(LogEntry { id, bytes: cached.clone() }), cached.len() as u64)
        } else {
            let (sequence, place) = inner.places.get(index).ok_or_else(lost)?;
            let known = segment.filter(|segment| segment.sequence == sequence);
            let known = known.or_else(|| find_segment(inner, sequence)).ok_or_else(lost)?;
            segment = Some(Arc::clone(&known));
            (Found::InFile { id, segment: known, place }, u64::from(place.bytes))
        };
        bytes += length;
        if !found.is_empty() && bytes > bytes_max {
            break;
        }
        found.push(item);
    }
    Ok(found)
}

fn find_segment(inner: &Inner, sequence: u64) -> Option<Arc<Segment>> {
    let at = inner.segments.binary_search_by_key(&sequence, |segment| segment.sequence).ok()?;
    inner.segments.get(at).cloned().map(Arc::new)
}

/// Reads the entries at the start of `found` that stand in this segment with one read; returns how many.
fn read_run(
    shared: &Shared,
    segment: &Segment,
    found: &[Found],
    entries: &mut Vec<LogEntry>,
) -> Result<usize, LogError> {
    let run = || {
        found.iter().map_while(|item| match item {
            Found::InFile { id, segment: its, place } if its.sequence == segment.sequence => {
                Some((*id, *place))
            }
            _ => None,
        })
    };
    let start = run().next().map_or(0, |(_, place)| u64::from(place.offset));
    let end =
        run().last().map_or(0, |(_, place)| u64::from(place.offset) + entry_bytes(place.bytes as usize));
    let path = || shared.disk.path(&segment.name);
    let mut buffer = vec![0; usize::try_from(end - start).unwrap_or(0)];
    read_exact(segment.file.as_ref(), &mut buffer, start)
        .map_err(|error| LogError::io("read", path(), &error))?;
    let buffer = Bytes::from(buffer);
    let mut count = 0;
    for (id, place) in run() {
        let offset = u64::from(place.offset);
        let at = usize::try_from(offset - start).unwrap_or(usize::MAX);
        check_entry(&buffer[at..], offset, segment.salt, id)
            .map_err(|what| LogError::damaged(path(), offset, format!("{what}, entry {id}")))?;
        let payload = at + HEAD_BYTES + ENTRY_HEAD_BYTES;
        entries.push(LogEntry { id, bytes: buffer.slice(payload..payload + place.bytes as usize) });
        count += 1;
    }
    Ok(count)
}
