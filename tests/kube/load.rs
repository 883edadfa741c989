//! The writer that runs in a pod of its own while a scenario does something to the cluster.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use kvnode_tests::wait::eventually;
use serde_json::Value as Json;

use crate::kubectl::Kubectl;
use crate::stage::Stage;

/// The running writer.
pub(crate) struct Load {
    kubectl: Kubectl,
    pod: String,
}

/// What it saw since the last mark.
#[derive(Debug)]
pub(crate) struct Phase {
    pub(crate) acknowledged: u64,
    pub(crate) errors: u64,
    pub(crate) unknown: u64,
    pub(crate) connects: u64,
    pub(crate) gap: Duration,
    pub(crate) samples: String,
}

impl Phase {
    fn read(answer: &Json) -> Result<Self> {
        let number = |key: &str| answer[key].as_u64().with_context(|| format!("{key} in {answer}"));
        Ok(Self {
            acknowledged: number("acknowledged")?,
            errors: number("errors")?,
            unknown: number("unknown")?,
            connects: number("connects")?,
            gap: Duration::from_millis(number("gap_ms")?),
            samples: answer["samples"].to_string(),
        })
    }

    /// Every command got its reply, and none an error: a connection ends behind an answer, never in front of one.
    pub(crate) fn without_failure(&self) -> Result<()> {
        ensure!(self.errors == 0, "{} commands failed: {}", self.errors, self.samples);
        ensure!(
            self.unknown == 0,
            "{} commands got no reply, on {} further connections: {}",
            self.unknown,
            self.connects,
            self.samples
        );
        Ok(())
    }
}

impl Load {
    /// Starts writing to an address, in the clear and without a password.
    pub(crate) async fn plain(stage: &Stage, addr: &str) -> Result<Self> {
        Self::begin(stage, ("load", ""), addr, "none").await
    }

    /// Starts writing to a cluster, as the Secret of its user default says.
    pub(crate) async fn start(stage: &Stage, cluster: &str) -> Result<Self> {
        Self::begin(stage, ("load", ""), "bind:/bind", &format!("{cluster}-auth")).await
    }

    /// The same as another user, in a pod `load-<user>`, to keys of its own.
    pub(crate) async fn start_as(stage: &Stage, cluster: &str, user: &str) -> Result<Self> {
        let (pod, prefix) = (format!("load-{user}"), format!("{user}:"));
        Self::begin(stage, (&pod, &prefix), "bind:/bind", &format!("{cluster}-user-{user}")).await
    }

    async fn begin(stage: &Stage, (pod, prefix): (&str, &str), addr: &str, secret: &str) -> Result<Self> {
        let kubectl = stage.kubectl();
        let pod = pod.to_owned();
        let words =
            [("LOAD_NAME", &*pod), ("LOAD_ADDR", addr), ("LOAD_SECRET", secret), ("LOAD_PREFIX", prefix)];
        kubectl.apply(&stage.manifest("load.yaml", &words)?)?;
        kubectl.run(&["wait", &format!("pod/{pod}"), "--for=condition=Ready", "--timeout=180s"])?;
        let load = Self { kubectl, pod };
        load.progress(100).await?;
        load.mark()?;
        Ok(load)
    }

    /// Ends the phase and begins the next one.
    pub(crate) fn mark(&self) -> Result<Phase> {
        let answer = self.kubectl.exec(&self.pod, &["kube-load", "ask", "7000", "mark"])?;
        Phase::read(&serde_json::from_str(&answer).with_context(|| answer.clone())?)
    }

    /// Waits for so many further acknowledgements.
    pub(crate) async fn progress(&self, more: u64) -> Result<()> {
        let first = self.count()?;
        let enough = async || Ok((self.count()? >= first + more).then_some(()));
        eventually("the writer gets on", Duration::from_mins(1), enough).await
    }

    fn count(&self) -> Result<u64> {
        let answer = self.kubectl.exec(&self.pod, &["kube-load", "ask", "7000", "count"])?;
        answer.trim().parse().with_context(|| answer.clone())
    }

    /// Reads every acknowledged write back.
    pub(crate) fn verify(&self) -> Result<u64> {
        let answer = self.kubectl.exec(&self.pod, &["kube-load", "ask", "7000", "verify"])?;
        let answer: Json = serde_json::from_str(&answer).with_context(|| answer.clone())?;
        ensure!(answer["error"].is_null(), "{answer}");
        ensure!(
            answer["missing"].as_array().is_some_and(Vec::is_empty),
            "acknowledged writes are lost: {answer}"
        );
        let count = answer["acknowledged"].as_u64().context("acknowledged")?;
        say!("{count} acknowledged writes, none lost");
        Ok(count)
    }
}
