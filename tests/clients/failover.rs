//! Real clients at work while the leader is killed: one process per client through an address before all nodes that leads
//! to the leader first, and one at a follower.
//!
//! Each does in rounds what software on Redis does: SET with EX, GET of it, a pair of keys in MULTI, a lock with NX PX and
//! a script that gives it back; or it is that software: Django's caches, Flask-Caching, Celery's results, locks, limiters,
//! connect-redis, keyv, while three leaders are killed. At the end it finds every acknowledged value again. At the follower no round may fail:
//! commands wait there for the new leader. Through the address some may, until the client has connected again.

use std::path::{Path, PathBuf};
use std::process::{Command as Program, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use kvnode_tests::cluster::Cluster;
use kvnode_tests::scenario::scenario;
use kvnode_tests::service::Service;
use kvnode_tests::tool::{self, cache_dir, run};
use kvnode_tests::wait::{eventually, until};
use redis::aio::{ConnectionManager, ConnectionManagerConfig};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::process::{Child, ChildStdin, Command};
use tokio::task::JoinSet;

use super::{INSTALLING, host_and_port, node_modules, python};

/// Rounds before the kill, and after it.
const ROUNDS: u64 = 15;
/// A JVM on a busy machine takes its time.
const PATIENCE: Duration = Duration::from_mins(1);

/// Makes the command of a client: its name, host and port follow.
type Make = Box<dyn Fn(&str) -> Command + Send>;

fn failover() -> PathBuf {
    super::here().join("failover")
}

/// A client at work.
struct Job {
    name: String,
    child: Child,
    /// Closed, it tells the client to end.
    input: Option<ChildStdin>,
    rounds: Arc<AtomicU64>,
    printed: Arc<Mutex<String>>,
    errors: Arc<Mutex<String>>,
}

impl Job {
    fn start(name: String, make: &Make, addr: &str, readers: &mut JoinSet<()>) -> Result<Self> {
        let (host, port) = host_and_port(addr)?;
        let mut command = make(&name);
        command.args([host, port]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.kill_on_drop(true).spawn().with_context(|| format!("{command:?}"))?;
        let (rounds, printed, errors) =
            (Arc::default(), Arc::<Mutex<String>>::default(), Arc::<Mutex<String>>::default());
        let (counted, last): (Arc<AtomicU64>, _) = (Arc::clone(&rounds), Arc::clone(&printed));
        let mut lines = BufReader::new(child.stdout.take().context("a pipe")?).lines();
        readers.spawn(async move {
            while let Ok(Some(line)) = lines.next_line().await {
                if line.starts_with("round ") {
                    counted.fetch_add(1, Ordering::Relaxed);
                }
                *last.lock().expect("nobody panics with it") = line;
            }
        });
        let mut stderr = child.stderr.take().context("a pipe")?;
        let said = Arc::clone(&errors);
        readers.spawn(async move {
            let mut text = String::new();
            let _ = stderr.read_to_string(&mut text).await;
            *said.lock().expect("nobody panics with it") = text;
        });
        let input = child.stdin.take();
        Ok(Self { name, child, input, rounds, printed, errors })
    }

    fn rounds(&self) -> u64 {
        self.rounds.load(Ordering::Relaxed)
    }

    /// Lets the client end; acknowledged writes and failed rounds.
    async fn end(&mut self) -> Result<(u64, u64)> {
        drop(self.input.take());
        let status = tokio::time::timeout(PATIENCE, self.child.wait()).await??;
        let told = |text: &Arc<Mutex<String>>| text.lock().expect("nobody panics with it").clone();
        let mut line = told(&self.printed);
        // The reader may be a moment behind the end of the process.
        let _ = until("its last line", Duration::from_secs(5), async || {
            line = told(&self.printed);
            line.starts_with("ok ")
        })
        .await;
        let errors = told(&self.errors);
        ensure!(status.success(), "{} ended with {status}: {line}\n{errors}", self.name);
        let mut words = line.split(' ').skip(1).map(str::parse::<u64>);
        let (Some(Ok(acknowledged)), Some(Ok(failed))) = (words.next(), words.next()) else {
            anyhow::bail!("{}: {line:?}\n{errors}", self.name)
        };
        println!("{}: {acknowledged} writes acknowledged, {failed} rounds failed", self.name);
        Ok((acknowledged, failed))
    }
}

/// Clients at work, each through the address before all nodes (false) and at a follower (true).
struct Jobs(Vec<(bool, Job)>);

impl Jobs {
    fn told(&self) -> String {
        let told = self.0.iter().map(|(_, job)| format!("{} {}", job.name, job.rounds()));
        told.collect::<Vec<_>>().join(", ")
    }

    /// Until each has done so many more rounds.
    async fn go_on(&self, what: &str) -> Result<()> {
        let least: Vec<u64> = self.0.iter().map(|(_, job)| job.rounds() + ROUNDS).collect();
        let done = || self.0.iter().zip(&least).all(|((_, job), least)| job.rounds() >= *least);
        until(what, PATIENCE, async || done()).await.with_context(|| self.told())
    }

    async fn end(&mut self) -> Result<()> {
        for (at_follower, job) in &mut self.0 {
            let (acknowledged, failed) = job.end().await?;
            ensure!(acknowledged >= ROUNDS, "{}: {acknowledged} writes", job.name);
            let errors = job.errors.lock().expect("nobody panics with it").clone();
            ensure!(!*at_follower || failed == 0, "{}: {failed} rounds failed\n{errors}", job.name);
        }
        Ok(())
    }
}

/// The leader, which is not the node `spared`: that one hands over if it leads.
async fn leader_beside(cluster: &mut Cluster, spared: usize) -> Result<usize> {
    if cluster.leader().await? == spared {
        cluster.nodes[spared].client().await?.ok("RAFTTRANSFER").await?;
    }
    eventually("another node leads", PATIENCE, async || {
        Ok(Some(cluster.leader().await?).filter(|leader| *leader != spared))
    })
    .await
}

/// Starts each client twice, kills leaders, and hears what they say.
fn work(kills: usize, clients: impl Fn() -> Result<Option<Vec<(&'static str, Make)>>>) {
    let Some(clients) = clients().expect("the clients can be installed") else { return };
    scenario(3, &[], async |cluster| {
        let leader = cluster.leader().await?;
        let mut nodes = vec![cluster.nodes[leader].addr().to_owned()];
        let followers = cluster.followers().await?;
        nodes.extend(followers.iter().map(|at| cluster.nodes[*at].addr().to_owned()));
        let follower = nodes[1].clone();
        let service = Service::start(nodes).await?;
        let (mut jobs, mut readers) = (Jobs(Vec::new()), JoinSet::new());
        for (name, make) in &clients {
            jobs.0.push((false, Job::start(format!("{name}-service"), make, &service.addr, &mut readers)?));
            jobs.0.push((true, Job::start(format!("{name}-follower"), make, &follower, &mut readers)?));
        }
        jobs.go_on("all clients work").await?;
        for kill in 1..=kills {
            let leader = leader_beside(cluster, followers[0]).await?;
            cluster.nodes[leader].kill()?;
            jobs.go_on("all clients work again").await?;
            if kill < kills {
                cluster.nodes[leader].start().await?;
                cluster.await_voters(3).await?;
                cluster.await_applied().await?;
            }
        }
        jobs.end().await
    });
}

#[test]
fn python_goes_on_when_the_leader_is_killed() {
    work(1, || {
        let Some(python) = python()? else { return Ok(None) };
        let make: Make = Box::new(move |name| {
            let mut command = Command::new(&python);
            command.arg(failover().join("work.py")).arg(name);
            command
        });
        Ok(Some(vec![("redis-py", make)]))
    });
}

#[test]
fn node_goes_on_when_the_leader_is_killed() {
    work(1, || {
        let Some(dir) = node_modules()? else { return Ok(None) };
        // Modules are found from where the script lies.
        let script = dir.join("work.cjs");
        std::fs::copy(failover().join("work.cjs"), &script)?;
        let with = |library: &'static str| -> Make {
            let script = script.clone();
            Box::new(move |name| {
                let mut command = Command::new("node");
                command.arg(&script).args([name, library]);
                command
            })
        };
        Ok(Some(vec![("ioredis", with("ioredis")), ("node-redis", with("node-redis"))]))
    });
}

/// The software on top of the clients, while one leader after another is killed.
#[test]
fn python_libraries_go_on_when_leaders_are_killed() {
    work(3, || {
        let Some(python) = python()? else { return Ok(None) };
        let make: Make = Box::new(move |name| {
            let mut command = Command::new(&python);
            command.arg(failover().join("libraries.py")).arg(name);
            command
        });
        Ok(Some(vec![("python-libraries", make)]))
    });
}

#[test]
fn node_libraries_go_on_when_leaders_are_killed() {
    work(3, || {
        let Some(dir) = node_modules()? else { return Ok(None) };
        let script = dir.join("libraries-at-work.cjs");
        std::fs::copy(failover().join("libraries.cjs"), &script)?;
        let make: Make = Box::new(move |name| {
            let mut command = Command::new("node");
            command.arg(&script).arg(name);
            command
        });
        Ok(Some(vec![("node-libraries", make)]))
    });
}

/// The Go client, built once per version of its sources.
fn go_client() -> Result<Option<PathBuf>> {
    let _one = INSTALLING.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let Some(go) = tool::need("go") else { return Ok(None) };
    let (from, dir) = (failover().join("go"), cache_dir().join("clients/go"));
    let files = ["go.mod", "go.sum", "main.go"];
    if is_new(&from, &files, &dir)? {
        let mut build = Program::new(go);
        build.args(["build", "-buildvcs=false", "-o"]).arg(dir.join("work")).arg(".");
        run(build.env("GOFLAGS", "-mod=mod").env("CGO_ENABLED", "0").current_dir(&from))?;
        keep(&from, &files, &dir)?;
    }
    Ok(Some(dir.join("work")))
}

/// The Java clients: a class path.
fn java_clients() -> Result<Option<String>> {
    let _one = INSTALLING.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let (Some(javac), Some(mvn)) = (tool::need("javac"), tool::need("mvn")) else { return Ok(None) };
    let (from, dir) = (failover().join("java"), cache_dir().join("clients/java"));
    let files = ["pom.xml", "Work.java"];
    let classes = format!("{0}/lib/*:{0}", dir.display());
    if is_new(&from, &files, &dir)? {
        let mut libraries = Program::new(mvn);
        libraries.args(["-q", "-B", "dependency:copy-dependencies", "-DincludeScope=runtime", "-f"]);
        libraries.arg(from.join("pom.xml")).arg(format!("-DoutputDirectory={}/lib", dir.display()));
        run(&mut libraries)?;
        run(Program::new(javac).args(["-cp", &classes, "-d"]).arg(&dir).arg(from.join("Work.java")))?;
        keep(&from, &files, &dir)?;
    }
    Ok(Some(classes))
}

/// Whether what was made in `dir` was made of other files than these.
fn is_new(from: &Path, files: &[&str], dir: &Path) -> Result<bool> {
    std::fs::create_dir_all(dir)?;
    for file in files {
        let wanted = std::fs::read(from.join(file))?;
        if !std::fs::read(dir.join("made-of").join(file)).is_ok_and(|held| held == wanted) {
            return Ok(true);
        }
    }
    Ok(false)
}

fn keep(from: &Path, files: &[&str], dir: &Path) -> Result<()> {
    std::fs::create_dir_all(dir.join("made-of"))?;
    for file in files {
        std::fs::copy(from.join(file), dir.join("made-of").join(file))?;
    }
    Ok(())
}

#[test]
fn go_goes_on_when_the_leader_is_killed() {
    work(1, || {
        let Some(program) = go_client()? else { return Ok(None) };
        let make: Make = Box::new(move |name| {
            let mut command = Command::new(&program);
            command.arg(name);
            command
        });
        Ok(Some(vec![("go-redis", make)]))
    });
}

#[test]
fn java_goes_on_when_the_leader_is_killed() {
    work(1, || {
        let Some(classes) = java_clients()? else { return Ok(None) };
        let with = |library: &'static str| -> Make {
            let classes = classes.clone();
            Box::new(move |name| {
                let mut command = Command::new("java");
                command.args(["-XX:TieredStopAtLevel=1", "-cp", &classes, "Work", name, library]);
                command
            })
        };
        Ok(Some(vec![("jedis", with("jedis")), ("lettuce", with("lettuce"))]))
    });
}

/// One round of the redis crate.
async fn round(
    connection: &mut ConnectionManager,
    name: &str,
    n: u64,
    acknowledged: &mut Vec<u64>,
) -> redis::RedisResult<()> {
    let key = format!("{name}:{n}");
    let () = redis::cmd("SET").arg(&key).arg(n).arg("EX").arg(1000).query_async(connection).await?;
    acknowledged.push(n);
    let seen: u64 = redis::cmd("GET").arg(&key).query_async(connection).await?;
    assert_eq!(seen, n, "{key}");
    let mut pair = redis::pipe();
    pair.atomic().cmd("SET").arg(format!("{name}:a")).arg(n).ignore();
    pair.cmd("SET").arg(format!("{name}:b")).arg(n).ignore();
    let () = pair.query_async(connection).await?;
    let mut lock = redis::cmd("SET");
    lock.arg(format!("{name}:lock")).arg(n).arg("NX").arg("PX").arg(10000);
    if lock.query_async::<Option<String>>(connection).await?.is_some() {
        let mut unlock = redis::cmd("DELIFEQ");
        let _freed: u64 = unlock.arg(format!("{name}:lock")).arg(n).query_async(connection).await?;
    }
    Ok(())
}

/// Rounds until `stop`; the number of those that failed.
async fn crate_at_work(
    name: String,
    addr: String,
    rounds: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
) -> Result<u64> {
    let config = ConnectionManagerConfig::new().set_response_timeout(Some(Duration::from_secs(15)));
    let client = redis::Client::open(format!("redis://{addr}/"))?;
    let mut connection = client.get_connection_manager_with_config(config).await?;
    let (mut acknowledged, mut failed) = (Vec::new(), 0);
    for n in 1.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        match round(&mut connection, &name, n, &mut acknowledged).await {
            Ok(()) => drop(rounds.fetch_add(1, Ordering::Relaxed)),
            Err(error) => {
                eprintln!("{name}, round {n}: {error}");
                failed += 1;
                tokio::task::yield_now().await;
            }
        }
    }
    for n in &acknowledged {
        let seen: Option<u64> =
            redis::cmd("GET").arg(format!("{name}:{n}")).query_async(&mut connection).await?;
        ensure!(seen == Some(*n), "{name}:{n} is lost");
    }
    let mut both = redis::cmd("MGET");
    both.arg(format!("{name}:a")).arg(format!("{name}:b"));
    let (a, b): (Option<u64>, Option<u64>) = both.query_async(&mut connection).await?;
    ensure!(a == b, "half a transaction: {a:?}, {b:?}");
    println!("{name}: {} writes acknowledged, {failed} rounds failed", acknowledged.len());
    Ok(failed)
}

