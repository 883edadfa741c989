//! One cluster and one bucket for a test, and the things that all tests do with them.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Result, ensure};
use kvnode_operator::admin_client::AdminClient;
use kvnode_operator::backup::catalog::{Listing, list};
use kvnode_operator::backup::crypt::Key;
use kvnode_operator::backup::layout::Layout;
use kvnode_operator::backup::progress::{Report, Reporter};
use kvnode_operator::backup::retention::Policy;
use kvnode_operator::backup::run::{Order, RunError, run};
use kvnode_operator::backup::verify::Proof;
use kvnode_operator::crd::backup::Verify;
use kvnode_operator::s3::{Credentials, Settings, Store};
use kvnode_tests::binary;
use kvnode_tests::cluster::Cluster;
use kvnode_tests::s3::S3Server;

/// Name of the cluster in paths.
pub(crate) const CLUSTER: &str = "cart";

/// Everything that a test needs.
pub(crate) struct Bed {
    pub(crate) cluster: Cluster,
    pub(crate) s3: S3Server,
    pub(crate) store: Store,
    pub(crate) layout: Layout,
    pub(crate) dir: tempfile::TempDir,
}

impl Bed {
    /// A cluster of so many nodes and an empty bucket; `None` after the loud line if there is no S3 server.
    pub(crate) async fn start(nodes: usize) -> Result<Option<Self>> {
        let Some(s3) = S3Server::start().await? else { return Ok(None) };
        let cluster = Cluster::start(nodes, &[]).await?;
        let settings = settings(&s3);
        let store = settings.open().await?;
        s3.make_bucket(&settings.bucket).await?;
        let layout = Layout::new("prod/kv");
        Ok(Some(Self { cluster, s3, store, layout, dir: tempfile::tempdir()? }))
    }

    /// Admin addresses of all nodes.
    pub(crate) fn nodes(&self) -> Vec<String> {
        self.cluster.nodes.iter().map(|node| node.http().to_owned()).collect()
    }

    pub(crate) fn order(&self, name: &str) -> Order {
        Order {
            cluster: CLUSTER.into(),
            run: name.into(),
            nodes: self.nodes(),
            cluster_id: None,
            layout: self.layout.clone(),
            key: None,
            retention: Policy::default(),
        }
    }

    pub(crate) fn proof(&self, mode: Verify) -> Proof<'_> {
        Proof { mode, key: None, server: Some(binary::server()), scratch: self.dir.path() }
    }

    /// A run with the content as its proof.
    pub(crate) async fn run(&self, order: &Order) -> Result<Report, RunError> {
        let proof = Proof { key: order.key.as_ref(), ..self.proof(Verify::Content) };
        run(&self.store, &AdminClient::tcp(), order, &proof, &Reporter::default()).await
    }

    /// Everything in the bucket.
    pub(crate) async fn listing(&self) -> Result<Listing> {
        Ok(list(&self.store, &self.layout, self.layout.root()).await?)
    }

    /// Writes `count` keys of `bytes` incompressible bytes through the leader.
    pub(crate) async fn fill(&mut self, prefix: &str, count: usize, bytes: usize) -> Result<()> {
        let mut client = self.cluster.leader_client().await?;
        for number in 0..count {
            let value: Vec<u8> = (0..bytes).map(|_| rand::random::<u8>()).collect();
            let key = format!("{prefix}{number:06}");
            let reply = client.call(&[b"SET", key.as_bytes(), &value]).await?;
            ensure!(reply.as_bytes() == Some(b"OK") || format!("{reply:?}").contains("OK"), "SET: {reply:?}");
        }
        Ok(())
    }

    /// Writes `count` keys of `bytes` incompressible bytes in pipelines.
    pub(crate) async fn fill_fast(&mut self, count: usize, bytes: usize) -> Result<()> {
        let mut client = self.cluster.leader_client().await?.with_patience(Duration::from_mins(2));
        for first in (0..count).step_by(32) {
            let commands: Vec<Vec<Vec<u8>>> = (first..count.min(first + 32))
                .map(|number| {
                    let mut value = vec![0; bytes];
                    rand::fill(&mut value[..]);
                    vec![b"SET".to_vec(), format!("fill:{number}").into_bytes(), value]
                })
                .collect();
            for reply in client.pipeline(&commands).await? {
                ensure!(
                    reply.as_bytes() == Some(b"OK") || format!("{reply:?}").contains("OK"),
                    "SET: {reply:?}"
                );
            }
        }
        Ok(())
    }

    pub(crate) fn scratch(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }
}

/// Settings of a fresh bucket.
pub(crate) fn settings(s3: &S3Server) -> Settings {
    Settings {
        endpoint: Some(s3.endpoint()),
        path_style: true,
        credentials: Credentials::Directory(s3.credentials.clone()),
        ..Settings::new("backups")
    }
}

/// A key for tests.
pub(crate) fn key(byte: u8) -> Key {
    Key::read(&[byte; 32]).expect("32 bytes are a key")
}

/// A file as text.
pub(crate) fn text(path: &Path) -> String {
    String::from_utf8_lossy(&std::fs::read(path).unwrap_or_default()).into_owned()
}
