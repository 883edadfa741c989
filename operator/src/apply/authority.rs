//! The authority of a Managed cluster, and how another one takes its place while everything is in use. The decision is pure.
//!
//! ```text
//! kvnode.dev/rotate of <name>-ca   signs   trusted      next state when
//! (none)                           a       a            two thirds of its life are over
//! begin                            a       a b          at once; or by a person
//! spreading <time>                 a       a b          every pod lets a certificate in that b signed
//! trusted <time>                   a       a b          clients have had a day to read ca.crt; or a person says move
//! move                             a       a b          every pod does still
//! moving <time>                    b       b a          every pod shows one that b signed, and a day has gone by
//! finish                           b       b            by a person; as soon as every pod shows it
//! ```
//!
//! What is trusted is `ca.crt` of the pods' Secret and of every Secret of a user. Nobody is asked to trust what they have
//! not read: pods prove it in a handshake, clients get a day. `finish` before `move` takes the new one back. Where `a` was
//! deleted there is nothing to sign with meanwhile: `moving` is the first state, and pods show what `a` had signed until each
//! lets in what `b` signs.

use jiff::{SignedDuration, Timestamp};

use super::rotation::Spread;
use crate::pki::{self, Chain, Pair};

/// Clients have read what they are told by then: applications that read their files once a day.
const OVERLAP: SignedDuration = SignedDuration::from_hours(24);
/// A pod that has been silent for so long reads the newest files when it comes back.
const SILENT: SignedDuration = SignedDuration::from_mins(3);

/// What a turn is decided by.
#[derive(Clone, Copy, Debug)]
pub(super) struct Moment {
    pub(super) time: Timestamp,
    /// Which pods let a certificate of `next` in.
    pub(super) accepted: Spread,
    /// Which pods show the certificate that `current` signed.
    pub(super) served: Spread,
}

/// The next state; `None` while there is nothing to do.
pub(super) fn next<E>(
    word: Option<&str>,
    chain: &Chain,
    moment: Moment,
    fresh: impl FnOnce() -> Result<Pair, E>,
) -> Result<Option<(Chain, Option<String>)>, E> {
    let (word, at) = word.map(|word| word.split_once(' ').unwrap_or((word, ""))).unzip();
    let at: Option<Timestamp> = at.and_then(|at| at.parse().ok());
    let over = |limit: SignedDuration| at.is_some_and(|at| moment.time.duration_since(at) >= limit);
    let accepted = match moment.accepted {
        Spread::Everywhere => true,
        Spread::Behind => false,
        Spread::Untold => word == Some("spreading") && over(SILENT),
    };
    // One that does not answer may live on among its peers, and show them the old one.
    let served = match moment.served {
        Spread::Everywhere => true,
        Spread::Behind => false,
        Spread::Untold => word == Some("moving") && over(OVERLAP),
    };
    let now = |word: &str| Some(format!("{word} {}", moment.time));
    let has_next = chain.next.is_some();
    let turned = match word {
        Some("begin") => begun(chain, served, fresh)?.map(|chain| (chain, now("spreading"))),
        None if pki::is_due(&chain.current.cert, moment.time) => {
            begun(chain, served, fresh)?.map(|chain| (chain, now("spreading")))
        }
        // Typed by hand where it means nothing.
        Some("spreading" | "trusted" | "move") if !has_next => Some((chain.clone(), None)),
        Some("move" | "moving") if has_next => accepted.then(|| (moved(chain), now("moving"))),
        Some("spreading" | "trusted" | "moving") if at.is_none() => {
            Some((chain.clone(), now(word.unwrap_or_default())))
        }
        Some("spreading") if accepted => Some((chain.clone(), now("trusted"))),
        Some("trusted") if over(OVERLAP) && accepted => Some((moved(chain), now("moving"))),
        Some("moving") if over(OVERLAP) && served => Some((alone(chain), None)),
        Some("finish") if has_next || served => Some((alone(chain), None)),
        _ => None,
    };
    Ok(turned)
}

