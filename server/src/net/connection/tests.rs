//! One connection over a pipe in memory, with time that jumps: limits, stalls, budget, the ways to end.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use super::{ClientStream, Connection, End, STOP_LULL, Shared};
use crate::config::Limits;
use crate::net::budget::{Budget, FREE_BYTES};
use crate::net::toy::{Toy, loopback};
use crate::net::{Handler, Stats};

/// Bytes that the pipe holds in each direction.
const PIPE_BYTES: usize = 16 * 1024;

impl ClientStream for DuplexStream {}

struct Bench {
    toy: Arc<Toy>,
    shared: Arc<Shared>,
    kill: CancellationToken,
    stop: CancellationToken,
}

impl Bench {
    fn new(limits: Limits) -> Self {
        let shared = Shared { limits, stats: Arc::default(), budget: Budget::new(1024 * 1024) };
        Self {
            toy: Toy::new(),
            shared: Arc::new(shared),
            kill: CancellationToken::new(),
            stop: CancellationToken::new(),
        }
    }

    /// A client, and the task of its connection.
    fn connect(&self) -> (DuplexStream, JoinHandle<End>) {
        let (client, server) = duplex(PIPE_BYTES);
        let connection =
            Connection::new(server, Arc::clone(&self.shared), self.kill.clone(), self.stop.clone());
        let toy = Arc::clone(&self.toy);
        let kill = self.kill.clone();
        #[allow(clippy::disallowed_methods, reason = "the test awaits the handle")]
        let task = tokio::spawn(async move {
            let mut session = toy.open(1, loopback(), loopback(), kill.into());
            connection.run(&*toy, &mut session).await
        });
        (client, task)
    }

    fn stats(&self) -> &Stats {
        &self.shared.stats
    }
}

async fn read_to_end(client: &mut DuplexStream) -> String {
    let mut text = String::new();
    client.read_to_string(&mut text).await.unwrap();
    text
}

async fn expect(client: &mut DuplexStream, text: &str) {
    let mut read = vec![0; text.len()];
    client.read_exact(&mut read).await.unwrap();
    assert_eq!(String::from_utf8_lossy(&read), text);
}

#[tokio::test(start_paused = true)]
async fn answers_in_order_however_the_bytes_are_cut() {
    let bench = Bench::new(Limits::default());
    let (mut client, task) = bench.connect();
    let mut expected = String::new();
    let mut input = Vec::new();
    for number in 0..200 {
        input.extend_from_slice(
            format!("*2\r\n$4\r\nECHO\r\n$3\r\n{number:03}\r\nECHO {number}\r\n").as_bytes(),
        );
        let reply = format!("$3\r\n{number:03}\r\n${}\r\n{number}\r\n", number.to_string().len());
        expected.push_str(&reply);
    }
    for piece in input.chunks(7) {
        client.write_all(piece).await.unwrap();
        tokio::task::yield_now().await;
    }
    expect(&mut client, &expected).await;
    drop(client);
    assert_eq!(task.await.unwrap(), End::Gone);
    assert_eq!(bench.stats().read_bytes.load(Ordering::Relaxed), input.len() as u64);
    assert_eq!(bench.stats().written_bytes.load(Ordering::Relaxed), expected.len() as u64);
}

#[tokio::test(start_paused = true)]
async fn a_turn_has_a_limit_and_the_rest_is_not_forgotten() {
    let bench = Bench::new(Limits { turn_requests_max: 3, ..Limits::default() });
    let (mut client, _task) = bench.connect();
    client.write_all("ECHO a\r\n".repeat(10).as_bytes()).await.unwrap();
    expect(&mut client, &"$1\r\na\r\n".repeat(10)).await;
}

#[tokio::test(start_paused = true)]
async fn valid_requests_before_a_malformed_one_are_answered_then_the_error_then_the_end() {
    let bench = Bench::new(Limits::default());
    let (mut client, task) = bench.connect();
    client.write_all(b"ECHO a\r\n*1\r\n$2\r\nID\r\n*1\r\n*1\r\nECHO b\r\n").await.unwrap();
    let text = read_to_end(&mut client).await;
    assert_eq!(text, "$1\r\na\r\n:1\r\n-ERR Protocol error: expected '$', got '*'\r\n");
    drop(client);
    assert_eq!(task.await.unwrap(), End::Malformed);
    assert_eq!(bench.stats().protocol_errors.load(Ordering::Relaxed), 1);
}

