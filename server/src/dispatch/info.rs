//! The text of INFO: facts in, sections out. Pure. A fact that is not known is left out, never made up.

use std::fmt::{Display, Write as _};
use std::sync::atomic::{AtomicU64, Ordering};

use super::clients::Clients;
use super::counters::{BUCKETS_US, Counters};
use super::process::Usage;
use super::{Saved, views};
use crate::acl::Reason;
use crate::clock::UnixMs;
use crate::command::REDIS_VERSION;
use crate::config::{Config, Redirect};
use crate::net;
use crate::raft::{Role, Status};
use crate::store::Visible;

/// Everything that INFO may tell, gathered by dispatch at one moment.
pub struct Facts<'a> {
    /// Configuration.
    pub config: &'a Config,
    /// The group.
    pub status: &'a Status,
    /// Counters.
    pub counters: &'a Counters,
    /// Connections.
    pub clients: &'a Clients,
    /// Channels, patterns and shard channels that are listened to here.
    pub listened: [usize; 3],
    /// What the client listener has counted.
    pub net: &'a net::Stats,
    /// Failed logins, refused requests by reason, since CONFIG RESETSTAT.
    pub refusals: (u64, [u64; Reason::ALL.len()]),
    /// What can be seen of each database, index = number.
    pub databases: &'a [Visible],
    /// Keys removed because they had expired.
    pub expired_keys: u64,
    /// Scripts that are remembered, and bytes of their texts.
    pub scripts: (usize, usize),
    /// Requests in the slow log.
    pub slow_requests: usize,
    /// Bytes of the Raft log.
    pub log_bytes: u64,
    /// Checkpoints sent to other nodes.
    pub checkpoints_sent: u64,
    /// This process.
    pub usage: Usage,
    /// Random id of this process' life, 40 hex digits.
    pub run_id: &'a str,
    /// Client address told to others.
    pub addr: &'a str,
    /// Wall clock.
    pub now: UnixMs,
    /// Wall clock at start.
    pub started: UnixMs,
    /// Requests in the last full second.
    pub ops_per_second: u64,
    /// Snapshots written.
    pub saved: Saved,
    /// When the BGSAVE that runs began.
    pub saving_since: Option<UnixMs>,
    /// The last BGSAVE of this process did not fail.
    pub last_save_ok: bool,
}

type Section = (&'static str, fn(&mut Text, &Facts<'_>));

/// Sections in Redis' order. Those that `INFO` alone shows come first in [`render`] by name.
const SECTIONS: [Section; 14] = [
    ("Server", server),
    ("Clients", clients),
    ("Memory", memory),
    ("Persistence", persistence),
    ("Stats", stats),
    ("Replication", replication),
    ("CPU", cpu),
    ("Modules", |_, _| {}),
    ("Commandstats", command_stats),
    ("Latencystats", latency_stats),
    ("Errorstats", error_stats),
    ("Cluster", cluster),
    ("Keyspace", keyspace),
    ("Raft", raft),
];

/// Sections that only `all`, `everything` or their own name show.
const ON_REQUEST: [&str; 2] = ["Commandstats", "Latencystats"];

/// The text for the sections asked for (lower case); none = default. Unknown names show nothing.
#[must_use]
pub fn render(facts: &Facts<'_>, wanted: &[String]) -> String {
    let asked = |name: &str| wanted.iter().any(|section| section == name);
    let everything = asked("all") || asked("everything");
    let default = wanted.is_empty() || asked("default");
    let mut text = Text::default();
    for (title, write) in SECTIONS {
        let shown =
            everything || (default && !ON_REQUEST.contains(&title)) || asked(&title.to_ascii_lowercase());
        if shown {
            text.title(title);
            write(&mut text, facts);
        }
    }
    text.0
}

/// The text under construction.
#[derive(Default)]
struct Text(String);

impl Text {
    fn title(&mut self, title: &str) {
        let gap = if self.0.is_empty() { "" } else { "\r\n" };
        let _ = write!(self.0, "{gap}# {title}\r\n");
    }

