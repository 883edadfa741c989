//! A node inside another program: start it, run commands without a socket, write and restore snapshots.
//!
//! ```text
//! configure -> Node::start -+-> node.client() -> command, pipeline     the way of a socket's requests from step 3 on:
//!                           +-> node.snapshot()                        command -> dispatch -> raft -> store
//!                           +-> cancel the token, node.wait()
//! ```
//!
//! An embedded node is a whole one: it listens on its three ports, may join a cluster, and `redis-cli` reaches it.
//!
//! Invariants
//! - A client in this process has the limits of one on a socket, the order of its replies and its own session.
//! - A client never keeps a stopped node's files open: the same directory can be started again at once.

use std::io::Write;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};

use bytes::Bytes;
use kvnode_api::snapshot::SnapshotMeta;
use tokio_util::sync::CancellationToken;

use crate::config::{self, Config, Limits, Settings};
use crate::dispatch::{Connection, Dispatcher, ReplySink};
use crate::error::{ErrorKind, NodeError};
use crate::net::{Flow, Handler};
use crate::node::{self, Node};
use crate::raft::Group;
use crate::resp::{Protocol, Reply, Request};
use crate::snapshot::{self, ParseOptions, SnapshotError, Summary};
use crate::store;

#[cfg(test)]
mod tests;

/// A checked configuration from the keys of the configuration file (`config.example.yaml`); the others keep their
/// defaults. Neither the environment nor a file is read.
///
/// Port 0 lets the kernel choose; a client port of 0 makes the peer and the admin port 0 as well.
///
/// ```
/// let config = kvnode_server::embed::configure(&[("addr", "127.0.0.1:0"), ("durability", "medium")])?;
/// assert_eq!(config.http_addr.port(), 0);
/// let error = kvnode_server::embed::configure(&[("durabilty", "medium")]).unwrap_err();
/// assert!(error.to_string().starts_with("unknown key \"durabilty\""), "{error}");
/// # Ok::<(), kvnode_server::NodeError>(())
/// ```
///
/// # Errors
/// [`NodeError`] of kind `Config` with every fault.
pub fn configure(keys: &[(&str, &str)]) -> Result<Config, NodeError> {
    let mut settings = Settings::default();
    for (name, value) in keys {
        let Some(key) = config::Key::find(name) else {
            let remedy = "kvnode-server config-example lists all keys";
            return Err(NodeError::new(ErrorKind::Config, format!("unknown key {name:?}"), remedy));
        };
        settings.flags.push((key.name, (*value).to_owned()));
    }
    Ok(config::load(&settings)?.config)
}

/// Runs a node until `shutdown` is ready, as the program does: serves, then hands leadership over, drains its clients
/// and flushes.
///
/// ```
/// # let dir = tempfile::tempdir()?;
/// # let data = dir.path().to_str().ok_or("a path in UTF-8")?;
/// # tokio::runtime::Runtime::new()?.block_on(async {
/// let config = kvnode_server::embed::configure(&[("data", data), ("addr", "127.0.0.1:0")])?;
/// let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
/// let node = kvnode_server::serve(config, async move { drop(stopped.await) });
/// # stop.send(()).map_err(|()| "it waits")?;
/// node.await?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// # })?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
/// [`NodeError`]: it could not start, or had to stop by itself.
///
/// # Cancel safety
/// Dropping the future leaves the node's tasks running; make `shutdown` ready instead.
pub async fn serve(config: Config, shutdown: impl Future<Output = ()>) -> Result<(), NodeError> {
    let token = CancellationToken::new();
    let node = node::run(config, token.clone());
    tokio::pin!(node);
    tokio::select! {
        ended = &mut node => return ended,
        () = shutdown => token.cancel(),
    }
    node.await
}

