//! The same clients by TLS, with a certificate of their own: their scripts as they are, redis-cli and the redis crate.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use kvnode_tests::cluster::Cluster;
use kvnode_tests::node::{Node, loopback};
use kvnode_tests::pki::Authority;
use kvnode_tests::scenario::scenario;
use kvnode_tests::tool::{self, run};

use super::{host_and_port, node_script, passes, python_script};

/// Starts a node that wants certificates of its clients: its TLS address, and a directory with `ca.crt`, `app.crt` and
/// `app.key`.
async fn node(cluster: &mut Cluster) -> Result<(String, PathBuf)> {
    let (own, ip) = (Authority::new("own")?, loopback());
    let dir = cluster.path().join("pki");
    own.leaf(&[&ip])?.write(&dir, "node")?;
    own.leaf(&["app"])?.write(&dir, "app")?;
    fs::write(dir.join("ca.crt"), own.pem())?;
    let config = dir.join("config.yaml");
    let here = dir.display();
    let text = format!(
        "tls_addr: {ip}:0\ntls_cert_file: {here}/node.crt\ntls_key_file: {here}/node.key\ntls_client_ca_file: \
         {here}/ca.crt\ntls_client_auth: require\n"
    );
    fs::write(&config, text)?;
    let flags = ["--config".to_owned(), config.display().to_string()];
    let mut node = Node::new(cluster.path(), "node1", &flags).at(&format!("{ip}:0"));
    let started = node.start().await;
    cluster.nodes.push(node);
    started?;
    cluster.await_voters(1).await?;
    let addr = cluster.nodes[0].ready().tls_addr.clone().context("it speaks TLS")?;
    Ok((addr, dir))
}

fn by_tls(make: impl Fn() -> Result<Option<Command>>) {
    let Some(_) = make().expect("the client can be installed") else { return };
    scenario(0, &[], async |cluster| {
        let (addr, pki) = node(cluster).await?;
        let mut command = make()?.context("it was there a moment ago")?;
        command.env("KVNODE_TEST_PKI", &pki);
        passes(command, &addr).await
    });
}

#[test]
fn redis_py() {
    by_tls(python_script("redis_py.py"));
}

#[test]
fn ioredis() {
    by_tls(node_script("ioredis.cjs"));
}

#[test]
fn node_redis() {
    by_tls(node_script("node_redis.cjs"));
}

async fn redis_cli(addr: &str, pki: &Path, with_certificate: bool, words: &[&str]) -> Result<String> {
    let (host, port) = host_and_port(addr)?;
    let mut command = Command::new("redis-cli");
    command.args(["-h", host, "-p", port, "--tls", "--cacert"]).arg(pki.join("ca.crt"));
    if with_certificate {
        command.arg("--cert").arg(pki.join("app.crt")).arg("--key").arg(pki.join("app.key"));
    }
    command.args(words).stdin(Stdio::null());
    tokio::task::spawn_blocking(move || run(&mut command)).await?
}

#[test]
fn redis_cli_with_and_without_a_certificate() {
    if tool::need("redis-cli").is_none() {
        return;
    }
    scenario(0, &[], async |cluster| {
        let (addr, pki) = node(cluster).await?;
        ensure!(redis_cli(&addr, &pki, true, &["SET", "k", "v"]).await?.trim() == "OK");
        ensure!(redis_cli(&addr, &pki, true, &["GET", "k"]).await?.trim() == "v");
        let shut = redis_cli(&addr, &pki, false, &["GET", "k"]).await;
        ensure!(shut.as_ref().map_or(true, |printed| printed.trim() != "v"), "{shut:?}");
        Ok(())
    });
}

#[test]
fn the_redis_crate() {
    scenario(0, &[], async |cluster| {
        // The crate takes the provider of the process.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let (addr, pki) = node(cluster).await?;
        let file = |name: &str| fs::read(pki.join(name));
        let client_tls =
            Some(redis::ClientTlsConfig { client_cert: file("app.crt")?, client_key: file("app.key")? });
        let certificates = redis::TlsCertificates { client_tls, root_cert: Some(file("ca.crt")?) };
        let client = redis::Client::build_with_tls(format!("rediss://{addr}/"), certificates)?;
        let mut connection = client.get_multiplexed_async_connection().await?;
        let mut pipe = redis::pipe();
        for n in 0..1000 {
            pipe.cmd("SET").arg(format!("p:{n}")).arg(n).ignore();
            pipe.cmd("GET").arg(format!("p:{n}"));
        }
        let values: Vec<i64> = pipe.query_async(&mut connection).await?;
        ensure!(values.iter().copied().eq(0..1000));
        Ok(())
    });
}
