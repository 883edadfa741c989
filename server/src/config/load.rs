//! From settings as typed to a checked [`Config`].

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use serde_yaml::Value;

use super::keys::{KEYS, Key};
use super::relations::RELATIONS;
use super::{Config, Formation};
use crate::error::OneLine;

/// Peer port minus client port, unless told otherwise.
pub const PEER_PORT_OFFSET: u16 = 10_000;
/// Admin port minus client port, unless told otherwise.
pub const HTTP_PORT_OFFSET: u16 = 20_000;

/// A configuration file is a few kilobytes; a larger one is the wrong file.
const FILE_BYTES_MAX: u64 = 1024 * 1024;

/// Where a value was set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// Nowhere.
    Default,
    /// In the file.
    File(PathBuf),
    /// In this environment variable.
    Environment(String),
    /// By this flag.
    Flag(String),
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Source::Default => write!(f, "default"),
            Source::File(path) => write!(f, "file {}", path.display()),
            Source::Environment(name) => write!(f, "environment {name}"),
            Source::Flag(name) => write!(f, "flag {name}"),
        }
    }
}

/// One thing wrong with the configuration. Shape: `<what>: <what to do>`, one line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The key, the source, the bad value and what is wrong with it.
    pub what: String,
    /// What is allowed or what to do.
    pub remedy: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", OneLine(&self.what), OneLine(&self.remedy))
    }
}

/// Everything wrong with the configuration; never empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    /// In the order of the sources, then of the relations.
    pub faults: Vec<Fault>,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, fault) in self.faults.iter().enumerate() {
            let separator = if number == 0 { "" } else { "; " };
            write!(f, "{separator}{fault}")?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigError {}

impl From<ConfigError> for crate::error::NodeError {
    fn from(error: ConfigError) -> Self {
        Self::new(crate::error::ErrorKind::Config, error, "set it right and start again")
    }
}

/// What was typed, unread. Pure input of [`load`], so that tests need no process environment.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// `--config`; else `KVNODE_CONFIG` of the environment.
    pub file: Option<PathBuf>,
    /// Environment; names that are no key are ignored, near misses noted.
    pub environment: Vec<(String, String)>,
    /// Flags: key and value.
    pub flags: Vec<(&'static str, String)>,
    /// Memory that the process may use, in bytes: bounds the default cache sizes. `None` = not known.
    pub memory_bytes: Option<u64>,
}

/// A good configuration and where it came from.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The configuration.
    pub config: Config,
    /// Where each key that was set was set last.
    pub sources: BTreeMap<&'static str, Source>,
    /// Lines worth telling the operator.
    pub notes: Vec<String>,
}

/// A configuration being read: what has a derived default is kept apart until all sources are in.
pub(super) struct Draft {
    pub(super) config: Config,
    pub(super) peer_addr: Option<SocketAddr>,
    pub(super) http_addr: Option<SocketAddr>,
    pub(super) log_dir: Option<PathBuf>,
    pub(super) formation: Option<Formation>,
}

struct Loader {
    draft: Draft,
    sources: BTreeMap<&'static str, Source>,
    /// Keys with a fault of their own: relations over them are not looked at.
    faulty: Vec<&'static str>,
    faults: Vec<Fault>,
    notes: Vec<String>,
}

/// Reads all sources and checks the result.
///
/// # Errors
/// All faults at once.
pub fn load(settings: &Settings) -> Result<Loaded, ConfigError> {
    let mut loader = Loader::new();
    let from_environment = settings.environment.iter().find(|(name, _)| name == "KVNODE_CONFIG");
    let file = settings.file.clone().or_else(|| from_environment.map(|(_, path)| PathBuf::from(path)));
    if let Some(file) = file {
        loader.read_file(&file);
    }
    loader.read_environment(&settings.environment);
    for (name, value) in &settings.flags {
        let flag = format!("--{}", name.replace('_', "-"));
        match Key::find(name) {
            Some(key) => loader.set(key, value, Source::Flag(flag)),
            None => loader.fault(format!("flag {flag} has no key"), "report this as a bug"),
        }
    }
    loader.finish(settings.memory_bytes)
}

/// The configuration of a file with this text and nothing else.
#[cfg(any(test, feature = "fuzz"))]
pub(crate) fn load_text(text: &str) -> Result<Loaded, ConfigError> {
    let mut loader = Loader::new();
    loader.read_text(Path::new("config.yaml"), text);
    loader.finish(None)
}

