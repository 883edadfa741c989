//! Logins and permissions at work: AUTH, the check of each request, ACL, and users that change while the node runs.
//!
//! ```text
//! request -> row -> admit: logged in? permitted? -> parse -> ...        NOAUTH, NOPERM
//! AUTH, HELLO AUTH -> login: right? -> Connection::login                WRONGPASS, later and later
//! verified certificate -> its name is a user's -> Connection::login
//! files change -> Access::reload -> generation + 1 -> each connection renews its login before its next request;
//!                                   those that lose it are closed, behind an answer if only the password ended
//! ```
//!
//! Invariants
//! - Nothing but rows with `Flags::NO_AUTH` is served before login.
//! - A turn sees a change of the users at the latest before its next run of requests.
//! - What a failed login tells is the same whatever was wrong, and comes after `auth_failure_delay`.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use bytes::Bytes;
use parking_lot::Mutex;

use super::replica::Replica;
use super::{Connection, Dispatcher};
use crate::acl::log::{Place, Refusal};
use crate::acl::{self, AclLog, DEFAULT_USER, Denial, Login, Reason, Source, SourceError, Users, rules};
use crate::audit::{self, Caller, Event};
use crate::clock::{monotonic, wall};
use crate::command::acl::resolve_dry_run;
use crate::command::args::printable;
use crate::command::table::Found;
use crate::command::{AclOp, Credentials, Flags, SessionOp};
use crate::config::Config;
use crate::net::Flow;
use crate::resp::{Reply, Request};
use crate::secret::Digest;

/// How long a connection whose password has ended is answered, if its client never pauses so that it could end in order.
const PARTING_MAX: Duration = Duration::from_secs(3);
/// Failed logins after which a connection is closed.
const FAILURES_MAX: u32 = 10;

const WRONG_PASSWORD: &str = "WRONGPASS invalid username-password pair or user is disabled.";
const NOT_LOGGED_IN: &str = "NOAUTH Authentication required.";
const HELLO_FIRST: &str = "NOAUTH HELLO must be called with the client already authenticated, otherwise the HELLO \
                           <proto> AUTH <user> <pass> option can be used to authenticate the client and select the \
                           RESP protocol version at the same time";
const NO_PASSWORD: &str = "ERR AUTH <password> called without any password configured for the default user. Are you \
                           sure your configuration is correct?";

/// What a client that may not connect is told (Redis' own text).
const PROTECTED: &str = "DENIED Redis is running in protected mode because protected mode is enabled and no password is \
set for the default user. In this mode connections are only accepted from the loopback interface. If you want to \
connect from external computers to Redis you may adopt one of the following solutions: 1) Just disable protected mode \
sending the command 'CONFIG SET protected-mode no' from the loopback interface by connecting to Redis from the same \
host the server is running, however MAKE SURE Redis is not publicly accessible from internet if you do so. Use CONFIG \
REWRITE to make this change permanent. 2) Alternatively you can just disable the protected mode by editing the Redis \
configuration file, and setting the protected mode option to 'no', and then restarting the server. 3) If you started \
the server manually just for testing, restart it with the '--protected-mode no' option. 4) Setup a an authentication \
password for the default user. NOTE: You only need to do one of the above things in order for the server to start \
accepting connections from the outside.";

/// Why a request is not served.
#[derive(Debug)]
pub(super) enum Refused {
    /// The connection has not logged in.
    NotLoggedIn,
    /// The user may not.
    Denied(Denial),
}

impl Refused {
    pub(super) fn reply(&self) -> Reply {
        Reply::Error(match self {
            Self::NotLoggedIn => NOT_LOGGED_IN.to_owned(),
            Self::Denied(denial) => format!("NOPERM {}", denial.text()),
        })
    }
}

/// What is known of the files.
#[derive(Debug)]
struct Seen {
    /// Of files with a fault that was told already.
    faulty: Option<Result<Digest, SourceError>>,
}

/// What was counted since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AccessCount {
    /// Failed logins.
    pub logins_failed: u64,
    /// Refused requests by [`Reason::ALL`].
    pub denied: [u64; Reason::ALL.len()],
    /// Changes of the users taken from the files.
    pub reloads: u64,
    /// Changes of the files that could not be taken.
    pub reloads_failed: u64,
    /// The files have a fault: the users are those from before.
    pub faulty: bool,
}

