//! ACL and its subcommands: questions about users. The users themselves come from files (`acl::source`), so the verbs
//! that would change them say where to do it.

use bytes::Bytes;

use super::args::strict_int;
use super::{
    Action, Args, Arity, CommandError, Context, Flags, NodeOp, Parsed, ReplyShape, Spec, docs, resolve,
};

/// Longest password that ACL GENPASS makes, in bits.
const PASSWORD_BITS_MAX: i64 = 4096;
/// ACL LOG without a count.
const LOG_ENTRIES: usize = 10;

/// What an ACL command asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AclOp {
    /// ACL WHOAMI.
    WhoAmI,
    /// ACL LIST.
    List,
    /// ACL USERS.
    Users,
    /// ACL GETUSER.
    GetUser(Bytes),
    /// ACL DRYRUN: the words of the command, which exists and has the right number of them.
    DryRun {
        /// Whose permissions.
        user: Bytes,
        /// The request.
        words: Vec<Bytes>,
    },
    /// ACL GENPASS: bits.
    GeneratePassword(u32),
    /// ACL LOG: entries.
    Log(usize),
    /// ACL LOG RESET.
    ResetLog,
    /// ACL LOAD.
    Load,
}

pub(crate) static ACL: Spec = Spec {
    name: "ACL",
    since: "6.0.0",
    usage: "ACL subcommand",
    summary: "Container of commands on users",
    difference: "users come from acl_file and requirepass_file, which are read again when they change",
    subcommands: &[
        &ACL_CAT,
        &ACL_DELUSER,
        &ACL_DRYRUN,
        &ACL_GENPASS,
        &ACL_GETUSER,
        &ACL_HELP,
        &ACL_LIST,
        &ACL_LOAD,
        &ACL_LOG,
        &ACL_SAVE,
        &ACL_SETUSER,
        &ACL_USERS,
        &ACL_WHOAMI,
    ],
    ..Spec::CONTAINER
};

/// What the harmless rows share.
const QUESTION: Spec = Spec {
    arity: Arity::Exactly(2),
    flags: Flags::ALWAYS.with(Flags::NOSCRIPT),
    reply: ReplyShape::Array,
    since: "6.0.0",
    ..Spec::ROW
};

/// What the administrator's rows share.
const ADMIN: Spec = Spec { flags: Flags::ADMIN_ALWAYS, ..QUESTION };

fn acl(op: AclOp) -> Parsed {
    Ok(Action::Node(NodeOp::Acl(op)))
}

/// The answer to what would change a user.
fn not_here() -> Parsed {
    let text = "ERR users are what acl_file and requirepass_file say; change the file, the node reads it again by itself";
    Err(CommandError::Text(text.to_owned()))
}

static ACL_CAT: Spec = Spec {
    name: "ACL|CAT",
    arity: Arity::AtLeast(2),
    usage: "ACL CAT [category]",
    summary: "Lists the categories, or the commands of one",
    parse: |args, _| {
        let category = if args.left() == 0 { None } else { Some(args.bytes()?) };
        args.finish().map_err(|_| misused(args))?;
        docs::acl_categories(category.as_ref()).map(Action::Reply)
    },
    ..QUESTION
};

/// Redis' answer to a subcommand with too many words.
fn misused(args: &Args<'_>) -> CommandError {
    let name = args.subcommand();
    CommandError::Text(format!(
        "ERR unknown subcommand or wrong number of arguments for '{name}'. Try ACL HELP."
    ))
}

static ACL_DELUSER: Spec = Spec {
    name: "ACL|DELUSER",
    arity: Arity::AtLeast(3),
    reply: ReplyShape::Integer,
    usage: "ACL DELUSER username [username ...]",
    summary: "Refused: users come from files",
    difference: "always refused",
    parse: |_, _| not_here(),
    ..ADMIN
};

static ACL_DRYRUN: Spec = Spec {
    name: "ACL|DRYRUN",
    arity: Arity::AtLeast(4),
    reply: ReplyShape::SimpleOrBulk,
    since: "7.0.0",
    usage: "ACL DRYRUN username command [arg [arg ...]]",
    summary: "Tells whether a user may run a command, without running it",
    parse: |args, _| {
        let (user, words) = (args.bytes()?, args.rest());
        // Whether the user exists is asked first, as Redis does; so what is wrong with the words waits.
        acl(AclOp::DryRun { user, words })
    },
    ..ADMIN
};

