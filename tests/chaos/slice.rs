//! The slice of the chaos runs that every change passes: a few faults that must be borne, and a lie that must be seen.

use std::path::Path;
use std::process::Command;
use std::sync::{Mutex, PoisonError};

use kvnode_tests::{binary, tool};

const HELD: i32 = 0;
const VIOLATED: i32 = 1;
const LACKS: i32 = 77;

/// Each wants the machine for itself: a healing has a deadline.
static ALONE: Mutex<()> = Mutex::new(());

/// Runs the program, whose files are in this directory; its exit code and what it printed. `None` after the loud line if
/// this machine lacks what it needs.
fn chaos(words: &[&str], dir: &Path) -> Option<(i32, String)> {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    // Where Debian has iptables and mkfs.ext4, which others than root do not have on theirs.
    let path = format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap_or_default());
    let output = Command::new(env!("CARGO_BIN_EXE_chaos"))
        .args(words)
        .env("PATH", path)
        .env("TMPDIR", dir)
        .env("KVNODE_SERVER_BIN", binary::server())
        .output()
        .expect("chaos can be started");
    let said =
        [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned()).concat();
    let code = output.status.code().expect("it ends by itself");
    if code != LACKS {
        return Some((code, said));
    }
    // A package can be installed; rights cannot.
    let skip = if said.contains("(package ") { tool::skip } else { tool::skip_without_rights };
    skip(said.trim());
    None
}

#[test]
fn a_few_faults_of_each_sort_are_borne() {
    let kinds = "kill pause part power power-all transfer";
    let words = ["--seed", "3", "--faults", "8", "--kinds", kinds, "--calm", "1"];
    let dir = tempfile::tempdir().expect("a directory");
    if let Some((code, said)) = chaos(&words, dir.path())
        && code != HELD
    {
        panic!("{said}\nexit code {code}; its files: {}", dir.keep().display());
    }
}

/// What would not be found here would not be found in the runs that are reported.
#[test]
fn disks_that_lie_are_found() {
    let words =
        ["--seed", "1", "--faults", "3", "--kinds", "power-all", "--plant", "rollback", "--calm", "1"];
    let dir = tempfile::tempdir().expect("a directory");
    if let Some((code, said)) = chaos(&words, dir.path()) {
        assert_eq!(code, VIOLATED, "{said}");
        assert!(said.contains("linearizable"), "{said}");
    }
}
