//! Where a store is, as whom, and how objects are written; and the SDK's client made of it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use aws_config::BehaviorVersion;
use aws_credential_types::provider::{self, ProvideCredentials, error::CredentialsError, future};
use aws_sdk_s3::config::retry::RetryConfig;
use aws_sdk_s3::config::timeout::TimeoutConfig;
use aws_sdk_s3::config::{Region, RequestChecksumCalculation, ResponseChecksumValidation, SharedHttpClient};
use aws_sdk_s3::types::{ServerSideEncryption, StorageClass};
use aws_smithy_http_client::{Builder, tls};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;

use super::endpoint::{self, Guarded};
use super::{S3Error, S3ErrorKind, Store};
use crate::clock;

const CONNECT: Duration = Duration::from_secs(5);
/// Pauses between tries: this, doubled each time, at most that.
const BACKOFF: Duration = Duration::from_millis(200);
const BACKOFF_MAX: Duration = Duration::from_secs(5);
/// A slower line than this is taken for a broken one.
const BYTES_PER_SECOND_MIN: u64 = 256 * 1024;
/// A store may put 10,000 parts together before it answers.
const JOIN_PART: Duration = Duration::from_millis(100);
/// Files of credentials are read again after this time, so that rotated ones are taken up.
const CREDENTIALS_AGE: Duration = Duration::from_mins(5);
/// What S3 itself takes when the region does not matter (stores with an endpoint of their own).
const REGION: &str = "us-east-1";

/// Where systems keep the certificates that they trust.
const ROOTS: &[&str] = &[
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// As whom.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Credentials {
    /// A directory with the files `AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY` and perhaps `AWS_SESSION_TOKEN`: a
    /// mounted Secret.
    Directory(PathBuf),
    /// The SDK's chain: environment, profile, web identity, container, machine.
    Surroundings,
}

/// Encryption by the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sse {
    /// `AES256`.
    Aes256,
    /// `aws:kms`, with the bucket's key if none is named.
    Kms(Option<String>),
}

/// Checksums sent along with objects, in a header.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Checksums {
    /// None but where the service requires one.
    #[default]
    WhenRequired,
    /// SHA-256 with every object and part, which the store checks and keeps.
    Sha256,
}

/// How long a store is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Patience {
    /// Time for the answer to a request, on top of what its bytes take; and silence after which a stream counts as cut.
    pub answer: Duration,
    /// Tries of one request.
    pub tries: u32,
}

impl Default for Patience {
    fn default() -> Self {
        Self { answer: Duration::from_secs(15), tries: 4 }
    }
}

impl Patience {
    /// For a request with a body of so many bytes.
    pub(super) fn with_body(self, size_bytes: u64) -> Duration {
        self.answer + Duration::from_secs(size_bytes / BYTES_PER_SECOND_MIN)
    }

    /// For an object to be made of so many parts.
    pub(super) fn to_join(self, parts: usize) -> Duration {
        self.answer + JOIN_PART * u32::try_from(parts).unwrap_or(u32::MAX)
    }
}

/// A bucket and how to work with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Name of the bucket.
    pub bucket: String,
    /// Region; `us-east-1` if absent.
    pub region: Option<String>,
    /// Endpoint of a store other than AWS.
    pub endpoint: Option<String>,
    /// `endpoint/bucket/key` instead of `bucket.endpoint/key`.
    pub path_style: bool,
    /// PEM file of CAs to trust beside the system's.
    pub ca_file: Option<PathBuf>,
    /// As whom.
    pub credentials: Credentials,
    /// Encryption by the store.
    pub sse: Option<Sse>,
    /// Storage class of large objects.
    pub storage_class: Option<String>,
    /// Checksums.
    pub checksums: Checksums,
    /// Apply the rules of [`endpoint`].
    pub refuse_local: bool,
    /// How long it is waited for.
    pub patience: Patience,
}

