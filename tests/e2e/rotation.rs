//! Every certificate, key, authority and password of a running cluster is exchanged under load, and no command fails.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use kvnode_tests::client::Client;
use kvnode_tests::cluster::Cluster;
use kvnode_tests::http;
use kvnode_tests::node::{Node, loopback};
use kvnode_tests::pki::{self, Authority, Leaf, Tunnel};
use kvnode_tests::scenario::scenario;
use kvnode_tests::wait::{SOON, eventually};
use kvnode_tests::writer::Writer;
use rustls::ClientConfig;

/// Uses of certificates, by the stems of their files: `client.crt`, `client.key`, `client-ca.crt` and so on.
const USES: [&str; 3] = ["client", "peer", "admin"];

/// A cluster whose every door is locked.
struct Locked<'a> {
    cluster: &'a mut Cluster,
    ips: Vec<String>,
}

impl<'a> Locked<'a> {
    async fn start(cluster: &'a mut Cluster, signers: &[Authority; 3]) -> Result<Self> {
        let passwords = cluster.path().join("passwords");
        fs::write(&passwords, "old\n")?;
        fs::write(cluster.path().join("users.acl"), "user app on ~* &* +@all -@admin\n")?;
        let mut this = Self { cluster, ips: Vec::new() };
        for index in 0..3 {
            let ip = loopback();
            this.ips.push(ip.clone());
            for (usage, signer) in USES.iter().zip(signers) {
                this.put_leaf(index, usage, &signer.leaf(&[&ip])?)?;
                this.put_authority(index, usage, &signer.pem())?;
            }
            let mut flags = vec!["--config".to_owned(), this.configure(index)?];
            if let Some(first) = this.cluster.nodes.first() {
                flags.extend(["--join".to_owned(), first.ready().peer_addr.clone()]);
            }
            let dir = this.cluster.path().to_owned();
            let mut node = Node::new(&dir, &format!("node{}", index + 1), &flags).at(&format!("{ip}:0"));
            let started = node.start().await;
            this.cluster.nodes.push(node);
            started?;
        }
        Ok(this)
    }

    fn dir(&self, index: usize) -> PathBuf {
        self.cluster.path().join(format!("node{}.tls", index + 1))
    }

    fn put_leaf(&self, index: usize, usage: &str, leaf: &Leaf) -> Result<()> {
        leaf.write(&self.dir(index), usage)
    }

    fn put_authority(&self, index: usize, usage: &str, pem: &str) -> Result<()> {
        Ok(fs::write(self.dir(index).join(format!("{usage}-ca.crt")), pem)?)
    }

    fn configure(&self, index: usize) -> Result<String> {
        let (dir, root) = (self.dir(index), self.cluster.path());
        let mut text = format!(
            "tls_addr: {}:0\ntls_client_auth: require\ntls_client_auth_user: cn\npeer_tls: required\nauth_failure_delay: 0\n\
             requirepass_file: {1}/passwords\nacl_file: {1}/users.acl\n",
            self.ips[index],
            root.display()
        );
        for (key, stem, ca) in [
            ("tls", "client", "client_ca_file"),
            ("peer_tls", "peer", "ca_file"),
            ("http_tls", "admin", "client_ca_file"),
        ] {
            let path = dir.join(stem);
            let path = path.display();
            writeln!(
                text,
                "{key}_cert_file: {path}.crt\n{key}_key_file: {path}.key\n{key}_{ca}: {path}-ca.crt"
            )?;
        }
        let file = dir.join("config.yaml");
        fs::write(&file, text)?;
        Ok(file.display().to_string())
    }

    fn addr(&self, index: usize, usage: &str) -> Result<String> {
        let ready = self.cluster.nodes[index].ready();
        Ok(match usage {
            "client" => ready.tls_addr.clone().context("it speaks TLS")?,
            "peer" => ready.peer_addr.clone(),
            _ => ready.http_addr.clone(),
        })
    }

    /// Waits until every node shows a certificate that `client` trusts at the door of this use.
    async fn shows(&self, usage: &str, client: &Arc<ClientConfig>) -> Result<()> {
        for index in 0..3 {
            let addr = self.addr(index, usage)?;
            eventually("the certificate is taken over", SOON, async || {
                Ok(pki::dial(&addr, client).await.is_ok().then_some(()))
            })
            .await?;
        }
        Ok(())
    }

