//! What happens to the cluster, by seed: when, to whom, for how long.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use anyhow::Result;
use kvnode_server::sim::net::Weather;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};

use crate::client::Reply;
use crate::node::{self, Crash};
use crate::plan::Plan;
use crate::world::World;

/// Pause between the beginnings of two faults: from, to.
const PAUSE_MS: (u64, u64) = (200, 2500);
/// Part of the faults that are close upon the one before, most of them at the same node: what one leaves undone for a
/// moment the next one can catch.
const CLOSE: f64 = 0.35;
const CLOSE_MS: [(u64, u64); 2] = [(0, 12), (0, 80)];
/// Part of the votes upon which a fault follows at once: elections are the moments when most can go wrong.
const UPON_VOTE: f64 = 0.2;
/// How long a machine is down: half of them are back before anybody has given them up.
const DOWN_MS: [(u64, u64); 2] = [(5, 60), (50, 4000)];
/// Part of the directions between nodes that pass nothing while partitions move, or that lag.
const SOME_WAYS: f64 = 0.3;
/// How long an order to change members may take.
const ORDER_MAX: Duration = Duration::from_secs(8);
/// The network when nothing is the matter.
pub const CALM: Weather = Weather { delay_ms: (1, 3), loss: 0.0, reset: 0.0 };
/// Speed of syncs and of the apply thread when nothing is the matter.
pub const BRISK: ((u64, u64), (u64, u64)) = ((0, 3), (0, 1));

/// The kinds of faults.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// Power cut of one node.
    PowerCut,
    /// Power cut of all nodes at once.
    PowerCutOfAll,
    /// kill -9 of one node.
    Kill,
    /// A node is killed again and again, soon after it has started.
    CrashLoop,
    /// A node is stopped in order and started again.
    Stop,
    /// SIGSTOP.
    Pause,
    /// A virtual machine is suspended: its clocks stand still as well. Lease reads do not claim to bear that.
    Freeze,
    /// One node is cut off.
    Isolate,
    /// Two sides that do not hear each other.
    Split,
    /// One direction between a node and all others passes nothing.
    OneWay,
    /// Two nodes do not hear each other; all others hear both.
    Link,
    /// Who does not hear whom changes again and again.
    Shift,
    /// Packets take long.
    Slow,
    /// Packets take long in some directions between nodes, and in the others as ever.
    Lag,
    /// Packets are lost.
    Loss,
    /// Connections break.
    Resets,
    /// A wall clock jumps.
    Jump,
    /// Syncs take long.
    SlowDisk,
    /// The apply thread takes long.
    SlowApply,
    /// The disk fails in the middle of what it does, then the power goes out.
    DiskFails,
    /// While a node is down a bit of its log flips: it must see that, and is replaced.
    Rot,
    /// Leadership is handed over.
    Transfer,
    /// A node makes its state durable and drops its log.
    Shrink,
    /// A node is removed, and comes back as a new one with empty disks.
    Replace,
}

/// How many kinds there are.
pub const KINDS: usize = ALL.len();

const ALL: &[(Fault, u32)] = &[
    (Fault::PowerCut, 6),
    (Fault::PowerCutOfAll, 1),
    (Fault::Kill, 2),
    (Fault::CrashLoop, 4),
    (Fault::Stop, 1),
    (Fault::Pause, 3),
    (Fault::Freeze, 2),
    (Fault::Isolate, 3),
    (Fault::Split, 2),
    (Fault::OneWay, 2),
    (Fault::Link, 3),
    (Fault::Shift, 4),
    (Fault::Slow, 1),
    (Fault::Lag, 3),
    (Fault::Loss, 1),
    (Fault::Resets, 1),
    (Fault::Jump, 2),
    (Fault::SlowDisk, 2),
    (Fault::SlowApply, 1),
    (Fault::DiskFails, 2),
    (Fault::Rot, 1),
    (Fault::Transfer, 3),
    (Fault::Shrink, 5),
    (Fault::Replace, 1),
];

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// What is to be done later.
enum Later {
    Heal,
    Calm,
    Brisk(usize),
    Cut(usize),
    /// Kills it, and so many times more.
    Kill(usize, u64),
    /// Parts the nodes anew until this global time.
    Shift(u64),
}

/// A node on its way out and in again.
enum Replacing {
    /// The order was given.
    Removing { number: usize, order: u64 },
    /// It is back, with empty disks.
    Joining { number: usize },
}

