//! The table as a whole, and golden scripts: request lines in, actions or error replies out.

use std::error::Error;

use bytes::Bytes;

use super::*;

fn context() -> Context {
    Context {
        db: 0,
        databases: 16,
        key_bytes_max: 8,
        value_bytes_max: 64,
        reply_bytes_max: 1000,
        keys_default_limit: 0,
    }
}

fn words(line: &str) -> Vec<Bytes> {
    line.split_whitespace().map(|word| Bytes::copy_from_slice(word.as_bytes())).collect()
}

/// A request of the row's minimum length whose words are right for it.
fn smallest(spec: &Spec) -> Vec<Bytes> {
    let line = match spec.name {
        "SELECT" => "SELECT 1".to_owned(),
        "SCAN" => "SCAN 0".to_owned(),
        "WAIT" => "WAIT 0 0".to_owned(),
        "WAITAOF" => "WAITAOF 0 0 0".to_owned(),
        "CLUSTER|COUNTKEYSINSLOT" | "CLUSTER|GETKEYSINSLOT" => {
            let prefix = if spec.arity.admits(3) { "1" } else { "1 1" };
            format!("{} {prefix}", spec.name)
        }
        "RESTORE" => {
            let words = [&b"RESTORE"[..], b"k", b"0", b"\0\xc0\x7b\x0a\0\x48\xe2\x53\xe1\0\x7a\x67\xb9"];
            return words.map(Bytes::from_static).to_vec();
        }
        "BITOP" => "BITOP not k k".to_owned(),
        "COPY" | "RENAME" | "RENAMENX" => format!("{} k l", spec.name),
        "BITPOS" | "GETBIT" | "DECRBY" | "INCRBY" | "INCRBYFLOAT" | "EXPIRE" | "PEXPIRE" | "EXPIREAT"
        | "PEXPIREAT" | "MOVE" => format!("{} k 1", spec.name),
        "GETRANGE" | "SUBSTR" => format!("{} k 0 1", spec.name),
        "MSETEX" => "MSETEX 1 k v".to_owned(),
        "SETEX" | "PSETEX" | "SETRANGE" | "SETBIT" => format!("{} k 1 1", spec.name),
        "SWAPDB" => "SWAPDB 0 1".to_owned(),
        "EVAL" | "EVALSHA" | "EVAL_RO" | "EVALSHA_RO" => format!("{} x 0", spec.name),
        "RAFTADDPEER" | "RAFTREMOVEPEER" => format!("{} host:1", spec.name),
        "CLIENT|NO-EVICT" | "CLIENT|NO-TOUCH" | "CLIENT|REPLY" => format!("{} on", spec.name),
        "CLIENT|TRACKING" => "CLIENT|TRACKING off".to_owned(),
        "CLIENT|PAUSE" | "CLIENT|UNBLOCK" => format!("{} 1", spec.name),
        "CLIENT|SETINFO" => "CLIENT|SETINFO lib-name x".to_owned(),
        "COMMAND|GETKEYS" => "COMMAND|GETKEYS get k".to_owned(),
        "COMMAND|GETKEYSANDFLAGS" => "COMMAND|GETKEYSANDFLAGS set k v".to_owned(),
        name => {
            let prefix = 1 + name.matches('|').count();
            format!("{name}{}", " x".repeat(spec.arity.minimum() - prefix))
        }
    };
    words(&line.replacen('|', " ", 1))
}

/// Rows that always refuse.
const REFUSING: [&str; 6] =
    ["ACL|DELUSER", "ACL|SAVE", "ACL|SETUSER", "CLIENT|CACHING", "CONFIG|REWRITE", "DEBUG"];

