//! What is played so that a process comes to its crash point. Each scene ends with the death of the armed node.
//!
//! A scene is named after the part that the armed node has in it. It forms a cluster, lets clients write, arms the
//! node, and then does what leads to the point again and again: which passing is the deadly one does not matter to it.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use kvnode_tests::client::Client;
use kvnode_tests::cluster::{Cluster, content};
use kvnode_tests::power::{cut, image};
use kvnode_tests::wait::{SOON, eventually};
use rustix::process::Signal;

use crate::stage::{Stage, try_ask, words};
use crate::table::Case;

/// A snapshot to restore, and what it holds.
#[derive(Debug)]
pub(crate) struct Seed {
    dir: PathBuf,
    content: BTreeMap<Vec<u8>, Vec<u8>>,
}

impl Seed {
    /// Has a node of its own write one below `dir`.
    pub(crate) async fn make(dir: &Path) -> Result<Self> {
        let mut cluster = Cluster::start(1, &[]).await?;
        let mut client = cluster.nodes[0].client().await?;
        let sets: Vec<Vec<String>> =
            (0..300).map(|n| vec!["SET".into(), format!("seed:{n:04}"), "v".repeat(n)]).collect();
        for reply in client.pipeline(&sets).await? {
            ensure!(reply.is_ok(), "{reply:?}");
        }
        // A deadline, so that every family of the state has rows.
        client.run("SET seed:later v EX 86400").await?;
        client.ok("RAFTSNAPSHOT").await?;
        let snapshots = cluster.nodes[0].data.join("snapshots");
        let snapshot = fs::read_dir(&snapshots)?.next().context("no snapshot")??.path();
        fs::copy(snapshot.join("state.bin"), dir.join("state.bin"))?;
        let content = content(&mut client).await?;
        cluster.nodes[0].kill()?;
        Ok(Self { dir: dir.to_owned(), content })
    }
}

/// Names of all scenes.
pub(crate) const SCENES: [&str; 18] = [
    "birth",
    "campaign",
    "clear",
    "conflict",
    "doubt",
    "election",
    "follower",
    "founder",
    "hand-over",
    "install",
    "leader",
    "members",
    "purge",
    "restore",
    "sender",
    "snapshot",
    "start",
    "stop",
];

/// Forms the stage of this scene and plays it to the death of the armed node.
pub(crate) async fn play(stage: &mut Stage, case: &Case, seed: &Seed) -> Result<()> {
    match case.scene.as_str() {
        "follower" | "leader" => bears_load(stage).await,
        "purge" => purges(stage).await,
        "clear" => clears(stage).await,
        "election" | "campaign" => votes(stage, case.scene == "campaign").await,
        "conflict" => has_a_tail_of_its_own(stage).await,
        "install" => installs(stage).await,
        "sender" => sends(stage).await,
        "birth" => joins(stage).await,
        "founder" => founds(stage).await,
        "members" => changes_members(stage).await,
        "hand-over" => hands_over(stage).await,
        "stop" => stops(stage).await,
        "start" => starts(stage).await,
        "snapshot" => writes_snapshots(stage).await,
        "restore" => restores(stage, seed).await,
        "doubt" => has_lost_entries(stage).await,
        other => bail!("there is no scene {other:?}: write one in tests/crash/scenes.rs"),
    }
}

/// Which node of a scene is armed.
pub(crate) fn armed(scene: &str) -> usize {
    match scene {
        "leader" | "sender" | "founder" | "members" | "hand-over" | "stop" | "restore" => 0,
        _ => 2,
    }
}

/// Some keys with values of some KiB, so that segments and tables fill.
fn bulk(round: usize) -> Vec<Vec<String>> {
    (0..32)
        .map(|n| vec!["SET".into(), format!("bulk:{n}"), format!("{round}:{}", "x".repeat(4000))])
        .collect()
}

/// Writes in bulk through one node, for ever.
async fn write_in_bulk(addr: String) -> Result<()> {
    let mut round = 0;
    loop {
        try_ask(&addr, &bulk(round)).await;
        round += 1;
    }
}

/// Three nodes under load.
async fn loaded(stage: &mut Stage) -> Result<()> {
    stage.form(3, &[]).await?;
    stage.load().await
}

