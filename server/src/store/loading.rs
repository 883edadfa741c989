//! Bulk loading: tables that are built in order beside a new database, and taken into it whole, instead of writes.
//!
//! ```text
//! records --[sorted, if they may come in any order]--> rows of data, rising --> tables of `data`
//!                                                          |
//!                                                          +--> keys of scan and expire --> sorted --> their tables
//! all tables --> ingested (moved, not copied) into the last level --> records of `meta` --> flushed
//! ```
//!
//! A write goes through the memtable's skip list, a flush and some compactions, each of which writes it again; a row
//! that is loaded is written once, where it stays.
//!
//! Nothing here is crash-safe by itself: the database is new, and becomes the state by the rename of `ACTIVE`
//! (`checkpoint.rs`). A crash before leaves a directory that the next open removes.
//!
//! Memory: the runs of the sorters and one table under construction, however much is loaded. Disk: beside the tables a
//! transient copy of the keys (of keys and values, if they come in any order).

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use rocksdb::{IngestExternalFileOptions, Options, SstFileWriter};

use super::engine::{DATA, EXPIRE, Live, SCAN, split_key, split_value};
use super::gathered::Marks;
use super::meta::{self, Database, State};
use super::sorted::Sorter;
use super::value::{self, Header};
use super::{DbIndex, Fatal, LogId, Record, StoreOptions, key, options};

/// Directory of what is under construction, inside the database's.
const DIRECTORY: &str = "loading";
/// Bytes of a table, about: what compaction would make, or a flush where that is less.
const TABLE_BYTES: usize = 64 << 20;
/// Memory of a sorter, about; less where memtables are small.
const RUN_BYTES: usize = 16 << 20;

/// What is known of the order of records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RecordOrder {
    /// They rise strictly by (database, key).
    Rising,
    /// Nothing; of records with equal keys the last counts.
    Any,
}

/// What records are loaded as.
pub(crate) struct Terms {
    pub(crate) order: RecordOrder,
    pub(crate) applied: LogId,
    pub(crate) membership: (LogId, Bytes),
}

impl Live {
    /// Fills this database, which is new and has no readers yet. All of it is durable when this returns.
    pub(crate) fn load(
        &self,
        sizes: StoreOptions,
        records: impl Iterator<Item = Result<Record, Fatal>>,
        terms: Terms,
        given_up: &impl Fn() -> bool,
    ) -> Result<(), Fatal> {
        let dir = self.path().join(DIRECTORY);
        let scratch = |error| scratch(&dir, error);
        fs::create_dir(&dir).map_err(scratch)?;
        let mut state = State::clone(&self.state());
        state.seed = meta::seed_from(terms.applied);
        (state.applied, state.membership) = (Some(terms.applied), Some(terms.membership));
        let mut rows = Rows::new(&dir, state, RUN_BYTES.min(sizes.memtable_bytes))?;
        let index = terms.applied.index;
        let data = self.build(DATA, &dir, sizes, |tables| match terms.order {
            RecordOrder::Rising => rows.take_rising(records, index, tables),
            RecordOrder::Any => rows.take_any(records, index, tables),
        })?;
        let Rows { state, scan, expire, .. } = rows;
        let scan = self.build(SCAN, &dir, sizes, |tables| tables.put_all(scan, |_, _| Ok(())))?;
        let expire = self.build(EXPIRE, &dir, sizes, |tables| tables.put_all(expire, |_, _| Ok(())))?;
        for (family, tables) in [(DATA, data), (SCAN, scan), (EXPIRE, expire)] {
            self.ingest(family, tables)?;
            crash_point!("restore-table-taken");
        }
        fs::remove_dir_all(&dir).map_err(scratch)?;
        let databases = (0..=DbIndex::MAX).zip(&state.databases);
        let filled = databases.filter(|(_, database)| database.stats.keys > 0).map(|(db, _)| db).collect();
        let marks = Marks { databases: filled, membership: true, seed: true };
        // No row is gathered: what goes to the memtable, and from there to disk, is the state after the tables.
        self.gather(|_| {}, marks, &Arc::new(state));
        self.settle(given_up)?;
        self.start_flush(Some(terms.applied), true, given_up)
    }

    /// Tables of one family, closed and synced.
    fn build(
        &self,
        family: &'static str,
        dir: &Path,
        sizes: StoreOptions,
        fill: impl FnOnce(&mut Tables<'_>) -> Result<(), Fatal>,
    ) -> Result<Vec<PathBuf>, Fatal> {
        let options = options::family(family, sizes).map_err(|error| self.failed("build tables", &error))?;
        let mut tables = Tables {
            live: self,
            options: &options,
            size_bytes: TABLE_BYTES.min(sizes.memtable_bytes) as u64,
            dir,
            family,
            open: None,
            done: Vec::new(),
        };
        fill(&mut tables)?;
        tables.close()?;
        Ok(tables.done)
    }

    fn ingest(&self, family: &str, tables: Vec<PathBuf>) -> Result<(), Fatal> {
        if tables.is_empty() {
            return Ok(());
        }
        let mut options = IngestExternalFileOptions::default();
        options.set_move_files(true);
        self.db
            .ingest_external_file_cf_opts(self.family(family)?, &options, tables)
            .map_err(|error| self.failed("take in tables", &error))
    }
}

fn scratch(dir: &Path, error: std::io::Error) -> Fatal {
    Fatal::new(format!("load records through {}", dir.display()), error)
}

/// What becomes of records: rows of `data`, keys of the other families, counts and digests.
struct Rows<'a> {
    dir: &'a Path,
    run_bytes: usize,
    state: State,
    scan: Sorter,
    expire: Sorter,
    raw_key: Vec<u8>,
    buffer: Vec<u8>,
}

