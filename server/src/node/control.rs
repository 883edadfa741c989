//! What the admin API may do with the node.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use kvnode_api::Id;
use kvnode_api::members::{
    AddMember, Done, Initialize, Initialized, MembershipChanged, PromoteMember, RemoveMember, SetVoters,
    Transfer,
};
use kvnode_api::status::{Addresses, DiskState, NodeStatus};
use kvnode_api::watch::LeaderEvent;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::admin::status::{NodeFacts, describe, leader_event};
use crate::admin::{Answer, ControlError, NodeControl};
use crate::clock;
use crate::dispatch::access::Access;
use crate::raft::{Group, MemberError};
use crate::store::LogId;

/// The node as the admin API sees it.
pub struct Control {
    group: Group,
    http_addr: SocketAddr,
    shutdown: CancellationToken,
    started: Instant,
    /// Whose mark the status shows; `None` where a caller need not prove who they are. With a mark passwords can be guessed
    /// elsewhere, as fast as somebody likes.
    access: Option<Arc<Access>>,
    events: watch::Receiver<LeaderEvent>,
}

fn text(id: Option<LogId>) -> Option<String> {
    id.map(|id| id.to_string())
}

/// Reads `<term>-<node in hex>-<index>` back.
fn log_id(text: Option<&str>) -> Result<Option<LogId>, ControlError> {
    let Some(text) = text else { return Ok(None) };
    let wrong = || ControlError::Invalid(format!("if_membership {text:?} is not a log id such as 3-1f-900"));
    text.parse().map(Some).map_err(|()| wrong())
}

impl Control {
    /// Begins to watch the group.
    #[must_use]
    pub fn new(
        group: Group,
        http_addr: SocketAddr,
        access: Option<Arc<Access>>,
        shutdown: CancellationToken,
    ) -> Arc<Self> {
        let (tx, events) = watch::channel(leader_event(&group.status()));
        let (watched, ended) = (group.clone(), shutdown.clone());
        group.spawn(async move {
            loop {
                let known = watched.leader();
                tx.send_if_modified(|old| {
                    let new = leader_event(&watched.status());
                    let changed = *old != new;
                    *old = new;
                    changed
                });
                tokio::select! {
                    () = ended.cancelled() => return,
                    _ = watched.leader_changed(known.as_ref()) => {}
                }
            }
        });
        Arc::new(Self { group, http_addr, shutdown, started: clock::monotonic(), access, events })
    }

    /// Runs a membership verb and says whether it changed the membership.
    fn verb<F>(&self, verb: impl FnOnce(Group) -> F + Send + 'static) -> Answer<MembershipChanged>
    where
        F: Future<Output = Result<(), MemberError>> + Send + 'static,
    {
        let group = self.group.clone();
        Box::pin(async move {
            let before = group.status().membership_log_id;
            verb(group.clone()).await?;
            let after = group.status().membership_log_id;
            Ok(MembershipChanged { changed: before != after, membership_log_id: text(after) })
        })
    }
}

impl NodeControl for Control {
    fn status(&self) -> NodeStatus {
        let status = self.group.status();
        let disk = match (self.group.disk_problem(), self.group.log_stats().disk_full) {
            (None, _) => DiskState::Ok,
            (Some(_), None) => DiskState::Quota,
            (Some(_), Some(_)) => DiskState::Full,
        };
        let facts = NodeFacts {
            stopping: self.shutdown.is_cancelled(),
            disk,
            addresses: Addresses {
                client: self.group.addr().to_owned(),
                peer: self.group.peer_addr().to_owned(),
                http: self.http_addr.to_string(),
            },
            uptime_ms: u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX),
            logins: self.access.as_ref().and_then(|access| access.mark(status.node_id)),
        };
        describe(&status, facts)
    }

    fn watch(&self) -> watch::Receiver<LeaderEvent> {
        self.events.clone()
    }

    fn initialize(&self, request: Initialize) -> Answer<Initialized> {
        let group = self.group.clone();
        Box::pin(async move {
            let before = group.cluster_id();
            let id = group.found(request.cluster_id.map(|id| id.0)).await?;
            for addr in request.members.into_iter().filter(|addr| *addr != group.addr()) {
                group.add_peer(addr, true, None).await?;
            }
            Ok(Initialized { changed: before.is_none(), cluster_id: Id(id) })
        })
    }

    fn add_member(&self, request: AddMember) -> Answer<MembershipChanged> {
        match log_id(request.if_membership.as_deref()) {
            Ok(expect) => {
                self.verb(
                    move |group| async move { group.add_peer(request.addr, request.promote, expect).await },
                )
            }
            Err(error) => Box::pin(async move { Err(error) }),
        }
    }

    fn remove_member(&self, request: RemoveMember) -> Answer<MembershipChanged> {
        match log_id(request.if_membership.as_deref()) {
            Ok(expect) => {
                self.verb(move |group| async move { group.remove_peer(request.target, expect).await })
            }
            Err(error) => Box::pin(async move { Err(error) }),
        }
    }

    fn promote(&self, request: PromoteMember) -> Answer<MembershipChanged> {
        match log_id(request.if_membership.as_deref()) {
            Ok(expect) => self.verb(move |group| async move { group.promote(request.target, expect).await }),
            Err(error) => Box::pin(async move { Err(error) }),
        }
    }

    fn set_voters(&self, request: SetVoters) -> Answer<MembershipChanged> {
        let voters = request.voters.into_iter().map(|id| id.0).collect();
        match log_id(request.if_membership.as_deref()) {
            Ok(expect) => self.verb(move |group| async move { group.set_voters(voters, expect).await }),
            Err(error) => Box::pin(async move { Err(error) }),
        }
    }

    fn transfer(&self, request: Transfer) -> Answer<Done> {
        let group = self.group.clone();
        Box::pin(async move {
            let before = group.leader();
            group.transfer_leader(request.to).await?;
            Ok(Done { changed: before != group.leader() })
        })
    }

    fn shrink_log(&self) -> Answer<Done> {
        let group = self.group.clone();
        Box::pin(async move {
            let before = group.status().purged;
            group.shrink_log().await?;
            Ok(Done { changed: before != group.status().purged })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_id_reads_back() {
        let id = LogId { term: 3, node: 0x1f, index: 900 };
        assert_eq!(log_id(Some(&id.to_string())), Ok(Some(id)));
        for wrong in ["", "3", "3-1f", "3-zz-900", "3-1f-900-1", "-1-1f-900"] {
            assert!(log_id(Some(wrong)).is_err(), "{wrong:?}");
        }
    }
}
