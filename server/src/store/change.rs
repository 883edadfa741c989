//! What a command does to one string, as it stands in the log: decided where the entry is applied, never before.
//!
//! ```text
//! Op::Update { db, key, change }  --apply-->  evaluate::change(change, what the key holds, log time)  -->  next, outcome
//! ```
//!
//! Invariants
//! - A change names no clock: a relative time stays a duration until it meets the log time of its entry (decision 10).
//! - Everything here is closed: the same change on the same value at the same log time is the same on every node.

use bytes::Bytes;

use crate::clock::UnixMs;

/// Until when a written value can be seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expiry {
    /// For ever.
    Never,
    /// As before.
    Keep,
    /// For this many milliseconds from the log time of the entry; a negative number is past.
    In(i64),
    /// Until a moment.
    At(UnixMs),
}

impl Expiry {
    /// The deadline that it comes to at `now`, for a key that had `before`.
    #[must_use]
    pub fn deadline(self, before: Option<UnixMs>, now: UnixMs) -> Option<UnixMs> {
        match self {
            Expiry::Never => None,
            Expiry::Keep => before,
            Expiry::In(ms) => Some(UnixMs(now.0.saturating_add_signed(ms))),
            Expiry::At(deadline) => Some(deadline),
        }
    }
}

/// What must hold of the present value, or nothing happens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Condition {
    /// Nothing.
    Always,
    /// The key is missing (NX).
    Missing,
    /// The key is there (XX).
    Present,
    /// It has this value (IFEQ).
    Equals(Bytes),
    /// It has not this value, or is missing (IFNE).
    Differs(Bytes),
    /// Its value has this XXH3 (IFDEQ).
    DigestEquals(u64),
    /// Its value has not this XXH3, or it is missing (IFDNE).
    DigestDiffers(u64),
}

/// What a write of a value answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum WriteAnswer {
    /// `Outcome::Ok`, or `Outcome::Nil` if the condition did not hold.
    Done = 0,
    /// `Outcome::Bulk` with what was there before, or `Outcome::Nil`, whatever the condition.
    Previous = 1,
    /// `Outcome::Int`, 1 if the condition held, else 0.
    Count = 2,
    /// `Outcome::Ok`, or `Failure::KeyTaken` if the condition did not hold (RESTORE).
    Claim = 3,
}

/// Which deadlines EXPIRE replaces; all that are set must hold.
#[allow(clippy::struct_excessive_bools, reason = "four words of a command, each there or not")]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ExpireRule {
    /// Only if there is none (NX).
    pub missing: bool,
    /// Only if there is one (XX).
    pub present: bool,
    /// Only if the new one is later; none is the latest (GT).
    pub later: bool,
    /// Only if the new one is earlier; none is the latest (LT).
    pub earlier: bool,
}

/// What happens to a bit field that a number does not fit in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub enum Overflow {
    /// Modulo its size.
    #[default]
    Wrap = 0,
    /// The nearest limit.
    Saturate = 1,
    /// Nothing changes and nil is answered.
    Fail = 2,
}

/// Where a bit field lies and how it is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Field {
    /// Two's complement.
    pub signed: bool,
    /// 1 to 64, unsigned 1 to 63.
    pub bits: u8,
    /// Of its first bit; bit 0 is the highest of byte 0.
    pub offset: u64,
}

/// One step of BITFIELD.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FieldStep {
    /// GET: the number.
    Get(Field),
    /// SET: the number before.
    Set(Field, i64, Overflow),
    /// INCRBY: the number after.
    Add(Field, i64, Overflow),
}

impl FieldStep {
    /// The field concerned.
    #[must_use]
    pub fn field(&self) -> Field {
        match self {
            FieldStep::Get(field) | FieldStep::Set(field, ..) | FieldStep::Add(field, ..) => *field,
        }
    }
}

/// Step and limits of INCREX.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Bounded {
    /// BYINT.
    Int {
        /// Added.
        by: i64,
        /// LBOUND.
        low: i64,
        /// UBOUND.
        high: i64,
    },
    /// BYFLOAT; decimal texts, checked when parsed.
    Float {
        /// Added.
        by: Bytes,
        /// LBOUND.
        low: Option<Bytes>,
        /// UBOUND.
        high: Option<Bytes>,
    },
}

/// One change of one string.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// SET with options, SETNX, SETEX, GETSET, RESTORE. Outcome as `answer` says.
    Write {
        /// Value.
        value: Bytes,
        /// Its deadline.
        expiry: Expiry,
        /// When to do it.
        condition: Condition,
        /// What to answer.
        answer: WriteAnswer,
    },
    /// GETDEL (`answer` Previous), DELEX and DELIFEQ (Count).
    Remove {
        /// When to do it.
        condition: Condition,
        /// What to answer.
        answer: WriteAnswer,
    },
    /// The EXPIRE family. `Outcome::Int`: 1 if the deadline was set. One that is past deletes the key.
    Expire {
        /// The new deadline.
        expiry: Expiry,
        /// When to set it.
        rule: ExpireRule,
    },
    /// GETEX: `Outcome::Bulk` or `Outcome::Nil`.
    Retrieve {
        /// The new deadline.
        expiry: Expiry,
    },
    /// PERSIST: `Outcome::Int`, 1 if there was a deadline.
    Persist,
    /// APPEND: `Outcome::Int`, the new length.
    Append(Bytes),
    /// SETRANGE: `Outcome::Int`, the new length.
    Overwrite {
        /// First byte that is written.
        offset: u64,
        /// Bytes.
        value: Bytes,
    },
    /// INCR family: `Outcome::Int`, the new number.
    Add(i64),
    /// INCRBYFLOAT: `Outcome::Bulk`, the new number. A decimal text, checked when parsed.
    AddFloat(Bytes),
    /// SETBIT: `Outcome::Int`, the bit before.
    SetBit {
        /// Bit; 0 is the highest of byte 0.
        offset: u64,
        /// Its new value.
        bit: bool,
    },
    /// BITFIELD: `Outcome::List` of `Int` and `Nil`.
    Fields(Vec<FieldStep>),
    /// INCREX: `Outcome::List` of the number after it and what was added, `Int` or `Double`.
    AddBounded {
        /// Step and limits.
        step: Bounded,
        /// Stop at a limit instead of doing nothing.
        saturate: bool,
        /// Deadline; `Keep` leaves it.
        expiry: Expiry,
        /// Only set a deadline where there is none.
        only_first_expiry: bool,
    },
}

impl Change {
    /// True if it can only shrink or keep the data.
    #[must_use]
    pub fn frees_space(&self) -> bool {
        matches!(
            self,
            Change::Remove { .. } | Change::Expire { .. } | Change::Retrieve { .. } | Change::Persist
        )
    }

    /// Bytes that it brings into the log, about.
    #[must_use]
    pub fn size_bytes(&self) -> usize {
        match self {
            Change::Write { value, condition, .. } => 16 + value.len() + condition.size_bytes(),
            Change::Remove { condition, .. } => 4 + condition.size_bytes(),
            Change::Append(value) | Change::Overwrite { value, .. } => 12 + value.len(),
            Change::Fields(steps) => 4 + steps.len() * 24,
            Change::AddFloat(by) => 4 + by.len(),
            Change::AddBounded { .. } => 256,
            Change::Expire { .. }
            | Change::Retrieve { .. }
            | Change::Persist
            | Change::Add(_)
            | Change::SetBit { .. } => 16,
        }
    }
}

impl Condition {
    fn size_bytes(&self) -> usize {
        match self {
            Condition::Equals(value) | Condition::Differs(value) => 4 + value.len(),
            _ => 8,
        }
    }
}
