//! Bytes to [`Request`]: bounded, resumable, with inline commands.
//!
//! ```text
//! *2\r\n $3\r\n GET\r\n $1\r\n k\r\n      an array of bulk strings (what client libraries send)
//! GET "a key"\r\n                         an inline line, LF or CRLF (what people type into nc)
//! \r\n   *0\r\n   *-1\r\n                 nothing: skipped without a reply, as Redis does
//! ```
//!
//! The decoder is a small state machine, never recursive, because a request may not nest. It lives as long as its
//! connection and goes on where the last read stopped, so that a request costs O(its bytes) however it is cut up.
//!
//! Invariants:
//! - Every length is checked against [`DecoderLimits`] before anything waits for it, and nothing is reserved by an
//!   announced length: memory follows the bytes that really came.
//! - What is decoded does not depend on where the reads were cut.
//! - After an error the stream has no known position: the connection answers and closes.
//!
//! Arguments are slices of the read buffer (no copy). One small argument therefore keeps its read buffer alive; who
//! stores arguments for long copies them.
//!
//! Why not the decoder of `redis-protocol`: it aborts the process on deep nesting, knows no limits and starts from
//! byte 0 at each read.

use bytes::{Buf, Bytes, BytesMut};

mod inline;

#[cfg(test)]
mod tests;

/// A decoded client frame: the command name and its arguments, never empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// Name first, as typed.
    pub args: Vec<Bytes>,
}

/// A malformed frame. Its text is the reply without the leading `-`; the connection closes after it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("ERR Protocol error: {0}")]
pub struct ProtocolError(pub String);

impl ProtocolError {
    fn new(text: &str) -> Self {
        Self(text.to_owned())
    }
}

const INVALID_COUNT: &str = "invalid multibulk length";
const INVALID_LENGTH: &str = "invalid bulk length";
const REQUEST_TOO_BIG: &str = "too big request";

/// Limits that a decoder enforces.
#[derive(Clone, Copy, Debug)]
pub struct DecoderLimits {
    /// Arguments of one request.
    pub args_max: usize,
    /// Bytes of one argument.
    pub bulk_bytes_max: usize,
    /// Bytes of a request.
    pub request_bytes_max: usize,
    /// Bytes of an inline line, and of a length line.
    pub inline_bytes_max: usize,
    /// They are those of a client that has not logged in, and errors say so.
    pub before_login: bool,
}

impl DecoderLimits {
    /// What a client may send before it has logged in: enough for AUTH and HELLO, too little to cost memory (Redis 6.2.6
    /// has the same two limits since CVE-2021-32675).
    #[must_use]
    pub fn before_login(self) -> Self {
        Self {
            args_max: self.args_max.min(10),
            bulk_bytes_max: self.bulk_bytes_max.min(16 * 1024),
            request_bytes_max: self.request_bytes_max.min(64 * 1024),
            inline_bytes_max: self.inline_bytes_max.min(16 * 1024),
            before_login: true,
        }
    }

    fn count_error(&self) -> ProtocolError {
        ProtocolError::new(if self.before_login { "unauthenticated multibulk length" } else { INVALID_COUNT })
    }

    fn length_error(&self) -> ProtocolError {
        ProtocolError::new(if self.before_login { "unauthenticated bulk length" } else { INVALID_LENGTH })
    }
}

/// Where the decoder stands, between two steps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// At the first byte of a request.
    Start,
    /// At the `$` of an argument; it and `missing - 1` more are still to come.
    Length { missing: usize },
    /// At the first byte of an argument of `length` bytes.
    Argument { missing: usize, length: usize },
}

/// What one step of the machine achieved.
enum Step {
    /// The next bytes have not come yet.
    NeedBytes,
    /// Something was taken off the buffer.
    Advanced,
    /// A request is complete.
    Complete(Request),
}

/// Takes requests off the front of a read buffer and remembers where it stopped.
#[derive(Debug)]
pub struct RequestDecoder {
    limits: DecoderLimits,
    state: State,
    /// Arguments of the unfinished request.
    args: Vec<Bytes>,
    /// Bytes of the unfinished request that are already taken off the buffer.
    taken_bytes: usize,
    /// Bytes at the front of the buffer that are known to hold no LF.
    searched_bytes: usize,
    /// Bytes ever looked at in search of an LF: the proof that cutting a request up costs nothing.
    #[cfg(test)]
    searched_total: usize,
}

