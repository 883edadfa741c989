//! kvnode: a strongly consistent, durable key/value store that speaks the Redis protocol.
//!
//! The program `kvnode-server` is a thin shell round this crate, and so can yours be: [`embed`] starts a node inside a
//! process, runs commands against it without a socket, writes and restores snapshots. The names that this needs stand
//! at the top of the crate; everything below them is public for the suites of the repository and may change.
//!
//! ```
//! use kvnode_server::{CancellationToken, Node, Reply, embed};
//!
//! # let dir = tempfile::tempdir()?;
//! # let data = dir.path().to_str().ok_or("a path in UTF-8")?;
//! # tokio::runtime::Runtime::new()?.block_on(async {
//! let config = embed::configure(&[("data", data), ("addr", "127.0.0.1:0")])?;
//! let shutdown = CancellationToken::new();
//! let node = Node::start(config, shutdown.clone()).await?;
//!
//! assert_eq!(node.command(&["SET", "fruit", "pear"]).await, Reply::Ok);
//! assert_eq!(node.command(&["GET", "fruit"]).await, Reply::Bulk("pear".into()));
//!
//! shutdown.cancel();
//! node.wait().await?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! # })?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! The modules stand in the order in which a command meets them; replies travel back as values:
//!
//! ```text
//! net -> resp -> command -> dispatch -> raft -> store
//!        bytes   request    action      entry   outcome
//! ```
//!
//! `ARCHITECTURE.md` at the top of the repository tells the life of one command along this line.

#[macro_use]
pub mod crash;
#[macro_use]
pub mod machine;

pub mod audit;
pub mod cli;
pub mod clock;
pub mod config;
pub mod error;
pub mod probe;
pub mod secret;
#[cfg(feature = "sim")]
pub mod sim;
pub mod telemetry;
pub mod tls;

pub mod net;
pub mod resp;

pub mod acl;
pub mod command;
pub mod dispatch;
pub mod session;

pub mod raft;
pub mod store;

pub mod snapshot;

pub mod admin;
pub mod metrics;

pub mod node;

pub mod embed;

#[cfg(any(test, feature = "fuzz"))]
pub mod fuzz;

pub use config::Config;
pub use embed::{Client, serve, write_redis_commands};
pub use error::NodeError;
pub use node::Node;
pub use resp::Reply;
pub use tokio_util::sync::CancellationToken;