impl Loader {
    fn new() -> Self {
        let config = Config::default();
        let draft = Draft { config, peer_addr: None, http_addr: None, log_dir: None, formation: None };
        Self { draft, sources: BTreeMap::new(), faulty: Vec::new(), faults: Vec::new(), notes: Vec::new() }
    }

    fn finish(mut self, memory_bytes: Option<u64>) -> Result<Loaded, ConfigError> {
        self.derive(memory_bytes);
        self.check_relations();
        if self.faults.is_empty() {
            Ok(Loaded { config: self.draft.config, sources: self.sources, notes: self.notes })
        } else {
            Err(ConfigError { faults: self.faults })
        }
    }

    fn fault(&mut self, what: String, remedy: impl Into<String>) {
        self.faults.push(Fault { what, remedy: remedy.into() });
    }

    fn set(&mut self, key: &'static Key, value: &str, source: Source) {
        match (key.set)(&mut self.draft, value.trim()) {
            Ok(()) => {
                self.faulty.retain(|name| *name != key.name);
                self.sources.insert(key.name, source);
            }
            Err(problem) => {
                self.faulty.push(key.name);
                let shown: String = value.chars().take(80).collect();
                self.fault(
                    format!("{} = {shown:?} ({source}) is wrong, {problem}", key.name),
                    format!("allowed: {}", key.allowed),
                );
            }
        }
    }

    fn read_file(&mut self, path: &Path) {
        let text = match read_bounded(path) {
            Ok(text) => text,
            Err(e) => {
                return self.fault(
                    format!("configuration file {}: {e}", path.display()),
                    "give a readable YAML file to --config",
                );
            }
        };
        self.read_text(path, &text);
    }

    fn read_text(&mut self, path: &Path, text: &str) {
        let mapping = match serde_yaml::from_str::<Value>(text) {
            Ok(Value::Null) => return,
            Ok(Value::Mapping(mapping)) => mapping,
            Ok(_) => {
                return self.fault(
                    format!("configuration file {} is not a list of `key: value`", path.display()),
                    "kvnode-server config-example prints one",
                );
            }
            Err(e) => {
                return self.fault(
                    format!("configuration file {} is not YAML, {e}", path.display()),
                    "kvnode-server config-example prints one",
                );
            }
        };
        for (name, value) in &mapping {
            let name = name.as_str().unwrap_or("(not a word)");
            let Some(key) = Key::find(name) else {
                let remedy = nearest(name).map_or_else(
                    || "kvnode-server config-example lists all keys".to_owned(),
                    |near| format!("did you mean {near}?"),
                );
                self.fault(format!("unknown key {name:?} in file {}", path.display()), remedy);
                continue;
            };
            match scalar(value) {
                // `key:` with nothing behind keeps the default, as in the example file.
                Ok(None) => {}
                Ok(Some(text)) => self.set(key, &text, Source::File(path.to_owned())),
                Err(kind) => {
                    self.faulty.push(key.name);
                    self.fault(
                        format!("{} (file {}) is {kind}", key.name, path.display()),
                        format!("allowed: {}", key.allowed),
                    );
                }
            }
        }
    }

    /// An empty variable counts as not set. Unknown `KVNODE_*` variables are not refused: Kubernetes sets `KVNODE_PORT` and its kin in every pod when a
    /// Service is named kvnode. One that is close to a key is told.
    fn read_environment(&mut self, environment: &[(String, String)]) {
        for (variable, value) in environment {
            let Some(name) = variable.strip_prefix("KVNODE_") else { continue };
            let name = name.to_ascii_lowercase();
            match Key::find(&name) {
                // Manifests set what they leave out to nothing.
                Some(key) if *variable == key.variable() && value.is_empty() => {}
                Some(key) if *variable == key.variable() => {
                    self.set(key, value, Source::Environment(variable.clone()));
                }
                _ => {
                    if let Some(near) = nearest(&name).and_then(Key::find) {
                        self.notes.push(format!(
                            "environment {variable} is ignored: did you mean {}?",
                            near.variable()
                        ));
                    }
                }
            }
        }
    }