    /// The whole way from one authority to another: trust both, show the new one, trust the new one alone. `between` is
    /// called when both are valid: those who connect go over then.
    async fn exchange(
        &self,
        usage: &str,
        (old, new): (&Authority, &Authority),
        between: impl AsyncFnOnce() -> Result<()>,
    ) -> Result<()> {
        for index in 0..3 {
            self.put_authority(index, usage, &(old.pem() + &new.pem()))?;
        }
        let shown = new.leaf(&["127.0.0.1"])?;
        // TLS 1.3: whether the authority of a caller is known shows at its first read.
        for index in 0..3 {
            self.lets_in(index, usage, &pki::client(&old.pem(), Some(&shown))?).await?;
        }
        for index in 0..3 {
            self.put_leaf(index, usage, &new.leaf(&[&self.ips[index]])?)?;
        }
        self.shows(usage, &pki::client(&new.pem(), Some(&shown))?).await?;
        between().await?;
        for index in 0..3 {
            self.put_authority(index, usage, &new.pem())?;
        }
        let gone = pki::client(&new.pem(), Some(&old.leaf(&["127.0.0.1"])?))?;
        for index in 0..3 {
            self.shuts_out(index, usage, &gone).await?;
        }
        Ok(())
    }

    /// True if the door of this use answers one with this certificate, whatever it says.
    async fn answers(&self, index: usize, usage: &str, client: &Arc<ClientConfig>) -> Result<bool> {
        let tunnel = Tunnel::open(&self.addr(index, usage)?, client.clone()).await?;
        Ok(match usage {
            "client" => Client::connect(&tunnel.addr).await?.run("PING").await.is_ok(),
            "admin" => http::get(&tunnel.addr, "/livez").await.is_ok(),
            _ => {
                let mut stream = tokio::net::TcpStream::connect(&tunnel.addr).await?;
                // Who is there? A peer that is let in is told, one that is not finds an end.
                let nobody = kvnode_tests::peer::Ids { cluster: 0, node: 0 };
                kvnode_tests::peer::greet(&mut stream, nobody, 1).await.is_ok()
            }
        })
    }

    async fn lets_in(&self, index: usize, usage: &str, client: &Arc<ClientConfig>) -> Result<()> {
        eventually("the new authority is trusted", SOON, async || {
            Ok(self.answers(index, usage, client).await?.then_some(()))
        })
        .await
    }

    async fn shuts_out(&self, index: usize, usage: &str, client: &Arc<ClientConfig>) -> Result<()> {
        eventually("the old authority is not trusted any more", SOON, async || {
            Ok((!self.answers(index, usage, client).await?).then_some(()))
        })
        .await
    }

    /// A writer of each node's TLS port, logged in by this certificate.
    async fn writers(&self, ca: &str, leaf: &Leaf) -> Result<Vec<(Tunnel, Writer)>> {
        let mut writers = Vec::new();
        for index in 0..3 {
            let tunnel = Tunnel::open(&self.addr(index, "client")?, pki::client(ca, Some(leaf))?).await?;
            let writer = Writer::start(vec![tunnel.addr.clone()]);
            writer.progress(20).await?;
            writers.push((tunnel, writer));
        }
        Ok(writers)
    }

    /// A writer of each node, which logs in by the password that this file has when it connects.
    fn by_password(&self, file: &str) -> Vec<((), Writer)> {
        let file = self.cluster.path().join(file);
        let start = |addr: &str| {
            let file = file.clone();
            let login = move || format!("AUTH {}", fs::read_to_string(&file).unwrap_or_default());
            ((), Writer::start_as(vec![addr.to_owned()], Some(Box::new(login))))
        };
        self.cluster.nodes.iter().map(|node| start(node.addr())).collect()
    }

