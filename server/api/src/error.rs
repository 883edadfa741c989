//! The body of every answer of the admin API that is not a success.

use serde::{Deserialize, Serialize};

/// What went wrong and what to do.
///
/// Shape: `{"error":"the membership changed: ...","remedy":"read /v1/members again"}`; `leader` only with status 421.
///
/// | status | meaning |
/// | --- | --- |
/// | 400 | the request cannot be right, whatever the state |
/// | 403 | the request came from a web page (it carries `Origin`) |
/// | 404 | no such route, member or snapshot |
/// | 405 | the route has no such method |
/// | 409 | the request is well formed, but the state of the node or the cluster forbids it |
/// | 412 | `if_membership` names a membership that is not the current one any more |
/// | 413 | the body is larger than 64 KiB |
/// | 415 | the body is not `application/json` |
/// | 416 | no byte of the file lies in the range |
/// | 421 | this node does not lead and cannot forward; `leader` is the client address of the one that leads |
/// | 500 | the node failed at it; its log says more |
/// | 503 | no leader is known, or too many streams are open: repeat |
/// | 504 | started, but the end was not seen: read the state before repeating |
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorBody {
    /// What went wrong, one line.
    pub error: String,
    /// What to do, one line.
    pub remedy: String,
    /// Client address of the leader.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub leader: Option<String>,
}
