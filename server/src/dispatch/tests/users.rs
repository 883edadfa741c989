//! Logins, permissions and users that change, over the scripted group.

use std::io::Write as _;
use std::path::Path;
use std::time::Duration;

use super::*;

/// Files of users, written as Kubernetes does: the whole file at once.
struct Files {
    dir: tempfile::TempDir,
}

impl Files {
    fn new(passwords: Option<&str>, rules: Option<&str>) -> Self {
        let files = Self { dir: tempfile::tempdir().unwrap() };
        for (name, text) in [("pass", passwords), ("acl", rules)] {
            if let Some(text) = text {
                files.write(name, text);
            }
        }
        files
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.dir.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        let mut file = tempfile::NamedTempFile::new_in(self.dir.path()).unwrap();
        file.write_all(text.as_bytes()).unwrap();
        file.persist(self.path(name)).unwrap();
    }

    fn bench(&self) -> Bench {
        let existing = |name: &str| Some(self.path(name)).filter(|path| Path::exists(path));
        Bench::new(|config| {
            config.requirepass_file = existing("pass");
            config.acl_file = existing("acl");
            config.auth_failure_delay = Duration::ZERO;
        })
    }
}

impl Bench {
    /// One more connection, which is not used by `turn`.
    fn another(&mut self, id: u64) -> (Connection, CancellationToken) {
        let at = |port| SocketAddr::from(([127, 0, 0, 1], port));
        let cancel = CancellationToken::new();
        (self.dispatcher.open(id, at(5001), at(4920), cancel.clone().into()), cancel)
    }

    /// Makes `connection` the one that `turn` uses, and returns the one before.
    fn swap(&mut self, connection: Connection) -> Connection {
        std::mem::replace(&mut self.connection, connection)
    }
}

const WRONG: &str = "WRONGPASS invalid username-password pair or user is disabled.";
const NOAUTH: &str = "NOAUTH Authentication required.";

fn noperm(user: &str, command: &str) -> Reply {
    error(&format!("NOPERM User {user} has no permissions to run the '{command}' command"))
}

#[tokio::test]
async fn hello_tells_the_protocol_and_what_the_node_is() {
    let mut bench = Bench::new(|config| config.redirect = Redirect::Moved);
    *bench.group.0.role.lock() = Some(Role::Follower);
    let Reply::Map(map) = bench.reply("HELLO 3 SETNAME me").await else { panic!() };
    let expected = [
        ("server", bulk("redis")),
        ("version", bulk("7.2.0")),
        ("proto", Reply::Integer(3)),
        ("id", Reply::Integer(1)),
        ("mode", bulk("cluster")),
        ("role", bulk("replica")),
        ("modules", Reply::Array(Vec::new())),
    ];
    assert_eq!(map, expected.map(|(key, value)| (bulk(key), value)));
    assert_eq!(bench.connection.session.protocol, Protocol::Resp3);
    assert_eq!(bench.reply("CLIENT GETNAME").await, bulk("me"));
    bench.reply("RESET").await;
    assert_eq!(bench.connection.session.protocol, Protocol::Resp2);
    assert_eq!(bench.reply("CLIENT GETNAME").await, Reply::Nil);
}

