//! Step 2: frames. Bytes become a [`Request`]; a [`Reply`] becomes bytes.

pub mod reply;
pub mod request;

pub use reply::{Protocol, Reply};
pub use request::{ProtocolError, Request, RequestDecoder};
