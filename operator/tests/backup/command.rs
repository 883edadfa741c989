//! The program itself, by hand, without Kubernetes.

use std::process::{Command, Output, Stdio};

use anyhow::{Result, ensure};

use crate::bed::{Bed, text};

fn operator(bed: &Bed, verb: &str, arguments: &[&str]) -> Result<Output> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kvnode-operator"));
    command
        .arg(verb)
        .args([
            "--bucket",
            "backups",
            "--prefix",
            "prod/kv",
            "--path-style",
            "--endpoint",
            &bed.s3.endpoint(),
        ])
        .arg("--credentials-dir")
        .arg(&bed.s3.credentials)
        .args(arguments)
        .stdin(Stdio::null());
    Ok(command.output()?)
}

fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

#[tokio::test(flavor = "multi_thread")]
async fn backup_list_verify_preview_and_restore_by_hand() -> Result<()> {
    let Some(mut bed) = Bed::start(1).await? else { return Ok(()) };
    bed.fill("k", 40, 500).await?;
    let node = bed.nodes().join(",");
    let report = bed.scratch("report.json");
    let file = report.display().to_string();
    let made = operator(
        &bed,
        "backup",
        &["--cluster", "cart", "--node", &node, "--run", "first", "--report-file", &file],
    )?;
    ensure!(made.status.success(), "{}", said(&made));
    let printed: serde_json::Value = serde_json::from_slice(&made.stdout)?;
    ensure!(printed["verified"] == "Content" && printed["keys"] == 40, "{printed}");
    let told: serde_json::Value = serde_json::from_str(&text(&report))?;
    ensure!(told["report"] == printed, "{told}");

    let listed = said(&operator(&bed, "list", &[])?);
    ensure!(listed.contains("first") && listed.contains("Content"), "{listed}");
    let verified = operator(&bed, "verify", &["--cluster", "cart"])?;
    ensure!(verified.status.success() && said(&verified).contains("good: 40 keys"), "{}", said(&verified));

    let preview = said(&operator(&bed, "restore", &["--cluster", "cart", "--preview"])?);
    ensure!(preview.contains("40 keys") && preview.contains("nothing after"), "{preview}");
    let dir = bed.scratch("into").display().to_string();
    let restored = operator(&bed, "restore", &["--cluster", "cart", "--into", &dir])?;
    ensure!(restored.status.success(), "{}", said(&restored));
    // The other route: the commands that rebuild it.
    let state = format!("{dir}/state.bin");
    let commands =
        Command::new(kvnode_tests::binary::server()).args(["--parse-snapshot", &state]).output()?;
    ensure!(String::from_utf8_lossy(&commands.stdout).matches("SET").count() == 40, "{}", said(&commands));

    // What is wrong has a code and one line.
    let cases: [(&str, &[&str], i32, &str); 4] = [
        ("restore", &["--cluster", "nobody", "--into", &dir], 65, "no complete backup"),
        ("verify", &["--cluster", "nobody"], 78, "no complete backup"),
        ("backup", &["--cluster", "cart", "--node", "127.0.0.1:9"], 69, "no node of a cluster answers"),
        ("list", &["--refuse-local-endpoint"], 78, "refused"),
    ];
    for (verb, arguments, code, says) in cases {
        let output = operator(&bed, verb, arguments)?;
        ensure!(
            output.status.code() == Some(code) && said(&output).contains(says),
            "{verb}: {}",
            said(&output)
        );
        ensure!(String::from_utf8_lossy(&output.stderr).lines().count() == 1, "{}", said(&output));
    }
    Ok(())
}
