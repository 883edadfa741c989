//! Each rule as a function from a file to its faults.

use std::collections::BTreeSet;
use std::fmt;
use std::path::Path;

use kvnode_tests::binary::repository;

use crate::tree::Source;

const LINES_MAX: usize = 600;

/// The one package that may hold unsafe code, and the one file of it that does: the simulation stands in for a function of
/// the C library there.
const UNSAFE_PACKAGE: &str = "tests/sim/";
const UNSAFE_FILE: &str = "tests/sim/src/entropy.rs";

/// Who may import whom inside the server (`ARCHITECTURE.md`). A module may always import itself. `crash_point!` is a macro
/// and no import: it stands wherever the data flows.
const IMPORTS: &[(&str, &[&str])] = &[
    // The clock, and what else is the machine's, is exchanged by the simulation.
    ("clock", &["sim"]),
    ("machine", &["sim"]),
    ("sim", &["clock", "raft"]),
    // One log target; who notes what is told by its callers.
    ("audit", &["clock"]),
    ("crash", &[]),
    ("error", &[]),
    ("resp", &["error", "machine"]),
    ("store", &["clock", "error"]),
    ("snapshot", &["store", "clock", "error"]),
    ("secret", &[]),
    ("command", &["resp", "store", "clock", "error", "config", "secret"]),
    // Rules name rows of the command table; globs are the store's.
    ("acl", &["command", "resp", "store", "clock", "secret"]),
    // What a connection watches is a type of the store.
    ("session", &["command", "resp", "config", "store"]),
    ("metrics", &["clock", "error"]),
    // config refuses a log filter that telemetry would not take.
    ("config", &["error", "telemetry"]),
    ("telemetry", &["error", "config"]),
    // Certificates of all listeners: peers, clients and the admin API reach it from below, beside `net`.
    ("tls", &["clock", "config", "error", "machine"]),
    // raft asks a newcomer who it is at its client address (`resp::ask`).
    (
        "raft",
        &[
            "store", "config", "clock", "metrics", "error", "snapshot", "resp", "tls", "audit", "machine",
            "sim",
        ],
    ),
    // net is generic over its handler; dispatch implements the trait that net owns.
    (
        "dispatch",
        &[
            "command", "acl", "session", "raft", "snapshot", "store", "resp", "metrics", "config", "clock",
            "error", "net", "secret", "audit", "tls", "machine",
        ],
    ),
    ("net", &["resp", "session", "dispatch", "config", "metrics", "clock", "error", "tls", "machine"]),
    (
        "admin",
        &[
            "raft",
            "snapshot",
            "metrics",
            "config",
            "clock",
            "store",
            "error",
            "telemetry",
            "tls",
            "audit",
            "machine",
        ],
    ),
    ("cli", &["node", "probe", "config", "telemetry", "command", "snapshot", "error"]),
];

/// Crates that only these files may name, so that each can be exchanged in one place.
const FENCES: &[(&str, &[&str])] = &[
    ("rocksdb", &["server/src/store/"]),
    ("mlua", &["server/src/dispatch/script/"]),
    ("openraft", &["server/src/raft/"]),
    ("rustls", &["server/src/tls/", "operator/src/"]),
    ("tokio_rustls", &["server/src/tls/", "operator/src/"]),
    ("x509_parser", &["server/src/tls/", "operator/src/"]),
    ("redis_protocol", &["server/src/resp/", "server/src/raft/"]),
    (
        "axum",
        &[
            "server/src/admin/",
            "operator/src/health.rs",
            "operator/src/backup/announce.rs",
            "operator/src/backup/source/tests.rs",
            "operator/src/admin_client/tests.rs",
            "operator/tests/",
        ],
    ),
    ("prometheus", &["server/src/metrics", "server/src/admin/", "operator/src/metrics.rs"]),
    ("aws_sdk_s3", &["operator/src/s3/"]),
    ("cronexpr", &["operator/src/backup/schedule.rs"]),
    ("serde_yaml", &["server/src/config", "operator/src/crd/", "operator/src/build/tests.rs"]),
];

/// A broken rule.
#[derive(Debug)]
pub(crate) struct Fault {
    place: String,
    what: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place, self.what)
    }
}

fn fault(source: &Source, line: Option<usize>, what: impl Into<String>) -> Fault {
    let place = line.map_or_else(|| source.path.clone(), |line| format!("{}:{}", source.path, line + 1));
    Fault { place, what: what.into() }
}

/// Lines of code with their numbers, without comments.
fn code(source: &Source) -> impl Iterator<Item = (usize, &str)> {
    source
        .text
        .lines()
        .enumerate()
        .map(|(number, line)| (number, line.split("//").next().unwrap_or_default()))
}

