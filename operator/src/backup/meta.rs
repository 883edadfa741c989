//! `meta.json` and `verified.json` of a backup: what a restore needs to check, and how far the backup is proved. Pure.
//!
//! ```text
//! meta.json      {"format":"kvnode-backup","format_version":1,"run":..,"cluster":..,"snapshot":{the server's meta.json},
//!                 "object":{"file":"state.bin","size_bytes":..,"sha256":..},"encryption":{..}|null, ..}
//! verified.json  {"format":"kvnode-backup-verified","format_version":1,"meta_sha256":..,"mode":"content","ok":true, ..}
//! ```
//!
//! Invariants
//! - `meta.json` is written once, after the content is wholly stored. What has none is not a backup.
//! - `verified.json` names the `meta.json` that it is about by its SHA-256.
//! - Readers ignore fields that they do not know and refuse a version that they do not know.

use kvnode_api::snapshot::SnapshotMeta;
use ring::digest;
use serde::{Deserialize, Serialize};

use super::layout::{META_FILE, VERIFIED_FILE};
use crate::crd::backup::Verify;

/// Value of [`BackupMeta::format`].
pub const FORMAT: &str = "kvnode-backup";
/// Value of [`VerifiedMark::format`].
pub const VERIFIED_FORMAT: &str = "kvnode-backup-verified";
/// Highest version of both that is read, and the one that is written.
pub const FORMAT_VERSION: u16 = 1;
/// Longest `meta.json` or `verified.json` read.
pub const BYTES_MAX: u64 = 64 * 1024;

/// Content of `meta.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackupMeta {
    /// Always [`FORMAT`].
    pub format: String,
    /// Version of this file.
    pub format_version: u16,
    /// Run that made it: the KvBackup's name.
    pub run: String,
    /// Name of the cluster.
    pub cluster: String,
    /// What the server says of the content: cluster id, term, index, keys, digest, bytes, SHA-256, versions, times.
    pub snapshot: SnapshotMeta,
    /// What is stored.
    pub object: Stored,
    /// How it is encrypted; absent: it is the server's `state.bin` byte for byte.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub encryption: Option<Encryption>,
    /// Pod or address that it was taken from.
    pub source: String,
    /// When the run began, RFC 3339.
    pub started_at: String,
    /// When the content was wholly stored, RFC 3339.
    pub finished_at: String,
    /// Version of the operator that made it.
    pub operator_version: String,
}

/// The object that holds the content.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stored {
    /// Its name beside `meta.json`, never a path.
    pub file: String,
    /// Its bytes.
    pub size_bytes: u64,
    /// SHA-256 of the stored bytes, 64 hex digits.
    pub sha256: String,
}

/// How an object is encrypted; see [`super::crypt`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Encryption {
    /// The only one: [`super::crypt::ALGORITHM`].
    pub algorithm: String,
    /// Tells keys apart without giving anything of them away, 16 hex digits.
    pub key_id: String,
}

/// Content of `verified.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VerifiedMark {
    /// Always [`VERIFIED_FORMAT`].
    pub format: String,
    /// Version of this file.
    pub format_version: u16,
    /// SHA-256 of the `meta.json` that was checked against, 64 hex digits.
    pub meta_sha256: String,
    /// How it was proved.
    pub mode: Verify,
    /// Whether everything agreed.
    pub ok: bool,
    /// What did not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// When, RFC 3339.
    pub at: String,
    /// Keys counted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keys: Option<u64>,
    /// Version of the server that loaded it (`Restore`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server_version: Option<String>,
}

impl BackupMeta {
    /// Reads and checks a `meta.json`.
    ///
    /// # Errors
    /// What is wrong with it, one line.
    pub fn read(bytes: &[u8]) -> Result<Self, String> {
        let meta: Self = read(bytes, META_FILE, FORMAT)?;
        if !is_file_name(&meta.object.file) {
            return Err(format!(
                "{META_FILE} names the object {:?}, which is no file beside it",
                meta.object.file
            ));
        }
        if !is_sha256(&meta.object.sha256) || !is_sha256(&meta.snapshot.sha256) {
            return Err(format!("{META_FILE} holds a SHA-256 that is none"));
        }
        Ok(meta)
    }

    /// The bytes of `meta.json`.
    #[must_use]
    pub fn write(&self) -> Vec<u8> {
        written(self)
    }

    /// When the snapshot was begun, Unix ms.
    #[must_use]
    pub fn created_ms(&self) -> i64 {
        i64::try_from(self.snapshot.created_at_ms).unwrap_or(i64::MAX)
    }
}

