//! An HTTP/1.1 proxy before a server, which hurts chosen requests: the tool for "killed at any point".
//!
//! ```text
//! client --request head--> rule(number, method, path) --> pass | answer | cut before | cut after N bytes | hold
//! ```
//!
//! Requests are numbered from 0 in the order of their heads, over all connections. Bodies need a content-length, which
//! the clients under test always send.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context, Result, ensure};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::task::JoinSet;

/// One request, as its head says.
#[derive(Clone, Debug)]
pub struct Seen {
    /// From 0.
    pub number: usize,
    /// GET, PUT, ...
    pub method: String,
    /// With the query.
    pub path: String,
    /// The whole head, names in lower case.
    pub head: String,
}

impl Seen {
    /// Value of a header.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
    }
}

/// What happens to a request.
#[derive(Clone, Debug)]
pub enum Deed {
    /// It reaches the server and its answer the client.
    Pass,
    /// The server never sees it; the client gets this status and body.
    Answer(u16, String),
    /// The connection breaks before the server sees it.
    Cut,
    /// The server does it, and the connection breaks after this many bytes of the answer.
    CutAnswer(usize),
    /// Never answered, never forwarded; the notifier hears of it.
    Hold(Arc<Notify>),
    /// Done by the server, never answered; the notifier hears of it when the server has answered.
    HoldAnswer(Arc<Notify>),
}

/// The proxy; its connections end with it.
pub struct Proxy {
    /// `host:port`.
    pub addr: String,
    seen: Arc<AtomicUsize>,
    _accepting: JoinSet<()>,
}

type Rule = Arc<dyn Fn(&Seen) -> Deed + Send + Sync>;

impl Proxy {
    /// Listens on loopback and forwards to `server`.
    ///
    /// # Errors
    /// No port is free.
    pub async fn start(server: &str, rule: impl Fn(&Seen) -> Deed + Send + Sync + 'static) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let addr = listener.local_addr()?.to_string();
        let (seen, server, rule) = (Arc::new(AtomicUsize::new(0)), server.to_owned(), Arc::new(rule) as Rule);
        let mut accepting = JoinSet::new();
        let numbers = seen.clone();
        accepting.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                let (server, rule, numbers) = (server.clone(), rule.clone(), numbers.clone());
                connections.spawn(async move {
                    // The end of either side is the end of the connection: that is what a cut is.
                    let _ = connection(client, &server, &rule, &numbers).await;
                });
            }
        });
        Ok(Self { addr, seen, _accepting: accepting })
    }

    /// Requests seen so far.
    #[must_use]
    pub fn seen(&self) -> usize {
        self.seen.load(Ordering::SeqCst)
    }
}

fn lower_names(head: &str) -> String {
    let lower = |line: &str| match line.split_once(':') {
        Some((name, value)) => format!("{}: {}", name.to_lowercase(), value.trim()),
        None => line.to_owned(),
    };
    head.lines().map(lower).collect::<Vec<_>>().join("\n")
}

async fn connection(mut client: TcpStream, server: &str, rule: &Rule, numbers: &AtomicUsize) -> Result<()> {
    let mut upstream = TcpStream::connect(server).await?;
    client.set_nodelay(true)?;
    upstream.set_nodelay(true)?;
    loop {
        let (head, rest) = read_head(&mut client).await?;
        let text = String::from_utf8_lossy(&head).into_owned();
        let mut words = text.split(' ');
        let seen = Seen {
            number: numbers.fetch_add(1, Ordering::SeqCst),
            method: words.next().unwrap_or_default().to_owned(),
            path: words.next().unwrap_or_default().to_owned(),
            head: lower_names(&text),
        };
        let deed = rule(&seen);
        match &deed {
            Deed::Cut => return Ok(()),
            Deed::Hold(notify) => {
                notify.notify_one();
                return std::future::pending().await;
            }
            Deed::Answer(status, body) => {
                copy_exactly(&mut client, &mut tokio::io::sink(), length(&text), &rest).await?;
                let head = format!("HTTP/1.1 {status} Said\r\ncontent-length: {}\r\n\r\n", body.len());
                client.write_all(head.as_bytes()).await?;
                if seen.method != "HEAD" {
                    client.write_all(body.as_bytes()).await?;
                }
                continue;
            }
            Deed::Pass | Deed::CutAnswer(_) | Deed::HoldAnswer(_) => {}
        }
        upstream.write_all(&head).await?;
        if text.to_lowercase().contains("expect: 100-continue") {
            client.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").await?;
        }
        copy_exactly(&mut client, &mut upstream, length(&text), &rest).await?;
        answer(&mut client, &mut upstream, &seen, &deed).await?;
    }
}

