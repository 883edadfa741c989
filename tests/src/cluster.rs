//! A cluster of real processes: founding, joining, finding the leader, comparing contents.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use tempfile::TempDir;

use crate::binary;
use crate::client::Client;
use crate::http;
use crate::node::Node;
use crate::resp::Value;
use crate::wait::{SOON, eventually};

/// Nodes and the directory that holds their data and logs.
pub struct Cluster {
    /// All nodes, running or not. The first one founded the cluster.
    pub nodes: Vec<Node>,
    dir: Option<TempDir>,
    path: PathBuf,
    pub flags: Vec<String>,
}

impl Cluster {
    /// Founds a cluster on the first node and joins `count - 1` others to it, all of them voters at return.
    ///
    /// # Errors
    /// Anything that keeps the cluster from forming; with the logs.
    pub async fn start(count: usize, flags: &[&str]) -> Result<Self> {
        let mut cluster = Self::empty(flags)?;
        let formed = cluster.grow(count).await;
        formed.with_context(|| cluster.logs())?;
        Ok(cluster)
    }

    /// A cluster without nodes.
    ///
    /// # Errors
    /// No temporary directory can be made.
    pub fn empty(flags: &[&str]) -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("kvnode-test-").tempdir()?;
        let path = dir.path().to_owned();
        let flags = flags.iter().map(|&flag| flag.to_owned()).collect();
        Ok(Self { nodes: Vec::new(), dir: Some(dir), path, flags })
    }

    /// Directory of all files of the cluster.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// As [`Cluster::start`], every node by a program that becomes the server.
    ///
    /// # Errors
    /// A node does not start or is not promoted in time.
    pub async fn start_by(program: &Path, count: usize) -> Result<Self> {
        let mut cluster = Self::empty(&[])?;
        while cluster.nodes.len() < count {
            let join = cluster.running().first().map(|&index| cluster.nodes[index].addr().to_owned());
            cluster.add_by(program, join.as_deref()).await?;
        }
        cluster.await_voters(count).await?;
        Ok(cluster)
    }

    /// Adds nodes until there are `count`, each joined through the first running one, and waits until all vote.
    ///
    /// # Errors
    /// A node does not start or is not promoted in time.
    pub async fn grow(&mut self, count: usize) -> Result<()> {
        while self.nodes.len() < count {
            let join = self.running().first().map(|&index| self.nodes[index].addr().to_owned());
            self.add(join.as_deref()).await?;
        }
        self.await_voters(count).await
    }

    /// kill -9 of all nodes, then all of them start again at once.
    ///
    /// # Errors
    /// One does not come back.
    pub async fn kill_and_restart_all(&mut self) -> Result<()> {
        for index in self.running() {
            self.nodes[index].kill()?;
        }
        self.start_all().await
    }

    /// Starts all nodes at once: none of them may need another one to be ready first.
    ///
    /// # Errors
    /// One runs already or does not come up.
    pub async fn start_all(&mut self) -> Result<()> {
        for node in &mut self.nodes {
            node.spawn()?;
        }
        for node in &mut self.nodes {
            node.await_ready().await?;
        }
        Ok(())
    }

    /// Adds and starts one node, with `--join` if given; returns its index.
    ///
    /// # Errors
    /// It does not start.
    pub async fn add(&mut self, join: Option<&str>) -> Result<usize> {
        self.add_by(binary::server(), join).await
    }

    /// As [`Cluster::add`], by a program that becomes the server.
    ///
    /// # Errors
    /// It does not start.
    pub async fn add_by(&mut self, program: &Path, join: Option<&str>) -> Result<usize> {
        let mut flags = self.flags.clone();
        if let Some(addr) = join {
            flags.extend(["--join".to_owned(), addr.to_owned()]);
        }
        let index = self.nodes.len();
        let mut node = Node::new(&self.path, &format!("node{}", index + 1), &flags).by(program);
        let started = node.start().await;
        self.nodes.push(node);
        started?;
        Ok(index)
    }

    /// Waits until the running nodes agree that exactly `count` members vote and one leads.
    ///
    /// # Errors
    /// Not in time.
    pub async fn await_voters(&mut self, count: usize) -> Result<()> {
        let what = format!("{count} voters on each node");
        let running = self.running();
        let waited = eventually(&what, SOON, async || {
            for &index in &running {
                let peers = self.peers(index).await?;
                let voters = peers.values().filter(|state| state.as_str() != "Learner").count();
                let leaders = peers.values().filter(|state| state.as_str() == "Leader").count();
                let learners = peers.len() - voters;
                ensure!(
                    voters == count && leaders == 1 && learners == 0,
                    "node {} says {peers:?}",
                    index + 1
                );
                // In the joint phase all are voters already, but one that stops then can still hold the change up.
                let status = http::get(self.nodes[index].http(), "/v1/status").await?.json()?;
                let changing = &status["membership"]["change_in_progress"];
                ensure!(changing == false, "node {}: change in progress: {changing}", index + 1);
            }
            Ok(Some(()))
        })
        .await;
        waited.with_context(|| self.logs())
    }

    /// RAFTPEERS of one node: client address to state.
    ///
    /// # Errors
    /// It does not answer with pairs.
    pub async fn peers(&self, index: usize) -> Result<BTreeMap<String, String>> {
        let reply =
            self.nodes[index].client().await?.with_patience(Duration::from_secs(2)).run("RAFTPEERS").await?;
        let texts = reply.texts();
        ensure!(matches!(reply, Value::Array(_) | Value::Map(_)), "RAFTPEERS: {reply:?}");
        Ok(texts.chunks(2).map(|pair| (pair[0].clone(), pair.get(1).cloned().unwrap_or_default())).collect())
    }

    /// Indexes of the nodes whose process lives.
    pub fn running(&mut self) -> Vec<usize> {
        (0..self.nodes.len()).filter(|&index| self.nodes[index].is_running()).collect()
    }

    /// Index of the leader: the node that says so in the highest term, once there is one.
    ///
    /// # Errors
    /// None in time.
    pub async fn leader(&mut self) -> Result<usize> {
        let running = self.running();
        self.leader_among(&running).await
    }

    /// Like [`Cluster::leader`], asking only these nodes (the others may be stopped).
    ///
    /// # Errors
    /// None in time.
    pub async fn leader_among(&self, nodes: &[usize]) -> Result<usize> {
        eventually("one of the nodes leads", SOON, async || {
            let mut best: Option<(i64, usize)> = None;
            for &index in nodes {
                if let Ok(Some(term)) = self.leads_in_term(index).await {
                    best = best.max(Some((term, index)));
                }
            }
            Ok(best.map(|(_, index)| index))
        })
        .await
        .with_context(|| self.logs())
    }

    /// Indexes of the running nodes that do not lead.
    ///
    /// # Errors
    /// No leader in time.
    pub async fn followers(&mut self) -> Result<Vec<usize>> {
        let leader = self.leader().await?;
        Ok(self.running().into_iter().filter(|&index| index != leader).collect())
    }

    /// The term in which this node leads, if it does.
    ///
    /// # Errors
    /// It does not say, also because it cannot be reached at once.
    pub async fn leads_in_term(&self, index: usize) -> Result<Option<i64>> {
        const MOMENT: Duration = Duration::from_millis(500);
        let connecting = tokio::time::timeout(MOMENT, self.nodes[index].client()).await;
        let mut client = connecting.context("not connected in time")??.with_patience(MOMENT);
        if client.text("RAFTSTATE").await?.as_deref() != Some("Leader") {
            return Ok(None);
        }
        let term = stat(&mut client, "term").await?;
        Ok(Some(term))
    }

    /// A connection to the leader.
    ///
    /// # Errors
    /// No leader in time.
    pub async fn leader_client(&mut self) -> Result<Client> {
        let leader = self.leader().await?;
        self.nodes[leader].client().await
    }

    /// Waits until every running node has applied what the leader's log holds now.
    ///
    /// # Errors
    /// Not in time.
    pub async fn await_applied(&mut self) -> Result<()> {
        // Not what somebody has applied: after a restart of all nobody has yet applied what is committed anew.
        let leader = self.leader().await?;
        let target = stat(&mut self.nodes[leader].client().await?, "last_log_index").await?;
        for index in self.running() {
            let node = &self.nodes[index];
            eventually(&format!("node {} has applied {target}", index + 1), SOON, async || {
                let applied = stat(&mut node.client().await?, "applied_index").await?;
                Ok((applied >= target).then_some(()))
            })
            .await?;
        }
        Ok(())
    }

    /// Waits until every running node holds the same content, by its own local state, and returns it.
    ///
    /// # Errors
    /// They differ for too long.
    pub async fn same_content(&mut self) -> Result<BTreeMap<Vec<u8>, Vec<u8>>> {
        self.await_applied().await?;
        let running = self.running();
        let first = *running.first().context("no node runs")?;
        let expected = content(&mut self.nodes[first].client().await?).await?;
        for &index in &running[1..] {
            let found = content(&mut self.nodes[index].client().await?).await?;
            if found != expected {
                bail!("node {} holds {} keys, node {} {}", first + 1, expected.len(), index + 1, found.len());
            }
        }
        Ok(expected)
    }

    /// The ends of all logs, for a failure message.
    #[must_use]
    pub fn logs(&self) -> String {
        self.nodes.iter().map(Node::tail).collect::<Vec<_>>().join("\n")
    }

    /// Keeps the directory after the end, for a look at what went wrong.
    pub fn keep_files(&mut self) {
        if let Some(dir) = self.dir.take() {
            eprintln!("files kept in {}", dir.keep().display());
        }
    }
}

