//! The cluster under test: each node in a network of its own, on a disk of its own; and what is done to it.
//!
//! A fault leaves a [`Wound`], which [`Site::heal`] closes. Two may be open at a time; the state of each node says
//! what is left to be done for it.

mod heal;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use kvnode_tests::binary;
use kvnode_tests::cluster::Cluster;
use kvnode_tests::nemesis::Progress as _;
use kvnode_tests::node::Node;
use kvnode_tests::wait::{SOON, eventually, until};
use tokio::sync::watch;

use crate::clock;
use crate::disk::{self, Disk};
use crate::load::Shared;
use crate::network::{Cut, Network, Shape, cuts};
use crate::options::Options;
use crate::plan::{Kind, Role};

/// Limits that make what is rare with a small state frequent: new log files, purges, checkpoints for those that are
/// behind.
const ENVIRONMENT: [(&str, &str); 6] = [
    ("KVNODE_PROTECTED_MODE", "false"),
    ("KVNODE_DISK_RESERVE_BYTES", "64MiB"),
    ("KVNODE_LOG_SEGMENT_BYTES", "2MiB"),
    ("KVNODE_LOG_KEEP_BYTES", "4MiB"),
    ("KVNODE_MEMTABLE_BYTES", "4MiB"),
    ("RUST_BACKTRACE", "1"),
];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Up,
    Paused,
    /// Its process was ended.
    Down,
    /// Its power was cut.
    Dark,
    /// Its disk fails.
    Failing,
    /// No member any more.
    Gone,
}

/// What a fault leaves to be healed.
#[derive(Debug)]
pub(crate) enum Wound {
    Nothing,
    /// These nodes are to be started.
    Down(Vec<usize>),
    Paused(usize),
    Parted(BTreeSet<Cut>),
    Full(Vec<usize>),
    Shifted(usize),
}

pub(crate) struct Site {
    pub(crate) cluster: Cluster,
    network: Network,
    disks: Vec<Disk>,
    states: Vec<State>,
    /// Nodes whose disks lost what was not synced since all were well.
    dark: BTreeSet<usize>,
    /// A majority that loses its power may lose acknowledged writes.
    may_lose: bool,
    /// Cuts of a node's power so far.
    pub(crate) power_cuts: u64,
    /// Promises that were broken without keeping the cluster from going on.
    pub(crate) complaints: Vec<String>,
    /// Reads that a node with a full disk refused.
    pub(crate) reads_refused: u64,
    /// When epochs of the keys ended.
    pub(crate) epochs: Vec<u64>,
    /// Disks of all nodes are put back to what they were before: a planted lie.
    rolls_back: bool,
    /// What a healing waits for.
    pub(crate) stage: watch::Sender<String>,
    /// Its name tells runs apart.
    pub(crate) dir: PathBuf,
    flags: Vec<String>,
    /// Another build of the server, and the nodes that run it.
    other: Option<PathBuf>,
    others: BTreeSet<usize>,
}

impl Site {
    /// Founds the cluster.
    pub(crate) async fn found(dir: &Path, options: &Options) -> Result<Self> {
        let flags = ["--durability", &options.durability, "--consistency", &options.consistency];
        let flags: Vec<String> = flags.iter().map(|&flag| flag.to_owned()).collect();
        let network = Network::make(options.nodes)?;
        let mut cluster = Cluster::empty(&[])?;
        let mut disks = Vec::new();
        for index in 0..options.nodes {
            let disk = Disk::make(dir, &format!("n{}", index + 1))?;
            let mut node = Node::new(&disk.path, "data", &flags)
                .at(&Network::addr(index))
                .through(&Network::within(index));
            node.log = dir.join(format!("n{}.log", index + 1));
            node.env = environment();
            let first: Option<&Node> = cluster.nodes.first();
            let how = match first {
                None => ["--formation".to_owned(), "auto".to_owned()],
                Some(founder) => ["--join".to_owned(), founder.addr().to_owned()],
            };
            node.flags.extend(how);
            node.start().await?;
            // Later starts find a cluster on their disk; a disk that has lost it must not found another one.
            node.flags.clone_from(&flags);
            cluster.nodes.push(node);
            disks.push(disk);
        }
        cluster.await_voters(options.nodes).await?;
        Ok(Self {
            cluster,
            network,
            disks,
            states: vec![State::Up; options.nodes],
            dark: BTreeSet::new(),
            may_lose: options.claim != "high",
            power_cuts: 0,
            complaints: Vec::new(),
            reads_refused: 0,
            epochs: Vec::new(),
            rolls_back: options.plants_rollback,
            stage: watch::Sender::new(String::new()),
            dir: dir.to_owned(),
            flags,
            other: options.other.clone(),
            others: BTreeSet::new(),
        })
    }

