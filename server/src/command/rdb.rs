//! One string in the form in which Redis moves values between servers: what DUMP gives and RESTORE takes.
//!
//! ```text
//! payload   type u8 = 0 (string) | string | RDB version u16 le | CRC-64 u64 le of all before it
//! string    00llllll                            that many bytes
//!           01llllll l                          length of 14 bits, high byte first
//!           0x80 l l l l                        length of 32 bits, high byte first
//!           0x81 l l l l l l l l                length of 64 bits, high byte first
//!           0xc0 i8 | 0xc1 i16 le | 0xc2 i32 le a number, told as its decimal text
//!           0xc3 length, length, bytes          LZF: compressed and whole length
//! ```
//!
//! Source: Redis' RDB file format; the CRC is the one of Jones (reflected, polynomial 0xad93d23594c935a9, no inversion).
//!
//! Invariants
//! - What is written is read by Redis 7.0 and everything later, and is what Redis 7.0 itself writes, but for LZF, which
//!   is read and never written.
//! - Reading never allocates by an announced length: an expansion grows as its bytes come and ends at its limit.

use bytes::Bytes;

use super::args::strict_int;

/// RDB version that is written: that of Redis 7.0. Any is read: a version adds types and never changed the string.
const VERSION: u16 = 10;
/// Version and checksum.
const FOOTER: usize = 2 + 8;
/// Type byte of a string.
const STRING: u8 = 0;
/// The longest decimal text that is tried as a number, as Redis does.
const NUMBER_BYTES_MAX: usize = 11;

/// Why a payload is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Too short, or damaged on the way.
    Checksum,
    /// Whole, and not one string.
    Format,
    /// Whole, of another type; there are strings only.
    Type(u8),
    /// The value would be larger than the limit.
    TooLong,
}

/// The payload of a value.
#[must_use]
pub fn dump(value: &[u8]) -> Bytes {
    let mut out = Vec::with_capacity(value.len() + 1 + 9 + FOOTER);
    out.push(STRING);
    if let Some(number) = small_number(value) {
        put_number(&mut out, number);
    } else {
        put_length(&mut out, value.len());
        out.extend_from_slice(value);
    }
    out.extend_from_slice(&VERSION.to_le_bytes());
    let sum = crc64(&out);
    out.extend_from_slice(&sum.to_le_bytes());
    out.into()
}

fn small_number(value: &[u8]) -> Option<i32> {
    let number = (value.len() <= NUMBER_BYTES_MAX).then(|| strict_int(value)).flatten()?;
    i32::try_from(number).ok()
}

fn put_number(out: &mut Vec<u8>, number: i32) {
    if let Ok(number) = i8::try_from(number) {
        out.push(0xc0);
        out.extend_from_slice(&number.to_le_bytes());
    } else if let Ok(number) = i16::try_from(number) {
        out.push(0xc1);
        out.extend_from_slice(&number.to_le_bytes());
    } else {
        out.push(0xc2);
        out.extend_from_slice(&number.to_le_bytes());
    }
}

#[expect(clippy::cast_possible_truncation, reason = "each branch has checked the size")]
fn put_length(out: &mut Vec<u8>, length: usize) {
    if length < 1 << 6 {
        out.push(length as u8);
    } else if length < 1 << 14 {
        out.extend_from_slice(&(0x4000 | length as u16).to_be_bytes());
    } else if let Ok(length) = u32::try_from(length) {
        out.push(0x80);
        out.extend_from_slice(&length.to_be_bytes());
    } else {
        out.push(0x81);
        out.extend_from_slice(&(length as u64).to_be_bytes());
    }
}

