//! An open-loop generator: requests are due at fixed times; their latency counts from then, whatever the server does.
//!
//! ```text
//! pacer thread    due 0   due 1   due 2 ...        every 1/rate, to the connections in turn
//!                   |       |       |
//! connection 0   ---#-------------------#---       sends when it is due, or as soon as its last one is answered:
//! connection 1   -----------#--------------#       what waited behind a slow request counts as slow itself
//! ```
//!
//! The pacer is a thread of its own, since the runtime's timers know milliseconds only, which is what a request takes.
//! It wakes at most every [`PACE_MIN`], so a request may be sent that much after it was due, which counts as latency.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::Result;
use kvnode_tests::resp;
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;

use crate::cells::{Operation, key};
use crate::etcd;
use crate::load::{self, Measured};

/// Shortest time between two looks at what is due.
const PACE_MIN: Duration = Duration::from_micros(100);
/// Time after the end in which requests that were due before it are still sent. A server that has not served them by
/// then is far beyond what it can do; what waits is counted as refused, and each with its wait so far.
const GRACE: Duration = Duration::from_secs(10);

/// What is sent.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stream {
    /// Write or read.
    pub(crate) operation: Operation,
    /// Requests per second, over all connections.
    pub(crate) rate: f64,
    /// Connections.
    pub(crate) clients: usize,
    /// Keys are drawn from so many.
    pub(crate) keys: usize,
    /// Bytes of a value.
    pub(crate) value_bytes: usize,
    /// Whether the server speaks gRPC.
    pub(crate) is_etcd: bool,
}

/// How long to go on.
pub(crate) trait Until {
    /// Returns at the end.
    async fn end(self) -> Result<()>;
}

/// For a time.
pub(crate) struct For(pub(crate) Duration);

/// Until this has ended.
pub(crate) struct While<F>(pub(crate) F);

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

/// Sends the stream to one address; latencies are of each request, from the moment at which it was due.
pub(crate) async fn run(addr: &str, stream: Stream, until: impl Until) -> Result<Measured> {
    let mut connections = Vec::new();
    for _ in 0..stream.clients {
        connections.push(Connection::open(addr, stream.is_etcd).await?);
    }
    let (end, seen) = watch::channel(None);
    let every = Duration::from_secs_f64(1.0 / stream.rate);
    let start = Instant::now() + Duration::from_millis(20);
    let pacer = Pacer::start(start, every, stream.clients)?;
    let mut tasks = JoinSet::new();
    for (number, connection) in (0_u32..).zip(connections) {
        let schedule = Schedule {
            next: start + every * number,
            every: every * u32::try_from(stream.clients)?,
            tick: pacer.ticks[number as usize].clone(),
            end: seen.clone(),
        };
        tasks.spawn(client(connection, stream, schedule, u64::from(number)));
    }
    until.end().await?;
    let now = Instant::now();
    end.send_replace(Some(now));
    // Those that wait for their next moment see the end at once.
    pacer.ticks.iter().for_each(|tick| tick.notify_one());
    let mut sum = Measured { elapsed: now.saturating_duration_since(start), ..Measured::empty() };
    while let Some(done) = tasks.join_next().await {
        let measured = done??;
        sum.requests += measured.requests;
        sum.refused += measured.refused;
        sum.latency_us.add(measured.latency_us)?;
    }
    Ok(sum)
}

/// When a connection sends.
struct Schedule {
    next: Instant,
    every: Duration,
    tick: Arc<Notify>,
    end: watch::Receiver<Option<Instant>>,
}

impl Schedule {
    /// Waits until the next request is due: that moment; `None` if it is after the end, or `GRACE` has passed since.
    async fn due(&mut self) -> Option<Instant> {
        loop {
            let (now, end) = (Instant::now(), *self.end.borrow());
            if end.is_some_and(|end| self.next >= end || now >= end + GRACE) {
                return None;
            }
            if now >= self.next {
                let due = self.next;
                self.next += self.every;
                return Some(due);
            }
            self.tick.notified().await;
        }
    }

    /// Moments before the end that nothing was sent for.
    fn missed(&self) -> Vec<Instant> {
        let (mut missed, mut next) = (Vec::new(), self.next);
        let end = *self.end.borrow();
        while end.is_some_and(|end| next < end) {
            missed.push(next);
            next += self.every;
        }
        missed
    }
}

