//! What a process sees of the network: sockets and listeners with the names and the ways of tokio's.

use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::{Backlog, Link, Net, PORT_MIN, Packet, Side, WINDOW_BYTES};
use crate::sim;

/// One end of a connection; closed when dropped.
struct Socket {
    net: Arc<Net>,
    id: u64,
    at: usize,
    local: SocketAddr,
    peer: SocketAddr,
}

impl Drop for Socket {
    fn drop(&mut self) {
        self.net.0.lock().close(self.id, self.at);
    }
}

impl Socket {
    fn poll_established(&self, cx: &Context<'_>) -> Poll<io::Result<()>> {
        let mut inner = self.net.0.lock();
        let side = inner.side(self.id, self.at)?;
        match side.broken {
            Some(kind) => Poll::Ready(Err(kind.into())),
            None if side.established => Poll::Ready(Ok(())),
            None => {
                side.reader = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }

    /// Bytes that can be read; none at the end.
    fn poll_inbox<T>(
        &self,
        cx: &Context<'_>,
        take: impl FnOnce(&mut BytesMut) -> T,
    ) -> Poll<io::Result<Option<T>>> {
        let mut inner = self.net.0.lock();
        let side = inner.side(self.id, self.at)?;
        if !side.inbox.is_empty() {
            return Poll::Ready(Ok(Some(take(&mut side.inbox))));
        }
        match side.broken {
            Some(kind) => Poll::Ready(Err(kind.into())),
            None if side.ended => Poll::Ready(Ok(None)),
            None => {
                side.reader = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }

    fn poll_read(&self, cx: &Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let taken = self.poll_inbox(cx, |inbox| {
            let length = inbox.len().min(buffer.remaining());
            buffer.put_slice(&inbox[..length]);
            inbox.advance(length);
        });
        if let Poll::Ready(Ok(Some(()))) = &taken
            && let Ok(other) = self.net.0.lock().side(self.id, 1 - self.at)
            && let Some(writer) = other.writer.take()
        {
            writer.wake();
        }
        taken.map_ok(drop)
    }

    fn poll_write(&self, cx: &Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let mut inner = self.net.0.lock();
        let other = inner.side(self.id, 1 - self.at)?;
        let used = other.way_bytes + other.inbox.len();
        let side = inner.side(self.id, self.at)?;
        if let Some(kind) = side.broken {
            return Poll::Ready(Err(kind.into()));
        }
        if side.said_end {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        if used >= WINDOW_BYTES {
            side.writer = Some(cx.waker().clone());
            return Poll::Pending;
        }
        let length = bytes.len().min(WINDOW_BYTES - used);
        inner.send(self.id, 1 - self.at, Packet::Data(Bytes::copy_from_slice(&bytes[..length])));
        Poll::Ready(Ok(length))
    }

    fn end(&self) {
        self.net.0.lock().end(self.id, self.at);
    }
}

/// As tokio's.
pub struct TcpStream(Arc<Socket>);

impl TcpStream {
    /// Dials `host:port`, where the host is an address.
    ///
    /// # Errors
    /// Nobody listens there, or it was not reached for long.
    pub async fn connect(addr: &str) -> io::Result<Self> {
        let peer: SocketAddr = addr.parse().map_err(io::Error::other)?;
        let host = sim::host()?;
        let socket = {
            let inner = &mut *host.net.0.lock();
            let id = inner.next_link;
            inner.next_link += 1;
            let ports = u64::from(u16::MAX - PORT_MIN);
            let port = PORT_MIN + u16::try_from(id % ports).unwrap_or_default();
            let local = SocketAddr::new(host.ip, port);
            inner.links.insert(id, Link([Side::new(local, true), Side::new(peer, false)]));
            inner.send(id, 1, Packet::Dial);
            Socket { net: host.net.clone(), id, at: 0, local, peer }
        };
        poll_fn(|cx| socket.poll_established(cx)).await?;
        Ok(Self(Arc::new(socket)))
    }

    /// Nothing to set here.
    ///
    /// # Errors
    /// None.
    pub fn set_nodelay(&self, _on: bool) -> io::Result<()> {
        Ok(())
    }

    /// The other side.
    ///
    /// # Errors
    /// None.
    pub fn peer_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.0.peer)
    }

    /// This side.
    ///
    /// # Errors
    /// None.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.0.local)
    }

    /// Reads and leaves the bytes where they are.
    ///
    /// # Errors
    /// The connection is broken.
    pub async fn peek(&self, buffer: &mut [u8]) -> io::Result<usize> {
        let seen = poll_fn(|cx| {
            self.0.poll_inbox(cx, |inbox| {
                let length = inbox.len().min(buffer.len());
                buffer[..length].copy_from_slice(&inbox[..length]);
                length
            })
        });
        Ok(seen.await?.unwrap_or_default())
    }

    /// Two halves that are closed together with the second.
    #[must_use]
    pub fn into_split(self) -> (OwnedReadHalf, OwnedWriteHalf) {
        (OwnedReadHalf(self.0.clone()), OwnedWriteHalf(self.0))
    }
}

/// As tokio's.
pub struct OwnedReadHalf(Arc<Socket>);

/// As tokio's: the other side sees the end when it is dropped.
pub struct OwnedWriteHalf(Arc<Socket>);

impl Drop for OwnedWriteHalf {
    fn drop(&mut self) {
        self.0.end();
    }
}

macro_rules! reads {
    ($name:ty) => {
        impl AsyncRead for $name {
            fn poll_read(
                self: Pin<&mut Self>,
                cx: &mut Context<'_>,
                buffer: &mut ReadBuf<'_>,
            ) -> Poll<io::Result<()>> {
                self.0.poll_read(cx, buffer)
            }
        }
    };
}

macro_rules! writes {
    ($name:ty) => {
        impl AsyncWrite for $name {
            fn poll_write(
                self: Pin<&mut Self>,
                cx: &mut Context<'_>,
                bytes: &[u8],
            ) -> Poll<io::Result<usize>> {
                self.0.poll_write(cx, bytes)
            }

            fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
                Poll::Ready(Ok(()))
            }

            fn poll_shutdown(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
                self.0.end();
                Poll::Ready(Ok(()))
            }
        }
    };
}

reads!(TcpStream);
reads!(OwnedReadHalf);
writes!(TcpStream);
writes!(OwnedWriteHalf);

/// As tokio's.
pub struct TcpListener {
    net: Arc<Net>,
    addr: SocketAddr,
}

impl Drop for TcpListener {
    fn drop(&mut self) {
        let inner = &mut *self.net.0.lock();
        let Some(backlog) = inner.listeners.remove(&self.addr) else { return };
        for id in backlog.waiting {
            inner.close(id, 1);
        }
    }
}

impl TcpListener {
    /// Listens on this machine.
    ///
    /// # Errors
    /// Somebody does already.
    #[expect(clippy::unused_async, reason = "as tokio's")]
    pub async fn bind(addr: SocketAddr) -> io::Result<Self> {
        let net = sim::host()?.net.clone();
        let mut inner = net.0.lock();
        if inner.listeners.contains_key(&addr) {
            return Err(io::ErrorKind::AddrInUse.into());
        }
        inner.listeners.insert(addr, Backlog::default());
        drop(inner);
        Ok(Self { net, addr })
    }

