//! A one-question Redis client: what a node asks another at its client address before they are peers.

use std::io;

use bytes::{Bytes, BytesMut};
use redis_protocol::resp2::decode::decode_bytes;
use redis_protocol::resp2::encode::extend_encode;
use redis_protocol::resp2::types::BytesFrame;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::machine::TcpStream;

/// Longest answer that is read.
const ANSWER_BYTES_MAX: usize = 3 * 1024;

/// An answer, reduced to what is asked for here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// `+OK`.
    Ok,
    /// `-...`, without the dash.
    Error(String),
    /// An array of strings.
    Texts(Vec<String>),
    /// Anything else.
    Other,
}

/// Sends one command to `addr` (`host:port`) and reads its answer. The caller limits the time.
///
/// # Errors
/// I/O errors, and an answer that is too long or not RESP2.
pub(crate) async fn ask(addr: &str, words: &[&str]) -> io::Result<Answer> {
    let mut stream = TcpStream::connect(addr).await?;
    let words = words.iter().map(|word| BytesFrame::BulkString(Bytes::copy_from_slice(word.as_bytes())));
    let mut out = BytesMut::new();
    extend_encode(&mut out, &BytesFrame::Array(words.collect()), false).map_err(io::Error::other)?;
    stream.write_all(&out).await?;
    let mut buffer = BytesMut::new();
    loop {
        if stream.read_buf(&mut buffer).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if buffer.len() > ANSWER_BYTES_MAX {
            return Err(io::Error::other("the answer is too long"));
        }
        // Nesting is what makes this decoder dangerous; within 3 KiB it stays harmless.
        if let Some((frame, _)) = decode_bytes(&buffer.clone().freeze()).map_err(io::Error::other)? {
            return Ok(reduce(&frame));
        }
    }
}

fn text(frame: &BytesFrame) -> Option<String> {
    match frame {
        BytesFrame::BulkString(bytes) | BytesFrame::SimpleString(bytes) => {
            String::from_utf8(bytes.to_vec()).ok()
        }
        BytesFrame::Error(_) | BytesFrame::Integer(_) | BytesFrame::Array(_) | BytesFrame::Null => None,
    }
}

fn reduce(frame: &BytesFrame) -> Answer {
    match frame {
        BytesFrame::SimpleString(ok) if ok == "OK" => Answer::Ok,
        BytesFrame::Error(error) => Answer::Error(error.to_string()),
        BytesFrame::Array(items) => {
            items.iter().map(text).collect::<Option<_>>().map_or(Answer::Other, Answer::Texts)
        }
        BytesFrame::SimpleString(_)
        | BytesFrame::BulkString(_)
        | BytesFrame::Integer(_)
        | BytesFrame::Null => Answer::Other,
    }
}
