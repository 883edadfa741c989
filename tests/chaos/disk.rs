//! A disk of each node: an ext4 file system of its own in a file, over a loop device.
//!
//! A power cut is ext4's shutdown ioctl, without a flush of its journal: what was not synced is gone, and everything
//! after it is an I/O error. Unmounted and mounted again, the file system holds what a disk would after the real
//! thing. The same ioctl under a process that goes on is a disk that fails.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use kvnode_tests::tool;
use kvnode_tests::wait::eventually;

const SIZE_BYTES: u64 = 512 << 20;
/// Left free by a filler.
const LEFT_BYTES: u64 = 1 << 20;
/// Longer than the kernel needs to let go of the files of a process that was killed.
const RELEASE_MAX: Duration = Duration::from_secs(10);
/// `EXT4_IOC_SHUTDOWN` with `EXT4_GOING_FLAGS_NOLOGFLUSH` on each directory. In Python, since Rust cannot call an
/// ioctl that no library knows without unsafe code. All directories are opened first, so that a cut of many is one
/// moment.
const SHUT_DOWN: &str = "import fcntl, os, struct, sys
opened = [os.open(path, os.O_RDONLY) for path in sys.argv[1:]]
for one in opened: fcntl.ioctl(one, 0x8004587d, struct.pack('I', 2))";

#[derive(Clone, Debug)]
pub(crate) struct Disk {
    image: PathBuf,
    /// Where it is mounted.
    pub(crate) path: PathBuf,
}

impl Disk {
    /// Makes a disk in this directory and mounts it.
    pub(crate) fn make(dir: &Path, name: &str) -> Result<Self> {
        let disk = Self { image: dir.join(format!("{name}.ext4")), path: dir.join(name) };
        fs::create_dir_all(&disk.path)?;
        fs::File::create(&disk.image)?.set_len(SIZE_BYTES)?;
        tool::run(Command::new("mkfs.ext4").args(["-q", "-F", "-m", "0"]).arg(&disk.image))?;
        disk.mount()?;
        Ok(disk)
    }

    pub(crate) fn mount(&self) -> Result<()> {
        tool::run(Command::new("mount").args(["-o", "loop"]).arg(&self.image).arg(&self.path)).map(drop)
    }

    /// Waits for whoever still holds it: a process that was killed lets go a moment after its end.
    pub(crate) async fn unmount(&self) -> Result<()> {
        let what = format!("{} is unmounted", self.path.display());
        eventually(&what, RELEASE_MAX, async || tool::run(Command::new("umount").arg(&self.path)).map(Some))
            .await
            .map(drop)
    }

    /// Somebody else takes the space.
    pub(crate) fn fill(&self) -> Result<()> {
        let stat = rustix::fs::statvfs(&self.path).context("statvfs")?;
        let bytes = (stat.f_bavail * stat.f_frsize).saturating_sub(LEFT_BYTES);
        tool::run(Command::new("fallocate").args(["-l", &bytes.to_string()]).arg(self.filler())).map(drop)
    }

    /// And gives it back.
    pub(crate) fn empty(&self) -> Result<()> {
        Ok(fs::remove_file(self.filler())?)
    }

    fn is_mounted(&self) -> Result<bool> {
        let mounts = fs::read_to_string("/proc/self/mounts")?;
        let path = self.path.display().to_string();
        Ok(mounts.lines().any(|line| line.split(' ').nth(1) == Some(&path)))
    }

    /// Copies what it holds, in whichever state it is.
    pub(crate) async fn keep(&self, into: &Path) -> Result<()> {
        if self.is_mounted()? {
            self.unmount().await?;
        }
        self.mount()?;
        tool::run(Command::new("cp").args(["-a", "--sparse=always"]).arg(&self.path).arg(into)).map(drop)
    }

    fn filler(&self) -> PathBuf {
        self.path.join("filler")
    }

    /// Sets its present content aside.
    pub(crate) fn remember(&self) -> Result<()> {
        tool::run(Command::new("fsfreeze").arg("--freeze").arg(&self.path))?;
        let copied = copy(&self.image, &self.image.with_extension("old"));
        tool::run(Command::new("fsfreeze").arg("--unfreeze").arg(&self.path))?;
        copied
    }

    /// Puts the content back that was set aside; for a disk that is not mounted.
    pub(crate) fn roll_back(&self) -> Result<()> {
        copy(&self.image.with_extension("old"), &self.image)
    }
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    tool::run(Command::new("cp").arg("--sparse=always").arg(from).arg(to)).map(drop)
}

/// Cuts the power of these disks, or has them fail.
pub(crate) fn shut_down(disks: &[&Disk]) -> Result<()> {
    let python = if Path::new("/usr/bin/python3").exists() { "/usr/bin/python3" } else { "python3" };
    tool::run(Command::new(python).args(["-c", SHUT_DOWN]).args(disks.iter().map(|disk| &disk.path)))
        .map(drop)
}
