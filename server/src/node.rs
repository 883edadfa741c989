//! Composition root: opens the group, binds the listeners, wires the services, stops in order.
//!
//! ```text
//! start   lock -> bind (client, peer, admin) -> admin serves -> group (log, state, Raft) -> clients are accepted
//! stop    not ready -> hand leadership over -> drain clients -> drain snapshots -> group (flush, sync) -> admin ends
//! ```
//!
//! Invariant: a client is never accepted before the group is open, and never cut off with a request unanswered.

mod control;
mod lock;
mod scrape;
mod snapshots;

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use parking_lot::Mutex;
use serde::Serialize;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::admin::serve::ServeLimits;
use crate::admin::{self, Admin};
use crate::clock;
use crate::config::{Config, RestoreMissing};
use crate::dispatch::access::Access;
use crate::dispatch::{Dispatcher, DispatcherParts};
use crate::error::{ErrorKind, NodeError};
use crate::machine::{self, TcpListener};
use crate::metrics::Metrics;
use crate::net;
use crate::probe;
use crate::raft::log::LogError;
use crate::raft::{self, Addresses, Group, IdentityError, OpenRestore, Restore, StartError, Stopped};
use crate::snapshot;
use crate::store::{self, Fatal, RecordOrder};
use crate::tls::Tls;

pub use control::Control;
pub use snapshots::Snapshots;

/// Time that clients get to take their last replies.
const DRAIN: Duration = Duration::from_secs(5);
/// Between two looks at the files of the users.
const USERS_LOOK: Duration = Duration::from_secs(1);
/// Raft tasks are told to stop, then awaited for this long.
const GROUP_STOP: Duration = Duration::from_secs(30);

/// Where a running node listens and what it is; also written to `ready.json` in the data directory.
#[derive(Clone, Debug, Serialize)]
pub struct Ready {
    /// Client listener.
    pub addr: SocketAddr,
    /// Client listener that speaks TLS; the same as `addr` where there is no other.
    pub tls_addr: Option<SocketAddr>,
    /// Peer listener.
    pub peer_addr: SocketAddr,
    /// Admin listener.
    pub http_addr: SocketAddr,
    /// Node id, hex.
    pub node_id: String,
    /// Process id.
    pub pid: u32,
}

/// A running node.
pub struct Node {
    group: Group,
    dispatcher: Arc<Dispatcher<Group>>,
    snapshots: Snapshots,
    config: Arc<Config>,
    net_stats: Arc<net::Stats>,
    ready: Ready,
    shutdown: CancellationToken,
    fatal: Arc<Mutex<Option<String>>>,
    tasks: Tasks,
    _lock: lock::DirLock,
}

#[derive(Default)]
struct Tasks {
    clients_stop: CancellationToken,
    clients: TaskTracker,
    admin_stop: CancellationToken,
    admin: TaskTracker,
}

/// Runs a node until `shutdown` is cancelled or something fatal happens.
///
/// # Errors
/// [`NodeError`]: what and what to do, with the exit code.
pub async fn run(mut config: Config, shutdown: CancellationToken) -> Result<(), NodeError> {
    loop {
        let node = Node::start(config.clone(), shutdown.clone()).await?;
        let ready = node.ready.clone();
        announce(&ready, &config.data)?;
        if node.serve().await? == End::Stopped || shutdown.is_cancelled() {
            return Ok(());
        }
        // Where clients and members know it, also if the kernel chose the ports.
        (config.addr, config.peer_addr, config.http_addr) = (ready.addr, ready.peer_addr, ready.http_addr);
        config.tls_addr = ready.tls_addr;
    }
}

/// How a node's service ended, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Stopped,
    /// It is to start again, under its new node id.
    NewId,
}

