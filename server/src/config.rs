//! Configuration: what the node was told, checked, immutable.
//!
//! ```text
//! defaults  <  file (YAML)  <  environment (KVNODE_*)  <  flags        later ones win, key by key
//!      \__________\________________\_______________\___ keys.rs: one table, one row per key
//!                                                    |
//!                           Draft -> derived defaults -> relations -> Config
//! ```
//!
//! Every key has one name everywhere: `log_dir` in the file, `KVNODE_LOG_DIR`, `--log-dir`. Reading never stops at the
//! first fault: [`load()`] returns all of them, each with the key, where it was set, the bad value and what is allowed.
//!
//! Invariant: a [`Config`] that [`load()`] returned has every relation of `relations::RELATIONS`.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

pub mod keys;
pub mod load;
mod relations;
#[cfg(test)]
mod tests;
mod tls;
pub mod units;

pub use keys::{KEYS, Key, example_yaml};
pub use load::{ConfigError, Fault, Loaded, Settings, Source, load};
pub use tls::{CertificateUser, ClientAuth, PeerTls, TlsConfig, TlsFiles};

/// How fresh a read is (`--consistency`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Consistency {
    /// Local state of any node; may be stale without bound.
    Low,
    /// The leader's state without confirming that it still leads; may be stale.
    Medium,
    /// Linearizable.
    High,
}

/// When an acknowledged write is on disk (`--durability`). The vote and the term are synced at every level.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Durability {
    /// When the kernel likes.
    Low,
    /// Within a second.
    Medium,
    /// Before the reply.
    High,
}

/// What a node does in an empty data directory without `--join` (`--formation`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Formation {
    /// Founds a one-node cluster.
    Auto,
    /// Stays unformed until told over the admin API.
    Wait,
}

/// What a `--restore` file that is not there means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RestoreMissing {
    /// The node does not start.
    Error,
    /// The node stays unformed, as with [`Formation::Wait`] without the flag.
    Wait,
}

/// What a follower does with a command that only the leader can serve (`--redirect`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Redirect {
    /// Forwards it to the leader.
    Forward,
    /// Answers `-MOVED slot host:port` (Redis Cluster clients follow it).
    Moved,
    /// Answers `-TRY host:port` (the ancestor's clients follow it).
    Try,
}

/// How a linearizable read is confirmed (`read_policy`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadPolicy {
    /// One `ReadIndex` round, shared by all waiting reads.
    Strict,
    /// The leader's lease when it is fresh, else `ReadIndex`.
    Lease,
}

/// A checked configuration.
#[derive(Clone, Debug)]
pub struct Config {
    /// Client listener (`--addr`).
    pub addr: SocketAddr,
    /// `addr` is off: clients connect by TLS only, and `addr` repeats `tls_addr`.
    pub tls_only: bool,
    /// Client listener that speaks TLS (`tls_addr`).
    pub tls_addr: Option<SocketAddr>,
    /// Peer listener (`--peer-addr`); default: client port + 10000, or 0 if that is 0.
    pub peer_addr: SocketAddr,
    /// Admin listener (`--http-addr`); default: client port + 20000, or 0 if that is 0.
    pub http_addr: SocketAddr,
    /// `host:port` told to clients and members, resolved at each dial; `None` = the bound client address.
    pub advertise_addr: Option<String>,
    /// `host:port` told to peers, resolved at each dial; `None` = the bound peer address.
    pub advertise_peer_addr: Option<String>,
    /// Data directory (`--data`).
    pub data: PathBuf,
    /// Directory of the Raft log and of `snapshots/` (`--log-dir`); default: the data directory.
    pub log_dir: PathBuf,
    /// Client addresses of members to join (`--join`).
    pub join: Vec<String>,
    /// `state.bin` to found a new cluster from (`--restore`).
    pub restore: Option<PathBuf>,
    /// What it means if that file is not there.
    pub restore_missing: RestoreMissing,
    /// Read level (`--consistency`).
    pub consistency: Consistency,
    /// Write level (`--durability`).
    pub durability: Durability,
    /// Formation mode (`--formation`).
    pub formation: Formation,
    /// Redirect mode (`--redirect`).
    pub redirect: Redirect,
    /// Confirmation of linearizable reads.
    pub read_policy: ReadPolicy,
    /// Number of databases (`--databases`).
    pub databases: u8,
    /// Certificates.
    pub tls: TlsConfig,
    /// Raft timing.
    pub timing: Timing,
    /// Every limit.
    pub limits: Limits,
    /// Default LIMIT of a plain KEYS; 0 = all keys.
    pub keys_default_limit: u64,
    /// RAFTSNAPSHOT exports kept.
    pub snapshots_keep: usize,
    /// Log directives (`tracing_subscriber::EnvFilter`), until `PUT /v1/log-filter` replaces them.
    pub log_filter: String,
    /// Form of log lines.
    pub log_format: LogFormat,
    /// Passwords of the user `default`, one per line.
    pub requirepass_file: Option<PathBuf>,
    /// Rules of the users.
    pub acl_file: Option<PathBuf>,
    /// Commands and categories that nobody may have.
    pub commands_disabled: Vec<String>,
    /// Without a password only loopback may connect.
    pub protected_mode: bool,
    /// Time after which a failed login is answered.
    pub auth_failure_delay: Duration,
}