/// Users, and the log of refusals.
#[derive(Debug)]
pub struct Access {
    source: Source,
    users: ArcSwap<Users>,
    /// Changes with the users.
    generation: AtomicU64,
    seen: Mutex<Seen>,
    /// What the files held that the users are from. Locked for moments only: the status is asked for it.
    in_force: Mutex<Option<Digest>>,
    log: Mutex<AclLog>,
    logins_failed: AtomicU64,
    denied: [AtomicU64; Reason::ALL.len()],
    reloads: AtomicU64,
    reloads_failed: AtomicU64,
    faulty: AtomicBool,
    baseline: Mutex<AccessCount>,
}

impl Default for Access {
    fn default() -> Self {
        Self::with(Source::default(), Users::default(), None)
    }
}

impl Access {
    /// Reads the users from the files of the configuration. Blocks.
    ///
    /// # Errors
    /// What is wrong with them.
    pub fn open(config: &Config) -> Result<Self, SourceError> {
        let source = source(config);
        if !source.is_set() && source.disabled.is_empty() {
            return Ok(Self::default());
        }
        let contents = source.read()?;
        let users = source.parse(&contents)?;
        Ok(Self::with(source, users, Some(contents.digest())))
    }

    fn with(source: Source, users: Users, in_force: Option<Digest>) -> Self {
        Self {
            source,
            users: ArcSwap::from_pointee(users),
            generation: AtomicU64::new(0),
            seen: Mutex::new(Seen { faulty: None }),
            in_force: Mutex::new(in_force),
            log: Mutex::default(),
            logins_failed: AtomicU64::new(0),
            denied: Default::default(),
            reloads: AtomicU64::new(0),
            reloads_failed: AtomicU64::new(0),
            faulty: AtomicBool::new(false),
            baseline: Mutex::default(),
        }
    }

    /// True if users come from files that may change.
    #[must_use]
    pub fn has_files(&self) -> bool {
        self.source.is_set()
    }

    /// Which files the users are from, as the status shows it; `None` where they are from none.
    #[must_use]
    pub fn mark(&self, node: u64) -> Option<String> {
        let in_force = (*self.in_force.lock())?;
        Some(kvnode_api::logins::mark(kvnode_api::Id(node), &in_force.hex()))
    }

    /// The users now.
    #[must_use]
    pub fn users(&self) -> Arc<Users> {
        self.users.load_full()
    }

    /// Reads the files and puts them in force if they have changed; `force` also tells a fault that was told before.
    /// Blocks. Returns the new users if there are any.
    ///
    /// # Errors
    /// What is wrong with the files; the users stay as they are.
    fn reload(&self, force: bool) -> Result<Option<Arc<Users>>, SourceError> {
        let mut seen = self.seen.lock();
        let read = self.source.read();
        let digest = match &read {
            Ok(contents) => Ok(contents.digest()),
            Err(error) => Err(error.clone()),
        };
        if digest.as_ref().is_ok_and(|digest| *self.in_force.lock() == Some(*digest)) {
            if self.faulty.swap(false, Ordering::Relaxed) {
                tracing::info!("users: the files are again as they are in force");
            }
            seen.faulty = None;
            return Ok(None);
        }
        if !force && seen.faulty.as_ref() == Some(&digest) {
            return Ok(None);
        }
        match read.and_then(|contents| self.source.parse(&contents)) {
            Ok(users) => {
                seen.faulty = None;
                self.faulty.store(false, Ordering::Relaxed);
                self.reloads.fetch_add(1, Ordering::Relaxed);
                tracing::info!(users = users.iter().count(), "users changed");
                let users = Arc::new(users);
                self.users.store(Arc::clone(&users));
                self.generation.fetch_add(1, Ordering::Release);
                // Behind the users: who reads it may hand their passwords out.
                *self.in_force.lock() = digest.ok();
                Ok(Some(users))
            }
            Err(error) => {
                // Told before the metric is seen.
                tracing::error!(%error, "users stay as they are");
                seen.faulty = Some(digest);
                self.faulty.store(true, Ordering::Relaxed);
                self.reloads_failed.fetch_add(1, Ordering::Relaxed);
                Err(error)
            }
        }
    }

    /// All counters since the start.
    #[must_use]
    pub fn count(&self) -> AccessCount {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        AccessCount {
            logins_failed: get(&self.logins_failed),
            denied: std::array::from_fn(|at| self.denied.get(at).map_or(0, get)),
            reloads: get(&self.reloads),
            reloads_failed: get(&self.reloads_failed),
            faulty: self.faulty.load(Ordering::Relaxed),
        }
    }

