//! Step 1: sockets. Accepts clients, cuts their bytes into turns, writes the replies of a turn at once.
//!
//! ```text
//! listener --accept--> connection: read -> decode all -> Handler::turn -> write -> (again)
//!    |  client limit      |  budget of request bytes        |  one future, in order
//!    |  back-off          |  stall limits                   |  replies appended to one buffer
//! ```
//!
//! What a request means is the business of a [`Handler`]; this module knows no command but the two words with which a
//! browser betrays itself (`POST`, `Host:`).
//!
//! Invariants:
//! - Replies leave in the order of their requests, and a connection does not read while a reply is unwritten: the
//!   memory of a client that does not read its replies is bounded by one turn.
//! - Bytes of unfinished requests, summed over all connections, stay within one [`budget`].
//! - A panic in a handler ends its own connection only, and is counted.
//! - Every connection is a task of the listener's tracker and is awaited at shutdown, when it finishes the turn it is
//!   in, answers what has arrived, and closes with nothing unanswered.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::BytesMut;
use tokio_util::sync::CancellationToken;

use crate::resp::Request;
use crate::tls::Certificate;

pub mod budget;
mod connection;
mod listener;
mod signal;
#[cfg(test)]
mod toy;

pub use listener::Listener;

/// How somebody else ends a connection.
#[derive(Clone, Debug, Default)]
pub struct Ends {
    /// At once (CLIENT KILL): a running turn is finished, its replies are written as far as the socket takes them.
    pub kill: CancellationToken,
    /// In order, as when the node stops: with the answer to what the client sent or sends next, so that nothing is left
    /// without one; within a few seconds also if it never pauses.
    pub leave: CancellationToken,
}

impl From<CancellationToken> for Ends {
    fn from(kill: CancellationToken) -> Self {
        Self { kill, ..Self::default() }
    }
}

/// What runs the requests of the connections.
pub trait Handler: Send + Sync + 'static {
    /// State of one connection.
    type Session: Send + Sync + 'static;

    /// A connection begins. `id` counts from 1 and is never used twice by one process (CLIENT ID); `local` is our
    /// address as the client sees it.
    fn open(&self, id: u64, peer: SocketAddr, local: SocketAddr, ends: Ends) -> Self::Session;

    /// The client has shown a certificate, which was verified; called once, before its first turn.
    fn identified(&self, session: &mut Self::Session, certificate: &Certificate) {
        let _ = (session, certificate);
    }

    /// Why a client at this address is not let in: an error line without its dash.
    fn refuses(&self, peer: SocketAddr) -> Option<&'static str> {
        let _ = peer;
        None
    }

    /// Whether the client still has to log in: until then it is held to small requests, one at a time, and to
    /// `auth_timeout`.
    fn is_stranger(&self, session: &Self::Session) -> bool {
        let _ = session;
        false
    }

    /// Runs requests in order, drains them from the front of `requests` and appends their replies to `out`.
    ///
    /// It may stop early, with requests left, when `out` is long enough to be written (`output_bytes_pause`); it is
    /// called again once `out` is written. It must not leave both `out` empty and `requests` untouched.
    /// What it leaves behind with [`Flow::Close`] is dropped.
    ///
    /// # Cancel safety
    /// The future is dropped halfway only when the time for draining at shutdown is over.
    fn turn(
        &self,
        session: &mut Self::Session,
        requests: &mut Vec<Request>,
        out: &mut BytesMut,
    ) -> impl Future<Output = Flow> + Send;

    /// Resolves when something waits for a connection that no request asked for (messages). Awaited between turns, and
    /// dropped as soon as anything else happens.
    fn pushed(&self, session: &Self::Session) -> impl Future<Output = ()> + Send {
        let _ = session;
        std::future::pending()
    }

    /// Appends what waits; may leave some for the next call.
    fn take_pushes(&self, session: &mut Self::Session, out: &mut BytesMut) {
        let _ = (session, out);
    }

    /// The connection is gone, whatever the reason (also after a panic in `turn`).
    fn close(&self, session: Self::Session);
}

/// What becomes of a connection after a turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flow {
    /// It goes on.
    Continue,
    /// It writes what is in `out` and closes.
    Close,
}

/// What the listener and its connections have counted since the start.
#[derive(Debug, Default)]
pub struct Stats {
    /// Connections that are open now.
    pub open: AtomicU64,
    /// Connections ever accepted, also those turned away; the last client id (INFO `total_connections_received`).
    pub accepted: AtomicU64,
    /// Connections turned away at the client limit (INFO `rejected_connections`).
    pub rejected: AtomicU64,
    /// Bytes read from clients (INFO `total_net_input_bytes`).
    pub read_bytes: AtomicU64,
    /// Bytes written to clients (INFO `total_net_output_bytes`).
    pub written_bytes: AtomicU64,
    /// Connections closed because of bytes that are no request.
    pub protocol_errors: AtomicU64,
    /// Connections closed because the client did not take its replies, or stopped in the middle of a large request.
    pub stalled: AtomicU64,
    /// Connections closed because the budget of request bytes was exhausted.
    pub over_budget: AtomicU64,
    /// Connections turned away because the node is protected (`protected_mode`).
    pub protected: AtomicU64,
    /// Connections closed because the client did not log in in time.
    pub not_logged_in: AtomicU64,
    /// Panics in handlers.
    pub panics: AtomicU64,
}

impl Stats {
    fn add(counter: &AtomicU64, amount: usize) {
        counter.fetch_add(amount as u64, Ordering::Relaxed);
    }
}
