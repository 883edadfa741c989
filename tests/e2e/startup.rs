//! Start-up failures: one clear line, exit code not zero; and what the command line promises.

use std::fs;
use std::time::Duration;

use anyhow::{Result, ensure};
use kvnode_tests::node::run_to_end;
use kvnode_tests::scenario::{run, scenario};

const DEADLINE: Duration = Duration::from_secs(20);

/// Expects a failure that says one of these words, in few lines, without a panic.
async fn fails(arguments: &[&str], words: &[&str]) -> Result<()> {
    let (code, output) = run_to_end(arguments, DEADLINE).await?;
    ensure!(code.is_some_and(|code| code != 0 && code != 101), "{arguments:?}: exit code {code:?}\n{output}");
    let lower = output.to_lowercase();
    ensure!(words.iter().any(|word| lower.contains(word)), "{arguments:?} does not say {words:?}:\n{output}");
    ensure!(!lower.contains("panicked"), "{output}");
    Ok(())
}

#[test]
fn wrong_arguments_are_said() {
    run(async {
        let dir = tempfile::tempdir()?;
        let data = dir.path().join("data").display().to_string();
        let base = ["--addr", "127.0.0.1:0", "--data", data.as_str()];
        let with = |extra: &[&'static str]| [&base[..], extra].concat();
        fails(&with(&["--consistency", "sometimes"]), &["sometimes", "consistency"]).await?;
        fails(&with(&["--durability", "sure"]), &["sure", "durability"]).await?;
        fails(&with(&["--no-such-flag"]), &["no-such-flag"]).await?;
        fails(&["--addr", "not an address", "--data", &data], &["addr"]).await?;
        fails(&with(&["--databases", "0"]), &["databases"]).await?;
        fails(&with(&["--config", "/nonexistent.yaml"]), &["nonexistent.yaml"]).await?;
        let file = dir.path().join("bad.yaml");
        fs::write(&file, "no_such_key: 1\n")?;
        let file = file.display().to_string();
        fails(&[&base[..], &["--config", &file]].concat(), &["no_such_key"]).await
    });
}

#[test]
fn a_port_in_use_is_said() {
    scenario(1, &[], async |cluster| {
        let data = cluster.path().join("other").display().to_string();
        let addr = cluster.nodes[0].addr().to_owned();
        let arguments =
            ["--addr", &addr, "--peer-addr", "127.0.0.1:0", "--http-addr", "127.0.0.1:0", "--data", &data];
        fails(&arguments, &["in use"]).await
    });
}

/// As it is left by a node that has stopped for its content.
#[test]
fn a_node_that_has_diverged_does_not_start_again() {
    scenario(1, &[], async |cluster| {
        let node = &mut cluster.nodes[0];
        node.kill()?;
        fs::write(node.data.join("diverged.json"), r#"{"format":1,"entry":"2-1f-64"}"#)?;
        let data = node.data.display().to_string();
        let (code, output) = run_to_end(&["--addr", "127.0.0.1:0", "--data", &data], DEADLINE).await?;
        ensure!(code == Some(65), "exit code {code:?}\n{output}");
        for words in ["the content of this node has diverged", "diverged.json says {", "2-1f-64", "--join"] {
            ensure!(output.contains(words), "{words} is not in\n{output}");
        }
        fs::remove_file(node.data.join("diverged.json"))?;
        node.start().await
    });
}

#[test]
fn a_data_directory_in_use_is_said() {
    scenario(1, &[], async |cluster| {
        let data = cluster.nodes[0].data.display().to_string();
        fails(&["--addr", "127.0.0.1:0", "--data", &data], &["lock", "in use", "another"]).await
    });
}

#[test]
fn a_data_directory_that_cannot_be_made_is_said() {
    run(async {
        let file = tempfile::NamedTempFile::new()?;
        let under = file.path().join("data").display().to_string();
        fails(&["--addr", "127.0.0.1:0", "--data", &under], &["data"]).await
    });
}

#[test]
fn a_damaged_log_refuses_to_start_with_file_and_remedy() {
    scenario(1, &[], async |cluster| {
        let mut client = cluster.leader_client().await?;
        for n in 0..200 {
            client.ok(&format!("SET key{n} {}", "x".repeat(200))).await?;
        }
        cluster.nodes[0].kill()?;
        let mut segments = Vec::new();
        find_files(&cluster.nodes[0].data, &mut segments)?;
        let log = segments.iter().filter(|path| path.components().any(|part| part.as_os_str() == "log"));
        let largest = log.max_by_key(|path| fs::metadata(path).map_or(0, |meta| meta.len()));
        let Some(largest) = largest else { anyhow::bail!("no log segment among {segments:?}") };
        let mut bytes = fs::read(largest)?;
        // The middle of what was written: not the torn tail, which may be dropped.
        let used = bytes.iter().rposition(|&byte| byte != 0).unwrap_or(0);
        bytes[used / 2] ^= 0xff;
        fs::write(largest, &bytes)?;
        let data = cluster.nodes[0].data.display().to_string();
        let name = largest.file_name().unwrap_or_default().to_string_lossy().to_lowercase();
        fails(&["--addr", "127.0.0.1:0", "--data", &data], &[&name]).await
    });
}

fn find_files(dir: &std::path::Path, found: &mut Vec<std::path::PathBuf>) -> Result<()> {
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if path.is_dir() {
            find_files(&path, found)?;
        } else {
            found.push(path);
        }
    }
    Ok(())
}

/// As `fails`, and what the program says of itself is one line.
async fn fails_in_one_line(arguments: &[&str], words: &[&str]) -> Result<()> {
    fails(arguments, words).await?;
    let (_, output) = run_to_end(arguments, DEADLINE).await?;
    let lines = output.lines().filter(|line| line.starts_with("kvnode-server: ")).count();
    ensure!(lines == 1, "{arguments:?}: {lines} lines\n{output}");
    Ok(())
}

#[test]
fn a_damaged_or_missing_identity_is_said() {
    scenario(1, &[], async |cluster| {
        cluster.leader_client().await?.ok("SET k v").await?;
        cluster.nodes[0].kill()?;
        let data = cluster.nodes[0].data.display().to_string();
        let arguments = ["--addr", "127.0.0.1:0", "--data", &data];
        let identity = cluster.nodes[0].data.join("identity.json");
        fs::write(&identity, "{\"format\":1")?;
        fails_in_one_line(&arguments, &["identity.json: not an identity"]).await?;
        fs::remove_file(&identity)?;
        fails_in_one_line(&arguments, &["identity.json: missing beside existing data"]).await
    });
}

#[test]
fn a_bad_restore_file_is_said_and_leaves_the_directory_usable() {
    run(async {
        let dir = tempfile::tempdir()?;
        let data = dir.path().join("data").display().to_string();
        let file = dir.path().join("state.bin");
        let name = file.display().to_string();
        let arguments = ["--addr", "127.0.0.1:0", "--data", &data, "--restore", &name];
        fails_in_one_line(&arguments, &["state.bin: no such file"]).await?;
        fs::write(&file, "this is not a snapshot")?;
        // The second try finds the directory that the first one made.
        fails_in_one_line(&arguments, &["state.bin: not a kvnode snapshot"]).await
    });
}

#[test]
fn an_address_that_nobody_can_dial_is_said() {
    run(async {
        let dir = tempfile::tempdir()?;
        let data = dir.path().join("data").display().to_string();
        fails_in_one_line(&["--addr", "0.0.0.0:0", "--data", &data], &["advertise"]).await?;
        let arguments = ["--addr", "127.0.0.1:0", "--peer-addr", "0.0.0.0:0", "--data", &data];
        fails_in_one_line(&arguments, &["advertise-peer-addr"]).await
    });
}

#[test]
fn a_torn_tail_of_the_log_is_dropped() {
    scenario(3, &[], async |cluster| {
        let mut client = cluster.leader_client().await?;
        for n in 0..200 {
            client.ok(&format!("SET key{n} {n}")).await?;
        }
        let victim = cluster.followers().await?[0];
        cluster.nodes[victim].kill()?;
        let mut files = Vec::new();
        find_files(&cluster.nodes[victim].data, &mut files)?;
        files.retain(|path| path.components().any(|part| part.as_os_str() == "log"));
        files.sort();
        let last = files.pop().unwrap_or_default();
        let mut bytes = fs::read(&last)?;
        // Half a record that never was acknowledged, as a cut in the middle of a write leaves it.
        let used = bytes.iter().rposition(|&byte| byte != 0).map_or(0, |at| at + 1);
        // Records end at multiples of 8; the last one, which was acknowledged, may itself end in zeros.
        bytes.truncate(used.next_multiple_of(8));
        bytes.extend_from_slice(&[0x5a; 7]);
        fs::write(&last, &bytes)?;
        cluster.nodes[victim].start().await?;
        cluster.await_voters(3).await?;
        ensure!(cluster.same_content().await?.len() == 200);
        Ok(())
    });
}

#[test]
fn the_ancestors_spellings_are_taken() {
    run(async {
        let (code, output) = run_to_end(&["--version"], DEADLINE).await?;
        ensure!(code == Some(0) && output.contains(env!("CARGO_PKG_VERSION")), "{code:?} {output}");
        let (code, output) = run_to_end(&["-parse-snapshot", "/nonexistent/state.bin"], DEADLINE).await?;
        ensure!(
            code.is_some_and(|code| code != 0) && output.contains("/nonexistent/state.bin"),
            "{code:?} {output}"
        );
        Ok(())
    });
    scenario(0, &["-consistency", "medium", "-durability", "low", "--fastlog"], async |cluster| {
        cluster.add(None).await?;
        cluster.await_voters(1).await?;
        cluster.leader_client().await?.ok("SET k v").await?;
        let log = cluster.nodes[0].log_text().to_lowercase();
        ensure!(log.contains("fastlog"), "--fastlog is not mentioned:\n{log}");
        Ok(())
    });
}

#[test]
fn check_config_tells_right_from_wrong() {
    run(async {
        let dir = tempfile::tempdir()?;
        let good = dir.path().join("good.yaml");
        // A fixed port: nothing is bound, and a random one may leave no room for the default HTTP port.
        fs::write(&good, "addr: 127.0.0.1:4920\n")?;
        let (code, output) =
            run_to_end(&["check-config", "--config", &good.display().to_string()], DEADLINE).await?;
        ensure!(code == Some(0), "{output}");
        let bad = dir.path().join("bad.yaml");
        fs::write(&bad, "addr: nowhere\nunknown: 1\n")?;
        fails(&["check-config", "--config", &bad.display().to_string()], &["unknown"]).await
    });
}
