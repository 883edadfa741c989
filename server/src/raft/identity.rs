//! Who this node is: `identity.json` in the data directory.
//!
//! The node id is random and made when the directory is formatted; it is never reused (decision 2). A node belongs to
//! at most one cluster, for good: a directory that has seen a cluster id refuses every other.
//!
//! ```text
//! {"format":1,"node_id":"<hex>","cluster_id":"<hex>"|null,"founding":false,"joining":false[,"rejoin":{..}]}
//! ```
//!
//! `rejoin` is there from the moment at which the node takes a new id (see `doubt`) until the cluster has admitted it.
//!
//! Invariant: the file is replaced by write, fsync, rename, fsync of the directory; a reader sees the old or the new.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

const FORMAT: u32 = 1;
const FILE: &str = "identity.json";

/// Why a data directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// The file or directory cannot be read or written.
    #[error("{path}: {error}")]
    Io {
        /// Path concerned.
        path: PathBuf,
        /// Cause.
        error: std::io::Error,
    },
    /// The directory holds data but no identity, or one that cannot be read.
    #[error("{path}: {problem}; restore the file, or empty the data directory and let the node join again")]
    Damaged {
        /// Path concerned.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// The node belongs to another cluster.
    #[error(
        "this node belongs to cluster {have}, not to {asked}; a node never changes its cluster: use an empty data directory"
    )]
    OtherCluster {
        /// Own cluster id, hex.
        have: String,
        /// The one asked for, hex.
        asked: String,
    },
}

/// The file's content.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Content {
    format: u32,
    #[serde(with = "hex_id")]
    node_id: u64,
    #[serde(with = "hex_option")]
    cluster_id: Option<u64>,
    /// This node began to found its cluster; the first membership may not be in the log yet.
    founding: bool,
    /// This node was told to join a cluster, so it never founds one by itself.
    joining: bool,
    /// This node has taken a new id and is to take the place of its old one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    rejoin: Option<Rejoin>,
}

/// How a node that gave its id up comes back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Rejoin {
    /// The id that it had.
    #[serde(with = "hex_id")]
    pub(super) replaces: u64,
    pub(super) wants_vote: bool,
    /// Client addresses of the members that it knew.
    pub(super) members: Vec<String>,
    /// Log and state are to be emptied first: they may hold what the cluster has not.
    pub(super) wipe: bool,
}

/// The identity of this data directory.
#[derive(Debug)]
pub(super) struct Identity {
    path: PathBuf,
    content: Mutex<Content>,
}

impl Identity {
    /// Reads the identity, or makes one in an empty directory. A directory formatted with `joining` never founds a
    /// cluster, from its first byte on.
    pub(super) fn open(data: &Path, joining: bool) -> Result<Self, IdentityError> {
        let path = data.join(FILE);
        let io = |error| IdentityError::Io { path: path.clone(), error };
        let damaged = |problem: String| IdentityError::Damaged { path: path.clone(), problem };
        match fs::read(&path) {
            Ok(bytes) => {
                let content: Content = serde_json::from_slice(&bytes)
                    .map_err(|error| damaged(format!("not an identity: {error}")))?;
                if content.format > FORMAT {
                    return Err(damaged(format!("format {} is newer than this program", content.format)));
                }
                Ok(Self { path, content: Mutex::new(content) })
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                if data.join("group-0").exists() {
                    return Err(damaged("missing beside existing data".into()));
                }
                // 0 stands for "none" on the wire.
                let node_id = rand::random_range(1..=u64::MAX);
                let content = Content {
                    format: FORMAT,
                    node_id,
                    cluster_id: None,
                    founding: false,
                    joining,
                    rejoin: None,
                };
                let identity = Self { path, content: Mutex::new(content.clone()) };
                identity.save(&content)?;
                Ok(identity)
            }
            Err(error) => Err(io(error)),
        }
    }

    fn save(&self, content: &Content) -> Result<(), IdentityError> {
        let io = |error| IdentityError::Io { path: self.path.clone(), error };
        let mut bytes = serde_json::to_vec(content).map_err(|error| io(error.into()))?;
        bytes.push(b'\n');
        replace_file(&self.path, &bytes).map_err(io)
    }

    fn change(&self, change: impl FnOnce(&mut Content)) -> Result<(), IdentityError> {
        self.try_change(|content| {
            change(content);
            Ok(())
        })
    }

    /// Changes the content under its lock: two invitations at once must not both find the node free.
    fn try_change(
        &self,
        change: impl FnOnce(&mut Content) -> Result<(), IdentityError>,
    ) -> Result<(), IdentityError> {
        let mut content = self.content.lock();
        let mut new = content.clone();
        change(&mut new)?;
        if new != *content {
            self.save(&new)?;
            *content = new;
        }
        Ok(())
    }

    pub(super) fn node_id(&self) -> u64 {
        self.content.lock().node_id
    }

    pub(super) fn cluster_id(&self) -> Option<u64> {
        self.content.lock().cluster_id
    }

    pub(super) fn founding(&self) -> bool {
        self.content.lock().founding
    }

    pub(super) fn joining(&self) -> bool {
        self.content.lock().joining
    }

    /// Notes that this node must not found a cluster by itself.
    pub(super) fn set_joining(&self) -> Result<(), IdentityError> {
        self.change(|content| content.joining = true)
    }

