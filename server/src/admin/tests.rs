//! The routes through real sockets, with a node and snapshots that are made of memory and a temporary directory.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use kvnode_api::members::{
    AddMember, Done, Initialize, Initialized, MembershipChanged, PromoteMember, RemoveMember, SetVoters,
    Transfer,
};
use kvnode_api::status::{Addresses, DiskState, LeaderInfo, NodeStatus, Phase, Role};
use kvnode_api::watch::LeaderEvent;
use kvnode_api::{Id, LogFilter};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::serve::ServeLimits;
use super::*;

/// Longest wait for anything; only a failing test takes it.
const PATIENCE: Duration = Duration::from_secs(20);

const ID: &str = "1-1437-1795332236779";

/// A healthy follower.
pub(super) fn status() -> NodeStatus {
    let facts = super::status::NodeFacts {
        stopping: false,
        disk: DiskState::Ok,
        addresses: Addresses::default(),
        uptime_ms: 1,
        logins: None,
    };
    NodeStatus {
        node_id: Some(Id(2)),
        cluster_id: Some(Id(7)),
        phase: Phase::Running,
        role: Role::Follower,
        term: 3,
        leader: Some(LeaderInfo { id: Id(1), addr: "a:1".into() }),
        last_contact_ms: Some(20),
        ..super::status::starting(facts)
    }
}

fn event(term: u64) -> LeaderEvent {
    LeaderEvent { cluster_id: Some(Id(7)), node_id: Id(2), role: Role::Follower, term, leader: None }
}

/// A node that writes down what it is asked, and answers with `verdict` if that is set.
struct Fake {
    status: Mutex<NodeStatus>,
    events: watch::Sender<LeaderEvent>,
    calls: Mutex<Vec<String>>,
    verdict: Mutex<Option<ControlError>>,
    state: PathBuf,
    size_bytes: Mutex<u64>,
}

impl Fake {
    fn answer<T: Send + 'static>(
        &self,
        call: String,
        value: T,
    ) -> BoxFuture<'static, Result<T, ControlError>> {
        self.calls.lock().push(call);
        let answer = self.verdict.lock().clone().map_or(Ok(value), Err);
        Box::pin(std::future::ready(answer))
    }

    fn changed() -> MembershipChanged {
        MembershipChanged { changed: true, membership_log_id: Some("3-1-9".into()) }
    }
}

impl NodeControl for Fake {
    fn status(&self) -> NodeStatus {
        self.status.lock().clone()
    }
    fn watch(&self) -> watch::Receiver<LeaderEvent> {
        self.events.subscribe()
    }
    fn initialize(&self, request: Initialize) -> Answer<Initialized> {
        self.answer(format!("{request:?}"), Initialized { changed: true, cluster_id: Id(7) })
    }
    fn add_member(&self, request: AddMember) -> Answer<MembershipChanged> {
        self.answer(format!("{request:?}"), Self::changed())
    }
    fn remove_member(&self, request: RemoveMember) -> Answer<MembershipChanged> {
        self.answer(format!("{request:?}"), Self::changed())
    }
    fn promote(&self, request: PromoteMember) -> Answer<MembershipChanged> {
        self.answer(format!("{request:?}"), Self::changed())
    }
    fn set_voters(&self, request: SetVoters) -> Answer<MembershipChanged> {
        self.answer(format!("{request:?}"), Self::changed())
    }
    fn transfer(&self, request: Transfer) -> Answer<Done> {
        self.answer(format!("{request:?}"), Done { changed: true })
    }
    fn shrink_log(&self) -> Answer<Done> {
        self.answer("shrink".into(), Done { changed: true })
    }
}

