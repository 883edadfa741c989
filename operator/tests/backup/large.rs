//! A large backup and its restore: memory of each part, and rates beside a plain S3 client in the same run.
//!
//! `KVNODE_BACKUP_MIB` sets the size; 96 if it is not set. Memory is always held to its limit; rates and the time of a
//! restore are held to theirs from 1 GiB on, where they mean something: `make backup-trial`, with release builds.
//!
//! An upload is timed from the moment at which the snapshot is on the node's disk, as the plain client's file is. A restore has
//! ended when its file is proved and on the disk; the plain client only writes its own. Dirty pages of what came before are
//! written out before anything is timed.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use kvnode_operator::clock;
use kvnode_tests::http;
use kvnode_tests::node::{Node, loopback};
use kvnode_tests::s3::{ACCESS_KEY, SECRET_KEY};
use kvnode_tests::tool;
use kvnode_tests::wait::eventually;

use crate::bed::{Bed, CLUSTER};

const MIB: u64 = 1024 * 1024;
/// Memory of a run, however large the content is.
const RUN_MIB_MAX: u64 = 192;
const VALUE_BYTES: usize = 64 * 1024;
const RATES_COUNT_FROM: usize = 1024;
const RATE_LEAST: f64 = 0.7;
const SERVING_AGAIN: Duration = Duration::from_mins(1);
const PATIENCE: Duration = Duration::from_mins(10);

fn mebibytes() -> usize {
    std::env::var("KVNODE_BACKUP_MIB").ok().and_then(|text| text.parse().ok()).unwrap_or(96)
}

/// A program that ran: its time and the most memory it held, in MiB.
#[derive(Clone, Copy)]
struct Ran {
    took: Duration,
    /// Time of that since its upload began.
    uploading: Option<Duration>,
    peak_mib: u64,
}

impl Ran {
    #[expect(clippy::cast_precision_loss, reason = "a rate to look at")]
    fn rate(&self, size_bytes: u64) -> f64 {
        size_bytes as f64 / MIB as f64 / self.uploading.unwrap_or(self.took).as_secs_f64()
    }
}

/// Most memory that a living process has held, in MiB.
fn peak_mib(pid: u32) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().trim_end_matches(" kB").parse::<u64>().ok().map(|kib| kib / 1024)
}

/// Runs a program; with `progress`, an address at which it tells how far it is.
async fn ran(mut command: Command, progress: Option<&str>) -> Result<Ran> {
    tool::run(&mut Command::new("sync"))?;
    let began = clock::monotonic();
    let mut child: Child = command.stdin(Stdio::null()).stdout(Stdio::null()).spawn()?;
    let (mut peak, mut upload) = (0, None);
    let status = eventually("the program ends", PATIENCE, async || {
        peak = peak_mib(child.id()).unwrap_or_default().max(peak);
        if let (Some(addr), None) = (progress, upload)
            && let Ok(told) = http::get(addr, "/v1/progress").await
            && told.text().contains("Uploading")
        {
            upload = Some(clock::monotonic());
        }
        Ok(child.try_wait()?)
    })
    .await?;
    ensure!(status.success(), "{command:?}: {status}");
    Ok(Ran { took: began.elapsed(), uploading: upload.map(|begun| begun.elapsed()), peak_mib: peak })
}

fn operator(bed: &Bed, verb: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kvnode-operator"));
    let endpoint = bed.s3.endpoint();
    command.args([verb, "--bucket", "backups", "--prefix", "prod/kv", "--path-style", "--cluster", CLUSTER]);
    command.args(["--endpoint", &endpoint]).arg("--credentials-dir").arg(&bed.s3.credentials).args(arguments);
    command
}

/// curl, as it signs requests by itself.
fn plain(curl: &Path) -> Command {
    let mut command = Command::new(curl);
    command.args(["-sf", "--aws-sigv4", "aws:amz:us-east-1:s3"]);
    command.args([
        "--user",
        &format!("{ACCESS_KEY}:{SECRET_KEY}"),
        "-H",
        "x-amz-content-sha256: UNSIGNED-PAYLOAD",
    ]);
    command
}