/// The value of a payload; a slice of it where it is not a number and not compressed.
///
/// # Errors
/// [`Refusal`].
pub fn load(payload: &Bytes, value_bytes_max: u64) -> Result<Bytes, Refusal> {
    let end = payload.len().checked_sub(FOOTER).ok_or(Refusal::Checksum)?;
    let footer = payload.get(end..).unwrap_or_default();
    let (_version, sum) = footer.split_at_checked(2).ok_or(Refusal::Checksum)?;
    if crc64(payload.get(..end + 2).unwrap_or_default()).to_le_bytes() != sum {
        return Err(Refusal::Checksum);
    }
    let mut rest = payload.slice(..end);
    match take(&mut rest, 1)?.first() {
        Some(&STRING) => {}
        Some(other) => return Err(Refusal::Type(*other)),
        None => return Err(Refusal::Format),
    }
    let value = take_string(&mut rest, value_bytes_max)?;
    if rest.is_empty() { Ok(value) } else { Err(Refusal::Format) }
}

fn take(rest: &mut Bytes, length: usize) -> Result<Bytes, Refusal> {
    if length > rest.len() { Err(Refusal::Format) } else { Ok(rest.split_to(length)) }
}

fn take_array<const N: usize>(rest: &mut Bytes) -> Result<[u8; N], Refusal> {
    take(rest, N)?[..].try_into().map_err(|_| Refusal::Format)
}

/// What stands before a string.
enum Head {
    Length(u64),
    /// One of the encodings of a string, by its number.
    Encoded(u8),
}

fn take_head(rest: &mut Bytes) -> Result<Head, Refusal> {
    let [first] = take_array(rest)?;
    Ok(match (first >> 6, first) {
        (0, _) => Head::Length(u64::from(first)),
        (1, _) => {
            let [low] = take_array(rest)?;
            Head::Length(u64::from(first & 0x3f) << 8 | u64::from(low))
        }
        (2, 0x80) => Head::Length(u64::from(u32::from_be_bytes(take_array(rest)?))),
        (2, 0x81) => Head::Length(u64::from_be_bytes(take_array(rest)?)),
        (2, _) => return Err(Refusal::Format),
        (_, _) => Head::Encoded(first & 0x3f),
    })
}

fn take_length(rest: &mut Bytes) -> Result<usize, Refusal> {
    match take_head(rest)? {
        Head::Length(length) => usize::try_from(length).map_err(|_| Refusal::Format),
        Head::Encoded(_) => Err(Refusal::Format),
    }
}

fn take_string(rest: &mut Bytes, value_bytes_max: u64) -> Result<Bytes, Refusal> {
    let number = |number: i32| Ok(Bytes::from(number.to_string()));
    match take_head(rest)? {
        Head::Length(length) => {
            let length = usize::try_from(length).map_err(|_| Refusal::Format)?;
            let value = take(rest, length)?;
            if length as u64 > value_bytes_max { Err(Refusal::TooLong) } else { Ok(value) }
        }
        Head::Encoded(0) => number(i8::from_le_bytes(take_array(rest)?).into()),
        Head::Encoded(1) => number(i16::from_le_bytes(take_array(rest)?).into()),
        Head::Encoded(2) => number(i32::from_le_bytes(take_array(rest)?)),
        Head::Encoded(3) => {
            let (packed, length) = (take_length(rest)?, take_length(rest)?);
            let packed = take(rest, packed)?;
            if length as u64 > value_bytes_max {
                return Err(Refusal::TooLong);
            }
            expand(&packed, length).ok_or(Refusal::Format).map(Bytes::from)
        }
        Head::Encoded(_) => Err(Refusal::Format),
    }
}

/// Expands LZF to exactly `length` bytes.
///
/// ```text
/// 000nnnnn                       n + 1 bytes follow as they are
/// nnnooooo o                     n + 2 bytes as they stand o + 1 back, n from 1 to 6
/// 111ooooo n o                   the same of n + 9 bytes
/// ```
fn expand(packed: &[u8], length: usize) -> Option<Vec<u8>> {
    let mut out: Vec<u8> = Vec::with_capacity(length.min(packed.len()));
    let mut bytes = packed.iter();
    while let Some(&control) = bytes.next() {
        let count = usize::from(control >> 5);
        if count == 0 {
            let count = usize::from(control) + 1;
            let literal = bytes.as_slice().get(..count)?;
            out.extend_from_slice(literal);
            bytes.nth(count - 1)?;
        } else {
            let count = if count == 7 { 9 + usize::from(*bytes.next()?) } else { count + 2 };
            let back = (usize::from(control & 0x1f) << 8 | usize::from(*bytes.next()?)) + 1;
            let begin = out.len().checked_sub(back)?;
            for from in begin..begin + count {
                // It may overlap with what it writes.
                out.push(*out.get(from)?);
            }
        }
        if out.len() > length {
            return None;
        }
    }
    (out.len() == length).then_some(out)
}

