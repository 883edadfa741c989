//! ACL rules: the words behind `user NAME`, as Redis writes them, and users written back as such.
//!
//! ```text
//! on off  nopass resetpass  >password #sha256 <password !sha256     who may log in
//! ~glob %R~glob %W~glob  allkeys resetkeys                           keys
//! &glob  allchannels resetchannels                                   channels
//! +cmd -cmd +cmd|sub -cmd|sub +cmd|word +@cat -@cat  allcommands nocommands     commands
//! (rules)  clearselectors  reset                                     further selectors, all of it
//! ```
//!
//! Invariants
//! - Words act in their order. A fault changes nothing that anybody sees: users are made anew by each reading.
//! - A fault never repeats a password: see [`shown`].
//! - [`describe`] read again gives the same user.

use std::fmt::Write as _;

use bytes::Bytes;
use kvnode_api::acl::CATEGORIES;

use super::user::{KeyPattern, Selector, User, rows, slots_of};
use crate::command::args::printable;
use crate::command::spec::Access;
use crate::command::table;
use crate::resp::Reply;
use crate::secret::Digest;

/// What is wrong with a rule, in Redis' words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RuleError {
    /// No such command or category here.
    #[error("Unknown command or category name in ACL")]
    Unknown,
    /// Not a rule.
    #[error("Syntax error")]
    Syntax,
    /// A key pattern behind `~*`.
    #[error(
        "Adding a pattern after the * pattern (or the 'allkeys' flag) is not valid and does not have any effect. Try \
         'resetkeys' to start with an empty list of patterns"
    )]
    KeysAreOpen,
    /// A channel pattern behind `&*`.
    #[error(
        "Adding a pattern after the * pattern (or the 'allchannels' flag) is not valid and does not have any effect. \
         Try 'resetchannels' to start with an empty list of channels"
    )]
    ChannelsAreOpen,
    /// `<password` or `!hash` of one that the user has not.
    #[error("The password you are trying to remove from the user does not exist")]
    NoSuchPassword,
    /// `#hash` that is none.
    #[error(
        "The password hash must be exactly 64 characters and contain only lowercase hexadecimal characters"
    )]
    BadHash,
    /// `+container|sub|word`.
    #[error("Allowing first-arg of a subcommand is not supported")]
    TooDeep,
    /// `(` without `)`.
    #[error("Unmatched parenthesis in acl selector")]
    Unmatched,
}

/// A rule as it may stand in a log: passwords and hashes are left out.
#[must_use]
pub fn shown(rule: &str) -> String {
    match rule.as_bytes().first() {
        Some(first @ (b'>' | b'<' | b'#' | b'!')) => format!("{}(redacted)", char::from(*first)),
        // A misplaced password may stand in it.
        Some(b'(') => "(..)".to_owned(),
        _ => printable(rule.as_bytes()),
    }
}

/// The default user of a server that was told nothing: `on nopass ~* &* +@all`.
pub(super) fn open_default() -> User {
    let mut user = User::new(super::DEFAULT_USER);
    user.enabled = true;
    user.no_password = true;
    open(&mut user.root);
    user
}

fn open(selector: &mut Selector) {
    selector.all_keys = true;
    selector.all_channels = true;
    set_all(selector, true);
}

/// Cuts the words behind the name of a user into rules: a selector in parentheses is one rule, whatever blanks it has.
///
/// # Errors
/// A parenthesis that is not closed.
pub fn split<'a>(words: impl Iterator<Item = &'a str>) -> Result<Vec<String>, RuleError> {
    let mut rules: Vec<String> = Vec::new();
    let mut open: Option<String> = None;
    for word in words {
        let rule = match open.take() {
            Some(begun) => begun + " " + word,
            None => word.to_owned(),
        };
        if rule.starts_with('(') && !rule.ends_with(')') {
            open = Some(rule);
        } else {
            rules.push(rule);
        }
    }
    if open.is_some() { Err(RuleError::Unmatched) } else { Ok(rules) }
}

/// Applies one rule to a user.
///
/// # Errors
/// What is wrong with it; the user may then be thrown away.
pub fn apply(user: &mut User, rule: &str) -> Result<(), RuleError> {
    let is = |word: &str| rule.eq_ignore_ascii_case(word);
    if let Some(inner) = rule.strip_prefix('(') {
        let inner = inner.strip_suffix(')').ok_or(RuleError::Unmatched)?;
        let mut selector = Selector::default();
        inner.split_ascii_whitespace().try_for_each(|word| apply_to_selector(&mut selector, word))?;
        user.others.push(selector);
    } else if is("on") || is("off") {
        user.enabled = is("on");
    } else if is("nopass") {
        user.no_password = true;
        user.passwords.clear();
    } else if is("resetpass") {
        user.no_password = false;
        user.passwords.clear();
    } else if is("clearselectors") {
        user.others.clear();
    } else if is("reset") {
        *user = User::new(&user.name);
    } else if is("sanitize-payload") || is("skip-sanitize-payload") {
        // Of RESTORE, which does not exist here.
    } else if let Some(password) = rule.strip_prefix('>') {
        add_password(user, Digest::of(password.as_bytes()));
    } else if let Some(hash) = rule.strip_prefix('#') {
        add_password(user, Digest::from_hex(hash).ok_or(RuleError::BadHash)?);
    } else if let Some(password) = rule.strip_prefix('<') {
        remove_password(user, Digest::of(password.as_bytes()))?;
    } else if let Some(hash) = rule.strip_prefix('!') {
        remove_password(user, Digest::from_hex(hash).ok_or(RuleError::BadHash)?)?;
    } else {
        apply_to_selector(&mut user.root, rule)?;
    }
    Ok(())
}

