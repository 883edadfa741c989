//! The files that users come from: `requirepass_file` and `acl_file`, read as a whole each time.
//!
//! ```text
//! requirepass_file   secret\n                       each line is a valid password of the user default
//! acl_file           user default on ~* &* +@all    rules of the users, as Redis writes them; # begins a comment
//!                    user app on #5e88.. ~app:* +@read
//! ```
//!
//! Invariants
//! - All or nothing: a fault in either file leaves the users as they were.
//! - Every fault is told at once, with its line, and none with a password.
//! - The files are the truth: nothing writes them, and no command changes a user.

use std::collections::BTreeMap;
use std::fmt;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use super::rules::{self, RuleError};
use super::user::{DEFAULT_USER, User, Users};
use crate::command::args::printable;
use crate::secret::Digest;

/// An ACL file is some kilobytes.
const FILE_BYTES_MAX: u64 = 4 * 1024 * 1024;
/// Passwords that one user may have at once: each login compares with all.
const PASSWORDS_MAX: usize = 64;
/// Bytes of one password.
const PASSWORD_BYTES_MAX: usize = 4096;
/// Faults that one error tells.
const FAULTS_MAX: usize = 10;

/// Where users come from; nothing set = the open default user alone.
#[derive(Clone, Debug, Default)]
pub struct Source {
    /// Passwords of the default user.
    pub requirepass_file: Option<PathBuf>,
    /// `user` lines.
    pub acl_file: Option<PathBuf>,
    /// Commands and categories that no user may have, whatever its rules (`commands_disabled`).
    pub disabled: Vec<String>,
}

/// What is wrong with the files, one line per fault.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceError(Vec<String>);

impl fmt::Display for SourceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join("; "))
    }
}

impl std::error::Error for SourceError {}

/// The bytes of both files at some moment.
#[derive(Clone)]
pub struct Contents {
    passwords: Option<Vec<u8>>,
    rules: Option<Vec<u8>>,
}

impl fmt::Debug for Contents {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Contents(..)")
    }
}

impl Contents {
    #[cfg(test)]
    pub(super) fn of_rules(rules: &[u8]) -> Self {
        Self { passwords: None, rules: Some(rules.to_vec()) }
    }

    #[cfg(any(test, feature = "fuzz"))]
    pub(crate) fn of_both(passwords: &[u8], rules: &[u8]) -> Self {
        Self { passwords: Some(passwords.to_vec()), rules: Some(rules.to_vec()) }
    }

    /// By which a change is noticed.
    #[must_use]
    pub fn digest(&self) -> Digest {
        let mut whole = Vec::new();
        for part in [&self.passwords, &self.rules] {
            let bytes = part.as_deref().unwrap_or_default();
            whole.extend_from_slice(&(bytes.len() as u64).to_le_bytes());
            whole.extend_from_slice(bytes);
        }
        Digest::of(&whole)
    }
}

impl Source {
    /// True if there is a file to read.
    #[must_use]
    pub fn is_set(&self) -> bool {
        self.requirepass_file.is_some() || self.acl_file.is_some()
    }

    /// Reads both files. Blocks.
    ///
    /// # Errors
    /// A file that cannot be read, or is far too large.
    pub fn read(&self) -> Result<Contents, SourceError> {
        let read = |path: &Option<PathBuf>| path.as_deref().map(read_bounded).transpose();
        Ok(Contents { passwords: read(&self.requirepass_file)?, rules: read(&self.acl_file)? })
    }

    /// Makes users of what the files hold.
    ///
    /// # Errors
    /// Every fault.
    pub fn parse(&self, contents: &Contents) -> Result<Users, SourceError> {
        let mut faults = Vec::new();
        let passwords = match (&self.requirepass_file, &contents.passwords) {
            (Some(path), Some(bytes)) => read_passwords(path, bytes, &mut faults),
            _ => Vec::new(),
        };
        let mut users = match (&self.acl_file, &contents.rules) {
            (Some(path), Some(bytes)) => read_users(path, bytes, &mut faults),
            _ => BTreeMap::new(),
        };
        let default = users.entry(DEFAULT_USER.to_owned()).or_insert_with(|| {
            let mut user = rules::open_default();
            user.no_password = passwords.is_empty();
            user
        });
        if default.no_password && !passwords.is_empty() {
            faults.push(
                "acl_file lets the user default in without a password (nopass), and requirepass_file gives it one: \
                 leave one of them out"
                    .to_owned(),
            );
        }
        for digest in passwords {
            rules::add_password(default, digest);
        }
        for word in &self.disabled {
            let refused = users.values_mut().find_map(|user| rules::forbid(user, word).err());
            faults.extend(
                refused.map(|error| format!("commands_disabled {}: {error}", printable(word.as_bytes()))),
            );
        }
        let many = users.values().filter(|user| user.passwords.len() > PASSWORDS_MAX);
        faults.extend(many.map(|user| format!("user {} has more than {PASSWORDS_MAX} passwords", user.name)));
        faults.truncate(FAULTS_MAX);
        if faults.is_empty() { Ok(Users::of(users.into_values())) } else { Err(SourceError(faults)) }
    }