/// Form of log lines on standard error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object per line.
    Json,
}

impl Default for Config {
    /// The defaults of a node on loopback, with the derived ones filled in.
    fn default() -> Self {
        let at = |port| SocketAddr::from(([127, 0, 0, 1], port));
        Self {
            addr: at(4920),
            tls_only: false,
            tls_addr: None,
            peer_addr: at(4920 + load::PEER_PORT_OFFSET),
            http_addr: at(4920 + load::HTTP_PORT_OFFSET),
            advertise_addr: None,
            advertise_peer_addr: None,
            data: PathBuf::from("data"),
            log_dir: PathBuf::from("data"),
            join: Vec::new(),
            restore: None,
            restore_missing: RestoreMissing::Error,
            consistency: Consistency::High,
            durability: Durability::High,
            formation: Formation::Auto,
            redirect: Redirect::Forward,
            read_policy: ReadPolicy::Strict,
            databases: 16,
            tls: TlsConfig::default(),
            timing: Timing::default(),
            limits: Limits::default(),
            keys_default_limit: 0,
            snapshots_keep: 2,
            log_filter: "info,openraft=error".into(),
            log_format: LogFormat::Text,
            requirepass_file: None,
            acl_file: None,
            commands_disabled: Vec::new(),
            protected_mode: true,
            auth_failure_delay: Duration::from_millis(250),
        }
    }
}

impl Config {
    /// Threads that serve clients and Raft. By default one core is left to the log's and the state's threads: a worker
    /// more would only take turns with them, and each turn costs a switch.
    #[must_use]
    pub fn worker_threads(&self) -> usize {
        match self.limits.worker_threads {
            0 => std::thread::available_parallelism().map_or(1, |cores| cores.get().saturating_sub(1).max(1)),
            threads => threads,
        }
    }
}

/// Raft timing.
#[derive(Clone, Debug)]
pub struct Timing {
    /// Leader's heartbeat interval.
    pub heartbeat: Duration,
    /// Lower bound of the randomised time after the leader lease at which a follower campaigns.
    pub election_timeout_min: Duration,
    /// Upper bound of it; also the leader lease.
    pub election_timeout_max: Duration,
    /// Longest silence that a follower learns to bear; zero = see [`Timing::election_timeout_ceiling`].
    pub election_timeout_ceiling: Duration,
    /// Longest time that a command is held while no leader is known.
    pub hold_without_leader: Duration,
}

impl Timing {
    /// As configured, or three times the longest timeout.
    #[must_use]
    pub fn election_timeout_ceiling(&self) -> Duration {
        if self.election_timeout_ceiling.is_zero() {
            self.election_timeout_max * 3
        } else {
            self.election_timeout_ceiling
        }
    }
}

