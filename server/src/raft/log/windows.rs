//! The crash points of one batch, by what it holds: written and not synced, synced and not answered.
//!
//! Empty in a release build ([`crate::crash`]).

use super::state::{Op, Queued};

fn holds(ops: &[Queued], kind: impl Fn(&Op) -> bool) -> bool {
    ops.iter().any(|queued| kind(&queued.op))
}

/// The batch is in the file; nothing has synced it.
pub(super) fn written(ops: &[Queued]) {
    crash_point!("log-written-not-synced", ops.iter().any(Queued::is_entry));
    crash_point!("vote-written-not-synced", holds(ops, |op| matches!(op, Op::Vote(..))));
    crash_point!("truncation-written-not-synced", holds(ops, |op| matches!(op, Op::Truncate(..))));
    crash_point!("purge-written-not-synced", holds(ops, |op| matches!(op, Op::Purge(..))));
}

/// The batch is as durable as the level says; nobody has been told.
pub(super) fn synced(ops: &[Queued]) {
    crash_point!("log-synced-not-answered", ops.iter().any(Queued::is_entry));
    crash_point!("vote-synced-not-answered", holds(ops, |op| matches!(op, Op::Vote(..))));
    crash_point!("truncation-synced-not-answered", holds(ops, |op| matches!(op, Op::Truncate(..))));
}
