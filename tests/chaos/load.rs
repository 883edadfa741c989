//! The clients: each one operation after the other, at any node, on keys that all of them share.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use kvnode_tests::client::{CallError, Client};
use kvnode_tests::history::was_never_proposed;
use kvnode_tests::resp::Value;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use rand::{RngExt, SeedableRng};
use tokio::task::JoinSet;

use crate::keys::{Class, Key, Keys};
use crate::record::{Deed, Operation, Outcome, Record};

/// Longer than a node holds a command for want of a leader (5 s).
const PATIENCE: Duration = Duration::from_secs(8);
const CONNECT_MAX: Duration = Duration::from_millis(700);
const MOMENT: Duration = Duration::from_millis(20);
/// Locks outlast the run, also one in which a clock jumps by a day.
const LEASE_MS: &str = "3000000000";
const UNLOCK: &str =
    "if redis.call('get', KEYS[1]) == ARGV[1] then return redis.call('del', KEYS[1]) else return 0 end";
/// How many keys a last look reads at once.
const BATCH: usize = 500;

/// What clients work on.
#[derive(Clone)]
pub(crate) struct Shared {
    pub(crate) record: Arc<Record>,
    pub(crate) keys: Arc<Keys>,
    values: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    addrs: Arc<Vec<String>>,
    /// Numbers of clients that have not been used.
    processes: Arc<AtomicU64>,
}

pub(crate) struct Load {
    pub(crate) shared: Shared,
    clients: JoinSet<()>,
}

impl Load {
    /// Starts so many clients of the nodes at these addresses.
    pub(crate) fn start(addrs: Vec<String>, clients: usize, seed: u64) -> Self {
        let shared = Shared {
            record: Arc::default(),
            keys: Arc::default(),
            values: Arc::new(AtomicU64::new(1)),
            stop: Arc::default(),
            addrs: Arc::new(addrs),
            processes: Arc::new(AtomicU64::new(clients as u64)),
        };
        let mut tasks = JoinSet::new();
        for number in 0..clients as u64 {
            let random = StdRng::seed_from_u64(seed.wrapping_mul(1000).wrapping_add(number));
            let process = u32::try_from(number).unwrap_or(0);
            tasks.spawn(Worker { shared: shared.clone(), random, process }.run());
        }
        Self { shared, clients: tasks }
    }

    /// Ends the clients, each after the operation in hand.
    pub(crate) async fn stop(&mut self) -> Result<()> {
        self.shared.stop.store(true, Ordering::Relaxed);
        while let Some(ended) = self.clients.join_next().await {
            ended.context("a client")?;
        }
        Ok(())
    }
}

/// No more is to be had from this connection.
struct Lost;

impl From<CallError> for Lost {
    fn from(_: CallError) -> Self {
        Self
    }
}

struct Worker {
    shared: Shared,
    random: StdRng,
    process: u32,
}

impl Worker {
    async fn run(mut self) {
        let mut connection: Option<Client> = None;
        while !self.shared.stop.load(Ordering::Relaxed) {
            let Some(mut client) = connection.take() else {
                let addr = self.shared.addrs.choose(&mut self.random).cloned().unwrap_or_default();
                let connecting = tokio::time::timeout(CONNECT_MAX, Client::connect(&addr)).await;
                match connecting {
                    Ok(Ok(client)) => connection = Some(client.with_patience(PATIENCE)),
                    _ => self.wait_for_others().await,
                }
                continue;
            };
            match self.one(&mut client).await {
                Ok(()) if self.random.random_bool(0.995) => connection = Some(client),
                Ok(()) => {}
                Err(Lost) => self.wait_for_others().await,
            }
        }
    }

    /// After a refusal: a moment, or until somebody else has got on.
    async fn wait_for_others(&self) {
        let _ = tokio::time::timeout(MOMENT, self.shared.record.moved()).await;
    }

    async fn one(&mut self, client: &mut Client) -> Result<(), Lost> {
        match self.random.random_range(0..100) {
            0..42 => self.register(client).await,
            42..54 => self.pair(client).await,
            54..70 => self.counter(client).await,
            70..86 => self.swap(client).await,
            86..97 => self.lock(client).await,
            _ => self.revisit(client).await,
        }
    }

    fn value(&self) -> u64 {
        self.shared.values.fetch_add(1, Ordering::Relaxed)
    }

    /// Adds what came of one operation; `Err` if its connection is of no more use.
    fn note(&mut self, key: u32, deed: Deed, outcome: Outcome, call: u64) -> Result<Outcome, Lost> {
        let record = &self.shared.record;
        record.add(Operation { process: self.process, key, deed, outcome, call, end: record.now() });
        if outcome == Outcome::Unknown {
            let next = self.shared.processes.fetch_add(1, Ordering::Relaxed);
            self.process = u32::try_from(next).unwrap_or(u32::MAX);
        }
        if matches!(outcome, Outcome::Failed | Outcome::Unknown) { Err(Lost) } else { Ok(outcome) }
    }

