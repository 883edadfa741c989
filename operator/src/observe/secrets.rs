//! The Secrets of a cluster with TLS or passwords: read by name, one by one, so that the operator needs no list of all
//! Secrets. No watch tells of them either; those of a cluster at rest are read once a minute.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Secret;
use kube::Api;
use parking_lot::Mutex;

use super::children::is_anothers;
use crate::build::config_map::ACL_FILE;
use crate::build::labels;
use crate::clock;
use crate::context::Context;
use crate::crd::KvCluster;
use crate::crd::bucket::SecretKey;
use crate::crd::doors::AuthDoor;
use crate::crd::tls::{ClientTls, TlsMode};
use crate::error::{Error, asked_opt};
use crate::name::ClusterName;
use crate::pki::{self, Chain, Pair};

/// How long the Secrets of a cluster at rest are believed to be as they were.
const KEPT: Duration = Duration::from_mins(1);
/// Longest password that is taken from somebody else's Secret.
const GIVEN_BYTES_MAX: usize = 512;

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

/// `<name>-ca`.
#[derive(Clone, Debug, PartialEq)]
pub struct AuthoritySeen {
    /// What signs, and what is trusted.
    pub chain: Chain,
    /// Annotation [`labels::ROTATE`].
    pub rotate: Option<String>,
    /// Resource version.
    pub version: Option<String>,
    /// Belongs to something else than this cluster.
    pub anothers: bool,
}

/// What there is.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Secrets {
    /// The operator makes them.
    pub managed: bool,
    /// `<name>-ca`, of a Managed cluster.
    pub authority: Option<AuthoritySeen>,
    /// What the pods mount.
    pub pods: Option<PairSeen>,
    /// `<name>-auth`, with `spec.auth`.
    pub auth: Option<LoginSeen>,
    /// `<name>-user-<user>`, those of `spec.auth.users` that there are.
    pub users: BTreeMap<String, LoginSeen>,
    /// `<name>-acl`, with `spec.auth`.
    pub acl: Option<AclSeen>,
    /// The password of `spec.auth.passwordSecret`.
    pub given: Option<Given>,
    /// What is wrong with the Secret of `spec.tls.clientAuth`.
    pub clients_fault: Option<String>,
}

/// A password that somebody else keeps, or what is wrong with its Secret.
#[derive(Clone, PartialEq, Eq)]
pub struct Given(pub Result<String, String>);

impl std::fmt::Debug for Given {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Given(..)")
    }
}

/// A Secret with a password.
#[derive(Clone, PartialEq)]
pub struct LoginSeen {
    /// Key `password`.
    pub password: String,
    /// Every key but `passwords`: what clients are told.
    pub told: BTreeMap<String, String>,
    /// Key `passwords`.
    pub passwords: String,
    /// Its lines.
    pub valid: Vec<String>,
    /// Annotation [`labels::PASSWORD_SINCE`], or when the Secret was made.
    pub since: Option<Timestamp>,
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
    /// Something about them is under way.
    fn is_rotating(&self) -> bool {
        let authority = self.authority.as_ref().is_some_and(|seen| seen.rotate.is_some());
        authority || self.auth.iter().chain(self.users.values()).any(|login| login.rotate.is_some())
    }

