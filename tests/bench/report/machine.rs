//! What the figures were taken on: cores, memory, kernel, file system, and how long one fdatasync takes there.

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Result;
use serde_json::{Value as Json, json};

use crate::load::histogram;
use crate::sample::quantile_ms;

/// What is appended before each sync: about one small entry of a log.
const APPENDED_BYTES: usize = 128;
/// Syncs of the probe, and its end if the disk is slow.
const SYNCS_MAX: usize = 2000;
const PROBE_MAX: Duration = Duration::from_secs(2);

/// The machine.
#[derive(Clone, Debug)]
pub(crate) struct Machine {
    /// Name and value, in the order in which they are shown.
    pub(crate) facts: Vec<(&'static str, String)>,
}

impl Machine {
    /// Looks at this machine and at the disk below `data`, where all systems keep their files.
    pub(crate) fn look(data: &Path) -> Result<Self> {
        let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        let cpu = read("/proc/cpuinfo");
        let model = cpu.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or_default();
        let memory = read("/proc/meminfo");
        let (mount, kind, options) = file_system(&read("/proc/mounts"), data);
        let syncs = probe_syncs(data)?;
        let facts = vec![
            ("processor", model.trim_start_matches([' ', '\t', ':']).to_owned()),
            ("cores", std::thread::available_parallelism().map_or(0, usize::from).to_string()),
            ("memory", mebibytes(&memory)),
            ("kernel", read("/proc/sys/kernel/osrelease").trim().to_owned()),
            ("file system of the data", format!("{kind} on {mount} ({options})")),
            ("fdatasync after an append of 128 B", syncs),
            ("load when it began", read("/proc/loadavg").split(' ').take(3).collect::<Vec<_>>().join(" ")),
        ];
        Ok(Self { facts })
    }

    /// As fields of a raw result.
    pub(crate) fn json(&self) -> Json {
        let fields = self.facts.iter().map(|(name, value)| ((*name).to_owned(), json!(value)));
        Json::Object(fields.collect())
    }
}

fn mebibytes(meminfo: &str) -> String {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    let kib: Option<u64> = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse().ok());
    kib.map_or_else(|| "unknown".into(), |kib| format!("{} MiB", kib / 1024))
}

/// Mount point, type and options of the file system that holds a path: the longest mount point above it. The last one
/// of equal length counts, since it covers those before it.
fn file_system(mounts: &str, path: &Path) -> (String, String, String) {
    let path = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    let mut best = ("?".to_owned(), "unknown".to_owned(), String::new());
    for line in mounts.lines() {
        let mut fields = line.split(' ').skip(1);
        let (Some(mount), Some(kind), Some(options)) = (fields.next(), fields.next(), fields.next()) else {
            continue;
        };
        if path.starts_with(mount) && (best.0 == "?" || mount.len() >= best.0.len()) {
            best = (mount.to_owned(), kind.to_owned(), options.to_owned());
        }
    }
    best
}

fn probe_syncs(dir: &Path) -> Result<String> {
    let file = tempfile::NamedTempFile::new_in(dir)?;
    let mut appended: &File = file.as_file();
    let mut time_us = histogram();
    let end = Instant::now() + PROBE_MAX;
    while Instant::now() < end && time_us.len() < SYNCS_MAX as u64 {
        appended.write_all(&[b'x'; APPENDED_BYTES])?;
        let start = Instant::now();
        appended.sync_data()?;
        time_us.saturating_record(u64::try_from(start.elapsed().as_micros()).unwrap_or(u64::MAX));
    }
    let ms = |quantile| quantile_ms(&time_us, quantile);
    Ok(format!("p50 {:.3} ms, p99 {:.3} ms, of {} syncs", ms(0.5), ms(0.99), time_us.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_mount_point_above_a_path_is_its_file_system() {
        let mounts = "none / overlay rw 0 0\n/dev/a /var ext4 rw,noatime 0 0\n/dev/b /va xfs rw 0 0\nbad\n";
        let found = |path: &str| file_system(mounts, Path::new(path)).1;
        assert_eq!(found("/var/no-such-directory"), "ext4");
        assert_eq!(found("/no-such-directory"), "overlay");
        assert_eq!(file_system("", Path::new("/no-such-directory")).1, "unknown");
    }

    #[test]
    fn memory_is_told_in_mebibytes() {
        assert_eq!(mebibytes("MemTotal:       24683080 kB\nMemFree: 1 kB\n"), "24104 MiB");
        assert_eq!(mebibytes(""), "unknown");
    }
}
