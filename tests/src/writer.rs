//! A client that writes without end while a test does something to the cluster, and then says what became of it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use tokio::task::JoinHandle;

use crate::client::{CallError, Client};
use crate::wait::{SOON, until};

/// What a [`Writer`] saw.
#[derive(Debug, Default)]
pub struct Report {
    /// Numbers acknowledged with `+OK`; number `n` is key `w:<n>`, value `n`.
    pub acknowledged: Vec<u64>,
    /// Error replies.
    pub errors: Vec<String>,
    /// Writes without a reply.
    pub unknown: Vec<String>,
    /// Longest time between two acknowledgements.
    pub longest_gap: Duration,
}

impl Report {
    /// Every acknowledged write is there with its value.
    ///
    /// # Errors
    /// One is missing or differs.
    pub async fn verify(&self, client: &mut Client) -> Result<()> {
        for chunk in self.acknowledged.chunks(500) {
            let mut command = vec!["MGET".to_owned()];
            command.extend(chunk.iter().map(|n| format!("w:{n}")));
            let reply = client.call(&command).await?;
            for (n, value) in chunk.iter().zip(reply.items()) {
                ensure!(value.as_text() == Some(&n.to_string()), "acknowledged write {n} is {value:?}");
            }
        }
        Ok(())
    }

    /// No command failed: no error reply, no unknown outcome.
    ///
    /// # Errors
    /// One did.
    pub fn without_failure(&self) -> Result<()> {
        ensure!(
            self.errors.is_empty() && self.unknown.is_empty(),
            "failed: {:?} {:?}",
            self.errors,
            self.unknown
        );
        Ok(())
    }
}

/// Says how to log in.
pub type Login = Box<dyn Fn() -> String + Send + Sync>;

/// The running client.
pub struct Writer {
    stop: Arc<AtomicBool>,
    count: Arc<AtomicU64>,
    task: JoinHandle<Result<Report>>,
}

impl Writer {
    /// Writes to the first of these nodes that takes connections, then to the next one when that breaks.
    #[must_use]
    pub fn start(addrs: Vec<String>) -> Self {
        Self::start_as(addrs, None)
    }

    /// The same, and begins each connection with the command that this says then.
    #[must_use]
    #[expect(clippy::disallowed_methods, reason = "the handle is owned by the writer and awaited in stop")]
    pub fn start_as(addrs: Vec<String>, login: Option<Login>) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let count = Arc::new(AtomicU64::new(0));
        let task = tokio::spawn(write((addrs, login), Arc::clone(&stop), Arc::clone(&count)));
        Self { stop, count, task }
    }

    /// Acknowledged writes so far.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }

    /// Waits for `more` further acknowledgements.
    ///
    /// # Errors
    /// Not in time.
    pub async fn progress(&self, more: u64) -> Result<()> {
        let target = self.count() + more;
        until("the writer gets on", SOON, async || self.count() >= target || self.task.is_finished()).await
    }

    /// Ends the writer.
    ///
    /// # Errors
    /// It met something that no client should.
    pub async fn stop(self) -> Result<Report> {
        self.stop.store(true, Ordering::Relaxed);
        self.task.await.context("the writer panicked")?
    }
}

async fn connect(addr: &str, login: Option<String>) -> Option<Client> {
    let mut client = Client::connect(addr).await.ok()?;
    if let Some(login) = login {
        client.ok(&login).await.ok()?;
    }
    Some(client)
}

async fn write(
    (addrs, login): (Vec<String>, Option<Login>),
    stop: Arc<AtomicBool>,
    count: Arc<AtomicU64>,
) -> Result<Report> {
    let mut report = Report::default();
    let mut client: Option<Client> = None;
    let mut last = Instant::now();
    let (mut number, mut turn) = (0, 0);
    while !stop.load(Ordering::Relaxed) {
        // Lets the runtime look at the socket: an end that came with the last answer is seen before the next write.
        tokio::task::yield_now().await;
        if client.as_ref().is_some_and(Client::has_ended) {
            client = None;
        }
        let Some(connected) = client.as_mut() else {
            client = connect(&addrs[turn % addrs.len()], login.as_ref().map(|says| says())).await;
            turn += 1;
            continue;
        };
        number += 1;
        match connected.call(&["SET", &format!("w:{number}"), &number.to_string()]).await {
            Ok(reply) if reply.is_ok() => {
                report.acknowledged.push(number);
                report.longest_gap = report.longest_gap.max(last.elapsed());
                last = Instant::now();
                count.fetch_add(1, Ordering::Relaxed);
            }
            Ok(reply) => report.errors.push(format!("{reply:?}")),
            Err(CallError::Connect(_)) => client = None,
            Err(error) => {
                // A connection that was closed while nothing was unanswered is no failure, but here a write was sent:
                // only the server knows whether it read it, so its outcome is unknown.
                report.unknown.push(format!("w:{number}: {error}"));
                client = None;
            }
        }
    }
    Ok(report)
}
