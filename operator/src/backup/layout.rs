//! Where a backup lies in its bucket: pure.
//!
//! ```text
//! <prefix>/<cluster>/<cluster id>/snap/<index>-<created>-<run>/state.bin       the content, as the server wrote it
//!                                                             /meta.json       written last: the commit mark
//!                                                             /verified.json   how far it is proved
//!                                                             /deleting.json   while retention deletes it
//!    index    20 digits, so that names sort by it
//!    created  20261122T130356779Z, when the snapshot was begun
//!    run      name of the KvBackup, or of the command's run
//! ```
//!
//! Invariant: each cluster id has a prefix of its own, so that a restored cluster never writes where its origin does.

use jiff::Timestamp;
use jiff::tz::TimeZone;

/// The content.
pub const STATE_FILE: &str = "state.bin";
/// The content, encrypted.
pub const STATE_ENCRYPTED_FILE: &str = "state.bin.enc";
/// The commit mark.
pub const META_FILE: &str = "meta.json";
/// How far it is proved.
pub const VERIFIED_FILE: &str = "verified.json";
/// Names what a deletion that has begun still has to delete.
pub const DELETING_FILE: &str = "deleting.json";
/// Holds a backup's directories.
const SNAP: &str = "snap";
const RUN_BYTES_MAX: usize = 128;

/// Name of one backup's directory.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Name {
    /// Last log index in the content.
    pub index: u64,
    /// When the snapshot was begun, Unix ms.
    pub created_ms: i64,
    /// Run that made it.
    pub run: String,
}

impl Name {
    /// The directory's name.
    #[must_use]
    pub fn dir(&self) -> String {
        let created = Timestamp::from_millisecond(self.created_ms).unwrap_or(Timestamp::UNIX_EPOCH);
        let ms = self.created_ms.rem_euclid(1000);
        let created = created.to_zoned(TimeZone::UTC).strftime("%Y%m%dT%H%M%S").to_string();
        format!("{:020}-{created}{ms:03}Z-{}", self.index, self.run)
    }

    /// Reads a directory's name; `None` for any other.
    #[must_use]
    pub fn parse(dir: &str) -> Option<Self> {
        let (index, rest) = dir.split_once('-')?;
        let (created, run) = rest.split_once('-')?;
        let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
        let stem = created.strip_suffix('Z')?;
        let (second, ms) = stem.split_at_checked(15)?;
        if index.len() != 20 || !digits(index) || ms.len() != 3 || !digits(ms) || !good_run(run) {
            return None;
        }
        let second = jiff::civil::DateTime::strptime("%Y%m%dT%H%M%S", second).ok()?;
        let at = second.to_zoned(TimeZone::UTC).ok()?.timestamp();
        let name = Self {
            index: index.parse().ok()?,
            created_ms: at.as_millisecond() + ms.parse::<i64>().ok()?,
            run: run.to_owned(),
        };
        (name.dir() == dir).then_some(name)
    }
}

/// True for the names of runs: what Kubernetes takes as the name of an object.
#[must_use]
pub fn good_run(run: &str) -> bool {
    let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-' || byte == b'.';
    !run.is_empty()
        && run.len() <= RUN_BYTES_MAX
        && run.bytes().all(inner)
        && !run.starts_with(['-', '.'])
        && !run.ends_with(['-', '.'])
}

/// Where the backups of one cluster are, or of all clusters of one name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    prefix: String,
}

impl Layout {
    /// `prefix` is the user's; slashes at its ends do not count.
    #[must_use]
    pub fn new(prefix: &str) -> Self {
        let parts: Vec<&str> = prefix.split('/').filter(|part| !part.is_empty()).collect();
        let mut prefix = parts.join("/");
        if !prefix.is_empty() {
            prefix.push('/');
        }
        Self { prefix }
    }

    /// Everything of ours: `<prefix>/`, or nothing.
    #[must_use]
    pub fn root(&self) -> &str {
        &self.prefix
    }

