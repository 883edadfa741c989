//! TLS of clients, peers and the admin API: who gets in, who does not, and certificates that change under load.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use kvnode_tests::client::Client;
use kvnode_tests::cluster::Cluster;
use kvnode_tests::http;
use kvnode_tests::node::{Node, loopback, run_to_end};
use kvnode_tests::peer;
use kvnode_tests::pki::{self, Authority, Leaf, Tunnel};
use kvnode_tests::scenario::scenario;
use kvnode_tests::wait::{SOON, eventually};
use kvnode_tests::writer::Writer;
use rustls::ClientConfig;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;

/// Directory of the certificates of the node at this index.
pub(crate) fn pki_dir(cluster: &Cluster, index: usize) -> PathBuf {
    cluster.path().join(format!("node{}.tls", index + 1))
}

pub(crate) fn write_config(cluster: &Cluster, index: usize, head: &str) -> Result<PathBuf> {
    let dir = pki_dir(cluster, index);
    let dir = dir.display();
    let text = format!(
        "{head}\ntls_cert_file: {dir}/node.crt\ntls_key_file: {dir}/node.key\ntls_client_ca_file: {dir}/ca.crt\n\
         peer_tls_cert_file: {dir}/node.crt\npeer_tls_key_file: {dir}/node.key\npeer_tls_ca_file: {dir}/ca.crt\n"
    );
    let file = pki_dir(cluster, index).join("config.yaml");
    fs::write(&file, text)?;
    Ok(file)
}

/// Starts one more node with a certificate for its address, and with these lines of configuration, in which `IP` is
/// that address; unless they say whom to join, it joins by the peer address of the first node.
pub(crate) async fn add(cluster: &mut Cluster, ca: &Authority, head: &str) -> Result<()> {
    let (index, ip) = (cluster.nodes.len(), loopback());
    ca.leaf(&[&ip])?.write(&pki_dir(cluster, index), "node")?;
    fs::write(pki_dir(cluster, index).join("ca.crt"), ca.pem())?;
    let config = write_config(cluster, index, &head.replace("IP", &ip))?;
    let mut flags = vec!["--config".to_owned(), config.display().to_string()];
    if let Some(first) = cluster.nodes.first().filter(|_| !head.contains("join:")) {
        flags.extend(["--join".to_owned(), first.ready().peer_addr.clone()]);
    }
    let addr = if head.contains("addr: off") { "off".to_owned() } else { format!("{ip}:0") };
    let mut node = Node::new(cluster.path(), &format!("node{}", index + 1), &flags).at(&addr);
    let started = node.start().await;
    cluster.nodes.push(node);
    started
}

pub(crate) fn tls_addr(cluster: &Cluster, index: usize) -> Result<String> {
    cluster.nodes[index].ready().tls_addr.clone().context("the node speaks TLS")
}

/// The first frame of a peer, with the ids of the cluster: what a stranger who has read them somewhere would send.
async fn hello(cluster: &Cluster, index: usize) -> Result<Vec<u8>> {
    Ok(peer::hello(peer::ids(cluster, index).await?, 0xbad))
}

/// What comes back for these bytes; an end or an alert is nothing.
async fn answer(mut stream: impl AsyncRead + AsyncWrite + Unpin, bytes: &[u8]) -> Result<Vec<u8>> {
    let mut read = vec![0; 64];
    let asked = async {
        stream.write_all(bytes).await?;
        stream.flush().await?;
        stream.read(&mut read).await
    };
    let length = tokio::time::timeout(SOON, asked).await.context("neither an answer nor an end")?;
    read.truncate(length.unwrap_or(0));
    Ok(read)
}

async fn answer_by_tls(addr: &str, client: &Arc<ClientConfig>, bytes: &[u8]) -> Result<Vec<u8>> {
    match pki::dial(addr, client).await {
        Ok(stream) => answer(stream, bytes).await,
        Err(_) => Ok(Vec::new()),
    }
}

