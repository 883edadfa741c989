//! Writes one snapshot directory from a point-in-time view, so that it is wholly there or not at all.
//!
//! ```text
//! mkdir  <term>-<index>-<ms>.tmp
//! write  state.bin   (synced every few MiB, so that no large flush stalls the Raft log's fsync), sync, lock held
//! check  counts and digest of what was written against the store's own
//! write  meta.json, sync; sync the directory
//! rename to <term>-<index>-<ms>, sync the parent
//! ```
//!
//! A crash leaves only a `.tmp`, which [`super::Catalog::remove_stale`] clears at the next start; an error clears it at
//! once. The lock on `state.bin` tells a `.tmp` in use from a stale one.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use kvnode_api::snapshot::{FORMAT, FORMAT_VERSION, IndexRange, SnapshotMeta};
use sha2::{Digest, Sha256};

use super::catalog::{TMP_SUFFIX, sync_dir};
use super::format::{Header, RecordHash, Totals};
use super::writer::Writer;
use super::{META_FILE, STATE_FILE, SnapshotError, hex};
use crate::clock::{self, UnixMs};
use crate::store::{Fatal, Record, ViewMeta};

/// Bytes of dirty file pages before they are synced.
const SYNC_BYTES: u64 = 8 * 1024 * 1024;
/// Names tried before giving up: one per millisecond from the wanted one on.
const NAMES_MAX: u64 = 1000;

/// What the caller knows of a snapshot and the store does not.
#[derive(Clone, Debug)]
pub struct ExportContext {
    /// Cluster id.
    pub cluster_id: u64,
    /// Node id of this node.
    pub node_id: u64,
    /// Version of this server.
    pub server_version: String,
    /// Wall clock now; names the directory.
    pub created: UnixMs,
    /// The view holds every write acknowledged before the request (a read barrier was passed).
    pub quorum: bool,
    /// Id of the snapshot that a log archive chains from.
    pub parent: Option<String>,
    /// The store's record hash.
    pub hash: RecordHash,
    /// Highest rate of writing, bytes of `state.bin` per second; 0 = unlimited.
    pub bytes_per_second: u64,
}

/// Writes a snapshot of `records`, the content that `view` describes, under `snapshots_dir` (made if missing).
///
/// Returns the new directory and its `meta.json`. Blocks until everything is on disk. To cancel, let the iterator yield
/// an `Err`; what was written is removed.
///
/// # Errors
/// [`SnapshotError`]; `StoreMismatch` if the records are not what the view's counters and digests say.
pub fn export(
    view: &ViewMeta,
    records: impl Iterator<Item = Result<Record, Fatal>>,
    context: &ExportContext,
    snapshots_dir: &Path,
) -> Result<(PathBuf, SnapshotMeta), SnapshotError> {
    make_dir(snapshots_dir)?;
    let applied = view.applied.unwrap_or_default();
    let draft = Draft::begin(snapshots_dir, applied.term, applied.index, context.created)?;
    let state = draft.tmp.join(STATE_FILE);
    let (sink, totals) = write_state(view, records, context, &state)?;
    crash_point!("snapshot-state-written");
    check_against_store(view, &totals)?;
    let meta = describe(view, context, &draft.id, &totals, &sink);
    let mut line = serde_json::to_vec(&meta).map_err(|error| SnapshotError::Io {
        doing: "encode",
        path: draft.tmp.join(META_FILE),
        source: error.into(),
    })?;
    line.push(b'\n');
    write_synced(&draft.tmp.join(META_FILE), &line)?;
    crash_point!("snapshot-meta-written");
    let dir = draft.publish(snapshots_dir)?;
    // The lock goes only now: until the rename, the directory is in use.
    drop(sink);
    Ok((dir, meta))
}

/// The `state.bin` being written: hashes, paces and syncs what passes.
struct Sink {
    file: File,
    sha256: Sha256,
    size_bytes: u64,
    unsynced_bytes: u64,
    bytes_per_second: u64,
    started: std::time::Instant,
}

