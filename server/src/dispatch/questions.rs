//! What a node asks the other members: what only their memory has. Their scripts, and who listens there.
//!
//! ```text
//! PUBSUB NUMSUB a -> Question::Subscribers -> words -> Replica::ask -> every other member: Dispatcher::answer_member -> words
//! ```
//!
//! Invariant: an answer is help, never a promise. A member that cannot be reached gives none, and no data depends on one.

use bytes::Bytes;

use super::Dispatcher;
use super::replica::Replica;
use crate::command::pubsub::Kind;

/// Bytes of one answer, about: what is beyond is left out.
const ANSWER_BYTES_MAX: usize = 16 << 20;

/// A question, as words in the peer protocol: the name, and what belongs to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Question {
    /// The texts of the scripts with these SHA-1 in hex, of those that are known.
    Scripts(Vec<Bytes>),
    /// Remember a script.
    Remember(Bytes),
    /// Forget all scripts.
    Forget,
    /// Names of a kind that are listened to, which fit the glob.
    Names(Kind, Option<Bytes>),
    /// How many listen to each of the names.
    Subscribers(Kind, Vec<Bytes>),
}

const SCRIPTS: &[u8] = b"scripts";
const REMEMBER: &[u8] = b"remember";
const FORGET: &[u8] = b"forget";
const NAMES: &[u8] = b"names";
const SUBSCRIBERS: &[u8] = b"subscribers";

fn kind_word(kind: Kind) -> Bytes {
    Bytes::from_static(match kind {
        Kind::Channel => b"channel",
        Kind::Pattern => b"pattern",
        Kind::Shard => b"shard",
    })
}

fn kind_of(word: &[u8]) -> Option<Kind> {
    Kind::ALL.into_iter().find(|kind| kind_word(*kind) == word)
}

impl Question {
    pub(super) fn words(&self) -> Vec<Bytes> {
        let listed = |name: &'static [u8], rest: &[Bytes]| {
            std::iter::once(Bytes::from_static(name)).chain(rest.iter().cloned()).collect()
        };
        match self {
            Self::Scripts(shas) => listed(SCRIPTS, shas),
            Self::Remember(text) => listed(REMEMBER, std::slice::from_ref(text)),
            Self::Forget => listed(FORGET, &[]),
            Self::Names(kind, glob) => {
                let words: Vec<Bytes> = std::iter::once(kind_word(*kind)).chain(glob.clone()).collect();
                listed(NAMES, &words)
            }
            Self::Subscribers(kind, names) => {
                let words: Vec<Bytes> =
                    std::iter::once(kind_word(*kind)).chain(names.iter().cloned()).collect();
                listed(SUBSCRIBERS, &words)
            }
        }
    }

    /// `None` of one that this version does not know.
    fn read(words: &[Bytes]) -> Option<Self> {
        let (name, rest) = words.split_first()?;
        match (&name[..], rest) {
            (SCRIPTS, shas) => Some(Self::Scripts(shas.to_vec())),
            (REMEMBER, [text]) => Some(Self::Remember(text.clone())),
            (FORGET, []) => Some(Self::Forget),
            (NAMES, [kind]) => Some(Self::Names(kind_of(kind)?, None)),
            (NAMES, [kind, glob]) => Some(Self::Names(kind_of(kind)?, Some(glob.clone()))),
            (SUBSCRIBERS, [kind, names @ ..]) => Some(Self::Subscribers(kind_of(kind)?, names.to_vec())),
            _ => None,
        }
    }
}

/// Of many words so many from the front that they are about [`ANSWER_BYTES_MAX`].
fn bounded(words: impl Iterator<Item = Bytes>) -> Vec<Bytes> {
    let mut left = ANSWER_BYTES_MAX;
    words
        .take_while(|word| {
            let fits = left > 0;
            left = left.saturating_sub(word.len() + 4);
            fits
        })
        .collect()
}

impl<R: Replica> Dispatcher<R> {
    /// Answers another member, in words; nothing to a question that this version does not know.
    #[must_use]
    pub fn answer_member(&self, question: &[Bytes]) -> Vec<Bytes> {
        match Question::read(question) {
            None => Vec::new(),
            Some(Question::Scripts(shas)) => bounded(shas.iter().filter_map(|sha| self.scripts.text(sha))),
            Some(Question::Remember(text)) => {
                self.scripts.load(&text);
                Vec::new()
            }
            Some(Question::Forget) => {
                self.scripts.forget();
                Vec::new()
            }
            Some(Question::Names(kind, pattern)) => {
                bounded(self.registry.names_like(kind, pattern.as_deref()).into_iter())
            }
            Some(Question::Subscribers(kind, names)) => {
                let count = |name: &Bytes| Bytes::from(self.registry.listening(kind, name).to_string());
                names.iter().map(count).collect()
            }
        }
    }

    /// The answers of the members that can be reached.
    pub(super) async fn ask_members(&self, question: &Question) -> Vec<Vec<Bytes>> {
        self.parts.group.ask(&question.words()).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn questions_survive_the_round_trip() {
        let word = Bytes::from_static(b"w");
        for question in [
            Question::Scripts(vec![word.clone(), word.clone()]),
            Question::Remember(word.clone()),
            Question::Forget,
            Question::Names(Kind::Shard, None),
            Question::Names(Kind::Pattern, Some(word.clone())),
            Question::Subscribers(Kind::Channel, vec![word.clone()]),
        ] {
            assert_eq!(Question::read(&question.words()), Some(question));
        }
        assert_eq!(Question::read(&[]), None);
        assert_eq!(Question::read(&[word]), None);
    }

    #[test]
    fn a_long_answer_is_cut() {
        let long = Bytes::from(vec![0; ANSWER_BYTES_MAX / 2]);
        assert_eq!(bounded(std::iter::repeat_n(long, 5)).len(), 2);
    }
}