impl Settings {
    /// A bucket with nothing else set.
    pub fn new(bucket: impl Into<String>) -> Self {
        Self {
            bucket: bucket.into(),
            region: None,
            endpoint: None,
            path_style: false,
            ca_file: None,
            credentials: Credentials::Surroundings,
            sse: None,
            storage_class: None,
            checksums: Checksums::default(),
            refuse_local: false,
            patience: Patience::default(),
        }
    }

    /// Opens the store: reads files, connects to nothing.
    ///
    /// # Errors
    /// [`S3ErrorKind::Settings`]: what cannot be used.
    pub async fn open(&self) -> Result<Store, S3Error> {
        let wrong =
            |what: String| S3Error::new(S3ErrorKind::Settings, format!("open bucket {}", self.bucket), what);
        check_bucket(&self.bucket).map_err(&wrong)?;
        if let Some(endpoint) = &self.endpoint {
            endpoint::check(endpoint, self.refuse_local).map_err(&wrong)?;
        }
        let http = self.http_client().map_err(&wrong)?;
        let region = Region::new(self.region.clone().unwrap_or_else(|| REGION.into()));
        let mut config = aws_sdk_s3::Config::builder()
            .behavior_version(BehaviorVersion::latest())
            .region(region.clone())
            .http_client(http)
            .force_path_style(self.path_style)
            .retry_config(
                RetryConfig::standard()
                    .with_max_attempts(self.patience.tries)
                    .with_initial_backoff(BACKOFF)
                    .with_max_backoff(BACKOFF_MAX),
            )
            .timeout_config(attempts(self.patience.answer))
            .request_checksum_calculation(RequestChecksumCalculation::WhenRequired)
            .response_checksum_validation(ResponseChecksumValidation::WhenRequired);
        config = match &self.credentials {
            Credentials::Directory(dir) => config.credentials_provider(Files { dir: dir.clone() }),
            Credentials::Surroundings => {
                // What the chain asks (a token service, a container's or machine's own address) is not chosen by
                // whoever writes the settings, so it goes without the guard.
                let http = https(Guarded { refuse_local: false }, None);
                let loader = aws_config::defaults(BehaviorVersion::latest()).region(region).http_client(http);
                let found = loader.load().await;
                config.set_credentials_provider(found.credentials_provider());
                config
            }
        };
        if let Some(endpoint) = &self.endpoint {
            config = config.endpoint_url(endpoint);
        }
        Ok(Store::new(aws_sdk_s3::Client::from_conf(config.build()), self.clone()))
    }

    fn http_client(&self) -> Result<SharedHttpClient, String> {
        let ca = self.ca_file.as_deref().map(read_ca).transpose()?;
        Ok(https(Guarded { refuse_local: self.refuse_local }, ca))
    }

    pub(super) fn sse(&self) -> (Option<ServerSideEncryption>, Option<String>) {
        match &self.sse {
            None => (None, None),
            Some(Sse::Aes256) => (Some(ServerSideEncryption::Aes256), None),
            Some(Sse::Kms(key)) => (Some(ServerSideEncryption::AwsKms), key.clone()),
        }
    }

    pub(super) fn storage_class(&self) -> Option<StorageClass> {
        self.storage_class.as_deref().map(StorageClass::from)
    }
}

/// Limits of one try of a request.
fn attempts(answer: Duration) -> TimeoutConfig {
    TimeoutConfig::builder().connect_timeout(CONNECT).operation_attempt_timeout(answer).build()
}

/// What replaces the limits of small requests for one that takes longer.
pub(super) fn patient(answer: Duration) -> aws_sdk_s3::config::Builder {
    aws_sdk_s3::Config::builder().timeout_config(attempts(answer))
}

/// A client on ring, the one provider that the operator has.
fn https(resolver: Guarded, ca_pem: Option<Vec<u8>>) -> SharedHttpClient {
    // Where there are none, debug builds of the client would panic; what https then needs stands in caSecret.
    let native =
        std::env::var_os("SSL_CERT_FILE").is_some() || ROOTS.iter().any(|file| Path::new(file).exists());
    let mut trust = tls::TrustStore::default().with_native_roots(native);
    if let Some(pem) = ca_pem {
        trust = trust.with_pem_certificate(pem);
    }
    let mut builder =
        Builder::new().tls_provider(tls::Provider::Rustls(tls::rustls_provider::CryptoMode::Ring));
    // A context of trust anchors alone can always be built.
    if let Ok(context) = tls::TlsContext::builder().with_trust_store(trust).build() {
        builder = builder.tls_context(context);
    }
    builder.build_with_resolver(resolver)
}

