//! Hours of everything that comes and goes, and whether memory and open files stay what they were.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use kvnode_tests::client::Client;
use kvnode_tests::cluster::Cluster;
use rustix::process::Pid;
use serde_json::json;
use tokio::time::{interval, timeout};

use super::resident_kib;
use crate::cells::Operation;
use crate::load;
use crate::open::{self, For, Stream};
use crate::report::{Report, Section, svg};
use crate::sample::real;

const KEYS: usize = 200_000;
const VALUE_BYTES: usize = 64;
/// Writes a second, and as many reads. Far below the peak: what leaks does so per request, per connection or per minute.
const RATE: f64 = 1000.0;
const CLIENTS: usize = 50;
/// Time after which all connections are others.
const SLICE: Duration = Duration::from_mins(1);
/// One node after the other writes a snapshot each so many slices, and the leader hands over.
const SNAPSHOT_EVERY: u32 = 4;
const HANDOVER_EVERY: u32 = 10;
/// Small enough to be full in the first quarter, which caches of the usual 256 MiB need not be.
const SETTINGS: &str = "block_cache_bytes: 16MiB\nvalue_cache_bytes: 16MiB\nmemtable_bytes: 16MiB\n";
/// Time between two looks at the processes, and between two visitors.
const LOOK_EVERY: Duration = Duration::from_secs(10);
const VISIT_EVERY: Duration = Duration::from_millis(50);
/// What the mean of the last quarter may be, of the mean of the second one.
const FLAT: f64 = 1.05;
/// Fewest looks that quarters are made of.
const LOOKS_MIN: usize = 16;

/// A node at one moment.
#[derive(Clone, Copy, Debug)]
struct Look {
    minute: f64,
    resident_mib: f64,
    files: f64,
    threads: f64,
}