/// Eight bytes at a time: table `k` is a byte followed by `k` zeros.
static TABLES: [[u64; 256]; 8] = tables();

#[expect(clippy::indexing_slicing, reason = "evaluated at compile time")]
const fn tables() -> [[u64; 256]; 8] {
    // The polynomial with its bits in reverse.
    const POLYNOMIAL: u64 = 0x95ac_9329_ac4b_c9b5;
    let mut tables = [[0; 256]; 8];
    let mut byte = 0;
    while byte < 256 {
        let mut crc = byte as u64;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 1 == 0 { crc >> 1 } else { (crc >> 1) ^ POLYNOMIAL };
            bit += 1;
        }
        tables[0][byte] = crc;
        byte += 1;
    }
    let mut table = 1;
    while table < 8 {
        let mut byte = 0;
        while byte < 256 {
            let before = tables[table - 1][byte];
            tables[table][byte] = tables[0][(before & 0xff) as usize] ^ (before >> 8);
            byte += 1;
        }
        table += 1;
    }
    tables
}

#[expect(clippy::indexing_slicing, reason = "a byte indexes 256 entries, eight bytes eight tables")]
fn crc64(bytes: &[u8]) -> u64 {
    let (eights, rest) = bytes.as_chunks::<8>();
    let crc = eights.iter().fold(0_u64, |crc, eight| {
        let mixed = (crc ^ u64::from_le_bytes(*eight)).to_le_bytes();
        (0..8).fold(0, |sum, at| sum ^ TABLES[7 - at][usize::from(mixed[at])])
    });
    rest.iter().fold(crc, |crc, byte| TABLES[0][usize::from(crc.to_le_bytes()[0] ^ byte)] ^ (crc >> 8))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MAX: u64 = 1 << 20;

    /// What redis-server 7.0.15 gave for DUMP of these values.
    const GOLDEN: [(&[u8], &[u8]); 5] = [
        (b"hello", b"\x00\x05\x68\x65\x6c\x6c\x6f\x0a\x00\x63\x72\xdf\x76\x65\x34\x20\x0a"),
        (b"123", b"\x00\xc0\x7b\x0a\x00\x48\xe2\x53\xe1\x00\x7a\x67\xb9"),
        (b"-70000", b"\x00\xc2\x90\xee\xfe\xff\x0a\x00\x28\x75\xde\x7b\x13\xeb\x28\x00"),
        (b"3000", b"\x00\xc1\xb8\x0b\x0a\x00\xa1\x13\xc6\xf3\xde\x2b\x84\x03"),
        (b"", b"\x00\x00\x0a\x00\x5d\x9b\x5c\x40\x0f\x7f\xa2\xda"),
    ];

    /// A payload around these bytes, with a checksum that fits.
    fn framed(body: &[u8], version: u16) -> Bytes {
        let mut out = [body, &version.to_le_bytes()].concat();
        let sum = crc64(&out);
        out.extend_from_slice(&sum.to_le_bytes());
        out.into()
    }

    #[test]
    fn the_checksum_is_the_one_of_jones() {
        assert_eq!(crc64(b"123456789"), 0xe9c6_d914_c4b8_d9ca);
        assert_eq!(crc64(b""), 0);
    }

    #[test]
    fn payloads_are_those_of_redis() {
        for (value, payload) in GOLDEN {
            assert_eq!(dump(value), payload, "{value:?}");
            assert_eq!(load(&Bytes::from_static(payload), MAX).unwrap(), value, "{value:?}");
        }
    }

    #[test]
    fn lzf_of_redis_is_read() {
        let payload = Bytes::from_static(
            b"\x00\xc3\x17\x44\xb0\x03\x61\x62\x63\x61\xe0\xff\x02\xe1\xff\x07\xe1\xff\x07\xe1\xff\x07\xe1\x81\x07\
              \x01\x62\x63\x0a\x00\xf9\x1f\xdf\xda\x40\x4c\x92\x57",
        );
        let value = load(&payload, MAX).unwrap();
        assert_eq!(value, "abc".repeat(400));
        assert_eq!(load(&payload, 1199), Err(Refusal::TooLong));
    }

    #[test]
    fn every_changed_bit_and_every_cut_is_noticed() {
        let payload = dump(b"some value");
        for at in 0..payload.len() * 8 {
            let mut damaged = payload.to_vec();
            damaged[at / 8] ^= 1 << (at % 8);
            assert_eq!(load(&damaged.into(), MAX), Err(Refusal::Checksum), "bit {at}");
        }
        for end in 0..payload.len() {
            assert_eq!(load(&payload.slice(..end), MAX), Err(Refusal::Checksum), "cut at {end}");
        }
    }

    #[test]
    fn what_is_whole_and_no_string_is_told_apart() {
        for (body, refusal) in [
            (&b"\x01\x01\x01a"[..], Refusal::Type(1)),
            (b"", Refusal::Format),
            (b"\0", Refusal::Format),
            (b"\0\x05abc", Refusal::Format),
            (b"\0\x01ab", Refusal::Format),
            (b"\0\x81\xff\xff\xff\xff\xff\xff\xff\xffa", Refusal::Format),
            (b"\0\x82\0\0\0\x01a", Refusal::Format),
            (b"\0\xc4a", Refusal::Format),
            (b"\0\xc1a", Refusal::Format),
            // A reference to before the beginning, one that is cut off, and a wrong length.
            (b"\0\xc3\x02\x05\x20\x00", Refusal::Format),
            (b"\0\xc3\x01\x05\x20", Refusal::Format),
            (b"\0\xc3\x02\x05\x00a", Refusal::Format),
            // A length far beyond the limit.
            (b"\0\xc3\x02\x80\xff\xff\xff\xff\x00a", Refusal::TooLong),
        ] {
            assert_eq!(load(&framed(body, VERSION), MAX), Err(refusal), "{body:?}");
        }
        for version in [1, VERSION, u16::MAX] {
            assert_eq!(load(&framed(b"\0\x01a", version), MAX).unwrap(), "a");
        }
        assert_eq!(load(&framed(b"\0\x03abc", VERSION), 2), Err(Refusal::TooLong));
    }

    proptest! {
        #[test]
        fn any_value_comes_back(value in prop::collection::vec(any::<u8>(), 0..20_000)) {
            prop_assert_eq!(&load(&dump(&value), MAX).unwrap()[..], &value[..]);
        }

        #[test]
        fn any_number_comes_back(number in any::<i64>()) {
            let value = number.to_string();
            prop_assert_eq!(&load(&dump(value.as_bytes()), MAX).unwrap()[..], value.as_bytes());
        }

        #[test]
        fn any_body_is_a_value_or_a_refusal(body in prop::collection::vec(any::<u8>(), 0..300)) {
            let body = [&[STRING][..], &body[..]].concat();
            if let Ok(value) = load(&framed(&body, VERSION), 5_000) {
                prop_assert!(value.len() <= 5_000);
            }
        }

        #[test]
        fn the_checksum_is_the_same_bit_by_bit(bytes in prop::collection::vec(any::<u8>(), 0..100)) {
            let slow = bytes.iter().fold(0_u64, |crc, byte| {
                (0..8).fold(crc ^ u64::from(*byte), |crc, _| {
                    if crc & 1 == 0 { crc >> 1 } else { (crc >> 1) ^ 0x95ac_9329_ac4b_c9b5 }
                })
            });
            prop_assert_eq!(crc64(&bytes), slow);
        }
    }
}
