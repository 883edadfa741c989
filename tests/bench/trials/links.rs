//! Nodes that are far from each other: SET and GET with longer round trips between them, clients beside the leader.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use kvnode_tests::binary;
use kvnode_tests::cluster::Cluster;
use kvnode_tests::node::Node;
use kvnode_tests::reference::free_address;
use serde_json::json;

use crate::cells::{Cell, Operation};
use crate::etcd::Etcd;
use crate::links::Link;
use crate::load::histogram;
use crate::options::Options;
use crate::report::{Report, Section, svg};
use crate::sample::{Sample, median_of, merge, quantile_ms, raw};
use crate::systems::{Kind, System};

/// Microseconds that each round trip is longer.
const ROUND_TRIPS_US: [u64; 4] = [0, 500, 2_000, 10_000];
const CLIENTS: [usize; 2] = [50, 512];
const NODES: usize = 3;
const VALUE_BYTES: usize = 64;

pub(super) async fn run(options: &Options, report: &mut Report, section: &mut Section) -> Result<()> {
    let keys = options.keys.unwrap_or(if options.is_quick { 10_000 } else { 100_000 });
    let time = Duration::from_secs(if options.is_quick { 1 } else { 4 });
    let rounds = options.rounds.unwrap_or(if options.is_quick { 1 } else { 3 });
    let mut kinds = vec![Kind::Ours(NODES), Kind::Etcd(NODES)];
    kinds.retain(|kind| kind.is_here() && options.names(&kind.name()));
    section.say("Three nodes, links that delay between them (0: no delay), clients beside the leader.");
    let mut rows = Vec::new();
    let mut lines: Vec<svg::Line> = Vec::new();
    for round_trip_us in ROUND_TRIPS_US {
        let round_trip = Duration::from_micros(round_trip_us);
        let measured_ms = tokio::task::spawn_blocking(move || measure_link(round_trip)).await??;
        for &kind in &kinds {
            // What is named later ends earlier: the nodes before their links.
            let (_links, mut system) = start(kind, round_trip).await.with_context(|| kind.name())?;
            system.preload(0..keys, VALUE_BYTES).await?;
            for operation in [Operation::Set, Operation::Get] {
                for clients in CLIENTS {
                    let cell = Cell { operation, clients, pipeline: 1, value_bytes: VALUE_BYTES };
                    let mut samples = Vec::new();
                    for round in 0..rounds {
                        let (measured, cpu) = system.run(cell, keys, time).await?;
                        let mut fields = json!({"system": kind.name(), "round": round + 1,
                            "round_trip_ms": round_trip.as_secs_f64() * 1000.0, "link_p50_ms": measured_ms,
                            "operation": operation.name(), "clients": clients, "value_bytes": VALUE_BYTES});
                        merge(&mut fields, raw(&measured, cpu));
                        report.record("links", fields)?;
                        samples.push(Sample::new(&measured, cpu));
                    }
                    let show = |field: fn(&Sample) -> f64| median_of(&samples, field).unwrap_or(f64::NAN);
                    rows.push(vec![
                        format!("{} ms", round_trip.as_secs_f64() * 1000.0),
                        format!("{measured_ms:.2}"),
                        kind.name(),
                        operation.name().to_owned(),
                        clients.to_string(),
                        format!("{:.1}", show(|sample| sample.per_second) / 1000.0),
                        format!("{:.2}", show(|sample| sample.p50_ms)),
                        format!("{:.2}", show(|sample| sample.p99_ms)),
                    ]);
                    add(&mut lines, kind, cell, (measured_ms, show(|sample| sample.per_second)));
                }
            }
        }
    }
    let head = ["longer by", "link alone, ms", "system", "op", "clients", "k/s", "p50 ms", "p99 ms"];
    section.show(head.map(str::to_owned).to_vec(), rows);
    let frame = svg::Frame {
        title: "Rate over the round trip between the nodes",
        x: "round trip of the link alone, ms",
        y: "requests per second",
    };
    section.picture(svg::lines(&frame, &lines));
    Ok(())
}

fn add(lines: &mut Vec<svg::Line>, kind: Kind, cell: Cell, point: (f64, f64)) {
    let name = format!("{} {}, {}", cell.operation.name(), cell.clients, kind.name());
    match lines.iter_mut().find(|line| line.0 == name) {
        Some(line) => line.1.push(point),
        None => lines.push((name, vec![point])),
    }
}

/// A system whose nodes reach each other through links, and those links.
async fn start(kind: Kind, round_trip: Duration) -> Result<(Vec<Link>, System)> {
    let links: Vec<Link> = (0..NODES).map(|_| Link::start(round_trip)).collect::<Result<_>>()?;
    if let Kind::Etcd(_) = kind {
        let peers: Vec<String> = links.iter().map(|_| free_address()).collect::<Result<_>>()?;
        for (link, peer) in links.iter().zip(&peers) {
            link.lead_to(peer);
        }
        let known_as: Vec<String> = links.iter().map(|link| link.addr.clone()).collect();
        let etcd = Etcd::start_behind(&peers, &known_as)?;
        return Ok((links, System::Etcd(etcd)));
    }
    let cluster = behind(&links, binary::server()).await?;
    Ok((links, System::Ours(cluster)))
}

/// A cluster of nodes that run this program, each known to the others by its link.
pub(super) async fn behind(links: &[Link], program: &Path) -> Result<Cluster> {
    let mut cluster = Cluster::empty(&[])?;
    for (number, link) in links.iter().enumerate() {
        let mut flags = vec!["--advertise-peer-addr".to_owned(), link.addr.clone()];
        if let Some(first) = cluster.nodes.first() {
            flags.extend(["--join".to_owned(), first.addr().to_owned()]);
        }
        let mut node = Node::new(cluster.path(), &format!("node{}", number + 1), &flags).by(program);
        let started = node.start().await;
        cluster.nodes.push(node);
        started?;
        // A node is ready before it is taken in; until then whoever dials it waits in the link.
        link.lead_to(&cluster.nodes[number].ready().peer_addr);
    }
    cluster.await_voters(links.len()).await?;
    Ok(cluster)
}

/// Median round trip of one byte through a link of this delay, in milliseconds.
fn measure_link(round_trip: Duration) -> Result<f64> {
    const ROUND_TRIPS: usize = 200;
    let link = Link::start(round_trip)?;
    let listener = TcpListener::bind("127.0.0.1:0")?;
    link.lead_to(&listener.local_addr()?.to_string());
    let echo = std::thread::spawn(move || -> std::io::Result<()> {
        let (mut stream, _) = listener.accept()?;
        stream.set_nodelay(true)?;
        let mut byte = [0];
        while stream.read(&mut byte)? > 0 {
            stream.write_all(&byte)?;
        }
        Ok(())
    });
    let mut stream = TcpStream::connect(&link.addr)?;
    stream.set_nodelay(true)?;
    let mut time_us = histogram();
    for _ in 0..ROUND_TRIPS {
        let start = Instant::now();
        stream.write_all(b"x")?;
        stream.read_exact(&mut [0])?;
        time_us.saturating_record(u64::try_from(start.elapsed().as_micros()).unwrap_or(u64::MAX));
    }
    drop(stream);
    let _ = echo.join();
    Ok(quantile_ms(&time_us, 0.5))
}
