//! Brings the metrics up to date from the counters that the other modules keep.
//!
//! One method per room of the node. Everything is read from memory; what a room does not know at the moment (a peer's lag
//! on a follower) has no series, rather than a made-up number.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::snapshots::Snapshots;
use crate::acl::Reason;
use crate::config::Config;
use crate::dispatch::Dispatcher;
use crate::metrics::{Metrics, Scrape, raise, replace, set};
use crate::net;
use crate::raft::{Group, ProposeError, Role, Status};
use crate::store::LogId;
use crate::tls::Tls;

/// Everything that is read at a scrape.
pub(super) struct Source {
    pub(super) config: Arc<Config>,
    pub(super) group: Group,
    pub(super) dispatcher: Arc<Dispatcher<Group>>,
    pub(super) net: Arc<net::Stats>,
    pub(super) snapshots: Snapshots,
    pub(super) tls: Tls,
}

/// Label values of `kvnode_raft_role`.
const ROLES: [&str; 6] = ["leader", "follower", "candidate", "learner", "unformed", "shutdown"];

fn role(role: Role) -> &'static str {
    match role {
        Role::Leader => "leader",
        Role::Follower => "follower",
        Role::Candidate => "candidate",
        Role::Learner => "learner",
        Role::Unformed => "unformed",
        Role::Shutdown => "shutdown",
    }
}

/// Index of a log id; 0 is before the first entry.
fn index(id: Option<LogId>) -> u64 {
    id.map_or(0, |id| id.index)
}

fn peer(id: u64) -> String {
    format!("{id:016x}")
}

fn seconds(millis: u64) -> f64 {
    Duration::from_millis(millis).as_secs_f64()
}

fn get(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}

impl Scrape for Source {
    fn scrape(&self, metrics: &Metrics) {
        let status = self.group.status();
        self.commands(metrics);
        self.clients(metrics);
        self.access(metrics);
        Self::positions(metrics, &status);
        self.members(metrics, &status);
        self.proposals(metrics);
        self.log(metrics);
        self.store(metrics);
        self.snapshots(metrics);
        self.certificates(metrics);
    }
}

impl Source {
    fn certificates(&self, metrics: &Metrics) {
        for credentials in self.tls.all() {
            let label = &[credentials.usage().label()];
            metrics.tls_certificate_expiry.with_label_values(label).set(seconds(credentials.ends().0));
            metrics.tls_certificate_stale.with_label_values(label).set(i64::from(credentials.is_stale()));
            raise(&metrics.tls_refused.with_label_values(label), credentials.refused());
        }
    }

    fn commands(&self, metrics: &Metrics) {
        for (name, count) in self.dispatcher.command_counters() {
            if count.calls == 0 && count.rejected == 0 {
                continue;
            }
            metrics.command_duration.with(name).raise(&count.buckets, Duration::from_micros(count.usec));
            raise(&metrics.command_errors.with_label_values(&[name]), count.failed);
            raise(&metrics.command_rejected.with_label_values(&[name]), count.rejected);
        }
        for (prefix, count) in self.dispatcher.counters().errors() {
            raise(&metrics.error_replies.with_label_values(&[&prefix]), count);
        }
        let totals = self.dispatcher.counters().totals();
        raise(&metrics.key_hits, totals.hits);
        raise(&metrics.key_misses, totals.misses);
    }

    fn clients(&self, metrics: &Metrics) {
        let stats = &self.net;
        set(&metrics.clients_connected, get(&stats.open));
        set(&metrics.clients_max, self.config.limits.clients_max as u64);
        raise(&metrics.clients_accepted, get(&stats.accepted));
        raise(&metrics.client_read_bytes, get(&stats.read_bytes));
        raise(&metrics.client_written_bytes, get(&stats.written_bytes));
        let reasons = [
            ("limit", &stats.rejected),
            ("protocol", &stats.protocol_errors),
            ("stalled", &stats.stalled),
            ("budget", &stats.over_budget),
            ("protected", &stats.protected),
            ("login", &stats.not_logged_in),
            ("panic", &stats.panics),
        ];
        for (reason, counter) in reasons {
            raise(&metrics.clients_rejected.with_label_values(&[reason]), get(counter));
        }
    }

    fn access(&self, metrics: &Metrics) {
        let count = self.dispatcher.access().count();
        raise(&metrics.logins_failed, count.logins_failed);
        for (reason, denied) in Reason::ALL.iter().zip(count.denied) {
            raise(&metrics.requests_denied.with_label_values(&[reason.name()]), denied);
        }
        raise(&metrics.users_reloads.with_label_values(&["ok"]), count.reloads);
        raise(&metrics.users_reloads.with_label_values(&["failed"]), count.reloads_failed);
        set(&metrics.users_faulty, u64::from(count.faulty));
    }

    fn positions(metrics: &Metrics, status: &Status) {
        set(&metrics.raft_term, status.term);
        metrics.set_role(&ROLES, role(status.role));
        set(&metrics.raft_leader_known, u64::from(status.leader.is_some()));
        set(&metrics.raft_last_index, index(status.last_log));
        set(&metrics.raft_committed_index, index(status.committed));
        set(&metrics.raft_applied_index, index(status.applied));
        set(&metrics.raft_durable_index, index(status.durable));
        set(&metrics.raft_purged_index, index(status.purged));
        set(&metrics.raft_contents_equal_index, index(status.equal_at));
        set(&metrics.raft_contents_undecided, u64::from(status.undecided_at.is_some()));
        metrics.raft_last_contact.set(status.last_contact_ms.map_or(-1.0, seconds));
    }

