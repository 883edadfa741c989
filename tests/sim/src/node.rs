//! One simulated node: the real program on a simulated machine, with a runtime and a clock of its own.
//!
//! ```text
//! start -> Node::start -> serves -> crash (the runtime is dropped) -> start on what the disks kept
//!                               `-> stop in order, or by itself -> `Life::Ended`
//! ```

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use kvnode_server::config::ReadPolicy;
use kvnode_server::error::ErrorKind;
use kvnode_server::raft::Group;
use kvnode_server::sim::Host;
use kvnode_server::sim::net::Net;
use kvnode_server::{CancellationToken, Node, embed};
use parking_lot::Mutex;
use tokio::runtime::{Builder, Runtime};
use tokio::time::Instant;

/// Client port of every node.
const PORT: u16 = 4920;
/// What wall clocks show at the start: 2025-06-01.
pub(crate) const EPOCH_MS: i64 = 1_748_736_000_000;

/// What a node's process is doing.
#[derive(Clone, Default)]
pub enum Life {
    /// On its way up, or on its way down.
    #[default]
    Under,
    /// Serves.
    Up(Group),
    /// It has ended; `Err` with what it said, if not in order.
    Ended(Result<(), String>),
}

/// How a process is ended from outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Crash {
    /// kill -9: what it wrote is still there.
    Kill,
    /// The power goes out: what was not synced is lost, sector by sector.
    Power,
}

/// A node.
pub struct SimNode {
    /// Its machine.
    pub host: Arc<Host>,
    /// What it is doing.
    life: Arc<Mutex<Life>>,
    process: Option<Process>,
    dir: PathBuf,
    read_policy: ReadPolicy,
    drift_ppm: i64,
    /// Its wall clock is wrong by this.
    wall_off_ms: i64,
    /// Does not run before this global time.
    paused_until_ms: u64,
    /// Neither runs nor has a clock that goes on before this global time.
    frozen_until_ms: u64,
    /// Addresses that it is told to join.
    join: Vec<String>,
    /// It is expected to end by itself.
    pub dying: bool,
    /// A bit of what is on its disks is another one.
    pub rotten: bool,
    /// It has said that what is on its disks is damaged.
    pub refused: bool,
}

struct Process {
    runtime: Runtime,
    origin: Instant,
    began_ms: u64,
    ran_ms: u64,
    stop: CancellationToken,
}

/// Address of the machine of a node.
#[must_use]
pub fn ip(number: usize) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(10, 0, 0, u8::try_from(number + 1).unwrap_or(u8::MAX)))
}

/// Client address of a node.
#[must_use]
pub fn addr(number: usize) -> SocketAddr {
    SocketAddr::new(ip(number), PORT)
}

/// A runtime on this thread whose time stands still unless it is run.
///
/// # Errors
/// The machine is out of what a runtime needs.
pub(crate) fn runtime() -> Result<Runtime> {
    Builder::new_current_thread().enable_time().start_paused(true).build().context("make a runtime")
}

impl SimNode {
    /// A node that has never run.
    #[must_use]
    pub fn new(number: usize, net: &Arc<Net>, seed: u64, files: &Path, read_policy: ReadPolicy) -> Self {
        Self {
            host: Host::new(ip(number), net.clone(), seed),
            life: Arc::default(),
            process: None,
            dir: files.join(format!("{number}")),
            read_policy,
            drift_ppm: 0,
            wall_off_ms: 0,
            paused_until_ms: 0,
            frozen_until_ms: 0,
            join: Vec::new(),
            dying: false,
            rotten: false,
            refused: false,
        }
    }

    /// Sets how fast its clock is.
    pub fn set_drift(&mut self, ppm: i64) {
        self.drift_ppm = ppm;
    }

    /// Has it join these from its next start on.
    pub fn set_join(&mut self, join: Vec<String>) {
        self.join = join;
    }

    /// The group, while it serves.
    #[must_use]
    pub fn group(&self) -> Option<Group> {
        match &*self.life.lock() {
            Life::Up(group) => Some(group.clone()),
            Life::Under | Life::Ended(_) => None,
        }
    }

    /// How the process ended, told once.
    pub fn take_end(&mut self) -> Option<Result<(), String>> {
        let mut life = self.life.lock();
        let Life::Ended(end) = &*life else { return None };
        let end = end.clone();
        *life = Life::Under;
        drop(life);
        self.host.net.process_ends(self.host.ip, true);
        self.drop_process();
        Some(end)
    }

    /// A process runs.
    #[must_use]
    pub fn runs(&self) -> bool {
        self.process.is_some()
    }

    /// It does not run for now.
    #[must_use]
    pub fn is_paused(&self, now_ms: u64) -> bool {
        self.paused_until_ms > now_ms
    }

    /// Starts the process.
    ///
    /// # Errors
    /// No runtime.
    pub fn start(&mut self, now_ms: u64) -> Result<()> {
        let config = self.config()?;
        self.host.net.power_up(self.host.ip);
        self.host.enter();
        let runtime = runtime()?;
        let (stop, life) = (CancellationToken::new(), self.life.clone());
        *life.lock() = Life::Under;
        let wall_ms = EPOCH_MS + i64::try_from(now_ms)? + self.wall_off_ms;
        let host = self.host.clone();
        let origin = runtime.block_on(async {
            host.begin(wall_ms);
            Instant::now()
        });
        drop(runtime.spawn(serve(config, stop.clone(), life)));
        self.process = Some(Process { runtime, origin, began_ms: now_ms, ran_ms: 0, stop });
        (self.dying, self.paused_until_ms, self.frozen_until_ms) = (false, 0, 0);
        Ok(())
    }

