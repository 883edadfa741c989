//! Frames of the peer protocol: bounded, checksummed.

use std::io;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt};

/// Bytes before the checksummed part.
const PREFIX: usize = 8;
/// Kind and request id.
const HEAD: usize = 9;
/// Largest frame after the hello: one entry of the largest request, and room for its head.
pub(in crate::raft) const FRAME_BYTES_MAX: usize = 160 * 1024 * 1024;
/// Largest frame before the hello is accepted.
pub(in crate::raft) const HELLO_BYTES_MAX: usize = 1024;
/// Read step; the buffer grows by what arrives, never by what is announced.
const READ_STEP: usize = 256 * 1024;

/// One decoded frame.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::raft) struct Frame {
    pub(in crate::raft) kind: u8,
    pub(in crate::raft) id: u64,
    pub(in crate::raft) body: Bytes,
}

/// Appends a frame to `out`.
pub(in crate::raft) fn put_frame(out: &mut BytesMut, kind: u8, id: u64, body: &[u8]) {
    let len = HEAD + body.len();
    out.reserve(PREFIX + len);
    out.put_u32_le(u32::try_from(len).unwrap_or(u32::MAX));
    let crc_at = out.len();
    out.put_u32_le(0);
    let start = out.len();
    out.put_u8(kind);
    out.put_u64_le(id);
    out.put_slice(body);
    let crc = crc32c::crc32c(&out[start..]);
    out[crc_at..start].copy_from_slice(&crc.to_le_bytes());
}

/// Takes frames off a byte stream. Cancel safe: bytes read stay in the buffer.
pub(in crate::raft) struct FrameReader {
    buffer: BytesMut,
    bytes_max: usize,
}

fn invalid(problem: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, problem)
}

impl FrameReader {
    pub(in crate::raft) fn new(bytes_max: usize) -> Self {
        Self { buffer: BytesMut::new(), bytes_max }
    }

    /// From now on frames up to this size are accepted.
    pub(in crate::raft) fn raise_limit(&mut self, bytes_max: usize) {
        self.bytes_max = bytes_max;
    }

    /// Next frame, or `None` at the end of the stream between frames.
    pub(in crate::raft) async fn next(
        &mut self,
        stream: &mut (impl AsyncRead + Unpin),
    ) -> io::Result<Option<Frame>> {
        loop {
            if let Some(frame) = self.take()? {
                return Ok(Some(frame));
            }
            if self.buffer.capacity() - self.buffer.len() < READ_STEP / 4 {
                self.buffer.reserve(READ_STEP);
            }
            if stream.read_buf(&mut self.buffer).await? == 0 {
                if self.buffer.is_empty() {
                    return Ok(None);
                }
                return Err(invalid(format!(
                    "the connection ended {} bytes into a frame",
                    self.buffer.len()
                )));
            }
        }
    }

    fn take(&mut self) -> io::Result<Option<Frame>> {
        if self.buffer.len() < PREFIX {
            return Ok(None);
        }
        let len = (&self.buffer[0..4]).get_u32_le() as usize;
        if len < HEAD || len > self.bytes_max {
            return Err(invalid(format!("a frame of {len} bytes, {HEAD} to {} are allowed", self.bytes_max)));
        }
        if self.buffer.len() < PREFIX + len {
            return Ok(None);
        }
        let mut frame = self.buffer.split_to(PREFIX + len).freeze();
        frame.advance(4);
        let crc = frame.get_u32_le();
        if crc32c::crc32c(&frame) != crc {
            return Err(invalid("a frame with a wrong checksum".into()));
        }
        Ok(Some(Frame { kind: frame.get_u8(), id: frame.get_u64_le(), body: frame }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn all(bytes: &[u8]) -> io::Result<Vec<Frame>> {
        let (mut reader, mut stream) = (FrameReader::new(1000), bytes);
        let mut frames = Vec::new();
        while let Some(frame) = reader.next(&mut stream).await? {
            frames.push(frame);
        }
        Ok(frames)
    }

    #[tokio::test]
    async fn frames_survive_and_damage_is_noticed() {
        let mut bytes = BytesMut::new();
        put_frame(&mut bytes, 3, 77, b"body");
        put_frame(&mut bytes, 4, 78, b"");
        let frames = all(&bytes).await.unwrap();
        assert_eq!(frames[0], Frame { kind: 3, id: 77, body: Bytes::from_static(b"body") });
        assert_eq!(frames[1], Frame { kind: 4, id: 78, body: Bytes::new() });
        for at in 0..bytes.len() {
            let mut damaged = bytes.to_vec();
            damaged[at] ^= 1;
            assert!(all(&damaged).await.is_err(), "flip at {at}");
        }
    }

    #[tokio::test]
    async fn a_huge_announcement_is_refused_at_once() {
        assert!(all(&[0xff; 8]).await.is_err());
    }

    /// These bytes are on the wire between versions.
    #[test]
    fn a_frame_has_golden_bytes() {
        let mut bytes = BytesMut::new();
        put_frame(&mut bytes, 1, 2, b"x");
        assert_eq!(bytes[..4], [10, 0, 0, 0]);
        assert_eq!(bytes[8..], [1, 2, 0, 0, 0, 0, 0, 0, 0, b'x']);
    }
}