impl VerifiedMark {
    /// A mark for the `meta.json` with these bytes.
    #[must_use]
    pub fn new(meta: &[u8], mode: Verify, result: Result<u64, String>, at: jiff::Timestamp) -> Self {
        let (keys, error) = match result {
            Ok(keys) => (Some(keys), None),
            Err(error) => (None, Some(error)),
        };
        Self {
            format: VERIFIED_FORMAT.into(),
            format_version: FORMAT_VERSION,
            meta_sha256: sha256(meta),
            mode,
            ok: error.is_none(),
            error,
            at: at.to_string(),
            keys,
            server_version: None,
        }
    }

    /// Reads a `verified.json`; `None` if it is not about the `meta.json` with these bytes.
    ///
    /// # Errors
    /// What is wrong with it, one line.
    pub fn read(bytes: &[u8], meta: &[u8]) -> Result<Option<Self>, String> {
        let mark: Self = read(bytes, VERIFIED_FILE, VERIFIED_FORMAT)?;
        Ok((mark.meta_sha256 == sha256(meta)).then_some(mark))
    }

    /// The bytes of `verified.json`.
    #[must_use]
    pub fn write(&self) -> Vec<u8> {
        written(self)
    }
}

fn written<T: Serialize>(value: &T) -> Vec<u8> {
    // Structs of numbers and strings: serialising them cannot fail.
    let mut bytes = serde_json::to_vec_pretty(value).unwrap_or_default();
    bytes.push(b'\n');
    bytes
}

fn read<T: for<'a> Deserialize<'a>>(bytes: &[u8], file: &str, format: &str) -> Result<T, String> {
    let value: serde_json::Value =
        serde_json::from_slice(bytes).map_err(|error| format!("{file} cannot be read: {error}"))?;
    if value.get("format").and_then(serde_json::Value::as_str) != Some(format) {
        return Err(format!("{file} is not of the format {format}"));
    }
    let version = value.get("format_version").and_then(serde_json::Value::as_u64).unwrap_or(0);
    if version != u64::from(FORMAT_VERSION) {
        return Err(format!("{file} has version {version}, this operator reads {FORMAT_VERSION}"));
    }
    serde_json::from_value(value).map_err(|error| format!("{file} cannot be read: {error}"))
}

/// One path segment that is neither empty nor a step.
fn is_file_name(name: &str) -> bool {
    let good = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
    !name.is_empty() && name.bytes().all(good) && !name.starts_with('.') && name != META_FILE
}

fn is_sha256(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
}

/// SHA-256 as 64 hex digits.
#[must_use]
pub fn sha256(bytes: &[u8]) -> String {
    hex(digest::digest(&digest::SHA256, bytes).as_ref())
}

/// Lower-case hex text.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A file as version 0.1.0 writes it; later versions must read it.
    const V1: &str = include_str!("golden/meta-v1.json");

    pub(crate) fn sample() -> BackupMeta {
        BackupMeta::read(V1.as_bytes()).unwrap()
    }

    #[test]
    fn version_1_is_read_and_written_unchanged() {
        let meta = sample();
        assert_eq!(meta.snapshot.keys_total(), 3);
        assert_eq!(meta.created_ms(), 1_795_332_236_779);
        assert_eq!(String::from_utf8(meta.write()).unwrap(), V1);
    }

    #[test]
    fn what_is_not_ours_is_refused_and_unknown_fields_are_not() {
        let more = V1.replacen("\"run\"", "\"later\": [1], \"run\"", 1);
        assert_eq!(BackupMeta::read(more.as_bytes()).unwrap(), sample());
        for (from, to, says) in [
            ("kvnode-backup", "other", "format"),
            ("\"format_version\": 1,\n  \"run\"", "\"format_version\": 2,\n  \"run\"", "version 2"),
            ("\"file\": \"state.bin\"", "\"file\": \"../x\"", "no file"),
            ("\"file\": \"state.bin\"", "\"file\": \"meta.json\"", "no file"),
            ("\"file\": \"state.bin\"", "\"file\": \"..\"", "no file"),
            ("\"sha256\": \"e3", "\"sha256\": \"E3", "none"),
        ] {
            assert!(V1.contains(from), "{from}");
            let error = BackupMeta::read(V1.replacen(from, to, 1).as_bytes()).unwrap_err();
            assert!(error.contains(says), "{to}: {error}");
        }
        assert!(BackupMeta::read(b"{").is_err());
    }

    #[test]
    fn a_mark_belongs_to_one_meta_json() {
        let now = "2026-11-22T13:05:00Z".parse().unwrap();
        let mark = VerifiedMark::new(V1.as_bytes(), Verify::Content, Ok(3), now);
        let bytes = mark.write();
        assert_eq!(VerifiedMark::read(&bytes, V1.as_bytes()), Ok(Some(mark)));
        assert_eq!(VerifiedMark::read(&bytes, b"another"), Ok(None));
        let bad = VerifiedMark::new(V1.as_bytes(), Verify::Content, Err("a byte differs".into()), now);
        assert!(!bad.ok && bad.error.is_some());
    }
}
