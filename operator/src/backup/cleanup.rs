//! Deletes what may go: surplus backups, deletions that broke off, what a run that was cut off left behind, and
//! everything of one run when its KvBackup goes.
//!
//! ```text
//! a backup   put deleting.json (a copy of meta.json) -> delete meta.json, verified.json, the object -> deleting.json
//!            cut off anywhere: the next pass reads deleting.json and goes on
//! a cut run  uploads that were never completed are aborted; objects without meta.json are deleted: those of a run with
//!            the same name at once, others after two days
//! ```
//!
//! Invariant: of a backup only what its own `meta.json` names is deleted.

use bytes::Bytes;
use jiff::{SignedDuration, Timestamp};

use super::catalog::{Backup, Listing, list};
use super::layout::{DELETING_FILE, Layout, META_FILE, STATE_ENCRYPTED_FILE, STATE_FILE, VERIFIED_FILE};
use super::meta::{BYTES_MAX, BackupMeta};
use super::retention::{Item, Policy, surplus};
use crate::s3::{S3Error, S3ErrorKind, Store};

/// No run takes longer.
const OLD: SignedDuration = SignedDuration::from_hours(48);

/// Deletes what the policy does not keep of one cluster's backups; returns how many.
///
/// # Errors
/// The first thing that could not be done; [`S3ErrorKind::AccessDenied`] where nothing may be deleted.
pub async fn retain(
    store: &Store,
    layout: &Layout,
    snaps: &str,
    policy: &Policy,
    now: Timestamp,
) -> Result<u32, S3Error> {
    if *policy == Policy::default() {
        return Ok(0);
    }
    let listing = list(store, layout, snaps).await?;
    for dir in &listing.deleting {
        resume(store, dir).await?;
    }
    let items: Vec<Item> = listing.backups.iter().map(Backup::item).collect();
    let mut deleted = 0;
    for dir in surplus(&items, policy, now) {
        if let Some(backup) = listing.backups.iter().find(|backup| backup.place.dir == dir) {
            delete(store, backup).await?;
            deleted += 1;
        }
    }
    Ok(deleted)
}

/// Deletes one backup.
///
/// # Errors
/// The first thing that could not be done; a repeat goes on there.
pub async fn delete(store: &Store, backup: &Backup) -> Result<(), S3Error> {
    let dir = &backup.place.dir;
    store.put(&format!("{dir}{DELETING_FILE}"), backup.meta_bytes.clone()).await?;
    finish(store, dir, &backup.meta).await
}

async fn resume(store: &Store, dir: &str) -> Result<(), S3Error> {
    let key = format!("{dir}{DELETING_FILE}");
    let Some(bytes) = store.find(&key, BYTES_MAX).await? else { return Ok(()) };
    match BackupMeta::read(&bytes) {
        Ok(meta) => finish(store, dir, &meta).await,
        // Not ours to guess what it was about.
        Err(fault) => {
            tracing::warn!(key, fault, "a deletion cannot be finished");
            Ok(())
        }
    }
}

async fn finish(store: &Store, dir: &str, meta: &BackupMeta) -> Result<(), S3Error> {
    for file in [META_FILE, VERIFIED_FILE, meta.object.file.as_str(), DELETING_FILE] {
        store.delete(&format!("{dir}{file}")).await?;
    }
    Ok(())
}

