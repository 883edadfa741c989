//! One large object, part by part, and the uploads that somebody left unfinished.
//!
//! Parts are equal but for the last, which some stores require. A part is a list of chunks, sent without being copied
//! together, and can be sent again.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use aws_sdk_s3::primitives::{ByteStream, SdkBody};
use aws_sdk_s3::types::{ChecksumAlgorithm, CompletedMultipartUpload, CompletedPart};
use bytes::Bytes;
use http_body_util::BodyExt as _;
use hyper::body::{Body, Frame, SizeHint};
use jiff::Timestamp;

use super::settings::{Checksums, patient};
use super::store::base64;
use super::{S3Error, S3ErrorKind, Store};

const MIB: u64 = 1024 * 1024;
/// S3: at most 10,000 parts of at least 5 MiB.
const PARTS_MAX: u64 = 10_000;
const PART_BYTES_MIN: u64 = 8 * MIB;

/// Part size for an object of `size_bytes`: whole MiB, at most 10,000 parts.
#[must_use]
pub fn part_bytes(size_bytes: u64) -> u64 {
    size_bytes.div_ceil(PARTS_MAX).next_multiple_of(MIB).max(PART_BYTES_MIN)
}

/// The content of one part.
#[derive(Clone, Debug, Default)]
pub struct Chunks {
    chunks: Vec<Bytes>,
    size_bytes: u64,
}

impl Chunks {
    /// Appends a chunk.
    pub fn push(&mut self, chunk: Bytes) {
        self.size_bytes += chunk.len() as u64;
        self.chunks.push(chunk);
    }

    /// Bytes of all chunks.
    #[must_use]
    pub fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    fn base64_sha256(&self) -> String {
        let mut context = ring::digest::Context::new(&ring::digest::SHA256);
        self.chunks.iter().for_each(|chunk| context.update(chunk));
        base64(context.finish().as_ref())
    }

    fn into_stream(self) -> ByteStream {
        let chunks: Arc<[Bytes]> = self.chunks.into();
        let size_bytes = self.size_bytes;
        ByteStream::new(SdkBody::retryable(move || {
            let reader = Reader { chunks: chunks.clone(), next: 0, left: size_bytes };
            SdkBody::from_body_1_x(reader.map_err(|never| match never {}))
        }))
    }
}

/// Chunks as a body of known length.
struct Reader {
    chunks: Arc<[Bytes]>,
    next: usize,
    left: u64,
}

impl Body for Reader {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let Some(chunk) = self.chunks.get(self.next).cloned() else { return Poll::Ready(None) };
        self.next += 1;
        self.left -= chunk.len() as u64;
        Poll::Ready(Some(Ok(Frame::data(chunk))))
    }

    fn is_end_stream(&self) -> bool {
        self.next >= self.chunks.len()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}

/// An upload that has been begun.
#[derive(Clone, Debug)]
pub struct Multipart {
    store: Store,
    key: String,
    id: String,
}

/// A part that is stored.
#[derive(Clone, Debug)]
pub struct Part(CompletedPart);

/// An upload that was begun and neither completed nor aborted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PendingUpload {
    /// Key of the object.
    pub key: String,
    /// When it was begun.
    pub begun: Option<Timestamp>,
    id: String,
}

impl Multipart {
    /// Begins an upload.
    ///
    /// # Errors
    /// See [`S3Error`].
    pub async fn begin(store: &Store, key: &str) -> Result<Self, S3Error> {
        let (sse, kms) = store.settings.sse();
        let sums = (store.settings.checksums == Checksums::Sha256).then_some(ChecksumAlgorithm::Sha256);
        let request = store
            .client
            .create_multipart_upload()
            .bucket(store.bucket())
            .key(key)
            .set_checksum_algorithm(sums)
            .set_server_side_encryption(sse)
            .set_ssekms_key_id(kms)
            .set_storage_class(store.settings.storage_class());
        let doing = format!("begin the upload of {key}");
        let begun = request.send().await.map_err(|error| S3Error::from_sdk(&doing, &error))?;
        let Some(id) = begun.upload_id else {
            return Err(S3Error::new(S3ErrorKind::Broken, doing, "the answer names no upload"));
        };
        Ok(Self { store: store.clone(), key: key.to_owned(), id })
    }

