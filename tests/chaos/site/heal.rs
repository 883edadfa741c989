//! What closes the wounds, and what a healthy cluster looks like.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use kvnode_tests::http;
use kvnode_tests::wait::{SOON, eventually};

use super::{Site, State, Wound, environment, progress};
use crate::load::Shared;

/// A node whose disk has failed ends by itself in this time, under load.
const NOTICE_MAX: Duration = Duration::from_secs(15);
/// Exit code of a node that ended because its disk failed.
const FATAL: i32 = 70;

impl Site {
    fn waits_for(&self, what: &str) {
        self.stage.send_replace(what.to_owned());
    }

    pub(crate) async fn heal(&mut self, wound: Wound, is_only: bool) -> Result<()> {
        match wound {
            Wound::Nothing => Ok(()),
            Wound::Down(nodes) => self.bring_up(&nodes, is_only).await,
            Wound::Paused(node) => {
                if self.states[node] == State::Paused {
                    self.cluster.nodes[node].resume()?;
                    self.states[node] = State::Up;
                }
                Ok(())
            }
            Wound::Parted(cuts) => self.network.mend(&cuts),
            Wound::Full(nodes) => self.make_room(&nodes, is_only).await,
            Wound::Shifted(node) => {
                self.cluster.nodes[node].terminate().await?;
                self.cluster.nodes[node].env = environment();
                self.cluster.nodes[node].start().await
            }
        }
    }

    async fn bring_up(&mut self, nodes: &[usize], is_only: bool) -> Result<()> {
        let mut started = Vec::new();
        for &index in nodes {
            match self.states[index] {
                State::Up | State::Paused => continue,
                State::Down => {}
                State::Dark => {
                    self.waits_for(&format!("the disk of n{}", index + 1));
                    self.disks[index].mount()?;
                    // The power cut took a file that nobody synced, or did not.
                    let _ = self.disks[index].empty();
                    forget_boot(&self.cluster.nodes[index].data)?;
                }
                State::Failing => {
                    self.waits_for(&format!("the end of n{}", index + 1));
                    self.await_end(index, is_only).await?;
                    self.disks[index].unmount().await?;
                    self.disks[index].mount()?;
                }
                State::Gone => self.join(index)?,
            }
            self.cluster.nodes[index].spawn()?;
            self.states[index] = State::Up;
            started.push(index);
        }
        for index in started {
            self.waits_for(&format!("n{} to be ready", index + 1));
            self.cluster.nodes[index].await_ready().await?;
            self.cluster.nodes[index].flags.clone_from(&self.flags);
        }
        Ok(())
    }

    fn join(&mut self, node: usize) -> Result<()> {
        let able = self.able();
        let member = able.first().context("nobody to join")?;
        let addr = self.cluster.nodes[*member].addr().to_owned();
        self.cluster.nodes[node].flags.extend(["--join".to_owned(), addr]);
        Ok(())
    }

    /// The process of a failing disk ends by itself, with its code and its line.
    async fn await_end(&mut self, node: usize, is_only: bool) -> Result<()> {
        let process = &mut self.cluster.nodes[node];
        let ended = process.await_exit(NOTICE_MAX).await;
        if !is_only && ended.is_err() {
            // It may not have had anything to write.
            return process.kill();
        }
        let status = ended.with_context(|| format!("node {} goes on without its disk", node + 1))?;
        let log = process.log_text();
        let says = log.lines().rev().take(5).any(|line| line.starts_with("kvnode-server: "));
        if status.code() != Some(FATAL) || !says {
            let tail: Vec<&str> = log.lines().rev().take(3).collect();
            self.complaints.push(format!(
                "node {} ended with {status} when its disk failed, not with code {FATAL} after its line: {tail:?}",
                node + 1
            ));
        }
        Ok(())
    }

    /// A full disk keeps nobody from reading, and nobody restarts for it.
    async fn make_room(&mut self, nodes: &[usize], is_only: bool) -> Result<()> {
        if is_only && nodes.len() == self.states.len() {
            let node = &self.cluster.nodes[nodes[0]];
            eventually("a write is refused with OOM", SOON, async || {
                let reply = node.client().await?.run("APPEND filler 0123456789").await?;
                Ok(reply.as_error().filter(|error| error.starts_with("OOM ")).map(|_| ()))
            })
            .await?;
        }
        for &index in nodes {
            if is_only {
                self.read_when_full(index).await?;
            }
            if self.states[index] != State::Dark {
                let _ = self.disks[index].empty();
            }
        }
        Ok(())
    }

    /// A follower whose disk takes nothing at all falls behind those that go on; then its leader answers.
    async fn read_when_full(&mut self, index: usize) -> Result<()> {
        let reply = self.cluster.nodes[index].client().await?.run("GET filler").await?;
        if let Some(error) = reply.as_error() {
            self.reads_refused += 1;
            self.complaints.push(format!("node {}, its disk full, refuses to read: {error}", index + 1));
        }
        Ok(())
    }

    /// Waits until nothing is the matter any more: all run, all vote, and the clients get on.
    pub(crate) async fn settle(&mut self, shared: &Shared) -> Result<()> {
        self.waits_for("all to vote");
        let voters = self.cluster.await_voters(self.states.len()).await;
        let running = self.cluster.running();
        for index in 0..self.states.len() {
            ensure!(
                running.contains(&index),
                "node {} ended by itself\n{}",
                index + 1,
                self.cluster.nodes[index].tail()
            );
        }
        voters?;
        self.await_own_votes().await?;
        self.waits_for("all to have applied what the leader has");
        self.cluster.await_applied().await.context("after healing")?;
        self.waits_for("the clients to get on");
        progress(shared, 400, SOON).await.context("after healing")?;
        self.dark.clear();
        Ok(())
    }

    /// Waits until each node votes under the id that it has now: one in doubt about what it lost is a voter by its
    /// address until it comes back as a learner with a new id.
    async fn await_own_votes(&self) -> Result<()> {
        for node in &self.cluster.nodes {
            self.waits_for(&format!("{} to vote by its own id", node.addr()));
            eventually(&format!("{} votes by its own id", node.addr()), SOON, async || {
                let status = http::get(node.http(), "/v1/status").await?.json()?;
                let members = status["membership"]["members"].as_array().context("no members")?;
                let voters = members.iter().filter(|member| member["voter"] == true).count();
                let mut own = members.iter().filter(|member| member["id"] == status["node_id"]);
                let is_settled = status["membership"]["change_in_progress"] == false;
                let is_voter = own.any(|member| member["voter"] == true);
                ensure!(is_voter && is_settled && voters == self.states.len(), "{status}");
                Ok(Some(()))
            })
            .await?;
        }
        Ok(())
    }
}

/// A power cut comes with another boot of the kernel; this machine's goes on, so the note of the one before is
/// exchanged.
fn forget_boot(data: &Path) -> Result<()> {
    let path = data.join("life.json");
    let Ok(bytes) = std::fs::read(&path) else { return Ok(()) };
    let Ok(mut life) = serde_json::from_slice::<serde_json::Value>(&bytes) else { return Ok(()) };
    if life["boot_id"].is_string() {
        life["boot_id"] = "00000000-0000-0000-0000-000000000000".into();
        std::fs::write(&path, life.to_string())?;
    }
    Ok(())
}
