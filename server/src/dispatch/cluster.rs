//! CLUSTER: the group as a Redis Cluster of one shard; what needs no data is in `view`.

mod view;

use bytes::Bytes;

use super::fault::Fault;
use super::replica::Replica;
use super::{Connection, Dispatcher, render};
use crate::clock::monotonic;
use crate::command::{ClusterOp, View, slot};
use crate::config::Redirect;
use crate::net::Flow;
use crate::resp::Reply;
use crate::store::{Answer, Query};

/// Keys of one step of a walk over all of them.
const STEP_KEYS: u64 = 10_000;

impl<R: Replica> Dispatcher<R> {
    /// Performs one.
    pub(super) async fn cluster(&self, connection: &Connection, op: ClusterOp) -> (Reply, Flow) {
        if self.parts.config.redirect != Redirect::Moved {
            let text = "ERR This instance has cluster support disabled";
            return (Reply::Error(text.to_owned()), Flow::Continue);
        }
        let status = self.parts.group.status();
        let reply = match op {
            ClusterOp::Info => view::info(&status),
            ClusterOp::MyId => view::my_id(&status),
            ClusterOp::MyShardId => view::my_shard_id(&status),
            ClusterOp::Slots => view::slots(&status),
            ClusterOp::Shards => view::shards(&status),
            ClusterOp::Nodes => view::nodes(&status),
            ClusterOp::Replicas(id) => view::replicas(&status, &id),
            ClusterOp::FailureReports(id) => view::failure_reports(&status, &id),
            ClusterOp::Links => view::links(&status),
            ClusterOp::KeySlot(key) => Reply::Integer(i64::from(slot::of(&key))),
            ClusterOp::CountKeys(slot) => {
                let counted = self.keys_in_slot(connection, slot, usize::MAX, false).await;
                return counted.map_or_else(
                    |refused| refused,
                    |(count, _)| (Reply::Integer(i64::try_from(count).unwrap_or(i64::MAX)), Flow::Continue),
                );
            }
            ClusterOp::GetKeys { slot, count } => {
                let found = self.keys_in_slot(connection, slot, count, true).await;
                return found.map_or_else(
                    |refused| refused,
                    |(_, keys)| {
                        (Reply::Array(keys.into_iter().map(Reply::Bulk).collect()), Flow::Continue)
                    },
                );
            }
            ClusterOp::Refused => Reply::Error(
                "ERR the slots are one range that the leader owns: members change by RAFTADDPEER and RAFTREMOVEPEER, the \
                 leader by RAFTTRANSFER"
                    .to_owned(),
            ),
        };
        (reply, Flow::Continue)
    }

    /// Walks the keys of database 0, until `most` of a slot are met; keeps them if they are wanted, within the limit of
    /// one reply.
    async fn keys_in_slot(
        &self,
        connection: &Connection,
        wanted: u16,
        most: usize,
        keeps: bool,
    ) -> Result<(usize, Vec<Bytes>), (Reply, Flow)> {
        let reply_bytes_max = self.parts.config.limits.reply_bytes_max;
        let plain = |answer| (render::answer(answer, &View::Plain, reply_bytes_max), Flow::Continue);
        let refuse = |fault: Fault| (self.refuse(&fault, None), Flow::Continue);
        self.barrier(&connection.session).await.map_err(refuse)?;
        let (now, stale) = (self.log_clock.at(monotonic()), connection.session.stale_reads);
        let (mut count, mut keys, mut size_bytes, mut cursor) = (0, Vec::new(), 0, 0);
        while count < most {
            let page = Query::Scan { db: 0, cursor, pattern: None, count: STEP_KEYS, only: None };
            let (next, page) = match self.ask(page, now, stale).await? {
                Answer::Scan { cursor, keys } => (cursor, keys),
                other => return Err(plain(other)),
            };
            for key in page.into_iter().filter(|key| slot::of(key) == wanted).take(most - count) {
                count += 1;
                if keeps {
                    size_bytes += 16 + key.len() as u64;
                    keys.push(key);
                }
            }
            if size_bytes > reply_bytes_max {
                return Err(plain(Answer::TooLarge));
            }
            cursor = next;
            if cursor == 0 {
                break;
            }
        }
        Ok((count, keys))
    }
}
