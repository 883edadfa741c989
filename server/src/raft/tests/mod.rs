//! Whole groups in this process: real sockets on loopback, real `RocksDB` in temporary directories.

mod cluster;
mod divergence;
mod membership;
mod reading;
mod suite;

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::group::{Group, Role};
use super::start::{Addresses, start};
use crate::config::{Config, Consistency, Formation, Limits};
use crate::store::{Answer, Op, Outcome, Query};

const WAIT: Duration = Duration::from_secs(30);
const LOOK_AGAIN: Duration = Duration::from_millis(5);

/// Waits until the condition holds.
async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let mut look = tokio::time::interval(LOOK_AGAIN);
    let all = async {
        while !holds() {
            look.tick().await;
        }
    };
    assert!(tokio::time::timeout(WAIT, all).await.is_ok(), "never: {what}");
}

async fn listen(at: Option<SocketAddr>) -> TcpListener {
    let at = at.unwrap_or_else(|| SocketAddr::from(([127, 0, 0, 1], 0)));
    TcpListener::bind(at).await.expect("bind")
}

fn config(dir: &Path) -> Config {
    Config {
        data: dir.to_owned(),
        log_dir: dir.to_owned(),
        formation: Formation::Wait,
        limits: Limits {
            memtable_bytes: 1 << 20,
            block_cache_bytes: 8 << 20,
            log_segment_bytes: 64 << 10,
            disk_reserve_bytes: 0,
            ..Limits::default()
        },
        ..Config::default()
    }
}

/// A group with what the node around it would do: answer `RAFTIDENTITY` at its client address.
struct TestNode {
    group: Group,
    clients: SocketAddr,
    peers: SocketAddr,
    dir: Arc<TempDir>,
    tasks: JoinSet<()>,
}

/// Where a stopped node was, to start it again.
struct Stopped {
    clients: SocketAddr,
    peers: SocketAddr,
    dir: Arc<TempDir>,
}

impl TestNode {
    async fn fresh() -> Self {
        Self::open(Arc::new(TempDir::new().expect("a directory")), None, None).await
    }

    async fn open(dir: Arc<TempDir>, clients: Option<SocketAddr>, peers: Option<SocketAddr>) -> Self {
        let config = config(dir.path());
        Self::open_as(config, dir, clients, peers).await
    }

    async fn open_as(
        config: Config,
        dir: Arc<TempDir>,
        clients: Option<SocketAddr>,
        peers: Option<SocketAddr>,
    ) -> Self {
        let (clients, peers) = (listen(clients).await, listen(peers).await);
        let (addr, peer_addr) = (clients.local_addr().expect("bound"), peers.local_addr().expect("bound"));
        let addresses = Addresses { addr: addr.to_string(), peer_addr: peer_addr.to_string() };
        let group = start(Arc::new(config), addresses, peers, None, None, CancellationToken::new())
            .await
            .expect("starts");
        let mut tasks = JoinSet::new();
        tasks.spawn(introduce(clients, group.clone()));
        Self { group, clients: addr, peers: peer_addr, dir, tasks }
    }

    /// Stops it and waits until its files are closed.
    async fn stop(mut self) -> Stopped {
        self.tasks.shutdown().await;
        self.group.shutdown().await.expect("stops");
        let store = Arc::downgrade(self.group.store());
        drop(self.group);
        eventually("the state is closed", || store.strong_count() == 0).await;
        Stopped { clients: self.clients, peers: self.peers, dir: self.dir }
    }

    fn is_leader(&self) -> bool {
        self.group.status().role == Role::Leader
    }

    async fn set(&self, key: &str, value: u64) {
        let outcomes = self.group.propose(vec![set(key, value)]).await.expect("applied");
        assert_eq!(outcomes, [Outcome::Ok]);
    }

