//! The thin client around [`super::evaluate`]: takes the lease, keeps it, gives it back.

use std::fmt;
use std::time::{Duration, Instant};

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use kube::api::{Api, PostParams};
use tokio::time::{sleep, timeout};

use super::{Move, Record, Seen, Timing, evaluate};
use crate::clock;

/// Longest wait for one answer of the API server. Below the renew deadline, so that one silent call is not the end.
const CALL_TIMEOUT: Duration = Duration::from_secs(4);

/// Why the lease is lost.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Lost {
    /// Another operator holds it now.
    Taken {
        /// Its identity.
        by: String,
    },
    /// It could not be renewed in time.
    NotRenewed {
        /// The last failure.
        last: String,
    },
}

impl fmt::Display for Lost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Lost::Taken { by } => write!(f, "the lease is held by {by} now"),
            Lost::NotRenewed { last } => write!(f, "the lease could not be renewed in time: {last}"),
        }
    }
}

/// One operator's view of the lease.
pub struct Keeper {
    api: Api<Lease>,
    name: String,
    me: String,
    timing: Timing,
    seen: Option<Seen>,
    /// The object as it was last read or written, for the compare-and-set.
    lease: Option<Lease>,
}

impl Keeper {
    /// A candidate named `me` for the lease `name`. `me` must be unique among the operators that are alive.
    #[must_use]
    pub fn new(api: Api<Lease>, name: &str, me: &str, timing: Timing) -> Self {
        Self { api, name: name.into(), me: me.into(), timing, seen: None, lease: None }
    }

    /// Waits until the lease is ours. Failures are logged and retried for ever. `answered` is called each time the
    /// API server has answered.
    ///
    /// Cancel safety: dropping it may leave the lease taken; it runs out by itself, or [`Keeper::release`] frees it.
    pub async fn acquire(&mut self, answered: impl Fn()) {
        let mut told = String::new();
        loop {
            let turn = self.turn().await;
            if turn.is_ok() {
                answered();
            }
            let pause = match turn {
                Ok(Turn::Ours) => {
                    tracing::info!(lease = self.name, me = self.me, "leading");
                    return;
                }
                Ok(Turn::Theirs { holder, at_most }) => {
                    if told != holder {
                        tracing::info!(lease = self.name, holder, "another operator leads, waiting");
                        told = holder;
                    }
                    at_most.min(self.timing.retry)
                }
                Err(error) => {
                    tracing::warn!(lease = self.name, error, "look at the lease");
                    self.timing.retry
                }
            };
            sleep(pause).await;
        }
    }

    /// Renews the lease until it is lost, and says why. To be called once [`Keeper::acquire`] has returned.
    ///
    /// Cancel safety: dropping it stops renewing.
    pub async fn keep(&mut self) -> Lost {
        let mut renewed = clock::monotonic();
        let mut last = "never tried".to_owned();
        loop {
            let left = self.timing.renew_deadline.saturating_sub(clock::monotonic().duration_since(renewed));
            if left.is_zero() {
                return Lost::NotRenewed { last };
            }
            sleep(self.timing.retry.min(left)).await;
            // The answer counts from the moment of the question: that is when the others see it at the earliest.
            let asked = clock::monotonic();
            let left = self.timing.renew_deadline.saturating_sub(asked.duration_since(renewed));
            if left.is_zero() {
                return Lost::NotRenewed { last };
            }
            match timeout(left, self.turn()).await {
                Ok(Ok(Turn::Ours)) => renewed = asked,
                Ok(Ok(Turn::Theirs { holder, .. })) => return Lost::Taken { by: holder },
                Ok(Err(error)) => {
                    tracing::warn!(lease = self.name, error, "renew the lease");
                    last = error;
                }
                Err(_) => "no answer in time".clone_into(&mut last),
            }
        }
    }