/// Writes the Redis commands that rebuild a snapshot's content, ready for `redis-cli --pipe`: ours and the ancestor's
/// files. The whole file is verified before the first byte leaves.
///
/// ```
/// use kvnode_server::{CancellationToken, Node, embed, write_redis_commands};
/// # let dir = tempfile::tempdir()?;
/// # let data = dir.path().to_str().ok_or("a path in UTF-8")?;
/// # tokio::runtime::Runtime::new()?.block_on(async {
/// # let config = embed::configure(&[("data", data), ("addr", "127.0.0.1:0")])?;
/// # let shutdown = CancellationToken::new();
/// # let node = Node::start(config, shutdown.clone()).await?;
/// node.command(&["SET", "fruit", "pear"]).await;
/// let snapshot = node.snapshot().await?;
///
/// let mut commands = Vec::new();
/// let summary = write_redis_commands(&snapshot.state, &mut commands)?;
/// assert_eq!(summary.records, 1);
/// assert!(commands.ends_with(b"*3\r\n$3\r\nSET\r\n$5\r\nfruit\r\n$4\r\npear\r\n"));
/// # shutdown.cancel();
/// # node.wait().await?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// # })?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// Blocks; its memory does not grow with the file.
///
/// # Errors
/// [`SnapshotError`]: the file cannot be read or is damaged (nothing was written then), or `out` failed.
pub fn write_redis_commands(state: &Path, out: &mut impl Write) -> Result<Summary, SnapshotError> {
    snapshot::write_redis_commands(state, out, ParseOptions { hash: store::record_hash, partial: false })
}

/// A snapshot that [`Node::snapshot`] wrote.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// Directory with both files, `<log_dir>/snapshots/<term>-<index>-<unix ms>`.
    pub dir: PathBuf,
    /// The content, `state.bin`: what `Config::restore` and [`write_redis_commands`] take.
    pub state: PathBuf,
    /// What `meta.json` says.
    pub meta: SnapshotMeta,
}

/// A client in this process: the session of one connection, without a socket.
///
/// Replies come in RESP2's types until the client says `HELLO 3`. A write whose future is dropped halfway may be done
/// or not.
pub struct Client {
    dispatcher: Weak<Dispatcher<Group>>,
    limits: Limits,
    connection: Option<Connection>,
    cancel: CancellationToken,
}

/// Replies as values.
#[derive(Default)]
struct Replies(Vec<Reply>);

impl ReplySink for Replies {
    fn put(&mut self, reply: &Reply, _protocol: Protocol) {
        self.0.push(reply.clone());
    }

    /// The caller takes each reply at once: there is no slow reader to wait for.
    fn waiting_bytes(&self) -> usize {
        0
    }
}

fn refused(text: &str) -> Reply {
    Reply::Error(format!("ERR {text}"))
}

impl Client {
    /// Runs one command. `Nil` where a socket would be sent nothing (SHUTDOWN, CLIENT REPLY OFF).
    ///
    /// An error is a reply as well: `Reply::Error("ERR ...")`. After QUIT, CLIENT KILL or the end of the node every
    /// command is answered with one.
    pub async fn command<A: AsRef<[u8]>>(&mut self, words: &[A]) -> Reply {
        let mut replies = self.pipeline(&[words]).await;
        replies.pop().unwrap_or(Reply::Nil)
    }

    /// Runs commands in order; consecutive writes share a log entry, consecutive reads one confirmation. As many
    /// replies as commands, unless CLIENT REPLY or SHUTDOWN holds them back.
    ///
    /// ```
    /// # use kvnode_server::{CancellationToken, Node, Reply, embed};
    /// # let dir = tempfile::tempdir()?;
    /// # let data = dir.path().to_str().ok_or("a path in UTF-8")?;
    /// # tokio::runtime::Runtime::new()?.block_on(async {
    /// # let config = embed::configure(&[("data", data), ("addr", "127.0.0.1:0")])?;
    /// # let shutdown = CancellationToken::new();
    /// # let node = Node::start(config, shutdown.clone()).await?;
    /// let mut client = node.client();
    /// let replies = client.pipeline(&[&["SELECT", "1"][..], &["SET", "a", "1"], &["MGET", "a", "b"]]).await;
    /// let values = Reply::Array(vec![Reply::Bulk("1".into()), Reply::Nil]);
    /// assert_eq!(replies, [Reply::Ok, Reply::Ok, values]);
    /// # shutdown.cancel();
    /// # node.wait().await?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// # })?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub async fn pipeline<A: AsRef<[u8]>>(&mut self, commands: &[&[A]]) -> Vec<Reply> {
        if let Some(fault) = commands.iter().find_map(|words| too_large(words, &self.limits)) {
            return commands.iter().map(|_| refused(fault)).collect();
        }
        let open = self.connection.as_mut().filter(|_| !self.cancel.is_cancelled());
        let (Some(dispatcher), Some(connection)) = (self.dispatcher.upgrade(), open) else {
            return commands.iter().map(|_| refused("this client is closed")).collect();
        };
        let copy = |words: &&[A]| Request {
            args: words.iter().map(|word| Bytes::copy_from_slice(word.as_ref())).collect(),
        };
        let mut replies = Replies::default();
        for chunk in commands.chunks(self.limits.turn_requests_max) {
            let mut requests: Vec<Request> = chunk.iter().map(copy).collect();
            while !requests.is_empty() {
                let flow = dispatcher.answer(connection, &mut requests, &mut replies).await;
                if flow == Flow::Close || self.cancel.is_cancelled() {
                    if let Some(connection) = self.connection.take() {
                        dispatcher.close(connection);
                    }
                    return replies.0;
                }
            }
        }
        replies.0
    }
}

