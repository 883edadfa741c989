//! A dispatcher over a scripted group: order, gathering, errors, connection state. No network, no disk.

mod reading;
mod users;
mod watching;

use std::collections::VecDeque;

use parking_lot::Mutex;

use super::views::tests::status;
use super::*;
use crate::config::Consistency;
use crate::net::{Ends, Handler as _};
use crate::raft::{MemberError, ProposeError, ReadError, Role, Stages, Status};
use crate::store::{Answer, Query, Visible};

/// What the group was asked, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Asked {
    Propose(usize),
    Barrier(Consistency),
    Query,
    AddPeer(String),
    RemovePeer(String),
    Transfer(Option<String>),
    ShrinkLog,
}

/// A group that answers every write with its number and every read with the key, unless a refusal is queued.
#[derive(Default)]
struct Script {
    asked: Mutex<Vec<Asked>>,
    refuse_writes: Mutex<VecDeque<ProposeError>>,
    refuse_reads: Mutex<VecDeque<ReadError>>,
    refuse_members: Mutex<VecDeque<MemberError>>,
    written: Mutex<i64>,
    role: Mutex<Option<Role>>,
    broken: AtomicBool,
    value: Mutex<Option<Bytes>>,
}

#[derive(Clone, Default)]
struct FakeGroup(Arc<Script>);

impl FakeGroup {
    fn ask(&self, asked: Asked) {
        self.0.asked.lock().push(asked);
    }

    fn member(&self, asked: Asked) -> Result<(), MemberError> {
        self.ask(asked);
        self.0.refuse_members.lock().pop_front().map_or(Ok(()), Err)
    }
}

impl Replica for FakeGroup {
    async fn propose(&self, ops: Vec<Op>) -> Result<(Vec<Outcome>, Stages), ProposeError> {
        self.ask(Asked::Propose(ops.len()));
        tokio::task::yield_now().await;
        if let Some(error) = self.0.refuse_writes.lock().pop_front() {
            return Err(error);
        }
        let mut written = self.0.written.lock();
        let outcomes = ops.iter().map(|op| match op {
            Op::Del { .. } => {
                *written += 1;
                Outcome::Int(*written)
            }
            _ => Outcome::Ok,
        });
        let stages = Stages { queue: Duration::from_micros(7), fsync: None, ..Stages::default() };
        Ok((outcomes.collect(), stages))
    }

    async fn read_barrier(&self, level: Consistency) -> Result<(), ReadError> {
        self.ask(Asked::Barrier(level));
        tokio::task::yield_now().await;
        self.0.refuse_reads.lock().pop_front().map_or(Ok(()), Err)
    }

    fn query(&self, query: &Query, _: UnixMs) -> Result<Answer, Fatal> {
        self.ask(Asked::Query);
        if self.0.broken.load(Ordering::Relaxed) {
            return Err(Fatal::new("read block 7", "checksum mismatch"));
        }
        Ok(match query {
            Query::Get { key, .. } if key.as_ref() == b"missing" => Answer::Value(None),
            Query::Get { key, .. } => {
                Answer::Value(Some(self.0.value.lock().clone().unwrap_or_else(|| key.clone())))
            }
            Query::DbSize { db } => Answer::Int(i64::from(*db)),
            Query::Keys { .. } => Answer::Keys(vec![(Bytes::from_static(b"k"), None)]),
            Query::RandomKey { seed, .. } => Answer::Key(Some(Bytes::from(seed.to_string()))),
            other => panic!("not scripted: {other:?}"),
        })
    }

    async fn query_leader(&self, _: &Query, by_clock: bool) -> Result<Answer, ReadError> {
        Ok(if by_clock { Answer::Due } else { Answer::Value(Some(Bytes::from_static(b"the leader's"))) })
    }
    fn log_time(&self) -> UnixMs {
        UnixMs(1)
    }
    fn visible(&self, db: u8, _: u64) -> Result<Visible, Fatal> {
        Ok(Visible { keys: u64::from(db % 2), ..Visible::default() })
    }
    fn data_bytes(&self) -> Option<u64> {
        Some(4096)
    }
    fn synced_index(&self) -> Option<u64> {
        Some(8)
    }
    fn log_bytes(&self) -> u64 {
        512
    }
    fn checkpoints_sent(&self) -> u64 {
        2
    }
    fn broadcast(&self, _: bool, _: &Bytes, _: &Bytes) {}
    async fn ask(&self, _: &[Bytes]) -> Vec<Vec<Bytes>> {
        Vec::new()
    }
    fn expired_keys(&self) -> u64 {
        7
    }
    fn status(&self) -> Status {
        status(self.0.role.lock().unwrap_or(Role::Leader))
    }

