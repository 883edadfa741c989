//! Sending the whole state to a peer that is too far behind for the log, and receiving it.
//!
//! ```text
//! sender                                              receiver
//! BEGIN  vote, position, membership, files (name, size)  ->  bytes of each file that it has already
//! CHUNK  file, offset, bytes (1 MiB at most, window of 4) ->  done; the last chunk of a file carries its crc32c
//! END    vote                                         ->  installed through Raft: the vote
//! ```
//!
//! The files are RocksDB's own, hard-linked on the sender and immutable, so a broken transfer goes on where it
//! stopped as long as the sender still has the same checkpoint. Memory is bounded by chunk times window. The receiver
//! hands nothing to Raft before every file has its announced size and checksum and is on disk.

use std::collections::VecDeque;
use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::{BufMut, Bytes, BytesMut};
use parking_lot::Mutex;

use super::super::apply::ApplyHandle;
use super::super::codec::{self, DecodeError, Reader};
use super::super::log::Vote;
use super::client::{CallError, PeerClient};
use super::messages::{CHECKPOINT_BEGIN, CHECKPOINT_CHUNK, CHECKPOINT_END};
use crate::clock;
use crate::machine::spawn_blocking;
use crate::store::{CheckpointInfo, Fatal, LogId};

const CHUNK_BYTES: usize = 1024 * 1024;
const WINDOW: usize = 4;
/// A checkpoint is offered again to a peer whose transfer broke for this long; links keep its files on disk.
const REUSE_FOR: Duration = Duration::from_mins(10);
/// Names below the checkpoint directory: being received; complete.
const INCOMING: &str = "incoming";
const RECEIVED: &str = "received-";
/// Files of one checkpoint.
const FILES_MAX: u32 = 1_000_000;

