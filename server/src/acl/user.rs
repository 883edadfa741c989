//! Users, their selectors, and the login of a connection.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;

use super::Reason;
use crate::command::spec::{Access, Channels};
use crate::command::table::{Found, SLOTS};
use crate::command::{Flags, Spec, table};
use crate::secret::{Digest, Secret};
use crate::store::glob;

/// Who a connection is that never logged in.
pub const DEFAULT_USER: &str = "default";

const WORDS: usize = SLOTS.div_ceil(64);

/// A set of rows of the command table, by slot.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct CommandSet([u64; WORDS]);

impl CommandSet {
    pub(super) fn has(&self, slot: usize) -> bool {
        self.0.get(slot / 64).is_some_and(|word| word & 1 << (slot % 64) != 0)
    }

    pub(super) fn put(&mut self, slot: usize, present: bool) {
        if let Some(word) = self.0.get_mut(slot / 64) {
            *word = *word & !(1 << (slot % 64)) | u64::from(present) << (slot % 64);
        }
    }

    pub(super) fn fill(&mut self, present: bool) {
        self.0 = [if present { u64::MAX } else { 0 }; WORDS];
    }
}

/// Keys that match a glob, for reading, writing or both.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct KeyPattern {
    pub(super) glob: Bytes,
    pub(super) access: Access,
}

/// One set of permissions; a request must be permitted by one selector as a whole.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selector {
    pub(super) commands: CommandSet,
    /// `+cmd|word` of commands without subcommands: permitted if word 1 is this.
    pub(super) first_words: BTreeMap<usize, Vec<Bytes>>,
    /// `+@all` is the base of the rules, `-@all` otherwise.
    pub(super) from_all: bool,
    /// Rules on commands since the base, as written, for ACL LIST.
    pub(super) rules: Vec<(bool, String)>,
    pub(super) all_keys: bool,
    pub(super) keys: Vec<KeyPattern>,
    pub(super) all_channels: bool,
    pub(super) channels: Vec<Bytes>,
}

impl Selector {
    /// The reason and the word of the first refusal.
    pub(super) fn check(&self, found: &Found, words: &[Bytes]) -> Result<(), (Reason, usize)> {
        if !found.spec.flags.has(Flags::NO_AUTH) && !self.permits_command(found.slot, words) {
            return Err((Reason::Command, 0));
        }
        self.check_keys(found.spec, words).map_err(|at| (Reason::Key, at))?;
        self.check_channels(found.spec.channels, words).map_err(|at| (Reason::Channel, at))
    }

    fn permits_command(&self, slot: usize, words: &[Bytes]) -> bool {
        self.commands.has(slot)
            || self.first_words.get(&slot).zip(words.get(1)).is_some_and(|(allowed, word)| {
                allowed.iter().any(|allowed| allowed.eq_ignore_ascii_case(word))
            })
    }

    fn check_keys(&self, spec: &Spec, words: &[Bytes]) -> Result<(), usize> {
        if self.all_keys {
            return Ok(());
        }
        let refused = spec.key_uses(words).find(|(_, key, access)| !self.permits_key(key, *access));
        if let Some((at, ..)) = refused {
            return Err(at);
        }
        match spec.glob_use(words) {
            Some((at, pattern, access)) if !self.permits_glob(pattern, access) => Err(at),
            _ => Ok(()),
        }
    }

    fn permits_key(&self, key: &[u8], access: Access) -> bool {
        self.keys.iter().any(|rule| rule.access.covers(access) && glob::matches(&rule.glob, key))
    }

    /// Whether every key that matches `pattern` is permitted. Said yes only where it is certain: the same glob, or a
    /// rule `prefix*` whose prefix every match has.
    fn permits_glob(&self, pattern: &[u8], access: Access) -> bool {
        let (prefix, _) = glob::literal_prefix(pattern);
        self.keys.iter().filter(|rule| rule.access.covers(access)).any(|rule| {
            let stem = rule.glob.strip_suffix(b"*").map(glob::literal_prefix);
            // `\*` at the end is no star: its stem ends in a backslash, which stands for itself there.
            let open = !rule.glob.ends_with(b"\\*");
            rule.glob == pattern
                || stem.is_some_and(|(stem, whole)| whole && open && prefix.starts_with(&stem))
        })
    }