    async fn call(
        &mut self,
        client: &mut Client,
        key: u32,
        deed: Deed,
        words: &[&str],
    ) -> Result<Outcome, Lost> {
        let call = self.shared.record.now();
        let reply = client.call(words).await;
        self.note(key, deed, outcome(deed, reply.as_ref().ok()), call)
    }

    async fn register(&mut self, client: &mut Client) -> Result<(), Lost> {
        let (key, name) = self.shared.keys.draw(Class::Register, &mut self.random);
        match self.random.random_range(0..10) {
            0..4 => {
                let value = self.value();
                self.call(client, key, Deed::Write(value), &["SET", &name, &value.to_string()]).await?
            }
            4 => self.call(client, key, Deed::Delete, &["DEL", &name]).await?,
            _ => self.call(client, key, Deed::Read, &["GET", &name]).await?,
        };
        Ok(())
    }

    async fn pair(&mut self, client: &mut Client) -> Result<(), Lost> {
        let (key, name) = self.shared.keys.draw(Class::Pair, &mut self.random);
        if self.random.random_bool(0.5) {
            return self.read_pair(client, key, &name).await;
        }
        let value = self.value();
        let (first, second, text) = (format!("{name}:a"), format!("{name}:b"), value.to_string());
        if self.random.random_bool(0.5) {
            self.call(client, key, Deed::Write(value), &["MSET", &first, &text, &second, &text]).await?;
            return Ok(());
        }
        let transaction = words(&[&["MULTI"], &["SET", &first, &text], &["SET", &second, &text], &["EXEC"]]);
        let call = self.shared.record.now();
        let replies = client.pipeline(&transaction).await;
        let outcome = executed(replies.as_ref().ok().and_then(|replies| replies.last()));
        self.note(key, Deed::Write(value), outcome, call)?;
        Ok(())
    }

    async fn read_pair(&mut self, client: &mut Client, key: u32, name: &str) -> Result<(), Lost> {
        let call = self.shared.record.now();
        let reply = client.call(&["MGET", &format!("{name}:a"), &format!("{name}:b")]).await;
        let items = reply.as_ref().ok().map(Value::items).unwrap_or_default();
        let outcome = match items.as_slice() {
            [first, second] => {
                if first != second {
                    self.shared.record.contradiction(format!("pair {name} is torn: {reply:?}"));
                }
                seen(first)
            }
            _ => Outcome::Failed,
        };
        self.note(key, Deed::Read, outcome, call)?;
        Ok(())
    }

    async fn counter(&mut self, client: &mut Client) -> Result<(), Lost> {
        let (key, name) = self.shared.keys.draw(Class::Counter, &mut self.random);
        if self.random.random_bool(0.6) {
            self.call(client, key, Deed::Add, &["INCR", &name]).await?;
        } else {
            self.call(client, key, Deed::Read, &["GET", &name]).await?;
        }
        Ok(())
    }

    async fn swap(&mut self, client: &mut Client) -> Result<(), Lost> {
        let (key, name) = self.shared.keys.draw(Class::Swapped, &mut self.random);
        let is_transaction = self.random.random_bool(0.5);
        if is_transaction && !client.call(&["WATCH", &name]).await?.is_ok() {
            return Err(Lost);
        }
        let Outcome::Ok(old) = self.call(client, key, Deed::Read, &["GET", &name]).await? else {
            return Err(Lost);
        };
        let (new, value) = (self.value(), old.unwrap_or(0));
        let (old_text, text) = (value.to_string(), new.to_string());
        if !is_transaction {
            let command = match old {
                None => vec!["SET", &name, &text, "NX"],
                Some(_) => vec!["SET", &name, &text, "IFEQ", &old_text],
            };
            self.call(client, key, Deed::Swap(value, new), &command).await?;
            return Ok(());
        }
        let transaction = words(&[&["MULTI"], &["SET", &name, &text], &["EXEC"]]);
        let call = self.shared.record.now();
        let replies = client.pipeline(&transaction).await;
        let last = replies.as_ref().ok().and_then(|replies| replies.last());
        if matches!(last, Some(Value::Nil)) {
            // Somebody changed it. Not a refusal that proves another content: WATCH may be wrong on the safe side.
            let _ = self.note(key, Deed::Swap(value, new), Outcome::Failed, call);
            return Ok(());
        }
        self.note(key, Deed::Swap(value, new), executed(last), call)?;
        Ok(())
    }

    async fn lock(&mut self, client: &mut Client) -> Result<(), Lost> {
        let (key, name) = self.shared.keys.draw(Class::Lock, &mut self.random);
        let token = self.value();
        let owner = token.to_string();
        let acquire = ["SET", &name, &owner, "NX", "PX", LEASE_MS];
        let Outcome::Ok(_) = self.call(client, key, Deed::Acquire(token), &acquire).await? else {
            return Ok(());
        };
        self.call(client, key, Deed::Read, &["GET", &name]).await?;
        if self.random.random_bool(0.5) {
            self.call(client, key, Deed::Release(token), &["DELIFEQ", &name, &owner]).await?;
        } else {
            self.call(client, key, Deed::Release(token), &["EVAL", UNLOCK, "1", &name, &owner]).await?;
        }
        Ok(())
    }

