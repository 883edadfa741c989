//! The directory of snapshots: list, find, prune, clear what a crash left.
//!
//! ```text
//! snapshots/3-900-1795332236779/{state.bin, meta.json}     ours or the ancestor's: meta.json tells
//! snapshots/3-950-1795332240000.tmp/                       being written, being removed, or left by a crash
//! ```
//!
//! Only names of the form `<term>-<index>-<unix ms>` are looked at; nothing else in the directory is ever touched.
//! The ancestor's snapshots are listed but never pruned: they may be the only copy of what a user moves over.

use std::fs::{self, File, TryLockError};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use kvnode_api::snapshot::{FORMAT, FORMAT_VERSION, SnapshotMeta};

use super::ancestor::AncestorMeta;
use super::{META_FILE, STATE_FILE, SnapshotError};

/// Behind the name of a directory that is not complete.
pub(super) const TMP_SUFFIX: &str = ".tmp";
/// Longest `meta.json` read.
const META_BYTES_MAX: u64 = 1024 * 1024;

/// A `meta.json` of either program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Meta {
    /// Ours.
    Kvnode(Box<SnapshotMeta>),
    /// The ancestor's.
    Ancestor(AncestorMeta),
}

/// One complete snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Name of the directory.
    pub id: String,
    /// The directory.
    pub dir: PathBuf,
    /// Term, index and Unix milliseconds out of the name; entries are sorted by them.
    pub order: (u64, u64, u64),
    /// Bytes of `state.bin` on disk.
    pub size_bytes: u64,
    /// Its description.
    pub meta: Meta,
}

impl Entry {
    /// Path of the content.
    #[must_use]
    pub fn state(&self) -> PathBuf {
        self.dir.join(STATE_FILE)
    }
}

/// A `snapshots` directory; it need not exist yet.
#[derive(Clone, Debug)]
pub struct Catalog {
    dir: PathBuf,
}

impl Catalog {
    /// Looks at nothing yet.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self { dir: dir.into() }
    }

    /// The directory.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// All complete snapshots, oldest first. A directory whose files cannot be read as a snapshot is left out with a
    /// warning.
    ///
    /// # Errors
    /// [`SnapshotError::Io`] if the directory itself cannot be read.
    pub fn list(&self) -> Result<Vec<Entry>, SnapshotError> {
        let mut entries = Vec::new();
        for name in self.names()? {
            let Some(order) = parse_id(&name) else { continue };
            match self.entry(&name, order) {
                Ok(entry) => entries.push(entry),
                Err(error) => tracing::warn!(id = name, %error, "a snapshot cannot be listed"),
            }
        }
        entries.sort_by_key(|entry| entry.order);
        Ok(entries)
    }

    /// One complete snapshot by its name. A name that is not of a snapshot's form never reaches the file system.
    ///
    /// # Errors
    /// [`SnapshotError::NotFound`], or what is wrong with its files.
    pub fn find(&self, id: &str) -> Result<Entry, SnapshotError> {
        let not_found = || SnapshotError::NotFound { id: id.escape_debug().take(80).collect() };
        let order = parse_id(id).ok_or_else(not_found)?;
        match self.entry(id, order) {
            Err(SnapshotError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                Err(not_found())
            }
            other => other,
        }
    }

    /// Removes all but the newest `keep` of our snapshots, and never the one named `written`. Returns the names removed.
    ///
    /// # Errors
    /// [`SnapshotError::Io`] at the first that cannot be removed.
    pub fn prune(&self, keep: usize, written: Option<&str>) -> Result<Vec<String>, SnapshotError> {
        let mut ours = self.list()?;
        ours.retain(|entry| matches!(entry.meta, Meta::Kvnode(_)));
        let surplus = ours.len().saturating_sub(keep);
        let mut removed = Vec::new();
        for entry in ours.drain(..surplus).filter(|entry| Some(entry.id.as_str()) != written) {
            self.remove(&entry)?;
            removed.push(entry.id);
        }
        Ok(removed)
    }

    /// Clears `.tmp` directories that no export holds. Call once at start. Returns how many.
    ///
    /// # Errors
    /// [`SnapshotError::Io`] at the first that cannot be removed.
    pub fn remove_stale(&self) -> Result<usize, SnapshotError> {
        let mut removed = 0;
        for name in self.names()? {
            let stale = name.strip_suffix(TMP_SUFFIX).is_some_and(|id| parse_id(id).is_some());
            let path = self.dir.join(&name);
            if stale && !in_use(&path)? {
                remove_all(&path)?;
                removed += 1;
            }
        }
        Ok(removed)
    }

    /// Bytes of all files of snapshots, complete or not.
    ///
    /// # Errors
    /// [`SnapshotError::Io`] if the directory cannot be read.
    pub fn used_bytes(&self) -> Result<u64, SnapshotError> {
        let mut bytes = 0;
        for name in self.names()? {
            if parse_id(name.strip_suffix(TMP_SUFFIX).unwrap_or(&name)).is_none() {
                continue;
            }
            for file in [STATE_FILE, META_FILE] {
                let path = self.dir.join(&name).join(file);
                match fs::symlink_metadata(&path) {
                    Ok(meta) => bytes += meta.len(),
                    // Not written yet, or just pruned.
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                    Err(error) => return Err(SnapshotError::io("look at", &path)(error)),
                }
            }
        }
        Ok(bytes)
    }

    /// Takes the name away first, so that a crash in the middle leaves a `.tmp` and no half snapshot.
    fn remove(&self, entry: &Entry) -> Result<(), SnapshotError> {
        let tmp = self.dir.join(format!("{}{TMP_SUFFIX}", entry.id));
        fs::rename(&entry.dir, &tmp).map_err(SnapshotError::io("rename", &entry.dir))?;
        sync_dir(&self.dir)?;
        crash_point!("snapshot-set-aside-not-removed");
        remove_all(&tmp)
    }

    fn entry(&self, id: &str, order: (u64, u64, u64)) -> Result<Entry, SnapshotError> {
        let dir = self.dir.join(id);
        let meta = read_meta(&dir.join(META_FILE))?;
        let state = dir.join(STATE_FILE);
        let size_bytes = fs::metadata(&state).map_err(SnapshotError::io("look at", &state))?.len();
        Ok(Entry { id: id.to_owned(), dir, order, size_bytes, meta })
    }

    /// Names in the directory that are text; none if it does not exist.
    fn names(&self) -> Result<Vec<String>, SnapshotError> {
        let io = || SnapshotError::io("list", &self.dir);
        let entries = match fs::read_dir(&self.dir) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(io()(error)),
        };
        let mut names = Vec::new();
        for entry in entries {
            if let Ok(name) = entry.map_err(io())?.file_name().into_string() {
                names.push(name);
            }
        }
        Ok(names)
    }
}

