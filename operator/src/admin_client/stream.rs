//! `GET /v1/watch` of one node: server-sent events to [`LeaderEvent`]s, as they come.

use std::time::Duration;

use bytes::Bytes;
use http::StatusCode;
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use kvnode_api::watch::LeaderEvent;
use tokio::time::timeout;

use super::connection::{self, Failure};
use super::{AdminClient, Ask, NodeError, refused};
use crate::watch::frames::Frames;

const DOING: &str = "GET /v1/watch";

/// Time to connect and get the first byte of the answer.
const OPEN_TIMEOUT: Duration = Duration::from_secs(3);

/// The server sends a comment each 15 s: two of them missing means that the node, or the way to it, is gone.
const SILENCE_MAX: Duration = Duration::from_secs(35);

impl AdminClient {
    /// Follows the node at `to` until the stream ends, calling `tell` for each event. Always ends with why: a node
    /// that stops, a connection that breaks, silence for 35 s.
    ///
    /// Cancel safety: dropping it closes the connection.
    pub async fn follow(&self, to: &str, mut tell: impl FnMut(LeaderEvent)) -> NodeError {
        match self.followed(to, &mut tell).await {
            Ok((StatusCode::OK, _)) => broken(to, "the node ended the stream".into()),
            Ok((status, body)) => refused(DOING.into(), to, status, &body),
            Err(Failure::Connect(source)) => NodeError::Connect { to: to.into(), source },
            Err(Failure::Broken(what)) => broken(to, what),
        }
    }

    async fn followed(
        &self,
        to: &str,
        tell: &mut impl FnMut(LeaderEvent),
    ) -> Result<(StatusCode, Bytes), Failure> {
        let late = |_| Failure::Broken(format!("no answer within {} s", OPEN_TIMEOUT.as_secs()));
        let connecting = timeout(OPEN_TIMEOUT, connection::connect(&*self.dial, to));
        let (mut sender, connection) = connecting.await.map_err(late)??;
        let request = connection::request(to, Ask::get("/v1/watch", OPEN_TIMEOUT))?;
        let work = async {
            let response = timeout(OPEN_TIMEOUT, sender.send_request(request)).await.map_err(late)??;
            let status = response.status();
            let body = response.into_body();
            if status == StatusCode::OK {
                events(body, tell).await?;
                return Ok((status, Bytes::new()));
            }
            let said = timeout(OPEN_TIMEOUT, connection::collect(body)).await.map_err(late)??;
            Ok((status, said))
        };
        connection::driven(work, connection).await
    }
}

fn broken(to: &str, what: String) -> NodeError {
    NodeError::Broken { doing: DOING.into(), to: to.into(), what }
}

async fn events(mut body: Incoming, tell: &mut impl FnMut(LeaderEvent)) -> Result<(), Failure> {
    let mut frames = Frames::default();
    loop {
        let Ok(frame) = timeout(SILENCE_MAX, body.frame()).await else {
            return Err(Failure::Broken(format!("silent for {} s", SILENCE_MAX.as_secs())));
        };
        let Some(frame) = frame else { return Ok(()) };
        let Ok(data) = frame?.into_data() else { continue };
        frames.push(&data).map_err(Failure::Broken)?;
        for event in frames.by_ref() {
            // Kinds of events that a later server may send are not ours to refuse.
            if event.name == "leader" {
                let event = serde_json::from_str(&event.data)
                    .map_err(|error| Failure::Broken(format!("an event that is none: {error}")))?;
                tell(event);
            }
        }
    }
}
