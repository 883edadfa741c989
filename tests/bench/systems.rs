//! The systems under comparison: starting them, running every cell, bulk load and restart.

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use kvnode_tests::cluster::Cluster;
use kvnode_tests::node::cpu_seconds;
use kvnode_tests::reference::Redis;
use kvnode_tests::resp;
use kvnode_tests::tool;
use rustix::process::Pid;

use crate::Plan;
use crate::cells::key;
use crate::etcd::{self, Etcd};
use crate::load;
use crate::table::Results;

/// One column of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    /// Ours, this many nodes, all levels high.
    Ours(usize),
    /// Three nodes of the build that `KVNODE_OTHER_BIN` names.
    OtherBuild,
    /// redis-server `appendfsync always`.
    RedisAlways,
    /// redis-server without persistence.
    RedisMemory,
    /// etcd, this many members.
    Etcd(usize),
}

impl Kind {
    /// Head of its column.
    pub(crate) fn name(self) -> String {
        match self {
            Kind::Ours(1) => "kvnode, 1 node".into(),
            Kind::Ours(count) => format!("kvnode, {count} nodes"),
            Kind::OtherBuild => "other build, 3 nodes".into(),
            Kind::RedisAlways => "redis always".into(),
            Kind::RedisMemory => "redis memory".into(),
            Kind::Etcd(1) => "etcd, 1 node".into(),
            Kind::Etcd(count) => format!("etcd, {count} nodes"),
        }
    }
}

/// What can be run here; ours always.
pub(crate) fn available() -> Vec<Kind> {
    let mut kinds = vec![Kind::Ours(1), Kind::Ours(3)];
    if other_build().is_some() {
        kinds.push(Kind::OtherBuild);
    }
    if tool::find("redis-server").is_some() {
        kinds.extend([Kind::RedisAlways, Kind::RedisMemory]);
    }
    if tool::find("etcd").is_some() {
        kinds.extend([Kind::Etcd(1), Kind::Etcd(3)]);
    }
    kinds
}

fn other_build() -> Option<PathBuf> {
    std::env::var_os("KVNODE_OTHER_BIN").map(PathBuf::from)
}

enum System {
    Ours(Cluster),
    Redis(Redis),
    Etcd(Etcd),
}

impl System {
    async fn start(kind: Kind) -> Result<Self> {
        const NEED: &str = "it was found a moment ago";
        Ok(match kind {
            Kind::Ours(count) => System::Ours(Cluster::start(count, &[]).await?),
            Kind::OtherBuild => {
                let program = other_build().context("KVNODE_OTHER_BIN names a build")?;
                System::Ours(Cluster::start_by(&program, 3).await?)
            }
            Kind::RedisAlways => {
                let flags = ["--appendonly", "yes", "--appendfsync", "always"];
                System::Redis(Redis::start(&flags).await?.context(NEED)?)
            }
            Kind::RedisMemory => System::Redis(Redis::start(&["--appendonly", "no"]).await?.context(NEED)?),
            Kind::Etcd(count) => System::Etcd(Etcd::start(count)?),
        })
    }

    async fn leader(&mut self) -> Result<String> {
        match self {
            System::Ours(cluster) => {
                let leader = cluster.leader().await?;
                Ok(cluster.nodes[leader].addr().to_owned())
            }
            System::Redis(redis) => Ok(redis.addr.clone()),
            System::Etcd(etcd) => etcd.leader().await,
        }
    }

    fn pids(&self) -> Result<Vec<Pid>> {
        match self {
            System::Ours(cluster) => cluster.nodes.iter().map(kvnode_tests::node::Node::pid).collect(),
            System::Redis(redis) => Ok(vec![redis.pid()?]),
            System::Etcd(etcd) => etcd.pids(),
        }
    }

    fn cpu_seconds(&self) -> Result<f64> {
        self.pids()?.into_iter().map(cpu_seconds).sum()
    }
}

/// One round of one system.
pub(crate) async fn measure(kind: Kind, plan: &Plan, results: &mut Results) -> Result<()> {
    let mut system = System::start(kind).await?;
    let is_etcd = matches!(system, System::Etcd(_));
    let mut loaded = None;
    for &cell in &plan.cells {
        // The leader may have moved; asking costs nothing.
        let addr = system.leader().await?;
        // Before the first cell of a kind, so that a GET reads values of its size.
        let wanted = Some((cell.operation, cell.value_bytes));
        if loaded != wanted && is_etcd {
            etcd::preload(&addr, plan.keys, cell.value_bytes).await?;
        } else if loaded != wanted {
            load::preload(&addr, plan.keys, cell.value_bytes).await?;
        }
        loaded = wanted;
        let before = system.cpu_seconds()?;
        let measured = if is_etcd {
            etcd::run(&addr, cell, plan.keys, plan.cell).await
        } else {
            load::run(&addr, cell, plan.keys, plan.cell).await
        };
        let measured = measured.with_context(|| format!("{}: {cell}", kind.name()))?;
        if measured.refused > 0 {
            eprintln!("{}: {cell}: {} requests refused", kind.name(), measured.refused);
        }
        results.add(kind, cell, &measured, system.cpu_seconds()? - before);
    }
    if !plan.is_whole {
        return Ok(());
    }
    if let Some(rate) = bulk_load(&mut system, plan.bulk).await? {
        results.add_bulk(kind, rate);
    }
    if let Some(time) = restart(&mut system).await? {
        results.add_restart(kind, time);
    }
    Ok(())
}

/// Commands per second of `redis-cli --pipe`.
async fn bulk_load(system: &mut System, count: usize) -> Result<Option<f64>> {
    let Some(redis_cli) = tool::find("redis-cli") else { return Ok(None) };
    if matches!(system, System::Etcd(_)) {
        return Ok(None);
    }
    let addr = system.leader().await?;
    let (host, port) = addr.rsplit_once(':').context("an address")?;
    let file = tempfile::NamedTempFile::new()?;
    let (mut bytes, value) = (Vec::new(), "b".repeat(16));
    for number in 0..count {
        resp::encode(&["SET", &key(number), &value], &mut bytes);
    }
    std::fs::write(file.path(), bytes)?;
    let mut command = Command::new(redis_cli);
    command.args(["-h", host, "-p", port, "--pipe"]).stdin(Stdio::from(file.reopen()?));
    let start = Instant::now();
    let printed = tokio::task::spawn_blocking(move || tool::run(&mut command)).await??;
    let seconds = start.elapsed().as_secs_f64();
    ensure!(printed.contains(&format!("errors: 0, replies: {count}")), "{printed}");
    #[expect(clippy::cast_precision_loss, reason = "a count of commands is far below 2^52")]
    let rate = count as f64 / seconds;
    Ok(Some(rate))
}

/// From kill -9 of everything to the first answer that needs all data; of etcd not measured.
async fn restart(system: &mut System) -> Result<Option<Duration>> {
    let start = Instant::now();
    match system {
        System::Ours(cluster) => {
            cluster.kill_and_restart_all().await?;
            let mut client = cluster.leader_client().await?;
            client.int("DBSIZE").await?;
        }
        System::Redis(redis) => redis.kill_and_restart().await?,
        System::Etcd(_) => return Ok(None),
    }
    Ok(Some(start.elapsed()))
}
