//! One client: read, decode all, run the turn, write once; and again.
//!
//! ```text
//!            +-------------------------------------------------------------+
//!            v                                                             |
//! read -> decode every complete request -> Handler::turn -> write all -----+
//!   |          | malformed: answer what came before it, the error, close   |
//!   |          | turn full: the rest waits in the buffer, no read          |
//!   | kill, stop, stall                                                    | Flow::Close
//!   v                                                                      v
//! hang up: FIN, then swallow what the client still sends, so that no RST overtakes the last reply
//! ```
//!
//! All waiting for the client happens in two places, [`Connection::read`] and [`Connection::write`]; pushes between
//! turns (subscriptions) are one branch of the `select!` in `read`.
//!
//! Invariants:
//! - Nothing is read while a reply is unwritten.
//! - The read buffer grows with the bytes that came (it at most doubles), within the budget that all connections share.
//! - A client that neither takes its replies nor goes on with a large request is closed after `output_stall`.
//! - Asked to stop, the connection closes where no request can be on its way: behind an answer, in the same packet as
//!   the answer, when the client has sent nothing else; or in the silence of a client that has not spoken for a while.
//!   A client that asks, waits, and looks at its socket before it asks again loses no request by a stop.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::{BufMut, BytesMut};
use futures_util::FutureExt as _;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::{Instant, Sleep, sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::budget::{Budget, FREE_BYTES, Share};
use super::signal::Signal;
use super::{Flow, Handler, Stats};
use crate::config::Limits;
use crate::machine::{self, TcpStream};
use crate::resp::reply::append;
use crate::resp::{DecoderLimits, Protocol, ProtocolError, Reply, Request, RequestDecoder};
use crate::tls::TlsStream;

#[cfg(test)]
mod tests;

/// Smallest and first read, in bytes: what an idle connection keeps.
const READ_BYTES_MIN: usize = 4 * 1024;

/// Largest single read, in bytes.
const READ_BYTES_MAX: usize = 256 * 1024;

/// Request bytes of one turn, after which the next request waits for the next turn.
const TURN_BYTES_MAX: usize = 1024 * 1024;

/// Most that may wait unfinished without a deadline, in bytes. Small enough to need no budget for the next read.
const REMNANT_BYTES_MAX: usize = FREE_BYTES / 2;

const _: () = assert!(REMNANT_BYTES_MAX + READ_BYTES_MIN <= FREE_BYTES);

/// Output memory that is kept for the next turn, in bytes.
const OUT_BYTES_KEPT: usize = 64 * 1024;

/// Silence after which a connection gives up the buffers that a burst has left.
const IDLE: Duration = Duration::from_secs(1);

/// How long a connection waits for a share of the request budget.
const BUDGET_WAIT: Duration = Duration::from_secs(10);

/// How long a stopping connection waits for the rest of a request that has begun to arrive.
const STOP_WAIT: Duration = Duration::from_millis(500);

/// Silence of a client in which a stopping connection may close without an answer in front. One that spoke more recently
/// is likely to speak again: its next request is awaited for this long, and the end travels with the answer.
const STOP_LULL: Duration = Duration::from_secs(1);

/// How long a stopping connection goes on with a client that never pauses.
const STOP_MAX: Duration = Duration::from_secs(3);

/// How long, and for how many bytes, a closed connection swallows what the client still sends.
const LINGER: Duration = Duration::from_millis(250);
const LINGER_BYTES: usize = 1024 * 1024;

/// What all connections of a listener share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) limits: Limits,
    pub(super) stats: Arc<Stats>,
    pub(super) budget: Budget,
}

/// Why a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// The client closed its side, or the socket broke.
    Gone,
    /// The handler asked for it (QUIT), or left a turn where it was.
    Handler,
    /// The kill token was cancelled (CLIENT KILL).
    Killed,
    /// The node stops; everything is answered.
    Stopped,
    /// The node stops, and the time for it is over.
    Aborted,
    /// The bytes were no request.
    Malformed,
    /// A browser was made to speak to us.
    CrossProtocol,
    /// The client did not take its replies, or did not go on with a large request.
    Stalled,
    /// Too many bytes of unfinished requests are waiting in this process.
    OverBudget,
    /// The client did not log in in time.
    NotLoggedIn,
}

