//! What the kvnode programs say to each other.

pub mod snapshot;
