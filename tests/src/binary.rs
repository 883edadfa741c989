//! Finds the server binary: `KVNODE_SERVER_BIN`, else built once per test process with the profile of the tests.
//!
//! Always asking cargo (a no-op when fresh) rather than taking what lies in the target directory: a suite that runs
//! against yesterday's binary proves nothing.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// Path of `kvnode-server`.
///
/// # Panics
/// If `KVNODE_SERVER_BIN` names no file or the build fails: no test can go on then.
#[must_use]
pub fn server() -> &'static Path {
    static PATH: OnceLock<PathBuf> = OnceLock::new();
    PATH.get_or_init(|| match std::env::var_os("KVNODE_SERVER_BIN") {
        Some(path) => {
            let path = PathBuf::from(path);
            assert!(path.is_file(), "KVNODE_SERVER_BIN={} is not a file", path.display());
            path
        }
        None => build(),
    })
}

/// Root of the repository.
#[must_use]
pub fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new("."))
}

fn build() -> PathBuf {
    // <target>/<profile>/deps/<suite> or <target>/<profile>/<binary>
    let this = std::env::current_exe().expect("a running program has a path");
    let mut profile_dir = this.parent().expect("a file has a directory");
    if profile_dir.ends_with("deps") {
        profile_dir = profile_dir.parent().expect("deps is in a profile directory");
    }
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(repository()).args([
        "build",
        "--quiet",
        "-p",
        "kvnode-server",
        "--bin",
        "kvnode-server",
    ]);
    if profile_dir.ends_with("release") {
        cargo.arg("--release");
    }
    if let Some(target) = profile_dir.parent() {
        cargo.arg("--target-dir").arg(target);
    }
    let status = cargo.status().expect("cargo can be started");
    assert!(status.success(), "building kvnode-server ended with {status}");
    profile_dir.join("kvnode-server")
}