/// A client's byte stream.
pub(super) trait ClientStream: AsyncRead + AsyncWrite + Unpin + Send {
    /// What is written from now on leaves together with the end of the stream, as far as it fits into one packet.
    fn hold_for_end(&self) {}
}

impl ClientStream for TcpStream {
    fn hold_for_end(&self) {
        if let Err(error) = machine::cork(self) {
            tracing::debug!(%error, "set TCP_CORK");
        }
    }
}

impl ClientStream for TlsStream {
    fn hold_for_end(&self) {
        self.get_ref().0.hold_for_end();
    }
}

/// Why decoding stopped.
#[derive(PartialEq, Eq)]
enum Decoded {
    /// What is left in the buffer is not a whole request.
    All,
    /// The turn is full; the buffer may hold more.
    TurnFull,
    Malformed(ProtocolError),
    CrossProtocol,
}

/// One client connection over any byte stream.
pub(super) struct Connection<S> {
    stream: S,
    shared: Arc<Shared>,
    kill: Signal,
    stop: Signal,
    decoder: RequestDecoder,
    buffer: BytesMut,
    requests: Vec<Request>,
    out: BytesMut,
    share: Share,
    /// Bytes of the next read; follows what the client sends.
    read_bytes: usize,
    /// Runs while a large request is unfinished; fires when too few bytes come.
    stall: Option<Stall>,
    /// When the client was last heard.
    heard: Instant,
    /// Runs while the client has to log in.
    login_by: Option<Pin<Box<Sleep>>>,
    /// Runs once the connection was asked to stop.
    last_call: Option<Pin<Box<Sleep>>>,
}

/// A deadline that moves on with each `output_bytes_pause` bytes.
struct Stall {
    deadline: Pin<Box<Sleep>>,
    bytes: usize,
}

impl<S: ClientStream> Connection<S> {
    /// A connection that has read nothing yet. It ends at once when `kill` is cancelled, and in order on `stop`.
    pub(super) fn new(
        stream: S,
        shared: Arc<Shared>,
        kill: CancellationToken,
        stop: CancellationToken,
    ) -> Self {
        let decoder = RequestDecoder::new(decoder_limits(&shared.limits));
        let share = shared.budget.share();
        Self {
            stream,
            shared,
            kill: Signal::new(kill),
            stop: Signal::new(stop),
            decoder,
            buffer: BytesMut::new(),
            requests: Vec::new(),
            out: BytesMut::new(),
            share,
            read_bytes: READ_BYTES_MIN,
            stall: None,
            heard: Instant::now(),
            login_by: None,
            last_call: None,
        }
    }

    /// Serves the client until one of them has enough.
    pub(super) async fn run<H: Handler>(mut self, handler: &H, session: &mut H::Session) -> End {
        let end = self.serve(handler, session).await;
        let stats = &self.shared.stats;
        match end {
            End::Malformed | End::CrossProtocol => Stats::add(&stats.protocol_errors, 1),
            End::Stalled => Stats::add(&stats.stalled, 1),
            End::OverBudget => Stats::add(&stats.over_budget, 1),
            End::NotLoggedIn => Stats::add(&stats.not_logged_in, 1),
            End::Gone | End::Handler | End::Killed | End::Stopped | End::Aborted => {}
        }
        if !matches!(end, End::Gone | End::Stalled) {
            self.hang_up().await;
        }
        end
    }

    async fn serve<H: Handler>(&mut self, handler: &H, session: &mut H::Session) -> End {
        loop {
            if let Err(end) = self.look_at_login(handler.is_stranger(session)) {
                return end;
            }
            let decoded = self.decode_turn();
            let came = match self.run_turn(handler, session, decoded == Decoded::All).await {
                Ok(came) => came,
                Err(end) => return end,
            };
            let step = match decoded {
                Decoded::All if came => Ok(()),
                Decoded::All => self.read(handler, session).await,
                Decoded::TurnFull => Ok(()),
                Decoded::Malformed(error) => self.part_with(error.to_string(), End::Malformed).await,
                Decoded::CrossProtocol => Err(End::CrossProtocol),
            };
            if let Err(end) = step {
                return end;
            }
        }
    }

