//! Real clients with their defaults against three nodes, through a follower: redis-py, ioredis, node-redis, the redis
//! crate, redis-cli, redis-benchmark and `redis_exporter`; and the software on top of them: Django's caches, Flask-Caching, Celery results,
//! limits, connect-redis, keyv, redlock and rate limiters.
//!
//! The scripts are also run against a real redis-server: a script that passes nowhere proves nothing.

mod cluster;
mod exporter;
mod failover;
mod tls;
mod users;

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;

use anyhow::{Context, Result, ensure};
use kvnode_tests::reference::Redis;
use kvnode_tests::scenario::scenario;
use kvnode_tests::tool::{self, cache_dir, run};

fn here() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("clients")
}

/// One installation at a time, whatever test needs it first.
static INSTALLING: Mutex<()> = Mutex::new(());

/// Python with redis-py, made once per version of `requirements.txt`.
fn python() -> Result<Option<PathBuf>> {
    let _one = INSTALLING.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let Some(system) = tool::need("python3") else { return Ok(None) };
    let venv = cache_dir().join("clients/python");
    let python = venv.join("bin/python");
    let stamp = venv.join("installed.txt");
    let wanted = fs::read_to_string(here().join("requirements.txt"))?;
    if fs::read_to_string(&stamp).is_ok_and(|installed| installed == wanted) {
        return Ok(Some(python));
    }
    run(Command::new(system).args(["-m", "venv", "--clear"]).arg(&venv))?;
    let install = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-r"];
    run(Command::new(&python).args(install).arg(here().join("requirements.txt")))?;
    fs::write(stamp, wanted)?;
    Ok(Some(python))
}

/// Directory with `node_modules`, made once per version of `package-lock.json`.
fn node_modules() -> Result<Option<PathBuf>> {
    const MAJOR_MIN: u32 = 20;
    let _one = INSTALLING.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let (Some(node), Some(npm)) = (tool::need("node"), tool::need("npm")) else { return Ok(None) };
    let version = run(Command::new(node).arg("--version"))?;
    let major: u32 =
        version.trim_start_matches('v').split('.').next().and_then(|n| n.parse().ok()).context("node")?;
    if major < MAJOR_MIN {
        tool::skip(&format!("ioredis 6 and node-redis 6 need node {MAJOR_MIN}, this is {}", version.trim()));
        return Ok(None);
    }
    let dir = cache_dir().join("clients/node");
    let stamp = dir.join("installed.json");
    let wanted = fs::read_to_string(here().join("package-lock.json"))?;
    if fs::read_to_string(&stamp).is_ok_and(|installed| installed == wanted) {
        return Ok(Some(dir));
    }
    fs::create_dir_all(&dir)?;
    for file in ["package.json", "package-lock.json"] {
        fs::copy(here().join(file), dir.join(file))?;
    }
    run(Command::new(npm).args(["ci", "--ignore-scripts", "--no-audit", "--no-fund"]).current_dir(&dir))?;
    fs::write(stamp, wanted)?;
    Ok(Some(dir))
}

fn host_and_port(addr: &str) -> Result<(&str, &str)> {
    addr.rsplit_once(':').context("an address has a port")
}

/// Runs a client script against an address; it must print `ok`.
async fn passes(mut command: Command, addr: &str) -> Result<()> {
    let (host, port) = host_and_port(addr)?;
    command.args([host, port]).stdin(Stdio::null());
    let printed = tokio::task::spawn_blocking(move || run(&mut command)).await??;
    ensure!(printed.trim().ends_with("ok"), "{printed}");
    Ok(())
}

/// The script against redis first, then against each of three nodes of ours.
fn against_both(make: impl Fn() -> Result<Option<Command>>) {
    let Some(_) = make().expect("the client can be installed") else { return };
    scenario(3, &[], async |cluster| {
        let make = || make()?.context("it was there a moment ago");
        if let Some(redis) = Redis::start(&[]).await? {
            passes(make()?, &redis.addr).await.context("against redis-server")?;
        }
        for node in &cluster.nodes {
            passes(make()?, node.addr()).await.context("against ours")?;
        }
        Ok(())
    });
}

fn python_script(name: &'static str) -> impl Fn() -> Result<Option<Command>> {
    move || {
        let Some(python) = python()? else { return Ok(None) };
        let mut command = Command::new(python);
        command.arg(here().join(name));
        Ok(Some(command))
    }
}

fn node_script(name: &'static str) -> impl Fn() -> Result<Option<Command>> {
    move || {
        let Some(dir) = node_modules()? else { return Ok(None) };
        // Modules are found from where the script lies.
        fs::copy(here().join(name), dir.join(name))?;
        let mut command = Command::new("node");
        command.arg(dir.join(name));
        Ok(Some(command))
    }
}

#[test]
fn python_caches_results_locks_and_limits() {
    against_both(python_script("libraries.py"));
}

#[test]
fn node_sessions_caches_locks_and_limits() {
    against_both(node_script("libraries.cjs"));
}

#[test]
fn redis_py() {
    against_both(python_script("redis_py.py"));
}

#[test]
fn redis_py_asyncio() {
    against_both(python_script("redis_py_asyncio.py"));
}

#[test]
fn ioredis() {
    against_both(node_script("ioredis.cjs"));
}

#[test]
fn node_redis() {
    against_both(node_script("node_redis.cjs"));
}

