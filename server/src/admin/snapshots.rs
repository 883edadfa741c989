//! The snapshot routes: take, list, stream, remove.
//!
//! `state.bin` goes out in chunks of 256 KiB read on the blocking pool, one at a time, when the socket takes them: memory
//! does not depend on the size of the file. A file that retention removes meanwhile is still sent to its end.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;

use axum::Json;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_util::stream::try_unfold;
use kvnode_api::members::Done;
use tokio::sync::OwnedSemaphorePermit;

use super::answer::Refusal;
use super::{Admin, ControlError, SnapshotFile};
use crate::machine;

const CHUNK_BYTES: u64 = 256 * 1024;

/// An id that can be a directory name and nothing else.
fn checked(id: String) -> Result<String, Refusal> {
    let good = !id.is_empty() && id.len() <= 80 && id.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
    if good { Ok(id) } else { Err(ControlError::NotFound("no snapshot has such an id".into()).into()) }
}

pub(super) async fn create(State(admin): State<Admin>) -> Result<impl IntoResponse, Refusal> {
    let (id, meta) = admin.snapshots.create().await?;
    let location = format!("/v1/snapshots/{id}/state.bin");
    Ok((StatusCode::CREATED, [(header::LOCATION, location)], Json(meta)))
}

pub(super) async fn list(State(admin): State<Admin>) -> Result<Json<Vec<serde_json::Value>>, Refusal> {
    Ok(Json(admin.snapshots.list().await?))
}

pub(super) async fn remove(
    State(admin): State<Admin>,
    Path(id): Path<String>,
) -> Result<Json<Done>, Refusal> {
    Ok(Json(admin.snapshots.remove(checked(id)?).await?))
}

pub(super) async fn meta(
    State(admin): State<Admin>,
    Path(id): Path<String>,
) -> Result<impl IntoResponse, Refusal> {
    let found = admin.snapshots.open(checked(id)?).await?;
    Ok(([(header::CONTENT_TYPE, "application/json")], found.meta))
}

pub(super) async fn state(
    State(admin): State<Admin>,
    Path(id): Path<String>,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    let id = checked(id)?;
    let place = admin
        .downloads
        .clone()
        .try_acquire_owned()
        .map_err(|_| ControlError::Busy("too many snapshots are being sent".into()))?;
    let found = admin.snapshots.open(id.clone()).await?;
    let (path, promised) = (found.state.clone(), found.size_bytes);
    let opened = machine::spawn_blocking(move || {
        let file = File::open(&path)?;
        let size = file.metadata()?.len();
        Ok::<_, std::io::Error>((file, size))
    });
    let (file, size) = match opened.await {
        Ok(Ok(found)) => found,
        Ok(Err(e)) => return Err(ControlError::Failed(format!("open state.bin of {id}: {e}")).into()),
        Err(e) => return Err(ControlError::Failed(format!("open state.bin of {id}: {e}")).into()),
    };
    if size != promised {
        let text = format!("state.bin of {id} has {size} bytes, meta.json says {promised}");
        return Err(ControlError::Failed(text).into());
    }
    respond(&id, &found, &headers, file, place)
}

fn respond(
    id: &str,
    found: &SnapshotFile,
    headers: &HeaderMap,
    file: File,
    place: OwnedSemaphorePermit,
) -> Result<Response, Refusal> {
    let size = found.size_bytes;
    // A snapshot never changes, so its id is as strong a tag as its checksum.
    let tag = format!("\"{}\"", found.sha256.as_deref().unwrap_or(id));
    let value = |name| headers.get(name).and_then(|value: &HeaderValue| value.to_str().ok());
    let same = value(header::IF_RANGE).is_none_or(|asked| asked == tag);
    let asked = value(header::RANGE).filter(|_| same).map_or(Asked::Whole, |range| asked(range, size));
    let (status, start, end) = match asked {
        Asked::Whole => (StatusCode::OK, 0, size),
        Asked::Part { start, end } => (StatusCode::PARTIAL_CONTENT, start, end),
        Asked::Nothing => {
            let remedy = format!("the file has {size} bytes");
            let mut response =
                Refusal::new(StatusCode::RANGE_NOT_SATISFIABLE, "no byte lies in the range", remedy)
                    .into_response();
            insert(response.headers_mut(), "content-range", &format!("bytes */{size}"));
            return Ok(response);
        }
    };
    let mut response = Response::new(body(file, start, end, place));
    *response.status_mut() = status;
    let out = response.headers_mut();
    insert(out, "content-type", "application/octet-stream");
    insert(out, "accept-ranges", "bytes");
    insert(out, "content-length", &(end - start).to_string());
    insert(out, "etag", &tag);
    if status == StatusCode::PARTIAL_CONTENT {
        insert(out, "content-range", &format!("bytes {start}-{}/{size}", end - 1));
    }
    // Of the whole file, also on a part.
    if let Some(sha256) = &found.sha256 {
        insert(out, "x-kvnode-sha256", sha256);
    }
    if let Some(crc64) = &found.crc64 {
        insert(out, "x-kvnode-crc64", crc64);
    }
    Ok(response)
}

