//! The operator of kvnode: keeps a cluster as its `KvCluster` asks.
//!
//! ```text
//! observe -> validate -> plan -> apply -> report        one pass; five functions called in a row
//! client     pure        pure    client   client
//! ```
//!
//! - [`crd`] what users write and read: KvCluster, KvBackup, conditions, reasons
//! - [`observed`] what one look found, as plain values
//! - [`validate`](mod@validate) spec to checked [`validate::Cluster`], or all faults at once
//! - [`plan`](mod@plan) `Cluster` + [`observed::Observed`] + now to [`plan::Plan`]: children, at most one dangerous step, status
//! - [`build`] `Cluster` to [`build::Children`], the Kubernetes objects
//!
//! Invariants
//! - Everything down to `build` is pure: no client, no clock, no randomness, no I/O.
//! - The operator never elects. The truth about data is in Raft, the truth about intent in the spec; status is a cache,
//!   but for the write-ahead records that [`crd::status`] names.

pub mod build;
pub mod crd;
pub mod observed;
pub mod plan;
pub mod validate;
