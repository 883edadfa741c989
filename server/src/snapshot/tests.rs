//! Tests of the whole room. `testdata/ancestor` is a real snapshot of the ancestor with its content, `testdata/v1` is
//! one of ours as version 0.1.0 writes it.

mod ancestor;
mod commands;
mod damage;
mod directory;
mod golden;
mod memory;
mod round_trip;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use bytes::Bytes;

use super::format::{Header, Totals};
use super::reader::Reader;
use super::writer::Writer;
use super::{ParseOptions, SnapshotError};
use crate::clock::UnixMs;
use crate::store::{LogId, Record, TypeTag};

/// Stands in for the store's hash; the digests in `testdata/v1` were made with it, so it must not change.
fn hash(record: &Record) -> u128 {
    let deadline = record.deadline.map_or(u64::MAX, |deadline| deadline.0);
    (0..4).fold(0, |sum, seed| {
        let mut crc = crc32c::crc32c_append(seed, &[record.db, record.tag as u8]);
        for bytes in
            [&deadline.to_le_bytes(), &record.key.len().to_le_bytes()[..], &record.key, &record.value]
        {
            crc = crc32c::crc32c_append(crc, bytes);
        }
        sum << 32 | u128::from(crc)
    })
}

fn record(db: u8, key: &[u8], deadline: Option<u64>, value: &[u8]) -> Record {
    Record {
        db,
        key: Bytes::copy_from_slice(key),
        tag: TypeTag::String,
        deadline: deadline.map(UnixMs),
        value: Bytes::copy_from_slice(value),
    }
}

/// Records of three databases, with and without deadlines, with awkward bytes.
fn sample() -> Vec<Record> {
    vec![
        record(0, b"", None, b"value of the empty key"),
        record(0, b"\x00\xff\r\n", None, b"\r\n$5\r\n"),
        record(0, b"k", None, b""),
        record(1, b"a", Some(1_795_332_236_779), b"one"),
        record(1, b"b", Some(0), b"two"),
        record(3, "h\u{e4}user".as_bytes(), Some(u64::MAX), &[0xe4; 300]),
    ]
}

/// Six frames in a few hundred bytes: values that compress well, one key each.
fn six_frames() -> Vec<Record> {
    (0..6u8).map(|n| record(n / 2, &[b'k', n], None, &vec![n; 200 * 1024])).collect()
}

/// Deterministic bytes that do not compress.
fn noise(seed: u64, n: usize) -> Vec<u8> {
    let mut state = seed | 1;
    let step = |_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[3]
    };
    (0..n).map(step).collect()
}

fn header() -> Header {
    Header {
        cluster_id: 0xc1,
        applied: Some(LogId { term: 3, node: 0x1f, index: 900 }),
        log_time: UnixMs(1_795_332_236_700),
        created: UnixMs(1_795_332_236_779),
        databases: 4,
        server_version: "0.1.0".into(),
    }
}

fn write(header: &Header, records: &[Record]) -> Vec<u8> {
    let mut writer = Writer::new(Vec::new(), header, hash).unwrap();
    for record in records {
        writer.append(record).unwrap();
    }
    writer.finish().unwrap().0
}

fn read(bytes: &[u8]) -> Result<(Vec<Record>, Totals), SnapshotError> {
    let mut reader = Reader::new(bytes, Path::new("test"), hash)?;
    let records = reader.by_ref().collect::<Result<_, _>>()?;
    Ok((records, reader.totals().clone()))
}

fn testdata(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src/snapshot/testdata").join(name)
}

/// A file in a directory of its own.
fn file(name: &str, bytes: &[u8]) -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(name);
    std::fs::write(&path, bytes).unwrap();
    (dir, path)
}

/// The commands printed for a file, and what was said of it.
fn print(path: &Path, partial: bool) -> (Vec<u8>, Result<super::Summary, SnapshotError>) {
    let mut out = Vec::new();
    let result = super::write_redis_commands(path, &mut out, ParseOptions { hash, partial });
    (out, result)
}

/// What a Redis server holds after `commands`. Panics unless they are whole and right.
fn replay(commands: &[u8]) -> Vec<Record> {
    let (mut rest, mut db, mut content) = (commands, 0, BTreeMap::new());
    while !rest.is_empty() {
        let args = command(&mut rest);
        match (args.as_slice(), args.len()) {
            ([name, number], 2) if name == b"SELECT" => db = String::from_utf8_lossy(number).parse().unwrap(),
            ([name, key, value], 3) if name == b"SET" => {
                content.insert((db, key.clone()), record(db, key, None, value));
            }
            ([name, key, value, option, ms], 5) if name == b"SET" && option == b"PXAT" => {
                let ms = String::from_utf8_lossy(ms).parse().unwrap();
                content.insert((db, key.clone()), record(db, key, Some(ms), value));
            }
            _ => panic!("unexpected command {args:?}"),
        }
    }
    content.into_values().collect()
}

fn command(rest: &mut &[u8]) -> Vec<Vec<u8>> {
    let count = number(rest, b'*');
    (0..count)
        .map(|_| {
            let n = number(rest, b'$');
            let (arg, after) = rest.split_at(n);
            *rest = after.strip_prefix(b"\r\n").unwrap();
            arg.to_vec()
        })
        .collect()
}

fn number(rest: &mut &[u8], mark: u8) -> usize {
    assert_eq!(rest[0], mark);
    let end = rest.windows(2).position(|two| two == b"\r\n").unwrap();
    let number = std::str::from_utf8(&rest[1..end]).unwrap().parse().unwrap();
    *rest = &rest[end + 2..];
    number
}
