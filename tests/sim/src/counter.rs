//! A counter that all clients increment: what was done twice or not at all shows in it.
//!
//! Registers forgive a write that is applied twice as long as nobody looks in between; a counter does not. Each reply is
//! the value after the increment, so with the last value known it is clear how many increments nobody was told of.

use anyhow::{Result, ensure};

/// One INCR.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Increment {
    /// Moment of the call.
    pub call: u64,
    /// Moment of the reply, and the value in it; `None` = unknown outcome.
    pub told: Option<(u64, i64)>,
}

/// Judges all increments of a counter that was 0 and is `last` after them.
///
/// # Errors
/// What cannot be.
pub fn judge(increments: &[Increment], last: i64) -> Result<()> {
    let mut told: Vec<(i64, u64, u64)> =
        increments.iter().filter_map(|one| one.told.map(|(end, value)| (value, one.call, end))).collect();
    told.sort_unstable();
    let (mut before, mut called) = (0, 0);
    for (value, call, end) in &told {
        ensure!(*value > before, "two increments were told the value {value}");
        ensure!(*end >= called, "an increment to {value} ended before one to less was called");
        (before, called) = (*value, called.max(*call));
    }
    ensure!(before <= last, "the counter is {last}, but somebody was told {before}");
    let (unknown, untold) =
        (increments.len() - told.len(), usize::try_from(last)?.saturating_sub(told.len()));
    ensure!(untold <= unknown, "{untold} increments were told nobody, but only {unknown} had no answer");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(call: u64, end: u64, value: i64) -> Increment {
        Increment { call, told: Some((end, value)) }
    }

    #[test]
    fn every_increment_is_done_once_and_in_order() {
        let unknown = Increment { call: 5, told: None };
        let text = |all: &[Increment], last| judge(all, last).unwrap_err().to_string();
        assert!(judge(&[told(1, 4, 2), told(2, 3, 1), unknown], 3).is_ok());
        assert!(judge(&[told(1, 4, 1), unknown], 1).is_ok(), "never done");
        assert!(text(&[told(1, 2, 1), told(3, 4, 1)], 1).starts_with("two increments"));
        assert!(text(&[told(1, 2, 2), told(3, 4, 1)], 2).contains("ended before"));
        assert!(text(&[told(1, 2, 1), told(3, 4, 2)], 1).contains("somebody was told 2"));
        assert!(text(&[told(1, 2, 2)], 2).starts_with("1 increments were told nobody"));
    }
}
