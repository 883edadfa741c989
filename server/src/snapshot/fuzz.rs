//! The fuzzer's way into `state.bin`: any bytes as a file of either format, and any bytes as what stands behind the checksums
//! of one.

use std::io::Write as _;
use std::path::Path;

use super::ancestor::AncestorReader;
use super::format::{FrameHead, Header, RecordHash, Totals, encode_trailer};
use super::reader::Reader;
use super::salvage::Salvage;
use crate::clock::UnixMs;
use crate::store::Record;

/// Cheap; that digests are compared is all that matters here.
const HASH: RecordHash = |record: &Record| record.key.len() as u128 * 31 + record.value.len() as u128;

/// Longest content of a file that is looked at: a compressed block may announce half a gigabyte.
const INPUT_BYTES_MAX: usize = 64 * 1024;

/// The first byte says what the rest is.
pub(crate) fn state_bin(data: &[u8]) {
    let Some((choice, rest)) = data.split_first().filter(|(_, rest)| rest.len() <= INPUT_BYTES_MAX) else {
        return;
    };
    match choice % 3 {
        0 => read(rest),
        1 => read(&sealed(rest)),
        _ => read(&compressed(rest)),
    }
}

/// As the ancestor's files are.
fn compressed(input: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    // Writing to a vector cannot fail.
    let _ = encoder.write_all(input);
    encoder.finish().unwrap_or_default()
}

/// Every reader takes the file, or says what is wrong with it.
fn read(file: &[u8]) {
    let path = Path::new("state.bin");
    let strict: Option<Vec<Record>> =
        Reader::new(file, path, HASH).ok().and_then(|reader| reader.collect::<Result<_, _>>().ok());
    let mut salvage = Salvage::new(file);
    let saved: Vec<Record> = salvage.by_ref().collect();
    if let Some(strict) = strict {
        assert_eq!(saved, strict, "a good file is salvaged whole");
        assert_eq!(salvage.loss().records, Some(0));
    }
    let _ = AncestorReader::new(file, path).take(1000).filter(Result::is_err).count();
}

/// A file whose blocks are cut from the input: `databases u8 | (length u8 | records u8 | block) ...`.
fn sealed(input: &[u8]) -> Vec<u8> {
    let (databases, mut rest) = input.split_first().map_or((1, input), |(first, rest)| (*first, rest));
    let header = Header {
        cluster_id: 1,
        applied: None,
        log_time: UnixMs(0),
        created: UnixMs(0),
        databases,
        server_version: String::new(),
    };
    let mut out = header.encode().to_vec();
    let tag = u32::from_le_bytes([out[124], out[125], out[126], out[127]]);
    let mut totals = Totals::new(databases);
    while let [length, records, behind @ ..] = rest {
        let (block, behind) = behind.split_at(usize::from(*length).min(behind.len()));
        rest = behind;
        let stored = zstd::bulk::compress(block, 1).unwrap_or_default();
        let number = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
        let head = FrameHead {
            tag,
            number: totals.frames,
            raw_bytes: number(block.len()),
            stored_bytes: number(stored.len()),
            records: u32::from(*records),
            stored_crc: crc32c::crc32c(&stored),
        };
        out.extend_from_slice(&head.encode());
        out.extend_from_slice(&stored);
        totals.frames += 1;
        totals.raw_bytes += block.len() as u64;
        let mut block = bytes::Bytes::copy_from_slice(block);
        for _ in 0..*records {
            let Ok(record) = super::format::decode_record(&mut block) else { break };
            totals.count(&record, HASH);
        }
    }
    let offset = out.len() as u64;
    out.extend_from_slice(&encode_trailer(&totals, tag, offset));
    out
}

#[cfg(test)]
pub(crate) fn seeds() -> Vec<(&'static str, &'static str, Vec<u8>)> {
    let record = b"\x00\x01\x01\x01\x00\x00\x00\x02\x00\x00\x00\x05\x00\x00\x00\x00\x00\x00\x00kvv";
    let mut blocks = vec![1, 2, 22, 1];
    blocks.extend_from_slice(record);
    blocks.extend_from_slice(&[22, 1, 1]);
    blocks.extend_from_slice(&record[1..]);
    let file = sealed(&blocks[1..]);
    let ancestor = b"\x02\x02\x00\x00\x00\x00\x00\x00\x00ka\x01\x00\x00\x00\x00\x00\x00\x00v";
    vec![
        ("state_bin", "ancestor", ancestor.to_vec()),
        ("state_bin", "sealed", blocks),
        ("state_bin", "file", [vec![0], file].concat()),
    ]
}
