//! How long this node bears the silence of its leader: the election timeout, adapted to what the node measures.
//!
//! ```text
//! silences after which the same leader was heard again -> x 2 --.
//! own pauses are taken off                                       > at most election_timeout_ceiling
//! slowest sync of the log + slowest answer of a peer --> x 2 --'      |
//!                                                                     v
//!                      openraft campaigns after its lease and a drawn timeout, but only while this allows it
//! ```
//!
//! openraft's timeouts are fixed at start, and its lease must be: a leader counts on what its followers grant it. So
//! nothing here ever makes a node campaign earlier. It makes one wait that would depose a leader which is only slow (a
//! starved CPU, a far or lossy network), and one whose last campaign cannot have come to its end yet, because disks or
//! peers take so long. A silence in which this node would have campaigned teaches nothing: if the leader is still the
//! same, the others have heard it all the time, and the link was cut, not slow. What was measured counts for one [`SPAN`]
//! at least and two at most.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use tokio::time::sleep;

use super::Group;
use super::core::Core;
use super::log::LogStats;
use crate::clock;
use crate::config::Timing;
use crate::metrics::BOUNDS_US;

/// How often the keeper looks.
const TICK: Duration = Duration::from_millis(50);
const SPAN: Duration = Duration::from_secs(30);
/// What was borne once is to be borne again, and more.
const MARGIN: u32 = 2;
/// Part of it that every node waits; the rest differs from node to node, so that they do not campaign at once.
const SHARED: f64 = 0.75;

/// The longest time of this span and of the one before it, in microseconds.
#[derive(Debug, Default)]
struct Longest {
    current: AtomicU64,
    before: AtomicU64,
}

impl Longest {
    fn note(&self, time: Duration) {
        self.current.fetch_max(micros(time), Relaxed);
    }

    fn get(&self) -> Duration {
        Duration::from_micros(self.current.load(Relaxed).max(self.before.load(Relaxed)))
    }

    fn next_span(&self) {
        self.before.store(self.current.swap(0, Relaxed), Relaxed);
    }
}

/// Slowest answers of peers to what a leader or a candidate asks.
#[derive(Debug, Default)]
pub(super) struct Answers(Longest);

impl Answers {
    /// One came after this time; or none, and the peer was given up.
    pub(super) fn note(&self, took: Duration) {
        self.0.note(took);
    }
}

/// What was measured, and what follows from it.
#[derive(Debug)]
pub(super) struct ElectionTimeout {
    since: Instant,
    /// openraft bears at least this: its lease and the shortest timeout that it draws.
    floor: Duration,
    /// The same with the longest timeout that it draws.
    longest: Duration,
    ceiling: Duration,
    /// Part of the adapted time that this node waits.
    share: f64,
    silences: Longest,
    syncs: Longest,
    answers: Arc<Answers>,
    /// Last append of a leader: its term, when it came (microseconds from `since`, 0 = none), pauses of ours until then.
    term: AtomicU64,
    heard_us: AtomicU64,
    paused_then_us: AtomicU64,
    /// When the keeper looked last, and for how long in all it could not although it was due.
    ticked_us: AtomicU64,
    paused_us: AtomicU64,
}

impl ElectionTimeout {
    pub(super) fn new(timing: &Timing, node_id: u64, answers: Arc<Answers>) -> Self {
        // Any spread does; that of the id is the same after a restart, and in a simulation.
        let spread = f64::from(node_id.wrapping_mul(0x9E37_79B9_7F4A_7C15).to_be_bytes()[0]) / 255.0;
        Self {
            since: clock::monotonic(),
            floor: timing.election_timeout_max + timing.election_timeout_min,
            longest: timing.election_timeout_max * 2,
            ceiling: timing.election_timeout_ceiling(),
            share: SHARED + (1.0 - SHARED) * spread,
            silences: Longest::default(),
            syncs: Longest::default(),
            answers,
            term: AtomicU64::new(0),
            heard_us: AtomicU64::new(0),
            paused_then_us: AtomicU64::new(0),
            ticked_us: AtomicU64::new(0),
            paused_us: AtomicU64::new(0),
        }
    }

    fn at_us(&self, now: Instant) -> u64 {
        micros(now.saturating_duration_since(self.since)).max(1)
    }

