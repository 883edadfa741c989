//! Clients on a machine of their own: some that work and write down what they saw, and one that gives orders.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use kvnode_server::sim::Host;
use kvnode_server::sim::net::{Net, TcpStream};
use kvnode_tests::history::{Action, Content, Operation, was_never_proposed};
use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::runtime::Runtime;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use crate::counter::Increment;
use crate::node;
use crate::trace::Trace;

/// Keys that the clients work on.
pub const KEYS: usize = 5;
/// The counter that they increment.
pub const COUNTER: &str = "c";
/// Clients that work: what each does.
const ROLES: &[Role] =
    &[Role::Mixed, Role::Mixed, Role::Mixed, Role::Mixed, Role::Mixed, Role::Reads, Role::Reads, Role::Bulk];
/// How many that are.
pub const CLIENTS: usize = ROLES.len();
const CONNECT_MAX: Duration = Duration::from_millis(500);
/// Half of the time a client gives up soon and asks another node, else it waits for longer than any fault lasts.
const ANSWER_MAX: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(8)];
const PATIENT: f64 = 0.5;
/// Load comes and goes: in some stretches of time, by seed, nothing is written. Then one that is cut off misses
/// nothing, and can be elected where it should not.
const STRETCH_MS: u64 = 2500;
const QUIET: f64 = 0.4;
/// Keys and greatest size of what fills segments and memtables, so that logs are purged and states flushed.
const BULK: (usize, usize) = (4, 40_000);

/// A reply, as far as the clients tell them apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// `+`.
    Simple(String),
    /// `-`.
    Error(String),
    /// `:`.
    Int(i64),
    /// `$`; `None` is nil.
    Bulk(Option<String>),
}

/// What a client does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    /// Reads, writes and increments.
    Mixed,
    /// Reads only: where writes hang, it still asks.
    Reads,
    /// Writes large values, which nobody reads; that all nodes have the same is seen in the digest of the contents.
    Bulk,
}

impl Role {
    /// Pause between two operations: from, to.
    fn think_ms(self) -> (u64, u64) {
        match self {
            Self::Mixed => (0, 40),
            Self::Reads => (0, 20),
            Self::Bulk => (20, 200),
        }
    }
}

/// What all clients share.
pub struct Shared {
    trace: Trace,
    seed: u64,
    /// `None` if it did not take place.
    history: Mutex<Vec<Option<Operation>>>,
    increments: Mutex<Vec<Option<Increment>>>,
    orders: Mutex<Vec<(u64, Result<Reply, String>)>>,
    values: AtomicU64,
    stop: AtomicBool,
}

impl Shared {
    /// Nothing is to be written just now.
    fn is_quiet(&self) -> bool {
        let stretch = self.trace.now_ms() / STRETCH_MS;
        StdRng::seed_from_u64(self.seed ^ (stretch << 32)).random_bool(QUIET)
    }

    /// Notes an operation that is under way: a write that is not answered before the end of the run may take effect too.
    fn begin(&self, operation: Operation) -> usize {
        let mut history = self.history.lock();
        let is_read = matches!(operation.action, Action::Get(_));
        history.push((!is_read).then_some(operation));
        history.len() - 1
    }

    fn end(&self, place: usize, operation: Option<Operation>) {
        if let Some(noted) = self.history.lock().get_mut(place) {
            *noted = operation;
        }
    }
}

/// The machine of the clients.
pub struct Clients {
    host: Arc<Host>,
    runtime: Runtime,
    origin: Instant,
    shared: Arc<Shared>,
    orders: u64,
}

impl Clients {
    /// Starts the clients that work; they find nobody before there is a cluster.
    ///
    /// # Errors
    /// No runtime.
    pub fn start(net: &Arc<Net>, nodes: usize, seed: u64, trace: Trace) -> Result<Self> {
        let host = Host::new(IpAddr::V4(Ipv4Addr::new(10, 0, 1, 1)), net.clone(), seed);
        host.enter();
        let runtime = node::runtime()?;
        let shared = Arc::new(Shared {
            trace,
            seed,
            history: Mutex::default(),
            increments: Mutex::default(),
            orders: Mutex::default(),
            values: AtomicU64::new(1),
            stop: AtomicBool::new(false),
        });
        let origin = runtime.block_on(async { Instant::now() });
        for (number, role) in ROLES.iter().copied().enumerate() {
            let random = StdRng::seed_from_u64(seed.wrapping_add(1 + number as u64));
            let worker = Worker { number, role, nodes, random, connection: None, shared: shared.clone() };
            drop(runtime.spawn(worker.run()));
        }
        Ok(Self { host, runtime, origin, shared, orders: 0 })
    }

