//! CLIENT: what a connection says of itself, and what an administrator does with those of others.

use std::time::Duration;

use super::args::{printable, strict_int};
use super::connection::{ROW, client_name};
use super::{
    Action, Args, Arity, ClientClass, CommandError, Context, Flags, KillFilter, Parsed, ReplyMode,
    ReplyShape, SessionOp, Spec,
};
use crate::resp::Reply;

pub(crate) static CLIENT: Spec = Spec {
    name: "CLIENT",
    flags: Flags::NONE,
    arity: Arity::AtLeast(2),
    reply: ReplyShape::Container,
    since: "2.4.0",
    usage: "CLIENT subcommand",
    summary: "Container of commands on client connections",
    subcommands: &[
        &CLIENT_CACHING,
        &CLIENT_GETNAME,
        &CLIENT_GETREDIR,
        &CLIENT_HELP,
        &CLIENT_ID,
        &CLIENT_INFO,
        &CLIENT_KILL,
        &CLIENT_LIST,
        &CLIENT_NO_EVICT,
        &CLIENT_NO_TOUCH,
        &CLIENT_PAUSE,
        &CLIENT_REPLY,
        &CLIENT_SETINFO,
        &CLIENT_SETNAME,
        &CLIENT_TRACKING,
        &CLIENT_TRACKINGINFO,
        &CLIENT_UNBLOCK,
        &CLIENT_UNPAUSE,
    ],
    ..ROW
};

/// What the harmless rows of CLIENT share.
const CLIENT_ROW: Spec = Spec {
    arity: Arity::Exactly(2),
    flags: Flags::ALWAYS.with(Flags::NOSCRIPT).with(Flags::CONNECTION),
    ..ROW
};

/// What the rows of CLIENT that look at others share.
const CLIENT_ADMIN: Spec = Spec { flags: Flags::ADMIN_ALWAYS.with(Flags::CONNECTION), ..CLIENT_ROW };

/// What the rows of server-assisted client caching share.
const NO_TRACKING: Spec = Spec {
    difference: "there is no tracking: keys are not remembered per client",
    since: "6.0.0",
    ..CLIENT_ROW
};

static CLIENT_CACHING: Spec = Spec {
    name: "CLIENT|CACHING",
    arity: Arity::Exactly(3),
    usage: "CLIENT CACHING YES|NO",
    summary: "Refused, as there is no tracking to be told",
    parse: |args, _| {
        yes_or_no(args, "YES", "NO")?;
        let text = "ERR CLIENT CACHING can be called only when the client is in tracking mode with OPTIN or OPTOUT \
                    mode enabled";
        Err(CommandError::Text(text.to_owned()))
    },
    ..NO_TRACKING
};

static CLIENT_GETREDIR: Spec = Spec {
    name: "CLIENT|GETREDIR",
    reply: ReplyShape::Integer,
    usage: "CLIENT GETREDIR",
    summary: "Returns -1: this connection is not tracked",
    parse: |_, _| Ok(Action::Reply(Reply::Integer(-1))),
    ..NO_TRACKING
};

static CLIENT_TRACKING: Spec = Spec {
    name: "CLIENT|TRACKING",
    arity: Arity::AtLeast(3),
    usage: "CLIENT TRACKING ON|OFF [REDIRECT client-id] [PREFIX prefix [PREFIX prefix ...]] [BCAST] [OPTIN] [OPTOUT] \
            [NOLOOP]",
    summary: "Refuses ON; OFF is what is so anyway",
    parse: |args, _| {
        if yes_or_no(args, "ON", "OFF")? {
            return Err(CommandError::Text("ERR client tracking is not supported".to_owned()));
        }
        Ok(Action::Reply(Reply::Ok))
    },
    ..NO_TRACKING
};

