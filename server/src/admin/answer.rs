//! Errors to responses, bodies to values.

use axum::Json;
use axum::body::Body;
use axum::extract::{FromRequest, Request};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use futures_util::StreamExt as _;
use kvnode_api::error::ErrorBody;
use serde::de::DeserializeOwned;

use super::ControlError;

/// Bytes of a request body; the largest sensible one is a few hundred.
pub(super) const BODY_BYTES_MAX: usize = 64 * 1024;

/// A status and its body.
#[derive(Debug)]
pub(super) struct Refusal {
    pub(super) status: StatusCode,
    pub(super) body: ErrorBody,
}

impl Refusal {
    pub(super) fn new(status: StatusCode, error: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { status, body: ErrorBody { error: error.into(), remedy: remedy.into(), leader: None } }
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let mut response = (self.status, Json(self.body)).into_response();
        if self.status == StatusCode::SERVICE_UNAVAILABLE {
            response.headers_mut().insert(header::RETRY_AFTER, header::HeaderValue::from_static("1"));
        }
        response
    }
}

impl From<ControlError> for Refusal {
    fn from(error: ControlError) -> Self {
        let (status, remedy) = match &error {
            ControlError::Invalid(_) => (StatusCode::BAD_REQUEST, "correct the request"),
            ControlError::NotFound(_) => (StatusCode::NOT_FOUND, "list what there is"),
            ControlError::Conflict(_) => (StatusCode::CONFLICT, "read /v1/status and decide anew"),
            ControlError::Stale { .. } => {
                (StatusCode::PRECONDITION_FAILED, "read /v1/members and decide anew")
            }
            ControlError::NotLeader { .. } => {
                (StatusCode::MISDIRECTED_REQUEST, "ask the node named by leader")
            }
            ControlError::NoLeader => {
                (StatusCode::SERVICE_UNAVAILABLE, "repeat once the cluster has a leader")
            }
            ControlError::Busy(_) => (StatusCode::SERVICE_UNAVAILABLE, "repeat later"),
            ControlError::Unknown(_) => (StatusCode::GATEWAY_TIMEOUT, "read the state before repeating"),
            ControlError::Failed(_) => (StatusCode::INTERNAL_SERVER_ERROR, "see the log of the node"),
        };
        let mut refusal = Refusal::new(status, error.to_string(), remedy);
        if let ControlError::NotLeader { addr } = error {
            refusal.body.leader = Some(addr);
        }
        refusal
    }
}

pub(super) async fn no_route() -> Refusal {
    Refusal::new(StatusCode::NOT_FOUND, "no such route", "see server/src/admin/mod.rs for all routes")
}

pub(super) async fn no_method() -> Refusal {
    Refusal::new(StatusCode::METHOD_NOT_ALLOWED, "the route has no such method", "see the Allow header")
}

pub(super) fn no_certificate() -> Refusal {
    Refusal::new(
        StatusCode::FORBIDDEN,
        "this route asks for a client certificate",
        "show one that an authority of http_tls_client_ca_file has signed",
    )
}

pub(super) fn web_page() -> Refusal {
    Refusal::new(
        StatusCode::FORBIDDEN,
        "requests from web pages are refused",
        "use a program, without Origin",
    )
}

/// A JSON body within [`BODY_BYTES_MAX`].
pub(super) struct Body64<T>(pub(super) T);

/// The same, and an empty body stands for the default.
pub(super) struct BodyOrDefault<T>(pub(super) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Body64<T> {
    type Rejection = Refusal;

    async fn from_request(request: Request, _state: &S) -> Result<Self, Refusal> {
        let (parts, body) = request.into_parts();
        let bytes = collect(body).await?;
        Ok(Self(read(&parts.headers, &bytes)?))
    }
}

impl<T: DeserializeOwned + Default, S: Send + Sync> FromRequest<S> for BodyOrDefault<T> {
    type Rejection = Refusal;

    async fn from_request(request: Request, _state: &S) -> Result<Self, Refusal> {
        let (parts, body) = request.into_parts();
        let bytes = collect(body).await?;
        if bytes.is_empty() { Ok(Self(T::default())) } else { Ok(Self(read(&parts.headers, &bytes)?)) }
    }
}

/// Grows with what arrives, never with what was announced.
async fn collect(body: Body) -> Result<Vec<u8>, Refusal> {
    let mut frames = body.into_data_stream();
    let mut bytes = Vec::new();
    while let Some(frame) = frames.next().await {
        let frame = frame.map_err(|e| {
            Refusal::new(StatusCode::BAD_REQUEST, format!("the body broke off: {e}"), "send it again")
        })?;
        if bytes.len() + frame.len() > BODY_BYTES_MAX {
            return Err(Refusal::new(
                StatusCode::PAYLOAD_TOO_LARGE,
                "the body is larger than 64 KiB",
                "send only what the route takes",
            ));
        }
        bytes.extend_from_slice(&frame);
    }
    Ok(bytes)
}

fn read<T: DeserializeOwned>(headers: &HeaderMap, bytes: &[u8]) -> Result<T, Refusal> {
    let kind = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let kind = kind.split(';').next().unwrap_or_default().trim();
    if !kind.eq_ignore_ascii_case("application/json") {
        return Err(Refusal::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "the body is not application/json",
            "send Content-Type: application/json",
        ));
    }
    serde_json::from_slice(bytes).map_err(|e| {
        Refusal::new(StatusCode::BAD_REQUEST, format!("the body is wrong: {e}"), "correct the body")
    })
}
