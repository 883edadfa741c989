//! One large object as a stream of chunks that survives cut and stalled connections.
//!
//! ```text
//! GET bytes=0-8Mi  ->  size and tag of the object
//! GET bytes=8Mi-16Mi,  If-Match: tag  --chunks-->  cut  --GET bytes=at-16Mi, If-Match: tag-->  ...   |  PARTS_AHEAD
//! GET bytes=16Mi-24Mi, If-Match: tag  --chunks-->                                                    |  side by side
//! ```
//!
//! One connection to a store carries a fraction of what a node's network does, so parts come side by side; they are handed
//! out in order. Memory: the part that is handed out and those ahead of it.
//!
//! Invariant: all bytes are of one version of the object. One that is replaced meanwhile is an error, not a mixture.

use std::collections::VecDeque;
use std::time::Duration;

use aws_sdk_s3::operation::get_object::GetObjectOutput;
use aws_sdk_s3::primitives::ByteStream;
use bytes::{Bytes, BytesMut};
use tokio::time::timeout;
use tokio_util::task::AbortOnDropHandle;

use super::store::broken_body;
use super::{S3Error, S3ErrorKind, Store};

/// Bytes of one part: a request costs little beside it.
const PART_BYTES: u64 = 8 * 1024 * 1024;
/// Smaller chunks are put together: each of them would hold a read buffer of the connection, however little came in it.
const GATHERED_BYTES: usize = 32 * 1024;
/// Parts that are on their way, or wait to be handed out.
const PARTS_AHEAD: usize = 4;
/// Cuts without a byte in between before giving up.
const CUTS_MAX: u32 = 8;
const PAUSE: Duration = Duration::from_millis(200);
/// The answer to a range that begins behind the end, as every range of an empty object does.
const RANGE_NOT_SATISFIABLE: u16 = 416;

type Coming = AbortOnDropHandle<Result<Part, S3Error>>;

/// An object being read.
#[derive(Debug)]
pub struct Download {
    store: Store,
    key: String,
    version: Option<Version>,
    /// In order; the first one is what comes next.
    coming: VecDeque<Coming>,
    /// Where the next part begins.
    next_at: u64,
    ready: VecDeque<Bytes>,
}

/// What every part must be of.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Version {
    size_bytes: u64,
    tag: Option<String>,
}

impl Download {
    pub(super) fn new(store: Store, key: &str) -> Self {
        Self {
            store,
            key: key.to_owned(),
            version: None,
            coming: VecDeque::new(),
            next_at: 0,
            ready: VecDeque::new(),
        }
    }

    /// The next chunk; `None` after the last byte. After an error the download is of no use.
    ///
    /// # Errors
    /// [`S3ErrorKind::NotFound`], [`S3ErrorKind::Precondition`] if the object was replaced, [`S3ErrorKind::Refused`] if the
    /// store knows no ranges, or the last of several cuts without progress.
    pub async fn next(&mut self) -> Result<Option<Bytes>, S3Error> {
        loop {
            if let Some(chunk) = self.ready.pop_front() {
                return Ok(Some(chunk));
            }
            self.ask_ahead();
            let Some(first) = self.coming.front_mut() else { return Ok(None) };
            // Cancel safe: a part leaves the queue once it is here.
            let part = first.await.unwrap_or_else(|error| {
                Err(S3Error::new(S3ErrorKind::Broken, format!("get {}", self.key), error.to_string()))
            });
            self.coming.pop_front();
            let part = part?;
            self.version = part.version;
            self.ready = part.chunks;
        }
    }

    /// The first part alone, since it says how many there are.
    fn ask_ahead(&mut self) {
        let (size_bytes, count) = match &self.version {
            Some(version) => (version.size_bytes, PARTS_AHEAD),
            None => (u64::MAX, 1),
        };
        while self.coming.len() < count && self.next_at < size_bytes {
            let part = Part {
                store: self.store.clone(),
                key: self.key.clone(),
                version: self.version.clone(),
                at: self.next_at,
                end: size_bytes.min(self.next_at + PART_BYTES),
                chunks: VecDeque::new(),
                gathered: BytesMut::new(),
            };
            self.next_at += PART_BYTES;
            #[expect(clippy::disallowed_methods, reason = "the handle owns it, in the order of the parts")]
            self.coming.push_back(AbortOnDropHandle::new(tokio::spawn(part.fetch())));
        }
    }
}

/// A part of it, as far as it has come.
#[derive(Debug)]
struct Part {
    store: Store,
    key: String,
    /// `None` until the first answer to the first part.
    version: Option<Version>,
    /// The next byte.
    at: u64,
    /// Behind the last one.
    end: u64,
    chunks: VecDeque<Bytes>,
    /// Small ones behind those.
    gathered: BytesMut,
}

