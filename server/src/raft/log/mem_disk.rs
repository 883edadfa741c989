//! A disk in memory that knows what was synced, can lose the rest, and fails on demand: for tests, and for the simulation.

use std::collections::BTreeMap;
use std::io::{self, IoSlice};
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

use crate::raft::log::disk::{Disk, DiskFile};

/// Unit in which a power cut keeps or loses unsynced bytes.
const SECTOR: usize = 512;

/// What fails, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// The n-th sync from now (0 = the next) fails with EIO; all that was written since the last one is lost.
    SyncEio(usize),
    /// The n-th write from now fails with EIO.
    WriteEio(usize),
    /// The n-th write from now fails with ENOSPC after half of its bytes.
    WriteEnospc(usize),
    /// Every write takes at most this many bytes.
    Short(usize),
}

#[derive(Default)]
struct State {
    dir: BTreeMap<String, Arc<Mutex<Content>>>,
    durable_dir: BTreeMap<String, Arc<Mutex<Content>>>,
    faults: Vec<Fault>,
    /// Mutating operations until the power is cut; `None` = never.
    power_left: Option<usize>,
    /// Mutating operations so far.
    operations: usize,
    /// Blocks that can still be allocated, in bytes.
    free: Option<u64>,
    syncs_held: bool,
    syncs_waiting: usize,
    salts: u64,
    trace: Vec<String>,
}

/// A file. Outside `unsynced`, `current` and `durable` hold the same, so that a sync copies what was written and not a
/// whole segment.
#[derive(Clone, Default)]
struct Content {
    current: Vec<u8>,
    durable: Vec<u8>,
    unsynced: Range<usize>,
}

impl Content {
    fn touch(&mut self, bytes: Range<usize>) {
        let unsynced = &self.unsynced;
        self.unsynced = if unsynced.is_empty() {
            bytes
        } else {
            unsynced.start.min(bytes.start)..unsynced.end.max(bytes.end)
        };
    }

    /// Zeros at the new end count as written.
    fn resize(&mut self, length: usize) {
        let before = self.current.len();
        self.touch(before.min(length)..before.max(length));
        self.current.resize(length, 0);
    }

    fn write(&mut self, bytes: &[u8], from: usize) {
        let to = from + bytes.len();
        if self.current.len() < to {
            self.resize(to);
        }
        self.touch(from..to);
        self.current[from..to].copy_from_slice(bytes);
    }

    fn sync(&mut self) {
        let length = self.current.len();
        self.durable.resize(length, 0);
        let Range { start, end } = std::mem::take(&mut self.unsynced);
        let changed = start.min(length)..end.min(length);
        self.durable[changed.clone()].copy_from_slice(&self.current[changed]);
    }

    /// What Linux does after a failed sync: the pages are marked clean, the next sync says all is well.
    fn forget_unsynced(&mut self) {
        self.current.clone_from(&self.durable);
        self.unsynced = 0..0;
    }
}

#[derive(Clone)]
pub(crate) struct MemDisk {
    state: Arc<Mutex<State>>,
    changed: Arc<Condvar>,
}

struct MemFile {
    disk: MemDisk,
    name: String,
    content: Arc<Mutex<Content>>,
}

fn eio() -> io::Error {
    io::Error::from_raw_os_error(5)
}

fn enospc() -> io::Error {
    io::Error::from(io::ErrorKind::StorageFull)
}

impl MemDisk {
    pub(crate) fn new() -> Self {
        Self::with(BTreeMap::new(), 1)
    }

    fn with(files: BTreeMap<String, Vec<u8>>, salts: u64) -> Self {
        let content = |bytes: Vec<u8>| {
            Arc::new(Mutex::new(Content { current: bytes.clone(), durable: bytes, unsynced: 0..0 }))
        };
        let dir: BTreeMap<_, _> = files.into_iter().map(|(name, bytes)| (name, content(bytes))).collect();
        let state = State { durable_dir: dir.clone(), dir, salts, ..State::default() };
        Self { state: Arc::new(Mutex::new(state)), changed: Arc::new(Condvar::new()) }
    }

    /// The disk as the next process sees it after this one was killed.
    pub(crate) fn after_kill(&self) -> Self {
        Self::with(self.files(), self.state.lock().salts)
    }

    /// The disk after a power cut: synced bytes, and each unsynced sector and name if `keep` says so.
    pub(crate) fn after_power_cut(&self, mut keep: impl FnMut() -> bool) -> Self {
        let state = self.state.lock();
        let mut dir = state.durable_dir.clone();
        for (name, file) in &state.dir {
            if !dir.contains_key(name) && keep() {
                dir.insert(name.clone(), Arc::clone(file));
            }
        }
        dir.retain(|name, _| state.dir.contains_key(name) || keep());
        let files = dir.into_iter().map(|(name, file)| {
            let Content { current, mut durable, .. } = file.lock().clone();
            if current.len() != durable.len() && keep() {
                durable.resize(current.len(), 0);
            }
            let sectors = durable.chunks_mut(SECTOR).zip(current.chunks(SECTOR));
            for (old, new) in sectors.filter(|(old, new)| old != new) {
                let length = old.len().min(new.len());
                if keep() {
                    old[..length].copy_from_slice(&new[..length]);
                }
            }
            (name, durable)
        });
        Self::with(files.collect(), state.salts)
    }

