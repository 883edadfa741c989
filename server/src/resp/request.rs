//! Bytes to [`Request`]: bounded, resumable, with inline commands.

use bytes::{Bytes, BytesMut};

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

/// Limits that a decoder enforces.
#[derive(Clone, Copy, Debug)]
pub struct DecoderLimits {
    /// Arguments of one request.
    pub args_max: usize,
    /// Bytes of one argument.
    pub bulk_bytes_max: usize,
    /// Bytes of a request.
    pub request_bytes_max: usize,
    /// Bytes of an inline line.
    pub inline_bytes_max: usize,
}

/// Takes requests off the front of a read buffer and remembers where it stopped.
#[derive(Debug)]
pub struct RequestDecoder {
    limits: DecoderLimits,
}

impl RequestDecoder {
    /// A decoder at the start of a frame.
    #[must_use]
    pub fn new(limits: DecoderLimits) -> Self {
        Self { limits }
    }

    /// Takes one request off `buffer`, or `None` if it is not complete yet.
    ///
    /// # Errors
    /// `ERR Protocol error: ...` when the bytes cannot become a request within the limits.
    pub fn decode(&mut self, _buffer: &mut BytesMut) -> Result<Option<Request>, ProtocolError> {
        let _ = self.limits;
        todo!("resp room")
    }
}
