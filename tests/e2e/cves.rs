//! Mistakes that Redis made and that a server like this one can repeat, one test per CVE. Not here: CVE-2024-51741 (a
//! malformed ACL selector), which is a property test of the rules (`server/src/acl/tests.rs`), and CVE-2023-45145 (the
//! permissions of a unix socket): this server has none.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use kvnode_tests::client::Client;
use kvnode_tests::cluster::Cluster;
use kvnode_tests::scenario::scenario;

/// Longest time that a hostile request may take on a busy machine; the attacks take minutes or for ever.
const PATIENCE: Duration = Duration::from_secs(10);

fn resident_kib(cluster: &Cluster) -> Result<u64> {
    let pid = cluster.nodes[0].pid()?.as_raw_nonzero();
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).context("VmRSS")?;
    line.split_whitespace().nth(1).context("VmRSS")?.parse().context("VmRSS")
}

/// One node whose clients have to log in with `secret`.
async fn with_password(cluster: &mut Cluster) -> Result<()> {
    let file = |name: &str| -> PathBuf { cluster.path().join(name) };
    let (passwords, config) = (file("passwords"), file("config.yaml"));
    std::fs::write(&passwords, "secret\n")?;
    std::fs::write(&config, format!("requirepass_file: {}\n", passwords.display()))?;
    cluster.flags.extend(["--config".to_owned(), config.display().to_string()]);
    cluster.add(None).await?;
    Ok(())
}

async fn serves(cluster: &mut Cluster, login: Option<&str>) -> Result<()> {
    ensure!(cluster.nodes[0].is_running(), "the node died");
    let mut client = cluster.nodes[0].client().await?;
    if let Some(password) = login {
        client.ok(&format!("AUTH {password}")).await?;
    }
    client.ok("SET alive yes").await
}

/// Counts announced before login made the server reserve memory.
#[test]
fn cve_2021_32675_announced_lengths_cost_no_memory() {
    scenario(0, &[], async |cluster| {
        with_password(cluster).await?;
        let before = resident_kib(cluster)?;
        let mut held = Vec::new();
        for _ in 0..200 {
            for bad in [&b"*1048576\r\n"[..], b"*10\r\n$16777216\r\n"] {
                let mut client = cluster.nodes[0].client().await?;
                client.send(bad).await?;
                let reply = client.receive().await?;
                let text = reply.as_error().unwrap_or_default();
                ensure!(text.starts_with("ERR Protocol error: unauthenticated"), "{text}");
            }
            // As large as it may be, and never finished.
            let mut client = cluster.nodes[0].client().await?;
            client.send(b"*10\r\n$16384\r\n").await?;
            held.push(client);
        }
        let grown = resident_kib(cluster)?.saturating_sub(before);
        ensure!(grown < 64 * 1024, "{grown} KiB more");
        serves(cluster, Some("secret")).await
    });
}

/// NOAUTH errors to a client that does not read them filled the server's memory.
#[test]
fn cve_2025_21605_errors_before_login_do_not_pile_up() {
    scenario(0, &[], async |cluster| {
        with_password(cluster).await?;
        let before = resident_kib(cluster)?;
        let flood = b"PING\r\n".repeat(100_000);
        let mut held = Vec::new();
        for _ in 0..20 {
            let mut client = cluster.nodes[0].client().await?.with_patience(Duration::from_millis(200));
            // The sockets fill, the rest is never taken.
            let _ = client.send(&flood).await;
            held.push(client);
        }
        let grown = resident_kib(cluster)?.saturating_sub(before);
        ensure!(grown < 64 * 1024, "{grown} KiB more");
        serves(cluster, Some("secret")).await
    });
}

