//! Which commands stand in the audit trail, and what is told of them.
//!
//! Invariant: of the words of a request only those leave this module that [`object`] picks, none of which is a secret.

use std::sync::LazyLock;

use bytes::Bytes;

use super::replica::Replica;
use super::{Connection, Dispatcher};
use crate::audit::{self, Caller, Event};
use crate::command::args::printable;
use crate::command::{Flags, Spec, table};
use crate::resp::Reply;

/// Rows of administration that change nothing. Whoever adds a row of administration is told of until it stands here.
const QUESTIONS: &[&str] = &[
    "ACL|DRYRUN",
    "ACL|GETUSER",
    "ACL|LIST",
    "ACL|USERS",
    "CLIENT|LIST",
    "CLIENT|NO-EVICT",
    "CONFIG|GET",
    "CONFIG|HELP",
    "LATENCY|HELP",
    "LATENCY|HISTORY",
    "LATENCY|LATEST",
    "MODULE|LIST",
    "SLOWLOG|GET",
    "SLOWLOG|HELP",
    "SLOWLOG|LEN",
];
/// Bytes of what a command was about.
const OBJECT_BYTES_MAX: usize = 256;

/// By slot.
static AUDITED: LazyLock<Vec<bool>> = LazyLock::new(|| {
    let changes_all = Flags::WRITE.with(Flags::DANGEROUS);
    let is_told = |row: &Spec| {
        row.flags.has(changes_all)
            || (row.flags.has(Flags::ADMIN) && row.subcommands.is_empty() && !QUESTIONS.contains(&row.name))
    };
    table::rows().map(is_told).collect()
});

/// True if what the row of this slot does is told.
pub(super) fn is_audited(slot: usize) -> bool {
    AUDITED.get(slot).copied().unwrap_or(false)
}

/// What a request was about, as far as it may be told.
fn object(name: &str, words: &[Bytes]) -> String {
    let mut text = match name {
        "CONFIG|SET" => {
            words.iter().skip(2).step_by(2).map(|word| printable(word)).collect::<Vec<_>>().join(",")
        }
        name if name.starts_with("RAFT") => words.get(1).map_or_else(String::new, |word| printable(word)),
        _ => String::new(),
    };
    let mut end = text.len().min(OBJECT_BYTES_MAX);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.truncate(end);
    text
}

impl<R: Replica> Dispatcher<R> {
    /// Tells what an administrative command came to. `words` are not known of what a transaction has queued.
    pub(super) fn audit(connection: &Connection, slot: usize, words: &[Bytes], reply: Option<&Reply>) {
        if !is_audited(slot) {
            return;
        }
        let Some(row) = table::rows().nth(slot) else { return };
        // Without RESET it is a question.
        if row.name == "ACL|LOG" && words.len() < 3 {
            return;
        }
        let caller = caller(connection);
        audit::note(&Event::Command {
            caller: Caller { user: &caller.0, peer: caller.1, client: connection.client.id },
            command: &row.name.to_ascii_lowercase(),
            object: &object(row.name, words),
            done: !matches!(reply, Some(Reply::Error(_))),
        });
    }
}

/// Name and address of a connection.
pub(super) fn caller(connection: &Connection) -> (String, String) {
    (printable(connection.standing.login.name().as_bytes()), connection.client.peer())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_changes_the_node_or_all_data_is_told_and_questions_are_not() {
        let slot =
            |name: &str| table::rows().position(|row| row.name == name).unwrap_or_else(|| panic!("{name}"));
        for name in [
            "ACL|LOAD",
            "ACL|LOG",
            "ACL|SETUSER",
            "BGSAVE",
            "CLIENT|KILL",
            "CLIENT|PAUSE",
            "CONFIG|SET",
            "FLUSHALL",
            "FLUSHDB",
            "MONITOR",
            "PDEL",
            "RAFTADDPEER",
            "RAFTREMOVEPEER",
            "RAFTSHRINKLOG",
            "RAFTSNAPSHOT",
            "RAFTTRANSFER",
            "SHUTDOWN",
        ] {
            assert!(is_audited(slot(name)), "{name}");
        }
        for name in
            QUESTIONS.iter().chain(&["GET", "SET", "INFO", "RAFTSTATE", "RAFTPEERS", "ACL|WHOAMI", "CONFIG"])
        {
            assert!(!is_audited(slot(name)), "{name}");
        }
    }

    #[test]
    fn of_a_request_only_what_is_no_secret_is_told() {
        let words = |line: &str| -> Vec<Bytes> {
            line.split(' ').map(|word| Bytes::copy_from_slice(word.as_bytes())).collect()
        };
        assert_eq!(object("CONFIG|SET", &words("CONFIG SET a secret b secret")), "a,b");
        assert_eq!(object("RAFTADDPEER", &words("RAFTADDPEER host:1")), "host:1");
        assert_eq!(object("CLIENT|KILL", &words("CLIENT KILL USER secret")), "");
        let many = format!("CONFIG SET{}", " name value".repeat(100));
        assert_eq!(object("CONFIG|SET", &words(&many)).len(), OBJECT_BYTES_MAX);
    }
}
