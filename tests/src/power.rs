//! A power cut, played: what a disk had not got yet is gone, and the kernel is another one.
//!
//! An older image of a killed node's log is put back (what had been written since was in the page cache only), and
//! another boot id into its `life.json`.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use anyhow::{Result, ensure};

use crate::node::Node;

/// Files of a log as they are now.
pub type Image = BTreeMap<PathBuf, Vec<u8>>;

/// What is in the log's files now.
///
/// # Errors
/// They cannot be read.
pub fn image(node: &Node) -> Result<Image> {
    let mut files = Image::new();
    for entry in fs::read_dir(node.data.join("group-0/log"))? {
        let path = entry?.path();
        files.insert(path.clone(), fs::read(&path)?);
    }
    Ok(files)
}

/// Plays the power cut for a node that was killed: of its log only what `disk` holds is left.
///
/// # Errors
/// Its files cannot be written.
pub fn cut(node: &Node, disk: Option<&Image>) -> Result<()> {
    for (path, bytes) in disk.into_iter().flatten() {
        fs::write(path, bytes)?;
    }
    let path = node.data.join("life.json");
    let mut life: serde_json::Value = serde_json::from_slice(&fs::read(&path)?)?;
    ensure!(life["boot_id"].is_string(), "{life}");
    life["boot_id"] = "00000000-0000-0000-0000-000000000000".into();
    Ok(fs::write(&path, life.to_string())?)
}
