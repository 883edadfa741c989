//! Deletes what may go: surplus backups, deletions that broke off, and what a run that was cut off left behind.
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

/// Clears what a run of this name left that was cut off, and what other runs left long ago. What may not be deleted
/// stays: it costs room, nothing else.
///
/// # Errors
/// The store cannot be listed.
pub async fn clear(
    store: &Store,
    snaps: &str,
    layout: &Layout,
    listing: &Listing,
    run: &str,
    now: Timestamp,
) -> Result<(), S3Error> {
    let is_left = |key: &str, begun: Option<Timestamp>| {
        layout.parse(key).is_some_and(|place| {
            let created = Timestamp::from_millisecond(place.name.created_ms).ok();
            let old = begun.or(created).is_some_and(|begun| now.duration_since(begun) > OLD);
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
        // What our runs make before meta.json; any other file is not ours.
        for file in files.iter().filter(|file| [STATE_FILE, STATE_ENCRYPTED_FILE].contains(&file.as_str())) {
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