/// Reads certificates and proves that they are some: the client below would panic over others.
fn read_ca(file: &Path) -> Result<Vec<u8>, String> {
    let wrong = |what: &str| format!("the CA file {}: {what}", file.display());
    let bytes = std::fs::read(file).map_err(|error| wrong(&format!("cannot be read: {error}")))?;
    let (mut roots, mut count) = (rustls::RootCertStore::empty(), 0);
    for found in CertificateDer::pem_slice_iter(&bytes) {
        let der = found.map_err(|error| wrong(&format!("is not PEM: {error:?}")))?;
        roots.add(der).map_err(|error| wrong(&format!("holds what is no certificate: {error}")))?;
        count += 1;
    }
    if count == 0 { Err(wrong("holds no certificate")) } else { Ok(bytes) }
}

/// The rules of bucket names that matter: it becomes part of a host name or a path.
fn check_bucket(bucket: &str) -> Result<(), String> {
    let inner = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
    let good = (3..=255).contains(&bucket.len()) && bucket.bytes().all(inner) && !bucket.contains("..");
    if good { Ok(()) } else { Err(format!("{bucket:?} is not the name of a bucket")) }
}

/// Credentials in files, read anew every few minutes.
#[derive(Debug)]
struct Files {
    dir: PathBuf,
}

impl Files {
    fn read(&self) -> Result<aws_credential_types::Credentials, String> {
        let file = |name: &str| read_line(&self.dir.join(name));
        let key = file("AWS_ACCESS_KEY_ID")?;
        let secret = file("AWS_SECRET_ACCESS_KEY")?;
        let token =
            if self.dir.join("AWS_SESSION_TOKEN").exists() { Some(file("AWS_SESSION_TOKEN")?) } else { None };
        let expires = std::time::SystemTime::from(clock::wall()) + CREDENTIALS_AGE;
        Ok(aws_credential_types::Credentials::new(key, secret, token, Some(expires), "kvnode-files"))
    }
}

fn read_line(path: &Path) -> Result<String, String> {
    let text = std::fs::read_to_string(path).map_err(|error| format!("read {}: {error}", path.display()))?;
    let line = text.trim();
    if line.is_empty() { Err(format!("{} is empty", path.display())) } else { Ok(line.to_owned()) }
}

impl ProvideCredentials for Files {
    fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
    where
        Self: 'a,
    {
        let found: provider::Result = self.read().map_err(CredentialsError::invalid_configuration);
        future::ProvideCredentials::ready(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn settings_that_cannot_be_used_are_refused_before_anything_is_connected() {
        let mut settings = Settings::new("kv");
        assert!(settings.open().await.is_err());
        settings.bucket = "kv/../other".into();
        assert!(settings.open().await.is_err());
        settings.bucket = "backups".into();
        settings.endpoint = Some("http://169.254.169.254".into());
        settings.refuse_local = true;
        let error = settings.open().await.unwrap_err();
        assert_eq!(error.kind, S3ErrorKind::Settings, "{error}");
        settings.endpoint = Some("https://s3.example".into());
        settings.ca_file = Some("/does/not/exist.pem".into());
        assert!(settings.open().await.unwrap_err().to_string().contains("CA file"));
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("ca.crt");
        settings.ca_file = Some(file.clone());
        for (text, told) in [
            ("", "no certificate"),
            ("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "what is no certificate"),
            ("-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----\n", "not PEM"),
        ] {
            std::fs::write(&file, text).unwrap();
            let error = settings.open().await.unwrap_err().to_string();
            assert!(error.contains(told), "{error}");
        }
    }
}
