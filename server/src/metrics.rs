//! Every metric, declared once, in a registry of our own.
//!
//! [`metrics!`](self) makes three things of one row: the field of [`Metrics`], its registration, and its line in
//! [`METRICS`] (name, kind, labels, help), from which the README's list and the tests come. A metric that is not in
//! that table cannot exist.
//!
//! Two ways in
//! - Handles: a module clones the field it counts with. A counter is one relaxed atomic; a [`Latency`] is two.
//!   Handles of a label are looked up once, at start, never per observation.
//! - Sources: what a module counts anyway is pulled when `/metrics` is read, through [`Scrape`].
//!
//! Names are `kvnode_<noun>_<unit>[_total]`; label values come from enums, the command table, member ids and database
//! numbers only, so their number is bounded.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Instant;

use parking_lot::Mutex;
use prometheus::core::{Atomic, Collector, GenericGaugeVec};
use prometheus::{
    Counter, Gauge, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry, TextEncoder,
};

mod latency;
mod process;
#[cfg(test)]
mod tests;

pub use latency::{BOUNDS_US, Latency, LatencyVec};

/// One line of the table.
#[derive(Clone, Copy, Debug)]
pub struct Spec {
    /// Full name.
    pub name: &'static str,
    /// `counter`, `gauge` or `histogram`.
    pub kind: &'static str,
    /// Labels whose values vary.
    pub labels: &'static [&'static str],
    /// Belongs to one Raft group: carries `group="0"`.
    pub group: bool,
    /// What it counts.
    pub help: &'static str,
}

/// Counters that other modules keep themselves, read when `/metrics` is.
pub trait Scrape: Send + Sync {
    /// Brings `metrics` up to date. Called on an async thread: reads memory only, never a disk or a lock held long.
    fn scrape(&self, metrics: &Metrics);
}

/// A kind of metric that a row can have.
trait Kind: Sized + Clone {
    const KIND: &'static str;
    fn make(opts: Opts, labels: &[&str]) -> prometheus::Result<Self>;
    fn collector(&self) -> Box<dyn Collector>;
}

macro_rules! kind {
    ($type:ty, $kind:literal, $opts:ident, $labels:ident, $make:expr) => {
        impl Kind for $type {
            const KIND: &'static str = $kind;
            fn make($opts: Opts, $labels: &[&str]) -> prometheus::Result<Self> {
                $make
            }
            fn collector(&self) -> Box<dyn Collector> {
                Box::new(self.clone())
            }
        }
    };
}

kind!(IntCounter, "counter", opts, _labels, IntCounter::with_opts(opts));
kind!(Counter, "counter", opts, _labels, Counter::with_opts(opts));
kind!(IntCounterVec, "counter", opts, labels, IntCounterVec::new(opts, labels));
kind!(IntGauge, "gauge", opts, _labels, IntGauge::with_opts(opts));
kind!(Gauge, "gauge", opts, _labels, Gauge::with_opts(opts));
kind!(IntGaugeVec, "gauge", opts, labels, IntGaugeVec::new(opts, labels));
kind!(prometheus::GaugeVec, "gauge", opts, labels, prometheus::GaugeVec::new(opts, labels));
kind!(Latency, "histogram", opts, labels, LatencyVec::new(&opts, labels).map(|all| all.with("")));
kind!(LatencyVec, "histogram", opts, labels, LatencyVec::new(&opts, labels));

fn register<K: Kind>(registry: &Registry, spec: &Spec) -> K {
    let mut opts = Opts::new(spec.name, spec.help);
    if spec.group {
        opts = opts.const_label("group", "0");
    }
    let made = K::make(opts, spec.labels);
    let registered = made.and_then(|metric| registry.register(metric.collector()).map(|()| metric));
    // Only a bad or repeated name or label can fail, and names are constants: the first test would find it.
    registered.unwrap_or_else(|e| panic!("metric {}: {e}", spec.name))
}