/// Why a checkpoint was not sent or received.
#[derive(Debug, thiserror::Error)]
pub(in crate::raft) enum TransferError {
    #[error(transparent)]
    Call(#[from] CallError),
    #[error(transparent)]
    Store(#[from] Fatal),
    #[error(transparent)]
    Decode(#[from] DecodeError),
    #[error("{path}: {error}")]
    Io { path: PathBuf, error: io::Error },
    #[error("{0}")]
    Protocol(String),
}

fn io_at(path: &Path) -> impl FnOnce(io::Error) -> TransferError + use<> {
    let path = path.to_owned();
    move |error| TransferError::Io { path, error }
}

struct Ready {
    info: CheckpointInfo,
    dir: PathBuf,
    made_at: Instant,
}

/// The sender's side: builds checkpoints and keeps the newest for a transfer that breaks.
pub(in crate::raft) struct Outgoing {
    apply: ApplyHandle,
    root: PathBuf,
    bytes_per_second: u64,
    ready: tokio::sync::Mutex<Option<Arc<Ready>>>,
    pub(in crate::raft) sent_bytes: AtomicU64,
    pub(in crate::raft) sent: AtomicU64,
    pub(in crate::raft) failed: AtomicU64,
}

impl Outgoing {
    pub(in crate::raft) fn new(apply: ApplyHandle, root: &Path, bytes_per_second: u64) -> io::Result<Self> {
        let root = root.join("outgoing");
        if root.exists() {
            fs::remove_dir_all(&root)?;
        }
        fs::create_dir_all(&root)?;
        Ok(Self {
            apply,
            root,
            bytes_per_second,
            ready: tokio::sync::Mutex::new(None),
            sent_bytes: AtomicU64::new(0),
            sent: AtomicU64::new(0),
            failed: AtomicU64::new(0),
        })
    }

    /// A checkpoint that contains `at_least`.
    async fn checkpoint(&self, at_least: Option<LogId>) -> Result<Arc<Ready>, TransferError> {
        let mut ready = self.ready.lock().await;
        if let Some(kept) = &*ready
            && Some(kept.info.applied) >= at_least
            && clock::monotonic().duration_since(kept.made_at) < REUSE_FOR
        {
            return Ok(kept.clone());
        }
        if let Some(old) = ready.take() {
            // Another transfer may still read it; its open files stay readable, the next open fails and it repeats.
            fs::remove_dir_all(&old.dir).map_err(io_at(&old.dir))?;
        }
        let dir = self.root.join(format!("{:016x}", rand::random::<u64>()));
        let info = self.apply.checkpoint(dir.clone()).await?;
        let made = Arc::new(Ready { info, dir, made_at: clock::monotonic() });
        *ready = Some(made.clone());
        Ok(made)
    }

    /// Removes a kept checkpoint that is no longer worth its disk space.
    pub(in crate::raft) async fn expire(&self) {
        let mut ready = self.ready.lock().await;
        if let Some(kept) = &*ready
            && clock::monotonic().duration_since(kept.made_at) >= REUSE_FOR
            && Arc::strong_count(kept) == 1
        {
            if let Err(error) = fs::remove_dir_all(&kept.dir) {
                tracing::warn!(dir = %kept.dir.display(), %error, "checkpoint not removed");
            }
            *ready = None;
        }
    }
}

fn encode_begin(vote: Vote, info: &CheckpointInfo) -> Bytes {
    let mut out = BytesMut::new();
    codec::put_vote(&mut out, vote);
    codec::put_log_id(&mut out, info.applied);
    match &info.membership {
        None => out.put_u8(0),
        Some((id, bytes)) => {
            out.put_u8(1);
            codec::put_log_id(&mut out, *id);
            codec::put_blob(&mut out, bytes);
        }
    }
    out.put_u32_le(u32::try_from(info.files.len()).unwrap_or(u32::MAX));
    for (name, size) in &info.files {
        codec::put_text(&mut out, name);
        out.put_u64_le(*size);
    }
    out.freeze()
}

/// What a receiver is told before the first byte.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::raft) struct Begin {
    pub(in crate::raft) vote: Vote,
    pub(in crate::raft) applied: LogId,
    pub(in crate::raft) membership: Option<(LogId, Bytes)>,
    files: Vec<(String, u64)>,
}

fn decode_begin(body: Bytes) -> Result<Begin, DecodeError> {
    let mut reader = Reader::new("checkpoint begin", body);
    let vote = reader.vote()?;
    let applied = reader.log_id()?;
    let membership = reader.optional(|r| Ok((r.log_id()?, r.blob()?)))?;
    let count = reader.u32()?;
    if count > FILES_MAX {
        return Err(reader.error(format!("{count} files, {FILES_MAX} are allowed")));
    }
    let mut files = Vec::new();
    for _ in 0..count {
        let name = reader.text()?;
        let plain = !name.is_empty() && !name.starts_with('.') && !name.contains(['/', '\\', '\0']);
        if !plain {
            return Err(reader.error(format!("file name {name:?}")));
        }
        files.push((name, reader.u64()?));
    }
    reader.end()?;
    Ok(Begin { vote, applied, membership, files })
}

/// Sends a checkpoint that contains `at_least`; returns the peer's vote.
pub(in crate::raft) async fn send_checkpoint(
    client: &PeerClient,
    outgoing: &Outgoing,
    vote: Vote,
    at_least: Option<LogId>,
) -> Result<Vote, TransferError> {
    let result = transfer(client, outgoing, vote, at_least).await;
    let counter = if result.is_ok() { &outgoing.sent } else { &outgoing.failed };
    counter.fetch_add(1, Ordering::Relaxed);
    result
}

async fn transfer(
    client: &PeerClient,
    outgoing: &Outgoing,
    vote: Vote,
    at_least: Option<LogId>,
) -> Result<Vote, TransferError> {
    let ready = outgoing.checkpoint(at_least).await?;
    let answer = client.call(CHECKPOINT_BEGIN, encode_begin(vote, &ready.info)).await?;
    let mut reader = Reader::new("checkpoint begin answer", answer);
    let mut window = VecDeque::new();
    for (number, (name, size)) in ready.info.files.iter().enumerate() {
        let held = reader.u64()?.min(*size);
        let mut source = FileSource::open(&ready.dir.join(name), held, *size).await?;
        while let Some((offset, bytes, crc)) = source.next().await? {
            let mut out = BytesMut::with_capacity(bytes.len() + 32);
            out.put_u32_le(u32::try_from(number).unwrap_or(u32::MAX));
            out.put_u64_le(offset);
            out.put_u8(u8::from(crc.is_some()));
            out.put_u32_le(crc.unwrap_or(0));
            out.put_slice(&bytes);
            window.push_back(client.call(CHECKPOINT_CHUNK, out.freeze()));
            if window.len() >= WINDOW
                && let Some(oldest) = window.pop_front()
            {
                oldest.await?;
            }
            outgoing.sent_bytes.fetch_add(bytes.len() as u64, Ordering::Relaxed);
            pace(outgoing.bytes_per_second, bytes.len()).await;
        }
    }
    for call in window {
        call.await?;
    }
    let mut out = BytesMut::new();
    codec::put_vote(&mut out, vote);
    let answer = client.call(CHECKPOINT_END, out.freeze()).await?;
    Ok(Reader::new("checkpoint end answer", answer).vote()?)
}

async fn pace(bytes_per_second: u64, bytes: usize) {
    if let Some(micros) = (bytes as u64 * 1_000_000).checked_div(bytes_per_second) {
        tokio::time::sleep(Duration::from_micros(micros)).await;
    }
}

/// Reads one file in chunks off the async threads, with the checksum of all of it.
struct FileSource {
    path: PathBuf,
    file: Option<File>,
    offset: u64,
    size: u64,
    crc: u32,
    ended: bool,
}

impl FileSource {
    async fn open(path: &Path, held: u64, size: u64) -> Result<Self, TransferError> {
        let path = path.to_owned();
        blocking(move || {
            let mut file = File::open(&path).map_err(io_at(&path))?;
            let mut crc = 0;
            let mut left = held;
            let mut buffer = vec![0; CHUNK_BYTES];
            while left > 0 {
                let step = usize::try_from(left).unwrap_or(CHUNK_BYTES).min(CHUNK_BYTES);
                file.read_exact(&mut buffer[..step]).map_err(io_at(&path))?;
                crc = crc32c::crc32c_append(crc, &buffer[..step]);
                left -= step as u64;
            }
            Ok(Self { path, file: Some(file), offset: held, size, crc, ended: false })
        })
        .await
    }

    /// Next chunk and its offset; the last one (also of an empty or completely held file) carries the checksum.
    async fn next(&mut self) -> Result<Option<(u64, Vec<u8>, Option<u32>)>, TransferError> {
        if self.ended {
            return Ok(None);
        }
        let Some(mut file) = self.file.take() else { return Ok(None) };
        let left = self.size - self.offset;
        let step = usize::try_from(left).unwrap_or(CHUNK_BYTES).min(CHUNK_BYTES);
        let path = self.path.clone();
        let (file, bytes) = blocking(move || {
            let mut bytes = vec![0; step];
            file.read_exact(&mut bytes).map_err(io_at(&path))?;
            Ok((file, bytes))
        })
        .await?;
        let offset = self.offset;
        self.file = Some(file);
        self.offset += bytes.len() as u64;
        self.crc = crc32c::crc32c_append(self.crc, &bytes);
        self.ended = self.offset == self.size;
        let crc = self.ended.then_some(self.crc);
        Ok(Some((offset, bytes, crc)))
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, TransferError> + Send + 'static,
) -> Result<T, TransferError> {
    spawn_blocking(work).await.map_err(|error| TransferError::Protocol(format!("file task: {error}")))?
}

/// A complete and verified checkpoint. Its directory goes when it is dropped, unless it was moved away meanwhile.
#[derive(Debug)]
pub(in crate::raft) struct Received(PathBuf);

impl Received {
    pub(in crate::raft) fn dir(&self) -> &Path {
        &self.0
    }
}

impl Drop for Received {
    fn drop(&mut self) {
        match fs::remove_dir_all(&self.0) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::warn!(dir = %self.0.display(), %error, "received checkpoint not removed");
            }
            _ => {}
        }
    }
}

struct Receiving {
    from: u64,
    begin: Begin,
    /// Per file: bytes written, checksum of them, verified and synced.
    progress: Vec<(u64, u32, bool)>,
}

/// The receiver's side: one checkpoint at a time.
pub(in crate::raft) struct Incoming {
    dir: PathBuf,
    current: Mutex<Option<Receiving>>,
    pub(in crate::raft) received_bytes: AtomicU64,
    pub(in crate::raft) received: AtomicU64,
    /// Requests of a transfer that were refused: damage, gaps, no space.
    pub(in crate::raft) failed: AtomicU64,
}

impl Incoming {
    /// Removes what a stop in the middle of a transfer left behind.
    pub(in crate::raft) fn new(root: &Path) -> io::Result<Self> {
        for entry in fs::read_dir(root)? {
            let entry = entry?;
            let name = entry.file_name();
            if name == INCOMING || name.to_string_lossy().starts_with(RECEIVED) {
                fs::remove_dir_all(entry.path())?;
            }
        }
        Ok(Self {
            dir: root.join(INCOMING),
            current: Mutex::new(None),
            received_bytes: AtomicU64::new(0),
            received: AtomicU64::new(0),
            failed: AtomicU64::new(0),
        })
    }

