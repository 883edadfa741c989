//! The admin API on its own port: health, metrics, and `/v1` for the operator.
//!
//! ```text
//! serve.rs    accept, connection limit, header and write timeouts, graceful end
//!    |
//! router      refuses web pages, counts answers
//!    |
//! health | telemetry | status | members | snapshots | watch      one file per noun
//!    |
//! NodeControl, SnapshotControl      what the node does; traits, so that this module needs no running node
//! ```
//!
//! | route | what |
//! | --- | --- |
//! | `GET /livez`, `/readyz`, `/startupz` | see [`health`] |
//! | `GET /metrics` | Prometheus text |
//! | `GET /v1/status` | [`kvnode_api::status::NodeStatus`] |
//! | `GET /v1/members`, `POST` [`kvnode_api::members::AddMember`], `DELETE /v1/members/{id or addr}` | membership |
//! | `POST /v1/members/{id or addr}/promote` | learner to voter |
//! | `PUT /v1/voters` | these members are the voters, by one joint change |
//! | `POST /v1/transfer` [`kvnode_api::members::Transfer`] | hand leadership over |
//! | `POST /v1/initialize` [`kvnode_api::members::Initialize`] | found a cluster on an unformed node |
//! | `POST /v1/snapshots`, `GET`, `DELETE /v1/snapshots/{id}` | take, list, remove |
//! | `GET /v1/snapshots/{id}/meta.json`, `.../state.bin` | the files; `Range` and `If-Range` work |
//! | `GET /v1/watch` | server-sent [`kvnode_api::watch::LeaderEvent`]s |
//! | `GET`, `PUT /v1/log-filter` | [`kvnode_api::LogFilter`] |
//! | `POST /v1/log/shrink` | make the state durable, purge the log behind it |
//!
//! Invariants
//! - Every answer that is not a success has the body [`kvnode_api::error::ErrorBody`]; its statuses are listed there.
//! - Bodies are at most 64 KiB, headers 16 KiB and 10 s, connections and streams are counted; nothing is buffered whole.
//! - All verbs are idempotent.
//! - With `http_tls_client_ca_file` a caller shows a certificate of that authority, for everything but the probes: the
//!   kubelet has none, and they tell nothing. `/metrics` is not among them: it names members and counts keys.
//! - Without it the listener belongs on an inside network. Requests that a web page makes (they carry `Origin`)
//!   are refused, so that a browser on the same machine cannot be used against it.

mod answer;
mod control;
pub mod health;
mod members;
pub mod serve;
mod snapshots;
pub mod status;
mod telemetry;
mod watch;

#[cfg(test)]
mod tests;

use std::sync::Arc;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::Method;
use axum::middleware::{self, Next};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{delete, get, post, put};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

pub use control::{Answer, ControlError, NodeControl, SnapshotControl, SnapshotFile};
pub use serve::serve;

use crate::audit::{self, Event};
use crate::metrics::Metrics;
use crate::telemetry::Filter;

/// Of a path in the audit trail.
const PATH_CHARS_MAX: usize = 256;

/// What the handlers work with.
#[derive(Clone)]
pub struct Admin {
    node: Arc<dyn NodeControl>,
    snapshots: Arc<dyn SnapshotControl>,
    metrics: Arc<Metrics>,
    filter: Option<&'static Filter>,
    /// Ends the streams that have no end of their own.
    shutdown: CancellationToken,
    /// Watchers, and snapshot downloads: bounded apart, so that probes always find a free connection.
    watches: Arc<Semaphore>,
    downloads: Arc<Semaphore>,
}

impl Admin {
    /// Puts the parts together. `connections_max` is the limit that [`serve()`] gets; at most a quarter of it may be
    /// watches, and an eighth downloads.
    pub fn new(
        node: Arc<dyn NodeControl>,
        snapshots: Arc<dyn SnapshotControl>,
        metrics: Arc<Metrics>,
        connections_max: usize,
        shutdown: CancellationToken,
    ) -> Self {
        let part = |share: usize| Arc::new(Semaphore::new((connections_max / share).max(1)));
        let filter = crate::telemetry::filter();
        Self { node, snapshots, metrics, filter, shutdown, watches: part(4), downloads: part(8) }
    }
}

/// Whom a router serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Callers {
    /// Those who may do everything.
    Trusted,
    /// Those who were asked for a certificate and showed none.
    Strangers,
}

/// What a caller without a certificate may ask.
fn probes_only(path: &str) -> bool {
    matches!(path, "/livez" | "/readyz" | "/startupz")
}

/// All routes.
pub fn router(admin: Admin, callers: Callers) -> Router {
    Router::new()
        .route("/livez", get(health::livez))
        .route("/readyz", get(health::readyz))
        .route("/startupz", get(health::startupz))
        .route("/metrics", get(telemetry::metrics))
        .route("/v1/log-filter", get(telemetry::log_filter).put(telemetry::set_log_filter))
        .route("/v1/status", get(status::get))
        .route("/v1/members", get(members::list).post(members::add))
        .route("/v1/members/{target}", delete(members::remove))
        .route("/v1/members/{target}/promote", post(members::promote))
        .route("/v1/voters", put(members::set_voters))
        .route("/v1/transfer", post(members::transfer))
        .route("/v1/initialize", post(members::initialize))
        .route("/v1/log/shrink", post(members::shrink_log))
        .route("/v1/snapshots", get(snapshots::list).post(snapshots::create))
        .route("/v1/snapshots/{id}", delete(snapshots::remove))
        .route("/v1/snapshots/{id}/meta.json", get(snapshots::meta))
        .route("/v1/snapshots/{id}/state.bin", get(snapshots::state))
        .route("/v1/watch", get(watch::watch))
        .fallback(answer::no_route)
        .method_not_allowed_fallback(answer::no_method)
        .layer(middleware::from_fn_with_state((admin.clone(), callers), gate))
        .with_state(admin)
}

/// Who has connected, as the audit trail tells it; put into each of its requests by the listener.
#[derive(Clone, Debug, Default)]
pub struct Caller {
    /// Address without port.
    pub peer: String,
    /// Name in the certificate that was verified; empty = none.
    pub subject: String,
}

/// Tells of a request that is no question, and what it came to.
fn audit(caller: Option<&Caller>, method: &Method, path: &str, response: &Response) {
    if matches!(*method, Method::GET | Method::HEAD) {
        return;
    }
    let short: String = path.chars().take(PATH_CHARS_MAX).collect();
    audit::note(&Event::AdminApi {
        peer: caller.map_or("", |caller| &caller.peer),
        subject: caller.map_or("", |caller| &caller.subject),
        method: method.as_str(),
        path: &short,
        status: response.status().as_u16(),
    });
}

/// Before and after every request.
async fn gate(State((admin, callers)): State<(Admin, Callers)>, request: Request, next: Next) -> Response {
    let caller = request.extensions().get::<Caller>().cloned();
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let response = if request.headers().contains_key("origin") {
        answer::web_page().into_response()
    } else if callers == Callers::Strangers && !probes_only(request.uri().path()) {
        answer::no_certificate().into_response()
    } else {
        next.run(request).await
    };
    audit(caller.as_ref(), &method, &path, &response);
    admin.metrics.http_requests.with_label_values(&[response.status().as_str()]).inc();
    response
}
