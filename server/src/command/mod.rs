//! Step 3: a request becomes an [`Action`]. Pure: no socket, no store, no clock.

use crate::resp::Reply;
use crate::store::{Op, Query};

/// What a parsed request asks for. `dispatch` holds the only `match` on it.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// The answer is already known (PING, ECHO, COMMAND).
    Reply(Reply),
    /// A read, after a read barrier.
    Read(Query),
    /// A change, through the log.
    Write(Op),
}
