//! The admin port of a fake node with TLS: mutual, by what the Secret of its cluster holds.

use std::net::SocketAddr;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Secret;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use serde_json::Value;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

/// A listener whose connections have proved who they are.
pub(crate) struct Doors {
    pub(crate) listener: TcpListener,
    pub(crate) acceptor: TlsAcceptor,
}

impl axum::serve::Listener for Doors {
    type Io = TlsStream<TcpStream>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        loop {
            // Who fails is no caller of this bed's; the operator tries again.
            if let Ok((stream, from)) = self.listener.accept().await
                && let Ok(stream) = self.acceptor.accept(stream).await
            {
                return (stream, from);
            }
        }
    }

    fn local_addr(&self) -> std::io::Result<Self::Addr> {
        self.listener.local_addr()
    }
}

/// What a pod makes of its Secret.
pub(crate) fn acceptor(secret: &Value) -> TlsAcceptor {
    let secret: Secret = serde_json::from_value(secret.clone()).expect("a Secret");
    let data = secret.data.expect("with data");
    let certs = |key: &str| {
        let all = CertificateDer::pem_slice_iter(&data[key].0);
        all.collect::<Result<Vec<_>, _>>().expect("certificates in PEM")
    };
    let mut roots = RootCertStore::empty();
    for authority in certs("ca.crt") {
        roots.add(authority).expect("an authority");
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = WebPkiClientVerifier::builder_with_provider(roots.into(), provider.clone());
    let key = PrivateKeyDer::from_pem_slice(&data["tls.key"].0).expect("a key in PEM");
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_client_cert_verifier(verifier.build().expect("a verifier"))
        .with_single_cert(certs("tls.crt"), key)
        .expect("a certificate and its key");
    TlsAcceptor::from(Arc::new(config))
}
