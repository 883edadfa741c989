//! The files of the repository.

use std::fs;
use std::path::{Path, PathBuf};

use kvnode_tests::binary::repository;

/// One Rust source file.
pub(crate) struct Source {
    /// Path from the root of the repository, with `/`.
    pub(crate) path: String,
    /// Content.
    pub(crate) text: String,
}

/// All Rust sources.
pub(crate) fn sources() -> Vec<Source> {
    let mut files = Vec::new();
    for part in ["server", "operator", "tests"] {
        walk(&repository().join(part), "rs", &mut files);
    }
    files
        .into_iter()
        .map(|file| Source {
            path: file.strip_prefix(repository()).unwrap_or(&file).display().to_string(),
            text: fs::read_to_string(&file).unwrap_or_default(),
        })
        .collect()
}

/// All Markdown files.
pub(crate) fn markdown_files() -> Vec<PathBuf> {
    let mut files = Vec::new();
    walk(repository(), "md", &mut files);
    files
}

/// Everything in which a command may be played: scripts, end-to-end tests, client scripts.
pub(crate) fn played_text() -> String {
    let mut files = Vec::new();
    for (part, extension) in
        [("conformance", "txt"), ("e2e", "rs"), ("clients", "py"), ("clients", "cjs"), ("src", "rs")]
    {
        walk(&repository().join("tests").join(part), extension, &mut files);
    }
    files.iter().filter_map(|file| fs::read_to_string(file).ok()).collect::<Vec<_>>().join("\n")
}

fn walk(dir: &Path, extension: &str, found: &mut Vec<PathBuf>) {
    let Ok(entries) = fs::read_dir(dir) else { return };
    for path in entries.filter_map(|entry| entry.ok().map(|entry| entry.path())) {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if path.is_dir() {
            if !name.starts_with('.') && name != "target" && name != "node_modules" && name != "data" {
                walk(&path, extension, found);
            }
        } else if path.extension().is_some_and(|found| found == extension) {
            found.push(path);
        }
    }
    found.sort();
}