/// Clients that broke the protocol before login kept others from being served.
#[test]
fn cve_2025_48367_protocol_errors_do_not_starve_others() {
    scenario(0, &[], async |cluster| {
        with_password(cluster).await?;
        let addr = cluster.nodes[0].addr().to_owned();
        let attack = async {
            for _ in 0..2000 {
                let mut client = Client::connect(&addr).await?.with_patience(Duration::from_millis(100));
                let _ = client.send(b"*1\r\n!\r\n").await;
            }
            anyhow::Ok(())
        };
        let work = async {
            let mut client = Client::connect(&addr).await?;
            client.ok("AUTH secret").await?;
            let mut slowest = Duration::ZERO;
            for number in 0..300 {
                let started = Instant::now();
                client.ok(&format!("SET k{number} v")).await?;
                slowest = slowest.max(started.elapsed());
            }
            ensure!(slowest < PATIENCE, "{slowest:?}");
            Ok(())
        };
        tokio::try_join!(attack, work)?;
        Ok(())
    });
}

/// A glob with nested stars overflowed the stack (2024-31228) or took all CPU (2022-36021).
#[test]
fn cve_2024_31228_and_2022_36021_globs_are_matched_in_bounded_time_and_stack() {
    scenario(1, &[], async |cluster| {
        let mut client = cluster.nodes[0].client().await?.with_patience(PATIENCE);
        let key = "a".repeat(1000);
        client.ok(&format!("SET {key} v")).await?;
        let stars = "*".repeat(50_000);
        let nested = "a*".repeat(400) + "b";
        let classes = "[".repeat(20_000);
        for pattern in [&stars, &nested, &classes] {
            let reply = client.run(&format!("KEYS {pattern}")).await?;
            ensure!(reply.as_error().is_none(), "{reply:?}");
            client.run(&format!("SCAN 0 MATCH {pattern}")).await?;
            client.run(&format!("PDEL {pattern}x")).await?;
            client.run(&format!("CONFIG GET {pattern}")).await?;
            client.run(&format!("COMMAND LIST FILTERBY PATTERN {pattern}")).await?;
            client.run(&format!("PUBSUB CHANNELS {pattern}")).await?;
        }
        let mut listener = cluster.nodes[0].client().await?.with_patience(PATIENCE);
        listener.run(&format!("PSUBSCRIBE {nested}")).await?;
        client.run(&format!("PUBLISH {key} m")).await?;
        serves(cluster, None).await
    });
}

/// The same in ACL rules, for keys and for channels.
#[test]
fn cve_2024_31228_globs_of_acl_rules_too() {
    scenario(0, &[], async |cluster| {
        let (rules, config) = (cluster.path().join("users.acl"), cluster.path().join("config.yaml"));
        let nested = "a*".repeat(400) + "b";
        std::fs::write(
            &rules,
            format!("user default on nopass ~{nested} ~{} &{nested} +@all\n", "*".repeat(50_000) + "b"),
        )?;
        std::fs::write(&config, format!("acl_file: {}\n", rules.display()))?;
        cluster.flags.extend(["--config".to_owned(), config.display().to_string()]);
        cluster.add(None).await?;
        let mut client = cluster.nodes[0].client().await?.with_patience(PATIENCE);
        let key = "a".repeat(1000);
        for line in [format!("GET {key}"), format!("PUBLISH {key} m"), format!("PDEL {nested}*")] {
            let reply = client.run(&line).await?;
            let text = reply.as_error().unwrap_or_default();
            ensure!(text.starts_with("NOPERM No permissions to access a"), "{reply:?}");
        }
        ensure!(cluster.nodes[0].is_running());
        client.ok(&format!("SET {key}b v")).await
    });
}

/// MSETNX with one key twice hit an assertion.
#[test]
fn cve_2023_28425_msetnx_with_a_key_twice() {
    scenario(1, &[], async |cluster| {
        let mut client = cluster.nodes[0].client().await?;
        ensure!(client.int("MSETNX k 1 k 2").await? == 1);
        ensure!(client.text("GET k").await?.as_deref() == Some("2"));
        ensure!(client.int("MSETNX k 3 l 4 l 5").await? == 0);
        ensure!(client.text("GET l").await?.is_none());
        serves(cluster, None).await
    });
}

