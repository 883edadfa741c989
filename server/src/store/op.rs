//! What the log stores and what the machine answers.
//!
//! An [`Op`] changes data and goes through the log; a [`Query`] reads. Both are plain values: the command layer makes
//! them, the log carries a [`Batch`] of ops, `apply` turns each op into one [`Outcome`].
//!
//! Relative times travel as durations and become deadlines where the entry is applied, from the entry's own time.

use bytes::Bytes;

use super::LogId;
use super::bits::BitOperation;
use super::change::{Change, Condition, Expiry};
use crate::clock::UnixMs;

/// Number of a logical database, 0 to `databases - 1` (SELECT).
pub type DbIndex = u8;

/// Type of a value, first byte of its header. Only strings exist now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum TypeTag {
    /// Redis string.
    String = 1,
}

/// One change. Outcome shapes are given per variant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    /// Sets a key without conditions; clears a deadline. `Outcome::Ok`.
    Set {
        /// Database.
        db: DbIndex,
        /// Key.
        key: Bytes,
        /// Value.
        value: Bytes,
        /// Absolute deadline, or `None` for a key that does not expire (used by restore; `PXAT` later).
        deadline: Option<UnixMs>,
    },
    /// Sets all pairs atomically; of a repeated key the last one wins. `Outcome::Ok`.
    MSet {
        /// Database.
        db: DbIndex,
        /// Pairs of key and value.
        pairs: Vec<(Bytes, Bytes)>,
    },
    /// Deletes keys; a key named twice counts once (as Redis). `Outcome::Int(deleted)`.
    Del {
        /// Database.
        db: DbIndex,
        /// Keys.
        keys: Vec<Bytes>,
    },
    /// Deletes those keys whose value contains `part`; an empty part matches any value. `Outcome::Int(deleted)`.
    DelIf {
        /// Database.
        db: DbIndex,
        /// Bytes searched in the value.
        part: Bytes,
        /// Keys.
        keys: Vec<Bytes>,
    },
    /// Deletes all keys that match a Redis glob. `Outcome::Int(deleted)`.
    PDel {
        /// Database.
        db: DbIndex,
        /// Redis glob, byte-wise.
        pattern: Bytes,
    },
    /// Empties one database. `Outcome::Ok`.
    FlushDb {
        /// Database.
        db: DbIndex,
    },
    /// Empties all databases. `Outcome::Ok`.
    FlushAll,
    /// Changes one string; outcomes are those of [`Change`].
    Update {
        /// Database.
        db: DbIndex,
        /// Key.
        key: Bytes,
        /// What happens to it.
        change: Change,
    },
    /// MSETNX, MSETEX: sets all pairs if `condition` (Missing, Present or Always) holds of every key.
    /// `Outcome::Int`: 1 if it did.
    MSetIf {
        /// Database.
        db: DbIndex,
        /// Pairs of key and value.
        pairs: Vec<(Bytes, Bytes)>,
        /// What must hold.
        condition: Condition,
        /// Deadline of all.
        expiry: Expiry,
    },
    /// COPY, MOVE and RENAME: puts the value and deadline of one key under another one. `Outcome::Int`: 1 if done, 0 if
    /// the key is missing or the place is taken; with `must_exist`, `Failure::NoSuchKey` if it is missing; with
    /// `replaces` too, `Outcome::Ok` for done.
    Transfer {
        /// From this database.
        from_db: DbIndex,
        /// This key.
        from: Bytes,
        /// To this database.
        to_db: DbIndex,
        /// Under this key.
        to: Bytes,
        /// How.
        how: Transfer,
    },
    /// SWAPDB. `Outcome::Ok`. Rewrites every key of both.
    SwapDb {
        /// One.
        one: DbIndex,
        /// The other.
        two: DbIndex,
    },
    /// BITOP. `Outcome::Int`: length of the result; an empty one deletes `to`.
    BitOp {
        /// Database.
        db: DbIndex,
        /// What to do.
        operation: BitOperation,
        /// Result.
        to: Bytes,
        /// Operands.
        keys: Vec<Bytes>,
    },
    /// Removes those of these keys that have expired. Proposed by the leader. Without keys it only carries the time.
    /// `Outcome::Int`: removed.
    Reap {
        /// Candidates.
        keys: Vec<(DbIndex, Bytes)>,
    },
    /// A transaction: if each watched key is still as it was, all steps in order, at one log time.
    /// `Outcome::List` of their outcomes, or `Outcome::Nil` if a watched key changed.
    Transaction {
        /// What must be as it was.
        watched: Vec<Watched>,
        /// What to do.
        steps: Vec<Step>,
    },
}