fn announce(ready: &Ready, data: &Path) -> Result<(), NodeError> {
    let path = data.join("ready.json");
    let text = serde_json::to_vec(ready).unwrap_or_default();
    raft::replace_file(&path, &text).map_err(|error| cannot_write(&path, &error))?;
    tracing::info!(
        addr = %ready.addr, peer_addr = %ready.peer_addr, http_addr = %ready.http_addr, node_id = %ready.node_id,
        data = %data.display(), "kvnode-server ready"
    );
    Ok(())
}

fn cannot_write(path: &Path, error: &std::io::Error) -> NodeError {
    NodeError::new(
        ErrorKind::CannotCreate,
        format!("write {}: {error}", path.display()),
        "check the directory's owner and free space",
    )
}

async fn bind(addr: SocketAddr, key: &str) -> Result<(TcpListener, SocketAddr), NodeError> {
    let fail = |error: std::io::Error| {
        NodeError::new(
            ErrorKind::Unavailable,
            format!("listen on {addr}: {error}"),
            format!("stop the program that uses it, or choose another --{key}"),
        )
    };
    let listener = TcpListener::bind(addr).await.map_err(fail)?;
    let bound = listener.local_addr().map_err(fail)?;
    Ok((listener, bound))
}

fn advertised(configured: Option<&String>, bound: SocketAddr, key: &str) -> Result<String, NodeError> {
    match configured {
        Some(addr) => Ok(addr.clone()),
        None if bound.ip().is_unspecified() => Err(NodeError::new(
            ErrorKind::Config,
            format!("{bound} is not an address that others can dial"),
            format!("give the name or address of this machine with --{key}"),
        )),
        None => Ok(bound.to_string()),
    }
}

/// What is wrong is kept; the others have the data.
const AFTER_DIVERGENCE: &str = "keep a copy of the data directory for a bug report, then empty it (and --log-dir) and \
     start the node with --join: it becomes a new member";

fn start_error(error: StartError) -> NodeError {
    let (kind, remedy) = match &error {
        StartError::Identity(IdentityError::OtherCluster { .. }) => {
            (ErrorKind::Refused, "use an empty data directory")
        }
        StartError::Identity(IdentityError::Io { .. })
        | StartError::Io { .. }
        | StartError::Log(LogError::Io { .. } | LogError::DiskFull { .. }) => {
            (ErrorKind::CannotCreate, "check the directory's owner and free space")
        }
        // Their texts say what to do themselves.
        StartError::Identity(IdentityError::Damaged { .. }) | StartError::Log(_) | StartError::State(_) => {
            (ErrorKind::Data, "the node did not start")
        }
        StartError::Raft(_) => {
            (ErrorKind::Data, "empty the data directory and let the node join its cluster again")
        }
        StartError::Diverged(_) => (ErrorKind::Data, AFTER_DIVERGENCE),
        StartError::Restore(_) => (ErrorKind::NoInput, "give --restore a good state.bin"),
        StartError::Timing(_) => (ErrorKind::Config, "see config-example for the timing keys"),
    };
    NodeError::new(kind, error, remedy)
}

fn restore_source(config: &Config) -> Option<OpenRestore> {
    let path = config.restore.clone()?;
    if config.restore_missing == RestoreMissing::Wait && !path.exists() {
        // All pods of a set have the same flags; only the founder's volume holds the file. Without it a node that waits
        // to be formed stays empty and serves nothing, so nothing can be mistaken for a restored cluster.
        tracing::info!(file = %path.display(), "nothing to restore here");
        return None;
    }
    Some(Box::new(move || {
        let bad = |error: snapshot::SnapshotError| StartError::Restore(error.to_string());
        let (verified, records) = snapshot::open_records(&path, store::record_hash).map_err(bad)?;
        tracing::info!(file = %path.display(), keys = verified.totals.records, "snapshot verified");
        let records = records.map(|record| record.map_err(|error| Fatal::new("read the snapshot", error)));
        let ours = verified.kind == snapshot::Kind::Kvnode;
        Ok(Restore {
            records: Box::new(records),
            // The ancestor's files may hold a key twice.
            order: if ours { RecordOrder::Rising } else { RecordOrder::Any },
            counted: ours.then_some(verified.totals.databases),
            origin: verified.header.map(|header| (header.cluster_id, header.applied.unwrap_or_default())),
        })
    }))
}

