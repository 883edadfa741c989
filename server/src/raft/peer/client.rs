//! A connection to one peer that is opened when it is needed, and carries many requests at once.
//!
//! Requests begin at the peer in the order of [`PeerClient::call`]. A failed call says whether the request can have
//! reached the peer: [`CallError::NotSent`] is safe to repeat elsewhere, [`CallError::Lost`] is not.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use tokio::io::AsyncWriteExt;
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;
use tokio_util::task::TaskTracker;

use super::Local;
use super::frame::{FRAME_BYTES_MAX, Frame, FrameReader, HELLO_BYTES_MAX, put_frame};
use super::messages::{ACCEPTED, ANSWER, HELLO, Hello, Introduction, REFUSED, WHOEVER, WORKING};
use super::transport::{PeerRead, PeerWrite, host};
use crate::clock;

/// Requests waiting for the connection.
const QUEUE_MAX: usize = 1024;
/// Bytes gathered into one write.
const WRITE_BYTES: usize = 1024 * 1024;
/// Time to connect and be welcomed.
const CONNECT_TIMEOUT: Duration = Duration::from_millis(800);
/// After a failed dial, calls fail at once for this long.
const REDIAL_PAUSE: Duration = Duration::from_millis(40);
/// A peer that owes an answer and sends nothing for this long is gone. Longer than any fsync stall that we bear.
const SILENCE_MAX: Duration = Duration::from_secs(5);

/// Why a call has no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(in crate::raft) enum CallError {
    /// The request has not reached the peer, and never will.
    #[error("peer {0}")]
    NotSent(String),
    /// The connection broke after the request was written.
    #[error("peer connection lost: {0}")]
    Lost(String),
    /// The peer answered with an error; it did not do what was asked.
    #[error("peer answered: {0}")]
    Refused(String),
}

struct Call {
    kind: u8,
    body: Bytes,
    reply: oneshot::Sender<Result<Bytes, CallError>>,
}

/// Handle of a connection; the connection ends when the last handle is dropped.
#[derive(Clone)]
pub(in crate::raft) struct PeerClient {
    calls: mpsc::Sender<Call>,
}

impl PeerClient {
    /// Prepares a connection to node `target` at the address that the membership has for it at each dial, or at `addr`
    /// while it is no member (`host:port`, resolved at each dial).
    pub(in crate::raft) fn new(local: Arc<Local>, target: u64, addr: String, tasks: &TaskTracker) -> Self {
        Self::with_patience(local, target, addr, tasks, SILENCE_MAX)
    }

    fn with_patience(
        local: Arc<Local>,
        target: u64,
        addr: String,
        tasks: &TaskTracker,
        silence_max: Duration,
    ) -> Self {
        let (calls, queue) = mpsc::channel(QUEUE_MAX);
        tasks.spawn(Connection { local, target, addr, queue, failed_at: None, silence_max }.run());
        Self { calls }
    }

    /// Sends a request. The order of calls is the order in which the peer begins with them; awaiting is separate.
    pub(in crate::raft) fn call(
        &self,
        kind: u8,
        body: Bytes,
    ) -> impl Future<Output = Result<Bytes, CallError>> + Send + use<> {
        let (reply, answer) = oneshot::channel();
        let queued = self.calls.try_send(Call { kind, body, reply });
        async move {
            queued.map_err(|_| CallError::NotSent("has too many requests waiting".into()))?;
            answer.await.unwrap_or_else(|_| Err(CallError::Lost("this node is stopping".into())))
        }
    }
}

struct Connection {
    local: Arc<Local>,
    target: u64,
    addr: String,
    queue: mpsc::Receiver<Call>,
    failed_at: Option<(Instant, String)>,
    silence_max: Duration,
}

struct Open {
    read: PeerRead,
    write: PeerWrite,
    frames: FrameReader,
    waiting: BTreeMap<u64, oneshot::Sender<Result<Bytes, CallError>>>,
    next_id: u64,
    heard_at: Instant,
}

impl Connection {
    async fn run(mut self) {
        while let Some(first) = self.queue.recv().await {
            match self.dial().await {
                Ok(mut open) => {
                    let error = self.serve(&mut open, first).await;
                    for (_, reply) in std::mem::take(&mut open.waiting) {
                        let _ = reply.send(Err(CallError::Lost(error.to_string())));
                    }
                }
                Err(problem) => {
                    // What queued up meanwhile fails with it: a call never waits behind a dead peer.
                    let mut call = Some(first);
                    while let Some(failed) = call {
                        let _ = failed.reply.send(Err(CallError::NotSent(problem.clone())));
                        call = self.queue.try_recv().ok();
                    }
                }
            }
        }
    }

