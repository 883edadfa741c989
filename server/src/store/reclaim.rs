//! Gives the space of large deletions back: a thread that compacts the ranges that PDEL and FLUSHDB have emptied.
//!
//! ```text
//! want(range) ... want(range)   gathered per database, at most one range each
//!        |  after_flush         the deletions are in tables now, or on their way
//!        v
//!     the thread                waits for that flush, then compacts one range after the other
//! ```
//!
//! RocksDB flushes the memtables when a compaction of a range begins. That is the one flush that is not the applier's,
//! so two things hold while the thread has work ([`Reclaimer::active`]): the caller syncs the Raft log before it applies,
//! and an entry that needs several writes waits for the piece under way and keeps the next one off
//! ([`Reclaimer::hold`]). A piece is a few files, so that nobody waits long.
//!
//! Whole files are never dropped unread (`DeleteFilesInRange`): a file may hold keys written after the deletion, and a
//! view may still need those from before it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

use super::engine::{DATA, Live, SCAN};
use super::{DbIndex, Fatal, key};

/// How often the thread looks whether the flush that it waits for has ended.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// Files of one piece; with tables of 64 MiB about half a gigabyte to read and, being mostly deleted, little to write.
const PIECE_FILES: usize = 8;

/// Range of `data` keys; an end of `None` is the end of the database.
type Range = (Vec<u8>, Option<Vec<u8>>);

/// The handle that the applier holds; ends the thread when dropped.
pub(crate) struct Reclaimer {
    wanted: BTreeMap<DbIndex, Range>,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    work: Mutex<Work>,
    changed: Condvar,
}

#[derive(Default)]
struct Work {
    ranges: BTreeMap<DbIndex, Range>,
    live: Option<Arc<Live>>,
    busy: bool,
    /// The applier is in the middle of an entry.
    held: bool,
    stop: bool,
}

impl Reclaimer {
    /// Starts the thread.
    pub(crate) fn start() -> Result<Reclaimer, Fatal> {
        let shared = Arc::new(Shared::default());
        let theirs = shared.clone();
        let thread = std::thread::Builder::new()
            .name("reclaim".to_owned())
            .spawn(move || run(&theirs))
            .map_err(|error| Fatal::new("start thread reclaim", error))?;
        Ok(Reclaimer { wanted: BTreeMap::new(), shared, thread: Some(thread) })
    }

    /// Asks for a range, to be compacted after the next flush.
    pub(crate) fn want(&mut self, db: DbIndex, from: Vec<u8>, to: Option<Vec<u8>>) {
        merge(&mut self.wanted, db, (from, to));
    }

    /// Hands the ranges over; a flush of their deletions has begun.
    pub(crate) fn after_flush(&mut self, live: &Arc<Live>) {
        if self.wanted.is_empty() {
            return;
        }
        let mut work = self.shared.work.lock();
        for (db, range) in std::mem::take(&mut self.wanted) {
            merge(&mut work.ranges, db, range);
        }
        work.live = Some(live.clone());
        self.shared.changed.notify_all();
    }

    /// True while a compaction may flush the memtables at any moment.
    pub(crate) fn active(&self) -> bool {
        let work = self.shared.work.lock();
        work.busy || !work.ranges.is_empty()
    }

    /// Lets the piece under way end, and no other begin before [`Reclaimer::release`].
    pub(crate) fn hold(&self) {
        let mut work = self.shared.work.lock();
        work.held = true;
        while work.busy {
            self.shared.changed.wait(&mut work);
        }
    }

    /// The entry is complete.
    pub(crate) fn release(&self) {
        self.shared.work.lock().held = false;
        self.shared.changed.notify_all();
    }

    /// Forgets everything: the database has been replaced.
    pub(crate) fn forget(&mut self) {
        self.wanted.clear();
        let mut work = self.shared.work.lock();
        work.ranges.clear();
        work.live = None;
    }

    /// Waits until nothing is left to do.
    #[cfg(test)]
    pub(crate) fn settle(&self) {
        let mut work = self.shared.work.lock();
        while work.busy || !work.ranges.is_empty() {
            self.shared.changed.wait(&mut work);
        }
    }
}

impl Drop for Reclaimer {
    fn drop(&mut self) {
        let live = {
            let mut work = self.shared.work.lock();
            work.stop = true;
            self.shared.changed.notify_all();
            work.live.take()
        };
        // Ends a compaction that is under way; what it has not done is done by RocksDB in its own time.
        if let Some(live) = live {
            live.db.cancel_all_background_work(false);
        }
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("thread reclaim panicked");
        }
    }
}

/// One range per database: the smallest that holds both.
fn merge(ranges: &mut BTreeMap<DbIndex, Range>, db: DbIndex, (from, to): Range) {
    let to = to.or_else(|| Some(key::after_db(db).to_vec()));
    match ranges.get_mut(&db) {
        Some(range) => {
            range.0 = from.min(std::mem::take(&mut range.0));
            range.1 = to.max(range.1.take());
        }
        None => {
            ranges.insert(db, (from, to));
        }
    }
}

fn run(shared: &Shared) {
    let mut work = shared.work.lock();
    while !work.stop {
        let Some(live) = work.live.clone().filter(|_| !work.ranges.is_empty()) else {
            shared.changed.wait(&mut work);
            continue;
        };
        if work.held || live.flushing() {
            drop(live);
            shared.changed.wait_for(&mut work, LOOK_AGAIN);
            continue;
        }
        let Some((db, (from, to))) = work.ranges.pop_first() else { continue };
        work.busy = true;
        let rest = parking_lot::MutexGuard::unlocked(&mut work, || compact_piece(&live, db, &from, to));
        work.busy = false;
        if let Some(rest) = rest {
            merge(&mut work.ranges, db, rest);
        }
        if work.ranges.is_empty() && !work.stop {
            // Nothing may keep a replaced database open.
            work.live = None;
        }
        shared.changed.notify_all();
    }
}

/// Compacts the first piece of a range, and says what is left. With the last piece goes SCAN's index.
fn compact_piece(live: &Live, db: DbIndex, from: &[u8], to: Option<Vec<u8>>) -> Option<Range> {
    let end = key::after_db(db);
    let to = to.unwrap_or_else(|| end.to_vec());
    let cut = live.piece_end(DATA, from, &to, PIECE_FILES);
    let result = match &cut {
        Some(cut) => live.compact(DATA, from, cut),
        None => live.compact(DATA, from, &to).and_then(|()| live.compact(SCAN, &[db], &end)),
    };
    if let Err(error) = result {
        tracing::warn!(%error, db, "compact emptied range");
        return None;
    }
    cut.map(|cut| (cut, Some(to)))
}
