//! Brings a backup back as files: proved while it is written, visible only when it is whole.
//!
//! ```text
//! object --> <dir>/state.bin.part, inspected on its way, synced --> rename to <dir>/state.bin
//!                                                                   <dir>/meta.json    what the server wrote then
//! ```

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use jiff::Timestamp;

use super::catalog::Backup;
use super::crypt::Key;
use super::inspect::{InspectError, Inspected, Work, inspect, judge};
use super::layout::{META_FILE, STATE_FILE};
use super::meta::sha256;
use super::progress::Reporter;
use crate::s3::{S3Error, Store};

/// Why a backup was not fetched.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// The store broke off.
    #[error("{0}")]
    Store(#[from] S3Error),
    /// The backup is damaged, foreign, or under another key.
    #[error("{0}")]
    Wrong(String),
    /// The files cannot be written.
    #[error("{0}")]
    File(String),
}

impl From<InspectError> for FetchError {
    fn from(error: InspectError) -> Self {
        match error {
            InspectError::Store(error) => Self::Store(error),
            InspectError::Wrong(what) => Self::Wrong(what),
            InspectError::File(error) => Self::File(error.to_string()),
        }
    }
}

/// Fetches into `dir`, which is made. A whole `state.bin` of this backup that is there already is kept.
///
/// # Errors
/// See [`FetchError`]; nothing is left then but perhaps a `.part`, which the next call replaces.
pub async fn fetch(
    store: &Store,
    backup: &Backup,
    key: Option<Key>,
    dir: &Path,
    reporter: &Reporter,
) -> Result<PathBuf, FetchError> {
    backup.check_place().map_err(FetchError::Wrong)?;
    let (state, part) = prepared(dir)?;
    let meta = dir.join(META_FILE);
    let text = serde_json::to_vec(&backup.meta.snapshot).unwrap_or_default();
    // meta.json is written last, so both together are a fetch that ended well.
    if state.exists() && fs::read(&meta).is_ok_and(|there| there == text) {
        return Ok(state);
    }
    remove(&meta)?;
    let file = File::create(&part).map_err(io("create", &part))?;
    reporter.phase(crate::crd::backup::BackupPhase::Verifying, backup.meta.object.size_bytes);
    let work = Work { key, parse: true, into: Some(file) };
    let found = inspect(store.download(&backup.object_key()), work, reporter).await?;
    judge(&backup.meta, &found).map_err(FetchError::Wrong)?;
    published(&part, &state)?;
    fs::write(&meta, text).map_err(io("write", &meta))?;
    Ok(state)
}

/// Fetches an object that has no `meta.json` of ours: a `state.bin` that somebody put there, of this server or of the
/// ancestor. Only its length is proved here; the server reads all of it before it takes the first key.
///
/// # Errors
/// See [`FetchError`].
pub async fn fetch_bare(
    store: &Store,
    key: &str,
    dir: &Path,
    reporter: &Reporter,
) -> Result<(PathBuf, Inspected), FetchError> {
    let (state, part) = prepared(dir)?;
    remove(&dir.join(META_FILE))?;
    let file = File::create(&part).map_err(io("create", &part))?;
    let work = Work { key: None, parse: false, into: Some(file) };
    let found = inspect(store.download(key), work, reporter).await?;
    published(&part, &state)?;
    Ok((state, found))
}

fn prepared(dir: &Path) -> Result<(PathBuf, PathBuf), FetchError> {
    fs::create_dir_all(dir).map_err(io("create", dir))?;
    let part = dir.join(format!("{STATE_FILE}.part"));
    // A file of its own: whoever still writes the old one does not write into ours.
    remove(&part)?;
    Ok((dir.join(STATE_FILE), part))
}

fn published(part: &Path, state: &Path) -> Result<(), FetchError> {
    fs::rename(part, state).map_err(io("rename", part))?;
    let dir = state.parent().unwrap_or(Path::new("."));
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(io("sync", dir))
}

fn remove(path: &Path) -> Result<(), FetchError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(io("remove", path)(error)),
        _ => Ok(()),
    }
}

fn io(doing: &str, path: &Path) -> impl FnOnce(std::io::Error) -> FetchError {
    let text = format!("{doing} {}", path.display());
    move |error| FetchError::File(format!("{text}: {error}"))
}

/// What a restore of this backup means, for people, before anything starts.
#[must_use]
pub fn preview(backup: &Backup, now: Timestamp) -> String {
    let snapshot = &backup.meta.snapshot;
    let log_time =
        i64::try_from(snapshot.log_time_ms).ok().and_then(|ms| Timestamp::from_millisecond(ms).ok());
    let until = log_time.unwrap_or_else(|| backup.created());
    let second = until.round(jiff::Unit::Second).unwrap_or(until);
    let quorum = if snapshot.quorum { "" } else { "; taken without a quorum, the newest writes may lack" };
    format!(
        "{}: {} keys, {} bytes, {} old, digest {}; nothing after {second}, index {}{quorum}",
        backup.meta.run,
        snapshot.keys_total(),
        snapshot.size_bytes,
        age(now.duration_since(until)),
        sha256(snapshot.digest.as_bytes()).get(..8).unwrap_or_default(),
        snapshot.index,
    )
}

/// `3d 4h`, `4h 10m`, `10m 5s`, `5s`.
#[must_use]
pub fn age(age: jiff::SignedDuration) -> String {
    let seconds = age.as_secs().max(0);
    let (days, hours, minutes, rest) =
        (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
    match (days, hours, minutes) {
        (1.., _, _) => format!("{days}d {hours}h"),
        (0, 1.., _) => format!("{hours}h {minutes}m"),
        (0, 0, 1..) => format!("{minutes}m {rest}s"),
        _ => format!("{rest}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_are_short() {
        let text = |seconds| age(jiff::SignedDuration::from_secs(seconds));
        assert_eq!(
            [text(5), text(605), text(15_000), text(273_600), text(-9)],
            ["5s", "10m 5s", "4h 10m", "3d 4h", "0s"]
        );
    }
}
