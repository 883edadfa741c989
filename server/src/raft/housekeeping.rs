//! What a group does beside serving: follow the leader, purge the log behind the durable state, watch the disk,
//! notice that the Raft core died.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use openraft::async_runtime::WatchReceiver as _;
use tokio::time::sleep;

use super::core::{Core, LeaderView};
use super::peer::client::id_text;
use super::types::Members;
use crate::audit::{self, Event};

const EVERY: Duration = Duration::from_millis(250);
/// Log entries that stay behind a purge in any case: openraft must never purge what it is about to apply (issue 2116).
const KEEP_ENTRIES: u64 = 1024;

/// Learns of the Raft core who the members are, as the log of this node has them.
///
/// # Errors
/// The core has stopped.
pub(super) async fn note_members(core: &Core) -> Result<(), String> {
    let effective =
        core.raft.with_raft_state(|state| state.membership_state.effective().membership().clone()).await;
    let members = Members::from_raft(&effective.map_err(|error| error.to_string())?);
    core.local.set_peer_addrs(peer_addrs(&members));
    core.members.store(Arc::new(members));
    Ok(())
}

fn peer_addrs(members: &Members) -> BTreeMap<u64, String> {
    members.nodes.iter().map(|(id, node)| (*id, node.peer_addr.clone())).collect()
}

/// Tells the audit trail of other members, or of other roles.
fn audit_members(old: &Members, new: &Members) {
    let roles = |members: &Members| -> BTreeMap<u64, bool> {
        members.nodes.keys().map(|id| (*id, members.is_voter(*id))).collect()
    };
    let (old, new) = (roles(old), roles(new));
    if old == new || old.is_empty() || new.is_empty() {
        return;
    }
    let list = |voters: bool| -> String {
        let ids = new.iter().filter(|(_, is_voter)| **is_voter == voters).map(|(id, _)| id_text(*id));
        ids.collect::<Vec<_>>().join(",")
    };
    audit::note(&Event::Membership { voters: &list(true), learners: &list(false) });
}

/// Keeps the leader watch and the membership up to date.
pub(super) async fn follow_leader(core: Arc<Core>) {
    let mut metrics = core.raft.server_metrics();
    loop {
        {
            let now = metrics.borrow_and_update();
            let members = Members::from_raft(now.membership_config.membership());
            let leader = now.current_leader.filter(|_| now.vote.committed);
            let node = leader.and_then(|id| members.nodes.get(&id));
            let view = LeaderView {
                // A leader whose address is not known yet cannot be reached.
                id: leader.filter(|_| node.is_some()),
                term: now.vote.leader_id.term,
                addr: node.map(|node| node.addr.clone()).unwrap_or_default(),
                peer_addr: node.map(|node| node.peer_addr.clone()).unwrap_or_default(),
            };
            core.local.set_peer_addrs(peer_addrs(&members));
            audit_members(&core.members.load(), &members);
            core.members.store(Arc::new(members));
            if core.is_leader() && view.id != Some(core.local.node_id) {
                // Until now it was the leader itself: the silence begins here, not at the leader before it.
                core.heard.note();
            }
            let changed = core.leader.send_if_modified(|old| {
                let changed = *old != view;
                *old = view.clone();
                changed
            });
            if changed {
                core.counters.leader_changes.fetch_add(1, Ordering::Relaxed);
                if let Some(id) = view.id {
                    tracing::info!(leader = %id_text(id), addr = %view.addr, term = view.term, "leader");
                } else {
                    tracing::info!(term = view.term, "no leader known");
                }
            }
        }
        if metrics.changed().await.is_err() {
            core.leader.send_replace(LeaderView::default());
            return;
        }
    }
}

/// Purges the log and watches the disk.
pub(super) async fn keep_house(core: Arc<Core>) {
    let mut was_full = false;
    loop {
        tokio::select! {
            () = core.shutdown.cancelled() => return,
            () = sleep(EVERY) => {}
        }
        note_free_bytes(&core);
        let problem = disk_problem(&core);
        if problem.is_some() != was_full {
            was_full = problem.is_some();
            if let Some(problem) = &problem {
                tracing::warn!(%problem, "writes that need space are refused");
            } else {
                tracing::info!("there is room on the disk again");
            }
        }
        core.disk.set(problem);
        if was_full {
            leave_leadership(&core).await;
        }
        purge_when_due(&core, core.config.limits.log_keep_bytes).await;
        core.outgoing.expire().await;
    }
}