impl Part {
    async fn fetch(mut self) -> Result<Self, S3Error> {
        let mut cuts = 0;
        loop {
            let before = self.at;
            match self.attempt().await {
                Ok(()) => {
                    self.end_gathered();
                    return Ok(self);
                }
                Err(error) if error.is_transient() && (self.at > before || cuts < CUTS_MAX) => {
                    cuts = if self.at > before { 1 } else { cuts + 1 };
                    tracing::debug!(%error, at = self.at, "a download was cut");
                    tokio::time::sleep(PAUSE * cuts).await;
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// One request, for what is still missing.
    async fn attempt(&mut self) -> Result<(), S3Error> {
        let doing = format!("get {} from byte {}", self.key, self.at);
        let mut body = self.open(&doing).await?;
        while self.at < self.end {
            let chunk = timeout(self.store.settings.patience.answer, body.next()).await;
            let cut = |what: &str| S3Error::new(S3ErrorKind::Broken, &doing, what);
            match chunk.map_err(|_| cut("silence"))? {
                Some(Ok(chunk)) if chunk.len() as u64 > self.end - self.at => {
                    return Err(S3Error::new(S3ErrorKind::Refused, doing, "more bytes than were asked for"));
                }
                Some(Ok(chunk)) => {
                    self.at += chunk.len() as u64;
                    self.keep(chunk);
                }
                Some(Err(error)) => return Err(broken_body(&doing, &error)),
                None => return Err(cut("the body ended too early")),
            }
        }
        Ok(())
    }

    fn keep(&mut self, chunk: Bytes) {
        if chunk.len() >= GATHERED_BYTES {
            self.end_gathered();
            self.chunks.push_back(chunk);
            return;
        }
        self.gathered.reserve(GATHERED_BYTES);
        self.gathered.extend_from_slice(&chunk);
        if self.gathered.len() >= GATHERED_BYTES {
            self.end_gathered();
        }
    }

    fn end_gathered(&mut self) {
        if !self.gathered.is_empty() {
            self.chunks.push_back(std::mem::take(&mut self.gathered).freeze());
        }
    }

    async fn open(&mut self, doing: &str) -> Result<ByteStream, S3Error> {
        let request = self
            .store
            .client
            .get_object()
            .bucket(self.store.bucket())
            .key(&self.key)
            .range(format!("bytes={}-{}", self.at, self.end - 1))
            .set_if_match(self.version.as_ref().and_then(|version| version.tag.clone()));
        let found = match request.send().await {
            Ok(found) => found,
            Err(error) if is_behind_the_end(&error) => match self.version {
                None => return Ok(self.found(Version { size_bytes: 0, tag: None }, ByteStream::default())),
                Some(_) => return Err(replaced(doing)),
            },
            Err(error) => return Err(S3Error::from_sdk(doing, &error)),
        };
        let Some(size_bytes) = size_of(&found, self.at, self.end) else {
            return Err(S3Error::new(
                S3ErrorKind::Refused,
                doing,
                "the store did not answer with that range",
            ));
        };
        let version = Version { size_bytes, tag: found.e_tag };
        if self.version.as_ref().is_some_and(|before| *before != version) {
            return Err(replaced(doing));
        }
        Ok(self.found(version, found.body))
    }

    fn found(&mut self, version: Version, body: ByteStream) -> ByteStream {
        self.end = self.end.min(version.size_bytes);
        self.version = Some(version);
        body
    }
}

fn replaced(doing: &str) -> S3Error {
    S3Error::new(S3ErrorKind::Precondition, doing, "the object was replaced while it was read")
}

fn is_behind_the_end<E>(error: &aws_sdk_s3::error::SdkError<E>) -> bool {
    error.raw_response().is_some_and(|answer| answer.status().as_u16() == RANGE_NOT_SATISFIABLE)
}

/// Bytes of the whole object by the answer to `at..end`: `bytes 0-99/1234`. Without that header it is the whole, unless
/// its length is just that of the range: then nobody knows.
fn size_of(found: &GetObjectOutput, at: u64, end: u64) -> Option<u64> {
    match &found.content_range {
        Some(range) => {
            let (range, size_bytes) = range.strip_prefix("bytes ")?.split_once('/')?;
            let first: u64 = range.split_once('-')?.0.parse().ok()?;
            (first == at).then(|| size_bytes.parse().ok())?
        }
        None if at == 0 => u64::try_from(found.content_length?).ok().filter(|whole| *whole != end),
        None => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_says_how_large_the_object_is() {
        let answer = |range: Option<&str>, length| {
            GetObjectOutput::builder()
                .set_content_range(range.map(str::to_owned))
                .content_length(length)
                .build()
        };
        assert_eq!(size_of(&answer(Some("bytes 0-99/1234"), 100), 0, 100), Some(1234));
        assert_eq!(size_of(&answer(Some("bytes 100-1233/1234"), 1134), 100, 1234), Some(1234));
        assert_eq!(size_of(&answer(Some("bytes 0-99/1234"), 100), 100, 200), None, "another range");
        assert_eq!(size_of(&answer(Some("bytes 0-99/*"), 100), 0, 100), None);
        assert_eq!(size_of(&answer(None, 90), 0, 100), Some(90));
        assert_eq!(size_of(&answer(None, 1234), 0, 100), Some(1234));
        assert_eq!(size_of(&answer(None, 100), 0, 100), None, "a part of it, or all");
        assert_eq!(size_of(&answer(None, 1234), 100, 200), None, "the whole object again");
    }
}
