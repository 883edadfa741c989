//! One run of one script: a fresh Lua 5.1 without files, clock, network or code loading, bounded in instructions and
//! memory. Its commands go to a [`Rehearsal`]; nothing happens outside of it.
//!
//! Invariants
//! - A run ends: the hook counts instructions, also of code that catches errors, and looks at the clock, for functions of
//!   Lua's that take long at one instruction. The matching of patterns, which might never come back, is ours (`pattern`).
//! - A run leaves nothing behind: no Lua state is used twice.

use std::cell::{Cell, RefCell};
use std::fmt::Write as _;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use mlua::{HookTriggers, IntoLuaMulti as _, Lua, LuaOptions, MultiValue, StdLib, Value, Variadic, VmState};
use sha1::{Digest, Sha1};

use super::super::render;
use super::json;
use super::pattern::{self, Capture, Found, Pattern, Spent, Steps};
use crate::acl::{self, Denial, User};
use crate::clock::{UnixMs, monotonic};
use crate::command::{self, Action, Context, Eval, Flags, NodeOp, PubSubOp};
use crate::resp::Reply;
use crate::store::rehearsal::{Fetch, Rehearsal, Stop};
use crate::store::{Fatal, Step, Watched};

/// Instructions of one run, with the steps of the patterns that it matches: about a second.
const INSTRUCTIONS_MAX: u64 = 100_000_000;
/// Between two looks at that.
const INSTRUCTIONS_PER_LOOK: u32 = 1_000;
/// Time of one run (Redis: busy-reply-threshold).
const RUN_MAX: Duration = Duration::from_secs(5);
/// Steps that the compilation of a pattern costs for each of its bytes.
const STEPS_PER_PATTERN_BYTE: usize = 32;
/// Memory of one run.
const MEMORY_BYTES_MAX: usize = 64 << 20;
/// Refusals of one run that are noted.
const DENIALS_MAX: usize = 16;
/// Levels of nesting in a reply.
const DEPTH_MAX: u32 = 64;

const PRELUDE: &str = include_str!("prelude.lua");

/// How a run ended.
pub(super) enum Ended {
    /// With a reply, and what it wants to have happened if all that it saw is still so.
    Done {
        reply: Reply,
        watched: Vec<Watched>,
        steps: Vec<Step>,
        messages: Vec<(bool, Bytes, Bytes)>,
        denials: Vec<Denial>,
    },
    /// The log time must go forward first.
    Due,
    /// The node must stop.
    Fatal(Fatal),
}

/// What a run has.
pub(super) struct Job {
    pub(super) text: Bytes,
    pub(super) sha: String,
    pub(super) eval: Eval,
    pub(super) context: Context,
    /// Bytes that one entry may bring.
    pub(super) write_bytes_max: usize,
    /// Whose permissions each command needs; `None` = of one who may do everything.
    pub(super) user: Option<Arc<User>>,
}

/// The commands' side of a run.
struct Host {
    rehearsal: Rehearsal<'static>,
    context: Context,
    read_only: bool,
    write_bytes_max: usize,
    now: UnixMs,
    messages: Vec<(bool, Bytes, Bytes)>,
    user: Option<Arc<User>>,
    denials: Vec<Denial>,
    stop: Option<Stop>,
}

/// One script on top of a rehearsal, which it gives back.
pub(super) struct Played {
    pub(super) reply: Reply,
    pub(super) rehearsal: Rehearsal<'static>,
    pub(super) messages: Vec<(bool, Bytes, Bytes)>,
    pub(super) denials: Vec<Denial>,
    pub(super) stop: Option<Stop>,
}

/// Runs a script alone.
pub(super) fn run(job: &Job, now: UnixMs, fetch: Fetch<'static>) -> Ended {
    let played = play(job, now, Rehearsal::new(now, fetch));
    Ended::of(played.stop, || {
        let (watched, steps) = played.rehearsal.finish();
        let (messages, denials) = (played.messages, played.denials);
        Ended::Done { reply: played.reply, watched, steps, messages, denials }
    })
}