/// One number of RAFTSTATS.
///
/// # Errors
/// It is not there.
pub async fn stat(client: &mut Client, name: &str) -> Result<i64> {
    let texts = client.run("RAFTSTATS").await?.texts();
    let value = texts.chunks(2).find(|pair| pair[0] == name).and_then(|pair| pair.get(1));
    let value = value.with_context(|| format!("RAFTSTATS has no {name}: {texts:?}"))?;
    value.parse().with_context(|| format!("RAFTSTATS {name}={value:?}"))
}

/// All keys and values of database 0 that this connection sees, read from the node's own state.
///
/// # Errors
/// A page is not as KEYS promises.
pub async fn content(client: &mut Client) -> Result<BTreeMap<Vec<u8>, Vec<u8>>> {
    const PAGE: usize = 5000;
    client.ok("READONLY").await?;
    let mut all = BTreeMap::new();
    let mut pivot: Option<Vec<u8>> = None;
    let limit = PAGE.to_string().into_bytes();
    loop {
        let mut command: Vec<&[u8]> = vec![b"KEYS", b"*", b"LIMIT", &limit, b"WITHVALUES"];
        if let Some(last) = &pivot {
            command.extend([&b"PIVOT"[..], last]);
        }
        let reply = client.call(&command).await?;
        let items = reply.items();
        for pair in items.chunks(2) {
            let key = pair[0].as_bytes().with_context(|| format!("KEYS: {reply:?}"))?.to_vec();
            let value =
                pair.get(1).and_then(|value| value.as_bytes()).context("KEYS without a value")?.to_vec();
            ensure!(
                pivot.as_ref().is_none_or(|last| *last < key),
                "KEYS is not in order at {}",
                key.escape_ascii()
            );
            pivot = Some(key.clone());
            all.insert(key, value);
        }
        if items.len() < 2 * PAGE {
            client.ok("READWRITE").await?;
            return Ok(all);
        }
    }
}
