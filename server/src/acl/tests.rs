//! The rules of ACLs: who may what, written and read back, and hostile rules.

use std::path::PathBuf;

use bytes::Bytes;
use proptest::prelude::*;

use super::*;
use crate::command::resolve;

/// The users of a file's text.
fn users(text: &str) -> Result<Users, SourceError> {
    let source = Source { acl_file: Some(PathBuf::from("acl")), ..Source::default() };
    source.parse(&source::Contents::of_rules(text.as_bytes()))
}

fn user(rules: &str) -> std::sync::Arc<User> {
    let all = users(&format!("user u on {rules}")).unwrap_or_else(|error| panic!("{rules}: {error}"));
    all.get("u").unwrap().clone()
}

fn words(line: &str) -> Vec<Bytes> {
    line.split(' ').map(|word| Bytes::copy_from_slice(word.as_bytes())).collect()
}

/// `None` = permitted.
fn refused(rules: &str, line: &str) -> Option<Reason> {
    let words = words(line);
    let found = resolve(&words).unwrap_or_else(|error| panic!("{line}: {error:?}"));
    permits(&user(rules), &found, &words).err().map(|denial| denial.reason)
}

#[track_caller]
fn check(rules: &str, permitted: &[&str], forbidden: &[(&str, Reason)]) {
    for line in permitted {
        assert_eq!(refused(rules, line), None, "{rules}: {line}");
    }
    for (line, reason) in forbidden {
        assert_eq!(refused(rules, line), Some(*reason), "{rules}: {line}");
    }
}

use Reason::{Channel, Command, Key};

#[test]
fn commands_are_named_alone_by_category_and_by_subcommand() {
    check("~* +get", &["GET a"], &[("SET a 1", Command), ("MGET a", Command)]);
    check("~* +@all -@dangerous", &["GET a", "SET a 1"], &[("FLUSHALL", Command), ("KEYS *", Command)]);
    check("~* +@all -@dangerous +keys", &["KEYS *"], &[("FLUSHALL", Command)]);
    check("~* -@all +@read", &["GET a", "MGET a b", "SCAN 0"], &[("SET a 1", Command), ("PING", Command)]);
    check("+client", &["CLIENT ID", "CLIENT LIST"], &[("CONFIG GET x", Command)]);
    check("+client|id", &["CLIENT ID"], &[("CLIENT LIST", Command)]);
    check("+@all -client|kill", &["CLIENT ID", "CONFIG GET x"], &[("CLIENT KILL ID 1", Command)]);
    check("+select|0", &["SELECT 0"], &[("SELECT 1", Command)]);
    check("+select|0 -select", &[], &[("SELECT 0", Command)]);
    check("+@all nocommands", &[], &[("PING", Command)]);
    check("", &["AUTH x", "HELLO 3", "QUIT", "RESET"], &[("PING", Command), ("ACL WHOAMI", Command)]);
    check("+GET ~*", &["get a"], &[]);
}

#[test]
fn keys_are_permitted_by_what_happens_to_them() {
    let both = "+@all ~app:*";
    check(both, &["SET app:1 x", "GET app:1", "PING"], &[("SET b x", Key), ("GET b", Key)]);
    check(both, &["MSET app:1 x app:2 y"], &[("MSET app:1 x b y", Key), ("DEL app:1 b", Key)]);
    let read = "+@all %R~*";
    check(
        read,
        &["GET a", "MGET a b", "EXISTS a"],
        &[("SET a 1", Key), ("SET a 1 GET", Key), ("DEL a", Key)],
    );
    let write = "+@all %W~*";
    let reads = [("GET a", Key), ("SET a 1 GET", Key), ("SET a 1 IFEQ 2", Key), ("GETDEL a", Key)];
    check(write, &["SET a 1", "SET a 1 EX 5", "SETEX a 1 v", "DEL a", "EXISTS a", "APPEND a b"], &reads);
    check("+@all %R~from %W~to", &["COPY from to", "BITOP NOT to from"], &[("COPY to from", Key)]);
    check("+@all ~from %W~to", &["RENAME from to"], &[("RENAME to from", Key)]);
    check("+@all %R~from %W~to", &[], &[("RENAME from to", Key)]);
    check("+@all %RW~a", &["INCR a"], &[("INCR b", Key)]);
    check("+@all %R~a %W~a", &["INCR a"], &[]);
    check("+@all %R~a* %W~*b", &[], &[("INCR ab", Key)]);
    check("+@all", &["PING", "DBSIZE"], &[("GET a", Key)]);
    check("+@all ~* resetkeys ~a", &["GET a"], &[("GET b", Key)]);
    check("+@all %R~a", &["BITFIELD a GET u8 0"], &[("BITFIELD a SET u8 0 1", Key)]);
}

