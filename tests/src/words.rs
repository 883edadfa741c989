//! Debian's English word list (`wamerican`): about 100,000 words, the value of each its line number.

use std::path::Path;

use anyhow::{Context, Result};

use crate::resp;
use crate::tool;

const FILE: &str = "/usr/share/dict/american-english";

/// The words in the order of the file, or `None` after the loud line if the package is not installed.
///
/// # Errors
/// The file cannot be read.
pub fn words() -> Result<Option<Vec<String>>> {
    if !Path::new(FILE).exists() {
        tool::skip("the word list (package wamerican) is not installed");
        return Ok(None);
    }
    let text = std::fs::read_to_string(FILE).context(FILE)?;
    Ok(Some(text.lines().map(str::to_owned).collect()))
}

/// `SET word line-number` for each word, as `redis-cli --pipe` takes it.
#[must_use]
pub fn as_commands(words: &[String]) -> Vec<u8> {
    let mut out = Vec::new();
    for (index, word) in words.iter().enumerate() {
        resp::encode(&["SET", word, &(index + 1).to_string()], &mut out);
    }
    out
}
