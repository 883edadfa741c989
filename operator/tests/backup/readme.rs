//! The README's backup and restore by hand, as it is written there: in a network of its own, where its ports are free.

use std::os::unix::fs::symlink;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use kvnode_operator::s3::Settings;
use kvnode_tests::binary;
use kvnode_tests::client::Client;
use kvnode_tests::cluster::content;
use kvnode_tests::s3::{self, ACCESS_KEY, S3Server, SECRET_KEY};
use kvnode_tests::tool;
use kvnode_tests::wait::until;

use crate::bed::settings;

const INSIDE: &str = "KVNODE_TEST_IN_A_NETWORK_OF_ITS_OWN";
const PATIENCE: Duration = Duration::from_mins(1);

/// The first `sh` block of a section of the README.
fn block(section: &str) -> Result<String> {
    let text = std::fs::read_to_string(binary::repository().join("README.md"))?;
    let (_, section) = text.split_once(&format!("## {section}\n")).context("the section")?;
    let (_, block) = section.split_once("```sh\n").context("the block")?;
    let (block, _) = block.split_once("```").context("the end of the block")?;
    Ok(block.to_owned())
}

#[test]
fn the_readme_backs_up_and_restores_as_it_is_written() -> Result<()> {
    if std::env::var_os(INSIDE).is_some() {
        return tokio::runtime::Runtime::new()?.block_on(inside());
    }
    let (Some(_), Some(_), Some(_)) = (tool::need("unshare"), tool::need("ip"), tool::need("redis-cli"))
    else {
        return Ok(());
    };
    // It may have to be installed, for which there is no network inside.
    if s3::program()?.is_none() {
        return Ok(());
    }
    let own = ["--net", "--pid", "--fork", "--kill-child", "--mount-proc"];
    if !Command::new("unshare").args(own).arg("true").stderr(Stdio::null()).status()?.success() {
        tool::skip_without_rights("a network of its own cannot be made");
        return Ok(());
    }
    let name = "readme::the_readme_backs_up_and_restores_as_it_is_written";
    let again = Command::new("unshare")
        .args(own)
        .arg(std::env::current_exe()?)
        .args(["--exact", name, "--nocapture"])
        .env(INSIDE, "1")
        .output()?;
    let said =
        format!("{}{}", String::from_utf8_lossy(&again.stdout), String::from_utf8_lossy(&again.stderr));
    ensure!(again.status.success() && said.contains("1 passed"), "{said}");
    Ok(())
}

async fn inside() -> Result<()> {
    tool::run(Command::new("ip").args(["link", "set", "lo", "up"]))?;
    let s3 = S3Server::start().await?.context("an S3 server")?;
    s3.make_bucket("backups").await?;
    let dir = tempfile::tempdir()?;
    let bin = dir.path().join("bin");
    std::fs::create_dir(&bin)?;
    symlink(binary::server(), bin.join("kvnode-server"))?;
    symlink(env!("CARGO_BIN_EXE_kvnode-operator"), bin.join("kvnode-operator"))?;
    let path = format!("{}:{}", bin.display(), std::env::var("PATH")?);
    let shell = |text: &str| {
        let mut command = Command::new("sh");
        command
            .args(["-e", "-c", text])
            .current_dir(dir.path())
            .env("PATH", &path)
            .env("AWS_ENDPOINT_URL_S3", s3.endpoint())
            .env("AWS_ACCESS_KEY_ID", ACCESS_KEY)
            .env("AWS_SECRET_ACCESS_KEY", SECRET_KEY)
            .stdin(Stdio::null());
        command
    };
    // What runs already, with the addresses of the defaults.
    let log = || std::fs::File::options().create(true).append(true).open(dir.path().join("log"));
    let mut running = shell("exec kvnode-server").stdout(log()?).stderr(log()?).spawn()?;
    until("it serves", PATIENCE, async || Client::connect("127.0.0.1:4920").await.is_ok()).await?;
    let mut client = Client::connect("127.0.0.1:4920").await?;
    for number in 0..100 {
        client.ok(&format!("SET fruit:{number} pear-{number}")).await?;
    }
    let before = content(&mut client).await?;

    let text = block("Backup and restore")?;
    // To files: what it leaves behind must not hold our pipes open.
    let ended = shell(&text).stdout(log()?).stderr(log()?).status()?;
    let said = std::fs::read_to_string(dir.path().join("log"))?;
    ensure!(ended.success(), "{text}\n{said}");
    ensure!(said.contains("errors: 0, replies: 100"), "what redis-cli says: {said}");
    until("the new one serves", PATIENCE, async || Client::connect("127.0.0.1:6920").await.is_ok()).await?;
    let mut restored = Client::connect("127.0.0.1:6920").await?;
    ensure!(content(&mut restored).await? == before, "the new cluster differs");
    ensure!(content(&mut client).await? == before, "what was loaded by commands differs");
    let store = Settings { bucket: "backups".into(), ..settings(&s3) }.open().await?;
    ensure!(store.list("cart/").await?.len() == 3, "state.bin, meta.json, verified.json");
    running.kill()?;
    running.wait()?;
    Ok(())
}
