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
//! - A mailbox is bounded: a subscriber that lags by [`MAILBOX_BYTES_MAX`] is closed, and learns it by that. So is a
//!   client that watches what others do (`monitor`), whose lines come through its mailbox too.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use parking_lot::{Mutex, RwLock};
use tokio::sync::Notify;

use super::clients::Client;
use super::questions::Question;
use super::replica::Replica;
use super::{Connection, Dispatcher, ReplySink};
use crate::command::pubsub::Kind;
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
    messages: VecDeque<Letter>,
    size_bytes: usize,
    overflowed: bool,
}

/// What may wait in a mailbox.
#[derive(Clone, Debug)]
pub(super) enum Letter {
    /// A message.
    Message(Message),
    /// A line of MONITOR, as it is written.
    Line(Bytes),
}

impl Letter {
    fn size_bytes(&self) -> usize {
        match self {
            Self::Message(message) => message.size_bytes(),
            Self::Line(line) => 64 + line.len(),
        }
    }
}

/// A message on its way to one subscriber.
#[derive(Clone, Debug)]
pub(super) struct Message {
    /// The pattern that it matched, of a pattern's subscriber.
    pattern: Option<Bytes>,
    /// To the subscriber of a shard channel.
    to_shard: bool,
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
            None => {
                let kind = word(if self.to_shard { "smessage" } else { "message" });
                vec![kind, Reply::Bulk(self.channel), Reply::Bulk(self.payload)]
            }
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
    /// Takes a letter unless more than `bytes_max` would wait; false if the client lags too far and is to be closed.
    pub(super) fn put(&self, letter: Letter, bytes_max: usize) -> bool {
        let mut waiting = self.waiting.lock();
        waiting.size_bytes += letter.size_bytes();
        if waiting.size_bytes > bytes_max {
            waiting.overflowed = true;
            waiting.messages.clear();
        } else if !waiting.overflowed {
            waiting.messages.push_back(letter);
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
            if !self.is_empty() {
                return;
            }
            arrived.await;
        }
    }

    /// Whether there is nothing to take, not even the news that it overflowed.
    fn is_empty(&self) -> bool {
        let waiting = self.waiting.lock();
        !waiting.overflowed && waiting.messages.is_empty()
    }
}

/// Names that a connection listens to, and its mailbox.
#[derive(Debug, Default)]
pub(super) struct Subscriptions {
    names: [BTreeSet<Bytes>; Kind::ALL.len()],
    pub(super) mailbox: Arc<Mailbox>,
}

impl Subscriptions {
    /// As [`Mailbox::arrived`], at the price of a glance where nobody else knows the mailbox: only this connection could
    /// make it known, and it waits.
    pub(super) async fn arrived(&self) {
        if Arc::strong_count(&self.mailbox) == 1 && self.mailbox.is_empty() {
            std::future::pending::<()>().await;
        }
        self.mailbox.arrived().await;
    }

    pub(super) fn count(&self) -> usize {
        self.names.iter().map(BTreeSet::len).sum()
    }

    /// Names of a kind.
    pub(super) fn of(&self, kind: Kind) -> &BTreeSet<Bytes> {
        let [channels, patterns, shards] = &self.names;
        match kind {
            Kind::Channel => channels,
            Kind::Pattern => patterns,
            Kind::Shard => shards,
        }
    }

    #[cfg(test)]
    pub(super) fn listen(&mut self, kind: Kind, name: &'static str) {
        self.of_mut(kind).insert(Bytes::from_static(name.as_bytes()));
    }

    fn of_mut(&mut self, kind: Kind) -> &mut BTreeSet<Bytes> {
        let [channels, patterns, shards] = &mut self.names;
        match kind {
            Kind::Channel => channels,
            Kind::Pattern => patterns,
            Kind::Shard => shards,
        }
    }

    /// The number that a subscription of this kind is answered with: shard channels count apart.
    fn told(&self, kind: Kind) -> usize {
        let shards = self.of(Kind::Shard).len();
        if kind == Kind::Shard { shards } else { self.count() - shards }
    }
}

/// Who listens to a name: client id, its mailbox, and the client to close when that is full.
type Clients = BTreeMap<u64, (Arc<Mailbox>, Arc<Client>)>;
type Listeners = BTreeMap<Bytes, Clients>;