/// One number of `/metrics`, 0 if it is not there.
pub(crate) async fn metric(http_addr: &str, series: &str) -> Result<f64> {
    let text = http::get(http_addr, "/metrics").await?.text();
    let line = text.lines().find_map(|line| line.strip_prefix(series));
    Ok(line.map_or(Ok(0.0), |value| value.trim().parse())?)
}

#[test]
fn peers_let_in_who_has_a_certificate_of_their_authority_and_nobody_else() {
    scenario(0, &[], async |cluster| {
        let (own, other) = (Authority::new("own")?, Authority::new("own")?);
        for _ in 0..3 {
            add(cluster, &own, "tls_addr: IP:0\npeer_tls: required").await?;
        }
        cluster.await_voters(3).await?;
        let ca = own.pem();
        let (peer, bytes) = (cluster.nodes[0].ready().peer_addr.clone(), hello(cluster, 0).await?);
        let strangers: [(&str, Option<Leaf>); 3] = [
            ("without a certificate", None),
            ("of another cluster", Some(other.leaf(&["127.0.0.1"])?)),
            ("expired", Some(own.expired(&["127.0.0.1"])?)),
        ];
        for (who, leaf) in &strangers {
            let got = answer_by_tls(&peer, &pki::client(&ca, leaf.as_ref())?, &bytes).await?;
            ensure!(got.is_empty(), "a stranger {who} got {got:?}");
        }
        let got = answer(TcpStream::connect(&peer).await?, &bytes).await?;
        ensure!(got.is_empty(), "a stranger in the clear got {got:?}");
        // The same words from one with a certificate are answered, so it was not the words.
        let member = pki::client(&ca, Some(&own.leaf(&["127.0.0.1"])?))?;
        ensure!(!answer_by_tls(&peer, &member, &bytes).await?.is_empty(), "a peer was refused");
        let refused = r#"kvnode_tls_handshakes_refused_total{listener="peer"}"#;
        let count = metric(cluster.nodes[0].http(), refused).await?;
        ensure!((4.0..5.0).contains(&count), "{count} handshakes refused");
        let lines = cluster.nodes[0].log_text().matches("TLS handshake refused").count();
        ensure!(lines == 1, "{lines} log lines for four strangers within ten seconds");

        // Clients by TLS, at a follower: it forwards.
        let follower = cluster.followers().await?[0];
        let tunnel = Tunnel::open(&tls_addr(cluster, follower)?, pki::client(&ca, None)?).await?;
        let mut client = Client::connect(&tunnel.addr).await?;
        client.ok("SET k v").await?;
        let large = "x".repeat(3_000_000);
        client.ok(&format!("SET large {large}")).await?;
        ensure!(client.text("GET large").await?.as_deref() == Some(&large), "a large value");
        let plain = TcpStream::connect(&tls_addr(cluster, follower)?).await?;
        ensure!(!answer(plain, b"PING\r\n").await?.starts_with(b"+PONG"), "TLS port, in the clear");
        cluster.same_content().await.map(drop)
    });
}