/// With a next one; the one that there is already is kept. `None` while a pod may still show a certificate of the one before.
fn begun<E>(
    chain: &Chain,
    served: bool,
    fresh: impl FnOnce() -> Result<Pair, E>,
) -> Result<Option<Chain>, E> {
    if chain.next.is_some() {
        return Ok(Some(chain.clone()));
    }
    if chain.previous.is_some() && !served {
        return Ok(None);
    }
    Ok(Some(Chain { next: Some(fresh()?), previous: None, ..chain.clone() }))
}

/// Whether pods are shown a certificate of the authority that signs now, while one before it is trusted still: as soon as
/// all of them let one in.
pub(super) fn signs(word: Option<&str>, accepted: Spread, now: Timestamp) -> bool {
    let since = word.and_then(|word| word.strip_prefix("moving ")?.parse::<Timestamp>().ok());
    match accepted {
        Spread::Everywhere => true,
        Spread::Behind => false,
        // Without a time nobody knows how long a pod has been silent: it is waited for.
        Spread::Untold => since.is_some_and(|since| now.duration_since(since) >= SILENT),
    }
}

fn moved(chain: &Chain) -> Chain {
    match &chain.next {
        Some(next) => Chain { current: next.clone(), next: None, previous: Some(chain.current.cert.clone()) },
        None => chain.clone(),
    }
}

fn alone(chain: &Chain) -> Chain {
    Chain { current: chain.current.clone(), next: None, previous: None }
}