    /// Where it listens.
    ///
    /// # Errors
    /// None.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.addr)
    }

    /// The next connection. Cancel safe.
    ///
    /// # Errors
    /// The process is gone.
    pub async fn accept(&self) -> io::Result<(TcpStream, SocketAddr)> {
        poll_fn(|cx| {
            let inner = &mut *self.net.0.lock();
            let Some(backlog) = inner.listeners.get_mut(&self.addr) else {
                return Poll::Ready(Err(io::ErrorKind::NotConnected.into()));
            };
            while let Some(id) = backlog.waiting.pop_front() {
                let Some(Link(sides)) = inner.links.get(&id) else { continue };
                let (peer, local) = (sides[0].addr, sides[1].addr);
                let socket = Socket { net: self.net.clone(), id, at: 1, local, peer };
                return Poll::Ready(Ok((TcpStream(Arc::new(socket)), peer)));
            }
            backlog.waker = Some(cx.waker().clone());
            Poll::Pending
        })
        .await
    }
}

/// Nothing to set here.
///
/// # Errors
/// None.
pub fn keep_alive(_stream: &TcpStream, _idle: Duration) -> io::Result<()> {
    Ok(())
}

/// Nothing to set here.
///
/// # Errors
/// None.
pub fn cork(_stream: &TcpStream) -> io::Result<()> {
    Ok(())
}
