//! Reads a `state.bin` of either format: prove it whole, then give its records or print them as Redis commands.
//!
//! ```text
//! first pass   verify: lengths, checksums, order, counts, digest, nothing behind the end, meta.json beside it
//! second pass  records, or commands:   [*2 SELECT n]  *3 SET key value  |  *5 SET key value PXAT ms
//! ```
//!
//! Both passes stream through one open file, so memory stays flat and a file that is replaced between them changes
//! nothing. The first command leaves only after the last byte was proved; the ancestor printed half of a broken file
//! into `redis-cli --pipe`, which called it a success.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Seek, Write};
use std::path::Path;

use kvnode_api::snapshot::SnapshotMeta;
use sha2::{Digest, Sha256};

use super::ancestor::{AncestorMeta, AncestorReader, GZIP_MAGIC};
use super::catalog::{Meta, read_meta};
use super::format::{Header, MAGIC, RecordHash, Totals};
use super::reader::{Reader, read_up_to};
use super::salvage::{Loss, Salvage};
use super::{SnapshotError, hex};
use crate::store::Record;

const BUFFER_BYTES: usize = 256 * 1024;

/// Which program's format a file has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Ours.
    Kvnode,
    /// The ancestor's.
    Ancestor,
}

/// What a whole file was proved to hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verified {
    /// Format.
    pub kind: Kind,
    /// Header of our format.
    pub header: Option<Header>,
    /// Records, per-database counts, digest.
    pub totals: Totals,
    /// Bytes of the file.
    pub size_bytes: u64,
    /// A `meta.json` lay beside the file and agreed.
    pub meta_checked: bool,
}

/// How [`write_redis_commands`] treats the file.
#[derive(Clone, Copy, Debug)]
pub struct ParseOptions {
    /// The store's record hash.
    pub hash: RecordHash,
    /// Print what is readable of a damaged file instead of nothing.
    pub partial: bool,
}

/// What [`write_redis_commands`] printed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Summary {
    /// Format.
    pub kind: Kind,
    /// SET commands printed.
    pub records: u64,
    /// Set only with `partial` on a damaged file; the caller must then exit non-zero.
    pub damage: Option<Damage>,
}

/// What was wrong with a salvaged file and what is missing. `Display` is one line for stderr.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    /// What strict reading had said.
    pub reason: String,
    /// What could not be read.
    pub loss: Loss,
    /// Keys skipped because they are no user keys (ancestor's files).
    pub foreign_keys: u64,
    /// The format has no checksum per record and the whole one does not fit or was not reached: any printed value may
    /// be wrong (ancestor's files).
    pub unproved: bool,
}

impl std::fmt::Display for Damage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}; lost: ", self.reason)?;
        match self.loss.records {
            Some(records) => write!(f, "{records} records")?,
            None => write!(f, "an unknown number of records at the end")?,
        }
        if self.loss.frames > 0 || self.loss.bytes > 0 {
            write!(f, ", {} frames known, {} bytes", self.loss.frames, self.loss.bytes)?;
        }
        if let Some(stopped) = &self.loss.stopped {
            write!(f, "; reading stopped: {stopped}")?;
        }
        if self.foreign_keys > 0 {
            write!(f, "; skipped {} keys that are no user keys", self.foreign_keys)?;
        }
        if self.unproved {
            write!(f, "; no checksum covers the printed values")?;
        }
        Ok(())
    }
}

/// Counts and hashes the bytes of a file as they pass.
struct Tee<'a> {
    inner: &'a File,
    size_bytes: u64,
    sha256: Option<Sha256>,
    crc64: Option<crc64fast::Digest>,
}

impl Read for Tee<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buf)?;
        self.size_bytes += n as u64;
        if let Some(sha256) = &mut self.sha256 {
            sha256.update(&buf[..n]);
        }
        if let Some(crc64) = &mut self.crc64 {
            crc64.write(&buf[..n]);
        }
        Ok(n)
    }
}

/// Reads the whole file and proves everything that can be proved of it.
///
/// # Errors
/// [`SnapshotError`] with the first thing that does not fit.
pub fn verify(path: &Path, hash: RecordHash) -> Result<Verified, SnapshotError> {
    verify_file(&mut open(path)?, path, hash)
}