#[test]
fn keys_that_a_number_announces_are_keys() {
    let rules = "+@all ~app:*";
    check(
        rules,
        &["EVAL x 0", "EVAL x 0 b", "EVAL x 1 app:1 b"],
        &[("EVAL x 1 b", Key), ("EVAL x 2 app:1 b", Key)],
    );
    check(rules, &["MSETEX 1 app:1 v"], &[("MSETEX 1 b v", Key), ("MSETEX 2 app:1 v b v", Key)]);
    // A number that is none, or larger than the request, is refused by the parser; here it must not panic.
    check(rules, &["EVAL x -5 b", "EVAL x nonsense b"], &[("EVAL x 99999999999 b", Key)]);
}

#[test]
fn a_command_that_names_keys_by_a_glob_stays_within_the_rules() {
    let rules = "+@all ~app:* ~[x]*";
    check(
        rules,
        &["PDEL app:*", "PDEL app:1?", "PDEL [x]*"],
        &[("PDEL *", Key), ("PDEL ap*", Key), ("PDEL x*", Key)],
    );
    check(
        rules,
        &["KEYS *", "KEYS app:* WITHVALUES"],
        &[("KEYS * WITHVALUES", Key), ("KEYS * LIMIT 1 withvalues", Key)],
    );
    check("+@all %R~app:*", &["KEYS app:* WITHVALUES"], &[("PDEL app:*", Key)]);
    check("+@all ~*", &["PDEL *", "KEYS * WITHVALUES"], &[]);
    // An escaped star is no star.
    check(r"+@all ~a\*", &[r"PDEL a\*"], &[("PDEL ab", Key), ("PDEL a*", Key)]);
}

#[test]
fn channels_are_permitted_by_name_and_patterns_by_themselves() {
    let rules = "+@all &news:* &one";
    let forbidden =
        [("SUBSCRIBE news:1 two", Channel), ("PSUBSCRIBE news:?", Channel), ("PUBLISH two m", Channel)];
    check(
        rules,
        &["SUBSCRIBE news:1 one", "PSUBSCRIBE news:*", "PUBLISH one m", "PUBSUB CHANNELS"],
        &forbidden,
    );
    check("+@all allchannels", &["PSUBSCRIBE *", "PUBLISH two m"], &[]);
    check("+@all", &["UNSUBSCRIBE a"], &[("SUBSCRIBE a", Channel)]);
}

#[test]
fn one_selector_must_permit_the_whole_request() {
    let rules = "+get ~a* (+set ~b* &x) (%R~c* +@all)";
    check(rules, &["GET a1", "SET b1 v", "GET c1"], &[("SET a1 v", Key), ("GET b1", Key), ("SET c1 v", Key)]);
    check("+@all ~* clearselectors (+get) clearselectors", &["GET a"], &[]);
    // The denial told is the one that came farthest.
    check("+get ~a (+mget ~b)", &[], &[("MGET b c", Key), ("DEL a", Command)]);
}

#[test]
fn a_user_is_unlimited_by_what_its_rules_come_to() {
    for rules in ["allkeys allchannels allcommands", "~* &* +@all", "+@all -get +get ~* &*", "(~* &* +@all)"]
    {
        assert!(user(rules).is_unlimited(), "{rules}");
    }
    for rules in ["~* +@all", "&* +@all", "~* &* +@all -get", "%RW~* &* +@all", "~* &* (+@all)"] {
        assert!(!user(rules).is_unlimited(), "{rules}");
    }
    assert!(Users::default().get(DEFAULT_USER).unwrap().is_unlimited());
}

#[test]
fn users_are_written_as_redis_writes_them() {
    let hash = "30c952fab122c3f9759f02a6d95c3758b246b4fee239957b2d4fee46e26170c4";
    let cases = [
        ("reset", "user u off resetchannels -@all".to_owned()),
        (
            ">pw ~app:* %R~ro:* &news:* +@read -@dangerous +set +client|id (~sel:* +get) (%W~w:* +set)",
            format!(
                "user u on #{hash} ~app:* %R~ro:* resetchannels &news:* -@all +@read -@dangerous +set +client|id \
                 (~sel:* resetchannels -@all +get) (%W~w:* resetchannels -@all +set)"
            ),
        ),
        (
            "nopass allkeys allchannels +@all -flushall -flushall",
            "user u on nopass ~* &* +@all -flushall".to_owned(),
        ),
        ("+client|id +client", "user u on resetchannels -@all +client".to_owned()),
        ("+get -get +get", "user u on resetchannels -@all +get".to_owned()),
        (">pw >pw >other <other", format!("user u on #{hash} resetchannels -@all")),
        (">pw nopass", "user u on nopass resetchannels -@all".to_owned()),
        ("nopass >pw", format!("user u on #{hash} resetchannels -@all")),
    ];
    for (rules, expected) in cases {
        assert_eq!(rules::describe(&user(rules)), expected, "{rules}");
    }
}

