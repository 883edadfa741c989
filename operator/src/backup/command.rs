//! `kvnode-operator backup|restore|list|verify|delete`: the same code that a Job runs, for people, against any bucket.
//!
//! ```text
//! backup   nodes -> bucket        exit 0 good, 65 stored but proved wrong, 69 try again, 78 correct the settings
//! verify   bucket -> proof        the same
//! restore  bucket -> directory    state.bin, proved; `kvnode-server --restore` or `--parse-snapshot` goes on from there
//! list     bucket -> table
//! delete   one run of the bucket  exit 0 nothing of it is left, 65 not ours to delete, 69 and 78 as above
//! ```
//!
//! Nothing here needs Kubernetes. A report or a table goes to standard output, progress to standard error, as a bar
//! where that is a terminal.

use std::collections::BTreeSet;
use std::io::Write as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

pub use super::arguments::{BackupArgs, DeleteArgs, ListArgs, ProbeArgs, RestoreArgs, VerifyArgs};
use super::arguments::{Bucket, ChecksumWord, Proving, VerifyWord};
use super::catalog::{Backup, Listing, Target, choose, list};
use super::cleanup::{RemoveError, remove};
use super::crypt::Key;
use super::fetch::{FetchError, fetch, fetch_bare};
use super::inspect::key_for;
use super::layout::{Layout, STATE_FILE, good_run};
use super::preview::{Preview, age};
use super::progress::Reporter;
use super::retention::Policy;
use super::run::{Order, RunError, described, run};
use super::verify::{Proof, verify, verify_loaded};
use super::{announce, bar};
use crate::admin_client::trust::{self, ByName};
use crate::admin_client::{AdminClient, Deadlines};
use crate::clock;
use crate::crd::backup::Verified;
use crate::pki::Pair;
use crate::s3::{Checksums, Credentials, Patience, S3Error, Settings, Store};

/// A backup that was found wrong (`EX_DATAERR`).
pub const WRONG: u8 = 65;
/// Try again (`EX_UNAVAILABLE`).
pub const UNAVAILABLE: u8 = 69;
/// A file cannot be written (`EX_IOERR`).
pub const IO: u8 = 74;
/// Correct the settings (`EX_CONFIG`).
pub const CONFIG: u8 = 78;

/// What `probe` says of a bucket where everything can be done.
pub const PROBE_ALL: &str = "can be written, read, listed and deleted from";
/// What it says where nothing may be deleted.
pub const PROBE_NO_DELETE: &str =
    "can be written, read and listed; nothing may be deleted, so retention has no effect";

/// An exit code and a line.
pub type Failure = (u8, String);

impl Bucket {
    /// Settings of the store.
    #[must_use]
    pub fn settings(&self) -> Settings {
        Settings {
            bucket: self.bucket.clone(),
            region: self.region.clone(),
            endpoint: self.endpoint.clone(),
            path_style: self.path_style,
            ca_file: self.ca_file.clone(),
            credentials: match &self.credentials_dir {
                Some(dir) => Credentials::Directory(dir.clone()),
                None => Credentials::Surroundings,
            },
            sse: self.sse.clone(),
            storage_class: self.storage_class.clone(),
            checksums: match self.checksums {
                ChecksumWord::WhenRequired => Checksums::WhenRequired,
                ChecksumWord::Sha256 => Checksums::Sha256,
            },
            refuse_local: self.refuse_local_endpoint,
            patience: Patience { answer: Duration::from_secs(self.store_timeout), tries: self.store_tries },
        }
    }

    async fn open(&self) -> Result<(Store, Layout, Option<Key>), Failure> {
        let key = match &self.encryption_key_file {
            None => None,
            Some(file) => {
                let bytes = std::fs::read(file);
                let bytes =
                    bytes.map_err(|error| (CONFIG, format!("read the key {}: {error}", file.display())))?;
                Some(Key::read(&bytes).map_err(|what| (CONFIG, format!("{}: {what}", file.display())))?)
            }
        };
        let store = self.settings().open().await.map_err(|error| store_failure(&error))?;
        Ok((store, Layout::new(&self.prefix), key))
    }
}

fn store_failure(error: &S3Error) -> Failure {
    (if error.is_transient() { UNAVAILABLE } else { CONFIG }, error.to_string())
}

