//! The form of a row of the command table, and the small vocabularies in it.
//!
//! Invariant: a row is plain data and one function; everything told about a command is derived from its row.

use bytes::Bytes;

use super::args::strict_int;
use super::{Args, CommandError, Context, Parsed};
use crate::resp::Reply;

/// Number of words of a request, the name included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arity {
    /// Printed as `n`.
    Exactly(usize),
    /// Printed as `-n`.
    AtLeast(usize),
}

impl Arity {
    /// True if a request of `words` words fits.
    #[must_use]
    pub fn admits(self, words: usize) -> bool {
        match self {
            Self::Exactly(n) => words == n,
            Self::AtLeast(n) => words >= n,
        }
    }

    /// The smallest number of words.
    #[must_use]
    pub fn minimum(self) -> usize {
        match self {
            Self::Exactly(n) | Self::AtLeast(n) => n,
        }
    }

    /// As COMMAND prints it.
    #[must_use]
    pub fn as_redis(self) -> i64 {
        match self {
            Self::Exactly(n) => i64::try_from(n).unwrap_or(i64::MAX),
            Self::AtLeast(n) => -i64::try_from(n).unwrap_or(i64::MAX),
        }
    }
}

/// Set of command flags (Redis' names) and of the ACL categories that do not follow from them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flags(u32);

impl Flags {
    /// No flag.
    pub const NONE: Self = Self(0);
    /// Goes through the log.
    pub const WRITE: Self = Self(1);
    /// Reads the data.
    pub const READONLY: Self = Self(1 << 1);
    /// Refused when there is no room.
    pub const DENYOOM: Self = Self(1 << 2);
    /// Administration.
    pub const ADMIN: Self = Self(1 << 3);
    /// Not from scripts.
    pub const NOSCRIPT: Self = Self(1 << 4);
    /// Also while loading.
    pub const LOADING: Self = Self(1 << 5);
    /// Also without a leader.
    pub const STALE: Self = Self(1 << 6);
    /// Constant time.
    pub const FAST: Self = Self(1 << 7);
    /// Before authentication.
    pub const NO_AUTH: Self = Self(1 << 8);
    /// Not inside MULTI.
    pub const NO_MULTI: Self = Self(1 << 9);
    /// Category @keyspace.
    pub const KEYSPACE: Self = Self(1 << 16);
    /// Category @string.
    pub const STRING: Self = Self(1 << 17);
    /// Category @connection.
    pub const CONNECTION: Self = Self(1 << 18);
    /// Category @dangerous.
    pub const DANGEROUS: Self = Self(1 << 19);
    /// Category @bitmap.
    pub const BITMAP: Self = Self(1 << 20);
    /// Category @transaction.
    pub const TRANSACTION: Self = Self(1 << 21);
    /// Category @pubsub.
    pub const PUBSUB: Self = Self(1 << 22);
    /// Category @scripting.
    pub const SCRIPTING: Self = Self(1 << 23);

    /// Category @admin without the flag.
    pub const ADMIN_CATEGORY: Self = Self(1 << 24);

    /// Answers on any node at any time.
    pub const ALWAYS: Self = Self::LOADING.with(Self::STALE);
    /// Administration of this node.
    pub const ADMIN_ALWAYS: Self = Self::ALWAYS.with(Self::ADMIN).with(Self::NOSCRIPT);

    const WIRE: [(Self, &'static str); 10] = [
        (Self::WRITE, "write"),
        (Self::READONLY, "readonly"),
        (Self::DENYOOM, "denyoom"),
        (Self::ADMIN, "admin"),
        (Self::NOSCRIPT, "noscript"),
        (Self::LOADING, "loading"),
        (Self::STALE, "stale"),
        (Self::FAST, "fast"),
        (Self::NO_AUTH, "no_auth"),
        (Self::NO_MULTI, "no_multi"),
    ];

    /// Both sets together.
    #[must_use]
    pub const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// True if all flags of `other` are set.
    #[must_use]
    pub const fn has(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Names of the flags, as COMMAND prints them.
    pub fn names(self) -> impl Iterator<Item = &'static str> {
        Self::WIRE.into_iter().filter(move |(flag, _)| self.has(*flag)).map(|(_, name)| name)
    }

    /// ACL categories with `@`, in the order of [`kvnode_api::acl::CATEGORIES`].
    pub fn categories(self) -> impl Iterator<Item = &'static str> {
        [
            (self.has(Self::KEYSPACE), "@keyspace"),
            (self.has(Self::READONLY), "@read"),
            (self.has(Self::WRITE), "@write"),
            (self.has(Self::STRING), "@string"),
            (self.has(Self::BITMAP), "@bitmap"),
            (self.has(Self::PUBSUB), "@pubsub"),
            (self.has(Self::ADMIN) || self.has(Self::ADMIN_CATEGORY), "@admin"),
            (self.has(Self::FAST), "@fast"),
            (!self.has(Self::FAST), "@slow"),
            (self.has(Self::DANGEROUS) || self.has(Self::ADMIN), "@dangerous"),
            (self.has(Self::CONNECTION), "@connection"),
            (self.has(Self::TRANSACTION), "@transaction"),
            (self.has(Self::SCRIPTING), "@scripting"),
        ]
        .into_iter()
        .filter_map(|(set, name)| set.then_some(name))
    }
}

