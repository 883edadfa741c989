//! `status.doors`: which locks a cluster has in effect.
//!
//! A KvCluster without a word about `tls` and `auth` is locked since these are the defaults of the schema. Defaults are
//! put in when an object is read, so one that was stored before them looks as if its user had asked for locks. Its pods and
//! clients know nothing of that: it stays as it was, and here is remembered that it does.
//!
//! ```text
//! recorded    spec.auth says   pods have        in effect
//! KeptOpen    on               -                KeptOpen, until users or a password are named or the spec says off
//! (none)      on               no password      KeptOpen
//! (other)     on               -                Required
//! (other)     off              -                Open
//! ```
//!
//! TLS cannot be changed at all (a rule of the schema), so what is recorded of it holds for ever.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::tls::{TlsMode, TlsSpec};
use super::{KvCluster, KvClusterSpec};

/// The locks in effect.
#[derive(KubeSchema, Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Doors {
    /// Where certificates come from; Disabled where a cluster was made without them, whatever the spec says by default.
    pub tls: TlsMode,
    /// Whether clients need a password.
    pub auth: AuthDoor,
}

/// Whether clients need a password.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum AuthDoor {
    /// They do.
    Required,
    /// They do not: the spec says so.
    Open,
    /// They do not: the cluster is older than the default that says otherwise.
    KeptOpen,
}

/// What the pods of a cluster have that nothing is recorded of; `None` if there are none yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PodsHave {
    /// Certificates.
    pub tls: bool,
    /// Passwords.
    pub auth: bool,
}

impl Doors {
    /// What is in effect for a spec.
    #[must_use]
    pub fn of(spec: &KvClusterSpec, recorded: Option<Self>, pods: Option<PodsHave>) -> Self {
        let stays_open = match (recorded, pods) {
            (Some(recorded), _) => recorded.auth == AuthDoor::KeptOpen,
            (None, pods) => pods.is_some_and(|have| !have.auth),
        };
        let unasked = spec.auth.users.is_empty() && spec.auth.password_secret.is_none();
        let auth = match (spec.auth.enabled, stays_open && unasked) {
            (false, _) => AuthDoor::Open,
            (true, true) => AuthDoor::KeptOpen,
            (true, false) => AuthDoor::Required,
        };
        let was_made_without = match (recorded, pods) {
            (Some(recorded), _) => recorded.tls == TlsMode::Disabled,
            (None, pods) => pods.is_some_and(|have| !have.tls),
        };
        Self { tls: if was_made_without { TlsMode::Disabled } else { spec.tls.mode }, auth }
    }

    /// Makes the spec say what is in effect.
    pub fn open(self, spec: &mut KvClusterSpec) {
        if self.tls == TlsMode::Disabled {
            spec.tls = TlsSpec { mode: TlsMode::Disabled, ..TlsSpec::default() };
        }
        spec.auth.enabled = self.auth == AuthDoor::Required;
    }

    /// Whether a lock that the spec has by default is not in effect.
    #[must_use]
    pub fn kept_open(self, asked: TlsMode) -> bool {
        self.auth == AuthDoor::KeptOpen || (self.tls == TlsMode::Disabled && asked != TlsMode::Disabled)
    }
}

impl KvCluster {
    /// Where certificates come from, as recorded; as the spec says until something is.
    #[must_use]
    pub fn tls_mode(&self) -> TlsMode {
        let recorded = self.status.as_ref().and_then(|status| status.doors);
        if recorded.is_some_and(|doors| doors.tls == TlsMode::Disabled) {
            TlsMode::Disabled
        } else {
            self.spec.tls.mode
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn spec(spec: serde_json::Value) -> KvClusterSpec {
        serde_json::from_value(spec).unwrap()
    }

    #[test]
    fn a_new_cluster_is_locked_and_an_older_one_stays_as_its_pods_are() {
        let locked = Doors { tls: TlsMode::Managed, auth: AuthDoor::Required };
        let asked = spec(json!({}));
        assert_eq!(Doors::of(&asked, None, None), locked);
        assert_eq!(Doors::of(&asked, None, Some(PodsHave { tls: true, auth: true })), locked);
        let kept = Doors::of(&asked, None, Some(PodsHave { tls: false, auth: false }));
        assert_eq!(kept, Doors { tls: TlsMode::Disabled, auth: AuthDoor::KeptOpen });
        assert!(kept.kept_open(asked.tls.mode) && !locked.kept_open(asked.tls.mode));
        let mut effective = asked.clone();
        kept.open(&mut effective);
        assert_eq!(effective.tls.mode, TlsMode::Disabled);
        assert!(!effective.auth.enabled);
        // Asked for in so many words it is nothing that was kept.
        let open = spec(json!({ "tls": { "mode": "Disabled" }, "auth": { "enabled": false } }));
        let doors = Doors::of(&open, None, None);
        assert_eq!(doors, Doors { tls: TlsMode::Disabled, auth: AuthDoor::Open });
        assert!(!doors.kept_open(open.tls.mode));
    }

    #[test]
    fn an_open_door_is_locked_when_somebody_asks_for_it() {
        let asked = spec(json!({}));
        let kept = Doors { tls: TlsMode::Disabled, auth: AuthDoor::KeptOpen };
        let pods = Some(PodsHave { tls: false, auth: false });
        assert_eq!(Doors::of(&asked, Some(kept), pods), kept, "whatever else is edited");
        let off = Doors::of(&spec(json!({ "auth": { "enabled": false } })), Some(kept), pods);
        assert_eq!(off.auth, AuthDoor::Open);
        assert_eq!(Doors::of(&asked, Some(off), pods).auth, AuthDoor::Required);
        let users = spec(json!({ "auth": { "users": [{ "name": "app", "acl": "+@read" }] } }));
        assert_eq!(Doors::of(&users, Some(kept), pods).auth, AuthDoor::Required);
        let given = spec(json!({ "auth": { "passwordSecret": { "name": "given" } } }));
        assert_eq!(Doors::of(&given, Some(kept), pods).auth, AuthDoor::Required);
        // One that has locks, and whose pods are gone for the moment, keeps them.
        let locked = Doors { tls: TlsMode::Managed, auth: AuthDoor::Required };
        assert_eq!(Doors::of(&asked, Some(locked), pods), locked);
    }
}
