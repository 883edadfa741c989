//! A full disk: writes are refused with a clear error, reads go on, space that comes back is used again.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use kvnode_tests::cluster::{Cluster, stat};
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

#[test]
fn a_follower_whose_disk_takes_nothing_more_still_answers_what_is_new() {
    scenario(0, &[], async |cluster| {
        let Some(disk) = SmallDisk::mount(&cluster.path().join("small"), "96m")? else { return Ok(()) };
        cluster.grow(2).await?;
        let flags = ["--join".to_owned(), cluster.nodes[0].addr().to_owned()];
        let mut node = Node::new(&disk.0, "node3", &flags);
        // Small, so that the log soon needs what the disk has not.
        let small = [("KVNODE_LOG_SEGMENT_BYTES", "2MiB"), ("KVNODE_DISK_RESERVE_BYTES", "1MiB")];
        node.env = small.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec();
        node.start().await?;
        cluster.nodes.push(node);
        cluster.await_voters(3).await?;
        let outcome = read_without_room(cluster, &disk.0).await;
        if outcome.is_err() {
            eprintln!("{}", cluster.logs());
        }
        // Before its disk is unmounted.
        cluster.nodes[2].kill()?;
        outcome
    });
}

async fn read_without_room(cluster: &mut Cluster, disk: &Path) -> Result<()> {
    let leader = cluster.leader_among(&[0, 1]).await?;
    let filler = disk.join("filler");
    let taken = Command::new("fallocate").args(["-l", &free_bytes(disk)?.to_string()]).arg(&filler).status();
    ensure!(taken.is_ok_and(|status| status.success()), "fallocate");
    let mut client = cluster.nodes[leader].client().await?;
    let value = "x".repeat(64 << 10);
    for number in 0..100 {
        client.ok(&format!("SET big:{number} {value}")).await?;
    }
    client.ok("SET new value").await?;
    client.ok("SET gone value PX 1").await?;

    let mut there = cluster.nodes[2].client().await?;
    let (applied, last) =
        (stat(&mut there, "applied_index").await?, stat(&mut client, "last_log_index").await?);
    ensure!(applied < last, "it has applied {applied} of {last}");
    ensure!(there.text("GET new").await?.as_deref() == Some("value"));
    ensure!(there.text("GET gone").await?.is_none(), "its time has come");
    client.ok("SET new again").await?;
    ensure!(there.text("GET new").await?.as_deref() == Some("again"), "as fresh as anywhere");
    ensure!(there.int("DBSIZE").await? == client.int("DBSIZE").await?);
    ensure!(there.int("EXISTS big:0 big:99 absent").await? == 2);
    there.ok("SET new there").await?;
    ensure!(there.text("GET new").await?.as_deref() == Some("there"), "it reads what it has written");

    std::fs::remove_file(&filler)?;
    cluster.await_applied().await?;
    ensure!(there.text("GET new").await?.as_deref() == Some("there"));
    cluster.same_content().await.map(drop)
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