/// What happens to a value, as far as permissions go.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Access {
    /// It is shown.
    pub read: bool,
    /// It is changed.
    pub write: bool,
}

impl Access {
    /// Neither: a command that only tells whether a key exists.
    pub const NONE: Self = Self { read: false, write: false };
    /// Both.
    pub const BOTH: Self = Self { read: true, write: true };

    /// From the key-spec flags of Redis.
    #[must_use]
    pub fn of(flags: &[&str]) -> Self {
        let has = |wanted: &[&str]| flags.iter().any(|flag| wanted.contains(flag));
        Self { read: has(&["access"]), write: has(&["update", "insert", "delete"]) }
    }

    /// True of words that stand where keys stand and are none (shard channels).
    #[must_use]
    pub fn is_of_no_key(flags: &[&str]) -> bool {
        flags.contains(&"not_key")
    }

    /// True if whoever may do this may do `other`.
    #[must_use]
    pub fn covers(self, other: Self) -> bool {
        (self.read || !other.read) && (self.write || !other.write)
    }
}

/// Which words of a request are channels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Channels {
    /// None.
    None,
    /// Word 1 is published to.
    Published,
    /// All words are listened to.
    Listened,
    /// All words are patterns that are listened to.
    Patterns,
}

/// Where the keys of a request stand, as Redis counts (the name is word 0; `last` -1 is the last word; 0 = no keys).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyRange {
    /// First key.
    pub first: i64,
    /// Last key.
    pub last: i64,
    /// Distance of keys.
    pub step: i64,
    /// Key-spec flags of Redis: what happens to the keys.
    pub access: &'static [&'static str],
}

impl KeyRange {
    /// No keys.
    pub const NONE: Self = Self { first: 0, last: 0, step: 0, access: &[] };

    /// One key, word `at`.
    #[must_use]
    pub const fn one(at: i64, access: &'static [&'static str]) -> Self {
        Self { first: at, last: at, step: 1, access }
    }

    /// Keys from word `first` to the end, every `step` words.
    #[must_use]
    pub const fn from(first: i64, step: i64, access: &'static [&'static str]) -> Self {
        Self { first, last: -1, step, access }
    }

    /// Keys from word `first` on, every `step` words, as many as the word before them says.
    #[must_use]
    pub const fn counted(first: i64, step: i64, access: &'static [&'static str]) -> Self {
        Self { first, last: Self::COUNTED, step, access }
    }

    const COUNTED: i64 = i64::MIN;

    /// True if a word of the request tells the number of keys.
    #[must_use]
    pub const fn is_counted(&self) -> bool {
        self.last == Self::COUNTED
    }

    /// The keys, with their places, among the words of a request that passed the arity check.
    pub fn places<'a>(&self, words: &'a [Bytes]) -> impl Iterator<Item = (usize, &'a Bytes)> + use<'a> {
        let first = usize::try_from(self.first).unwrap_or(0);
        let last = usize::try_from(self.last).unwrap_or(words.len().saturating_sub(1));
        let step = usize::try_from(self.step).unwrap_or(1).max(1);
        let count = if first == 0 {
            0
        } else if self.is_counted() {
            let told = words.get(first - 1).and_then(|word| strict_int(word));
            told.and_then(|count| usize::try_from(count).ok()).unwrap_or(0)
        } else {
            (last + 1).saturating_sub(first).div_ceil(step)
        };
        words.iter().enumerate().skip(first).step_by(step).take(count)
    }
}