fn proof<'a>(mode: VerifyWord, key: Option<&'a Key>, proving: &'a Proving) -> Proof<'a> {
    Proof { mode: mode.into(), key, server: Some(&proving.server_bin), scratch: &proving.scratch_dir }
}

/// Runs a backup.
///
/// # Errors
/// An exit code and why.
pub async fn backup(args: &BackupArgs) -> Result<(), Failure> {
    let (store, layout, key) = args.bucket.open().await?;
    let name = args.run.clone().unwrap_or_else(|| format!("by-hand-{}", clock::wall().as_second()));
    if !good_run(&name) {
        return Err((CONFIG, format!("--run {name:?}: a-z, 0-9, '-' and '.' are allowed")));
    }
    let order = Order {
        cluster: args.cluster.clone(),
        run: name,
        nodes: args.nodes.clone(),
        cluster_id: args.cluster_id,
        layout,
        key: key.clone(),
        retention: Policy {
            last: args.keep_last,
            daily: args.keep_daily,
            weekly: args.keep_weekly,
            monthly: args.keep_monthly,
            age_max: args.max_age,
        },
    };
    let admin = admin(args.tls_dir.as_deref())?;
    let reporter = Reporter::default();
    let proof = proof(args.verify, key.as_ref(), &args.proving);
    let running = run(&store, &admin, &order, &proof, &reporter);
    let telling = announce::progress(&args.telling, &reporter).await?;
    let ended = Box::pin(bar::shown(running, &reporter)).await;
    drop(telling);
    let report = ended.map_err(|error| match &error {
        RunError::Source(what) => (UNAVAILABLE, what.clone()),
        RunError::Store(error) => store_failure(error),
    });
    announce::report(&args.telling, &report)?;
    let report = report?;
    let text = serde_json::to_string_pretty(&report).unwrap_or_default();
    say(&text)?;
    match report.verified {
        Verified::Failed => {
            Err((WRONG, format!("{} was found wrong: {}", report.uri, report.error.unwrap_or_default())))
        }
        Verified::No | Verified::Checksum | Verified::Content | Verified::Restored => Ok(()),
    }
}

fn admin(tls_dir: Option<&Path>) -> Result<AdminClient, Failure> {
    Ok(match tls_dir {
        None => AdminClient::tcp(),
        Some(dir) => AdminClient::new(Arc::new(by_name(dir)?), Deadlines::default()),
    })
}

/// Mutual TLS with the files of a directory.
fn by_name(dir: &Path) -> Result<ByName, Failure> {
    let read = |name: &str| {
        let path = dir.join(name);
        std::fs::read_to_string(&path).map_err(|error| (CONFIG, format!("read {}: {error}", path.display())))
    };
    let own = Pair { cert: read("tls.crt")?, key: read("tls.key")? };
    let client = trust::client(&read("ca.crt")?, &own);
    client.map(ByName).map_err(|what| (CONFIG, format!("{}: {what}", dir.display())))
}

async fn listed(store: &Store, layout: &Layout, cluster: Option<&str>) -> Result<Listing, Failure> {
    let prefix = cluster.map_or_else(|| layout.root().to_owned(), |cluster| layout.cluster(cluster));
    list(store, layout, &prefix).await.map_err(|error| store_failure(&error))
}

/// Verifies a backup.
///
/// # Errors
/// An exit code and why.
pub async fn verify_one(args: &VerifyArgs) -> Result<(), Failure> {
    let (store, layout, key) = args.bucket.open().await?;
    let listing = listed(&store, &layout, Some(&args.cluster)).await?;
    let backup = match &args.backup {
        None => listing.backups.last(),
        // One that was found wrong may be looked at again.
        Some(name) => listing.backups.iter().find(|backup| {
            backup.meta.run == *name || name.trim_end_matches('/').ends_with(&backup.place.name.dir())
        }),
    };
    let Some(backup) = backup else {
        return Err((CONFIG, format!("no complete backup of {} is there", args.cluster)));
    };
    let reporter = Reporter::default();
    let proof = proof(args.mode, key.as_ref(), &args.proving);
    let marked = match &args.loaded {
        None => Box::pin(bar::shown(verify(&store, &backup.place, &proof, &reporter), &reporter)).await,
        Some(data) => verify_loaded(&store, &backup.place, data).await,
    };
    let report =
        marked.map(|mark| described(&store, &Backup { mark: Some(mark), ..backup.clone() }, &reporter));
    let report = report.map_err(|error| store_failure(&error));
    announce::report(&args.telling, &report)?;
    let report = report?;
    match &report.error {
        None => say(&format!("{} is good: {} keys", report.uri, report.keys)),
        Some(error) => Err((WRONG, format!("{} is wrong: {error}", report.uri))),
    }
}

