//! Commands on the server: INFO CONFIG COMMAND SHUTDOWN TIME ROLE and what monitoring tools ask for.

use super::{
    Action, Args, Arity, CommandError, Context, Flags, NodeOp, Parsed, ReplyShape, SessionOp, Spec, docs,
};
use crate::resp::Reply;

/// What the questions share: any node, any time.
pub(super) const QUESTION: Spec = Spec { flags: Flags::ALWAYS, ..Spec::ROW };

/// What the administrator's rows share.
pub(super) const ADMIN: Spec = Spec { arity: Arity::Exactly(2), flags: Flags::ADMIN_ALWAYS, ..Spec::ROW };

pub(crate) static INFO: Spec = Spec {
    name: "INFO",
    flags: Flags::ALWAYS.with(Flags::DANGEROUS),
    reply: ReplyShape::Bulk,
    since: "1.0.0",
    usage: "INFO [section [section ...]]",
    summary: "Returns facts and counters of this node",
    difference: "has a section Raft; a fact that is not known is left out",
    parse: |args, _| {
        let sections = args.rest();
        let sections =
            sections.iter().map(|word| String::from_utf8_lossy(word).to_ascii_lowercase()).collect();
        Ok(Action::Node(NodeOp::Info(sections)))
    },
    ..QUESTION
};

pub(crate) static SHUTDOWN: Spec = Spec {
    name: "SHUTDOWN",
    flags: Flags::ADMIN_ALWAYS.with(Flags::NO_MULTI),
    reply: ReplyShape::Nothing,
    since: "1.0.0",
    usage: "SHUTDOWN [NOSAVE|SAVE] [NOW] [FORCE]",
    summary: "Stops this node in good order: leadership is handed over, everything is flushed",
    difference: "the options are accepted and change nothing: data is always safe",
    parse: |_, _| Ok(Action::Node(NodeOp::Shutdown)),
    ..Spec::ROW
};

pub(crate) static TIME: Spec = Spec {
    name: "TIME",
    arity: Arity::Exactly(1),
    flags: Flags::ALWAYS.with(Flags::FAST),
    reply: ReplyShape::Array,
    since: "2.6.0",
    usage: "TIME",
    summary: "Returns this node's wall clock as seconds and microseconds",
    difference: "of millisecond resolution",
    parse: |_, _| Ok(Action::Node(NodeOp::Time)),
    ..Spec::ROW
};

pub(crate) static ROLE: Spec = Spec {
    name: "ROLE",
    arity: Arity::Exactly(1),
    flags: Flags::ALWAYS
        .with(Flags::NOSCRIPT)
        .with(Flags::FAST)
        .with(Flags::DANGEROUS)
        .with(Flags::ADMIN_CATEGORY),
    reply: ReplyShape::Array,
    since: "2.8.12",
    usage: "ROLE",
    summary: "Returns master on a node that takes writes, else slave with the leader's address",
    difference: "a follower that forwards takes writes, so it is a master; the offset is the applied index",
    parse: |_, _| Ok(Action::Node(NodeOp::Role)),
    ..Spec::ROW
};

pub(crate) static LASTSAVE: Spec = Spec {
    name: "LASTSAVE",
    arity: Arity::Exactly(1),
    flags: Flags::ALWAYS.with(Flags::FAST).with(Flags::DANGEROUS).with(Flags::ADMIN_CATEGORY),
    reply: ReplyShape::Integer,
    since: "1.0.0",
    usage: "LASTSAVE",
    summary: "Returns when the last snapshot was written, or when the node started, in Unix seconds",
    parse: |_, _| Ok(Action::Node(NodeOp::LastSave)),
    ..Spec::ROW
};

pub(crate) static SAVE: Spec = Spec {
    name: "SAVE",
    arity: Arity::Exactly(1),
    since: "1.0.0",
    usage: "SAVE",
    summary: "The same as RAFTSNAPSHOT",
    difference: "stalls nobody",
    parse: |_, _| Ok(Action::Node(NodeOp::Snapshot)),
    ..ADMIN
};