#[test]
fn the_redis_crate_in_both_protocols() {
    scenario(3, &[], async |cluster| {
        for node in &cluster.nodes {
            for suffix in ["", "?protocol=resp3"] {
                let client = redis::Client::open(format!("redis://{}/{suffix}", node.addr()))?;
                let mut connection = client.get_multiplexed_async_connection().await?;
                let () = redis::cmd("FLUSHALL").query_async(&mut connection).await?;
                let () =
                    redis::cmd("SET").arg("k").arg(&b"\0\r\n\xff"[..]).query_async(&mut connection).await?;
                let value: Vec<u8> = redis::cmd("GET").arg("k").query_async(&mut connection).await?;
                ensure!(value == b"\0\r\n\xff");
                let mut pipe = redis::pipe();
                for n in 0..1000 {
                    pipe.cmd("SET").arg(format!("p:{n}")).arg(n).ignore();
                    pipe.cmd("GET").arg(format!("p:{n}"));
                }
                let values: Vec<i64> = pipe.query_async(&mut connection).await?;
                ensure!(values.iter().copied().eq(0..1000));
                let mut found: HashSet<String> = HashSet::new();
                let mut cursor = 0_u64;
                loop {
                    let mut scan = redis::cmd("SCAN");
                    scan.arg(cursor).arg("MATCH").arg("p:*").arg("COUNT").arg(100);
                    let (next, keys): (u64, Vec<String>) = scan.query_async(&mut connection).await?;
                    found.extend(keys);
                    cursor = next;
                    if cursor == 0 {
                        break;
                    }
                }
                ensure!(found.len() == 1000, "{} keys scanned", found.len());
                let deleted: i64 =
                    redis::cmd("DEL").arg("k").arg("missing").query_async(&mut connection).await?;
                ensure!(deleted == 1);
                let mut manager = client.get_connection_manager().await?;
                let pong: String = redis::cmd("PING").query_async(&mut manager).await?;
                ensure!(pong == "PONG");
            }
        }
        Ok(())
    });
}

/// Runs redis-cli with these arguments and returns what it printed.
async fn redis_cli(addr: &str, arguments: &[&str]) -> Result<String> {
    let (host, port) = host_and_port(addr)?;
    let mut command = Command::new("redis-cli");
    command.args(["-h", host, "-p", port]).args(arguments).stdin(Stdio::null());
    tokio::task::spawn_blocking(move || run(&mut command)).await?
}

#[test]
fn redis_cli_modes() {
    if tool::need("redis-cli").is_none() {
        return;
    }
    scenario(3, &[], async |cluster| {
        let follower = cluster.followers().await?[0];
        let addr = cluster.nodes[follower].addr().to_owned();
        ensure!(redis_cli(&addr, &["SET", "k", "v"]).await?.trim() == "OK");
        ensure!(redis_cli(&addr, &["-3", "GET", "k"]).await?.trim() == "v");
        ensure!(redis_cli(&addr, &["-n", "3", "GET", "k"]).await?.trim().is_empty());
        ensure!(redis_cli(&addr, &["-r", "3", "PING"]).await?.matches("PONG").count() == 3);
        for n in 0..300 {
            redis_cli_free_set(&addr, n).await?;
        }
        let scanned = redis_cli(&addr, &["--scan", "--pattern", "key:*"]).await?;
        ensure!(scanned.lines().collect::<HashSet<_>>().len() == 300, "{scanned}");
        ensure!(redis_cli(&addr, &["INFO", "server"]).await?.contains("redis_version:"));
        ensure!(redis_cli(&addr, &["COMMAND", "COUNT"]).await?.trim().parse::<u32>()? > 20);
        ensure!(redis_cli(&addr, &["COMMAND", "DOCS", "GET"]).await?.contains("summary"));
        let eval = redis_cli(&addr, &["--no-raw", "MGET", "k", "missing"]).await?;
        ensure!(eval.contains("1) \"v\"") && eval.contains("2) (nil)"), "{eval}");
        Ok(())
    });
}

async fn redis_cli_free_set(addr: &str, n: usize) -> Result<()> {
    kvnode_tests::client::Client::connect(addr).await?.ok(&format!("SET key:{n} {n}")).await
}

#[test]
fn redis_cli_interactive_reads_the_command_table() {
    if tool::need("redis-cli").is_none() {
        return;
    }
    scenario(1, &[], async |cluster| {
        let (host, port) = host_and_port(cluster.nodes[0].addr())?;
        let mut command = Command::new("sh");
        let line = format!("printf 'SET k v\\nGET k\\nKEYS *\\nquit\\n' | redis-cli -h {host} -p {port}");
        command.args(["-c", &line]);
        let printed = tokio::task::spawn_blocking(move || run(&mut command)).await??;
        ensure!(
            printed.lines().collect::<Vec<_>>() == ["OK", "v", "k", "OK"] || printed.starts_with("OK\nv\nk"),
            "{printed}"
        );
        Ok(())
    });
}

#[test]
fn redis_benchmark_runs_with_and_without_pipelines() {
    let Some(program) = tool::need("redis-benchmark") else { return };
    scenario(3, &[], async |cluster| {
        for node in &cluster.nodes {
            for pipeline in ["1", "16"] {
                let (host, port) = host_and_port(node.addr())?;
                let mut command = Command::new(&program);
                command.args([
                    "-h",
                    host,
                    "-p",
                    port,
                    "-t",
                    "set,get,mset,ping_inline,ping_mbulk",
                    "-n",
                    "2000",
                ]);
                command.args(["-c", "20", "-r", "1000", "-P", pipeline, "--csv"]);
                let printed = tokio::task::spawn_blocking(move || run(&mut command)).await??;
                for test in ["SET", "GET", "MSET", "PING_INLINE"] {
                    ensure!(printed.contains(&format!("\"{test}")), "{printed}");
                }
            }
        }
        Ok(())
    });
}