    fn check_channels(&self, channels: Channels, words: &[Bytes]) -> Result<(), usize> {
        let (from, to) = match channels {
            Channels::None => return Ok(()),
            Channels::Published => (1, 2),
            Channels::Listened | Channels::Patterns => (1, words.len()),
        };
        let names = words.iter().enumerate().take(to).skip(from);
        let refused = names.into_iter().find(|(_, name)| {
            !(match channels {
                Channels::Patterns => self.permits_channel_pattern(name),
                _ => self.permits_channel(name),
            })
        });
        refused.map_or(Ok(()), |(at, _)| Err(at))
    }

    fn permits_channel(&self, name: &[u8]) -> bool {
        self.all_channels || self.channels.iter().any(|pattern| glob::matches(pattern, name))
    }

    /// A pattern may be listened to if a rule says exactly it, as in Redis.
    fn permits_channel_pattern(&self, pattern: &[u8]) -> bool {
        self.all_channels || self.channels.iter().any(|rule| rule == pattern)
    }

    fn is_unlimited(&self) -> bool {
        self.all_keys && self.all_channels && (0..SLOTS).all(|slot| self.commands.has(slot))
    }
}

/// A user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    pub(super) name: String,
    pub(super) enabled: bool,
    pub(super) no_password: bool,
    pub(super) passwords: Vec<Digest>,
    pub(super) root: Selector,
    pub(super) others: Vec<Selector>,
    unlimited: bool,
}

impl User {
    /// A user as Redis makes one: off, without password, keys, channels and commands.
    #[must_use]
    pub fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            enabled: false,
            no_password: false,
            passwords: Vec::new(),
            root: Selector::default(),
            others: Vec::new(),
            unlimited: false,
        }
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// It may log in.
    #[must_use]
    pub fn is_enabled(&self) -> bool {
        self.enabled
    }

    /// It logs in with any password; the default user even without.
    #[must_use]
    pub fn needs_no_password(&self) -> bool {
        self.no_password
    }

    /// It may do everything with everything.
    #[must_use]
    pub fn is_unlimited(&self) -> bool {
        self.unlimited
    }

    /// The root selector, then the others.
    pub(super) fn selectors(&self) -> impl Iterator<Item = &Selector> {
        std::iter::once(&self.root).chain(&self.others)
    }

    /// Called when all rules are in: finds out once what every request asks.
    pub(super) fn settle(&mut self) {
        let unlimited = self.root.is_unlimited() || self.others.iter().any(Selector::is_unlimited);
        self.unlimited = unlimited;
    }

    /// Whether messages of this channel, or of this pattern, may reach the user.
    #[must_use]
    pub fn may_listen(&self, name: &[u8], is_pattern: bool) -> bool {
        self.unlimited
            || self.selectors().any(|selector| {
                if is_pattern {
                    selector.permits_channel_pattern(name)
                } else {
                    selector.permits_channel(name)
                }
            })
    }
}

/// All users of a moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Users {
    by_name: BTreeMap<String, Arc<User>>,
}

impl Default for Users {
    /// Only the default user, who needs no password and may do everything: a server without `requirepass_file` and
    /// `acl_file`.
    fn default() -> Self {
        Self::of([super::rules::open_default()])
    }
}

impl Users {
    /// These users; the default user must be among them.
    pub(super) fn of(users: impl IntoIterator<Item = User>) -> Self {
        let settled = users.into_iter().map(|mut user| {
            user.settle();
            (user.name.clone(), Arc::new(user))
        });
        Self { by_name: settled.collect() }
    }