    /// Becomes part of cluster `id`; the same id again changes nothing.
    pub(super) fn adopt(&self, id: u64, founding: bool) -> Result<(), IdentityError> {
        self.try_change(|content| {
            if let Some(have) = content.cluster_id
                && have != id
            {
                let text = super::peer::client::id_text;
                return Err(IdentityError::OtherCluster { have: text(have), asked: text(id) });
            }
            content.cluster_id = Some(id);
            content.founding |= founding;
            Ok(())
        })
    }

    /// How this node comes back under its new id, while it has to.
    pub(super) fn rejoin(&self) -> Option<Rejoin> {
        self.content.lock().rejoin.clone()
    }

    /// Gives the id up for a new one, which counts from the next start on.
    pub(super) fn renew(&self, rejoin: Rejoin) -> Result<(), IdentityError> {
        self.change(|content| {
            content.node_id = rand::random_range(1..=u64::MAX);
            content.founding = false;
            content.joining = true;
            content.rejoin = Some(rejoin);
        })
    }

    /// Log and state are empty now.
    pub(super) fn wiped(&self) -> Result<(), IdentityError> {
        self.change(|content| content.rejoin.iter_mut().for_each(|rejoin| rejoin.wipe = false))
    }

    /// The cluster has admitted the new id.
    pub(super) fn rejoined(&self) -> Result<(), IdentityError> {
        self.change(|content| content.rejoin = None)
    }

    /// The first membership is committed.
    pub(super) fn founded(&self) -> Result<(), IdentityError> {
        self.change(|content| content.founding = false)
    }
}

/// Replaces a small file so that a crash leaves the old or the new content, never a mixture.
pub(crate) fn replace_file(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let temporary = path.with_extension("tmp");
    let mut file = File::create(&temporary)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    crash_point!("file-written-not-renamed");
    fs::rename(&temporary, path)?;
    crash_point!("file-renamed-not-synced");
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(parent)?.sync_all()
}

/// An id as text; the signatures are serde's.
pub(super) mod hex_id {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde gives the field by reference")]
    pub(in crate::raft) fn serialize<S: Serializer>(id: &u64, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&format!("{id:016x}"))
    }

    pub(in crate::raft) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
        let text = String::deserialize(deserializer)?;
        u64::from_str_radix(&text, 16).map_err(D::Error::custom)
    }
}

mod hex_option {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    #[expect(clippy::ref_option, reason = "serde gives the field by reference")]
    pub(super) fn serialize<S: Serializer>(id: &Option<u64>, serializer: S) -> Result<S::Ok, S::Error> {
        match id {
            None => serializer.serialize_none(),
            Some(id) => serializer.serialize_str(&format!("{id:016x}")),
        }
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u64>, D::Error> {
        let text = Option::<String>::deserialize(deserializer)?;
        text.map(|text| u64::from_str_radix(&text, 16).map_err(D::Error::custom)).transpose()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_keeps_its_id_and_never_changes_its_cluster() {
        let dir = tempfile::tempdir().unwrap();
        let first = Identity::open(dir.path(), false).unwrap();
        let id = first.node_id();
        first.adopt(7, true).unwrap();
        let again = Identity::open(dir.path(), false).unwrap();
        assert_eq!((again.node_id(), again.cluster_id(), again.founding()), (id, Some(7), true));
        assert!(again.adopt(7, false).is_ok());
        assert!(matches!(again.adopt(8, false), Err(IdentityError::OtherCluster { .. })));
        again.founded().unwrap();
        assert!(!Identity::open(dir.path(), false).unwrap().founding());
    }

    #[test]
    fn a_new_id_is_remembered_with_what_it_replaces() {
        let dir = tempfile::tempdir().unwrap();
        let first = Identity::open(dir.path(), false).unwrap();
        first.adopt(7, false).unwrap();
        let old = first.node_id();
        let rejoin = Rejoin { replaces: old, wants_vote: true, members: vec!["a:1".into()], wipe: true };
        first.renew(rejoin.clone()).unwrap();
        let again = Identity::open(dir.path(), false).unwrap();
        assert_ne!(again.node_id(), old);
        assert_eq!((again.cluster_id(), again.rejoin()), (Some(7), Some(rejoin.clone())));
        again.wiped().unwrap();
        assert_eq!(again.rejoin(), Some(Rejoin { wipe: false, ..rejoin }));
        again.rejoined().unwrap();
        assert_eq!(Identity::open(dir.path(), false).unwrap().rejoin(), None);
    }

    #[test]
    fn data_without_identity_and_damage_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("group-0")).unwrap();
        assert!(matches!(Identity::open(dir.path(), false), Err(IdentityError::Damaged { .. })));
        fs::write(dir.path().join(FILE), b"{\"format\":1}").unwrap();
        assert!(matches!(Identity::open(dir.path(), false), Err(IdentityError::Damaged { .. })));
        let newer = r#"{"format":9,"node_id":"01","cluster_id":null,"founding":false,"joining":false}"#;
        fs::write(dir.path().join(FILE), newer).unwrap();
        assert!(matches!(Identity::open(dir.path(), false), Err(IdentityError::Damaged { .. })));
    }
}
