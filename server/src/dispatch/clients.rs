//! Who is connected: the registry behind CLIENT LIST, CLIENT INFO and CLIENT KILL.
//!
//! Invariant: an entry lives from `open` to `close` of its connection; names change under the entry's own lock, which is
//! never held across an await.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Instant;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::pubsub::Subscriptions;
use crate::acl::Login;
use crate::clock::monotonic;
use crate::command::pubsub::Kind;
use crate::command::{ClientClass, KillFilter, table};
use crate::net::Ends;
use crate::resp::Protocol;
use crate::session::Session;

/// One connection as others may see it.
#[derive(Debug)]
pub struct Client {
    /// Unique on this node until it restarts.
    pub id: u64,
    peer: SocketAddr,
    local: SocketAddr,
    opened: Instant,
    ends: Ends,
    /// Milliseconds from `opened` to the last turn.
    active_ms: AtomicU64,
    /// Slot of the last command.
    last_slot: AtomicUsize,
    facts: Mutex<Facts>,
    login: Mutex<Login>,
    /// Ends the command that it waits in (WAIT); true for an error.
    waits: Mutex<Option<oneshot::Sender<bool>>>,
}

/// What a client says of itself, and what it chose.
#[derive(Clone, Debug, Default)]
struct Facts {
    name: Bytes,
    library_name: Bytes,
    library_version: Bytes,
    db: u8,
    resp3: bool,
    stale_reads: bool,
    monitors: bool,
    /// Names it listens to, in the order of [`Kind`].
    listens: [usize; Kind::ALL.len()],
    /// Requests that its open transaction holds.
    queued: Option<usize>,
    watched: usize,
}

impl Facts {
    /// Redis' letters.
    fn flags(&self, waits: bool) -> String {
        let letters = [
            (self.monitors, 'O'),
            (self.listens.iter().any(|count| *count > 0), 'P'),
            (self.queued.is_some(), 'x'),
            (waits, 'b'),
            (self.stale_reads, 'r'),
        ];
        let flags: String = letters.iter().filter(|(set, _)| *set).map(|(_, letter)| *letter).collect();
        if flags.is_empty() { "N".to_owned() } else { flags }
    }
}

impl Client {
    /// Name given by SETNAME; empty = none.
    #[must_use]
    pub fn name(&self) -> Bytes {
        self.facts.lock().name.clone()
    }

    /// CLIENT SETNAME.
    pub fn set_name(&self, name: &Bytes) {
        self.facts.lock().name = own(name);
    }

    /// CLIENT SETINFO LIB-NAME.
    pub fn set_library_name(&self, name: &Bytes) {
        self.facts.lock().library_name = own(name);
    }

    /// CLIENT SETINFO LIB-VER.
    pub fn set_library_version(&self, version: &Bytes) {
        self.facts.lock().library_version = own(version);
    }

    /// Who it is.
    #[must_use]
    pub fn login(&self) -> Login {
        self.login.lock().clone()
    }

    /// Notes who it is.
    pub fn set_login(&self, login: &Login) {
        *self.login.lock() = login.clone();
    }

    /// Copies what the session chose.
    pub(super) fn follow(&self, session: &Session, subscriptions: &Subscriptions) {
        let mut facts = self.facts.lock();
        facts.listens = Kind::ALL.map(|kind| subscriptions.of(kind).len());
        facts.queued = session.multi.as_ref().map(|multi| multi.queue.len());
        facts.watched = session.watched.len();
        facts.db = session.db;
        facts.resp3 = session.protocol == Protocol::Resp3;
        facts.stale_reads = session.stale_reads;
    }

    /// Address of the client.
    #[must_use]
    pub fn peer(&self) -> String {
        self.peer.to_string()
    }

    /// Has the connection closed.
    pub fn close(&self) {
        self.ends.kill.cancel();
    }

    /// Has the connection closed in order: see [`Ends::leave`].
    pub fn leave(&self) {
        self.ends.leave.cancel();
    }

    /// Resolves when the connection is to close.
    pub async fn cancelled(&self) {
        self.ends.kill.cancelled().await;
    }

    /// RESET: forgets the name, and that it watches others.
    pub fn reset(&self) {
        let mut facts = self.facts.lock();
        facts.name = Bytes::new();
        facts.monitors = false;
    }

    /// MONITOR.
    pub fn set_monitors(&self, monitors: bool) {
        self.facts.lock().monitors = monitors;
    }

    /// Says that it waits now, in a command that CLIENT UNBLOCK ends: resolves with true for an error.
    pub fn begins_to_wait(&self) -> oneshot::Receiver<bool> {
        let (end, ended) = oneshot::channel();
        *self.waits.lock() = Some(end);
        ended
    }

    /// Says that it does not wait any more.
    pub fn has_waited(&self) {
        self.waits.lock().take();
    }