/// Hurts a cluster.
pub struct Faults {
    random: StdRng,
    next_at_ms: u64,
    later: BTreeMap<(u64, u64), Later>,
    laters: u64,
    replacing: Option<Replacing>,
    clocks_stop: bool,
    before: Option<Fault>,
    /// Whom the next one is to strike, if it is bound to a moment.
    struck: Option<usize>,
    /// How often each fault began.
    pub counts: BTreeMap<Fault, u64>,
    /// How often the second of two faults in a row was which.
    pub pairs: BTreeMap<(Fault, Fault), u64>,
}

impl Faults {
    /// The faults of a plan, from a global time on.
    #[must_use]
    pub fn new(plan: &Plan, from_ms: u64) -> Self {
        let random = StdRng::seed_from_u64(plan.seed ^ 0x6661_756c_7473);
        Self {
            random,
            next_at_ms: from_ms,
            later: BTreeMap::new(),
            laters: 0,
            replacing: None,
            clocks_stop: plan.clocks_stop,
            before: None,
            struck: None,
            counts: BTreeMap::new(),
            pairs: BTreeMap::new(),
        }
    }

    fn pick(&mut self, range: (u64, u64)) -> u64 {
        self.random.random_range(range.0..=range.1)
    }

    /// Does it in so many milliseconds.
    fn after(&mut self, world: &World, ms: u64, later: Later) {
        self.laters += 1;
        self.later.insert((world.now_ms() + ms, self.laters), later);
    }

    /// Begins and ends what is due.
    ///
    /// # Errors
    /// A node cannot be started.
    pub fn round(&mut self, world: &mut World) -> Result<()> {
        let now = world.now_ms();
        while let Some(((at, _), _)) = self.later.first_key_value()
            && *at <= now
        {
            let Some((_, later)) = self.later.pop_first() else { break };
            self.end(world, &later);
        }
        self.go_on_replacing(world)?;
        if let Some(voter) = world.voted()
            && self.random.random_bool(UPON_VOTE)
        {
            (self.next_at_ms, self.struck) = (now, Some(voter));
        }
        if now >= self.next_at_ms {
            self.begin(world);
        }
        Ok(())
    }

    /// Ends everything: the network is whole, all nodes run.
    ///
    /// # Errors
    /// A node cannot be started.
    pub fn heal(&mut self, world: &mut World) -> Result<()> {
        while let Some((_, later)) = self.later.pop_first() {
            // These would only go on.
            if !matches!(later, Later::Kill(..) | Later::Shift(_)) {
                self.end(world, &later);
            }
        }
        world.net.heal();
        world.net.set_weather(CALM);
        for node in &world.nodes {
            node.host.set_speed(BRISK.0, BRISK.1);
        }
        world.restart_all();
        self.go_on_replacing(world)
    }

    /// A member that was on its way out or in goes on with that.
    ///
    /// # Errors
    /// A node cannot be started.
    pub fn heal_on(&mut self, world: &mut World) -> Result<()> {
        self.go_on_replacing(world)
    }

    fn end(&mut self, world: &mut World, later: &Later) {
        match *later {
            Later::Heal => world.net.heal(),
            Later::Calm => world.net.set_weather(CALM),
            Later::Brisk(number) => world.nodes[number].host.set_speed(BRISK.0, BRISK.1),
            Later::Cut(number) => {
                let (keep, back) = (self.keep(), self.back(world));
                world.crash(number, Crash::Power, keep, back);
            }
            Later::Kill(number, left) => {
                let back = world.now_ms() + self.pick(DOWN_MS[0]);
                world.crash(number, Crash::Kill, 1.0, back);
                if let Some(left) = left.checked_sub(1) {
                    let ms = back - world.now_ms() + self.pick((5, 400));
                    self.after(world, ms, Later::Kill(number, left));
                }
            }
            Later::Shift(until) => self.shift(world, until),
        }
    }

    /// Global time at which a machine that goes down now is back.
    fn back(&mut self, world: &World) -> u64 {
        let down = DOWN_MS[usize::from(self.random.random_bool(0.5))];
        world.now_ms() + self.pick(down)
    }

    /// Parts the nodes anew, or ends that.
    fn shift(&mut self, world: &World, until: u64) {
        world.net.heal();
        if world.now_ms() >= until {
            return;
        }
        for (from, to) in self.some_ways(world) {
            world.net.cut(node::ip(from), node::ip(to));
        }
        let ms = self.pick((30, 700));
        self.after(world, ms, Later::Shift(until));
    }

    /// Some directions between two nodes.
    fn some_ways(&mut self, world: &World) -> Vec<(usize, usize)> {
        let count = world.nodes.len();
        let ways = (0..count).flat_map(|from| (0..count).map(move |to| (from, to)));
        ways.filter(|(from, to)| from != to && self.random.random_bool(SOME_WAYS)).collect()
    }

