//! The index of all rows, sorted by name; a missorted row does not compile.
//!
//! Lookup is a binary search that compares in upper case on the fly: no allocation, no hashing. Every row, also of a
//! subcommand, has a slot number from 0 to [`SLOTS`], by which counters are kept.

use std::cmp::Ordering;

use super::{
    Spec, acl, bitmap, client, cluster, connection, expiry, keyspace, latency, lock, memory, number, pubsub,
    raft, relocate, script, server, sort, string, transaction,
};

/// All commands; subcommands hang on their containers.
pub static TABLE: [&Spec; 124] = [
    &acl::ACL,
    &string::APPEND,
    &connection::AUTH,
    &server::BGSAVE,
    &bitmap::BITCOUNT,
    &bitmap::BITFIELD,
    &bitmap::BITFIELD_RO,
    &bitmap::BITOP,
    &bitmap::BITPOS,
    &client::CLIENT,
    &cluster::CLUSTER,
    &server::COMMAND,
    &server::CONFIG,
    &relocate::COPY,
    &keyspace::DBSIZE,
    &server::DEBUG,
    &number::DECR,
    &number::DECRBY,
    &keyspace::DEL,
    &lock::DELEX,
    &string::DELIF,
    &lock::DELIFEQ,
    &lock::DIGEST,
    &transaction::DISCARD,
    &relocate::DUMP,
    &connection::ECHO,
    &script::EVAL,
    &script::EVALSHA,
    &script::EVALSHA_RO,
    &script::EVAL_RO,
    &transaction::EXEC,
    &keyspace::EXISTS,
    &expiry::EXPIRE,
    &expiry::EXPIREAT,
    &expiry::EXPIRETIME,
    &keyspace::FLUSHALL,
    &keyspace::FLUSHDB,
    &string::GET,
    &bitmap::GETBIT,
    &string::GETDEL,
    &string::GETEX,
    &string::GETRANGE,
    &string::GETSET,
    &connection::HELLO,
    &number::INCR,
    &number::INCRBY,
    &number::INCRBYFLOAT,
    &number::INCREX,
    &server::INFO,
    &keyspace::KEYS,
    &server::LASTSAVE,
    &latency::LATENCY,
    &string::LCS,
    &memory::MEMORY,
    &string::MGET,
    &server::MODULE,
    &server::MONITOR,
    &relocate::MOVE,
    &string::MSET,
    &lock::MSETEX,
    &string::MSETNX,
    &transaction::MULTI,
    &keyspace::OBJECT,
    &keyspace::PDEL,
    &expiry::PERSIST,
    &expiry::PEXPIRE,
    &expiry::PEXPIREAT,
    &expiry::PEXPIRETIME,
    &connection::PING,
    &string::PSETEX,
    &pubsub::PSUBSCRIBE,
    &expiry::PTTL,
    &pubsub::PUBLISH,
    &pubsub::PUBSUB,
    &pubsub::PUNSUBSCRIBE,
    &connection::QUIT,
    &raft::RAFTADDPEER,
    &raft::RAFTIDENTITY,
    &raft::RAFTLEADER,
    &raft::RAFTPEERS,
    &raft::RAFTREMOVEPEER,
    &raft::RAFTSHRINKLOG,
    &raft::RAFTSNAPSHOT,
    &raft::RAFTSTATE,
    &raft::RAFTSTATS,
    &raft::RAFTTRANSFER,
    &keyspace::RANDOMKEY,
    &connection::READONLY,
    &connection::READWRITE,
    &relocate::RENAME,
    &relocate::RENAMENX,
    &connection::RESET,
    &relocate::RESTORE,
    &server::ROLE,
    &server::SAVE,
    &keyspace::SCAN,
    &script::SCRIPT,
    &connection::SELECT,
    &string::SET,
    &bitmap::SETBIT,
    &string::SETEX,
    &string::SETNX,
    &string::SETRANGE,
    &server::SHUTDOWN,
    &server::SLOWLOG,
    &sort::SORT,
    &sort::SORT_RO,
    &pubsub::SPUBLISH,
    &pubsub::SSUBSCRIBE,
    &string::STRLEN,
    &pubsub::SUBSCRIBE,
    &string::SUBSTR,
    &pubsub::SUNSUBSCRIBE,
    &relocate::SWAPDB,
    &server::TIME,
    &relocate::TOUCH,
    &expiry::TTL,
    &keyspace::TYPE,
    &keyspace::UNLINK,
    &pubsub::UNSUBSCRIBE,
    &transaction::UNWATCH,
    &connection::WAIT,
    &connection::WAITAOF,
    &transaction::WATCH,
];