fn look_at_disk(config: &Config) -> Result<(), NodeError> {
    let unwritable = |error: std::io::Error| cannot_write(&config.log_dir, &error);
    std::fs::create_dir_all(&config.log_dir).map_err(unwritable)?;
    let times = probe::sync_times(&config.log_dir).map_err(unwritable)?;
    if let Some(line) = probe::verdict(&times, &config.log_dir, config.timing.election_timeout_min) {
        tracing::warn!("{line}");
    }
    let space = probe::space(&config.log_dir).map_err(unwritable)?;
    if let Some(line) = probe::space_verdict(space, &config.log_dir, config.limits.disk_reserve_bytes) {
        tracing::warn!("{line}");
    }
    Ok(())
}

impl Node {
    /// Starts a node; it serves when this returns. Stops when `shutdown` is cancelled: await [`Node::wait`].
    ///
    /// # Errors
    /// [`NodeError`]: what and what to do.
    pub async fn start(config: Config, shutdown: CancellationToken) -> Result<Self, NodeError> {
        let config = Arc::new(config);
        // Its end is not that of the caller's token: the node may have to start again.
        let shutdown = shutdown.child_token();
        let access = open_users(&config)?;
        let lock = lock::DirLock::take(&config.data).await?;
        raft::format(&config).map_err(start_error)?;
        look_at_disk(&config)?;
        let tls = Tls::load(&config)?;
        let (clients, addr) = bind(config.addr, "addr").await?;
        let beside = match config.tls_addr.filter(|_| !config.tls_only) {
            Some(addr) => Some(bind(addr, "tls-addr").await?),
            None => None,
        };
        let (peers, peer_addr) = bind(config.peer_addr, "peer-addr").await?;
        let (http, http_addr) = bind(config.http_addr, "http-addr").await?;
        let addresses = Addresses {
            addr: advertised(config.advertise_addr.as_ref(), addr, "advertise-addr")?,
            peer_addr: advertised(config.advertise_peer_addr.as_ref(), peer_addr, "advertise-peer-addr")?,
        };
        let restore = restore_source(&config);
        let group =
            raft::start(config.clone(), addresses, peers, tls.peers.clone(), restore, shutdown.clone()).await;
        let group = group.map_err(start_error)?;
        let fatal = Arc::new(Mutex::new(None));
        let metrics = Arc::new(Metrics::new());
        let snapshots = Snapshots::new(group.clone(), config.clone(), metrics.snapshot_duration.clone());
        snapshots.clear_leftovers();
        let net_stats = Arc::new(net::Stats::default());
        let on_fatal = (shutdown.clone(), stop_on_fatal(&fatal, &shutdown));
        let dispatcher = dispatcher(parts(&config, &group, access, &snapshots, &net_stats, on_fatal));
        let tasks = Tasks::default();
        let shown = config.tls.http.ca.is_some().then(|| dispatcher.access().clone());
        let control = Control::new(group.clone(), http_addr, shown, shutdown.clone());
        metrics.register(Arc::new(scrape::Source {
            config: config.clone(),
            group: group.clone(),
            dispatcher: dispatcher.clone(),
            net: net_stats.clone(),
            snapshots: snapshots.clone(),
            tls: tls.clone(),
        }));
        let admin_max = config.limits.http_connections_max;
        let admin =
            Admin::new(control, Arc::new(snapshots.clone()), metrics, admin_max, tasks.admin_stop.clone());
        tasks.admin.spawn(admin::serve(http, admin, ServeLimits::new(admin_max), tls.admin.clone()));
        tasks.admin.spawn(tls.clone().watch(tasks.admin_stop.clone()));
        let stop = tasks.clients_stop.clone();
        let listener =
            net::Listener::new(clients, dispatcher.clone(), &config.limits, net_stats.clone(), stop);
        let tls_addr = if config.tls_only { Some(addr) } else { beside.as_ref().map(|(_, addr)| *addr) };
        for listener in client_listeners(listener, &tls, beside.map(|(socket, _)| socket)) {
            tasks.clients.spawn(listener.run(DRAIN));
        }
        tasks.clients.spawn(watch_users(dispatcher.clone(), tasks.clients_stop.clone()));
        let node_id = format!("{:016x}", group.node_id());
        let ready = Ready { addr, tls_addr, peer_addr, http_addr, node_id, pid: std::process::id() };
        Ok(Self {
            group,
            dispatcher,
            snapshots,
            config,
            net_stats,
            ready,
            shutdown,
            fatal,
            tasks,
            _lock: lock,
        })
    }

