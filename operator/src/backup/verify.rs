//! Proves a stored backup by reading it back.
//!
//! ```text
//! Checksum  the stored bytes and their SHA-256
//! Content   + decrypted, parsed, every key counted and digested; compared with meta.json      no disk
//! Restore   + a server loads it into an empty directory; what it then holds is compared       needs room for both
//! ```
//!
//! Invariant: the result is about one `meta.json`, whose SHA-256 stands in `verified.json`. An error of the network is
//! no result: nothing is written then.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use bytes::Bytes;
use serde::Deserialize;
use tokio::process::{Child, Command};

use super::catalog::Backup;
use super::crypt::Key;
use super::inspect::{InspectError, Work, inspect, judge, key_for};
use super::layout::{META_FILE, STATE_FILE, VERIFIED_FILE};
use super::meta::{BYTES_MAX, BackupMeta, VerifiedMark};
use super::progress::Reporter;
use super::{fetch, layout::Place};
use crate::clock;
use crate::crd::backup::{BackupPhase, Verify};
use crate::s3::{S3Error, S3ErrorKind, Store};

/// File that a server writes beside its data once it has loaded a snapshot and counted what it then holds.
pub const RESTORED_FILE: &str = "restored.json";
const LOAD_LOOK: Duration = Duration::from_millis(100);
/// A server that loads does so at least at some MB/s.
const LOAD_BYTES_PER_SECOND: u64 = 5_000_000;
const LOAD_LEAST: Duration = Duration::from_mins(1);

/// What a restored server counted in its own store.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Restored {
    /// Keys per database.
    pub keys: Vec<u64>,
    /// Digest, 32 hex digits.
    pub digest: String,
    /// Version of that server.
    pub server_version: String,
}

/// How to prove.
#[derive(Clone, Debug)]
pub struct Proof<'a> {
    /// Mode.
    pub mode: Verify,
    /// Key of encrypted backups.
    pub key: Option<&'a Key>,
    /// Program of the server, for [`Verify::Restore`].
    pub server: Option<&'a Path>,
    /// Where a scratch directory may be made, for [`Verify::Restore`].
    pub scratch: &'a Path,
}

/// Reads the backup in `place` and proves it; the mark is stored beside it.
///
/// # Errors
/// The store broke off, or the key is missing: nothing is known then.
pub async fn verify(
    store: &Store,
    place: &Place,
    proof: &Proof<'_>,
    reporter: &Reporter,
) -> Result<VerifiedMark, S3Error> {
    let key = format!("{}{META_FILE}", place.dir);
    let meta_bytes = store.get(&key, BYTES_MAX).await?;
    let mut server_version = None;
    let result = match BackupMeta::read(&meta_bytes) {
        Err(fault) => Err(fault),
        Ok(meta) => {
            let backup = Backup { place: place.clone(), meta, meta_bytes: meta_bytes.clone(), mark: None };
            prove(store, &backup, proof, reporter, &mut server_version).await?
        }
    };
    let mut mark = VerifiedMark::new(&meta_bytes, proof.mode, result, clock::wall());
    mark.server_version = server_version;
    store.put(&format!("{}{VERIFIED_FILE}", place.dir), Bytes::from(mark.write())).await?;
    Ok(mark)
}

/// [`verify`] in mode `Restore` for a backup that a server beside this program loads: waits for its count in the data
/// directory.
///
/// # Errors
/// The store broke off: nothing is known then.
pub async fn verify_loaded(store: &Store, place: &Place, data: &Path) -> Result<VerifiedMark, S3Error> {
    let meta_bytes = store.get(&format!("{}{META_FILE}", place.dir), BYTES_MAX).await?;
    let mut server_version = None;
    let result = match BackupMeta::read(&meta_bytes) {
        Err(fault) => Err(fault),
        Ok(meta) => {
            let patience = patience(meta.snapshot.size_bytes);
            let restored = tokio::time::timeout(patience, await_restored(None, data)).await;
            match restored {
                Err(_) => Err(format!("a server did not load it within {} s", patience.as_secs())),
                Ok(Err(what)) => Err(what),
                Ok(Ok(restored)) => {
                    let judged = judge_restored(&meta, &restored);
                    server_version = Some(restored.server_version);
                    judged
                }
            }
        }
    };
    let mut mark = VerifiedMark::new(&meta_bytes, Verify::Restore, result, clock::wall());
    mark.server_version = server_version;
    store.put(&format!("{}{VERIFIED_FILE}", place.dir), Bytes::from(mark.write())).await?;
    Ok(mark)
}

fn patience(size_bytes: u64) -> Duration {
    LOAD_LEAST + Duration::from_secs(size_bytes / LOAD_BYTES_PER_SECOND)
}

/// `Ok(Err(_))`: proved to be wrong.
async fn prove(
    store: &Store,
    backup: &Backup,
    proof: &Proof<'_>,
    reporter: &Reporter,
    server_version: &mut Option<String>,
) -> Result<Result<u64, String>, S3Error> {
    if let Err(fault) = backup.check_place() {
        return Ok(Err(fault));
    }
    let unusable =
        |what: String| S3Error::new(S3ErrorKind::Settings, format!("verify {}", backup.meta.run), what);
    let whole = proof.mode != Verify::Checksum;
    let key = if whole { key_for(&backup.meta, proof.key).map_err(unusable)? } else { None };
    reporter.phase(BackupPhase::Verifying, backup.meta.object.size_bytes);
    if proof.mode == Verify::Restore {
        return loaded(store, backup, key, proof, reporter, server_version).await;
    }
    let work = Work { key, parse: whole, into: None };
    match inspect(store.download(&backup.object_key()), work, reporter).await {
        Ok(mut found) => {
            if !whole {
                // The plain bytes were not looked at.
                found.plain = super::inspect::Sum {
                    size_bytes: backup.meta.snapshot.size_bytes,
                    sha256: backup.meta.snapshot.sha256.clone(),
                };
            }
            Ok(judge(&backup.meta, &found))
        }
        Err(InspectError::Wrong(what)) => Ok(Err(what)),
        Err(InspectError::Store(error)) if error.kind == S3ErrorKind::NotFound => {
            Ok(Err(format!("{} is not there", backup.meta.object.file)))
        }
        Err(InspectError::Store(error)) => Err(error),
        Err(InspectError::File(error)) => Err(unusable(error.to_string())),
    }
}

