//! Stands for the C library's `getrandom`: on the thread of a simulation the bytes come from its seed.
//!
//! Everything random in the process begins there: `rand` (node ids, sessions, openraft's election jitter), the keys of
//! hash tables, the order in which tokio's `select!` looks at its branches. So no dependency needs a seam of its own,
//! and a new one cannot bring back chance unnoticed. Each simulation runs in a process of its own ([`crate::apart`]),
//! and there on a thread of its own, since `rand` and the hash tables ask once per thread.
//!
//! Other threads (RocksDB's, tests beside this one) get the kernel's bytes.

use std::cell::Cell;
use std::fs::File;
use std::io::Read;

thread_local! {
    static STATE: Cell<Option<u64>> = const { Cell::new(None) };
}

/// From here on this thread's random bytes follow from the seed.
pub fn seed(seed: u64) {
    STATE.set(Some(seed));
}

/// The next word, by `SplitMix64` (G. Steele, D. Lea, C. Flood, 2014).
fn next(state: u64) -> (u64, u64) {
    let state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut word = state;
    word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    (state, word ^ (word >> 31))
}

fn fill(buffer: &mut [u8], mut state: u64) {
    for part in buffer.chunks_mut(8) {
        let (after, word) = next(state);
        state = after;
        part.copy_from_slice(&word.to_le_bytes()[..part.len()]);
    }
    STATE.set(Some(state));
}

/// As `getrandom(2)`; the flags only say how to wait for a kernel that has no random bytes yet.
#[allow(unsafe_code, reason = "the name and the signature are the C library's")]
#[unsafe(no_mangle)]
extern "C" fn getrandom(buffer: *mut u8, length: usize, _flags: u32) -> isize {
    if length == 0 {
        return 0;
    }
    // SAFETY: by the contract of getrandom the caller owns `length` bytes at `buffer`, which nothing reads meanwhile; a
    // buffer that is not initialised is only written to.
    let buffer = unsafe { std::slice::from_raw_parts_mut(buffer, length) };
    let filled = match STATE.get() {
        Some(state) => {
            fill(buffer, state);
            Ok(())
        }
        None => File::open("/dev/urandom").and_then(|mut kernel| kernel.read_exact(buffer)),
    };
    // A caller looks at errno, which is not ours to set; every one of them takes a failure as such.
    filled.map_or(-1, |()| isize::try_from(length).unwrap_or(isize::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drawn() -> (u64, u64) {
        use std::hash::BuildHasher;
        let hash = std::collections::hash_map::RandomState::new().hash_one(1);
        (rand::random(), hash)
    }

    #[test]
    fn one_seed_gives_the_same_chance_twice_and_another_seed_another() {
        let of = |number| {
            std::thread::spawn(move || {
                seed(number);
                drawn()
            })
            .join()
            .unwrap()
        };
        assert_eq!(of(1), of(1));
        let (first, second) = (of(1), of(2));
        assert!(first.0 != second.0 && first.1 != second.1, "rand and hash tables both follow the seed");
    }
}