/// What [`Op::Transfer`] does beside putting the value in its place.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Transfer {
    /// The old key goes.
    pub removes: bool,
    /// A key in its place is replaced.
    pub replaces: bool,
    /// It is an error if the key is missing.
    pub must_exist: bool,
}

/// A key as WATCH saw it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Watched {
    /// Database.
    pub db: DbIndex,
    /// Key.
    pub key: Bytes,
    /// Log index of its last change; `None` if it could not be seen.
    pub version: Option<u64>,
}

/// One step of a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// A change; its outcome.
    Write(Op),
    /// A read; `Outcome::Answer`.
    Read(Query),
}

impl Op {
    /// True if the op can only shrink or keep the data, so it stays admitted when the disk is full.
    #[must_use]
    pub fn frees_space(&self) -> bool {
        match self {
            Op::Del { .. }
            | Op::DelIf { .. }
            | Op::PDel { .. }
            | Op::FlushDb { .. }
            | Op::FlushAll
            | Op::Reap { .. } => true,
            Op::Update { change, .. } => change.frees_space(),
            Op::Set { .. }
            | Op::MSet { .. }
            | Op::MSetIf { .. }
            | Op::Transfer { .. }
            | Op::SwapDb { .. }
            | Op::BitOp { .. } => false,
            Op::Transaction { steps, .. } => steps.iter().all(|step| match step {
                Step::Write(op) => op.frees_space(),
                Step::Read(_) => true,
            }),
        }
    }

    /// Shows `each` the keys that this op may read or change; false if they cannot be told.
    pub fn each_key<'a>(&'a self, each: &mut impl FnMut(DbIndex, &'a Bytes)) -> bool {
        match self {
            Op::Set { db, key, .. } | Op::Update { db, key, .. } => each(*db, key),
            Op::MSet { db, pairs } | Op::MSetIf { db, pairs, .. } => {
                for (key, _) in pairs {
                    each(*db, key);
                }
            }
            Op::Del { db, keys } | Op::DelIf { db, keys, .. } => {
                for key in keys {
                    each(*db, key);
                }
            }
            Op::Transfer { from_db, from, to_db, to, .. } => {
                each(*from_db, from);
                each(*to_db, to);
            }
            Op::BitOp { db, to, keys, .. } => {
                each(*db, to);
                {
                    for key in keys {
                        each(*db, key);
                    }
                }
            }
            Op::Reap { keys } => {
                for (db, key) in keys {
                    each(*db, key);
                }
            }
            Op::PDel { .. }
            | Op::FlushDb { .. }
            | Op::FlushAll
            | Op::SwapDb { .. }
            | Op::Transaction { .. } => return false,
        }
        true
    }

    /// Bytes that this op brings into the log, within a few per cent; for batch limits and permits.
    #[must_use]
    pub fn size_bytes(&self) -> usize {
        const HEAD: usize = 16;
        match self {
            Op::Set { key, value, .. } => HEAD + key.len() + value.len(),
            Op::MSet { pairs, .. } => HEAD + pairs.iter().map(|(k, v)| 8 + k.len() + v.len()).sum::<usize>(),
            Op::Del { keys, .. } => HEAD + keys.iter().map(|k| 4 + k.len()).sum::<usize>(),
            Op::DelIf { part, keys, .. } => {
                HEAD + part.len() + keys.iter().map(|k| 4 + k.len()).sum::<usize>()
            }
            Op::PDel { pattern, .. } => HEAD + pattern.len(),
            Op::FlushDb { .. } | Op::FlushAll | Op::SwapDb { .. } => HEAD,
            Op::Update { key, change, .. } => HEAD + key.len() + change.size_bytes(),
            Op::MSetIf { pairs, .. } => {
                2 * HEAD + pairs.iter().map(|(k, v)| 8 + k.len() + v.len()).sum::<usize>()
            }
            Op::Transfer { from, to, .. } => HEAD + from.len() + to.len(),
            Op::BitOp { to, keys, .. } => HEAD + to.len() + keys.iter().map(|k| 4 + k.len()).sum::<usize>(),
            Op::Reap { keys } => HEAD + keys.iter().map(|(_, k)| 5 + k.len()).sum::<usize>(),
            Op::Transaction { watched, steps } => {
                let steps = steps.iter().map(|step| match step {
                    Step::Write(op) => 1 + op.size_bytes(),
                    Step::Read(query) => 1 + query.size_bytes(),
                });
                let watched = watched.iter().map(|watched| 16 + watched.key.len());
                HEAD + steps.sum::<usize>() + watched.sum::<usize>()
            }
        }
    }
}