#[test]
fn faults_are_told_in_redis_words_with_their_lines_and_without_passwords() {
    let unknown = "Unknown command or category name in ACL";
    let cases = [
        ("+nope", unknown),
        ("-nope", unknown),
        ("+@nope", unknown),
        ("+client|nope", unknown),
        ("-get|x", unknown),
        ("+client|id|x", "Allowing first-arg of a subcommand is not supported"),
        ("+select|", "Syntax error"),
        ("nonsense", "Syntax error"),
        ("%~a", "Syntax error"),
        ("%X~a", "Syntax error"),
        ("%RR~a", "Syntax error"),
        ("%R", "Syntax error"),
        ("~* ~a", "Adding a pattern after the * pattern"),
        ("&* &a", "Adding a pattern after the * pattern"),
        ("<hunter2", "The password you are trying to remove"),
        ("#hunter2", "The password hash must be exactly 64"),
        ("!hunter2", "The password hash must be exactly 64"),
        ("(+get", "Unmatched parenthesis"),
        ("(+get (+set)", "Syntax error"),
        ("()x", "Unmatched parenthesis"),
        ("(>hunter2)", "Syntax error"),
    ];
    for (rules, expected) in cases {
        let error = users(&format!("\n# c\nuser u on >hunter2x {rules}\n")).unwrap_err().to_string();
        assert!(error.contains("acl:3: ") && error.contains(expected), "{rules}: {error}");
        assert!(!error.contains("hunter2"), "{rules}: {error}");
    }
    for (text, expected) in [
        ("user a on\nuser a off", "acl:2: Duplicate user 'a' found"),
        ("user", "acl:1: no name"),
        ("users a", "acl:1: a line begins with `user`"),
    ] {
        let error = users(text).unwrap_err().to_string();
        assert!(error.contains(expected), "{text}: {error}");
    }
}

#[test]
fn both_files_make_the_default_user() {
    let source =
        Source { requirepass_file: Some("pass".into()), acl_file: Some("acl".into()), disabled: Vec::new() };
    let parse = |passwords: &str, rules: &str| {
        source.parse(&source::Contents::of_both(passwords.as_bytes(), rules.as_bytes()))
    };
    let text = |users: Users| rules::describe(users.get(DEFAULT_USER).unwrap());
    let hash = crate::secret::Digest::of(b"pw").hex();
    assert_eq!(text(parse("pw\n", "").unwrap()), format!("user default on #{hash} ~* &* +@all"));
    let limited = parse("\r\npw\r\n\n", "user default on ~a +get").unwrap();
    assert_eq!(text(limited), format!("user default on #{hash} ~a resetchannels -@all +get"));
    assert_eq!(
        text(parse("pw", "user default off").unwrap()),
        format!("user default off #{hash} resetchannels -@all")
    );
    for (passwords, rules, expected) in [
        ("\n\n", "", "no password in it"),
        ("pw", "user default on nopass", "nopass"),
        (&"a".repeat(5000), "", "a password of more than"),
        (&(0..65).map(|n| n.to_string()).collect::<Vec<_>>().join("\n"), "", "more than 64 passwords"),
    ] {
        let error = parse(passwords, rules).unwrap_err().to_string();
        assert!(error.contains(expected), "{expected}: {error}");
    }
}

/// Rules that are right, of every kind.
fn good_rule() -> impl Strategy<Value = String> {
    let command =
        prop::sample::select(vec!["get", "set", "client", "client|id", "config|get", "del", "keys"]);
    let category = prop::sample::select(kvnode_api::acl::CATEGORIES.to_vec());
    let sign = prop::sample::select(vec!["+", "-"]);
    prop_oneof![
        prop::sample::select(vec![
            "on",
            "off",
            "nopass",
            "resetpass",
            "resetkeys",
            "resetchannels",
            "allcommands",
            "nocommands",
            "reset",
            "allkeys",
            "allchannels",
            "clearselectors",
            "(~x +get)",
            "(allkeys &a +@all -@fast)",
            "+select|1",
        ])
        .prop_map(str::to_owned),
        (sign.clone(), command).prop_map(|(sign, name)| format!("{sign}{name}")),
        (sign, category).prop_map(|(sign, name)| format!("{sign}@{name}")),
        "[~&>][a-c*?:]{1,4}",
        "%(R|W|RW)~[a-c*?:]{1,4}",
    ]
}

