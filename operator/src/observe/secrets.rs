//! The Secrets of a cluster with TLS: read by name, one by one, so that the operator needs no list of all Secrets.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Secret;
use kube::Api;

use super::children::is_anothers;
use crate::build::labels;
use crate::context::Context;
use crate::crd::KvCluster;
use crate::crd::tls::TlsMode;
use crate::error::{Error, asked, asked_opt};
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
    /// `<name>-auth`, with `spec.auth`: whether it belongs to something else; `None` if there is none.
    pub auth: Option<bool>,
}

impl Secrets {
    /// Names that something else has, as `kind/name`.
    pub(super) fn taken(&self, cluster: &ClusterName) -> Vec<String> {
        let is_taken = |seen: &Option<PairSeen>| seen.as_ref().is_some_and(|seen| seen.anothers);
        let all = [
            (labels::auth_secret(&cluster.name), self.auth == Some(true)),
            (labels::ca_secret(&cluster.name), is_taken(&self.authority)),
            // That of somebody else is meant to be.
            (labels::tls_secret(&cluster.name), self.managed && is_taken(&self.pods)),
        ];
        all.into_iter().filter(|(_, taken)| *taken).map(|(name, _)| format!("Secret/{name}")).collect()
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
    let auth = auth(ctx, name, object).await?;
    let Some(mounted) = mounted(object) else { return Ok(Secrets { auth, ..Secrets::default() }) };
    let managed = object.spec.tls.mode == TlsMode::Managed;
    let api: Api<Secret> = Api::namespaced(ctx.client.clone(), &name.namespace);
    let get = async |secret: String| -> Result<Option<PairSeen>, Error> {
        let found = asked_opt(format!("get Secret {secret}"), api.get(&secret)).await?;
        Ok(found.map(|found| pair(object, &found)))
    };
    let authority = async { if managed { get(labels::ca_secret(&name.name)).await } else { Ok(None) } };
    let (authority, pods) = tokio::try_join!(authority, get(mounted))?;
    Ok(Secrets { managed, authority, pods, auth })
}

/// Its content is nobody's business here.
async fn auth(ctx: &Context, name: &ClusterName, object: &KvCluster) -> Result<Option<bool>, Error> {
    if !object.spec.auth.enabled {
        return Ok(None);
    }
    let secret = labels::auth_secret(&name.name);
    let api: Api<Secret> = Api::namespaced(ctx.client.clone(), &name.namespace);
    let found = asked(format!("get Secret {secret}"), api.get_metadata_opt(&secret)).await?;
    Ok(found.map(|found| is_anothers(&found.metadata, object)))
}

fn pair(object: &KvCluster, secret: &Secret) -> PairSeen {
    let empty = BTreeMap::new();
    let data = secret.data.as_ref().unwrap_or(&empty);
    let text = |key: &str| {
        data.get(key).map(|bytes| String::from_utf8_lossy(&bytes.0).into_owned()).unwrap_or_default()
    };
    let annotations = secret.metadata.annotations.as_ref();
    PairSeen {
        pair: Pair { cert: text("tls.crt"), key: text("tls.key") },
        ca: text("ca.crt"),
        signed_for: annotations.and_then(|all| all.get(labels::SIGNED_FOR)).cloned(),
        anothers: is_anothers(&secret.metadata, object),
    }
}