    /// An append of the leader of this term has come.
    pub(super) fn heard(&self, term: u64, now: Instant) {
        let now_us = self.at_us(now);
        let paused_us = self.paused_us.load(Relaxed) + self.overdue_us(now_us);
        let paused_then = self.paused_then_us.swap(paused_us, Relaxed);
        let heard_us = self.heard_us.fetch_max(now_us, Relaxed);
        let is_same = self.term.swap(term, Relaxed) == term;
        if is_same && heard_us > 0 {
            // What this node slept through itself says nothing about the leader.
            let own = paused_us.saturating_sub(paused_then);
            let silence = Duration::from_micros(now_us.saturating_sub(heard_us).saturating_sub(own));
            if silence <= self.bears().max(self.longest) {
                self.silences.note(silence);
            }
        }
    }

    /// For how long the keeper is overdue.
    fn overdue_us(&self, now_us: u64) -> u64 {
        now_us.saturating_sub(self.ticked_us.load(Relaxed)).saturating_sub(micros(TICK))
    }

    fn tick(&self, now: Instant) {
        let now_us = self.at_us(now);
        self.paused_us.fetch_add(self.overdue_us(now_us), Relaxed);
        self.ticked_us.store(now_us, Relaxed);
    }

    fn next_span(&self) {
        for longest in [&self.silences, &self.syncs, &self.answers.0] {
            longest.next_span();
        }
    }

    fn adapted(&self, time: Duration) -> Duration {
        (time * MARGIN).min(self.ceiling).mul_f64(self.share)
    }

    /// Silence of the leader after which this node campaigns, at the earliest.
    fn bears(&self) -> Duration {
        self.adapted(self.silences.get()).max(self.floor)
    }

    /// Whether nothing that was measured speaks against a campaign. `campaigned`: when this node did so last.
    fn allows(&self, campaigned: Option<Instant>, now: Instant) -> bool {
        let heard_us = self.heard_us.load(Relaxed);
        let silence = Duration::from_micros(self.at_us(now).saturating_sub(heard_us));
        let bears = self.bears();
        let has_borne = heard_us == 0 || bears <= self.floor || silence >= bears;
        let takes = self.adapted(self.syncs.get() + self.answers.0.get());
        has_borne && campaigned.is_none_or(|at| now.saturating_duration_since(at) >= takes)
    }
}

impl Group {
    /// Silence of the leader after which this node campaigns, at the earliest: the configured time, or more where
    /// leaders came back from longer silences.
    #[must_use]
    pub fn election_timeout(&self) -> Duration {
        self.core.election_timeout.bears()
    }
}

/// Allows openraft to campaign, or not, until the node stops.
pub(super) async fn keep(core: Arc<Core>) {
    let measured = &core.election_timeout;
    let (mut is_allowed, mut campaign, mut before) = (true, None, core.log.stats());
    let mut span_ends = clock::monotonic() + SPAN;
    loop {
        sleep(TICK).await;
        let now = clock::monotonic();
        measured.tick(now);
        let stats = core.log.stats();
        measured.syncs.note(slowest_sync(&before, &stats));
        before = stats;
        if now >= span_ends {
            measured.next_span();
            span_ends = now + SPAN;
        }
        let vote = core.log.vote().filter(|vote| vote.node == core.local.node_id);
        campaign = vote.map(|vote| match campaign {
            Some((term, at)) if term == vote.term => (term, at),
            _ => (vote.term, now),
        });
        // Whoever is alone waits for nobody.
        let is_alone = core.members.load().voters().len() <= 1;
        let allows = is_alone || measured.allows(campaign.map(|(_, at)| at), now);
        if allows != is_allowed {
            is_allowed = allows;
            core.raft.runtime_config().elect(allows);
        }
    }
}