    fn class(&self) -> ClientClass {
        let listens = self.facts.lock().listens.iter().sum::<usize>() > 0;
        if listens { ClientClass::PubSub } else { ClientClass::Normal }
    }

    /// Notes a turn that began at `now` with the command of `slot`.
    pub fn touch(&self, now: Instant, slot: usize) {
        let millis = now.saturating_duration_since(self.opened).as_millis();
        self.active_ms.store(u64::try_from(millis).unwrap_or(u64::MAX), Ordering::Relaxed);
        self.last_slot.store(slot, Ordering::Relaxed);
    }

    /// Its line in CLIENT LIST, without the line end. Fields of Redis that have no meaning here are left out.
    #[must_use]
    pub fn line(&self, now: Instant) -> String {
        let facts = self.facts.lock().clone();
        let age = now.saturating_duration_since(self.opened);
        let active_ms = u128::from(self.active_ms.load(Ordering::Relaxed));
        let idle = age.as_millis().saturating_sub(active_ms) / 1000;
        let command = table::rows().nth(self.last_slot.load(Ordering::Relaxed)).map(|spec| spec.name);
        let [channels, patterns, shard_channels] = facts.listens;
        let mut line = format!("id={} addr={} laddr={} name=", self.id, self.peer, self.local);
        let _ = write!(
            line,
            "{} age={} idle={idle} flags={} db={} sub={channels} psub={patterns} ssub={shard_channels} multi={} \
             watch={} cmd={} user={} redir=-1 resp={} lib-name={} lib-ver={}",
            String::from_utf8_lossy(&facts.name),
            age.as_secs(),
            facts.flags(self.waits.lock().is_some()),
            facts.db,
            facts.queued.map_or_else(|| "-1".to_owned(), |queued| queued.to_string()),
            facts.watched,
            command.map_or_else(|| "NULL".to_owned(), str::to_ascii_lowercase),
            self.login.lock().name(),
            if facts.resp3 { 3 } else { 2 },
            String::from_utf8_lossy(&facts.library_name),
            String::from_utf8_lossy(&facts.library_version),
        );
        line
    }
}

/// A copy that does not keep the read buffer of its request alive.
fn own(bytes: &Bytes) -> Bytes {
    Bytes::copy_from_slice(bytes)
}

/// All connections of this node.
#[derive(Debug, Default)]
pub struct Clients {
    by_id: Mutex<BTreeMap<u64, Arc<Client>>>,
    opened: AtomicU64,
}

impl Clients {
    /// Registers a connection.
    pub fn open(
        &self,
        id: u64,
        peer: SocketAddr,
        local: SocketAddr,
        ends: Ends,
        login: Login,
    ) -> Arc<Client> {
        let client = Arc::new(Client {
            id,
            peer,
            local,
            opened: monotonic(),
            ends,
            active_ms: AtomicU64::new(0),
            last_slot: AtomicUsize::new(usize::MAX),
            facts: Mutex::default(),
            login: Mutex::new(login),
            waits: Mutex::default(),
        });
        self.by_id.lock().insert(id, Arc::clone(&client));
        self.opened.fetch_add(1, Ordering::Relaxed);
        client
    }

    /// Forgets a connection.
    pub fn close(&self, id: u64) {
        self.by_id.lock().remove(&id);
    }

    /// All connections.
    #[must_use]
    pub fn all(&self) -> Vec<Arc<Client>> {
        self.by_id.lock().values().cloned().collect()
    }

    /// Connections now.
    #[must_use]
    pub fn count(&self) -> usize {
        self.by_id.lock().len()
    }

    /// Connections since start or CONFIG RESETSTAT.
    #[must_use]
    pub fn opened(&self) -> u64 {
        self.opened.load(Ordering::Relaxed)
    }

    /// CONFIG RESETSTAT.
    pub fn reset(&self) {
        self.opened.store(0, Ordering::Relaxed);
    }

    /// Connections that wait in a command (WAIT), and those that listen to channels.
    #[must_use]
    pub fn waiting_and_listening(&self) -> (usize, usize) {
        let clients = self.by_id.lock();
        let waiting = clients.values().filter(|client| client.waits.lock().is_some()).count();
        let listening = clients.values().filter(|client| client.class() == ClientClass::PubSub).count();
        (waiting, listening)
    }

    /// CLIENT UNBLOCK; true if the client waited.
    pub fn unblock(&self, id: u64, with_error: bool) -> bool {
        let client = self.by_id.lock().get(&id).cloned();
        let end = client.and_then(|client| client.waits.lock().take());
        end.is_some_and(|end| end.send(with_error).is_ok())
    }

    /// CLIENT LIST, by id; each line ends in LF.
    #[must_use]
    pub fn list(&self, ids: Option<&[u64]>, class: Option<ClientClass>, now: Instant) -> String {
        let clients = self.all();
        let mut text = String::new();
        let listed = |client: &&Arc<Client>| {
            ids.is_none_or(|ids| ids.contains(&client.id))
                && class.is_none_or(|class| class == client.class())
        };
        for client in clients.iter().filter(listed) {
            text.push_str(&client.line(now));
            text.push('\n');
        }
        text
    }

