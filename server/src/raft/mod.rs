//! Step 5: one replicated group. The only module that names openraft.
//!
//! ```text
//! propose() -> proposer -> Raft core (openraft) -> log_store -> log/ (segments, one fsync per batch)
//!                 |            |      |
//!                 |            |      `-> state_machine -> apply thread -> store
//!                 |            `-> peer/network ==> peer/service of the other nodes
//!                 `-> peer/client ==> the leader, when it is another node
//! read_barrier() -> reader -> one ReadIndex round for all that wait -> local apply has reached it
//!                                                          or, if it does not: remote -> the leader answers
//! ```
//!
//! Invariants
//! - No openraft type is serialised, and none appears outside this module.
//! - No reply to a write leaves before its entry is on the disks of a majority (durability high).
//! - The log is purged only up to what the state has made durable.

mod apply;
mod broadcast;
mod codec;
mod confirm;
mod core;
mod divergence;
mod doubt;
mod election_timeout;
#[cfg(any(test, feature = "fuzz"))]
pub(crate) mod fuzz;
pub mod group;
mod housekeeping;
mod identity;
#[cfg(feature = "sim")]
mod inspect;
mod joining;
mod life;
pub mod log;
mod log_store;
mod members;
mod peer;
mod proposer;
mod reader;
mod refusal;
mod remote;
mod resolver;
mod round;
mod seed;
mod stages;
mod start;
mod state_machine;
mod sweep;
#[cfg(test)]
mod tests;
mod types;

pub use self::core::Counters;
pub use group::{
    CheckpointCounts, Group, Leader, MemberError, MemberStatus, ProposeError, ReadError, Role, Status,
    Stopped,
};
pub use identity::IdentityError;
pub(crate) use identity::replace_file;
#[cfg(feature = "sim")]
pub use inspect::Inspection;
pub use seed::{OpenRestore, Restore, RestoreRecords};
pub use stages::Stages;
pub use start::{Addresses, StartError, format, start};
