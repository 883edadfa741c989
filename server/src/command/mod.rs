//! Step 3: a request becomes an [`Action`]. Pure: no socket, no store, no clock.
//!
//! ```text
//! Request --resolve--> Spec (a row of the table)   unknown command, arity
//!         --parse----> Action                      option syntax
//! ```
//!
//! One [`Spec`] per command (and per subcommand, `CLIENT|ID`) stands right above its parse function. The row feeds
//! lookup, arity, `COMMAND`, `COMMAND DOCS`, `COMMANDS.md`, key positions, routing and metric labels: nothing about a
//! command is written twice. To add one: a row, a parse function, a script in `testscripts/`; if it changes data, one
//! `Op` and one arm of apply.
//!
//! Invariants
//! - Order of checks, as the ancestor and Redis do it: name, arity, option syntax; leadership comes later (dispatch).
//! - `Flags::WRITE` exactly on rows that give [`Action::Write`], `Flags::READONLY` on those that give
//!   [`Action::Read`] (a test walks the table).
//! - A text that echoes what a client typed is cleaned of control bytes and cut at 128 bytes.

pub mod acl;
pub mod args;
pub mod bitmap;
pub mod client;
pub mod cluster;
pub mod connection;
pub mod docs;
pub mod expiry;
pub mod keyspace;
pub mod latency;
pub mod lock;
pub mod memory;
pub mod nearest;
pub mod number;
pub mod pubsub;
pub mod raft;
pub mod rdb;
pub mod relocate;
pub mod script;
pub mod server;
pub mod slot;
pub mod sort;
pub mod spec;
pub mod string;
pub mod table;
pub mod transaction;

#[cfg(test)]
mod tests;

use std::time::Duration;

use bytes::Bytes;

use crate::resp::{Protocol, Reply};
use crate::secret::Secret;
use crate::store::change::FieldStep;
use crate::store::{DbIndex, Op, Query};
pub use acl::AclOp;
pub use args::Args;
pub use cluster::ClusterOp;
pub use latency::LatencyOp;
pub use memory::MemoryOp;
pub use pubsub::PubSubOp;
pub use script::{Eval, ScriptOp, Source};
pub use spec::{Arity, Flags, Group, KeyRange, ReplyShape, Spec};

/// Version of Redis whose replies and texts we follow; clients gate features on it. Below 7.4 on purpose: from there on
/// redis-py expects CLIENT TRACKING.
pub const REDIS_VERSION: &str = "7.2.0";

/// What a parsed request asks for. `dispatch` holds the only `match` on it.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// The answer is already known (PING, ECHO, COMMAND).
    Reply(Reply),
    /// Concerns this connection, or connections.
    Session(SessionOp),
    /// Concerns this node or its group.
    Node(NodeOp),
    /// A read, after a read barrier; the view says how its answer becomes a reply.
    Read(Query, View),
    /// A change, through the log.
    Write(Op),
    /// Concerns scripts.
    Script(ScriptOp),
    /// Concerns messages between clients.
    PubSub(PubSubOp),
}

/// How the answer to a query is shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum View {
    /// As it is.
    Plain,
    /// Length of the value, 0 if missing (STRLEN).
    Length,
    /// Redis' name of the encoding that it would choose for the value (OBJECT ENCODING).
    Encoding,
    /// 1, or nil if missing (OBJECT REFCOUNT).
    RefCount,
    /// Nil if missing, else this error (OBJECT FREQ, OBJECT IDLETIME).
    NotTracked(&'static str),
    /// Bytes of key, value and record header (MEMORY USAGE); carries the bytes of the key.
    Memory(usize),
    /// Part of the value (GETRANGE).
    Range(Span),
    /// One bit (GETBIT).
    Bit(u64),
    /// Number of 1 bits (BITCOUNT); `true` counts the span in bits.
    BitCount(Option<(Span, bool)>),
    /// First bit of a value (BITPOS).
    BitPosition {
        /// Which bit.
        bit: bool,
        /// Where; an end of `None` lies behind the string, where all bits are 0.
        from: i64,
        /// Last byte or bit.
        to: Option<i64>,
        /// The span counts bits.
        in_bits: bool,
    },
    /// Numbers (BITFIELD of GETs alone).
    Fields(Vec<FieldStep>),
    /// XXH3 of the value in hex (DIGEST).
    Digest,
    /// What RESTORE takes (DUMP).
    Dump,
    /// Nothing of a missing key; a string cannot be sorted (SORT).
    Sorted,
    /// Longest common subsequence of two values.
    Lcs(Lcs),
    /// Deadline or time left (TTL and its kin).
    Deadline {
        /// In seconds.
        seconds: bool,
        /// The moment rather than what is left.
        absolute: bool,
    },
}

/// First and last item; a negative number counts from the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// First.
    pub from: i64,
    /// Last.
    pub to: i64,
}

/// What LCS shows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lcs {
    /// Its length alone.
    pub length: bool,
    /// Where it lies in both.
    pub places: bool,
    /// The length of each place too.
    pub with_lengths: bool,
    /// Shortest place to show.
    pub shortest: u64,
}

