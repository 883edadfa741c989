//! Memory of the nodes with a state that is far larger than it.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use kvnode_tests::cluster::{Cluster, stat};
use kvnode_tests::wait::eventually;
use kvnode_tests::{binary, resp};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use super::memory_mib;
use crate::load;
use crate::report::Section;

const VALUE_BYTES: usize = 64 * 1024;
const HOURS: Duration = Duration::from_hours(4);

/// Fills a node with values that do not compress, snapshots it, lets another one join after a purge of the whole log,
/// and reads the snapshot back. One node, because all copies are on the disk of one machine.
pub(super) async fn run(gib: u64, section: &mut Section) -> Result<()> {
    let keys = usize::try_from((gib << 30) / VALUE_BYTES as u64)?;
    let mut cluster = Cluster::start(1, &[]).await?;
    fill(cluster.nodes[0].addr(), keys).await?;
    say(&cluster, section, &format!("{gib} GiB in {keys} keys loaded"))?;

    let mut client = cluster.nodes[0].client().await?.with_patience(HOURS);
    let began = Instant::now();
    client.ok("RAFTSNAPSHOT").await?;
    say(&cluster, section, &format!("snapshot written in {:.1?}", began.elapsed()))?;

    cluster.leader_client().await?.with_patience(HOURS).ok("RAFTSHRINKLOG").await?;
    let began = Instant::now();
    let join = cluster.nodes[0].addr().to_owned();
    cluster.add(Some(&join)).await?;
    let expected = stat(&mut cluster.leader_client().await?, "last_log_index").await?;
    eventually("the new node has applied all", HOURS, async || {
        let mut client = cluster.nodes[1].client().await?;
        Ok((stat(&mut client, "applied_index").await? >= expected).then_some(()))
    })
    .await?;
    say(&cluster, section, &format!("streamed to another node in {:.1?}", began.elapsed()))?;

    let file = snapshot_file(&cluster, 0)?;
    let began = Instant::now();
    let mut child = Command::new(binary::server())
        .args(["--parse-snapshot"])
        .arg(&file)
        .stdout(Stdio::piped())
        .spawn()?;
    let pid = rustix::process::Pid::from_child(&child);
    let mut out = child.stdout.take().context("its output")?;
    let (bytes, highest) = tokio::task::spawn_blocking(move || -> Result<(u64, u64)> {
        let mut buffer = vec![0; 1 << 20];
        let (mut bytes, mut highest) = (0_u64, 0);
        loop {
            let length = std::io::Read::read(&mut out, &mut buffer)?;
            if length == 0 {
                return Ok((bytes, highest));
            }
            bytes += length as u64;
            if let Ok((_, hwm)) = memory_mib(pid) {
                highest = highest.max(hwm);
            }
        }
    })
    .await??;
    ensure!(child.wait()?.success(), "--parse-snapshot failed");
    section.say(format!(
        "read back by --parse-snapshot in {:.1?}: {bytes} bytes of commands, at most {highest} MiB resident",
        began.elapsed()
    ));
    Ok(())
}

fn say(cluster: &Cluster, section: &mut Section, what: &str) -> Result<()> {
    let mut parts = Vec::new();
    for node in &cluster.nodes {
        let (now, highest) = memory_mib(node.pid()?)?;
        parts.push(format!("{now} (at most {highest})"));
    }
    section.say(format!("{what}; resident MiB of each node: {}", parts.join(", ")));
    Ok(())
}

async fn fill(addr: &str, keys: usize) -> Result<()> {
    const BATCH: usize = 16;
    let mut stream = TcpStream::connect(addr).await?;
    let (mut random, mut input) = (SmallRng::seed_from_u64(1), Vec::new());
    let mut value = vec![0_u8; VALUE_BYTES];
    for first in (0..keys).step_by(BATCH) {
        let (mut out, last) = (Vec::new(), keys.min(first + BATCH));
        for number in first..last {
            random.fill_bytes(&mut value);
            resp::encode(&[b"SET".as_slice(), crate::cells::key(number).as_bytes(), &value], &mut out);
        }
        stream.write_all(&out).await?;
        load::receive(&mut stream, &mut input, last - first).await?;
    }
    Ok(())
}

fn snapshot_file(cluster: &Cluster, node: usize) -> Result<std::path::PathBuf> {
    let dir = cluster.nodes[node].data.join("snapshots");
    let newest = std::fs::read_dir(&dir)?.filter_map(Result::ok).map(|entry| entry.path().join("state.bin"));
    newest.filter(|file| file.exists()).max().with_context(|| format!("a snapshot in {}", dir.display()))
}
