//! How long to wait after a failure: per object, doubling, with jitter. Pure but for the dice.
//!
//! A thousand clusters that fail at once, because the API server was away, must not come back at once.

use std::collections::BTreeMap;
use std::time::Duration;

use parking_lot::Mutex;

/// Pause after the first failure in a row.
pub const FIRST: Duration = Duration::from_secs(1);
/// Longest pause.
pub const LONGEST: Duration = Duration::from_mins(5);

/// The pause after so many failures in a row (1 = the first): 1 s, 2 s, 4 s ... 5 min, before jitter.
#[must_use]
pub fn pause(failures: u32) -> Duration {
    let doublings = failures.saturating_sub(1).min(16);
    FIRST.saturating_mul(1 << doublings).min(LONGEST)
}

/// Between four and six fifths of a duration, at random.
#[must_use]
pub fn jittered(around: Duration) -> Duration {
    around.mul_f64(rand::random_range(0.8..1.2))
}

/// Failures in a row of each object. Holds an entry only while something fails.
#[derive(Debug)]
pub struct Failures<K>(Mutex<BTreeMap<K, u32>>);

impl<K> Default for Failures<K> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<K: Ord + Clone> Failures<K> {
    /// One more failure: how long to wait now.
    pub fn failed(&self, of: &K) -> Duration {
        let mut failures = self.0.lock();
        let count = failures.entry(of.clone()).or_insert(0);
        *count = count.saturating_add(1);
        jittered(pause(*count))
    }

    /// It works, or is gone.
    pub fn forget(&self, of: &K) {
        self.0.lock().remove(of);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_five_minutes_and_begin_anew_after_a_success() {
        let seconds = [1, 2, 3, 8, 9, 10, u32::MAX].map(|failures| pause(failures).as_secs());
        assert_eq!(seconds, [1, 2, 4, 128, 256, 300, 300]);
        let failures = Failures::default();
        for expected in [1.0, 2.0, 4.0] {
            let pause = failures.failed(&"a").as_secs_f64();
            assert!((expected * 0.8..expected * 1.2).contains(&pause), "{pause} for {expected}");
        }
        assert!(failures.failed(&"b").as_secs_f64() < 1.3, "objects do not share their failures");
        failures.forget(&"a");
        assert!(failures.failed(&"a").as_secs_f64() < 1.3);
    }
}
