//! Facts of the process, from /proc.

use super::{Metrics, set};

/// Ticks per second of the times in /proc/self/stat: fixed at 100 in the interface of Linux, whatever the kernel's own.
const TICKS_PER_SECOND: f64 = 100.0;

/// What is missing from /proc keeps its last value.
pub(super) fn scrape(metrics: &Metrics) {
    if let Ok(text) = std::fs::read_to_string("/proc/self/status") {
        if let Some(kib) = field(&text, "VmRSS:") {
            set(&metrics.process_resident_bytes, kib.saturating_mul(1024));
        }
        if let Some(threads) = field(&text, "Threads:") {
            set(&metrics.process_threads, threads);
        }
    }
    if let Ok(files) = std::fs::read_dir("/proc/self/fd") {
        // The listing itself holds one open.
        set(&metrics.process_open_files, (files.count() as u64).saturating_sub(1));
    }
    if let Some(seconds) = std::fs::read_to_string("/proc/self/stat").ok().and_then(|text| cpu_seconds(&text))
    {
        metrics.process_cpu.inc_by((seconds - metrics.process_cpu.get()).max(0.0));
    }
}

/// The number behind a name in /proc/self/status.
fn field(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse().ok()
}

/// User and system time: fields 14 and 15, counted behind the name in brackets, which may hold anything.
fn cpu_seconds(stat: &str) -> Option<f64> {
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_whitespace().skip(11);
    let user: f64 = fields.next()?.parse().ok()?;
    let system: f64 = fields.next()?.parse().ok()?;
    Some((user + system) / TICKS_PER_SECOND)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proc_files_are_read_as_they_are_written() {
        assert_eq!(field("Name:\tkv\nVmRSS:\t  1234 kB\nThreads:\t7\n", "VmRSS:"), Some(1234));
        let stat = "42 (a) b) S 1 2 3 4 5 6 7 8 9 10 150 50 0 0 20 0 7 0";
        assert_eq!(cpu_seconds(stat), Some(2.0));
        assert_eq!(cpu_seconds("nonsense"), None);
    }
}
