//! The admin port of a fake node with TLS: mutual, by what the Secret of its cluster holds.

use std::net::SocketAddr;

use k8s_openapi::api::core::v1::Secret;
use kvnode_tests::pki::{Acceptor, Caller, Leaf};
use serde_json::Value;
use tokio::net::TcpListener;

/// A listener whose connections have proved who they are.
pub(crate) struct Doors {
    pub(crate) listener: TcpListener,
    pub(crate) acceptor: Acceptor,
}

impl axum::serve::Listener for Doors {
    type Io = Caller;
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
pub(crate) fn acceptor(secret: &Value) -> Acceptor {
    let secret: Secret = serde_json::from_value(secret.clone()).expect("a Secret");
    let data = secret.data.expect("with data");
    let text = |key: &str| String::from_utf8(data[key].0.clone()).expect("PEM");
    let leaf = Leaf { cert: text("tls.crt"), key: text("tls.key") };
    Acceptor::new(&text("ca.crt"), &leaf).expect("a certificate and its key")
}