#[test]
fn what_is_disabled_no_rule_gives_back() {
    let disabled = ["flushall", "CONFIG|SET", "@scripting"].map(str::to_owned).to_vec();
    let source = Source { acl_file: Some(PathBuf::from("acl")), disabled, ..Source::default() };
    let text = "user u on nopass ~* &* +@all (~a +flushall +config|set +eval)";
    let users = source.parse(&source::Contents::of_rules(text.as_bytes())).unwrap();
    for name in ["u", DEFAULT_USER] {
        let user = users.get(name).unwrap();
        assert!(!user.is_unlimited());
        for (line, permitted) in [
            ("FLUSHALL", false),
            ("CONFIG SET a b", false),
            ("EVAL x 0", false),
            ("CONFIG GET a", true),
            ("FLUSHDB", true),
            ("SET a b", true),
        ] {
            let words = words(line);
            let found = resolve(&words).unwrap();
            assert_eq!(permits(user, &found, &words).is_ok(), permitted, "{name}: {line}");
        }
    }
    assert!(rules::describe(users.get("u").unwrap()).contains("-flushall"), "who asks is told");
    let wrong = Source { disabled: vec!["nonsense".into()], ..Source::default() };
    let error = wrong.parse(&wrong.read().unwrap()).unwrap_err().to_string();
    assert!(error.starts_with("commands_disabled nonsense: "), "{error}");
}

/// What the operator makes of the files that it wrote is what a node makes of those that it read.
#[test]
fn a_change_is_noticed_by_what_the_contract_says() {
    let held = source::Contents::of_both(b"one\ntwo\n", b"user a on\n").digest();
    assert_eq!(held.hex(), kvnode_api::logins::contents(b"one\ntwo\n", b"user a on\n"));
}

proptest! {
    /// What is written is read back as the same user.
    #[test]
    fn a_user_survives_being_written_and_read(list in prop::collection::vec(good_rule(), 0..12)) {
        let Ok(before) = users(&format!("user u {}", list.join(" "))) else { return Ok(()) };
        let line = rules::describe(before.get("u").unwrap());
        let after = users(&line).map_err(|error| TestCaseError::fail(format!("{line}: {error}")))?;
        prop_assert_eq!(rules::describe(after.get("u").unwrap()), line.clone());
        for request in ["GET a", "SET a 1", "CLIENT ID", "CONFIG GET a", "KEYS *", "SUBSCRIBE a", "SELECT 1"] {
            let words = words(request);
            let found = resolve(&words).unwrap();
            let both = [&before, &after].map(|users| permits(users.get("u").unwrap(), &found, &words).is_ok());
            prop_assert_eq!(both[0], both[1], "{}: {}", line, request);
        }
    }

    /// Whatever stands in the files, it is users or an error (CVE-2024-51741: a malformed selector stopped Redis).
    #[test]
    fn no_file_is_too_strange(bytes in prop::collection::vec(any::<u8>(), 0..300), hostile in "user u [ ()+@|~%&<>#!a-z*]{0,60}") {
        let source = Source { requirepass_file: Some("pass".into()), acl_file: Some("acl".into()), disabled: Vec::new() };
        let _ = source.parse(&source::Contents::of_both(&bytes, &bytes));
        let _ = users(&hostile);
    }

    /// Whoever is permitted a key by a glob rule is permitted no key beyond it.
    #[test]
    fn a_permitted_glob_matches_permitted_keys_only(rule in "[ab*?\\\\]{1,5}", pattern in "[ab*?\\\\]{1,5}", key in "[ab*?\\\\]{0,6}") {
        let rules = format!("+@all resetkeys ~{rule}");
        let pdel = vec![Bytes::from_static(b"PDEL"), Bytes::from(pattern.clone())];
        let found = resolve(&pdel).unwrap();
        let user = user(&rules);
        if permits(&user, &found, &pdel).is_ok() && crate::store::glob::matches(pattern.as_bytes(), key.as_bytes()) {
            let del = vec![Bytes::from_static(b"DEL"), Bytes::from(key.clone())];
            prop_assert!(permits(&user, &resolve(&del).unwrap(), &del).is_ok(), "{} {} {}", rule, pattern, key);
        }
    }
}
