//! How fast the state machine applies SETs, without Raft and network: `cargo run --release --example apply_rate`.
//!
//! Prints microseconds of CPU per SET (Linux) for new keys and for overwrites, in entries of 1, 64 and 1024 SETs.

use bytes::{Bytes, BytesMut};
use kvnode_server::clock::UnixMs;
use kvnode_server::store::{Batch, Committed, LogId, Op, Payload, Query, Store, StoreOptions};

const KEYS: u64 = 400_000;
const VALUE: [u8; 64] = [b'v'; 64];

fn entry(index: u64, numbers: impl Iterator<Item = u64>) -> Committed {
    let set = |n: u64| Op::Set {
        db: 0,
        // Scattered over the key space, as keys of many users are.
        key: Bytes::from(format!("key:{:016x}", n.wrapping_mul(0x9e37_79b9_7f4a_7c15))),
        value: Bytes::from_static(&VALUE),
        deadline: None,
    };
    let mut out = BytesMut::new();
    Batch { at: UnixMs(index), origin: 1, sequence: index, ops: numbers.map(set).collect() }
        .encode_into(&mut out);
    Committed { id: LogId { term: 1, node: 1, index }, payload: Payload::Batch(out.freeze()) }
}

/// CPU time of this thread, so that other work on the machine and background compaction do not count.
fn cpu_micros() -> f64 {
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    stat.split(' ').next().and_then(|nanos| nanos.parse::<f64>().ok()).unwrap_or(f64::NAN) / 1e3
}

#[allow(clippy::cast_precision_loss, reason = "a figure for the eye")]
fn main() -> Result<(), Box<dyn std::error::Error>> {
    let options = StoreOptions {
        databases: 16,
        memtable_bytes: 64 << 20,
        block_cache_bytes: 256 << 20,
        value_cache_bytes: 256 << 20,
    };
    for per_entry in [1, 64, 1024] {
        let dir = std::env::temp_dir().join(format!("kvnode-apply-rate-{}", std::process::id()));
        let (store, mut applier) = Store::open(&dir, options)?;
        let mut index = 0;
        let keys = if per_entry == 1 { KEYS / 8 } else { KEYS };
        for round in ["new", "overwrite"] {
            let mut entries = Vec::new();
            for start in (0..keys).step_by(usize::try_from(per_entry)?) {
                entries.push(entry(index, start..keys.min(start + per_entry)));
                index += 1;
            }
            let start = cpu_micros();
            for entry in &entries {
                applier.apply(std::slice::from_ref(entry))?;
                if applier.flush_due() {
                    applier.flush(false)?;
                }
            }
            let micros = (cpu_micros() - start) / keys as f64;
            println!("{per_entry:5} per entry, {round:9}: {micros:.2} us CPU per SET");
        }
        let start = cpu_micros();
        for n in 0..keys {
            let key = Bytes::from(format!("key:{:016x}", n.wrapping_mul(0x9e37_79b9_7f4a_7c15)));
            store.query(&Query::Get { db: 0, key })?;
        }
        let micros = (cpu_micros() - start) / keys as f64;
        println!("{per_entry:5} per entry, get      : {micros:.2} us CPU");
        drop((store, applier));
        std::fs::remove_dir_all(&dir)?;
    }
    Ok(())
}
