//! Why the group did not do what it was asked, by what the caller should do.

/// Why a proposal has no outcomes.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProposeError {
    /// No leader was known for as long as a command is held. Nothing was proposed; safe to repeat.
    #[error("leader not known")]
    NoLeader,
    /// `--redirect moved|try` and another node leads. Nothing was proposed.
    #[error("leader is at {addr}")]
    NotLeader {
        /// Client address of the leader.
        addr: String,
    },
    /// It may or may not have been applied; must never be repeated by itself.
    #[error("outcome unknown: {0}")]
    Unknown(String),
    /// The disk of the leader is full or over its quota and the op needs space. Nothing was proposed.
    #[error("{0}")]
    DiskFull(String),
    /// The queue is full for longer than a command is held. Nothing was proposed.
    #[error("the node is overloaded")]
    Busy,
    /// An op is larger than a log entry may be. Nothing was proposed.
    #[error("{size_bytes} bytes are more than the {limit_bytes} that one log entry may hold")]
    TooLarge {
        /// Size of the op.
        size_bytes: usize,
        /// Limit.
        limit_bytes: usize,
    },
    /// The node is not part of a formed cluster yet.
    #[error("the node is not formed")]
    Unformed,
    /// The node is stopping. Nothing was proposed.
    #[error("the node is shutting down")]
    ShuttingDown,
}

impl ProposeError {
    /// Every [`ProposeError::reason`].
    pub const REASONS: [&'static str; 8] =
        ["no_leader", "not_leader", "unknown", "disk_full", "busy", "too_large", "unformed", "shutting_down"];

    /// One word for metrics.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::NoLeader => "no_leader",
            Self::NotLeader { .. } => "not_leader",
            Self::Unknown(_) => "unknown",
            Self::DiskFull(_) => "disk_full",
            Self::Busy => "busy",
            Self::TooLarge { .. } => "too_large",
            Self::Unformed => "unformed",
            Self::ShuttingDown => "shutting_down",
        }
    }
}

/// Why a read cannot be served at its level.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// No leader with a quorum for as long as a command is held.
    #[error("leader not known")]
    NoLeader,
    /// `--redirect moved|try` and another node leads.
    #[error("leader is at {addr}")]
    NotLeader {
        /// Client address of the leader.
        addr: String,
    },
    /// A leader is there, but the state of this node has not reached what is committed: the leader can answer.
    #[error("this node has not caught up with its leader")]
    Behind {
        /// What it has to reach.
        index: u64,
    },
    /// The node is not part of a formed cluster yet.
    #[error("the node is not formed")]
    Unformed,
    /// The node is stopping.
    #[error("the node is shutting down")]
    ShuttingDown,
}

/// Why a membership verb was refused or failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MemberError {
    /// The request cannot be right; says what and what to do.
    #[error("{0}")]
    Refused(String),
    /// No leader known.
    #[error("leader not known")]
    NoLeader,
    /// The membership is no longer the one that the caller saw.
    #[error("the membership changed: expected log id {expected}, found {found}")]
    Stale {
        /// The caller's.
        expected: String,
        /// The current one.
        found: String,
    },
    /// Started, but the end was not seen in time.
    #[error("outcome unknown: {0}")]
    Unknown(String),
}
