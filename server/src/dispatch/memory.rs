//! MEMORY STATS and DOCTOR: what the process takes, and what it is configured to take. Pure.

use bytes::Bytes;

use super::info::human;
use super::process::Usage;
use crate::config::Limits;
use crate::resp::Reply;

/// Resident memory beyond its limits that needs no explanation: code, stacks, what the allocator keeps.
const SLACK_BYTES: u64 = 128 << 20;

/// What is known.
pub struct Facts<'a> {
    /// Configured sizes.
    pub limits: &'a Limits,
    /// This process.
    pub usage: Usage,
    /// Texts of the scripts that are remembered.
    pub scripts_bytes: usize,
    /// Keys that can be seen, of all databases.
    pub keys: u64,
    /// Size of the newest data on disk, about; `None` if the engine does not tell.
    pub data_bytes: Option<u64>,
}

impl Facts<'_> {
    /// What memory is configured for, by name.
    fn limits(&self) -> [(&'static str, usize); 6] {
        let limits = self.limits;
        [
            ("limit.memtables", 2 * limits.memtable_bytes),
            ("limit.block-cache", limits.block_cache_bytes),
            ("limit.value-cache", limits.value_cache_bytes),
            ("limit.log-cache", limits.log_cache_bytes),
            ("limit.queue", limits.queue_bytes_max),
            ("limit.request", limits.request_bytes_max),
        ]
    }

    fn allowed(&self) -> u64 {
        self.limits().iter().map(|(_, bytes)| *bytes as u64).sum::<u64>() + SLACK_BYTES
    }
}

fn integer(number: u64) -> Reply {
    Reply::Integer(i64::try_from(number).unwrap_or(i64::MAX))
}

/// MEMORY STATS.
#[must_use]
pub fn stats(facts: &Facts<'_>) -> Reply {
    let per_key = facts.data_bytes.and_then(|bytes| bytes.checked_div(facts.keys));
    let known = [
        ("peak.allocated", facts.usage.peak_bytes),
        ("total.allocated", facts.usage.resident_bytes),
        ("lua.caches", Some(facts.scripts_bytes as u64)),
        ("keys.count", Some(facts.keys)),
        ("keys.bytes-per-key", per_key),
        ("dataset.bytes", facts.data_bytes),
    ];
    let limits = facts.limits().map(|(name, bytes)| (name, Some(bytes as u64)));
    let known = known.into_iter().chain(limits);
    let pair = |(name, value): (&'static str, Option<u64>)| {
        Some((Reply::Bulk(Bytes::from_static(name.as_bytes())), integer(value?)))
    };
    Reply::Map(known.filter_map(pair).collect())
}

/// MEMORY DOCTOR.
#[must_use]
pub fn doctor(facts: &Facts<'_>) -> Reply {
    let allowed = facts.allowed();
    let text = match facts.usage.resident_bytes {
        None => "What this process takes is not known: /proc cannot be read.\n".to_owned(),
        Some(taken) if taken > allowed => format!(
            "This process takes {}, more than the {} of its caches and buffers (MEMORY STATS, limit.*). Many connections \
             with large replies take more; so does a large snapshot that is being sent.\n",
            human(taken),
            human(allowed)
        ),
        Some(taken) => format!(
            "All is well: this process takes {} of the {} that its caches and buffers may take. The data is on disk; limits.* \
             of the configuration choose the sizes.\n",
            human(taken),
            human(allowed)
        ),
    };
    Reply::Verbatim(text.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_known_is_left_out() {
        let limits = Limits::default();
        let usage = Usage { resident_bytes: Some(5), ..Usage::default() };
        let facts = Facts { limits: &limits, usage, scripts_bytes: 7, keys: 0, data_bytes: Some(9) };
        let Reply::Map(pairs) = stats(&facts) else { panic!() };
        let find = |name: &'static str| {
            let name = Reply::Bulk(name.into());
            pairs.iter().find(|(key, _)| *key == name).map(|(_, value)| value.clone())
        };
        assert_eq!(find("total.allocated"), Some(Reply::Integer(5)));
        assert_eq!(find("lua.caches"), Some(Reply::Integer(7)));
        assert_eq!(find("dataset.bytes"), Some(Reply::Integer(9)));
        assert_eq!((find("peak.allocated"), find("keys.bytes-per-key")), (None, None));
    }

    #[test]
    fn the_doctor_compares_with_the_limits() {
        let limits = Limits::default();
        let told = |resident_bytes| {
            let usage = Usage { resident_bytes, ..Usage::default() };
            let facts = Facts { limits: &limits, usage, scripts_bytes: 0, keys: 0, data_bytes: None };
            let Reply::Verbatim(text) = doctor(&facts) else { panic!() };
            String::from_utf8(text.to_vec()).unwrap()
        };
        assert!(told(Some(1 << 20)).starts_with("All is well"));
        assert!(told(Some(1 << 40)).starts_with("This process takes 1.00T, more than"));
        assert!(told(None).contains("not known"));
    }
}
