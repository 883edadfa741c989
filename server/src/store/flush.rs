//! What has become durable: flushes are started by us alone and noticed when they end.
//!
//! ```text
//! Applier::flush(false)   memtables switch in the calling thread; `running` = what was applied by then
//!         |               RocksDB writes the tables, syncs them, then its manifest: one atomic cut over all families
//!         v
//! poll                    no immutable memtable is left -> `durable` = that id
//! ```
//!
//! The binding has no event listener, so the end is found by a property: RocksDB counts a memtable as immutable until
//! its table is in the synced manifest.
//!
//! Invariants
//! - At most one flush runs, so memory holds at most two generations of memtables.
//! - `durable` is never ahead of the disk.

use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::path::Path;
use std::time::Duration;

use rocksdb::{ColumnFamily, FlushOptions};

use super::engine::{BACKGROUND_ERRORS, FAMILIES, Live, is_no_space};
use super::{Fatal, LogId};

/// How often a waiter looks for the end of a flush or for free space.
const LOOK_AGAIN: Duration = Duration::from_micros(if cfg!(feature = "sim") { 100 } else { 5_000 });

const LOOKS_PER_SECOND: u32 = 200;

/// Property that counts memtables which are not in a table yet.
const IMMUTABLE: &str = "rocksdb.num-immutable-mem-table";

/// What is durable and what is on its way.
#[derive(Debug, Default)]
pub(crate) struct Flushes {
    /// Last entry whose effects are on disk.
    pub(crate) durable: Option<LogId>,
    running: Option<Running>,
    /// How many flushes have ended; tells the reclaimer that what it waits for is on disk.
    pub(crate) ended: u64,
}

#[derive(Debug)]
struct Running {
    applied: Option<LogId>,
    errors_before: u64,
    /// Looks at a failed flush that found no want of space.
    with_space: u32,
}

/// After so many looks (one a second) a flush that failed is not taken to be tried again any more.
const LOOKS_MAX: u32 = 60;

impl Live {
    /// Notices the end of the running flush and returns what is durable.
    pub(crate) fn durable(&self) -> Option<LogId> {
        let mut flushes = self.flushes.lock();
        self.notice(&mut flushes);
        flushes.durable
    }

    /// True while a flush runs.
    pub(crate) fn flushing(&self) -> bool {
        let mut flushes = self.flushes.lock();
        self.notice(&mut flushes);
        flushes.running.is_some()
    }

    fn notice(&self, flushes: &mut Flushes) {
        let Some(running) = &flushes.running else { return };
        // Unknown counts as not finished: `durable` may lag, never lead.
        if self.property(IMMUTABLE) == Some(0) {
            crash_point!("flush-ended-not-noted");
            flushes.durable = running.applied;
            flushes.running = None;
            flushes.ended += 1;
            self.set_disk_error(None);
        } else if self.property(BACKGROUND_ERRORS).unwrap_or(0) > running.errors_before
            && self.disk_error().is_none()
        {
            self.set_disk_error(Some("a flush of the state failed and is tried again".to_owned()));
        }
    }

    /// Switches the memtables and has them written out, after an earlier flush has ended. `applied` is what they hold.
    pub(crate) fn start_flush(
        &self,
        applied: Option<LogId>,
        wait: bool,
        given_up: impl Fn() -> bool,
    ) -> Result<(), Fatal> {
        self.await_flush(&given_up)?;
        loop {
            let errors_before = self.property(BACKGROUND_ERRORS).unwrap_or(0);
            match self.switch_memtables() {
                Ok(()) => {
                    crash_point!("flush-begun");
                    self.flushes.lock().running = Some(Running { applied, errors_before, with_space: 0 });
                    break;
                }
                Err(error) => self.bear(&error, "flush state", &given_up)?,
            }
        }
        // RocksDB's threads are real in the simulation as well, so there nothing goes on beside them.
        if wait || cfg!(feature = "sim") { self.await_flush(&given_up) } else { Ok(()) }
    }

    fn switch_memtables(&self) -> Result<(), rocksdb::Error> {
        let mut options = FlushOptions::default();
        options.set_wait(false);
        let families: Vec<&ColumnFamily> =
            FAMILIES.iter().filter_map(|name| self.db.cf_handle(name)).collect();
        self.db.flush_cfs_opt(&families, &options)
    }

    /// Asks `RocksDB` for the error of a flush that has not ended, and has it tried again.
    pub(crate) fn check_flush(&self) -> Result<(), Fatal> {
        if !self.flushing() || self.disk_error().is_none() {
            return Ok(());
        }
        match self.switch_memtables() {
            Err(error) if !is_no_space(&error) => Err(self.failed("flush state", &error)),
            // RocksDB may hold the cause back and just stop its work, so the directory itself is asked.
            Ok(()) | Err(_) => self.probe(),
        }
    }

    /// Whether what a flush does can be done in the directory; want of space is no error.
    fn probe(&self) -> Result<(), Fatal> {
        let failed =
            |cause: String| Err(Fatal::new(format!("flush state in {}", self.path().display()), cause));
        match write_probe(&self.path().join("PROBE")) {
            Err(error) if matches!(error.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded) => Ok(()),
            Err(error) => failed(error.to_string()),
            Ok(()) => match &mut self.flushes.lock().running {
                Some(running) if running.with_space >= LOOKS_MAX => {
                    failed("it failed, there is space, and it was not tried again".to_owned())
                }
                Some(running) => {
                    running.with_space += 1;
                    Ok(())
                }
                None => Ok(()),
            },
        }
    }

    /// Waits for the running flush to end.
    #[expect(
        clippy::disallowed_methods,
        reason = "the apply thread; RocksDB has no notice of the end of a flush"
    )]
    fn await_flush(&self, given_up: &impl Fn() -> bool) -> Result<(), Fatal> {
        let mut looks = 0_u32;
        while self.flushing() {
            looks += 1;
            if looks.is_multiple_of(LOOKS_PER_SECOND) {
                self.check_flush()?;
            }
            // RocksDB tries again only for want of space. After any other failure a flush call returns its error; it
            // must name all families, since a flush of one alone would break the atomic cut.
            if self.disk_error().is_some()
                && let Err(error) = self.switch_memtables()
            {
                self.bear(&error, "flush state", given_up)?;
            }
            std::thread::sleep(LOOK_AGAIN);
        }
        Ok(())
    }

    /// Waits a moment after a failure for want of space; any other failure, and giving up, is final.
    #[expect(clippy::disallowed_methods, reason = "the apply thread; there is no notice of free space")]
    pub(crate) fn bear(
        &self,
        error: &rocksdb::Error,
        doing: &str,
        given_up: &impl Fn() -> bool,
    ) -> Result<(), Fatal> {
        if !is_no_space(error) || given_up() {
            return Err(self.failed(doing, error));
        }
        self.set_disk_error(Some(error.to_string()));
        std::thread::sleep(LOOK_AGAIN);
        Ok(())
    }
}

/// Makes, syncs and removes a small file.
fn write_probe(path: &Path) -> std::io::Result<()> {
    let mut file = File::create(path)?;
    file.write_all(&[0; 4096])?;
    file.sync_all()?;
    fs::remove_file(path)
}
