//! What `backup`, `restore`, `list`, `verify`, `delete` and `probe` take on the command line.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, ValueEnum};
use jiff::Timestamp;
use kvnode_api::Id;

use crate::crd::backup::Verify;
use crate::s3::Sse;

/// Where the bucket is, and as whom.
#[allow(clippy::doc_markdown, reason = "--help shows these texts as they are")]
#[derive(Clone, Debug, Args)]
pub struct Bucket {
    /// Bucket
    #[arg(long, value_name = "NAME")]
    pub bucket: String,
    /// Prefix of all keys
    #[arg(long, value_name = "PREFIX", default_value = "")]
    pub prefix: String,
    /// Region
    #[arg(long, value_name = "REGION", env = "AWS_REGION")]
    pub region: Option<String>,
    /// Endpoint of a store other than AWS: scheme, host and port
    #[arg(long, value_name = "URL", env = "AWS_ENDPOINT_URL_S3")]
    pub endpoint: Option<String>,
    /// ENDPOINT/BUCKET/KEY instead of BUCKET.ENDPOINT/KEY
    #[arg(long)]
    pub path_style: bool,
    /// PEM file of CAs to trust beside the system's
    #[arg(long, value_name = "FILE")]
    pub ca_file: Option<PathBuf>,
    /// Directory with the files AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and perhaps AWS_SESSION_TOKEN [default: what
    /// the environment, profile, web identity or machine gives]
    #[arg(long, value_name = "DIR")]
    pub credentials_dir: Option<PathBuf>,
    /// Encryption by the store: AES256, aws:kms or aws:kms:KEY
    #[arg(long, value_name = "SSE", value_parser = sse)]
    pub sse: Option<Sse>,
    /// Storage class of the content
    #[arg(long, value_name = "CLASS")]
    pub storage_class: Option<String>,
    /// Checksums that the store checks: none unless it requires one, or SHA-256 with every part
    #[arg(long, value_name = "WHICH", default_value = "when-required")]
    pub checksums: ChecksumWord,
    /// File with the key that backups are encrypted with: 32 bytes, raw, in hex or base64
    #[arg(long, value_name = "FILE")]
    pub encryption_key_file: Option<PathBuf>,
    /// Seconds that an answer of the store may take, beside the time of its bytes
    #[arg(long, value_name = "SECONDS", default_value_t = 15, value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub store_timeout: u64,
    /// Tries of one request to the store
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=20))]
    pub store_tries: u32,
    /// Refuse endpoints that are this machine or a metadata service
    #[arg(long)]
    pub refuse_local_endpoint: bool,
}

/// Words of `--checksums`.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum ChecksumWord {
    /// Where the service requires one.
    WhenRequired,
    /// SHA-256 with every part.
    Sha256,
}

/// Words of `--verify`.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum VerifyWord {
    /// Read back, parsed, counted, digested
    Content,
    /// Loaded by a server and counted there
    Restore,
    /// Read back, its bytes compared
    Checksum,
    /// Not at all
    Off,
}

impl From<VerifyWord> for Verify {
    fn from(word: VerifyWord) -> Self {
        match word {
            VerifyWord::Content => Verify::Content,
            VerifyWord::Restore => Verify::Restore,
            VerifyWord::Checksum => Verify::Checksum,
            VerifyWord::Off => Verify::Off,
        }
    }
}

fn sse(text: &str) -> Result<Sse, String> {
    match text.split_once("kms:") {
        Some(("aws:", key)) if !key.is_empty() => Ok(Sse::Kms(Some(key.to_owned()))),
        _ if text == "aws:kms" => Ok(Sse::Kms(None)),
        _ if text == "AES256" => Ok(Sse::Aes256),
        _ => Err("AES256, aws:kms or aws:kms:KEY".into()),
    }
}

/// What a server is needed for.
#[derive(Clone, Debug, Args)]
pub struct Proving {
    /// Program of the server, for `restore` as the way to verify
    #[arg(long, value_name = "FILE", default_value = "kvnode-server")]
    pub server_bin: PathBuf,
    /// Where it may load, for the same
    #[arg(long, value_name = "DIR", env = "TMPDIR", default_value = "/tmp")]
    pub scratch_dir: PathBuf,
}