    /// The password with which this node logs in at other nodes of its cluster: the first one of `requirepass_file`.
    /// Blocks.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn own_password(&self) -> Result<Option<crate::secret::Secret>, SourceError> {
        let Some(path) = &self.requirepass_file else { return Ok(None) };
        let bytes = read_bounded(path)?;
        let first = lines(&bytes).map(|(_, line)| line).find(|line| !line.is_empty());
        Ok(first.map(|line| crate::secret::Secret::new(bytes::Bytes::copy_from_slice(line))))
    }
}

fn read_bounded(path: &Path) -> Result<Vec<u8>, SourceError> {
    let fail = |why: String| SourceError(vec![format!("{}: {why}", path.display())]);
    let mut bytes = Vec::new();
    let read =
        std::fs::File::open(path).and_then(|file| file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes));
    match read {
        Err(error) => Err(fail(error.to_string())),
        Ok(_) if bytes.len() as u64 > FILE_BYTES_MAX => {
            Err(fail(format!("larger than {} MiB", FILE_BYTES_MAX >> 20)))
        }
        Ok(_) => Ok(bytes),
    }
}

/// Lines with their numbers, without their ends.
fn lines(bytes: &[u8]) -> impl Iterator<Item = (usize, &[u8])> {
    let cut = |line: &'_ [u8]| line.len() - usize::from(line.ends_with(b"\r"));
    bytes
        .split(|byte| *byte == b'\n')
        .map(move |line| &line[..cut(line)])
        .zip(1..)
        .map(|(line, at)| (at, line))
}

fn read_passwords(path: &Path, bytes: &[u8], faults: &mut Vec<String>) -> Vec<Digest> {
    let mut passwords = Vec::new();
    for (number, line) in lines(bytes).filter(|(_, line)| !line.is_empty()) {
        if line.len() > PASSWORD_BYTES_MAX {
            let text =
                format!("{}:{number}: a password of more than {PASSWORD_BYTES_MAX} bytes", path.display());
            faults.push(text);
        } else {
            passwords.push(Digest::of(line));
        }
    }
    if passwords.is_empty() && faults.is_empty() {
        faults.push(format!("{}: no password in it, one per line is expected", path.display()));
    }
    passwords
}

fn read_users(path: &Path, bytes: &[u8], faults: &mut Vec<String>) -> BTreeMap<String, User> {
    let mut users = BTreeMap::new();
    for (number, line) in lines(bytes) {
        let mut fault = |text: String| faults.push(format!("{}:{number}: {text}", path.display()));
        let Ok(line) = std::str::from_utf8(line) else {
            fault("not UTF-8".to_owned());
            continue;
        };
        let mut words = line.split([' ', '\t']).filter(|word| !word.is_empty());
        let Some(first) = words.next().filter(|first| !first.starts_with('#')) else { continue };
        if first != "user" {
            fault("a line begins with `user` and a name".to_owned());
            continue;
        }
        let Some(name) = words.next().filter(|name| !name.contains('\0')) else {
            fault("no name behind `user`".to_owned());
            continue;
        };
        let user = match rules::split(words) {
            Ok(list) => read_user(name, &list, &mut fault),
            Err(error) => {
                fault(error.to_string());
                continue;
            }
        };
        if users.insert(name.to_owned(), user).is_some() {
            fault(format!("Duplicate user '{}' found", printable(name.as_bytes())));
        }
    }
    users
}

fn read_user(name: &str, list: &[String], fault: &mut impl FnMut(String)) -> User {
    let mut user = User::new(name);
    for rule in list {
        if let Err(error) = rules::apply(&mut user, rule) {
            let shown = if error == RuleError::Unmatched { "(".to_owned() } else { rules::shown(rule) };
            fault(format!("Error in applying operation '{shown}': {error}"));
        }
    }
    user
}