#[test]
fn the_redis_crate_goes_on_when_the_leader_is_killed() {
    scenario(3, &[], async |cluster| {
        let leader = cluster.leader().await?;
        let follower = cluster.followers().await?[0];
        let follower = cluster.nodes[follower].addr().to_owned();
        let service = Service::start(vec![cluster.nodes[leader].addr().to_owned(), follower.clone()]).await?;
        let stop = Arc::new(AtomicBool::new(false));
        let places = [("redis-rs-service", service.addr.clone()), ("redis-rs-follower", follower)];
        let (mut jobs, mut rounds) = (JoinSet::new(), Vec::new());
        for (at, (name, addr)) in places.into_iter().enumerate() {
            let done = Arc::new(AtomicU64::new(0));
            rounds.push(Arc::clone(&done));
            let job = crate_at_work(name.to_owned(), addr, done, Arc::clone(&stop));
            jobs.spawn(async move { (at, job.await) });
        }
        let count = |at: usize| rounds[at].load(Ordering::Relaxed);
        until("both work", PATIENCE, async || count(0) >= ROUNDS && count(1) >= ROUNDS).await?;
        cluster.nodes[leader].kill()?;
        let least = [count(0) + ROUNDS, count(1) + ROUNDS];
        until("both work again", PATIENCE, async || count(0) >= least[0] && count(1) >= least[1]).await?;
        stop.store(true, Ordering::Relaxed);
        let mut failed = [0; 2];
        while let Some(ended) = jobs.join_next().await {
            let (at, job) = ended?;
            failed[at] = job?;
        }
        ensure!(failed[1] == 0, "{} rounds failed at the follower", failed[1]);
        Ok(())
    });
}
