//! Text to values: sizes, durations, counts, addresses. Each error says what is wrong with the text, nothing else.

use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::time::Duration;

/// Suffixes of sizes, longest match first.
const SIZES: [(&str, u64); 13] = [
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("TiB", 1 << 40),
    ("kB", 1_000),
    ("KB", 1_000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("Ki", 1 << 10),
    ("Mi", 1 << 20),
    ("Gi", 1 << 30),
    ("Ti", 1 << 40),
    ("B", 1),
];

/// Suffixes of durations, in microseconds, longest match first.
const DURATIONS: [(&str, u64); 5] =
    [("us", 1), ("ms", 1_000), ("s", 1_000_000), ("m", 60_000_000), ("h", 3_600_000_000)];

fn digits(text: &str) -> Option<u64> {
    // `parse` would take a sign.
    if text.bytes().all(|b| b.is_ascii_digit()) { text.parse().ok() } else { None }
}

/// A whole number.
///
/// # Errors
/// The text is not one, or beyond 2^64 - 1.
pub fn count(text: &str) -> Result<u64, String> {
    digits(text).ok_or_else(|| "not a whole number".into())
}

/// A size: `64MiB`, `10Gi`, `64MB` (decimal), `4096`.
///
/// # Errors
/// No number, an unknown unit, or beyond 2^64 - 1 bytes.
pub fn bytes(text: &str) -> Result<u64, String> {
    let (number, factor) = SIZES
        .iter()
        .find_map(|(suffix, factor)| Some((text.strip_suffix(suffix)?, *factor)))
        .unwrap_or((text, 1));
    let number = digits(number.trim_end()).ok_or("not a size such as 64MiB")?;
    number.checked_mul(factor).ok_or_else(|| "too large".into())
}

/// A duration with its unit: `350ms`, `5s`; a bare `0` needs none.
///
/// # Errors
/// No number, no unit, or beyond 2^64 - 1 microseconds.
pub fn duration(text: &str) -> Result<Duration, String> {
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    let (number, factor) = DURATIONS
        .iter()
        .find_map(|(suffix, factor)| Some((text.strip_suffix(suffix)?, *factor)))
        .ok_or("needs a unit, such as 350ms or 5s")?;
    let number = digits(number.trim_end()).ok_or("not a duration such as 350ms")?;
    number.checked_mul(factor).map(Duration::from_micros).ok_or_else(|| "too long".into())
}

/// The shortest exact text of a size.
#[must_use]
pub fn show_bytes(bytes: u64) -> String {
    for (unit, size) in [("TiB", 1u64 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)] {
        if bytes >= size && bytes.is_multiple_of(size) {
            return format!("{}{unit}", bytes / size);
        }
    }
    bytes.to_string()
}

/// The shortest exact text of a duration, to the microsecond.
#[must_use]
pub fn show_duration(duration: Duration) -> String {
    let micros = duration.as_micros();
    for (unit, size) in [("h", 3_600_000_000), ("m", 60_000_000), ("s", 1_000_000), ("ms", 1_000)] {
        if micros >= size && micros.is_multiple_of(size) {
            return format!("{}{unit}", micros / size);
        }
    }
    if micros == 0 { "0".into() } else { format!("{micros}us") }
}

/// An address to listen on. A host name is resolved now; of several addresses an IPv4 one is preferred.
///
/// # Errors
/// No host, no port, or the name does not resolve.
pub fn listen_addr(text: &str) -> Result<SocketAddr, String> {
    if let Ok(addr) = text.parse() {
        return Ok(addr);
    }
    let (host, port) = split(text)?;
    let port = port.parse::<u16>().map_err(|_| format!("port {port:?} is not 0 to 65535"))?;
    let found: Vec<SocketAddr> = (host, port)
        .to_socket_addrs()
        .map_err(|e| format!("host {host:?} does not resolve ({e})"))?
        .collect();
    let first = found.iter().find(|a| a.is_ipv4()).or(found.first());
    first.copied().ok_or_else(|| format!("host {host:?} has no address"))
}

/// An address that others dial: `host:port`, name or IP, port not 0. Names are kept, they are resolved at each dial.
///
/// # Errors
/// Not of that form, or an address such as 0.0.0.0 that nobody can dial.
pub fn dial_addr(text: &str) -> Result<String, String> {
    let (host, port) = split(text)?;
    match port.parse::<u16>() {
        Ok(1..) => {}
        _ => return Err(format!("port {port:?} is not 1 to 65535")),
    }
    let bare = host.strip_prefix('[').and_then(|h| h.strip_suffix(']')).unwrap_or(host);
    if let Ok(ip) = bare.parse::<IpAddr>() {
        if ip.is_unspecified() {
            return Err(format!("nobody can dial {ip}"));
        }
        // Without brackets nobody can tell where an IPv6 address ends and the port begins.
        if ip.is_ipv6() == (bare.len() == host.len()) {
            return Err(format!("host {host:?}: brackets belong round an IPv6 address, and only there"));
        }
        return Ok(text.to_owned());
    }
    let name = host.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_'));
    if !name || host.len() > 253 {
        return Err(format!("host {host:?} is neither a name nor an IP address"));
    }
    Ok(text.to_owned())
}

fn split(text: &str) -> Result<(&str, &str), String> {
    let (host, port) = text.rsplit_once(':').ok_or("has no port: write host:port")?;
    if host.is_empty() {
        return Err("has no host: write 127.0.0.1 for this machine, 0.0.0.0 for every interface".into());
    }
    Ok((host, port))
}
