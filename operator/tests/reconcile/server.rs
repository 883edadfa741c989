//! The fake API server behind a `kube::Client`: routes to [`Objects`], counts calls, and fails them as a test asks.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::unfold;
use http::{Method, Request, Response};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::Frame;
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::objects::{Answer, Key, Objects, Refusal};

type Reply = Response<UnsyncBoxBody<Bytes, std::convert::Infallible>>;

/// How a call fails.
#[derive(Clone, Debug)]
pub(crate) enum Fault {
    /// The answer is this error, and nothing happened.
    Answer(Refusal),
    /// The connection breaks before the call.
    LostBefore,
    /// The call is carried out, and its answer is lost.
    LostAfter,
}

/// A call, as a test's rule sees it.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    /// Position since the count was set back, from 0.
    pub(crate) position: usize,
    pub(crate) method: Method,
    pub(crate) path: String,
}

impl Call {
    pub(crate) fn is_write(&self) -> bool {
        self.method != Method::GET
    }
}

type Rule = Box<dyn Fn(&Call) -> Option<Fault> + Send>;

/// The calls of one process, to the API server and to nodes, and what becomes of them.
#[derive(Default)]
pub(crate) struct Wire {
    calls: Mutex<Vec<Call>>,
    rule: Mutex<Option<Rule>>,
    count: watch::Sender<usize>,
}

impl Wire {
    /// Counts from 0 again, under this rule.
    pub(crate) fn start(&self, rule: Option<Rule>) {
        self.calls.lock().clear();
        *self.rule.lock() = rule;
    }

    pub(crate) fn calls(&self) -> Vec<Call> {
        self.calls.lock().clone()
    }

    /// How many of them went to this path.
    #[allow(dead_code, reason = "the suite `many` needs it")]
    pub(crate) fn calls_to(&self, path: &str) -> usize {
        self.calls.lock().iter().filter(|call| call.path == path).count()
    }

    /// Waits for so many calls.
    pub(crate) async fn until(&self, calls: usize) {
        let mut count = self.count.subscribe();
        let waiting = count.wait_for(|count| *count >= calls);
        let came = tokio::time::timeout(Duration::from_secs(20), waiting).await;
        assert!(came.is_ok(), "never {calls} calls: {:?}", self.calls());
    }

    /// Notes a call and decides about it.
    pub(crate) fn pass(&self, method: &Method, path: &str) -> Option<Fault> {
        let mut calls = self.calls.lock();
        let call = Call { position: calls.len(), method: method.clone(), path: path.to_owned() };
        calls.push(call.clone());
        self.count.send_replace(calls.len());
        self.rule.lock().as_ref().and_then(|rule| rule(&call))
    }
}

#[derive(Clone, Default)]
pub(crate) struct Server {
    pub(crate) objects: Arc<Mutex<Objects>>,
    pub(crate) wire: Arc<Wire>,
}

/// Where a request goes.
struct Route {
    key: Key,
    status: bool,
    resize: bool,
    labels: Vec<(String, String)>,
    manager: String,
    watch_from: Option<u64>,
}

impl Server {
    pub(crate) fn client(&self) -> kube::Client {
        let server = self.clone();
        let service = tower::service_fn(move |request: Request<kube::client::Body>| {
            let server = server.clone();
            async move { server.serve(request).await }
        });
        kube::Client::new(service, "default")
    }