#[tokio::test]
async fn nothing_is_served_before_login_and_everything_after() {
    let files = Files::new(Some("old\nnew\r\n"), None);
    let mut bench = files.bench();
    let before = ["PING", "GET a", "SET a 1", "COMMAND", "INFO", "MULTI", "SUBSCRIBE x", "EVAL return 0"];
    assert_eq!(bench.replies(&before).await, [(); 8].map(|()| error(NOAUTH)));
    assert_eq!(bench.asked(), []);
    assert_eq!(bench.reply("NOPE").await, error("ERR unknown command 'NOPE'"));
    let Reply::Error(hello) = bench.reply("HELLO 3").await else { panic!() };
    assert!(hello.starts_with("NOAUTH HELLO must be called"), "{hello}");
    assert!(bench.dispatcher.is_stranger(&bench.connection));
    for wrong in ["AUTH x", "AUTH default x", "AUTH nobody new", "HELLO 3 AUTH default x"] {
        assert_eq!(bench.reply(wrong).await, error(WRONG), "{wrong}");
    }
    assert_eq!(bench.connection.session.protocol, Protocol::Resp2, "a refused HELLO changes nothing");
    // Login and what follows it in one packet.
    assert_eq!(
        bench.replies(&["AUTH old", "GET a", "ACL WHOAMI"]).await,
        [Reply::Ok, bulk("a"), bulk("default")]
    );
    assert!(!bench.dispatcher.is_stranger(&bench.connection));
    assert_eq!(bench.replies(&["RESET", "GET a"]).await, [Reply::Simple("RESET"), error(NOAUTH)]);
    assert!(matches!(bench.reply("HELLO 3 AUTH default new").await, Reply::Map(_)));
    assert_eq!(bench.reply("GET a").await, bulk("a"));
    // A wrong password leaves the login as it was, as in Redis.
    assert_eq!(bench.replies(&["AUTH x", "GET a"]).await, [error(WRONG), bulk("a")]);
    assert_eq!(bench.dispatcher.access().count().logins_failed, 5);
}

#[tokio::test]
async fn without_a_password_auth_says_so() {
    let mut bench = Bench::new(|_| {});
    let Reply::Error(text) = bench.reply("AUTH x").await else { panic!() };
    assert!(text.starts_with("ERR AUTH <password> called without any password configured"), "{text}");
    assert_eq!(bench.replies(&["AUTH default any", "GET a"]).await, [Reply::Ok, bulk("a")]);
    assert_eq!(bench.reply("AUTH a b c").await, error("ERR syntax error"));
}

#[tokio::test(start_paused = true)]
async fn failed_logins_are_answered_late_and_ten_of_them_close_the_connection() {
    let files = Files::new(Some("right"), None);
    let mut bench = files.bench();
    let mut config = (*bench.dispatcher.parts.config).clone();
    config.auth_failure_delay = Duration::from_millis(250);
    bench.dispatcher.parts.config = Arc::new(config);
    let started = tokio::time::Instant::now();
    for _ in 0..9 {
        assert_eq!(bench.reply("AUTH wrong").await, error(WRONG));
    }
    assert_eq!(started.elapsed(), Duration::from_millis(9 * 250));
    let (replies, flow, _) = bench.turn(&["AUTH wrong", "AUTH right", "GET a"]).await;
    assert_eq!((replies, flow), (vec![error(WRONG)], Flow::Close));
}

#[tokio::test]
async fn rules_hold_for_each_request_of_a_pipeline_a_transaction_and_a_script() {
    let files =
        Files::new(None, Some("user default off\nuser app on >pw ~app:* &app:* +@all -@dangerous -append\n"));
    let mut bench = files.bench();
    let key = || error("NOPERM No permissions to access a key");
    let channel = || error("NOPERM No permissions to access a channel");
    let lines = ["AUTH app pw", "SET app:1 v", "SET b v", "GET app:1", "GET b", "FLUSHALL", "CONFIG GET x"];
    let expected = [
        Reply::Ok,
        Reply::Ok,
        key(),
        bulk("app:1"),
        key(),
        noperm("app", "flushall"),
        noperm("app", "config|get"),
    ];
    assert_eq!(bench.replies(&lines).await, expected);
    assert_eq!(bench.replies(&["PUBLISH b m", "PUBLISH app:1 m"]).await, [channel(), Reply::Integer(0)]);
    assert_eq!(bench.reply("SUBSCRIBE app:1 b").await, channel());
    assert_eq!(bench.reply("PSUBSCRIBE app:?").await, channel(), "only the pattern itself, as in Redis");
    assert!(matches!(bench.reply("PSUBSCRIBE app:*").await, Reply::Push(_)));
    bench.reply("RESET").await;
    bench.reply("AUTH app pw").await;
    bench.asked();
    let lines = ["MULTI", "SET app:1 v", "SET b v", "EXEC"];
    let abort = error("EXECABORT Transaction discarded because of previous errors.");
    assert_eq!(bench.replies(&lines).await, [Reply::Ok, Reply::Simple("QUEUED"), key(), abort]);
    assert_eq!(bench.asked(), [], "nothing of it was proposed");
    assert_eq!(bench.reply("EVAL x 1 b").await, key());
    let script = Request { args: ["EVAL", "return redis.call('get', 'b')", "0"].map(Bytes::from).to_vec() };
    let mut replies = Replies::default();
    bench.dispatcher.answer(&mut bench.connection, &mut vec![script], &mut replies).await;
    let Reply::Error(text) = &replies.0[0] else { panic!("{replies:?}", replies = replies.0) };
    assert!(text.starts_with("ERR ACL failure in script: No permissions to access a key script: "), "{text}");
    let count = bench.dispatcher.access().count();
    assert_eq!(count.denied, [2, 5, 3]);
}