/// Tries what may be done in a bucket.
///
/// # Errors
/// An exit code and why.
pub async fn probe(args: &ProbeArgs) -> Result<(), Failure> {
    let ended = probed(args).await;
    announce::line(&args.telling, &ended, None)?;
    ended.and_then(|text| say(&text))
}

async fn probed(args: &ProbeArgs) -> Result<String, Failure> {
    let (store, layout, _) = args.bucket.open().await?;
    let nonce = format!("{:016x}", rand::random::<u64>());
    let allowed = store.probe(&layout, &nonce).await.map_err(|error| store_failure(&error))?;
    Ok(if allowed.delete { PROBE_ALL } else { PROBE_NO_DELETE }.to_owned())
}

/// Deletes what one run stored.
///
/// # Errors
/// An exit code and why.
pub async fn delete(args: &DeleteArgs) -> Result<(), Failure> {
    let ended = deleted(args).await;
    announce::line(&args.telling, &ended, None)?;
    ended.and_then(|text| say(&text))
}

async fn deleted(args: &DeleteArgs) -> Result<String, Failure> {
    let (store, layout, _) = args.bucket.open().await?;
    let prefix = match &args.cluster_id {
        Some(id) => layout.snaps(&args.cluster, &id.to_string()),
        None => layout.cluster(&args.cluster),
    };
    let found = store.list(&prefix).await.map_err(|error| store_failure(&error))?;
    let places = found.iter().filter_map(|object| layout.parse(&object.key));
    let ids: BTreeSet<String> =
        places.filter(|place| place.name.run == args.backup).map(|place| place.cluster_id).collect();
    if ids.len() > 1 {
        let ids = ids.into_iter().collect::<Vec<_>>().join(", ");
        return Err((
            CONFIG,
            format!("{} is a run of several clusters: give --cluster-id, one of {ids}", args.backup),
        ));
    }
    match remove(&store, &layout, &prefix, &args.backup).await {
        Ok(count) => Ok(format!("nothing of {} is left, {count} backups were deleted", args.backup)),
        Err(RemoveError::Store(error)) => Err(store_failure(&error)),
        Err(RemoveError::Foreign(what)) => Err((WRONG, what)),
    }
}

/// Prints a table of backups.
///
/// # Errors
/// An exit code and why.
pub async fn list_all(args: &ListArgs) -> Result<(), Failure> {
    let (store, layout, _) = args.bucket.open().await?;
    let listing = listed(&store, &layout, args.cluster.as_deref()).await?;
    let now = clock::wall();
    let mut rows = vec![
        ["BACKUP", "CLUSTER", "CLUSTER-ID", "INDEX", "KEYS", "BYTES", "VERIFIED", "AGE"].map(str::to_owned),
    ];
    rows.extend(listing.backups.iter().rev().map(|backup| row(backup, now)));
    let widths: Vec<usize> =
        (0..8).map(|column| rows.iter().map(|row| row[column].len()).max().unwrap_or_default()).collect();
    for row in &rows {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}"));
        say(cells.collect::<Vec<_>>().join("  ").trim_end())?;
    }
    for (dir, fault) in &listing.faults {
        say(&format!("{dir}: {fault}"))?;
    }
    Ok(())
}

fn row(backup: &Backup, now: Timestamp) -> [String; 8] {
    let snapshot = &backup.meta.snapshot;
    [
        backup.meta.run.clone(),
        backup.meta.cluster.clone(),
        snapshot.cluster_id.clone(),
        snapshot.index.to_string(),
        snapshot.keys_total().to_string(),
        snapshot.size_bytes.to_string(),
        format!("{:?}", backup.verified()),
        age(now.duration_since(backup.created())),
    ]
}

