//! How a Job tells the operator: its progress over HTTP while it works, its end in a file (the termination message).
//! The pod needs no Kubernetes credentials for either.

use std::path::Path;

use axum::Router;
use axum::extract::State;
use axum::response::Json;
use axum::routing::get;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::arguments::Telling;
use super::command::{Failure, IO};
use super::preview::Preview;
use super::progress::{Progress, Report, Reporter};

/// Path of the progress.
pub const PROGRESS_PATH: &str = "/v1/progress";
/// Kubernetes keeps 4096 bytes of a termination message.
const ERROR_CHARS_MAX: usize = 600;

/// The end of a Job's work.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct End {
    /// The report of a run that has stored its backup.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub report: Option<Report>,
    /// What there is to say of anything else.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
    /// What was restored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub preview: Option<Preview>,
    /// Why it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// Serves the progress until the result is dropped.
///
/// # Errors
/// The address cannot be listened on.
pub(super) async fn progress(telling: &Telling, reporter: &Reporter) -> Result<JoinSet<()>, Failure> {
    let mut serving = JoinSet::new();
    let Some(addr) = telling.progress_addr else { return Ok(serving) };
    let listener = tokio::net::TcpListener::bind(addr).await;
    let listener = listener.map_err(|error| (IO, format!("listen on {addr}: {error}")))?;
    let router = Router::new().route(PROGRESS_PATH, get(told)).with_state(reporter.subscribe());
    serving.spawn(async move {
        if let Err(error) = axum::serve(listener, router).await {
            tracing::warn!(%error, "the progress is not served any more");
        }
    });
    Ok(serving)
}

async fn told(State(progress): State<watch::Receiver<Progress>>) -> Json<Progress> {
    Json(progress.borrow().clone())
}

/// Writes the end of a run.
///
/// # Errors
/// The file cannot be written.
pub(super) fn report(telling: &Telling, ended: &Result<Report, Failure>) -> Result<(), Failure> {
    let end = match ended {
        Ok(report) => End { report: Some(report.clone()), ..End::default() },
        Err((_, error)) => End { error: Some(short(error)), ..End::default() },
    };
    telling.report_file.as_deref().map_or(Ok(()), |file| write(file, &end))
}

/// Writes the end of anything else; `preview` is what a restore was about.
///
/// # Errors
/// The file cannot be written.
pub(super) fn line(
    telling: &Telling,
    ended: &Result<String, Failure>,
    preview: Option<Preview>,
) -> Result<(), Failure> {
    let (text, error) = match ended {
        Ok(text) => (Some(short(text)), None),
        Err((_, error)) => (None, Some(short(error))),
    };
    let end = End { text, preview, error, ..End::default() };
    telling.report_file.as_deref().map_or(Ok(()), |file| write(file, &end))
}

fn write(file: &Path, end: &End) -> Result<(), Failure> {
    let text = serde_json::to_vec(end).unwrap_or_default();
    std::fs::write(file, text).map_err(|error| (IO, format!("write {}: {error}", file.display())))
}

fn short(text: &str) -> String {
    text.chars().take(ERROR_CHARS_MAX).collect()
}
