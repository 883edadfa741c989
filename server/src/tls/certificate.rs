//! What the other side's certificate says, after the handshake has verified it.
//!
//! ```text
//! handshake: chain, authority, dates, key --> Certificate -- is_for(host)      peers: is it the member that it says it is
//!                                                         |- user_names(by)    clients: which user of the ACL
//!                                                         `- subject()         a name for log lines
//! ```
//!
//! Invariant: nothing here trusts a certificate; only a stream whose handshake asked for one and verified it gives one.

use rustls::client::verify_server_name;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::server::ParsedCertificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::TlsStream;
use crate::config::CertificateUser;

/// Names of one certificate that are looked at.
const NAMES_MAX: usize = 16;
/// Bytes of a subject in a log line.
const SUBJECT_BYTES_MAX: usize = 128;

/// A verified certificate of the other side.
#[derive(Clone)]
pub struct Certificate(CertificateDer<'static>);

impl std::fmt::Debug for Certificate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Certificate({})", self.subject())
    }
}

impl Certificate {
    /// That of a stream behind its handshake, if the other side showed one.
    #[must_use]
    pub fn shown_by(stream: &TlsStream) -> Option<Self> {
        let shown = stream.get_ref().1.peer_certificates()?.first()?;
        Some(Self(shown.clone().into_owned()))
    }

    /// Whether it is valid for this host name or address, by the rules of HTTPS: alternative names only, wildcards in
    /// the first label.
    #[must_use]
    pub fn is_for(&self, host: &str) -> bool {
        let Ok(name) = ServerName::try_from(host) else { return false };
        ParsedCertificate::try_from(&self.0).is_ok_and(|parsed| verify_server_name(&parsed, &name).is_ok())
    }

    /// The names that may be those of a user, in the order of the certificate.
    #[must_use]
    pub fn user_names(&self, by: CertificateUser) -> Vec<String> {
        let Ok((_, parsed)) = X509Certificate::from_der(&self.0) else { return Vec::new() };
        match by {
            CertificateUser::Off => Vec::new(),
            CertificateUser::CommonName => common_name(&parsed).into_iter().collect(),
            CertificateUser::AlternativeName => {
                let Ok(Some(names)) = parsed.subject_alternative_name() else { return Vec::new() };
                let text = |name: &GeneralName<'_>| match name {
                    GeneralName::DNSName(text) | GeneralName::RFC822Name(text) | GeneralName::URI(text) => {
                        Some((*text).to_owned())
                    }
                    _ => None,
                };
                names.value.general_names.iter().filter_map(text).take(NAMES_MAX).collect()
            }
        }
    }

    /// Its common name, else its first alternative name, else nothing; short, for log lines.
    #[must_use]
    pub fn subject(&self) -> String {
        let by_common_name = self.user_names(CertificateUser::CommonName);
        let mut names = by_common_name.into_iter().chain(self.user_names(CertificateUser::AlternativeName));
        let name = names.next().unwrap_or_default();
        name.chars().filter(|letter| !letter.is_control()).take(SUBJECT_BYTES_MAX).collect()
    }
}

/// The first one, as Redis takes it.
fn common_name(certificate: &X509Certificate<'_>) -> Option<String> {
    let name = certificate.subject().iter_common_name().next()?;
    name.as_str().ok().map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair, SanType};

    use super::*;

    fn certificate(common_names: &[&str], names: Vec<SanType>) -> Certificate {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name = DistinguishedName::new();
        for name in common_names {
            params.distinguished_name.push(DnType::CommonName, *name);
        }
        params.subject_alt_names = names;
        let signed = params.self_signed(&KeyPair::generate().unwrap()).unwrap();
        Certificate(signed.der().clone())
    }

    fn dns(name: &str) -> SanType {
        SanType::DnsName(name.try_into().unwrap())
    }

    #[test]
    fn a_certificate_is_for_its_alternative_names_and_never_for_its_common_name() {
        let names = vec![dns("a.example"), dns("*.pods.example"), SanType::IpAddress([127, 0, 0, 9].into())];
        let certificate = certificate(&["b.example"], names);
        for host in ["a.example", "A.EXAMPLE", "x.pods.example", "127.0.0.9"] {
            assert!(certificate.is_for(host), "{host}");
        }
        for host in
            ["b.example", "x.a.example", "x.y.pods.example", "pods.example", "127.0.0.8", "", "*", "a b"]
        {
            assert!(!certificate.is_for(host), "{host}");
        }
    }

    #[test]
    fn users_are_named_by_the_common_name_or_by_alternative_names_in_order() {
        let names = vec![
            SanType::IpAddress([1, 2, 3, 4].into()),
            SanType::Rfc822Name("app@example".try_into().unwrap()),
            dns("app.example"),
            SanType::URI("spiffe://cluster/app".try_into().unwrap()),
        ];
        let shown = certificate(&["app"], names);
        assert_eq!(shown.user_names(CertificateUser::Off), [""; 0]);
        assert_eq!(shown.user_names(CertificateUser::CommonName), ["app"]);
        let expected = ["app@example", "app.example", "spiffe://cluster/app"];
        assert_eq!(shown.user_names(CertificateUser::AlternativeName), expected);
        assert_eq!(shown.subject(), "app");
        let many = certificate(&[], (0..100).map(|n| dns(&format!("n{n}.example"))).collect());
        assert_eq!(many.user_names(CertificateUser::AlternativeName).len(), NAMES_MAX);
        assert_eq!(many.user_names(CertificateUser::CommonName), [""; 0]);
        assert_eq!(many.subject(), "n0.example");
        assert_eq!(certificate(&["a\nb"], Vec::new()).subject(), "ab", "nothing forges a line");
    }
}
