//! One cluster of which one node is to die at a crash point; its death, its return, and the verdict.
//!
//! ```text
//! scene: form, load -> arm (the file is there) -> provoke until the process is dead
//! here:  killed by itself, at that point? -> start it again -> all voters back -> nothing acknowledged is lost,
//!        all contents equal, no client of another node saw a failure, writes and reads go on, nothing left over
//! ```

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use kvnode_tests::client::Client;
use kvnode_tests::cluster::Cluster;
use kvnode_tests::http;
use kvnode_tests::node::{Node, run_to_end};
use kvnode_tests::wait::{SOON, eventually};
use kvnode_tests::writer::Writer;

use crate::table::Case;

/// Limits that make what is rare with a small state frequent: new log files, purges, flushes.
const ENVIRONMENT: [(&str, &str); 3] = [
    ("KVNODE_LOG_SEGMENT_BYTES", "128KiB"),
    ("KVNODE_ENTRY_BYTES_MAX", "64KiB"),
    ("KVNODE_MEMTABLE_BYTES", "1MiB"),
];

/// The cluster and what is known of it.
pub(crate) struct Stage {
    pub(crate) cluster: Cluster,
    /// The node that is to die.
    pub(crate) armed: usize,
    /// Voters that there are in the end.
    pub(crate) voters: usize,
    /// The others can go on alone: their clients see a pause and no failure.
    pub(crate) outlives: bool,
    /// What must be there in the end beside what was acknowledged here.
    pub(crate) expected: BTreeMap<Vec<u8>, Vec<u8>>,
    case: Case,
    when: PathBuf,
    /// Clients of nodes that stay, and those that are connected to the armed one as well.
    writers: Vec<Writer>,
    beside: Vec<Writer>,
}

impl Stage {
    /// An empty one, of which this node is to be armed.
    pub(crate) fn new(case: &Case, armed: usize) -> Result<Self> {
        let cluster = Cluster::empty(&[])?;
        let when = cluster.path().join("armed");
        Ok(Self {
            cluster,
            armed,
            voters: 3,
            outlives: true,
            expected: BTreeMap::new(),
            case: case.clone(),
            when,
            writers: Vec::new(),
            beside: Vec::new(),
        })
    }

    /// Adds a node that is not started yet; armed, if it is the one.
    pub(crate) fn add(&mut self, flags: &[&str]) -> &mut Node {
        let index = self.cluster.nodes.len();
        let flags: Vec<String> = flags.iter().map(|&flag| flag.to_owned()).collect();
        let mut node = Node::new(self.cluster.path(), &format!("node{}", index + 1), &flags);
        node.env = ENVIRONMENT.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec();
        if index == self.armed {
            let point = format!("{}:{}", self.case.point, self.case.passing);
            node.env.push(("KVNODE_CRASH_POINT".into(), point));
            node.env.push(("KVNODE_CRASH_WHEN".into(), self.when.display().to_string()));
        }
        self.cluster.nodes.push(node);
        let last = self.cluster.nodes.len() - 1;
        &mut self.cluster.nodes[last]
    }

    /// The first node founds, the others join it at once; all of them vote at return, and the first leads.
    pub(crate) async fn form(&mut self, count: usize, flags: &[&str]) -> Result<()> {
        self.add(flags).start().await?;
        let join = self.addr(0);
        for _ in 1..count {
            let flags: Vec<&str> = flags.iter().copied().chain(["--join", &join]).collect();
            self.add(&flags).spawn()?;
        }
        for node in &mut self.cluster.nodes[1..] {
            node.await_ready().await?;
        }
        self.cluster.await_voters(count).await?;
        self.lead(0).await
    }

    /// Has this node lead.
    pub(crate) async fn lead(&mut self, index: usize) -> Result<()> {
        let addr = self.addr(index);
        eventually("the chosen node leads", SOON, async || {
            if self.cluster.leader().await? == index {
                return Ok(Some(()));
            }
            self.cluster.nodes[index].client().await?.run(&format!("RAFTTRANSFER {addr}")).await?;
            Ok(None)
        })
        .await
    }

