//! Messages of PUBLISH between the members: past the log, at most once.
//!
//! ```text
//! Group::broadcast -> one PUBLISH frame to each other member -> messages::arrived there -> its subscribers
//! ```
//!
//! Nothing is kept or repeated. A connection to each member is opened with the first message and lives as long as the
//! node; its queue is bounded, and what does not fit is dropped.

use std::collections::BTreeMap;
use std::sync::OnceLock;

use bytes::{Bytes, BytesMut};
use parking_lot::Mutex;

use super::codec::{self, DecodeError, Reader};
use super::core::Core;
use super::peer::client::PeerClient;
use super::peer::messages::{PUBLISH, PUBLISH_TO_SHARD};

/// Takes a message: whether it is for a shard channel, the channel, the text.
pub(super) type Deliver = Box<dyn Fn(bool, &Bytes, &Bytes) + Send + Sync>;

/// Connections for messages, and who takes those that arrive.
pub(super) struct Messages {
    /// `None` once the node stops: an open connection would outlive it.
    clients: Mutex<Option<BTreeMap<u64, PeerClient>>>,
    deliver: OnceLock<Deliver>,
}

impl Default for Messages {
    fn default() -> Self {
        Self { clients: Mutex::new(Some(BTreeMap::new())), deliver: OnceLock::new() }
    }
}

impl Messages {
    pub(super) fn on_message(&self, deliver: Deliver) {
        // A second taker would be a second delivery.
        let _ = self.deliver.set(deliver);
    }

    /// Lets the connections go; what is sent from now on reaches nobody else.
    pub(super) fn close(&self) {
        *self.clients.lock() = None;
    }

    pub(super) fn broadcast(&self, core: &Core, to_shard: bool, channel: &Bytes, message: &Bytes) {
        let members = core.members.load();
        let others = || members.nodes.iter().filter(|(id, _)| **id != core.local.node_id);
        let mut clients = self.clients.lock();
        let Some(clients) = clients.as_mut() else { return };
        clients.retain(|id, _| members.nodes.contains_key(id));
        if others().next().is_none() {
            return;
        }
        let mut body = BytesMut::with_capacity(8 + channel.len() + message.len());
        codec::put_blob(&mut body, channel);
        codec::put_blob(&mut body, message);
        let body = body.freeze();
        let kind = if to_shard { PUBLISH_TO_SHARD } else { PUBLISH };
        for (id, node) in others() {
            let client = clients.entry(*id).or_insert_with(|| {
                PeerClient::new(core.local.clone(), *id, node.peer_addr.clone(), &core.tasks)
            });
            // The call is queued at once; its answer tells nothing that could be acted on.
            drop(client.call(kind, body.clone()));
        }
    }

    /// Takes the body of a frame from another member.
    pub(super) fn arrived(&self, to_shard: bool, body: Bytes) -> Result<(), DecodeError> {
        let mut reader = Reader::new("message", body);
        let (channel, message) = (reader.blob()?, reader.blob()?);
        reader.end()?;
        if let Some(deliver) = self.deliver.get() {
            // Copies: slices would keep the whole read buffer as long as the message waits for a subscriber.
            deliver(to_shard, &Bytes::copy_from_slice(&channel), &Bytes::copy_from_slice(&message));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn a_message_arrives_as_it_was_sent_and_half_of_one_does_not() {
        let messages = Messages::default();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let sink = seen.clone();
        messages.on_message(Box::new(move |to_shard, channel, message| {
            sink.lock().push((to_shard, channel.clone(), message.clone()));
        }));
        let mut body = BytesMut::new();
        codec::put_blob(&mut body, b"news");
        codec::put_blob(&mut body, b"");
        let body = body.freeze();
        assert_eq!(messages.arrived(true, body.clone()), Ok(()));
        assert_eq!(*seen.lock(), [(true, Bytes::from_static(b"news"), Bytes::new())]);
        assert!(messages.arrived(false, body.slice(..body.len() - 1)).is_err());
    }
}