macro_rules! metrics {
    ($( $field:ident : $type:ty = $name:literal [$($label:literal),*] $group:literal, $help:literal; )*) => {
        /// Every metric of the node. See [`METRICS`] for what each means.
        pub struct Metrics {
            $( #[doc = $help] pub $field: $type, )*
            registry: Registry,
            sources: Mutex<Vec<Arc<dyn Scrape>>>,
            started: Instant,
        }

        /// The table of all metrics.
        pub const METRICS: &[Spec] = &[
            $( Spec {
                name: $name, kind: <$type as Kind>::KIND, labels: &[$($label),*], group: $group, help: $help,
            }, )*
        ];

        impl Metrics {
            fn build() -> Self {
                let registry = Registry::new();
                let mut specs = METRICS.iter();
                // Fields are initialised in the order of the rows, as the table is.
                $( let $field = match specs.next() {
                    Some(spec) => register::<$type>(&registry, spec),
                    None => unreachable!("one row per field"),
                }; )*
                Self { $($field,)* registry, sources: Mutex::new(Vec::new()), started: crate::clock::monotonic() }
            }
        }
    };
}

metrics! {
    command_duration: LatencyVec = "kvnode_command_duration_seconds" ["command"] false,
        "Time from a decoded command to its reply; its count is the number of commands.";
    command_errors: IntCounterVec = "kvnode_command_errors_total" ["command"] false,
        "Commands executed and answered with an error.";
    command_rejected: IntCounterVec = "kvnode_command_rejected_total" ["command"] false,
        "Commands refused before they were executed (arity, syntax).";
    error_replies: IntCounterVec = "kvnode_error_replies_total" ["prefix"] false,
        "Error replies, also to unknown commands, by the first word of the error.";
    key_hits: IntCounter = "kvnode_key_hits_total" [] false, "Keys that GET and MGET found.";
    key_misses: IntCounter = "kvnode_key_misses_total" [] false, "Keys that GET and MGET did not find.";

    clients_connected: IntGauge = "kvnode_clients_connected" [] false, "Clients connected now.";
    clients_max: IntGauge = "kvnode_clients_limit" [] false, "Clients that may be connected at once.";
    clients_accepted: IntCounter = "kvnode_clients_accepted_total" [] false,
        "Client connections accepted, also those turned away at the limit.";
    clients_rejected: IntCounterVec = "kvnode_clients_rejected_total" ["reason"] false,
        "Client connections refused or closed by the node, by reason.";
    client_read_bytes: IntCounter = "kvnode_client_read_bytes_total" [] false, "Bytes read from clients.";
    client_written_bytes: IntCounter = "kvnode_client_written_bytes_total" [] false, "Bytes written to clients.";

    tls_certificate_expiry: prometheus::GaugeVec = "kvnode_tls_certificate_expiry_timestamp_seconds" ["listener"] false,
        "Unix time at which the certificate in use ends, or the first of its chain.";
    tls_certificate_stale: IntGaugeVec = "kvnode_tls_certificate_stale" ["listener"] false,
        "1 while the certificate files hold something that cannot be used; the certificate before it stays in use.";
    tls_refused: IntCounterVec = "kvnode_tls_handshakes_refused_total" ["listener"] false,
        "TLS handshakes of others that came to nothing.";
    logins_failed: IntCounter = "kvnode_logins_failed_total" [] false, "AUTH and HELLO AUTH that were refused.";
    requests_denied: IntCounterVec = "kvnode_requests_denied_total" ["reason"] false,
        "Requests that the user may not make (NOPERM), by what it may not have.";
    users_reloads: IntCounterVec = "kvnode_users_reloads_total" ["result"] false,
        "Changes of the files of passwords and users that were taken, or could not be.";
    users_faulty: IntGauge = "kvnode_users_files_faulty" [] false,
        "1 while a file of passwords or users has a fault, so that the users are those from before.";

    raft_term: IntGauge = "kvnode_raft_term" [] true, "Current term.";
    raft_role: IntGaugeVec = "kvnode_raft_role" ["role"] true, "1 for the role that the node has, 0 for the others.";
    raft_leader_known: IntGauge = "kvnode_raft_leader_known" [] true, "1 while a leader is known.";
    raft_leader_changes: IntCounter = "kvnode_raft_leader_changes_total" [] true, "Changes of the known leader.";
    raft_last_index: IntGauge = "kvnode_raft_last_index" [] true, "Last entry in the local log.";
    raft_committed_index: IntGauge = "kvnode_raft_committed_index" [] true, "Last committed entry known here.";
    raft_applied_index: IntGauge = "kvnode_raft_applied_index" [] true, "Last applied entry.";
    raft_durable_index: IntGauge = "kvnode_raft_durable_index" [] true, "The state on disk reaches to here.";
    raft_purged_index: IntGauge = "kvnode_raft_purged_index" [] true, "Log entries up to here are gone.";
    raft_members: IntGauge = "kvnode_raft_members" [] true, "Members, learners included.";
    raft_voters: IntGauge = "kvnode_raft_voters" [] true, "Members that count towards the quorum.";
    raft_peer_lag: IntGaugeVec = "kvnode_raft_peer_lag_entries" ["peer"] true,
        "Entries that a member's disk is behind, known on the leader only.";
    raft_peer_ack: prometheus::GaugeVec = "kvnode_raft_peer_ack_age_seconds" ["peer"] true,
        "Time since a member answered last, known on the leader only.";
    raft_peer_diverged: IntGaugeVec = "kvnode_raft_peer_diverged" ["peer"] true,
        "1 for a member whose content is not that of the majority, known on the leader only; it stops.";
    raft_contents_undecided: IntGauge = "kvnode_raft_contents_undecided" [] true,
        "1 on the leader while contents of members differ and no majority says which is right.";
    raft_contents_equal_index: IntGauge = "kvnode_raft_contents_equal_index" [] true,
        "Contents of members were compared and equal up to here, known on the leader only; 0 elsewhere.";
    raft_last_contact: Gauge = "kvnode_raft_last_contact_seconds" [] true,
        "Time since a quorum (leader) or the leader (follower) was heard; -1 = never.";
    raft_election_timeout: Gauge = "kvnode_raft_election_timeout_seconds" [] true,
        "Silence of the leader after which this node campaigns, at the earliest; grows with what leaders came back from.";
    raft_proposals: IntCounter = "kvnode_raft_proposals_total" [] true, "Changes handed to the proposer.";
    raft_proposal_errors: IntCounterVec = "kvnode_raft_proposal_errors_total" ["reason"] true,
        "Changes that the proposer refused or lost track of, by reason.";
    raft_batches: IntCounter = "kvnode_raft_batches_total" [] true, "Log entries proposed.";
    raft_batch_ops: IntCounter = "kvnode_raft_batch_ops_total" [] true, "Changes in those entries.";
    raft_queue_bytes: IntGauge = "kvnode_raft_queue_bytes" [] true, "Changes taken up and not answered yet.";
    raft_read_barriers: IntCounter = "kvnode_raft_read_barriers_total" [] true,
        "Rounds that confirmed leadership for reads; one serves all reads that wait.";
    raft_clock_offset: prometheus::GaugeVec = "kvnode_raft_clock_offset_seconds" ["peer"] true,
        "A member's wall clock minus this node's, known on the leader only; large means that a clock is wrong.";

    log_syncs: IntCounter = "kvnode_log_syncs_total" [] true, "Syncs of the Raft log.";
    log_sync_duration: Latency = "kvnode_log_sync_duration_seconds" [] true, "Time of one sync of the Raft log.";
    log_written_bytes: IntCounter = "kvnode_log_written_bytes_total" [] true, "Bytes written to the Raft log.";
    log_size_bytes: IntGauge = "kvnode_log_size_bytes" [] true, "Bytes of the Raft log on disk.";
    log_queue_bytes: IntGauge = "kvnode_log_queue_bytes" [] true, "Bytes of entries waiting for the log writer.";
    log_cache_bytes: IntGauge = "kvnode_log_cache_bytes" [] true, "Bytes of entries held in memory for members.";
    disk_full: IntGauge = "kvnode_disk_full" [] true,
        "1 while writes that need space are refused because the disk is full or the quota is reached.";
    disk_free_bytes: IntGauge = "kvnode_disk_free_bytes" [] false, "Free bytes on the volume of the Raft log.";

    store_keys: IntGaugeVec = "kvnode_store_keys" ["db"] true, "Keys of a database.";
    store_expires: IntGaugeVec = "kvnode_store_expiring_keys" ["db"] true, "Keys of a database that have a deadline.";
    store_flushes: IntCounter = "kvnode_store_flushes_total" [] true, "Flushes of the state to disk.";
    store_memtable_bytes: IntGauge = "kvnode_store_memtable_bytes" [] true, "State in memory, not yet on disk.";
    store_block_cache_bytes: IntGauge = "kvnode_store_block_cache_bytes" [] true, "Cache of state read from disk.";
    store_value_cache_bytes: IntGauge = "kvnode_store_value_cache_bytes" [] true, "Cache of single values.";
    store_value_cache_hits: IntCounter = "kvnode_store_value_cache_hits_total" [] true,
        "Lookups of a value that its cache answered.";
    store_value_cache_misses: IntCounter = "kvnode_store_value_cache_misses_total" [] true,
        "Lookups of a value that its cache did not answer.";
    store_live_bytes: IntGauge = "kvnode_store_live_bytes" [] true, "Estimate of the live data.";
    store_files_bytes: IntGauge = "kvnode_store_files_bytes" [] true, "State files on disk.";
    store_pending_compaction_bytes: IntGauge = "kvnode_store_pending_compaction_bytes" [] true,
        "Estimate of the data that compaction has still to rewrite.";

    snapshots: IntCounterVec = "kvnode_snapshots_total" ["result"] true, "Snapshots taken (RAFTSNAPSHOT), by result.";
    snapshot_duration: Latency = "kvnode_snapshot_duration_seconds" [] true, "Time of one snapshot.";
    snapshot_last_bytes: IntGauge = "kvnode_snapshot_last_bytes" [] true, "Size of the newest snapshot.";
    snapshot_last_success: Gauge = "kvnode_snapshot_last_success_timestamp_seconds" [] true,
        "Unix time of the newest snapshot that succeeded; 0 = none since start.";
    checkpoints_sent: IntCounterVec = "kvnode_checkpoints_sent_total" ["result"] true,
        "Checkpoints streamed to members that were too far behind, by result.";
    checkpoints_received: IntCounterVec = "kvnode_checkpoints_received_total" ["result"] true,
        "Checkpoints received; failed counts refused requests of a transfer.";
    checkpoint_sent_bytes: IntCounter = "kvnode_checkpoint_sent_bytes_total" [] true, "Checkpoint bytes sent.";
    checkpoint_received_bytes: IntCounter = "kvnode_checkpoint_received_bytes_total" [] true,
        "Checkpoint bytes received.";

    http_requests: IntCounterVec = "kvnode_http_requests_total" ["code"] false, "Admin API requests, by status.";

    process_resident_bytes: IntGauge = "kvnode_process_resident_bytes" [] false, "Memory of the process.";
    process_open_files: IntGauge = "kvnode_process_open_files" [] false, "Open file descriptors.";
    process_threads: IntGauge = "kvnode_process_threads" [] false, "Threads.";
    process_cpu: Counter = "kvnode_process_cpu_seconds_total" [] false, "CPU time, user and system.";
    process_uptime: Gauge = "kvnode_process_uptime_seconds" [] false, "Time since the process started.";
    build_info: IntGaugeVec = "kvnode_build_info" ["version"] false, "1, with the version of the server.";
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// All metrics at zero, in a registry of their own.
    #[must_use]
    pub fn new() -> Self {
        let metrics = Self::build();
        metrics.build_info.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
        metrics
    }

    /// Adds a source that is asked at each scrape.
    pub fn register(&self, source: Arc<dyn Scrape>) {
        self.sources.lock().push(source);
    }

    /// The text of `/metrics`: Prometheus exposition format 0.0.4.
    ///
    /// # Errors
    /// The library cannot encode; a bug.
    pub fn render(&self) -> Result<String, String> {
        // Held over the scrape, so that two readers do not raise one counter twice.
        let sources = self.sources.lock();
        for source in sources.iter() {
            source.scrape(self);
        }
        process::scrape(self);
        self.process_uptime.set(self.started.elapsed().as_secs_f64());
        TextEncoder::new().encode_to_string(&self.registry.gather()).map_err(|e| e.to_string())
    }

    /// Sets the one role that holds to 1 and the others to 0.
    pub fn set_role(&self, roles: &[&str], current: &str) {
        for role in roles {
            self.raft_role.with_label_values(&[role]).set(i64::from(*role == current));
        }
    }

    /// Time since the process started.
    #[must_use]
    pub fn uptime(&self) -> std::time::Duration {
        self.started.elapsed()
    }
}

/// Brings a counter up to a total that another module keeps. A total that is lower (the module was made anew) is left.
pub fn raise(counter: &IntCounter, total: u64) {
    counter.inc_by(total.saturating_sub(counter.get()));
}

/// A gauge of an unsigned number.
pub fn set(gauge: &IntGauge, value: u64) {
    gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
}

/// Replaces all series of a family, so that members that left, or are no longer ours to know, are gone.
pub fn replace<P: Atomic>(family: &GenericGaugeVec<P>, values: impl Iterator<Item = (String, P::T)>) {
    family.reset();
    for (label, value) in values {
        family.with_label_values(&[&label]).set(value);
    }
}

/// The table as Markdown, for the README.
#[must_use]
pub fn markdown() -> String {
    let mut out = String::from("| metric | kind | labels | meaning |\n| --- | --- | --- | --- |\n");
    for spec in METRICS {
        let group = spec.group.then_some("group").into_iter();
        let labels = group.chain(spec.labels.iter().copied()).collect::<Vec<_>>().join(", ");
        // Writing to a string cannot fail.
        let _ = writeln!(out, "| `{}` | {} | {labels} | {} |", spec.name, spec.kind, spec.help);
    }
    out
}
