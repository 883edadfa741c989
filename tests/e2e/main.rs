//! End to end: real processes, one file per behaviour.

mod commands;
mod cves;
mod demo;
mod divergence;
mod doors;
mod expiry;
mod failing_disk;
mod failover;
mod fixtures;
mod formation;
mod full_disk;
mod hand_over;
mod hostile;
mod housekeeping;
mod membership;
mod monitoring;
mod paging;
mod pipelining;
mod power_cut;
mod pubsub;
mod rotation;
mod scripts;
mod secrets;
mod snapshots;
mod startup;
mod stopping;
mod tls;
mod transactions;
mod users;
mod voters;

mod words;
