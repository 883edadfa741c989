//! Scripts over a map in place of a state: what they see, what they want, and where they end.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use bytes::Bytes;

use super::lua::{Ended, Job, run, sha1_hex};
use crate::clock::UnixMs;
use crate::command::{Context, Eval, Source};
use crate::resp::Reply;
use crate::store::op::Row;
use crate::store::{Answer, Op, Query, Step};

type Content = Rc<RefCell<BTreeMap<&'static str, &'static str>>>;

fn content() -> Content {
    Rc::new(RefCell::new(BTreeMap::from([("lock", "token"), ("n", "41")])))
}

fn job(script: &'static str, keys: &[&'static str], args: &[&'static str], read_only: bool) -> Job {
    let words = |list: &[&'static str]| list.iter().map(|word| Bytes::from_static(word.as_bytes())).collect();
    let text = Bytes::from_static(script.as_bytes());
    Job {
        sha: sha1_hex(&text),
        eval: Eval { script: Source::Text(text.clone()), keys: words(keys), args: words(args), read_only },
        text,
        context: Context {
            db: 0,
            databases: 16,
            key_bytes_max: 100,
            value_bytes_max: 1000,
            reply_bytes_max: 1000,
            keys_default_limit: 0,
        },
        write_bytes_max: 10_000,
        user: None,
    }
}

fn end(job: &Job, content: &Content) -> Ended {
    let content = content.clone();
    run(
        job,
        UnixMs(5_000_123),
        Box::new(move |query| {
            let Query::Row { key, .. } = query else { panic!("{query:?}") };
            let key = String::from_utf8_lossy(key).into_owned();
            if key == "due" {
                return Ok(Answer::Due);
            }
            let value = content.borrow().get(key.as_str()).copied();
            Ok(Answer::Row(value.map(|value| Row { value: value.into(), deadline: None, version: 7 })))
        }),
    )
}

/// Reply, number of watched keys, ops.
fn done(script: &'static str, keys: &[&'static str], args: &[&'static str]) -> (Reply, usize, Vec<Op>) {
    match end(&job(script, keys, args, false), &content()) {
        Ended::Done { reply, watched, steps, .. } => {
            let op = |step| match step {
                Step::Write(op) => op,
                Step::Read(query) => panic!("{query:?} in the log"),
            };
            (reply, watched.len(), steps.into_iter().map(op).collect())
        }
        Ended::Due => panic!("due"),
        Ended::Fatal(fatal) => panic!("{fatal}"),
    }
}

fn reply(script: &'static str) -> Reply {
    done(script, &[], &[]).0
}

fn error(script: &'static str) -> String {
    match reply(script) {
        Reply::Error(text) => text,
        other => panic!("{script}: {other:?}"),
    }
}

#[test]
fn a_lock_is_released_by_its_owner_only() {
    let script =
        "if redis.call('get', KEYS[1]) == ARGV[1] then return redis.call('del', KEYS[1]) else return 0 end";
    let (reply, watched, ops) = done(script, &["lock"], &["token"]);
    assert_eq!((reply, watched), (Reply::Integer(1), 1));
    assert!(matches!(&ops[..], [Op::Del { .. }]), "{ops:?}");
    let (reply, watched, ops) = done(script, &["lock"], &["another"]);
    assert_eq!((reply, watched, ops.len()), (Reply::Integer(0), 1, 0));
}

#[test]
fn a_script_sees_what_it_has_written() {
    let script = "redis.call('incrby', KEYS[1], ARGV[1]) redis.call('expire', KEYS[1], 10) \
                  return {redis.call('get', KEYS[1]), redis.call('pttl', KEYS[1]), redis.call('exists', 'other')}";
    let (reply, watched, ops) = done(script, &["n"], &["1"]);
    let expected = vec![Reply::Bulk("42".into()), Reply::Integer(10_000), Reply::Integer(0)];
    assert_eq!((reply, watched, ops.len()), (Reply::Array(expected), 2, 2));
}

#[test]
fn values_become_replies_as_redis_makes_them() {
    for (script, expected) in [
        ("return 'x'", Reply::Bulk("x".into())),
        ("return 3.9", Reply::Integer(3)),
        ("return true", Reply::Integer(1)),
        ("return false", Reply::Nil),
        ("return nil", Reply::Nil),
        ("return {1, 'a', nil, 2}", Reply::Array(vec![Reply::Integer(1), Reply::Bulk("a".into())])),
        ("return {ok='FINE'}", Reply::Status("FINE".into())),
        ("return redis.status_reply('OK')", Reply::Ok),
        ("return redis.error_reply('MY text')", Reply::Error("MY text".to_owned())),
        ("return redis.call('ping')", Reply::Status("PONG".into())),
        ("return redis.call('get', 'none')", Reply::Nil),
        ("return redis.call('time')[1]", Reply::Bulk("5000".into())),
        ("return redis.sha1hex('')", Reply::Bulk("da39a3ee5e6b4b0d3255bfef95601890afd80709".into())),
        ("return cjson.encode({1, 'a', {x=true}})", Reply::Bulk("[1,\"a\",{\"x\":true}]".into())),
        ("return cjson.decode('{\"a\":[1,2,null]}').a[2]", Reply::Integer(2)),
        ("return #KEYS + #ARGV", Reply::Integer(0)),
    ] {
        assert_eq!(reply(script), expected, "{script}");
    }
}

#[test]
fn errors_reach_the_client_or_the_script() {
    assert!(error("return redis.call('incr', 'lock')").starts_with("ERR value is not an integer"));
    assert!(error("return redis.call('nosuch')").starts_with("ERR Unknown Redis command called from script"));
    assert!(error("return redis.call('get')").starts_with("ERR Wrong number of args"));
    assert!(
        error("return redis.call('flushall')")
            .starts_with("ERR This Redis command is not allowed from script")
    );
    assert!(error("return redis.call('eval', 'return 1', 0)").contains("not allowed from script"));
    assert!(error("error('boom')").contains("boom"));
    assert!(error("return 1 +").starts_with("ERR Error compiling script (new function):"));
    let caught = "local ok = redis.pcall('incr', 'lock') return ok.err";
    assert_eq!(reply(caught), Reply::Bulk("ERR value is not an integer or out of range".into()));
    let caught = "local ok, e = pcall(redis.call, 'incr', 'lock') return {tostring(ok), e.err}";
    let expected = ["false", "ERR value is not an integer or out of range"];
    assert_eq!(reply(caught), Reply::Array(expected.map(|text| Reply::Bulk(text.into())).to_vec()));
}

#[test]
fn what_a_sandbox_must_not_have_is_not_there() {
    for script in [
        "return io.open('/etc/passwd')",
        "return os.execute('true')",
        "return require('x')",
        "return load('return 1')",
        "return loadstring('return 1')",
        "return dofile('x')",
        "return string.dump(function() end)",
        "return debug.getinfo(1)",
        "return coroutine.create(function() end)",
        "leak = 1",
        "return nosuch",
        "getmetatable(_G).__index = nil",
        "setmetatable(_G, nil)",
        "getmetatable('').__index = {}",
    ] {
        assert!(error(script).starts_with("ERR "), "{script}");
    }
}

#[test]
fn every_script_ends() {
    assert!(error("while true do end").contains("instructions"));
    assert!(error("while true do pcall(function() while true do end end) end").contains("instructions"));
    assert!(error("local s = 'x' while true do s = s .. s end").contains("memory"));
    assert!(
        matches!(error("local function f() return f() + 1 end return f()"), text if text.contains("overflow"))
    );
}

#[test]
fn a_read_only_script_does_not_write() {
    let ended = end(&job("return redis.call('set', 'k', 'v')", &[], &[], true), &content());
    let Ended::Done { reply: Reply::Error(text), steps, .. } = ended else { panic!("not an error") };
    assert!(text.starts_with("ERR Write commands are not allowed from read-only scripts."), "{text}");
    assert!(steps.is_empty());
}

#[test]
fn a_deadline_that_has_come_breaks_the_run_off_even_if_the_script_catches_errors() {
    let script = "pcall(redis.call, 'get', 'due') return redis.pcall('set', 'k', 'v')";
    assert!(matches!(end(&job(script, &[], &[], false), &content()), Ended::Due));
}

/// What Lua's own functions answer to each call, without the sandbox.
fn by_lua(expression: &str) -> String {
    let lua = mlua::Lua::new();
    let shown = "local out = {} for at = 1, select('#', ...) do out[at] = tostring((select(at, ...))) end \
                 return table.concat(out, '|')";
    lua.load(format!("return (function(...) {shown} end)({expression})")).eval().unwrap()
}

#[test]
fn the_functions_on_patterns_are_those_of_lua() {
    for expression in [
        "string.find('hello world', 'o w')",
        "string.find('hello', 'l+', -2)",
        "string.find('a.b', '.', 2, true)",
        "string.find('abc', 'x', 1, true)",
        "string.find('abc', '', 10)",
        "string.find('a)', ')')",
        "string.find('abc', '()b()')",
        "string.find(12345, 34)",
        "string.match('key=value', '^(%w+)=(.-)$')",
        "string.match('  trim me ', '^%s*(.-)%s*$')",
        "string.match('2024-01-31', '(%d+)-(%d+)-(%d+)')",
        "string.match('abc', '()', 2)",
        "string.match('abc', 'x')",
        "('x'):rep(3):match('x-$')",
        "string.gsub('hello world', 'o', '0')",
        "string.gsub('hello world', '(%w+)', '<%1>')",
        "string.gsub('hello world', '%w+', '%0 %0', 1)",
        "string.gsub('abc', '%w', '%%%0')",
        "string.gsub('abc', '', '-')",
        "string.gsub('hello', '%w*', 'x')",
        "string.gsub('abc', '^a', 'x')",
        "string.gsub('aaa', '^a', 'x')",
        "string.gsub('$name is $age', '%$(%w+)', {name = 'lua', age = 5})",
        "string.gsub('abc', '%w', function(c) if c == 'b' then return '[' .. c .. ']' end end)",
        "string.gsub('abc', '(a)(b)', function(a, b) return b .. a end)",
        "string.gsub('abc def', '%f[%w]%w+', string.upper)",
        "string.gsub('THE (quick) fox', '%((%w+)%)', '<%1>')",
        "string.gsub('abc', 'b', 7)",
        "string.gsub('abc', '()', '%1')",
        "(function() local out = {} for k, v in string.gmatch('a=1, b=2', '(%w+)=(%w+)') do out[#out + 1] = k .. v end \
         return unpack(out) end)()",
        "(function() local out = {} for w in ('one two'):gmatch('%a+') do out[#out + 1] = w end return unpack(out) end)()",
        "(function() local n = 0 for _ in ('abc'):gmatch('') do n = n + 1 end return n end)()",
    ] {
        let shown = "local out = {} for at = 1, select('#', ...) do out[at] = tostring((select(at, ...))) end \
                     return table.concat(out, '|')";
        let script: &'static str =
            Box::leak(format!("return (function(...) {shown} end)({expression})").into_boxed_str());
        assert_eq!(reply(script), Reply::Bulk(by_lua(expression).into()), "{expression}");
    }
}

#[test]
fn a_sort_is_that_of_lua_and_its_comparisons_are_counted() {
    let sorted = |how: &'static str| {
        let script = format!("local list = {{3, 1, 2}} table.sort(list{how}) return table.concat(list)");
        reply(Box::leak(script.into_boxed_str()))
    };
    assert_eq!(sorted(""), Reply::Bulk("123".into()));
    assert_eq!(sorted(", function(a, b) return a > b end"), Reply::Bulk("321".into()));
    assert!(
        error("table.sort({1, 2}, 7)").contains("bad argument #2 to 'sort' (function expected, got number)")
    );
    // Three billion comparisons, if nobody counted.
    let long = "local list = {} for at = 1, 1000000 do list[at] = at % 2 end \
                for _ = 1, 200 do table.sort(list) end";
    assert!(error(long).contains("instructions") || error(long).contains("longer than"), "{}", error(long));
}