    /// Failed logins and refusals since CONFIG RESETSTAT, for INFO.
    #[must_use]
    pub fn refusals_since_reset(&self) -> (u64, [u64; Reason::ALL.len()]) {
        let (now, then) = (self.count(), *self.baseline.lock());
        let mut denied = now.denied;
        denied.iter_mut().zip(then.denied).for_each(|(now, then)| *now = now.saturating_sub(then));
        (now.logins_failed.saturating_sub(then.logins_failed), denied)
    }

    /// CONFIG RESETSTAT.
    pub(super) fn reset(&self) {
        *self.baseline.lock() = self.count();
    }

    fn note(&self, refusal: Refusal<'_>) {
        self.log.lock().note(refusal, wall());
    }
}

/// The files that a configuration names.
#[must_use]
pub fn source(config: &Config) -> Source {
    Source {
        requirepass_file: config.requirepass_file.clone(),
        acl_file: config.acl_file.clone(),
        disabled: config.commands_disabled.clone(),
    }
}

/// A connection's login.
#[derive(Debug)]
pub(super) struct Standing {
    pub(super) login: Login,
    /// Generation of the users that it was looked up in.
    pub(super) seen: u64,
    /// Failed logins.
    failures: u32,
    /// The last login failed, and its answer has not been delayed yet.
    owes_delay: bool,
    /// Names in the client's certificate that may be those of a user.
    certified: Vec<String>,
    /// Its password has ended, and until then it is answered: [`PARTING_MAX`].
    pub(super) parting: Option<Instant>,
}

impl Standing {
    fn new(login: Login, seen: u64) -> Self {
        Self { login, seen, failures: 0, owes_delay: false, certified: Vec::new(), parting: None }
    }
}

impl<R: Replica> Dispatcher<R> {
    /// Users and refusals.
    #[must_use]
    pub fn access(&self) -> &Arc<Access> {
        &self.parts.access
    }

    /// The login of a new connection; one from inside this process needs no password.
    pub(super) fn standing(&self, inside: bool) -> Standing {
        let access = &self.parts.access;
        let seen = access.generation.load(Ordering::Acquire);
        let users = access.users.load();
        Standing::new(if inside { Login::inside(&users) } else { Login::unproved(&users) }, seen)
    }

    /// Looks the connection's user up again if the users have changed.
    pub(super) fn renew(&self, connection: &mut Connection) {
        let access = &self.parts.access;
        let generation = access.generation.load(Ordering::Acquire);
        let standing = &mut connection.standing;
        if standing.seen != generation {
            let users = access.users.load();
            let parts = standing.login.user().is_some() && standing.login.renewed(&users).user().is_none();
            standing.login = standing.login.renewed_or_parting(&users);
            standing.parting =
                if parts { standing.parting.or(Some(monotonic() + PARTING_MAX)) } else { None };
            standing.seen = generation;
            connection.client.set_login(&standing.login);
        }
        if standing.parting.is_some_and(|until| until <= monotonic()) {
            standing.login = standing.login.renewed(&access.users.load());
            standing.parting = None;
            connection.client.set_login(&standing.login);
        }
    }

    /// Whether the connection may do what these words ask for; their number is right.
    pub(super) fn admit(connection: &Connection, found: &Found, words: &[Bytes]) -> Result<(), Refused> {
        let Some(user) = connection.standing.login.user() else {
            let open = found.spec.flags.has(Flags::NO_AUTH);
            return if open { Ok(()) } else { Err(Refused::NotLoggedIn) };
        };
        if user.is_unlimited() {
            return Ok(());
        }
        acl::permits(user, found, words).map_err(Refused::Denied)
    }

    /// Notes a refusal that the client is told.
    pub(super) fn denied(&self, connection: &Connection, denial: &Denial, place: Place) {
        let access = &self.parts.access;
        if let Some(counter) = access.denied.get(denial.reason as usize) {
            counter.fetch_add(1, Ordering::Relaxed);
        }
        let client = &connection.client;
        access.note(Refusal {
            reason: denial.reason.name(),
            place,
            object: &denial.object,
            user: denial.user.as_bytes(),
            client: client.line(monotonic()),
        });
        audit::note(&Event::Denied {
            caller: Caller {
                user: &printable(denial.user.as_bytes()),
                peer: client.peer(),
                client: client.id,
            },
            command: &denial.command,
            reason: denial.reason.name(),
        });
    }

