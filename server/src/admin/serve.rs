//! The listener of the admin API: accept, limits, timeouts, graceful end.
//!
//! With certificates of its own it speaks TLS; a caller without a certificate then gets the routes of
//! `super::probes_only` where callers are asked for one.
//!
//! axum's own `serve` has no header timeout, no connection limit and no write timeout, so the loop is ours, over
//! hyper's HTTP/1 connection.

use std::io;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::Router;
use axum::http::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service as _, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{Sleep, sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::{Admin, Caller, Callers, router};
use crate::machine::{TcpListener, TcpStream};
use crate::tls::{Asks, Certificate, Credentials};

/// What the listener enforces.
#[derive(Clone, Copy, Debug)]
pub struct ServeLimits {
    /// Connections at once; more wait in the kernel's queue.
    pub connections_max: usize,
    /// Time to send a whole request head, also the longest idle time between requests.
    pub head_timeout: Duration,
    /// Time in which a client must take some bytes once its socket is full.
    pub write_timeout: Duration,
    /// Time for open requests when the node stops.
    pub drain_timeout: Duration,
}

impl ServeLimits {
    /// The usual timeouts.
    #[must_use]
    pub fn new(connections_max: usize) -> Self {
        Self {
            connections_max,
            head_timeout: Duration::from_secs(10),
            write_timeout: Duration::from_secs(30),
            drain_timeout: Duration::from_secs(5),
        }
    }
}

/// Bytes that hyper buffers per direction; a request head must fit.
const BUFFER_BYTES: usize = 16 * 1024;

/// Pause after `accept` failed, so that a lack of file descriptors does not become a busy loop.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves until the token of `admin` is cancelled, then lets open requests end within `drain_timeout`.
///
/// Cancel safety: dropping the future closes all connections at once.
pub async fn serve(listener: TcpListener, admin: Admin, limits: ServeLimits, tls: Option<Arc<Credentials>>) {
    let shutdown = admin.shutdown.clone();
    let asks = tls.as_ref().is_some_and(|tls| tls.asks() != Asks::Nothing);
    let strangers = router(admin.clone(), if asks { Callers::Strangers } else { Callers::Trusted });
    let door = Arc::new(Door { tls, trusted: router(admin, Callers::Trusted), strangers });
    let places = Arc::new(Semaphore::new(limits.connections_max));
    let mut connections = JoinSet::new();
    loop {
        // The place comes before the connection: a full house leaves clients in the kernel's queue.
        let place = tokio::select! {
            () = shutdown.cancelled() => break,
            place = Arc::clone(&places).acquire_owned() => place,
            Some(_) = connections.join_next() => continue,
        };
        let Ok(place) = place else { break };
        let accepted = tokio::select! {
            () = shutdown.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        let (stream, from) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "accept on the admin port");
                sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let (door, shutdown) = (Arc::clone(&door), shutdown.clone());
        connections.spawn(async move {
            door.admit(stream, from.ip(), limits, shutdown).await;
            drop(place);
        });
    }
    drop(listener);
    if timeout(limits.drain_timeout, async { while connections.join_next().await.is_some() {} })
        .await
        .is_err()
    {
        tracing::info!(connections = connections.len(), "admin connections cut off");
    }
    connections.shutdown().await;
}

/// The way of a connection to its routes.
struct Door {
    tls: Option<Arc<Credentials>>,
    trusted: Router,
    /// For those who showed no certificate.
    strangers: Router,
}

impl Door {
    async fn admit(&self, stream: TcpStream, from: IpAddr, limits: ServeLimits, shutdown: CancellationToken) {
        // Nagle's wait would delay events and small answers; that it cannot be turned off is no reason to refuse.
        let _ = stream.set_nodelay(true);
        let mut caller = Caller { peer: from.to_canonical().to_string(), subject: String::new() };
        let Some(tls) = &self.tls else {
            return connection(stream, self.trusted.clone(), caller, limits, shutdown).await;
        };
        let accepted = shutdown.run_until_cancelled(tls.accept(stream, from)).await.flatten();
        let Some(stream) = accepted else { return };
        let routes = match Certificate::shown_by(&stream) {
            Some(certificate) => {
                caller.subject = certificate.subject();
                &self.trusted
            }
            None => &self.strangers,
        };
        connection(stream, routes.clone(), caller, limits, shutdown).await;
    }
}

async fn connection<S>(
    stream: S,
    routes: Router,
    caller: Caller,
    limits: ServeLimits,
    shutdown: CancellationToken,
) where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let io = TokioIo::new(Guarded { stream, limit: limits.write_timeout, stalled: None });
    let routes = TowerToHyperService::new(routes);
    let named = service_fn(move |mut request| {
        Request::<Incoming>::extensions_mut(&mut request).insert(caller.clone());
        routes.call(request)
    });
    let serving = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.head_timeout)
        .max_buf_size(BUFFER_BYTES)
        .serve_connection(io, named);
    tokio::pin!(serving);
    let ended = tokio::select! {
        ended = serving.as_mut() => ended,
        () = shutdown.cancelled() => {
            serving.as_mut().graceful_shutdown();
            serving.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "admin connection");
    }
}

/// A socket whose writes fail when the other side takes nothing for too long.
struct Guarded<S> {
    stream: S,
    limit: Duration,
    /// Armed while a write waits.
    stalled: Option<Pin<Box<Sleep>>>,
}

impl<S> Guarded<S> {
    fn guard<T>(&mut self, cx: &mut Context<'_>, written: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.stalled = None;
            return written;
        }
        let limit = self.limit;
        let stalled = self.stalled.get_or_insert_with(|| Box::pin(sleep(limit)));
        ready!(stalled.as_mut().poll(cx));
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the client does not take its answer")))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Guarded<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Guarded<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.guard(cx, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, slices);
        self.guard(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