    fn field(&mut self, name: &str, value: impl Display) {
        let _ = write!(self.0, "{name}:{value}\r\n");
    }

    fn known(&mut self, name: &str, value: Option<impl Display>) {
        if let Some(value) = value {
            self.field(name, value);
        }
    }

    fn flag(&mut self, name: &str, value: bool) {
        self.field(name, u8::from(value));
    }
}

fn mode(config: &Config) -> &'static str {
    if config.redirect == Redirect::Moved { "cluster" } else { "standalone" }
}

fn server(text: &mut Text, facts: &Facts<'_>) {
    let uptime = facts.now.0.saturating_sub(facts.started.0) / 1000;
    text.field("redis_version", REDIS_VERSION);
    text.field("redis_mode", mode(facts.config));
    text.field("redis_build_id", env!("CARGO_PKG_VERSION"));
    text.field("kvnode_version", env!("CARGO_PKG_VERSION"));
    text.field("os", format_args!("{} {}", std::env::consts::OS, std::env::consts::ARCH));
    text.field("arch_bits", usize::BITS);
    text.field("multiplexing_api", "epoll");
    text.field("process_id", std::process::id());
    text.field("process_supervised", "no");
    text.field("run_id", facts.run_id);
    text.field("tcp_port", views::split(facts.addr).1);
    text.field("server_time_usec", facts.now.0 * 1000);
    text.field("uptime_in_seconds", uptime);
    text.field("uptime_in_days", uptime / 86_400);
    text.known("executable", std::env::current_exe().ok().map(|path| path.display().to_string()));
    text.flag("io_threads_active", facts.config.limits.worker_threads != 1);
}

fn clients(text: &mut Text, facts: &Facts<'_>) {
    text.field("connected_clients", facts.clients.count());
    text.field("maxclients", facts.config.limits.clients_max);
    let (waiting, listening) = facts.clients.waiting_and_listening();
    // In WAIT; no command here waits for another client's write.
    text.field("blocked_clients", waiting);
    text.field("pubsub_clients", listening);
    text.field("tracking_clients", 0);
    text.field("clients_in_timeout_table", 0);
    text.field("cluster_connections", 0);
}

fn memory(text: &mut Text, facts: &Facts<'_>) {
    if let Some(bytes) = facts.usage.resident_bytes {
        // The data is on disk, so what the process holds is the only memory there is to speak of.
        text.field("used_memory", bytes);
        text.field("used_memory_human", human(bytes));
        text.field("used_memory_rss", bytes);
        text.field("used_memory_rss_human", human(bytes));
        text.field("mem_fragmentation_ratio", "1.00");
    }
    if let Some(bytes) = facts.usage.peak_bytes {
        text.field("used_memory_peak", bytes);
        text.field("used_memory_peak_human", human(bytes));
    }
    if let Some(bytes) = facts.usage.machine_bytes {
        text.field("total_system_memory", bytes);
        text.field("total_system_memory_human", human(bytes));
    }
    let (scripts, script_bytes) = facts.scripts;
    text.field("used_memory_scripts", script_bytes);
    text.field("used_memory_scripts_human", human(script_bytes as u64));
    text.field("number_of_cached_scripts", scripts);
    // No state of the interpreter outlives its script.
    text.field("used_memory_lua", 0);
    text.field("used_memory_vm_eval", 0);
    text.field("number_of_functions", 0);
    text.field("number_of_libraries", 0);
    text.field("maxmemory", 0);
    text.field("maxmemory_human", "0B");
    text.field("maxmemory_policy", "noeviction");
    text.field("mem_allocator", "jemalloc");
    // What there is none of: buffers of a Redis replication, an append-only file, defragmentation, lazy deletion.
    for name in [
        "mem_fragmentation_bytes",
        "mem_not_counted_for_evict",
        "mem_replication_backlog",
        "mem_total_replication_buffers",
        "mem_clients_slaves",
        "mem_cluster_links",
        "mem_aof_buffer",
        "active_defrag_running",
        "lazyfree_pending_objects",
        "lazyfreed_objects",
    ] {
        text.field(name, 0);
    }
}