/// Takes a command or a category from all selectors of a user, behind whatever they permit.
///
/// # Errors
/// No such command or category.
pub(super) fn forbid(user: &mut User, word: &str) -> Result<(), RuleError> {
    let rule = format!("-{word}");
    apply_to_selector(&mut user.root, &rule)?;
    user.others.iter_mut().try_for_each(|selector| apply_to_selector(selector, &rule))
}

/// Adds a password, once.
pub(super) fn add_password(user: &mut User, digest: Digest) {
    user.no_password = false;
    if !digest.is_among(&user.passwords) {
        user.passwords.push(digest);
    }
}

fn remove_password(user: &mut User, digest: Digest) -> Result<(), RuleError> {
    if !digest.is_among(&user.passwords) {
        return Err(RuleError::NoSuchPassword);
    }
    user.passwords.retain(|other| *other != digest);
    Ok(())
}

fn apply_to_selector(selector: &mut Selector, rule: &str) -> Result<(), RuleError> {
    let is = |word: &str| rule.eq_ignore_ascii_case(word);
    if is("allkeys") || rule == "~*" {
        selector.all_keys = true;
        selector.keys.clear();
    } else if is("resetkeys") {
        selector.all_keys = false;
        selector.keys.clear();
    } else if is("allchannels") || rule == "&*" {
        selector.all_channels = true;
        selector.channels.clear();
    } else if is("resetchannels") {
        selector.all_channels = false;
        selector.channels.clear();
    } else if is("allcommands") || is("+@all") {
        set_all(selector, true);
    } else if is("nocommands") || is("-@all") {
        set_all(selector, false);
    } else if rule.starts_with('~') || rule.starts_with('%') {
        add_keys(selector, rule)?;
    } else if let Some(glob) = rule.strip_prefix('&') {
        add_channel(selector, glob)?;
    } else if let Some(name) = rule.strip_prefix('+') {
        change_commands(selector, name, true)?;
    } else if let Some(name) = rule.strip_prefix('-') {
        change_commands(selector, name, false)?;
    } else {
        return Err(RuleError::Syntax);
    }
    Ok(())
}

fn set_all(selector: &mut Selector, allow: bool) {
    selector.commands.fill(allow);
    selector.from_all = allow;
    selector.rules.clear();
    selector.first_words.clear();
}

/// `~glob`, `%R~glob`, `%W~glob`, `%RW~glob`.
fn add_keys(selector: &mut Selector, rule: &str) -> Result<(), RuleError> {
    if selector.all_keys {
        return Err(RuleError::KeysAreOpen);
    }
    let (access, glob) = if let Some(glob) = rule.strip_prefix('~') {
        (Access::BOTH, glob)
    } else {
        let (letters, glob) = rule.get(1..).and_then(|rest| rest.split_once('~')).ok_or(RuleError::Syntax)?;
        let mut access = Access::NONE;
        for letter in letters.bytes() {
            match letter.to_ascii_uppercase() {
                b'R' if !access.read => access.read = true,
                b'W' if !access.write => access.write = true,
                _ => return Err(RuleError::Syntax),
            }
        }
        if access == Access::NONE {
            return Err(RuleError::Syntax);
        }
        (access, glob)
    };
    // `%RW~*` is all keys too, but not written so: it stays a pattern, as in Redis.
    match selector.keys.iter_mut().find(|known| known.glob == glob.as_bytes()) {
        Some(known) => {
            known.access.read |= access.read;
            known.access.write |= access.write;
        }
        None => selector.keys.push(KeyPattern { glob: Bytes::copy_from_slice(glob.as_bytes()), access }),
    }
    Ok(())
}

fn add_channel(selector: &mut Selector, glob: &str) -> Result<(), RuleError> {
    if selector.all_channels {
        return Err(RuleError::ChannelsAreOpen);
    }
    if !selector.channels.iter().any(|known| known == glob.as_bytes()) {
        selector.channels.push(Bytes::copy_from_slice(glob.as_bytes()));
    }
    Ok(())
}

