//! What is secret is shown nowhere: every answer, log line and file that others read is searched for it. And what was done
//! by whom is told.

use std::fmt::Write as _;
use std::fs;

use anyhow::{Context, Result, ensure};
use kvnode_tests::client::Client;
use kvnode_tests::cluster::Cluster;
use kvnode_tests::http;
use kvnode_tests::pki::Authority;
use kvnode_tests::scenario::scenario;

use crate::tls::{add, pki_dir};

/// Passwords, right and wrong ones, as they may be typed in the wrong place.
const PASSWORDS: [&str; 5] = ["pass-5e1f", "older-77ab", "rules-91c4", "guess-0d2e", "typed-3b8a"];

/// One node with both files, a certificate, and nothing hidden from its log.
async fn node(cluster: &mut Cluster) -> Result<Vec<String>> {
    let own = Authority::new("own")?;
    let file = |name: &str| cluster.path().join(name);
    let (passwords, rules) = (file("passwords"), file("users.acl"));
    fs::write(&passwords, "pass-5e1f\nolder-77ab\n")?;
    fs::write(&rules, "user app on >rules-91c4 ~app:* &* +@all -@admin\n")?;
    let head = format!(
        "tls_addr: IP:0\npeer_tls: required\nauth_failure_delay: 0\nlog_filter: trace\nrequirepass_file: {}\nacl_file: {}",
        passwords.display(),
        rules.display()
    );
    add(cluster, &own, &head).await?;
    let key = fs::read_to_string(pki_dir(cluster, 0).join("node.key"))?;
    // A line from the middle of the key: what a dump of it would show.
    let line = key.lines().nth(1).context("a key in PEM")?.to_owned();
    Ok(PASSWORDS.iter().map(|&word| word.to_owned()).chain([line]).collect())
}

fn clean(secrets: &[String], place: &str, text: &str) -> Result<()> {
    for secret in secrets {
        ensure!(!text.contains(secret.as_str()), "{place} shows {secret}: {text}");
    }
    Ok(())
}

/// Everything that a client may do with a password, right or wrong, but name it as a user: names are told, as in Redis.
async fn use_passwords(client: &mut Client) -> Result<Vec<String>> {
    let mut answers = Vec::new();
    for line in [
        "AUTH guess-0d2e",
        "AUTH app guess-0d2e",
        "AUTH a b typed-3b8a",
        "HELLO 3 AUTH default guess-0d2e",
        "AUHT typed-3b8a",
        "AUTH app rules-91c4",
        "CONFIG SET requirepass typed-3b8a",
        "HELLO 2 AUTH default older-77ab",
        "AUTH pass-5e1f",
        "CONFIG SET slowlog-log-slower-than 0",
        "AUTH pass-5e1f",
        "CONFIG SET requirepass typed-3b8a",
        "CONFIG SET tls-key-file-pass typed-3b8a",
        "ACL SETUSER app >typed-3b8a",
        "ACL GETUSER app typed-3b8a",
        "MULTI",
        "AUTH app rules-91c4",
        "EXEC",
        "AUTH pass-5e1f",
        "CLIENT SETINFO LIB-NAME typed",
        "SLOWLOG GET -1",
        "ACL LOG",
        "ACL LIST",
        "ACL GETUSER default",
        "CONFIG GET *",
        "INFO everything",
        "CLIENT LIST",
        "RAFTSTATS",
        "RAFTIDENTITY",
        "CONFIG SET slowlog-log-slower-than 10000",
    ] {
        let reply = client.run(line).await?;
        answers.push(format!("{line} -> {reply:?}"));
    }
    Ok(answers)
}

#[test]
fn no_answer_log_line_or_file_shows_a_password_or_a_key() {
    scenario(0, &[], async |cluster| {
        let secrets = node(cluster).await?;
        let mut watcher = cluster.nodes[0].client().await?;
        watcher.ok("AUTH pass-5e1f").await?;
        watcher.ok("MONITOR").await?;
        let mut client = cluster.nodes[0].client().await?;
        for answer in use_passwords(&mut client).await? {
            let (_, shown) = answer.split_once(" -> ").context("an answer")?;
            clean(&secrets, "an answer", shown).with_context(|| answer.clone())?;
        }
        client.ok("SET the-end v").await?;
        loop {
            let seen = format!("{:?}", watcher.receive().await?);
            clean(&secrets, "MONITOR", &seen)?;
            if seen.contains("the-end") {
                break;
            }
        }
        for path in ["/metrics", "/v1/status", "/v1/members", "/v1/log-filter", "/readyz"] {
            let said = http::get(cluster.nodes[0].http(), path).await?.text();
            clean(&secrets, path, &said)?;
            // Nobody had to prove who they are: not even what passwords could be tried against.
            ensure!(!said.contains("\"logins\""), "{said}");
        }
        let pid = cluster.nodes[0].pid()?.as_raw_nonzero();
        for file in ["cmdline", "environ"] {
            let bytes = fs::read(format!("/proc/{pid}/{file}"))?;
            clean(&secrets, file, &String::from_utf8_lossy(&bytes))?;
        }
        // A fault in each file, as somebody makes who edits it by hand.
        let rules = cluster.path().join("users.acl");
        fs::write(&rules, "user app on >typed-3b8a +nonsense (~a >guess-0d2e\npass-5e1f\n")?;
        let reply = client.run("ACL LOAD").await?;
        clean(&secrets, "ACL LOAD", &format!("{reply:?}"))?;
        fs::write(pki_dir(cluster, 0).join("node.key"), format!("typed-3b8a\n{}", secrets[5]))?;
        kvnode_tests::wait::eventually("the fault is told", kvnode_tests::wait::SOON, async || {
            Ok(cluster.nodes[0].log_text().contains("certificate files are bad").then_some(()))
        })
        .await?;
        ensure!(cluster.nodes[0].terminate().await?.success());
        for entry in ["node1/ready.json", "node1/identity.json", "node1/life.json"] {
            clean(&secrets, entry, &fs::read_to_string(cluster.path().join(entry))?)?;
        }
        let log = cluster.nodes[0].log_text();
        ensure!(log.contains(" DEBUG "), "it logs all that it can");
        clean(&secrets, "the log", &log)
    });
}

