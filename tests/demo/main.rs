//! `make demo`: three nodes, a live view in the terminal, a key that kills the leader and shows what was lost and the gap.
//!
//! ```text
//! Steady --k--> kill -9 --> Leaderless --another node leads and writes go on--> read back --> Down
//!   ^                                                                                          | 1.5 s
//!   `------------ caught up <------------------- Returning <----------- start again -----------'
//! ```
//!
//! `--seconds N --kill-every S` plays it without a key and without a terminal, one line per event: its own test. Either
//! way it ends with code 1 if an acknowledged write was lost, or if writes did not come back.

mod load;
mod view;

use std::collections::VecDeque;
use std::io::IsTerminal;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use kvnode_tests::cluster::Cluster;
use load::Load;
use view::{Frame, Nodes, Terminal};

const FRAME: Duration = Duration::from_millis(100);
/// A killed node stays away for this long.
const AWAY: Duration = Duration::from_millis(1500);
/// Every step of a kill must be done in this time.
const PATIENCE: Duration = Duration::from_secs(30);
/// Frames of which writes/s and p99 are taken.
const FRAMES_PER_SECOND: usize = 10;
/// Acknowledged under the new leader before what was written is read back.
const WRITES_AFTER: u64 = 100;
/// A node that is back has caught up when it is no further behind.
const LAG_ENTRIES: u64 = 100;

/// What to do without keys.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Plan {
    seconds: Option<u64>,
    kill_every: Option<u64>,
}

impl Plan {
    fn read(arguments: impl Iterator<Item = String>) -> Result<Self> {
        let mut plan = Self::default();
        let mut arguments = arguments.peekable();
        while let Some(flag) = arguments.next() {
            let place = match flag.as_str() {
                "--seconds" => &mut plan.seconds,
                "--kill-every" => &mut plan.kill_every,
                _ => bail!("usage: demo [--seconds N] [--kill-every S], not {flag:?}"),
            };
            let value = arguments.next().with_context(|| format!("{flag} needs a number"))?;
            *place = Some(value.parse().with_context(|| format!("{flag} {value:?}"))?);
        }
        Ok(plan)
    }
}

#[derive(Clone, Copy, Debug)]
enum Phase {
    Steady,
    /// `resumed`: acknowledged writes when another leader was first seen.
    Leaderless {
        node: usize,
        term: u64,
        resumed: Option<u64>,
    },
    Down {
        node: usize,
    },
    Returning {
        node: usize,
    },
}

struct Demo {
    cluster: Cluster,
    load: Load,
    nodes: Nodes,
    phase: Phase,
    since: Instant,
    started: Instant,
    events: Vec<String>,
    kills: usize,
    lost: usize,
    longest_gap: Duration,
}

#[tokio::main]
async fn main() -> Result<()> {
    let mut plan = Plan::read(std::env::args().skip(1))?;
    let terminal = std::io::stdin().is_terminal() && std::io::stdout().is_terminal();
    if !terminal && plan == Plan::default() {
        plan = Plan { seconds: Some(6), kill_every: Some(3) };
    }
    println!("starting three nodes ...");
    let cluster = Cluster::start(3, &[]).await?;
    let mut demo = Demo::new(cluster)?;
    let played = if terminal { demo.live(plan).await } else { demo.play(plan).await };
    println!(
        "{} kills of the leader: {} acknowledged writes lost; longest time without a write {:.2} s",
        demo.kills,
        demo.lost,
        demo.longest_gap.as_secs_f64()
    );
    played?;
    ensure!(demo.lost == 0, "acknowledged writes were lost");
    Ok(())
}

impl Demo {
    fn new(cluster: Cluster) -> Result<Self> {
        let addrs: Vec<String> = cluster.nodes.iter().map(|node| node.addr().to_owned()).collect();
        let now = Instant::now();
        Ok(Self {
            load: Load::start(&addrs)?,
            nodes: Nodes::watch(&addrs),
            cluster,
            phase: Phase::Steady,
            since: now,
            started: now,
            events: Vec::new(),
            kills: 0,
            lost: 0,
            longest_gap: Duration::ZERO,
        })
    }

