//! Backups: when, where, what, how they are proved, and how they come back.
//!
//! ```text
//! pure    schedule   cron line to due runs          retention  listing to what may go
//!         layout     names in the bucket            meta       meta.json, verified.json
//! ```

pub mod layout;
pub mod meta;
pub mod retention;
pub mod schedule;
