//! One server process on a loopback address of its own.
//!
//! Each node gets a random address in 127.0.0.0/8 and lets the kernel choose its ports. Client sockets bind to
//! 127.0.0.1, so none of them can take a port that a stopped node needs again at its restart.

use std::fs::{self, File, OpenOptions};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value as Json;

use crate::binary;
use crate::client::Client;
use crate::wait::{SOON, eventually};

/// What a node says about itself in `<data>/ready.json`.
#[derive(Clone, Debug)]
pub struct Ready {
    /// Client address.
    pub addr: String,
    /// Client address that speaks TLS.
    pub tls_addr: Option<String>,
    /// Peer address.
    pub peer_addr: String,
    /// Admin address.
    pub http_addr: String,
    /// Node id as text.
    pub node_id: String,
}

/// A node, running or not.
pub struct Node {
    /// Data directory.
    pub data: PathBuf,
    /// Standard output and error of all its lives.
    pub log: PathBuf,
    /// Flags beside `--addr` and `--data`.
    pub flags: Vec<String>,
    /// Environment beside our own.
    pub env: Vec<(String, String)>,
    /// What is run.
    program: PathBuf,
    /// What stands before the program: another one that becomes it.
    before: Vec<String>,
    /// Client address of the first start; port 0 lets the kernel choose.
    addr: String,
    ready: Option<Ready>,
    child: Option<Child>,
}

impl Node {
    /// A node that is not started yet, with its files under `dir`.
    #[must_use]
    pub fn new(dir: &Path, name: &str, flags: &[String]) -> Self {
        Self {
            data: dir.join(name),
            log: dir.join(format!("{name}.log")),
            flags: flags.to_vec(),
            env: Vec::new(),
            program: binary::server().to_owned(),
            before: Vec::new(),
            addr: format!("{}:0", loopback()),
            ready: None,
            child: None,
        }
    }

    /// Gives the node a client address of its own for its first start; `off` for none that is in the clear.
    #[must_use]
    pub fn at(mut self, addr: &str) -> Self {
        addr.clone_into(&mut self.addr);
        self
    }

    /// Runs this in place of the server; it must become the server (`exec`).
    #[must_use]
    pub fn by(mut self, program: &Path) -> Self {
        program.clone_into(&mut self.program);
        self
    }

    /// From its next start on it runs this.
    pub fn becomes(&mut self, program: &Path) {
        program.clone_into(&mut self.program);
    }

    /// Runs it through these words, a program that becomes it (`exec`) with its arguments.
    #[must_use]
    pub fn through(mut self, words: &[String]) -> Self {
        self.before = words.to_vec();
        self
    }

    /// Starts the process and waits until it says that it is ready. Later starts use the same ports.
    ///
    /// # Errors
    /// It ended, or was not ready in time; with the end of its log.
    pub async fn start(&mut self) -> Result<()> {
        self.spawn()?;
        self.await_ready().await
    }

    /// Starts the process without waiting.
    ///
    /// # Errors
    /// It runs already or cannot be started.
    pub fn spawn(&mut self) -> Result<()> {
        ensure!(self.child.is_none(), "{} runs already", self.data.display());
        let _ = fs::remove_file(self.ready_file());
        let mut command = match self.before.split_first() {
            Some((first, rest)) => {
                let mut command = Command::new(first);
                command.args(rest).arg(&self.program);
                command
            }
            None => Command::new(&self.program),
        };
        match &self.ready {
            // Where its clients are then is for the configuration to say.
            _ if self.addr == "off" => command.args(["--addr", "off"]),
            None => command.args([
                "--addr",
                &self.addr,
                "--peer-addr",
                &any_port(&self.addr),
                "--http-addr",
                &any_port(&self.addr),
            ]),
            Some(ready) => command.args([
                "--addr",
                &ready.addr,
                "--peer-addr",
                &ready.peer_addr,
                "--http-addr",
                &ready.http_addr,
            ]),
        };
        let log = OpenOptions::new().create(true).append(true).open(&self.log)?;
        command.arg("--data").arg(&self.data).args(&self.flags).envs(self.env.iter().cloned());
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        self.child = Some(command.spawn().with_context(|| format!("start {}", self.program.display()))?);
        Ok(())
    }