async fn loaded(
    store: &Store,
    backup: &Backup,
    key: Option<Key>,
    proof: &Proof<'_>,
    reporter: &Reporter,
    server_version: &mut Option<String>,
) -> Result<Result<u64, String>, S3Error> {
    let unusable =
        |what: String| S3Error::new(S3ErrorKind::Settings, format!("verify {}", backup.meta.run), what);
    let Some(server) = proof.server else {
        return Err(unusable("mode restore needs the server program: --server-bin".into()));
    };
    let scratch = Scratch::make(proof.scratch).map_err(|error| unusable(error.to_string()))?;
    match fetch::fetch(store, backup, key, &scratch.0, reporter).await {
        Ok(_) => {}
        Err(fetch::FetchError::Wrong(what)) => return Ok(Err(what)),
        Err(fetch::FetchError::Store(error)) if error.kind == S3ErrorKind::NotFound => {
            return Ok(Err(format!("{} is not there", backup.meta.object.file)));
        }
        Err(fetch::FetchError::Store(error)) => return Err(error),
        Err(fetch::FetchError::File(what)) => return Err(unusable(what)),
    }
    match load(server, &scratch.0, backup.meta.snapshot.size_bytes).await {
        Ok(restored) => {
            *server_version = Some(restored.server_version.clone());
            Ok(judge_restored(&backup.meta, &restored))
        }
        Err(what) => Ok(Err(what)),
    }
}

/// Compares what a server counted with `meta.json`; returns the keys.
///
/// # Errors
/// The first difference.
pub fn judge_restored(meta: &BackupMeta, restored: &Restored) -> Result<u64, String> {
    // A server may keep more databases than the snapshot has.
    let trimmed = |keys: &[u64]| {
        let used = keys.iter().rposition(|count| *count > 0).map_or(0, |at| at + 1);
        keys.iter().copied().take(used).collect::<Vec<_>>()
    };
    if trimmed(&restored.keys) != trimmed(&meta.snapshot.keys) {
        return Err(format!(
            "a server that loaded it holds {} keys, meta.json says {}",
            restored.keys.iter().sum::<u64>(),
            meta.snapshot.keys_total()
        ));
    }
    if restored.digest != meta.snapshot.digest {
        return Err(format!(
            "a server that loaded it holds digest {}, meta.json says {}",
            restored.digest, meta.snapshot.digest
        ));
    }
    Ok(meta.snapshot.keys_total())
}

/// Reads `restored.json` of a data directory; `None` if it is not there yet.
///
/// # Errors
/// It is not what a server writes.
pub async fn read_restored(data: &Path) -> Result<Option<Restored>, String> {
    match tokio::fs::read(data.join(RESTORED_FILE)).await {
        Ok(bytes) => {
            serde_json::from_slice(&bytes).map(Some).map_err(|error| format!("{RESTORED_FILE}: {error}"))
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(format!("read {RESTORED_FILE}: {error}")),
    }
}

/// Starts a server on loopback that founds a cluster from the snapshot in `dir`, and waits until it has counted.
async fn load(server: &Path, dir: &Path, size_bytes: u64) -> Result<Restored, String> {
    let (data, log) = (dir.join("data"), dir.join("server.log"));
    let file = std::fs::File::create(&log).map_err(|error| format!("create {}: {error}", log.display()))?;
    let second = file.try_clone().map_err(|error| error.to_string())?;
    let mut child = Command::new(server)
        .args(["--addr", "127.0.0.1:0", "--formation", "auto", "--data"])
        .arg(&data)
        .arg("--restore")
        .arg(dir.join(STATE_FILE))
        .stdin(Stdio::null())
        .stdout(file)
        .stderr(second)
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| format!("start {}: {error}", server.display()))?;
    let patience = patience(size_bytes);
    let waited = tokio::time::timeout(patience, await_restored(Some(&mut child), &data)).await;
    let _ = child.kill().await;
    match waited {
        Ok(Ok(restored)) => Ok(restored),
        Ok(Err(what)) => Err(format!("{what}: {}", last_line(&log))),
        Err(_) => Err(format!("a server did not load it within {} s", patience.as_secs())),
    }
}

async fn await_restored(mut child: Option<&mut Child>, data: &Path) -> Result<Restored, String> {
    loop {
        if let Some(restored) = read_restored(data).await? {
            return Ok(restored);
        }
        if let Some(Ok(Some(status))) = child.as_mut().map(|child| child.try_wait()) {
            return Err(format!("a server that was to load it ended with {status}"));
        }
        tokio::time::sleep(LOAD_LOOK).await;
    }
}

fn last_line(log: &Path) -> String {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    let line = text.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or_default();
    line.chars().take(300).collect()
}

/// A directory of our own, removed at the end.
struct Scratch(PathBuf);

impl Scratch {
    fn make(parent: &Path) -> std::io::Result<Self> {
        let dir = parent.join(format!("kvnode-verify-{:016x}", rand::random::<u64>()));
        std::fs::create_dir_all(&dir)?;
        Ok(Self(dir))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.0) {
            tracing::warn!(dir = %self.0.display(), %error, "a scratch directory was left behind");
        }
    }
}