    /// Reads behind a barrier.
    async fn get(&self, key: &str) -> Option<u64> {
        self.group.read_barrier(Consistency::High).await.expect("confirmed");
        let query = Query::Get { db: 0, key: Bytes::copy_from_slice(key.as_bytes()) };
        match self.group.store().query(&query).expect("readable") {
            Answer::Value(value) => {
                value.map(|value| String::from_utf8_lossy(&value).parse().expect("a number"))
            }
            other => panic!("{other:?}"),
        }
    }

    fn digest(&self) -> u128 {
        self.group.store().stats(0).digest
    }
}

impl Stopped {
    async fn start(self) -> TestNode {
        TestNode::open(self.dir, Some(self.clients), Some(self.peers)).await
    }

    /// Starts it so that it does not campaign while a test runs.
    async fn start_quiet(self) -> TestNode {
        let mut config = config(self.dir.path());
        config.timing.election_timeout_min = WAIT * 4;
        config.timing.election_timeout_max = WAIT * 8;
        TestNode::open_as(config, self.dir, Some(self.clients), Some(self.peers)).await
    }
}

fn set(key: &str, value: u64) -> Op {
    Op::Set {
        db: 0,
        key: Bytes::copy_from_slice(key.as_bytes()),
        value: value.to_string().into(),
        deadline: None,
    }
}

async fn introduce(listener: TcpListener, group: Group) {
    loop {
        let (mut stream, _) = listener.accept().await.expect("accepts");
        let mut request = [0; 256];
        if stream.read(&mut request).await.is_err() {
            continue;
        }
        let cluster_id = group.cluster_id().map(|id| format!("{id:016x}")).unwrap_or_default();
        let node_id = format!("{:016x}", group.node_id());
        let fields = ["node_id", &node_id, "cluster_id", &cluster_id, "peer_addr", group.peer_addr()];
        let mut answer = format!("*{}\r\n", fields.len());
        for field in fields {
            answer.extend(["$", &field.len().to_string(), "\r\n", field, "\r\n"]);
        }
        // Whoever asked may be gone.
        let _ = stream.write_all(answer.as_bytes()).await;
    }
}

/// `n` voters.
async fn cluster(n: usize) -> Vec<TestNode> {
    let mut nodes = vec![TestNode::fresh().await];
    nodes[0].group.found(None).await.expect("founded");
    while nodes.len() < n {
        let node = TestNode::fresh().await;
        nodes[0].group.add_peer(node.clients.to_string(), true, None).await.expect("added");
        nodes.push(node);
    }
    settled(&nodes).await;
    nodes
}

/// Waits until the members are just these nodes, all voters, and all know it and the same leader.
async fn settled(nodes: &[TestNode]) {
    let knows = |node: &TestNode| {
        let status = node.group.status();
        status.members.len() == nodes.len()
            && status.members.iter().all(|member| member.voter)
            && nodes.iter().all(|other| status.members.iter().any(|m| m.id == other.group.node_id()))
            && !status.change_in_progress
    };
    eventually("all nodes are voters and know it", || nodes.iter().all(knows)).await;
    leader(nodes).await;
}

/// The node that leads, once all agree.
async fn leader(nodes: &[TestNode]) -> usize {
    let led = || {
        let at = nodes.iter().position(TestNode::is_leader)?;
        let id = Some(nodes[at].group.node_id());
        nodes.iter().all(|node| node.group.leader().map(|leader| leader.id) == id).then_some(at)
    };
    eventually("all agree on a leader", || led().is_some()).await;
    led().unwrap_or_else(|| nodes.iter().position(TestNode::is_leader).expect("a leader"))
}

/// Waits until all have applied the same, and compares the content.
async fn same_content(nodes: &[TestNode]) {
    for node in nodes {
        node.group.read_barrier(Consistency::High).await.expect("confirmed");
    }
    let applied = nodes.iter().filter_map(|node| node.group.store().applied()).max();
    eventually("all have applied the same", || nodes.iter().all(|n| n.group.store().applied() >= applied))
        .await;
    let digests: Vec<_> = nodes.iter().map(TestNode::digest).collect();
    assert!(digests.iter().all(|digest| *digest == digests[0]), "{digests:?}");
    assert_ne!(digests[0], 0);
}
