//! The table of keys: name, documentation, how to read one and how to show one. Everything that lists keys (the file,
//! the environment, `config.example.yaml`, `check-config`, CONFIG GET) walks it.

use std::fmt::Write as _;
use std::path::PathBuf;

use super::load::Draft;
use super::{
    CertificateUser, ClientAuth, Config, Consistency, Durability, Formation, LogFormat, PeerTls, ReadPolicy,
    Redirect, RestoreMissing, units,
};

/// One key.
pub struct Key {
    /// Name, snake case.
    pub name: &'static str,
    /// What it does, one sentence or two.
    pub doc: &'static str,
    /// What is allowed, to follow "allowed: ".
    pub allowed: &'static str,
    /// Text of a default that depends on other keys; `None` = the one of [`Config::default`].
    pub derived: Option<&'static str>,
    /// Reads a value into the draft.
    pub(super) set: fn(&mut Draft, &str) -> Result<(), String>,
    /// Shows the value; empty = not set.
    show: fn(&Config) -> String,
}

impl Key {
    /// The row of a name.
    #[must_use]
    pub fn find(name: &str) -> Option<&'static Key> {
        KEYS.iter().find(|key| key.name == name)
    }

    /// The value in a configuration, in the form that the file takes; empty = not set.
    #[must_use]
    pub fn show(&self, config: &Config) -> String {
        (self.show)(config)
    }

    /// `KVNODE_LOG_DIR`.
    #[must_use]
    pub fn variable(&self) -> String {
        format!("KVNODE_{}", self.name.to_ascii_uppercase())
    }
}

/// One of a set of words.
trait Word: Copy + PartialEq + 'static {
    /// All words; the first one of a value is how it is shown.
    const WORDS: &'static [(&'static str, Self)];

    fn read(text: &str) -> Result<Self, String> {
        let found = Self::WORDS.iter().find(|(word, _)| *word == text);
        found.map(|(_, value)| *value).ok_or_else(|| "not one of the words".into())
    }

    fn word(self) -> String {
        let found = Self::WORDS.iter().find(|(_, value)| *value == self);
        found.map_or_else(String::new, |(word, _)| (*word).to_owned())
    }
}

impl Word for bool {
    const WORDS: &'static [(&'static str, Self)] =
        &[("true", true), ("yes", true), ("false", false), ("no", false)];
}

impl Word for Consistency {
    const WORDS: &'static [(&'static str, Self)] =
        &[("low", Self::Low), ("medium", Self::Medium), ("med", Self::Medium), ("high", Self::High)];
}

impl Word for Durability {
    const WORDS: &'static [(&'static str, Self)] =
        &[("low", Self::Low), ("medium", Self::Medium), ("med", Self::Medium), ("high", Self::High)];
}

impl Word for Formation {
    const WORDS: &'static [(&'static str, Self)] = &[("auto", Self::Auto), ("wait", Self::Wait)];
}

impl Word for RestoreMissing {
    const WORDS: &'static [(&'static str, Self)] = &[("error", Self::Error), ("wait", Self::Wait)];
}

impl Word for Redirect {
    const WORDS: &'static [(&'static str, Self)] =
        &[("forward", Self::Forward), ("moved", Self::Moved), ("try", Self::Try)];
}

impl Word for ReadPolicy {
    const WORDS: &'static [(&'static str, Self)] = &[("strict", Self::Strict), ("lease", Self::Lease)];
}

impl Word for ClientAuth {
    const WORDS: &'static [(&'static str, Self)] =
        &[("no", Self::No), ("optional", Self::Optional), ("require", Self::Require)];
}

impl Word for CertificateUser {
    const WORDS: &'static [(&'static str, Self)] = &[
        ("off", Self::Off),
        ("cn", Self::CommonName),
        ("CN", Self::CommonName),
        ("san", Self::AlternativeName),
        ("SAN", Self::AlternativeName),
    ];
}

