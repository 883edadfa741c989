//! The systems under comparison: which there are, starting them, putting load on them, and what they say of themselves.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use kvnode_tests::client::Client;
use kvnode_tests::cluster::Cluster;
use kvnode_tests::node::cpu_seconds;
use kvnode_tests::reference::Redis;
use kvnode_tests::{binary, resp, tool};
use rustix::process::Pid;

use crate::cells::{Cell, Operation, key};
use crate::etcd::{self, Etcd};
use crate::load::{self, Measured};
use crate::peers;
use crate::report::Described;
use crate::sample::real;

/// One column of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    /// Ours, this many nodes, all levels high.
    Ours(usize),
    /// The same with three nodes that read by lease; it writes as the others do, so only its reads are measured.
    OursByLease,
    /// Three nodes of the build that `KVNODE_OTHER_BIN` names.
    OtherBuild,
    /// redis-server `appendfsync always`.
    RedisAlways,
    /// redis-server without persistence.
    RedisMemory,
    /// etcd, this many members.
    Etcd(usize),
    /// One of [`peers::all`].
    Peer(usize),
}

impl Kind {
    /// Head of its column.
    pub(crate) fn name(self) -> String {
        match self {
            Kind::Ours(1) => "kvnode, 1 node".into(),
            Kind::Ours(count) => format!("kvnode, {count} nodes"),
            Kind::OursByLease => "kvnode, 3 nodes, lease".into(),
            Kind::OtherBuild => "other build, 3 nodes".into(),
            Kind::RedisAlways => "redis always".into(),
            Kind::RedisMemory => "redis memory".into(),
            Kind::Etcd(1) => "etcd, 1 node".into(),
            Kind::Etcd(count) => format!("etcd, {count} nodes"),
            Kind::Peer(at) => {
                let peer = peers::all().ok().and_then(|peers| peers.get(at));
                peer.map_or_else(|| "?".into(), |peer| peer.name.clone())
            }
        }
    }

    /// Whether stock Redis tools can talk to it.
    pub(crate) fn speaks_resp(self) -> bool {
        !matches!(self, Kind::Etcd(_))
    }

    /// Whether it differs from the others in what this operation does.
    pub(crate) fn is_measured_by(self, operation: Operation) -> bool {
        self != Kind::OursByLease || operation == Operation::Get
    }

    /// Whether it can be run here; ours always.
    pub(crate) fn is_here(self) -> bool {
        match self {
            Kind::Ours(_) | Kind::OursByLease => true,
            Kind::OtherBuild => other_build().is_some(),
            Kind::RedisAlways | Kind::RedisMemory => tool::find("redis-server").is_some(),
            Kind::Etcd(_) => etcd::program().is_some(),
            Kind::Peer(at) => peers::all().is_ok_and(|peers| at < peers.len()),
        }
    }
}

/// What can be run here, in the order of the columns.
pub(crate) fn available() -> Result<Vec<Kind>> {
    let mut kinds = vec![
        Kind::Ours(1),
        Kind::Ours(3),
        Kind::OursByLease,
        Kind::OtherBuild,
        Kind::RedisAlways,
        Kind::RedisMemory,
        Kind::Etcd(1),
        Kind::Etcd(3),
    ];
    kinds.retain(|kind| kind.is_here());
    kinds.extend((0..peers::all()?.len()).map(Kind::Peer));
    Ok(kinds)
}

/// Else redis-server writes a title over its command line, which the report shows.
const KEEP_TITLE: [&str; 2] = ["--set-proc-title", "no"];

fn other_build() -> Option<PathBuf> {
    std::env::var_os("KVNODE_OTHER_BIN").filter(|path| !path.is_empty()).map(PathBuf::from)
}

/// A running system.
pub(crate) enum System {
    /// Ours, or another build of it.
    Ours(Cluster),
    /// redis-server.
    Redis(Redis),
    /// etcd.
    Etcd(Etcd),
    /// A peer.
    Peer(peers::Running),
}

