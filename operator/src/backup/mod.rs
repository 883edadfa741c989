//! Backups: when, where, what, how they are proved, and how they come back.
//!
//! ```text
//! pure    schedule   cron line to due runs          retention  listing to what may go
//!         layout     names in the bucket            meta       meta.json, verified.json
//!         crypt      encryption as a stream         state_bin  what a state.bin holds, counted and digested
//! a run   source     which node, its bytes          upload     stream to S3 in bounded memory
//!         run        all of it, in order            progress   how far it is, and its report
//! proof   inspect    an object read to its end      verify     compared, and the mark stored
//! back    catalog    what is in a bucket, choice    fetch      a backup as files
//!         cleanup    what may go goes               preview    what a restore means
//! people  command    backup, restore, list, verify  bar        progress on a terminal
//!         arguments  what they take
//! a Job   announce   progress and end of a Job
//! cluster duty       schedules, KvBackups, Jobs and status
//! ```
//!
//! A backup is called good only after it was read back and its content counted.

pub mod announce;
pub mod arguments;
mod bar;
pub mod catalog;
pub mod cleanup;
pub mod command;
pub mod crypt;
pub mod duty;
pub mod fetch;
pub mod inspect;
pub mod layout;
pub mod meta;
pub mod preview;
pub mod progress;
pub mod retention;
pub mod run;
pub mod schedule;
pub mod source;
pub mod state_bin;
pub mod upload;
pub mod verify;
