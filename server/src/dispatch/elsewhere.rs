//! Where a read is answered: from the state of this node, or by the leader when that state does not reach what is
//! committed (a disk that takes nothing more, a long replay). Only reads of a run have the second way; WATCH, scripts
//! and CLUSTER look at the local state, wait for it as long as a command is held, and are refused then, as not done.

use super::Dispatcher;
use super::fault::Fault;
use super::replica::Replica;
use crate::config::Consistency;
use crate::net::Flow;
use crate::resp::Reply;
use crate::session::Session;
use crate::store::{Answer, Query};

/// Whose state answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Source {
    /// This node's, behind a barrier.
    Fresh,
    /// This node's, as it is.
    Stale,
    /// That of the leader.
    Leader,
}

impl Source {
    /// What a barrier allows.
    pub(super) fn of(barrier: &Result<(), Fault>, stale: bool) -> Self {
        match barrier {
            Err(Fault::Behind) => Self::Leader,
            _ if stale => Self::Stale,
            _ => Self::Fresh,
        }
    }
}

impl<R: Replica> Dispatcher<R> {
    /// How fresh the reads of a connection are.
    pub(super) fn level(&self, session: &Session) -> Consistency {
        if session.stale_reads { Consistency::Low } else { self.parts.config.consistency }
    }

    /// The barrier of reads that only this node can answer.
    pub(super) async fn barrier(&self, session: &Session) -> Result<(), Fault> {
        self.parts.group.read_barrier(self.level(session)).await.map_err(Fault::from)
    }

    /// The barrier of reads that the leader can answer as well.
    pub(super) async fn brief_barrier(&self, session: &Session) -> Result<(), Fault> {
        self.parts.group.brief_read_barrier(self.level(session)).await.map_err(Fault::from)
    }

    /// Has the leader answer. As with a local read, the log decides where a deadline seems to have come.
    pub(super) async fn ask_leader(&self, query: Query) -> Result<Answer, (Reply, Flow)> {
        let refuse = |fault: Fault| (self.refuse(&fault, None), Flow::Continue);
        let query = match query {
            Query::RandomKey { db, .. } => Query::RandomKey { db, seed: rand::random() },
            query => query,
        };
        let group = &self.parts.group;
        let answer = group.query_leader(&query, true).await.map_err(|error| refuse(error.into()))?;
        if answer != Answer::Due {
            return Ok(answer);
        }
        self.bring_time_forward().await.map_err(refuse)?;
        group.query_leader(&query, false).await.map_err(|error| refuse(error.into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_node_that_is_behind_has_its_leader_answer() {
        assert_eq!(Source::of(&Ok(()), false), Source::Fresh);
        assert_eq!(Source::of(&Ok(()), true), Source::Stale);
        assert_eq!(Source::of(&Err(Fault::Behind), false), Source::Leader);
        assert_eq!(Source::of(&Err(Fault::NoLeader), false), Source::Fresh, "refused before it is asked");
    }
}
