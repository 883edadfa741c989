//! Looks at the machine before the node trusts it: sync speed of the log directory, free space, memory.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::time::Duration;

use crate::clock;
use crate::config::units::show_bytes;

/// Longest time that the sync probe takes, but for the one sync that runs when it is over.
const PROBE_TIME: Duration = Duration::from_millis(200);
/// Syncs at most.
const PROBE_SYNCS: usize = 32;
/// Bytes of one probe write: a small batch.
const PROBE_BYTES: usize = 4096;
/// A sync that reaches a disk or a flash cell takes longer than this; one with a protected cache needs about 30 us.
const TOO_FAST: Duration = Duration::from_micros(20);

/// What the sync probe found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SyncTimes {
    /// Syncs measured.
    pub count: usize,
    /// Half of them were faster.
    pub median: Duration,
    /// The slowest.
    pub max: Duration,
}

/// Writes 4 KiB and syncs, again and again for up to 200 ms, into a file of its own that is removed again.
///
/// # Errors
/// The directory cannot be written to.
pub fn sync_times(dir: &Path) -> std::io::Result<SyncTimes> {
    let path = dir.join(format!(".sync-probe-{}", std::process::id()));
    let file = OpenOptions::new().create(true).write(true).truncate(true).open(&path)?;
    let measured = measure(&file);
    // The probe's answer counts more than a leftover of 128 KiB.
    let removed = std::fs::remove_file(&path);
    let times = measured?;
    removed?;
    Ok(times)
}

fn measure(file: &File) -> std::io::Result<SyncTimes> {
    let block = [0x6b; PROBE_BYTES];
    // The first sync also writes the file's own metadata, which no later append does.
    file.write_all_at(&block, 0)?;
    file.sync_all()?;
    let begin = clock::monotonic();
    let mut times = Vec::with_capacity(PROBE_SYNCS);
    while times.len() < PROBE_SYNCS && (times.is_empty() || begin.elapsed() < PROBE_TIME) {
        let start = clock::monotonic();
        file.write_all_at(&block, (times.len() * PROBE_BYTES) as u64)?;
        file.sync_data()?;
        times.push(start.elapsed());
    }
    Ok(summary(&mut times))
}

/// Precondition: at least one time.
fn summary(times: &mut [Duration]) -> SyncTimes {
    times.sort_unstable();
    let at = |index: usize| times.get(index).copied().unwrap_or_default();
    SyncTimes { count: times.len(), median: at(times.len() / 2), max: at(times.len().saturating_sub(1)) }
}

/// One line for the operator when the sync times are suspect; `None` when they are good.
#[must_use]
pub fn verdict(times: &SyncTimes, dir: &Path, election_timeout_min: Duration) -> Option<String> {
    let figures = format!("median {:?}, slowest {:?} of {}", times.median, times.max, times.count);
    if times.median < TOO_FAST {
        return Some(format!(
            "fsync in {} returns before a disk can have the data ({figures}): a power cut may lose acknowledged \
             writes; use a real disk, no tmpfs and no cache that lies",
            dir.display()
        ));
    }
    if times.max > election_timeout_min / 2 {
        return Some(format!(
            "fsync in {} is slow ({figures}, election timeout {election_timeout_min:?}): elections without need are \
             likely; use a faster disk for log_dir or raise election_timeout_min and election_timeout_max",
            dir.display()
        ));
    }
    None
}

/// Space on the volume of a directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Space {
    /// Bytes that this process can still write.
    pub free_bytes: u64,
    /// Size of the volume.
    pub total_bytes: u64,
}

/// Space on the volume that holds `path`, one system call.
///
/// # Errors
/// The path does not exist or cannot be looked at.
pub fn space(path: &Path) -> std::io::Result<Space> {
    let found = rustix::fs::statvfs(path)?;
    // f_bavail leaves out what is reserved for root, as the writes of a plain user do.
    Ok(Space {
        free_bytes: found.f_bavail.saturating_mul(found.f_frsize),
        total_bytes: found.f_blocks.saturating_mul(found.f_frsize),
    })
}

/// One line when the volume is nearly full at start; `None` when it is not.
#[must_use]
pub fn space_verdict(space: Space, dir: &Path, reserve_bytes: u64) -> Option<String> {
    (space.free_bytes < reserve_bytes).then(|| {
        format!(
            "{} has {} bytes free, less than the reserve of {}: writes that grow the data will be refused; delete data, \
             enlarge the volume or lower disk_reserve_bytes",
            dir.display(),
            space.free_bytes,
            show_bytes(reserve_bytes)
        )
    })
}

/// Memory that this process may use: the smallest of its cgroup limits and the machine's memory.
#[must_use]
pub fn memory_bytes() -> Option<u64> {
    let number = |path: &str| std::fs::read_to_string(path).ok()?.trim().parse::<u64>().ok();
    let total = std::fs::read_to_string("/proc/meminfo").ok().and_then(|text| total_of(&text));
    // "max" of cgroup v2 is no number; the largest number of v1 loses against the machine's memory.
    [number("/sys/fs/cgroup/memory.max"), number("/sys/fs/cgroup/memory/memory.limit_in_bytes"), total]
        .into_iter()
        .flatten()
        .min()
}

fn total_of(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn times(median_us: u64, max_us: u64) -> SyncTimes {
        SyncTimes { count: 9, median: Duration::from_micros(median_us), max: Duration::from_micros(max_us) }
    }

    #[test]
    fn the_probe_measures_and_leaves_nothing_behind() {
        let dir = tempfile::tempdir().unwrap();
        let found = sync_times(dir.path()).unwrap();
        assert!(found.count >= 1 && found.count <= PROBE_SYNCS && found.median <= found.max);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
        assert!(sync_times(&dir.path().join("missing")).is_err());
    }

    #[test]
    fn the_summary_is_of_the_sorted_times() {
        let mut all = [5, 1, 9].map(Duration::from_millis);
        let found = summary(&mut all);
        assert_eq!(
            (found.count, found.median, found.max),
            (3, Duration::from_millis(5), Duration::from_millis(9))
        );
    }

    #[test]
    fn only_suspect_times_are_told() {
        let timeout = Duration::from_millis(350);
        let dir = Path::new("d");
        assert_eq!(verdict(&times(100, 20_000), dir, timeout), None);
        let fast = verdict(&times(3, 9), dir, timeout).unwrap();
        assert!(fast.starts_with(
            "fsync in d returns before a disk can have the data (median 3µs, slowest 9µs of 9)"
        ));
        let slow = verdict(&times(9_000, 175_001), dir, timeout).unwrap();
        assert!(slow.contains("is slow") && !slow.contains('\n'), "{slow}");
        assert_eq!(verdict(&times(9_000, 175_000), dir, timeout), None);
    }

    #[test]
    fn space_is_told_when_below_the_reserve() {
        let dir = tempfile::tempdir().unwrap();
        let found = space(dir.path()).unwrap();
        assert!(found.free_bytes <= found.total_bytes && found.total_bytes > 0);
        assert_eq!(space_verdict(found, dir.path(), 0), None);
        assert!(space_verdict(found, dir.path(), u64::MAX).unwrap().contains("refused"));
    }

    #[test]
    fn memory_is_found() {
        assert_eq!(total_of("MemTotal:       2048 kB\nMemFree: 1 kB\n"), Some(2048 * 1024));
        assert_eq!(total_of("nothing"), None);
        assert!(memory_bytes().unwrap() > 1024 * 1024);
    }
}