impl SnapshotControl for Fake {
    fn create(&self) -> Answer<(String, Value)> {
        self.answer("create".into(), (ID.into(), json!({"ID": ID})))
    }
    fn list(&self) -> Answer<Vec<Value>> {
        self.answer("list".into(), vec![json!({"ID": ID})])
    }
    fn open(&self, id: String) -> Answer<SnapshotFile> {
        let found = SnapshotFile {
            state: self.state.clone(),
            meta: format!("{{\"ID\":\"{ID}\"}}\n"),
            size_bytes: *self.size_bytes.lock(),
            sha256: Some("ab12".into()),
            crc64: Some("cd34".into()),
        };
        let missing = ControlError::NotFound(format!("no snapshot {id}"));
        Box::pin(std::future::ready(if id == ID { Ok(found) } else { Err(missing) }))
    }
    fn remove(&self, id: String) -> Answer<Done> {
        self.answer(format!("remove {id}"), Done { changed: id == ID })
    }
}

/// A served fake; everything ends with it.
struct Server {
    addr: SocketAddr,
    fake: Arc<Fake>,
    shutdown: CancellationToken,
    tasks: JoinSet<()>,
    _dir: tempfile::TempDir,
}

/// Content of `state.bin`: no two of its chunks are equal.
fn content(size: usize) -> Vec<u8> {
    (0..size).map(|i| u8::try_from((i ^ (i >> 8) ^ (i >> 16)) & 0xff).unwrap()).collect()
}

async fn start_with(limits: ServeLimits, state_bytes: usize) -> Server {
    let dir = tempfile::tempdir().unwrap();
    let state = dir.path().join("state.bin");
    std::fs::write(&state, content(state_bytes)).unwrap();
    let fake = Arc::new(Fake {
        status: Mutex::new(status()),
        events: watch::Sender::new(event(3)),
        calls: Mutex::default(),
        verdict: Mutex::default(),
        state,
        size_bytes: Mutex::new(state_bytes as u64),
    });
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let shutdown = CancellationToken::new();
    let metrics = Arc::new(Metrics::new());
    let mut admin = Admin::new(fake.clone(), fake.clone(), metrics, limits.connections_max, shutdown.clone());
    admin.filter = Some(crate::telemetry::Filter::leaked("info"));
    let mut tasks = JoinSet::new();
    tasks.spawn(serve(listener, admin, limits, None));
    Server { addr, fake, shutdown, tasks, _dir: dir }
}

async fn start() -> Server {
    start_with(ServeLimits::new(128), 10).await
}

/// An answer, read to the end of the connection.
#[derive(Debug)]
struct Got {
    status: u16,
    head: String,
    body: Vec<u8>,
}

impl Got {
    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("{e}: {self:?}"))
    }

    fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
    }
}

impl Server {
    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.addr).await.unwrap()
    }

    /// One request on a connection of its own. `head` holds further header lines, each ended by CRLF.
    async fn send(&self, method: &str, path: &str, head: &str, body: &[u8]) -> Got {
        let mut stream = self.connect().await;
        let length =
            if body.is_empty() { String::new() } else { format!("Content-Length: {}\r\n", body.len()) };
        let text = format!("{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{length}{head}\r\n");
        stream.write_all(text.as_bytes()).await.unwrap();
        // The server may have answered and closed before it took a body that is too large.
        let _ = stream.write_all(body).await;
        let mut bytes = Vec::new();
        timeout(PATIENCE, stream.read_to_end(&mut bytes)).await.expect("an answer").unwrap();
        parse(&bytes)
    }

    async fn get(&self, path: &str) -> Got {
        self.send("GET", path, "", b"").await
    }

    async fn json(&self, method: &str, path: &str, body: &Value) -> Got {
        let head = "Content-Type: application/json\r\n";
        self.send(method, path, head, body.to_string().as_bytes()).await
    }

    fn last_call(&self) -> String {
        self.fake.calls.lock().pop().expect("a call")
    }
}

fn parse(bytes: &[u8]) -> Got {
    let end = bytes.windows(4).position(|w| w == b"\r\n\r\n").unwrap_or_else(|| panic!("no head: {bytes:?}"));
    let head = String::from_utf8(bytes[..end].to_vec()).unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    Got { status, head, body: bytes[end + 4..].to_vec() }
}