impl Word for PeerTls {
    const WORDS: &'static [(&'static str, Self)] =
        &[("off", Self::Off), ("optional", Self::Optional), ("required", Self::Required)];
}

impl Word for LogFormat {
    const WORDS: &'static [(&'static str, Self)] = &[("text", Self::Text), ("json", Self::Json)];
}

fn path(text: &str) -> Result<PathBuf, String> {
    if text.is_empty() { Err("an empty path".into()) } else { Ok(text.into()) }
}

/// A value within its range, converted to the type of its field.
fn within<T: TryFrom<u64>>(value: u64, min: u64, max: u64) -> Result<T, String> {
    if value < min || value > max {
        return Err("out of range".into());
    }
    T::try_from(value).map_err(|_| "too large for this machine".into())
}

/// One row. The forms: a word, a file that may be left out, a count, a size, a duration.
macro_rules! key {
    (file $name:ident, $($field:ident).+, $doc:literal) => {
        Key {
            name: stringify!($name), doc: $doc, allowed: "a path", derived: None,
            set: |d, text| { d.config.$($field).+ = Some(path(text)?); Ok(()) },
            show: |c| c.$($field).+.as_ref().map_or_else(String::new, |p| p.display().to_string()),
        }
    };
    (word $name:ident, $($field:ident).+, $allowed:literal, $derived:expr, $doc:literal) => {
        Key {
            name: stringify!($name), doc: $doc, allowed: $allowed, derived: $derived,
            set: |d, text| { d.config.$($field).+ = Word::read(text)?; Ok(()) },
            show: |c| c.$($field).+.word(),
        }
    };
    (count $name:ident, $($field:ident).+, $min:literal, $max:literal, $doc:literal) => {
        Key {
            name: stringify!($name), doc: $doc, derived: None,
            allowed: concat!("a number, ", $min, " to ", $max),
            set: |d, text| { d.config.$($field).+ = within(units::count(text)?, $min, $max)?; Ok(()) },
            show: |c| c.$($field).+.to_string(),
        }
    };
    (size $name:ident, $($field:ident).+, $min:literal, $max:literal, $derived:expr, $doc:literal) => {
        Key {
            name: stringify!($name), doc: $doc, derived: $derived,
            allowed: concat!("a size, ", $min, " to ", $max),
            set: |d, text| {
                let (min, max) = (units::bytes($min)?, units::bytes($max)?);
                d.config.$($field).+ = within(units::bytes(text)?, min, max)?;
                Ok(())
            },
            show: |c| units::show_bytes(c.$($field).+ as u64),
        }
    };
    (time $name:ident, $($field:ident).+, $min:literal, $max:literal, $doc:literal) => {
        Key {
            name: stringify!($name), doc: $doc, derived: None,
            allowed: concat!("a duration, ", $min, " to ", $max),
            set: |d, text| {
                let value = units::duration(text)?;
                if value < units::duration($min)? || value > units::duration($max)? {
                    return Err("out of range".into());
                }
                d.config.$($field).+ = value;
                Ok(())
            },
            show: |c| units::show_duration(c.$($field).+),
        }
    };
}