    /// Client address of a node that was ready once.
    pub(crate) fn addr(&self, index: usize) -> String {
        self.cluster.nodes[index].addr().to_owned()
    }

    /// Clients begin to write: one at each other node that runs, and one that begins at the armed one, if that runs.
    pub(crate) async fn load(&mut self) -> Result<()> {
        let running = self.cluster.running();
        for &index in &running {
            if index == self.armed {
                let others = running.iter().filter(|&&other| other != index);
                let addrs = [index].iter().chain(others).map(|&index| self.addr(index)).collect();
                self.beside.push(Writer::start(addrs));
            } else {
                self.writers.push(Writer::start(vec![self.addr(index)]));
            }
        }
        for writer in self.writers.iter().chain(&self.beside) {
            writer.progress(10).await?;
        }
        Ok(())
    }

    /// From now on passings count.
    pub(crate) fn arm(&self) -> Result<()> {
        Ok(fs::write(&self.when, b"")?)
    }

    /// Does this until the armed process is dead, which then must have died by itself and at its point.
    pub(crate) async fn until_dead(&mut self, provoke: impl Future<Output = Result<()>>) -> Result<()> {
        let node = &mut self.cluster.nodes[self.armed];
        let status = {
            let exit = node.await_exit(SOON);
            tokio::pin!(exit, provoke);
            tokio::select! {
                status = &mut exit => status,
                ended = &mut provoke => {
                    ended.context("provoking it")?;
                    exit.await
                }
            }
        };
        let status = status.with_context(|| format!("{} was not reached", self.case))?;
        let line = format!("kvnode-server: died at {}:{}\n", self.case.point, self.case.passing);
        let log = node.log_text();
        ensure!(status.signal() == Some(9), "the armed process ended with {status}, not by SIGKILL");
        ensure!(log.matches(&line).count() == 1, "the armed process was killed, but not at its point");
        Ok(())
    }

    /// Starts the dead node as if nothing had happened, and judges.
    pub(crate) async fn judge(&mut self) -> Result<()> {
        let node = &mut self.cluster.nodes[self.armed];
        node.env.retain(|(name, _)| !name.starts_with("KVNODE_CRASH"));
        node.start().await.context("it does not start again")?;
        if self.cluster.nodes.len() < self.voters {
            self.complete().await?;
        }
        self.cluster.await_voters(self.voters).await?;
        if self.writers.is_empty() {
            self.load().await?;
        }
        for writer in self.writers.iter().chain(&self.beside) {
            writer.progress(10).await?;
        }
        let mut expected = std::mem::take(&mut self.expected);
        for (writers, outlives) in
            [(std::mem::take(&mut self.writers), self.outlives), (std::mem::take(&mut self.beside), false)]
        {
            for writer in writers {
                let report = writer.stop().await?;
                if outlives {
                    report.without_failure().context("a client of a node that lived")?;
                }
                expected.extend(report.acknowledged.iter().map(|n| {
                    let value = n.to_string().into_bytes();
                    (format!("w:{n}").into_bytes(), value)
                }));
            }
        }
        self.serves().await?;
        expected.insert(b"after".to_vec(), b"all".to_vec());
        self.holds(&expected).await?;
        self.contents_are_equal().await?;
        self.nothing_is_left_over().await
    }

    /// The nodes that the scene could not form yet.
    async fn complete(&mut self) -> Result<()> {
        let join = self.addr(self.armed);
        while self.cluster.nodes.len() < self.voters {
            self.add(&["--join", &join]).start().await?;
        }
        Ok(())
    }

    /// The node that died takes writes and answers reads, and so does every other one.
    async fn serves(&self) -> Result<()> {
        self.cluster.nodes[self.armed].client().await?.ok("SET after all").await?;
        for node in &self.cluster.nodes {
            let found = node.client().await?.text("GET after").await?;
            ensure!(found.as_deref() == Some("all"), "{} answers {found:?}", node.addr());
        }
        Ok(())
    }