impl RequestDecoder {
    /// A decoder at the start of a frame.
    #[must_use]
    pub fn new(limits: DecoderLimits) -> Self {
        Self {
            limits,
            state: State::Start,
            args: Vec::new(),
            taken_bytes: 0,
            searched_bytes: 0,
            #[cfg(test)]
            searched_total: 0,
        }
    }

    /// Other limits from the next length or line on.
    pub fn set_limits(&mut self, limits: DecoderLimits) {
        self.limits = limits;
    }

    /// Takes one request off `buffer`, or `None` if it is not complete yet.
    ///
    /// # Errors
    /// `ERR Protocol error: ...` when the bytes cannot become a request within the limits. The decoder must not be
    /// used after it.
    pub fn decode(&mut self, buffer: &mut BytesMut) -> Result<Option<Request>, ProtocolError> {
        loop {
            let step = match self.state {
                State::Start => match buffer.first() {
                    None => Step::NeedBytes,
                    Some(b'*') => self.take_count(buffer)?,
                    Some(_) => self.take_inline(buffer)?,
                },
                State::Length { missing } => self.take_length(buffer, missing)?,
                State::Argument { missing, length } => self.take_argument(buffer, missing, length)?,
            };
            match step {
                Step::NeedBytes => return Ok(None),
                Step::Advanced => {}
                Step::Complete(request) => return Ok(Some(request)),
            }
        }
    }

    /// Memory that the unfinished request holds outside the read buffer, in bytes.
    #[must_use]
    pub fn held_bytes(&self) -> usize {
        self.taken_bytes + self.args.capacity() * size_of::<Bytes>()
    }

    /// Whether a request has begun and is not complete, given the buffer that it is decoded from.
    #[must_use]
    pub fn is_mid_request(&self, buffer: &[u8]) -> bool {
        self.state != State::Start || !buffer.is_empty()
    }

    /// `*<count>\r\n`. Redis ignores every count below one.
    fn take_count(&mut self, buffer: &mut BytesMut) -> Result<Step, ProtocolError> {
        let Some(end) = self.find_line(buffer, "too big mbulk count string")? else {
            return Ok(Step::NeedBytes);
        };
        let count = parse_length(&buffer[1..end], INVALID_COUNT)?;
        self.take_line(buffer, end);
        let Ok(count) = usize::try_from(count) else {
            self.taken_bytes = 0;
            return Ok(Step::Advanced);
        };
        if count > self.limits.args_max {
            return Err(self.limits.count_error());
        }
        if count == 0 {
            self.taken_bytes = 0;
        } else {
            self.args = Vec::with_capacity(count.min(ARGS_RESERVED));
            self.state = State::Length { missing: count };
        }
        Ok(Step::Advanced)
    }

    /// `$<length>\r\n`.
    fn take_length(&mut self, buffer: &mut BytesMut, missing: usize) -> Result<Step, ProtocolError> {
        match buffer.first() {
            None => return Ok(Step::NeedBytes),
            Some(b'$') => {}
            Some(other) => return Err(ProtocolError(format!("expected '$', got '{}'", printable(*other)))),
        }
        let Some(end) = self.find_line(buffer, "too big bulk count string")? else {
            return Ok(Step::NeedBytes);
        };
        let length = parse_length(&buffer[1..end], INVALID_LENGTH)?;
        let length = usize::try_from(length).map_err(|_| ProtocolError::new(INVALID_LENGTH))?;
        if length > self.limits.bulk_bytes_max {
            return Err(self.limits.length_error());
        }
        self.take_line(buffer, end);
        if self.taken_bytes.saturating_add(length) > self.limits.request_bytes_max {
            return Err(ProtocolError::new(REQUEST_TOO_BIG));
        }
        self.state = State::Argument { missing, length };
        Ok(Step::Advanced)
    }

