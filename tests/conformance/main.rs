//! The same script against our server and a real redis-server; the replies are compared byte by byte.
//!
//! A script is lines of
//! - `> COMMAND args` : both must answer the same bytes (redis-cli's quoting: `"\x00\r\n"`, `'raw'`),
//! - `>sorted COMMAND` : the same elements, in any order,
//! - `>code COMMAND` : both an error with the same first word,
//! - `>ours COMMAND` then `< reply` : a documented difference, only ours is asked; the reason stands in the `#` line above,
//! - `>raw "bytes"` : these bytes as they are, one reply,
//! - `# text`.
//!
//! Each script runs in RESP2 and in RESP3, on empty servers.

mod migration;
mod table;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use kvnode_tests::client::Client;
use kvnode_tests::reference::Redis;
use kvnode_tests::resp::{self, Value};
use kvnode_tests::scenario::{run, scenario};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Compare {
    Bytes,
    Sorted,
    Code,
    Ours,
    Raw,
}

#[derive(Debug)]
struct Step {
    line: usize,
    compare: Compare,
    bytes: Vec<u8>,
    shown: String,
    expected: Option<String>,
}

fn here() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("conformance")
}

fn scripts() -> Vec<PathBuf> {
    let entries = std::fs::read_dir(here().join("scripts")).expect("the scripts are in the repository");
    let mut files: Vec<PathBuf> = entries.filter_map(|entry| entry.ok().map(|entry| entry.path())).collect();
    files.sort();
    files
}

fn parse(text: &str) -> Result<Vec<Step>> {
    let mut steps: Vec<Step> = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let number = index + 1;
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        if let Some(reply) = line.strip_prefix("< ") {
            let step = steps
                .last_mut()
                .filter(|step| step.compare == Compare::Ours)
                .context("`<` without `>ours`")?;
            step.expected = Some(reply.to_owned());
            continue;
        }
        let (mark, command) = line.split_once(' ').with_context(|| format!("line {number}: {line:?}"))?;
        let compare = match mark {
            ">" => Compare::Bytes,
            ">sorted" => Compare::Sorted,
            ">code" => Compare::Code,
            ">ours" => Compare::Ours,
            ">raw" => Compare::Raw,
            _ => bail!("line {number}: unknown mark {mark:?}"),
        };
        let words = split(command).with_context(|| format!("line {number}"))?;
        let mut bytes = Vec::new();
        if compare == Compare::Raw {
            bytes.clone_from(&words[0]);
        } else {
            resp::encode(&words, &mut bytes);
        }
        steps.push(Step { line: number, compare, bytes, shown: command.to_owned(), expected: None });
    }
    Ok(steps)
}

/// Splits as redis-cli does.
fn split(line: &str) -> Result<Vec<Vec<u8>>> {
    let mut words = Vec::new();
    let mut rest = line.bytes().peekable();
    loop {
        while rest.next_if_eq(&b' ').is_some() {}
        let Some(&first) = rest.peek() else { return Ok(words) };
        let mut word = Vec::new();
        if first == b'"' || first == b'\'' {
            rest.next();
            loop {
                match rest.next().context("unbalanced quotes")? {
                    byte if byte == first => break,
                    b'\\' if first == b'"' => {
                        word.push(match rest.next().context("end after a backslash")? {
                            b'n' => b'\n',
                            b'r' => b'\r',
                            b't' => b'\t',
                            b'x' => {
                                let digits = [rest.next().context("\\x")?, rest.next().context("\\x")?];
                                u8::from_str_radix(std::str::from_utf8(&digits)?, 16)?
                            }
                            other => other,
                        });
                    }
                    byte => word.push(byte),
                }
            }
        } else {
            while let Some(byte) = rest.next_if(|&byte| byte != b' ') {
                word.push(byte);
            }
        }
        words.push(word);
    }
}

async fn ask(client: &mut Client, step: &Step) -> Result<(Vec<u8>, Value)> {
    client.send(&step.bytes).await?;
    let raw = client.receive_raw().await?;
    let (value, _) = resp::decode(&raw)?.context("a whole reply")?;
    Ok((raw, value))
}

fn differs(step: &Step, ours: &(Vec<u8>, Value), theirs: &(Vec<u8>, Value)) -> bool {
    let code = |value: &Value| value.as_error().and_then(|text| text.split(' ').next().map(str::to_owned));
    let sorted = |value: &Value| {
        let mut items: Vec<Value> = value.items().into_iter().cloned().collect();
        items.sort();
        items
    };
    match step.compare {
        Compare::Bytes | Compare::Raw => ours.0 != theirs.0,
        Compare::Sorted => sorted(&ours.1) != sorted(&theirs.1) || ours.0.first() != theirs.0.first(),
        Compare::Code => code(&ours.1).is_none() || code(&ours.1) != code(&theirs.1),
        Compare::Ours => false,
    }
}