    /// Names that something else has, as `kind/name`.
    pub(super) fn taken(&self, cluster: &ClusterName) -> Vec<String> {
        let is_taken = |seen: &Option<PairSeen>| seen.as_ref().is_some_and(|seen| seen.anothers);
        let all = [
            (labels::auth_secret(&cluster.name), self.auth.as_ref().is_some_and(|seen| seen.anothers)),
            (labels::acl_secret(&cluster.name), self.acl.as_ref().is_some_and(|seen| seen.anothers)),
            (labels::ca_secret(&cluster.name), self.authority.as_ref().is_some_and(|seen| seen.anothers)),
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
    match object.tls_mode() {
        TlsMode::Disabled => None,
        TlsMode::Managed | TlsMode::CertManager => {
            Some(labels::tls_secret(object.metadata.name.as_deref().unwrap_or_default()))
        }
        TlsMode::Secret => object.spec.tls.secret_name.clone(),
    }
}

/// Secrets of clusters at rest, so that these cost no further reads.
#[derive(Default)]
pub struct Kept(Mutex<BTreeMap<ClusterName, (Instant, Arc<Secrets>)>>);

impl Kept {
    /// They are about to be written, or the cluster is gone.
    pub fn forget(&self, cluster: &ClusterName) {
        self.0.lock().remove(cluster);
    }

    fn of(&self, cluster: &ClusterName) -> Option<Arc<Secrets>> {
        let all = self.0.lock();
        let (since, secrets) = all.get(cluster)?;
        (clock::monotonic().duration_since(*since) < KEPT).then(|| secrets.clone())
    }
}

/// Reads them; `at_rest` takes what was read less than a minute ago.
pub(super) async fn read(
    ctx: &Context,
    name: &ClusterName,
    object: &KvCluster,
    at_rest: bool,
) -> Result<Arc<Secrets>, Error> {
    if let Some(kept) = ctx.secrets.of(name).filter(|_| at_rest) {
        return Ok(kept);
    }
    let found = Arc::new(Box::pin(read_anew(ctx, name, object)).await?);
    if found.is_rotating() {
        ctx.secrets.forget(name);
    } else {
        ctx.secrets.0.lock().insert(name.clone(), (clock::monotonic(), found.clone()));
    }
    Ok(found)
}

async fn read_anew(ctx: &Context, name: &ClusterName, object: &KvCluster) -> Result<Secrets, Error> {
    let (logins, theirs) = tokio::try_join!(logins(ctx, name, object), theirs(ctx, name, object))?;
    let logins = Secrets { given: theirs.0, clients_fault: theirs.1, ..logins };
    let Some(mounted) = mounted(object) else { return Ok(logins) };
    let managed = object.spec.tls.mode == TlsMode::Managed;
    let api: Api<Secret> = Api::namespaced(ctx.client.clone(), &name.namespace);
    let get = async |secret: String| asked_opt(format!("get Secret {secret}"), api.get(&secret)).await;
    let authority = async { if managed { get(labels::ca_secret(&name.name)).await } else { Ok(None) } };
    let (authority, pods) = tokio::try_join!(authority, get(mounted))?;
    let authority = authority.map(|found| authority_of(object, &found));
    Ok(Secrets { managed, authority, pods: pods.map(|found| pair(object, &found)), ..logins })
}

/// What somebody else keeps: the password of the user default, and what is wrong with the authorities of clients.
async fn theirs(
    ctx: &Context,
    name: &ClusterName,
    object: &KvCluster,
) -> Result<(Option<Given>, Option<String>), Error> {
    let (auth, tls) = (&object.spec.auth, &object.spec.tls);
    let api: Api<Secret> = Api::namespaced(ctx.client.clone(), &name.namespace);
    let get = async |secret: &str| asked_opt(format!("get Secret {secret}"), api.get(secret)).await;
    let password = async {
        let Some(at) = auth.password_secret.as_ref().filter(|_| auth.enabled) else { return Ok(None) };
        Ok(Some(Given(given(at, get(&at.name).await?.as_ref()))))
    };
    let clients = async {
        let by_tls = object.tls_mode() != TlsMode::Disabled && tls.clients != ClientTls::Disabled;
        let Some(asked) = tls.client_auth.as_ref().filter(|_| by_tls) else { return Ok(None) };
        Ok(clients_fault(&asked.secret_name, get(&asked.secret_name).await?.as_ref()))
    };
    tokio::try_join!(password, clients)
}

/// One line; what tools put behind it is taken away.
fn given(at: &SecretKey, secret: Option<&Secret>) -> Result<String, String> {
    let SecretKey { name, key } = at;
    let Some(secret) = secret else {
        return Err(format!("spec.auth.passwordSecret: there is no Secret {name}"));
    };
    let Some(bytes) = secret.data.as_ref().and_then(|data| data.get(key)) else {
        return Err(format!("spec.auth.passwordSecret: Secret {name} has no key {key}"));
    };
    let text = std::str::from_utf8(&bytes.0).unwrap_or_default();
    let text = text.strip_suffix('\n').map_or(text, |text| text.strip_suffix('\r').unwrap_or(text));
    let is_line = text.trim() == text && !text.contains(char::is_control);
    if is_line && (1..=GIVEN_BYTES_MAX).contains(&text.len()) {
        return Ok(text.to_owned());
    }
    Err(format!(
        "spec.auth.passwordSecret: key {key} of Secret {name} must hold one line of 1 to {GIVEN_BYTES_MAX} bytes, \
         without blanks at its ends"
    ))
}

fn clients_fault(name: &str, secret: Option<&Secret>) -> Option<String> {
    let fault = match secret {
        None => format!("there is no Secret {name}"),
        Some(secret) => format!("Secret {name}: {}", pki::authorities(&text(secret, "ca.crt")).err()?),
    };
    Some(format!("spec.tls.clientAuth: {fault}"))
}

/// Passwords and the ACL file.
async fn logins(ctx: &Context, name: &ClusterName, object: &KvCluster) -> Result<Secrets, Error> {
    let auth = &object.spec.auth;
    let api: Api<Secret> = Api::namespaced(ctx.client.clone(), &name.namespace);
    let get = async |secret: String| asked_opt(format!("get Secret {secret}"), api.get(&secret)).await;
    let acl_seen = |found: &Secret| AclSeen {
        file: text(found, ACL_FILE),
        version: found.metadata.resource_version.clone(),
        anothers: is_anothers(&found.metadata, object),
    };
    if !auth.enabled {
        // The status still says that there were locks: users may be left.
        let recorded = object.status.as_ref().and_then(|status| status.doors);
        if recorded.is_none_or(|doors| doors.auth != AuthDoor::Required) {
            return Ok(Secrets::default());
        }
        let acl = get(labels::acl_secret(&name.name)).await?;
        return Ok(Secrets { acl: acl.as_ref().map(acl_seen), ..Secrets::default() });
    }
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
        acl: acl?.as_ref().map(acl_seen),
        ..Secrets::default()
    })
}