/// Lengths and offsets near the ends of their types overflowed.
#[test]
fn cve_2022_35977_and_2021_32625_integers_do_not_overflow() {
    scenario(1, &[], async |cluster| {
        let mut client = cluster.nodes[0].client().await?.with_patience(PATIENCE);
        client.ok("SET k value").await?;
        let (most, least) = (i64::MAX, i64::MIN);
        for line in [
            format!("SETRANGE k {most} x"),
            format!("SETRANGE k {} x", u64::MAX),
            "SETRANGE k 4294967295 xyz".to_owned(),
            "SETRANGE k 536870911 xyz".to_owned(),
            format!("SETRANGE k {least} x"),
            format!("SETBIT k {most} 1"),
            format!("SETBIT k {} 1", u64::MAX),
            "SETBIT k 4294967296 1".to_owned(),
            format!("BITFIELD k SET u63 {most} 1"),
            format!("BITFIELD k SET u8 #{most} 1"),
            format!("EXPIRE k {most}"),
            format!("PEXPIREAT k {least} x"),
            format!("SET k v EX {most}"),
        ] {
            let reply = client.run(&line).await?;
            ensure!(reply.as_error().is_some(), "{line}: {reply:?}");
        }
        for line in [
            format!("GETRANGE k {least} {most}"),
            format!("GETRANGE k {most} {least}"),
            format!("BITCOUNT k {least} {most}"),
            format!("BITPOS k 1 {least} {most}"),
            format!("KEYS * LIMIT {most}"),
            format!("SCAN {} COUNT {most}", u64::MAX),
            "LCS k k IDX MINMATCHLEN 9223372036854775807".to_owned(),
            format!("SLOWLOG GET {most}"),
            format!("ACL LOG {most}"),
            format!("ACL LOG {least}"),
            format!("COMMAND GETKEYS EVAL x {most} k"),
        ] {
            client.run(&line).await?;
        }
        ensure!(client.text("GET k").await?.as_deref() == Some("value"));
        let large = "x".repeat(20_000);
        client.ok(&format!("SET one {large}")).await?;
        client.ok(&format!("SET two {large}")).await?;
        client.run("LCS one two LEN").await?;
        serves(cluster, None).await
    });
}

/// Lua: a use after free of the parser (2025-49844), reached by scripts that compile code; a stack overflow of
/// `bit.tohex` (2024-31449). Neither compiling nor the library is there, and memory stays whole under pressure.
#[test]
fn cve_2025_49844_and_2024_31449_scripts_cannot_reach_the_parts_that_broke() {
    scenario(1, &[], async |cluster| {
        let mut client = cluster.nodes[0].client().await?.with_patience(PATIENCE);
        for name in
            ["load", "loadstring", "loadfile", "dofile", "require", "getfenv", "setfenv", "newproxy", "debug"]
        {
            let script = format!("return type(rawget(_G, '{name}'))");
            let reply = client.call(&["EVAL", &script, "0"]).await?;
            ensure!(reply.as_text() == Some("nil"), "{name}: {reply:?}");
        }
        let reply = client.call(&["EVAL", "return string.dump(function() end)", "0"]).await?;
        ensure!(reply.as_error().is_some(), "{reply:?}");
        let reply = client.call(&["EVAL", "return bit.tohex(65535, -2147483648)", "0"]).await?;
        ensure!(
            reply.as_error().is_some() || reply.as_text().is_some_and(|text| text.len() <= 8),
            "{reply:?}"
        );
        // Garbage while code is compiled, many times over.
        let body = "local t = {} for i = 1, 2000 do t[i] = ('x'):rep(i) end return #t";
        for round in 0..50 {
            let script = format!("-- {round} {}\n{body}", "y".repeat(round * 1000));
            ensure!(client.call(&["EVAL", &script, "0"]).await?.as_int() == Some(2000));
        }
        serves(cluster, None).await
    });
}