    /// Serves over HTTP what [`Server::client`] reaches in memory, until the task is dropped.
    #[allow(dead_code, reason = "the suite `many` needs it")]
    pub(crate) fn listen(&self, listener: TcpListener) -> impl Future<Output = ()> + use<> {
        let server = self.clone();
        async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let server = server.clone();
                let service = hyper::service::service_fn(move |request: Request<hyper::body::Incoming>| {
                    let server = server.clone();
                    async move { server.serve(request).await }
                });
                let http = hyper::server::conn::http1::Builder::new();
                connections.spawn(http.serve_connection(TokioIo::new(stream), service));
                while connections.try_join_next().is_some() {}
            }
        }
    }

    async fn serve<B>(&self, request: Request<B>) -> Result<Reply, std::io::Error>
    where
        B: hyper::body::Body<Error: std::error::Error + Send + Sync + 'static>,
    {
        let (parts, body) = request.into_parts();
        let lost = || std::io::Error::new(std::io::ErrorKind::ConnectionReset, "the connection broke");
        let path = parts.uri.path().to_owned();
        let route = route(&path, parts.uri.query().unwrap_or_default());
        if route.watch_from.is_some() {
            return Ok(self.watch(route));
        }
        let fault = self.wire.pass(&parts.method, &path);
        match &fault {
            Some(Fault::LostBefore) => return Err(lost()),
            Some(Fault::Answer(refusal)) => return Ok(answer(Err(refusal.clone()))),
            Some(Fault::LostAfter) | None => {}
        }
        let bytes = body.collect().await.map_err(std::io::Error::other)?.to_bytes();
        let body: Value = if bytes.is_empty() {
            Value::Null
        } else {
            serde_json::from_slice(&bytes).map_err(std::io::Error::other)?
        };
        let kind = parts.headers.get("content-type").and_then(|value| value.to_str().ok());
        let done = self.act(&parts.method, kind.unwrap_or_default(), route, &body);
        if fault.is_some() {
            return Err(lost());
        }
        Ok(answer(done))
    }

    fn act(&self, method: &Method, kind: &str, route: Route, body: &Value) -> Answer {
        let mut objects = self.objects.lock();
        let Route { mut key, status, resize, labels, manager, .. } = route;
        match method.as_str() {
            "GET" if key.name.is_empty() => {
                let items = objects.list(&key.resource, &key.namespace, &labels);
                let version = objects.version().to_string();
                Ok(json!({ "metadata": { "resourceVersion": version }, "items": items }))
            }
            "GET" => objects.get(&key),
            "POST" => {
                body["metadata"]["name"].as_str().unwrap_or_default().clone_into(&mut key.name);
                objects.create(&key, body.clone())
            }
            "PUT" => objects.replace(&key, body, status),
            "PATCH" if kind.starts_with("application/apply-patch") => {
                objects.apply(&key, body, &manager, status)
            }
            "PATCH" if kind.starts_with("application/merge-patch") => objects.merge(&key, body, status),
            "PATCH" if kind.starts_with("application/strategic-merge-patch") && resize => {
                objects.resize(&key, body)
            }
            "DELETE" => objects.delete(&key, body),
            _ => Err(Refusal::new(405, "MethodNotAllowed", format!("{method} {kind}"))),
        }
    }

    /// Changes since a version, and then as they come.
    fn watch(&self, route: Route) -> Reply {
        let objects = self.objects.clone();
        let changed = objects.lock().changed.subscribe();
        let from = route.watch_from.unwrap_or(0);
        let lines =
            unfold((from, changed, objects, route), |(mut from, mut changed, objects, route)| async move {
                loop {
                    let next = {
                        let objects = objects.lock();
                        let new = objects.log.partition_point(|change| change.version <= from);
                        let found = objects.log[new..].iter().find(|change| {
                            change.key.resource == route.key.resource
                                && (route.key.namespace.is_empty()
                                    || change.key.namespace == route.key.namespace)
                                && route.labels.iter().all(|(name, value)| {
                                    change.object["metadata"]["labels"][name] == json!(value)
                                })
                        });
                        // What does not concern this watch is passed over once.
                        from = found.map_or(objects.version(), |change| change.version);
                        found.cloned()
                    };
                    if let Some(change) = next {
                        let line = json!({ "type": change.kind, "object": change.object }).to_string() + "\n";
                        let frame = Ok(Frame::data(Bytes::from(line)));
                        return Some((frame, (from, changed, objects, route)));
                    }
                    changed.changed().await.ok()?;
                }
            });
        Response::new(StreamBody::new(lines).boxed_unsync())
    }

    /// Waits until `holds`, or fails after 20 s with `what`.
    pub(crate) async fn until(&self, what: &str, holds: impl Fn(&Objects) -> bool) {
        let mut changed = self.objects.lock().changed.subscribe();
        let waiting = async {
            while !holds(&self.objects.lock()) {
                changed.changed().await.expect("the objects live as long as the server");
            }
        };
        assert!(tokio::time::timeout(Duration::from_secs(20), waiting).await.is_ok(), "never: {what}");
    }
}

fn answer(done: Answer) -> Reply {
    let (code, body) = match done {
        Ok(body) => (200, body),
        Err(Refusal { code, reason, message }) => {
            let ends = message.contains("it is being terminated");
            let causes = if ends { json!([{ "reason": "NamespaceTerminating" }]) } else { json!([]) };
            let body = json!({
                "kind": "Status", "apiVersion": "v1", "status": "Failure",
                "code": code, "reason": reason, "message": message, "details": { "causes": causes },
            });
            (code, body)
        }
    };
    let body = Full::new(Bytes::from(body.to_string())).boxed_unsync();
    Response::builder()
        .status(code)
        .header("content-type", "application/json")
        .body(body)
        .expect("a response")
}

/// `/api/v1/...` or `/apis/<group>/<version>/...`, then `[namespaces/<ns>/]<plural>[/<name>[/status|/resize]]`.
fn route(path: &str, query: &str) -> Route {
    let mut parts = path.trim_start_matches('/').split('/');
    let group = if parts.next() == Some("api") { "" } else { parts.next().unwrap_or_default() };
    let _version = parts.next();
    let mut rest: Vec<&str> = parts.collect();
    let mut namespace = "";
    if rest.len() > 2 && rest[0] == "namespaces" {
        namespace = rest[1];
        rest.drain(..2);
    }
    let part = |position: usize| rest.get(position).copied().unwrap_or_default();
    let mut route = Route {
        key: Key::new(&format!("{group}/{}", part(0)), namespace, part(1)),
        status: part(2) == "status",
        resize: part(2) == "resize",
        labels: Vec::new(),
        manager: String::new(),
        watch_from: None,
    };
    let mut from = 0;
    let mut watches = false;
    for pair in query.split('&') {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let value = decoded(value);
        match name {
            "labelSelector" => {
                let pairs = value.split(',').filter_map(|pair| pair.split_once('='));
                route.labels = pairs
                    .map(|(name, value)| (name.to_owned(), value.trim_start_matches('=').to_owned()))
                    .collect();
            }
            "fieldManager" => route.manager = value,
            "watch" => watches = value == "true",
            "resourceVersion" => from = value.parse().unwrap_or(0),
            _ => {}
        }
    }
    route.watch_from = watches.then_some(from);
    route
}

fn decoded(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte == b'%' {
            let digits = [rest.next().unwrap_or(b'0'), rest.next().unwrap_or(b'0')];
            let digits = String::from_utf8_lossy(&digits).into_owned();
            bytes.push(u8::from_str_radix(&digits, 16).unwrap_or(b'?'));
        } else {
            bytes.push(if byte == b'+' { b' ' } else { byte });
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}