/// Verifies a file, then gives its records: strings of the ancestor's files are in database 0.
///
/// # Errors
/// [`SnapshotError`] with the first thing that does not fit. The records can still err if the disk fails between the
/// two passes.
pub fn open_records(
    path: &Path,
    hash: RecordHash,
) -> Result<(Verified, impl Iterator<Item = Result<Record, SnapshotError>> + Send + use<>), SnapshotError> {
    let mut file = open(path)?;
    let verified = verify_file(&mut file, path, hash)?;
    let input = BufReader::with_capacity(BUFFER_BYTES, file);
    let records = match verified.kind {
        Kind::Kvnode => Records::Kvnode(Reader::new(input, path, hash)?),
        Kind::Ancestor => Records::Ancestor(AncestorReader::new(input, path)),
    };
    Ok((verified, records))
}

/// Prints a snapshot as Redis commands, for `redis-cli --pipe` or any writer.
///
/// # Errors
/// [`SnapshotError`]; nothing was printed unless it is [`SnapshotError::Output`], or the disk failed between the two
/// passes. With `partial`, damage is no error but told in the [`Summary`].
pub fn write_redis_commands(
    path: &Path,
    out: &mut dyn Write,
    options: ParseOptions,
) -> Result<Summary, SnapshotError> {
    let mut file = open(path)?;
    let verified = match verify_file(&mut file, path, options.hash) {
        Ok(verified) => verified,
        // What a later version means by its bytes cannot be guessed.
        Err(reason) if options.partial && !matches!(reason, SnapshotError::Newer { .. }) => {
            return salvage(&mut file, path, out, reason);
        }
        Err(reason) => return Err(reason),
    };
    let input = BufReader::with_capacity(BUFFER_BYTES, &file);
    let mut printer = Printer::new(out);
    match verified.kind {
        Kind::Kvnode => {
            for record in Reader::new(input, path, options.hash)? {
                printer.print(&record?)?;
            }
        }
        Kind::Ancestor => {
            for record in AncestorReader::new(input, path) {
                printer.print(&record?)?;
            }
        }
    }
    Ok(Summary { kind: verified.kind, records: printer.finish()?, damage: None })
}

enum Records {
    Kvnode(Reader<BufReader<File>>),
    Ancestor(AncestorReader<BufReader<File>>),
}

impl Iterator for Records {
    type Item = Result<Record, SnapshotError>;

    fn next(&mut self) -> Option<Self::Item> {
        match self {
            Self::Kvnode(reader) => reader.next(),
            Self::Ancestor(reader) => reader.next(),
        }
    }
}

fn open(path: &Path) -> Result<File, SnapshotError> {
    let file = File::open(path).map_err(SnapshotError::io("open", path))?;
    let meta = file.metadata().map_err(SnapshotError::io("look at", path))?;
    if !meta.is_file() {
        let what = "it is not a regular file, and it must be read twice".into();
        return Err(SnapshotError::NotASnapshot { path: path.to_owned(), what });
    }
    Ok(file)
}

/// Format of a file by its first bytes; leaves the file at its start.
fn sniff(file: &mut File, path: &Path) -> Result<Option<Kind>, SnapshotError> {
    let io = || SnapshotError::io("read", path);
    let mut first = Vec::new();
    file.rewind().map_err(io())?;
    read_up_to(file, MAGIC.len() as u64, &mut first).map_err(io())?;
    file.rewind().map_err(io())?;
    if first == MAGIC {
        return Ok(Some(Kind::Kvnode));
    }
    Ok(first.starts_with(&GZIP_MAGIC).then_some(Kind::Ancestor))
}