/// Bytes as Redis writes them: `512B`, `1.50K`, `2.00M`, `3.00G`.
#[expect(clippy::cast_precision_loss, reason = "two decimals are shown")]
pub(super) fn human(bytes: u64) -> String {
    const UNITS: [(u64, char); 4] = [(1 << 40, 'T'), (1 << 30, 'G'), (1 << 20, 'M'), (1 << 10, 'K')];
    UNITS.into_iter().find(|(size, _)| bytes >= *size).map_or_else(
        || format!("{bytes}B"),
        |(size, unit)| format!("{:.2}{unit}", bytes as f64 / size as f64),
    )
}

fn loading(status: &Status) -> bool {
    status.role == Role::Unformed || !status.recovered
}

fn persistence(text: &mut Text, facts: &Facts<'_>) {
    let loading = loading(facts.status);
    text.flag("loading", loading);
    if loading {
        text.field("loading_start_time", facts.started.0 / 1000);
        text.field("loading_eta_seconds", 1);
    }
    text.field("async_loading", 0);
    let applied = facts.status.applied.map_or(0, |id| id.index);
    // Entries of the log since the newest snapshot that this process wrote.
    text.field("rdb_changes_since_last_save", applied.saturating_sub(facts.saved.index));
    text.flag("rdb_bgsave_in_progress", facts.saving_since.is_some());
    text.field("rdb_last_save_time", facts.saved.at.unwrap_or(facts.started).0 / 1000);
    text.field("rdb_last_bgsave_status", if facts.last_save_ok { "ok" } else { "err" });
    let took = facts.saved.at.map_or_else(|| "-1".to_owned(), |_| facts.saved.took.as_secs().to_string());
    text.field("rdb_last_bgsave_time_sec", took);
    let since = |begun: UnixMs| (facts.now.0.saturating_sub(begun.0) / 1000).to_string();
    let runs = facts.saving_since.map_or_else(|| "-1".to_owned(), since);
    text.field("rdb_current_bgsave_time_sec", runs);
    text.field("rdb_saves", facts.saved.count);
    // A snapshot is no fork, and the Raft log is no append-only file.
    for (name, value) in [
        ("rdb_last_cow_size", "0"),
        ("aof_enabled", "0"),
        ("aof_rewrite_in_progress", "0"),
        ("aof_rewrite_scheduled", "0"),
        ("aof_last_rewrite_time_sec", "-1"),
        ("aof_current_rewrite_time_sec", "-1"),
        ("aof_last_bgrewrite_status", "ok"),
        ("aof_last_write_status", "ok"),
        ("aof_last_cow_size", "0"),
        ("module_fork_in_progress", "0"),
        ("module_fork_last_cow_size", "0"),
    ] {
        text.field(name, value);
    }
}

/// Counters of what no node does: fork, serve a partial resync, track keys of a client, keep sockets for MIGRATE,
/// defragment.
const NEVER: [&str; 18] = [
    "sync_partial_ok",
    "sync_partial_err",
    "latest_fork_usec",
    "total_forks",
    "migrate_cached_sockets",
    "slave_expires_tracked_keys",
    "active_defrag_hits",
    "active_defrag_misses",
    "active_defrag_key_hits",
    "active_defrag_key_misses",
    "total_active_defrag_time",
    "current_active_defrag_time",
    "tracking_total_keys",
    "tracking_total_items",
    "tracking_total_prefixes",
    "dump_payload_sanitizations",
    "io_threaded_reads_processed",
    "io_threaded_writes_processed",
];

