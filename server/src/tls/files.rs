//! PEM files to what rustls takes, with errors that say which file and what to do.

use std::fmt;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use sha2::{Digest as _, Sha256};
use x509_parser::prelude::{FromDer as _, X509Certificate};

use crate::clock::UnixMs;
use crate::config::TlsFiles;
use crate::error::{ErrorKind, NodeError};

/// A chain of certificates has a few kilobytes; a larger file is the wrong one.
const FILE_BYTES_MAX: u64 = 1024 * 1024;

/// Files that TLS cannot work with. Shape: `<key> <path>: <what>: <what to do>`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsError {
    /// Key of the configuration, path, what is wrong.
    pub what: String,
    /// What to do.
    pub remedy: &'static str,
}

impl fmt::Display for TlsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.what, self.remedy)
    }
}

impl std::error::Error for TlsError {}

impl From<TlsError> for NodeError {
    fn from(error: TlsError) -> Self {
        Self::new(ErrorKind::Config, &error.what, error.remedy)
    }
}

/// One file and the key that names it.
#[derive(Clone, Debug)]
pub(super) struct Source {
    key: String,
    path: PathBuf,
}

impl Source {
    pub(super) fn error(&self, problem: impl fmt::Display, remedy: &'static str) -> TlsError {
        TlsError { what: format!("{} {}: {problem}", self.key, self.path.display()), remedy }
    }

    fn read(&self) -> Result<Vec<u8>, TlsError> {
        read_bounded(&self.path)
            .map_err(|error| self.error(error, "give the path of a PEM file that this process may read"))
    }
}

fn read_bounded(path: &Path) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let read = std::fs::File::open(path)?.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes)?;
    if read as u64 > FILE_BYTES_MAX {
        return Err(std::io::Error::other("larger than 1 MiB"));
    }
    Ok(bytes)
}

/// The files of one use.
#[derive(Clone, Debug)]
pub(super) struct Files {
    pub(super) cert: Source,
    pub(super) key: Source,
    pub(super) ca: Option<Source>,
}

/// Their bytes.
pub(super) struct Contents {
    cert: Vec<u8>,
    key: Vec<u8>,
    ca: Option<Vec<u8>>,
}

/// What tells two contents apart.
pub(super) type Fingerprint = [u8; 32];

impl Files {
    /// `None` unless a certificate and its key are configured. Keys are called `<prefix>_cert_file` and so on; that of
    /// the authorities has `client_` where only the other side is meant.
    pub(super) fn new(prefix: &str, files: &TlsFiles) -> Option<Self> {
        let source =
            |name: &str, path: &PathBuf| Source { key: format!("{prefix}_{name}"), path: path.clone() };
        let ca = if prefix == "peer_tls" { "ca_file" } else { "client_ca_file" };
        Some(Self {
            cert: source("cert_file", files.cert.as_ref()?),
            key: source("key_file", files.key.as_ref()?),
            ca: files.ca.as_ref().map(|path| source(ca, path)),
        })
    }

    pub(super) fn read(&self) -> Result<Contents, TlsError> {
        let ca = self.ca.as_ref().map(Source::read).transpose()?;
        Ok(Contents { cert: self.cert.read()?, key: self.key.read()?, ca })
    }

    /// The chain, own certificate first, and when the first of them ends.
    pub(super) fn chain(
        &self,
        contents: &Contents,
    ) -> Result<(Vec<CertificateDer<'static>>, UnixMs), TlsError> {
        let chain = certificates(&self.cert, &contents.cert)?;
        let ends = chain.iter().filter_map(ends).min();
        let bad = || self.cert.error("not an X.509 certificate", "give the certificate in PEM");
        Ok((chain, ends.ok_or_else(bad)?))
    }

    pub(super) fn private_key(&self, contents: &Contents) -> Result<PrivateKeyDer<'static>, TlsError> {
        PrivateKeyDer::from_pem_slice(&contents.key).map_err(|_| {
            self.key.error("no private key in it", "give an unencrypted key in PEM (PKCS#8, SEC1 or PKCS#1)")
        })
    }

    /// The authorities; `None` if none are configured.
    pub(super) fn authorities(&self, contents: &Contents) -> Result<Option<RootCertStore>, TlsError> {
        let (Some(source), Some(bytes)) = (&self.ca, &contents.ca) else { return Ok(None) };
        let mut roots = RootCertStore::empty();
        for certificate in certificates(source, bytes)? {
            roots
                .add(certificate)
                .map_err(|error| source.error(error, "give certificates of authorities in PEM"))?;
        }
        Ok(Some(roots))
    }
}

impl Contents {
    pub(super) fn fingerprint(&self) -> Fingerprint {
        let mut hash = Sha256::new();
        for part in [Some(&self.cert), Some(&self.key), self.ca.as_ref()].into_iter().flatten() {
            hash.update((part.len() as u64).to_le_bytes());
            hash.update(part);
        }
        hash.finalize().into()
    }
}

fn certificates(source: &Source, bytes: &[u8]) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let remedy = "give certificates in PEM (-----BEGIN CERTIFICATE-----)";
    let all = CertificateDer::pem_slice_iter(bytes).collect::<Result<Vec<_>, _>>();
    let all = all.map_err(|error| source.error(format!("damaged PEM, {error}"), remedy))?;
    if all.is_empty() {
        return Err(source.error("no certificate in it", remedy));
    }
    Ok(all)
}

/// When a certificate ends.
fn ends(certificate: &CertificateDer<'_>) -> Option<UnixMs> {
    let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
    u64::try_from(parsed.validity().not_after.timestamp()).ok().map(|seconds| UnixMs(seconds * 1000))
}