async fn bears_load(stage: &mut Stage) -> Result<()> {
    loaded(stage).await?;
    stage.arm()?;
    let other = stage.addr(1);
    stage.until_dead(write_in_bulk(other)).await
}

async fn purges(stage: &mut Stage) -> Result<()> {
    loaded(stage).await?;
    stage.arm()?;
    let (own, other) = (stage.addr(stage.armed), stage.addr(1));
    let provoke = async {
        let mut round = 0;
        loop {
            // More than a few segments, so that one that is removed has a next one.
            for _ in 0..4 {
                try_ask(&other, &bulk(round)).await;
                round += 1;
            }
            try_ask(&own, &[words("RAFTSHRINKLOG")]).await;
        }
    };
    stage.until_dead(provoke).await
}

/// Databases are emptied. The SETs and the PDEL of one turn of the connection are one entry, and PDEL has the rows of
/// the SETs written before the entry ends.
async fn clears(stage: &mut Stage) -> Result<()> {
    loaded(stage).await?;
    stage.arm()?;
    let other = stage.addr(1);
    let provoke = async {
        let commands: Vec<Vec<String>> =
            ["SELECT 1", "SET a 1", "SET b 2", "SET c 3", "PDEL a*", "FLUSHDB", "SET d 4", "FLUSHDB"]
                .map(words)
                .to_vec();
        loop {
            try_ask(&other, &commands).await;
        }
    };
    stage.until_dead(provoke).await
}

async fn votes(stage: &mut Stage, campaigns: bool) -> Result<()> {
    loaded(stage).await?;
    stage.arm()?;
    let addrs = [stage.addr(0), stage.addr(1), stage.addr(2)];
    let provoke = async {
        let candidates: &[usize] = if campaigns { &[2] } else { &[1, 0] };
        loop {
            for &to in candidates {
                try_ask(&addrs[1], &[words(&format!("RAFTTRANSFER {}", addrs[to]))]).await;
            }
        }
    };
    stage.until_dead(provoke).await
}