/// Puts a message into mailboxes. A subscriber that lags may be stuck in a write, so it is closed from here.
fn put_all(clients: &Clients, message: &Message) -> usize {
    for (mailbox, client) in clients.values() {
        if !mailbox.put(Letter::Message(message.clone()), MAILBOX_BYTES_MAX) {
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
    shards: RwLock<Listeners>,
}

impl Registry {
    fn listeners(&self, kind: Kind) -> &RwLock<Listeners> {
        match kind {
            Kind::Channel => &self.channels,
            Kind::Pattern => &self.patterns,
            Kind::Shard => &self.shards,
        }
    }

    fn remove(&self, kind: Kind, name: &Bytes, client: u64) {
        let mut listeners = self.listeners(kind).write();
        if let Some(clients) = listeners.get_mut(name) {
            clients.remove(&client);
            if clients.is_empty() {
                listeners.remove(name);
            }
        }
    }

    /// Names of a kind that are listened to.
    pub(super) fn names(&self, kind: Kind) -> usize {
        self.listeners(kind).read().len()
    }

    /// Names of a kind that are listened to, which fit a glob.
    pub(super) fn names_like(&self, kind: Kind, pattern: Option<&[u8]>) -> Vec<Bytes> {
        let fits = |name: &&Bytes| pattern.is_none_or(|pattern| glob::matches(pattern, name));
        self.listeners(kind).read().keys().filter(fits).cloned().collect()
    }

    /// How many listen to a name.
    pub(super) fn listening(&self, kind: Kind, name: &Bytes) -> usize {
        self.listeners(kind).read().get(name).map_or(0, BTreeMap::len)
    }

    /// Closes the clients that listen to a name which they may not: `refused(client, name, is_pattern)`.
    pub(super) fn close_those(&self, refused: impl Fn(&Client, &[u8], bool) -> bool) {
        for kind in Kind::ALL {
            let is_pattern = kind == Kind::Pattern;
            for (name, clients) in self.listeners(kind).read().iter() {
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
    pub(super) fn deliver(&self, to_shard: bool, channel: &Bytes, payload: &Bytes) -> usize {
        let mut count = 0;
        let message =
            |pattern| Message { pattern, to_shard, channel: channel.clone(), payload: payload.clone() };
        let kind = if to_shard { Kind::Shard } else { Kind::Channel };
        if let Some(clients) = self.listeners(kind).read().get(channel) {
            count += put_all(clients, &message(None));
        }
        if to_shard {
            return count;
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
    pub(super) fn publish(&self, to_shard: bool, channel: &Bytes, message: &Bytes) -> usize {
        self.parts.group.broadcast(to_shard, channel, message);
        self.registry.deliver(to_shard, channel, message)
    }

    /// Hands on a message that was published on another node.
    pub fn deliver(&self, to_shard: bool, channel: &Bytes, message: &Bytes) {
        self.registry.deliver(to_shard, channel, message);
    }

    /// Performs a messaging command; each name of a subscription has a push of its own.
    pub(super) async fn pub_sub(&self, connection: &mut Connection, op: PubSubOp) -> Vec<Reply> {
        match op {
            PubSubOp::Publish { to_shard, channel, message } => {
                vec![count(self.publish(to_shard, &channel, &message))]
            }
            PubSubOp::Subscribe { kind, names } => names
                .into_iter()
                .map(|name| self.subscribe(connection, kind, &Bytes::copy_from_slice(&name)))
                .collect(),
            PubSubOp::Unsubscribe { kind, names } => self.unsubscribe(connection, kind, names),
            PubSubOp::Channels(kind, pattern) => {
                let names = self.names_everywhere(kind, pattern).await;
                vec![Reply::Array(names.into_iter().map(Reply::Bulk).collect())]
            }
            PubSubOp::Subscribers(kind, names) => vec![self.subscribers_everywhere(kind, names).await],
            PubSubOp::Patterns => vec![count(self.names_everywhere(Kind::Pattern, None).await.len())],
        }
    }

    /// Names of a kind that somebody listens to on any member that can be reached.
    async fn names_everywhere(&self, kind: Kind, pattern: Option<Bytes>) -> BTreeSet<Bytes> {
        let mut names: BTreeSet<Bytes> =
            self.registry.names_like(kind, pattern.as_deref()).into_iter().collect();
        names.extend(self.ask_members(&Question::Names(kind, pattern)).await.into_iter().flatten());
        names
    }

    /// Names, and how many listen to each on all members that can be reached.
    async fn subscribers_everywhere(&self, kind: Kind, names: Vec<Bytes>) -> Reply {
        let answers = self.ask_members(&Question::Subscribers(kind, names.clone())).await;
        let told = |at: usize| {
            let number =
                |answer: &Vec<Bytes>| std::str::from_utf8(answer.get(at)?).ok()?.parse::<usize>().ok();
            answers.iter().filter_map(number).fold(0, usize::saturating_add)
        };
        let pairs = names.into_iter().enumerate().flat_map(|(at, name)| {
            let number = self.registry.listening(kind, &name).saturating_add(told(at));
            [Reply::Bulk(name), count(number)]
        });
        Reply::Array(pairs.collect())
    }

    fn subscribe(&self, connection: &mut Connection, kind: Kind, name: &Bytes) -> Reply {
        let client = connection.client.id;
        let mine = &mut connection.subscriptions;
        if mine.count() >= NAMES_MAX {
            return Reply::Error(format!("ERR a connection listens to at most {NAMES_MAX} names"));
        }
        if mine.of_mut(kind).insert(name.clone()) {
            let mut listeners = self.registry.listeners(kind).write();
            let listener = (mine.mailbox.clone(), connection.client.clone());
            listeners.entry(name.clone()).or_default().insert(client, listener);
        }
        let done = match kind {
            Kind::Channel => "subscribe",
            Kind::Pattern => "psubscribe",
            Kind::Shard => "ssubscribe",
        };
        Reply::Push(vec![word(done), Reply::Bulk(name.clone()), count(mine.told(kind))])
    }

    fn unsubscribe(&self, connection: &mut Connection, kind: Kind, names: Vec<Bytes>) -> Vec<Reply> {
        let client = connection.client.id;
        let mine = &mut connection.subscriptions;
        let done = match kind {
            Kind::Channel => "unsubscribe",
            Kind::Pattern => "punsubscribe",
            Kind::Shard => "sunsubscribe",
        };
        let names = if names.is_empty() { mine.of(kind).iter().cloned().collect() } else { names };
        if names.is_empty() {
            return vec![Reply::Push(vec![word(done), Reply::Nil, count(mine.told(kind))])];
        }
        let mut replies = Vec::with_capacity(names.len());
        for name in names {
            if mine.of_mut(kind).remove(&name) {
                self.registry.remove(kind, &name, client);
            }
            replies.push(Reply::Push(vec![word(done), Reply::Bulk(name), count(mine.told(kind))]));
        }
        replies
    }

    /// Forgets what a connection listened to and watched (RESET, close).
    pub(super) fn silence(&self, connection: &mut Connection) {
        let client = connection.client.id;
        self.monitors.remove(client);
        let mine = std::mem::take(&mut connection.subscriptions);
        for (kind, names) in Kind::ALL.into_iter().zip(mine.names) {
            for name in names {
                self.registry.remove(kind, &name, client);
            }
        }
    }

    /// Appends what has arrived for a connection, up to a turn's worth of output; one that lags too far is closed.
    pub(super) fn take_messages(&self, connection: &Connection, out: &mut BytesMut) {
        let mut waiting = connection.subscriptions.mailbox.waiting.lock();
        while out.len() < self.parts.config.limits.output_bytes_pause {
            let Some(letter) = waiting.messages.pop_front() else { break };
            waiting.size_bytes -= letter.size_bytes();
            match letter {
                Letter::Message(message) => out.put(&message.reply(), connection.session.protocol),
                Letter::Line(line) => out.extend_from_slice(&line),
            }
        }
    }

    /// What a subscriber in RESP2 is answered differently: it has messages only, and PING looks like one. `None` if the
    /// request goes its normal way.
    pub(super) fn answer_among_messages(connection: &Connection, request: &Request) -> Option<Reply> {
        let allowed = [
            "SUBSCRIBE",
            "UNSUBSCRIBE",
            "PSUBSCRIBE",
            "PUNSUBSCRIBE",
            "SSUBSCRIBE",
            "SUNSUBSCRIBE",
            "QUIT",
            "RESET",
        ];
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
