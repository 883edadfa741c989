//! The ACL file of a cluster's users. Pure.
//!
//! ```text
//! spec.auth.users + passwords of their Secrets -> user reporting on #5e88.. ~order:* +@read
//! ```
//!
//! A node takes an ACL file as a whole or not at all, and does not start with one that is wrong. So what the server would
//! refuse must not get into it: rules are checked here, against the commands of the server of this version.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::sync::LazyLock;

use kvnode_api::acl::CATEGORIES;
use sha2::{Digest as _, Sha256};

/// Generated from the server's command table, and held to it by a test of its own.
const COMMANDS: &str = include_str!("../../../server/COMMANDS.md");

const WORDS: [&str; 6] =
    ["allkeys", "resetkeys", "allchannels", "resetchannels", "allcommands", "nocommands"];

/// Commands, and subcommands as `config|get`.
static KNOWN: LazyLock<BTreeSet<String>> = LazyLock::new(|| {
    let mut known = BTreeSet::new();
    for usage in COMMANDS.lines().filter_map(|line| line.strip_prefix("| `")) {
        let mut words = usage.split(['`', ' ']);
        let command = words.next().unwrap_or_default().to_ascii_lowercase();
        let is_name = |word: &&str| {
            word.bytes().all(|byte| byte.is_ascii_uppercase() || byte == b'-') && word.len() > 1
        };
        if let Some(sub) = words.next().filter(is_name) {
            known.insert(format!("{command}|{}", sub.to_ascii_lowercase()));
        }
        known.insert(command);
    }
    known
});

/// Patterns so far: one behind "all" is refused.
#[derive(Default)]
struct Open {
    keys: bool,
    channels: bool,
}

/// What is wrong with the rules of a user.
#[must_use]
pub fn fault(rules: &str) -> Option<String> {
    let (mut root, mut inner, mut inside) = (Open::default(), Open::default(), false);
    for word in rules.split_whitespace() {
        let mut rule = word;
        if let Some(rest) = rule.strip_prefix('(') {
            if inside {
                return Some(format!("{word:?}: selectors do not nest"));
            }
            (inside, inner, rule) = (true, Open::default(), rest);
        }
        let ends = inside && rule.ends_with(')');
        rule = if ends { rule.strip_suffix(')').unwrap_or(rule) } else { rule };
        if let Some(what) = wrong(rule, if inside { &mut inner } else { &mut root }, inside) {
            return Some(format!("{}: {what}", shown(word)));
        }
        inside &= !ends;
    }
    inside.then(|| "a parenthesis is not closed".to_owned())
}

/// A misplaced password is not repeated.
fn shown(word: &str) -> String {
    let secret = word.starts_with(['>', '<', '#', '!', '(']);
    if secret { "a rule".to_owned() } else { format!("{word:?}") }
}

fn wrong(rule: &str, open: &mut Open, inside: bool) -> Option<String> {
    let lower = rule.to_ascii_lowercase();
    let all = |what: &str| Some(format!("a pattern of {what} behind one that takes all has no effect"));
    match rule.chars().next() {
        None if inside => None,
        Some('~' | '%') if open.keys => all("keys"),
        Some('&') if open.channels => all("channels"),
        Some('~') => {
            open.keys |= rule == "~*";
            None
        }
        Some('&') => {
            open.channels |= rule == "&*";
            None
        }
        Some('%') => {
            let letters = lower.get(1..).and_then(|rest| rest.split_once('~')).map(|(letters, _)| letters);
            let good = letters.is_some_and(|letters| ["r", "w", "rw", "wr"].contains(&letters));
            (!good).then(|| "%R~, %W~ and %RW~ are known".to_owned())
        }
        Some(sign @ ('+' | '-')) => command(sign, &lower[1..]),
        _ if WORDS.contains(&lower.as_str()) || (lower == "clearselectors" && !inside) => {
            open.keys = lower == "allkeys" || (open.keys && lower != "resetkeys");
            open.channels = lower == "allchannels" || (open.channels && lower != "resetchannels");
            None
        }
        _ => Some("no rule; passwords, on, off and reset belong to the operator".to_owned()),
    }
}

fn command(sign: char, name: &str) -> Option<String> {
    if let Some(category) = name.strip_prefix('@') {
        return (category != "all" && !CATEGORIES.contains(&category)).then(|| "no such category".to_owned());
    }
    let (command, sub) = name.split_once('|').map_or((name, None), |(command, sub)| (command, Some(sub)));
    if !KNOWN.contains(command) {
        return Some("no command of kvnode-server".to_owned());
    }
    let sub = sub.filter(|_| !KNOWN.contains(name))?;
    let begins = format!("{command}|");
    let has_subs = KNOWN.range(begins.clone()..).next().is_some_and(|next| next.starts_with(&begins));
    let first_word = sign == '+' && !has_subs && !sub.is_empty() && !sub.contains('|');
    (!first_word).then(|| "no such subcommand".to_owned())
}

/// One line of the file: the passwords as their hashes.
#[must_use]
pub fn line(name: &str, passwords: &[String], rules: &str) -> String {
    let mut line = format!("user {name} on");
    for password in passwords {
        line.push_str(" #");
        for byte in Sha256::digest(password.as_bytes()) {
            // Writing to a string cannot fail.
            let _ = write!(line, "{byte:02x}");
        }
    }
    for rule in rules.split_whitespace() {
        line.push(' ');
        line.push_str(rule);
    }
    line.push('\n');
    line
}

/// Names of the users of a file.
#[must_use]
pub fn names(file: &str) -> BTreeSet<String> {
    let names = file.lines().filter_map(|line| line.strip_prefix("user ")?.split(' ').next());
    names.map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_server_would_refuse_is_refused() {
        for good in [
            "~order:* +@read",
            "~* &* +@all -@dangerous -flushall",
            "%R~log:* %W~queue:* +get +SET resetkeys ~x",
            "+config|get -client|kill +get|first allkeys resetkeys ~a",
            "+@read ~a (+set ~b %RW~c) (~d +get) clearselectors",
            "~",
        ] {
            assert_eq!(fault(good), None, "{good}");
        }
        for (bad, why) in [
            ("+@read >secret", "belong to the operator"),
            ("nopass", "belong to the operator"),
            ("on", "belong to the operator"),
            ("reset", "belong to the operator"),
            ("~* ~a", "keys"),
            ("allchannels &a", "channels"),
            ("%X~a", "%R~"),
            ("+@reading", "category"),
            ("+gett", "no command"),
            ("+config|gett", "subcommand"),
            ("-get|first", "subcommand"),
            ("(+get ~a", "not closed"),
            ("(+get (~a))", "nest"),
            ("hello", "no rule"),
        ] {
            let said = fault(bad).unwrap_or_default();
            assert!(said.contains(why), "{bad}: {said}");
            assert!(!said.contains("secret"), "{said}");
        }
    }

    #[test]
    fn a_line_has_hashes_and_no_further_line() {
        let line = line("app", &["a".into(), "b".into()], "~x\n user default nopass ");
        assert!(line.starts_with(
            "user app on #ca978112ca1bbdcafac231b39a23dc4da786eff8147c4e72b9807785afee48bb #3e23"
        ));
        assert!(line.ends_with(" ~x user default nopass\n") && line.lines().count() == 1, "{line}");
        assert_eq!(names(&format!("{line}user b on\n")), ["app".to_owned(), "b".to_owned()].into());
    }
}
