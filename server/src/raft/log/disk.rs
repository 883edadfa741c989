//! The seam to the file system: what the log asks of a directory and of a file. The real one is `os_disk`.
//!
//! Tests and the simulation have a second one in memory (`mem_disk`), which knows what was synced, loses the rest in a
//! power cut, and fails on demand. Nothing but `os_disk` touches `std::fs` in the log.

use std::io::{self, IoSlice};
use std::path::PathBuf;
use std::sync::Arc;

/// The directory of one log.
pub(super) trait Disk: Send + Sync + 'static {
    /// Path of a file, for messages.
    fn path(&self, name: &str) -> PathBuf;
    /// Names of all files.
    fn list(&self) -> io::Result<Vec<String>>;
    /// Makes an empty file of `bytes` zeros whose blocks are allocated; replaces a file of that name.
    fn create(&self, name: &str, bytes: u64) -> io::Result<Arc<dyn DiskFile>>;
    /// Opens a file for reading and writing.
    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>>;
    /// Renames a file.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;
    /// Removes a file.
    fn remove(&self, name: &str) -> io::Result<()>;
    /// Makes creations, renames and removals durable.
    fn sync_dir(&self) -> io::Result<()>;
    /// A random number, the stamp of a new segment.
    fn salt(&self) -> u64;
}

/// One open file.
pub(super) trait DiskFile: Send + Sync {
    /// Length in bytes.
    fn len(&self) -> io::Result<u64>;
    /// Reads at `offset`; may be short only at the end of the file.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize>;
    /// Writes at `offset`; may be short.
    fn write_at(&self, parts: &[IoSlice<'_>], offset: u64) -> io::Result<usize>;
    /// `fdatasync`.
    fn sync_data(&self) -> io::Result<()>;
    /// `fsync`.
    fn sync_all(&self) -> io::Result<()>;
    /// Cuts or extends.
    fn set_len(&self, bytes: u64) -> io::Result<()>;
}

/// The kernel takes at most this many parts in one vectored write (`IOV_MAX`).
const PARTS_MAX: usize = 1024;

/// Writes all parts from `offset` on, through short writes and interrupts.
pub(super) fn write_all(file: &dyn DiskFile, parts: &mut [IoSlice<'_>], mut offset: u64) -> io::Result<()> {
    let mut rest = parts;
    while !rest.is_empty() {
        let take = rest.len().min(PARTS_MAX);
        match file.write_at(&rest[..take], offset) {
            Ok(0) => return Err(io::Error::new(io::ErrorKind::WriteZero, "the file takes no more bytes")),
            Ok(written) => {
                offset += written as u64;
                IoSlice::advance_slices(&mut rest, written);
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Fills the buffer from `offset` on; an early end of the file is an error.
pub(super) fn read_exact(file: &dyn DiskFile, buffer: &mut [u8], offset: u64) -> io::Result<()> {
    let read = read_up_to(file, buffer, offset)?;
    if read < buffer.len() {
        return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the file ends early"));
    }
    Ok(())
}

/// Reads until the buffer is full or the file ends.
pub(super) fn read_up_to(file: &dyn DiskFile, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut read = 0;
    while read < buffer.len() {
        match file.read_at(&mut buffer[read..], offset + read as u64) {
            Ok(0) => break,
            Ok(n) => read += n,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(read)
}
