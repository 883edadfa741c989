//! `redis_exporter` against a real redis-server and against each of three nodes: what it makes of the one it makes of the other.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Stdio;

use anyhow::{Context, Result, ensure};
use kvnode_tests::client::Client;
use kvnode_tests::reference::{Redis, free_address};
use kvnode_tests::scenario::scenario;
use kvnode_tests::wait::{SOON, eventually};
use kvnode_tests::{http, tool};
use tokio::process::Command;

/// What nobody can know here: memory by the allocator's and Redis' own accounts (the data is on disk), the largest buffers of
/// late, threads of Redis' making.
const UNKNOWN: [&str; 9] = [
    "redis_allocator_",
    "redis_client_recent_max_",
    "redis_memory_used_dataset_bytes",
    "redis_memory_used_overhead_bytes",
    "redis_memory_used_startup_bytes",
    "redis_mem_clients_normal",
    "redis_cpu_sys_main_thread_seconds_total",
    "redis_cpu_user_main_thread_seconds_total",
    "redis_total_",
];

/// Of these prefixes, what is told nevertheless.
const KNOWN: [&str; 1] = ["redis_total_error_replies"];

/// Names of the metrics, and the page that they came from.
async fn metrics(program: &Path, addr: &str) -> Result<(BTreeSet<String>, String)> {
    let mut client = Client::connect(addr).await?;
    client.ok("SET k v EX 1000").await?;
    client.run("NOSUCH").await?;
    client.ok("CONFIG SET slowlog-log-slower-than 0").await?;
    client.text("GET k").await?;
    let listen = free_address()?;
    let mut command = Command::new(program);
    command.args(["-redis.addr", &format!("redis://{addr}"), "-web.listen-address", &listen]);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
    let mut child = command.spawn()?;
    let page = eventually("the exporter has scraped", SOON, async || {
        let page = http::get(&listen, "/metrics").await?.text();
        Ok(page.contains("\nredis_up ").then_some(page))
    })
    .await?;
    child.kill().await?;
    let names = page.lines().filter(|line| line.starts_with("redis_"));
    let names = names.filter_map(|line| line.split(['{', ' ']).next()).map(str::to_owned).collect();
    Ok((names, page))
}

#[test]
fn redis_exporter_reads_of_us_what_it_reads_of_redis() {
    let Some(program) = tool::need("prometheus-redis-exporter") else { return };
    scenario(3, &[], async |cluster| {
        let Some(redis) = Redis::start(&[]).await? else { return Ok(()) };
        let (reference, _) = metrics(&program, &redis.addr).await.context("against redis-server")?;
        ensure!(reference.len() > 100, "only {} metrics of redis-server", reference.len());
        let is_unknown =
            |name: &str| !KNOWN.contains(&name) && UNKNOWN.iter().any(|prefix| name.starts_with(prefix));
        for node in &cluster.nodes {
            let (ours, page) = metrics(&program, node.addr()).await?;
            let missing: Vec<&String> =
                reference.difference(&ours).filter(|name| !is_unknown(name)).collect();
            ensure!(missing.is_empty(), "{missing:?} are not among ours:\n{page}");
            for line in
                ["redis_up 1", "redis_exporter_last_scrape_error{err=\"\"} 0", "redis_cluster_enabled 0"]
            {
                ensure!(page.lines().any(|told| told == line), "{line} is not in\n{page}");
            }
        }
        Ok(())
    });
}
