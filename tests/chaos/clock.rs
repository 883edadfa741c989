//! A wall clock of one node's own, by a small library that is preloaded (`clock.c`, compiled at the start of a run):
//! it adds what a file says, at once. Its monotonic clock is the machine's.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use kvnode_tests::node::Node;
use kvnode_tests::wait::{SOON, eventually};
use kvnode_tests::{preload, tool};

const SOURCE: &str = include_str!("clock.c");
const DAY_S: i64 = 86_400;
/// How far from the wanted time a node may be found.
const TOLERANCE_S: i64 = 120;

/// There is a compiler for the library.
pub(crate) fn is_possible() -> bool {
    tool::find(preload::COMPILER).is_some()
}

pub(crate) struct Clock {
    offset: PathBuf,
    preload: (String, String),
}

impl Clock {
    pub(crate) fn make(dir: &Path) -> Result<Self> {
        let clock = Self { offset: dir.join("clock"), preload: preload::compile(SOURCE, dir, "clock")? };
        clock.shift(0)?;
        Ok(clock)
    }

    pub(crate) fn environment(&self) -> [(String, String); 2] {
        [self.preload.clone(), ("KVNODE_CHAOS_CLOCK".to_owned(), self.offset.display().to_string())]
    }

    /// So many days away from the machine's clock.
    pub(crate) fn shift(&self, days: i64) -> Result<()> {
        // Never truncated: the node has it mapped.
        let mut file = OpenOptions::new().write(true).create(true).truncate(false).open(&self.offset)?;
        Ok(file.write_all(&(days * DAY_S).to_ne_bytes())?)
    }
}

/// Waits until the node says a time that is so many days away.
pub(crate) async fn seen(node: &Node, days: i64) -> Result<()> {
    eventually(&format!("a clock is {days} days away"), SOON, async || {
        let reply = node.client().await?.run("TIME").await?;
        let texts = reply.texts();
        let told: i64 = texts.first().with_context(|| format!("TIME: {reply:?}"))?.parse()?;
        let ours = i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs())?;
        Ok(((told - ours - days * DAY_S).abs() < TOLERANCE_S).then_some(()))
    })
    .await
}
