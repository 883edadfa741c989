//! What released versions left on disk and said on the wire; every later one must take it.
//!
//! ```text
//! tests/fixtures/<version>/node/        a data directory after kill -9: identity, state, log with entries not in the state
//!                         snapshot/     a RAFTSNAPSHOT of the same content: state.bin, meta.json
//!                         handshake/    the first frame of a peer connection to that node, and its answer
//!                         content.json  keys and values, per database, as hex
//! ```
//!
//! `make fixtures` writes those of the present version; released ones are never written again.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use kvnode_tests::binary::repository;
use kvnode_tests::client::Client;
use kvnode_tests::cluster::content;
use kvnode_tests::node::Node;
use kvnode_tests::scenario;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const DATABASES: usize = 2;
/// Small, so that the preallocated rest of the log does not fill the repository.
const SMALL_LOG: &str = "log_segment_bytes: 128KiB\nentry_bytes_max: 64KiB\n";

type Content = Vec<BTreeMap<String, String>>;

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

async fn content_of(node: &Node) -> Result<Content> {
    let mut client = node.client().await?;
    let mut all = Vec::new();
    // A linearizable read: `content` reads what is applied, and the log is applied again first.
    client.run("GET any").await?;
    for db in 0..DATABASES {
        client.ok(&format!("SELECT {db}")).await?;
        all.push(content(&mut client).await?.iter().map(|(key, value)| (hex(key), hex(value))).collect());
    }
    Ok(all)
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy(&entry.path(), &target)?;
        } else {
            fs::copy(entry.path(), target)?;
        }
    }
    Ok(())
}

fn versions() -> Result<Vec<PathBuf>> {
    let mut found: Vec<PathBuf> = Vec::new();
    for entry in fs::read_dir(repository().join("tests/fixtures"))? {
        found.push(entry?.path());
    }
    found.sort();
    ensure!(!found.is_empty(), "no fixtures");
    Ok(found)
}

/// Sends the recorded first frame and returns as many bytes as the recorded answer has.
async fn greet(addr: &str, hello: &[u8], answer_bytes: usize) -> Result<Vec<u8>> {
    let mut stream = TcpStream::connect(addr).await?;
    stream.write_all(hello).await?;
    let mut answer = vec![0; answer_bytes];
    stream.read_exact(&mut answer).await?;
    Ok(answer)
}

#[test]
fn what_every_version_left_is_taken() {
    scenario::run(async {
        for version in versions()? {
            opens(&version).await.with_context(|| version.display().to_string())?;
        }
        Ok(())
    });
}

async fn opens(version: &Path) -> Result<()> {
    let expected: Content = serde_json::from_slice(&fs::read(version.join("content.json"))?)?;
    ensure!(expected.iter().map(BTreeMap::len).sum::<usize>() > 40, "the fixture holds next to nothing");
    let dir = tempfile::tempdir()?;
    copy(&version.join("node"), &dir.path().join("old"))?;
    let mut node = Node::new(dir.path(), "old", &[]);
    node.start().await?;
    ensure!(content_of(&node).await? == expected, "the data directory holds something else");
    let (hello, welcome) =
        (version.join("handshake/hello.bin"), fs::read(version.join("handshake/welcome.bin"))?);
    let answer = greet(&node.ready().peer_addr, &fs::read(hello)?, welcome.len()).await?;
    ensure!(answer == welcome, "the handshake is answered {answer:?}");
    node.client().await?.ok("SET written later").await?;
    ensure!(node.terminate().await?.success());

    let state = version.join("snapshot/state.bin");
    let restore = ["--restore".to_owned(), state.display().to_string()];
    let mut restored = Node::new(dir.path(), "restored", &restore);
    restored.start().await?;
    ensure!(content_of(&restored).await? == expected, "the snapshot holds something else");
    Ok(())
}

async fn set(client: &mut Client, keys: std::ops::Range<usize>) -> Result<()> {
    for n in keys {
        let (key, value) = (format!("key:{n:03}"), [n.to_string().as_bytes(), b"\r\n\0\xff"].concat());
        let reply = client.call(&[b"SET", key.as_bytes(), &value]).await?;
        ensure!(reply.is_ok(), "{reply:?}");
    }
    Ok(())
}