/// Term, index and milliseconds of a name; `None` for any other name. Only the plain decimal form is a name.
fn parse_id(id: &str) -> Option<(u64, u64, u64)> {
    let mut parts = id.split('-').map(|part| {
        let number: u64 = part.parse().ok()?;
        (number.to_string() == part).then_some(number)
    });
    let order = (parts.next()??, parts.next()??, parts.next()??);
    parts.next().is_none().then_some(order)
}

/// Reads a `meta.json` of either program.
pub(super) fn read_meta(path: &Path) -> Result<Meta, SnapshotError> {
    let mut text = Vec::new();
    let file = File::open(path).map_err(SnapshotError::io("open", path))?;
    file.take(META_BYTES_MAX).read_to_end(&mut text).map_err(SnapshotError::io("read", path))?;
    let unreadable = |error: serde_json::Error| SnapshotError::NotASnapshot {
        path: path.to_owned(),
        what: format!("meta.json cannot be read: {error}"),
    };
    let value: serde_json::Value = serde_json::from_slice(&text).map_err(unreadable)?;
    if value.get("format").and_then(serde_json::Value::as_str) != Some(FORMAT) {
        return serde_json::from_value(value).map(Meta::Ancestor).map_err(unreadable);
    }
    match value.get("format_version").and_then(serde_json::Value::as_u64) {
        Some(version) if version > u64::from(FORMAT_VERSION) => Err(SnapshotError::Newer {
            path: path.to_owned(),
            what: format!("format version {version}, this server reads {FORMAT_VERSION}"),
        }),
        _ => serde_json::from_value(value).map(Meta::Kvnode).map_err(unreadable),
    }
}

/// True while an export in this or another process holds the lock on its `state.bin`.
fn in_use(tmp: &Path) -> Result<bool, SnapshotError> {
    let state = tmp.join(STATE_FILE);
    let file = match File::open(&state) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(SnapshotError::io("open", &state)(error)),
    };
    match file.try_lock() {
        Ok(()) => Ok(false),
        Err(TryLockError::WouldBlock) => Ok(true),
        Err(TryLockError::Error(error)) => Err(SnapshotError::io("lock", &state)(error)),
    }
}

fn remove_all(path: &Path) -> Result<(), SnapshotError> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(SnapshotError::io("remove", path)(error))
        }
        _ => Ok(()),
    }
}

/// Makes the names in a directory durable.
pub(super) fn sync_dir(dir: &Path) -> Result<(), SnapshotError> {
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(SnapshotError::io("sync", dir))
}
