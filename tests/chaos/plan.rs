//! Which faults a run has: drawn from its seed before anything runs, so that one seed is one plan. Who leads at that
//! moment, and how the packets fall, is the machine's.

use std::fmt;

use anyhow::{Result, bail};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};

use crate::network::Shape;

/// Part of the faults upon which another one follows while they last.
const DOUBLE: f64 = 0.25;
/// Operations that clients finish, if they can, while a fault lasts, and once more after it: least, and how often that
/// is doubled at most.
const OPERATIONS: (usize, u32) = (150, 6);

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    /// kill -9 of one node.
    Kill,
    /// kill -9 of all.
    KillAll,
    /// SIGTERM.
    Stop,
    /// SIGSTOP, of a leader until another one leads.
    Pause,
    /// SIGSTOP and SIGCONT, several times, too short for an election.
    Pulse,
    /// RAFTTRANSFER.
    Transfer,
    /// Packets are dropped.
    Part(Shape),
    /// Power cut of one node.
    Power,
    /// Of a majority.
    PowerMost,
    /// Of all.
    PowerAll,
    /// The disk fails under the running process.
    Io,
    /// The disk of one node is full.
    Full,
    /// Those of all.
    FullAll,
    /// The wall clock of a node jumps by a day, there and back.
    Clock,
    /// A member is removed, and comes back as a new one with an empty disk.
    Member,
    /// SIGTERM, and the node starts as another build: newer or older.
    Upgrade,
    /// The same of all nodes, one after the other.
    UpgradeAll,
}

/// All kinds with their names and weights.
const KINDS: [(Kind, &str, u32); 23] = [
    (Kind::Kill, "kill", 8),
    (Kind::KillAll, "kill-all", 3),
    (Kind::Stop, "stop", 4),
    (Kind::Pause, "pause", 6),
    (Kind::Pulse, "pulse", 2),
    (Kind::Transfer, "transfer", 3),
    (Kind::Part(Shape::Alone), "part-alone", 4),
    (Kind::Part(Shape::Aside), "part-aside", 4),
    (Kind::Part(Shape::Minority), "part-minority", 4),
    (Kind::Part(Shape::Link), "part-link", 4),
    (Kind::Part(Shape::Deaf), "part-deaf", 3),
    (Kind::Part(Shape::Mute), "part-mute", 3),
    (Kind::Part(Shape::OneWay), "part-one-way", 3),
    (Kind::Power, "power", 10),
    (Kind::PowerMost, "power-most", 4),
    (Kind::PowerAll, "power-all", 8),
    (Kind::Io, "io", 4),
    (Kind::Full, "full", 2),
    (Kind::FullAll, "full-all", 1),
    (Kind::Clock, "clock", 3),
    (Kind::Member, "member", 3),
    (Kind::Upgrade, "upgrade", 8),
    (Kind::UpgradeAll, "upgrade-all", 3),
];

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let known = KINDS.iter().find(|(kind, _, _)| kind == self);
        f.write_str(known.map_or("?", |(_, name, _)| name))
    }
}

impl Kind {
    pub(crate) fn name(self) -> &'static str {
        KINDS.iter().find(|(kind, _, _)| *kind == self).map_or("?", |(_, name, _)| name)
    }

    /// Others may follow while it lasts.
    fn may_be_first(self) -> bool {
        match self {
            Kind::Kill | Kind::Pause | Kind::Part(_) | Kind::Power | Kind::Io | Kind::Full => true,
            Kind::KillAll
            | Kind::Stop
            | Kind::Pulse
            | Kind::Transfer
            | Kind::PowerMost
            | Kind::PowerAll
            | Kind::FullAll
            | Kind::Clock
            | Kind::Member
            | Kind::Upgrade
            | Kind::UpgradeAll => false,
        }
    }

    /// It may follow while another one lasts.
    fn may_be_second(self) -> bool {
        let alone = [Kind::Pulse, Kind::Full, Kind::FullAll, Kind::Clock, Kind::Member, Kind::UpgradeAll];
        !alone.contains(&self)
    }

    /// It takes a second build of the server.
    pub(crate) fn needs_other(self) -> bool {
        matches!(self, Kind::Upgrade | Kind::UpgradeAll)
    }
}

/// Whom a fault hits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    Leader,
    /// The follower at this place among those there are.
    Follower(usize),
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Role::Leader => f.write_str("leader"),
            Role::Follower(_) => f.write_str("follower"),
        }
    }
}

