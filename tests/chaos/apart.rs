//! A run lives in namespaces of its own, those of network, mounts and processes: nothing of it is seen outside, and
//! when its last process ends, whatever ended it, the kernel takes networks, mounts, loop devices and servers away.
//!
//! ```text
//! chaos (this process: signals, exit code, files)
//!   `- unshare --net --mount --pid --fork --kill-child
//!        `- chaos --inside   ends when its standard input ends
//!             `- the servers
//! ```
//!
//! What is left on the disk is a directory with the number of the outer process in its name; those of dead runs are
//! removed by the next one, unless they were kept for a violation.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result};
use kvnode_tests::tool;
use tokio::process::{Child, ChildStdin, Command};
use tokio::signal::unix::{SignalKind, signal};

/// First word of the process inside; the directory of the run follows.
pub(crate) const INSIDE: &str = "--inside";
const PREFIX: &str = "kvnode-chaos-";
/// What a run that was told to end may take for it; then it is killed.
const ENDING_MAX: Duration = Duration::from_secs(30);
/// Exit code that says what this machine lacks.
const LACKS: u8 = 77;
/// Exit code of a run that was told to end.
const INTERRUPTED: u8 = 130;

const APART: [&str; 6] = ["--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"];

const TOOLS: [(&str, &str); 11] = [
    ("unshare", "util-linux"),
    ("nsenter", "util-linux"),
    ("mount", "mount"),
    ("umount", "mount"),
    ("fsfreeze", "util-linux"),
    ("fallocate", "util-linux"),
    ("mkfs.ext4", "e2fsprogs"),
    ("ip", "iproute2"),
    ("iptables-restore", "iptables"),
    ("python3", "python3"),
    ("cp", "coreutils"),
];

/// What this machine lacks, if it does.
pub(crate) fn lack() -> Option<String> {
    if !rustix::process::geteuid().is_root() {
        return Some("needs root, for network namespaces, mounts and loop devices".to_owned());
    }
    if let Some((tool, package)) = TOOLS.iter().find(|(tool, _)| tool::find(tool).is_none()) {
        return Some(format!("needs {tool}, which is not on PATH (package {package})"));
    }
    // Root of a container may have fewer rights.
    let mut trial = std::process::Command::new("unshare");
    trial.args(APART).args(["sh", "-c", "mount -t tmpfs tmpfs /run && test -e /dev/loop-control"]);
    let tried = tool::run(&mut trial);
    tried.err().map(|error| format!("needs the right to make namespaces, mounts and loop devices: {error:#}"))
}

/// Runs this program with these words inside, and cleans up after it.
pub(crate) async fn run(words: &[String]) -> Result<u8> {
    if let Some(what) = lack() {
        eprintln!("chaos: {what}");
        return Ok(LACKS);
    }
    let parent = std::env::temp_dir();
    remove_dead(&parent)?;
    let dir = parent.join(format!("{PREFIX}{}", std::process::id()));
    fs::create_dir_all(&dir)?;
    let code = watch(words, &dir).await;
    fs::remove_dir_all(&dir).with_context(|| format!("remove {}", dir.display()))?;
    code
}

async fn watch(words: &[String], dir: &Path) -> Result<u8> {
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    let mut inside = Command::new("unshare");
    inside.args(APART);
    inside.arg(std::env::current_exe()?).arg(INSIDE).arg(dir).args(words);
    // A process group of its own: Ctrl-C reaches this process, which ends the run in order.
    inside.env("TMPDIR", dir).stdin(Stdio::piped()).process_group(0).kill_on_drop(true);
    let mut inside = inside.spawn().context("start unshare")?;
    // Held apart: whoever waits for a child closes its input first.
    let input = inside.stdin.take();
    let status = tokio::select! {
        biased;
        status = inside.wait() => status?,
        _ = interrupt.recv() => return end(inside, input).await,
        _ = terminate.recv() => return end(inside, input).await,
    };
    let code = status.code().and_then(|code| u8::try_from(code).ok());
    code.with_context(|| format!("the run ended with {status}"))
}

/// Ends the run by the end of its input.
async fn end(mut inside: Child, input: Option<ChildStdin>) -> Result<u8> {
    eprintln!("chaos: told to end");
    drop(input);
    if tokio::time::timeout(ENDING_MAX, inside.wait()).await.is_err() {
        inside.kill().await?;
    }
    Ok(INTERRUPTED)
}

/// Returns once the outer process has gone, or wants the run to end.
pub(crate) async fn told_to_end() {
    let mut input = tokio::io::stdin();
    let mut nothing = tokio::io::sink();
    let _ = tokio::io::copy(&mut input, &mut nothing).await;
}

/// The mounts of names of network namespaces are this run's alone.
pub(crate) fn prepare() -> Result<()> {
    tool::run(std::process::Command::new("mount").args(["-t", "tmpfs", "tmpfs", "/run"]))?;
    Ok(fs::create_dir_all("/run/netns")?)
}

/// Removes what dead runs left.
fn remove_dead(parent: &Path) -> Result<()> {
    for path in left_by_dead(parent, |pid| Path::new(&format!("/proc/{pid}")).exists())? {
        println!("removing {}, left by a run that has ended", path.display());
        fs::remove_dir_all(&path)?;
    }
    Ok(())
}

fn left_by_dead(parent: &Path, lives: impl Fn(u32) -> bool) -> Result<Vec<PathBuf>> {
    let mut left = Vec::new();
    for entry in fs::read_dir(parent)? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let number = name.strip_prefix(PREFIX).and_then(|number| number.parse().ok());
        if number.is_some_and(|pid| !lives(pid)) {
            left.push(path);
        }
    }
    Ok(left)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_dead_runs_left_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["kvnode-chaos-17", "kvnode-chaos-18", "kvnode-chaos-kept-17", "other-17"] {
            fs::create_dir(dir.path().join(name)).unwrap();
        }
        let left = left_by_dead(dir.path(), |pid| pid == 18).unwrap();
        assert_eq!(left, [dir.path().join("kvnode-chaos-17")]);
    }
}
