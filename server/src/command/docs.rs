//! The table told to others: COMMAND and its subcommands, and `COMMANDS.md`.
//!
//! Shapes are those of Redis 7 (its command pages "COMMAND INFO" and "COMMAND DOCS"); arguments are read out of the
//! row's usage text, so that redis-cli's hints come from the same line as the document.

use std::fmt::Write as _;

use bytes::Bytes;
use kvnode_api::acl::CATEGORIES;

use super::spec::Access;
use super::table::{self, TABLE};
use super::{CommandError, Group, KeyRange, Spec, resolve};
use crate::resp::Reply;
use crate::store::glob;

/// What COMMAND LIST keeps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Filter {
    /// Everything.
    None,
    /// Commands of a module: none.
    Module,
    /// An ACL category, without `@`.
    Category(Bytes),
    /// A glob over the lower-case name.
    Pattern(Bytes),
}

fn bulk(text: impl Into<String>) -> Reply {
    Reply::Bulk(Bytes::from(text.into()))
}

fn simple_set(names: impl Iterator<Item = &'static str>) -> Reply {
    Reply::Set(names.map(Reply::Simple).collect())
}

/// COMMAND.
#[must_use]
pub fn all() -> Reply {
    Reply::Array(TABLE.iter().map(|spec| describe(spec)).collect())
}

/// COMMAND COUNT.
#[must_use]
pub fn count() -> Reply {
    Reply::Integer(i64::try_from(TABLE.len()).unwrap_or(i64::MAX))
}

/// COMMAND INFO.
#[must_use]
pub fn info(names: &[Bytes]) -> Reply {
    if names.is_empty() {
        return all();
    }
    let one = |name: &Bytes| table::find_full(name).map_or(Reply::NilArray, |found| describe(found.spec));
    Reply::Array(names.iter().map(one).collect())
}

/// The ten elements of a command in COMMAND INFO: name, arity, flags, first key, last key, step, ACL categories, tips,
/// key specifications, subcommands.
fn describe(spec: &Spec) -> Reply {
    let (first, last, step) = spec.key_range();
    Reply::Array(vec![
        bulk(spec.name.to_ascii_lowercase()),
        Reply::Integer(spec.arity.as_redis()),
        simple_set(spec.flags.names().chain(spec.keys.is_counted().then_some("movablekeys"))),
        Reply::Integer(first),
        Reply::Integer(last),
        Reply::Integer(step),
        simple_set(spec.flags.categories()),
        Reply::Array(Vec::new()),
        Reply::Array([&spec.keys, &spec.more_keys].into_iter().filter_map(key_spec).collect()),
        Reply::Array(spec.subcommands.iter().map(|sub| describe(sub)).collect()),
    ])
}

/// One key specification: begin at a fixed word, then a range relative to it, or a number of keys and the keys.
fn key_spec(keys: &KeyRange) -> Option<Reply> {
    if keys.first == 0 {
        return None;
    }
    let step = (bulk("keystep"), Reply::Integer(keys.step));
    let (begin, kind, find) = if keys.is_counted() {
        let find = vec![(bulk("keynumidx"), Reply::Integer(0)), (bulk("firstkey"), Reply::Integer(1)), step];
        (keys.first - 1, "keynum", find)
    } else {
        let last = if keys.last < 0 { keys.last } else { keys.last - keys.first };
        let find = vec![(bulk("lastkey"), Reply::Integer(last)), step, (bulk("limit"), Reply::Integer(0))];
        (keys.first, "range", find)
    };
    let begin = vec![
        (bulk("type"), bulk("index")),
        (bulk("spec"), Reply::Map(vec![(bulk("index"), Reply::Integer(begin))])),
    ];
    let find = vec![(bulk("type"), bulk(kind)), (bulk("spec"), Reply::Map(find))];
    Some(Reply::Map(vec![
        (bulk("flags"), simple_set(keys.access.iter().copied())),
        (bulk("begin_search"), Reply::Map(begin)),
        (bulk("find_keys"), Reply::Map(find)),
    ]))
}

/// COMMAND DOCS; names that do not exist are left out, as Redis does.
#[must_use]
pub fn docs(names: &[Bytes]) -> Reply {
    let entry = |spec: &Spec| (bulk(spec.name.to_ascii_lowercase()), document(spec));
    Reply::Map(if names.is_empty() {
        TABLE.iter().map(|spec| entry(spec)).collect()
    } else {
        names.iter().filter_map(|name| table::find_full(name)).map(|found| entry(found.spec)).collect()
    })
}