/// `cmd`, `cmd|sub`, `cmd|word`, `@category`.
fn change_commands(selector: &mut Selector, name: &str, allow: bool) -> Result<(), RuleError> {
    let name = name.to_ascii_lowercase();
    if let Some(category) = name.strip_prefix('@') {
        if !CATEGORIES.contains(&category) {
            return Err(RuleError::Unknown);
        }
        let in_it =
            |found: &table::Found| found.spec.flags.categories().any(|own| own.get(1..) == Some(category));
        for found in rows().filter(in_it) {
            change(selector, &found, allow);
        }
    } else if let Some(found) = table::find_full(name.as_bytes()) {
        change(selector, &found, allow);
    } else {
        let (command, word) = name.rsplit_once('|').ok_or(RuleError::Unknown)?;
        let found = table::find_full(command.as_bytes()).ok_or(RuleError::Unknown)?;
        if found.spec.name.contains('|') {
            return Err(RuleError::TooDeep);
        }
        if word.is_empty() {
            return Err(RuleError::Syntax);
        }
        if !allow || !found.spec.subcommands.is_empty() {
            return Err(RuleError::Unknown);
        }
        let words = selector.first_words.entry(found.slot).or_default();
        if !words.iter().any(|known| known == word.as_bytes()) {
            words.push(Bytes::copy_from_slice(word.as_bytes()));
        }
    }
    note(selector, &name, allow);
    Ok(())
}

/// Allows or forbids a command with all its subcommands.
fn change(selector: &mut Selector, found: &table::Found, allow: bool) {
    for slot in slots_of(found) {
        selector.commands.put(slot, allow);
        selector.first_words.remove(&slot);
    }
}

/// Writes a rule down in the place of what it makes void: itself, and the subcommands of its command.
fn note(selector: &mut Selector, name: &str, allow: bool) {
    let below = format!("{name}|");
    selector.rules.retain(|(_, known)| known != name && !known.starts_with(&below));
    selector.rules.push((allow, name.to_owned()));
}

/// `+@all -keys`: the rules on commands of a selector.
fn commands_text(selector: &Selector) -> String {
    let mut text = String::from(if selector.from_all { "+@all" } else { "-@all" });
    for (allow, name) in &selector.rules {
        // Writing to a string cannot fail.
        let _ = write!(text, " {}{name}", if *allow { '+' } else { '-' });
    }
    text
}

/// `~app:* %R~shared:*`, or `~*`.
fn keys_text(selector: &Selector) -> String {
    if selector.all_keys {
        return "~*".to_owned();
    }
    let one = |rule: &KeyPattern| {
        let glob = String::from_utf8_lossy(&rule.glob);
        match (rule.access.read, rule.access.write) {
            (true, false) => format!("%R~{glob}"),
            (false, true) => format!("%W~{glob}"),
            // `~*` would be read as all keys, behind which no pattern may stand.
            _ if glob == "*" => "%RW~*".to_owned(),
            _ => format!("~{glob}"),
        }
    };
    selector.keys.iter().map(one).collect::<Vec<_>>().join(" ")
}

/// `&news:*`, or `&*`.
fn channels_text(selector: &Selector) -> String {
    if selector.all_channels {
        return "&*".to_owned();
    }
    let one = |glob: &Bytes| format!("&{}", String::from_utf8_lossy(glob));
    selector.channels.iter().map(one).collect::<Vec<_>>().join(" ")
}

fn selector_text(selector: &Selector) -> String {
    let reset = if selector.all_channels { "" } else { "resetchannels" };
    let parts = [keys_text(selector), reset.to_owned(), channels_text(selector), commands_text(selector)];
    parts.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join(" ")
}

/// A user as a line of an ACL file: ACL LIST.
#[must_use]
pub fn describe(user: &User) -> String {
    let mut text = format!("user {} {}", user.name, if user.enabled { "on" } else { "off" });
    if user.no_password {
        text.push_str(" nopass");
    }
    for digest in &user.passwords {
        let _ = write!(text, " #{}", digest.hex());
    }
    let _ = write!(text, " {}", selector_text(&user.root));
    for selector in &user.others {
        let _ = write!(text, " ({})", selector_text(selector));
    }
    text
}

fn bulk(text: impl Into<String>) -> Reply {
    Reply::Bulk(Bytes::from(text.into()))
}

/// ACL GETUSER.
#[must_use]
pub fn describe_parts(user: &User) -> Reply {
    let parts = |selector: &Selector| {
        vec![
            (bulk("commands"), bulk(commands_text(selector))),
            (bulk("keys"), bulk(keys_text(selector))),
            (bulk("channels"), bulk(channels_text(selector))),
        ]
    };
    let flags = [Some(if user.enabled { "on" } else { "off" }), user.no_password.then_some("nopass")];
    let mut map = vec![
        (bulk("flags"), Reply::Set(flags.into_iter().flatten().map(bulk).collect())),
        (bulk("passwords"), Reply::Array(user.passwords.iter().map(|digest| bulk(digest.hex())).collect())),
    ];
    map.extend(parts(&user.root));
    let others = user.others.iter().map(|selector| Reply::Map(parts(selector)));
    map.push((bulk("selectors"), Reply::Array(others.collect())));
    Reply::Map(map)
}
