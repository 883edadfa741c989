//! Small C libraries that are preloaded into a server, for what a test cannot have the machine do: another wall clock,
//! a disk that fails.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Result;

use crate::tool;

/// The compiler that a library needs.
pub const COMPILER: &str = "cc";

/// Compiles a library into a directory; the environment variable that has it preloaded.
///
/// # Errors
/// There is no compiler, or it refuses the source.
pub fn compile(source: &str, dir: &Path, name: &str) -> Result<(String, String)> {
    let file = |extension: &str| -> PathBuf { dir.join(name).with_extension(extension) };
    let (code, library) = (file("c"), file("so"));
    fs::write(&code, source)?;
    tool::run(Command::new(COMPILER).args(["-shared", "-fPIC", "-O1", "-o"]).arg(&library).arg(&code))?;
    Ok(("LD_PRELOAD".to_owned(), library.display().to_string()))
}
