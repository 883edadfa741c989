//! From a node's stream to one object, part by part, without a disk and in bounded memory.
//!
//! ```text
//! State --chunk--> sha256 (plain) --> [encrypt] --> sha256 (stored) --> part --> up to 4 parts on their way
//!                                      every buffered byte holds a permit of one budget
//! ```
//!
//! Invariants
//! - Buffered bytes never exceed [`MEMORY_BYTES`], however large the object is: 1 TB has parts of 96 MiB, so that one
//!   is on its way while the next begins to fill.
//! - The upload is completed only after length and SHA-256 of the plain bytes are those that the server announced.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use kvnode_api::snapshot::SnapshotMeta;
use ring::digest::{Context, SHA256};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::crypt::{self, Key, Sealer};
use super::meta::{Stored, hex};
use super::progress::Reporter;
use super::source::State;
use crate::admin_client::NodeError;
use crate::s3::multipart::{Part, part_bytes};
use crate::s3::{Chunks, Multipart, S3Error, S3ErrorKind, Store};

/// Bytes that may be buffered.
pub const MEMORY_BYTES: u64 = 112 * 1024 * 1024;
const PERMIT_BYTES: u64 = 1024;
const PARTS_ON_THEIR_WAY: usize = 4;
const ABORT: Duration = Duration::from_secs(10);

