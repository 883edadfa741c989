//! The keys of a run. Clients work on a few of each class at a time; one that has had enough operations makes room for
//! a new one, so that the judgement of each stays cheap however long the run is. Old keys are still read now and then,
//! and all of them at the end.
//!
//! Where a power cut may take acknowledged writes, a new epoch begins: nobody touches the keys of the one before any
//! more.

use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};

use rand::rngs::StdRng;
use rand::{Rng, RngExt};

/// Operations after which a key makes room. The judge's memory grows with the square of it.
const OPERATIONS: u32 = 1200;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Class {
    /// SET of values that nobody else writes, DEL, GET.
    Register,
    /// Two keys, written by MSET or MULTI and read by MGET: always equal.
    Pair,
    /// INCR, GET.
    Counter,
    /// SET IFEQ or NX, WATCH with MULTI and EXEC, GET.
    Swapped,
    /// SET NX PX, DELIFEQ or a script.
    Lock,
}

/// How many of each there are at a time.
const SLOTS: [(Class, usize); 5] =
    [(Class::Register, 8), (Class::Pair, 3), (Class::Counter, 3), (Class::Swapped, 5), (Class::Lock, 24)];

impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Class::Register => "r",
            Class::Pair => "p",
            Class::Counter => "c",
            Class::Swapped => "x",
            Class::Lock => "l",
        })
    }
}

#[derive(Clone, Debug)]
pub(crate) struct Key {
    pub(crate) class: Class,
    pub(crate) name: String,
    pub(crate) epoch: usize,
}

#[derive(Default)]
struct Inner {
    all: Vec<Key>,
    /// By class: the keys in use, each with its operations so far.
    slots: Vec<Vec<(u32, u32)>>,
    epoch: usize,
    /// First key of the epoch.
    first: usize,
}

pub(crate) struct Keys(Mutex<Inner>);

impl Default for Keys {
    fn default() -> Self {
        let keys = Self(Mutex::default());
        keys.lock().renew();
        keys
    }
}

impl Inner {
    fn add(&mut self, class: Class) -> u32 {
        let number = self.all.len();
        self.all.push(Key { class, name: format!("{class}{number}"), epoch: self.epoch });
        u32::try_from(number).unwrap_or(u32::MAX)
    }

    fn renew(&mut self) {
        self.first = self.all.len();
        self.slots =
            SLOTS.iter().map(|(class, count)| (0..*count).map(|_| (self.add(*class), 0)).collect()).collect();
    }
}

impl Keys {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A key of this class for one operation: its index and its name.
    pub(crate) fn draw(&self, class: Class, random: &mut impl Rng) -> (u32, String) {
        let mut inner = self.lock();
        let class_index = SLOTS.iter().position(|(known, _)| *known == class).unwrap_or(0);
        let slot = random.random_range(0..SLOTS[class_index].1);
        let (mut key, count) = inner.slots[class_index][slot];
        let is_worn = count >= OPERATIONS;
        if is_worn {
            key = inner.add(class);
        }
        inner.slots[class_index][slot] = (key, if is_worn { 1 } else { count + 1 });
        (key, inner.all[key as usize].name.clone())
    }

    /// Any key of this epoch, to be read.
    pub(crate) fn revisit(&self, random: &mut StdRng) -> (u32, Key) {
        let inner = self.lock();
        let index = random.random_range(inner.first..inner.all.len());
        (u32::try_from(index).unwrap_or(u32::MAX), inner.all[index].clone())
    }

    /// A new epoch: all keys in use are new ones.
    pub(crate) fn begin_epoch(&self) {
        let mut inner = self.lock();
        inner.epoch += 1;
        inner.renew();
    }

    pub(crate) fn all(&self) -> Vec<Key> {
        self.lock().all.clone()
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;

    use super::*;

    #[test]
    fn a_worn_key_makes_room_and_an_epoch_renews_all() {
        let keys = Keys::default();
        let mut random = StdRng::seed_from_u64(1);
        let before = keys.all().len();
        for _ in 0..OPERATIONS * 20 {
            let (_, name) = keys.draw(Class::Counter, &mut random);
            assert!(name.starts_with('c'));
        }
        let after = keys.all().len();
        assert!((before + 10..before + 25).contains(&after), "{before} {after}");
        keys.begin_epoch();
        let (key, _) = keys.draw(Class::Register, &mut random);
        assert!(key as usize >= after && keys.all()[key as usize].epoch == 1);
        assert!((0..100).all(|_| keys.revisit(&mut random).0 as usize >= after));
    }
}