    fn able(&self) -> Vec<usize> {
        self.in_states(&[State::Up])
    }

    fn in_states(&self, wanted: &[State]) -> Vec<usize> {
        (0..self.states.len()).filter(|index| wanted.contains(&self.states[*index])).collect()
    }

    fn set(&mut self, nodes: &[usize], state: State) {
        for &index in nodes {
            self.states[index] = state;
        }
    }

    /// The node in this role among those that nothing is the matter with; without a leader the first of them.
    async fn target(&self, role: Role) -> Result<usize> {
        let able = self.able();
        let mut best: Option<(i64, usize)> = None;
        for &index in &able {
            if let Ok(Some(term)) = self.cluster.leads_in_term(index).await {
                best = best.max(Some((term, index)));
            }
        }
        let leader = best.map(|(_, index)| index);
        let followers: Vec<usize> = able.iter().copied().filter(|index| Some(*index) != leader).collect();
        let chosen = match (role, leader) {
            (Role::Leader, Some(leader)) => Some(leader),
            (Role::Follower(at), _) if !followers.is_empty() => Some(followers[at % followers.len()]),
            _ => able.first().copied(),
        };
        chosen.context("no node is left to hurt")
    }

    /// Does it. `is_first`: nothing else is the matter, so that what a healthy cluster promises is asked.
    pub(crate) async fn hurt(
        &mut self,
        kind: Kind,
        role: Role,
        shared: &Shared,
        is_first: bool,
    ) -> Result<(Wound, String)> {
        let count = self.states.len();
        if self.able().is_empty() && !matches!(kind, Kind::PowerAll | Kind::KillAll) {
            return Ok((Wound::Nothing, "nobody".to_owned()));
        }
        let node = if self.able().is_empty() { 0 } else { self.target(role).await? };
        let name = format!("n{}", node + 1);
        shared.record.note(kind.name(), format!("{name} begins"));
        let wound = match kind {
            Kind::Kill => self.kill(&[node])?,
            Kind::KillAll => {
                let running = self.in_states(&[State::Up, State::Paused]);
                self.kill(&running)?
            }
            Kind::Stop => self.stop(node, is_first).await?,
            Kind::Pause => {
                self.cluster.nodes[node].pause()?;
                self.states[node] = State::Paused;
                Wound::Paused(node)
            }
            Kind::Pulse => self.pulse(node, shared).await?,
            Kind::Transfer => self.transfer(node, is_first).await?,
            Kind::Part(shape) => self.part(shape, node)?,
            Kind::Power => self.cut_power(&[node], shared).await?,
            Kind::PowerMost => {
                let most: Vec<usize> = (0..=count / 2).map(|step| (node + step) % count).collect();
                self.cut_power(&most, shared).await?
            }
            Kind::PowerAll => {
                let all: Vec<usize> = (0..count).collect();
                self.cut_power(&all, shared).await?
            }
            Kind::Io => self.fail_disk(node, shared)?,
            Kind::Full => self.fill(&[node])?,
            Kind::FullAll => {
                let all: Vec<usize> = (0..count).collect();
                self.fill(&all)?
            }
            Kind::Clock => self.shift_clock(node, role, shared).await?,
            Kind::Member => self.remove(node, shared).await?,
            Kind::Upgrade => self.upgrade(node, is_first).await?,
            Kind::UpgradeAll => self.upgrade_all(shared).await?,
        };
        let hits_all = matches!(kind, Kind::KillAll | Kind::PowerAll | Kind::FullAll | Kind::UpgradeAll);
        Ok((wound, if hits_all { "all".into() } else { name }))
    }

    fn kill(&mut self, nodes: &[usize]) -> Result<Wound> {
        for &index in nodes {
            self.cluster.nodes[index].kill()?;
        }
        self.set(nodes, State::Down);
        Ok(Wound::Down(nodes.to_vec()))
    }

    async fn stop(&mut self, node: usize, is_first: bool) -> Result<Wound> {
        let status = self.cluster.nodes[node].terminate().await?;
        self.states[node] = State::Down;
        ensure!(status.success() || !is_first, "SIGTERM ended node {} with {status}", node + 1);
        Ok(Wound::Down(vec![node]))
    }

