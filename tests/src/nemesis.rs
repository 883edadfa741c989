//! Faults against a running cluster, drawn from a seed, each healed before the next.
//!
//! A fault lasts until the clients have got on (or clearly cannot), never for a fixed time.

use std::time::Duration;

use anyhow::{Context, Result};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::cluster::Cluster;
use crate::history::History;
use crate::wait::{SOON, eventually, until};

/// One fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// kill -9 of the leader, then restart.
    KillLeader,
    /// kill -9 of a follower, then restart.
    KillFollower,
    /// SIGSTOP of the leader until another one leads, then SIGCONT.
    PauseLeader,
    /// SIGSTOP and SIGCONT of the leader several times in a row, too short for an election.
    PulseLeader,
    /// SIGTERM of the leader, then restart.
    StopLeader,
    /// RAFTTRANSFER.
    Transfer,
    /// kill -9 of all nodes, then restart.
    KillAll,
}

/// All of them.
pub const FAULTS: [Fault; 7] = [
    Fault::KillLeader,
    Fault::KillFollower,
    Fault::PauseLeader,
    Fault::PulseLeader,
    Fault::StopLeader,
    Fault::Transfer,
    Fault::KillAll,
];

/// What tells how far the clients have got.
pub trait Progress {
    /// Operations that they have finished.
    fn finished(&self) -> usize;
}

impl Progress for History {
    fn finished(&self) -> usize {
        self.len()
    }
}

/// Operations that clients must finish between two faults.
const PROGRESS: usize = 400;

/// How long a fault may last when the clients do not get on.
const FAULT_MAX: Duration = Duration::from_secs(3);

/// Injects `count` faults; between them the clients must get on.
///
/// # Errors
/// The cluster does not recover from one.
pub async fn torment(
    cluster: &mut Cluster,
    history: &impl Progress,
    seed: u64,
    count: usize,
) -> Result<Vec<Fault>> {
    let mut random = StdRng::seed_from_u64(seed);
    let mut done = Vec::new();
    progress(history, SOON).await.context("before the first fault")?;
    for _ in 0..count {
        let fault = FAULTS[random.random_range(0..FAULTS.len())];
        done.push(fault);
        inject(cluster, history, fault).await.with_context(|| format!("seed {seed}, faults {done:?}"))?;
        progress(history, SOON).await.with_context(|| format!("after the faults {done:?} of seed {seed}"))?;
    }
    Ok(done)
}

/// Waits until the clients have finished some more operations.
async fn progress(history: &impl Progress, deadline: Duration) -> Result<()> {
    let target = history.finished() + PROGRESS;
    until("the clients get on", deadline, async || history.finished() >= target).await
}

async fn inject(cluster: &mut Cluster, history: &impl Progress, fault: Fault) -> Result<()> {
    let leader = cluster.leader().await?;
    let followers = cluster.followers().await?;
    match fault {
        Fault::KillLeader | Fault::KillFollower => {
            let victim = if fault == Fault::KillLeader { leader } else { followers[0] };
            cluster.nodes[victim].kill()?;
            let _ = progress(history, FAULT_MAX).await;
            cluster.nodes[victim].start().await
        }
        Fault::PauseLeader => {
            cluster.nodes[leader].pause()?;
            let elected = cluster.leader_among(&followers).await;
            let _ = progress(history, FAULT_MAX).await;
            cluster.nodes[leader].resume()?;
            elected.map(|_| ())
        }
        Fault::PulseLeader => {
            for _ in 0..5 {
                cluster.nodes[leader].pause()?;
                let before = history.finished();
                // The others finish what they can without the leader; a beat later it runs again.
                let _ =
                    until("one more", Duration::from_millis(100), async || history.finished() > before + 1)
                        .await;
                cluster.nodes[leader].resume()?;
                let _ = progress(history, Duration::from_millis(300)).await;
            }
            Ok(())
        }
        Fault::StopLeader => {
            let status = cluster.nodes[leader].terminate().await?;
            anyhow::ensure!(status.success(), "SIGTERM ended the leader with {status}");
            let _ = progress(history, FAULT_MAX).await;
            cluster.nodes[leader].start().await
        }
        Fault::Transfer => {
            let mut client = cluster.nodes[leader].client().await?;
            client.ok("RAFTTRANSFER").await?;
            eventually("another node leads", SOON, async || Ok(cluster.leader_among(&followers).await.ok()))
                .await
                .map(|_| ())
        }
        Fault::KillAll => cluster.kill_and_restart_all().await,
    }
}