#[tokio::test]
async fn health_follows_the_status() {
    let server = start().await;
    for path in ["/livez", "/readyz", "/startupz"] {
        let got = server.get(path).await;
        assert_eq!((got.status, got.json()), (200, json!({"ok": true, "reasons": []})), "{path}");
    }
    server.fake.status.lock().phase = Phase::Unformed;
    assert_eq!(server.get("/startupz").await.status, 200);
    let got = server.get("/readyz").await;
    assert_eq!((got.status, got.json()["ok"].clone()), (503, json!(false)));
    server.fake.status.lock().phase = Phase::Starting;
    assert_eq!(server.get("/startupz").await.status, 503);
    assert_eq!(server.get("/livez").await.status, 200);
}

#[tokio::test]
async fn status_and_members_are_the_contract() {
    let server = start().await;
    let got = server.get("/v1/status").await;
    assert_eq!(serde_json::from_slice::<NodeStatus>(&got.body).unwrap(), status());
    assert_eq!(got.header("content-type"), Some("application/json"));
    let got = server.get("/v1/members").await;
    assert_eq!(got.json(), json!({"change_in_progress": false, "members": []}));
}

#[tokio::test]
async fn membership_verbs_reach_the_node_with_their_condition() {
    let server = start().await;
    let got = server.json("POST", "/v1/members", &json!({"addr": "b:2", "if_membership": "3-1-8"})).await;
    assert_eq!((got.status, got.json()), (200, json!({"changed": true, "membership_log_id": "3-1-9"})));
    let want = AddMember { addr: "b:2".into(), if_membership: Some("3-1-8".into()), promote: true };
    assert_eq!(server.last_call(), format!("{want:?}"));

    assert_eq!(server.send("DELETE", "/v1/members/b:2?if_membership=3-1-8", "", b"").await.status, 200);
    let want = RemoveMember { target: "b:2".into(), if_membership: Some("3-1-8".into()) };
    assert_eq!(server.last_call(), format!("{want:?}"));

    let body = json!({"voters": ["1f", "2a"], "if_membership": "3-1-8"});
    assert_eq!(server.json("PUT", "/v1/voters", &body).await.status, 200);
    let want = SetVoters { voters: vec![Id(0x1f), Id(0x2a)], if_membership: Some("3-1-8".into()) };
    assert_eq!(server.last_call(), format!("{want:?}"));

    assert_eq!(server.send("POST", "/v1/members/1f/promote", "", b"").await.status, 200);
    assert_eq!(
        server.last_call(),
        format!("{:?}", PromoteMember { target: "1f".into(), if_membership: None })
    );

    assert_eq!(server.send("POST", "/v1/transfer", "", b"").await.json(), json!({"changed": true}));
    assert_eq!(server.last_call(), format!("{:?}", Transfer { to: None }));
    assert_eq!(server.json("POST", "/v1/transfer", &json!({"to": "1f"})).await.status, 200);
    assert_eq!(server.last_call(), format!("{:?}", Transfer { to: Some("1f".into()) }));

    let body = json!({"cluster_id": "7", "members": ["a:1", "b:2"]});
    assert_eq!(server.json("POST", "/v1/initialize", &body).await.json()["cluster_id"], "0000000000000007");
    let want = Initialize { cluster_id: Some(Id(7)), members: vec!["a:1".into(), "b:2".into()] };
    assert_eq!(server.last_call(), format!("{want:?}"));

    assert_eq!(server.send("POST", "/v1/log/shrink", "", b"").await.status, 200);
    assert_eq!(server.last_call(), "shrink");
}

