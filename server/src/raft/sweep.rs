//! Removes what has expired: the leader proposes small batches of keys that are due.
//!
//! ```text
//! leader, every SWEEP_EVERY:  Store::due -> Op::Reap { keys } -> one entry -> full batch? at once again
//! ```
//!
//! Expired keys are not to be seen anyway (`store::query`); this gives their space back. It is the log that removes a key,
//! on every node at the same place, so that counts and digests agree. Each batch also carries the time forward.
//!
//! Bounded: one batch in flight, each at most [`KEYS_MAX`] keys and [`BYTES_MAX`] bytes, none while nothing is due.

use std::sync::Arc;
use std::time::Duration;

use super::core::Core;
use super::proposer::Proposer;
use crate::machine;
use crate::store::Op;

/// Between two looks while nothing is due.
const SWEEP_EVERY: Duration = Duration::from_millis(250);
/// Keys of one batch.
const KEYS_MAX: usize = 1000;
/// Bytes of the keys of one batch.
const BYTES_MAX: usize = 128 << 10;

/// Sweeps as long as the node runs, whenever it leads.
pub(super) async fn sweep(core: Arc<Core>, proposer: Proposer) {
    let stop = core.stop_proposer.clone();
    let mut full = false;
    loop {
        if !full && stop.run_until_cancelled(tokio::time::sleep(SWEEP_EVERY)).await.is_none() {
            return;
        }
        full = core.is_leader() && batch(&core, &proposer).await;
        if stop.is_cancelled() {
            return;
        }
    }
}

/// Removes one batch; true if there is more.
async fn batch(core: &Arc<Core>, proposer: &Proposer) -> bool {
    let (store, now) = (core.store.clone(), core.log_time());
    let due = machine::spawn_blocking(move || store.due(now, KEYS_MAX, BYTES_MAX)).await;
    let keys = match due {
        Ok(Ok(keys)) => keys,
        Ok(Err(error)) => {
            // The apply thread meets the same failure, and stops the node.
            tracing::error!(%error, "look for expired keys");
            return false;
        }
        Err(_) => return false,
    };
    if keys.is_empty() {
        return false;
    }
    let full = keys.len() >= KEYS_MAX;
    // Without a quorum nothing is removed, and nothing is lost by that.
    proposer.propose(vec![Op::Reap { keys }]).await.is_ok() && full
}
