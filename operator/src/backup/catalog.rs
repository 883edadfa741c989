//! What is in a bucket: all backups with their proofs, and which of them a restore takes.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use jiff::Timestamp;

use super::layout::{DELETING_FILE, Layout, META_FILE, Place, VERIFIED_FILE};
use super::meta::{BYTES_MAX, BackupMeta, VerifiedMark};
use super::retention::{Item, Proof};
use crate::crd::backup::{Verified, Verify};
use crate::s3::{S3Error, Store};

const READS_AT_ONCE: usize = 16;

/// A complete backup.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backup {
    /// Where it is.
    pub place: Place,
    /// Its `meta.json`.
    pub meta: BackupMeta,
    /// The same, byte for byte.
    pub meta_bytes: Bytes,
    /// Its `verified.json`, if it is about this `meta.json`.
    pub mark: Option<VerifiedMark>,
}

/// What a listing found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Listing {
    /// Complete backups, oldest first.
    pub backups: Vec<Backup>,
    /// Directories whose `meta.json` cannot be used, and why.
    pub faults: Vec<(String, String)>,
    /// Directories that are being deleted.
    pub deleting: BTreeSet<String>,
    /// Directories with no `meta.json`: of a run that works or was cut off.
    pub unfinished: BTreeMap<String, Vec<String>>,
}

impl Backup {
    /// How far it is proved.
    #[must_use]
    pub fn verified(&self) -> Verified {
        match &self.mark {
            None => Verified::No,
            Some(mark) if !mark.ok => Verified::Failed,
            Some(mark) => match mark.mode {
                Verify::Content => Verified::Content,
                Verify::Restore => Verified::Restored,
                Verify::Checksum => Verified::Checksum,
                Verify::Off => Verified::No,
            },
        }
    }

    /// Keys of the object that holds the content.
    #[must_use]
    pub fn object_key(&self) -> String {
        format!("{}{}", self.place.dir, self.meta.object.file)
    }

    /// When its snapshot was begun.
    #[must_use]
    pub fn created(&self) -> Timestamp {
        Timestamp::from_millisecond(self.meta.created_ms()).unwrap_or(Timestamp::UNIX_EPOCH)
    }

    /// As retention sees it.
    #[must_use]
    pub fn item(&self) -> Item {
        let proof = match self.verified() {
            Verified::No => Proof::None,
            Verified::Failed => Proof::Wrong,
            Verified::Checksum | Verified::Content | Verified::Restored => Proof::Good,
        };
        Item { dir: self.place.dir.clone(), created: self.created(), proof }
    }

    /// What must agree between the path and `meta.json`: a backup that was copied under another cluster's name, or
    /// into another directory, is not one of that cluster.
    ///
    /// # Errors
    /// What differs.
    pub fn check_place(&self) -> Result<(), String> {
        let (place, meta) = (&self.place, &self.meta);
        let name = &place.name;
        let pairs = [
            ("cluster", place.cluster.clone(), meta.cluster.clone()),
            ("cluster id", place.cluster_id.clone(), meta.snapshot.cluster_id.clone()),
            ("run", name.run.clone(), meta.run.clone()),
            ("index", name.index.to_string(), meta.snapshot.index.to_string()),
            ("time", name.created_ms.to_string(), meta.created_ms().to_string()),
        ];
        for (what, path, said) in pairs {
            if path != said {
                return Err(format!(
                    "the path says {what} {path}, meta.json says {said}: it belongs elsewhere"
                ));
            }
        }
        Ok(())
    }
}

/// Lists everything of ours below `prefix` (one of [`Layout`]'s).
///
/// # Errors
/// The store cannot be listed or read.
pub async fn list(store: &Store, layout: &Layout, prefix: &str) -> Result<Listing, S3Error> {
    let mut dirs: BTreeMap<String, (Place, BTreeSet<String>)> = BTreeMap::new();
    for found in store.list(prefix).await? {
        if let Some(place) = layout.parse(&found.key) {
            let file = place.file.clone();
            dirs.entry(place.dir.clone()).or_insert_with(|| (place, BTreeSet::new())).1.insert(file);
        }
    }
    let mut listing = Listing::default();
    let mut complete = Vec::new();
    for (dir, (place, files)) in dirs {
        if files.contains(DELETING_FILE) {
            listing.deleting.insert(dir);
        } else if files.contains(META_FILE) {
            complete.push((place, files.contains(VERIFIED_FILE)));
        } else {
            listing.unfinished.insert(dir, files.into_iter().collect());
        }
    }
    let reads = complete.into_iter().map(|(place, marked)| read(store, place, marked));
    let mut read = stream::iter(reads).buffered(READS_AT_ONCE);
    while let Some((dir, found)) = read.try_next().await? {
        match found {
            Some(Ok(backup)) => listing.backups.push(backup),
            Some(Err(fault)) => listing.faults.push((dir, fault)),
            None => {}
        }
    }
    listing.backups.sort_by_key(|backup| (backup.created(), backup.place.dir.clone()));
    Ok(listing)
}

/// Reads one backup; `None` if it was deleted meanwhile.
async fn read(
    store: &Store,
    place: Place,
    marked: bool,
) -> Result<(String, Option<Result<Backup, String>>), S3Error> {
    let dir = place.dir.clone();
    let Some(meta_bytes) = store.find(&format!("{dir}{META_FILE}"), BYTES_MAX).await? else {
        return Ok((dir, None));
    };
    let mark = if marked { store.find(&format!("{dir}{VERIFIED_FILE}"), BYTES_MAX).await? } else { None };
    let backup = BackupMeta::read(&meta_bytes).map(|meta| {
        // A mark that cannot be read proves nothing.
        let mark = mark.and_then(|bytes| VerifiedMark::read(&bytes, &meta_bytes).ok().flatten());
        Backup { place: Place { file: META_FILE.into(), ..place }, meta, meta_bytes, mark }
    });
    Ok((dir, Some(backup)))
}

