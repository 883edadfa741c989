//! Backups for real: kvnode-server processes, a real S3 server, and between them a proxy that hurts.
//!
//! ```text
//! bed.rs        a cluster, a bucket, a run
//! store.rs      the S3 client: probe, credentials, checksums, listings
//! runs.rs       a run and its proof, sources that die, encryption, retention
//! proofs.rs     verification bites: changed bytes, foreign objects, wrong counts
//! crash.rs      killed at every request, before and after it was done
//! restores.rs   the choice, files that a server takes, damaged and foreign ones
//! command.rs    the program itself, by hand
//! large.rs      memory and rates
//! kinds.rs      kinds of stores: encryption, storage classes, no trailers, full or read-only ones
//! doors.rs      an authority of the store's own, and web identity
//! readme.rs     the README's way by hand
//! ```

mod bed;
mod command;
mod crash;
mod doors;
mod kinds;
mod large;
mod proofs;
mod readme;
mod restores;
mod runs;
mod store;