/// A figure of a look.
type Field = (&'static str, fn(&Look) -> f64);
const FIELDS: [Field; 3] = [
    ("resident MiB", |look| look.resident_mib),
    ("open files", |look| look.files),
    ("threads", |look| look.threads),
];

/// Writes, reads and visits for so long; fails if a figure of a node grew.
pub(super) async fn run(time: Duration, report: &mut Report, section: &mut Section) -> Result<()> {
    let dir = tempfile::tempdir()?;
    let file = dir.path().join("config.yaml");
    std::fs::write(&file, SETTINGS)?;
    let mut cluster = Cluster::start(3, &["--config", &file.display().to_string()]).await?;
    let leader = cluster.leader().await?;
    load::preload(cluster.nodes[leader].addr(), 0..KEYS, VALUE_BYTES).await?;
    cluster.await_applied().await?;
    let began = Instant::now();
    let mut looks = vec![Vec::new(); cluster.nodes.len()];
    let (mut requests, mut visits) = (0, 0);
    for slice in 1.. {
        let done = one_slice(&mut cluster, began, &mut looks, report).await?;
        (requests, visits) = (requests + done.0, visits + done.1);
        eprintln!("minute {slice}: {requests} requests, {visits} visitors");
        if began.elapsed() >= time {
            break;
        }
        let turn = |every: u32| (slice % every == 0).then_some((slice / every) as usize % looks.len());
        if let Some(node) = turn(SNAPSHOT_EVERY) {
            cluster.nodes[node].client().await?.with_patience(SLICE).ok("RAFTSNAPSHOT").await?;
        }
        if turn(HANDOVER_EVERY).is_some() {
            cluster.leader_client().await?.ok("RAFTTRANSFER").await?;
        }
    }
    section.say(format!(
        "{requests} SETs and GETs of {KEYS} keys, {RATE:.0} of each a second by {CLIENTS} clients, which are others each \
         minute; {visits} clients that connect, do some of everything and leave; a snapshot each {SNAPSHOT_EVERY} \
         minutes, a hand-over each {HANDOVER_EVERY}"
    ));
    show(&looks, section)
}

/// Both streams, the visitors and the looks, side by side; how many requests were answered and how many visitors came.
async fn one_slice(
    cluster: &mut Cluster,
    began: Instant,
    looks: &mut [Vec<Look>],
    report: &mut Report,
) -> Result<(u64, u64)> {
    let leader = cluster.leader().await?;
    let addrs: Vec<&str> = cluster.nodes.iter().map(kvnode_tests::node::Node::addr).collect();
    let pids = cluster.nodes.iter().map(kvnode_tests::node::Node::pid).collect::<Result<Vec<Pid>>>()?;
    let stream = |operation| Stream {
        operation,
        rate: RATE,
        clients: CLIENTS,
        keys: KEYS,
        value_bytes: VALUE_BYTES,
        is_etcd: false,
    };
    let follower = addrs[(leader + 1) % addrs.len()];
    let mut visits = 0;
    let beside = async {
        let both =
            async { tokio::try_join!(visiting(&addrs, &mut visits), looking(&pids, began, looks, report)) };
        timeout(SLICE, both).await.map_or(Ok(()), |ended| ended.map(drop))
    };
    let (written, read, ()) = tokio::try_join!(
        open::run(addrs[leader], stream(Operation::Set), For(SLICE)),
        open::run(follower, stream(Operation::Get), For(SLICE)),
        beside,
    )?;
    let refused = written.refused + read.refused;
    ensure!(refused == 0, "{refused} requests were not served within 10 s after their minute");
    Ok((written.requests + read.requests, visits))
}

/// One visitor after the other, without end.
async fn visiting(addrs: &[&str], visits: &mut u64) -> Result<()> {
    let mut tick = interval(VISIT_EVERY);
    for addr in addrs.iter().cycle() {
        tick.tick().await;
        visit(addr, *visits).await?;
        *visits += 1;
    }
    Ok(())
}

/// One look at all nodes after the other, without end.
async fn looking(pids: &[Pid], began: Instant, looks: &mut [Vec<Look>], report: &mut Report) -> Result<()> {
    let mut tick = interval(LOOK_EVERY);
    loop {
        tick.tick().await;
        for (number, (pid, looks)) in pids.iter().zip(looks.iter_mut()).enumerate() {
            looks.push(look(*pid, number, began, report)?);
        }
    }
}

/// A client that connects, does some of everything that leaves something behind for a while, and leaves.
async fn visit(addr: &str, number: u64) -> Result<()> {
    let mut client = Client::connect(addr).await?;
    let commands = [
        format!("SET visit:{number} v EX 5"),
        "INCR visits".to_owned(),
        format!("APPEND long:{} 0123456789", number % 1000),
        format!("SETRANGE long:{} 500 end", number % 1000),
        format!("GETDEL long:{}", (number + 500) % 1000),
        "MULTI".to_owned(),
        format!("SETBIT bits:{} 100 1", number % 10),
        "GET visits".to_owned(),
        "EXEC".to_owned(),
        "SCAN 0 COUNT 50".to_owned(),
        format!("MGET visit:{number} visits"),
        "WATCH visits".to_owned(),
        format!("SUBSCRIBE channel:{}", number % 10),
    ];
    for command in commands {
        let reply = client.run(&command).await?;
        if let Some(error) = reply.as_error() {
            bail!("{command}: {error}");
        }
    }
    Ok(())
}

fn look(pid: Pid, number: usize, began: Instant, report: &mut Report) -> Result<Look> {
    let process = format!("/proc/{}", pid.as_raw_nonzero());
    let count = |of: &str| -> Result<f64> {
        let dir = format!("{process}/{of}");
        Ok(real(std::fs::read_dir(&dir).context(dir)?.count() as u64))
    };
    let look = Look {
        minute: began.elapsed().as_secs_f64() / 60.0,
        resident_mib: real(resident_kib(pid)?.0) / 1024.0,
        files: count("fd")?,
        threads: count("task")?,
    };
    report.record(
        "soak",
        json!({"node": number + 1, "minute": look.minute, "resident_mib": look.resident_mib, "files": look.files,
            "threads": look.threads}),
    )?;
    Ok(look)
}

/// A picture and the means of the second and the last quarter of each figure; fails if one grew by more than [`FLAT`].
fn show(looks: &[Vec<Look>], section: &mut Section) -> Result<()> {
    let (mut rows, mut grown) = (Vec::new(), Vec::new());
    for (name, field) in FIELDS {
        let points = |looks: &Vec<Look>| looks.iter().map(|look| (look.minute, field(look))).collect();
        let lines: Vec<svg::Line> =
            looks.iter().enumerate().map(|(at, looks)| (format!("node {}", at + 1), points(looks))).collect();
        section.picture(svg::lines(&svg::Frame { title: name, x: "minutes", y: name }, &lines));
        for (at, looks) in looks.iter().enumerate() {
            let values: Vec<f64> = looks.iter().map(field).collect();
            ensure!(values.len() >= LOOKS_MIN, "{} looks are too few to compare", values.len());
            let (before, after) = quarters(&values);
            let highest = values.iter().copied().fold(0.0, f64::max);
            if after > before * FLAT {
                grown.push(format!("{name} of node {}: {before:.1} became {after:.1}", at + 1));
            }
            rows.push(vec![
                name.to_owned(),
                (at + 1).to_string(),
                format!("{before:.1}"),
                format!("{after:.1}"),
                format!("{:+.1} %", (after / before - 1.0) * 100.0),
                format!("{highest:.0}"),
            ]);
        }
    }
    let head = ["figure", "node", "mean of the second quarter", "of the last", "change", "at most"];
    section.show(head.map(str::to_owned).to_vec(), rows);
    ensure!(grown.is_empty(), "not flat: {}", grown.join("; "));
    Ok(())
}

/// The means of the second quarter and of the last one; what fills up at first, as caches do, does so in the first.
fn quarters(values: &[f64]) -> (f64, f64) {
    let quarter = values.len() / 4;
    let mean = |part: &[f64]| part.iter().sum::<f64>() / real(part.len() as u64);
    (mean(&values[quarter..2 * quarter]), mean(&values[values.len() - quarter..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn looks(resident_mib: impl Fn(f64) -> f64) -> Vec<Vec<Look>> {
        let at = |number: u32| {
            let minute = f64::from(number);
            Look { minute, resident_mib: resident_mib(minute), files: 40.0, threads: 12.0 }
        };
        vec![(0..40).map(at).collect()]
    }

    #[test]
    fn what_fills_up_at_first_is_flat_and_what_grows_is_not() {
        let mut section = Section::new("");
        show(&looks(|minute| 80.0 + 2.0 * minute.min(9.0)), &mut section).unwrap();
        let error = show(&looks(|minute| 80.0 + minute), &mut section).unwrap_err().to_string();
        assert!(error.contains("resident MiB of node 1: 94.5 became 114.5"), "{error}");
    }

    #[test]
    fn a_soak_that_is_too_short_says_so() {
        let short: Vec<Vec<Look>> = looks(|_| 80.0).into_iter().map(|looks| looks[..8].to_vec()).collect();
        assert!(show(&short, &mut Section::new("")).is_err());
    }
}