    fn clock(&self) -> String {
        let seconds = self.started.elapsed().as_secs();
        format!("{:02}:{:02}", seconds / 60, seconds % 60)
    }

    fn enter(&mut self, phase: Phase) {
        self.phase = phase;
        self.since = Instant::now();
    }

    /// kill -9 of the leader; nothing happens while one is away or none leads.
    fn kill_leader(&mut self) -> Result<()> {
        let (Phase::Steady, Some((node, term))) = (self.phase, self.nodes.leader()) else { return Ok(()) };
        self.load.forget_gap();
        self.cluster.nodes[node].kill()?;
        self.kills += 1;
        self.events.push(format!("{} kill -9 of node {}, the leader of term {term}", self.clock(), node + 1));
        self.enter(Phase::Leaderless { node, term, resumed: None });
        Ok(())
    }

    /// One step of what is under way.
    async fn step(&mut self) -> Result<()> {
        if !matches!(self.phase, Phase::Steady) {
            ensure!(
                self.since.elapsed() < PATIENCE,
                "stuck for {PATIENCE:?}: {:?}\n{}",
                self.phase,
                self.cluster.logs()
            );
        }
        match self.phase {
            Phase::Steady => {}
            Phase::Leaderless { node, term, resumed: None } => {
                if self.nodes.leader().is_some_and(|(leader, now)| leader != node && now > term) {
                    let resumed = Some(self.load.stats().acknowledged);
                    self.phase = Phase::Leaderless { node, term, resumed };
                }
            }
            Phase::Leaderless { node, resumed: Some(resumed), .. } => {
                if self.load.stats().acknowledged >= resumed + WRITES_AFTER {
                    self.read_back().await?;
                    self.enter(Phase::Down { node });
                }
            }
            Phase::Down { node } => {
                if self.since.elapsed() >= AWAY {
                    self.cluster.nodes[node].spawn()?;
                    self.enter(Phase::Returning { node });
                }
            }
            Phase::Returning { node } => {
                let views = self.nodes.now();
                let newest = views.iter().map(|view| view.applied).max().unwrap_or(0);
                if views[node].up
                    && views[node].applied + LAG_ENTRIES >= newest
                    && self.nodes.leader().is_some()
                {
                    let took = self.since.elapsed().as_secs_f64();
                    self.events.push(format!(
                        "{} node {} is back and caught up after {took:.1} s",
                        self.clock(),
                        node + 1
                    ));
                    self.enter(Phase::Steady);
                }
            }
        }
        Ok(())
    }

    async fn read_back(&mut self) -> Result<()> {
        let (leader, term) = self.nodes.leader().context("the new leader is gone again")?;
        let gap = self.load.stats().longest_gap;
        let checked = self.load.check(self.cluster.nodes[leader].addr()).await?;
        self.longest_gap = self.longest_gap.max(gap);
        self.lost += checked.lost;
        self.events.push(format!(
            "{} node {} leads in term {term}: no write for {:.2} s, the newest {} acknowledged writes read back: {} lost",
            self.clock(),
            leader + 1,
            gap.as_secs_f64(),
            checked.writes,
            checked.lost
        ));
        Ok(())
    }

    /// True when the time is over; a kill that is asked for is played at least once, and always to its end.
    fn is_over(&self, plan: Plan) -> bool {
        let killed = plan.kill_every.is_none() || self.kills > 0;
        plan.seconds.is_some_and(|seconds| self.started.elapsed() >= Duration::from_secs(seconds)) && killed
    }

