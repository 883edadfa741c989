//! Certificate, key and authorities of one use, checked together and exchanged as one.

use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use rustls::client::Resumption;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::{ClientConfig, RootCertStore, ServerConfig, SupportedProtocolVersion};
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::files::{Contents, Files, Fingerprint, TlsError};
use super::refusals::Refusals;
use super::{TlsStream, Use};
use crate::clock::{self, UnixMs};
use crate::machine::TcpStream;

/// Time for a handshake, waiting for a place included.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// Handshakes of one use at once: each is a few kilobytes and about a millisecond of a core.
const HANDSHAKES_MAX: usize = 512;

static TLS13_ONLY: &[&SupportedProtocolVersion] = &[&rustls::version::TLS13];

/// What the accepting side wants to see.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asks {
    /// No certificate.
    Nothing,
    /// One of the authorities' certificates, or none.
    Optionally,
    /// One of the authorities' certificates.
    Always,
}

/// What a handshake takes: all of it was read at one time.
struct Current {
    fingerprint: Fingerprint,
    server: Arc<ServerConfig>,
    /// Peers only.
    client: Option<Arc<ClientConfig>>,
    ends: UnixMs,
}

/// What the last looks at the files found.
#[derive(Debug, Default)]
struct Looks {
    /// Changed bytes that were seen once. They are taken over when the next look finds the same: a look may fall
    /// between the exchange of the certificate and that of the key.
    pending: Option<Fingerprint>,
    /// The fault that was told.
    told: Option<TlsError>,
}

/// The certificates of one use.
pub struct Credentials {
    usage: Use,
    files: Files,
    asks: Asks,
    current: ArcSwap<Current>,
    looks: Mutex<Looks>,
    stale: AtomicBool,
    places: Semaphore,
    refusals: Refusals,
}

impl Credentials {
    /// Reads and checks the files.
    pub(super) fn load(usage: Use, files: Files, asks: Asks) -> Result<Self, TlsError> {
        let current = build(usage, &files, asks, &files.read()?)?;
        warn_if_over(usage, &current);
        Ok(Self {
            usage,
            files,
            asks,
            current: ArcSwap::from_pointee(current),
            looks: Mutex::default(),
            stale: AtomicBool::new(false),
            places: Semaphore::new(HANDSHAKES_MAX),
            refusals: Refusals::default(),
        })
    }

    /// What these are for.
    #[must_use]
    pub fn usage(&self) -> Use {
        self.usage
    }

    /// Whether callers are asked for a certificate.
    #[must_use]
    pub fn asks(&self) -> Asks {
        self.asks
    }

    /// When the certificate in use ends, or the first of its chain.
    #[must_use]
    pub fn ends(&self) -> UnixMs {
        self.current.load().ends
    }

    /// Whether the files hold something else than what is in use, because it is bad.
    #[must_use]
    pub fn is_stale(&self) -> bool {
        self.stale.load(Ordering::Relaxed)
    }

    /// Handshakes that came to nothing, as the accepting side.
    #[must_use]
    pub fn refused(&self) -> u64 {
        self.refusals.count()
    }

    /// The accepting side's handshake. `None` when it came to nothing, which is counted and told.
    ///
    /// # Cancel safety
    /// Dropping the future drops the connection.
    pub async fn accept(&self, stream: TcpStream, from: IpAddr) -> Option<TlsStream> {
        let handshake = async {
            let _place = self.places.acquire().await.map_err(io::Error::other)?;
            let acceptor = TlsAcceptor::from(self.current.load().server.clone());
            acceptor.accept(stream).await
        };
        match timeout(HANDSHAKE_TIMEOUT, handshake).await {
            Ok(Ok(stream)) => return Some(stream.into()),
            Ok(Err(error)) if is_hang_up(&error) => self.refusals.gone(self.usage, from),
            Ok(Err(error)) => {
                self.refusals.note(self.usage, from, &error);
            }
            Err(_) => {
                self.refusals.note(self.usage, from, &"not done in time");
            }
        }
        None
    }

    /// Counts a connection that is not even TLS.
    pub(crate) fn refuse(&self, from: IpAddr, why: &str) {
        self.refusals.note(self.usage, from, &why);
    }

    /// The dialling side's handshake with the peer that is called `name` (a host name or an address). The caller limits
    /// the time.
    ///
    /// # Errors
    /// Those of the socket, of the handshake, and a name that no certificate can have. That the other side does not
    /// like our certificate comes with the first read.
    pub async fn connect(&self, stream: TcpStream, name: &str) -> io::Result<TlsStream> {
        let client = self.current.load().client.clone();
        let client = client.ok_or_else(|| io::Error::other("these certificates are not for dialling"))?;
        let name = ServerName::try_from(name.to_owned()).map_err(io::Error::other)?;
        TlsConnector::from(client).connect(name, stream).await.map(Into::into)
    }

