//! Certificates made on the spot, and connections that use them.
//!
//! A [`Tunnel`] lets every plain client of the harness talk to a TLS port.

use std::fs;
use std::io;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType, IsCa, KeyPair,
    date_time_ymd,
};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_rustls::client::TlsStream;
use tokio_rustls::{TlsAcceptor, TlsConnector};

/// An authority that signs certificates.
pub struct Authority(CertifiedIssuer<'static, KeyPair>);

/// A certificate and its key, PEM.
#[derive(Clone, Debug)]
pub struct Leaf {
    /// Certificate.
    pub cert: String,
    /// Private key.
    pub key: String,
}

impl Authority {
    /// A new one.
    ///
    /// # Errors
    /// No random numbers.
    pub fn new(name: &str) -> Result<Self> {
        let mut params = CertificateParams::new(Vec::new())?;
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Ok(Self(CertifiedIssuer::self_signed(params, KeyPair::generate()?)?))
    }

    /// Its own certificate.
    #[must_use]
    pub fn pem(&self) -> String {
        self.0.pem()
    }

    /// A certificate for these names and addresses, for a long time.
    ///
    /// # Errors
    /// A name that no certificate can have.
    pub fn leaf(&self, names: &[&str]) -> Result<Leaf> {
        self.leaf_until(names, 2100)
    }

    /// A certificate that ended long ago.
    ///
    /// # Errors
    /// A name that no certificate can have.
    pub fn expired(&self, names: &[&str]) -> Result<Leaf> {
        self.leaf_until(names, 2001)
    }

    /// A certificate with this common name, for these other names.
    ///
    /// # Errors
    /// A name that no certificate can have.
    pub fn named(&self, common_name: &str, names: &[&str]) -> Result<Leaf> {
        let mut params = params(names, 2100)?;
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, common_name);
        self.sign(&params)
    }

    /// A certificate that ends with the beginning of that year.
    ///
    /// # Errors
    /// A name that no certificate can have.
    pub fn leaf_until(&self, names: &[&str], year: i32) -> Result<Leaf> {
        self.sign(&params(names, year)?)
    }

    fn sign(&self, params: &CertificateParams) -> Result<Leaf> {
        let key = KeyPair::generate()?;
        Ok(Leaf { cert: params.signed_by(&key, &self.0)?.pem(), key: key.serialize_pem() })
    }
}

fn params(names: &[&str], year: i32) -> Result<CertificateParams> {
    let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
    let mut params = CertificateParams::new(names)?;
    params.not_after = date_time_ymd(year, 1, 1);
    Ok(params)
}

impl Leaf {
    /// Writes `<stem>.crt` and `<stem>.key`.
    ///
    /// # Errors
    /// The directory cannot be written to.
    pub fn write(&self, dir: &Path, stem: &str) -> Result<()> {
        fs::create_dir_all(dir)?;
        fs::write(dir.join(format!("{stem}.crt")), &self.cert)?;
        Ok(fs::write(dir.join(format!("{stem}.key")), &self.key)?)
    }
}

/// What a client needs that trusts the authorities in `ca`, and shows this certificate if it has one.
///
/// # Errors
/// Bad PEM.
pub fn client(ca: &str, leaf: Option<&Leaf>) -> Result<Arc<ClientConfig>> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(ca.as_bytes()) {
        roots.add(certificate?)?;
    }
    let builder = ClientConfig::builder_with_provider(provider()).with_safe_default_protocol_versions()?;
    let builder = builder.with_root_certificates(roots);
    Ok(Arc::new(match leaf {
        None => builder.with_no_client_auth(),
        Some(leaf) => {
            let chain =
                CertificateDer::pem_slice_iter(leaf.cert.as_bytes()).collect::<Result<Vec<_>, _>>()?;
            builder.with_client_auth_cert(chain, PrivateKeyDer::from_pem_slice(leaf.key.as_bytes())?)?
        }
    }))
}

/// A connection that somebody made who has proved who they are.
pub type Caller = tokio_rustls::server::TlsStream<TcpStream>;

/// The other side of [`client`]: what a server needs that shows this certificate, and lets in who shows one of `ca`.
pub struct Acceptor(TlsAcceptor);

impl Acceptor {
    /// # Errors
    /// Bad PEM.
    pub fn new(ca: &str, leaf: &Leaf) -> Result<Self> {
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(ca.as_bytes()) {
            roots.add(certificate?)?;
        }
        let verifier = WebPkiClientVerifier::builder_with_provider(roots.into(), provider()).build()?;
        Ok(Self(acceptor(leaf, verifier)?))
    }