/// A leader without room hands over to a voter; it refuses growth itself until then.
async fn leave_leadership(core: &Arc<Core>) {
    if !core.is_leader() || core.transfer.try_lock().is_err() || core.log.stats().disk_full.is_none() {
        return;
    }
    if let Ok(successor) = super::members::pick_successor(core, None)
        && let Err(error) = super::members::transfer(core, successor).await
    {
        tracing::warn!(%error, "leadership not handed over though the disk is full");
    }
}

fn disk_problem(core: &Core) -> Option<String> {
    if let Some(problem) = core.log.stats().disk_full {
        return Some(format!(
            "the Raft log cannot grow: {problem}; free disk space, writes resume by themselves"
        ));
    }
    if let Some(problem) = core.store.disk_error() {
        return Some(format!(
            "the state cannot be written: {problem}; free disk space, writes resume by themselves"
        ));
    }
    let limits = &core.config.limits;
    for dir in [&core.config.data, &core.config.log_dir] {
        if let Some(free) = free_bytes(dir)
            && free < limits.disk_reserve_bytes
        {
            return Some(format!(
                "disk full: {} MiB free at {}, {} MiB are kept in reserve; delete keys or enlarge the volume",
                free >> 20,
                dir.display(),
                limits.disk_reserve_bytes >> 20
            ));
        }
    }
    let used =
        core.store.engine_property("rocksdb.live-sst-files-size").unwrap_or(0) + core.log.retained_bytes();
    (limits.disk_quota_bytes > 0 && used > limits.disk_quota_bytes).then(|| {
        format!(
            "disk quota reached: {} of {} MiB; delete keys or raise disk_quota_bytes",
            used >> 20,
            limits.disk_quota_bytes >> 20
        )
    })
}

/// Looks how much the Raft log may still grow.
pub(super) fn note_free_bytes(core: &Core) {
    if let Some(free) = free_bytes(&core.config.log_dir) {
        core.disk.set_free_bytes(free);
    }
}

/// Free bytes for this user on the file system of `dir`.
fn free_bytes(dir: &Path) -> Option<u64> {
    let stat = rustix::fs::statvfs(dir).ok()?;
    Some(stat.f_bavail.saturating_mul(stat.f_frsize))
}

/// Purges entries that the durable state contains, when more than `keep_bytes` of log would stay behind.
///
/// The order matters: state durable first, then reported to the library as its snapshot position, then purged. A
/// flush is only started when enough log has gathered, so a quiet node writes nothing.
pub(super) async fn purge_when_due(core: &Core, keep_bytes: u64) {
    let Some(candidate) = core.log.purge_candidate(keep_bytes) else { return };
    let last = core.log.bounds().last.map_or(0, |id| id.index);
    let applied = core.store.applied().map_or(0, |id| id.index);
    let keep_entries = if keep_bytes == 0 { 0 } else { KEEP_ENTRIES };
    let upto = candidate.index.min(last.saturating_sub(keep_entries)).min(applied);
    if core.log.bounds().purged.is_some_and(|purged| purged.index >= upto) {
        return;
    }
    let reported = core.raft.metrics().borrow_watched().snapshot.as_ref().map(|id| id.index);
    if reported.is_none_or(|index| index < upto) {
        if core.raft.trigger().snapshot().await.is_err() {
            return;
        }
        let mut metrics = core.raft.metrics();
        let reached = metrics.wait_until(|m| m.snapshot.as_ref().is_some_and(|id| id.index >= upto));
        if !matches!(tokio::time::timeout(Duration::from_secs(30), reached).await, Ok(Ok(_))) {
            return;
        }
    }
    crash_point!("state-durable-not-purged");
    if let Err(error) = core.raft.trigger().purge_log(upto).await {
        tracing::warn!(%error, "log not purged");
    }
}