    fn lag(&mut self, world: &World) {
        for (from, to) in self.some_ways(world) {
            world.net.lag(node::ip(from), node::ip(to), (10, self.pick((20, 400))));
        }
        let ms = self.pick((500, 5000));
        self.after(world, ms, Later::Heal);
    }

    /// Part of the unsynced sectors that a power cut leaves.
    fn keep(&mut self) -> f64 {
        [0.0, 0.1, 0.5, 0.9, 1.0].choose(&mut self.random).copied().unwrap_or_default()
    }

    /// One node, the leader more often than the others.
    fn victim(&mut self, world: &World) -> usize {
        if let Some(struck) = self.struck.take()
            && self.random.random_bool(0.6)
        {
            return struck;
        }
        match world.leader() {
            Some(leader) if self.random.random_bool(0.4) => leader,
            _ => self.random.random_range(0..world.nodes.len()),
        }
    }

    fn begin(&mut self, world: &mut World) {
        let Ok((fault, _)) = ALL.choose_weighted(&mut self.random, |(_, weight)| *weight) else { return };
        // One rots at a time, and none while members change, or a majority may be gone for good.
        let can_rot = self.replacing.is_none() && !world.has_rotten() && world.is_whole();
        let fault = match *fault {
            Fault::Freeze if !self.clocks_stop => Fault::Pause,
            Fault::Rot if !can_rot => Fault::PowerCut,
            fault => fault,
        };
        let victim = self.victim(world);
        let is_close = self.random.random_bool(CLOSE);
        let close = CLOSE_MS[usize::from(self.random.random_bool(0.5))];
        self.next_at_ms = world.now_ms() + self.pick(if is_close { close } else { PAUSE_MS });
        self.struck = is_close.then_some(victim);
        *self.counts.entry(fault).or_default() += 1;
        if let Some(before) = self.before.replace(fault) {
            *self.pairs.entry((before, fault)).or_default() += 1;
        }
        world.trace.note(format_args!("fault {fault} node {victim}"));
        match fault {
            Fault::PowerCut
            | Fault::PowerCutOfAll
            | Fault::Kill
            | Fault::CrashLoop
            | Fault::Stop
            | Fault::DiskFails
            | Fault::Rot => self.take_down(world, fault, victim),
            Fault::Pause | Fault::Freeze => {
                let until = world.now_ms() + self.pick((30, 3000));
                let node = &mut world.nodes[victim];
                if fault == Fault::Pause { node.pause(until) } else { node.freeze(until) }
            }
            Fault::Isolate | Fault::Split | Fault::OneWay | Fault::Link => self.part(world, fault, victim),
            Fault::Lag => self.lag(world),
            Fault::Shift => {
                let until = world.now_ms() + self.pick((500, 4000));
                self.shift(world, until);
            }
            Fault::Slow | Fault::Loss | Fault::Resets => {
                let weather = match fault {
                    Fault::Slow => Weather { delay_ms: (20, self.pick((40, 400))), ..CALM },
                    Fault::Loss => Weather { loss: 0.05, ..CALM },
                    _ => Weather { reset: 0.003, ..CALM },
                };
                world.net.set_weather(weather);
                let ms = self.pick((500, 5000));
                self.after(world, ms, Later::Calm);
            }
            Fault::Jump => {
                let by = i64::try_from(self.pick((1, 86_400_000))).unwrap_or_default();
                let by = if self.random.random_bool(0.5) { by } else { -by };
                world.nodes[victim].jump(by);
            }
            Fault::SlowDisk | Fault::SlowApply => {
                let slow = (5, self.pick((20, 800)));
                let (sync, apply) =
                    if fault == Fault::SlowDisk { (slow, BRISK.1) } else { (BRISK.0, (1, slow.1 / 4)) };
                world.nodes[victim].host.set_speed(sync, apply);
                let ms = self.pick((500, 5000));
                self.after(world, ms, Later::Brisk(victim));
            }
            Fault::Transfer => {
                // Hardly ever to the one that leads already.
                let count = world.nodes.len();
                let leader = world.leader().unwrap_or_default();
                let target = (leader + self.random.random_range(1..count)) % count;
                let words = ["RAFTTRANSFER".to_owned(), node::addr(target).to_string()];
                world.clients.order(victim, &words, ORDER_MAX);
            }
            Fault::Shrink => {
                world.clients.order(victim, &["RAFTSHRINKLOG".to_owned()], ORDER_MAX);
            }
            Fault::Replace => self.begin_replacing(world, victim),
        }
    }