#[test]
fn certificates_and_their_authority_change_under_load_without_a_failed_command() {
    scenario(0, &[], async |cluster| {
        let (old, new) = (Authority::new("old")?, Authority::new("new")?);
        for _ in 0..3 {
            add(cluster, &old, "tls_addr: IP:0\npeer_tls: required").await?;
        }
        cluster.await_voters(3).await?;
        let both = old.pem() + &new.pem();
        let client = pki::client(&both, None)?;
        let mut tunnels = Vec::new();
        for index in 0..3 {
            tunnels.push(Tunnel::open(&tls_addr(cluster, index)?, client.clone()).await?);
        }
        let writers: Vec<Writer> =
            tunnels.iter().map(|tunnel| Writer::start(vec![tunnel.addr.clone()])).collect();
        let newcomer = pki::client(&both, Some(&new.leaf(&["127.0.0.1"])?))?;
        let member = pki::client(&both, Some(&old.leaf(&["127.0.0.1"])?))?;
        // First everybody trusts both, then everybody shows the new one, then nobody trusts the old one.
        for index in 0..3 {
            fs::write(pki_dir(cluster, index).join("ca.crt"), &both)?;
        }
        lets_in(cluster, &newcomer, true).await?;
        for (index, tunnel) in tunnels.iter().enumerate() {
            let (clients, peers) =
                (tls_addr(cluster, index)?, cluster.nodes[index].ready().peer_addr.clone());
            let before = pki::shown_at(&clients, &client).await?;
            let ip = clients.rsplit_once(':').context("a port")?.0.to_owned();
            new.leaf(&[&ip])?.write(&pki_dir(cluster, index), "node")?;
            eventually("the new certificate is shown", SOON, async || {
                let shown = [pki::shown_at(&clients, &client).await?, pki::shown_at(&peers, &member).await?];
                Client::connect(&tunnel.addr).await?.ok("SET new connection").await?;
                Ok(shown.iter().all(|shown| *shown != before).then_some(()))
            })
            .await?;
        }
        for index in 0..3 {
            fs::write(pki_dir(cluster, index).join("ca.crt"), new.pem())?;
        }
        lets_in(cluster, &member, false).await?;
        lets_in(cluster, &newcomer, true).await?;
        for writer in writers {
            writer.progress(50).await?;
            writer.stop().await?.without_failure()?;
        }
        // New connections between the nodes, under the new authority alone.
        cluster.kill_and_restart_all().await?;
        cluster.await_voters(3).await?;

        // A bad file changes nothing and is told.
        fs::write(pki_dir(cluster, 0).join("node.key"), "rubbish")?;
        let http_addr = cluster.nodes[0].http().to_owned();
        eventually("the fault is told", SOON, async || {
            let stale = metric(&http_addr, r#"kvnode_tls_certificate_stale{listener="peer"}"#).await?;
            Ok((stale > 0.0).then_some(()))
        })
        .await?;
        let tunnel = Tunnel::open(&tls_addr(cluster, 0)?, client).await?;
        Client::connect(&tunnel.addr).await?.ok("SET k v").await
    });
}

/// Waits until every peer port answers one with this certificate, or until none does.
async fn lets_in(cluster: &Cluster, who: &Arc<ClientConfig>, wanted: bool) -> Result<()> {
    for index in 0..cluster.nodes.len() {
        let (addr, bytes) = (&cluster.nodes[index].ready().peer_addr, hello(cluster, index).await?);
        eventually("the authorities are taken over", SOON, async || {
            let is_in = !answer_by_tls(addr, who, &bytes).await?.is_empty();
            Ok((is_in == wanted).then_some(()))
        })
        .await?;
    }
    Ok(())
}

#[test]
fn a_cluster_goes_over_to_mutual_tls_one_node_after_another() {
    scenario(0, &[], async |cluster| {
        let own = Authority::new("own")?;
        for _ in 0..3 {
            add(cluster, &own, "peer_tls: off").await?;
        }
        cluster.await_voters(3).await?;
        for mode in ["optional", "required"] {
            for index in 0..3 {
                write_config(cluster, index, &format!("peer_tls: {mode}"))?;
                cluster.nodes[index].terminate().await?;
                // Two of three, of whom some speak TLS already, some not.
                let running = cluster.running();
                let leader = cluster.leader_among(&running).await?;
                cluster.nodes[leader].client().await?.ok(&format!("SET {mode} {index}")).await?;
                cluster.nodes[index].start().await?;
                cluster.await_voters(3).await?;
                cluster.await_applied().await?;
            }
        }
        let (peer, bytes) = (cluster.nodes[0].ready().peer_addr.clone(), hello(cluster, 0).await?);
        ensure!(answer(TcpStream::connect(&peer).await?, &bytes).await?.is_empty(), "in the clear");
        cluster.same_content().await.map(drop)
    });
}

#[test]
fn a_cluster_that_speaks_nothing_but_tls_forms_by_its_client_addresses() {
    scenario(0, &[], async |cluster| {
        let own = Authority::new("own")?;
        for index in 0..3 {
            let dir = pki_dir(cluster, index);
            let dir = dir.display();
            let head = format!(
                "addr: off\ntls_addr: IP:6380\npeer_tls: required\ntls_client_auth: require\nhttp_tls_cert_file: \
                 {dir}/node.crt\nhttp_tls_key_file: {dir}/node.key\nhttp_tls_client_ca_file: {dir}/ca.crt"
            );
            // By the client address: the peer port is where it usually is.
            let first = cluster.nodes.first().map(|node| node.addr().to_owned());
            add(
                cluster,
                &own,
                &match first {
                    Some(first) => format!("{head}\njoin: \"{first}\""),
                    None => head,
                },
            )
            .await?;
        }
        let (ca, app) = (own.pem(), own.leaf(&["app"])?);
        let (known, unknown) = (pki::client(&ca, Some(&app))?, pki::client(&ca, None)?);
        let tunnel = Tunnel::open(cluster.nodes[2].addr(), known.clone()).await?;
        eventually("three voters", SOON, async || {
            let texts = Client::connect(&tunnel.addr).await?.run("RAFTPEERS").await?.texts();
            let voters = texts.chunks(2).filter(|pair| pair.get(1).is_some_and(|state| state != "Learner"));
            Ok((voters.count() == 3).then_some(()))
        })
        .await?;
        Client::connect(&tunnel.addr).await?.ok("SET k v").await?;
        let shut = Tunnel::open(cluster.nodes[2].addr(), unknown.clone()).await?;
        ensure!(
            Client::connect(&shut.addr).await?.run("PING").await.is_err(),
            "no certificate, and an answer"
        );

        let admin = |client| Tunnel::open(cluster.nodes[2].http(), client);
        let (trusted, stranger) = (admin(known).await?, admin(unknown).await?);
        for (path, wanted) in [("/livez", 200), ("/readyz", 200), ("/startupz", 200)] {
            let got = http::get(&stranger.addr, path).await?.status;
            ensure!(got == wanted, "{path} without a certificate: {got}");
        }
        for path in ["/v1/status", "/metrics", "/v1/members", "/v1/none"] {
            let got = http::get(&stranger.addr, path).await?;
            ensure!(got.status == 403, "{path} without a certificate: {} {}", got.status, got.text());
        }
        for path in ["/v1/status", "/metrics"] {
            ensure!(http::get(&trusted.addr, path).await?.status == 200, "{path}");
        }
        Ok(())
    });
}

#[test]
fn a_bad_certificate_file_keeps_the_node_from_starting_and_says_why() {
    kvnode_tests::scenario::run(async {
        let dir = tempfile::tempdir()?;
        let own = Authority::new("own")?;
        own.leaf(&["a.example"])?.write(dir.path(), "a")?;
        own.leaf(&["b.example"])?.write(dir.path(), "b")?;
        let config = dir.path().join("config.yaml");
        let here = dir.path().display();
        let text =
            format!("tls_addr: 127.0.0.1:0\ntls_cert_file: {here}/a.crt\ntls_key_file: {here}/b.key\n");
        fs::write(&config, text)?;
        let data = dir.path().join("data");
        let (config, data) = (config.display().to_string(), data.display().to_string());
        let arguments = ["--addr", "127.0.0.1:0", "--data", &data, "--config", &config];
        let (code, printed) = run_to_end(&arguments, Duration::from_secs(30)).await?;
        ensure!(code == Some(78), "{code:?} {printed}");
        ensure!(printed.contains("b.key: not the key of the certificate: give the key"), "{printed}");
        Ok(())
    });
}
