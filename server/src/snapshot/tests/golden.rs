//! `testdata/v1` is a snapshot directory as version 0.1.0 writes it. Every later version must read it; never write it
//! anew, add `v2` beside it.

use super::super::format::MAGIC;
use super::super::verify;
use super::*;

#[test]
fn version_1_is_read_for_ever() {
    let path = testdata("v1/state.bin");
    let verified = verify(&path, hash).unwrap();
    assert_eq!(verified.header, Some(header()));
    assert!(verified.meta_checked);
    let bytes = std::fs::read(&path).unwrap();
    assert_eq!(super::read(&bytes).unwrap(), (sample(), verified.totals));
}

/// The drawing in `format.rs`, taken at its word.
#[test]
fn the_bytes_stand_where_they_are_drawn() {
    let bytes = std::fs::read(testdata("v1/state.bin")).unwrap();
    let number = |at: usize, n: usize| {
        bytes[at..at + n].iter().rev().fold(0u128, |number, &byte| number << 8 | u128::from(byte))
    };
    assert_eq!(bytes[..8], MAGIC);
    let fields = [(8, 2, 1), (10, 2, 0), (12, 4, 0), (16, 8, 0xc1), (24, 8, 1_795_332_236_779)];
    let rest = [
        (32, 8, 1_795_332_236_700),
        (40, 1, 1),
        (41, 1, 4),
        (42, 6, 0),
        (48, 8, 3),
        (56, 8, 0x1f),
        (64, 8, 900),
    ];
    for (at, n, value) in fields.into_iter().chain(rest) {
        assert_eq!(number(at, n), value, "header at {at}");
    }
    assert_eq!((number(72, 1), &bytes[73..78], number(78, 16)), (5, &b"0.1.0"[..], 0));
    let tag = number(124, 4);
    assert_eq!(tag, u128::from(crc32c::crc32c(&bytes[..124])));

    assert_eq!((&bytes[128..132], number(132, 4), number(136, 4)), (&b"KVFR"[..], tag, 0));
    let (raw, stored) = (number(140, 4), usize::try_from(number(144, 4)).unwrap());
    assert_eq!((number(148, 4), number(156, 4)), (6, u128::from(crc32c::crc32c(&bytes[128..156]))));
    let block = &bytes[160..160 + stored];
    assert_eq!(number(152, 4), u128::from(crc32c::crc32c(block)));
    let block = zstd::decode_all(block).unwrap();
    assert_eq!(block.len() as u128, raw);
    assert_eq!(block[..33], *b"\0\x01\0\0\0\0\0\x16\0\0\0value of the empty key");
    let deadline = 1_795_332_236_779u64.to_le_bytes();
    let record = [&b"\x01\x01\x01\x01\0\0\0\x03\0\0\0"[..], &deadline, b"aone"].concat();
    assert!(block.windows(record.len()).any(|window| window == record));

    let at = 160 + stored;
    assert_eq!((&bytes[at..at + 4], number(at + 4, 4)), (&b"KVTR"[..], tag));
    let totals = [(8, 4, 1), (12, 4, 4), (16, 8, 6), (24, 8, raw), (32, 8, at as u128)];
    let databases = [(56, 8, 3), (64, 8, 0), (88, 8, 2), (96, 8, 2), (120, 8, 0), (152, 8, 1), (160, 8, 1)];
    for (from, n, value) in totals.into_iter().chain(databases) {
        assert_eq!(number(at + from, n), value, "trailer at {from}");
    }
    let digests = [72, 104, 136, 168].map(|from| number(at + from, 16));
    assert_eq!(number(at + 40, 16), digests.iter().fold(0u128, |sum, &digest| sum.wrapping_add(digest)));
    let end = at + 56 + 4 * 32;
    assert_eq!(number(end, 4), u128::from(crc32c::crc32c(&bytes[at..end])));
    assert_eq!(bytes[end + 4..], *b"KVNSEND\n");
}
