//! Passwords, ACL users and their files, over real sockets and three nodes.

use std::net::UdpSocket;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use kvnode_tests::client::Client;
use kvnode_tests::cluster::Cluster;
use kvnode_tests::node::run_to_end;
use kvnode_tests::resp::Value;
use kvnode_tests::scenario::scenario;
use kvnode_tests::tool;
use kvnode_tests::wait::{SOON, eventually};

/// Writes a file as Kubernetes does: all of it at once.
fn put(path: &Path, text: &str) -> Result<()> {
    let new = path.with_extension("new");
    std::fs::write(&new, text)?;
    Ok(std::fs::rename(new, path)?)
}

/// Has all nodes read these keys from a configuration file.
fn configure(cluster: &mut Cluster, keys: &str) -> Result<()> {
    let config = cluster.path().join("config.yaml");
    std::fs::write(&config, keys)?;
    cluster.flags.extend(["--config".to_owned(), config.display().to_string()]);
    Ok(())
}

/// Waits until a condition holds.
async fn becomes(what: &str, mut condition: impl AsyncFnMut() -> Result<bool>) -> Result<()> {
    eventually(what, SOON, async || Ok(condition().await?.then_some(()))).await
}

async fn metrics(http: &str) -> Result<String> {
    Ok(kvnode_tests::http::get(http, "/metrics").await?.text())
}

fn error_of(value: &Value) -> &str {
    value.as_error().unwrap_or_default()
}

/// A cluster whose users come from `users.acl`, which begins with an open default user.
async fn with_users(cluster: &mut Cluster, nodes: usize) -> Result<PathBuf> {
    let rules = cluster.path().join("users.acl");
    put(&rules, "user default on nopass ~* &* +@all\n")?;
    configure(cluster, &format!("acl_file: {}\nauth_failure_delay: 0\n", rules.display()))?;
    cluster.grow(nodes).await?;
    Ok(rules)
}

#[test]
fn users_change_on_all_nodes_without_a_restart() {
    scenario(0, &[], async |cluster| {
        let rules = with_users(cluster, 3).await?;
        let mut before = cluster.nodes[0].client().await?;
        before.ok("SET other v").await?;
        put(
            &rules,
            "user default on >secret ~* &* +@all\nuser app on >pw ~app:* resetchannels +@all -@dangerous\n",
        )?;
        for node in &cluster.nodes {
            eventually("a node asks for a password", SOON, async || {
                let reply = node.client().await?.run("PING").await?;
                Ok((error_of(&reply) == "NOAUTH Authentication required.").then_some(()))
            })
            .await?;
        }
        ensure!(before.closed().await?, "who needed no password has to log in now");
        // Through a follower: the check is where the client is, the write where the leader is.
        for node in &cluster.nodes {
            let mut client = node.client().await?;
            client.ok("AUTH app pw").await?;
            client.ok("SET app:1 v").await?;
            ensure!(client.text("GET app:1").await?.as_deref() == Some("v"));
            let refused = client.run("SET other w").await?;
            ensure!(error_of(&refused) == "NOPERM No permissions to access a key", "{refused:?}");
            let refused = client.run("FLUSHALL").await?;
            ensure!(
                error_of(&refused).contains("has no permissions to run the 'flushall' command"),
                "{refused:?}"
            );
            ensure!(client.text("ACL WHOAMI").await?.as_deref() == Some("app"));
            client.ok("AUTH secret").await?;
            ensure!(client.text("GET other").await?.as_deref() == Some("v"));
            let metrics = metrics(node.http()).await?;
            let denied = "kvnode_requests_denied_total{reason=\"key\"} 1";
            ensure!(metrics.contains(denied), "{denied} is missing");
        }
        // A file with a fault changes nothing, and says so.
        put(&rules, "user default on >secret ~* &* +@all\nuser app on >pw +@nonsense\n")?;
        becomes("the fault is told", async || {
            let metrics = metrics(cluster.nodes[0].http()).await?;
            // Its help text begins with the same words.
            Ok(metrics.contains("\nkvnode_users_files_faulty 1\n"))
        })
        .await?;
        let mut client = cluster.nodes[0].client().await?;
        client.ok("AUTH app pw").await?;
        client.ok("SET app:1 w").await?;
        let log = cluster.nodes[0].log_text();
        ensure!(log.contains("users.acl:2: Error in applying operation '+@nonsense'"), "{log}");
        ensure!(!log.contains("secret"), "the log shows a password: {log}");
        Ok(())
    });
}

