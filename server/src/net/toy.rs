//! A handler for the tests of this module: a few commands that misbehave on demand.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use bytes::{Bytes, BytesMut};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use super::{Ends, Flow, Handler};
use crate::resp::reply::append;
use crate::resp::{Protocol, Reply, Request};

/// The toy. Its counters are what the tests wait for and look at.
pub(super) struct Toy {
    /// WAIT takes a permit; tests hand them out.
    pub(super) gate: Semaphore,
    pub(super) waiting: AtomicUsize,
    pub(super) opened: AtomicUsize,
    pub(super) closed: AtomicUsize,
    pub(super) requests: AtomicUsize,
    pub(super) replied_bytes: AtomicUsize,
    /// Output after which a turn is left early.
    pub(super) pause_bytes: usize,
    /// Clients have to say LOGIN.
    pub(super) locked: AtomicBool,
    /// Nobody is let in, for this reason.
    pub(super) refusal: OnceLock<&'static str>,
}

impl Toy {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self {
            gate: Semaphore::new(0),
            waiting: AtomicUsize::new(0),
            opened: AtomicUsize::new(0),
            closed: AtomicUsize::new(0),
            requests: AtomicUsize::new(0),
            replied_bytes: AtomicUsize::new(0),
            pause_bytes: 128 * 1024,
            locked: AtomicBool::new(false),
            refusal: OnceLock::new(),
        })
    }
}

pub(super) fn loopback() -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, 0))
}

/// State of one toy client.
pub(super) struct ToySession {
    id: u64,
    kill: CancellationToken,
    logged_in: bool,
}

impl Handler for Toy {
    type Session = ToySession;

    fn open(&self, id: u64, _peer: SocketAddr, _local: SocketAddr, ends: Ends) -> ToySession {
        self.opened.fetch_add(1, Ordering::SeqCst);
        ToySession { id, kill: ends.kill, logged_in: !self.locked.load(Ordering::SeqCst) }
    }

    fn refuses(&self, _peer: SocketAddr) -> Option<&'static str> {
        self.refusal.get().copied()
    }

    fn is_stranger(&self, session: &ToySession) -> bool {
        !session.logged_in
    }

    async fn turn(&self, session: &mut ToySession, requests: &mut Vec<Request>, out: &mut BytesMut) -> Flow {
        let mut done = 0;
        let mut flow = Flow::Continue;
        for request in requests.iter() {
            if flow == Flow::Close || out.len() >= self.pause_bytes || request.args[0] == "STUCK" {
                break;
            }
            done += 1;
            let argument = request.args.get(1).cloned().unwrap_or_default();
            let reply = match &request.args[0][..] {
                b"ECHO" => Reply::Bulk(argument),
                b"LEN" => Reply::Integer(i64::try_from(argument.len()).unwrap()),
                b"ID" => Reply::Integer(i64::try_from(session.id).unwrap()),
                b"BIG" => {
                    Reply::Bulk(Bytes::from(vec![
                        b'x';
                        std::str::from_utf8(&argument).unwrap().parse().unwrap()
                    ]))
                }
                b"WAIT" => {
                    self.waiting.fetch_add(1, Ordering::SeqCst);
                    self.gate.acquire().await.unwrap().forget();
                    Reply::Ok
                }
                b"PANIC" => panic!("asked to"),
                b"KILL" => {
                    session.kill.cancel();
                    Reply::Ok
                }
                b"LOGIN" => {
                    session.logged_in = true;
                    Reply::Ok
                }
                b"QUIT" => {
                    flow = Flow::Close;
                    Reply::Ok
                }
                _ => Reply::Error("ERR unknown command".to_owned()),
            };
            let before = out.len();
            append(&reply, Protocol::Resp2, out);
            self.requests.fetch_add(1, Ordering::SeqCst);
            self.replied_bytes.fetch_add(out.len() - before, Ordering::SeqCst);
        }
        requests.drain(..done);
        flow
    }

    fn close(&self, _session: ToySession) {
        self.closed.fetch_add(1, Ordering::SeqCst);
    }
}
