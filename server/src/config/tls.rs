//! Which certificates the listeners use. Only paths are kept here; `crate::tls` reads the files and watches them.

use std::path::PathBuf;

/// Whether clients of the TLS listener are asked for a certificate (`tls_client_auth`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ClientAuth {
    /// Not asked.
    #[default]
    No,
    /// Asked; who shows none is served, who shows a bad one is not.
    Optional,
    /// Who shows none is not served.
    Require,
}

/// Which name of a client's certificate is that of its user (`tls_client_auth_user`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CertificateUser {
    /// None: clients log in with a password.
    #[default]
    Off,
    /// The common name of the subject.
    CommonName,
    /// The first alternative name (DNS, e-mail, URI) that a user has.
    AlternativeName,
}

/// Whether nodes talk to each other by TLS (`peer_tls`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PeerTls {
    /// In the clear.
    #[default]
    Off,
    /// By TLS with whoever speaks it, else in the clear: the step between the two others.
    Optional,
    /// By mutual TLS only.
    Required,
}

/// PEM files of one use.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TlsFiles {
    /// Own certificate, then those between it and its authority.
    pub cert: Option<PathBuf>,
    /// Its private key.
    pub key: Option<PathBuf>,
    /// Authorities whose certificates the other side may show.
    pub ca: Option<PathBuf>,
}

impl TlsFiles {
    /// Certificate and key are given both or not at all.
    #[must_use]
    pub fn is_paired(&self) -> bool {
        self.cert.is_some() == self.key.is_some()
    }
}

/// Every TLS setting.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TlsConfig {
    /// Of the client listener `tls_addr`.
    pub clients: TlsFiles,
    /// See [`ClientAuth`].
    pub client_auth: ClientAuth,
    /// See [`CertificateUser`].
    pub client_user: CertificateUser,
    /// Of the peer port, for both directions.
    pub peers: TlsFiles,
    /// See [`PeerTls`].
    pub peer_tls: PeerTls,
    /// Of the admin API.
    pub http: TlsFiles,
}
