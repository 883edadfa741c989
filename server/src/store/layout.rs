//! The directory that holds the state, and the one rename that replaces it.
//!
//! ```text
//! <state directory>/
//!   ACTIVE              one line: "kvnode-state 2 db-0000000000000002" (a checksum follows), written whole, renamed
//!   db-...02/           the RocksDB files in use
//!   db-...03/           an install that was never committed; removed at the next open
//! ```
//!
//! Invariants
//! - `ACTIVE` names the state. It changes by write, fsync, rename, fsync of the directory, so after a crash it names
//!   the old state or the new one, and both are whole at that moment.
//! - While the very first database is being created the line says `creating` in place of `kvnode-state`; such a
//!   database is empty and is begun anew. So a directory without `ACTIVE` that holds databases is damaged, never new.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use crc32c::crc32c;

use super::Fatal;

const ACTIVE: &str = "ACTIVE";
const COMPLETE: &str = "kvnode-state";
const CREATING: &str = "creating";
/// Version 2: the family `expire` is there; a release that does not know it must not open the database.
const VERSION: u32 = 2;
const OLDEST: u32 = 1;
const PREFIX: &str = "db-";

/// What to do about a damaged state directory. One node's state can always be had again from the others.
pub(crate) const REMEDY: &str = "this node's state is damaged: stop it, remove its whole data directory and let it join \
     again as a new member (or restore a snapshot if it is the only one)";

/// The state directory.
#[derive(Clone, Debug)]
pub(crate) struct Layout {
    root: PathBuf,
}

/// What `ACTIVE` says.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Active {
    /// Nothing has ever been stored here; a first database may be made under this number.
    Empty(u64),
    /// The state is in the database of this number.
    Complete(u64),
}

impl Layout {
    /// Opens or makes the directory and removes what an unfinished install left behind.
    pub(crate) fn open(root: &Path) -> Result<(Layout, Active), Fatal> {
        fs::create_dir_all(root).map_err(|error| failed("create state directory", root, &error))?;
        let layout = Layout { root: root.to_path_buf() };
        let (active, keep) = match layout.read_active()? {
            Some((true, number)) => (Active::Complete(number), Some(number)),
            Some((false, number)) => (Active::Empty(number), None),
            None => (Active::Empty(1), None),
        };
        let fresh = !root.join(ACTIVE).exists();
        for number in layout.databases()? {
            if fresh {
                return Err(Fatal::new(
                    format!("open state in {}", root.display()),
                    format!("file {ACTIVE} is missing beside {}; {REMEDY}", name(number)),
                ));
            }
            if Some(number) != keep {
                let path = layout.database(number);
                fs::remove_dir_all(&path).map_err(|error| failed("remove left-over state", &path, &error))?;
            }
        }
        Ok((layout, active))
    }

    /// Where the database of a number lies.
    pub(crate) fn database(&self, number: u64) -> PathBuf {
        self.root.join(name(number))
    }

    /// Says that the first database is being made.
    pub(crate) fn begin(&self, number: u64) -> Result<(), Fatal> {
        self.write_active(CREATING, number)
    }

    /// Makes the database of this number the state, durably.
    pub(crate) fn activate(&self, number: u64) -> Result<(), Fatal> {
        self.write_active(COMPLETE, number)
    }

    /// Moves a finished directory to the place of database `number`, durably but not yet as the state.
    pub(crate) fn adopt(&self, from: &Path, number: u64) -> Result<PathBuf, Fatal> {
        sync_files(from)?;
        let to = self.database(number);
        fs::rename(from, &to).map_err(|error| failed("move checkpoint into place from", from, &error))?;
        sync_directory(&self.root)?;
        Ok(to)
    }

    fn read_active(&self) -> Result<Option<(bool, u64)>, Fatal> {
        let path = self.root.join(ACTIVE);
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(failed("read", &path, &error)),
        };
        let damaged =
            |what: &str| Fatal::new(format!("read {}", path.display()), format!("{what}; {REMEDY}"));
        let (line, sum) = text.trim_end().rsplit_once(' ').ok_or_else(|| damaged("the line is cut short"))?;
        if u32::from_str_radix(sum, 16) != Ok(crc32c(line.as_bytes())) {
            return Err(damaged("the checksum does not match"));
        }
        let mut words = line.split(' ');
        let (kind, version, database) = (words.next(), words.next(), words.next());
        match version.and_then(|version| version.parse().ok()) {
            Some(OLDEST..=VERSION) => {}
            Some(newer) if newer > VERSION => {
                let what =
                    format!("version {newer} was written by a newer release, this one reads up to {VERSION}");
                return Err(Fatal::new(format!("read {}", path.display()), what));
            }
            _ => return Err(damaged("the version is not a number")),
        }
        let number = database.and_then(parse_name).ok_or_else(|| damaged("no database is named"))?;
        Ok(Some((kind == Some(COMPLETE), number)))
    }

    fn write_active(&self, kind: &str, number: u64) -> Result<(), Fatal> {
        let path = self.root.join(ACTIVE);
        let next = self.root.join("ACTIVE.tmp");
        let line = format!("{kind} {VERSION} {}", name(number));
        let text = format!("{line} {:08x}\n", crc32c(line.as_bytes()));
        let write = || {
            let mut file = File::create(&next)?;
            file.write_all(text.as_bytes())?;
            file.sync_all()?;
            crash_point!("active-written-not-renamed");
            fs::rename(&next, &path)
        };
        write().map_err(|error| failed("write", &path, &error))?;
        crash_point!("active-renamed-not-synced");
        sync_directory(&self.root)
    }

    fn databases(&self) -> Result<Vec<u64>, Fatal> {
        let list = || -> std::io::Result<Vec<u64>> {
            let mut numbers = Vec::new();
            for entry in fs::read_dir(&self.root)? {
                numbers.extend(entry?.file_name().to_str().and_then(parse_name));
            }
            Ok(numbers)
        };
        list().map_err(|error| failed("list", &self.root, &error))
    }
}

