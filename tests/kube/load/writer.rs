//! The endless writer and what it counts.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use kvnode_tests::client::{CallError, Client};
use serde_json::{Value as Json, json};
use tokio::time::MissedTickBehavior;

use crate::target::Target;

/// One write in each such time: enough to see a gap of a tenth of a second, little enough to leave the machine alone.
const PACE: Duration = Duration::from_millis(5);
/// A reply that takes longer counts as lost, as it does for stock clients.
const PATIENCE: Duration = Duration::from_secs(5);
const SAMPLES_MAX: usize = 10;

/// What happened since the last mark.
#[derive(Default)]
struct Phase {
    acknowledged: u64,
    errors: u64,
    unknown: u64,
    connects: u64,
    refused: u64,
    samples: Vec<String>,
    longest: Duration,
    longest_began_ms: u64,
}

/// What the writer and the questions share.
#[derive(Default)]
pub(crate) struct Shared {
    inner: Mutex<(Phase, Vec<u64>)>,
}

impl Shared {
    fn with<T>(&self, change: impl FnOnce(&mut Phase, &mut Vec<u64>) -> T) -> T {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        let (phase, all) = &mut *inner;
        change(phase, all)
    }

    /// Tells the phase and begins the next one.
    pub(crate) fn mark(&self) -> Json {
        self.with(|phase, all| {
            let Phase {
                acknowledged,
                errors,
                unknown,
                connects,
                refused,
                samples,
                longest,
                longest_began_ms,
            } = std::mem::take(phase);
            json!({
                "acknowledged": acknowledged, "total": all.len(), "errors": errors, "unknown": unknown,
                "connects": connects, "refused": refused, "samples": samples,
                "gap_ms": u64::try_from(longest.as_millis()).unwrap_or(u64::MAX),
                "gap_began_ms": longest_began_ms,
            })
        })
    }

    /// Numbers of all writes ever acknowledged.
    pub(crate) fn acknowledged(&self) -> Vec<u64> {
        self.with(|_, all| all.clone())
    }

    fn sample(&self, text: &str) {
        self.with(|phase, _| {
            if phase.samples.len() < SAMPLES_MAX {
                phase.samples.push(format!("{} {text}", unix_ms()));
            }
        });
    }
}

fn unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// Writes until it is dropped.
pub(crate) async fn write(target: &Target, shared: &Shared) {
    let mut pace = tokio::time::interval(PACE);
    pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut client: Option<Client> = None;
    let mut last: Option<(Instant, u64)> = None;
    let mut number = 1_u64;
    loop {
        pace.tick().await;
        if client.as_ref().is_some_and(Client::has_ended) {
            client = None;
        }
        let Some(connected) = client.as_mut() else {
            client = connect(target, shared).await;
            continue;
        };
        let key = target.key(number);
        match connected.call(&["SET", &key, &number.to_string()]).await {
            Ok(reply) if reply.is_ok() => {
                let now = (Instant::now(), unix_ms());
                shared.with(|phase, all| {
                    all.push(number);
                    phase.acknowledged += 1;
                    if let Some((before, began)) = last {
                        let gap = now.0.duration_since(before);
                        if gap > phase.longest {
                            (phase.longest, phase.longest_began_ms) = (gap, began);
                        }
                    }
                });
                last = Some(now);
                number += 1;
            }
            Ok(reply) => {
                shared.with(|phase, _| phase.errors += 1);
                shared.sample(&format!("{key}: {reply:?}"));
            }
            Err(CallError::Connect(_)) => client = None,
            Err(error) => {
                // It was sent and nobody answered: it may have happened. The same write again does no harm.
                shared.with(|phase, _| phase.unknown += 1);
                shared.sample(&format!("{key}: {error}"));
                client = None;
            }
        }
    }
}

async fn connect(target: &Target, shared: &Shared) -> Option<Client> {
    match target.connect(PATIENCE).await {
        Ok(Ok(client)) => {
            shared.with(|phase, _| phase.connects += 1);
            return Some(client);
        }
        // Whoever has the password that the Secret hands out gets in at any time.
        Ok(Err(refused)) => {
            shared.with(|phase, _| phase.errors += 1);
            shared.sample(&format!("AUTH: {refused}"));
        }
        Err(_) => shared.with(|phase, _| phase.refused += 1),
    }
    None
}