    /// Stores part `number`, from 1 on.
    ///
    /// # Errors
    /// See [`S3Error`]; the SDK has tried several times before.
    pub async fn put(&self, number: i32, chunks: Chunks) -> Result<Part, S3Error> {
        let sum = (self.store.settings.checksums == Checksums::Sha256).then(|| chunks.base64_sha256());
        let patience = self.store.settings.patience.with_body(chunks.size_bytes());
        let request = self
            .store
            .client
            .upload_part()
            .bucket(self.store.bucket())
            .key(&self.key)
            .upload_id(&self.id)
            .part_number(number)
            .content_length(i64::try_from(chunks.size_bytes()).unwrap_or(i64::MAX))
            .set_checksum_sha256(sum.clone())
            .body(chunks.into_stream());
        let stored = request
            .customize()
            .config_override(patient(patience))
            .send()
            .await
            .map_err(|error| S3Error::from_sdk(format!("put part {number} of {}", self.key), &error))?;
        let part = CompletedPart::builder()
            .part_number(number)
            .set_e_tag(stored.e_tag)
            .set_checksum_sha256(sum.and(stored.checksum_sha256))
            .build();
        Ok(Part(part))
    }

    /// Makes the object of its parts, which are given in order.
    ///
    /// # Errors
    /// See [`S3Error`].
    pub async fn complete(&self, parts: Vec<Part>) -> Result<(), S3Error> {
        let parts: Vec<CompletedPart> = parts.into_iter().map(|part| part.0).collect();
        let patience = self.store.settings.patience.to_join(parts.len());
        let request = self
            .store
            .client
            .complete_multipart_upload()
            .bucket(self.store.bucket())
            .key(&self.key)
            .upload_id(&self.id)
            .multipart_upload(CompletedMultipartUpload::builder().set_parts(Some(parts)).build());
        let doing = format!("complete the upload of {}", self.key);
        let request = request.customize().config_override(patient(patience));
        request.send().await.map_err(|error| S3Error::from_sdk(doing, &error))?;
        Ok(())
    }

    /// Gives the upload up and frees its parts.
    ///
    /// # Errors
    /// See [`S3Error`]; one that is gone is a success.
    pub async fn abort(&self) -> Result<(), S3Error> {
        self.store.abort(&self.key, &self.id).await
    }
}

impl Store {
    /// Uploads below `prefix` that were begun and neither completed nor aborted.
    ///
    /// # Errors
    /// See [`S3Error`].
    pub async fn pending_uploads(&self, prefix: &str) -> Result<Vec<PendingUpload>, S3Error> {
        let doing = format!("list uploads below {}", self.uri(prefix));
        let (mut found, mut key, mut upload) = (Vec::new(), None, None);
        loop {
            let request = self
                .client
                .list_multipart_uploads()
                .bucket(self.bucket())
                .prefix(prefix)
                .set_key_marker(key)
                .set_upload_id_marker(upload);
            let page = request.send().await.map_err(|error| S3Error::from_sdk(&doing, &error))?;
            for pending in page.uploads() {
                let (Some(key), Some(id)) = (pending.key(), pending.upload_id()) else { continue };
                // Some stores do not look at the prefix.
                if !key.starts_with(prefix) {
                    continue;
                }
                let begun = pending.initiated().and_then(|at| Timestamp::from_second(at.secs()).ok());
                found.push(PendingUpload { key: key.to_owned(), begun, id: id.to_owned() });
            }
            if page.is_truncated() != Some(true) || page.next_key_marker().is_none() {
                return Ok(found);
            }
            (key, upload) = (page.next_key_marker, page.next_upload_id_marker);
        }
    }

    /// Aborts an upload that somebody left.
    ///
    /// # Errors
    /// See [`S3Error`]; one that is gone is a success.
    pub async fn abort_upload(&self, pending: &PendingUpload) -> Result<(), S3Error> {
        self.abort(&pending.key, &pending.id).await
    }

    async fn abort(&self, key: &str, id: &str) -> Result<(), S3Error> {
        let request = self.client.abort_multipart_upload().bucket(self.bucket()).key(key).upload_id(id);
        match request
            .send()
            .await
            .map_err(|error| S3Error::from_sdk(format!("abort the upload of {key}"), &error))
        {
            Ok(_) => Ok(()),
            Err(error) if error.kind == S3ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_whole_mebibytes_and_few_enough() {
        for size in [0, 1, 8 * MIB, 80_000 * MIB, 1_000_000_000_000, 5 * 1024 * 1024 * MIB] {
            let part = part_bytes(size);
            assert!(part >= PART_BYTES_MIN && part.is_multiple_of(MIB));
            assert!(size.div_ceil(part) <= PARTS_MAX, "{size}");
        }
        // 1 TB: the figure that the memory of a run rests on.
        assert_eq!(part_bytes(1_000_000_000_000), 96 * MIB);
    }

    #[tokio::test]
    async fn a_part_can_be_sent_twice() {
        let mut chunks = Chunks::default();
        chunks.push(Bytes::from_static(b"ab"));
        chunks.push(Bytes::from_static(b"c"));
        let body = chunks.into_stream().into_inner();
        let again = body.try_clone().unwrap();
        assert_eq!(body.content_length(), Some(3));
        for body in [body, again] {
            assert_eq!(&body.collect().await.unwrap().to_bytes()[..], b"abc");
        }
    }
}