impl System {
    /// Starts it afresh, without data.
    pub(crate) async fn start(kind: Kind) -> Result<Self> {
        const NEED: &str = "redis-server is not installed";
        Ok(match kind {
            Kind::Ours(count) => System::Ours(Cluster::start(count, &[]).await?),
            Kind::OursByLease => {
                // The nodes read it as they start.
                let file = tempfile::NamedTempFile::new()?;
                std::fs::write(file.path(), "read_policy: lease\n")?;
                let path = file.path().to_str().context("a path in UTF-8")?;
                System::Ours(Cluster::start(3, &["--config", path]).await?)
            }
            Kind::OtherBuild => {
                let program = other_build().context("KVNODE_OTHER_BIN names a build")?;
                System::Ours(Cluster::start_by(&program, 3).await?)
            }
            Kind::RedisAlways => {
                let flags = ["--appendonly", "yes", "--appendfsync", "always", KEEP_TITLE[0], KEEP_TITLE[1]];
                System::Redis(Redis::start(&flags).await?.context(NEED)?)
            }
            Kind::RedisMemory => {
                let flags = ["--appendonly", "no", KEEP_TITLE[0], KEEP_TITLE[1]];
                System::Redis(Redis::start(&flags).await?.context(NEED)?)
            }
            Kind::Etcd(count) => System::Etcd(Etcd::start(count)?),
            Kind::Peer(at) => System::Peer(peers::all()?.get(at).context("no such peer")?.start().await?),
        })
    }

    /// Client address of the node that leads, or of the only one.
    pub(crate) async fn leader(&mut self) -> Result<String> {
        match self {
            System::Ours(cluster) => {
                let leader = cluster.leader().await?;
                Ok(cluster.nodes[leader].addr().to_owned())
            }
            System::Redis(redis) => Ok(redis.addr.clone()),
            System::Etcd(etcd) => etcd.leader().await,
            System::Peer(peer) => Ok(peer.addr.clone()),
        }
    }

    /// Whether its clients speak gRPC.
    pub(crate) fn is_etcd(&self) -> bool {
        matches!(self, System::Etcd(_))
    }

    /// All its processes.
    pub(crate) fn pids(&self) -> Result<Vec<Pid>> {
        match self {
            System::Ours(cluster) => cluster.nodes.iter().map(kvnode_tests::node::Node::pid).collect(),
            System::Redis(redis) => Ok(vec![redis.pid()?]),
            System::Etcd(etcd) => etcd.pids(),
            System::Peer(peer) => peer.pids(),
        }
    }

    /// CPU seconds of all its processes so far.
    pub(crate) fn cpu_seconds(&self) -> Result<f64> {
        self.pids()?.into_iter().map(cpu_seconds).sum()
    }

    /// Loads these keys.
    pub(crate) async fn preload(&mut self, keys: Range<usize>, value_bytes: usize) -> Result<()> {
        let addr = self.leader().await?;
        if self.is_etcd() {
            etcd::preload(&addr, keys, value_bytes).await
        } else {
            load::preload(&addr, keys, value_bytes).await
        }
    }

    /// Runs a cell on the leader for `time`: what it gave, and the CPU seconds of all processes.
    pub(crate) async fn run(&mut self, cell: Cell, keys: usize, time: Duration) -> Result<(Measured, f64)> {
        // The leader may have moved; asking costs nothing.
        let addr = self.leader().await?;
        let before = self.cpu_seconds()?;
        let measured = if self.is_etcd() {
            etcd::run(&addr, cell, keys, time).await
        } else {
            load::run(&addr, cell, keys, time).await
        }
        .with_context(|| cell.to_string())?;
        if measured.refused > 0 {
            eprintln!("{cell}: {} requests refused", measured.refused);
        }
        Ok((measured, self.cpu_seconds()? - before))
    }

    /// Commands per second of `redis-cli --pipe`; `None` where there is none or it is of no use.
    pub(crate) async fn bulk_load(&mut self, count: usize) -> Result<Option<f64>> {
        let Some(redis_cli) = tool::find("redis-cli") else { return Ok(None) };
        if self.is_etcd() {
            return Ok(None);
        }
        let addr = self.leader().await?;
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
        Ok(Some(real(count as u64) / seconds))
    }

