//! What the certificate of a cluster means to a reader: the condition `TlsValid`.

use jiff::{SignedDuration, Timestamp};

use super::conditions::{Truth, Verdict};
use crate::crd::reason::Reason;
use crate::observed::TlsSeen;

/// What is not renewed by then is not going to be: certificates of the operator are renewed a month before their end.
const WEEK: SignedDuration = SignedDuration::from_hours(7 * 24);

/// The verdict. Its text has times, not ages: an age would change the status with every look.
pub(super) fn valid(seen: &TlsSeen, now: Timestamp) -> Verdict {
    if let Some(fault) = &seen.fault {
        let message = format!("the pods cannot be talked to: {fault}. Correct or delete the Secret");
        return (Truth::No, Reason::CertificateUnusable, message);
    }
    let Some(end) = seen.not_after else {
        return (Truth::No, Reason::CertificateUnusable, "there is no certificate yet".to_owned());
    };
    if now >= end {
        let message = format!("the certificate has ended at {end}: clients refuse it. Renew it");
        return (Truth::No, Reason::ExpiringSoon, message);
    }
    let life = seen.not_before.map_or(WEEK, |begin| end.duration_since(begin));
    if end.duration_since(now) < WEEK.min(life / 5) {
        let message = format!("the certificate ends at {end}, and nobody has renewed it");
        return (Truth::No, Reason::ExpiringSoon, message);
    }
    if seen.running == 0 {
        return (Truth::Unknown, Reason::NotServedYet, "no pod runs that could show it".to_owned());
    }
    if seen.served < seen.running {
        let message = format!(
            "{} of {} pods show the certificate of the Secret; a new one takes up to two minutes to reach them",
            seen.served, seen.running
        );
        return (Truth::No, Reason::NotServedYet, message);
    }
    (Truth::Yes, Reason::Served, format!("every pod shows the certificate; it ends at {end}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_verdict_follows_time_and_handshakes() {
        let at = |days: i64| Timestamp::UNIX_EPOCH + SignedDuration::from_hours(24 * days);
        let seen = TlsSeen {
            not_before: Some(at(0)),
            not_after: Some(at(90)),
            served: 3,
            running: 3,
            pods: 3,
            fault: None,
        };
        let of = |seen: &TlsSeen, day| {
            let (truth, reason, _) = valid(seen, at(day));
            (truth, reason)
        };
        assert_eq!(of(&seen, 59), (Truth::Yes, Reason::Served));
        assert_eq!(of(&seen, 82), (Truth::Yes, Reason::Served));
        assert_eq!(of(&seen, 84), (Truth::No, Reason::ExpiringSoon));
        assert_eq!(of(&seen, 90), (Truth::No, Reason::ExpiringSoon));
        // One that lives for ten days is meant to.
        let short = TlsSeen { not_before: Some(at(80)), ..seen.clone() };
        assert_eq!(of(&short, 84), (Truth::Yes, Reason::Served));
        assert_eq!(of(&short, 89), (Truth::No, Reason::ExpiringSoon));
        let two = TlsSeen { served: 2, ..seen.clone() };
        assert_eq!(of(&two, 1), (Truth::No, Reason::NotServedYet));
        let none = TlsSeen { served: 0, running: 0, ..seen.clone() };
        assert_eq!(of(&none, 1), (Truth::Unknown, Reason::NotServedYet));
        let fault = TlsSeen { fault: Some("no Secret".into()), ..seen.clone() };
        assert_eq!(of(&fault, 1), (Truth::No, Reason::CertificateUnusable));
        assert_eq!(of(&TlsSeen::default(), 1), (Truth::No, Reason::CertificateUnusable));
        assert_eq!(valid(&seen, at(1)), valid(&seen, at(2)), "nothing is written while nothing changes");
    }
}