/// Whether a file of this directory holds these bytes.
fn holds(dir: &Path, bytes: &[u8]) -> Result<bool> {
    for file in fs::read_dir(dir)? {
        if fs::read(file?.path())?.windows(bytes.len()).any(|window| window == bytes) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// The armed node led, and its log ends with entries that nobody else has; then the others elected one of them.
async fn has_a_tail_of_its_own(stage: &mut Stage) -> Result<()> {
    stage.form(3, &[]).await?;
    stage.lead(2).await?;
    let mut client = stage.cluster.nodes[2].client().await?;
    client.ok("SET before 1").await?;
    // Killed, not paused: what is in the socket of a paused process still arrives.
    stage.cluster.nodes[0].kill()?;
    stage.cluster.nodes[1].kill()?;
    let mut in_vain = Client::connect(&stage.addr(2)).await?;
    in_vain.send(b"SET lost:1 x\r\n").await?;
    // In the file: the index that a node tells of may still be on its way there.
    let log = stage.cluster.nodes[2].data.join("group-0/log");
    eventually("the old leader's log has an entry of its own", SOON, async || {
        Ok(holds(&log, b"lost:1")?.then_some(()))
    })
    .await?;
    stage.cluster.nodes[2].kill()?;
    stage.cluster.nodes[0].spawn()?;
    stage.cluster.nodes[1].start().await?;
    stage.cluster.nodes[0].await_ready().await?;
    stage.cluster.leader_among(&[0, 1]).await?;
    stage.load().await?;
    stage.expected.insert(b"before".to_vec(), b"1".to_vec());
    stage.arm()?;
    stage.cluster.nodes[2].spawn()?;
    stage.until_dead(std::future::pending()).await
}

/// Two nodes with a state of some size whose log is purged.
async fn purged(stage: &mut Stage) -> Result<()> {
    stage.form(2, &[]).await?;
    for round in 0..4 {
        for reply in stage.cluster.nodes[0].client().await?.pipeline(&bulk(round)).await? {
            ensure!(reply.is_ok(), "{reply:?}");
        }
    }
    for node in &stage.cluster.nodes {
        node.client().await?.ok("RAFTSHRINKLOG").await?;
    }
    Ok(())
}

/// Adds a node that waits to be told, and has one of the members add it.
async fn newcomer(stage: &mut Stage) -> Result<impl Future<Output = Result<()>> + use<>> {
    let node = stage.add(&["--formation", "wait"]);
    node.start().await?;
    let (addr, member) = (node.addr().to_owned(), stage.addr(1));
    stage.arm()?;
    Ok(async move {
        eventually("the newcomer is added", SOON, async || {
            let reply = Client::connect(&member).await?.run(&format!("RAFTADDPEER {addr}")).await?;
            Ok(reply.is_ok().then_some(()))
        })
        .await
    })
}

async fn installs(stage: &mut Stage) -> Result<()> {
    purged(stage).await?;
    stage.load().await?;
    let adding = newcomer(stage).await?;
    stage.until_dead(adding).await
}

async fn sends(stage: &mut Stage) -> Result<()> {
    // Of two, one that dies takes the quorum along.
    stage.outlives = false;
    purged(stage).await?;
    stage.load().await?;
    let adding = newcomer(stage).await?;
    stage.until_dead(adding).await
}

async fn joins(stage: &mut Stage) -> Result<()> {
    stage.form(2, &[]).await?;
    stage.load().await?;
    stage.arm()?;
    let join = stage.addr(0);
    stage.add(&["--join", &join]).spawn()?;
    stage.until_dead(std::future::pending()).await
}

async fn founds(stage: &mut Stage) -> Result<()> {
    stage.arm()?;
    stage.add(&[]).spawn()?;
    stage.until_dead(std::future::pending()).await
}

async fn changes_members(stage: &mut Stage) -> Result<()> {
    loaded(stage).await?;
    stage.voters = 4;
    stage.arm()?;
    let join = stage.addr(1);
    stage.add(&["--join", &join]).spawn()?;
    stage.until_dead(std::future::pending()).await?;
    stage.cluster.nodes[3].await_ready().await
}

async fn hands_over(stage: &mut Stage) -> Result<()> {
    loaded(stage).await?;
    stage.arm()?;
    let (own, other) = (stage.addr(0), stage.addr(1));
    let provoke = async {
        loop {
            for to in [&other, &own] {
                try_ask(&other, &[words(&format!("RAFTTRANSFER {to}"))]).await;
            }
        }
    };
    stage.until_dead(provoke).await
}

async fn stops(stage: &mut Stage) -> Result<()> {
    loaded(stage).await?;
    stage.arm()?;
    stage.cluster.nodes[stage.armed].signal(Signal::TERM)?;
    stage.until_dead(std::future::pending()).await
}

async fn starts(stage: &mut Stage) -> Result<()> {
    loaded(stage).await?;
    let armed = stage.armed;
    let status = stage.cluster.nodes[armed].terminate().await?;
    ensure!(status.success(), "{status}");
    stage.arm()?;
    stage.cluster.nodes[armed].spawn()?;
    stage.until_dead(std::future::pending()).await
}

async fn writes_snapshots(stage: &mut Stage) -> Result<()> {
    loaded(stage).await?;
    stage.arm()?;
    let own = stage.addr(stage.armed);
    let provoke = async {
        loop {
            try_ask(&own, &[words("RAFTSNAPSHOT")]).await;
        }
    };
    stage.until_dead(provoke).await
}

async fn restores(stage: &mut Stage, seed: &Seed) -> Result<()> {
    stage.arm()?;
    let file = seed.dir.join("state.bin").display().to_string();
    stage.add(&["--restore", &file]).spawn()?;
    stage.expected.clone_from(&seed.content);
    stage.until_dead(std::future::pending()).await
}

/// At durability low, the armed node's power was cut: the end of its log is gone, the cluster went on.
async fn has_lost_entries(stage: &mut Stage) -> Result<()> {
    stage.form(3, &["--durability", "low"]).await?;
    let armed = stage.armed;
    let disk = image(&stage.cluster.nodes[armed])?;
    let mut client = stage.cluster.nodes[0].client().await?;
    client.ok("SET before 1").await?;
    stage.expected.insert(b"before".to_vec(), b"1".to_vec());
    stage.cluster.await_applied().await?;
    stage.cluster.nodes[armed].kill()?;
    cut(&stage.cluster.nodes[armed], Some(&disk))?;
    stage.load().await?;
    stage.arm()?;
    stage.cluster.nodes[armed].spawn()?;
    stage.until_dead(std::future::pending()).await
}