    /// Waits for `<data>/ready.json` of the running process.
    ///
    /// # Errors
    /// It ended, or was not ready in time.
    pub async fn await_ready(&mut self) -> Result<()> {
        let file = self.ready_file();
        let pid = self.pid()?.as_raw_nonzero().get();
        let mut ended = None;
        let ready = eventually("the node is ready", SOON, async || {
            if let Some(status) = self.exited()? {
                ended = Some(status);
                return Ok(Some(None));
            }
            let Ok(text) = fs::read(&file) else { return Ok(None) };
            let Ok(json) = serde_json::from_slice::<Json>(&text) else { return Ok(None) };
            Ok((json["pid"].as_i64() == Some(i64::from(pid))).then_some(Some(json)))
        })
        .await
        .with_context(|| self.tail())?;
        let Some(json) = ready else {
            self.child = None;
            bail!("the node ended before it was ready: {ended:?}\n{}", self.tail());
        };
        let text = |name: &str| match &json[name] {
            Json::String(text) => text.clone(),
            other => other.to_string(),
        };
        self.ready = Some(Ready {
            addr: text("addr"),
            tls_addr: json["tls_addr"].as_str().map(str::to_owned),
            peer_addr: text("peer_addr"),
            http_addr: text("http_addr"),
            node_id: text("node_id"),
        });
        Ok(())
    }

    /// What it said when it became ready last; addresses stay the same over restarts.
    ///
    /// # Panics
    /// If it never was ready.
    #[must_use]
    pub fn ready(&self) -> &Ready {
        self.ready.as_ref().expect("the node was ready once")
    }

    /// Client address.
    ///
    /// # Panics
    /// If it never was ready.
    #[must_use]
    pub fn addr(&self) -> &str {
        &self.ready().addr
    }

    /// Admin address.
    ///
    /// # Panics
    /// If it never was ready.
    #[must_use]
    pub fn http(&self) -> &str {
        &self.ready().http_addr
    }

    /// A new connection.
    ///
    /// # Errors
    /// It cannot be made.
    pub async fn client(&self) -> Result<Client> {
        Client::connect(self.addr()).await.with_context(|| self.addr().to_owned())
    }

    /// True while the process lives (also while it is stopped by SIGSTOP).
    pub fn is_running(&mut self) -> bool {
        matches!(self.exited(), Ok(None))
    }

    /// Process id.
    ///
    /// # Errors
    /// It does not run.
    pub fn pid(&self) -> Result<Pid> {
        let child = self.child.as_ref().context("the node does not run")?;
        Pid::from_raw(i32::try_from(child.id())?).context("process id 0")
    }

    /// SIGKILL, and waits for the end of the process.
    ///
    /// # Errors
    /// It does not run.
    pub fn kill(&mut self) -> Result<()> {
        let mut child = self.child.take().context("the node does not run")?;
        child.kill()?;
        child.wait()?;
        Ok(())
    }

