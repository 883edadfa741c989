//! Waiting: a condition, asked again until a deadline. Nothing else in the suites waits for time to pass.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// Deadline of everything that a healthy cluster does in far less than a second; generous for a busy machine.
pub const SOON: Duration = Duration::from_secs(30);

const PAUSE: Duration = Duration::from_millis(10);

/// Asks `probe` until it answers `Ok(Some(_))`; after `deadline` fails with `what` and the last error seen.
///
/// # Errors
/// The deadline passed.
pub async fn eventually<T>(
    what: &str,
    deadline: Duration,
    mut probe: impl AsyncFnMut() -> Result<Option<T>>,
) -> Result<T> {
    let end = Instant::now() + deadline;
    let mut last = String::from("the condition did not hold");
    loop {
        match tokio::time::timeout(deadline, probe()).await {
            Ok(Ok(Some(value))) => return Ok(value),
            Ok(Ok(None)) => {}
            Ok(Err(error)) => last = format!("{error:#}"),
            Err(_) => last = String::from("one question took longer than the deadline"),
        }
        if Instant::now() >= end {
            bail!("not within {deadline:?}: {what}; last: {last}");
        }
        pause(PAUSE).await;
    }
}

/// Like [`eventually`] for a plain condition.
///
/// # Errors
/// The deadline passed.
pub async fn until(what: &str, deadline: Duration, mut condition: impl AsyncFnMut() -> bool) -> Result<()> {
    eventually(what, deadline, async || Ok(condition().await.then_some(()))).await
}

/// The one pause between two questions.
#[expect(clippy::disallowed_methods, reason = "the one place that lets time pass, between two questions")]
async fn pause(duration: Duration) {
    tokio::time::sleep(duration).await;
}