/// Changes and questions about client connections.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SessionOp {
    /// HELLO: `None` keeps the protocol.
    Hello {
        /// Protocol asked for.
        protocol: Option<Protocol>,
        /// New connection name (SETNAME).
        name: Option<Bytes>,
        /// Login (AUTH).
        login: Option<Credentials>,
    },
    /// AUTH.
    Auth(Credentials),
    /// RESET.
    Reset,
    /// QUIT.
    Quit,
    /// SELECT; the number has been checked.
    Select(DbIndex),
    /// READONLY (true) or READWRITE (false).
    StaleReads(bool),
    /// CLIENT SETNAME; empty removes the name.
    SetName(Bytes),
    /// CLIENT GETNAME.
    GetName,
    /// CLIENT ID.
    Id,
    /// CLIENT SETINFO LIB-NAME.
    SetLibraryName(Bytes),
    /// CLIENT SETINFO LIB-VER.
    SetLibraryVersion(Bytes),
    /// CLIENT INFO.
    Info,
    /// CLIENT LIST; `None` is everyone.
    List {
        /// Those with these ids.
        ids: Option<Vec<u64>>,
        /// Those of this type.
        class: Option<ClientClass>,
    },
    /// CLIENT KILL.
    Kill(KillFilter),
    /// CLIENT REPLY.
    Replies(ReplyMode),
    /// CLIENT PAUSE.
    Pause {
        /// For how long.
        time: Duration,
        /// What only reads goes on.
        writes_only: bool,
    },
    /// CLIENT UNPAUSE.
    Unpause,
    /// CLIENT UNBLOCK.
    Unblock {
        /// Whom.
        id: u64,
        /// Its command ends with an error.
        with_error: bool,
    },
    /// MONITOR.
    Monitor,
    /// MULTI.
    Multi,
    /// EXEC.
    Exec,
    /// DISCARD.
    Discard,
    /// WATCH.
    Watch(Vec<(DbIndex, Bytes)>),
    /// UNWATCH.
    Unwatch,
}

/// A user's name and password as typed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Credentials {
    /// Name; `None` = only a password was given, for the default user.
    pub user: Option<Bytes>,
    /// Password.
    pub password: Secret,
}

/// Type of a client, as CLIENT LIST and CLIENT KILL name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientClass {
    /// Neither of the others.
    Normal,
    /// Listens to channels.
    PubSub,
    /// Nobody: other nodes come through a port of their own.
    Replica,
}

/// Which clients CLIENT KILL closes: all conditions must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KillFilter {
    /// Client id.
    pub id: Option<u64>,
    /// Peer address, `ip:port`.
    pub addr: Option<String>,
    /// Local address, `ip:port`.
    pub local_addr: Option<String>,
    /// Name of the user that the client is logged in as.
    pub user: Option<Bytes>,
    /// Its type.
    pub class: Option<ClientClass>,
    /// Spare the caller.
    pub skip_me: bool,
    /// The old form `CLIENT KILL ip:port`: answers OK or an error instead of a count.
    pub old_form: bool,
}

/// CLIENT REPLY.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReplyMode {
    /// Replies are sent.
    On,
    /// None are sent until ON.
    Off,
    /// That of the next command is not sent.
    Skip,
}

/// Verbs and questions that concern this node or its group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NodeOp {
    /// INFO with lower-case section names; empty = default.
    Info(Vec<String>),
    /// CONFIG GET with globs.
    ConfigGet(Vec<Bytes>),
    /// CONFIG SET, all pairs or none.
    ConfigSet(Vec<(Bytes, Bytes)>),
    /// CONFIG RESETSTAT.
    ResetStatistics,
    /// SHUTDOWN.
    Shutdown,
    /// RAFTLEADER.
    Leader,
    /// RAFTSTATE.
    State,
    /// RAFTSTATS.
    Statistics,
    /// RAFTPEERS.
    Peers,
    /// RAFTIDENTITY.
    Identity,
    /// RAFTADDPEER, a client address.
    AddPeer(String),
    /// RAFTREMOVEPEER, a client address or a node id in hex.
    RemovePeer(String),
    /// RAFTTRANSFER, to a voter or to the best one.
    Transfer(Option<String>),
    /// RAFTSNAPSHOT and SAVE: replies when the file is complete.
    Snapshot,
    /// BGSAVE: replies when it has begun.
    BackgroundSnapshot,
    /// RAFTSHRINKLOG.
    ShrinkLog,
    /// TIME.
    Time,
    /// LASTSAVE.
    LastSave,
    /// ROLE.
    Role,
    /// CLUSTER; refused unless redirects are MOVED.
    Cluster(ClusterOp),
    /// WAIT.
    Wait {
        /// Replicas asked for.
        replicas: i64,
        /// Patience; 0 = for ever.
        timeout_ms: u64,
    },
    /// WAITAOF.
    WaitSynced {
        /// 1 if this node's own sync is asked for.
        local: i64,
        /// Replicas asked for.
        replicas: i64,
        /// Patience; 0 = for ever.
        timeout_ms: u64,
    },
    /// ACL.
    Acl(AclOp),
    /// LATENCY.
    Latency(LatencyOp),
    /// MEMORY STATS and DOCTOR.
    Memory(MemoryOp),
    /// SLOWLOG GET.
    SlowLogGet {
        /// Of the newest; `None` = all.
        count: Option<usize>,
        /// With the parts of the time.
        with_times: bool,
    },
    /// SLOWLOG LEN.
    SlowLogLength,
    /// SLOWLOG RESET.
    SlowLogReset,
}