/// Every limit of the node, with its unit in the name.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Threads that serve clients and Raft; 0 = see [`Config::worker_threads`].
    pub worker_threads: usize,
    /// Clients at once.
    pub clients_max: usize,
    /// Arguments of one request.
    pub args_max: usize,
    /// Bytes of one argument (Redis: proto-max-bulk-len).
    pub bulk_bytes_max: usize,
    /// Bytes of one whole request.
    pub request_bytes_max: usize,
    /// Bytes of an inline request line.
    pub inline_bytes_max: usize,
    /// Bytes of a key.
    pub key_bytes_max: usize,
    /// Bytes of one reply (KEYS, MGET).
    pub reply_bytes_max: u64,
    /// Unwritten reply bytes of one connection before reading from it stops.
    pub output_bytes_pause: usize,
    /// Time in which a client must take its reply once the socket is full.
    pub output_stall: Duration,
    /// Requests taken from one connection in one turn.
    pub turn_requests_max: usize,
    /// Ops of one log entry.
    pub entry_ops_max: usize,
    /// Bytes of one log entry.
    pub entry_bytes_max: usize,
    /// Entries proposed and not yet committed.
    pub entries_in_flight_max: usize,
    /// Bytes waiting in the proposer's queue.
    pub queue_bytes_max: usize,
    /// State bytes in memory before a flush.
    pub memtable_bytes: usize,
    /// `RocksDB` block cache.
    pub block_cache_bytes: usize,
    /// Rows that reads and writes have asked for.
    pub value_cache_bytes: usize,
    /// Raft log bytes kept behind the durable state for slow followers.
    pub log_keep_bytes: u64,
    /// Raft log bytes in memory.
    pub log_cache_bytes: usize,
    /// Bytes of one log segment file.
    pub log_segment_bytes: u64,
    /// Free bytes below which growth is refused (soft quota).
    pub disk_reserve_bytes: u64,
    /// Largest size of the data on disk, 0 = only `disk_reserve_bytes` counts.
    pub disk_quota_bytes: u64,
    /// Rate of a checkpoint sent to one peer, bytes per second; 0 = unlimited.
    pub checkpoint_bytes_per_second: u64,
    /// Connections to the admin API at once.
    pub http_connections_max: usize,
    /// Time in which a client must log in.
    pub auth_timeout: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            heartbeat: Duration::from_millis(50),
            election_timeout_min: Duration::from_millis(200),
            election_timeout_max: Duration::from_millis(350),
            election_timeout_ceiling: Duration::ZERO,
            hold_without_leader: Duration::from_secs(5),
        }
    }
}

const KIB: usize = 1024;
const MIB: usize = 1024 * KIB;

impl Default for Limits {
    fn default() -> Self {
        Self {
            worker_threads: 0,
            clients_max: 10_000,
            args_max: 1024 * 1024,
            bulk_bytes_max: 64 * MIB,
            request_bytes_max: 128 * MIB,
            inline_bytes_max: 64 * KIB,
            key_bytes_max: 64 * KIB,
            reply_bytes_max: 256 * MIB as u64,
            output_bytes_pause: MIB,
            output_stall: Duration::from_mins(1),
            turn_requests_max: 4096,
            entry_ops_max: 4096,
            entry_bytes_max: MIB,
            entries_in_flight_max: 8,
            queue_bytes_max: 256 * MIB,
            memtable_bytes: 64 * MIB,
            block_cache_bytes: 256 * MIB,
            value_cache_bytes: 256 * MIB,
            log_keep_bytes: 128 * MIB as u64,
            log_cache_bytes: 32 * MIB,
            log_segment_bytes: 64 * MIB as u64,
            disk_reserve_bytes: 256 * MIB as u64,
            disk_quota_bytes: 0,
            checkpoint_bytes_per_second: 0,
            http_connections_max: 128,
            auth_timeout: Duration::from_secs(10),
        }
    }
}
