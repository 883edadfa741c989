//! `/metrics` and the log filter.

use axum::Json;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use kvnode_api::LogFilter;

use super::answer::{Body64, Refusal};
use super::{Admin, ControlError};
use crate::telemetry::Filter;

pub(super) async fn metrics(State(admin): State<Admin>) -> Result<impl IntoResponse, Refusal> {
    let text = admin.metrics.render().map_err(ControlError::Failed)?;
    Ok(([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text))
}

fn filter(admin: &Admin) -> Result<&'static Filter, Refusal> {
    admin.filter.ok_or_else(|| {
        Refusal::new(
            StatusCode::CONFLICT,
            "the log belongs to the program that embeds this node",
            "change its filter there",
        )
    })
}

pub(super) async fn log_filter(State(admin): State<Admin>) -> Result<Json<LogFilter>, Refusal> {
    Ok(Json(LogFilter { filter: filter(&admin)?.text() }))
}

pub(super) async fn set_log_filter(
    State(admin): State<Admin>,
    Body64(request): Body64<LogFilter>,
) -> Result<Json<LogFilter>, Refusal> {
    let filter = filter(&admin)?;
    filter
        .replace(&request.filter)
        .map_err(|problem| ControlError::Invalid(format!("filter {:?}: {problem}", request.filter)))?;
    tracing::warn!(filter = request.filter, "log filter replaced");
    Ok(Json(LogFilter { filter: filter.text() }))
}
