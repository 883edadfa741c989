//! Three nodes, eight clients over eight keys, faults; afterwards the recorded history is judged key by key.
//!
//! Each seed decides the operations and the faults; the interleaving is the machine's. After the faults the cluster has
//! to heal: all nodes hold the same content, and a last read of each key joins the history.

mod chains;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use kvnode_tests::checker;
use kvnode_tests::client::{CallError, Client};
use kvnode_tests::cluster::Cluster;
use kvnode_tests::history::{Action, Content, History, Operation, was_never_proposed};
use kvnode_tests::nemesis;
use kvnode_tests::resp::Value;
use kvnode_tests::scenario::scenario;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::task::JoinSet;

const CLIENTS: usize = 8;
const KEYS: usize = 8;
const FAULTS: usize = 8;

#[test]
fn histories_of_seed_1_are_linearizable() {
    judged(1, &[]);
}

#[test]
fn histories_of_seed_2_are_linearizable() {
    judged(2, &[]);
}

#[test]
fn histories_at_durability_medium_are_linearizable_over_process_faults() {
    judged(3, &["--durability", "medium"]);
}

fn judged(seed: u64, flags: &[&str]) {
    scenario(3, flags, async |cluster| {
        let history = Arc::new(History::default());
        let stop = Arc::new(AtomicBool::new(false));
        let values = Arc::new(AtomicU64::new(1));
        let addrs: Vec<String> = cluster.nodes.iter().map(|node| node.addr().to_owned()).collect();
        let mut clients = JoinSet::new();
        for number in 0..CLIENTS {
            let worker = Worker {
                number,
                addrs: addrs.clone(),
                history: Arc::clone(&history),
                values: Arc::clone(&values),
                random: StdRng::seed_from_u64(seed * 1000 + number as u64),
                connection: None,
            };
            clients.spawn(worker.run(Arc::clone(&stop)));
        }
        let tormented = nemesis::torment(cluster, history.as_ref(), seed, FAULTS).await;
        stop.store(true, Ordering::Relaxed);
        while let Some(ended) = clients.join_next().await {
            ended?;
        }
        let faults = tormented?;
        heal(cluster, &history).await?;
        judge(&history, seed)?;
        println!(
            "seed {seed}: {} operations, faults {faults:?}, longest time without a write {} ms",
            history.len(),
            history.longest_write_gap_ms(KEYS)
        );
        Ok(())
    });
}

/// Safety first, then healing: with the faults over, all nodes agree and serve.
async fn heal(cluster: &mut Cluster, history: &History) -> Result<()> {
    cluster.await_voters(3).await?;
    cluster.same_content().await?;
    let mut client = cluster.leader_client().await?;
    for key in 0..KEYS {
        let call = history.now();
        let reply = client.run(&format!("GET r{key}")).await?;
        let seen = content(&reply)?;
        history.add(Operation {
            client: CLIENTS,
            key,
            action: Action::Get(seen),
            call,
            end: Some(history.now()),
        });
    }
    Ok(())
}

fn judge(history: &History, seed: u64) -> Result<()> {
    for (key, operations) in history.by_key(KEYS).iter().enumerate() {
        if let Err(violation) = checker::check(None, operations) {
            anyhow::bail!(
                "seed {seed}, key r{key}: not linearizable after {} explained operations, content {:?}, cannot place {:?}; near it: {:#?}",
                violation.explained,
                violation.content,
                violation.stuck,
                violation.around
            );
        }
    }
    let acknowledged =
        history.by_key(KEYS).iter().flatten().filter(|operation| operation.end.is_some()).count();
    ensure!(acknowledged > 1000, "only {acknowledged} operations: the history proves little");
    Ok(())
}

/// The content that a GET's reply shows.
fn content(reply: &Value) -> Result<Content> {
    match reply {
        Value::Nil => Ok(None),
        other => Ok(Some(other.as_text().with_context(|| format!("{other:?}"))?.parse()?)),
    }
}

struct Worker {
    number: usize,
    addrs: Vec<String>,
    history: Arc<History>,
    values: Arc<AtomicU64>,
    random: StdRng,
    connection: Option<Client>,
}

impl Worker {
    async fn run(mut self, stop: Arc<AtomicBool>) {
        while !stop.load(Ordering::Relaxed) {
            let Some(mut client) = self.connection.take() else {
                let addr = &self.addrs[self.random.random_range(0..self.addrs.len())];
                self.connection = Client::connect(addr)
                    .await
                    .ok()
                    .map(|client| client.with_patience(Duration::from_secs(8)));
                tokio::task::yield_now().await;
                continue;
            };
            if self.one(&mut client).await.is_ok() && self.random.random_bool(0.98) {
                self.connection = Some(client);
            }
        }
    }

    async fn one(&mut self, client: &mut Client) -> Result<(), CallError> {
        let key = self.random.random_range(0..KEYS);
        let name = format!("r{key}");
        let call = self.history.now();
        let (action, result) = match self.random.random_range(0..10) {
            0..4 => {
                let value = self.values.fetch_add(1, Ordering::Relaxed);
                let result = client.call(&["SET", &name, &value.to_string()]).await;
                (Action::Set(value), result)
            }
            4 => (Action::Del(None), client.call(&["DEL", &name]).await),
            _ => (Action::Get(None), client.call(&["GET", &name]).await),
        };
        let end = self.history.now();
        if let Some((action, end)) = outcome(action, &result, end) {
            self.history.add(Operation { client: self.number, key, action, call, end });
        }
        result.map(|_| ())
    }
}

/// What the reply says of the operation; `None` if it did not take place.
fn outcome(action: Action, result: &Result<Value, CallError>, end: u64) -> Option<(Action, Option<u64>)> {
    match (action, result) {
        (_, Ok(reply)) if reply.as_error().is_some_and(was_never_proposed) => None,
        (Action::Get(_), Ok(reply)) => content(reply).ok().map(|seen| (Action::Get(seen), Some(end))),
        (Action::Get(_), Err(_)) => None,
        (Action::Set(_), Ok(reply)) if reply.is_ok() => Some((action, Some(end))),
        (Action::Del(_), Ok(Value::Int(count))) => Some((Action::Del(Some(*count == 1)), Some(end))),
        (Action::Set(_) | Action::Del(_), _) => Some((action, None)),
    }
}