async fn client(
    mut connection: Connection,
    stream: Stream,
    mut schedule: Schedule,
    seed: u64,
) -> Result<Measured> {
    let mut random = SmallRng::seed_from_u64(seed);
    let value = "v".repeat(stream.value_bytes);
    let mut measured = Measured::empty();
    while let Some(due) = schedule.due().await {
        let key = key(random.random_range(0..stream.keys));
        let served = connection.call(stream.operation, &key, &value).await?;
        measured.latency_us.saturating_record(u64::try_from(due.elapsed().as_micros()).unwrap_or(u64::MAX));
        if served {
            measured.requests += 1;
        } else {
            measured.refused += 1;
        }
    }
    for due in schedule.missed() {
        measured.latency_us.saturating_record(u64::try_from(due.elapsed().as_micros()).unwrap_or(u64::MAX));
        measured.refused += 1;
    }
    Ok(measured)
}

/// A connection that carries one request at a time.
enum Connection {
    Resp { stream: TcpStream, out: Vec<u8>, input: Vec<u8> },
    Etcd(etcd::Caller),
}

impl Connection {
    async fn open(addr: &str, is_etcd: bool) -> Result<Self> {
        if is_etcd {
            return Ok(Self::Etcd(etcd::Caller::connect(addr).await?));
        }
        let stream = TcpStream::connect(addr).await?;
        stream.set_nodelay(true)?;
        Ok(Self::Resp { stream, out: Vec::new(), input: Vec::new() })
    }

    /// Sends one request and takes its reply; false if it was refused under load.
    async fn call(&mut self, operation: Operation, key: &str, value: &str) -> Result<bool> {
        match self {
            Self::Etcd(caller) => caller.call(operation, key, value).await,
            Self::Resp { stream, out, input } => {
                out.clear();
                match operation {
                    Operation::Set => resp::encode(&["SET", key, value], out),
                    Operation::Get => resp::encode(&["GET", key], out),
                }
                stream.write_all(out).await?;
                load::receive(stream, input, 1).await?;
                Ok(true)
            }
        }
    }
}

/// The thread that says when something is due; it ends with this.
struct Pacer {
    /// One for each connection.
    ticks: Vec<Arc<Notify>>,
    stop: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Pacer {
    fn start(start: Instant, every: Duration, clients: usize) -> Result<Self> {
        let ticks: Vec<Arc<Notify>> = (0..clients).map(|_| Arc::default()).collect();
        let stop = Arc::new(AtomicBool::new(false));
        let (own, stopped) = (ticks.clone(), stop.clone());
        let pace = move || {
            let mut next = start;
            for tick in own.iter().cycle() {
                while !stopped.load(Ordering::Relaxed) && Instant::now() < next {
                    let left = next.saturating_duration_since(Instant::now());
                    std::thread::park_timeout(left.max(PACE_MIN));
                }
                if stopped.load(Ordering::Relaxed) {
                    return;
                }
                tick.notify_one();
                next += every;
            }
        };
        let thread = std::thread::Builder::new().name("pacer".into()).spawn(pace)?;
        Ok(Self { ticks, stop, thread: Some(thread) })
    }
}

impl Drop for Pacer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt;
    use tokio::net::TcpListener;

    use super::*;

    /// Answers each SET after a pause of `stall` before the one with this number.
    async fn server(stalled: usize, stall: Duration) -> (String, JoinSet<()>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap().to_string();
        let mut task = JoinSet::new();
        task.spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let (mut input, mut count) = (vec![0; 4096], 0);
            while stream.read(&mut input).await.is_ok_and(|length| length > 0) {
                count += 1;
                if count == stalled {
                    let _ = tokio::time::timeout(stall, std::future::pending::<()>()).await;
                }
                stream.write_all(b"+OK\r\n").await.unwrap();
            }
        });
        (addr, task)
    }

    #[tokio::test]
    async fn a_stall_counts_for_all_requests_that_were_due_in_it() {
        let (addr, _task) = server(50, Duration::from_millis(400)).await;
        let stream = Stream {
            operation: Operation::Set,
            rate: 500.0,
            clients: 1,
            keys: 10,
            value_bytes: 8,
            is_etcd: false,
        };
        let measured = run(&addr, stream, For(Duration::from_secs(1))).await.unwrap();
        // All that were due were sent, also those of the stall: 200 of them, half of which waited for 200 ms and more.
        assert!((450..=510).contains(&measured.requests), "{}", measured.requests);
        assert_eq!(measured.refused, 0);
        let slow = measured.latency_us.count_between(200_000, 60_000_000);
        assert!((60..=400).contains(&slow), "{slow} requests waited for 200 ms");
    }
}
