//! `spec.auth`.

use kube::KubeSchema;
use serde::{Deserialize, Serialize};

/// Whether clients need a password.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AuthSpec {
    /// The operator makes a password once, in the Secret `<name>-auth` (servicebinding.io/redis: type, host, port, username,
    /// password, uri, ca.crt), and clients need it. Its key `passwords` is what the pods accept, one in each line: to
    /// change the password, add a line, move the clients, remove the old line; the pods read it again by themselves.
    /// Default: false.
    #[serde(default)]
    pub enabled: bool,
}
