//! Which of several operators works: leader election on a `coordination.k8s.io/v1` Lease.
//!
//! ```text
//! keeper   get -> evaluate -> create or replace (compare-and-set on resourceVersion)      every 2 s
//!             |
//! evaluate  (what was seen, since when, who am I, now) -> Move                            pure
//! ```
//!
//! The rules are those of client-go, so that numbers mean what people expect: a lease that has not changed *on this
//! process' own monotonic clock* for [`Timing::duration`] is free; its holder renews each [`Timing::retry`] and gives
//! up after [`Timing::renew_deadline`] without a success. The time stamps inside the lease are for people and are
//! never compared: two machines' clocks may differ by anything.
//!
//! Invariants
//! - Safety of data does not rest on this. Each step of the operator is a compare-and-set, so that two operators at
//!   once waste work and break nothing. The lease only keeps them from fighting over labels and status.
//! - Fail-stop: who loses the lease ends the process ([`keeper::Keeper::keep`] returns, `main` exits non-zero), so no
//!   task can live on in the belief that it leads.
//! - `duration > renew_deadline > retry`: the holder has stopped before anyone else starts.

pub mod keeper;

#[cfg(test)]
mod tests;

use std::time::{Duration, Instant};

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};

/// The three times of the election.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    /// A lease that does not change for so long is free.
    pub duration: Duration,
    /// Without a successful renewal for so long, the holder has lost it.
    pub renew_deadline: Duration,
    /// Pause between two looks, of the holder and of those who wait.
    pub retry: Duration,
}

impl Default for Timing {
    /// 15 s, 10 s, 2 s.
    fn default() -> Self {
        Self {
            duration: Duration::from_secs(15),
            renew_deadline: Duration::from_secs(10),
            retry: Duration::from_secs(2),
        }
    }
}

/// What a lease says, without the times that must not be compared.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Record {
    /// Who holds it; `None` = nobody, it was released.
    pub holder: Option<String>,
    /// How long it stays the holder's without a change, as the holder wrote it.
    pub duration: Duration,
    /// Changes of holder so far.
    pub transitions: i32,
    /// Changes with every write; only ever compared for equality.
    pub stamp: String,
}

impl Record {
    /// Reads a lease. What is absent or senseless reads as "free".
    #[must_use]
    pub fn of(lease: &Lease) -> Self {
        let empty = LeaseSpec::default();
        let spec = lease.spec.as_ref().unwrap_or(&empty);
        let seconds = u64::try_from(spec.lease_duration_seconds.unwrap_or(0)).unwrap_or(0);
        let time = |at: &Option<k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime>| {
            at.as_ref().map(|at| at.0.to_string()).unwrap_or_default()
        };
        Self {
            holder: spec.holder_identity.clone().filter(|holder| !holder.is_empty()),
            duration: Duration::from_secs(seconds),
            transitions: spec.lease_transitions.unwrap_or(0),
            stamp: format!("{}/{}", time(&spec.renew_time), time(&spec.acquire_time)),
        }
    }
}

/// A record, and when this process first saw it as it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// The record.
    pub record: Record,
    /// First sight of exactly this record.
    pub since: Instant,
}

impl Seen {
    /// What is known after another look: the old sight if nothing changed, else a new one.
    #[must_use]
    pub fn update(before: Option<Seen>, record: Record, now: Instant) -> Seen {
        match before {
            Some(seen) if seen.record == record => seen,
            _ => Seen { record, since: now },
        }
    }
}

/// What to do about the lease now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Move {
    /// There is none: create it.
    Create,
    /// It is free or has run out: take it, with this count of transitions.
    Take {
        /// The new count of changes of holder.
        transitions: i32,
    },
    /// It is ours: renew it.
    Renew,
    /// Another holds it: look again, at the latest after this time.
    Yield {
        /// Until it runs out, if it does not change.
        at_most: Duration,
    },
}

/// Decides. `seen` is `None` if there is no such lease.
#[must_use]
pub fn evaluate(seen: Option<&Seen>, me: &str, now: Instant) -> Move {
    let Some(Seen { record, since }) = seen else { return Move::Create };
    let Some(holder) = &record.holder else {
        return Move::Take { transitions: record.transitions.saturating_add(1) };
    };
    if holder == me {
        return Move::Renew;
    }
    let age = now.saturating_duration_since(*since);
    match record.duration.checked_sub(age) {
        Some(left) if !left.is_zero() => Move::Yield { at_most: left },
        _ => Move::Take { transitions: record.transitions.saturating_add(1) },
    }
}
