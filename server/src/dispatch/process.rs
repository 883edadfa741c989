//! Facts of this process from `/proc`, for INFO. A file that cannot be read leaves its facts out.

use std::fs;

/// Clock ticks per second of `/proc/self/stat`: fixed by the Linux ABI (`USER_HZ`).
const TICKS_PER_SECOND: f64 = 100.0;

/// What INFO tells of the process.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Usage {
    /// Resident memory now, bytes.
    pub resident_bytes: Option<u64>,
    /// Most resident memory so far, bytes.
    pub peak_bytes: Option<u64>,
    /// Processor time of our code, seconds.
    pub user_seconds: Option<f64>,
    /// Processor time of the kernel for us, seconds.
    pub system_seconds: Option<f64>,
    /// The same of processes that this one has waited for.
    pub children_user_seconds: Option<f64>,
    /// The kernel's for them.
    pub children_system_seconds: Option<f64>,
    /// Memory of the machine, bytes.
    pub machine_bytes: Option<u64>,
}

/// Reads the facts of this process now.
#[must_use]
pub fn usage() -> Usage {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let machine = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    parse(&status, &stat, &machine)
}

/// The field of a file of lines `name: number kB`.
fn bytes(file: &str, field: &str) -> Option<u64> {
    let line = file.lines().find_map(|line| line.strip_prefix(field))?;
    let kibibytes: u64 = line.split_whitespace().next()?.parse().ok()?;
    Some(kibibytes * 1024)
}

fn parse(status: &str, stat: &str, machine: &str) -> Usage {
    // The program's name, in parentheses, may hold blanks; the fields are counted behind it (utime is field 14).
    let fields: Vec<&str> = stat.rsplit(") ").next().unwrap_or_default().split(' ').collect();
    let seconds = |at: usize| fields.get(at)?.parse::<f64>().ok().map(|ticks| ticks / TICKS_PER_SECOND);
    Usage {
        resident_bytes: bytes(status, "VmRSS:"),
        peak_bytes: bytes(status, "VmHWM:"),
        user_seconds: seconds(11),
        system_seconds: seconds(12),
        children_user_seconds: seconds(13),
        children_system_seconds: seconds(14),
        machine_bytes: bytes(machine, "MemTotal:"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proc_files_are_read_by_field() {
        let status = "Name:\tkv\nVmHWM:\t    2048 kB\nVmRSS:\t    1024 kB\n";
        let stat = "12 (a ) b) S 1 2 3 4 5 6 7 8 9 10 250 50 100 25 20 0";
        let usage = parse(status, stat, "MemTotal:       4 kB\nMemFree: 2 kB\n");
        assert_eq!(usage.resident_bytes, Some(1024 * 1024));
        assert_eq!(usage.peak_bytes, Some(2048 * 1024));
        assert_eq!((usage.user_seconds, usage.system_seconds), (Some(2.5), Some(0.5)));
        let children = (usage.children_user_seconds, usage.children_system_seconds);
        assert_eq!(children, (Some(1.0), Some(0.25)));
        assert_eq!(usage.machine_bytes, Some(4096));
    }

    #[test]
    fn what_cannot_be_read_is_left_out() {
        assert_eq!(parse("", "", ""), Usage::default());
    }
}