    /// Counts a refusal.
    pub(in crate::raft) fn counted<T>(&self, result: Result<T, TransferError>) -> Result<T, TransferError> {
        if result.is_err() {
            self.failed.fetch_add(1, Ordering::Relaxed);
        }
        result
    }

    /// Handles BEGIN from node `from`: the bytes held of each file.
    pub(in crate::raft) fn begin(&self, from: u64, body: Bytes) -> Result<Bytes, TransferError> {
        let begin = decode_begin(body)?;
        let mut current = self.current.lock();
        let resumes = current.as_ref().is_some_and(|held| {
            held.from == from && held.begin.applied == begin.applied && held.begin.files == begin.files
        });
        if !resumes {
            if self.dir.exists() {
                fs::remove_dir_all(&self.dir).map_err(io_at(&self.dir))?;
            }
            fs::create_dir_all(&self.dir).map_err(io_at(&self.dir))?;
            let progress = vec![(0, 0, false); begin.files.len()];
            *current = Some(Receiving { from, begin: begin.clone(), progress });
        }
        let mut out = BytesMut::new();
        if let Some(held) = &mut *current {
            held.begin.vote = begin.vote;
            for (bytes, _, _) in &held.progress {
                out.put_u64_le(*bytes);
            }
        }
        Ok(out.freeze())
    }

