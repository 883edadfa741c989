//! What SCAN's order costs a write: `scan_cost with|without` prints microseconds of CPU per insert and per overwrite, of
//! the whole process, flush included. `make bench TRIALS=scan` runs both in turn and compares.

use std::hint::black_box;

use bytes::{Bytes, BytesMut};
use kvnode_server::clock::UnixMs;
use kvnode_server::store::{Applier, Batch, Committed, LogId, Op, Payload, Store, StoreOptions};

const KEYS: u64 = 1_000_000;
/// SETs of one log entry: what 64 clients have under way.
const PER_ENTRY: u64 = 64;
/// Entries made before they are applied, so that making them does not count.
const AHEAD: u64 = 256;
const VALUE: [u8; 64] = [b'v'; 64];
/// Of `/proc/self/stat`: fixed by the Linux ABI.
const TICKS_PER_SECOND: f64 = 100.0;

fn entry(index: u64, first: u64) -> Committed {
    let set = |n: u64| Op::Set {
        db: 0,
        // Scattered over the key space, as keys of many users are.
        key: Bytes::from(format!("key:{:016x}", n.wrapping_mul(0x9e37_79b9_7f4a_7c15))),
        value: Bytes::from_static(&VALUE),
        deadline: None,
    };
    let ops = (first..KEYS.min(first + PER_ENTRY)).map(set).collect();
    let mut out = BytesMut::new();
    Batch { at: UnixMs(index), origin: 1, sequence: index, ops }.encode_into(&mut out);
    Committed { id: LogId { term: 1, node: 1, index }, payload: Payload::Batch(out.freeze()) }
}

/// CPU seconds of all threads of this process.
fn cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields: Vec<&str> = stat.rsplit(") ").next().unwrap_or_default().split(' ').collect();
    let ticks = |at: usize| fields.get(at).and_then(|field| field.parse::<f64>().ok()).unwrap_or(f64::NAN);
    (ticks(11) + ticks(12)) / TICKS_PER_SECOND
}

/// Sets every key once, and flushes; microseconds of CPU per SET.
#[expect(clippy::cast_precision_loss, reason = "a figure for the eye")]
fn round(applier: &mut Applier, index: &mut u64) -> Result<f64, Box<dyn std::error::Error>> {
    let mut spent = 0.0;
    let mut first = 0;
    while first < KEYS {
        let mut entries = Vec::new();
        while first < KEYS && (entries.len() as u64) < AHEAD {
            entries.push(entry(*index, first));
            *index += 1;
            first += PER_ENTRY;
        }
        let start = cpu_seconds();
        for entry in &entries {
            black_box(applier.apply(std::slice::from_ref(entry))?);
            if applier.flush_due() {
                applier.flush(false)?;
            }
        }
        spent += cpu_seconds() - start;
    }
    let start = cpu_seconds();
    applier.flush(true)?;
    spent += cpu_seconds() - start;
    Ok(spent * 1e6 / KEYS as f64)
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let without = match std::env::args().nth(1).as_deref() {
        Some("with") => false,
        Some("without") => true,
        _ => return Err("say `with` or `without`".into()),
    };
    let options = StoreOptions {
        databases: 16,
        memtable_bytes: 64 << 20,
        block_cache_bytes: 256 << 20,
        value_cache_bytes: 256 << 20,
    };
    let dir = std::env::temp_dir().join(format!("kvnode-scan-cost-{}", std::process::id()));
    let (store, mut applier) = Store::open(&dir, options)?;
    if without {
        applier.leave_out_scan_index();
    }
    let mut index = 0;
    let (insert, overwrite) = (round(&mut applier, &mut index)?, round(&mut applier, &mut index)?);
    println!("{insert:.3} {overwrite:.3}");
    drop((store, applier));
    std::fs::remove_dir_all(&dir)?;
    Ok(())
}
