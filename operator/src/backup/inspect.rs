//! Reads a stored object from its first to its last byte: hashes, decrypts, parses, counts, and perhaps writes it down.
//!
//! ```text
//!             +--> [thread] sha256 (stored)
//! Download ---+
//!             +--> [thread] [decrypt -> sha256 (plain)] -> [parse] -> [file]
//!                                                                        |
//!                                       [thread] sync, each 32 MiB <-----+
//! ```
//!
//! Memory: a few chunks between the network and the threads, which share them.

use std::fs::File;
use std::io::{self, Write as _};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread::{self, JoinHandle};

use bytes::Bytes;
use kvnode_api::snapshot::SnapshotMeta;
use ring::digest::{Context, SHA256};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::crypt::{ALGORITHM, Key, Opener};
use super::meta::{BackupMeta, hex};
use super::progress::Reporter;
use super::state_bin::{Content, Parser};
use crate::s3::{Download, S3Error};

const CHUNKS_WAITING: usize = 16;
/// Bytes after which those written so far are brought to the disk.
const FLUSH_BYTES: usize = 32 * 1024 * 1024;

/// Bytes and their SHA-256.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sum {
    /// Bytes.
    pub size_bytes: u64,
    /// SHA-256, 64 hex digits.
    pub sha256: String,
}

/// What was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inspected {
    /// The stored bytes.
    pub stored: Sum,
    /// The plain bytes.
    pub plain: Sum,
    /// What they hold, if they were parsed.
    pub content: Option<Content>,
}

/// What is done with the bytes beside hashing them.
#[derive(Debug, Default)]
pub struct Work {
    /// Decrypt with this key.
    pub key: Option<Key>,
    /// Parse the content.
    pub parse: bool,
    /// Write the plain bytes here.
    pub into: Option<File>,
}

/// Why reading ended early.
#[derive(Debug, thiserror::Error)]
pub enum InspectError {
    /// The store broke off: nothing is known of the object.
    #[error("{0}")]
    Store(#[from] S3Error),
    /// The object is wrong.
    #[error("{0}")]
    Wrong(String),
    /// The file cannot be written.
    #[error("write the file: {0}")]
    File(io::Error),
}

/// Reads the whole object.
///
/// # Errors
/// See [`InspectError`].
pub async fn inspect(
    mut download: Download,
    work: Work,
    reporter: &Reporter,
) -> Result<Inspected, InspectError> {
    let (to_hash, hashed) = mpsc::channel(CHUNKS_WAITING);
    let (to_read, received) = mpsc::channel(CHUNKS_WAITING);
    let mut threads = JoinSet::new();
    threads.spawn_blocking(move || Ok(Found::Stored(hash(hashed))));
    threads.spawn_blocking(move || read(received, work).map(Found::Plain));
    let mut failure = None;
    loop {
        match download.next().await {
            Ok(Some(chunk)) => {
                let count = chunk.len() as u64;
                // A thread that has ended has found a fault: it says which.
                if to_hash.send(chunk.clone()).await.is_err() || to_read.send(chunk).await.is_err() {
                    break;
                }
                reporter.add(count);
            }
            Ok(None) => break,
            Err(error) => {
                failure = Some(error);
                break;
            }
        }
    }
    drop((to_hash, to_read));
    let found = join(threads).await;
    // A cut end is the network's word, not a property of the object.
    match failure {
        Some(error) => Err(error.into()),
        None => found,
    }
}

/// What a thread found.
enum Found {
    Stored(Sum),
    /// The plain bytes, where they are not those that are stored, and what they hold.
    Plain((Option<Sum>, Option<Content>)),
}

async fn join(mut threads: JoinSet<Result<Found, InspectError>>) -> Result<Inspected, InspectError> {
    let (mut stored, mut plain) = (None, None);
    while let Some(ended) = threads.join_next().await {
        let ended =
            ended.map_err(|error| InspectError::Wrong(format!("the reading thread ended: {error}")))?;
        match ended? {
            Found::Stored(sum) => stored = Some(sum),
            Found::Plain(found) => plain = Some(found),
        }
    }
    let (Some(stored), Some((plain, content))) = (stored, plain) else {
        return Err(InspectError::Wrong("the reading thread is gone".into()));
    };
    Ok(Inspected { plain: plain.unwrap_or_else(|| stored.clone()), stored, content })
}

fn hash(mut chunks: mpsc::Receiver<Bytes>) -> Sum {
    let mut stored = Hash::default();
    while let Some(chunk) = chunks.blocking_recv() {
        stored.update(&chunk);
    }
    stored.sum()
}

fn read(
    mut chunks: mpsc::Receiver<Bytes>,
    work: Work,
) -> Result<(Option<Sum>, Option<Content>), InspectError> {
    let Work { key, parse, into } = work;
    let mut into = into.map(Flushed::new).transpose().map_err(InspectError::File)?;
    let mut opener = key.map(Opener::new);
    let mut plain = opener.is_some().then(Hash::default);
    let mut parser = parse.then(Parser::default);
    let mut take = |bytes: &[u8]| {
        if let Some(plain) = &mut plain {
            plain.update(bytes);
        }
        if let Some(parser) = &mut parser {
            parser.push(bytes).map_err(InspectError::Wrong)?;
        }
        if let Some(file) = &mut into {
            file.write(bytes).map_err(InspectError::File)?;
        }
        Ok::<_, InspectError>(())
    };
    while let Some(chunk) = chunks.blocking_recv() {
        match &mut opener {
            Some(opener) => take(&opener.push(&chunk).map_err(InspectError::Wrong)?)?,
            None => take(&chunk)?,
        }
    }
    if let Some(opener) = opener {
        take(&opener.finish().map_err(InspectError::Wrong)?)?;
    }
    let content = parser.map(Parser::finish).transpose().map_err(InspectError::Wrong)?;
    if let Some(file) = into {
        file.end().map_err(InspectError::File)?;
    }
    Ok((plain.map(Hash::sum), content))
}

/// A file that goes to the disk while more of it comes: the last sync finds little to do.
struct Flushed {
    file: File,
    waiting: usize,
    flush: SyncSender<()>,
    flusher: JoinHandle<io::Result<()>>,
}

impl Flushed {
    fn new(file: File) -> io::Result<Self> {
        let (flush, asked) = sync_channel(1);
        let own = file.try_clone()?;
        let work = move || asked.into_iter().try_for_each(|()| own.sync_data());
        let flusher = thread::Builder::new().name("flush".to_owned()).spawn(work)?;
        Ok(Self { file, waiting: 0, flush, flusher })
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all(bytes)?;
        self.waiting += bytes.len();
        if self.waiting >= FLUSH_BYTES {
            self.waiting = 0;
            // One that waits already takes these bytes along. Where the thread has ended, its error is told at the end.
            let _ = self.flush.try_send(());
        }
        Ok(())
    }