fn document(spec: &Spec) -> Reply {
    let mut map = vec![
        (bulk("summary"), bulk(spec.summary)),
        (bulk("since"), bulk(spec.since)),
        (bulk("group"), bulk(spec.group.name())),
    ];
    let arguments = if spec.subcommands.is_empty() { arguments(spec) } else { Vec::new() };
    if !arguments.is_empty() {
        map.push((bulk("arguments"), Reply::Array(arguments)));
    }
    if !spec.subcommands.is_empty() {
        let subs = spec.subcommands.iter().map(|sub| (bulk(sub.name.to_ascii_lowercase()), document(sub)));
        map.push((bulk("subcommands"), Reply::Map(subs.collect())));
    }
    Reply::Map(map)
}

/// One argument of a usage text.
#[derive(Debug, PartialEq, Eq)]
struct Argument<'a> {
    /// The words without brackets and dots.
    words: Vec<&'a str>,
    optional: bool,
    multiple: bool,
}

/// Reads a usage text behind its name: `key value [key value ...]`, `[PIVOT key]`, `[ASYNC|SYNC]`. A bracket that ends
/// in `...` repeats the plain words before it.
fn read_usage<'a>(spec: &Spec, usage: &'a str) -> Vec<Argument<'a>> {
    let prefix = spec.name.split('|').map(str::len).sum::<usize>() + spec.name.matches('|').count();
    let mut rest = usage.get(prefix..).unwrap_or_default().trim();
    let mut list: Vec<Argument<'a>> = Vec::new();
    while !rest.is_empty() {
        if let Some(inner) = rest.strip_prefix('[') {
            let end = closing_bracket(inner);
            let body = inner.get(..end).unwrap_or(inner);
            rest = inner.get(end + 1..).unwrap_or_default().trim_start();
            let flat = body.split('[').next().unwrap_or(body).trim();
            if let Some(repeated) = body.strip_suffix("...") {
                let words: Vec<&str> = repeated.split_whitespace().collect();
                if words.len() <= list.len() && !repeated.contains('[') {
                    let at = list.len() - words.len();
                    let plain = list.get(at..).unwrap_or_default();
                    if plain.iter().zip(&words).all(|(argument, word)| argument.words == [*word]) {
                        list.truncate(at);
                        list.push(Argument { words, optional: false, multiple: true });
                        continue;
                    }
                }
            }
            let words = flat.split_whitespace().filter(|word| *word != "...").collect();
            list.push(Argument { words, optional: true, multiple: body.contains("...") });
        } else {
            let (word, tail) = rest.split_once(' ').unwrap_or((rest, ""));
            list.push(Argument { words: vec![word], optional: false, multiple: false });
            rest = tail.trim_start();
        }
    }
    list
}

/// Position of the bracket that closes the one before `text`.
fn closing_bracket(text: &str) -> usize {
    let mut depth = 1;
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            b'[' => depth += 1,
            b']' => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return at;
        }
    }
    text.len()
}

fn arguments(spec: &Spec) -> Vec<Reply> {
    read_usage(spec, spec.usage).iter().map(argument).collect()
}

fn argument(argument: &Argument<'_>) -> Reply {
    let flags = [(argument.optional, "optional"), (argument.multiple, "multiple")];
    let flags: Vec<&'static str> = flags.into_iter().filter_map(|(set, name)| set.then_some(name)).collect();
    let mut map = match argument.words.as_slice() {
        [word] => word_argument(word, None),
        [token, word] if is_token(token) => word_argument(word, Some(token)),
        words => {
            let parts = words.iter().map(|word| Reply::Map(word_argument(word, None))).collect();
            vec![
                (bulk("name"), bulk(words.join("_").to_ascii_lowercase())),
                (bulk("type"), bulk("block")),
                (bulk("arguments"), Reply::Array(parts)),
            ]
        }
    };
    if !flags.is_empty() {
        map.push((bulk("flags"), simple_set(flags.into_iter())));
    }
    Reply::Map(map)
}

fn is_token(word: &str) -> bool {
    word.bytes().all(|byte| byte.is_ascii_uppercase() || byte == b'-')
}

/// Name, type and token of a single word: a key, an option, a choice or a value.
fn word_argument(word: &str, token: Option<&str>) -> Vec<(Reply, Reply)> {
    let choices: Vec<&str> = word.split('|').collect();
    let mut map = vec![(bulk("name"), bulk(word.to_ascii_lowercase().replace('|', "_or_")))];
    if choices.len() > 1 {
        let each = choices.iter().map(|choice| Reply::Map(word_argument(choice, None))).collect();
        map.push((bulk("type"), bulk("oneof")));
        map.push((bulk("arguments"), Reply::Array(each)));
    } else if is_token(word) {
        map.push((bulk("type"), bulk("pure-token")));
        map.push((bulk("token"), bulk(word)));
    } else {
        let kind = match word {
            "key" if token.is_none() => "key",
            "pattern" => "pattern",
            "count" | "cursor" | "index" | "numreplicas" | "timeout" => "integer",
            _ => "string",
        };
        map.push((bulk("type"), bulk(kind)));
    }
    if let Some(token) = token {
        map.push((bulk("token"), bulk(token)));
    }
    map
}

