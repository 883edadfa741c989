//! The events of `GET /v1/watch`.

use serde::{Deserialize, Serialize};

use crate::Id;
use crate::status::{LeaderInfo, Role};

/// Who leads, as this node knows it.
///
/// Sent as a server-sent event named `leader` whose id is the term; the first one at once after the request, then one
/// for each change. A slow reader sees the newest state and may miss states between, never the order of them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaderEvent {
    /// The cluster, absent while unformed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster_id: Option<Id>,
    /// The node that tells it.
    pub node_id: Id,
    /// Its role.
    pub role: Role,
    /// Its term; compare terms before believing an event over another node's.
    pub term: u64,
    /// The leader of that term, absent while none is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub leader: Option<LeaderInfo>,
}