    async fn add_peer(&self, addr: String) -> Result<(), MemberError> {
        self.member(Asked::AddPeer(addr))
    }

    async fn remove_peer(&self, target: String) -> Result<(), MemberError> {
        self.member(Asked::RemovePeer(target))
    }

    async fn transfer_leader(&self, to: Option<String>) -> Result<(), MemberError> {
        self.member(Asked::Transfer(to))
    }

    async fn shrink_log(&self) -> Result<(), MemberError> {
        self.member(Asked::ShrinkLog)
    }
}

/// A snapshot service whose snapshots end when the test says how.
#[derive(Default)]
struct FakeSnapshots {
    ends: Mutex<VecDeque<tokio::sync::oneshot::Receiver<Result<(), String>>>>,
}

impl SnapshotService for FakeSnapshots {
    fn snapshot(&self) -> BoxFuture<'static, Result<(), String>> {
        let end = self.ends.lock().pop_front();
        Box::pin(async move {
            match end {
                Some(end) => end.await.unwrap_or_else(|_| Err("dropped".to_owned())),
                None => Ok(()),
            }
        })
    }

    fn saved(&self) -> Saved {
        Saved::default()
    }
}

/// Replies as values, each counted as ten bytes.
#[derive(Default)]
struct Replies(Vec<Reply>);

impl ReplySink for Replies {
    fn put(&mut self, reply: &Reply, _: Protocol) {
        self.0.push(reply.clone());
    }

    fn waiting_bytes(&self) -> usize {
        self.0.len() * 10
    }
}

struct Bench {
    group: FakeGroup,
    dispatcher: Dispatcher<FakeGroup>,
    connection: Connection,
    shutdown: CancellationToken,
    fatals: Arc<Mutex<Vec<String>>>,
    snapshots: Arc<FakeSnapshots>,
    net: Arc<crate::net::Stats>,
}

impl Bench {
    fn new(change: impl FnOnce(&mut Config)) -> Self {
        let mut config = Config::default();
        change(&mut config);
        let access = Arc::new(access::Access::open(&config).unwrap());
        let group = FakeGroup::default();
        let shutdown = CancellationToken::new();
        let fatals: Arc<Mutex<Vec<String>>> = Arc::default();
        let snapshots: Arc<FakeSnapshots> = Arc::default();
        let net: Arc<crate::net::Stats> = Arc::default();
        let told = Arc::clone(&fatals);
        let dispatcher = Dispatcher::new(DispatcherParts {
            group: group.clone(),
            config: Arc::new(config),
            access,
            snapshots: Arc::clone(&snapshots) as Arc<dyn SnapshotService>,
            net: Arc::clone(&net),
            shutdown: shutdown.clone(),
            fatal: Arc::new(move |fatal| told.lock().push(fatal.to_string())),
            started: UnixMs(1_000_000),
            addr: "127.0.0.1:4920".to_owned(),
            peer_addr: "127.0.0.1:14920".to_owned(),
        });
        let at = |port| SocketAddr::from(([127, 0, 0, 1], port));
        let connection = dispatcher.open(1, at(5000), at(4920), Ends::default());
        Self { group, dispatcher, connection, shutdown, fatals, snapshots, net }
    }

    /// Sends lines as one turn.
    async fn turn(&mut self, lines: &[&str]) -> (Vec<Reply>, Flow, usize) {
        let mut requests: Vec<Request> = lines.iter().map(|line| request(line)).collect();
        let mut replies = Replies::default();
        let flow = self.dispatcher.answer(&mut self.connection, &mut requests, &mut replies).await;
        (replies.0, flow, requests.len())
    }