/// Why not everything of a run is gone.
#[derive(Debug, thiserror::Error)]
pub enum RemoveError {
    /// The store refused, or was not reached.
    #[error(transparent)]
    Store(#[from] S3Error),
    /// There is something that must not be deleted, because it does not say of itself that it belongs to the run.
    #[error("{0}")]
    Foreign(String),
}

/// Deletes everything of one run below `prefix` (one of [`Layout`]'s): its backup, a deletion of it that broke off, what
/// it left when it was cut off. Returns how many backups that were. Nothing there is no error: retention may have been
/// faster.
///
/// # Errors
/// [`RemoveError`]; a repeat goes on there.
pub async fn remove(store: &Store, layout: &Layout, prefix: &str, run: &str) -> Result<u32, RemoveError> {
    let listing = list(store, layout, prefix).await?;
    let of_run =
        |dir: &str| layout.parse(&format!("{dir}{META_FILE}")).is_some_and(|place| place.name.run == run);
    let mut deleted = 0;
    for dir in listing.deleting.iter().filter(|dir| of_run(dir)) {
        resume(store, dir).await?;
        deleted += 1;
    }
    for backup in listing.backups.iter().filter(|backup| backup.place.name.run == run) {
        let foreign = |what| RemoveError::Foreign(format!("{}: {what}; it is not deleted", backup.place.dir));
        backup.check_place().map_err(foreign)?;
        delete(store, backup).await?;
        deleted += 1;
    }
    clear(store, prefix, layout, &listing, run, None).await?;
    // What is left was not ours to delete.
    let left = list(store, layout, prefix).await?;
    let unfinished = left.unfinished.iter().filter(|(_, files)| files.iter().any(|file| of_a_cut_run(file)));
    let mut left = left
        .faults
        .iter()
        .map(|(dir, fault)| (dir, fault.as_str()))
        .chain(left.deleting.iter().map(|dir| (dir, "deleting.json cannot be read")))
        .chain(left.backups.iter().map(|backup| (&backup.place.dir, "a backup that has just been written")))
        .chain(unfinished.map(|(dir, _)| (dir, "the store keeps an object without meta.json")));
    match left.find(|(dir, _)| of_run(dir)) {
        Some((dir, fault)) => Err(RemoveError::Foreign(format!("{dir}: {fault}"))),
        None => Ok(deleted),
    }
}

/// What our runs make before meta.json; any other file is not ours.
fn of_a_cut_run(file: &str) -> bool {
    [STATE_FILE, STATE_ENCRYPTED_FILE].contains(&file)
}

/// Clears what a run of this name left that was cut off, and, given the time, what other runs left long ago. What may not
/// be deleted stays: it costs room, nothing else.
///
/// # Errors
/// The store cannot be listed.
pub async fn clear(
    store: &Store,
    snaps: &str,
    layout: &Layout,
    listing: &Listing,
    run: &str,
    now: Option<Timestamp>,
) -> Result<(), S3Error> {
    let is_left = |key: &str, begun: Option<Timestamp>| {
        layout.parse(key).is_some_and(|place| {
            let created = Timestamp::from_millisecond(place.name.created_ms).ok();
            let age = now.zip(begun.or(created)).map(|(now, begun)| now.duration_since(begun));
            let old = age.is_some_and(|age| age > OLD);
            place.name.run == run || old
        })
    };
    let pending = match store.pending_uploads(snaps).await {
        Ok(pending) => pending,
        // Not every writer may list uploads.
        Err(error) if error.kind == S3ErrorKind::AccessDenied => Vec::new(),
        Err(error) => return Err(error),
    };
    for upload in pending.iter().filter(|upload| is_left(&upload.key, upload.begun)) {
        tracing::info!(key = upload.key, "aborting an upload that was cut off");
        tolerate(store.abort_upload(upload).await)?;
    }
    for (dir, files) in &listing.unfinished {
        for file in files.iter().filter(|file| of_a_cut_run(file)) {
            let key = format!("{dir}{file}");
            if is_left(&key, None) {
                tracing::info!(key, "deleting what a run left that was cut off");
                tolerate(store.delete(&key).await)?;
            }
        }
    }
    Ok(())
}

fn tolerate(done: Result<(), S3Error>) -> Result<(), S3Error> {
    match done {
        Err(error) if error.kind == S3ErrorKind::AccessDenied => {
            tracing::warn!(%error, "this writer may not delete");
            Ok(())
        }
        other => other,
    }
}

/// Stores the commit mark.
///
/// # Errors
/// See [`S3Error`].
pub async fn commit(store: &Store, dir: &str, meta: &BackupMeta) -> Result<Bytes, S3Error> {
    let bytes = Bytes::from(meta.write());
    store.put(&format!("{dir}{META_FILE}"), bytes.clone()).await?;
    Ok(bytes)
}