/// Writes those of this version, by default to a directory that goes again; `make fixtures` keeps them.
#[test]
fn those_of_this_version_can_be_written() {
    scenario::run(async {
        let gone = tempfile::tempdir()?;
        let into = std::env::var_os("KVNODE_FIXTURES_INTO").map_or(gone.path().to_owned(), PathBuf::from);
        let target = into.join(env!("CARGO_PKG_VERSION"));
        ensure!(!target.exists(), "{} is there; what was released is never changed", target.display());
        let dir = tempfile::tempdir()?;
        let config = dir.path().join("config.yaml");
        fs::write(&config, SMALL_LOG)?;
        let flags = ["--config".to_owned(), config.display().to_string()];
        let mut node = Node::new(dir.path(), "data", &flags);
        node.start().await?;
        let mut client = node.client().await?;
        set(&mut client, 0..30).await?;
        client.ok("SELECT 1").await?;
        set(&mut client, 0..10).await?;
        client.run("DEL key:003").await?;
        node.terminate().await?;
        // From here on only the log has it.
        node.start().await?;
        let mut client = node.client().await?;
        set(&mut client, 20..50).await?;
        client.run("PDEL key:01*").await?;
        write(&target, &node, &mut client).await?;
        node.kill()?;
        for name in ["LOCK", "ready.json"] {
            fs::remove_file(node.data.join(name))?;
        }
        copy(&node.data, &target.join("node"))?;
        fs::remove_dir_all(target.join("node/snapshots"))?;
        for file in fs::read_dir(target.join("node/group-0/state/db-0000000000000001"))? {
            let file = file?;
            // RocksDB's own diaries are nothing that a later version reads.
            if file.file_name().to_string_lossy().starts_with("LO") {
                fs::remove_file(file.path())?;
            }
        }
        opens(&target).await
    });
}

async fn write(target: &Path, node: &Node, client: &mut Client) -> Result<()> {
    fs::create_dir_all(target.join("handshake"))?;
    fs::write(target.join("content.json"), serde_json::to_vec_pretty(&content_of(node).await?)?)?;
    client.run("RAFTSNAPSHOT").await?;
    let snapshot = fs::read_dir(node.data.join("snapshots"))?.next().context("no snapshot")??;
    copy(&snapshot.path(), &target.join("snapshot"))?;
    let identity: serde_json::Value = serde_json::from_slice(&fs::read(node.data.join("identity.json"))?)?;
    let id = |name: &str| -> Result<u64> {
        Ok(u64::from_str_radix(identity[name].as_str().context("no id")?, 16)?)
    };
    let hello = hello(id("cluster_id")?, 0x5eed, id("node_id")?);
    let mut stream = TcpStream::connect(&node.ready().peer_addr).await?;
    stream.write_all(&hello).await?;
    let mut welcome = vec![0; 8];
    stream.read_exact(&mut welcome).await?;
    let length = u32::from_le_bytes([welcome[0], welcome[1], welcome[2], welcome[3]]) as usize;
    welcome.resize(8 + length, 0);
    stream.read_exact(&mut welcome[8..]).await?;
    fs::write(target.join("handshake/hello.bin"), hello)?;
    Ok(fs::write(target.join("handshake/welcome.bin"), welcome)?)
}

/// The first frame of a peer of version 0.1.0, as its documentation draws it.
fn hello(cluster: u64, from: u64, to: u64) -> Vec<u8> {
    let mut body = vec![0; 9];
    body.extend(b"kvnode-peer\x01\0\0\0\0\0");
    for id in [cluster, from, to] {
        body.extend(id.to_le_bytes());
    }
    let mut frame = u32::try_from(body.len()).unwrap_or(0).to_le_bytes().to_vec();
    frame.extend(crc32c::crc32c(&body).to_le_bytes());
    frame.extend(body);
    frame
}