    /// Where it listens.
    #[must_use]
    pub fn ready(&self) -> &Ready {
        &self.ready
    }

    /// The replicated group, for commands in this process.
    #[must_use]
    pub fn group(&self) -> &Group {
        &self.group
    }

    /// The dispatcher, for requests in this process.
    #[must_use]
    pub fn dispatcher(&self) -> &Arc<Dispatcher<Group>> {
        &self.dispatcher
    }

    /// The writer of snapshots.
    #[must_use]
    pub fn snapshots(&self) -> &Snapshots {
        &self.snapshots
    }

    /// What it was told.
    #[must_use]
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The next client id; clients on sockets and in this process are counted together.
    pub(crate) fn next_client_id(&self) -> u64 {
        self.net_stats.accepted.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Serves until `shutdown` is cancelled, then stops in order.
    ///
    /// # Errors
    /// [`NodeError`] of kind fatal when the node had to stop by itself; of kind unavailable when it has stopped in order
    /// because it may have lost acknowledged entries and has taken a new node id: start it again.
    pub async fn wait(self) -> Result<(), NodeError> {
        match self.serve().await? {
            End::Stopped => Ok(()),
            End::NewId => Err(NodeError::new(
                ErrorKind::Unavailable,
                "the node has taken a new node id",
                "start it again: it joins its cluster by itself",
            )),
        }
    }

    async fn serve(self) -> Result<End, NodeError> {
        let mut end = End::Stopped;
        let died = tokio::select! {
            () = self.shutdown.cancelled() => None,
            stopped = self.group.stopped() => match stopped {
                Stopped::Shutdown => None,
                Stopped::NewId => {
                    end = End::NewId;
                    None
                }
                Stopped::Fatal(text) => Some(text),
                Stopped::Diverged(text) => {
                    self.abandon().await;
                    return Err(NodeError::new(ErrorKind::Data, text, AFTER_DIVERGENCE));
                }
            },
        };
        let died = died.or_else(|| self.fatal.lock().clone());
        if let Some(text) = died {
            // Nothing that is left can be trusted to finish; what was acknowledged is in the log.
            return Err(NodeError::fatal(text));
        }
        if end == End::NewId || self.group.cluster_id().is_none() {
            // Without a cluster, or under an id that no leader counts on, what its clients wait for never comes.
            self.group.refuse();
        }
        self.stop().await.map(|()| end)
    }

    /// Ends a node whose content is wrong: nothing is handed over or drained.
    async fn abandon(self) {
        // The group first: then confirmed reads and writes are refused. Reads at consistency low ask no group; they go on for
        // as long as this takes.
        let stopped = tokio::time::timeout(GROUP_STOP, self.group.shutdown()).await;
        if !matches!(stopped, Ok(Ok(()))) {
            tracing::warn!("the group did not stop in order");
        }
        self.tasks.clients_stop.cancel();
        self.tasks.admin_stop.cancel();
    }

    async fn stop(self) -> Result<(), NodeError> {
        tracing::info!("stopping");
        self.group.hand_over().await;
        crash_point!("stop-handed-over");
        self.tasks.clients_stop.cancel();
        self.tasks.clients.close();
        self.tasks.clients.wait().await;
        self.dispatcher.drain().await;
        crash_point!("stop-drained");
        let stopped = tokio::time::timeout(GROUP_STOP, self.group.shutdown()).await;
        self.tasks.admin_stop.cancel();
        self.tasks.admin.close();
        self.tasks.admin.wait().await;
        match stopped {
            Ok(Ok(())) => {
                tracing::info!("stopped");
                Ok(())
            }
            Ok(Err(error)) => Err(NodeError::fatal(error)),
            Err(_) => {
                Err(NodeError::fatal(format!("the group did not stop within {} s", GROUP_STOP.as_secs())))
            }
        }
    }
}

/// The listener, and the one beside it that speaks TLS; without a second socket the first is the one.
fn client_listeners<H: net::Handler>(
    first: net::Listener<H>,
    tls: &Tls,
    beside: Option<TcpListener>,
) -> Vec<net::Listener<H>> {
    let Some(credentials) = &tls.clients else { return vec![first] };
    match beside {
        Some(socket) => {
            let second = first.beside(socket).by_tls(credentials.clone());
            vec![first, second]
        }
        None => vec![first.by_tls(credentials.clone())],
    }
}

fn open_users(config: &Config) -> Result<Arc<Access>, NodeError> {
    let fail = |error| NodeError::new(ErrorKind::Config, error, "set the file right and start again");
    Access::open(config).map(Arc::new).map_err(fail)
}

/// What the dispatcher is made of; `stop` is cancelled by SHUTDOWN, and told of a fatal error.
fn parts(
    config: &Arc<Config>,
    group: &Group,
    access: Arc<Access>,
    snapshots: &Snapshots,
    net_stats: &Arc<net::Stats>,
    stop: (CancellationToken, Arc<dyn Fn(Fatal) + Send + Sync>),
) -> DispatcherParts<Group> {
    DispatcherParts {
        group: group.clone(),
        config: config.clone(),
        access,
        snapshots: Arc::new(snapshots.clone()),
        net: net_stats.clone(),
        shutdown: stop.0,
        fatal: stop.1,
        started: clock::wall(),
        addr: group.addr().to_owned(),
        peer_addr: group.peer_addr().to_owned(),
    }
}

/// What the dispatcher tells of an error after which the node must stop.
fn stop_on_fatal(
    fatal: &Arc<Mutex<Option<String>>>,
    shutdown: &CancellationToken,
) -> Arc<dyn Fn(Fatal) + Send + Sync> {
    let (note, stop) = (fatal.clone(), shutdown.clone());
    Arc::new(move |error: Fatal| {
        tracing::error!(%error, "the state cannot be read");
        *note.lock() = Some(error.to_string());
        stop.cancel();
    })
}

fn dispatcher(parts: DispatcherParts<Group>) -> Arc<Dispatcher<Group>> {
    let group = parts.group.clone();
    let dispatcher = Arc::new(Dispatcher::new(parts));
    // Weak: the dispatcher holds the group.
    let subscribers = Arc::downgrade(&dispatcher);
    group.on_message(move |to_shard, channel, message| {
        if let Some(dispatcher) = subscribers.upgrade() {
            dispatcher.deliver(to_shard, channel, message);
        }
    });
    let asked = Arc::downgrade(&dispatcher);
    group
        .on_question(move |words| asked.upgrade().map(|node| node.answer_member(&words)).unwrap_or_default());
    dispatcher
}

/// Looks at the files of the users until `stop`. By their content: Kubernetes swaps a link, and tells nobody.
async fn watch_users(dispatcher: Arc<Dispatcher<Group>>, stop: CancellationToken) {
    while dispatcher.access().has_files() {
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(USERS_LOOK) => {}
        }
        let looking = Arc::clone(&dispatcher);
        match machine::spawn_blocking(move || looking.reload_users(false)).await {
            // A fault is told where it is found.
            Ok(_) => {}
            Err(error) => tracing::error!(%error, "read the users"),
        }
    }
}
