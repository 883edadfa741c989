//! The machine of a simulated node: clock, disks, network, threads; only with the feature `sim`, for `tests/sim`.
//!
//! ```text
//! one thread, round after round (tests/sim):
//!   net delivers what is due -> enter(host 1), its runtime runs to its own new time -> enter(host 2), ... -> checks
//! ```
//!
//! Each node has a runtime of its own with paused time, so its clock runs at its own speed, stands still, or jumps. What
//! the real program gives to threads (log writer, apply, settling, blocking calls) runs in the node's runtime as tasks, or
//! at once. Randomness is the harness's affair: it stands in for the kernel's random numbers.
//!
//! Invariant: nothing here reads a real clock, and nothing depends on an address or on the order of a hash table.

pub mod net;

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::task::JoinHandle;

use self::net::Net;
use crate::clock::UnixMs;
use crate::raft::log::mem_disk::MemDisk;

/// Bugs that can be planted, and what each does.
pub const BUGS: &[(&str, &str)] = &[
    ("sync-left-out", "the log writer answers without fdatasync"),
    ("vote-not-synced", "a vote is given before it is on disk"),
    ("truncation-not-written", "a truncation of the log is done in memory only"),
    ("segment-name-not-synced", "a new segment is used before its name is durable"),
    ("checksum-not-checked", "what the log reads back is taken as it is"),
    ("reply-before-commit", "the leader answers a write when it has it in its own log"),
    ("lost-batch-proposed-again", "a forwarded batch whose answer was lost is proposed again at once"),
    ("skipped-batch-proposed-again", "a batch that a checkpoint may have skipped is proposed again"),
    ("read-before-apply", "a confirmed read does not wait for the local apply"),
    ("follower-reads-unconfirmed", "every node answers reads from its own state"),
    ("read-without-quorum", "a leader confirms reads alone"),
    ("confirm-without-a-look", "a voter confirms a leader without a look at its vote"),
    (
        "told-commit-forgotten",
        "a leader confirms reads up to what it has applied, whatever its followers have",
    ),
    ("fresh-leader-confirms", "a leader confirms reads before it has applied an entry of its own term"),
    ("lease-too-long", "a leader trusts its lease for three times as long as it was granted"),
    ("lease-kept-over-transfer", "reads go by lease during a hand-over"),
    ("lease-not-honoured", "a voter votes while it grants a lease to the leader that it hears"),
    ("vote-right-after-restart", "a restarted voter does not wait for the lease that it may have granted"),
    ("leader-restored", "a restarted leader goes on in its term"),
    ("applied-id-one-ahead", "the state says that it has applied one entry more than it has"),
    ("purge-before-flush", "the log is purged up to what is applied, not to what the state has made durable"),
    ("state-ahead-of-log", "the state is flushed without a sync of the log"),
    ("checkpoint-without-flush", "a checkpoint lacks what was applied since the last flush"),
];

/// One simulated machine.
pub struct Host {
    /// Where it is in the network.
    pub ip: IpAddr,
    /// The network that it is in.
    pub net: Arc<Net>,
    state: Mutex<State>,
}

struct State {
    random: StdRng,
    disks: BTreeMap<PathBuf, MemDisk>,
    /// The runtime's time when it began, and what the wall clock would have shown then.
    origin: Option<(tokio::time::Instant, i64)>,
    boots: u64,
    sync_ms: (u64, u64),
    apply_ms: (u64, u64),
    planted: BTreeSet<&'static str>,
}

thread_local! {
    static HOST: RefCell<Option<Arc<Host>>> = const { RefCell::new(None) };
}

impl Host {
    /// A machine that has never run.
    #[must_use]
    pub fn new(ip: IpAddr, net: Arc<Net>, seed: u64) -> Arc<Self> {
        net.add_host(ip);
        let state = State {
            random: StdRng::seed_from_u64(seed),
            disks: BTreeMap::new(),
            origin: None,
            boots: 0,
            sync_ms: (0, 2),
            apply_ms: (0, 1),
            planted: BTreeSet::new(),
        };
        Arc::new(Self { ip, net, state: Mutex::new(state) })
    }

    /// Makes this the machine of what runs on this thread from now on.
    pub fn enter(self: &Arc<Self>) {
        HOST.with_borrow_mut(|host| {
            if host.as_ref().is_none_or(|here| !Arc::ptr_eq(here, self)) {
                *host = Some(self.clone());
            }
        });
    }

    /// A process begins, inside its runtime; the wall clock shows `wall_ms`.
    pub fn begin(&self, wall_ms: i64) {
        self.state.lock().origin = Some((tokio::time::Instant::now(), wall_ms));
    }

    /// Moves the wall clock.
    pub fn jump(&self, by_ms: i64) {
        if let Some((_, wall)) = &mut self.state.lock().origin {
            *wall += by_ms;
        }
    }

