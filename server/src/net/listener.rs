//! Accepts clients from a bound socket and owns their tasks.
//!
//! A connection's permit travels into its task and comes back when the task ends, however it ends. Without a permit the
//! client is told so and let go. When the process is out of file descriptors, accepting pauses for longer and longer
//! instead of spinning.
//!
//! A listener with certificates serves the same clients by TLS: beside the plain one, or alone. Both share the limit of
//! clients and the budget; behind the handshake a TLS client is a client like any other.
//!
//! Shutdown: `stop` ends accepting, each connection finishes in order (see [`connection`](super::connection)), and what
//! is left after the drain time is dropped.

use std::any::Any;
use std::io;
use std::net::SocketAddr;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::budget::Budget;
use super::connection::{ClientStream, Connection, End, Shared};
use super::signal::Signal;
use super::{Ends, Handler, Stats};
use crate::config::Limits;
use crate::machine::{self, TcpListener, TcpStream};
use crate::tls::{Certificate, Credentials};

#[cfg(test)]
mod tests;

/// Idle time after which the kernel asks a silent client whether it is still there (Redis: tcp-keepalive).
const KEEPALIVE: Duration = Duration::from_mins(5);

/// First and longest pause after accepting has failed.
const BACK_OFF_MIN: Duration = Duration::from_millis(10);
const BACK_OFF_MAX: Duration = Duration::from_secs(1);

/// Clients that are being turned away at once; beyond that the socket is simply closed.
const FAREWELLS_MAX: usize = 64;

/// How long a client that is turned away may take to read why.
const FAREWELL: Duration = Duration::from_millis(250);

/// How long a handshake may go on once the node stops.
const STOP_HANDSHAKE: Duration = Duration::from_millis(500);

/// Largest requests that fit into memory at once, over all connections.
const LARGEST_REQUESTS_IN_MEMORY: usize = 4;

/// A bound socket and what its connections need.
pub struct Listener<H> {
    socket: TcpListener,
    handler: Arc<H>,
    tls: Option<Arc<Credentials>>,
    shared: Arc<Shared>,
    clients: Arc<Semaphore>,
    farewells: Arc<Semaphore>,
    tracker: TaskTracker,
    stop: CancellationToken,
    abort: CancellationToken,
}

impl<H: Handler> Listener<H> {
    /// A listener on a bound socket; it accepts nobody before [`run`](Self::run). Cancel `stop` to end it.
    #[must_use]
    pub fn new(
        socket: TcpListener,
        handler: Arc<H>,
        limits: &Limits,
        stats: Arc<Stats>,
        stop: CancellationToken,
    ) -> Self {
        // An argument costs its slice beside its bytes, and the list of slices may be twice as long as it is full.
        let request_bytes_max = limits.request_bytes_max + limits.args_max * 2 * size_of::<Bytes>();
        let budget = Budget::new(LARGEST_REQUESTS_IN_MEMORY * request_bytes_max);
        let clients_max = limits.clients_max.min(Semaphore::MAX_PERMITS);
        Self {
            socket,
            handler,
            tls: None,
            shared: Arc::new(Shared { limits: limits.clone(), stats, budget }),
            clients: Arc::new(Semaphore::new(clients_max)),
            farewells: Arc::new(Semaphore::new(FAREWELLS_MAX)),
            tracker: TaskTracker::new(),
            stop,
            abort: CancellationToken::new(),
        }
    }

    /// Has its clients speak TLS.
    #[must_use]
    pub fn by_tls(mut self, credentials: Arc<Credentials>) -> Self {
        self.tls = Some(credentials);
        self
    }

    /// A second listener for the same clients: one limit, one budget, one set of counters.
    #[must_use]
    pub fn beside(&self, socket: TcpListener) -> Self {
        Self {
            socket,
            handler: Arc::clone(&self.handler),
            tls: None,
            shared: Arc::clone(&self.shared),
            clients: Arc::clone(&self.clients),
            farewells: Arc::clone(&self.farewells),
            tracker: TaskTracker::new(),
            stop: self.stop.clone(),
            abort: CancellationToken::new(),
        }
    }