#[test]
fn every_row_is_whole() {
    for spec in table::rows() {
        let name = spec.name;
        let spoken = name.replace('|', " ");
        assert!(!name.bytes().any(|byte| byte.is_ascii_lowercase()), "{name}");
        assert!(
            spec.usage == spoken || spec.usage.starts_with(&format!("{spoken} ")),
            "{name}: {}",
            spec.usage
        );
        assert!(!spec.summary.is_empty() && !spec.summary.ends_with('.'), "{name}: {:?}", spec.summary);
        assert!(!spec.since.is_empty(), "{name}");
        let opening = spec.usage.matches('[').count();
        assert_eq!(opening, spec.usage.matches(']').count(), "{name}: {}", spec.usage);
        assert!(!(spec.flags.has(Flags::WRITE) && spec.flags.has(Flags::READONLY)), "{name}");
        let minimum = i64::try_from(spec.arity.minimum()).unwrap();
        let told = i64::from(spec.keys.is_counted());
        assert!(
            spec.keys.first - told < minimum.max(1)
                || spec.keys.first == 0
                || spec::Access::is_of_no_key(spec.keys.access),
            "{name}: first key beyond its arity"
        );
        assert_eq!(spec.keys.first == 0, spec.keys.access.is_empty(), "{name}");
        for sub in spec.subcommands {
            assert_eq!(sub.container_name(), name);
            assert_eq!(sub.group, spec.group, "{}", sub.name);
        }
    }
}

#[test]
fn every_row_parses_its_smallest_request_into_what_its_flags_say() {
    for spec in table::rows().filter(|spec| !REFUSING.contains(&spec.name)) {
        if spec.reply == ReplyShape::Container {
            continue;
        }
        let request = smallest(spec);
        let found = resolve(&request).unwrap_or_else(|error| panic!("{}: {error:?}", spec.name));
        assert!(std::ptr::eq(found.spec, spec), "{} resolves to {}", spec.name, found.spec.name);
        let action =
            parse(spec, &request, &context()).unwrap_or_else(|error| panic!("{}: {error:?}", spec.name));
        assert_eq!(matches!(action, Action::Write(_)), spec.flags.has(Flags::WRITE), "{}", spec.name);
        assert_eq!(matches!(action, Action::Read(..)), spec.flags.has(Flags::READONLY), "{}", spec.name);
        if let Action::Reply(reply) = &action {
            assert!(spec.reply.admits(reply), "{}: {reply:?}", spec.name);
        }
        if spec.flags.has(Flags::WRITE) || spec.flags.has(Flags::READONLY) {
            assert!(!spec.flags.has(Flags::STALE), "{}: data needs a leader", spec.name);
        }
    }
}

#[test]
fn one_word_too_few_is_an_arity_error_and_so_is_one_too_many() {
    for spec in table::rows() {
        let prefix = 1 + spec.name.matches('|').count();
        let mut request = smallest(spec);
        if let Arity::Exactly(_) = spec.arity {
            request.push(Bytes::from_static(b"more"));
            assert!(matches!(resolve(&request), Err(CommandError::Arity(_))), "{} with more", spec.name);
            request.pop();
        }
        if request.len() > prefix {
            request.truncate(spec.arity.minimum() - 1);
            let refused = resolve(&request);
            assert!(matches!(refused, Err(CommandError::Arity(_))), "{} with less: {refused:?}", spec.name);
        }
    }
}

#[test]
fn names_are_looked_up_in_any_case_and_echoed_as_typed() {
    let error = resolve(&words("gEt")).unwrap_err();
    assert_eq!(error.reply(), Reply::Error("ERR wrong number of arguments for 'gEt' command".to_owned()));
    let error = resolve(&[Bytes::from_static(b"foo\r\n+INJECTED")]).unwrap_err();
    assert_eq!(error.reply(), Reply::Error("ERR unknown command 'foo  +INJECTED'".to_owned()));
    assert!(resolve(&[]).is_err());
}

#[test]
fn keys_are_found_where_the_row_says() {
    let keys = |line: &str| {
        let request = words(line);
        let found = resolve(&request).unwrap();
        found.spec.keys_of(&request).map(|key| String::from_utf8_lossy(key).into_owned()).collect::<Vec<_>>()
    };
    assert_eq!(keys("SET a b"), ["a"]);
    assert_eq!(keys("MSET a 1 b 2"), ["a", "b"]);
    assert_eq!(keys("DELIF part a b"), ["a", "b"]);
    assert_eq!(keys("OBJECT ENCODING a"), ["a"]);
    assert_eq!(keys("COPY a b DB 1"), ["a", "b"]);
    assert_eq!(keys("BITOP AND d a b"), ["d", "a", "b"]);
    assert_eq!(keys("EVAL x 2 a b c"), ["a", "b"]);
    assert_eq!(keys("MSETEX 2 a 1 b 2 NX"), ["a", "b"]);
    assert!(keys("EVAL x -1 a").is_empty());
    assert_eq!(keys("MEMORY USAGE a SAMPLES 5"), ["a"]);
    assert!(keys("KEYS *").is_empty());
}

