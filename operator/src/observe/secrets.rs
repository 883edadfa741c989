//! The Secrets of a cluster with TLS or passwords: read by name, one by one, so that the operator needs no list of all
//! Secrets.

use std::collections::BTreeMap;

use futures_util::future::join_all;
use k8s_openapi::api::core::v1::Secret;
use kube::Api;

use super::children::is_anothers;
use crate::build::config_map::ACL_FILE;
use crate::build::labels;
use crate::context::Context;
use crate::crd::KvCluster;
use crate::crd::tls::TlsMode;
use crate::error::{Error, asked_opt};
use crate::name::ClusterName;
use crate::pki::Pair;

/// A Secret with a certificate.
#[derive(Clone, Debug, PartialEq)]
pub struct PairSeen {
    /// `tls.crt` and `tls.key`; empty where a key is missing.
    pub pair: Pair,
    /// `ca.crt`.
    pub ca: String,
    /// Annotation [`labels::SIGNED_FOR`].
    pub signed_for: Option<String>,
    /// Belongs to something else than this cluster.
    pub anothers: bool,
}

/// What there is.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Secrets {
    /// The operator makes them.
    pub managed: bool,
    /// `<name>-ca`, of a Managed cluster.
    pub authority: Option<PairSeen>,
    /// What the pods mount.
    pub pods: Option<PairSeen>,
    /// `<name>-auth`, with `spec.auth`.
    pub auth: Option<LoginSeen>,
    /// `<name>-user-<user>`, those of `spec.auth.users` that there are.
    pub users: BTreeMap<String, LoginSeen>,
    /// `<name>-acl`, with `spec.auth`.
    pub acl: Option<AclSeen>,
}

/// A Secret with a password.
#[derive(Clone, PartialEq)]
pub struct LoginSeen {
    /// Key `password`.
    pub password: String,
    /// Key `uri`.
    pub uri: String,
    /// Lines of the key `passwords`.
    pub valid: Vec<String>,
    /// Annotation [`labels::ROTATE`].
    pub rotate: Option<String>,
    /// Resource version.
    pub version: Option<String>,
    /// Belongs to something else than this cluster.
    pub anothers: bool,
}

impl std::fmt::Debug for LoginSeen {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("LoginSeen(..)")
    }
}

/// The Secret with the ACL file.
#[derive(Clone, PartialEq)]
pub struct AclSeen {
    /// The file.
    pub file: String,
    /// Resource version.
    pub version: Option<String>,
    /// Belongs to something else than this cluster.
    pub anothers: bool,
}

impl std::fmt::Debug for AclSeen {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("AclSeen(..)")
    }
}

impl Secrets {
    /// Names that something else has, as `kind/name`.
    pub(super) fn taken(&self, cluster: &ClusterName) -> Vec<String> {
        let is_taken = |seen: &Option<PairSeen>| seen.as_ref().is_some_and(|seen| seen.anothers);
        let all = [
            (labels::auth_secret(&cluster.name), self.auth.as_ref().is_some_and(|seen| seen.anothers)),
            (labels::acl_secret(&cluster.name), self.acl.as_ref().is_some_and(|seen| seen.anothers)),
            (labels::ca_secret(&cluster.name), is_taken(&self.authority)),
            // That of somebody else is meant to be.
            (labels::tls_secret(&cluster.name), self.managed && is_taken(&self.pods)),
        ];
        let users =
            self.users.iter().map(|(user, seen)| (labels::user_secret(&cluster.name, user), seen.anothers));
        all.into_iter()
            .chain(users)
            .filter(|(_, taken)| *taken)
            .map(|(name, _)| format!("Secret/{name}"))
            .collect()
    }
}

/// Name of the Secret that pods mount; `None` without TLS.
#[must_use]
pub fn mounted(object: &KvCluster) -> Option<String> {
    match object.spec.tls.mode {
        TlsMode::Disabled => None,
        TlsMode::Managed => Some(labels::tls_secret(object.metadata.name.as_deref().unwrap_or_default())),
        TlsMode::Secret => object.spec.tls.secret_name.clone(),
    }
}

/// Reads them.
pub(super) async fn read(ctx: &Context, name: &ClusterName, object: &KvCluster) -> Result<Secrets, Error> {
    let logins = logins(ctx, name, object).await?;
    let Some(mounted) = mounted(object) else { return Ok(logins) };
    let managed = object.spec.tls.mode == TlsMode::Managed;
    let api: Api<Secret> = Api::namespaced(ctx.client.clone(), &name.namespace);
    let get = async |secret: String| -> Result<Option<PairSeen>, Error> {
        let found = asked_opt(format!("get Secret {secret}"), api.get(&secret)).await?;
        Ok(found.map(|found| pair(object, &found)))
    };
    let authority = async { if managed { get(labels::ca_secret(&name.name)).await } else { Ok(None) } };
    let (authority, pods) = tokio::try_join!(authority, get(mounted))?;
    Ok(Secrets { managed, authority, pods, ..logins })
}

/// Passwords and the ACL file.
async fn logins(ctx: &Context, name: &ClusterName, object: &KvCluster) -> Result<Secrets, Error> {
    let auth = &object.spec.auth;
    if !auth.enabled {
        return Ok(Secrets::default());
    }
    let api: Api<Secret> = Api::namespaced(ctx.client.clone(), &name.namespace);
    let get = async |secret: String| asked_opt(format!("get Secret {secret}"), api.get(&secret)).await;
    let users = join_all(auth.users.iter().map(async |user| {
        let found = get(labels::user_secret(&name.name, &user.name)).await?;
        Ok::<_, Error>(found.map(|found| (user.name.clone(), login(object, &found))))
    }));
    let acl = get(labels::acl_secret(&name.name));
    let (default, acl, users) = tokio::join!(get(labels::auth_secret(&name.name)), acl, users);
    let users: Result<Vec<_>, Error> = users.into_iter().collect();
    Ok(Secrets {
        auth: default?.map(|found| login(object, &found)),
        users: users?.into_iter().flatten().collect(),
        acl: acl?.map(|found| AclSeen {
            file: text(&found, ACL_FILE),
            version: found.metadata.resource_version.clone(),
            anothers: is_anothers(&found.metadata, object),
        }),
        ..Secrets::default()
    })
}

fn login(object: &KvCluster, secret: &Secret) -> LoginSeen {
    let lines = text(secret, "passwords");
    let lines = lines.lines().map(str::trim).filter(|line| !line.is_empty());
    LoginSeen {
        password: text(secret, "password"),
        uri: text(secret, "uri"),
        valid: lines.map(str::to_owned).collect(),
        rotate: secret.metadata.annotations.as_ref().and_then(|all| all.get(labels::ROTATE)).cloned(),
        version: secret.metadata.resource_version.clone(),
        anothers: is_anothers(&secret.metadata, object),
    }
}

/// A key of a Secret; empty where it is missing.
fn text(secret: &Secret, key: &str) -> String {
    let bytes = secret.data.as_ref().and_then(|data| data.get(key));
    bytes.map(|bytes| String::from_utf8_lossy(&bytes.0).into_owned()).unwrap_or_default()
}

fn pair(object: &KvCluster, secret: &Secret) -> PairSeen {
    let text = |key: &str| text(secret, key);
    let annotations = secret.metadata.annotations.as_ref();
    PairSeen {
        pair: Pair { cert: text("tls.crt"), key: text("tls.key") },
        ca: text("ca.crt"),
        signed_for: annotations.and_then(|all| all.get(labels::SIGNED_FOR)).cloned(),
        anothers: is_anothers(&secret.metadata, object),
    }
}