/// What cannot be a header value (a damaged `meta.json`) is left out.
fn insert(headers: &mut HeaderMap, name: &'static str, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        headers.insert(name, value);
    }
}

/// What a Range header asks for.
#[derive(Debug, PartialEq, Eq)]
enum Asked {
    Whole,
    /// From `start` up to, not including, `end`; at least one byte.
    Part {
        start: u64,
        end: u64,
    },
    Nothing,
}

/// Reads a Range header (RFC 9110 14.2). Forms that we do not serve (several ranges, other units, nonsense) stand for
/// the whole file, which that section allows.
fn asked(range: &str, size: u64) -> Asked {
    let number =
        |text: &str| text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse::<u64>().ok()).flatten();
    let Some((first, last)) = range.trim().strip_prefix("bytes=").and_then(|r| r.trim().split_once('-'))
    else {
        return Asked::Whole;
    };
    let part = |start: u64, end: u64| if start < end { Asked::Part { start, end } } else { Asked::Nothing };
    match (first.is_empty(), last.is_empty()) {
        (true, true) => Asked::Whole,
        (true, false) => number(last).map_or(Asked::Whole, |count| part(size.saturating_sub(count), size)),
        (false, true) => number(first).map_or(Asked::Whole, |start| part(start, size)),
        (false, false) => match (number(first), number(last)) {
            (Some(start), Some(last)) if start <= last => part(start, size.min(last.saturating_add(1))),
            _ => Asked::Whole,
        },
    }
}

/// Bytes `start..end` of a file. A read error breaks the connection off before the announced length, which every
/// client sees as a failure.
fn body(file: File, start: u64, end: u64, place: OwnedSemaphorePermit) -> Body {
    let file = Arc::new(file);
    Body::from_stream(try_unfold((file, start, place), move |(file, at, place)| async move {
        let Some(count @ 1..) = end.checked_sub(at).map(|rest| rest.min(CHUNK_BYTES)) else {
            return Ok(None);
        };
        let source = Arc::clone(&file);
        let read = machine::spawn_blocking(move || {
            let mut chunk = vec![0; usize::try_from(count).map_err(std::io::Error::other)?];
            source.read_exact_at(&mut chunk, at)?;
            Ok::<_, std::io::Error>(Bytes::from(chunk))
        });
        let chunk = read.await.map_err(std::io::Error::other)??;
        Ok::<_, std::io::Error>(Some((chunk, (file, at + count, place))))
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges() {
        let part = |start, end| Asked::Part { start, end };
        for (range, want) in [
            ("bytes=0-0", part(0, 1)),
            ("bytes=2-5", part(2, 6)),
            ("bytes=2-", part(2, 10)),
            ("bytes=-3", part(7, 10)),
            ("bytes=-30", part(0, 10)),
            ("bytes=5-18446744073709551615", part(5, 10)),
            ("bytes=10-", Asked::Nothing),
            ("bytes=-0", Asked::Nothing),
            ("bytes=5-2", Asked::Whole),
            ("bytes=0-1,3-4", Asked::Whole),
            ("bytes=-", Asked::Whole),
            ("bytes=+1-2", Asked::Whole),
            ("lines=1-2", Asked::Whole),
        ] {
            assert_eq!(asked(range, 10), want, "{range}");
        }
        assert_eq!(asked("bytes=0-", 0), Asked::Nothing);
    }

    #[test]
    fn ids_are_names_only() {
        assert!(checked("1-1437-1795332236779".into()).is_ok());
        for wrong in ["", "..", "a/b", "1-2-3.tmp", "%2e", &"1".repeat(81)] {
            assert!(checked(wrong.to_owned()).is_err(), "{wrong}");
        }
    }
}
