//! Random lives of a log against a model that is a vector, over kills, power cuts and clean restarts.

use proptest::prelude::*;
use proptest::sample::Index;

use super::*;

#[derive(Clone, Debug)]
enum Act {
    Append { count: u64, bytes: usize, new_term: bool },
    Truncate(Index),
    Purge(Index),
    PurgeBeyond(u64),
    Vote,
    Commit(Index),
    Sync,
    Read { from: Index, bytes_max: u64 },
    Close,
    Kill,
    PowerCut(u64),
}

fn acts() -> impl Strategy<Value = Act> {
    prop_oneof![
        12 => (1..6_u64, 0..900_usize, prop::bool::weighted(0.2))
            .prop_map(|(count, bytes, new_term)| Act::Append { count, bytes, new_term }),
        2 => any::<Index>().prop_map(Act::Truncate),
        2 => any::<Index>().prop_map(Act::Purge),
        1 => (1..20_u64).prop_map(Act::PurgeBeyond),
        2 => Just(Act::Vote),
        2 => any::<Index>().prop_map(Act::Commit),
        1 => Just(Act::Sync),
        3 => (any::<Index>(), 0..4000_u64).prop_map(|(from, bytes_max)| Act::Read { from, bytes_max }),
        1 => Just(Act::Close),
        1 => Just(Act::Kill),
        1 => any::<u64>().prop_map(Act::PowerCut),
    ]
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Model {
    vote: Option<Vote>,
    purged: Option<LogId>,
    entries: Vec<LogEntry>,
}

impl Model {
    fn first(&self) -> u64 {
        self.purged.map_or(0, |id| id.index + 1)
    }

    fn last(&self) -> Option<LogId> {
        self.entries.last().map(|entry| entry.id).or(self.purged)
    }

    fn next(&self) -> u64 {
        self.last().map_or(0, |id| id.index + 1)
    }

    fn of(log: &RaftLog) -> Self {
        let bounds = log.bounds();
        let model = Self { vote: bounds.vote, purged: bounds.purged, entries: content(log) };
        assert_eq!(bounds.last, model.last());
        model
    }
}

/// A log with all the states it went through since it was opened.
struct Life {
    disk: MemDisk,
    options: LogOptions,
    log: Option<Arc<RaftLog>>,
    term: u64,
    states: Vec<Model>,
    /// Answers still to come: state that is reached with it, and whether it is synced at every level.
    answers: Vec<(usize, bool, Answer)>,
    /// Oldest state that may be found after a kill, and after a power cut.
    written: usize,
    synced: usize,
}

impl Life {
    fn new(durability: Durability, cache_bytes: usize) -> Self {
        let disk = MemDisk::new();
        let options = LogOptions { cache_bytes, ..options(durability) };
        let (log, _) = open_with(&disk, &options);
        let states = vec![Model::of(&log)];
        Self { disk, options, log: Some(log), term: 1, states, answers: Vec::new(), written: 0, synced: 0 }
    }

    fn log(&self) -> Arc<RaftLog> {
        Arc::clone(self.log.as_ref().unwrap())
    }

    fn now(&self) -> Model {
        self.states.last().unwrap().clone()
    }

    fn reach(&mut self, model: Model, always_synced: bool, answer: Answer) {
        self.states.push(model);
        self.answers.push((self.states.len() - 1, always_synced, answer));
    }

    /// Notes the answers that have come so far.
    fn note_answers(&mut self) {
        let high = self.options.durability == Durability::High;
        let answers = std::mem::take(&mut self.answers);
        for (state, always_synced, answer) in answers {
            match answer.try_recv() {
                Ok(result) => {
                    result.unwrap();
                    self.written = self.written.max(state);
                    if high || always_synced {
                        self.synced = self.synced.max(state);
                    }
                }
                Err(_) => self.answers.push((state, always_synced, answer)),
            }
        }
    }

    fn all_synced(&mut self) {
        self.written = self.states.len() - 1;
        self.synced = self.written;
    }

    /// Opens what is left and checks that it is one of the states it may be in.
    fn reopen(&mut self, disk: MemDisk, oldest: usize, clean: bool) {
        let (log, recovered) = open_with(&disk, &self.options);
        let found = Model::of(&log);
        assert!(self.states[oldest..].contains(&found), "{found:?} is none of {:#?}", &self.states[oldest..]);
        assert!(!recovered.clean || clean);
        let known =
            |id: LogId| Some(id.index) <= found.purged.map(|id| id.index) || log.id_at(id.index) == Some(id);
        assert!(recovered.committed.is_none_or(known));
        assert_eq!(log.flushed(), found.last());
        self.answers.clear();
        self.states = vec![found];
        (self.written, self.synced) = (0, 0);
        (self.disk, self.log) = (disk, Some(log));
    }

    fn act(&mut self, act: &Act) {
        let log = self.log();
        let mut model = self.now();
        match *act {
            Act::Append { count, bytes, new_term } => {
                self.term += u64::from(new_term);
                let payload = |index: u64| Bytes::from(vec![u8::try_from(index % 256).unwrap(); bytes]);
                let new: Vec<_> = (model.next()..model.next() + count)
                    .map(|index| LogEntry { id: id(self.term, index), bytes: payload(index) })
                    .collect();
                let answer = append(&log, new.clone());
                // A batch may end between two entries of one append.
                for entry in new {
                    model.entries.push(entry);
                    self.states.push(model.clone());
                }
                self.reach(model, false, answer);
            }
            Act::Truncate(at) => {
                let keep = at.index(model.entries.len() + 1);
                model.entries.truncate(keep);
                let answer = truncate(&log, model.last());
                self.term += 1;
                self.reach(model, true, answer);
            }
            Act::Purge(_) | Act::Commit(_) if model.entries.is_empty() => {}
            Act::Purge(at) => {
                let drop = at.index(model.entries.len());
                let upto = model.entries[drop].id;
                model.entries.drain(..=drop);
                self.purge(&log, model, upto);
            }
            Act::PurgeBeyond(distance) => {
                self.term += 1;
                let upto = id(self.term, model.next() + distance);
                model.entries.clear();
                self.purge(&log, model, upto);
            }
            Act::Vote => {
                self.term += 1;
                model.vote = Some(vote(self.term));
                let answer = save_vote(&log, vote(self.term));
                self.reach(model, true, answer);
            }
            Act::Commit(at) => {
                // Committed entries are never truncated; the truncations here ignore that, and recovery must cope.
                log.save_committed(model.entries[at.index(model.entries.len())].id);
            }
            Act::Sync => {
                log.sync().unwrap();
                self.all_synced();
            }
            Act::Read { from, bytes_max } => read(&log, &model, from, bytes_max),
            Act::Close => {
                log.close().unwrap();
                self.all_synced();
                let (disk, last) = (self.disk.clone(), self.written);
                self.reopen(disk, last, true);
            }
            Act::Kill | Act::PowerCut(_) => {
                self.log = None;
                drop(log);
                self.crash(act);
            }
        }
    }

    fn purge(&mut self, log: &RaftLog, mut model: Model, upto: LogId) {
        log.purge(upto).unwrap();
        model.purged = Some(upto);
        self.states.push(model);
        self.all_synced();
    }

    fn crash(&mut self, act: &Act) {
        match act {
            Act::PowerCut(seed) => {
                let mut state = seed | 1;
                let disk = self.disk.after_power_cut(|| {
                    state =
                        state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                    state >> 63 == 1
                });
                self.reopen(disk, self.synced, false);
            }
            _ => self.reopen(self.disk.after_kill(), self.written, false),
        }
    }
}

/// Reads at a random place.
fn read(log: &RaftLog, model: &Model, from: Index, bytes_max: u64) {
    let first = model.first();
    let at = from.index(model.entries.len() + 1);
    let found = log.read(first + at as u64, u64::MAX, bytes_max).unwrap();
    let mut bytes = 0;
    let expected = model.entries[at..].iter().enumerate().take_while(|(nth, entry)| {
        bytes += entry.bytes.len() as u64;
        *nth == 0 || bytes <= bytes_max
    });
    assert_eq!(found, expected.map(|(_, entry)| entry.clone()).collect::<Vec<_>>());
    assert_eq!((log.bounds().purged, log.bounds().last), (model.purged, model.last()));
    for entry in &model.entries {
        assert_eq!(log.id_at(entry.id.index), Some(entry.id));
    }
}

fn durability() -> impl Strategy<Value = Durability> {
    prop_oneof![Just(Durability::Low), Just(Durability::Medium), Just(Durability::High)]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_log_is_a_vector_that_survives(
        durability in durability(),
        cache_bytes in prop_oneof![Just(0), Just(2000), Just(1 << 20)],
        acts in prop::collection::vec(acts(), 1..80),
    ) {
        let mut life = Life::new(durability, cache_bytes);
        for act in acts {
            life.note_answers();
            life.act(&act);
        }
        life.act(&Act::Close);
    }
}
