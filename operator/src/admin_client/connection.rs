//! One HTTP/1.1 exchange on a connection of its own, driven inside the caller's future: nothing is spawned, so
//! dropping the call closes the socket.

use std::io;

use bytes::{Bytes, BytesMut};
use futures_util::future::BoxFuture;
use http::{Request, StatusCode, header};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

use super::{Ask, BODY_BYTES_MAX};

/// A byte stream to a node.
pub trait Io: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

/// How nodes are reached.
pub trait Dial: Send + Sync {
    /// Connects to `host:port`; the host is an address or a DNS name, resolved anew each time.
    fn dial<'a>(&'a self, to: &'a str) -> BoxFuture<'a, io::Result<Box<dyn Io>>>;
}

/// TCP.
#[derive(Clone, Copy, Debug)]
pub struct Tcp;

impl Dial for Tcp {
    fn dial<'a>(&'a self, to: &'a str) -> BoxFuture<'a, io::Result<Box<dyn Io>>> {
        Box::pin(async move {
            let stream = TcpStream::connect(to).await?;
            // Small requests: waiting for more bytes would only delay them.
            let _ = stream.set_nodelay(true);
            Ok(Box::new(stream) as Box<dyn Io>)
        })
    }
}

/// Where an exchange ended without an answer.
pub(super) enum Failure {
    /// Before anything was sent.
    Connect(io::Error),
    /// After.
    Broken(String),
}

impl From<hyper::Error> for Failure {
    fn from(error: hyper::Error) -> Self {
        let mut text = error.to_string();
        let mut source = std::error::Error::source(&error);
        while let Some(cause) = source {
            text = format!("{text}: {cause}");
            source = cause.source();
        }
        Failure::Broken(text)
    }
}

/// Sends the request and reads the whole answer, up to [`BODY_BYTES_MAX`].
pub(super) async fn exchange(dial: &dyn Dial, to: &str, ask: Ask) -> Result<(StatusCode, Bytes), Failure> {
    let (mut sender, connection) = connect(dial, to).await?;
    let request = request(to, ask)?;
    let work = async {
        let response = sender.send_request(request).await?;
        let status = response.status();
        Ok((status, collect(response.into_body()).await?))
    };
    driven(work, connection).await
}

type Sender = http1::SendRequest<Full<Bytes>>;
type Connection = http1::Connection<TokioIo<Box<dyn Io>>, Full<Bytes>>;

/// A connection that carries one request.
pub(super) async fn connect(dial: &dyn Dial, to: &str) -> Result<(Sender, Connection), Failure> {
    let io = dial.dial(to).await.map_err(Failure::Connect)?;
    Ok(http1::handshake(TokioIo::new(io)).await?)
}

/// Polls the connection beside the work that needs it.
pub(super) async fn driven<T>(
    work: impl Future<Output = Result<T, Failure>>,
    connection: impl Future<Output = hyper::Result<()>>,
) -> Result<T, Failure> {
    tokio::pin!(work);
    tokio::pin!(connection);
    tokio::select! {
        biased;
        done = &mut work => return done,
        // The end of the connection is seen by the work as well, with more sense.
        _ = &mut connection => {}
    }
    work.await
}

pub(super) fn request(to: &str, ask: Ask) -> Result<Request<Full<Bytes>>, Failure> {
    let mut builder = Request::builder().method(ask.method).uri(ask.path).header(header::HOST, to);
    if ask.body.is_some() {
        builder = builder.header(header::CONTENT_TYPE, "application/json");
    }
    let body = Full::new(Bytes::from(ask.body.unwrap_or_default()));
    builder.body(body).map_err(|error| Failure::Broken(format!("the request cannot be built: {error}")))
}

/// Grows with what arrives, never with what was announced.
pub(super) async fn collect(mut body: Incoming) -> Result<Bytes, Failure> {
    let mut bytes = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame?.into_data() else { continue };
        if bytes.len() + data.len() > BODY_BYTES_MAX {
            return Err(Failure::Broken(format!("the answer is larger than {BODY_BYTES_MAX} bytes")));
        }
        bytes.extend_from_slice(&data);
    }
    Ok(bytes.freeze())
}