pub(crate) static BGSAVE: Spec = Spec {
    name: "BGSAVE",
    arity: Arity::AtLeast(1),
    reply: ReplyShape::Simple,
    since: "1.0.0",
    usage: "BGSAVE [SCHEDULE]",
    summary: "Begins a RAFTSNAPSHOT and answers at once; LASTSAVE and INFO persistence tell when it is done",
    difference: "the file is not an RDB file; see RAFTSNAPSHOT",
    parse: |args, _| {
        let _ = args.keyword("SCHEDULE");
        args.finish()?;
        Ok(Action::Node(NodeOp::BackgroundSnapshot))
    },
    ..ADMIN
};

pub(crate) static DEBUG: Spec = Spec {
    name: "DEBUG",
    arity: Arity::AtLeast(2),
    since: "1.0.0",
    usage: "DEBUG subcommand",
    summary: "Refused",
    difference: "always refused",
    parse: |_, _| Err(CommandError::Text("ERR DEBUG command not allowed".to_owned())),
    ..ADMIN
};

pub(crate) static MONITOR: Spec = Spec {
    name: "MONITOR",
    arity: Arity::Exactly(1),
    flags: Flags::ADMIN_ALWAYS.with(Flags::NO_MULTI),
    since: "1.0.0",
    usage: "MONITOR",
    summary: "Shows what the clients of this node ask, until RESET or the end of the connection",
    difference: "requests in a transaction show when they are queued, those that a script makes do not; words of more \
                 than 1 KiB are cut; who lags by 8 MiB is closed",
    parse: |_, _| Ok(Action::Session(SessionOp::Monitor)),
    ..ADMIN
};

pub(crate) static COMMAND: Spec = Spec {
    name: "COMMAND",
    arity: Arity::AtLeast(1),
    flags: Flags::ALWAYS.with(Flags::CONNECTION),
    reply: ReplyShape::Array,
    since: "2.8.13",
    usage: "COMMAND",
    summary: "Describes all commands",
    difference: "no tips",
    subcommands: &[
        &COMMAND_COUNT,
        &COMMAND_DOCS,
        &COMMAND_GETKEYS,
        &COMMAND_GETKEYSANDFLAGS,
        &COMMAND_HELP,
        &COMMAND_INFO,
        &COMMAND_LIST,
    ],
    parse: |_, _| Ok(Action::Reply(docs::all())),
    ..Spec::ROW
};

/// What the rows of COMMAND share.
const COMMAND_ROW: Spec = Spec {
    arity: Arity::AtLeast(2),
    flags: Flags::ALWAYS.with(Flags::CONNECTION),
    reply: ReplyShape::Array,
    since: "7.0.0",
    ..Spec::ROW
};

static COMMAND_COUNT: Spec = Spec {
    name: "COMMAND|COUNT",
    arity: Arity::Exactly(2),
    reply: ReplyShape::Integer,
    since: "2.8.13",
    usage: "COMMAND COUNT",
    summary: "Returns the number of commands",
    parse: |_, _| Ok(Action::Reply(docs::count())),
    ..COMMAND_ROW
};

static COMMAND_DOCS: Spec = Spec {
    name: "COMMAND|DOCS",
    reply: ReplyShape::Map,
    usage: "COMMAND DOCS [command-name [command-name ...]]",
    summary: "Returns summary, version, group and arguments of commands",
    difference: "arguments are read out of the usage; no history",
    parse: |args, _| Ok(Action::Reply(docs::docs(&args.rest()))),
    ..COMMAND_ROW
};

static COMMAND_GETKEYS: Spec = Spec {
    name: "COMMAND|GETKEYS",
    arity: Arity::AtLeast(3),
    since: "2.8.13",
    usage: "COMMAND GETKEYS command [arg ...]",
    summary: "Returns the keys of a command line",
    difference: "takes commands of one word too, and says that they have no keys",
    parse: |args, _| docs::get_keys(&args.rest()).map(Action::Reply),
    ..COMMAND_ROW
};

static COMMAND_GETKEYSANDFLAGS: Spec = Spec {
    name: "COMMAND|GETKEYSANDFLAGS",
    arity: Arity::AtLeast(4),
    usage: "COMMAND GETKEYSANDFLAGS command [arg ...]",
    summary: "Returns the keys of a command line, and what is done to each",
    parse: |args, _| docs::get_keys_and_flags(&args.rest()).map(Action::Reply),
    ..COMMAND_ROW
};