    fn derive(&mut self, memory_bytes: Option<u64>) {
        if self.draft.config.tls_only {
            match self.draft.config.tls_addr {
                Some(addr) => self.draft.config.addr = addr,
                None => self.fault("addr = off leaves no address for clients".into(), "set tls_addr"),
            }
        }
        let addr = self.draft.config.addr;
        let (peer, http) = (self.draft.peer_addr, self.draft.http_addr);
        self.draft.config.peer_addr =
            peer.unwrap_or_else(|| self.beside("peer_addr", addr, PEER_PORT_OFFSET));
        self.draft.config.http_addr =
            http.unwrap_or_else(|| self.beside("http_addr", addr, HTTP_PORT_OFFSET));
        let config = &mut self.draft.config;
        config.log_dir = self.draft.log_dir.take().unwrap_or_else(|| config.data.clone());
        let unasked = if addr.ip().is_loopback() { Formation::Auto } else { Formation::Wait };
        config.formation = self.draft.formation.unwrap_or(unasked);
        if config.advertise_peer_addr.is_none() && config.peer_addr.ip().is_unspecified() {
            let host =
                config.advertise_addr.as_deref().and_then(|a| a.rsplit_once(':')).map(|(host, _)| host);
            if let (Some(host), 1..) = (host, config.peer_addr.port()) {
                config.advertise_peer_addr = Some(format!("{host}:{}", config.peer_addr.port()));
            }
        }
        if let Some(memory) = memory_bytes {
            let part = |share: u64| usize::try_from(memory / share).unwrap_or(usize::MAX).max(1024 * 1024);
            let limits = &mut config.limits;
            if !self.sources.contains_key("memtable_bytes") {
                limits.memtable_bytes = limits.memtable_bytes.min(part(16));
            }
            if !self.sources.contains_key("block_cache_bytes") {
                limits.block_cache_bytes = limits.block_cache_bytes.min(part(4));
            }
            if !self.sources.contains_key("value_cache_bytes") {
                limits.value_cache_bytes = limits.value_cache_bytes.min(part(8));
            }
        }
    }

    /// The default of a listener that stands beside the client listener.
    fn beside(&mut self, name: &'static str, addr: SocketAddr, offset: u16) -> SocketAddr {
        let port = if addr.port() == 0 { Some(0) } else { addr.port().checked_add(offset) };
        if port.is_none() && !self.faulty.contains(&name) {
            self.faulty.push(name);
            self.fault(
                format!("{name} is not set, and its default {} + {offset} is no port", addr.port()),
                format!("set {name}"),
            );
        }
        SocketAddr::new(addr.ip(), port.unwrap_or(0))
    }

    fn check_relations(&mut self) {
        for relation in RELATIONS {
            let known = relation.keys.iter().all(|key| !self.faulty.contains(key));
            if !known || (relation.holds)(&self.draft.config) {
                continue;
            }
            let shown = relation.keys.iter().filter_map(|name| Key::find(name)).map(|key| {
                let source = self.sources.get(key.name).unwrap_or(&Source::Default);
                let value = key.show(&self.draft.config);
                let value = if value.is_empty() { "not set".to_owned() } else { value };
                format!("{} = {value} ({source})", key.name)
            });
            let what = shown.collect::<Vec<_>>().join(" and ") + " do not go together";
            self.fault(what, relation.remedy);
        }
    }
}

fn read_bounded(path: &Path) -> std::io::Result<String> {
    use std::io::Read as _;
    let mut text = String::new();
    let read = std::fs::File::open(path)?.take(FILE_BYTES_MAX + 1).read_to_string(&mut text)?;
    if read as u64 > FILE_BYTES_MAX {
        return Err(std::io::Error::other("larger than 1 MiB"));
    }
    Ok(text)
}

/// The text of a YAML value: a scalar, or a list of scalars joined by commas; `None` = null.
fn scalar(value: &Value) -> Result<Option<String>, &'static str> {
    match value {
        Value::Null => Ok(None),
        Value::Bool(b) => Ok(Some(b.to_string())),
        Value::Number(n) => Ok(Some(n.to_string())),
        Value::String(s) => Ok(Some(s.clone())),
        Value::Sequence(items) => {
            let texts = items.iter().map(|item| match item {
                Value::String(s) => Ok(s.clone()),
                _ => Err("a list of something else than words"),
            });
            Ok(Some(texts.collect::<Result<Vec<_>, _>>()?.join(",")))
        }
        Value::Mapping(_) => Err("a section; all keys are at the top level"),
        Value::Tagged(_) => Err("a tagged value"),
    }
}

/// The key that a misspelt one was meant to be, if one is near.
fn nearest(name: &str) -> Option<&'static str> {
    if name.len() > 64 {
        return None;
    }
    let with_distance = KEYS.iter().map(|key| (distance(name, key.name), key.name));
    with_distance.min().filter(|(d, near)| *d <= 2 && *d < near.len() / 2).map(|(_, near)| near)
}

/// Edits between two words (Levenshtein), row by row.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<u8> = b.bytes().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, y) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(x != *y);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}