#[tokio::test]
async fn exec_that_is_not_permitted_gives_the_transaction_up() {
    let files = Files::new(None, Some("user default on nopass ~* +@all -exec\n"));
    let mut bench = files.bench();
    let refused = error(
        "EXECABORT Transaction discarded because of: NOPERM User default has no permissions to run the 'exec' command",
    );
    let lines = ["MULTI", "SET a 1", "EXEC", "SET b 1"];
    assert_eq!(bench.replies(&lines).await, [Reply::Ok, Reply::Simple("QUEUED"), refused, Reply::Ok]);
}

#[tokio::test]
async fn a_password_that_is_changed_over_breaks_no_connection_and_ends_it_behind_an_answer() {
    let files = Files::new(Some("old\n"), None);
    let mut bench = files.bench();
    let (ends, at) = (Ends::default(), |port| SocketAddr::from(([127, 0, 0, 1], port)));
    let first = bench.dispatcher.open(3, at(5001), at(4920), ends.clone());
    bench.swap(first);
    assert_eq!(bench.reply("AUTH old").await, Reply::Ok);
    files.write("pass", "old\nnew\n");
    assert_eq!(bench.dispatcher.reload_users(false), Ok(true));
    assert_eq!(bench.reply("GET a").await, bulk("a"));
    let (fresh, fresh_cancel) = bench.another(2);
    let old = bench.swap(fresh);
    assert_eq!(bench.reply("AUTH new").await, Reply::Ok);
    files.write("pass", "new\n");
    assert_eq!(bench.dispatcher.reload_users(false), Ok(true));
    assert_eq!(bench.reply("GET a").await, bulk("a"));
    assert!(!fresh_cancel.is_cancelled());
    bench.swap(old);
    assert!(ends.leave.is_cancelled() && !ends.kill.is_cancelled(), "it ends in order");
    assert_eq!(bench.reply("GET a").await, bulk("a"), "what is on its way is answered");
    // One that never pauses is not answered for ever.
    assert!(bench.connection.standing.parting.is_some());
    bench.connection.standing.parting = Some(crate::clock::monotonic());
    assert_eq!(bench.reply("GET a").await, error(NOAUTH));
    assert_eq!(bench.dispatcher.reload_users(false), Ok(false), "nothing has changed");
    assert_eq!(bench.reply("AUTH old").await, error(WRONG));
}

