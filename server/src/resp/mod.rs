//! Step 2: frames. Bytes become a [`Request`]; a [`Reply`] becomes bytes. No socket, no command, no state but the
//! decoder's place in the stream. The only module that names `redis_protocol`.

pub(crate) mod ask;
pub mod reply;
pub mod request;

pub use reply::{Protocol, Reply};
pub use request::{DecoderLimits, ProtocolError, Request, RequestDecoder};