static CLIENT_TRACKINGINFO: Spec = Spec {
    name: "CLIENT|TRACKINGINFO",
    reply: ReplyShape::Map,
    since: "6.2.0",
    usage: "CLIENT TRACKINGINFO",
    summary: "Says that this connection is not tracked",
    parse: |_, _| {
        Ok(Action::Reply(Reply::Map(vec![
            (Reply::Bulk("flags".into()), Reply::Set(vec![Reply::Bulk("off".into())])),
            (Reply::Bulk("redirect".into()), Reply::Integer(-1)),
            (Reply::Bulk("prefixes".into()), Reply::Array(Vec::new())),
        ])))
    },
    ..NO_TRACKING
};

/// Longest pause; Redis takes any number, and a mistyped one would be for ever.
const PAUSE_MAX: Duration = Duration::from_hours(24);

static CLIENT_PAUSE: Spec = Spec {
    name: "CLIENT|PAUSE",
    arity: Arity::AtLeast(3),
    since: "3.0.0",
    usage: "CLIENT PAUSE timeout [WRITE|ALL]",
    summary: "Lets the requests of this node's clients wait for some milliseconds, all of them or what may write",
    difference: "of this node's clients alone; CLIENT PAUSE and UNPAUSE are served meanwhile; a day at most",
    parse: client_pause,
    ..CLIENT_ADMIN
};

fn client_pause(args: &mut Args<'_>, _: &Context) -> Parsed {
    let timeout = strict_int(&args.bytes()?)
        .ok_or_else(|| CommandError::Text("ERR timeout is not an integer or out of range".to_owned()))?;
    let millis =
        u64::try_from(timeout).map_err(|_| CommandError::Text("ERR timeout is negative".to_owned()))?;
    let mut writes_only = false;
    if args.left() > 0 {
        writes_only = if args.keyword("WRITE") {
            true
        } else if args.keyword("ALL") {
            false
        } else {
            return Err(CommandError::Text("ERR CLIENT PAUSE mode must be WRITE or ALL".to_owned()));
        };
    }
    args.finish()?;
    let time = Duration::from_millis(millis).min(PAUSE_MAX);
    Ok(Action::Session(SessionOp::Pause { time, writes_only }))
}

static CLIENT_UNPAUSE: Spec = Spec {
    name: "CLIENT|UNPAUSE",
    since: "6.2.0",
    usage: "CLIENT UNPAUSE",
    summary: "Ends CLIENT PAUSE",
    parse: |_, _| Ok(Action::Session(SessionOp::Unpause)),
    ..CLIENT_ADMIN
};

static CLIENT_UNBLOCK: Spec = Spec {
    name: "CLIENT|UNBLOCK",
    arity: Arity::AtLeast(3),
    reply: ReplyShape::Integer,
    since: "5.0.0",
    usage: "CLIENT UNBLOCK client-id [TIMEOUT|ERROR]",
    summary: "Ends the WAIT of another client as if its time were over, or with an error; 1 if it waited",
    difference: "of this node's clients, in WAIT and WAITAOF",
    parse: |args, _| {
        let id = args.int()?;
        let with_error = args.left() > 0 && yes_or_no_text(args, "ERROR", "TIMEOUT", UNBLOCK_REASON)?;
        args.finish()?;
        Ok(Action::Session(SessionOp::Unblock { id: u64::try_from(id).unwrap_or(0), with_error }))
    },
    ..CLIENT_ADMIN
};

const UNBLOCK_REASON: &str = "ERR CLIENT UNBLOCK reason should be TIMEOUT or ERROR";

static CLIENT_GETNAME: Spec = Spec {
    name: "CLIENT|GETNAME",
    reply: ReplyShape::BulkOrNil,
    since: "2.6.9",
    usage: "CLIENT GETNAME",
    summary: "Returns the name of the connection",
    parse: |_, _| Ok(Action::Session(SessionOp::GetName)),
    ..CLIENT_ROW
};

static CLIENT_HELP: Spec = Spec {
    name: "CLIENT|HELP",
    reply: ReplyShape::Array,
    since: "5.0.0",
    usage: "CLIENT HELP",
    summary: "Prints this help",
    parse: |_, _| Ok(Action::Reply(super::help(&CLIENT))),
    ..CLIENT_ROW
};