    /// One bit of an older file is another one: `pick` chooses below a limit. Not of the newest file, whose last batch may be
    /// torn for all that anybody can tell. False if there is no older one.
    #[cfg(feature = "sim")]
    pub(crate) fn rot(&self, mut pick: impl FnMut(usize) -> usize) -> bool {
        let state = self.state.lock();
        let older: Vec<_> = state.dir.values().rev().skip(1).collect();
        if older.is_empty() {
            return false;
        }
        let mut content = older[pick(older.len())].lock();
        let length = content.durable.len().min(content.current.len());
        if length == 0 {
            return false;
        }
        let (at, bit) = (pick(length), 1 << pick(8));
        content.current[at] ^= bit;
        content.durable[at] ^= bit;
        true
    }

    /// All files as they are.
    pub(crate) fn files(&self) -> BTreeMap<String, Vec<u8>> {
        let state = self.state.lock();
        state.dir.iter().map(|(name, file)| (name.clone(), file.lock().current.clone())).collect()
    }

    /// A disk with these files, synced.
    pub(crate) fn of(files: BTreeMap<String, Vec<u8>>) -> Self {
        Self::with(files, 1000)
    }

    pub(crate) fn inject(&self, fault: Fault) {
        self.state.lock().faults.push(fault);
    }

    /// From the n-th mutating operation from now on everything fails.
    pub(crate) fn cut_power_after(&self, operations: usize) {
        self.state.lock().power_left = Some(operations);
    }

    /// Mutating operations so far.
    pub(crate) fn operations(&self) -> usize {
        self.state.lock().operations
    }

    /// Limits the space for new allocations; `None` = no limit.
    pub(crate) fn set_free(&self, bytes: Option<u64>) {
        self.state.lock().free = bytes;
    }

    /// Makes syncs wait until released.
    pub(crate) fn hold_syncs(&self, held: bool) {
        self.state.lock().syncs_held = held;
        self.changed.notify_all();
    }

    /// Waits until a sync is being held.
    pub(crate) fn await_held_sync(&self) {
        let mut state = self.state.lock();
        while state.syncs_waiting == 0 {
            assert!(!self.changed.wait_for(&mut state, Duration::from_secs(20)).timed_out(), "no sync came");
        }
    }

    /// What was done since the last call.
    pub(crate) fn take_trace(&self) -> Vec<String> {
        std::mem::take(&mut self.state.lock().trace)
    }

    /// Counts a mutating operation; the power may go out at it.
    fn step(&self, what: impl FnOnce() -> String) -> io::Result<()> {
        let mut state = self.state.lock();
        if let Some(left) = &mut state.power_left {
            *left = left.checked_sub(1).ok_or_else(eio)?;
        }
        state.operations += 1;
        // Only tests read it, and a simulation runs long.
        if cfg!(test) {
            state.trace.push(what());
        }
        Ok(())
    }

    /// True if the next operation of a kind is to fail; counts the others down.
    fn fails(&self, pick: impl Fn(&mut Fault) -> Option<&mut usize>) -> bool {
        let mut state = self.state.lock();
        let mut hit = None;
        for (at, fault) in state.faults.iter_mut().enumerate() {
            if let Some(left) = pick(fault) {
                if *left == 0 {
                    hit = Some(at);
                    break;
                }
                *left -= 1;
            }
        }
        hit.map(|at| state.faults.remove(at)).is_some()
    }

    fn take_space(&self, bytes: u64) -> io::Result<()> {
        let mut state = self.state.lock();
        if let Some(free) = &mut state.free {
            *free = free.checked_sub(bytes).ok_or_else(enospc)?;
        }
        Ok(())
    }

    fn give_space(&self, bytes: u64) {
        if let Some(free) = &mut self.state.lock().free {
            *free += bytes;
        }
    }

    fn handle(&self, name: &str, content: &Arc<Mutex<Content>>) -> Arc<dyn DiskFile> {
        Arc::new(MemFile { disk: self.clone(), name: name.to_owned(), content: Arc::clone(content) })
    }
}

impl Disk for MemDisk {
    fn path(&self, name: &str) -> PathBuf {
        PathBuf::from("mem").join(name)
    }

    fn list(&self) -> io::Result<Vec<String>> {
        Ok(self.state.lock().dir.keys().cloned().collect())
    }

