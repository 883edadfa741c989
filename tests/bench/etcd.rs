//! The same load for etcd: gRPC over HTTP/2 by hand, two messages of its `KV` service, nothing generated.
//!
//! `PutRequest { key = 1: bytes, value = 2: bytes }`, `RangeRequest { key = 1: bytes }` (etcd's rpc.proto). Calls that
//! etcd refuses are counted apart, not as requests served. `KVNODE_ETCD_BIN` names an etcd that is not on the path.

use std::fs::File;
use std::ops::Range;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use bytes::{BufMut, Bytes, BytesMut};
use h2::client::SendRequest;
use hdrhistogram::Histogram;
use kvnode_tests::http as plain;
use kvnode_tests::reference::free_address;
use kvnode_tests::tool;
use kvnode_tests::wait::{SOON, eventually};
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use rustix::process::Pid;
use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::cells::{Cell, Operation, key};
use crate::load::{Measured, histogram};

/// A running etcd cluster; killed on drop.
pub(crate) struct Etcd {
    children: Vec<Child>,
    commands: Vec<Command>,
    addrs: Vec<String>,
    dir: TempDir,
}

/// The program, if there is one.
pub(crate) fn program() -> Option<PathBuf> {
    let named = std::env::var_os("KVNODE_ETCD_BIN").filter(|path| !path.is_empty());
    named.map(PathBuf::from).or_else(|| tool::find("etcd"))
}

impl Etcd {
    /// Starts `count` members with the defaults.
    pub(crate) fn start(count: usize) -> Result<Self> {
        let peers: Vec<String> = (0..count).map(|_| free_address()).collect::<Result<_>>()?;
        Self::start_behind(&peers, &peers)
    }

    /// Starts members that listen for their peers at some addresses and are known to them by others.
    pub(crate) fn start_behind(peers: &[String], known_as: &[String]) -> Result<Self> {
        let program = program().context("etcd is not installed")?;
        let dir = tempfile::tempdir()?;
        let addrs = peers.iter().map(|_| free_address()).collect::<Result<_>>()?;
        let cluster: Vec<String> =
            known_as.iter().enumerate().map(|(n, peer)| format!("m{n}=http://{peer}")).collect();
        let mut etcd = Self { children: Vec::new(), commands: Vec::new(), addrs, dir };
        for (n, (peer, known_as)) in peers.iter().zip(known_as).enumerate() {
            let name = format!("m{n}");
            let client_url = format!("http://{}", etcd.addrs[n]);
            let (peer_url, known_url) = (format!("http://{peer}"), format!("http://{known_as}"));
            let mut command = Command::new(&program);
            command.args(["--name", &name, "--data-dir"]).arg(etcd.dir.path().join(&name));
            command.args(["--listen-client-urls", &client_url, "--advertise-client-urls", &client_url]);
            command.args(["--listen-peer-urls", &peer_url, "--initial-advertise-peer-urls", &known_url]);
            command.args([
                "--initial-cluster",
                &cluster.join(","),
                "--logger",
                "zap",
                "--log-level",
                "error",
            ]);
            let log = File::create(etcd.dir.path().join(format!("{name}.log")))?;
            command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
            etcd.children.push(command.spawn().with_context(|| format!("start {}", program.display()))?);
            etcd.commands.push(command);
        }
        Ok(etcd)
    }

    /// kill -9 of all members and a start over the same files, until a linearizable read answers.
    pub(crate) async fn kill_and_restart_all(&mut self) -> Result<()> {
        for child in &mut self.children {
            child.kill()?;
            child.wait()?;
        }
        for (child, command) in self.children.iter_mut().zip(&mut self.commands) {
            *child = command.spawn()?;
        }
        let leader = self.leader().await?;
        let served = eventually("etcd answers a read", SOON, async || {
            let mut caller = Caller::connect(&leader).await?;
            Ok(caller.call(Operation::Get, &key(0), "").await?.then_some(()))
        });
        served.await
    }

    /// Client address of the leader.
    pub(crate) async fn leader(&self) -> Result<String> {
        eventually("etcd has a leader", SOON, async || {
            for addr in &self.addrs {
                let status =
                    plain::post(addr, "/v3/maintenance/status", &serde_json::json!({})).await?.json()?;
                let leader = status["leader"].as_str().unwrap_or("0");
                if leader != "0" && status["header"]["member_id"].as_str() == Some(leader) {
                    return Ok(Some(addr.clone()));
                }
            }
            Ok(None)
        })
        .await
    }