impl Ended {
    /// As it was stopped, or as it is `done`.
    pub(super) fn of(stop: Option<Stop>, done: impl FnOnce() -> Self) -> Self {
        match stop {
            Some(Stop::Due) => Self::Due,
            Some(Stop::Fatal(fatal)) => Self::Fatal(fatal),
            Some(Stop::NotRehearsed) | None => done(),
        }
    }
}

/// Runs a script on top of what was rehearsed before it.
pub(super) fn play(job: &Job, now: UnixMs, rehearsal: Rehearsal<'static>) -> Played {
    let host = |rehearsal| Host {
        rehearsal,
        context: job.context,
        read_only: job.eval.read_only,
        write_bytes_max: job.write_bytes_max,
        now,
        messages: Vec::new(),
        user: job.user.clone(),
        denials: Vec::new(),
        stop: None,
    };
    let shared = Rc::new(RefCell::new(host(rehearsal)));
    // A script that fails keeps what it has written before, as in Redis.
    let reply = interpret(job, &shared).unwrap_or_else(|error| refused(job, &error.to_string()));
    let ended = Rehearsal::new(now, Box::new(|_| Err(Fatal::new("read", "the script has ended"))));
    let Host { rehearsal, messages, denials, stop, .. } = shared.replace(host(ended));
    Played { reply, rehearsal, messages, denials, stop }
}

fn refused(job: &Job, text: &str) -> Reply {
    let line = text.lines().next().unwrap_or_default();
    Reply::Error(format!("ERR {line} script: {}, on @user_script.", job.sha))
}

fn interpret(job: &Job, host: &Rc<RefCell<Host>>) -> mlua::Result<Reply> {
    let libraries = StdLib::TABLE | StdLib::STRING | StdLib::MATH;
    let lua = Lua::new_with(libraries, LuaOptions::default())?;
    let meter = Meter::default();
    let runner = prepare(&lua, job, host, &meter)?;
    let chunk = match lua
        .load(&job.text[..])
        .set_name("@user_script")
        .set_mode(mlua::chunk::ChunkMode::Text)
        .into_function()
    {
        Ok(chunk) => chunk,
        Err(error) => {
            let text = error.to_string();
            let line = text.lines().next().unwrap_or_default();
            return Ok(Reply::Error(format!("ERR Error compiling script (new function): {line}")));
        }
    };
    lua.set_memory_limit(MEMORY_BYTES_MAX)?;
    let triggers = HookTriggers::new().every_nth_instruction(INSTRUCTIONS_PER_LOOK);
    let end = monotonic() + RUN_MAX;
    lua.set_hook(triggers, move |lua, _| {
        let error = match meter.pay(INSTRUCTIONS_PER_LOOK as usize) {
            Ok(()) if monotonic() < end => return Ok(VmState::Continue),
            Ok(()) => || mlua::Error::runtime(format!("the script ran longer than {RUN_MAX:?}")),
            Err(Spent) => too_long,
        };
        // From now on each instruction fails: code that catches the error has none left to go on with.
        lua.set_hook(HookTriggers::new().every_nth_instruction(1), move |_, _| Err(error()))?;
        Err(error())
    })?;
    let (ok, value): (bool, Value) = runner.call(chunk)?;
    Ok(if ok { from_lua(&value, 0)? } else { raised(job, &value) })
}

/// Counts what a run has done; all clones are one.
#[derive(Clone, Default)]
struct Meter(Rc<Cell<u64>>);

impl Steps for Meter {
    fn pay(&self, steps: usize) -> Result<(), Spent> {
        self.0.set(self.0.get().saturating_add(steps as u64));
        if self.0.get() <= INSTRUCTIONS_MAX { Ok(()) } else { Err(Spent) }
    }
}

fn too_long() -> mlua::Error {
    mlua::Error::runtime(format!("the script ran more than {INSTRUCTIONS_MAX} instructions"))
}

