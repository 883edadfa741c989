//! RAFTSNAPSHOT, `--parse-snapshot`, `--restore`, and the ancestor's files.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use kvnode_tests::binary;
use kvnode_tests::cluster::Cluster;
use kvnode_tests::scenario::scenario;
use kvnode_tests::tool;
use kvnode_tests::wait::{SOON, until};

type Content = BTreeMap<Vec<u8>, Vec<u8>>;

/// The newest snapshot directory of a node.
fn newest(data: &Path) -> Result<PathBuf> {
    let mut found: Vec<PathBuf> = Vec::new();
    for entry in fs::read_dir(data.join("snapshots"))? {
        found.push(entry?.path());
    }
    ensure!(found.iter().all(|path| path.extension().is_none()), "unfinished ones left: {found:?}");
    // `<term>-<index>-<unix ms>`: numbers, not text.
    let order = |path: &PathBuf| -> Vec<u64> {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        name.split('-').filter_map(|part| part.parse().ok()).collect()
    };
    found.sort_by_key(order);
    found.pop().context("no snapshot")
}

fn ancestor_dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../server/src/snapshot/testdata/ancestor")
}

fn ancestor_content() -> Result<Content> {
    let file = fs::File::open(ancestor_dir().join("expected.tsv.gz"))?;
    let mut text = String::new();
    flate2::read::GzDecoder::new(file).read_to_string(&mut text)?;
    text.lines()
        .map(|line| {
            let (key, value) = line.split_once('\t').context("a line without a tab")?;
            Ok((unhex(key)?, unhex(value)?))
        })
        .collect()
}

fn unhex(text: &str) -> Result<Vec<u8>> {
    let digits = text.as_bytes().chunks(2);
    digits.map(|pair| Ok(u8::from_str_radix(std::str::from_utf8(pair)?, 16)?)).collect()
}

/// `kvnode-server --parse-snapshot FILE | redis-cli --pipe`; returns what redis-cli printed.
async fn pipe_into(cluster: &Cluster, index: usize, file: &Path) -> Result<String> {
    let redis_cli = tool::find("redis-cli").context("redis-cli")?;
    let (host, port) = cluster.nodes[index].addr().rsplit_once(':').context("an address")?;
    let mut parse = Command::new(binary::server());
    let mut parse = parse.arg("--parse-snapshot").arg(file).stdout(Stdio::piped()).spawn()?;
    let stdout = parse.stdout.take().context("its output")?;
    let mut pipe = Command::new(redis_cli);
    pipe.args(["-h", host, "-p", port, "--pipe"]).stdin(stdout);
    let printed = tokio::task::spawn_blocking(move || tool::run(&mut pipe)).await??;
    let status = parse.wait()?;
    ensure!(status.success(), "--parse-snapshot ended with {status}");
    Ok(printed)
}

async fn fill(cluster: &mut Cluster, count: usize) -> Result<()> {
    let mut client = cluster.leader_client().await?;
    let sets: Vec<Vec<Vec<u8>>> = (0..count)
        .map(|n| {
            vec![
                b"SET".to_vec(),
                format!("key:{n}\r\n").into_bytes(),
                vec![u8::try_from(n % 256).unwrap_or(0); n % 300],
            ]
        })
        .collect();
    for reply in client.pipeline(&sets).await? {
        ensure!(reply.is_ok(), "{reply:?}");
    }
    Ok(())
}

#[test]
fn a_snapshot_of_any_node_restores_into_a_new_cluster() {
    scenario(3, &[], async |cluster| {
        fill(cluster, 3000).await?;
        let follower = cluster.followers().await?[0];
        cluster.nodes[follower].client().await?.ok("RAFTSNAPSHOT").await?;
        let expected = cluster.same_content().await?;
        let dir = newest(&cluster.nodes[follower].data)?;
        let meta: serde_json::Value = serde_json::from_slice(&fs::read(dir.join("meta.json"))?)?;
        ensure!(meta.is_object(), "{meta}");
        let state = dir.join("state.bin").display().to_string();
        let mut second = Cluster::empty(&[])?;
        let node = kvnode_tests::node::Node::new(second.path(), "node1", &["--restore".into(), state]);
        second.nodes.push(node);
        second.nodes[0].start().await?;
        second.grow(3).await?;
        ensure!(second.same_content().await? == expected, "the restored content differs");
        // Idempotent: the flag is still there at the next start and must not bring old data back.
        second.leader_client().await?.ok("SET after restore").await?;
        second.kill_and_restart_all().await?;
        ensure!(second.same_content().await?.len() == expected.len() + 1);
        Ok(())
    });
}