    /// SIGTERM; it will start as the build that it did not run.
    async fn upgrade(&mut self, node: usize, is_first: bool) -> Result<Wound> {
        let wound = self.stop(node, is_first).await?;
        self.exchange(node, !self.others.contains(&node))?;
        Ok(wound)
    }

    /// All nodes one after the other, the leader last, to the build that it does not run.
    async fn upgrade_all(&mut self, shared: &Shared) -> Result<Wound> {
        let leader = self.cluster.leader().await?;
        let to_other = !self.others.contains(&leader);
        let followers = self.able().into_iter().filter(|index| *index != leader);
        for node in followers.chain([leader]).collect::<Vec<_>>() {
            let status = self.cluster.nodes[node].terminate().await?;
            ensure!(status.success(), "SIGTERM ended node {} with {status}", node + 1);
            self.exchange(node, to_other)?;
            self.cluster.nodes[node].start().await?;
            self.cluster.await_voters(self.states.len()).await?;
            let what = || format!("after node {} has changed its build", node + 1);
            progress(shared, 100, SOON).await.with_context(what)?;
        }
        Ok(Wound::Nothing)
    }

    fn exchange(&mut self, node: usize, to_other: bool) -> Result<()> {
        let other = self.other.as_ref().context("there is no other build")?;
        let program = if to_other { other } else { binary::server() };
        self.cluster.nodes[node].becomes(program);
        if to_other {
            self.others.insert(node)
        } else {
            self.others.remove(&node)
        };
        Ok(())
    }

    async fn pulse(&mut self, node: usize, shared: &Shared) -> Result<Wound> {
        for _ in 0..5 {
            self.cluster.nodes[node].pause()?;
            let before = shared.record.finished();
            let has_moved = async || shared.record.finished() > before + 1;
            let _ = until("one more", Duration::from_millis(100), has_moved).await;
            self.cluster.nodes[node].resume()?;
            let _ = progress(shared, 100, Duration::from_millis(300)).await;
        }
        Ok(Wound::Nothing)
    }

    async fn transfer(&mut self, node: usize, is_first: bool) -> Result<Wound> {
        if !is_first {
            // Nobody may be there to lead.
            let mut client = self.cluster.nodes[node].client().await?.with_patience(Duration::from_secs(3));
            let _ = client.call(&["RAFTTRANSFER"]).await;
            return Ok(Wound::Nothing);
        }
        let leader = self.cluster.leader().await?;
        self.cluster.nodes[leader].client().await?.ok("RAFTTRANSFER").await?;
        let others: Vec<usize> = self.able().into_iter().filter(|index| *index != leader).collect();
        self.cluster.leader_among(&others).await?;
        Ok(Wound::Nothing)
    }

    fn part(&mut self, shape: Shape, node: usize) -> Result<Wound> {
        let count = self.states.len();
        let cuts = cuts(shape, node, (node + 1) % count, count);
        self.network.cut(&cuts)?;
        Ok(Wound::Parted(cuts))
    }

    /// These nodes are about to lose what was not synced. Where the durability does not keep everything, and it is a
    /// majority that has lost it, an epoch ends; true if so.
    fn lose(&mut self, nodes: &[usize], shared: &Shared) -> bool {
        self.dark.extend(nodes);
        let ends = self.may_lose && self.dark.len() > self.states.len() / 2;
        if ends {
            self.epochs.push(shared.record.now());
        }
        ends
    }

    async fn cut_power(&mut self, nodes: &[usize], shared: &Shared) -> Result<Wound> {
        if self.rolls_back {
            for &index in nodes {
                self.disks[index].remember()?;
            }
            progress(shared, 400, SOON).await?;
        }
        let lit: Vec<usize> =
            nodes.iter().copied().filter(|index| self.states[*index] != State::Dark).collect();
        let ends_epoch = self.lose(&lit, shared);
        self.power_cuts += lit.len() as u64;
        // Nothing leaves a machine after its power has gone. ext4's shutdown has a sync that is under way succeed
        // though what it synced is lost (Linux 6.18, 4 of 100), and a process that ran on would acknowledge that.
        for &index in lit.iter().filter(|index| self.states[**index] == State::Up) {
            self.cluster.nodes[index].freeze()?;
        }
        let live = lit.iter().filter(|index| self.states[**index] != State::Failing);
        let disks: Vec<&Disk> = live.map(|index| &self.disks[*index]).collect();
        disk::shut_down(&disks)?;
        for &index in &lit {
            if self.states[index] != State::Down {
                self.cluster.nodes[index].kill()?;
            }
        }
        if ends_epoch {
            // Not before: what is written to the new keys must not be lost with the old ones.
            shared.keys.begin_epoch();
        }
        for &index in &lit {
            self.disks[index].unmount().await?;
            if self.rolls_back {
                self.disks[index].roll_back()?;
            }
        }
        self.set(&lit, State::Dark);
        Ok(Wound::Down(lit))
    }