#[tokio::test]
async fn users_that_lose_their_login_or_a_channel_are_closed_and_no_others() {
    let rules =
        "user default on nopass ~* &* +@all\nuser a on >a ~* &* +@all\nuser b on >b ~* &news:* +@all\n";
    let files = Files::new(None, Some(rules));
    let mut bench = files.bench();
    let mut cancels = Vec::new();
    for (id, lines) in
        [(2, ["AUTH a a", "PING"]), (3, ["AUTH b b", "SUBSCRIBE news:1"]), (4, ["PING", "PING"])]
    {
        let (connection, cancel) = bench.another(id);
        let before = bench.swap(connection);
        bench.replies(&lines).await;
        cancels.push((bench.swap(before), cancel));
    }
    let closed = |cancels: &[(Connection, CancellationToken)]| {
        cancels.iter().map(|(_, cancel)| cancel.is_cancelled()).collect::<Vec<_>>()
    };
    files.write("acl", &rules.replace("user a on", "user a off"));
    assert_eq!(bench.dispatcher.reload_users(false), Ok(true));
    assert_eq!(closed(&cancels), [true, false, false]);
    files.write("acl", &rules.replace("&news:*", "&other:*"));
    assert_eq!(bench.dispatcher.reload_users(false), Ok(true));
    assert_eq!(closed(&cancels), [true, true, false]);
}

#[tokio::test]
async fn a_transaction_is_not_performed_under_other_rules() {
    let files = Files::new(None, Some("user default on nopass ~* +@all -keys\n"));
    let mut bench = files.bench();
    assert_eq!(bench.replies(&["MULTI", "SET a 1"]).await, [Reply::Ok, Reply::Simple("QUEUED")]);
    files.write("acl", "user default on nopass ~b +@all\n");
    assert_eq!(bench.dispatcher.reload_users(false), Ok(true));
    let Reply::Error(text) = bench.reply("EXEC").await else { panic!() };
    assert!(
        text.starts_with("EXECABORT Transaction discarded because of: NOPERM ACLs rules changed"),
        "{text}"
    );
    assert_eq!(bench.asked(), []);
}

#[tokio::test]
async fn a_bad_file_keeps_the_users_and_is_told_once() {
    let files = Files::new(None, Some("user default on nopass ~* &* +@all\n"));
    let mut bench = files.bench();
    files.write(
        "acl",
        "user default on nopass ~* +@nonsense >hunter2x\nuser a on >hunter2 +nonsense #hunter2",
    );
    let error_text = bench.dispatcher.reload_users(false).unwrap_err().to_string();
    assert!(error_text.contains("acl:1: Error in applying operation '+@nonsense'"), "{error_text}");
    assert!(error_text.contains("acl:2: Error in applying operation '#(redacted)'"), "{error_text}");
    assert!(!error_text.contains("hunter2"), "{error_text}");
    assert_eq!(bench.dispatcher.reload_users(false), Ok(false), "told once");
    assert!(bench.dispatcher.access().count().faulty);
    let Reply::Error(text) = bench.reply("ACL LOAD").await else { panic!() };
    assert!(text.contains("+@nonsense") && text.contains("no change"), "{text}");
    assert_eq!(bench.reply("GET a").await, bulk("a"));
    std::fs::remove_file(files.path("acl")).unwrap();
    assert!(bench.dispatcher.reload_users(false).is_err(), "a file that is gone changes nothing either");
    assert_eq!(bench.reply("GET a").await, bulk("a"));
    files.write("acl", "user default on nopass ~* &* +@all\n");
    assert_eq!(bench.dispatcher.reload_users(false), Ok(false));
    assert!(!bench.dispatcher.access().count().faulty);
}

#[tokio::test]
async fn a_protected_node_lets_loopback_in_only() {
    let peer = |text: &str| text.parse::<std::net::SocketAddr>().unwrap();
    let inside = ["127.0.0.1:1", "127.9.9.9:1", "[::1]:1", "[::ffff:127.0.0.1]:1"];
    let outside = ["10.0.0.1:1", "[fd00::1]:1", "[::ffff:10.0.0.1]:1", "0.0.0.0:1"];
    let mut bench = Bench::new(|_| {});
    for addr in inside {
        assert_eq!(bench.dispatcher.refuses(peer(addr)), None, "{addr}");
    }
    for addr in outside {
        let told = bench.dispatcher.refuses(peer(addr)).unwrap();
        assert!(told.starts_with("DENIED Redis is running in protected mode"), "{addr}: {told}");
    }
    assert_eq!(bench.reply("CONFIG SET protected-mode no").await, Reply::Ok);
    assert_eq!(bench.dispatcher.refuses(peer(outside[0])), None);
    let files = Files::new(Some("pw"), None);
    assert_eq!(files.bench().dispatcher.refuses(peer(outside[0])), None, "there is a password");
    let files = Files::new(None, Some("user default off\nuser a on nopass +@all\n"));
    assert_eq!(files.bench().dispatcher.refuses(peer(outside[0])), None, "who comes is nobody");
}