    /// Looks at the files and takes changed ones over. Blocks.
    pub fn look(&self) {
        let contents = match self.files.read() {
            Ok(contents) => contents,
            Err(error) => return self.keep(error),
        };
        let fingerprint = contents.fingerprint();
        if fingerprint == self.current.load().fingerprint {
            *self.looks.lock() = Looks::default();
            self.stale.store(false, Ordering::Relaxed);
            return;
        }
        if self.looks.lock().pending.replace(fingerprint) != Some(fingerprint) {
            return;
        }
        match build(self.usage, &self.files, self.asks, &contents) {
            Ok(current) => {
                warn_if_over(self.usage, &current);
                let ends_s = current.ends.0 / 1000;
                self.current.store(Arc::new(current));
                *self.looks.lock() = Looks::default();
                self.stale.store(false, Ordering::Relaxed);
                tracing::info!(listener = self.usage.label(), ends_s, "new certificate in use");
            }
            Err(error) => self.keep(error),
        }
    }

    /// What is on disk is bad: told once, and what is in use stays.
    fn keep(&self, error: TlsError) {
        self.stale.store(true, Ordering::Relaxed);
        let mut looks = self.looks.lock();
        if looks.told.as_ref() != Some(&error) {
            tracing::error!(listener = self.usage.label(), %error, "certificate files are bad, the old ones stay in use");
            looks.told = Some(error);
        }
    }
}

/// The other side hung up without a word.
pub(crate) fn is_hang_up(error: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, UnexpectedEof};
    matches!(error.kind(), BrokenPipe | ConnectionAborted | ConnectionReset | UnexpectedEof)
}

fn warn_if_over(usage: Use, current: &Current) {
    if current.ends <= clock::wall() {
        tracing::warn!(listener = usage.label(), "the certificate has expired: others will refuse it");
    }
}

fn build(usage: Use, files: &Files, asks: Asks, contents: &Contents) -> Result<Current, TlsError> {
    let (chain, ends) = files.chain(contents)?;
    let key = files.private_key(contents)?;
    let authorities = files.authorities(contents)?.map(Arc::new);
    let versions = if usage == Use::Peers { TLS13_ONLY } else { rustls::ALL_VERSIONS };
    let server = server(files, asks, versions, authorities.clone(), (chain.clone(), key.clone_key()))?;
    let client = match authorities.filter(|_| usage == Use::Peers) {
        Some(roots) => Some(Arc::new(client(files, versions, roots, (chain, key))?)),
        None => None,
    };
    Ok(Current { fingerprint: contents.fingerprint(), server: Arc::new(server), client, ends })
}

type Pair = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

fn unusable(files: &Files, error: &rustls::Error) -> TlsError {
    match error {
        rustls::Error::InconsistentKeys(_) => files
            .key
            .error("not the key of the certificate", "give the key that the certificate was made for"),
        other => {
            files.cert.error(other, "give a certificate and its key (ECDSA P-256 or P-384, Ed25519, RSA)")
        }
    }
}

fn server(
    files: &Files,
    asks: Asks,
    versions: &[&'static SupportedProtocolVersion],
    authorities: Option<Arc<RootCertStore>>,
    (chain, key): Pair,
) -> Result<ServerConfig, TlsError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier: Arc<dyn ClientCertVerifier> = match (asks, authorities) {
        (Asks::Nothing, _) => WebPkiClientVerifier::no_client_auth(),
        (_, None) => {
            return Err(files.cert.error("no authority for the other side", "set its CA file as well"));
        }
        (asks, Some(roots)) => {
            let builder = WebPkiClientVerifier::builder_with_provider(roots, provider.clone());
            let builder = if asks == Asks::Optionally { builder.allow_unauthenticated() } else { builder };
            builder.build().map_err(|error| files.cert.error(error, "check the CA file"))?
        }
    };
    let builder = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(versions)
        .map_err(|error| unusable(files, &error))?;
    let mut config = builder
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain, key)
        .map_err(|error| unusable(files, &error))?;
    if asks != Asks::Nothing {
        // Every handshake is to show the certificate anew: one that was exchanged or has ended opens nothing.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
    }
    Ok(config)
}

fn client(
    files: &Files,
    versions: &[&'static SupportedProtocolVersion],
    roots: Arc<RootCertStore>,
    (chain, key): Pair,
) -> Result<ClientConfig, TlsError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(versions)
        .map_err(|error| unusable(files, &error))?;
    let mut config = builder
        .with_root_certificates(roots)
        .with_client_auth_cert(chain, key)
        .map_err(|error| unusable(files, &error))?;
    config.resumption = Resumption::disabled();
    Ok(config)
}
