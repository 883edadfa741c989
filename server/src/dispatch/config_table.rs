//! CONFIG GET and CONFIG SET: one table of parameters under the names that stock tools ask for.
//!
//! Invariant: a value shown is in force. Parameters that Redis has and we have not (maxmemory) are shown with the value
//! that says so, since clients ask for them at start.

use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};

use bytes::Bytes;

use crate::acl;
use crate::command::args::{printable, strict_int};
use crate::config::{Config, Consistency, Durability, Formation, ReadPolicy, Redirect};
use crate::resp::Reply;
use crate::store::glob;

/// Longest slow log that may be asked for.
const SLOWLOG_MAX_LEN_MAX: i64 = 100_000;

/// Parameters that change while the node runs.
#[derive(Debug)]
pub struct Live {
    /// Requests that take longer are noted, microseconds; 0 = all, negative = none.
    pub slowlog_slower_than_us: AtomicI64,
    /// Entries of the slow log.
    pub slowlog_max_len: AtomicI64,
    /// Requests that take as long are noted by the latency monitor, milliseconds; 0 = none.
    pub latency_threshold_ms: AtomicI64,
    /// Default LIMIT of a plain KEYS; 0 = all.
    pub keys_default_limit: AtomicU64,
    /// Without a password only loopback may connect.
    pub protected_mode: AtomicBool,
}

impl Live {
    /// As configured; Redis' defaults for the slow log and the latency monitor.
    #[must_use]
    pub fn new(config: &Config) -> Self {
        Self {
            slowlog_slower_than_us: AtomicI64::new(10_000),
            slowlog_max_len: AtomicI64::new(128),
            latency_threshold_ms: AtomicI64::new(0),
            keys_default_limit: AtomicU64::new(config.keys_default_limit),
            protected_mode: AtomicBool::new(config.protected_mode),
        }
    }
}

/// Puts a checked value in force.
type Store = fn(&Live, i64);

/// How a parameter is changed.
enum Change {
    /// Not while the node runs.
    Never,
    /// To an integer within bounds.
    Integer { least: i64, most: i64, store: Store },
    /// To yes (1) or no (0).
    YesOrNo(Store),
}

/// One parameter.
struct Parameter {
    name: &'static str,
    get: fn(&Config, &Live) -> String,
    change: Change,
}

const fn fixed(name: &'static str, get: fn(&Config, &Live) -> String) -> Parameter {
    Parameter { name, get, change: Change::Never }
}

fn yes(value: bool) -> String {
    if value { "yes" } else { "no" }.to_owned()
}

/// Followers refuse writes only when they redirect.
fn followers_read_only(config: &Config, _: &Live) -> String {
    yes(config.redirect != Redirect::Forward)
}

/// All parameters, sorted by name.
static PARAMETERS: [Parameter; 37] = [
    fixed("aclfile", |config, _| {
        config.acl_file.as_ref().map_or_else(String::new, |path| path.display().to_string())
    }),
    fixed("acllog-max-len", |_, _| acl::log::ENTRIES_MAX.to_string()),
    fixed("appendfsync", |config, _| {
        match config.durability {
            Durability::High => "always",
            Durability::Medium => "everysec",
            Durability::Low => "no",
        }
        .to_owned()
    }),
    fixed("appendonly", |_, _| "no".to_owned()),
    fixed("bind", |config, _| config.addr.ip().to_string()),
    fixed("client-query-buffer-limit", |config, _| config.limits.request_bytes_max.to_string()),
    fixed("cluster-enabled", |config, _| yes(config.redirect == Redirect::Moved)),
    fixed("consistency", |config, _| {
        match config.consistency {
            Consistency::Low => "low",
            Consistency::Medium => "medium",
            Consistency::High => "high",
        }
        .to_owned()
    }),
    fixed("databases", |config, _| config.databases.to_string()),
    fixed("dir", |config, _| config.data.display().to_string()),
    fixed("durability", |config, _| {
        match config.durability {
            Durability::Low => "low",
            Durability::Medium => "medium",
            Durability::High => "high",
        }
        .to_owned()
    }),
    fixed("formation", |config, _| {
        match config.formation {
            Formation::Auto => "auto",
            Formation::Wait => "wait",
        }
        .to_owned()
    }),
    fixed("io-threads", |config, _| config.worker_threads().to_string()),
    fixed("key-bytes-max", |config, _| config.limits.key_bytes_max.to_string()),
    Parameter {
        name: "keys-default-limit",
        get: |_, live| live.keys_default_limit.load(Ordering::Relaxed).to_string(),
        change: Change::Integer {
            least: 0,
            most: i64::MAX,
            store: |live, n| live.keys_default_limit.store(n.unsigned_abs(), Ordering::Relaxed),
        },
    },
    Parameter {
        name: "latency-monitor-threshold",
        get: |_, live| live.latency_threshold_ms.load(Ordering::Relaxed).to_string(),
        change: Change::Integer {
            least: 0,
            most: i64::MAX,
            store: |live, n| live.latency_threshold_ms.store(n, Ordering::Relaxed),
        },
    },
    fixed("log-dir", |config, _| config.log_dir.display().to_string()),
    fixed("maxclients", |config, _| config.limits.clients_max.to_string()),
    fixed("maxmemory", |_, _| "0".to_owned()),
    fixed("maxmemory-policy", |_, _| "noeviction".to_owned()),
    fixed("notify-keyspace-events", |_, _| String::new()),
    fixed("port", |config, _| config.addr.port().to_string()),
    Parameter {
        name: "protected-mode",
        get: |_, live| yes(live.protected_mode.load(Ordering::Relaxed)),
        change: Change::YesOrNo(|live, on| live.protected_mode.store(on != 0, Ordering::Relaxed)),
    },
    fixed("proto-max-bulk-len", |config, _| config.limits.bulk_bytes_max.to_string()),
    fixed("read-policy", |config, _| {
        match config.read_policy {
            ReadPolicy::Strict => "strict",
            ReadPolicy::Lease => "lease",
        }
        .to_owned()
    }),
    fixed("redirect", |config, _| {
        match config.redirect {
            Redirect::Forward => "forward",
            Redirect::Moved => "moved",
            Redirect::Try => "try",
        }
        .to_owned()
    }),
    fixed("replica-read-only", followers_read_only),
    fixed("reply-bytes-max", |config, _| config.limits.reply_bytes_max.to_string()),
    // Never shown: whoever may ask is logged in.
    fixed("requirepass", |_, _| String::new()),
    fixed("save", |_, _| String::new()),
    fixed("slave-read-only", followers_read_only),
    Parameter {
        name: "slowlog-log-slower-than",
        get: |_, live| live.slowlog_slower_than_us.load(Ordering::Relaxed).to_string(),
        change: Change::Integer {
            least: -1,
            most: i64::MAX,
            store: |live, n| live.slowlog_slower_than_us.store(n, Ordering::Relaxed),
        },
    },
    Parameter {
        name: "slowlog-max-len",
        get: |_, live| live.slowlog_max_len.load(Ordering::Relaxed).to_string(),
        change: Change::Integer {
            least: 0,
            most: SLOWLOG_MAX_LEN_MAX,
            store: |live, n| live.slowlog_max_len.store(n, Ordering::Relaxed),
        },
    },
    fixed("snapshots-keep", |config, _| config.snapshots_keep.to_string()),
    fixed("tcp-port", |config, _| config.addr.port().to_string()),
    fixed("timeout", |_, _| "0".to_owned()),
    fixed("unixsocket", |_, _| String::new()),
];

