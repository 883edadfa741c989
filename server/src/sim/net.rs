//! A network in memory: TCP connections between simulated machines, whose packets are late, held up, and lost with their
//! connection, as TCP has it.
//!
//! ```text
//! write -> way of the other side: packets in order, each due some milliseconds later -> deliver(now) -> inbox -> read
//! ```
//!
//! - Order holds within a connection and nowhere else. A lost packet is one that comes a retransmission later.
//! - Where nothing passes (a cut direction, a machine without power) packets wait, as TCP repeats them; after
//!   `GIVE_UP_MS` the sender's connection breaks. A machine that is back answers what is sent to its former life with a
//!   reset.
//! - A killed process closes its connections at once: the others get a reset.

mod sockets;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::task::Waker;

use bytes::{Bytes, BytesMut};
use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use xxhash_rust::xxh3::xxh3_64_with_seed;

pub use self::sockets::{OwnedReadHalf, OwnedWriteHalf, TcpListener, TcpStream, cork, keep_alive};

/// Bytes that a connection takes before its writer waits.
const WINDOW_BYTES: usize = 256 * 1024;
/// How long packets are repeated before the connection breaks.
const GIVE_UP_MS: u64 = 15_000;
/// A packet that was lost, or held up, comes again after: from, to.
const AGAIN_MS: (u64, u64) = (20, 250);
/// First port of those that dial.
const PORT_MIN: u16 = 40_000;

/// All machines and what is on its way between them.
pub struct Net(Mutex<Inner>);

struct Inner {
    now_ms: u64,
    random: StdRng,
    /// Machines, and whether they have power.
    powered: BTreeMap<IpAddr, bool>,
    listeners: BTreeMap<SocketAddr, Backlog>,
    links: BTreeMap<u64, Link>,
    next_link: u64,
    weather: Weather,
    /// Directions that nothing passes.
    cut: BTreeSet<(IpAddr, IpAddr)>,
    /// Directions that take longer, by: from, to.
    lags: BTreeMap<(IpAddr, IpAddr), (u64, u64)>,
    delivered: u64,
    digest: u64,
}

/// What the network is like.
#[derive(Clone, Copy, Debug)]
pub struct Weather {
    /// Milliseconds that a packet takes: from, to.
    pub delay_ms: (u64, u64),
    /// Part of the packets that are lost and come again.
    pub loss: f64,
    /// Part of the packets that break their connection.
    pub reset: f64,
}

#[derive(Default)]
struct Backlog {
    waiting: VecDeque<u64>,
    waker: Option<Waker>,
}

/// A connection: who dialled, who was dialled.
struct Link([Side; 2]);

struct Side {
    addr: SocketAddr,
    /// A socket of a living process holds it.
    open: bool,
    established: bool,
    inbox: BytesMut,
    /// The other side writes no more.
    ended: bool,
    broken: Option<io::ErrorKind>,
    /// This side has said that it writes no more.
    said_end: bool,
    /// On the way to this side.
    way: VecDeque<(u64, Packet)>,
    way_bytes: usize,
    held_since: Option<u64>,
    reader: Option<Waker>,
    writer: Option<Waker>,
}

enum Packet {
    Dial,
    Accept,
    Data(Bytes),
    End,
    Reset(io::ErrorKind),
}

impl Side {
    fn new(addr: SocketAddr, open: bool) -> Self {
        Self {
            addr,
            open,
            established: false,
            inbox: BytesMut::new(),
            ended: false,
            broken: None,
            said_end: false,
            way: VecDeque::new(),
            way_bytes: 0,
            held_since: None,
            reader: None,
            writer: None,
        }
    }

    fn wake(&mut self) {
        for waker in self.reader.take().into_iter().chain(self.writer.take()) {
            waker.wake();
        }
    }

    fn fail(&mut self, kind: io::ErrorKind) {
        self.broken.get_or_insert(kind);
        self.way.clear();
        self.way_bytes = 0;
        self.wake();
    }
}

impl Link {
    /// A packet of it is due.
    fn is_due(&self, now_ms: u64) -> bool {
        self.0.iter().any(|side| side.way.front().is_some_and(|(due, _)| *due <= now_ms))
    }

    /// Nobody holds it, and nothing is on its way.
    fn is_over(&self) -> bool {
        self.0.iter().all(|side| !side.open && side.way.is_empty())
    }
}