/// At most 600 lines.
pub(crate) fn short(source: &Source) -> Vec<Fault> {
    let lines = source.text.lines().count();
    if lines <= LINES_MAX {
        Vec::new()
    } else {
        vec![fault(source, None, format!("{lines} lines, split it by knowledge"))]
    }
}

/// The module head.
pub(crate) fn headed(source: &Source) -> Vec<Fault> {
    if source.text.starts_with("//!") {
        Vec::new()
    } else {
        vec![fault(source, None, "does not begin with `//!`")]
    }
}

/// The import table.
pub(crate) fn imports(source: &Source) -> Vec<Fault> {
    let Some(inside) = source.path.strip_prefix("server/src/") else { return Vec::new() };
    let module = inside.split('/').next().unwrap_or_default().trim_end_matches(".rs");
    let Some((_, allowed)) = IMPORTS.iter().find(|(name, _)| *name == module) else { return Vec::new() };
    imported(&source.text)
        .into_iter()
        .filter(|name| name != module && !allowed.contains(&name.as_str()))
        .filter(|name| name.chars().next().is_some_and(char::is_lowercase))
        .map(|name| fault(source, None, format!("`{module}` may not import `{name}`")))
        .collect()
}

/// First path segments after `crate::`, also of `crate::{a, b::c}`; comments do not count.
fn imported(text: &str) -> BTreeSet<String> {
    let stripped: String =
        text.lines().map(|line| line.split("//").next().unwrap_or_default()).collect::<Vec<_>>().join("\n");
    let mut names = BTreeSet::new();
    for (at, mark) in stripped.match_indices("crate::") {
        // `pub(in crate::x)` and `$crate::x` count as well: they name the module.
        let rest = &stripped[at + mark.len()..];
        if let Some(group) = rest.strip_prefix('{') {
            let mut depth = 0_usize;
            let mut start = true;
            let mut name = String::new();
            for letter in group.chars() {
                match letter {
                    '{' => depth += 1,
                    '}' if depth == 0 => break,
                    '}' => depth -= 1,
                    ',' if depth == 0 => {
                        names.insert(std::mem::take(&mut name));
                        start = true;
                    }
                    letter if depth == 0 && start && (letter.is_alphanumeric() || letter == '_') => {
                        name.push(letter);
                    }
                    letter if letter.is_whitespace() => {}
                    _ => start = false,
                }
            }
            names.insert(name);
        } else {
            names.insert(
                rest.chars().take_while(|letter| letter.is_alphanumeric() || *letter == '_').collect(),
            );
        }
    }
    names.remove("");
    names
}

/// The fences round external crates.
pub(crate) fn fences(source: &Source) -> Vec<Fault> {
    if source.path.starts_with("tests/") {
        return Vec::new();
    }
    let mut faults = Vec::new();
    for (name, places) in FENCES {
        if places.iter().any(|place| source.path.starts_with(place)) {
            continue;
        }
        let path = format!("{name}::");
        for (number, line) in code(source) {
            if mentions_path(line, &path) {
                faults.push(fault(source, Some(number), format!("`{name}` belongs only into {places:?}")));
            }
        }
    }
    faults
}

fn mentions_path(line: &str, path: &str) -> bool {
    line.match_indices(path).any(|(at, _)| {
        !line[..at]
            .chars()
            .next_back()
            .is_some_and(|before| before.is_alphanumeric() || before == '_' || before == ':')
    })
}

/// Marks of unfinished work, put together here so that this file does not hold them.
pub(crate) fn leftovers(source: &Source) -> Vec<Fault> {
    let marks: Vec<String> = [
        ("TO", "DO"),
        ("FIX", "ME"),
        ("XX", "X:"),
        ("db", "g!("),
        ("to", "do!("),
        ("unimpl", "emented!("),
        ("#[ign", "ore"),
    ]
    .iter()
    .map(|(left, right)| format!("{left}{right}"))
    .collect();
    let lines = source.text.lines().enumerate();
    lines
        .filter_map(|(number, line)| {
            let mark = marks.iter().find(|mark| line.contains(mark.as_str()))?;
            Some(fault(source, Some(number), format!("{mark} is left over")))
        })
        .collect()
}