static COMMAND_HELP: Spec = Spec {
    name: "COMMAND|HELP",
    arity: Arity::Exactly(2),
    since: "5.0.0",
    usage: "COMMAND HELP",
    summary: "Prints this help",
    parse: |_, _| Ok(Action::Reply(super::help(&COMMAND))),
    ..COMMAND_ROW
};

static COMMAND_INFO: Spec = Spec {
    name: "COMMAND|INFO",
    since: "2.8.13",
    usage: "COMMAND INFO [command-name [command-name ...]]",
    summary: "Describes commands; nil for one that does not exist",
    difference: "no tips",
    parse: |args, _| Ok(Action::Reply(docs::info(&args.rest()))),
    ..COMMAND_ROW
};

static COMMAND_LIST: Spec = Spec {
    name: "COMMAND|LIST",
    usage: "COMMAND LIST [FILTERBY MODULE module-name|ACLCAT category|PATTERN pattern]",
    summary: "Returns the names of commands",
    parse: command_list,
    ..COMMAND_ROW
};

fn command_list(args: &mut Args<'_>, _: &Context) -> Parsed {
    let filter = if args.left() == 0 {
        docs::Filter::None
    } else if args.left() == 3 && args.keyword("FILTERBY") {
        if args.keyword("MODULE") {
            docs::Filter::Module
        } else if args.keyword("ACLCAT") {
            docs::Filter::Category(args.bytes()?)
        } else if args.keyword("PATTERN") {
            docs::Filter::Pattern(args.bytes()?)
        } else {
            return Err(CommandError::Syntax);
        }
    } else {
        return Err(CommandError::Syntax);
    };
    Ok(Action::Reply(docs::list(&filter)))
}

pub(crate) static CONFIG: Spec = Spec {
    name: "CONFIG",
    since: "2.0.0",
    usage: "CONFIG subcommand",
    summary: "Container of commands on the configuration of this node",
    subcommands: &[&CONFIG_GET, &CONFIG_HELP, &CONFIG_RESETSTAT, &CONFIG_REWRITE, &CONFIG_SET],
    ..Spec::CONTAINER
};

static CONFIG_GET: Spec = Spec {
    name: "CONFIG|GET",
    arity: Arity::AtLeast(3),
    reply: ReplyShape::Map,
    since: "2.0.0",
    usage: "CONFIG GET pattern [pattern ...]",
    summary: "Returns the parameters that match globs",
    difference: "parameters of Redis that have a meaning here, and some of ours",
    parse: |args, _| Ok(Action::Node(NodeOp::ConfigGet(args.rest()))),
    ..ADMIN
};

static CONFIG_HELP: Spec = Spec {
    name: "CONFIG|HELP",
    flags: Flags::ALWAYS,
    reply: ReplyShape::Array,
    since: "5.0.0",
    usage: "CONFIG HELP",
    summary: "Prints this help",
    parse: |_, _| Ok(Action::Reply(super::help(&CONFIG))),
    ..ADMIN
};

static CONFIG_RESETSTAT: Spec = Spec {
    name: "CONFIG|RESETSTAT",
    since: "2.0.0",
    usage: "CONFIG RESETSTAT",
    summary: "Sets the counters of INFO to zero; /metrics keeps counting",
    parse: |_, _| Ok(Action::Node(NodeOp::ResetStatistics)),
    ..ADMIN
};

static CONFIG_REWRITE: Spec = Spec {
    name: "CONFIG|REWRITE",
    since: "2.8.0",
    usage: "CONFIG REWRITE",
    summary: "Refused: the configuration file belongs to its author",
    difference: "always refused",
    parse: |_, _| Err(CommandError::Text("ERR The server is running without a config file".to_owned())),
    ..ADMIN
};

static CONFIG_SET: Spec = Spec {
    name: "CONFIG|SET",
    arity: Arity::AtLeast(4),
    since: "2.0.0",
    usage: "CONFIG SET parameter value [parameter value ...]",
    summary: "Changes parameters of this node until it restarts, all or none",
    difference: "few parameters can be changed while the node runs",
    parse: |args, _| {
        if !args.left().is_multiple_of(2) {
            return Err(CommandError::Arity("config|set".to_owned()));
        }
        let mut pairs = Vec::with_capacity(args.left() / 2);
        while args.left() > 0 {
            pairs.push((args.bytes()?, args.bytes()?));
        }
        Ok(Action::Node(NodeOp::ConfigSet(pairs)))
    },
    ..ADMIN
};