impl Sink {
    /// Sleeps until the bytes so far are allowed by the rate.
    #[expect(clippy::disallowed_methods, reason = "a thread of its own, paced by the clock")]
    fn pace(&self) {
        if self.bytes_per_second == 0 {
            return;
        }
        let due_ms = u128::from(self.size_bytes) * 1000 / u128::from(self.bytes_per_second);
        let passed = clock::monotonic().saturating_duration_since(self.started);
        let due = Duration::from_millis(u64::try_from(due_ms).unwrap_or(u64::MAX));
        std::thread::sleep(due.saturating_sub(passed));
    }
}

impl Write for Sink {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        let n = self.file.write(buf)?;
        self.sha256.update(&buf[..n]);
        self.size_bytes += n as u64;
        self.unsynced_bytes += n as u64;
        if self.unsynced_bytes >= SYNC_BYTES {
            self.file.sync_data()?;
            self.unsynced_bytes = 0;
        }
        self.pace();
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.sync_all()
    }
}

/// A `.tmp` directory that is removed unless it is published.
struct Draft {
    id: String,
    tmp: PathBuf,
    published: bool,
}

impl Draft {
    /// Makes the directory under the first free name. Making it is the lock against a second export of the same
    /// millisecond; the finished name is looked at after that, because it appears before the `.tmp` goes.
    fn begin(dir: &Path, term: u64, index: u64, created: UnixMs) -> Result<Self, SnapshotError> {
        for later in 0..NAMES_MAX {
            let id = format!("{term}-{index}-{}", created.0.saturating_add(later));
            let tmp = dir.join(format!("{id}{TMP_SUFFIX}"));
            match fs::create_dir(&tmp) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => continue,
                Err(error) => return Err(SnapshotError::io("create", &tmp)(error)),
            }
            let draft = Self { id, tmp, published: false };
            let taken = dir.join(&draft.id);
            if !taken.try_exists().map_err(SnapshotError::io("look at", &taken))? {
                return Ok(draft);
            }
        }
        let source =
            io::Error::new(io::ErrorKind::AlreadyExists, "every name is taken; remove stale snapshots");
        Err(SnapshotError::io("create a snapshot in", dir)(source))
    }

    /// Makes the directory durable and visible.
    fn publish(mut self, parent: &Path) -> Result<PathBuf, SnapshotError> {
        sync_dir(&self.tmp)?;
        let dir = parent.join(&self.id);
        fs::rename(&self.tmp, &dir).map_err(SnapshotError::io("rename", &self.tmp))?;
        self.published = true;
        crash_point!("snapshot-renamed-not-synced");
        sync_dir(parent)?;
        Ok(dir)
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        if !self.published
            && let Err(error) = fs::remove_dir_all(&self.tmp)
        {
            tracing::warn!(path = %self.tmp.display(), %error, "an unfinished snapshot was left behind");
        }
    }
}

fn write_state(
    view: &ViewMeta,
    records: impl Iterator<Item = Result<Record, Fatal>>,
    context: &ExportContext,
    path: &Path,
) -> Result<(Sink, Totals), SnapshotError> {
    let databases = u8::try_from(view.databases.len())
        .map_err(|_| SnapshotError::Refused { what: format!("{} databases", view.databases.len()) })?;
    let header = Header {
        cluster_id: context.cluster_id,
        applied: view.applied,
        log_time: view.log_time,
        created: context.created,
        databases,
        server_version: context.server_version.clone(),
    };
    let write = || SnapshotError::io("write", path);
    let file = File::create_new(path).map_err(SnapshotError::io("create", path))?;
    file.try_lock().map_err(|error| SnapshotError::io("lock", path)(error.into()))?;
    let sink = Sink {
        file,
        sha256: Sha256::new(),
        size_bytes: 0,
        unsynced_bytes: 0,
        bytes_per_second: context.bytes_per_second,
        started: clock::monotonic(),
    };
    let mut writer = Writer::new(sink, &header, context.hash).map_err(write())?;
    for record in records {
        writer.append(&record?).map_err(|error| match error {
            SnapshotError::Output(source) => write()(source),
            other => other,
        })?;
        crash_point!("snapshot-row-written");
    }
    writer.finish().map_err(write())
}

