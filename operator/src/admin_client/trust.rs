//! Which admin ports are spoken to by TLS, with which certificates, and which certificate each of them showed last.
//!
//! A pod keeps its address until its end, so an address belongs to one cluster at a time. A pass over a cluster says
//! anew which addresses are its own; an address that went to another cluster meanwhile fails its handshake.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use rustls::ClientConfig;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio_rustls::TlsConnector;

use super::connection::{Dial, Io, Tcp};
use crate::name::ClusterName;
use crate::pki::{self, Fingerprint, Pair, fingerprint_of};

/// An admin port that speaks TLS.
struct Known {
    cluster: ClusterName,
    /// What its certificate must be valid for.
    host: String,
    /// `None`: there is no certificate to talk to it with.
    client: Option<Arc<ClientConfig>>,
    shown: Option<Fingerprint>,
}

/// The known admin ports. Cheap to clone; all clones are the same.
#[derive(Clone, Default)]
pub struct Trust(Arc<Mutex<BTreeMap<String, Known>>>);

impl Trust {
    /// The admin ports of a cluster, by address the host that each has to prove to be. Those that are not among them any
    /// more are forgotten. Without a `client` none of them is talked to, least of all in the clear.
    pub fn replace(
        &self,
        cluster: &ClusterName,
        client: Option<&Arc<ClientConfig>>,
        hosts: impl IntoIterator<Item = (String, String)>,
    ) {
        let mut known = self.0.lock();
        let old = std::mem::take(&mut *known);
        let (mut ours, others): (BTreeMap<_, _>, BTreeMap<_, _>) =
            old.into_iter().partition(|(_, one)| one.cluster == *cluster);
        *known = others;
        for (addr, host) in hosts {
            let shown = ours.remove(&addr).filter(|one| one.host == host).and_then(|one| one.shown);
            known.insert(addr, Known { cluster: cluster.clone(), host, client: client.cloned(), shown });
        }
    }

    /// The cluster is gone, or does not speak TLS.
    pub fn forget(&self, cluster: &ClusterName) {
        self.0.lock().retain(|_, one| one.cluster != *cluster);
    }

    /// The certificate that an admin port showed in its last handshake.
    #[must_use]
    pub fn shown(&self, addr: &str) -> Option<Fingerprint> {
        self.0.lock().get(addr)?.shown
    }

    /// The same admin ports, with another certificate of ours; what they show is not noted.
    #[must_use]
    pub fn shown_as(&self, client: Arc<ClientConfig>) -> impl Dial + use<> {
        Otherwise { trust: self.clone(), client }
    }

    fn way(&self, addr: &str) -> Option<(String, Option<Arc<ClientConfig>>)> {
        let known = self.0.lock();
        let one = known.get(addr)?;
        Some((one.host.clone(), one.client.clone()))
    }

    fn note(&self, addr: &str, host: &str, shown: Fingerprint) {
        if let Some(one) = self.0.lock().get_mut(addr).filter(|one| one.host == host) {
            one.shown = Some(shown);
        }
    }
}

impl Dial for Trust {
    fn dial<'a>(&'a self, to: &'a str) -> BoxFuture<'a, io::Result<Box<dyn Io>>> {
        Box::pin(async move {
            let Some((host, client)) = self.way(to) else { return Tcp.dial(to).await };
            let client =
                client.ok_or_else(|| io::Error::other("there is no certificate for this cluster yet"))?;
            let name = ServerName::try_from(host.clone()).map_err(io::Error::other)?;
            let stream = TlsConnector::from(client).connect(name, Tcp.dial(to).await?).await?;
            if let Some([own, ..]) = stream.get_ref().1.peer_certificates() {
                self.note(to, &host, fingerprint_of(own));
            }
            Ok(Box::new(stream) as Box<dyn Io>)
        })
    }
}

/// See [`Trust::shown_as`].
struct Otherwise {
    trust: Trust,
    client: Arc<ClientConfig>,
}

impl Dial for Otherwise {
    fn dial<'a>(&'a self, to: &'a str) -> BoxFuture<'a, io::Result<Box<dyn Io>>> {
        Box::pin(async move {
            let (host, _) = self.trust.way(to).ok_or_else(|| io::Error::other("not a node of a cluster"))?;
            let name = ServerName::try_from(host).map_err(io::Error::other)?;
            let stream = TlsConnector::from(self.client.clone()).connect(name, Tcp.dial(to).await?).await?;
            Ok(Box::new(stream) as Box<dyn Io>)
        })
    }
}

/// TLS with every node, which has to prove to be the host that it is called by. For a run of a backup.
#[derive(Clone, Debug)]
pub struct ByName(pub Arc<ClientConfig>);

impl Dial for ByName {
    fn dial<'a>(&'a self, to: &'a str) -> BoxFuture<'a, io::Result<Box<dyn Io>>> {
        Box::pin(async move {
            let host = to.rsplit_once(':').map_or(to, |(host, _)| host);
            let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
            let stream = TlsConnector::from(self.0.clone()).connect(name, Tcp.dial(to).await?).await?;
            Ok(Box::new(stream) as Box<dyn Io>)
        })
    }
}

