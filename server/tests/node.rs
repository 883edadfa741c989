//! A whole node in this process, as a program that embeds it would run it: what it measures and what it says of itself.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use kvnode_server::config::Config;
use kvnode_server::metrics::METRICS;
use kvnode_server::node::Node;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{interval, timeout};
use tokio_util::sync::CancellationToken;

/// Nothing here takes longer on a busy machine.
const DEADLINE: Duration = Duration::from_mins(1);

/// Values after the commands of the test.
const EXACT: &[(&str, f64)] = &[
    (r#"kvnode_command_duration_seconds_count{command="SET"}"#, 3.0),
    (r#"kvnode_command_duration_seconds_count{command="GET"}"#, 2.0),
    (r#"kvnode_command_rejected_total{command="GET"}"#, 1.0),
    (r#"kvnode_command_errors_total{command="GET"}"#, 0.0),
    (r#"kvnode_error_replies_total{prefix="ERR"}"#, 2.0),
    ("kvnode_key_hits_total", 1.0),
    ("kvnode_key_misses_total", 1.0),
    ("kvnode_clients_connected", 1.0),
    ("kvnode_clients_accepted_total", 1.0),
    ("kvnode_clients_limit", 10_000.0),
    (r#"kvnode_raft_role{role="leader"}"#, 1.0),
    (r#"kvnode_raft_role{role="follower"}"#, 0.0),
    ("kvnode_raft_leader_known", 1.0),
    ("kvnode_raft_voters", 1.0),
    ("kvnode_raft_members", 1.0),
    ("kvnode_raft_last_contact_seconds", 0.0),
    ("kvnode_raft_election_timeout_seconds", 0.55),
    (r#"kvnode_raft_proposal_errors_total{reason="disk_full"}"#, 0.0),
    (r#"kvnode_store_keys{db="0"}"#, 2.0),
    (r#"kvnode_store_keys{db="15"}"#, 0.0),
    ("kvnode_snapshot_duration_seconds_count", 1.0),
    (r#"kvnode_checkpoints_sent_total{result="ok"}"#, 0.0),
    ("kvnode_raft_queue_bytes", 0.0),
    ("kvnode_disk_full", 0.0),
];

/// Counters that the commands of the test raise.
const GREW: &[&str] = &[
    "kvnode_client_read_bytes_total",
    "kvnode_client_written_bytes_total",
    "kvnode_raft_proposals_total",
    "kvnode_raft_batches_total",
    "kvnode_raft_batch_ops_total",
    "kvnode_raft_read_barriers_total",
    "kvnode_raft_applied_index",
    "kvnode_raft_committed_index",
    "kvnode_raft_last_index",
    "kvnode_log_syncs_total",
    "kvnode_log_sync_duration_seconds_count",
    "kvnode_log_sync_duration_seconds_sum",
    "kvnode_log_written_bytes_total",
    r#"kvnode_http_requests_total{code="200"}"#,
];

/// Sizes and positions that a node which works has.
const POSITIVE: &[&str] = &[
    "kvnode_raft_term",
    "kvnode_raft_leader_changes_total",
    "kvnode_log_size_bytes",
    "kvnode_disk_free_bytes",
    "kvnode_store_memtable_bytes",
    "kvnode_snapshot_last_bytes",
    "kvnode_snapshot_last_success_timestamp_seconds",
];

fn config(data: &std::path::Path) -> Config {
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    Config {
        addr: any,
        peer_addr: any,
        http_addr: any,
        data: data.into(),
        log_dir: data.into(),
        ..Config::default()
    }
}

/// Body of an answer of the admin API with its status.
async fn get(addr: SocketAddr, path: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(addr).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: node\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
}

/// Sends inline commands on one connection and reads until the answer to the last one, an ECHO of `end`.
async fn send(stream: &mut TcpStream, lines: &[&str]) -> String {
    let text: String = lines.iter().chain(&["ECHO end"]).flat_map(|line| [*line, "\r\n"]).collect();
    stream.write_all(text.as_bytes()).await.unwrap();
    let mut answer = String::new();
    while !answer.ends_with("$3\r\nend\r\n") {
        let mut buffer = [0; 4096];
        let read = stream.read(&mut buffer).await.unwrap();
        assert!(read > 0, "closed after {answer:?}");
        answer.push_str(std::str::from_utf8(&buffer[..read]).unwrap());
    }
    answer
}

/// Every sample: series with its labels, without `group="0"`, to value.
fn samples(text: &str) -> BTreeMap<String, f64> {
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    let split = |line: &str| {
        let (series, value) = line.rsplit_once(' ').unwrap();
        let series =
            series.replace(r#"group="0","#, "").replace(r#",group="0""#, "").replace(r#"{group="0"}"#, "");
        (series, value.parse().unwrap())
    };
    lines.map(split).collect()
}

async fn with_node(work: impl AsyncFnOnce(&Node)) {
    let dir = tempfile::tempdir().unwrap();
    let stop = CancellationToken::new();
    let node = Node::start(config(dir.path()), stop.clone()).await.unwrap();
    timeout(DEADLINE, work(&node)).await.unwrap();
    stop.cancel();
    timeout(DEADLINE, node.wait()).await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn every_metric_has_a_value_and_the_counters_follow_the_work() {
    with_node(async |node| {
        let ready = node.ready().clone();
        let scrape = async || samples(&get(ready.http_addr, "/metrics").await.1);
        let mut client = TcpStream::connect(ready.addr).await.unwrap();
        let answer = send(&mut client, &["SET a 1", "SET b 2"]).await;
        assert!(answer.starts_with("+OK\r\n+OK\r\n"), "{answer}");
        let before = scrape().await;
        let answer =
            send(&mut client, &["SET c 33", "DEL b", "GET a", "GET b", "GET", "NOSUCH", "BGSAVE"]).await;
        assert!(answer.starts_with("+OK\r\n:1\r\n$1\r\n1\r\n$-1\r\n-ERR"), "{answer}");
        // BGSAVE goes on behind its reply.
        let mut ticks = interval(Duration::from_millis(20));
        let after = loop {
            let now = scrape().await;
            if now[r#"kvnode_snapshots_total{result="ok"}"#] > 0.0 {
                break now;
            }
            ticks.tick().await;
        };
        let (_, text) = get(ready.http_addr, "/metrics").await;
        // Those of TLS have series where there are certificates: see e2e/tls.rs.
        for spec in METRICS.iter().filter(|spec| !spec.name.starts_with("kvnode_tls_")) {
            assert!(
                text.contains(&format!("# TYPE {} {}\n", spec.name, spec.kind)),
                "{} has no series",
                spec.name
            );
        }
        let value = |series: &str| *after.get(series).unwrap_or_else(|| panic!("{series} in\n{text}"));
        let grew = |series: &str| value(series) - before.get(series).copied().unwrap_or(0.0);
        let own = format!("kvnode_raft_peer_lag_entries{{peer=\"{}\"}}", ready.node_id);
        assert!(value(&own) < 1.0, "{own} is {}", value(&own));
        for &(series, expected) in EXACT {
            assert!((value(series) - expected).abs() < f64::EPSILON, "{series} is {}", value(series));
        }
        for series in GREW {
            assert!(grew(series) > 0.0, "{series} did not grow:\n{text}");
        }
        for series in POSITIVE {
            assert!(value(series) > 0.0, "{series} is {}", value(series));
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_single_idle_node_stays_ready() {
    with_node(async |node| {
        let http = node.ready().http_addr;
        let mut ticks = interval(Duration::from_millis(50));
        while get(http, "/readyz").await.0 != 200 {
            ticks.tick().await;
        }
        // Longer than the grace that a leader without a quorum gets.
        loop {
            let (code, body) = get(http, "/readyz").await;
            assert_eq!(code, 200, "{body}");
            let status: serde_json::Value = serde_json::from_str(&get(http, "/v1/status").await.1).unwrap();
            assert_eq!(status["last_contact_ms"], 0, "{status}");
            if status["uptime_ms"].as_u64().unwrap() > 6_000 {
                break;
            }
            ticks.tick().await;
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn info_counts_the_bytes_and_the_clients() {
    with_node(async |node| {
        let mut client = TcpStream::connect(node.ready().addr).await.unwrap();
        send(&mut client, &["SET a 1"]).await;
        let info = send(&mut client, &["INFO"]).await;
        let field = |name: &str| {
            let line = info.lines().find_map(|line| line.strip_prefix(&format!("{name}:")));
            line.unwrap_or_else(|| panic!("no {name} in {info}")).parse::<u64>().unwrap()
        };
        assert_eq!((field("connected_clients"), field("total_connections_received")), (1, 1));
        assert_eq!((field("maxclients"), field("rejected_connections")), (10_000, 0));
        assert_eq!(
            field("total_net_input_bytes"),
            b"SET a 1\r\nECHO end\r\nINFO\r\nECHO end\r\n".len() as u64
        );
        assert_eq!(field("total_net_output_bytes"), b"+OK\r\n$3\r\nend\r\n".len() as u64);
    })
    .await;
}
