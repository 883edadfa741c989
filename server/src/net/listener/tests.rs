//! The listener over real sockets on loopback: limit, hostile clients, panics, shutdown.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::{BACK_OFF_MAX, BACK_OFF_MIN, BackOff, Listener};
use crate::config::Limits;
use crate::net::Stats;
use crate::net::toy::{Toy, loopback};

const DRAIN: Duration = Duration::from_secs(30);

struct Server {
    addr: SocketAddr,
    toy: Arc<Toy>,
    stats: Arc<Stats>,
    stop: CancellationToken,
    task: JoinHandle<usize>,
}

impl Server {
    async fn start(limits: Limits, drain: Duration) -> Self {
        let socket = TcpListener::bind(loopback()).await.unwrap();
        let toy = Toy::new();
        let stats = Arc::new(Stats::default());
        let stop = CancellationToken::new();
        let listener = Listener::new(socket, Arc::clone(&toy), &limits, Arc::clone(&stats), stop.clone());
        let addr = listener.local_addr().unwrap();
        #[allow(clippy::disallowed_methods, reason = "the tests await the handle")]
        let task = tokio::spawn(listener.run(drain));
        Self { addr, toy, stats, stop, task }
    }

    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.addr).await.unwrap()
    }

    /// Waits for a condition that the server brings about by itself.
    async fn until(&self, condition: impl Fn(&Self) -> bool) {
        let wait = async {
            while !condition(self) {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(DRAIN, wait).await.expect("the condition comes true");
    }
}

async fn expect(client: &mut TcpStream, text: &str) {
    let mut read = vec![0; text.len()];
    client.read_exact(&mut read).await.unwrap();
    assert_eq!(String::from_utf8_lossy(&read), text);
}

/// What still comes; a reset counts as the end.
async fn read_to_end(client: &mut TcpStream) -> String {
    let mut bytes = Vec::new();
    let _ = client.read_to_end(&mut bytes).await;
    String::from_utf8(bytes).unwrap()
}

#[tokio::test]
async fn clients_are_numbered_and_served_side_by_side() {
    let server = Server::start(Limits::default(), DRAIN).await;
    let mut first = server.connect().await;
    first.write_all(b"ID\r\nWAIT\r\n").await.unwrap();
    server.until(|server| server.toy.waiting.load(Ordering::SeqCst) == 1).await;
    let mut second = server.connect().await;
    second.write_all(b"ID\r\n").await.unwrap();
    expect(&mut second, ":2\r\n").await;
    server.toy.gate.add_permits(1);
    expect(&mut first, ":1\r\n+OK\r\n").await;
    assert_eq!(server.stats.open.load(Ordering::Relaxed), 2);
    drop((first, second));
    server.until(|server| server.stats.open.load(Ordering::Relaxed) == 0).await;
    assert_eq!(server.toy.closed.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn a_pipeline_of_100_000_requests_is_answered_in_order() {
    let server = Server::start(Limits::default(), DRAIN).await;
    let (mut reader, mut writer) = server.connect().await.into_split();
    let lines = |prefix: &str| -> String {
        (0..100_000).flat_map(|number| [prefix.to_owned(), format!("{number:06}\r\n")]).collect()
    };
    let input = lines("ECHO ");
    let expected = lines("$6\r\n");
    let mut read = vec![0; expected.len()];
    let (written, length) = tokio::join!(writer.write_all(input.as_bytes()), reader.read_exact(&mut read));
    written.unwrap();
    assert_eq!(length.unwrap(), expected.len());
    assert!(read == expected.as_bytes());
}

#[tokio::test]
async fn who_may_not_connect_is_told_why_and_takes_no_place() {
    let server = Server::start(Limits { clients_max: 1, ..Limits::default() }, DRAIN).await;
    server.toy.refusal.set("DENIED stay out").unwrap();
    for _ in 0..3 {
        let mut client = server.connect().await;
        let _ = client.write_all(b"ECHO a\r\n").await;
        assert_eq!(read_to_end(&mut client).await, "-DENIED stay out\r\n");
    }
    assert_eq!(server.stats.protected.load(Ordering::Relaxed), 3);
    assert_eq!(server.stats.rejected.load(Ordering::Relaxed), 0);
    assert_eq!(server.toy.opened.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn one_client_too_many_is_told_and_the_place_is_free_again_later() {
    let server = Server::start(Limits { clients_max: 1, ..Limits::default() }, DRAIN).await;
    let mut first = server.connect().await;
    first.write_all(b"ID\r\n").await.unwrap();
    expect(&mut first, ":1\r\n").await;
    let mut second = server.connect().await;
    second.write_all(b"ID\r\n").await.unwrap();
    assert_eq!(read_to_end(&mut second).await, "-ERR max number of clients reached\r\n");
    assert_eq!(server.stats.rejected.load(Ordering::Relaxed), 1);
    drop(first);
    server.until(|server| server.stats.open.load(Ordering::Relaxed) == 0).await;
    // The permit comes back right after the count; a client in between is turned away and tries again.
    let wait = async {
        loop {
            let mut third = server.connect().await;
            third.write_all(b"ECHO a\r\nQUIT\r\n").await.unwrap();
            if read_to_end(&mut third).await == "$1\r\na\r\n+OK\r\n" {
                break;
            }
        }
    };
    tokio::time::timeout(DRAIN, wait).await.expect("the place is free again");
}

#[tokio::test]
async fn hostile_announcements_end_their_connection_only() {
    let server = Server::start(Limits::default(), DRAIN).await;
    let mut bystander = server.connect().await;
    let deep = b"*1\r\n".repeat(10_000);
    let long_line = vec![b'x'; 70_000];
    let cases: &[(&[u8], &str)] = &[
        (b"*1000000000\r\n", "invalid multibulk length"),
        (b"*9223372036854775807\r\n", "invalid multibulk length"),
        (b"*1\r\n$9223372036854775807\r\n", "invalid bulk length"),
        (b"*1\r\n$99999999999999999999\r\n", "invalid bulk length"),
        (&deep, "expected '$', got '*'"),
        (&long_line, "too big inline request"),
    ];
    for (input, text) in cases {
        let mut client = server.connect().await;
        client.write_all(input).await.unwrap();
        assert_eq!(read_to_end(&mut client).await, format!("-ERR Protocol error: {text}\r\n"));
        bystander.write_all(b"ECHO a\r\n").await.unwrap();
        expect(&mut bystander, "$1\r\na\r\n").await;
    }
    assert_eq!(server.stats.protocol_errors.load(Ordering::Relaxed), cases.len() as u64);
    // A count within the limits and nothing after it: waits, holds nothing, disturbs nobody.
    let mut patient = server.connect().await;
    patient.write_all(b"*1048576\r\n$67108864\r\nx").await.unwrap();
    bystander.write_all(b"ECHO a\r\n").await.unwrap();
    expect(&mut bystander, "$1\r\na\r\n").await;
}

#[tokio::test]
async fn a_panic_ends_its_connection_only_and_is_counted() {
    let server = Server::start(Limits::default(), DRAIN).await;
    let mut bystander = server.connect().await;
    let mut client = server.connect().await;
    client.write_all(b"PANIC\r\n").await.unwrap();
    assert_eq!(read_to_end(&mut client).await, "");
    server.until(|server| server.stats.panics.load(Ordering::Relaxed) == 1).await;
    assert_eq!(server.toy.closed.load(Ordering::SeqCst), 1);
    bystander.write_all(b"ECHO a\r\n").await.unwrap();
    expect(&mut bystander, "$1\r\na\r\n").await;
}

#[tokio::test]
async fn shutdown_finishes_the_turn_and_leaves_nothing_unanswered() {
    let server = Server::start(Limits::default(), DRAIN).await;
    let mut idle = server.connect().await;
    idle.write_all(b"ID\r\n").await.unwrap();
    expect(&mut idle, ":1\r\n").await;
    let mut busy = server.connect().await;
    busy.write_all(b"WAIT\r\n").await.unwrap();
    server.until(|server| server.toy.waiting.load(Ordering::SeqCst) == 1).await;
    busy.write_all(b"ECHO a\r\n").await.unwrap();
    server.stop.cancel();
    assert_eq!(read_to_end(&mut idle).await, "");
    drop(idle);
    server.toy.gate.add_permits(1);
    assert_eq!(read_to_end(&mut busy).await, "+OK\r\n$1\r\na\r\n");
    drop(busy);
    assert_eq!(server.task.await.unwrap(), 0);
    assert_eq!(server.toy.closed.load(Ordering::SeqCst), 2);
    assert!(TcpStream::connect(server.addr).await.is_err(), "nobody listens any more");
}

/// As pools do: before a connection is used again, it is looked at whether it has ended. Returns the answered requests
/// once the server has parted; a request without an answer is a failure.
fn ask_until_parted(addr: SocketAddr) -> usize {
    use std::io::{ErrorKind, Read as _, Write as _};
    let mut stream = std::net::TcpStream::connect(addr).unwrap();
    let mut answered = 0;
    loop {
        stream.set_nonblocking(false).unwrap();
        stream.write_all(b"ECHO a\r\n").unwrap();
        let mut reply = [0; 7];
        stream.read_exact(&mut reply).unwrap_or_else(|error| panic!("after {answered} answers: {error}"));
        answered += 1;
        stream.set_nonblocking(true).unwrap();
        match stream.read(&mut reply) {
            Ok(0) => return answered,
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn shutdown_leaves_no_request_of_a_busy_client_unanswered() {
    let server = Server::start(Limits::default(), DRAIN).await;
    let addr = server.addr;
    let mut clients = tokio::task::JoinSet::new();
    for _ in 0..16 {
        clients.spawn_blocking(move || ask_until_parted(addr));
    }
    server.until(|server| server.stats.read_bytes.load(Ordering::Relaxed) > 100_000).await;
    server.stop.cancel();
    while let Some(answered) = clients.join_next().await {
        assert!(answered.unwrap() > 0);
    }
    assert_eq!(server.task.await.unwrap(), 0);
}

#[tokio::test]
async fn shutdown_serves_whom_the_kernel_has_let_in() {
    let server = Server::start(Limits::default(), DRAIN).await;
    // One thread: the server cannot accept before this test awaits.
    let mut client = std::net::TcpStream::connect(server.addr).unwrap();
    std::io::Write::write_all(&mut client, b"ECHO a\r\n").unwrap();
    server.stop.cancel();
    assert_eq!(server.task.await.unwrap(), 0);
    let mut text = String::new();
    std::io::Read::read_to_string(&mut client, &mut text).unwrap();
    assert_eq!(text, "$1\r\na\r\n");
}

#[tokio::test]
async fn shutdown_drops_a_turn_that_does_not_end() {
    let server = Server::start(Limits::default(), Duration::from_millis(20)).await;
    let mut client = server.connect().await;
    client.write_all(b"WAIT\r\n").await.unwrap();
    server.until(|server| server.toy.waiting.load(Ordering::SeqCst) == 1).await;
    server.stop.cancel();
    assert_eq!(read_to_end(&mut client).await, "");
    assert_eq!(server.task.await.unwrap(), 1);
    assert_eq!(server.toy.closed.load(Ordering::SeqCst), 1);
}

#[test]
fn accepting_backs_off_when_the_process_is_out_of_descriptors() {
    let out_of_descriptors = io::Error::from(rustix::io::Errno::MFILE);
    let mut back_off = BackOff::default();
    assert_eq!(back_off.after(&io::ErrorKind::ConnectionAborted.into()), None);
    assert_eq!(back_off.after(&out_of_descriptors), Some(BACK_OFF_MIN));
    assert_eq!(back_off.after(&out_of_descriptors), Some(BACK_OFF_MIN * 2));
    for _ in 0..10 {
        back_off.after(&out_of_descriptors);
    }
    assert_eq!(back_off.after(&out_of_descriptors), Some(BACK_OFF_MAX));
}