/// Which backup a restore takes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Target {
    /// The newest.
    #[default]
    Newest,
    /// The newest whose content is not younger than this.
    At(Timestamp),
    /// The one of this run, or with this directory or key.
    Named(String),
}

/// Chooses: verified ones first. A backup that was found wrong is never chosen but by its name, and refused then.
///
/// # Errors
/// One line: why there is none.
pub fn choose<'a>(backups: &'a [Backup], target: &Target) -> Result<(&'a Backup, Option<String>), String> {
    if let Target::Named(name) = target {
        let is = |backup: &&Backup| {
            backup.meta.run == *name
                || name.trim_end_matches('/').ends_with(&backup.place.name.dir())
                || name.ends_with(&backup.object_key())
                || name.ends_with(&format!("{}{META_FILE}", backup.place.dir))
        };
        let found = backups.iter().rev().find(is);
        let backup = found.ok_or_else(|| format!("no complete backup is called {name:?}"))?;
        return match backup.verified() {
            Verified::Failed => Err(found_wrong(backup)),
            Verified::No => Ok((backup, Some(not_verified(backup)))),
            Verified::Checksum | Verified::Content | Verified::Restored => Ok((backup, None)),
        };
    }
    let in_time = |backup: &&Backup| match target {
        Target::At(at) => {
            let log_time = i64::try_from(backup.meta.snapshot.log_time_ms).unwrap_or(i64::MAX);
            log_time <= at.as_millisecond()
        }
        Target::Newest | Target::Named(_) => true,
    };
    let candidates: Vec<&Backup> = backups.iter().rev().filter(in_time).collect();
    let proved = |backup: &&&Backup| backup.item().proof == Proof::Good;
    if let Some(backup) = candidates.iter().find(proved) {
        return Ok((backup, None));
    }
    match candidates.iter().find(|backup| backup.verified() == Verified::No) {
        Some(backup) => Ok((backup, Some(not_verified(backup)))),
        None if backups.is_empty() => Err("there is no complete backup".into()),
        None if candidates.is_empty() => Err("every complete backup is younger than the given time".into()),
        None => Err("every complete backup of that time was found wrong".into()),
    }
}

fn not_verified(backup: &Backup) -> String {
    format!("backup {} was never verified: its content is checked while it is restored", backup.meta.run)
}

fn found_wrong(backup: &Backup) -> String {
    let error = backup.mark.as_ref().and_then(|mark| mark.error.clone()).unwrap_or_default();
    format!("backup {} was found wrong: {error}", backup.meta.run)
}

#[cfg(test)]
mod tests {
    use super::super::layout::Name;
    use super::*;

    fn backup(run: &str, minute: u64, mark: Option<(Verify, bool)>) -> Backup {
        let mut meta = super::super::meta::tests::sample();
        meta.run = run.into();
        meta.snapshot.created_at_ms = minute * 60_000;
        meta.snapshot.log_time_ms = minute * 60_000;
        let name = Name { index: 900, created_ms: meta.created_ms(), run: run.into() };
        let layout = Layout::new("p");
        let key = format!("{}{META_FILE}", layout.dir("cart", "00000000000000c1", &name));
        let meta_bytes = Bytes::from(meta.write());
        let now = Timestamp::UNIX_EPOCH;
        let mark = mark.map(|(mode, ok)| {
            VerifiedMark::new(&meta_bytes, mode, if ok { Ok(1) } else { Err("count".into()) }, now)
        });
        Backup { place: layout.parse(&key).unwrap(), meta, meta_bytes, mark }
    }

    fn minute(minute: i64) -> Timestamp {
        Timestamp::from_second(minute * 60).unwrap()
    }

    #[test]
    fn the_newest_verified_one_is_chosen_and_a_wrong_one_never() {
        let backups = [
            backup("a", 1, Some((Verify::Content, true))),
            backup("b", 2, Some((Verify::Restore, true))),
            backup("c", 3, None),
            backup("d", 4, Some((Verify::Content, false))),
        ];
        let chosen =
            |target: Target| choose(&backups, &target).map(|(b, w)| (b.meta.run.clone(), w.is_some()));
        assert_eq!(chosen(Target::Newest), Ok(("b".into(), false)));
        assert_eq!(chosen(Target::At(minute(1))), Ok(("a".into(), false)));
        assert!(chosen(Target::At(minute(0))).unwrap_err().contains("younger"));
        assert_eq!(chosen(Target::Named("c".into())), Ok(("c".into(), true)));
        assert!(chosen(Target::Named("d".into())).unwrap_err().contains("found wrong: count"));
        let key = backups[0].object_key();
        assert_eq!(chosen(Target::Named(format!("s3://kv/{key}"))), Ok(("a".into(), false)));
        assert_eq!(chosen(Target::Named(backups[0].place.dir.clone())), Ok(("a".into(), false)));
        assert!(chosen(Target::Named("x".into())).is_err());
        assert!(choose(&backups[3..], &Target::Newest).unwrap_err().contains("found wrong"));
        assert_eq!(choose(&backups[2..], &Target::Newest).unwrap().0.meta.run, "c");
        assert!(choose(&[], &Target::Newest).is_err());
    }

    #[test]
    fn a_backup_in_the_wrong_place_is_found() {
        let mut found = backup("a", 1, None);
        assert_eq!(found.check_place(), Ok(()));
        found.meta.snapshot.cluster_id = "00000000000000c2".into();
        assert!(found.check_place().unwrap_err().contains("belongs elsewhere"));
    }
}