#[tokio::test]
async fn no_answer_and_no_log_shows_a_password() {
    let files = Files::new(Some("hunter2-default"), Some("user a on >hunter2-a ~* &* +@all\n"));
    let mut bench = files.bench();
    let mut lines = vec!["AUTH hunter2-wrong", "AUTH a hunter2-wrong", "HELLO 2 AUTH a hunter2-wrong"];
    lines.extend(["AUTH hunter2-default", "CONFIG SET slowlog-log-slower-than 0", "AUTH a hunter2-a"]);
    lines.extend(["HELLO 3 AUTH a hunter2-a", "ACL SETUSER x >hunter2-x", "AUTH x y hunter2-z"]);
    lines.extend(["ACL LIST", "ACL GETUSER a", "ACL LOG", "CLIENT LIST", "CONFIG GET *", "SLOWLOG GET -1"]);
    let shown = format!("{:?}", bench.replies(&lines).await);
    assert!(!shown.contains("hunter2"), "{shown}");
    assert!(shown.contains("(redacted)"), "the slow log has AUTH: {shown}");
    let access = format!("{:?}", bench.dispatcher.access());
    assert!(!access.contains("hunter2"), "{access}");
    let hex = crate::secret::Digest::of(b"hunter2-a").hex();
    assert!(
        shown.contains(&hex) && !access.contains(&hex),
        "ACL LIST shows hashes, as Redis, nothing else does"
    );
}

#[tokio::test]
async fn clients_inside_the_process_need_no_password() {
    let files = Files::new(Some("pw"), None);
    let mut bench = files.bench();
    let at = |port| SocketAddr::from(([127, 0, 0, 1], port));
    let inside = bench.dispatcher.open_as(9, (at(0), at(4920)), Ends::default(), true);
    bench.swap(inside);
    assert_eq!(bench.reply("GET a").await, bulk("a"));
    files.write("pass", "other");
    assert_eq!(bench.dispatcher.reload_users(false), Ok(true));
    assert_eq!(bench.reply("GET a").await, bulk("a"));
}

#[tokio::test]
async fn refusals_are_in_the_log_in_info_and_in_the_list_of_clients() {
    let files = Files::new(None, Some("user default on nopass ~a &* +@all\nuser u on >pw +ping\n"));
    let mut bench = files.bench();
    for line in ["GET b", "GET b", "AUTH u x", "MULTI", "GET b", "DISCARD"] {
        bench.reply(line).await;
    }
    let Reply::Array(entries) = bench.reply("ACL LOG").await else { panic!() };
    let field = |entry: &Reply, name: &str| {
        let Reply::Map(fields) = entry else { panic!("{entry:?}") };
        fields.iter().find(|(key, _)| *key == bulk(name)).unwrap().1.clone()
    };
    let row = |entry| ["count", "reason", "context", "object", "username"].map(|name| field(entry, name));
    let rows: Vec<_> = entries.iter().map(row).collect();
    let expected = [
        [Reply::Integer(1), bulk("key"), bulk("multi"), bulk("b"), bulk("default")],
        [Reply::Integer(1), bulk("auth"), bulk("toplevel"), bulk("AUTH"), bulk("u")],
        [Reply::Integer(2), bulk("key"), bulk("toplevel"), bulk("b"), bulk("default")],
    ];
    assert_eq!(rows, expected);
    let Reply::Verbatim(info) = bench.reply("INFO stats").await else { panic!() };
    let info = String::from_utf8(info.to_vec()).unwrap();
    for line in ["acl_access_denied_auth:1", "acl_access_denied_cmd:0", "acl_access_denied_key:3"] {
        assert!(info.lines().any(|found| found == line), "{line} in {info}");
    }
    assert_eq!(bench.replies(&["ACL LOG RESET", "ACL LOG"]).await, [Reply::Ok, Reply::Array(Vec::new())]);
    let Reply::Verbatim(line) = bench.reply("CLIENT INFO").await else { panic!() };
    assert!(String::from_utf8(line.to_vec()).unwrap().contains(" user=default "));
    assert_eq!(bench.reply("CLIENT KILL USER ghost").await, error("ERR No such user 'ghost'"));
    assert_eq!(bench.reply("CLIENT KILL USER u").await, Reply::Integer(0));
}

