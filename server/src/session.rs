//! State of one client connection: protocol, selected database, read level, open transaction, whether replies are sent.
//!
//! What other clients may see of it (name, library, age) is in `dispatch::clients`, behind a lock; what is here belongs
//! to the connection's task alone.

use crate::command::{Action, ReplyMode};
use crate::resp::Protocol;
use crate::store::{DbIndex, Watched};

/// A connection as its own task sees it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Session {
    /// Version of RESP for replies.
    pub protocol: Protocol,
    /// Selected database.
    pub db: u8,
    /// READONLY was given: reads are local.
    pub stale_reads: bool,
    /// Between MULTI and EXEC.
    pub multi: Option<Multi>,
    /// Keys watched for the next EXEC.
    pub watched: Vec<Watched>,
    mute: Mute,
}

/// An open transaction.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Multi {
    /// What EXEC will do.
    pub queue: Vec<Queued>,
    /// Bytes of the requests queued.
    pub size_bytes: usize,
    /// A request was refused, so EXEC will be.
    pub spoiled: bool,
    /// Database that the next request means (SELECT may be queued too).
    pub db: DbIndex,
    /// State of the users under which the requests were permitted.
    pub users_seen: u64,
}

/// A request of a transaction.
#[derive(Clone, Debug, PartialEq)]
pub struct Queued {
    /// Its row.
    pub slot: usize,
    /// What it asks for.
    pub action: Action,
}

/// Which replies are kept back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Mute {
    #[default]
    None,
    /// CLIENT REPLY OFF: all.
    All,
    /// CLIENT REPLY SKIP, whose own reply is the first one kept back: that many.
    Next(u8),
}

impl Session {
    /// As RESET leaves it.
    pub fn reset(&mut self) {
        *self = Self::default();
    }

    /// CLIENT REPLY.
    pub fn set_replies(&mut self, mode: ReplyMode) {
        self.mute = match (mode, self.mute) {
            (ReplyMode::On, _) => Mute::None,
            (ReplyMode::Off, _) | (ReplyMode::Skip, Mute::All) => Mute::All,
            (ReplyMode::Skip, _) => Mute::Next(2),
        };
    }

    /// Called once per reply, in order: true if it is to be sent.
    #[must_use]
    pub fn sends_reply(&mut self) -> bool {
        match self.mute {
            Mute::None => true,
            Mute::All => false,
            Mute::Next(left) => {
                self.mute = if left > 1 { Mute::Next(left - 1) } else { Mute::None };
                false
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sent(session: &mut Session, replies: usize) -> Vec<bool> {
        (0..replies).map(|_| session.sends_reply()).collect()
    }

    #[test]
    fn skip_keeps_back_its_own_reply_and_the_next_one() {
        let mut session = Session::default();
        session.set_replies(ReplyMode::Skip);
        assert_eq!(sent(&mut session, 4), [false, false, true, true]);
    }

    #[test]
    fn off_keeps_back_everything_until_on() {
        let mut session = Session::default();
        session.set_replies(ReplyMode::Off);
        assert_eq!(sent(&mut session, 3), [false, false, false]);
        session.set_replies(ReplyMode::Skip);
        assert_eq!(sent(&mut session, 3), [false, false, false]);
        session.set_replies(ReplyMode::On);
        assert_eq!(sent(&mut session, 2), [true, true]);
    }

    #[test]
    fn reset_forgets_everything() {
        let mut session =
            Session { protocol: Protocol::Resp3, db: 3, stale_reads: true, ..Session::default() };
        session.set_replies(ReplyMode::Off);
        session.reset();
        assert_eq!(session, Session::default());
    }
}