#[tokio::test(flavor = "multi_thread")]
async fn memory_stays_flat_and_rates_are_those_of_the_store() -> Result<()> {
    let Some(curl) = tool::need("curl") else { return Ok(()) };
    let Some(mut bed) = Bed::start(1).await? else { return Ok(()) };
    let size = mebibytes();
    bed.fill_fast(size * 1024 * 1024 / VALUE_BYTES, VALUE_BYTES).await?;
    let node = bed.nodes().join(",");
    let progress = format!("{}:8080", loopback());
    let arguments =
        ["--node", &node, "--run", "large", "--verify", "off", "--progress-addr", progress.as_str()];
    let backup = ran(operator(&bed, "backup", &arguments), Some(&progress)).await?;
    let node_peak = peak_mib(bed.cluster.nodes[0].pid()?.as_raw_nonzero().get().unsigned_abs());
    let verify = ran(operator(&bed, "verify", &[]), None).await?;
    let began = clock::monotonic();
    let into = bed.scratch("into");
    let restore = ran(operator(&bed, "restore", &["--into", &into.display().to_string()]), None).await?;
    let state = into.join("state.bin");
    let bytes = state.metadata()?.len();
    let flags = ["--restore".to_owned(), state.display().to_string()];
    let mut restored = Node::new(bed.dir.path(), "restored", &flags);
    restored.spawn()?;
    eventually("it serves", PATIENCE, async || Ok(restored.await_ready().await.is_ok().then_some(())))
        .await?;
    let keys = restored.client().await?.int("DBSIZE").await?;
    let serving = began.elapsed();
    let loader_peak = peak_mib(restored.pid()?.as_raw_nonzero().get().unsigned_abs());
    let (up, down) = plain_rates(&bed, &curl, &state, bytes).await?;
    ensure!(keys == i64::try_from(size * 1024 * 1024 / VALUE_BYTES)?, "{keys} keys");

    println!("{} MiB of state.bin; MiB/s, and the most memory in MiB:", bytes / MIB);
    for (what, run) in [("backup", &backup), ("verify", &verify), ("restore", &restore)] {
        println!(
            "{what:>8}: {:.0} MiB/s, {:.1} s in all, {} MiB",
            run.rate(bytes),
            run.took.as_secs_f64(),
            run.peak_mib
        );
        ensure!(run.peak_mib <= RUN_MIB_MAX, "{what} held {} MiB", run.peak_mib);
    }
    println!("   plain: up {:.0} MiB/s, down {:.0} MiB/s", up.rate(bytes), down.rate(bytes));
    println!("    node: {node_peak:?} MiB while it was the source, {loader_peak:?} MiB while it loaded");
    println!("serving again after {:.1} s", serving.as_secs_f64());
    if size >= RATES_COUNT_FROM {
        ensure!(backup.rate(bytes) >= RATE_LEAST * up.rate(bytes), "the upload is too slow");
        ensure!(restore.rate(bytes) >= RATE_LEAST * down.rate(bytes), "the download is too slow");
        ensure!(serving <= SERVING_AGAIN, "serving again took {serving:?}");
    }
    Ok(())
}

/// What a plain client makes of the same bytes: up, and down into a file.
async fn plain_rates(bed: &Bed, curl: &Path, state: &Path, bytes: u64) -> Result<(Ran, Ran)> {
    let url = format!("{}/backups/plain/state.bin", bed.s3.endpoint());
    let mut put = plain(curl);
    put.arg("-T").arg(state).arg(&url);
    let up = ran(put, None).await?;
    let copy: PathBuf = bed.scratch("copy");
    let mut get = plain(curl);
    get.arg("-o").arg(&copy).arg(&url);
    let down = ran(get, None).await?;
    ensure!(copy.metadata().context("the copy")?.len() == bytes, "curl lost bytes");
    Ok((up, down))
}
