//! kvnode: a strongly consistent, durable key/value store that speaks the Redis protocol.
//!
//! The modules stand in the order in which a command meets them; replies travel back as values:
//!
//! ```text
//! net -> resp -> command -> dispatch -> raft -> store
//!        bytes   request    action      entry   outcome
//! ```
//!
//! `ARCHITECTURE.md` at the top of the repository tells the life of one command along this line.

pub mod cli;
pub mod clock;
pub mod config;
pub mod error;
pub mod probe;
pub mod telemetry;

pub mod net;
pub mod resp;

pub mod command;
pub mod dispatch;
pub mod session;

pub mod raft;
pub mod store;

pub mod snapshot;

pub mod admin;
pub mod metrics;

pub mod node;
