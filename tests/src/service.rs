//! One address before several nodes, as a Service of Kubernetes is one: each new connection goes to a node that takes it.

use std::sync::Arc;

use anyhow::Result;
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

/// The address; its connections end with it.
pub struct Service {
    /// `host:port`.
    pub addr: String,
    _accepting: JoinSet<()>,
}

impl Service {
    /// Listens on loopback. A connection goes to the first of `nodes` that can be reached, and ends when that does.
    ///
    /// # Errors
    /// No port is free.
    pub async fn start(nodes: Vec<String>) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let addr = listener.local_addr()?.to_string();
        let nodes = Arc::new(nodes);
        let mut accepting = JoinSet::new();
        accepting.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((mut client, _)) = listener.accept().await {
                let nodes = Arc::clone(&nodes);
                connections.spawn(async move {
                    for node in nodes.iter() {
                        let Ok(mut server) = TcpStream::connect(node).await else { continue };
                        // Either side may just vanish: that is what is tested.
                        let _ = client.set_nodelay(true).and_then(|()| server.set_nodelay(true));
                        let _ = copy_bidirectional(&mut client, &mut server).await;
                        return;
                    }
                });
            }
        });
        Ok(Self { addr, _accepting: accepting })
    }
}