/// Every key, in the order of `config.example.yaml`.
pub static KEYS: &[Key] = &[
    Key {
        name: "addr",
        doc: "Where clients connect. A name is resolved once, at start. off = only by TLS, at tls_addr.",
        allowed: "host:port, off",
        derived: None,
        set: |d, text| {
            d.config.tls_only = matches!(text, "" | "off");
            if !d.config.tls_only {
                d.config.addr = units::listen_addr(text)?;
            }
            Ok(())
        },
        show: |c| if c.tls_only { "off".into() } else { c.addr.to_string() },
    },
    Key {
        name: "peer_addr",
        doc: "Where the other nodes connect.",
        allowed: "host:port",
        derived: Some("the client port + 10000; 0 if that is 0"),
        set: |d, text| {
            d.peer_addr = Some(units::listen_addr(text)?);
            Ok(())
        },
        show: |c| c.peer_addr.to_string(),
    },
    Key {
        name: "http_addr",
        doc: "Where the admin API listens: health, metrics, /v1. Without http_tls_client_ca_file everybody who reaches \
              it may do everything: keep it inside.",
        allowed: "host:port",
        derived: Some("the client port + 20000; 0 if that is 0"),
        set: |d, text| {
            d.http_addr = Some(units::listen_addr(text)?);
            Ok(())
        },
        show: |c| c.http_addr.to_string(),
    },
    Key {
        name: "tls_addr",
        doc: "Where clients connect by TLS (1.2 or 1.3).",
        allowed: "host:port",
        derived: None,
        set: |d, text| {
            d.config.tls_addr = Some(units::listen_addr(text)?);
            Ok(())
        },
        show: |c| c.tls_addr.map_or_else(String::new, |addr| addr.to_string()),
    },
    key!(file tls_cert_file, tls.clients.cert,
        "Certificate that clients are shown at tls_addr: PEM, the node's own first, then those between it and its \
         authority. All certificate and key files are read again when their bytes change."),
    key!(file tls_key_file, tls.clients.key, "Private key of tls_cert_file, PEM."),
    key!(file tls_client_ca_file, tls.clients.ca, "Authorities that sign the certificates of clients, PEM."),
    key!(word tls_client_auth, tls.client_auth, "no, optional, require", None,
        "Whether clients are asked for a certificate of tls_client_ca_file at tls_addr."),
    key!(word tls_client_auth_user, tls.client_user, "off, cn, san", None,
        "Whose login a client's verified certificate is: cn = that of the user with its common name, san = that of the \
         first user with one of its alternative names (DNS, e-mail, URI), without AUTH. A name that no enabled user has \
         leaves the client as it would be without a certificate."),
    key!(word peer_tls, tls.peer_tls, "off, optional, required", None,
        "Mutual TLS between the nodes. required = nothing else; optional = TLS with every node that speaks it, the \
         others in the clear: for the way from off to required, one node after another."),
    key!(file peer_tls_cert_file, tls.peers.cert,
        "Certificate of this node towards the others, for both directions, PEM. It must be valid for the host of \
         advertise_peer_addr; while a member moves to another host, for both."),
    key!(file peer_tls_key_file, tls.peers.key, "Private key of peer_tls_cert_file, PEM."),
    key!(file peer_tls_ca_file, tls.peers.ca,
        "Authorities that sign the certificates of the nodes of this cluster, and of nobody else, PEM."),
    key!(file http_tls_cert_file, tls.http.cert, "Certificate of the admin API, PEM; with it, http_addr speaks TLS."),
    key!(file http_tls_key_file, tls.http.key, "Private key of http_tls_cert_file, PEM."),
    key!(file http_tls_client_ca_file, tls.http.ca,
        "Authorities that sign the certificates of the admin API's callers, PEM. With it, everything but /livez, \
         /readyz and /startupz asks for such a certificate."),
    Key {
        name: "advertise_addr",
        doc: "The client address that clients and members are told; names are resolved again at each dial. \
              Needed when addr is 0.0.0.0.",
        allowed: "host:port, port not 0",
        derived: Some("addr, or tls_addr where addr is off"),
        set: |d, text| {
            d.config.advertise_addr = Some(units::dial_addr(text)?);
            Ok(())
        },
        show: |c| c.advertise_addr.clone().unwrap_or_default(),
    },
    Key {
        name: "advertise_peer_addr",
        doc: "The peer address that members are told; names are resolved again at each dial.",
        allowed: "host:port, port not 0",
        derived: Some("peer_addr, or the host of advertise_addr when peer_addr is 0.0.0.0"),
        set: |d, text| {
            d.config.advertise_peer_addr = Some(units::dial_addr(text)?);
            Ok(())
        },
        show: |c| c.advertise_peer_addr.clone().unwrap_or_default(),
    },
    Key {
        name: "data",
        doc: "Data directory.",
        allowed: "a path",
        derived: None,
        set: |d, text| {
            d.config.data = path(text)?;
            Ok(())
        },
        show: |c| c.data.display().to_string(),
    },
    Key {
        name: "log_dir",
        doc: "Directory of the Raft log and of snapshots/; a disk of its own makes writes steadier.",
        allowed: "a path",
        derived: Some("data"),
        set: |d, text| {
            d.log_dir = Some(path(text)?);
            Ok(())
        },
        show: |c| c.log_dir.display().to_string(),
    },
    Key {
        name: "join",
        doc: "Members of the cluster to join, a list or separated by commas: their client addresses (their peer port is \
              taken to be 10000 higher, else they are asked), or their peer addresses. Only read while the data \
              directory is empty.",
        allowed: "host:port[,host:port...]",
        derived: None,
        set: |d, text| {
            let parts = text.split(',').map(str::trim).filter(|part| !part.is_empty());
            d.config.join = parts.map(units::dial_addr).collect::<Result<_, _>>()?;
            Ok(())
        },
        show: |c| c.join.join(","),
    },
    Key {
        name: "restore",
        doc: "A state.bin to found a new cluster from, once; later starts find it done.",
        allowed: "a path",
        derived: None,
        set: |d, text| {
            d.config.restore = Some(path(text)?);
            Ok(())
        },
        show: |c| c.restore.as_ref().map_or_else(String::new, |p| p.display().to_string()),
    },
    key!(word restore_missing, restore_missing, "error, wait", None,
        "What it means that the file of restore is not there: error = the node does not start; wait = it stays unformed, \
         for sets of nodes of which only the founder has the file."),
    Key {
        name: "formation",
        doc: "What a node with an empty data directory and nobody to join does: auto founds a one-node cluster, wait \
              stays unformed until told over the admin API.",
        allowed: "auto, wait",
        derived: Some("auto when addr is loopback, else wait"),
        set: |d, text| {
            d.formation = Some(Word::read(text)?);
            Ok(())
        },
        show: |c| c.formation.word(),
    },
    key!(word consistency, consistency, "low, medium (or med), high", None,
        "How fresh reads are: high = linearizable; medium = the leader's state, possibly stale; low = this node's \
         state, stale without bound."),
    key!(word durability, durability, "low, medium (or med), high", None,
        "When a write is on disk: high = before the reply; medium = within a second; low = when the kernel likes. \
         Votes are synced at every level."),
    key!(word redirect, redirect, "forward, moved, try", None,
        "What a follower does with a command that only the leader can serve: forward it, or answer -MOVED (Redis \
         Cluster clients) or -TRY."),
    key!(word read_policy, read_policy, "strict, lease", None,
        "How a high read is confirmed: strict asks a quorum, lease trusts the leader's clock rate."),
    key!(count databases, databases, 1, 255, "Databases that SELECT can reach."),
    key!(count keys_default_limit, keys_default_limit, 0, 18_446_744_073_709_551_615,
        "Most keys that a plain KEYS returns; 0 = all."),
    key!(count snapshots_keep, snapshots_keep, 1, 1000, "RAFTSNAPSHOT exports kept; older ones are deleted."),
    Key {
        name: "log_filter",
        doc: "What is logged: error, warn, info, debug, trace, also per module \
              (info,kvnode_server::raft=debug). PUT /v1/log-filter changes it at run time.",
        allowed: "directives of tracing's EnvFilter",
        derived: None,
        set: |d, text| {
            crate::telemetry::check_filter(text)?;
            text.clone_into(&mut d.config.log_filter);
            Ok(())
        },
        show: |c| c.log_filter.clone(),
    },
    key!(word log_format, log_format, "text, json", None, "Form of log lines on standard error."),
    Key {
        name: "requirepass_file",
        doc: "File with the password of the user default; each line is one, so that two are valid while clients change \
              over. Read again when it changes. Passwords are never given by flag, environment or this file.",
        allowed: "a path",
        derived: None,
        set: |d, text| {
            d.config.requirepass_file = Some(path(text)?);
            Ok(())
        },
        show: |c| c.requirepass_file.as_ref().map_or_else(String::new, |p| p.display().to_string()),
    },
    Key {
        name: "acl_file",
        doc: "File with the users and what they may do, in lines as Redis writes them: user app on #sha256 ~app:* \
              +@read. Read again when it changes.",
        allowed: "a path",
        derived: None,
        set: |d, text| {
            d.config.acl_file = Some(path(text)?);
            Ok(())
        },
        show: |c| c.acl_file.as_ref().map_or_else(String::new, |p| p.display().to_string()),
    },
    Key {
        name: "commands_disabled",
        doc: "Commands, subcommands (config|set) and categories (@scripting) that no user may have, whatever its rules \
              say; a list or separated by commas. AUTH, HELLO, RESET and QUIT cannot be taken away.",
        allowed: "name[,name...]",
        derived: None,
        set: |d, text| {
            let names = text.split(',').map(str::trim).filter(|name| !name.is_empty());
            d.config.commands_disabled = names.map(str::to_owned).collect();
            Ok(())
        },
        show: |c| c.commands_disabled.join(","),
    },
    key!(word protected_mode, protected_mode, "true (or yes), false (or no)", None,
        "Refuses clients that are not on loopback while the user default needs no password."),
    key!(time auth_failure_delay, auth_failure_delay, "0", "10s", "Time after which a failed login is answered."),
    key!(time auth_timeout, limits.auth_timeout, "1s", "10m",
        "Time in which a client must log in, when it has to; until then its requests are kept small."),
    key!(time heartbeat, timing.heartbeat, "1ms", "60s", "Interval of the leader's heartbeats."),
    key!(time election_timeout_min, timing.election_timeout_min, "10ms", "300s",
        "Shortest silence, counted from the end of the leader's lease, after which a follower campaigns."),
    key!(time election_timeout_max, timing.election_timeout_max, "10ms", "300s",
        "Longest such silence, each node draws between the two; also the length of the lease."),
    key!(time election_timeout_ceiling, timing.election_timeout_ceiling, "0", "300s",
        "Silence that a follower learns to bear at most, where leaders came back from longer ones than usual; 0 = three \
         times election_timeout_max."),
    key!(time hold_without_leader, timing.hold_without_leader, "0", "60s",
        "Longest time that a command waits while no leader is known."),
    key!(count worker_threads, limits.worker_threads, 0, 1024,
        "Threads that serve clients and Raft; 0 = one less than the CPU cores, at least one."),
    key!(count clients_max, limits.clients_max, 1, 1_000_000, "Clients at once."),
    key!(count args_max, limits.args_max, 16, 16_777_216, "Arguments of one request."),
    key!(size bulk_bytes_max, limits.bulk_bytes_max, "1KiB", "512MiB", None,
        "One argument (Redis: proto-max-bulk-len)."),
    key!(size request_bytes_max, limits.request_bytes_max, "1KiB", "1GiB", None, "One whole request."),
    key!(size inline_bytes_max, limits.inline_bytes_max, "1KiB", "1MiB", None, "An inline request line."),
    key!(size key_bytes_max, limits.key_bytes_max, "16", "1MiB", None, "One key."),
    key!(size reply_bytes_max, limits.reply_bytes_max, "64KiB", "4GiB", None, "One reply (KEYS, MGET)."),
    key!(size output_bytes_pause, limits.output_bytes_pause, "16KiB", "1GiB", None,
        "Replies that a connection has not taken at which reading from it stops."),
    key!(time output_stall, limits.output_stall, "1s", "1h",
        "Time in which a client must take some of its reply once its socket is full."),
    key!(count turn_requests_max, limits.turn_requests_max, 1, 1_000_000,
        "Requests taken from one connection in one turn."),
    key!(count entry_ops_max, limits.entry_ops_max, 1, 1_000_000, "Changes in one log entry."),
    key!(size entry_bytes_max, limits.entry_bytes_max, "64KiB", "64MiB", None, "Size at which a log entry is closed."),
    key!(count entries_in_flight_max, limits.entries_in_flight_max, 1, 1024, "Log entries proposed, not yet committed."),
    key!(size queue_bytes_max, limits.queue_bytes_max, "1MiB", "16GiB", None, "Changes waiting to be proposed."),
    key!(size memtable_bytes, limits.memtable_bytes, "1MiB", "4GiB",
        Some("64MiB, or a 16th of the memory that the process may use"),
        "State in memory before it is written to disk."),
    key!(size block_cache_bytes, limits.block_cache_bytes, "1MiB", "1TiB",
        Some("256MiB, or a quarter of the memory that the process may use"),
        "Cache of state read from disk."),
    key!(size value_cache_bytes, limits.value_cache_bytes, "0", "1TiB",
        Some("256MiB, or an 8th of the memory that the process may use"),
        "Cache of single values read or changed lately; 0 = none."),
    key!(size log_keep_bytes, limits.log_keep_bytes, "0", "1TiB", None,
        "Raft log kept for followers that are behind, beyond what the state needs."),
    key!(size log_cache_bytes, limits.log_cache_bytes, "1MiB", "16GiB", None, "Raft log in memory."),
    key!(size log_segment_bytes, limits.log_segment_bytes, "64KiB", "4GiB", None, "One file of the Raft log."),
    key!(size disk_reserve_bytes, limits.disk_reserve_bytes, "0", "1TiB", None,
        "Free space below which writes that grow the data are refused; deletes stay admitted from it."),
    key!(size disk_quota_bytes, limits.disk_quota_bytes, "0", "1024TiB", None,
        "Data on disk above which writes that grow it are refused; 0 = only the reserve counts."),
    key!(size checkpoint_bytes_per_second, limits.checkpoint_bytes_per_second, "0", "1TiB", None,
        "Rate of a checkpoint sent to one peer; 0 = unlimited."),
    key!(count http_connections_max, limits.http_connections_max, 8, 100_000, "Connections to the admin API at once."),
];