    /// Keeps a client that has to log in small and short-lived, and lets it go once it has.
    fn look_at_login(&mut self, is_stranger: bool) -> Result<(), End> {
        match &self.login_by {
            None if !is_stranger => {}
            None => {
                self.login_by = Some(Box::pin(sleep(self.shared.limits.auth_timeout)));
                self.decoder.set_limits(decoder_limits(&self.shared.limits).before_login());
            }
            Some(deadline) if is_stranger => {
                if deadline.is_elapsed() || deadline.deadline() <= Instant::now() {
                    return Err(End::NotLoggedIn);
                }
            }
            Some(_) => {
                self.login_by = None;
                self.decoder.set_limits(decoder_limits(&self.shared.limits));
            }
        }
        Ok(())
    }

    /// Moves the complete requests of the buffer into the turn, up to its limits. Of a stranger's one at a time: the first
    /// may be the login, under which the next one is read.
    fn decode_turn(&mut self) -> Decoded {
        let is_stranger = self.login_by.is_some();
        let requests_max = if is_stranger { 1 } else { self.shared.limits.turn_requests_max.max(1) };
        let begin = self.buffer.len();
        while self.requests.len() < requests_max && begin - self.buffer.len() < TURN_BYTES_MAX {
            match self.decoder.decode(&mut self.buffer) {
                Ok(Some(request)) if is_cross_protocol(&request) => return Decoded::CrossProtocol,
                Ok(Some(request)) => self.requests.push(request),
                Ok(None) => return Decoded::All,
                Err(error) => return Decoded::Malformed(error),
            }
        }
        Decoded::TurnFull
    }

    /// Runs the decoded requests and writes their replies. `is_whole` says that nothing else waits in the buffer; true
    /// comes back if something does now.
    async fn run_turn<H: Handler>(
        &mut self,
        handler: &H,
        session: &mut H::Session,
        is_whole: bool,
    ) -> Result<bool, End> {
        let mut came = false;
        while !self.requests.is_empty() {
            let waiting = self.requests.len();
            let flow = handler.turn(session, &mut self.requests, &mut self.out).await;
            let is_stuck = self.requests.len() == waiting && self.out.is_empty();
            if self.requests.is_empty() {
                // A client that is slow to take its replies must not keep others from sending.
                self.share.release_to(self.decoder.held_bytes() + self.buffer.len());
            }
            let is_last = self.is_last_answer(is_whole, &mut came).await?;
            if is_last {
                self.stream.hold_for_end();
            }
            self.write().await?;
            if is_last {
                return Err(End::Stopped);
            }
            if is_stuck {
                tracing::error!(requests = waiting, "handler leaves its turn untouched, connection closes");
            }
            if flow == Flow::Close || is_stuck {
                return Err(End::Handler);
            }
            // With nothing left to run, the next read looks.
            if !(is_whole && self.requests.is_empty()) && self.kill.is_given() {
                return Err(End::Killed);
            }
        }
        Ok(came)
    }

    /// Whether the node stops, and the client waits for nothing but the replies in `out`, or has had its time. `came` is
    /// set if it sent more.
    async fn is_last_answer(&mut self, is_whole: bool, came: &mut bool) -> Result<bool, End> {
        if !self.stop.is_given() {
            return Ok(false);
        }
        if self.last_call().deadline() <= Instant::now() {
            return Ok(true);
        }
        if !is_whole || !self.requests.is_empty() || self.decoder.is_mid_request(&self.buffer) {
            return Ok(false);
        }
        let room = self.make_room().await?;
        // Lets the runtime look at its sockets, so that the read below knows of everything that has arrived.
        tokio::task::yield_now().await;
        match read_some(&mut self.stream, &mut self.buffer, room).now_or_never() {
            None => Ok(true),
            Some(Ok(length)) => {
                self.note_read(length, room);
                *came = true;
                Ok(false)
            }
            // The next read finds the end again; until then the client may take its replies.
            Some(Err(_)) => Ok(false),
        }
    }

    /// Writes `out`, slice by slice; the client has `output_stall` for each slice once the socket is full.
    async fn write(&mut self) -> Result<(), End> {
        let limits = &self.shared.limits;
        let patience = if self.login_by.is_some() { limits.auth_timeout } else { limits.output_stall };
        for slice in self.out.chunks(limits.output_bytes_pause.max(1)) {
            // As a rule the socket takes all of it at once, and no timer has to be made.
            let taken = match self.stream.write(slice).now_or_never() {
                Some(Ok(taken)) => taken,
                Some(Err(_)) => return Err(End::Gone),
                None => 0,
            };
            let has_left = taken == slice.len() && matches!(self.stream.flush().now_or_never(), Some(Ok(())));
            if !has_left {
                tokio::select! {
                    biased;
                    written = timeout(patience, write_whole(&mut self.stream, &slice[taken..])) => match written {
                        Ok(Ok(())) => {}
                        Ok(Err(_)) => return Err(End::Gone),
                        Err(_) => return Err(End::Stalled),
                    },
                    () = self.kill.given() => return Err(End::Killed),
                }
            }
            Stats::add(&self.shared.stats.written_bytes, slice.len());
        }
        if self.out.capacity() > OUT_BYTES_KEPT {
            self.out = BytesMut::new();
        } else {
            self.out.clear();
        }
        Ok(())
    }