    fn create(&self, name: &str, bytes: u64) -> io::Result<Arc<dyn DiskFile>> {
        self.step(|| format!("create {name}"))?;
        self.take_space(bytes)?;
        let mut content = Content::default();
        content.resize(usize::try_from(bytes).unwrap());
        let content = Arc::new(Mutex::new(content));
        self.state.lock().dir.insert(name.to_owned(), Arc::clone(&content));
        Ok(self.handle(name, &content))
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let content = self.state.lock().dir.get(name).cloned().ok_or(io::ErrorKind::NotFound)?;
        Ok(self.handle(name, &content))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.step(|| format!("rename {to}"))?;
        let mut state = self.state.lock();
        let content = state.dir.remove(from).ok_or(io::ErrorKind::NotFound)?;
        state.dir.insert(to.to_owned(), content);
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.step(|| format!("remove {name}"))?;
        let content = self.state.lock().dir.remove(name).ok_or(io::ErrorKind::NotFound)?;
        let bytes = content.lock().current.len() as u64;
        self.give_space(bytes);
        Ok(())
    }

    fn sync_dir(&self) -> io::Result<()> {
        self.step(|| "sync directory".into())?;
        let mut state = self.state.lock();
        state.durable_dir = state.dir.clone();
        Ok(())
    }

    fn salt(&self) -> u64 {
        let mut state = self.state.lock();
        state.salts += 1;
        state.salts.wrapping_mul(0x9e37_79b9_7f4a_7c15)
    }
}

impl MemFile {
    fn sync(&self) -> io::Result<()> {
        {
            let mut state = self.disk.state.lock();
            state.syncs_waiting += 1;
            self.disk.changed.notify_all();
            while state.syncs_held {
                self.disk.changed.wait(&mut state);
            }
            state.syncs_waiting -= 1;
        }
        let failing = self.disk.fails(|fault| match fault {
            Fault::SyncEio(left) => Some(left),
            _ => None,
        });
        let mut content = self.content.lock();
        if failing {
            content.forget_unsynced();
            return Err(eio());
        }
        self.disk.step(|| format!("sync {}", self.name))?;
        content.sync();
        Ok(())
    }
}

impl DiskFile for MemFile {
    fn len(&self) -> io::Result<u64> {
        Ok(self.content.lock().current.len() as u64)
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let content = self.content.lock();
        let rest = content.current.get(usize::try_from(offset).unwrap()..).unwrap_or_default();
        let length = rest.len().min(buffer.len());
        buffer[..length].copy_from_slice(&rest[..length]);
        Ok(length)
    }

    fn write_at(&self, parts: &[IoSlice<'_>], offset: u64) -> io::Result<usize> {
        let parts: Vec<&[u8]> = parts.iter().map(|part| &**part).collect();
        let mut bytes = parts.concat();
        let eio_now = self.disk.fails(|fault| match fault {
            Fault::WriteEio(left) => Some(left),
            _ => None,
        });
        if eio_now {
            return Err(eio());
        }
        let full = self.disk.fails(|fault| match fault {
            Fault::WriteEnospc(left) => Some(left),
            _ => None,
        });
        let short = self.disk.state.lock().faults.iter().find_map(|fault| match fault {
            Fault::Short(bytes) => Some(*bytes),
            _ => None,
        });
        let length = bytes.len();
        bytes.truncate(if full { length / 2 } else { short.unwrap_or(length) });
        self.disk.step(|| format!("write {}", self.name))?;
        self.content.lock().write(&bytes, usize::try_from(offset).unwrap());
        if full { Err(enospc()) } else { Ok(bytes.len()) }
    }

    fn sync_data(&self) -> io::Result<()> {
        self.sync()
    }

    fn sync_all(&self) -> io::Result<()> {
        self.sync()
    }

    fn set_len(&self, bytes: u64) -> io::Result<()> {
        self.disk.step(|| format!("cut {}", self.name))?;
        let mut content = self.content.lock();
        let old = content.current.len() as u64;
        content.resize(usize::try_from(bytes).unwrap());
        self.disk.give_space(old.saturating_sub(bytes));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use rand::rngs::StdRng;
    use rand::{RngExt, SeedableRng};

    use super::*;

    /// The same by copies of the whole file.
    #[derive(Default)]
    struct Plain {
        current: Vec<u8>,
        durable: Vec<u8>,
    }

    #[test]
    fn a_sync_of_what_was_written_is_a_sync_of_the_whole_file() {
        let mut random = StdRng::seed_from_u64(1);
        let (mut content, mut plain) = (Content::default(), Plain::default());
        for round in 0..20_000 {
            match random.random_range(0..10) {
                0..6 => {
                    let bytes = vec![random.random(); random.random_range(0..40)];
                    let from = random.random_range(0..200);
                    content.write(&bytes, from);
                    plain.current.resize(plain.current.len().max(from + bytes.len()), 0);
                    plain.current[from..from + bytes.len()].copy_from_slice(&bytes);
                }
                6 => {
                    let length = random.random_range(0..240);
                    content.resize(length);
                    plain.current.resize(length, 0);
                }
                7..9 => {
                    content.sync();
                    plain.durable.clone_from(&plain.current);
                }
                _ => {
                    content.forget_unsynced();
                    plain.current.clone_from(&plain.durable);
                }
            }
            assert_eq!(
                (&content.current, &content.durable),
                (&plain.current, &plain.durable),
                "round {round}"
            );
        }
    }
}