    async fn replies(&mut self, lines: &[&str]) -> Vec<Reply> {
        let (replies, flow, left) = self.turn(lines).await;
        assert_eq!((flow, left), (Flow::Continue, 0));
        replies
    }

    async fn reply(&mut self, line: &str) -> Reply {
        let mut replies = self.replies(&[line]).await;
        assert_eq!(replies.len(), 1, "{line}");
        replies.remove(0)
    }

    fn asked(&self) -> Vec<Asked> {
        std::mem::take(&mut *self.group.0.asked.lock())
    }
}

fn request(line: &str) -> Request {
    Request { args: line.split(' ').map(|word| Bytes::copy_from_slice(word.as_bytes())).collect() }
}

fn bulk(text: &str) -> Reply {
    Reply::Bulk(Bytes::copy_from_slice(text.as_bytes()))
}

fn error(text: &str) -> Reply {
    Reply::Error(text.to_owned())
}

#[tokio::test]
async fn consecutive_writes_are_one_proposal_and_reads_share_one_barrier() {
    let mut bench = Bench::new(|_| {});
    let lines = ["SET a 1", "PING", "DEL a", "NOPE", "SET b 2", "GET a", "ECHO x", "GET missing", "DEL a"];
    let replies = bench.replies(&lines).await;
    let unknown = error("ERR unknown command 'NOPE'");
    let expected = [
        Reply::Ok,
        Reply::Simple("PONG"),
        Reply::Integer(1),
        unknown,
        Reply::Ok,
        bulk("a"),
        bulk("x"),
        Reply::Nil,
        Reply::Integer(2),
    ];
    assert_eq!(replies, expected);
    let barrier = Asked::Barrier(Consistency::High);
    assert_eq!(bench.asked(), [Asked::Propose(3), barrier, Asked::Query, Asked::Query, Asked::Propose(1)]);
}

#[tokio::test]
async fn gets_among_writes_of_other_keys_cost_no_proposal_of_their_own() {
    let mut bench = Bench::new(|_| {});
    bench.replies(&["SET a 1", "GET a", "SET b 2", "GET b", "SET a 3", "GET a"]).await;
    let barrier = || Asked::Barrier(Consistency::High);
    let first = [Asked::Propose(2), barrier(), Asked::Query, Asked::Query];
    let second = [Asked::Propose(1), barrier(), Asked::Query];
    assert_eq!(bench.asked(), [&first[..], &second[..]].concat());
    for after in ["FLUSHDB", "MSET x 1 a 2"] {
        let mut bench = Bench::new(|_| {});
        bench.replies(&["SET a 1", "GET a", after]).await;
        assert_eq!(bench.asked(), [Asked::Propose(1), barrier(), Asked::Query, Asked::Propose(1)], "{after}");
    }
}

#[tokio::test]
async fn a_proposal_is_bounded_by_ops_and_bytes() {
    let mut bench = Bench::new(|config| config.limits.entry_ops_max = 2);
    bench.replies(&["SET a 1", "SET a 2", "SET a 3", "SET a 4", "SET a 5"]).await;
    assert_eq!(bench.asked(), [Asked::Propose(2), Asked::Propose(2), Asked::Propose(1)]);
    let mut bench = Bench::new(|config| config.limits.entry_bytes_max = 40);
    let large = format!("SET a {}", "x".repeat(100));
    bench.replies(&["SET a 1", "SET a 2", "SET a 3", &large, "SET a 4"]).await;
    assert_eq!(bench.asked(), [Asked::Propose(2), Asked::Propose(1), Asked::Propose(1), Asked::Propose(1)]);
}

#[tokio::test]
async fn a_refused_proposal_refuses_its_own_requests_only() {
    let mut bench = Bench::new(|config| config.limits.entry_ops_max = 2);
    bench.group.0.refuse_writes.lock().push_back(ProposeError::Unknown("leader lost".to_owned()));
    let replies = bench.replies(&["DEL a", "PING", "DEL b", "DEL c"]).await;
    let unknown = error("ERR outcome unknown: leader lost");
    assert_eq!(replies, [unknown.clone(), Reply::Simple("PONG"), unknown, Reply::Integer(1)]);
}

