//! Harness of the suites that run the real program.
//!
//! Order of use: [`binary`] finds the server, [`cluster`] runs nodes of it as real processes on loopback, [`client`]
//! talks RESP to them, [`nemesis`] hurts them, [`history`] records what clients saw, [`checker`] and [`chain`] judge it.
//! [`s3`] is a real S3 server, [`proxy`] hurts HTTP on its way, [`service`] is one address before all nodes.
//! [`wait`] is the only way to wait: a condition with a deadline. [`tool`] finds programs that a suite needs.

pub mod binary;
pub mod chain;
pub mod checker;
pub mod client;
pub mod cluster;
pub mod history;
pub mod http;
pub mod nemesis;
pub mod node;
pub mod peer;
pub mod pki;
pub mod power;
pub mod preload;
pub mod proxy;
pub mod reference;
pub mod resp;
pub mod s3;
pub mod scenario;
pub mod service;
pub mod tool;
pub mod wait;
pub mod words;
pub mod writer;