    /// `<length bytes>\r\n`.
    fn take_argument(
        &mut self,
        buffer: &mut BytesMut,
        missing: usize,
        length: usize,
    ) -> Result<Step, ProtocolError> {
        if buffer.len() < length + CRLF.len() {
            return Ok(Step::NeedBytes);
        }
        // Redis skips these two bytes unseen; a wrong length would then run the client's data as commands.
        if &buffer[length..length + CRLF.len()] != CRLF {
            return Err(ProtocolError::new(INVALID_LENGTH));
        }
        self.args.push(if length == 0 { Bytes::new() } else { buffer.split_to(length).freeze() });
        buffer.advance(CRLF.len());
        self.taken_bytes += length + CRLF.len();
        if missing > 1 {
            self.state = State::Length { missing: missing - 1 };
            return Ok(Step::Advanced);
        }
        self.state = State::Start;
        self.taken_bytes = 0;
        Ok(Step::Complete(Request { args: std::mem::take(&mut self.args) }))
    }

    /// A line of words. Blank lines are skipped: `redis-cli --pipe` sends one before its last ECHO.
    fn take_inline(&mut self, buffer: &mut BytesMut) -> Result<Step, ProtocolError> {
        let Some(line_feed) = self.find_line_feed(buffer, "too big inline request")? else {
            return Ok(Step::NeedBytes);
        };
        let line = &buffer[..line_feed];
        let args = inline::split(line.strip_suffix(b"\r").unwrap_or(line))
            .ok_or_else(|| ProtocolError::new("unbalanced quotes in request"))?;
        if args.len() > self.limits.args_max {
            return Err(self.limits.count_error());
        }
        self.searched_bytes = 0;
        buffer.advance(line_feed + 1);
        Ok(if args.is_empty() { Step::Advanced } else { Step::Complete(Request { args }) })
    }

    /// Position of the CR of the CRLF that ends the length line at the front of `buffer`.
    fn find_line(&mut self, buffer: &[u8], too_big: &str) -> Result<Option<usize>, ProtocolError> {
        let Some(line_feed) = self.find_line_feed(buffer, too_big)? else { return Ok(None) };
        match buffer[..line_feed].strip_suffix(b"\r") {
            Some(line) if !line.is_empty() => Ok(Some(line.len())),
            _ if buffer.first() == Some(&b'*') => Err(ProtocolError::new(INVALID_COUNT)),
            _ => Err(ProtocolError::new(INVALID_LENGTH)),
        }
    }

    /// Position of the first LF, looking at each byte once over all reads.
    fn find_line_feed(&mut self, buffer: &[u8], too_big: &str) -> Result<Option<usize>, ProtocolError> {
        let reach = buffer.len().min(self.limits.inline_bytes_max + 1);
        let unsearched = buffer.get(self.searched_bytes..reach).unwrap_or_default();
        let found = memchr::memchr(b'\n', unsearched);
        #[cfg(test)]
        {
            self.searched_total += found.unwrap_or(unsearched.len());
        }
        match found {
            Some(offset) => Ok(Some(self.searched_bytes + offset)),
            None if buffer.len() > self.limits.inline_bytes_max => Err(ProtocolError::new(too_big)),
            None => {
                self.searched_bytes = reach;
                Ok(None)
            }
        }
    }

    /// Takes the length line that ends with the CRLF at `end`.
    fn take_line(&mut self, buffer: &mut BytesMut, end: usize) {
        buffer.advance(end + CRLF.len());
        self.taken_bytes += end + CRLF.len();
        self.searched_bytes = 0;
    }
}

const CRLF: &[u8] = b"\r\n";

/// Room made for arguments before the first has come: enough for most commands, too little to be worth a lie.
const ARGS_RESERVED: usize = 8;

/// Reads a decimal as Redis' `string2ll` does: an optional `-`, no `+`, no spaces, no leading zeros, within an i64.
fn parse_length(digits: &[u8], error: &str) -> Result<i64, ProtocolError> {
    let value = match digits {
        b"0" => Some(0),
        [b'-', b'1'..=b'9', rest @ ..] | [b'1'..=b'9', rest @ ..] if rest.iter().all(u8::is_ascii_digit) => {
            std::str::from_utf8(digits).ok().and_then(|text| text.parse().ok())
        }
        _ => None,
    };
    value.ok_or_else(|| ProtocolError::new(error))
}

/// A byte as it may stand in an error line; a line end shows as a space, as in Redis.
fn printable(byte: u8) -> char {
    match byte {
        b' ' | b'\r' | b'\n' => ' ',
        _ if byte.is_ascii_graphic() => char::from(byte),
        _ => '?',
    }
}