    /// Handles CHUNK. Blocking.
    pub(in crate::raft) fn chunk(&self, from: u64, body: Bytes) -> Result<Bytes, TransferError> {
        let mut reader = Reader::new("checkpoint chunk", body);
        let number = reader.u32()? as usize;
        let offset = reader.u64()?;
        let last = reader.u8()? != 0;
        let crc = reader.u32()?;
        let bytes = reader.rest();
        let mut current = self.current.lock();
        let held = current.as_mut().filter(|held| held.from == from);
        let held = held.ok_or_else(|| TransferError::Protocol("no checkpoint was begun".into()))?;
        let (Some((name, size)), Some(progress)) =
            (held.begin.files.get(number), held.progress.get_mut(number))
        else {
            return Err(TransferError::Protocol(format!("file number {number} was not announced")));
        };
        if offset != progress.0 || offset + bytes.len() as u64 > *size {
            let text = format!("{name}: chunk at {offset}, {} of {size} bytes are here", progress.0);
            return Err(TransferError::Protocol(text));
        }
        let path = self.dir.join(name);
        let mut file =
            fs::OpenOptions::new().create(true).append(false).write(true).truncate(false).open(&path);
        let file =
            file.as_mut().map_err(|e| TransferError::Io { path: path.clone(), error: e.kind().into() })?;
        file.seek(SeekFrom::Start(offset)).and_then(|_| file.write_all(&bytes)).map_err(io_at(&path))?;
        crash_point!("checkpoint-chunk-written");
        progress.0 += bytes.len() as u64;
        progress.1 = crc32c::crc32c_append(progress.1, &bytes);
        self.received_bytes.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        if last {
            if progress.0 != *size || progress.1 != crc {
                let text = format!(
                    "{name}: {} of {size} bytes, checksum {:08x} for {crc:08x}",
                    progress.0, progress.1
                );
                *progress = (0, 0, false);
                return Err(TransferError::Protocol(text));
            }
            file.sync_all().map_err(io_at(&path))?;
            crash_point!("checkpoint-file-synced");
            progress.2 = true;
        }
        Ok(Bytes::new())
    }