    /// Sends a signal.
    ///
    /// # Errors
    /// It does not run.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        Ok(kill_process(self.pid()?, signal)?)
    }

    /// SIGSTOP.
    ///
    /// # Errors
    /// It does not run.
    pub fn pause(&self) -> Result<()> {
        self.stop_until("T")
    }

    /// SIGSTOP, of a process that may be in the middle of a write or a sync: those end in their own time, but nothing
    /// of the program runs any more, so nobody learns how they ended.
    ///
    /// # Errors
    /// It does not run.
    pub fn freeze(&self) -> Result<()> {
        self.stop_until("TD")
    }

    /// SIGSTOP, and waits until all threads are in one of these states.
    fn stop_until(&self, states: &str) -> Result<()> {
        self.signal(Signal::STOP)?;
        // The signal is delivered by and by: until every thread has stopped, the process may still answer.
        let deadline = Instant::now() + SOON;
        while !self.all_threads_are_in(states)? {
            ensure!(Instant::now() < deadline, "the process does not stop");
            std::thread::yield_now();
        }
        Ok(())
    }

    fn all_threads_are_in(&self, states: &str) -> Result<bool> {
        let mut has_stopped = false;
        for task in std::fs::read_dir(format!("/proc/{}/task", self.pid()?.as_raw_nonzero()))? {
            let stat = std::fs::read_to_string(task?.path().join("stat"))?;
            // The state follows the name, which is in brackets and may hold anything.
            let state = stat.rsplit(')').next().unwrap_or_default().trim_start().chars().next();
            if !state.is_some_and(|state| states.contains(state)) {
                return Ok(false);
            }
            has_stopped |= state == Some('T');
        }
        // One that has stopped has told all others to.
        Ok(has_stopped)
    }

    /// SIGCONT.
    ///
    /// # Errors
    /// It does not run.
    pub fn resume(&self) -> Result<()> {
        self.signal(Signal::CONT)
    }

    /// SIGTERM, and waits for the end of the process.
    ///
    /// # Errors
    /// It did not end in time.
    pub async fn terminate(&mut self) -> Result<ExitStatus> {
        self.signal(Signal::TERM)?;
        self.await_exit(SOON).await
    }

    /// Waits for the process to end by itself.
    ///
    /// # Errors
    /// It did not end in time.
    pub async fn await_exit(&mut self, deadline: Duration) -> Result<ExitStatus> {
        let status = eventually("the process ends", deadline, async || self.exited()).await;
        let status = status.with_context(|| self.tail())?;
        self.child = None;
        Ok(status)
    }

    /// Forgets the data directory: the next start is that of a new node at the same address.
    ///
    /// # Errors
    /// It runs, or the directory cannot be removed.
    pub fn wipe(&mut self) -> Result<()> {
        ensure!(self.child.is_none(), "wiping a running node");
        fs::remove_dir_all(&self.data)?;
        Ok(())
    }

    /// The last lines of its log.
    #[must_use]
    pub fn tail(&self) -> String {
        const LINES: usize = 60;
        let text = self.log_text();
        let lines: Vec<&str> = text.lines().collect();
        let from = lines.len().saturating_sub(LINES);
        format!("--- end of {}\n{}\n---", self.log.display(), lines[from..].join("\n"))
    }

    /// Its whole log.
    #[must_use]
    pub fn log_text(&self) -> String {
        fs::read(&self.log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
    }

    /// User and system CPU seconds of the process so far.
    ///
    /// # Errors
    /// It does not run.
    pub fn cpu_seconds(&self) -> Result<f64> {
        cpu_seconds(self.pid()?)
    }

    fn exited(&mut self) -> Result<Option<ExitStatus>> {
        Ok(self.child.as_mut().context("the node does not run")?.try_wait()?)
    }

    fn ready_file(&self) -> PathBuf {
        self.data.join("ready.json")
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Runs the server with these arguments until it ends by itself: its exit code and all that it printed.
///
/// # Errors
/// It still ran at the deadline (it is killed then).
pub async fn run_to_end(arguments: &[&str], deadline: Duration) -> Result<(Option<i32>, String)> {
    let dir = tempfile::tempdir()?;
    let output = dir.path().join("output");
    let file = File::create(&output)?;
    let mut command = Command::new(binary::server());
    command.args(arguments).stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file);
    let mut child = command.spawn()?;
    let status = eventually("the process ends", deadline, async || Ok(child.try_wait()?)).await;
    if status.is_err() {
        child.kill()?;
        child.wait()?;
    }
    let text = String::from_utf8_lossy(&fs::read(&output)?).into_owned();
    let status = status.with_context(|| format!("{arguments:?}\n{text}"))?;
    Ok((status.code(), text))
}

/// User and system CPU seconds of a process.
///
/// # Errors
/// There is no such process.
pub fn cpu_seconds(pid: Pid) -> Result<f64> {
    let stat = fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero()))?;
    let (_, fields) = stat.rsplit_once(')').context("bad /proc stat")?;
    let mut fields = fields.split_whitespace().skip(11);
    let mut ticks = || -> Result<f64> { Ok(fields.next().context("short /proc stat")?.parse()?) };
    let total = ticks()? + ticks()?;
    #[expect(clippy::cast_precision_loss, reason = "the number of ticks per second is small")]
    let per_second = rustix::param::clock_ticks_per_second() as f64;
    Ok(total / per_second)
}

/// The same host with port 0.
fn any_port(addr: &str) -> String {
    format!("{}:0", addr.rsplit_once(':').map_or(addr, |(host, _)| host))
}

/// A random loopback address, never 127.0.0.1.
#[must_use]
pub fn loopback() -> String {
    let octet = || rand::random_range(1..255_u8);
    format!("127.{}.{}.{}", octet(), octet(), octet())
}
