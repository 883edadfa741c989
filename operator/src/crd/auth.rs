//! `spec.auth`.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::bucket::SecretKey;

/// Whether clients need a password, and which users there are.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("self.enabled || !has(self.users) || self.users.size() == 0")
        .message("auth.users needs auth.enabled: without it everybody is the user default, without a password"),
    validation = Rule::new("self.enabled || !has(self.passwordSecret)")
        .message("auth.passwordSecret needs auth.enabled: without it nobody is asked for a password")
)]
pub struct AuthSpec {
    /// The operator makes a password once, in the Secret `<name>-auth` (servicebinding.io/redis: type, host, port, username,
    /// password, uri, ca.crt), and clients need it. Its key `passwords` is what the pods accept, one in each line; they
    /// read it again by themselves. To change the password without a failed login, set the Secret's annotation
    /// kvnode.dev/rotate to begin: a second password becomes valid, and once every pod has read it, the Secret hands it
    /// out; finish makes the first one invalid. False: everybody who reaches the client port is the user default, without a password. A cluster that
    /// was made before true was the default stays open until users or passwordSecret are named here, or this is set to false and then to
    /// true; see status.doors. Default: true.
    #[serde(default = "super::yes")]
    pub enabled: bool,
    /// Where the password of `default` comes from, if the operator is not to make one: a key of a Secret in this namespace,
    /// kept by you or by what fills your Secrets. One line of 1 to 512 bytes. Clients read `<name>-auth` all the same: a
    /// changed password is handed out there once every pod has read it, and the old one is valid until the annotation
    /// kvnode.dev/rotate of `<name>-auth` says finish, or for rotation.overlap; up to four are valid at once. Example: {name: cart-password, key: password}.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password_secret: Option<SecretKey>,
    /// Users beside `default`. Each has a Secret `<name>-user-<user>` in the same form, with a password that the operator
    /// makes once and changes as it does that of `<name>-auth`; who deletes the Secret gets another password within a minute. The
    /// first user needs a rolling restart; users that come, go or change later reach the pods within two minutes.
    /// Example: [{name: reporting, acl: "~order:* +@read"}].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub users: Vec<AclUser>,
    /// Passwords that change by themselves, those of all users and, without passwordSecret, that of `default`. Without it
    /// they change only when the annotation kvnode.dev/rotate of their Secret says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rotation: Option<Rotation>,
}

/// When passwords change by themselves.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Rotation {
    /// Age at which a password gets a successor, in hours, days or weeks. Longer than overlap. Example: 90d.
    #[schemars(length(min = 2, max = 8), regex(pattern = "^[1-9][0-9]*[hdw]$"))]
    pub every: String,
    /// How long the old password stays valid after the Secret has begun to hand out the new one, in hours, days or weeks:
    /// clients must have read it by then. Example: 12h. Default: 1d.
    #[serde(default = "one_day")]
    #[schemars(length(min = 2, max = 8), regex(pattern = "^[1-9][0-9]*[hdw]$"))]
    pub overlap: String,
}

fn one_day() -> String {
    "1d".to_owned()
}

impl Default for AuthSpec {
    fn default() -> Self {
        Self { enabled: true, password_secret: None, users: Vec::new(), rotation: None }
    }
}

/// A user beside `default`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AclUser {
    /// Name that clients log in with. Example: reporting.
    #[schemars(length(min = 1, max = 40), regex(pattern = "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"))]
    pub name: String,
    /// What the user may do, as Redis writes it: keys (~order:*, %R~log:*), channels (&news:*), commands and categories
    /// (+get, -flushall, +@read), further selectors in parentheses. A user begins with nothing. Passwords, on and off
    /// belong to the operator. Example: "~order:* +@read".
    #[schemars(length(min = 1, max = 2048))]
    pub acl: String,
}
