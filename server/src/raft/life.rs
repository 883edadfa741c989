//! Whether this node may have lost entries that it acknowledged: `life.json` in the data directory (decision 2).
//!
//! ```text
//! {"format":1,"node_id":"<hex>","durability":"low","boot_id":"<uuid>"|null,"log":"<device>-<inode>-<mount>",
//!  "in_doubt":false,"floor":"<log id>"|null}
//! ```
//!
//! The file is written at each start, before the first write that is not synced at once; it says at which durability
//! this life acknowledges. At the next start:
//!
//! ```text
//! log closed by an orderly stop                         nothing is lost
//! the life before acknowledged at durability high       nothing is lost: it was synced first
//! same boot of the kernel, same log directory, same     nothing is lost: only the process ended, and what it had
//! mount                                                 written is in the page cache still
//! anything else                                         in doubt, until `doubt` has settled it; kept over restarts
//! ```
//!
//! The boot id proves a surviving page cache only while no sync has failed (the kernel may drop pages then), so a life
//! that ends by a failure takes its boot id out of the file. A disk that fails for good takes not even that; it has to be
//! mounted anew, though, and a mount has a number of its own. (So has that of a container which is made anew after its
//! process was killed; there the doubt costs a few seconds for nothing.) What it cannot notice, before Linux 6.8: a mount
//! that has got the number of the one before it.
//!
//! A record speaks for the node id in it. Under a new id nothing has been acknowledged, so an old record says nothing.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use parking_lot::Mutex;
use rustix::fs::{AtFlags, CWD, StatxFlags};
use serde::{Deserialize, Serialize};

use super::identity::{IdentityError, hex_id, replace_file};
use crate::config::Durability;
use crate::store::LogId;

const FORMAT: u32 = 1;
const FILE: &str = "life.json";
#[cfg(not(feature = "sim"))]
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Record {
    format: u32,
    #[serde(with = "hex_id")]
    node_id: u64,
    durability: String,
    /// Boot of the kernel under which this life writes; `None` if it cannot be told or a sync has failed.
    boot_id: Option<String>,
    /// Device and inode of the log's directory.
    log: String,
    in_doubt: bool,
    /// This node votes only for candidates whose log reaches to here (see `doubt`).
    floor: Option<String>,
}

/// What the log was found to be at the open.
#[derive(Clone, Copy, Debug)]
pub(super) struct Found {
    /// Closed in order.
    pub(super) clean: bool,
    /// Nothing was ever written: no entry, no vote.
    pub(super) empty: bool,
    pub(super) last: Option<LogId>,
}

/// The record of the running life.
#[derive(Debug)]
pub(super) struct Life {
    path: PathBuf,
    record: Mutex<Record>,
}

fn name(durability: Durability) -> &'static str {
    match durability {
        Durability::Low => "low",
        Durability::Medium => "medium",
        Durability::High => "high",
    }
}

/// True if entries that the life before acknowledged may be missing. `now` is the new record.
fn may_have_lost(before: Option<&Record>, now: &Record, found: Found) -> bool {
    // Without a record nothing but an empty log is certain: it is written before the first entry.
    let Some(before) = before else { return !found.clean && !found.empty };
    if before.node_id != now.node_id {
        return false;
    }
    let survived = before.boot_id.is_some() && before.boot_id == now.boot_id && before.log == now.log;
    let synced = before.durability == name(Durability::High);
    before.in_doubt || !(found.clean || synced || survived)
}

/// `STATX_MNT_ID_UNIQUE`, since Linux 6.8; rustix has no name for it yet.
const MOUNT_ID_UNIQUE: StatxFlags = StatxFlags::from_bits_retain(0x4000);

/// Number of the mount that holds a directory: never used again under one kernel, if the kernel knows such numbers.
fn mount_of(dir: &Path) -> std::io::Result<u64> {
    let asked = MOUNT_ID_UNIQUE | StatxFlags::MNT_ID;
    let found = rustix::fs::statx(CWD, dir, AtFlags::empty(), asked)?;
    Ok(found.stx_mnt_id)
}

#[cfg(not(feature = "sim"))]
fn boot_id() -> Option<String> {
    fs::read_to_string(BOOT_ID).ok().map(|id| id.trim().to_owned()).filter(|id| !id.is_empty())
}

#[cfg(feature = "sim")]
fn boot_id() -> Option<String> {
    Some(crate::sim::boot_id())
}