/// Slot of each container's first row; the last element is the number of all slots.
static BASES: [usize; TABLE.len() + 1] = bases();

/// Number of rows, containers and subcommands together.
pub const SLOTS: usize = bases()[TABLE.len()];

#[expect(clippy::indexing_slicing, reason = "evaluated at compile time")]
const fn bases() -> [usize; TABLE.len() + 1] {
    let mut bases = [0; TABLE.len() + 1];
    let mut row = 0;
    while row < TABLE.len() {
        bases[row + 1] = bases[row] + 1 + TABLE[row].subcommands.len();
        row += 1;
    }
    bases
}

const _: () = assert!(is_sorted(&TABLE), "the command table must be sorted by name");

#[expect(clippy::indexing_slicing, reason = "evaluated at compile time")]
const fn is_sorted(rows: &[&Spec]) -> bool {
    let mut row = 0;
    while row < rows.len() {
        if row > 0 && !is_less(rows[row - 1].name.as_bytes(), rows[row].name.as_bytes()) {
            return false;
        }
        if !is_sorted(rows[row].subcommands) {
            return false;
        }
        row += 1;
    }
    true
}

#[expect(clippy::indexing_slicing, reason = "evaluated at compile time")]
const fn is_less(left: &[u8], right: &[u8]) -> bool {
    let mut at = 0;
    while at < left.len() && at < right.len() {
        if left[at] != right[at] {
            return left[at] < right[at];
        }
        at += 1;
    }
    left.len() < right.len()
}

/// A row and its slot.
#[derive(Clone, Copy, Debug)]
pub struct Found {
    /// The row.
    pub spec: &'static Spec,
    /// Its number, below [`SLOTS`].
    pub slot: usize,
}

/// Finds a command by its name in any case.
#[must_use]
pub fn find(name: &[u8]) -> Option<Found> {
    let row = TABLE.binary_search_by(|spec| compare(spec.name.as_bytes(), name)).ok()?;
    Some(Found { spec: TABLE.get(row)?, slot: *BASES.get(row)? })
}

/// Finds a subcommand of a container by its name in any case.
#[must_use]
pub fn find_subcommand(container: &Found, name: &[u8]) -> Option<Found> {
    let rows = container.spec.subcommands;
    let prefix = container.spec.name.len() + 1;
    let row = rows
        .binary_search_by(|spec| compare(spec.name.as_bytes().get(prefix..).unwrap_or_default(), name))
        .ok()?;
    Some(Found { spec: rows.get(row)?, slot: container.slot + 1 + row })
}

/// Compares an upper-case name with a word in any case.
fn compare(name: &[u8], word: &[u8]) -> Ordering {
    name.iter().copied().cmp(word.iter().map(u8::to_ascii_uppercase))
}

/// All rows in the order of their slots.
pub fn rows() -> impl Iterator<Item = &'static Spec> {
    TABLE.iter().flat_map(|spec| std::iter::once(*spec).chain(spec.subcommands.iter().copied()))
}

/// Finds a command by `name` or `container|sub`, as COMMAND INFO takes it.
#[must_use]
pub fn find_full(name: &[u8]) -> Option<Found> {
    let mut parts = name.splitn(2, |byte| *byte == b'|');
    let container = find(parts.next()?)?;
    match parts.next() {
        None => Some(container),
        Some(sub) => find_subcommand(&container, sub),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_is_found_in_any_case_at_its_slot() {
        for (slot, spec) in rows().enumerate() {
            for name in [spec.name.to_owned(), spec.name.to_lowercase()] {
                let found = find_full(name.as_bytes()).unwrap_or_else(|| panic!("{name} is not found"));
                assert!(std::ptr::eq(found.spec, spec), "{name}");
                assert_eq!(found.slot, slot, "{name}");
            }
        }
        assert_eq!(rows().count(), SLOTS);
    }

    #[test]
    fn other_names_are_not_found() {
        for name in ["", "GE", "GETX", "ge t", "GET|", "CLIENT|", "CLIENT|NOPE", "\u{130}NFO", "ZZZ", "0"] {
            assert!(find_full(name.as_bytes()).is_none(), "{name:?}");
        }
    }

    #[test]
    fn the_order_check_sees_what_is_out_of_order() {
        assert!(is_less(b"DEL", b"DELIF"));
        assert!(!is_less(b"DELIF", b"DEL"));
        assert!(!is_less(b"DEL", b"DEL"));
        assert!(!is_sorted(&[TABLE[1], TABLE[0]]));
        assert!(!is_sorted(&[TABLE[0], TABLE[0]]));
    }
}