/// Form of a command's reply (errors aside); checked against every reply in debug builds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReplyShape {
    /// `+OK`.
    Ok,
    /// A simple string.
    Simple,
    /// A simple string or a bulk (PING).
    SimpleOrBulk,
    /// A bulk or verbatim string.
    Bulk,
    /// A bulk or nil.
    BulkOrNil,
    /// An integer.
    Integer,
    /// An integer or nil.
    IntegerOrNil,
    /// `+OK` or nil.
    OkOrNil,
    /// `+OK`, a bulk or nil (SET with GET).
    OkOrBulkOrNil,
    /// An array or nil (EXEC).
    ArrayOrNil,
    /// Bulk, integer, map or array (LCS).
    BulkOrIntegerOrMap,
    /// Anything (EVAL).
    Any,
    /// An array.
    Array,
    /// A map.
    Map,
    /// A map or nil (ACL GETUSER).
    MapOrNil,
    /// OK or an array (ACL LOG).
    OkOrArray,
    /// Nothing: the connection closes.
    Nothing,
    /// A count, or OK in an old form (CLIENT KILL).
    OkOrInteger,
    /// A container: its subcommands tell.
    Container,
}

impl ReplyShape {
    /// True if `reply` has this form or is an error.
    #[must_use]
    pub fn admits(self, reply: &Reply) -> bool {
        let simple = matches!(reply, Reply::Ok | Reply::Simple(_));
        let bulk = matches!(reply, Reply::Bulk(_) | Reply::Verbatim(_));
        let nil = matches!(reply, Reply::Nil);
        let integer = matches!(reply, Reply::Integer(_));
        matches!(reply, Reply::Error(_))
            || match self {
                Self::Ok => matches!(reply, Reply::Ok),
                Self::Simple => simple,
                Self::SimpleOrBulk => simple || bulk,
                Self::Bulk => bulk,
                Self::BulkOrNil => bulk || nil,
                Self::Integer => integer,
                Self::IntegerOrNil => integer || nil,
                Self::OkOrNil => nil || matches!(reply, Reply::Ok),
                Self::OkOrBulkOrNil => bulk || nil || matches!(reply, Reply::Ok),
                Self::ArrayOrNil => nil || matches!(reply, Reply::Array(_) | Reply::NilArray),
                Self::BulkOrIntegerOrMap => bulk || integer || matches!(reply, Reply::Map(_)),
                Self::Any => true,
                Self::Array => matches!(reply, Reply::Array(_)),
                Self::Map => matches!(reply, Reply::Map(_)),
                Self::MapOrNil => nil || matches!(reply, Reply::Map(_)),
                Self::OkOrArray => matches!(reply, Reply::Ok | Reply::Array(_)),
                Self::OkOrInteger => integer || matches!(reply, Reply::Ok),
                Self::Nothing | Self::Container => false,
            }
    }
}

/// Group of a command, as COMMAND DOCS and `COMMANDS.md` sort them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Group {
    /// Strings.
    String,
    /// Bits of strings.
    Bitmap,
    /// Keys of any type.
    Generic,
    /// Transactions.
    Transactions,
    /// Scripts.
    Scripting,
    /// Messages.
    PubSub,
    /// The connection.
    Connection,
    /// The server.
    Server,
    /// The Redis Cluster view.
    Cluster,
    /// The Raft group.
    Raft,
}

impl Group {
    /// All, in the order of the document.
    pub const ALL: [Self; 10] = [
        Self::String,
        Self::Bitmap,
        Self::Generic,
        Self::Transactions,
        Self::Scripting,
        Self::PubSub,
        Self::Connection,
        Self::Server,
        Self::Raft,
        Self::Cluster,
    ];

    /// Redis' name of the group; `raft` is ours.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::String => "string",
            Self::Bitmap => "bitmap",
            Self::Generic => "generic",
            Self::Transactions => "transactions",
            Self::Scripting => "scripting",
            Self::PubSub => "pubsub",
            Self::Connection => "connection",
            Self::Server => "server",
            Self::Cluster => "cluster",
            Self::Raft => "raft",
        }
    }
}

/// What the words of a request say of its keys: flags of a key specification.
pub type KeyFlags = fn(&[Bytes]) -> &'static [&'static str];