#[tokio::test]
async fn garbage_never_reaches_the_node() {
    let server = start().await;
    for (path, body) in [
        ("/v1/members", json!({"addr": "nonsense"})),
        ("/v1/members", json!({"addr": "a:0"})),
        ("/v1/members", json!({"addr": "a:1", "voter": true})),
        ("/v1/members", json!({})),
        ("/v1/transfer", json!({"to": "no such"})),
        ("/v1/initialize", json!({"members": ["a:1", ":2"]})),
        ("/v1/initialize", json!({"cluster_id": 7})),
    ] {
        let got = server.json("POST", path, &body).await;
        assert_eq!(got.status, 400, "{path} {body}");
        assert!(got.json()["error"].as_str().is_some_and(|e| !e.is_empty()), "{got:?}");
        assert!(got.json()["remedy"].is_string());
    }
    assert_eq!(server.send("DELETE", "/v1/members/no%20such", "", b"").await.status, 400);
    assert_eq!(server.send("DELETE", "/v1/members/1f?if_member=1", "", b"").await.status, 400);
    assert_eq!(server.send("POST", "/v1/members", "Content-Type: text/plain\r\n", b"{}").await.status, 415);
    assert_eq!(server.send("POST", "/v1/log/shrink", "Origin: http://evil\r\n", b"").await.status, 403);
    assert!(server.fake.calls.lock().is_empty());
}

#[tokio::test]
async fn each_error_has_its_status() {
    let server = start().await;
    let table = [
        (ControlError::Conflict("formed".into()), 409),
        (ControlError::NotFound("no".into()), 404),
        (ControlError::Stale { expected: "1-1-1".into(), found: "1-1-2".into() }, 412),
        (ControlError::NotLeader { addr: "a:1".into() }, 421),
        (ControlError::NoLeader, 503),
        (ControlError::Unknown("?".into()), 504),
        (ControlError::Failed("disk".into()), 500),
    ];
    for (error, status) in table {
        *server.fake.verdict.lock() = Some(error.clone());
        let got = server.json("POST", "/v1/members", &json!({"addr": "b:2"})).await;
        assert_eq!(got.status, status, "{error:?}");
        assert_eq!(got.json()["error"], error.to_string());
        assert_eq!(got.json().get("leader").is_some(), status == 421);
        assert_eq!(got.header("retry-after").is_some(), status == 503);
    }
}

#[tokio::test]
async fn unknown_routes_and_methods_have_the_error_body() {
    let server = start().await;
    let got = server.get("/v2").await;
    assert_eq!((got.status, got.json()["error"].clone()), (404, json!("no such route")));
    let got = server.send("PUT", "/v1/status", "", b"").await;
    assert_eq!((got.status, got.json()["error"].clone()), (405, json!("the route has no such method")));
    assert!(got.header("allow").is_some_and(|allow| allow.contains("GET")), "{got:?}");
}

#[tokio::test]
async fn bodies_are_limited_by_what_arrives_not_by_what_is_announced() {
    let server = start().await;
    let head = "Content-Type: application/json\r\n";
    let large = vec![b' '; 70 * 1024];
    assert_eq!(server.send("POST", "/v1/members", head, &large).await.status, 413);
    let chunked = format!("{head}Transfer-Encoding: chunked\r\n");
    let mut stream = server.connect().await;
    let text = format!("POST /v1/members HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{chunked}\r\n11800\r\n");
    stream.write_all(text.as_bytes()).await.unwrap();
    stream.write_all(&large).await.unwrap();
    stream.write_all(b"\r\n0\r\n\r\n").await.unwrap();
    let mut bytes = Vec::new();
    timeout(PATIENCE, stream.read_to_end(&mut bytes)).await.unwrap().unwrap();
    assert_eq!(parse(&bytes).status, 413);
    let within = format!("{{\"addr\":\"b:2\"{}}}", " ".repeat(60 * 1024));
    assert_eq!(server.send("POST", "/v1/members", head, within.as_bytes()).await.status, 200);
}