/// A client that logs in, writes until it is told to change its password, and counts.
async fn writes(addr: &str, password: &str, until_file: &Path, number: usize) -> Result<usize> {
    let mut client = Client::connect(addr).await?;
    client.ok(&format!("AUTH {password}")).await?;
    let mut written = 0;
    while !until_file.exists() {
        client.ok(&format!("SET k{number} {written}")).await?;
        written += 1;
    }
    Ok(written)
}

#[test]
fn a_password_is_changed_over_without_one_failed_command() {
    scenario(0, &[], async |cluster| {
        let passwords = cluster.path().join("passwords");
        put(&passwords, "old\n")?;
        configure(cluster, &format!("requirepass_file: {}\n", passwords.display()))?;
        cluster.add(None).await?;
        let addr = cluster.nodes[0].addr().to_owned();
        let (both, gone) = (cluster.path().join("both-are-valid"), cluster.path().join("old-is-gone"));
        let change = async {
            put(&passwords, "old\nnew\n")?;
            becomes("the new password is valid", async || {
                Ok(Client::connect(&addr).await?.run("AUTH new").await?.is_ok())
            })
            .await?;
            put(&both, "")?;
            // Writers go over to the new one now; one of them has to have done it before the old one goes.
            becomes("a writer uses the new password", async || {
                let mut client = Client::connect(&addr).await?;
                client.ok("AUTH new").await?;
                Ok(client.text("GET k10").await?.is_some())
            })
            .await?;
            put(&passwords, "new\n")?;
            becomes("the old password is not valid", async || {
                Ok(error_of(&Client::connect(&addr).await?.run("AUTH old").await?).starts_with("WRONGPASS"))
            })
            .await?;
            put(&gone, "")
        };
        let writer = |number: usize| {
            let (addr, both, gone) = (addr.clone(), both.clone(), gone.clone());
            async move {
                let with_old = writes(&addr, "old", &both, number).await.context("with the old password")?;
                let with_new =
                    writes(&addr, "new", &gone, number + 10).await.context("with the new password")?;
                ensure!(with_old > 0 && with_new > 0);
                Ok::<_, anyhow::Error>(())
            }
        };
        tokio::try_join!(change, writer(0))?;
        Ok(())
    });
}

#[test]
fn before_login_a_client_is_kept_small_and_must_hurry() {
    scenario(0, &[], async |cluster| {
        let passwords = cluster.path().join("passwords");
        put(&passwords, "secret\n")?;
        let keys =
            format!("requirepass_file: {}\nauth_timeout: 1s\nauth_failure_delay: 0\n", passwords.display());
        configure(cluster, &keys)?;
        cluster.add(None).await?;
        let node = &cluster.nodes[0];
        let mut slow = node.client().await?;
        let mut chatty = node.client().await?;
        for bad in [&b"*11\r\n"[..], b"*1\r\n$16385\r\n", b"PING 2 3 4 5 6 7 8 9 10 11\r\n"] {
            let mut client = node.client().await?;
            client.send(bad).await?;
            let reply = client.receive().await?;
            ensure!(error_of(&reply).starts_with("ERR Protocol error: unauthenticated"), "{reply:?}");
            ensure!(client.closed().await?);
        }
        // Logged in, the same client may send what it likes, in the same packet even.
        let mut client = node.client().await?;
        let large = vec![b'x'; 1 << 20];
        let commands = [vec![&b"AUTH"[..], b"secret"], vec![b"SET", b"large", &large]];
        let replies = client.pipeline(&commands).await?;
        ensure!(replies.iter().all(Value::is_ok), "{replies:?}");
        ensure!(slow.closed().await?, "it did not log in");
        // Talking does not help.
        let talked = eventually("who talks without login is closed", SOON, async || {
            Ok(chatty.run("PING").await.is_err().then_some(()))
        });
        talked.await?;
        client.ok("SET small v").await?;
        let metrics = metrics(node.http()).await?;
        ensure!(metrics.contains("kvnode_clients_rejected_total{reason=\"login\"} 2"), "{metrics}");
        Ok(())
    });
}

