//! Where the writer connects to: an address, or what a Secret in the form of the Service Binding specification says, which
//! is mounted in a directory. Login, password and authority are read anew for each connection, as clients do that follow a
//! rotation.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use kvnode_tests::client::Client;
use kvnode_tests::pki::{self, Tunnel};
use tokio::sync::Mutex;
use tokio::time::timeout;

/// A target.
pub(crate) struct Target {
    addr: String,
    bound: Option<Bound>,
    prefix: String,
}

/// What is mounted.
struct Bound {
    dir: PathBuf,
    by_tls: bool,
    /// By the authority that each trusts. Connections live on while another one is told.
    tunnels: Mutex<BTreeMap<String, Tunnel>>,
}

impl Bound {
    fn read(&self, key: &str) -> Result<String> {
        std::fs::read_to_string(self.dir.join(key)).with_context(|| key.to_owned())
    }
}

impl Target {
    /// `host:port`, or `bind:DIRECTORY`, or `bind:DIRECTORY@host` where another host than the Secret's is meant.
    pub(crate) fn open(text: &str) -> Result<Self> {
        let Some(bound) = text.strip_prefix("bind:") else {
            return Ok(Self { addr: text.to_owned(), bound: None, prefix: "w:".to_owned() });
        };
        let (dir, host) = bound.split_once('@').map_or((bound, None), |(dir, host)| (dir, Some(host)));
        let mut bound = Bound { dir: dir.into(), by_tls: false, tunnels: Mutex::default() };
        bound.by_tls = bound.read("uri")?.starts_with("rediss:");
        let host = host.map_or_else(|| bound.read("host"), |host| Ok(host.to_owned()))?;
        let addr = format!("{host}:{}", bound.read("port")?);
        Ok(Self { addr, bound: Some(bound), prefix: "w:".to_owned() })
    }

    /// Keys begin with `w:` and this, so that two writers do not write the same.
    pub(crate) fn with_prefix(self, prefix: &str) -> Self {
        Self { prefix: format!("w:{prefix}"), ..self }
    }

    /// The key of a write.
    pub(crate) fn key(&self, number: u64) -> String {
        format!("{}{number}", self.prefix)
    }

    /// Where a plain client connects now.
    async fn way(&self) -> Result<String> {
        let Some(bound) = self.bound.as_ref().filter(|bound| bound.by_tls) else {
            return Ok(self.addr.clone());
        };
        let ca = bound.read("ca.crt")?;
        let mut tunnels = bound.tunnels.lock().await;
        if let Some(tunnel) = tunnels.get(&ca) {
            return Ok(tunnel.addr.clone());
        }
        let tunnel = Tunnel::open(&self.addr, pki::client(&ca, None)?).await?;
        let way = tunnel.addr.clone();
        tunnels.insert(ca, tunnel);
        Ok(way)
    }

    /// A connection that is logged in. `Ok(Err)` is a login that was refused, in the server's words.
    pub(crate) async fn connect(&self, patience: Duration) -> Result<Result<Client, String>> {
        let way = self.way().await?;
        let mut client = timeout(patience, Client::connect(&way)).await??.with_patience(patience);
        if let Some(bound) = &self.bound {
            let login = [bound.read("username")?, bound.read("password")?];
            let reply = client.call(&["AUTH", &login[0], &login[1]]).await?;
            if let Some(error) = reply.as_error() {
                return Ok(Err(error.to_owned()));
            }
            ensure!(reply.is_ok(), "AUTH: {reply:?}");
        }
        Ok(Ok(client))
    }

    /// [`Target::connect`], for those who need it to work.
    pub(crate) async fn client(&self, patience: Duration) -> Result<Client> {
        self.connect(patience).await?.map_err(anyhow::Error::msg)
    }
}
