//! S3: the only place that names the SDK.
//!
//! ```text
//! settings   where and as whom: bucket, endpoint, credentials (directory of files, or what the surroundings give)
//! endpoint   which endpoints are refused before and after their name is resolved
//! store      small objects, listings, deletion           multipart   one large object, part by part
//! download   one large object as a stream, in parts that come side by side and survive cut connections
//! probe      can this bucket be written, read, listed, deleted; told apart in words
//! error      what went wrong, by what to do about it
//! ```
//!
//! Invariants
//! - No redirect is followed, and no address is connected to that [`endpoint`] refuses.
//! - The SDK's own checksums are sent only where the service requires them: many stores refuse its trailers. What is
//!   stored is proved by reading it back.
//! - Memory: one small object, one part, or one chunk of a stream.

pub mod download;
pub mod endpoint;
mod error;
pub mod multipart;
pub mod probe;
pub mod settings;
mod store;

pub use download::Download;
pub use error::{S3Error, S3ErrorKind};
pub use multipart::{Chunks, Multipart, PendingUpload};
pub use settings::{Checksums, Credentials, Patience, Settings, Sse};
pub use store::{Found, Store};