async fn answer(client: &mut TcpStream, upstream: &mut TcpStream, seen: &Seen, deed: &Deed) -> Result<()> {
    let (mut head, mut rest) = read_head(upstream).await?;
    while head.starts_with(b"HTTP/1.1 100") {
        (head, rest) = if rest.is_empty() { read_head(upstream).await? } else { split(rest)? };
    }
    let text = String::from_utf8_lossy(&head).to_lowercase();
    match deed {
        Deed::HoldAnswer(notify) => {
            notify.notify_one();
            return std::future::pending().await;
        }
        Deed::CutAnswer(bytes) => {
            let whole = [head, rest].concat();
            client.write_all(&whole[..whole.len().min(*bytes)]).await?;
            if *bytes > whole.len() {
                copy_exactly(upstream, client, bytes - whole.len(), &[]).await?;
            }
            anyhow::bail!("cut");
        }
        Deed::Pass | Deed::Answer(..) | Deed::Cut | Deed::Hold(_) => {}
    }
    client.write_all(&head).await?;
    if seen.method == "HEAD" || text.starts_with("http/1.1 204") || text.starts_with("http/1.1 304") {
        return Ok(());
    }
    if text.contains("content-length:") {
        return copy_exactly(upstream, client, length(&text), &rest).await;
    }
    // Chunked: passed through until the last chunk's mark.
    client.write_all(&rest).await?;
    let mut tail = rest;
    let mut buffer = vec![0; 64 * 1024];
    while !tail.ends_with(b"0\r\n\r\n") {
        let n = upstream.read(&mut buffer).await?;
        ensure!(n > 0, "the server ended");
        client.write_all(&buffer[..n]).await?;
        tail.extend_from_slice(&buffer[..n]);
        let from = tail.len().saturating_sub(8);
        tail.drain(..from);
    }
    Ok(())
}

/// A head and what was read behind it.
async fn read_head(stream: &mut TcpStream) -> Result<(Vec<u8>, Vec<u8>)> {
    let mut bytes = Vec::new();
    let mut buffer = vec![0; 16 * 1024];
    loop {
        if bytes.windows(4).any(|window| window == b"\r\n\r\n") {
            return split(bytes);
        }
        let n = stream.read(&mut buffer).await?;
        ensure!(n > 0, "the peer ended");
        bytes.extend_from_slice(&buffer[..n]);
    }
}

fn split(mut bytes: Vec<u8>) -> Result<(Vec<u8>, Vec<u8>)> {
    let end = bytes.windows(4).position(|window| window == b"\r\n\r\n").context("no head")? + 4;
    let rest = bytes.split_off(end);
    Ok((bytes, rest))
}

fn length(head: &str) -> usize {
    let lower = head.to_lowercase();
    let line = lower.lines().find_map(|line| line.strip_prefix("content-length:"));
    line.and_then(|value| value.trim().parse().ok()).unwrap_or(0)
}

async fn copy_exactly(
    from: &mut TcpStream,
    to: &mut (impl AsyncWriteExt + Unpin),
    count: usize,
    already: &[u8],
) -> Result<()> {
    to.write_all(already).await?;
    let mut left = count.checked_sub(already.len()).context("pipelined requests are not for this proxy")?;
    let mut buffer = vec![0; 64 * 1024];
    while left > 0 {
        let most = buffer.len().min(left);
        let n = from.read(&mut buffer[..most]).await?;
        ensure!(n > 0, "the peer ended");
        to.write_all(&buffer[..n]).await?;
        left -= n;
    }
    Ok(())
}