#[tokio::test]
async fn snapshots_are_taken_listed_and_removed() {
    let server = start().await;
    let got = server.send("POST", "/v1/snapshots", "", b"").await;
    assert_eq!((got.status, got.json()), (201, json!({"ID": ID})));
    assert_eq!(got.header("location"), Some(format!("/v1/snapshots/{ID}/state.bin").as_str()));
    assert_eq!(server.get("/v1/snapshots").await.json(), json!([{"ID": ID}]));
    assert_eq!(server.get(&format!("/v1/snapshots/{ID}/meta.json")).await.json(), json!({"ID": ID}));
    let got = server.send("DELETE", &format!("/v1/snapshots/{ID}"), "", b"").await;
    assert_eq!((got.status, got.json()), (200, json!({"changed": true})));
    assert_eq!(server.send("DELETE", "/v1/snapshots/9-9-9", "", b"").await.json(), json!({"changed": false}));
    for path in [
        "/v1/snapshots/9-9-9/state.bin",
        "/v1/snapshots/..%2f..%2fetc/state.bin",
        "/v1/snapshots/../meta.json",
    ] {
        assert_eq!(server.get(path).await.status, 404, "{path}");
    }
}

#[tokio::test]
async fn a_large_file_arrives_whole_with_its_checksums() {
    let size = 3 * 1024 * 1024 + 17;
    let server = start_with(ServeLimits::new(128), size).await;
    let got = server.get(&format!("/v1/snapshots/{ID}/state.bin")).await;
    assert_eq!((got.status, got.header("content-length")), (200, Some(size.to_string().as_str())));
    assert!(got.body == content(size), "the content differs");
    assert_eq!(got.header("x-kvnode-sha256"), Some("ab12"));
    assert_eq!(got.header("x-kvnode-crc64"), Some("cd34"));
    assert_eq!(got.header("etag"), Some("\"ab12\""));
    assert_eq!(got.header("accept-ranges"), Some("bytes"));
}

#[tokio::test]
async fn a_broken_download_resumes_by_range() {
    let size = 700_000;
    let server = start_with(ServeLimits::new(128), size).await;
    let path = format!("/v1/snapshots/{ID}/state.bin");
    let part = |head: &'static str| server.send("GET", &path, head, b"");
    let got = part("Range: bytes=300000-\r\nIf-Range: \"ab12\"\r\n").await;
    assert_eq!((got.status, got.header("content-range")), (206, Some("bytes 300000-699999/700000")));
    assert!(got.body == content(size)[300_000..]);
    let got = part("Range: bytes=1-3\r\n").await;
    assert_eq!((got.status, &got.body), (206, &content(size)[1..4].to_vec()));
    assert_eq!(part("Range: bytes=0-1\r\nIf-Range: \"other\"\r\n").await.status, 200);
    let got = part("Range: bytes=700000-\r\n").await;
    assert_eq!((got.status, got.header("content-range")), (416, Some("bytes */700000")));
    *server.fake.size_bytes.lock() = 1;
    assert_eq!(server.get(&path).await.status, 500, "a file of another size than its meta.json is not sent");
}

/// Reads one event of a watch; comments are skipped.
async fn next_event(lines: &mut BufReader<TcpStream>) -> Option<Value> {
    let mut line = String::new();
    loop {
        line.clear();
        if timeout(PATIENCE, lines.read_line(&mut line)).await.expect("an event or the end").unwrap() == 0 {
            return None;
        }
        if let Some(data) = line.strip_prefix("data: ") {
            return Some(serde_json::from_str(data.trim()).unwrap());
        }
    }
}