impl Life {
    /// Judges the life before and begins a new one, durably.
    pub(super) fn begin(
        data: &Path,
        log: &Path,
        node_id: u64,
        durability: Durability,
        found: Found,
    ) -> Result<Self, IdentityError> {
        let path = data.join(FILE);
        let io = |path: &Path, error| IdentityError::Io { path: path.to_owned(), error };
        let before = match fs::read(&path) {
            Ok(bytes) => {
                serde_json::from_slice::<Record>(&bytes).ok().filter(|before| before.format <= FORMAT)
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
            Err(error) => return Err(io(&path, error)),
        };
        let meta = fs::metadata(log).map_err(|error| io(log, error))?;
        // 0 where the kernel does not tell it: then a mount is as good as any other.
        let mount = mount_of(log).unwrap_or(0);
        let mut now = Record {
            format: FORMAT,
            node_id,
            durability: name(durability).to_owned(),
            boot_id: boot_id(),
            log: format!("{}-{}-{mount}", meta.dev(), meta.ino()),
            in_doubt: false,
            floor: None,
        };
        now.in_doubt = may_have_lost(before.as_ref(), &now, found);
        // A log that reaches the floor by itself votes for no shorter one anyway.
        let floor = before.filter(|before| before.node_id == node_id).and_then(|before| before.floor);
        now.floor = floor.filter(|floor| floor.parse::<LogId>().ok() > found.last);
        let life = Self { path, record: Mutex::new(now.clone()) };
        life.save(&now)?;
        Ok(life)
    }

    pub(super) fn in_doubt(&self) -> bool {
        self.record.lock().in_doubt
    }

    pub(super) fn floor(&self) -> Option<LogId> {
        self.record.lock().floor.as_ref()?.parse().ok()
    }

    /// The doubt is settled: the node goes on, and votes only for logs that reach to `floor`.
    pub(super) fn resolve(&self, floor: Option<LogId>) -> Result<(), IdentityError> {
        self.change(|record| {
            record.in_doubt = false;
            record.floor = floor.map(|id| id.to_string());
        })
    }

    /// A write or sync failed: what this life wrote may be gone from the page cache. Best effort, as the disk may be.
    pub(super) fn failed(&self) {
        if let Err(error) = self.change(|record| record.boot_id = None) {
            tracing::warn!(%error, "cannot note that a write failed");
            // A record that cannot be read says as much. If even this fails, nothing can be written here anyway.
            let _ = fs::write(&self.path, b"");
        }
    }

    fn change(&self, change: impl FnOnce(&mut Record)) -> Result<(), IdentityError> {
        let mut record = self.record.lock();
        let mut new = record.clone();
        change(&mut new);
        if new != *record {
            self.save(&new)?;
            *record = new;
        }
        Ok(())
    }

    fn save(&self, record: &Record) -> Result<(), IdentityError> {
        let io = |error| IdentityError::Io { path: self.path.clone(), error };
        let mut bytes = serde_json::to_vec(record).map_err(|error| io(error.into()))?;
        bytes.push(b'\n');
        replace_file(&self.path, &bytes).map_err(io)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const UNCLEAN: Found = Found { clean: false, empty: false, last: None };
    const CLEAN: Found = Found { clean: true, ..UNCLEAN };

    fn record(durability: Durability, boot: &str) -> Record {
        Record {
            format: FORMAT,
            node_id: 7,
            durability: name(durability).into(),
            boot_id: Some(boot.into()),
            log: "1-2".into(),
            in_doubt: false,
            floor: None,
        }
    }

    #[test]
    fn only_an_unclean_stop_across_a_boot_at_a_lower_durability_is_doubtful() {
        let now = record(Durability::High, "b");
        for (durability, lower) in
            [(Durability::Low, true), (Durability::Medium, true), (Durability::High, false)]
        {
            let other = record(durability, "a");
            assert_eq!(
                may_have_lost(Some(&other), &now, UNCLEAN),
                lower,
                "{durability:?}, the machine went down"
            );
            assert!(!may_have_lost(Some(&other), &now, CLEAN), "{durability:?}, stopped in order");
            let same = record(durability, "b");
            assert!(!may_have_lost(Some(&same), &now, UNCLEAN), "{durability:?}, only the process ended");
            let failed = Record { boot_id: None, ..same.clone() };
            assert_eq!(
                may_have_lost(Some(&failed), &now, UNCLEAN),
                lower,
                "{durability:?}, a sync had failed"
            );
            let moved = Record { log: "1-3".into(), ..same };
            assert_eq!(
                may_have_lost(Some(&moved), &now, UNCLEAN),
                lower,
                "{durability:?}, another directory, or the same one mounted anew"
            );
        }
        let nowhere = Record { boot_id: None, ..record(Durability::Low, "") };
        assert!(may_have_lost(Some(&nowhere), &nowhere, UNCLEAN), "two unknown boots are not the same");
        assert!(may_have_lost(None, &now, UNCLEAN) && !may_have_lost(None, &now, CLEAN));
        assert!(
            !may_have_lost(None, &now, Found { empty: true, ..UNCLEAN }),
            "a first start that was cut short"
        );
    }

    #[test]
    fn a_mount_has_one_number_and_another_mount_another() {
        let dir = tempfile::tempdir().unwrap();
        let inner = dir.path().join("inner");
        fs::create_dir(&inner).unwrap();
        let own = mount_of(dir.path()).unwrap();
        assert_eq!(mount_of(&inner).unwrap(), own);
        assert_ne!(mount_of(Path::new("/proc")).unwrap(), own);
    }

    #[test]
    fn a_doubt_outlives_orderly_stops_until_it_is_settled_or_the_id_is_new() {
        let dir = tempfile::tempdir().unwrap();
        let begin = |node, found| Life::begin(dir.path(), dir.path(), node, Durability::Low, found).unwrap();
        assert!(!begin(7, CLEAN).in_doubt());
        let text = fs::read_to_string(dir.path().join(FILE)).unwrap();
        let mut record: Record = serde_json::from_str(&text).unwrap();
        record.boot_id = Some("another".into());
        fs::write(dir.path().join(FILE), serde_json::to_vec(&record).unwrap()).unwrap();
        assert!(begin(7, UNCLEAN).in_doubt());
        let life = begin(7, CLEAN);
        assert!(life.in_doubt(), "the doubt is older than the orderly stop");
        let floor = LogId { term: 3, node: 9, index: 12 };
        life.resolve(Some(floor)).unwrap();
        assert_eq!((begin(7, UNCLEAN).in_doubt(), begin(7, UNCLEAN).floor()), (false, Some(floor)));
        assert_eq!(begin(7, Found { last: Some(floor), ..UNCLEAN }).floor(), None, "reached");
        begin(7, UNCLEAN).failed();
        assert!(begin(7, UNCLEAN).in_doubt(), "a failed sync");
        assert!(!begin(8, UNCLEAN).in_doubt(), "nothing was acknowledged under the new id");
    }
}