fn stats(text: &mut Text, facts: &Facts<'_>) {
    let totals = facts.counters.totals_since_reset();
    let net = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    text.field("total_connections_received", net(&facts.net.accepted));
    text.field("total_commands_processed", totals.commands);
    text.field("instantaneous_ops_per_sec", facts.ops_per_second);
    text.field("total_net_input_bytes", net(&facts.net.read_bytes));
    text.field("total_net_output_bytes", net(&facts.net.written_bytes));
    text.field("rejected_connections", net(&facts.net.rejected));
    text.field("expired_keys", facts.expired_keys);
    // Nothing is evicted, and a sweep of expired keys has no time limit to reach.
    for name in [
        "evicted_keys",
        "evicted_clients",
        "total_eviction_exceeded_time",
        "current_eviction_exceeded_time",
        "expired_stale_perc",
        "expired_time_cap_reached_count",
        "expire_cycle_cpu_milliseconds",
    ] {
        text.field(name, 0);
    }
    text.field("keyspace_hits", totals.hits);
    text.field("keyspace_misses", totals.misses);
    let [channels, patterns, shard_channels] = facts.listened;
    text.field("pubsub_channels", channels);
    text.field("pubsub_patterns", patterns);
    text.field("pubsubshard_channels", shard_channels);
    text.field("total_error_replies", totals.errors);
    text.field("unexpected_error_replies", 0);
    text.field("sync_full", facts.checkpoints_sent);
    for name in NEVER {
        text.field(name, 0);
    }
    text.field("client_output_buffer_limit_disconnections", net(&facts.net.stalled));
    text.field("client_query_buffer_limit_disconnections", net(&facts.net.over_budget));
    text.field("slowlog_len", facts.slow_requests);
    let (logins_failed, [commands, keys, channels]) = facts.refusals;
    text.field("acl_access_denied_auth", logins_failed);
    text.field("acl_access_denied_cmd", commands);
    text.field("acl_access_denied_key", keys);
    text.field("acl_access_denied_channel", channels);
}

fn replication(text: &mut Text, facts: &Facts<'_>) {
    let status = facts.status;
    let offset = status.applied.map_or(0, |id| id.index);
    if views::takes_writes(status, facts.config.redirect) {
        text.field("role", "master");
        let known: Vec<_> = status.members.iter().filter(|member| member.matched_index.is_some()).collect();
        let others: Vec<_> = known.into_iter().filter(|member| member.id != status.node_id).collect();
        text.field("connected_slaves", others.len());
        for (number, member) in others.iter().enumerate() {
            let (host, port) = views::split(&member.addr);
            let lag = member.last_ack_ms.unwrap_or(0) / 1000;
            let matched = member.matched_index.unwrap_or(0);
            text.field(
                &format!("slave{number}"),
                format_args!("ip={host},port={port},state=online,offset={matched},lag={lag}"),
            );
        }
    } else {
        text.field("role", "slave");
        if let Some(leader) = &status.leader {
            let (host, port) = views::split(&leader.addr);
            text.field("master_host", host);
            text.field("master_port", port);
        }
        text.known("master_last_io_seconds_ago", status.last_contact_ms.map(|ms| ms / 1000));
        text.field("master_link_status", if status.leader.is_some() { "up" } else { "down" });
        text.field("master_sync_in_progress", u8::from(!status.recovered));
        text.field("slave_repl_offset", offset);
        text.field("slave_priority", 100);
        text.field("slave_read_only", 1);
        text.field("connected_slaves", 0);
    }
    text.field("master_failover_state", "no-failover");
    text.known("master_replid", status.cluster_id.map(|id| format!("{id:040x}")));
    text.field("master_replid2", "0".repeat(40));
    text.field("master_repl_offset", offset);
    text.field("second_repl_offset", -1);
    // The Raft log is what a follower is served from; offsets are its indexes.
    text.field("repl_backlog_active", 1);
    text.field("repl_backlog_size", facts.config.limits.log_keep_bytes);
    text.field("repl_backlog_first_byte_offset", status.purged.map_or(0, |id| id.index + 1));
    text.field("repl_backlog_histlen", facts.log_bytes);
}

