//! How the operator talks to the pods of a cluster with TLS, and what they show it.

use std::collections::BTreeMap;

use crate::build::labels;
use crate::clock;
use crate::context::Context;
use crate::crd::KvCluster;
use crate::crd::tls::TlsMode;
use crate::name::ClusterName;
use crate::observed::{PodSeen, TlsSeen};
use crate::pki;

use super::Secrets;

/// Tells the admin client which addresses are this cluster's, and with what to talk to them. Returns what keeps it from
/// that.
pub(super) fn prepare(
    ctx: &Context,
    name: &ClusterName,
    object: &KvCluster,
    secrets: &Secrets,
    addresses: &BTreeMap<String, String>,
) -> Option<String> {
    if object.spec.tls.mode == TlsMode::Disabled {
        ctx.trust.forget(name);
        return None;
    }
    let hosts = addresses
        .iter()
        .map(|(pod, addr)| (addr.clone(), labels::pod_host(&name.name, &name.namespace, pod)));
    match ctx.sessions.client(name, secrets, clock::wall()) {
        Ok(client) => {
            ctx.trust.replace(name, Some(&client), hosts);
            None
        }
        Err(fault) => {
            ctx.trust.replace(name, None, hosts);
            Some(fault)
        }
    }
}

/// What the pods showed in the handshakes of this pass.
pub(super) fn seen(
    ctx: &Context,
    object: &KvCluster,
    secrets: &Secrets,
    pods: &BTreeMap<String, PodSeen>,
    addresses: &BTreeMap<String, String>,
    fault: Option<String>,
) -> Option<TlsSeen> {
    if object.spec.tls.mode == TlsMode::Disabled {
        return None;
    }
    let cert = secrets.pods.as_ref().map(|seen| seen.pair.cert.as_str()).unwrap_or_default();
    let wanted = pki::fingerprint(cert);
    let running: Vec<&PodSeen> = pods.values().filter(|pod| pod.node.status().is_some()).collect();
    let shows = |pod: &&&PodSeen| {
        let shown = addresses.get(&pod.name).and_then(|addr| ctx.trust.shown(addr));
        wanted.is_some() && shown == wanted
    };
    let life = pki::life(cert);
    Some(TlsSeen {
        not_before: life.map(|(from, _)| from),
        not_after: life.map(|(_, to)| to),
        served: running.iter().filter(shows).count(),
        running: running.len(),
        pods: pods.values().filter(|pod| !pod.deleting).count(),
        fault,
    })
}
