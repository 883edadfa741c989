//! Programs that a suite needs and the machine may lack.
//!
//! A missing tool is one loud line and a skipped test; with `KVNODE_REQUIRE_TOOLS=1` (CI) it is a failure.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Result, bail};

/// Path of a program on `PATH`, or `None`.
#[must_use]
pub fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|dir| dir.join(program)).find(|file| file.is_file())
}

/// Path of a program. `None` after the loud line says that the caller skips what needs it.
///
/// # Panics
/// If it is missing and `KVNODE_REQUIRE_TOOLS` is set.
#[must_use]
pub fn need(program: &str) -> Option<PathBuf> {
    let found = find(program);
    if found.is_none() {
        skip(&format!("{program} is not installed"));
    }
    found
}

/// Says loudly that something is not tested here.
///
/// # Panics
/// If `KVNODE_REQUIRE_TOOLS` is set.
pub fn skip(why: &str) {
    assert!(!required(), "KVNODE_REQUIRE_TOOLS is set and {why}");
    eprintln!("SKIPPED: {why}");
}

/// Says loudly that something needs rights which this machine does not give; never a failure.
pub fn skip_without_rights(why: &str) {
    eprintln!("SKIPPED: {why}");
}

/// True in CI: absence of a tool is a failure.
#[must_use]
pub fn required() -> bool {
    std::env::var_os("KVNODE_REQUIRE_TOOLS").is_some_and(|value| value != "0" && !value.is_empty())
}

/// Runs a program to its end and returns its standard output.
///
/// # Errors
/// It cannot be started or exits with a code other than zero; the message holds its output.
pub fn run(command: &mut Command) -> Result<String> {
    let output = command.output()?;
    let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
    if !output.status.success() {
        let stderr = String::from_utf8_lossy(&output.stderr);
        bail!("{command:?} ended with {}\n{stdout}\n{stderr}", output.status);
    }
    Ok(stdout)
}

/// Directory for things that are costly to make again (client libraries), outside the repository.
#[must_use]
pub fn cache_dir() -> PathBuf {
    if let Some(dir) = std::env::var_os("KVNODE_CACHE") {
        return PathBuf::from(dir);
    }
    let home = std::env::var_os("HOME").unwrap_or_else(|| "/var/tmp".into());
    PathBuf::from(home).join(".cache/kvnode")
}
