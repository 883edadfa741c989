//! The printed commands, byte by byte.

use super::*;

#[test]
fn databases_and_deadlines_are_printed() {
    let records = [
        record(0, b"a", None, b"1"),
        record(2, b"b", Some(1_795_332_236_779), b""),
        record(3, b"c", None, b"\r\n"),
    ];
    let (_dir, path) = file("any-name", &write(&header(), &records));
    let (out, summary) = print(&path, false);
    assert_eq!(
        String::from_utf8(out).unwrap(),
        "*3\r\n$3\r\nSET\r\n$1\r\na\r\n$1\r\n1\r\n\
         *2\r\n$6\r\nSELECT\r\n$1\r\n2\r\n\
         *5\r\n$3\r\nSET\r\n$1\r\nb\r\n$0\r\n\r\n$4\r\nPXAT\r\n$13\r\n1795332236779\r\n\
         *2\r\n$6\r\nSELECT\r\n$1\r\n3\r\n\
         *3\r\n$3\r\nSET\r\n$1\r\nc\r\n$2\r\n\r\n\r\n"
    );
    let summary = summary.unwrap();
    assert_eq!((summary.records, summary.damage, summary.kind), (3, None, super::super::Kind::Kvnode));
}

#[test]
fn a_reader_that_went_away_is_an_error() {
    let (_dir, path) = file("state.bin", &write(&header(), &sample()));
    let mut full = [0u8; 10];
    let result =
        super::super::write_redis_commands(&path, &mut &mut full[..], ParseOptions { hash, partial: false });
    assert!(matches!(result, Err(SnapshotError::Output(_))), "{result:?}");
}

#[test]
fn what_is_no_snapshot_is_refused_in_words() {
    let (_dir, path) = file("state.bin", b"");
    let cases: [(&[u8], &str); 4] = [
        (b"", "the file is empty"),
        (b"x", "neither format"),
        (b"REDIS0011\xfa\x09redis-ver", "neither format"),
        (b"\x89KVNS\r\n\x1a", "ends inside its header"),
    ];
    for partial in [false, true] {
        for (bytes, text) in cases {
            std::fs::write(&path, bytes).unwrap();
            let (out, result) = print(&path, partial);
            let error = result.unwrap_err().to_string();
            assert!(error.contains(text) && error.contains("state.bin"), "{error}");
            assert_eq!(out, b"");
        }
    }
    std::fs::remove_file(&path).unwrap();
    let error = print(&path, true).1.unwrap_err().to_string();
    assert!(error.starts_with("open ") && error.contains("state.bin"), "{error}");
    let error = print(path.parent().unwrap(), true).1.unwrap_err().to_string();
    assert!(error.contains("not a regular file"), "{error}");
}

#[test]
fn a_newer_format_is_refused_even_partially() {
    let mut bytes = write(&header(), &sample());
    bytes[8] = 2;
    let crc = crc32c::crc32c(&bytes[..124]);
    bytes[124..128].copy_from_slice(&crc.to_le_bytes());
    let (_dir, path) = file("state.bin", &bytes);
    for partial in [false, true] {
        let (out, result) = print(&path, partial);
        assert!(matches!(result, Err(SnapshotError::Newer { .. })), "{result:?}");
        assert_eq!(out, b"");
    }
}