static CLIENT_ID: Spec = Spec {
    name: "CLIENT|ID",
    reply: ReplyShape::Integer,
    since: "5.0.0",
    usage: "CLIENT ID",
    summary: "Returns the id of the connection, unique on this node until it restarts",
    difference: "each node counts for itself",
    parse: |_, _| Ok(Action::Session(SessionOp::Id)),
    ..CLIENT_ROW
};

static CLIENT_INFO: Spec = Spec {
    name: "CLIENT|INFO",
    reply: ReplyShape::Bulk,
    since: "6.2.0",
    usage: "CLIENT INFO",
    summary: "Returns the line of CLIENT LIST for this connection",
    difference: "fields that have no meaning here are left out",
    parse: |_, _| Ok(Action::Session(SessionOp::Info)),
    ..CLIENT_ROW
};

static CLIENT_LIST: Spec = Spec {
    name: "CLIENT|LIST",
    arity: Arity::AtLeast(2),
    reply: ReplyShape::Bulk,
    since: "2.4.0",
    usage: "CLIENT LIST [TYPE normal|master|replica|pubsub] [ID client-id [client-id ...]]",
    summary: "Lists the connections to this node",
    difference: "fields that have no meaning here are left out",
    parse: client_list,
    ..CLIENT_ADMIN
};

fn client_list(args: &mut Args<'_>, _: &Context) -> Parsed {
    let (mut ids, mut class) = (None, None);
    if args.left() == 2 && args.keyword("TYPE") {
        class = Some(client_class(args)?);
    } else if args.left() >= 2 && args.keyword("ID") {
        let mut list = Vec::with_capacity(args.left());
        while args.left() > 0 {
            let id = strict_int(&args.bytes()?).and_then(|id| u64::try_from(id).ok());
            list.push(id.ok_or_else(|| CommandError::Text("ERR Invalid client ID".to_owned()))?);
        }
        ids = Some(list);
    }
    args.finish()?;
    Ok(Action::Session(SessionOp::List { ids, class }))
}

/// Takes a client type.
fn client_class(args: &mut Args<'_>) -> Result<ClientClass, CommandError> {
    let name = args.bytes()?;
    let is = |known: &str| name.eq_ignore_ascii_case(known.as_bytes());
    if is("normal") {
        Ok(ClientClass::Normal)
    } else if is("pubsub") {
        Ok(ClientClass::PubSub)
    } else if is("master") || is("replica") || is("slave") {
        Ok(ClientClass::Replica)
    } else {
        Err(CommandError::Text(format!("ERR Unknown client type '{}'", printable(&name))))
    }
}

static CLIENT_KILL: Spec = Spec {
    name: "CLIENT|KILL",
    arity: Arity::AtLeast(3),
    reply: ReplyShape::OkOrInteger,
    since: "2.4.0",
    usage: "CLIENT KILL ip:port|[ID client-id] [TYPE type] [USER username] [ADDR ip:port] [LADDR ip:port] \
            [SKIPME yes|no]",
    summary: "Closes connections to this node",
    difference: "of this node's clients alone",
    parse: client_kill,
    ..CLIENT_ADMIN
};

fn client_kill(args: &mut Args<'_>, _: &Context) -> Parsed {
    let mut filter = KillFilter { skip_me: true, ..KillFilter::default() };
    if args.left() == 1 {
        filter.addr = Some(args.text()?);
        filter.skip_me = false;
        filter.old_form = true;
        return Ok(Action::Session(SessionOp::Kill(filter)));
    }
    while args.left() > 1 {
        if args.keyword("ID") {
            let id = strict_int(&args.bytes()?).and_then(|id| u64::try_from(id).ok()).filter(|id| *id > 0);
            filter.id =
                Some(id.ok_or_else(|| {
                    CommandError::Text("ERR client-id should be greater than 0".to_owned())
                })?);
        } else if args.keyword("TYPE") {
            filter.class = Some(client_class(args)?);
        } else if args.keyword("USER") {
            filter.user = Some(args.bytes()?);
        } else if args.keyword("ADDR") {
            filter.addr = Some(args.text()?);
        } else if args.keyword("LADDR") {
            filter.local_addr = Some(args.text()?);
        } else if args.keyword("SKIPME") {
            filter.skip_me = yes_or_no(args, "YES", "NO")?;
        } else {
            break;
        }
    }
    args.finish()?;
    Ok(Action::Session(SessionOp::Kill(filter)))
}