#[tokio::test]
async fn redirects_name_the_slot_of_the_first_key() {
    let mut bench = Bench::new(|config| config.redirect = Redirect::Moved);
    let away = ReadError::NotLeader { addr: "h:1".to_owned() };
    bench.group.0.refuse_reads.lock().extend([away.clone(), away]);
    assert_eq!(bench.reply("GET foo").await, error("MOVED 12182 h:1"));
    assert_eq!(bench.reply("DBSIZE").await, error("MOVED 0 h:1"));
    let mut bench = Bench::new(|config| config.redirect = Redirect::Try);
    let away = ProposeError::NotLeader { addr: "h:1".to_owned() };
    bench.group.0.refuse_writes.lock().extend([away, ProposeError::NoLeader]);
    assert_eq!(bench.reply("SET foo 1").await, error("TRY h:1"));
    assert_eq!(bench.reply("SET foo 1").await, error("ERR leader not known"));
}

#[tokio::test]
async fn arity_and_syntax_are_checked_before_leadership() {
    let mut bench = Bench::new(|config| config.redirect = Redirect::Try);
    bench.group.0.refuse_writes.lock().push_back(ProposeError::NoLeader);
    assert_eq!(bench.reply("SET k").await, error("ERR wrong number of arguments for 'SET' command"));
    assert_eq!(bench.reply("SET k v NX XX").await, error("ERR syntax error"));
    assert!(bench.asked().is_empty());
}

#[tokio::test]
async fn a_full_output_leaves_the_rest_for_the_next_turn() {
    let mut bench = Bench::new(|config| config.limits.output_bytes_pause = 20);
    let (replies, flow, left) = bench.turn(&["GET a", "GET b", "GET c", "GET d", "GET e"]).await;
    assert_eq!((replies.len(), flow, left), (2, Flow::Continue, 3));
    assert_eq!(bench.asked().len(), 3, "what was not answered was not read");
}

#[tokio::test]
async fn writes_are_answered_to_the_end_of_their_proposal_even_when_the_output_is_full() {
    let mut bench = Bench::new(|config| config.limits.output_bytes_pause = 20);
    let (replies, _, left) = bench.turn(&["DEL a", "DEL b", "DEL c", "DEL d", "GET e"]).await;
    let counts = [1, 2, 3, 4].map(Reply::Integer);
    assert_eq!((replies.as_slice(), left), (&counts[..], 1));
    assert_eq!(bench.asked(), [Asked::Propose(4), Asked::Barrier(Consistency::High)]);
}

#[tokio::test]
async fn a_selected_database_holds_for_what_follows_in_the_same_turn() {
    let mut bench = Bench::new(|_| {});
    let replies =
        bench.replies(&["DBSIZE", "SELECT 3", "DBSIZE", "SELECT 99", "DBSIZE", "RESET", "DBSIZE"]).await;
    let range = error("ERR DB index is out of range");
    let sizes = |n| Reply::Integer(n);
    assert_eq!(replies, [sizes(0), Reply::Ok, sizes(3), range, sizes(3), Reply::Simple("RESET"), sizes(0)]);
}

#[tokio::test]
async fn readonly_reads_locally_until_readwrite() {
    let mut bench = Bench::new(|config| config.consistency = Consistency::Medium);
    bench.replies(&["GET a", "READONLY", "GET a", "READWRITE", "GET a"]).await;
    let levels: Vec<Asked> = bench.asked().into_iter().filter(|asked| *asked != Asked::Query).collect();
    let expected = [Consistency::Medium, Consistency::Low, Consistency::Medium].map(Asked::Barrier);
    assert_eq!(levels, expected);
}

#[tokio::test]
async fn quit_answers_what_came_before_and_drops_what_comes_after() {
    let mut bench = Bench::new(|_| {});
    let (replies, flow, left) = bench.turn(&["GET a", "QUIT", "SET a 1"]).await;
    assert_eq!((replies.as_slice(), flow, left), (&[bulk("a"), Reply::Ok][..], Flow::Close, 0));
    assert!(!bench.asked().contains(&Asked::Propose(1)));
}

