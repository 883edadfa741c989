//! Messages between clients: who listens to what on this node, and what waits to be written to each.
//!
//! ```text
//! PUBLISH -> subscribers here                               -> their mailboxes -> their connections
//!        `-> Replica::broadcast -> every other member -> deliver there
//! ```
//!
//! Invariants
//! - At most once, as in Redis: nothing is kept for who is not there, and a node that cannot be reached misses it.
//! - Messages of one publisher on one channel arrive in order.
//! - A mailbox is bounded: a subscriber that lags by [`MAILBOX_BYTES_MAX`] is closed, and learns it by that.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use parking_lot::{Mutex, RwLock};
use tokio::sync::Notify;

use super::clients::Client;
use super::replica::Replica;
use super::{Connection, Dispatcher, ReplySink};
use crate::command::{self, PubSubOp};
use crate::resp::{Protocol, Reply, Request};
use crate::store::glob;

/// Bytes that may wait for one subscriber; Redis closes it at 32 MiB too.
const MAILBOX_BYTES_MAX: usize = 32 << 20;
/// Names that one connection may listen to.
const NAMES_MAX: usize = 64 * 1024;

/// What waits for one connection.
#[derive(Debug, Default)]
pub(super) struct Mailbox {
    waiting: Mutex<Waiting>,
    arrived: Notify,
}

#[derive(Debug, Default)]
struct Waiting {
    messages: VecDeque<Message>,
    size_bytes: usize,
    overflowed: bool,
}

/// A message on its way to one subscriber.
#[derive(Clone, Debug)]
struct Message {
    /// The pattern that it matched, of a pattern's subscriber.
    pattern: Option<Bytes>,
    channel: Bytes,
    payload: Bytes,
}

impl Message {
    fn size_bytes(&self) -> usize {
        64 + self.channel.len() + self.payload.len()
    }

    fn reply(self) -> Reply {
        let word = |text: &'static str| Reply::Bulk(Bytes::from_static(text.as_bytes()));
        Reply::Push(match self.pattern {
            None => vec![word("message"), Reply::Bulk(self.channel), Reply::Bulk(self.payload)],
            Some(pattern) => vec![
                word("pmessage"),
                Reply::Bulk(pattern),
                Reply::Bulk(self.channel),
                Reply::Bulk(self.payload),
            ],
        })
    }
}

impl Mailbox {
    /// Takes a message; false if the subscriber lags too far and is to be closed.
    fn put(&self, message: Message) -> bool {
        let mut waiting = self.waiting.lock();
        waiting.size_bytes += message.size_bytes();
        if waiting.size_bytes > MAILBOX_BYTES_MAX {
            waiting.overflowed = true;
            waiting.messages.clear();
        } else if !waiting.overflowed {
            waiting.messages.push_back(message);
        }
        let goes_on = !waiting.overflowed;
        drop(waiting);
        self.arrived.notify_one();
        goes_on
    }

    /// Resolves when something has arrived that was not taken.
    pub(super) async fn arrived(&self) {
        loop {
            let arrived = self.arrived.notified();
            let ready = {
                let waiting = self.waiting.lock();
                waiting.overflowed || !waiting.messages.is_empty()
            };
            if ready {
                return;
            }
            arrived.await;
        }
    }
}

/// Names that a connection listens to, and its mailbox.
#[derive(Debug, Default)]
pub(super) struct Subscriptions {
    channels: BTreeSet<Bytes>,
    patterns: BTreeSet<Bytes>,
    pub(super) mailbox: Arc<Mailbox>,
}

impl Subscriptions {
    pub(super) fn count(&self) -> usize {
        self.channels.len() + self.patterns.len()
    }
}

/// Who listens to a name: client id, its mailbox, and the client to close when that is full.
type Clients = BTreeMap<u64, (Arc<Mailbox>, Arc<Client>)>;
type Listeners = BTreeMap<Bytes, Clients>;