impl Net {
    /// A calm network without machines.
    #[must_use]
    pub fn new(seed: u64) -> Arc<Self> {
        Arc::new(Self(Mutex::new(Inner {
            now_ms: 0,
            random: StdRng::seed_from_u64(seed),
            powered: BTreeMap::new(),
            listeners: BTreeMap::new(),
            links: BTreeMap::new(),
            next_link: 1,
            weather: Weather { delay_ms: (1, 2), loss: 0.0, reset: 0.0 },
            cut: BTreeSet::new(),
            lags: BTreeMap::new(),
            delivered: 0,
            digest: 0,
        })))
    }

    pub(super) fn add_host(&self, ip: IpAddr) {
        self.0.lock().powered.insert(ip, true);
    }

    /// Sets what the network is like from now on.
    pub fn set_weather(&self, weather: Weather) {
        self.0.lock().weather = weather;
    }

    /// Lets nothing pass from one machine to another.
    pub fn cut(&self, from: IpAddr, to: IpAddr) {
        self.0.lock().cut.insert((from, to));
    }

    /// Has packets from one machine to another take so many milliseconds more: from, to.
    pub fn lag(&self, from: IpAddr, to: IpAddr, by_ms: (u64, u64)) {
        self.0.lock().lags.insert((from, to), by_ms);
    }

    /// Lets everything pass everywhere, as fast as the weather is.
    pub fn heal(&self) {
        let mut inner = self.0.lock();
        inner.cut.clear();
        inner.lags.clear();
    }

    /// Packets delivered, and a digest of when and where to they were.
    #[must_use]
    pub fn trace(&self) -> (u64, u64) {
        let inner = self.0.lock();
        (inner.delivered, inner.digest)
    }

    /// The process of a machine is gone, by a kill, or with the power of the machine.
    pub fn process_ends(&self, ip: IpAddr, powered: bool) {
        let inner = &mut *self.0.lock();
        inner.powered.insert(ip, powered);
        inner.listeners.retain(|addr, _| addr.ip() != ip);
        let ids: Vec<u64> = inner.links.keys().copied().collect();
        for (id, side) in ids.into_iter().flat_map(|id| [(id, 0), (id, 1)]) {
            let Some(Link(sides)) = inner.links.get_mut(&id) else { continue };
            if sides[side].addr.ip() != ip || !sides[side].open {
                continue;
            }
            sides[side].open = false;
            if powered {
                inner.send(id, 1 - side, Packet::Reset(io::ErrorKind::ConnectionReset));
            }
        }
    }

    /// The machine has power again.
    pub fn power_up(&self, ip: IpAddr) {
        self.0.lock().powered.insert(ip, true);
    }

    /// Delivers what is due.
    pub fn deliver(&self, now_ms: u64) {
        let inner = &mut *self.0.lock();
        inner.now_ms = now_ms;
        // In most milliseconds that is the affair of few links. What is sent meanwhile is due later.
        let concerned = inner.links.iter().filter(|(_, link)| link.is_due(now_ms) || link.is_over());
        let ids: Vec<u64> = concerned.map(|(id, _)| *id).collect();
        for id in ids {
            inner.deliver(id, 0);
            inner.deliver(id, 1);
            if inner.links.get(&id).is_some_and(Link::is_over) {
                inner.links.remove(&id);
            }
        }
    }
}

impl Inner {
    /// Puts a packet on its way to a side.
    fn send(&mut self, id: u64, side: usize, packet: Packet) {
        let (from, to) = self.weather.delay_ms;
        let mut delay = self.random.random_range(from..=to);
        if self.random.random_bool(self.weather.loss) {
            delay += self.random.random_range(AGAIN_MS.0..=AGAIN_MS.1);
        }
        let packet = if self.random.random_bool(self.weather.reset) {
            Packet::Reset(io::ErrorKind::ConnectionReset)
        } else {
            packet
        };
        let now = self.now_ms;
        let Some(Link(sides)) = self.links.get_mut(&id) else { return };
        if let Some((from, to)) = self.lags.get(&(sides[1 - side].addr.ip(), sides[side].addr.ip())) {
            delay += self.random.random_range(*from..=*to);
        }
        let side = &mut sides[side];
        let due = side.way.back().map_or(0, |(due, _)| *due).max(now + delay);
        if let Packet::Data(bytes) = &packet {
            side.way_bytes += bytes.len();
        }
        side.way.push_back((due, packet));
    }