/// What a person reads of a turn.
pub(super) fn told(secret: &str, word: Option<&str>) -> String {
    let say = |word: &str| {
        format!("kubectl annotate secret {secret} {}={word} --overwrite", crate::build::labels::ROTATE)
    };
    let state = word.map(|word| word.split_once(' ').map_or(word, |(word, _)| word));
    match state {
        Some("spreading") => format!(
            "The cluster gets another authority (Secret {secret}); pods and clients are told to trust it beside the old one."
        ),
        Some("trusted") => format!(
            "Every pod trusts the new authority. It signs in a day, when clients have read ca.crt of their Secret, or by: {}",
            say("move")
        ),
        Some("moving") => format!(
            "The new authority signs. The old one is trusted until every pod shows a new certificate and a day has gone by, or by: {}",
            say("finish")
        ),
        _ => format!("One authority is trusted, that of Secret {secret}."),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::name::ClusterName;

    fn pair(name: &str) -> Pair {
        Pair { cert: format!("{name}\n"), key: format!("key of {name}") }
    }

    fn chain() -> Chain {
        let cluster = ClusterName { namespace: "shop".into(), name: "cart".into() };
        let current = pki::authority(&cluster, Timestamp::UNIX_EPOCH).unwrap();
        Chain { current, next: None, previous: None }
    }

    fn at(hours: i64, accepted: Spread, served: bool) -> Moment {
        let served = if served { Spread::Everywhere } else { Spread::Behind };
        Moment { time: Timestamp::UNIX_EPOCH + SignedDuration::from_hours(hours), accepted, served }
    }

    fn take(word: Option<&str>, chain: &Chain, moment: Moment) -> Option<(Chain, Option<String>)> {
        next(word, chain, moment, || Ok::<_, ()>(pair("b"))).unwrap()
    }

    #[test]
    fn nobody_is_asked_to_trust_what_they_have_not_read() {
        let a = chain();
        let (both, word) = take(Some("begin"), &a, at(0, Spread::Everywhere, true)).unwrap();
        assert_eq!(both.trusted(), format!("{}b\n", a.current.cert));
        assert_eq!(both.current, a.current, "the old one signs");
        assert!(
            take(word.as_deref(), &both, at(99, Spread::Behind, true)).is_none(),
            "a pod does not trust it"
        );
        let (same, word) = take(word.as_deref(), &both, at(1, Spread::Everywhere, true)).unwrap();
        assert_eq!(same, both);
        assert!(
            take(word.as_deref(), &both, at(24, Spread::Everywhere, true)).is_none(),
            "clients have a day"
        );
        assert!(
            take(word.as_deref(), &both, at(25, Spread::Behind, true)).is_none(),
            "a pod is new, and behind"
        );
        assert!(
            take(Some("move"), &both, at(2, Spread::Behind, true)).is_none(),
            "a person cannot overrule that"
        );
        let (moved, word) = take(word.as_deref(), &both, at(25, Spread::Everywhere, true)).unwrap();
        assert_eq!(moved, take(Some("move"), &both, at(2, Spread::Everywhere, true)).unwrap().0);
        assert_eq!(moved.current, pair("b"));
        assert_eq!(moved.trusted(), format!("b\n{}", a.current.cert));
        assert!(
            take(word.as_deref(), &moved, at(99, Spread::Everywhere, false)).is_none(),
            "a pod shows the old one"
        );
        assert!(take(Some("finish"), &moved, at(26, Spread::Everywhere, false)).is_none());
        // One does not answer, and may show the old one to the others: only a day of silence counts.
        let untold = |hours| Moment { served: Spread::Untold, ..at(hours, Spread::Everywhere, true) };
        assert!(take(Some("finish"), &moved, untold(99)).is_none());
        assert!(take(word.as_deref(), &moved, untold(48)).is_none());
        assert!(take(word.as_deref(), &moved, untold(49)).is_some());
        let (done, word) = take(word.as_deref(), &moved, at(49, Spread::Everywhere, true)).unwrap();
        assert_eq!((done.trusted().as_str(), word), ("b\n", None));
        assert_eq!(take(Some("finish"), &moved, at(26, Spread::Everywhere, true)).unwrap().0, done);
        // Taken back before it signed anything.
        assert_eq!(take(Some("finish"), &both, at(1, Spread::Behind, false)).unwrap().0, a);
    }

    #[test]
    fn what_the_authority_signs_is_shown_when_every_pod_lets_it_in() {
        let at = |minutes: i64| Timestamp::UNIX_EPOCH + SignedDuration::from_mins(minutes);
        let signs = |spread, minutes| signs(Some("moving 1970-01-01T00:00:00Z"), spread, at(minutes));
        assert!(signs(Spread::Everywhere, 0));
        assert!(!signs(Spread::Behind, 99));
        assert!(!signs(Spread::Untold, 2) && signs(Spread::Untold, 3));
        assert!(!super::signs(None, Spread::Untold, at(99)));
    }

    #[test]
    fn an_old_authority_gets_its_successor_without_a_person() {
        let a = chain();
        let years = |years: i64| at(years * 365 * 24, Spread::Everywhere, true);
        assert!(take(None, &a, years(6)).is_none());
        let (both, word) = take(None, &a, years(7)).unwrap();
        assert!(both.next.is_some() && word.unwrap().starts_with("spreading "));
    }

    #[test]
    fn words_that_mean_nothing_do_nothing() {
        let a = chain();
        for word in ["spreading", "trusted 1970-01-01T00:00:00Z", "move"] {
            let (same, word) = take(Some(word), &a, at(99, Spread::Everywhere, true)).unwrap();
            assert_eq!((same, word), (a.clone(), None));
        }
        let (both, _) = take(Some("begin"), &a, at(0, Spread::Behind, true)).unwrap();
        let (again, _) = take(Some("begin"), &both, at(0, Spread::Behind, true)).unwrap();
        assert_eq!(again, both, "said again it makes no third one");
        let (moved, _) = take(Some("move"), &both, at(0, Spread::Everywhere, true)).unwrap();
        assert!(
            take(Some("begin"), &moved, at(1, Spread::Everywhere, false)).is_none(),
            "a pod shows the old one"
        );
        assert_eq!(take(Some("begin"), &moved, at(1, Spread::Everywhere, true)).unwrap().0.previous, None);
        let (same, word) = take(Some("spreading soon"), &both, at(5, Spread::Everywhere, true)).unwrap();
        assert_eq!((same, word.as_deref()), (both, Some("spreading 1970-01-01T05:00:00Z")));
        assert!(take(Some("perhaps"), &a, at(0, Spread::Everywhere, true)).is_none());
    }
}
