//! The same load for etcd: gRPC over HTTP/2 by hand, two messages of its `KV` service, nothing generated.
//!
//! `PutRequest { key = 1: bytes, value = 2: bytes }`, `RangeRequest { key = 1: bytes }` (etcd's rpc.proto). Calls that etcd refuses
//! are counted apart, not as requests served.

use std::fs::File;
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
    addrs: Vec<String>,
    dir: TempDir,
}

impl Etcd {
    /// Starts `count` members with the defaults.
    pub(crate) fn start(count: usize) -> Result<Self> {
        let program = tool::find("etcd").context("etcd is not installed")?;
        let dir = tempfile::tempdir()?;
        let mut peers = Vec::new();
        let mut addrs = Vec::new();
        for _ in 0..count {
            peers.push(free_address()?);
            addrs.push(free_address()?);
        }
        let cluster: Vec<String> =
            peers.iter().enumerate().map(|(n, peer)| format!("m{n}=http://{peer}")).collect();
        let mut etcd = Self { children: Vec::new(), addrs, dir };
        for (n, peer) in peers.iter().enumerate() {
            let name = format!("m{n}");
            let (client_url, peer_url) = (format!("http://{}", etcd.addrs[n]), format!("http://{peer}"));
            let mut command = Command::new(&program);
            command.args(["--name", &name, "--data-dir"]).arg(etcd.dir.path().join(&name));
            command.args(["--listen-client-urls", &client_url, "--advertise-client-urls", &client_url]);
            command.args(["--listen-peer-urls", &peer_url, "--initial-advertise-peer-urls", &peer_url]);
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
            etcd.children.push(command.spawn()?);
        }
        Ok(etcd)
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
    let mut drivers = JoinSet::new();
    let mut senders = Vec::new();
    for _ in 0..cell.clients {
        senders.push(connect(addr, &mut drivers).await?);
    }
    let start = Instant::now();
    let end = start + time;
    let mut clients = JoinSet::new();
    for (seed, sender) in senders.into_iter().enumerate() {
        for stream in 0..cell.pipeline {
            let seed = (seed * cell.pipeline + stream) as u64;
            clients.spawn(client(sender.clone(), addr.to_owned(), cell, keys, end, seed));
        }
    }
    let mut measured = Measured { requests: 0, refused: 0, elapsed: Duration::ZERO, latency_us: histogram() };
    while let Some(done) = clients.join_next().await {
        let (requests, refused, latency_us) = done??;
        measured.requests += requests;
        measured.refused += refused;
        measured.latency_us.add(latency_us)?;
    }
    measured.elapsed = start.elapsed();
    Ok(measured)
}

/// Loads all keys with values of this size.
pub(crate) async fn preload(addr: &str, keys: usize, value_bytes: usize) -> Result<()> {
    const STREAMS: usize = 100;
    let mut drivers = JoinSet::new();
    let sender = connect(addr, &mut drivers).await?;
    let mut loaders = JoinSet::new();
    for first in 0..STREAMS {
        let (mut sender, addr) = (sender.clone(), addr.to_owned());
        loaders.spawn(async move {
            for number in (first..keys).step_by(STREAMS) {
                let served =
                    call(&mut sender, &addr, "Put", message(&key(number), Some(&"v".repeat(value_bytes))))
                        .await?;
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

async fn connect(addr: &str, drivers: &mut JoinSet<()>) -> Result<SendRequest<Bytes>> {
    let stream = TcpStream::connect(addr).await?;
    stream.set_nodelay(true)?;
    let (sender, connection) = h2::client::Builder::new()
        .initial_window_size(1 << 20)
        .initial_connection_window_size(1 << 22)
        .handshake(stream)
        .await?;
    drivers.spawn(async move {
        // Its end is seen by the calls that it carried.
        let _ = connection.await;
    });
    Ok(sender)
}

async fn client(
    mut sender: SendRequest<Bytes>,
    addr: String,
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
        let served = match cell.operation {
            Operation::Set => call(&mut sender, &addr, "Put", message(&key, Some(&value))).await?,
            Operation::Get => call(&mut sender, &addr, "Range", message(&key, None)).await?,
        };
        if !served {
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
