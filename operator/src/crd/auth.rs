//! `spec.auth`.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Whether clients need a password, and which users there are.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("self.enabled || !has(self.users) || self.users.size() == 0")
        .message("auth.users needs auth.enabled: without it everybody is the user default, without a password")
)]
pub struct AuthSpec {
    /// The operator makes a password once, in the Secret `<name>-auth` (servicebinding.io/redis: type, host, port, username,
    /// password, uri, ca.crt), and clients need it. Its key `passwords` is what the pods accept, one in each line; they
    /// read it again by themselves. To change the password without a failed login, set the Secret's annotation
    /// kvnode.dev/rotate to begin: a second password becomes valid, then the Secret hands it out; finish makes the first
    /// one invalid. Default: false.
    #[serde(default)]
    pub enabled: bool,
    /// Users beside `default`. Each has a Secret `<name>-user-<user>` in the same form, with a password that the operator
    /// makes once and changes as it does that of `<name>-auth`; who deletes the Secret gets another password at once. The
    /// first user needs a rolling restart; users that come, go or change later reach the pods within two minutes.
    /// Example: [{name: reporting, acl: "~order:* +@read"}].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub users: Vec<AclUser>,
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