    /// All of it is on the disk. An error of a sync is told once only, so that of the thread counts as well.
    fn end(self) -> io::Result<()> {
        drop(self.flush);
        self.flusher.join().unwrap_or_else(|_| Err(io::Error::other("the flushing thread panicked")))?;
        self.file.sync_all()
    }
}

struct Hash {
    context: Context,
    size_bytes: u64,
}

impl Default for Hash {
    fn default() -> Self {
        Self { context: Context::new(&SHA256), size_bytes: 0 }
    }
}

impl Hash {
    fn update(&mut self, bytes: &[u8]) {
        self.context.update(bytes);
        self.size_bytes += bytes.len() as u64;
    }

    fn sum(self) -> Sum {
        Sum { size_bytes: self.size_bytes, sha256: hex(self.context.finish().as_ref()) }
    }
}

/// Compares what was found with what `meta.json` says; returns the keys.
///
/// # Errors
/// The first difference.
pub fn judge(meta: &BackupMeta, found: &Inspected) -> Result<u64, String> {
    let sums = [
        ("stored object", &found.stored, meta.object.size_bytes, &meta.object.sha256),
        ("state.bin", &found.plain, meta.snapshot.size_bytes, &meta.snapshot.sha256),
    ];
    for (what, sum, size_bytes, sha256) in sums {
        if sum.size_bytes != size_bytes {
            return Err(format!("the {what} has {} bytes, meta.json says {size_bytes}", sum.size_bytes));
        }
        if sum.sha256 != *sha256 {
            return Err(format!("the {what} has SHA-256 {}, meta.json says {sha256}", sum.sha256));
        }
    }
    match &found.content {
        Some(content) => judge_content(&meta.snapshot, content),
        None => Ok(meta.snapshot.keys_total()),
    }
}

/// The part of [`judge`] that is about keys.
///
/// # Errors
/// The first difference.
pub fn judge_content(snapshot: &SnapshotMeta, content: &Content) -> Result<u64, String> {
    let cluster_id = format!("{:016x}", content.cluster_id);
    if cluster_id != snapshot.cluster_id {
        return Err(format!(
            "the content is of cluster {cluster_id}, meta.json says {}",
            snapshot.cluster_id
        ));
    }
    if (content.term, content.index) != (snapshot.term, snapshot.index) {
        return Err(format!(
            "the content ends at term {}, index {}, meta.json says {}, {}",
            content.term, content.index, snapshot.term, snapshot.index
        ));
    }
    if content.keys != snapshot.keys {
        return Err(format!(
            "the content counts {} keys ({:?}), meta.json says {} ({:?})",
            content.keys_total(),
            content.keys,
            snapshot.keys_total(),
            snapshot.keys
        ));
    }
    let digest = format!("{:032x}", content.digest);
    if digest != snapshot.digest {
        return Err(format!("the content has digest {digest}, meta.json says {}", snapshot.digest));
    }
    Ok(content.keys_total())
}

/// The key that an object needs.
///
/// # Errors
/// One line: there is none, or it is another one.
pub fn key_for(meta: &BackupMeta, key: Option<&Key>) -> Result<Option<Key>, String> {
    let Some(encryption) = &meta.encryption else { return Ok(None) };
    if encryption.algorithm != ALGORITHM {
        return Err(format!("encryption {} is not known here", encryption.algorithm));
    }
    match key {
        None => Err(format!("the backup is encrypted with key {}: give that key", encryption.key_id)),
        Some(key) if key.id() != encryption.key_id => {
            Err(format!("wrong key: the backup needs key {}, this is key {}", encryption.key_id, key.id()))
        }
        Some(key) => Ok(Some(key.clone())),
    }
}