    /// Tells what was refused. EXEC that is refused gives the transaction up; any other refusal spoils it.
    pub(super) fn refusal(&self, connection: &mut Connection, refused: &Refused, request: &Request) -> Reply {
        let in_multi = connection.session.multi.is_some();
        if let Refused::Denied(denial) = refused {
            self.denied(connection, denial, if in_multi { Place::Multi } else { Place::TopLevel });
        }
        let reply = refused.reply();
        let is_exec = request.args.first().is_some_and(|name| name.eq_ignore_ascii_case(b"EXEC"));
        match (&mut connection.session.multi, reply) {
            (Some(_), Reply::Error(text)) if is_exec => {
                Self::transaction_op(connection, &SessionOp::Discard);
                Reply::Error(format!("EXECABORT Transaction discarded because of: {text}"))
            }
            (Some(multi), reply) => {
                multi.spoiled = true;
                reply
            }
            (None, reply) => reply,
        }
    }

    /// AUTH: the connection is logged in, or stays as it was.
    pub(super) fn auth(&self, connection: &mut Connection, credentials: &Credentials) -> Reply {
        let users = self.parts.access.users.load();
        let name = match &credentials.user {
            Some(name) => name.clone(),
            None if users.are_open() => return Reply::Error(NO_PASSWORD.to_owned()),
            None => Bytes::from_static(DEFAULT_USER.as_bytes()),
        };
        if let Some(login) = users.authenticate(&name, &credentials.password) {
            connection.client.set_login(&login);
            connection.standing.login = login;
            return Reply::Ok;
        }
        self.login_failed(connection, &name);
        Reply::Error(WRONG_PASSWORD.to_owned())
    }

    /// Logs a connection in as the user that its certificate names. A name that is no user's is noted, and leaves the
    /// connection as it was.
    pub(super) fn log_in_by_certificate(&self, connection: &mut Connection, names: Vec<String>) {
        connection.standing.certified = names;
        if !self.is_certified(connection)
            && let Some(name) = connection.standing.certified.first().cloned()
        {
            self.note_failed_login(connection, name.as_bytes(), "certificate");
        }
    }

    /// Takes the login of the certificate, if it gives one.
    fn is_certified(&self, connection: &mut Connection) -> bool {
        let login = self.parts.access.users.load().certified(&connection.standing.certified);
        let Some(login) = login else { return false };
        connection.client.set_login(&login);
        connection.standing.login = login;
        true
    }

    /// HELLO's part: `None` if it may go on.
    pub(super) fn hello_login(
        &self,
        connection: &mut Connection,
        credentials: Option<&Credentials>,
    ) -> Option<Reply> {
        if let Some(credentials) = credentials {
            let reply = self.auth(connection, credentials);
            return Some(reply).filter(|reply| *reply != Reply::Ok);
        }
        let is_nobody = connection.standing.login.user().is_none();
        is_nobody.then(|| Reply::Error(HELLO_FIRST.to_owned()))
    }

    fn login_failed(&self, connection: &mut Connection, name: &[u8]) {
        let standing = &mut connection.standing;
        standing.failures = standing.failures.saturating_add(1);
        standing.owes_delay = true;
        self.note_failed_login(connection, name, "password");
    }

    fn note_failed_login(&self, connection: &Connection, name: &[u8], by: &'static str) {
        let access = &self.parts.access;
        access.logins_failed.fetch_add(1, Ordering::Relaxed);
        let client = &connection.client;
        // As Redis names them.
        let (reason, object) = if by == "password" { ("auth", "AUTH") } else { ("tls-cert", "") };
        access.note(Refusal {
            reason,
            place: Place::TopLevel,
            object: object.as_bytes(),
            user: name,
            client: client.line(monotonic()),
        });
        audit::note(&Event::LoginFailed {
            caller: Caller { user: &printable(name), peer: client.peer(), client: client.id },
            by,
        });
    }

    /// Lets the answer to a failed login wait, and closes the connection after too many.
    pub(super) async fn delay(&self, connection: &mut Connection) -> Flow {
        if !std::mem::take(&mut connection.standing.owes_delay) {
            return Flow::Continue;
        }
        tokio::select! {
            () = tokio::time::sleep(self.parts.config.auth_failure_delay) => {}
            () = connection.client.cancelled() => {}
            () = self.parts.shutdown.cancelled() => {}
        }
        if connection.standing.failures < FAILURES_MAX { Flow::Continue } else { Flow::Close }
    }