async fn play(script: &Path, resp3: bool, ours: &str, redis: &str) -> Result<Vec<String>> {
    let steps = parse(&std::fs::read_to_string(script)?).with_context(|| script.display().to_string())?;
    let (mut ours, mut theirs) = (Client::connect(ours).await?, Client::connect(redis).await?);
    for client in [&mut ours, &mut theirs] {
        client.ok("FLUSHALL").await?;
        if resp3 {
            client.run("HELLO 3").await?;
        }
    }
    let mut wrong = Vec::new();
    for step in &steps {
        let place =
            format!("{}:{} RESP{}: {}", script.display(), step.line, if resp3 { 3 } else { 2 }, step.shown);
        let mine = ask(&mut ours, step).await.with_context(|| place.clone())?;
        if let Some(expected) = &step.expected {
            let shown = format!("{:?}", mine.1);
            if shown != *expected {
                wrong.push(format!("{place}\n  expected {expected}\n  ours     {shown}"));
            }
            continue;
        }
        if step.compare == Compare::Ours {
            continue;
        }
        let reference = ask(&mut theirs, step).await.with_context(|| place.clone())?;
        if differs(step, &mine, &reference) {
            let (mine, reference) = (mine.0.escape_ascii(), reference.0.escape_ascii());
            wrong.push(format!("{place}\n  redis {reference}\n  ours  {mine}"));
        }
    }
    Ok(wrong)
}

async fn play_all(ours: &str, redis: &Redis) -> Result<()> {
    let mut wrong = Vec::new();
    for script in scripts() {
        for resp3 in [false, true] {
            wrong.extend(play(&script, resp3, ours, &redis.addr).await?);
        }
    }
    ensure!(wrong.is_empty(), "{} differences:\n{}", wrong.len(), wrong.join("\n"));
    Ok(())
}

#[test]
fn one_node_answers_as_redis() {
    scenario(1, &[], async |cluster| {
        let Some(redis) = Redis::start(&[]).await? else { return Ok(()) };
        play_all(cluster.nodes[0].addr(), &redis).await
    });
}

#[test]
fn a_follower_of_three_answers_as_redis() {
    scenario(3, &[], async |cluster| {
        let Some(redis) = Redis::start(&[]).await? else { return Ok(()) };
        let follower = cluster.followers().await?[0];
        play_all(cluster.nodes[follower].addr(), &redis).await
    });
}

/// Users from the same file on both.
#[test]
fn users_of_an_acl_file_may_what_they_may_in_redis() {
    scenario(0, &[], async |cluster| {
        let rules = here().join("users/users.acl");
        let rules = rules.to_str().context("the path of the repository is text")?;
        let Some(redis) = Redis::start(&["--aclfile", rules]).await? else { return Ok(()) };
        let config = cluster.path().join("config.yaml");
        std::fs::write(&config, format!("acl_file: {rules}\nauth_failure_delay: 0\n"))?;
        cluster.flags.extend(["--config".to_owned(), config.display().to_string()]);
        cluster.grow(1).await?;
        let mut wrong = Vec::new();
        for resp3 in [false, true] {
            wrong.extend(
                play(&here().join("users/users.txt"), resp3, cluster.nodes[0].addr(), &redis.addr).await?,
            );
        }
        ensure!(wrong.is_empty(), "{} differences:\n{}", wrong.len(), wrong.join("\n"));
        Ok(())
    });
}

/// The runner itself: redis against redis has no differences but in the lines that are ours alone.
#[test]
fn the_runner_finds_no_difference_between_two_equal_servers() {
    run(async {
        let (Some(one), Some(two)) = (Redis::start(&[]).await?, Redis::start(&[]).await?) else {
            return Ok(());
        };
        for script in scripts() {
            for resp3 in [false, true] {
                let wrong = play(&script, resp3, &one.addr, &two.addr).await.map(|all| {
                    all.into_iter().filter(|difference| !difference.contains("expected")).collect::<Vec<_>>()
                })?;
                ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
            }
        }
        Ok(())
    });
}

#[test]
fn the_runner_notices_a_difference() {
    let step = |compare| Step { line: 1, compare, bytes: Vec::new(), shown: String::new(), expected: None };
    let reply = |raw: &[u8]| (raw.to_vec(), resp::decode(raw).unwrap().unwrap().0);
    assert!(differs(&step(Compare::Bytes), &reply(b"$-1\r\n"), &reply(b"*-1\r\n")));
    assert!(differs(&step(Compare::Code), &reply(b"-ERR a\r\n"), &reply(b"-WRONGTYPE a\r\n")));
    assert!(differs(&step(Compare::Code), &reply(b"+OK\r\n"), &reply(b"+OK\r\n")));
    assert!(!differs(&step(Compare::Code), &reply(b"-ERR a\r\n"), &reply(b"-ERR b\r\n")));
    assert!(!differs(&step(Compare::Sorted), &reply(b"*2\r\n:1\r\n:2\r\n"), &reply(b"*2\r\n:2\r\n:1\r\n")));
    assert!(differs(&step(Compare::Sorted), &reply(b"*1\r\n:1\r\n"), &reply(b"*2\r\n:1\r\n:1\r\n")));
    assert_eq!(split(r#"SET "a\x00 b" 'c d' e"#).unwrap(), [&b"SET"[..], b"a\0 b", b"c d", b"e"]);
}