/// What is wrong with the words of ACL DRYRUN.
///
/// # Errors
/// Redis' texts: no such command, wrong number of words.
pub fn resolve_dry_run(words: &[Bytes]) -> Result<super::table::Found, CommandError> {
    resolve(words).map_err(|error| match error {
        CommandError::Arity(name) => CommandError::Arity(name.to_ascii_lowercase()),
        CommandError::Unknown(name) => CommandError::Text(format!("ERR Command '{name}' not found")),
        CommandError::UnknownSubcommand { container, name } => {
            let container = container.to_ascii_lowercase();
            CommandError::Text(format!("ERR Command '{container}|{name}' not found"))
        }
        other => other,
    })
}

static ACL_GENPASS: Spec = Spec {
    name: "ACL|GENPASS",
    arity: Arity::AtLeast(2),
    reply: ReplyShape::Bulk,
    usage: "ACL GENPASS [bits]",
    summary: "Returns a random password in hex, of 256 bits by default",
    parse: generate_password,
    ..QUESTION
};

fn generate_password(args: &mut Args<'_>, _: &Context) -> Parsed {
    let bits = if args.left() == 0 { Some(256) } else { strict_int(&args.bytes()?) };
    args.finish().map_err(|_| misused(args))?;
    let bits = bits.ok_or(CommandError::NotInteger)?;
    let fits = u32::try_from(bits).ok().filter(|_| (1..=PASSWORD_BITS_MAX).contains(&bits));
    let bits = fits.ok_or_else(|| {
        CommandError::Text(format!(
            "ERR ACL GENPASS argument must be the number of bits for the output password, a positive number up to \
             {PASSWORD_BITS_MAX}"
        ))
    })?;
    acl(AclOp::GeneratePassword(bits))
}

static ACL_GETUSER: Spec = Spec {
    name: "ACL|GETUSER",
    arity: Arity::Exactly(3),
    reply: ReplyShape::MapOrNil,
    usage: "ACL GETUSER username",
    summary: "Returns flags, password hashes and rules of a user, nil if there is none",
    parse: |args, _| acl(AclOp::GetUser(args.bytes()?)),
    ..ADMIN
};

static ACL_HELP: Spec = Spec {
    name: "ACL|HELP",
    flags: Flags::ALWAYS,
    usage: "ACL HELP",
    summary: "Prints this help",
    parse: |_, _| Ok(Action::Reply(super::help(&ACL))),
    ..QUESTION
};

static ACL_LIST: Spec = Spec {
    name: "ACL|LIST",
    usage: "ACL LIST",
    summary: "Returns the users as lines of an ACL file",
    parse: |_, _| acl(AclOp::List),
    ..ADMIN
};

static ACL_LOAD: Spec = Spec {
    name: "ACL|LOAD",
    reply: ReplyShape::Ok,
    usage: "ACL LOAD",
    summary: "Reads the files of the users now; on an error the users stay as they are",
    difference: "closes only connections whose user is gone or off or lost the password they logged in with",
    parse: |_, _| acl(AclOp::Load),
    ..ADMIN
};

static ACL_LOG: Spec = Spec {
    name: "ACL|LOG",
    arity: Arity::AtLeast(2),
    reply: ReplyShape::OkOrArray,
    usage: "ACL LOG [count|RESET]",
    summary: "Returns the newest refusals and failed logins, 10 by default, or forgets them",
    parse: |args, _| {
        let reset = args.left() == 1 && args.keyword("RESET");
        let count = if args.left() == 1 { args.int()? } else { i64::try_from(LOG_ENTRIES).unwrap_or(0) };
        args.finish().map_err(|_| misused(args))?;
        acl(if reset { AclOp::ResetLog } else { AclOp::Log(usize::try_from(count).unwrap_or(0)) })
    },
    ..ADMIN
};

static ACL_SAVE: Spec = Spec {
    name: "ACL|SAVE",
    reply: ReplyShape::Ok,
    usage: "ACL SAVE",
    summary: "Refused: the files belong to their author",
    difference: "always refused",
    parse: |_, _| not_here(),
    ..ADMIN
};

static ACL_SETUSER: Spec = Spec {
    name: "ACL|SETUSER",
    arity: Arity::AtLeast(3),
    reply: ReplyShape::Ok,
    usage: "ACL SETUSER username [rule [rule ...]]",
    summary: "Refused: users come from files",
    difference: "always refused",
    parse: |_, _| not_here(),
    ..ADMIN
};

static ACL_USERS: Spec = Spec {
    name: "ACL|USERS",
    usage: "ACL USERS",
    summary: "Returns the names of the users",
    parse: |_, _| acl(AclOp::Users),
    ..ADMIN
};

static ACL_WHOAMI: Spec = Spec {
    name: "ACL|WHOAMI",
    reply: ReplyShape::Bulk,
    usage: "ACL WHOAMI",
    summary: "Returns the user of the connection",
    parse: |_, _| acl(AclOp::WhoAmI),
    ..QUESTION
};