#[tokio::test]
async fn a_certificate_logs_its_user_in_for_as_long_as_there_is_one() {
    let rules = "user default on >secret ~* &* +@all\nuser app on >pw ~app:* +@all -@admin\nuser gone off\n";
    let files = Files::new(None, Some(rules));
    let mut bench = files.bench();
    for (names, user) in
        [(&["app"][..], "app"), (&["nobody", "gone", "app"][..], "app"), (&["default"][..], "default")]
    {
        let (mut connection, _) = bench.another(5);
        let names = names.iter().map(|&name| name.to_owned()).collect();
        bench.dispatcher.log_in_by_certificate(&mut connection, names);
        assert!(!bench.dispatcher.is_stranger(&connection));
        bench.swap(connection);
        assert_eq!(bench.reply("ACL WHOAMI").await, bulk(user));
        let Reply::Verbatim(line) = bench.reply("CLIENT INFO").await else { panic!() };
        assert!(String::from_utf8(line.to_vec()).unwrap().contains(&format!(" user={user} ")));
    }
    let (mut connection, cancel) = bench.another(6);
    bench.dispatcher.log_in_by_certificate(&mut connection, vec!["app".to_owned()]);
    bench.swap(connection);
    assert_eq!(bench.reply("GET b").await, error("NOPERM No permissions to access a key"));
    assert_eq!(bench.reply("GET app:1").await, bulk("app:1"));
    // Another password is nothing to it, and RESET brings its user back.
    assert_eq!(bench.replies(&["AUTH secret", "ACL WHOAMI"]).await, [Reply::Ok, bulk("default")]);
    assert_eq!(bench.replies(&["RESET", "ACL WHOAMI"]).await, [Reply::Simple("RESET"), bulk("app")]);
    files.write("acl", &rules.replace(">pw", ">other"));
    assert_eq!(bench.dispatcher.reload_users(false), Ok(true));
    assert!(!cancel.is_cancelled());
    assert_eq!(bench.reply("GET app:1").await, bulk("app:1"));
    files.write("acl", &rules.replace("app on", "app off"));
    assert_eq!(bench.dispatcher.reload_users(false), Ok(true));
    assert!(cancel.is_cancelled(), "the user is off");
    assert_eq!(bench.reply("GET app:1").await, error(NOAUTH));
}

#[tokio::test]
async fn a_certificate_of_no_user_leaves_a_stranger_and_is_noted() {
    let files = Files::new(None, Some("user default on >secret ~* &* +@all\nuser gone off\n"));
    let mut bench = files.bench();
    for name in ["ghost", "gone"] {
        let (mut connection, _) = bench.another(5);
        bench.dispatcher.log_in_by_certificate(&mut connection, vec![name.to_owned()]);
        assert!(bench.dispatcher.is_stranger(&connection), "{name}");
        bench.swap(connection);
        assert_eq!(bench.reply("PING").await, error(NOAUTH));
    }
    let Reply::Array(entries) = bench.replies(&["AUTH secret", "ACL LOG"]).await.remove(1) else { panic!() };
    let Reply::Map(fields) = &entries[0] else { panic!() };
    let field = |name: &str| fields.iter().find(|(key, _)| *key == bulk(name)).unwrap().1.clone();
    assert_eq!(["reason", "username", "object"].map(field), [bulk("tls-cert"), bulk("gone"), bulk("")]);
}