/// Gives the script its world.
fn prepare(lua: &Lua, job: &Job, host: &Rc<RefCell<Host>>, meter: &Meter) -> mlua::Result<mlua::Function> {
    let globals = lua.globals();
    for (name, words) in [("KEYS", &job.eval.keys), ("ARGV", &job.eval.args)] {
        let table = lua.create_table()?;
        for word in words {
            table.raw_push(lua.create_string(&word[..])?)?;
        }
        globals.raw_set(name, table)?;
    }
    let caller = host.clone();
    let raw = lua.create_function(move |lua, words: Variadic<Value>| {
        let reply = match bytes_of(&words) {
            Some(words) => caller.borrow_mut().call(&words),
            None => {
                Reply::Error("ERR Lua redis lib command arguments must be strings or integers".to_owned())
            }
        };
        if caller.borrow().stop.is_some() {
            return Err(mlua::Error::runtime("the script is broken off"));
        }
        to_lua(lua, &reply)
    })?;
    let sha1hex = lua.create_function(|_, text: mlua::LuaString| Ok(sha1_hex(&text.as_bytes())))?;
    let parsed = lua.create_function(|lua, text: mlua::LuaString| json::decode(lua, &text.as_bytes()))?;
    let encoded = lua.create_function(|_, value: Value| json::encode(&value))?;
    let searcher = Searcher { meter: meter.clone(), last: RefCell::default() };
    let find = lua.create_function(move |lua, asked| search(lua, asked, &searcher))?;
    let functions = (raw, sha1hex, parsed, encoded, Value::NULL, find);
    lua.load(PRELUDE).set_name("=prelude").call(functions)
}

/// What a search is for: text and pattern, how many bytes to pass over, and how: `plain` (the pattern is a text), `find` (it
/// is one if nothing in it is special), `match`, `gmatch` (a leading `^` is no anchor).
type Asked = (mlua::LuaString, mlua::LuaString, usize, mlua::LuaString);

/// What searches of one run share.
struct Searcher {
    meter: Meter,
    /// The last pattern, and whether it could be anchored: gmatch and gsub come back with it for each match.
    last: RefCell<Option<(Vec<u8>, bool, Pattern)>>,
}

impl Searcher {
    /// Where a pattern fits first.
    ///
    /// # Errors
    /// [`Spent`]; what is wrong with the pattern is an answer.
    fn find(
        &self,
        (text, pattern): (&[u8], &[u8]),
        from: usize,
        may_anchor: bool,
    ) -> Result<Result<Option<Found>, &'static str>, Spent> {
        let mut last = self.last.borrow_mut();
        let known = last.take().filter(|(known, anchor, _)| known == pattern && *anchor == may_anchor);
        let (_, _, compiled) = if let Some(known) = known {
            last.insert(known)
        } else {
            self.meter.pay(pattern.len().saturating_mul(STEPS_PER_PATTERN_BYTE))?;
            match Pattern::new(pattern, may_anchor) {
                Ok(compiled) => last.insert((pattern.to_vec(), may_anchor, compiled)),
                Err(problem) => return Ok(Err(problem)),
            }
        };
        compiled.find(text, from, &self.meter).map(Ok)
    }
}

