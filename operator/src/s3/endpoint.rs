//! Which endpoints may be connected to. An endpoint is a field of an object that many may write, and whoever runs the
//! request is in another place of the network than they are.
//!
//! Refused, by address and by name, before and after resolving: loopback, link-local (the clouds' metadata services),
//! unspecified, multicast and broadcast addresses, and their IPv6 forms. Private networks are not refused: most stores
//! that one runs oneself are there.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use aws_smithy_runtime_api::client::dns::{DnsFuture, ResolveDns, ResolveDnsError};
use http::Uri;

/// Checks an endpoint's text: `http` or `https`, a host, perhaps a port, nothing else.
///
/// # Errors
/// One line that says what is wrong.
pub fn check(endpoint: &str, refuse_local: bool) -> Result<(), String> {
    let uri: Uri = endpoint
        .parse()
        .map_err(|_| format!("endpoint {endpoint:?} is not a URL like https://s3.example:9000"))?;
    if !matches!(uri.scheme_str(), Some("http" | "https")) {
        return Err(format!("endpoint {endpoint:?} must begin with http:// or https://"));
    }
    let authority = uri.authority().map(http::uri::Authority::as_str).unwrap_or_default();
    if authority.is_empty() || authority.contains('@') {
        return Err(format!("endpoint {endpoint:?} must name a host, without a user"));
    }
    if uri.path() != "/" || uri.query().is_some() || endpoint.contains('#') {
        return Err(format!("endpoint {endpoint:?} must end behind its host and port"));
    }
    if !refuse_local {
        return Ok(());
    }
    let host = uri.host().unwrap_or_default();
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    let name = bare.trim_end_matches('.').to_ascii_lowercase();
    if name == "localhost" || name.ends_with(".localhost") || name == "metadata.google.internal" {
        return Err(refused(host));
    }
    // 127.1 or 0x7f000001 are addresses for some resolvers: a host whose last label begins with a digit must be a
    // whole address.
    let last = name.rsplit('.').next().unwrap_or_default();
    match bare.parse::<IpAddr>() {
        Ok(address) if is_local(address) => Err(refused(host)),
        Err(_) if last.starts_with(|first: char| first.is_ascii_digit()) => Err(refused(host)),
        Ok(_) | Err(_) => Ok(()),
    }
}

fn refused(host: &str) -> String {
    format!(
        "endpoint host {host:?} is refused: it is this machine or a metadata service; an operator started with --allow-local-endpoints takes it"
    )
}

/// True for addresses that mean this machine, this link, or no one machine.
#[must_use]
pub fn is_local(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => is_local_v4(v4),
        IpAddr::V6(v6) => is_local_v6(v6),
    }
}

fn is_local_v4(address: Ipv4Addr) -> bool {
    address.is_loopback()
        || address.is_link_local()
        || address.is_unspecified()
        || address.is_multicast()
        || address.is_broadcast()
        || address.octets()[0] == 0
}

fn is_local_v6(address: Ipv6Addr) -> bool {
    let mapped = address.to_ipv4().filter(|_| address.segments()[..5] == [0; 5]);
    // 64:ff9b::/96 leads to IPv4 through a gateway.
    let translated = (address.segments()[..6] == [0x64, 0xff9b, 0, 0, 0, 0]).then(|| {
        let [.., a, b, c, d] = address.octets();
        Ipv4Addr::new(a, b, c, d)
    });
    let metadata = address == Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254);
    address.is_loopback()
        || address.is_unspecified()
        || address.is_multicast()
        || address.is_unicast_link_local()
        || metadata
        || mapped.or(translated).is_some_and(is_local_v4)
}

/// The system's resolver, behind the rules: a name that resolves to a refused address is not connected to.
#[derive(Clone, Debug)]
pub(super) struct Guarded {
    pub(super) refuse_local: bool,
}

impl ResolveDns for Guarded {
    fn resolve_dns<'a>(&'a self, name: &'a str) -> DnsFuture<'a> {
        let refuse_local = self.refuse_local;
        let name: Arc<str> = name.into();
        DnsFuture::new(async move {
            let found = tokio::net::lookup_host((&*name, 0)).await.map_err(ResolveDnsError::new)?;
            let addresses: Vec<IpAddr> = found.map(|address: SocketAddr| address.ip()).collect();
            if refuse_local && addresses.iter().any(|address| is_local(*address)) {
                return Err(ResolveDnsError::new(refused(&name)));
            }
            Ok(addresses)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_plain_urls_of_other_machines_pass() {
        for good in [
            "https://s3.eu-central-1.amazonaws.com",
            "http://minio.storage.svc:9000",
            "http://10.0.0.5:9000/",
            "https://[2001:db8::1]:443",
        ] {
            assert_eq!(check(good, true), Ok(()), "{good}");
        }
        for local in [
            "http://127.0.0.1:9000",
            "http://127.1:9000",
            "http://0x7f000001",
            "http://2130706433",
            "http://localhost:9000",
            "http://a.localhost.",
            "http://169.254.169.254",
            "http://[::1]:9000",
            "http://[::ffff:127.0.0.1]",
            "http://[::127.0.0.1]",
            "http://[64:ff9b::a9fe:a9fe]",
            "http://[fe80::1]",
            "http://[fd00:ec2::254]",
            "http://0.0.0.0:80",
            "http://metadata.google.internal",
        ] {
            let error = check(local, true).unwrap_err();
            assert!(error.contains("refused"), "{local}: {error}");
        }
        assert_eq!(check("http://127.0.0.1:9000", false), Ok(()));
        for wrong in [
            "ftp://host",
            "host:9000",
            "https://user:secret@host",
            "https://host/path",
            "https://host/?q=1",
            "https://host#x",
            "https://",
            "",
        ] {
            assert!(check(wrong, false).is_err(), "{wrong}");
        }
    }

    #[tokio::test]
    async fn a_name_that_resolves_to_this_machine_is_not_connected_to() {
        let guard = Guarded { refuse_local: true };
        assert!(guard.resolve_dns("localhost").await.is_err());
        let open = Guarded { refuse_local: false };
        assert!(open.resolve_dns("localhost").await.is_ok_and(|found| found.iter().all(IpAddr::is_loopback)));
    }
}
