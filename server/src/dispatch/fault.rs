//! Why the group did not serve a request, as the client reads it. [`Fault::reply`] is the one place with these texts.
//!
//! Clients repeat some prefixes by themselves (LOADING above all), so a prefix says whether that is safe: LOADING and
//! BUSY mean that nothing was proposed; an unknown outcome is ERR, which no client repeats.

use crate::config::Redirect;
use crate::raft::{MemberError, ProposeError, ReadError};
use crate::resp::Reply;

/// The reasons of writes, reads and membership verbs together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// No leader for as long as a command is held.
    NoLeader,
    /// The state of this node does not reach what is committed, and what was asked is not answered by the leader.
    Behind,
    /// Another node leads and this one redirects.
    NotLeader(String),
    /// May or may not have happened.
    Unknown(String),
    /// No room for growth.
    DiskFull(String),
    /// Overload.
    Busy,
    /// Larger than a log entry may be.
    TooLarge {
        /// Size.
        size_bytes: usize,
        /// Limit.
        limit_bytes: usize,
    },
    /// Not part of a cluster.
    Unformed,
    /// The node stops.
    ShuttingDown,
    /// Refused with a reason.
    Refused(String),
}

impl From<ProposeError> for Fault {
    fn from(error: ProposeError) -> Self {
        match error {
            ProposeError::NoLeader => Self::NoLeader,
            ProposeError::NotLeader { addr } => Self::NotLeader(addr),
            ProposeError::Unknown(text) => Self::Unknown(text),
            ProposeError::DiskFull(text) => Self::DiskFull(text),
            ProposeError::Busy => Self::Busy,
            ProposeError::TooLarge { size_bytes, limit_bytes } => Self::TooLarge { size_bytes, limit_bytes },
            ProposeError::Unformed => Self::Unformed,
            ProposeError::ShuttingDown => Self::ShuttingDown,
        }
    }
}

impl From<ReadError> for Fault {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::NoLeader => Self::NoLeader,
            ReadError::NotLeader { addr } => Self::NotLeader(addr),
            ReadError::Behind { .. } => Self::Behind,
            ReadError::Unformed => Self::Unformed,
            ReadError::ShuttingDown => Self::ShuttingDown,
        }
    }
}

impl From<MemberError> for Fault {
    fn from(error: MemberError) -> Self {
        match error {
            MemberError::NoLeader => Self::NoLeader,
            MemberError::Unknown(text) => Self::Unknown(text),
            MemberError::Refused(text) => Self::Refused(text),
            stale @ MemberError::Stale { .. } => Self::Refused(stale.to_string()),
        }
    }
}

impl Fault {
    /// The error line. `slot` is the hash slot of the request's first key, 0 without keys.
    #[must_use]
    pub fn reply(&self, redirect: Redirect, slot: u16) -> Reply {
        Reply::Error(match self {
            Self::NoLeader if redirect == Redirect::Try => "ERR leader not known".to_owned(),
            Self::NoLeader => "LOADING leader not known".to_owned(),
            Self::Behind => "LOADING the node has not caught up with its leader; nothing was done".to_owned(),
            Self::NotLeader(addr) if redirect == Redirect::Try => format!("TRY {addr}"),
            Self::NotLeader(addr) => format!("MOVED {slot} {addr}"),
            Self::Unknown(text) => format!("ERR outcome unknown: {text}"),
            Self::DiskFull(text) => format!(
                "OOM {text}; nothing was written: delete keys (DEL, PDEL and FLUSHDB still work) or give the disk more \
                 room"
            ),
            Self::Busy => "BUSY the node is overloaded; nothing was written".to_owned(),
            Self::TooLarge { size_bytes, limit_bytes } => format!(
                "ERR the request brings {size_bytes} bytes, more than the {limit_bytes} that one log entry may hold"
            ),
            Self::Unformed => "LOADING the node is not formed: it belongs to no cluster yet".to_owned(),
            Self::ShuttingDown => "LOADING the node is shutting down; nothing was done".to_owned(),
            Self::Refused(text) => format!("ERR {text}"),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(fault: &Fault, redirect: Redirect) -> String {
        match fault.reply(redirect, 42) {
            Reply::Error(text) => text,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn redirects_speak_the_configured_language() {
        let away = Fault::NotLeader("h:1".to_owned());
        assert_eq!(text(&away, Redirect::Moved), "MOVED 42 h:1");
        assert_eq!(text(&away, Redirect::Try), "TRY h:1");
        assert_eq!(text(&Fault::NoLeader, Redirect::Try), "ERR leader not known");
        assert_eq!(text(&Fault::NoLeader, Redirect::Moved), "LOADING leader not known");
        assert_eq!(text(&Fault::NoLeader, Redirect::Forward), "LOADING leader not known");
    }

    #[test]
    fn only_what_was_not_proposed_has_a_prefix_that_clients_repeat() {
        assert!(
            text(&Fault::Unknown("x".to_owned()), Redirect::Forward).starts_with("ERR outcome unknown: x")
        );
        assert!(
            text(&Fault::DiskFull("disk full".to_owned()), Redirect::Forward).starts_with("OOM disk full;")
        );
        assert!(text(&Fault::Busy, Redirect::Forward).starts_with("BUSY "));
        assert!(text(&Fault::ShuttingDown, Redirect::Forward).starts_with("LOADING "));
        let large = Fault::TooLarge { size_bytes: 7, limit_bytes: 5 };
        let large = text(&large, Redirect::Forward);
        assert!(large.starts_with("ERR ") && large.contains('7') && large.contains('5'), "{large}");
    }
}