/// Lua: the number of results of `unpack` overflowed, and the stack with it.
#[test]
fn cve_2025_46817_unpack_of_a_huge_range_is_an_error() {
    scenario(1, &[], async |cluster| {
        let mut client = cluster.nodes[0].client().await?.with_patience(PATIENCE);
        for range in [
            "-2, 2147483647",
            "2147483646, 2147483647 + 2147483647",
            "-2147483648, 2147483647",
            "0, 2147483647",
            "1, 1e15",
            "1, 8001",
        ] {
            let script = format!("return {{unpack({{1, 2, 3}}, {range})}}");
            let reply = client.call(&["EVAL", &script, "0"]).await?;
            ensure!(
                reply.as_error().is_some() || reply.items().len() <= 8001,
                "{range}: {} results",
                reply.items().len()
            );
            let script = format!("return select('#', string.byte('abc', {range}))");
            let reply = client.call(&["EVAL", &script, "0"]).await?;
            ensure!(reply.as_error().is_some() || reply.as_int() <= Some(3), "{range}: {reply:?}");
        }
        serves(cluster, None).await
    });
}

/// Lua: what one user's script did to the metatables of basic types ran in the next user's scripts.
#[test]
fn cve_2025_46818_a_script_leaves_nothing_behind_for_the_next_one() {
    scenario(1, &[], async |cluster| {
        let mut client = cluster.nodes[0].client().await?.with_patience(PATIENCE);
        for script in [
            "getmetatable('').__index = function() return 'mine' end return 1",
            "local m = getmetatable('') m.__add = function() return 'mine' end return 1",
            "string.upper = function() return 'mine' end return 1",
            "redis.call = function() return 'mine' end return 1",
            "redis.sha1hex = nil return 1",
            "rawset(_G, 'left', 'mine') return 1",
            "setmetatable(_G, {__index = function() return 'mine' end}) return 1",
            "cjson.encode = function() return 'mine' end return 1",
            "tostring = function() return 'mine' end return 1",
        ] {
            // Whether it may is not the point; what comes of it is.
            client.call(&["EVAL", script, "0"]).await?;
            let looks = "return {('x'):upper(), type(rawget(_G, 'left')), tostring(5), cjson.encode({1}), redis.sha1hex(''), \
                         tostring(pcall(function() return 'a' + 'b' end)), ('x').mine == nil and 'none' or 'some'}";
            let seen = client.call(&["EVAL", looks, "0"]).await?.texts();
            let expected =
                ["X", "nil", "5", "[1]", "da39a3ee5e6b4b0d3255bfef95601890afd80709", "false", "none"];
            ensure!(seen == expected, "after {script}: {seen:?}");
        }
        serves(cluster, None).await
    });
}

/// Lua: the delimiter of a long string was read beyond the end of the script.
#[test]
fn cve_2025_46819_long_brackets_end_with_the_script() {
    scenario(1, &[], async |cluster| {
        let mut client = cluster.nodes[0].client().await?.with_patience(PATIENCE);
        for length in [0, 1, 2, 7, 255, 65_535, 1_000_000] {
            let signs = "=".repeat(length);
            for script in [
                format!("return [{signs}"),
                format!("return [{signs}["),
                format!("return [{signs}[x]{signs}"),
            ] {
                let reply = client.call(&["EVAL", &script, "0"]).await?;
                ensure!(reply.as_error().is_some(), "{length}: {reply:?}");
            }
            let whole = client.call(&["EVAL", &format!("return [{signs}[x]{signs}]"), "0"]).await?;
            ensure!(whole.as_text() == Some("x") || whole.as_error().is_some(), "{length}: {whole:?}");
        }
        serves(cluster, None).await
    });
}
