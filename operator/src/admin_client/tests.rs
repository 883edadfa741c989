//! The client against servers on loopback: ours in form, and such as break.

use std::sync::{Arc, Mutex};

use axum::extract::{Path, RawQuery};
use axum::response::sse::{Event, Sse};
use axum::routing::{delete, get, post};
use axum::{Json, Router};
use futures_util::stream;
use kvnode_api::Id;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::*;

/// A server that ends with the test.
struct Served {
    addr: String,
    _tasks: JoinSet<()>,
}

async fn serve(routes: Router) -> Served {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap().to_string();
    let mut tasks = JoinSet::new();
    tasks.spawn(async move { crate::health::serve(listener, routes, CancellationToken::new()).await });
    Served { addr, _tasks: tasks }
}

/// A server that answers every connection with these bytes and then keeps it open.
async fn raw(bytes: &'static [u8]) -> Served {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap().to_string();
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        let mut open = Vec::new();
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut head = [0; 4096];
            let _ = stream.read(&mut head).await.unwrap();
            stream.write_all(bytes).await.unwrap();
            open.push(stream);
        }
    });
    Served { addr, _tasks: tasks }
}

fn quick() -> AdminClient {
    let short = Duration::from_millis(300);
    AdminClient::new(Arc::new(Tcp), Deadlines { status: short, change: short, transfer: short })
}

fn status() -> Value {
    json!({
        "contract": 1, "version": "0.1.0", "node_id": "00000000000000aa", "phase": "unformed", "role": "unformed",
        "term": 0, "log": { "apply_lag_entries": 0 }, "membership": { "change_in_progress": false, "members": [] },
        "disk": "ok", "addresses": { "client": "a:4920", "peer": "a:14920", "http": "a:24920" }, "uptime_ms": 5,
        "a field of a later version": true,
    })
}

#[tokio::test]
async fn a_status_is_read_and_unknown_fields_are_ignored() {
    let served = serve(Router::new().route("/v1/status", get(async || Json(status())))).await;
    let status = AdminClient::tcp().status(&served.addr).await.unwrap();
    assert_eq!(status.node_id, Some(Id(0xaa)));
}

#[tokio::test]
async fn verbs_send_what_the_contract_says() {
    let log: Arc<Mutex<Vec<String>>> = Arc::default();
    let heard = |log: &Arc<Mutex<Vec<String>>>, what: String| log.lock().unwrap().push(what);
    let changed = || Json(json!({ "changed": true, "membership_log_id": "3-aa-9" }));
    let (l1, l2, l3, l4) = (log.clone(), log.clone(), log.clone(), log.clone());
    let routes = Router::new()
        .route(
            "/v1/members",
            post(async move |Json(body): Json<Value>| {
                heard(&l1, format!("add {body}"));
                changed()
            }),
        )
        .route(
            "/v1/members/{target}",
            delete(async move |Path(target): Path<String>, RawQuery(query): RawQuery| {
                heard(&l2, format!("remove {target} {query:?}"));
                changed()
            }),
        )
        .route(
            "/v1/members/{target}/promote",
            post(async move |Path(target): Path<String>, RawQuery(query): RawQuery| {
                heard(&l3, format!("promote {target} {query:?}"));
                changed()
            }),
        )
        .route(
            "/v1/initialize",
            post(async move |Json(body): Json<Value>| {
                heard(&l4, format!("initialize {body}"));
                Json(json!({ "changed": false, "cluster_id": "00000000000000c1" }))
            }),
        )
        .route("/v1/transfer", post(async |Json(_): Json<Transfer>| Json(json!({ "changed": true }))));
    let served = serve(routes).await;
    let to = served.addr.as_str();
    let client = AdminClient::tcp();
    let add = AddMember { addr: "p-1.s:4920".into(), if_membership: Some("3-aa-8".into()), promote: false };
    assert_eq!(client.add_member(to, &add).await.unwrap().membership_log_id.as_deref(), Some("3-aa-9"));
    client.remove_member(to, "p/1:4920", Some("3-aa&8")).await.unwrap();
    client.promote(to, "00000000000000aa", None).await.unwrap();
    let found = Initialize { cluster_id: Some(Id(0xc1)), members: vec!["p-0.s:4920".into()] };
    assert!(!client.initialize(to, &found).await.unwrap().changed);
    assert!(client.transfer(to, Some("00000000000000aa")).await.unwrap().changed);
    let expected = [
        r#"add {"addr":"p-1.s:4920","if_membership":"3-aa-8","promote":false}"#,
        r#"remove p/1:4920 Some("if_membership=3-aa%268")"#,
        "promote 00000000000000aa None",
        r#"initialize {"cluster_id":"00000000000000c1","members":["p-0.s:4920"]}"#,
    ];
    assert_eq!(*log.lock().unwrap(), expected);
}