/// An address of this machine that is not loopback. Nothing is sent.
fn outer_address() -> Option<String> {
    let socket = UdpSocket::bind("0.0.0.0:0").ok()?;
    socket.connect("192.0.2.1:9").ok()?;
    let ip = socket.local_addr().ok()?.ip();
    (!ip.is_loopback() && !ip.is_unspecified()).then(|| ip.to_string())
}

#[test]
fn a_node_without_a_password_answers_loopback_only() {
    let Some(outer) = outer_address() else {
        tool::skip("this machine has no address but loopback: protected mode is tested in the server only");
        return;
    };
    scenario(0, &[], async |cluster| {
        let passwords = cluster.path().join("passwords");
        configure(cluster, "formation: auto\n")?;
        let node =
            kvnode_tests::node::Node::new(cluster.path(), "outer", &cluster.flags).at(&format!("{outer}:0"));
        cluster.nodes.push(node);
        cluster.nodes[0].start().await?;
        let mut client = cluster.nodes[0].client().await?;
        let told = client.receive().await?;
        ensure!(error_of(&told).starts_with("DENIED Redis is running in protected mode"), "{told:?}");
        ensure!(client.closed().await?);
        cluster.nodes[0].terminate().await?;
        put(&passwords, "secret\n")?;
        put(
            &cluster.path().join("config.yaml"),
            &format!("formation: auto\nrequirepass_file: {}\n", passwords.display()),
        )?;
        cluster.nodes[0].start().await?;
        let mut client = cluster.nodes[0].client().await?;
        client.ok("AUTH secret").await?;
        client.ok("SET a b").await
    });
}

#[test]
fn a_file_with_a_fault_stops_the_start_and_tells_no_password() {
    scenario(0, &[], async |cluster| {
        let rules = cluster.path().join("users.acl");
        put(&rules, "user default on >hunter2 +nonsense\nuser a on #hunter2\n")?;
        let config = cluster.path().join("config.yaml");
        std::fs::write(&config, format!("acl_file: {}\n", rules.display()))?;
        let (config, data) =
            (config.display().to_string(), cluster.path().join("data").display().to_string());
        for arguments in [
            &["check-config", "--config", &config][..],
            &["--config", &config, "--data", &data, "--addr", "127.0.0.1:0"],
        ] {
            let (code, printed) = run_to_end(arguments, SOON).await?;
            ensure!(code == Some(78), "{code:?}: {printed}");
            for part in ["users.acl:1: Error in applying operation '+nonsense'", "users.acl:2: "] {
                ensure!(printed.contains(part), "{part}: {printed}");
            }
            ensure!(!printed.contains("hunter2"), "{printed}");
        }
        put(&rules, "user default on >hunter2 ~* +@all\n")?;
        let (code, printed) = run_to_end(&["check-config", "--config", &config], SOON).await?;
        ensure!(code == Some(0) && !printed.contains("hunter2"), "{printed}");
        let missing = format!("acl_file: {}\n", cluster.path().join("missing").display());
        std::fs::write(Path::new(&config), missing)?;
        let (code, printed) = run_to_end(&["check-config", "--config", &config], SOON).await?;
        ensure!(code == Some(78) && printed.contains("missing: No such file"), "{printed}");
        Ok(())
    });
}

#[test]
fn guessing_passwords_is_slow_and_ends() {
    scenario(0, &[], async |cluster| {
        let passwords = cluster.path().join("passwords");
        put(&passwords, "secret\n")?;
        configure(
            cluster,
            &format!("requirepass_file: {}\nauth_failure_delay: 50ms\n", passwords.display()),
        )?;
        cluster.add(None).await?;
        let mut guesser = cluster.nodes[0].client().await?;
        let wrong: Vec<Vec<String>> = (0..10).map(|n| vec!["AUTH".to_owned(), format!("guess{n}")]).collect();
        let started = std::time::Instant::now();
        let replies = guesser.pipeline(&wrong).await?;
        ensure!(replies.iter().all(|reply| error_of(reply).starts_with("WRONGPASS")), "{replies:?}");
        ensure!(started.elapsed() >= Duration::from_millis(500), "{:?}", started.elapsed());
        ensure!(guesser.closed().await?, "ten are enough");
        let log = cluster.nodes[0].log_text();
        ensure!(log.contains("login failed") && !log.contains("guess0"), "{log}");
        let Err(_) = cluster.nodes[0].client().await?.text("GET a").await else {
            bail!("nobody is logged in")
        };
        Ok(())
    });
}
