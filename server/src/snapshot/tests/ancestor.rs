//! The ancestor's files: a real one, and small ones made here to be broken at every byte.

use std::io::{Read, Write};

use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;
use proptest::prelude::*;
use sha2::{Digest, Sha256};

use super::super::ancestor::AncestorReader;
use super::super::{Kind, hex, open_records, verify};
use super::*;

const COMMANDS_SHA256: &str = "4278b58bf20ee40a77fa135fb13cac9ddb5a1bba0594f53743a979b45d01f2e9";

fn unhex(text: &str) -> Vec<u8> {
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect()
}

fn expected() -> Vec<Record> {
    let mut text = String::new();
    let file = std::fs::File::open(testdata("ancestor/expected.tsv.gz")).unwrap();
    GzDecoder::new(file).read_to_string(&mut text).unwrap();
    let pair = |line: &str| {
        let (key, value) = line.split_once('\t').unwrap();
        record(0, &unhex(key), None, &unhex(value))
    };
    text.lines().map(pair).collect()
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// Stream of the ancestor's records; keys are given with their first byte.
fn stream(pairs: &[(&[u8], &[u8])]) -> Vec<u8> {
    let mut out = Vec::new();
    for field in pairs.iter().flat_map(|(key, value)| [key, value]) {
        out.extend_from_slice(&(field.len() as u64).to_le_bytes());
        out.extend_from_slice(field);
    }
    out
}

fn small() -> Vec<u8> {
    gzip(&stream(&[(b"k", b"empty"), (b"ka", b"1"), (b"kb", &noise(9, 40))]))
}

fn read(bytes: &[u8]) -> Result<Vec<Record>, SnapshotError> {
    AncestorReader::new(bytes, Path::new("test")).collect()
}

#[test]
fn the_real_file_holds_what_the_ancestor_said() {
    let path = testdata("ancestor/state.bin");
    let (verified, records) = open_records(&path, hash).unwrap();
    let records: Vec<_> = records.collect::<Result<_, _>>().unwrap();
    assert_eq!(records, expected());
    assert_eq!((verified.kind, verified.totals.records), (Kind::Ancestor, 960));
    assert_eq!((verified.size_bytes, verified.meta_checked, verified.header), (57_419, true, None));
}

#[test]
fn the_real_file_prints_what_the_ancestor_prints() {
    for partial in [false, true] {
        let (out, summary) = print(&testdata("ancestor/state.bin"), partial);
        assert_eq!(out.len(), 160_268);
        assert_eq!(hex(&Sha256::digest(&out)), COMMANDS_SHA256);
        assert_eq!(summary.unwrap().damage, None);
        assert_eq!(replay(&out), expected());
    }
}

#[test]
fn a_cut_real_file_prints_nothing_or_its_beginning() {
    let whole = std::fs::read(testdata("ancestor/state.bin")).unwrap();
    let (_dir, path) = file("state.bin", &whole[..whole.len() / 2]);
    let (out, result) = print(&path, false);
    assert_eq!(out, b"");
    assert!(result.unwrap_err().to_string().contains("ends too early"));

    let (out, summary) = print(&path, true);
    let (records, summary) = (replay(&out), summary.unwrap());
    assert_eq!(summary.records, records.len() as u64);
    assert!(records.len() > 50 && records.len() < 960, "{}", records.len());
    assert_eq!(records, expected()[..records.len()]);
    let damage = summary.damage.unwrap();
    assert!(damage.unproved && damage.loss.records.is_none(), "{damage}");
}

#[test]
fn a_cut_anywhere_is_found() {
    let whole = small();
    for length in 0..whole.len() {
        assert!(read(&whole[..length]).is_err(), "{length}");
    }
    let real = std::fs::read(testdata("ancestor/state.bin")).unwrap();
    for length in (0..real.len()).step_by(1999).chain(real.len() - 20..real.len()) {
        assert!(read(&real[..length]).is_err(), "{length}");
    }
    assert_eq!(read(&[&whole[..], b"\0"].concat()).unwrap_err().to_string().matches("behind").count(), 1);
}

/// gzip itself leaves its header's hints and the bits that pad the stream unproved, of which nothing depends; with
/// meta.json every bit counts.
#[test]
fn a_flipped_byte_anywhere_is_found() {
    let whole = small();
    let content = read(&whole).unwrap();
    let crc = {
        let mut digest = crc64fast::Digest::new();
        digest.write(&whole);
        digest.sum64().to_be_bytes()
    };
    let meta = format!(
        r#"{{"ID":"1-3-5","Index":3,"Term":1,"Peers":"","Size":{},"CRC":"{}"}}"#,
        whole.len(),
        base64(crc)
    );
    let (dir, path) = file("state.bin", &whole);
    std::fs::write(dir.path().join("meta.json"), meta).unwrap();
    assert!(verify(&path, hash).unwrap().meta_checked);
    for at in 0..whole.len() {
        for flip in [0x01, 0x80, 0xff] {
            let mut bytes = whole.clone();
            bytes[at] ^= flip;
            match read(&bytes) {
                Ok(records) => assert!(records == content, "byte {at} ^ {flip}"),
                Err(error) => assert!(matches!(error, SnapshotError::Damaged { .. }), "byte {at}: {error:?}"),
            }
            std::fs::write(&path, &bytes).unwrap();
            assert!(verify(&path, hash).is_err(), "byte {at} ^ {flip} beside meta.json");
        }
    }
}

fn base64(bytes: [u8; 8]) -> String {
    const DIGITS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let bits = u128::from(u64::from_be_bytes(bytes)) << 2;
    let digit = |n: u32| char::from(DIGITS[(bits >> (6 * (10 - n)) & 63) as usize]);
    (0..11).map(digit).chain(['=']).collect()
}

#[test]
fn a_flipped_value_is_told_as_unproved() {
    // Stored without compression, so that one byte of a value changes and only the checksum at the end knows.
    let mut encoder = GzEncoder::new(Vec::new(), Compression::none());
    encoder.write_all(&stream(&[(b"ka", b"1000000"), (b"kb", b"2")])).unwrap();
    let mut bytes = encoder.finish().unwrap();
    let at = bytes.windows(7).position(|window| window == b"1000000").unwrap();
    bytes[at] = b'9';
    let (_dir, path) = file("state.bin", &bytes);
    let (out, result) = print(&path, false);
    assert_eq!(out, b"");
    assert!(matches!(result, Err(SnapshotError::Damaged { .. })), "{result:?}");
    let damage = print(&path, true).1.unwrap().damage.unwrap();
    assert!(damage.unproved, "{damage}");
}

#[test]
fn a_file_that_is_not_the_one_of_meta_json_is_refused() {
    let (dir, path) = file("state.bin", &small());
    std::fs::copy(testdata("ancestor/meta.json"), dir.path().join("meta.json")).unwrap();
    let (out, result) = print(&path, false);
    let error = result.unwrap_err().to_string();
    assert!(error.contains("meta.json says 57419") && out.is_empty(), "{error}");
    let (out, summary) = print(&path, true);
    assert_eq!((replay(&out).len(), summary.unwrap().damage.is_some()), (3, true));
    std::fs::write(dir.path().join("meta.json"), "{}").unwrap();
    assert!(matches!(verify(&path, hash), Err(SnapshotError::MetaMismatch { .. })));
    // Under another name, no meta.json belongs to it.
    let other = dir.path().join("other.bin");
    std::fs::rename(&path, &other).unwrap();
    assert!(!verify(&other, hash).unwrap().meta_checked);
}

#[test]
fn keys_that_are_no_user_keys_are_counted() {
    let bytes = gzip(&stream(&[(b"ka", b"1"), (b"x", b"2"), (b"", b"3"), (b"kb", b"4")]));
    let (_dir, path) = file("state.bin", &bytes);
    let (out, result) = print(&path, false);
    assert!(matches!(result, Err(SnapshotError::ForeignKeys { count: 2, .. })), "{result:?}");
    assert_eq!(out, b"");
    let (out, summary) = print(&path, true);
    assert_eq!(replay(&out), [record(0, b"a", None, b"1"), record(0, b"b", None, b"4")]);
    let damage = summary.unwrap().damage.unwrap();
    assert_eq!((damage.foreign_keys, damage.unproved, damage.loss.records), (2, false, Some(0)));
}

#[test]
fn an_empty_store_is_gzip_of_nothing() {
    assert_eq!(read(&gzip(b"")).unwrap(), []);
}

pub(super) fn absurd() -> Vec<Vec<u8>> {
    let lengths = [u64::MAX, i64::MAX.unsigned_abs(), 1 << 40, 512 << 20];
    let behind_key = [&stream(&[(b"ka", b"1")])[..18], &u64::MAX.to_le_bytes()].concat();
    lengths.iter().map(|n| gzip(&[&n.to_le_bytes()[..], b"kx"].concat())).chain([gzip(&behind_key)]).collect()
}

#[test]
fn absurd_lengths_and_torn_records_are_refused() {
    for bytes in absurd() {
        assert!(matches!(read(&bytes), Err(SnapshotError::Damaged { .. })));
    }
    let whole = stream(&[(b"ka", b"12")]);
    for length in 1..whole.len() {
        assert!(read(&gzip(&whole[..length])).is_err(), "{length}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn random_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        let _ = read(&bytes);
        let _ = read(&[&[0x1f, 0x8b, 8, 0], &bytes[..]].concat());
        let _ = read(&gzip(&bytes));
    }
}