#[tokio::test]
async fn refusals_carry_the_nodes_words() {
    let stale = async || {
        let body = json!({ "error": "the membership changed", "remedy": "read /v1/members again" });
        (axum::http::StatusCode::PRECONDITION_FAILED, Json(body))
    };
    let served = serve(Router::new().route("/v1/members/{target}", delete(stale))).await;
    let error = AdminClient::tcp().remove_member(&served.addr, "aa", Some("1-1-1")).await.unwrap_err();
    assert!(error.is_stale() && !error.is_unknown(), "{error}");
    assert!(error.to_string().ends_with("412: the membership changed"), "{error}");
    let error = AdminClient::tcp().status(&served.addr).await.unwrap_err();
    assert!(error.to_string().contains("is that a kvnode admin port?"), "{error}");
}

#[tokio::test]
async fn every_call_ends_and_says_whether_something_may_have_happened() {
    // Nobody listens.
    let free = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().to_string();
    let error = quick().transfer(&free, None).await.unwrap_err();
    assert!(matches!(error, NodeError::Connect { .. }) && !error.is_unknown(), "{error}");
    // Silence, half an answer, an answer that promises more than it has, and no HTTP at all.
    for bytes in [
        b"".as_slice(),
        b"HTTP/1.1 200 OK\r\ncontent-le",
        b"HTTP/1.1 200 OK\r\ncontent-length: 90\r\n\r\n{}",
        b"-ERR unknown command\r\n",
    ] {
        let served = raw(bytes).await;
        let error = quick().transfer(&served.addr, None).await.unwrap_err();
        assert!(matches!(error, NodeError::Broken { .. }) && error.is_unknown(), "{bytes:?}: {error}");
    }
    let served = raw(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n[]").await;
    let error = quick().status(&served.addr).await.unwrap_err();
    assert!(matches!(error, NodeError::Garbled { .. }), "{error}");
}

#[tokio::test]
async fn a_long_answer_is_not_read_to_its_end() {
    let long = async || "x".repeat(BODY_BYTES_MAX + 1);
    let served = serve(Router::new().route("/v1/status", get(long))).await;
    let error = AdminClient::tcp().status(&served.addr).await.unwrap_err();
    assert!(error.to_string().contains("larger than"), "{error}");
}

#[tokio::test]
async fn a_watch_tells_events_until_the_stream_ends() {
    let events = async || {
        let data = |term: u64| json!({ "node_id": "aa", "role": "follower", "term": term }).to_string();
        let all = [
            Event::default().event("leader").data(data(1)),
            Event::default().event("of a later version").data("?"),
            Event::default().comment("keep-alive"),
            Event::default().event("leader").data(data(2)),
        ];
        Sse::new(stream::iter(all.map(Ok::<_, std::convert::Infallible>)))
    };
    let served = serve(Router::new().route("/v1/watch", get(events))).await;
    let mut terms = Vec::new();
    let end = AdminClient::tcp().follow(&served.addr, |event| terms.push(event.term)).await;
    assert_eq!(terms, [1, 2]);
    assert!(end.to_string().contains("the node ended the stream"), "{end}");
    let served = serve(Router::new()).await;
    let end = AdminClient::tcp().follow(&served.addr, |_| ()).await;
    assert!(matches!(end, NodeError::Refused { status: 404, .. }), "{end}");
}
