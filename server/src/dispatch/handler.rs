//! The dispatcher as the sockets see it.

use std::net::SocketAddr;

use bytes::BytesMut;

use super::replica::Replica;
use super::{Connection, Dispatcher};
use crate::net::{Ends, Flow, Handler};
use crate::resp::Request;
use crate::tls::Certificate;

impl<R: Replica> Handler for Dispatcher<R> {
    type Session = Connection;

    fn open(&self, id: u64, peer: SocketAddr, local: SocketAddr, ends: Ends) -> Connection {
        self.open_as(id, (peer, local), ends, false)
    }

    fn identified(&self, connection: &mut Connection, certificate: &Certificate) {
        let names = certificate.user_names(self.parts.config.tls.client_user);
        self.log_in_by_certificate(connection, names);
    }

    fn refuses(&self, peer: SocketAddr) -> Option<&'static str> {
        self.protected_from(peer.ip())
    }

    fn is_stranger(&self, connection: &Connection) -> bool {
        connection.standing.login.user().is_none()
    }

    async fn turn(
        &self,
        connection: &mut Connection,
        requests: &mut Vec<Request>,
        out: &mut BytesMut,
    ) -> Flow {
        self.answer(connection, requests, out).await
    }

    async fn pushed(&self, connection: &Connection) {
        connection.subscriptions.arrived().await;
    }

    fn take_pushes(&self, connection: &mut Connection, out: &mut BytesMut) {
        self.take_messages(connection, out);
    }

    fn close(&self, mut connection: Connection) {
        self.silence(&mut connection);
        self.clients.close(connection.client.id);
    }
}