    async fn revisit(&mut self, client: &mut Client) -> Result<(), Lost> {
        let (key, Key { class, name, .. }) = self.shared.keys.revisit(&mut self.random);
        if class == Class::Pair {
            return self.read_pair(client, key, &name).await;
        }
        self.call(client, key, Deed::Read, &["GET", &name]).await?;
        Ok(())
    }
}

fn words(commands: &[&[&str]]) -> Vec<Vec<String>> {
    commands.iter().map(|command| command.iter().map(|&word| word.to_owned()).collect()).collect()
}

/// What a GET's reply says.
fn seen(reply: &Value) -> Outcome {
    match reply {
        Value::Nil => Outcome::Ok(None),
        other => match other.as_text().map(str::parse) {
            Some(Ok(value)) => Outcome::Ok(Some(value)),
            _ => Outcome::Failed,
        },
    }
}

/// What EXEC's reply says of a transaction of SETs.
fn executed(reply: Option<&Value>) -> Outcome {
    match reply {
        Some(reply) if reply.as_error().is_some_and(was_never_proposed) => Outcome::Failed,
        Some(Value::Array(items)) if items.iter().all(Value::is_ok) => Outcome::Ok(None),
        _ => Outcome::Unknown,
    }
}

/// What the reply says of the operation; a read without an answer says nothing.
fn outcome(deed: Deed, reply: Option<&Value>) -> Outcome {
    let Some(reply) = reply else {
        return if deed == Deed::Read { Outcome::Failed } else { Outcome::Unknown };
    };
    if deed == Deed::Read || reply.as_error().is_some_and(was_never_proposed) {
        return if reply.as_error().is_some() { Outcome::Failed } else { seen(reply) };
    }
    let number = reply.as_int().and_then(|number| u64::try_from(number).ok());
    match (deed, reply, number) {
        (Deed::Write(_) | Deed::Swap(..) | Deed::Acquire(_), reply, _) if reply.is_ok() => Outcome::Ok(None),
        (Deed::Swap(..) | Deed::Acquire(_), Value::Nil, _) | (Deed::Release(_), _, Some(0)) => {
            Outcome::Refused
        }
        (Deed::Add | Deed::Delete | Deed::Release(_), _, Some(number)) => Outcome::Ok(Some(number)),
        _ => Outcome::Unknown,
    }
}

/// Reads every key once, as the last word of the history.
pub(crate) async fn look_again(client: &mut Client, shared: &Shared) -> Result<()> {
    let keys = shared.keys.all();
    for (at, batch) in keys.chunks(BATCH).enumerate() {
        let commands: Vec<Vec<String>> = batch
            .iter()
            .map(|key| match key.class {
                Class::Pair => vec!["MGET".into(), format!("{}:a", key.name), format!("{}:b", key.name)],
                _ => vec!["GET".into(), key.name.clone()],
            })
            .collect();
        let call = shared.record.now();
        let replies = client.pipeline(&commands).await?;
        let end = shared.record.now();
        for (index, (key, reply)) in batch.iter().zip(&replies).enumerate() {
            let items = reply.items();
            let first = items.first().copied().unwrap_or(reply);
            ensure!(items.iter().all(|item| *item == first), "pair {} is torn: {reply:?}", key.name);
            let outcome = seen(first);
            ensure!(outcome != Outcome::Failed, "reading {} again: {reply:?}", key.name);
            let key = u32::try_from(at * BATCH + index)?;
            shared.record.add(Operation { process: u32::MAX, key, deed: Deed::Read, outcome, call, end });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_reply_that_says_so_is_done_or_not_done() {
        let ok = Value::Simple("OK".into());
        let error = |text: &str| Value::Error(text.into());
        assert_eq!(outcome(Deed::Write(1), Some(&ok)), Outcome::Ok(None));
        assert_eq!(outcome(Deed::Write(1), None), Outcome::Unknown);
        assert_eq!(outcome(Deed::Write(1), Some(&error("ERR outcome unknown: x"))), Outcome::Unknown);
        assert_eq!(outcome(Deed::Write(1), Some(&error("LOADING leader not known"))), Outcome::Failed);
        assert_eq!(outcome(Deed::Write(1), Some(&error("OOM disk full"))), Outcome::Failed);
        assert_eq!(outcome(Deed::Read, None), Outcome::Failed);
        assert_eq!(outcome(Deed::Read, Some(&Value::Nil)), Outcome::Ok(None));
        assert_eq!(outcome(Deed::Read, Some(&Value::Bulk(b"7".to_vec()))), Outcome::Ok(Some(7)));
        assert_eq!(outcome(Deed::Swap(1, 2), Some(&Value::Nil)), Outcome::Refused);
        assert_eq!(outcome(Deed::Release(1), Some(&Value::Int(0))), Outcome::Refused);
        assert_eq!(outcome(Deed::Add, Some(&Value::Int(3))), Outcome::Ok(Some(3)));
        assert_eq!(executed(Some(&Value::Array(vec![ok]))), Outcome::Ok(None));
        assert_eq!(executed(Some(&error("EXECABORT x"))), Outcome::Unknown);
        assert_eq!(executed(None), Outcome::Unknown);
    }
}
