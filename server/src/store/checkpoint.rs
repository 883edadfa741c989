//! The whole state as a directory: built for another node, installed from one, or made from a snapshot's records.
//!
//! ```text
//! checkpoint   flush, then hard links to the tables + manifest           db-1 -> given directory
//! install      given directory -> db-2, open it, `ACTIVE` -> db-2, readers move over, db-1 goes with its last reader
//! seed         records -> db-2 (new, `loading.rs`), `ACTIVE` -> db-2, as above
//! ```
//!
//! Invariants
//! - A checkpoint holds exactly the state at its applied id; it is made by the writer between two entries.
//! - The state changes at the rename of `ACTIVE` and nowhere else. Before it, a crash leaves the old state and a
//!   left-over; after it, the new one.
//! - Readers see the old state or the new one, each query wholly one of them.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use rocksdb::checkpoint::Checkpoint;

use super::engine::Live;
use super::layout::files;
use super::loading::{RecordOrder, Terms};
use super::writer::Writer;
use super::{Applier, Fatal, LogId, Record, ViewMeta};

/// A built checkpoint: a directory of immutable files.
#[derive(Clone, Debug)]
pub struct CheckpointInfo {
    /// Last entry that it contains.
    pub applied: LogId,
    /// Membership in it.
    pub membership: Option<(LogId, Bytes)>,
    /// File names with sizes in bytes, sorted.
    pub files: Vec<(String, u64)>,
}

impl Applier {
    /// Builds a checkpoint in `into` (hard links), which must be on the same file system and must not exist yet.
    /// Precondition as for [`Applier::flush`]; makes the state durable as [`Applier::flush`] with `wait` does.
    ///
    /// # Errors
    /// [`Fatal`] if nothing has been applied yet, or on I/O. The state is not harmed; what may be left of `into` is
    /// the caller's to remove.
    pub fn checkpoint(&mut self, into: &Path) -> Result<CheckpointInfo, Fatal> {
        let doing = || format!("build checkpoint in {}", into.display());
        let (applied, membership) = self.position();
        let applied = applied.ok_or_else(|| Fatal::new(doing(), "nothing has been applied yet"))?;
        if !planted!("checkpoint-without-flush") {
            self.flush(true)?;
        }
        if let Some(parent) = into.parent() {
            fs::create_dir_all(parent).map_err(|error| Fatal::new(doing(), error))?;
        }
        let live = &self.writer.live;
        Checkpoint::new(&live.db)
            .and_then(|checkpoint| checkpoint.create_checkpoint(into))
            .map_err(|error| live.failed(&doing(), &error))?;
        crash_point!("checkpoint-linked-not-listed");
        Ok(CheckpointInfo { applied, membership, files: files(into)? })
    }

    /// Replaces the whole state by the checkpoint in `from` (moved, not copied; same file system), crash-safe by one
    /// rename. Readers see the old state or the new one. What is installed is durable.
    ///
    /// # Errors
    /// [`Fatal`]: `from` is damaged, empty or older than what is applied (the state is then as before), or I/O: the
    /// node must stop.
    pub fn install(&mut self, from: &Path) -> Result<(), Fatal> {
        self.check()?;
        let number = self.number + 1;
        let path = self.layout.adopt(from, number)?;
        crash_point!("install-moved-not-active");
        let refused = |what: String| Fatal::new(format!("install checkpoint from {}", from.display()), what);
        let live = Live::open(&path, self.store.options(), false)?;
        let (old, new) = (self.position().0, live.state().applied);
        if new.is_none() || new < old {
            // The left-over goes now and not at the next open, so that another install can be tried.
            live.replaced();
            let name = |id: Option<LogId>| id.map_or("nothing".to_owned(), |id| id.to_string());
            return Err(refused(format!("it holds {}, but {} is applied here", name(new), name(old))));
        }
        self.switch(live, number)
    }

    /// Fills an empty store with the records of a snapshot, as the state at `applied`. The state is durable when this
    /// returns; a crash before leaves the store empty.
    ///
    /// # Errors
    /// [`Fatal`]: the store is not empty, a record is an error or not in the order announced (the store is then still
    /// empty), or I/O.
    pub fn seed(
        &mut self,
        records: impl Iterator<Item = Result<Record, Fatal>>,
        order: RecordOrder,
        applied: LogId,
        membership: (LogId, Bytes),
    ) -> Result<ViewMeta, Fatal> {
        self.check()?;
        if let Some(id) = self.position().0 {
            return Err(Fatal::new(
                "fill the state from a snapshot",
                format!("entry {id} is applied already"),
            ));
        }
        let number = self.number + 1;
        let sizes = self.store.options();
        let live = Live::open(&self.layout.database(number), sizes, true)?;
        let terms = Terms { order, applied, membership };
        match live.load(sizes, records, terms, &|| self.store.given_up()) {
            Ok(()) => {
                let meta = live.state().view_meta();
                self.switch(live, number).map(|()| meta)
            }
            Err(error) => {
                live.replaced();
                Err(error)
            }
        }
    }

    /// Makes an open database the state.
    fn switch(&mut self, live: Arc<Live>, number: u64) -> Result<(), Fatal> {
        self.layout.activate(number)?;
        crash_point!("state-switched-not-used");
        self.number = number;
        self.reclaimer.forget();
        self.flushed = live.state().applied;
        self.writer = Writer::new(live.clone());
        self.store.replace(live);
        self.store.digests.clear();
        Ok(())
    }
}
