//! The operator of kvnode: keeps a cluster as its `KvCluster` asks.
//!
//! ```text
//! observe -> validate -> plan -> apply -> report        one pass; five functions called in a row
//! client     pure        pure    client   client        reconcile.rs
//! ```
//!
//! - [`crd`] what users write and read: KvCluster, KvBackup, conditions, reasons
//! - [`observe`](mod@observe) the client's look: API server and nodes to [`observed::Observed`], plain values
//! - [`validate`](mod@validate) spec to checked [`validate::Cluster`], or all faults at once
//! - [`plan`](mod@plan) `Cluster` + [`observed::Observed`] + now to [`plan::Plan`]: children, at most one dangerous step, status
//! - [`build`] `Cluster` to [`build::Children`], the Kubernetes objects
//! - [`apply`] the plan done; [`report`] the one writer of status; [`events`]
//! - [`reconcile`](mod@reconcile) one pass; [`controller`] what makes one run; [`backoff`] how long to wait after a failure
//! - [`admin_client`] the nodes' admin API; [`watch`] its streams; [`labeller`] the fast way to the leader's label
//! - [`backup`] a second loop of its own: schedules, KvBackups, Jobs; and what a Job does; [`s3`] the bucket
//! - [`lease`] who of several operators works; [`run`](mod@run) all put together; [`cli`], [`telemetry`], [`metrics`], [`health`]
//!
//! Invariants
//! - `crd`, `validate`, `plan` and `build` are pure: no client, no clock, no randomness, no I/O.
//! - The operator never elects. The truth about data is in Raft, the truth about intent in the spec; status is a cache,
//!   but for the write-ahead records that [`crd::status`] names.

pub mod admin_client;
pub mod apply;
pub mod backoff;
pub mod backup;
pub mod build;
pub mod cli;
pub mod clock;
pub mod context;
pub mod controller;
pub mod crd;
pub mod error;
pub mod events;
pub mod health;
pub mod labeller;
pub mod lease;
pub mod metrics;
pub mod name;
pub mod observe;
pub mod observed;
pub mod pki;
pub mod plan;
pub mod reconcile;
pub mod report;
pub mod run;
pub mod s3;
pub mod stores;
pub mod telemetry;
pub mod validate;
pub mod watch;
