//! Whole clusters in one thread, under virtual time, from one seed: `make sim SEEDS=n [SEED=s]`. The same seed gives
//! the same run, line by line.
//!
//! ```text
//! seed -> plan (cluster, options, faults) -> world: rounds of one millisecond
//!                                              net delivers -> each node runs to its own time -> clients run
//!                                              -> faults begin and end -> invariants
//!      -> heal: all faults end, the cluster serves and agrees -> every key's history is judged -> report
//! ```
//!
//! What runs is the real program from sockets to `RocksDB`; `kvnode_server::sim` stands for the machine below it. Not
//! simulated: `RocksDB`'s files (what it has flushed survives, its memtables do not) and compactions, small files beside
//! them (identity, life), full disks, TLS, the schedule of threads. Those are the affair of the suites that run real
//! processes.
#![cfg(feature = "sim")]

pub mod apart;
pub mod client;
pub mod counter;
pub mod entropy;
pub mod faults;
pub mod invariants;
pub mod node;
pub mod plan;
pub mod probe;
pub mod run;
pub mod tally;
pub mod trace;
pub mod world;