    /// Sets how long a sync, and a job of the apply thread, takes: from, to.
    pub fn set_speed(&self, sync_ms: (u64, u64), apply_ms: (u64, u64)) {
        let mut state = self.state.lock();
        (state.sync_ms, state.apply_ms) = (sync_ms, apply_ms);
    }

    /// Plants a bug.
    pub fn plant(&self, bug: &'static str) {
        self.state.lock().planted.insert(bug);
    }

    /// The power goes out: of what was not synced, each sector and name stays with this probability.
    pub fn cut_power(&self, keep: f64) {
        let mut state = self.state.lock();
        let State { random, disks, boots, .. } = &mut *state;
        *boots += 1;
        for disk in disks.values_mut() {
            *disk = disk.after_power_cut(|| random.random_bool(keep));
        }
    }

    /// The process was killed: what it wrote is still there.
    pub fn kill(&self) {
        for disk in self.state.lock().disks.values_mut() {
            *disk = disk.after_kill();
        }
    }

    /// From the n-th operation from now on the disks fail.
    pub fn fail_disks_after(&self, operations: usize) {
        for disk in self.state.lock().disks.values() {
            disk.cut_power_after(operations);
        }
    }

    /// One bit in an older file of the log is another one; false if there is no such file.
    pub fn rot(&self) -> bool {
        let mut state = self.state.lock();
        let State { random, disks, .. } = &mut *state;
        disks.values().any(|disk| disk.rot(|below| random.random_range(0..below)))
    }

    /// The disks are new ones.
    pub fn wipe(&self) {
        self.state.lock().disks.clear();
    }
}

fn here<T>(look: impl FnOnce(&Arc<Host>, &mut State) -> T) -> Option<T> {
    HOST.with_borrow(|host| host.as_ref().map(|host| look(host, &mut host.state.lock())))
}

/// The machine that this code runs on.
pub(crate) fn host() -> std::io::Result<Arc<Host>> {
    HOST.with_borrow(Clone::clone).ok_or_else(|| std::io::Error::other("not on a simulated machine"))
}

/// What the wall clock of this machine shows.
#[must_use]
pub fn wall() -> UnixMs {
    let now = here(|_, state| {
        let (origin, wall) = state.origin?;
        let since = tokio::time::Instant::now().saturating_duration_since(origin);
        Some(wall.saturating_add(i64::try_from(since.as_millis()).unwrap_or(i64::MAX)))
    });
    UnixMs(u64::try_from(now.flatten().unwrap_or_default()).unwrap_or_default())
}

/// The monotonic clock of this machine.
#[must_use]
pub fn monotonic() -> Instant {
    tokio::time::Instant::now().into_std()
}

/// The disk that stands for a directory.
pub(crate) fn disk(dir: &Path) -> MemDisk {
    here(|_, state| state.disks.entry(dir.to_owned()).or_insert_with(MemDisk::new).clone())
        .unwrap_or_else(MemDisk::new)
}

/// The directory was removed.
pub(crate) fn forget(dir: &Path) {
    here(|_, state| state.disks.remove(dir));
}

/// Names the boot of this machine.
pub(crate) fn boot_id() -> String {
    here(|host, state| format!("{} boot {}", host.ip, state.boots)).unwrap_or_default()
}

/// How long the next sync takes.
pub(crate) fn sync_delay() -> Duration {
    delay(|state| state.sync_ms)
}

/// How long the next job of the apply thread takes.
pub(crate) fn apply_delay() -> Duration {
    delay(|state| state.apply_ms)
}

fn delay(range: impl Fn(&State) -> (u64, u64)) -> Duration {
    let drawn = here(|_, state| {
        let (from, to) = range(state);
        state.random.random_range(from..=to.max(from))
    });
    Duration::from_millis(drawn.unwrap_or_default())
}

/// Whether this bug is planted here.
pub(crate) fn planted(bug: &str) -> bool {
    here(|_, state| state.planted.contains(bug)).unwrap_or_default()
}

/// Runs a task that stands for a thread. It ends with its queue, or with the node's runtime.
#[expect(clippy::disallowed_methods, reason = "the runtime of the simulated node owns it")]
pub(crate) fn spawn(task: impl Future<Output = ()> + Send + 'static) {
    drop(tokio::spawn(task));
}

/// Long work, on the one thread that there is.
///
/// # Errors
/// Never.
pub fn behind<T: Send>(_name: &str, work: impl FnOnce() -> T + Send) -> std::io::Result<T> {
    Ok(work())
}

/// Runs blocking work as a task of its own.
#[expect(clippy::disallowed_methods, reason = "stands for tokio's own")]
pub fn spawn_blocking<F, R>(work: F) -> JoinHandle<R>
where
    F: FnOnce() -> R + Send + 'static,
    R: Send + 'static,
{
    tokio::spawn(async move { work() })
}