/// COMMAND GETKEYS.
///
/// # Errors
/// Redis' three texts: no such command, wrong arity, no keys.
pub fn get_keys(words: &[Bytes]) -> Result<Reply, CommandError> {
    let spec = row_with_keys(words)?;
    Ok(Reply::Array(spec.keys_of(words).cloned().map(Reply::Bulk).collect()))
}

/// COMMAND GETKEYSANDFLAGS: each key with the flags of its key specification, as far as the words tell.
///
/// # Errors
/// As [`get_keys`].
pub fn get_keys_and_flags(words: &[Bytes]) -> Result<Reply, CommandError> {
    let spec = row_with_keys(words)?;
    let first = spec.access.map_or(spec.keys.access, |tell| tell(words));
    let ranges = [(&spec.keys, first), (&spec.more_keys, spec.more_keys.access)];
    let pairs = ranges.into_iter().flat_map(|(range, flags)| {
        let pair = move |key: &Bytes| {
            Reply::Array(vec![Reply::Bulk(key.clone()), simple_set(flags.iter().copied())])
        };
        range.places(words).map(move |(_, key)| pair(key))
    });
    Ok(Reply::Array(pairs.collect()))
}

fn row_with_keys(words: &[Bytes]) -> Result<&'static Spec, CommandError> {
    let text = |text: &str| CommandError::Text(text.to_owned());
    let found = resolve(words).map_err(|error| match error {
        CommandError::Arity(_) => text("ERR Invalid number of arguments specified for command"),
        _ => text("ERR Invalid command specified"),
    })?;
    if found.spec.keys.first == 0 || Access::is_of_no_key(found.spec.keys.access) {
        return Err(text("ERR The command has no key arguments"));
    }
    Ok(found.spec)
}

/// ACL CAT: the categories, or the commands of one.
///
/// # Errors
/// `ERR Unknown category`.
pub fn acl_categories(category: Option<&Bytes>) -> Result<Reply, CommandError> {
    let Some(wanted) = category else {
        return Ok(Reply::Array(CATEGORIES.into_iter().map(bulk).collect()));
    };
    let known = CATEGORIES.into_iter().find(|name| name.as_bytes().eq_ignore_ascii_case(wanted));
    let known = known.ok_or_else(|| {
        CommandError::Text(format!("ERR Unknown category '{}'", super::args::printable(wanted)))
    })?;
    Ok(list(&Filter::Category(Bytes::from_static(known.as_bytes()))))
}

/// COMMAND LIST.
#[must_use]
pub fn list(filter: &Filter) -> Reply {
    let kept = table::rows().filter(|spec| match filter {
        Filter::None => true,
        Filter::Module => false,
        Filter::Category(wanted) => spec.flags.categories().any(|category| {
            category.as_bytes().get(1..).is_some_and(|name| name.eq_ignore_ascii_case(wanted))
        }),
        Filter::Pattern(pattern) => glob::matches(pattern, spec.name.to_ascii_lowercase().as_bytes()),
    });
    Reply::Array(kept.map(|spec| bulk(spec.name.to_ascii_lowercase())).collect())
}

/// The last column of `COMMANDS.md`.
fn beside_redis(spec: &Spec) -> &'static str {
    match spec.difference {
        "" if spec.name.ends_with("|HELP") => "made of these rows",
        "" => "same",
        difference => difference,
    }
}

/// `COMMANDS.md`, from the table alone.
#[must_use]
pub fn markdown() -> String {
    let mut page = String::from(
        "# Commands\n\nGenerated by `kvnode-server commands --markdown` from the command table; do not edit.\n\n\
         The last column says whether a command is the same as in Redis, or where it differs. Every command that is not\n\
         listed answers `ERR unknown command` with the nearest name that is, or with what of Redis is not here.\n\
         Two things hold of all: there are strings alone, and time is the log's (a key expires on all nodes at once).\n",
    );
    for group in Group::ALL {
        let _ = write!(
            page,
            "\n## {}\n\n| usage | what it does | arity | flags | since | beside Redis |\n\
             | --- | --- | --- | --- | --- | --- |\n",
            group.name()
        );
        for spec in table::rows().filter(|spec| spec.group == group) {
            let flags: Vec<&str> = spec.flags.names().collect();
            let _ = writeln!(
                page,
                "| `{}` | {} | {} | {} | {} | {} |",
                spec.usage.replace('|', "\\|"),
                spec.summary,
                spec.arity.as_redis(),
                flags.join(" "),
                spec.since,
                beside_redis(spec),
            );
        }
    }
    page
}
