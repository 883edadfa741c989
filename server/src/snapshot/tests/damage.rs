//! Every cut and every flipped byte of our format is found; what is intact is salvaged.

use proptest::prelude::*;

use super::super::format::{FRAME_HEAD_BYTES, FrameHead, HEADER_BYTES};
use super::super::salvage::{Loss, Salvage};
use super::*;

fn frame_starts(bytes: &[u8]) -> Vec<usize> {
    let mut starts = Vec::new();
    let mut at = HEADER_BYTES;
    while let Some(head) = bytes.get(at..at + FRAME_HEAD_BYTES)
        && let Ok(head) = FrameHead::decode(head.try_into().unwrap())
    {
        starts.push(at);
        at += FRAME_HEAD_BYTES + head.stored_bytes as usize;
    }
    starts.push(at);
    starts
}

/// A record in few words: the values here are too long to be printed when a test fails.
fn brief(record: &Record) -> String {
    format!("{} {:?} {} {:x}", record.db, record.key, record.value.len(), hash(record))
}

fn salvage(bytes: &[u8]) -> (Vec<String>, Loss, bool) {
    let mut salvage = Salvage::new(bytes);
    let records = salvage.by_ref().map(|record| brief(&record)).collect();
    (records, salvage.loss(), salvage.recognised())
}

fn without(records: &[Record], lost: &[usize]) -> Vec<String> {
    records.iter().enumerate().filter(|(n, _)| !lost.contains(n)).map(|(_, record)| brief(record)).collect()
}

#[test]
fn a_cut_anywhere_is_found() {
    for records in [sample(), six_frames(), vec![]] {
        let bytes = write(&header(), &records);
        for length in 0..bytes.len() {
            assert!(read(&bytes[..length]).is_err(), "{length} of {}", bytes.len());
        }
        assert!(read(&bytes).is_ok());
    }
}

#[test]
fn a_flipped_byte_anywhere_is_found() {
    for records in [sample(), six_frames(), vec![]] {
        let mut bytes = write(&header(), &records);
        for at in 0..bytes.len() {
            for flip in [0x01, 0x80, 0xff] {
                bytes[at] ^= flip;
                assert!(read(&bytes).is_err(), "byte {at} ^ {flip}");
                bytes[at] ^= flip;
            }
        }
    }
}

#[test]
fn frames_moved_lost_doubled_or_foreign_are_found() {
    let bytes = write(&header(), &six_frames());
    let other = write(&Header { cluster_id: 2, ..header() }, &six_frames());
    let at = frame_starts(&bytes);
    let cases = [
        [&bytes[..at[1]], &bytes[at[2]..]].concat(),
        [&bytes[..at[2]], &bytes[at[1]..]].concat(),
        [&bytes[..at[1]], &bytes[at[2]..at[3]], &bytes[at[1]..at[2]], &bytes[at[3]..]].concat(),
        [&bytes[..at[1]], &other[at[1]..at[2]], &bytes[at[2]..]].concat(),
        [&bytes[..at[6]], &other[at[6]..]].concat(),
        [&bytes[..at[5]], &bytes[at[6]..]].concat(),
        [&bytes[..], b"\n"].concat(),
        [&bytes[..], &bytes[..]].concat(),
    ];
    for (n, case) in cases.iter().enumerate() {
        let error = read(case).unwrap_err();
        assert!(matches!(error, SnapshotError::Damaged { offset, .. } if offset > 0), "case {n}: {error}");
    }
}

#[test]
fn an_error_names_file_place_and_remedy() {
    let mut bytes = write(&header(), &six_frames());
    let at = frame_starts(&bytes);
    bytes[at[2] + 40] ^= 1;
    let (_dir, path) = file("state.bin", &bytes);
    let (out, result) = print(&path, false);
    let error = result.unwrap_err();
    assert!(error.remedy().contains("--partial"), "{}", error.remedy());
    let text = error.to_string();
    for part in ["state.bin", &format!("byte {}", at[2]), "frame 2"] {
        assert!(text.contains(part), "{part}: {text}");
    }
    let damage = print(&path, true).1.unwrap().damage.unwrap();
    assert!(!damage.to_string().contains("--partial"), "it was given: {damage}");
    assert_eq!(out, b"", "nothing is printed before the whole file is proved");
}