/// `backup`
#[derive(Clone, Debug, Args)]
pub struct BackupArgs {
    #[command(flatten)]
    pub bucket: Bucket,
    /// Name of the cluster, part of the path
    #[arg(long, value_name = "NAME")]
    pub cluster: String,
    /// Admin addresses of its nodes
    #[arg(long = "node", value_name = "HOST:PORT", value_delimiter = ',', required = true)]
    pub nodes: Vec<String>,
    /// Directory with tls.crt, tls.key and ca.crt, where the nodes' admin ports speak TLS
    #[arg(long, value_name = "DIR")]
    pub tls_dir: Option<PathBuf>,
    /// Cluster id that the nodes must have
    #[arg(long, value_name = "ID")]
    pub cluster_id: Option<Id>,
    /// Name of the run; the same name is the same run [default: by-hand and the time]
    #[arg(long, value_name = "NAME")]
    pub run: Option<String>,
    /// How the result is proved
    #[arg(long, value_name = "MODE", default_value = "content")]
    pub verify: VerifyWord,
    #[command(flatten)]
    pub proving: Proving,
    /// Keep the newest N
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub keep_last: u32,
    /// Keep the newest of N days
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub keep_daily: u32,
    /// Keep the newest of N weeks
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub keep_weekly: u32,
    /// Keep the newest of N months
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub keep_monthly: u32,
    /// Keep nothing older, e.g. 90d
    #[arg(long, value_name = "AGE", value_parser = span)]
    pub max_age: Option<jiff::SignedDuration>,
    #[command(flatten)]
    pub telling: Telling,
}

/// How a Job tells the operator.
#[derive(Clone, Debug, Default, Args)]
pub struct Telling {
    /// Serve the progress as JSON at /v1/progress
    #[arg(long, value_name = "ADDR:PORT")]
    pub progress_addr: Option<SocketAddr>,
    /// Write the report as JSON here, too
    #[arg(long, value_name = "FILE")]
    pub report_file: Option<PathBuf>,
}

/// `verify`
#[derive(Clone, Debug, Args)]
pub struct VerifyArgs {
    #[command(flatten)]
    pub bucket: Bucket,
    /// Name of the cluster
    #[arg(long, value_name = "NAME")]
    pub cluster: String,
    /// Run, directory or key [default: the newest]
    #[arg(long, value_name = "NAME")]
    pub backup: Option<String>,
    /// How
    #[arg(long, value_name = "MODE", default_value = "content")]
    pub mode: VerifyWord,
    #[command(flatten)]
    pub proving: Proving,
    /// With --mode restore: data directory of a server that loads the backup beside this program; its count is waited
    /// for instead of starting one
    #[arg(long, value_name = "DIR")]
    pub loaded: Option<PathBuf>,
    #[command(flatten)]
    pub telling: Telling,
}

/// `delete`
#[derive(Clone, Debug, Args)]
pub struct DeleteArgs {
    #[command(flatten)]
    pub bucket: Bucket,
    /// Name of the cluster
    #[arg(long, value_name = "NAME")]
    pub cluster: String,
    /// Cluster id; needed where several clusters of that name have a run of that name
    #[arg(long, value_name = "ID")]
    pub cluster_id: Option<Id>,
    /// Run: its backup, and what it left when it was cut off
    #[arg(long, value_name = "NAME")]
    pub backup: String,
    #[command(flatten)]
    pub telling: Telling,
}

/// `probe`
#[derive(Clone, Debug, Args)]
pub struct ProbeArgs {
    #[command(flatten)]
    pub bucket: Bucket,
    #[command(flatten)]
    pub telling: Telling,
}

/// `list`
#[derive(Clone, Debug, Args)]
pub struct ListArgs {
    #[command(flatten)]
    pub bucket: Bucket,
    /// Name of the cluster [default: all]
    #[arg(long, value_name = "NAME")]
    pub cluster: Option<String>,
}

/// `restore`
#[derive(Clone, Debug, Args)]
pub struct RestoreArgs {
    #[command(flatten)]
    pub bucket: Bucket,
    /// Name of the cluster
    #[arg(long, value_name = "NAME", required_unless_present = "key")]
    pub cluster: Option<String>,
    /// Run or directory [default: the newest that is verified]
    #[arg(long, value_name = "NAME", conflicts_with = "at")]
    pub backup: Option<String>,
    /// The newest whose content is not younger, RFC 3339
    #[arg(long, value_name = "TIME")]
    pub at: Option<Timestamp>,
    /// Key of a bare state.bin that has no meta.json, of this server or of the ancestor
    #[arg(long, value_name = "KEY", conflicts_with_all = ["backup", "at"])]
    pub key: Option<String>,
    /// Directory that gets state.bin and meta.json
    #[arg(long, value_name = "DIR", required_unless_present = "preview")]
    pub into: Option<PathBuf>,
    /// Only say what would be restored
    #[arg(long)]
    pub preview: bool,
    /// Admin addresses of the living cluster, to say how much it has that the backup has not
    #[arg(long = "node", value_name = "HOST:PORT", value_delimiter = ',')]
    pub nodes: Vec<String>,
    /// Directory with tls.crt, tls.key and ca.crt, where the nodes' admin ports speak TLS
    #[arg(long, value_name = "DIR")]
    pub tls_dir: Option<PathBuf>,
    #[command(flatten)]
    pub founder: Founder,
    #[command(flatten)]
    pub telling: Telling,
}