#[test]
fn the_audit_trail_tells_who_did_what() {
    scenario(0, &[], async |cluster| {
        let rules = cluster.path().join("users.acl");
        fs::write(&rules, "user default on nopass ~* &* +@all\nuser app on >pw ~app:* +@all -@admin\n")?;
        let config = cluster.path().join("config.yaml");
        let keys = format!("acl_file: {}\nauth_failure_delay: 0\nlog_format: json\n", rules.display());
        fs::write(&config, keys)?;
        cluster.flags.extend(["--config".to_owned(), config.display().to_string()]);
        cluster.grow(2).await?;
        let second = cluster.nodes[1].addr().to_owned();
        let mut client = cluster.nodes[0].client().await?;
        for line in [
            "AUTH app wrong",
            "AUTH app pw",
            "GET other",
            "CONFIG GET *",
            "RESET",
            "CONFIG SET slowlog-max-len 10 slowlog-log-slower-than 5",
            "CONFIG SET nonsense 1",
            "ACL LOAD",
            "MULTI",
            "FLUSHDB",
            "EXEC",
            "FLUSHALL",
            "SET k v",
            "KEYS *",
        ] {
            client.run(line).await?;
        }
        client.ok(&format!("RAFTREMOVEPEER {second}")).await?;
        kvnode_tests::http::post(cluster.nodes[0].http(), "/v1/log/shrink", &serde_json::Value::Null).await?;
        let told = trail(cluster)?;
        for expected in [
            "login_failed user=app by=password",
            "denied user=app command=get reason=key",
            "denied user=app command=config|get reason=command",
            "command user=default command=config|set object=slowlog-max-len,slowlog-log-slower-than outcome=done",
            "command user=default command=config|set object=nonsense outcome=refused",
            "command user=default command=acl|load object= outcome=done",
            "command user=default command=flushdb object= outcome=done",
            "command user=default command=flushall object= outcome=done",
            "membership voters=2",
            "membership voters=1",
            "admin_api method=POST path=/v1/log/shrink status=200",
        ] {
            ensure!(told.iter().any(|line| line.starts_with(expected)), "{expected} is missing in {told:#?}");
        }
        let removed = format!("command user=default command=raftremovepeer object={second} outcome=done");
        ensure!(told.contains(&removed), "{removed} is missing in {told:#?}");
        let questions = ["command=get", "command=set ", "command=keys"]
            .map(|word| format!("command user=default {word}"));
        ensure!(!told.iter().any(|line| questions.iter().any(|word| line.starts_with(word))), "{told:#?}");

        // A flood is told in a bounded number of lines, and counted.
        let wrong: Vec<_> = (0..9).map(|_| vec!["AUTH", "app", "wrong"]).collect();
        for _ in 0..20 {
            cluster.nodes[0].client().await?.pipeline(&wrong).await?;
        }
        let failed = trail(cluster)?.iter().filter(|line| line.starts_with("login_failed")).count();
        ensure!((2..100).contains(&failed), "{failed} lines for 181 failed logins");
        Ok(())
    });
}

/// The events of the first node, in short.
fn trail(cluster: &Cluster) -> Result<Vec<String>> {
    let mut told = Vec::new();
    for line in cluster.nodes[0].log_text().lines() {
        let Ok(event) = serde_json::from_str::<serde_json::Value>(line) else { continue };
        if event["target"] != "audit" {
            continue;
        }
        let mut text = event["event"].as_str().context("an event")?.to_owned();
        for name in ["user", "command", "object", "by", "reason", "outcome", "method", "path", "status"] {
            match &event[name] {
                serde_json::Value::Null => {}
                serde_json::Value::String(value) => write!(text, " {name}={value}")?,
                value => write!(text, " {name}={value}")?,
            }
        }
        if let Some(voters) = event["voters"].as_str() {
            write!(text, " voters={}", voters.split(',').count())?;
        }
        told.push(text);
    }
    Ok(told)
}