/// Fetches a backup.
///
/// # Errors
/// An exit code and why.
pub async fn restore(args: &RestoreArgs) -> Result<(), Failure> {
    let reporter = Reporter::default();
    let ended = Box::pin(restored(args, &reporter)).await;
    let preview = reporter.subscribe().borrow().preview.clone();
    announce::line(&args.telling, &ended, preview)?;
    ended.and_then(|text| say(&text))
}

async fn restored(args: &RestoreArgs, reporter: &Reporter) -> Result<String, Failure> {
    if let Some(excuse) = args.founder.excuse() {
        // What was fetched for the founding is of no more use.
        if let Some(into) = args.into.as_ref().filter(|into| into.exists()) {
            std::fs::remove_dir_all(into)
                .map_err(|error| (IO, format!("remove {}: {error}", into.display())))?;
        }
        return Ok(format!("nothing to restore: {excuse}"));
    }
    let (store, layout, key) = args.bucket.open().await?;
    let _telling = announce::progress(&args.telling, reporter).await?;
    let into = args.into.clone().unwrap_or_default();
    if let Some(key) = &args.key {
        return restored_bare(args, &store, key, &into, reporter).await;
    }
    let listing = listed(&store, &layout, args.cluster.as_deref()).await?;
    let target = match (&args.backup, args.at) {
        (Some(name), _) => Target::Named(name.clone()),
        (None, Some(at)) => Target::At(at),
        (None, None) => Target::Newest,
    };
    let (backup, warning) = choose(&listing.backups, &target).map_err(|what| (WRONG, what))?;
    backup.check_place().map_err(|what| (WRONG, what))?;
    let preview = Preview::of(backup, warning);
    reporter.previewed(&preview);
    let told = told(args, &preview).await?;
    if args.preview {
        return Ok(told);
    }
    complain(&told);
    let key = key_for(&backup.meta, key.as_ref()).map_err(|what| (CONFIG, what))?;
    let fetched = Box::pin(bar::shown(fetch(&store, backup, key, &into, reporter), reporter)).await;
    let state = fetched.map_err(fetch_failure)?;
    let run = &backup.meta.run;
    Ok(format!("{}: {run}, proved; go on with kvnode-server --restore {STATE_FILE}", state.display()))
}

/// What a restore means, in lines; what a living cluster has beyond it, if one is named.
async fn told(args: &RestoreArgs, preview: &Preview) -> Result<String, Failure> {
    preview.warnings.iter().for_each(|warning| complain(warning));
    let mut told = preview.told(clock::wall());
    if args.nodes.is_empty() {
        return Ok(told);
    }
    let admin = admin(args.tls_dir.as_deref())?;
    let asked = args.nodes.iter().map(|node| admin.status(node));
    let answers = futures_util::future::join_all(asked).await;
    // term-node-index
    let index = |id: &String| id.rsplit('-').next().and_then(|index| index.parse::<u64>().ok());
    let committed = answers.iter().flatten().filter_map(|status| index(status.log.committed.as_ref()?)).max();
    told.push('\n');
    match committed {
        Some(committed) => told.push_str(&preview.missing(committed)),
        None => told.push_str("no node of the living cluster answers: what it has beyond that is not known"),
    }
    Ok(told)
}

async fn restored_bare(
    args: &RestoreArgs,
    store: &Store,
    key: &str,
    into: &Path,
    reporter: &Reporter,
) -> Result<String, Failure> {
    if args.preview {
        return Ok(format!("{}: a bare state.bin; what it holds is known when it is read", store.uri(key)));
    }
    let fetched = Box::pin(bar::shown(fetch_bare(store, key, into, reporter), reporter)).await;
    let (state, found) = fetched.map_err(fetch_failure)?;
    Ok(format!("{}: {} bytes, SHA-256 {}", state.display(), found.plain.size_bytes, found.plain.sha256))
}

fn fetch_failure(error: FetchError) -> Failure {
    match error {
        FetchError::Store(error) => store_failure(&error),
        FetchError::Wrong(what) => (WRONG, what),
        FetchError::File(what) => (IO, what),
    }
}

fn say(text: &str) -> Result<(), Failure> {
    writeln!(std::io::stdout(), "{text}").map_err(|error| (IO, format!("write to standard output: {error}")))
}

fn complain(text: &str) {
    // Nothing can be done when standard error is closed.
    let _ = writeln!(std::io::stderr(), "{text}");
}