/// CONFIG GET: every parameter that a glob matches, in any case.
#[must_use]
pub fn get(config: &Config, live: &Live, patterns: &[Bytes]) -> Reply {
    let patterns: Vec<Vec<u8>> = patterns.iter().map(|pattern| pattern.to_ascii_lowercase()).collect();
    let wanted = |name: &str| patterns.iter().any(|pattern| glob::matches(pattern, name.as_bytes()));
    let bulk = |text: String| Reply::Bulk(Bytes::from(text));
    let shown = PARAMETERS.iter().filter(|parameter| wanted(parameter.name));
    Reply::Map(
        shown
            .map(|parameter| (bulk(parameter.name.to_owned()), bulk((parameter.get)(config, live))))
            .collect(),
    )
}

/// CONFIG SET: all pairs are checked before the first one is stored. Setting a fixed parameter to the value that it has
/// is accepted, as tools do that at start.
#[must_use]
pub fn set(config: &Config, live: &Live, pairs: &[(Bytes, Bytes)]) -> Reply {
    let mut stores: Vec<(&'static str, Store, i64)> = Vec::new();
    let mut seen: Vec<&'static str> = Vec::new();
    for (name, value) in pairs {
        let found = PARAMETERS.iter().find(|parameter| name.eq_ignore_ascii_case(parameter.name.as_bytes()));
        let Some(parameter) = found else {
            return Reply::Error(format!(
                "ERR Unknown option or number of arguments for CONFIG SET - '{}'",
                printable(name)
            ));
        };
        if seen.contains(&parameter.name) {
            return refused(parameter.name, "duplicate parameter");
        }
        seen.push(parameter.name);
        match &parameter.change {
            Change::Never if (parameter.get)(config, live).as_bytes() == value.as_ref() => {}
            Change::Never => return refused(parameter.name, "can't set immutable config"),
            Change::YesOrNo(store) => {
                let words = [(&b"yes"[..], 1), (b"no", 0)];
                let found = words.iter().find(|(word, _)| value.eq_ignore_ascii_case(word));
                let Some((_, on)) = found else {
                    return refused(parameter.name, "argument must be 'yes' or 'no'");
                };
                stores.push((parameter.name, *store, *on));
            }
            Change::Integer { least, most, store } => match strict_int(value) {
                None => return refused(parameter.name, "argument couldn't be parsed into an integer"),
                Some(n) if n < *least || n > *most => {
                    let why = format!("argument must be between {least} and {most} inclusive");
                    return refused(parameter.name, &why);
                }
                Some(n) => stores.push((parameter.name, *store, n)),
            },
        }
    }
    for (name, store, value) in stores {
        tracing::info!(parameter = name, value, "configuration changed");
        store(live, value);
    }
    Reply::Ok
}

fn refused(name: &str, why: &str) -> Reply {
    Reply::Error(format!("ERR CONFIG SET failed (possibly related to argument '{name}') - {why}"))
}
