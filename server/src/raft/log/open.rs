//! Opening: recovery, the first segment of a fresh log, the writer thread.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::{Condvar, Mutex};

use super::disk::Disk;
use super::error::{LogError, is_full};
use super::frame::{BatchEncoder, Kind, SEAL_BYTES};
use super::index::{Cache, Ids, Places};
#[cfg(not(feature = "sim"))]
use super::os_disk::OsDisk;
use super::recovery::{Replayed, replay};
use super::runner::Runner;
use super::segment::{HEADER_BYTES, Header, Marks, Segment, create_segment};
use super::state::{Inner, Life, Shared, Tuning};
use super::stats::LogStats;
use super::writer::{Active, Writer};
use super::{LogOptions, RaftLog, Recovered};

/// Offsets are kept in 32 bits; an entry may stand behind the size that was asked for.
const SEGMENT_BYTES_MAX: u64 = 1 << 31;

impl RaftLog {
    /// Opens the log in `options.dir`, making it if there is none, and starts its writer thread.
    ///
    /// # Errors
    /// [`LogError::Damaged`] names file, offset and remedy when something that was durable is not as it was written;
    /// [`LogError::DiskFull`] when not even the first segment fits; [`LogError::Io`].
    #[allow(clippy::needless_pass_by_value, reason = "options are made for one log")]
    pub fn open(options: LogOptions) -> Result<(Arc<Self>, Recovered), LogError> {
        Self::open_on(disk_of(&options.dir)?, &options, Tuning::default())
    }

    /// Opens on any disk.
    pub(super) fn open_on(
        disk: Arc<dyn Disk>,
        options: &LogOptions,
        tuning: Tuning,
    ) -> Result<(Arc<Self>, Recovered), LogError> {
        let segment_bytes = options.segment_bytes.clamp(4096, SEGMENT_BYTES_MAX);
        let tuning = Tuning { reserve_bytes: tuning.reserve_bytes.min(segment_bytes / 8), ..tuning };
        let replayed = match replay(disk.as_ref(), options.group)? {
            Some(replayed) => replayed,
            None => fresh(disk.as_ref(), options.group, segment_bytes)?,
        };
        let recovered = Recovered {
            vote: replayed.marks.vote,
            committed: replayed.committed(),
            purged: replayed.marks.purged,
            last: replayed.marks.last,
            clean: replayed.clean,
            dropped_bytes: replayed.dropped_bytes,
        };
        let marks = replayed.marks;
        let active = activate(disk.as_ref(), &replayed)?;
        let shared = Arc::new(share(disk, options, replayed));
        let mut writer = Writer {
            shared: Arc::clone(&shared),
            tuning,
            durability: options.durability,
            group: options.group,
            segment_bytes,
            active,
            marks,
            unsynced_since: None,
        };
        if recovered.clean {
            writer.take_clean_back()?;
        }
        let log = Self {
            shared,
            queue_bytes_max: options.queue_bytes_max,
            unlinking: Mutex::new(()),
            runner: Runner::start(writer, options.group)?,
        };
        Ok((Arc::new(log), recovered))
    }
}

#[cfg(not(feature = "sim"))]
fn disk_of(dir: &Path) -> Result<Arc<dyn Disk>, LogError> {
    let disk =
        OsDisk::open(dir).map_err(|error| LogError::io("make the directory", dir.to_owned(), &error))?;
    Ok(Arc::new(disk))
}

#[cfg(feature = "sim")]
fn disk_of(dir: &Path) -> Result<Arc<dyn Disk>, LogError> {
    Ok(Arc::new(crate::sim::disk(dir)))
}

fn share(disk: Arc<dyn Disk>, options: &LogOptions, replayed: Replayed) -> Shared {
    let committed = replayed.committed();
    let Replayed { marks, ids, places, segments, .. } = replayed;
    let inner = Inner {
        cache: Cache::new(options.cache_bytes, ids.next_index()),
        ids,
        places,
        segments,
        vote: marks.vote,
        committed,
        flushed: marks.last,
        synced_at: VecDeque::new(),
        queue: VecDeque::new(),
        queue_bytes: 0,
        tickets: 0,
        written: 0,
        truncations: VecDeque::new(),
        life: Life::Open,
        failed: None,
        stats: LogStats::default(),
    };
    Shared {
        disk,
        inner: Mutex::new(inner),
        work: Condvar::new(),
        room: Condvar::new(),
        space: Condvar::new(),
    }
}

/// The first segment of a new log. An empty log counts as clean: it has nothing that could have been lost.
fn fresh(disk: &dyn Disk, group: u32, segment_bytes: u64) -> Result<Replayed, LogError> {
    let marks = Marks::default();
    let header = Header { group, sequence: 1, salt: disk.salt(), previous_end: 0, marks };
    let (name, file) = create_segment(disk, &header, segment_bytes).map_err(|(_, name, error)| {
        if is_full(&error) {
            LogError::DiskFull { path: disk.path(&name), cause: error.to_string() }
        } else {
            LogError::io("make", disk.path(&name), &error)
        }
    })?;
    let segment = Segment { sequence: 1, name, salt: header.salt, file, end: HEADER_BYTES };
    Ok(Replayed {
        marks,
        ids: Ids::new(None, None),
        places: Places::default(),
        segments: VecDeque::from([segment]),
        clean: true,
        dropped_bytes: 0,
    })
}

/// Makes durable what was found (it may have been in the page cache only) and returns the segment to write to.
fn activate(disk: &dyn Disk, replayed: &Replayed) -> Result<Active, LogError> {
    let segment =
        replayed.segments.back().ok_or_else(|| LogError::damaged(PathBuf::new(), 0, "no segment"))?;
    let failed = |error| LogError::io("sync", disk.path(&segment.name), &error);
    segment.file.sync_all().map_err(failed)?;
    disk.sync_dir().map_err(failed)?;
    Ok(Active {
        sequence: segment.sequence,
        name: segment.name.clone(),
        file: Arc::clone(&segment.file),
        salt: segment.salt,
        end: segment.end,
        synced: segment.end,
        capacity: segment.file.len().map_err(failed)?,
    })
}

impl Writer {
    /// Durably withdraws the CLEAN mark before anything is acknowledged: it would otherwise still be the last frame
    /// after a power cut that takes acknowledged, unsynced batches away (durability medium and low).
    fn take_clean_back(&mut self) -> Result<(), LogError> {
        let mut batch = BatchEncoder::new(self.active.salt, self.active.end);
        batch.mark(Kind::Opened);
        batch.finish(self.active.synced);
        if batch.end() + SEAL_BYTES > self.active.capacity {
            self.rotate(batch.end() - self.active.end).map_err(|trouble| self.give_up(trouble))?;
            return self.take_clean_back();
        }
        self.write(&batch).map_err(|trouble| self.give_up(trouble))?;
        crash_point!("clean-mark-withdrawn-not-synced");
        self.sync()
    }
}
