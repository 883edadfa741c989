//! Scripts: EVAL and its kin, SCRIPT. Parsing only; what a script does is in `dispatch::script`.

use bytes::Bytes;

use super::{Action, Args, Arity, CommandError, Flags, Group, KeyRange, Parsed, ReplyShape, Spec};
use crate::resp::Reply;

/// What a scripting command asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ScriptOp {
    /// EVAL and its kin.
    Eval(Eval),
    /// SCRIPT LOAD.
    Load(Bytes),
    /// SCRIPT EXISTS.
    Exists(Vec<Bytes>),
    /// SCRIPT FLUSH.
    Flush,
}

/// One call of a script.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Eval {
    /// Its text or its SHA-1 in hex.
    pub script: Source,
    /// KEYS.
    pub keys: Vec<Bytes>,
    /// ARGV.
    pub args: Vec<Bytes>,
    /// It may not write.
    pub read_only: bool,
}

/// Where a script comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// The request.
    Text(Bytes),
    /// The members' memory, by SHA-1 in hex.
    Sha(Bytes),
}

const ROW: Spec = Spec {
    arity: Arity::AtLeast(3),
    flags: Flags::NOSCRIPT.with(Flags::SCRIPTING),
    keys: KeyRange::counted(3, 1, &["RW", "access", "update"]),
    reply: ReplyShape::Any,
    group: Group::Scripting,
    difference: "Lua 5.1 without load and files; data commands of single keys, TIME and PUBLISH; a run is bounded in \
                 instructions and ends after five seconds; in a transaction with a script the other commands are of single keys too",
    ..Spec::ROW
};

pub(crate) static EVAL: Spec = Spec {
    name: "EVAL",
    since: "2.6.0",
    usage: "EVAL script numkeys [key [key ...]] [arg [arg ...]]",
    summary: "Runs a Lua script; what it writes is one entry of the log, or nothing if it fails before it has written",
    parse: |args, _| eval(args, Source::Text, false),
    ..ROW
};

pub(crate) static EVALSHA: Spec = Spec {
    name: "EVALSHA",
    since: "2.6.0",
    usage: "EVALSHA sha1 numkeys [key [key ...]] [arg [arg ...]]",
    summary: "Runs a Lua script that a member has seen",
    parse: |args, _| eval(args, Source::Sha, false),
    ..ROW
};

pub(crate) static EVAL_RO: Spec = Spec {
    name: "EVAL_RO",
    keys: KeyRange::counted(3, 1, &["RO", "access"]),
    since: "7.0.0",
    usage: "EVAL_RO script numkeys [key [key ...]] [arg [arg ...]]",
    summary: "Runs a Lua script that only reads",
    parse: |args, _| eval(args, Source::Text, true),
    ..ROW
};

pub(crate) static EVALSHA_RO: Spec = Spec {
    name: "EVALSHA_RO",
    keys: KeyRange::counted(3, 1, &["RO", "access"]),
    since: "7.0.0",
    usage: "EVALSHA_RO sha1 numkeys [key [key ...]] [arg [arg ...]]",
    summary: "Runs a Lua script that a member has seen and that only reads",
    parse: |args, _| eval(args, Source::Sha, true),
    ..ROW
};

fn eval(args: &mut Args<'_>, source: fn(Bytes) -> Source, read_only: bool) -> Parsed {
    let text = |text: &str| CommandError::Text(format!("ERR {text}"));
    let script = source(args.bytes()?);
    let count = args.int()?;
    let count = usize::try_from(count).map_err(|_| text("Number of keys can't be negative"))?;
    let mut keys = args.rest();
    if count > keys.len() {
        return Err(text("Number of keys can't be greater than number of args"));
    }
    let args = keys.split_off(count);
    Ok(Action::Script(ScriptOp::Eval(Eval { script, keys, args, read_only })))
}

pub(crate) static SCRIPT: Spec = Spec {
    name: "SCRIPT",
    group: Group::Scripting,
    since: "2.6.0",
    usage: "SCRIPT subcommand",
    summary: "Container of the commands about scripts",
    subcommands: &[&SCRIPT_EXISTS, &SCRIPT_FLUSH, &SCRIPT_HELP, &SCRIPT_KILL, &SCRIPT_LOAD],
    ..Spec::CONTAINER
};

const SUB: Spec = Spec {
    flags: Flags::NOSCRIPT.with(Flags::SCRIPTING),
    group: Group::Scripting,
    since: "2.6.0",
    ..Spec::ROW
};

static SCRIPT_EXISTS: Spec = Spec {
    name: "SCRIPT|EXISTS",
    arity: Arity::AtLeast(3),
    reply: ReplyShape::Array,
    usage: "SCRIPT EXISTS sha1 [sha1 ...]",
    summary: "Tells which scripts the members have seen",
    difference: "of all members that can be reached: scripts are in memory, not in the log",
    parse: |args, _| Ok(Action::Script(ScriptOp::Exists(args.rest()))),
    ..SUB
};

static SCRIPT_FLUSH: Spec = Spec {
    name: "SCRIPT|FLUSH",
    arity: Arity::AtLeast(2),
    usage: "SCRIPT FLUSH [ASYNC|SYNC]",
    summary: "Lets the members forget all scripts",
    difference: "of all members that can be reached: scripts are in memory, not in the log",
    parse: |args, _| {
        let _ = args.keyword("ASYNC") || args.keyword("SYNC");
        if args.left() > 0 {
            let text = "ERR SCRIPT FLUSH only support SYNC|ASYNC option";
            return Err(CommandError::Text(text.to_owned()));
        }
        Ok(Action::Script(ScriptOp::Flush))
    },
    ..SUB
};

static SCRIPT_HELP: Spec = Spec {
    name: "SCRIPT|HELP",
    arity: Arity::Exactly(2),
    flags: Flags::ALWAYS.with(Flags::SCRIPTING),
    reply: ReplyShape::Array,
    since: "5.0.0",
    usage: "SCRIPT HELP",
    summary: "Prints this help",
    parse: |_, _| Ok(Action::Reply(super::help(&SCRIPT))),
    ..SUB
};

static SCRIPT_KILL: Spec = Spec {
    name: "SCRIPT|KILL",
    arity: Arity::Exactly(2),
    usage: "SCRIPT KILL",
    summary: "Always refused: a script ends by itself, at its limit at the latest",
    difference: "always refused",
    parse: |_, _| Ok(Action::Reply(Reply::Error("NOTBUSY No scripts in execution right now.".to_owned()))),
    ..SUB
};

static SCRIPT_LOAD: Spec = Spec {
    name: "SCRIPT|LOAD",
    arity: Arity::Exactly(3),
    reply: ReplyShape::Bulk,
    usage: "SCRIPT LOAD script",
    summary: "Lets the members remember a script and returns its SHA-1",
    difference: "of all members that can be reached: scripts are in memory, not in the log",
    parse: |args, _| Ok(Action::Script(ScriptOp::Load(args.bytes()?))),
    ..SUB
};