    /// Gives the lease back, if it is ours, so that the next operator need not wait until it runs out.
    pub async fn release(&mut self) {
        if self.lease.is_none() {
            // The last write had no clear end; what stands there decides.
            let _ = self.look().await;
        }
        let ours = |lease: &Lease| Record::of(lease).holder.as_deref() == Some(self.me.as_str());
        let Some(mut lease) = self.lease.take().filter(ours) else { return };
        let transitions = lease.spec.as_ref().and_then(|spec| spec.lease_transitions);
        lease.spec = Some(LeaseSpec {
            holder_identity: Some(String::new()),
            lease_duration_seconds: Some(1),
            lease_transitions: transitions,
            renew_time: Some(MicroTime(clock::wall())),
            ..LeaseSpec::default()
        });
        match timeout(CALL_TIMEOUT, self.api.replace(&self.name, &PostParams::default(), &lease)).await {
            Ok(Ok(_)) => tracing::info!(lease = self.name, "released"),
            Ok(Err(error)) => tracing::warn!(lease = self.name, %error, "release the lease"),
            Err(_) => tracing::warn!(lease = self.name, "release the lease: no answer in time"),
        }
    }

    /// One look, and one write if the look asks for it.
    async fn turn(&mut self) -> Result<Turn, String> {
        // Our own last write is as good as a read: the resource version proves that nothing came between.
        let renewable =
            self.seen.as_ref().is_some_and(|seen| seen.record.holder.as_deref() == Some(&self.me));
        if !(renewable && self.lease.is_some()) {
            self.look().await?;
        }
        let transitions = match evaluate(self.seen.as_ref(), &self.me, clock::monotonic()) {
            Move::Yield { at_most } => {
                let holder = self.seen.as_ref().and_then(|seen| seen.record.holder.clone());
                return Ok(Turn::Theirs { holder: holder.unwrap_or_default(), at_most });
            }
            Move::Create => 0,
            Move::Take { transitions } => transitions,
            Move::Renew => self.seen.as_ref().map_or(0, |seen| seen.record.transitions),
        };
        self.write(transitions).await
    }

    async fn look(&mut self) -> Result<(), String> {
        let call = timeout(CALL_TIMEOUT, self.api.get_opt(&self.name)).await;
        let lease = call.map_err(|_| "no answer in time".to_owned())?.map_err(|error| error.to_string())?;
        self.note(lease, clock::monotonic());
        Ok(())
    }

    fn note(&mut self, lease: Option<Lease>, now: Instant) {
        let before = self.seen.take();
        self.seen = lease.as_ref().map(|lease| Seen::update(before, Record::of(lease), now));
        self.lease = lease;
    }

    async fn write(&mut self, transitions: i32) -> Result<Turn, String> {
        let now = MicroTime(clock::wall());
        let held = self.lease.as_ref().and_then(|lease| lease.spec.as_ref());
        let held = held.filter(|spec| spec.holder_identity.as_deref() == Some(&self.me));
        let acquired = held.and_then(|spec| spec.acquire_time.clone()).unwrap_or_else(|| now.clone());
        let spec = LeaseSpec {
            holder_identity: Some(self.me.clone()),
            lease_duration_seconds: Some(i32::try_from(self.timing.duration.as_secs()).unwrap_or(i32::MAX)),
            lease_transitions: Some(transitions),
            acquire_time: Some(acquired),
            renew_time: Some(now),
            ..LeaseSpec::default()
        };
        let params = PostParams::default();
        let call = async {
            if let Some(mut lease) = self.lease.clone() {
                lease.spec = Some(spec);
                self.api.replace(&self.name, &params, &lease).await
            } else {
                let metadata = ObjectMeta { name: Some(self.name.clone()), ..ObjectMeta::default() };
                self.api.create(&params, &Lease { metadata, spec: Some(spec) }).await
            }
        };
        match timeout(CALL_TIMEOUT, call).await {
            Ok(Ok(lease)) => {
                self.note(Some(lease), clock::monotonic());
                Ok(Turn::Ours)
            }
            Ok(Err(error)) => {
                // A conflict means that somebody was faster, anything else that we do not know: read anew either way.
                self.lease = None;
                Err(error.to_string())
            }
            Err(_) => {
                self.lease = None;
                Err("no answer in time".into())
            }
        }
    }
}

/// What one turn brought.
enum Turn {
    /// The lease is ours, as of now.
    Ours,
    /// It is another's.
    Theirs { holder: String, at_most: Duration },
}