    /// Handles END: takes the complete checkpoint out, to a directory that no later BEGIN touches: the installation may
    /// wait (behind a full disk) for longer than the sender does. Blocking.
    pub(in crate::raft) fn end(
        &self,
        from: u64,
        body: Bytes,
    ) -> Result<(Vote, Begin, Received), TransferError> {
        let vote = Reader::new("checkpoint end", body).vote()?;
        let mut current = self.current.lock();
        let held = current.take_if(|held| held.from == from);
        let held = held.ok_or_else(|| TransferError::Protocol("no checkpoint was begun".into()))?;
        if let Some(missing) = held.progress.iter().position(|(_, _, done)| !done) {
            let name = held.begin.files[missing].0.clone();
            *current = Some(held);
            return Err(TransferError::Protocol(format!("{name} is not complete")));
        }
        crash_point!("checkpoint-whole-not-set-aside");
        File::open(&self.dir).and_then(|dir| dir.sync_all()).map_err(io_at(&self.dir))?;
        let out = self.dir.with_file_name(format!("{RECEIVED}{:016x}", rand::random::<u64>()));
        fs::rename(&self.dir, &out).map_err(io_at(&out))?;
        crash_point!("checkpoint-set-aside-not-installed");
        self.received.fetch_add(1, Ordering::Relaxed);
        Ok((vote, held.begin, Received(out)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn begin(files: &[(&str, u64)]) -> Bytes {
        let info = CheckpointInfo {
            applied: LogId { term: 1, node: 2, index: 3 },
            membership: None,
            files: files.iter().map(|(name, size)| ((*name).to_string(), *size)).collect(),
        };
        encode_begin(Vote { term: 1, node: 2, committed: true }, &info)
    }

    fn chunk(number: u32, offset: u64, crc: Option<u32>, bytes: &[u8]) -> Bytes {
        let mut out = BytesMut::new();
        out.put_u32_le(number);
        out.put_u64_le(offset);
        out.put_u8(u8::from(crc.is_some()));
        out.put_u32_le(crc.unwrap_or(0));
        out.put_slice(bytes);
        out.freeze()
    }

    fn end() -> Bytes {
        let mut out = BytesMut::new();
        codec::put_vote(&mut out, Vote { term: 1, node: 2, committed: true });
        out.freeze()
    }

    #[test]
    fn a_transfer_resumes_where_it_broke() {
        let dir = tempfile::tempdir().unwrap();
        let incoming = Incoming::new(dir.path()).unwrap();
        assert_eq!(incoming.begin(9, begin(&[("a", 4)])).unwrap(), &[0; 8][..]);
        incoming.chunk(9, chunk(0, 0, None, b"ab")).unwrap();
        assert!(incoming.end(9, end()).is_err(), "not complete");
        assert_eq!(incoming.begin(9, begin(&[("a", 4)])).unwrap(), &[2, 0, 0, 0, 0, 0, 0, 0][..]);
        incoming.chunk(9, chunk(0, 2, Some(crc32c::crc32c(b"abcd")), b"cd")).unwrap();
        let (_, info, received) = incoming.end(9, end()).unwrap();
        assert_eq!(info.applied.index, 3);
        assert_eq!(fs::read(received.dir().join("a")).unwrap(), b"abcd");
    }

    #[test]
    fn a_complete_checkpoint_is_safe_from_the_next_transfer() {
        let dir = tempfile::tempdir().unwrap();
        let incoming = Incoming::new(dir.path()).unwrap();
        incoming.begin(9, begin(&[("a", 4)])).unwrap();
        incoming.chunk(9, chunk(0, 0, Some(crc32c::crc32c(b"abcd")), b"abcd")).unwrap();
        let (_, _, received) = incoming.end(9, end()).unwrap();
        assert_eq!(incoming.begin(9, begin(&[("a", 4)])).unwrap(), &[0; 8][..], "begins anew");
        assert_eq!(fs::read(received.dir().join("a")).unwrap(), b"abcd");
        assert!(incoming.end(8, end()).is_err(), "a stranger");
        incoming.chunk(9, chunk(0, 0, None, b"ab")).expect("the stranger took nothing away");
        drop(received);
        Incoming::new(dir.path()).unwrap();
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0, "nothing is left behind");
    }

    #[test]
    fn damage_gaps_and_strangers_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let incoming = Incoming::new(dir.path()).unwrap();
        incoming.begin(9, begin(&[("a", 4)])).unwrap();
        assert!(incoming.chunk(8, chunk(0, 0, None, b"ab")).is_err(), "another node");
        assert!(incoming.chunk(9, chunk(1, 0, None, b"ab")).is_err(), "another file");
        assert!(incoming.chunk(9, chunk(0, 2, None, b"ab")).is_err(), "a gap");
        assert!(incoming.chunk(9, chunk(0, 0, None, b"abcde")).is_err(), "too long");
        assert!(incoming.chunk(9, chunk(0, 0, Some(1), b"abcd")).is_err(), "wrong checksum");
        for name in ["../x", "a/b", "", ".."] {
            assert!(incoming.begin(9, begin(&[(name, 1)])).is_err(), "{name:?}");
        }
    }
}
