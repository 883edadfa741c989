//! Changes and questions about client connections: HELLO, SELECT, RESET, CLIENT.

use bytes::Bytes;

use super::clients::Client;
use super::replica::Replica;
use super::{Connection, Dispatcher, views};
use crate::clock::monotonic;
use crate::command::args::printable;
use crate::command::{self, SessionOp};
use crate::config::Redirect;
use crate::net::Flow;
use crate::resp::{Protocol, Reply};
use crate::session::Session;

impl<R: Replica> Dispatcher<R> {
    /// Changes or describes connections.
    pub(super) fn session_op(&self, connection: &mut Connection, op: SessionOp) -> (Option<Reply>, Flow) {
        let Connection { session, client, .. } = connection;
        let reply = match op {
            op @ (SessionOp::Multi | SessionOp::Discard | SessionOp::Unwatch) => {
                Self::transaction_op(connection, &op)
            }
            // Served by `perform`, which waits for the group.
            SessionOp::Exec | SessionOp::Watch(_) => Reply::Error("ERR not in a transaction".to_owned()),
            SessionOp::Auth(credentials) => self.auth(connection, &credentials),
            SessionOp::Hello { protocol, name, login } => {
                if let Some(refused) = self.hello_login(connection, login.as_ref()) {
                    return (Some(refused), Flow::Continue);
                }
                let Connection { session, client, .. } = connection;
                session.protocol = protocol.unwrap_or(session.protocol);
                if let Some(name) = name {
                    client.set_name(&name);
                }
                self.hello(session, client)
            }
            SessionOp::Reset => {
                session.reset();
                client.reset();
                self.silence(connection);
                self.forget_login(connection);
                Reply::Simple("RESET")
            }
            SessionOp::Quit => return (Some(Reply::Ok), Flow::Close),
            SessionOp::Select(db) => {
                session.db = db;
                Reply::Ok
            }
            SessionOp::StaleReads(stale) => {
                session.stale_reads = stale;
                Reply::Ok
            }
            SessionOp::SetName(name) => {
                client.set_name(&name);
                Reply::Ok
            }
            SessionOp::GetName => {
                let name = client.name();
                if name.is_empty() { Reply::Nil } else { Reply::Bulk(name) }
            }
            SessionOp::Id => Reply::Integer(i64::try_from(client.id).unwrap_or(i64::MAX)),
            SessionOp::SetLibraryName(name) => {
                client.set_library_name(&name);
                Reply::Ok
            }
            SessionOp::SetLibraryVersion(version) => {
                client.set_library_version(&version);
                Reply::Ok
            }
            SessionOp::Info => {
                connection.follow();
                Reply::Verbatim(format!("{}\n", connection.client.line(monotonic())).into())
            }
            SessionOp::List { ids, class } => {
                Reply::Verbatim(self.clients.list(ids.as_deref(), class, monotonic()).into())
            }
            SessionOp::Kill(filter) => return self.kill(client, &filter),
            op @ (SessionOp::Pause { .. }
            | SessionOp::Unpause
            | SessionOp::Unblock { .. }
            | SessionOp::Monitor) => self.op_on_others(connection, &op),
            SessionOp::Replies(mode) => {
                session.set_replies(mode);
                Reply::Ok
            }
        };
        (Some(reply), Flow::Continue)
    }

    /// Lets others wait, lets one go, or watches them.
    fn op_on_others(&self, connection: &Connection, op: &SessionOp) -> Reply {
        match op {
            SessionOp::Pause { time, writes_only } => self.pause.begin(*time, *writes_only),
            SessionOp::Unblock { id, with_error } => {
                return Reply::Integer(i64::from(self.clients.unblock(*id, *with_error)));
            }
            SessionOp::Monitor => return self.monitor(connection),
            _ => self.pause.end(),
        }
        Reply::Ok
    }

    fn kill(&self, client: &Client, filter: &command::KillFilter) -> (Option<Reply>, Flow) {
        if let Some(user) = filter.user.as_ref().filter(|user| self.access().users().find(user).is_none()) {
            let text = format!("ERR No such user '{}'", printable(user));
            return (Some(Reply::Error(text)), Flow::Continue);
        }
        let (killed, caller_too) = self.clients.kill(filter, client.id);
        let flow = if caller_too { Flow::Close } else { Flow::Continue };
        let reply = match (filter.old_form, killed) {
            (true, 0) => Reply::Error("ERR No such client".to_owned()),
            (true, _) => Reply::Ok,
            (false, killed) => Reply::Integer(i64::try_from(killed).unwrap_or(i64::MAX)),
        };
        (Some(reply), flow)
    }

    fn hello(&self, session: &Session, client: &Client) -> Reply {
        let redirect = self.parts.config.redirect;
        let bulk = |text: &'static str| Reply::Bulk(Bytes::from_static(text.as_bytes()));
        let master = views::takes_writes(&self.parts.group.status(), redirect);
        let protocol = if session.protocol == Protocol::Resp3 { 3 } else { 2 };
        Reply::Map(vec![
            (bulk("server"), bulk("redis")),
            (bulk("version"), bulk(command::REDIS_VERSION)),
            (bulk("proto"), Reply::Integer(protocol)),
            (bulk("id"), Reply::Integer(i64::try_from(client.id).unwrap_or(i64::MAX))),
            (bulk("mode"), bulk(if redirect == Redirect::Moved { "cluster" } else { "standalone" })),
            (bulk("role"), bulk(if master { "master" } else { "replica" })),
            (bulk("modules"), Reply::Array(Vec::new())),
        ])
    }
}
