//! The typed client of the nodes' admin API: the only way in which the operator talks to a node.
//!
//! ```text
//! AdminClient::status, add_member, ...      one method per verb, types of kvnode-api
//!    |
//! exchange     one connection per request, a deadline over everything, a limit on the answer
//!    |
//! Dial         TCP to the pod's address, mutual TLS over it where the cluster has it (trust); memory in tests
//! ```
//!
//! Invariants
//! - Every call ends within its deadline, resolving, connecting and reading included, and reads at most
//!   [`BODY_BYTES_MAX`].
//! - No connection outlives its request: a pod that comes back under the same name has another address, and a request
//!   that is sent again by a pool on a stale connection would be a request that nobody planned.
//! - Nothing is retried here. Each verb is idempotent and conditional, so the next pass, which looks anew, is the retry.

mod connection;
pub mod sessions;
pub mod snapshots;
pub mod stream;
pub mod trust;

#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use http::{Method, StatusCode};
use kvnode_api::LogFilter;
use kvnode_api::error::ErrorBody;
use kvnode_api::members::{AddMember, Done, Initialize, Initialized, MembershipChanged, SetVoters, Transfer};
use kvnode_api::status::NodeStatus;
use serde::Serialize;
use serde::de::DeserializeOwned;

pub use connection::{Dial, Io, Tcp};

/// Longest answer that is read. A status of 30 members is below 10 KiB.
pub const BODY_BYTES_MAX: usize = 256 * 1024;

/// Deadlines of the calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deadlines {
    /// `GET /v1/status`: one silent node must not hold up a pass.
    pub status: Duration,
    /// The verbs of the membership. The server gives up after 10 s and says so, which is worth waiting for.
    pub change: Duration,
    /// Handing leadership over; the server bounds it to 3 s.
    pub transfer: Duration,
}

impl Default for Deadlines {
    fn default() -> Self {
        Self {
            status: Duration::from_secs(1),
            change: Duration::from_secs(12),
            transfer: Duration::from_secs(5),
        }
    }
}

/// Why a node did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// No connection: nothing has happened.
    #[error("connect to {to}: {source}")]
    Connect {
        /// Where to.
        to: String,
        /// Why not.
        source: std::io::Error,
    },
    /// The exchange broke off, or its deadline passed: what was asked may or may not have happened.
    #[error("{doing} at {to}: {what}")]
    Broken {
        /// Method and path.
        doing: String,
        /// Where.
        to: String,
        /// What broke.
        what: String,
    },
    /// The node answered that it does not do it.
    #[error("{doing} at {to}: {status}: {error}")]
    Refused {
        /// Method and path.
        doing: String,
        /// Where.
        to: String,
        /// HTTP status; its meaning is listed at [`ErrorBody`].
        status: u16,
        /// What the node said.
        error: String,
        /// What the node advised.
        remedy: String,
    },
    /// The node answered something that is not this contract.
    #[error("{doing} at {to}: not understood: {what}")]
    Garbled {
        /// Method and path.
        doing: String,
        /// Where.
        to: String,
        /// What is wrong with it.
        what: String,
    },
}

impl NodeError {
    /// What happened may have happened: look before deciding anew.
    #[must_use]
    pub fn is_unknown(&self) -> bool {
        match self {
            NodeError::Connect { .. } => false,
            NodeError::Broken { .. } | NodeError::Garbled { .. } => true,
            NodeError::Refused { status, .. } => *status == 504 || *status == 500,
        }
    }

    /// The membership changed since it was looked at.
    #[must_use]
    pub fn is_stale(&self) -> bool {
        matches!(self, NodeError::Refused { status: 412, .. })
    }

    /// A word for metric labels; the list is closed.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            NodeError::Connect { .. } => "connect",
            NodeError::Broken { .. } => "broken",
            NodeError::Refused { .. } => "refused",
            NodeError::Garbled { .. } => "garbled",
        }
    }
}

/// The client. Cheap to clone.
#[derive(Clone)]
pub struct AdminClient {
    dial: Arc<dyn Dial>,
    deadlines: Deadlines,
}

impl AdminClient {
    /// A client over TCP.
    #[must_use]
    pub fn tcp() -> Self {
        Self::new(Arc::new(Tcp), Deadlines::default())
    }

    /// A client over any transport.
    #[must_use]
    pub fn new(dial: Arc<dyn Dial>, deadlines: Deadlines) -> Self {
        Self { dial, deadlines }
    }

    /// `GET /v1/status` of the node whose admin API listens at `to` (`host:port`).
    ///
    /// # Errors
    /// No answer within a second, or none that is a status.
    pub async fn status(&self, to: &str) -> Result<NodeStatus, NodeError> {
        let ask = Ask::get("/v1/status", self.deadlines.status);
        self.call(to, ask).await
    }

    /// Founds a cluster with that id. A repeat with the same id is a success with `changed: false`.
    ///
    /// # Errors
    /// 409 if the node belongs to another cluster.
    pub async fn initialize(&self, to: &str, request: &Initialize) -> Result<Initialized, NodeError> {
        self.call(to, Ask::post("/v1/initialize", request, self.deadlines.change)).await
    }

    /// Adds a member.
    ///
    /// # Errors
    /// 412 if the membership is another one than `if_membership`.
    pub async fn add_member(&self, to: &str, request: &AddMember) -> Result<MembershipChanged, NodeError> {
        self.call(to, Ask::post("/v1/members", request, self.deadlines.change)).await
    }

    /// Removes the member `target`, a node id in hex or a client address.
    ///
    /// # Errors
    /// 412 if the membership is another one than `if_membership`.
    pub async fn remove_member(
        &self,
        to: &str,
        target: &str,
        if_membership: Option<&str>,
    ) -> Result<MembershipChanged, NodeError> {
        let path = member_path(target, "", if_membership);
        self.call(to, Ask::bare(Method::DELETE, path, self.deadlines.change)).await
    }

