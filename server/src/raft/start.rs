//! Opening a group: identity, log, state, Raft core, tasks; and the formation of a cluster.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use arc_swap::{ArcSwap, ArcSwapOption};
use openraft::SnapshotPolicy;
use openraft::errors::{InitializeError, RaftError};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::apply::ApplyHandle;
use super::broadcast::Messages;
use super::confirm::Confirm;
use super::core::{Contact, Core, Counters, Disk, LeaderView};
use super::divergence::{self, Divergence};
use super::doubt::{self, Doubt};
use super::election_timeout::{self, ElectionTimeout};
use super::group::{Group, MemberError};
use super::identity::{Identity, IdentityError};
use super::life::{Found, Life};
use super::log::{LogError, LogOptions, RaftLog, Recovered};
use super::log_store::LogStore;
use super::peer::checkpoint::{Incoming, Outgoing};
use super::peer::client::id_text;
use super::peer::network::NetworkFactory;
use super::peer::transport::Transport;
use super::peer::{GROUP, Local, service};
use super::proposer::Proposer;
use super::reader::Reader;
use super::remote::LeaderClient;
use super::resolver::Resolver;
use super::seed::{self, OpenRestore, Target};
use super::state_machine::StateMachine;
use super::types::{Node, Raft};
use super::{housekeeping, joining, members, sweep};
use crate::clock;
use crate::config::{Config, Formation};
use crate::machine::TcpListener;
use crate::store::{Applier, Fatal, Store, StoreOptions};
use crate::tls::Credentials;