    /// Prefix of all cluster ids of a cluster's name.
    #[must_use]
    pub fn cluster(&self, cluster: &str) -> String {
        format!("{}{cluster}/", self.prefix)
    }

    /// Prefix of one cluster's backups.
    #[must_use]
    pub fn snaps(&self, cluster: &str, cluster_id: &str) -> String {
        format!("{}{cluster}/{cluster_id}/{SNAP}/", self.prefix)
    }

    /// Prefix of one backup, with a slash at its end.
    #[must_use]
    pub fn dir(&self, cluster: &str, cluster_id: &str, name: &Name) -> String {
        format!("{}{}/", self.snaps(cluster, cluster_id), name.dir())
    }

    /// Key of the object that the preflight probe writes and deletes.
    #[must_use]
    pub fn probe(&self, nonce: &str) -> String {
        format!("{}.kvnode-probe-{nonce}", self.prefix)
    }

    /// Takes a key apart; `None` if it is not one of ours.
    #[must_use]
    pub fn parse(&self, key: &str) -> Option<Place> {
        let rest = key.strip_prefix(&self.prefix)?;
        let parts: Vec<&str> = rest.split('/').collect();
        let &[cluster, cluster_id, SNAP, dir, file] = parts.as_slice() else { return None };
        let hex = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        if cluster.is_empty() || cluster_id.len() != 16 || !cluster_id.bytes().all(hex) {
            return None;
        }
        Some(Place {
            cluster: cluster.to_owned(),
            cluster_id: cluster_id.to_owned(),
            name: Name::parse(dir)?,
            dir: key.strip_suffix(file)?.to_owned(),
            file: file.to_owned(),
        })
    }
}

/// A key taken apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// Name of the cluster.
    pub cluster: String,
    /// Its id, 16 hex digits.
    pub cluster_id: String,
    /// The backup.
    pub name: Name,
    /// Its whole prefix, with a slash at its end.
    pub dir: String,
    /// What is behind it.
    pub file: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name() -> Name {
        Name { index: 912, created_ms: 1_795_332_236_779, run: "cart-hourly-29922204".into() }
    }

    #[test]
    fn keys_are_built_and_taken_apart() {
        for (given, root) in [("", ""), ("prod", "prod/"), ("/a//b/", "a/b/")] {
            let layout = Layout::new(given);
            assert_eq!(layout.root(), root);
            let dir = layout.dir("cart", "00000000000000c1", &name());
            assert_eq!(
                dir,
                format!(
                    "{root}cart/00000000000000c1/snap/00000000000000000912-20261122T072356779Z-cart-hourly-29922204/"
                )
            );
            let place = layout.parse(&format!("{dir}{META_FILE}")).unwrap();
            assert_eq!((place.cluster.as_str(), place.name, place.dir), ("cart", name(), dir));
        }
    }

    #[test]
    fn foreign_keys_are_none_of_ours() {
        let layout = Layout::new("p");
        let good = format!("p/cart/00000000000000c1/snap/{}/meta.json", name().dir());
        assert!(layout.parse(&good).is_some());
        for wrong in [
            good.replacen("p/", "q/", 1),
            good.replace("/snap/", "/log/"),
            good.replace("00000000000000c1", "../0000000000c1"),
            good.replace("-20261122T072356779Z-", "-20261322T072356779Z-"),
            good.replace("00000000000000000912", "912"),
            good.replace("/meta.json", "/more/meta.json"),
            good.replace("-cart-hourly-29922204", ""),
            good.replace("-cart-hourly-29922204", "-Cart"),
            "p/cart/notes.txt".into(),
        ] {
            assert_eq!(layout.parse(&wrong), None, "{wrong}");
        }
        assert!(!good_run("") && !good_run("a/b") && !good_run("-a") && good_run("a.b-1"));
    }

    #[test]
    fn names_sort_as_the_log_grows() {
        let later = Name { index: 1_000, ..name() };
        assert!(name().dir() < later.dir());
    }
}
