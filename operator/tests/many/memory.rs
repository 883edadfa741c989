//! The memory of the real program with many clusters, as they are by default: with passwords and Managed certificates.
//!
//! ```text
//! kvnode-operator run (a process) --HTTP-----> fake API server   (this process)
//!                                 --HTTPS----> fake nodes, 3 a cluster, each on a loopback address of its own,
//!                                              with the certificate that the operator has put into the cluster's Secret
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;

use super::doors::{Doors, acceptor};
use super::until;
use crate::bed::CLUSTERS;
use crate::kubelet::{self, PODS};
use crate::nodes::Nodes;
use crate::objects::{Key, Objects};
use crate::server::Server;

const COUNT: usize = 200;
const NAMESPACES: usize = 20;
/// What is promised for so many clusters, with a pass over each behind it.
const MEMORY_MIB_MAX: u64 = 150;

/// The rest of Kubernetes, and a listener for each node that has come up.
async fn kubernetes(server: &Server, nodes: &Nodes) {
    let mut serving = BTreeSet::new();
    let mut tasks = JoinSet::new();
    let mut pace = tokio::time::interval(Duration::from_millis(300));
    // A turn that comes late is not made up for: those would follow each other, and nobody else gets at the objects.
    pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        pace.tick().await;
        kubelet::turn(&mut server.objects.lock(), nodes);
        let new: Vec<String> = nodes.hosts().into_iter().filter(|host| !serving.contains(host)).collect();
        let secrets = if new.is_empty() { BTreeMap::new() } else { secrets(&server.objects.lock()) };
        for host in new {
            let (app, acceptor) = (nodes.app(&host), acceptor(&secrets[&host]));
            let listener = TcpListener::bind(format!("{host}:24920")).await.expect("an address of its own");
            tasks.spawn(async move { axum::serve(Doors { listener, acceptor }, app).await });
            serving.insert(host);
        }
        if let Some(ended) = tasks.try_join_next() {
            panic!("a node is not served any more: {ended:?}");
        }
    }
}

/// The Secret that each pod mounts, by the pod's address.
fn secrets(objects: &Objects) -> BTreeMap<String, Value> {
    let pods = objects.each(PODS).filter_map(|(key, pod)| {
        let (cluster, _) = key.name.rsplit_once('-')?;
        let secret = Key::new("/secrets", &key.namespace, &format!("{cluster}-tls"));
        Some((pod["status"]["podIP"].as_str()?.to_owned(), objects.get(&secret).ok()?))
    });
    pods.collect()
}

fn ready(server: &Server) -> usize {
    let objects = server.objects.lock();
    let statuses = objects.each(CLUSTERS).map(|(_, cluster)| &cluster["status"]);
    statuses.filter(|status| status["phase"] == "Ready" && status["ready"] == "3/3").count()
}

/// Resident memory of the process in MiB: highest so far.
fn highest_mib(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("a line of its status");
    line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") / 1024
}

fn kubeconfig(into: &Path, api: std::net::SocketAddr) {
    let config = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "bed",
        "clusters": [{ "name": "bed", "cluster": { "server": format!("http://{api}") } }],
        "users": [{ "name": "bed", "user": {} }],
        "contexts": [{ "name": "bed", "context": { "cluster": "bed", "user": "bed", "namespace": "kvnode" } }],
    });
    std::fs::write(into, config.to_string()).expect("written");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hundred_clusters_fit_into_150_mib() {
    let (server, nodes) = (Server::default(), Nodes::default());
    {
        let mut objects = server.objects.lock();
        kubelet::machines(&mut objects);
        for number in 0..COUNT {
            let cluster = json!({ "apiVersion": "kvnode.dev/v1alpha1", "kind": "KvCluster", "spec": {} });
            let namespace = format!("shop-{}", number % NAMESPACES);
            let key = Key::new(CLUSTERS, &namespace, &format!("cart-{number}"));
            objects.create(&key, cluster).expect("a new cluster");
        }
    }
    let dir = tempfile::tempdir().expect("a directory");
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    kubeconfig(&dir.path().join("config"), listener.local_addr().expect("bound"));
    let log = std::fs::File::create(dir.path().join("log")).expect("a file");
    let mut operator = tokio::process::Command::new(env!("CARGO_BIN_EXE_kvnode-operator"))
        .args(["run", "--http-addr", "127.0.0.1:0"])
        .env("KUBECONFIG", dir.path().join("config"))
        .stdin(Stdio::null())
        .stdout(log.try_clone().expect("again"))
        .stderr(log)
        .kill_on_drop(true)
        .spawn()
        .expect("starts");
    let pid = operator.id().expect("it runs");
    let test = async {
        until("all are Ready", || ready(&server) == COUNT).await;
        // Each is looked at once more, as often as those that rest are.
        let last = format!(
            "/apis/kvnode.dev/v1alpha1/namespaces/shop-{}/kvclusters/cart-{}",
            (COUNT - 1) % NAMESPACES,
            COUNT - 1
        );
        let before = server.wire.calls_to(&last);
        until("the last one is looked at again", || server.wire.calls_to(&last) > before).await;
        highest_mib(pid)
    };
    let highest = tokio::select! {
        highest = test => highest,
        () = server.listen(listener) => panic!("the API server ended"),
        () = kubernetes(&server, &nodes) => unreachable!("it never ends"),
        ended = operator.wait() => {
            let log = std::fs::read_to_string(dir.path().join("log")).unwrap_or_default();
            panic!("the operator ended: {ended:?}\n{log}");
        }
    };
    println!("{COUNT} clusters: at most {highest} MiB resident");
    assert!(highest <= MEMORY_MIB_MAX, "{highest} MiB for {COUNT} clusters, promised {MEMORY_MIB_MAX}");
}
