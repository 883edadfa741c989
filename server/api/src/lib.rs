//! What the kvnode programs say to each other: the JSON of the admin API, and of `meta.json`; and what of each other's
//! files they must agree on.
//!
//! Types only: no I/O, no logic beyond reading and writing text forms. The server, the operator and the tests share
//! them, so a change of the contract is one compiler error in each.
//!
//! Conventions
//! - Node and cluster ids are random u64; JSON numbers lose digits above 2^53 in many readers, so an id is always a
//!   string of 16 lower-case hex digits ([`Id`]).
//! - A log id is the string `<term>-<node id in hex>-<index>`; it is opaque to clients, except that
//!   [`members::RemoveMember`] and its kin hand it back for compare-and-set.
//! - Answers may gain fields within one [`CONTRACT`]; readers ignore what they do not know. Requests refuse it.
#![deny(missing_docs)]

pub mod acl;
pub mod error;
pub mod health;
pub mod id;
pub mod logins;
pub mod members;
pub mod snapshot;
pub mod status;
pub mod watch;

pub use id::Id;

/// Version of the contract, also in every [`status::NodeStatus`]. It rises when a field changes its meaning or goes.
pub const CONTRACT: u32 = 1;

/// A log filter, body and answer of `PUT` and `GET /v1/log-filter`.
///
/// Shape: `{"filter":"info,kvnode_server::raft=debug"}`.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LogFilter {
    /// Directives of `tracing_subscriber::EnvFilter`.
    pub filter: String,
}