    async fn dial(&mut self) -> Result<Open, String> {
        if let Some((at, problem)) = &self.failed_at
            && clock::monotonic().duration_since(*at) < REDIAL_PAUSE
        {
            return Err(problem.clone());
        }
        let problem = match timeout(CONNECT_TIMEOUT, self.connect()).await {
            Ok(Ok(open)) => {
                self.failed_at = None;
                return Ok(open);
            }
            Ok(Err(error)) => format!("{} at {}: {error}", id_text(self.target), self.addr),
            Err(_) => format!("{} at {}: no answer to the handshake", id_text(self.target), self.addr),
        };
        self.failed_at = Some((clock::monotonic(), problem.clone()));
        Err(problem)
    }

    /// By the name that the membership has; failing that, where the member was seen last. The handshake refuses every
    /// other node, whichever address it has taken over.
    async fn connect(&self) -> io::Result<Open> {
        let addr = self.local.peer_addr_of(self.target).unwrap_or_else(|| self.addr.clone());
        let error = match self.connect_to(&addr, host(&addr)).await {
            Ok(open) => return Ok(open),
            Err(error) => error,
        };
        let port = addr.rsplit(':').next().and_then(|port| port.parse::<u16>().ok());
        let Some((ip, port)) = self.local.seen_at(self.target).zip(port) else { return Err(error) };
        // The first failure is the one that tells what is wrong with the name, which a certificate has to prove as ever.
        self.connect_to(&SocketAddr::new(ip, port).to_string(), host(&addr)).await.map_err(|_| error)
    }

    async fn connect_to(&self, addr: &str, name: &str) -> io::Result<Open> {
        let greeted = greet(&self.local, self.target, addr, name).await?;
        let Greeted { read, write, mut frames, welcome } = greeted;
        if welcome.kind != HELLO | ANSWER || welcome.body.first() != Some(&ACCEPTED) {
            return Err(refused(&welcome));
        }
        frames.raise_limit(FRAME_BYTES_MAX);
        let heard_at = clock::monotonic();
        Ok(Open { read, write, frames, waiting: BTreeMap::new(), next_id: 1, heard_at })
    }

    /// Serves the connection until it breaks or nobody needs it.
    async fn serve(&mut self, open: &mut Open, first: Call) -> io::Error {
        if let Err(error) = self.send(open, first).await {
            return error;
        }
        loop {
            let silence = open.heard_at + self.silence_max;
            tokio::select! {
                biased;
                frame = open.frames.next(&mut open.read) => match frame {
                    Ok(Some(frame)) => open.answer(frame),
                    Ok(None) => return io::Error::other("closed by the peer"),
                    Err(error) => return error,
                },
                call = self.queue.recv() => match call {
                    Some(call) => if let Err(error) = self.send(open, call).await { return error },
                    None => return io::Error::other("no longer needed"),
                },
                () = tokio::time::sleep_until(silence.into()), if !open.waiting.is_empty() => {
                    return io::Error::other(format!("no answer for {:?}", self.silence_max));
                }
            }
        }
    }

    /// Writes a call and those waiting behind it.
    async fn send(&mut self, open: &mut Open, first: Call) -> io::Result<()> {
        let mut out = BytesMut::new();
        let mut next = Some(first);
        while let Some(call) = next {
            if open.waiting.is_empty() {
                open.heard_at = clock::monotonic();
            }
            put_frame(&mut out, call.kind, open.next_id, &call.body);
            open.waiting.insert(open.next_id, call.reply);
            open.next_id += 1;
            next = if out.len() < WRITE_BYTES { self.queue.try_recv().ok() } else { None };
        }
        match timeout(self.silence_max, write_whole(&mut open.write, &out)).await {
            Ok(result) => result,
            Err(_) => Err(io::Error::other("the peer takes no bytes")),
        }
    }
}

/// A connection whose hello was answered.
struct Greeted {
    read: PeerRead,
    write: PeerWrite,
    frames: FrameReader,
    welcome: Frame,
}

async fn greet(local: &Local, target: u64, addr: &str, name: &str) -> io::Result<Greeted> {
    let (mut read, mut write) = local.transport.dial(addr, name).await?;
    let hello = Hello::new(local.cluster_id().unwrap_or(0), local.node_id, target);
    let mut out = BytesMut::new();
    put_frame(&mut out, HELLO, 0, &hello.encode());
    write_whole(&mut write, &out).await?;
    let mut frames = FrameReader::new(HELLO_BYTES_MAX);
    let welcome = frames.next(&mut read).await?.ok_or(io::ErrorKind::UnexpectedEof)?;
    Ok(Greeted { read, write, frames, welcome })
}