    fn config(&self) -> Result<kvnode_server::Config> {
        let (addr, data) = (SocketAddr::new(self.host.ip, PORT).to_string(), self.dir.display().to_string());
        let join = self.join.join(",");
        let policy = if self.read_policy == ReadPolicy::Lease { "lease" } else { "strict" };
        let keys = [
            ("addr", addr.as_str()),
            ("data", data.as_str()),
            ("formation", "auto"),
            ("protected_mode", "no"),
            ("read_policy", policy),
            // Entries may use all but the last 64 KiB of a segment.
            ("entry_bytes_max", "64KiB"),
            ("log_segment_bytes", "128KiB"),
            ("log_keep_bytes", "64KiB"),
            ("log_cache_bytes", "1MiB"),
            ("memtable_bytes", "1MiB"),
            ("block_cache_bytes", "1MiB"),
            ("value_cache_bytes", "64KiB"),
            ("disk_reserve_bytes", "0"),
            ("join", join.as_str()),
        ];
        let given = keys.iter().filter(|(key, value)| *key != "join" || !value.is_empty());
        let keys: Vec<_> = given.copied().collect();
        embed::configure(&keys).map_err(|error| anyhow::anyhow!("{error}"))
    }

    /// Runs it to what its clock shows at this global time.
    pub fn run_to(&mut self, now_ms: u64) {
        if self.is_paused(now_ms) {
            return;
        }
        let Some(process) = &mut self.process else { return };
        if self.frozen_until_ms > now_ms {
            process.began_ms += 1;
            return;
        }
        let passed = now_ms - process.began_ms;
        let skew = i128::from(passed) * i128::from(self.drift_ppm) / 1_000_000;
        let target = u64::try_from(i128::from(passed) + skew).unwrap_or_default();
        if target <= process.ran_ms {
            return;
        }
        self.host.enter();
        let (late, until) = (target - process.ran_ms, process.origin + Duration::from_millis(target));
        process.ran_ms = target;
        process.runtime.block_on(async {
            if late > 3 {
                // It was stopped: all that was due meanwhile is due at once, and late.
                tokio::time::advance(Duration::from_millis(late - 1)).await;
            }
            tokio::time::sleep_until(until).await;
        });
    }

    /// Stops it where it stands (SIGSTOP) until a global time.
    pub fn pause(&mut self, until_ms: u64) {
        self.paused_until_ms = until_ms;
    }

    /// Stops the whole machine with its clocks (a virtual machine that is suspended) until a global time.
    pub fn freeze(&mut self, until_ms: u64) {
        self.frozen_until_ms = until_ms;
    }

    /// Has it run again.
    pub fn wake(&mut self) {
        (self.paused_until_ms, self.frozen_until_ms) = (0, 0);
    }

    /// Has its process run a task as well, which ends with it.
    pub fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        if let Some(process) = &self.process {
            drop(process.runtime.spawn(task));
        }
    }

    /// Moves its wall clock.
    pub fn jump(&mut self, by_ms: i64) {
        self.wall_off_ms += by_ms;
        self.host.jump(by_ms);
    }

    /// Asks it to stop in order.
    pub fn stop(&self) {
        if let Some(process) = &self.process {
            process.stop.cancel();
        }
    }

    /// It was asked to stop, and has not ended yet.
    #[must_use]
    pub fn stops(&self) -> bool {
        self.process.as_ref().is_some_and(|process| process.stop.is_cancelled())
    }

    /// Ends the process.
    pub fn crash(&mut self, how: Crash, keep: f64) {
        self.host.net.process_ends(self.host.ip, how == Crash::Kill);
        match how {
            Crash::Kill => self.host.kill(),
            Crash::Power => self.host.cut_power(keep),
        }
        self.drop_process();
    }

    /// New disks, and a new directory.
    ///
    /// # Errors
    /// The directory cannot be removed.
    pub fn wipe(&mut self) -> Result<()> {
        self.host.wipe();
        (self.rotten, self.refused) = (false, false);
        if self.dir.exists() {
            std::fs::remove_dir_all(&self.dir)?;
        }
        Ok(())
    }

    fn drop_process(&mut self) {
        *self.life.lock() = Life::Under;
        self.host.enter();
        self.process = None;
    }
}

impl Drop for SimNode {
    fn drop(&mut self) {
        self.drop_process();
    }
}

async fn serve(config: kvnode_server::Config, stop: CancellationToken, life: Arc<Mutex<Life>>) {
    loop {
        let ended = match Node::start(config.clone(), stop.clone()).await {
            Ok(node) => {
                *life.lock() = Life::Up(node.group().clone());
                let ended = node.wait().await;
                *life.lock() = Life::Under;
                ended
            }
            Err(error) => Err(error),
        };
        match ended {
            // It starts again under its new node id.
            Err(error) if error.exit_code() == ErrorKind::Unavailable.exit_code() && !stop.is_cancelled() => {
            }
            ended => {
                *life.lock() = Life::Ended(ended.map_err(|error| error.to_string()));
                return;
            }
        }
    }
}
