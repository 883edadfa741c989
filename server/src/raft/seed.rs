//! Founding a cluster from a snapshot (`--restore`): fill, count, compare, and only then become a cluster.
//!
//! ```text
//! records -> state (Applier::seed: past the log, as whole tables) -> every key read back, counted, digested -> equal to the snapshot?
//!         -> log purged to index 0 -> restored.json -> identity names the cluster      <- from here on it is restored
//! ```
//!
//! Crash-safe by order: the identity names the cluster last, so a crash in between starts over in a wiped state.
//! `restored.json` tells whoever waits (the operator's proof by loading) what this store was found to hold.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write;
use std::path::Path;

use serde_json::json;

use super::codec;
use super::identity::Identity;
use super::log::RaftLog;
use super::peer::client::id_text;
use super::start::{Addresses, StartError};
use super::types::{Members, Node};
use crate::clock;
use crate::store::{self, Applier, DbStats, Fatal, LogId, Record, RecordOrder, Store};

/// Records to found a new cluster from.
pub type RestoreRecords = Box<dyn Iterator<Item = Result<Record, Fatal>> + Send>;

/// A snapshot that was proved, ready to be loaded.
pub struct Restore {
    /// Its records.
    pub records: RestoreRecords,
    /// What its format says of their order.
    pub order: RecordOrder,
    /// What its file counts per database; `None` if the format allows a key twice (the ancestor's).
    pub counted: Option<Vec<DbStats>>,
    /// Cluster that it is of, and the last entry in it, if the format tells.
    pub origin: Option<(u64, LogId)>,
}

/// Opens the snapshot; called only in a directory without a cluster.
pub type OpenRestore = Box<dyn FnOnce() -> Result<Restore, StartError> + Send>;

/// What is written into the data directory.
const RESTORED_FILE: &str = "restored.json";

/// What [`seed`] works on.
pub(super) struct Target<'a> {
    pub(super) identity: &'a Identity,
    pub(super) addresses: &'a Addresses,
    pub(super) log: &'a RaftLog,
    pub(super) store: &'a Store,
    pub(super) data: &'a Path,
}

/// Fills the empty state from a snapshot, as the state at log index 0 of a cluster with one voter.
pub(super) fn seed(target: &Target<'_>, applier: &mut Applier, open: OpenRestore) -> Result<(), StartError> {
    let identity = target.identity;
    if let Some(id) = identity.cluster_id() {
        tracing::info!(cluster_id = %id_text(id), "already part of a cluster, nothing to restore");
        return Ok(());
    }
    let began = clock::monotonic();
    let node_id = identity.node_id();
    let id = LogId { term: 1, node: node_id, index: 0 };
    let own = Node {
        addr: target.addresses.addr.clone(),
        peer_addr: target.addresses.peer_addr.clone(),
        wants_vote: true,
    };
    let only = Members { configs: vec![vec![node_id]], nodes: BTreeMap::from([(node_id, own)]) };
    let restore = open()?;
    let meta = applier.seed(restore.records, restore.order, id, (id, codec::encode_members(&only)))?;
    crash_point!("restore-loaded-not-counted");
    let found = counted(target.store)?;
    compare(&found, &meta.databases, "the state's own counters")?;
    if let Some(counted) = &restore.counted {
        compare(&found, counted, "the snapshot")?;
    }
    target.log.purge(id)?;
    target.log.sync()?;
    crash_point!("restore-purged-not-marked");
    mark(target.data, &found, restore.origin)?;
    crash_point!("restore-marked-not-adopted");
    identity.adopt(rand::random_range(1..=u64::MAX), false)?;
    let keys: u64 = found.iter().map(|db| db.keys).sum();
    let took_ms = clock::monotonic().saturating_duration_since(began).as_millis();
    tracing::info!(keys, took_ms, "restored");
    Ok(())
}

/// Reads every key that the state holds now.
fn counted(store: &Store) -> Result<Vec<DbStats>, Fatal> {
    let view = store.view()?;
    let mut databases = vec![DbStats::default(); view.meta().databases.len()];
    for record in view.records() {
        let record = record?;
        let at = usize::from(record.db);
        if databases.len() <= at {
            databases.resize(at + 1, DbStats::default());
        }
        let stats = &mut databases[at];
        stats.keys += 1;
        stats.expires += u64::from(record.deadline.is_some());
        stats.digest = stats.digest.wrapping_add(store::record_hash(&record));
    }
    Ok(databases)
}

fn compare(found: &[DbStats], wanted: &[DbStats], whose: &str) -> Result<(), StartError> {
    let none = DbStats::default();
    for number in 0..found.len().max(wanted.len()) {
        let (found, wanted) = (found.get(number).unwrap_or(&none), wanted.get(number).unwrap_or(&none));
        if found != wanted {
            return Err(StartError::Restore(format!(
                "database {number} was loaded with {} keys, digest {:032x}, but {whose} says {}, {:032x}",
                found.keys, found.digest, wanted.keys, wanted.digest
            )));
        }
    }
    Ok(())
}

fn mark(data: &Path, found: &[DbStats], origin: Option<(u64, LogId)>) -> Result<(), StartError> {
    let digest = found.iter().fold(0_u128, |sum, db| sum.wrapping_add(db.digest));
    let origin = origin.map(|(cluster_id, applied)| {
        json!({ "cluster_id": id_text(cluster_id), "term": applied.term, "index": applied.index })
    });
    let text = json!({
        "format": 1,
        "keys": found.iter().map(|db| db.keys).collect::<Vec<_>>(),
        "digest": format!("{digest:032x}"),
        "server_version": env!("CARGO_PKG_VERSION"),
        "origin": origin,
    });
    let path = data.join(RESTORED_FILE);
    let io = |error| StartError::Io { doing: format!("write {}", path.display()), error };
    // Whoever waits for the file reads it whole.
    let part = data.join(format!("{RESTORED_FILE}.part"));
    let mut file = File::create(&part).map_err(io)?;
    writeln!(file, "{text}").and_then(|()| file.sync_all()).map_err(io)?;
    fs::rename(&part, &path).map_err(io)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_key_more_or_a_bit_of_a_digest_is_found() {
        let db = |keys, digest| DbStats { keys, expires: 0, digest };
        let found = [db(2, 7), db(0, 0), db(1, 9)];
        assert!(compare(&found, &[db(2, 7), db(0, 0), db(1, 9), db(0, 0)], "it").is_ok());
        assert!(compare(&found, &found[..2], "it").unwrap_err().to_string().contains("database 2"));
        for wrong in [db(3, 7), db(2, 6)] {
            assert!(compare(&found, &[wrong, db(0, 0), db(1, 9)], "it").is_err());
        }
    }
}