fn refused(welcome: &Frame) -> io::Error {
    let text = String::from_utf8_lossy(welcome.body.get(3..).unwrap_or_default()).into_owned();
    io::Error::other(format!("refused: {text}"))
}

/// Writes all bytes and has them leave.
pub(super) async fn write_whole(write: &mut PeerWrite, bytes: &[u8]) -> io::Result<()> {
    write.write_all(bytes).await?;
    write.flush().await
}

/// Asks whoever has this peer address who it is.
pub(in crate::raft) async fn ask_who(local: &Local, addr: &str) -> io::Result<Introduction> {
    let asked = timeout(CONNECT_TIMEOUT, greet(local, WHOEVER, addr, host(addr))).await;
    let welcome = asked.map_err(|_| io::Error::other("no answer to the handshake"))??.welcome;
    Introduction::decode(welcome.body.clone()).map_err(|_| refused(&welcome))
}

impl Open {
    fn answer(&mut self, frame: Frame) {
        self.heard_at = clock::monotonic();
        if frame.kind == WORKING {
            return;
        }
        let Some(reply) = self.waiting.remove(&frame.id) else { return };
        let result = if frame.kind == REFUSED {
            Err(CallError::Refused(String::from_utf8_lossy(&frame.body).into_owned()))
        } else {
            Ok(frame.body)
        };
        let _ = reply.send(result);
    }
}

/// Node ids are shown in hexadecimal everywhere.
pub(in crate::raft) fn id_text(id: u64) -> String {
    format!("{id:016x}")
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::super::messages::CHECKPOINT_END;
    use super::super::transport::Transport;
    use super::*;

    const PATIENCE: Duration = Duration::from_millis(250);

    /// A peer that welcomes one caller and says this often that it is working before it answers.
    async fn slow_peer(listener: TcpListener, signs: u32) -> io::Result<()> {
        let (stream, _) = listener.accept().await?;
        let (mut read, mut write) = stream.into_split();
        let mut frames = FrameReader::new(FRAME_BYTES_MAX);
        let mut out = BytesMut::new();
        frames.next(&mut read).await?;
        put_frame(&mut out, HELLO | ANSWER, 0, &[0, 0, 0]);
        write.write_all(&out.split()).await?;
        let Some(request) = frames.next(&mut read).await? else { return Ok(()) };
        let mut pace = tokio::time::interval(PATIENCE / 5);
        for _ in 0..signs {
            pace.tick().await;
            put_frame(&mut out, WORKING, request.id, b"");
            write.write_all(&out.split()).await?;
        }
        if signs > 0 {
            put_frame(&mut out, request.kind | ANSWER, request.id, b"done");
            write.write_all(&out).await?;
        }
        // Until the caller hangs up.
        frames.next(&mut read).await.map(drop)
    }

    async fn call(signs: u32) -> Result<Bytes, CallError> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap().to_string();
        let tasks = TaskTracker::new();
        tasks.spawn(slow_peer(listener, signs));
        let local = Arc::new(Local::new(1, Some(7), Transport::default()));
        let client = PeerClient::with_patience(local, 2, addr, &tasks, PATIENCE);
        client.call(CHECKPOINT_END, Bytes::new()).await
    }

    #[tokio::test]
    async fn a_peer_that_says_that_it_works_is_waited_for() {
        let began = clock::monotonic();
        assert_eq!(call(20).await, Ok(Bytes::from_static(b"done")));
        assert!(clock::monotonic().duration_since(began) > PATIENCE * 3, "longer than a silent one is");
        assert!(matches!(call(0).await, Err(CallError::Lost(_))), "a silent one is not");
    }

    #[tokio::test]
    async fn a_member_whose_name_is_gone_is_called_where_it_was_seen() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let tasks = TaskTracker::new();
        tasks.spawn(slow_peer(listener, 1));
        let local = Arc::new(Local::new(1, Some(7), Transport::default()));
        local.set_peer_addrs([(2, format!("no-such-host.invalid:{}", addr.port()))].into());
        let client = PeerClient::new(local.clone(), 2, String::new(), &tasks);
        let failed = client.call(CHECKPOINT_END, Bytes::new()).await;
        assert!(matches!(failed, Err(CallError::NotSent(_))), "{failed:?}");
        local.saw(2, addr.ip());
        tokio::time::sleep(REDIAL_PAUSE).await;
        assert_eq!(client.call(CHECKPOINT_END, Bytes::new()).await, Ok(Bytes::from_static(b"done")));
        local.saw(3, addr.ip());
        assert_eq!(local.seen_at(3), None, "only members are remembered");
    }
}
