//! Encryption of a backup before it leaves: a stream of authenticated chunks, so that nothing unproved is ever read.
//!
//! ```text
//! object = header, chunk*                                        all numbers big endian
//!
//! header, 64 bytes: it is the associated data of every chunk
//!   0  8  magic     'K' 'V' 'E' 'N' 'C' 0d 0a 1a
//!   8  2  version   1
//!  10  6  zero
//!  16  8  key id    HKDF-SHA256(key, salt = "kvnode backup key id"): tells a wrong key from a changed byte
//!  24 32  salt      random for each object
//!  56  8  zero
//!
//! chunk: up to 65,536 bytes under AES-256-GCM, and its tag of 16 bytes
//!   key    HKDF-SHA256(key, salt, info = "kvnode backup v1"): of this object alone
//!   nonce  number of the chunk (8), zero (3), 1 for the last chunk, else 0 (1)
//! ```
//!
//! This is the STREAM construction (Hoang, Reyhanitabar, Rogaway, Vizár 2015): a chunk that is changed, moved, repeated
//! or missing, and an end that is cut off, are each an error at that place. Every chunk but the last is full.
//!
//! Invariant: no byte of a chunk is given out before its tag was checked.

use bytes::{Bytes, BytesMut};
use rand::RngExt as _;
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use ring::hkdf::{HKDF_SHA256, KeyType, Salt};

use super::meta::hex;

/// Value of [`super::meta::Encryption::algorithm`].
pub const ALGORITHM: &str = "AES-256-GCM-STREAM-64K";

const MAGIC: [u8; 8] = *b"KVENC\r\n\x1a";
const VERSION: u16 = 1;
const HEADER_BYTES: usize = 64;
const CHUNK_BYTES: usize = 64 * 1024;
const TAG_BYTES: usize = 16;
const KEY_BYTES: usize = 32;

/// A key of 256 bits.
#[derive(Clone, PartialEq, Eq)]
pub struct Key([u8; KEY_BYTES]);

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Key({})", self.id())
    }
}

struct Length(usize);

impl KeyType for Length {
    fn len(&self) -> usize {
        self.0
    }
}

fn derive<const N: usize>(key: &Key, salt: &[u8], info: &[u8]) -> [u8; N] {
    let mut out = [0; N];
    let prk = Salt::new(HKDF_SHA256, salt).extract(&key.0);
    // Both fail only for lengths above 255 hashes; ours are 8 and 32.
    if let Ok(okm) = prk.expand(&[info], Length(N)) {
        let _ = okm.fill(&mut out);
    }
    out
}

impl Key {
    /// Reads a key: 32 raw bytes, 64 hex digits, or 44 characters of base64; one line end behind the latter two does
    /// not count.
    ///
    /// # Errors
    /// What is expected. A passphrase is refused: it would need stretching, and one can make a key by
    /// `openssl rand -hex 32`.
    pub fn read(bytes: &[u8]) -> Result<Self, String> {
        if let Ok(raw) = bytes.try_into() {
            return Ok(Self(raw));
        }
        let text = std::str::from_utf8(bytes).unwrap_or_default().trim();
        let decoded = match text.len() {
            64 => (0..64).step_by(2).map(|at| u8::from_str_radix(text.get(at..at + 2)?, 16).ok()).collect(),
            44 => aws_smithy_types::base64::decode(text).ok(),
            _ => None,
        };
        let decoded: Option<Vec<u8>> = decoded;
        decoded.and_then(|raw| raw.try_into().ok()).map(Self).ok_or_else(|| {
            "the key must be 32 bytes: raw, as 64 hex digits (openssl rand -hex 32) or in base64".to_owned()
        })
    }

    /// Tells keys apart, 16 hex digits.
    #[must_use]
    pub fn id(&self) -> String {
        hex(&derive::<8>(self, b"kvnode backup key id", b""))
    }

    fn of_object(&self, salt: &[u8]) -> Option<LessSafeKey> {
        let bytes = derive::<KEY_BYTES>(self, salt, b"kvnode backup v1");
        UnboundKey::new(&AES_256_GCM, &bytes).ok().map(LessSafeKey::new)
    }
}

/// Bytes of the object for a content of `plain` bytes.
#[must_use]
pub fn stored_bytes(plain: u64) -> u64 {
    let chunks = plain.div_ceil(CHUNK_BYTES as u64).max(1);
    HEADER_BYTES as u64 + plain + chunks * TAG_BYTES as u64
}

fn nonce(number: u64, last: bool) -> Nonce {
    let mut bytes = [0; 12];
    bytes[..8].copy_from_slice(&number.to_be_bytes());
    bytes[11] = u8::from(last);
    Nonce::assume_unique_for_key(bytes)
}

/// Encrypts a stream.
pub struct Sealer {
    key: LessSafeKey,
    header: [u8; HEADER_BYTES],
    buffer: BytesMut,
    number: u64,
    begun: bool,
}