/// `server/config.example.yaml`: every key with its documentation, what is allowed, and its default.
#[must_use]
pub fn example_yaml() -> String {
    let defaults = Config::default();
    let mut out = String::from(
        "# Every key of kvnode-server with its default. Generated by `kvnode-server config-example`.\n\
         #\n\
         # Flags beat the environment, the environment beats this file. In the environment a key is KVNODE_ and its\n\
         # name in upper case: KVNODE_LOG_DIR. Unknown keys are refused. `kvnode-server check-config --config FILE`\n\
         # tells all faults at once. Sizes: 4096, 64KiB, 64MiB, 10GiB. Durations: 350ms, 5s, 2m.\n",
    );
    for key in KEYS {
        out.push('\n');
        for line in wrap(key.doc, 108) {
            let _ = writeln!(out, "# {line}");
        }
        let value = if key.derived.is_some() { String::new() } else { key.show(&defaults) };
        let default = key.derived.map_or_else(String::new, |text| format!(" Default: {text}."));
        let _ = writeln!(out, "# Allowed: {}.{default}", key.allowed);
        let _ = writeln!(out, "{}", format!("#{}: {value}", key.name).trim_end());
    }
    out
}

/// Breaks text at spaces into lines of at most `width` bytes (longer only when one word is).
fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split_whitespace() {
        let line = lines.last_mut().map_or(0, |line| line.len());
        if line > 0 && line + 1 + word.len() > width {
            lines.push(String::new());
        }
        if let Some(line) = lines.last_mut() {
            if !line.is_empty() {
                line.push(' ');
            }
            line.push_str(word);
        }
    }
    lines
}