/// One fault, or two of which the second begins while the first one lasts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Fault {
    pub(crate) kind: Kind,
    pub(crate) role: Role,
    pub(crate) second: Option<(Kind, Role)>,
    /// The first one is healed before the second one.
    pub(crate) in_order: bool,
    /// Operations that the clients finish, if they can, while each lasts.
    pub(crate) operations: usize,
}

/// The kinds that the words name: `power` is that and all that begin with `power-`. No words name all.
pub(crate) fn kinds(words: &str) -> Result<Vec<Kind>> {
    let mut named = Vec::new();
    for word in words.split_whitespace() {
        let before = named.len();
        let prefix = format!("{word}-");
        let matching = KINDS.iter().filter(|(_, name, _)| *name == word || name.starts_with(&prefix));
        named.extend(matching.map(|(kind, _, _)| *kind));
        if named.len() == before {
            let all: Vec<&str> = KINDS.iter().map(|(_, name, _)| *name).collect();
            bail!("no fault is called {word:?}; there are {}", all.join(", "));
        }
    }
    if named.is_empty() {
        named.extend(KINDS.iter().map(|(kind, _, _)| *kind));
    }
    named.sort_unstable();
    named.dedup();
    Ok(named)
}

/// The faults of a run.
pub(crate) fn draw(seed: u64, count: usize, kinds: &[Kind], nodes: usize) -> Vec<Fault> {
    let mut random = StdRng::seed_from_u64(seed);
    let firsts = weighted(kinds, |_| true);
    let seconds = weighted(kinds, Kind::may_be_second);
    (0..count)
        .filter_map(|_| {
            let kind = *pick(&firsts, &mut random)?;
            let role = role(&mut random, nodes);
            let is_double = random.random_bool(DOUBLE) && kind.may_be_first();
            let second = if is_double { pick(&seconds, &mut random).copied() } else { None };
            let second = second.map(|kind| (kind, self::role(&mut random, nodes)));
            let in_order = random.random_bool(0.5);
            let least = OPERATIONS.0 << random.random_range(0..OPERATIONS.1);
            let operations = random.random_range(least..2 * least);
            Some(Fault { kind, role, second, in_order, operations })
        })
        .collect()
}

fn weighted(kinds: &[Kind], wanted: impl Fn(Kind) -> bool) -> Vec<(Kind, u32)> {
    let all = KINDS.iter().filter(|(kind, _, _)| kinds.contains(kind) && wanted(*kind));
    all.map(|(kind, _, weight)| (*kind, *weight)).collect()
}

fn pick<'a>(from: &'a [(Kind, u32)], random: &mut StdRng) -> Option<&'a Kind> {
    from.choose_weighted(random, |(_, weight)| *weight).ok().map(|(kind, _)| kind)
}

fn role(random: &mut StdRng, nodes: usize) -> Role {
    let follower = random.random_range(0..nodes.max(2) - 1);
    if random.random_bool(0.55) { Role::Leader } else { Role::Follower(follower) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_seed_is_one_plan() {
        let all = kinds("").unwrap();
        assert_eq!(all.len(), KINDS.len());
        assert_eq!(draw(7, 50, &all, 3), draw(7, 50, &all, 3));
        assert_ne!(draw(7, 50, &all, 3), draw(8, 50, &all, 3));
        let many = draw(1, 2000, &all, 5);
        assert!(all.iter().all(|kind| many.iter().any(|fault| fault.kind == *kind)));
        let doubles = many.iter().filter(|fault| fault.second.is_some()).count();
        assert!((150..600).contains(&doubles), "{doubles}");
        assert!(many.iter().all(|fault| fault.second.is_none() || fault.kind.may_be_first()));
        let followers = many.iter().filter_map(|fault| match fault.role {
            Role::Follower(at) => Some(at),
            Role::Leader => None,
        });
        assert_eq!(followers.max(), Some(3));
    }

    #[test]
    fn a_word_names_a_kind_and_its_variants() {
        assert_eq!(kinds("power").unwrap(), [Kind::Power, Kind::PowerMost, Kind::PowerAll]);
        assert_eq!(kinds("power-all kill-all").unwrap(), [Kind::KillAll, Kind::PowerAll]);
        assert_eq!(kinds("part").unwrap().len(), 7);
        assert!(kinds("powerful").unwrap_err().to_string().contains("power-most"));
        let cuts = draw(3, 40, &kinds("power-all").unwrap(), 3);
        assert!(cuts.iter().all(|fault| fault.kind == Kind::PowerAll && fault.second.is_none()));
    }
}