impl Sealer {
    /// A stream under a fresh salt.
    ///
    /// # Errors
    /// Never for a 256-bit key; an error rather than a panic all the same.
    pub fn new(key: &Key) -> Result<Self, String> {
        Self::with_salt(key, rand::rng().random())
    }

    fn with_salt(key: &Key, salt: [u8; 32]) -> Result<Self, String> {
        let mut header = [0; HEADER_BYTES];
        header[..8].copy_from_slice(&MAGIC);
        header[8..10].copy_from_slice(&VERSION.to_be_bytes());
        header[16..24].copy_from_slice(&derive::<8>(key, b"kvnode backup key id", b""));
        header[24..56].copy_from_slice(&salt);
        let key = key.of_object(&salt).ok_or("the key cannot be used")?;
        Ok(Self { key, header, buffer: BytesMut::new(), number: 0, begun: false })
    }

    /// Takes plain bytes, gives what is ready of the object.
    ///
    /// # Errors
    /// Never in practice: AES-GCM fails for chunks above 64 GiB only.
    pub fn push(&mut self, plain: &[u8]) -> Result<Bytes, String> {
        let mut out = BytesMut::new();
        self.begin(&mut out);
        self.buffer.extend_from_slice(plain);
        // One chunk is held back: it may be the last.
        while self.buffer.len() > CHUNK_BYTES {
            let chunk = self.buffer.split_to(CHUNK_BYTES);
            self.seal(chunk, false, &mut out)?;
        }
        Ok(out.freeze())
    }

    /// Gives the rest of the object.
    ///
    /// # Errors
    /// As [`Sealer::push`].
    pub fn finish(mut self) -> Result<Bytes, String> {
        let mut out = BytesMut::new();
        self.begin(&mut out);
        let chunk = self.buffer.split();
        self.seal(chunk, true, &mut out)?;
        Ok(out.freeze())
    }

    fn begin(&mut self, out: &mut BytesMut) {
        if !std::mem::replace(&mut self.begun, true) {
            out.extend_from_slice(&self.header);
        }
    }

    fn seal(&mut self, mut chunk: BytesMut, last: bool, out: &mut BytesMut) -> Result<(), String> {
        let nonce = nonce(self.number, last);
        self.number += 1;
        let tag = self
            .key
            .seal_in_place_separate_tag(nonce, Aad::from(self.header), &mut chunk)
            .map_err(|_| "encryption failed")?;
        out.extend_from_slice(&chunk);
        out.extend_from_slice(tag.as_ref());
        Ok(())
    }
}

/// Decrypts a stream.
pub struct Opener {
    key: Key,
    open: Option<(LessSafeKey, [u8; HEADER_BYTES])>,
    buffer: BytesMut,
    number: u64,
}

impl Opener {
    /// A stream under this key.
    #[must_use]
    pub fn new(key: Key) -> Self {
        Self { key, open: None, buffer: BytesMut::new(), number: 0 }
    }

    /// Takes stored bytes, gives the plain bytes that are proved.
    ///
    /// # Errors
    /// A wrong key, a changed byte, an object that is none of ours; told apart in words.
    pub fn push(&mut self, stored: &[u8]) -> Result<Bytes, String> {
        self.buffer.extend_from_slice(stored);
        if self.open.is_none() && self.buffer.len() >= HEADER_BYTES {
            self.begin()?;
        }
        let mut out = BytesMut::new();
        while self.open.is_some() && self.buffer.len() > CHUNK_BYTES + TAG_BYTES {
            let chunk = self.buffer.split_to(CHUNK_BYTES + TAG_BYTES);
            self.unseal(chunk, false, &mut out)?;
        }
        Ok(out.freeze())
    }

    /// Gives the rest, once all stored bytes were pushed.
    ///
    /// # Errors
    /// As [`Opener::push`], and an end that is cut off.
    pub fn finish(mut self) -> Result<Bytes, String> {
        if self.open.is_none() || self.buffer.len() < TAG_BYTES {
            return Err("the encrypted object is cut off".into());
        }
        let mut out = BytesMut::new();
        let chunk = self.buffer.split();
        self.unseal(chunk, true, &mut out)?;
        Ok(out.freeze())
    }

    fn begin(&mut self) -> Result<(), String> {
        let mut header = [0; HEADER_BYTES];
        header.copy_from_slice(&self.buffer.split_to(HEADER_BYTES));
        if header[..8] != MAGIC {
            return Err("the object is not encrypted by kvnode-operator".into());
        }
        let version = u16::from_be_bytes([header[8], header[9]]);
        if version != VERSION {
            return Err(format!("encryption version {version} is not known here"));
        }
        let (wanted, given) = (hex(&header[16..24]), self.key.id());
        if wanted != given {
            return Err(format!("wrong key: the object needs key {wanted}, this is key {given}"));
        }
        let key = self.key.of_object(&header[24..56]).ok_or("the key cannot be used")?;
        self.open = Some((key, header));
        Ok(())
    }

