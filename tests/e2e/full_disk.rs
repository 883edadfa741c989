//! A full disk: writes are refused with a clear error, reads go on, space that comes back is used again.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use kvnode_tests::cluster::Cluster;
use kvnode_tests::node::Node;
use kvnode_tests::scenario::scenario;
use kvnode_tests::tool;
use kvnode_tests::wait::{SOON, eventually};

/// A small tmpfs, unmounted on drop.
struct SmallDisk(std::path::PathBuf);

impl SmallDisk {
    /// `None` after the loud line if we may not mount.
    fn mount(at: &Path, size: &str) -> Result<Option<Self>> {
        std::fs::create_dir_all(at)?;
        let mount = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={size}"), "tmpfs"])
            .arg(at)
            .output();
        match mount {
            Ok(output) if output.status.success() => Ok(Some(Self(at.to_owned()))),
            _ => {
                tool::skip_without_rights("a full disk needs the right to mount a tmpfs (root)");
                Ok(None)
            }
        }
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[test]
fn a_full_disk_refuses_writes_keeps_reads_and_recovers() {
    scenario(0, &[], async |cluster| {
        let Some(disk) = SmallDisk::mount(&cluster.path().join("small"), "512m")? else { return Ok(()) };
        let node = Node::new(&disk.0, "node1", &[]);
        cluster.nodes.push(node);
        cluster.nodes[0].start().await?;
        let outcome = fill_and_recover(cluster, &disk.0).await;
        if outcome.is_err() {
            eprintln!("{}", cluster.logs());
        }
        if cluster.nodes[0].is_running() {
            cluster.nodes[0].kill()?;
        }
        outcome
    });
}

async fn fill_and_recover(cluster: &mut Cluster, disk: &Path) -> Result<()> {
    let mut client = cluster.leader_client().await?;
    client.ok("SET first value").await?;
    // Somebody else takes the space: all but a little.
    let filler = disk.join("filler");
    let free = free_bytes(disk)?;
    let status = Command::new("fallocate")
        .args(["-l", &free.saturating_sub(1 << 20).to_string()])
        .arg(&filler)
        .status();
    ensure!(status.is_ok_and(|status| status.success()), "fallocate");

    let value = "x".repeat(64 << 10);
    let refusal = eventually("a write is refused", SOON, async || {
        let reply = client.run(&format!("SET big{} {value}", rand::random::<u32>())).await?;
        Ok(reply.as_error().map(str::to_owned))
    })
    .await?;
    println!("refused with: {refusal}");
    ensure!(cluster.nodes[0].is_running(), "the node died on a full disk");
    ensure!(client.text("GET first").await?.as_deref() == Some("value"), "reads go on");
    ensure!(client.int("DEL first").await? == 1, "what frees space stays admitted");

    std::fs::remove_file(&filler)?;
    eventually("writes are taken again", SOON, async || {
        Ok(cluster.nodes[0].client().await?.run("SET again value").await?.is_ok().then_some(()))
    })
    .await?;
    cluster.nodes[0].kill()?;
    cluster.nodes[0].start().await?;
    ensure!(cluster.leader_client().await?.text("GET again").await?.as_deref() == Some("value"));
    Ok(())
}

fn free_bytes(path: &Path) -> Result<u64> {
    let stat = rustix::fs::statvfs(path).context("statvfs")?;
    Ok(stat.f_bavail * stat.f_frsize)
}