    /// Runs all clients to a global time.
    pub fn run_to(&self, now_ms: u64) {
        self.host.enter();
        let until = self.origin + Duration::from_millis(now_ms);
        self.runtime.block_on(async { sleep_until(until).await });
    }

    /// Where they are.
    #[must_use]
    pub fn ip(&self) -> IpAddr {
        self.host.ip
    }

    /// Has the clients end.
    pub fn stop(&self) {
        self.shared.stop.store(true, Ordering::Relaxed);
    }

    /// Sends a command to a node; the answer is found by its number, see [`Clients::answer`].
    pub fn order(&mut self, node: usize, words: &[String], patience: Duration) -> u64 {
        self.orders += 1;
        let (number, shared, words) = (self.orders, self.shared.clone(), words.to_vec());
        let ask = async move {
            let asked = timeout(patience, async {
                let mut connection = Connection::open(node::addr(node)).await?;
                connection.call(&words).await
            });
            let answer = asked.await.context("no answer in time").and_then(|answer| answer);
            let answer = answer.map_err(|error| format!("{error:#}"));
            shared.trace.note(format_args!("order {number} {} at node {node}: {answer:?}", words.join(" ")));
            shared.orders.lock().push((number, answer));
        };
        self.host.enter();
        drop(self.runtime.spawn(ask));
        number
    }

    /// The answer to an order, once.
    #[must_use]
    pub fn answer(&self, number: u64) -> Option<Result<Reply, String>> {
        let mut orders = self.shared.orders.lock();
        let at = orders.iter().position(|(known, _)| *known == number)?;
        Some(orders.swap_remove(at).1)
    }

    /// What the clients saw so far.
    #[must_use]
    pub fn history(&self) -> Vec<Operation> {
        self.shared.history.lock().iter().flatten().copied().collect()
    }

    /// All increments of the counter.
    #[must_use]
    pub fn increments(&self) -> Vec<Increment> {
        self.shared.increments.lock().iter().flatten().copied().collect()
    }

    /// Adds a read that was ordered.
    pub fn add(&self, operation: Operation) {
        self.shared.history.lock().push(Some(operation));
    }
}

/// The content that the reply to a GET shows.
///
/// # Errors
/// It is no value of a client.
pub fn content(reply: &Reply) -> Result<Content> {
    match reply {
        Reply::Bulk(None) => Ok(None),
        Reply::Bulk(Some(text)) => Ok(Some(text.parse()?)),
        other => bail!("{other:?}"),
    }
}

struct Connection {
    stream: TcpStream,
    buffer: Vec<u8>,
}

impl Connection {
    async fn open(addr: SocketAddr) -> Result<Self> {
        let stream = timeout(CONNECT_MAX, TcpStream::connect(&addr.to_string())).await??;
        Ok(Self { stream, buffer: Vec::new() })
    }

    async fn call(&mut self, words: &[String]) -> Result<Reply> {
        let mut request = format!("*{}\r\n", words.len());
        for word in words {
            request.push_str(&format!("${}\r\n{word}\r\n", word.len()));
        }
        self.stream.write_all(request.as_bytes()).await?;
        let line = self.line().await?;
        let (kind, rest) = line.split_at_checked(1).context("an empty reply")?;
        Ok(match kind {
            "+" => Reply::Simple(rest.to_owned()),
            "-" => Reply::Error(rest.to_owned()),
            ":" => Reply::Int(rest.parse()?),
            "$" if rest == "-1" => Reply::Bulk(None),
            "$" => Reply::Bulk(Some(self.line().await?)),
            _ => bail!("unexpected reply {line:?}"),
        })
    }

    async fn line(&mut self) -> Result<String> {
        loop {
            if let Some(end) = self.buffer.windows(2).position(|pair| pair == b"\r\n") {
                let line = String::from_utf8(self.buffer.drain(..end + 2).take(end).collect())?;
                return Ok(line);
            }
            if self.stream.read_buf(&mut self.buffer).await? == 0 {
                bail!("closed");
            }
        }
    }
}

struct Worker {
    number: usize,
    role: Role,
    nodes: usize,
    random: StdRng,
    connection: Option<Connection>,
    shared: Arc<Shared>,
}