/// The files of a directory with their sizes, sorted by name.
pub(crate) fn files(path: &Path) -> Result<Vec<(String, u64)>, Fatal> {
    let list = || -> std::io::Result<Vec<(String, u64)>> {
        let mut files = Vec::new();
        for entry in fs::read_dir(path)? {
            let entry = entry?;
            files.push((entry.file_name().to_string_lossy().into_owned(), entry.metadata()?.len()));
        }
        files.sort();
        Ok(files)
    };
    list().map_err(|error| failed("list", path, &error))
}

fn sync_files(path: &Path) -> Result<(), Fatal> {
    for (name, _) in files(path)? {
        let file = path.join(name);
        File::open(&file).and_then(|file| file.sync_all()).map_err(|error| failed("sync", &file, &error))?;
    }
    sync_directory(path)
}

fn sync_directory(path: &Path) -> Result<(), Fatal> {
    File::open(path).and_then(|file| file.sync_all()).map_err(|error| failed("sync", path, &error))
}

fn name(number: u64) -> String {
    format!("{PREFIX}{number:016x}")
}

fn parse_name(name: &str) -> Option<u64> {
    u64::from_str_radix(name.strip_prefix(PREFIX)?, 16).ok()
}

fn failed(doing: &str, path: &Path, error: &std::io::Error) -> Fatal {
    Fatal::new(format!("{doing} {}", path.display()), error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_is_empty_then_complete() {
        let dir = tempfile::tempdir().unwrap();
        let (layout, active) = Layout::open(dir.path()).unwrap();
        assert_eq!(active, Active::Empty(1));
        layout.begin(1).unwrap();
        fs::create_dir(layout.database(1)).unwrap();
        let (layout, active) = Layout::open(dir.path()).unwrap();
        assert_eq!(active, Active::Empty(1), "a crash while the first database is made begins anew");
        assert!(!layout.database(1).exists());
        fs::create_dir(layout.database(1)).unwrap();
        layout.activate(1).unwrap();
        let (layout, active) = Layout::open(dir.path()).unwrap();
        assert_eq!(active, Active::Complete(1));
        assert!(layout.database(1).exists());
    }

    #[test]
    fn an_uncommitted_install_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        let (layout, _) = Layout::open(dir.path()).unwrap();
        fs::create_dir(layout.database(1)).err();
        layout.activate(1).unwrap();
        let from = dir.path().join("incoming");
        fs::create_dir(&from).unwrap();
        fs::write(from.join("file"), b"x").unwrap();
        layout.adopt(&from, 2).unwrap();
        Layout::open(dir.path()).unwrap();
        assert!(layout.database(1).exists() && !layout.database(2).exists() && !from.exists());
    }

    #[test]
    fn damage_is_named_with_its_remedy() {
        let dir = tempfile::tempdir().unwrap();
        let (layout, _) = Layout::open(dir.path()).unwrap();
        fs::create_dir(layout.database(1)).unwrap();
        let message = Layout::open(dir.path()).unwrap_err().to_string();
        assert!(message.contains("ACTIVE is missing") && message.contains("join"), "{message}");

        layout.activate(1).unwrap();
        let path = dir.path().join(ACTIVE);
        let text = fs::read_to_string(&path).unwrap();
        fs::write(&path, text.replace("db-0", "db-1")).unwrap();
        let message = Layout::open(dir.path()).unwrap_err().to_string();
        assert!(message.contains("checksum does not match"), "{message}");

        let line = "kvnode-state 3 db-0000000000000001";
        fs::write(&path, format!("{line} {:08x}\n", crc32c(line.as_bytes()))).unwrap();
        let message = Layout::open(dir.path()).unwrap_err().to_string();
        assert!(message.contains("version 3 was written by a newer release"), "{message}");
    }
}
