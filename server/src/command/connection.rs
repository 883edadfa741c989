//! Commands on the connection: HELLO AUTH CLIENT PING ECHO SELECT RESET QUIT READONLY READWRITE WAIT.

use bytes::Bytes;

use super::args::{printable, strict_int};
use super::{
    Action, Args, Arity, CommandError, Context, Credentials, Flags, Group, KillFilter, NodeOp, Parsed,
    ReplyMode, ReplyShape, SessionOp, Spec,
};
use crate::resp::{Protocol, Reply};
use crate::secret::Secret;

/// What most rows here share: any node, any time, constant time.
const ROW: Spec = Spec {
    flags: Flags::ALWAYS.with(Flags::FAST).with(Flags::CONNECTION),
    group: Group::Connection,
    ..Spec::ROW
};

/// Flags of what must work before a client has logged in.
const LOGIN: Flags = ROW.flags.with(Flags::NOSCRIPT).with(Flags::NO_AUTH);

pub(crate) static PING: Spec = Spec {
    name: "PING",
    flags: Flags::ALWAYS.with(Flags::FAST).with(Flags::CONNECTION),
    reply: ReplyShape::SimpleOrBulk,
    since: "1.0.0",
    usage: "PING [message]",
    summary: "Answers PONG, or the message",
    parse: |args, _| match args.left() {
        0 => Ok(Action::Reply(Reply::Simple("PONG"))),
        1 => Ok(Action::Reply(Reply::Bulk(args.bytes()?))),
        _ => Err(args.arity()),
    },
    ..ROW
};

pub(crate) static ECHO: Spec = Spec {
    name: "ECHO",
    arity: Arity::Exactly(2),
    reply: ReplyShape::Bulk,
    since: "1.0.0",
    usage: "ECHO message",
    summary: "Answers the message",
    parse: |args, _| Ok(Action::Reply(Reply::Bulk(args.bytes()?))),
    ..ROW
};

pub(crate) static QUIT: Spec = Spec {
    name: "QUIT",
    flags: LOGIN,
    since: "1.0.0",
    usage: "QUIT",
    summary: "Closes the connection after its replies",
    parse: |_, _| Ok(Action::Session(SessionOp::Quit)),
    ..ROW
};

pub(crate) static RESET: Spec = Spec {
    name: "RESET",
    arity: Arity::Exactly(1),
    flags: LOGIN,
    reply: ReplyShape::Simple,
    since: "6.2.0",
    usage: "RESET",
    summary: "Makes the connection as new: RESP2, database 0, no name",
    parse: |_, _| Ok(Action::Session(SessionOp::Reset)),
    ..ROW
};

pub(crate) static SELECT: Spec = Spec {
    name: "SELECT",
    arity: Arity::Exactly(2),
    since: "1.0.0",
    usage: "SELECT index",
    summary: "Chooses the database of the connection",
    parse: select,
    ..ROW
};

fn select(args: &mut Args<'_>, context: &Context) -> Parsed {
    let index = args.int()?;
    let index = u8::try_from(index).ok().filter(|index| *index < context.databases);
    index
        .map(|index| Action::Session(SessionOp::Select(index)))
        .ok_or_else(|| CommandError::Text("ERR DB index is out of range".to_owned()))
}

pub(crate) static READONLY: Spec = Spec {
    name: "READONLY",
    arity: Arity::Exactly(1),
    since: "3.0.0",
    usage: "READONLY",
    summary: "Lets this connection read the local state of any node, which may be stale",
    difference: "the same as --consistency low, for this connection",
    parse: |_, _| Ok(Action::Session(SessionOp::StaleReads(true))),
    ..ROW
};

pub(crate) static READWRITE: Spec = Spec {
    name: "READWRITE",
    arity: Arity::Exactly(1),
    since: "3.0.0",
    usage: "READWRITE",
    summary: "Ends READONLY: reads are as the server is configured",
    parse: |_, _| Ok(Action::Session(SessionOp::StaleReads(false))),
    ..ROW
};

pub(crate) static WAIT: Spec = Spec {
    name: "WAIT",
    arity: Arity::Exactly(3),
    flags: Flags::NOSCRIPT.with(Flags::CONNECTION),
    reply: ReplyShape::Integer,
    group: Group::Generic,
    since: "3.0.0",
    usage: "WAIT numreplicas timeout",
    summary: "Waits until that many other nodes hold all acknowledged writes; returns how many are known to",
    difference: "an acknowledged write is on a majority already, so the answer is never below that",
    parse: wait,
    ..ROW
};

fn wait(args: &mut Args<'_>, _: &Context) -> Parsed {
    let replicas = args.int()?;
    let timeout = args.bytes()?;
    let timeout = strict_int(&timeout)
        .ok_or_else(|| CommandError::Text("ERR timeout is not an integer or out of range".to_owned()))?;
    let timeout_ms =
        u64::try_from(timeout).map_err(|_| CommandError::Text("ERR timeout is negative".to_owned()))?;
    Ok(Action::Node(NodeOp::Wait { replicas, timeout_ms }))
}