pub(crate) static MODULE: Spec = Spec {
    name: "MODULE",
    since: "4.0.0",
    usage: "MODULE subcommand",
    summary: "Container of commands on modules; there are none",
    subcommands: &[&MODULE_HELP, &MODULE_LIST],
    ..Spec::CONTAINER
};

static MODULE_HELP: Spec = Spec {
    name: "MODULE|HELP",
    arity: Arity::Exactly(2),
    reply: ReplyShape::Array,
    since: "5.0.0",
    usage: "MODULE HELP",
    summary: "Prints this help",
    parse: |_, _| Ok(Action::Reply(super::help(&MODULE))),
    ..QUESTION
};

static MODULE_LIST: Spec = Spec {
    name: "MODULE|LIST",
    reply: ReplyShape::Array,
    since: "4.0.0",
    usage: "MODULE LIST",
    summary: "Returns no modules",
    difference: "always empty",
    parse: |_, _| Ok(Action::Reply(Reply::Array(Vec::new()))),
    ..ADMIN
};

pub(crate) static SLOWLOG: Spec = Spec {
    name: "SLOWLOG",
    since: "2.2.12",
    usage: "SLOWLOG subcommand",
    summary: "Container of commands on the slow log of this node",
    difference: "times run from a request's turn to its reply, so a write's sync counts; of requests that shared one \
                 log entry only the first is noted",
    subcommands: &[&SLOWLOG_GET, &SLOWLOG_HELP, &SLOWLOG_LEN, &SLOWLOG_RESET],
    ..Spec::CONTAINER
};

static SLOWLOG_GET: Spec = Spec {
    name: "SLOWLOG|GET",
    arity: Arity::AtLeast(2),
    reply: ReplyShape::Array,
    since: "2.2.12",
    usage: "SLOWLOG GET [count] [WITHTIMES]",
    summary: "Returns the newest slow requests, 10 by default, all with -1",
    difference: "WITHTIMES adds a map of microseconds to each: queue, fsync, replicate and apply of a write, leader of one \
                 that was forwarded, confirm of a read",
    parse: slowlog_get,
    ..ADMIN
};

fn slowlog_get(args: &mut Args<'_>, _: &Context) -> Parsed {
    let refused = || CommandError::Text("ERR count should be greater than or equal to -1".to_owned());
    let mut with_times = args.keyword("WITHTIMES");
    let mut count = Some(10);
    if args.left() > 0 && !with_times {
        count = match args.int().map_err(|_| refused())? {
            -1 => None,
            n => Some(usize::try_from(n).map_err(|_| refused())?),
        };
        with_times = args.keyword("WITHTIMES");
    }
    if args.left() > 0 {
        return Err(CommandError::Arity("slowlog|get".to_owned()));
    }
    Ok(Action::Node(NodeOp::SlowLogGet { count, with_times }))
}

static SLOWLOG_HELP: Spec = Spec {
    name: "SLOWLOG|HELP",
    flags: Flags::ALWAYS,
    reply: ReplyShape::Array,
    since: "6.2.0",
    usage: "SLOWLOG HELP",
    summary: "Prints this help",
    parse: |_, _| Ok(Action::Reply(super::help(&SLOWLOG))),
    ..ADMIN
};

static SLOWLOG_LEN: Spec = Spec {
    name: "SLOWLOG|LEN",
    reply: ReplyShape::Integer,
    since: "2.2.12",
    usage: "SLOWLOG LEN",
    summary: "Returns the number of noted requests",
    parse: |_, _| Ok(Action::Node(NodeOp::SlowLogLength)),
    ..ADMIN
};

static SLOWLOG_RESET: Spec = Spec {
    name: "SLOWLOG|RESET",
    since: "2.2.12",
    usage: "SLOWLOG RESET",
    summary: "Forgets all noted requests",
    parse: |_, _| Ok(Action::Node(NodeOp::SlowLogReset)),
    ..ADMIN
};