    /// The handshake.
    ///
    /// # Errors
    /// It failed.
    pub async fn accept(&self, stream: TcpStream) -> io::Result<Caller> {
        self.0.accept(stream).await
    }
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

fn acceptor(leaf: &Leaf, verifier: Arc<dyn ClientCertVerifier>) -> Result<TlsAcceptor> {
    let chain = CertificateDer::pem_slice_iter(leaf.cert.as_bytes()).collect::<Result<Vec<_>, _>>()?;
    let config = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()?
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain, PrivateKeyDer::from_pem_slice(leaf.key.as_bytes())?)?;
    Ok(TlsAcceptor::from(Arc::new(config)))
}

/// A local address by TLS whose connections go on in the clear: the other side of [`Tunnel`]. Ends when it is dropped.
pub struct Front {
    /// Where to connect.
    pub addr: String,
    _tasks: JoinSet<()>,
}

impl Front {
    /// Opens one before an address, which shows this certificate.
    ///
    /// # Errors
    /// Bad PEM, or no local port.
    pub async fn open(target: &str, leaf: &Leaf) -> Result<Self> {
        let acceptor = acceptor(leaf, WebPkiClientVerifier::no_client_auth())?;
        let target = target.to_owned();
        let (addr, tasks) = for_each_connection(move |near| {
            let (target, acceptor) = (target.clone(), acceptor.clone());
            async move {
                // Who does not trust us goes away again; that is for the client to tell.
                let Ok(mut near) = acceptor.accept(near).await else { return };
                if let Ok(mut far) = TcpStream::connect(&target).await {
                    let _ = tokio::io::copy_bidirectional(&mut near, &mut far).await;
                }
            }
        })
        .await?;
        Ok(Self { addr, _tasks: tasks })
    }
}

/// Listens at a local address and serves each connection; all of it ends when the tasks are dropped.
async fn for_each_connection<F>(
    serve: impl Fn(TcpStream) -> F + Send + 'static,
) -> Result<(String, JoinSet<()>)>
where
    F: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let addr = listener.local_addr()?.to_string();
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        let mut connections = JoinSet::new();
        while let Ok((near, _)) = listener.accept().await {
            let _ = near.set_nodelay(true);
            connections.spawn(serve(near));
            while connections.try_join_next().is_some() {}
        }
    });
    Ok((addr, tasks))
}

/// A TLS connection to `host:port`, whose certificate is checked for the host. With TLS 1.3 the first read says whether
/// the other side lets us in.
///
/// # Errors
/// It cannot be made.
pub async fn dial(addr: &str, client: &Arc<ClientConfig>) -> Result<TlsStream<TcpStream>> {
    let (host, _) = addr.rsplit_once(':').context("an address has a port")?;
    let stream = TcpStream::connect(addr).await?;
    stream.set_nodelay(true)?;
    let name = ServerName::try_from(host.to_owned())?;
    Ok(TlsConnector::from(client.clone()).connect(name, stream).await?)
}

/// The certificate that is shown at an address, DER.
///
/// # Errors
/// No handshake.
pub async fn shown_at(addr: &str, client: &Arc<ClientConfig>) -> Result<Vec<u8>> {
    let stream = dial(addr, client).await?;
    let shown = stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
    Ok(shown.context("a certificate")?.to_vec())
}

/// A local address in the clear whose connections go on by TLS. Ends when it is dropped.
pub struct Tunnel {
    /// Where to connect.
    pub addr: String,
    _tasks: JoinSet<()>,
}

impl Tunnel {
    /// Opens one to a TLS address.
    ///
    /// # Errors
    /// No local port.
    pub async fn open(target: &str, client: Arc<ClientConfig>) -> Result<Self> {
        let target = target.to_owned();
        let (addr, tasks) = for_each_connection(move |mut near| {
            let (target, client) = (target.clone(), client.clone());
            async move {
                // A connection that cannot go on ends: the client finds it broken, and why stands here.
                match dial(&target, &client).await {
                    Ok(mut far) => drop(tokio::io::copy_bidirectional(&mut near, &mut far).await),
                    Err(error) => eprintln!("tunnel to {target}: {error:#}"),
                }
            }
        })
        .await?;
        Ok(Self { addr, _tasks: tasks })
    }
}