    /// RESET: as a new connection.
    pub(super) fn forget_login(&self, connection: &mut Connection) {
        let failures = connection.standing.failures;
        let certified = std::mem::take(&mut connection.standing.certified);
        connection.standing = Standing { failures, certified, ..self.standing(false) };
        connection.client.set_login(&connection.standing.login);
        self.is_certified(connection);
    }

    /// Reads the files of the users, and closes the connections that lose their login by it, or a channel that they
    /// listen to: at once where the user is gone or off; where only the password has ended, behind the next answer. Blocks.
    /// True if the users have changed.
    ///
    /// # Errors
    /// What is wrong with the files.
    pub fn reload_users(&self, force: bool) -> Result<bool, SourceError> {
        let Some(users) = self.parts.access.reload(force)? else { return Ok(false) };
        for client in self.clients.all() {
            let login = client.login();
            if login.user().is_none() || login.renewed(&users).user().is_some() {
                continue;
            }
            tracing::info!(client = client.id, user = %login.name(), "login is not valid any more, connection closes");
            if login.renewed_or_parting(&users).user().is_some() {
                client.leave();
            } else {
                client.close();
            }
        }
        self.monitors.close_those_refused(&users);
        self.registry.close_those(|client, name, is_pattern| {
            let login = client.login().renewed_or_parting(&users);
            login.user().is_some_and(|user| !user.may_listen(name, is_pattern))
        });
        Ok(true)
    }

    /// Why a client at this address may not connect.
    pub(super) fn protected_from(&self, peer: std::net::IpAddr) -> Option<&'static str> {
        let open = self.live.protected_mode.load(Ordering::Relaxed)
            && !peer.to_canonical().is_loopback()
            && self.parts.access.users.load().are_open();
        open.then_some(PROTECTED)
    }

    /// Performs a question about users.
    pub(super) fn acl_op(&self, connection: &Connection, op: AclOp) -> Reply {
        let access = &self.parts.access;
        let bulk = |text: String| Reply::Bulk(Bytes::from(text));
        let users = access.users.load_full();
        match op {
            AclOp::WhoAmI => bulk(connection.standing.login.name().to_string()),
            AclOp::List => Reply::Array(users.iter().map(|user| bulk(rules::describe(user))).collect()),
            AclOp::Users => Reply::Array(users.iter().map(|user| bulk(user.name().to_owned())).collect()),
            AclOp::GetUser(name) => users.find(&name).map_or(Reply::Nil, |user| rules::describe_parts(user)),
            AclOp::DryRun { user, words } => {
                let Some(user) = users.find(&user) else {
                    return Reply::Error(format!("ERR User '{}' not found", printable(&user)));
                };
                match resolve_dry_run(&words) {
                    Err(error) => error.reply(),
                    Ok(found) => match acl::permits(user, &found, &words) {
                        Ok(()) => Reply::Ok,
                        Err(denial) => bulk(denial.full_text()),
                    },
                }
            }
            AclOp::GeneratePassword(bits) => bulk(generate_password(bits)),
            AclOp::Log(count) => access.log.lock().get(count, wall()),
            AclOp::ResetLog => {
                access.log.lock().reset();
                Reply::Ok
            }
            AclOp::Load if !access.has_files() => {
                Reply::Error("ERR neither acl_file nor requirepass_file is set".to_owned())
            }
            // Two small files: shorter than handing them to another thread.
            AclOp::Load => match self.reload_users(true) {
                Ok(_) => Reply::Ok,
                Err(error) => Reply::Error(format!(
                    "ERR {error} WARNING: ACL errors detected, no change to the previously active ACL rules was \
                     performed"
                )),
            },
        }
    }
}

/// `bits` random bits in hex, rounded up to whole digits.
fn generate_password(bits: u32) -> String {
    use std::fmt::Write as _;
    let digits = bits.div_ceil(4) as usize;
    let mut password = String::with_capacity(digits + 16);
    while password.len() < digits {
        // Writing to a string cannot fail.
        let _ = write!(password, "{:016x}", rand::random::<u64>());
    }
    password.truncate(digits);
    password
}