#[tokio::test(start_paused = true)]
async fn quit_answers_and_drops_what_follows() {
    let bench = Bench::new(Limits::default());
    let (mut client, task) = bench.connect();
    client.write_all(b"ECHO a\r\nQUIT\r\nECHO b\r\n").await.unwrap();
    assert_eq!(read_to_end(&mut client).await, "$1\r\na\r\n+OK\r\n");
    drop(client);
    assert_eq!(task.await.unwrap(), End::Handler);
}

#[tokio::test(start_paused = true)]
async fn http_is_hung_up_on_without_running_what_follows() {
    for first in ["POST / HTTP/1.1\r\n", "host: localhost\r\n", "*1\r\n$4\r\nPost\r\n"] {
        let bench = Bench::new(Limits::default());
        let (mut client, task) = bench.connect();
        client.write_all(format!("ECHO a\r\n{first}ECHO b\r\n").as_bytes()).await.unwrap();
        assert_eq!(read_to_end(&mut client).await, "$1\r\na\r\n");
        drop(client);
        assert_eq!(task.await.unwrap(), End::CrossProtocol);
        assert_eq!(bench.toy.requests.load(Ordering::SeqCst), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_that_does_not_read_is_not_read_from_and_loses_nothing() {
    let bench = Bench::new(Limits::default());
    let (mut client, _task) = bench.connect();
    // 64 KiB per reply: one fills the pipe four times over.
    let request = b"BIG 65536\r\n";
    let mut sent: usize = 0;
    while timeout(Duration::from_secs(1), client.write_all(&request.repeat(64))).await.is_ok() {
        sent += 64;
        assert!(sent < 100_000, "the connection goes on reading");
    }
    // One turn stops at 128 KiB of output; the next has not begun.
    let replied_bytes = bench.toy.replied_bytes.load(Ordering::SeqCst);
    assert!(replied_bytes <= 3 * 64 * 1024, "{replied_bytes} bytes of replies for nobody");
    let (mut reader, mut writer) = tokio::io::split(client);
    let reply_bytes = "$65536\r\n".len() + 65_536 + 2;
    let read_all = async {
        let mut reply = vec![0; reply_bytes];
        for _ in 0..sent {
            reader.read_exact(&mut reply).await.unwrap();
            assert!(reply.starts_with(b"$65536\r\nx") && reply.ends_with(b"x\r\n"));
        }
    };
    read_all.await;
    writer.shutdown().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_client_that_never_reads_is_closed_after_the_stall() {
    let bench = Bench::new(Limits::default());
    let (mut client, task) = bench.connect();
    client.write_all(b"BIG 65536\r\n").await.unwrap();
    assert_eq!(task.await.unwrap(), End::Stalled);
    assert_eq!(bench.stats().stalled.load(Ordering::Relaxed), 1);
}

#[tokio::test(start_paused = true)]
async fn a_slow_reader_within_the_stall_is_served() {
    let bench = Bench::new(Limits::default());
    let (mut client, _task) = bench.connect();
    client.write_all(b"BIG 65536\r\n").await.unwrap();
    let mut left = "$65536\r\n".len() + 65_536 + 2;
    let mut piece = vec![0; 8 * 1024];
    while left > 0 {
        // Paused time: jumps while both sides wait.
        assert!(timeout(Duration::from_secs(5), std::future::pending::<()>()).await.is_err());
        left -= client.read(&mut piece).await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn half_a_large_request_is_closed_after_the_stall_half_a_small_one_never() {
    let bench = Bench::new(Limits::default());
    let (mut large, large_task) = bench.connect();
    let (mut small, small_task) = bench.connect();
    large.write_all(b"*2\r\n$3\r\nLEN\r\n$100000\r\n").await.unwrap();
    large.write_all(&vec![b'x'; 50_000]).await.unwrap();
    small.write_all(b"*2\r\n$3\r\nLEN\r\n$3\r\n").await.unwrap();
    let large_end = timeout(Duration::from_hours(1), large_task).await.expect("the large one is closed");
    assert_eq!(large_end.unwrap(), End::Stalled);
    assert!(timeout(Duration::from_hours(1), std::future::pending::<()>()).await.is_err());
    assert!(!small_task.is_finished());
    small.write_all(b"abc\r\n").await.unwrap();
    expect(&mut small, ":3\r\n").await;
}

#[tokio::test(start_paused = true)]
async fn a_large_request_in_pieces_arrives_whole() {
    let bench = Bench::new(Limits::default());
    let (mut client, _task) = bench.connect();
    client.write_all(b"*2\r\n$3\r\nLEN\r\n$900000\r\n").await.unwrap();
    for _ in 0..9 {
        client.write_all(&vec![b'x'; 100_000]).await.unwrap();
    }
    client.write_all(b"\r\n").await.unwrap();
    expect(&mut client, ":900000\r\n").await;
}

#[tokio::test(start_paused = true)]
async fn the_budget_stops_large_requests_and_lets_small_ones_through() {
    let mut bench = Bench::new(Limits::default());
    let shared =
        Shared { limits: Limits::default(), stats: Arc::default(), budget: Budget::new(2 * FREE_BYTES) };
    bench.shared = Arc::new(shared);
    let (mut hog, hog_task) = bench.connect();
    hog.write_all(b"*2\r\n$3\r\nLEN\r\n$1000000\r\n").await.unwrap();
    let filler = vec![b'x'; 1_000_000];
    let (reader, mut writer) = tokio::io::split(hog);
    let write = timeout(Duration::from_secs(5), writer.write_all(&filler)).await;
    assert!(write.is_err(), "more was read than the budget allows");
    let read_bytes = bench.stats().read_bytes.load(Ordering::Relaxed);
    assert!(read_bytes <= 3 * FREE_BYTES as u64 + 64, "{read_bytes} bytes read");

    let (mut small, _task) = bench.connect();
    small.write_all(b"ECHO a\r\n").await.unwrap();
    expect(&mut small, "$1\r\na\r\n").await;

    let mut hog = reader.unsplit(writer);
    let text = read_to_end(&mut hog).await;
    assert_eq!(text, "-OOM too many bytes of unfinished requests are waiting, try again later\r\n");
    drop(hog);
    assert_eq!(hog_task.await.unwrap(), End::OverBudget);

    let (mut next, _task) = bench.connect();
    next.write_all(b"*2\r\n$3\r\nLEN\r\n$30000\r\n").await.unwrap();
    next.write_all(&vec![b'x'; 30_000]).await.unwrap();
    next.write_all(b"\r\n").await.unwrap();
    expect(&mut next, ":30000\r\n").await;
}

#[tokio::test(start_paused = true)]
async fn a_killed_connection_ends_even_while_its_client_does_not_read() {
    let bench = Bench::new(Limits::default());
    let (mut client, task) = bench.connect();
    client.write_all(b"BIG 65536\r\n").await.unwrap();
    // The reply does not fit the pipe: once its beginning is here, the connection waits in its write.
    expect(&mut client, "$65536\r\n").await;
    bench.kill.cancel();
    assert_eq!(task.await.unwrap(), End::Killed);
    assert_eq!(bench.stats().stalled.load(Ordering::Relaxed), 0);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_kills_itself_is_answered_first() {
    let bench = Bench::new(Limits::default());
    let (mut client, task) = bench.connect();
    client.write_all(b"KILL\r\n").await.unwrap();
    assert_eq!(read_to_end(&mut client).await, "+OK\r\n");
    drop(client);
    assert_eq!(task.await.unwrap(), End::Killed);
}

/// A client that has asked once, `silence` ago, when the node is told to stop.
async fn stopped_after(silence: Duration) -> (Bench, DuplexStream, JoinHandle<End>) {
    let bench = Bench::new(Limits::default());
    let (mut client, task) = bench.connect();
    client.write_all(b"ECHO a\r\n").await.unwrap();
    expect(&mut client, "$1\r\na\r\n").await;
    tokio::time::advance(silence).await;
    bench.stop.cancel();
    (bench, client, task)
}

#[tokio::test(start_paused = true)]
async fn a_silent_connection_stops_at_once() {
    let (_bench, mut client, task) = stopped_after(STOP_LULL).await;
    let begun = Instant::now();
    assert_eq!(read_to_end(&mut client).await, "");
    assert_eq!(begun.elapsed(), Duration::ZERO);
    drop(client);
    assert_eq!(task.await.unwrap(), End::Stopped);
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_was_used_just_now_stops_behind_its_next_answer() {
    let (_bench, mut client, task) = stopped_after(STOP_LULL / 4).await;
    tokio::time::sleep(STOP_LULL / 2).await;
    client.write_all(b"ECHO b\r\nECHO c\r\n").await.unwrap();
    let begun = Instant::now();
    assert_eq!(read_to_end(&mut client).await, "$1\r\nb\r\n$1\r\nc\r\n");
    assert_eq!(begun.elapsed(), Duration::ZERO, "the end comes with the answer");
    drop(client);
    assert_eq!(task.await.unwrap(), End::Stopped);
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_was_used_just_now_is_not_waited_for_without_end() {
    let (_bench, mut client, task) = stopped_after(STOP_LULL / 4).await;
    let begun = Instant::now();
    assert_eq!(read_to_end(&mut client).await, "");
    assert!(begun.elapsed() >= STOP_LULL / 2 && begun.elapsed() <= STOP_LULL, "{:?}", begun.elapsed());
    drop(client);
    assert_eq!(task.await.unwrap(), End::Stopped);
}

#[tokio::test(start_paused = true)]
async fn a_stopping_connection_answers_what_has_arrived() {
    let bench = Bench::new(Limits::default());
    let (mut client, task) = bench.connect();
    client.write_all(b"WAIT\r\n").await.unwrap();
    while bench.toy.waiting.load(Ordering::SeqCst) == 0 {
        tokio::task::yield_now().await;
    }
    // Arrives while the turn runs, the last one in two halves.
    client.write_all(b"ECHO a\r\nECHO ").await.unwrap();
    bench.stop.cancel();
    bench.toy.gate.add_permits(1);
    expect(&mut client, "+OK\r\n$1\r\na\r\n").await;
    client.write_all(b"b\r\n").await.unwrap();
    assert_eq!(read_to_end(&mut client).await, "$1\r\nb\r\n");
    drop(client);
    assert_eq!(task.await.unwrap(), End::Stopped);
}

#[tokio::test(start_paused = true)]
async fn a_stopping_connection_parts_with_a_client_that_never_pauses() {
    let bench = Bench::new(Limits::default());
    let (mut client, task) = bench.connect();
    client.write_all(b"ECHO").await.unwrap();
    bench.stop.cancel();
    let mut answered = 0;
    // Always in the middle of a request when the other one is answered.
    while client.write_all(b" a\r\nECHO").await.is_ok() {
        let mut reply = [0; 7];
        if client.read_exact(&mut reply).await.is_err() {
            break;
        }
        answered += 1;
        assert!(answered < 100, "the connection does not stop");
        tokio::time::advance(Duration::from_millis(400)).await;
    }
    assert!(answered > 1, "it goes on for a while");
    drop(client);
    assert_eq!(task.await.unwrap(), End::Stopped);
}

#[tokio::test(start_paused = true)]
async fn a_stopping_connection_parts_with_a_client_that_has_always_sent_more() {
    let bench = Bench::new(Limits::default());
    let (client, task) = bench.connect();
    let (mut reading, mut writing) = tokio::io::split(client);
    #[allow(clippy::disallowed_methods, reason = "the test awaits the handle")]
    let writer = tokio::spawn(async move { while writing.write_all(b"ECHO a\r\n").await.is_ok() {} });
    let mut replies = [0; 700];
    reading.read_exact(&mut replies[..7]).await.unwrap();
    bench.stop.cancel();
    let mut reads = 0;
    while reading.read(&mut replies).await.unwrap() > 0 {
        reads += 1;
        assert!(reads < 100, "the connection does not stop");
        tokio::time::advance(Duration::from_millis(400)).await;
    }
    assert!(reads > 1, "it goes on for a while");
    assert_eq!(task.await.unwrap(), End::Stopped);
    writer.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_handler_that_leaves_its_turn_untouched_does_not_spin() {
    let bench = Bench::new(Limits::default());
    let (mut client, task) = bench.connect();
    client.write_all(b"ECHO a\r\nSTUCK\r\n").await.unwrap();
    assert_eq!(read_to_end(&mut client).await, "$1\r\na\r\n");
    drop(client);
    assert_eq!(task.await.unwrap(), End::Handler);
}

#[tokio::test(start_paused = true)]
async fn a_burst_leaves_no_memory_behind() {
    let bench = Bench::new(Limits::default());
    let (client, server) = duplex(1024 * 1024);
    let mut connection =
        Connection::new(server, Arc::clone(&bench.shared), bench.kill.clone(), bench.stop.clone());
    let mut session = bench.toy.open(1, loopback(), loopback(), bench.kill.clone().into());
    let (_reader, mut writer) = tokio::io::split(client);
    writer.write_all("ECHO a\r\n".repeat(50_000).as_bytes()).await.unwrap();
    writer.write_all(b"ECHO").await.unwrap();
    {
        let serve = connection.serve(&*bench.toy, &mut session);
        assert!(timeout(Duration::from_millis(500), serve).await.is_err());
    }
    assert_eq!(bench.toy.requests.load(Ordering::SeqCst), 50_000);
    assert!(connection.is_bloated());
    {
        let serve = connection.serve(&*bench.toy, &mut session);
        assert!(timeout(Duration::from_secs(2), serve).await.is_err());
    }
    assert!(!connection.is_bloated() && !connection.share.is_holding());
    assert_eq!(&connection.buffer[..], b"ECHO");
    assert!(connection.buffer.capacity() + connection.out.capacity() <= FREE_BYTES);
}

/// A bench whose clients have to log in.
fn locked() -> Bench {
    let bench = Bench::new(Limits::default());
    bench.toy.locked.store(true, Ordering::SeqCst);
    bench
}

#[tokio::test(start_paused = true)]
async fn a_client_that_does_not_log_in_is_closed_whether_it_talks_or_not() {
    let bench = locked();
    let started = Instant::now();
    let (mut silent, silent_task) = bench.connect();
    let (mut talking, talking_task) = bench.connect();
    assert_eq!(read_to_end(&mut silent).await, "");
    // The end comes with the time; the task may linger behind it.
    let elapsed = started.elapsed();
    assert!(elapsed >= Limits::default().auth_timeout, "{elapsed:?}");
    assert!(elapsed < Limits::default().auth_timeout + Duration::from_secs(1), "{elapsed:?}");
    assert_eq!(silent_task.await.unwrap(), End::NotLoggedIn);
    // Its time is over too; what it says now is not looked at.
    let _ = talking.write_all(b"ECHO a\r\n").await;
    assert_eq!(read_to_end(&mut talking).await, "");
    assert_eq!(talking_task.await.unwrap(), End::NotLoggedIn);
    assert_eq!(bench.stats().not_logged_in.load(Ordering::Relaxed), 2);
}

#[tokio::test(start_paused = true)]
async fn talking_gains_no_time() {
    let bench = locked();
    let (mut client, task) = bench.connect();
    let started = Instant::now();
    let mut answered = 0;
    while client.write_all(b"ECHO a\r\n").await.is_ok() {
        let mut reply = [0; 7];
        if client.read_exact(&mut reply).await.is_err() {
            break;
        }
        answered += 1;
        // The clock is the test's own: this passes the time, nobody waits.
        tokio::time::advance(Duration::from_millis(100)).await;
    }
    assert!(answered > 50, "{answered}");
    assert!(started.elapsed() <= Limits::default().auth_timeout + Duration::from_secs(1));
    drop(client);
    assert_eq!(task.await.unwrap(), End::NotLoggedIn);
}

#[tokio::test(start_paused = true)]
async fn limits_before_login_end_with_the_login_even_within_one_packet() {
    let bench = locked();
    for bad in ["*11\r\n", "*2\r\n$3\r\nLEN\r\n$16385\r\n"] {
        let (mut client, task) = bench.connect();
        client.write_all(bad.as_bytes()).await.unwrap();
        let told = read_to_end(&mut client).await;
        assert!(told.starts_with("-ERR Protocol error: unauthenticated "), "{told}");
        drop(client);
        assert_eq!(task.await.unwrap(), End::Malformed);
    }
    let (mut client, task) = bench.connect();
    let large = format!("LOGIN\r\n*2\r\n$3\r\nLEN\r\n$100000\r\n{}\r\n", "x".repeat(100_000));
    client.write_all(large.as_bytes()).await.unwrap();
    expect(&mut client, "+OK\r\n:100000\r\n").await;
    tokio::time::sleep(Limits::default().auth_timeout * 2).await;
    client.write_all(b"ECHO a\r\n").await.unwrap();
    expect(&mut client, "$1\r\na\r\n").await;
    drop(client);
    assert_eq!(task.await.unwrap(), End::Gone);
}

#[tokio::test(start_paused = true)]
async fn a_request_before_login_is_small_as_a_whole_too() {
    let bench = locked();
    let (mut client, task) = bench.connect();
    let argument = format!("$16384\r\n{}\r\n", "x".repeat(16_384));
    let _ = client.write_all(format!("*5\r\n{}", argument.repeat(5)).as_bytes()).await;
    let told = read_to_end(&mut client).await;
    assert_eq!(told, "-ERR Protocol error: too big request\r\n");
    drop(client);
    assert_eq!(task.await.unwrap(), End::Malformed);
}