/// The digest and the counts are kept by apply, entry by entry; the records were read from disk. They must agree.
fn check_against_store(view: &ViewMeta, totals: &Totals) -> Result<(), SnapshotError> {
    for (number, (kept, read)) in view.databases.iter().zip(&totals.databases).enumerate() {
        if kept != read {
            let what = format!(
                "database {number} counts {} keys, {} with a deadline, digest {:032x}, but reads as {}, {}, {:032x}",
                kept.keys, kept.expires, kept.digest, read.keys, read.expires, read.digest
            );
            return Err(SnapshotError::StoreMismatch { what });
        }
    }
    Ok(())
}

fn describe(
    view: &ViewMeta,
    context: &ExportContext,
    id: &str,
    totals: &Totals,
    sink: &Sink,
) -> SnapshotMeta {
    let applied = view.applied.unwrap_or_default();
    SnapshotMeta {
        format: FORMAT.to_owned(),
        format_version: FORMAT_VERSION,
        id: id.to_owned(),
        cluster_id: format!("{:016x}", context.cluster_id),
        node_id: format!("{:016x}", context.node_id),
        group: 0,
        term: applied.term,
        index: applied.index,
        log_time_ms: view.log_time.0,
        created_at: rfc3339(context.created),
        created_at_ms: context.created.0,
        size_bytes: sink.size_bytes,
        sha256: hex(&sink.sha256.clone().finalize()),
        keys: totals.databases.iter().map(|db| db.keys).collect(),
        digest: format!("{:032x}", totals.digest()),
        server_version: context.server_version.clone(),
        parent: context.parent.clone(),
        quorum: context.quorum,
        index_range: view.applied.map(|applied| IndexRange { first: 0, last: applied.index }),
    }
}

/// Makes a directory durable, with its name in its parent.
fn make_dir(dir: &Path) -> Result<(), SnapshotError> {
    if dir.is_dir() {
        return Ok(());
    }
    fs::create_dir_all(dir).map_err(SnapshotError::io("create", dir))?;
    match dir.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => sync_dir(parent),
        _ => sync_dir(Path::new(".")),
    }
}

fn write_synced(path: &Path, bytes: &[u8]) -> Result<(), SnapshotError> {
    let mut file = File::create_new(path).map_err(SnapshotError::io("create", path))?;
    file.write_all(bytes).and_then(|()| file.sync_all()).map_err(SnapshotError::io("write", path))
}

/// `2026-11-22T13:03:56.779Z`. Years after 9999 get more digits.
pub(super) fn rfc3339(at: UnixMs) -> String {
    const DAY_MS: u64 = 24 * 60 * 60 * 1000;
    let (mut days, ms) = (at.0 / DAY_MS, at.0 % DAY_MS);
    let leap = |year: u64| year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    // Whole cycles of the calendar first: 400 years have 146,097 days.
    let mut year = 1970 + 400 * (days / 146_097);
    days %= 146_097;
    while days >= 365 + u64::from(leap(year)) {
        days -= 365 + u64::from(leap(year));
        year += 1;
    }
    let february = 28 + u64::from(leap(year));
    let mut month = 1;
    for length in [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30] {
        if days < length {
            break;
        }
        days -= length;
        month += 1;
    }
    let (hour, minute, second) = (ms / 3_600_000, ms / 60_000 % 60, ms / 1000 % 60);
    format!("{year:04}-{month:02}-{:02}T{hour:02}:{minute:02}:{second:02}.{:03}Z", days + 1, ms % 1000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_printed_as_rfc_3339() {
        // Expected values by `date -u -d @SECONDS +%FT%T`.
        for (ms, text) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (68_169_599_999, "1972-02-28T23:59:59.999Z"),
            (68_169_600_000, "1972-02-29T00:00:00.000Z"),
            (951_827_696_001, "2000-02-29T12:34:56.001Z"),
            (978_307_199_000, "2000-12-31T23:59:59.000Z"),
            (1_795_332_236_779, "2026-11-22T07:23:56.779Z"),
            (4_107_542_400_000, "2100-03-01T00:00:00.000Z"),
            (253_402_300_799_999, "9999-12-31T23:59:59.999Z"),
        ] {
            assert_eq!(rfc3339(UnixMs(ms)), text);
        }
        assert!(rfc3339(UnixMs(u64::MAX)).ends_with('Z'));
    }
}
