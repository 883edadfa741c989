//! The library's own test suite of storages, as far as it keeps the library's own contract.
//!
//! Left out are its tests that begin a log at an index above 0 without a purge, or apply entries with gaps: our log and
//! our state refuse both, since a gap is lost data; and `delete_logs_after_11`, which truncates after an entry that the
//! log does not have. Raft never asks for any of these.

use openraft::StorageError;
use openraft::testing::log::{StoreBuilder, Suite};
use tokio_util::task::TaskTracker;

use super::*;
use crate::raft::apply::ApplyHandle;
use crate::raft::log::{LogOptions, RaftLog};
use crate::raft::log_store::LogStore;
use crate::raft::resolver::Resolver;
use crate::raft::state_machine::StateMachine;
use crate::raft::types::TypeConfig;
use crate::store::{Store, StoreOptions};

struct Builder;

impl StoreBuilder<TypeConfig, LogStore, StateMachine, TempDir> for Builder {
    async fn build(&self) -> Result<(TempDir, LogStore, StateMachine), StorageError<TypeConfig>> {
        let dir = TempDir::new().unwrap();
        let config = config(dir.path());
        let options = LogOptions {
            dir: dir.path().join("log"),
            group: 0,
            segment_bytes: config.limits.log_segment_bytes,
            cache_bytes: config.limits.log_cache_bytes,
            queue_bytes_max: config.limits.queue_bytes_max,
            durability: config.durability,
        };
        std::fs::create_dir(&options.dir).unwrap();
        let (log, recovered) = RaftLog::open(options).unwrap();
        let sizes = StoreOptions {
            databases: 1,
            memtable_bytes: config.limits.memtable_bytes,
            block_cache_bytes: config.limits.block_cache_bytes,
            value_cache_bytes: config.limits.value_cache_bytes,
        };
        let (store, applier) = Store::open(&dir.path().join("state"), sizes).unwrap();
        let position = applier.position();
        let apply = ApplyHandle::spawn(applier, log.clone(), Arc::new(Resolver::new(1))).unwrap();
        Ok((
            dir,
            LogStore::new(log, recovered.committed, Arc::default(), TaskTracker::new()),
            StateMachine::new(apply, store, position),
        ))
    }
}

type Library = Suite<TypeConfig, LogStore, StateMachine, Builder, TempDir>;

macro_rules! library_tests {
    ($($name:ident),* $(,)?) => {$(
        #[tokio::test]
        async fn $name() {
            let (_dir, log, state) = Builder.build().await.unwrap();
            Library::$name(log, state).await.unwrap();
        }
    )*};
}

library_tests! {
    last_membership_in_log_initial,
    get_membership_initial,
    get_initial_state_without_init,
    get_initial_state_last_log_gt_sm,
    save_vote,
    get_log_entries,
    limited_get_log_entries,
    leader_bounded_stream,
    entries_stream,
    try_get_log_entry,
    log_reader_reads_new_entries,
    initial_logs,
    get_log_id,
    purge_logs_upto_0,
    purge_logs_upto_5,
    purge_logs_upto_20,
    delete_logs_after_5,
    delete_logs_after_0,
    delete_logs_after_none,
    append_to_log,
    snapshot_meta_optional,
}