#[test]
fn one_damaged_frame_costs_only_its_records() {
    let bytes = write(&header(), &six_frames());
    let at = frame_starts(&bytes);
    for frame in 0..6 {
        for byte in at[frame]..at[frame + 1] {
            let mut bytes = bytes.clone();
            bytes[byte] ^= 0x10;
            let (records, loss, _) = salvage(&bytes);
            assert_eq!(records, without(&six_frames(), &[frame]), "byte {byte}");
            assert_eq!((loss.frames, loss.records), (1, Some(1)), "byte {byte}");
            assert_eq!(loss.bytes, (at[frame + 1] - at[frame]) as u64, "byte {byte}");
        }
    }
}

#[test]
fn a_hole_is_skipped() {
    let bytes = write(&header(), &six_frames());
    let at = frame_starts(&bytes);
    // From the middle of frame 1 to the middle of frame 3: the head of 1 now claims bytes of 4.
    let holed = [&bytes[..at[1] + 36], &bytes[at[3] + 36..]].concat();
    let (records, loss, _) = salvage(&holed);
    assert_eq!(records, without(&six_frames(), &[1, 2, 3]));
    assert_eq!((loss.frames, loss.records), (3, Some(3)));
}

#[test]
fn a_cut_file_gives_its_whole_frames() {
    let bytes = write(&header(), &six_frames());
    let at = frame_starts(&bytes);
    for length in HEADER_BYTES..bytes.len() {
        let whole = at.iter().filter(|&&end| end <= length).count() - 1;
        let (records, loss, recognised) = salvage(&bytes[..length]);
        assert_eq!(records, without(&six_frames(), &[])[..whole], "{length}");
        assert_eq!((loss.records, recognised), (None, true), "{length}");
    }
}

#[test]
fn a_destroyed_header_costs_no_record() {
    let bytes = write(&header(), &six_frames());
    let all = without(&six_frames(), &[]);
    for at in 0..HEADER_BYTES {
        let mut bytes = bytes.clone();
        bytes[at] ^= 0x55;
        let (records, loss, recognised) = salvage(&bytes);
        assert_eq!((&records, loss.records, recognised), (&all, Some(0), true), "byte {at}");
    }
    let mut zeroed = bytes.clone();
    zeroed[..HEADER_BYTES].fill(0);
    assert_eq!(salvage(&zeroed).0, all);
    assert_eq!(salvage(&bytes[HEADER_BYTES + 10..]).0, all[1..], "the beginning is missing");
}

#[test]
fn partial_prints_the_rest_and_says_so() {
    let mut bytes = write(&header(), &six_frames());
    let at = frame_starts(&bytes);
    bytes[at[2]] ^= 1;
    let (_dir, path) = file("state.bin", &bytes);
    let (out, summary) = print(&path, true);
    assert_eq!(replay(&out).iter().map(brief).collect::<Vec<_>>(), without(&six_frames(), &[2]));
    let summary = summary.unwrap();
    assert_eq!(summary.records, 5);
    let text = summary.damage.unwrap().to_string();
    assert!(text.contains("damaged at byte") && text.contains("lost: 1 records, 1 frames known"), "{text}");

    std::fs::write(&path, write(&header(), &six_frames())).unwrap();
    assert_eq!(print(&path, true).1.unwrap().damage, None, "an intact file is not called damaged");
}

#[test]
fn a_snapshot_inside_a_value_is_never_salvaged_as_content() {
    let inner = write(&Header { cluster_id: 7, ..header() }, &[record(0, b"inner", None, b"wrong")]);
    // Noise around it makes zstd store the inner file as it is.
    let value = [noise(1, 5000), inner.clone(), noise(2, 5000)].concat();
    let outer = [record(0, b"a", None, &value), record(1, b"z", None, &noise(3, 300_000))];
    let mut bytes = write(&header(), &outer);
    assert!(bytes.windows(inner.len()).any(|window| window == inner), "the inner file is stored as it is");
    bytes[HEADER_BYTES + FRAME_HEAD_BYTES + 100] ^= 1;
    let (records, loss, _) = salvage(&bytes);
    assert_eq!(records, [brief(&outer[1])]);
    assert_eq!(loss.records, Some(1));
}

