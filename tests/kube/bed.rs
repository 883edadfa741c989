//! Faults that need the machine under the Kubernetes: only in the bed of `up.sh`, where the machine is this one.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use kvnode_tests::tool;
use serde_json::Value as Json;

/// The bed, if `KUBECONFIG` names it and we may touch it.
pub(crate) struct Bed {
    run: PathBuf,
}

impl Bed {
    /// The bed behind this kubeconfig.
    pub(crate) fn of(kubeconfig: &Path) -> Option<Self> {
        let ours = kubeconfig.ends_with("bed/pki/admin.kubeconfig");
        let run = PathBuf::from(std::env::var_os("KUBE_BED_RUN").unwrap_or_else(|| "/run/kvbed".into()));
        (ours && run.join("apiserver.pid").exists() && rustix::process::geteuid().is_root())
            .then_some(Self { run })
    }

    /// Stops a program of the bed where it stands, until the answer is dropped.
    pub(crate) fn freeze(&self, program: &str) -> Result<Frozen> {
        let file = self.run.join(format!("{program}.pid"));
        let text = fs::read_to_string(&file).with_context(|| file.display().to_string())?;
        let pid = text.split(' ').next().unwrap_or_default().to_owned();
        signal("-STOP", &pid)?;
        Ok(Frozen { pid })
    }

    /// Kills the first container of a pod with SIGKILL: no goodbye, no preStop.
    pub(crate) fn kill(&self, pod: &Json) -> Result<()> {
        let text = |value: &Json| value.as_str().unwrap_or_default().to_owned();
        let node = text(&pod["spec"]["nodeName"]);
        let id = text(&pod["status"]["containerStatuses"][0]["containerID"]);
        let id = id.strip_prefix("containerd://").context("containerID")?;
        let socket = self.run.join(format!("{node}.sock"));
        let mut command = Command::new("ctr");
        command.arg("--address").arg(socket).args([
            "--namespace",
            "k8s.io",
            "task",
            "kill",
            "--signal",
            "SIGKILL",
            id,
        ]);
        tool::run(&mut command).map(drop)
    }

    /// Cuts a Kubernetes node off the network, until the answer is dropped.
    #[expect(clippy::unused_self, reason = "only who has the bed may do it")]
    pub(crate) fn cut(&self, node: &str) -> Result<Cut> {
        link(node, "down")?;
        Ok(Cut { node: node.to_owned() })
    }
}

/// A program that stands still.
pub(crate) struct Frozen {
    pid: String,
}

impl Drop for Frozen {
    fn drop(&mut self) {
        let _ = signal("-CONT", &self.pid);
    }
}

/// A node without a network.
pub(crate) struct Cut {
    node: String,
}

impl Drop for Cut {
    fn drop(&mut self) {
        let _ = link(&self.node, "up");
    }
}

fn signal(name: &str, pid: &str) -> Result<()> {
    tool::run(Command::new("kill").args([name, pid])).map(drop)
}

fn link(node: &str, state: &str) -> Result<()> {
    tool::run(Command::new("ip").args(["-n", "kvbed-sw", "link", "set", node, state])).map(drop)
}