/// The first and the last byte of the first match, counted from 1, and the captures; nothing; or false and what is wrong
/// with the pattern.
fn search(lua: &Lua, (text, pattern, from, how): Asked, searcher: &Searcher) -> mlua::Result<MultiValue> {
    let (text, pattern, how) = (text.as_bytes(), pattern.as_bytes(), how.as_bytes());
    #[expect(clippy::cast_precision_loss, reason = "a text has fewer than 2^53 bytes")]
    let place = |at: usize| Value::Number(at as f64);
    let Some(rest) = text.get(from..) else { return Ok(MultiValue::new()) };
    if how == b"plain" || (how == b"find" && pattern::is_plain(&pattern)) {
        searcher.meter.pay(rest.len().saturating_add(pattern.len())).map_err(|Spent| too_long())?;
        let found = memchr::memmem::find(rest, &pattern).map(|at| from + at);
        return Ok(found.into_iter().flat_map(|at| [place(at + 1), place(at + pattern.len())]).collect());
    }
    let found = searcher.find((&text, &pattern), from, how != b"gmatch").map_err(|Spent| too_long())?;
    let found = match found {
        Ok(found) => found,
        Err(problem) => return (false, problem).into_lua_multi(lua),
    };
    let Some(found) = found else { return Ok(MultiValue::new()) };
    let mut values = MultiValue::from_iter([place(found.whole.start + 1), place(found.whole.end)]);
    for capture in found.captures {
        values.push_back(match capture {
            Capture::Text(range) => Value::String(lua.create_string(&text[range])?),
            Capture::Position(at) => place(at + 1),
        });
    }
    Ok(values)
}

/// SHA-1 in hex, by which a script is known.
pub(super) fn sha1_hex(text: &[u8]) -> String {
    Sha1::digest(text).iter().fold(String::with_capacity(40), |mut hex, byte| {
        // Writing to a String cannot fail.
        let _ = write!(hex, "{byte:02x}");
        hex
    })
}

/// The reply for an error that the script did not catch.
fn raised(job: &Job, value: &Value) -> Reply {
    match value {
        Value::Table(table) => match table.raw_get::<Value>("err") {
            Ok(Value::String(text)) => {
                Reply::Error(format!("{} script: {}, on @user_script.", text.to_string_lossy(), job.sha))
            }
            _ => refused(job, "an error without a text"),
        },
        Value::String(text) => refused(job, &text.to_string_lossy()),
        Value::Error(error) => refused(job, &error.to_string()),
        other => refused(job, other.type_name()),
    }
}

#[allow(clippy::cast_possible_truncation, reason = "only numbers that fit are converted")]
fn bytes_of(words: &[Value]) -> Option<Vec<Bytes>> {
    let bytes = |word: &Value| match word {
        Value::String(text) => Some(Bytes::copy_from_slice(&text.as_bytes())),
        Value::Integer(number) => Some(number.to_string().into()),
        Value::Number(number) if number.fract() == 0.0 && number.abs() < 1e17 => {
            Some((*number as i64).to_string().into())
        }
        Value::Number(number) => Some(number.to_string().into()),
        _ => None,
    };
    if words.is_empty() { None } else { words.iter().map(bytes).collect() }
}

impl Host {
    fn call(&mut self, words: &[Bytes]) -> Reply {
        let error = |text: &str| Reply::Error(format!("ERR {text}"));
        let found = match command::resolve(words) {
            Ok(found) => found,
            Err(command::CommandError::Arity(_)) => {
                return error("Wrong number of args calling Redis command from script");
            }
            Err(_) => return error("Unknown Redis command called from script"),
        };
        if found.spec.flags.has(Flags::NOSCRIPT) {
            return error("This Redis command is not allowed from script");
        }
        if let Some(denial) = self.user.as_ref().and_then(|user| acl::permits(user, &found, words).err()) {
            let reply = error(&format!("ACL failure in script: {}", denial.text()));
            if self.denials.len() < DENIALS_MAX {
                self.denials.push(denial);
            }
            return reply;
        }
        let action = match command::parse(found.spec, words, &self.context) {
            Ok(action) => action,
            Err(refused) => return refused.reply(),
        };
        match action {
            Action::Reply(reply) => reply,
            Action::Write(_) if self.read_only => {
                error("Write commands are not allowed from read-only scripts.")
            }
            Action::Write(_) if self.rehearsal.size_bytes() > self.write_bytes_max => {
                error("the script writes more than one log entry may hold")
            }
            Action::Write(op) => match self.rehearsal.perform(&op) {
                Ok(outcome) => render::outcome(&outcome),
                Err(stop) => self.broken_off(stop),
            },
            Action::Read(query, view) => match self.rehearsal.read(&query) {
                Ok(answer) => render::answer(answer, &view, self.context.reply_bytes_max),
                Err(stop) => self.broken_off(stop),
            },
            Action::Node(NodeOp::Time) => {
                let word = |number: u64| Reply::Bulk(number.to_string().into());
                Reply::Array(vec![word(self.now.0 / 1000), word(self.now.0 % 1000 * 1000)])
            }
            Action::PubSub(PubSubOp::Publish { to_shard, channel, message }) => {
                self.messages.push((to_shard, channel, message));
                Reply::Integer(0)
            }
            Action::Session(_) | Action::Node(_) | Action::Script(_) | Action::PubSub(_) => {
                error("This Redis command is not allowed from script")
            }
        }
    }