    /// Makes the learner `target` a voter.
    ///
    /// # Errors
    /// 412 if the membership is another one than `if_membership`; 504 while it has not caught up.
    pub async fn promote(
        &self,
        to: &str,
        target: &str,
        if_membership: Option<&str>,
    ) -> Result<MembershipChanged, NodeError> {
        let path = member_path(target, "/promote", if_membership);
        self.call(to, Ask::bare(Method::POST, path, self.deadlines.change)).await
    }

    /// Hands leadership over, to the best voter if `target` is `None`.
    ///
    /// # Errors
    /// 409 if the target cannot lead; 504 if it was not seen to lead in time.
    pub async fn transfer(&self, to: &str, target: Option<&str>) -> Result<Done, NodeError> {
        let request = Transfer { to: target.map(str::to_owned) };
        self.call(to, Ask::post("/v1/transfer", &request, self.deadlines.transfer)).await
    }

    /// Makes exactly these members the voters, by one joint change.
    ///
    /// # Errors
    /// 412 if the membership is another one than `if_membership`; 409 if one of them is no member or lags.
    pub async fn set_voters(&self, to: &str, request: &SetVoters) -> Result<MembershipChanged, NodeError> {
        self.call(to, Ask::with(Method::PUT, "/v1/voters", request, self.deadlines.change)).await
    }

    /// Replaces the directives that decide what the node logs.
    ///
    /// # Errors
    /// 400 if they are none.
    pub async fn set_log_filter(&self, to: &str, filter: &LogFilter) -> Result<LogFilter, NodeError> {
        self.call(to, Ask::with(Method::PUT, "/v1/log-filter", filter, self.deadlines.status)).await
    }

    async fn call<T: DeserializeOwned>(&self, to: &str, ask: Ask) -> Result<T, NodeError> {
        self.call_for(to, ask, StatusCode::OK).await
    }

    async fn call_created<T: DeserializeOwned>(&self, to: &str, ask: Ask) -> Result<T, NodeError> {
        self.call_for(to, ask, StatusCode::CREATED).await
    }

    async fn call_for<T: DeserializeOwned>(
        &self,
        to: &str,
        ask: Ask,
        wanted: StatusCode,
    ) -> Result<T, NodeError> {
        let doing = ask.doing();
        let broken = |what: String| NodeError::Broken { doing: doing.clone(), to: to.into(), what };
        let deadline = ask.deadline;
        let exchange = connection::exchange(&*self.dial, to, ask);
        let Ok(reply) = tokio::time::timeout(deadline, exchange).await else {
            return Err(broken(format!("no answer within {} ms", deadline.as_millis())));
        };
        let (status, body) = match reply {
            Ok(reply) => reply,
            Err(connection::Failure::Connect(source)) => {
                return Err(NodeError::Connect { to: to.into(), source });
            }
            Err(connection::Failure::Broken(what)) => return Err(broken(what)),
        };
        if status == wanted {
            return serde_json::from_slice(&body).map_err(|error| NodeError::Garbled {
                doing,
                to: to.into(),
                what: error.to_string(),
            });
        }
        Err(refused(doing, to, status, &body))
    }
}

/// One request, ready to be sent.
struct Ask {
    method: Method,
    path: String,
    body: Option<Vec<u8>>,
    deadline: Duration,
}

impl Ask {
    fn get(path: &str, deadline: Duration) -> Self {
        Self::bare(Method::GET, path.into(), deadline)
    }

    fn bare(method: Method, path: String, deadline: Duration) -> Self {
        Self { method, path, body: None, deadline }
    }

    fn post<T: Serialize>(path: &str, body: &T, deadline: Duration) -> Self {
        Self::with(Method::POST, path, body, deadline)
    }

    fn with<T: Serialize>(method: Method, path: &str, body: &T, deadline: Duration) -> Self {
        // The requests of kvnode-api are structs of numbers and strings: serialising them cannot fail.
        let body = serde_json::to_vec(body).unwrap_or_default();
        Self { method, path: path.into(), body: Some(body), deadline }
    }

    fn doing(&self) -> String {
        format!("{} {}", self.method, self.path)
    }
}

/// An answer that is not a success, in the node's words if it has any.
fn refused(doing: String, to: &str, status: StatusCode, body: &[u8]) -> NodeError {
    let said = serde_json::from_slice::<ErrorBody>(body).unwrap_or_else(|_| ErrorBody {
        error: "an answer without our error body: is that a kvnode admin port?".into(),
        remedy: String::new(),
        leader: None,
    });
    let short = |text: String| text.chars().take(500).collect::<String>();
    NodeError::Refused {
        doing,
        to: to.into(),
        status: status.as_u16(),
        error: short(said.error),
        remedy: short(said.remedy),
    }
}

/// `/v1/members/{target}{verb}?if_membership=...`. Targets and log ids need no escape, except what a person may have
/// typed; everything outside the unreserved set and `:` is escaped.
fn member_path(target: &str, verb: &str, if_membership: Option<&str>) -> String {
    let mut path = format!("/v1/members/{}{verb}", escaped(target));
    if let Some(log_id) = if_membership {
        path.push_str("?if_membership=");
        path.push_str(&escaped(log_id));
    }
    path
}

fn escaped(text: &str) -> String {
    use std::fmt::Write as _;
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~:".contains(&byte) {
            out.push(char::from(byte));
        } else {
            // Writing to a string cannot fail.
            let _ = write!(out, "%{byte:02X}");
        }
    }
    out
}