    /// All nodes hold the same, and of this everything.
    async fn holds(&mut self, expected: &BTreeMap<Vec<u8>, Vec<u8>>) -> Result<()> {
        let content = self.cluster.same_content().await?;
        for (key, value) in expected {
            let found = content.get(key);
            let text = |bytes: &[u8]| bytes.escape_ascii().to_string();
            ensure!(
                found == Some(value),
                "acknowledged: {} = {}; found: {:?}",
                text(key),
                text(value),
                found.map(|value| text(value))
            );
        }
        let lost = content.keys().find(|key| key.starts_with(b"lost:"));
        ensure!(lost.is_none(), "what was truncated is back: {lost:?}");
        Ok(())
    }

    /// The leader finds the running digests of all nodes, over all databases, equal at an entry that is newer than the
    /// return of the dead one.
    async fn contents_are_equal(&mut self) -> Result<()> {
        let index = |text: &str| text.rsplit('-').next().and_then(|index| index.parse::<u64>().ok());
        let leader = self.cluster.leader().await?;
        let http = self.cluster.nodes[leader].http().to_owned();
        let target = http::get(&http, "/v1/status").await?.json()?["log"]["last_index"].as_u64();
        let target = target.context("the leader's log is empty")?;
        eventually(&format!("all contents are equal at entry {target} or later"), SOON, async || {
            let status = http::get(&http, "/v1/status").await?.json()?;
            let members = status["membership"]["members"].as_array().context("no members")?;
            let wrong = members.iter().find(|member| !member["diverged_at"].is_null());
            ensure!(wrong.is_none(), "a node has diverged: {status}");
            let equal = status["log"]["equal"].as_str().and_then(index);
            ensure!(equal >= Some(target), "{}", status["log"]);
            Ok(Some(()))
        })
        .await
    }

    /// No half-made file is left on the node that died, and every snapshot that it lists is whole.
    async fn nothing_is_left_over(&self) -> Result<()> {
        let data = &self.cluster.nodes[self.armed].data;
        // A state that was replaced goes with its last reader.
        eventually("nothing half-made is left", SOON, async || {
            let left = left_over(data)?;
            ensure!(left.is_empty(), "{left:?}");
            Ok(Some(()))
        })
        .await?;
        for name in names(&data.join("snapshots"))? {
            let file = data.join("snapshots").join(&name).join("state.bin").display().to_string();
            let (code, _) = run_to_end(&["--parse-snapshot", &file], SOON).await?;
            ensure!(code == Some(0), "snapshot {name} is not whole: {code:?}");
        }
        Ok(())
    }
}

/// What is in a data directory and belongs to nothing: files under construction, received checkpoints, a second state.
fn left_over(data: &Path) -> Result<Vec<String>> {
    let group = data.join("group-0");
    let mut left = names(&group.join("log"))?;
    let ends_in = |name: &str, extension| Path::new(name).extension().is_some_and(|found| found == extension);
    left.retain(|name| !ends_in(name, "log"));
    left.extend(names(&group.join("checkpoints"))?.into_iter().filter(|name| name != "outgoing"));
    left.extend(names(&data.join("snapshots"))?.into_iter().filter(|name| ends_in(name, "tmp")));
    let states = names(&group.join("state"))?;
    left.extend(states.into_iter().filter(|name| name.starts_with("db-")).skip(1));
    Ok(left)
}

fn names(dir: &Path) -> Result<Vec<String>> {
    if !dir.exists() {
        return Ok(Vec::new());
    }
    let entries = fs::read_dir(dir).with_context(|| dir.display().to_string())?;
    entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect()
}

/// Asks one node something; that it may be dead, or that nobody leads, is not what is tested here.
pub(crate) async fn try_ask(addr: &str, commands: &[Vec<String>]) {
    if let Ok(mut client) = Client::connect(addr).await {
        let _ = client.pipeline(commands).await;
    }
}

/// Words of a command.
pub(crate) fn words(text: &str) -> Vec<String> {
    text.split(' ').map(str::to_owned).collect()
}
