//! Other systems that speak RESP, named by the environment, in the same run as all others.
//!
//! `KVNODE_BENCH_PEERS` holds one peer a line, or several separated by `;;`, each `name=command with {port} and {dir}`:
//!
//! ```text
//! valkey always=valkey-server --port {port} --dir {dir} --save '' --appendonly yes --appendfsync always
//! ```
//!
//! The command is the shell's, so it may be a script that starts a whole cluster; it stays in the foreground, and what
//! it starts stays in its process group, whose CPU is counted and which ends with it. It must take a SET on {port} of
//! 127.0.0.1 within a minute.

use std::fs::File;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use kvnode_tests::client::Client;
use kvnode_tests::wait::eventually;
use rustix::process::{Pid, Signal, kill_process_group};
use tempfile::TempDir;

/// Time in which a peer must take a write.
const START_MAX: Duration = Duration::from_mins(1);

/// One peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Peer {
    /// Head of its column.
    pub(crate) name: String,
    /// The command, with {port} and {dir} in it.
    pub(crate) command: String,
}

/// All that the environment names.
pub(crate) fn all() -> Result<&'static [Peer]> {
    static PEERS: OnceLock<Result<Vec<Peer>, String>> = OnceLock::new();
    let peers = PEERS.get_or_init(|| {
        let text = std::env::var("KVNODE_BENCH_PEERS").unwrap_or_default();
        parse(&text).map_err(|error| format!("KVNODE_BENCH_PEERS: {error:#}"))
    });
    match peers {
        Ok(peers) => Ok(peers),
        Err(error) => bail!("{error}"),
    }
}

fn parse(text: &str) -> Result<Vec<Peer>> {
    let mut peers: Vec<Peer> = Vec::new();
    for entry in text.split('\n').flat_map(|line| line.split(";;")).map(str::trim) {
        if entry.is_empty() {
            continue;
        }
        let (name, command) =
            entry.split_once('=').with_context(|| format!("{entry}: no = behind a name"))?;
        let (name, command) = (name.trim(), command.trim());
        ensure!(!name.is_empty() && !command.is_empty(), "{entry}: a name, =, and a command are needed");
        ensure!(command.contains("{port}"), "{name}: its command has no {{port}} to listen on");
        ensure!(peers.iter().all(|peer| peer.name != name), "{name} is there twice");
        peers.push(Peer { name: name.to_owned(), command: command.to_owned() });
    }
    Ok(peers)
}

/// A running peer; it and its process group are killed on drop.
pub(crate) struct Running {
    /// `host:port`.
    pub(crate) addr: String,
    child: Child,
    _dir: TempDir,
}

impl Peer {
    /// Starts it with an empty directory and waits until it takes a write.
    pub(crate) async fn start(&self) -> Result<Running> {
        let dir = tempfile::Builder::new().prefix("kvnode-peer-").tempdir()?;
        let data = dir.path().join("data");
        std::fs::create_dir(&data)?;
        // Free a moment ago. Servers listen on 127.0.0.1 unless told otherwise, so it must be free there.
        let port = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port().to_string();
        let typed = self.command.replace("{port}", &port).replace("{dir}", &data.display().to_string());
        let log_file = dir.path().join("log");
        let log = File::create(&log_file)?;
        let mut command = Command::new("sh");
        command.args(["-c", &typed]).current_dir(&data).process_group(0);
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let child = command.spawn().with_context(|| format!("start {}", self.name))?;
        let mut running = Running { addr: format!("127.0.0.1:{port}"), child, _dir: dir };
        let mut ended = None;
        let waited = eventually(&format!("{} takes a write", self.name), START_MAX, async || {
            ended = running.child.try_wait()?;
            if ended.is_some() {
                return Ok(Some(()));
            }
            let reply = Client::connect(&running.addr).await?.run("SET bench:ready 1").await?;
            ensure!(reply.is_ok(), "it answers {reply:?}");
            Ok(Some(()))
        })
        .await;
        let log = || format!("{typed}\n{}", std::fs::read_to_string(&log_file).unwrap_or_default());
        waited.with_context(log)?;
        if let Some(status) = ended {
            bail!("{} ended with {status} before it took a write; {}", self.name, log());
        }
        Ok(running)
    }
}

impl Running {
    /// All processes of its group.
    pub(crate) fn pids(&self) -> Result<Vec<Pid>> {
        let group = i32::try_from(self.child.id())?;
        let mut pids = Vec::new();
        for entry in std::fs::read_dir("/proc")?.flatten() {
            let Some(id) = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else {
                continue;
            };
            // A process may end meanwhile.
            let stat = std::fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
            if process_group(&stat) == Some(group) {
                pids.extend(Pid::from_raw(id));
            }
        }
        Ok(pids)
    }
}

/// The process group of a line of `/proc/<pid>/stat`: the third field behind the name, which is in brackets.
fn process_group(stat: &str) -> Option<i32> {
    stat.rsplit_once(')')?.1.split_whitespace().nth(2)?.parse().ok()
}

impl Drop for Running {
    fn drop(&mut self) {
        let group = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        let _ = group.map(|group| kill_process_group(group, Signal::KILL));
        let _ = self.child.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn peers_are_read_from_lines_and_double_semicolons() {
        let peers = parse("a b = x --port {port} --opt=1 \n\n c=y; z {port};;d=w {port} {dir}").unwrap();
        let found: Vec<(&str, &str)> =
            peers.iter().map(|peer| (peer.name.as_str(), peer.command.as_str())).collect();
        assert_eq!(
            found,
            [("a b", "x --port {port} --opt=1"), ("c", "y; z {port}"), ("d", "w {port} {dir}")]
        );
        assert!(parse("").unwrap().is_empty());
    }

    #[test]
    fn a_peer_that_cannot_be_run_is_refused_with_its_name() {
        for (text, fault) in [
            ("valkey-server", "no ="),
            ("a=x", "{port}"),
            ("=x {port}", "a name"),
            ("a=x {port};;a=y {port}", "twice"),
        ] {
            let error = format!("{:#}", parse(text).unwrap_err());
            assert!(error.contains(fault), "{text}: {error}");
        }
    }

    #[test]
    fn the_process_group_is_behind_a_name_that_may_hold_anything() {
        assert_eq!(process_group("12 (a) b) S 1 77 12 0 -1"), Some(77));
        assert_eq!(process_group(""), None);
    }

    #[tokio::test]
    async fn a_peer_that_ends_at_once_fails_with_what_it_said() {
        let peer = Peer { name: "none".into(), command: "echo no such option {port} >&2; exit 3".into() };
        let error = format!("{:#}", peer.start().await.err().unwrap());
        assert!(error.contains("exit status: 3") && error.contains("no such option"), "{error}");
    }
}