    fn kill_when_due(&mut self, plan: Plan, last: &mut Instant) -> Result<()> {
        let due = plan.kill_every.is_some_and(|every| last.elapsed() >= Duration::from_secs(every));
        if due && !self.is_over(plan) {
            let kills = self.kills;
            self.kill_leader()?;
            if self.kills > kills {
                *last = Instant::now();
            }
        }
        Ok(())
    }

    /// Without a terminal: events only.
    async fn play(&mut self, plan: Plan) -> Result<()> {
        let mut ticks = tokio::time::interval(FRAME);
        let (mut told, mut last_kill) = (0, Instant::now());
        let end = plan.seconds.map(|seconds| Duration::from_secs(seconds) + 4 * PATIENCE);
        while !(self.is_over(plan) && matches!(self.phase, Phase::Steady)) {
            ticks.tick().await;
            ensure!(end.is_none_or(|end| self.started.elapsed() < end), "no leader could be killed in time");
            let stepped = self.step().await;
            self.kill_when_due(plan, &mut last_kill)?;
            for event in &self.events[told..] {
                println!("{event}");
            }
            told = self.events.len();
            stepped?;
        }
        Ok(())
    }

    /// In a terminal: a picture ten times a second, and keys.
    async fn live(&mut self, plan: Plan) -> Result<()> {
        let _terminal = Terminal::enter()?;
        let mut keys = view::keys();
        let mut ticks = tokio::time::interval(FRAME);
        let mut rates: VecDeque<u64> = VecDeque::new();
        let (mut count, mut p99, mut last_kill) = (0, Duration::ZERO, Instant::now());
        let mut interrupted = std::pin::pin!(tokio::signal::ctrl_c());
        for frame in 0_usize.. {
            tokio::select! {
                _ = ticks.tick() => {}
                key = keys.recv() => match key {
                    Some(b'k' | b'K') => self.kill_leader()?,
                    Some(b'q' | b'Q' | 3 | 4) | None => return Ok(()),
                    Some(_) => continue,
                },
                _ = &mut interrupted => return Ok(()),
            }
            self.step().await?;
            self.kill_when_due(plan, &mut last_kill)?;
            if self.is_over(plan) && matches!(self.phase, Phase::Steady) {
                return Ok(());
            }
            let acknowledged = self.load.stats().acknowledged;
            rates.push_back(acknowledged - count);
            count = acknowledged;
            if rates.len() > 10 * FRAMES_PER_SECOND {
                rates.pop_front();
            }
            if frame % FRAMES_PER_SECOND == 0 {
                p99 = self.load.take_p99();
            }
            Terminal::draw(&self.picture(&rates, p99))?;
        }
        Ok(())
    }

    fn picture(&self, rates: &VecDeque<u64>, p99: Duration) -> Vec<String> {
        let stats = self.load.stats();
        let hint = match self.phase {
            Phase::Steady => "k  kill -9 the leader and start it again      q  quit",
            Phase::Leaderless { .. } => "electing ...                                  q  quit",
            Phase::Down { .. } | Phase::Returning { .. } => {
                "the killed node comes back ...               q  quit"
            }
        };
        view::lines(&Frame {
            nodes: &self.nodes.now(),
            seconds: self.started.elapsed().as_secs(),
            writes_per_second: rates.iter().rev().take(FRAMES_PER_SECOND).sum(),
            p99,
            acknowledged: stats.acknowledged,
            refused: stats.refused,
            unknown: stats.unknown,
            rates,
            events: &self.events,
            hint,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_are_read_and_mistakes_refused() {
        let read = |flags: &[&str]| Plan::read(flags.iter().map(|&flag| flag.to_owned()));
        let plan = read(&["--seconds", "5", "--kill-every", "2"]).unwrap();
        assert_eq!(plan, Plan { seconds: Some(5), kill_every: Some(2) });
        for wrong in [&["--seconds"][..], &["--seconds", "x"], &["--minutes", "1"]] {
            assert!(read(wrong).is_err(), "{wrong:?}");
        }
    }
}