    fn members(&self, metrics: &Metrics, status: &Status) {
        let members = &status.members;
        set(&metrics.raft_members, members.len() as u64);
        set(&metrics.raft_voters, members.iter().filter(|member| member.voter).count() as u64);
        let signed = |entries: u64| i64::try_from(entries).unwrap_or(i64::MAX);
        let lags = members.iter().filter_map(|member| Some((peer(member.id), signed(member.lag_entries?))));
        replace(&metrics.raft_peer_lag, lags);
        let acks = members.iter().filter_map(|member| Some((peer(member.id), seconds(member.last_ack_ms?))));
        replace(&metrics.raft_peer_ack, acks);
        let diverged = members.iter().filter(|member| member.lag_entries.is_some());
        replace(
            &metrics.raft_peer_diverged,
            diverged.map(|member| (peer(member.id), i64::from(member.diverged_at.is_some()))),
        );
        let seconds_of =
            |millis: i64| seconds(millis.unsigned_abs()).copysign(if millis < 0 { -1.0 } else { 1.0 });
        let offsets = self.group.clock_offsets_ms();
        replace(
            &metrics.raft_clock_offset,
            offsets.into_iter().map(|(id, millis)| (peer(id), seconds_of(millis))),
        );
    }

    fn proposals(&self, metrics: &Metrics) {
        metrics.raft_election_timeout.set(self.group.election_timeout().as_secs_f64());
        let counters = self.group.counters();
        raise(&metrics.raft_leader_changes, get(&counters.leader_changes));
        raise(&metrics.raft_proposals, get(&counters.proposals));
        raise(&metrics.raft_batches, get(&counters.batches));
        raise(&metrics.raft_batch_ops, get(&counters.batch_ops));
        raise(&metrics.raft_read_barriers, get(&counters.read_rounds));
        set(&metrics.raft_queue_bytes, self.group.open_bytes());
        for (reason, counter) in ProposeError::REASONS.iter().zip(&counters.proposal_errors) {
            raise(&metrics.raft_proposal_errors.with_label_values(&[reason]), get(counter));
        }
    }

    fn log(&self, metrics: &Metrics) {
        let stats = self.group.log_stats();
        raise(&metrics.log_syncs, stats.syncs);
        metrics.log_sync_duration.raise(&stats.sync_buckets, stats.sync_time);
        raise(&metrics.log_written_bytes, stats.bytes_written);
        set(&metrics.log_size_bytes, self.group.log_bytes());
        set(&metrics.log_queue_bytes, stats.queue_bytes);
        set(&metrics.log_cache_bytes, stats.cache_bytes);
        set(&metrics.disk_full, u64::from(self.group.disk_problem().is_some()));
        set(&metrics.disk_free_bytes, self.group.disk_free_bytes());
    }

    fn store(&self, metrics: &Metrics) {
        let store = self.group.store();
        for db in 0..self.config.databases {
            let stats = store.stats(db);
            let label = db.to_string();
            set(&metrics.store_keys.with_label_values(&[&label]), stats.keys);
            set(&metrics.store_expires.with_label_values(&[&label]), stats.expires);
        }
        raise(&metrics.store_flushes, store.flushes());
        let cache = store.value_cache();
        set(&metrics.store_value_cache_bytes, cache.bytes);
        raise(&metrics.store_value_cache_hits, cache.hits);
        raise(&metrics.store_value_cache_misses, cache.misses);
        let properties = [
            (&metrics.store_memtable_bytes, "rocksdb.cur-size-all-mem-tables"),
            (&metrics.store_block_cache_bytes, "rocksdb.block-cache-usage"),
            (&metrics.store_live_bytes, "rocksdb.estimate-live-data-size"),
            (&metrics.store_files_bytes, "rocksdb.total-sst-files-size"),
            (&metrics.store_pending_compaction_bytes, "rocksdb.estimate-pending-compaction-bytes"),
        ];
        for (gauge, name) in properties {
            if let Some(value) = store.engine_property(name) {
                set(gauge, value);
            }
        }
    }

    fn snapshots(&self, metrics: &Metrics) {
        let counts = self.snapshots.counts();
        raise(&metrics.snapshots.with_label_values(&["ok"]), get(&counts.written));
        raise(&metrics.snapshots.with_label_values(&["failed"]), get(&counts.failed));
        set(&metrics.snapshot_last_bytes, get(&counts.last_bytes));
        metrics.snapshot_last_success.set(seconds(get(&counts.last_at_ms)));
        let checkpoints = self.group.checkpoints();
        raise(&metrics.checkpoints_sent.with_label_values(&["ok"]), checkpoints.sent);
        raise(&metrics.checkpoints_sent.with_label_values(&["failed"]), checkpoints.sent_failed);
        raise(&metrics.checkpoints_received.with_label_values(&["ok"]), checkpoints.received);
        raise(&metrics.checkpoints_received.with_label_values(&["failed"]), checkpoints.received_failed);
        raise(&metrics.checkpoint_sent_bytes, checkpoints.sent_bytes);
        raise(&metrics.checkpoint_received_bytes, checkpoints.received_bytes);
    }
}
