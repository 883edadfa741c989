//! One large object as a stream of chunks that survives cut and stalled connections.
//!
//! ```text
//! GET bytes=at-, If-Match: tag  --chunks-->  cut  --GET bytes=at'-, If-Match: tag-->  ...  end at the announced length
//! ```
//!
//! Invariant: all bytes are of one version of the object. One that is replaced meanwhile is an error, not a mixture.

use std::time::Duration;

use aws_sdk_s3::primitives::ByteStream;
use bytes::Bytes;
use tokio::time::timeout;

use super::store::broken_body;
use super::{S3Error, S3ErrorKind, Store};

/// Cuts without a byte in between before giving up.
const CUTS_MAX: u32 = 8;
const PAUSE: Duration = Duration::from_millis(200);

/// An object being read.
#[derive(Debug)]
pub struct Download {
    store: Store,
    key: String,
    at: u64,
    size_bytes: Option<u64>,
    tag: Option<String>,
    body: Option<ByteStream>,
    cuts: u32,
}

impl Download {
    pub(super) fn new(store: Store, key: &str) -> Self {
        Self { store, key: key.to_owned(), at: 0, size_bytes: None, tag: None, body: None, cuts: 0 }
    }

    /// Bytes of the object, known after the first chunk.
    #[must_use]
    pub fn size_bytes(&self) -> Option<u64> {
        self.size_bytes
    }

    /// The next chunk; `None` after the last byte.
    ///
    /// # Errors
    /// [`S3ErrorKind::NotFound`], [`S3ErrorKind::Precondition`] if the object was replaced, or the last of several cuts
    /// without progress.
    pub async fn next(&mut self) -> Result<Option<Bytes>, S3Error> {
        loop {
            if self.size_bytes == Some(self.at) {
                return Ok(None);
            }
            match self.attempt().await {
                Ok(Some(chunk)) => {
                    self.cuts = 0;
                    self.at += chunk.len() as u64;
                    return Ok(Some(chunk));
                }
                // An empty object, or a body that ended where it should.
                Ok(None) => {}
                Err(error) if error.is_transient() && self.cuts < CUTS_MAX => {
                    self.body = None;
                    self.cuts += 1;
                    tracing::debug!(%error, at = self.at, "a download was cut");
                    tokio::time::sleep(PAUSE * self.cuts).await;
                }
                Err(error) => return Err(error),
            }
        }
    }

    async fn attempt(&mut self) -> Result<Option<Bytes>, S3Error> {
        let doing = format!("get {} from byte {}", self.key, self.at);
        let mut body = match self.body.take() {
            Some(body) => body,
            None => self.open(&doing).await?,
        };
        let cut = |what: &str| S3Error::new(S3ErrorKind::Broken, &doing, what);
        let next =
            timeout(self.store.settings.patience.answer, body.next()).await.map_err(|_| cut("silence"))?;
        match next {
            Some(Ok(chunk)) => {
                let rest = self.size_bytes.unwrap_or_default().saturating_sub(self.at);
                if chunk.len() as u64 > rest {
                    return Err(S3Error::new(S3ErrorKind::Refused, doing, "more bytes than announced"));
                }
                self.body = Some(body);
                Ok(Some(chunk))
            }
            Some(Err(error)) => Err(broken_body(&doing, &error)),
            None if self.size_bytes == Some(self.at) => Ok(None),
            None => Err(cut("the body ended too early")),
        }
    }

    async fn open(&mut self, doing: &str) -> Result<ByteStream, S3Error> {
        let range = (self.at > 0).then(|| format!("bytes={}-", self.at));
        let request = self
            .store
            .client
            .get_object()
            .bucket(self.store.bucket())
            .key(&self.key)
            .set_range(range)
            .set_if_match(self.tag.clone());
        let found = request.send().await.map_err(|error| S3Error::from_sdk(doing, &error))?;
        let length = u64::try_from(found.content_length().unwrap_or_default()).unwrap_or_default();
        let whole = self.at + length;
        if self.size_bytes.is_some_and(|before| before != whole)
            || (self.tag.is_some() && found.e_tag != self.tag)
        {
            let what = "the object was replaced while it was read";
            return Err(S3Error::new(S3ErrorKind::Precondition, doing, what));
        }
        self.size_bytes = Some(whole);
        self.tag = found.e_tag;
        Ok(found.body)
    }
}