/// When a founder's container has something to fetch.
#[derive(Clone, Debug, Default, Args)]
pub struct Founder {
    /// Own pod
    #[arg(long, value_name = "POD", hide = true)]
    pub pod: Option<String>,
    /// Fetch only on this pod
    #[arg(long, value_name = "POD", hide = true, requires = "pod")]
    pub for_pod: Option<String>,
    /// Fetch only while this file is there
    #[arg(long, value_name = "FILE", hide = true)]
    pub while_file: Option<PathBuf>,
    /// Fetch only while the node with this data directory belongs to no cluster
    #[arg(long, value_name = "DIR", hide = true)]
    pub unless_formed: Option<PathBuf>,
}

impl Founder {
    /// Why there is nothing to fetch.
    pub(super) fn excuse(&self) -> Option<&'static str> {
        if self.for_pod.is_some() && self.for_pod != self.pod {
            return Some("another pod is the founder");
        }
        if self.while_file.as_ref().is_some_and(|file| !file.exists()) {
            return Some("the cluster is formed");
        }
        let identity =
            self.unless_formed.as_ref().and_then(|data| std::fs::read(data.join("identity.json")).ok());
        let identity: Option<serde_json::Value> =
            identity.and_then(|bytes| serde_json::from_slice(&bytes).ok());
        let formed = identity.is_some_and(|identity| identity["cluster_id"].is_string());
        formed.then_some("this node belongs to a cluster")
    }
}

/// Reads `90d`, `12h`, `2w`.
///
/// # Errors
/// What is expected.
pub fn span(text: &str) -> Result<jiff::SignedDuration, String> {
    let (digits, unit) = text.split_at(text.len() - text.chars().next_back().map_or(0, char::len_utf8));
    let hours = match unit {
        "h" => 1,
        "d" => 24,
        "w" => 168,
        _ => 0,
    };
    match digits.parse::<i64>().ok().and_then(|number| number.checked_mul(hours)) {
        Some(hours @ 1..=876_000) => Ok(jiff::SignedDuration::from_hours(hours)),
        _ => Err(format!("{text:?} is no age: 12h, 90d and 8w are")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_unformed_founder_fetches() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("restore");
        let founder = |pod: &str| Founder {
            pod: Some(pod.into()),
            for_pod: Some("cart-0".into()),
            while_file: Some(file.clone()),
            unless_formed: Some(dir.path().into()),
        };
        assert_eq!(founder("cart-1").excuse(), Some("another pod is the founder"));
        assert_eq!(founder("cart-0").excuse(), Some("the cluster is formed"));
        std::fs::write(&file, "").unwrap();
        assert_eq!(founder("cart-0").excuse(), None);
        let identity = dir.path().join("identity.json");
        std::fs::write(&identity, r#"{"cluster_id":null}"#).unwrap();
        assert_eq!(founder("cart-0").excuse(), None);
        std::fs::write(&identity, r#"{"cluster_id":"c1"}"#).unwrap();
        assert_eq!(founder("cart-0").excuse(), Some("this node belongs to a cluster"));
        assert_eq!(Founder::default().excuse(), None, "by hand there is always something to fetch");
    }

    #[test]
    fn ages_and_encryption_are_read() {
        assert_eq!(span("90d"), Ok(jiff::SignedDuration::from_hours(2160)));
        assert_eq!(span("8w"), Ok(jiff::SignedDuration::from_hours(1344)));
        for wrong in ["", "d", "0d", "-1d", "90", "90é", "99999999d"] {
            assert!(span(wrong).is_err(), "{wrong}");
        }
        assert_eq!(sse("aws:kms:arn:x"), Ok(Sse::Kms(Some("arn:x".into()))));
        assert_eq!(sse("aws:kms"), Ok(Sse::Kms(None)));
        assert!(sse("aws:kms:").is_err() && sse("none").is_err());
    }
}