fn login(object: &KvCluster, secret: &Secret) -> LoginSeen {
    let passwords = text(secret, "passwords");
    let lines = passwords.lines().map(str::trim).filter(|line| !line.is_empty());
    let keys = secret.data.iter().flatten().map(|(key, _)| key).filter(|key| *key != "passwords");
    let annotations = secret.metadata.annotations.as_ref();
    let since = annotations.and_then(|all| all.get(labels::PASSWORD_SINCE)?.parse().ok());
    LoginSeen {
        password: text(secret, "password"),
        told: keys.map(|key| (key.clone(), text(secret, key))).collect(),
        valid: lines.map(str::to_owned).collect(),
        passwords,
        since: since.or_else(|| secret.metadata.creation_timestamp.as_ref().map(|made| made.0)),
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

fn authority_of(object: &KvCluster, secret: &Secret) -> AuthoritySeen {
    let some = |key: &str| Some(text(secret, key)).filter(|text| !text.is_empty());
    let next = some("next.crt").zip(some("next.key"));
    AuthoritySeen {
        chain: Chain {
            current: Pair { cert: text(secret, "tls.crt"), key: text(secret, "tls.key") },
            next: next.map(|(cert, key)| Pair { cert, key }),
            previous: some("previous.crt"),
        },
        rotate: secret.metadata.annotations.as_ref().and_then(|all| all.get(labels::ROTATE)).cloned(),
        version: secret.metadata.resource_version.clone(),
        anothers: is_anothers(&secret.metadata, object),
    }
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