/// One log entry's worth of ops: everything that was pending when the proposer turned round.
///
/// `origin` and `sequence` name the batch: the proposer that made it recognises its own batches when they are applied
/// locally, which resolves an outcome that a lost leader left unknown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Batch {
    /// Log time proposed by the leader; apply uses `max(previous log time, at)`.
    pub at: UnixMs,
    /// Random id of the proposer's process life (not the node id, so a restart never repeats a pair).
    pub origin: u64,
    /// Number of the batch within its origin, from 1.
    pub sequence: u64,
    /// The ops, applied in this order.
    pub ops: Vec<Op>,
}

/// What an entry carries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Payload {
    /// A leader's first entry of its term.
    Blank,
    /// An encoded [`Batch`].
    Batch(Bytes),
    /// An encoded membership, opaque to the store, kept beside the applied id.
    Membership(Bytes),
}

/// A committed entry, ready to be applied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Committed {
    /// Its position.
    pub id: LogId,
    /// Its content.
    pub payload: Payload,
}

/// The machine's answer to one op, the same on every node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Done.
    Ok,
    /// Done, with a count.
    Int(i64),
    /// The key holds a value of another type.
    WrongType,
    /// Not done, or nothing there.
    Nil,
    /// A value.
    Bulk(Bytes),
    /// A decimal number, as text.
    Double(Bytes),
    /// Several.
    List(Vec<Outcome>),
    /// Answer to a read in a transaction.
    Answer(Answer),
    /// Not done, for a reason that the client is told.
    Failed(Failure),
}

/// Why an op was not done. Numbers are in the log's answers between nodes: never change one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Failure {
    /// The value is no 64-bit integer.
    NotInteger = 1,
    /// The sum is none.
    Overflow = 2,
    /// The value is no number.
    NotFloat = 3,
    /// The sum is not finite.
    NanOrInfinity = 4,
    /// The value would be too long.
    TooLong = 5,
    /// The key is missing.
    NoSuchKey = 6,
    /// There is a key where a new one was to be.
    KeyTaken = 7,
}

impl Failure {
    /// All.
    pub const ALL: [Self; 7] = [
        Self::NotInteger,
        Self::Overflow,
        Self::NotFloat,
        Self::NanOrInfinity,
        Self::TooLong,
        Self::NoSuchKey,
        Self::KeyTaken,
    ];
}

/// One read of the state. All are answered from one point in time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Query {
    /// `Answer::Value`.
    Get {
        /// Database.
        db: DbIndex,
        /// Key.
        key: Bytes,
    },
    /// `Answer::Values`, in the order of the keys.
    MGet {
        /// Database.
        db: DbIndex,
        /// Keys.
        keys: Vec<Bytes>,
        /// Refuse (`Answer::TooLarge`) an answer of more bytes than this.
        size_bytes_max: u64,
    },
    /// `Answer::Int`; a key named twice counts twice (as Redis).
    Exists {
        /// Database.
        db: DbIndex,
        /// Keys.
        keys: Vec<Bytes>,
    },
    /// `Answer::Type`.
    Type {
        /// Database.
        db: DbIndex,
        /// Key.
        key: Bytes,
    },
    /// `Answer::Int`.
    DbSize {
        /// Database.
        db: DbIndex,
    },
    /// `Answer::Keys`, sorted by bytes.
    Keys {
        /// Database.
        db: DbIndex,
        /// Redis glob, byte-wise.
        pattern: Bytes,
        /// Where to start.
        pivot: Option<Pivot>,
        /// Most keys to return; `None` is all.
        limit: Option<u64>,
        /// Descending order.
        descending: bool,
        /// Return values beside the keys.
        with_values: bool,
        /// Refuse (`Answer::TooLarge`) an answer of more bytes than this.
        size_bytes_max: u64,
    },
    /// `Answer::Scan`. The cursor is a keyed-hash position: 0 starts and ends, 63 bits at most, valid on any node.
    Scan {
        /// Database.
        db: DbIndex,
        /// Cursor of the previous answer, or 0.
        cursor: u64,
        /// Redis glob; `None` matches all.
        pattern: Option<Bytes>,
        /// About how many keys to look at; keys of equal hash are never split over pages.
        count: u64,
        /// Only keys of this type.
        only: Option<TypeTag>,
    },
    /// `Answer::Key`: any key, `None` of an empty database. `seed` chooses.
    RandomKey {
        /// Database.
        db: DbIndex,
        /// Random number drawn by the caller.
        seed: u64,
    },
    /// `Answer::Deadline`.
    Deadline {
        /// Database.
        db: DbIndex,
        /// Key.
        key: Bytes,
    },
    /// `Answer::Versions`, in the order of the keys: what WATCH keeps.
    Versions {
        /// Keys and their databases.
        keys: Vec<(DbIndex, Bytes)>,
    },
    /// `Answer::Row`: all there is to know of a key.
    Row {
        /// Database.
        db: DbIndex,
        /// Key.
        key: Bytes,
    },
}