    /// CLIENT KILL: signals the connections that match, the caller's excepted, and returns how many matched and
    /// whether the caller is one of them.
    pub fn kill(&self, filter: &KillFilter, caller: u64) -> (usize, bool) {
        let clients = self.all();
        let mut killed = 0;
        let mut caller_too = false;
        for client in clients.iter().filter(|client| client.matches(filter)) {
            if client.id != caller {
                client.close();
            } else if filter.skip_me {
                continue;
            } else {
                caller_too = true;
            }
            killed += 1;
        }
        (killed, caller_too)
    }
}

impl Client {
    fn matches(&self, filter: &KillFilter) -> bool {
        filter.class.is_none_or(|class| class == self.class())
            && filter.id.is_none_or(|id| id == self.id)
            && filter.user.as_ref().is_none_or(|user| *user == self.login.lock().name().as_bytes())
            && filter.addr.as_ref().is_none_or(|addr| *addr == self.peer.to_string())
            && filter.local_addr.as_ref().is_none_or(|addr| *addr == self.local.to_string())
    }
}

#[cfg(test)]
mod tests {
    use tokio_util::sync::CancellationToken;

    use super::*;
    use crate::acl::Users;

    fn open(clients: &Clients, id: u64) -> (Arc<Client>, CancellationToken) {
        let cancel = CancellationToken::new();
        let port = 1000 + u16::try_from(id).unwrap();
        let peer = SocketAddr::from(([127, 0, 0, 1], port));
        let local = SocketAddr::from(([127, 0, 0, 1], 4920));
        (clients.open(id, peer, local, cancel.clone().into(), Login::unproved(&Users::default())), cancel)
    }

    fn filter() -> KillFilter {
        KillFilter { skip_me: true, ..KillFilter::default() }
    }

    #[test]
    fn a_line_tells_what_the_client_told() {
        let clients = Clients::default();
        let (client, _) = open(&clients, 7);
        client.set_name(&Bytes::from_static(b"worker"));
        let mut session = Session::default();
        session.set_replies(crate::command::ReplyMode::On);
        session.db = 3;
        session.protocol = Protocol::Resp3;
        let mut listens = Subscriptions::default();
        client.follow(&session, &listens);
        client.touch(monotonic(), table::find(b"GET").unwrap().slot);
        let line = clients.list(Some(&[7]), None, monotonic());
        for part in
            ["id=7 addr=127.0.0.1:1007 laddr=127.0.0.1:4920 name=worker ", " db=3 ", " cmd=get ", " resp=3 "]
        {
            assert!(line.contains(part), "{part:?} in {line:?}");
        }
        assert_eq!(clients.list(Some(&[8]), None, monotonic()), "");
        assert!(line.contains(" user=default ") && line.contains(" flags=N "), "{line}");
        assert_eq!(clients.list(None, Some(ClientClass::PubSub), monotonic()), "");
        listens.listen(Kind::Pattern, "a*");
        session.multi = Some(crate::session::Multi::default());
        client.follow(&session, &listens);
        client.set_monitors(true);
        let ended = client.begins_to_wait();
        let line = clients.list(None, Some(ClientClass::PubSub), monotonic());
        assert!(
            line.contains(" flags=OPxb ") && line.contains(" sub=0 psub=1 ssub=0 multi=0 watch=0 "),
            "{line}"
        );
        assert_eq!(clients.waiting_and_listening(), (1, 1));
        assert!(clients.unblock(7, true) && !clients.unblock(7, true) && !clients.unblock(8, true));
        assert_eq!(ended.blocking_recv(), Ok(true));
        clients.close(7);
        assert_eq!((clients.count(), clients.opened()), (0, 1));
    }

    #[test]
    fn kill_signals_those_that_match_and_spares_the_caller() {
        let clients = Clients::default();
        let (_one, cancel_one) = open(&clients, 1);
        let (_two, cancel_two) = open(&clients, 2);
        assert_eq!(clients.kill(&KillFilter { id: Some(9), ..filter() }, 1), (0, false));
        assert_eq!(clients.kill(&KillFilter { class: Some(ClientClass::PubSub), ..filter() }, 1), (0, false));
        assert_eq!(clients.kill(&filter(), 1), (1, false));
        assert!(cancel_two.is_cancelled() && !cancel_one.is_cancelled());
        let other = KillFilter { user: Some(Bytes::from_static(b"other")), ..filter() };
        assert_eq!(clients.kill(&other, 1), (0, false));
        let me = KillFilter { addr: Some("127.0.0.1:1001".to_owned()), skip_me: false, ..filter() };
        assert_eq!(clients.kill(&me, 1), (1, true));
        assert!(!cancel_one.is_cancelled(), "the caller closes after its reply");
    }
}
