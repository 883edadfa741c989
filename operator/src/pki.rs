//! Certificates of a cluster: an authority of its own, and the one certificate that its pods share. Pure but for random
//! numbers and the signing.
//!
//! ```text
//! <name>-ca    authority, 10 years     signs what belongs to this cluster, and nothing else
//! <name>-tls   certificate, 90 days    *.<name>-raft.<namespace>.svc, the Services; as server and as client
//! (memory)     certificate, 30 days    the operator, towards the admin ports
//! ```
//!
//! Invariants
//! - A private key is in its Secret and in this process, nowhere else: no text of an error or a log has it.
//! - Another authority is trusted by all before it signs anything ([`Chain`]; `apply/authority.rs` has the steps).
//! - A certificate is renewed when two thirds of its life are over, when its authority or its names are others, and when
//!   it cannot be read.

use std::time::Duration;

use jiff::Timestamp;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, date_time_ymd,
};
use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use sha2::{Digest as _, Sha256};
use x509_parser::prelude::{FromDer as _, X509Certificate};

use crate::name::ClusterName;

const DAY: Duration = Duration::from_hours(24);
const AUTHORITY_LIFE: Duration = DAY.saturating_mul(3650);
const CERTIFICATE_LIFE: Duration = DAY.saturating_mul(90);
const OPERATOR_LIFE: Duration = DAY.saturating_mul(30);
/// Certificates begin a little earlier: clocks differ.
const CLOCKS_DIFFER: Duration = Duration::from_mins(5);

/// A certificate and its private key, PEM.
#[derive(Clone, PartialEq, Eq)]
pub struct Pair {
    /// Certificate, or chain with the own one first.
    pub cert: String,
    /// Private key.
    pub key: String,
}

impl std::fmt::Debug for Pair {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Pair(..)")
    }
}

/// What signs, and what is trusted beside it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chain {
    /// Signs.
    pub current: Pair,
    /// Signs next.
    pub next: Option<Pair>,
    /// Certificate of the one that signed before.
    pub previous: Option<String>,
}

impl Chain {
    /// What is trusted: `ca.crt`.
    #[must_use]
    pub fn trusted(&self) -> String {
        let next = self.next.as_ref().map(|next| next.cert.as_str());
        let all = [Some(self.current.cert.as_str()), next, self.previous.as_deref()];
        all.into_iter().flatten().collect()
    }
}

/// What tells two certificates apart: SHA-256 of the first one's DER.
pub type Fingerprint = [u8; 32];

/// Why a certificate cannot be made.
#[derive(Debug, thiserror::Error)]
#[error("make a certificate: {0}")]
pub struct PkiError(#[from] rcgen::Error);

fn params(
    names: Vec<String>,
    title: &str,
    now: Timestamp,
    life: Duration,
) -> Result<CertificateParams, PkiError> {
    let mut params = CertificateParams::new(names)?;
    let since = Duration::from_secs(u64::try_from(now.as_second()).unwrap_or(0));
    let now = date_time_ymd(1970, 1, 1) + since;
    params.not_before = now - CLOCKS_DIFFER;
    params.not_after = now + life;
    params.distinguished_name.push(DnType::CommonName, title);
    Ok(params)
}

/// A new authority for a cluster.
///
/// # Errors
/// No random numbers.
pub fn authority(cluster: &ClusterName, now: Timestamp) -> Result<Pair, PkiError> {
    let title = format!("kvnode {}/{}", cluster.namespace, cluster.name);
    let mut params = params(Vec::new(), &title, now, AUTHORITY_LIFE)?;
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let key = KeyPair::generate()?;
    Ok(Pair { cert: params.self_signed(&key)?.pem(), key: key.serialize_pem() })
}

/// The certificate of the pods.
///
/// # Errors
/// A name that no certificate can have, or an authority that cannot be read.
pub fn of_pods(authority: &Pair, names: Vec<String>, now: Timestamp) -> Result<Pair, PkiError> {
    signed(authority, names, "kvnode", now, CERTIFICATE_LIFE)
}

/// The operator's own certificate.
///
/// # Errors
/// An authority that cannot be read.
pub fn of_operator(authority: &Pair, now: Timestamp) -> Result<Pair, PkiError> {
    signed(authority, Vec::new(), "kvnode-operator", now, OPERATOR_LIFE)
}

fn signed(
    authority: &Pair,
    names: Vec<String>,
    title: &str,
    now: Timestamp,
    life: Duration,
) -> Result<Pair, PkiError> {
    let issuer = Issuer::from_ca_cert_pem(&authority.cert, KeyPair::from_pem(&authority.key)?)?;
    let mut params = params(names, title, now, life)?;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params.use_authority_key_identifier_extension = true;
    let key = KeyPair::generate()?;
    Ok(Pair { cert: params.signed_by(&key, &issuer)?.pem(), key: key.serialize_pem() })
}

/// From when to when the first certificate of a PEM text is valid; `None` if there is none that can be read.
#[must_use]
pub fn life(cert: &str) -> Option<(Timestamp, Timestamp)> {
    let der = first(cert)?;
    let (_, parsed) = X509Certificate::from_der(&der).ok()?;
    let at = |seconds| Timestamp::from_second(seconds).ok();
    Some((at(parsed.validity().not_before.timestamp())?, at(parsed.validity().not_after.timestamp())?))
}

/// Whether two thirds of its life are over, or it cannot be read.
#[must_use]
pub fn is_due(cert: &str, now: Timestamp) -> bool {
    let Some((from, to)) = life(cert) else { return true };
    let (life, spent) = (to.as_second() - from.as_second(), now.as_second() - from.as_second());
    spent.saturating_mul(3) >= life.saturating_mul(2)
}

/// The authorities of a `ca.crt`.
///
/// # Errors
/// What is wrong with it, without its content.
pub fn authorities(ca: &str) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(ca.as_bytes()) {
        let certificate = certificate.map_err(|_| "ca.crt is no PEM")?;
        roots.add(certificate).map_err(|error| format!("ca.crt: {error}"))?;
    }
    if roots.is_empty() { Err("ca.crt has no certificate".to_owned()) } else { Ok(roots) }
}