    /// Reads once, or finds that there is nothing to wait for. Returning `Ok` without new bytes is harmless.
    async fn read<H: Handler>(&mut self, handler: &H, session: &mut H::Session) -> Result<(), End> {
        if self.stop.is_given() && self.last_call().deadline() <= Instant::now() {
            return Err(End::Stopped);
        }
        let room = self.make_room().await?;
        let is_bloated = self.is_bloated();
        let length = tokio::select! {
            biased;
            () = self.kill.given() => return Err(End::Killed),
            read = read_some(&mut self.stream, &mut self.buffer, room) => read?,
            () = self.stop.given() => return self.read_last(room).await,
            () = handler.pushed(session) => {
                handler.take_pushes(session, &mut self.out);
                return self.write().await;
            }
            () = wait_for(self.stall.as_mut().map(|stall| &mut stall.deadline)) => return Err(End::Stalled),
            () = wait_for(self.login_by.as_mut()) => return Err(End::NotLoggedIn),
            () = idle(), if is_bloated => {
                self.slim_down();
                return Ok(());
            }
        };
        self.note_read(length, room);
        Ok(())
    }

    /// Reads what has already arrived, the rest of a request that has begun, or the next one of a client that spoke just
    /// now; with none of these, the connection is done.
    async fn read_last(&mut self, room: usize) -> Result<(), End> {
        let patience = if self.decoder.is_mid_request(&self.buffer) {
            STOP_WAIT
        } else {
            STOP_LULL.saturating_sub(self.heard.elapsed())
        };
        self.last_call();
        // Lets the runtime look at its sockets, so that the read below knows of everything that has arrived.
        tokio::task::yield_now().await;
        let length = tokio::select! {
            biased;
            () = wait_for(self.last_call.as_mut()) => return Err(End::Stopped),
            read = read_some(&mut self.stream, &mut self.buffer, room) => read?,
            () = self.kill.given() => return Err(End::Killed),
            () = sleep(patience) => return Err(End::Stopped),
        };
        self.note_read(length, room);
        Ok(())
    }

    /// Runs from the first look on.
    fn last_call(&mut self) -> &mut Pin<Box<Sleep>> {
        self.last_call.get_or_insert_with(|| Box::pin(sleep(STOP_MAX)))
    }

    fn note_read(&mut self, length: usize, room: usize) {
        Stats::add(&self.shared.stats.read_bytes, length);
        self.heard = Instant::now();
        if length == room {
            self.read_bytes = (self.read_bytes * 2).min(READ_BYTES_MAX);
        } else if length < self.read_bytes / 4 {
            self.read_bytes = (self.read_bytes / 2).max(READ_BYTES_MIN);
        }
        if let Some(stall) = &mut self.stall {
            stall.bytes += length;
            if stall.bytes >= self.shared.limits.output_bytes_pause {
                self.stall = None;
            }
        }
    }

    /// Makes room for the next read within the budget, and says for how many bytes.
    ///
    /// A large request is read in steps as large as what has come of it: few reads, and never more than double the
    /// memory that the client has paid for with bytes.
    async fn make_room(&mut self) -> Result<usize, End> {
        let held = self.decoder.held_bytes() + self.buffer.len();
        self.share.release_to(held);
        let is_stranger = self.login_by.is_some();
        let wanted = if is_stranger { READ_BYTES_MIN } else { self.read_bytes.max(held.min(READ_BYTES_MAX)) };
        let room = if self.share.try_cover(held + wanted) {
            wanted
        } else {
            if !self.share.try_cover(held + READ_BYTES_MIN) {
                self.wait_for_budget(held + READ_BYTES_MIN).await?;
            }
            READ_BYTES_MIN
        };
        self.buffer.reserve(room);
        if held <= REMNANT_BYTES_MAX {
            self.stall = None;
        } else if self.stall.is_none() {
            let deadline = Box::pin(sleep(self.shared.limits.output_stall));
            self.stall = Some(Stall { deadline, bytes: 0 });
        }
        Ok(room)
    }