    fn take_down(&mut self, world: &mut World, fault: Fault, victim: usize) {
        let (keep, back) = (self.keep(), self.back(world));
        match fault {
            Fault::Kill => world.crash(victim, Crash::Kill, 1.0, back),
            Fault::CrashLoop => {
                let left = self.pick((2, 5));
                self.end(world, &Later::Kill(victim, left));
            }
            Fault::Stop => world.stop(victim, back),
            Fault::PowerCutOfAll => {
                for number in 0..world.nodes.len() {
                    let back = world.now_ms() + self.pick((50, 1500));
                    world.crash(number, Crash::Power, keep, back);
                }
            }
            Fault::Rot => {
                world.crash(victim, Crash::Power, keep, back);
                world.nodes[victim].rotten = world.nodes[victim].host.rot();
            }
            Fault::DiskFails if world.nodes[victim].runs() => {
                let operations = usize::try_from(self.pick((0, 40))).unwrap_or_default();
                world.nodes[victim].host.fail_disks_after(operations);
                world.nodes[victim].dying = true;
                let ms = self.pick((1, 1500));
                self.after(world, ms, Later::Cut(victim));
            }
            _ => world.crash(victim, Crash::Power, keep, back),
        }
    }

    fn part(&mut self, world: &World, fault: Fault, victim: usize) {
        let count = world.nodes.len();
        let mut aside = vec![false; count];
        aside[victim] = true;
        let other = (victim + self.random.random_range(1..count)) % count;
        if fault == Fault::Split && count > 3 {
            aside[(victim + 1) % count] = true;
        }
        // Half of the partitions leave the victim its clients.
        let has_clients = matches!(fault, Fault::Split | Fault::Link) || self.random.random_bool(0.5);
        let clients = (!has_clients).then(|| world.clients.ip());
        for from in 0..count {
            for to in (0..count).filter(|to| aside[from] != aside[*to]) {
                let is_cut = match fault {
                    Fault::Link => from == other || to == other,
                    Fault::OneWay => aside[from] == (victim.is_multiple_of(2)),
                    _ => true,
                };
                if is_cut {
                    world.net.cut(node::ip(from), node::ip(to));
                }
            }
        }
        if let Some(clients) = clients {
            world.net.cut(clients, node::ip(victim));
            world.net.cut(node::ip(victim), clients);
        }
        let ms = self.pick((100, 5000));
        self.after(world, ms, Later::Heal);
    }

    /// One at a time, and only while all others are members: the faults that come meanwhile are enough.
    fn begin_replacing(&mut self, world: &mut World, victim: usize) {
        if self.replacing.is_some() || world.has_rotten() && !world.nodes[victim].refused {
            return;
        }
        let by = (victim + 1) % world.nodes.len();
        let words = ["RAFTREMOVEPEER".to_owned(), node::addr(victim).to_string()];
        let order = world.clients.order(by, &words, ORDER_MAX);
        self.replacing = Some(Replacing::Removing { number: victim, order });
    }

    fn go_on_replacing(&mut self, world: &mut World) -> Result<()> {
        match self.replacing {
            Some(Replacing::Removing { number, order }) => match world.clients.answer(order) {
                None => {}
                Some(Ok(Reply::Simple(_))) => {
                    let others = (0..world.nodes.len()).filter(|other| *other != number);
                    let join = others.map(|other| node::addr(other).to_string()).collect();
                    world.crash(number, Crash::Power, 1.0, world.now_ms() + 200);
                    world.nodes[number].wipe()?;
                    world.nodes[number].set_join(join);
                    self.replacing = Some(Replacing::Joining { number });
                }
                // Unknown: it may have been removed all the same.
                Some(_) => self.retry_removal(world, number),
            },
            Some(Replacing::Joining { number }) => {
                let is_voter = world.nodes[number].group().is_some_and(|group| {
                    let (status, id) = (group.status(), group.node_id());
                    status.members.iter().any(|member| member.id == id && member.voter)
                });
                if is_voter {
                    self.replacing = None;
                }
            }
            None => {
                if let Some(refused) = world.nodes.iter().position(|node| node.refused) {
                    self.begin_replacing(world, refused);
                }
            }
        }
        Ok(())
    }

    fn retry_removal(&mut self, world: &mut World, number: usize) {
        let by = self.random.random_range(0..world.nodes.len());
        let by = if by == number { (number + 1) % world.nodes.len() } else { by };
        let words = ["RAFTREMOVEPEER".to_owned(), node::addr(number).to_string()];
        let order = world.clients.order(by, &words, ORDER_MAX);
        self.replacing = Some(Replacing::Removing { number, order });
    }

    /// No member is on its way out or in.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        self.replacing.is_none()
    }
}