/// Upper bound of the slowest sync in between; what is above all bounds counts as the highest of them.
fn slowest_sync(before: &LogStats, now: &LogStats) -> Duration {
    let grown = before.sync_buckets.iter().zip(&now.sync_buckets).rposition(|(before, now)| now > before);
    let bound = grown.and_then(|at| BOUNDS_US.get(at).or(BOUNDS_US.last()));
    Duration::from_micros(bound.copied().unwrap_or(0))
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const FLOOR: Duration = Duration::from_millis(550);
    const CEILING: Duration = Duration::from_millis(1050);

    struct Play {
        timeout: ElectionTimeout,
        now: Instant,
    }

    impl Play {
        fn begin() -> Self {
            let timeout = ElectionTimeout::new(&Timing::default(), 7, Arc::default());
            assert_eq!((timeout.floor, timeout.ceiling), (FLOOR, CEILING));
            let now = timeout.since;
            Self { timeout, now }
        }

        /// Time passes, and the keeper looks as it should.
        fn pass(&mut self, ms: u64) {
            for _ in 0..ms / 50 {
                self.now += TICK;
                self.timeout.tick(self.now);
            }
            self.now += Duration::from_millis(ms % 50);
        }

        fn heard(&self, term: u64) {
            self.timeout.heard(term, self.now);
        }

        fn allows(&self) -> bool {
            self.timeout.allows(None, self.now)
        }
    }

    #[test]
    fn a_quiet_cluster_keeps_the_configured_timeout() {
        let mut play = Play::begin();
        assert!(play.allows(), "before any leader is known");
        for _ in 0..100 {
            play.pass(60);
            play.heard(3);
        }
        assert_eq!(play.timeout.bears(), FLOOR);
        assert!(play.allows(), "when to campaign is for the library to say");
    }

    #[test]
    fn a_silence_that_a_leader_came_back_from_is_borne_twice_as_long_and_forgotten() {
        let mut play = Play::begin();
        play.heard(3);
        play.pass(500);
        play.heard(3);
        let bears = play.timeout.bears();
        assert!(
            bears >= Duration::from_secs(1).mul_f64(SHARED) && bears <= Duration::from_secs(1),
            "{bears:?}"
        );
        play.pass(600);
        assert!(!play.allows());
        play.pass(400);
        assert!(play.allows());
        play.timeout.next_span();
        assert_eq!(play.timeout.bears(), bears);
        play.timeout.next_span();
        assert_eq!(play.timeout.bears(), FLOOR);
    }

    #[test]
    fn no_silence_is_borne_longer_than_the_ceiling() {
        let mut play = Play::begin();
        for _ in 0..5 {
            play.heard(3);
            play.pass(700);
        }
        let bears = play.timeout.bears();
        assert!(bears >= CEILING.mul_f64(SHARED) && bears <= CEILING, "{bears:?}");
    }

    #[test]
    fn another_leader_and_a_cut_link_and_a_pause_of_our_own_teach_nothing() {
        let mut play = Play::begin();
        play.heard(3);
        play.pass(2500);
        play.heard(3);
        assert_eq!(play.timeout.bears(), FLOOR, "others heard it all the time");
        play.pass(900);
        play.heard(4);
        assert_eq!(play.timeout.bears(), FLOOR, "the silence before an election");
        // Stopped as a whole: the append may be taken before the keeper looks, or after.
        play.now += Duration::from_secs(5);
        play.heard(4);
        assert_eq!(play.timeout.bears(), FLOOR);
        play.pass(50);
        play.heard(4);
        play.now += Duration::from_secs(5);
        play.pass(100);
        play.heard(4);
        assert_eq!(play.timeout.bears(), FLOOR);
    }

    #[test]
    fn a_campaign_has_the_time_that_disks_and_peers_take() {
        let mut play = Play::begin();
        let campaigned = Some(play.now);
        let syncs = |slow| {
            let mut stats = LogStats::default();
            for ms in [1, slow] {
                let bucket = BOUNDS_US.partition_point(|bound| *bound < ms * 1000);
                stats.sync_buckets[bucket] += 1;
            }
            stats
        };
        assert_eq!(slowest_sync(&syncs(1), &syncs(1)), Duration::ZERO);
        let slow = slowest_sync(&LogStats::default(), &syncs(240));
        assert_eq!(slow, Duration::from_millis(250));
        play.timeout.syncs.note(slow);
        play.timeout.answers.note(Duration::from_millis(100));
        play.pass(500);
        assert!(!play.timeout.allows(campaigned, play.now));
        play.pass(200);
        assert!(play.timeout.allows(campaigned, play.now));
        // An hour of syncs is no reason to wait for longer than the ceiling.
        let hour = LogStats { sync_buckets: [1; BOUNDS_US.len() + 1], ..LogStats::default() };
        play.timeout.syncs.note(slowest_sync(&LogStats::default(), &hour));
        play.pass(400);
        assert!(play.timeout.allows(campaigned, play.now));
    }
}
