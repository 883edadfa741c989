//! Memory is flat in the size of the content. Measured in a process of its own, since the tests share one.

use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::process::Command;

use super::super::export::{ExportContext, export};
use super::super::{open_records, write_redis_commands};
use super::*;
use crate::store::ViewMeta;

const CHILD: &str = "KVNODE_TEST_MEMORY_CHILD";
const RECORDS: u64 = 100_000;
const VALUE_BYTES: usize = 2048;
/// Resident memory that one export, one verification and one print may take together, beyond what the process had.
const RESIDENT_KIB_MAX: u64 = 24 * 1024;
/// Address space that absurd lengths may take; the smallest of them announces 512 MiB.
const VIRTUAL_KIB_MAX: u64 = 200 * 1024;

/// A number of `/proc/self/status` in KiB.
fn status_kib(field: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with(field)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// 200 MB of records, half of whose value compresses.
fn generated() -> impl Iterator<Item = Record> {
    (0..RECORDS).map(|n| {
        let mut value = noise(n.wrapping_mul(0x9e37_79b9_7f4a_7c15), VALUE_BYTES / 2);
        value.resize(VALUE_BYTES, b'x');
        record(0, format!("key:{n:010}").as_bytes(), None, &value)
    })
}

struct Count(u64);

impl Write for Count {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.0 += buf.len() as u64;
        Ok(buf.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn measure() {
    let before = status_kib("VmHWM");
    let mut totals = Totals::new(1);
    generated().for_each(|record| totals.count(&record, hash));
    let view = ViewMeta {
        applied: None,
        log_time: UnixMs(0),
        membership: None,
        databases: totals.databases.clone(),
    };
    let context = ExportContext {
        cluster_id: 1,
        node_id: 1,
        server_version: String::new(),
        created: UnixMs(1),
        quorum: true,
        parent: None,
        hash,
        bytes_per_second: 0,
    };
    let dir = tempfile::tempdir().unwrap();
    let (path, _) = export(&view, generated().map(Ok), &context, dir.path()).unwrap();
    let state = path.join("state.bin");
    let (verified, records) = open_records(&state, hash).unwrap();
    assert!(verified.totals.raw_bytes > 200_000_000);
    assert_eq!(records.map(Result::unwrap).count() as u64, RECORDS);
    let mut count = Count(0);
    write_redis_commands(&state, &mut count, ParseOptions { hash, partial: false }).unwrap();
    assert!(count.0 > 200_000_000);
    // The same with a damaged byte in the middle.
    let middle = verified.size_bytes / 2;
    let mut byte = [0];
    let file = std::fs::File::options().read(true).write(true).open(&state).unwrap();
    file.read_exact_at(&mut byte, middle).unwrap();
    file.write_all_at(&[byte[0] ^ 1], middle).unwrap();
    let summary = write_redis_commands(&state, &mut count, ParseOptions { hash, partial: true }).unwrap();
    assert_eq!(summary.damage.unwrap().loss.frames, 1);
    let grown = status_kib("VmHWM").saturating_sub(before);
    assert!(grown < RESIDENT_KIB_MAX, "{grown} KiB");

    let before = status_kib("VmPeak");
    for bytes in super::damage::absurd() {
        assert!(super::read(&bytes).is_err());
        assert_eq!(super::super::salvage::Salvage::new(&bytes[..]).count(), 0);
    }
    for bytes in super::ancestor::absurd() {
        assert!(
            super::super::ancestor::AncestorReader::new(&bytes[..], Path::new("test")).any(|r| r.is_err())
        );
    }
    let grown = status_kib("VmPeak") - before;
    assert!(grown < VIRTUAL_KIB_MAX, "{grown} KiB");
}

#[test]
fn memory_is_flat() {
    if std::env::var_os(CHILD).is_some() {
        return measure();
    }
    let (_, module) = module_path!().split_once("::").unwrap();
    let output = Command::new(std::env::current_exe().unwrap())
        .args([&format!("{module}::memory_is_flat"), "--exact", "--nocapture"])
        .env(CHILD, "1")
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && text.contains("1 passed"), "{text}");
}