/// Puts a message into mailboxes. A subscriber that lags may be stuck in a write, so it is closed from here.
fn put_all(clients: &Clients, message: &Message) -> usize {
    for (mailbox, client) in clients.values() {
        if !mailbox.put(message.clone()) {
            tracing::info!(client = client.id, "subscriber lags, connection closes");
            client.close();
        }
    }
    clients.len()
}

/// All listeners of this node.
#[derive(Debug, Default)]
pub(super) struct Registry {
    channels: RwLock<Listeners>,
    patterns: RwLock<Listeners>,
}

impl Registry {
    fn listeners(&self, patterns: bool) -> &RwLock<Listeners> {
        if patterns { &self.patterns } else { &self.channels }
    }

    fn remove(&self, patterns: bool, name: &Bytes, client: u64) {
        let mut listeners = self.listeners(patterns).write();
        if let Some(clients) = listeners.get_mut(name) {
            clients.remove(&client);
            if clients.is_empty() {
                listeners.remove(name);
            }
        }
    }

    /// Closes the clients that listen to a name which they may not: `refused(client, name, is_pattern)`.
    pub(super) fn close_those(&self, refused: impl Fn(&Client, &[u8], bool) -> bool) {
        for is_pattern in [false, true] {
            for (name, clients) in self.listeners(is_pattern).read().iter() {
                for (_, client) in clients.values().filter(|(_, client)| refused(client, name, is_pattern)) {
                    tracing::info!(
                        client = client.id,
                        "subscription is not permitted any more, connection closes"
                    );
                    client.close();
                }
            }
        }
    }

    /// Hands a message to who listens here; their number.
    pub(super) fn deliver(&self, channel: &Bytes, payload: &Bytes) -> usize {
        let mut count = 0;
        let message = |pattern| Message { pattern, channel: channel.clone(), payload: payload.clone() };
        if let Some(clients) = self.channels.read().get(channel) {
            count += put_all(clients, &message(None));
        }
        for (pattern, clients) in self.patterns.read().iter() {
            if glob::matches(pattern, channel) {
                count += put_all(clients, &message(Some(pattern.clone())));
            }
        }
        count
    }
}

fn count(n: usize) -> Reply {
    Reply::Integer(i64::try_from(n).unwrap_or(i64::MAX))
}

fn word(text: &'static str) -> Reply {
    Reply::Bulk(Bytes::from_static(text.as_bytes()))
}

impl<R: Replica> Dispatcher<R> {
    /// Sends a message to all nodes; the number of receivers on this one.
    pub(super) fn publish(&self, channel: &Bytes, message: &Bytes) -> usize {
        self.parts.group.broadcast(channel, message);
        self.registry.deliver(channel, message)
    }

    /// Hands on a message that was published on another node.
    pub fn deliver(&self, channel: &Bytes, message: &Bytes) {
        self.registry.deliver(channel, message);
    }

    /// Performs a messaging command; each name of a subscription has a push of its own.
    pub(super) fn pub_sub(&self, connection: &mut Connection, op: PubSubOp) -> Vec<Reply> {
        match op {
            PubSubOp::Publish { channel, message } => vec![count(self.publish(&channel, &message))],
            PubSubOp::Subscribe { patterns, names } => names
                .into_iter()
                .map(|name| self.subscribe(connection, patterns, &Bytes::copy_from_slice(&name)))
                .collect(),
            PubSubOp::Unsubscribe { patterns, names } => self.unsubscribe(connection, patterns, names),
            PubSubOp::Channels(pattern) => {
                let channels = self.registry.channels.read();
                let fits =
                    |name: &&Bytes| pattern.as_ref().is_none_or(|pattern| glob::matches(pattern, name));
                vec![Reply::Array(channels.keys().filter(fits).cloned().map(Reply::Bulk).collect())]
            }
            PubSubOp::Subscribers(names) => {
                let channels = self.registry.channels.read();
                let of = |name: &Bytes| channels.get(name).map_or(0, BTreeMap::len);
                let pairs = names.iter().flat_map(|name| [Reply::Bulk(name.clone()), count(of(name))]);
                vec![Reply::Array(pairs.collect())]
            }
            PubSubOp::Patterns => vec![count(self.registry.patterns.read().len())],
        }
    }

