//! Snapshots of a node: ask for one, stream its `state.bin`, delete it.

use std::time::Duration;

use bytes::Bytes;
use http::{Method, StatusCode, header};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use kvnode_api::members::Done;
use kvnode_api::snapshot::SnapshotMeta;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::connection::{self, Failure};
use super::{AdminClient, Ask, NodeError, refused};

/// Time to connect and get the head of an answer that is ready.
const OPEN_TIMEOUT: Duration = Duration::from_secs(10);
/// Silence after which a stream counts as cut.
const SILENCE_MAX: Duration = Duration::from_secs(15);
/// Writing a snapshot takes as long as its content is large. Who waits watches the node beside.
const CREATE_TIMEOUT: Duration = Duration::from_hours(6);

/// A `state.bin` on its way. Dropping it closes the connection.
pub struct StateStream {
    body: Incoming,
    to: String,
    doing: String,
    // Drives the connection; aborted with the stream.
    _connection: JoinSet<()>,
}

impl AdminClient {
    /// Asks the node for a snapshot and waits until it is on its disk.
    ///
    /// # Errors
    /// No answer, or a refusal; an unknown outcome leaves at most a snapshot that the node prunes by itself.
    pub async fn create_snapshot(&self, to: &str) -> Result<SnapshotMeta, NodeError> {
        self.call_created(to, Ask::bare(Method::POST, "/v1/snapshots".into(), CREATE_TIMEOUT)).await
    }

    /// Deletes a snapshot from the node's disk.
    ///
    /// # Errors
    /// 404 if there is none of that id.
    pub async fn remove_snapshot(&self, to: &str, id: &str) -> Result<Done, NodeError> {
        let path = format!("/v1/snapshots/{}", super::escaped(id));
        self.call(to, Ask::bare(Method::DELETE, path, OPEN_TIMEOUT)).await
    }

    /// Opens `state.bin` of a snapshot from byte `from` on.
    ///
    /// # Errors
    /// No connection, or a refusal: 404 if the snapshot is gone.
    pub async fn open_state(&self, to: &str, id: &str, from: u64) -> Result<StateStream, NodeError> {
        let path = format!("/v1/snapshots/{}/state.bin", super::escaped(id));
        let ask = Ask::get(&path, OPEN_TIMEOUT);
        let doing = ask.doing();
        let broken = |what: String| NodeError::Broken { doing: doing.clone(), to: to.into(), what };
        let opened = timeout(OPEN_TIMEOUT, self.opened(to, ask, from)).await;
        let (status, body, connection) = match opened {
            Err(_) => return Err(broken(format!("no answer within {} s", OPEN_TIMEOUT.as_secs()))),
            Ok(Err(Failure::Connect(source))) => return Err(NodeError::Connect { to: to.into(), source }),
            Ok(Err(Failure::Broken(what))) => return Err(broken(what)),
            Ok(Ok(opened)) => opened,
        };
        // A server that does not know ranges would send the whole file again.
        let wanted = if from == 0 { StatusCode::OK } else { StatusCode::PARTIAL_CONTENT };
        if status != wanted {
            let said = timeout(OPEN_TIMEOUT, connection::collect(body)).await;
            let said = said.ok().and_then(Result::ok).unwrap_or_default();
            return Err(refused(doing, to, status, &said));
        }
        Ok(StateStream { body, to: to.into(), doing, _connection: connection })
    }

    async fn opened(
        &self,
        to: &str,
        ask: Ask,
        from: u64,
    ) -> Result<(StatusCode, Incoming, JoinSet<()>), Failure> {
        let (mut sender, connection) = connection::connect(&*self.dial, to).await?;
        let mut request = connection::request(to, ask)?;
        if from > 0
            && let Ok(range) = header::HeaderValue::from_str(&format!("bytes={from}-"))
        {
            request.headers_mut().insert(header::RANGE, range);
        }
        let mut driver = JoinSet::new();
        // Its end is seen by whoever reads the body, with more sense.
        driver.spawn(async move { drop(connection.await) });
        let response = sender.send_request(request).await?;
        Ok((response.status(), response.into_body(), driver))
    }
}

impl StateStream {
    /// The next bytes; `None` at the end of what the node announced.
    ///
    /// # Errors
    /// The connection broke off, or was silent for 15 s.
    pub async fn next(&mut self) -> Result<Option<Bytes>, NodeError> {
        loop {
            let broken =
                |what: String| NodeError::Broken { doing: self.doing.clone(), to: self.to.clone(), what };
            let Ok(frame) = timeout(SILENCE_MAX, self.body.frame()).await else {
                return Err(broken(format!("silent for {} s", SILENCE_MAX.as_secs())));
            };
            match frame {
                None => return Ok(None),
                Some(Err(error)) => return Err(broken(error.to_string())),
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        return Ok(Some(data));
                    }
                }
            }
        }
    }
}