    /// The bound address.
    ///
    /// # Errors
    /// As `getsockname`.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    /// Accepts until `stop` is cancelled, then waits for the connections to finish, for at most `drain`. Returns how
    /// many connections were dropped because they did not.
    ///
    /// # Cancel safety
    /// Not cancel safe: dropping the future leaves the connections running. Cancel `stop`.
    pub async fn run(self, drain: Duration) -> usize {
        let mut back_off = BackOff::default();
        loop {
            let accepted = tokio::select! {
                biased;
                () = self.stop.cancelled() => break,
                accepted = self.socket.accept() => accepted,
            };
            match accepted {
                Ok((stream, peer)) => {
                    back_off = BackOff::default();
                    self.admit(stream, peer);
                }
                Err(error) => {
                    let Some(pause) = back_off.after(&error) else { continue };
                    tracing::warn!(%error, pause_ms = pause.as_millis(), "accept a client");
                    tokio::select! {
                        () = self.stop.cancelled() => break,
                        () = sleep(pause) => {}
                    }
                }
            }
        }
        // Whom the kernel has let in already would be reset with the socket; they are served to their first pause.
        tokio::task::yield_now().await;
        while let Some(Ok((stream, peer))) = self.socket.accept().now_or_never() {
            self.admit(stream, peer);
        }
        drop(self.socket);
        self.tracker.close();
        if timeout(drain, self.tracker.wait()).await.is_ok() {
            return 0;
        }
        let left = self.tracker.len();
        tracing::warn!(connections = left, "drop connections that did not finish in time");
        self.abort.cancel();
        // Only a handler that blocks its thread can outlast this; it must not hold up the shutdown.
        let _ = timeout(drain, self.tracker.wait()).await;
        left
    }

    /// Starts the task of a client, or turns it away.
    fn admit(&self, stream: TcpStream, peer: SocketAddr) {
        let id = self.shared.stats.accepted.fetch_add(1, Ordering::Relaxed) + 1;
        if let Some(why) = self.handler.refuses(peer) {
            Stats::add(&self.shared.stats.protected, 1);
            self.turn_away(stream, why);
            return;
        }
        let Ok(permit) = Arc::clone(&self.clients).try_acquire_owned() else {
            Stats::add(&self.shared.stats.rejected, 1);
            self.turn_away(stream, "ERR max number of clients reached");
            return;
        };
        // A client that is gone already has no address; its task would end at its first read.
        let Ok(local) = stream.local_addr() else { return };
        prepare(&stream);
        let client = ClientTask {
            handler: Arc::clone(&self.handler),
            shared: Arc::clone(&self.shared),
            stop: self.stop.child_token(),
            abort: self.abort.child_token(),
            id,
            peer,
            local,
        };
        let tls = self.tls.clone();
        self.shared.stats.open.fetch_add(1, Ordering::Relaxed);
        self.tracker.spawn(async move {
            let shared = Arc::clone(&client.shared);
            match tls {
                None => client.run(stream, None).await,
                Some(tls) => client.run_tls(stream, &tls).await,
            }
            shared.stats.open.fetch_sub(1, Ordering::Relaxed);
            drop(permit);
        });
    }

    /// Says why and closes. The client's first bytes are swallowed, or an RST would overtake the line.
    fn turn_away(&self, mut stream: TcpStream, why: &'static str) {
        if self.tls.is_some() {
            // A line in the clear would be read as a broken handshake, and a handshake is what there is no room for.
            return;
        }
        let Ok(permit) = Arc::clone(&self.farewells).try_acquire_owned() else { return };
        self.tracker.spawn(async move {
            let farewell = async {
                stream.write_all(format!("-{why}\r\n").as_bytes()).await?;
                stream.shutdown().await?;
                let mut sink = [0; 1024];
                while stream.read(&mut sink).await? > 0 {}
                io::Result::Ok(())
            };
            // The client is let go either way.
            let _ = timeout(FAREWELL, farewell).await;
            drop(permit);
        });
    }
}

