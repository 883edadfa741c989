//! Commands on the connection: HELLO AUTH PING ECHO SELECT RESET QUIT READONLY READWRITE WAIT WAITAOF.

use bytes::Bytes;

use super::args::{printable, strict_int};
use super::{
    Action, Args, Arity, CommandError, Context, Credentials, Flags, Group, NodeOp, Parsed, ReplyShape,
    SessionOp, Spec,
};
use crate::resp::{Protocol, Reply};
use crate::secret::Secret;

/// What most rows here share: any node, any time, constant time.
pub(super) const ROW: Spec = Spec {
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
    difference: "READONLY has another meaning",
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
    let (replicas, timeout_ms) = replicas_and_timeout(args)?;
    Ok(Action::Node(NodeOp::Wait { replicas, timeout_ms }))
}

fn replicas_and_timeout(args: &mut Args<'_>) -> Result<(i64, u64), CommandError> {
    let replicas = args.int()?;
    let timeout = args.bytes()?;
    let timeout = strict_int(&timeout)
        .ok_or_else(|| CommandError::Text("ERR timeout is not an integer or out of range".to_owned()))?;
    let timeout_ms =
        u64::try_from(timeout).map_err(|_| CommandError::Text("ERR timeout is negative".to_owned()))?;
    Ok((replicas, timeout_ms))
}

pub(crate) static WAITAOF: Spec = Spec {
    name: "WAITAOF",
    arity: Arity::Exactly(4),
    flags: Flags::NOSCRIPT.with(Flags::CONNECTION),
    reply: ReplyShape::Array,
    group: Group::Generic,
    since: "7.2.0",
    usage: "WAITAOF numlocal numreplicas timeout",
    summary: "Waits until this node and that many others have synced all acknowledged writes; returns how many have",
    difference: "of the Raft log: with durability high an acknowledged write is synced on a majority already, with less \
                 numlocal is refused and no node counts as synced",
    parse: |args, _| {
        let local = args.int()?;
        if !(0..=1).contains(&local) {
            let text = "ERR value is out of range, must be between 0 and 1";
            return Err(CommandError::Text(text.to_owned()));
        }
        let (replicas, timeout_ms) = replicas_and_timeout(args)?;
        if replicas < 0 {
            return Err(CommandError::Text("ERR value is out of range, must be positive".to_owned()));
        }
        Ok(Action::Node(NodeOp::WaitSynced { local, replicas, timeout_ms }))
    },
    ..ROW
};

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
    difference: "server and version are those of the Redis whose replies are followed",
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
pub(super) fn client_name(args: &mut Args<'_>) -> Result<Bytes, CommandError> {
    let name = args.bytes()?;
    if name.iter().all(|byte| (b'!'..=b'~').contains(byte)) {
        return Ok(name);
    }
    Err(CommandError::Text(
        "ERR Client names cannot contain spaces, newlines or special characters.".to_owned(),
    ))
}
