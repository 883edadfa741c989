//! The load generator for RESP: closed loop, one task per connection, pipelined, latencies in a histogram.

use std::ops::Range;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use hdrhistogram::Histogram;
use kvnode_tests::resp;
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::cells::{Cell, Operation, key};

/// What one run of a cell gave.
pub(crate) struct Measured {
    /// Requests answered.
    pub(crate) requests: u64,
    /// Requests refused under load; not among the answered ones.
    pub(crate) refused: u64,
    /// Time it took.
    pub(crate) elapsed: Duration,
    /// Microseconds per pipeline.
    pub(crate) latency_us: Histogram<u64>,
}

impl Measured {
    /// Nothing yet.
    pub(crate) fn empty() -> Self {
        Self { requests: 0, refused: 0, elapsed: Duration::ZERO, latency_us: histogram() }
    }
}

/// An empty histogram up to a minute.
pub(crate) fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 60_000_000, 3).expect("the bounds are in order")
}

/// Lets this program and what it starts open as many files as the machine allows: a connection is one at each end.
pub(crate) fn raise_open_files() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    // Without it only cells with very many clients fail, and say so.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
}

/// Runs a cell for `time`.
pub(crate) async fn run(addr: &str, cell: Cell, keys: usize, time: Duration) -> Result<Measured> {
    let mut streams = Vec::new();
    for _ in 0..cell.clients {
        let stream = TcpStream::connect(addr).await.with_context(|| addr.to_owned())?;
        stream.set_nodelay(true)?;
        streams.push(stream);
    }
    let start = Instant::now();
    let end = start + time;
    let mut clients = JoinSet::new();
    for (seed, stream) in streams.into_iter().enumerate() {
        clients.spawn(client(stream, cell, keys, end, seed as u64));
    }
    let mut measured = Measured::empty();
    while let Some(done) = clients.join_next().await {
        let (requests, latency_us) = done??;
        measured.requests += requests;
        measured.latency_us.add(latency_us)?;
    }
    measured.elapsed = start.elapsed();
    Ok(measured)
}

async fn client(
    mut stream: TcpStream,
    cell: Cell,
    keys: usize,
    end: Instant,
    seed: u64,
) -> Result<(u64, Histogram<u64>)> {
    let mut random = SmallRng::seed_from_u64(seed);
    let mut latency_us = histogram();
    let value = "v".repeat(cell.value_bytes);
    let (mut out, mut input) = (Vec::new(), Vec::with_capacity(64 * 1024));
    let mut requests = 0;
    while Instant::now() < end {
        out.clear();
        for _ in 0..cell.pipeline {
            let key = key(random.random_range(0..keys));
            match cell.operation {
                Operation::Set => resp::encode(&["SET", &key, &value], &mut out),
                Operation::Get => resp::encode(&["GET", &key], &mut out),
            }
        }
        let start = Instant::now();
        stream.write_all(&out).await?;
        receive(&mut stream, &mut input, cell.pipeline).await?;
        latency_us.saturating_record(u64::try_from(start.elapsed().as_micros()).unwrap_or(u64::MAX));
        requests += cell.pipeline as u64;
    }
    Ok((requests, latency_us))
}

/// Takes `count` replies; any error reply ends the benchmark.
pub(crate) async fn receive(stream: &mut TcpStream, input: &mut Vec<u8>, count: usize) -> Result<()> {
    let (mut left, mut at) = (count, 0);
    input.clear();
    while left > 0 {
        while left > 0 {
            match reply_length(&input[at..])? {
                Some(length) => {
                    at += length;
                    left -= 1;
                }
                None => break,
            }
        }
        if left > 0 && stream.read_buf(input).await? == 0 {
            bail!("closed by the server");
        }
    }
    Ok(())
}

/// Length of the simple or bulk reply at the start of `input`, `None` if it is not whole yet.
fn reply_length(input: &[u8]) -> Result<Option<usize>> {
    let Some(end) = input.iter().position(|&byte| byte == b'\n') else { return Ok(None) };
    match input[0] {
        b'+' | b':' | b'_' => Ok(Some(end + 1)),
        b'$' => {
            let length: i64 = std::str::from_utf8(&input[1..end])?.trim().parse()?;
            let whole = usize::try_from(length).map_or(end + 1, |length| end + 1 + length + 2);
            Ok((input.len() >= whole).then_some(whole))
        }
        _ => bail!("unexpected reply: {}", input[..=end].escape_ascii()),
    }
}

/// Loads these keys with values of this size, as fast as it goes.
pub(crate) async fn preload(addr: &str, keys: Range<usize>, value_bytes: usize) -> Result<()> {
    // A batch is about as large as a buffer of the kernel, so that neither side waits for the other with a full one.
    let batch = (256 * 1024 / (value_bytes + 64)).clamp(1, 1000);
    let mut stream = TcpStream::connect(addr).await?;
    let value = "v".repeat(value_bytes);
    let mut input = Vec::new();
    for first in keys.clone().step_by(batch) {
        let mut out = Vec::new();
        let last = keys.end.min(first + batch);
        for number in first..last {
            resp::encode(&["SET", &key(number), &value], &mut out);
        }
        stream.write_all(&out).await?;
        receive(&mut stream, &mut input, last - first).await?;
    }
    Ok(())
}