    async fn wait_for_budget(&mut self, bytes: usize) -> Result<(), End> {
        let is_covered = tokio::select! {
            () = self.kill.given() => return Err(End::Killed),
            covered = timeout(BUDGET_WAIT, self.share.cover(bytes)) => covered.is_ok(),
        };
        if is_covered {
            return Ok(());
        }
        let text = "OOM too many bytes of unfinished requests are waiting, try again later".to_owned();
        self.part_with(text, End::OverBudget).await
    }

    /// Whether a burst has left more memory, or a larger share of the budget, than what waits here needs.
    fn is_bloated(&self) -> bool {
        let spare_bytes = self.buffer.capacity() - self.buffer.len()
            + self.out.capacity()
            + self.requests.capacity() * size_of::<Request>();
        self.decoder.held_bytes() + self.buffer.len() <= REMNANT_BYTES_MAX
            && (self.share.is_holding() || spare_bytes > FREE_BYTES)
    }

    /// Gives up what a burst has left. Between turns.
    fn slim_down(&mut self) {
        self.read_bytes = READ_BYTES_MIN;
        self.buffer = BytesMut::from(&self.buffer[..]);
        self.out = BytesMut::new();
        self.requests = Vec::new();
    }

    /// Writes a last error line; always an `Err`.
    async fn part_with(&mut self, text: String, end: End) -> Result<(), End> {
        tracing::debug!(error = text, "connection closes");
        append(&Reply::Error(text), Protocol::Resp2, &mut self.out);
        self.write().await?;
        Err(end)
    }

    /// Says that nothing more comes, and swallows what the client still sends: closing a socket with unread bytes
    /// would send an RST, which can overtake the last reply.
    async fn hang_up(mut self) {
        self.buffer = BytesMut::new();
        self.share.release_to(0);
        let farewell = async {
            if self.stream.shutdown().await.is_err() {
                return;
            }
            let mut sink = [0; 4096];
            let mut swallowed_bytes = 0;
            while let Ok(length @ 1..) = self.stream.read(&mut sink).await {
                swallowed_bytes += length;
                if swallowed_bytes > LINGER_BYTES {
                    return;
                }
            }
        };
        // Either way the socket is dropped next.
        let _ = timeout(LINGER, farewell).await;
    }
}

/// Reads between 1 and `room` bytes. Cancel safe.
async fn read_some<S: AsyncRead + Unpin>(
    stream: &mut S,
    buffer: &mut BytesMut,
    room: usize,
) -> Result<usize, End> {
    match stream.read_buf(&mut buffer.limit(room)).await {
        Ok(length @ 1..) => Ok(length),
        Ok(0) | Err(_) => Err(End::Gone),
    }
}

/// Writes all bytes and has them leave: TLS keeps what the socket does not take at once.
async fn write_whole<S: AsyncWrite + Unpin>(stream: &mut S, bytes: &[u8]) -> std::io::Result<()> {
    stream.write_all(bytes).await?;
    stream.flush().await
}

/// What the decoder keeps of the limits.
fn decoder_limits(limits: &Limits) -> DecoderLimits {
    DecoderLimits {
        args_max: limits.args_max,
        bulk_bytes_max: limits.bulk_bytes_max,
        request_bytes_max: limits.request_bytes_max,
        inline_bytes_max: limits.inline_bytes_max,
        before_login: false,
    }
}

/// Pends for ever without a deadline.
async fn wait_for(deadline: Option<&mut Pin<Box<Sleep>>>) {
    match deadline {
        Some(deadline) => deadline.as_mut().await,
        None => std::future::pending().await,
    }
}

/// A timer that is only made if somebody waits for it: `select!` evaluates its branches also where it does not poll them.
async fn idle() {
    sleep(IDLE).await;
}

/// Whether this is the first word of an HTTP request that a browser was tricked into sending. The lines after it would
/// be commands, so the connection must end here, as it does in Redis.
fn is_cross_protocol(request: &Request) -> bool {
    let Some(name) = request.args.first() else { return false };
    name.eq_ignore_ascii_case(b"POST") || name.eq_ignore_ascii_case(b"Host:")
}
