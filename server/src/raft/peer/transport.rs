//! The byte stream under the frames: TCP, or mutual TLS over it.
//!
//! | `peer_tls` | accepts | dials |
//! | --- | --- | --- |
//! | off | in the clear | in the clear |
//! | optional | both; the first byte tells them apart | TLS, and in the clear where the other side hangs up on it |
//! | required | TLS | TLS |
//!
//! The hello of the frames follows inside, and names cluster and nodes as ever. A dialler checks that the other side's
//! certificate is valid for the host that it dialled, which is what the membership calls it; who accepts compares the
//! caller's with the membership once its hello has said who it is (`admission`).
//!
//! Invariant: with `required`, nothing of what a stranger sends gets to the frames.

use std::io;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf, ReadHalf, WriteHalf, split};

use crate::config::PeerTls;
use crate::machine::{OwnedReadHalf, OwnedWriteHalf, TcpStream};
use crate::tls::{Certificate, Credentials, TlsStream, is_hang_up};

/// First byte of a TLS connection: a handshake record. A frame begins with its length, which for a hello is another.
const TLS_HANDSHAKE: u8 = 0x16;

/// How this node talks to others.
#[derive(Clone, Default)]
pub(in crate::raft) struct Transport {
    mode: PeerTls,
    credentials: Option<Arc<Credentials>>,
}

impl std::fmt::Debug for Transport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Transport({:?})", self.mode)
    }
}

/// An accepted connection.
pub(in crate::raft) struct Accepted {
    pub(in crate::raft) read: PeerRead,
    pub(in crate::raft) write: PeerWrite,
    /// What the caller has proved; nothing in the clear.
    pub(in crate::raft) certificate: Option<Certificate>,
}

/// The reading half of a connection.
pub(in crate::raft) enum PeerRead {
    Plain(OwnedReadHalf),
    Tls(ReadHalf<TlsStream>),
}

/// The writing half of a connection. Flush what is to leave.
pub(in crate::raft) enum PeerWrite {
    Plain(OwnedWriteHalf),
    Tls(WriteHalf<TlsStream>),
}

fn plain(stream: TcpStream) -> (PeerRead, PeerWrite) {
    let (read, write) = stream.into_split();
    (PeerRead::Plain(read), PeerWrite::Plain(write))
}

fn encrypted(stream: TlsStream) -> (PeerRead, PeerWrite) {
    let (read, write) = split(stream);
    (PeerRead::Tls(read), PeerWrite::Tls(write))
}

impl Transport {
    /// Without credentials everything goes in the clear, whatever the mode.
    pub(in crate::raft) fn new(mode: PeerTls, credentials: Option<Arc<Credentials>>) -> Self {
        let mode = if credentials.is_some() { mode } else { PeerTls::Off };
        Self { mode, credentials }
    }

    pub(in crate::raft) fn is_tls_only(&self) -> bool {
        self.mode == PeerTls::Required
    }

    /// The accepting side. `None` when the other side is not let in, which is counted and told. The caller limits the
    /// time of what is in the clear.
    pub(in crate::raft) async fn accept(
        &self,
        stream: TcpStream,
        from: IpAddr,
    ) -> io::Result<Option<Accepted>> {
        stream.set_nodelay(true)?;
        let in_the_clear = |stream| {
            let (read, write) = plain(stream);
            Ok(Some(Accepted { read, write, certificate: None }))
        };
        let Some(credentials) = self.credentials.as_ref().filter(|_| self.mode != PeerTls::Off) else {
            return in_the_clear(stream);
        };
        let mut first = [0];
        if stream.peek(&mut first).await? == 0 {
            return Ok(None);
        }
        if first[0] != TLS_HANDSHAKE {
            if self.mode == PeerTls::Optional {
                return in_the_clear(stream);
            }
            credentials.refuse(from, "not TLS, and peer_tls is required");
            return Ok(None);
        }
        Ok(credentials.accept(stream, from).await.map(|stream| {
            let certificate = Certificate::shown_by(&stream);
            let (read, write) = encrypted(stream);
            Accepted { read, write, certificate }
        }))
    }

    /// Counts and tells a caller that has a certificate of our authority, and is not who it says it is.
    pub(in crate::raft) fn refuse(&self, from: IpAddr, why: &str) {
        if let Some(credentials) = &self.credentials {
            credentials.refuse(from, why);
        }
    }

    /// Dials `addr` and lets it prove that it is the host `name`. The caller limits the time.
    pub(in crate::raft) async fn dial(&self, addr: &str, name: &str) -> io::Result<(PeerRead, PeerWrite)> {
        let stream = connect(addr).await?;
        let Some(credentials) = self.credentials.as_ref().filter(|_| self.mode != PeerTls::Off) else {
            return Ok(plain(stream));
        };
        match credentials.connect(stream, name).await {
            Ok(stream) => Ok(encrypted(stream)),
            // As a node does that is still without TLS: to it the handshake is a bad frame.
            Err(error) if self.mode == PeerTls::Optional && is_hang_up(&error) => {
                Ok(plain(connect(addr).await?))
            }
            Err(error) => Err(error),
        }
    }
}

async fn connect(addr: &str) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(addr).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// The host of `host:port`, without the brackets of an IPv6 address.
pub(in crate::raft) fn host(addr: &str) -> &str {
    let host = addr.rsplit_once(':').map_or(addr, |(host, _)| host);
    host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host)
}

impl AsyncRead for PeerRead {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            PeerRead::Plain(read) => Pin::new(read).poll_read(cx, buffer),
            PeerRead::Tls(read) => Pin::new(read).poll_read(cx, buffer),
        }
    }
}

impl AsyncWrite for PeerWrite {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            PeerWrite::Plain(write) => Pin::new(write).poll_write(cx, bytes),
            PeerWrite::Tls(write) => Pin::new(write).poll_write(cx, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            PeerWrite::Plain(write) => Pin::new(write).poll_flush(cx),
            PeerWrite::Tls(write) => Pin::new(write).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            PeerWrite::Plain(write) => Pin::new(write).poll_shutdown(cx),
            PeerWrite::Tls(write) => Pin::new(write).poll_shutdown(cx),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::raft::peer::frame::put_frame;
    use crate::raft::peer::messages::{HELLO, Hello};

    #[test]
    fn a_hello_is_never_taken_for_tls() {
        let mut out = bytes::BytesMut::new();
        put_frame(&mut out, HELLO, 0, &Hello::new(7, 1, 2).encode());
        assert_ne!(out[0], TLS_HANDSHAKE);
    }

    #[test]
    fn hosts_are_names_and_bare_addresses() {
        assert_eq!(host("a.example:1"), "a.example");
        assert_eq!(host("[::1]:1"), "::1");
        assert_eq!(host("127.0.0.1:14920"), "127.0.0.1");
    }
}