    fn fail_disk(&mut self, node: usize, shared: &Shared) -> Result<Wound> {
        let ends_epoch = self.lose(&[node], shared);
        disk::shut_down(&[&self.disks[node]])?;
        if ends_epoch {
            shared.keys.begin_epoch();
        }
        self.states[node] = State::Failing;
        Ok(Wound::Down(vec![node]))
    }

    fn fill(&mut self, nodes: &[usize]) -> Result<Wound> {
        for &index in nodes {
            self.disks[index].fill()?;
        }
        Ok(Wound::Full(nodes.to_vec()))
    }

    /// Restarts the node under a clock of our own, gives it the lead if that is its role, and has it jump.
    async fn shift_clock(&mut self, node: usize, role: Role, shared: &Shared) -> Result<Wound> {
        let clock = clock::Clock::make(&self.dir)?;
        self.cluster.nodes[node].terminate().await?;
        self.cluster.nodes[node].env.extend(clock.environment());
        self.cluster.nodes[node].start().await?;
        self.cluster.await_voters(self.states.len()).await?;
        if role == Role::Leader {
            let leader = self.cluster.leader().await?;
            let addr = self.cluster.nodes[node].addr().to_owned();
            self.cluster.nodes[leader].client().await?.ok(&format!("RAFTTRANSFER {addr}")).await?;
            self.cluster.leader_among(&[node]).await?;
        }
        for days in [1, -1] {
            clock.shift(days)?;
            clock::seen(&self.cluster.nodes[node], days).await?;
            progress(shared, 400, SOON).await.context("while a clock is off by a day")?;
        }
        clock.shift(0)?;
        clock::seen(&self.cluster.nodes[node], 0).await?;
        Ok(Wound::Shifted(node))
    }

    async fn remove(&mut self, node: usize, shared: &Shared) -> Result<Wound> {
        let leader = self.cluster.leader().await?;
        let others: Vec<usize> = self.able().into_iter().filter(|index| *index != node).collect();
        if leader == node {
            self.cluster.nodes[node].client().await?.ok("RAFTTRANSFER").await?;
            self.cluster.leader_among(&others).await?;
        }
        let addr = self.cluster.nodes[node].addr().to_owned();
        let asked = &self.cluster.nodes[others[0]];
        asked.client().await?.ok(&format!("RAFTREMOVEPEER {addr}")).await?;
        eventually("the member is gone", SOON, async || {
            Ok((!asked.client().await?.run("RAFTPEERS").await?.texts().contains(&addr)).then_some(()))
        })
        .await?;
        self.cluster.nodes[node].kill()?;
        self.cluster.nodes[node].wipe()?;
        self.states[node] = State::Gone;
        progress(shared, 200, SOON).await.context("with a member less")?;
        Ok(Wound::Down(vec![node]))
    }
}

fn environment() -> Vec<(String, String)> {
    ENVIRONMENT.iter().map(|&(name, value)| (name.to_owned(), value.to_owned())).collect()
}

/// Waits until the clients have finished so many more operations.
pub(crate) async fn progress(shared: &Shared, operations: usize, deadline: Duration) -> Result<()> {
    let target = shared.record.finished() + operations;
    until("the clients get on", deadline, async || shared.record.finished() >= target).await
}

impl Site {
    /// Ends the nodes and copies their logs and data.
    pub(crate) async fn keep(&mut self, into: &Path) -> Result<()> {
        for index in self.cluster.running() {
            self.cluster.nodes[index].kill()?;
        }
        for (disk, node) in self.disks.iter().zip(&self.cluster.nodes) {
            std::fs::copy(&node.log, into.join(node.log.file_name().unwrap_or_default()))?;
            disk.keep(into).await?;
        }
        Ok(())
    }

    /// Lines of panics in the logs of the nodes.
    pub(crate) fn panics(&self) -> Vec<String> {
        let texts = self.cluster.nodes.iter().map(|node| (node.log.display().to_string(), node.log_text()));
        texts
            .flat_map(|(path, text)| {
                let lines = text.lines().filter(|line| line.contains("panicked at"));
                lines.map(|line| format!("{path}: {line}")).collect::<Vec<_>>()
            })
            .collect()
    }
}