/// Proves a file and leaves it at its start.
fn verify_file(file: &mut File, path: &Path, hash: RecordHash) -> Result<Verified, SnapshotError> {
    let Some(kind) = sniff(file, path)? else {
        let what = match file.metadata() {
            Ok(meta) if meta.len() == 0 => "the file is empty",
            _ => "its first bytes are those of neither format",
        };
        return Err(SnapshotError::NotASnapshot { path: path.to_owned(), what: what.into() });
    };
    let meta = meta_beside(path)?;
    let tee = Tee {
        inner: file,
        size_bytes: 0,
        sha256: matches!(meta, Some(Meta::Kvnode(_))).then(Sha256::new),
        crc64: matches!(meta, Some(Meta::Ancestor(_))).then(crc64fast::Digest::new),
    };
    let input = BufReader::with_capacity(BUFFER_BYTES, tee);
    let (header, totals, tee) = match kind {
        Kind::Kvnode => verify_ours(input, path, hash)?,
        Kind::Ancestor => verify_ancestor(input, path, hash)?,
    };
    let size_bytes = tee.size_bytes;
    match &meta {
        Some(Meta::Kvnode(meta)) => check_our_meta(path, meta, header.as_ref(), &totals, tee)?,
        Some(Meta::Ancestor(meta)) => check_ancestor_meta(path, meta, tee)?,
        None => {}
    }
    file.rewind().map_err(SnapshotError::io("read", path))?;
    Ok(Verified { kind, header, totals, size_bytes, meta_checked: meta.is_some() })
}

type Proved<'a> = (Option<Header>, Totals, Tee<'a>);

fn verify_ours<'a>(
    input: BufReader<Tee<'a>>,
    path: &Path,
    hash: RecordHash,
) -> Result<Proved<'a>, SnapshotError> {
    let mut reader = Reader::new(input, path, hash)?;
    reader.by_ref().try_for_each(|record| record.map(drop))?;
    let (header, totals) = (reader.header().clone(), reader.totals().clone());
    Ok((Some(header), totals, reader.into_input().into_inner()))
}

fn verify_ancestor<'a>(
    input: BufReader<Tee<'a>>,
    path: &Path,
    hash: RecordHash,
) -> Result<Proved<'a>, SnapshotError> {
    let mut reader = AncestorReader::new(input, path);
    let mut totals = Totals::new(1);
    for record in reader.by_ref() {
        totals.count(&record?, hash);
    }
    if reader.foreign() > 0 {
        return Err(SnapshotError::ForeignKeys { path: path.to_owned(), count: reader.foreign() });
    }
    totals.raw_bytes = reader.raw_bytes();
    Ok((None, totals, reader.into_input().into_inner()))
}