/// Fingerprint of the first certificate of a PEM text.
#[must_use]
pub fn fingerprint(cert: &str) -> Option<Fingerprint> {
    first(cert).map(|der| fingerprint_of(&der))
}

/// Fingerprint of a certificate.
#[must_use]
pub fn fingerprint_of(der: &CertificateDer<'_>) -> Fingerprint {
    Sha256::digest(der).into()
}

fn first(cert: &str) -> Option<CertificateDer<'static>> {
    CertificateDer::from_pem_slice(cert.as_bytes()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cluster() -> ClusterName {
        ClusterName { namespace: "shop".into(), name: "cart".into() }
    }

    fn days(now: Timestamp, count: i64) -> Timestamp {
        Timestamp::from_second(now.as_second() + count * 86_400).unwrap()
    }

    #[test]
    fn certificates_are_due_after_two_thirds_of_their_life() {
        let now = Timestamp::from_second(1_800_000_000).unwrap();
        let own = authority(&cluster(), now).unwrap();
        let pair = of_pods(&own, vec!["*.cart-raft.shop.svc".into(), "127.0.0.1".into()], now).unwrap();
        let (from, to) = life(&pair.cert).unwrap();
        assert_eq!((to.as_second() - from.as_second()) / 86_400, 90);
        assert!(from < now, "clocks that are behind take it");
        assert!(!is_due(&pair.cert, days(now, 59)) && is_due(&pair.cert, days(now, 60)));
        assert!(!is_due(&own.cert, days(now, 2400)) && is_due(&own.cert, days(now, 2434)));
        assert!(is_due("rubbish", now));
    }

    #[test]
    fn keys_do_not_get_into_texts() {
        let now = Timestamp::from_second(1_800_000_000).unwrap();
        let own = authority(&cluster(), now).unwrap();
        assert_eq!(format!("{own:?}"), "Pair(..)");
        let bad = Pair { cert: own.cert.clone(), key: "-----BEGIN x-----secret".into() };
        let error = of_operator(&bad, now).unwrap_err().to_string();
        assert!(!error.contains("secret"), "{error}");
    }

    #[test]
    fn two_certificates_have_two_fingerprints() {
        let now = Timestamp::from_second(1_800_000_000).unwrap();
        let own = authority(&cluster(), now).unwrap();
        let (a, b) = (of_operator(&own, now).unwrap(), of_operator(&own, now).unwrap());
        assert_ne!(fingerprint(&a.cert).unwrap(), fingerprint(&b.cert).unwrap());
        assert_eq!(fingerprint(&a.cert), fingerprint(&a.cert));
    }
}