/// What the operator needs to talk to nodes whose certificates `ca` signs.
///
/// # Errors
/// What is wrong with the PEM texts, without their content.
pub fn client(ca: &str, own: &Pair) -> Result<Arc<ClientConfig>, String> {
    let roots = pki::authorities(ca)?;
    let chain = CertificateDer::pem_slice_iter(own.cert.as_bytes()).collect::<Result<Vec<_>, _>>();
    let chain = chain.map_err(|_| "tls.crt is no PEM")?;
    let key = PrivateKeyDer::from_pem_slice(own.key.as_bytes()).map_err(|_| "tls.key has no private key")?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let builder = builder.map_err(|error| error.to_string())?.with_root_certificates(roots);
    let config = builder.with_client_auth_cert(chain, key);
    config.map(Arc::new).map_err(|error| format!("tls.crt and tls.key: {error}"))
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use rustls::server::WebPkiClientVerifier;
    use rustls::{RootCertStore, ServerConfig};
    use tokio::io::AsyncReadExt as _;
    use tokio::net::TcpListener;
    use tokio_rustls::TlsAcceptor;

    use super::*;

    fn cluster(name: &str) -> ClusterName {
        ClusterName { namespace: "shop".into(), name: name.into() }
    }

    /// A node that asks for a certificate of this authority, and says one byte to who has one.
    async fn node(authority: &Pair, names: &[&str], now: Timestamp) -> (String, Pair) {
        let names = names.iter().map(|&name| name.to_owned()).collect();
        let own = pki::of_pods(authority, names, now).unwrap();
        let chain = CertificateDer::pem_slice_iter(own.cert.as_bytes()).collect::<Result<_, _>>().unwrap();
        let key = PrivateKeyDer::from_pem_slice(own.key.as_bytes()).unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(authority.cert.as_bytes()).unwrap()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let verifier =
            WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone()).build().unwrap();
        let builder = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let config =
            builder.unwrap().with_client_cert_verifier(verifier).with_single_cert(chain, key).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap().to_string();
        let acceptor = TlsAcceptor::from(Arc::new(config));
        #[allow(clippy::disallowed_methods, reason = "ends with the runtime of the test")]
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                if let Ok(mut stream) = acceptor.accept(stream).await {
                    use tokio::io::AsyncWriteExt as _;
                    let _ = stream.write_all(b"!").await;
                    let _ = stream.shutdown().await;
                }
            }
        });
        (addr, own)
    }

    async fn asks(trust: &Trust, addr: &str) -> io::Result<u8> {
        trust.dial(addr).await?.read_u8().await
    }

    #[tokio::test]
    async fn a_node_is_asked_by_its_name_and_what_it_shows_is_remembered() {
        let now = crate::clock::wall();
        let own = pki::authority(&cluster("cart"), now).unwrap();
        let (addr, shown) = node(&own, &["*.cart-raft.shop.svc"], now).await;
        let me = client(&own.cert, &pki::of_operator(&own, now).unwrap()).unwrap();
        let trust = Trust::default();
        let host = "cart-0.cart-raft.shop.svc".to_owned();
        trust.replace(&cluster("cart"), Some(&me), [(addr.clone(), host.clone())]);
        assert_eq!(trust.shown(&addr), None);
        assert_eq!(asks(&trust, &addr).await.unwrap(), b'!');
        assert_eq!(trust.shown(&addr), pki::fingerprint(&shown.cert));
        trust.replace(&cluster("cart"), Some(&me), [(addr.clone(), host)]);
        assert!(trust.shown(&addr).is_some(), "another pass does not forget it");

        // Under another name it is not the node that is meant.
        trust.replace(&cluster("cart"), Some(&me), [(addr.clone(), "cart-0.cart-raft.other.svc".into())]);
        assert!(asks(&trust, &addr).await.is_err());
        // Nor is it with the certificates of another cluster, in either direction.
        let other = pki::authority(&cluster("cart"), now).unwrap();
        let them = client(&other.cert, &pki::of_operator(&other, now).unwrap()).unwrap();
        trust.replace(&cluster("cart"), Some(&them), [(addr.clone(), "cart-0.cart-raft.shop.svc".into())]);
        assert!(asks(&trust, &addr).await.is_err());
        let stranger = client(&own.cert, &pki::of_operator(&other, now).unwrap()).unwrap();
        trust.replace(
            &cluster("cart"),
            Some(&stranger),
            [(addr.clone(), "cart-0.cart-raft.shop.svc".into())],
        );
        assert!(asks(&trust, &addr).await.is_err());
    }

    #[tokio::test]
    async fn clusters_do_not_disturb_each_other() {
        let now = crate::clock::wall();
        let own = pki::authority(&cluster("a"), now).unwrap();
        let me = client(&own.cert, &pki::of_operator(&own, now).unwrap()).unwrap();
        let trust = Trust::default();
        trust.replace(&cluster("a"), Some(&me), [("10.0.0.1:1".to_owned(), "a-0".to_owned())]);
        trust.replace(&cluster("b"), Some(&me), [("10.0.0.2:1".to_owned(), "b-0".to_owned())]);
        assert!(trust.way("10.0.0.1:1").is_some() && trust.way("10.0.0.2:1").is_some());
        trust.replace(&cluster("a"), Some(&me), []);
        assert!(trust.way("10.0.0.1:1").is_none(), "the pod is gone");
        trust.replace(&cluster("b"), None, [("10.0.0.2:1".to_owned(), "b-0".to_owned())]);
        assert!(trust.dial("10.0.0.2:1").await.is_err(), "nothing goes in the clear");
        trust.forget(&cluster("b"));
        assert!(trust.way("10.0.0.2:1").is_none());
    }
}
