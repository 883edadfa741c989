//! A process that gets a share of one core and no more, as a container with such a limit does: by a control group of its
//! own, in the hierarchy `cpu` of version 1 or in the one of version 2.
//!
//! The kernel hands the share out each 100 ms; when it is used up, all threads stand until the next one.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use rustix::process::Pid;

const PERIOD_US: u64 = 100_000;
const ROOT: &str = "/sys/fs/cgroup";

/// A process under such a limit; dropped, it has it no longer.
pub(crate) struct Throttled {
    group: PathBuf,
    pid: Pid,
}

impl Throttled {
    /// Gives the process this much of one core.
    pub(crate) fn start(pid: Pid, percent: u64) -> Result<Self> {
        let quota = PERIOD_US * percent / 100;
        let first = Path::new(ROOT).join("cpu");
        let is_first_version = first.is_dir();
        let above = if is_first_version { first } else { PathBuf::from(ROOT) };
        let group = above.join(format!("kvnode-bench-{}", pid.as_raw_nonzero()));
        let made = || -> Result<()> {
            if !is_first_version {
                fs::write(above.join("cgroup.subtree_control"), "+cpu")?;
            }
            fs::create_dir(&group)?;
            if is_first_version {
                fs::write(group.join("cpu.cfs_period_us"), PERIOD_US.to_string())?;
                fs::write(group.join("cpu.cfs_quota_us"), quota.to_string())?;
            } else {
                fs::write(group.join("cpu.max"), format!("{quota} {PERIOD_US}"))?;
            }
            Ok(fs::write(group.join("cgroup.procs"), pid.as_raw_nonzero().to_string())?)
        };
        let throttled = Self { group: group.clone(), pid };
        made().with_context(|| format!("make {}: that takes root and control groups", group.display()))?;
        Ok(throttled)
    }

    /// How often it had to stand, and for how long in all, in milliseconds.
    pub(crate) fn stood(&self) -> Result<(u64, u64)> {
        let stat = fs::read_to_string(self.group.join("cpu.stat"))?;
        let field = |name: &str| {
            let value = stat.lines().find_map(|line| line.strip_prefix(name));
            value.and_then(|value| value.trim().parse::<u64>().ok())
        };
        let time_us = field("throttled_usec").or_else(|| field("throttled_time").map(|ns| ns / 1000));
        Ok((field("nr_throttled").unwrap_or(0), time_us.unwrap_or(0) / 1000))
    }
}

impl Drop for Throttled {
    fn drop(&mut self) {
        // A process that has ended is in no group any more.
        let above = self.group.parent().unwrap_or(Path::new(ROOT));
        let _ = fs::write(above.join("cgroup.procs"), self.pid.as_raw_nonzero().to_string());
        let _ = fs::remove_dir(&self.group);
    }
}