#[test]
fn a_pattern_ends_too_and_needs_no_stack() {
    let slow = "local s = string.rep('a', 60) return string.find(s, string.rep('a*', 12) .. 'b')";
    assert!(error(slow).contains("instructions"));
    let caught = "while true do pcall(string.gsub, string.rep('a', 60), string.rep('a*', 12) .. 'b', '') end";
    assert!(error(caught).contains("instructions"));
    let deep = "return string.find(string.rep('a', 30000), string.rep('a?', 30000) .. 'b') or 0";
    assert!(error(deep).contains("instructions"));
    assert!(error("return string.find('a', string.rep('a?', 300000))").contains("pattern too long"));
    assert!(error("return string.find('a', '[a')").contains("malformed pattern (missing ']')"));
    assert!(error("return string.gsub('a', 'a', '%2')").contains("invalid capture index"));
    assert!(error("return string.gsub('a', 'a', print)").starts_with("ERR "));
    assert!(error("return ('a'):find()").contains("bad argument #2 to 'find' (string expected, got nil)"));
}

/// 200,000 matches of a pattern of 40 bytes: compiling it for each would cost more than a run has.
#[test]
fn a_pattern_is_compiled_once_for_all_its_matches() {
    let script = "local s = string.rep('ab', 200000) \
                  local _, swapped = string.gsub(s, '[ac-eg-ik-mo-qs-uw-y][bdfhjlnprtvxz0-9]', '') \
                  local seen = 0 for _ in string.gmatch(s, '[ac-eg-ik-mo-qs-uw-y][bdfhjlnprtvxz0-9]') do seen = seen + 1 end \
                  return {swapped, seen}";
    assert_eq!(reply(script), Reply::Array(vec![Reply::Integer(200_000), Reply::Integer(200_000)]));
}

#[test]
fn functions_that_take_long_at_one_instruction_end_by_the_clock() {
    let copies = "local s = string.rep('a', 2^20) while true do local t = string.upper(s) end";
    assert!(error(copies).contains("longer than 5s"));
}