    fn broken_off(&mut self, stop: Stop) -> Reply {
        if matches!(stop, Stop::NotRehearsed) {
            return Reply::Error("ERR This Redis command is not allowed from script".to_owned());
        }
        self.stop = Some(stop);
        Reply::Nil
    }
}

fn to_lua(lua: &Lua, reply: &Reply) -> mlua::Result<Value> {
    let field = |name: &str, text: &[u8]| -> mlua::Result<Value> {
        let table = lua.create_table()?;
        table.raw_set(name, lua.create_string(text)?)?;
        Ok(Value::Table(table))
    };
    let list = |items: &mut dyn Iterator<Item = &Reply>| -> mlua::Result<Value> {
        let table = lua.create_table()?;
        for (at, item) in items.enumerate() {
            table.raw_set(at + 1, to_lua(lua, item)?)?;
        }
        Ok(Value::Table(table))
    };
    match reply {
        Reply::Ok => field("ok", b"OK"),
        Reply::Simple(text) => field("ok", text.as_bytes()),
        Reply::Status(text) => field("ok", text),
        Reply::Error(text) => field("err", text.as_bytes()),
        Reply::Integer(number) => Ok(Value::Integer(*number)),
        Reply::Bulk(data) | Reply::Verbatim(data) => lua.create_string(&data[..]).map(Value::String),
        Reply::Nil | Reply::NilArray => Ok(Value::Boolean(false)),
        Reply::Array(items) | Reply::Set(items) | Reply::Push(items) => list(&mut items.iter()),
        Reply::Map(pairs) => list(&mut pairs.iter().flat_map(|(key, value)| [key, value])),
        Reply::Double(number) => lua.create_string(number.to_string()).map(Value::String),
        Reply::Boolean(truth) => Ok(Value::Integer(i64::from(*truth))),
    }
}

#[allow(clippy::cast_possible_truncation, reason = "Redis cuts numbers off too")]
fn from_lua(value: &Value, depth: u32) -> mlua::Result<Reply> {
    if depth > DEPTH_MAX {
        return Ok(Reply::Error("ERR reached lua stack limit".to_owned()));
    }
    Ok(match value {
        Value::Boolean(true) => Reply::Integer(1),
        Value::Integer(number) => Reply::Integer(*number),
        Value::Number(number) => Reply::Integer(*number as i64),
        Value::String(text) => Reply::Bulk(Bytes::copy_from_slice(&text.as_bytes())),
        Value::Table(table) => {
            if let Value::String(text) = table.raw_get::<Value>("err")? {
                return Ok(Reply::Error(text.to_string_lossy()));
            }
            if let Value::String(text) = table.raw_get::<Value>("ok")? {
                let text = Bytes::copy_from_slice(&text.as_bytes());
                return Ok(if text == "OK" { Reply::Ok } else { Reply::Status(text) });
            }
            let mut items = Vec::new();
            loop {
                match table.raw_get::<Value>(items.len() + 1)? {
                    Value::Nil => return Ok(Reply::Array(items)),
                    item => items.push(from_lua(&item, depth + 1)?),
                }
            }
        }
        _ => Reply::Nil,
    })
}