    /// From `old` to `new`, under these writers.
    async fn change_password(&self, handed_out: &Path, writers: Vec<((), Writer)>) -> Result<u64> {
        let passwords = self.cluster.path().join("passwords");
        let valid = async |password: &str, wanted: bool| -> Result<()> {
            for node in &self.cluster.nodes {
                eventually("the passwords are taken over", SOON, async || {
                    let reply = node.client().await?.run(&format!("AUTH {password}")).await?;
                    Ok((reply.is_ok() == wanted).then_some(()))
                })
                .await?;
            }
            Ok(())
        };
        fs::write(&passwords, "old\nnew\n")?;
        valid("new", true).await?;
        fs::write(handed_out, "new")?;
        fs::write(&passwords, "new\n")?;
        valid("old", false).await?;
        // Who logged in by the old one was let go behind an answer, and has come again by the new one.
        ends_well(writers).await
    }
}

/// Each writer with what it needs to reach its node.
async fn ends_well<T>(writers: impl IntoIterator<Item = (T, Writer)>) -> Result<u64> {
    let mut written = 0;
    for (_way, writer) in writers {
        writer.progress(20).await?;
        let report = writer.stop().await?;
        report.without_failure()?;
        written += report.acknowledged.len() as u64;
    }
    Ok(written)
}

#[test]
fn every_certificate_authority_and_password_changes_under_load_without_a_failed_command() {
    scenario(0, &[], async |cluster| {
        let make = |word: &str| -> Result<[Authority; 3]> {
            Ok([Authority::new(word)?, Authority::new(word)?, Authority::new(word)?])
        };
        let (old, new) = (make("old")?, make("new")?);
        let locked = Locked::start(cluster, &old).await?;
        let admin = Tunnel::open(
            &locked.addr(0, "admin")?,
            pki::client(&old[2].pem(), Some(&old[2].named("operator", &[])?))?,
        )
        .await?;
        eventually("three voters", SOON, async || {
            let status = http::get(&admin.addr, "/v1/status").await?.json()?;
            let members = status["membership"]["members"].as_array().context("members")?;
            Ok((members.iter().filter(|member| member["voter"] == true).count() == 3).then_some(()))
        })
        .await?;

        let first = locked.writers(&old[0].pem(), &old[0].named("app", &[])?).await?;
        let handed_out = locked.cluster.path().join("handed-out");
        fs::write(&handed_out, "old")?;
        let by_password = locked.by_password("handed-out");
        // The nodes' own, both ways; nobody outside has to do anything.
        locked.exchange("peer", (&old[1], &new[1]), async || Ok(())).await?;
        // The operator's: each of its calls is a connection of its own.
        locked
            .exchange("admin", (&old[2], &new[2]), async || {
                let operator = pki::client(&new[2].pem(), Some(&new[2].named("operator", &[])?))?;
                let tunnel = Tunnel::open(&locked.addr(0, "admin")?, operator).await?;
                let status = http::get(&tunnel.addr, "/v1/status").await?.status;
                ensure!(status == 200, "{status}");
                Ok(())
            })
            .await?;
        // The clients': they go over while both are valid.
        let mut second = Vec::new();
        let mut written = 0;
        let mut first = Some(first);
        locked
            .exchange("client", (&old[0], &new[0]), async || {
                second = locked.writers(&new[0].pem(), &new[0].named("app", &[])?).await?;
                written += ends_well(first.take().into_iter().flatten()).await?;
                Ok(())
            })
            .await?;
        // The password: both, the new one is used, the new one alone.
        written += locked.change_password(&handed_out, by_password).await?;
        let with_new = locked.by_password("handed-out");
        // The users: another rule, another user, and the one who writes stays.
        let rules = locked.cluster.path().join("users.acl");
        fs::write(&rules, "user app on >also ~* &* +@all -@admin\nuser more on >pw ~* +@read\n")?;
        eventually("the new user is known", SOON, async || {
            let mut client = locked.cluster.nodes[2].client().await?;
            Ok(client.run("AUTH more pw").await?.is_ok().then_some(()))
        })
        .await?;
        written += ends_well(with_new).await?;
        written += ends_well(second).await?;
        ensure!(written > 500, "only {written} writes");

        // What is open stays open; under what is on disk now everything is made anew.
        locked.cluster.kill_and_restart_all().await?;
        let last = locked.writers(&new[0].pem(), &new[0].named("app", &[])?).await?;
        ends_well(last).await.map(drop)
    });
}