impl Query {
    /// Bytes that it brings into the log, about.
    #[must_use]
    pub fn size_bytes(&self) -> usize {
        const HEAD: usize = 32;
        match self {
            Query::Get { key, .. }
            | Query::Type { key, .. }
            | Query::Deadline { key, .. }
            | Query::Row { key, .. } => HEAD + key.len(),
            Query::MGet { keys, .. } | Query::Exists { keys, .. } => {
                HEAD + keys.iter().map(|key| 4 + key.len()).sum::<usize>()
            }
            Query::Versions { keys } => HEAD + keys.iter().map(|(_, key)| 5 + key.len()).sum::<usize>(),
            Query::DbSize { .. } | Query::RandomKey { .. } => HEAD,
            Query::Keys { pattern, pivot, .. } => {
                HEAD + pattern.len() + pivot.as_ref().map_or(0, |pivot| pivot.key.len())
            }
            Query::Scan { pattern, .. } => HEAD + pattern.as_ref().map_or(0, Bytes::len),
        }
    }
}

/// Start of a KEYS page.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pivot {
    /// The key to start from; it need not exist.
    pub key: Bytes,
    /// Return the key itself too (`INCL`). The ancestor's PIVOT is exclusive in both directions.
    pub inclusive: bool,
}

/// Answer to a [`Query`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// A value or nothing.
    Value(Option<Bytes>),
    /// Values in order, `None` for a missing key.
    Values(Vec<Option<Bytes>>),
    /// A count.
    Int(i64),
    /// The type of a key, `None` if it is missing.
    Type(Option<TypeTag>),
    /// Keys in order, each with its value if asked for.
    Keys(Vec<(Bytes, Option<Bytes>)>),
    /// A page of a scan; cursor 0 is the end.
    Scan {
        /// Where to go on.
        cursor: u64,
        /// Keys of this page.
        keys: Vec<Bytes>,
    },
    /// A key or nothing.
    Key(Option<Bytes>),
    /// The answer would be larger than the limit given.
    TooLarge,
    /// A key holds a value of another type.
    WrongType,
    /// When a key expires.
    Deadline {
        /// `None` if it is missing, `Some(None)` if it does not expire.
        deadline: Option<Option<UnixMs>>,
        /// The time that it was looked at.
        now: UnixMs,
    },
    /// Log indexes of last changes, `None` for what cannot be seen.
    Versions(Vec<Option<u64>>),
    /// A key that can be seen.
    Row(Option<Row>),
    /// Some deadline has come that the log time has not reached: ask again once it has ([`Op::Reap`]).
    Due,
}

/// Value, deadline and version of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// Value.
    pub value: Bytes,
    /// Deadline.
    pub deadline: Option<UnixMs>,
    /// Log index of its last change.
    pub version: u64,
}

/// One key with everything that a snapshot keeps of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Database.
    pub db: DbIndex,
    /// Key.
    pub key: Bytes,
    /// Type of the value.
    pub tag: TypeTag,
    /// Absolute deadline, if the key expires.
    pub deadline: Option<UnixMs>,
    /// Value.
    pub value: Bytes,
}