/// Runs a request line and prints its action, or its error reply.
struct Scripts;

impl goldenscript::Runner for Scripts {
    type Command = goldenscript::Command;

    fn run(
        &mut self,
        command: &goldenscript::Command,
        _: &goldenscript::Context,
    ) -> Result<String, Box<dyn Error>> {
        let mut request = vec![Bytes::from(command.name.clone())];
        for argument in &command.args {
            let goldenscript::Argument::Positional(word) = argument else {
                return Err(format!("quote {argument}").into());
            };
            request.push(Bytes::from(word.clone()));
        }
        let action = resolve(&request).and_then(|found| parse(found.spec, &request, &context()));
        Ok(match action {
            Ok(action) => format!("{action:?}"),
            Err(error) => match error.reply() {
                Reply::Error(text) => format!("-{text}"),
                other => format!("{other:?}"),
            },
        })
    }
}

fn script(name: &str) {
    let path = format!("{}/src/command/testscripts/{name}", env!("CARGO_MANIFEST_DIR"));
    goldenscript::run(&mut Scripts, path).unwrap_or_else(|error| panic!("{name}: {error}"));
}

#[test]
fn string_commands_follow_their_script() {
    script("string");
}

#[test]
fn keyspace_commands_follow_their_script() {
    script("keyspace");
}

#[test]
fn connection_commands_follow_their_script() {
    script("connection");
}

#[test]
fn server_commands_follow_their_script() {
    script("server");
}

#[test]
fn raft_commands_follow_their_script() {
    script("raft");
}

/// `COMMANDS.md` is what the table says. `UPDATE_GOLDENFILES=1` writes it.
#[test]
fn the_document_of_commands_is_fresh() {
    let path = format!("{}/COMMANDS.md", env!("CARGO_MANIFEST_DIR"));
    let expected = docs::markdown();
    if std::env::var_os("UPDATE_GOLDENFILES").is_some() {
        std::fs::write(&path, &expected).unwrap();
    }
    let found = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(found == expected, "{path} is stale: run this test with UPDATE_GOLDENFILES=1");
}

#[test]
fn documents_read_arguments_out_of_the_usage() {
    let Reply::Map(entries) = docs::docs(&words("keys nope mset")) else { panic!() };
    assert_eq!(entries.len(), 2);
    let text = format!("{entries:?}");
    for part in [
        "(Bulk(b\"type\"), Bulk(b\"string\")), (Bulk(b\"token\"), Bulk(b\"PIVOT\"))",
        "(Bulk(b\"type\"), Bulk(b\"pure-token\")), (Bulk(b\"token\"), Bulk(b\"DESC\"))",
        "(Bulk(b\"flags\"), Set([Simple(\"optional\")]))",
        "(Bulk(b\"name\"), Bulk(b\"key_value\")), (Bulk(b\"type\"), Bulk(b\"block\"))",
        "(Bulk(b\"flags\"), Set([Simple(\"multiple\")]))",
    ] {
        assert!(text.contains(part), "{part} is missing in {text}");
    }
}

#[test]
fn command_info_has_the_ten_elements_of_redis() {
    let Reply::Array(list) = docs::info(&words("get nope client|id")) else { panic!() };
    assert_eq!(list.len(), 3);
    assert_eq!(list[1], Reply::NilArray);
    let Reply::Array(get) = &list[0] else { panic!() };
    assert_eq!(get.len(), 10);
    assert_eq!(get[..2], [Reply::Bulk("get".into()), Reply::Integer(2)]);
    assert_eq!(get[2], Reply::Set(vec![Reply::Simple("readonly"), Reply::Simple("fast")]));
    assert_eq!(get[3..6], [Reply::Integer(1), Reply::Integer(1), Reply::Integer(1)]);
    let categories = ["@read", "@string", "@fast"].map(Reply::Simple);
    assert_eq!(get[6], Reply::Set(categories.to_vec()));
    let Reply::Array(client_id) = &list[2] else { panic!() };
    assert_eq!(client_id[0], Reply::Bulk("client|id".into()));
}