fn cpu(text: &mut Text, facts: &Facts<'_>) {
    text.known("used_cpu_sys", facts.usage.system_seconds);
    text.known("used_cpu_user", facts.usage.user_seconds);
    text.known("used_cpu_sys_children", facts.usage.children_system_seconds);
    text.known("used_cpu_user_children", facts.usage.children_user_seconds);
}

#[expect(clippy::cast_precision_loss, reason = "two decimals are shown")]
fn command_stats(text: &mut Text, facts: &Facts<'_>) {
    for (name, count) in facts.counters.commands_since_reset() {
        let each = if count.calls == 0 { 0.0 } else { count.usec as f64 / count.calls as f64 };
        text.field(
            &format!("cmdstat_{}", name.to_ascii_lowercase()),
            format_args!(
                "calls={},usec={},usec_per_call={each:.2},rejected_calls={},failed_calls={}",
                count.calls, count.usec, count.rejected, count.failed
            ),
        );
    }
}

/// Percentiles as the bounds of the buckets that they lie in: at most that many microseconds.
fn latency_stats(text: &mut Text, facts: &Facts<'_>) {
    for (name, count) in facts.counters.commands_since_reset() {
        let at_most = |per_mille: u64| {
            let rank = (count.calls * per_mille).div_ceil(1000).max(1);
            let mut total = 0;
            let bucket = count.buckets.iter().position(|calls| {
                total += calls;
                total >= rank
            });
            let last = BUCKETS_US.last();
            bucket.and_then(|bucket| BUCKETS_US.get(bucket)).or(last).copied().unwrap_or(0)
        };
        if count.calls > 0 {
            text.field(
                &format!("latency_percentiles_usec_{}", name.to_ascii_lowercase()),
                format_args!("p50={}.000,p99={}.000,p99.9={}.000", at_most(500), at_most(990), at_most(999)),
            );
        }
    }
}

fn error_stats(text: &mut Text, facts: &Facts<'_>) {
    for (code, count) in facts.counters.errors_since_reset() {
        text.field(&format!("errorstat_{code}"), format_args!("count={count}"));
    }
}

fn cluster(text: &mut Text, facts: &Facts<'_>) {
    text.flag("cluster_enabled", facts.config.redirect == Redirect::Moved);
}

fn keyspace(text: &mut Text, facts: &Facts<'_>) {
    for (number, Visible { keys, expires, ttl_mean_ms }) in facts.databases.iter().enumerate() {
        if *keys > 0 {
            let name = format!("db{number}");
            text.field(&name, format_args!("keys={keys},expires={expires},avg_ttl={ttl_mean_ms}"));
        }
    }
}

fn raft(text: &mut Text, facts: &Facts<'_>) {
    let status = facts.status;
    let voters = status.members.iter().filter(|member| member.voter).count();
    text.field("raft_node_id", format_args!("{:016x}", status.node_id));
    text.known("raft_cluster_id", status.cluster_id.map(|id| format!("{id:016x}")));
    text.field("raft_role", views::role(status.role));
    text.field("raft_term", status.term);
    text.known("raft_leader_id", status.leader.as_ref().map(|leader| format!("{:016x}", leader.id)));
    text.known("raft_leader_addr", status.leader.as_ref().map(|leader| &leader.addr));
    text.known("raft_last_log_index", status.last_log.map(|id| id.index));
    text.known("raft_commit_index", status.committed.map(|id| id.index));
    text.known("raft_applied_index", status.applied.map(|id| id.index));
    text.known("raft_durable_index", status.durable.map(|id| id.index));
    text.known("raft_purged_index", status.purged.map(|id| id.index));
    text.known("raft_last_contact_ms", status.last_contact_ms);
    text.field("raft_peers", status.members.len());
    text.field("raft_voters", voters);
    text.field("raft_learners", status.members.len() - voters);
    text.flag("raft_change_in_progress", status.change_in_progress);
    text.flag("raft_recovered", status.recovered);
}