/// Suites wait for conditions; only `wait.rs` lets time pass. In the server no thread sleeps in a test.
pub(crate) fn sleeps(source: &Source) -> Vec<Fault> {
    if source.path == "tests/src/wait.rs" || source.path.starts_with("tests/tidy/") {
        return Vec::new();
    }
    let is_suite = source.path.starts_with("tests/");
    let in_tests = source.path.ends_with("/tests.rs");
    let test_part = source.text.find("#[cfg(test)]\nmod tests {").map(|at| source.text[..at].lines().count());
    code(source)
        .filter(|(number, line)| {
            let tested = is_suite || in_tests || test_part.is_some_and(|from| *number >= from);
            tested && (line.contains("thread::sleep(") || is_suite && line.contains("time::sleep("))
        })
        .map(|(number, _)| fault(source, Some(number), "a test sleeps: await a condition"))
        .collect()
}

/// Paths of the members of the workspace.
pub(crate) fn members(manifest: &str) -> Vec<String> {
    let line = manifest.lines().find_map(|line| line.strip_prefix("members = ["));
    let inside = line.and_then(|rest| rest.split(']').next()).unwrap_or_default();
    inside.split(',').map(|path| path.trim().trim_matches('"').to_owned()).collect()
}

/// The workspace's lints hold the ban that no `allow` lifts.
pub(crate) fn forbids_unsafe(manifest: &str) -> Vec<Fault> {
    if manifest.lines().any(|line| line == "unsafe_code = \"forbid\"") {
        return Vec::new();
    }
    vec![Fault { place: "Cargo.toml".into(), what: "`unsafe_code` is not forbidden".into() }]
}

/// A crate has the lints of the workspace.
pub(crate) fn takes_the_lints(place: &str, manifest: &str) -> Vec<Fault> {
    let lifted = place.starts_with(UNSAFE_PACKAGE) && manifest.contains("unsafe_code = \"deny\"");
    if lifted || manifest.contains("[lints]\nworkspace = true\n") {
        return Vec::new();
    }
    vec![Fault { place: place.into(), what: "does not take the lints of the workspace".into() }]
}

/// What a crate of the workspace needs is in a lock file of another workspace that builds it, too: in `manifest` each normal
/// dependency that is not optional.
pub(crate) fn locks(name: &str, manifest: &str, place: &str, lock: &str) -> Vec<Fault> {
    let section = manifest.split_once("\n[dependencies]\n").map_or("", |(_, rest)| rest);
    let section = section.split("\n[").next().unwrap_or_default();
    let needed = section.lines().filter(|line| !line.starts_with('#') && !line.contains("optional = true"));
    let needed = needed.filter_map(|line| line.split_once(" = ")).map(|(dependency, _)| dependency);
    let packages =
        || lock.split("[[package]]").filter(|package| package.contains(&format!("name = \"{name}\"\n")));
    let is_locked = |dependency: &str| {
        packages().any(|package| {
            package
                .lines()
                .any(|line| line.trim().trim_matches(['"', ',']).split(' ').next() == Some(dependency))
        })
    };
    let missing = needed.filter(|dependency| !is_locked(dependency));
    let what = |dependency| {
        format!(
            "lacks {dependency}, which {name} needs: cargo update -w --manifest-path {}",
            place.replace(".lock", ".toml")
        )
    };
    missing.map(|dependency| Fault { place: place.into(), what: what(dependency) }).collect()
}

/// No file lifts the ban for itself; the compiler says so as well, but only for what it is given.
pub(crate) fn unsafe_is_not_allowed(source: &Source) -> Vec<Fault> {
    let lifted = ["allow(unsafe", "expect(unsafe", "warn(unsafe"];
    // This file holds the words.
    let free = source.path.starts_with("tests/tidy/") || source.path == UNSAFE_FILE;
    let lines = code(source).filter(|_| !free);
    lines
        .filter(|(_, line)| lifted.iter().any(|word| line.contains(word)) || line.contains("unsafe {"))
        .map(|(number, _)| fault(source, Some(number), "unsafe code is forbidden"))
        .collect()
}

/// Names of the rows of the command table.
pub(crate) fn command_names(source: &Source) -> Vec<String> {
    if !source.path.starts_with("server/src/command/") || source.path.ends_with("tests.rs") {
        return Vec::new();
    }
    let rows = source.text.lines().filter_map(|line| line.trim().strip_prefix("name: \""));
    let names = rows.filter_map(|rest| rest.split_once('"').map(|(name, _)| name.to_owned()));
    names.filter(|name| name.chars().all(|letter| letter.is_ascii_uppercase() || letter == '|')).collect()
}

/// Names of the rows of the table of crash points.
pub(crate) fn crash_rows(source: &Source) -> Vec<String> {
    if source.path != "server/src/crash/points.rs" {
        return Vec::new();
    }
    let rows = source.text.lines().map(str::trim).filter(|line| line.starts_with('"') && line.ends_with(']'));
    rows.filter_map(|line| line.split('"').nth(1).map(str::to_owned)).collect()
}

