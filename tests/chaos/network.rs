//! One network namespace a node, all on one bridge with the clients; packets are dropped by direction.
//!
//! ```text
//!             bridge 10.77.0.254 (the clients, and this program)
//!            /         |         \
//!   n1 10.77.0.1   n2 10.77.0.2   n3 10.77.0.3     each drops what comes in from those that it is cut from
//! ```
//!
//! All of it lives in namespaces of this run (see `apart`), so names and addresses collide with nobody's, and nothing
//! is left when the run has ended.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::io::Write as _;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use kvnode_tests::tool;

/// Where a packet comes from or goes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum End {
    Node(usize),
    Clients,
}

/// A direction in which nothing passes: from, to.
pub(crate) type Cut = (End, End);

/// Who does not hear whom, seen from one node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Shape {
    /// It and everybody else, clients as well, do not hear each other.
    Alone,
    /// It and its peers do not hear each other; clients reach it.
    Aside,
    /// It, with as many others as are still a minority, and the rest do not hear each other.
    Minority,
    /// It and one other do not hear each other; all others hear both.
    Link,
    /// It hears no peer; they hear it.
    Deaf,
    /// No peer hears it; it hears them.
    Mute,
    /// It does not hear one other, which hears it.
    OneWay,
}

/// The directions that a shape cuts; `other` is the next node where it takes one more.
pub(crate) fn cuts(shape: Shape, node: usize, other: usize, count: usize) -> BTreeSet<Cut> {
    let me = End::Node(node);
    let peers = || (0..count).filter(move |peer| *peer != node).map(End::Node);
    let both = |one: End, two: End| [(one, two), (two, one)];
    match shape {
        Shape::Alone => peers().chain([End::Clients]).flat_map(|peer| both(me, peer)).collect(),
        Shape::Aside => peers().flat_map(|peer| both(me, peer)).collect(),
        Shape::Minority => {
            let small = count.div_ceil(2) - 1;
            let (here, there): (Vec<usize>, Vec<usize>) =
                (0..count).partition(|peer| (peer + count - node) % count < small);
            let pairs = here.iter().flat_map(|one| there.iter().map(move |two| (*one, *two)));
            pairs.flat_map(|(one, two)| both(End::Node(one), End::Node(two))).collect()
        }
        Shape::Link => both(me, End::Node(other)).into(),
        Shape::Deaf => peers().map(|peer| (peer, me)).collect(),
        Shape::Mute => peers().map(|peer| (me, peer)).collect(),
        Shape::OneWay => [(End::Node(other), me)].into(),
    }
}

fn address(end: End) -> String {
    match end {
        End::Node(node) => format!("10.77.0.{}", node + 1),
        End::Clients => "10.77.0.254".to_owned(),
    }
}

/// The packet filter of a node, as iptables-restore reads it.
fn filter(node: usize, cuts: &BTreeSet<Cut>) -> String {
    let mut rules = String::from("*filter\n:INPUT ACCEPT [0:0]\n:OUTPUT ACCEPT [0:0]\n");
    for (from, to) in cuts {
        // Writing to a string cannot fail.
        if *to == End::Node(node) {
            let _ = writeln!(rules, "-A INPUT -s {} -j DROP", address(*from));
        } else if (*from, *to) == (End::Node(node), End::Clients) {
            let _ = writeln!(rules, "-A OUTPUT -d {} -j DROP", address(*to));
        }
    }
    rules + "COMMIT\n"
}

fn ip(words: &str) -> Result<()> {
    tool::run(Command::new("ip").args(words.split(' '))).map(drop)
}

/// The network of a run.
pub(crate) struct Network {
    /// What is in force in each node.
    filters: Vec<String>,
    cuts: BTreeSet<Cut>,
}

impl Network {
    pub(crate) fn make(count: usize) -> Result<Self> {
        ip("link set lo up")?;
        ip("link add br0 type bridge")?;
        ip("link set br0 up")?;
        ip(&format!("addr add {}/24 dev br0", address(End::Clients)))?;
        for node in 0..count {
            let name = format!("n{}", node + 1);
            ip(&format!("netns add {name}"))?;
            ip(&format!("link add v{name} type veth peer name eth0 netns {name}"))?;
            ip(&format!("link set v{name} master br0 up"))?;
            ip(&format!("-n {name} addr add {}/24 dev eth0", address(End::Node(node))))?;
            ip(&format!("-n {name} link set eth0 up"))?;
            ip(&format!("-n {name} link set lo up"))?;
        }
        Ok(Self { filters: vec![String::new(); count], cuts: BTreeSet::new() })
    }