/// One row of the command table.
#[derive(Debug)]
pub struct Spec {
    /// Upper case; a subcommand's is `CONTAINER|NAME`. The table is sorted by it.
    pub name: &'static str,
    /// Number of words.
    pub arity: Arity,
    /// What it does and where it may run.
    pub flags: Flags,
    /// Where its keys stand.
    pub keys: KeyRange,
    /// Where further keys stand, which are used in another way.
    pub more_keys: KeyRange,
    /// What is done to its keys where the words tell: key-spec flags in place of those of `keys`.
    pub access: Option<KeyFlags>,
    /// What is done to all keys that match word 1, a glob.
    pub glob: Option<fn(&[Bytes]) -> Access>,
    /// Its channels.
    pub channels: Channels,
    /// Form of its reply.
    pub reply: ReplyShape,
    /// Group.
    pub group: Group,
    /// First version of Redis that had it, or of kvnode for our own.
    pub since: &'static str,
    /// Syntax; begins with the name, `[..]` is optional, `a|b` is a choice.
    pub usage: &'static str,
    /// One sentence.
    pub summary: &'static str,
    /// Where it differs from Redis, for `COMMANDS.md`; empty = not. Rows that Redis lacks say "not in Redis".
    pub difference: &'static str,
    /// Rows of a container, sorted.
    pub subcommands: &'static [&'static Spec],
    /// From words to an action; arity has been checked.
    pub parse: fn(&mut Args<'_>, &Context) -> Parsed,
}

impl Spec {
    /// Base of rows: `Spec { name, .., ..Spec::ROW }` leaves out what a row does not have.
    pub const ROW: Self = Self {
        name: "",
        arity: Arity::AtLeast(1),
        flags: Flags::NONE,
        keys: KeyRange::NONE,
        more_keys: KeyRange::NONE,
        access: None,
        glob: None,
        channels: Channels::None,
        reply: ReplyShape::Ok,
        group: Group::Server,
        since: "",
        usage: "",
        summary: "",
        difference: "",
        subcommands: &[],
        parse: |_, _| Err(CommandError::Syntax),
    };

    /// Base of a container of subcommands.
    pub const CONTAINER: Self = Self { arity: Arity::AtLeast(2), reply: ReplyShape::Container, ..Self::ROW };

    /// The keys of a request that passed the arity check; of shard channels too, which have a hash slot as keys do.
    pub fn keys_of<'a>(&self, words: &'a [Bytes]) -> impl Iterator<Item = &'a Bytes> + use<'a> {
        self.keys.places(words).chain(self.more_keys.places(words)).map(|(_, key)| key)
    }

    /// The keys with their places, and what is done to them.
    pub fn key_uses<'a>(
        &self,
        words: &'a [Bytes],
    ) -> impl Iterator<Item = (usize, &'a Bytes, Access)> + use<'a> {
        let first = Access::of(self.access.map_or(self.keys.access, |tell| tell(words)));
        let more = Access::of(self.more_keys.access);
        let used = |access: Access| move |(at, key): (usize, &'a Bytes)| (at, key, access);
        let keys = if Access::is_of_no_key(self.keys.access) { &KeyRange::NONE } else { &self.keys };
        keys.places(words).map(used(first)).chain(self.more_keys.places(words).map(used(more)))
    }

    /// The glob of a request that names keys by one, its place, and what is done to those that match.
    #[must_use]
    pub fn glob_use<'a>(&self, words: &'a [Bytes]) -> Option<(usize, &'a Bytes, Access)> {
        let access = self.glob?(words);
        let pattern = words.get(1).filter(|_| access != Access::NONE)?;
        Some((1, pattern, access))
    }

    /// First, last and step as COMMAND prints them: what a client that knows ranges only can be told.
    #[must_use]
    pub fn key_range(&self) -> (i64, i64, i64) {
        let (keys, more) = (&self.keys, &self.more_keys);
        match (keys.is_counted(), more.first) {
            (true, _) => (0, 0, 0),
            (false, 0) => (keys.first, keys.last, keys.step),
            (false, _) => (keys.first, more.last, more.step),
        }
    }

    /// Name of the container of a subcommand, or of the command itself.
    #[must_use]
    pub fn container_name(&self) -> &'static str {
        self.name.split('|').next().unwrap_or(self.name)
    }
}