/// The limits that the decoder keeps for clients on sockets.
fn too_large<A: AsRef<[u8]>>(words: &[A], limits: &Limits) -> Option<&'static str> {
    let sizes = || words.iter().map(|word| word.as_ref().len());
    if words.is_empty() {
        return Some("no command given");
    }
    if words.len() > limits.args_max {
        return Some("Protocol error: too many arguments");
    }
    if sizes().any(|size| size > limits.bulk_bytes_max) {
        return Some("Protocol error: invalid bulk length");
    }
    (sizes().sum::<usize>() > limits.request_bytes_max).then_some("Protocol error: request too large")
}

impl Drop for Client {
    fn drop(&mut self) {
        if let (Some(dispatcher), Some(connection)) = (self.dispatcher.upgrade(), self.connection.take()) {
            dispatcher.close(connection);
        }
    }
}

impl Node {
    /// A client in this process. It stands in CLIENT LIST with the port 0 of the node's own address.
    #[must_use]
    pub fn client(&self) -> Client {
        let local = self.ready().addr;
        let cancel = CancellationToken::new();
        let dispatcher = self.dispatcher();
        let peer = SocketAddr::new(local.ip(), 0);
        let connection =
            dispatcher.open_as(self.next_client_id(), (peer, local), cancel.clone().into(), true);
        let limits = self.config().limits.clone();
        Client { dispatcher: Arc::downgrade(dispatcher), limits, connection: Some(connection), cancel }
    }

    /// Runs one command with a client of its own: see [`Client::command`].
    pub async fn command<A: AsRef<[u8]>>(&self, words: &[A]) -> Reply {
        self.client().command(words).await
    }

    /// Writes a snapshot of everything that was acknowledged before the call; done when it is on disk.
    ///
    /// `meta.quorum` is false when no quorum could confirm that: it then holds the local state. Restoring founds a new
    /// cluster in an empty directory:
    ///
    /// ```
    /// use kvnode_server::{CancellationToken, Node, Reply, embed};
    ///
    /// # let dir = tempfile::tempdir()?;
    /// # let path = |name: &str| dir.path().join(name).to_str().map(str::to_owned).ok_or("a path in UTF-8");
    /// # let (old, new) = (path("old")?, path("new")?);
    /// # tokio::runtime::Runtime::new()?.block_on(async {
    /// # let config = embed::configure(&[("data", &old), ("addr", "127.0.0.1:0")])?;
    /// # let shutdown = CancellationToken::new();
    /// # let node = Node::start(config, shutdown.clone()).await?;
    /// node.command(&["SET", "fruit", "pear"]).await;
    /// let snapshot = node.snapshot().await?;
    /// # shutdown.cancel();
    /// # node.wait().await?;
    ///
    /// let mut config = embed::configure(&[("data", &new), ("addr", "127.0.0.1:0")])?;
    /// config.restore = Some(snapshot.state);
    /// # let shutdown = CancellationToken::new();
    /// let restored = Node::start(config, shutdown.clone()).await?;
    /// assert_eq!(restored.command(&["GET", "fruit"]).await, Reply::Bulk("pear".into()));
    /// # shutdown.cancel();
    /// # restored.wait().await?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// # })?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`NodeError`]: the node is not part of a cluster, or what the disk said.
    pub async fn snapshot(&self) -> Result<Snapshot, NodeError> {
        let written = self.snapshots().take().await;
        let (dir, meta) = written.map_err(|error| {
            NodeError::new(ErrorKind::Io, format!("write a snapshot: {error}"), "look at the disk of log_dir")
        })?;
        Ok(Snapshot { state: dir.join(snapshot::STATE_FILE), dir, meta })
    }
}
