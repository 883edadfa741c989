//! `make demo`: three nodes, a live view in the terminal, a key that kills the leader and shows what was lost and the gap.
//!
//! Without a terminal it plays one kill by itself and prints the result: the view's own test.

use std::fmt::Write as _;
use std::io::{IsTerminal, Write};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use kvnode_tests::cluster::{Cluster, stat};
use kvnode_tests::wait::{SOON, eventually};
use kvnode_tests::writer::Writer;
use tokio::io::AsyncReadExt;

const FRAME: Duration = Duration::from_millis(200);

#[tokio::main]
async fn main() -> Result<()> {
    println!("starting three nodes ...");
    let mut cluster = Cluster::start(3, &[]).await?;
    if !std::io::stdin().is_terminal() || !std::io::stdout().is_terminal() {
        println!("{}", kill_leader(&mut cluster).await?);
        return Ok(());
    }
    let _raw = RawTerminal::enter();
    let mut keys = tokio::io::stdin();
    let mut frames = tokio::time::interval(FRAME);
    let mut note = String::from("A client writes as fast as it is answered.");
    let mut writer = Writer::start(addrs(&cluster));
    let mut last = (Instant::now(), 0);
    loop {
        let mut key = [0_u8; 1];
        tokio::select! {
            _ = frames.tick() => {
                let count = writer.count();
                let seconds = last.0.elapsed().as_secs_f64();
                #[expect(clippy::cast_precision_loss, reason = "a rate for the eye")]
                let rate = (count - last.1) as f64 / seconds.max(0.001);
                last = (Instant::now(), count);
                draw(&mut cluster, count, rate, &note).await?;
            }
            read = keys.read(&mut key) => {
                if read? == 0 {
                    return Ok(());
                }
                match key[0] {
                    b'k' => {
                        drop(writer.stop().await?);
                        note = kill_leader(&mut cluster).await?;
                        writer = Writer::start(addrs(&cluster));
                        last = (Instant::now(), 0);
                    }
                    b'q' | 3 => return Ok(()),
                    _ => {}
                }
            }
        }
    }
}

fn addrs(cluster: &Cluster) -> Vec<String> {
    cluster.nodes.iter().map(|node| node.addr().to_owned()).collect()
}

/// kill -9 of the leader under writes, a count of what was lost, and its restart.
async fn kill_leader(cluster: &mut Cluster) -> Result<String> {
    cluster.leader_client().await?.ok("FLUSHALL").await?;
    let leader = cluster.leader().await?;
    let survivors: Vec<String> =
        cluster.followers().await?.iter().map(|&n| cluster.nodes[n].addr().to_owned()).collect();
    let writer = Writer::start(survivors);
    writer.progress(500).await?;
    cluster.nodes[leader].kill()?;
    writer.progress(500).await?;
    let report = writer.stop().await?;
    let lost = match report.verify(&mut cluster.leader_client().await?).await {
        Ok(()) => "none of them lost".to_owned(),
        Err(error) => format!("LOST: {error:#}"),
    };
    cluster.nodes[leader].start().await?;
    eventually("all nodes agree", SOON, async || Ok(cluster.same_content().await.ok())).await?;
    ensure!(lost.starts_with("none"), "{lost}");
    Ok(format!(
        "kill -9 of node {}: {} writes acknowledged before and after, {lost}; no write for {:.2} s.",
        leader + 1,
        report.acknowledged.len(),
        report.longest_gap.as_secs_f64()
    ))
}

async fn draw(cluster: &mut Cluster, count: u64, rate: f64, note: &str) -> Result<()> {
    let mut screen = String::from("\x1b[2J\x1b[Hkvnode: three nodes on this machine\r\n\r\n");
    for index in 0..cluster.nodes.len() {
        let addr = cluster.nodes[index].addr().to_owned();
        let line = match cluster.nodes[index].client().await {
            Ok(client) => {
                let mut client = client.with_patience(FRAME);
                let state = client.text("RAFTSTATE").await.ok().flatten().unwrap_or_else(|| "?".into());
                let applied = stat(&mut client, "applied_index").await.unwrap_or(-1);
                format!("{state:<10} applied {applied}")
            }
            Err(_) => "down".to_owned(),
        };
        let _ = write!(screen, "  node {}  {addr:<22} {line}\r\n", index + 1);
    }
    let _ = write!(screen, "\r\n  {count} writes acknowledged, {rate:.0} per second\r\n\r\n  {note}\r\n");
    screen.push_str("\r\n  k  kill -9 the leader      q  quit\r\n");
    let mut out = std::io::stdout();
    out.write_all(screen.as_bytes())?;
    Ok(out.flush()?)
}

/// Keys come without Enter while this lives.
struct RawTerminal;

impl RawTerminal {
    fn enter() -> Self {
        let _ = Command::new("stty").args(["-icanon", "-echo", "min", "1"]).status();
        Self
    }
}

impl Drop for RawTerminal {
    fn drop(&mut self) {
        let _ = Command::new("stty").arg("sane").status();
        println!();
    }
}