async fn open_watch(server: &Server) -> BufReader<TcpStream> {
    let mut stream = server.connect().await;
    stream.write_all(b"GET /v1/watch HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    BufReader::new(stream)
}

#[tokio::test]
async fn a_watch_tells_the_state_now_each_change_and_ends_with_the_node() {
    let mut server = start().await;
    let mut lines = open_watch(&server).await;
    assert_eq!(next_event(&mut lines).await.unwrap()["term"], 3);
    let leader = LeaderInfo { id: Id(5), addr: "e:5".into() };
    server.fake.events.send_replace(LeaderEvent { leader: Some(leader), ..event(4) });
    let second = next_event(&mut lines).await.unwrap();
    assert_eq!(serde_json::from_value::<LeaderEvent>(second).unwrap(), *server.fake.events.borrow());
    // A slow reader finds the newest state.
    for term in 5..=100 {
        server.fake.events.send_replace(event(term));
    }
    while next_event(&mut lines).await.expect("the newest state")["term"] != 100 {}
    server.shutdown.cancel();
    assert_eq!(next_event(&mut lines).await, None);
    timeout(PATIENCE, server.tasks.join_next()).await.expect("the server ends").unwrap().unwrap();
}

#[tokio::test]
async fn watches_are_bounded_apart_from_probes() {
    let server = start_with(ServeLimits::new(8), 10).await;
    let mut first = open_watch(&server).await;
    let mut second = open_watch(&server).await;
    assert!(next_event(&mut first).await.is_some() && next_event(&mut second).await.is_some());
    assert_eq!(server.get("/v1/watch").await.status, 503);
    assert_eq!(server.get("/livez").await.status, 200);
}

#[tokio::test]
async fn a_head_that_does_not_come_ends_the_connection() {
    let limits = ServeLimits { head_timeout: Duration::from_millis(50), ..ServeLimits::new(128) };
    let server = start_with(limits, 10).await;
    let mut stream = server.connect().await;
    stream.write_all(b"GET /livez HTTP/1.1\r\nHost:").await.unwrap();
    let mut rest = Vec::new();
    timeout(PATIENCE, stream.read_to_end(&mut rest)).await.expect("the connection ends").unwrap();
    assert!(!rest.starts_with(b"HTTP/1.1 200"), "{rest:?}");
}

#[tokio::test]
async fn a_reader_that_stops_is_cut_off_and_frees_its_place() {
    let limits = ServeLimits { write_timeout: Duration::from_millis(50), ..ServeLimits::new(8) };
    let server = start_with(limits, 64 * 1024 * 1024).await;
    let path = format!("/v1/snapshots/{ID}/state.bin");
    let mut lazy = server.connect().await;
    lazy.write_all(format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n").as_bytes()).await.unwrap();
    lazy.read_u8().await.unwrap();
    // One place for downloads: it comes back although the lazy reader keeps its connection.
    let freed = async { while server.send("GET", &path, "Range: bytes=0-0\r\n", b"").await.status != 206 {} };
    timeout(PATIENCE, freed).await.expect("the place is freed");
    drop(lazy);
}

#[tokio::test]
async fn connections_beyond_the_limit_wait() {
    let server = start_with(ServeLimits::new(1), 10).await;
    let mut first = server.connect().await;
    first.write_all(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    assert_eq!(first.read_u8().await.unwrap(), b'H');
    let mut second = server.connect().await;
    second.write_all(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    assert!(timeout(Duration::from_millis(50), second.read_u8()).await.is_err(), "the limit does not hold");
    drop(first);
    assert_eq!(timeout(PATIENCE, second.read_u8()).await.expect("a place").unwrap(), b'H');
}

#[tokio::test]
async fn metrics_count_the_answers() {
    let server = start().await;
    server.get("/nowhere").await;
    let got = server.get("/metrics").await;
    assert_eq!(got.header("content-type"), Some("text/plain; version=0.0.4; charset=utf-8"));
    let text = String::from_utf8(got.body).unwrap();
    assert!(text.contains("kvnode_http_requests_total{code=\"404\"} 1\n"), "{text}");
}

#[tokio::test]
async fn the_log_filter_is_read_and_replaced() {
    let server = start().await;
    assert_eq!(server.get("/v1/log-filter").await.json(), json!({"filter": "info"}));
    let wanted = LogFilter { filter: "warn,kvnode_server::raft=debug".into() };
    let got = server.json("PUT", "/v1/log-filter", &serde_json::to_value(&wanted).unwrap()).await;
    assert_eq!((got.status, serde_json::from_slice::<LogFilter>(&got.body).unwrap()), (200, wanted.clone()));
    assert_eq!(server.json("PUT", "/v1/log-filter", &json!({"filter": "a=loud"})).await.status, 400);
    assert_eq!(server.get("/v1/log-filter").await.json()["filter"], wanted.filter);
}