/// Why a request does not become an action. [`CommandError::reply`] is the only place that words it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CommandError {
    /// No row of that name.
    Unknown(String),
    /// No such subcommand of this container.
    UnknownSubcommand {
        /// The container as the table names it.
        container: &'static str,
        /// As typed.
        name: String,
    },
    /// Wrong number of arguments; the name as typed, of a subcommand with `|`.
    Arity(String),
    /// Option syntax.
    Syntax,
    /// Not a decimal 64-bit integer.
    NotInteger,
    /// A key above `limits.key_bytes_max`.
    KeyTooLarge {
        /// Its size.
        size_bytes: usize,
        /// The limit.
        limit_bytes: usize,
    },
    /// Any other text, with its code.
    Text(String),
}

impl CommandError {
    /// The error line for the client.
    #[must_use]
    pub fn reply(&self) -> Reply {
        Reply::Error(match self {
            Self::Unknown(name) => format!("ERR unknown command '{name}'{}", nearest::hint(name)),
            Self::UnknownSubcommand { container, name } => {
                format!("ERR unknown subcommand '{name}'. Try {container} HELP.")
            }
            Self::Arity(name) => format!("ERR wrong number of arguments for '{name}' command"),
            Self::Syntax => "ERR syntax error".to_owned(),
            Self::NotInteger => "ERR value is not an integer or out of range".to_owned(),
            Self::KeyTooLarge { size_bytes, limit_bytes } => format!(
                "ERR the key has {size_bytes} bytes, more than the limit of {limit_bytes} (limits.key_bytes_max)"
            ),
            Self::Text(text) => text.clone(),
        })
    }
}

/// Shorthand of the parse functions' result.
pub type Parsed = Result<Action, CommandError>;

/// What parsing may know beside the request: the session's database and the limits. A plain value, made per turn.
#[derive(Clone, Copy, Debug)]
pub struct Context {
    /// Selected database.
    pub db: DbIndex,
    /// Databases that exist.
    pub databases: u8,
    /// Bytes of a key that may be written.
    pub key_bytes_max: usize,
    /// Bytes of a value that an offset may reach.
    pub value_bytes_max: u64,
    /// Bytes of one reply.
    pub reply_bytes_max: u64,
    /// Default LIMIT of a plain KEYS; 0 = all.
    pub keys_default_limit: u64,
}

/// Finds the row of a request and checks the number of its words.
///
/// # Errors
/// Unknown command or subcommand, arity.
pub fn resolve(words: &[Bytes]) -> Result<table::Found, CommandError> {
    let name = words.first().map_or(&b""[..], |name| name);
    let container = table::find(name).ok_or_else(|| CommandError::Unknown(args::printable(name)))?;
    let Some(second) = words.get(1).filter(|_| !container.spec.subcommands.is_empty()) else {
        let fits = container.spec.arity.admits(words.len());
        return if fits { Ok(container) } else { Err(CommandError::Arity(args::printable(name))) };
    };
    let found = table::find_subcommand(&container, second).ok_or_else(|| {
        CommandError::UnknownSubcommand { container: container.spec.name, name: args::printable(second) }
    })?;
    if found.spec.arity.admits(words.len()) {
        Ok(found)
    } else {
        Err(CommandError::Arity(format!("{}|{}", args::printable(name), args::printable(second))))
    }
}

/// The row that a request means, however wrong its number of words is: a container's where the subcommand is unknown.
#[must_use]
pub fn row_of(words: &[Bytes]) -> Option<table::Found> {
    let container = table::find(words.first()?)?;
    let sub = words.get(1).and_then(|second| table::find_subcommand(&container, second));
    Some(sub.unwrap_or(container))
}

/// Turns the words of a request into an action by its row.
///
/// # Errors
/// Option syntax, numbers out of range, an oversize key.
pub fn parse(spec: &Spec, words: &[Bytes], context: &Context) -> Parsed {
    let prefix = if spec.name.contains('|') { 2 } else { 1 };
    (spec.parse)(&mut Args::new(words, prefix), context)
}

/// `CONTAINER HELP`, made of the rows.
fn help(container: &Spec) -> Reply {
    let mut lines =
        vec![format!("{} <subcommand> [<arg> [value] [opt] ...]. Subcommands are:", container.name)];
    for row in container.subcommands {
        let usage = row.usage.strip_prefix(container.name).unwrap_or(row.usage).trim_start();
        lines.push(usage.to_owned());
        lines.push(format!("    {}", row.summary));
    }
    Reply::Array(lines.into_iter().map(|line| Reply::Bulk(line.into())).collect())
}