#[tokio::test]
async fn shutdown_closes_without_a_reply_and_tells_the_node() {
    let mut bench = Bench::new(|_| {});
    let (replies, flow, _) = bench.turn(&["PING", "SHUTDOWN", "PING"]).await;
    assert_eq!((replies.as_slice(), flow), (&[Reply::Simple("PONG")][..], Flow::Close));
    assert!(bench.shutdown.is_cancelled());
}

#[tokio::test]
async fn a_broken_store_is_told_to_the_node() {
    let mut bench = Bench::new(|_| {});
    bench.group.0.broken.store(true, Ordering::Relaxed);
    let (replies, flow, _) = bench.turn(&["GET a", "GET b"]).await;
    assert_eq!(replies, [error("ERR the node stops: read block 7: checksum mismatch")]);
    assert_eq!(flow, Flow::Close);
    assert_eq!(*bench.fatals.lock(), ["read block 7: checksum mismatch"]);
}

#[tokio::test]
async fn replies_can_be_switched_off_within_a_turn() {
    let mut bench = Bench::new(|_| {});
    let lines =
        ["CLIENT REPLY SKIP", "SET a 1", "PING", "CLIENT REPLY OFF", "GET a", "CLIENT REPLY ON", "GET a"];
    assert_eq!(bench.replies(&lines).await, [Reply::Simple("PONG"), Reply::Ok, bulk("a")]);
}

#[tokio::test]
async fn membership_verbs_reach_the_group_and_their_refusals_the_client() {
    let mut bench = Bench::new(|_| {});
    let stale = MemberError::Stale { expected: "1".to_owned(), found: "2".to_owned() };
    let refused = MemberError::Refused("peer is unknown".to_owned());
    bench.group.0.refuse_members.lock().extend([refused, stale, MemberError::NoLeader]);
    assert_eq!(bench.reply("RAFTREMOVEPEER h:1").await, error("ERR peer is unknown"));
    let changed = "ERR the membership changed: expected log id 1, found 2";
    assert_eq!(bench.reply("RAFTADDPEER h:1").await, error(changed));
    assert_eq!(bench.reply("RAFTTRANSFER").await, error("LOADING leader not known"));
    assert_eq!(bench.replies(&["RAFTTRANSFER ab", "RAFTSHRINKLOG"]).await, [Reply::Ok, Reply::Ok]);
    let asked = bench.asked();
    assert_eq!(asked.first(), Some(&Asked::RemovePeer("h:1".to_owned())));
    assert_eq!(asked[2..], [Asked::Transfer(None), Asked::Transfer(Some("ab".to_owned())), Asked::ShrinkLog]);
}

#[tokio::test]
async fn a_background_save_runs_once_and_its_failure_is_seen() {
    let mut bench = Bench::new(|_| {});
    let (end, ended) = tokio::sync::oneshot::channel();
    bench.snapshots.ends.lock().push_back(ended);
    assert_eq!(bench.reply("BGSAVE").await, Reply::Simple("Background saving started"));
    assert_eq!(bench.reply("BGSAVE").await, error("ERR Background save already in progress"));
    end.send(Err("no space".to_owned())).unwrap();
    bench.dispatcher.drain().await;
    let Reply::Verbatim(text) = bench.reply("INFO persistence").await else { panic!() };
    let text = String::from_utf8(text.to_vec()).unwrap();
    assert!(text.contains("rdb_bgsave_in_progress:0\r\n"), "{text}");
    assert!(text.contains("rdb_last_bgsave_status:err\r\n"), "{text}");
    let (end, ended) = tokio::sync::oneshot::channel();
    end.send(Err("no space".to_owned())).unwrap();
    bench.snapshots.ends.lock().push_back(ended);
    assert_eq!(bench.reply("RAFTSNAPSHOT").await, error("ERR no space"));
    assert_eq!(bench.reply("SAVE").await, Reply::Ok);
}