    /// The user of a name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Arc<User>> {
        self.by_name.get(name)
    }

    /// The user of a client's word.
    #[must_use]
    pub fn find(&self, name: &[u8]) -> Option<&Arc<User>> {
        self.get(std::str::from_utf8(name).ok()?)
    }

    /// All, by name.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<User>> {
        self.by_name.values()
    }

    /// True if whoever connects is the default user, without a password.
    #[must_use]
    pub fn are_open(&self) -> bool {
        self.get(DEFAULT_USER).is_some_and(|user| user.enabled && user.no_password)
    }

    /// Checks a name and a password. The work is the same for a name that does not exist.
    #[must_use]
    pub fn authenticate(&self, name: &[u8], password: &Secret) -> Option<Login> {
        let digest = password.digest();
        let user = self.find(name);
        let fits = digest.is_among(user.map_or(&[], |user| &user.passwords));
        let user = user.filter(|user| user.enabled && (user.no_password || fits))?;
        let proof = if fits { Proof::Password(digest) } else { Proof::None };
        Some(Login { name: user.name.as_str().into(), proof: Some(proof), user: Some(Arc::clone(user)) })
    }
}

impl Users {
    /// The login of a verified certificate with these names: that of the first one that an enabled user has.
    #[must_use]
    pub fn certified(&self, names: &[String]) -> Option<Login> {
        let user = names.iter().filter_map(|name| self.get(name)).find(|user| user.enabled)?;
        let name = user.name.as_str().into();
        Some(Login { name, proof: Some(Proof::Certificate), user: Some(Arc::clone(user)) })
    }
}

/// How a connection has proved who it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Proof {
    /// The user needed none.
    None,
    /// By this password.
    Password(Digest),
    /// By a certificate with its name.
    Certificate,
    /// It is a client inside this process.
    Inside,
}

/// Who a connection is. It outlives a change of the users as long as its proof does.
#[derive(Clone, Debug)]
pub struct Login {
    name: Arc<str>,
    proof: Option<Proof>,
    user: Option<Arc<User>>,
}

impl Login {
    /// Of a new connection: the default user if that one needs no password, nobody otherwise.
    #[must_use]
    pub fn unproved(users: &Users) -> Self {
        let proof = users.are_open().then_some(Proof::None);
        Self { name: DEFAULT_USER.into(), proof, user: None }.renewed(users)
    }

    /// Of a client inside this process.
    #[must_use]
    pub fn inside(users: &Users) -> Self {
        Self { name: DEFAULT_USER.into(), proof: Some(Proof::Inside), user: None }.renewed(users)
    }

    /// Under other users: nobody if its user is gone or off, or its password is not valid any more.
    #[must_use]
    pub fn renewed(&self, users: &Users) -> Self {
        let stands = |user: &&Arc<User>| match self.proof {
            None => false,
            Some(Proof::None) => user.enabled && user.no_password,
            Some(Proof::Password(digest)) => {
                user.enabled && (user.no_password || digest.is_among(&user.passwords))
            }
            // The certificate was verified when the connection began; what takes the login away is the user's end.
            Some(Proof::Certificate) => user.enabled,
            Some(Proof::Inside) => true,
        };
        let user = users.get(&self.name).filter(stands).cloned();
        Self { name: Arc::clone(&self.name), proof: self.proof, user }
    }

    /// The same, but for one whose user stands while its password does not, as at the end of a rotation: it stands until its
    /// connection has ended in order, with the rights of that user. The caller sees to that end.
    #[must_use]
    pub fn renewed_or_parting(&self, users: &Users) -> Self {
        let renewed = self.renewed(users);
        let parts =
            self.user.is_some() && renewed.user.is_none() && matches!(self.proof, Some(Proof::Password(_)));
        if !parts {
            return renewed;
        }
        Self { user: users.get(&self.name).filter(|user| user.enabled).cloned(), ..renewed }
    }

    /// The user; `None` = not logged in.
    #[must_use]
    pub fn user(&self) -> Option<&Arc<User>> {
        self.user.as_ref()
    }

    /// Name of the user, `default` before login.
    #[must_use]
    pub fn name(&self) -> &Arc<str> {
        &self.name
    }
}

/// Slots of a row and, of a container, of its subcommands.
pub(super) fn slots_of(found: &Found) -> std::ops::RangeInclusive<usize> {
    found.slot..=found.slot + found.spec.subcommands.len()
}

/// Every row with its slot.
pub(super) fn rows() -> impl Iterator<Item = Found> {
    table::rows().enumerate().map(|(slot, spec)| Found { spec, slot })
}