/// True if a file or directory below `dir` fits. What goes away meanwhile does not count.
fn is_below(dir: &Path, fits: &impl Fn(&Path) -> bool) -> bool {
    let Ok(entries) = fs::read_dir(dir) else { return false };
    entries.flatten().any(|entry| fits(&entry.path()) || is_below(&entry.path(), fits))
}

/// Whether a path is the one that is waited for.
type Fits<'a> = &'a dyn Fn(&Path) -> bool;

#[test]
fn a_restore_that_is_killed_begins_anew_and_loses_nothing() {
    let in_loading = |path: &Path| path.parent().is_some_and(|dir| dir.ends_with("loading"));
    let moments: [(&str, Fits<'_>); 3] = [
        ("tables are built", &in_loading),
        ("the state is there", &|path| path.ends_with("restored.json")),
        ("tables are built or the state is there", &|path| in_loading(path) || path.ends_with("ready.json")),
    ];
    scenario(1, &[], async |cluster| {
        fill(cluster, 5000).await?;
        let mut client = cluster.leader_client().await?;
        for batch in 0..20 {
            let words: Vec<String> = (0..2000).map(|n| format!("k{batch}-{n} {}", "v".repeat(200))).collect();
            client.ok(&format!("MSET {}", words.join(" "))).await?;
        }
        client.ok("RAFTSNAPSHOT").await?;
        let expected = cluster.same_content().await?;
        let state = newest(&cluster.nodes[0].data)?.join("state.bin").display().to_string();
        let mut second = Cluster::empty(&[])?;
        let node = kvnode_tests::node::Node::new(second.path(), "node1", &["--restore".into(), state]);
        second.nodes.push(node);
        for (what, fits) in moments {
            let node = &mut second.nodes[0];
            node.spawn()?;
            until(what, SOON, async || is_below(&node.data, &fits)).await?;
            node.kill()?;
        }
        second.nodes[0].start().await?;
        second.await_voters(1).await?;
        ensure!(second.same_content().await? == expected, "the restored content differs");
        ensure!(!is_below(&second.nodes[0].data, &in_loading), "what was under construction is still there");
        Ok(())
    });
}

#[test]
fn a_snapshot_goes_through_the_pipe_into_a_running_cluster() {
    if tool::need("redis-cli").is_none() {
        return;
    }
    scenario(3, &[], async |cluster| {
        fill(cluster, 3000).await?;
        let expected = cluster.same_content().await?;
        cluster.nodes[0].client().await?.ok("RAFTSNAPSHOT").await?;
        let state = newest(&cluster.nodes[0].data)?.join("state.bin");
        cluster.leader_client().await?.ok("FLUSHALL").await?;
        let printed = pipe_into(cluster, 1, &state).await?;
        ensure!(printed.contains("errors: 0"), "{printed}");
        ensure!(cluster.same_content().await? == expected, "the piped content differs");
        Ok(())
    });
}

#[test]
fn the_ancestors_snapshot_goes_through_the_pipe() {
    if tool::need("redis-cli").is_none() {
        return;
    }
    scenario(3, &[], async |cluster| {
        let printed = pipe_into(cluster, 0, &ancestor_dir().join("state.bin")).await?;
        ensure!(printed.contains("errors: 0, replies: 960"), "{printed}");
        ensure!(
            cluster.same_content().await? == ancestor_content()?,
            "the content differs from the ancestor's"
        );
        Ok(())
    });
}

#[test]
fn the_ancestors_snapshot_founds_a_new_cluster() {
    let state = ancestor_dir().join("state.bin").display().to_string();
    scenario(0, &["--restore", &state], async |cluster| {
        cluster.add(None).await?;
        cluster.await_voters(1).await?;
        ensure!(
            cluster.same_content().await? == ancestor_content()?,
            "the content differs from the ancestor's"
        );
        Ok(())
    });
}

#[test]
fn a_damaged_snapshot_prints_nothing_and_fails_but_can_be_salvaged() {
    scenario(1, &[], async |cluster| {
        fill(cluster, 3000).await?;
        cluster.nodes[0].client().await?.ok("RAFTSNAPSHOT").await?;
        let ours = newest(&cluster.nodes[0].data)?.join("state.bin");
        for source in [ours, ancestor_dir().join("state.bin")] {
            let whole = fs::read(&source)?;
            let file = cluster.path().join("damaged.bin");
            let mut flipped = whole.clone();
            flipped[whole.len() * 3 / 4] ^= 0x20;
            for (name, bytes) in [("cut", &whole[..whole.len() / 2]), ("flipped", &flipped[..])] {
                fs::write(&file, bytes)?;
                let parse = Command::new(binary::server()).arg("--parse-snapshot").arg(&file).output()?;
                ensure!(parse.status.code().is_some_and(|code| code != 0), "{name}: {}", parse.status);
                ensure!(
                    parse.stdout.is_empty(),
                    "{name}: {} bytes printed before the check",
                    parse.stdout.len()
                );
                let reason = String::from_utf8_lossy(&parse.stderr).into_owned();
                ensure!(reason.contains("--partial"), "{name}: {reason}");
                let mut salvage = Command::new(binary::server());
                let salvage = salvage.arg("--parse-snapshot").arg(&file).arg("--partial").output()?;
                ensure!(salvage.status.code().is_some_and(|code| code != 0), "{name}: {}", salvage.status);
                ensure!(salvage.stdout.starts_with(b"*3\r\n$3\r\nSET\r\n"), "{name}: nothing salvaged");
                let reason = String::from_utf8_lossy(&salvage.stderr).into_owned();
                ensure!(reason.contains("salvaged") && !reason.contains("--partial"), "{name}: {reason}");
            }
        }
        Ok(())
    });
}

#[test]
fn a_reader_that_leaves_is_not_told_that_nothing_was_printed() -> Result<()> {
    let mut parse = Command::new(binary::server());
    let parse = parse.arg("--parse-snapshot").arg(ancestor_dir().join("state.bin"));
    let mut parse = parse.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    drop(parse.stdout.take());
    let output = parse.wait_with_output()?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(!output.status.success() && said.contains("what was printed is not all of it"), "{said}");
    Ok(())
}

#[test]
fn the_newest_two_snapshots_are_kept() {
    scenario(1, &[], async |cluster| {
        let mut client = cluster.leader_client().await?;
        for n in 0..4 {
            client.ok(&format!("SET k {n}")).await?;
            client.ok("RAFTSNAPSHOT").await?;
        }
        let count = fs::read_dir(cluster.nodes[0].data.join("snapshots"))?.count();
        ensure!(count == 2, "{count} snapshots kept");
        Ok(())
    });
}

#[test]
fn a_snapshot_holds_every_write_acknowledged_before_it_also_on_a_follower() {
    scenario(3, &[], async |cluster| {
        let leader = cluster.leader().await?;
        let follower = cluster.followers().await?[0];
        for round in 0..10 {
            cluster.nodes[leader].client().await?.ok(&format!("SET last {round}")).await?;
            cluster.nodes[follower].client().await?.ok("RAFTSNAPSHOT").await?;
            let state = newest(&cluster.nodes[follower].data)?.join("state.bin");
            let parse = Command::new(binary::server()).arg("--parse-snapshot").arg(&state).output()?;
            let text = String::from_utf8_lossy(&parse.stdout).into_owned();
            ensure!(text.contains(&format!("last\r\n$1\r\n{round}\r\n")), "round {round} is not in {text:?}");
        }
        Ok(())
    });
}