/// Names of the crash points that stand in a file of the server.
pub(crate) fn crash_places(source: &Source) -> Vec<String> {
    if !source.path.starts_with("server/src/") || source.path == "server/src/crash.rs" {
        return Vec::new();
    }
    let places =
        code(source).filter_map(|(_, line)| line.split_once("crash_point!(\"").map(|(_, rest)| rest));
    places.filter_map(|rest| rest.split_once('"').map(|(name, _)| name.to_owned())).collect()
}

/// The word as a whole word.
pub(crate) fn mentions(text: &str, word: &str) -> bool {
    let part_of_word = |letter: Option<char>| letter.is_some_and(char::is_alphanumeric);
    text.match_indices(word).any(|(at, _)| {
        !part_of_word(text[..at].chars().next_back()) && !part_of_word(text[at + word.len()..].chars().next())
    })
}

/// Relative links `[text](path#part)` name files that exist.
pub(crate) fn links(file: &Path) -> Vec<Fault> {
    let text = std::fs::read_to_string(file).unwrap_or_default();
    let place = file.strip_prefix(repository()).unwrap_or(file).display().to_string();
    let mut faults = Vec::new();
    for (number, line) in text.lines().enumerate() {
        for (at, _) in line.match_indices("](") {
            let target = line[at + 2..].split(')').next().unwrap_or_default();
            let path = target.split('#').next().unwrap_or_default();
            if path.is_empty() || path.contains("://") || path.starts_with("mailto:") {
                continue;
            }
            if !file.parent().unwrap_or(Path::new(".")).join(path).exists() {
                let place = format!("{place}:{}", number + 1);
                faults.push(Fault { place, what: format!("the link to {path} leads nowhere") });
            }
        }
    }
    faults
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(path: &str, text: &str) -> Source {
        Source { path: path.into(), text: text.into() }
    }

    #[test]
    fn each_rule_finds_its_fault_and_lets_good_code_pass() {
        let bad =
            "use crate::{net, raft::group, store};\nlet x = openraft::Raft::new();\nstd::thread::sleep(d);\n";
        let bad_store = source("server/src/store/tests.rs", bad);
        assert_eq!(imports(&bad_store).len(), 2, "{:?}", imports(&bad_store));
        assert_eq!(fences(&bad_store).len(), 1);
        assert_eq!(sleeps(&bad_store).len(), 1);
        assert_eq!(headed(&bad_store).len(), 1);
        assert_eq!(short(&source("a.rs", &"x\n".repeat(601))).len(), 1);
        assert_eq!(leftovers(&source("a.rs", concat!("// TO", "DO later\n#[ign", "ore]\n"))).len(), 2);
        assert_eq!(unsafe_is_not_allowed(&source("a.rs", "let x = unsafe { y };\n")).len(), 1);
        assert_eq!(unsafe_is_not_allowed(&source("a.rs", "#![allow(unsafe_code)]\n")).len(), 1);
        assert_eq!(forbids_unsafe("unsafe_code = \"deny\"\n").len(), 1);
        assert_eq!(takes_the_lints("a", "[lints]\n").len(), 1);
        assert_eq!(takes_the_lints("a", "unsafe_code = \"deny\"\n").len(), 1);
        assert_eq!(members("members = [\"a\", \"b/c\"]\n"), ["a", "b/c"]);
        let good = source(
            "server/src/store/db.rs",
            "//! Store.\nuse crate::clock::UnixMs;\n// crate::net is above us\n",
        );
        let all = [short, headed, imports, fences, leftovers, sleeps];
        assert_eq!(all.iter().flat_map(|rule| rule(&good)).count(), 0);
    }

    #[test]
    fn whole_words_only() {
        assert!(mentions("> GET K", "GET") && !mentions("> MGET K", "GET") && !mentions("GETNAME", "GET"));
        let row = source("server/src/command/string.rs", "    name: \"SET\",\n    name: \"not a row\",\n");
        assert_eq!(command_names(&row), ["SET"]);
    }

    #[test]
    fn crash_points_are_found_in_the_table_and_in_the_code() {
        let table =
            "    // a comment\n    \"a-not-b\"  9 [\"leader\" \"stop\"]\n        \"a is done; b is not\"\n";
        assert_eq!(crash_rows(&source("server/src/crash/points.rs", table)), ["a-not-b"]);
        let text =
            "crash_point!(\"a-not-b\");\n// crash_point!(\"c\")\n    crash_point!(\"d\", x.is_entry());\n";
        assert_eq!(crash_places(&source("server/src/raft/core.rs", text)), ["a-not-b", "d"]);
        assert!(crash_places(&source("tests/crash/main.rs", text)).is_empty());
    }
}