    /// Process ids of all members.
    pub(crate) fn pids(&self) -> Result<Vec<Pid>> {
        let pid = |child: &Child| Pid::from_raw(i32::try_from(child.id())?).context("process id 0");
        self.children.iter().map(pid).collect()
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        for child in &mut self.children {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Runs a cell for `time`.
pub(crate) async fn run(addr: &str, cell: Cell, keys: usize, time: Duration) -> Result<Measured> {
    let mut callers = Vec::new();
    for _ in 0..cell.clients {
        callers.push(Caller::connect(addr).await?);
    }
    let start = Instant::now();
    let end = start + time;
    let mut clients = JoinSet::new();
    for (seed, caller) in callers.iter().enumerate() {
        for stream in 0..cell.pipeline {
            let seed = (seed * cell.pipeline + stream) as u64;
            clients.spawn(client(caller.stream(), cell, keys, end, seed));
        }
    }
    let mut measured = Measured::empty();
    while let Some(done) = clients.join_next().await {
        let (requests, refused, latency_us) = done??;
        measured.requests += requests;
        measured.refused += refused;
        measured.latency_us.add(latency_us)?;
    }
    measured.elapsed = start.elapsed();
    Ok(measured)
}

/// Loads these keys with values of this size.
pub(crate) async fn preload(addr: &str, keys: Range<usize>, value_bytes: usize) -> Result<()> {
    const STREAMS: usize = 100;
    let caller = Caller::connect(addr).await?;
    let mut loaders = JoinSet::new();
    for first in 0..STREAMS {
        let (mut stream, keys) = (caller.stream(), keys.clone());
        loaders.spawn(async move {
            let value = "v".repeat(value_bytes);
            for number in (keys.start + first..keys.end).step_by(STREAMS) {
                let served = stream.call(Operation::Set, &key(number), &value).await?;
                ensure!(served, "a key could not be loaded");
            }
            Ok::<(), anyhow::Error>(())
        });
    }
    while let Some(done) = loaders.join_next().await {
        done??;
    }
    Ok(())
}

/// A connection, and the task that drives it.
pub(crate) struct Caller {
    stream: Stream,
    _driver: JoinSet<()>,
}

/// One stream of calls on a connection that somebody keeps.
#[derive(Clone)]
struct Stream {
    sender: SendRequest<Bytes>,
    addr: String,
}

impl Caller {
    /// Connects.
    pub(crate) async fn connect(addr: &str) -> Result<Self> {
        let stream = TcpStream::connect(addr).await.with_context(|| addr.to_owned())?;
        stream.set_nodelay(true)?;
        let (sender, connection) = h2::client::Builder::new()
            .initial_window_size(1 << 20)
            .initial_connection_window_size(1 << 22)
            .handshake(stream)
            .await?;
        let mut driver = JoinSet::new();
        driver.spawn(async move {
            // Its end is seen by the calls that it carried.
            let _ = connection.await;
        });
        Ok(Self { stream: Stream { sender, addr: addr.to_owned() }, _driver: driver })
    }

    /// One request; false if etcd refused it.
    pub(crate) async fn call(&mut self, operation: Operation, key: &str, value: &str) -> Result<bool> {
        self.stream.call(operation, key, value).await
    }

    fn stream(&self) -> Stream {
        self.stream.clone()
    }
}

impl Stream {
    async fn call(&mut self, operation: Operation, key: &str, value: &str) -> Result<bool> {
        let (method, body) = match operation {
            Operation::Set => ("Put", message(key, Some(value))),
            Operation::Get => ("Range", message(key, None)),
        };
        call(&mut self.sender, &self.addr, method, body).await
    }
}

async fn client(
    mut stream: Stream,
    cell: Cell,
    keys: usize,
    end: Instant,
    seed: u64,
) -> Result<(u64, u64, Histogram<u64>)> {
    let mut random = SmallRng::seed_from_u64(seed);
    let mut latency_us = histogram();
    let value = "v".repeat(cell.value_bytes);
    let (mut requests, mut refused) = (0, 0);
    while Instant::now() < end {
        let key = key(random.random_range(0..keys));
        let start = Instant::now();
        if !stream.call(cell.operation, &key, &value).await? {
            refused += 1;
            continue;
        }
        latency_us.saturating_record(u64::try_from(start.elapsed().as_micros()).unwrap_or(u64::MAX));
        requests += 1;
    }
    Ok((requests, refused, latency_us))
}

/// One unary call; false if etcd refused it (it does so under more load than it takes).
async fn call(sender: &mut SendRequest<Bytes>, addr: &str, method: &str, body: Bytes) -> Result<bool> {
    let mut ready = sender.clone().ready().await?;
    let request = http::Request::post(format!("http://{addr}/etcdserverpb.KV/{method}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(())?;
    let (response, mut stream) = ready.send_request(request, false)?;
    stream.send_data(body, true)?;
    let response = response.await?;
    // An error may come as a head alone, which is its trailers then.
    let mut status = response.headers().get("grpc-status").cloned();
    let mut body = response.into_body();
    while let Some(chunk) = body.data().await {
        let length = chunk?.len();
        body.flow_control().release_capacity(length)?;
    }
    if let Some(trailers) = body.trailers().await? {
        status = trailers.get("grpc-status").cloned();
    }
    Ok(status.context("a gRPC reply has a status")?.as_bytes() == b"0")
}

/// A gRPC frame around the protobuf message of two byte fields.
fn message(key: &str, value: Option<&str>) -> Bytes {
    let mut body = BytesMut::new();
    for (tag, field) in [(0x0a_u8, Some(key)), (0x12, value)] {
        if let Some(field) = field {
            body.put_u8(tag);
            let mut length = field.len();
            while length >= 0x80 {
                body.put_u8(u8::try_from(length & 0x7f).unwrap_or(0) | 0x80);
                length >>= 7;
            }
            body.put_u8(u8::try_from(length).unwrap_or(0));
            body.put_slice(field.as_bytes());
        }
    }
    let mut frame = BytesMut::new();
    frame.put_u8(0);
    frame.put_u32(u32::try_from(body.len()).unwrap_or(u32::MAX));
    frame.put_slice(&body);
    frame.freeze()
}
