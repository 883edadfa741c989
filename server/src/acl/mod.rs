//! Who may do what: users, their rules, and the one check of a request against them. Pure but for [`source`], which
//! reads the files.
//!
//! ```text
//! requirepass_file --+                                                   request
//! acl_file ----------+- source -> rules -> Users -> User -> Selector        |
//!                                                     `------- permits(user, row, words) -> Ok | Denial
//! ```
//!
//! A request is checked once, on the node that its client is connected to; what that node forwards was checked there.
//! Rules are those of Redis (its page "ACL"): a [`User`] has a root selector and further ones, and may do what one of
//! them permits as a whole.
//!
//! Invariants
//! - [`permits`] looks at the row of the command table and at the words, at nothing else: no clock, no state.
//! - A user that may do everything costs one comparison ([`User::is_unlimited`]).
//! - Passwords are kept as digests; nothing here shows one, a fault in a file neither.

pub mod log;
pub mod rules;
pub mod source;
mod user;

#[cfg(test)]
mod tests;

use bytes::Bytes;

pub use log::AclLog;
pub use source::{Source, SourceError};
pub use user::{DEFAULT_USER, Login, Proof, Selector, User, Users};

use crate::command::args::printable;
use crate::command::table::Found;

/// What of a request a user may not have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reason {
    /// The command.
    Command,
    /// A key.
    Key,
    /// A channel.
    Channel,
}

impl Reason {
    /// All, in the order of their weight: the denial that is told is the heaviest one.
    pub const ALL: [Self; 3] = [Self::Command, Self::Key, Self::Channel];

    /// As ACL LOG and the metrics name it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Command => "command",
            Self::Key => "key",
            Self::Channel => "channel",
        }
    }
}

/// A refusal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Denial {
    /// What is not permitted.
    pub reason: Reason,
    /// Name of the user.
    pub user: String,
    /// Name of the command, in lower case, of a subcommand with its container: `config|get`.
    pub command: String,
    /// The key or channel that was refused; the command's name if it was the command.
    pub object: Bytes,
}

impl Denial {
    /// The text of Redis 7.2 without its code; keys and channels are not named, as the line may be logged by clients.
    #[must_use]
    pub fn text(&self) -> String {
        match self.reason {
            Reason::Command => self.full_text(),
            Reason::Key => "No permissions to access a key".to_owned(),
            Reason::Channel => "No permissions to access a channel".to_owned(),
        }
    }

    /// The text with the key or channel, for ACL DRYRUN.
    #[must_use]
    pub fn full_text(&self) -> String {
        let (user, object) = (printable(self.user.as_bytes()), printable(&self.object));
        match self.reason {
            Reason::Command => {
                format!("User {user} has no permissions to run the '{}' command", self.command)
            }
            Reason::Key => format!("User {user} has no permissions to access the '{object}' key"),
            Reason::Channel => format!("User {user} has no permissions to access the '{object}' channel"),
        }
    }
}

/// Whether a user may perform a request whose row and number of words were found right.
///
/// # Errors
/// The heaviest denial of all selectors, of equal ones that of the farthest word.
pub fn permits(user: &User, found: &Found, words: &[Bytes]) -> Result<(), Denial> {
    if user.is_unlimited() {
        return Ok(());
    }
    let mut heaviest = (Reason::Command, 0);
    for selector in user.selectors() {
        match selector.check(found, words) {
            Ok(()) => return Ok(()),
            Err(refused) => heaviest = heaviest.max(refused),
        }
    }
    let (reason, at) = heaviest;
    let command = found.spec.name.to_ascii_lowercase();
    let object = match reason {
        Reason::Command => Bytes::from(command.clone()),
        Reason::Key | Reason::Channel => words.get(at).cloned().unwrap_or_default(),
    };
    Err(Denial { reason, user: user.name().to_owned(), command, object })
}
