//! One bucket: small objects, listings, deletion.

use aws_sdk_s3::Client;
use aws_sdk_s3::primitives::ByteStream;
use bytes::Bytes;
use http_body_util::BodyExt as _;
use tokio::time::timeout;

use super::settings::{Checksums, Settings};
use super::{S3Error, S3ErrorKind, error};

/// Keys that a listing reads before it is called endless.
const LIST_MAX: usize = 1_000_000;

/// An object in a listing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// Key.
    pub key: String,
    /// Bytes.
    pub size_bytes: u64,
}

/// An open bucket. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Store {
    pub(super) client: Client,
    pub(super) settings: Settings,
}

impl Store {
    pub(super) fn new(client: Client, settings: Settings) -> Self {
        Self { client, settings }
    }

    /// Name of the bucket.
    #[must_use]
    pub fn bucket(&self) -> &str {
        &self.settings.bucket
    }

    /// `s3://bucket/key`.
    #[must_use]
    pub fn uri(&self, key: &str) -> String {
        format!("s3://{}/{key}", self.settings.bucket)
    }

    /// Whether the bucket is there.
    ///
    /// # Errors
    /// See [`S3Error`]; the answer to this question has no body, so a wrong secret is told as [`S3ErrorKind::AccessDenied`].
    pub async fn has_bucket(&self) -> Result<bool, S3Error> {
        let request = self.client.head_bucket().bucket(self.bucket());
        match request.send().await.map_err(|error| S3Error::from_sdk("look for the bucket", &error)) {
            Ok(_) => Ok(true),
            Err(error) if matches!(error.kind, S3ErrorKind::NotFound | S3ErrorKind::NoBucket) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Writes a small object, replacing one of that key.
    ///
    /// # Errors
    /// See [`S3Error`].
    pub async fn put(&self, key: &str, content: impl Into<Bytes>) -> Result<(), S3Error> {
        let content = content.into();
        let (sse, kms) = self.settings.sse();
        let sum = (self.settings.checksums == Checksums::Sha256).then(|| base64_sha256(&content));
        let request = self
            .client
            .put_object()
            .bucket(self.bucket())
            .key(key)
            .content_length(i64::try_from(content.len()).unwrap_or(i64::MAX))
            .set_checksum_sha256(sum)
            .set_server_side_encryption(sse)
            .set_ssekms_key_id(kms)
            .body(ByteStream::from(content));
        request.send().await.map_err(|error| S3Error::from_sdk(format!("put {key}"), &error))?;
        Ok(())
    }

    /// Reads a small object of at most `bytes_max`.
    ///
    /// # Errors
    /// [`S3ErrorKind::NotFound`]; [`S3ErrorKind::Refused`] if it is larger.
    pub async fn get(&self, key: &str, bytes_max: u64) -> Result<Bytes, S3Error> {
        let doing = format!("get {key}");
        let request = self.client.get_object().bucket(self.bucket()).key(key);
        let found = request.send().await.map_err(|error| S3Error::from_sdk(&doing, &error))?;
        let body = http_body_util::Limited::new(
            found.body.into_inner(),
            usize::try_from(bytes_max).unwrap_or(usize::MAX),
        );
        let silent = |_| S3Error::new(S3ErrorKind::Broken, &doing, "the body did not come in time");
        let collected = timeout(self.settings.patience.with_body(bytes_max), body.collect());
        let collected = collected.await.map_err(silent)?.map_err(|error| {
            let kind = if error.is::<http_body_util::LengthLimitError>() {
                S3ErrorKind::Refused
            } else {
                S3ErrorKind::Broken
            };
            S3Error::new(kind, &doing, error.to_string())
        })?;
        Ok(collected.to_bytes())
    }

    /// [`Store::get`], with `None` for an object that is not there.
    ///
    /// # Errors
    /// All others of [`Store::get`].
    pub async fn find(&self, key: &str, bytes_max: u64) -> Result<Option<Bytes>, S3Error> {
        match self.get(key, bytes_max).await {
            Ok(content) => Ok(Some(content)),
            Err(error) if error.kind == S3ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Bytes of an object; `None` if it is not there.
    ///
    /// # Errors
    /// See [`S3Error`].
    pub async fn size_bytes(&self, key: &str) -> Result<Option<u64>, S3Error> {
        let request = self.client.head_object().bucket(self.bucket()).key(key);
        match request.send().await {
            Ok(found) => {
                Ok(Some(u64::try_from(found.content_length().unwrap_or_default()).unwrap_or_default()))
            }
            Err(error) => {
                let error = S3Error::from_sdk(format!("look at {key}"), &error);
                if error.kind == S3ErrorKind::NotFound { Ok(None) } else { Err(error) }
            }
        }
    }

    /// All objects whose keys begin with `prefix`, sorted by key.
    ///
    /// # Errors
    /// See [`S3Error`]; [`S3ErrorKind::Refused`] beyond a million keys.
    pub async fn list(&self, prefix: &str) -> Result<Vec<Found>, S3Error> {
        let doing = format!("list {}", self.uri(prefix));
        let mut found = Vec::new();
        let mut token = None;
        loop {
            let request = self
                .client
                .list_objects_v2()
                .bucket(self.bucket())
                .prefix(prefix)
                .set_continuation_token(token);
            let page = request.send().await.map_err(|error| S3Error::from_sdk(&doing, &error))?;
            for object in page.contents() {
                let Some(key) = object.key() else { continue };
                let size_bytes = u64::try_from(object.size().unwrap_or_default()).unwrap_or_default();
                found.push(Found { key: key.to_owned(), size_bytes });
            }
            if found.len() > LIST_MAX {
                return Err(S3Error::new(S3ErrorKind::Refused, doing, "more than a million objects"));
            }
            token = page
                .next_continuation_token()
                .map(str::to_owned)
                .filter(|_| page.is_truncated() == Some(true));
            if token.is_none() {
                found.sort_by(|a, b| a.key.cmp(&b.key));
                return Ok(found);
            }
        }
    }

    /// Deletes an object; one that is not there is a success.
    ///
    /// # Errors
    /// See [`S3Error`].
    pub async fn delete(&self, key: &str) -> Result<(), S3Error> {
        let request = self.client.delete_object().bucket(self.bucket()).key(key);
        match request.send().await.map_err(|error| S3Error::from_sdk(format!("delete {key}"), &error)) {
            Ok(_) => Ok(()),
            Err(error) if error.kind == S3ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Opens a large object as a stream.
    #[must_use]
    pub fn download(&self, key: &str) -> super::Download {
        super::Download::new(self.clone(), key)
    }
}

/// SHA-256 in the form of `x-amz-checksum-sha256`.
pub(super) fn base64_sha256(bytes: &[u8]) -> String {
    base64(ring::digest::digest(&ring::digest::SHA256, bytes).as_ref())
}

/// RFC 4648 with padding.
pub(super) fn base64(bytes: &[u8]) -> String {
    aws_smithy_types::base64::encode(bytes)
}

pub(super) use error::broken_body;
