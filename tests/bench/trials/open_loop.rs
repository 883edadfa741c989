//! An open-loop generator: writes are due at fixed times, and their latency counts from then, whatever the server does.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::Result;
use hdrhistogram::Histogram;
use kvnode_tests::resp;
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use super::PEAK;
use crate::cells::key;
use crate::load;

/// How long to write.
pub(super) trait Until {
    async fn end(self) -> Result<()>;
}

/// For a time.
pub(super) struct For(pub(super) Duration);

/// Until this has ended.
pub(super) struct While<F>(pub(super) F);

impl Until for For {
    async fn end(self) -> Result<()> {
        let _ = tokio::time::timeout(self.0, std::future::pending::<()>()).await;
        Ok(())
    }
}

impl<F: Future<Output = Result<()>>> Until for While<F> {
    async fn end(self) -> Result<()> {
        self.0.await
    }
}

/// Latencies in microseconds of SETs at `rate` a second over as many connections as the peak was measured with.
pub(super) async fn run(addr: &str, rate: f64, keys: usize, until: impl Until) -> Result<Histogram<u64>> {
    let stop = Arc::new(AtomicBool::new(false));
    let clients = u32::try_from(PEAK.clients)?;
    let every = Duration::from_secs_f64(f64::from(clients) / rate);
    let start = Instant::now();
    let mut tasks = JoinSet::new();
    for seed in 0..clients {
        let stream = TcpStream::connect(addr).await?;
        stream.set_nodelay(true)?;
        tasks.spawn(client(
            stream,
            start + every * seed / clients,
            every,
            keys,
            u64::from(seed),
            stop.clone(),
        ));
    }
    until.end().await?;
    stop.store(true, Ordering::Relaxed);
    let mut latency_us = load::histogram();
    while let Some(done) = tasks.join_next().await {
        latency_us.add(done??)?;
    }
    Ok(latency_us)
}

async fn client(
    mut stream: TcpStream,
    first: Instant,
    every: Duration,
    keys: usize,
    seed: u64,
    stop: Arc<AtomicBool>,
) -> Result<Histogram<u64>> {
    let mut random = SmallRng::seed_from_u64(seed);
    let value = "v".repeat(PEAK.value_bytes);
    let (mut latency_us, mut out, mut input) = (load::histogram(), Vec::new(), Vec::new());
    let mut due = first;
    while !stop.load(Ordering::Relaxed) {
        tokio::time::sleep_until(due.into()).await;
        out.clear();
        resp::encode(&["SET", &key(random.random_range(0..keys)), &value], &mut out);
        stream.write_all(&out).await?;
        load::receive(&mut stream, &mut input, 1).await?;
        latency_us.saturating_record(u64::try_from(due.elapsed().as_micros()).unwrap_or(u64::MAX));
        due += every;
    }
    Ok(latency_us)
}