/// The `meta.json` that belongs to a file: only a `state.bin` has one.
fn meta_beside(path: &Path) -> Result<Option<Meta>, SnapshotError> {
    if path.file_name().is_none_or(|name| name != super::STATE_FILE) {
        return Ok(None);
    }
    match read_meta(&path.with_file_name(super::META_FILE)) {
        Err(SnapshotError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(SnapshotError::NotASnapshot { what, .. }) => {
            Err(SnapshotError::MetaMismatch { path: path.to_owned(), what })
        }
        other => other.map(Some),
    }
}

fn check_our_meta(
    path: &Path,
    meta: &SnapshotMeta,
    header: Option<&Header>,
    totals: &Totals,
    tee: Tee<'_>,
) -> Result<(), SnapshotError> {
    let sha256 = hex(&tee.sha256.unwrap_or_default().finalize());
    let keys: Vec<u64> = totals.databases.iter().map(|db| db.keys).collect();
    let what = if header.is_none() {
        "it is the ancestor's file and meta.json is ours".into()
    } else if tee.size_bytes != meta.size_bytes {
        format!("it has {} bytes, meta.json says {}", tee.size_bytes, meta.size_bytes)
    } else if !meta.sha256.eq_ignore_ascii_case(&sha256) {
        format!("its SHA-256 is {sha256}, meta.json says {}", meta.sha256)
    } else if keys != meta.keys || format!("{:032x}", totals.digest()) != meta.digest {
        "its key counts or digest differ".into()
    } else {
        return Ok(());
    };
    Err(SnapshotError::MetaMismatch { path: path.to_owned(), what })
}

fn check_ancestor_meta(path: &Path, meta: &AncestorMeta, tee: Tee<'_>) -> Result<(), SnapshotError> {
    let crc = tee.crc64.map(|digest| digest.sum64());
    let what = if tee.size_bytes != meta.size {
        format!("it has {} bytes, meta.json says {}", tee.size_bytes, meta.size)
    } else if meta.crc64().is_none() || meta.crc64() != crc {
        format!("its CRC-64 is {:016x}, meta.json says {:?}", crc.unwrap_or_default(), meta.crc)
    } else {
        return Ok(());
    };
    Err(SnapshotError::MetaMismatch { path: path.to_owned(), what })
}

/// Prints what is readable of a file that strict reading refused for `reason`.
fn salvage(
    file: &mut File,
    path: &Path,
    out: &mut dyn Write,
    reason: SnapshotError,
) -> Result<Summary, SnapshotError> {
    let kind = sniff(file, path)?;
    let input = BufReader::with_capacity(BUFFER_BYTES, &*file);
    let mut printer = Printer::new(out);
    if kind == Some(Kind::Ancestor) {
        return salvage_ancestor(input, path, printer, &reason);
    }
    // A file whose first bytes are destroyed may still hold our frames.
    let mut salvage = Salvage::new(input);
    for record in salvage.by_ref() {
        printer.print(&record)?;
    }
    let records = printer.finish()?;
    if !salvage.recognised() {
        return Err(reason);
    }
    let damage =
        Damage { reason: reason.to_string(), loss: salvage.loss(), foreign_keys: 0, unproved: false };
    Ok(Summary { kind: Kind::Kvnode, records, damage: Some(damage) })
}

fn salvage_ancestor(
    input: impl BufRead,
    path: &Path,
    mut printer: Printer<'_>,
    reason: &SnapshotError,
) -> Result<Summary, SnapshotError> {
    let mut reader = AncestorReader::new(input, path);
    let mut loss = Loss { records: Some(0), ..Loss::default() };
    for record in reader.by_ref() {
        match record {
            Ok(record) => printer.print(&record)?,
            Err(error) => {
                loss.records = None;
                loss.stopped = Some(match error {
                    SnapshotError::Damaged { offset, what, .. } => {
                        format!("at byte {offset} of the stream: {what}")
                    }
                    other => other.to_string(),
                });
            }
        }
    }
    let damage = Damage {
        reason: reason.to_string(),
        unproved: loss.stopped.is_some(),
        loss,
        foreign_keys: reader.foreign(),
    };
    Ok(Summary { kind: Kind::Ancestor, records: printer.finish()?, damage: Some(damage) })
}

/// Turns records into RESP commands; writes in pieces of [`BUFFER_BYTES`].
struct Printer<'a> {
    out: &'a mut dyn Write,
    buffer: Vec<u8>,
    db: u8,
    records: u64,
}

impl<'a> Printer<'a> {
    fn new(out: &'a mut dyn Write) -> Self {
        Self { out, buffer: Vec::new(), db: 0, records: 0 }
    }

    fn print(&mut self, record: &Record) -> Result<(), SnapshotError> {
        if record.db != self.db {
            self.db = record.db;
            self.command(&[b"SELECT", record.db.to_string().as_bytes()]);
        }
        match record.deadline {
            None => self.command(&[b"SET", &record.key, &record.value]),
            Some(deadline) => {
                let deadline = deadline.0.to_string();
                self.command(&[b"SET", &record.key, &record.value, b"PXAT", deadline.as_bytes()]);
            }
        }
        self.records += 1;
        if self.buffer.len() >= BUFFER_BYTES { self.drain() } else { Ok(()) }
    }

    fn command(&mut self, args: &[&[u8]]) {
        self.number(b'*', args.len());
        for arg in args {
            self.number(b'$', arg.len());
            self.buffer.extend_from_slice(arg);
            self.buffer.extend_from_slice(b"\r\n");
        }
    }

    fn number(&mut self, mark: u8, n: usize) {
        self.buffer.push(mark);
        self.buffer.extend_from_slice(n.to_string().as_bytes());
        self.buffer.extend_from_slice(b"\r\n");
    }

    fn drain(&mut self) -> Result<(), SnapshotError> {
        self.out.write_all(&self.buffer).map_err(SnapshotError::Output)?;
        self.buffer.clear();
        self.buffer.shrink_to(2 * BUFFER_BYTES);
        Ok(())
    }

    /// Writes the rest; returns the number of records printed.
    fn finish(mut self) -> Result<u64, SnapshotError> {
        self.drain()?;
        self.out.flush().map_err(SnapshotError::Output)?;
        Ok(self.records)
    }
}
