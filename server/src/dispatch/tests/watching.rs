//! MONITOR, CLIENT PAUSE and CLIENT UNBLOCK: one client does something to others.

use std::time::Duration;

use super::*;

fn at(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}

fn shown(bench: &Bench, watcher: &mut Connection) -> String {
    let mut out = BytesMut::new();
    bench.dispatcher.take_pushes(watcher, &mut out);
    // Without the times.
    let text = String::from_utf8(out.to_vec()).unwrap();
    text.lines().map(|line| line.split_once(' ').map_or(line, |(_, rest)| rest).to_owned() + "\n").collect()
}

async fn ask(bench: &Bench, connection: &mut Connection, line: &str) -> Vec<Reply> {
    let (mut requests, mut replies) = (vec![request(line)], Replies::default());
    bench.dispatcher.answer(connection, &mut requests, &mut replies).await;
    replies.0
}

#[tokio::test]
async fn a_monitor_sees_what_others_ask_but_no_secret_and_no_administration() {
    let mut bench = Bench::new(|config| config.auth_failure_delay = Duration::ZERO);
    let mut watcher = bench.dispatcher.open(2, at(5001), at(4920), Ends::default());
    assert_eq!(ask(&bench, &mut watcher, "MONITOR").await, [Reply::Ok]);
    let lines = ["SET a 1", "NOPE", "get a", "SELECT 3", "AUTH someone secret", "HELLO 3 AUTH x secret"];
    bench.turn(&lines).await;
    bench.turn(&["ACL SETUSER x >secret", "CONFIG GET *", "MULTI", "DEL b", "EXEC"]).await;
    let expected = [
        "[0 127.0.0.1:5000] \"SET\" \"a\" \"1\"",
        "[0 127.0.0.1:5000] \"get\" \"a\"",
        "[3 127.0.0.1:5000] \"SELECT\" \"3\"",
        "[3 127.0.0.1:5000] \"AUTH\" \"(redacted)\" \"(redacted)\"",
        "[3 127.0.0.1:5000] \"HELLO\" \"3\" \"(redacted)\" \"(redacted)\" \"(redacted)\"",
        "[3 127.0.0.1:5000] \"MULTI\"",
        "[3 127.0.0.1:5000] \"DEL\" \"b\"",
        "[3 127.0.0.1:5000] \"EXEC\"",
    ];
    assert_eq!(shown(&bench, &mut watcher), expected.join("\n") + "\n");
    assert_eq!(ask(&bench, &mut watcher, "RESET").await, [Reply::Simple("RESET")]);
    bench.reply("GET a").await;
    assert_eq!(shown(&bench, &mut watcher), "");
}

#[tokio::test]
async fn a_monitor_that_does_not_read_is_closed_and_nobody_waits_for_it() {
    let mut bench = Bench::new(|_| {});
    let cancel = CancellationToken::new();
    let mut watcher = bench.dispatcher.open(2, at(5001), at(4920), cancel.clone().into());
    ask(&bench, &mut watcher, "MONITOR").await;
    let long = format!("ECHO {}", "x".repeat(1000));
    for _ in 0..10_000 {
        bench.reply(&long).await;
        if cancel.is_cancelled() {
            return;
        }
    }
    panic!("ten megabytes wait for a client");
}

#[tokio::test(start_paused = true)]
async fn a_pause_holds_writes_and_what_follows_them_until_it_is_over() {
    let mut bench = Bench::new(|_| {});
    let mut admin = bench.dispatcher.open(2, at(5001), at(4920), Ends::default());
    assert_eq!(ask(&bench, &mut admin, "CLIENT PAUSE 60000 WRITE").await, [Reply::Ok]);
    assert_eq!(bench.replies(&["GET a", "PING"]).await, [bulk("a"), Reply::Simple("PONG")]);
    let began = tokio::time::Instant::now();
    let dispatcher = &bench.dispatcher;
    let mut requests = vec![request("GET a"), request("SET a 1"), request("GET b")];
    let mut replies = Replies::default();
    {
        let mut held = std::pin::pin!(dispatcher.answer(&mut bench.connection, &mut requests, &mut replies));
        let soon = tokio::time::timeout(Duration::from_secs(59), &mut held).await;
        assert!(soon.is_err(), "the write waits");
        assert!(!bench.group.0.asked.lock().contains(&Asked::Propose(1)), "nothing of it was done");
        let (mut early, mut answers) = (vec![request("CLIENT UNPAUSE")], Replies::default());
        dispatcher.answer(&mut admin, &mut early, &mut answers).await;
        assert_eq!(answers.0, [Reply::Ok]);
        held.await;
    }
    assert_eq!(replies.0, [bulk("a"), Reply::Ok, bulk("b")]);
    assert!(began.elapsed() < Duration::from_mins(1));
}

#[tokio::test(start_paused = true)]
async fn a_pause_of_all_holds_everything_and_ends_by_itself() {
    let mut bench = Bench::new(|_| {});
    bench.replies(&["CLIENT PAUSE 200", "CLIENT PAUSE 100 WRITE"]).await;
    assert_eq!(bench.reply("PING").await, Reply::Simple("PONG"));
    bench.replies(&["CLIENT PAUSE 3600000"]).await;
    bench.shutdown.cancel();
    assert_eq!(
        bench.turn(&["PING"]).await,
        (Vec::new(), Flow::Close, 0),
        "a node that stops waits for nobody"
    );
}

#[tokio::test]
async fn a_client_that_waits_can_be_let_go() {
    let bench = Bench::new(|_| {});
    let mut admin = bench.dispatcher.open(2, at(5001), at(4920), Ends::default());
    for (how, expected) in
        [("TIMEOUT", Reply::Integer(1)), ("ERROR", error("UNBLOCKED client unblocked via CLIENT UNBLOCK"))]
    {
        let mut waiter = bench.dispatcher.open(7, at(5002), at(4920), Ends::default());
        let let_go = async {
            let line = format!("CLIENT UNBLOCK 7 {how}");
            while ask(&bench, &mut admin, &line).await != [Reply::Integer(1)] {
                tokio::task::yield_now().await;
            }
        };
        let (replies, ()) = tokio::join!(ask(&bench, &mut waiter, "WAIT 9 0"), let_go);
        assert_eq!(replies, [expected], "{how}");
        assert_eq!(ask(&bench, &mut admin, "CLIENT UNBLOCK 7").await, [Reply::Integer(0)]);
    }
}
