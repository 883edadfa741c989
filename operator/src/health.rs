//! The operator's own HTTP port: `/metrics`, `/livez`, `/readyz`.
//!
//! - **livez**: the process can answer, and while it leads, the controller's loop is alive: if it ended, so did the
//!   process. Never looks at the API server: a restart would not cure its absence.
//! - **readyz**: the API server answered since the start, so the credentials and rights are good. An operator that
//!   waits for the lease is ready: a rolling update of the two replicas must not wait for it to lead.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use axum::{Json, Router};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use kvnode_api::health::Health;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::metrics::Metrics;

/// Connections at once; more wait in the kernel's queue.
const CONNECTIONS_MAX: usize = 64;
/// Time to send a request's head, also the longest idle time between requests.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// Longest life of a connection: scrapers reconnect, and nobody can hold a place for ever.
const CONNECTION_LIFE: Duration = Duration::from_mins(5);
/// Pause after `accept` failed, so that a lack of file descriptors does not become a busy loop.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What the probes look at.
#[derive(Default)]
pub struct Probes {
    api_answered: AtomicBool,
    stopping: AtomicBool,
}

impl Probes {
    /// The API server has answered a call that needed our rights.
    pub fn api_answered(&self) {
        self.api_answered.store(true, Ordering::Relaxed);
    }

    /// The operator is about to end.
    pub fn stopping(&self) {
        self.stopping.store(true, Ordering::Relaxed);
    }

    fn why_not_ready(&self) -> Vec<String> {
        let mut reasons = Vec::new();
        if !self.api_answered.load(Ordering::Relaxed) {
            reasons.push("the API server has not answered yet".into());
        }
        if self.stopping.load(Ordering::Relaxed) {
            reasons.push("shutting down".into());
        }
        reasons
    }
}

#[derive(Clone)]
struct Served {
    metrics: Arc<Metrics>,
    probes: Arc<Probes>,
}

/// The routes.
pub fn router(metrics: Arc<Metrics>, probes: Arc<Probes>) -> Router {
    Router::new()
        .route("/livez", get(async || verdict(Vec::new())))
        .route("/readyz", get(async |State(served): State<Served>| verdict(served.probes.why_not_ready())))
        .route("/metrics", get(render))
        .with_state(Served { metrics, probes })
}

fn verdict(reasons: Vec<String>) -> (StatusCode, Json<Health>) {
    let status = if reasons.is_empty() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(Health { ok: reasons.is_empty(), reasons }))
}

async fn render(State(served): State<Served>) -> impl IntoResponse {
    match served.metrics.render() {
        Ok(text) => {
            (StatusCode::OK, [(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text)
        }
        Err(error) => {
            (StatusCode::INTERNAL_SERVER_ERROR, [(header::CONTENT_TYPE, "text/plain; charset=utf-8")], error)
        }
    }
}

/// Serves until the token is cancelled.
///
/// Cancel safety: dropping the future closes all connections at once.
pub async fn serve(listener: TcpListener, routes: Router, stop: CancellationToken) {
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let mut connections = JoinSet::new();
    loop {
        let place = tokio::select! {
            () = stop.cancelled() => break,
            place = Arc::clone(&places).acquire_owned() => place,
            Some(_) = connections.join_next() => continue,
        };
        let Ok(place) = place else { break };
        let accepted = tokio::select! {
            () = stop.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, _)) => {
                let routes = TowerToHyperService::new(routes.clone());
                connections.spawn(async move {
                    let serving = http1::Builder::new()
                        .timer(TokioTimer::new())
                        .header_read_timeout(HEAD_TIMEOUT)
                        .serve_connection(TokioIo::new(stream), routes);
                    // A connection that breaks or lasts too long is the client's to open again.
                    let _ = tokio::time::timeout(CONNECTION_LIFE, serving).await;
                    drop(place);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "accept on the operator's port");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    connections.shutdown().await;
}

#[cfg(test)]
mod tests {
    use axum::body::Body;
    use axum::http::Request;
    use http_body_util::BodyExt as _;
    use tower::ServiceExt as _;

    use super::*;

    async fn get(routes: &Router, path: &str) -> (StatusCode, String) {
        let request = Request::get(path).body(Body::empty()).unwrap();
        let response = routes.clone().oneshot(request).await.unwrap();
        let status = response.status();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        (status, String::from_utf8(body.to_vec()).unwrap())
    }

    #[tokio::test]
    async fn ready_once_the_api_server_answered_and_until_the_stop() {
        let probes = Arc::new(Probes::default());
        let routes = router(Metrics::new(), probes.clone());
        let (status, body) = get(&routes, "/readyz").await;
        assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(body, r#"{"ok":false,"reasons":["the API server has not answered yet"]}"#);
        probes.api_answered();
        assert_eq!(get(&routes, "/readyz").await.0, StatusCode::OK);
        probes.stopping();
        assert_eq!(get(&routes, "/readyz").await.0, StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(get(&routes, "/livez").await.0, StatusCode::OK, "a stop is no reason to be killed");
        let (status, body) = get(&routes, "/metrics").await;
        assert_eq!(status, StatusCode::OK);
        assert!(body.contains("kvnode_operator_build_info"), "{body}");
    }
}
