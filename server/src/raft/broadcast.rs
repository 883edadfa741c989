//! What the members say to each other past the log, at most once: messages of PUBLISH, and questions about what each node
//! has in memory only.
//!
//! ```text
//! Group::broadcast -> one PUBLISH frame to each other member  -> Messages::arrived there -> its subscribers
//! Group::ask       -> one QUESTION frame to each other member -> Messages::answer there, and back
//! ```
//!
//! Nothing is kept or repeated. A connection to each member is opened with the first message and lives as long as the
//! node; its queue is bounded, and what does not fit is dropped.

use std::cell::OnceCell;
use std::collections::BTreeMap;
use std::sync::OnceLock;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::future::join_all;
use parking_lot::Mutex;

use super::codec::{self, DecodeError, Reader};
use super::core::Core;
use super::peer::client::{CallError, PeerClient};
use super::peer::messages::{PUBLISH, PUBLISH_TO_SHARD, QUESTION};

/// Time that the others have for an answer: many round trips, and short for a client that waits while a member is dead.
const PATIENCE: Duration = Duration::from_millis(300);

/// Takes a message: whether it is for a shard channel, the channel, the text.
pub(super) type Deliver = Box<dyn Fn(bool, &Bytes, &Bytes) + Send + Sync>;
/// Answers a question of another member.
pub(super) type Answer = Box<dyn Fn(Vec<Bytes>) -> Vec<Bytes> + Send + Sync>;

/// Connections for messages, and who takes those that arrive.
pub(super) struct Messages {
    /// `None` once the node stops: an open connection would outlive it.
    clients: Mutex<Option<BTreeMap<u64, PeerClient>>>,
    deliver: OnceLock<Deliver>,
    answer: OnceLock<Answer>,
}

impl Default for Messages {
    fn default() -> Self {
        Self { clients: Mutex::new(Some(BTreeMap::new())), deliver: OnceLock::new(), answer: OnceLock::new() }
    }
}

impl Messages {
    pub(super) fn on_message(&self, deliver: Deliver) {
        // A second taker would be a second delivery.
        let _ = self.deliver.set(deliver);
    }

    pub(super) fn on_question(&self, answer: Answer) {
        // As above: one node, one answer.
        let _ = self.answer.set(answer);
    }

    /// Lets the connections go; what is sent from now on reaches nobody else.
    pub(super) fn close(&self) {
        *self.clients.lock() = None;
    }

    pub(super) fn broadcast(&self, core: &Core, to_shard: bool, channel: &Bytes, message: &Bytes) {
        let kind = if to_shard { PUBLISH_TO_SHARD } else { PUBLISH };
        // The calls are queued at once; their answers tell nothing that could be acted on.
        let body = OnceCell::new();
        drop(self.call_others(core, kind, &|_| {
            let encode = || {
                let mut body = BytesMut::with_capacity(8 + channel.len() + message.len());
                codec::put_blob(&mut body, channel);
                codec::put_blob(&mut body, message);
                body.freeze()
            };
            Some(body.get_or_init(encode).clone())
        }));
    }

    /// The answers of the other members, of those that answer within [`PATIENCE`].
    pub(super) async fn ask(&self, core: &Core, question: &[Bytes]) -> Vec<Vec<Bytes>> {
        let calls = self.call_others(core, QUESTION, &|_| Some(encode_words(question)));
        let answers = calls.into_iter().map(|(_, call)| async {
            let body = tokio::time::timeout(PATIENCE, call).await.ok()?.ok()?;
            decode_words(body).ok()
        });
        join_all(answers).await.into_iter().flatten().collect()
    }

    /// Queues a call to each other member for which there is a body.
    pub(super) fn call_others(
        &self,
        core: &Core,
        kind: u8,
        body: &dyn Fn(u64) -> Option<Bytes>,
    ) -> Vec<(u64, impl Future<Output = Result<Bytes, CallError>> + use<>)> {
        let members = core.members.load();
        let others = || members.nodes.iter().filter(|(id, _)| **id != core.local.node_id);
        let mut clients = self.clients.lock();
        let Some(clients) = clients.as_mut() else { return Vec::new() };
        clients.retain(|id, _| members.nodes.contains_key(id));
        let mut calls = Vec::new();
        for (id, node) in others() {
            let client = clients.entry(*id).or_insert_with(|| {
                PeerClient::new(core.local.clone(), *id, node.peer_addr.clone(), &core.tasks)
            });
            if let Some(body) = body(*id) {
                calls.push((*id, client.call(kind, body)));
            }
        }
        calls
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

    /// Answers the body of a question from another member.
    pub(super) fn answer(&self, body: Bytes) -> Result<Bytes, DecodeError> {
        let question = decode_words(body)?;
        let answer = self.answer.get().map(|answer| answer(question)).unwrap_or_default();
        Ok(encode_words(&answer))
    }
}

/// A question or its answer: `u32` length and bytes of each word.
pub(super) fn encode_words(words: &[Bytes]) -> Bytes {
    let mut out = BytesMut::with_capacity(words.iter().map(|word| 4 + word.len()).sum());
    for word in words {
        codec::put_blob(&mut out, word);
    }
    out.freeze()
}

pub(super) fn decode_words(body: Bytes) -> Result<Vec<Bytes>, DecodeError> {
    let mut reader = Reader::new("question", body);
    let mut words = Vec::new();
    while !reader.is_empty() {
        words.push(reader.blob()?);
    }
    Ok(words)
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

    #[test]
    fn a_question_is_answered_by_who_was_named_for_it() {
        let messages = Messages::default();
        let question = vec![Bytes::from_static(b"who"), Bytes::new()];
        let nobody = messages.answer(encode_words(&question)).unwrap();
        assert_eq!(decode_words(nobody), Ok(Vec::new()));
        messages.on_question(Box::new(|mut words| {
            words.reverse();
            words
        }));
        let answer = messages.answer(encode_words(&question)).unwrap();
        assert_eq!(decode_words(answer), Ok(vec![Bytes::new(), Bytes::from_static(b"who")]));
        assert!(messages.answer(Bytes::from_static(b"\x04\0\0\0who")).is_err());
    }
}