/// One accepted client on its way into its task.
struct ClientTask<H> {
    handler: Arc<H>,
    shared: Arc<Shared>,
    stop: CancellationToken,
    abort: CancellationToken,
    id: u64,
    peer: SocketAddr,
    local: SocketAddr,
}

impl<H: Handler> ClientTask<H> {
    /// Serves the client behind the handshake, if that comes to something.
    async fn run_tls(self, stream: TcpStream, tls: &Credentials) {
        let too_late = async {
            tokio::select! {
                () = self.abort.cancelled() => {}
                () = async { self.stop.cancelled().await; sleep(STOP_HANDSHAKE).await } => {}
            }
        };
        let accepted = tokio::select! {
            accepted = tls.accept(stream, self.peer.ip()) => accepted,
            () = too_late => None,
        };
        if let Some(stream) = accepted {
            let certificate = Certificate::shown_by(&stream);
            self.run(stream, certificate).await;
        }
    }

    /// Serves the client to its end. A panic of the handler stays in here.
    async fn run(self, stream: impl ClientStream, certificate: Option<Certificate>) {
        let served = AssertUnwindSafe(self.serve(stream, certificate)).catch_unwind().await;
        match served.and_then(|end| end) {
            Ok(End::CrossProtocol) => {
                tracing::warn!(client = self.id, peer = %self.peer, "HTTP on the Redis port, connection closed");
            }
            Ok(end) => tracing::debug!(client = self.id, peer = %self.peer, ?end, "connection ended"),
            Err(panic) => {
                Stats::add(&self.shared.stats.panics, 1);
                let text = panic_text(panic.as_ref());
                tracing::error!(client = self.id, peer = %self.peer, panic = text, "connection panicked");
            }
        }
    }

    /// The session outlives a panic of its turn, so that it is always closed.
    async fn serve(
        &self,
        stream: impl ClientStream,
        certificate: Option<Certificate>,
    ) -> Result<End, Box<dyn Any + Send>> {
        let ends = Ends { kill: CancellationToken::new(), leave: self.stop.child_token() };
        let mut session = self.handler.open(self.id, self.peer, self.local, ends.clone());
        if let Some(certificate) = &certificate {
            self.handler.identified(&mut session, certificate);
        }
        let connection = Connection::new(stream, Arc::clone(&self.shared), ends.kill, ends.leave);
        let running = AssertUnwindSafe(connection.run(&*self.handler, &mut session)).catch_unwind();
        let mut abort = Signal::new(self.abort.clone());
        let served = tokio::select! {
            biased;
            served = running => served,
            () = abort.given() => Ok(End::Aborted),
        };
        self.handler.close(session);
        served
    }
}

/// Sets what a client socket needs; a refusal costs speed or a late notice, so it is only told.
fn prepare(stream: &TcpStream) {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "set TCP_NODELAY");
    }
    if let Err(error) = machine::keep_alive(stream, KEEPALIVE) {
        tracing::debug!(%error, "set keepalive");
    }
}

/// What a panic said.
fn panic_text(panic: &(dyn Any + Send)) -> &str {
    panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("(no text)")
}

/// Pauses between failed accepts.
#[derive(Debug, Default)]
struct BackOff {
    last: Option<Duration>,
}

impl BackOff {
    /// The pause after `error`; none if it concerns only the client that was to be accepted.
    fn after(&mut self, error: &io::Error) -> Option<Duration> {
        use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
        if matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted) {
            return None;
        }
        let pause = self.last.map_or(BACK_OFF_MIN, |last| (last * 2).min(BACK_OFF_MAX));
        self.last = Some(pause);
        Some(pause)
    }
}