/// A file with one frame of any lengths, with right checksums in its head.
fn crafted(raw_bytes: u32, stored_bytes: u32, records: u32, stored: &[u8]) -> Vec<u8> {
    let mut bytes = write(&header(), &[])[..HEADER_BYTES].to_vec();
    let tag = u32::from_le_bytes(bytes[124..].try_into().unwrap());
    let stored_crc = crc32c::crc32c(stored);
    let head = FrameHead { tag, number: 0, raw_bytes, stored_bytes, records, stored_crc };
    bytes.extend_from_slice(&head.encode());
    bytes.extend_from_slice(stored);
    bytes
}

pub(super) fn absurd() -> Vec<Vec<u8>> {
    let bomb = zstd::bulk::compress(&vec![0; 64 << 20], 1).unwrap();
    let small = zstd::bulk::compress(&[0; 1000], 1).unwrap();
    let bomb_bytes = u32::try_from(bomb.len()).unwrap();
    vec![
        crafted(u32::MAX, u32::MAX, 1, b"x"),
        crafted(1 << 30, 1 << 30, 1, b"x"),
        crafted(100, 1 << 30, 1, b"x"),
        crafted(1 << 30, bomb_bytes, 1, &bomb[..20]),
        crafted(100, bomb_bytes, 1, &bomb),
        crafted(1 << 30, u32::try_from(small.len()).unwrap(), 1, &small),
        crafted(100, 1, u32::MAX, b"x"),
        crafted(100, 1, 0, b"x"),
    ]
}

#[test]
fn absurd_lengths_are_refused() {
    for (n, bytes) in absurd().iter().enumerate() {
        assert!(matches!(read(bytes), Err(SnapshotError::Damaged { .. })), "case {n}");
        assert!(salvage(bytes).0.is_empty(), "case {n}");
    }
}

#[test]
fn records_that_lie_inside_a_frame_are_refused() {
    let good = |key: u32, value: u32| {
        let mut raw = vec![0, 1, 0];
        raw.extend_from_slice(&key.to_le_bytes());
        raw.extend_from_slice(&value.to_le_bytes());
        raw.extend_from_slice(b"keyvalue");
        raw
    };
    let with = |at: usize, byte: u8| {
        let mut raw = good(3, 5);
        raw[at] = byte;
        raw
    };
    let cases = [
        (good(3, 6), "cut off"),
        (good(u32::MAX, u32::MAX), "cut off"),
        (good(3, 4), "left behind"),
        (with(0, 4), "database 4 of 4"),
        (with(1, 2), "value type 2"),
        (with(2, 2), "record flags"),
        (with(2, 1), "cut off"),
    ];
    for (raw, text) in cases {
        let stored = zstd::bulk::compress(&raw, 1).unwrap();
        let (raw_bytes, stored_bytes) =
            (u32::try_from(raw.len()).unwrap(), u32::try_from(stored.len()).unwrap());
        let error = read(&crafted(raw_bytes, stored_bytes, 1, &stored)).unwrap_err().to_string();
        assert!(error.contains(text), "{text}: {error}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn random_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..600), skip in 0..260usize) {
        let _ = read(&bytes);
        let _ = salvage(&bytes);
        // The same behind a right beginning.
        let whole = write(&header(), &sample());
        let mixed = [&whole[..skip.min(whole.len())], &bytes].concat();
        prop_assert!(read(&mixed).is_err());
        let _ = salvage(&mixed);
    }

    #[test]
    fn salvage_gives_only_what_was_written(
        cuts in prop::collection::vec((0..4096usize, 0..64usize, any::<u8>()), 1..6),
    ) {
        let mut bytes = write(&header(), &six_frames());
        for (at, length, fill) in cuts {
            let at = at % bytes.len();
            let end = (at + length).min(bytes.len());
            match fill % 3 {
                0 => drop(bytes.drain(at..end)),
                1 => drop(bytes.splice(at..at, vec![fill; length])),
                _ => bytes[at..end].fill(fill),
            }
            if bytes.is_empty() {
                break;
            }
        }
        let (records, loss, _) = salvage(&bytes);
        let mut rest = without(&six_frames(), &[]).into_iter();
        for record in &records {
            prop_assert!(rest.any(|written| written == *record), "in order, each once, unchanged");
        }
        if let Some(lost) = loss.records {
            prop_assert_eq!(lost, 6 - records.len() as u64);
        }
    }
}
