//! Reads the files of kvnode's ancestor (v0.1.0 of the Go program), for ever. Nothing here writes them.
//!
//! ```text
//! state.bin   gzip of record*                        no header, count, checksum per record, or end mark of its own
//! record      8 key length, key, 8 value length, value           little endian; a user key begins with the byte 'k'
//! meta.json   {"ID":"1-1437-1795332236779","Index":1437,"Term":1,"Peers":"…","Size":57419,"CRC":"Gk7dxNuvCs0="}
//!             CRC = base64 of the big-endian CRC-64/XZ of the compressed file, Size = its bytes
//! ```
//!
//! What proves the content is gzip's own CRC-32 and length at the end of the stream, and meta.json where it is present.

use std::io::{self, BufRead, Read};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use flate2::bufread::GzDecoder;
use serde::{Deserialize, Serialize};

use super::SnapshotError;
use super::format::FIELD_BYTES_MAX;
use crate::store::{Record, TypeTag};

/// First two bytes of a gzip file.
pub(super) const GZIP_MAGIC: [u8; 2] = [0x1f, 0x8b];
/// First byte of a user key.
const USER_KEY: u8 = b'k';

/// The ancestor's `meta.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct AncestorMeta {
    /// Name of the directory, `<term>-<index>-<unix ms>`.
    #[serde(rename = "ID")]
    pub id: String,
    /// Index of the last entry contained.
    pub index: u64,
    /// Its term.
    pub term: u64,
    /// Base64 of a msgpack array of addresses; of no use in a new cluster.
    pub peers: String,
    /// Bytes of `state.bin`.
    pub size: u64,
    /// Base64 of the big-endian CRC-64/XZ of `state.bin`.
    #[serde(rename = "CRC")]
    pub crc: String,
}

impl AncestorMeta {
    /// The checksum as a number; `None` if the text is not base64 of eight bytes.
    #[must_use]
    pub fn crc64(&self) -> Option<u64> {
        // Eight bytes are eleven base64 digits and one '='; the last digit carries two zero bits.
        let digits = self.crc.strip_suffix('=')?;
        if digits.len() != 11 {
            return None;
        }
        let mut bits = 0u128;
        for digit in digits.bytes() {
            let six = match digit {
                b'A'..=b'Z' => digit - b'A',
                b'a'..=b'z' => digit - b'a' + 26,
                b'0'..=b'9' => digit - b'0' + 52,
                b'+' => 62,
                b'/' => 63,
                _ => return None,
            };
            bits = bits << 6 | u128::from(six);
        }
        u64::try_from(bits >> 2).ok().filter(|_| bits.trailing_zeros() >= 2)
    }
}

/// All user records of an ancestor's `state.bin`, in the file's order, as strings of database 0 without deadlines.
///
/// Keys without the leading `k` are no user keys: they are counted and skipped; who wants to be strict asks
/// [`AncestorReader::foreign`] at the end. The iterator ends with `None` only after gzip's checksum and length were
/// found to fit and the input ended behind them. After an `Err` it ends.
pub struct AncestorReader<R> {
    input: GzDecoder<R>,
    path: PathBuf,
    offset: u64,
    foreign: u64,
    ended: bool,
}

impl<R: BufRead> AncestorReader<R> {
    /// `path` names the input in errors.
    pub fn new(input: R, path: &Path) -> Self {
        Self { input: GzDecoder::new(input), path: path.to_owned(), offset: 0, foreign: 0, ended: false }
    }

    /// Keys skipped so far because they are no user keys.
    #[must_use]
    pub fn foreign(&self) -> u64 {
        self.foreign
    }

    /// Bytes of the uncompressed stream read so far.
    #[must_use]
    pub fn raw_bytes(&self) -> u64 {
        self.offset
    }

    pub(super) fn into_input(self) -> R {
        self.input.into_inner()
    }

    fn damaged(&self, what: impl Into<String>) -> SnapshotError {
        SnapshotError::damaged(&self.path, self.offset, what)
    }

    /// Tells damage, which the decoder reports as an I/O error, from an error of the disk.
    fn error(&self, error: io::Error) -> SnapshotError {
        match error.kind() {
            io::ErrorKind::UnexpectedEof => self.damaged("the gzip stream ends too early"),
            io::ErrorKind::InvalidData | io::ErrorKind::InvalidInput => {
                self.damaged(format!("the gzip stream is wrong: {error}"))
            }
            _ => SnapshotError::Io { doing: "read", path: self.path.clone(), source: error },
        }
    }

    /// Reads up to `n` bytes of the stream; memory grows with what arrives, not with `n`.
    fn fill(&mut self, n: u64) -> Result<Vec<u8>, SnapshotError> {
        let mut bytes = Vec::new();
        self.input.by_ref().take(n).read_to_end(&mut bytes).map_err(|error| self.error(error))?;
        self.offset += bytes.len() as u64;
        Ok(bytes)
    }

    /// A field behind its length; `None` at the clean end of the stream.
    fn field(&mut self, name: &str) -> Result<Option<Bytes>, SnapshotError> {
        let length = self.fill(8)?;
        let length = match <[u8; 8]>::try_from(&*length) {
            Ok(length) => u64::from_le_bytes(length),
            Err(_) if length.is_empty() => return Ok(None),
            Err(_) => return Err(self.damaged(format!("the stream ends inside a {name} length"))),
        };
        if length > FIELD_BYTES_MAX as u64 + 1 {
            return Err(self.damaged(format!("a {name} of {length} bytes is announced")));
        }
        let field = self.fill(length)?;
        if (field.len() as u64) < length {
            return Err(self.damaged(format!("the stream ends inside a {name}")));
        }
        Ok(Some(field.into()))
    }

    fn next_record(&mut self) -> Result<Option<Record>, SnapshotError> {
        loop {
            let Some(mut key) = self.field("key")? else {
                // The decoder has checked its own trailer on the way to this end.
                let rest = self.input.get_mut().fill_buf().map_err(SnapshotError::io("read", &self.path))?;
                return if rest.is_empty() {
                    Ok(None)
                } else {
                    Err(self.damaged("more bytes follow behind the gzip stream"))
                };
            };
            let Some(value) = self.field("value")? else {
                return Err(self.damaged("the stream ends behind a key"));
            };
            if key.first() == Some(&USER_KEY) {
                let key = key.split_off(1);
                return Ok(Some(Record { db: 0, key, tag: TypeTag::String, deadline: None, value }));
            }
            self.foreign += 1;
        }
    }
}

impl<R: BufRead> Iterator for AncestorReader<R> {
    type Item = Result<Record, SnapshotError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.ended {
            return None;
        }
        let next = self.next_record().transpose();
        self.ended = !matches!(next, Some(Ok(_)));
        next
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn meta(crc: &str) -> AncestorMeta {
        let text = format!(
            r#"{{"ID":"1-1437-1795332236779","Index":1437,"Term":1,"Peers":"ka8xMjcuMC4wLjE6MTQ5MjA=","Size":57419,"CRC":"{crc}"}}"#
        );
        serde_json::from_str(&text).unwrap()
    }

    #[test]
    fn the_checksum_is_read_from_base64() {
        assert_eq!(meta("Gk7dxNuvCs0=").crc64(), Some(0x1a4e_ddc4_dbaf_0acd));
        assert_eq!(meta("//////////8=").crc64(), Some(u64::MAX));
        for wrong in ["", "=", "Gk7dxNuvCs0", "Gk7dxNuvCs1=", "Gk7dxNuvC0=", "Gk7dxNuv*s0="] {
            assert_eq!(meta(wrong).crc64(), None, "{wrong}");
        }
    }
}