    /// From kill -9 of everything to the first answer that needs all data; `None` for a peer.
    pub(crate) async fn restart(&mut self) -> Result<Option<Duration>> {
        let start = Instant::now();
        match self {
            System::Ours(cluster) => {
                cluster.kill_and_restart_all().await?;
                let mut client = cluster.leader_client().await?;
                client.int("DBSIZE").await?;
            }
            System::Redis(redis) => redis.kill_and_restart().await?,
            System::Etcd(etcd) => etcd.kill_and_restart_all().await?,
            System::Peer(_) => return Ok(None),
        }
        Ok(Some(start.elapsed()))
    }

    /// What it is: versions, command lines, configuration.
    pub(crate) async fn describe(&mut self, kind: Kind) -> Result<Described> {
        let command_lines: Vec<String> = self.pids()?.into_iter().map(command_line).collect::<Result<_>>()?;
        let program = match self {
            System::Ours(_) if kind == Kind::OtherBuild => other_build(),
            System::Ours(_) => Some(binary::server().to_owned()),
            System::Redis(_) => tool::find("redis-server"),
            System::Etcd(_) => etcd::program(),
            System::Peer(_) => None,
        };
        let mut version = program.map_or_else(String::new, |program| version(&program));
        let mut configuration = String::new();
        if !self.is_etcd() {
            let addr = self.leader().await?;
            let mut client = Client::connect(&addr).await?;
            if version.is_empty() {
                version = info_versions(client.run("INFO server").await?.as_text().unwrap_or_default());
            }
            let pairs = client.run("CONFIG GET *").await?.texts();
            let pairs: BTreeMap<&str, &str> =
                pairs.chunks_exact(2).map(|pair| (pair[0].as_str(), pair[1].as_str())).collect();
            let lines = pairs.iter().map(|(name, value)| format!("{name} {value}"));
            configuration = lines.collect::<Vec<_>>().join("\n");
        }
        Ok(Described { name: kind.name(), version, command_lines, configuration })
    }
}

/// What a program says to `--version`, in one line.
fn version(program: &Path) -> String {
    let said = tool::run(Command::new(program).arg("--version")).unwrap_or_default();
    said.lines().map(str::trim).collect::<Vec<_>>().join("; ")
}

/// The lines of INFO that tell a version.
fn info_versions(info: &str) -> String {
    let lines = info.lines().map(str::trim).filter(|line| !line.starts_with('#'));
    lines.filter(|line| line.contains("version:")).collect::<Vec<_>>().join("; ")
}

/// The command line of a process as the kernel has it, its arguments quoted where a shell needs that.
fn command_line(pid: Pid) -> Result<String> {
    let bytes = std::fs::read(format!("/proc/{}/cmdline", pid.as_raw_nonzero()))?;
    Ok(quoted(&bytes))
}

fn quoted(arguments: &[u8]) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=,@%+".contains(c);
    let text = String::from_utf8_lossy(arguments);
    let words = text.strip_suffix('\0').unwrap_or(&text).split('\0').map(|word| {
        if !word.is_empty() && word.chars().all(is_plain) {
            return word.to_owned();
        }
        format!("'{}'", word.replace('\'', r"'\''"))
    });
    words.collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_line_can_be_typed_again() {
        assert_eq!(quoted(b"/bin/x\0--save\0\0it's {a}\0--n=1\0"), r"/bin/x --save '' 'it'\''s {a}' --n=1");
        assert_eq!(quoted(b"redis-server 127.0.0.1:1\0"), "'redis-server 127.0.0.1:1'");
    }

    #[test]
    fn versions_are_found_in_info() {
        let info = "# Server\r\nredis_version:7.2.4\r\nvalkey_version:8.0.1\r\ntcp_port:1\r\n";
        assert_eq!(info_versions(info), "redis_version:7.2.4; valkey_version:8.0.1");
    }
}