    /// The address of a node, its port for the kernel to choose.
    pub(crate) fn addr(node: usize) -> String {
        format!("{}:0", address(End::Node(node)))
    }

    /// The words that have a program run in a node's namespace, as itself: no process stands between.
    pub(crate) fn within(node: usize) -> [String; 2] {
        ["nsenter".to_owned(), format!("--net=/run/netns/n{}", node + 1)]
    }

    /// Nothing passes these ways any more.
    pub(crate) fn cut(&mut self, cuts: &BTreeSet<Cut>) -> Result<()> {
        self.cuts.extend(cuts);
        self.enforce()
    }

    /// These ways are free again.
    pub(crate) fn mend(&mut self, cuts: &BTreeSet<Cut>) -> Result<()> {
        self.cuts.retain(|cut| !cuts.contains(cut));
        self.enforce()
    }

    fn enforce(&mut self) -> Result<()> {
        for (node, in_force) in self.filters.iter_mut().enumerate() {
            let wanted = filter(node, &self.cuts);
            if *in_force != wanted {
                restore(node, &wanted).with_context(|| format!("filter of node {}", node + 1))?;
                *in_force = wanted;
            }
        }
        Ok(())
    }
}

fn restore(node: usize, rules: &str) -> Result<()> {
    let [program, namespace] = Network::within(node);
    let mut command = Command::new(program);
    command.args([&namespace, "iptables-restore", "-w", "5"]).stdin(Stdio::piped());
    let mut child = command.spawn().context("start iptables-restore")?;
    child.stdin.take().context("no pipe")?.write_all(rules.as_bytes())?;
    let status = child.wait()?;
    ensure!(status.success(), "iptables-restore ended with {status}");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hears(cuts: &BTreeSet<Cut>, from: usize, to: usize) -> bool {
        !cuts.contains(&(End::Node(from), End::Node(to)))
    }

    #[test]
    fn each_shape_cuts_what_it_says() {
        let alone = cuts(Shape::Alone, 1, 0, 3);
        assert_eq!(alone.len(), 6);
        assert!(hears(&alone, 0, 2) && alone.contains(&(End::Clients, End::Node(1))));
        let aside = cuts(Shape::Aside, 1, 0, 3);
        assert!(aside.len() == 4 && !hears(&aside, 0, 1) && !hears(&aside, 1, 0) && hears(&aside, 2, 0));
        let minority = cuts(Shape::Minority, 4, 0, 5);
        assert_eq!(minority.len(), 12);
        assert!(hears(&minority, 4, 0) && hears(&minority, 1, 3) && !hears(&minority, 0, 1));
        let link = cuts(Shape::Link, 0, 2, 3);
        assert!(!hears(&link, 0, 2) && !hears(&link, 2, 0) && hears(&link, 0, 1) && link.len() == 2);
        let deaf = cuts(Shape::Deaf, 0, 1, 3);
        assert!(hears(&deaf, 0, 1) && !hears(&deaf, 1, 0) && !hears(&deaf, 2, 0));
        let mute = cuts(Shape::Mute, 0, 1, 3);
        assert!(!hears(&mute, 0, 1) && hears(&mute, 1, 0));
        assert_eq!(cuts(Shape::OneWay, 0, 1, 3), [(End::Node(1), End::Node(0))].into());
    }

    #[test]
    fn a_direction_is_dropped_where_it_comes_in_or_goes_to_clients() {
        let alone = cuts(Shape::Alone, 0, 1, 3);
        let mine = filter(0, &alone);
        assert!(mine.contains("-A INPUT -s 10.77.0.2 -j DROP\n-A INPUT -s 10.77.0.3 -j DROP\n"), "{mine}");
        assert!(mine.contains("-A INPUT -s 10.77.0.254 -j DROP\n"), "{mine}");
        assert!(mine.contains("-A OUTPUT -d 10.77.0.254 -j DROP\n") && mine.ends_with("COMMIT\n"), "{mine}");
        assert!(filter(1, &alone).contains("-A INPUT -s 10.77.0.1 -j DROP\n"));
        assert!(!filter(1, &BTreeSet::new()).contains("DROP"));
    }
}