#[tokio::test]
async fn info_counts_what_happened_and_shows_the_group() {
    let mut bench = Bench::new(|_| {});
    bench.replies(&["GET a", "GET missing", "SET a", "NOPE"]).await;
    let Reply::Verbatim(text) = bench.reply("INFO everything").await else { panic!() };
    let text = String::from_utf8_lossy(&text).into_owned();
    for line in [
        "redis_version:7.2.0",
        "tcp_port:4920",
        "connected_clients:1",
        "loading:0",
        "total_commands_processed:4",
        "total_error_replies:2",
        "keyspace_hits:1",
        "keyspace_misses:1",
        "errorstat_ERR:count=2",
        "role:master",
        "connected_slaves:2",
        "cluster_enabled:0",
        "db1:keys=1,expires=0,avg_ttl=0",
        "raft_role:Leader",
        "raft_commit_index:9",
        "raft_leader_addr:10.0.0.1:4920",
    ] {
        assert!(text.contains(&format!("{line}\r\n")), "{line} is not in {text}");
    }
    assert!(text.contains("cmdstat_get:calls=2,"), "{text}");
    assert!(!text.contains("db0:"), "{text}");
    let Reply::Verbatim(text) = bench.reply("INFO").await else { panic!() };
    assert!(!String::from_utf8_lossy(&text).contains("cmdstat_"));
    assert_eq!(bench.reply("CONFIG RESETSTAT").await, Reply::Ok);
    let Reply::Verbatim(text) = bench.reply("INFO commandstats stats").await else { panic!() };
    let text = String::from_utf8_lossy(&text).into_owned();
    assert!(text.starts_with("# Stats\r\n") && !text.contains("cmdstat_get"), "{text}");
}

#[tokio::test]
async fn an_unformed_node_says_that_it_loads() {
    let mut bench = Bench::new(|_| {});
    *bench.group.0.role.lock() = Some(Role::Unformed);
    let Reply::Verbatim(text) = bench.reply("INFO persistence").await else { panic!() };
    assert!(String::from_utf8_lossy(&text).contains("loading:1\r\n"));
    bench.group.0.refuse_writes.lock().push_back(ProposeError::Unformed);
    let Reply::Error(text) = bench.reply("SET a 1").await else { panic!() };
    assert!(text.starts_with("LOADING ") && text.contains("not formed"), "{text}");
}

#[tokio::test]
async fn parameters_are_shown_by_glob_and_set_all_or_none() {
    let mut bench = Bench::new(|_| {});
    let get = |name: &str, value: &str| Reply::Map(vec![(bulk(name), bulk(value))]);
    assert_eq!(bench.reply("CONFIG GET SAVE").await, get("save", ""));
    assert_eq!(bench.reply("CONFIG GET appendonly nope").await, get("appendonly", "no"));
    let Reply::Map(slow) = bench.reply("CONFIG GET slowlog-* databases").await else { panic!() };
    assert_eq!(slow.len(), 3);
    let Reply::Map(all) = bench.reply("CONFIG GET *").await else { panic!() };
    assert!(all.len() > 20);
    let failed =
        "ERR CONFIG SET failed (possibly related to argument 'databases') - can't set immutable config";
    assert_eq!(bench.reply("CONFIG SET slowlog-max-len 5 databases 4").await, error(failed));
    assert_eq!(bench.reply("CONFIG GET slowlog-max-len").await, get("slowlog-max-len", "128"));
    assert_eq!(bench.reply("CONFIG SET slowlog-max-len 5 databases 16").await, Reply::Ok);
    assert_eq!(bench.reply("CONFIG GET slowlog-max-len").await, get("slowlog-max-len", "5"));
    let unknown = "ERR Unknown option or number of arguments for CONFIG SET - 'nope'";
    assert_eq!(bench.reply("CONFIG SET nope 1").await, error(unknown));
    let failed = |why: &str| {
        error(&format!("ERR CONFIG SET failed (possibly related to argument 'slowlog-max-len') - {why}"))
    };
    let reply = bench.reply("CONFIG SET slowlog-max-len x").await;
    assert_eq!(reply, failed("argument couldn't be parsed into an integer"));
    assert_eq!(
        bench.reply("CONFIG SET slowlog-max-len 1 SLOWLOG-MAX-LEN 2").await,
        failed("duplicate parameter")
    );
}

