//! Errors that end the program: one line that says what and what to do, and an exit code.
//!
//! The codes follow `sysexits.h`, so that a supervisor can tell "repeat later" from "a person must look":
//!
//! | code | meaning |
//! | --- | --- |
//! | 0 | stopped as asked |
//! | 64 | the command line is wrong |
//! | 65 | data is damaged, of a newer format, or not that of the other members |
//! | 66 | an input file is missing or cannot be read |
//! | 69 | something needed is not there: an address is in use, no member answers |
//! | 70 | fatal while running: a failed sync, a dead Raft core; restart, the node recovers by itself |
//! | 73 | a directory or file cannot be created |
//! | 74 | input or output failed |
//! | 75 | in use by another process: repeat later |
//! | 77 | the cluster refused the node |
//! | 78 | the configuration is wrong |

use std::fmt;

/// Kind of an error that ends the program; decides the exit code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// The command line is wrong.
    Usage,
    /// Data is damaged, of a newer format, or not that of the other members.
    Data,
    /// An input file is missing or cannot be read.
    NoInput,
    /// An address is in use, no member answers.
    Unavailable,
    /// Fatal while running.
    Fatal,
    /// A directory or file cannot be created.
    CannotCreate,
    /// Input or output failed.
    Io,
    /// In use by another process.
    Locked,
    /// The cluster refused the node.
    Refused,
    /// The configuration is wrong.
    Config,
}

impl ErrorKind {
    /// Exit code of the process.
    #[must_use]
    pub fn exit_code(self) -> u8 {
        match self {
            ErrorKind::Usage => 64,
            ErrorKind::Data => 65,
            ErrorKind::NoInput => 66,
            ErrorKind::Unavailable => 69,
            ErrorKind::Fatal => 70,
            ErrorKind::CannotCreate => 73,
            ErrorKind::Io => 74,
            ErrorKind::Locked => 75,
            ErrorKind::Refused => 77,
            ErrorKind::Config => 78,
        }
    }
}

/// Why a node could not start or had to stop.
///
/// Shape: `<what>: <what to do>`, always one line; control characters of the parts are escaped.
#[derive(Debug)]
pub struct NodeError {
    /// Decides the exit code.
    pub kind: ErrorKind,
    /// What happened, with the file, the address or the key, and the system's words.
    pub what: String,
    /// What to do about it.
    pub remedy: String,
}

impl NodeError {
    /// Builds an error from its parts.
    pub fn new(kind: ErrorKind, what: impl fmt::Display, remedy: impl Into<String>) -> Self {
        Self { kind, what: what.to_string(), remedy: remedy.into() }
    }

    /// An error after which the running node must stop; the remedy is the same for all of them.
    pub fn fatal(what: impl fmt::Display) -> Self {
        Self::new(
            ErrorKind::Fatal,
            what,
            "start the node again, it recovers from its log; if this repeats, look at the disk",
        )
    }

    /// Exit code of the process.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        self.kind.exit_code()
    }
}

impl fmt::Display for NodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", OneLine(&self.what), OneLine(&self.remedy))
    }
}

impl std::error::Error for NodeError {}

/// Text as one line: control characters are escaped, so that a message can neither forge a second line nor steer a
/// terminal.
pub struct OneLine<'a>(pub &'a str);

impl fmt::Display for OneLine<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for c in self.0.chars() {
            if c.is_control() {
                write!(f, "{}", c.escape_default())?;
            } else {
                write!(f, "{c}")?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_one_line_and_has_its_code() {
        let error =
            NodeError::new(ErrorKind::Unavailable, "listen on 127.0.0.1:1\nx: in use", "choose\x1b another");
        assert_eq!(error.to_string(), r"listen on 127.0.0.1:1\nx: in use: choose\u{1b} another");
        assert_eq!(error.exit_code(), 69);
        assert_eq!(NodeError::fatal("sync").exit_code(), 70);
    }
}