    fn unseal(&mut self, mut chunk: BytesMut, last: bool, out: &mut BytesMut) -> Result<(), String> {
        let Some((key, header)) = &self.open else { return Err("the encrypted object has no header".into()) };
        let number = self.number;
        self.number += 1;
        let plain = key.open_in_place(nonce(number, last), Aad::from(*header), &mut chunk);
        let plain =
            plain.map_err(|_| format!("chunk {number} of the encrypted object was changed or cut off"))?;
        out.extend_from_slice(plain);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn key(byte: u8) -> Key {
        Key([byte; KEY_BYTES])
    }

    fn seal(plain: &[u8], step: usize) -> Vec<u8> {
        let mut sealer = Sealer::with_salt(&key(7), [9; 32]).unwrap();
        let mut out = Vec::new();
        plain.chunks(step).for_each(|part| out.extend_from_slice(&sealer.push(part).unwrap()));
        out.extend_from_slice(&sealer.finish().unwrap());
        out
    }

    fn open(stored: &[u8], key: Key, step: usize) -> Result<Vec<u8>, String> {
        let mut opener = Opener::new(key);
        let mut out = Vec::new();
        for part in stored.chunks(step) {
            out.extend_from_slice(&opener.push(part)?);
        }
        out.extend_from_slice(&opener.finish()?);
        Ok(out)
    }

    fn plain(length: usize) -> Vec<u8> {
        (0..length).map(|at| u8::try_from(at % 251).unwrap()).collect()
    }

    #[test]
    fn every_length_around_a_chunk_comes_back_whatever_the_steps() {
        for length in [0, 1, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1, 2 * CHUNK_BYTES, 200_000] {
            let plain = plain(length);
            let stored = seal(&plain, 10_000);
            assert_eq!(stored, seal(&plain, 77_777), "the steps leave no trace");
            assert_eq!(stored.len() as u64, stored_bytes(length as u64));
            for step in [1_000, CHUNK_BYTES + TAG_BYTES, 1_000_000] {
                assert_eq!(open(&stored, key(7), step).unwrap(), plain);
            }
        }
    }

    #[test]
    fn the_format_stays() {
        // Objects of version 0.1.0 must stay readable: any change of key, nonce or header derivation shows here.
        let stored = seal(b"kvnode", 6);
        assert_eq!(super::super::meta::sha256(&stored), include_str!("golden/crypt-v1.sha256").trim());
    }

    #[test]
    fn a_wrong_key_is_told_from_a_changed_byte() {
        let stored = seal(&plain(100_000), 1000);
        assert!(open(&stored, key(8), 4096).unwrap_err().starts_with("wrong key"));
        let mut changed = stored.clone();
        changed[70_000] ^= 1;
        assert!(open(&changed, key(7), 4096).unwrap_err().contains("chunk 1"));
        assert!(open(b"KVNS", key(7), 4).unwrap_err().contains("cut off"));
        assert!(open(&[0; 100], key(7), 4).unwrap_err().contains("not encrypted"));
    }

    #[test]
    fn chunks_that_are_moved_or_missing_are_found() {
        let stored = seal(&plain(3 * CHUNK_BYTES), 1000);
        let size = CHUNK_BYTES + TAG_BYTES;
        let chunk = |number: usize| &stored[HEADER_BYTES + number * size..][..size];
        let header = &stored[..HEADER_BYTES];
        let swapped = [header, chunk(1), chunk(0), chunk(2)].concat();
        let cut = [header, chunk(0), chunk(1)].concat();
        let doubled = [header, chunk(0), chunk(0), chunk(1), chunk(2)].concat();
        let longer = [&stored[..], chunk(2)].concat();
        for wrong in [swapped, cut, doubled, longer] {
            assert!(open(&wrong, key(7), 50_000).is_err());
        }
    }

    #[test]
    fn keys_are_read_in_three_forms() {
        let raw = [0xab; 32];
        let base64 = aws_smithy_types::base64::encode(raw);
        for form in [raw.to_vec(), format!("{}\n", "ab".repeat(32)).into_bytes(), base64.into_bytes()] {
            assert_eq!(Key::read(&form).unwrap(), Key(raw));
        }
        for wrong in ["", "correct horse battery staple", &"zz".repeat(32), &"ab".repeat(31)] {
            assert!(Key::read(wrong.as_bytes()).is_err(), "{wrong}");
        }
        assert!(!format!("{:?}", key(1)).contains("0101"), "a key is not printed");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]
        #[test]
        fn any_changed_or_cut_byte_is_an_error(at in 0_usize..140_000, flip in 1_u8..=255, cut: bool) {
            let stored = seal(&plain(140_000), 140_000);
            let at = at % stored.len();
            let changed = if cut { stored[..at].to_vec() } else {
                let mut changed = stored;
                changed[at] ^= flip;
                changed
            };
            prop_assert!(open(&changed, key(7), 65_000).is_err());
        }
    }
}