#[tokio::test]
async fn slow_requests_are_noted_above_the_threshold() {
    let mut bench = Bench::new(|_| {});
    bench.replies(&["CONFIG SET slowlog-log-slower-than -1", "GET a", "SLOWLOG RESET"]).await;
    assert_eq!(bench.reply("SLOWLOG LEN").await, Reply::Integer(0));
    bench.replies(&["CONFIG SET slowlog-log-slower-than 0", "GET a"]).await;
    let Reply::Array(entries) = bench.reply("SLOWLOG GET 1").await else { panic!() };
    let Reply::Array(entry) = &entries[0] else { panic!() };
    assert_eq!(entry[3..], [Reply::Array(vec![bulk("GET"), bulk("a")]), bulk("127.0.0.1:5000"), bulk("")]);
}

#[tokio::test]
async fn clients_see_and_kill_each_other() {
    let mut bench = Bench::new(|_| {});
    let cancel = CancellationToken::new();
    let at = |port| SocketAddr::from(([127, 0, 0, 1], port));
    let other = bench.dispatcher.open(2, at(5001), at(4920), cancel.clone().into());
    let Reply::Verbatim(list) = bench.reply("CLIENT LIST").await else { panic!() };
    assert_eq!(String::from_utf8_lossy(&list).lines().count(), 2);
    assert_eq!(bench.reply("CLIENT KILL ID 2").await, Reply::Integer(1));
    assert!(cancel.is_cancelled());
    bench.dispatcher.close(other);
    assert_eq!(bench.reply("CLIENT KILL 127.0.0.1:5001").await, error("ERR No such client"));
    let (replies, flow, _) = bench.turn(&["CLIENT KILL ID 1 SKIPME no", "PING"]).await;
    assert_eq!((replies.as_slice(), flow), (&[Reply::Integer(1)][..], Flow::Close));
}

#[tokio::test]
async fn the_cluster_view_is_for_redirects_by_moved_only() {
    let mut bench = Bench::new(|_| {});
    assert_eq!(bench.reply("CLUSTER SLOTS").await, error("ERR This instance has cluster support disabled"));
    let mut bench = Bench::new(|config| config.redirect = Redirect::Moved);
    assert_eq!(bench.reply("CLUSTER KEYSLOT foo").await, Reply::Integer(12182));
    assert_eq!(bench.reply("CLUSTER MYID").await, bulk(&format!("{:040x}", 1)));
}

#[tokio::test]
async fn wait_counts_other_nodes_and_gives_up_in_time() {
    let mut bench = Bench::new(|_| {});
    // Two voters of which one leads; nobody has the committed index 9, but an acknowledgement took one other voter.
    assert_eq!(bench.reply("WAIT 1 0").await, Reply::Integer(1));
    bench.shutdown.cancel();
    assert_eq!(bench.reply("WAIT 2 0").await, Reply::Integer(1));
}

#[tokio::test]
async fn values_are_described_without_being_sent() {
    let mut bench = Bench::new(|_| {});
    *bench.group.0.value.lock() = Some(Bytes::from_static(b"12345"));
    let lines = ["STRLEN k", "OBJECT ENCODING k", "MEMORY USAGE k", "OBJECT ENCODING missing", "KEYS *"];
    let keys = Reply::Array(vec![bulk("k")]);
    assert_eq!(
        bench.replies(&lines).await,
        [Reply::Integer(5), bulk("int"), Reply::Integer(24), Reply::Nil, keys]
    );
}

#[tokio::test]
async fn info_shows_what_the_listener_counts() {
    let mut bench = Bench::new(|_| {});
    bench.net.accepted.store(9, Ordering::Relaxed);
    bench.net.rejected.store(2, Ordering::Relaxed);
    bench.net.read_bytes.store(70, Ordering::Relaxed);
    bench.net.written_bytes.store(80, Ordering::Relaxed);
    let Reply::Verbatim(text) = bench.reply("INFO stats").await else { panic!() };
    let text = String::from_utf8(text.to_vec()).unwrap();
    for line in [
        "total_connections_received:9",
        "rejected_connections:2",
        "total_net_input_bytes:70",
        "total_net_output_bytes:80",
    ] {
        assert!(text.lines().any(|found| found == line), "{line} in {text}");
    }
}
