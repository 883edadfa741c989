//! A real redis-server beside ours, for conformance and for the benchmark.

use std::net::TcpListener;
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result};
use rustix::process::Pid;
use tempfile::TempDir;

use crate::client::Client;
use crate::node::loopback;
use crate::tool;
use crate::wait::{SOON, eventually};

/// A running redis-server; killed on drop.
pub struct Redis {
    /// `host:port`.
    pub addr: String,
    child: Child,
    command: Command,
    _dir: TempDir,
}

impl Redis {
    /// Starts redis-server with these extra arguments. `None` after the loud line if it is not installed.
    ///
    /// # Errors
    /// It does not answer in time.
    pub async fn start(arguments: &[&str]) -> Result<Option<Self>> {
        let Some(program) = tool::need("redis-server") else { return Ok(None) };
        let dir = tempfile::Builder::new().prefix("kvnode-redis-").tempdir()?;
        let addr = free_address()?;
        let (host, port) = addr.rsplit_once(':').context("an address has a port")?;
        let mut command = Command::new(program);
        command.args(["--bind", host, "--port", port, "--save", "", "--dir"]).arg(dir.path()).args(arguments);
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).spawn()?;
        let redis = Self { addr, child, command, _dir: dir };
        redis.await_answer().await?;
        Ok(Some(redis))
    }

    /// kill -9 and a start over the same files, until it answers.
    ///
    /// # Errors
    /// It does not answer in time.
    pub async fn kill_and_restart(&mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        self.child = self.command.spawn()?;
        self.await_answer().await
    }

    async fn await_answer(&self) -> Result<()> {
        eventually("redis-server answers", SOON, async || {
            let reply = Client::connect(&self.addr).await?.run("DBSIZE").await?;
            Ok(reply.as_int())
        })
        .await?;
        Ok(())
    }

    /// Process id.
    ///
    /// # Errors
    /// Never for a started process.
    pub fn pid(&self) -> Result<Pid> {
        Pid::from_raw(i32::try_from(self.child.id())?).context("process id 0")
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A `host:port` that nothing uses: a random loopback address with a port that was free there a moment ago.
///
/// # Errors
/// The address cannot be bound.
pub fn free_address() -> Result<String> {
    Ok(TcpListener::bind((loopback().as_str(), 0))?.local_addr()?.to_string())
}
