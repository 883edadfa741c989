//! What a restore means, before anything of it is done: for a terminal, and for the status of a KvCluster.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::catalog::Backup;

/// What a backup holds, and up to when.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Preview {
    /// Name of the run.
    pub backup: String,
    /// Index of the last entry in it.
    pub index: u64,
    /// Log time of that entry, to the second: nothing later is in it.
    pub until: Timestamp,
    /// Keys of all databases.
    pub keys: u64,
    /// Bytes of state.bin.
    pub size_bytes: u64,
    /// What else one must know of it: it was never verified, or taken without a quorum.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
}

impl Preview {
    /// Of a backup that was chosen, with what its choice warned of.
    #[must_use]
    pub fn of(backup: &Backup, warning: Option<String>) -> Self {
        let snapshot = &backup.meta.snapshot;
        let until = until(snapshot.log_time_ms).unwrap_or_else(|| backup.created());
        let mut warnings: Vec<String> = warning.into_iter().collect();
        if !snapshot.quorum {
            warnings.push("it was taken without a quorum: the newest writes before it may be missing".into());
        }
        Self {
            backup: backup.meta.run.clone(),
            index: snapshot.index,
            until: until.round(jiff::Unit::Second).unwrap_or(until),
            keys: snapshot.keys_total(),
            size_bytes: snapshot.size_bytes,
            warnings,
        }
    }

    /// One line.
    #[must_use]
    pub fn told(&self, now: Timestamp) -> String {
        let Self { backup, index, until, keys, size_bytes, .. } = self;
        let age = age(now.duration_since(*until));
        format!("{backup}: {keys} keys, {size_bytes} bytes, {age} old; nothing after {until}, index {index}")
    }

    /// One more line, given what a living cluster has committed.
    #[must_use]
    pub fn missing(&self, committed: u64) -> String {
        match committed.checked_sub(self.index) {
            Some(0) => "the cluster has committed nothing since".into(),
            Some(entries) => format!(
                "the cluster is at index {committed}: {entries} entries since then are not in the backup"
            ),
            None => format!(
                "the cluster is at index {committed}, the backup goes up to {}: it is of another cluster, or of a later life",
                self.index
            ),
        }
    }
}

/// `3d 4h`, `4h 10m`, `10m 5s`, `5s`.
#[must_use]
pub fn age(age: jiff::SignedDuration) -> String {
    let seconds = age.as_secs().max(0);
    let (days, hours, minutes, rest) =
        (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
    match (days, hours, minutes) {
        (1.., _, _) => format!("{days}d {hours}h"),
        (0, 1.., _) => format!("{hours}h {minutes}m"),
        (0, 0, 1..) => format!("{minutes}m {rest}s"),
        _ => format!("{rest}s"),
    }
}

/// The log's time; a cluster that nobody has written to has none.
fn until(log_time_ms: u64) -> Option<Timestamp> {
    let ms = i64::try_from(log_time_ms).ok().filter(|ms| *ms > 0)?;
    Timestamp::from_millisecond(ms).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_are_short() {
        let text = |seconds| age(jiff::SignedDuration::from_secs(seconds));
        assert_eq!(
            [text(5), text(605), text(15_000), text(273_600), text(-9)],
            ["5s", "10m 5s", "4h 10m", "3d 4h", "0s"]
        );
    }

    #[test]
    fn a_cluster_that_was_never_written_to_has_no_last_moment() {
        assert_eq!(until(0), None);
        assert_eq!(until(1500), Timestamp::from_millisecond(1500).ok());
        assert_eq!(until(u64::MAX), None);
    }

    #[test]
    fn a_line_says_what_will_be_missing() {
        let preview = Preview {
            backup: "cart-hourly-1".into(),
            index: 912_331,
            until: "2026-11-21T14:05:02Z".parse().unwrap(),
            keys: 40,
            size_bytes: 1234,
            warnings: Vec::new(),
        };
        assert_eq!(
            preview.told("2026-11-21T16:15:02Z".parse().unwrap()),
            "cart-hourly-1: 40 keys, 1234 bytes, 2h 10m old; nothing after 2026-11-21T14:05:02Z, index 912331"
        );
        assert!(preview.missing(912_340).contains("9 entries"));
        assert!(preview.missing(912_331).contains("nothing since"));
        assert!(preview.missing(5).contains("another cluster"));
    }
}
