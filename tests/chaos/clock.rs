//! A wall clock of one node's own, by libfaketime: the node reads its offset from a file. Its monotonic clock is the
//! machine's.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use kvnode_tests::node::Node;
use kvnode_tests::wait::{SOON, eventually};

const DAY_S: i64 = 86_400;
/// How far from the wanted time a node may be found.
const TOLERANCE_S: i64 = 120;

/// The library, where Debian's package puts it.
pub(crate) fn library() -> Option<PathBuf> {
    let dirs = fs::read_dir("/usr/lib").ok()?.flatten();
    let mut found = dirs.map(|dir| dir.path().join("faketime/libfaketimeMT.so.1"));
    found.find(|path| path.is_file())
}

pub(crate) struct Clock {
    file: PathBuf,
    library: PathBuf,
}

impl Clock {
    pub(crate) fn new(dir: &Path, library: &Path) -> Result<Self> {
        let clock = Self { file: dir.join("clock"), library: library.to_owned() };
        clock.shift(0)?;
        Ok(clock)
    }

    pub(crate) fn environment(&self) -> Vec<(String, String)> {
        let text = |path: &Path| path.display().to_string();
        [
            ("LD_PRELOAD", text(&self.library)),
            ("FAKETIME_TIMESTAMP_FILE", text(&self.file)),
            ("FAKETIME_CACHE_DURATION", "1".to_owned()),
            ("FAKETIME_DONT_FAKE_MONOTONIC", "1".to_owned()),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .into()
    }

    /// So many days away from the machine's clock.
    pub(crate) fn shift(&self, days: i64) -> Result<()> {
        let unfinished = self.file.with_extension("tmp");
        fs::write(&unfinished, format!("{:+}\n", days * DAY_S))?;
        Ok(fs::rename(&unfinished, &self.file)?)
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