    fn subscribe(&self, connection: &mut Connection, patterns: bool, name: &Bytes) -> Reply {
        let client = connection.client.id;
        let mine = &mut connection.subscriptions;
        if mine.count() >= NAMES_MAX {
            return Reply::Error(format!("ERR a connection listens to at most {NAMES_MAX} names"));
        }
        let names = if patterns { &mut mine.patterns } else { &mut mine.channels };
        if names.insert(name.clone()) {
            let mut listeners = self.registry.listeners(patterns).write();
            let listener = (mine.mailbox.clone(), connection.client.clone());
            listeners.entry(name.clone()).or_default().insert(client, listener);
        }
        let kind = if patterns { "psubscribe" } else { "subscribe" };
        Reply::Push(vec![word(kind), Reply::Bulk(name.clone()), count(mine.count())])
    }

    fn unsubscribe(&self, connection: &mut Connection, patterns: bool, names: Vec<Bytes>) -> Vec<Reply> {
        let client = connection.client.id;
        let mine = &mut connection.subscriptions;
        let kind = if patterns { "punsubscribe" } else { "unsubscribe" };
        let held = if patterns { &mine.patterns } else { &mine.channels };
        let names = if names.is_empty() { held.iter().cloned().collect() } else { names };
        if names.is_empty() {
            return vec![Reply::Push(vec![word(kind), Reply::Nil, count(mine.count())])];
        }
        let mut replies = Vec::with_capacity(names.len());
        for name in names {
            let held = if patterns { &mut mine.patterns } else { &mut mine.channels };
            if held.remove(&name) {
                self.registry.remove(patterns, &name, client);
            }
            replies.push(Reply::Push(vec![word(kind), Reply::Bulk(name), count(mine.count())]));
        }
        replies
    }

    /// Forgets what a connection listened to (RESET, close).
    pub(super) fn silence(&self, connection: &mut Connection) {
        let client = connection.client.id;
        let Subscriptions { channels, patterns, .. } = std::mem::take(&mut connection.subscriptions);
        for (is_pattern, names) in [(false, channels), (true, patterns)] {
            for name in names {
                self.registry.remove(is_pattern, &name, client);
            }
        }
    }

    /// Appends what has arrived for a connection, up to a turn's worth of output; one that lags too far is closed.
    pub(super) fn take_messages(&self, connection: &Connection, out: &mut BytesMut) {
        let mut waiting = connection.subscriptions.mailbox.waiting.lock();
        while out.len() < self.parts.config.limits.output_bytes_pause {
            let Some(message) = waiting.messages.pop_front() else { break };
            waiting.size_bytes -= message.size_bytes();
            out.put(&message.reply(), connection.session.protocol);
        }
    }

    /// What a subscriber in RESP2 is answered differently: it has messages only, and PING looks like one. `None` if the
    /// request goes its normal way.
    pub(super) fn answer_among_messages(connection: &Connection, request: &Request) -> Option<Reply> {
        let allowed = ["SUBSCRIBE", "UNSUBSCRIBE", "PSUBSCRIBE", "PUNSUBSCRIBE", "QUIT", "RESET"];
        let name = command::row_of(&request.args)?.spec.name;
        if connection.session.protocol != Protocol::Resp2 || allowed.contains(&name) {
            return None;
        }
        if name == "PING" && request.args.len() <= 2 {
            let text = request.args.get(1).cloned().unwrap_or_default();
            return Some(Reply::Array(vec![word("pong"), Reply::Bulk(text)]));
        }
        Some(Reply::Error(format!(
            "ERR Can't execute '{}': only (P|S)SUBSCRIBE / (P|S)UNSUBSCRIBE / PING / QUIT / RESET are allowed in this \
             context",
            name.to_ascii_lowercase()
        )))
    }
}
