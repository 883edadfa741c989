//! End to end: real processes, one file per behaviour.

mod commands;
mod demo;
mod failover;
mod formation;
mod full_disk;
mod hostile;
mod housekeeping;
mod membership;
mod paging;
mod pipelining;
mod snapshots;
mod startup;
mod stopping;
mod voters;

mod words;