/// Takes one of two words; true for the first.
fn yes_or_no(args: &mut Args<'_>, yes: &str, no: &str) -> Result<bool, CommandError> {
    if args.keyword(yes) {
        return Ok(true);
    }
    if args.keyword(no) { Ok(false) } else { Err(CommandError::Syntax) }
}

/// The same with a text of its own for other words.
fn yes_or_no_text(args: &mut Args<'_>, yes: &str, no: &str, text: &str) -> Result<bool, CommandError> {
    yes_or_no(args, yes, no).map_err(|_| CommandError::Text(text.to_owned()))
}

static CLIENT_NO_EVICT: Spec = Spec {
    name: "CLIENT|NO-EVICT",
    arity: Arity::Exactly(3),
    since: "7.0.0",
    usage: "CLIENT NO-EVICT ON|OFF",
    summary: "Accepted: clients are never evicted for memory here",
    difference: "changes nothing",
    parse: |args, _| yes_or_no(args, "ON", "OFF").map(|_| Action::Reply(Reply::Ok)),
    ..CLIENT_ADMIN
};

static CLIENT_NO_TOUCH: Spec = Spec {
    name: "CLIENT|NO-TOUCH",
    arity: Arity::Exactly(3),
    since: "7.2.0",
    usage: "CLIENT NO-TOUCH ON|OFF",
    summary: "Accepted: reads never touch a key here",
    difference: "changes nothing",
    parse: |args, _| yes_or_no(args, "ON", "OFF").map(|_| Action::Reply(Reply::Ok)),
    ..CLIENT_ROW
};

static CLIENT_REPLY: Spec = Spec {
    name: "CLIENT|REPLY",
    arity: Arity::Exactly(3),
    since: "3.2.0",
    usage: "CLIENT REPLY ON|OFF|SKIP",
    summary: "Sends replies, sends none, or leaves out the next one",
    parse: |args, _| {
        let mode = if args.keyword("ON") {
            ReplyMode::On
        } else if args.keyword("OFF") {
            ReplyMode::Off
        } else if args.keyword("SKIP") {
            ReplyMode::Skip
        } else {
            return Err(CommandError::Syntax);
        };
        Ok(Action::Session(SessionOp::Replies(mode)))
    },
    ..CLIENT_ROW
};

static CLIENT_SETINFO: Spec = Spec {
    name: "CLIENT|SETINFO",
    arity: Arity::Exactly(4),
    since: "7.2.0",
    usage: "CLIENT SETINFO LIB-NAME|LIB-VER value",
    summary: "Names the client library of the connection",
    parse: client_setinfo,
    ..CLIENT_ROW
};

fn client_setinfo(args: &mut Args<'_>, _: &Context) -> Parsed {
    let attribute = args.bytes()?;
    let value = args.bytes()?;
    let is = |name: &str| attribute.eq_ignore_ascii_case(name.as_bytes());
    if !is("LIB-NAME") && !is("LIB-VER") {
        let text = format!("ERR Unrecognized option '{}'", printable(&attribute));
        return Err(CommandError::Text(text));
    }
    if !value.iter().all(|byte| (b'!'..=b'~').contains(byte)) {
        let name = printable(&attribute);
        return Err(CommandError::Text(format!(
            "ERR {name} cannot contain spaces, newlines or special characters."
        )));
    }
    Ok(Action::Session(if is("LIB-NAME") {
        SessionOp::SetLibraryName(value)
    } else {
        SessionOp::SetLibraryVersion(value)
    }))
}

static CLIENT_SETNAME: Spec = Spec {
    name: "CLIENT|SETNAME",
    arity: Arity::Exactly(3),
    since: "2.6.9",
    usage: "CLIENT SETNAME name",
    summary: "Names the connection; an empty name removes it",
    parse: |args, _| Ok(Action::Session(SessionOp::SetName(client_name(args)?))),
    ..CLIENT_ROW
};