impl<'a> Rows<'a> {
    fn new(dir: &'a Path, state: State, run_bytes: usize) -> Result<Self, Fatal> {
        let sorter = |family: &str| sorter(dir, family, run_bytes);
        let (scan, expire) = (sorter(SCAN)?, sorter(EXPIRE)?);
        Ok(Self { dir, run_bytes, state, scan, expire, raw_key: Vec::new(), buffer: Vec::new() })
    }

    fn take_rising(
        &mut self,
        records: impl Iterator<Item = Result<Record, Fatal>>,
        index: u64,
        tables: &mut Tables<'_>,
    ) -> Result<(), Fatal> {
        let (mut raw_key, mut raw_value) = (Vec::new(), Vec::new());
        for record in records {
            encode(&record?, index, &mut raw_key, &mut raw_value);
            tables.put(&raw_key, &raw_value)?;
            crash_point!("restore-row-loaded");
            self.count(&raw_key, &raw_value)?;
        }
        Ok(())
    }

    fn take_any(
        &mut self,
        records: impl Iterator<Item = Result<Record, Fatal>>,
        index: u64,
        tables: &mut Tables<'_>,
    ) -> Result<(), Fatal> {
        let mut sorter = sorter(self.dir, DATA, self.run_bytes)?;
        let (mut raw_key, mut raw_value) = (Vec::new(), Vec::new());
        for record in records {
            encode(&record?, index, &mut raw_key, &mut raw_value);
            sorter.push(&raw_key, &raw_value).map_err(|error| scratch(self.dir, error))?;
        }
        tables.put_all(sorter, |raw_key, raw_value| self.count(raw_key, raw_value))
    }

    fn count(&mut self, raw_key: &[u8], raw_value: &[u8]) -> Result<(), Fatal> {
        let (db, user_key) = split_key(raw_key)?;
        let (Header { tag, deadline, .. }, payload) = split_value(raw_value)?;
        let digest = value::digest(&mut self.buffer, db, tag, deadline, user_key, payload);
        let at = usize::from(db);
        if at >= self.state.databases.len() {
            self.state.databases.resize(at + 1, Database::default());
        }
        let stats = &mut self.state.databases[at].stats;
        stats.keys += 1;
        stats.expires += u64::from(deadline.is_some());
        stats.digest = stats.digest.wrapping_add(digest);
        let failed = |error| scratch(self.dir, error);
        key::write_scan(&mut self.raw_key, db, key::position(self.state.seed, user_key), user_key);
        self.scan.push(&self.raw_key, b"").map_err(failed)?;
        if deadline.is_some() {
            let place = key::expire(db, value::raw_deadline(deadline), user_key);
            self.expire.push(&place, b"").map_err(failed)?;
        }
        Ok(())
    }
}

fn sorter(dir: &Path, family: &str, run_bytes: usize) -> Result<Sorter, Fatal> {
    Sorter::new(&dir.join(format!("{family}.rows")), run_bytes).map_err(|error| scratch(dir, error))
}

fn encode(record: &Record, index: u64, raw_key: &mut Vec<u8>, raw_value: &mut Vec<u8>) {
    let Record { db, key, tag, deadline, value } = record;
    key::write_data(raw_key, *db, key);
    Header { tag: *tag, deadline: *deadline, index }.write(value, raw_value);
}

/// Tables of one family under construction, one after the other.
struct Tables<'a> {
    live: &'a Live,
    options: &'a Options,
    size_bytes: u64,
    dir: &'a Path,
    family: &'static str,
    open: Option<SstFileWriter<'a>>,
    done: Vec<PathBuf>,
}

impl Tables<'_> {
    /// Appends a row. One whose key does not rise is an error of `RocksDB`'s.
    fn put(&mut self, key: &[u8], value: &[u8]) -> Result<(), Fatal> {
        let live = self.live;
        let failed = |error: rocksdb::Error| live.failed("build a table", &error);
        let table = if let Some(table) = &mut self.open {
            table
        } else {
            let path = self.dir.join(format!("{}-{:06}.sst", self.family, self.done.len()));
            let table = SstFileWriter::create(self.options);
            table.open(&path).map_err(failed)?;
            self.done.push(path);
            self.open.insert(table)
        };
        table.put(key, value).map_err(failed)?;
        if table.file_size() >= self.size_bytes { self.close() } else { Ok(()) }
    }

    /// Appends what a sorter holds; `look` sees each row.
    fn put_all(
        &mut self,
        sorter: Sorter,
        mut look: impl FnMut(&[u8], &[u8]) -> Result<(), Fatal>,
    ) -> Result<(), Fatal> {
        let dir = self.dir;
        let failed = |error| scratch(dir, error);
        let mut merged = sorter.merge().map_err(failed)?;
        while let Some((key, value)) = merged.next().map_err(failed)? {
            self.put(key, value)?;
            look(key, value)?;
        }
        Ok(())
    }

    fn close(&mut self) -> Result<(), Fatal> {
        let Some(mut table) = self.open.take() else { return Ok(()) };
        table.finish().map_err(|error| self.live.failed("close a table", &error))
    }
}
