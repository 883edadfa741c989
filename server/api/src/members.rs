//! Requests and answers of the membership routes.
//!
//! All are idempotent: repeating one that has already happened is a success with `changed: false`. `if_membership`
//! makes one conditional on the membership that the caller saw ([`crate::status::Membership::log_id`]); if another
//! stands by then, the answer has status 412 and nothing changed.

use serde::{Deserialize, Serialize};

use crate::Id;

/// Body of `POST /v1/initialize`: found a cluster on a node that is unformed.
///
/// Idempotent for the same `cluster_id`; refused (409) on a node that belongs to another cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Initialize {
    /// Id of the new cluster; drawn at random if absent. Give one to make a repeat safe.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster_id: Option<Id>,
    /// Client addresses of the first members, this node's among them; empty = this node alone.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub members: Vec<String>,
}

/// Answer to [`Initialize`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Initialized {
    /// False if it was this cluster already.
    pub changed: bool,
    /// The cluster.
    pub cluster_id: Id,
}

/// Body of `POST /v1/members`: add the node that answers at a client address, as a learner.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AddMember {
    /// Client address of the newcomer, `host:port`.
    pub addr: String,
    /// Only if this membership log id is still the current one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub if_membership: Option<String>,
    /// Becomes a voter by itself once it has caught up; `false` = stays a learner until told.
    #[serde(default = "yes")]
    pub promote: bool,
}

fn yes() -> bool {
    true
}

/// `DELETE /v1/members/{target}?if_membership=...`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RemoveMember {
    /// Node id in hex, or client address.
    pub target: String,
    /// Only if this membership log id is still the current one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub if_membership: Option<String>,
}

/// `POST /v1/members/{target}/promote?if_membership=...`: make a learner a voter; waits until it has caught up.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PromoteMember {
    /// Node id in hex, or client address.
    pub target: String,
    /// Only if this membership log id is still the current one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub if_membership: Option<String>,
}

/// Body of `POST /v1/transfer`: hand leadership over.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Transfer {
    /// Node id in hex or client address of a voter; absent = the one that has caught up best.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<String>,
}

/// Answer to [`AddMember`], [`RemoveMember`], [`PromoteMember`], [`SetVoters`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MembershipChanged {
    /// False if the membership was already as asked for.
    pub changed: bool,
    /// The membership that stands now, for the next `if_membership`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub membership_log_id: Option<String>,
}

/// Answer to verbs with nothing else to say.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Done {
    /// False if it was already as asked for.
    pub changed: bool,
}

/// Body of `PUT /v1/voters`: make these members, and no others, the voters, by one joint change.
///
/// Each must be a member already (a learner or a voter) and the list must not be empty, else 409. Learners that become
/// voters must have caught up: the node that leads refuses (409) one that lags by more than a few entries. Voters that
/// are not named leave the membership altogether; a leader that is not named hands over first. Refused (409) when the
/// named voters that answer are no majority of those named. Learners that are not named stay learners.
///
/// Idempotent: `changed: false` if they are the voters already. Answer: [`MembershipChanged`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SetVoters {
    /// Node ids.
    pub voters: Vec<Id>,
    /// Only if this membership log id is still the current one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub if_membership: Option<String>,
}
