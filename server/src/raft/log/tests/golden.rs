//! The format of version 1, byte for byte. These files must be readable for ever: never change them, add new ones.

use std::collections::BTreeMap;

use super::*;

const FIRST: &[u8] = include_bytes!("../testdata/v1-first.log");
const SECOND: &[u8] = include_bytes!("../testdata/v1-second.log");
const NAMES: [&str; 2] =
    ["raft-3-0000000001-00000000000000000000.log", "raft-3-0000000002-00000000000000000006.log"];

/// Every kind of frame, in two segments.
fn write() -> BTreeMap<String, Vec<u8>> {
    let disk = MemDisk::new();
    let (log, _) = open(&disk);
    answer(&save_vote(&log, Vote { term: 1, node: 0xabc, committed: true })).unwrap();
    append_ok(&log, entries(1, 0..6));
    log.save_committed(id(1, 2));
    answer(&truncate(&log, Some(id(1, 4)))).unwrap();
    append_ok(&log, entries(2, 5..6));
    log.purge(id(1, 1)).unwrap();
    append_ok(&log, vec![LogEntry { id: id(2, 6), bytes: Bytes::from(vec![0x55; 2700]) }]);
    log.close().unwrap();
    let (log, _) = open(&disk);
    append_ok(&log, entries(3, 7..9));
    log.save_committed(id(3, 7));
    log.close().unwrap();
    let mut files = disk.files();
    for bytes in files.values_mut() {
        // The preallocated rest is not worth keeping in git.
        let used = bytes.iter().rposition(|byte| *byte != 0).unwrap() + 1;
        bytes.truncate(used.next_multiple_of(8));
    }
    files
}

#[test]
fn version_1_is_written_as_ever() {
    let files = write();
    assert_eq!(files.keys().collect::<Vec<_>>(), NAMES);
    assert_eq!(files[NAMES[0]], FIRST);
    assert_eq!(files[NAMES[1]], SECOND);
}

#[test]
fn version_1_is_read_as_ever() {
    let files = [(NAMES[0].to_owned(), FIRST.to_vec()), (NAMES[1].to_owned(), SECOND.to_vec())];
    let (log, recovered) = open(&MemDisk::of(BTreeMap::from(files)));
    let expected = Recovered {
        vote: Some(Vote { term: 1, node: 0xabc, committed: true }),
        committed: Some(id(3, 7)),
        purged: Some(id(1, 1)),
        last: Some(id(3, 8)),
        clean: true,
        dropped_bytes: 0,
    };
    assert_eq!(recovered, expected);
    let big = LogEntry { id: id(2, 6), bytes: Bytes::from(vec![0x55; 2700]) };
    assert_eq!(content(&log), [entries(1, 2..5), entries(2, 5..6), vec![big], entries(3, 7..9)].concat());
}
