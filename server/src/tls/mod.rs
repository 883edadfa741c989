//! TLS of the three listeners, and of the connections to peers: certificates from files, exchanged while the node runs.
//!
//! ```text
//! PEM files --read, check--> Credentials --accept--> TLS stream     clients (net), peers (raft/peer), admin
//!     ^                          |      `--connect-> TLS stream     peers
//!     `--- watch: bytes, 1 s ----'
//! ```
//!
//! | use | asks the other side for a certificate | protocol |
//! | --- | --- | --- |
//! | clients | as `tls_client_auth` says; `tls_client_auth_user` makes its name that of a user | TLS 1.2, 1.3 |
//! | peers | always, both ways, own authority only; both sides check the name (`raft::peer`) | TLS 1.3, no resumption |
//! | admin | if `http_tls_client_ca_file` is set; who shows none reaches the probes only | TLS 1.2, 1.3 |
//!
//! Invariants
//! - A handshake uses one certificate, key and authority that were read and checked together; connections that are open
//!   keep theirs when the files change.
//! - Files that are bad at start keep the node from starting; bad later, they change nothing but a metric and a log line.
//! - A handshake takes a limited time, and a limited number of them run at once.
//! - No private key gets into a text: errors name the key of the configuration and the path.

mod certificate;
mod credentials;
mod files;
mod refusals;
#[cfg(test)]
pub(crate) mod tests;

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

pub use certificate::Certificate;
pub(crate) use credentials::is_hang_up;
pub use credentials::{Asks, Credentials};
pub use files::TlsError;

use crate::config::{ClientAuth, Config, PeerTls};
use crate::machine::{self, TcpStream};
use files::Files;

/// An encrypted connection, whoever dialled it.
pub type TlsStream = tokio_rustls::TlsStream<TcpStream>;

/// How often the files are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// What certificates are for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Use {
    /// The listener `tls_addr`.
    Clients,
    /// The peer port, and connections to those of others.
    Peers,
    /// The admin API.
    Admin,
}

impl Use {
    /// Value of the label `listener` of the metrics.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Use::Clients => "client",
            Use::Peers => "peer",
            Use::Admin => "admin",
        }
    }
}

/// The certificates of a node; `None` where TLS is not used.
#[derive(Clone, Default)]
pub struct Tls {
    /// Of `tls_addr`.
    pub clients: Option<Arc<Credentials>>,
    /// Of the peer port.
    pub peers: Option<Arc<Credentials>>,
    /// Of the admin API.
    pub admin: Option<Arc<Credentials>>,
}

impl Tls {
    /// Reads and checks all files that the configuration names for something that is in use.
    ///
    /// # Errors
    /// [`TlsError`]: the first bad file.
    pub fn load(config: &Config) -> Result<Self, TlsError> {
        let tls = &config.tls;
        let asks_clients = match tls.client_auth {
            ClientAuth::No => Asks::Nothing,
            ClientAuth::Optional => Asks::Optionally,
            ClientAuth::Require => Asks::Always,
        };
        let asks_admin = if tls.http.ca.is_some() { Asks::Optionally } else { Asks::Nothing };
        let peers = Files::new("peer_tls", &tls.peers).filter(|_| tls.peer_tls != PeerTls::Off);
        let load = |usage, files: Option<Files>, asks| {
            files.map(|files| Credentials::load(usage, files, asks).map(Arc::new)).transpose()
        };
        let clients = Files::new("tls", &tls.clients).filter(|_| config.tls_addr.is_some());
        Ok(Self {
            clients: load(Use::Clients, clients, asks_clients)?,
            peers: load(Use::Peers, peers, Asks::Always)?,
            admin: load(Use::Admin, Files::new("http_tls", &tls.http), asks_admin)?,
        })
    }

    /// Those in use.
    pub fn all(&self) -> impl Iterator<Item = &Arc<Credentials>> {
        [&self.clients, &self.peers, &self.admin].into_iter().flatten()
    }

    /// Takes changed files over until `stop` is cancelled.
    pub async fn watch(self, stop: CancellationToken) {
        let mut look = interval(LOOK_EVERY);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while stop.run_until_cancelled(look.tick()).await.is_some() {
            let all: Vec<_> = self.all().cloned().collect();
            // A mounted volume may hang; the node must not. An unfinished look ends with the process.
            let looked = machine::spawn_blocking(move || all.iter().for_each(|one| one.look()));
            if stop.run_until_cancelled(looked).await.is_none() {
                return;
            }
        }
    }
}
