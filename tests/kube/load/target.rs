//! Where the writer connects to: an address, or what a Secret in the form of the Service Binding specification says, which
//! is mounted in a directory. Login and password are read anew for each connection, as clients do that follow a rotation.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use kvnode_tests::client::Client;
use kvnode_tests::pki::{self, Tunnel};
use tokio::time::timeout;

/// A target.
pub(crate) struct Target {
    addr: String,
    secret: Option<PathBuf>,
    _tunnel: Option<Tunnel>,
}

impl Target {
    /// `host:port`, or `bind:DIRECTORY`.
    pub(crate) async fn open(text: &str) -> Result<Self> {
        let Some(dir) = text.strip_prefix("bind:") else {
            return Ok(Self { addr: text.to_owned(), secret: None, _tunnel: None });
        };
        let dir = PathBuf::from(dir);
        let read = |key: &str| std::fs::read_to_string(dir.join(key)).with_context(|| key.to_owned());
        let addr = format!("{}:{}", read("host")?, read("port")?);
        let by_tls = read("uri")?.starts_with("rediss:");
        let tunnel = if by_tls {
            Some(Tunnel::open(&addr, pki::client(&read("ca.crt")?, None)?).await?)
        } else {
            None
        };
        let addr = tunnel.as_ref().map_or(addr, |tunnel| tunnel.addr.clone());
        Ok(Self { addr, secret: Some(dir), _tunnel: tunnel })
    }

    /// A connection that is logged in. `Ok(Err)` is a login that was refused, in the server's words.
    pub(crate) async fn connect(&self, patience: Duration) -> Result<Result<Client, String>> {
        let mut client = timeout(patience, Client::connect(&self.addr)).await??.with_patience(patience);
        if let Some(dir) = &self.secret {
            let read = |key: &str| std::fs::read_to_string(dir.join(key)).with_context(|| key.to_owned());
            let reply = client.call(&["AUTH", &read("username")?, &read("password")?]).await?;
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