/// Why a group cannot start. Every text says what to do.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// See [`IdentityError`].
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The Raft log cannot be opened.
    #[error(transparent)]
    Log(#[from] LogError),
    /// The state cannot be opened.
    #[error("state: {0}")]
    State(#[from] Fatal),
    /// A directory or socket.
    #[error("{doing}: {error}")]
    Io {
        /// What was being done.
        doing: String,
        /// Cause.
        error: std::io::Error,
    },
    /// The Raft core refused what it found.
    #[error("Raft: {0}")]
    Raft(String),
    /// `--restore` into a directory that already belongs to a cluster of another origin.
    #[error("{0}")]
    Restore(String),
    /// This node has stopped before because its content was not that of the majority.
    #[error("{0}")]
    Diverged(String),
    /// Timing that Raft cannot work with.
    #[error("configuration: {0}")]
    Timing(String),
}

/// Where the others reach this node.
#[derive(Clone, Debug)]
pub struct Addresses {
    /// Client address, `host:port`.
    pub addr: String,
    /// Peer address, `host:port`.
    pub peer_addr: String,
}

/// Formats an empty data directory, before anything else is done in it: the node id, and whether the node is to join.
///
/// # Errors
/// See [`IdentityError`].
pub fn format(config: &Config) -> Result<(), StartError> {
    Identity::open(&config.data, !config.join.is_empty())?;
    crash_point!("formatted-not-started");
    Ok(())
}

/// Opens the group and starts its tasks. Peers are spoken to as `peer_tls` of the configuration says, with these
/// certificates; `restore` is called only in a directory without a cluster.
///
/// # Errors
/// See [`StartError`].
pub async fn start(
    config: Arc<Config>,
    addresses: Addresses,
    peer_listener: TcpListener,
    peer_tls: Option<Arc<Credentials>>,
    restore: Option<OpenRestore>,
    shutdown: CancellationToken,
) -> Result<Group, StartError> {
    let identity = Identity::open(&config.data, !config.join.is_empty())?;
    let dirs = Dirs::new(&config);
    dirs.create()?;
    let divergence = Divergence::open(&config.data)?;
    let Opened { log, recovered, store, mut applier, doubt } =
        open(&config, &identity, &dirs, restore.is_some())?;
    if let Some(open) = restore {
        let (identity, addresses, data) = (&identity, &addresses, config.data.as_path());
        seed::seed(&Target { identity, addresses, log: &log, store: &store, data }, &mut applier, open)?;
    }
    let (position, resolver) = (applier.position(), Arc::new(Resolver::new(rand::random())));
    let apply =
        ApplyHandle::spawn(applier, log.clone(), resolver.clone()).map_err(io("start the apply thread"))?;
    let outgoing = Outgoing::new(apply.clone(), &dirs.checkpoints, config.limits.checkpoint_bytes_per_second)
        .map_err(io("prepare the checkpoint directory"))?;
    let incoming = Incoming::new(&dirs.checkpoints).map_err(io("prepare the checkpoint directory"))?;
    let transport = Transport::new(config.tls.peer_tls, peer_tls);
    let local = Arc::new(Local::new(identity.node_id(), identity.cluster_id(), transport));
    let (outgoing, tasks) = (Arc::new(outgoing), TaskTracker::new());
    let network = NetworkFactory::new(local.clone(), outgoing.clone(), tasks.clone());
    let (clocks, told) = (network.clocks.clone(), network.told.clone());
    let election_timeout = ElectionTimeout::new(&config.timing, local.node_id, network.answers.clone());
    let log_store = LogStore::new(log.clone(), recovered.committed, told.clone(), tasks.clone());
    let state_machine = StateMachine::new(apply.clone(), store.clone(), position);
    let raft_config = raft_config(&config, doubt.is_open())?;
    let raft = new_raft(local.node_id, raft_config, network, log_store, state_machine).await?;
    let core = Arc::new(Core {
        config,
        local,
        identity,
        doubt,
        divergence,
        renewed: CancellationToken::new(),
        addr: addresses.addr,
        peer_addr: addresses.peer_addr,
        raft,
        store,
        log,
        apply,
        resolver,
        clocks,
        outgoing,
        incoming: Arc::new(incoming),
        told,
        confirm: Confirm::new(),
        leader: watch::Sender::new(LeaderView::default()),
        members: ArcSwap::default(),
        committed_at_start: recovered.committed,
        disk: Disk::default(),
        heard: Contact::default(),
        election_timeout,
        counters: Counters::default(),
        tasks,
        shutdown,
        stop_proposer: CancellationToken::new(),
        hold_proposals: watch::Sender::new(false),
        in_flight: watch::Sender::new(0),
        log_time_ms: AtomicU64::new(0),
        messages: Messages::default(),
        remote: LeaderClient::default(),
        started: clock::monotonic(),
        no_lease_until: ArcSwapOption::default(),
        transfer: tokio::sync::Mutex::new(()),
        change: tokio::sync::Mutex::new(()),
    });
    serve(core, peer_listener).await
}

fn io(doing: &str) -> impl FnOnce(std::io::Error) -> StartError + use<> {
    let doing = doing.to_owned();
    move |error| StartError::Io { doing, error }
}

async fn new_raft(
    node_id: u64,
    config: openraft::Config,
    network: NetworkFactory,
    log_store: LogStore,
    state_machine: StateMachine,
) -> Result<Raft, StartError> {
    let raft = Raft::new(node_id, Arc::new(config), network, log_store, state_machine).await;
    raft.map_err(|error| StartError::Raft(error.to_string()))
}

/// Starts the tasks, then lets the node form or join a cluster.
async fn serve(core: Arc<Core>, peer_listener: TcpListener) -> Result<Group, StartError> {
    core.suspend_lease();
    housekeeping::note_free_bytes(&core);
    let (campaign, keep) = (doubt::wait_to_campaign(core.clone()), election_timeout::keep(core.clone()));
    let stop = core.shutdown.clone();
    core.tasks.spawn(async move {
        let elect = async move {
            campaign.await;
            keep.await;
        };
        let _ = stop.run_until_cancelled(elect).await;
    });
    core.tasks.spawn(doubt::settle(core.clone()));
    core.tasks.spawn(divergence::compare(core.clone()));
    // Before the first caller is asked who it is.
    housekeeping::note_members(&core).await.map_err(StartError::Raft)?;
    core.tasks.spawn(service::serve(core.clone(), peer_listener));
    core.tasks.spawn(housekeeping::follow_leader(core.clone()));
    core.tasks.spawn(housekeeping::keep_house(core.clone()));
    core.tasks.spawn(members::promotion_loop(core.clone()));
    core.tasks.spawn(joining::refresh_address(core.clone()));
    let proposer = Proposer::spawn(&core);
    core.tasks.spawn(sweep::sweep(core.clone(), proposer.clone()));
    let group = Group { proposer, reader: Reader::spawn(&core), core };
    form(&group.core).await?;
    Ok(group)
}

struct Dirs {
    log: PathBuf,
    state: PathBuf,
    checkpoints: PathBuf,
}

impl Dirs {
    fn new(config: &Config) -> Self {
        let group = format!("group-{GROUP}");
        Self {
            log: config.log_dir.join(&group).join("log"),
            state: config.data.join(&group).join("state"),
            checkpoints: config.data.join(&group).join("checkpoints"),
        }
    }

    /// Removes what a restore that did not finish left behind. Only for a node without a cluster.
    fn wipe(&self) -> Result<(), StartError> {
        for dir in [&self.log, &self.state, &self.checkpoints] {
            let doing = format!("empty {}", dir.display());
            fs::remove_dir_all(dir).map_err(|error| StartError::Io { doing, error })?;
            #[cfg(feature = "sim")]
            crate::sim::forget(dir);
            crash_point!("wipe-directory-removed");
        }
        self.create()
    }

    fn create(&self) -> Result<(), StartError> {
        for dir in [&self.log, &self.state, &self.checkpoints] {
            let doing = || format!("create {}", dir.display());
            fs::create_dir_all(dir).map_err(|error| StartError::Io { doing: doing(), error })?;
            // What is synced in a directory is safe only if the directory itself is: its name, and that of its parent.
            for above in dir.ancestors().skip(1).take(2) {
                let synced = fs::File::open(above).and_then(|above| above.sync_all());
                synced.map_err(|error| StartError::Io { doing: doing(), error })?;
            }
        }
        Ok(())
    }
}

fn log_options(config: &Config, dirs: &Dirs) -> LogOptions {
    LogOptions {
        dir: dirs.log.clone(),
        group: GROUP,
        segment_bytes: config.limits.log_segment_bytes,
        cache_bytes: config.limits.log_cache_bytes,
        queue_bytes_max: config.limits.queue_bytes_max,
        durability: config.durability,
    }
}

fn store_options(config: &Config) -> StoreOptions {
    StoreOptions {
        databases: config.databases,
        memtable_bytes: config.limits.memtable_bytes,
        block_cache_bytes: config.limits.block_cache_bytes,
        value_cache_bytes: config.limits.value_cache_bytes,
    }
}

/// Log and state of the directory, and whether they may have lost something.
struct Opened {
    log: Arc<RaftLog>,
    recovered: Recovered,
    store: Arc<Store>,
    applier: Applier,
    doubt: Doubt,
}

/// Opens what there is. That a life begins is written down before anything is that is not synced at once.
fn open(config: &Config, identity: &Identity, dirs: &Dirs, restoring: bool) -> Result<Opened, StartError> {
    if restoring && identity.cluster_id().is_none() {
        dirs.wipe()?;
    }
    if identity.rejoin().is_some_and(|rejoin| rejoin.wipe) {
        dirs.wipe()?;
        identity.wiped()?;
    }
    let (log, recovered) = RaftLog::open(log_options(config, dirs))?;
    let (store, applier) = Store::open(&dirs.state, store_options(config))?;
    let found = Found {
        clean: recovered.clean,
        empty: recovered.last.is_none() && recovered.vote.is_none() && applier.position().0.is_none(),
        last: recovered.last,
    };
    let life = Life::begin(&config.data, &dirs.log, identity.node_id(), config.durability, found)?;
    Ok(Opened { log, recovered, store, applier, doubt: Doubt::new(life) })
}

fn raft_config(config: &Config, in_doubt: bool) -> Result<openraft::Config, StartError> {
    let timing = &config.timing;
    let millis = |duration: std::time::Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    let raft = openraft::Config {
        cluster_name: "kvnode".into(),
        heartbeat_interval: millis(timing.heartbeat),
        election_timeout_min: millis(timing.election_timeout_min),
        election_timeout_max: millis(timing.election_timeout_max),
        // We decide ourselves when the state is durable and the log purged (`housekeeping`).
        snapshot_policy: SnapshotPolicy::Never,
        max_in_snapshot_log_to_keep: u64::MAX,
        // A follower is caught up by the log as long as the log is there.
        replication_lag_threshold: u64::MAX,
        max_payload_entries: 512,
        install_snapshot_timeout: 3_600_000,
        enable_pre_vote: Some(!planted!("lease-not-honoured")),
        enable_elect: !in_doubt,
        // A leader commits by its followers' disks while its own write is still on the way. Restarted into the same
        // term it could number new entries like committed ones that it lost, so it must win an election first.
        enable_leader_restore: Some(planted!("leader-restored")),
        backoff: "50ms".into(),
        ..openraft::Config::default()
    };
    raft.validate().map_err(|error| StartError::Timing(error.to_string()))
}

/// Decides what an unformed node does.
async fn form(core: &Arc<Core>) -> Result<(), StartError> {
    if core.identity.founding() {
        let id = core.identity.cluster_id();
        return found(core, id).await.map(|_| ()).map_err(|error| StartError::Raft(error.to_string()));
    }
    if let Some(rejoin) = core.identity.rejoin() {
        core.tasks.spawn(joining::rejoin_loop(core.clone(), rejoin));
        return Ok(());
    }
    if !core.config.join.is_empty() {
        if core.identity.cluster_id().is_none() {
            core.identity.set_joining()?;
        }
        core.tasks.spawn(joining::join_loop(core.clone(), core.config.join.clone()));
        return Ok(());
    }
    if core.identity.cluster_id().is_some() {
        return Ok(());
    }
    if core.identity.joining() {
        tracing::warn!(
            "this node was told to join a cluster and was never admitted; it waits, start it with --join"
        );
        return Ok(());
    }
    match core.config.formation {
        Formation::Auto => {
            let id = found(core, None).await.map_err(|error| StartError::Raft(error.to_string()))?;
            tracing::info!(cluster_id = %id_text(id), "founded a one-node cluster");
        }
        Formation::Wait => {
            tracing::info!("not part of a cluster; waiting to be told over the admin API or RAFTADDPEER");
        }
    }
    Ok(())
}

/// See `Group::found`.
pub(super) async fn found(core: &Arc<Core>, cluster_id: Option<u64>) -> Result<u64, MemberError> {
    let refused = |error: IdentityError| MemberError::Refused(error.to_string());
    let _one_at_a_time = core.change.lock().await;
    if core.identity.joining() && core.identity.cluster_id().is_none() {
        return Err(MemberError::Refused("this node was told to join a cluster; it never founds one".into()));
    }
    let own = core.identity.cluster_id();
    if let Some(own) = own
        && !core.identity.founding()
    {
        if cluster_id.is_some_and(|asked| asked != own) {
            return Err(MemberError::Refused(format!("this node belongs to cluster {}", id_text(own))));
        }
        return Ok(own);
    }
    let id = cluster_id.or(own).unwrap_or_else(|| rand::random_range(1..=u64::MAX));
    core.identity.adopt(id, true).map_err(refused)?;
    core.local.set_cluster_id(id);
    crash_point!("founding-noted-not-begun");
    let node = Node { addr: core.addr.clone(), peer_addr: core.peer_addr.clone(), wants_vote: true };
    match core.raft.initialize(BTreeMap::from([(core.local.node_id, node)])).await {
        // "Not allowed" means that the log has entries: an earlier attempt got this far.
        Ok(()) | Err(RaftError::APIError(InitializeError::NotAllowed(_))) => {}
        Err(error) => return Err(MemberError::Unknown(error.to_string())),
    }
    crash_point!("founded-not-noted");
    core.identity.founded().map_err(refused)?;
    Ok(id)
}
