//! Brings a backup back as files: proved while it is written, visible only when it is whole.
//!
//! ```text
//! object --> <dir>/state.bin.part, inspected on its way, synced --> rename to <dir>/state.bin
//!                                                                   <dir>/meta.json    what the server wrote then
//! ```

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use super::catalog::Backup;
use super::crypt::Key;
use super::inspect::{InspectError, Inspected, Work, inspect, judge};
use super::layout::{META_FILE, STATE_FILE};
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