impl Worker {
    async fn run(mut self) {
        while !self.shared.stop.load(Ordering::Relaxed) {
            // The pace of the load, in virtual time: nothing is waited for.
            let (from, to) = self.role.think_ms();
            sleep(Duration::from_millis(self.random.random_range(from..=to))).await;
            let Some(mut connection) = self.connection.take() else {
                let node = self.random.random_range(0..self.nodes);
                self.connection = Connection::open(node::addr(node)).await.ok();
                continue;
            };
            let role = if self.shared.is_quiet() { Role::Reads } else { self.role };
            let increments = role == Role::Mixed && self.random.random_bool(0.15);
            let is_of_use = match role {
                Role::Bulk => self.fill(&mut connection).await,
                _ if increments => self.increment(&mut connection).await,
                Role::Mixed | Role::Reads => self.one(&mut connection, role).await,
            };
            if is_of_use && self.random.random_bool(0.98) {
                self.connection = Some(connection);
            }
        }
    }

    /// One operation. False if the connection is of no use any more.
    async fn one(&mut self, connection: &mut Connection, role: Role) -> bool {
        let key = self.random.random_range(0..KEYS);
        let name = format!("r{key}");
        let kind = if role == Role::Reads { 9 } else { self.random.random_range(0..10) };
        let (action, words) = match kind {
            0..4 => {
                let value = self.shared.values.fetch_add(1, Ordering::Relaxed);
                (Action::Set(value), vec!["SET".into(), name, value.to_string()])
            }
            4 => (Action::Del(None), vec!["DEL".into(), name]),
            _ => (Action::Get(None), vec!["GET".into(), name]),
        };
        let call = self.shared.trace.moment();
        let (client, place) =
            (self.number, self.shared.begin(Operation { client: self.number, key, action, call, end: None }));
        let (reply, end) = self.ask(connection, &words).await;
        let outcome = outcome(action, reply.as_ref().ok(), end);
        self.shared.end(place, outcome.map(|(action, end)| Operation { client, key, action, call, end }));
        reply.is_ok()
    }

    /// One large SET. False if the connection is of no use any more.
    async fn fill(&mut self, connection: &mut Connection) -> bool {
        let (key, size) = (self.random.random_range(0..BULK.0), self.random.random_range(1..=BULK.1));
        let letter = char::from(self.random.random_range(b'a'..=b'z'));
        let words = ["SET".to_owned(), format!("f{key}"), std::iter::repeat_n(letter, size).collect()];
        self.ask(connection, &words).await.0.is_ok()
    }

    /// One INCR. False if the connection is of no use any more.
    async fn increment(&mut self, connection: &mut Connection) -> bool {
        let call = self.shared.trace.moment();
        let place = {
            let mut increments = self.shared.increments.lock();
            increments.push(Some(Increment { call, told: None }));
            increments.len() - 1
        };
        let (reply, end) = self.ask(connection, &["INCR".to_owned(), COUNTER.to_owned()]).await;
        let increment = match &reply {
            Ok(Reply::Error(error)) if was_never_proposed(error) => None,
            Ok(Reply::Int(value)) => Some(Increment { call, told: Some((end, *value)) }),
            _ => Some(Increment { call, told: None }),
        };
        if let Some(noted) = self.shared.increments.lock().get_mut(place) {
            *noted = increment;
        }
        reply.is_ok()
    }

    /// The reply, and the moment when it came.
    async fn ask(&mut self, connection: &mut Connection, words: &[String]) -> (Result<Reply, String>, u64) {
        let (trace, called_ms) = (&self.shared.trace, self.shared.trace.now_ms());
        let patience = ANSWER_MAX[usize::from(self.random.random_bool(PATIENT))];
        let answer = timeout(patience, connection.call(words)).await;
        let end = trace.moment();
        let reply = answer.context("no answer in time").and_then(|reply| reply);
        let reply = reply.map_err(|error| format!("{error:#}"));
        let short =
            |word: &String| if word.len() > 20 { format!("({} bytes)", word.len()) } else { word.clone() };
        let (client, words) = (self.number, words.iter().map(short).collect::<Vec<_>>().join(" "));
        trace.note(format_args!("client {client} {words} since {called_ms}: {reply:?}"));
        (reply, end)
    }
}

/// What the reply says of the operation; `None` if it did not take place.
fn outcome(action: Action, reply: Option<&Reply>, end: u64) -> Option<(Action, Option<u64>)> {
    match (action, reply) {
        (_, Some(Reply::Error(error))) if was_never_proposed(error) => None,
        (Action::Get(_), Some(reply)) => content(reply).ok().map(|seen| (Action::Get(seen), Some(end))),
        (Action::Get(_), None) => None,
        (Action::Set(_), Some(Reply::Simple(_))) => Some((action, Some(end))),
        (Action::Del(_), Some(Reply::Int(count))) => Some((Action::Del(Some(*count == 1)), Some(end))),
        (Action::Set(_) | Action::Del(_), _) => Some((action, None)),
    }
}