/// Why an upload ended early.
#[derive(Debug, thiserror::Error)]
pub enum UploadError {
    /// The node broke off: another one may do.
    #[error("{0}")]
    Source(#[from] NodeError),
    /// The store broke off.
    #[error("{0}")]
    Store(#[from] S3Error),
    /// What the node sent is not what it announced, or could not be encrypted.
    #[error("{0}")]
    Content(String),
}

/// Stores the content of a snapshot under `key`; `file` is the key's last part.
///
/// # Errors
/// See [`UploadError`]; the upload was aborted then, as far as that was possible.
pub async fn upload(
    store: &Store,
    key: &str,
    file: &str,
    (meta, state): (&SnapshotMeta, &mut State<'_>),
    secret: Option<&Key>,
    reporter: &Reporter,
) -> Result<Stored, UploadError> {
    let size = if secret.is_some() { crypt::stored_bytes(meta.size_bytes) } else { meta.size_bytes };
    let multipart = Multipart::begin(store, key).await?;
    let mut pipe = Pipe::new(multipart.clone(), part_bytes(size));
    let fed = feed(&mut pipe, meta, state, secret, reporter).await;
    let done = match fed {
        Ok((size_bytes, sha256)) => complete(store, key, pipe, size_bytes).await.map(|()| Stored {
            file: file.to_owned(),
            size_bytes,
            sha256,
        }),
        Err(error) => {
            // The tasks that still send parts are dropped before the upload is given up.
            drop(pipe);
            Err(error)
        }
    };
    if done.is_err() && !matches!(timeout(ABORT, multipart.abort()).await, Ok(Ok(()))) {
        tracing::warn!(key, "an upload could not be aborted; the next run tries it again");
    }
    done
}

async fn complete(store: &Store, key: &str, pipe: Pipe, size_bytes: u64) -> Result<(), UploadError> {
    let multipart = pipe.multipart.clone();
    let parts = pipe.finish().await?;
    match multipart.complete(parts).await {
        Ok(()) => Ok(()),
        // Its answer may have been lost: then the object is there, and the upload is not.
        Err(error) => match store.size_bytes(key).await {
            Ok(Some(stored)) if stored == size_bytes => Ok(()),
            _ => Err(error.into()),
        },
    }
}

/// Moves all bytes; returns count and SHA-256 of the stored ones.
async fn feed(
    pipe: &mut Pipe,
    meta: &SnapshotMeta,
    state: &mut State<'_>,
    secret: Option<&Key>,
    reporter: &Reporter,
) -> Result<(u64, String), UploadError> {
    let mut sealer = secret.map(Sealer::new).transpose().map_err(UploadError::Content)?;
    let (mut plain, mut stored) = (Context::new(&SHA256), Context::new(&SHA256));
    let (mut plain_bytes, mut stored_bytes) = (0_u64, 0_u64);
    while let Some(chunk) = state.next().await? {
        plain.update(&chunk);
        let count = chunk.len() as u64;
        plain_bytes += count;
        let out = match &mut sealer {
            Some(sealer) => sealer.push(&chunk).map_err(UploadError::Content)?,
            None => chunk,
        };
        if sealer.is_some() {
            stored.update(&out);
        }
        stored_bytes += out.len() as u64;
        pipe.push(out).await?;
        reporter.add(count);
    }
    let plain = hex(plain.finish().as_ref());
    if plain != meta.sha256 || plain_bytes != meta.size_bytes {
        return Err(UploadError::Content(format!(
            "the node sent {plain_bytes} bytes with SHA-256 {plain}, but announced {} with {}",
            meta.size_bytes, meta.sha256
        )));
    }
    let Some(sealer) = sealer else { return Ok((stored_bytes, plain)) };
    let rest = sealer.finish().map_err(UploadError::Content)?;
    stored.update(&rest);
    stored_bytes += rest.len() as u64;
    pipe.push(rest).await?;
    Ok((stored_bytes, hex(stored.finish().as_ref())))
}

/// Gathers parts and sends them.
struct Pipe {
    multipart: Multipart,
    part_bytes: u64,
    memory: Arc<Semaphore>,
    current: Chunks,
    permit: Option<OwnedSemaphorePermit>,
    number: i32,
    sending: JoinSet<Result<(i32, Part), S3Error>>,
    sent: BTreeMap<i32, Part>,
}

impl Pipe {
    fn new(multipart: Multipart, part_bytes: u64) -> Self {
        let permits = usize::try_from(MEMORY_BYTES.max(part_bytes + PERMIT_BYTES) / PERMIT_BYTES);
        Self {
            multipart,
            part_bytes,
            memory: Arc::new(Semaphore::new(permits.unwrap_or(Semaphore::MAX_PERMITS))),
            current: Chunks::default(),
            permit: None,
            number: 0,
            sending: JoinSet::new(),
            sent: BTreeMap::new(),
        }
    }

    async fn push(&mut self, mut bytes: Bytes) -> Result<(), S3Error> {
        while !bytes.is_empty() {
            let room = usize::try_from(self.part_bytes - self.current.size_bytes()).unwrap_or(usize::MAX);
            let piece = bytes.split_to(room.min(bytes.len()));
            self.reserve(self.current.size_bytes() + piece.len() as u64).await?;
            self.current.push(piece);
            if self.current.size_bytes() == self.part_bytes {
                self.flush().await?;
            }
        }
        Ok(())
    }

    /// Holds permits for a current part of `bytes`.
    async fn reserve(&mut self, bytes: u64) -> Result<(), S3Error> {
        let held = self.permit.as_ref().map_or(0, OwnedSemaphorePermit::num_permits);
        let wanted = usize::try_from(bytes.div_ceil(PERMIT_BYTES)).unwrap_or(usize::MAX);
        let more = u32::try_from(wanted.saturating_sub(held)).unwrap_or(u32::MAX);
        // Parts on their way give theirs back when they have arrived, or failed.
        let Ok(more) = self.memory.clone().acquire_many_owned(more).await else {
            return Err(S3Error::new(S3ErrorKind::Broken, "buffer", "closed"));
        };
        match &mut self.permit {
            Some(permit) => permit.merge(more),
            None => self.permit = Some(more),
        }
        Ok(())
    }

    async fn flush(&mut self) -> Result<(), S3Error> {
        self.number += 1;
        let (number, multipart) = (self.number, self.multipart.clone());
        let (chunks, permit) = (std::mem::take(&mut self.current), self.permit.take());
        self.sending.spawn(async move {
            let part = multipart.put(number, chunks).await?;
            drop(permit);
            Ok((number, part))
        });
        while self.sending.len() >= PARTS_ON_THEIR_WAY {
            self.reap().await?;
        }
        Ok(())
    }

    async fn reap(&mut self) -> Result<(), S3Error> {
        match self.sending.join_next().await {
            Some(Ok(Ok((number, part)))) => {
                self.sent.insert(number, part);
                Ok(())
            }
            Some(Ok(Err(error))) => Err(error),
            Some(Err(error)) => Err(S3Error::new(S3ErrorKind::Broken, "send a part", error.to_string())),
            None => Ok(()),
        }
    }

    async fn finish(mut self) -> Result<Vec<Part>, S3Error> {
        if self.current.size_bytes() > 0 || self.number == 0 {
            self.flush().await?;
        }
        while !self.sending.is_empty() {
            self.reap().await?;
        }
        Ok(std::mem::take(&mut self.sent).into_values().collect())
    }
}