    /// Delivers what is due to a side.
    fn deliver(&mut self, id: u64, side: usize) {
        let now = self.now_ms;
        loop {
            let Some(Link(sides)) = self.links.get_mut(&id) else { return };
            let (from, to) = (sides[1 - side].addr.ip(), sides[side].addr.ip());
            let Some((due, _)) = sides[side].way.front_mut() else { return };
            if *due > now {
                return;
            }
            let passes = self.powered.get(&to) == Some(&true) && !self.cut.contains(&(from, to));
            if !passes {
                *due = now + self.random.random_range(AGAIN_MS.0..=AGAIN_MS.1);
                let since = *sides[side].held_since.get_or_insert(now);
                if now - since >= GIVE_UP_MS {
                    sides[side].way.clear();
                    sides[side].way_bytes = 0;
                    sides[1 - side].fail(io::ErrorKind::TimedOut);
                }
                return;
            }
            sides[side].held_since = None;
            let Some((_, packet)) = sides[side].way.pop_front() else { return };
            self.delivered += 1;
            // Not what it holds: the files of a checkpoint tell names and times that RocksDB gives itself, and their numbers
            // go by where the families of a flush lie in memory. That the states are the same is seen in the states.
            let kind = match &packet {
                Packet::Data(_) => 1,
                Packet::Dial => 2,
                Packet::Accept => 3,
                Packet::End => 4,
                Packet::Reset(_) => 5,
            };
            let mut mark = [0; 32];
            for (part, word) in mark.chunks_exact_mut(8).zip([now, id, side as u64, kind]) {
                part.copy_from_slice(&word.to_le_bytes());
            }
            self.digest = xxh3_64_with_seed(&mark, self.digest);
            self.arrive(id, side, packet);
        }
    }

    fn arrive(&mut self, id: u64, at: usize, packet: Packet) {
        let Some(Link(sides)) = self.links.get_mut(&id) else { return };
        let side = &mut sides[at];
        match packet {
            Packet::Dial => {
                let Some(backlog) = self.listeners.get_mut(&side.addr) else {
                    return self.send(id, 1 - at, Packet::Reset(io::ErrorKind::ConnectionRefused));
                };
                (side.open, side.established) = (true, true);
                backlog.waiting.push_back(id);
                if let Some(waker) = backlog.waker.take() {
                    waker.wake();
                }
                self.send(id, 1 - at, Packet::Accept);
            }
            Packet::Reset(kind) => side.fail(kind),
            // A process that is gone, or has closed the socket, takes nothing more.
            Packet::Data(_) if !side.open => {
                self.send(id, 1 - at, Packet::Reset(io::ErrorKind::ConnectionReset));
            }
            Packet::Accept | Packet::End if !side.open => {}
            Packet::Accept => {
                side.established = true;
                side.wake();
            }
            Packet::Data(bytes) => {
                side.way_bytes -= bytes.len();
                side.inbox.extend_from_slice(&bytes);
                side.wake();
            }
            Packet::End => {
                side.ended = true;
                side.wake();
            }
        }
    }

    fn close(&mut self, id: u64, at: usize) {
        let Some(Link(sides)) = self.links.get_mut(&id) else { return };
        if !sides[at].open {
            return;
        }
        sides[at].open = false;
        let (said_end, unread) = (sides[at].said_end, !sides[at].inbox.is_empty());
        if unread {
            self.send(id, 1 - at, Packet::Reset(io::ErrorKind::ConnectionReset));
        } else if !said_end {
            self.send(id, 1 - at, Packet::End);
        }
    }

    fn end(&mut self, id: u64, at: usize) {
        let Some(Link(sides)) = self.links.get_mut(&id) else { return };
        let side = &mut sides[at];
        if side.open && !std::mem::replace(&mut side.said_end, true) {
            self.send(id, 1 - at, Packet::End);
        }
    }

    fn side(&mut self, id: u64, at: usize) -> io::Result<&mut Side> {
        let gone = || io::Error::from(io::ErrorKind::NotConnected);
        self.links.get_mut(&id).map(|Link(sides)| &mut sides[at]).ok_or_else(gone)
    }
}
