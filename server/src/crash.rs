//! Crash points: places at which a debug build can be made to kill itself, as `kill -9` would, to the instruction.
//!
//! ```text
//! KVNODE_CRASH_POINT=purge-file-removed:2   die at the second passing (the first, if no number is given)
//! KVNODE_CRASH_WHEN=/some/file              passings count from when this file is there
//! KVNODE_CRASH_POINT=list                   print the table and end
//! ```
//!
//! A point stands between two steps of which the first is done and the second is not: that window is what its row in
//! [`POINTS`] says, and `tests/crash` takes a real cluster through every one of them. The macro `crash_point!` marks
//! the place. A name that is not in the table does not compile; a row that no place has, or that its scene never
//! reaches, fails a test.
//!
//! Invariants
//! - A release build holds nothing of it: the macro is empty there, and so are its conditions.
//! - Only the program is armed, at its start and by its environment; tests and programs that embed a node never are.
//! - What is on disk at the death is what the process had given to the kernel. A kill leaves the page cache, so what a
//!   *power cut* at the same place leaves is for the log's own crash tests (`raft/log/tests/crash.rs`), for `tests/sim`
//!   and for `tests/chaos`. `tests/README.md` says which of the planned crash points is whose.

/// The process dies here, if it was started to. With a condition: only where that holds.
#[cfg(debug_assertions)]
macro_rules! crash_point {
    ($name:literal) => {{
        const POINT: usize = $crate::crash::number($name);
        $crate::crash::pass(POINT);
    }};
    ($name:literal, $condition:expr) => {
        if $condition {
            crash_point!($name);
        }
    };
}

/// Nothing: a release build has no crash points.
#[cfg(not(debug_assertions))]
macro_rules! crash_point {
    ($name:literal) => {{}};
    ($name:literal, $condition:expr) => {{
        // What the condition looks at counts as used; it is never looked at.
        let _ = || $condition;
    }};
}

#[cfg(debug_assertions)]
mod points;

#[cfg(debug_assertions)]
pub use armed::{arm, list, number, pass};
#[cfg(debug_assertions)]
pub use points::{POINTS, Point};

#[cfg(debug_assertions)]
mod armed {
    use std::io::Write as _;
    use std::path::PathBuf;
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicU64, Ordering};

    use rustix::process::{Signal, getpid, kill_process};

    use super::POINTS;

    /// The one point at which this process is to die.
    struct Armed {
        point: usize,
        passing: u64,
        passed: AtomicU64,
        /// Passings count once this is there.
        when: Option<PathBuf>,
    }

    static ARMED: OnceLock<Armed> = OnceLock::new();

    /// Number of a point in the table; an unknown name does not compile.
    ///
    /// # Panics
    /// There is no such point.
    #[must_use]
    pub const fn number(name: &str) -> usize {
        let mut at = 0;
        while at < POINTS.len() {
            if same(POINTS[at].name.as_bytes(), name.as_bytes()) {
                return at;
            }
            at += 1;
        }
        panic!("this crash point is not in the table: server/src/crash/points.rs")
    }

    const fn same(one: &[u8], other: &[u8]) -> bool {
        let mut at = 0;
        while at < one.len() && at < other.len() && one[at] == other[at] {
            at += 1;
        }
        at == one.len() && at == other.len()
    }

    /// Arms the process: `name` or `name:passing`. Only the first call counts.
    ///
    /// # Errors
    /// What is wrong, with the names that there are.
    pub fn arm(asked: &str, when: Option<PathBuf>) -> Result<(), String> {
        let (name, passing) = asked.split_once(':').unwrap_or((asked, "1"));
        let Some(point) = POINTS.iter().position(|point| point.name == name) else {
            let names: Vec<&str> = POINTS.iter().map(|point| point.name).collect();
            return Err(format!("there is no crash point {name:?}; there are {}", names.join(", ")));
        };
        let passing = passing.parse().ok().filter(|passing| *passing > 0);
        let passing = passing.ok_or_else(|| format!("{asked:?}: the passing is a number from 1 on"))?;
        let _ = ARMED.set(Armed { point, passing, passed: AtomicU64::new(0), when });
        Ok(())
    }

    /// The table as lines of name, different passings, scenes and window, with tabs between them.
    #[must_use]
    pub fn list() -> String {
        let line = |point: &super::Point| {
            let scenes = point.scenes.join(",");
            format!("{}\t{}\t{scenes}\t{}\n", point.name, point.passings, point.window)
        };
        POINTS.iter().map(line).collect()
    }

    /// A thread is at this point.
    pub fn pass(point: usize) {
        let Some(armed) = ARMED.get().filter(|armed| armed.point == point) else { return };
        if armed.when.as_ref().is_some_and(|file| !file.exists()) {
            return;
        }
        let passed = armed.passed.fetch_add(1, Ordering::Relaxed) + 1;
        if passed == armed.passing {
            // To tell it from any other end; in one write, so that no other thread's line gets between. Nothing can be
            // done if nobody takes it.
            let line = format!("kvnode-server: died at {}:{passed}\n", POINTS[point].name);
            let _ = std::io::stderr().write_all(line.as_bytes());
            // It cannot be refused to a process by itself; were it, this thread still would not go on.
            let _ = kill_process(getpid(), Signal::KILL);
            loop {
                std::thread::park();
            }
        }
    }

    #[cfg(test)]
    mod tests {
        use std::collections::BTreeSet;

        use super::*;

        #[test]
        fn names_are_distinct_and_every_point_has_a_scene() {
            let names: BTreeSet<&str> = POINTS.iter().map(|point| point.name).collect();
            assert_eq!(names.len(), POINTS.len());
            for (at, point) in POINTS.iter().enumerate() {
                assert_eq!(number(point.name), at);
                assert!(!point.scenes.is_empty() && point.passings > 0, "{}", point.name);
                assert!(!point.window.contains(['\t', '\n']), "{}", point.name);
            }
            assert_eq!(list().lines().count(), POINTS.len());
        }

        #[test]
        fn what_does_not_name_a_point_is_refused_with_the_names_that_do() {
            let error = arm("log-written", None).unwrap_err();
            assert!(error.contains("\"log-written\"") && error.contains("log-written-not-synced"), "{error}");
            for wrong in ["log-written-not-synced:0", "log-written-not-synced:x", "log-written-not-synced:"] {
                assert!(arm(wrong, None).unwrap_err().contains("from 1 on"), "{wrong}");
            }
            assert!(ARMED.get().is_none(), "nothing of that arms");
        }
    }
}