pub(crate) static AUTH: Spec = Spec {
    name: "AUTH",
    arity: Arity::AtLeast(2),
    flags: LOGIN,
    since: "1.0.0",
    usage: "AUTH [username] password",
    summary: "Logs in, as the user default if none is named",
    difference: "a failed login is answered after auth_failure_delay; after ten the connection closes",
    parse: auth,
    ..ROW
};

fn auth(args: &mut Args<'_>, _: &Context) -> Parsed {
    let user = match args.left() {
        1 => None,
        2 => Some(args.bytes()?),
        _ => return Err(CommandError::Syntax),
    };
    Ok(Action::Session(SessionOp::Auth(Credentials { user, password: Secret::new(args.bytes()?) })))
}

pub(crate) static HELLO: Spec = Spec {
    name: "HELLO",
    flags: LOGIN,
    reply: ReplyShape::Map,
    since: "6.0.0",
    usage: "HELLO [protover] [AUTH username password] [SETNAME clientname]",
    summary: "Chooses RESP2 or RESP3 and tells what the server is",
    parse: hello,
    ..ROW
};

fn hello(args: &mut Args<'_>, _: &Context) -> Parsed {
    let (mut protocol, mut name, mut login) = (None, None, None);
    if args.left() > 0 {
        let version = args.bytes()?;
        let version = strict_int(&version).ok_or_else(|| {
            CommandError::Text("ERR Protocol version is not an integer or out of range".to_owned())
        })?;
        protocol = Some(match version {
            2 => Protocol::Resp2,
            3 => Protocol::Resp3,
            _ => return Err(CommandError::Text("NOPROTO unsupported protocol version".to_owned())),
        });
    }
    while let Some(word) = args.peek() {
        if args.left() >= 3 && args.keyword("AUTH") {
            let user = Some(args.bytes()?);
            login = Some(Credentials { user, password: Secret::new(args.bytes()?) });
        } else if args.left() >= 2 && args.keyword("SETNAME") {
            name = Some(client_name(args)?);
        } else {
            return Err(CommandError::Text(format!(
                "ERR Syntax error in HELLO option '{}'",
                printable(word)
            )));
        }
    }
    Ok(Action::Session(SessionOp::Hello { protocol, name, login }))
}

/// Takes a name for CLIENT LIST, whose format a blank or a control byte would break.
fn client_name(args: &mut Args<'_>) -> Result<Bytes, CommandError> {
    let name = args.bytes()?;
    if name.iter().all(|byte| (b'!'..=b'~').contains(byte)) {
        return Ok(name);
    }
    Err(CommandError::Text(
        "ERR Client names cannot contain spaces, newlines or special characters.".to_owned(),
    ))
}

pub(crate) static CLIENT: Spec = Spec {
    name: "CLIENT",
    flags: Flags::NONE,
    arity: Arity::AtLeast(2),
    reply: ReplyShape::Container,
    since: "2.4.0",
    usage: "CLIENT subcommand",
    summary: "Container of commands on client connections",
    subcommands: &[
        &CLIENT_GETNAME,
        &CLIENT_HELP,
        &CLIENT_ID,
        &CLIENT_INFO,
        &CLIENT_KILL,
        &CLIENT_LIST,
        &CLIENT_NO_EVICT,
        &CLIENT_NO_TOUCH,
        &CLIENT_REPLY,
        &CLIENT_SETINFO,
        &CLIENT_SETNAME,
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
    parse: |_, _| Ok(Action::Session(SessionOp::Id)),
    ..CLIENT_ROW
};

static CLIENT_INFO: Spec = Spec {
    name: "CLIENT|INFO",
    reply: ReplyShape::Bulk,
    since: "6.2.0",
    usage: "CLIENT INFO",
    summary: "Returns the line of CLIENT LIST for this connection",
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
    let mut ids = None;
    if args.left() == 2 && args.keyword("TYPE") {
        if !client_type(args)? {
            ids = Some(Vec::new());
        }
    } else if args.left() >= 2 && args.keyword("ID") {
        let mut list = Vec::with_capacity(args.left());
        while args.left() > 0 {
            let id = strict_int(&args.bytes()?).and_then(|id| u64::try_from(id).ok());
            list.push(id.ok_or_else(|| CommandError::Text("ERR Invalid client ID".to_owned()))?);
        }
        ids = Some(list);
    }
    args.finish()?;
    Ok(Action::Session(SessionOp::List(ids)))
}

/// Takes a client type; true if our clients are of that type.
fn client_type(args: &mut Args<'_>) -> Result<bool, CommandError> {
    let name = args.bytes()?;
    let is = |known: &str| name.eq_ignore_ascii_case(known.as_bytes());
    if is("normal") {
        Ok(true)
    } else if is("master") || is("replica") || is("slave") || is("pubsub") {
        Ok(false)
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
    parse: client_kill,
    ..CLIENT_ADMIN
};

fn client_kill(args: &mut Args<'_>, _: &Context) -> Parsed {
    let mut filter = KillFilter { possible: true, skip_me: true, ..KillFilter::default() };
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
            filter.possible &= client_type(args)?;
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
